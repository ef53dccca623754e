//! Proof that the judge can find something wrong: errors planted in the executor or in the model are caught.

use super::setup::{Mutant, Setup};
use super::world::World;

/// How many worlds a planted error may survive.
const SEEDS: u64 = 400;

fn caught(mutant: Mutant) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| World::new(Setup::random(seed).with(mutant)).run().err().map(|text| (seed, text)))
}

#[test]
fn every_planted_error_is_caught() {
    let mut survived = Vec::new();
    for mutant in Mutant::ALL {
        match caught(*mutant) {
            Some((seed, text)) => println!("{mutant:?}: seed {seed} {text}"),
            None => survived.push(*mutant),
        }
    }
    assert!(survived.is_empty(), "not caught within {SEEDS} seeds: {survived:?}");
}
