//! What one look means for this round: may it queue, may it send, or what is in the way.

use std::time::Duration;

use super::{OTHERS_EVERY, Phase, Round};
use crate::plan::cluster::{AlarmKind, Look, MemberLook, QuotaBytes, Records, all_well, listed, no_alarm};
use crate::plan::guard;
use crate::plan::hold::no_hold;
use crate::plan::intent::target_name;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::release;
use crate::plan::rule::{Figures, Quota};
use crate::plan::time::Now;

/// Whether it may queue.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Approach {
    /// Nothing is in the way.
    Clear,
    /// The local member leads: the others go first.
    LetOthersGo,
    /// Something is in the way.
    Blocked(Blocked),
}

/// What the place in the queue looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The head: it is our turn.
    Head,
    /// Somebody is before us.
    Behind,
    /// The key is gone.
    Gone,
}

impl Round {
    /// Judges a look that was taken before queueing. While others are at work the cluster cannot look well (a member in
    /// its defrag answers nothing), so then only what will not pass by waiting is judged.
    pub(super) fn judge_approach(&self, look: &Look, now: Now) -> Approach {
        if let Err(blocked) = self.lasting(look, now) {
            return Approach::Blocked(blocked);
        }
        let records = match look.records() {
            Ok(records) => records,
            Err(blocked) => return Approach::Blocked(blocked),
        };
        let quiet = records.turns.is_empty() && records.intent.is_none();
        if quiet && let Err(blocked) = all_well(look, self.me.member) {
            return Approach::Blocked(blocked);
        }
        if records.turns.is_empty()
            && let Err(blocked) = self.no_intent(look, records)
        {
            return Approach::Blocked(blocked);
        }
        if look.voter_count() > 1 && self.leads(look) {
            let waited = now.mono.since(self.started);
            // What was in our way was in theirs: whoever waited for the same comes back when we do.
            let let_them = match self.phase {
                Phase::LettingOthersGo { since } => now.mono.since(since) >= OTHERS_EVERY,
                _ => false,
            };
            let others_done = quiet && let_them && waited >= self.policy.leader_head_start;
            if !others_done && waited < self.policy.leader_wait {
                return Approach::LetOthersGo;
            }
        }
        Approach::Clear
    }

    /// Judges a look that was taken with the turn: everything afresh. The open intent may only be our own.
    pub(super) fn judge_turn(&self, look: &Look, now: Now) -> Result<(), Blocked> {
        self.lasting(look, now)?;
        let records = look.records()?;
        self.no_intent(look, records)?;
        all_well(look, self.me.member)?;
        self.calm_enough(look)?;
        let figures = self.figures(look)?;
        if self.evaluate(&figures)? {
            Ok(())
        } else {
            Err(Blocked::new(Reason::NotNeeded, self.policy.rule.explain(&figures)))
        }
    }

    /// Reasons that waiting in the queue would not cure.
    fn lasting(&self, look: &Look, now: Now) -> Result<(), Blocked> {
        listed(look, self.me.member)?;
        let me = self.local(look)?;
        if me.learner {
            return Err(Blocked::new(Reason::Learner, "the local member is a learner; etcd refuses to defragment it"));
        }
        no_alarm(look)?;
        guard::cluster_size(look, self.policy.allow_small_cluster)?;
        no_hold(look.records()?.hold.as_ref(), now.wall)?;
        let status = match &me.status {
            Ok(status) => status,
            Err(blocked) => return Err(blocked.clone()),
        };
        guard::allowed(look)?;
        release::judge(&status.version, self.policy.allow_unsafe_versions)?;
        guard::enough_space(look, status)?;
        guard::short_enough(look, self.me.member, status.db_size_in_use, &self.policy)
    }

    fn no_intent(&self, look: &Look, records: &Records) -> Result<(), Blocked> {
        let Some(stored) = &records.intent else { return Ok(()) };
        if self.own_intent() == Some(stored.mod_revision) {
            return Ok(());
        }
        let whose = match &stored.value {
            Ok(intent) => format!(
                "{} announced a defrag of {} in {}",
                intent.holder,
                target_name(look, intent.member),
                intent.round
            ),
            Err(unreadable) => format!("the intent cannot be read: {unreadable}"),
        };
        Err(Blocked::new(Reason::IntentOpen, whose))
    }

