//! What other janitors and operators do, and what each janitor makes of it.

use super::*;

/// Every janitor waits for a member whose defrag failed, whoever sent it.
#[test]
fn a_failed_defrag_of_another_janitor_is_no_deputys_to_try_again() {
    let quiet = |third: &mut Played, until: u64| {
        while third.now < until {
            third.pass(1);
            assert!(third.open.is_empty(), "at {}: {:?}", third.now, third.open);
        }
    };
    // Its janitor is member 2's; m3 is the second deputy, 100 s after ten of calm.
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.pass(20);
    scrape(&mut third.look, 1).defrags_failed = 1;
    quiet(&mut third, 20 + 60 + 96);
    assert!(matches!(third.action(10), Action::Defragment { remote: true, .. }));

    // Restarted twice in mid-defrag.
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.pass(5);
    for restart in 1..=2 {
        third.pass(12);
        scrape(&mut third.look, 1).defrags_open = 1;
        third.pass(2);
        let running = std::mem::replace(&mut third.look, look(at(0), &[(64, 20); 3]));
        third.look.members[1].scrape = Err(Blocked::new(Reason::EtcdUnavailable, ""));
        third.pass(2);
        third.look = running;
        let again = scrape(&mut third.look, 1);
        (again.defrags_open, again.process_start) = (0, 1.0 + f64::from(restart));
        third.pass(2);
    }
    let now = third.now;
    quiet(&mut third, now + 120 + 96);
    assert!(matches!(third.action(10), Action::Defragment { remote: true, .. }));

    // One that gives nothing back.
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.pass(5);
    scrape(&mut third.look, 1).defrag_count = 1;
    third.pass(2);
    let now = third.now;
    quiet(&mut third, now + 60 + 96);
    let mut second = Played::new(2, &[(64, 20); 3], policy());
    second.action(12);
    second.defragmented(1, 63);
    second.pass(30);
    assert!(second.blocked().detail.contains("hardly anything"), "{}", second.blocked());
}

#[test]
fn a_deputy_without_room_on_its_own_volume_refuses_as_the_owner_did() {
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.look.disk = Some(Ok(Disk { free: MIB }));
    third.pass(200);
    assert!(third.open.is_empty());
    assert_eq!(third.blocked().reason, Reason::DiskSpace);
}

#[test]
fn a_deputy_waits_for_the_owners_drain_too() {
    let drains = Policy { drain: Duration::from_secs(90), ..policy() };
    let mut third = Played::new(3, &[(64, 20); 3], drains);
    third.pass(100 + 90 - 3);
    assert!(third.open.is_empty());
    third.action(6);
}

#[test]
fn a_peers_defrag_is_waited_for_and_no_trouble() {
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.pass(5);
    third.look.members[1].status = Err(Blocked::new(Reason::EtcdUnavailable, "in its defrag"));
    scrape(&mut third.look, 1).defrags_open = 1;
    let said = third.said.len();
    third.pass(5);
    assert_eq!(third.rescue.state().phase, "waits for m2's defrag");
    assert_eq!((third.rescue.state().blocked, third.said.len()), (None, said), "{:?}", third.said);
}

