//! Which values do not go together.

use std::time::Duration;

use super::{Config, Foreign, Guard, Retention};

/// What is wrong or doubtful with a combination.
pub(super) enum Finding<'a> {
    /// It cannot work.
    Refused {
        /// Every key that takes part.
        keys: &'a [&'static str],
        /// What they are.
        found: String,
        /// What goes together.
        allowed: &'static str,
    },
    /// It works and is probably not meant. One sentence with the key paths in it.
    Doubtful(String),
}

/// Looks at every combination.
pub(super) fn check(config: &Config, report: &mut dyn FnMut(Finding)) {
    connection(config, report);
    credentials(config, report);
    round(config, report);
    lifted(config, report);
    doubts(config, report);
}

fn refuse(report: &mut dyn FnMut(Finding), keys: &[&'static str], found: impl Into<String>, allowed: &'static str) {
    report(Finding::Refused { keys, found: found.into(), allowed });
}

fn is_https(url: &str) -> bool {
    url.starts_with("https://")
}

fn connection(config: &Config, report: &mut dyn FnMut(Finding)) {
    let etcd = &config.etcd;
    if etcd.peers.contains(&etcd.endpoint) {
        let found = format!("the local member's URL {:?} among those of the others", etcd.endpoint);
        refuse(report, &["etcd.endpoint", "etcd.peers"], found, "in etcd.peers only the other members");
    }
    if let Some(local) = etcd.metrics.local.as_ref().filter(|local| etcd.metrics.peers.contains(local)) {
        let found = format!("the local member's URL {local:?} among those of the others");
        let keys = ["etcd.metrics.local", "etcd.metrics.peers"];
        refuse(report, &keys, found, "in etcd.metrics.peers only the other members");
    }
    let tls = &etcd.tls;
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        let found =
            if tls.cert_file.is_some() { "a certificate without its key" } else { "a key without its certificate" };
        refuse(report, &["etcd.tls.cert_file", "etcd.tls.key_file"], found, "both or neither");
    }
    let tls = &config.http.tls;
    if tls.cert_file.is_some() != tls.key_file.is_some() {
        let found =
            if tls.cert_file.is_some() { "a certificate without its key" } else { "a key without its certificate" };
        refuse(report, &["http.tls.cert_file", "http.tls.key_file"], found, "both or neither");
    }
    let tls = &etcd.tls;
    let urls = [Some(&etcd.endpoint), etcd.metrics.local.as_ref()];
    let mut urls = urls.into_iter().flatten().chain(&etcd.peers).chain(&etcd.metrics.peers);
    if !urls.any(|url| is_https(url)) {
        let files = [
            ("etcd.tls.ca_file", tls.ca_file.is_some()),
            ("etcd.tls.cert_file", tls.cert_file.is_some()),
            ("etcd.tls.key_file", tls.key_file.is_some()),
            ("etcd.tls.server_name", tls.server_name.is_some()),
        ];
        let set: Vec<&'static str> = files.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect();
        if !set.is_empty() {
            let keys: Vec<&'static str> = ["etcd.endpoint"].into_iter().chain(set).collect();
            let found = format!("TLS material and {:?}, with no https URL anywhere", etcd.endpoint);
            refuse(report, &keys, found, "https in etcd.endpoint or etcd.peers, or no TLS material");
        }
    }
}

fn credentials(config: &Config, report: &mut dyn FnMut(Finding)) {
    let auth = &config.etcd.auth;
    if auth.username.is_some() != auth.password_file.is_some() {
        let found =
            if auth.username.is_some() { "a user without a password file" } else { "a password file without a user" };
        refuse(report, &["etcd.auth.username", "etcd.auth.password_file"], found, "both or neither");
    }
}

fn round(config: &Config, report: &mut dyn FnMut(Finding)) {
    let defrag = &config.defrag;
    let shorter = [
        (
            "defrag.jitter",
            defrag.jitter,
            "a jitter that is shorter than the window: nothing may be sent after the window",
        ),
        (
            "defrag.pause_between",
            defrag.pause_between,
            "a pause that is shorter than the window: else a round reaches one member",
        ),
        ("defrag.drain", defrag.drain, "a drain that is shorter than the window: nothing may be sent after the window"),
    ];
    for (key, span, allowed) in shorter {
        if span >= defrag.window {
            let found = format!("{} in a window of {}", shown(span), shown(defrag.window));
            refuse(report, &[key, "defrag.window"], found, allowed);
        }
    }
    if config.etcd.request_timeout * 2 > config.turn.lease_ttl {
        let found = format!(
            "requests of up to {} on a lease of {}",
            shown(config.etcd.request_timeout),
            shown(config.turn.lease_ttl)
        );
        let keys = ["etcd.request_timeout", "turn.lease_ttl"];
        refuse(report, &keys, found, "a lease that outlasts two requests: else one slow renewal loses the turn");
    }
}

