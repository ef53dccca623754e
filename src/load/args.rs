//! The command line of `etcd-load`, as validated settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::work::{Mix, Stage, Value, Work};
use crate::config::value::{Raw, duration_text, size};
use crate::config::{Etcd, Source, load};

/// etcd refuses requests above 1.5 MiB; the rest is for the key.
const LARGEST_VALUE: u64 = 1_400_000;
/// Longest prefix, in bytes.
const LONGEST_PREFIX: usize = 1024;
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);
/// More keys than any etcd holds.
const MOST_KEYS: u64 = 1_000_000_000_000;

/// Writes, reads and deletes keys of an etcd cluster as fast as it can, and says how fast that was.
///
/// Without options: 2,000,000 keys foo0, foo1, … with the value bar. Every key that begins with the prefix and a number
/// may be overwritten or deleted.
#[derive(Debug, Parser)]
#[command(
    name = "etcd-load",
    version,
    after_help = "Exit codes: 0 well, 1 some requests failed, 2 usage, 3 etcd cannot be reached, 130 interrupted."
)]
pub struct Args {
    /// Client URLs, with commas or again and again; the connections are spread over them
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    endpoint: Vec<String>,
    /// PEM bundle of the authorities to trust; without it the system's
    #[arg(long, value_name = "FILE")]
    cacert: Option<String>,
    /// PEM client certificate
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// PEM key of the client certificate
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// Name that etcd's certificates must carry instead of the URL's host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// User
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Absolute path of the file that holds the user's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<String>,

    /// How many keys
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..=MOST_KEYS))]
    keys: u64,
    /// What they begin with; their number follows
    #[arg(long, value_name = "TEXT", default_value = "foo", value_parser = prefix)]
    prefix: String,
    /// What is written
    #[arg(long, value_name = "TEXT", default_value = "bar", conflicts_with = "value_size")]
    value: String,
    /// Writes so many random bytes instead, such as 1KiB
    #[arg(long, value_name = "SIZE", value_parser = value_size)]
    value_size: Option<usize>,
    /// Does not write every key once at first: they are there
    #[arg(long)]
    no_fill: bool,
    /// Then writes every key again, so many times: garbage for a compaction
    #[arg(long, value_name = "TIMES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    churn: u64,
    /// Then works on keys at random with these weights, such as read=80,write=15,delete=5
    #[arg(long, value_name = "WEIGHTS", value_parser = Mix::parse)]
    mix: Option<Mix>,
    /// Ends the mix after so many operations
    #[arg(long, value_name = "N", requires = "mix", value_parser = clap::value_parser!(u64).range(1..))]
    operations: Option<u64>,
    /// Ends the mix after this time, such as 10m
    #[arg(long, value_name = "TIME", requires = "mix", value_parser = duration)]
    duration: Option<Duration>,
    /// Another one gives other keys at random and other bytes
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// At most so many requests a second, all clients together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// TCP connections
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Clients, spread over the connections; each has one request under way
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// A request without an answer for so long has failed
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// Stops when more than so many requests failed
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_errors: u64,

    /// How to write the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Writes the report as JSON into this file, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Shows no progress
    #[arg(long, short)]
    quiet: bool,
}

/// How to write the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns, for people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// What is to be done, and how fast.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How to reach each endpoint.
    pub endpoints: Vec<Etcd>,
    /// The keys.
    pub work: Work,
    /// What is done with them, one after the other; at least one.
    pub stages: Vec<Stage>,
    /// Requests a second.
    pub rate: Option<u64>,
    /// TCP connections; at most as many as clients.
    pub connections: usize,
    /// Clients.
    pub clients: usize,
    /// Deadline of a request.
    pub timeout: Duration,
    /// More failures than this end the run.
    pub max_errors: u64,
}

/// How to tell it.
#[derive(Debug, Clone)]
pub struct Telling {
    /// On standard output.
    pub format: Format,
    /// A file for JSON, too.
    pub report: Option<PathBuf>,
    /// No progress.
    pub quiet: bool,
}

