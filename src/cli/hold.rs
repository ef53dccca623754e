//! `etcd-janitor hold` and `release`: an operator's pause of all maintenance of the cluster, and its end.

use std::io::Write;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::quiesce::ask_to_quiesce;
use super::{ATTENTION, NOBODY, SKIPPED, UNKNOWN, WELL, eprintln_lossy, printable, runtime};
use crate::config::Config;
use crate::config::value::duration_text;
use crate::daemon::once::{Stopped, connect};
use crate::etcd::{self, Class, Clock, Cluster, Error, Identity, Listed, Placed, StoredHold};
use crate::http::span;
use crate::plan::cluster::Stored;
use crate::plan::hold::{LONGEST, MAX_NAME, MAX_REASON, SHORTEST, instant, line, no_hold, whole_seconds};
use crate::plan::record::{Hold, Intent, VERSION};

/// How often it is begun anew when somebody else changes the hold in between.
const ATTEMPTS: usize = 3;
/// Two clocks that differ by less may only have been read in different seconds.
const SAME_CLOCK: TimeDelta = TimeDelta::seconds(5);
/// How much is shown of a value that is not one of ours.
const SHOWN: usize = 200;

/// The hold that is asked for.
#[derive(Debug, clap::Args)]
pub struct Order {
    /// How long, such as 90m, 2h or 1d12h; at most 30d
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting)]
    lasts: Duration,
    /// Why; shown wherever the hold is
    #[arg(long, value_name = "TEXT", value_parser = |text: &str| line(text, MAX_REASON))]
    reason: String,
    /// Who, when not user@host
    #[arg(long, value_name = "NAME", value_parser = |text: &str| line(text, MAX_NAME))]
    by: Option<String>,
    /// Put it in the place of a hold that is in force
    #[arg(long)]
    replace: bool,
}

fn lasting(text: &str) -> Result<Duration, String> {
    let lasts = duration_text(text).ok().filter(|lasts| (SHORTEST..=LONGEST).contains(lasts));
    lasts.ok_or_else(|| "allowed: 1s to 30d, with the units s, m, h and d, such as 90m or 1d12h".to_owned())
}

/// Writes a hold. Exit code 0: it is in force; 1: NOSPACE kept it from being written; 3: nobody answers; 4: there
/// is one, or etcd does not let us; 5: nobody knows whether it was written.
pub fn hold(config: &Config, order: &Order, out: &mut impl Write) -> u8 {
    drive(async { place(config, order, out).await })
}

/// Removes the hold. Exit code 0: nothing is held any more; 3: nobody answers; 4: others keep changing it, or etcd does not let us; 5:
/// nobody knows whether it was removed.
pub fn release(config: &Config, out: &mut impl Write) -> u8 {
    drive(async { remove(config, out).await })
}

fn drive(work: impl Future<Output = Result<u8, Stopped>>) -> u8 {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln_lossy(&format!("cannot start: {error}"));
            return ATTENTION;
        }
    };
    match runtime.block_on(work) {
        Ok(code) => code,
        Err(Stopped::Unreachable(text)) => {
            eprintln_lossy(&format!("etcd cannot be used from here, and nothing was changed: {}", printable(&text)));
            eprintln_lossy("a hold is the whole cluster's: any other member's pod can write and release it, too");
            NOBODY
        }
        Err(Stopped::Refused(text)) => {
            eprintln_lossy(&format!("etcd cannot be used from here, and nothing was changed: {}", printable(&text)));
            SKIPPED
        }
        Err(Stopped::Interrupted { .. }) => super::INTERRUPTED,
    }
}

async fn place(config: &Config, order: &Order, out: &mut impl Write) -> Result<u8, Stopped> {
    let (cluster, identity) = connect(config).await?;
    for _ in 0..ATTEMPTS {
        let clocks = etcd::member_clocks(&cluster).await;
        // Members and janitors share their hosts; the clock here may be anybody's. A Date header is cut to the second.
        let now = etcd::median(&clocks).map_or_else(|| Clock::new().now().wall, |date| date + TimeDelta::seconds(1));
        let seen = etcd::read_pause(&cluster).await?.hold;
        let in_force = no_hold(seen.as_ref().map(|seen| &seen.hold), now).err();
        if let Some(blocked) = &in_force
            && !order.replace
        {
            let _ = writeln!(out, "nothing was written: {}", printable(&blocked.detail));
            let _ = writeln!(out, "`etcd-janitor release` ends it; --replace puts this one in its place");
            return Ok(SKIPPED);
        }
        let hold = Hold {
            v: VERSION,
            reason: order.reason.clone(),
            by: order.by.clone().unwrap_or_else(|| whoami(&identity)),
            until: now + TimeDelta::seconds(i64::try_from(whole_seconds(order.lasts)).unwrap_or(i64::MAX)),
            extra: Default::default(),
        };
        if config.dry_run {
            let _ = writeln!(out, "dry run: nothing was written; it would be {}", hold.told());
            return Ok(WELL);
        }
        match etcd::place_hold(&cluster, &hold, order.lasts, seen.as_ref()).await {
            Ok(Placed::Written) => {
                placed(&cluster, &hold, now, in_force.map(|blocked| blocked.detail), &clocks, out).await;
                return Ok(WELL);
            }
            Ok(Placed::Changed) => {}
            Ok(Placed::Unclear(error)) => return Ok(unclear("written", &error, out)),
            Err(error) if error.class == Class::Nospace => return Ok(nospace(config, &cluster, &identity, out)),
            // Undone, and the earlier one may have gone with it.
            Err(error) if in_force.is_some() && !error.is_refusal() => return Ok(unclear("replaced", &error, out)),
            Err(error) => return Err(error.into()),
        }
    }
    let _ = writeln!(out, "nothing was written: somebody else keeps changing the hold");
    Ok(SKIPPED)
}

