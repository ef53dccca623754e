//! What must be true of each step, seen from outside: by the model's own state, never by what janitors say of themselves.

use std::collections::BTreeMap;

use etcd_janitor::plan::cluster::MAX_LAG;
use etcd_janitor::plan::member::RoundKind;
use etcd_janitor::plan::reason::{Failure, Outcome};
use etcd_janitor::plan::round::{Ended, Permit};
use etcd_janitor::plan::step::{Action, Settle};
use etcd_janitor::plan::time::Mono;

use super::model::{By, Call, Member, Open, SEC, Us};
use super::setup::QUOTA;
use super::shown::verb;
use super::world::World;

/// A rescue's defrag, which has no intent.
pub const RESCUED: &str = "a rescue's defrag";
const OVERTAKEN: &str = "a foreign defrag was taken for a call that still waited in its member's socket";

/// What was true when a look began and when it ended.
#[derive(Debug, Clone, Copy)]
pub struct LookInfo {
    pub began: Us,
    pub begun: Mono,
    pub leader_before: Option<usize>,
    pub leader_after: Option<usize>,
    pub hold: Option<i64>,
    pub outcome: Option<Outcome>,
    /// How many other voters were away during the whole of it.
    pub voters_away: usize,
    /// When leadership had last changed.
    pub leader_since: Us,
    /// The member list, a bit for each and one for each learner; none where the members did not agree on one.
    pub list: Option<u64>,
    /// The head of the queue was this janitor's.
    pub head: bool,
    /// What was wrong all the while.
    pub ills: Ills,
    /// The members did not agree on who leads, all the while.
    pub disagreed: bool,
}

/// What forbids a defrag by itself: a bit for each member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ills {
    snapshots: u64,
    corrupt: u64,
    nospace: u64,
    lagging: u64,
    learners: u64,
}

impl Ills {
    pub fn and(self, other: Ills) -> Ills {
        Ills {
            snapshots: self.snapshots & other.snapshots,
            corrupt: self.corrupt & other.corrupt,
            nospace: self.nospace & other.nospace,
            lagging: self.lagging & other.lagging,
            learners: self.learners & other.learners,
        }
    }
}

/// Whether these members do not all take the same one for the leader, in the same term.
pub fn disagree(views: &[(Option<usize>, u64)]) -> bool {
    views.windows(2).any(|pair| pair[0] != pair[1])
}

#[derive(Default)]
pub struct Judge {
    pub serial: u64,
    /// Calls that were sent and did not begin yet.
    pub in_flight: Vec<Call>,
    /// How many calls janitors sent.
    pub sent: u64,
    /// When which member accepted a janitor's call.
    pub begun: Vec<(Us, usize)>,
    /// Keys without a living owner, and since when.
    pub orphans: BTreeMap<i64, Us>,
    /// The intent whose owner has left the queue and whose member answers, and since when.
    pub unowned: Option<(i64, Us)>,
    /// When an alarm was last raised, or files grew.
    pub worsened: Us,
    /// Which members had work, by firing.
    pub needed: BTreeMap<u64, Vec<bool>>,
}

impl Judge {
    pub fn landed(&mut self, call: &Call) {
        self.in_flight.retain(|other| other != call);
    }
}

impl World {
    pub fn look_info(&self, janitor: usize, permit: &Permit) -> Option<LookInfo> {
        self.procs[janitor].looks.iter().rev().find(|info| info.begun == permit.look_begun.mono).copied()
    }

    /// Whether the first key in the queue is this process's.
    pub fn heads_queue(&self, janitor: usize) -> bool {
        let instance = Self::instance(janitor, self.procs[janitor].epoch);
        self.cluster.store.turns.first().is_some_and(|key| key.record.instance == instance)
    }

    pub fn ills(&self) -> Ills {
        let members = &self.cluster.members;
        let bits = |ill: fn(&Member) -> bool| {
            let sick = |index: &usize| members[*index].listed && ill(&members[*index]);
            (0..members.len()).filter(sick).map(|index| 1 << index).sum()
        };
        Ills {
            snapshots: bits(|member| member.snapshots > 0 && !member.learner),
            corrupt: bits(|member| member.corrupt),
            nospace: bits(|member| member.nospace),
            lagging: bits(|member| member.lag > MAX_LAG && !member.learner),
            learners: bits(|member| member.learner),
        }
    }

