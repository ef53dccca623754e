//! Child processes that never outlive the test that started them.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// A running program. Killed when dropped, also by a panic, and killed by the
/// kernel when the test process itself is killed.
pub struct Process {
    child: Child,
    /// Where the kernel cannot be asked to.
    watchdog: Option<Child>,
}

impl Process {
    /// Starts `program`; `configure` adds arguments, environment and output.
    ///
    /// The pid is that of the program: setpriv sets the death signal and then
    /// becomes it. The process group is its own, so a Ctrl-C reaches only
    /// whoever started it, and things end in the order that that one chooses.
    pub fn start(program: impl AsRef<OsStr>, configure: impl FnOnce(&mut Command)) -> io::Result<Self> {
        let mut command = if death_signal() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.stdin(Stdio::null()).process_group(0);
        configure(&mut command);
        let child = launch(command)?;
        let mut process = Self { child, watchdog: None };
        if !death_signal() {
            process.watchdog = Some(watchdog(process.pid())?);
        }
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of our own can be waited for")
    }

    /// Waits for the end; `None` when it has not come within `limit`.
    pub async fn exited(&mut self, limit: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if started.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends a signal by its name without SIG, such as `STOP`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// kill -9, and gone when this returns.
    pub fn kill(&mut self) {
        // An error means that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It must not outlive the pid that it watches over.
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, name: &str) {
    let sent =
        Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("a POSIX machine has sh");
    assert!(sent.success(), "signal {name} could not be sent to {pid}");
}

/// Whether setpriv can set a death signal; busybox has one that cannot.
fn death_signal() -> bool {
    static ABLE: OnceLock<bool> = OnceLock::new();
    *ABLE.get_or_init(|| {
        let mut probe = Command::new("setpriv");
        probe.args(["--pdeathsig", "KILL", "--", "true"]).stdin(Stdio::null());
        probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

/// A shell that kills `pid` when the pipe from this process closes, however
/// this process ends.
fn watchdog(pid: u32) -> io::Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", "read -r _; kill -9 \"$1\" 2>/dev/null", "watchdog", &pid.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    launch(command)
}

fn launch(command: Command) -> io::Result<Child> {
    let (answer, child) = mpsc::channel();
    launcher().send((command, answer)).expect("the launcher thread never ends");
    child.recv().expect("the launcher answers every order")
}

/// The one thread that starts children. The death signal comes when the
/// *thread* that forked ends, not the process: forked on a test's own thread or
/// on a blocking pool's, a child would die in the middle of a test.
fn launcher() -> mpsc::Sender<Order> {
    static LAUNCHER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let sender = LAUNCHER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("launcher".into())
            .spawn(move || {
                while let Ok((mut command, answer)) = orders.recv() {
                    if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                        let _ = orphan.kill();
                    }
                }
            })
            .expect("a thread can be started");
        Mutex::new(sender)
    });
    sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}
