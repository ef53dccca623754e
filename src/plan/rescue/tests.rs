use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::*;
use crate::plan::cluster::{Alarm, Disk, Listing, MemberLook, Place, QuotaBytes, Records, Scrape, Status, Stored};
use crate::plan::forecast::Rates;
use crate::plan::member::MemberId;
use crate::plan::record::{Hold, Intent, Unreadable, VERSION};
use crate::plan::rule::Rule;
use crate::plan::step::Sent;

const MIB: u64 = 1 << 20;
const QUOTA: u64 = 64 * MIB;

fn at(seconds: u64) -> Now {
    let wall = DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::seconds(1_800_000_000 + seconds as i64);
    Now { mono: Mono::new(Duration::from_secs(1000 + seconds)), wall }
}

fn policy() -> Policy {
    Policy {
        dry_run: false,
        rule: Rule::parse("true").unwrap(),
        quota: None,
        window: Duration::from_secs(3600),
        still_for: STILL_FOR,
        settled_for: STILL_FOR,
        retry_every: Duration::from_secs(30),
        leader_head_start: Duration::ZERO,
        leader_wait: Duration::ZERO,
        drain: Duration::ZERO,
        pause_between: Duration::ZERO,
        timeout: Duration::from_secs(600),
        request_timeout: Duration::from_secs(5),
        lease_ttl: Duration::from_secs(60),
        allow_small_cluster: false,
        allow_unsafe_versions: false,
        liveness_budget: Some(Duration::from_secs(25)),
        recorded: Rates::default(),
        verify_hash: false,
        disarm_below: 0.9,
        rescue: true,
    }
}

/// Sizes and in-use bytes in MiB; member 1 leads; all have raised NOSPACE.
fn look(now: Now, members: &[(u64, u64)]) -> Look {
    let ids: Vec<MemberId> = (1..=members.len() as u64).map(MemberId).collect();
    let alarms: BTreeSet<Alarm> = ids.iter().map(|id| Alarm { member: *id, kind: AlarmKind::Nospace }).collect();
    let member = |(id, (size, in_use)): (&MemberId, &(u64, u64))| MemberLook {
        id: *id,
        name: format!("m{}", id.0),
        learner: false,
        status: Ok(Status {
            version: "3.5.30".to_owned(),
            db_size: size * MIB,
            db_size_in_use: in_use * MIB,
            quota: None,
            leader: Some(MemberId(1)),
            term: 2,
            index: 100,
            applied: 100,
            revision: 50,
            alarms: alarms.clone(),
            learner: false,
        }),
        scrape: Ok(Scrape {
            defrags_open: 0,
            snapshots_open: 0,
            defrag_count: 0,
            defrags_failed: 0,
            defrag_seconds: 0.0,
            process_start: 1.0,
            quota: Some(QuotaBytes::Bytes(QUOTA)),
            compact_revision: Some(40),
            active_peers: ids.iter().copied().filter(|other| other != id).collect(),
        }),
    };
    Look {
        begun: now,
        listing: Listing::Agreed,
        members: ids.iter().zip(members).map(member).collect(),
        records: Ok(Records::default()),
        disk: None,
        rights: Ok(()),
    }
}

fn status(look: &mut Look, index: usize) -> &mut Status {
    look.members[index].status.as_mut().unwrap()
}

fn scrape(look: &mut Look, index: usize) -> &mut Scrape {
    look.members[index].scrape.as_mut().unwrap()
}

fn named(look: &Look) -> Result<Next, Reason> {
    next(look, MemberId(1), &policy(), at(0)).map_err(|blocked| blocked.reason)
}

/// Its janitor alone does not reach it.
fn unreached(look: &mut Look, index: usize) {
    let gone = Blocked::new(Reason::EtcdUnavailable, "no answer");
    look.members[index].status = Err(gone.clone());
    look.members[index].scrape = Err(gone);
}

/// Its process is gone, for its peers too.
fn down(look: &mut Look, index: usize) {
    unreached(look, index);
    let id = look.members[index].id;
    for member in &mut look.members {
        if let Ok(scrape) = &mut member.scrape {
            scrape.active_peers.remove(&id);
        }
    }
}

