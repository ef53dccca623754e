//! The commands of docs/operating.md, run as they are written there, in their order.

use std::process::Output;

use crate::support::garbage::free_pages;
use crate::support::rounds::{knows_all, not_due};
use crate::support::{Cluster, Janitor, Spec};

const OPERATING: &str = include_str!("../../docs/operating.md");

/// What takes a Kubernetes: nothing here has one.
const KUBECTL: [&str; 2] = ["kubectl port-forward etcd-0 8379", "kubectl describe pod"];

/// Read in place of what `kubectl get statefulset` would print; it is written to standard output.
const MANIFEST: &str = concat!(" ", env!("CARGO_MANIFEST_DIR"), "/tests/inject/etcd-io.yaml");

/// Named, not told to be run as it stands: the sentence beside it has the whole command.
const NAMED: [&str; 1] = ["etcdctl move-leader"];

/// Every command of the text: lines of blocks of sh, and code within lines.
fn commands() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut block = None;
    for line in OPERATING.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = block.is_none().then_some(language);
            continue;
        }
        let found: Vec<&str> = match block {
            Some("sh") => vec![line.split(" #").next().unwrap_or_default()],
            Some(_) => Vec::new(),
            None => {
                // Code that goes on in the next line would be read as text here, and be run by nobody.
                assert!(line.matches('`').count().is_multiple_of(2), "a code span is broken over two lines: {line}");
                line.split('`').skip(1).step_by(2).collect()
            }
        };
        for code in found {
            let code = code.trim();
            let programs = ["etcd-janitor ", "etcdctl ", "kubectl "];
            if programs.iter().any(|program| code.starts_with(program)) {
                all.push(code.to_owned());
            }
        }
    }
    all
}

/// As a shell parts them: at spaces, but for those in double quotes.
fn words(command: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quoted = false;
    for character in command.chars() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => all.push(String::new()),
            other => all.last_mut().expect("one at least").push(other),
        }
    }
    all.retain(|word| !word.is_empty());
    all
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn every_command_of_the_runbook_does_what_it_says() {
    let cluster = Cluster::start(Spec::default()).await;
    free_pages(&cluster, 40).await;
    let due = not_due();
    let yaml = format!(
        "compaction: {{ schedule: '{due}' }}\ndefrag: {{ schedule: '{due}', rule: 'dbSizeFree > 20 * MiB' }}\n"
    );
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    for janitor in &janitors {
        knows_all(janitor, 3).await;
    }
    let commands = commands();
    assert!(commands.len() >= 15, "{commands:#?}");
    for command in &commands {
        if KUBECTL.contains(&command.as_str()) || NAMED.contains(&command.as_str()) {
            continue;
        }
        // In a pod's container, this is what kubectl starts there; what it would print comes from a file.
        let inside = command.split_once(" -- ").or_else(|| command.split_once(" | "));
        let inside = inside.map_or(command.as_str(), |(_, inside)| inside);
        let inside = inside.replace(" - > etcd.yaml", MANIFEST);
        let leader = cluster.leader().await;
        let other = cluster.member((leader + 1) % 3).id;
        let inside = inside.replace("<id of a healthy voter>", &format!("{other:x}"));
        let words = words(&inside);
        let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let output = match words[0].as_str() {
            "etcd-janitor" => janitors[0].command(&arguments).await,
            "etcdctl" => cluster.etcdctl_at(leader, &arguments).await,
            program => panic!("{command}: nobody here runs {program}"),
        };
        // Well, done, attention (`check` warns of this machine's disk or clock), or nothing left to do: `compact` finds
        // everything too young. Never a usage that is wrong or an etcd that cannot be reached.
        let fine: &[i32] = match arguments.first() {
            Some(&("status" | "check")) => &[0, 1],
            Some(&("defrag" | "compact")) if words[0] == "etcd-janitor" => &[0, 4],
            _ => &[0],
        };
        let code = output.status.code();
        assert!(code.is_some_and(|code| fine.contains(&code)), "{command}: {code:?}\n{}", said(&output));
        println!("{command}: {code:?}\n{}", said(&output));
    }
    // What they are for has happened.
    let defragmented = cluster.member(0).metrics().await.expect("an answer").defrag_count;
    assert!(defragmented >= 1, "`etcd-janitor defrag` was one of them");
    let left = cluster.etcdctl_at(0, &["get", "--prefix", "--keys-only", "/etcd-janitor/"]).await;
    assert!(left.status.success() && left.stdout.is_empty(), "removed: {}", said(&left));
}
