//! The main path once on every other release, and once behind TLS and
//! authentication with everything that can be wrong about those.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::rounds::PATIENCE;
use crate::support::certs::Certs;
use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::{compact, garbage};
use crate::support::rounds::{all_done, assert_one_at_a_time, first_round, knows_all, not_due, says_problem};
use crate::support::{Auth, Cluster, Janitor, Recorder, Spec, Tls, Token, due_in, eventually, requests};

fn release(release: &str) -> Spec {
    Spec { release: release.to_owned(), stretch_defrags: Some(Duration::from_secs(1)), ..Spec::default() }
}

fn secured() -> Spec {
    Spec {
        tls: Tls::Mutual,
        auth: Some(Auth {
            root_password: "correct horse".to_owned(),
            token: Token::Simple { ttl: Duration::from_secs(5) },
        }),
        stretch_defrags: Some(Duration::from_secs(1)),
        ..Spec::default()
    }
}

fn round(due: &str, more: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{due}', rule: 'dbSizeFree > 10 * MiB', \
         pause_between: 1s, verify: hash{more} }}\n"
    )
}

/// All of three members, one at a time, none while it led, the data equal.
async fn a_full_round(spec: Spec, more: &str) -> (Cluster, Vec<Janitor>) {
    let cluster = Cluster::start(spec).await;
    let revision = garbage(&cluster, 100).await;
    compact(&cluster, revision).await;
    let client = cluster.client(0).await;
    for member in cluster.members() {
        eventually("the garbage is free pages", Duration::from_secs(60), || {
            let mut client = client.clone();
            async move {
                // A member counts anew when it commits, up to two commits after the pages were freed.
                client.put("settle", "", None).await.expect("a put");
                member.metrics().await.filter(|metrics| metrics.db_in_use < metrics.db_size / 4).map(|_| ())
            }
        })
        .await;
    }
    let recorder = Recorder::start(&cluster).await;
    let yaml = round(&due_in(6), more);
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    all_done(&janitors, PATIENCE).await;
    let history = recorder.finish();
    assert_one_at_a_time(&history, &[0, 1, 2]);
    for member in cluster.members() {
        let track = history.track(member_index(&cluster, &member.name));
        let (before, after) = (track.first().expect("a reading").db_size, track.last().expect("a reading").db_size);
        assert!(after < before / 2, "{}: {before} bytes before, {after} after\n{history}", member.name);
    }
    hash_kv_equal(&cluster).await.expect("equal data");
    (cluster, janitors)
}

fn member_index(cluster: &Cluster, name: &str) -> usize {
    cluster.members().iter().position(|member| member.name == name).expect("a member")
}

#[tokio::test]
async fn a_full_round_on_3_4_23() {
    a_full_round(release("3.4.23"), "").await;
}

#[tokio::test]
async fn a_full_round_on_3_5_16() {
    a_full_round(release("3.5.16"), "").await;
}

#[tokio::test]
async fn a_full_round_on_3_5_1_where_unsafe_releases_are_allowed() {
    a_full_round(release("3.5.1"), ", unsafe_versions: allow").await;
}

/// 3.5.1 ends when a read-only transaction is given up that waits for a defrag
/// (etcd-io/etcd#14178). The others look every two seconds meanwhile.
#[tokio::test]
async fn no_look_that_is_given_up_ends_a_member_in_a_long_defrag() {
    let spec = Spec { stretch_defrags: Some(Duration::from_secs(4)), ..release("3.5.1") };
    let (cluster, janitors) = a_full_round(spec, ", unsafe_versions: allow").await;
    drop(janitors);
    for member in cluster.members() {
        let log = fs::read_to_string(&member.log).expect("a log");
        assert!(!log.contains("panic"), "{}: {}", member.name, member.log_tail(40));
    }
}

