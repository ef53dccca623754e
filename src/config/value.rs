//! From what was written to what it means, one value at a time.
//!
//! Nothing here knows keys or files; [`Wrong`] says what a reader can add to the key's own description.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use crate::plan::rule::Rule;
use crate::plan::schedule::Schedule;
use crate::plan::zone::Zone;

/// A value before it is understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Raw {
    /// Text: quoted or plain in YAML, or from the environment or a flag.
    Text(String),
    /// A number, true or false in YAML, as text.
    Plain(String),
    /// A list of single values.
    List(Vec<Raw>),
    /// YAML's null.
    Nothing,
}

/// Why a value is refused; what is absent the key's description says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wrong {
    /// What was found; none: the value as written.
    pub found: Option<String>,
    /// What is allowed; none: what the key allows in general.
    pub allowed: Option<String>,
}

impl Wrong {
    fn found(found: impl Into<String>) -> Wrong {
        Wrong { found: Some(found.into()), allowed: None }
    }

    fn allowed(allowed: impl Into<String>) -> Wrong {
        Wrong { found: None, allowed: Some(allowed.into()) }
    }
}

/// A reader's answer.
pub type Read<T> = Result<T, Wrong>;

/// Longest duration that is read: no arithmetic on instants can overflow with it.
pub const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Longest text, path or URL that is read, in bytes.
const MAX_TEXT: usize = 1024;

impl Raw {
    /// For messages: quoted, shortened, on one line.
    pub fn shown(&self) -> String {
        match self {
            Raw::Text(text) => quote(text),
            Raw::Plain(text) => format!("`{text}`"),
            Raw::List(items) => {
                let items: Vec<String> = items.iter().take(8).map(Raw::shown).collect();
                format!("[{}]", items.join(", "))
            }
            Raw::Nothing => "nothing".to_owned(),
        }
    }
}

fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('\u{2026}');
    }
    format!("{short:?}")
}

fn scalar(raw: &Raw) -> Read<&str> {
    match raw {
        Raw::Text(text) | Raw::Plain(text) => Ok(text),
        Raw::List(_) => Err(Wrong::found("a list")),
        Raw::Nothing => Err(Wrong::found("nothing (leave the key out to get its default)")),
    }
}

/// Text; `007` and `true` must be quoted in YAML, which would otherwise change them.
pub fn text(raw: &Raw) -> Read<String> {
    let text = match raw {
        Raw::Plain(text) => return Err(Wrong::found(format!("the number or truth value `{text}` without quotes"))),
        other => scalar(other)?,
    };
    if text.len() > MAX_TEXT {
        return Err(Wrong::found(format!("{} characters", text.len())));
    }
    if text.chars().any(char::is_control) {
        // Not shown: it may be a key or a password with its line end.
        return Err(Wrong::found("text with control characters"));
    }
    Ok(text.to_owned())
}

/// Text, where empty means none.
pub fn optional_text(raw: &Raw) -> Read<Option<String>> {
    Ok(Some(text(raw)?).filter(|text| !text.is_empty()))
}

/// A path, where empty means none.
pub fn path(raw: &Raw) -> Read<Option<PathBuf>> {
    match optional_text(raw)? {
        Some(path) if path.contains("-----BEGIN") => Err(Wrong::found("the content of a file instead of its path")),
        path => Ok(path.map(PathBuf::from)),
    }
}

/// An absolute path to a secret, where empty means none. What is no path is not repeated: it may be the secret.
pub fn secret_path(raw: &Raw) -> Read<Option<PathBuf>> {
    match optional_text(raw).map_err(|_| Wrong::found("something that is no path (not shown)"))? {
        Some(path) if !path.starts_with('/') => {
            Err(Wrong::found("text that is no absolute path (not shown: it may be the secret itself)"))
        }
        path => Ok(path.map(PathBuf::from)),
    }
}

/// A user name, where empty means none.
pub fn username(raw: &Raw) -> Read<Option<String>> {
    match optional_text(raw)? {
        Some(name) if name.contains(':') => {
            Err(Wrong::found("a name with a colon (not shown: it may hold a password)"))
        }
        name => Ok(name),
    }
}

/// `true` or `false`.
pub fn boolean(raw: &Raw) -> Read<bool> {
    match scalar(raw)? {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Wrong::default()),
    }
}

/// One of a few words.
pub fn choice<T: Copy>(raw: &Raw, words: &[(&str, T)]) -> Read<T> {
    let written = scalar(raw)?;
    words.iter().find(|(word, _)| *word == written).map(|(_, value)| *value).ok_or_else(Wrong::default)
}

/// A whole number.
pub fn count(raw: &Raw, least: u64, most: u64) -> Read<u64> {
    let value: u64 = scalar(raw)?.parse().map_err(|_| Wrong::default())?;
    if (least..=most).contains(&value) { Ok(value) } else { Err(Wrong::default()) }
}

/// A share above 0 and up to 1.
pub fn ratio(raw: &Raw) -> Read<f64> {
    // NaN and infinities are floats to the parser; no comparison below holds for NaN.
    let value: f64 = scalar(raw)?.parse().map_err(|_| Wrong::default())?;
    if value > 0.0 && value <= 1.0 { Ok(value) } else { Err(Wrong::default()) }
}

/// A duration with units, such as `1h30m`.
pub fn duration(raw: &Raw, least: Duration, most: Duration) -> Read<Duration> {
    let written = scalar(raw)?;
    let value = duration_text(written)?;
    if value < least || value > most.min(LONGEST) { Err(Wrong::default()) } else { Ok(value) }
}

