//! What a defrag or a compaction by hand shows while it runs: sentences, and on a terminal one line that moves.

use std::io::Write;
use std::time::Duration;

use super::printable;
use super::screen::Screen;
use crate::daemon::once::{Progress, Told};

/// Characters of the bar.
const BAR: usize = 20;

/// Writes what is told.
pub struct Show<'a, W: Write> {
    out: &'a mut W,
    screen: Screen,
    /// A line that moves is there and is to be wiped before the next sentence.
    line: bool,
    /// What was said of the phase, where lines do not move.
    said: String,
}

impl<'a, W: Write> Show<'a, W> {
    /// To `out`, which is a `screen`.
    pub fn new(out: &'a mut W, screen: Screen) -> Self {
        Show { out, screen, line: false, said: String::new() }
    }

    /// Takes one thing that is told.
    pub fn tell(&mut self, told: Told) {
        match told {
            Told::Said(text) => {
                self.wipe();
                let _ = writeln!(self.out, "{}", printable(&text));
            }
            Told::At(progress) => self.at(&progress),
        }
        let _ = self.out.flush();
    }

    fn at(&mut self, progress: &Progress) {
        if self.screen.terminal {
            let text = printable(&moving(progress));
            let width = self.screen.width.unwrap_or(80).saturating_sub(1);
            let text: String = text.chars().take(width).collect();
            let _ = write!(self.out, "\r\x1b[K{text}");
            self.line = true;
            return;
        }
        // A line for each phase and not for each quarter of a second. What it waits for is said as a sentence.
        let text = standing(&Progress { waiting_for: None, ..progress.clone() });
        if !text.is_empty() && text != self.said {
            let _ = writeln!(self.out, "{}", printable(&text));
            self.said = text;
        }
    }

    /// Takes the moving line away.
    pub fn wipe(&mut self) {
        if self.line {
            let _ = write!(self.out, "\r\x1b[K");
            self.line = false;
        }
    }
}

/// The phase, and while the defrag is open how far it should be.
fn moving(progress: &Progress) -> String {
    let Some(elapsed) = progress.sent_for else { return standing(progress) };
    if let Some(revision) = progress.revision {
        return format!("{}, to revision {revision}, for {}", progress.phase, seconds(elapsed));
    }
    match progress.forecast {
        Some(forecast) if !forecast.is_zero() => {
            format!("{} {} of about {}", bar(elapsed, forecast), seconds(elapsed), seconds(forecast))
        }
        _ => format!("defrag open for {}", seconds(elapsed)),
    }
}

/// The phase and what it waits for.
fn standing(progress: &Progress) -> String {
    if progress.sent_for.is_some() && progress.revision.is_some() {
        // That it was sent was said as a sentence.
        return String::new();
    }
    if progress.sent_for.is_some() {
        let forecast = progress.forecast.map(|forecast| format!(", about {}", seconds(forecast))).unwrap_or_default();
        return format!("the defrag is open{forecast}; it cannot be cancelled");
    }
    let mut text = progress.phase.to_owned();
    if let Some(why) = &progress.waiting_for {
        text = format!("{text}: {why}");
    }
    if !progress.queue.is_empty() && progress.phase.contains("queue") {
        text = format!("{text} (turn: {})", progress.queue.join(", then "));
    }
    text
}

/// A forecast is no promise: the bar stays one short of full until it is over.
fn bar(elapsed: Duration, forecast: Duration) -> String {
    let share = elapsed.as_secs_f64() / forecast.as_secs_f64();
    let full = ((share * BAR as f64) as usize).min(BAR - 1);
    format!("[{}{}]", "#".repeat(full), ".".repeat(BAR - full))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(phase: &'static str) -> Progress {
        Progress { phase, ..Progress::default() }
    }

    fn shown(screen: Screen, told: Vec<Told>) -> String {
        let mut out = Vec::new();
        let mut show = Show::new(&mut out, screen);
        for one in told {
            show.tell(one);
        }
        show.wipe();
        String::from_utf8(out).unwrap().replace('\x1b', "^")
    }

    fn story() -> Vec<Told> {
        let queue = vec!["etcd-2".to_owned(), "cli@etcd-0".to_owned()];
        let why = Some("hold: ana".to_owned());
        let waiting = Progress { queue, waiting_for: why, ..progress("in the queue") };
        let open = |sent_for| Progress {
            sent_for: Some(Duration::from_secs(sent_for)),
            forecast: Some(Duration::from_secs(8)),
            ..progress("defragmenting")
        };
        vec![
            Told::At(progress("measuring")),
            Told::At(progress("measuring")),
            Told::At(waiting),
            Told::Said("has the turn\x07".to_owned()),
            Told::At(open(2)),
            Told::At(open(90)),
            Told::Said("done 1 GiB to 2 MiB".to_owned()),
        ]
    }

    #[test]
    fn a_pipe_gets_each_phase_once() {
        let expected = "measuring\nin the queue (turn: etcd-2, then cli@etcd-0)\nhas the turn?\n\
                        the defrag is open, about 8.0 s; it cannot be cancelled\ndone 1 GiB to 2 MiB\n";
        assert_eq!(shown(Screen::PLAIN, story()), expected);
    }

    #[test]
    fn a_compaction_is_shown_with_its_age() {
        let sent = Progress { revision: Some(42), sent_for: Some(Duration::from_secs(7)), ..progress("compacting") };
        let told = vec![
            Told::At(progress("reading the cluster")),
            Told::Said("compacts to revision 42".to_owned()),
            Told::At(sent),
        ];
        assert_eq!(shown(Screen::PLAIN, told.clone()), "reading the cluster\ncompacts to revision 42\n");
        let text = shown(Screen { terminal: true, width: Some(60), ..Screen::PLAIN }, told);
        assert!(text.contains("\r^[Kcompacting, to revision 42, for 7.0 s\r"), "{text:?}");
    }

    #[test]
    fn a_terminal_gets_a_line_that_moves_and_is_wiped() {
        let text = shown(Screen { terminal: true, width: Some(60), ..Screen::PLAIN }, story());
        assert!(text.contains("\r^[Kin the queue: hold: ana (turn: etcd-2, then cli@etcd-0)\r"), "{text:?}");
        assert!(text.contains("\r^[K[#####...............] 2.0 s of about 8.0 s\r"), "{text:?}");
        assert!(text.contains("[###################.] 90.0 s of about 8.0 s\r^[Kdone 1 GiB to 2 MiB\n"), "{text:?}");
        let narrow = shown(Screen { terminal: true, width: Some(10), ..Screen::PLAIN }, story());
        assert!(narrow.contains("\r^[K[#####...\r"), "{narrow:?}");
    }
}
