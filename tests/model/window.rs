//! What is possible without the assumption: the counterexample that no lock can take away.

use super::explore::{Explored, depth, explore};
use super::moves::Protocol;
use super::properties::{self, ONE_AT_A_TIME, ONLY_IN_THE_WINDOW};
use super::scope::{Budget, Fault, Scope};

/// The shortest way to two defrags at once. The checker goes on to the end of a batch when it has found one, so what it
/// tells may be longer by a step or two.
fn shortest(name: &str, scope: &Scope) -> Explored<Protocol> {
    let mut explored = explore(name, scope.clone(), usize::MAX, &[ONE_AT_A_TIME]);
    while let Some(steps) = explored.steps(ONE_AT_A_TIME) {
        let shorter = explore("  shorter", scope.clone(), steps + 1, &[ONE_AT_A_TIME]);
        if shorter.steps(ONE_AT_A_TIME).is_none() {
            break;
        }
        explored = shorter;
    }
    explored
}

fn in_the_window(explored: &Explored<Protocol>) {
    let path = explored.found.get(ONE_AT_A_TIME).expect("without the assumption there is a counterexample");
    let (last, _) = path.last().expect("a path has an end");
    let calls = properties::overlap(last).expect("it ends in an overlap");
    assert!(calls.iter().any(properties::in_window), "not held up inside the window: {calls:?}");
    println!("inside the window between look and send:\n{}", explored.story(ONE_AT_A_TIME));
}

#[test]
fn a_janitor_that_stands_still_in_the_window_makes_two() {
    let scope = Scope::pair(Budget::new(1, &[(Fault::Pause, 1)]));
    in_the_window(&shortest("unbounded arrival", &scope.unbounded()));
}

#[test]
fn somebody_who_starts_a_defrag_in_the_window_makes_two() {
    let scope = Scope::pair(Budget::new(1, &[(Fault::Operator, 1)]));
    in_the_window(&shortest("a reckless operator", &scope.reckless()));
}

/// There is no other way to two at once than the window.
#[test]
fn whatever_overlaps_was_in_the_window() {
    for fault in [Fault::Pause, Fault::Operator] {
        let scope = Scope::pair(Budget::new(1, &[(fault, 1)])).unbounded().reckless();
        let explored = explore(&format!("no assumption, {fault:?}"), scope, depth(49), &[ONLY_IN_THE_WINDOW]);
        explored.holds(&[ONLY_IN_THE_WINDOW]);
        explored.shows(&[ONE_AT_A_TIME]);
    }
}
