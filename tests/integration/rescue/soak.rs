//! Rescues one after the other, each with a fault in the middle (`make rescue-soak`): clients that never stop fill the
//! database again as soon as it takes writes.
//!
//! `RESCUES`, `SEED` and `REPORT` are read from the environment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::clients::Clients;
use super::{BEFORE, PER_MEMBER, alarmed, small, yaml};
use crate::rounds::janitors;
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::ballast;
use crate::support::{Cluster, Janitor, Recorder, eventually};

/// What happens in the middle of a rescue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Nothing,
    JanitorKilled,
    JanitorStopped,
    MemberKilled,
    MemberKilledInItsDefrag,
    LeadershipMoved,
    LeaderKilled,
}

impl Fault {
    const ALL: [Fault; 7] = [
        Fault::Nothing,
        Fault::JanitorKilled,
        Fault::JanitorStopped,
        Fault::MemberKilled,
        Fault::MemberKilledInItsDefrag,
        Fault::LeadershipMoved,
        Fault::LeaderKilled,
    ];

    /// What it may cost beside the time that a rescue without it has. Whatever changes makes everybody wait for another
    /// ten seconds of calm; away is whoever is away for up to fifteen, and nobody may act meanwhile.
    const fn costs(self) -> Duration {
        Duration::from_secs(match self {
            Fault::Nothing => 0,
            // An election, and perhaps leadership that has to move once more.
            Fault::LeadershipMoved => 30,
            // Fifteen away, a start, and calm again. A deputy comes later than that.
            Fault::JanitorKilled => 45,
            // The one that stood still may have held the only answer: its look ends, and calm begins, twice.
            Fault::JanitorStopped => 60,
            // Fifteen away, an election, a member that catches up.
            Fault::MemberKilled | Fault::LeaderKilled => 60,
            // The same, and its defrag once more.
            Fault::MemberKilledInItsDefrag => 75,
        })
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")) }
}

#[tokio::test]
#[ignore = "hours: `make rescue-soak` runs it"]
async fn again_and_again_whatever_happens() {
    let (rescues, seed) = (number("RESCUES", 100), number("SEED", 20_261_122));
    println!("{rescues} rescues, SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    // Every entry since the last snapshot is kept in memory, 64 KiB each: gigabytes, by the usual count.
    let mut spec = small();
    spec.extra_args.push("--snapshot-count=5000".to_owned());
    let mut cluster = Cluster::start(spec).await;
    ballast(&cluster, 12).await;
    let mut recorder = Recorder::start(&cluster).await;
    let mut janitors = janitors(&cluster, &yaml("")).await;
    let clients = Clients::start(&cluster, Duration::from_millis(10)).await;
    let mut times: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
    for rescue in 1..=rescues {
        let since = eventually("NOSPACE is up", Duration::from_secs(300), || async {
            alarmed(&cluster).await.then(Instant::now)
        })
        .await;
        let fault = *Fault::ALL.choose(&mut rng).expect("faults");
        let after = Duration::from_millis(rng.random_range(0..40_000));
        tokio::time::sleep(after).await;
        inflict(fault, &mut cluster, &mut janitors, &recorder, &mut rng).await;
        let most = BEFORE + PER_MEMBER * 3 + Duration::from_secs(20) + fault.costs();
        eventually("etcd takes writes again", most.saturating_sub(since.elapsed()), || async {
            clients.newest().filter(|newest| *newest > since + Duration::from_secs(5))
        })
        .await;
        let took = since.elapsed();
        println!("rescue {rescue}: {fault:?} after {after:?}, {took:?}");
        times.entry(fault).or_default().push(took);
        report(seed, &mut times, "under way");
        let overlaps = recorder.so_far().overlaps();
        assert!(overlaps.is_empty(), "{overlaps:?}");
        let led = recorder.so_far().began_on_leaders();
        assert!(led.is_empty(), "{led:?}");
        hash_kv_equal(&cluster).await.unwrap_or_else(|why| panic!("{why}"));
        if rescue % 10 == 0 {
            // What is recorded is kept in memory.
            recorder.finish();
            recorder = Recorder::start(&cluster).await;
        }
    }
    let (acknowledged, refused) = (clients.acknowledged(), clients.refused());
    let lost = clients.verify(&cluster).await;
    let writes = format!("writes acknowledged: {acknowledged}, refused: {refused}, lost: {}", lost.len());
    report(seed, &mut times, &writes);
    eventually("nobody needs anything any more", Duration::from_secs(300), || async {
        (!alarmed(&cluster).await).then_some(())
    })
    .await;
    hash_kv_equal(&cluster).await.unwrap_or_else(|why| panic!("{why}"));
    assert!(lost.is_empty(), "{lost:?}");
}

/// Told after each rescue, since it takes hours to the last.
fn report(seed: u64, times: &mut BTreeMap<Fault, Vec<Duration>>, end: &str) {
    let rescues: usize = times.values().map(Vec::len).sum();
    let mut text = format!("{rescues} rescues, SEED={seed}\n\n");
    for (fault, times) in times {
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64());
        let _ = writeln!(text, "{:>4}  {fault:?}: {median:.0} s in the median, {longest:.0} s at most", times.len());
    }
    let _ = writeln!(text, "\n{end}");
    match std::env::var("REPORT") {
        Ok(path) if !path.is_empty() => std::fs::write(&path, &text).unwrap_or_else(|error| panic!("{path}: {error}")),
        _ => println!("{text}"),
    }
}

async fn inflict(fault: Fault, cluster: &mut Cluster, janitors: &mut [Janitor], recorder: &Recorder, rng: &mut StdRng) {
    let someone = rng.random_range(0..janitors.len());
    let pause = Duration::from_millis(rng.random_range(500..15_000));
    match fault {
        Fault::Nothing => {}
        Fault::JanitorKilled => {
            janitors[someone].kill();
            tokio::time::sleep(pause).await;
            janitors[someone].start_again().await;
        }
        Fault::JanitorStopped => {
            janitors[someone].process().signal("STOP");
            tokio::time::sleep(pause).await;
            janitors[someone].process().signal("CONT");
        }
        Fault::MemberKilled | Fault::LeaderKilled => {
            let member = if fault == Fault::LeaderKilled { cluster.leader().await } else { someone };
            cluster.kill(member);
            tokio::time::sleep(pause).await;
            cluster.start_again(member).await;
        }
        Fault::MemberKilledInItsDefrag => {
            let busy = eventually("somebody is in a defrag", Duration::from_secs(120), || async {
                cluster.voters().into_iter().find(|index| recorder.now(*index).is_some_and(|m| m.open_defrags() > 0))
            })
            .await;
            cluster.kill(busy);
            tokio::time::sleep(pause).await;
            cluster.start_again(busy).await;
        }
        Fault::LeadershipMoved => {
            let leader = cluster.leader().await;
            let to = cluster.member((leader + 1) % 3).id;
            let mut client = cluster.client(leader).await;
            // It may have moved meanwhile, which is as good.
            let _ = client.move_leader(to).await;
        }
    }
}
