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
    /// What was ever stored as the window, and at which revision; none: it was deleted.
    stored: Vec<(i64, Option<WindowRecord>)>,
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
            stored: Vec::new(),
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

    /// Somebody puts a window there, or deletes it.
    fn store(&mut self, seconds: u64, window: Option<WindowRecord>) {
        self.stored.push((self.revision(seconds), window.clone()));
        self.window = window;
    }

    /// As etcd's history tells it.
    fn trace(&self, upto: i64) -> Trace {
        let (mut at, mut newest) = (upto, None);
        while at >= self.compacted {
            let on_record = self.stored.iter().rev().find(|(revision, _)| *revision <= at);
            let Some((revision, Some(window))) = on_record else { return Trace::Broken };
            newest = newest.max(window.samples.iter().map(|sample| sample.at).max());
            at = revision - 1;
        }
        newest.map_or(Trace::Broken, Trace::Dated)
    }

    /// The janitor has run since the store began, and compacts every five minutes.
    fn run(&mut self, from: u64, to: u64) {
        for due in (from + 300..=to).step_by(300) {
            self.sample(due - 300, due);
            let _ = self.fire(due);
        }
    }

    /// Its process starts anew, and knows what is on record. The new one's clock has another origin.
    fn restart(&mut self, seconds: u64) {
        self.compactor = Compactor::new(ME, policy(), at(seconds).mono);
        self.sample(seconds, seconds + 300);
    }

    /// Fires at `seconds` and carries out what the plan asks for: the revision compacted to, or why nothing was.
    fn fire(&mut self, seconds: u64) -> Result<i64, String> {
        assert_eq!(self.compactor.due(), Some(Step::Survey));
        let survey = self.survey(seconds);
        let mut step = self.compactor.surveyed(Ok(survey), at(seconds));
        if let Some(Step::Trace(revision)) = step {
            step = self.compactor.traced(revision, Ok(self.trace(revision)));
        }
        match step {
            Some(Step::Compact(revision)) => {
                self.compacted = revision;
                match self.compactor.compacted(Ok("done".to_owned()), at(seconds).mono) {
                    Some(Step::Store(window)) => self.store(seconds, Some(window)),
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
    let restart = |change: &dyn Fn(&mut World)| {
        let mut world = World::new(policy());
        world.run(0, 3 * HOUR);
        change(&mut world);
        world.restart(3 * HOUR);
        (world.fire(3 * HOUR + 300), world)
    };
    let (revision, world) = restart(&|_| {});
    let revision = revision.expect("what the window shows is old enough");
    let allowed = world.revision(2 * HOUR + 300);
    // On record are some fifty samples of two hours.
    assert!(revision <= allowed && revision > allowed - 300, "{revision} at {allowed}");

    restart(&|world| world.window = None).0.expect_err("without a window nothing is known to be old");
    let waits = restart(&|world| world.compacted += 50).0.expect_err("somebody compacted since");
    assert!(waits.contains("watches"), "{waits}");
    restart(&|world| {
        let window = world.window.as_mut().unwrap();
        window.samples = vec![WindowSample { at: at(0).wall, revision: 1_000_000 }];
    })
    .0
    .expect_err("a revision that is not there yet is not believed");
}

/// A window that names every revision up to `revision` as old as the store.
fn forged(compacted: i64, revision: i64) -> Option<WindowRecord> {
    let samples = vec![WindowSample { at: at(0).wall, revision }];
    Some(WindowRecord { v: VERSION, compacted, member: OTHER, samples, extra: Default::default() })
}

type Way = fn(&mut World);

/// Whoever may write under the prefix overwrites it once, again and again, deletes it in between, or comes first.
#[test]
fn another_window_makes_nothing_older() {
    const END: u64 = 3 * HOUR;
    let ways: [(&str, Way); 4] = [
        ("it was written after", |world| {
            world.run(0, END);
            world.store(END + 1, forged(world.compacted, world.revision(END)));
        }),
        ("it was written after", |world| {
            for now in (0..END).step_by(300) {
                world.run(now, now + 300);
                world.store(now + 301, forged(world.compacted, world.revision(now + 300)));
            }
        }),
        ("no unbroken series", |world| {
            for now in (0..END).step_by(300) {
                world.run(now, now + 300);
                world.store(now + 301, None);
            }
            world.store(END + 2, forged(world.compacted, world.revision(END)));
        }),
        ("no unbroken series", |world| world.store(END, forged(-1, world.revision(END)))),
    ];
    for (number, (said, way)) in ways.into_iter().enumerate() {
        let mut world = World::new(policy());
        way(&mut world);
        world.restart(END + 3);
        match world.fire(END + 303) {
            Err(why) => assert!(why.contains(said), "{number}: {why}"),
            Ok(revision) => panic!("{number}: {revision} is as young as {}", world.revision(END)),
        }
        // What it sees itself counts from now on.
        let mut done = 0;
        for due in (END + 600..END + 3 * HOUR).step_by(300) {
            world.sample(due - 300, due);
            if let Ok(revision) = world.fire(due) {
                done += 1;
                assert!(revision <= world.revision(due - HOUR), "{number}: {revision} at {due}");
            }
        }
        assert!(done > 20, "{number}: {done}");
    }
}

/// A rescue keeps less, and nothing that is younger than that either; it learns when there will be something.
#[test]
fn another_window_makes_nothing_older_for_a_rescue() {
    const END: u64 = 3 * HOUR;
    let rescue = |world: &mut World| {
        assert_eq!(world.compactor.due_for_rescue(), Some(Step::Survey));
        let now = at(END + 60);
        let Some(Step::Trace(revision)) = world.compactor.surveyed(Ok(world.survey(END + 60)), now) else {
            panic!("the record alone tells how old anything is");
        };
        (world.compactor.traced(revision, Ok(world.trace(revision))), world.compactor.rescue_possible_at(now))
    };
    let restarted = |forge: bool| {
        let mut world = World::new(policy());
        world.run(0, END);
        if forge {
            world.store(END + 1, forged(world.compacted, world.revision(END)));
        }
        world.compactor = Compactor::new(ME, policy(), at(END).mono);
        world.sample(END, END + 60);
        world
    };
    let mut world = restarted(false);
    let (step, _) = rescue(&mut world);
    let allowed = world.revision(END + 60 - 300);
    assert!(matches!(step, Some(Step::Compact(to)) if to <= allowed && to > allowed - 300), "{step:?} at {allowed}");

    let mut world = restarted(true);
    let (step, possible) = rescue(&mut world);
    assert!(matches!(step, Some(Step::Ended { outcome: Outcome::Skipped(Reason::NotNeeded), .. })), "{step:?}");
    assert_eq!(possible.map(|possible| possible.mono), Some(at(END + 300).mono), "five minutes after it began to look");
}

/// An answer to a question that is not asked any more, and one that etcd did not give.
#[test]
fn a_trace_that_comes_late_or_not_at_all_lets_nothing_go() {
    let mut world = World::new(policy());
    world.run(0, 3 * HOUR);
    world.restart(3 * HOUR);
    let now = at(3 * HOUR + 300);
    world.compactor.due();
    let step = world.compactor.surveyed(Ok(world.survey(3 * HOUR + 300)), now);
    let Some(Step::Trace(revision)) = step else { panic!("{step:?}") };
    assert_eq!(world.compactor.traced(revision - 1, Ok(Trace::Dated(at(0).wall))), None);
    let away = Blocked::new(Reason::EtcdUnavailable, "away");
    let ended = world.compactor.traced(revision, Err(away));
    assert!(matches!(ended, Some(Step::Ended { outcome: Outcome::Skipped(Reason::EtcdUnavailable), .. })), "{ended:?}");
    assert_eq!(world.compactor.traced(revision, Ok(Trace::Dated(at(0).wall))), None);
    assert!(world.fire(3 * HOUR + 301).is_ok(), "the record is asked again");
}

/// A physical compaction of millions of revisions: the clocks were read minutes before the window is stored.
#[test]
fn the_time_a_compaction_takes_makes_no_revision_older_after_a_restart() {
    const LAST: u64 = 3 * HOUR;
    let mut world = World::new(policy());
    world.run(0, LAST - 300);
    world.sample(LAST - 300, LAST);
    assert_eq!(world.compactor.due(), Some(Step::Survey));
    let survey = world.survey(LAST);
    let Some(Step::Compact(compacted)) = world.compactor.surveyed(Ok(survey), at(LAST)) else {
        panic!("there is something to compact");
    };
    world.compacted = compacted;
    world.sample(LAST, LAST + 600);
    let Some(Step::Store(window)) = world.compactor.compacted(Ok(String::new()), at(LAST + 600).mono) else {
        panic!("the window is stored with the compaction");
    };
    world.store(LAST + 600, Some(window));
    world.restart(LAST + 700);
    let revision = world.fire(LAST + 1000).expect("what the window shows is old enough");
    let allowed = world.revision(LAST - HOUR + 1000);
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
