//! A snapshot in which everything is known, and one in which nothing is.

use chrono::{DateTime, TimeDelta, Utc};
use etcd_janitor::plan::member::{MemberId, RoundId, RoundKind};
use etcd_janitor::plan::reason::{Blocked, Outcome, Reason};
use etcd_janitor::plan::record::{Extra, Hold, Intent, RoundRecord, VERSION};
use etcd_janitor::plan::rule::Condition;
use etcd_janitor::plan::sizes::SizeSample;
use etcd_janitor::plan::snapshot::*;

pub fn unknown() -> Snapshot {
    Snapshot {
        api_version: 1,
        at: Utc::now(),
        janitor: Janitor { version: "1.2.3".into(), instance: "etcd-0-abc".into(), started_at: Utc::now() },
        config: ConfigState {
            source: "defaults".into(),
            valid: true,
            last_reload_successful: true,
            problems: vec![],
            dry_run: false,
        },
        etcd_up: None,
        problem: None,
        cluster_id: None,
        local: None,
        looked_at: None,
        members: vec![],
        alarms: vec![],
        tasks: vec![],
        compact_revision: None,
        revision: None,
        turn_held: false,
        queue: vec![],
        intent: None,
        intent_unreadable: None,
        hold: None,
        hold_unreadable: None,
        missing_right: None,
        rescue: None,
        hold_read_at: None,
        quiesced: false,
        draining: false,
        forecast_seconds: None,
        rule: None,
        growth: None,
        certificates: vec![],
        decisions: vec![],
        history: vec![],
        sizes: vec![],
        compactions: vec![],
        others_compact: None,
    }
}

pub fn known() -> Snapshot {
    let now = Utc::now();
    let round = round(now);
    Snapshot {
        etcd_up: Some(true),
        cluster_id: Some(MemberId(0xcdf8)),
        local: Some(MemberId(1)),
        looked_at: Some(now),
        members: (1..=3).map(member).collect(),
        tasks: TaskKind::ALL.map(|kind| task(kind, now)).to_vec(),
        compact_revision: Some(91_204_133),
        revision: Some(91_300_000),
        turn_held: true,
        queue: vec!["etcd-0".into(), "etcd-2".into()],
        hold_read_at: Some(now),
        forecast_seconds: Some(4.8),
        rule: Some(RuleState {
            text: "dbFreeRatio > 0.6".into(),
            told: "dbFreeRatio=0.56 > 0.6 is false".into(),
            holds: Some(false),
            conditions: vec![Condition {
                alternative: 0,
                text: "dbFreeRatio > 0.6".into(),
                values: "0.56 > 0.60".into(),
                holds: Some(false),
            }],
        }),
        // A full buffer: the largest page there is.
        sizes: (0..600)
            .map(|i| SizeSample {
                at: now - TimeDelta::seconds(144 * (599 - i)),
                db_size: (300 + i as u64 % 113) << 20,
                db_size_in_use: 180 << 20,
            })
            .collect(),
        compactions: (0..288).map(|i| now - TimeDelta::minutes(5 * (287 - i))).collect(),
        growth: Some(growth(TimeDelta::hours(20), false)),
        certificates: vec![
            Certificate { usage: "ca".into(), not_after: now + TimeDelta::days(400) },
            Certificate { usage: "client".into(), not_after: now + TimeDelta::days(30) },
            // A second file of one usage, which ends earlier.
            Certificate { usage: "ca".into(), not_after: now + TimeDelta::days(200) },
        ],
        decisions: (0..30)
            .map(|i| Decision {
                at: now - TimeDelta::minutes(i),
                task: TaskKind::Defrag,
                round: Some(round),
                text: format!("dbSizeFree 232 MiB of 412 MiB pays; decision {i}"),
                blocked: (i % 2 == 0).then(|| Blocked::new(Reason::MemberDown, "etcd-2 does not answer")),
            })
            .collect(),
        history: (0..30).map(|i| record(round, MemberId(1 + i % 3), now)).collect(),
        ..unknown()
    }
}

