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

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::plan::examples::{at, look, policy};
    use crate::plan::member::{RoundId, RoundKind};
    use crate::plan::round::Start;
    use crate::plan::step::{Me, Tickets};

    fn round() -> Round {
        let id = RoundId { kind: RoundKind::Cron, due: DateTime::<Utc>::UNIX_EPOCH };
        let start = Start { id, late: Default::default(), jitter: Default::default() };
        let me = Me { member: MemberId(1), name: "m1".into(), instance: "i".into(), holder: "pod".into() };
        Round::new(start, me, policy(), Tickets::default(), at(0))
    }

    /// Three members, of which the last one leads since term 2.
    fn seen(seconds: u64) -> Look {
        look(at(seconds), "3.5.30", 3)
    }

    fn elected(mut look: Look, leader: u64, term: u64) -> Look {
        for member in &mut look.members {
            let status = member.status.as_mut().unwrap();
            (status.leader, status.term) = (Some(MemberId(leader)), term);
        }
        look
    }

    fn judged(round: &mut Round, look: &Look) -> Result<(), Reason> {
        round.notice(look);
        round.calm_enough(look).map_err(|blocked| blocked.reason)
    }

    #[test]
    fn the_first_look_proves_nothing_and_one_ten_seconds_later_does() {
        let mut round = round();
        assert_eq!(judged(&mut round, &seen(100)), Err(Reason::LeaderChanged));
        assert_eq!(judged(&mut round, &seen(109)), Err(Reason::LeaderChanged));
        assert_eq!(judged(&mut round, &seen(110)), Ok(()));
    }

    #[test]
    fn a_change_of_leader_or_of_term_is_waited_for_and_one_of_its_own_is_not() {
        let mut round = round();
        round.notice(&seen(0));
        assert_eq!(judged(&mut round, &elected(seen(100), 2, 3)), Err(Reason::LeaderChanged));
        assert_eq!(judged(&mut round, &elected(seen(110), 2, 4)), Err(Reason::LeaderChanged), "the same in a new term");
        assert_eq!(judged(&mut round, &elected(seen(120), 2, 4)), Ok(()));
        round.notice(&elected(seen(130), 3, 5));
        round.expect_leader(MemberId(3), 5);
        assert_eq!(judged(&mut round, &elected(seen(131), 3, 5)), Ok(()));
    }

    #[test]
    fn a_member_that_came_left_or_was_promoted_is_waited_for() {
        let mut round = round();
        round.notice(&seen(0));
        assert_eq!(judged(&mut round, &seen(50)), Ok(()));
        let four = |seconds| elected(look(at(seconds), "3.5.30", 4), 3, 2);
        assert_eq!(judged(&mut round, &four(60)), Err(Reason::MemberChanged));
        assert_eq!(judged(&mut round, &four(69)), Err(Reason::MemberChanged));
        assert_eq!(judged(&mut round, &four(70)), Ok(()));
        let mut learning = four(80);
        learning.members[3].learner = true;
        assert_eq!(judged(&mut round, &learning), Err(Reason::MemberChanged));
        learning.begun = at(90);
        assert_eq!(judged(&mut round, &learning), Ok(()));
        assert_eq!(judged(&mut round, &seen(95)), Err(Reason::MemberChanged));
    }

    #[test]
    fn what_a_look_could_not_tell_may_have_changed() {
        let mut round = round();
        round.notice(&seen(0));
        let disagreed = Look { listing: Listing::Disagreed("two lists".into()), ..seen(50) };
        assert_eq!(judged(&mut round, &disagreed), Err(Reason::LeaderChanged));
        assert_eq!(judged(&mut round, &seen(51)), Err(Reason::LeaderChanged));
        assert_eq!(judged(&mut round, &seen(61)), Ok(()));
    }
}
