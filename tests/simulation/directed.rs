//! Fixed scenarios: what operators are promised, one sentence each.

use std::time::Duration;

use etcd_janitor::plan::reason::{Failure, Outcome, Reason};
use etcd_janitor::plan::step::Event;

use super::model::SEC;
use super::setup::{Forbidden, Setup};
use super::world::{Ev, World};

fn outcome(world: &World, member: usize) -> Option<Outcome> {
    world.cluster.store.outcome(world.round(member, 0), world.member_id(member)).map(|(outcome, _)| outcome)
}

/// Until a member runs a defrag; who it is.
fn until_somebody_runs(world: &mut World) -> usize {
    let running = |world: &World| world.cluster.members.iter().position(|member| member.running.is_some());
    world.run_while(600, |world| running(world).is_none()).unwrap();
    running(world).unwrap()
}

#[test]
fn three_janitors_that_fire_together_are_all_done_in_one_round_and_the_leader_goes_last() {
    for seed in 0..20 {
        let mut world = World::new(Setup { seed, ..Setup::calm(3) });
        let leader = world.cluster.leader.unwrap();
        world.run().unwrap();
        let order: Vec<usize> = world.judge.begun.iter().map(|(_, member)| *member).collect();
        assert_eq!(order.len(), 3, "seed {seed}: each once");
        assert_eq!(order[2], leader, "seed {seed}: {order:?}");
        assert_eq!(world.cluster.term, 3, "seed {seed}: leadership moved once");
        assert!((0..3).all(|member| outcome(&world, member) == Some(Outcome::Done)), "seed {seed}");
    }
}

/// Each second that it hesitates is one more of the round.
#[test]
fn the_leaders_janitor_queues_as_soon_as_the_others_are_through() {
    for seed in 0..20 {
        let mut world = World::new(Setup { seed, defrag_ms: (20_000, 30_000), ..Setup::calm(3) });
        world.run_while(600, |world| world.judge.begun.len() < 2).unwrap();
        world.run_while(600, |world| !world.cluster.store.turns.is_empty()).unwrap();
        let free = world.now;
        world.run_while(600, |world| world.cluster.store.turns.is_empty()).unwrap();
        assert!(world.now - free < SEC, "seed {seed}: {} ms", (world.now - free) * 1000 / SEC);
    }
}

/// An election, or a member that was not done yet when it was given leadership and hands it on in its own turn.
#[test]
fn leadership_that_came_back_is_moved_again_to_a_member_that_is_done() {
    for seed in 0..20 {
        let mut world = World::new(Setup { seed, ..Setup::calm(3) });
        let leader = world.cluster.leader.unwrap();
        world.run_while(600, |world| world.cluster.leader == Some(leader)).unwrap();
        world.lead(leader);
        world.run().unwrap();
        assert_eq!(world.cluster.term, 5, "seed {seed}: leadership came back once and was moved twice");
        assert!((0..3).all(|member| outcome(&world, member) == Some(Outcome::Done)), "seed {seed}: {:?}", world.ended);
    }
}

#[test]
fn a_defrag_three_times_longer_than_the_ttl_keeps_the_turn() {
    let mut setup = Setup { ttl: Duration::from_secs(20), defrag_ms: (60_000, 60_000), ..Setup::calm(3) };
    setup.policy.lease_ttl = setup.ttl;
    let mut world = World::new(setup);
    world.run().unwrap();
    assert_eq!(world.tally.turns_lost, 0);
    assert_eq!(world.judge.begun.len(), 3);
}

#[test]
fn a_janitor_killed_in_mid_defrag_adopts_it_after_its_restart() {
    let mut world = World::new(Setup { defrag_ms: (30_000, 40_000), ..Setup::calm(3) });
    let member = until_somebody_runs(&mut world);
    world.crash(member, Some(5 * SEC));
    world.run().unwrap();
    assert_eq!(world.cluster.members[member].defrag_count, 1, "not sent again");
    assert_eq!(outcome(&world, member), Some(Outcome::Done));
    assert!(world.tally.adopted >= 1);
}

#[test]
fn a_janitor_killed_in_mid_defrag_for_good_holds_the_others_up_until_its_intent_is_settled() {
    let mut world = World::new(Setup { defrag_ms: (30_000, 40_000), ..Setup::calm(3) });
    let member = until_somebody_runs(&mut world);
    world.crash(member, None);
    world.run_until(world.end()).unwrap();
    assert!((0..3).all(|member| outcome(&world, member) == Some(Outcome::Done)));
}

#[test]
fn a_lost_answer_is_resolved_by_the_members_own_count() {
    let mut setup = Setup::calm(3);
    setup.lose_answers = true;
    let mut world = World::new(setup);
    world.run().unwrap();
    assert!(world.cluster.members.iter().all(|member| member.defrag_count == 1), "nothing is retried");
    assert!((0..3).all(|member| outcome(&world, member) == Some(Outcome::Done)));
}

