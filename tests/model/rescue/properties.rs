//! What must be true in every world, and what must be possible in some.

use etcd_janitor::plan::round::LOOK_TO_SEND;
use stateright::Property;

use super::moves::Rescue;
use super::world::{Call, World};
use crate::identity;

pub const ONE_AT_A_TIME: &str = "no two members have an open Defragment, one of them a janitor's";
pub const NOT_TO_A_LEADER: &str = "nothing is sent to a member that leads at the last look";
pub const ONLY_IN_THE_WINDOW: &str = "what overlaps was held up between look and arrival, or overtaken there";
pub const CLEARED_WHEN_SMALL: &str = "NOSPACE is cleared only when every member has room";
pub const NOT_MISTAKEN: &str = "no janitor's defrag is taken for an operator's";
pub const RESCUED: &str = "NOSPACE is gone and nobody has anything left to do";
pub const DEPUTY: &str = "another member's janitor sends";
pub const LEADER_MOVED: &str = "leadership moves away and its member has room";
pub const TWICE: &str = "two calls for one member are open, one queued behind the other";

/// What must never be broken. [`ONLY_IN_THE_WINDOW`] follows from the first while the assumption holds.
pub const SAFETY: [&str; 4] = [ONE_AT_A_TIME, NOT_TO_A_LEADER, ONLY_IN_THE_WINDOW, CLEARED_WHEN_SMALL];

/// All of them.
pub fn all() -> Vec<Property<Rescue>> {
    vec![
        Property::always(ONE_AT_A_TIME, |_, world: &World| world.overlap().is_none()),
        Property::always(NOT_TO_A_LEADER, |_, world: &World| {
            !world.open_calls().chain(&world.flights).any(|call| call.led)
        }),
        Property::always(ONLY_IN_THE_WINDOW, |_, world: &World| {
            world.overlap().is_none_or(|calls| calls.iter().any(in_window))
        }),
        Property::always(CLEARED_WHEN_SMALL, |_, world: &World| {
            world.nospace || world.members.iter().all(|member| member.small)
        }),
        // Broken, as it should be, where there is an operator.
        Property::always(NOT_MISTAKEN, |model: &Rescue, world: &World| {
            !world.procs.iter().any(|proc| proc.plan.is_some_and(|plan| model.plans.view(plan).stands_back))
        }),
        Property::sometimes(RESCUED, |model: &Rescue, world: &World| {
            let over = |plan| model.plans.view(plan).asks.is_empty() && model.plans.view(plan).wakes_in.is_none();
            !world.nospace && world.procs.iter().all(|proc| proc.plan.is_none_or(over))
        }),
        Property::sometimes(DEPUTY, |_, world: &World| world.open_calls().any(|call| call.by != call.to)),
        Property::sometimes(LEADER_MOVED, |_, world: &World| world.leader != 0 && world.members[0].small),
        Property::sometimes(TWICE, |_, world: &World| world.members.iter().any(|member| member.open.len() > 1)),
    ]
}

/// Held up beyond the permit's bound after the permit was asked, or overtaken by somebody else after the look.
pub fn in_window(call: &Call) -> bool {
    i64::from(call.age) > identity::millis(LOOK_TO_SEND) || call.overtaken
}
