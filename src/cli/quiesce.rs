//! `etcd-janitor quiesce`: the daemon in this pod starts nothing new and leaves the queue.

use std::io::Write;

use super::talk::{Daemon, Failure, ask};
use super::{NOBODY, SKIPPED, WELL, token};
use crate::config::Config;

/// Asks for it and says what came of it. Exit code 0: it does; 3: nobody answers; 4: it refused.
pub fn quiesce(config: &Config, out: &mut impl Write) -> u8 {
    let (text, code) = ask_to_quiesce(config);
    let _ = writeln!(out, "{text}");
    code
}

/// What came of it, as a sentence and as an exit code.
pub(super) fn ask_to_quiesce(config: &Config) -> (String, u8) {
    let listen = Daemon::of(config);
    match ask(&listen, "POST", "/api/v1/quiesce", token(config).as_deref()) {
        Ok((202, _)) => ("the janitor starts nothing new and leaves the queue".to_owned(), WELL),
        Ok((status, body)) => (format!("the janitor refused ({status}): {}", body.trim()), SKIPPED),
        Err(Failure::Unreachable(error)) => (format!("no janitor listens on {listen}: {error}"), NOBODY),
        Err(Failure::Silent(error)) => (format!("the janitor does not answer: {error}"), NOBODY),
    }
}
