//! The page: the snapshot for people. One document, no script, nothing fetched, everything escaped.

mod chart;
pub(in crate::http) mod text;

use std::fmt::{Display, Write};

use chrono::{DateTime, Utc};

use super::hints::hints;
use super::verdict::{Level, doing, verdict};
use crate::plan::hold::instant;
use crate::plan::reason::Outcome;
use crate::plan::record::RoundRecord;
use crate::plan::snapshot::{Decision, Growth, Member, Snapshot, Task, TaskKind};
use text::{Escaped, EscapedVerdict, ago, bytes, span};

const STYLE: &str = include_str!("style.css");

/// Rows of any table. A page is read by people and must stay small whatever lies in etcd.
const ROWS: usize = 15;

/// Seconds after which a browser asks again.
pub(super) const REFRESH: u32 = 15;

/// The document. `nonce` is the one that the Content-Security-Policy allows; `refreshes` tells whether it is sent with a
/// header that has the browser ask again, which whoever reads it slowly, or has it read aloud, can stop.
pub(super) fn render(snapshot: &Snapshot, now: DateTime<Utc>, nonce: &str, refreshes: bool) -> String {
    let mut html = Html(String::with_capacity(16 * 1024));
    head(&mut html, snapshot, nonce);
    summary(&mut html, snapshot, now);
    if refreshes {
        html.raw(&format!(
            "<p class=\"m\">Loaded anew every {REFRESH} s. <a href=\"/?refresh=off\">Stop that</a></p>\n"
        ));
    } else {
        html.raw(&format!("<p class=\"m\">Stands still. <a href=\"/\">Load it anew every {REFRESH} s</a></p>\n"));
    }
    advice(&mut html, snapshot, now);
    cards(&mut html, snapshot, now);
    chart::sizes(&mut html, snapshot, now);
    chart::timeline(&mut html, snapshot, now);
    html.table("Tasks", &["Task", "Schedule", "Next run", "Last outcome", "Last success", "Now", "Waiting for"], {
        snapshot.tasks.iter().map(|task| task_row(task, now))
    });
    coordination(&mut html, snapshot, now);
    rule(&mut html, snapshot);
    decisions(&mut html, snapshot, now);
    html.table("History", &["Round", "Member", "Outcome", "Took", "Size", "Ended", "Detail"], {
        snapshot.history.iter().map(|record| record_row(record, now))
    });
    html.raw(concat!(
        "<nav><a href=\"/metrics\">/metrics</a><a href=\"/livez?verbose\">/livez</a>",
        "<a href=\"/readyz?verbose\">/readyz?verbose</a><a href=\"/api/v1/status\">/api/v1/status</a>",
        "<a href=\"/api/v1/history\">/api/v1/history</a></nav>\n</main>\n</body>\n</html>\n"
    ));
    html.0
}

fn head(html: &mut Html, snapshot: &Snapshot, nonce: &str) {
    let local = snapshot.members.iter().find(|member| member.local).map_or("", |member| member.name.as_str());
    html.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.raw("<meta name=\"viewport\" content=\"width=device-width\">\n");
    html.raw(&format!("<title>{} etcd-janitor</title>\n", Escaped(local)));
    html.raw(&format!("<style nonce=\"{}\">\n{STYLE}</style>\n</head>\n<body>\n", Escaped(nonce)));
    html.raw("<main>\n");
    html.raw(&format!("<h1>etcd-janitor <small>{}</small></h1>\n", Escaped(&snapshot.janitor.version)));
}

fn summary(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    let verdict = verdict(snapshot, now);
    let level = verdict.level.name();
    html.raw(&format!(
        "<p class=\"v {level}\"><b class=\"{level}\">{level}</b> {}</p>\n<dl>\n",
        EscapedVerdict(verdict.text)
    ));
    html.pair("Cluster", snapshot.cluster_id.map(|id| id.to_string()).as_deref().unwrap_or("not known yet"));
    let revision = snapshot.revision.map_or_else(|| "unknown".to_owned(), |revision| revision.to_string());
    let compacted = snapshot.compact_revision.map_or_else(|| "unknown".to_owned(), |revision| revision.to_string());
    html.pair("Revision", format_args!("{revision}, compacted to {compacted}"));
    let alarms: Vec<String> =
        snapshot.alarms.iter().map(|up| format!("{} on {}", up.alarm, snapshot.name_of(up.member))).collect();
    let none = if snapshot.etcd_up == Some(true) { "none" } else { "unknown" };
    html.pair("Alarms", if alarms.is_empty() { none.to_owned() } else { alarms.join(", ") });
    let dry = if snapshot.config.dry_run { ", dry run" } else { "" };
    html.pair("Configuration", format_args!("{}{dry}", snapshot.config.source));
    // One in force may still be doubtful.
    let refused = !snapshot.config.valid || !snapshot.config.last_reload_successful;
    for problem in snapshot.config.problems.iter().take(ROWS) {
        html.pair(if refused { "Problem" } else { "Warning" }, problem);
    }
    for certificate in snapshot.certificates.iter().take(ROWS) {
        html.pair("Certificate", format_args!("{} until {}", certificate.usage, instant(certificate.not_after)));
    }
    let (janitor, up) = (&snapshot.janitor, span(now - snapshot.janitor.started_at));
    html.pair("Janitor", format_args!("{}, up {up}; as of {}", janitor.instance, instant(snapshot.at)));
    html.raw("</dl>\n");
}

