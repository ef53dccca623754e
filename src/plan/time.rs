//! Instants as decisions see them: a monotonic one for leases and deadlines, the wall clock for schedules and display.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use chrono::{DateTime, Utc};

/// Monotonic time since an origin that never changes within one process (its start).
///
/// A plain value, so that simulation and model checker can make their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(Duration);

impl Mono {
    /// The origin.
    pub const ZERO: Mono = Mono(Duration::ZERO);

    /// The instant `since_origin` after the origin.
    pub const fn new(since_origin: Duration) -> Self {
        Mono(since_origin)
    }

    /// How long after the origin this is.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Mono) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `span` before this one; the origin if that would lie before it.
    pub fn back(self, span: Duration) -> Mono {
        Mono(self.0.saturating_sub(span))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(span))
    }
}

impl fmt::Display for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:.3}s", self.0.as_secs_f64())
    }
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For leases, deadlines and ages.
    pub mono: Mono,
    /// For schedules and display. Jumps when somebody sets the clock.
    pub wall: DateTime<Utc>,
}
