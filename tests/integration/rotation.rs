//! Certificates that are replaced while the janitor runs, as the kubelet does it: links that are swapped.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::faults::busy;
use super::rounds::PATIENCE;
use crate::support::certs::{Certs, Pair};
use crate::support::mounted::{self, CERT, KEY, replace};
use crate::support::rounds::{all_done, assert_one_at_a_time, knows_all, not_due, says, says_problem};
use crate::support::{Auth, Cluster, Janitor, Recorder, Spec, Tls, Token, due_in, eventually};

fn secured(members: usize) -> Spec {
    Spec {
        members,
        tls: Tls::Mutual,
        auth: Some(Auth {
            root_password: "correct horse".to_owned(),
            token: Token::Simple { ttl: Duration::from_secs(5) },
        }),
        ..Spec::default()
    }
}

/// A janitor whose client certificate is in a mounted Secret.
async fn with_secret(cluster: &Cluster, index: usize, yaml: &str, pair: &Pair) -> (Janitor, PathBuf) {
    let mut janitor = Janitor::prepare(cluster, index, yaml);
    let secret = mounted::secret(janitor.folder(), pair);
    for (key, file) in [("CERT_FILE", CERT), ("KEY_FILE", KEY)] {
        janitor.set_environment(&format!("ETCD_JANITOR__ETCD__TLS__{key}"), &secret.join(file).display().to_string());
    }
    janitor.start_again().await;
    (janitor, secret)
}

fn count(janitor: &Janitor, is: impl Fn(&serde_json::Value) -> bool) -> usize {
    janitor.events().iter().filter(|event| is(event)).count()
}

async fn client_ends(janitor: &Janitor) -> Option<i64> {
    let series = "etcd_janitor_tls_certificate_not_after_timestamp_seconds{usage=\"client\"}";
    janitor.metric(series).await.map(|seconds| seconds as i64)
}

/// The first of January of that year, in seconds since 1970.
fn first_of(year: i32) -> i64 {
    chrono::NaiveDate::from_ymd_opt(year, 1, 1).expect("a day").and_time(chrono::NaiveTime::MIN).and_utc().timestamp()
}

#[tokio::test]
async fn certificates_are_replaced_while_members_are_defragmented_and_turns_are_kept() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(12)), ..secured(3) }).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = format!(
        "compaction: {{ enabled: false }}\nturn: {{ lease_ttl: 10s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, leader_wait: 15s }}\n",
        due_in(10)
    );
    let (mut janitors, mut secrets) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let pair = cluster.certs().issue("janitor", 2099);
        let (janitor, secret) = with_secret(&cluster, index, &yaml, &pair).await;
        janitors.push(janitor);
        secrets.push(secret);
    }
    // In mid-defrag of one, while it and the others keep their places in the queue alive.
    busy(&recorder).await;
    for (secret, year) in secrets.iter().zip(2090..) {
        replace(secret, "..second", &cluster.certs().issue("janitor", year));
    }
    for (janitor, year) in janitors.iter().zip(2090..) {
        eventually("the new certificate is in use", PATIENCE, || async {
            let connected = count(janitor, |event| event["message"] == "connected anew") > 0;
            (connected && client_ends(janitor).await == Some(first_of(year))).then_some(())
        })
        .await;
    }
    all_done(&janitors, PATIENCE).await;
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2]);
    for janitor in &janitors {
        assert_eq!(janitor.metric("etcd_janitor_turn_lost_total").await, Some(0.0), "{}", janitor.log_tail(30));
        assert!(janitor.status().await["problem"].is_null(), "{}", janitor.status().await["problem"]);
    }
}