#[test]
fn a_member_that_restarts_in_mid_defrag_has_failed() {
    let mut world = World::new(Setup { defrag_ms: (30_000, 40_000), ..Setup::calm(3) });
    let member = until_somebody_runs(&mut world);
    world.member_crash(member, Some(3 * SEC));
    world.run_until(world.end()).unwrap();
    assert_eq!(outcome(&world, member), Some(Outcome::Failed(Failure::Restarted)));
    let others = (0..3).filter(|other| *other != member);
    assert!(others.into_iter().all(|other| outcome(&world, other) == Some(Outcome::Done)));
}

#[test]
fn a_single_voter_is_defragmented_without_a_turn_when_that_is_allowed() {
    let mut world = World::new(Setup::calm(1));
    world.run().unwrap();
    assert_eq!(world.judge.begun.len(), 1);
    assert!(world.cluster.store.leases.is_empty() && world.tally.turns_lost == 0);
}

#[test]
fn one_and_two_voters_are_left_alone_unless_that_is_allowed() {
    for voters in [1, 2] {
        let mut setup = Setup { forbidden: Some(Forbidden::SmallCluster), ..Setup::calm(voters) };
        setup.policy.allow_small_cluster = false;
        let mut world = World::new(setup);
        world.run().unwrap();
        let skipped = Outcome::Skipped(Reason::SmallCluster);
        assert!(world.ended.iter().all(|(_, _, outcome)| *outcome == skipped), "{:?}", world.ended);
    }
}

#[test]
fn a_learner_is_skipped_and_does_not_stop_the_voters() {
    let mut world = World::new(Setup { learners: 1, ..Setup::calm(3) });
    world.run().unwrap();
    assert_eq!(outcome(&world, 3), Some(Outcome::Skipped(Reason::Learner)));
    assert_eq!(world.judge.begun.len(), 3);
}

#[test]
fn nobody_starts_under_a_hold_and_an_expired_one_does_not_count() {
    let mut world = World::new(Setup { forbidden: Some(Forbidden::DryRun), ..Setup::calm(3) });
    world.set_hold(4000);
    world.run().unwrap();
    assert!((0..3).all(|member| outcome(&world, member) == Some(Outcome::Skipped(Reason::Hold))));

    let mut world = World::new(Setup::calm(3));
    world.set_hold(200);
    world.run().unwrap();
    assert!(world.judge.begun.iter().all(|(at, _)| *at > 200 * SEC));
    assert_eq!(world.judge.begun.len(), 3);
}

/// All of them come back from it at once, the leader's janitor as well.
#[test]
fn after_a_hold_the_leader_goes_last_as_ever() {
    for seed in 0..20 {
        let mut world = World::new(Setup { seed, ..Setup::calm(3) });
        let leader = world.cluster.leader.unwrap();
        world.set_hold(200);
        world.run().unwrap();
        assert_eq!(world.judge.begun.last().map(|(_, member)| *member), Some(leader), "seed {seed}");
        assert_eq!(world.cluster.term, 3, "seed {seed}: leadership moved once");
    }
}

#[test]
fn nospace_is_not_cleared_under_a_hold() {
    let mut world = World::new(Setup::calm(3));
    world.set_hold(200);
    let leader = world.cluster.leader.unwrap();
    let epoch = world.procs[leader].epoch;
    world.cluster.members[leader].nospace = true;
    world.after(SEC, Ev::Tell { janitor: leader, epoch, event: Event::NospaceSeen });
    world.run_while(600, |world| world.cluster.nospace()).unwrap();
    assert!(world.now > 200 * SEC, "cleared at {} s", world.now / SEC);
}

#[test]
fn a_round_does_not_clear_nospace_under_a_hold_or_when_told_to_stop() {
    for held in [true, false] {
        let mut world = World::new(Setup { defrag_ms: (20_000, 20_000), ..Setup::calm(3) });
        let member = until_somebody_runs(&mut world);
        world.cluster.members[member].nospace = true;
        let epoch = world.procs[member].epoch;
        if held {
            world.set_hold(600);
        } else {
            world.procs[member].quiesced = Some(world.now);
            world.after(0, Ev::Tell { janitor: member, epoch, event: Event::Quiesce });
        }
        world.run_until(world.now + 120 * SEC).unwrap();
        assert!(world.cluster.members[member].running.is_none() && world.cluster.nospace(), "held: {held}");
    }
}

/// etcd takes the intent away then and refuses the record, which is written when the alarm is gone: by the round itself,
/// or after a rescue for which the round gives the turn up.
#[test]
fn an_outcome_is_on_record_though_nospace_rose_in_mid_defrag() {
    for rescue in [false, true] {
        let mut setup = Setup { defrag_ms: (20_000, 20_000), ..Setup::calm(3) };
        setup.policy.rescue = rescue;
        let mut world = World::new(setup);
        let member = until_somebody_runs(&mut world);
        if rescue {
            world.raise_nospace();
        } else {
            world.cluster.members[member].nospace = true;
        }
        world.run_while(60, |world| world.cluster.store.intent.is_some()).unwrap();
        assert_eq!(outcome(&world, member), None, "rescue: {rescue}");
        world.run_while(1200, |world| outcome(world, member).is_none()).unwrap();
        assert_eq!(outcome(&world, member), Some(Outcome::Done), "rescue: {rescue}");
        assert!(!world.cluster.nospace(), "rescue: {rescue}");
    }
}

