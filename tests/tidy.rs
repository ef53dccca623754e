//! The shape of the code, which no compiler enforces: layers import in one
//! direction only, and files stay readable.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LAYERS: [&str; 7] = ["plan", "config", "etcd", "http", "daemon", "cli", "load"];

/// Crates of values: they compute and do nothing.
const VALUE_CRATES: [&str; 7] = ["chrono", "croner", "jiff", "rhai", "serde", "serde_json", "thiserror"];

/// What of the standard library reaches out of the program.
const WORLD: [&str; 15] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "Instant::now",
    "SystemTime",
    "Utc::now",
    "Local::now",
    "Timestamp::now",
    "Zoned::now",
    "TimeZone::system",
];

struct Source {
    /// Below src/, with forward slashes.
    name: String,
    text: String,
}

impl Source {
    fn layer(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }

    /// The part that is compiled into the program, comments blanked out: line
    /// numbers stay.
    fn code(&self) -> Vec<&str> {
        if self.name.ends_with("/tests.rs") {
            return Vec::new();
        }
        let lines = self.text.lines();
        let lines = lines.take_while(|line| !line.starts_with("#[cfg(test)]"));
        lines.map(|line| line.split("//").next().unwrap_or_default()).collect()
    }

    /// The code's lines with their numbers, and each imported path as a line of
    /// its own: groups in braces would hide what is in them.
    fn statements(&self) -> Vec<(usize, String)> {
        let code = self.code();
        let mut all: Vec<_> = code.iter().enumerate().map(|(at, line)| (at + 1, (*line).to_owned())).collect();
        let mut import: Option<(usize, String)> = None;
        for (at, line) in code.iter().enumerate() {
            let begins = ["use ", "pub use ", "pub(super) use ", "pub(crate) use "];
            if import.is_none() && begins.iter().any(|begin| line.trim_start().starts_with(begin)) {
                import = Some((at + 1, String::new()));
            }
            if let Some((_, text)) = &mut import {
                text.push_str(line.trim());
            }
            if line.contains(';')
                && let Some((number, text)) = import.take()
            {
                let tree = text.split_once("use ").map_or("", |(_, tree)| tree).trim_end_matches(';');
                all.extend(expand(tree).into_iter().map(|path| (number, format!("use {path}"))));
            }
        }
        all
    }

    /// Every place where `word` stands as a word or a path of whole words.
    fn uses(&self, word: &str) -> Vec<String> {
        self.uses_where(word, |_| true)
    }

    fn uses_where(&self, word: &str, here: impl Fn(&str) -> bool) -> Vec<String> {
        let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut found = Vec::new();
        for (number, line) in self.statements() {
            for (at, _) in line.match_indices(word) {
                let (before, after) = (&line[..at], &line[at + word.len()..]);
                let whole = !before.ends_with(part_of_word) && !after.starts_with(part_of_word);
                if whole && here(before) {
                    found.push(format!("src/{}:{number}: {}", self.name, line.trim()));
                }
            }
        }
        found
    }

    /// Uses of another layer of ours.
    fn uses_layer(&self, layer: &str) -> Vec<String> {
        let mut found = self.uses(&format!("crate::{layer}"));
        if self.name == format!("{}/mod.rs", self.layer()) {
            found.extend(self.uses(&format!("super::{layer}")));
        }
        found
    }

    /// Uses of a crate: a path that begins with its name. `self::config` is a
    /// module of ours, whatever crate has that name.
    fn uses_crate(&self, name: &str) -> Vec<String> {
        let mut found = self.uses_where(name, |before| !before.ends_with("::"));
        found.retain(|line| line.contains(&format!("{name}::")) || line.contains(&format!("use {name}")));
        found
    }
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else { return vec![tree.trim().to_owned()] };
    let (prefix, rest) = tree.split_at(open);
    let inside = rest[1..].trim_end().strip_suffix('}').unwrap_or(&rest[1..]);
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[from..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|path| format!("{}{path}", prefix.trim())).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source { name: name(&src, &path), text: fs::read_to_string(&path).expect("UTF-8") });
            }
        }
    }
    assert!(found.len() > 40, "only {} files: is this still the right folder?", found.len());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn name(src: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(src).expect("below src").components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The crates that the package depends on, as paths name them.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("dependencies");
    let section = section.split("\n[").next().expect("an end");
    let names = section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.trim().replace('-', "_")).collect()
}

fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

fn in_layers<'a>(all: &'a [Source], layers: &'a [&str]) -> impl Iterator<Item = &'a Source> {
    all.iter().filter(move |source| layers.contains(&source.layer()))
}

#[test]
fn groups_of_imports_hide_nothing() {
    assert_eq!(expand("a::{b, c::{d, e as f}, g}"), ["a::b", "a::c::d", "a::c::e as f", "a::g"]);
    assert_eq!(expand("a::b"), ["a::b"]);
    let text = "//! x\nuse crate::{plan, etcd};\nuse std::{\n    fs,\n    time::{Duration, Instant},\n};\n";
    let source = Source { name: "plan/x.rs".to_owned(), text: text.to_owned() };
    assert_eq!(source.uses_layer("etcd").len(), 1);
    for word in ["std::fs", "std::time::Instant"] {
        assert_eq!(source.uses(word).len(), 1, "{word}: {:?}", source.statements());
    }
    assert_eq!(source.uses("std::time::Inst").len(), 0);
}

