//! The checks. Each of them can fail, and one that fails is the exit code.

use super::screen::{Screen, mib};
use super::show::{MEMBERS, Show};
use super::support::Defrag;

pub struct Check {
    ok: bool,
    what: &'static str,
    detail: String,
}

impl Check {
    pub fn new(ok: bool, what: &'static str, detail: String) -> Self {
        Self { ok, what, detail }
    }
}

/// All but whether the janitors end well, which shows only when they do.
pub async fn checks(show: &Show) -> Vec<Check> {
    vec![
        cron(show),
        compaction(show),
        once_each(show),
        sizes(show),
        overlap(show),
        no_leader(show),
        leadership(show),
        leases(show),
        hashes(show),
        data(show),
        nothing_left(show),
        counted(show).await,
    ]
}

pub fn list(screen: &Screen, checks: &[Check]) {
    for check in checks {
        let word = if check.ok { screen.good("✓ ok    ") } else { screen.bad("✗ FAILED") };
        screen.line(&format!("  {word}  {}: {}", check.what, check.detail));
    }
}

/// True when all are good.
pub fn sum(screen: &Screen, checks: &[Check]) -> bool {
    let failed = checks.iter().filter(|check| !check.ok).count();
    let seconds = screen.elapsed().as_secs();
    screen.line(&if failed == 0 {
        format!("\n{} {} of {} checks, {seconds} s", screen.good("PASSED"), checks.len(), checks.len())
    } else {
        format!("\n{} {failed} of {} checks, {seconds} s", screen.bad("FAILED"), checks.len())
    });
    failed == 0
}

fn cron(show: &Show) -> Check {
    let wanted = format!("cron-{}", show.due.format("%Y%m%dT%H%M%SZ"));
    let mut late = Vec::new();
    let mut wrong = Vec::new();
    for (index, janitor) in show.janitors.iter().enumerate() {
        let events = janitor.events();
        let fired = events.iter().find(|event| event["message"] == "the round is due" && event["round"] == *wanted);
        let at = fired.and_then(|event| event["timestamp"].as_str()?.parse::<chrono::DateTime<chrono::Utc>>().ok());
        match at {
            // A firing that was caught up would come later, or too early to be one.
            Some(at) => {
                // The schedule knows whole seconds.
                let after = (at.timestamp_millis() - show.due.timestamp() * 1000).abs();
                late.push(after);
                if after > 2000 {
                    wrong.push(format!("m{index}'s {after} ms off"));
                }
            }
            None => wrong.push(format!("m{index}'s not at all")),
        }
    }
    let ok = wrong.is_empty();
    let detail = match ok {
        true => format!("{wanted} on each, {} ms after the full second at most", late.iter().max().unwrap_or(&0)),
        false => wrong.join(", "),
    };
    Check::new(ok, "cron fired on every janitor", detail)
}

fn compaction(show: &Show) -> Check {
    let done = |event: &serde_json::Value| event["task"] == "compaction" && event["outcome"] == "done";
    let runs: usize = show.janitors.iter().map(|janitor| janitor.events().iter().filter(|e| done(e)).count()).sum();
    let written = show.written_to;
    let (ok, detail) = match &show.compacted_to {
        Ok(to) => {
            (*to >= written && runs > 0, format!("etcd is compacted to {to}, written to {written}, {runs} run(s)"))
        }
        Err(error) => (false, error.clone()),
    };
    Check::new(ok, "the janitors compacted all that is older than the retention", detail)
}

fn once_each(show: &Show) -> Check {
    let of = |index| show.history.defrags_of(index);
    let ok = (0..MEMBERS).all(|index| of(index).len() == 1 && of(index).iter().all(|defrag| defrag.finished));
    let counts: Vec<String> = (0..MEMBERS).map(|index| format!("m{index} {}", of(index).len())).collect();
    let mut detail = counts.join(", ");
    for (index, janitor) in show.janitors.iter().enumerate() {
        match janitor.rounds().last() {
            Some((_, outcome, _)) if outcome == "done" => {}
            Some((_, outcome, reason)) => {
                detail += &format!("; m{index}'s round: {outcome} {}", reason.as_deref().unwrap_or_default());
            }
            None => detail += &format!("; m{index}'s round is not over"),
        }
    }
    Check::new(ok && !detail.contains(';'), "every member was defragmented once", detail)
}

fn sizes(show: &Show) -> Check {
    let pairs = || show.before.iter().zip(&show.after);
    let ok = pairs().all(|(before, after)| after.db_size < before.db_size / 2);
    let sum = |values: Vec<u64>| values.iter().sum::<u64>();
    let before = sum(pairs().map(|(before, _)| before.db_size).collect());
    let after = sum(pairs().map(|(_, after)| after.db_size).collect());
    Check::new(ok, "every file fell to less than half", format!("{} in all, now {}", mib(before), mib(after)))
}

