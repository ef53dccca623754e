//! What forbids a defrag of one member whatever started it: a round or a rescue.
//!
//! Each guard is a function of one look and of the configuration, and says what would lift it.

use super::cluster::{Disk, Look, Status};
use super::forecast::{Forecast, Rates, forecast, measured_by_etcd};
use super::member::MemberId;
use super::reason::{Blocked, Reason};
use super::release::{self, Class};
use super::step::Policy;

/// One and two voters: a defrag can cost the quorum.
pub fn cluster_size(look: &Look, allow_small: bool) -> Result<(), Blocked> {
    let voters = look.voter_count();
    if voters < 3 && !allow_small {
        return Err(Blocked::new(
            Reason::SmallCluster,
            format!("{voters} voter(s); set defrag.small_cluster: allow to accept that a defrag stops the cluster"),
        ));
    }
    Ok(())
}

/// etcd asks for the role root for a defrag, on every release. Seen before anybody queues or hands leadership over for it.
pub fn allowed(look: &Look) -> Result<(), Blocked> {
    look.rights.clone()
}

/// Room for the copy, where the volume of the local member can be seen.
pub fn enough_space(look: &Look, status: &Status) -> Result<(), Blocked> {
    let Some(disk) = &look.disk else { return Ok(()) };
    let disk = disk.as_ref().map_err(Clone::clone)?;
    let needed = Disk::needed(status.db_size_in_use);
    if disk.free >= needed {
        return Ok(());
    }
    let text = format!(
        "{} bytes are free where etcd keeps its data, a defrag of {} bytes in use needs {needed}{}",
        disk.free,
        status.db_size_in_use,
        release::and_on(&status.version, Class::DiskFull)
    );
    Err(Blocked::new(Reason::DiskSpace, text))
}

/// Neither etcd's liveness probe nor our own deadline would end the wait for a defrag of `member`.
pub fn short_enough(look: &Look, member: MemberId, in_use: u64, policy: &Policy) -> Result<(), Blocked> {
    let forecast = forecast_for(look, member, in_use, policy.recorded);
    let limits = [
        (
            policy.liveness_budget,
            "defrag.liveness_budget: raise it together with failureThreshold of etcd's liveness probe, or point that \
             probe at /etcd/livez",
        ),
        (Some(policy.timeout), "defrag.timeout: after it nobody would know how the defrag ended"),
    ];
    for (limit, key) in limits {
        if let Some(limit) = limit
            && forecast.duration > limit
        {
            return Err(Blocked::new(
                Reason::LivenessBudget,
                format!(
                    "forecast {:.1} s for {in_use} bytes in use, {}; at most {:.1} s are accepted ({key})",
                    forecast.duration.as_secs_f64(),
                    forecast.basis,
                    limit.as_secs_f64()
                ),
            ));
        }
    }
    Ok(())
}

/// How long a defrag of `member` will take.
pub fn forecast_for(look: &Look, member: MemberId, in_use: u64, recorded: Rates) -> Forecast {
    forecast(in_use, recorded, measured_by_etcd(member, look))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::examples::{at, look, policy};

    const ME: MemberId = MemberId(1);

    /// Of 1 GiB in use at `rate` seconds per GiB on record, with 25 s accepted by the budget and 600 s by the timeout.
    fn refused(rate: f64, change: impl FnOnce(&mut Policy)) -> Option<String> {
        let mut policy = Policy { recorded: Rates { own: Some(rate), others: None }, ..policy() };
        change(&mut policy);
        let blocked = short_enough(&look(at(0), "3.5.30", 3), ME, 1 << 30, &policy).err()?;
        assert_eq!(blocked.reason, Reason::LivenessBudget);
        Some(blocked.detail)
    }

    #[test]
    fn a_forecast_above_the_budget_is_refused_and_one_at_it_is_not() {
        assert_eq!(refused(25.0, |_| ()), None);
        let text = refused(25.1, |_| ()).unwrap();
        assert!(text.contains("forecast 25.1 s") && text.contains("at most 25.0 s"), "{text}");
        assert!(text.contains("defrag.liveness_budget"), "{text}");
    }

    #[test]
    fn a_forecast_above_the_timeout_is_refused_even_without_a_budget() {
        let unchecked = |policy: &mut Policy| policy.liveness_budget = None;
        assert_eq!(refused(600.0, unchecked), None);
        let text = refused(600.5, unchecked).unwrap();
        assert!(text.contains("forecast 600.5 s") && text.contains("at most 600.0 s"), "{text}");
        assert!(text.contains("defrag.timeout"), "{text}");
    }

    #[test]
    fn a_copy_needs_a_tenth_and_a_segment_more_than_what_is_in_use() {
        let on = |version: &str, free| {
            let look = Look { disk: Some(Ok(Disk { free })), ..look(at(0), version, 3) };
            enough_space(&look, look.members[0].status.as_ref().unwrap()).map_err(|blocked| blocked.detail)
        };
        let needed = (1 << 30) + (1 << 30) / 10 + (64 << 20);
        assert_eq!(on("3.5.30", needed), Ok(()));
        let text = on("3.5.30", needed - 1).unwrap_err();
        assert!(text.contains(&format!("needs {needed}")) && !text.contains("18810"), "{text}");
        assert!(on("3.5.16", needed - 1).unwrap_err().contains("etcd-io/etcd#18810"));
    }

    #[test]
    fn three_voters_are_no_small_cluster() {
        let of = |voters, allowed| cluster_size(&look(at(0), "3.5.30", voters), allowed).is_ok();
        assert_eq!([of(1, false), of(2, false), of(3, false)], [false, false, true]);
        assert!(of(1, true) && of(2, true));
    }
}
