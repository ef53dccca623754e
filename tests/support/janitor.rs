//! The program under test, run as its users run it: the real binary with a
//! configuration file, its logs as JSON, its state over HTTP.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::mounted::{self, Rotating};
use super::namespace::Namespace;
use super::ports::Port;
use super::process::Process;
use super::spec::usually_secured;
use super::{Cluster, Tls, eventually, faketime, scrape};

/// The program, as cargo built it for this run. Cargo tells tests where it is,
/// and examples not.
pub const PROGRAM: &str = match option_env!("CARGO_BIN_EXE_etcd-janitor") {
    Some(path) => path,
    None => "",
};

/// The program, or another build of it that the environment names.
fn program() -> String {
    std::env::var("ETCD_JANITOR_PROGRAM").unwrap_or_else(|_| PROGRAM.to_owned())
}

/// A schedule that is due once, so many seconds from now, on every janitor.
pub fn due_in(seconds: i64) -> String {
    let due = chrono::Utc::now() + chrono::TimeDelta::seconds(seconds);
    due.format("%-S %-M %-H * * *").to_string()
}

/// One janitor beside one member.
pub struct Janitor {
    /// Before its folder, so that it has ended when that goes.
    _rotating: Option<Rotating>,
    folder: TempDir,
    /// Where it listens.
    host: Ipv4Addr,
    port: Arc<Port>,
    /// What runs it in its member's network namespace.
    prefix: Vec<String>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    starts: usize,
    /// Another build than today's.
    program: Option<String>,
    /// Started with a clock of their own.
    faked: Vec<u32>,
}

impl Janitor {
    /// Writes the configuration and starts the daemon; returns when it serves.
    /// `yaml` is the operator's file without `etcd.endpoint`, TLS and
    /// credentials, which are given through the environment.
    pub async fn start(cluster: &Cluster, index: usize, yaml: &str) -> Self {
        let mut janitor = Self::prepare(cluster, index, yaml);
        janitor.start_again().await;
        janitor
    }

    /// Everything but the start.
    pub fn prepare(cluster: &Cluster, index: usize, yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temp folder");
        let member = cluster.member(index);
        let mut environment = vec![
            ("ETCD_JANITOR__ETCD__ENDPOINT".to_owned(), member.client_url.clone()),
            ("POD_NAME".to_owned(), format!("janitor-{index}")),
        ];
        let mut rotating = None;
        if !matches!(cluster.spec().tls, Tls::Off) {
            let certs = cluster.certs();
            let (mut cert, mut key) = (certs.client_cert.clone(), certs.client_key.clone());
            if usually_secured() {
                let started = Rotating::start(folder.path(), certs);
                (cert, key) = (started.secret.join(mounted::CERT), started.secret.join(mounted::KEY));
                rotating = Some(started);
            }
            let files = [("CA_FILE", &certs.ca), ("CERT_FILE", &cert), ("KEY_FILE", &key)];
            // Nobody asks for the other two where only the members show theirs.
            let files = if cluster.spec().tls == Tls::Mutual { &files[..] } else { &files[..1] };
            for (name, path) in files {
                environment.push((format!("ETCD_JANITOR__ETCD__TLS__{name}"), path.display().to_string()));
            }
        }
        if let Some(auth) = &cluster.spec().auth {
            let password = folder.path().join("password");
            fs::write(&password, &auth.root_password).expect("the password file");
            environment.push(("ETCD_JANITOR__ETCD__AUTH__USERNAME".to_owned(), "root".to_owned()));
            environment.push(("ETCD_JANITOR__ETCD__AUTH__PASSWORD_FILE".to_owned(), password.display().to_string()));
        }
        let namespace = member.namespace.as_ref();
        let host = namespace.map_or(Ipv4Addr::LOCALHOST, Namespace::judged_host);
        let prefix = namespace.map(Namespace::prefix).unwrap_or_default();
        let janitor = Self {
            folder,
            host,
            port: Arc::new(Port::reserve()),
            prefix,
            environment,
            process: None,
            starts: 0,
            program: None,
            faked: Vec::new(),
            _rotating: rotating,
        };
        janitor.write_config(yaml);
        janitor
    }

