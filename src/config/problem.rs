//! What is wrong with a configuration, one line each.

use std::fmt;

use super::keys;
use super::source::{Fingerprint, Origin};
use super::value::Wrong;

/// One thing that is wrong. Shown as one line, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written: a file, an environment variable, a flag.
    pub origin: String,
    /// The key path, or several joined by "and"; empty: the source as a whole.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "found {}; allowed: {}", self.found, self.allowed)
    }
}

impl Problem {
    pub(super) fn new(origin: &Origin, key: &str, found: String, allowed: &str) -> Problem {
        Problem { origin: origin.to_string(), key: printable(key), found, allowed: allowed.to_owned() }
    }

    /// A value that a key does not take.
    pub(super) fn for_key(origin: &Origin, path: &str, found: String) -> Problem {
        let allowed = keys::find(path).map(|key| key.spec().takes()).unwrap_or_default();
        Problem::new(origin, path, found, &allowed)
    }

    /// What a reader refused.
    pub(super) fn wrong(origin: &Origin, path: &str, shown: String, wrong: Wrong) -> Problem {
        let problem = Problem::for_key(origin, path, wrong.found.unwrap_or(shown));
        Problem { allowed: wrong.allowed.unwrap_or(problem.allowed), ..problem }
    }

    /// A key that does not exist. Its value is not shown: it may be a password.
    pub(super) fn unknown(origin: &Origin, path: &str) -> Problem {
        let as_written = |path: &str| match origin {
            Origin::Environment(_) => keys::environment_name(path),
            _ => path.to_owned(),
        };
        let near: Vec<String> = nearest(path).into_iter().map(|path| format!("`{}`", as_written(path))).collect();
        let allowed = if near.is_empty() {
            let above = path.rsplit_once('.').map_or("", |(above, _)| above);
            let names = keys::children(above);
            if names.is_empty() { keys::children("") } else { names }.join(" ")
        } else {
            format!("did you mean {}?", near.join(" or "))
        };
        Problem::new(origin, path, "an unknown key".to_owned(), &allowed)
    }

    /// A section that was given a value.
    pub(super) fn section(origin: &Origin, path: &str) -> Problem {
        let allowed = format!("a map with the keys {}", keys::children(path).join(" "));
        Problem::new(origin, path, "a value".to_owned(), &allowed)
    }
}

/// Everything that is wrong, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// At least one, in the order of the sources, combinations last.
    pub problems: Vec<Problem>,
    /// Of the file, if it could be read: the same content need not be tried again.
    pub fingerprint: Option<Fingerprint>,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

fn printable(text: &str) -> String {
    text.chars().take(120).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Key paths that somebody may have meant, at most two.
fn nearest(path: &str) -> Vec<&'static str> {
    let path = path.to_lowercase();
    if path.len() > 120 {
        return Vec::new();
    }
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let mut candidates: Vec<(usize, &'static str)> = keys::ALL
        .iter()
        .map(|key| {
            let known = key.spec().path;
            let misplaced = if last(known) == last(&path) { 2 } else { usize::MAX };
            (distance(known, &path).min(misplaced), known)
        })
        .filter(|(distance, known)| *distance <= 3 && *distance * 3 <= known.len())
        .collect();
    candidates.sort();
    let best = candidates.first().map_or(0, |(distance, _)| *distance);
    candidates.into_iter().filter(|(distance, _)| *distance == best).map(|(_, path)| path).take(2).collect()
}

/// Insertions, deletions and replacements between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_far_apart_as_they_look() {
        for (a, b, expected) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("kitten", "sitting", 3), ("rule", "rule", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_typo_finds_its_key_and_nonsense_finds_none() {
        assert_eq!(nearest("defrag.schedul"), ["defrag.schedule"]);
        assert_eq!(nearest("schedule"), ["compaction.schedule", "defrag.schedule"]);
        assert_eq!(nearest("defrag_schedule"), ["defrag.schedule"]);
        assert_eq!(nearest("etcd.auth.password"), Vec::<&str>::new());
        assert_eq!(nearest("dryrun"), ["dry_run"]);
    }
}
