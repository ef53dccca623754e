//! Stretching and breaking a defrag at its last step, the rename of the new
//! file over the old one, during which the backend is locked.
//!
//! Only renames that touch the member's own `db` are caught: the write-ahead
//! log renames files, too, and a delay there would cost the member its
//! leadership.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::cluster::Member;
use super::process::Process;

/// Not every architecture has all of them; `?` lets strace pass over those.
const RENAMES: &str = "?rename,renameat,?renameat2";

/// What happens to the rename.
#[derive(Clone, Copy, Debug)]
pub enum Injection {
    /// It comes this much later.
    Delay(Duration),
    /// It fails with EIO: etcd ends with a fatal error in mid-defrag and
    /// leaves its temporary file behind.
    Eio,
    /// Not the rename: everything that is written takes this much longer to
    /// reach the disk, the write-ahead log too.
    SlowSync(Duration),
}

const SYNCS: &str = "fdatasync,fsync";

impl Injection {
    fn clause(self) -> String {
        match self {
            Self::Delay(delay) => format!("inject={RENAMES}:delay_enter={}", delay.as_micros()),
            Self::Eio => format!("inject={RENAMES}:error=EIO"),
            Self::SlowSync(delay) => format!("inject={SYNCS}:delay_enter={}", delay.as_micros()),
        }
    }

    fn calls(self) -> &'static str {
        if matches!(self, Self::SlowSync(_)) { SYNCS } else { RENAMES }
    }
}

/// strace at work on a running member; it lets go when dropped. While it is
/// attached every system call of the member costs some microseconds more.
pub struct Strace {
    process: Process,
}

impl Strace {
    /// Returns when every thread of the member is traced.
    pub async fn attach(member: &Member, injection: Injection) -> Self {
        let pid = member.pid();
        let db = member.db_path();
        let mut process = Process::start("strace", |command| {
            command
                .args(["-f", "-qq", "-p", &pid.to_string(), "-e", "signal=none"])
                .args(["-o", "/dev/null"])
                .args(["-e", &format!("trace={}", injection.calls())])
                .args(["-e", &injection.clause()])
                .stdout(Stdio::null())
                .stderr(Stdio::inherit());
            if injection.calls() == RENAMES {
                command.arg("-P").arg(&db);
            }
        })
        .unwrap_or_else(|error| panic!("strace cannot be started: {error}; run `make tools`"));
        let started = Instant::now();
        while !traced_by(pid, process.pid()) {
            if let Some(status) = process.try_wait() {
                panic!("strace ended with {status} instead of tracing {}", member.name);
            }
            assert!(started.elapsed() < Duration::from_secs(20), "strace does not get hold of {}", member.name);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Self { process }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // On SIGTERM strace detaches from every thread before it ends, so the
        // member runs undisturbed when this returns.
        if self.process.try_wait().is_none() {
            self.process.signal("TERM");
        }
        let started = Instant::now();
        while self.process.try_wait().is_none() && started.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn traced_by(pid: u32, tracer: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let wanted = format!("TracerPid:\t{tracer}\n");
    let mut threads = threads.flatten();
    threads.all(|thread| {
        // A thread that ends between the listing and the look counts as well.
        fs::read_to_string(thread.path().join("status")).is_ok_and(|status| status.contains(&wanted))
    })
}

/// The words before a command line that run it under strace from its first
/// instant. `-D` leaves the program the direct child, with its own pid; the
/// kernel's filter wakes strace for renames only, so nothing else slows down.
///
/// A new thread is stopped at every system call, filter or not, until the
/// filter has stopped it once (strace 6.1). Go's threads call sigaltstack when
/// they are born, so that is in the filter as well: without it each page of
/// `/metrics` stopped a member 250 times.
pub fn from_birth(db: &Path, delay: Duration) -> Vec<String> {
    let mut words: Vec<String> = ["strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-o", "/dev/null"]
        .map(str::to_owned)
        .to_vec();
    words.extend(["-P".to_owned(), db.display().to_string()]);
    words.extend(["-e".to_owned(), format!("trace={RENAMES},sigaltstack")]);
    words.extend(["-e".to_owned(), Injection::Delay(delay).clause()]);
    words
}
