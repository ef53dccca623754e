//! `check`: how it is written, and what is made of what was read.

use chrono::TimeDelta;
use etcd_janitor::cli::check::janitors::{self, Found};
use etcd_janitor::cli::check::judge::Away;
use etcd_janitor::cli::check::{Check, Format, Result, judge, write};
use etcd_janitor::cli::screen::Screen;
use etcd_janitor::config::{Config, Foreign};
use etcd_janitor::etcd::{Clock, Listed};
use etcd_janitor::plan::cluster::{self, AlarmKind, Listing, Look, MemberLook, QuotaBytes, Records, Scrape, Status};
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Outcome, Reason};
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
    let mut held = well();
    held.hold = Some(hold());
    held.janitor.version = "0.0.9".into();
    held.config.last_reload_successful = false;
    held.config.problems = vec!["defrag.window: found \"soon\"".into()];
    let certificates = [
        certificate("ca", TimeDelta::days(200)),
        certificate("client", TimeDelta::days(3)),
        certificate("client", -TimeDelta::days(1)),
        certificate("http", TimeDelta::days(90)),
    ];
    let away = |text: &str, hint| Err(Away { text: text.into(), hint, silent: true });
    let refused = Blocked::new(Reason::EtcdUnavailable, "TLS handshake to https://etcd-2:2379: connection refused");
    let mut checks = judge::daemon(&Ok(Box::new(well())), now());
    checks.extend(judge::daemon(&Ok(Box::new(held)), now()));
    checks.extend(judge::daemon(&away("nobody listens on [::]:8379: connection refused", "start it"), now()));
    checks.extend(judge::certificates(&certificates, "https://127.0.0.1:2379", now()));
    checks.push(judge::shown("etcd-1", &Ok(certificate("server", TimeDelta::days(2))), now()));
    checks.push(judge::shown("etcd-2", &Err(refused), now()));
    checks.extend(judge::certificates(&[], "http://127.0.0.1:2379", now()));
    checks.extend(judge::certificates(&[], "http://etcd-0.etcd:2379", now()));
    checks.extend(judge::clocks(&[clock("etcd-0", 0), clock("etcd-1", 5), clock("etcd-2", -1)]));
    checks.extend(judge::clocks(&[clock("etcd-0", 0), clock("etcd-1", 5)]));
    checks.extend(judge::clocks(&[]));
    snapshot("check_judged", &written(&checks, Format::Table, Screen::PLAIN));
}

#[test]
fn who_compacts_is_not_known_before_it_was_watched() {
    let mut config = Config::default();
    let judged = |kubernetes, daemon: Option<&Snapshot>, config: &Config| judge::compaction(kubernetes, daemon, config);
    let mut checks = judged(true, None, &config);
    config.compaction.when_kubernetes = Foreign::Force;
    checks.extend(judged(true, None, &config));
    checks.extend(judged(false, None, &config));
    for others in [
        None,
        Some(OthersCompact::Watching),
        Some(OthersCompact::Suspected),
        Some(OthersCompact::Somebody),
        Some(OthersCompact::Nobody),
    ] {
        let mut daemon = well();
        daemon.others_compact = others;
        daemon.tasks[0].last_outcome = Some(Outcome::Skipped(Reason::EtcdUnavailable));
        checks.extend(judged(false, Some(&daemon), &config));
    }
    config.compaction.enabled = false;
    let mut daemon = well();
    daemon.others_compact = Some(OthersCompact::Nobody);
    checks.extend(judged(false, Some(&daemon), &config));
    snapshot("check_compaction", &written(&checks, Format::Table, Screen::PLAIN));
}

