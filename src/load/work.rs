//! What is sent: operation `n` of a stage, from its number alone. Nothing is remembered, however many keys there are.

use std::fmt;
use std::time::Duration;

/// What is done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Written.
    Write,
    /// Read by quorum.
    Read,
    /// Deleted.
    Delete,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Kind; 3] = [Kind::Write, Kind::Read, Kind::Delete];

    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Write => "write",
            Kind::Read => "read",
            Kind::Delete => "delete",
        }
    }
}

/// Weights of what is done with keys at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mix {
    /// Of reads.
    pub read: u32,
    /// Of writes.
    pub write: u32,
    /// Of deletes.
    pub delete: u32,
}

/// Highest weight: sums stay far from any overflow.
const HEAVIEST: u32 = 1_000_000;

impl Mix {
    /// Reads `read=80,write=15,delete=5`; what is not named is not done.
    pub fn parse(written: &str) -> Result<Mix, String> {
        let mut mix = Mix::default();
        let mut named = Vec::new();
        for part in written.split(',') {
            let (name, weight) =
                part.split_once('=').ok_or_else(|| format!("{part:?} is not name=weight, such as read=80"))?;
            let name = name.trim();
            let weight: u32 =
                weight.trim().parse().ok().filter(|weight| *weight <= HEAVIEST).ok_or_else(|| {
                    format!("the weight of {name:?} is {weight:?}, not a whole number up to {HEAVIEST}")
                })?;
            if named.contains(&name) {
                return Err(format!("{name:?} is there twice"));
            }
            named.push(name);
            match name {
                "read" => mix.read = weight,
                "write" => mix.write = weight,
                "delete" => mix.delete = weight,
                _ => return Err(format!("{name:?} is none of read, write, delete")),
            }
        }
        if mix.sum() == 0 { Err("all weights are 0".to_owned()) } else { Ok(mix) }
    }

    fn sum(&self) -> u32 {
        self.read + self.write + self.delete
    }

    fn choose(&self, random: u64) -> Kind {
        let at = random % u64::from(self.sum());
        if at < u64::from(self.read) {
            Kind::Read
        } else if at < u64::from(self.read) + u64::from(self.write) {
            Kind::Write
        } else {
            Kind::Delete
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read={},write={},delete={}", self.read, self.write, self.delete)
    }
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The same each time.
    Text(String),
    /// So many bytes, other ones in each write: no file system can make them small.
    Random(usize),
}

impl Value {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Random(bytes) => *bytes,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self, seed: u64) -> Vec<u8> {
        match self {
            Value::Text(text) => text.clone().into_bytes(),
            Value::Random(bytes) => {
                let mut all = Vec::with_capacity(bytes + 8);
                let mut word = seed;
                while all.len() < *bytes {
                    word = word.wrapping_add(STEP);
                    all.extend_from_slice(&scatter(word).to_le_bytes());
                }
                all.truncate(*bytes);
                all
            }
        }
    }
}

/// One part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Every key is written once, in order.
    Fill,
    /// Every key is written again, so many times: each time leaves an old version.
    Churn {
        /// How often.
        times: u64,
    },
    /// Keys at random, until there were so many operations or the time is over.
    Mixed {
        /// Of what.
        mix: Mix,
        /// So many operations.
        operations: Option<u64>,
        /// So long.
        duration: Option<Duration>,
    },
}

impl Stage {
    /// For reports.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Fill => "fill",
            Stage::Churn { .. } => "churn",
            Stage::Mixed { .. } => "mix",
        }
    }

    /// How long, if that ends it.
    pub fn duration(&self) -> Option<Duration> {
        match self {
            Stage::Mixed { duration, .. } => *duration,
            _ => None,
        }
    }
}

/// The keys of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// How many.
    pub keys: u64,
    /// What they begin with; their number follows.
    pub prefix: String,
    /// What is written.
    pub value: Value,
    /// Another one gives other keys at random and other bytes.
    pub seed: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What is done.
    pub kind: Kind,
    /// With which key.
    pub key: String,
    /// What is written; empty for others.
    pub value: Vec<u8>,
}

impl Work {
    /// How many operations a stage has; none: until its time is over.
    pub fn operations(&self, stage: &Stage) -> Option<u64> {
        match stage {
            Stage::Fill => Some(self.keys),
            Stage::Churn { times } => Some(self.keys.saturating_mul(*times)),
            Stage::Mixed { operations, .. } => *operations,
        }
    }

