//! One classification of everything that can go wrong with a request to etcd.

use std::error::Error as _;
use std::time::Duration;

use crate::plan::reason::{Blocked, Reason};

/// What the caller does differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No connection, or it was lost: the request may or may not have arrived.
    Unavailable,
    /// Our own deadline passed: it may still be carried out.
    DeadlinePassed,
    /// The credentials were refused, or the user lacks a right.
    Auth,
    /// There is no token, or it is not known (any more): a new one helps.
    Token,
    /// The TLS connection cannot be made.
    Tls,
    /// NOSPACE: etcd refuses what needs space.
    Nospace,
    /// The revision was compacted before.
    Compacted,
    /// The revision lies ahead.
    FutureRevision,
    /// The lease does not exist.
    NoLease,
    /// The member is a learner and does not serve this.
    Learner,
    /// The member does not lead.
    NotLeader,
    /// An answer came from another member than the one that was meant.
    WrongMember,
    /// etcd refused for another reason.
    Refused,
    /// Nothing was sent: the request or the credentials cannot be made from the configuration.
    Local,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{method} to {endpoint}: {text}")]
pub struct Error {
    /// What the caller does differently.
    pub class: Class,
    /// The RPC, such as `Status`.
    pub method: &'static str,
    /// The address.
    pub endpoint: String,
    /// etcd's words, or ours; never a secret.
    pub text: String,
}

impl Error {
    /// An error that this program found itself.
    pub fn new(class: Class, method: &'static str, endpoint: &str, text: impl Into<String>) -> Self {
        Error { class, method, endpoint: endpoint.to_owned(), text: text.into() }
    }

    /// Our deadline passed.
    pub fn deadline(method: &'static str, endpoint: &str, after: Duration) -> Self {
        Error::new(Class::DeadlinePassed, method, endpoint, format!("no answer within {:.1} s", after.as_secs_f64()))
    }

    /// Of a watch, which etcd ends with words alone.
    pub fn cancelled(endpoint: &str, words: &str) -> Self {
        let class = match by_status(code::UNKNOWN, words) {
            class @ (Class::Auth | Class::Token) => class,
            _ => Class::Unavailable,
        };
        Error::new(class, "Watch", endpoint, format!("the watch was cancelled: {words}"))
    }

    /// From the client library.
    pub fn from_client(method: &'static str, endpoint: &str, error: &etcd_client::Error) -> Self {
        let (class, text) = classify(error);
        Error::new(class, method, endpoint, text)
    }

    /// Whether etcd surely answered that it did not do it, or nothing was sent. Everything else may have been carried out:
    /// a TLS connection that breaks with an alert may be one that had been made long before.
    pub fn is_refusal(&self) -> bool {
        !matches!(self.class, Class::Unavailable | Class::DeadlinePassed | Class::Tls)
    }

    /// Whether a connection was made and ended before it answered anything: not the case when nobody listens, or none
    /// answers in time. The words are those of the HTTP library and of the operating system, as measured.
    pub fn is_cut_off(&self) -> bool {
        let words = ["connection closed", "connection error", "Connection reset by peer", "Broken pipe"];
        self.class == Class::Unavailable && words.iter().any(|words| self.text.contains(words))
    }

    /// Whether authentication is not enabled there.
    pub fn asks_for_no_user(&self) -> bool {
        self.class == Class::Auth && self.text.contains(NOT_ENABLED)
    }

    /// As a reason for rounds.
    pub fn blocked(&self) -> Blocked {
        if self.class == Class::Learner {
            // Where users are asked for that is everything: a learner takes no password.
            return Blocked::new(Reason::Learner, format!("promote it, or remove it and add it again: {self}"));
        }
        let reason = match self.class {
            Class::Auth | Class::Token => Reason::Auth,
            Class::Tls | Class::Local => Reason::Tls,
            Class::Nospace => Reason::Nospace,
            Class::WrongMember => Reason::WrongMember,
            Class::NotLeader => Reason::LeaderChanged,
            _ => Reason::EtcdUnavailable,
        };
        Blocked::new(reason, self.to_string())
    }

    /// The metric label.
    pub fn code(&self) -> &'static str {
        match self.class {
            Class::Unavailable => "unavailable",
            Class::DeadlinePassed => "deadline",
            Class::Auth | Class::Token => "auth",
            Class::Tls => "tls",
            Class::Nospace => "nospace",
            Class::Compacted => "compacted",
            Class::FutureRevision => "future_revision",
            Class::NoLease => "no_lease",
            Class::Learner => "learner",
            Class::NotLeader => "not_leader",
            Class::WrongMember => "wrong_member",
            Class::Refused => "refused",
            Class::Local => "local",
        }
    }
}

/// What Authenticate answers where everybody may do everything.
const NOT_ENABLED: &str = "authentication is not enabled";

/// Codes of gRPC that are told apart.
mod code {
    pub const CANCELLED: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE_EXCEEDED: i32 = 4;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;
}

fn classify(error: &etcd_client::Error) -> (Class, String) {
    use etcd_client::Error as E;
    match error {
        E::GRpcStatus(status) => {
            let text = flatten(status.message(), status.source());
            (by_status(i32::from(status.code()), &text), text)
        }
        E::TransportError(error) => {
            let text = flatten(&error.to_string(), error.source());
            (if speaks_of_tls(&text) { Class::Tls } else { Class::Unavailable }, text)
        }
        E::LeaseKeepAliveError(text) if text.contains("not found") => (Class::NoLease, text.clone()),
        E::InvalidArgs(text) => (Class::Local, text.clone()),
        E::InvalidUri(error) => (Class::Local, error.to_string()),
        E::InvalidMetadataValue(_) => (Class::Auth, "etcd's token is no header value".to_owned()),
        other => (Class::Unavailable, other.to_string()),
    }
}

