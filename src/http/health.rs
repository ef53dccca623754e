//! Checks in the form that Kubernetes made usual: `[+]name ok`, `[-]name failed: why`, `?verbose`, `?exclude=name`.
//!
//! Liveness and readiness of the janitor never depend on etcd: a restart of the sidecar cures no sick cluster.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::{AskEtcd, EtcdProbe, ProbeAnswer};

/// Proof that the daemon's loop turns.
#[derive(Debug)]
pub struct Heartbeat {
    bound: Duration,
    touched: Mutex<Instant>,
}

impl Heartbeat {
    /// Alive until nobody has touched it for `bound`.
    pub fn new(bound: Duration) -> Self {
        Heartbeat { bound, touched: Mutex::new(Instant::now()) }
    }

    /// The loop has turned.
    pub fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since it last turned.
    pub fn silence(&self) -> Duration {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Why it counts as stuck, if it does.
    pub fn problem(&self) -> Option<String> {
        let silence = self.silence();
        (silence > self.bound).then(|| {
            let (silence, bound) = (silence.as_secs_f64(), self.bound.as_secs_f64());
            format!("the loop has not turned for {silence:.1} s (bound {bound:.1} s)")
        })
    }
}

/// One line of a probe's answer.
pub(super) struct Check {
    name: &'static str,
    problem: Option<String>,
    detail: String,
}

impl Check {
    pub(super) fn new(name: &'static str, problem: Option<String>) -> Self {
        Check { name, problem, detail: String::new() }
    }

    pub(super) fn of_etcd(answer: ProbeAnswer) -> Self {
        let text = one_line(&answer.text);
        if answer.ok {
            Check { name: "etcd", problem: None, detail: text }
        } else {
            Check { name: "etcd", problem: Some(text), detail: String::new() }
        }
    }
}

/// The answer of the probe `probe`. A failing one always tells what failed, as Kubernetes' own do.
pub(super) fn report(probe: &str, checks: &[Check], query: &[(String, String)]) -> (StatusCode, String) {
    let verbose = query.iter().any(|(key, value)| key == "verbose" && value != "false");
    let excluded: Vec<&str> = query
        .iter()
        .filter(|(key, _)| key == "exclude")
        .flat_map(|(_, value)| value.split(','))
        .filter(|name| !name.is_empty())
        .collect();
    let mut text = String::new();
    let mut failed = false;
    for check in checks {
        let line = match &check.problem {
            _ if excluded.contains(&check.name) => format!("[+]{} excluded: ok\n", check.name),
            Some(problem) => {
                failed = true;
                format!("[-]{} failed: {problem}\n", check.name)
            }
            None if check.detail.is_empty() => format!("[+]{} ok\n", check.name),
            None => format!("[+]{} ok: {}\n", check.name, check.detail),
        };
        text.push_str(&line);
    }
    for name in excluded.iter().filter(|name| checks.iter().all(|check| check.name != **name)) {
        text.push_str(&format!("warn: no check is called {:?}\n", clip(name, 64)));
    }
    match (failed, verbose) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}{probe} check failed\n")),
        (false, true) => (StatusCode::OK, format!("{text}{probe} check passed\n")),
        (false, false) => (StatusCode::OK, "ok\n".to_owned()),
    }
}

/// Asks about the etcd container, once at a time for each probe.
///
/// The probes need no token, so whoever reaches the port can call them: callers at the same time share one question, and
/// a flood costs etcd no more than a single caller.
pub(super) struct Probes {
    ask: AskEtcd,
    deadline: Duration,
    livez: Flight,
    readyz: Flight,
}

type Question = BoxFuture<'static, ProbeAnswer>;
/// Weak: when all callers have gone, the question is dropped and the next one asks afresh.
type Flight = Mutex<Option<WeakShared<Question>>>;

impl Probes {
    pub(super) fn new(ask: AskEtcd, deadline: Duration) -> Self {
        Probes { ask, deadline, livez: Mutex::new(None), readyz: Mutex::new(None) }
    }

    pub(super) fn ask(&self, probe: EtcdProbe) -> Shared<Question> {
        let flight = match probe {
            EtcdProbe::Livez => &self.livez,
            EtcdProbe::Readyz => &self.readyz,
        };
        let mut flight = flight.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = flight.as_ref().and_then(WeakShared::upgrade).filter(|question| question.peek().is_none());
        if let Some(question) = under_way {
            return question;
        }
        let (ask, deadline) = (self.ask.clone(), self.deadline);
        let question = async move {
            let late = || ProbeAnswer { ok: false, text: format!("no answer within {} ms", deadline.as_millis()) };
            tokio::time::timeout(deadline, ask(probe)).await.unwrap_or_else(|_| late())
        };
        let question = question.boxed().shared();
        *flight = question.downgrade();
        question
    }
}

/// A text from elsewhere must not look like a line of ours.
fn one_line(text: &str) -> String {
    clip(text, 500).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// At most `bytes` bytes of `text`, cut between characters.
fn clip(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_failure_is_told_and_can_be_excluded() {
        let checks = [Check::new("ping", None), Check::new("config", Some("no file".to_owned()))];
        let (status, text) = report("readyz", &checks, &[]);
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "[+]ping ok\n[-]config failed: no file\nreadyz check failed\n");

        let (status, text) = report("readyz", &checks, &query(&[("verbose", ""), ("exclude", "config,x\ny")]));
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            text,
            "[+]ping ok\n[+]config excluded: ok\nwarn: no check is called \"x\\ny\"\nreadyz check passed\n"
        );
    }

    #[test]
    fn an_answer_from_elsewhere_cannot_forge_a_line() {
        let check = Check::of_etcd(ProbeAnswer { ok: false, text: format!("x\n[+]all ok{}", "é".repeat(500)) });
        let (_, text) = report("livez", &[check], &[]);
        assert_eq!(text.lines().count(), 2);
        assert!(text.len() < 600);
    }

    #[test]
    fn silence_beyond_the_bound_is_a_problem() {
        let heartbeat = Heartbeat::new(Duration::from_millis(20));
        assert_eq!(heartbeat.problem(), None);
        std::thread::sleep(Duration::from_millis(30));
        assert!(heartbeat.problem().is_some());
        heartbeat.touch();
        assert_eq!(heartbeat.problem(), None);
    }
}
