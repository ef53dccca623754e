//! The judge's reasoning on made-up readings: what real members do too seldom
//! or too fast to be had on demand.

use std::time::{Duration, Instant};

use crate::support::History;
use crate::support::history::{Sample, Track};
use crate::support::overlaps::{Class, Deeds, Foreign, Pause, Stood};
use crate::support::rounds::assert_one_at_a_time;
use crate::support::scrape::Metrics;

/// (started, handled, finished, process) as on a member's page, and `None`
/// where the member was silent.
type Reading = Option<(u64, u64, u64, u32)>;

/// Readings of one member, 20 ms apart, each taking 4 ms.
fn track(member: usize, start: Instant, readings: &[Reading]) -> Track {
    let metrics = |(started, handled, finished, process)| Metrics {
        started_defrags: started,
        handled_defrags: handled,
        defrag_count: finished,
        process_start: f64::from(process),
        ..Metrics::default()
    };
    let samples = (0..).zip(readings).map(|(number, reading)| {
        let sent = start + Duration::from_millis(20) * number;
        Sample { sent, received: sent + Duration::from_millis(4), metrics: reading.map(metrics) }
    });
    Track { member, samples: samples.collect() }
}

fn history(tracks: &[&[Reading]]) -> History {
    let started = Instant::now();
    let tracks = tracks.iter().enumerate();
    History {
        started,
        tokens: false,
        tracks: tracks.map(|(member, readings)| track(member, started, readings)).collect(),
    }
}

const IDLE: Reading = Some((0, 0, 0, 1));
const OPEN: Reading = Some((1, 0, 0, 1));
const DONE: Reading = Some((1, 1, 1, 1));

#[test]
fn a_defrag_between_two_readings_is_known_and_accuses_nobody() {
    let history = history(&[&[IDLE, DONE], &[OPEN, OPEN, DONE]]);
    let found = &history.defrags_of(0)[0];
    assert!(!found.seen && found.finished);
    assert!(history.overlaps().is_empty());
    assert_eq!(history.possible_overlaps().len(), 1);
}

/// One call refused between two readings, then a defrag.
fn refused_and_done(tokens: bool) -> History {
    let (refused, open, done) = (Some((1, 1, 0, 1)), Some((2, 1, 0, 1)), Some((2, 2, 1, 1)));
    let mut history = history(&[&[IDLE, refused, open, open, done]]);
    history.tokens = tokens;
    for sample in &mut history.tracks[0].samples[1..] {
        sample.metrics.as_mut().expect("a reading").failed_defrags = 1;
    }
    history
}

#[test]
fn a_call_refused_for_its_token_is_no_defrag() {
    assert_one_at_a_time(&refused_and_done(true), &[0]);
}

#[test]
#[should_panic = "not finished"]
fn a_call_that_failed_for_anything_else_is_one() {
    assert_one_at_a_time(&refused_and_done(false), &[0]);
}

#[test]
fn one_after_the_other_is_no_overlap() {
    let history = history(&[&[OPEN, OPEN, DONE, DONE, DONE], &[IDLE, IDLE, IDLE, IDLE, OPEN]]);
    assert_eq!(history.defrags().len(), 2);
    assert!(history.overlaps().is_empty());
    assert!(history.possible_overlaps().is_empty());
    assert_eq!(history.max_open_anywhere(), 1);
}

#[test]
fn open_at_once_is_an_overlap() {
    let history = history(&[&[OPEN, OPEN, OPEN, DONE], &[IDLE, OPEN, OPEN, OPEN]]);
    assert_eq!(history.overlaps().len(), 1);
    assert_eq!(history.max_open_anywhere(), 2);
}

#[test]
fn queued_calls_are_told_apart_by_the_count_of_finished_ones() {
    let queue = [IDLE, Some((2, 0, 0, 1)), Some((2, 0, 0, 1)), Some((2, 1, 1, 1)), Some((2, 2, 2, 1))];
    let history = history(&[&queue]);
    let found = history.defrags();
    assert_eq!(found.len(), 2, "{history}");
    assert!(found.iter().all(|defrag| defrag.seen && defrag.finished));
    assert_eq!(history.max_open_anywhere(), 2);
}

#[test]
fn a_call_that_is_finished_and_handled_on_two_pages_is_one_defrag() {
    let (returning, uncounted) = (Some((1, 0, 1, 1)), Some((1, 1, 0, 1)));
    for between in [returning, uncounted] {
        for opened in [OPEN, IDLE] {
            let late = history(&[&[IDLE, opened, between, DONE, DONE]]);
            let found = late.defrags();
            assert_eq!(found.len(), 1, "{late}");
            assert!(found[0].finished, "{late}");
        }
    }
}

#[test]
fn a_call_that_starts_late_on_the_page_is_one_defrag() {
    let history = history(&[&[IDLE, Some((0, 1, 1, 1)), DONE, OPEN_AGAIN, OPEN_AGAIN]]);
    assert_eq!(history.defrags().len(), 2, "{history}");
    assert!(history.defrags()[1].seen && !history.defrags()[1].finished, "{history}");
}

const OPEN_AGAIN: Reading = Some((2, 1, 1, 1));

#[test]
fn what_was_before_the_first_reading_is_not_counted() {
    let history = history(&[&[OPEN_AGAIN, OPEN_AGAIN, Some((2, 2, 2, 1))]]);
    assert_eq!(history.defrags().len(), 1, "{history}");
    assert!(history.defrags()[0].finished, "{history}");
}

