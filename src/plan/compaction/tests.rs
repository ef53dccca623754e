//! The plan of compactions, driven through hours in no time.

use chrono::DateTime;

use super::*;
use crate::plan::record::WindowSample;

const HOUR: u64 = 3600;
const ME: MemberId = MemberId(2);
const OTHER: MemberId = MemberId(1);

fn at(seconds: u64) -> Now {
    let wall = DateTime::from_timestamp(1_800_000_000 + seconds as i64, 0).unwrap();
    Now { mono: Mono::new(Duration::from_secs(100 * HOUR + seconds)), wall }
}

fn policy() -> Policy {
    Policy {
        keep: Keep::Age(Duration::from_secs(HOUR)),
        dry_run: false,
        force_beside_others: false,
        force_kubernetes: false,
        rescue_retention: Duration::from_secs(300),
        rescue_to_head: false,
    }
}

/// A store that gets one revision a second, and what a janitor reads of it.
struct World {
    compactor: Compactor,
    leader: MemberId,
    compacted: i64,
    window: Option<WindowRecord>,
    kubernetes: bool,
    writes_until: u64,
    revisions_from: i64,
}

impl World {
    fn new(policy: Policy) -> Self {
        let compactor = Compactor::new(ME, policy, at(0).mono);
        World {
            compactor,
            leader: ME,
            compacted: -1,
            window: None,
            kubernetes: false,
            writes_until: u64::MAX,
            revisions_from: 1000,
        }
    }

    fn revision(&self, seconds: u64) -> i64 {
        self.revisions_from + seconds.min(self.writes_until) as i64
    }

    fn sample(&mut self, from: u64, to: u64) {
        for second in (from..to).step_by(15) {
            let revision = self.revision(second);
            self.compactor.sample(revision, at(second).mono);
        }
    }

    fn survey(&self, seconds: u64) -> Survey {
        Survey {
            leader: Some(self.leader),
            voters: vec![OTHER, ME, MemberId(3)],
            learner: false,
            corrupt: false,
            revision: self.revision(seconds),
            compact_revision: Some(self.compacted),
            kubernetes: self.kubernetes,
            window: self.window.clone(),
            hold: None,
            cluster_time: ClusterTime::median(at(seconds).mono, vec![at(seconds).wall; 3], 3),
        }
    }

