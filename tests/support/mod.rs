//! What the tests need around the code under test: real etcd clusters, faults,
//! and a judge that looks from outside.
//!
//! Nothing here skips. A missing binary or tool fails the test that needs it,
//! because a suite that passes without its servers proves nothing.
#![allow(dead_code, reason = "every target that includes this uses its own part of it")]
#![allow(unused_imports, reason = "the names below are this module's front door")]

pub mod balancer;
pub mod certs;
pub mod cluster;
pub mod consistency;
pub mod faketime;
pub mod garbage;
pub mod history;
pub mod intents;
pub mod janitor;
pub mod lease_holder;
pub mod membership;
pub mod mounted;
pub mod namespace;
pub mod overlaps;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod recorder;
pub mod records;
pub mod requests;
pub mod rounds;
pub mod sandbox;
pub mod scrape;
pub mod spec;
pub mod strace;
pub mod writer;

pub use cluster::{Cluster, Member};
pub use history::{Defrag, History};
pub use janitor::{Janitor, due_in};
pub use proxy::{Direction, Mode, Proxy};
pub use recorder::Recorder;
pub use spec::{Auth, Spec, Tls, Token, usual_release};

use std::future::Future;
use std::io::{self, Write};
use std::sync::Once;
use std::time::{Duration, Instant};

/// What is looked for soon is found soon. What takes minutes is not asked for a
/// hundred times a second, on a machine that has better things to do.
const SHORTEST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_millis(50);

/// A limit of `eventually` ends a test that hangs; how long something may take is
/// not judged by it. Machines of two cores stand still for many seconds.
const LEAST_PATIENCE: Duration = Duration::from_secs(60);

/// libtest says why a test failed when all have ended: half an hour later, or never where a run is cut off. Said at
/// once, it stands beside what else went on, and the load that day is known.
#[cfg(test)]
fn tell_failures_at_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload_as_str().unwrap_or("for a reason that is not text").replace('\n', " | ");
            let text: String = text.chars().take(800).collect();
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("a thread");
            let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line())).unwrap_or_default();
            // Not by eprintln, which libtest keeps to itself.
            let _ = writeln!(io::stderr(), "panicked: {name} at {place}, load {}: {text}", load.trim_end());
            usual(panic);
        }));
    });
}

#[cfg(not(test))]
fn tell_failures_at_once() {}

/// Asks `look` again and again until it answers, and fails with `what` when it
/// has not within `limit`, or a minute if that is longer. Waiting for a state is
/// the only waiting tests do; a bound that is promised is judged by `within`.
pub async fn eventually<T, F>(what: &str, limit: Duration, look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    within(what, limit.max(LEAST_PATIENCE), look).await.unwrap_or_else(|why| panic!("{why}"))
}

/// The same within `limit` and not later, for a test that judges the time or has something left to tell.
pub async fn within<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = look().await {
            return Ok(answer);
        }
        if started.elapsed() >= limit {
            return Err(format!("not within {limit:?}: {what}"));
        }
        tokio::time::sleep((started.elapsed() / 20).clamp(SHORTEST_REST, LONGEST_REST)).await;
    }
}
