//! The lease under a turn, and the permit that must hold when the call is sent.

use std::time::Duration;

use super::Round;
use crate::plan::member::MemberId;
use crate::plan::reason::{Blocked, Reason};
use crate::plan::step::{Action, Answer, Joined, Renewal, Step};
use crate::plan::time::{Mono, Now};

/// The longest time between the beginning of the last look and the send, by either clock.
///
/// Inside this window another defrag could begin unseen; etcd's `Defragment` takes no token that would fence it.
pub const LOOK_TO_SEND: Duration = Duration::from_secs(1);

/// A place in the queue that is held.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// The lease.
    pub lease: i64,
    /// The order in the queue.
    pub create_revision: i64,
    /// Until when it surely lives, on our own monotonic clock.
    pub valid_until: Mono,
    /// Whether a look showed it as the head of the queue.
    pub head: bool,
    pub(super) renew_at: Mono,
    pub(super) renewing: Option<crate::plan::step::Ticket>,
    ttl: Duration,
}

impl Held {
    pub(super) fn new(joined: Joined, ttl: Duration, now: Now) -> Self {
        Held {
            lease: joined.lease,
            create_revision: joined.create_revision,
            valid_until: joined.valid_until,
            head: false,
            renew_at: now.mono + ttl / 3,
            renewing: None,
            ttl,
        }
    }

    pub(super) fn wake_at(&self) -> Option<Mono> {
        // An unanswered renewal must not hide that the lease has run out.
        if self.renewing.is_some() { Some(self.valid_until) } else { Some(self.renew_at.min(self.valid_until)) }
    }

    /// The instant after which nothing is sent under this turn: a third of the TTL before it may be gone.
    pub(super) fn send_until(&self) -> Mono {
        self.valid_until.back(self.ttl / 3)
    }
}

/// The proof that a `Defragment` may be sent: a look that showed nothing in the way, and a turn with time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The member that was looked at and may be defragmented.
    pub member: MemberId,
    /// When the last look began.
    pub look_begun: Now,
    /// The instant after which nothing is sent: the lease under the turn (there is none with one voter) has too little
    /// time left by then, or the round's window is over.
    pub send_until: Option<Mono>,
}

impl Permit {
    /// Whether it still holds. To be asked right before the bytes leave: the process may have been paused since.
    ///
    /// The larger of both clocks counts: the monotonic clock stands still while a machine is suspended, and the wall
    /// clock may be set.
    pub fn check(&self, now: Now) -> Result<Duration, Blocked> {
        let by_wall = (now.wall - self.look_begun.wall).abs().to_std().unwrap_or(Duration::MAX);
        let age = now.mono.since(self.look_begun.mono).max(by_wall);
        if age > LOOK_TO_SEND {
            return Err(Blocked::new(
                Reason::TurnTimeout,
                format!("{} ms passed between the last look and the send", age.as_millis()),
            ));
        }
        if let Some(until) = self.send_until
            && now.mono >= until
        {
            return Err(Blocked::new(Reason::TurnTimeout, "the turn's lease or the window has too little time left"));
        }
        Ok(age)
    }
}

impl Round {
    /// Renews the lease at a third of its TTL and notices its end at once.
    pub(super) fn keep_lease(&mut self, now: Now, steps: &mut Vec<Step>) {
        let Some(held) = &mut self.held else { return };
        if now.mono >= held.valid_until {
            return self.lose_turn(now, "its lease ran out", steps);
        }
        if held.renewing.is_none() && now.mono >= held.renew_at {
            let ticket = self.tickets.next();
            held.renewing = Some(ticket);
            steps.push(Step::Do { ticket, action: Action::Renew { lease: held.lease, ttl: held.ttl } });
        }
    }

    pub(super) fn renewed(&mut self, answer: Answer, now: Now, steps: &mut Vec<Step>) {
        let Some(held) = &mut self.held else { return };
        held.renewing = None;
        match answer {
            Answer::Renewed(Renewal::Until(until)) => {
                held.valid_until = held.valid_until.max(until);
                held.renew_at = now.mono + held.ttl / 3;
            }
            Answer::Renewed(Renewal::Gone) => self.lose_turn(now, "etcd says that its lease is gone", steps),
            // Soon again, through another member: the action takes the next one each time.
            _ => held.renew_at = now.mono + held.ttl / 12,
        }
    }

    /// The turn is gone though it was not given up. What was sent goes on; nothing new is.
    pub(super) fn lose_turn(&mut self, now: Now, how: &str, steps: &mut Vec<Step>) {
        self.held = None;
        steps.push(Step::TurnLost);
        let blocked = Blocked::new(Reason::TurnTimeout, format!("the place in the queue was lost: {how}"));
        self.block(blocked, steps);
        // With an action under way the phase goes on to its answer, and finds the turn missing there.
        if self.awaiting.is_none() && self.may_still_be_dropped() {
            self.retry_later(now, steps);
        }
    }
}
