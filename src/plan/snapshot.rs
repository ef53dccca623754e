//! One value that says all there is to say: metrics, JSON, page and command line are views of it.
//!
//! The daemon publishes a new one whenever something changed. Nothing in it is guessed: what is not known is absent.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::member::{MemberId, RoundId};
use super::reason::{Blocked, Outcome, Reason};
use super::record::{Hold, Intent, RoundRecord};
use super::rule::Condition;
use super::sizes::SizeSample;

/// What this janitor knows and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of this document's shape.
    pub api_version: u32,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// This process.
    pub janitor: Janitor,
    /// The configuration in force.
    pub config: ConfigState,
    /// Whether the local member answered last time; none: not asked yet.
    pub etcd_up: Option<bool>,
    /// Why nothing can be done at all, if that is so.
    pub problem: Option<Blocked>,
    /// A right in etcd that our user lacks, as last tried; none: it lacks none, or that is not known.
    #[serde(default)]
    pub missing_right: Option<String>,
    /// 16 hex digits.
    pub cluster_id: Option<MemberId>,
    /// The local member.
    pub local: Option<MemberId>,
    /// When all members were last looked at; none: not yet. The local one is asked every few seconds beside that.
    #[serde(default)]
    pub looked_at: Option<DateTime<Utc>>,
    /// Every member of the list, in the order of their ids.
    pub members: Vec<Member>,
    /// Alarms that are up.
    pub alarms: Vec<Alarm>,
    /// Compaction and defrag.
    pub tasks: Vec<Task>,
    /// The highest revision that is known to be compacted.
    pub compact_revision: Option<i64>,
    /// The newest revision of the local member.
    pub revision: Option<i64>,
    /// Whether this janitor has the turn.
    pub turn_held: bool,
    /// Names in the queue, holder first.
    pub queue: Vec<String>,
    /// The open intent, whoever wrote it.
    pub intent: Option<Intent>,
    /// The rescue under way, while NOSPACE is up.
    #[serde(default)]
    pub rescue: Option<Rescue>,
    /// Why an intent cannot be read, when there is such a one: no defrag starts until it is removed.
    #[serde(default)]
    pub intent_unreadable: Option<String>,
    /// The operator's pause, when one is in force.
    pub hold: Option<Hold>,
    /// Why a hold cannot be read, when there is such a one: it is in force until it is removed.
    #[serde(default)]
    pub hold_unreadable: Option<String>,
    /// When it was last read whether there is a hold; none: not yet.
    #[serde(default)]
    pub hold_read_at: Option<DateTime<Utc>>,
    /// Nothing new is started.
    pub quiesced: bool,
    /// `/etcd/readyz` fails so that clients go elsewhere.
    pub draining: bool,
    /// Forecast of a defrag of the local member, in seconds.
    pub forecast_seconds: Option<f64>,
    /// `defrag.rule` and what it says of the local member; none: its figures are not known.
    #[serde(default)]
    pub rule: Option<RuleState>,
    /// When growth reaches the local member's quota; none: it does not, or that is not known.
    #[serde(default)]
    pub growth: Option<Growth>,
    /// Expiry of the TLS material in use.
    pub certificates: Vec<Certificate>,
    /// The newest decisions, newest last.
    pub decisions: Vec<Decision>,
    /// Recorded rounds, newest first.
    pub history: Vec<RoundRecord>,
    /// The local member's sizes over the last day, oldest first.
    #[serde(default)]
    pub sizes: Vec<SizeSample>,
    /// When this janitor's compactions of the last day were carried out, oldest first.
    #[serde(default)]
    pub compactions: Vec<DateTime<Utc>>,
    /// Whether somebody beside the janitors compacts; none: nobody watches here, or the newest survey failed.
    #[serde(default)]
    pub others_compact: Option<OthersCompact>,
}

