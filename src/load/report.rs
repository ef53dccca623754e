//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::args::Settings;
use super::tally::{Latencies, Tally};
use super::work::{Kind, Stage, Value};
use crate::http::bytes;
use crate::plan::cluster::Status;

/// Everything that is told at the end.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    endpoints: Vec<Endpoint>,
    keys: u64,
    prefix: String,
    value_bytes: usize,
    connections: usize,
    clients: usize,
    rate: Option<u64>,
    seed: u64,
    stages: Vec<StageReport>,
    /// Why not all was done; none: it was.
    ended_early: Option<Early>,
}

/// Why a run ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Early {
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// More failures than `--max-errors`.
    TooManyErrors,
    /// etcd could not be reached for the next stage.
    Unreachable,
}

/// One endpoint before and after.
#[derive(Debug, Serialize)]
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// Before the first stage.
    pub before: Option<Figures>,
    /// After the last one.
    pub after: Option<Figures>,
}

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figures {
    db_size_bytes: u64,
    db_size_in_use_bytes: u64,
    revision: i64,
}

impl Figures {
    /// From its Status.
    pub fn of(status: &Status) -> Figures {
        Figures {
            db_size_bytes: status.db_size,
            db_size_in_use_bytes: status.db_size_in_use,
            revision: status.revision,
        }
    }
}

#[derive(Debug, Serialize)]
struct StageReport {
    stage: &'static str,
    seconds: f64,
    /// Those that etcd did.
    operations: u64,
    per_second: f64,
    /// Reads and deletes of keys that were not there.
    missing: u64,
    kinds: BTreeMap<&'static str, KindReport>,
    errors: BTreeMap<&'static str, ErrorReport>,
}

#[derive(Debug, Serialize)]
struct KindReport {
    operations: u64,
    per_second: f64,
    latency_seconds: Latencies,
}

#[derive(Debug, Serialize)]
struct ErrorReport {
    count: u64,
    first: String,
}

