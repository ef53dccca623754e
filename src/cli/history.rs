//! `etcd-janitor history`: who was defragmented when, and what it gave back.

use std::io::{self, Write};

use chrono::{DateTime, Utc};

use super::screen::{Cell, Screen, column, columns, optional};
use super::seen::see;
use super::yaml::yaml;
use super::{WELL, printable, refused};
use crate::config::Config;
use crate::etcd::Clock;
use crate::http::{Level, ago, bytes};
use crate::plan::hold::instant;
use crate::plan::reason::Outcome;
use crate::plan::record::RoundRecord;
use crate::plan::snapshot::Snapshot;

use super::status::Format;

/// Which records are shown.
#[derive(Debug, Clone, clap::Args)]
pub struct Order {
    /// Only this member, by name or id
    #[arg(long, value_name = "NAME")]
    member: Option<String>,
    /// How many, the newest first
    #[arg(long, default_value_t = 50, value_name = "NUMBER")]
    limit: usize,
    /// How to write it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Shows the recorded rounds. Exit code 0: they were read; 1: a daemon answers and cannot be understood; 3: nobody answers.
pub fn history(config: &Config, order: &Order, clock: &Clock, out: &mut impl Write) -> u8 {
    match see(config) {
        Ok(seen) => {
            let wanted = |record: &&RoundRecord| {
                let names = |name: &String| *name == record.name || *name == record.member.to_string();
                order.member.as_ref().is_none_or(names)
            };
            let records: Vec<&RoundRecord> = seen.snapshot.history.iter().filter(wanted).take(order.limit).collect();
            let _ = write(&seen.snapshot, &records, order.output, Screen::of_stdout(), clock.now().wall, out);
            WELL
        }
        Err((code, text)) => {
            refused(&text, order.output.is_document(), out);
            code
        }
    }
}

/// Writes records.
///
/// # Errors
///
/// `out` cannot be written.
pub fn write(
    snapshot: &Snapshot,
    records: &[&RoundRecord],
    format: Format,
    screen: Screen,
    now: DateTime<Utc>,
    out: &mut impl Write,
) -> io::Result<()> {
    let value = serde_json::json!({ "api_version": snapshot.api_version, "history": records });
    match format {
        Format::Json => return writeln!(out, "{value}"),
        Format::Yaml => return out.write_all(yaml(&value).as_bytes()),
        Format::Table | Format::Wide => {}
    }
    if records.is_empty() {
        return writeln!(out, "no round is on record; a member that needs no defrag writes none");
    }
    let wide = format == Format::Wide;
    let mut heads = vec![
        column("ROUND"),
        column("MEMBER"),
        column("OUTCOME"),
        optional("TOOK", 2),
        optional("BEFORE", 3),
        optional("AFTER", 4),
        column("FREED"),
        column("ENDED"),
    ];
    if wide {
        heads.extend([column("STARTED"), column("LEADER MOVED TO"), column("ID")]);
    }
    heads.push(optional("DETAIL", 5));
    let rows: Vec<Vec<Cell>> = records.iter().map(|record| row(snapshot, record, wide, now)).collect();
    let screen = if wide { Screen { width: None, ..screen } } else { screen };
    columns(screen, &heads, &rows, out).map(drop)
}

fn row(snapshot: &Snapshot, record: &RoundRecord, wide: bool, now: DateTime<Utc>) -> Vec<Cell> {
    let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), bytes);
    let freed = record.size_before.zip(record.size_after).map(|(before, after)| before.saturating_sub(after));
    let outcome = record.outcome.to_string();
    let level = match record.outcome {
        Outcome::Done => Level::Well,
        Outcome::Skipped(_) | Outcome::Unknown => Level::Attention,
        Outcome::Failed(_) => Level::Bad,
    };
    let ended = if wide { instant(record.ended_at) } else { ago(now - record.ended_at) };
    let mut row = vec![
        record.round.to_string().into(),
        printable(&record.name).into(),
        Cell::marked(level, outcome),
        record.seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1} s")).into(),
        size(record.size_before).into(),
        size(record.size_after).into(),
        size(freed).into(),
        ended.into(),
    ];
    if wide {
        let name = |id| snapshot.members.iter().find(|member| member.id == id).map(|member| printable(&member.name));
        let moved = record.leader_moved_to.map(|id| name(id).unwrap_or_else(|| id.to_string()));
        row.extend([
            record.started_at.map_or_else(|| "-".to_owned(), instant).into(),
            moved.unwrap_or_else(|| "-".to_owned()).into(),
            Cell::from(record.member.to_string()),
        ]);
    }
    row.push(printable(&record.detail).into());
    row
}
