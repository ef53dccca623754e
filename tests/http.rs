//! The server over real sockets: what it answers, what it refuses, and what nobody can make it do.

#![allow(clippy::disallowed_methods, reason = "tests read the clock and spawn as they like")]

#[path = "http/bounds.rs"]
mod bounds;
#[path = "http/endpoints.rs"]
mod endpoints;
#[path = "http/metrics.rs"]
mod metrics;
#[path = "http/openapi.rs"]
mod openapi;
#[path = "support/ports.rs"]
mod ports;
#[path = "http/running.rs"]
mod running;
#[path = "http/sample.rs"]
mod sample;
#[path = "http/tls.rs"]
mod tls;
#[path = "http/verdict.rs"]
mod verdict;
