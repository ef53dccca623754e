//! What is fuzzed: each function takes bytes from anywhere and checks what must hold whatever they are.
//!
//! `make fuzz` calls them with bytes that libFuzzer makes up, `tests/corpora.rs` with those that it found interesting.

#![allow(dead_code, reason = "each target uses one of them")]

mod files;
mod network;
mod texts;

pub use files::{config, inject, pem};
pub use network::http;
pub use texts::{exposition, records, rule, schedule};

/// Takes bytes from anywhere; panics when a promise is broken.
pub type Harness = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const ALL: [(&str, Harness); 8] = [
    ("config", config),
    ("rule", rule),
    ("schedule", schedule),
    ("records", records),
    ("exposition", exposition),
    ("http", http),
    ("inject", inject),
    ("pem", pem),
];
