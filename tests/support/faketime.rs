//! Another wall clock for a janitor, and the same monotonic one.
//!
//! The library is used and not the program `faketime`, which forks: killing
//! that one would leave the janitor behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The variables under which a program's wall clock is off by what a file says,
/// such as `+3600`; read again at every look at the clock.
pub fn environment(offset: &Path) -> Vec<(String, String)> {
    let mut all = library().clone();
    all.push(("FAKETIME_TIMESTAMP_FILE".to_owned(), offset.display().to_string()));
    all.push(("FAKETIME_NO_CACHE".to_owned(), "1".to_owned()));
    all
}

/// Where the library is on this machine, only the program knows.
fn library() -> &'static Vec<(String, String)> {
    static VARIABLES: OnceLock<Vec<(String, String)>> = OnceLock::new();
    VARIABLES.get_or_init(|| {
        let output = Command::new("faketime").args(["-m", "--exclude-monotonic", "-f", "+0", "env"]).output();
        let output = output.unwrap_or_else(|error| panic!("faketime does not run ({error}): run `make tools`"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let wanted = pairs.filter(|(name, _)| *name == "LD_PRELOAD" || name.contains("DONT_FAKE_MONOTONIC"));
        let wanted: Vec<_> = wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(wanted.len(), 2, "{text}");
        wanted
    })
}

/// Removes what the library leaves behind of a process that was killed.
pub fn forget(pid: u32) {
    for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
        let _ = fs::remove_file(Path::new("/dev/shm").join(name));
    }
}
