//! A look as the executor takes it: member by member, each at an instant of its own, never a snapshot of the cluster.

use std::collections::BTreeSet;

use etcd_janitor::plan::cluster::{
    Alarm, AlarmKind, Disk, Listing, Look, MemberLook, Place, QuotaBytes, Records, Scrape, Status, Stored,
};
use etcd_janitor::plan::member::{MemberId, RoundId};
use etcd_janitor::plan::reason::{Blocked, Outcome, Reason};
use etcd_janitor::plan::step::{Answer, Ticket};
use etcd_janitor::plan::time::Now;

use super::judge::{Ills, LookInfo, disagree};
use super::model::{MS, Member, SEC, Us};
use super::setup::{Forbidden, Mutant, QUOTA};
use super::world::{Ev, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Status(usize),
    Scrape(usize),
    Records,
}

/// A look under way.
pub struct PendingLook {
    janitor: usize,
    epoch: u32,
    ticket: Ticket,
    round: RoundId,
    begun: Now,
    began: Us,
    listed: Vec<bool>,
    statuses: Vec<Option<Result<Status, Blocked>>>,
    scrapes: Vec<Option<Result<Scrape, Blocked>>>,
    records: Option<Result<Records, Blocked>>,
    left: usize,
    leader: Option<usize>,
    hold: Option<i64>,
    outcome: Option<Outcome>,
    head: bool,
    leader_since: Us,
    ills: Ills,
    /// Whom each member took for the leader, and in which term.
    views: Vec<(Option<usize>, u64)>,
}

/// How long a member may take to answer.
const DEADLINE: Us = SEC;

fn silent(what: &str) -> Blocked {
    Blocked::new(Reason::EtcdUnavailable, format!("{what} did not answer within a second"))
}

impl World {
    pub fn start_look(&mut self, janitor: usize, ticket: Ticket, round: RoundId) {
        let members = self.cluster.members.len();
        let id = self.member_id(janitor);
        let listed: Vec<bool> = self.cluster.members.iter().map(|member| member.listed).collect();
        let store = &self.cluster.store;
        let left = listed.iter().filter(|listed| **listed).count() * 2 + 1;
        let look = PendingLook {
            janitor,
            epoch: self.procs[janitor].epoch,
            ticket,
            round,
            begun: self.clock(janitor),
            began: self.now,
            listed,
            statuses: vec![None; members],
            scrapes: vec![None; members],
            records: None,
            left,
            leader: self.cluster.leader,
            hold: store.hold.as_ref().map(|(revision, _)| *revision),
            outcome: store.outcome(round, id).map(|(outcome, _)| outcome),
            head: self.heads_queue(janitor),
            leader_since: self.cluster.leader_since,
            ills: self.ills(),
            views: self.views(),
        };
        let slot = self.looks.iter().position(Option::is_none).unwrap_or_else(|| {
            self.looks.push(None);
            self.looks.len() - 1
        });
        // Most networks answer in milliseconds, some members only just in time.
        let slow = if self.faulty && self.rng.per_mille(60) { 950 } else { 12 };
        for member in 0..members {
            if look.listed[member] {
                let at = self.rng.within(MS / 2, slow * MS);
                self.after(at, Ev::Ask { look: slot, question: Question::Status(member) });
                let at = self.rng.within(MS, slow * MS);
                self.after(at, Ev::Ask { look: slot, question: Question::Scrape(member) });
            }
        }
        let at = self.rng.within(MS, slow * MS);
        self.after(at, Ev::Ask { look: slot, question: Question::Records });
        self.looks[slot] = Some(look);
    }

    /// One member's, or the store's, answer at this instant; asked again at the deadline when there is none.
    pub fn ask(&mut self, slot: usize, question: Question) {
        let Some(mut look) = self.looks[slot].take() else { return };
        let late = self.now >= look.began + DEADLINE;
        let answered = match question {
            Question::Status(member) => self.status(&look, member, late).map(|s| look.statuses[member] = Some(s)),
            Question::Scrape(member) => self.scrape(&look, member, late).map(|s| look.scrapes[member] = Some(s)),
            Question::Records => self.records(&look, late).map(|records| look.records = Some(records)),
        };
        match answered {
            Some(()) => look.left -= 1,
            None => self.at(look.began + DEADLINE, Ev::Ask { look: slot, question }),
        }
        if look.left > 0 {
            self.looks[slot] = Some(look);
            return;
        }
        self.finish_look(look);
    }

