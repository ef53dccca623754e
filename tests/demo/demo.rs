//! `make demo`: three real etcd members, three janitors and one round of their
//! cron, judged from outside. For somebody who believes nothing yet.
//!
//! Whatever ends it, nothing is left: children die with this process, and the
//! data goes with the cluster.

#![allow(clippy::disallowed_methods, reason = "it connects, spawns and reads the clock as the tests do")]

mod load;
mod report;
mod screen;
mod show;
#[path = "../support/mod.rs"]
mod support;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use etcd_janitor::plan::release;
use tokio::signal::unix::{Signal, SignalKind, signal};

use screen::Screen;
use show::Show;

/// What the Makefile hands over.
pub struct Given {
    etcd: PathBuf,
    /// etcd's release.
    release: String,
    /// The janitor refuses this release unless it is told otherwise.
    refused: bool,
    keep: bool,
}

fn main() -> ExitCode {
    let screen = Screen::new();
    // The harness panics with sentences; where in the harness is of no interest here.
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref::<&str>().copied());
        eprintln!("\nthe demo stops: {}", text.unwrap_or("for a reason that is not text"));
    }));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("no async runtime can be made").and_then(|runtime| runtime.block_on(demo(&screen)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the demo cannot run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo(screen: &Screen) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let given = given()?;
    use_disk()?;
    let show = tokio::select! {
        biased;
        name = signals.next() => return Ok(interrupted(screen, name)),
        show = Show::run(screen, &given) => show,
    };
    let mut checks = tokio::select! {
        biased;
        name = signals.next() => return Ok(interrupted(screen, name)),
        checks = report::report(screen, &show) => checks,
    };
    verdict::list(screen, &checks);
    if given.keep {
        report::keep(screen);
        let name = signals.next().await;
        screen.line(&format!("\n{name}: stops everything"));
    }
    let last = show.stop().await;
    verdict::list(screen, std::slice::from_ref(&last));
    checks.push(last);
    Ok(if verdict::sum(screen, &checks) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn interrupted(screen: &Screen, name: &str) -> ExitCode {
    screen.line(&format!("\n{name}: stopped before the end; nothing is left running"));
    ExitCode::from(130)
}

fn given() -> Result<Given> {
    let etcd = std::env::var_os("ETCD_JANITOR_DEMO_ETCD").filter(|path| !path.is_empty());
    let etcd = PathBuf::from(etcd.context("ETCD_JANITOR_DEMO_ETCD names no etcd: start it with `make demo`")?);
    let program = std::env::var_os("ETCD_JANITOR_PROGRAM").unwrap_or_default();
    ensure!(
        Path::new(&program).is_file(),
        "ETCD_JANITOR_PROGRAM names no etcd-janitor: start it with `make demo`, which builds one"
    );
    let release = release_of(&etcd)?;
    let refused = release::judge(&release, false).is_err();
    let keep = std::env::var("ETCD_JANITOR_DEMO_KEEP").is_ok_and(|keep| !["", "0", "no"].contains(&keep.as_str()));
    Ok(Given { etcd, release, refused, keep })
}

fn release_of(etcd: &Path) -> Result<String> {
    let shown = etcd.display();
    let output = Command::new(etcd).arg("--version").output();
    let output = output.with_context(|| format!("{shown} does not start: remove it, `make demo` fetches another"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix("etcd Version:")) {
        Some(release) => Ok(release.trim().to_owned()),
        None => bail!("{shown} does not tell its release: remove it, `make demo` fetches another"),
    }
}

/// Where /tmp lies in memory, the members' files would take two gigabytes of it.
fn use_disk() -> Result<()> {
    let program = std::env::current_exe().context("the demo does not know where it is")?;
    let target = program.ancestors().nth(3).context("the demo does not lie in a target folder")?;
    let folder = target.join("tmp");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    // Refused only when it was set before.
    let _ = tempfile::env::override_temp_dir(&folder);
    Ok(())
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = self.hangup.recv() => "the terminal is gone",
        }
    }
}