    /// Whom each voter takes for the leader, and in which term.
    pub fn views(&self) -> Vec<(Option<usize>, u64)> {
        let members = &self.cluster.members;
        self.cluster.voters().map(|voter| (members[voter].leader_seen, members[voter].term_seen)).collect()
    }

    /// NOSPACE is cleared only with room on every member, and a rescue does nothing under CORRUPT.
    fn judge_rescue(&mut self, janitor: usize, action: &Action) {
        // What changed a moment ago, or while the janitor stood still, was not in its look.
        let unseen = self.judge.worsened.max(self.procs[janitor].resumed) + 5 * SEC;
        if self.now < unseen {
            return;
        }
        if matches!(action, Action::Disarm { .. }) {
            let voters = self.cluster.voters().count();
            let members = self.cluster.members.iter().filter(|member| member.listed);
            let full = members.filter(|member| member.db_size as f64 >= self.setup.policy.disarm_below * QUOTA as f64);
            // Of five one may be down, whatever its file is like.
            let full: Vec<String> =
                full.filter(|member| member.up || voters < 5).map(|member| member.name.clone()).collect();
            if !full.is_empty() {
                self.fail(format!("j{janitor} clears NOSPACE though {full:?} lack room"));
            }
        }
        let rescue = self.procs[janitor].plan.as_ref().is_some_and(|plan| plan.rescue().is_some());
        let acts = matches!(action, Action::Disarm { .. })
            || rescue && matches!(action, Action::Defragment { .. } | Action::CompactForRescue);
        if acts && self.cluster.members.iter().any(|member| member.listed && member.corrupt) {
            self.fail(format!("j{janitor} goes on under CORRUPT: {action:?}"));
        }
    }

    /// A plan asks for something.
    pub fn judge_step(&mut self, janitor: usize, action: &Action) {
        self.judge_rescue(janitor, action);
        let reads = matches!(action, Action::Look { .. } | Action::Figures | Action::CompareHash);
        // What a rescue compacts is decided by a plan of its own, which knows of the dry run.
        let elsewhere = matches!(action, Action::CompactForRescue);
        if self.setup.policy.dry_run && !reads && !elsewhere {
            self.fail(format!("S8: j{janitor} does more than look in a dry run: {}", verb(action)));
        }
        if matches!(action, Action::Disarm { .. }) {
            self.judge_disarm(janitor);
        }
        if matches!(action, Action::Defragment { .. })
            && self.procs[janitor].quiesced.is_some_and(|since| since < self.now)
        {
            self.fail(format!("S5: j{janitor} was told to start nothing new and sends"));
        }
    }

    /// Long enough under a hold for a look to have shown it, and for the process to have acted on that look.
    fn judge_disarm(&mut self, janitor: usize) {
        const SEEN: Us = 5 * SEC;
        let (wall, resumed) = (self.clock(janitor).wall, self.procs[janitor].resumed);
        let long = self.now > self.cluster.store.hold_since.max(resumed).max(self.procs[janitor].clock_set) + SEEN;
        if self.cluster.store.hold.as_ref().is_some_and(|(_, hold)| hold.until > wall) && long {
            self.fail(format!("S5: j{janitor} clears NOSPACE under a hold"));
        }
    }