/// Whether somebody beside the janitors compacts, as far as the compact revision was watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OthersCompact {
    /// For one retention every movement was a janitor's.
    Nobody,
    /// Not watched for one retention yet.
    Watching,
    /// It moved, and no janitor has said yet that it did it.
    Suspected,
    /// It moved without a janitor.
    Somebody,
}

impl Snapshot {
    /// Whether a member is in its defrag, whoever sent it: it answers its metrics then and nothing else, and is not down.
    /// An announced one counts too, unless neither member nor metrics answer any more.
    pub fn in_defrag(&self, member: &Member) -> bool {
        match (member.defrag_open, &member.problem) {
            (Some(true), _) => true,
            (None, Some(_)) => false,
            _ => self.running_intent().is_some_and(|intent| intent.member == member.id),
        }
    }

    /// The open intent while whoever wrote it has its place in the queue. Without that it was left open.
    pub fn running_intent(&self) -> Option<&Intent> {
        self.intent.as_ref().filter(|intent| self.queue.contains(&intent.holder))
    }

    /// Why nothing can be done at all. That the local member does not answer in its defrag is no such reason.
    pub fn trouble(&self) -> Option<&Blocked> {
        self.problem.as_ref().filter(|problem| problem.reason != Reason::EtcdUnavailable || !self.is_local_busy())
    }

    /// Whether the local member's metrics show an open Defragment.
    pub fn is_local_busy(&self) -> bool {
        self.members.iter().any(|member| member.local && member.defrag_open == Some(true))
    }

    /// A member's name; its id where none is known.
    pub fn name_of(&self, id: MemberId) -> String {
        let named = self.members.iter().find(|member| member.id == id && !member.name.is_empty());
        named.map_or_else(|| id.to_string(), |member| member.name.clone())
    }
}

/// This process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Janitor {
    /// Of the program.
    pub version: String,
    /// One start of it.
    pub instance: String,
    /// When it started.
    pub started_at: DateTime<Utc>,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    /// The file, or "defaults".
    pub source: String,
    /// Whether one is in force at all.
    pub valid: bool,
    /// Whether the newest attempt to load succeeded.
    pub last_reload_successful: bool,
    /// What was wrong with the newest attempt.
    pub problems: Vec<String>,
    /// `dry_run` is on.
    pub dry_run: bool,
}

/// What a member does in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A voter that leads.
    Leader,
    /// A voter that follows.
    Follower,
    /// No voter.
    Learner,
    /// It did not answer.
    Unknown,
}

impl Role {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Learner => "learner",
            Role::Unknown => "unknown",
        }
    }
}

/// One member, as last seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// 16 hex digits.
    pub id: MemberId,
    /// As etcd's `--name`.
    pub name: String,
    /// Whether it is the one beside this janitor.
    pub local: bool,
    /// What it does.
    pub role: Role,
    /// When the figures were read; none: it never answered.
    pub seen_at: Option<DateTime<Utc>>,
    /// etcd's release.
    pub version: Option<String>,
    /// Bytes of the file.
    pub db_size: Option<u64>,
    /// Bytes in use in it.
    pub db_size_in_use: Option<u64>,
    /// Bytes allowed; 0 when the quota is disabled.
    pub quota: Option<u64>,
    /// Whether this janitor's rule says that a defrag of it pays; none: its figures are not known.
    #[serde(default)]
    pub pays: Option<bool>,
    /// Whether its metrics show an open Defragment, whoever sent it; none: they were not read.
    #[serde(default)]
    pub defrag_open: Option<bool>,
    /// How many are before it in the queue; 0: the turn is for it; none: it is not in the queue.
    #[serde(default)]
    pub place: Option<usize>,
    /// Why it is not well, if it is not.
    pub problem: Option<String>,
}

/// An alarm that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// `NOSPACE` or `CORRUPT`.
    pub alarm: String,
    /// The member that raised it.
    pub member: MemberId,
}

/// Compaction or defrag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Discards old revisions of the whole cluster.
    Compaction,
    /// Gives the local member's free pages back.
    Defrag,
}

