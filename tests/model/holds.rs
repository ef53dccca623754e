//! What holds while the assumption does.

use super::explore::{depth, explore};
use super::properties::{ADOPTED, ALL_DONE, LEADER_MOVED, RESOLVED, SAFETY, UNKNOWN};
use super::scope::{ALL_WORK, Budget, FAULTS, Fault, ONE_WORKS, Scope, TWO_WORK};

#[test]
fn three_members_take_turns_in_every_order_of_things() {
    let explored = explore("three at work, no fault", Scope::new(ALL_WORK, Budget::NONE), usize::MAX, &SAFETY);
    explored.holds(&SAFETY);
    assert!(explored.complete);
    explored.shows(&[ALL_DONE, LEADER_MOVED]);
}

/// Complete, for the kinds of faults that leave few worlds behind.
#[test]
fn one_fault_breaks_nothing() {
    for fault in [Fault::Lost, Fault::Late, Fault::Election, Fault::MemberRestart, Fault::Cut] {
        let scope = Scope::new(TWO_WORK, Budget::new(1, &[(fault, 1)]));
        let explored = explore(&format!("two at work, {fault:?}"), scope, usize::MAX, &SAFETY);
        explored.holds(&SAFETY);
        assert!(explored.complete);
        explored.shows(&[ALL_DONE]);
    }
}

/// After these, clocks run on beside each other for long: deep enough for the second member to be done.
#[test]
fn one_fault_that_takes_its_time_breaks_nothing() {
    for (fault, shows) in [
        (Fault::Crash, &[ADOPTED, RESOLVED, UNKNOWN][..]),
        (Fault::Pause, &[RESOLVED]),
        (Fault::Operator, &[]),
        (Fault::LeaseLost, &[RESOLVED]),
    ] {
        let scope = Scope::new(TWO_WORK, Budget::new(1, &[(fault, 1)]));
        let explored = explore(&format!("two at work, {fault:?}"), scope, depth(50), &SAFETY);
        explored.holds(&SAFETY);
        explored.shows(shows);
    }
}

#[test]
fn any_two_faults_break_nothing() {
    let each = FAULTS.map(|fault| (fault, 2));
    let explored = explore("one at work, any two", Scope::new(ONE_WORKS, Budget::new(2, &each)), depth(23), &SAFETY);
    explored.holds(&SAFETY);
    let each = FAULTS.map(|fault| (fault, 1));
    let explored = explore("all at work, any one", Scope::new(ALL_WORK, Budget::new(1, &each)), depth(21), &SAFETY);
    explored.holds(&SAFETY);
}

/// It reads the members, and the records some time later.
#[test]
fn a_resolver_that_takes_long_to_look_breaks_nothing() {
    let budget = Budget::new(2, &[(Fault::Pause, 1), (Fault::LeaseLost, 1)]);
    let scope = Scope { slow_resolvers: true, absent: [false, false, true], ..Scope::new(ONE_WORKS, budget) };
    let explored = explore("one at work, slow resolver", scope, depth(26), &SAFETY);
    explored.holds(&SAFETY);
    explored.shows(&[RESOLVED]);
}