    /// Where our key stands in the queue.
    pub(super) fn standing(&self, look: &Look) -> Result<Standing, Blocked> {
        let Some(held) = &self.held else { return Ok(Standing::Gone) };
        let turns = &look.records()?.turns;
        let ours = |place: &&crate::plan::cluster::Place| {
            place.lease == held.lease && place.create_revision == held.create_revision
        };
        Ok(match turns.iter().position(|place| ours(&place)) {
            Some(0) => Standing::Head,
            Some(_) => Standing::Behind,
            None => Standing::Gone,
        })
    }

    pub(super) fn local<'a>(&self, look: &'a Look) -> Result<&'a MemberLook, Blocked> {
        look.member(self.me.member)
            .ok_or_else(|| Blocked::new(Reason::MemberChanged, "the local member is not in the member list"))
    }

    /// Whether the local member leads, as far as anybody says.
    pub(super) fn leads(&self, look: &Look) -> bool {
        look.leader().is_ok_and(|(leader, _)| leader == self.me.member)
    }

    pub(super) fn figures(&self, look: &Look) -> Result<Figures, Blocked> {
        let status = self.local(look)?.status.as_ref().map_err(Clone::clone)?;
        let quota = match look.quota(self.me.member, self.policy.quota) {
            Some(QuotaBytes::Bytes(bytes)) => Quota::Bytes(bytes),
            Some(QuotaBytes::Disabled) => Quota::Disabled,
            None => Quota::Unknown,
        };
        Ok(Figures { db_size: status.db_size, db_size_in_use: status.db_size_in_use, quota })
    }

    pub(super) fn evaluate(&self, figures: &Figures) -> Result<bool, Blocked> {
        let error =
            |error: &dyn std::fmt::Display| Blocked::new(Reason::ConfigInvalid, format!("defrag.rule: {error}"));
        self.policy.rule.evaluate(figures).map_err(|wrong| error(&wrong))
    }

    /// How long the turn is kept while this is in the way; none: it is given up at once.
    pub(super) fn patience(&self, blocked: &Blocked) -> Option<Duration> {
        match blocked.reason {
            // Settled by anybody within one lease_ttl after the target answers.
            Reason::IntentOpen => Some(self.policy.lease_ttl * 2 + self.policy.retry_every),
            // The member before us may still be catching up, an election may be under way.
            Reason::MemberDown
            | Reason::MemberLagging
            | Reason::MemberChanged
            | Reason::NoLeader
            | Reason::LeaderDisagreement
            | Reason::LeaderChanged
            | Reason::EtcdUnavailable
            | Reason::ForeignDefrag
            | Reason::SnapshotOpen => Some(self.policy.retry_every),
            _ => None,
        }
    }
}

/// The state of every member in one line each, as `etcdctl endpoint status` shows it.
pub(super) fn status_table(look: &Look) -> String {
    let mut lines = Vec::with_capacity(look.members.len());
    for member in &look.members {
        let Ok(status) = &member.status else {
            lines.push(format!("{} does not answer", crate::plan::cluster::describe(member)));
            continue;
        };
        let role = match status.leader {
            _ if member.learner => "learner",
            Some(leader) if leader == member.id => "leader",
            _ => "follower",
        };
        lines.push(format!(
            "{} {role} {} size {} in use {} term {} index {} applied {}",
            crate::plan::cluster::describe(member),
            status.version,
            status.db_size,
            status.db_size_in_use,
            status.term,
            status.index,
            status.applied
        ));
    }
    let alarms = look.alarms();
    let named = |alarm: &crate::plan::cluster::Alarm| format!("{} by {}", alarm.kind.name(), alarm.member);
    let alarms: Vec<String> = alarms.iter().map(named).collect();
    lines.push(if alarms.is_empty() { "no alarm".to_owned() } else { format!("alarms: {}", alarms.join(", ")) });
    lines.join("; ")
}

/// Whether NOSPACE is among the alarms.
pub(super) fn nospace(look: &Look) -> bool {
    look.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Nospace)
}