    /// Operation `number` of a stage, counted from 0.
    pub fn operation(&self, stage: &Stage, number: u64) -> Operation {
        // Stages with the same numbers must not write the same bytes, or meet the same keys.
        let stage_seed = match stage {
            Stage::Fill => 1_u64,
            Stage::Churn { .. } => 2,
            Stage::Mixed { .. } => 3,
        };
        let random = scatter(scatter(self.seed ^ stage_seed.wrapping_mul(STEP)).wrapping_add(number));
        let (kind, index) = match stage {
            Stage::Fill | Stage::Churn { .. } => (Kind::Write, number % self.keys),
            Stage::Mixed { mix, .. } => (mix.choose(random), scatter(random) % self.keys),
        };
        let value = if kind == Kind::Write { self.value.bytes(random) } else { Vec::new() };
        Operation { kind, key: format!("{}{index}", self.prefix), value }
    }
}

/// An odd number without a pattern in its bits: the golden ratio's.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Numbers in a row become numbers without order (the finalizer of SplitMix64).
fn scatter(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn work(keys: u64) -> Work {
        Work { keys, prefix: "foo".to_owned(), value: Value::Random(21), seed: 7 }
    }

    #[test]
    fn filling_writes_each_key_once_and_churning_writes_each_again() {
        let work = work(10);
        let keys: Vec<String> = (0..10).map(|number| work.operation(&Stage::Fill, number).key).collect();
        assert_eq!(keys, ["foo0", "foo1", "foo2", "foo3", "foo4", "foo5", "foo6", "foo7", "foo8", "foo9"]);
        let churn = Stage::Churn { times: 3 };
        assert_eq!(work.operations(&churn), Some(30));
        let mut written: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for number in 0..30 {
            let operation = work.operation(&churn, number);
            assert_eq!(operation.kind, Kind::Write);
            assert_eq!(operation.value.len(), 21);
            written.entry(operation.key).or_default().insert(operation.value);
        }
        assert_eq!(written.len(), 10);
        assert!(written.values().all(|versions| versions.len() == 3), "each write has bytes of its own");
    }

    #[test]
    fn the_load_test_of_the_cronjobs_author_is_the_one_without_options() {
        let value = Value::Text("bar".to_owned());
        let work = Work { keys: 2_000_000, prefix: "foo".to_owned(), value, seed: 0 };
        let last = work.operation(&Stage::Fill, 1_999_999);
        assert_eq!((last.key.as_str(), last.value.as_slice()), ("foo1999999", b"bar".as_slice()));
    }

    #[test]
    fn a_mix_keeps_its_weights_and_meets_every_key() {
        let work = work(100);
        let mix = Mix::parse("read=80, write=15, delete=5").expect("a mix");
        let stage = Stage::Mixed { mix, operations: Some(100_000), duration: None };
        let (mut kinds, mut keys) = (BTreeMap::new(), BTreeMap::new());
        for number in 0..100_000 {
            let operation = work.operation(&stage, number);
            assert_eq!(operation.value.is_empty(), operation.kind != Kind::Write);
            *kinds.entry(operation.kind).or_insert(0_u32) += 1;
            *keys.entry(operation.key).or_insert(0_u32) += 1;
        }
        for (kind, expected) in [(Kind::Read, 80_000), (Kind::Write, 15_000), (Kind::Delete, 5_000)] {
            let seen = kinds[&kind];
            assert!(seen.abs_diff(expected) < 1_000, "{kind:?}: {seen}");
        }
        assert_eq!(keys.len(), 100);
        assert!(keys.values().all(|seen| seen.abs_diff(1_000) < 250), "{keys:?}");
    }

    #[test]
    fn the_seed_alone_decides() {
        let stage = Stage::Mixed { mix: Mix { read: 1, write: 1, delete: 1 }, operations: None, duration: None };
        let sequence = |work: &Work| (0..50).map(|number| work.operation(&stage, number)).collect::<Vec<_>>();
        assert_eq!(sequence(&work(1000)), sequence(&work(1000)));
        assert_ne!(sequence(&work(1000)), sequence(&Work { seed: 8, ..work(1000) }));
    }

    #[test]
    fn a_mix_that_cannot_be_meant_is_refused_with_its_place() {
        let cases = [
            ("read", "not name=weight"),
            ("read=80,reed=20", "\"reed\""),
            ("read=-1", "\"-1\""),
            ("read=1,read=2", "twice"),
            ("read=0,write=0", "all weights are 0"),
            ("read=4294967296", "whole number"),
            ("", "not name=weight"),
        ];
        for (written, expected) in cases {
            let error = Mix::parse(written).expect_err(written);
            assert!(error.contains(expected), "{written:?}: {error}");
        }
    }
}
