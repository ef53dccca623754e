//! The rescue as the loop carries it out: its compaction, and what is shown of it.

use super::Daemon;
use crate::plan::compaction::Compactor;
use crate::plan::reason::Outcome;
use crate::plan::rescue::{Compaction, State};
use crate::plan::snapshot::Rescue;
use crate::plan::step::{Answer, Event, Ticket};

/// What is shown of a rescue.
pub(super) fn shown(state: State<'_>) -> Rescue {
    Rescue { round: state.id, phase: state.phase.into_owned(), waiting_for: state.blocked.cloned() }
}

impl Daemon {
    /// A rescue asks for a compaction, and is answered when one has ended: the plan of compactions knows how old revisions
    /// are.
    pub(super) fn compact_for_rescue(&mut self, ticket: Ticket) {
        self.rescue_compaction = Some(ticket);
        // One that is carried out right now is followed by ours.
        let step = self.compactor.as_mut().and_then(Compactor::due_for_rescue);
        if step.is_some() {
            self.compaction_began = Some(self.clock.mono());
        }
        self.compaction_steps(step);
    }

    /// A compaction ended.
    pub(super) fn compacted_for_rescue(&mut self, outcome: Outcome, detail: &str, revision: Option<i64>) {
        let Some(ticket) = self.rescue_compaction.take() else { return };
        let now = self.clock.now();
        let possible_at = self.compactor.as_ref().and_then(|compactor| compactor.rescue_possible_at(now));
        let kept_for = self.compactor.as_ref().map(Compactor::rescue_keeps_for).unwrap_or_default();
        let compaction = Compaction { outcome, detail: detail.to_owned(), revision, possible_at, kept_for };
        self.janitor_event(Event::Answered { ticket, answer: Answer::Compacted(compaction) });
    }

    /// The alarm is gone, and with it what was shown of it.
    pub(super) fn rescue_over(&mut self) {
        self.rescue_compaction = None;
        self.read_history();
        self.overview();
    }
}
