//! What etcd itself shows when no daemon answers: one look, put into the same [`Snapshot`]. Reads only.

use crate::config::Config;
use crate::etcd::{self, Clock, Error};
use crate::plan::member::{MemberId, RoundId, RoundKind};
use crate::plan::snapshot::{ConfigState, Janitor as Process, Snapshot};

use super::once::clients;
use super::view::{Doing, View};

/// Looks at the cluster once. What cannot be read is absent, and [`Snapshot::problem`] says why.
pub async fn overview(config: &Config, source: &str) -> Snapshot {
    let clock = Clock::new();
    let process = Process {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: String::new(),
        started_at: clock.now().wall,
    };
    let state = ConfigState {
        source: source.to_owned(),
        valid: true,
        last_reload_successful: true,
        problems: Vec::new(),
        dry_run: config.dry_run,
    };
    let (mut view, snapshots) = View::new(process, state, clock.now().wall);
    view.etcd_up = Some(true);
    if let Err(error) = read(config, &clock, &mut view).await {
        view.etcd_up = Some(false);
        view.problem = Some(error.blocked());
    }
    let doing = Doing { compaction: None, others_compact: None, round: None, turn_held: false, rescue: None };
    view.publish(Some(config), &doing, clock.now());
    let mut snapshot = snapshots.borrow().as_ref().clone();
    // Nobody is there to whom a schedule could fire.
    snapshot.tasks.iter_mut().for_each(|task| task.next_run = None);
    snapshot
}

async fn read(config: &Config, clock: &Clock, view: &mut View) -> Result<(), Error> {
    let cluster = clients(config)?;
    view.certificates = cluster.certificates();
    let identity = cluster.identify().await?;
    view.cluster_id = Some(MemberId(identity.cluster));
    view.local = Some(identity.member);
    let no_round = RoundId { kind: RoundKind::Manual, due: chrono::DateTime::UNIX_EPOCH };
    let look = etcd::look(&cluster, clock, no_round).await;
    if let Some(Ok(status)) = look.member(identity.member).map(|member| &member.status) {
        view.revision = Some(status.revision);
    }
    view.looked(&look, config.alarms.quota);
    view.remember(etcd::history(&cluster, config.history.limit).await?, clock.now().wall);
    Ok(())
}
