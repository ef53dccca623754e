//! The one sentence: the gravest thing wins.

use chrono::{TimeDelta, Utc};
use etcd_janitor::http::{Level, verdict};
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::record::{Extra, Hold, VERSION};
use etcd_janitor::plan::snapshot::{Alarm, Certificate, Rescue, Snapshot};

use crate::sample;

/// Each makes things worse than all before it: together they must show the last one.
#[test]
fn the_gravest_is_told() {
    let mut snapshot = sample::known();
    let mut step = |level: Level, wanted: &str, change: fn(&mut Snapshot)| {
        change(&mut snapshot);
        let verdict = verdict(&snapshot, Utc::now());
        assert!(verdict.level == level && verdict.text.contains(wanted), "wanted {wanted:?}, got {verdict:?}");
    };
    step(Level::Well, "Idle: next defrag due in 16h 59m", |_| {});
    step(Level::Well, "Dry run", |s| s.config.dry_run = true);
    step(Level::Attention, "etcd-2: the rule would defragment it", |s| {
        s.queue.clear();
        s.members[2].pays = Some(true);
        s.history.retain(|record| record.member != MemberId(3));
    });
    step(Level::Attention, "The last defrag was skipped, liveness_budget.", |s| {
        s.tasks[1].last_outcome = Some(Outcome::Skipped(Reason::LivenessBudget));
    });
    step(Level::Attention, "Compaction waits: no_leader: nobody leads", |s| {
        s.tasks[0].waiting_for = Some(Blocked::new(Reason::NoLeader, "nobody leads"));
    });
    step(Level::Attention, "The last compaction ended as failed(auth).", |s| {
        s.tasks[0].last_outcome = Some(Outcome::Failed(Failure::Auth));
    });
    step(
        Level::Attention,
        "At its growth what is in use reaches the quota of 8.0 GiB in 4h 59m, before the next round, at 100 MiB an hour.",
        |s| s.growth = Some(sample::growth(TimeDelta::hours(5), true)),
    );
    step(Level::Attention, "The client certificate ends in 2d", |s| {
        let not_after = Utc::now() + TimeDelta::hours(60);
        s.certificates = vec![Certificate { usage: "client".into(), not_after }];
    });
    step(Level::Attention, "The newest configuration was refused", |s| s.config.last_reload_successful = false);
    step(Level::Attention, "etcd does not let it do all of its work: a defrag takes the role root", |s| {
        s.missing_right = Some("a defrag takes the role root, which the user ops lacks".into());
    });
    step(Level::Attention, "etcd-2 is not well: no answer", |s| s.members[2].problem = Some("no answer".into()));
    step(Level::Attention, "etcd-2 is not well", |s| {
        s.tasks[0].in_progress = true;
        s.tasks[0].phase = "waiting for the leader's janitor".into();
    });
    step(Level::Working, "Defrag under way: waiting for the turn.", |s| {
        s.tasks[1].in_progress = true;
        s.tasks[1].phase = "waiting for the turn".into();
    });
    step(Level::Attention, "Defrag waits: leader_not_moved: it came back", |s| {
        s.tasks[1].waiting_for = Some(Blocked::new(Reason::LeaderNotMoved, "it came back"));
    });
    step(Level::Attention, "Quiesced", |s| s.quiesced = true);
    step(Level::Attention, "No defrag starts: the intent cannot be read (the record has version 9", |s| {
        s.intent_unreadable = Some("the record has version 9; this release reads version 1".into());
    });
    step(Level::Attention, "Held by a record that cannot be read (the record has version 9", |s| {
        s.hold_unreadable = Some("the record has version 9; this release reads version 1".into());
    });
    step(Level::Attention, "Held by ops for another 1h 59m: upgrade", |s| {
        let (reason, by, until) = ("upgrade".into(), "ops".into(), Utc::now() + TimeDelta::hours(2));
        s.hold = Some(Hold { v: VERSION, reason, by, until, extra: Extra::new() });
    });
    step(Level::Attention, "Starting", |s| s.etcd_up = None);
    step(Level::Bad, "does not answer", |s| s.etcd_up = Some(false));
    step(Level::Bad, "Nothing can be done. etcd refuses the credentials", |s| {
        s.problem = Some(Blocked::new(Reason::Auth, "user janitor"));
    });
    step(Level::Bad, "The NOSPACE alarm is up on etcd-1: etcd refuses writes.", |s| {
        s.alarms = vec![Alarm { alarm: "NOSPACE".into(), member: MemberId(2) }];
    });
    step(Level::Bad, "etcd refuses writes. Rescue: learner: promote it or remove it.", |s| {
        s.rescue = Some(Rescue {
            round: "rescue-20261122T000000Z".parse().unwrap(),
            phase: "watching".into(),
            waiting_for: Some(Blocked::new(Reason::Learner, "promote it or remove it")),
        });
    });
    step(Level::Bad, "The CORRUPT alarm is up on 0000000000000099.", |s| {
        s.alarms.push(Alarm { alarm: "CORRUPT".into(), member: MemberId(0x99) });
    });
    step(Level::Bad, "The configuration is not valid", |s| s.config.valid = false);
}

