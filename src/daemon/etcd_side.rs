//! The connection to etcd as the loop sees it: who is there, is it up, what is new.

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use tokio::task::AbortHandle;

use super::paced::Paced;
use super::prevention::Prevention;
use super::{Daemon, News, policy};
use crate::config::Config;
use crate::etcd::{self, Class, Cluster, Error, Gate, Identity, LocalStatus, Pause};
use crate::plan::cluster::{AlarmKind, Look, MemberLook};
use crate::plan::compaction::Compactor;
use crate::plan::janitor::Janitor;
use crate::plan::member::{MemberId, RoundId, RoundKind};
use crate::plan::reason::{Outcome, Reason};
use crate::plan::record::RoundRecord;
use crate::plan::round::Ended;
use crate::plan::step::{Event, Me};
use crate::plan::time::{Mono, Now};

/// How often the local member is asked for its status. NOSPACE is to be seen within six seconds; twelve small requests
/// a minute are what an idle janitor may cost its member.
const POLL_EVERY: Duration = Duration::from_millis(5500);
/// A status that takes longer than this is none.
const POLL_DEADLINE: Duration = Duration::from_secs(3);
/// How often all members are looked at when nothing else makes us.
const OVERVIEW_EVERY: Duration = Duration::from_secs(600);
/// How soon after a look that did not get the local member's metrics: they tell the quota that prevention goes by.
const OVERVIEW_AGAIN: Duration = Duration::from_secs(60);
/// Who asks for a fresh look is shown one that is at most this old: whoever asks again and again costs the members no more.
const FRESH: Duration = Duration::from_secs(5);
/// Waits between attempts to find out who answers, doubling.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Wait before records that could not be read are read again.
const RECORDS_AGAIN: Duration = Duration::from_secs(10);
/// Waits before a watch that ended is begun again, doubling until one works.
const WATCH_AGAIN: Duration = Duration::from_secs(5);
const LONGEST_WATCH_AGAIN: Duration = Duration::from_secs(60);

/// The state of the connection.
pub(super) struct Link {
    generation: u64,
    cluster: Option<Arc<Cluster>>,
    identity: Option<Identity>,
    identifying: bool,
    /// Files or addresses changed since it was asked who answers: the answer says nothing of them.
    stale: bool,
    renew: bool,
    wait: Duration,
    next_attempt: Mono,
    polling: bool,
    next_poll: Mono,
    watching: Option<AbortHandle>,
    watch_again: Duration,
    said: Option<Class>,
    /// What is wrong with the dates of the certificates, as last said.
    out_of_date: Vec<String>,
    /// Files changed since the trouble was said: what is still wrong is said again.
    say_again: bool,
    /// What is known of refused passwords; the connections come and go.
    gate: Gate,
    history: Paced,
    hold: Paced,
}

