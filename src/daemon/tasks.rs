//! Runs of the two tasks: from the firing to the log line and the counters.

use std::time::Duration;

use super::clockwork::Firing;
use super::hands::Hands;
use super::{Daemon, News};
use crate::etcd;
use crate::plan::compaction::{Compactor, Step as CompactionStep};
use crate::plan::janitor::Janitor;
use crate::plan::member::{RoundId, RoundKind};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::round::Ended;
use crate::plan::snapshot::{Decision, TaskKind};
use crate::plan::step::{Action, Answer, Event, Say, Step, Ticket};

impl Daemon {
    /// A schedule fired.
    pub(super) fn fired(&mut self, firing: Firing) {
        if self.stop_by.is_some() {
            return;
        }
        match firing.task {
            TaskKind::Compaction => self.compaction_due(),
            TaskKind::Defrag => self.round_due(RoundId { kind: RoundKind::Cron, due: firing.due }),
        }
    }

    /// A firing that nobody was there for is caught up inside its window; the same one is never begun twice.
    pub(super) fn catch_up(&mut self) {
        let Some(config) = self.config.clone() else { return };
        let now = self.clock.now().wall;
        let Some(due) = config.defrag.schedule.last_at_or_before(now) else { return };
        let missed = (now - due).to_std().is_ok_and(|late| late < config.defrag.window);
        let id = RoundId { kind: RoundKind::Cron, due };
        if missed && config.defrag.enabled && !self.firings.has_begun(id) {
            tracing::info!(round = %id, "catches up a firing inside its window");
            self.round_due(id);
        }
    }

    fn round_due(&mut self, id: RoundId) {
        let Some(config) = self.config.clone() else {
            return self.not_run(TaskKind::Defrag, Some(id), Blocked::new(Reason::ConfigInvalid, ""));
        };
        if self.firings.has_begun(id) {
            let detail = "it was begun before: the clock was set back";
            return self.not_run(TaskKind::Defrag, Some(id), Blocked::new(Reason::NotNeeded, detail));
        }
        if !config.defrag.enabled {
            return self.not_run(TaskKind::Defrag, Some(id), Blocked::new(Reason::Disabled, ""));
        }
        if let Some(blocked) = self.nobody_to_look_after() {
            // Not remembered as begun: it is caught up as soon as etcd answers, inside the window.
            tracing::warn!(task = "defrag", round = %id, reason = blocked.reason.name(), "{blocked}");
            let now = self.clock.now();
            let late = (now.wall - id.due).to_std().unwrap_or_default();
            if let Some(before) = self.firings.wait(id, now.mono + config.defrag.window.saturating_sub(late)) {
                self.came_to_nothing(before);
            }
            return;
        }
        self.firings.begin(id);
        let jitter = id.jitter(self.link.identity().map_or(0, |identity| identity.cluster), config.defrag.jitter);
        self.begin_round(id, jitter);
    }

    /// Why no member can be looked after now, if that is so.
    fn nobody_to_look_after(&self) -> Option<Blocked> {
        let problem = self.view.problem.clone();
        if self.janitor.is_none() {
            return Some(problem.unwrap_or_else(|| Blocked::new(Reason::EtcdUnavailable, "not connected yet")));
        }
        // What answers at the address is not the member that is known; what is under way finds that out by itself.
        problem.filter(|problem| problem.reason == Reason::WrongMember)
    }

    /// A firing waited for etcd until its window was over, or until the next one.
    pub(super) fn came_to_nothing(&mut self, round: RoundId) {
        let enabled = self.config.as_ref().is_some_and(|config| config.defrag.enabled);
        let blocked = if enabled {
            let unknown = || Blocked::new(Reason::WindowOver, "etcd answered too late");
            self.nobody_to_look_after().unwrap_or_else(unknown)
        } else {
            Blocked::new(Reason::Disabled, "")
        };
        self.not_run(TaskKind::Defrag, Some(round), blocked);
    }

    /// Lets the plan begin a round, whatever made it due.
    pub(super) fn begin_round(&mut self, id: RoundId, jitter: Duration) {
        tracing::info!(task = "defrag", round = %id, jitter_ms = jitter.as_millis() as u64, "the round is due");
        // A firing in the middle of a round is refused, and the round under way keeps its own beginning.
        if self.janitor.as_ref().is_some_and(Janitor::is_idle) {
            self.defrag_began = Some((id, self.clock.mono()));
        }
        self.janitor_event(Event::Due { round: id, jitter });
    }

