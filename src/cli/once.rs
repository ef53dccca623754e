//! `etcd-janitor defrag` and `compact`: once, now, by the same plan and the same turns as the daemon.

use std::io::{self, Write};

use chrono::{DateTime, Utc};

use super::explain;
use super::progress::Show;
use super::screen::{Screen, wrap};
use super::seen::Seen;
use super::{ATTENTION, INTERRUPTED, NOBODY, SKIPPED, UNKNOWN, WELL, eprintln_lossy, printable, runtime};
use crate::config::{Config, Guard, Retention};
use crate::daemon::direct;
use crate::daemon::once::{self, Left, Stopped, Told};
use crate::etcd::Clock;
use crate::plan::reason::{Outcome, Reason};
use crate::plan::snapshot::Role;

/// Defragments the local member once and says each decision. Exit code by the outcome.
pub fn defrag(config: &Config, clock: &Clock, out: &mut impl Write) -> u8 {
    if config.dry_run
        && let Ok(runtime) = runtime()
    {
        // Not the daemon's snapshot: the rule and all else are this command's.
        let snapshot = runtime.block_on(direct::overview(config, "this command's"));
        runtime.shutdown_background();
        if snapshot.problem.is_none() {
            let seen = Seen { snapshot, without_daemon: None };
            let _ = plan(&seen, config, Screen::of_stdout(), clock.now().wall, out);
        }
    }
    drive(out, |say| Box::pin(once::defrag(config, say)))
}

/// Compacts once and says each decision. Exit code by the outcome.
pub fn compact(config: &Config, out: &mut impl Write) -> u8 {
    if config.dry_run {
        let _ = compaction_plan(config, Screen::of_stdout(), out);
    }
    drive(out, |say| Box::pin(once::compact(config, say)))
}

type Running<'a> = std::pin::Pin<Box<dyn Future<Output = Result<(Outcome, String), Stopped>> + 'a>>;

fn drive<'a>(out: &'a mut impl Write, start: impl FnOnce(Box<dyn FnMut(Told) + 'a>) -> Running<'a>) -> u8 {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln_lossy(&format!("cannot start: {error}"));
            return ATTENTION;
        }
    };
    let screen = Screen::of_stdout();
    let mut show = Show::new(out, screen);
    let running = start(Box::new(move |told| show.tell(told)));
    let ended = runtime.block_on(running);
    if ended.is_err() && screen.terminal {
        // The line that moved is still there.
        eprintln_lossy("");
    }
    match ended {
        Ok((outcome, _)) => match outcome {
            Outcome::Done => WELL,
            // A dry run that got as far as this did all that was asked.
            Outcome::Skipped(Reason::DryRun) => WELL,
            Outcome::Skipped(_) => SKIPPED,
            Outcome::Failed(_) => ATTENTION,
            Outcome::Unknown => UNKNOWN,
        },
        Err(Stopped::Unreachable(text)) => {
            eprintln_lossy(&printable(&text));
            NOBODY
        }
        Err(Stopped::Refused(text)) => {
            eprintln_lossy(&printable(&text));
            SKIPPED
        }
        Err(Stopped::Interrupted(left)) => {
            eprintln_lossy(&interrupted(left));
            INTERRUPTED
        }
    }
}

/// What goes on all the same, and where to look for it.
fn interrupted(left: Left) -> String {
    match left {
        Left::Nothing => "interrupted; nothing was sent, and no place in the queue is left behind".to_owned(),
        Left::Place => {
            "interrupted; no defrag is under way. The queue could not be left in time: a place in it ends with its \
                        lease, within turn.lease_ttl"
                .to_owned()
        }
        Left::Defrag => {
            "interrupted, and the defrag goes on: etcd cannot cancel one. The member answers nothing until it \
                         ends; any janitor then settles the intent and records the outcome (`etcd-janitor status`, \
                         `etcd-janitor history`)"
                .to_owned()
        }
        Left::Compaction(revision) => format!(
            "interrupted, and the compaction goes on in etcd, which cannot cancel one. What of revision {revision} was not \
             asked for yet, the next compaction does (`etcd-janitor status`, COMPACTED)"
        ),
    }
}

