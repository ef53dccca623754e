//! Decide: what is known of the cluster, and what may be done about it.
//!
//! Owns every decision: when a round is due, whether a defrag pays, whether one may be sent now, what an open
//! intent means. Must not do I/O, read a clock or spawn anything: `now` is always an argument, so the same code
//! runs in the daemon, in simulation and under a model checker.
//!
//! Its one danger: a decision made on an old look. Every value that describes the cluster carries the instant at
//! which its reading *began*.

pub mod cautions;
pub mod cluster;
pub mod compaction;
#[cfg(test)]
mod examples;
pub mod firing;
pub mod forecast;
pub mod growth;
pub mod guard;
pub mod hold;
pub mod intent;
pub mod janitor;
pub mod member;
pub mod reason;
pub mod record;
pub mod release;
pub mod rescue;
pub mod retention;
pub mod round;
pub mod rule;
pub mod schedule;
pub mod sizes;
pub mod snapshot;
pub mod step;
pub mod time;
pub mod urgent;
pub mod zone;