    /// Fires at `seconds` and carries out what the plan asks for: the revision compacted to, or why nothing was.
    fn fire(&mut self, seconds: u64) -> Result<i64, String> {
        assert_eq!(self.compactor.due(), Some(Step::Survey));
        let survey = self.survey(seconds);
        match self.compactor.surveyed(Ok(survey), at(seconds)) {
            Some(Step::Compact(revision)) => {
                self.compacted = revision;
                match self.compactor.compacted(Ok("done".to_owned()), at(seconds).mono) {
                    Some(Step::Store(window)) => self.window = Some(window),
                    other => panic!("{other:?}"),
                }
                assert!(matches!(self.compactor.stored(), Some(Step::Ended { outcome: Outcome::Done, .. })));
                Ok(revision)
            }
            Some(Step::Ended { detail, .. }) => Err(detail),
            None => Err("waits".to_owned()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nothing_younger_than_the_retention_is_compacted_and_what_is_older_is() {
    let mut world = World::new(policy());
    let mut done = 0;
    for round in 1..40 {
        let now = round * 300;
        world.sample(now - 300, now);
        if let Ok(revision) = world.fire(now) {
            done += 1;
            let allowed = world.revision(now - HOUR);
            assert!(revision <= allowed, "{revision} is younger than an hour at {now}");
            assert!(revision > allowed - 60, "{revision} could have been nearer to {allowed}");
        } else {
            assert!(now <= HOUR + 300, "at {now}");
        }
    }
    assert!(done > 20);
}

#[test]
fn after_a_restart_the_stored_window_counts_and_no_more() {
    let mut before = World::new(policy());
    before.sample(0, 2 * HOUR);
    before.fire(2 * HOUR).unwrap();
    let restart = |change: &dyn Fn(&mut World)| {
        let mut world = World::new(policy());
        (world.compacted, world.window) = (before.compacted, before.window.clone());
        change(&mut world);
        // The new process's own clock has another origin; ages come from the members' clocks.
        world.compactor = Compactor::new(ME, policy(), at(2 * HOUR + 300).mono);
        world.sample(2 * HOUR + 300, 2 * HOUR + 600);
        world.fire(2 * HOUR + 600)
    };
    let revision = restart(&|_| {}).expect("what the window shows is old enough");
    assert!(revision <= before.revision(HOUR + 600) && revision > before.compacted);

    restart(&|world| world.window = None).expect_err("without a window nothing is known to be old");
    let waits = restart(&|world| world.compacted += 50).expect_err("somebody compacted since");
    assert!(waits.contains("watches"), "{waits}");
    restart(&|world| {
        let window = world.window.as_mut().unwrap();
        window.samples = vec![WindowSample { at: at(0).wall, revision: 1_000_000 }];
    })
    .expect_err("a revision that is not there yet is not believed");
}

/// A physical compaction of millions of revisions: the clocks were read minutes before the window is stored.
#[test]
fn the_time_a_compaction_takes_makes_no_revision_older_after_a_restart() {
    let mut before = World::new(policy());
    before.sample(0, 2 * HOUR);
    assert_eq!(before.compactor.due(), Some(Step::Survey));
    let survey = before.survey(2 * HOUR);
    let Some(Step::Compact(compacted)) = before.compactor.surveyed(Ok(survey), at(2 * HOUR)) else {
        panic!("there is something to compact");
    };
    before.sample(2 * HOUR, 2 * HOUR + 600);
    let Some(Step::Store(window)) = before.compactor.compacted(Ok(String::new()), at(2 * HOUR + 600).mono) else {
        panic!("the window is stored with the compaction");
    };
    let mut world = World::new(policy());
    (world.compacted, world.window) = (compacted, Some(window));
    world.compactor = Compactor::new(ME, policy(), at(2 * HOUR + 700).mono);
    world.sample(2 * HOUR + 700, 2 * HOUR + 1200);
    let revision = world.fire(2 * HOUR + 1200).expect("what the window shows is old enough");
    let allowed = world.revision(HOUR + 1200);
    assert!(revision <= allowed && revision > allowed - 300, "{revision} at {allowed}");
}

#[test]
fn a_follower_waits_and_finds_the_work_done() {
    let mut world = World::new(policy());
    world.leader = OTHER;
    world.sample(0, 2 * HOUR);
    assert_eq!(world.fire(2 * HOUR), Err("waits".to_owned()));
    let until = world.compactor.wake_at().unwrap();
    assert_eq!(until.since(at(2 * HOUR).mono), Duration::from_secs(60), "the first follower waits a minute");
    assert_eq!(world.compactor.tick(until), Some(Step::Survey));
    let mut survey = world.survey(2 * HOUR + 60);
    let target = world.revision(HOUR);
    survey.compact_revision = Some(target);
    survey.window =
        Some(WindowRecord { v: VERSION, compacted: target, member: OTHER, samples: vec![], extra: Default::default() });
    let ended = world.compactor.surveyed(Ok(survey), at(2 * HOUR + 60));
    assert!(matches!(ended, Some(Step::Ended { outcome: Outcome::Skipped(Reason::NotNeeded), .. })), "{ended:?}");
}

/// Under constant writes each janitor's samples name another revision: the leader's a few less than the follower's.
#[test]
fn a_follower_whose_samples_name_more_does_not_compact_what_the_leader_left() {
    let mut world = World::new(policy());
    world.leader = OTHER;
    world.sample(0, 2 * HOUR);
    for firing in 0..12 {
        let due = 2 * HOUR + firing * 300;
        // Some followers look before the leader has compacted, some after.
        let early = firing % 2 == 0;
        if early {
            assert_eq!(world.fire(due), Err("waits".to_owned()));
        }
        world.compacted = world.revision(due - HOUR) - 12;
        let compacted = world.compacted;
        world.window =
            Some(WindowRecord { v: VERSION, compacted, member: OTHER, samples: vec![], extra: Default::default() });
        if !early {
            assert_eq!(world.fire(due), Err("waits".to_owned()));
        }
        world.sample(due, due + 60);
        let until = world.compactor.wake_at().unwrap();
        assert_eq!(world.compactor.tick(until), Some(Step::Survey));
        let ended = world.compactor.surveyed(Ok(world.survey(due + 60)), at(due + 60));
        assert!(matches!(ended, Some(Step::Ended { outcome: Outcome::Skipped(Reason::NotNeeded), .. })), "{ended:?}");
        world.sample(due + 60, due + 300);
    }
    // The leader's janitor is gone.
    let due = 3 * HOUR;
    assert_eq!(world.fire(due), Err("waits".to_owned()));
    let until = world.compactor.wake_at().unwrap();
    world.compactor.tick(until);
    let step = world.compactor.surveyed(Ok(world.survey(due + 60)), at(due + 60));
    assert!(matches!(step, Some(Step::Compact(_))), "{step:?}");
}

#[test]
fn a_follower_compacts_when_nobody_did() {
    let mut world = World::new(policy());
    world.leader = OTHER;
    world.sample(0, 2 * HOUR);
    assert_eq!(world.fire(2 * HOUR), Err("waits".to_owned()));
    let until = world.compactor.wake_at().unwrap();
    world.compactor.tick(until);
    let survey = world.survey(2 * HOUR + 60);
    assert!(matches!(world.compactor.surveyed(Ok(survey), at(2 * HOUR + 60)), Some(Step::Compact(_))));
}

#[test]
fn a_foreign_compactor_is_left_alone_unless_forced() {
    for force in [false, true] {
        let mut world = World::new(Policy { force_beside_others: force, ..policy() });
        world.sample(0, 2 * HOUR);
        let first = world.fire(2 * HOUR).unwrap();
        // etcd's own compactor moves on, and no window says why.
        world.compacted = first + 100;
        world.sample(2 * HOUR, 2 * HOUR + 600);
        let second = world.fire(2 * HOUR + 600);
        world.sample(2 * HOUR + 600, 2 * HOUR + 900);
        let third = world.fire(2 * HOUR + 900);
        if force {
            assert!(second.is_ok() && third.is_ok(), "{second:?} {third:?}");
        } else {
            assert!(second.unwrap_err().contains("who compacted"));
            assert!(third.unwrap_err().contains("somebody else compacts"));
        }
    }
}

#[test]
fn who_else_compacts_is_known_when_it_was_watched_and_not_before() {
    let mut world = World::new(policy());
    assert_eq!(world.compactor.others(at(0).mono), None, "nothing was surveyed");
    let fire = |world: &mut World, seconds: u64| {
        let _ = world.fire(seconds);
        world.compactor.others(at(seconds).mono)
    };
    assert_eq!(fire(&mut world, 60), Some(OthersCompact::Watching));
    assert_eq!(fire(&mut world, HOUR + 60), Some(OthersCompact::Nobody));
    // Time that passes without a survey is not watched.
    let mut late = World::new(policy());
    assert_eq!(fire(&mut late, 60), Some(OthersCompact::Watching));
    assert_eq!(late.compactor.others(at(9 * HOUR).mono), Some(OthersCompact::Watching));
    world.compacted = 4000;
    assert_eq!(fire(&mut world, HOUR + 120), Some(OthersCompact::Suspected));
    assert_eq!(fire(&mut world, HOUR + 180), Some(OthersCompact::Somebody));
    world.compactor.due();
    world.compactor.surveyed(Err(Blocked::new(Reason::EtcdUnavailable, "away")), at(HOUR + 240));
    assert_eq!(world.compactor.others(at(HOUR + 240).mono), None, "the newest survey failed");
}

#[test]
fn a_kube_apiservers_keyspace_is_left_alone_unless_forced() {
    for force in [false, true] {
        let mut world = World::new(Policy { force_kubernetes: force, ..policy() });
        world.kubernetes = true;
        world.sample(0, 2 * HOUR);
        assert_eq!(world.fire(2 * HOUR).is_ok(), force);
    }
}

/// Hours of a store that only janitors write to, then a write of somebody else.
#[test]
fn the_window_of_the_last_compaction_is_no_reason_for_another() {
    let mut world = World::new(policy());
    let (mut revision, mut sent) = (100, Vec::new());
    for minute in 0..600 {
        if minute == 360 {
            revision += 1;
        }
        let now = at(minute * 60);
        world.compactor.sample(revision, now.mono);
        assert_eq!(world.compactor.due(), Some(Step::Survey));
        let mut survey = world.survey(minute * 60);
        survey.revision = revision;
        if let Some(Step::Compact(target)) = world.compactor.surveyed(Ok(survey), now) {
            world.compacted = target;
            sent.push((minute, target));
            let Some(Step::Store(window)) = world.compactor.compacted(Ok(String::new()), now.mono) else {
                panic!("the window is stored with the compaction");
            };
            world.window = Some(window);
            world.compactor.stored();
            // Storing the window is a revision of our own, seen by the watch.
            revision += 1;
            world.compactor.own_revisions(&[revision]);
        }
    }
    assert_eq!(sent, [(60, 100), (420, 102)], "the window at 101, the other write at 102");
}

#[test]
fn the_newest_revisions_are_kept_in_revision_mode() {
    let mut world = World::new(Policy { keep: Keep::Newest(500), ..policy() });
    world.sample(0, HOUR);
    assert_eq!(world.fire(HOUR), Ok(world.revision(HOUR) - 500));
}

/// The backup is two hours old and has the same ids; its revisions are given again.
#[test]
fn after_a_restore_from_a_backup_compactions_go_on_and_keep_what_is_young() {
    let mut world = World::new(policy());
    world.sample(0, 3 * HOUR);
    let sent = world.fire(3 * HOUR).expect("there is something to compact");
    let now = 3 * HOUR + 15;
    (world.revisions_from, world.compacted, world.window) = (1000 - now as i64, 1, None);
    assert!(world.revision(now) < sent);
    let mut done = 0;
    for round in 1..36 {
        let later = now + round * 300;
        world.sample(later - 300, later);
        if let Ok(revision) = world.fire(later) {
            done += 1;
            assert!(revision <= world.revision(later - HOUR), "{revision} is younger than an hour");
            assert!(later - now >= HOUR);
        }
    }
    assert!(done > 20, "{done}");
}

#[test]
fn in_revision_mode_the_window_of_the_last_compaction_is_no_reason_for_another() {
    let mut world = World::new(Policy { keep: Keep::Newest(500), force_beside_others: true, ..policy() });
    let (mut revision, mut sent) = (2000, Vec::new());
    for minute in 0..60 {
        let now = at(minute * 60);
        assert_eq!(world.compactor.due(), Some(Step::Survey));
        let mut survey = world.survey(minute * 60);
        survey.revision = revision;
        if let Some(Step::Compact(target)) = world.compactor.surveyed(Ok(survey), now) {
            (world.compacted, sent) = (target, [sent, vec![target]].concat());
            world.compactor.compacted(Ok(String::new()), now.mono);
            world.compactor.stored();
            revision += 1;
            world.compactor.own_revisions(&[revision]);
        }
    }
    assert_eq!(sent, [1500]);
}