    /// A firing that came to nothing before any plan saw it.
    fn not_run(&mut self, task: TaskKind, round: Option<RoundId>, blocked: Blocked) {
        tracing::debug!(task = task.name(), reason = blocked.reason.name(), "does not run");
        let outcome = Outcome::Skipped(blocked.reason);
        self.metrics.run_ended(task, outcome, None);
        let at = self.clock.now().wall;
        let text = format!("did not run: {blocked}");
        self.view.decided(Decision { at, task, round, text, blocked: Some(blocked) });
        let last = match task {
            TaskKind::Compaction => &mut self.view.compaction,
            TaskKind::Defrag => &mut self.view.defrag,
        };
        (last.outcome, last.at) = (Some(outcome), Some(at));
    }

    /// Lets the plan of rounds decide about an event, and carries its steps out.
    pub(super) fn janitor_event(&mut self, event: Event) {
        let now = self.clock.now();
        let Some(janitor) = &mut self.janitor else { return };
        for step in janitor.on(event, now) {
            self.take(step);
        }
    }

    pub(super) fn answered(&mut self, ticket: Ticket, answer: Answer) {
        if let Answer::Looked(look) = &answer {
            let quota = self.config.as_ref().and_then(|config| config.alarms.quota);
            self.view.looked(look, quota);
        }
        self.janitor_event(Event::Answered { ticket, answer });
    }

    fn take(&mut self, step: Step) {
        match step {
            // The one action that another plan knows more about.
            Step::Do { ticket, action: Action::CompactForRescue } => self.compact_for_rescue(ticket),
            Step::Do { ticket, action } => {
                let Some(hands) = self.hands() else { return };
                self.spawn(async move { News::Answered(ticket, hands.carry_out(action).await) });
            }
            Step::Say(say) => self.say(say),
            Step::Drain(on) => {
                self.view.draining = on;
                self.publish();
            }
            Step::TurnReached(waited) => self.metrics.turn_waited(waited),
            Step::TurnLost => {
                self.metrics.turn_lost();
                tracing::warn!(task = "defrag", "the turn was lost");
            }
            Step::Ended(ended) => self.round_ended(ended),
            Step::RescueOver => self.rescue_over(),
            Step::Adopted(record) => {
                tracing::warn!(
                    task = "defrag",
                    round = %record.round,
                    member = %record.member,
                    outcome = %record.outcome,
                    "settled an intent that was left open: {}",
                    record.detail
                );
                if Some(record.member) == self.view.local {
                    self.metrics.run_ended(TaskKind::Defrag, record.outcome, None);
                }
                self.read_history();
            }
        }
    }

    fn hands(&self) -> Option<Hands> {
        let config = self.config.as_ref()?;
        Some(Hands {
            cluster: self.link.cluster()?,
            clock: self.clock,
            me: self.janitor.as_ref().map(Janitor::me)?.clone(),
            history_limit: config.history.limit,
            quota: config.alarms.quota,
            data_dir: config.defrag.data_dir.clone(),
            metrics: std::sync::Arc::clone(&self.metrics),
        })
    }

    pub(super) fn say(&mut self, say: Say) {
        let rescue = say.round.is_some_and(|round| round.kind == RoundKind::Rescue);
        let task = if rescue { RoundKind::Rescue.name() } else { TaskKind::Defrag.name() };
        let round = say.round.map(|round| round.to_string()).unwrap_or_default();
        match &say.blocked {
            Some(blocked) => {
                tracing::warn!(task, round, reason = blocked.reason.name(), "{}", say.text);
            }
            None => tracing::info!(task, round, "{}", say.text),
        }
        let at = self.clock.now().wall;
        self.view.decided(Decision {
            at,
            task: TaskKind::Defrag,
            round: say.round,
            text: say.text,
            blocked: say.blocked,
        });
    }

    pub(super) fn round_ended(&mut self, ended: Ended) {
        let now = self.clock.now();
        let took =
            self.defrag_began.take_if(|(round, _)| *round == ended.round).map(|(_, began)| now.mono.since(began));
        let defrag_took = ended.seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.metrics.run_ended(TaskKind::Defrag, ended.outcome, defrag_took);
        if let Some(bytes) = ended.reclaimed {
            self.metrics.reclaimed(bytes);
        }
        let reason = match ended.outcome {
            Outcome::Skipped(reason) => Some(reason),
            _ => None,
        };
        tracing::info!(
            task = "defrag",
            round = %ended.round,
            outcome = ended.outcome.name(),
            reason = reason.map(Reason::name),
            defrag_seconds = ended.seconds,
            reclaimed_bytes = ended.reclaimed,
            round_seconds = took.map(|took| took.as_secs_f64()),
            "{} is over: {} {}",
            if ended.round.kind == RoundKind::Rescue { "a defrag of the rescue" } else { "the round" },
            ended.outcome,
            ended.detail
        );
        let blocked = reason.map(|reason| Blocked::new(reason, ended.detail.clone()));
        let text = format!("{} {}", ended.outcome, ended.detail).trim_end().to_owned();
        let decision = Decision { at: now.wall, task: TaskKind::Defrag, round: Some(ended.round), text, blocked };
        self.view.decided(decision);
        self.view.defrag.outcome = Some(ended.outcome);
        self.view.defrag.at = Some(now.wall);
        if matches!(ended.outcome, Outcome::Done | Outcome::Skipped(Reason::NotNeeded)) {
            self.view.defrag.success = Some(now.wall);
        }
        self.read_history();
        self.overview();
    }

