//! The connections: one pinned to the local address, one to each other member, made when they are first needed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::calls::Calls;
use super::connection::Connection;
use super::error::{Class, Error};
use super::gate::Gate;
use super::material::Material;
use super::pem;
use super::scrape::Pages;
use crate::config::Etcd;
use crate::plan::member::MemberId;
use crate::plan::reason::Blocked;
use crate::plan::snapshot::Certificate;

/// A member that answers in more than this is away: a busy one answers in a tenth of it.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(1);
/// Fresh connections that must all reach one member. With two members behind one address they do so by chance once in
/// thirty-two times; a balancer that is asked again every few seconds is found out.
const IDENTITY_DIALS: usize = 5;

/// A member as the list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: MemberId,
    /// Its `--name`; empty until it has joined.
    pub name: String,
    /// Where it advertises to serve clients.
    pub client_urls: Vec<String>,
    /// Whether it is a learner.
    pub learner: bool,
}

/// Who answers at the local address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The member.
    pub member: MemberId,
    /// Its name.
    pub name: String,
}

/// All connections to one cluster, made with one reading of the configuration's files.
pub struct Cluster {
    etcd: Etcd,
    material: Material,
    pages: Pages,
    calls: Calls,
    local: Mutex<Option<Connection>>,
    local_id: Mutex<Option<MemberId>>,
    peers: Mutex<HashMap<MemberId, Connection>>,
    /// Metrics base URL of each member, once a page with its id was read there.
    metrics: Mutex<HashMap<MemberId, String>>,
    listed: Mutex<Vec<Listed>>,
    /// Whether our user may defragment, as last answered.
    rights: Mutex<Option<Blocked>>,
    turn: AtomicUsize,
}

