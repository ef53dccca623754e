//! The rescue under the model checker: no queue, no intent, no lease, only what each janitor sees.

mod carry;
mod moves;
mod properties;
mod scope;
mod seen;
mod story;
mod world;

use crate::explore::{self, Explored, Path, Told, depth};
use crate::plans::Plans;
use crate::scope::{Budget, FAULTS, Fault};

use moves::Rescue;
use properties::{DEPUTY, LEADER_MOVED, NOT_MISTAKEN, NOT_TO_A_LEADER, ONE_AT_A_TIME, RESCUED, SAFETY, TWICE};
use scope::{Mutant, Scope};

pub use seen::Seen;

impl Told for Rescue {
    const SAFETY: &[&str] = &SAFETY;

    fn plans(&self) -> &Plans {
        &self.plans
    }

    fn story(&self, path: &Path<Self>) -> String {
        story::tell(self, path)
    }
}

fn explore(name: &str, scope: Scope, depth: usize, unless: &[&'static str]) -> Explored<Rescue> {
    explore::run(&format!("rescue, {name}"), Rescue::new(scope), depth, unless)
}

fn faults(faults: &[(Fault, u8)]) -> Scope {
    Scope::new(Budget::new(faults.iter().map(|(_, times)| times).sum(), faults))
}

#[test]
fn three_members_are_rescued_one_after_the_other() {
    let explored = explore("no fault", faults(&[]), usize::MAX, &SAFETY);
    explored.holds(&SAFETY);
    assert!(explored.complete);
    explored.shows(&[RESCUED, LEADER_MOVED]);
}

/// Deep enough for the third member to be next.
#[test]
fn one_fault_breaks_no_rescue() {
    for fault in [Fault::Lost, Fault::Election, Fault::MemberRestart, Fault::Cut, Fault::Crash] {
        let explored = explore(&format!("{fault:?}"), faults(&[(fault, 1)]), depth(110), &SAFETY);
        explored.holds(&SAFETY);
        explored.shows(&[LEADER_MOVED]);
    }
}

/// After these many more worlds are left.
#[test]
fn a_pause_or_an_operator_breaks_no_rescue() {
    for fault in [Fault::Pause, Fault::Operator] {
        let explored = explore(&format!("{fault:?}"), faults(&[(fault, 1)]), depth(72), &SAFETY);
        explored.holds(&SAFETY);
        if fault == Fault::Operator {
            // Else the next test could not fail.
            assert!(explored.found.contains_key(NOT_MISTAKEN), "an operator is left alone");
        }
    }
}

/// Standing back from each other for ten minutes would be safe, and no rescue. A call that takes longer than a second may
/// be taken for somebody else's: it comes when all others have long seen that something else is next.
#[test]
fn no_janitor_is_taken_for_an_operator() {
    let deep = [Fault::Lost, Fault::Election, Fault::MemberRestart, Fault::Cut, Fault::Crash].map(|fault| (fault, 110));
    let bounded = deep.into_iter().chain([(Fault::Pause, 72)]);
    let runs = bounded.map(|(fault, steps)| (format!("{fault:?}"), faults(&[(fault, 1)]), depth(steps)));
    for (name, scope, depth) in runs.chain([("no fault".to_owned(), faults(&[]), usize::MAX)]) {
        let scope = Scope { arrives_within: Some(1_000), ..scope };
        explore(&format!("{name}, within a second"), scope, depth, &[NOT_MISTAKEN]).holds(&[NOT_MISTAKEN]);
    }
}

#[test]
fn any_two_faults_break_no_rescue() {
    let each = FAULTS.map(|fault| (fault, if fault == Fault::Late || fault == Fault::LeaseLost { 0 } else { 2 }));
    let scope = Scope { absent: [false, false, true], ..Scope::new(Budget::new(2, &each)) };
    let explored = explore("any two, j2 missing", scope, depth(30), &SAFETY);
    explored.holds(&SAFETY);
}

#[test]
fn a_missing_janitor_is_stood_in_for() {
    for absent in [[true, false, false], [false, true, false], [false, true, true]] {
        let scope = Scope { absent, ..faults(&[]) };
        let explored = explore(&format!("{absent:?} missing"), scope, usize::MAX, &SAFETY);
        explored.holds(&SAFETY);
        assert!(explored.complete);
        explored.shows(&[RESCUED, DEPUTY]);
    }
}

/// The deputy's call queues behind the one of a janitor that it does not know of: the same member, so still one.
#[test]
#[ignore = "minutes: `make model` runs it"]
fn a_deputy_and_the_janitor_that_comes_back_meet_on_one_member() {
    let scope = Scope { absent: [false, false, true], ..faults(&[(Fault::Pause, 1)]) };
    let explored = explore("a deputy and a pause", scope, depth(230), &SAFETY);
    explored.holds(&SAFETY);
    explored.shows(&[DEPUTY, TWICE]);
}

/// A model that cannot fail proves nothing.
#[test]
fn without_its_protections_a_rescue_breaks() {
    for (mutant, allowed, property) in [
        (Mutant::OthersLookDone, &[][..], ONE_AT_A_TIME),
        (Mutant::DefragsHidden, &[(Fault::Operator, 1)], ONE_AT_A_TIME),
        (Mutant::SilentLookWell, &[(Fault::Operator, 1), (Fault::Cut, 1)], ONE_AT_A_TIME),
        (Mutant::LeaderHidden, &[], NOT_TO_A_LEADER),
        (Mutant::NoPermit, &[(Fault::Pause, 1)], ONE_AT_A_TIME),
    ] {
        let mut scope = Scope { mutants: vec![mutant], ..faults(allowed) };
        if mutant == Mutant::NoPermit {
            // Where a pause is tried at every step, two janitors and calls that do not take long are worlds enough.
            scope.absent = [true, false, false];
            scope.arrives_within = Some(1_000);
        }
        let explored = explore(&format!("{mutant:?}"), scope, usize::MAX, &[property]);
        let steps = explored.steps(property);
        assert!(steps.is_some(), "{mutant:?} was not missed: {property}");
        println!("  broken after {} steps: {property}", steps.unwrap_or_default());
    }
}

/// Nothing can fence the call itself: what arrives later than anybody must have been calm for may meet another one.
#[test]
fn a_call_that_is_under_way_for_too_long_makes_two() {
    let scope = Scope { arrives_within: None, ..faults(&[(Fault::Election, 1)]) };
    let explored = explore("unbounded arrival", scope, usize::MAX, &[ONE_AT_A_TIME]);
    let path = explored.found.get(ONE_AT_A_TIME).expect("without the assumption there is a counterexample");
    let calls = path.last().and_then(|(world, _)| world.overlap()).expect("it ends in an overlap");
    assert!(calls.iter().any(properties::in_window), "not held up: {calls:?}");
    println!("{}", explored.story(ONE_AT_A_TIME));
}
