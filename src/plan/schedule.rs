//! When something is due: a cron expression in a time zone.
//!
//! The same text and zone give the same instants on every janitor, which is what names a round (see
//! [`RoundId`](super::member::RoundId)). Reads no clock: every question takes the instant it starts from.
//!
//! # The day the clocks change
//!
//! * A schedule with one fixed time of day (`30 2 * * *`) fires once on each matching day. A time that the spring
//!   change skips is moved to the first instant after the gap; a time that the autumn change repeats fires at its
//!   first pass only.
//! * Any other schedule (`*/15 * * * *`, `30 1,2 * * *`) follows the clock on the wall: what lies in the gap does not
//!   fire, what lies in the repeated hour fires in both passes.
//!
//! Its one danger: expressions that never fire. Searching for their next occurrence is expensive and a schedule that
//! silently never runs is worse than none, so [`Schedule::parse`] refuses them.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, SubsecRound, TimeDelta, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::zone::Zone;

/// Longest expression that is read, in bytes. Every list of every field written out fits.
pub const MAX_TEXT: usize = 512;

/// How far [`Schedule::last_at_or_before`] looks back. Longer than the longest pause of any expression that is
/// accepted and not contrived: 29 February is 8 years away around 2100.
const LOOK_BACK: TimeDelta = TimeDelta::days(9 * 366);

const SHAPE: &str = "crontab's five fields (minute hour day-of-month month day-of-week), six with leading seconds, \
                     or one of @hourly @daily @weekly @monthly @yearly";

/// A checked schedule: it has a next occurrence.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    zone: Zone,
    cron: Cron,
}

/// Two schedules are the same when they were written the same, in the same zone.
impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl Eq for Schedule {}

/// Why an expression is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found}; allowed: {allowed}")]
pub struct ScheduleError {
    /// What was written, or the part of it that is wrong.
    pub found: String,
    /// What may stand there.
    pub allowed: String,
}

fn refuse<T>(found: impl Into<String>, allowed: impl Into<String>) -> Result<T, ScheduleError> {
    Err(ScheduleError { found: found.into(), allowed: allowed.into() })
}

impl Schedule {
    /// Reads a cron expression whose fields mean times in `zone`.
    ///
    /// Accepts crontab(5): five fields, names of months and days, lists, ranges, steps, and day-of-month *or*
    /// day-of-week when both are restricted. Beyond it: a sixth, leading field for seconds, `L` for the last day of
    /// the month, `FRI#2` for the second and `FRI#L` for the last Friday.
    ///
    /// # Errors
    ///
    /// Names the field that is wrong. An expression without any next occurrence (30 February) is refused too.
    pub fn parse(text: &str, zone: Zone) -> Result<Schedule, ScheduleError> {
        let text = text.trim();
        if text.is_empty() {
            return refuse("nothing", SHAPE);
        }
        if text.len() > MAX_TEXT {
            return refuse(format!("{} characters", text.len()), format!("at most {MAX_TEXT} characters"));
        }
        if !text.is_ascii() || text.chars().any(|c| c.is_ascii_control() && !c.is_ascii_whitespace()) {
            return refuse(format!("{text:?}"), SHAPE);
        }
        let expanded = expand(text)?;
        let fields: Vec<&str> = expanded.split_ascii_whitespace().collect();
        let names: &[Field] = match fields.len() {
            5 => &FIELDS[1..],
            6 => &FIELDS,
            7 => return refuse(format!("{text:?}, which has seven fields"), format!("{SHAPE}; no field for years")),
            n => {
                let noun = if n == 1 { "field" } else { "fields" };
                return refuse(format!("{text:?}, which has {n} {noun}"), SHAPE);
            }
        };
        for (position, (field, written)) in names.iter().zip(&fields).enumerate() {
            field.check(written, position, fields.len())?;
        }
        let cron = match parser().parse(&fields.join(" ")) {
            Ok(cron) => cron,
            Err(error) => return refuse(format!("{text:?} ({error})"), SHAPE),
        };
        let schedule = Schedule { text: text.to_owned(), zone, cron };
        // Any instant serves: what has no occurrence after it has none at all.
        if schedule.next_after(DateTime::UNIX_EPOCH + TimeDelta::days(54 * 365)).is_none() {
            return refuse(format!("{text:?}, which never comes"), "an expression that has a next occurrence");
        }
        Ok(schedule)
    }

