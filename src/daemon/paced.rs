//! Readings that others can make us take by writing under the prefix: one at a time, and not one after the other.

use std::time::Duration;

use crate::plan::time::Mono;

/// Between the beginnings of two readings, whoever writes how often.
const EVERY: Duration = Duration::from_secs(2);

/// When to read next. However often it is wanted meanwhile, one reading afterwards sees all of it.
pub(super) struct Paced {
    wanted: bool,
    under_way: bool,
    not_before: Mono,
}

impl Paced {
    /// Nothing is to be read.
    pub(super) fn new(now: Mono) -> Self {
        Paced { wanted: false, under_way: false, not_before: now }
    }

    /// There may be something new.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// It could not be read, and is to be read again, not at once.
    pub(super) fn want_at(&mut self, at: Mono) {
        self.wanted = true;
        self.not_before = self.not_before.max(at);
    }

    /// When [`Paced::begins`] is to be asked.
    pub(super) fn wake_at(&self) -> Option<Mono> {
        (self.wanted && !self.under_way).then_some(self.not_before)
    }

    /// Whether to begin a reading now; the caller then does, and says when it has ended.
    pub(super) fn begins(&mut self, now: Mono) -> bool {
        let begins = self.wake_at().is_some_and(|at| now >= at);
        if begins {
            (self.wanted, self.under_way, self.not_before) = (false, true, now + EVERY);
        }
        begins
    }

    /// The reading under way has ended, well or not.
    pub(super) fn ended(&mut self) {
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_wishes_is_one_reading_now_and_one_later() {
        let at = |millis| Mono::new(Duration::from_millis(millis));
        let mut paced = Paced::new(at(0));
        assert!(!paced.begins(at(0)), "nobody wants it");
        let mut begun = Vec::new();
        for now in 0..10_000 {
            paced.want();
            if paced.begins(at(now)) {
                begun.push(now);
            }
            // It takes 2.5 s.
            if begun.last().is_some_and(|last| last + 2500 == now) {
                paced.ended();
            }
        }
        assert_eq!(begun, [0, 2501, 5002, 7503]);
        paced.ended();
        assert!(paced.begins(at(12_000)), "what came meanwhile is read");
        paced.ended();
        assert!(!paced.begins(at(20_000)), "and that is all");
        paced.want_at(at(30_000));
        assert!(!paced.begins(at(29_999)));
        assert!(paced.begins(at(30_000)));
    }
}
