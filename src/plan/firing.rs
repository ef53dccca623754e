//! Which firings of the defrag schedule were begun: none twice, and none lost without a word.

use std::collections::VecDeque;

use super::member::RoundId;
use super::time::Mono;

/// Rounds that are remembered. Those before them are kept from a second run by their record.
const REMEMBERED: usize = 64;

/// What became of the firings.
///
/// Not "none earlier than the last": a wall clock that was ahead once, as in a pod that boots before its time is set, would
/// silence the schedule until the date that it showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Firings {
    begun: VecDeque<RoundId>,
    /// Fired when nobody could begin it, and the end of its window.
    waiting: Option<(RoundId, Mono)>,
}

impl Firings {
    /// Whether this round was begun before.
    pub fn has_begun(&self, round: RoundId) -> bool {
        self.begun.contains(&round)
    }

    /// It begins now.
    pub fn begin(&mut self, round: RoundId) {
        self.waiting.take_if(|(waiting, _)| *waiting == round);
        self.begun.push_back(round);
        if self.begun.len() > REMEMBERED {
            self.begun.pop_front();
        }
    }

    /// It cannot begin yet. Gives the one that waited before it and will not be caught up: only the newest is.
    pub fn wait(&mut self, round: RoundId, until: Mono) -> Option<RoundId> {
        let before = self.waiting.replace((round, until));
        before.map(|(before, _)| before).filter(|before| *before != round)
    }

    /// The one that waited until its window was over.
    pub fn lapsed(&mut self, now: Mono) -> Option<RoundId> {
        self.waiting.take_if(|(_, until)| now >= *until).map(|(round, _)| round)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::member::RoundKind;

    fn round(hour: i64) -> RoundId {
        let due = chrono::DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).unwrap();
        RoundId { kind: RoundKind::Cron, due }
    }

    fn at(seconds: u64) -> Mono {
        Mono::new(Duration::from_secs(seconds))
    }

    #[test]
    fn no_round_begins_twice_and_a_clock_that_was_ahead_silences_none() {
        let mut firings = Firings::default();
        firings.begin(round(24));
        for hour in 0..200 {
            assert_eq!(firings.has_begun(round(hour)), hour == 24, "{hour}");
            if hour != 24 {
                firings.begin(round(hour));
            }
            assert!(firings.has_begun(round(hour)));
        }
        assert_eq!(firings.begun.len(), REMEMBERED, "memory is bounded");
        assert!(firings.has_begun(round(150)), "the clock was set back by two days");
    }

    #[test]
    fn a_firing_that_nobody_could_begin_ends_once_with_its_window() {
        let mut firings = Firings::default();
        assert_eq!(firings.wait(round(1), at(100)), None);
        assert_eq!(firings.wait(round(1), at(100)), None, "fired again: the clock was set back");
        assert_eq!(firings.lapsed(at(99)), None);
        assert_eq!(firings.lapsed(at(100)), Some(round(1)));
        assert_eq!(firings.lapsed(at(200)), None);
        firings.wait(round(2), at(300));
        assert_eq!(firings.wait(round(3), at(400)), Some(round(2)), "only the newest is caught up");
        firings.begin(round(3));
        assert_eq!(firings.lapsed(at(400)), None);
    }
}