/// What is wrong with which file is said once for each new content, the open
/// connection goes on, and good files end it at once.
#[tokio::test]
async fn bad_certificates_are_named_and_the_open_connection_goes_on() {
    let mut cluster = Cluster::start(secured(1)).await;
    let good = cluster.certs().issue("janitor", 2099);
    let round = format!("compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}' }}\n", not_due());
    let (janitor, secret) = with_secret(&cluster, 0, &round, &good).await;
    knows_all(&janitor, 1).await;

    let stranger = Certs::create(&cluster.folder().join("stranger"));
    let other = cluster.certs().issue("janitor", 2099);
    let expired = cluster.certs().issue("janitor", 2001);
    let encrypted = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let bad = [
        (Pair { cert: good.cert.clone(), key: other.key }, "client.key is not the key of the certificate"),
        (Pair { cert: good.cert.clone(), key: encrypted }, "client.key is encrypted"),
        (Pair { cert: "none\n".to_owned(), key: good.key.clone() }, "client.crt holds no certificate"),
        (expired, "client.crt expired on 2001-01-01T00:00:00Z"),
        (stranger.issue("janitor", 2099), "does not accept the client certificate"),
    ];
    for (version, (pair, wanted)) in bad.iter().enumerate() {
        let before = count(&janitor, |event| event["reason"] == "tls");
        replace(&secret, &format!("..bad{version}"), pair);
        says(&janitor, wanted, PATIENCE, |status| {
            let problem = &status["problem"];
            problem["reason"] == "tls" && problem["detail"].as_str().is_some_and(|detail| detail.contains(wanted))
        })
        .await;
        // Three polls on the connection that is open, and as many attempts with the new files.
        let polled = janitor.status().await["members"][0]["seen_at"].clone();
        says(&janitor, "it is asked on", PATIENCE, |status| status["members"][0]["seen_at"] != polled).await;
        tokio::time::sleep(Duration::from_secs(12)).await;
        let status = janitor.status().await;
        assert_eq!((&status["etcd_up"], &status["problem"]["reason"]), (&true.into(), &"tls".into()), "{status}");
        let said = count(&janitor, |event| event["reason"] == "tls") - before;
        assert_eq!(said, 1, "{wanted}: {}", janitor.log_tail(20));
    }
    assert_eq!(count(&janitor, |event| event["message"] == "etcd answers again"), 0, "{}", janitor.log_tail(20));

    replace(&secret, "..good", &good);
    says(&janitor, "all is well again", PATIENCE, |status| status["problem"].is_null()).await;
    assert_eq!(count(&janitor, |event| event["message"] == "etcd answers again"), 1, "{}", janitor.log_tail(20));
    assert_eq!(client_ends(&janitor).await, Some(first_of(2099)));
    assert!(!janitor.log_tail(10_000).contains("PRIVATE"), "no key is anybody's business");

    // A start with bad files waits for good ones. Meanwhile nobody kills etcd for them.
    let mut janitor = janitor;
    let bad = [stranger.issue("janitor", 2099), cluster.certs().issue("janitor", 2001)];
    for (version, pair) in bad.iter().enumerate() {
        janitor.stop().await;
        replace(&secret, &format!("..start{version}"), pair);
        janitor.start_again().await;
        says_problem(&janitor, "tls", PATIENCE).await;
        for _ in 0..20 {
            let (status, text) = janitor.get("/etcd/livez?verbose").await.expect("an answer");
            assert!(status == 200 && text.contains("a TLS server answers"), "{version}: {status} {text}");
        }
        replace(&secret, &format!("..again{version}"), &good);
        knows_all(&janitor, 1).await;
        let (status, text) = janitor.get("/etcd/livez?verbose").await.expect("an answer");
        assert!(status == 200 && text.contains("says that it is well"), "{text}");
    }
    cluster.stop(0).await;
    let (status, text) = janitor.get("/etcd/livez?verbose").await.expect("an answer");
    assert_eq!(status, 503, "{text}");
}

/// A certificate that ends while it is in use is said with its file and date, though the connections that were made with
/// it go on; so is that of our own port, and no file changed for either.
#[tokio::test]
async fn certificates_that_end_while_they_are_in_use_are_said() {
    let mut cluster = Cluster::start(secured(1)).await;
    let ends = chrono::Utc::now() + chrono::TimeDelta::seconds(25);
    let told = format!("expired on {}", ends.format("%Y-%m-%dT%H:%M:%SZ"));
    let soon = cluster.certs().issue_until("janitor", ends);
    let mut janitor = Janitor::prepare(
        &cluster,
        0,
        &format!("compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}' }}\n", not_due()),
    );
    let secret = mounted::secret(janitor.folder(), &soon);
    for (key, file) in [("ETCD__TLS__CERT_FILE", CERT), ("ETCD__TLS__KEY_FILE", KEY)] {
        janitor.set_environment(&format!("ETCD_JANITOR__{key}"), &secret.join(file).display().to_string());
    }
    janitor.start_again().await;
    knows_all(&janitor, 1).await;
    let expired = |event: &serde_json::Value| event["problem"].as_str().is_some_and(|problem| problem.contains(&told));
    assert_eq!(count(&janitor, expired), 0, "not yet");
    let event = janitor.event("the end of the certificate is said", Duration::from_secs(60), expired).await;
    assert!(event["problem"].as_str().is_some_and(|problem| problem.contains(CERT)), "{event}");
    // Nobody can connect anew with it, and that is said with the date.
    cluster.restart(0).await;
    says(&janitor, "why there is no connection", PATIENCE, |status| {
        let problem = &status["problem"];
        problem["reason"] == "tls" && problem["detail"].as_str().is_some_and(|detail| detail.contains(&told))
    })
    .await;
}