#[test]
fn a_member_that_was_removed_in_mid_defrag_holds_nobody_up() {
    let mut world = World::new(Setup { defrag_ms: (300_000, 300_000), ..Setup::calm(4) });
    let member = until_somebody_runs(&mut world);
    world.cluster.members[member].listed = false;
    world.cluster.list_changed = world.now;
    let id = world.member_id(member);
    let in_the_way = |world: &World| {
        let store = &world.cluster.store;
        let queued = store.turns.iter().any(|key| key.record.member == id);
        queued || store.intent.as_ref().is_some_and(|(_, intent)| intent.member == id)
    };
    world.run_while(20, in_the_way).unwrap();
    world.run_while(120, |world| world.judge.begun.len() < 2).unwrap();
    assert!(world.cluster.members[member].running.is_some(), "it is still at it");
    assert_eq!(outcome(&world, member), None, "an intent for a member that has left is cleared, and nothing recorded");
    world.run_until(world.end()).unwrap();
    assert_eq!(world.judge.begun.len(), 4);
}

#[test]
fn a_dry_run_that_was_blocked_until_its_windows_end_leaves_no_trace() {
    let mut setup = Setup { forbidden: Some(Forbidden::DryRun), ..Setup::calm(3) };
    setup.policy.dry_run = true;
    let mut world = World::new(setup);
    world.set_hold(4000);
    world.run().unwrap();
    let skipped = Outcome::Skipped(Reason::Hold);
    assert!(world.ended.len() == 3 && world.ended.iter().all(|(_, _, outcome)| *outcome == skipped));
    assert!(world.cluster.store.outcomes.is_empty());
}

#[test]
fn an_intent_that_lands_after_its_writer_gave_up_on_it_is_cleared() {
    for voters in [1, 3] {
        let mut setup = Setup::calm(voters);
        setup.late_intents = 1;
        let mut world = World::new(setup);
        // The lone janitor is the only one who can clear it, and it is inside its round.
        world.run().unwrap();
    }
}

/// Those that last: a round that is blocked or that waits for its leader is in one of them.
const PHASES: [&str; 16] = [
    "waiting for the jitter to pass",
    "waiting for still figures",
    "waiting to queue",
    "leads: waiting for the others to be through",
    "joining the queue",
    "in the queue",
    "has the turn, judging the cluster",
    "moving leadership away",
    "draining clients",
    "writing the intent",
    "taking the last look",
    "defragmenting",
    "finding out how the defrag ended",
    "waiting for the member to catch up",
    "comparing HashKV",
    "recording the outcome",
];

/// Tells `janitor` to stop as soon as it is in `phase`. False: it never was.
fn stopped_in(phase: &str, janitor: usize) -> bool {
    let mut setup = Setup { defrag_ms: (2_000, 3_000), jitter: Duration::from_secs(3), ..Setup::calm(3) };
    setup.policy.drain = Duration::from_secs(2);
    setup.policy.verify_hash = true;
    setup.lose_answers = phase.starts_with("finding out");
    let mut world = World::new(setup);
    world.run_until(60 * SEC).unwrap();
    let plan = |world: &World| world.procs[janitor].plan.clone().unwrap();
    let in_phase = |world: &World| plan(world).round().is_some_and(|round| round.phase() == phase);
    while !in_phase(&world) {
        if world.now > 70 * SEC && plan(&world).is_idle() {
            return false;
        }
        world.run_until(world.now + SEC / 500).unwrap();
    }
    let patience = if plan(&world).is_sent() { 30 } else { 12 };
    let epoch = world.procs[janitor].epoch;
    world.procs[janitor].quiesced = Some(world.now);
    world.after(0, Ev::Tell { janitor, epoch, event: Event::Quiesce });
    let ended = world.run_while(patience, |world| !plan(world).is_idle());
    assert!(ended.is_ok(), "{phase}: {ended:?}");
    let instance = World::instance(janitor, epoch);
    let store = &world.cluster.store;
    assert!(store.turns.iter().all(|key| key.record.instance != instance), "{phase}: a key is left");
    assert!(store.intent.as_ref().is_none_or(|(_, intent)| intent.instance != instance), "{phase}: an intent is left");
    true
}

#[test]
fn told_to_stop_in_any_phase_a_janitor_ends_soon_and_leaves_no_key() {
    for phase in PHASES {
        let janitors: Vec<usize> = (0..3).filter(|janitor| stopped_in(phase, *janitor)).collect();
        assert!(!janitors.is_empty(), "nobody was ever {phase}");
    }
}
