//! Namespaces for a whole test, so that it may make networks and mount disks
//! of its own, as any user, and nothing of them outlives it.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::process::Process;

/// Says that the program is in its namespaces, and which test it is there for.
const INSIDE: &str = "JANITOR_TEST_SANDBOX";

/// Runs the test of this name again in user, network and mount namespaces and
/// gives false when it has passed there; gives true inside. So a test begins
/// with `if !sandbox::inside("module::name").await { return }`.
pub async fn inside(test: &str) -> bool {
    if std::env::var(INSIDE).is_ok_and(|name| name == test) {
        run("ip", &["link", "set", "lo", "up"]);
        return true;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let output = folder.path().join("output");
    // Progress of a test that runs for hours is shown as it comes.
    let shown = std::env::var_os("DURATION").is_some();
    let mut process = Process::start("unshare", |command| {
        command.args(unshare()).args(["--", "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(std::env::current_exe().expect("a program knows its own path"));
        command
            .args(["--exact", test, "--nocapture", "--include-ignored"])
            .env(INSIDE, test)
            .env("TMPDIR", folder.path());
        if !shown {
            let file = File::create(&output).expect("a file can be made");
            command.stderr(file.try_clone().expect("a file handle can be copied")).stdout(file);
        }
    })
    .unwrap_or_else(|error| panic!("unshare cannot be started: {error}; it is in util-linux"));
    let status = loop {
        if let Some(status) = process.try_wait() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let said = fs::read_to_string(&output).unwrap_or_default();
    eprintln!("{said}");
    assert!(status.success(), "{test} fails in its namespaces: {status}");
    assert!(shown || said.contains("1 passed"), "{test} is not the name of this test");
    false
}

/// A disk of so many MiB, in memory, gone with the test. Inside only.
pub fn small_disk(at: &std::path::Path, mib: u64) {
    fs::create_dir_all(at).expect("a folder can be made");
    run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "none", &at.display().to_string()]);
}

/// Runs a program that has to succeed.
pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot run: {error}; run `make tools`"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A user namespace makes any user root of the others. Where root may not have
/// one, as in some containers, root may have the others without it.
fn unshare() -> Vec<&'static str> {
    static WORDS: OnceLock<Vec<&'static str>> = OnceLock::new();
    let able = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(words).args(["--", "true"]).stdin(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let words = WORDS.get_or_init(|| {
        let rest = ["--net", "--mount"];
        let all = [["--user", "--map-root-user"].as_slice(), &rest].concat();
        if able(&all) { all } else { rest.to_vec() }
    });
    assert!(able(words), "this machine gives no namespaces to this user, and tests of partitions and disks need them");
    words.clone()
}
