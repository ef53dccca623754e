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
        let put = async |client: &mut KvClient| client.put(key.clone(), value.clone(), None::<PutOptions>).await;
        self.send("Put", put).await.map(|_| ())
    }

    /// Reads a key by quorum; whether it is there.
    pub async fn get(&mut self, key: String) -> Result<bool, Error> {
        let get = async |client: &mut KvClient| client.get(key.clone(), None::<GetOptions>).await;
        self.send("Range", get).await.map(|answer| answer.count() > 0)
    }

    /// Deletes a key; whether it was there.
    pub async fn delete(&mut self, key: String) -> Result<bool, Error> {
        let delete = async |client: &mut KvClient| client.delete(key.clone(), None::<DeleteOptions>).await;
        self.send("DeleteRange", delete).await.map(|answer| answer.deleted() > 0)
    }

    /// Sends a request, and once more with a new token when etcd did not know the old one.
    async fn send<T>(
        &mut self,
        method: &'static str,
        request: impl AsyncFn(&mut KvClient) -> Result<T, etcd_client::Error>,
    ) -> Result<T, Error> {
        let token = self.connection.token();
        match within(method, &self.connection, self.deadline, request(&mut self.client)).await {
            Err(error) if error.class == Class::Token && self.connection.has_user() => {
                self.connection.renew_token(token, self.deadline).await?;
                within(method, &self.connection, self.deadline, request(&mut self.client)).await
            }
            other => other,
        }
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
