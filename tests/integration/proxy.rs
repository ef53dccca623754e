//! The proxy's faults, each as a client sees it.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::support::{Direction, Mode, Proxy};

/// Long enough for loopback, and for a test of silence.
const SILENCE: Duration = Duration::from_millis(150);

/// A proxy before a server that sends everything back.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Proxy::start(address).await
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("it listens")
}

/// Sends one byte and waits for it to come back.
async fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.read_exact(&mut [0]).await.map(|_| ())
}

async fn silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, ping(stream)).await.is_err()
}

async fn reset(stream: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(5), stream.read(&mut [0])).await;
    let read = read.expect("a reset arrives at once");
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn it_passes_and_counts() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    ping(&mut stream).await.expect("an echo");
    ping(&mut stream).await.expect("an echo");
    assert_eq!(proxy.connections(), 1);
    assert_eq!(proxy.bytes_to_server(), 2);
    assert_eq!(proxy.bytes_to_client(), 2);
}

#[tokio::test]
async fn it_delays_both_ways() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Mode::Delay(Duration::from_millis(60))).await;
    let sent = Instant::now();
    ping(&mut stream).await.expect("an echo");
    assert!(sent.elapsed() >= Duration::from_millis(120), "{:?}", sent.elapsed());
}

#[tokio::test]
async fn a_stall_heals_and_nothing_is_lost() {
    for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        proxy.set(Mode::Stall(direction)).await;
        let mut late = connect(&proxy).await;
        assert!(silent(&mut stream).await, "{direction:?}");
        assert!(silent(&mut late).await, "{direction:?}");
        proxy.set(Mode::Pass).await;
        stream.read_exact(&mut [0]).await.expect("the stalled echo");
        late.read_exact(&mut [0]).await.expect("the stalled echo");
        ping(&mut stream).await.expect("an echo");
    }
}

#[tokio::test]
async fn a_one_way_stall_lets_the_other_way_pass() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Mode::Stall(Direction::ToClient)).await;
    assert!(silent(&mut stream).await);
    assert_eq!(proxy.bytes_to_server(), 1);
    assert_eq!(proxy.bytes_to_client(), 0);
}

#[tokio::test]
async fn a_black_hole_forgets_its_connections() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Mode::Blackhole(Direction::Both)).await;
    let mut late = connect(&proxy).await;
    assert!(silent(&mut stream).await);
    assert!(silent(&mut late).await);
    proxy.set(Mode::Pass).await;
    assert!(reset(&mut stream).await);
    assert!(reset(&mut late).await);
    ping(&mut connect(&proxy).await).await.expect("an echo");
}

#[tokio::test]
async fn it_resets_old_and_new_connections() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    ping(&mut stream).await.expect("an echo");
    proxy.set(Mode::Reset).await;
    assert!(reset(&mut stream).await);
    assert!(reset(&mut connect(&proxy).await).await);
    proxy.set(Mode::Pass).await;
    ping(&mut connect(&proxy).await).await.expect("an echo");
}

#[tokio::test]
async fn it_refuses_and_listens_again_on_the_same_port() {
    let proxy = echo().await;
    let mut stream = connect(&proxy).await;
    ping(&mut stream).await.expect("an echo");
    proxy.set(Mode::Refuse).await;
    assert!(reset(&mut stream).await);
    let refused = TcpStream::connect(proxy.address()).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.set(Mode::Pass).await;
    ping(&mut connect(&proxy).await).await.expect("an echo");
}