#[test]
fn the_lowest_follower_with_something_to_gain_is_next_then_the_leader_hands_over() {
    let full = (64, 20);
    let done = (20, 20);
    assert_eq!(named(&look(at(0), &[full, full, full])), Ok(Next::Defragment(MemberId(2))));
    assert_eq!(named(&look(at(0), &[full, done, full])), Ok(Next::Defragment(MemberId(3))));
    let handed = Next::MoveLeader { from: MemberId(1), to: MemberId(2) };
    assert_eq!(named(&look(at(0), &[full, done, done])), Ok(handed));
    let Ok(Next::Disarm(members)) = named(&look(at(0), &[done, done, done])) else { panic!() };
    assert_eq!(members, (1..=3).map(MemberId).collect());
    // Alone it leads and there is nobody to hand over to.
    assert_eq!(named(&look(at(0), &[full])), Ok(Next::Defragment(MemberId(1))));
}

#[test]
fn only_room_below_the_threshold_clears_the_alarm() {
    // 90 % of 64 MiB is 57.6 MiB.
    assert!(matches!(named(&look(at(0), &[(57, 57), (57, 57), (57, 57)])), Ok(Next::Disarm(_))));
    let Ok(Next::Stuck(members)) = named(&look(at(0), &[(57, 57), (58, 57), (57, 57)])) else { panic!() };
    assert_eq!((members.len(), members[0].member, members[0].why), (1, MemberId(2), Why::InUse));
    // Of a large quota 32 MiB, of a small one a twentieth is what a defrag must give back.
    assert_eq!(named(&look(at(0), &[(64, 57), (64, 57), (64, 57)])), Ok(Next::Defragment(MemberId(2))));
    let mut large = look(at(0), &[(64, 40), (64, 40), (64, 40)]);
    for index in 0..3 {
        scrape(&mut large, index).quota = Some(QuotaBytes::Bytes(66 * MIB));
    }
    assert_eq!(named(&large), Ok(Next::Defragment(MemberId(2))));
    let mut live = look(at(0), &[(64, 60), (64, 60), (64, 60)]);
    assert!(matches!(named(&live), Ok(Next::Stuck(_))), "no defrag brings it below");
    for index in 0..3 {
        scrape(&mut live, index).quota = Some(QuotaBytes::Disabled);
    }
    assert!(matches!(named(&live), Ok(Next::Disarm(_))));
}

#[test]
fn without_a_quota_nothing_is_cleared_and_what_is_free_is_had() {
    let mut unknown = look(at(0), &[(64, 20), (64, 20), (64, 20)]);
    for index in 0..3 {
        scrape(&mut unknown, index).quota = None;
    }
    assert_eq!(named(&unknown), Ok(Next::Defragment(MemberId(2))));
    let mut spent = look(at(0), &[(20, 20), (20, 20), (20, 20)]);
    scrape(&mut spent, 2).quota = None;
    let Ok(Next::Stuck(members)) = named(&spent) else { panic!() };
    assert_eq!((members.len(), members[0].why), (1, Why::QuotaUnknown));
    let told = Policy { quota: Some(QUOTA), ..policy() };
    assert!(matches!(next(&spent, MemberId(1), &told, at(0)), Ok(Next::Disarm(_))));
}

#[test]
fn a_learner_that_is_too_large_or_away_keeps_the_alarm_up() {
    let mut learner = look(at(0), &[(20, 20), (20, 20), (20, 20), (64, 20)]);
    learner.members[3].learner = true;
    let Ok(Next::Stuck(members)) = named(&learner) else { panic!() };
    assert_eq!((members[0].member, members[0].why), (MemberId(4), Why::Learner));
    down(&mut learner, 3);
    assert_eq!(named(&learner), Err(Reason::MemberDown));
    // It does not keep the voters from being defragmented.
    let mut before = look(at(0), &[(64, 20), (64, 20), (64, 20), (64, 20)]);
    before.members[3].learner = true;
    down(&mut before, 3);
    assert_eq!(named(&before), Ok(Next::Defragment(MemberId(2))));
}

