//! Who may log in, and when. A login costs etcd a bcrypt, and a wrong password costs it one each time.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use super::error::{Class, Error};

/// After refused credentials the next login waits this long, doubling up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// One for all connections that a process makes, old and new, to whichever member: credentials that one member refused
/// the others refuse, too. Other credentials are another matter, and are tried at once.
#[derive(Clone, Default)]
pub struct Gate {
    hasher: RandomState,
    refused: Arc<Mutex<HashMap<u64, Refused>>>,
}

struct Refused {
    until: Instant,
    wait: Duration,
    error: Error,
}

impl Gate {
    /// Logs in, or answers what the last login was answered while these credentials stay refused.
    pub(super) async fn login<T>(
        &self,
        name: &str,
        password: &SecretString,
        login: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let credentials = self.hasher.hash_one((name, password.expose_secret()));
        let before = self.admit(credentials, Instant::now())?;
        let result = login.await;
        self.ended(credentials, before, result.as_ref().err(), Instant::now());
        result
    }

    /// How long these credentials had to wait before; none: they were not refused, or that is long ago.
    fn admit(&self, credentials: u64, now: Instant) -> Result<Option<Duration>, Error> {
        let mut all = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, refused| now < refused.until + MAX_BACKOFF);
        let Some(refused) = all.get_mut(&credentials) else { return Ok(None) };
        if now < refused.until {
            return Err(refused.error.clone());
        }
        // One tries; the others wait for what it is told. Should it be told nothing, another one tries in a while.
        refused.until = now + FIRST_BACKOFF;
        Ok(Some(refused.wait))
    }

    fn ended(&self, credentials: u64, before: Option<Duration>, error: Option<&Error>, now: Instant) {
        let mut all = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            Some(error) if error.class == Class::Auth && !error.asks_for_no_user() => {
                let wait = before.map_or(FIRST_BACKOFF, |wait| (wait * 2).min(MAX_BACKOFF));
                all.insert(credentials, Refused { until: now + wait, wait, error: error.clone() });
            }
            // That nobody answered tells nothing of the password.
            Some(error) if !error.asks_for_no_user() => {}
            _ => {
                all.remove(&credentials);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Error {
        Error::new(Class::Auth, "Authenticate", "m0", "authentication failed, invalid user ID or password")
    }

    #[test]
    fn refused_credentials_wait_longer_each_time_and_one_tries_for_all() {
        let (gate, begun) = (Gate::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut tried = Vec::new();
        for second in 0..200 {
            // Three connections that all want to log in.
            let admitted: Vec<_> = (0..3).filter_map(|_| gate.admit(7, at(second)).ok()).collect();
            tried.extend(std::iter::repeat_n(second, admitted.len()));
            for before in admitted {
                gate.ended(7, before, Some(&refusal()), at(second));
            }
        }
        assert_eq!(tried, [0, 0, 0, 5, 15, 35, 75, 135, 195]);
        assert_eq!(gate.admit(8, at(200)), Ok(None), "another password is tried at once");
        assert_eq!(gate.admit(7, at(200)), Err(refusal()));
        let before = gate.admit(7, at(255)).expect("it is time");
        gate.ended(7, before, None, at(255));
        assert_eq!(gate.admit(7, at(255)), Ok(None), "it is accepted again");
    }

    #[test]
    fn who_was_told_nothing_leaves_it_to_the_next() {
        let (gate, begun) = (Gate::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        gate.ended(7, Some(Duration::from_secs(20)), Some(&refusal()), at(0));
        let before = gate.admit(7, at(40)).expect("it is time");
        gate.ended(7, before, Some(&Error::deadline("Authenticate", "m0", Duration::from_secs(1))), at(41));
        assert_eq!(gate.admit(7, at(44)), Err(refusal()));
        assert_eq!(gate.admit(7, at(45)), Ok(Some(Duration::from_secs(40))));
        let off = Error::new(Class::Auth, "Authenticate", "m0", "authentication is not enabled");
        gate.ended(7, None, Some(&off), at(46));
        assert_eq!(gate.admit(7, at(46)), Ok(None));
    }
}
