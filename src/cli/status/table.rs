//! The picture in columns.

use std::io::{self, Write};

use chrono::{DateTime, Utc};

use crate::cli::printable;
use crate::cli::screen::{Cell, Screen, column, columns, optional, wrap};
use crate::cli::seen::Seen;
use crate::http::{Level, ago, bytes, doing, growing, hints, span, verdict};
use crate::plan::hold::instant;
use crate::plan::reason::Outcome;
use crate::plan::record::RoundRecord;
use crate::plan::snapshot::{Member, Role, Snapshot, Task, TaskKind};

/// Who asked for how much.
struct Scope<'a> {
    snapshot: &'a Snapshot,
    wide: bool,
    screen: Screen,
    now: DateTime<Utc>,
}

/// Verdict, members, tasks, what stands in the way, and what to do about it.
pub(super) fn write(
    seen: &Seen,
    wide: bool,
    screen: Screen,
    now: DateTime<Utc>,
    out: &mut impl Write,
) -> io::Result<()> {
    let scope = Scope { snapshot: &seen.snapshot, wide, screen, now };
    if let Some(why) = &seen.without_daemon {
        let text = format!("{why} This is what etcd itself shows, and this command's configuration.");
        let word = screen.paint(Level::Attention, "NO JANITOR");
        writeln!(out, "{word}  {}\n", wrap(screen, 12, &printable(&text)))?;
    }
    let verdict = verdict(scope.snapshot, now);
    let word = verdict.level.name().to_uppercase();
    let told = wrap(screen, word.len() + 2, &printable(&verdict.text));
    writeln!(out, "{}  {told}\n", screen.paint(verdict.level, &word))?;
    scope.cluster(out)?;
    let cut = [scope.members(out)?, scope.tasks(out)?].concat();
    scope.details(&cut, out)?;
    for hint in hints(scope.snapshot, now) {
        let text = format!("{} (docs/operating.md#{})", printable(&hint.text), hint.anchor);
        writeln!(out, "{} {}", screen.paint(Level::Attention, "!"), wrap(screen, 2, &text))?;
    }
    Ok(())
}

