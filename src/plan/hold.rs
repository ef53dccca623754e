//! The operator's pause: what may be written as one, and whether one is in the way.
//!
//! Its end is the one time in a record that decides something. It is held against the reader's own wall clock, so a
//! clock that is ahead ends a hold early on its own host; `etcd-janitor hold` says whose clock that is. Beside that the
//! key hangs on a lease of the same length, which ends it in time on hosts whose clock is behind.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::cluster::Stored;
use super::reason::{Blocked, Reason};
use super::record::Hold;

/// Shortest hold that is written.
pub const SHORTEST: Duration = Duration::from_secs(1);
/// Longest hold that is written. What should stop for longer is a matter of configuration.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest reason, in characters: it is shown whole everywhere.
pub const MAX_REASON: usize = 200;
/// Longest name, in characters.
pub const MAX_NAME: usize = 100;

impl Hold {
    /// Whether it has ended by this clock.
    pub fn is_over(&self, wall: DateTime<Utc>) -> bool {
        self.until <= wall
    }

    /// Who, until when and why, as part of a sentence.
    pub fn told(&self) -> String {
        format!("held by {} until {}: {}", self.by, instant(self.until), self.reason)
    }
}

/// RFC 3339 in UTC, to the second.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Nothing is held at `wall`. A record that cannot be read holds: a newer release may mean anything by it.
pub fn no_hold(hold: Option<&Stored<Hold>>, wall: DateTime<Utc>) -> Result<(), Blocked> {
    match hold.map(|stored| &stored.value) {
        None => Ok(()),
        Some(Ok(hold)) if hold.is_over(wall) => Ok(()),
        Some(Ok(hold)) => Err(Blocked::new(Reason::Hold, hold.told())),
        Some(Err(unreadable)) => Err(Blocked::new(Reason::Hold, format!("the hold cannot be read: {unreadable}"))),
    }
}

/// A reason or a name as it may be written: one line, not empty, at most `most` characters.
///
/// # Errors
///
/// What is wrong with it, as the end of a sentence.
pub fn line(text: &str, most: usize) -> Result<String, String> {
    let text = text.trim();
    let length = text.chars().count();
    if text.is_empty() {
        return Err("it must not be empty".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("it must be one line without control characters".to_owned());
    }
    if length > most {
        return Err(format!("it has {length} characters; at most {most} are allowed"));
    }
    Ok(text.to_owned())
}

/// Whole seconds for the lease, never fewer than asked for.
pub fn whole_seconds(lasts: Duration) -> u64 {
    lasts.as_secs() + u64::from(lasts.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::record::{Unreadable, VERSION};

    fn at(second: u32) -> DateTime<Utc> {
        format!("2026-11-22T00:00:{second:02}Z").parse().unwrap()
    }

    #[test]
    fn a_hold_is_in_the_way_until_its_end_and_an_unreadable_one_always() {
        let hold =
            Hold { v: VERSION, reason: "move".into(), by: "ops".into(), until: at(30), extra: Default::default() };
        let stored = Stored { mod_revision: 1, value: Ok(hold) };
        let blocked = no_hold(Some(&stored), at(29)).unwrap_err();
        assert_eq!(blocked.to_string(), "hold: held by ops until 2026-11-22T00:00:30Z: move");
        assert_eq!(no_hold(Some(&stored), at(30)), Ok(()));
        assert_eq!(no_hold(None, at(0)), Ok(()));
        let newer = Stored { mod_revision: 1, value: Err(Unreadable::Version(9)) };
        assert_eq!(no_hold(Some(&newer), at(59)).unwrap_err().reason, Reason::Hold);
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(line(" disk swap ", 9), Ok("disk swap".to_owned()));
        for wrong in ["", " ", "a\nb", "a\u{7}b", "0123456789"] {
            assert!(line(wrong, 9).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_lease_is_never_shorter_than_the_hold() {
        assert_eq!(whole_seconds(Duration::from_millis(1500)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(7200)), 7200);
    }
}