/// What `check` says of the endpoint: whether it is the member, and why not.
async fn checked(janitor: &Janitor) -> (bool, String) {
    let output = janitor.command(&["check", "-o", "json"]).await;
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = checks.to_string();
    (!text.contains("\"reason\":\"tls\"") && text.contains("the user may defragment"), text)
}

/// Names in URLs, in certificates and in the configuration; dates of either side; authorities that are being replaced.
/// An IPv6 address of a member that listens on IPv4 only, for as long as the test runs; `None` on a machine without IPv6.
async fn relay(member: SocketAddr) -> Option<SocketAddr> {
    let listener = match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return None,
        bound => bound.expect("a port of IPv6"),
    };
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut member = TcpStream::connect(member).await?;
                tokio::io::copy_bidirectional(&mut client, &mut member).await
            });
        }
    });
    Some(address)
}

#[tokio::test]
async fn names_dates_and_authorities_are_judged_on_both_sides() {
    let cluster = Cluster::start(secured(1)).await;
    let yaml = format!("compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}' }}\n", not_due());
    let url = cluster.member(0).client_url.clone();
    let by_name = url.replace("127.0.0.1", "localhost");
    assert_ne!(url, by_name);
    let prepared = |settings: &[(&str, &str)]| {
        let mut janitor = Janitor::prepare(&cluster, 0, &yaml);
        for (name, value) in settings {
            janitor.set_environment(&format!("ETCD_JANITOR__ETCD__{name}"), value);
        }
        janitor
    };
    let well = async |settings: &[(&str, &str)]| {
        let (well, text) = checked(&prepared(settings)).await;
        assert!(well, "{settings:?}: {text}");
    };
    let refused = async |settings: &[(&str, &str)], words: &[&str]| {
        let (well, text) = checked(&prepared(settings)).await;
        let said = words.iter().all(|words| text.contains(words));
        assert!(!well && said, "{settings:?}, {words:?}: {text}");
    };
    let files = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    well(&[("ENDPOINT", &by_name)]).await;
    well(&[("TLS__SERVER_NAME", "localhost")]).await;
    refused(&[("TLS__SERVER_NAME", "elsewhere")], &["etcd's certificate is not for etcd.tls.server_name, elsewhere"])
        .await;

    let stranger = Certs::create(&cluster.folder().join("stranger"));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("a file");
    let (old, new) = (read(&stranger.ca), read(&cluster.certs().ca));
    well(&[("TLS__CA_FILE", &file("both.crt", &format!("{old}{new}")))]).await;
    refused(&[("TLS__CA_FILE", &file("old.crt", &old))], &["does not hold the authority"]).await;

    let later = cluster.certs().issue_with("janitor", |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let (cert, key) = (file("later.crt", &later.cert), file("later.key", &later.key));
    let settings = [("TLS__CERT_FILE", cert.as_str()), ("TLS__KEY_FILE", key.as_str())];
    refused(&settings, &["does not accept the client certificate"]).await;

    // etcd reads its own files with each connection.
    let certs = cluster.certs();
    let (good_cert, good_key) = (read(&certs.server_cert), read(&certs.server_key));
    let show = |pair: &Pair| {
        std::fs::write(&certs.server_cert, &pair.cert).expect("a file");
        std::fs::write(&certs.server_key, &pair.key).expect("a file");
    };
    show(&certs.issue("test server", 2001));
    refused(&[], &["certificate expired", "not valid after 2001-01-01T00:00:00Z"]).await;
    show(&certs.issue_with("test server", |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("etcd-0.example".try_into().expect("a name"))];
    }));
    refused(&[], &["a name that it is for can be set as etcd.tls.server_name"]).await;
    well(&[("TLS__SERVER_NAME", "etcd-0.example")]).await;
    if let Some(relay) = relay(cluster.member(0).client_address()).await {
        let six = format!("https://{relay}");
        show(&certs.issue("test server", 2100));
        refused(&[("ENDPOINT", &six)], &["not valid for name", "IpAddress(127.0.0.1)"]).await;
        show(&certs.issue_with("test server", |params| {
            // The peers' addresses are of the other kind.
            params.subject_alt_names.push(rcgen::SanType::IpAddress(Ipv6Addr::LOCALHOST.into()));
        }));
        well(&[("ENDPOINT", &six)]).await;
    }
    show(&Pair { cert: good_cert, key: good_key });
    well(&[]).await;
}