#[test]
fn every_layer_is_where_this_test_looks_for_it() {
    let all = sources();
    for layer in LAYERS {
        assert!(in_layers(&all, &[layer]).count() > 1, "no files of {layer}");
    }
    let known: BTreeSet<&str> = LAYERS.into_iter().chain(["main.rs", "lib.rs"]).collect();
    let strangers = all.iter().filter(|source| !known.contains(source.layer()) && !source.name.starts_with("bin/"));
    none(strangers.map(|source| source.name.clone()).collect(), "every file belongs to a layer");
    assert!(dependencies().contains("etcd_client") && dependencies().contains("tokio"), "{:?}", dependencies());
}

#[test]
fn plan_imports_only_itself_and_crates_of_values() {
    let all = sources();
    for source in in_layers(&all, &["plan"]) {
        for layer in LAYERS.iter().filter(|layer| **layer != "plan") {
            none(source.uses_layer(layer), "plan knows no other layer");
        }
        for dependency in dependencies().iter().filter(|name| !VALUE_CRATES.contains(&name.as_str())) {
            none(source.uses_crate(dependency), "plan uses crates of values only");
        }
    }
}

#[test]
fn plan_does_not_reach_out_of_the_program() {
    let all = sources();
    for source in in_layers(&all, &["plan"]) {
        for word in WORLD {
            none(source.uses(word), "in plan the time and everything else is an argument");
        }
        for word in ["async", "await"] {
            none(source.uses(word), "plan waits for nothing");
        }
    }
}

#[test]
fn imports_go_in_one_direction() {
    let all = sources();
    let forbidden: [(&[&str], &[&str]); 6] = [
        (&["config"], &["etcd", "http", "daemon", "cli", "load"]),
        (&["etcd"], &["http", "daemon", "cli", "load"]),
        (&["http"], &["config", "etcd", "daemon", "cli", "load"]),
        (&["daemon"], &["cli", "load"]),
        (&["cli"], &["load"]),
        (&["load"], &["daemon", "cli"]),
    ];
    for (users, used) in forbidden {
        for source in in_layers(&all, users) {
            for layer in used {
                none(source.uses_layer(layer), &format!("{} never imports {layer}", source.layer()));
            }
        }
    }
}

#[test]
fn only_the_etcd_layer_uses_the_etcd_client_and_only_the_http_layer_axum() {
    let all = sources();
    let homes: [(&str, &[&str]); 5] = [
        ("etcd_client", &["etcd"]),
        ("axum", &["http"]),
        ("clap", &["cli", "load"]),
        ("rhai", &["plan"]),
        ("hdrhistogram", &["load"]),
    ];
    for (library, homes) in homes {
        let elsewhere = |source: &&Source| !homes.contains(&source.layer()) && !source.name.starts_with("bin/");
        for source in all.iter().filter(elsewhere) {
            none(source.uses_crate(library), &format!("{library} is used in src/{} only", homes.join(" and src/")));
        }
    }
}

#[test]
fn the_clock_is_read_in_one_place_of_the_etcd_layer_and_never_to_decide() {
    let all = sources();
    let exempt = ["etcd/clock.rs", "http/routes.rs", "daemon/clockwork.rs", "daemon/clockwork/store.rs"];
    for source in all.iter().filter(|source| !exempt.contains(&source.name.as_str())) {
        none(source.uses("Utc::now"), "the wall clock is read by etcd::Clock");
    }
}

/// The janitor's crates, this one included, without those of the load test: each is code that must be trusted and
/// updated for years. A new one is worth its place, or the bound stays.
#[test]
fn the_janitor_is_made_of_a_bounded_number_of_crates() {
    const MOST: usize = 184;
    let words = ["tree", "--locked", "--no-default-features", "--edges=normal", "--prefix=none", "--format={p}"];
    let tree = Command::new(env!("CARGO")).args(words).current_dir(root()).output().expect("cargo runs");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    let crates: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    assert!(crates.iter().any(|name| name.starts_with("etcd-client ")), "is this still the tree? {crates:?}");
    assert!(!crates.iter().any(|name| name.starts_with("hdrhistogram ")), "the janitor has no part of the load test");
    assert!(crates.len() <= MOST, "{} crates, at most {MOST}:\n{tree}", crates.len());
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let long = sources().into_iter().filter(|source| source.text.lines().count() > 600);
    none(long.map(|source| source.name).collect(), "longer than 600 lines");
}

#[test]
fn every_file_begins_by_saying_what_it_is_for() {
    let all = sources();
    let silent = all.iter().filter(|source| !source.text.starts_with("//! ") && !source.name.ends_with("/tests.rs"));
    none(silent.map(|source| source.name.clone()).collect(), "begins with no `//!`");
}

#[test]
fn nothing_is_left_half_done() {
    let all = sources();
    for source in &all {
        for word in ["todo!", "unimplemented!", "dbg!", "println!", "eprintln!"] {
            let found = source.code().into_iter().filter(|line| line.contains(word));
            none(found.map(|line| format!("{}: {line}", source.name)).collect(), word);
        }
        let marks = source.text.lines().filter(|line| ["TODO", "FIXME", "XXX"].iter().any(|mark| line.contains(mark)));
        none(marks.map(|line| format!("{}: {line}", source.name)).collect(), "marks of unfinished work");
    }
}
