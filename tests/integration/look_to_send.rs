//! The window that no lock can close, measured: from the last look to the send.

use std::time::{Duration, Instant};

use etcd_janitor::config::{Source, load};
use etcd_janitor::etcd::{Calls, Clock, Cluster as Connections, defragment, look};
use etcd_janitor::plan::member::{RoundId, RoundKind};
use etcd_janitor::plan::round::Permit;
use etcd_janitor::plan::step::Sent;

use crate::support::{Cluster, Spec};

const CALLS: usize = 2000;

fn shown(what: &str, mut spans: Vec<Duration>) {
    spans.sort();
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, longest {:.2} ms",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

/// Real looks and real sends, on a database so small that a defrag is over at once. Prints; `make bench` runs it, on a
/// machine with nothing else to do.
#[tokio::test]
#[ignore = "a measurement: make bench"]
async fn from_look_to_send() {
    let cluster = Cluster::start(Spec::default()).await;
    let follower = cluster.follower().await;
    let endpoint = ("etcd.endpoint".to_owned(), cluster.member(follower).client_url.clone());
    let source = Source { file: None, env: Default::default(), flags: vec![endpoint] };
    let config = load(&source).expect("a valid configuration").config;
    let clock = Clock::new();
    let connections = Connections::new(&config.etcd, Calls::new().expect("counters")).expect("connections");
    let member = connections.identify().await.expect("the local member").member;
    let round = RoundId { kind: RoundKind::Manual, due: chrono::DateTime::UNIX_EPOCH };
    let (mut from_begin, mut from_end) = (Vec::new(), Vec::new());
    while from_begin.len() < CALLS {
        let seen = look(&connections, &clock, round).await;
        let ended = Instant::now();
        let permit = Permit { member, look_begun: seen.begun, send_until: None };
        let observed = |age| {
            from_begin.push(age);
            from_end.push(ended.elapsed());
        };
        let sent = defragment(&connections, &clock, permit, false, Duration::from_secs(10), observed).await;
        assert!(matches!(sent, Sent::Done { .. }), "{sent:?}");
    }
    let build = if cfg!(debug_assertions) { "without optimisation" } else { "with optimisation" };
    println!("{CALLS} calls of a build {build}");
    shown("from the beginning of the look to the send, which etcd_janitor_look_to_send_seconds counts", from_begin);
    shown("from the end of the look to the send", from_end);
}
