//! What it looks like: colours and a moving line on a terminal, plain lines in
//! a CI log.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

pub struct Screen {
    moving: bool,
    colour: bool,
    started: Instant,
    /// The same instant, for people.
    date: DateTime<Utc>,
}

impl Screen {
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb");
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { moving: terminal, colour, started: Instant::now(), date: Utc::now() }
    }

    pub fn line(&self, text: &str) {
        println!("{text}");
        // What is piped into a log is wanted there when it happens.
        let _ = std::io::stdout().flush();
    }

    pub fn heading(&self, text: &str) {
        self.line(&format!("\n{}", self.paint("1", text)));
    }

    pub fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn progress(&self, what: &str) -> Progress<'_> {
        Progress { screen: self, what: what.to_owned(), said: None }
    }

    /// How long the demo has been running.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The time of day of an instant, to the tenth of a second.
    pub fn clock(&self, instant: Instant) -> String {
        let since = |later: Instant, earlier: Instant| {
            chrono::TimeDelta::from_std(later.saturating_duration_since(earlier)).unwrap_or_default()
        };
        time_of_day(self.date + since(instant, self.started) - since(self.started, instant))
    }
}

pub fn time_of_day(at: DateTime<Utc>) -> String {
    let text = at.format("%H:%M:%S%.3f").to_string();
    text[..text.len() - 2].to_owned()
}

/// Ten lines at most where the output is no terminal, one that moves where it is.
pub struct Progress<'a> {
    screen: &'a Screen,
    what: String,
    said: Option<u64>,
}

impl Progress<'_> {
    pub fn at(&mut self, done: u64, of: u64) {
        let percent = done * 100 / of.max(1);
        let step = if self.screen.moving { percent } else { percent / 20 * 20 };
        if self.said == Some(step) || (!self.screen.moving && step == 0) {
            return;
        }
        self.said = Some(step);
        if self.screen.moving {
            let full = usize::try_from(percent * 3 / 10).unwrap_or(30).min(30);
            print!("\r  {} [{}{}] {percent:3} %", self.what, "#".repeat(full), " ".repeat(30 - full));
            if percent >= 100 {
                println!();
            }
            let _ = std::io::stdout().flush();
        } else {
            self.screen.line(&format!("  {} {step:3} %", self.what));
        }
    }
}

pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Rows in columns, the first one being the head.
pub fn table(screen: &Screen, rows: &[Vec<String>]) {
    let Some(head) = rows.first() else { return };
    let widths: Vec<usize> =
        (0..head.len()).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let cells: Vec<String> = cells.collect();
        screen.line(&format!("  {}", cells.join("   ").trim_end()));
    }
}
