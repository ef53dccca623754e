//! What the judge saw, and the questions that tests ask about it.
//!
//! A reading is taken at some instant between the request and its answer.
//! Where an interval accuses somebody, its certain part is used: from the
//! answer of the first reading to the request of the last. So an overlap that
//! is reported here did happen.

use std::fmt;
use std::time::{Duration, Instant};

use super::scrape::Metrics;

#[derive(Clone)]
pub struct Sample {
    pub sent: Instant,
    pub received: Instant,
    /// `None`: the member did not answer.
    pub metrics: Option<Metrics>,
}

/// All readings of one member.
#[derive(Clone)]
pub struct Track {
    pub member: usize,
    pub samples: Vec<Sample>,
}

/// One defragmentation of one member.
#[derive(Clone, Debug)]
pub struct Defrag {
    pub member: usize,
    /// Certainly open from here ...
    pub from: Instant,
    /// ... to here.
    pub to: Instant,
    /// Possibly open from here to `latest`.
    pub earliest: Instant,
    pub latest: Instant,
    /// Seen open. A call between two readings is known from the counters only:
    /// then `from` and `to` bound it from outside and it accuses nobody.
    pub seen: bool,
    /// etcd counted it as finished. False after a crash or an error, and while
    /// it is still open at the end of the history.
    pub finished: bool,
    pub was_leader_at_start: bool,
    /// Led at some instant of it, perhaps elected in the middle.
    pub led_during: bool,
}

impl Defrag {
    pub fn certain_length(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    pub member: usize,
    pub from: Instant,
    pub to: Instant,
}

#[derive(Clone)]
pub struct History {
    pub started: Instant,
    /// etcd asks for tokens, and counts a call among those that failed whose token had just ended.
    pub tokens: bool,
    pub tracks: Vec<Track>,
}

impl History {
    /// Every defrag of every member, in the order of their beginnings.
    pub fn defrags(&self) -> Vec<Defrag> {
        let mut all: Vec<_> = self.tracks.iter().flat_map(defrags_of).collect();
        all.sort_by_key(|defrag| defrag.from);
        all
    }

    pub fn defrags_of(&self, member: usize) -> Vec<Defrag> {
        let mut all = self.defrags();
        all.retain(|defrag| defrag.member == member);
        all
    }

    /// Finished or not.
    pub fn defrag_count(&self, member: usize) -> usize {
        self.defrags_of(member).len()
    }

    /// Pairs of defrags of two members that were open at one instant.
    pub fn overlaps(&self) -> Vec<(Defrag, Defrag)> {
        self.pairs(|a, b| a.seen && b.seen && a.from < b.to && b.from < a.to)
    }

    /// Pairs that may have been open at one instant: overlaps, and what lies
    /// closer together than the readings can tell apart.
    pub fn possible_overlaps(&self) -> Vec<(Defrag, Defrag)> {
        self.pairs(|a, b| a.earliest < b.latest && b.earliest < a.latest)
    }

    fn pairs(&self, together: impl Fn(&Defrag, &Defrag) -> bool) -> Vec<(Defrag, Defrag)> {
        let all = self.defrags();
        let mut pairs = Vec::new();
        for (index, a) in all.iter().enumerate() {
            for b in &all[index + 1..] {
                if a.member != b.member && together(a, b) {
                    pairs.push((a.clone(), b.clone()));
                }
            }
        }
        pairs
    }

    /// Defrags that certainly began on a leader. Where the member led at the
    /// reading before and another one had taken over by the first reading with
    /// the call open, nobody can tell: on a busy machine seconds lie between.
    pub fn began_on_leaders(&self) -> Vec<Defrag> {
        let reigns = self.leadership();
        let mut all = self.defrags();
        all.retain(|defrag| {
            let successor = |reign: &Interval| {
                reign.member != defrag.member && reign.from >= defrag.earliest && reign.from <= defrag.from
            };
            defrag.was_leader_at_start && !reigns.iter().any(successor)
        });
        all
    }

    /// The most Defragment calls, queued ones too, that were certainly open at
    /// one instant on all members together.
    pub fn max_open_anywhere(&self) -> u64 {
        let mut edges: Vec<(Instant, bool, u64)> = Vec::new();
        for track in &self.tracks {
            for (from, to, open) in open_pieces(track) {
                // An instant is something, too: it must begin before it ends.
                let to = to.max(from + Duration::from_nanos(1));
                edges.push((from, true, open));
                edges.push((to, false, open));
            }
        }
        // Ends before beginnings: pieces of one member touch each other.
        edges.sort_by_key(|(at, begins, _)| (*at, *begins));
        let (mut open, mut most) = (0, 0);
        for (_, begins, calls) in edges {
            open = if begins { open + calls } else { open - calls };
            most = most.max(open);
        }
        most
    }

