//! Where progress is shown: one line of a terminal again and again, or a line now and then in a log.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Duration;

/// Standard error.
pub struct Screen {
    quiet: bool,
    terminal: bool,
}

impl Screen {
    /// `quiet`: nothing is shown.
    pub fn new(quiet: bool) -> Screen {
        Screen { quiet, terminal: stderr().is_terminal() }
    }

    /// How often there is something new to show.
    pub fn interval(&self) -> Duration {
        if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) }
    }

    /// Shows how far it is.
    pub fn show(&mut self, line: &str) {
        match (self.quiet, self.terminal) {
            (true, _) => {}
            (false, true) => self.write(&format!("\r\u{1b}[K{line}")),
            (false, false) => self.write(&format!("{line}\n")),
        }
    }

    /// Shows how far it came.
    pub fn last(&mut self, line: &str) {
        self.show(line);
        if self.terminal && !self.quiet {
            self.write("\n");
        }
    }

    /// Standard error may be closed; what was to be shown is lost then, and nothing else.
    fn write(&self, text: &str) {
        let mut out = stderr().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