/// A poisoned lock means that another task panicked; the data under these are caches and stay usable.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Cluster {
    /// Reads the files; connects to nobody yet.
    pub fn new(etcd: &Etcd, calls: Calls) -> Result<Cluster, Error> {
        let material = Material::read(etcd)?;
        let pages = Pages::new(&etcd.endpoint, &material)?;
        Ok(Cluster {
            etcd: etcd.clone(),
            material,
            pages,
            calls,
            local: Mutex::default(),
            local_id: Mutex::default(),
            peers: Mutex::default(),
            metrics: Mutex::default(),
            listed: Mutex::default(),
            rights: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// With logins through a gate that outlives these connections: what it knows to be refused is not tried again.
    pub fn behind(mut self, gate: Gate) -> Cluster {
        self.material.gate = gate;
        self
    }

    /// How to reach etcd.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(super) fn material(&self) -> &Material {
        &self.material
    }

    /// When the certificates end that connections are made with.
    pub fn certificates(&self) -> Vec<Certificate> {
        self.material.certificates()
    }

    /// What the dates of the certificates say at `now`, a sentence for each that is not good.
    pub fn out_of_date(&self, now: chrono::DateTime<chrono::Utc>) -> Vec<String> {
        self.material.out_of_date(now)
    }

    /// Whether etcd is shown a client certificate.
    pub(super) fn shows_certificate(&self) -> bool {
        self.material.shows_certificate()
    }

    /// Whether requests carry a token.
    pub(super) fn has_user(&self) -> bool {
        self.material.has_user()
    }

    /// The member list as last read.
    pub fn listed(&self) -> Vec<Listed> {
        locked(&self.listed).clone()
    }

    pub(super) fn set_listed(&self, mut listed: Vec<Listed>) {
        listed.sort_by_key(|member| member.id);
        let here = |id: &MemberId| listed.iter().any(|member| member.id == *id);
        // A member that now advertises other addresses is looked for anew.
        let there = |id: &MemberId, connection: &Connection| {
            let advertised = |member: &Listed| member.client_urls.iter().any(|url| url == connection.url());
            listed.iter().any(|member| member.id == *id && (!self.etcd.peers.is_empty() || advertised(member)))
        };
        locked(&self.peers).retain(|id, connection| there(id, connection));
        locked(&self.metrics).retain(|id, _| here(id));
        *locked(&self.listed) = listed;
    }

    /// The member that [`Cluster::identify`] found at the local address.
    pub fn local_id(&self) -> Option<MemberId> {
        *locked(&self.local_id)
    }

    /// Takes over whether our user may defragment; none: there was no answer, and the one before stands.
    pub(super) fn rights(&self, answered: Option<Result<(), Blocked>>) -> Result<(), Blocked> {
        let mut rights = locked(&self.rights);
        if let Some(answered) = answered {
            *rights = answered.err();
        }
        rights.clone().map_or(Ok(()), Err)
    }

    /// The connection to the local address.
    pub async fn local(&self) -> Result<Connection, Error> {
        if let Some(connection) = locked(&self.local).clone() {
            return Ok(connection);
        }
        let connection = self.dial(&self.etcd.endpoint).await?;
        *locked(&self.local) = Some(connection.clone());
        Ok(connection)
    }

    async fn dial(&self, url: &str) -> Result<Connection, Error> {
        Connection::dial(url, &self.material, self.calls.clone(), self.etcd.request_timeout).await
    }

    /// Finds out who answers at the local address, over several fresh connections: a load balancer would send them to
    /// different members, and a defrag to a random one.
    ///
    /// # Errors
    ///
    /// Of a TLS connection that failed the error names the file that may be to blame.
    pub async fn identify(&self) -> Result<Identity, Error> {
        self.who_answers().await.map_err(|error| self.blamed(&error))
    }

    /// With the file that may be to blame, if the connection failed for its TLS.
    pub fn blamed(&self, error: &Error) -> Error {
        let mut error = error.clone();
        if error.is_cut_off() && error.endpoint.starts_with("https://") && self.material.shows_certificate() {
            // TLS 1.3 refuses a client's certificate after the handshake; whether its reason is read before the
            // connection is found closed, is a matter of chance.
            error.class = Class::Tls;
            error.text.push_str("; etcd does so when it does not accept the client certificate");
        }
        if error.class == Class::Tls {
            error.text = pem::dated(&error.text);
        }
        if error.class == Class::Tls
            && let Some(suspect) = self.material.suspects(&error.text)
        {
            error.text.push_str("; ");
            error.text.push_str(&suspect);
        }
        error
    }

    async fn who_answers(&self) -> Result<Identity, Error> {
        let endpoint = self.etcd.endpoint.clone();
        let wrong = |text: String| Error::new(Class::WrongMember, "Status", &endpoint, text);
        let mut found: Option<(MemberId, u64)> = None;
        // With a user every dial is a login: one connection, and the others' ids through it.
        let dials = if self.material.has_user() { 2 } else { IDENTITY_DIALS };
        for attempt in 0..dials {
            let connection = if attempt == 0 { self.local().await? } else { self.dial(&endpoint).await? };
            let (member, cluster, _) = connection.status(self.etcd.request_timeout).await?;
            match found {
                None => found = Some((member, cluster)),
                Some((first, _)) if first != member => {
                    return Err(wrong(format!(
                        "answers for {first} and for {member}: a load balancer? etcd.endpoint must reach the local member only"
                    )));
                }
                Some(_) => {}
            }
        }
        let (member, cluster) = found.ok_or_else(|| wrong("nobody answered".to_owned()))?;
        let listed = self.refresh_list().await?;
        let name = listed.iter().find(|one| one.id == member).map(|one| one.name.clone()).unwrap_or_default();
        if let Some(expected) = &self.etcd.member_name
            && *expected != name
        {
            return Err(wrong(format!("answers as member {name:?}, etcd.member_name is {expected:?}")));
        }
        let (page, _) = self.pages.metrics(self.local_metrics(), self.etcd.request_timeout).await?;
        if page.server != member {
            return Err(wrong(format!(
                "is {member}, but {} serves the metrics of {}",
                self.local_metrics(),
                page.server
            )));
        }
        *locked(&self.local_id) = Some(member);
        Ok(Identity { cluster, member, name })
    }

    fn local_metrics(&self) -> &str {
        self.etcd.metrics.local.as_deref().unwrap_or(&self.etcd.endpoint)
    }

    /// Asks the local member for the list, or any other when it does not answer.
    pub async fn refresh_list(&self) -> Result<Vec<Listed>, Error> {
        let mut last = None;
        let local = self.local().await;
        for connection in local.into_iter().chain(self.known_peers()) {
            match self.list_through(&connection).await {
                Ok(listed) => {
                    self.set_listed(listed.clone());
                    return Ok(listed);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Class::Unavailable, "MemberList", &self.etcd.endpoint, "no connection")))
    }

    pub(super) async fn list_through(&self, connection: &Connection) -> Result<Vec<Listed>, Error> {
        let answer = connection
            .call("MemberList", READ_DEADLINE, |mut client| async move { client.member_list().await })
            .await?;
        let mut listed: Vec<Listed> = answer
            .members()
            .iter()
            .map(|member| Listed {
                id: MemberId(member.id()),
                name: member.name().to_owned(),
                client_urls: member.client_urls().to_vec(),
                learner: member.is_learner(),
            })
            .collect();
        listed.sort_by_key(|member| member.id);
        Ok(listed)
    }

    fn known_peers(&self) -> Vec<Connection> {
        let local = self.local_id();
        let peers = locked(&self.peers);
        let mut ids: Vec<_> = peers.keys().copied().filter(|id| Some(*id) != local).collect();
        ids.sort_unstable();
        ids.iter().filter_map(|id| peers.get(id).cloned()).collect()
    }

    /// A connection to this member: the local one, a known one, or the first client URL whose Status answers its id.
    pub async fn member(&self, member: &Listed) -> Result<Connection, Error> {
        if self.local_id() == Some(member.id) {
            return self.local().await;
        }
        if let Some(connection) = locked(&self.peers).get(&member.id).cloned() {
            return Ok(connection);
        }
        let urls = if self.etcd.peers.is_empty() { &member.client_urls } else { &self.etcd.peers };
        let mut last = None;
        for url in urls {
            match self.try_url(url, member.id).await {
                Ok(connection) => {
                    locked(&self.peers).insert(member.id, connection.clone());
                    return Ok(connection);
                }
                // Of a list that names all members, others' answers are no error.
                Err(error) if error.class == Class::WrongMember && !self.etcd.peers.is_empty() => {
                    last.get_or_insert(error);
                }
                Err(error) => last = Some(error),
            }
        }
        let none = || Error::new(Class::Unavailable, "Status", &member.name, "the member advertises no client URL");
        Err(last.unwrap_or_else(none))
    }

    async fn try_url(&self, url: &str, expected: MemberId) -> Result<Connection, Error> {
        let connection = self.dial(url).await?;
        let (answered, _, _) = connection.status(READ_DEADLINE).await?;
        if answered != expected {
            let text = format!("answers for {answered}, not for {expected}");
            return Err(Error::new(Class::WrongMember, "Status", url, text));
        }
        Ok(connection)
    }

    /// Forgets a connection whose member answered for somebody else, so that it is looked for again.
    pub(super) fn forget(&self, member: MemberId) {
        if self.local_id() != Some(member) {
            locked(&self.peers).remove(&member);
        }
    }

    /// Where this member serves its metrics: the configured URLs when they are set, else the URL of its connection, else
    /// those that it advertises.
    pub(super) fn metrics_bases(
        &self,
        member: MemberId,
        connection: Option<&Connection>,
        advertised: &[String],
    ) -> Vec<String> {
        if self.local_id() == Some(member) {
            return vec![self.local_metrics().to_owned()];
        }
        if let Some(base) = locked(&self.metrics).get(&member) {
            return vec![base.clone()];
        }
        if self.etcd.metrics.peers.is_empty() {
            return connection.map_or_else(|| advertised.to_vec(), |connection| vec![connection.url().to_owned()]);
        }
        self.etcd.metrics.peers.clone()
    }

    pub(super) fn metrics_found(&self, member: MemberId, base: &str) {
        locked(&self.metrics).insert(member, base.to_owned());
    }

    /// Connections for what must not go through the local member: leases, and everything while it is defragmented.
    /// Other voters first, in an order that moves on with every call; the local one last, or alone with one voter.
    ///
    /// Members that are not connected yet are only dialled when no other is: one that is down would hold up every
    /// renewal for as long as a connection may take.
    pub async fn through_others(&self) -> Vec<Connection> {
        let local = self.local_id();
        let others: Vec<Listed> =
            self.listed().into_iter().filter(|member| !member.learner && Some(member.id) != local).collect();
        let mut connections: Vec<Connection> = {
            let known = locked(&self.peers);
            others.iter().filter_map(|member| known.get(&member.id).cloned()).collect()
        };
        if connections.is_empty() {
            let dialled = others.iter().map(|member| tokio::time::timeout(READ_DEADLINE, self.member(member)));
            connections = join_all(dialled).await.into_iter().flatten().flatten().collect();
        }
        if !connections.is_empty() {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % connections.len();
            connections.rotate_left(by);
        }
        if let Ok(connection) = self.local().await {
            connections.push(connection);
        }
        connections
    }
}