    /// The permit was asked, the bytes are about to leave.
    pub fn judge_send(&mut self, janitor: usize, target: usize, permit: &Permit, rescue: bool) {
        self.judge.sent += 1;
        let Some(info) = self.look_info(janitor, permit) else {
            return self.fail(format!("j{janitor} sends on a look that it did not take"));
        };
        let several = self.cluster.voters().count() > 1;
        if permit.member != self.member_id(target) || !rescue && target != janitor {
            self.fail(format!("S4: j{janitor} sends to {}", permit.member));
        }
        if several && info.leader_before == Some(target) && info.leader_after == Some(target) {
            self.fail(format!("S2: j{janitor} sends to the leader"));
        } else if several && self.cluster.leader == Some(target) {
            self.tally.explain("became leader after the look");
        }
        if several && !rescue && !info.head && !self.heads_queue(janitor) {
            self.fail(format!("S1: j{janitor} sends without the turn"));
        }
        // By a clock that may be slow.
        let age = self.now - info.began;
        if age > SEC + SEC / 1000 {
            self.fail(format!("S1: j{janitor} sends {age} us after the beginning of its look"));
        }
        // Of five a rescue excuses one.
        if info.voters_away > usize::from(rescue && self.cluster.voters().count() >= 5) {
            self.fail(format!("S3: j{janitor} sends though another voter was away during the whole look"));
        }
        self.judge_settled(janitor, &info);
        self.judge_ills(janitor, target, &info, rescue);
        self.judge_lease(janitor, rescue);
        let late = self.now.saturating_sub(self.procs[janitor].round_ends);
        if late > SEC && !rescue {
            self.fail(format!("S5: j{janitor} sends {late} us after its round's window"));
        }
        let wall = self.clock(janitor).wall;
        if let Some((revision, hold)) = &self.cluster.store.hold
            && info.hold == Some(*revision)
            && hold.until > wall
        {
            self.fail(format!("S5: j{janitor} sends under a hold"));
        }
        if let Some(outcome) = info.outcome {
            self.fail(format!("S6: j{janitor} sends in a round whose outcome is on record: {outcome}"));
        }
    }

    /// What was wrong from the beginning of the look to its end was there to be seen.
    fn judge_ills(&mut self, janitor: usize, target: usize, info: &LookInfo, rescue: bool) {
        // Of five a rescue does without one, which it then does not see.
        let all_seen = !rescue || self.cluster.voters().count() < 5;
        let ills = [
            (info.ills.corrupt != 0, "CORRUPT is up"),
            (info.ills.nospace != 0 && !rescue, "NOSPACE is up"),
            (info.ills.lagging != 0 && !rescue, "a member lags"),
            (info.ills.learners & (1 << target) != 0, "its member is a learner"),
            (info.ills.snapshots != 0 && all_seen, "a snapshot is open"),
            (info.disagreed && all_seen, "the members do not agree on who leads"),
            (info.list.is_none(), "the members do not agree on who they are"),
        ];
        for (_, ill) in ills.into_iter().filter(|(there, _)| *there) {
            self.fail(format!("S3: j{janitor} sends though {ill}"));
        }
    }

    /// A key that is still there has a third of its lease left, as far as the sender's clock can tell.
    fn judge_lease(&mut self, janitor: usize, rescue: bool) {
        let instance = Self::instance(janitor, self.procs[janitor].epoch);
        let key = self.cluster.store.turns.iter().find(|key| key.record.instance == instance);
        let Some(lease) = key.and_then(|key| self.cluster.store.leases.get(&key.lease)) else { return };
        let slept = self.procs[janitor].suspended.is_some_and(|(_, to)| to + lease.ttl > self.now);
        if !rescue && !slept && lease.expires < self.now + lease.ttl / 3 - SEC / 10 {
            self.fail(format!("S1: j{janitor} sends in the last third of its lease"));
        }
    }

    /// What the first of two looks showed may have changed within its second.
    fn judge_settled(&mut self, janitor: usize, info: &LookInfo) {
        const SETTLED: Us = 9 * SEC;
        // Leadership that it moved itself was seen to settle, which takes seconds at most.
        let moved = self.procs[janitor].moved_leader;
        let own = moved.is_some_and(|moved| info.leader_since >= moved && info.leader_since < moved + 10 * SEC);
        if info.leader_since > 0 && !own && info.began < info.leader_since + SETTLED {
            self.fail(format!("S3: j{janitor} sends {} us after an election", info.began - info.leader_since));
        }
        // Nobody can see a change that was undone between two looks.
        let looks = &self.procs[janitor].looks;
        let other = looks.iter().rposition(|look| look.list.is_some() && look.list != info.list);
        let same_since = other.and_then(|index| looks.get(index + 1)).map(|look| look.began);
        if let Some(since) = same_since
            && info.began < since + SETTLED
        {
            self.fail(format!("S3: j{janitor} sends {} us after it saw the members change", info.began - since));
        }
    }