fn coordination(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    html.raw("<h2>Coordination</h2>\n<dl>\n");
    html.pair("Turn", if snapshot.turn_held { "held by this janitor" } else { "not held by this janitor" });
    let more = snapshot.queue.len().saturating_sub(ROWS);
    let queue: Vec<&str> = snapshot.queue.iter().take(ROWS).map(String::as_str).collect();
    let queue = if queue.is_empty() { "empty".to_owned() } else { queue.join(", ") };
    html.pair("Queue", if more == 0 { queue } else { format!("{queue} and {more} more") });
    match (&snapshot.intent, &snapshot.intent_unreadable) {
        (Some(intent), _) => html.pair(
            "Intent",
            format_args!(
                "of {} by {} in {}, {}",
                snapshot.name_of(intent.member),
                intent.holder,
                intent.round,
                ago(now - intent.at)
            ),
        ),
        (None, Some(why)) => html.pair("Intent", format_args!("in the way, and cannot be read: {why}")),
        (None, None) => html.pair("Intent", "none"),
    }
    if let Some(rescue) = &snapshot.rescue {
        html.pair("Rescue", format_args!("{}: {}", rescue.round, rescue.told()));
    }
    match (&snapshot.hold, &snapshot.hold_unreadable) {
        (Some(hold), _) => {
            html.pair("Hold", format_args!("by {} until {}: {}", hold.by, instant(hold.until), hold.reason));
        }
        (None, Some(why)) => html.pair("Hold", format_args!("in force, and cannot be read: {why}")),
        (None, None) if snapshot.hold_read_at.is_none() => html.pair("Hold", "unknown"),
        (None, None) => html.pair("Hold", "none"),
    }
    if let Some(why) = &snapshot.missing_right {
        html.pair("Rights", why);
    }
    let forecast = snapshot.forecast_seconds.map_or_else(|| "unknown".to_owned(), |s| format!("{s:.1} s"));
    html.pair("Forecast", format_args!("{forecast} for a defrag of the local member"));
    if let Some(growth) = &snapshot.growth {
        html.pair("Growth", growing(growth, now));
    }
    let state = [(snapshot.quiesced, "nothing new is started"), (snapshot.draining, "clients are asked to leave")];
    for (_, text) in state.iter().filter(|(on, _)| *on) {
        html.pair("State", text);
    }
    html.raw("</dl>\n");
}

/// When growth reaches the quota, as part of a line.
pub fn growing(growth: &Growth, now: DateTime<Utc>) -> String {
    let left = span(growth.reached_at - now);
    let before = if growth.before_next_round { ", before the next round" } else { "" };
    format!(
        "{} reaches the quota of {} in {left}{before}, at {} an hour",
        growth.of.name(),
        bytes(growth.quota),
        bytes(growth.bytes_per_hour)
    )
}

/// What to do, as the command line has it.
fn advice(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    let hints = hints(snapshot, now);
    if hints.is_empty() {
        return;
    }
    html.raw("<h2>What to do</h2>\n<ul>\n");
    for hint in hints.iter().take(ROWS) {
        let (text, more) = (Escaped(&hint.text), Escaped(&hint.anchor));
        let _ = writeln!(html.0, "<li>{text} <small class=\"m\">docs/operating.md#{more}</small></li>");
    }
    html.raw("</ul>\n");
}

/// Each member with its bar.
fn cards(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    html.raw("<h2>Members</h2>\n<ul class=\"cards\">\n");
    for member in snapshot.members.iter().take(ROWS) {
        card(html, snapshot, member, now);
    }
    html.raw("</ul>\n");
    match snapshot.members.len() {
        0 => html.raw("<p class=\"m\">none yet</p>\n"),
        count if count > ROWS => html.raw(&format!("<p class=\"m\">and {} more</p>\n", count - ROWS)),
        _ => {}
    }
}

