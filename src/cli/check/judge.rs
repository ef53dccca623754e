//! From what was read to checks. Pure: what was read is an argument.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Check, Result};
use crate::config::{Config, Foreign, Guard};
use crate::etcd::Listed;
use crate::http::{bytes, hints, span};
use crate::plan::cluster::{self, Look, QuotaBytes, describe};
use crate::plan::forecast::{forecast, measured_by_etcd, recorded};
use crate::plan::hold::instant;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::record::RoundRecord;
use crate::plan::release::{Class, defects};
use crate::plan::snapshot::{Certificate, OthersCompact, Snapshot, TaskKind};

const TLS: &str = "tls";
/// Clocks that differ by more end a hold early, and put rounds into the wrong order.
const SKEW: TimeDelta = TimeDelta::seconds(5);
/// A certificate that ends sooner wants attention.
const SOON: TimeDelta = TimeDelta::days(30);
/// A file above this share of its quota wants attention.
const FULL: f64 = 0.8;

/// Certificates of the connection to etcd and of our own port, as their files have them.
pub fn certificates(certificates: &[Certificate], endpoint: &str, now: DateTime<Utc>) -> Vec<Check> {
    let mut checks = Vec::new();
    if !endpoint.starts_with("https://") {
        let host = endpoint.split("://").nth(1).unwrap_or_default();
        let plain = Check::passed(TLS, "connections to etcd are encrypted", format!("{endpoint} is plain HTTP"));
        let local = ["127.0.0.1", "[::1]", "localhost"].iter().any(|local| host.starts_with(local));
        checks.push(if local {
            Check { what: "the connection to the local member stays in the pod".to_owned(), ..plain }
        } else {
            plain.other(Result::Warning, "who can reach the port can read and change everything", "configuration.md")
        });
    }
    checks.extend(certificates.iter().map(|certificate| {
        let what = format!("the {} certificate is valid", certificate.usage);
        dated(what, certificate, "renew it; a new file is read without a restart", now)
    }));
    checks
}

/// The certificate that a member shows, or why none was seen.
pub fn shown(member: &str, shown: &std::result::Result<Certificate, Blocked>, now: DateTime<Utc>) -> Check {
    let what = format!("the certificate that {member} shows is valid");
    match shown {
        Ok(certificate) => dated(what, certificate, "renew the file of etcd's --cert-file", now),
        Err(blocked) => Check::not_tried(TLS, what, blocked.detail.clone()),
    }
}

fn dated(what: String, certificate: &Certificate, renew: &str, now: DateTime<Utc>) -> Check {
    let left = certificate.not_after - now;
    let until = instant(certificate.not_after);
    let link = "operating.md#etcdjanitorcertificate";
    if left <= TimeDelta::zero() {
        Check::passed(TLS, what, format!("it ended at {until}")).other(Result::Failed, renew, link)
    } else if left < SOON {
        let check = Check::passed(TLS, what, format!("{} left, until {until}", span(left)));
        check.other(Result::Warning, renew, link)
    } else {
        Check::passed(TLS, what, format!("{} left", span(left)))
    }
}

/// Every member by the addresses that will be used.
pub fn members(look: &Look, me: MemberId) -> Vec<Check> {
    const SECTION: &str = "members";
    let mut checks = Vec::new();
    for member in &look.members {
        let name = describe(member);
        let learner = if member.learner { ", a learner" } else { "" };
        checks.push(match &member.status {
            Ok(status) => {
                Check::passed(SECTION, format!("{name} answers"), format!("etcd {}{learner}", status.version))
            }
            Err(blocked) => {
                // That nobody answers there means that this member is down.
                let down = blocked.reason == Reason::EtcdUnavailable;
                let reason = if down { Reason::MemberDown } else { blocked.reason };
                Check::blocked(
                    SECTION,
                    format!("{name} answers"),
                    &Blocked::new(reason, format!("{reason}: {}", blocked.detail)),
                )
            }
        });
        if let Err(blocked) = &member.scrape {
            let hint = "without its metrics an open Defragment would go unseen: set etcd.metrics where they are served";
            let check = Check::passed(SECTION, format!("{name} serves its metrics"), blocked.detail.clone());
            checks.push(check.other(Result::Failed, hint, "configuration.md"));
        }
    }
    let rules: [(&str, std::result::Result<(), _>); 4] = [
        ("the member list is agreed on", cluster::listed(look, me)),
        ("all agree on one leader", look.leader().map(|_| ())),
        ("no alarm is up", cluster::no_alarm(look)),
        ("no member is behind", cluster::keeping_up(look)),
    ];
    checks.extend(rules.into_iter().map(|(what, judged)| match judged {
        Ok(()) => Check::passed(SECTION, what, ""),
        Err(blocked) => Check::blocked(SECTION, what, &blocked),
    }));
    checks
}

