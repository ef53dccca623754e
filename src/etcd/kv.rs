//! Reading and writing keys, one request at a time and as fast as they go: what the load test sends.
//!
//! The janitor's own requests go through [`Connection::call`], which counts each of them.

use std::future::Future;
use std::time::Duration;

use etcd_client::{DeleteOptions, GetOptions, KvClient, PutOptions};

use super::connection::Connection;
use super::error::{Class, Error};

/// One client of a connection. It sends one request after the other; several share the connection.
pub struct Kv {
    connection: Connection,
    client: KvClient,
    deadline: Duration,
}

impl Kv {
    /// Each of its requests has this deadline.
    pub fn new(connection: &Connection, deadline: Duration) -> Kv {
        Kv { connection: connection.clone(), client: connection.client().kv_client(), deadline }
    }

    /// Writes a value.
    pub async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), Error> {
        let request = self.client.put(key, value, None::<PutOptions>);
        let result = within("Put", &self.connection, self.deadline, request).await;
        self.judged(result).await.map(|_| ())
    }

    /// Reads a key by quorum; whether it is there.
    pub async fn get(&mut self, key: String) -> Result<bool, Error> {
        let request = self.client.get(key, None::<GetOptions>);
        let result = within("Range", &self.connection, self.deadline, request).await;
        self.judged(result).await.map(|answer| answer.count() > 0)
    }

    /// Deletes a key; whether it was there.
    pub async fn delete(&mut self, key: String) -> Result<bool, Error> {
        let request = self.client.delete(key, None::<DeleteOptions>);
        let result = within("DeleteRange", &self.connection, self.deadline, request).await;
        self.judged(result).await.map(|answer| answer.deleted() > 0)
    }

    /// The library renews a token that has run out, not one whose auth revision is old: that one would fail for ever.
    async fn judged<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && error.class == Class::Token
        {
            self.connection.renew_token(self.deadline).await?;
        }
        result
    }
}

async fn within<T>(
    method: &'static str,
    connection: &Connection,
    deadline: Duration,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(deadline, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::from_client(method, connection.url(), &error)),
        Err(_) => Err(Error::deadline(method, connection.url(), deadline)),
    }
}