impl Args {
    /// Everything together, or everything that is wrong, one line each.
    pub fn settings(self) -> Result<(Settings, Telling), Vec<String>> {
        let mut problems = Vec::new();
        let endpoints = self.endpoints(&mut problems);
        let stages = self.stages(&mut problems);
        if self.connections > self.clients {
            problems.push(format!(
                "--connections {}: more than --clients {}; a connection without a client sends nothing",
                self.connections, self.clients
            ));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let value = self.value_size.map_or(Value::Text(self.value), Value::Random);
        let settings = Settings {
            endpoints,
            work: Work { keys: self.keys, prefix: self.prefix, value, seed: self.seed },
            stages,
            rate: self.rate,
            connections: self.connections as usize,
            clients: self.clients as usize,
            timeout: self.timeout,
            max_errors: self.max_errors,
        };
        Ok((settings, Telling { format: self.output, report: self.report, quiet: self.quiet }))
    }

    fn stages(&self, problems: &mut Vec<String>) -> Vec<Stage> {
        let mut stages = Vec::new();
        if !self.no_fill {
            stages.push(Stage::Fill);
        }
        if self.churn > 0 {
            stages.push(Stage::Churn { times: self.churn });
        }
        if let Some(mix) = self.mix {
            if self.operations.is_none() && self.duration.is_none() {
                problems.push("--mix: say when it ends, with --operations or --duration".to_owned());
            }
            stages.push(Stage::Mixed { mix, operations: self.operations, duration: self.duration });
        }
        if stages.is_empty() {
            problems.push("--no-fill: leaves nothing to do without --churn or --mix".to_owned());
        }
        stages
    }

    /// Each endpoint through the checks that the janitor's own configuration has.
    fn endpoints(&self, problems: &mut Vec<String>) -> Vec<Etcd> {
        let mut endpoints = Vec::new();
        for endpoint in &self.endpoint {
            let given = [
                ("etcd.endpoint", Some(endpoint)),
                ("etcd.tls.ca_file", self.cacert.as_ref()),
                ("etcd.tls.cert_file", self.cert.as_ref()),
                ("etcd.tls.key_file", self.key.as_ref()),
                ("etcd.tls.server_name", self.server_name.as_ref()),
                ("etcd.auth.username", self.user.as_ref()),
                ("etcd.auth.password_file", self.password_file.as_ref()),
            ];
            let given = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.clone())));
            // No environment: variables that are meant for a janitor in the same shell must not lead a load elsewhere.
            let source = Source { file: None, env: Default::default(), flags: given.collect() };
            match load(&source) {
                Ok(loaded) => endpoints.push(loaded.config.etcd),
                Err(invalid) => {
                    for problem in invalid.problems.iter().map(ToString::to_string) {
                        if !problems.contains(&problem) {
                            problems.push(problem);
                        }
                    }
                }
            }
        }
        endpoints
    }
}

fn prefix(written: &str) -> Result<String, String> {
    if written.len() > LONGEST_PREFIX {
        return Err(format!("{} bytes; allowed: up to {LONGEST_PREFIX}", written.len()));
    }
    Ok(written.to_owned())
}

fn value_size(written: &str) -> Result<usize, String> {
    let bytes = size(&Raw::Text(written.to_owned())).ok().flatten();
    let bytes = bytes.filter(|bytes| *bytes <= LARGEST_VALUE).and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        format!("allowed: 1B to {LARGEST_VALUE}B, such as 200B or 1KiB; etcd takes no request above 1.5 MiB")
    })
}

fn duration(written: &str) -> Result<Duration, String> {
    let read = duration_text(written).ok().filter(|duration| !duration.is_zero());
    read.ok_or_else(|| "allowed: a duration with its unit, such as 30s or 10m".to_owned())
}

