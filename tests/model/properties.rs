//! What must be true in every world, and what must be possible in some.

use etcd_janitor::plan::reason::Outcome;
use etcd_janitor::plan::round::LOOK_TO_SEND;
use stateright::Property;

use super::identity;
use super::moves::Protocol;
use super::world::{By, Call, Open, World};

pub const ONE_AT_A_TIME: &str = "no two members have an open Defragment, one of them a janitor's";
pub const ANNOUNCED: &str = "an open Defragment of a janitor has its intent";
pub const NOT_TO_A_LEADER: &str = "nothing is sent to a member that leads at the last look";
pub const ONLY_IN_THE_WINDOW: &str = "what overlaps was held up between look and arrival, or overtaken there";
pub const ALL_DONE: &str = "every member with work is done";
pub const ADOPTED: &str = "a restarted janitor settles the intent of its earlier instance";
pub const RESOLVED: &str = "an intent is settled by another member's janitor";
pub const LEADER_MOVED: &str = "leadership moves away and its member is done";
pub const UNKNOWN: &str = "a defrag ends as unknown";

/// What must never be broken. [`ONLY_IN_THE_WINDOW`] follows from the first while the assumption holds.
pub const SAFETY: [&str; 4] = [ONE_AT_A_TIME, ANNOUNCED, NOT_TO_A_LEADER, ONLY_IN_THE_WINDOW];

/// All of them.
pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONE_AT_A_TIME, |_, world: &World| overlap(world).is_none()),
        Property::always(ANNOUNCED, |_, world: &World| open_calls(world).all(|call| announced(world, &call))),
        Property::always(NOT_TO_A_LEADER, |_, world: &World| {
            !open_calls(world).chain(world.flights.iter().copied()).any(|call| call.led)
        }),
        Property::always(ONLY_IN_THE_WINDOW, |_, world: &World| {
            overlap(world).is_none_or(|calls| calls.iter().any(in_window))
        }),
        Property::sometimes(ALL_DONE, |protocol: &Protocol, world: &World| {
            let done = |member: usize| matches!(world.etcd.outcomes[member], Some(r) if r.outcome == Outcome::Done);
            (0..3).all(|member| !protocol.scope.working[member] || done(member))
        }),
        Property::sometimes(ADOPTED, |_, world: &World| recorded(world, By::Adopted)),
        Property::sometimes(RESOLVED, |_, world: &World| recorded(world, By::Another)),
        Property::sometimes(LEADER_MOVED, |_, world: &World| {
            let done = |member: &usize| world.etcd.outcomes[*member].is_some_and(|r| r.outcome == Outcome::Done);
            world.etcd.leader != 0 && done(&0)
        }),
        Property::sometimes(UNKNOWN, |_, world: &World| {
            world.etcd.outcomes.iter().flatten().any(|recorded| recorded.outcome == Outcome::Unknown)
        }),
    ]
}

fn recorded(world: &World, by: By) -> bool {
    world.etcd.outcomes.iter().flatten().any(|recorded| recorded.by == by)
}

fn open_calls(world: &World) -> impl Iterator<Item = Call> + '_ {
    world.etcd.members.iter().flat_map(|member| &member.open).filter_map(|open| match open {
        Open::Janitor(call) => Some(*call),
        Open::Operator => None,
    })
}

fn announced(world: &World, call: &Call) -> bool {
    world.etcd.intent.is_some_and(|intent| intent.made == call.intent)
}

/// The janitors' calls that are open while two members have open calls.
pub fn overlap(world: &World) -> Option<Vec<Call>> {
    let busy = world.etcd.members.iter().filter(|member| !member.open.is_empty()).count();
    let calls: Vec<Call> = open_calls(world).collect();
    (busy > 1 && !calls.is_empty()).then_some(calls)
}

/// Held up beyond the permit's bound after the permit was asked, or overtaken by somebody else after the look.
pub fn in_window(call: &Call) -> bool {
    i64::from(call.age) > identity::millis(LOOK_TO_SEND) || call.overtaken
}
