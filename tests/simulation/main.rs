//! The protocol under every fault we could think of, in virtual time: janitors' plans against a model of etcd.
//!
//! A world is made of a seed and nothing else. `SEED=n cargo test --test simulation` runs one world and prints its
//! trace when it fails; `SIM_STEPS=n` sets how many events are delivered to plans before the run is content.

mod audit;
mod directed;
mod execute;
mod faults;
mod judge;
mod look;
mod members;
mod membership;
mod model;
mod mutants;
mod process;
mod rng;
mod setup;
mod shown;
mod tally;
mod world;

use setup::Setup;
use tally::Tally;
use world::World;

/// Enough for every fault to come up a hundred times.
const STEPS: u64 = 1_150_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Runs one world; when it fails, once more with a trace, and returns its end.
fn run(setup: Setup) -> Result<Tally, String> {
    let mut world = World::new(setup.clone());
    let Err(first) = world.run() else { return Ok(world.tally) };
    let mut again = World::new(setup);
    again.tracing = true;
    let second = again.run().err();
    assert_eq!(second.as_ref(), Some(&first), "a world is made of its seed and nothing else");
    let trace: Vec<String> = again.trace.into_iter().collect();
    Err(format!("SEED={}: {first}\n{}", again.setup.seed, trace.join("\n")))
}

#[test]
fn no_seed_breaks_the_protocol() {
    if let Some(seed) = number("SEED") {
        match run(Setup::random(seed)) {
            Ok(tally) => println!("{tally}"),
            Err(report) => panic!("{report}"),
        }
        return;
    }
    let steps = number("SIM_STEPS").unwrap_or(STEPS);
    let begun = std::time::Instant::now();
    let mut total = Tally::default();
    let mut seed = 0;
    while total.events < steps {
        match run(Setup::random(seed)) {
            Ok(tally) => total.add(&tally),
            Err(report) => panic!("{report}"),
        }
        seed += 1;
    }
    println!("{total}{:.0} events/s", total.events as f64 / begun.elapsed().as_secs_f64());
    if steps >= STEPS {
        let untried = total.untried(100);
        assert!(untried.is_empty(), "{}", untried.join(", "));
        assert!(total.explained[judge::RESCUED] >= 100, "rescues send too seldom");
    }
}