    fn status(&self, look: &PendingLook, index: usize, late: bool) -> Option<Result<Status, Blocked>> {
        let proc = &self.procs[look.janitor];
        let member = &self.cluster.members[index];
        if let Some(reason) = proc.refusal {
            return Some(Err(Blocked::new(reason, "refused")));
        }
        let blind = self.setup.mutant == Some(Mutant::OpenDefragsHidden);
        let dead = self.setup.mutant == Some(Mutant::DeadLookWell);
        let reached = proc.cut[index].is_none() && !proc.deaf[index] || dead;
        let answers = member.serves(self.now) || (blind && member.runs(self.now)) || (dead && member.running.is_none());
        if !(reached && answers) {
            let refused = !member.up && proc.cut[index].is_none();
            return (late || refused).then(|| Err(silent(&member.name)));
        }
        let agreeing = dead || self.setup.mutant == Some(Mutant::DisagreementHidden);
        let seen = if agreeing { self.cluster.leader } else { member.leader_seen };
        let leader = match self.setup.mutant {
            Some(Mutant::LeaderHidden) => self.cluster.voters().find(|voter| *voter != look.janitor),
            _ => seen,
        };
        let done = self.setup.mutant == Some(Mutant::OthersLookDone) && index != look.janitor;
        let mut alarms = BTreeSet::new();
        let shown = |mutant| self.setup.mutant != Some(mutant);
        for other in self.cluster.members.iter().filter(|other| other.listed) {
            if other.nospace && shown(Mutant::NospaceHidden) {
                alarms.insert(Alarm { member: other.id, kind: AlarmKind::Nospace });
            }
            if other.corrupt && shown(Mutant::CorruptHidden) {
                alarms.insert(Alarm { member: other.id, kind: AlarmKind::Corrupt });
            }
        }
        Some(Ok(Status {
            version: self.setup.version.to_owned(),
            db_size: if done { member.db_size_in_use } else { member.db_size },
            db_size_in_use: member.db_size_in_use,
            quota: None,
            leader: leader.map(|leader| self.cluster.members[leader].id),
            term: if agreeing { self.cluster.term } else { member.term_seen },
            index: self.cluster.store.index,
            applied: self.cluster.store.index.saturating_sub(if shown(Mutant::LagHidden) { member.lag } else { 0 }),
            revision: self.cluster.store.revision,
            alarms,
            learner: member.learner && shown(Mutant::LearnersHidden),
        }))
    }

    fn scrape(&self, look: &PendingLook, index: usize, late: bool) -> Option<Result<Scrape, Blocked>> {
        let proc = &self.procs[look.janitor];
        let member = &self.cluster.members[index];
        let dead = self.setup.mutant == Some(Mutant::DeadLookWell);
        if !(dead || proc.cut[index].is_none() && !proc.deaf[index] && member.runs(self.now)) {
            let refused = !member.up && proc.cut[index].is_none();
            return (late || refused).then(|| Err(silent(&member.name)));
        }
        let blind = self.setup.mutant == Some(Mutant::OpenDefragsHidden);
        let announced = self.cluster.store.intent.as_ref().map(|(_, intent)| intent);
        let unchanged = announced.filter(|intent| {
            self.setup.mutant == Some(Mutant::TargetUnchanged) && index == look.janitor && intent.member == member.id
        });
        let unsnapped = self.setup.mutant == Some(Mutant::SnapshotsHidden);
        Some(Ok(Scrape {
            defrags_open: if blind { 0 } else { member.open.len() as u64 },
            snapshots_open: if unsnapped { 0 } else { member.snapshots },
            defrag_count: unchanged.map_or(member.defrag_count, |intent| intent.target_count),
            defrags_failed: 0,
            defrag_seconds: 0.0,
            process_start: unchanged.map_or(member.process_start, |intent| intent.target_start),
            quota: Some(QuotaBytes::Bytes(QUOTA)),
            compact_revision: None,
            active_peers: self.active_peers(index),
        }))
    }

    /// A frozen process is not missed: its connections stay.
    fn active_peers(&self, index: usize) -> BTreeSet<MemberId> {
        let running = |(other, member): &(usize, &Member)| *other != index && member.listed && member.up;
        self.cluster.members.iter().enumerate().filter(running).map(|(_, member)| member.id).collect()
    }

    fn records(&self, look: &PendingLook, late: bool) -> Option<Result<Records, Blocked>> {
        let proc = &self.procs[look.janitor];
        if let Some(reason) = proc.refusal {
            return Some(Err(Blocked::new(reason, "refused")));
        }
        let unheard = |voter: usize| proc.deaf[voter];
        if self.cluster.voters().all(unheard) || !self.cluster.available(&proc.cut, self.now) {
            return late.then(|| Err(silent("the store")));
        }
        let store = &self.cluster.store;
        let own = World::instance(look.janitor, look.epoch);
        let mutant = self.setup.mutant;
        let hidden = |instance: &str| {
            matches!(mutant, Some(Mutant::ForeignIntentsHidden | Mutant::IntentOverwritten)) && instance != own
        };
        // What was written without its writer being told.
        let own_intent = proc.plan.as_ref().and_then(|plan| plan.round()).and_then(|round| round.own_intent());
        let late = |at: i64, instance: &str| {
            mutant == Some(Mutant::LateIntentsHidden) && instance == own && own_intent != Some(at)
        };
        let intent = store.intent.as_ref().filter(|(_, intent)| !hidden(&intent.instance));
        let intent = intent.filter(|(at, intent)| !late(*at, &intent.instance));
        let hold = store.hold.as_ref().filter(|_| mutant != Some(Mutant::HoldHidden));
        let mut turns: Vec<Place> = store
            .turns
            .iter()
            .map(|key| Place { lease: key.lease, create_revision: key.create_revision, value: Ok(key.record.clone()) })
            .collect();
        if mutant == Some(Mutant::QueueJumped) {
            turns.sort_by_key(|place| place.value.as_ref().is_ok_and(|turn| turn.instance != own));
        }
        let outcomes = match store.outcomes.get(&look.round) {
            Some(of_round) if mutant != Some(Mutant::OutcomesHidden) => {
                of_round.iter().map(|(member, outcome, _)| (*member, *outcome)).collect()
            }
            _ => Vec::new(),
        };
        Some(Ok(Records {
            intent: intent.map(|(at, intent)| Stored { mod_revision: *at, value: Ok(intent.clone()) }),
            hold: hold.map(|(at, hold)| Stored { mod_revision: *at, value: Ok(hold.clone()) }),
            turns,
            outcomes,
        }))
    }