#[test]
fn of_five_one_may_be_down_and_of_three_none() {
    let mut three = look(at(0), &[(64, 20); 3]);
    down(&mut three, 1);
    assert_eq!(named(&three), Err(Reason::MemberDown));
    let mut five = look(at(0), &[(64, 20); 5]);
    down(&mut five, 1);
    assert_eq!(named(&five), Ok(Next::Defragment(MemberId(3))));
    // Not reached from here only: the others name it, and so nobody may name another one.
    let mut cut_off = look(at(0), &[(64, 20); 5]);
    unreached(&mut cut_off, 1);
    assert_eq!(named(&cut_off), Err(Reason::MemberDown));
    scrape(&mut cut_off, 0).active_peers.clear();
    assert_eq!(named(&cut_off), Err(Reason::MemberDown), "a leader that tells of no peer is no witness");
    // An open Defragment would not be seen there; and whether its full file would raise the alarm again is seen.
    for sizes in [(64, 20), (20, 20)] {
        let mut without_metrics = look(at(0), &[sizes; 5]);
        status(&mut without_metrics, 1).db_size = QUOTA;
        without_metrics.members[1].scrape = Err(Blocked::new(Reason::EtcdUnavailable, ""));
        assert_eq!(named(&without_metrics), Err(Reason::MemberDown));
        scrape(&mut without_metrics, 0).active_peers.remove(&MemberId(2));
        assert_eq!(named(&without_metrics), Err(Reason::MemberDown), "it answers");
    }
    down(&mut five, 2);
    assert_eq!(named(&five), Err(Reason::MemberDown));
    let mut leader = look(at(0), &[(64, 20); 5]);
    down(&mut leader, 0);
    assert_eq!(named(&leader), Err(Reason::NoLeader));
    let mut room = look(at(0), &[(20, 20); 5]);
    down(&mut room, 4);
    assert!(matches!(named(&room), Ok(Next::Disarm(_))));
}

