//! What is sent again and what never, seen by a server that answers what real etcd answers once in a long while.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::etcd::{Calls, Listed};

const MEMBER: MemberId = MemberId(7);
const SECOND: Duration = Duration::from_secs(1);

/// What is answered: a message, or a code and words.
type Answer = Result<&'static [u8], (u32, &'static str)>;

/// A server that answers by the method and how often it was asked before, and remembers what it was asked.
struct Fake {
    asked: Arc<Mutex<Vec<String>>>,
    cluster: Cluster,
    _serving: JoinSet<()>,
}

impl Fake {
    async fn start(answer: fn(&str, usize) -> Answer) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let asking = Arc::clone(&asked);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let asked = Arc::clone(&asking);
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                    let before = {
                        let mut asked = asked.lock().unwrap();
                        asked.push(method.clone());
                        asked.iter().filter(|one| **one == method).count() - 1
                    };
                    async move { Ok::<_, std::convert::Infallible>(response(answer(&method, before))) }
                });
                let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(async move {
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret").unwrap();
        let mut etcd = crate::config::Config::default().etcd;
        etcd.endpoint.clone_from(&url);
        (etcd.auth.username, etcd.auth.password_file) = (Some("root".to_owned()), Some(password));
        let cluster = Cluster::new(&etcd, Calls::new().unwrap()).unwrap();
        cluster.set_listed(vec![Listed { id: MEMBER, name: "m0".to_owned(), client_urls: vec![url], learner: false }]);
        Fake { asked, cluster, _serving: serving }
    }

    fn asked(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|one| *one == method).count()
    }

    async fn defragment(&self) -> Sent {
        let clock = Clock::new();
        let permit = Permit { member: MEMBER, look_begun: clock.now(), send_until: None };
        defragment(&self.cluster, &clock, permit, true, SECOND * 5, |_| {}).await
    }
}

fn response(
    answer: Answer,
) -> Response<StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, hyper::Error>>>> {
    let (message, code, words) = match answer {
        Ok(message) => (Some(message), 0, ""),
        Err((code, words)) => (None, code, words),
    };
    let data = message.map(|message| {
        // Not compressed, and the length.
        let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        framed.extend_from_slice(message);
        Ok(Frame::data(Bytes::from(framed)))
    });
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", words.parse().unwrap());
    let body = StreamBody::new(stream::iter(data.into_iter().chain([Ok(Frame::trailers(trailers))])));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// A token, a header with [`MEMBER`]'s id, or nothing.
fn well(method: &str) -> Answer {
    Ok(match method {
        "Authenticate" => b"\x12\x01t",
        "Status" => b"\x0a\x02\x10\x07",
        _ => b"",
    })
}

#[tokio::test]
async fn a_defrag_whose_token_is_refused_is_not_sent_again_by_itself() {
    let fake = Fake::start(|method, before| match (method, before) {
        ("Defragment", 0) => Err((16, "etcdserver: invalid auth token")),
        _ => well(method),
    })
    .await;
    let sent = fake.defragment().await;
    assert!(matches!(sent, Sent::NotSent(_)), "{sent:?}");
    assert_eq!(fake.asked("Defragment"), 1, "another one takes another look and another permit");
    assert_eq!(fake.asked("Authenticate"), 2, "the next one has a token that is known");
    let sent = fake.defragment().await;
    assert!(matches!(sent, Sent::Done { .. }), "{sent:?}");
    assert_eq!(fake.asked("Defragment"), 2);
}

/// What may be sent again is, and one login is enough for all that were refused together.
#[tokio::test]
async fn requests_whose_token_is_refused_are_sent_again_after_one_login() {
    let fake = Fake::start(|method, before| match (method, before) {
        // The first finds out who answers.
        ("Status", 1..=8) => Err((16, "etcdserver: invalid auth token")),
        _ => well(method),
    })
    .await;
    let member = fake.cluster.listed().remove(0);
    let connection = fake.cluster.member(&member).await.unwrap();
    let all = join_all((0..8).map(|_| connection.status(SECOND))).await;
    assert!(all.iter().all(|status| status.as_ref().is_ok_and(|(id, ..)| *id == MEMBER)), "{all:?}");
    assert_eq!((fake.asked("Status"), fake.asked("Authenticate")), (17, 2));
}

/// Only what etcd surely did not do has ended.
#[tokio::test]
async fn a_defrag_that_etcd_has_not_surely_refused_is_unclear() {
    let fake = Fake::start(|method, before| match (method, before) {
        ("Defragment", 0) => Err((2, "open /data/member/snap/db.tmp.1: permission denied")),
        ("Defragment", 1) => Err((2, "transport error: connection error: received fatal alert: InternalError")),
        ("Defragment", 2) => Err((7, "etcdserver: permission denied")),
        ("Defragment", 3) => Err((14, "etcdserver: rpc not supported for learner")),
        _ => well(method),
    })
    .await;
    for _ in 0..2 {
        let sent = fake.defragment().await;
        assert!(matches!(sent, Sent::Unclear(_)), "{sent:?}");
    }
    for lacks_the_right in [true, false] {
        let sent = fake.defragment().await;
        assert!(matches!(sent, Sent::Refused { auth, .. } if auth == lacks_the_right), "{sent:?}");
    }
}