fn card(html: &mut Html, snapshot: &Snapshot, member: &Member, now: DateTime<Utc>) {
    let unknown = || "unknown".to_owned();
    let star = if member.local { "*" } else { "" };
    let in_use = match (member.db_size_in_use, member.db_size) {
        (Some(used), Some(size)) if size > 0 => format!("{} ({:.0}%)", bytes(used), percent(used, size)),
        (Some(used), _) => bytes(used),
        (None, _) => unknown(),
    };
    let quota = match (member.quota, member.db_size) {
        (Some(0), _) => "disabled".to_owned(),
        (Some(quota), Some(size)) => format!("{} ({:.0}%)", bytes(quota), percent(size, quota)),
        (Some(quota), None) => bytes(quota),
        (None, _) => unknown(),
    };
    let version = member.version.as_deref().unwrap_or("unknown release");
    let _ = writeln!(
        html.0,
        "<li><h3>{}{star}</h3>\n<p class=\"m\">{}, {}, {}</p>",
        Escaped(&member.name),
        member.role.name(),
        Escaped(version),
        member.id
    );
    chart::bar(html, member);
    html.raw("<dl>\n");
    let (level, state) = doing(snapshot, member);
    let bad = matches!(level, Level::Bad | Level::Attention);
    html.pair("State", if bad { "see below" } else { &state });
    html.pair("In use", in_use);
    let free = member.db_size.zip(member.db_size_in_use).map(|(size, used)| (size.saturating_sub(used), size));
    html.pair(
        "Free in it",
        free.map_or_else(unknown, |(free, size)| format!("{} ({:.0}%)", bytes(free), percent(free, size.max(1)))),
    );
    html.pair("File", member.db_size.map_or_else(unknown, bytes));
    html.pair("Quota", quota);
    let done = |record: &&RoundRecord| record.member == member.id && record.outcome == Outcome::Done;
    let last = snapshot.history.iter().find(done).map_or_else(
        || "none on record".to_owned(),
        |record| {
            let freed = record.size_before.zip(record.size_after).map(|(before, after)| before.saturating_sub(after));
            let freed = freed.map(|freed| format!(", freed {}", bytes(freed))).unwrap_or_default();
            format!("{}{freed}", ago(now - record.ended_at))
        },
    );
    html.pair("Last defrag", last);
    html.pair("Seen", member.seen_at.map_or_else(|| "never".to_owned(), |at| ago(now - at)));
    html.raw("</dl>\n");
    if bad {
        let _ = writeln!(html.0, "<p class=\"p\"><b>!</b> {}</p>", Escaped(state));
    }
    html.raw("</li>\n");
}

/// The rule, condition by condition.
fn rule(html: &mut Html, snapshot: &Snapshot) {
    let Some(rule) = &snapshot.rule else { return };
    let says = match rule.holds {
        Some(true) => "true: a defrag pays",
        Some(false) => "false: a defrag would not pay",
        None => "without an answer",
    };
    let mut before = None;
    let rows: Vec<Vec<Cell>> = rule
        .conditions
        .iter()
        .map(|condition| {
            let word = match before.replace(condition.alternative) {
                None => "",
                Some(alternative) if alternative == condition.alternative => "and",
                Some(_) => "or",
            };
            let answer = condition.holds.map_or("no answer", |holds| if holds { "true" } else { "false" });
            vec![Cell::plain(word), Cell::plain(&condition.text), Cell::plain(&condition.values), Cell::plain(answer)]
        })
        .collect();
    html.table(&format!("The rule is {says}"), &["And, or", "Condition", "Now", "Is"], rows.into_iter());
    if rule.conditions.is_empty() {
        let _ = writeln!(html.0, "<p>{}</p>", Escaped(&rule.told));
    }
}

fn task_row(task: &Task, now: DateTime<Utc>) -> Vec<Cell> {
    let schedule = match task.enabled {
        true => format!("{} {}", task.schedule, task.time_zone),
        false => "switched off".to_owned(),
    };
    let outcome = task.last_outcome.map(|outcome| outcome.to_string()).unwrap_or_default();
    let last = task.last_run.map(|at| format!(", {}", ago(now - at))).unwrap_or_default();
    let phase = match (task.in_progress, &task.round) {
        (true, Some(round)) => format!("{} ({round})", task.phase),
        (true, None) => task.phase.clone(),
        (false, _) => "idle".to_owned(),
    };
    vec![
        Cell::plain(task.task.name()),
        Cell::plain(schedule),
        Cell::at(task.next_run, |at| if at > now { format!("in {}", span(at - now)) } else { "now".to_owned() }),
        Cell::plain(format!("{outcome}{last}")),
        Cell::at(task.last_success, |at| ago(now - at)),
        Cell::plain(phase),
        Cell::plain(task.waiting_for.as_ref().map(ToString::to_string).unwrap_or_default()),
    ]
}