#[test]
fn whatever_is_not_quiet_is_in_the_way() {
    type Disturb<'a> = &'a dyn Fn(&mut Look);
    let cases: [(Reason, Disturb<'_>); 9] = [
        (Reason::Corrupt, &|look| {
            let corrupt = Alarm { member: MemberId(3), kind: AlarmKind::Corrupt };
            status(look, 0).alarms.insert(corrupt);
        }),
        (Reason::ForeignDefrag, &|look| scrape(look, 2).defrags_open = 1),
        (Reason::SnapshotOpen, &|look| scrape(look, 2).snapshots_open = 1),
        (Reason::LeaderDisagreement, &|look| status(look, 2).term = 3),
        (Reason::NoLeader, &|look| status(look, 1).leader = None),
        (Reason::MemberLagging, &|look| status(look, 1).index = 5000),
        (Reason::MemberChanged, &|look| look.listing = Listing::Disagreed(String::new())),
        (Reason::IntentOpen, &|look| {
            let place = Place { lease: 7, create_revision: 5, value: Err(Unreadable::TooLong(1)) };
            look.records.as_mut().unwrap().turns.push(place);
        }),
        (Reason::Hold, &|look| {
            let (reason, by) = ("move".to_owned(), "ops".to_owned());
            let hold = Hold { v: VERSION, reason, by, until: at(60).wall, extra: Default::default() };
            look.records.as_mut().unwrap().hold = Some(Stored { mod_revision: 1, value: Ok(hold) });
        }),
    ];
    for (reason, disturb) in cases {
        let mut disturbed = look(at(0), &[(64, 20); 3]);
        disturb(&mut disturbed);
        assert_eq!(named(&disturbed), Err(reason));
    }
}

/// One janitor and the answers that it gets.
struct Played {
    rescue: Rescue,
    now: u64,
    look: Look,
    said: Vec<String>,
    /// Actions other than looks, each awaiting its answer.
    open: Vec<(Ticket, Action)>,
}

impl Played {
    fn new(me: u64, members: &[(u64, u64)], policy: Policy) -> Played {
        let me = Me { member: MemberId(me), name: format!("m{me}"), instance: "i".into(), holder: "pod".into() };
        let rescue = Rescue::new(me, policy, Tickets::of_round(0), None, at(0));
        Played { rescue, now: 0, look: look(at(0), members), said: Vec::new(), open: Vec::new() }
    }

    fn take(&mut self, mut steps: Vec<Step>) {
        while !steps.is_empty() {
            for step in std::mem::take(&mut steps) {
                match step {
                    Step::Do { ticket, action: Action::Look { .. } } => {
                        let mut look = self.look.clone();
                        look.begun = at(self.now);
                        steps.extend(self.rescue.answer(ticket, Answer::Looked(Box::new(look)), at(self.now)));
                    }
                    Step::Do { ticket, action } => self.open.push((ticket, action)),
                    Step::Say(say) => self.said.push(say.text),
                    _ => {}
                }
            }
        }
    }

    /// Lets this many seconds pass.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..=seconds {
            if self.rescue.wake_at().is_some_and(|wake| at(self.now).mono >= wake) {
                let steps = self.rescue.tick(at(self.now));
                self.take(steps);
            }
            self.now += 1;
        }
        self.now -= 1;
        self
    }

    /// Until there is an action to carry out, which must come within this many seconds.
    fn action(&mut self, within: u64) -> Action {
        for _ in 0..=within {
            if self.open.is_empty() {
                self.pass(1);
            }
            if let Some((_, action)) = self.open.first() {
                return action.clone();
            }
        }
        panic!("nothing within {within} s; said {:?}, blocked {:?}", self.said, self.rescue.blocked);
    }

    fn answer(&mut self, answer: Answer) {
        let (ticket, _) = self.open.remove(0);
        let steps = self.rescue.answer(ticket, answer, at(self.now));
        self.take(steps);
    }

    fn compacted(&mut self, possible_at: Option<Now>, outcome: Outcome) {
        let detail = "what is left to compact is younger than 300 s".to_owned();
        self.answer(Answer::Compacted(Compaction {
            outcome,
            detail,
            revision: None,
            possible_at,
            kept_for: KeptFor::Retention,
        }));
    }

    fn defragmented(&mut self, index: usize, size: u64) {
        status(&mut self.look, index).db_size = size * MIB;
        scrape(&mut self.look, index).defrag_count += 1;
        self.answer(Answer::Sent(Sent::Done { seconds: 1.0 }));
    }

    fn lead(&mut self, leader: u64) {
        for index in 0..self.look.members.len() {
            let status = status(&mut self.look, index);
            (status.leader, status.term) = (Some(MemberId(leader)), status.term + 1);
        }
    }

    fn blocked(&self) -> &Blocked {
        self.rescue.blocked.as_ref().expect("something in the way")
    }
}

#[test]
fn a_rescue_from_the_compaction_to_the_proof() {
    let mut leader = Played::new(1, &[(64, 60); 3], policy());
    assert_eq!(leader.action(0), Action::CompactForRescue);
    for index in 0..3 {
        status(&mut leader.look, index).db_size_in_use = 20 * MIB;
    }
    leader.compacted(None, Outcome::Done);
    leader.pass(30);
    assert!(leader.open.is_empty(), "the others go first: {:?}", leader.open);
    for index in [1, 2] {
        status(&mut leader.look, index).db_size = 20 * MIB;
        scrape(&mut leader.look, index).defrag_count = 1;
        leader.pass(12);
    }
    let Action::MoveLeader { from: MemberId(1), to: MemberId(2), .. } = leader.action(12) else { panic!() };
    leader.lead(2);
    leader.answer(Answer::LeaderMoved(Ok(())));
    leader.pass(9);
    assert!(leader.open.is_empty(), "the new leader has not settled");
    let Action::Defragment { permit, remote: false, .. } = leader.action(5) else { panic!() };
    assert_eq!(permit.member, MemberId(1));
    leader.defragmented(0, 20);
    leader.pass(30);
    assert!(leader.open.is_empty(), "the leader's janitor clears it");
    leader.lead(1);
    let Action::Disarm { members } = leader.action(13) else { panic!() };
    assert_eq!(members, [1, 2, 3].map(MemberId));
    for index in 0..3 {
        status(&mut leader.look, index).alarms.clear();
    }
    leader.answer(Answer::Disarmed(Ok(())));
    assert_eq!(leader.action(1), Action::Prove);
    leader.answer(Answer::Proved(Ok(())));
    for member in [1, 2, 3] {
        let Action::Settle(settle) = leader.action(1) else { panic!() };
        assert_eq!(settle.record.unwrap().member, MemberId(member));
        leader.answer(Answer::Settled(Ok(())));
    }
    assert!(leader.rescue.is_over());
    let told = leader.said.last().unwrap();
    assert!(told.starts_with("rescued: etcd takes writes again after") && told.contains("m2"), "{told}");
}