#[test]
fn what_is_switched_off_waits_for_nothing() {
    let mut snapshot = sample::known();
    snapshot.tasks[0].enabled = false;
    snapshot.tasks[0].waiting_for = Some(Blocked::new(Reason::Disabled, ""));
    assert_eq!(verdict(&snapshot, Utc::now()).level, Level::Well);
}

/// Whoever sent it, and whether or not there is an intent.
#[test]
fn a_defrag_under_way_is_work_and_one_left_open_is_not() {
    let told = |change: fn(&mut Snapshot)| {
        let mut snapshot = sample::known();
        snapshot.queue.clear();
        change(&mut snapshot);
        let verdict = verdict(&snapshot, Utc::now());
        (verdict.level, verdict.text)
    };
    let work = (Level::Working, "etcd-2 is being defragmented.".to_owned());
    assert_eq!(told(|s| (s.queue, s.intent) = (vec!["etcd-2".into()], Some(sample::intent("etcd-2", 3)))), work);
    let open: fn(&mut Snapshot) = |s| {
        s.members[2].defrag_open = Some(true);
        s.members[2].problem = Some("etcd_unavailable: no answer".into());
    };
    assert_eq!(told(open), work);
    let left = told(|s| s.intent = Some(sample::intent("etcd-2", 3)));
    assert_eq!(left, (Level::Attention, "The outcome of a defrag of etcd-2 by etcd-2 is not resolved yet.".to_owned()));
    let away = told(|s| {
        (s.queue, s.intent) = (vec!["etcd-2".into()], Some(sample::intent("etcd-2", 3)));
        (s.members[2].defrag_open, s.members[2].problem) = (None, Some("etcd_unavailable: refused".into()));
    });
    assert_eq!(away, (Level::Attention, "etcd-2 is not well: etcd_unavailable: refused".to_owned()));
    let local: fn(&mut Snapshot) = |s| {
        s.etcd_up = Some(false);
        s.problem = Some(Blocked::new(Reason::EtcdUnavailable, "no answer"));
    };
    assert_eq!(told(local).0, Level::Bad);
    let local = told(|s| {
        (s.etcd_up, s.members[0].defrag_open) = (Some(false), Some(true));
        s.problem = Some(Blocked::new(Reason::EtcdUnavailable, "no answer"));
    });
    assert_eq!(local, (Level::Working, "etcd-0 is being defragmented.".to_owned()));
}

#[test]
fn growth_that_a_round_comes_before_worries_nobody() {
    let mut snapshot = sample::known();
    snapshot.growth = Some(sample::growth(TimeDelta::hours(20), false));
    assert_eq!(verdict(&snapshot, Utc::now()).level, Level::Well);
}
