//! The faults, one chosen by chance every few seconds, and their ends.

use std::fmt;
use std::time::{Duration, Instant};

use etcd_client::SnapshotResponse;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::timeout;

use super::world::{STRETCH, World, yaml};
use crate::support::namespace::Cut;
use crate::support::overlaps::{Foreign, Pause};
use crate::support::{Janitor, records};

/// For conversations that may not end.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    JanitorKilled,
    JanitorStopped,
    JanitorClockOff,
    SecondJanitor,
    MemberKilled,
    MemberStopped,
    MemberSlow,
    CutOff,
    NotHeard,
    DoesNotHear,
    ForeignDefrag,
    LeaseRevoked,
    LeaderMoved,
    SnapshotOpen,
}

use Kind::*;

const ALL: [Kind; 14] = [
    JanitorKilled,
    JanitorStopped,
    JanitorClockOff,
    SecondJanitor,
    MemberKilled,
    MemberStopped,
    MemberSlow,
    CutOff,
    NotHeard,
    DoesNotHear,
    ForeignDefrag,
    LeaseRevoked,
    LeaderMoved,
    SnapshotOpen,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JanitorKilled => "janitor killed and started again",
            JanitorStopped => "janitor stopped and continued",
            JanitorClockOff => "janitor started again with its clock an hour off",
            SecondJanitor => "second janitor for a member, then killed",
            MemberKilled => "etcd killed and started again",
            MemberStopped => "etcd stopped and continued",
            MemberSlow => "etcd killed and started again with a slow disk",
            CutOff => "member and janitor cut off",
            NotHeard => "member and janitor hear and are not heard",
            DoesNotHear => "member and janitor are heard and do not hear",
            ForeignDefrag => "an operator's defrag",
            LeaseRevoked => "lease under a turn revoked",
            LeaderMoved => "leadership moved",
            SnapshotOpen => "snapshot open and not read",
        })
    }
}

impl Kind {
    /// The member does not answer meanwhile, and a quorum needs the others.
    fn takes_the_member(self) -> bool {
        matches!(self, MemberKilled | MemberStopped | MemberSlow | CutOff | NotHeard | DoesNotHear)
    }

    fn takes_the_janitor(self) -> bool {
        matches!(self, JanitorKilled | JanitorStopped | JanitorClockOff)
    }
}

/// A fault that lasts.
pub struct Ill {
    kind: Kind,
    member: usize,
    from: Instant,
    until: Instant,
    second: Option<Janitor>,
    _snapshot: Option<tokio::task::JoinHandle<()>>,
}

impl World {
    /// One more fault, if it fits beside those that are there.
    pub async fn inflict(&mut self) {
        let kind = *ALL.choose(&mut self.rng).expect("there are kinds");
        let member = self.target().await;
        // Some outlive a lease, some do not.
        let length = Duration::from_millis(self.rng.random_range(500..12_000));
        let taken = |ill: &Ill| ill.kind.takes_the_member();
        let away = self.ills.iter().filter(|ill| taken(ill)).count();
        let same = |ill: &Ill| {
            ill.member == member
                && (ill.kind == kind
                    || ill.kind.takes_the_member() && kind.takes_the_member()
                    || ill.kind.takes_the_janitor() && kind.takes_the_janitor())
        };
        if self.ills.iter().any(same) || kind.takes_the_member() && away >= (self.members() - 1) / 2 {
            return;
        }
        let mut ill =
            Ill { kind, member, from: Instant::now(), until: Instant::now() + length, second: None, _snapshot: None };
        match kind {
            JanitorKilled | JanitorClockOff => self.janitors[member].kill(),
            JanitorStopped => self.janitors[member].process().signal("STOP"),
            SecondJanitor => ill.second = Some(Janitor::start(&self.cluster, member, &yaml()).await),
            MemberKilled | MemberSlow => self.cluster.kill(member),
            MemberStopped => self.cluster.pause(member),
            CutOff => self.cluster.cut(member, Cut::Both),
            NotHeard => self.cluster.cut(member, Cut::Out),
            DoesNotHear => self.cluster.cut(member, Cut::In),
            ForeignDefrag => return self.operate(member),
            LeaseRevoked => return self.revoke().await,
            LeaderMoved => return self.move_leader(member).await,
            SnapshotOpen => match self.open_snapshot(member).await {
                Some(held) => ill._snapshot = Some(held),
                None => return,
            },
        }
        self.count(kind);
        self.ills.push(ill);
    }

    /// Anyone, and half of the time the one whose turn it is, if it is
    /// somebody's: that is where it hurts.
    async fn target(&mut self) -> usize {
        let anyone = self.rng.random_range(0..self.members());
        if self.rng.random() { self.holder().await.unwrap_or(anyone) } else { anyone }
    }

    /// The member in mid-defrag, or the first in the queue.
    async fn holder(&self) -> Option<usize> {
        let open = |index: &usize| self.recorder.now(*index).is_some_and(|metrics| metrics.open_defrags() > 0);
        let busy = (0..self.members()).find(open);
        let queue = records::queue_in_order(&self.cluster, self.leader()?);
        busy.or(timeout(PATIENCE, queue).await.unwrap_or_default().first().copied())
    }

