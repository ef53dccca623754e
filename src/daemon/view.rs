//! What there is to say, kept up to date and published as one [`Snapshot`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::config::Config;
use crate::etcd::LocalStatus;
use crate::plan::cluster::{Look, Place, QuotaBytes, Status, Stored};
use crate::plan::forecast::{Rates, forecast, measured_by_etcd, recorded};
use crate::plan::member::{MemberId, RoundId};
use crate::plan::reason::{Blocked, Outcome, Reason};
use crate::plan::record::{Hold, Intent, RoundRecord, Unreadable, clipped};
use crate::plan::rule::{Figures, Quota};
use crate::plan::schedule::Schedule;
use crate::plan::sizes::Sizes;
use crate::plan::snapshot::Janitor as Process;
use crate::plan::snapshot::{
    Alarm, Certificate, ConfigState, Decision, Growth, Member, OthersCompact, Rescue, Role, RuleState, Snapshot, Task,
    TaskKind,
};
use crate::plan::time::Now;

/// Decisions of each task that are remembered: there are many more compactions than rounds.
const DECISIONS: usize = 25;
/// Version of the document's shape.
pub const API_VERSION: u32 = 1;

/// What one task last did.
#[derive(Debug, Clone, Default)]
pub struct Last {
    /// How its newest run ended.
    pub outcome: Option<Outcome>,
    /// When.
    pub at: Option<DateTime<Utc>>,
    /// When one last ended well: done, or found not to be needed.
    pub success: Option<DateTime<Utc>>,
}

/// Everything that is shown, except what the plans know themselves.
pub struct View {
    publish: watch::Sender<Arc<Snapshot>>,
    process: Process,
    /// The configuration and how reading it went.
    pub config: ConfigState,
    /// Whether the local member answered last.
    pub etcd_up: Option<bool>,
    /// Why nothing at all can be done.
    pub problem: Option<Blocked>,
    missing_right: Option<String>,
    /// The cluster's id.
    pub cluster_id: Option<MemberId>,
    /// The local member.
    pub local: Option<MemberId>,
    looked: Option<Now>,
    members: BTreeMap<MemberId, Member>,
    /// Why members' metrics could not be read in the newest look. Kept apart from what is wrong with the members: the local
    /// one is asked every few seconds, and its answer says nothing of its metrics.
    unscraped: BTreeMap<MemberId, String>,
    alarms: Vec<Alarm>,
    queue: Vec<String>,
    intent: Option<Result<Intent, Unreadable>>,
    hold: Option<Result<Hold, Unreadable>>,
    hold_read: Option<Now>,
    /// The highest revision known to be compacted.
    pub compact_revision: Option<i64>,
    /// The local member's newest revision.
    pub revision: Option<i64>,
    /// Of compactions.
    pub compaction: Last,
    /// Of defrags.
    pub defrag: Last,
    /// Recorded rounds, newest first.
    pub history: Vec<RoundRecord>,
    sizes: Sizes,
    /// When the certificates end that etcd is talked to with.
    pub certificates: Vec<Certificate>,
    /// When those end that our own port shows.
    pub listener: Vec<Certificate>,
    /// What is wrong with the newest files of our own port.
    pub listener_problem: Option<String>,
    decisions: VecDeque<Decision>,
    /// Nothing new is started.
    pub quiesced: bool,
    /// Clients are turned away.
    pub draining: bool,
    /// What the records tell of how fast defrags go.
    pub recorded: Rates,
    /// What the members' own histograms tell of it.
    by_etcd: Rates,
    /// When growth reaches the local member's quota.
    pub growth: Option<Growth>,
}

/// What the plans say of themselves.
pub struct Doing<'a> {
    /// Of the compaction.
    pub compaction: Option<&'static str>,
    /// Who else compacts, where compaction is watched.
    pub others_compact: Option<OthersCompact>,
    /// Of the round: its name, what it does, what it waits for.
    pub round: Option<(RoundId, &'static str, Option<&'a Blocked>)>,
    /// Whether it has the turn.
    pub turn_held: bool,
    /// Of the rescue.
    pub rescue: Option<Rescue>,
}

