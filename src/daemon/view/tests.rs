use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::plan::cluster::{Listing, MemberLook, Records, Scrape};
use crate::plan::record::{Extra, TurnRecord, VERSION};
use crate::plan::time::Mono;

fn now() -> Now {
    Now { mono: Mono::new(Duration::from_secs(60)), wall: DateTime::UNIX_EPOCH }
}

/// Beside member 1.
fn view() -> (View, watch::Receiver<Arc<Snapshot>>) {
    let process = Process { version: String::new(), instance: String::new(), started_at: now().wall };
    let config = ConfigState {
        source: String::new(),
        valid: true,
        last_reload_successful: true,
        problems: Vec::new(),
        dry_run: false,
    };
    let (mut view, snapshots) = View::new(process, config, now().wall);
    view.local = Some(MemberId(1));
    (view, snapshots)
}

fn status(leader: u64) -> Status {
    Status {
        version: "3.5.30".to_owned(),
        db_size: 64,
        db_size_in_use: 20,
        quota: None,
        leader: Some(MemberId(leader)),
        term: 2,
        index: 100,
        applied: 100,
        revision: 50,
        alarms: BTreeSet::new(),
        learner: false,
    }
}

/// Three voters, all well.
fn look(leader: u64) -> Look {
    let scrape = Scrape {
        defrags_open: 0,
        snapshots_open: 0,
        defrag_count: 0,
        defrags_failed: 0,
        defrag_seconds: 0.0,
        process_start: 1.0,
        quota: None,
        compact_revision: Some(40),
        active_peers: BTreeSet::new(),
    };
    let member = |id| MemberLook {
        id: MemberId(id),
        name: format!("m{id}"),
        learner: false,
        status: Ok(status(leader)),
        scrape: Ok(scrape.clone()),
    };
    Look {
        begun: now(),
        listing: Listing::Agreed,
        members: (1..=3).map(member).collect(),
        records: Ok(Records::default()),
        disk: None,
        rights: Ok(()),
    }
}

fn silent() -> Blocked {
    Blocked::new(Reason::EtcdUnavailable, "no answer")
}

fn shown((view, snapshots): &(View, watch::Receiver<Arc<Snapshot>>)) -> Arc<Snapshot> {
    let doing = Doing { compaction: None, others_compact: None, round: None, turn_held: false, rescue: None };
    view.publish(None, &doing, now());
    snapshots.borrow().clone()
}

fn roles(snapshot: &Snapshot) -> Vec<Role> {
    snapshot.members.iter().map(|member| member.role).collect()
}

#[test]
fn a_member_that_stopped_answering_leads_no_more() {
    let mut view = view();
    view.0.looked(&look(3), None);
    assert_eq!(roles(&shown(&view)), [Role::Follower, Role::Follower, Role::Leader]);
    let mut later = look(2);
    later.members[2].status = Err(silent());
    later.members[2].scrape = Err(silent());
    view.0.looked(&later, None);
    assert_eq!(roles(&shown(&view)), [Role::Follower, Role::Leader, Role::Unknown]);
    assert_eq!(shown(&view).members[2].problem.as_deref(), Some("etcd_unavailable: no answer"));
    later.members[2].learner = true;
    view.0.looked(&later, None);
    assert_eq!(roles(&shown(&view))[2], Role::Learner);
}

#[test]
fn the_local_member_knows_who_leads_between_two_looks() {
    let mut view = view();
    view.0.looked(&look(3), None);
    view.0.polled(&LocalStatus { member: MemberId(1), cluster: 7, status: status(1) }, "m1", now());
    assert_eq!(roles(&shown(&view)), [Role::Leader, Role::Follower, Role::Follower]);
}