/// A duration of whole seconds.
pub fn whole_seconds(raw: &Raw, least: Duration, most: Duration) -> Read<Duration> {
    duration(raw, least, most)
        .and_then(|value| if value.subsec_nanos() == 0 { Ok(value) } else { Err(Wrong::default()) })
}

/// A duration without bounds other than [`LONGEST`].
pub fn duration_text(written: &str) -> Read<Duration> {
    let units = written.split(|c: char| !c.is_alphabetic()).filter(|unit| !unit.is_empty());
    // `5M` would be five months: one capital away from five minutes, and months have no fixed length.
    if units.clone().any(|unit| !["ms", "s", "sec", "m", "min", "h", "d", "w"].contains(&unit)) {
        return Err(Wrong::allowed("a duration with the units ms, s, m, h, d and w, such as 1h30m"));
    }
    if !written.is_ascii() {
        return Err(Wrong::default());
    }
    if units.count() == 0 {
        return Err(Wrong::found(format!("{}, which has no unit", quote(written))));
    }
    let value = humantime::parse_duration(written).map_err(|_| Wrong::default())?;
    if value > LONGEST { Err(Wrong::allowed("at most ten years")) } else { Ok(value) }
}

/// A size in bytes, where empty means none.
pub fn size(raw: &Raw) -> Read<Option<u64>> {
    let written = scalar(raw)?.trim();
    if written.is_empty() {
        return Ok(None);
    }
    let unit_at = written.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(written.len());
    let (number, unit) = written.split_at(unit_at);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "TiB" | "Ti" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(Wrong::default()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => number.parse::<f64>().ok().map(|number| (number * factor as f64) as u64),
    };
    match bytes {
        Some(bytes) if (1..=1 << 50).contains(&bytes) => Ok(Some(bytes)),
        _ => Err(Wrong::default()),
    }
}

/// `http://host:port` or `https://host:port`, without anything behind it but one slash, which is dropped.
pub fn url(raw: &Raw) -> Read<String> {
    let written = text(raw)?;
    if written.contains('@') {
        return Err(Wrong::found("text with an `@` (not shown: it may hold a password)"));
    }
    let plain = written.strip_suffix('/').unwrap_or(&written);
    let Some(authority) = plain.strip_prefix("http://").or_else(|| plain.strip_prefix("https://")) else {
        return Err(Wrong::default());
    };
    let Some((host, port)) = authority.rsplit_once(':') else {
        return Err(Wrong::found(format!("{}, which has no port", quote(&written))));
    };
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if host_fits && digits && port.parse::<u16>().is_ok_and(|port| port > 0) {
        Ok(plain.to_owned())
    } else {
        Err(Wrong::default())
    }
}

/// A URL, where empty means none.
pub fn optional_url(raw: &Raw) -> Read<Option<String>> {
    if matches!(raw, Raw::Text(text) if text.is_empty()) { Ok(None) } else { url(raw).map(Some) }
}

/// A list of URLs without repetitions.
pub fn urls(raw: &Raw) -> Read<Vec<String>> {
    let Raw::List(items) = raw else {
        return Err(match raw {
            Raw::Nothing => Wrong::found("nothing (leave the key out to get its default)"),
            _ => Wrong::found("a single value"),
        });
    };
    let mut all = Vec::new();
    for item in items {
        let one = url(item).map_err(|wrong| Wrong { found: wrong.found.or(Some(item.shown())), ..wrong })?;
        if all.contains(&one) {
            return Err(Wrong::found(format!("{} twice", item.shown())));
        }
        all.push(one);
    }
    Ok(all)
}

/// A prefix of keys in etcd.
pub fn prefix(raw: &Raw) -> Read<String> {
    let prefix = text(raw)?;
    if prefix.len() <= 256 && prefix.starts_with('/') && prefix.ends_with('/') {
        Ok(prefix)
    } else {
        Err(Wrong::default())
    }
}

/// An IP address and a port.
pub fn listen(raw: &Raw) -> Read<SocketAddr> {
    scalar(raw)?.parse().map_err(|_| Wrong::default())
}

/// A level, or directives of tracing-subscriber, `target=level`.
pub fn log_level(raw: &Raw) -> Read<String> {
    let directives = text(raw)?;
    // The library cuts directives at byte positions and panics inside a longer character.
    if !directives.is_ascii() {
        return Err(Wrong::default());
    }
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in directives.split(',') {
        // The library takes any lone word for the name of a target and logs it in full: `inof` would mean silence.
        let lone = !directive.contains('=');
        if lone && !levels.contains(&directive.trim().to_ascii_lowercase().as_str()) {
            return Err(Wrong::found(quote(directive.trim())));
        }
    }
    directives.parse::<Targets>().map_err(|_| Wrong::default())?;
    Ok(directives)
}

/// The name of a time zone.
pub fn zone(raw: &Raw) -> Read<Zone> {
    scalar(raw)?.parse().map_err(|_| Wrong::default())
}

/// A schedule; its zone is another key's.
pub fn schedule(raw: &Raw) -> Read<Schedule> {
    Schedule::parse(scalar(raw)?, Zone::UTC)
        .map_err(|error| Wrong { found: Some(error.found), allowed: Some(error.allowed) })
}

/// A rule.
pub fn rule(raw: &Raw) -> Read<Rule> {
    let written = scalar(raw)?;
    Rule::parse(written).map_err(|error| {
        let place = error.column.map(|column| format!(" at column {column} of {}", quote(written)));
        let found = format!("{}{}", error.found, place.unwrap_or_default());
        Wrong { found: Some(found), allowed: Some(error.allowed) }
    })
}

/// Anything single, understood later together with another key.
pub fn later(raw: &Raw) -> Read<String> {
    Ok(scalar(raw)?.to_owned())
}

#[cfg(test)]
mod tests;