impl View {
    /// A view of a process that knows nothing yet, and where its snapshots appear.
    pub fn new(process: Process, config: ConfigState, at: DateTime<Utc>) -> (View, watch::Receiver<Arc<Snapshot>>) {
        let mut view = View {
            publish: watch::Sender::new(Arc::new(empty(&process, &config, at))),
            process,
            config,
            etcd_up: None,
            problem: None,
            missing_right: None,
            cluster_id: None,
            local: None,
            looked: None,
            members: BTreeMap::new(),
            unscraped: BTreeMap::new(),
            alarms: Vec::new(),
            queue: Vec::new(),
            intent: None,
            hold: None,
            hold_read: None,
            compact_revision: None,
            revision: None,
            compaction: Last::default(),
            defrag: Last::default(),
            history: Vec::new(),
            sizes: Sizes::default(),
            certificates: Vec::new(),
            listener: Vec::new(),
            listener_problem: None,
            decisions: VecDeque::new(),
            quiesced: false,
            draining: false,
            recorded: Rates::default(),
            by_etcd: Rates::default(),
            growth: None,
        };
        view.decisions.reserve(DECISIONS * TaskKind::ALL.len());
        let receiver = view.publish.subscribe();
        (view, receiver)
    }

    /// Everything that is known of one cluster is forgotten: another one is asked now.
    pub fn forget_cluster(&mut self) {
        (self.looked, self.missing_right) = (None, None);
        self.members.clear();
        self.unscraped.clear();
        self.alarms.clear();
        self.queue.clear();
        (self.cluster_id, self.local, self.intent) = (None, None, None);
        (self.hold, self.hold_read) = (None, None);
        (self.compact_revision, self.revision, self.etcd_up) = (None, None, None);
        self.history.clear();
        self.sizes = Sizes::default();
        (self.recorded, self.by_etcd) = (Rates::default(), Rates::default());
        self.growth = None;
    }

    /// Remembers a decision. One that says the same as the task's newest takes its place; whether it did.
    pub fn decided(&mut self, decision: Decision) -> bool {
        let of = |one: &Decision| one.task == decision.task;
        let newest = self.decisions.iter().rposition(of);
        let full = self.decisions.iter().filter(|one| of(one)).count() >= DECISIONS;
        let oldest = self.decisions.iter().position(of).filter(|_| full);
        let again = newest.filter(|at| decision.repeats(&self.decisions[*at]));
        if let Some(at) = again.or(oldest) {
            self.decisions.remove(at);
        }
        self.decisions.push_back(decision);
        again.is_some()
    }

    /// Takes over what a look showed.
    pub fn looked(&mut self, look: &Look, configured_quota: Option<u64>) {
        self.looked = Some(look.begun);
        if let Some(local) = self.local {
            self.by_etcd = measured_by_etcd(local, look);
        }
        let known = std::mem::take(&mut self.members);
        for one in &look.members {
            let mut member = known.get(&one.id).cloned().unwrap_or_else(|| unseen(one.id, &one.name));
            member.name.clone_from(&one.name);
            member.local = self.local == Some(one.id);
            member.defrag_open = one.scrape.as_ref().ok().map(|scrape| scrape.defrags_open > 0);
            match &one.status {
                Ok(status) => fill(&mut member, status, look.begun.wall),
                Err(blocked) => {
                    // What it was before is not known to be so still.
                    member.role = if one.learner { Role::Learner } else { Role::Unknown };
                    // In its defrag a member answers its metrics and nothing else, and is not down.
                    member.problem = (member.defrag_open != Some(true)).then(|| blocked.to_string());
                }
            }
            if let Some(quota) = look.quota(one.id, configured_quota) {
                member.quota = Some(shown(quota));
            }
            self.members.insert(one.id, member);
        }
        let unscraped = look.members.iter().filter_map(|one| Some((one.id, one.scrape.as_ref().err()?.to_string())));
        self.unscraped = unscraped.collect();
        let scraped = look.members.iter().filter_map(|one| one.scrape.as_ref().ok()?.compact_revision).max();
        self.compact_revision = self.compact_revision.max(scraped);
        self.alarms = look
            .alarms()
            .into_iter()
            .map(|alarm| Alarm { alarm: alarm.kind.name().to_owned(), member: alarm.member })
            .collect();
        self.allowed(look);
        if let Ok(records) = &look.records {
            self.intended(records.intent.as_ref());
            self.held(records.hold.as_ref(), look.begun);
            let name = |place: &Place| match &place.value {
                Ok(turn) => clipped(turn.holder.clone()),
                Err(_) => format!("lease {:016x}", place.lease),
            };
            self.queue = records.turns.iter().map(name).collect();
            for member in self.members.values_mut() {
                let its = |place: &Place| place.value.as_ref().is_ok_and(|turn| turn.member == member.id);
                member.place = records.turns.iter().position(its);
            }
        }
    }