    /// A foreign defrag ended on the call's member while the call waited in that member's socket: counts of defrags do
    /// not say whose. The intent is settled as done then, and the call still comes.
    fn overtaken(&self, call: &Call) -> bool {
        self.cluster.members[call.target].foreign_ended > call.sent
    }

    /// The sender stood still for so long that nobody had to wait for its call any more, or its member restarted.
    fn held_up(&self, call: &Call, arrived: Us) -> bool {
        let other_process = self.cluster.members[call.target].generation != call.generation;
        // A rescue has no lease: others act when all has been still for ten seconds.
        let outlasts = if call.rescue { 10 * SEC } else { self.setup.ttl.as_micros() as Us };
        let outlived = arrived + SEC >= call.look_begun + outlasts;
        call.paused_in_window && (outlived || other_process)
    }

    /// A member accepts a call.
    pub fn judge_begin(&mut self, index: usize, open: &Open) {
        let By::Janitor(call) = open.by else {
            if self.cluster.members.iter().any(|member| !member.open.is_empty()) {
                self.tally.explain("an operator began beside another");
            }
            return;
        };
        self.judge.landed(&call);
        self.judge.begun.push((self.now, index));
        if index != call.target {
            self.fail(format!("S4: j{} reached m{index}", call.janitor));
        }
        let mut wrong = None;
        // One that has left the cluster is nobody's concern.
        let here = self.cluster.members[index].listed;
        for (other, member) in self.cluster.members.iter().enumerate().filter(|(_, member)| member.listed && here) {
            for begun in &member.open {
                let why = match begun.by {
                    _ if self.overtaken(&call) => Some(OVERTAKEN),
                    By::Janitor(other) if self.overtaken(&other) => Some(OVERTAKEN),
                    _ if self.held_up(&call, self.now) => Some("overlap: paused between check and arrival"),
                    By::Janitor(other) if self.held_up(&other, begun.begun) => {
                        Some("overlap: the other was paused in the window")
                    }
                    // Deputies who have been calm for different times act for the same member: it is still the only one.
                    By::Janitor(earlier)
                        if call.rescue && earlier.rescue && other == index && earlier.janitor != call.janitor =>
                    {
                        Some("a second rescuer of the same member")
                    }
                    By::Operator if begun.begun >= call.look_begun => Some("overlap: an operator began after the look"),
                    _ => None,
                };
                match why {
                    Some(why) => self.tally.explain(why),
                    None => wrong = Some(format!("S1: j{} begins while {:?} is open on m{other}", call.janitor, begun)),
                }
            }
        }
        let instance = World::instance(call.janitor, call.epoch);
        let announced = self.cluster.store.intent.as_ref().is_some_and(|(_, intent)| intent.instance == instance);
        if call.rescue {
            self.tally.explain(RESCUED);
        } else if !announced && self.held_up(&call, self.now) {
            self.tally.explain("intent settled while its sender was paused in the window");
        } else if !announced && !here {
            self.tally.explain("intent settled since its member has left");
        } else if !announced && self.overtaken(&call) {
            self.tally.explain(OVERTAKEN);
        } else if !announced {
            wrong.get_or_insert(format!("S7: j{} begins without its intent", call.janitor));
        }
        if let Some(text) = wrong {
            self.fail(text);
        }
    }