/// What a round would do now, step by step, before it is decided without being sent.
///
/// # Errors
///
/// `out` cannot be written.
pub fn plan(seen: &Seen, config: &Config, screen: Screen, now: DateTime<Utc>, out: &mut impl Write) -> io::Result<()> {
    explain::standing(&seen.snapshot, screen, out)?;
    let snapshot = &seen.snapshot;
    let local = snapshot.members.iter().find(|member| member.local);
    let name = local.map_or("the local member", |member| member.name.as_str());
    let voters = snapshot.members.iter().filter(|member| member.role != Role::Learner).count();
    let mut steps = vec!["measure until the figures have been still for 10 s, and ask the rule".to_owned()];
    if voters < 3 && config.defrag.small_cluster == Guard::Skip {
        let reason = Reason::SmallCluster;
        steps.push(format!("go no further: skipped({reason}), with {voters} voter(s). {}", reason.remedy()));
        return numbered(&steps, screen, out);
    }
    steps.push(match snapshot.queue.as_slice() {
        _ if voters < 2 => "take no turn: there is one voter".to_owned(),
        [] => "take the turn: it is free".to_owned(),
        queue => format!("take the turn behind {}", queue.join(", ")),
    });
    if let Some(hold) = snapshot.hold.as_ref().filter(|hold| !hold.is_over(now)) {
        steps.push(format!("wait: {}", hold.told()));
    }
    if local.is_some_and(|member| member.role == Role::Leader) && voters > 1 {
        steps.push(format!("move leadership from {name} to a healthy voter, and let it settle"));
    }
    if !config.defrag.drain.is_zero() {
        steps.push(format!("fail /etcd/readyz for {} s", config.defrag.drain.as_secs()));
    }
    let forecast = snapshot.forecast_seconds.map(|seconds| format!(", forecast {seconds:.1} s")).unwrap_or_default();
    steps.push("write the intent, and look at every member again".to_owned());
    steps.push(format!(
        "send Defragment to {name} ({}){forecast}; unknown after {} s",
        config.etcd.endpoint,
        config.defrag.timeout.as_secs()
    ));
    steps.push("wait until it has caught up, record the outcome, clear NOSPACE if that is proven safe".to_owned());
    if voters > 1 {
        steps.push(format!("rest {} s with the turn, and leave the queue", config.defrag.pause_between.as_secs()));
    }
    numbered(&steps, screen, out)
}

/// What a compaction does, step by step, before it is decided without being sent.
///
/// # Errors
///
/// `out` cannot be written.
pub fn compaction_plan(config: &Config, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    let keep = match config.compaction.retention {
        Retention::Age(age) => format!("the newest revision that is older than {} s", age.as_secs()),
        Retention::Revisions(count) => format!("the newest revision but {count}"),
    };
    let freed = if config.compaction.physical { ", and wait until the pages are free" } else { "" };
    let steps = [
        "read who leads, the hold, the stored window, and what is compacted already and by whom".to_owned(),
        format!("find {keep}"),
        "give the leader's janitor time to do it, 60 s for each member that comes before this one".to_owned(),
        format!("compact to one below it and then to it through {}{freed}", config.etcd.endpoint),
        "store the window for those who start later".to_owned(),
    ];
    numbered(&steps, screen, out)
}

fn numbered(steps: &[String], screen: Screen, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "PLAN")?;
    for (at, step) in steps.iter().enumerate() {
        writeln!(out, "  {}. {}", at + 1, wrap(screen, 5, &printable(step)))?;
    }
    writeln!(out, "\nDRY RUN: decides all of it and sends nothing")
}
