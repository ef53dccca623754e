//! `inject` and `uninject` as operators meet them: manifests in, manifests out, a summary beside it.

#![allow(clippy::disallowed_methods, reason = "tests start programs as they like")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// One that does not change with releases.
const IMAGE: &str = "--image=registry.example/etcd-janitor:1";

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/inject").join(name)
}

fn run(words: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-janitor"));
    command.env_remove("ETCD_JANITOR_IMAGE");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // Who refuses early does not read to the end.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    output
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// Everything that can be seen of a run.
fn seen(output: &Output) -> String {
    let code = output.status.code().expect("an exit code");
    format!("{}--- standard error, exit code {code}\n{}", out(output), err(output))
}

/// Injects a fixture.
fn injected(name: &str, words: &[&str]) -> Output {
    let input = std::fs::read(fixture(name)).expect("a fixture");
    run(&[&["inject", IMAGE], words].concat(), &input)
}

#[test]
fn each_kind_of_etcd_gets_what_it_needs() {
    for name in
        ["bitnami.yaml", "bitnami-tls.yaml", "etcd-io.yaml", "cert-manager.yaml", "pod.yaml", "list.json", "traps.yaml"]
    {
        let short = name.split('.').next().unwrap_or_default();
        insta::assert_snapshot!(format!("inject_{short}"), seen(&injected(name, &[])));
    }
}

#[test]
fn everything_that_can_be_ordered_is_there() {
    let words = [
        "--plain",
        "--config-map",
        "janitor",
        "--password-secret",
        "etcd/root",
        "--user",
        "janitor",
        "--listen",
        "[::]:9000",
        "--move-liveness-probe",
        "--set",
        "defrag.schedule=0 3 * * *",
        "--dry-run",
        "-",
    ];
    insta::assert_snapshot!("inject_ordered", seen(&injected("etcd-io.yaml", &words)));
    let hidden = injected("etcd-io.yaml", &["--listen", "127.0.0.1:8379"]);
    assert!(out(&hidden).contains("- probe\n            - livez\n"), "{}", seen(&hidden));
    assert!(!out(&hidden).contains("janitor-http"), "{}", seen(&hidden));
    let refused = injected("etcd-io.yaml", &["--listen", "127.0.0.1:8379", "--move-liveness-probe"]);
    assert_eq!(refused.status.code(), Some(4), "{}", seen(&refused));
}

#[test]
fn a_static_pod_of_kubeadm_is_refused() {
    insta::assert_snapshot!("inject_kubeadm", seen(&injected("kubeadm.yaml", &[])));
}

#[test]
fn out_again_it_is_the_same_object_and_nothing_is_said_twice() {
    let there = out(&injected("etcd-io.yaml", &["--move-liveness-probe"]));
    insta::assert_snapshot!("uninject_etcd-io", seen(&run(&["uninject"], there.as_bytes())));
    let again = run(&["inject", IMAGE, "--move-liveness-probe"], there.as_bytes());
    assert_eq!(out(&again), there);
    assert!(err(&again).contains("statefulset \"etcd\" unchanged"), "{}", seen(&again));
}

#[test]
fn files_and_standard_input_become_one_stream() {
    let (pod, io) = (fixture("pod.yaml"), fixture("etcd-io.yaml"));
    let names = [pod.to_str().expect("UTF-8"), "-", io.to_str().expect("UTF-8")];
    let output = run(&[&["inject", IMAGE], names.as_slice()].concat(), b"kind: ConfigMap");
    assert_eq!(output.status.code(), Some(0), "{}", seen(&output));
    assert!(out(&output).contains("\n---\nkind: ConfigMap\n---\n# Flags"), "{}", out(&output));
    // Directives may stand behind the end of a document only.
    let directives = run(&[&["inject", IMAGE], &names[..2]].concat(), b"%YAML 1.2\n---\nkind: ConfigMap\n");
    assert!(out(&directives).contains("\n...\n%YAML 1.2\n---\n"), "{}", seen(&directives));
    let broken = run(&[&["inject", IMAGE], names.as_slice()].concat(), b"a: 1\n---\n[");
    assert_eq!(broken.status.code(), Some(2));
    assert_eq!(out(&broken), "", "nothing is written when one document cannot be");
    assert!(err(&broken).contains("standard input: documents[1], line 4: not YAML"), "{}", err(&broken));
}

#[test]
fn what_cannot_be_read_is_said() {
    let check = |words: &[&str], input: &[u8], expected: &str| {
        let output = run(words, input);
        assert_eq!(output.status.code(), Some(2), "{}", seen(&output));
        assert_eq!(out(&output), "");
        assert!(err(&output).contains(expected), "{expected:?} is not in {}", seen(&output));
    };
    check(&["inject"], b"", "which image is the sidecar to run? --image IMAGE, or ETCD_JANITOR_IMAGE");
    check(&["inject", "--image", ""], b"", "allowed: an image as your registry has it");
    check(&["inject", "--image", "a b"], b"", "allowed: an image as your registry has it");
    check(&["inject", IMAGE, "/no/such/file"], b"", "/no/such/file: cannot be read");
    check(&["inject", IMAGE], &vec![b'#'; 16 * 1024 * 1024 + 1], "standard input: more than 16 MiB of manifests");
    check(&["inject", IMAGE], b"\xff\xfea\0", "standard input: not UTF-8");
    check(&["inject", "--set", "defrag.shedule=x"], b"", "there is no such key");
    check(&["inject", "--set", "defrag.schedule"], b"", "allowed: KEY=VALUE");
    check(&["inject", "--password-secret", "etcd"], b"", "allowed: the Secret's name, a slash, and the key");
    for secret in ["Etcd/password", "etcd/", "etcd/a b", "etcd/..a", "/x"] {
        check(&["inject", "--password-secret", secret], b"", "--password-secret <NAME/KEY>");
    }
    for name in ["", "Janitor", "a_b", "a.", "a-", "a/b"] {
        check(&["inject", "--config-map", name], b"", "--config-map <NAME>");
    }
}

#[test]
fn what_is_none_of_ours_goes_through_and_that_is_said() {
    let input = b"kind: Service\nmetadata: {name: x}\n---\nfoo:   bar # no kind\n---\napiVersion: apps.kruise.io/v1beta1\nkind: StatefulSet\n";
    let output = run(&["inject", IMAGE], input);
    assert_eq!(output.stdout, input);
    assert_eq!(
        err(&output),
        "service \"x\" skipped\ndocuments[1] skipped: no kind\nstatefulset \"\" skipped: apps.kruise.io/v1beta1 is not known here\n\
         nothing was changed\n"
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn help_shows_how() {
    let help = out(&run(&["inject", "--help"], b""));
    assert!(
        help.contains("kubectl get statefulset etcd -o yaml | etcd-janitor inject - | kubectl apply -f -"),
        "{help}"
    );
}

#[test]
fn the_image_may_be_the_environments() {
    let run = |image: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-janitor"));
        command.arg("inject").arg(fixture("pod.yaml")).env("ETCD_JANITOR_IMAGE", image);
        command.output().expect("the program runs")
    };
    let there = run("registry.example/ours:2");
    assert!(out(&there).contains("image: \"registry.example/ours:2\""), "{}", seen(&there));
    assert!(err(&there).contains("  image      registry.example/ours:2\n"), "{}", seen(&there));
    let refused = run("");
    assert_eq!(refused.status.code(), Some(2), "{}", seen(&refused));
    assert!(err(&refused).contains("ETCD_JANITOR_IMAGE: allowed: an image"), "{}", seen(&refused));
}
