//! Carries out what the plans ask for: each action one task, each answered exactly once.

use std::path::PathBuf;
use std::sync::Arc;

use crate::etcd::{self, Clock, Cluster};
use crate::http::Metrics;
use crate::plan::cluster::Look;
use crate::plan::member::RoundId;
use crate::plan::reason::{Outcome, Reason};
use crate::plan::rescue::{Compaction, KeptFor};
use crate::plan::step::{Action, Answer, Me};

/// Everything an action needs besides itself.
#[derive(Clone)]
pub struct Hands {
    /// The connections.
    pub cluster: Arc<Cluster>,
    /// The clocks.
    pub clock: Clock,
    /// Who this janitor is.
    pub me: Me,
    /// Rounds to keep on record.
    pub history_limit: usize,
    /// Quota where etcd does not tell it.
    pub quota: Option<u64>,
    /// etcd's data directory, where it is mounted.
    pub data_dir: Option<PathBuf>,
    /// Told how long it was from look to send.
    pub metrics: Arc<Metrics>,
}

impl Hands {
    /// Carries one action out. Every branch has deadlines of its own; none panics.
    pub async fn carry_out(&self, action: Action) -> Answer {
        let cluster = &self.cluster;
        match action {
            Action::Figures => Answer::Figures(etcd::local_figures(cluster, self.quota).await),
            Action::Look { round } => Answer::Looked(Box::new(self.look(round).await)),
            Action::Join { round, ttl } => Answer::Joined(etcd::join(cluster, &self.clock, &self.me, round, ttl).await),
            Action::Renew { lease, ttl } => Answer::Renewed(etcd::renew(cluster, &self.clock, lease, ttl).await),
            Action::Leave { lease } => {
                etcd::leave(cluster, lease).await;
                Answer::Left
            }
            Action::MoveLeader { from, to, deadline } => {
                Answer::LeaderMoved(etcd::move_leader(cluster, from, to, deadline).await)
            }
            Action::WriteIntent { intent, turn, hold_seen } => {
                Answer::IntentWritten(etcd::write_intent(cluster, &intent, turn, hold_seen).await)
            }
            Action::Defragment { permit, timeout, remote } => {
                let observed = |gap| self.metrics.look_to_send(gap);
                Answer::Sent(etcd::defragment(cluster, &self.clock, permit, remote, timeout, observed).await)
            }
            Action::CompareHash => Answer::Compared(etcd::compare_hashes(cluster).await),
            Action::Settle(settle) => Answer::Settled(etcd::settle(cluster, &settle, self.history_limit).await),
            Action::Disarm { members } => Answer::Disarmed(etcd::disarm(cluster, &members).await),
            Action::Refresh { raise, clear_first } => {
                Answer::Refreshed(etcd::refresh(cluster, raise, clear_first).await)
            }
            Action::Prove => Answer::Proved(etcd::prove(cluster).await),
            Action::CompactForRescue => {
                let detail = "only the daemon has seen how old revisions are".to_owned();
                let outcome = Outcome::Skipped(Reason::NotNeeded);
                Answer::Compacted(Compaction {
                    outcome,
                    detail,
                    revision: None,
                    possible_at: None,
                    kept_for: KeptFor::default(),
                })
            }
        }
    }
    async fn look(&self, round: RoundId) -> Look {
        let disk = async {
            match &self.data_dir {
                Some(folder) => Some(etcd::disk(folder.clone()).await),
                None => None,
            }
        };
        let (look, disk) = tokio::join!(etcd::look(&self.cluster, &self.clock, round), disk);
        Look { disk, ..look }
    }
}