pub fn hostile(name: &str) -> Snapshot {
    let now = Utc::now();
    let mut snapshot = known();
    for member in &mut snapshot.members {
        member.name = name.to_owned();
        member.version = Some(name.to_owned());
        member.problem = Some(name.to_owned());
    }
    snapshot.janitor.instance = name.to_owned();
    snapshot.config.source = name.to_owned();
    snapshot.config.problems = vec![name.to_owned()];
    snapshot.queue = vec![name.to_owned()];
    snapshot.hold =
        Some(Hold { v: VERSION, reason: name.to_owned(), by: name.to_owned(), until: now, extra: Extra::new() });
    snapshot.intent = Some(intent(name, 2));
    snapshot.alarms = vec![Alarm { alarm: name.to_owned(), member: MemberId(2) }];
    for decision in &mut snapshot.decisions {
        decision.text = name.to_owned();
    }
    for record in &mut snapshot.history {
        record.name = name.to_owned();
        record.detail = name.to_owned();
    }
    for task in &mut snapshot.tasks {
        task.phase = name.to_owned();
        task.schedule = name.to_owned();
        task.waiting_for = Some(Blocked::new(Reason::Hold, name));
    }
    snapshot
}

pub fn intent(name: &str, member: u64) -> Intent {
    let now = Utc::now();
    Intent {
        v: VERSION,
        member: MemberId(member),
        instance: name.to_owned(),
        holder: name.to_owned(),
        round: round(now),
        target_start: 0.0,
        target_count: 0,
        db_size: 0,
        db_size_in_use: 0,
        at: now,
        extra: Extra::new(),
    }
}

pub fn growth(left: TimeDelta, before_next_round: bool) -> Growth {
    Growth {
        reached_at: Utc::now() + left,
        bytes_per_hour: 100 << 20,
        quota: 8 << 30,
        of: Growing::InUse,
        before_next_round,
    }
}

fn round(now: DateTime<Utc>) -> RoundId {
    RoundId { due: now, kind: RoundKind::Cron }
}

fn member(id: u64) -> Member {
    Member {
        id: MemberId(id),
        name: format!("etcd-{}", id - 1),
        local: id == 1,
        role: if id == 2 { Role::Leader } else { Role::Follower },
        seen_at: Some(Utc::now()),
        version: Some("3.6.14".into()),
        db_size: Some(412 << 20),
        db_size_in_use: Some(180 << 20),
        quota: Some(8 << 30),
        pays: Some(false),
        defrag_open: Some(false),
        place: None,
        problem: None,
    }
}

fn task(kind: TaskKind, now: DateTime<Utc>) -> Task {
    Task {
        task: kind,
        enabled: true,
        schedule: "0 0 * * *".into(),
        time_zone: "UTC".into(),
        next_run: Some(now + TimeDelta::hours(17)),
        interval_seconds: Some(86_400.0),
        in_progress: false,
        phase: String::new(),
        round: None,
        waiting_for: None,
        last_outcome: Some(Outcome::Done),
        last_run: Some(now - TimeDelta::hours(6)),
        last_success: Some(now - TimeDelta::hours(6)),
    }
}

fn record(round: RoundId, member: MemberId, now: DateTime<Utc>) -> RoundRecord {
    RoundRecord {
        v: VERSION,
        round,
        member,
        name: format!("etcd-{}", member.0 - 1),
        outcome: Outcome::Done,
        detail: String::new(),
        started_at: Some(now - TimeDelta::hours(6)),
        ended_at: now - TimeDelta::hours(6),
        seconds: Some(2.1),
        size_before: Some(1 << 30),
        in_use_before: Some(180 << 20),
        size_after: Some(181 << 20),
        leader_moved_to: None,
    }
}
