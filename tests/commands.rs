//! The command line without an etcd: what is refused, and what is said when nobody is there.

#![allow(clippy::disallowed_methods, reason = "tests start programs as they like")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn run(words: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-janitor"));
    command.args(words).envs(environment.iter().copied());
    command.output().expect("the program runs")
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    format!("{}exit code {}\n", String::from_utf8_lossy(&text), output.status.code().expect("an exit code"))
}

#[test]
fn a_hold_that_cannot_be_meant_is_refused() {
    let cases: [&[&str]; 12] = [
        &["hold"],
        &["hold", "--for", "2h"],
        &["hold", "--reason", "disk swap"],
        &["hold", "--for", "0s", "--reason", "disk swap"],
        &["hold", "--for", "31d", "--reason", "disk swap"],
        &["hold", "--for", "90", "--reason", "disk swap"],
        &["hold", "--for", "5M", "--reason", "disk swap"],
        &["hold", "--for", "for ever", "--reason", "disk swap"],
        &["hold", "--for", "2h", "--reason", " "],
        &["hold", "--for", "2h", "--reason", "disk\tswap"],
        &["hold", "--for", "2h", "--reason", "disk swap", "--by", ""],
        &["release", "2h"],
    ];
    let parts: Vec<String> = cases.iter().map(|words| format!("=== {words:?}\n{}", said(&run(words, &[])))).collect();
    insta::assert_snapshot!("hold_arguments", parts.join("\n"));

    let long = "x".repeat(201);
    let refused = said(&run(&["hold", "--for", "2h", "--reason", &long], &[]));
    assert!(refused.contains("it has 201 characters; at most 200 are allowed"), "{refused}");
    assert!(refused.ends_with("exit code 2\n"), "{refused}");
}

#[test]
fn without_an_etcd_nothing_is_held_and_that_is_said() {
    let nobody = [("ETCD_JANITOR__ETCD__ENDPOINT", "http://127.0.0.1:1")];
    for words in [&["hold", "--for", "2h", "--reason", "disk swap"][..], &["release"]] {
        let output = run(words, &nobody);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
        let said = said(&output);
        assert!(said.contains("etcd cannot be used from here, and nothing was changed"), "{said}");
        assert!(said.contains("http://127.0.0.1:1"), "{said}");
    }
}

#[test]
fn what_acts_on_etcd_does_not_go_by_a_broken_configuration() {
    let broken = [("ETCD_JANITOR__DEFRAG__WINDOW", "soon"), ("ETCD_JANITOR__ETCD__ENDPOINT", "http://127.0.0.1:1")];
    for words in
        [&["hold", "--for", "2h", "--reason", "disk swap"][..], &["release"], &["defrag"], &["compact"], &["check"]]
    {
        let output = run(words, &broken);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(said(&output).contains("defrag.window"), "{output:?}");
    }
}

#[test]
fn every_command_explains_itself_with_examples() {
    let commands = [
        "run",
        "status",
        "explain",
        "check",
        "history",
        "defrag",
        "compact",
        "hold",
        "release",
        "quiesce",
        "probe",
        "config",
        "completions",
    ];
    let mut parts = vec![said(&run(&["--help"], &[]))];
    for command in commands {
        let help = said(&run(&[command, "--help"], &[]));
        assert!(help.contains("Example") && help.ends_with("exit code 0\n"), "{command}: {help}");
        parts.push(format!("=== {command}\n{help}"));
        // What is shown as an example is at least a command line of ours.
        for example in help.lines().filter_map(|line| line.trim().strip_prefix("etcd-janitor ")) {
            let plain = example.split("    ").next().unwrap_or_default().split(" > ").next().unwrap_or_default();
            // What stands in quotes is one word.
            let mut quoted = false;
            let joined: String = plain
                .chars()
                .map(|c| {
                    quoted ^= c == '\'';
                    if quoted && c == ' ' { '_' } else { c }
                })
                .collect();
            let words: Vec<&str> = joined.split_whitespace().collect();
            let known = [&words[..], &["--help"]].concat();
            assert_eq!(run(&known, &[]).status.code(), Some(0), "{command}: {example}");
        }
    }
    insta::assert_snapshot!("help", parts.join("\n"));
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = said(&run(&["completions", shell], &[]));
        assert!(script.contains("explain") && script.ends_with("exit code 0\n"), "{shell}: {script}");
    }
    assert_eq!(run(&["completions", "tcsh"], &[]).status.code(), Some(2));
}

/// Also while nobody answers: that is when it is watched.
#[test]
fn status_is_watched_until_it_is_interrupted() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-janitor"));
    command.args(["status", "--watch=1s"]).env("ETCD_JANITOR__ETCD__ENDPOINT", "http://127.0.0.1:1");
    let mut watching =
        command.env("ETCD_JANITOR__HTTP__LISTEN", "127.0.0.1:1").stdout(Stdio::piped()).spawn().expect("it runs");
    let said = BufReader::new(watching.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let times = said.filter(|line| line.contains("no janitor listens on")).take(3).count();
    watching.kill().and_then(|()| watching.wait()).expect("it runs still");
    assert_eq!(times, 3);
}

#[test]
fn without_janitor_and_etcd_every_question_says_so() {
    let nobody =
        [("ETCD_JANITOR__ETCD__ENDPOINT", "http://127.0.0.1:1"), ("ETCD_JANITOR__HTTP__LISTEN", "127.0.0.1:1")];
    for words in [&["status"][..], &["status", "-o", "json"], &["explain"], &["history"]] {
        let output = run(words, &nobody);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
        let said = said(&output);
        assert!(said.contains("no janitor listens on 127.0.0.1:1"), "{said}");
        assert!(said.contains("etcd itself cannot be used either: etcd_unavailable"), "{said}");
    }
    // A program reads no sentences.
    for words in [
        &["status", "-o", "json"][..],
        &["status", "-o", "yaml"],
        &["explain", "-o", "json"],
        &["history", "-o", "json"],
    ] {
        let output = run(words, &nobody);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b""[..]), "{words:?}: {output:?}");
    }
    let output = run(&["check", "-o", "json"], &nobody);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["ok"], false);
    assert_eq!(report["failed"], 1, "{report}");
    let not_tried = report["checks"].as_array().expect("checks").iter().filter(|check| check["result"] == "not_tried");
    assert_eq!(not_tried.count(), 8, "what could not be tried is told of: {report}");
}