    fn finish_look(&mut self, look: PendingLook) {
        let janitor = look.janitor;
        let info = LookInfo {
            began: look.began,
            begun: look.begun.mono,
            leader_before: look.leader,
            leader_after: self.cluster.leader,
            hold: look.hold,
            outcome: look.outcome,
            leader_since: look.leader_since,
            list: None,
            voters_away: self.voters_away_since(janitor, look.began),
            head: look.head || self.heads_queue(janitor),
            ills: look.ills.and(self.ills()),
            disagreed: disagree(&look.views) && look.views == self.views(),
        };
        let mut begun = look.begun;
        if self.setup.mutant == Some(Mutant::LookPostdated) {
            begun = self.clock(janitor);
        }
        let mut listing = self.listing(janitor);
        let agreed = listing == Listing::Agreed;
        if self.setup.mutant == Some(Mutant::ListsTrusted) {
            listing = Listing::Agreed;
        }
        let bits = |index: usize| u64::from(look.listed[index]) << (2 * index);
        let learning = |index: usize| u64::from(self.cluster.members[index].learner) << (2 * index + 1);
        let list = (0..look.listed.len()).filter(|index| look.listed[*index]).map(|i| bits(i) | learning(i)).sum();
        let info = LookInfo { begun: begun.mono, list: agreed.then_some(list), ..info };
        if self.procs[janitor].epoch == look.epoch {
            let looks = &mut self.procs[janitor].looks;
            looks.push_back(info);
            // A round, the watch and a rescue may look at the same time, each with a second lane at most.
            if looks.len() > 12 {
                looks.pop_front();
            }
        }
        let (listed, mut statuses, mut scrapes) = (look.listed, look.statuses, look.scrapes);
        let mut members = Vec::with_capacity(listed.len());
        for (index, member) in self.cluster.members.iter().enumerate().filter(|(index, _)| listed[*index]) {
            members.push(MemberLook {
                id: member.id,
                name: member.name.clone(),
                learner: member.learner && self.setup.mutant != Some(Mutant::LearnersHidden),
                status: statuses[index].take().unwrap_or_else(|| Err(silent(&member.name))),
                scrape: scrapes[index].take().unwrap_or_else(|| Err(silent(&member.name))),
            });
        }
        let records = look.records.unwrap_or_else(|| Err(silent("the store")));
        let full = self.setup.forbidden == Some(Forbidden::DiskFull);
        let disk = full.then_some(Ok(Disk { free: 0 }));
        let answer = Answer::Looked(Box::new(Look { begun, listing, members, records, disk, rights: Ok(()) }));
        let span = self.rng.within(50, MS);
        let (epoch, ticket) = (look.epoch, look.ticket);
        self.after(span, Ev::Answer { janitor, epoch, ticket, answer: Box::new(answer) });
    }

    /// The member list is answered by busy members, too, and for a moment after a change not alike by all.
    fn listing(&mut self, janitor: usize) -> Listing {
        let proc = &self.procs[janitor];
        let voters = self.cluster.voters().count();
        let answers = |index: &usize| {
            proc.cut[*index].is_none() && !proc.deaf[*index] && self.cluster.members[*index].runs(self.now)
        };
        let answering = self.cluster.voters().filter(answers).count();
        let dead = self.setup.mutant == Some(Mutant::DeadLookWell);
        let silent = self.procs[janitor].refusal.is_some();
        if !dead && (silent || answering < voters.min(2)) {
            return Listing::Unknown("too few members answered".to_owned());
        }
        let fresh = self.cluster.list_changed > 0 && self.now < self.cluster.list_changed + 4 * SEC;
        if fresh && self.rng.per_mille(500) || self.now < self.cluster.lists_differ_until {
            return Listing::Disagreed("members gave different lists".to_owned());
        }
        Listing::Agreed
    }

    /// How many other voters were unreachable for the whole time since `began`.
    fn voters_away_since(&self, janitor: usize, began: Us) -> usize {
        let cut = &self.procs[janitor].cut;
        let away = |voter: &usize| {
            let away = self.cluster.members[*voter].away_since;
            away.is_some_and(|since| since <= began) || cut[*voter].is_some_and(|since| since <= began)
        };
        self.cluster.voters().filter(|voter| *voter != janitor).filter(away).count()
    }
}