    /// Who led, and from when to when; one entry for each reign.
    pub fn leadership(&self) -> Vec<Interval> {
        self.intervals(|sample| sample.metrics.as_ref().is_some_and(|m| m.is_leader))
    }

    /// When a Snapshot stream was open.
    pub fn snapshots(&self) -> Vec<Interval> {
        self.intervals(|sample| sample.metrics.as_ref().is_some_and(|m| m.open_snapshots > 0))
    }

    /// When a member did not answer.
    pub fn gaps(&self) -> Vec<Interval> {
        self.intervals(|sample| sample.metrics.is_none())
    }

    /// Runs of readings for which `holds` is true, in the order of beginnings.
    pub fn intervals(&self, holds: impl Fn(&Sample) -> bool) -> Vec<Interval> {
        let mut all = Vec::new();
        for track in &self.tracks {
            let mut run: Option<Interval> = None;
            for sample in &track.samples {
                if !holds(sample) {
                    all.extend(run.take());
                    continue;
                }
                let run =
                    run.get_or_insert(Interval { member: track.member, from: sample.received, to: sample.received });
                run.to = sample.received;
            }
            all.extend(run);
        }
        all.sort_by_key(|interval| interval.from);
        all
    }

    /// How many raft entries were committed between two instants.
    pub fn raft_entries_between(&self, from: Instant, to: Instant) -> u64 {
        let committed = |at| {
            let all = self.tracks.iter();
            // Before the first reading there is nothing to go by but that one.
            let all = all.filter_map(|track| track.at(at).or_else(|| track.first()));
            all.map(|metrics| metrics.proposals_committed).max()
        };
        committed(to).unwrap_or_default().saturating_sub(committed(from).unwrap_or_default())
    }

    /// How many leases expired, counted by whoever led. A member that restarts
    /// starts from nothing, so rises are added up.
    pub fn leases_expired(&self) -> u64 {
        self.tracks.iter().map(|t| t.rise(|metrics| metrics.leases_expired)).sum()
    }

    /// The most leader changes that one member has seen.
    pub fn leader_changes(&self) -> u64 {
        let all = self.tracks.iter();
        all.map(|t| t.rise(|metrics| metrics.leader_changes)).max().unwrap_or_default()
    }

    pub fn track(&self, member: usize) -> &Track {
        let mut tracks = self.tracks.iter();
        tracks.find(|track| track.member == member).expect("the recorder watches this member")
    }
}

impl Track {
    /// The newest reading that had arrived at an instant.
    pub fn at(&self, instant: Instant) -> Option<&Metrics> {
        let end = self.samples.partition_point(|sample| sample.received <= instant);
        self.samples[..end].iter().rev().find_map(|sample| sample.metrics.as_ref())
    }

    pub fn first(&self) -> Option<&Metrics> {
        self.samples.iter().find_map(|sample| sample.metrics.as_ref())
    }

    pub fn last(&self) -> Option<&Metrics> {
        self.samples.iter().rev().find_map(|sample| sample.metrics.as_ref())
    }

    fn rise(&self, counter: impl Fn(&Metrics) -> u64) -> u64 {
        let mut readings = self.samples.iter().filter_map(|sample| sample.metrics.as_ref());
        let Some(mut before) = readings.next() else {
            return 0;
        };
        let mut rise = 0;
        for now in readings {
            let same = now.process_start == before.process_start;
            let base = if same { counter(before) } else { 0 };
            rise += counter(now).saturating_sub(base);
            before = now;
        }
        rise
    }
}

/// The state of reading one member's track.
///
/// The counters of one page are gathered one after the other, so a call may be
/// handled on one page and finished only on the next. Totals are compared,
/// never rises from page to page: those would count such a call twice.
struct Reader<'a> {
    member: usize,
    found: Vec<Defrag>,
    /// The last of `found` is open.
    open: bool,
    before: Option<(&'a Sample, &'a Metrics)>,
    /// What the process had counted before it was watched.
    base: Metrics,
    /// Where its defrags begin in `found`.
    first: usize,
    failed: usize,
}

fn defrags_of(track: &Track) -> Vec<Defrag> {
    let mut reader = Reader {
        member: track.member,
        found: Vec::new(),
        open: false,
        before: None,
        base: Metrics::default(),
        first: 0,
        failed: 0,
    };
    for sample in &track.samples {
        // Gaps are passed over: the counters after one tell whether the call
        // before it has ended.
        if let Some(metrics) = &sample.metrics {
            reader.read(sample, metrics);
        }
    }
    reader.found
}

