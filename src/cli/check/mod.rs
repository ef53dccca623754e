//! `etcd-janitor check`: everything that must be so before a first round, each tried and not guessed.
//!
//! Changes nothing that stays: one key under the prefix is written and deleted, one lease granted and revoked.

mod gather;
pub mod janitors;
pub mod judge;

use std::io::{self, Write};

use serde::Serialize;

use super::screen::{Screen, wrap};
use super::{ATTENTION, NOBODY, WELL, eprintln_lossy, printable, runtime};
use crate::config::{Loaded, Source};
use crate::http::Level;
use crate::plan::reason::Blocked;

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Every check, in sections
    #[default]
    Table,
    /// Only what is not well
    Short,
    /// All of it, for programs
    Json,
}

/// How it is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Order {
    /// How to write it
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Result {
    /// As it must be.
    Passed,
    /// It works, and somebody should know this.
    Warning,
    /// Maintenance will not work, or not safely.
    Failed,
    /// It could not be tried, because another check failed.
    NotTried,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Checks of one kind stand together.
    pub section: &'static str,
    /// What must be so.
    pub what: String,
    /// Whether it is.
    pub result: Result,
    /// What was seen.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Where the documents say more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link: String,
}

impl Check {
    /// As it must be.
    pub fn passed(section: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Check {
        Check {
            section,
            what: what.into(),
            result: Result::Passed,
            detail: detail.into(),
            hint: String::new(),
            link: String::new(),
        }
    }

    /// Not known.
    pub fn not_tried(section: &'static str, what: impl Into<String>, why: impl Into<String>) -> Check {
        Check { result: Result::NotTried, ..Check::passed(section, what, why) }
    }

    /// Not as it must be; `link` is below docs/.
    pub fn other(self, result: Result, hint: impl Into<String>, link: &str) -> Check {
        Check { result, hint: hint.into(), link: format!("docs/{link}"), ..self }
    }

    /// Not as it must be, for a reason that everything knows.
    pub fn blocked(section: &'static str, what: impl Into<String>, blocked: &Blocked) -> Check {
        let link = format!("operating.md#{}", blocked.reason);
        let check = Check::passed(section, what, blocked.detail.clone());
        check.other(Result::Failed, blocked.reason.remedy(), &link)
    }
}

/// Tries everything. Exit code 0: all is well, or only warned of; 1: a check failed; 3: neither daemon nor etcd answers.
pub fn check(source: &Source, loaded: &Loaded, order: &Order, out: &mut impl Write) -> u8 {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln_lossy(&format!("cannot start: {error}"));
            return ATTENTION;
        }
    };
    let gather::Gathered { checks, nobody } = runtime.block_on(gather::gather(source, loaded));
    runtime.shutdown_background();
    let _ = write(&checks, order.output, Screen::of_stdout(), out);
    match checks.iter().any(|check| check.result == Result::Failed) {
        _ if nobody => NOBODY,
        true => ATTENTION,
        false => WELL,
    }
}

/// Writes what came out.
///
/// # Errors
///
/// `out` cannot be written.
pub fn write(checks: &[Check], format: Format, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    let count = |result| checks.iter().filter(|check| check.result == result).count();
    let (failed, warnings) = (count(Result::Failed), count(Result::Warning));
    let not_tried = count(Result::NotTried);
    if format == Format::Json {
        let value = serde_json::json!({
            "api_version": 1, "ok": failed == 0, "failed": failed, "warnings": warnings, "not_tried": not_tried,
            "checks": checks,
        });
        return writeln!(out, "{value}");
    }
    let mut section = "";
    for check in checks.iter().filter(|check| format == Format::Table || check.result != Result::Passed) {
        if check.section != section {
            let before = if section.is_empty() { "" } else { "\n" };
            section = check.section;
            writeln!(out, "{before}{section}\n{}", "-".repeat(section.len()))?;
        }
        one(check, screen, out)?;
    }
    if !section.is_empty() {
        writeln!(out)?;
    }
    let level = if failed > 0 {
        Level::Bad
    } else if warnings > 0 {
        Level::Attention
    } else {
        Level::Well
    };
    let noun = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let mut told = Vec::new();
    if failed > 0 {
        told.push(format!("{} failed", noun(failed, "check", "checks")));
    } else if warnings + not_tried > 0 {
        told.push("no check failed".to_owned());
    } else {
        told.push("all checks passed".to_owned());
    }
    if warnings > 0 {
        told.push(noun(warnings, "warning", "warnings"));
    }
    // What is not known is not well, and not ill either.
    if not_tried > 0 {
        told.push(format!("{not_tried} not tried"));
    }
    let text = told.join(", ");
    writeln!(out, "{}", screen.paint(level, &text))
}

fn one(check: &Check, screen: Screen, out: &mut impl Write) -> io::Result<()> {
    // The signs of linkerd's check, and a word: a sign alone may be missing in a font.
    let (sign, level) = match check.result {
        Result::Passed => ("√ ok  ", Level::Well),
        Result::Warning => ("‼ warn", Level::Attention),
        Result::Failed => ("× FAIL", Level::Bad),
        Result::NotTried => ("· -   ", Level::Working),
    };
    let what = printable(&check.what);
    let detail = if check.detail.is_empty() { String::new() } else { format!(": {}", printable(&check.detail)) };
    writeln!(out, "{} {}", screen.paint(level, sign), wrap(screen, 7, &format!("{what}{detail}")))?;
    let more = match (check.hint.as_str(), check.link.as_str()) {
        ("", "") => return Ok(()),
        ("", link) => format!("see {link}"),
        (hint, "") => printable(hint),
        (hint, link) => format!("{} ({link})", printable(hint)),
    };
    writeln!(out, "       {}", wrap(screen, 7, &more))?;
    Ok(())
}
