//! Runs the checker on a scope, breadth first, and says how far it came.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::moves::Protocol;
use super::plans::Plans;
use super::properties;
use super::scope::Scope;
use super::story;

/// States from the first one to the one that was looked for, with the step that leaves each.
pub type Path<M> = Vec<(<M as Model>::State, Option<<M as Model>::Action>)>;

/// A model of real plans whose paths can be told.
pub trait Told:
    Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq + Send + Sync>
    + Send
    + Sync
    + 'static
{
    /// What must never be broken.
    const SAFETY: &[&str];

    fn plans(&self) -> &Plans;

    /// A path in words, a line for each step.
    fn story(&self, path: &Path<Self>) -> String
    where
        Self: Sized;
}

impl Told for Protocol {
    const SAFETY: &[&str] = &properties::SAFETY;

    fn plans(&self) -> &Plans {
        &self.plans
    }

    fn story(&self, path: &Path<Self>) -> String {
        story::tell(self, path)
    }
}

/// What a run of the checker came to.
pub struct Explored<M: Told> {
    /// Every world within the scope was reached: the depth was no limit.
    pub complete: bool,
    pub found: HashMap<&'static str, Path<M>>,
    stories: HashMap<&'static str, String>,
}

/// How deep runs go that are too long for every day. `MODEL_DEEPER=n` adds n steps.
pub fn depth(usual: usize) -> usize {
    let deeper = std::env::var("MODEL_DEEPER").ok().and_then(|steps| steps.parse::<usize>().ok());
    usual + deeper.unwrap_or(0)
}

/// Rounds within a scope; see [`run`].
pub fn explore(name: &str, scope: Scope, depth: usize, unless: &[&'static str]) -> Explored<Protocol> {
    run(name, Protocol::new(scope), depth, unless)
}

/// Goes through every world of `model` of which the path has less than `depth` worlds, until one breaks one of `unless`.
pub fn run<M: Told>(name: &str, model: M, depth: usize, unless: &[&'static str]) -> Explored<M> {
    let begun = Instant::now();
    let until = HasDiscoveries::AnyOf(unless.iter().copied().collect());
    // One thread: only then is the search breadth first, and the same every time.
    let checker = model.checker().finish_when(until).target_max_depth(depth).spawn_bfs().join();
    let found: HashMap<_, _> = checker.discoveries().into_iter().map(|(what, path)| (what, path.into_vec())).collect();
    let stopped = unless.iter().any(|property| found.contains_key(property));
    let complete = !stopped && checker.max_depth() < depth;
    // The first world counts as one, and worlds at the limit are not looked into.
    let steps = checker.max_depth() - if stopped || complete { 1 } else { 2 };
    let (plans, events) = checker.model().plans().count();
    println!(
        "{name}: {} worlds by {} transitions, {} steps deep, {}; {plans} plans told {events} events; {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        steps,
        if stopped {
            "stopped at a counterexample"
        } else if complete {
            "complete"
        } else {
            "bounded"
        },
        begun.elapsed().as_secs_f64(),
    );
    let words = found.iter().map(|(what, path)| (*what, checker.model().story(path)));
    let told = |what: &str| M::SAFETY.contains(&what) || unless.contains(&what);
    let stories = words.filter(|(what, _)| told(what)).collect();
    Explored { complete, found, stories }
}

impl<M: Told> Explored<M> {
    pub fn steps(&self, property: &str) -> Option<usize> {
        self.found.get(property).map(|path| path.len() - 1)
    }

    /// How a property was broken, in words.
    pub fn story(&self, property: &str) -> &str {
        self.stories.get(property).map_or("", String::as_str)
    }

    /// Fails if any of them was broken.
    pub fn holds(&self, properties: &[&str]) {
        for property in properties {
            assert!(!self.found.contains_key(property), "broken: {property}\n{}", self.story(property));
        }
    }

    /// Fails if one of them never came about: then the rest proves nothing.
    pub fn shows(&self, properties: &[&str]) {
        for property in properties {
            assert!(self.found.contains_key(property), "never came about: {property}");
        }
    }
}