    fn allowed(&mut self, look: &Look) {
        // What a member says that does not answer, is nothing.
        if self.local.and_then(|local| look.member(local)).is_none_or(|member| member.status.is_err()) {
            return;
        }
        let refused = |blocked: &&Blocked| blocked.reason == Reason::Auth;
        let missing = look.records.as_ref().err().filter(refused).or(look.rights.as_ref().err());
        let missing = missing.map(|blocked| blocked.detail.clone());
        let before = std::mem::replace(&mut self.missing_right, missing);
        match (before.is_some(), &self.missing_right) {
            (false, Some(why)) => tracing::warn!(%why, "etcd does not let our user do all that it is for"),
            (true, None) => tracing::info!("our user has every right that it needs"),
            _ => {}
        }
    }

    fn intended(&mut self, intent: Option<&Stored<Intent>>) {
        let before = std::mem::replace(&mut self.intent, intent.map(|stored| stored.value.clone()));
        if before == self.intent {
            return;
        }
        // A readable one is told of by the plan.
        match (before, &self.intent) {
            (_, Some(Err(unreadable))) => tracing::warn!(%unreadable, "no defrag starts: the intent cannot be read"),
            (Some(Err(_)), None) => tracing::info!("the intent that could not be read is gone"),
            _ => {}
        }
    }

    /// Takes over the hold as a reading that began at `begun` found it. A reading that began earlier than one taken over
    /// already says nothing new, however late it comes.
    pub fn held(&mut self, hold: Option<&Stored<Hold>>, begun: Now) {
        if self.hold_read.is_some_and(|before| before.mono > begun.mono) {
            return;
        }
        self.hold_read = Some(begun);
        let before = std::mem::replace(&mut self.hold, hold.map(|stored| stored.value.clone()));
        if before == self.hold {
            return;
        }
        match &self.hold {
            Some(Ok(hold)) if hold.is_over(begun.wall) => tracing::info!("was {}", hold.told()),
            Some(Ok(hold)) => tracing::info!("{}", hold.told()),
            Some(Err(unreadable)) => tracing::warn!(%unreadable, "held by a record that cannot be read"),
            None => tracing::info!("nothing is held any more"),
        }
    }

    /// Takes over what the local member says of itself.
    pub fn polled(&mut self, local: &LocalStatus, name: &str, now: Now) {
        self.sizes.sample(local.status.db_size, local.status.db_size_in_use, now);
        let member = self.members.entry(local.member).or_insert_with(|| unseen(local.member, name));
        member.local = true;
        // What answers is in no defrag.
        member.defrag_open = member.defrag_open.map(|_| false);
        fill(member, &local.status, now.wall);
        // Who else was seen to lead, leads no more.
        for member in self.members.values_mut().filter(|member| matches!(member.role, Role::Leader | Role::Follower)) {
            member.role = if local.status.leader == Some(member.id) { Role::Leader } else { Role::Follower };
        }
        self.revision = Some(local.status.revision);
        self.alarms = local
            .status
            .alarms
            .iter()
            .map(|alarm| Alarm { alarm: alarm.kind.name().to_owned(), member: alarm.member })
            .collect();
    }

