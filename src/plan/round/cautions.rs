//! What an operator should hear before the call is sent although nothing is in the way: guards that the configuration
//! lifted, and what could not be known.

use super::Round;
use crate::plan::cluster::Look;
use crate::plan::guard;
use crate::plan::release::{self, Class};

impl Round {
    /// One sentence each.
    pub(super) fn cautions(&self, look: &Look) -> Vec<String> {
        let Some(status) = self.local(look).ok().and_then(|member| member.status.as_ref().ok()) else {
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
        if look.disk.is_none() && !release::and_on(&status.version, Class::DiskFull).is_empty() {
            let defect = release::and_on(&status.version, Class::DiskFull);
            cautions.push(format!("free space is not known, defrag.data_dir is not set{defect}"));
        }
        let recorded = self.policy.recorded;
        let forecast = guard::forecast_for(look, self.me.member, status.db_size_in_use, recorded);
        if voters > 1 && forecast.duration > self.policy.lease_ttl {
            cautions.push(format!(
                "forecast {:.1} s, {}: longer than turn.lease_ttl, so the turn lives by renewals through other members",
                forecast.duration.as_secs_f64(),
                forecast.basis
            ));
        }
        cautions
    }
}
