//! What a sceptical operator wants to see, from etcd's own figures.

use std::time::Instant;

use super::screen::{Screen, mib, table};
use super::show::{MEMBERS, Show};
use super::verdict::{self, Check};

/// Shows it and judges it.
pub async fn report(screen: &Screen, show: &Show) -> Vec<Check> {
    sizes(screen, show);
    order(screen, show);
    status(screen, show).await;
    metrics(screen, show).await;
    urls(screen, show);
    screen.heading("Verdict");
    verdict::checks(show).await
}

fn sizes(screen: &Screen, show: &Show) {
    screen.heading("Sizes, from each member's own /metrics");
    let head = ["MEMBER", "BEFORE", "IN USE", "AFTER", "IN USE", "FREED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (index, (before, after)) in show.before.iter().zip(&show.after).enumerate() {
        rows.push(vec![
            format!("m{index}"),
            mib(before.db_size),
            mib(before.db_in_use),
            mib(after.db_size),
            mib(after.db_in_use),
            mib(before.db_size.saturating_sub(after.db_size)),
        ]);
    }
    table(screen, &rows);
}

/// Defrags and changes of leadership in the order of time, as the judge saw
/// them; it asks nobody but etcd.
fn order(screen: &Screen, show: &Show) {
    screen.heading("Who went when, from etcd's own counters, read by an outside judge");
    let mut lines: Vec<(Instant, String)> = Vec::new();
    for defrag in show.history.defrags() {
        let length = (defrag.latest - defrag.earliest).as_millis();
        let role = if defrag.was_leader_at_start || defrag.led_during { "AS LEADER" } else { "as follower" };
        let end = if defrag.finished { "" } else { ", not finished" };
        lines.push((defrag.from, format!("m{} defragmented {role}, in {length} ms at most{end}", defrag.member)));
    }
    let mut leader = None;
    for reign in show.history.leadership() {
        let text = match leader {
            None => format!("m{} leads", reign.member),
            Some(old) => format!("leadership moved from m{old} to m{}", reign.member),
        };
        leader = Some(reign.member);
        lines.push((reign.from, text));
    }
    lines.sort();
    for (at, text) in lines {
        screen.line(&format!("  {}  {text}", screen.clock(at)));
    }
    let readings: usize = show.history.tracks.iter().map(|track| track.samples.len()).sum();
    screen.line(&format!(
        "  most Defragment calls open at one instant, all members together: {}   ({readings} readings)",
        show.history.max_open_anywhere()
    ));
}

async fn status(screen: &Screen, show: &Show) {
    screen.heading(&format!("etcd-janitor status, beside m{}", show.leader_before));
    let output = show.janitors[show.leader_before].command(&["status"]).await;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        screen.line(format!("  {line}").trim_end());
    }
}

/// Series that say what happened; the page has many more.
const EXCERPT: [&str; 9] = [
    "etcd_janitor_task_runs_total{outcome=\"done\"",
    "etcd_janitor_defrag_reclaimed_bytes_total",
    "etcd_janitor_compaction_revision",
    "etcd_janitor_turn_held",
    "etcd_janitor_turn_lost_total",
    "etcd_janitor_turn_wait_seconds_sum",
    "etcd_janitor_look_to_send_seconds_sum",
    "etcd_janitor_look_to_send_seconds_count",
    "etcd_janitor_task_next_run_timestamp_seconds",
];

async fn metrics(screen: &Screen, show: &Show) {
    screen.heading(&format!("From /metrics of the janitor beside m{}", show.leader_before));
    let page = show.janitors[show.leader_before].metrics().await;
    for line in page.lines().filter(|line| EXCERPT.iter().any(|start| line.starts_with(start))) {
        screen.line(&format!("  {line}"));
    }
}

fn urls(screen: &Screen, show: &Show) {
    screen.heading("URLs (`make demo KEEP=1` keeps them up)");
    for (index, janitor) in show.janitors.iter().enumerate() {
        let base = format!("http://{}", janitor.address());
        screen.line(&format!("  m{index}  {base}/   {base}/metrics   {base}/api/v1/status"));
    }
    for index in 0..MEMBERS {
        screen.line(&format!("  m{index}  etcd at {}", show.cluster.member(index).client_url));
    }
}

/// For `KEEP=1`.
pub fn keep(screen: &Screen) {
    screen.line("\nEverything stays up, compacting every five seconds where there is anything. Ctrl-C ends it.");
}
