//! A model that cannot fail proves nothing: each protection is taken away, and the checker finds what it was for.

use super::explore::{depth, explore};
use super::properties::{ANNOUNCED, NOT_TO_A_LEADER, ONE_AT_A_TIME};
use super::scope::{Budget, Fault, Mutant, Scope};

fn broken(mutants: &[Mutant], scope: Scope, property: &'static str) {
    let explored = explore(&format!("{mutants:?}"), scope.without(mutants), usize::MAX, &[property]);
    let steps = explored.steps(property);
    assert!(steps.is_some(), "{mutants:?} were not missed: {property}");
    println!("  broken after {} steps: {property}", steps.unwrap_or_default());
}

/// Another protection is enough here.
fn covered(mutants: &[Mutant], scope: Scope, property: &'static str) {
    let explored = explore(&format!("{mutants:?}"), scope.without(mutants), depth(64), &[property]);
    explored.holds(&[property]);
    println!("  covered: {property}");
}

fn faults(faults: &[(Fault, u8)]) -> Scope {
    Scope::pair(Budget::new(faults.len() as u8, faults))
}

#[test]
fn turn_and_intent_stand_in_for_each_other() {
    covered(&[Mutant::NoTurn], faults(&[]), ONE_AT_A_TIME);
    covered(&[Mutant::NoIntent], faults(&[]), ONE_AT_A_TIME);
    broken(&[Mutant::NoTurn, Mutant::NoIntent], faults(&[]), ONE_AT_A_TIME);
    // The turn alone does not outlive its lease.
    broken(&[Mutant::NoIntent], faults(&[(Fault::LeaseLost, 1)]), ONE_AT_A_TIME);
}

#[test]
fn without_the_last_look_a_foreign_defrag_goes_unseen() {
    covered(&[Mutant::NoLastLook], faults(&[]), ONE_AT_A_TIME);
    broken(&[Mutant::NoLastLook], faults(&[(Fault::Operator, 1)]), ONE_AT_A_TIME);
    broken(&[Mutant::DefragsHidden], faults(&[(Fault::Operator, 1)]), ONE_AT_A_TIME);
}

#[test]
fn a_voter_that_does_not_answer_may_be_in_its_defrag() {
    broken(&[Mutant::SilentLookWell], faults(&[(Fault::Operator, 1), (Fault::Cut, 1)]), ONE_AT_A_TIME);
}

#[test]
fn without_the_permit_a_janitor_that_stood_still_sends_on_an_old_look() {
    broken(&[Mutant::NoPermit], faults(&[(Fault::Pause, 1)]), ONE_AT_A_TIME);
}

/// Its own call is still on its way when the intent is cleared under it.
#[test]
fn without_the_wait_an_intent_is_cleared_under_a_call_on_its_way() {
    let scope = |faults: &[(Fault, u8)]| Scope { absent: [false; 3], ..self::faults(faults) };
    broken(&[Mutant::SettledAtOnce], scope(&[(Fault::Crash, 1)]), ANNOUNCED);
    broken(&[Mutant::SettledAtOnce], scope(&[(Fault::LeaseLost, 1)]), ONE_AT_A_TIME);
}

#[test]
fn a_leader_that_is_not_seen_as_one_is_sent_to() {
    let scope = Scope { working: [true, false, false], absent: [false, true, true], ..faults(&[]) };
    broken(&[Mutant::LeaderHidden], scope, NOT_TO_A_LEADER);
}
