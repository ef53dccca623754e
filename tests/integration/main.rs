//! Tests against real etcd clusters. They need the programs that `make tools`
//! brings and fail without them.

#![allow(clippy::disallowed_methods, reason = "tests connect, spawn and read the clock as they like")]

#[path = "../support/mod.rs"]
mod support;

mod at_random;
mod balanced;
mod cli;
mod clocks;
mod compaction;
mod crowd;
mod daemon;
mod documents;
mod faults;
mod forged;
mod guards;
mod harness;
mod hold;
mod hostile;
mod identity;
mod interrupts;
mod judge;
mod load;
mod look_to_send;
mod mixed;
mod outsiders;
mod partitions;
mod pauses;
mod prevention;
mod proxy;
mod releases;
mod reload;
mod rescue;
mod rights;
mod rotation;
mod rounds;
mod scenarios;
mod secrets;
mod sizes;
mod storage;
mod window;
