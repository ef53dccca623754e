//! `check`: how it is written, and what is made of what was read.

use chrono::TimeDelta;
use etcd_janitor::cli::check::{Check, Format, Result, judge, write};
use etcd_janitor::cli::screen::Screen;
use etcd_janitor::config::Config;
use etcd_janitor::etcd::Listed;
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::snapshot::*;

use crate::cluster::*;
use crate::snapshot;

fn written(checks: &[Check], format: Format, screen: Screen) -> String {
    let mut out = Vec::new();
    write(checks, format, screen, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn clock(name: &str, seconds: i64) -> (Listed, chrono::DateTime<chrono::Utc>) {
    let listed = Listed { id: MemberId(1), name: name.into(), client_urls: vec![], learner: false };
    (listed, now() + TimeDelta::seconds(seconds))
}

fn certificate(usage: &str, left: TimeDelta) -> Certificate {
    Certificate { usage: usage.into(), not_after: now() + left }
}

#[test]
fn what_is_made_of_what_was_read() {
    let mut config = Config::default();
    let mut compacted = well();
    compacted.decisions.push(Decision {
        at: now(),
        task: TaskKind::Compaction,
        round: None,
        text: "skipped(not_needed) somebody else compacts (seen 40 s ago)".into(),
        blocked: None,
    });
    let mut held = well();
    held.hold = Some(hold());
    held.janitor.version = "0.0.9".into();
    held.config.last_reload_successful = false;
    held.config.problems = vec!["defrag.window: found \"soon\"".into()];
    let certificates = [
        certificate("ca", TimeDelta::days(200)),
        certificate("client", TimeDelta::days(3)),
        certificate("client", -TimeDelta::days(1)),
    ];
    let mut checks = judge::daemon(&Ok(Box::new(well())), now());
    checks.extend(judge::daemon(&Ok(Box::new(held)), now()));
    checks.extend(judge::daemon(&Err("nobody listens on [::]:8379: connection refused".into()), now()));
    checks.extend(judge::certificates(&certificates, "https://127.0.0.1:2379", now()));
    checks.extend(judge::certificates(&[], "http://127.0.0.1:2379", now()));
    checks.extend(judge::certificates(&[], "http://etcd-0.etcd:2379", now()));
    checks.extend(judge::clocks(&[clock("etcd-0", 0), clock("etcd-1", 5), clock("etcd-2", -1)]));
    checks.extend(judge::clocks(&[clock("etcd-0", 0), clock("etcd-1", 5)]));
    checks.extend(judge::clocks(&[]));
    checks.extend(judge::compaction(true, None, &config));
    config.compaction.when_kubernetes = etcd_janitor::config::Foreign::Force;
    checks.extend(judge::compaction(true, None, &config));
    checks.extend(judge::compaction(false, None, &config));
    checks.extend(judge::compaction(false, Some(&compacted), &config));
    snapshot("check_judged", &written(&checks, Format::Table, Screen::PLAIN));
}

#[test]
fn each_format_says_the_same() {
    let checks = [
        Check::passed("configuration", "it is valid", "defaults"),
        Check::passed("tls", "the client certificate is valid", "3d left").other(
            Result::Warning,
            "renew it; a new file is read without a restart",
            "operating.md#etcdjanitorcertificate",
        ),
        Check::passed("rights", "the user may defragment", "auth: permission\x1b denied").other(
            Result::Failed,
            "give the user the role root",
            "operating.md#auth",
        ),
        Check::passed("rights", "a lease can be granted", "").other(Result::NotTried, "", "operating.md"),
    ];
    let parts = [
        written(&checks, Format::Table, Screen::PLAIN),
        written(&checks, Format::Table, Screen { width: Some(50), ..Screen::PLAIN }),
        written(&checks, Format::Short, Screen::PLAIN),
        written(&checks, Format::Json, Screen::PLAIN),
        written(&checks[..1], Format::Table, Screen::PLAIN),
        written(&checks[..2], Format::Short, Screen::PLAIN),
    ];
    snapshot("check_formats", &parts.join("\n"));
}
