//! `status` in every state, at several widths and in every format.

use chrono::TimeDelta;
use etcd_janitor::cli::screen::Screen;
use etcd_janitor::cli::seen::Seen;
use etcd_janitor::cli::status::{Format, write};
use etcd_janitor::plan::member::{MemberId, RoundId, RoundKind};
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::record::Intent;
use etcd_janitor::plan::snapshot::*;

use crate::cluster::*;
use crate::snapshot;

fn shown(snapshot: Snapshot, without_daemon: Option<&str>, format: Format, screen: Screen) -> String {
    let seen = Seen { snapshot, without_daemon: without_daemon.map(str::to_owned) };
    let mut out = Vec::new();
    write(&seen, format, screen, now(), &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn table(snapshot: Snapshot) -> String {
    shown(snapshot, None, Format::Table, Screen::PLAIN)
}

fn changed(change: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let mut snapshot = well();
    change(&mut snapshot);
    snapshot
}

fn all(states: Vec<(&str, Snapshot)>) -> String {
    let parts: Vec<String> =
        states.into_iter().map(|(name, snapshot)| format!("=== {name}\n{}", table(snapshot))).collect();
    parts.join("\n")
}

#[test]
fn each_state_of_etcd() {
    let down = "member_down: etcd-2 (00000000000000a3): Status to http://etcd-2:2379: no answer within 1.0 s";
    let nospace = || Alarm { alarm: "NOSPACE".into(), member: MemberId(0xa3) };
    let rescue = |waiting_for| Rescue {
        round: RoundId { kind: RoundKind::Rescue, due: now() - TimeDelta::seconds(40) },
        phase: "waits for etcd-1's defrag".into(),
        waiting_for,
    };
    snapshot(
        "status_etcd",
        &all(vec![
            ("well", well()),
            (
                "not asked yet",
                changed(|s| {
                    s.etcd_up = None;
                    s.looked_at = None;
                    s.members.clear();
                    s.history.clear();
                    s.decisions.clear();
                    (s.revision, s.compact_revision, s.forecast_seconds, s.cluster_id) = (None, None, None, None);
                }),
            ),
            (
                "the local member is away",
                changed(|s| {
                    s.etcd_up = Some(false);
                    s.problem = Some(Blocked::new(
                        Reason::EtcdUnavailable,
                        "Status to http://127.0.0.1:2379: connection refused",
                    ));
                    s.members[0].problem = Some("etcd_unavailable: connection refused".into());
                }),
            ),
            (
                "the password is wrong",
                changed(|s| {
                    s.etcd_up = Some(false);
                    s.problem = Some(Blocked::new(
                        Reason::Auth,
                        "Authenticate to http://127.0.0.1:2379: etcdserver: authentication failed, invalid user ID or password",
                    ));
                }),
            ),
            (
                "another member is down",
                changed(|s| {
                    s.members[2].problem = Some(down.into());
                    s.members[2].role = Role::Unknown;
                    s.members[2].seen_at = Some(now() - TimeDelta::hours(2));
                }),
            ),
            ("CORRUPT", changed(|s| s.alarms = vec![Alarm { alarm: "CORRUPT".into(), member: MemberId(0xa2) }])),
            (
                "NOSPACE and its rescue",
                changed(|s| {
                    s.alarms = vec![nospace()];
                    s.rescue = Some(rescue(None));
                }),
            ),
            (
                "NOSPACE that nobody works on",
                changed(|s| {
                    s.alarms = vec![nospace()];
                    s.config.dry_run = true;
                }),
            ),
            (
                "NOSPACE whose rescue waits for somebody",
                changed(|s| {
                    s.alarms = vec![nospace()];
                    let text = "etcd-1 (00000000000000a2): no answer within 1.0 s";
                    s.rescue = Some(rescue(Some(Blocked::new(Reason::MemberDown, text))));
                }),
            ),
            (
                "NOSPACE with too much live data",
                changed(|s| {
                    s.alarms = vec![nospace()];
                    let text = "etcd-2 has 7.9 GiB in use of a quota of 8.0 GiB: raise the quota or delete keys";
                    s.rescue = Some(rescue(Some(Blocked::new(Reason::Nospace, text))));
                }),
            ),
            (
                "growth",
                changed(|s| {
                    s.growth = Some(Growth {
                        reached_at: now() + TimeDelta::hours(9),
                        bytes_per_hour: 700 * MIB,
                        quota: 8192 * MIB,
                        of: Growing::InUse,
                        before_next_round: true,
                    });
                }),
            ),
            (
                "a learner beside the janitor",
                changed(|s| {
                    s.members[0].role = Role::Learner;
                    s.tasks[1].last_outcome = Some(Outcome::Skipped(Reason::Learner));
                }),
            ),
            (
                "no quota, and one that nobody tells",
                changed(|s| (s.members[0].quota, s.members[1].quota) = (Some(0), None)),
            ),
            (
                "another member answers at the endpoint",
                changed(|s| {
                    s.etcd_up = Some(false);
                    let text = "http://10.0.0.2:2379 answers as member \"etcd-1\"; etcd.member_name is \"etcd-0\"";
                    s.problem = Some(Blocked::new(Reason::WrongMember, text));
                }),
            ),
            (
                "TLS cannot be made",
                changed(|s| {
                    s.etcd_up = Some(false);
                    let text = "Status to https://127.0.0.1:2379: the client certificate expired on 2026-11-20";
                    s.problem = Some(Blocked::new(Reason::Tls, text));
                }),
            ),
            ("a certificate has expired", changed(|s| s.certificates[0].not_after = now() - TimeDelta::hours(3))),
        ]),
    );
}

#[test]
fn each_state_of_maintenance() {
    let skipped = |reason| Outcome::Skipped(reason);
    snapshot(
        "status_maintenance",
        &all(vec![
            ("dry run", changed(|s| s.config.dry_run = true)),
            (
                "no valid configuration",
                changed(|s| {
                    s.config.valid = false;
                    s.config.problems = vec!["defrag.window: found \"soon\"; allowed: 1m to 24h".into()];
                    s.tasks.clear();
                }),
            ),
            ("held", changed(|s| s.hold = Some(hold()))),
            (
                "held by what cannot be read",
                changed(|s| s.hold_unreadable = Some("the record has version 9; this release reads version 1".into())),
            ),
            (
                "a right is missing",
                changed(|s| {
                    let text = "a defrag takes the role root, which the user ops lacks: HashKV to http://10.0.0.1:2379: \
                                auth: permission denied";
                    s.missing_right = Some(text.into());
                }),
            ),
            ("quiesced", changed(|s| s.quiesced = true)),
            (
                "in the queue",
                changed(|s| {
                    s.queue = vec!["etcd-2".into(), "etcd-0".into()];
                    (s.members[2].place, s.members[0].place) = (Some(0), Some(1));
                    s.intent = Some(intent(0xa3));
                    s.members[2].problem = Some("etcd_unavailable: no answer within 1.0 s".into());
                    s.tasks[1].in_progress = true;
                    s.tasks[1].phase = "in the queue".into();
                }),
            ),
            (
                "leadership cannot be moved",
                changed(|s| {
                    s.members[0].role = Role::Leader;
                    s.members[1].role = Role::Follower;
                    s.queue = vec!["cli@etcd-0".into()];
                    s.members[0].place = Some(0);
                    s.turn_held = true;
                    s.tasks[1].in_progress = true;
                    s.tasks[1].phase = "moving leadership away".into();
                    let text =
                        "MoveLeader to 00000000000000a2: etcdserver: request timed out, leader transfer took too long";
                    s.tasks[1].waiting_for = Some(Blocked::new(Reason::LeaderNotMoved, text));
                }),
            ),
            (
                "another member is being defragmented",
                changed(|s| {
                    s.queue = vec!["etcd-2".into()];
                    s.members[2].place = Some(0);
                    (s.members[2].defrag_open, s.members[2].role) = (Some(true), Role::Unknown);
                    s.intent = Some(intent(0xa3));
                }),
            ),
            (
                "the local member is being defragmented by somebody else",
                changed(|s| {
                    s.members[0].defrag_open = Some(true);
                    s.etcd_up = Some(false);
                    let text = "Status to http://127.0.0.1:2379: no answer within 2.0 s";
                    s.problem = Some(Blocked::new(Reason::EtcdUnavailable, text));
                }),
            ),
            (
                "a member went away in its defrag",
                changed(|s| {
                    s.queue = vec!["etcd-2".into()];
                    s.members[2].place = Some(0);
                    (s.members[2].defrag_open, s.members[2].role) = (None, Role::Unknown);
                    s.members[2].problem = Some("etcd_unavailable: connection refused".into());
                    s.intent = Some(intent(0xa3));
                }),
            ),
            ("an intent was left open", changed(|s| s.intent = Some(intent(0xa3)))),
            (
                "own defrag under way",
                changed(|s| {
                    s.queue = vec!["etcd-0".into()];
                    (s.turn_held, s.members[0].place) = (true, Some(0));
                    s.intent = Some(Intent { holder: "etcd-0".into(), ..intent(0xa1) });
                    s.tasks[1].in_progress = true;
                    s.tasks[1].round = Some(midnight());
                    s.tasks[1].phase = "defragmenting".into();
                }),
            ),
            (
                "draining",
                changed(|s| {
                    s.queue = vec!["etcd-0".into()];
                    (s.draining, s.turn_held, s.members[0].place) = (true, true, Some(0));
                    s.tasks[1].in_progress = true;
                    s.tasks[1].phase = "draining clients".into();
                }),
            ),
            (
                "the configuration was refused and the one before is in force",
                changed(|s| {
                    s.config.last_reload_successful = false;
                    s.config.problems = vec!["defrag.window: found \"soon\"; allowed: 1m to 24h".into()];
                }),
            ),
            (
                "a compaction waits for the leader's janitor while a member is down",
                changed(|s| {
                    s.tasks[0].in_progress = true;
                    s.tasks[0].phase = "waiting for the leader's janitor".into();
                    s.members[2].problem = Some("etcd_unavailable: connection refused".into());
                    (s.members[2].defrag_open, s.members[2].role) = (None, Role::Unknown);
                }),
            ),
            (
                "defrag is off",
                changed(|s| {
                    s.tasks[1].enabled = false;
                    s.tasks[1].next_run = None;
                    s.tasks[1].waiting_for = Some(Blocked::new(Reason::Disabled, ""));
                }),
            ),
            (
                "the last round was skipped",
                changed(|s| {
                    s.tasks[1].last_outcome = Some(skipped(Reason::LivenessBudget));
                    s.history[0].outcome = skipped(Reason::LivenessBudget);
                }),
            ),
            (
                "the last round failed",
                changed(|s| {
                    s.tasks[1].last_outcome = Some(Outcome::Failed(Failure::Restarted));
                    s.history[0].outcome = Outcome::Failed(Failure::Restarted);
                }),
            ),
            (
                "nobody knows how it ended",
                changed(|s| {
                    s.tasks[1].last_outcome = Some(Outcome::Unknown);
                    s.history[0].outcome = Outcome::Unknown;
                    s.intent_unreadable = Some("the record has version 9; this release reads version 1".into());
                }),
            ),
            (
                "compaction is off",
                changed(|s| {
                    s.tasks[0].enabled = false;
                    s.tasks[0].next_run = None;
                    s.tasks[0].waiting_for = Some(Blocked::new(Reason::Disabled, ""));
                }),
            ),
            (
                "a janitor is missing",
                changed(|s| {
                    s.history.retain(|record| record.name != "etcd-2");
                    s.members[2].pays = Some(true);
                }),
            ),
        ]),
    );
}

#[test]
fn etcd_itself_when_no_daemon_answers() {
    let why =
        "no janitor listens on 127.0.0.1:8379: connection refused; is `etcd-janitor run` up, and http.listen the same?";
    let seen = changed(|s| {
        s.janitor.instance.clear();
        s.tasks.iter_mut().for_each(|task| task.next_run = None);
        s.decisions.clear();
    });
    snapshot("status_without_daemon", &shown(seen, Some(why), Format::Table, Screen::PLAIN));
}

#[test]
fn widths_and_formats() {
    let mut state = well();
    state.members[2].problem = Some("member_down: etcd-2 (00000000000000a3): no answer within 1.0 s".into());
    let at = |width| shown(state.clone(), None, Format::Table, Screen { width: Some(width), ..Screen::PLAIN });
    let colour = Screen { colour: true, ..Screen::PLAIN };
    let parts = [
        ("80 characters", at(80)),
        ("40 characters", at(40)),
        ("wide", shown(state.clone(), None, Format::Wide, Screen::PLAIN)),
        ("colours", shown(state.clone(), None, Format::Table, colour).replace('\x1b', "^")),
        ("yaml", shown(state.clone(), None, Format::Yaml, Screen::PLAIN)),
    ];
    let parts: Vec<String> = parts.iter().map(|(name, text)| format!("=== {name}\n{text}")).collect();
    snapshot("status_formats", &parts.join("\n"));
    for width in [20, 40, 80, 120] {
        // A name or an id is one word and may be longer than the line.
        let long =
            |line: &&str| line.chars().count() > width && line.trim().contains(' ') && !line.starts_with("MEMBER");
        let text = at(width);
        if width >= 80 {
            assert_eq!(text.lines().find(long), None, "{width}");
        }
    }
    let json: Snapshot = serde_json::from_str(&shown(state.clone(), None, Format::Json, Screen::PLAIN)).expect("JSON");
    assert_eq!(json, state);
}

#[test]
fn nothing_from_etcd_steers_the_terminal() {
    let evil = "\x1b]0;x\x07\u{9b}2J\r\n";
    let mut snapshot = well();
    for member in &mut snapshot.members {
        member.name = evil.to_owned();
        member.problem = Some(evil.to_owned());
        member.version = Some(evil.to_owned());
    }
    snapshot.queue = vec![evil.to_owned()];
    snapshot.hold = Some(hold());
    for task in &mut snapshot.tasks {
        task.waiting_for = Some(Blocked::new(Reason::MemberDown, evil));
        task.in_progress = true;
        task.phase = evil.to_owned();
    }
    snapshot.decisions[0].text = evil.to_owned();
    snapshot.alarms = vec![Alarm { alarm: evil.to_owned(), member: MemberId(1) }];
    for format in [Format::Table, Format::Wide, Format::Yaml, Format::Json] {
        let text = shown(snapshot.clone(), Some(evil), format, Screen::PLAIN);
        assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\u{9b}'), "{format:?}: {text:?}");
    }
    let text = shown(snapshot, Some(evil), Format::Table, Screen::PLAIN);
    assert!(!text.contains('\u{9b}'), "{text:?}");
}
