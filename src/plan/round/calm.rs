//! Whether the cluster has kept its leader and its members for a while.
//!
//! Right after an election or a change of membership everything can look well and be none of it: clients reconnect,
//! leases are extended by the new leader, a new voter still receives its log. A defrag then would come on top.

use super::Round;
use super::judge::nospace;
use crate::plan::cluster::{Listing, Look, describe};
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::time::Mono;

/// What the newest look showed, and since when looks have shown nothing else.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Calm {
    leader: Leader,
    members: Vec<(MemberId, bool)>,
    members_since: Mono,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Leader {
    id: MemberId,
    term: u64,
    since: Mono,
}

impl Round {
    /// Takes note of leader, term and members. While a look cannot tell them, anything may change and change back.
    pub(super) fn notice(&mut self, look: &Look) {
        let (Ok((id, term)), Listing::Agreed) = (look.leader(), &look.listing) else {
            self.calm = None;
            return;
        };
        // What a rescue did under it may still be on its way: a round begins to wait when the alarm is gone.
        if nospace(look) {
            self.calm = None;
            return;
        }
        let at = look.begun.mono;
        let members: Vec<_> = look.members.iter().map(|member| (member.id, member.learner)).collect();
        let mut calm = Calm { leader: Leader { id, term, since: at }, members, members_since: at };
        if let Some(before) = self.calm.take() {
            if (before.leader.id, before.leader.term) == (id, term) {
                calm.leader = before.leader;
            }
            if before.members == calm.members {
                calm.members_since = before.members_since;
            }
        }
        self.calm = Some(calm);
    }

    /// Leadership that this round moved itself has settled: it was expected.
    pub(super) fn expect_leader(&mut self, id: MemberId, term: u64) {
        if let Some(calm) = &mut self.calm
            && (calm.leader.id, calm.leader.term) == (id, term)
        {
            calm.leader.since = self.started;
        }
    }

    /// Neither leader nor members changed within `settled_for` before this look.
    pub(super) fn calm_enough(&self, look: &Look) -> Result<(), Blocked> {
        let at = look.begun.mono;
        let Some(calm) = &self.calm else {
            return Err(Blocked::new(Reason::LeaderChanged, "no look has shown who leads yet"));
        };
        let unsettled = |since: Mono| at.since(since) < self.policy.settled_for;
        let age = |since: Mono| at.since(since).as_secs_f64();
        let wait = self.policy.settled_for.as_secs();
        if unsettled(calm.leader.since) {
            let name = look.member(calm.leader.id).map_or_else(|| calm.leader.id.to_string(), describe);
            let (term, age) = (calm.leader.term, age(calm.leader.since));
            let detail = format!("{name} is known to lead in term {term} for {age:.1} s; waits for {wait} s");
            return Err(Blocked::new(Reason::LeaderChanged, detail));
        }
        if unsettled(calm.members_since) {
            let age = age(calm.members_since);
            let detail = format!("the member list is known to be the same for {age:.1} s; waits for {wait} s");
            return Err(Blocked::new(Reason::MemberChanged, detail));
        }
        Ok(())
    }
}
