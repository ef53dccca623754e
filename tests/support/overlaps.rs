//! Why two members were in a defrag at once. Two explanations are known, and
//! docs/coordination.md says what they cost; whatever has neither is a failure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::history::{Defrag, History};

/// The most that may lie between the beginning of a janitor's last look and its
/// call. A member's answer to the look may be older than its end by this much.
const LOOK_TO_SEND: Duration = Duration::from_secs(1);

/// How long a call of a process that goes on again may take to reach etcd and
/// etcd's own counters, on a busy machine.
const ARRIVAL: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Somebody else's call came to the other member when the janitor had
    /// looked at it already.
    ForeignAfterLook,
    /// No janitor had any part in it.
    ForeignBoth,
    /// The later call was on its way for longer than a lease lives, because its
    /// sender, its member or what lies between them stood still.
    PauseInWindow,
    Unexplained,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignAfterLook => "foreign defrag begun after the look",
            Self::ForeignBoth => "two foreign defrags",
            Self::PauseInWindow => "pause in the look-send window",
            Self::Unexplained => "UNEXPLAINED",
        })
    }
}

/// A call that a test made itself, past the janitors.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    pub member: usize,
    pub called: Instant,
    /// The client came back; the call itself may go on. `None`: not yet.
    pub returned: Option<Instant>,
}

/// A member, its janitor or the way between them stood still.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub member: usize,
    pub from: Instant,
    pub to: Instant,
}

/// An intent, as long as it surely stood and a little longer: from the last reading before it to the last one of it.
#[derive(Clone, Copy, Debug)]
pub struct Stood {
    pub member: usize,
    pub from: Instant,
    pub to: Instant,
}

/// What the test itself has done that can explain an overlap, and the intents that it saw.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    pub foreign: Vec<Foreign>,
    pub pauses: Vec<Pause>,
    pub intents: Vec<Stood>,
    pub lease_ttl: Duration,
}

impl Deeds {
    pub fn is_foreign(&self, defrag: &Defrag) -> bool {
        self.calls_behind(defrag).next().is_some()
    }

    fn calls_behind<'a>(&'a self, defrag: &'a Defrag) -> impl Iterator<Item = &'a Foreign> {
        let of_member = self.foreign.iter().filter(|call| call.member == defrag.member);
        of_member
            .filter(|call| call.called <= defrag.latest && call.returned.is_none_or(|back| back >= defrag.earliest))
    }

    pub fn classify(&self, one: &Defrag, other: &Defrag) -> Class {
        match (self.is_foreign(one), self.is_foreign(other)) {
            (true, true) => return Class::ForeignBoth,
            (true, false) if unseen_by(one, other) => return Class::ForeignAfterLook,
            (false, true) if unseen_by(other, one) => return Class::ForeignAfterLook,
            _ => {}
        }
        let later = if one.from <= other.from { other } else { one };
        let mut pauses = self.pauses.iter().filter(|pause| pause.member == later.member);
        let explained = pauses.any(|pause| {
            // Shorter ones the lease and the intent outlive.
            let long = pause.to - pause.from >= self.lease_ttl;
            let with_the_send = pause.from <= later.from && pause.to + ARRIVAL >= later.from;
            long && with_the_send && self.gave_up_in(pause, later)
        });
        if explained { Class::PauseInWindow } else { Class::Unexplained }
    }

    /// Whether the member's intent stood when it was paused, and was settled by others before its call came.
    fn gave_up_in(&self, pause: &Pause, call: &Defrag) -> bool {
        let own = self.intents.iter().filter(|intent| intent.member == call.member);
        own.into_iter().any(|intent| intent.from <= pause.from && pause.from <= intent.to && intent.to < call.from)
    }

    /// All overlaps that the judge saw, by their explanation.
    pub fn overlaps(&self, history: &History) -> BTreeMap<Class, Vec<(Defrag, Defrag)>> {
        let mut classes: BTreeMap<Class, Vec<(Defrag, Defrag)>> = BTreeMap::new();
        for (one, other) in history.overlaps() {
            classes.entry(self.classify(&one, &other)).or_default().push((one, other));
        }
        classes
    }
}

/// Whether a janitor that defragmented `own` could not have seen `foreign` in
/// its last look, because it was certainly open for less than a look is old.
fn unseen_by(foreign: &Defrag, own: &Defrag) -> bool {
    foreign.from + LOOK_TO_SEND >= own.earliest
}
