//! How far a stage is, in one line.

use std::collections::VecDeque;
use std::time::Duration;

/// The rate is that of the last so many seconds: a stall is seen at once, and one slow request makes no ETA jump.
const WINDOW: Duration = Duration::from_secs(5);
const BAR: usize = 24;

/// One stage as it goes on.
pub struct Progress {
    name: &'static str,
    operations: Option<u64>,
    duration: Option<Duration>,
    /// When and how many: the last [`WINDOW`] and the point before it.
    points: VecDeque<(Duration, u64)>,
}

impl Progress {
    /// A stage that ends after so many operations or so long, whichever is first.
    pub fn new(name: &'static str, operations: Option<u64>, duration: Option<Duration>) -> Progress {
        Progress { name, operations, duration, points: VecDeque::from([(Duration::ZERO, 0)]) }
    }

    /// So many were done, and so many of them failed, when so much time had passed.
    pub fn line(&mut self, passed: Duration, done: u64, failed: u64) -> String {
        self.points.push_back((passed, done));
        while self.points.len() > 2 && self.points[1].0.saturating_add(WINDOW) <= passed {
            self.points.pop_front();
        }
        let (from, before) = self.points[0];
        let rate = (done - before.min(done)) as f64 / (passed.saturating_sub(from).as_secs_f64()).max(1e-3);
        let by_count = self.operations.map(|all| {
            let left = all.saturating_sub(done) as f64;
            (done as f64 / all.max(1) as f64, (rate > 0.0).then(|| left / rate))
        });
        let by_time = self.duration.map(|all| {
            let left = all.saturating_sub(passed).as_secs_f64();
            (passed.as_secs_f64() / all.as_secs_f64().max(1e-3), Some(left))
        });
        // What is further is what will end it.
        let (share, left) = match (by_count, by_time) {
            (Some(count), Some(time)) => {
                if count.0 >= time.0 {
                    count
                } else {
                    time
                }
            }
            (one, other) => one.or(other).unwrap_or((0.0, None)),
        };
        let share = share.clamp(0.0, 1.0);
        let full = (share * BAR as f64) as usize;
        let bar = format!("{}{}", "#".repeat(full), "-".repeat(BAR - full));
        let all = self.operations.map_or_else(String::new, |all| format!("/{all}"));
        let left = left.map_or_else(|| "?".to_owned(), clock);
        let failed = if failed == 0 { String::new() } else { format!("  {failed} failed") };
        format!("{:<5} [{bar}] {:3.0} %  {done}{all}  {rate:.0}/s  ETA {left}{failed}", self.name, share * 100.0)
    }
}

/// `7s`, `1m05s`, `2h07m`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 3.6e9).ceil() as u64;
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{:02}s", seconds % 60),
        _ => format!("{hours}h{:02}m", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn rate_and_eta_follow_the_last_seconds() {
        let mut progress = Progress::new("fill", Some(20_000), None);
        for second in 1..=10 {
            progress.line(SECOND * second, u64::from(second) * 1000, 0);
        }
        let line = progress.line(SECOND * 11, 10_000, 0);
        assert_eq!(line, "fill  [############------------]  50 %  10000/20000  800/s  ETA 13s");
        for second in 12..=15 {
            progress.line(SECOND * second, 10_000, 3);
        }
        let line = progress.line(SECOND * 16, 10_000, 3);
        assert_eq!(line, "fill  [############------------]  50 %  10000/20000  0/s  ETA ?  3 failed");
    }

    #[test]
    fn a_stage_with_two_ends_shows_the_nearer_one() {
        let mut progress = Progress::new("mix", Some(1000), Some(SECOND * 100));
        assert!(progress.line(SECOND, 100, 0).ends_with(" 10 %  100/1000  100/s  ETA 9s"));
        let mut progress = Progress::new("mix", Some(1000), Some(SECOND * 10));
        assert!(progress.line(SECOND * 5, 10, 0).ends_with(" 50 %  10/1000  2/s  ETA 5s"));
        let mut progress = Progress::new("mix", None, Some(SECOND * 600));
        assert!(progress.line(SECOND * 3, 900, 0).ends_with("  900  300/s  ETA 9m57s"));
    }

    #[test]
    fn extremes_do_not_panic() {
        let mut progress = Progress::new("mix", Some(0), Some(Duration::ZERO));
        progress.line(Duration::ZERO, 0, 0);
        progress.line(Duration::MAX, u64::MAX, u64::MAX);
        progress.line(SECOND, 0, 0);
        assert_eq!(clock(0.0), "0s");
        assert_eq!(clock(65.0), "1m05s");
        assert_eq!(clock(7620.0), "2h07m");
        assert_eq!(clock(f64::INFINITY), "1000000h00m");
    }

    #[test]
    fn the_points_of_a_long_run_stay_few() {
        let mut progress = Progress::new("fill", Some(u64::MAX), None);
        for tick in 0..100_000 {
            progress.line(SECOND / 5 * tick, u64::from(tick), 0);
        }
        assert!(progress.points.len() < 30, "{}", progress.points.len());
    }
}
