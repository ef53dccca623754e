//! Rounds as an operator knows them: when they are due, what a janitor says of
//! them, and whether etcd agrees.

use std::time::Duration;

use serde_json::Value;

use super::{Defrag, History, Janitor, eventually};

/// These rounds rest a second between two members.
const HALF_A_PAUSE: Duration = Duration::from_millis(500);

/// A schedule that is due half a year from now and was half a year ago.
pub fn not_due() -> String {
    let due = chrono::Utc::now() + chrono::TimeDelta::days(182);
    due.format("0 0 0 %-d %-m *").to_string()
}

/// Waits until a janitor's first round has ended: outcome and reason.
pub async fn first_round(janitor: &Janitor, limit: Duration) -> (String, Option<String>) {
    eventually("the round ends", limit, || async {
        let (_, outcome, reason) = janitor.rounds().into_iter().next()?;
        Some((outcome, reason))
    })
    .await
}

/// Waits until every janitor's first round is done.
pub async fn all_done(janitors: &[Janitor], limit: Duration) {
    for janitor in janitors {
        let (outcome, reason) = first_round(janitor, limit).await;
        assert_eq!(outcome, "done", "{reason:?}\n{}", janitor.log_tail(20));
    }
}

/// Waits until the janitor says this of itself at /api/v1/status.
pub async fn says(janitor: &Janitor, what: &str, limit: Duration, holds: impl Fn(&Value) -> bool) {
    eventually(what, limit, || async { holds(&janitor.status().await).then_some(()) }).await;
}

/// Waits until the janitor says that nothing at all can be done, and why.
pub async fn says_problem(janitor: &Janitor, reason: &str, limit: Duration) {
    says(janitor, reason, limit, |status| status["problem"]["reason"] == reason).await;
}

/// Waits until the janitor knows its member and all others.
pub async fn knows_all(janitor: &Janitor, members: usize) {
    let limit = Duration::from_secs(20);
    says(janitor, "the janitor has seen every member", limit, |status| {
        let seen = status["members"].as_array();
        let seen = seen.map(|all| all.iter().filter(|member| !member["seen_at"].is_null()).count());
        status["etcd_up"] == true && seen == Some(members)
    })
    .await;
}

/// What the defrag of a janitor's member waits for.
pub fn waits_for(status: &Value) -> Option<&str> {
    let mut tasks = status["tasks"].as_array()?.iter();
    tasks.find(|task| task["task"] == "defrag")?["waiting_for"]["reason"].as_str()
}

/// What no round may ever show.
pub fn assert_in_turns(history: &History) {
    let overlaps = history.overlaps();
    assert!(overlaps.is_empty(), "overlaps {overlaps:?}\n{history}");
    // What may have been one where the judge was kept from looking for longer
    // than half the pause between two members accuses nobody.
    let blind = |defrag: &Defrag| (defrag.from - defrag.earliest).max(defrag.latest - defrag.to) > HALF_A_PAUSE;
    let mut possible = history.possible_overlaps();
    possible.retain(|(one, other)| !blind(one) && !blind(other) && one.seen && other.seen);
    assert!(possible.is_empty(), "possible overlaps {possible:?}\n{history}");
    let open = history.max_open_anywhere();
    assert!(open <= 1, "{open} open at once\n{history}");
    if history.tracks.len() > 1 {
        let leaders = history.began_on_leaders();
        assert!(leaders.is_empty(), "began on leaders: {leaders:?}\n{history}");
    }
}

/// As etcd saw it: each of these members once, one at a time, never one that
/// leads, no lease of anybody lost.
pub fn assert_one_at_a_time(history: &History, members: &[usize]) {
    let mut defrags = history.defrags();
    // A call whose token had expired since the look is refused; another look and another call follow. It is over before
    // anybody can see it open.
    defrags.retain(|defrag| defrag.seen || defrag.finished || !history.tokens);
    let mut defragmented: Vec<usize> = defrags.iter().map(|defrag| defrag.member).collect();
    defragmented.sort();
    assert_eq!(defragmented, members, "{history}");
    assert!(defrags.iter().all(|defrag| defrag.finished), "{history}");
    assert_in_turns(history);
    if history.tracks.len() > 1 {
        // One that may have begun on a leader is judged above: both are taken from the same reading.
        assert!(history.defrags().iter().all(|defrag| !defrag.led_during || defrag.was_leader_at_start), "{history}");
    }
    assert_eq!(history.leases_expired(), 0, "{history}");
}
