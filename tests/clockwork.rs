//! The clockwork against a faked wall clock: the days the clocks change, jumps, and shutdown.
//!
//! Each test that needs another wall clock runs this program again under `faketime`, with the wall clock running
//! thousands of times too fast, or moved by a file, and the monotonic clock left alone.

#![allow(clippy::disallowed_methods, reason = "tests read the clock and spawn as they like")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use etcd_janitor::daemon::clockwork::{Clockwork, Firing};
use etcd_janitor::plan::schedule::Schedule;
use etcd_janitor::plan::snapshot::TaskKind;
use tokio::sync::mpsc;

/// Tells the program that it is the one under `faketime`: `expression|zone|end`.
const CHILD: &str = "CLOCKWORK_TEST_CHILD";

fn schedule(expression: &str, zone: &str) -> Schedule {
    Schedule::parse(expression, zone.parse().unwrap()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs the test `name` of this program under `faketime`; gives the lines behind `fired `.
#[track_caller]
fn under_faketime(name: &str, spec: &str, task: &str, settings: &[(&str, &Path)]) -> Vec<String> {
    let output = Command::new("faketime")
        .args(["-m", "--exclude-monotonic", "-f", spec])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("TZ", "UTC")
        .env(CHILD, task)
        .envs(settings.iter().copied())
        .output()
        .unwrap_or_else(|error| panic!("faketime does not run ({error}): install Debian's package `faketime`"));
    let stdout = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{errors}");
    assert!(stdout.contains("clock ran"), "the wall clock was not faked: {stdout}{errors}");
    stdout.lines().filter_map(|line| line.strip_prefix("fired ")).map(str::to_owned).collect()
}

/// What fires while the wall clock runs [`SPEED`] times too fast from `start` to `end`.
#[track_caller]
fn fired(expression: &str, zone: &str, start: &str, end: &str) -> Vec<String> {
    under_faketime("child_runs_fast", &format!("@{start} x{SPEED}"), &format!("{expression}|{zone}|{end}"), &[])
}

/// One tick of the scheduler is then three hours: less than lies between two daily firings, so that none is
/// missed even when the machine stalls for seconds.
const SPEED: u32 = 20_000;

fn report(firing: Firing) {
    println!("\nfired {}", firing.due.format("%dT%H:%M"));
}

/// Not a test of its own: what the other tests run under `faketime`.
#[test]
fn child_runs_fast() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let [expression, zone, end] = task.split('|').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let end: DateTime<Utc> = end.parse().unwrap();
    let (began, real) = (Utc::now(), Instant::now());
    runtime().block_on(async {
        let (tx, mut rx) = mpsc::channel(4);
        let clock = Clockwork::start(tx).await.unwrap();
        clock.set(TaskKind::Defrag, Some(schedule(expression, zone)));
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while Utc::now() < end {
            tokio::select! {
                Some(firing) = rx.recv() => report(firing),
                _ = look.tick() => {
                    clock.look();
                    assert!(real.elapsed() < Duration::from_secs(60), "the wall clock is not faked");
                }
            }
        }
        clock.shutdown().await;
    });
    assert!(Utc::now() - began > TimeDelta::hours(12));
    println!("\nclock ran");
}

/// The wall clock under `faketime` is the time of this file's last change.
fn set_clock(file: &Path, at: &str) {
    let at: DateTime<Utc> = at.parse().unwrap();
    std::fs::File::create(file).unwrap().set_modified(at.into()).unwrap();
}

/// Not a test of its own: moves the wall clock by the file that `faketime` reads it from.
#[test]
fn child_jumps() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let file = std::env::var("FAKETIME_FOLLOW_FILE").unwrap();
    let set = |at: &str| set_clock(Path::new(&file), at);
    runtime().block_on(async {
        let (tx, mut rx) = mpsc::channel(4);
        let clock = Clockwork::start(tx).await.unwrap();
        clock.set(TaskKind::Defrag, Some(schedule("0 * * * *", "UTC")));
        assert_eq!(Utc::now().format("%F").to_string(), "2026-11-22", "the wall clock is not faked");
        // Ahead over three firings; back before them; onto one that fired; onto the next one.
        let instants = ["2026-11-22T13:20:00Z", "2026-11-22T10:40:00Z", "2026-11-22T13:00:01Z", "2026-11-22T14:00:01Z"];
        for at in instants {
            set(at);
            clock.look();
            let until = tokio::time::Instant::now() + Duration::from_millis(1300);
            while let Ok(Some(firing)) = tokio::time::timeout_at(until, rx.recv()).await {
                report(firing);
            }
        }
        clock.shutdown().await;
    });
    println!("\nclock ran");
}

