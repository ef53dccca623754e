//! What the paths that are gone through all day allocate. A count says the same on every machine, which no time does;
//! it grows when somebody copies what could be lent, or builds for each line what could be built once.

#![allow(clippy::disallowed_methods, reason = "tests read the clock as they like")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use etcd_janitor::etcd::exposition;
use etcd_janitor::http::Metrics;
use etcd_janitor::plan::rule::{Figures, Quota, Rule};

#[path = "http/sample.rs"]
#[allow(dead_code, reason = "others use the rest")]
mod sample;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; the counter is a number of the thread, without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as our caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Of the second time: the first one fills what is kept.
fn allocations<T>(mut work: impl FnMut() -> T) -> u64 {
    drop(work());
    let before = COUNT.get();
    let result = work();
    let count = COUNT.get() - before;
    drop(result);
    count
}

fn at_most(bound: u64, what: &str, count: u64) {
    println!("{what}: {count} allocations, at most {bound}");
    assert!(count <= bound, "{what}: {count} allocations, {bound} at most: what has come, and does each time need it?");
}

/// A member's page: the figures that are read, among two thousand that are not.
fn page() -> String {
    let mut page = String::new();
    for bucket in 0..2000 {
        page += &format!(
            "etcd_network_peer_round_trip_time_seconds_bucket{{To=\"8e9e05c52164694d\",le=\"{bucket}\"}} 17\n"
        );
    }
    page += "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1\n\
             grpc_server_started_total{grpc_method=\"Defragment\",grpc_service=\"etcdserverpb.Maintenance\"} 2\n\
             grpc_server_started_total{grpc_method=\"Snapshot\",grpc_service=\"etcdserverpb.Maintenance\"} 0\n\
             grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Defragment\"} 2\n\
             etcd_disk_backend_defrag_duration_seconds_count 2\n\
             etcd_disk_backend_defrag_duration_seconds_sum 0.5\n\
             etcd_server_quota_backend_bytes 8.589934592e+09\n\
             etcd_debugging_mvcc_compact_revision 12\n\
             process_start_time_seconds 1.7e+09\n";
    page
}

#[test]
fn the_paths_of_every_day_allocate_little() {
    assert_eq!(allocations(|| [Box::new(1), Box::new(2)]), 2, "they are counted");
    let snapshot = sample::known();
    let metrics = Metrics::new().expect("metrics");
    at_most(1130, "a scrape of /metrics", allocations(|| metrics.render(&snapshot)));
    at_most(220, "the snapshot as JSON", allocations(|| serde_json::to_string(&snapshot).expect("JSON")));

    let page = page();
    exposition::read(&page).expect("a member's page");
    at_most(0, "a look at a member's metrics", allocations(|| exposition::read(&page)));

    let rule = Rule::parse("dbQuotaUsage > 0.8 && dbSizeFree > 200 * MiB || dbFreeRatio > 0.45").expect("a rule");
    let figures = Figures { db_size: 1 << 30, db_size_in_use: 1 << 29, quota: Quota::Bytes(8 << 30) };
    at_most(20, "a question to the rule", allocations(|| rule.evaluate(&figures)));
}
