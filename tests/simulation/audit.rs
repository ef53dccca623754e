//! What must not be left: keys, intents and rounds that outlive their bounds, and whatever stands when all is over.

use etcd_janitor::plan::reason::Outcome;

use super::model::{SEC, Us};
use super::setup::needs;
use super::world::World;

impl World {
    /// Who has work in the `k`-th firing, which is near.
    pub fn count_needs(&mut self, k: u64) {
        let needed = self.cluster.members.iter().map(|m| needs(m.db_size, m.db_size_in_use)).collect();
        self.judge.needed.insert(k, needed);
    }

    /// Every few seconds: is anything left lying about?
    pub fn audit(&mut self) {
        if !self.cluster.commits(self.now) {
            self.cluster.last_unavailable = self.now;
        }
        self.audit_keys();
        self.audit_the_removed();
        self.audit_intent();
        for janitor in 0..self.procs.len() {
            self.audit_round(janitor);
        }
    }

    fn alive(&self, instance: &str) -> Option<usize> {
        (0..self.procs.len()).find(|janitor| {
            let proc = &self.procs[*janitor];
            proc.plan.is_some() && World::instance(*janitor, proc.epoch) == instance
        })
    }

    fn audit_keys(&mut self) {
        let turns = &self.cluster.store.turns;
        let orphans: Vec<i64> =
            turns.iter().filter(|key| self.alive(&key.record.instance).is_none()).map(|key| key.lease).collect();
        self.judge.orphans.retain(|lease, _| orphans.contains(lease));
        let patience = self.setup.ttl.as_micros() as Us + 15 * SEC;
        for lease in orphans {
            let since = *self.judge.orphans.entry(lease).or_insert(self.now);
            let since = since.max(self.cluster.last_unavailable).max(self.cluster.leader_since);
            if self.now > since + patience {
                self.fail(format!("the key {lease:x} outlives its owner by more than its TTL"));
            }
        }
    }

    /// A member that was removed has no business in the queue.
    fn audit_the_removed(&mut self) {
        let patience = self.setup.ttl.as_micros() as Us + 30 * SEC;
        for janitor in 0..self.procs.len() {
            let proc = &self.procs[janitor];
            let (id, listed) = (self.cluster.members[janitor].id, self.cluster.members[janitor].listed);
            let queued = self.cluster.store.turns.iter().any(|key| key.record.member == id);
            let known = self.cluster.commits(self.now) && self.now >= self.cluster.lists_differ_until;
            if listed || !queued || !proc.is_clear() || !known {
                self.procs[janitor].unwelcome = None;
                continue;
            }
            let since = *self.procs[janitor].unwelcome.get_or_insert(self.now);
            let since = since.max(self.cluster.last_unavailable).max(self.cluster.leader_since);
            if self.now > since + patience {
                self.fail(format!("j{janitor} stands in the queue though its member was removed"));
            }
        }
    }

    /// An intent stands for one `lease_ttl` after its owner's key is gone and its member answers, and for the looks that
    /// show it. Asked of everybody who could have looked all the while, under faults as well.
    fn audit_intent(&mut self) {
        const LOOKS: Us = 15 * SEC;
        let standing = self.cluster.store.intent.as_ref().map(|(at, intent)| (*at, intent.clone()));
        let Some((revision, intent)) = standing else {
            self.judge.unowned = None;
            return;
        };
        let target = self.cluster.index_of(intent.member).map(|index| &self.cluster.members[index]);
        let listed = target.is_some_and(|target| target.listed);
        let answers = target.is_none_or(|target| !listed || target.serves(self.now) && target.open.is_empty());
        let queued = self.cluster.store.turns.iter().any(|key| key.record.instance == intent.instance);
        if queued && listed || !answers || !self.cluster.commits(self.now) {
            self.judge.unowned = None;
            return;
        }
        let served = target.map_or(0, |target| target.serving_since);
        let since = match self.judge.unowned {
            Some((seen, since)) if seen == revision => since.max(served),
            _ => self.now,
        };
        self.judge.unowned = Some((revision, since));
        let since = since.max(self.cluster.last_unavailable).max(self.cluster.list_changed);
        let since = since.max(self.cluster.lists_differ_until);
        let patience =
            self.setup.ttl.as_micros() as Us + LOOKS + self.setup.policy.request_timeout.as_micros() as Us * 3;
        for janitor in 0..self.procs.len() {
            let proc = &self.procs[janitor];
            let able = proc.plan.is_some() && proc.paused_until <= self.now && proc.is_clear();
            // Its owner may still be at work under it.
            let owner = Self::instance(janitor, proc.epoch) == intent.instance;
            let since = since.max(proc.resumed).max(proc.clear_since);
            if able && !owner && self.now > since + patience {
                self.fail(format!("the intent of {} is left lying about, and j{janitor} sees it", intent.instance));
            }
        }
    }

