//! The configuration as operators meet it: files, messages, documents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use etcd_janitor::cli::config as command;
use etcd_janitor::config::keys::{self, Spec};
use etcd_janitor::config::{Config, Origin, Retention, Source, load};

mod messages {
    pub(crate) mod broken;
    pub(crate) mod combinations;
}

const SAMPLE: &str = include_str!("../config/etcd-janitor.yaml");
const DOCUMENT: &str = include_str!("../docs/configuration.md");

fn now() -> DateTime<Utc> {
    "2026-10-24T06:00:00Z".parse().unwrap()
}

/// What `config check` and `config show` say about a file, an environment and flags, with the file's folder removed.
struct Given {
    folder: tempfile::TempDir,
    source: Source,
}

fn given(yaml: &[u8]) -> Given {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("janitor.yaml");
    std::fs::write(&file, yaml).unwrap();
    Given { folder, source: Source { file: Some(file), ..Source::default() } }
}

impl Given {
    fn env(mut self, name: &str, value: &str) -> Given {
        self.source.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn flag(mut self, path: &str, value: &str) -> Given {
        self.source.flags.push((path.to_owned(), value.to_owned()));
        self
    }

    fn cleaned(&self, text: Vec<u8>) -> String {
        let folder = format!("{}/", self.folder.path().display());
        String::from_utf8(text).unwrap().replace(&folder, "")
    }

    fn check(&self) -> String {
        let mut out = Vec::new();
        let code = command::check(&self.source, now(), &mut out).unwrap();
        format!("{}exit code {code}\n", self.cleaned(out))
    }

    fn show(&self) -> String {
        let mut out = Vec::new();
        command::show(&self.source, &mut out).unwrap();
        self.cleaned(out)
    }

    fn config(&self) -> Config {
        load(&self.source).unwrap_or_else(|invalid| panic!("{invalid}")).config
    }
}

/// Compares with tests/snapshots; each part is what was given and what was said about it.
#[track_caller]
fn matches(name: &str, parts: &[(&str, String)]) {
    let text: Vec<String> = parts.iter().map(|(given, said)| format!("=== {given}\n{said}")).collect();
    insta::assert_snapshot!(name, text.join("\n"));
}

/// The same for files alone.
#[track_caller]
fn matches_files(name: &str, files: &[&str]) {
    let parts: Vec<(&str, String)> = files.iter().map(|yaml| (*yaml, given(yaml.as_bytes()).check())).collect();
    matches(name, &parts);
}

#[test]
fn the_defaults_are_valid_and_doubtless() {
    let loaded = load(&Source::default()).unwrap_or_else(|invalid| panic!("{invalid}"));
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert!(loaded.effective.iter().all(|one| one.origin == Origin::Default));
    assert_eq!(loaded.effective.len(), keys::ALL.len());
}

#[test]
fn the_sample_file_sets_every_key_to_its_default() {
    let sample = given(SAMPLE.as_bytes());
    assert_eq!(sample.config(), Config::default());
    let loaded = load(&sample.source).unwrap();
    for one in &loaded.effective {
        assert!(matches!(one.origin, Origin::File(_)), "config/etcd-janitor.yaml lacks {}", one.path);
    }
}

#[test]
fn what_show_prints_reads_back_the_same() {
    let first = given(b"etcd: { peers: [\"http://a:1\", \"http://b:1\"] }\ndefrag: { rule: 'dbSize > 1', jitter: 0s }")
        .env("ETCD_JANITOR__DEFRAG__TIME_ZONE", "Europe/Paris")
        .env("ETCD_JANITOR__COMPACTION__MODE", "revision")
        .env("ETCD_JANITOR__COMPACTION__RETENTION", "10000")
        .env("ETCD_JANITOR__ETCD__MEMBER_NAME", "007 \"x\" # \\ \u{e9}")
        .env("ETCD_JANITOR__ALARMS__QUOTA", "8GiB")
        .flag("dry_run", "true");
    let again = given(first.show().as_bytes());
    assert_eq!(again.config(), first.config());
    assert_eq!(again.config().compaction.retention, Retention::Revisions(10_000));
    assert_eq!(given(given(b"").show().as_bytes()).config(), Config::default());
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = given(b"log: { level: warn }\nhistory: { limit: 3 }");
    assert_eq!(file.config().log.level, "warn");
    let file = file.env("ETCD_JANITOR__LOG__LEVEL", "debug").env("ETCD_JANITOR_PORT", "tcp://10.0.0.1:8379");
    assert_eq!(file.config().log.level, "debug");
    let file = file.flag("log.level", "trace").env("ETCD_JANITOR__ETCD__PEERS", "http://a:1, http://b:1,");
    let config = file.config();
    assert_eq!((config.log.level.as_str(), config.history.limit), ("trace", 3));
    assert_eq!(config.etcd.peers, ["http://a:1", "http://b:1"]);
    let shown = file.show();
    for line in [
        "  level: \"trace\" # flag --log-level",
        "  limit: 3 # janitor.yaml",
        "  format: json # default",
        "  peers: [\"http://a:1\", \"http://b:1\"] # environment variable ETCD_JANITOR__ETCD__PEERS",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
}

#[test]
fn every_key_can_be_set_from_the_environment_alone() {
    let mut env = BTreeMap::new();
    for key in keys::ALL {
        env.insert(key.spec().environment(), key.spec().default.to_owned());
    }
    let loaded = load(&Source { env, ..Source::default() }).unwrap_or_else(|invalid| panic!("{invalid}"));
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.effective.iter().all(|one| matches!(one.origin, Origin::Environment(_))));
}

#[test]
fn empty_files_and_sections_set_nothing() {
    for yaml in ["", "\n", "# nothing\n", "---\n", "defrag:\netcd:\n  tls:\n", "{}"] {
        assert_eq!(given(yaml.as_bytes()).config(), Config::default(), "{yaml:?}");
    }
}

#[test]
fn check_prints_the_next_firings_in_both_zones() {
    let paris = given(b"defrag: { schedule: '30 9 * * *', time_zone: Europe/Paris }\ncompaction: { enabled: false }");
    matches("check", &[("30 9 * * * in Paris, no compaction", paris.check())]);
}

#[test]
fn show_prints_every_key_with_its_origin() {
    let shown = given(b"defrag: { window: 2h }").flag("etcd.endpoint", "http://127.0.0.1:12379").show();
    matches("show", &[("a window and an endpoint", shown)]);
}

#[test]
fn the_schema_knows_every_key() {
    let mut out = Vec::new();
    assert_eq!(command::schema(&mut out).unwrap(), 0);
    let schema: serde_json::Value = serde_json::from_slice(&out).unwrap();
    for key in keys::ALL {
        let pointer = key.spec().path.split('.').fold(String::new(), |at, name| format!("{at}/properties/{name}"));
        let property = schema.pointer(&pointer).unwrap_or_else(|| panic!("no {pointer}"));
        assert!(property.get("type").is_some() && property.get("default").is_some(), "{property}");
    }
}

/// The line of docs/configuration.md about a key.
fn row(spec: &Spec) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let default = match (spec.is_list(), spec.default) {
        (true, _) => "`[]`".to_owned(),
        (_, "") => "empty".to_owned(),
        (_, default) => format!("`{}`", cell(default)),
    };
    let flag = spec.flag.map_or(String::new(), |flag| format!(" `--{flag}`"));
    format!(
        "| `{}` | {default} | {} | {} | `{}`{flag} |",
        spec.path,
        cell(&spec.takes()),
        cell(spec.doc),
        spec.environment()
    )
}

