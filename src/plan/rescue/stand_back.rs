//! Whether somebody is at it by hand.
//!
//! An operator who types the three commands must not find a second pair of hands at work. Theirs are: a defrag, open or
//! short, of a member that no janitor would have chosen, or earlier than any could have begun it; and an alarm that was
//! cleared before every member had room.
//!
//! What cannot be told: an alarm that is cleared and raised again between two looks.

use std::time::Duration;

use super::before::{Before, Ended, How};
use super::calm::kind;
use super::next::{Next, would_be_next};
use super::{LOOK_EVERY, STILL_FOR};
use crate::plan::cluster::{Look, MemberLook, describe};
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::step::Policy;
use crate::plan::time::{Mono, Now};

/// How long nothing is done after the last sign of them.
pub const STAND_BACK: Duration = Duration::from_secs(600);
/// Looks take up to a second, and so does the time from look to send.
const SKEW: Duration = Duration::from_secs(2);
/// A call that leaves when something else comes next is seen by the look after the one that saw the change.
const AT_HAND: Duration = Duration::from_secs(LOOK_EVERY.as_secs() + SKEW.as_secs());

/// What was expected, and until when others are left alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StandBack {
    expected: Option<Expected>,
    /// The member that was to be defragmented until a moment before that, and the newest look that named it.
    earlier: Option<(MemberId, Mono)>,
    until: Option<Mono>,
    seen: String,
}

/// The newest thing that was named as next.
#[derive(Debug, Clone, PartialEq)]
struct Expected {
    next: Next,
    leader: Option<(MemberId, u64)>,
    begun: Mono,
}

/// Whose janitor this is, and what it did.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// The local member.
    pub member: MemberId,
    /// Whom it sent a Defragment to last.
    pub called: Option<MemberId>,
    /// How long a deputy waits beyond [`STILL_FOR`].
    pub deputy_after: Duration,
    /// Nobody's time of calm began before.
    pub changed_after: Option<Mono>,
}

impl Own {
    /// Whether no janitor can have been calm for long enough: everybody saw the change that was seen here. The local
    /// member's own has sent nothing, so it would be a deputy's.
    fn is_too_early(self, member: MemberId, now: Now) -> bool {
        let deputy = if member == self.member { self.deputy_after } else { Duration::ZERO };
        self.changed_after.is_some_and(|changed| now.mono.since(changed) + SKEW < STILL_FOR + deputy)
    }
}

impl StandBack {
    /// Someone was seen before this rescue began.
    pub fn until(until: Option<Mono>) -> Self {
        StandBack { until, seen: "NOSPACE was cleared by hand and came again".to_owned(), ..StandBack::default() }
    }

    /// Takes a look, the one before, and the defrags that ended between them.
    ///
    /// # Errors
    ///
    /// While somebody is left alone.
    pub fn notice(
        &mut self,
        look: &Look,
        before: Option<(&Before, &[Ended])>,
        own: Own,
        policy: &Policy,
        now: Now,
    ) -> Result<(), Blocked> {
        if let Some(sign) = self.sign(look, before, own, policy, now) {
            self.until = Some(now.mono + STAND_BACK);
            self.seen = sign;
        }
        match self.until {
            Some(until) if now.mono < until => {
                let text = format!(
                    "{}: somebody is at it by hand; stands back for another {} s",
                    self.seen,
                    until.since(now.mono).as_secs()
                );
                Err(Blocked::new(Reason::ForeignDefrag, text))
            }
            _ => {
                self.until = None;
                Ok(())
            }
        }
    }

    fn sign(
        &self,
        look: &Look,
        before: Option<(&Before, &[Ended])>,
        own: Own,
        policy: &Policy,
        now: Now,
    ) -> Option<String> {
        let others = |id: MemberId| own.called != Some(id);
        for member in open(look).filter(|member| others(member.id)) {
            if !self.is_expected(look, member.id, policy) {
                return Some(format!("{} is being defragmented, which no janitor would do now", describe(member)));
            }
            let just_began = before.is_some_and(|(before, _)| before.was_idle(member.id));
            if just_began && !of_a_round(look, member.id) && self.is_too_early(member.id, own, now) {
                return Some(format!("{} is being defragmented, too early for any janitor", describe(member)));
            }
        }
        let (before, ended) = before?;
        for ended in ended.iter().filter(|ended| ended.unseen && others(ended.member)) {
            let name = super::act::name(look, ended.member);
            if !matches!(ended.how, How::Done(_)) {
                continue;
            }
            if !self.is_expected(look, ended.member, policy) {
                return Some(format!("{name} was defragmented, which no janitor would have done"));
            }
            if self.is_too_early(ended.member, own, now) {
                return Some(format!("{name} was defragmented, too early for any janitor"));
            }
        }
        // The leader's janitor itself clears an alarm for a moment where nothing else helps, to make figures fresh.
        let stuck = self.expected.as_ref().is_some_and(|expected| matches!(expected.next, Next::Stuck(_)));
        (!stuck && before.cleared_too_early(look, false))
            .then(|| "NOSPACE was cleared before every member had room, and raised again".to_owned())
    }

    fn is_expected(&self, look: &Look, open: MemberId, policy: &Policy) -> bool {
        // Named by the newest look before: it may have been elected since, or have a second call behind the first.
        let before =
            self.expected.as_ref().is_some_and(|expected| matches!(expected.next, Next::Defragment(id) if id == open));
        of_a_round(look, open) || before || self.was_next(open) || would_be_next(look, open, policy)
    }

    fn is_too_early(&self, member: MemberId, own: Own, now: Now) -> bool {
        !self.was_next(member) && own.is_too_early(member, now)
    }

    /// Its call may have been on its way when something else came next.
    fn was_next(&self, id: MemberId) -> bool {
        self.earlier.is_some_and(|(member, _)| member == id)
    }

    /// Remembers what was named as next. When something has just changed that everybody sees (who leads, what is to be
    /// done), answers when the newest look began that did not show it.
    pub fn expect(&mut self, next: &Next, look: &Look) -> Option<Mono> {
        let leader = look.leader().ok();
        let alike = |old: &Expected| old.leader == leader && kind(&old.next) == kind(next);
        let other = self.expected.as_ref().filter(|old| !alike(old));
        if let Some(Expected { next: Next::Defragment(member), begun, .. }) = other {
            self.earlier = Some((*member, *begun));
        }
        self.earlier = self.earlier.filter(|(_, named)| look.begun.mono.since(*named) <= AT_HAND);
        let other = other.map(|old| old.begun);
        self.expected = Some(Expected { next: next.clone(), leader, begun: look.begun.mono });
        other
    }

    /// The alarm is gone, and not by a janitor.
    pub fn cleared_by_hand(&mut self, now: Now) {
        self.until = Some(now.mono + STAND_BACK);
    }

    /// Until when others are left alone.
    pub fn ends(&self) -> Option<Mono> {
        self.until
    }
}

/// Members with an open Defragment.
pub fn open(look: &Look) -> impl Iterator<Item = &MemberLook> {
    look.members.iter().filter(|member| member.scrape.as_ref().is_ok_and(|scrape| scrape.defrags_open > 0))
}

/// A round's defrag: it is waited for as such.
fn of_a_round(look: &Look, open: MemberId) -> bool {
    let intent = look.records.as_ref().ok().and_then(|records| records.intent.as_ref());
    intent.is_some_and(|stored| stored.value.as_ref().map_or(true, |intent| intent.member == open))
}
