//! `etcd-janitor status`: the whole cluster from one pod, as its daemon sees it, or as etcd shows it without one.

mod table;

use std::io::{self, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::screen::Screen;
use super::seen::{Seen, see};
use super::yaml::yaml;
use super::{ATTENTION, WELL, refused};
use crate::config::Config;
use crate::config::value::duration_text;
use crate::etcd::Clock;
use crate::http::{Level, verdict};

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns, for people
    #[default]
    Table,
    /// More columns, and absolute times
    Wide,
    /// What /api/v1/status gives
    Json,
    /// The same as YAML
    Yaml,
}

impl Format {
    /// Whether a program reads it.
    pub(super) const fn is_document(self) -> bool {
        matches!(self, Format::Json | Format::Yaml)
    }
}

/// How it is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Order {
    /// How to write it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Again and again, until Ctrl-C
    #[arg(long, short, num_args = 0..=1, default_missing_value = "2s", require_equals = true, value_name = "EVERY",
          value_parser = every)]
    watch: Option<Duration>,
}

fn every(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(1)..=Duration::from_secs(3600);
    let every = duration_text(text).ok().filter(|every| bounds.contains(every));
    every.ok_or_else(|| "allowed: 1s to 1h, such as 5s".to_owned())
}

/// Shows how things are. Exit code 0: well; 1: something wants attention, or no daemon answers; 3: nobody answers.
pub fn status(config: &Config, order: &Order, clock: &Clock, out: &mut impl Write) -> u8 {
    loop {
        let mut page = Vec::new();
        let screen = Screen::of_stdout();
        let code = once(config, order.output, screen, clock.now().wall, &mut page);
        // One write, so that a screen is never seen half.
        let clear: &[u8] = if order.watch.is_some() && screen.terminal { b"\x1b[H\x1b[2J\x1b[3J" } else { b"" };
        let written = out.write_all(clear).and_then(|()| out.write_all(&page)).and_then(|()| out.flush());
        match order.watch {
            // Who read it is gone.
            _ if written.is_err() => return ATTENTION,
            Some(every) => std::thread::sleep(every),
            None => return code,
        }
        if !screen.terminal {
            let _ = writeln!(out);
        }
    }
}

fn once(config: &Config, format: Format, screen: Screen, now: DateTime<Utc>, out: &mut Vec<u8>) -> u8 {
    match see(config) {
        Ok(seen) => {
            let _ = write(&seen, format, screen, now, out);
            code(&seen, now)
        }
        Err((code, text)) => {
            refused(&text, format.is_document(), out);
            code
        }
    }
}

fn code(seen: &Seen, now: DateTime<Utc>) -> u8 {
    let level = verdict(&seen.snapshot, now).level;
    let well = seen.without_daemon.is_none() && !matches!(level, Level::Bad | Level::Attention);
    if well { WELL } else { ATTENTION }
}

/// Writes what was seen.
///
/// # Errors
///
/// `out` cannot be written.
pub fn write(seen: &Seen, format: Format, screen: Screen, now: DateTime<Utc>, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Json => {
            serde_json::to_writer(&mut *out, &seen.snapshot).map_err(io::Error::from)?;
            writeln!(out)
        }
        Format::Yaml => {
            let value = serde_json::to_value(&seen.snapshot).map_err(io::Error::from)?;
            out.write_all(yaml(&value).as_bytes())
        }
        Format::Table => table::write(seen, false, screen, now, out),
        Format::Wide => table::write(seen, true, Screen { width: None, ..screen }, now, out),
    }
}