impl<'a> Reader<'a> {
    fn read(&mut self, sample: &'a Sample, now: &'a Metrics) {
        match self.before {
            None => {
                self.base = now.clone();
                // Those are found yet.
                self.base.started_defrags -= now.open_defrags();
            }
            Some((_, before)) if before.process_start == now.process_start => {}
            Some(_) => {
                // Another process: what was open died with the old one.
                self.close(sample.sent);
                self.base = Metrics::default();
                self.first = self.found.len();
                self.failed = 0;
            }
        }
        let since = |total: u64, base: u64| total.saturating_sub(base) as usize;
        let started = since(now.started_defrags, self.base.started_defrags);
        let finished = since(now.defrag_count, self.base.defrag_count);
        self.failed = since(now.failed_defrags, self.base.failed_defrags);

        self.settle(finished);
        if self.open && now.open_defrags() == 0 {
            self.close(sample.received);
        }
        let known = self.found.len() - self.first;
        if self.open && self.found[self.first..][known - 1].finished && now.running_defrags() > 0 {
            // It still returns while the next in the queue runs.
            self.close(sample.received);
        }
        // All but the one that runs wait their turn in a queue of etcd's own.
        let queued = since(now.open_defrags(), 1);
        let total = started.max(finished + self.failed);
        let running = usize::from(!self.open && now.open_defrags() > 0);
        for _ in 0..total.saturating_sub(known + queued + running) {
            self.begin(sample, now, false);
        }
        if self.open {
            let open = self.found.last_mut().expect("the open one");
            open.to = sample.sent.max(open.from);
            open.latest = sample.received;
            open.led_during |= now.is_leader;
        } else if running > 0 && self.found.len() - self.first < total {
            self.begin(sample, now, true);
            self.open = true;
        }
        self.settle(finished);
        self.before = Some((sample, now));
    }

    fn begin(&mut self, sample: &Sample, now: &Metrics, seen: bool) {
        let earliest = self.before.map_or(sample.sent, |(before, _)| before.sent);
        // The gauge follows the election by an instant, so a defrag of the
        // leader is one in either reading beside its start.
        let led = now.is_leader || self.before.is_some_and(|(_, before)| before.is_leader);
        self.found.push(Defrag {
            member: self.member,
            from: if seen { sample.received } else { earliest },
            to: sample.received,
            earliest,
            latest: sample.received,
            seen,
            finished: false,
            was_leader_at_start: led,
            led_during: led,
        });
    }

    /// Marks the finished ones, the oldest first, as etcd works them off. One
    /// that failed is taken for the first of those that are left.
    fn settle(&mut self, finished: usize) {
        let marked = self.found[self.first..].iter().filter(|defrag| defrag.finished).count();
        let unmarked = self.found[self.first..].iter_mut().filter(|defrag| !defrag.finished);
        for defrag in unmarked.skip(self.failed).take(finished.saturating_sub(marked)) {
            defrag.finished = true;
        }
    }

    fn close(&mut self, latest: Instant) {
        if self.open {
            let open = self.found.last_mut().expect("the open one");
            open.latest = latest.max(open.latest);
            self.open = false;
        }
    }
}

/// Stretches of time in which at least so many calls were open on a member.
fn open_pieces(track: &Track) -> Vec<(Instant, Instant, u64)> {
    let open = |sample: &Sample| sample.metrics.as_ref().map_or(0, Metrics::open_defrags);
    let mut pieces = Vec::new();
    for (index, sample) in track.samples.iter().enumerate() {
        if open(sample) == 0 {
            continue;
        }
        let next = track.samples.get(index + 1).filter(|next| open(next) > 0);
        let middle = index > 0 && open(&track.samples[index - 1]) > 0 && next.is_some();
        if middle {
            pieces.push((sample.sent, sample.received, open(sample)));
        }
        if let Some(next) = next {
            pieces.push((sample.received, next.sent, open(sample).min(open(next))));
        }
        if next.is_none() && !middle {
            // Seen once: open at some instant, and that is all.
            pieces.push((sample.received, sample.received, open(sample)));
        }
    }
    pieces
}

/// For the message of a failed assertion.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |instant: Instant| instant.saturating_duration_since(self.started).as_secs_f64();
        for defrag in self.defrags() {
            writeln!(
                f,
                "{:8.3} to {:8.3} s  m{} defragmented{}{}{}",
                at(defrag.from),
                at(defrag.to),
                defrag.member,
                if defrag.was_leader_at_start { ", as leader" } else { "" },
                if defrag.finished { "" } else { ", not finished" },
                if defrag.seen { "" } else { ", between two readings" },
            )?;
        }
        for reign in self.leadership() {
            writeln!(f, "{:8.3} to {:8.3} s  m{} led", at(reign.from), at(reign.to), reign.member)?;
        }
        for gap in self.gaps() {
            writeln!(f, "{:8.3} to {:8.3} s  m{} silent", at(gap.from), at(gap.to), gap.member)?;
        }
        Ok(())
    }
}