#[test]
fn other_janitors_that_are_missing_or_differ() {
    let config = Config::default();
    let listed = |index: u64| Listed {
        id: MemberId(0xa1 + index),
        name: format!("etcd-{index}"),
        client_urls: vec![],
        learner: false,
    };
    let other = |index: u64, change: &dyn Fn(&mut Snapshot)| {
        let mut other = well();
        other.local = Some(MemberId(0xa1 + index));
        other.rule.as_mut().unwrap().text = config.defrag.rule.text().into();
        other.tasks.iter_mut().for_each(|task| task.time_zone = "UTC".into());
        change(&mut other);
        (listed(index), Found::Janitor(Box::new(other)))
    };
    let judged = |found: &[(Listed, Found)], history: &[_]| {
        written(&janitors::judge(found, history, MemberId(0xa1), &config), Format::Table, Screen::PLAIN)
    };
    let differs = |other: &mut Snapshot| {
        other.janitor.version = "0.0.9".into();
        other.config.dry_run = true;
        other.rule.as_mut().unwrap().text = "true".into();
        other.tasks[0].enabled = false;
        other.tasks[1].time_zone = "Europe/Paris".into();
    };
    let invalid = |other: &mut Snapshot| {
        other.config.valid = false;
        other.config.problems = vec!["defrag.window: found \"soon\"".into()];
        other.tasks.clear();
    };
    let nobody = || (listed(2), Found::Nobody("nobody listens on 10.0.0.2:8379".into()));
    // A firing of somebody's schedule and not of ours, in which we took no part.
    let mut strange = record(2);
    strange.round.due += TimeDelta::minutes(30);
    let both = [strange.clone(), record(0), record(1)];
    let mut ours_then = record(0);
    ours_then.round = strange.round;
    let parts = [
        judged(&[other(1, &|_| {}), other(2, &|other| other.rule = None)], &both),
        judged(&[other(1, &differs), other(2, &invalid)], &[]),
        judged(&[other(1, &|other| other.local = Some(MemberId(0xa1))), nobody()], &both),
        // The schedule was another one when that round was ours, too.
        judged(&[(listed(2), Found::Unknown("10.0.0.2:8379: timed out".into()))], &[ours_then, strange]),
    ];
    snapshot("check_janitors", &parts.join("\n"));
}

fn member(index: u64, change: impl Fn(&mut Status, &mut Scrape)) -> MemberLook {
    let mut status = Status {
        version: "3.5.30".into(),
        db_size: 400 * MIB,
        db_size_in_use: 180 * MIB,
        quota: None,
        leader: Some(MemberId(0xa1)),
        term: 3,
        index: 900,
        applied: 900,
        revision: 800,
        alarms: [].into(),
        learner: false,
    };
    let mut scrape = Scrape {
        defrags_open: 0,
        snapshots_open: 0,
        defrag_count: 0,
        defrags_failed: 0,
        defrag_seconds: 0.0,
        process_start: 1.0,
        quota: Some(QuotaBytes::Bytes(2048 * MIB)),
        compact_revision: Some(700),
        active_peers: Default::default(),
    };
    change(&mut status, &mut scrape);
    let id = MemberId(0xa1 + index);
    MemberLook { id, name: format!("etcd-{index}"), learner: false, status: Ok(status), scrape: Ok(scrape) }
}

fn look(members: Vec<MemberLook>) -> Look {
    Look {
        begun: Clock::new().now(),
        listing: Listing::Agreed,
        members,
        records: Ok(Records::default()),
        disk: None,
        rights: Ok(()),
    }
}

#[test]
fn what_is_made_of_a_look() {
    let fine = look((0..3).map(|index| member(index, |_, _| {})).collect());
    let mut ill = look(vec![
        member(0, |status, _| {
            status.version = "3.5.4".into();
            status.alarms = [cluster::Alarm { member: MemberId(0xa1), kind: AlarmKind::Nospace }].into();
        }),
        member(1, |status, scrape| {
            (status.term, status.index) = (4, 5000);
            (status.db_size, scrape.quota) = (1900 * MIB, Some(QuotaBytes::Disabled));
        }),
        member(2, |status, scrape| (status.quota, scrape.quota) = (Some(QuotaBytes::Bytes(2000 * MIB)), None)),
        member(3, |_, scrape| scrape.quota = None),
        member(4, |_, _| {}),
    ]);
    ill.listing = Listing::Disagreed("etcd-1 lists 4 members".into());
    ill.members[2].status.as_mut().unwrap().db_size = 1900 * MIB;
    ill.members[3].scrape = Err(Blocked::new(Reason::MemberDown, "GET http://etcd-3:2379/metrics: HTTP 404"));
    ill.members[4].status = Err(Blocked::new(Reason::EtcdUnavailable, "Status to http://etcd-4:2379: refused"));
    let two = look((0..2).map(|index| member(index, |_, _| {})).collect());
    let parts = [&fine, &ill, &two].map(|look| {
        let me = MemberId(0xa1);
        let mut config = Config::default();
        let mut checks = judge::members(look, me);
        checks.extend(judge::quotas(look, &config));
        checks.extend(judge::releases(look, &config));
        checks.extend(judge::budget(look, me, &[], &config));
        // 180 MiB take 2.1 s, it is assumed.
        config.defrag.liveness_budget = Some(std::time::Duration::from_secs(1));
        checks.extend(judge::budget(look, me, &[], &config));
        config.defrag.liveness_budget = None;
        config.defrag.timeout = std::time::Duration::from_secs(2);
        checks.extend(judge::budget(look, me, &[], &config));
        checks.extend(judge::budget(look, MemberId(0xa5), &[], &config));
        written(&checks, Format::Table, Screen::PLAIN)
    });
    snapshot("check_look", &parts.join("\n"));
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
        Check::not_tried("rights", "a key can be written", "etcd must answer first"),
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