    /// Takes over what is on record, newest first, also from earlier instances.
    pub fn remember(&mut self, records: Vec<RoundRecord>, now: DateTime<Utc>) {
        // One that ends in years to come would be the newest success till then, and keep every alert silent.
        let ours =
            |record: &&RoundRecord| Some(record.member) == self.local && record.ended_at - now <= TimeDelta::minutes(5);
        if let Some(newest) = records.iter().find(ours)
            && self.defrag.at.is_none_or(|at| at < newest.ended_at)
        {
            self.defrag.outcome = Some(newest.outcome);
            self.defrag.at = Some(newest.ended_at);
        }
        let well =
            |record: &&RoundRecord| matches!(record.outcome, Outcome::Done | Outcome::Skipped(Reason::NotNeeded));
        let success = records.iter().filter(ours).find(well).map(|record| record.ended_at);
        self.defrag.success = self.defrag.success.max(success);
        if let Some(local) = self.local {
            self.recorded = recorded(local, &records);
        }
        self.history = records;
    }

    /// Since when the newest look at all members is; none: there was none.
    pub fn looked_at(&self) -> Option<Now> {
        self.looked
    }

    /// A compaction of ours was carried out.
    pub fn compacted(&mut self, now: Now) {
        self.sizes.compacted(now);
    }

    /// The local member's newest figures.
    pub fn local_member(&self) -> Option<&Member> {
        self.members.get(&self.local?)
    }

    /// Publishes what is known now.
    pub fn publish(&self, config: Option<&Config>, doing: &Doing<'_>, now: Now) {
        let in_use = self.local_member().and_then(|member| member.db_size_in_use);
        let seconds = |in_use| forecast(in_use, self.recorded, self.by_etcd).duration.as_secs_f64();
        let snapshot = Snapshot {
            api_version: API_VERSION,
            at: now.wall,
            janitor: self.process.clone(),
            config: self.config_state(),
            etcd_up: self.etcd_up,
            problem: self.problem.clone(),
            missing_right: self.missing_right.clone(),
            cluster_id: self.cluster_id,
            local: self.local,
            looked_at: self.looked.map(|looked| looked.wall),
            members: self.members.values().map(|member| self.judged(member, config)).collect(),
            alarms: self.alarms.clone(),
            tasks: config.map(|config| self.tasks(config, doing, now.wall)).unwrap_or_default(),
            compact_revision: self.compact_revision,
            revision: self.revision,
            turn_held: doing.turn_held,
            queue: self.queue.clone(),
            intent: self.intent.clone().and_then(Result::ok),
            intent_unreadable: self.intent.as_ref().and_then(|intent| intent.as_ref().err()).map(ToString::to_string),
            rescue: doing.rescue.clone(),
            hold: self.hold.clone().and_then(Result::ok).filter(|hold| !hold.is_over(now.wall)),
            hold_unreadable: self.hold.as_ref().and_then(|hold| hold.as_ref().err()).map(ToString::to_string),
            hold_read_at: self.hold_read.map(|read| read.wall),
            quiesced: self.quiesced,
            draining: self.draining,
            forecast_seconds: in_use.map(seconds),
            rule: config.zip(self.local_member().and_then(figures)).map(|(config, figures)| told(config, &figures)),
            growth: self.growth.clone(),
            certificates: self.certificates.iter().chain(&self.listener).cloned().collect(),
            decisions: self.decisions.iter().cloned().collect(),
            history: self.history.clone(),
            sizes: self.sizes.samples(),
            compactions: self.sizes.compactions(),
            others_compact: doing.others_compact,
        };
        self.publish.send_replace(Arc::new(snapshot));
    }

    /// With what the rule in force says of it. The other janitors' rules are not known here; they are meant to be the same.
    fn judged(&self, member: &Member, config: Option<&Config>) -> Member {
        let pays = config.zip(figures(member)).and_then(|(config, figures)| config.defrag.rule.evaluate(&figures).ok());
        let unscraped = || self.unscraped.get(&member.id).cloned();
        Member { pays, problem: member.problem.clone().or_else(unscraped), ..member.clone() }
    }

    /// The configuration, and what is wrong with the files of our own port.
    fn config_state(&self) -> ConfigState {
        let mut state = self.config.clone();
        state.problems.extend(self.listener_problem.clone());
        state
    }

