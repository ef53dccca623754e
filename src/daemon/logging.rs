//! Logs: one event a decision, JSON or text, to standard error. The level can be changed while running.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::LogFormat;

/// Targets that say nothing an operator could use, whatever the level: the scheduler crate reports its inner life at
/// `info` and its full channels at `error`, the HTTP libraries every connection at `debug`.
const QUIET: &str = "tokio_cron_scheduler=off,h2=warn,hyper=warn,hyper_util=warn,tower=warn,rustls=warn,tonic=warn";

/// Changes the level of the running process.
#[derive(Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// `level` is a level or a list of directives, valid by the configuration's own check.
    pub fn set(&self, level: &str) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}

fn filter(level: &str) -> Targets {
    // The operator's last: of two directives for one target the later one counts.
    format!("{QUIET},{level}").parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
}

/// Sets the process's logging up. A second call in one process changes nothing.
pub fn init(format: LogFormat, level: &str) -> Level {
    let (filter, handle) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(filter);
    let json = fmt::layer().json().flatten_event(true).with_target(false).with_writer(std::io::stderr);
    let text = fmt::layer().with_target(false).with_ansi(false).with_writer(std::io::stderr);
    let result = match format {
        LogFormat::Json => registry.with(json).try_init(),
        LogFormat::Text => registry.with(text).try_init(),
    };
    if result.is_err() {
        tracing::debug!("logging was set up before");
    }
    Level(handle)
}
