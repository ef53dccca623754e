//! The one place where clocks are read.

use std::time::{Duration, Instant};

use chrono::Utc;

use crate::plan::time::{Mono, Now};

/// The origin of [`Mono`] lies this far before the start of the process, so that samples which an earlier instance took
/// have an instant too.
const BEFORE_START: Duration = Duration::from_secs(400 * 24 * 3600);

/// Both clocks of this process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock for a process that starts now.
    #[expect(clippy::new_without_default, reason = "reading the clock is no default")]
    pub fn new() -> Self {
        Clock { started: Instant::now() }
    }

    /// Both clocks.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: Utc::now() }
    }

    /// The monotonic one.
    pub fn mono(&self) -> Mono {
        Mono::new(BEFORE_START + self.started.elapsed())
    }

    /// As the runtime's timers want it.
    pub fn instant(&self, at: Mono) -> Instant {
        self.started + at.since_origin().saturating_sub(BEFORE_START)
    }
}
