//! Whether a round starts outside the schedule, because the local member's file has come close to its quota.
//!
//! What starts is a round as any other: rule, window, hold and guards decide what comes of it. When the rule sees
//! nothing to gain it ends as `not_needed`, and leaves no record.
//!
//! Its danger is flapping: live data above the mark stays above it, whatever is defragmented. So it starts at most once
//! an hour, counted on the monotonic clock; a janitor that restarted counts by the rounds on record.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::member::{MemberId, RoundId, RoundKind};
use super::record::RoundRecord;
use super::rule::{Figures, Quota};
use super::time::{Mono, Now};

/// Nothing urgent starts again earlier than this.
pub const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// At this share and above nothing starts: a file as large as its quota is the rescue's.
pub const OFF: f64 = 1.0;
/// Due instants are cut to this grid, in seconds: members reach the mark seconds apart, and their janitors should name
/// the same round.
const GRID: i64 = 300;
/// How long after its name a round of another member is taken part in.
const JOIN_WITHIN: TimeDelta = TimeDelta::minutes(15);

/// What is seen when the local member has told its figures.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// The local member.
    pub me: MemberId,
    /// What it told a moment ago.
    pub figures: Figures,
    /// Share of the quota from which on it is urgent.
    pub mark: f64,
    /// Whether defrags are switched on.
    pub enabled: bool,
    /// Nothing new may start.
    pub quiesced: bool,
    /// NOSPACE is up: no lease is granted any more, so no round could take its turn.
    pub nospace: bool,
    /// A round, whatever started it.
    pub under_way: bool,
    /// When the schedule fires next.
    pub next_round: Option<DateTime<Utc>>,
    /// How long after its due instant a round ends.
    pub window: Duration,
    /// What is on record; none: not read yet.
    pub records: Option<&'a [RoundRecord]>,
}

/// Remembers the newest urgent round.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Urgent {
    last: Option<(Mono, RoundId)>,
}

impl Urgent {
    /// The round that is to begin now, if one is. It counts as begun.
    pub fn due(&mut self, sight: &Sight<'_>, now: Now) -> Option<RoundId> {
        let allowed = sight.enabled && !sight.quiesced && !sight.nospace && !sight.under_way;
        if !allowed || sight.mark >= OFF || usage(&sight.figures)? < sight.mark {
            return None;
        }
        let records = sight.records?;
        if self.last.is_some_and(|(began, _)| now.mono.since(began) < AGAIN_AFTER) || on_record(sight.me, records, now)
        {
            return None;
        }
        // That one does the same, and would be refused while ours is under way.
        if sight.next_round.is_some_and(|next| next - now.wall < TimeDelta::seconds(GRID)) {
            return None;
        }
        let round = self.name(sight, records, now)?;
        self.last = Some((now.mono, round));
        Some(round)
    }

    /// The round that another member has just been through, else the one of this part of the grid. At least half of the
    /// window is left in it. None when that name was begun here before: the clock was set back.
    fn name(&self, sight: &Sight<'_>, records: &[RoundRecord], now: Now) -> Option<RoundId> {
        let half = (sight.window / 2).max(Duration::from_secs(1));
        let grid = i64::try_from(half.as_secs()).unwrap_or(GRID).min(GRID);
        let seconds = now.wall.timestamp();
        let due = DateTime::from_timestamp(seconds - seconds.rem_euclid(grid), 0)?;
        let cut = RoundId { kind: RoundKind::Urgent, due };

        let join_within = TimeDelta::from_std(half).unwrap_or(JOIN_WITHIN).min(JOIN_WITHIN);
        let ours = |round| records.iter().any(|record| record.member == sight.me && record.round == round);
        let begun = |round| self.last.is_some_and(|(_, last)| last == round);
        let theirs = records.iter().map(|record| record.round).filter(|round| {
            round.kind == RoundKind::Urgent && within(*round, join_within, now) && !ours(*round) && !begun(*round)
        });
        // Where members leave each other's part of the grid, the newest is the one that most are in.
        theirs.max().or_else(|| (!begun(cut)).then_some(cut))
    }
}

/// Share of the quota; none without a quota, or when nobody tells it: an assumed one would start rounds for nothing.
pub fn usage(figures: &Figures) -> Option<f64> {
    match figures.quota {
        Quota::Bytes(quota) if quota > 0 => Some(figures.db_size as f64 / quota as f64),
        Quota::Bytes(_) | Quota::Disabled | Quota::Unknown => None,
    }
}

/// Why a round begins, for people.
pub fn why(figures: &Figures, mark: f64) -> String {
    format!(
        "begins outside the schedule: the file of {} bytes, {} of them in use, is {:.3} of the quota (defrag.urgent_at: \
         {mark})",
        figures.db_size,
        figures.db_size_in_use,
        usage(figures).unwrap_or_default()
    )
}

/// Whether an urgent round of this member is too fresh on record. By its name, which is earlier than its begin.
fn on_record(me: MemberId, records: &[RoundRecord], now: Now) -> bool {
    let hour = TimeDelta::from_std(AGAIN_AFTER).unwrap_or(TimeDelta::MAX) + JOIN_WITHIN;
    let urgent = |record: &&RoundRecord| record.member == me && record.round.kind == RoundKind::Urgent;
    records.iter().filter(urgent).any(|record| within(record.round, hour, now))
}

