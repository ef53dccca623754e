//! Whether somebody is at it by hand.
//!
//! An operator who types the three commands must not find a second pair of hands at work. A Defragment that is open on
//! a member that no janitor would have chosen, and an alarm that was cleared before every member had room, are theirs.

use std::time::Duration;

use super::next::{Next, open_defrag, would_be_next};
use crate::plan::cluster::Look;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::step::Policy;
use crate::plan::time::{Mono, Now};

/// How long nothing is done after the last sign of them.
pub const STAND_BACK: Duration = Duration::from_secs(600);
/// What was named longer ago than this says nothing about who cleared the alarm.
const RECENT: Duration = Duration::from_secs(10);

/// What was expected, and until when others are left alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StandBack {
    /// The newest thing that was named as next, and when.
    expected: Option<(Next, Mono)>,
    until: Option<Mono>,
    seen: String,
}

impl StandBack {
    /// Someone was seen before this rescue began.
    pub fn until(until: Option<Mono>) -> Self {
        StandBack { expected: None, until, seen: "NOSPACE was cleared by hand and came again".to_owned() }
    }

    /// Takes a look. `ours`: the member that we sent a Defragment to.
    ///
    /// # Errors
    ///
    /// While somebody is left alone.
    pub fn notice(&mut self, look: &Look, ours: Option<MemberId>, policy: &Policy, now: Now) -> Result<(), Blocked> {
        if let Some((member, _)) = open_defrag(look)
            && ours != Some(member.id)
            && !self.is_expected(look, member.id, policy)
        {
            self.until = Some(now.mono + STAND_BACK);
            let name = crate::plan::cluster::describe(member);
            self.seen = format!("{name} is being defragmented, which no janitor would do now");
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

    fn is_expected(&self, look: &Look, open: MemberId, policy: &Policy) -> bool {
        // A round's: it is waited for as such.
        let of_a_round = look.records.as_ref().is_ok_and(|records| {
            let named = |stored: &crate::plan::cluster::Stored<crate::plan::record::Intent>| {
                stored.value.as_ref().map_or(true, |intent| intent.member == open)
            };
            records.intent.as_ref().is_some_and(named)
        });
        // Named by the newest look before: it may have been elected since, or have a second call behind the first.
        let before = matches!(&self.expected, Some((Next::Defragment(member), _)) if *member == open);
        of_a_round || before || would_be_next(look, open, policy)
    }

    /// Remembers what was named as next.
    pub fn expect(&mut self, next: &Next, now: Now) {
        self.expected = Some((next.clone(), now.mono));
    }

    /// The alarm is gone, and not by us: whether it went while a janitor would not have cleared it.
    pub fn disarmed_by_hand(&mut self, now: Now) -> bool {
        let by_hand = match &self.expected {
            Some((Next::Disarm(_), _)) | None => false,
            Some((_, at)) => now.mono.since(*at) <= RECENT,
        };
        if by_hand {
            self.until = Some(now.mono + STAND_BACK);
        }
        by_hand
    }

    /// Until when others are left alone.
    pub fn ends(&self) -> Option<Mono> {
        self.until
    }
}
