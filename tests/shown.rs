//! What the command line shows of each state, to the letter: snapshots of a made-up cluster at a fixed instant.

#![allow(clippy::disallowed_methods, reason = "tests read and write as they like")]

#[path = "shown/check.rs"]
mod check;
#[path = "shown/cluster.rs"]
mod cluster;
#[path = "shown/documents.rs"]
mod documents;
#[path = "shown/explain.rs"]
mod explain;
#[path = "shown/status.rs"]
mod status;

/// One file a name, beside the other snapshots.
fn snapshot(name: &str, text: &str) {
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(format!("shown__{name}"), text);
    });
}
