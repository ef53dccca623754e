//! What is done and said before NOSPACE is up: a round outside the schedule, and a warning of growth.

use std::time::Duration;

use super::Daemon;
use crate::config::{Config, Retention};
use crate::plan::cluster::{AlarmKind, Status};
use crate::plan::growth;
use crate::plan::janitor::Janitor;
use crate::plan::rule::{Figures, Quota};
use crate::plan::step::Say;
use crate::plan::time::Now;
use crate::plan::urgent::{Sight, Urgent, why};

/// What is remembered of the local member for both.
pub(super) struct Prevention {
    urgent: Urgent,
    growth: growth::Watch,
    /// Whether what is on record has been read: a round of an hour ago may be in it.
    pub(super) records_read: bool,
}

impl Prevention {
    /// Of a member that nothing is known of yet.
    pub(super) fn new() -> Self {
        Prevention { urgent: Urgent::default(), growth: growth::Watch::new(Duration::ZERO), records_read: false }
    }
}

impl Daemon {
    /// The local member has told its figures.
    pub(super) fn prevent(&mut self, status: &Status, now: Now) {
        let Some(config) = self.config.clone() else { return };
        let next_round = if config.defrag.enabled { config.defrag.schedule.next_after(now.wall) } else { None };
        // As it was last told, whether by Status, by metrics or by the configuration.
        let quota = match self.view.local_member().and_then(|member| member.quota) {
            Some(0) => Quota::Disabled,
            Some(bytes) => Quota::Bytes(bytes),
            None => Quota::Unknown,
        };
        let figures = Figures { db_size: status.db_size, db_size_in_use: status.db_size_in_use, quota };

        self.prevention.growth.set_kept(kept(&config));
        self.prevention.growth.sample(figures.db_size, figures.db_size_in_use, now.mono);
        let (growth, told) = self.prevention.growth.judge(quota, next_round, now);
        if let Some(told) = told {
            if growth.as_ref().is_some_and(|growth| growth.before_next_round) {
                tracing::warn!("{}", told.text);
            } else {
                tracing::info!("{}", told.text);
            }
        }
        self.view.growth = growth;

        let Some(me) = self.view.local else { return };
        let sight = Sight {
            me,
            figures,
            mark: config.defrag.urgent_at,
            enabled: config.defrag.enabled,
            quiesced: self.view.quiesced,
            nospace: status.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Nospace),
            under_way: !self.janitor.as_ref().is_some_and(Janitor::is_idle),
            next_round,
            window: config.defrag.window,
            records: self.prevention.records_read.then_some(&self.view.history),
        };
        let Some(round) = self.prevention.urgent.due(&sight, now) else { return };
        let text = why(&figures, config.defrag.urgent_at);
        self.say(Say::info(round, text));
        self.begin_round(round, Duration::ZERO);
    }
}

/// How long history is kept on purpose. A number of revisions says nothing of time.
fn kept(config: &Config) -> Duration {
    match config.compaction.retention {
        Retention::Age(age) if config.compaction.enabled => age,
        _ => Duration::ZERO,
    }
}
