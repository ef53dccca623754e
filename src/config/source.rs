//! Where values come from: the file, the environment, flags. Reads them through the `config` crate.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use config::{FileFormat, Source as _, Value, ValueKind};

use super::keys;
use super::problem::Problem;
use super::value::Raw;

/// Longest file that is read, in bytes.
pub const MAX_FILE: usize = 256 * 1024;

/// Deepest nesting that is read. Ours is three deep; the parser recurses and would overflow its stack.
const MAX_NESTING: usize = 32;

/// Everything a configuration is made from, the later winning over the earlier.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The YAML file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment. What does not begin with `ETCD_JANITOR__` is ignored.
    pub env: BTreeMap<String, String>,
    /// Key paths and values from the command line.
    pub flags: Vec<(String, String)>,
}

impl Source {
    /// The file as people know it, or "defaults".
    pub fn name(&self) -> String {
        self.file.as_ref().map_or_else(|| "defaults".to_owned(), |file| file.display().to_string())
    }
}

/// Where one value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// The command line, by key path.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(file) => write!(f, "{}", file.display()),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag(path) => match keys::find(path).and_then(|key| key.spec().flag) {
                Some(flag) => write!(f, "flag --{flag}"),
                None => write!(f, "flag for {path}"),
            },
        }
    }
}

/// What a file held, for telling whether it changed. Not stable between processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    length: usize,
    hash: u64,
}

impl Fingerprint {
    /// The fingerprint of a content.
    pub fn of(content: &[u8]) -> Fingerprint {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Fingerprint { length: content.len(), hash: hasher.finish() }
    }
}

/// Reads a file's fingerprint. Content is what counts: a ConfigMap changes by swapping a symlink, with any mtime.
///
/// # Errors
///
/// The file cannot be read. Of a file that is too long only the beginning counts.
pub fn read_fingerprint(path: &Path) -> io::Result<Fingerprint> {
    read_fingerprint_within(path, MAX_FILE)
}

/// The same of a file that may be longer than the configuration.
///
/// # Errors
///
/// The file cannot be read.
pub fn read_fingerprint_within(path: &Path, longest: usize) -> io::Result<Fingerprint> {
    read_bounded(path, longest).map(|content| Fingerprint::of(&content))
}

