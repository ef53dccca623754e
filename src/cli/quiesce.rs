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
        Ok((401, _)) => (
            format!("the janitor on {listen} asks for a token: set http.bearer_token_file as the daemon has it"),
            SKIPPED,
        ),
        Ok((status, body)) => {
            let body = body.trim();
            (
                format!("{listen} refused ({status}): {body}; is it the janitor? compare http.listen on both sides"),
                SKIPPED,
            )
        }
        Err(Failure::Unreachable(error)) => (
            format!("no janitor listens on {listen}: {error}; is `etcd-janitor run` up, and http.listen the same?"),
            NOBODY,
        ),
        Err(Failure::Silent(error)) => {
            let text = "compare http.tls on both sides, and look at its log; SIGTERM has it start nothing new, too";
            (format!("the janitor on {listen} does not answer: {error}; {text}"), NOBODY)
        }
    }
}