impl TaskKind {
    /// Both.
    pub const ALL: [TaskKind; 2] = [TaskKind::Compaction, TaskKind::Defrag];

    /// The metric label.
    pub const fn name(self) -> &'static str {
        match self {
            TaskKind::Compaction => "compaction",
            TaskKind::Defrag => "defrag",
        }
    }
}

/// State of one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Which one.
    pub task: TaskKind,
    /// Whether it is switched on.
    pub enabled: bool,
    /// As written.
    pub schedule: String,
    /// IANA name.
    pub time_zone: String,
    /// Next due instant, before jitter.
    pub next_run: Option<DateTime<Utc>>,
    /// Seconds between the next two firings.
    pub interval_seconds: Option<f64>,
    /// Whether a run is under way.
    pub in_progress: bool,
    /// What it is doing, in words.
    pub phase: String,
    /// The round under way.
    pub round: Option<RoundId>,
    /// What it waits for.
    pub waiting_for: Option<Blocked>,
    /// How the newest run ended.
    pub last_outcome: Option<Outcome>,
    /// When it ended.
    pub last_run: Option<DateTime<Utc>>,
    /// When one last ended well.
    pub last_success: Option<DateTime<Utc>>,
}

/// What is done about NOSPACE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// Its name, with the instant at which this janitor saw the alarm.
    pub round: RoundId,
    /// What it is doing, in words.
    pub phase: String,
    /// What is in its way, with the remedy.
    pub waiting_for: Option<Blocked>,
}

impl Rescue {
    /// What it does or waits for, as the end of a sentence.
    pub fn told(&self) -> String {
        self.waiting_for.as_ref().map_or_else(|| self.phase.clone(), ToString::to_string)
    }
}

/// Expiry of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// `ca` or `client`.
    pub usage: String,
    /// End of its validity.
    pub not_after: DateTime<Utc>,
}

/// A rule with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleState {
    /// As written.
    pub text: String,
    /// With the values filled in, and its answer.
    pub told: String,
    /// Whether a defrag pays; none: the rule has no answer for these figures.
    pub holds: Option<bool>,
    /// Its conditions one by one.
    pub conditions: Vec<Condition>,
}

/// When the local member's file reaches its quota, at the growth of the last hours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// When.
    pub reached_at: DateTime<Utc>,
    /// How much that is.
    pub bytes_per_hour: u64,
    /// Bytes allowed.
    pub quota: u64,
    /// What gets there first.
    pub of: Growing,
    /// Whether that is before the schedule's next round.
    pub before_next_round: bool,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growing {
    /// What is in use: a defrag gives nothing of it back.
    InUse,
    /// The file beyond it: a defrag does.
    File,
}

impl Growing {
    /// As part of a sentence.
    pub const fn name(self) -> &'static str {
        match self {
            Growing::InUse => "what is in use",
            Growing::File => "the file",
        }
    }
}

/// One decision, with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When.
    pub at: DateTime<Utc>,
    /// About what.
    pub task: TaskKind,
    /// In which round.
    pub round: Option<RoundId>,
    /// One sentence.
    pub text: String,
    /// The reason, when something was not done.
    pub blocked: Option<Blocked>,
}

impl Decision {
    /// Whether it says what the one before said. Why something is not done is the same also with other numbers.
    pub fn repeats(&self, before: &Decision) -> bool {
        // A name may end in a digit: "etcd-1" is no number.
        let is_number = |word: &str| {
            word.trim_start_matches(|c: char| !c.is_alphanumeric()).starts_with(|c: char| c.is_ascii_digit())
        };
        let words = |text: &str| text.split(' ').filter(|word| !is_number(word)).map(str::to_owned).collect::<Vec<_>>();
        let reason = |one: &Decision| one.blocked.as_ref().map(|blocked| blocked.reason);
        (self.task, self.round, reason(self)) == (before.task, before.round, reason(before))
            && (self.text == before.text || self.blocked.is_some() && words(&self.text) == words(&before.text))
    }
}
