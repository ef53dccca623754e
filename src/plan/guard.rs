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