/// The same refusal has several codes and texts: Defragment, HashKV, Snapshot and (on 3.4) Alarm answer `UNKNOWN auth: …`
/// where the others answer `etcdserver: …` with a code of their own.
fn by_status(grpc_code: i32, text: &str) -> Class {
    let says = |words: &str| text.contains(words);
    if says("invalid auth token")
        || says("revision of auth store is old")
        || says("revision in header is old")
        || says("user name is empty")
    {
        return Class::Token;
    }
    // Not any "permission denied": a defrag whose file cannot be made says so, too.
    if says("authentication failed") || says("etcdserver: permission denied") || says(NOT_ENABLED) || says("auth: ") {
        return Class::Auth;
    }
    if says("database space exceeded") {
        return Class::Nospace;
    }
    if says("required revision has been compacted") {
        return Class::Compacted;
    }
    if says("required revision is a future revision") {
        return Class::FutureRevision;
    }
    if says("requested lease not found") {
        return Class::NoLease;
    }
    if says("not supported for learner") {
        return Class::Learner;
    }
    if says("etcdserver: not leader") {
        return Class::NotLeader;
    }
    match grpc_code {
        code::DEADLINE_EXCEEDED => Class::DeadlinePassed,
        code::UNAUTHENTICATED => Class::Token,
        code::PERMISSION_DENIED => Class::Auth,
        _ if speaks_of_tls(text) => Class::Tls,
        // An unknown error that is not in etcd's own words may be the transport's: it may have been carried out.
        code::UNKNOWN if !says("etcdserver: ") => Class::Unavailable,
        code::CANCELLED | code::UNAVAILABLE | code::INTERNAL | code::UNKNOWN => Class::Unavailable,
        code::INVALID_ARGUMENT => Class::Refused,
        _ => Class::Refused,
    }
}

/// Whether the words are those of a TLS connection that cannot be made.
pub(super) fn speaks_of_tls(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["certificate", "handshake", "received fatal alert", "tls error", "invalid peer", "corrupt message"]
        .iter()
        .any(|word| text.contains(word))
}

/// The message and what caused it, without saying anything twice.
fn flatten(message: &str, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = message.to_owned();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_losses() {
        let cases = [
            (2, "auth: invalid auth token", Class::Token),
            (16, "etcdserver: invalid auth token", Class::Token),
            (3, "etcdserver: revision of auth store is old", Class::Token),
            (2, "auth: permission denied", Class::Auth),
            (7, "etcdserver: permission denied", Class::Auth),
            (2, "open x/db.tmp.1: permission denied", Class::Unavailable),
            (3, "etcdserver: user name is empty", Class::Token),
            (2, "auth: user name is empty", Class::Token),
            (3, "etcdserver: authentication failed, invalid user ID or password", Class::Auth),
            (8, "etcdserver: mvcc: database space exceeded", Class::Nospace),
            (2, "etcdserver: mvcc: database space exceeded", Class::Nospace),
            (11, "etcdserver: mvcc: required revision has been compacted", Class::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Class::FutureRevision),
            (5, "etcdserver: requested lease not found", Class::NoLease),
            (14, "etcdserver: rpc not supported for learner", Class::Learner),
            (9, "etcdserver: not leader", Class::NotLeader),
            (9, "etcdserver: bad leader transferee", Class::Refused),
            (14, "etcdserver: request timed out", Class::Unavailable),
            (2, "transport error", Class::Unavailable),
            (2, "write x/db.tmp.1: no space left on device", Class::Unavailable),
            (1, "Timeout expired", Class::Unavailable),
            (14, "tcp connect error: Connection refused", Class::Unavailable),
            (14, "tcp connect error: invalid peer certificate: UnknownIssuer", Class::Tls),
            (2, "transport error: connection error: received fatal alert: InternalError", Class::Tls),
        ];
        for (grpc_code, text, class) in cases {
            assert_eq!(by_status(grpc_code, text), class, "{text}");
            let lost = [Class::Unavailable, Class::DeadlinePassed, Class::Tls].contains(&class);
            assert_eq!(Error::new(class, "Defragment", "https://m0", text).is_refusal(), !lost, "{text}");
        }
    }

    /// Its status cannot be had with a password, and etcd's words alone say nothing of what to do.
    #[test]
    fn a_learner_that_answers_nobody_names_its_remedy() {
        let error = Error::new(Class::Learner, "Authenticate", "https://m3", "rpc not supported for learner");
        let blocked = error.blocked();
        assert_eq!(blocked.reason, Reason::Learner);
        assert!(blocked.detail.starts_with("promote it") && blocked.detail.ends_with("for learner"), "{blocked:?}");
    }

    /// What 4,000 attempts with a client certificate that etcd refuses ended with, where they did not end with its reason.
    #[test]
    fn connections_that_are_cut_off_are_told_from_those_that_were_never_made() {
        let cut_off = [
            "operation was canceled: transport error: connection closed",
            "transport error: connection error: connection closed because of a broken pipe",
            "transport error: connection error: stream closed because of a broken pipe",
        ];
        let others = [
            "transport error: tcp connect error: Connection refused (os error 111)",
            "transport error: deadline has elapsed",
            "etcdserver: request timed out",
        ];
        let is = |text: &str| Error::new(Class::Unavailable, "Status", "https://m0", text).is_cut_off();
        assert!(cut_off.iter().all(|text| is(text)));
        assert!(!others.iter().any(|text| is(text)));
    }
}
