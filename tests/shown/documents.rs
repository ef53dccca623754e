//! Where the command line points to, the documents say more.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use etcd_janitor::http::hints;
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Failure, Outcome, Reason};
use etcd_janitor::plan::rule::{Figures, Quota, Rule};
use etcd_janitor::plan::snapshot::*;

use crate::cluster::*;

/// The names in the rules that are shipped.
fn alerts() -> Vec<String> {
    let rules = std::fs::read_to_string("deploy/prometheus/rules.yaml").expect("deploy/prometheus/rules.yaml");
    let names: Vec<String> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_lowercase).collect();
    assert!(names.len() > 10, "{names:?}");
    names
}

/// As a forge makes them of headings.
fn anchors() -> BTreeSet<String> {
    let text = std::fs::read_to_string("docs/operating.md").expect("docs/operating.md");
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    headings
        .map(|text| text.to_lowercase().chars().filter(|c| kept(*c)).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn every_alert_and_every_reason_has_a_heading() {
    let anchors = anchors();
    let reasons = Reason::ALL.iter().map(|reason| reason.name().to_owned());
    let missing: Vec<String> = alerts().into_iter().chain(reasons).filter(|name| !anchors.contains(name)).collect();
    assert!(missing.is_empty(), "no heading in docs/operating.md: {missing:?}");
}

#[test]
fn every_link_inside_leads_somewhere() {
    let anchors = anchors();
    let text = std::fs::read_to_string("docs/operating.md").expect("docs/operating.md");
    let links: Vec<&str> = text.split("](#").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() > 10, "{links:?}");
    let broken: Vec<_> = links.iter().filter(|link| !anchors.contains(**link)).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn every_hint_points_at_a_heading() {
    let mut everything = well();
    everything.config.valid = false;
    everything.alarms = vec![
        Alarm { alarm: "NOSPACE".into(), member: MemberId(1) },
        Alarm { alarm: "CORRUPT".into(), member: MemberId(1) },
    ];
    everything.hold = Some(hold());
    everything.quiesced = true;
    everything.intent_unreadable = Some("no".into());
    everything.members[1].problem = Some("etcd_unavailable: away".into());
    everything.tasks[0].last_outcome = Some(Outcome::Failed(Failure::Refused));
    everything.tasks[1].last_outcome = Some(Outcome::Unknown);
    everything.certificates[0].not_after = now();
    everything.growth = Some(Growth {
        reached_at: now() + TimeDelta::hours(1),
        bytes_per_hour: 1,
        quota: 1,
        of: Growing::File,
        before_next_round: true,
    });
    everything.history.retain(|record| record.name != "etcd-2");
    everything.members[2].pays = Some(true);
    let anchors = anchors();
    let hints = hints(&everything, now());
    assert_eq!(hints.len(), 12, "{hints:#?}");
    for hint in hints {
        assert!(anchors.contains(&hint.anchor), "{hint:?}");
    }
}

#[test]
fn every_rule_of_others_is_a_rule_here() {
    let text = std::fs::read_to_string("docs/operating.md").expect("docs/operating.md");
    let table = text.split("| From | Rule |\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("the table");
    // A bar would end the cell.
    let rules = table.lines().skip(1).filter_map(|line| line.split('`').nth(1)).map(|rule| rule.replace("\\|", "|"));
    let rules: Vec<String> = rules.collect();
    assert!(rules.len() >= 9 && rules.iter().any(|rule| rule.contains("||")), "{rules:#?}");
    let quota = Quota::Bytes(2048 * MIB);
    let wasteful = Figures { db_size: 2000 * MIB, db_size_in_use: 100 * MIB, quota };
    let full = Figures { db_size: 100 * MIB, db_size_in_use: 100 * MIB, quota };
    for text in rules {
        let rule = Rule::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(rule.evaluate(&wasteful).ok(), Some(true), "{text}");
        assert_eq!(rule.evaluate(&full).ok(), Some(text == "true"), "{text}");
    }
}

/// The messages of a source file at `info` and above: the literal that is no field's value.
fn messages(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for macro_name in ["tracing::info!(", "tracing::warn!(", "tracing::error!("] {
        for (at, _) in source.match_indices(macro_name) {
            let (mut depth, mut literal, mut message, mut value) = (1, None::<String>, None, false);
            let mut rest = source[at + macro_name.len()..].chars();
            while let Some(c) = rest.next().filter(|_| depth > 0) {
                match (&mut literal, c) {
                    (Some(text), '\\') => {
                        // An escaped line break takes the indentation with it.
                        if rest.next() == Some('\n') {
                            let blank = rest.as_str().len() - rest.as_str().trim_start().len();
                            rest = rest.as_str()[blank..].chars();
                        } else {
                            text.push('\\');
                        }
                    }
                    (Some(_), '"') => {
                        let text = literal.take();
                        if !value {
                            message = text;
                        }
                    }
                    (Some(text), c) => text.push(c),
                    (None, '"') => literal = Some(String::new()),
                    (None, '(' | '[' | '{') => depth += 1,
                    (None, ')' | ']' | '}') => depth -= 1,
                    (None, ' ' | '\n') => {}
                    (None, c) => value = c == '=',
                }
            }
            found.push(message.unwrap_or_else(|| panic!("no message: {}", &source[at..at + 80])));
        }
    }
    found
}

fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_log_event_is_explained() {
    let text = std::fs::read_to_string("docs/operating.md").expect("docs/operating.md");
    let section = text.split("## Log events").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section");
    let mut files = Vec::new();
    sources("src".as_ref(), &mut files);
    let (mut known, mut missing) = (0, Vec::new());
    for file in files {
        for message in messages(&std::fs::read_to_string(&file).expect("a file")) {
            // What is put in at the end is explained with the beginning; a sentence of a decision has none.
            let beginning = message.split('{').next().unwrap_or_default().trim_end_matches([' ', ':', ';', ',']);
            if beginning.is_empty() || section.contains(beginning) {
                known += 1;
            } else {
                missing.push(format!("{}: {message}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/operating.md, \"Log events\":\n{}", missing.join("\n"));
    assert!(known > 40, "{known} messages");
}