/// One table for each task: there are many more compactions than rounds.
fn decisions(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    for (kind, title) in
        [(TaskKind::Defrag, "Last decisions, defrag"), (TaskKind::Compaction, "Last decisions, compaction")]
    {
        let of = snapshot.decisions.iter().rev().filter(|decision| decision.task == kind);
        let rows: Vec<_> = of.map(|decision| decision_row(decision, now)).collect();
        html.table(title, &["When", "Round", "Decision"], rows.into_iter());
    }
}

fn decision_row(decision: &Decision, now: DateTime<Utc>) -> Vec<Cell> {
    let text = match &decision.blocked {
        Some(blocked) => format!("{} [{}]", decision.text, blocked.reason),
        None => decision.text.clone(),
    };
    vec![
        Cell::at(Some(decision.at), |at| ago(now - at)),
        Cell::number(decision.round.map(|round| round.to_string()).unwrap_or_default()),
        Cell::plain(text),
    ]
}

fn record_row(record: &RoundRecord, now: DateTime<Utc>) -> Vec<Cell> {
    let size = match (record.size_before, record.size_after) {
        (Some(before), Some(after)) => format!("{} → {}", bytes(before), bytes(after)),
        _ => String::new(),
    };
    vec![
        Cell::number(record.round.to_string()),
        Cell { hint: record.member.to_string(), ..Cell::plain(&record.name) },
        Cell::plain(record.outcome.to_string()),
        Cell::number(record.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default()),
        Cell::number(size),
        Cell::at(Some(record.ended_at), |at| ago(now - at)),
        Cell::plain(&record.detail),
    ]
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64 * 100.0
}

struct Cell {
    text: String,
    hint: String,
    class: &'static str,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Cell { text: text.into(), hint: String::new(), class: "" }
    }

    /// A figure or a name, which is not broken into lines.
    fn number(text: impl Into<String>) -> Self {
        Cell { class: "n", ..Cell::plain(text) }
    }

    /// Relative for the eye, absolute as a hint.
    fn at(at: Option<DateTime<Utc>>, show: impl Fn(DateTime<Utc>) -> String) -> Self {
        match at {
            Some(at) => Cell { hint: instant(at), ..Cell::number(show(at)) },
            None => Cell::plain(""),
        }
    }
}

/// A document under way. Only [`Html::raw`] adds markup; every value goes through [`Escaped`].
struct Html(String);

impl Html {
    fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    fn pair(&mut self, name: &str, value: impl Display) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "<dt>{name}</dt><dd>{}</dd>", Escaped(value));
    }

    fn table(&mut self, title: &str, columns: &[&str], rows: impl ExactSizeIterator<Item = Vec<Cell>>) {
        let hidden = rows.len().saturating_sub(ROWS);
        // Wider than a phone: to scroll it by keys it must be reached by them, and then has to say what it is.
        let region = format!("<div class=\"s\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\">");
        let _ = write!(self.0, "{region}<table><caption>{title}</caption>\n<tr>");
        for column in columns {
            let _ = write!(self.0, "<th scope=\"col\">{column}</th>");
        }
        self.raw("</tr>\n");
        if rows.len() == 0 {
            let _ = writeln!(self.0, "<tr><td class=\"m\" colspan=\"{}\">none yet</td></tr>", columns.len());
        }
        for row in rows.take(ROWS) {
            self.raw("<tr>");
            for cell in row {
                self.cell(&cell);
            }
            self.raw("</tr>\n");
        }
        if hidden > 0 {
            let _ = writeln!(self.0, "<tr><td class=\"m\" colspan=\"{}\">and {hidden} more</td></tr>", columns.len());
        }
        self.raw("</table></div>\n");
    }

    fn cell(&mut self, cell: &Cell) {
        self.raw("<td");
        if !cell.class.is_empty() {
            let _ = write!(self.0, " class=\"{}\"", cell.class);
        }
        if !cell.hint.is_empty() {
            let _ = write!(self.0, " title=\"{}\"", Escaped(&cell.hint));
        }
        let text = if cell.text.is_empty() { "–" } else { &cell.text };
        let _ = write!(self.0, ">{}</td>", Escaped(text));
    }
}
