//! Nothing helps, for now.

use super::*;

#[test]
fn a_dead_end_is_said_once_with_the_remedy_and_left_when_something_changes() {
    let mut leader = Played::new(1, &[(64, 60); 3], policy());
    assert_eq!(leader.action(0), Action::CompactForRescue);
    leader.compacted(Some(at(25)), Outcome::Skipped(Reason::NotNeeded));
    // The figures may be stale, whatever can be compacted later: one write that etcd takes.
    for after in [12, 2, 2] {
        assert_eq!(leader.action(after), Action::Refresh { raise: MemberId(1), clear_first: true });
        leader.answer(Answer::Refreshed(Ok(())));
    }
    leader.pass(4);
    assert!(leader.open.is_empty());
    assert_eq!(leader.blocked().reason, Reason::NotNeeded);
    assert!(leader.blocked().detail.contains("alarms.compact_to_head"), "{}", leader.blocked());
    assert_eq!(leader.action(5), Action::CompactForRescue);
    leader.compacted(None, Outcome::Skipped(Reason::NotNeeded));
    leader.pass(20);
    assert_eq!(leader.blocked().reason, Reason::Nospace);
    assert!(leader.blocked().detail.contains("--quota-backend-bytes"), "{}", leader.blocked());
    let said = leader.said.len();
    for _ in 0..5 {
        assert_eq!(leader.action(32), Action::CompactForRescue);
        leader.compacted(None, Outcome::Skipped(Reason::NotNeeded));
    }
    assert_eq!(leader.said.len(), said, "{:?}", leader.said);
    // Somebody deleted, and the compaction showed it.
    leader.action(32);
    for index in 0..3 {
        status(&mut leader.look, index).db_size_in_use = 20 * MIB;
    }
    for index in [1, 2] {
        status(&mut leader.look, index).db_size = 20 * MIB;
    }
    leader.compacted(None, Outcome::Done);
    assert!(matches!(leader.action(14), Action::MoveLeader { .. }));
    assert_eq!(leader.rescue.blocked, None);
}

/// One write did not make a member of 3.5.30 count its free pages, and the next one did.
#[test]
fn figures_are_made_fresh_more_than_once_and_not_for_ever() {
    let mut leader = Played::new(1, &[(64, 60); 3], policy());
    leader.action(0);
    leader.compacted(None, Outcome::Done);
    let mut refreshed = 0;
    while leader.now < 300 {
        leader.pass(1);
        match leader.open.first().map(|(_, action)| action.clone()) {
            Some(Action::CompactForRescue) => leader.compacted(None, Outcome::Skipped(Reason::NotNeeded)),
            Some(Action::Refresh { .. }) => {
                refreshed += 1;
                leader.answer(Answer::Refreshed(Ok(())));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    assert_eq!(refreshed, 3);
    // Counted at last.
    leader.action(0);
    for index in 0..3 {
        status(&mut leader.look, index).db_size_in_use = MIB;
    }
    leader.compacted(None, Outcome::Skipped(Reason::NotNeeded));
    leader.pass(14);
    assert_eq!(leader.rescue.blocked, None);
}

#[test]
fn a_dead_end_is_said_while_somebody_deletes() {
    let mut leader = Played::new(1, &[(64, 60); 3], policy());
    leader.action(0);
    leader.compacted(Some(at(2)), Outcome::Skipped(Reason::NotNeeded));
    let (mut compactions, mut refreshed) = (Vec::new(), 0);
    while leader.now < 200 {
        leader.pass(1);
        match leader.open.first().map(|(_, action)| action.clone()) {
            Some(Action::CompactForRescue) => {
                compactions.push(leader.now);
                // The next sample is fifteen seconds younger, and there is something in it.
                let possible = Some(at(leader.now + 15));
                leader.compacted(possible, Outcome::Done);
            }
            Some(Action::Refresh { .. }) => {
                refreshed += 1;
                leader.answer(Answer::Refreshed(Ok(())));
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    assert!(compactions.windows(2).all(|pair| pair[1] - pair[0] >= 30), "{compactions:?}");
    assert!(compactions[0] < 6 && compactions.len() >= 6, "{compactions:?}");
    assert!(refreshed >= compactions.len() - 1, "what a compaction frees may be hidden: {refreshed}");
    let dead_ends = leader.said.iter().filter(|said| said.contains("--quota-backend-bytes")).count();
    assert_eq!(dead_ends, 1, "{:?}", leader.said);
    assert_eq!(leader.blocked().reason, Reason::Nospace);
}

#[test]
fn what_is_advised_is_what_binds() {
    for (kept_for, advised) in [(KeptFor::Retention, true), (KeptFor::Kubernetes, false), (KeptFor::Nobody, false)] {
        let mut leader = Played::new(1, &[(64, 60); 3], policy());
        leader.action(0);
        let detail = "what is left to compact is younger than 300 s".to_owned();
        let outcome = Outcome::Skipped(Reason::NotNeeded);
        let compaction = Compaction { outcome, detail, revision: None, possible_at: Some(at(100)), kept_for };
        leader.answer(Answer::Compacted(compaction));
        for after in [12, 2, 2] {
            leader.action(after);
            leader.answer(Answer::Refreshed(Ok(())));
        }
        leader.pass(3);
        let told = &leader.blocked().detail;
        assert_eq!(told.contains("compact_to_head"), advised, "{told}");
        assert_eq!(told.contains("kube-apiserver"), kept_for == KeptFor::Kubernetes, "{told}");
    }
}
