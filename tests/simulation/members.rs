//! What members do by themselves: run queued defrags to their end, crash, resume, elect.

use etcd_janitor::plan::step::{Answer, Sent};

use super::faults::Undo;
use super::model::{By, MS, Open, SEC, Us};
use super::tally::Fault;
use super::world::{Ev, World};

impl World {
    /// A call reaches its member. Whatever its sender does from here on, it is carried out.
    pub fn defrag_arrives(&mut self, index: usize, generation: u32, open: Open) {
        if let By::Janitor(call) = open.by {
            // The bytes of a process that was killed in the window never left it.
            let sender = &self.procs[call.janitor];
            if call.paused_in_window && (sender.epoch != call.epoch || sender.plan.is_none()) {
                return self.judge.landed(&call);
            }
        }
        let member = &mut self.cluster.members[index];
        if !member.up || (member.generation != generation && open.by == By::Operator) {
            return self.connection_lost(open);
        }
        if let By::Janitor(call) = open.by
            && member.generation != generation
            && !call.paused_in_window
        {
            return self.connection_lost(open);
        }
        if member.paused_until > self.now {
            member.unread.push(open);
            return;
        }
        if open.by == By::Operator {
            self.fault(Fault::ForeignDefrag);
            if !self.cluster.members[index].open.is_empty() {
                self.fault(Fault::QueuedDefrag);
            }
        }
        self.judge_begin(index, &open);
        let member = &mut self.cluster.members[index];
        member.open.push_back(Open { begun: self.now, ..open });
        self.note(|| format!("m{index} accepts a defrag of {:?}", open.by));
        self.tally.defrags += 1;
        if self.cluster.members[index].open.len() == 1 {
            self.start_soon(index);
        }
    }

    /// There is a moment between the acceptance of a call, or the end of the one before it, and the lock.
    fn start_soon(&mut self, member: usize) {
        let generation = self.cluster.members[member].generation;
        let span = self.rng.within(2 * MS, 40 * MS);
        self.after(span, Ev::DefragRuns { member, generation });
    }

    pub fn defrag_runs(&mut self, index: usize, generation: u32) {
        let now = self.now;
        let member = &mut self.cluster.members[index];
        if member.generation != generation || member.running.is_some() {
            return;
        }
        if member.paused_until > now {
            let until = member.paused_until;
            return self.at(until + MS, Ev::DefragRuns { member: index, generation });
        }
        let Some(first) = member.open.front() else { return };
        let serial = first.serial;
        member.running = Some(now);
        let (low, high) = self.setup.defrag_ms;
        let mut span = self.rng.within(low, high) * MS;
        if self.faulty && self.rng.per_mille(200) {
            self.fault(Fault::SlowDefrag);
            span = self.setup.ttl.as_micros() as Us * 3;
        }
        self.after(span, Ev::DefragEnds { member: index, generation, serial });
    }

    pub fn defrag_ends(&mut self, index: usize, generation: u32, serial: u64) {
        let (now, churning) = (self.now, self.setup.churning);
        let member = &mut self.cluster.members[index];
        if member.generation != generation {
            return;
        }
        if member.paused_until > now || member.snapshots > 0 {
            let until = member.paused_until.max(now) + 200 * MS;
            return self.at(until, Ev::DefragEnds { member: index, generation, serial });
        }
        let Some(ended) = member.open.pop_front() else { return };
        member.running = None;
        member.serving_since = now;
        member.defrag_count += 1;
        if ended.by == By::Operator {
            member.foreign_ended = now;
        }
        if !churning {
            member.db_size = member.db_size_in_use;
        }
        let more = !member.open.is_empty();
        self.note(|| format!("m{index} ends the defrag of {:?}", ended.by));
        if let By::Janitor(call) = ended.by
            && !call.answer_lost
        {
            let seconds = (now - ended.begun) as f64 / SEC as f64;
            let answer = Answer::Sent(Sent::Done { seconds });
            let span = self.rng.within(MS, 300 * MS);
            let (janitor, epoch, ticket) = (call.janitor, call.epoch, call.ticket);
            self.after(span, Ev::Answer { janitor, epoch, ticket, answer: Box::new(answer) });
            self.judge_defrag_ended(index, &call);
        }
        if more {
            self.start_soon(index);
        }
    }

    fn connection_lost(&mut self, open: Open) {
        let By::Janitor(call) = open.by else { return };
        self.judge.landed(&call);
        let answer = Answer::Sent(Sent::Unclear("connection reset".to_owned()));
        let (janitor, epoch, ticket) = (call.janitor, call.epoch, call.ticket);
        self.after(2 * MS, Ev::Answer { janitor, epoch, ticket, answer: Box::new(answer) });
    }

    /// False: it was down already.
    pub fn member_crash(&mut self, index: usize, down: Option<Us>) -> bool {
        let now = self.now;
        let member = &mut self.cluster.members[index];
        if !member.up {
            return false;
        }
        member.up = false;
        member.paused_until = 0;
        member.away_since.get_or_insert(now);
        member.generation += 1;
        member.running = None;
        member.snapshots = 0;
        let calls: Vec<Open> = member.open.drain(..).chain(member.unread.drain(..)).collect();
        self.note(|| format!("m{index} dies"));
        for open in calls {
            self.connection_lost(open);
        }
        if let Some(down) = down {
            self.after(down, Ev::MemberUp { member: index });
        }
        self.leader_may_be_lost();
        true
    }