/// A rescue writes no intent, and neither does another tool.
#[test]
fn a_member_in_its_defrag_is_not_down() {
    let mut view = view();
    let mut busy = look(2);
    busy.members[2].status = Err(silent());
    busy.members[2].scrape.as_mut().unwrap().defrags_open = 1;
    view.0.looked(&busy, None);
    let seen = shown(&view);
    assert_eq!((seen.members[2].defrag_open, seen.members[2].problem.as_deref()), (Some(true), None));
    assert!(seen.in_defrag(&seen.members[2]) && !seen.in_defrag(&seen.members[1]));
    view.0.looked(&look(2), None);
    assert_eq!(shown(&view).members[2].defrag_open, Some(false));
}

/// Asked every few seconds, it answers Status; that says nothing of its metrics.
#[test]
fn metrics_that_cannot_be_read_stay_a_problem() {
    let mut view = view();
    let mut without = look(2);
    without.members[0].scrape = Err(Blocked::new(Reason::MemberDown, "/metrics: connection refused"));
    view.0.looked(&without, None);
    view.0.polled(&LocalStatus { member: MemberId(1), cluster: 7, status: status(2) }, "m1", now());
    assert_eq!(shown(&view).members[0].problem.as_deref(), Some("member_down: /metrics: connection refused"));
    assert_eq!(shown(&view).compact_revision, Some(40), "as the others' metrics have it");
    view.0.looked(&look(2), None);
    assert_eq!(shown(&view).members[0].problem, None);
}

/// `cli@host` has the turn for the member beside it.
#[test]
fn a_place_in_the_queue_is_a_members_whatever_its_holder_is_called() {
    let mut view = view();
    let mut queued = look(2);
    let turn = |member, holder: &str| Place {
        lease: member,
        create_revision: member,
        value: Ok(TurnRecord {
            v: VERSION,
            member: MemberId(member as u64),
            instance: String::new(),
            holder: holder.to_owned(),
            round: "manual-19700101T000000Z".parse().unwrap(),
            at: now().wall,
            extra: Extra::new(),
        }),
    };
    queued.records.as_mut().unwrap().turns = vec![turn(3, "cli@m3"), turn(1, "pod-1")];
    view.0.looked(&queued, None);
    let places: Vec<Option<usize>> = shown(&view).members.iter().map(|member| member.place).collect();
    assert_eq!(places, [Some(1), None, Some(0)]);
}

fn decision(task: TaskKind, text: &str, blocked: Option<Reason>) -> Decision {
    let blocked = blocked.map(|reason| Blocked::new(reason, text));
    Decision { at: now().wall, task, round: None, text: text.to_owned(), blocked }
}

#[test]
fn compactions_push_no_rounds_out() {
    let mut view = view();
    view.0.decided(decision(TaskKind::Defrag, "done", None));
    for revision in 0..200 {
        view.0.decided(decision(TaskKind::Compaction, &format!("done compacted to revision {revision}"), None));
    }
    let decisions = &shown(&view).decisions;
    assert_eq!((decisions.len(), decisions[0].text.as_str()), (1 + DECISIONS, "done"));
    assert_eq!(decisions[1].text, "done compacted to revision 175");
}

#[test]
fn the_same_again_takes_the_place_of_the_one_before() {
    let mut view = view();
    for seconds in [40, 340, 640] {
        let text = format!("skipped(not_needed) somebody else compacts (seen {seconds} s ago)");
        view.0.decided(decision(TaskKind::Compaction, &text, Some(Reason::NotNeeded)));
        view.0.decided(decision(TaskKind::Defrag, "did not run: disabled", Some(Reason::Disabled)));
    }
    let texts: Vec<String> = shown(&view).decisions.iter().map(|one| one.text.clone()).collect();
    assert_eq!(texts, ["skipped(not_needed) somebody else compacts (seen 640 s ago)", "did not run: disabled"]);
    // Other members are no other numbers, and what was done is no repetition.
    for name in ["etcd-1", "etcd-2"] {
        view.0.decided(decision(TaskKind::Defrag, &format!("{name} does not answer"), Some(Reason::MemberDown)));
    }
    for size in ["3 MiB", "4 MiB"] {
        view.0.decided(decision(TaskKind::Defrag, &format!("done to {size}"), None));
    }
    assert_eq!(shown(&view).decisions.len(), 6);
}
