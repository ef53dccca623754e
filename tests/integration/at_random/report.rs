//! What happened, counted, and what must not have.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::ills::Kind;
use super::world::World;
use crate::support::consistency::hash_kv_equal;
use crate::support::overlaps::{Class, Deeds};
use crate::support::writer::Written;
use crate::support::{Defrag, History, Janitor, records};

/// An election between the last look and the arrival of the call.
const WINDOW: Duration = Duration::from_secs(2);

pub struct Report {
    seed: u64,
    members: usize,
    duration: Duration,
    faults: BTreeMap<Kind, u64>,
    rounds: usize,
    /// On record in etcd.
    outcomes: BTreeMap<String, u64>,
    /// As the janitors say of themselves, those without a record too.
    said: BTreeMap<String, u64>,
    defrags: usize,
    foreign: usize,
    overlaps: BTreeMap<Class, usize>,
    possible: usize,
    elected_in_window: usize,
    leader_changes: u64,
    written: Written,
    pub failures: Vec<String>,
}

impl Report {
    pub async fn of(world: World, seed: u64, duration: Duration) -> Self {
        let World { cluster, janitors, recorder, writer, mut deeds, intents, counts, .. } = world;
        deeds.intents = intents.finish();
        let equal = hash_kv_equal(&cluster).await;
        let written = writer.verify(&cluster).await;
        let on_record = records::rounds(&cluster, cluster.leader().await).await;
        let history = recorder.finish();
        let mut failures = Vec::new();
        if let Err(why) = equal {
            failures.push(why);
        }
        if !written.lost.is_empty() {
            failures.push(format!("acknowledged and lost: {:?}", written.lost));
        }
        let overlaps = deeds.overlaps(&history);
        for (one, other) in overlaps.get(&Class::Unexplained).into_iter().flatten() {
            failures.push(format!("an overlap that nothing explains: {one:?} and {other:?}"));
        }
        let (elected, led): (Vec<_>, Vec<_>) = on_leaders(&history, &deeds).into_iter().partition(|(_, late)| *late);
        failures.extend(led.iter().map(|(defrag, _)| format!("began on a leader: {defrag:?}")));
        let mut outcomes = BTreeMap::new();
        let mut sent = vec![0; janitors.len()];
        for (member, record) in on_record.values().flatten() {
            let outcome = record["outcome"].as_str().unwrap_or_default();
            sent[*member] += usize::from(outcome != "skipped");
            *outcomes.entry(name(outcome, record["reason"].as_str())).or_default() += 1;
        }
        for (member, sent) in sent.iter().enumerate() {
            let own = history.defrags_of(member);
            let own = own.iter().filter(|defrag| !deeds.is_foreign(defrag)).count();
            if own > *sent {
                failures.push(format!("m{member} was defragmented {own} times by janitors, and {sent} are on record"));
            }
        }
        let mut said = BTreeMap::new();
        for (_, outcome, reason) in janitors.iter().flat_map(Janitor::rounds) {
            *said.entry(name(&outcome, reason.as_deref())).or_default() += 1;
        }
        for (member, janitor) in janitors.iter().enumerate() {
            let series = "etcd_janitor_look_to_send_seconds";
            let all = janitor.metric(&format!("{series}_count")).await;
            let in_time = janitor.metric(&format!("{series}_bucket{{le=\"1\"}}")).await;
            if all.is_none() || all != in_time {
                failures.push(format!("of {all:?} calls the janitor of m{member} sent {in_time:?} within a second"));
            }
        }
        let ended_badly = janitors.iter().flat_map(Janitor::events).filter(|event| event["level"] == "ERROR");
        failures.extend(ended_badly.map(|event| format!("a janitor's error: {event}")));
        if !failures.is_empty() {
            failures.push(history.to_string());
        }
        Self {
            seed,
            members: janitors.len(),
            duration,
            faults: counts,
            rounds: on_record.len(),
            outcomes,
            said,
            defrags: history.defrags().len(),
            foreign: deeds.foreign.len(),
            overlaps: overlaps.iter().map(|(class, all)| (*class, all.len())).collect(),
            possible: history.possible_overlaps().len(),
            elected_in_window: elected.len(),
            leader_changes: history.leader_changes(),
            written,
            failures,
        }
    }
}

fn name(outcome: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| outcome.to_owned(), |reason| format!("{outcome}({reason})"))
}

/// Janitors' defrags that began on a leader, and whether that one was elected
/// only after the last look could have shown it.
fn on_leaders(history: &History, deeds: &Deeds) -> Vec<(Defrag, bool)> {
    let reigns = history.leadership();
    let own = history.began_on_leaders().into_iter().filter(|defrag| !deeds.is_foreign(defrag));
    own.map(|defrag| {
        let late = reigns.iter().any(|reign| {
            reign.member == defrag.member && reign.from + WINDOW >= defrag.earliest && reign.from <= defrag.to
        });
        (defrag, late)
    })
    .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} members, {} s of faults, SEED={}", self.members, self.duration.as_secs(), self.seed)?;
        writeln!(f, "\nfaults: {}", self.faults.values().sum::<u64>())?;
        for (kind, count) in &self.faults {
            writeln!(f, "{count:6}  {kind}")?;
        }
        writeln!(f, "\nrounds on record: {}, outcomes of members in them:", self.rounds)?;
        for (outcome, count) in &self.outcomes {
            writeln!(f, "{count:6}  {outcome}")?;
        }
        writeln!(f, "\nrounds that janitors have told the end of:")?;
        for (outcome, count) in &self.said {
            writeln!(f, "{count:6}  {outcome}")?;
        }
        writeln!(f, "\ndefrags seen: {}; calls of operators: {}", self.defrags, self.foreign)?;
        writeln!(f, "elected between look and call: {}", self.elected_in_window)?;
        writeln!(f, "leader changes: {}", self.leader_changes)?;
        writeln!(f, "overlaps: {}; too close to tell: {}", self.overlaps.values().sum::<usize>(), self.possible)?;
        for (class, count) in &self.overlaps {
            writeln!(f, "{count:6}  {class}")?;
        }
        let Written { acknowledged, failed, lost, longest_stall, .. } = &self.written;
        writeln!(f, "\nwrites acknowledged: {acknowledged}, lost: {}, failed: {failed}", lost.len())?;
        writeln!(f, "longest time without one: {:.1} s", longest_stall.as_secs_f64())
    }
}