#[test]
fn an_operator_is_noticed_by_what_is_short() {
    type Act<'a> = &'a dyn Fn(&mut Look);
    let defragmented = |index: usize| {
        move |look: &mut Look| {
            scrape(look, index).defrag_count += 1;
            status(look, index).db_size = 20 * MIB;
        }
    };
    let cleared = |look: &mut Look| {
        for index in 0..3 {
            status(look, index).alarms.retain(|alarm| alarm.member == MemberId(1));
        }
    };
    let open_on_two = |look: &mut Look| {
        scrape(look, 1).defrags_open = 1;
        scrape(look, 2).defrags_open = 1;
    };
    let silent = |look: &mut Look| {
        for index in 0..3 {
            unreached(look, index);
        }
    };
    let cases: [(&str, u64, Act<'_>, Option<&str>); 7] = [
        ("one that is not next", 3, &defragmented(2), Some("no janitor would have done")),
        ("the one that is next", 3, &defragmented(1), None),
        ("its own", 2, &defragmented(1), Some("too early")),
        ("some alarms", 3, &cleared, Some("NOSPACE was cleared")),
        ("the second that is open", 3, &open_on_two, Some("no janitor would do")),
        ("nobody answers", 3, &silent, None),
        ("nothing", 3, &|_| {}, None),
    ];
    for (what, me, act, sign) in cases {
        let mut played = Played::new(me, &[(64, 20); 3], policy());
        // Member 2 was another thing to do, until then.
        status(&mut played.look, 1).db_size = 20 * MIB;
        played.pass(5);
        status(&mut played.look, 1).db_size = 64 * MIB;
        played.pass(6);
        act(&mut played.look);
        played.pass(2);
        let said = played.said.join("; ");
        assert_eq!(said.contains("by hand"), sign.is_some(), "{what}: {said}");
        assert!(said.contains(sign.unwrap_or_default()), "{what}: {said}");
    }
}

/// In its defrag a member tells nothing, and the other looks of that time show the new alarms alone.
#[test]
fn alarms_that_were_cleared_while_a_member_was_silent_are_noticed_when_it_is_back() {
    for cleared in [false, true] {
        let mut third = Played::new(3, &[(64, 20); 3], policy());
        third.pass(5);
        let answer = third.look.members[1].status.clone();
        third.look.members[1].status = Err(Blocked::new(Reason::EtcdUnavailable, "in its defrag"));
        scrape(&mut third.look, 1).defrags_open = 1;
        third.pass(2);
        let keep = |look: &mut Look, index| {
            status(look, index).alarms.retain(|alarm| !cleared || alarm.member == MemberId(1));
        };
        keep(&mut third.look, 0);
        keep(&mut third.look, 2);
        third.pass(6);
        third.look.members[1].status = answer;
        keep(&mut third.look, 1);
        status(&mut third.look, 1).db_size = 20 * MIB;
        let own = scrape(&mut third.look, 1);
        (own.defrags_open, own.defrag_count) = (0, 1);
        third.pass(2);
        assert_eq!(third.said.iter().any(|said| said.contains("NOSPACE was cleared")), cleared, "{:?}", third.said);
    }
}

/// Ten seconds are nobody's who saw the change, and enough for somebody who saw more than a janitor that has just begun.
#[test]
fn a_defrag_that_begins_too_early_is_no_janitors() {
    let began = |after: u64, change: bool| {
        let mut third = Played::new(3, &[(64, 20); 3], policy());
        if change {
            third.lead(2);
            third.pass(5);
            third.lead(1);
        }
        third.pass(after);
        scrape(&mut third.look, 1).defrags_open = 1;
        third.pass(2);
        third.said.iter().any(|said| said.contains("too early"))
    };
    assert!(began(4, true));
    assert!(!began(9, true));
    assert!(!began(4, false), "others may have been calm for longer");
}

/// Its call was on its way when something else came next.
#[test]
fn a_defrag_of_the_member_that_was_next_a_moment_ago_is_no_operators() {
    for (seen_after, by_hand) in [(2, false), (7, true)] {
        let mut fifth = Played::new(5, &[(64, 20); 5], policy());
        fifth.pass(12);
        fifth.lead(3);
        fifth.pass(seen_after);
        scrape(&mut fifth.look, 1).defrags_open = 1;
        fifth.pass(20);
        assert_eq!(fifth.said.iter().any(|said| said.contains("by hand")), by_hand, "{:?}", fifth.said);
    }
}

/// A janitor that stood still: its answer is there, and somebody else may be on the way to the member that it would choose.
#[test]
fn leadership_is_not_handed_on_after_the_defrag() {
    for ended in [false, true] {
        let mut second = Played::new(2, &[(64, 20); 3], policy());
        second.action(12);
        second.lead(2);
        let own = scrape(&mut second.look, 1);
        (own.defrags_open, own.defrag_count) = (u64::from(!ended), u64::from(ended));
        second.pass(2);
        let moves = second.open.iter().any(|(_, action)| matches!(action, Action::MoveLeader { .. }));
        assert_eq!(moves, !ended, "{:?}", second.open);
    }
}

#[test]
fn an_alarm_that_was_cleared_in_a_defrag_was_cleared_by_hand() {
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.pass(5);
    scrape(&mut third.look, 1).defrags_open = 1;
    third.pass(30);
    for index in 0..3 {
        status(&mut third.look, index).alarms.clear();
    }
    third.pass(3);
    assert!(third.rescue.is_over() && third.rescue.stand_back_until().is_some());
    // By another janitor, as far as can be told.
    let mut third = Played::new(3, &[(20, 20); 3], policy());
    third.pass(5);
    for index in 0..3 {
        status(&mut third.look, index).alarms.clear();
    }
    third.pass(3);
    assert!(third.rescue.is_over() && third.rescue.stand_back_until().is_none());
}

#[test]
fn an_operator_at_work_is_left_alone() {
    // Member 3 is not what a janitor would defragment now.
    let mut second = Played::new(2, &[(64, 20); 3], policy());
    second.pass(5);
    scrape(&mut second.look, 2).defrags_open = 1;
    second.pass(4);
    scrape(&mut second.look, 2).defrags_open = 0;
    second.pass(590);
    assert!(second.open.is_empty());
    assert_eq!(second.blocked().reason, Reason::ForeignDefrag);
    assert_eq!(second.said.iter().filter(|said| said.contains("by hand")).count(), 1, "{:?}", second.said);
    assert!(matches!(second.action(30), Action::Defragment { .. }));

    // What would be next is somebody's janitor at work.
    let mut third = Played::new(3, &[(64, 20); 3], policy());
    third.pass(5);
    third.look.members[1].status = Err(Blocked::new(Reason::EtcdUnavailable, "in its defrag"));
    scrape(&mut third.look, 1).defrags_open = 1;
    third.pass(5);
    let mut answers = look(at(0), &[(64, 20), (20, 20), (64, 20)]);
    scrape(&mut answers, 1).defrag_count = 1;
    third.look = answers;
    assert!(matches!(third.action(14), Action::Defragment { .. }), "not stood back");

    // Cleared before every member had room.
    let mut gone = Played::new(3, &[(64, 20); 3], policy());
    gone.pass(5);
    for index in 0..3 {
        status(&mut gone.look, index).alarms.clear();
    }
    gone.pass(3);
    assert!(gone.rescue.is_over() && gone.rescue.stand_back_until().is_some());
    let mut again =
        Rescue::new(gone.rescue.me.clone(), policy(), Tickets::of_round(1), gone.rescue.stand_back_until(), at(8));
    assert!(again.judge(&look(at(9), &[(64, 20); 3]), None, at(9)).is_err());
}

#[test]
fn a_rescue_that_is_switched_off_ends_without_another_step() {
    let mut second = Played::new(2, &[(64, 20); 3], policy());
    second.pass(8);
    second.rescue.configure(&Policy { rescue: false, ..policy() }, at(second.now));
    second.pass(0);
    assert!(second.rescue.is_over() && second.open.is_empty(), "{:?}", second.rescue.state());
    // What was sent goes on, and is accounted for.
    let mut sent = Played::new(2, &[(64, 20); 3], policy());
    sent.action(12);
    sent.rescue.configure(&Policy { rescue: false, ..policy() }, at(sent.now));
    sent.pass(5);
    assert!(!sent.rescue.is_over());
    sent.defragmented(1, 20);
    assert!(sent.rescue.is_over());
}

#[test]
fn outside_of_a_rescue_nospace_stays_under_corrupt_and_beside_a_defrag() {
    use crate::plan::cluster::disarmable;
    let room = look(at(0), &[(20, 20); 3]);
    assert_eq!(disarmable(&room, 0.9, None), Ok((1..=3).map(MemberId).collect()));
    let mut corrupt = room.clone();
    status(&mut corrupt, 2).alarms.insert(Alarm { member: MemberId(3), kind: AlarmKind::Corrupt });
    assert_eq!(disarmable(&corrupt, 0.9, None).unwrap_err().reason, Reason::Corrupt);
    let mut busy = room;
    scrape(&mut busy, 1).defrags_open = 1;
    assert_eq!(disarmable(&busy, 0.9, None).unwrap_err().reason, Reason::ForeignDefrag);
}
