//! `etcd-janitor probe`: asks the daemon in the same container, for images whose health check is a command.
//!
//! Blocking and small on purpose: a health check runs every few seconds for years, and must say something even when
//! the daemon hangs.

use std::io::Write;

use super::talk::{Daemon, Failure, ask};
use crate::config::Config;

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Whether the daemon's loop turns.
    Livez,
    /// Whether its configuration is valid and its server up.
    Readyz,
}

impl Which {
    const fn name(self) -> &'static str {
        match self {
            Which::Livez => "livez",
            Which::Readyz => "readyz",
        }
    }
}

/// Asks the daemon that the configuration tells of (the wildcard address stands for this host), writes one sentence and
/// returns the exit code: 0 well, 1 it says that it is not or does not answer like itself, 3 nobody reachable.
pub fn probe(config: &Config, which: Which, out: &mut impl Write) -> u8 {
    let listen = Daemon::whatever_it_shows(config);
    let (code, sentence) = match ask(&listen, "GET", &format!("/{}", which.name()), None) {
        Ok((200, _)) => (0, format!("{} ok", which.name())),
        Ok((status, text)) => (1, format!("{} answered {status}: {}", which.name(), failures(&text))),
        Err(Failure::Unreachable(error)) => {
            (3, format!("nobody answers on {listen}: {error}; is `etcd-janitor run` up, and http.listen the same?"))
        }
        Err(Failure::Silent(error)) => {
            let text = "compare http.tls on both sides, and look at its log";
            (1, format!("the janitor on {listen} does not answer: {error}; {text}"))
        }
    };
    // Without a standard output the exit code still says it.
    let _ = writeln!(out, "{sentence}");
    code
}

/// The lines that failed, as part of a sentence.
fn failures(text: &str) -> String {
    let failed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    let text = if failed.is_empty() { text.trim().to_owned() } else { failed.join("; ") };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_failed_is_told() {
        assert_eq!(failures("[+]ping ok\n[-]loop failed: stuck\nlivez check failed\n"), "loop failed: stuck");
        assert_eq!(failures("no\n"), "no");
    }
}
