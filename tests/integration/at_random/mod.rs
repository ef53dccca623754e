//! Faults by chance, for as long as asked (`make torture`), then calm, in which
//! everything must come right. Judged from outside.
//!
//! `DURATION` of the faults, `SEED`, `MEMBERS` and `REPORT` are read from the
//! environment. Without them it takes about two minutes, the calm with it.

mod ills;
mod report;
mod world;

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use rand::Rng;

use crate::support::sandbox;
use report::Report;
use world::World;

/// Faults come in bouts, each when somebody has reached the turn. If they came
/// all the time, no round would ever get as far as to be disturbed.
const FAULTS: std::ops::RangeInclusive<u32> = 1..=3;

/// Milliseconds before each: some hit the turn, some the defrag, some what
/// comes after.
const BETWEEN: std::ops::Range<u64> = 0..4000;

fn setting<T>(name: &str, parse: impl Fn(&str) -> Option<T>, default: impl FnOnce() -> T) -> T {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => parse(&text).unwrap_or_else(|| panic!("{name}={text} is not understood")),
        _ => default(),
    }
}

#[tokio::test]
async fn whatever_happens_everything_comes_right_in_the_end() {
    if !sandbox::inside("at_random::whatever_happens_everything_comes_right_in_the_end").await {
        return;
    }
    let duration = setting("DURATION", |text| humantime::parse_duration(text).ok(), || Duration::from_secs(60));
    let members = setting("MEMBERS", |text| text.parse().ok(), || 3);
    let seed = setting("SEED", |text| text.parse().ok(), || RandomState::new().hash_one(()) % 1_000_000);
    println!("torture: {members} members, {duration:?}, SEED={seed}");
    let mut world = World::start(members, seed).await;
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let faults = world.rng.random_range(FAULTS);
        world.until_a_turn().await;
        for _ in 0..faults {
            world.pass(BETWEEN).await;
            world.inflict().await;
        }
        world.until_well().await;
    }
    let tormented = begun.elapsed();
    world.cure_everything().await;
    let calm = world.comes_right().await;
    world.note_operators();
    let mut report = Report::of(world, seed, tormented).await;
    // Whether there were overlaps must be known even then.
    report.failures.extend(calm.err().map(|what| format!("not in time: {what}")));
    println!("{report}");
    if let Ok(path) = std::env::var("REPORT")
        && !path.is_empty()
    {
        std::fs::write(&path, report.to_string()).unwrap_or_else(|error| panic!("REPORT={path}: {error}"));
    }
    assert!(report.failures.is_empty(), "{}\n{report}", report.failures.join("\n"));
}