    fn count(&mut self, kind: Kind) {
        *self.counts.entry(kind).or_default() += 1;
    }

    fn operate(&mut self, member: usize) {
        let args = ["--command-timeout=60s", "defrag"];
        let mut command = self.cluster.etcdctl_command(&self.cluster.member(member).client_url, &args);
        let call = self.deeds.foreign.len();
        self.deeds.foreign.push(Foreign { member, called: Instant::now(), returned: None });
        self.operators.spawn(async move {
            // Refused where the member is away; then there was none.
            let _ = command.output().await;
            (call, Instant::now())
        });
        self.count(ForeignDefrag);
    }

    async fn revoke(&mut self) {
        let (Some(through), Some(member)) = (self.leader(), self.holder().await) else { return };
        if timeout(PATIENCE, records::revoke(&self.cluster, through, member)).await == Ok(true) {
            self.count(LeaseRevoked);
        }
    }

    async fn move_leader(&mut self, to: usize) {
        let Some(leader) = self.leader() else { return };
        let id = self.cluster.member(to).id;
        if let Ok(mut client) = self.cluster.client_to(&self.cluster.member(leader).client_url).await
            && leader != to
        {
            let _ = timeout(PATIENCE, client.move_leader(id)).await;
            self.count(LeaderMoved);
        }
    }

    /// A stream of which one piece is read and no more.
    async fn open_snapshot(&mut self, member: usize) -> Option<tokio::task::JoinHandle<()>> {
        let mut client = self.cluster.client_to(&self.cluster.member(member).client_url).await.ok()?;
        let mut stream = timeout(PATIENCE, client.snapshot()).await.ok()?.ok()?;
        let _: Option<SnapshotResponse> = timeout(PATIENCE, stream.message()).await.ok()?.ok()?;
        Some(tokio::spawn(async move {
            let _held = stream;
            std::future::pending().await
        }))
    }

    /// Waits until somebody has the turn; not for ever, since something left
    /// from the last bout may be in the way of all.
    pub async fn until_a_turn(&mut self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(40) && self.holder().await.is_none() {
            self.pass(100..300).await;
        }
    }

    /// Waits until the faults of a bout are over.
    pub async fn until_well(&mut self) {
        while !self.ills.is_empty() {
            self.pass(100..101).await;
        }
    }

    /// So many milliseconds, in which faults end when they are over.
    pub async fn pass(&mut self, millis: std::ops::Range<u64>) {
        let until = Instant::now() + Duration::from_millis(self.rng.random_range(millis));
        while Instant::now() < until {
            self.cure_what_is_over().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn cure_what_is_over(&mut self) {
        self.note_operators();
        while let Some(at) = self.ills.iter().position(|ill| ill.until <= Instant::now()) {
            let ill = self.ills.remove(at);
            self.cure(ill, false).await;
        }
    }

    /// The end of the faults: also of what outlasts them, a slow disk and a
    /// clock that is off.
    pub async fn cure_everything(&mut self) {
        for ill in std::mem::take(&mut self.ills) {
            self.cure(ill, true).await;
        }
        for index in 0..self.members() {
            if self.cluster.member(index).stretch != Some(STRETCH) {
                self.cluster.stretch(index, STRETCH);
                self.cluster.restart(index).await;
            }
            if self.janitors[index].clock_is_set() {
                self.janitors[index].set_clock_right();
                self.janitors[index].kill();
                self.janitors[index].start_again().await;
            }
        }
    }

    async fn cure(&mut self, mut ill: Ill, for_good: bool) {
        let member = ill.member;
        match ill.kind {
            JanitorKilled => {
                self.janitors[member].set_clock_right();
                self.janitors[member].start_again().await;
            }
            JanitorClockOff if for_good => self.janitors[member].start_again().await,
            JanitorClockOff => {
                let offset = if self.rng.random() { 3600 } else { -3600 };
                self.janitors[member].set_clock(offset);
                self.janitors[member].start_again().await;
            }
            JanitorStopped => self.janitors[member].process().signal("CONT"),
            SecondJanitor => ill.second.take().expect("it was started").kill(),
            MemberKilled => self.start_member(member, STRETCH),
            MemberSlow => self.start_member(member, if for_good { STRETCH } else { 3 * STRETCH }),
            MemberStopped => self.cluster.resume(member),
            CutOff | NotHeard | DoesNotHear => self.cluster.heal(member),
            SnapshotOpen => ill._snapshot.take().expect("it was opened").abort(),
            ForeignDefrag | LeaseRevoked | LeaderMoved => {}
        }
        if matches!(ill.kind, JanitorStopped | MemberStopped | CutOff | NotHeard | DoesNotHear) {
            self.deeds.pauses.push(Pause { member, from: ill.from, to: Instant::now() });
        }
    }

    /// Does not wait for it: a quorum may be missing.
    fn start_member(&mut self, member: usize, stretch: Duration) {
        self.cluster.stretch(member, stretch);
        self.cluster.start_again_unwatched(member);
    }
}