#[tokio::test]
async fn a_release_with_the_revision_drift_is_left_alone_unless_allowed() {
    let cluster = Cluster::start(release("3.5.1")).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = round(&due_in(4), ", window: 18s").replace("dbSizeFree > 10 * MiB", "dbSize > 0");
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    for janitor in &janitors {
        let ended = first_round(janitor, Duration::from_secs(40)).await;
        assert_eq!(ended, ("skipped".to_owned(), Some("unsafe_version".to_owned())), "{}", janitor.log_tail(10));
    }
    assert_one_at_a_time(&recorder.finish(), &[]);
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_full_round_behind_mutual_tls_with_tokens_that_expire() {
    let (_cluster, janitors) = a_full_round(secured(), "").await;
    for janitor in &janitors {
        assert!(janitor.status().await["problem"].is_null());
        let said = format!("{}{}{}", janitor.log_tail(1000), janitor.status().await, janitor.metrics().await);
        assert!(!said.contains("correct horse"), "the password is nobody's business");
        for usage in ["ca", "client"] {
            let series = format!("etcd_janitor_tls_certificate_not_after_timestamp_seconds{{usage=\"{usage}\"}}");
            let ends = janitor.metric(&series).await;
            assert!(ends.is_some_and(|ends| ends > chrono::Utc::now().timestamp() as f64), "{usage}: {ends:?}");
        }
    }
}

/// As most charts begin: the members show certificates and ask for a password, and nobody else has a certificate.
#[tokio::test]
async fn a_full_round_where_only_the_members_show_certificates() {
    let token = Token::Jwt { ttl: Duration::from_secs(5) };
    let auth = Auth { root_password: "correct horse".to_owned(), token };
    let (_cluster, janitors) = a_full_round(Spec { tls: Tls::Server, auth: Some(auth), ..secured() }, "").await;
    for janitor in &janitors {
        let usages = janitor.status().await["certificates"].as_array().map_or(0, Vec::len);
        assert_eq!(usages, 1, "the authority's and no other: {}", janitor.status().await["certificates"]);
    }
}

/// A janitor beside one secured member whose password or authority can be
/// replaced while it runs.
async fn one_secured() -> Cluster {
    Cluster::start(Spec { members: 1, stretch_defrags: None, ..secured() }).await
}

#[tokio::test]
async fn a_wrong_password_is_said_not_hammered_and_recovered_from() {
    let cluster = one_secured().await;
    let mut janitor = Janitor::prepare(&cluster, 0, &round(&not_due(), ""));
    let password = janitor.folder().join("password");
    let right = fs::read_to_string(&password).expect("the password file");
    fs::write(&password, "battery staple\n").expect("the password file");
    let logins = || async {
        let received = requests::received(cluster.member(0)).await;
        received.get("Authenticate").copied().unwrap_or_default()
    };
    let (before, started) = (logins().await, Instant::now());
    janitor.start_again().await;
    says_problem(&janitor, "auth", Duration::from_secs(15)).await;
    assert_eq!(janitor.get("/livez").await.map(|(code, _)| code), Some(200));
    assert_eq!(janitor.get("/readyz").await.map(|(code, _)| code), Some(200));
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(started.elapsed())).await;
    let tried = logins().await - before;
    assert!((2..=10).contains(&tried), "{tried} logins in the first minute, each a bcrypt of etcd's");
    let said = janitor.events().into_iter().filter(|event| event["reason"] == "auth");
    assert_eq!(said.count(), 1, "{}", janitor.log_tail(20));
    assert!(!janitor.log_tail(1000).contains("battery"), "not even a wrong one is anybody's business");
    // As an editor leaves it, with a newline at the end.
    fs::write(&password, format!("{right}\n")).expect("the password file");
    knows_all(&janitor, 1).await;
    assert!(janitor.status().await["problem"].is_null());
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn a_password_that_changes_in_etcd_is_noticed_and_not_hammered() {
    let cluster = one_secured().await;
    let janitor = Janitor::start(&cluster, 0, &round(&not_due(), "")).await;
    knows_all(&janitor, 1).await;
    let mut client = cluster.client(0).await;
    client.user_change_password("root", "battery staple").await.expect("root may");
    says_problem(&janitor, "auth", Duration::from_secs(40)).await;
    let logins = || async { requests::received(cluster.member(0)).await["Authenticate"] };
    let before = logins().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let tried = logins().await - before;
    assert!(tried <= 15, "{tried} logins a minute, each a bcrypt of etcd's");
    fs::write(janitor.folder().join("password"), "battery staple").expect("the password file");
    crate::support::rounds::says(&janitor, "it works again", Duration::from_secs(30), |status| {
        status["problem"].is_null() && status["etcd_up"] == true
    })
    .await;
}

#[tokio::test]
async fn a_wrong_authority_is_said_and_recovered_from() {
    let mut cluster = one_secured().await;
    let stranger = Certs::create(&cluster.folder().join("stranger"));
    let mut janitor = Janitor::prepare(&cluster, 0, &round(&not_due(), ""));
    let trusted = janitor.folder().join("ca.crt");
    copy(&stranger.ca, &trusted);
    janitor.set_environment("ETCD_JANITOR__ETCD__TLS__CA_FILE", &trusted.display().to_string());
    janitor.start_again().await;
    says_problem(&janitor, "tls", Duration::from_secs(15)).await;
    assert_eq!(janitor.get("/readyz").await.map(|(code, _)| code), Some(200));
    let alive = async || janitor.get("/etcd/livez").await.map(|(code, _)| code);
    assert_eq!(alive().await, Some(200), "our certificates are nothing to kill etcd for");
    cluster.stop(0).await;
    assert_eq!(alive().await, Some(503), "nobody there is something else");
    cluster.start_again(0).await;
    // Nothing of a file that is no certificate may end it either.
    fs::write(&trusted, "no certificate at all\n").expect("a file");
    tokio::time::sleep(Duration::from_secs(7)).await;
    says_problem(&janitor, "tls", Duration::from_secs(15)).await;
    copy(&cluster.certs().ca, &trusted);
    knows_all(&janitor, 1).await;
    assert!(janitor.status().await["problem"].is_null());
    assert!(janitor.events().iter().filter(|event| event["reason"] == "tls").count() <= 3, "{}", janitor.log_tail(20));
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("a file can be copied");
}