/// Guards that are switched off: somebody meant it once, and whoever reads the log now should know.
fn lifted(config: &Config, report: &mut dyn FnMut(Finding)) {
    let (defrag, compaction) = (&config.defrag, &config.compaction);
    let lifted = [
        (
            defrag.small_cluster == Guard::Allow,
            "defrag.small_cluster is allow: with one or two voters the cluster takes no write during a defrag",
        ),
        (
            defrag.unsafe_versions == Guard::Allow,
            "defrag.unsafe_versions is allow: releases are defragmented that can lose data by it (3.5.0 to 3.5.5)",
        ),
        (
            defrag.liveness_budget.is_none(),
            "defrag.liveness_budget is 0s: nothing keeps etcd's liveness probe from killing it in mid-defrag, unless that probe asks /etcd/livez",
        ),
        (
            compaction.when_kubernetes == Foreign::Force,
            "compaction.when_kubernetes is force: the kube-apiserver compacts as well, and its watchers count on its own age",
        ),
        (
            compaction.when_etcd_compacts == Foreign::Force,
            "compaction.when_etcd_compacts is force: etcd compacts by itself as well",
        ),
        (
            config.alarms.compact_to_head,
            "alarms.compact_to_head is true: a rescue may compact what watchers and paginated lists still read",
        ),
    ];
    for (_, sentence) in lifted.into_iter().filter(|(lifted, _)| *lifted) {
        report(Finding::Doubtful(sentence.to_owned()));
    }
}

fn doubts(config: &Config, report: &mut dyn FnMut(Finding)) {
    let mut doubt = |sentence: String| report(Finding::Doubtful(sentence));
    let defrag = &config.defrag;
    let (held, samples) = defrag.rule.samples_held();
    if held == 0 {
        doubt(format!("defrag.rule holds for none of {samples} sample databases: check its units and comparisons"));
    }
    if defrag.leader_wait >= defrag.window {
        let (wait, window) = (shown(defrag.leader_wait), shown(defrag.window));
        doubt(format!(
            "defrag.leader_wait ({wait}) is not shorter than defrag.window ({window}): the leader's janitor only goes when the others are through"
        ));
    }
    let interval = defrag.schedule.interval(chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::days(20_000));
    if let Some(interval) = interval.filter(|interval| *interval < defrag.window) {
        let (interval, window) = (shown(interval), shown(defrag.window));
        doubt(format!(
            "defrag.window ({window}) is longer than the {interval} between two rounds of defrag.schedule: a round can still be open when the next is due"
        ));
    }
    if let Retention::Age(retention) = config.compaction.retention
        && config.alarms.rescue
        && config.alarms.rescue_retention > retention
    {
        let (rescue, usual) = (shown(config.alarms.rescue_retention), shown(retention));
        doubt(format!(
            "alarms.rescue_retention ({rescue}) is longer than compaction.retention ({usual}): a rescue would free nothing more"
        ));
    }
    if config.alarms.rescue && config.etcd.prefix.starts_with("/registry/") {
        doubt("etcd.prefix lies in the keyspace of a kube-apiserver (/registry/)".to_owned());
    }
    if config.etcd.auth.username.is_some() && !is_https(&config.etcd.endpoint) && !is_loopback(&config.etcd.endpoint) {
        doubt("etcd.auth.password_file: the password travels in clear text to etcd.endpoint, which is http and not this host".to_owned());
    }
    let clear = config.http.tls.cert_file.is_none() && !config.http.listen.ip().is_loopback();
    if config.http.bearer_token_file.is_some() && clear {
        doubt("http.bearer_token_file: the token travels in clear text to http.listen".to_owned());
    }
}

fn is_loopback(url: &str) -> bool {
    ["http://127.", "http://localhost:", "http://[::1]:"].iter().any(|start| url.starts_with(start))
}

fn shown(span: Duration) -> String {
    humantime::format_duration(span).to_string().replace(' ', "")
}