/// Whether a round was due at most `span` ago. One that is due in the future was named by another clock and says nothing.
fn within(round: RoundId, span: TimeDelta, now: Now) -> bool {
    let age = now.wall - round.due;
    age >= TimeDelta::zero() && age < span
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const ME: MemberId = MemberId(1);

    fn at(text: &str) -> Now {
        let wall: DateTime<Utc> = format!("2026-11-22T{text}Z").parse().unwrap();
        let midnight: DateTime<Utc> = "2026-11-22T00:00:00Z".parse().unwrap();
        Now { mono: Mono::new((wall - midnight).to_std().unwrap()), wall }
    }

    fn full(mib: u64) -> Sight<'static> {
        Sight {
            me: ME,
            figures: Figures { db_size: mib * MIB, db_size_in_use: 10 * MIB, quota: Quota::Bytes(100 * MIB) },
            mark: 0.9,
            enabled: true,
            quiesced: false,
            nospace: false,
            under_way: false,
            next_round: None,
            window: Duration::from_secs(4 * 3600),
            records: Some(&[]),
        }
    }

    fn record(round: &str, member: u64) -> RoundRecord {
        let text = format!(
            r#"{{"v":1,"round":"{round}","member":"{member:016x}","name":"m","outcome":"done",
                "ended_at":"2026-11-22T12:00:00Z"}}"#
        );
        super::super::record::read(text.as_bytes()).unwrap()
    }

    fn begins(sight: &Sight<'_>, now: Now) -> Option<String> {
        Urgent::default().due(sight, now).map(|round| round.to_string())
    }

    #[test]
    fn it_begins_at_the_mark_and_not_below() {
        let now = at("12:04:59");
        assert_eq!(begins(&full(90), now).as_deref(), Some("urgent-20261122T120000Z"));
        let below = Figures { db_size: 90 * MIB - 1, ..full(90).figures };
        assert_eq!(begins(&Sight { figures: below, ..full(90) }, now), None);
    }

    #[test]
    fn each_of_these_is_in_the_way() {
        let now = at("12:00:00");
        let no_quota = |quota| Figures { quota, ..full(99).figures };
        for (why, sight) in [
            ("switched off", Sight { mark: 1.0, ..full(120) }),
            ("no defrags", Sight { enabled: false, ..full(99) }),
            ("quiesced", Sight { quiesced: true, ..full(99) }),
            ("the rescue's", Sight { nospace: true, ..full(99) }),
            ("a round is under way", Sight { under_way: true, ..full(99) }),
            ("records not read", Sight { records: None, ..full(99) }),
            ("disabled", Sight { figures: no_quota(Quota::Disabled), ..full(99) }),
            ("0 is disabled", Sight { figures: no_quota(Quota::Bytes(0)), ..full(99) }),
            ("unknown", Sight { figures: no_quota(Quota::Unknown), ..full(99) }),
            ("the schedule's own", Sight { next_round: Some(at("12:04:59").wall), ..full(99) }),
        ] {
            assert_eq!(begins(&sight, now), None, "{why}");
        }
        let later = Sight { next_round: Some(at("12:05:00").wall), ..full(99) };
        assert!(begins(&later, now).is_some());
    }

    #[test]
    fn it_begins_once_an_hour_whatever_comes_of_it_and_whatever_the_clock_says() {
        let mut urgent = Urgent::default();
        let first = at("12:03:00");
        assert!(urgent.due(&full(95), first).is_some());
        let after = |seconds, wall: &str| Now { mono: first.mono + Duration::from_secs(seconds), wall: at(wall).wall };
        assert_eq!(urgent.due(&full(95), after(5, "12:03:05")), None);
        assert_eq!(urgent.due(&full(95), after(10, "23:00:00")), None, "the clock was set ahead");
        assert_eq!(urgent.due(&full(95), after(3599, "13:02:59")), None);
        assert_eq!(urgent.due(&full(95), after(3600, "12:04:00")), None, "the clock was set back into the same name");
        assert!(urgent.due(&full(95), after(3610, "13:03:00")).is_some());
    }

    #[test]
    fn a_restart_counts_by_the_rounds_on_record() {
        let now = at("12:31:00");
        let tell = |records: &[RoundRecord]| begins(&Sight { records: Some(records), ..full(95) }, now);
        assert_eq!(tell(&[record("urgent-20261122T120000Z", 1)]), None);
        assert!(tell(&[record("urgent-20261122T111600Z", 1)]).is_some(), "longer ago");
        assert!(tell(&[record("cron-20261122T120000Z", 1)]).is_some(), "no urgent one");
        assert!(tell(&[record("urgent-20271122T120000Z", 1)]).is_some(), "of a clock that was wrong");
    }

    #[test]
    fn members_that_reach_the_mark_apart_take_part_in_one_round() {
        let now = at("12:14:59");
        let tell = |records: &[RoundRecord]| begins(&Sight { records: Some(records), ..full(95) }, now).unwrap();
        let theirs = record("urgent-20261122T120000Z", 2);
        assert_eq!(tell(std::slice::from_ref(&theirs)), "urgent-20261122T120000Z");
        let newer = record("urgent-20261122T120500Z", 3);
        assert_eq!(tell(&[theirs, newer]), "urgent-20261122T120500Z");
        assert_eq!(tell(&[record("urgent-20261122T115900Z", 2)]), "urgent-20261122T121000Z", "too long ago");
    }

    #[test]
    fn half_of_a_short_window_is_left() {
        for (window, name) in [(600, "120000"), (60, "120430"), (3, "120459"), (1, "120459")] {
            let sight = Sight { window: Duration::from_secs(window), ..full(95) };
            assert_eq!(begins(&sight, at("12:04:59")), Some(format!("urgent-20261122T{name}Z")), "{window} s");
        }
        // Another member's round is not joined when less is left.
        let theirs = [record("urgent-20261122T120400Z", 2)];
        let sight = Sight { window: Duration::from_secs(60), records: Some(&theirs), ..full(95) };
        assert_eq!(begins(&sight, at("12:04:59")).as_deref(), Some("urgent-20261122T120430Z"));
    }
}