/// Says what is in force now and what goes on all the same.
async fn placed(
    cluster: &Cluster,
    hold: &Hold,
    now: DateTime<Utc>,
    replaced: Option<String>,
    clocks: &[(Listed, DateTime<Utc>)],
    out: &mut impl Write,
) {
    let _ = writeln!(out, "{} ({} from now)", printable(&hold.told()), span(hold.until - now));
    let _ = writeln!(out, "no janitor starts a defrag or a compaction until then, or until `etcd-janitor release`");
    if let Some(replaced) = replaced {
        let _ = writeln!(out, "in the place of: {}", printable(&replaced));
    }
    // Read after the hold was written: an intent that is not there now is refused from here on.
    match etcd::read_pause(cluster).await.map(|pause| pause.intent) {
        Ok(None) => {}
        Ok(Some(intent)) => {
            let _ = writeln!(out, "not stopped: {}", printable(&under_way(cluster, &intent)));
        }
        Err(error) => {
            let text = printable(&error.to_string());
            let _ = writeln!(out, "whether a defrag is under way could not be read: {text}");
        }
    }
    let _ = writeln!(out, "not stopped: what was sent before, etcd's own auto-compaction, other tools");
    for warning in early(clocks) {
        let _ = writeln!(out, "warning: {}", printable(&warning));
    }
}

fn under_way(cluster: &Cluster, intent: &Stored<Intent>) -> String {
    match &intent.value {
        Ok(intent) => {
            let member = cluster.listed().into_iter().find(|member| member.id == intent.member);
            let name = member.map(|member| member.name).filter(|name| !name.is_empty());
            let name = name.map_or_else(|| intent.member.to_string(), |name| format!("{name} ({})", intent.member));
            format!(
                "a defrag of {name} that {} announced at {} in {}: once sent, it cannot be cancelled",
                intent.holder,
                instant(intent.at),
                intent.round
            )
        }
        Err(unreadable) => format!("a defrag that another release announced ({unreadable})"),
    }
}

/// Members whose clocks are ahead: their janitors take the hold for over too early.
fn early(clocks: &[(Listed, DateTime<Utc>)]) -> Vec<String> {
    let Some(median) = etcd::median(clocks) else { return Vec::new() };
    let ahead = clocks.iter().filter(|(_, date)| *date - median > SAME_CLOCK);
    ahead
        .map(|(member, date)| {
            let by = span(*date - median);
            format!("the clock of {} is {by} ahead: its janitor takes the hold for over that much earlier", member.name)
        })
        .collect()
}

/// A hold is a write. Janitors can still be told one by one.
fn nospace(config: &Config, cluster: &Cluster, identity: &Identity, out: &mut impl Write) -> u8 {
    let _ = writeln!(out, "etcd refuses the hold: NOSPACE is up, and a hold is a write");
    if config.dry_run {
        return ATTENTION;
    }
    let (text, _) = ask_to_quiesce(config);
    let _ = writeln!(out, "{}: {}", printable(&identity.name), printable(&text));
    let others: Vec<Listed> = cluster.listed().into_iter().filter(|member| member.id != identity.member).collect();
    if !others.is_empty() {
        let _ = writeln!(out, "tell the other janitors, each in its pod:");
    }
    let namespace = std::env::var("POD_NAMESPACE").ok().filter(|name| !name.is_empty());
    let namespace = namespace.map(|name| format!(" -n {}", shell_word(&name))).unwrap_or_default();
    for member in others {
        let pod = if member.name.is_empty() { member.id.to_string() } else { member.name };
        let pod = shell_word(&pod);
        let _ = writeln!(out, "  kubectl exec{namespace} {pod} -c etcd-janitor -- etcd-janitor quiesce");
    }
    let _ = writeln!(out, "a janitor that was told starts nothing until it is restarted");
    ATTENTION
}

