//! What became of a defrag that somebody said they would send.
//!
//! A deadline is not an end and a lost answer is not a failure: only what the target itself shows counts. Ages are
//! measured on the reader's own monotonic clock; times in the record are for people.

use std::time::Duration;

use super::cluster::{Listing, Look, Scrape};
use super::member::MemberId;
use super::reason::{Failure, Outcome};
use super::record::Intent;
use super::time::Mono;

/// What an open intent turned out to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The defrag was carried out, or nobody can tell, or the process under it went away.
    Ended {
        /// `done`, `failed(restarted)` or `unknown`.
        outcome: Outcome,
        /// What showed it.
        detail: String,
    },
    /// The target is no member any more.
    Void,
}

/// Process start times are floats with a resolution of a clock tick; two reads of one process may differ by rounding.
const SAME_START: f64 = 0.5;

/// Follows one open intent from look to look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Resolver {
    /// The intent (by its revision) and since when its target has been answering reads with nothing open.
    watched: Option<(i64, Option<Mono>)>,
}

impl Resolver {
    /// What `look` shows of the intent stored at `mod_revision`, if that is enough to settle it.
    ///
    /// `settle` is one `lease_ttl`: whoever wrote the intent has lost the turn by then, or the one-second rule between
    /// look and send stops it. The wait begins at `now`, with the first look in hand: its records may have been read
    /// long after it began (the process may have been paused in between), and only they show that the writer is gone.
    pub fn assess(
        &mut self,
        look: &Look,
        mod_revision: i64,
        intent: &Intent,
        settle: Duration,
        now: Mono,
    ) -> Option<Resolution> {
        let quiet_since = match self.watched {
            Some((watched, since)) if watched == mod_revision => since,
            _ => None,
        };
        self.watched = Some((mod_revision, None));
        if !matches!(look.listing, Listing::Agreed) {
            return None;
        }
        let Some(target) = look.member(intent.member) else { return Some(Resolution::Void) };
        let scrape = target.scrape.as_ref().ok()?;
        if !same_process(intent, scrape) {
            let detail = "the member's process restarted during the defrag".to_owned();
            return Some(Resolution::Ended { outcome: Outcome::Failed(Failure::Restarted), detail });
        }
        if scrape.defrags_open > 0 {
            return None;
        }
        // The count only counts once nothing is open: a queued second call would make it rise while one still runs.
        if scrape.defrag_count > intent.target_count {
            let detail = format!("the member counts {} defrags, {} before", scrape.defrag_count, intent.target_count);
            return Some(Resolution::Ended { outcome: Outcome::Done, detail });
        }
        if target.status.is_err() {
            return None;
        }
        let since = quiet_since.unwrap_or(now);
        self.watched = Some((mod_revision, Some(since)));
        let quiet = look.begun.mono.since(since);
        if quiet < settle {
            return None;
        }
        let detail = format!("the member answered for {} s and shows no defrag", quiet.as_secs());
        Some(Resolution::Ended { outcome: Outcome::Unknown, detail })
    }

    /// Forgets the intent it followed.
    pub fn reset(&mut self) {
        self.watched = None;
    }
}

fn same_process(intent: &Intent, scrape: &Scrape) -> bool {
    (scrape.process_start - intent.target_start).abs() <= SAME_START
}

/// Whether the target still is what the intent says of it. Sent under one that it has left behind, a call would be
/// taken for settled (`failed(restarted)` or `done`) while it is on its way.
pub fn is_current(intent: &Intent, scrape: &Scrape) -> bool {
    same_process(intent, scrape) && scrape.defrag_count == intent.target_count
}

/// Whether the one who wrote the intent still stands in the queue, and so settles it itself.
pub fn owner_in_queue(look: &Look, intent: &Intent) -> bool {
    look.records.iter().flat_map(|records| &records.turns).any(|place| {
        place.value.as_ref().is_ok_and(|turn| turn.instance == intent.instance && turn.member == intent.member)
    })
}

/// The member an intent is about, for people.
pub fn target_name(look: &Look, member: MemberId) -> String {
    look.member(member).map_or_else(|| member.to_string(), super::cluster::describe)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::plan::cluster::{MemberLook, QuotaBytes, Records, Scrape, Status};
    use crate::plan::member::{RoundId, RoundKind};
    use crate::plan::record::VERSION;
    use crate::plan::time::Now;

    const SETTLE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Now {
        Now { mono: Mono::new(Duration::from_secs(seconds)), wall: DateTime::<Utc>::UNIX_EPOCH }
    }

    /// The target answers and has nothing open.
    fn quiet(begun: Now) -> Look {
        let status = Status {
            version: "3.5.30".to_owned(),
            db_size: 2,
            db_size_in_use: 1,
            quota: None,
            leader: Some(MemberId(2)),
            term: 2,
            index: 9,
            applied: 9,
            revision: 9,
            alarms: Default::default(),
            learner: false,
        };
        let scrape = Scrape {
            defrags_open: 0,
            snapshots_open: 0,
            defrag_count: 0,
            defrags_failed: 0,
            defrag_seconds: 0.0,
            process_start: 1.0,
            quota: Some(QuotaBytes::Disabled),
            compact_revision: None,
            active_peers: Default::default(),
        };
        let target =
            MemberLook { id: MemberId(1), name: String::new(), learner: false, status: Ok(status), scrape: Ok(scrape) };
        Look {
            begun,
            listing: Listing::Agreed,
            members: vec![target],
            records: Ok(Records::default()),
            disk: None,
            rights: Ok(()),
        }
    }

    fn intent() -> Intent {
        Intent {
            v: VERSION,
            member: MemberId(1),
            instance: "gone".to_owned(),
            holder: "pod".to_owned(),
            round: RoundId { kind: RoundKind::Cron, due: DateTime::UNIX_EPOCH },
            target_start: 1.0,
            target_count: 0,
            db_size: 2,
            db_size_in_use: 1,
            at: DateTime::UNIX_EPOCH,
            extra: Default::default(),
        }
    }

    #[test]
    fn an_intent_is_settled_when_its_target_was_quiet_for_the_whole_time() {
        let mut resolver = Resolver::default();
        assert_eq!(resolver.assess(&quiet(at(100)), 7, &intent(), SETTLE, at(100).mono), None);
        assert_eq!(resolver.assess(&quiet(at(159)), 7, &intent(), SETTLE, at(159).mono), None);
        assert!(resolver.assess(&quiet(at(160)), 7, &intent(), SETTLE, at(160).mono).is_some());
    }

    /// The process was paused between the two halves of its look: the writer was there all the while.
    #[test]
    fn the_time_that_a_look_took_is_no_time_of_quiet() {
        let mut resolver = Resolver::default();
        assert_eq!(resolver.assess(&quiet(at(100)), 7, &intent(), SETTLE, at(170).mono), None);
        assert_eq!(resolver.assess(&quiet(at(172)), 7, &intent(), SETTLE, at(172).mono), None);
        assert!(resolver.assess(&quiet(at(230)), 7, &intent(), SETTLE, at(230).mono).is_some());
    }
}