    fn audit_round(&mut self, janitor: usize) {
        let proc = &self.procs[janitor];
        let Some(plan) = &proc.plan else { return };
        if plan.round().is_none() && plan.rescue().is_none() && proc.draining {
            return self.fail(format!("j{janitor} turns clients away outside of any round"));
        }
        if plan.round().is_none() || proc.paused_until > self.now {
            return;
        }
        let member = &self.cluster.members[janitor];
        let mut since = proc.round_ends.max(proc.resumed);
        if plan.is_sent() {
            if self.faulty || !member.open.is_empty() {
                return;
            }
            let timeout = self.setup.policy.timeout.as_micros() as Us;
            since = since.max(member.serving_since).max(self.cluster.last_unavailable).max(self.healed_at) + timeout;
        }
        if self.now > since + 300 * SEC + self.setup.ttl.as_micros() as Us {
            let phase = plan.round().map_or("", |round| round.phase());
            self.fail(format!("the round of j{janitor} does not end: {phase}"));
        }
    }

    /// After the faults, and after the rounds that followed them.
    pub fn judge_the_end(&mut self) {
        for janitor in 0..self.procs.len() {
            let listed = self.cluster.members[janitor].listed;
            match &self.procs[janitor].plan {
                None if listed => self.fail(format!("j{janitor} is not running")),
                Some(plan) if plan.rescue().is_some() => {
                    let shown = plan.rescue().map(|rescue| format!("{}: {:?}", rescue.phase, rescue.blocked));
                    self.fail(format!("the rescue of j{janitor} is not over: {shown:?}"));
                }
                Some(plan) if !plan.is_idle() => {
                    let phase = plan.round().map_or("", |round| round.phase());
                    self.fail(format!("j{janitor} has not finished: {phase}"));
                }
                _ => {}
            }
        }
        if self.cluster.nospace() {
            self.fail("NOSPACE is still up");
        }
        if let Some(key) = self.cluster.store.turns.first() {
            self.fail(format!("{} still stands in the queue", key.record.instance));
        }
        if let Some((_, intent)) = &self.cluster.store.intent {
            self.fail(format!("the intent of {} still stands", intent.instance));
        }
        if let Some(forbidden) = self.setup.forbidden {
            if self.judge.sent > 0 {
                self.fail(format!("sent though {forbidden:?} forbids it"));
            }
            return;
        }
        if self.setup.tight {
            return;
        }
        let last = self.setup.rounds_with_faults + self.setup.rounds_healed - 1;
        let first = if self.setup.rounds_with_faults == 0 { 0 } else { last };
        for k in first..=last {
            let needed = self.judge.needed.get(&k).cloned().unwrap_or_default();
            for voter in self.cluster.voters().collect::<Vec<_>>() {
                let round = self.round(voter, k * self.schedule_of(voter).times);
                let outcome = self.cluster.store.outcome(round, self.member_id(voter));
                if needed[voter] && !matches!(outcome, Some((Outcome::Done, _))) {
                    self.fail(format!("m{voter} needed a defrag in {round} and got {outcome:?}"));
                }
            }
        }
    }
}
