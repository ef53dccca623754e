//! What one janitor does about what it is told, without any etcd.

use super::*;
use crate::plan::cluster::{Listing, Records};
use crate::plan::forecast::Rates;
use crate::plan::rule::Rule;

fn at(seconds: u64) -> Now {
    let wall = chrono::DateTime::from_timestamp(1_800_000_000 + seconds as i64, 0).unwrap();
    Now { mono: Mono::new(Duration::from_secs(1000 + seconds)), wall }
}

fn janitor() -> Janitor {
    let policy = Policy {
        dry_run: false,
        rule: Rule::parse("true").unwrap(),
        quota: None,
        window: Duration::from_secs(3600),
        still_for: Duration::from_secs(10),
        settled_for: Duration::from_secs(10),
        retry_every: Duration::from_secs(30),
        leader_head_start: Duration::ZERO,
        leader_wait: Duration::ZERO,
        drain: Duration::ZERO,
        pause_between: Duration::ZERO,
        timeout: Duration::from_secs(600),
        request_timeout: Duration::from_secs(5),
        lease_ttl: Duration::from_secs(60),
        allow_small_cluster: false,
        allow_unsafe_versions: false,
        liveness_budget: None,
        recorded: Rates::default(),
        verify_hash: false,
        disarm_below: 0.9,
        rescue: true,
    };
    let (name, instance, holder) = ("m1".to_owned(), "one".to_owned(), "pod".to_owned());
    Janitor::new(Me { member: MemberId(1), name, instance, holder }, policy)
}

/// A look while nobody answers.
fn nothing(now: Now) -> Answer {
    let away = Blocked::new(Reason::EtcdUnavailable, "away");
    Answer::Looked(Box::new(Look {
        begun: now,
        listing: Listing::Unknown("nobody answers".to_owned()),
        members: Vec::new(),
        records: Err(away),
        disk: None,
        rights: Ok(()),
    }))
}

#[test]
fn while_etcd_is_away_an_idle_janitor_looks_twice_a_minute() {
    let mut janitor = janitor();
    let mut looks = 0;
    let mut open = Vec::new();
    for second in 0..600 {
        let now = at(second);
        // The watch ends, and is begun again, all the time.
        let event = if second % 5 == 0 { Event::IntentSeen } else { Event::Tick };
        let answers =
            std::mem::take(&mut open).into_iter().map(|ticket| Event::Answered { ticket, answer: nothing(now) });
        for event in answers.chain([event]).collect::<Vec<_>>() {
            for step in janitor.on(event, now) {
                let Step::Do { ticket, action: Action::Look { .. } } = step else { panic!("{step:?}") };
                looks += 1;
                open.push(ticket);
            }
        }
    }
    assert!((15..=20).contains(&looks), "{looks} looks in ten minutes");
}

/// Nothing else tells of it: it would lie there for good.
#[test]
fn an_intent_that_is_written_while_a_look_is_under_way_is_looked_after() {
    for told_meanwhile in [true, false] {
        let mut janitor = janitor();
        let steps = janitor.on(Event::IntentSeen, at(0));
        let [Step::Do { ticket, .. }] = steps[..] else { panic!("{steps:?}") };
        if told_meanwhile {
            assert!(janitor.on(Event::IntentSeen, at(1)).is_empty(), "one look at a time");
        }
        let Answer::Looked(mut look) = nothing(at(0)) else { unreachable!() };
        look.records = Ok(Records::default());
        janitor.on(Event::Answered { ticket, answer: Answer::Looked(look) }, at(2));
        assert_eq!(janitor.wake_at().is_some(), told_meanwhile);
    }
}

#[test]
fn a_round_is_dropped_when_rounds_are_switched_off_and_the_next_one_is_not() {
    for reason in [Reason::DryRun, Reason::Disabled] {
        let mut janitor = janitor();
        let id = |hour: i64| RoundId {
            kind: RoundKind::Cron,
            due: chrono::DateTime::from_timestamp(1_800_000_000 + hour * 3600, 0).unwrap(),
        };
        let ended = |steps: &[Step]| {
            steps.iter().find_map(|step| match step {
                Step::Ended(ended) => Some((ended.round, ended.outcome)),
                _ => None,
            })
        };
        let jitter = Duration::from_secs(60);
        assert_eq!(ended(&janitor.on(Event::Due { round: id(0), jitter }, at(0))), None);
        assert_eq!(ended(&janitor.on(Event::Withdraw(reason), at(10))), Some((id(0), Outcome::Skipped(reason))));
        assert!(janitor.is_idle());
        assert_eq!(ended(&janitor.on(Event::Due { round: id(1), jitter }, at(3600))), None, "switched on again");
        assert!(!janitor.is_idle());
    }
}