impl Link {
    pub(super) fn new(now: Mono) -> Self {
        Link {
            generation: 0,
            cluster: None,
            identity: None,
            identifying: false,
            stale: false,
            renew: false,
            wait: FIRST_WAIT,
            next_attempt: now,
            polling: false,
            next_poll: now,
            watching: None,
            watch_again: WATCH_AGAIN,
            said: None,
            out_of_date: Vec::new(),
            say_again: false,
            gate: Gate::default(),
            history: Paced::new(now),
            hold: Paced::new(now),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.clone()
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// New connections, with the files and addresses as they are now. Plans go on: what is under way keeps the old ones.
    pub(super) fn renew(&mut self, now: Mono) {
        self.renew = true;
        self.stale = self.identifying;
        self.wait = FIRST_WAIT;
        self.next_attempt = now;
    }

    /// Another content in the files: an error of the same kind is another one.
    pub(super) fn files_changed(&mut self, now: Mono) {
        self.say_again = true;
        self.renew(now);
    }

    /// The watch has told something.
    pub(super) fn watch_works(&mut self) {
        self.watch_again = WATCH_AGAIN;
    }

    pub(super) fn wake_at(&self) -> Option<Mono> {
        let attempt = (self.identity.is_none() || self.renew) && !self.identifying;
        let poll = self.identity.is_some() && !self.polling;
        let readings = [self.history.wake_at(), self.hold.wake_at()].into_iter().flatten();
        let attempt = attempt.then_some(self.next_attempt).into_iter();
        attempt.chain(poll.then_some(self.next_poll)).chain(readings.filter(|_| self.cluster.is_some())).min()
    }
}

impl Daemon {
    /// Connects, finds out who is there, asks how it is.
    pub(super) fn keep_link(&mut self) {
        let Some(config) = self.config.clone() else { return };
        let now = self.clock.mono();
        let wanted = self.link.identity.is_none() || self.link.renew;
        if wanted && !self.link.identifying && now >= self.link.next_attempt {
            match Cluster::new(&config.etcd, self.calls.clone()) {
                Ok(cluster) => {
                    let cluster = Arc::new(cluster.behind(self.link.gate.clone()));
                    self.view.certificates = cluster.certificates();
                    self.say_dates(cluster.out_of_date(self.clock.now().wall));
                    if self.link.cluster.is_none() {
                        self.probes.set(Some(Arc::clone(&cluster)), config.defrag.timeout);
                    }
                    self.link.identifying = true;
                    self.spawn(async move {
                        let found = cluster.identify().await;
                        News::Identified(cluster, found)
                    });
                }
                Err(error) => self.not_connected(&error),
            }
        }
        let Some(cluster) = self.link.cluster() else { return };
        // A member in its own defrag answers nothing; asking would only count as its being down.
        let in_defrag = self.janitor.as_ref().is_some_and(Janitor::is_sent);
        if !self.link.polling && now >= self.link.next_poll && !in_defrag {
            self.link.polling = true;
            self.link.next_poll = now + POLL_EVERY;
            let asked = Arc::clone(&cluster);
            self.spawn(async move { News::Polled(etcd::local_status(&asked, POLL_DEADLINE).await) });
        } else if in_defrag {
            self.link.next_poll = now + POLL_EVERY;
        }
        if now >= self.next_overview {
            self.overview();
        }
        if self.link.history.begins(now) {
            let (cluster, limit) = (Arc::clone(&cluster), config.history.limit);
            self.spawn(async move { News::History(etcd::history(&cluster, limit).await) });
        }
        if self.link.hold.begins(now) {
            let begun = self.clock.now();
            self.spawn(async move { News::Held(begun, etcd::read_pause(&cluster).await) });
        }
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = News> + Send + 'static) {
        self.spawn_held(task);
    }

    fn spawn_held(&mut self, task: impl Future<Output = News> + Send + 'static) -> AbortHandle {
        let generation = self.link.generation;
        self.work.spawn(async move { (generation, task.await) })
    }

    /// Ends the round of a member that is looked after no longer. An intent that was written for it is settled by whoever
    /// sees it, as after a crash.
    fn drop_round(&mut self, detail: &str) {
        let Some(round) = self.janitor.as_ref().and_then(Janitor::round) else { return };
        let (id, lease) = (round.id(), round.lease());
        if let (Some(lease), Some(cluster)) = (lease, self.link.cluster()) {
            self.spawn(async move {
                etcd::leave(&cluster, lease).await;
                News::Left
            });
        }
        self.view.draining = false;
        let outcome = Outcome::Skipped(Reason::MemberChanged);
        self.round_ended(Ended { round: id, outcome, detail: detail.to_owned(), seconds: None, reclaimed: None });
    }

    /// Everything that is known of the member that was looked after is forgotten, answers under way too.
    fn reset(&mut self) {
        self.link.generation += 1;
        self.link.polling = false;
        // Its changes are not of a generation.
        if let Some(watching) = self.link.watching.take() {
            watching.abort();
        }
        let now = self.clock.mono();
        (self.link.history, self.link.hold) = (Paced::new(now), Paced::new(now));
        self.janitor = None;
        self.compactor = None;
        // The next plan gives the same tickets out again.
        self.rescue_compaction = None;
        (self.compaction_began, self.defrag_began) = (None, None);
        self.prevention = Prevention::new();
        self.view.forget_cluster();
    }

    fn not_connected(&mut self, error: &Error) {
        self.link.identifying = false;
        self.link.next_attempt = self.clock.mono() + self.link.wait;
        self.link.wait = (self.link.wait * 2).min(LONGEST_WAIT);
        if self.link.identity.is_none() {
            // A learner is up; it refuses what would tell more of it.
            self.view.etcd_up = Some(error.class == Class::Learner);
        }
        // The member answers nothing until its defrag ends; new files that were put there meanwhile are tried again then.
        let silent = matches!(error.class, Class::Unavailable | Class::DeadlinePassed);
        if !(silent && self.janitor.as_ref().is_some_and(Janitor::is_sent)) {
            self.down(error);
        }
    }

    fn say_dates(&mut self, out_of_date: Vec<String>) {
        for problem in out_of_date.iter().filter(|problem| !self.link.out_of_date.contains(problem)) {
            tracing::warn!(problem, "a certificate is out of date; tries with it all the same");
        }
        self.link.out_of_date = out_of_date;
    }

    /// Certificates end while they are in use. Those of new files are judged with each attempt to use them.
    pub(super) fn judge_dates(&mut self) {
        if let Some(cluster) = self.link.cluster.as_ref().filter(|_| !self.link.renew) {
            self.say_dates(cluster.out_of_date(self.clock.now().wall));
        }
    }

    /// With the certificates whose dates may be to blame.
    fn explained(&self, error: &Error) -> Error {
        let mut error = error.clone();
        if error.class == Class::Tls {
            for reason in &self.link.out_of_date {
                error.text.push_str("; ");
                error.text.push_str(reason);
            }
        }
        error
    }

    /// Said once for each kind of trouble and content of the files, not once for each attempt.
    fn down(&mut self, error: &Error) {
        let error = self.explained(error);
        let blocked = error.blocked();
        let again = std::mem::take(&mut self.link.say_again);
        if again || self.link.said != Some(error.class) {
            tracing::warn!(reason = blocked.reason.name(), %error, "etcd cannot be used; tries on");
        }
        self.link.said = Some(error.class);
        self.view.problem = Some(blocked);
    }

    fn up(&mut self) {
        self.view.etcd_up = Some(true);
        if self.link.renew {
            // It answers on the old connection; that the new files are refused stays true, and said, until they are good.
            return;
        }
        if self.link.said.take().is_some() {
            tracing::info!("etcd answers again");
        }
        self.view.problem = None;
    }

    pub(super) fn identified(&mut self, cluster: Arc<Cluster>, result: Result<Identity, Error>) {
        let now = self.clock.mono();
        if std::mem::take(&mut self.link.stale) {
            self.link.identifying = false;
            self.link.next_attempt = now;
            return;
        }
        let identity = match result {
            Ok(identity) => identity,
            Err(error) => {
                if error.class == Class::WrongMember {
                    self.let_go_of_a_member_that_is_not_meant();
                }
                return self.not_connected(&error);
            }
        };
        let Some(config) = self.config.clone() else { return };
        let same = self.link.identity() == Some(&identity);
        if !same && self.janitor.as_ref().is_some_and(Janitor::is_sent) {
            // How that defrag ended must be known first.
            self.link.identifying = false;
            self.link.next_attempt = now + LONGEST_WAIT;
            return;
        }
        if !same {
            self.drop_round("another member answers at etcd.endpoint");
        }
        self.link.identifying = false;
        self.link.renew = false;
        self.link.wait = FIRST_WAIT;
        self.probes.set(Some(Arc::clone(&cluster)), config.defrag.timeout);
        self.link.cluster = Some(cluster);
        self.link.next_poll = now;
        self.up();
        if same {
            tracing::info!("connected anew");
            // One may have come due while another member answered there.
            return self.catch_up();
        }
        self.look_after(identity, &config);
    }

    /// The configuration names another member than the one that was looked after, and the one that answers is not that one
    /// either: nobody is looked after. Without a change of name it is the address that leads astray; plans then wait for it.
    fn let_go_of_a_member_that_is_not_meant(&mut self) {
        let Some(name) = self.config.as_ref().and_then(|config| config.etcd.member_name.clone()) else { return };
        let not_meant = self.link.identity().is_some_and(|identity| identity.name != name);
        // How a defrag ended that was sent must be known first; the next attempt is seconds away.
        if not_meant && !self.janitor.as_ref().is_some_and(Janitor::is_sent) {
            self.drop_round("etcd.member_name is another member's");
            self.reset();
            (self.link.identity, self.link.cluster) = (None, None);
        }
    }

    /// Begins to look after a member.
    fn look_after(&mut self, identity: Identity, config: &Config) {
        let now = self.clock.mono();
        self.reset();
        tracing::info!(
            cluster = %MemberId(identity.cluster),
            member = %identity.member,
            name = identity.name,
            endpoint = config.etcd.endpoint,
            "looks after this member"
        );
        self.view.etcd_up = Some(true);
        self.view.cluster_id = Some(MemberId(identity.cluster));
        self.view.local = Some(identity.member);
        let me = Me {
            member: identity.member,
            name: identity.name.clone(),
            instance: self.instance.clone(),
            holder: holder(&identity),
        };
        let rounds = policy::rounds(config, self.view.recorded);
        self.janitor = Some(Janitor::new(me, rounds));
        self.compactor = Some(Compactor::new(identity.member, policy::compactions(config), now));
        self.link.identity = Some(identity);
        self.next_overview = now;
        self.watch_after(Duration::ZERO);
        self.read_history();
        self.janitor_event(if self.view.quiesced { Event::Quiesce } else { Event::Tick });
        self.catch_up();
    }

    pub(super) fn polled(&mut self, result: Result<LocalStatus, Error>) {
        self.link.polling = false;
        let now = self.clock.now();
        let local = match result {
            Ok(local) => local,
            Err(error) => {
                // Sent meanwhile: the member answers nothing until its defrag ends.
                if !self.janitor.as_ref().is_some_and(Janitor::is_sent) {
                    self.view.etcd_up = Some(false);
                    self.judge_dates();
                    let blamed = self.link.cluster.as_ref().map(|cluster| cluster.blamed(&error));
                    self.down(&blamed.unwrap_or(error));
                }
                return;
            }
        };
        let Some(identity) = self.link.identity().cloned() else { return };
        if (local.member, local.cluster) != (identity.member, identity.cluster) {
            let text = format!("answers for {}, not for {} as before", local.member, identity.member);
            let endpoint = self.config.as_ref().map(|config| config.etcd.endpoint.clone()).unwrap_or_default();
            self.down(&Error::new(Class::WrongMember, "Status", &endpoint, text));
            return self.link.renew(now.mono);
        }
        self.up();
        self.view.polled(&local, &identity.name, now);
        if let Some(compactor) = &mut self.compactor {
            compactor.sample(local.status.revision, now.mono);
        }
        self.prevent(&local.status, now);
        let nospace = local.status.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Nospace);
        if nospace {
            self.janitor_event(Event::NospaceSeen);
        }
    }

    /// A look at everybody, for those who ask us.
    pub(super) fn overview(&mut self) {
        let Some(cluster) = self.link.cluster() else { return };
        self.next_overview = self.clock.mono() + OVERVIEW_EVERY;
        let clock = self.clock;
        let no_round = RoundId { kind: RoundKind::Manual, due: DateTime::UNIX_EPOCH };
        self.spawn(async move { News::Overview(Box::new(etcd::look(&cluster, &clock, no_round).await)) });
    }

    /// Somebody asks how everybody is now.
    pub(super) fn asked_to_look(&mut self) {
        let now = self.clock.mono();
        let fresh = |looked: Now| now.since(looked.mono) < FRESH;
        if self.view.looked_at().is_some_and(fresh) || now < self.no_look_before {
            return;
        }
        self.no_look_before = now + FRESH;
        self.overview();
    }

    pub(super) fn overviewed(&mut self, look: &Look) {
        let quota = self.config.as_ref().and_then(|config| config.alarms.quota);
        self.view.looked(look, quota);
        let local = self.view.local.and_then(|id| look.member(id));
        // A defrag ends without a word to us when somebody else sent it.
        let open = |member: &MemberLook| member.scrape.as_ref().is_ok_and(|scrape| scrape.defrags_open > 0);
        if local.is_none_or(|member| member.scrape.is_err()) || look.members.iter().any(open) {
            self.next_overview = self.next_overview.min(self.clock.mono() + OVERVIEW_AGAIN);
        }
    }

    /// Reads the hold for those who ask us; rounds and compactions read it themselves before each step.
    pub(super) fn read_hold(&mut self) {
        self.link.hold.want();
    }

    pub(super) fn hold_read(&mut self, begun: Now, pause: Result<Pause, Error>) {
        self.link.hold.ended();
        match pause {
            Ok(pause) => self.view.held(pause.hold.as_ref().map(|stored| &stored.hold), begun),
            Err(error) => tracing::debug!(%error, "the hold could not be read; the next look shows it"),
        }
    }

    pub(super) fn watch_after(&mut self, wait: Duration) {
        let Some(cluster) = self.link.cluster() else { return };
        let changes = self.changes.clone();
        let watching = self.spawn_held(async move {
            tokio::time::sleep(wait).await;
            News::WatchEnded(etcd::watch(&cluster, &changes).await)
        });
        self.link.watching = Some(watching);
    }

    pub(super) fn watch_ended(&mut self, error: &Error) {
        tracing::debug!(%error, "the watch under the prefix ended; begins again");
        // What happened meanwhile was not seen.
        self.janitor_event(Event::IntentSeen);
        self.watch_after(self.link.watch_again);
        self.link.watch_again = (self.link.watch_again * 2).min(LONGEST_WATCH_AGAIN);
    }

    /// Reads what is on record, now or as soon as it may be read again.
    pub(super) fn read_history(&mut self) {
        self.link.history.want();
    }

    /// Takes over what is on record, also from earlier instances. Where it cannot be read, what is known of it stays.
    pub(super) fn remember(&mut self, records: Result<Vec<RoundRecord>, Error>) {
        self.link.history.ended();
        let records = match records {
            Ok(records) => records,
            Err(error) => {
                tracing::debug!(%error, "the records cannot be read; those known before stay");
                // Read anew with each one that is written; the first time nobody may write one.
                if !self.prevention.records_read {
                    self.link.history.want_at(self.clock.mono() + RECORDS_AGAIN);
                }
                return;
            }
        };
        self.view.remember(records, self.clock.now().wall);
        self.prevention.records_read = true;
        if let Some(config) = self.config.clone() {
            let rounds = policy::rounds(&config, self.view.recorded);
            self.janitor_event(Event::Policy(Box::new(rounds)));
        }
    }
}

/// How this janitor is called in records: the pod, else the host, else the member.
fn holder(identity: &Identity) -> String {
    ["POD_NAME", "HOSTNAME"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|name| !name.is_empty() && name.len() <= 253)
        .unwrap_or_else(|| if identity.name.is_empty() { identity.member.to_string() } else { identity.name.clone() })
}