#[test]
fn a_janitor_that_does_not_act_has_a_deputy_for_the_same_member() {
    for (me, rank) in [(1, 0), (3, 1)] {
        let mut other = Played::new(me, &[(64, 20); 3], policy());
        if me == 1 {
            other.action(0);
            other.compacted(None, Outcome::Skipped(Reason::NotNeeded));
        }
        other.pass(70 + 30 * rank - 3);
        assert!(other.open.is_empty(), "{:?}", other.open);
        let Action::Defragment { permit, remote: true, .. } = other.action(6) else { panic!() };
        assert_eq!(permit.member, MemberId(2));
    }
}

#[test]
fn figures_that_move_and_a_term_that_changes_start_the_wait_again() {
    let mut second = Played::new(2, &[(64, 20); 3], policy());
    second.pass(9);
    status(&mut second.look, 2).db_size_in_use = 30 * MIB;
    second.pass(9);
    second.lead(3);
    second.pass(9);
    second.lead(1);
    second.pass(9);
    assert!(second.open.is_empty());
    assert!(matches!(second.action(4), Action::Defragment { remote: false, .. }));
}

#[test]
fn guards_stand_in_the_way_of_a_rescue_too() {
    let dry = Policy { dry_run: true, ..policy() };
    let small = [(64, 20); 2];
    let slow = Policy { liveness_budget: Some(Duration::from_millis(100)), ..policy() };
    type Case<'a> = (&'a [(u64, u64)], Policy, &'a str, Reason);
    let cases: [Case<'_>; 6] = [
        (&[(64, 20); 3], dry, "3.5.30", Reason::DryRun),
        (&small, policy(), "3.5.30", Reason::SmallCluster),
        (&[(64, 20); 3], slow, "3.5.30", Reason::LivenessBudget),
        (&[(64, 20); 3], policy(), "3.5.1", Reason::UnsafeVersion),
        (&[(64, 20); 3], policy(), "3.5.30", Reason::DiskSpace),
        (&[(64, 20); 3], policy(), "3.5.30", Reason::Auth),
    ];
    for (members, policy, version, reason) in cases {
        let mut second = Played::new(2, members, policy);
        status(&mut second.look, 1).version = version.to_owned();
        if reason == Reason::DiskSpace {
            second.look.disk = Some(Ok(Disk { free: MIB }));
        }
        if reason == Reason::Auth {
            second.look.rights = Err(Blocked::new(reason, "permission denied"));
        }
        second.pass(20);
        assert_eq!(second.blocked().reason, reason);
        assert!(second.open.is_empty(), "{:?}", second.open);
    }
}

#[test]
fn a_defrag_that_fails_is_not_hammered() {
    let mut second = Played::new(2, &[(64, 20); 3], policy());
    second.action(12);
    second.answer(Answer::Sent(Sent::Refused { text: "write db.tmp: no space left on device".into(), auth: false }));
    let refused = second.now;
    second.pass(30);
    assert_eq!(second.blocked().reason, Reason::DiskSpace);
    second.action(60);
    assert!(second.now >= refused + 60);
    // etcd is killed in mid-defrag: again as soon as a defrag may begin, once.
    let mut killed = Played::new(2, &[(64, 20); 3], policy());
    killed.action(12);
    scrape(&mut killed.look, 1).process_start = 77.0;
    killed.answer(Answer::Sent(Sent::Unclear("connection lost".into())));
    let lost = killed.now;
    killed.action(14);
    assert!(killed.now >= lost + 10, "not while others count");
    scrape(&mut killed.look, 1).process_start = 99.0;
    killed.answer(Answer::Sent(Sent::Unclear("connection lost".into())));
    killed.pass(100);
    assert!(killed.open.is_empty());
    assert!(killed.blocked().detail.contains("2 time(s)"), "{}", killed.blocked());
}

