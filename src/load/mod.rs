//! `etcd-load`: the load test that people write as a shell loop around `etcdctl put`.
//!
//! It connects as the janitor does, and knows nothing else of it. Its one danger is measuring itself: what it keeps of a
//! request is one figure of a histogram, and requests are made from their numbers alone.

pub mod args;
mod progress;
mod report;
mod run;
mod screen;
mod tally;
mod work;

use std::io::Write as _;

use clap::Parser as _;
use tokio::runtime::Runtime;

use args::{Args, Format, Settings, Telling};
use report::{Early, Endpoint, Report};
use run::{Failure, Signals};
use screen::Screen;

use crate::etcd::Calls;

/// All requests were answered.
const WELL: u8 = 0;
/// Some failed.
const ATTENTION: u8 = 1;
/// The command line is not valid.
const USAGE: u8 = 2;
/// etcd cannot be reached.
const NOBODY: u8 = 3;
/// Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Runs what the command line asks for and gives the exit code.
pub fn main() -> u8 {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { WELL };
        }
    };
    let (settings, telling) = match args.settings() {
        Ok(both) => both,
        Err(problems) => {
            problems.iter().for_each(|problem| complain(problem));
            return USAGE;
        }
    };
    let ended = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Local);
    let ended = ended.and_then(|runtime| {
        let report = run(&runtime, &settings, Screen::new(telling.quiet));
        runtime.shutdown_background();
        report
    });
    match ended {
        Ok(report) => tell(&report, &settings, &telling),
        Err(failure) => {
            complain(&failure.to_string());
            match failure {
                Failure::Etcd(_) => NOBODY,
                Failure::Local(_) => ATTENTION,
            }
        }
    }
}

fn run(runtime: &Runtime, settings: &Settings, mut screen: Screen) -> Result<Report, Failure> {
    let calls = Calls::new().map_err(std::io::Error::other)?;
    let mut signals = runtime.block_on(async { Signals::catch() })?;
    let mut endpoints = Vec::new();
    for etcd in &settings.endpoints {
        let (_, before) = runtime.block_on(run::reach(etcd, &calls))?;
        endpoints.push(Endpoint { url: etcd.endpoint.clone(), before, after: None });
    }
    let mut report = Report::new(settings, endpoints);
    let mut failed = 0;
    for stage in &settings.stages {
        let ended = match run::stage(runtime, &mut signals, &mut screen, settings, stage, &calls, failed) {
            Ok(ended) => ended,
            Err(failure) if report.is_empty() => return Err(failure),
            // What was measured before is told all the same.
            Err(failure) => {
                complain(&failure.to_string());
                report.unreachable();
                break;
            }
        };
        failed += ended.tally.failures().values().map(|failures| failures.count).sum::<u64>();
        report.stage(stage, ended.took, &ended.tally, ended.early);
        if ended.early.is_some() {
            break;
        }
    }
    // A member that has gone in the meantime costs its line, not the report.
    let after = settings.endpoints.iter().map(|etcd| runtime.block_on(run::reach(etcd, &calls)).ok()?.1);
    report.after(after.collect());
    Ok(report)
}

fn tell(report: &Report, settings: &Settings, telling: &Telling) -> u8 {
    let json = match report.json() {
        Ok(json) => json,
        Err(error) => {
            complain(&format!("the report cannot be written as JSON: {error}"));
            return ATTENTION;
        }
    };
    let shown = match telling.format {
        Format::Text => &report.text(&settings.work.value),
        Format::Json => &json,
    };
    // A closed pipe at the other end is the reader's business.
    let mut told = std::io::stdout().lock().write_all(shown.as_bytes()).is_ok();
    if let Some(path) = &telling.report
        && let Err(error) = std::fs::write(path, &json)
    {
        complain(&format!("the report cannot be written to {}: {error}", path.display()));
        told = false;
    }
    match report.ended_early() {
        Some(Early::Interrupted) => INTERRUPTED,
        Some(Early::TooManyErrors) => ATTENTION,
        Some(Early::Unreachable) => NOBODY,
        None if report.has_errors() || !told => ATTENTION,
        None => WELL,
    }
}

/// Standard error may be closed; what was to be said is lost then, and nothing else.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "etcd-load: {text}");
}
