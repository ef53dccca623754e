//! `process_*`: the crate's collector, with processor time that has a fraction.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};

const CPU: &str = "process_cpu_seconds_total";

/// What `USER_HZ` is on every Linux of today; only used when the kernel does not tell.
const USUAL_TICKS: f64 = 100.0;

/// `AT_CLKTCK` of `<elf.h>`.
const AT_CLKTCK: usize = 17;

/// The crate's [`ProcessCollector`] counts processor time in whole seconds, so that a janitor which uses 10 ms a minute
/// reads 0 for hours and `rate()` over it is a step. This one replaces that single value.
pub(super) struct Process {
    inner: ProcessCollector,
    ticks: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        Process { inner: ProcessCollector::for_self(), ticks: ticks_per_second() }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.inner.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.inner.collect();
        let seconds = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_ticks(&stat));
        if let Some(ticks) = seconds {
            for metric in families.iter_mut().filter(|f| f.name() == CPU).flat_map(|f| f.mut_metric().iter_mut()) {
                let mut counter = Counter::default();
                counter.set_value(ticks as f64 / self.ticks);
                metric.set_counter(counter);
            }
        }
        families
    }
}

/// utime + stime. The command name before them may hold spaces and parentheses: count from the last one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// From the auxiliary vector, which needs neither libc nor `unsafe`: pairs of native words.
fn ticks_per_second() -> f64 {
    const WORD: usize = size_of::<usize>();
    let words: Vec<usize> = fs::read("/proc/self/auxv")
        .unwrap_or_default()
        .chunks_exact(WORD)
        .filter_map(|bytes| bytes.try_into().ok().map(usize::from_ne_bytes))
        .collect();
    let found = words.chunks_exact(2).find(|pair| pair[0] == AT_CLKTCK).map(|pair| pair[1]);
    found.filter(|ticks| *ticks > 0).map_or(USUAL_TICKS, |ticks| ticks as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_name_cannot_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 100";
        assert_eq!(cpu_ticks(stat), Some(300));
        for hostile in ["", "7", "7 (a", "7 (a) S 1 2", "7 (a) S 1 2 3 4 5 6 7 8 9 10 x y"] {
            assert_eq!(cpu_ticks(hostile), None, "{hostile:?}");
        }
    }

    #[test]
    fn processor_time_has_a_fraction() {
        assert_eq!(ticks_per_second(), USUAL_TICKS);
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 60 {
            std::hint::black_box(began);
        }
        let families = Process::new().collect();
        let cpu = families.iter().find(|family| family.name() == CPU).unwrap();
        assert!(cpu.get_metric()[0].get_counter().get_value() > 0.0);
    }
}