    /// Replaces the configuration file.
    pub fn write_config(&self, yaml: &str) {
        fs::write(self.config_path(), yaml).expect("the configuration file");
    }

    /// Replaces the configuration file and has it read; returns when it is in
    /// force.
    pub async fn reload(&mut self, yaml: &str) {
        let in_force = |janitor: &Self| {
            let events = janitor.events();
            events.iter().filter(|event| event["message"] == "the new configuration is in force").count()
        };
        let before = in_force(self);
        self.write_config(yaml);
        self.process().signal("HUP");
        eventually("the new configuration is in force", Duration::from_secs(10), || async {
            (in_force(self) > before).then_some(())
        })
        .await;
    }

    /// Neither a round nor a compaction is under way.
    pub async fn is_idle(&self) -> bool {
        let status = self.status().await;
        let tasks = status["tasks"].as_array().expect("tasks");
        tasks.iter().all(|task| task["in_progress"] == false)
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("etcd-janitor.yaml")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets an environment variable of the next start and of commands.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Forgets the variables whose names begin so.
    pub fn forget_environment(&mut self, beginning: &str) {
        self.environment.retain(|(name, _)| !name.starts_with(beginning));
    }

    /// Has its wall clock off by so many seconds, from its next start on and
    /// then at once.
    pub fn set_clock(&mut self, seconds: i64) {
        let offset = self.folder.path().join("offset");
        // In one step: it is read at any instant.
        let new = self.folder.path().join("offset.new");
        fs::write(&new, format!("{seconds:+}\n")).expect("a file can be written");
        fs::rename(new, &offset).expect("a file can be renamed");
        for (name, value) in faketime::environment(&offset) {
            self.set_environment(&name, &value);
        }
    }

    /// Whether its clock is not the machine's.
    pub fn clock_is_set(&self) -> bool {
        self.environment.iter().any(|(name, _)| name == "LD_PRELOAD")
    }

    /// Has the machine's clock again from its next start on.
    pub fn set_clock_right(&mut self) {
        for (name, _) in faketime::environment(Path::new("")) {
            self.environment.retain(|(known, _)| *known != name);
        }
    }

    pub fn address(&self) -> SocketAddr {
        (IpAddr::V4(self.host), self.port.number()).into()
    }

    /// Has it listen on `host` and the other one's port, as it is in pods.
    pub fn listen_like(&mut self, other: &Self, host: Ipv4Addr) {
        (self.host, self.port) = (host, Arc::clone(&other.port));
    }

    fn log_path(&self, start: usize) -> PathBuf {
        self.folder.path().join(format!("log-{start}"))
    }

    /// Starts the daemon (again) and returns when it serves.
    pub async fn start_again(&mut self) {
        self.launch(&self.program(), &[]).await;
    }

    fn program(&self) -> String {
        self.program.clone().unwrap_or_else(program)
    }

    /// Runs another build of the program.
    pub fn set_program(&mut self, path: &str) {
        self.program = Some(path.to_owned());
    }

    /// Starts it through another program, with arguments that come before
    /// ours. One that forks, as `faketime` does, would be killed in its place.
    pub async fn launch(&mut self, program: &str, before: &[&str]) {
        self.starts += 1;
        let log = File::create(self.log_path(self.starts)).expect("the log file");
        let arguments = self.arguments(&["run"]);
        let environment = self.environment.clone();
        let ours = self.program();
        let words: Vec<&str> = self.prefix.iter().map(String::as_str).chain([program]).collect();
        let process = Process::start(words[0], |command| {
            command.args(&words[1..]).args(before);
            if program != ours {
                command.arg(&ours);
            }
            command.args(arguments).envs(environment).stderr(log);
        })
        .expect("the daemon starts");
        if self.clock_is_set() {
            self.faked.push(process.pid());
        }
        self.process = Some(process);
        let address = self.address();
        eventually("the janitor serves /livez", Duration::from_secs(10), || async move {
            scrape::get(address, "/livez").await.filter(|(code, _)| *code == 200)
        })
        .await;
    }

    fn arguments(&self, command: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        arguments.push("--config".to_owned());
        arguments.push(self.config_path().display().to_string());
        arguments.push("--listen".to_owned());
        arguments.push(self.address().to_string());
        arguments
    }

    /// Runs another subcommand with the same configuration and environment.
    pub async fn command(&self, words: &[&str]) -> Output {
        self.command_after(&[], words).await
    }

    /// Starts another subcommand, which goes on; what it says goes to the file.
    pub fn begin(&self, words: &[&str], said: &str) -> (Process, PathBuf) {
        let path = self.folder.path().join(said);
        let file = File::create(&path).expect("a file");
        let (arguments, environment) = (self.arguments(words), self.environment.clone());
        let process = Process::start(program(), |command| {
            let errors = file.try_clone().expect("a file handle can be copied");
            command.args(arguments).envs(environment).stdout(file).stderr(errors);
        });
        (process.expect("the program starts"), path)
    }

    /// The same through another program and its arguments, such as `faketime`.
    pub async fn command_after(&self, before: &[&str], words: &[&str]) -> Output {
        let mut all: Vec<String> = before.iter().map(|&word| word.to_owned()).collect();
        all.push(program());
        all.extend(self.arguments(words));
        let environment = self.environment.clone();
        tokio::task::spawn_blocking(move || {
            Command::new(&all[0]).args(&all[1..]).envs(environment).output().expect("the program runs")
        })
        .await
        .expect("the command ends")
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the janitor was started")
    }

    /// SIGTERM; panics when it is not gone within two seconds, which is what
    /// the daemon promises.
    pub async fn stop(&mut self) {
        let process = self.process();
        process.signal("TERM");
        let status = process.exited(Duration::from_secs(2)).await;
        let status = status.unwrap_or_else(|| panic!("still there 2 s after SIGTERM\n{}", self.log_tail(30)));
        assert!(status.success(), "{status}\n{}", self.log_tail(30));
        self.process = None;
    }

    pub fn running(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// `GET path`: status and body.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        scrape::get(self.address(), path).await
    }

    /// The page, which waits for a look: a busy machine may need more than one try.
    pub async fn page(&self) -> String {
        let (code, html) = self.get_patiently("/").await;
        assert_eq!(code, 200, "{html}");
        html
    }

    /// `/api/v1/status`.
    pub async fn status(&self) -> Value {
        let (code, body) = self.get_patiently("/api/v1/status").await;
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> String {
        self.get_patiently("/metrics").await.1
    }

    /// What is asked for is the answer; how soon it comes is judged by tests of that.
    async fn get_patiently(&self, path: &str) -> (u16, String) {
        eventually("the janitor answers", Duration::from_secs(60), || self.get(path)).await
    }

    /// The value of one series, as in `name{label="value"}`; none when it is
    /// absent.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// All log events of all starts, oldest first.
    pub fn events(&self) -> Vec<Value> {
        (1..=self.starts)
            .flat_map(|start| {
                let text = fs::read_to_string(self.log_path(start)).unwrap_or_default();
                text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Value>>()
            })
            .collect()
    }

    /// Waits for a log event and gives it. A log line is good enough to know
    /// when to act; what happened to etcd is judged from etcd.
    pub async fn event(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = std::time::Instant::now();
        loop {
            if let Some(event) = self.events().into_iter().find(|event| wanted(event)) {
                return event;
            }
            assert!(started.elapsed() < limit, "no log event within {limit:?}: {what}\n{}", self.log_tail(40));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The ends of rounds: `(round, outcome, reason)`.
    pub fn rounds(&self) -> Vec<(String, String, Option<String>)> {
        let text = |event: &Value, name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
        self.events()
            .iter()
            .filter(|event| {
                event["task"] == "defrag" && event.get("outcome").is_some() && event.get("round_seconds").is_some()
            })
            .filter_map(|event| Some((text(event, "round")?, text(event, "outcome")?, text(event, "reason"))))
            .collect()
    }

    /// The last lines of the newest log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log_path(self.starts)).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.process = None;
        self.faked.iter().copied().for_each(faketime::forget);
        if std::thread::panicking() {
            eprintln!("--- janitor {}\n{}", self.address(), self.log_tail(25));
        }
    }
}