    fn compaction_due(&mut self) {
        let Some(config) = self.config.clone() else { return };
        if !config.compaction.enabled {
            return self.not_run(TaskKind::Compaction, None, Blocked::new(Reason::Disabled, ""));
        }
        if self.view.quiesced {
            return self.not_run(TaskKind::Compaction, None, Blocked::new(Reason::Quiesced, ""));
        }
        if let Some(blocked) = self.nobody_to_look_after() {
            return self.not_run(TaskKind::Compaction, None, blocked);
        }
        if let Some(step) = self.compactor.as_mut().and_then(Compactor::due) {
            self.compaction_began = Some(self.clock.mono());
            self.compaction_step(step);
        }
    }

    pub(super) fn compaction_steps(&mut self, step: Option<CompactionStep>) {
        if let Some(step) = step {
            self.compaction_step(step);
        }
    }

    pub(super) fn compaction_step(&mut self, step: CompactionStep) {
        let (Some(cluster), Some(config)) = (self.link.cluster(), self.config.clone()) else { return };
        let clock = self.clock;
        match step {
            CompactionStep::Survey => self.spawn(async move {
                News::Surveyed(etcd::survey(&cluster, &clock).await.map_err(|error| error.blocked()))
            }),
            CompactionStep::Trace(revision) => self.spawn(async move {
                News::Traced(revision, etcd::trace(&cluster, revision).await.map_err(|error| error.blocked()))
            }),
            CompactionStep::Compact(revision) => {
                let physical = config.compaction.physical;
                tracing::info!(task = "compaction", revision, physical, "compacts");
                self.spawn(async move {
                    let result = etcd::compact(&cluster, revision, physical).await;
                    let told = result.map(|compacted| compacted.told(revision));
                    News::Compacted(told.map_err(|error| error.blocked()))
                });
            }
            CompactionStep::Store(window) => self.spawn(async move {
                News::Stored(etcd::store_window(&cluster, &window).await.map_err(|error| error.blocked()))
            }),
            CompactionStep::Ended { outcome, detail, revision } => self.compaction_ended(outcome, &detail, revision),
        }
    }

    fn compaction_ended(&mut self, outcome: Outcome, detail: &str, revision: Option<i64>) {
        let now = self.clock.now();
        let took = self.compaction_began.take().map(|began| now.mono.since(began));
        let took = took.filter(|_| matches!(outcome, Outcome::Done));
        self.metrics.run_ended(TaskKind::Compaction, outcome, took);
        self.view.compact_revision = revision.max(self.view.compact_revision);
        let reason = match outcome {
            Outcome::Skipped(reason) => Some(reason),
            _ => None,
        };
        let blocked = reason.map(|reason| Blocked::new(reason, detail));
        let text = format!("{outcome} {detail}").trim_end().to_owned();
        let decision = Decision { at: now.wall, task: TaskKind::Compaction, round: None, text, blocked };
        let again = self.view.decided(decision) && reason.is_some();
        // Every five minutes the same reason not to compact is no news.
        if again {
            tracing::debug!(task = "compaction", reason = reason.map(Reason::name), "{outcome} {detail}");
        } else {
            tracing::info!(
                task = "compaction",
                outcome = outcome.name(),
                reason = reason.map(Reason::name),
                revision,
                seconds = took.map(|took| took.as_secs_f64()),
                "{outcome} {detail}"
            );
        }
        if outcome == Outcome::Done {
            self.view.compacted(now);
        }
        self.view.compaction.outcome = Some(outcome);
        self.view.compaction.at = Some(now.wall);
        if matches!(outcome, Outcome::Done | Outcome::Skipped(Reason::NotNeeded)) {
            self.view.compaction.success = Some(now.wall);
        }
        self.compacted_for_rescue(outcome, detail, revision);
    }
}
