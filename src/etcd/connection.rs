//! One connection to one address.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions};
use secrecy::{ExposeSecret, SecretString};

use super::calls::Calls;
use super::error::{Class, Error};
use super::gate::Gate;
use super::material::Material;
use crate::plan::cluster::{QuotaBytes, Status, parse_alarm};
use crate::plan::member::MemberId;

/// TCP connect, TLS and the first answer of HTTP/2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A frozen peer must not hold a request for ever: HTTP/2 pings find it out. Long enough for a member whose process is
/// starved by its own defrag, since a defrag blocks no pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// A client that is pinned to one address, so that an answer can be held against the member that was meant.
///
/// The library's own balancing over several addresses picks at random and never drops a dead one.
#[derive(Clone)]
pub struct Connection {
    url: String,
    client: Client,
    calls: Calls,
    user: Option<(String, SecretString)>,
    logins: Arc<Logins>,
    gate: Gate,
}

/// Requests that run side by side are refused together when their token runs out: one of them logs in for all.
#[derive(Default)]
struct Logins {
    one_at_a_time: tokio::sync::Mutex<()>,
    done: AtomicU64,
}

/// Which of a connection's tokens a request was sent with.
#[derive(Clone, Copy)]
pub(super) struct Token(u64);

impl Connection {
    /// Connects (with a user: logs in, which costs etcd a bcrypt). Where authentication is not enabled, a user may be
    /// configured all the same: it is logged in when etcd asks for one.
    pub async fn dial(url: &str, material: &Material, calls: Calls, deadline: Duration) -> Result<Connection, Error> {
        let (user, gate) = (material.user(), material.gate.clone());
        let options = material
            .options(url)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(true);
        let client = match &user {
            None => connect(url, options, deadline).await,
            Some((name, password)) => {
                let with_user = options.clone().with_user(name, password.expose_secret());
                let login = async {
                    let begun = Instant::now();
                    let logged_in = connect(url, with_user, deadline).await;
                    let code = logged_in.as_ref().map_or_else(Error::code, |_| "ok");
                    calls.ended("Authenticate", code, begun.elapsed());
                    logged_in
                };
                match gate.login(name, password, login).await {
                    Err(error) if error.asks_for_no_user() => connect(url, options, deadline).await,
                    other => other,
                }
            }
        };
        Ok(Connection { url: url.to_owned(), client: client?, calls, user, logins: Arc::default(), gate })
    }

    /// The address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The library's own, for what is sent so often that counting it would cost more than a little.
    #[cfg(feature = "load")]
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Sends one request under a deadline. A token that etcd does not know (any more) is renewed once.
    pub async fn call<T, F, Fut>(&self, method: &'static str, deadline: Duration, request: F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let token = self.token();
        let result = self.call_once(method, deadline, &request).await;
        match result {
            Err(error) if error.class == Class::Token && self.has_user() => {
                self.renew_token(token, deadline).await?;
                self.call_once(method, deadline, &request).await
            }
            other => other,
        }
    }

    /// Sends one request under a deadline, once.
    pub async fn call_once<T, F, Fut>(&self, method: &'static str, deadline: Duration, request: &F) -> Result<T, Error>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let begun = Instant::now();
        let result = match tokio::time::timeout(deadline, request(self.client.clone())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::from_client(method, &self.url, &error)),
            Err(_) => Err(Error::deadline(method, &self.url, deadline)),
        };
        let code = result.as_ref().map_or_else(Error::code, |_| "ok");
        self.calls.ended(method, code, begun.elapsed());
        result
    }

    /// Whether requests carry a token when etcd asks for one.
    pub fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// The token that requests are sent with now.
    pub(super) fn token(&self) -> Token {
        Token(self.logins.done.load(Ordering::Relaxed))
    }

    /// A new token in the place of `refused`, where there is a user and no other request has got one meanwhile: also the
    /// first one, when authentication was not enabled before.
    pub(super) async fn renew_token(&self, refused: Token, deadline: Duration) -> Result<(), Error> {
        let Some((name, password)) = &self.user else { return Ok(()) };
        let Ok(_alone) = tokio::time::timeout(deadline, self.logins.one_at_a_time.lock()).await else {
            return Err(Error::deadline("Authenticate", &self.url, deadline));
        };
        if self.token().0 != refused.0 {
            return Ok(());
        }
        let login = |mut client: Client| async move {
            client.update_user(Some((name.clone(), password.expose_secret().to_owned()))).await
        };
        self.gate.login(name, password, self.call_once("Authenticate", deadline, &login)).await?;
        self.logins.done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Status, and the member that answered.
    pub async fn status(&self, deadline: Duration) -> Result<(MemberId, u64, Status), Error> {
        let answer = self.call("Status", deadline, |mut client| async move { client.status().await }).await?;
        let header = answer
            .header()
            .ok_or_else(|| Error::new(Class::Refused, "Status", &self.url, "the answer has no header"))?;
        let status = Status {
            version: answer.version().to_owned(),
            db_size: size(answer.db_size()),
            db_size_in_use: size(answer.raft_used_db_size()),
            quota: match answer.db_size_quota() {
                0 => None,
                negative if negative < 0 => Some(QuotaBytes::Disabled),
                bytes => Some(QuotaBytes::Bytes(size(bytes))),
            },
            leader: (answer.leader() != 0).then(|| MemberId(answer.leader())),
            term: answer.raft_term(),
            index: answer.raft_index(),
            applied: answer.raft_applied_index(),
            revision: header.revision(),
            alarms: answer.errors().iter().filter_map(|text| parse_alarm(text)).collect(),
            learner: answer.is_learner(),
        };
        Ok((MemberId(header.member_id()), header.cluster_id(), status))
    }
}

async fn connect(url: &str, options: ConnectOptions, deadline: Duration) -> Result<Client, Error> {
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let connected = tokio::time::timeout(deadline, Client::connect([url], Some(options))).await;
    match connected {
        Ok(connected) => connected.map_err(|error| Error::from_client("Authenticate", url, &error)),
        Err(_) => Err(Error::deadline("Authenticate", url, deadline)),
    }
}

fn size(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