#[test]
fn every_key_is_documented_and_nothing_else() {
    let mut missing = Vec::new();
    for key in keys::ALL {
        let row = row(key.spec());
        if !DOCUMENT.lines().any(|line| line == row) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "docs/configuration.md lacks these lines:\n{}", missing.join("\n"));
    let rows = DOCUMENT.lines().filter(|line| line.contains("`ETCD_JANITOR__") && line.starts_with('|')).count();
    assert_eq!(rows, keys::ALL.len(), "docs/configuration.md has lines about keys that do not exist");
}

#[test]
fn every_variable_of_rules_is_documented() {
    for (name, meaning) in etcd_janitor::plan::rule::VARIABLES {
        let row = format!("| `{name}` | {meaning} |");
        assert!(DOCUMENT.lines().any(|line| line == row), "docs/configuration.md lacks: {row}");
    }
}

#[test]
fn every_rule_in_the_document_is_one() {
    let mut inside = false;
    let mut count = 0;
    for line in DOCUMENT.lines() {
        if line.starts_with("```") {
            inside = line == "```rule";
        } else if inside {
            etcd_janitor::plan::rule::Rule::parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
    }
    assert!(count >= 4);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in [folder.path().join("none.yaml"), folder.path().to_owned()] {
        let invalid = load(&Source { file: Some(file.clone()), ..Source::default() }).unwrap_err();
        let line = invalid.to_string();
        assert!(line.starts_with(&format!("{}: found a file that cannot be read: ", file.display())), "{line}");
        assert_eq!(invalid.fingerprint, None);
    }
}

#[test]
fn the_fingerprint_is_of_what_was_read() {
    let file: fn(&Given) -> &Path = |given| given.source.file.as_deref().unwrap();
    let good = given(b"dry_run: true");
    let print = etcd_janitor::config::read_fingerprint(file(&good)).unwrap();
    assert_eq!(load(&good.source).unwrap().fingerprint, Some(print));
    let bad = given(b"dry_run: perhaps");
    let print = etcd_janitor::config::read_fingerprint(file(&bad)).unwrap();
    assert_eq!(load(&bad.source).unwrap_err().fingerprint, Some(print));
    assert_eq!(load(&Source::default()).unwrap().fingerprint, None);
}

#[test]
fn the_source_is_named_for_people() {
    assert_eq!(Source::default().name(), "defaults");
    assert_eq!(Source { file: Some(PathBuf::from("a.yaml")), ..Source::default() }.name(), "a.yaml");
}