fn read_bounded(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(longest as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// A value that somebody set.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) path: String,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// What the file says, and its fingerprint when it could be read at all.
pub(super) fn from_file(file: &Path, problems: &mut Vec<Problem>) -> (Vec<Given>, Option<Fingerprint>) {
    let mut given = Vec::new();
    let origin = Origin::File(file.to_owned());
    let mut refuse = |found: String, allowed: &str| problems.push(Problem::new(&origin, "", found, allowed));
    let content = match read_bounded(file, MAX_FILE) {
        Ok(content) => content,
        Err(error) => {
            refuse(format!("a file that cannot be read: {error}"), "a readable YAML file");
            return (given, None);
        }
    };
    let fingerprint = Some(Fingerprint::of(&content));
    if content.len() > MAX_FILE {
        refuse("a file that is too long".to_owned(), "at most 256 KiB");
        return (given, fingerprint);
    }
    let Ok(text) = String::from_utf8(content) else {
        refuse("bytes that are not UTF-8".to_owned(), "text");
        return (given, fingerprint);
    };
    if let Err((line, found)) = bounded(&text) {
        refuse(format!("{found} in line {line}"), "plain keys and values, at most 32 levels deep");
        return (given, fingerprint);
    }
    match config::File::from_str(&text, FileFormat::Yaml).collect() {
        Ok(map) => flatten("", map.into_iter().collect(), &origin, &mut given, problems),
        // A file with nothing but comments or `---` sets nothing.
        Err(_)
            if text.lines().all(|line| matches!(line.trim(), "" | "---" | "...") || line.trim().starts_with('#')) => {}
        Err(error) => refuse(syntax(error), "YAML: keys and values"),
    }
    (given, fingerprint)
}

/// What is wrong with the YAML, without repeating content: the wrong file may hold a secret.
fn syntax(error: config::ConfigError) -> String {
    let config::ConfigError::FileParse { cause, .. } = error else { return "no YAML".to_owned() };
    // The crate boxes this one twice.
    if cause.is::<config::ConfigError>() || cause.is::<Box<config::ConfigError>>() {
        return "a file that is a single value or a list".to_owned();
    }
    let text = cause.to_string();
    // The parser's own errors end in their place; others quote what they found.
    match text.split_once(" at byte ") {
        Some((what, place)) if !what.contains("duplicated key") => {
            let place = place.split_once(' ').map_or(place, |(_, line)| line);
            format!("broken YAML at {}: {}", place.replace(" column", ", column"), one_line(what))
        }
        Some((_, place)) => {
            let place = place.split_once(' ').map_or(place, |(_, line)| line);
            format!("a key twice at {}", place.replace(" column", ", column"))
        }
        None if text.contains("documents") => "several YAML documents".to_owned(),
        None => "YAML with a value that cannot be read".to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Refuses what would cost the parser unbounded stack or memory, before it sees it.
fn bounded(text: &str) -> Result<(), (usize, &'static str)> {
    let mut open = 0_usize;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let body = line.trim_start();
        if body.starts_with('#') {
            continue;
        }
        // Each pair of a dash or question mark and a space opens a level without any bracket.
        let lists = body.split(' ').take_while(|word| matches!(*word, "-" | "?" | "" | ":")).count();
        let indent = line.len() - body.len();
        for c in body.chars() {
            match c {
                '[' | '{' => open += 1,
                ']' | '}' => open = open.saturating_sub(1),
                _ => {}
            }
            if open > MAX_NESTING {
                return Err((number, "too deep nesting"));
            }
        }
        if lists > MAX_NESTING || indent > MAX_NESTING * 8 {
            return Err((number, "too deep nesting"));
        }
        // An alias of an alias of an alias is small in the file and huge in memory; a tag eats the word behind it, so
        // that the rule !(a) && b would be read as && b.
        let named = |word: &str, signs: &[char], then: &str| {
            let name = word.strip_prefix(signs);
            name.is_some_and(|name| name.starts_with(|c: char| c.is_alphanumeric() || then.contains(c)))
        };
        let values =
            [": ", "- ", "[", "{", ", "].iter().flat_map(|start| body.split(start).skip(1)).map(str::trim_start);
        let special = |value: &str| value.starts_with('!') || named(value, &['&', '*'], "_");
        // A line may also go on with a rule, where `!(` and `&&` are usual.
        if named(body, &['&', '*', '!'], "_!<") || values.into_iter().any(special) {
            return Err((number, "an anchor, alias or tag (text that begins with & * or ! needs quotes)"));
        }
    }
    Ok(())
}

fn flatten(
    above: &str,
    mut table: Vec<(String, Value)>,
    origin: &Origin,
    given: &mut Vec<Given>,
    problems: &mut Vec<Problem>,
) {
    table.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, value) in table {
        let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        let is_key = keys::find(&path).is_some();
        let is_section = keys::is_section(&path);
        if name.contains('.') {
            problems.push(Problem::new(origin, &path, "a key with a dot".to_owned(), "nested maps, one for each dot"));
            continue;
        }
        if !(is_key || is_section) {
            problems.push(Problem::unknown(origin, &path));
            continue;
        }
        match value.kind {
            ValueKind::Table(inner) if is_section => {
                flatten(&path, inner.into_iter().collect(), origin, given, problems);
            }
            ValueKind::Nil if is_section => {}
            _ if is_section => problems.push(Problem::section(origin, &path)),
            ValueKind::Table(_) => problems.push(Problem::for_key(origin, &path, "a map".to_owned())),
            kind => match raw(kind) {
                Some(raw) => given.push(Given { path, raw, origin: origin.clone() }),
                None => problems.push(Problem::for_key(origin, &path, "a list of lists or maps".to_owned())),
            },
        }
    }
}

fn raw(kind: ValueKind) -> Option<Raw> {
    Some(match kind {
        ValueKind::String(text) => Raw::Text(text),
        ValueKind::Nil => Raw::Nothing,
        ValueKind::Array(items) => Raw::List(items.into_iter().map(|item| raw(item.kind)).collect::<Option<_>>()?),
        ValueKind::Table(_) => return None,
        plain => Raw::Plain(plain.to_string()),
    })
}

/// What the environment says.
pub(super) fn from_environment(env: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Vec<Given> {
    // The prefix ends in two underscores: Kubernetes itself sets ETCD_JANITOR_PORT and the like for a Service of
    // that name. Never try_parsing, which turns the text 007 into the number 7.
    let environment = config::Environment::with_prefix("ETCD_JANITOR").prefix_separator("__").separator("__");
    let variables = env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let collected = match environment.source(Some(variables)).collect() {
        Ok(collected) => collected,
        Err(error) => {
            let origin = Origin::Environment("ETCD_JANITOR__*".to_owned());
            problems.push(Problem::new(&origin, "", error.to_string(), "variables that can be read"));
            return Vec::new();
        }
    };
    let mut values: Vec<(String, Value)> = collected.into_iter().collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let written = |(path, value): (String, Value)| {
        let origin = Origin::Environment(keys::environment_name(&path));
        written(path, value.into_string().unwrap_or_default(), origin, problems)
    };
    values.into_iter().filter_map(written).collect()
}

/// What the command line says.
pub(super) fn from_flags(flags: &[(String, String)], problems: &mut Vec<Problem>) -> Vec<Given> {
    let one =
        |(path, value): &(String, String)| written(path.clone(), value.clone(), Origin::Flag(path.clone()), problems);
    flags.iter().filter_map(one).collect()
}

/// A value that is text whatever it means; lists are separated by commas.
fn written(path: String, text: String, origin: Origin, problems: &mut Vec<Problem>) -> Option<Given> {
    let Some(key) = keys::find(&path) else {
        let problem = if keys::is_section(&path) { Problem::section } else { Problem::unknown };
        problems.push(problem(&origin, &path));
        return None;
    };
    let raw = if key.spec().is_list() {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Raw::List(items.map(|item| Raw::Text(item.to_owned())).collect())
    } else {
        Raw::Text(text)
    };
    Some(Given { path, raw, origin })
}

#[cfg(test)]
mod tests;