/// Releases with known defects, and members of several releases.
pub fn releases(look: &Look, config: &Config) -> Vec<Check> {
    const SECTION: &str = "releases";
    let mut checks = Vec::new();
    let mut versions: Vec<&str> = Vec::new();
    for member in &look.members {
        let Ok(status) = &member.status else { continue };
        versions.push(&status.version);
        let what = format!("{} runs a release without known defects", describe(member));
        let known: Vec<_> = defects(&status.version).collect();
        if known.is_empty() {
            checks.push(Check::passed(SECTION, what, format!("etcd {}", status.version)));
            continue;
        }
        let refused = known.iter().any(|defect| defect.class == Class::Refuse);
        let refused = refused && config.defrag.unsafe_versions == Guard::Skip;
        let texts: Vec<String> = known.iter().map(|defect| format!("{} ({})", defect.what, defect.upstream)).collect();
        let detail = format!("etcd {}: {}", status.version, texts.join("; "));
        let result = if refused { Result::Failed } else { Result::Warning };
        let hint = if refused { "no defrag is sent to it; upgrade etcd" } else { "upgrade etcd" };
        checks.push(Check::passed(SECTION, what, detail).other(result, hint, "guards.md"));
    }
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        let check = Check::passed(SECTION, "all members run one release", versions.join(", "));
        checks.push(check.other(Result::Warning, "finish the upgrade", "operating.md#etcdjanitorversionskew"));
    }
    checks
}

/// Quotas: known, and not nearly used up.
pub fn quotas(look: &Look, config: &Config) -> Vec<Check> {
    const SECTION: &str = "quota";
    let mut checks = Vec::new();
    for member in &look.members {
        let Ok(status) = &member.status else { continue };
        let what = format!("the quota of {} is known", describe(member));
        match look.quota(member.id, config.alarms.quota) {
            None => {
                let check = Check::passed(SECTION, what, "neither Status nor metrics tell it");
                let hint =
                    "set alarms.quota to etcd's --quota-backend-bytes: rules assume 2 GiB, and NOSPACE is not cleared";
                checks.push(check.other(Result::Warning, hint, "configuration.md"));
            }
            Some(QuotaBytes::Disabled) => checks.push(Check::passed(SECTION, what, "it is switched off")),
            Some(QuotaBytes::Bytes(quota)) => {
                let share = status.db_size as f64 / quota.max(1) as f64;
                let detail = format!("{} of {} ({:.0} %)", bytes(status.db_size), bytes(quota), share * 100.0);
                let check = Check::passed(SECTION, what, detail);
                checks.push(if share < FULL {
                    check
                } else {
                    let hint = "compact, defragment, delete keys or raise the quota before etcd refuses writes";
                    check.other(Result::Warning, hint, "operating.md#etcdjanitorquotasoon")
                });
            }
        }
    }
    checks
}

/// The members' clocks.
pub fn clocks(clocks: &[(Listed, DateTime<Utc>)]) -> Vec<Check> {
    const SECTION: &str = "clocks";
    let what = "the members' clocks agree";
    let earliest = clocks.iter().min_by_key(|(_, date)| *date);
    let latest = clocks.iter().max_by_key(|(_, date)| *date);
    let (Some((early, from)), Some((late, to))) = (earliest, latest) else {
        return vec![Check::not_tried(SECTION, what, "no member tells its clock")];
    };
    let apart = *to - *from;
    if apart <= SKEW {
        return vec![Check::passed(SECTION, what, format!("{} told, at most {} apart", clocks.len(), span(apart)))];
    }
    let detail = format!("{} is {} behind {}", early.name, span(apart), late.name);
    let hint = "set the hosts' clocks by NTP: holds end early, and rounds begin at different times";
    vec![Check::passed(SECTION, what, detail).other(Result::Failed, hint, "operating.md#clocks")]
}

/// How long a defrag of the local member will take, against what it may take.
pub fn budget(look: &Look, me: MemberId, history: &[RoundRecord], config: &Config) -> Vec<Check> {
    const SECTION: &str = "forecast";
    let what = "a defrag of the local member fits";
    let Some(in_use) = look.member(me).and_then(|member| Some(member.status.as_ref().ok()?.db_size_in_use)) else {
        return vec![Check::not_tried(SECTION, what, "its size is not known")];
    };
    let expected = forecast(in_use, recorded(me, history), measured_by_etcd(me, look));
    let told = format!("{:.1} s {}", expected.duration.as_secs_f64(), expected.basis);
    let budget = config.defrag.liveness_budget.unwrap_or(Duration::MAX);
    let (most, key, remedy) = if config.defrag.timeout < budget {
        let remedy = "raise `defrag.timeout`: after it nobody would know how the defrag ended, so none is sent";
        (config.defrag.timeout, "defrag.timeout", remedy)
    } else {
        (budget, "defrag.liveness_budget", Reason::LivenessBudget.remedy())
    };
    let mut checks = vec![if expected.duration <= most {
        let of = config.defrag.liveness_budget.map_or("not limited".to_owned(), |most| format!("{} s", most.as_secs()));
        Check::passed(SECTION, what, format!("{told}; defrag.liveness_budget {of}"))
    } else {
        let detail = format!("{told}; allowed are {} s ({key})", most.as_secs());
        Check::passed(SECTION, what, detail).other(Result::Failed, remedy, "guards.md#forecast-liveness_budget")
    }];
    if look.voter_count() < 3 {
        let allowed = config.defrag.small_cluster == Guard::Allow;
        let detail = format!("{} voter(s): while one is defragmented the cluster takes no write", look.voter_count());
        let check = Check::passed(SECTION, "the cluster outlives a member in its defrag", detail);
        let hint =
            if allowed { "allowed by defrag.small_cluster" } else { "skipped, unless defrag.small_cluster: allow" };
        checks.push(check.other(Result::Warning, hint, "guards.md"));
    }
    checks
}