    /// A transaction is about to record an outcome and to clear an intent.
    pub fn judge_settle(&mut self, settle: &Settle) {
        if let Some(record) = &settle.record
            && let Some((Outcome::Done, _)) = self.cluster.store.outcome(record.round, record.member)
            && matches!(record.outcome, Outcome::Unknown | Outcome::Failed(Failure::Restarted))
            && !self.cluster.store.already_better(record)
            && (settle.owner || settle.intent == self.cluster.store.intent.as_ref().map(|(at, _)| *at))
        {
            self.fail(format!("S6: {} of {} was done and becomes {}", record.round, record.name, record.outcome));
        }
        let Some((revision, intent)) = &self.cluster.store.intent else { return };
        if settle.intent != Some(*revision) {
            return;
        }
        if self.cluster.index_of(intent.member).is_none_or(|index| !self.cluster.members[index].listed) {
            return;
        }
        let under_it =
            |call: &Call| World::instance(call.janitor, call.epoch) == intent.instance && call.round == intent.round;
        let open = self.cluster.members.iter().flat_map(|member| &member.open);
        let begun = open.filter_map(|open| match open.by {
            By::Janitor(call) => Some((call, open.begun)),
            By::Operator => None,
        });
        let flying = self.judge.in_flight.iter().map(|call| (*call, self.now));
        let loose = begun.chain(flying).find(|(call, _)| under_it(call));
        match loose {
            Some((call, arrived)) if self.held_up(&call, arrived) => {
                self.tally.explain("settled while its sender was paused in the window")
            }
            Some((call, _)) if self.overtaken(&call) => self.tally.explain(OVERTAKEN),
            Some((call, _)) => {
                self.fail(format!("S7: the intent of j{} is settled while its call is open", call.janitor))
            }
            None => {}
        }
    }

    /// An intent was written: by somebody who stands in the queue, and not under a hold.
    pub fn judge_intent_written(&mut self, janitor: usize, epoch: u32) {
        let instance = Self::instance(janitor, epoch);
        let in_queue = self.cluster.store.turns.iter().any(|key| key.record.instance == instance);
        if !in_queue && self.cluster.voters().count() > 1 {
            self.fail(format!("S7: j{janitor} writes its intent without its key"));
        }
        // One that is over by the writer's clock does not count; that clock may have been set since.
        let (wall, set) = (self.clock(janitor).wall, self.procs[janitor].clock_set);
        let held = self.cluster.store.hold.as_ref().is_some_and(|(_, hold)| hold.until > wall);
        if held && (set == 0 || self.now > set + 900 * SEC) {
            self.fail(format!("S5: j{janitor} writes its intent under a hold"));
        }
    }

    /// The member ends a defrag. Where nothing went wrong, its janitor still has the turn.
    pub fn judge_defrag_ended(&mut self, index: usize, call: &Call) {
        let calm = self.setup.rounds_with_faults == 0 && !call.rescue;
        if !calm || self.cluster.voters().count() < 2 || self.judge.serial > 0 {
            return;
        }
        let instance = World::instance(call.janitor, call.epoch);
        let alive = self.procs[call.janitor].epoch == call.epoch && self.procs[call.janitor].plan.is_some();
        let held = self.cluster.store.turns.iter().any(|key| key.record.instance == instance);
        if alive && !held && self.cluster.members[index].listed {
            self.fail(format!("the turn did not survive the defrag of m{index}"));
        }
    }

    pub fn judge_ended(&mut self, janitor: usize, ended: &Ended) {
        if ended.round.kind == RoundKind::Rescue {
            return;
        }
        self.procs[janitor].round_over = true;
        let recorded = self.cluster.store.outcome(ended.round, self.member_id(janitor));
        // With its member removed, or told to stop, a janitor does not wait until it can record.
        let waits = self.cluster.members[janitor].listed && self.procs[janitor].quiesced.is_none();
        if ended.outcome == Outcome::Done && recorded.is_none() && waits && !self.faulty {
            self.fail(format!("S6: j{janitor} is done in {} and nobody will ever know", ended.round));
        }
        if self.setup.rounds_with_faults > 0 {
            return;
        }
        let instance = World::instance(janitor, self.procs[janitor].epoch);
        if self.cluster.store.turns.iter().any(|key| key.record.instance == instance) {
            self.fail(format!("j{janitor} ended {} and left its key in the queue", ended.round));
        }
    }
}