    /// The first due instant later than `after`, to the second; none outside the years 1 to 4000.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // At the ends of chrono's range an instant has no local time, which panics inside the libraries.
        if !(1..=4000).contains(&after.year()) {
            return None;
        }
        let after = after.trunc_subsecs(0).with_timezone(&self.zone);
        self.cron.find_next_occurrence(&after, false).ok().map(|due| due.with_timezone(&Utc))
    }

    /// The last due instant not later than `at`, looked for in the nine years before it.
    ///
    /// Found by bisection over [`Schedule::next_after`], so both always agree, also on the days the clocks change.
    /// About sixty forward searches at most, whatever the expression.
    pub fn last_at_or_before(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let at = at.trunc_subsecs(0);
        let earliest = at.checked_sub_signed(LOOK_BACK)?;
        let due_by = |after: DateTime<Utc>| self.next_after(after).filter(|due| *due <= at);
        // Start near: most questions are asked a moment after the schedule fired.
        let mut span = TimeDelta::minutes(1);
        let mut low = at.checked_sub_signed(span)?;
        let mut found = due_by(low);
        while found.is_none() {
            if low <= earliest {
                return None;
            }
            span = span * 4;
            low = at.checked_sub_signed(span).map_or(earliest, |low| low.max(earliest));
            found = due_by(low);
        }
        // Invariant: something is due in (low, at], nothing in (high, at].
        let mut high = at;
        while high - low > TimeDelta::seconds(1) {
            // What was found is due after `low`: starting just before it skips the part known to be empty.
            if let Some(due) = found {
                low = low.max(due - TimeDelta::seconds(1));
            }
            let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
            if middle == low {
                break;
            }
            match due_by(middle) {
                Some(due) => {
                    low = middle;
                    found = Some(due);
                }
                None => high = middle,
            }
        }
        found
    }

    /// Time between the next two due instants later than `after`.
    pub fn interval(&self, after: DateTime<Utc>) -> Option<Duration> {
        let first = self.next_after(after)?;
        let second = self.next_after(first)?;
        (second - first).to_std().ok()
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The zone whose clock the fields mean.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }
}

/// `text (zone)`, for people.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.zone)
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).dom_and_dow(false).build()
}

fn expand(text: &str) -> Result<&str, ScheduleError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    match text.to_ascii_lowercase().as_str() {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        // Both depend on when the process started, so that no two janitors would agree on a round.
        "@reboot" => refuse(format!("{text:?}: a janitor does not fire because it was started"), SHAPE),
        other if other.starts_with("@every") => {
            refuse(format!("{text:?}: an interval has no instants that every janitor agrees on"), SHAPE)
        }
        _ => refuse(format!("{text:?}"), SHAPE),
    }
}

/// One field of an expression.
struct Field {
    name: &'static str,
    allowed: &'static str,
    words: &'static [&'static str],
    signs: &'static str,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "L"];

const FIELDS: [Field; 6] = [
    Field { name: "second", allowed: "0-59, lists, ranges, steps", words: &[], signs: "*/,-" },
    Field { name: "minute", allowed: "0-59, lists, ranges, steps", words: &[], signs: "*/,-" },
    Field { name: "hour", allowed: "0-23, lists, ranges, steps", words: &[], signs: "*/,-" },
    Field { name: "day-of-month", allowed: "1-31, L, lists, ranges, steps", words: &["L"], signs: "*/,-" },
    Field { name: "month", allowed: "1-12 or JAN-DEC, lists, ranges, steps", words: &MONTHS, signs: "*/,-" },
    Field { name: "day-of-week", allowed: "0-7 or SUN-SAT, lists, ranges, steps, 5#2", words: &DAYS, signs: "*/,-#" },
];

impl Field {
    /// Says which field is wrong; the library's messages do not, and it takes `SUN` for a minute.
    fn check(&self, written: &str, position: usize, count: usize) -> Result<(), ScheduleError> {
        let wrong = || refuse(format!("{written:?} as {}", self.name), self.allowed);
        let strange = |c: char| !c.is_ascii_alphanumeric() && !self.signs.contains(c);
        // The library takes a list of nothing, and looks half a minute for when that comes.
        if written.contains(strange) || written.split(',').any(str::is_empty) {
            return wrong();
        }
        let mut words = written.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
        if words.any(|word| !self.words.iter().any(|known| known.eq_ignore_ascii_case(word))) {
            return wrong();
        }
        let mut alone = vec!["*"; count];
        if let Some(slot) = alone.get_mut(position) {
            *slot = written;
        }
        if parser().parse(&alone.join(" ")).is_err() { wrong() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