impl Scope<'_> {
    fn cluster(&self, out: &mut impl Write) -> io::Result<()> {
        let snapshot = self.snapshot;
        let well = |member: &&Member| member.problem.is_none() || snapshot.in_defrag(member);
        let answering = snapshot.members.iter().filter(well).count();
        let leader = snapshot.members.iter().find(|member| member.role == Role::Leader);
        let mut alarms: Vec<&str> = snapshot.alarms.iter().map(|alarm| alarm.alarm.as_str()).collect();
        alarms.dedup();
        let alarms = match snapshot.etcd_up {
            _ if !alarms.is_empty() => printable(&alarms.join(",")),
            Some(true) => "none".to_owned(),
            _ => unknown(),
        };
        let turn = match snapshot.queue.as_slice() {
            [] if snapshot.looked_at.is_none() => unknown(),
            [] => "free".to_owned(),
            [holder] => printable(holder),
            [holder, waiting @ ..] => format!("{}, then {}", printable(holder), printable(&waiting.join(", "))),
        };
        let line = format!(
            "CLUSTER {}   MEMBERS {answering}/{}   LEADER {}   ALARMS {alarms}   TURN {turn}   LOOKED {}",
            snapshot.cluster_id.map_or_else(unknown, |id| id.to_string()),
            snapshot.members.len(),
            leader.map_or_else(unknown, |leader| printable(&leader.name)),
            self.when(snapshot.looked_at),
        );
        writeln!(out, "{}\n", wrap(self.screen, 0, &line))
    }

    /// What of it was cut, with whose it is.
    fn members(&self, out: &mut impl Write) -> io::Result<Vec<String>> {
        if self.snapshot.members.is_empty() {
            return Ok(Vec::new());
        }
        let mut heads = vec![
            column("MEMBER"),
            column("ROLE"),
            optional("VERSION", 5),
            column("DB SIZE"),
            column("IN USE"),
            optional("FREE", 6),
            optional("QUOTA", 4),
            optional("LAST DEFRAG", 2),
            optional("FREED", 3),
        ];
        if self.wide {
            heads.extend([column("TOOK"), column("SEEN"), column("ID")]);
        }
        heads.push(column("STATE"));
        let rows: Vec<Vec<Cell>> = self.snapshot.members.iter().map(|member| self.member(member)).collect();
        let room = columns(self.screen, &heads, &rows, out)?;
        writeln!(out)?;
        Ok(cut(self.snapshot.members.iter().map(|member| member.name.as_str()), &rows, room))
    }

    fn member(&self, member: &Member) -> Vec<Cell> {
        let star = if member.local { "*" } else { "" };
        let last = self.last_defrag(member);
        let freed = last.and_then(|record| record.size_before?.checked_sub(record.size_after?));
        let mut row = vec![
            format!("{}{star}", printable(&member.name)).into(),
            member.role.name().into(),
            member.version.as_deref().map_or_else(unknown, printable).into(),
            member.db_size.map_or_else(unknown, bytes).into(),
            share(member.db_size_in_use, member.db_size).into(),
            share(
                member.db_size.zip(member.db_size_in_use).map(|(all, used)| all.saturating_sub(used)),
                member.db_size,
            )
            .into(),
            match member.quota {
                Some(0) => "off".to_owned(),
                Some(quota) => share_of(quota, member.db_size),
                None => unknown(),
            }
            .into(),
            self.when(last.map(|record| record.ended_at)).into(),
            freed.map_or_else(unknown, bytes).into(),
        ];
        if self.wide {
            let took = last.and_then(|record| record.seconds);
            row.extend([
                took.map_or_else(unknown, |seconds| format!("{seconds:.1} s")).into(),
                self.when(member.seen_at).into(),
                Cell::from(member.id.to_string()),
            ]);
        }
        row.push(self.state(member));
        row
    }

    /// What a member is doing, or what is wrong with it.
    fn state(&self, member: &Member) -> Cell {
        let (level, text) = doing(self.snapshot, member);
        let text = printable(&text);
        let text = if matches!(level, Level::Bad | Level::Attention) { format!("! {text}") } else { text };
        if level == Level::Well { text.into() } else { Cell::marked(level, text) }
    }

    fn last_defrag(&self, member: &Member) -> Option<&RoundRecord> {
        self.snapshot.history.iter().find(|record| record.member == member.id && record.outcome == Outcome::Done)
    }

    /// As [`Scope::members`]. When the other members' janitors run is known to them alone.
    fn tasks(&self, out: &mut impl Write) -> io::Result<Vec<String>> {
        if self.snapshot.tasks.is_empty() {
            return Ok(Vec::new());
        }
        let heads = [
            column("TASK (LOCAL)"),
            optional("SCHEDULE", 3),
            column("NEXT RUN"),
            column("LAST OUTCOME"),
            optional("LAST RUN", 2),
            column("STATE"),
        ];
        let rows: Vec<Vec<Cell>> = self.snapshot.tasks.iter().map(|task| self.task(task)).collect();
        let room = columns(self.screen, &heads, &rows, out)?;
        writeln!(out)?;
        Ok(cut(self.snapshot.tasks.iter().map(|task| task.task.name()), &rows, room))
    }

    fn task(&self, task: &Task) -> Vec<Cell> {
        let state = match &task.waiting_for {
            Some(blocked) if task.in_progress => {
                Cell::marked(Level::Attention, printable(&format!("{}: {blocked}", task.phase)))
            }
            Some(blocked) => printable(&blocked.to_string()).into(),
            None if task.in_progress => Cell::marked(Level::Working, printable(&task.phase)),
            None => printable(&task.phase).into(),
        };
        let next = match task.next_run {
            Some(at) if self.wide => instant(at),
            Some(at) if at > self.now => format!("in {}", span(at - self.now)),
            Some(_) => "now".to_owned(),
            None => unknown(),
        };
        vec![
            task.task.name().into(),
            printable(&format!("{} {}", task.schedule, task.time_zone)).into(),
            next.into(),
            task.last_outcome.map_or_else(unknown, |outcome| outcome.to_string()).into(),
            self.when(task.last_run).into(),
            state,
        ]
    }

    fn details(&self, cut: &[String], out: &mut impl Write) -> io::Result<()> {
        let snapshot = self.snapshot;
        let mut lines = Vec::new();
        if let (Some(revision), Some(compacted)) = (snapshot.revision, snapshot.compact_revision) {
            let behind = revision.saturating_sub(compacted);
            // -1 is what etcd says of a cluster that was never compacted.
            lines.push(match compacted {
                ..=0 => ("COMPACTED", format!("nothing yet; the newest revision is {revision}")),
                _ => ("COMPACTED", format!("to revision {compacted}, {behind} behind the newest ({revision})")),
            });
        }
        if let Some(seconds) = snapshot.forecast_seconds {
            lines.push(("FORECAST", format!("{seconds:.1} s for a defrag of the local member")));
        }
        if let Some(growth) = &snapshot.growth {
            lines.push(("GROWTH", growing(growth, self.now)));
        }
        if let Some(intent) = &snapshot.intent {
            let who = snapshot.name_of(intent.member);
            let since = self.when(Some(intent.at));
            lines
                .push(("INTENT", format!("{} announced a defrag of {who} {since} in {}", intent.holder, intent.round)));
        }
        if let Some(why) = &snapshot.intent_unreadable {
            lines.push(("INTENT", format!("cannot be read: {why}")));
        }
        if let Some(hold) = &snapshot.hold {
            lines.push(("HOLD", format!("{} (another {})", hold.told(), span(hold.until - self.now))));
        }
        if let Some(why) = &snapshot.hold_unreadable {
            lines.push(("HOLD", format!("cannot be read: {why}; `etcd-janitor release` removes it")));
        }
        if let Some(why) = &snapshot.missing_right {
            lines.push(("RIGHTS", why.clone()));
        }
        if let Some(rescue) = &snapshot.rescue {
            lines.push(("RESCUE", format!("{}: {}", rescue.round, rescue.told())));
        }
        for alarm in &snapshot.alarms {
            lines.push(("ALARM", format!("{} raised by {}", alarm.alarm, snapshot.name_of(alarm.member))));
        }
        if self.wide {
            for certificate in &snapshot.certificates {
                lines.push(("CERTIFICATE", format!("{} until {}", certificate.usage, instant(certificate.not_after))));
            }
            lines.push(("CONFIGURATION", snapshot.config.source.clone()));
            let janitor = &snapshot.janitor;
            if !janitor.instance.is_empty() {
                let since = instant(janitor.started_at);
                lines.push(("JANITOR", format!("{}, instance {}, since {since}", janitor.version, janitor.instance)));
            }
        }
        lines.extend(cut.iter().map(|text| ("STATE", text.clone())));
        let decision = snapshot.decisions.iter().rev().find(|decision| decision.task == TaskKind::Defrag);
        if let Some(decision) = decision {
            lines.push(("DECIDED", format!("{}: {}", self.when(Some(decision.at)), decision.text)));
        }
        for (name, text) in &lines {
            writeln!(out, "{}", wrap(self.screen, 0, &format!("{name} {}", printable(text))))?;
        }
        if !lines.is_empty() {
            writeln!(out)?;
        }
        Ok(())
    }

    /// Relative for the eye; absolute where there is room.
    fn when(&self, at: Option<DateTime<Utc>>) -> String {
        match at {
            Some(at) if self.wide => instant(at),
            Some(at) => ago(self.now - at),
            None => unknown(),
        }
    }
}

/// The last cells of those rows in which they are longer than `room`.
fn cut<'a>(names: impl Iterator<Item = &'a str>, rows: &[Vec<Cell>], room: usize) -> Vec<String> {
    let told = |(name, row): (&str, &Vec<Cell>)| Some(format!("{name}: {}", row.last()?.longer_than(room)?));
    names.zip(rows).filter_map(told).collect()
}

fn unknown() -> String {
    "-".to_owned()
}

fn share(in_use: Option<u64>, size: Option<u64>) -> String {
    match (in_use, size) {
        (Some(in_use), Some(size)) if size > 0 => format!("{} ({:.0}%)", bytes(in_use), percent(in_use, size)),
        _ => unknown(),
    }
}

fn share_of(quota: u64, size: Option<u64>) -> String {
    size.map_or_else(|| bytes(quota), |size| format!("{} ({:.0}%)", bytes(quota), percent(size, quota)))
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64 * 100.0
}
