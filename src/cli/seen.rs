//! What the daemon in this pod shows, or etcd itself when no daemon answers.

use super::runtime;
use super::talk::{Daemon, Failure, ask};
use super::{ATTENTION, NOBODY, token};
use crate::config::Config;
use crate::daemon::direct;
use crate::plan::snapshot::Snapshot;

/// A snapshot and where it is from.
#[derive(Debug)]
pub struct Seen {
    /// What there is to say.
    pub snapshot: Snapshot,
    /// Why no daemon was asked, if none was; one line.
    pub without_daemon: Option<String>,
}

/// Asks the daemon for a snapshot with a fresh look; when none answers, looks at etcd.
///
/// # Errors
///
/// The exit code and one line: a daemon answers and cannot be understood, or neither daemon nor etcd answers.
pub fn see(config: &Config) -> Result<Seen, (u8, String)> {
    let listen = Daemon::of(config);
    let away = match ask(&listen, "GET", "/api/v1/status?fresh", token(config).as_deref()) {
        Ok((200, body)) => {
            let text =
                |error| format!("the janitor on {listen} is of another release; its answer cannot be read: {error}");
            let snapshot = serde_json::from_str(&body).map_err(|error| (ATTENTION, text(error)))?;
            return Ok(Seen { snapshot, without_daemon: None });
        }
        Ok((401, _)) => {
            let text =
                format!("the janitor on {listen} asks for a token: set http.bearer_token_file as the daemon has it");
            return Err((ATTENTION, text));
        }
        Ok((status, _)) => {
            return Err((ATTENTION, format!("the janitor on {listen} answers HTTP {status} to /api/v1/status")));
        }
        Err(Failure::Unreachable(error)) => format!("no janitor listens on {listen}: {error}"),
        Err(Failure::Silent(error)) => format!("the janitor on {listen} does not answer: {error}"),
    };
    let hint = "is `etcd-janitor run` up, and http.listen the same?";
    let runtime = runtime().map_err(|error| (ATTENTION, format!("cannot start: {error}")))?;
    let snapshot = runtime.block_on(direct::overview(config, "this command's"));
    // A name that is being looked up has a thread that nothing can end: it is not waited for.
    runtime.shutdown_background();
    match &snapshot.problem {
        Some(problem) if snapshot.members.is_empty() => Err((
            NOBODY,
            format!("{away}; {hint}\netcd itself cannot be used either: {problem}. {}", problem.reason.remedy()),
        )),
        _ => Ok(Seen { snapshot, without_daemon: Some(format!("{away}; {hint}")) }),
    }
}