#[test]
fn half_past_nine_in_paris_stays_half_past_nine_after_the_autumn_change() {
    let fired = fired("30 9 * * *", "Europe/Paris", "2026-10-24 06:00:00", "2026-10-25T12:00:00Z");
    assert_eq!(fired, ["24T07:30", "25T08:30"]);
}

#[test]
fn midnight_in_london_comes_once_on_the_day_of_the_spring_change() {
    let fired = fired("0 0 * * *", "Europe/London", "2027-03-27 20:00:00", "2027-03-29T02:00:00Z");
    assert_eq!(fired, ["28T00:00", "28T23:00"]);
}

#[test]
fn new_york_keeps_its_hours_through_both_changes() {
    let spring = fired("0 0 * * *", "America/New_York", "2027-03-14 02:00:00", "2027-03-15T07:00:00Z");
    assert_eq!(spring, ["14T05:00", "15T04:00"]);
    let autumn = fired("30 1 * * *", "America/New_York", "2026-11-01 03:00:00", "2026-11-02T09:00:00Z");
    assert_eq!(autumn, ["01T05:30", "02T06:30"]);
}

#[test]
fn a_jump_ahead_fires_the_newest_once_and_a_jump_back_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("now");
    set_clock(&file, "2026-11-22T10:30:00Z");
    let settings = [("FAKETIME_FOLLOW_FILE", file.as_path()), ("FAKETIME_NO_CACHE", Path::new("1"))];
    assert_eq!(under_faketime("child_jumps", "%", "jump", &settings), ["22T13:00", "22T14:00"]);
}

#[test]
fn a_firing_carries_the_due_instant_and_comes_soon_after_it() {
    runtime().block_on(async {
        let (tx, mut rx) = mpsc::channel(4);
        let clock = Clockwork::start(tx).await.unwrap();
        clock.set(TaskKind::Defrag, Some(schedule("* * * * * *", "UTC")));
        let next = clock.next(TaskKind::Defrag).unwrap();
        let mut last = None;
        for _ in 0..4 {
            let Firing { task, due } = rx.recv().await.unwrap();
            let late = Utc::now() - due;
            assert_eq!(task, TaskKind::Defrag);
            assert!(due >= next && due.timestamp_subsec_nanos() == 0);
            assert!(late >= TimeDelta::zero() && late < TimeDelta::seconds(4), "{late}");
            assert!(last.is_none_or(|last| last < due), "{last:?} {due}");
            last = Some(due);
        }
        clock.shutdown().await;
    });
}

#[test]
fn a_full_channel_delays_a_firing_and_keeps_the_other_task() {
    runtime().block_on(async {
        let (tx, mut rx) = mpsc::channel(2);
        let clock = Clockwork::start(tx).await.unwrap();
        for task in TaskKind::ALL {
            clock.set(task, Some(schedule("* * * * * *", "UTC")));
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(tokio::time::timeout(Duration::from_secs(3), rx.recv()).await.unwrap().unwrap());
        }
        // Two waited in the channel; of each task only the newest waited outside it.
        for task in TaskKind::ALL {
            assert!(all.iter().any(|firing| firing.task == task), "{all:?}");
        }
        assert!(all[2].due > all[0].due + TimeDelta::seconds(1), "{all:?}");
        clock.shutdown().await;
    });
}

#[test]
fn a_schedule_can_be_changed_and_taken_away() {
    runtime().block_on(async {
        let (tx, mut rx) = mpsc::channel(4);
        let clock = Clockwork::start(tx).await.unwrap();
        assert_eq!(clock.next(TaskKind::Compaction), None);
        clock.set(TaskKind::Compaction, Some(schedule("0 0 1 1 *", "UTC")));
        assert!(tokio::time::timeout(Duration::from_millis(1600), rx.recv()).await.is_err());
        clock.set(TaskKind::Compaction, Some(schedule("* * * * * *", "UTC")));
        assert!(tokio::time::timeout(Duration::from_secs(3), rx.recv()).await.is_ok());
        clock.set(TaskKind::Compaction, None);
        while rx.try_recv().is_ok() {}
        assert!(tokio::time::timeout(Duration::from_millis(2100), rx.recv()).await.is_err());
        clock.shutdown().await;
    });
}

#[test]
fn nothing_fires_after_shutdown() {
    runtime().block_on(async {
        let (tx, mut rx) = mpsc::channel(64);
        let clock = Clockwork::start(tx).await.unwrap();
        clock.set(TaskKind::Defrag, Some(schedule("* * * * * *", "UTC")));
        rx.recv().await.unwrap();
        clock.shutdown().await;
        while rx.try_recv().is_ok() {}
        let more = tokio::time::timeout(Duration::from_millis(2100), rx.recv()).await;
        assert!(!matches!(more, Ok(Some(_))), "{more:?}");
    });
}
