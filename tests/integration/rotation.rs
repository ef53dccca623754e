//! Certificates that are replaced while the janitor runs, as the kubelet does it: links that are swapped.

use std::path::PathBuf;
use std::time::Duration;

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
    let cluster = Cluster::start(secured(1)).await;
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

    // A start with bad files waits for good ones.
    let mut janitor = janitor;
    janitor.stop().await;
    replace(&secret, "..stranger", &stranger.issue("janitor", 2099));
    janitor.start_again().await;
    says_problem(&janitor, "tls", PATIENCE).await;
    replace(&secret, "..again", &good);
    knows_all(&janitor, 1).await;
}
