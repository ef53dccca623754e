//! Serve: the command line. One subcommand a file; exit codes are part of the interface.

pub mod check;
pub mod config;
mod examples;
pub mod explain;
pub mod history;
mod hold;
pub mod inject;
pub mod once;
pub mod probe;
mod progress;
mod quiesce;
pub mod screen;
pub mod seen;
pub mod status;
mod talk;
mod yaml;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Loaded, Source, load};
use crate::daemon;
use crate::etcd::Clock;

use examples::*;
use probe::{Which, probe};

/// Well, or done.
const WELL: u8 = 0;
/// Something wants attention, or a check failed.
const ATTENTION: u8 = 1;
/// The command line or the configuration is not valid.
const USAGE: u8 = 2;
/// Nobody could be reached.
const NOBODY: u8 = 3;
/// Skipped or refused, with a reason.
const SKIPPED: u8 = 4;
/// Sent, and nobody knows how it ended.
const UNKNOWN: u8 = 5;
/// Interrupted.
const INTERRUPTED: u8 = 130;

/// Keeps one etcd member compact, taking turns with the janitors of the others.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Exit codes: 0 well or done, 1 attention, 2 usage or configuration, 3 nobody \
reachable, 4 skipped or refused, 5 outcome unknown, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Command,
}

/// Flags that stand for configuration keys, and win over file and environment.
#[derive(Debug, Args)]
struct Options {
    /// The configuration file
    #[arg(long, short, global = true, env = "ETCD_JANITOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Client URL of the local member (etcd.endpoint)
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<String>,
    /// PEM bundle of the authorities to trust (etcd.tls.ca_file)
    #[arg(long, global = true, value_name = "FILE")]
    cacert: Option<String>,
    /// PEM client certificate (etcd.tls.cert_file)
    #[arg(long, global = true, value_name = "FILE")]
    cert: Option<String>,
    /// PEM key of the client certificate (etcd.tls.key_file)
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<String>,
    /// User (etcd.auth.username)
    #[arg(long, global = true, value_name = "NAME")]
    user: Option<String>,
    /// File that holds the password (etcd.auth.password_file)
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<String>,
    /// Address to serve on, or to find the daemon at (http.listen)
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Level or tracing directives (log.level)
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// json or text (log.format)
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Decide and say everything, send nothing (dry_run)
    #[arg(long, global = true)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = RUN)]
    Run,
    /// Show the whole cluster: what is well, what was done, what was not done and why
    #[command(after_help = STATUS)]
    Status(status::Order),
    /// Explain why it did or did not run, with the numbers, and what would have to change
    #[command(after_help = EXPLAIN)]
    Explain(explain::Order),
    /// Try everything that must be so before a first round
    #[command(after_help = CHECK)]
    Check(check::Order),
    /// Show who was defragmented when, and what it gave back
    #[command(after_help = HISTORY)]
    History(history::Order),
    /// Defragment the local member now, by the same rules and turns as the daemon
    #[command(after_help = DEFRAG)]
    Defrag,
    /// Compact now, by the same rules as the daemon
    #[command(after_help = COMPACT)]
    Compact,
    /// Hold all maintenance of the cluster for a while, for a reason
    #[command(after_help = HOLD)]
    Hold(hold::Order),
    /// End the hold
    #[command(after_help = RELEASE)]
    Release,
    /// Tell the daemon to start nothing new and to leave the queue (for preStop)
    #[command(after_help = QUIESCE)]
    Quiesce,
    /// Ask the daemon's probe (for an image's health check)
    #[command(after_help = PROBE)]
    Probe {
        /// Which probe
        #[arg(value_enum)]
        which: Which,
    },
    /// Put the sidecar beside the etcd of Kubernetes manifests
    Inject(inject::Order),
    /// Take it out again
    Uninject(inject::Undo),
    /// The configuration
    #[command(subcommand, after_help = CONFIG)]
    Config(ConfigCommand),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether it is valid, and when the schedules fire next
    Check,
    /// Print what is in force, and where each value came from
    Show,
    /// Print a JSON schema of the file
    Schema,
}

