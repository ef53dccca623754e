//! Whether what comes next has been the same for a while.
//!
//! Two janitors look at different instants. Each acts only on what it has seen unchanged for [`STILL_FOR`], and sends
//! within a second of its last look: so whoever comes to see another member as the next one sees the first one's open
//! Defragment before its own time has come.

use std::time::Duration;

use super::next::Next;
use crate::plan::cluster::{Look, MemberLook};
use crate::plan::member::MemberId;
use crate::plan::time::Mono;

/// How long leader, term, members, what they use and what comes next must have been the same.
pub const STILL_FOR: Duration = Duration::from_secs(10);
/// In-use bytes count as still when they moved by no more than this, or one percent of the file, whichever is more:
/// under NOSPACE keys can still be deleted, and leases end.
const STILL_BYTES: u64 = 1 << 20;

/// What was seen, and since when nothing else.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calm {
    seen: Option<(Seen, Mono)>,
    /// When the newest look began that was before a change that every janitor sees: nobody's calm began earlier.
    pub changed_after: Option<Mono>,
}

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    leader: Option<(MemberId, u64)>,
    members: Vec<Figures>,
    next: Next,
}

#[derive(Debug, Clone, PartialEq)]
struct Figures {
    id: MemberId,
    learner: bool,
    /// Bytes in use and of the file, if it answers.
    bytes: Option<(u64, u64)>,
}

impl Calm {
    /// Takes a look and what it names as next; answers since when it has been so.
    pub fn observe(&mut self, look: &Look, next: &Next) -> Mono {
        let at = look.begun.mono;
        let figures = |member: &MemberLook| Figures {
            id: member.id,
            learner: member.learner,
            bytes: member.status.as_ref().ok().map(|status| (status.db_size_in_use, status.db_size)),
        };
        let members = look.members.iter().map(figures).collect();
        let seen = Seen { leader: look.leader().ok(), members, next: next.clone() };
        match &self.seen {
            // Compared with the first of them: what creeps would else never be seen to move.
            Some((first, since)) if first.is_like(&seen) => *since,
            _ => {
                self.seen = Some((seen, at));
                at
            }
        }
    }

    /// A member is in its defrag: whoever looks sees it, and is not calm.
    pub fn is_nobodys(&mut self, look: &Look) {
        self.changed_after = Some(look.begun.mono);
    }

    /// Something could not be seen: it may have changed, and changed back.
    pub fn disturb(&mut self) {
        self.seen = None;
    }
}

impl Seen {
    fn is_like(&self, other: &Seen) -> bool {
        self.leader == other.leader
            && kind(&self.next) == kind(&other.next)
            && self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(|(one, other)| {
                (one.id, one.learner) == (other.id, other.learner)
                    && match (one.bytes, other.bytes) {
                        (None, None) => true,
                        (Some((first, size)), Some((now, _))) => first.abs_diff(now) <= STILL_BYTES.max(size / 100),
                        _ => false,
                    }
            })
    }
}

/// What the comparison is about: figures inside it may move a little.
pub fn kind(next: &Next) -> (u8, Vec<MemberId>) {
    match next {
        Next::Defragment(member) => (0, vec![*member]),
        Next::MoveLeader { from, to } => (1, vec![*from, *to]),
        Next::Disarm(_) => (2, Vec::new()),
        Next::Stuck(members) => (3, members.iter().map(|member| member.member).collect()),
    }
}