/// A call may be shorter than the judge's interval, so what he cannot tell
/// apart counts against us.
fn overlap(show: &Show) -> Check {
    let (most, pairs) = (show.history.max_open_anywhere(), show.history.possible_overlaps());
    let detail = match pairs.first() {
        None if most <= 1 => {
            let gap = smallest_gap(&show.history.defrags());
            let gap = gap.map_or_else(String::new, |gap| format!(", {:.1} s apart at least", gap.as_secs_f64()));
            format!("at most {most} Defragment open at one instant{gap}")
        }
        None => format!("{most} Defragment calls open at one instant"),
        Some((a, b)) => format!("m{} and m{} together; {most} open at one instant", a.member, b.member),
    };
    Check::new(most <= 1 && pairs.is_empty(), "nobody overlapped", detail)
}

fn smallest_gap(defrags: &[Defrag]) -> Option<std::time::Duration> {
    let gaps = defrags.windows(2).map(|pair| pair[1].earliest.saturating_duration_since(pair[0].latest));
    gaps.min()
}

fn no_leader(show: &Show) -> Check {
    let defrags = show.history.defrags();
    let led: Vec<_> = defrags.iter().filter(|d| d.was_leader_at_start || d.led_during).collect();
    let detail = match led.first() {
        None => format!("{} of {} as follower", defrags.len(), defrags.len()),
        Some(defrag) => format!("m{} led while it was defragmented", defrag.member),
    };
    Check::new(led.is_empty() && !defrags.is_empty(), "none was sent to a leader", detail)
}

fn leadership(show: &Show) -> Check {
    let old = show.leader_before;
    let what = "leadership moved before the leader's turn";
    let Some(own) = show.history.defrags_of(old).into_iter().next() else {
        return Check::new(false, what, format!("m{old} led and had no turn"));
    };
    let reigns = show.history.leadership();
    // A reading takes its time, so who led is asked of both: the member itself did not, beside its turn, and by the
    // end of its turn another one did.
    let reign = reigns.iter().find(|reign| reign.member != old && reign.from < own.to && reign.to > own.from);
    let Some(reign) = reign.filter(|_| !own.was_leader_at_start && !own.led_during) else {
        return Check::new(false, what, format!("m{old} led, or nobody did, when m{old} was defragmented"));
    };
    let to = reign.member;
    let before = own.from.saturating_duration_since(reign.from).as_secs_f64();
    let done = show.history.defrags_of(to).iter().any(|defrag| defrag.latest < reign.from);
    let detail = format!(
        "from m{old} to m{to}, {} in this round, {before:.1} s before m{old}'s turn",
        if done { "already done" } else { "NOT YET DONE" }
    );
    Check::new(done, what, detail)
}

fn leases(show: &Show) -> Check {
    let (expired, held) = (show.history.leases_expired(), &show.lease);
    let detail = format!(
        "{expired} by etcd's counters; an application's of 5 s was {}, its longest silence {:.1} s",
        if held.lost { "LOST" } else { "kept" },
        held.longest_silence.as_secs_f64()
    );
    Check::new(expired == 0 && !held.lost, "no lease expired", detail)
}

fn hashes(show: &Show) -> Check {
    let detail = show.hashes.clone().map_or_else(|why| why, |()| format!("{MEMBERS} of {MEMBERS}"));
    Check::new(show.hashes.is_ok(), "HashKV is equal on all members", detail)
}

fn data(show: &Show) -> Check {
    let (before, after) = &show.data;
    let same = before.iter().filter(|entry| after.contains(entry)).count();
    let ok = before == after && !before.is_empty();
    Check::new(ok, "every key has its last version", format!("{same} of {} keys", before.len()))
}

fn nothing_left(show: &Show) -> Check {
    let (ok, detail) = match &show.left_behind {
        Ok(keys) if keys.is_empty() => (true, "none".to_owned()),
        Ok(keys) => (false, keys.join(", ")),
        Err(error) => (false, error.clone()),
    };
    Check::new(ok, "no turn and no intent is left in etcd", detail)
}

async fn counted(show: &Show) -> Check {
    let mut counts = Vec::new();
    for janitor in &show.janitors {
        counts.push(janitor.metric("etcd_janitor_task_runs_total{outcome=\"done\",task=\"defrag\"}").await);
    }
    let ok = counts.iter().all(|count| *count == Some(1.0));
    let shown: Vec<String> =
        counts.iter().map(|count| count.map_or_else(|| "absent".to_owned(), |count| count.to_string())).collect();
    Check::new(ok, "/metrics counts one defrag done on every janitor", shown.join(", "))
}