/// Who else compacts. Kubernetes is known by its key; anybody else only by what the daemon has watched.
pub fn compaction(kubernetes: bool, daemon: Option<&Snapshot>, config: &Config) -> Vec<Check> {
    const SECTION: &str = "compaction";
    let mut checks = Vec::new();
    let skipped = config.compaction.when_kubernetes == Foreign::Skip;
    let what = "compaction is nobody else's";
    if kubernetes {
        let detail = "a kube-apiserver keeps its keys here and compacts every five minutes";
        let check = Check::passed(SECTION, what, detail);
        checks.push(match skipped {
            true => Check { detail: format!("{detail}: left to it (compaction.when_kubernetes)"), ..check },
            false => check.other(
                Result::Warning,
                "compaction.when_kubernetes: force compacts beside it; its watches may break",
                "configuration.md",
            ),
        });
        return checks;
    }
    let unknown = |detail: &str| Check::not_tried(SECTION, what, detail);
    let Some(daemon) = daemon else {
        checks.push(unknown("only a daemon that has watched for one retention can tell"));
        return checks;
    };
    checks.push(match daemon.others_compact {
        _ if !config.compaction.enabled => unknown("compaction.enabled is false: the daemon does not watch who compacts"),
        None => {
            let task = daemon.tasks.iter().find(|task| task.task == TaskKind::Compaction);
            let last = task.and_then(|task| task.last_outcome).map(|outcome| format!("; the last compaction: {outcome}"));
            unknown(&format!("the daemon does not know who compacts{}", last.unwrap_or_default()))
        }
        Some(OthersCompact::Watching) => unknown("the daemon has not watched for one retention yet"),
        Some(OthersCompact::Suspected) => unknown("the compact revision moved, and no janitor has said that it did it"),
        Some(OthersCompact::Somebody) => {
            let hint = "two compactors cut history by two retentions: unset etcd's --auto-compaction-*, or leave it to etcd and set compaction.enabled: false";
            let check = Check::passed(SECTION, what, "the compact revision moved, and no janitor did it");
            check.other(Result::Warning, hint, "operating.md#somebody-else-compacts")
        }
        Some(OthersCompact::Nobody) => Check::passed(SECTION, what, "watched for one retention"),
    });
    checks
}

/// Why there is no snapshot of the daemon beside this command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// What was tried, and what came of it.
    pub text: String,
    /// What to do.
    pub hint: &'static str,
    /// Whether nobody answered at all.
    pub silent: bool,
}

/// The daemon beside this command.
pub fn daemon(found: &std::result::Result<Box<Snapshot>, Away>, now: DateTime<Utc>) -> Vec<Check> {
    const SECTION: &str = "janitor";
    let snapshot = match found {
        Ok(snapshot) => snapshot,
        Err(away) => {
            let check = Check::passed(SECTION, "the daemon answers", away.text.clone());
            return vec![check.other(Result::Warning, away.hint, "operating.md#etcdjanitordown")];
        }
    };
    let mut checks =
        vec![Check::passed(SECTION, "the daemon answers", format!("version {}", snapshot.janitor.version))];
    if snapshot.janitor.version != env!("CARGO_PKG_VERSION") {
        let detail = format!("the daemon is {}, this command {}", snapshot.janitor.version, env!("CARGO_PKG_VERSION"));
        let check = Check::passed(SECTION, "the daemon is of this release", detail);
        checks.push(check.other(Result::Warning, "finish the upgrade", "operating.md#etcdjanitorversionskew"));
    }
    let config = &snapshot.config;
    let what = "its configuration is in force";
    checks.push(if config.valid && config.last_reload_successful {
        Check::passed(SECTION, what, config.source.clone())
    } else {
        let check = Check::passed(SECTION, what, config.problems.join("; "));
        check.other(Result::Failed, "`etcd-janitor config check` says what is wrong, all at once", "configuration.md")
    });
    for hint in hints(snapshot, now) {
        // What else it wants attention for is tested below, against etcd itself.
        if ["hold", "quiesced", "intent_open", "a-janitor-is-missing"].contains(&hint.anchor.as_str()) {
            let check = Check::passed(SECTION, "nothing holds it back", hint.text);
            checks.push(check.other(Result::Warning, "", &format!("operating.md#{}", hint.anchor)));
        }
    }
    checks
}
