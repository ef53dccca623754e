//! Reads the few figures that are needed from a Prometheus text page.

use std::collections::BTreeSet;

use crate::plan::cluster::{QuotaBytes, Scrape};
use crate::plan::member::MemberId;

/// What a member's metrics page says, and whose page it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// `etcd_server_id`.
    pub server: MemberId,
    /// Its figures.
    pub scrape: Scrape,
}

/// Reads a whole page; the error says what is missing.
pub fn read(text: &str) -> Result<Page, String> {
    let mut reading = Reading::default();
    reading.take(text.as_bytes());
    reading.finish()
}

/// A page that comes in pieces, of which only the figures are kept: a janitor reads every member's at the same time.
#[derive(Default)]
pub struct Reading {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    server: Option<MemberId>,
    started: [Option<f64>; 2],
    handled: [f64; 2],
    count: Option<u64>,
    seconds: f64,
    start: Option<f64>,
    quota: Option<QuotaBytes>,
    compact_revision: Option<i64>,
    defrags_failed: f64,
    active_peers: BTreeSet<MemberId>,
}

impl Reading {
    /// The next piece, which may end anywhere.
    pub fn take(&mut self, piece: &[u8]) {
        let mut lines = piece.split(|byte| *byte == b'\n');
        // What follows the last end of line, perhaps nothing.
        let Some(last) = lines.next_back() else { return };
        for line in lines {
            if self.begun.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.begun);
                whole.extend_from_slice(line);
                self.line(&whole);
                whole.clear();
                self.begun = whole;
            }
        }
        self.begun.extend_from_slice(last);
    }

    fn line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some(sample) = Sample::read(&line) else { return };
        match sample.name {
            "etcd_server_id" => {
                self.server = sample.label("server_id").and_then(|id| u64::from_str_radix(id, 16).ok()).map(MemberId);
            }
            "grpc_server_started_total" => {
                if let Some(at) = watched(&sample) {
                    *self.started[at].get_or_insert(0.0) += sample.value;
                }
            }
            "grpc_server_handled_total" => {
                if let Some(at) = watched(&sample) {
                    self.handled[at] += sample.value;
                    if at == 0 && sample.label("grpc_code") != Some("OK") {
                        self.defrags_failed += sample.value;
                    }
                }
            }
            "etcd_network_active_peers" if sample.value > 0.0 => {
                let id = sample.label("Remote").and_then(|id| u64::from_str_radix(id, 16).ok());
                self.active_peers.extend(id.map(MemberId));
            }
            "etcd_disk_backend_defrag_duration_seconds_count" => self.count = Some(sample.value as u64),
            "etcd_disk_backend_defrag_duration_seconds_sum" => self.seconds = sample.value,
            "process_start_time_seconds" => self.start = Some(sample.value),
            "etcd_server_quota_backend_bytes" => self.quota = quota_of(sample.value),
            "etcd_debugging_mvcc_compact_revision" => self.compact_revision = Some(sample.value as i64),
            _ => {}
        }
    }

    /// The page has come whole; the error says what is missing.
    ///
    /// Open calls are `grpc_server_started_total - sum(grpc_server_handled_total)`: right on every release tried, for
    /// queued and abandoned calls too, where `etcd_disk_defrag_inflight` is not before 3.5.23.
    pub fn finish(mut self) -> Result<Page, String> {
        let last = std::mem::take(&mut self.begun);
        self.line(&last);
        let missing = |name: &str| format!("no {name} on the page: is this etcd's /metrics?");
        let open = |at: usize| -> Result<u64, String> {
            let started = self.started[at].ok_or_else(|| missing("grpc_server_started_total"))?;
            // The page is not read at one instant: a call may be handled between the two lines.
            Ok((started - self.handled[at]).max(0.0) as u64)
        };
        Ok(Page {
            server: self.server.ok_or_else(|| missing("etcd_server_id"))?,
            scrape: Scrape {
                defrags_open: open(0)?,
                snapshots_open: open(1)?,
                defrag_count: self.count.ok_or_else(|| missing("etcd_disk_backend_defrag_duration_seconds_count"))?,
                defrags_failed: self.defrags_failed as u64,
                defrag_seconds: self.seconds,
                process_start: self.start.ok_or_else(|| missing("process_start_time_seconds"))?,
                quota: self.quota,
                compact_revision: self.compact_revision,
                active_peers: self.active_peers,
            },
        })
    }
}