#[test]
fn a_crash_in_mid_defrag_ends_it_unfinished() {
    let again = [Some((0, 0, 0, 2)), Some((1, 0, 0, 2)), Some((1, 1, 1, 2))];
    let history = history(&[&[IDLE, OPEN, OPEN, None, None, again[0], again[1], again[2]]]);
    let found = history.defrags();
    assert_eq!(found.len(), 2, "{history}");
    assert!(found[0].seen && !found[0].finished);
    assert!(found[1].seen && found[1].finished);
    assert_eq!(history.gaps().len(), 1);
}

#[test]
fn silence_in_mid_defrag_is_bridged_by_the_counters() {
    let history = history(&[&[IDLE, OPEN, None, None, OPEN, DONE], &[IDLE, IDLE, OPEN, OPEN, DONE]]);
    assert_eq!(history.defrags().len(), 2, "{history}");
    assert_eq!(history.overlaps().len(), 1, "{history}");
}

#[test]
fn a_refused_call_is_no_finished_defrag() {
    // Started and handled with an error: etcd counts no duration for it.
    let handled = Some((1, 1, 0, 1));
    let mut refused = history(&[&[IDLE, OPEN, handled, Some((2, 1, 0, 1)), Some((2, 2, 1, 1))]]);
    for sample in &mut refused.tracks[0].samples[2..] {
        sample.metrics.as_mut().expect("a reading").failed_defrags = 1;
    }
    let finished: Vec<_> = refused.defrags().iter().map(|defrag| defrag.finished).collect();
    assert_eq!(finished, [false, true], "{refused}");
}

/// The second member's defrag begins two seconds after the first one's, and
/// they overlap for a second.
fn overlap() -> History {
    let first = [[OPEN; 150].as_slice(), &[DONE; 100]].concat();
    let second = [[IDLE; 100].as_slice(), &[OPEN; 100], &[DONE; 50]].concat();
    history(&[&first, &second])
}

/// With an intent of the second member that is there from the beginning and is given up after a second and a half.
fn class_of(history: &History, foreign: Vec<Foreign>, pauses: Vec<Pause>) -> Class {
    let given_up = history.started + Duration::from_millis(1500);
    class_with(history, foreign, pauses, vec![Stood { member: 1, from: history.started, to: given_up }])
}

fn class_with(history: &History, foreign: Vec<Foreign>, pauses: Vec<Pause>, intents: Vec<Stood>) -> Class {
    let deeds = Deeds { foreign, pauses, intents, lease_ttl: Duration::from_secs(1) };
    let classes = deeds.overlaps(history);
    assert_eq!(classes.values().map(Vec::len).sum::<usize>(), 1, "{history}");
    *classes.keys().next().expect("an overlap")
}

#[test]
fn an_overlap_of_two_janitors_is_unexplained() {
    assert_eq!(class_of(&overlap(), Vec::new(), Vec::new()), Class::Unexplained);
}

#[test]
fn a_foreign_defrag_explains_an_overlap_only_when_no_look_could_show_it() {
    let history = overlap();
    let foreign = |member| vec![Foreign { member, called: history.started, returned: None }];
    assert_eq!(class_of(&history, foreign(1), Vec::new()), Class::ForeignAfterLook);
    // The first was open for two seconds when a janitor sent the second.
    assert_eq!(class_of(&history, foreign(0), Vec::new()), Class::Unexplained);
    assert_eq!(class_of(&history, [foreign(0), foreign(1)].concat(), Vec::new()), Class::ForeignBoth);
    let over = Foreign { member: 1, called: history.started, returned: Some(history.started) };
    assert_eq!(class_of(&history, vec![over], Vec::new()), Class::Unexplained);
}

#[test]
fn a_pause_explains_an_overlap_only_when_it_outlives_a_lease_and_ends_with_the_send() {
    let history = overlap();
    let at = |millis| history.started + Duration::from_millis(millis);
    let pause = |member, from, to| vec![Pause { member, from: at(from), to: at(to) }];
    assert_eq!(class_of(&history, Vec::new(), pause(1, 500, 1900)), Class::PauseInWindow);
    assert_eq!(class_of(&history, Vec::new(), pause(1, 1500, 1900)), Class::Unexplained);
    assert_eq!(class_of(&history, Vec::new(), pause(0, 500, 1900)), Class::Unexplained);
    assert_eq!(class_of(&history, Vec::new(), pause(1, 2500, 4000)), Class::Unexplained);
}

#[test]
fn a_pause_explains_an_overlap_only_when_the_intent_was_given_up_in_it() {
    let history = overlap();
    let at = |millis| history.started + Duration::from_millis(millis);
    let pause = || vec![Pause { member: 1, from: at(500), to: at(1900) }];
    let intent = |member, from, to| vec![Stood { member, from: at(from), to: at(to) }];
    let class = |intents| class_with(&history, Vec::new(), pause(), intents);
    assert_eq!(class(intent(1, 400, 1800)), Class::PauseInWindow);
    assert_eq!(class(Vec::new()), Class::Unexplained);
    assert_eq!(class(intent(0, 400, 1800)), Class::Unexplained, "of another member");
    assert_eq!(class(intent(1, 600, 1800)), Class::Unexplained, "written while it stood still");
    assert_eq!(class(intent(1, 100, 400)), Class::Unexplained, "of an earlier round");
    assert_eq!(class(intent(1, 400, 3000)), Class::Unexplained, "still there when the call came");
}