impl Report {
    /// Of a run that has not begun.
    pub fn new(settings: &Settings, endpoints: Vec<Endpoint>) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            endpoints,
            keys: settings.work.keys,
            prefix: settings.work.prefix.clone(),
            value_bytes: settings.work.value.len(),
            connections: settings.connections,
            clients: settings.clients,
            rate: settings.rate,
            seed: settings.work.seed,
            stages: Vec::new(),
            ended_early: None,
        }
    }

    /// A stage is over, before its end for this reason.
    pub fn stage(&mut self, stage: &Stage, took: Duration, tally: &Tally, early: Option<Early>) {
        let seconds = took.as_secs_f64();
        let per_second = |count: u64| count as f64 / seconds.max(1e-6);
        let kind = |(kind, latency): (Kind, Latencies)| {
            let rate = per_second(latency.count);
            (kind.name(), KindReport { operations: latency.count, per_second: rate, latency_seconds: latency })
        };
        let errors = tally
            .failures()
            .iter()
            .map(|(code, failures)| (*code, ErrorReport { count: failures.count, first: failures.first.clone() }));
        self.stages.push(StageReport {
            stage: stage.name(),
            seconds,
            operations: tally.count(),
            per_second: per_second(tally.count()),
            missing: tally.missing(),
            kinds: tally.latencies().map(kind).collect(),
            errors: errors.collect(),
        });
        self.ended_early = early;
    }

    /// The next stage could not begin.
    pub fn unreachable(&mut self) {
        self.ended_early = Some(Early::Unreachable);
    }

    /// Whether no stage has begun.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// What the endpoints say at the end, in their order.
    pub fn after(&mut self, figures: Vec<Option<Figures>>) {
        for (endpoint, after) in self.endpoints.iter_mut().zip(figures) {
            endpoint.after = after;
        }
    }

    /// Whether a request failed.
    pub fn has_errors(&self) -> bool {
        self.stages.iter().any(|stage| !stage.errors.is_empty())
    }

    /// Why not all was done.
    pub fn ended_early(&self) -> Option<Early> {
        self.ended_early
    }

    /// For programs: one object.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// For people: columns.
    pub fn text(&self, value: &Value) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(value, &mut text);
        text
    }

    fn write(&self, value: &Value, out: &mut String) -> std::fmt::Result {
        let what = match value {
            Value::Text(text) => format!("{:?}", shortened(text)),
            Value::Random(_) => format!("{} random bytes", self.value_bytes),
        };
        let limit = self.rate.map(|rate| format!(", at most {rate}/s")).unwrap_or_default();
        writeln!(
            out,
            "{} keys {:?}… with {what}; {} clients on {} connections{limit}\n",
            self.keys,
            shortened(&self.prefix),
            self.clients,
            self.connections
        )?;
        let mut rows = vec![
            ["STAGE", "DONE", "SECONDS", "PER SECOND", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for stage in &self.stages {
            for (kind, report) in &stage.kinds {
                let name = if stage.stage == "mix" { format!("mix {kind}") } else { stage.stage.to_owned() };
                let latency = &report.latency_seconds;
                let mut row = vec![name, report.operations.to_string(), format!("{:.1}", stage.seconds)];
                row.push(format!("{:.0}", report.per_second));
                let all = [latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
                row.extend(all.map(millis));
                rows.push(row);
            }
        }
        columns(&rows, out);
        for stage in self.stages.iter().filter(|stage| stage.missing > 0) {
            writeln!(out, "\n{}: of its reads and deletes {} met no key", stage.stage, stage.missing)?;
        }
        for stage in &self.stages {
            for (kind, error) in &stage.errors {
                writeln!(out, "\n{}: {} failed, {kind}. The first: {}", stage.stage, error.count, plain(&error.first))?;
            }
        }
        out.push('\n');
        let mut rows = vec![["ENDPOINT", "DB SIZE", "IN USE", "REVISION"].map(str::to_owned).to_vec()];
        for endpoint in &self.endpoints {
            let change = |read: fn(&Figures) -> String| {
                let shown = |figures: &Option<Figures>| figures.as_ref().map_or_else(|| "?".to_owned(), read);
                format!("{} -> {}", shown(&endpoint.before), shown(&endpoint.after))
            };
            rows.push(vec![
                endpoint.url.clone(),
                change(|figures| bytes(figures.db_size_bytes)),
                change(|figures| bytes(figures.db_size_in_use_bytes)),
                change(|figures| figures.revision.to_string()),
            ]);
        }
        columns(&rows, out);
        match self.ended_early {
            None => Ok(()),
            Some(Early::Interrupted) => writeln!(out, "\nInterrupted: not all was done."),
            Some(Early::TooManyErrors) => writeln!(out, "\nStopped after too many failures (--max-errors)."),
            Some(Early::Unreachable) => writeln!(out, "\nStopped: etcd could not be reached for the next stage."),
        }
    }
}

/// Every latency with the unit in which it can be read.
fn millis(seconds: f64) -> String {
    let millis = seconds * 1e3;
    match millis {
        _ if millis < 10.0 => format!("{millis:.2}ms"),
        _ if millis < 1000.0 => format!("{millis:.0}ms"),
        _ => format!("{seconds:.2}s"),
    }
}

/// What comes over the network may not steer the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn shortened(text: &str) -> String {
    let short: String = text.chars().take(32).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

/// The first column to the left, the others to the right.
fn columns(rows: &[Vec<String>], out: &mut String) {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(width(column) - cell.chars().count());
            match column {
                0 => out.extend([cell.as_str(), padding.as_str()]),
                _ => out.extend(["  ", padding.as_str(), cell.as_str()]),
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::{Mix, Work};
    use super::*;
    use crate::etcd::{Class, Error};

    fn report() -> Report {
        let settings = Settings {
            endpoints: Vec::new(),
            work: Work { keys: 100, prefix: "foo".to_owned(), value: Value::Random(64), seed: 1 },
            stages: Vec::new(),
            rate: Some(50),
            connections: 2,
            clients: 8,
            timeout: Duration::from_secs(5),
            max_errors: 10,
        };
        let figures = |size, revision| Figures { db_size_bytes: size, db_size_in_use_bytes: size / 2, revision };
        let before = Some(figures(2 << 20, 1));
        let endpoint = |url: &str| Endpoint { url: url.to_owned(), before, after: None };
        let mut report = Report::new(&settings, vec![endpoint("http://m0:2379"), endpoint("http://m1:2379")]);
        let mut tally = Tally::default();
        for number in 1..=100 {
            tally.done(Kind::Write, Duration::from_millis(number), true);
        }
        report.stage(&Stage::Fill, Duration::from_secs(2), &tally, None);
        let mut tally = Tally::default();
        tally.done(Kind::Read, Duration::from_micros(1500), true);
        tally.done(Kind::Delete, Duration::from_millis(1200), false);
        tally.failed(&Error::new(Class::Nospace, "Put", "http://m0:2379", "no \u{1b}[31m space"));
        let stage = Stage::Mixed { mix: Mix { read: 1, write: 1, delete: 1 }, operations: Some(9), duration: None };
        report.stage(&stage, Duration::from_secs(1), &tally, Some(Early::Interrupted));
        report.after(vec![Some(figures(64 << 20, 101)), None]);
        report
    }

    #[test]
    fn people_get_columns() {
        let expected = "\
100 keys \"foo\"… with 64 random bytes; 8 clients on 2 connections, at most 50/s

STAGE       DONE  SECONDS  PER SECOND    MEAN     P50     P90     P99   P99.9     MAX
fill         100      2.0          50    51ms    50ms    90ms    99ms   100ms   100ms
mix delete     1      1.0           1   1.20s   1.20s   1.20s   1.20s   1.20s   1.20s
mix read       1      1.0           1  1.50ms  1.50ms  1.50ms  1.50ms  1.50ms  1.50ms

mix: of its reads and deletes 1 met no key

mix: 1 failed, nospace. The first: Put to http://m0:2379: no ?[31m space

ENDPOINT                  DB SIZE             IN USE  REVISION
http://m0:2379  2.0 MiB -> 64 MiB  1.0 MiB -> 32 MiB  1 -> 101
http://m1:2379       2.0 MiB -> ?       1.0 MiB -> ?    1 -> ?

Interrupted: not all was done.
";
        let text = report().text(&Value::Random(64));
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn programs_get_the_same_as_numbers() {
        let json: serde_json::Value = serde_json::from_str(&report().json().expect("JSON")).expect("JSON");
        assert_eq!(json["stages"][0]["stage"], "fill");
        assert_eq!(json["stages"][0]["per_second"], 50.0);
        let latency = &json["stages"][0]["kinds"]["write"]["latency_seconds"];
        for (name, expected) in [("p50", 0.05), ("p99", 0.099), ("p99.9", 0.1), ("max", 0.1)] {
            let seen = latency[name].as_f64().expect("a number");
            assert!((seen / expected - 1.0).abs() < 0.002, "{name}: {seen}");
        }
        assert_eq!(json["stages"][1]["errors"]["nospace"]["count"], 1);
        assert_eq!(json["stages"][1]["missing"], 1);
        assert_eq!(json["endpoints"][0]["before"]["db_size_bytes"], 2 << 20);
        assert_eq!(json["endpoints"][0]["after"]["db_size_in_use_bytes"], 32 << 20);
        assert_eq!(json["endpoints"][1]["after"], serde_json::Value::Null);
        assert_eq!(json["ended_early"], "interrupted");
    }
}
