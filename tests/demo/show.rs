//! The course of things, from an empty folder to the end of the round.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::Given;
use super::load::{self, Data};
use super::screen::{Screen, mib, time_of_day};
use super::support::consistency::hash_kv_equal;
use super::support::lease_holder::{Held, LeaseHolder};
use super::support::scrape::Metrics;
use super::support::{Cluster, History, Janitor, Recorder, Spec};
use super::verdict::Check;

pub const MEMBERS: usize = 3;
/// From the start of the janitors to the instant at which their cron fires:
/// they watch for one retention before they compact, and a compaction takes
/// some seconds.
const AHEAD: Duration = Duration::from_secs(15);
/// The figures are still for 10 s, the leader waits for 30 s, each rests 1 s.
const ROUND_LIMIT: Duration = Duration::from_secs(75);
/// An application's lease, renewed all the while.
const LEASE: Duration = Duration::from_secs(5);

/// Everything that is up, and what has been seen.
pub struct Show {
    pub janitors: Vec<Janitor>,
    pub cluster: Cluster,
    pub due: DateTime<Utc>,
    pub leader_before: usize,
    pub before: Vec<Metrics>,
    pub after: Vec<Metrics>,
    pub history: History,
    pub written_to: i64,
    pub compacted_to: Result<i64, String>,
    pub data: (Data, Data),
    pub hashes: Result<(), String>,
    pub left_behind: Result<Vec<String>, String>,
    pub lease: Held,
}

impl Show {
    pub async fn run(screen: &Screen, given: &Given) -> Self {
        screen.heading("Three members");
        let here = std::env::current_dir().unwrap_or_default();
        let etcd = given.etcd.strip_prefix(&here).unwrap_or(&given.etcd);
        screen.line(&format!("  etcd {} ({})", given.release, etcd.display()));
        if given.refused {
            screen.line(&format!(
                "  {} etcd {} is one that the janitor refuses to defragment: a crash in mid-defrag can make its \
                 revisions drift.\n  It is all that this machine could get, and the data is thrown away, so the demo \
                 sets defrag.unsafe_versions: allow. Do not.",
                screen.bad("NOTE"),
                given.release
            ));
        }
        let spec = Spec { members: MEMBERS, etcd: Some(given.etcd.clone()), ..Spec::default() };
        let cluster = Cluster::start(spec).await;
        for member in cluster.members() {
            screen.line(&format!("  {}  {:016x}  {}", member.name, member.id, member.client_url));
        }
        let folder = cluster.folder().strip_prefix(&here).unwrap_or(cluster.folder());
        let folder = folder.display();
        screen.line(&format!("  data in {folder}, without fsync; about 2 GiB for as long as this runs"));
        let began = Instant::now();
        let written_to = load::write(screen, &cluster).await;
        let leader_before = cluster.leader().await;
        screen.line(&format!(
            "  revision {written_to} after {:.0} s; m{leader_before} leads; nobody writes from here on",
            began.elapsed().as_secs_f64()
        ));
        let data_before = data(&cluster).await;
        let recorder = Recorder::start(&cluster).await;
        let before = readings(&recorder);
        let lease = LeaseHolder::start(&cluster, LEASE).await;

        screen.heading("Three janitors, started as a pod starts them");
        let due = Utc::now() + TimeDelta::from_std(AHEAD).unwrap_or_default();
        let yaml = configuration(due, given.refused);
        for line in yaml.lines() {
            screen.line(&format!("  {}", screen.dim(line)));
        }
        let mut janitors = Vec::new();
        for index in 0..MEMBERS {
            let janitor = Janitor::start(&cluster, index, &yaml).await;
            screen.line(&format!("  beside m{index}: http://{}/", janitor.address()));
            janitors.push(janitor);
        }
        screen.heading("What they do, in their own words");
        let due_at = time_of_day(due);
        screen.line(&format!("  Their cron fires at {} UTC, {} s after they started.", &due_at[..8], AHEAD.as_secs()));
        follow(screen, &janitors).await;
        let lease = lease.finish(&cluster).await;
        let text = |error: etcd_client::Error| error.to_string();
        let left_behind = load::left_behind(&cluster).await.map_err(text);
        let compacted_to = load::compacted_to(&cluster).await.map_err(text);
        let hashes = hash_kv_equal(&cluster).await;
        let data_after = data(&cluster).await;
        let after = readings(&recorder);
        let history = recorder.finish();
        Self {
            janitors,
            cluster,
            due,
            leader_before,
            before,
            after,
            history,
            written_to,
            compacted_to,
            data: (data_before, data_after),
            hashes,
            left_behind,
            lease,
        }
    }

