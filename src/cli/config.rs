//! `etcd-janitor config check|show|schema`: the daemon's own reading of the configuration, made visible.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::config::keys::{self, Spec};
use crate::config::{Config, Loaded, Source, load, show as document};
use crate::plan::schedule::Schedule;

/// Exit code: the configuration is valid.
const WELL: u8 = 0;
/// Exit code: it is not.
const INVALID: u8 = 2;

/// Firings that are printed of each schedule.
const FIRINGS: usize = 3;

/// Says whether the configuration is valid: every problem, or the next three firings of each schedule after `now`.
///
/// Gives the exit code: 0 valid, 2 not.
///
/// # Errors
///
/// `out` cannot be written.
pub fn check(source: &Source, now: DateTime<Utc>, out: &mut impl Write) -> io::Result<u8> {
    let Some(Loaded { config, warnings, .. }) = valid(source, out)? else { return Ok(INVALID) };
    writeln!(out, "{}: valid", source.name())?;
    let Config { compaction, defrag, .. } = &config;
    firings("compaction", compaction.enabled, &compaction.schedule, now, out)?;
    firings("defrag", defrag.enabled, &defrag.schedule, now, out)?;
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    Ok(WELL)
}

/// Prints the configuration in force as YAML, with the origin of every key.
///
/// Gives the exit code: 0, or 2 when the configuration is not valid.
///
/// # Errors
///
/// `out` cannot be written.
pub fn show(source: &Source, out: &mut impl Write) -> io::Result<u8> {
    let Some(loaded) = valid(source, out)? else { return Ok(INVALID) };
    out.write_all(document::yaml(&loaded.effective).as_bytes())?;
    Ok(WELL)
}

/// Prints a JSON schema of the file, for editors.
///
/// # Errors
///
/// `out` cannot be written.
pub fn schema(out: &mut impl Write) -> io::Result<u8> {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "etcd-janitor.yaml",
        "type": "object",
        "additionalProperties": false,
        "properties": properties(""),
    });
    serde_json::to_writer_pretty(&mut *out, &schema).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(WELL)
}

fn valid(source: &Source, out: &mut impl Write) -> io::Result<Option<Loaded>> {
    match load(source) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(invalid) => {
            let count = invalid.problems.len();
            let noun = if count == 1 { "problem" } else { "problems" };
            writeln!(out, "{}: not valid, {count} {noun}", source.name())?;
            writeln!(out, "{invalid}")?;
            Ok(None)
        }
    }
}

fn firings(task: &str, enabled: bool, schedule: &Schedule, now: DateTime<Utc>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{task}.schedule: {schedule}")?;
    if !enabled {
        return writeln!(out, ", off: {task}.enabled is false");
    }
    writeln!(out)?;
    let due = std::iter::successors(schedule.next_after(now), |due| schedule.next_after(*due));
    for due in due.take(FIRINGS) {
        let local = due.with_timezone(schedule.zone());
        writeln!(out, "  {}  {}", due.format("%Y-%m-%dT%H:%M:%SZ"), local.format("%a %Y-%m-%d %H:%M:%S %Z"))?;
    }
    Ok(())
}

fn properties(above: &str) -> Value {
    let mut map = Map::new();
    for name in keys::children(above) {
        let path = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
        let value = match keys::find(&path) {
            Some(key) => property(key.spec()),
            None => json!({ "type": "object", "additionalProperties": false, "properties": properties(&path) }),
        };
        map.insert(name.to_owned(), value);
    }
    Value::Object(map)
}

fn property(spec: &Spec) -> Value {
    let mut value = json!({ "description": format!("{} Allowed: {}.", spec.doc, spec.allowed) });
    let (kind, default) = match spec.kind {
        "true or false" => (json!("boolean"), json!(spec.default == "true")),
        "number" => (json!("integer"), json!(spec.default.parse::<u64>().ok())),
        "ratio" => (json!("number"), json!(spec.default.parse::<f64>().ok())),
        "size" => (json!(["string", "integer"]), json!(spec.default)),
        _ if spec.is_list() => (json!("array"), json!([])),
        _ => (json!("string"), json!(spec.default)),
    };
    if let Some(fields) = value.as_object_mut() {
        // A number of revisions is written without quotes.
        let kind = if spec.path == "compaction.retention" { json!(["string", "integer"]) } else { kind };
        fields.insert("type".to_owned(), kind);
        fields.insert("default".to_owned(), default);
        if spec.is_list() {
            fields.insert("items".to_owned(), json!({ "type": "string" }));
        }
        if spec.kind == "word" {
            let words: Vec<&str> = spec.allowed.split(" or ").collect();
            fields.insert("enum".to_owned(), json!(words));
        }
    }
    value
}
