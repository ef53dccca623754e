//! One task's place in its schedule. Pure: the time is an argument.

use chrono::{DateTime, Utc};

use super::SLACK;
use crate::plan::schedule::Schedule;

/// Spans that are remembered. One is added whenever the clock jumps, not with every firing.
const SPANS: usize = 32;

/// What is due next and what was due already.
#[derive(Debug, Default)]
pub(super) struct Hand {
    schedule: Option<Schedule>,
    next: Option<DateTime<Utc>>,
    /// Runs of instants that fired one after the other, first and last of each, oldest first.
    fired: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    /// The latest reading of the clock.
    seen: Option<DateTime<Utc>>,
}

impl Hand {
    /// Counts from `now` on by another schedule. Tells whether it is another one.
    pub(super) fn set(&mut self, schedule: Option<Schedule>, now: DateTime<Utc>) -> bool {
        if self.schedule == schedule {
            return false;
        }
        self.schedule = schedule;
        self.seen = Some(now);
        self.next = self.first_unfired(now);
        true
    }

    /// The next instant that will fire, unless the clock jumps.
    pub(super) fn next(&self) -> Option<DateTime<Utc>> {
        self.next
    }

    /// The instant that is due at `now`, each only once. Of several that were missed, the newest.
    pub(super) fn due(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let set_back = self.seen.is_some_and(|seen| now + SLACK < seen);
        self.seen = Some(now);
        if set_back {
            self.next = self.first_unfired(now);
        }
        let expected = self.next.filter(|next| *next <= now)?;
        let newest = self.schedule.as_ref()?.last_at_or_before(now).map_or(expected, |last| last.max(expected));
        // After the clock was set back it can pass instants that fired before.
        let due = Some(newest).filter(|due| !self.has_fired(*due));
        if let Some(due) = due {
            self.remember(due, expected);
        }
        self.next = self.first_unfired(now);
        due
    }

    fn has_fired(&self, due: DateTime<Utc>) -> bool {
        self.fired.iter().any(|(first, last)| (*first..=*last).contains(&due))
    }

    fn first_unfired(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let schedule = self.schedule.as_ref()?;
        let mut next = schedule.next_after(after)?;
        // Each turn leaves one span behind for good.
        for _ in 0..=SPANS {
            let Some((_, last)) = self.fired.iter().find(|(first, last)| (*first..=*last).contains(&next)) else {
                return Some(next);
            };
            next = schedule.next_after(*last)?;
        }
        Some(next)
    }

    fn remember(&mut self, due: DateTime<Utc>, expected: DateTime<Utc>) {
        let follows = |last: DateTime<Utc>| {
            due == expected && self.schedule.as_ref().is_some_and(|schedule| schedule.next_after(last) == Some(due))
        };
        match self.fired.last().copied() {
            Some((first, last)) if follows(last) => {
                self.fired.pop();
                self.fired.push((first, due));
            }
            _ => {
                if self.fired.len() == SPANS {
                    self.fired.remove(0);
                }
                self.fired.push((due, due));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::plan::zone::Zone;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn hand(expression: &str, now: &str) -> Hand {
        let mut hand = Hand::default();
        assert!(hand.set(Some(Schedule::parse(expression, Zone::UTC).unwrap()), utc(now)));
        hand
    }

    #[test]
    fn each_instant_is_due_once() {
        let mut hand = hand("*/5 * * * *", "2026-11-22T10:00:00Z");
        let mut due = Vec::new();
        for half_seconds in 0..1300 {
            due.extend(hand.due(utc("2026-11-22T10:00:00.3Z") + TimeDelta::milliseconds(half_seconds * 500)));
        }
        assert_eq!(due, [utc("2026-11-22T10:05:00Z"), utc("2026-11-22T10:10:00Z")]);
        assert_eq!(hand.fired.len(), 1);
    }

    #[test]
    fn a_jump_ahead_gives_the_newest_missed_instant_only() {
        let mut hand = hand("0 * * * *", "2026-11-22T10:30:00Z");
        assert_eq!(hand.due(utc("2026-11-24T07:59:59Z")), Some(utc("2026-11-24T07:00:00Z")));
        assert_eq!(hand.due(utc("2026-11-24T07:59:59.5Z")), None);
        assert_eq!(hand.due(utc("2026-11-24T08:00:00.5Z")), Some(utc("2026-11-24T08:00:00Z")));
    }

    #[test]
    fn a_clock_that_is_set_back_repeats_nothing() {
        let mut hand = hand("0 * * * *", "2026-11-22T10:30:00Z");
        assert!(hand.due(utc("2026-11-22T11:00:00Z")).is_some());
        assert!(hand.due(utc("2026-11-22T12:00:00Z")).is_some());
        for at in ["2026-11-22T10:59:00Z", "2026-11-22T11:00:00Z", "2026-11-22T11:30:00Z", "2026-11-22T12:30:00Z"] {
            assert_eq!(hand.due(utc(at)), None, "{at}");
        }
        assert_eq!(hand.next(), Some(utc("2026-11-22T13:00:00Z")));
        assert!(hand.due(utc("2026-11-22T13:00:00Z")).is_some());
    }

    #[test]
    fn a_small_correction_around_the_due_instant_repeats_nothing() {
        let mut hand = hand("0 * * * *", "2026-11-22T10:30:00Z");
        assert!(hand.due(utc("2026-11-22T11:00:00.2Z")).is_some());
        assert_eq!(hand.due(utc("2026-11-22T10:59:59.8Z")), None);
        assert_eq!(hand.due(utc("2026-11-22T11:00:00.1Z")), None);
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_silences_nothing_when_it_is_put_right() {
        let mut hand = hand("0 * * * *", "2026-11-22T10:30:00Z");
        assert_eq!(hand.due(utc("2027-11-22T10:30:00Z")), Some(utc("2027-11-22T10:00:00Z")));
        assert_eq!(hand.due(utc("2026-11-22T10:31:00Z")), None);
        assert_eq!(hand.due(utc("2026-11-22T11:00:00Z")), Some(utc("2026-11-22T11:00:00Z")));
    }

    #[test]
    fn a_clock_that_jumps_all_the_time_costs_no_memory() {
        let mut hand = hand("* * * * * *", "2026-11-22T10:30:00Z");
        for step in 0..1000 {
            hand.due(utc("2026-11-22T10:30:00Z") + TimeDelta::seconds((step * 7919) % 5000));
        }
        assert!(hand.fired.len() <= SPANS);
    }

    #[test]
    fn the_same_schedule_again_loses_nothing_and_another_counts_from_now() {
        let mut hand = hand("0 * * * *", "2026-11-22T10:30:00Z");
        let same = Schedule::parse("0 * * * *", Zone::UTC).unwrap();
        assert!(!hand.set(Some(same), utc("2026-11-22T11:00:00.1Z")));
        assert_eq!(hand.due(utc("2026-11-22T11:00:00.2Z")), Some(utc("2026-11-22T11:00:00Z")));
        let other = Schedule::parse("*/30 * * * *", Zone::UTC).unwrap();
        assert!(hand.set(Some(other), utc("2026-11-22T11:00:00.3Z")));
        assert_eq!(hand.next(), Some(utc("2026-11-22T11:30:00Z")));
        assert!(hand.set(None, utc("2026-11-22T11:29:00Z")));
        assert_eq!((hand.next(), hand.due(utc("2026-11-22T11:31:00Z"))), (None, None));
    }
}
