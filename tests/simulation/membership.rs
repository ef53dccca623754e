//! Members that come, go and are promoted.

use super::faults::Undo;
use super::model::SEC;
use super::tally::Fault;
use super::world::{Ev, World};

impl World {
    pub fn membership_changes(&mut self) {
        match self.rng.below(4) {
            0 if self.cluster.voters().count() > 3 => self.remove_member(),
            1 => self.add_member(),
            2 => self.promote(),
            _ if self.cluster.voters().count() > 2 && self.spare().is_some() => self.replace_member(),
            _ => {}
        }
    }

    pub fn remove_member(&mut self) {
        let leader = self.cluster.leader.filter(|_| self.rng.per_mille(500));
        let member = leader.unwrap_or_else(|| self.some_voter());
        if !self.cluster.commits(self.now) {
            return;
        }
        self.fault(Fault::MemberRemoved);
        if self.cluster.leader == Some(member) {
            self.fault(Fault::LeaderRemoved);
        }
        self.cluster.members[member].listed = false;
        self.cluster.list_changed = self.now;
        // In mid-defrag its process does not hear of it before the end.
        let runs_on = self.rng.pick(&[0, 0, 2, 90]) * SEC;
        self.after(runs_on, Ev::Undo(Undo::Removed { member }));
        self.leader_may_be_lost();
        // The pod goes with its member, some time later.
        let (epoch, span) = (self.procs[member].epoch, self.rng.within(SEC, 600 * SEC));
        if self.rng.per_mille(500) {
            self.after(span, Ev::Crash { janitor: member, epoch, back_after: None });
        }
    }

    /// A member that was never in the list.
    fn spare(&self) -> Option<usize> {
        (0..self.procs.len()).find(|index| self.procs[*index].epoch == 0)
    }

    /// As etcd's own documents advise: as a learner, promoted when it has caught up.
    fn add_member(&mut self) {
        let Some(index) = self.spare() else { return };
        if !self.cluster.commits(self.now) {
            return;
        }
        self.fault(Fault::MemberAdded);
        let member = &mut self.cluster.members[index];
        (member.listed, member.learner, member.lag) = (true, true, 5_000);
        self.cluster.list_changed = self.now;
        self.member_up(index);
        let janitor = self.rng.within(SEC, 10 * SEC);
        self.after(janitor, Ev::Restart { janitor: index });
        let caught_up = self.rng.within(SEC, 60 * SEC);
        self.after(caught_up, Ev::Undo(Undo::Lag { member: index }));
        if self.rng.per_mille(700) {
            self.after(caught_up + SEC, Ev::Undo(Undo::Learning { member: index }));
        }
    }

    fn promote(&mut self) {
        let members = &self.cluster.members;
        let learner = (0..members.len()).find(|index| members[*index].listed && members[*index].learner);
        if let Some(member) = learner {
            self.promote_member(member);
        }
    }

    pub fn promote_member(&mut self, index: usize) {
        let member = &self.cluster.members[index];
        if !self.faulty
            || !member.learner
            || !member.listed
            || !member.runs(self.now)
            || !self.cluster.commits(self.now)
        {
            return;
        }
        self.fault(Fault::LearnerPromoted);
        self.cluster.members[index].learner = false;
        self.cluster.members[index].lag = 0;
        self.cluster.list_changed = self.now;
    }

    /// A node that is lost with its volume.
    fn replace_member(&mut self) {
        let listed = self.cluster.voters().count();
        self.remove_member();
        if self.cluster.voters().count() < listed {
            self.fault(Fault::MemberReplaced);
            self.add_member();
        }
    }
}
