//! What an operator should hear before a call is sent although nothing is in the way: guards that the configuration
//! lifted, and what could not be known.

use super::cluster::Look;
use super::guard;
use super::member::MemberId;
use super::release::{self, Class};
use super::step::Policy;

/// About the guards of any defrag of `member`, one sentence each.
pub fn of_guards(look: &Look, member: MemberId, policy: &Policy) -> Vec<String> {
    let Some(status) = look.member(member).and_then(|member| member.status.as_ref().ok()) else {
        return Vec::new();
    };
    let mut cautions = Vec::new();
    let refused = release::defects(&status.version).find(|defect| defect.class == Class::Refuse);
    if let Some(defect) = refused {
        cautions.push(format!(
            "defrag.unsafe_versions: allow lifts the guard against etcd {}: {} ({})",
            status.version, defect.what, defect.upstream
        ));
    }
    let voters = look.voter_count();
    if voters < 3 {
        cautions.push(format!(
            "defrag.small_cluster: allow lifts the guard: with {voters} voter(s) the cluster takes no write during \
             this defrag"
        ));
    }
    if policy.liveness_budget.is_none() {
        let forecast = guard::forecast_for(look, member, status.db_size_in_use, policy.recorded);
        cautions.push(format!(
            "defrag.liveness_budget: 0s lifts the guard: a liveness probe of etcd that gives up within {:.1} s (forecast \
             {}) kills it in mid-defrag",
            forecast.duration.as_secs_f64(),
            forecast.basis
        ));
    }
    if look.disk.is_none() && !release::and_on(&status.version, Class::DiskFull).is_empty() {
        let defect = release::and_on(&status.version, Class::DiskFull);
        cautions.push(format!("free space is not known, defrag.data_dir is not set{defect}"));
    }
    cautions
}

/// About the turn that a defrag of `member` is sent under, one sentence each. With one voter there is none.
pub fn of_turn(look: &Look, member: MemberId, policy: &Policy) -> Vec<String> {
    let Some(status) = look.member(member).and_then(|member| member.status.as_ref().ok()) else {
        return Vec::new();
    };
    if look.voter_count() < 2 {
        return Vec::new();
    }
    let mut cautions = Vec::new();
    let forecast = guard::forecast_for(look, member, status.db_size_in_use, policy.recorded);
    if forecast.duration > policy.lease_ttl {
        cautions.push(format!(
            "forecast {:.1} s, {}: longer than turn.lease_ttl, so the turn lives by renewals through other members",
            forecast.duration.as_secs_f64(),
            forecast.basis
        ));
    }
    let warned = release::defects(&status.version).filter(|defect| defect.class == Class::Warn);
    cautions.extend(warned.map(|defect| format!("etcd {}: {} ({})", status.version, defect.what, defect.upstream)));
    cautions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::cluster::Disk;
    use crate::plan::examples;
    use crate::plan::forecast::Rates;

    const ME: MemberId = MemberId(1);

    fn look(version: &str, voters: u64) -> Look {
        examples::look(examples::at(0), version, voters)
    }

    /// A rate of `rate` seconds per GiB is on record.
    fn policy(rate: f64) -> Policy {
        Policy { recorded: Rates { own: Some(rate), others: None }, ..examples::policy() }
    }

    #[test]
    fn a_sound_release_with_every_guard_in_force_needs_no_caution() {
        let (look, policy) = (look("3.5.30", 3), policy(12.0));
        assert!(of_guards(&look, ME, &policy).is_empty() && of_turn(&look, ME, &policy).is_empty());
    }

    #[test]
    fn each_lifted_guard_is_said_with_its_key_and_its_numbers() {
        let said = |look: &Look, policy: &Policy| of_guards(look, ME, policy).join("\n");
        assert!(
            said(&look("3.5.5", 3), &policy(12.0))
                .contains("unsafe_versions: allow lifts the guard against etcd 3.5.5")
        );
        assert!(said(&look("3.5.30", 2), &policy(12.0)).contains("with 2 voter(s)"));
        let unchecked = Policy { liveness_budget: None, ..policy(40.0) };
        let text = said(&look("3.5.30", 3), &unchecked);
        assert!(text.contains("liveness_budget: 0s lifts the guard") && text.contains("40.0 s"), "{text}");
    }

    #[test]
    fn unknown_free_space_is_said_where_a_full_disk_costs_the_member() {
        let said = |version, disk| {
            let look = Look { disk, ..look(version, 3) };
            of_guards(&look, ME, &policy(12.0)).iter().any(|caution| caution.contains("etcd-io/etcd#18810"))
        };
        assert!(said("3.5.16", None) && said("3.4.38", None));
        assert!(!said("3.5.17", None));
        assert!(!said("3.5.16", Some(Ok(Disk { free: 1 << 40 }))));
    }

    #[test]
    fn a_forecast_above_the_ttl_is_said_where_there_is_a_turn() {
        let said = |voters, rate| of_turn(&look("3.5.30", voters), ME, &policy(rate));
        assert!(said(3, 60.0).is_empty());
        let text = said(3, 60.5).join("\n");
        assert!(text.contains("60.5 s") && text.contains("turn.lease_ttl"), "{text}");
        assert!(said(1, 60.5).is_empty());
    }

    #[test]
    fn releases_that_renew_leases_that_are_gone_are_warned_of_where_there_is_a_turn() {
        let said = |version, voters| of_turn(&look(version, voters), ME, &policy(12.0)).join("\n");
        for version in ["3.4.23", "3.5.22", "3.6.4"] {
            assert!(said(version, 3).contains("etcd-io/etcd#20590"), "{version}");
            assert!(said(version, 1).is_empty(), "{version}");
        }
        assert!(said("3.5.23", 3).is_empty());
    }
}
