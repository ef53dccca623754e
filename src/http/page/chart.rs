//! The pictures: sizes over a day, who was defragmented when, and the bars of a member. Inline SVG without styles of
//! its own: the page's policy allows none. What a picture shows is said beside it in words.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};

use super::text::{Escaped, ago, bytes};
use super::{Html, ROWS};
use crate::plan::hold::instant;
use crate::plan::reason::Outcome;
use crate::plan::snapshot::{Member, Snapshot};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 160.0;
/// Below the curves, for the marks of compactions.
const FOOT: f64 = 12.0;
/// Between two samples further apart nothing is known.
const GAP: TimeDelta = TimeDelta::minutes(15);

/// What fits a janitor that was started a moment ago, and one that has run for days: how it is called, minutes in all,
/// and what stands at the quarters.
const SPANS: [(&str, i64, [&str; 4]); 3] = [
    ("hour", 60, ["1 h ago", "45 min", "30 min", "15 min"]),
    ("4 hours", 240, ["4 h ago", "3 h", "2 h", "1 h"]),
    ("24 hours", 1440, ["24 h ago", "18 h", "12 h", "6 h"]),
];

/// The local member's sizes over the last day, or the part of it that is known.
pub(super) fn sizes(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    let oldest = snapshot.sizes.iter().map(|sample| now - sample.at).max().unwrap_or_default();
    let (called, minutes, quarters) =
        SPANS.into_iter().find(|(_, minutes, _)| oldest <= TimeDelta::minutes(*minutes)).unwrap_or(SPANS[2]);
    let from = now - TimeDelta::minutes(minutes);
    let samples: Vec<_> = snapshot.sizes.iter().filter(|sample| sample.at >= from && sample.at <= now).collect();
    let _ = writeln!(html.0, "<figure>\n<h2>Sizes, last {called}</h2>");
    let (Some(newest), Some(most)) = (samples.last(), samples.iter().map(|sample| sample.db_size).max()) else {
        html.raw("<p class=\"m\">no sample yet</p>\n</figure>\n");
        return;
    };
    let top = most.max(1) as f64 * 1.1;
    let x = |at: DateTime<Utc>| (at - from).num_seconds() as f64 / (minutes * 60) as f64 * WIDTH;
    let y = |size: u64| HEIGHT - FOOT - size as f64 / top * (HEIGHT - FOOT);
    let local = snapshot.local;
    let defrags: Vec<_> = snapshot
        .history
        .iter()
        .filter(|record| Some(record.member) == local && record.outcome == Outcome::Done)
        .filter(|record| record.ended_at >= from && record.ended_at <= now)
        .take(50)
        .collect();
    let compactions: Vec<_> = snapshot.compactions.iter().filter(|at| **at >= from && **at <= now).collect();
    let told = format!(
        "Now {} with {} in use; at most {}. Marked: {} and {}.",
        bytes(newest.db_size),
        bytes(newest.db_size_in_use),
        bytes(most),
        counted(defrags.len(), "defrag"),
        counted(compactions.len(), "compaction")
    );
    let _ = writeln!(
        html.0,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        HEIGHT + 14.0,
        Escaped(&told)
    );
    for (quarter, label) in quarters.into_iter().chain(["now"]).enumerate() {
        let at = quarter as f64 / 4.0 * WIDTH;
        let anchor = ["start", "middle", "middle", "middle", "end"][quarter];
        let _ = writeln!(html.0, "<path class=\"g\" d=\"M{at:.0} 0V{:.0}\"></path>", HEIGHT - FOOT);
        let _ = writeln!(html.0, "<text x=\"{at:.0}\" y=\"{}\" text-anchor=\"{anchor}\">{label}</text>", HEIGHT + 11.0);
    }
    let mut file = String::new();
    let mut in_use = String::new();
    let mut before: Option<DateTime<Utc>> = None;
    for sample in &samples {
        // One alone is a point, which nobody would see.
        let (step, dot) = if before.is_some_and(|before| sample.at - before < GAP) { ('L', "") } else { ('M', "h-2") };
        let _ = write!(file, "{step}{:.0} {:.1}{dot}", x(sample.at), y(sample.db_size));
        let _ = write!(in_use, "{step}{:.0} {:.1}{dot}", x(sample.at), y(sample.db_size_in_use));
        before = Some(sample.at);
    }
    let _ = writeln!(html.0, "<path class=\"size\" d=\"{file}\"></path>\n<path class=\"used\" d=\"{in_use}\"></path>");
    let mut ticks = String::new();
    for at in &compactions {
        let _ = write!(ticks, "M{:.0} {}v6", x(**at), HEIGHT - FOOT + 3.0);
    }
    let _ = writeln!(html.0, "<path class=\"c\" d=\"{ticks}\"></path>");
    for record in defrags {
        let freed = record.size_before.zip(record.size_after).map(|(before, after)| before.saturating_sub(after));
        let freed = freed.map(|freed| format!(" freed {}", bytes(freed))).unwrap_or_default();
        let at = x(record.ended_at);
        let _ = writeln!(
            html.0,
            "<g class=\"d\"><title>defrag at {}{freed}</title><path d=\"M{at:.1} 0V{:.0}\"></path></g>",
            instant(record.ended_at),
            HEIGHT - FOOT
        );
    }
    let _ = writeln!(
        html.0,
        "</svg>\n<figcaption>{} The upper curve is the file, the dashed one what is in use; a dotted line is a defrag, a tick below a compaction.</figcaption>\n</figure>",
        Escaped(&told)
    );
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Who was defragmented when, one line a member.
pub(super) fn timeline(html: &mut Html, snapshot: &Snapshot, now: DateTime<Utc>) {
    const LINE: f64 = 22.0;
    /// For the names, in a phone's letters.
    const LEFT: f64 = 176.0;
    /// Three members with `history.limit` 50 have 150 on record, and a mark has two hundred bytes.
    const RECORDS: usize = 60;
    let records: Vec<_> = snapshot.history.iter().filter(|record| record.ended_at <= now).take(RECORDS).collect();
    html.raw("<figure>\n<h2>Rounds</h2>\n");
    let Some(oldest) = records.iter().map(|record| record.ended_at).min() else {
        html.raw("<p class=\"m\">no round is on record</p>\n</figure>\n");
        return;
    };
    let members: Vec<&Member> = snapshot.members.iter().take(ROWS).collect();
    let lasts = (now - oldest).num_seconds().max(1) as f64;
    let x = |at: DateTime<Utc>| LEFT + (at - oldest).num_seconds() as f64 / lasts * (WIDTH - LEFT - 12.0);
    let height = members.len() as f64 * LINE + 16.0;
    let told = format!(
        "{} of {} since {}.",
        counted(records.len(), "record"),
        counted(members.len(), "member"),
        instant(oldest)
    );
    let _ = writeln!(
        html.0,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        Escaped(&told)
    );
    for (row, member) in members.iter().enumerate() {
        let y = row as f64 * LINE + LINE / 2.0;
        let _ = writeln!(html.0, "<text x=\"0\" y=\"{:.0}\">{}</text>", y + 4.0, Escaped(short(&member.name)));
        let _ = writeln!(html.0, "<path class=\"g\" d=\"M{LEFT} {y:.0}H{WIDTH}\"></path>");
        for record in records.iter().filter(|record| record.member == member.id) {
            let at = x(record.ended_at);
            // The shape says it too: a disc, a ring, a cross.
            let (class, shape) = match record.outcome {
                Outcome::Done => ("well", format!("M{:.1} {y:.0}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", at - 5.0)),
                Outcome::Skipped(_) => {
                    ("ring attention", format!("M{:.1} {y:.0}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0", at - 5.0))
                }
                Outcome::Failed(_) | Outcome::Unknown => {
                    ("ring bad", format!("M{:.1} {:.0}l8 8m0 -8l-8 8", at - 4.0, y - 4.0))
                }
            };
            let _ = writeln!(
                html.0,
                "<g class=\"{class}\"><title>{}</title><path d=\"{shape}\"></path></g>",
                Escaped(format!("{} {} {}", record.name, record.round, record.outcome))
            );
        }
    }
    let foot = height - 3.0;
    let _ = writeln!(html.0, "<text x=\"{LEFT}\" y=\"{foot:.0}\">{}</text>", Escaped(ago(now - oldest)));
    let _ = writeln!(html.0, "<text x=\"{WIDTH}\" y=\"{foot:.0}\" text-anchor=\"end\">now</text>\n</svg>");
    let _ = writeln!(
        html.0,
        "<figcaption>{} A disc is done, a ring skipped, a cross failed or unknown.</figcaption>\n</figure>",
        Escaped(&told)
    );
}

/// The end of a long name: that is where members of one cluster differ.
fn short(name: &str) -> String {
    const LONGEST: usize = 16;
    let cut = name.chars().count().saturating_sub(LONGEST);
    if cut == 0 { name.to_owned() } else { ['…'].into_iter().chain(name.chars().skip(cut + 1)).collect() }
}

/// How full a member is: what is in use, the file, the quota.
pub(super) fn bar(html: &mut Html, member: &Member) {
    let (Some(size), Some(in_use)) = (member.db_size, member.db_size_in_use) else { return };
    let whole = member.quota.filter(|quota| *quota > 0).unwrap_or(size).max(size).max(1) as f64;
    let share = |part: u64| (part as f64 / whole * 100.0).clamp(0.0, 100.0);
    let of = match member.quota {
        Some(quota) if quota > 0 => format!(" of a quota of {}", bytes(quota)),
        _ => String::new(),
    };
    let told = format!("{} in use in a file of {}{of}", bytes(in_use), bytes(size));
    let _ = writeln!(
        html.0,
        "<svg class=\"bar\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">\
         <rect class=\"q\" width=\"100\" height=\"4\"></rect><rect class=\"size\" width=\"{:.1}\" height=\"4\"></rect>\
         <rect class=\"used\" width=\"{:.1}\" height=\"4\"></rect></svg>",
        Escaped(told),
        share(size),
        share(in_use)
    );
}