/// It holds a password and keys: no core file after a crash, and nothing for other processes of the same user, such as a
/// container that shares the process namespace. Kernels that cannot do it are no reason not to run.
fn keep_memory_to_itself() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Runs what the command line asks for and gives the exit code.
pub fn main() -> u8 {
    keep_memory_to_itself();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { WELL };
        }
    };
    let source = source(&cli.options);
    let mut out = std::io::stdout().lock();
    match cli.command {
        Command::Run => run(source),
        Command::Config(ConfigCommand::Check) => {
            written(self::config::check(&source, Clock::new().now().wall, &mut out))
        }
        Command::Config(ConfigCommand::Show) => written(self::config::show(&source, &mut out)),
        Command::Config(ConfigCommand::Schema) => written(self::config::schema(&mut out)),
        Command::Status(order) => {
            status::status(&of_the_daemon(&source, eprintln_lossy), &order, &Clock::new(), &mut out)
        }
        // A health check asks every few seconds; readyz itself says what is wrong with the file.
        Command::Probe { which } => probe(&of_the_daemon(&source, |_| ()), which, &mut out),
        Command::Quiesce => quiesce::quiesce(&of_the_daemon(&source, eprintln_lossy), &mut out),
        Command::Hold(order) => with_config(&source, |config| hold::hold(config, &order, &mut out)),
        Command::Release => with_config(&source, |config| hold::release(config, &mut out)),
        Command::Explain(order) => {
            explain::explain(&of_the_daemon(&source, eprintln_lossy), &order, &Clock::new(), &mut out)
        }
        Command::History(order) => {
            history::history(&of_the_daemon(&source, eprintln_lossy), &order, &Clock::new(), &mut out)
        }
        Command::Check(order) => with_loaded(&source, |loaded| check::check(&source, loaded, &order, &mut out)),
        Command::Defrag => with_config(&source, |config| once::defrag(config, &Clock::new(), &mut out)),
        Command::Compact => with_config(&source, |config| once::compact(config, &mut out)),
        Command::Inject(order) => {
            if source.file.is_some() {
                eprintln_lossy("note: the configuration file of this machine is not put into any pod; --config-map is");
            }
            inject::inject(&order, &source.flags, &mut out, &mut std::io::stderr().lock())
        }
        Command::Uninject(order) => inject::uninject(&order, &mut out, &mut std::io::stderr().lock()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "etcd-janitor", &mut script);
            written(out.write_all(&script).map(|()| WELL))
        }
    }
}

/// A closed pipe at the other end is the reader's business.
fn written(result: std::io::Result<u8>) -> u8 {
    result.unwrap_or(ATTENTION)
}

fn source(options: &Options) -> Source {
    let mut flags = Vec::new();
    let given = [
        ("etcd.endpoint", &options.endpoint),
        ("etcd.tls.ca_file", &options.cacert),
        ("etcd.tls.cert_file", &options.cert),
        ("etcd.tls.key_file", &options.key),
        ("etcd.auth.username", &options.user),
        ("etcd.auth.password_file", &options.password_file),
        ("http.listen", &options.listen),
        ("log.level", &options.log_level),
        ("log.format", &options.log_format),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            flags.push((key.to_owned(), value.clone()));
        }
    }
    if options.dry_run {
        flags.push(("dry_run".to_owned(), "true".to_owned()));
    }
    // Not vars(): a variable that is no UTF-8 is nobody's key of ours and must not end the process.
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Source { file: options.config.clone(), env, flags }
}

fn with_config(source: &Source, act: impl FnOnce(&Config) -> u8) -> u8 {
    with_loaded(source, |loaded| act(&loaded.config))
}

fn with_loaded(source: &Source, act: impl FnOnce(&Loaded) -> u8) -> u8 {
    match load(source) {
        Ok(loaded) => act(&loaded),
        Err(invalid) => {
            for problem in &invalid.problems {
                eprintln_lossy(&problem.to_string());
            }
            USAGE
        }
    }
}

/// The configuration for commands that only talk to the daemon. With a broken file the daemon serves on, by the
/// configuration it read before or by environment, flags and defaults, and must be found there all the same.
fn of_the_daemon(source: &Source, tell: impl Fn(&str)) -> Config {
    match load(source) {
        Ok(loaded) => loaded.config,
        Err(invalid) => {
            let config = daemon::serving_defaults(source);
            for problem in &invalid.problems {
                tell(&problem.to_string());
            }
            tell(&format!(
                "the configuration is not valid; looks for the janitor on {}, as environment, flags and defaults say",
                config.http.listen
            ));
            config
        }
    }
}

/// Standard error may be closed; what was to be said is lost then, and nothing else.
/// Says why there is nothing to show; on stderr where `out` is for a program, which reads no sentences.
fn refused(text: &str, document: bool, out: &mut impl Write) {
    for line in text.lines() {
        match document {
            true => eprintln_lossy(&printable(line)),
            false => drop(writeln!(out, "{}", printable(line))),
        }
    }
}

fn eprintln_lossy(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn token(config: &Config) -> Option<String> {
    let path = config.http.bearer_token_file.as_ref()?;
    std::fs::read_to_string(path).ok().map(|token| token.trim().to_owned())
}

fn run(source: Source) -> u8 {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln_lossy(&format!("cannot start: {error}"));
            return ATTENTION;
        }
    };
    let ended = runtime.block_on(daemon::run(source));
    // A name that is being looked up, or a volume that hangs, has a thread that nothing can end: it is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => WELL,
        Err(error) => {
            eprintln_lossy(&format!("etcd-janitor: {error}"));
            ATTENTION
        }
    }
}

/// One thread: the work is waiting.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// What comes from etcd or over the network may not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