/// Names come from etcd and are pasted into a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", printable(text).replace('\'', r"'\''"))
}

async fn remove(config: &Config, out: &mut impl Write) -> Result<u8, Stopped> {
    let (cluster, _) = connect(config).await?;
    for _ in 0..ATTEMPTS {
        let Some(seen) = etcd::read_pause(&cluster).await?.hold else {
            let _ = writeln!(out, "nothing is held");
            return Ok(WELL);
        };
        let told = told(&seen);
        if config.dry_run {
            let _ = writeln!(out, "dry run: nothing was removed; there is: {told}");
            return Ok(WELL);
        }
        match etcd::remove_hold(&cluster, &seen).await {
            Ok(true) => {
                let _ = writeln!(out, "released: {told}");
                let _ = writeln!(out, "rounds inside their window go on within half a minute");
                return Ok(WELL);
            }
            Ok(false) => {}
            Err(error) if !error.is_refusal() => return Ok(unclear("removed", &error, out)),
            Err(error) => return Err(error.into()),
        }
    }
    let _ = writeln!(out, "nothing was removed: somebody else keeps changing the hold");
    Ok(SKIPPED)
}

/// No answer, and it may have been carried out.
fn unclear(done: &str, error: &Error, out: &mut impl Write) -> u8 {
    let _ = writeln!(out, "whether the hold was {done} is not known: {}", printable(&error.to_string()));
    let _ = writeln!(out, "`etcd-janitor status` shows what is held; `hold` and `release` can be repeated");
    UNKNOWN
}

/// What was there. Bytes that are no record are shown only when they cannot steer a terminal.
fn told(seen: &StoredHold) -> String {
    match &seen.hold.value {
        Ok(hold) => printable(&hold.told()),
        Err(unreadable) => {
            let text = std::str::from_utf8(&seen.bytes).ok();
            let text = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
            let shown = match text {
                Some(text) if text.chars().count() > SHOWN => {
                    format!(": {}\u{2026}", text.chars().take(SHOWN).collect::<String>())
                }
                Some(text) => format!(": {text}"),
                None => format!(", {} bytes", seen.bytes.len()),
            };
            format!("a hold that this release cannot read ({}){shown}", printable(&unreadable.to_string()))
        }
    }
}

/// `user@host`, as far as they are known.
fn whoami(identity: &Identity) -> String {
    let known = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let user = known("USER").or_else(|| known("LOGNAME")).unwrap_or_else(|| "cli".to_owned());
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = known("HOSTNAME").or_else(kernel).unwrap_or_else(|| identity.name.clone());
    let name = format!("{}@{}", user.trim(), host.trim());
    name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::member::MemberId;
    use crate::plan::record::read;

    fn stored(bytes: &[u8]) -> StoredHold {
        StoredHold { hold: Stored { mod_revision: 7, value: read(bytes) }, lease: 0, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_held_is_told_and_steers_no_terminal() {
        let hold = br#"{"v":1,"reason":"move\u001b[2J","by":"ops","until":"2026-11-22T00:00:30.25Z"}"#;
        assert_eq!(told(&stored(hold)), "held by ops until 2026-11-22T00:00:30Z: move?[2J");
        let newer = told(&stored(br#"{"v":9,"paused":true}"#));
        assert!(newer.contains("version 9") && newer.ends_with(r#": {"v":9,"paused":true}"#), "{newer}");
        let raw = told(&stored(b"\x1b[2Jx"));
        assert!(raw.ends_with(", 5 bytes"), "{raw}");
        let long = told(&stored("x".repeat(9000).as_bytes()));
        assert!(long.chars().count() < 400, "{long}");
    }

    #[test]
    fn names_cannot_break_out_of_the_command_that_is_printed() {
        assert_eq!(shell_word("etcd-0"), "etcd-0");
        assert_eq!(shell_word("a; rm -rf /"), "'a; rm -rf /'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("-n"), "'-n'");
    }

    #[test]
    fn only_clocks_that_are_ahead_end_a_hold_early() {
        let at = |second: u32| format!("2026-11-22T00:{:02}:{:02}Z", second / 60, second % 60).parse().unwrap();
        let member = |name: &str, second: u32| {
            let listed = Listed { id: MemberId(1), name: name.to_owned(), client_urls: Vec::new(), learner: false };
            (listed, at(second))
        };
        let warnings = early(&[member("a", 100), member("b", 400), member("c", 0), member("d", 104)]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("the clock of b is 5m 0s ahead"), "{warnings:?}");
    }
}
