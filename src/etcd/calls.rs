//! Counts requests to etcd.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// `etcd_janitor_etcd_requests_total` and `etcd_janitor_etcd_request_duration_seconds`.
#[derive(Debug, Clone)]
pub struct Calls {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl Calls {
    /// New counters, not registered anywhere yet.
    pub fn new() -> prometheus::Result<Self> {
        let requests = Opts::new("etcd_requests_total", "Requests to etcd, by RPC and how they ended.");
        let seconds = HistogramOpts::new("etcd_request_duration_seconds", "Time that requests to etcd took.")
            .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0]);
        Ok(Calls {
            requests: IntCounterVec::new(requests, &["method", "code"])?,
            seconds: HistogramVec::new(seconds, &["method"])?,
        })
    }

    /// For the registry.
    pub fn collectors(&self) -> [Box<dyn Collector>; 2] {
        [Box::new(self.requests.clone()), Box::new(self.seconds.clone())]
    }

    /// One request ended. `method` and `code` come from closed lists.
    pub fn ended(&self, method: &'static str, code: &'static str, took: Duration) {
        self.requests.with_label_values(&[method, code]).inc();
        self.seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    }
}