#[test]
fn an_open_intent_is_waited_for_whoever_it_names() {
    let mut second = Played::new(2, &[(64, 20); 3], policy());
    let intent = Intent {
        v: VERSION,
        member: MemberId(3),
        instance: "other".into(),
        holder: "pod-2".into(),
        round: RoundId { kind: RoundKind::Cron, due: DateTime::UNIX_EPOCH },
        target_start: 1.0,
        target_count: 0,
        db_size: 2,
        db_size_in_use: 1,
        at: DateTime::UNIX_EPOCH,
        extra: Default::default(),
    };
    second.look.records.as_mut().unwrap().intent = Some(Stored { mod_revision: 9, value: Ok(intent) });
    scrape(&mut second.look, 2).defrags_open = 1;
    second.pass(5);
    scrape(&mut second.look, 2).defrags_open = 0;
    second.pass(20);
    assert_eq!(second.blocked().reason, Reason::IntentOpen);
    second.look.records.as_mut().unwrap().intent = None;
    assert!(matches!(second.action(14), Action::Defragment { .. }), "a round's defrag is no operator's");
}

/// Every state of up to five members: with room, with something to gain, full of live data, or away; whoever leads.
#[test]
fn in_no_state_do_two_janitors_name_different_members() {
    let figures = [(20, 20), (64, 20), (64, 60)];
    let mut named = BTreeMap::new();
    for members in 1..=5u32 {
        for state in 0..4u32.pow(members) {
            for leader in 1..=members {
                let of = |member: u32| state / 4u32.pow(member) % 4;
                let sizes: Vec<_> = (0..members).map(|m| figures[of(m).min(2) as usize]).collect();
                let mut look = look(at(0), &sizes);
                for index in 0..members {
                    status(&mut look, index as usize).leader = Some(MemberId(u64::from(leader)));
                }
                for index in (0..members).filter(|member| of(*member) == 3) {
                    down(&mut look, index as usize);
                }
                let by = |me: u32| next(&look, MemberId(u64::from(me)), &policy(), at(0));
                let first = by(1);
                assert!((2..=members).all(|me| by(me) == first), "{look:?}");
                // Nor does one that is cut off from a member.
                for index in (0..members).filter(|_| leader == 1) {
                    let mut cut_off = look.clone();
                    unreached(&mut cut_off, index as usize);
                    let named = next(&cut_off, MemberId(1), &policy(), at(0));
                    assert!(named.is_err() || named == first, "m{index}: {look:?}");
                }
                if let Ok(Next::Defragment(member)) = &first {
                    let index = member.0 as u32 - 1;
                    assert_eq!(of(index), 1, "something to gain: {look:?}");
                    assert!(members == 1 || member.0 != u64::from(leader), "it leads: {look:?}");
                    assert!((0..members).filter(|m| of(*m) == 3).count() <= usize::from(members == 5), "{look:?}");
                }
                let kind = first.map_or_else(
                    |blocked| blocked.reason.name(),
                    |next| match next {
                        Next::Defragment(_) => "defragment",
                        Next::MoveLeader { .. } => "move",
                        Next::Disarm(_) => "disarm",
                        Next::Stuck(_) => "stuck",
                    },
                );
                *named.entry(kind).or_insert(0u32) += 1;
            }
        }
    }
    for kind in ["defragment", "move", "disarm", "stuck", "member_down", "no_leader"] {
        assert!(named.get(kind).is_some_and(|count| *count > 10), "{kind}: {named:?}");
    }
}

mod dead_ends;
mod others;
