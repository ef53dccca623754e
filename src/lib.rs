//! etcd-janitor: a sidecar that keeps one etcd member compact, taking turns with the janitors of the others.
//!
//! Three layers, imports in one direction only (a test enforces it):
//!
//! * **decide** — [`plan`]: pure values and state machines. No I/O, no async; the time is an argument.
//! * **act** — [`etcd`]: one conversation with etcd per function; the only user of the etcd client library.
//! * **serve** — [`daemon`], [`http`], [`cli`]: turn the world into events, carry the steps out, show the state.
//!
//! The load test, `etcd-load`, is a program of its own (`load`, with the feature of that name); the janitor knows nothing
//! of it.
//!
//! [`config`] turns what the operator wrote into validated values; everything above [`plan`] may use it.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod etcd;
pub mod http;
#[cfg(feature = "load")]
pub mod load;
pub mod plan;