fn timeout(written: &str) -> Result<Duration, String> {
    let read = duration_text(written).ok().filter(|time| (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(time));
    read.ok_or_else(|| "allowed: 10ms to 10m, with its unit, such as 5s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(words: &[&str]) -> Result<Settings, String> {
        let words = ["etcd-load"].iter().chain(words);
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        args.settings().map(|(settings, _)| settings).map_err(|problems| problems.join("\n"))
    }

    #[test]
    fn without_options_it_is_the_load_test_of_the_cronjobs_author() {
        let settings = settings(&[]).expect("defaults are valid");
        assert_eq!((settings.work.keys, settings.work.prefix.as_str()), (2_000_000, "foo"));
        assert_eq!(settings.work.value, Value::Text("bar".to_owned()));
        assert_eq!(settings.stages, [Stage::Fill]);
        assert_eq!((settings.rate, settings.timeout), (None, Duration::from_secs(5)));
        assert_eq!(settings.endpoints.len(), 1);
        assert_eq!(settings.endpoints[0].endpoint, "http://127.0.0.1:2379");
    }

    /// The janitor's own bound for requests is about its leases.
    #[test]
    fn a_slow_cluster_may_be_waited_for() {
        assert_eq!(settings(&["--timeout=10m"]).expect("valid").timeout, Duration::from_secs(600));
    }

    #[test]
    fn stages_come_in_their_order() {
        let words = ["--churn", "2", "--mix", "read=1,write=1", "--operations", "5", "--duration", "1m"];
        let mix = Mix { read: 1, write: 1, delete: 0 };
        let mixed = Stage::Mixed { mix, operations: Some(5), duration: Some(Duration::from_secs(60)) };
        assert_eq!(settings(&words).expect("valid").stages, [Stage::Fill, Stage::Churn { times: 2 }, mixed]);
        let words: Vec<&str> = words.into_iter().chain(["--no-fill"]).collect();
        assert_eq!(settings(&words).expect("valid").stages, [Stage::Churn { times: 2 }, mixed]);
    }

    #[test]
    fn all_endpoints_share_certificates_and_user() {
        let words = [
            "--endpoint=https://m0:2379,https://m1:2379",
            "--endpoint=https://m2:2379",
            "--cacert=ca.pem",
            "--user=root",
            "--password-file=/run/password",
        ];
        let endpoints = settings(&words).expect("valid").endpoints;
        let urls: Vec<&str> = endpoints.iter().map(|etcd| etcd.endpoint.as_str()).collect();
        assert_eq!(urls, ["https://m0:2379", "https://m1:2379", "https://m2:2379"]);
        assert!(endpoints.iter().all(|etcd| etcd.tls.ca_file.is_some() && etcd.auth.username.is_some()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        let cases: [(&[&str], &str); 15] = [
            (&["--keys=0"], "--keys"),
            (&["--value-size=2MiB"], "--value-size"),
            (&["--value-size=1K", "--prefix=a"], "--value-size"),
            (&["--value=a", "--value-size=1KiB"], "cannot be used with"),
            (&["--mix=read=1,reed=2", "--operations=1"], "reed"),
            (&["--mix=read=1"], "--operations or --duration"),
            (&["--operations=1"], "--mix"),
            (&["--mix=read=1", "--duration=10"], "--duration"),
            (&["--no-fill"], "nothing to do"),
            (&["--connections=8", "--clients=4"], "--connections 8"),
            (&["--rate=0"], "--rate"),
            (&["--endpoint=m0:2379"], "--endpoint"),
            (&["--timeout=5"], "--timeout"),
            (&["--timeout=11m"], "--timeout"),
            (&["--user=root"], "password_file"),
        ];
        for (words, expected) in cases {
            let error = settings(words).map(|_| ()).expect_err(&format!("{words:?}"));
            assert!(error.contains(expected), "{words:?}: {error}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_and_each_thing_once() {
        let error = settings(&["--endpoint=x,y", "--no-fill", "--clients=1"]).expect_err("three things");
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 4, "{error}");
        let error = settings(&["--endpoint=http://a:1,http://b:1", "--user=root"]).expect_err("one thing");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn a_password_in_the_wrong_place_is_not_repeated() {
        for words in
            [&["--user=root:hunter2"], &["--password-file=hunter2"], &["--endpoint=http://root:hunter2@m0:2379"]]
        {
            let error = settings(words).expect_err("refused");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
