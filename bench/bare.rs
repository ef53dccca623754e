//! What `etcd-load` is measured beside: the client library in a bare loop, without percentiles, stages, progress, limits.
//!
//! `bare-load URL KEYS CONNECTIONS CLIENTS` prints keys a second.

#![allow(clippy::disallowed_methods, reason = "it is the library that is measured, not what the janitor makes of it")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use etcd_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, keys, connections, clients] = words.as_slice() else {
        return Err("bare-load URL KEYS CONNECTIONS CLIENTS".into());
    };
    let (keys, connections, clients): (u64, usize, usize) = (keys.parse()?, connections.parse()?, clients.parse()?);
    let mut connected = Vec::new();
    for _ in 0..connections {
        connected.push(Client::connect([url], None).await?);
    }
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (mut client, next) = (connected[client % connections].kv_client(), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return Ok(());
                }
                client.put(format!("bare{number}"), "bar", None).await?;
            }
        }));
    }
    for task in tasks {
        task.await?.map_err(|error: etcd_client::Error| error)?;
    }
    println!("{:.1}", keys as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
