//! What a look shows of the members while NOSPACE is up, or was.

use std::collections::BTreeSet;

use etcd_janitor::plan::cluster::{Alarm, AlarmKind, Listing, Look, Records};
use etcd_janitor::plan::time::Now;

use super::scope::{Mutant, Scope};
use super::world::{Proc, World};
use crate::seen::{QUOTA, SeenMember, id, member};

/// Bytes of a file before its defrag and after it, and of them in use.
const LARGE: (u64, u64) = (QUOTA, QUOTA / 4);
const SMALL: (u64, u64) = (QUOTA / 4, QUOTA / 4);

/// What one look shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// None: not reached.
    members: [Option<SeenMember>; 3],
    small: [bool; 3],
    nospace: bool,
}

impl Seen {
    /// What `reader` sees at this instant.
    pub fn now(world: &World, reader: usize, proc: &Proc, scope: &Scope) -> Self {
        let member = |index: usize| {
            let member = &world.members[index];
            let reached = proc.cut != Some(index as u8);
            if !reached && !scope.has(Mutant::SilentLookWell) {
                return None;
            }
            let hidden = !reached || scope.has(Mutant::DefragsHidden);
            let leader = if scope.has(Mutant::LeaderHidden) { (reader as u8 + 1) % 3 } else { world.leader };
            Some(SeenMember {
                answers: hidden || member.serves(),
                leader,
                term: world.term,
                open: if hidden { 0 } else { member.open.len() as u8 },
                count: member.count,
                start: member.start,
            })
        };
        let own_first = |index: usize| scope.has(Mutant::OthersLookDone) && index != reader;
        Seen {
            members: [member(0), member(1), member(2)],
            small: [0, 1, 2].map(|index| world.members[index].small || own_first(index)),
            nospace: world.nospace,
        }
    }

    /// The look that a plan is given.
    pub fn look(&self, begun: Now) -> Look {
        let raised = Alarm { member: id(0), kind: AlarmKind::Nospace };
        let alarms: BTreeSet<Alarm> = self.nospace.then_some(raised).into_iter().collect();
        let told = |index: usize| {
            let bytes = if self.small[index] { SMALL } else { LARGE };
            member(index, self.members[index], bytes, alarms.clone())
        };
        let members = (0..3).map(told).collect();
        Look { begun, listing: Listing::Agreed, members, records: Ok(Records::default()), disk: None, rights: Ok(()) }
    }
}