    /// SIGTERM to each janitor, as a pod's end sends it.
    pub async fn stop(mut self) -> Check {
        let mut unclean = Vec::new();
        let mut slowest = Duration::ZERO;
        for (index, janitor) in self.janitors.iter_mut().enumerate() {
            let sent = Instant::now();
            let process = janitor.process();
            if let Some(status) = process.try_wait() {
                unclean.push(format!("m{index}'s was gone before it was told to stop ({status})"));
                continue;
            }
            process.signal("TERM");
            match process.exited(Duration::from_secs(3)).await {
                Some(status) if status.success() => slowest = slowest.max(sent.elapsed()),
                Some(status) => unclean.push(format!("m{index}'s ended with {status}")),
                None => unclean.push(format!("m{index}'s is still there 3 s after SIGTERM")),
            }
        }
        let ok = unclean.is_empty();
        let detail = if ok {
            format!("{MEMBERS} of {MEMBERS} ended with status 0, {} ms after SIGTERM at most", slowest.as_millis())
        } else {
            unclean.join(", ")
        };
        Check::new(ok, "every janitor exits cleanly", detail)
    }
}

async fn data(cluster: &Cluster) -> Data {
    load::data(cluster).await.unwrap_or_else(|error| panic!("the data cannot be read: {error}"))
}

fn readings(recorder: &Recorder) -> Vec<Metrics> {
    (0..MEMBERS)
        .map(|index| {
            let reading = recorder.now(index);
            reading.unwrap_or_else(|| panic!("m{index} does not answer on /metrics; is the machine very busy?"))
        })
        .collect()
}

fn configuration(due: DateTime<Utc>, refused: bool) -> String {
    format!(
        "compaction:\n  schedule: \"*/5 * * * * *\"\n  retention: 5s\ndefrag:\n  schedule: \"{}\"\n  \
         pause_between: 1s\n  verify: hash\n{}",
        due.format("%-S %-M %-H * * *"),
        if refused { "  unsafe_versions: allow\n" } else { "" }
    )
}

/// Shows what the janitors log until the round is over on each of them.
async fn follow(screen: &Screen, janitors: &[Janitor]) {
    let started = Instant::now();
    let mut shown = vec![0; janitors.len()];
    loop {
        let over = janitors.iter().all(|janitor| !janitor.rounds().is_empty());
        let mut news: Vec<(String, String)> = Vec::new();
        for (index, janitor) in janitors.iter().enumerate() {
            let events = janitor.events();
            for event in &events[shown[index]..] {
                if let Some(line) = worth_showing(event) {
                    news.push((text(event, "timestamp").to_owned(), format!("m{index}  {line}")));
                }
            }
            shown[index] = events.len();
        }
        news.sort();
        for (timestamp, line) in news {
            let at = timestamp.parse::<DateTime<Utc>>().map(time_of_day).unwrap_or(timestamp);
            screen.line(&format!("  {at}  {line}"));
        }
        if over {
            return;
        }
        if started.elapsed() > AHEAD + ROUND_LIMIT {
            screen.line(&format!("  {} the round is not over after {ROUND_LIMIT:?}", screen.bad("LATE")));
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Everything about the round; of the compactions only those that were sent.
fn worth_showing(event: &Value) -> Option<String> {
    let message = text(event, "message").trim_end();
    // One line of all members; the status table below says the same.
    if message.starts_with("cluster after the defrag") {
        return None;
    }
    let bytes = event.get("reclaimed_bytes").and_then(Value::as_u64);
    match text(event, "task") {
        "defrag" => Some(match bytes {
            Some(bytes) => format!("{message} (freed {})", mib(bytes)),
            None if message == "the round is due" => format!("cron fires: round {}", text(event, "round")),
            None => message.to_owned(),
        }),
        "compaction" if text(event, "outcome") != "skipped" => Some(format!("compaction: {message}")),
        _ => None,
    }
}