    pub fn member_up(&mut self, index: usize) {
        let now = self.now;
        let member = &mut self.cluster.members[index];
        if member.up || !member.listed {
            return;
        }
        member.up = true;
        member.away_since = None;
        member.process_start = 1000.0 + index as f64 + now as f64 / SEC as f64;
        member.defrag_count = 0;
        member.serving_since = now;
        member.leader_seen = None;
        self.note(|| format!("m{index} is up again"));
        let span = self.rng.within(100 * MS, 3 * SEC);
        self.after(span, Ev::Learn { member: index });
        self.leader_may_be_lost();
    }

    pub fn member_pause(&mut self, index: usize, span: Us) {
        let now = self.now;
        let member = &mut self.cluster.members[index];
        if !member.runs(now) {
            return;
        }
        self.fault(Fault::MemberPause);
        let member = &mut self.cluster.members[index];
        member.paused_until = now + span;
        member.away_since = Some(now);
        self.note(|| format!("m{index} is paused for {:.3} s", span as f64 / SEC as f64));
        self.after(span, Ev::MemberResumes { member: index });
        self.leader_may_be_lost();
    }

    /// What waited in its socket may be read some seconds later than new requests: a connection that backed off sends
    /// again in its own time.
    pub fn member_resumes(&mut self, index: usize) {
        let now = self.now;
        let member = &mut self.cluster.members[index];
        if !member.up || member.paused_until > now {
            return;
        }
        member.paused_until = 0;
        member.away_since = None;
        member.serving_since = now;
        let generation = member.generation;
        for open in std::mem::take(&mut member.unread) {
            let span = self.rng.within(MS, 5 * SEC);
            self.after(span, Ev::DefragArrives { member: index, generation, open });
        }
        self.after(20 * MS, Ev::Learn { member: index });
        self.leader_may_be_lost();
    }

    pub fn leader_may_be_lost(&mut self) {
        if !self.electing && !self.cluster.commits(self.now) {
            self.electing = true;
            let patience = self.rng.within(SEC, 2 * SEC);
            self.after(patience, Ev::Election);
        }
    }

    /// First the leader is missed, then somebody is elected: often the one that is busy with its defrag.
    pub fn election(&mut self) {
        let now = self.now;
        self.electing = false;
        if self.cluster.commits(now) {
            return;
        }
        self.cluster.last_unavailable = now;
        let gone = self.cluster.leader.is_some_and(|leader| !self.cluster.members[leader].takes_part(now));
        if gone {
            self.cluster.leader = None;
            self.spread_news(300);
        } else if self.cluster.leader.is_none() && self.cluster.quorum(now) {
            let running: Vec<usize> =
                self.cluster.voters().filter(|voter| self.cluster.members[*voter].takes_part(now)).collect();
            let busy = running.iter().copied().find(|voter| self.cluster.members[*voter].running.is_some());
            let chosen = self.rng.pick(&running);
            let winner = busy.filter(|_| self.rng.per_mille(750)).unwrap_or(chosen);
            return self.lead(winner);
        }
        self.electing = true;
        let again = self.rng.within(300 * MS, 1_500 * MS);
        self.after(again, Ev::Election);
    }

    pub fn lead(&mut self, winner: usize) {
        if self.cluster.members[winner].running.is_some() {
            self.fault(Fault::BusyMemberElected);
        }
        self.cluster.lead(winner, self.now);
        // Who wins an election is the first to know.
        let member = &mut self.cluster.members[winner];
        (member.leader_seen, member.term_seen) = (Some(winner), self.cluster.term);
        self.note(|| format!("m{winner} leads"));
        // A heartbeat tells the others, mostly at once.
        let slow = if self.faulty { self.rng.pick(&[3, 3, 150, 150, 3_000]) } else { 150 };
        self.spread_news(slow);
    }

    fn spread_news(&mut self, within_ms: u64) {
        for member in 0..self.cluster.members.len() {
            let span = self.rng.within(1, within_ms) * MS;
            self.after(span, Ev::Learn { member });
        }
    }

    pub fn learn(&mut self, index: usize) {
        let (leader, term) = (self.cluster.leader, self.cluster.term);
        let member = &mut self.cluster.members[index];
        if member.takes_part(self.now) {
            (member.leader_seen, member.term_seen) = (leader, term);
        }
    }

    /// No other member hears it; it answers its clients, from what it knew. Soon it knows no leader.
    pub fn isolate(&mut self, index: usize, span: Us) {
        let member = &mut self.cluster.members[index];
        if member.isolated || !member.takes_part(self.now) || self.cluster.voters().count() < 3 {
            return;
        }
        self.fault(Fault::MembersCutApart);
        self.cluster.members[index].isolated = true;
        self.note(|| format!("m{index} is cut off from the other members"));
        let patience = self.rng.within(SEC, 2 * SEC);
        self.after(patience, Ev::Undo(Undo::Heard { member: index }));
        self.after(span, Ev::Undo(Undo::Isolation { member: index }));
        self.leader_may_be_lost();
    }

    /// The leader was not heard for too long.
    pub fn misses_the_leader(&mut self, index: usize) {
        let member = &mut self.cluster.members[index];
        if member.isolated {
            member.leader_seen = None;
        }
    }

    pub fn rejoin(&mut self, index: usize) {
        if !std::mem::take(&mut self.cluster.members[index].isolated) {
            return;
        }
        let span = self.rng.within(20 * MS, SEC);
        self.after(span, Ev::Learn { member: index });
        self.leader_may_be_lost();
    }
}