    fn tasks(&self, config: &Config, doing: &Doing<'_>, now: DateTime<Utc>) -> Vec<Task> {
        let task = |kind: TaskKind, enabled: bool, schedule: &Schedule, last: &Last| Task {
            task: kind,
            enabled,
            schedule: schedule.text().to_owned(),
            time_zone: schedule.zone().name().to_owned(),
            next_run: if enabled { schedule.next_after(now) } else { None },
            interval_seconds: schedule.interval(now).map(|interval| interval.as_secs_f64()),
            in_progress: false,
            phase: "idle".to_owned(),
            round: None,
            waiting_for: (!enabled).then(|| Blocked::new(Reason::Disabled, "")),
            last_outcome: last.outcome,
            last_run: last.at,
            last_success: last.success,
        };
        let mut compaction =
            task(TaskKind::Compaction, config.compaction.enabled, &config.compaction.schedule, &self.compaction);
        if let Some(phase) = doing.compaction {
            compaction.in_progress = true;
            phase.clone_into(&mut compaction.phase);
        }
        let mut defrag = task(TaskKind::Defrag, config.defrag.enabled, &config.defrag.schedule, &self.defrag);
        if let Some((round, phase, blocked)) = doing.round {
            defrag.in_progress = true;
            defrag.round = Some(round);
            phase.clone_into(&mut defrag.phase);
            defrag.waiting_for = blocked.cloned();
        }
        vec![compaction, defrag]
    }
}

/// A member's figures as a rule is given them; none: they are not known.
fn figures(member: &Member) -> Option<Figures> {
    let quota = match member.quota {
        Some(0) => Quota::Disabled,
        Some(bytes) => Quota::Bytes(bytes),
        None => Quota::Unknown,
    };
    Some(Figures { db_size: member.db_size?, db_size_in_use: member.db_size_in_use?, quota })
}

fn told(config: &Config, figures: &Figures) -> RuleState {
    let rule = &config.defrag.rule;
    RuleState {
        text: rule.text().to_owned(),
        told: rule.explain(figures),
        holds: rule.evaluate(figures).ok(),
        conditions: rule.conditions(figures),
    }
}

fn unseen(id: MemberId, name: &str) -> Member {
    Member {
        id,
        name: name.to_owned(),
        local: false,
        role: Role::Unknown,
        seen_at: None,
        version: None,
        db_size: None,
        db_size_in_use: None,
        quota: None,
        pays: None,
        defrag_open: None,
        place: None,
        problem: None,
    }
}

fn fill(member: &mut Member, status: &Status, at: DateTime<Utc>) {
    member.seen_at = Some(at);
    member.version = Some(status.version.clone());
    member.db_size = Some(status.db_size);
    member.db_size_in_use = Some(status.db_size_in_use);
    if let Some(quota) = status.quota {
        member.quota = Some(shown(quota));
    }
    member.role = match status.leader {
        _ if status.learner => Role::Learner,
        Some(leader) if leader == member.id => Role::Leader,
        _ => Role::Follower,
    };
    member.problem = None;
}

const fn shown(quota: QuotaBytes) -> u64 {
    match quota {
        QuotaBytes::Bytes(bytes) => bytes,
        QuotaBytes::Disabled => 0,
    }
}

fn empty(process: &Process, config: &ConfigState, at: DateTime<Utc>) -> Snapshot {
    Snapshot {
        api_version: API_VERSION,
        at,
        janitor: process.clone(),
        config: config.clone(),
        etcd_up: None,
        problem: None,
        missing_right: None,
        cluster_id: None,
        local: None,
        looked_at: None,
        members: Vec::new(),
        alarms: Vec::new(),
        tasks: Vec::new(),
        compact_revision: None,
        revision: None,
        turn_held: false,
        queue: Vec::new(),
        intent: None,
        rescue: None,
        intent_unreadable: None,
        hold: None,
        hold_unreadable: None,
        hold_read_at: None,
        quiesced: false,
        draining: false,
        forecast_seconds: None,
        rule: None,
        growth: None,
        certificates: Vec::new(),
        decisions: Vec::new(),
        history: Vec::new(),
        sizes: Vec::new(),
        compactions: Vec::new(),
        others_compact: None,
    }
}

#[cfg(test)]
mod tests;
