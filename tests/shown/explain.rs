//! `explain`, `history` and the plan of a dry run.

use chrono::TimeDelta;
use etcd_janitor::cli::explain::{Which, write};
use etcd_janitor::cli::history;
use etcd_janitor::cli::once::plan;
use etcd_janitor::cli::screen::Screen;
use etcd_janitor::cli::seen::Seen;
use etcd_janitor::cli::status::Format;
use etcd_janitor::config::{Config, Guard};
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::snapshot::*;

use crate::cluster::*;
use crate::snapshot;

fn explained(which: Which, change: impl FnOnce(&mut Snapshot)) -> String {
    let mut state = well();
    change(&mut state);
    let seen = Seen { snapshot: state, without_daemon: None };
    let mut out = Vec::new();
    write(&seen, which, 5, Screen::PLAIN, now(), &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn decided(task: TaskKind, minutes: i64, text: &str, blocked: Option<Blocked>) -> Decision {
    let round = (task == TaskKind::Defrag).then(midnight);
    Decision { at: now() - TimeDelta::minutes(minutes), task, round, text: text.into(), blocked }
}

#[test]
fn why_it_did_or_did_not_run() {
    let parts = [
        ("the rule is false", explained(Which::Defrag, |_| {})),
        (
            "the rule is true and leadership cannot be moved",
            explained(Which::Defrag, |s| {
                s.rule = Some(rule("dbFreeRatio > 0.4", 412));
                let text = "MoveLeader to 00000000000000a2: no answer within 5.0 s";
                s.tasks[1].in_progress = true;
                s.tasks[1].phase = "moving leadership away".into();
                s.tasks[1].waiting_for = Some(Blocked::new(Reason::LeaderNotMoved, text));
                let blocked = Some(Blocked::new(Reason::LeaderNotMoved, text));
                s.decisions.push(decided(TaskKind::Defrag, 2, "leader_not_moved: no answer", blocked));
            }),
        ),
        (
            "held, quiesced, in a dry run, without a schedule",
            explained(Which::Defrag, |s| {
                s.hold = Some(hold());
                s.quiesced = true;
                s.config.dry_run = true;
                s.tasks[1].next_run = None;
                s.tasks[1].waiting_for = Some(Blocked::new(Reason::Disabled, ""));
                s.decisions.clear();
            }),
        ),
        (
            "a rule that never can be true",
            explained(Which::Defrag, |s| s.rule = Some(rule("dbSize > 4 * GiB && dbSize < 1 * GiB", 412))),
        ),
        (
            "two alternatives lack as much",
            explained(Which::Defrag, |s| s.rule = Some(rule("dbSize > 4 * GiB || dbFreeRatio > 0.9", 412))),
        ),
        (
            "a member is down, an intent was left open, and the rescue waits",
            explained(Which::Defrag, |s| {
                s.members[2].problem = Some("etcd_unavailable: connection refused".into());
                (s.members[2].defrag_open, s.members[2].role) = (None, Role::Unknown);
                s.intent = Some(intent(0xa2));
                s.alarms = vec![Alarm { alarm: "NOSPACE".into(), member: MemberId(0xa3) }];
                s.rescue = Some(Rescue {
                    round: "rescue-20261122T061150Z".parse().expect("a round"),
                    phase: "watching".into(),
                    waiting_for: Some(Blocked::new(Reason::MemberLagging, "etcd-1 is 9000 raft entries behind")),
                });
            }),
        ),
        (
            "a learner, while another member is being defragmented",
            explained(Which::Defrag, |s| {
                s.members[0].role = Role::Learner;
                s.members[2].defrag_open = Some(true);
                s.decisions.clear();
            }),
        ),
        ("nothing is known yet", explained(Which::Defrag, |s| (s.rule, s.members) = (None, vec![]))),
        (
            "compaction",
            explained(Which::Compaction, |s| {
                let detail = "somebody else compacts (seen 40 s ago): etcd's auto-compaction or a tool";
                let blocked = Some(Blocked::new(Reason::NotNeeded, detail));
                s.decisions.push(decided(TaskKind::Compaction, 3, &format!("skipped(not_needed) {detail}"), blocked));
            }),
        ),
    ];
    let parts: Vec<String> = parts.iter().map(|(name, text)| format!("=== {name}\n{text}")).collect();
    snapshot("explain", &parts.join("\n"));
}

#[test]
fn who_was_defragmented_when() {
    let mut state = well();
    state.history[1].outcome = Outcome::Failed(Failure::Restarted);
    state.history[1].detail = "the process restarted at 00:00:27".into();
    state.history[2].outcome = Outcome::Skipped(Reason::MemberDown);
    (state.history[2].seconds, state.history[2].size_before, state.history[2].size_after) = (None, None, None);
    let records: Vec<_> = state.history.iter().collect();
    let written = |format, width, records: &[_]| {
        let screen = Screen { width, ..Screen::PLAIN };
        let mut out = Vec::new();
        history::write(&state, records, format, screen, now(), &mut out).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    };
    let parts = [
        written(Format::Table, None, &records),
        written(Format::Table, Some(80), &records),
        written(Format::Wide, None, &records),
        written(Format::Yaml, None, &records[..1]),
        written(Format::Json, None, &records[..1]),
        written(Format::Table, None, &[]),
    ];
    snapshot("history", &parts.join("\n"));
}

#[test]
fn what_a_round_would_do() {
    let planned_by = |config: &Config, change: fn(&mut Snapshot)| {
        let mut state = well();
        change(&mut state);
        let mut out = Vec::new();
        let seen = Seen { snapshot: state, without_daemon: None };
        plan(&seen, config, Screen::PLAIN, now(), &mut out).expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    };
    let planned = |change| planned_by(&Config::default(), change);
    let alone = |state: &mut Snapshot| {
        state.members.truncate(1);
        state.members[0].id = MemberId(0xa1);
    };
    let mut allowed = Config::default();
    allowed.defrag.small_cluster = Guard::Allow;
    let parts = [
        planned(|_| {}),
        planned(|s| {
            s.members[0].role = Role::Leader;
            s.queue = vec!["etcd-2".into()];
            s.hold = Some(hold());
        }),
        planned(alone),
        planned_by(&allowed, alone),
    ];
    snapshot("plan", &parts.join("\n"));
}
