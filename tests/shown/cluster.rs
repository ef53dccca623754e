//! A cluster of three at a fixed instant, well and idle.

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use etcd_janitor::plan::member::{MemberId, RoundId, RoundKind};
use etcd_janitor::plan::reason::Outcome;
use etcd_janitor::plan::record::{Extra, Hold, Intent, RoundRecord, VERSION};
use etcd_janitor::plan::rule::{Figures, Quota, Rule};
use etcd_janitor::plan::snapshot::*;

pub const MIB: u64 = 1 << 20;

/// Sunday, 06:12:30.
pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 6, 12, 30).unwrap()
}

pub fn midnight() -> RoundId {
    RoundId { due: Utc.with_ymd_and_hms(2026, 11, 22, 0, 0, 0).unwrap(), kind: RoundKind::Cron }
}

pub fn well() -> Snapshot {
    let now = now();
    Snapshot {
        api_version: 1,
        at: now,
        janitor: Janitor { version: "0.1.0".into(), instance: "2f0c7d1e".into(), started_at: now - TimeDelta::days(9) },
        config: ConfigState {
            source: "/etc/etcd-janitor/config.yaml".into(),
            valid: true,
            last_reload_successful: true,
            problems: vec![],
            dry_run: false,
        },
        etcd_up: Some(true),
        problem: None,
        cluster_id: Some(MemberId(0xcdf8_1819_4e3a_8c32)),
        local: Some(MemberId(0xa1)),
        looked_at: Some(now - TimeDelta::seconds(1)),
        members: vec![member(0, 412), member(1, 398), member(2, 1638)],
        alarms: vec![],
        tasks: vec![
            task(TaskKind::Compaction, "*/5 * * * *", TimeDelta::seconds(150), TimeDelta::seconds(147)),
            task(TaskKind::Defrag, "0 0 * * *", TimeDelta::seconds(64_050), TimeDelta::seconds(22_321)),
        ],
        compact_revision: Some(91_204_133),
        revision: Some(91_300_000),
        turn_held: false,
        queue: vec![],
        intent: None,
        rescue: None,
        intent_unreadable: None,
        hold: None,
        hold_unreadable: None,
        missing_right: None,
        hold_read_at: Some(now),
        quiesced: false,
        draining: false,
        forecast_seconds: Some(2.1),
        rule: Some(rule(DEFAULT_RULE, 412)),
        growth: None,
        certificates: vec![Certificate { usage: "client".into(), not_after: now + TimeDelta::days(200) }],
        decisions: vec![Decision {
            at: now - TimeDelta::seconds(22_321),
            task: TaskKind::Defrag,
            round: Some(midnight()),
            text: "done 1.2 GiB to 412 MiB in 2.1 s".into(),
            blocked: None,
        }],
        history: (0..3).map(record).collect(),
        sizes: vec![],
        compactions: vec![],
        others_compact: None,
    }
}

pub const DEFAULT_RULE: &str =
    "dbQuotaUsage > 0.8 && dbSizeFree > 32 * MiB || dbSizeFree > 100 * MiB && dbFreeRatio > 0.6";

/// What a rule says of a file of so many MiB with 180 in use.
pub fn rule(text: &str, mib: u64) -> RuleState {
    let rule = Rule::parse(text).expect("a rule");
    let figures = Figures { db_size: mib * MIB, db_size_in_use: 180 * MIB, quota: Quota::Bytes(8192 * MIB) };
    RuleState {
        text: text.to_owned(),
        told: rule.explain(&figures),
        holds: rule.evaluate(&figures).ok(),
        conditions: rule.conditions(&figures),
    }
}

fn member(index: u64, mib: u64) -> Member {
    Member {
        id: MemberId(0xa1 + index),
        name: format!("etcd-{index}"),
        local: index == 0,
        role: if index == 1 { Role::Leader } else { Role::Follower },
        seen_at: Some(now() - TimeDelta::seconds(1)),
        version: Some("3.5.30".into()),
        db_size: Some(mib * MIB),
        db_size_in_use: Some(180 * MIB),
        quota: Some(8192 * MIB),
        pays: Some(false),
        defrag_open: Some(false),
        place: None,
        problem: None,
    }
}

fn task(kind: TaskKind, schedule: &str, next: TimeDelta, last: TimeDelta) -> Task {
    Task {
        task: kind,
        enabled: true,
        schedule: schedule.into(),
        time_zone: "Europe/Paris".into(),
        next_run: Some(now() + next),
        interval_seconds: Some(86_400.0),
        in_progress: false,
        phase: "idle".into(),
        round: None,
        waiting_for: None,
        last_outcome: Some(Outcome::Done),
        last_run: Some(now() - last),
        last_success: Some(now() - last),
    }
}

pub fn record(index: u64) -> RoundRecord {
    let started = midnight().due + TimeDelta::seconds(12 + 13 * index as i64);
    RoundRecord {
        v: VERSION,
        round: midnight(),
        member: MemberId(0xa1 + index),
        name: format!("etcd-{index}"),
        outcome: Outcome::Done,
        detail: String::new(),
        started_at: Some(started),
        ended_at: started + TimeDelta::seconds(3),
        seconds: Some(2.1),
        size_before: Some(1240 * MIB),
        in_use_before: Some(180 * MIB),
        size_after: Some(181 * MIB),
        leader_moved_to: (index == 1).then_some(MemberId(0xa1)),
    }
}

pub fn intent(member: u64) -> Intent {
    Intent {
        v: VERSION,
        member: MemberId(member),
        instance: "77aa".into(),
        holder: "etcd-2".into(),
        round: midnight(),
        target_start: 0.0,
        target_count: 0,
        db_size: 1638 * MIB,
        db_size_in_use: 180 * MIB,
        at: now() - TimeDelta::seconds(4),
        extra: Extra::new(),
    }
}

pub fn hold() -> Hold {
    let until = now() + TimeDelta::minutes(95);
    Hold { v: VERSION, reason: "disk swap".into(), by: "ana@bastion".into(), until, extra: Extra::new() }
}