/// A quota of 0 is "not set up yet"; a negative one is a quota that is switched off, which etcd exports as the largest
/// value it can count to.
fn quota_of(value: f64) -> Option<QuotaBytes> {
    if !(0.0..9.0e18).contains(&value) {
        Some(QuotaBytes::Disabled)
    } else if value >= 1.0 {
        Some(QuotaBytes::Bytes(value as u64))
    } else {
        None
    }
}

fn watched(sample: &Sample<'_>) -> Option<usize> {
    match sample.label("grpc_method") {
        Some("Defragment") => Some(0),
        Some("Snapshot") if sample.label("grpc_service") == Some("etcdserverpb.Maintenance") => Some(1),
        _ => None,
    }
}

struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> Sample<'a> {
    /// `name{labels} value [timestamp]`. None for comments and for anything that is no sample.
    fn read(line: &'a str) -> Option<Sample<'a>> {
        if line.starts_with('#') {
            return None;
        }
        let (series, rest) = match line.find('{') {
            Some(_) => line.split_at(line.rfind('}')? + 1),
            None => line.split_at(line.find(' ')?),
        };
        let value = rest.split_whitespace().next()?.parse().ok()?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (series, ""),
        };
        Some(Sample { name, labels, value })
    }

    /// The value of a label. None of the labels read here ever needs an escape.
    fn label(&self, wanted: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            (name == wanted).then(|| value.trim_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP etcd_server_id Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.
etcd_server_id{server_id=\"8e9e05c52164694d\"} 1
grpc_server_started_total{grpc_method=\"Defragment\",grpc_service=\"etcdserverpb.Maintenance\",grpc_type=\"unary\"} 3
grpc_server_started_total{grpc_method=\"Snapshot\",grpc_service=\"etcdserverpb.Maintenance\",grpc_type=\"server_stream\"} 1
grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Defragment\",grpc_service=\"etcdserverpb.Maintenance\"} 1
grpc_server_handled_total{grpc_code=\"Unknown\",grpc_method=\"Defragment\",grpc_service=\"etcdserverpb.Maintenance\"} 1
etcd_disk_backend_defrag_duration_seconds_sum 8.5
etcd_disk_backend_defrag_duration_seconds_count 2
process_start_time_seconds 1.79000000012e+09
etcd_server_quota_backend_bytes 2.147483648e+09
etcd_debugging_mvcc_compact_revision 41
etcd_network_active_peers{Local=\"8e9e05c52164694d\",Remote=\"2943212f5e2cf73\"} 1
etcd_network_active_peers{Local=\"8e9e05c52164694d\",Remote=\"bdae9bbc11dd390d\"} 0
";

    #[test]
    fn open_calls_are_begun_less_handled() {
        let page = read(PAGE).unwrap();
        assert_eq!(page.server, MemberId(0x8e9e05c52164694d));
        assert_eq!((page.scrape.defrags_open, page.scrape.snapshots_open), (1, 1));
        assert_eq!((page.scrape.defrag_count, page.scrape.defrag_seconds), (2, 8.5));
        assert_eq!(page.scrape.defrags_failed, 1);
        assert_eq!(page.scrape.active_peers, BTreeSet::from([MemberId(0x2943212f5e2cf73)]));
        assert_eq!(page.scrape.quota, Some(QuotaBytes::Bytes(2 << 30)));
        assert_eq!(page.scrape.compact_revision, Some(41));
    }

    #[test]
    fn a_page_may_break_anywhere() {
        let whole = read(PAGE);
        for size in [1, 2, 7, 80, 4096] {
            let mut reading = Reading::default();
            PAGE.trim_end().as_bytes().chunks(size).for_each(|piece| reading.take(piece));
            assert_eq!(reading.finish(), whole, "pieces of {size}");
        }
    }

    #[test]
    fn a_page_that_is_not_etcds_is_refused_by_name() {
        for gone in ["etcd_server_id", "grpc_server_started_total", "process_start_time_seconds"] {
            let page: String =
                PAGE.lines().filter(|line| !line.starts_with(gone)).map(|line| format!("{line}\n")).collect();
            assert!(read(&page).unwrap_err().contains(gone));
        }
        assert!(read("<html>").is_err());
    }
}
