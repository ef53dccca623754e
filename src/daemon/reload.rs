//! Noticing that files changed, and taking over what they say now.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Daemon, policy};
use crate::config::{
    self, Config, Fingerprint, Invalid, Loaded, LogFormat, Source, read_fingerprint, read_fingerprint_within,
};
use crate::etcd::pem;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::step::Event;
use crate::plan::time::Mono;

/// Content is polled: a ConfigMap or Secret changes by swapping symlinks, which no watch on the file would see.
const CHECK_EVERY: Duration = Duration::from_secs(6);
/// So much before its time it is done when the loop is awake: with every poll of the member, and without a wake of its own.
const EARLY: Duration = Duration::from_secs(1);

/// Which files are watched, and what was last read from them.
pub(super) struct Reload {
    source: Source,
    tried: Option<Fingerprint>,
    etcd_files: Material,
    http_files: Material,
    next: Mono,
}

/// Files of certificates, keys, a password or a token, and what was last read from them.
#[derive(Default)]
struct Material(HashMap<PathBuf, Option<Fingerprint>>);

impl Material {
    /// Whether one of them has another content than last time.
    fn changed(&mut self, paths: &[&Option<PathBuf>]) -> bool {
        let content = paths
            .iter()
            .copied()
            .flatten()
            .map(|path| (path.clone(), read_fingerprint_within(path, pem::MAX_FILE).ok()))
            .collect();
        let changed = content != self.0;
        self.0 = content;
        changed
    }
}

impl Reload {
    pub(super) fn new(source: Source, now: Mono) -> Self {
        Reload {
            source,
            tried: None,
            etcd_files: Material::default(),
            http_files: Material::default(),
            next: now + CHECK_EVERY,
        }
    }

    pub(super) fn next_check(&self) -> Mono {
        self.next
    }

    pub(super) fn is_due(&self, now: Mono) -> bool {
        now + EARLY >= self.next
    }

    fn etcd_files_changed(&mut self, config: &Config) -> bool {
        let (tls, auth) = (&config.etcd.tls, &config.etcd.auth);
        self.etcd_files.changed(&[&tls.ca_file, &tls.cert_file, &tls.key_file, &auth.password_file])
    }

    fn http_files_changed(&mut self, config: &Config) -> bool {
        let http = &config.http;
        self.http_files.changed(&[&http.bearer_token_file, &http.tls.cert_file, &http.tls.key_file])
    }
}

/// What is taken over at the start only.
pub(super) type Fixed = (SocketAddr, usize, LogFormat);

/// What a configuration says of it.
pub(super) fn fixed(config: &Config) -> Fixed {
    (config.http.listen, config.http.max_connections, config.log.format)
}

impl Daemon {
    /// Looks whether any file changed.
    pub(super) fn check_files(&mut self) {
        let now = self.clock.mono();
        self.reload.next = now + CHECK_EVERY;
        if let Some(file) = self.reload.source.file.clone() {
            let content = read_fingerprint(&file).ok();
            if content != self.reload.tried {
                tracing::info!(file = %file.display(), "the configuration file changed");
                return self.reload_now();
            }
        }
        if let Some(config) = self.config.clone() {
            if self.reload.http_files_changed(&config) {
                tracing::info!("the certificate or the token of the port changed");
                self.renew_listener(&config);
            }
            if self.reload.etcd_files_changed(&config) {
                tracing::info!("certificates or credentials changed; connects anew");
                self.link.files_changed(now);
            }
        }
        self.judge_dates();
        self.listener.judge(self.clock.now());
        self.view.listener_problem.clone_from(&self.listener.problem);
    }

    fn renew_listener(&mut self, config: &Config) {
        self.listener.renew(config, self.clock.now());
        self.view.listener = self.listener.certificates.clone();
        self.view.listener_problem = self.listener.problem.clone();
    }

    /// Reads the configuration; a bad one leaves the old one in force.
    pub(super) fn reload_now(&mut self) {
        let loaded = config::load(&self.reload.source);
        self.adopt_config(loaded);
    }

    pub(super) fn refuse(&mut self, invalid: &Invalid) {
        self.reload.tried = invalid.fingerprint;
        let problems: Vec<String> = invalid.problems.iter().map(ToString::to_string).collect();
        for problem in &problems {
            tracing::error!(problem, "the configuration is not valid");
        }
        self.view.config.last_reload_successful = false;
        self.view.config.problems = problems;
        if self.config.is_none() {
            tracing::error!("no valid configuration: serves, and does no maintenance until there is one");
            let detail = "no valid configuration has been read; nothing is maintained";
            self.view.problem = Some(Blocked::new(Reason::ConfigInvalid, detail));
        } else {
            tracing::warn!("the configuration read before stays in force");
        }
    }

    pub(super) fn apply(&mut self, loaded: Loaded) {
        self.reload.tried = loaded.fingerprint;
        for warning in &loaded.warnings {
            tracing::warn!(warning, "configuration");
        }
        let now = self.clock.mono();
        let mut config = loaded.config;
        if fixed(&config) != self.served {
            tracing::warn!("http.listen, http.max_connections and log.format take effect at the next start");
        }
        if let Some(before) = &self.config
            && before.etcd.prefix != config.etcd.prefix
        {
            // Turns, intent and holds of one process are in one place.
            tracing::warn!(prefix = before.etcd.prefix, "etcd.prefix takes effect at the next start");
            config.etcd.prefix.clone_from(&before.etcd.prefix);
        }
        let config = Arc::new(config);
        let before = self.config.replace(Arc::clone(&config));
        self.view.config.valid = true;
        self.view.config.last_reload_successful = true;
        self.view.config.problems = loaded.warnings;
        self.view.config.dry_run = config.dry_run;
        self.level.set(&config.log.level);
        self.renew_listener(&config);
        self.set_schedules(&config);
        self.reload.http_files_changed(&config);
        let files_changed = self.reload.etcd_files_changed(&config);
        match &before {
            None => {
                self.view.problem = None;
                self.link.renew(now);
            }
            Some(before) => {
                tracing::info!("the new configuration is in force");
                if before.etcd != config.etcd {
                    self.link.renew(now);
                } else if files_changed {
                    self.link.files_changed(now);
                }
            }
        }
        if let Some(compactor) = &mut self.compactor {
            compactor.set_policy(policy::compactions(&config));
        }
        let rounds = policy::rounds(&config, self.view.recorded);
        self.janitor_event(Event::Policy(Box::new(rounds)));
        self.probes.set_timeout(config.defrag.timeout);
        if !config.compaction.enabled {
            let step = self.compactor.as_mut().and_then(|compactor| compactor.stop(Reason::Disabled));
            self.compaction_steps(step);
        }
        // Who switches something off means from now on.
        let now_dry = config.dry_run && before.is_some_and(|before| !before.dry_run);
        let why = if config.defrag.enabled { now_dry.then_some(Reason::DryRun) } else { Some(Reason::Disabled) };
        if let Some(reason) = why {
            self.janitor_event(Event::Withdraw(reason));
        }
    }
}
