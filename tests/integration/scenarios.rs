//! At three in the morning: someone who has never seen it finds the cause with `status`, `check`, `explain` and the page
//! alone. Each test makes the trouble on a real cluster and looks at what is shown, for the cause and for what to do.
//! NOSPACE with too much live data is in `rescue`.

use std::fs;
use std::time::Duration;

use super::rounds::{PATIENCE, rounds_yaml, wasteful};
use crate::support::rounds::{all_done, first_round, knows_all, not_due, says, says_problem, waits_for};
use crate::support::{Auth, Cluster, Janitor, Mode, Spec, Tls, Token, due_in, eventually};

/// Everything that a command says, without the line breaks that a narrow screen made.
async fn said(janitor: &Janitor, words: &[&str]) -> String {
    let output = janitor.command(words).await;
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Each of the texts is somewhere in what was said.
#[track_caller]
fn has(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "{text:?} is not in\n{said}");
    }
}

fn idle() -> String {
    format!("compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}', small_cluster: allow }}\n", not_due())
}

async fn one() -> Cluster {
    Cluster::start(Spec { members: 1, ..Spec::default() }).await
}

fn with_password() -> Spec {
    let auth =
        Auth { root_password: "correct horse".to_owned(), token: Token::Simple { ttl: Duration::from_secs(300) } };
    Spec { members: 1, auth: Some(auth), ..Spec::default() }
}

#[tokio::test]
async fn a_wrong_password() {
    let cluster = Cluster::start(with_password()).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &idle());
    fs::write(janitor.folder().join("password"), "battery staple").expect("the password file");
    janitor.start_again().await;
    says_problem(&janitor, "auth", PATIENCE).await;
    let cause = "authentication failed, invalid user ID or password";
    has(&janitor.page().await, &["etcd refuses the credentials", cause]);
    has(&said(&janitor, &["status"]).await, &["BAD", "etcd refuses the credentials", cause, "the password file"]);
    has(&said(&janitor, &["check"]).await, &[cause]);
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached() {
    let cluster = Cluster::start(Spec { client_proxies: true, ..Spec::default() }).await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 3).await;
    cluster.proxy(2).set(Mode::Refuse).await;
    // On the page alone: nobody asked for a look before.
    let page = eventually("the page shows it", PATIENCE, || async {
        let page = janitor.page().await;
        page.contains("m2 is not well").then_some(page)
    })
    .await;
    has(&page, &["m2 is not well", "What to do", "Bring the member back"]);
    has(&said(&janitor, &["status"]).await, &["ATTENTION", "m2 is not well", "! m2:"]);
    has(&said(&janitor, &["explain"]).await, &["IN THE WAY", "member_down: m2"]);
    has(&said(&janitor, &["check"]).await, &["m2", &cluster.member(2).advertised_url()]);
}

/// Somebody defragments the local member by hand, with no intent: it answers nothing, and is not down.
#[tokio::test]
async fn a_defrag_by_another_tool() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(20)), ..Spec::default() }).await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 3).await;
    let seen = eventually("it is seen", Duration::from_secs(19), || async {
        let status = said(&janitor, &["status"]).await;
        status.contains("WORKING m0 is being defragmented.").then_some(status)
    });
    let (_, seen) = tokio::join!(cluster.etcdctl_at(0, &["--command-timeout=60s", "defrag"]), seen);
    has(&seen, &["defrag under way"]);
    assert!(!seen.contains("! m0"), "{seen}");
}

#[tokio::test]
async fn a_certificate_that_has_expired() {
    let cluster = Cluster::start(Spec { members: 1, tls: Tls::Mutual, ..Spec::default() }).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &idle());
    let expired = cluster.certs().issue("janitor", 2001);
    for (name, pem) in [("CERT_FILE", expired.cert), ("KEY_FILE", expired.key)] {
        let file = janitor.folder().join(name);
        fs::write(&file, pem).expect("a file");
        janitor.set_environment(&format!("ETCD_JANITOR__ETCD__TLS__{name}"), &file.display().to_string());
    }
    janitor.start_again().await;
    says_problem(&janitor, "tls", PATIENCE).await;
    let cause = "expired on 2001-01-01";
    has(
        &said(&janitor, &["status"]).await,
        &["BAD", "TLS connection", cause, "etcd.tls.cert_file", "certificate has expired"],
    );
    has(
        &said(&janitor, &["check"]).await,
        &["the client certificate is valid: it ended at 2001-01-01", "does not accept the client certificate"],
    );
    has(&janitor.page().await, &[cause]);
    // etcd reads its files at each handshake.
    let expired = cluster.certs().issue("server", 2002);
    fs::write(&cluster.certs().server_cert, expired.cert).expect("a file");
    fs::write(&cluster.certs().server_key, expired.key).expect("a file");
    let shown = "the certificate that the local member shows is valid: it ended at 2002-01-01";
    has(&said(&janitor, &["check"]).await, &[shown, "the client certificate is valid: it ended at 2001-01-01"]);
}

#[tokio::test]
async fn a_hold_that_was_left_on() {
    let cluster = one().await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 1).await;
    said(&janitor, &["hold", "--for", "2h", "--reason", "disk swap", "--by", "night shift"]).await;
    says(&janitor, "the hold is seen", PATIENCE, |status| status["hold"].is_object()).await;
    let cause = ["Held by night shift", "disk swap"];
    has(&said(&janitor, &["status"]).await, &["ATTENTION", cause[0], cause[1], "etcd-janitor release"]);
    has(&said(&janitor, &["explain", "defrag"]).await, &["night shift", "disk swap", "etcd-janitor release"]);
    has(&janitor.page().await, &cause);
}

#[tokio::test]
async fn a_rule_that_is_never_true() {
    let cluster = one().await;
    let yaml = format!(
        "compaction: {{ enabled: false }}\n\
         defrag: {{ schedule: '{}', small_cluster: allow, rule: 'dbSizeFree > 10 * GiB' }}\n",
        due_in(8)
    );
    let janitor = Janitor::start(&cluster, 0, &yaml).await;
    assert_eq!(first_round(&janitor, PATIENCE).await.1.as_deref(), Some("not_needed"));
    has(&said(&janitor, &["explain", "defrag"]).await, &["dbSizeFree > 10 * GiB", "> 10GiB", "is false"]);
    has(&janitor.page().await, &["dbSizeFree", "10 * GiB"]);
}

/// The janitor of one member was forgotten: the others did their part, and that one grows.
#[tokio::test]
async fn a_janitor_that_is_missing_on_one_member() {
    let cluster = Cluster::start(Spec::default()).await;
    let yaml = format!(
        "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, \
         leader_wait: 15s }}\n",
        due_in(10)
    );
    let mut janitors = Vec::new();
    for index in 0..2 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    all_done(&janitors, PATIENCE).await;
    let cause = "m2: the rule would defragment it";
    eventually("it is told", PATIENCE, || async {
        said(&janitors[0], &["status"]).await.contains(cause).then_some(())
    })
    .await;
    has(&said(&janitors[0], &["status"]).await, &["is a janitor running beside it"]);
    has(&janitors[0].page().await, &[cause]);
}

#[tokio::test]
async fn a_schedule_in_the_wrong_zone() {
    let cluster = one().await;
    let yaml = "compaction: { enabled: false }\n\
                defrag: { schedule: '0 3 * * *', time_zone: Asia/Kathmandu, small_cluster: allow }\n";
    let janitor = Janitor::start(&cluster, 0, yaml).await;
    knows_all(&janitor, 1).await;
    // Three in the night there is a quarter past nine in the evening before in UTC.
    let cause = ["T21:15:00Z", "03:00:00 +0545", "\"0 3 * * *\" in Asia/Kathmandu"];
    has(&said(&janitor, &["explain", "defrag"]).await, &cause);
    has(&said(&janitor, &["config", "check"]).await, &["21:15", "03:00"]);
    has(&said(&janitor, &["status"]).await, &["0 3 * * * Asia/Kathmandu"]);
    has(&janitor.page().await, &["Asia/Kathmandu", "21:15"]);
}

/// The address of a load balancer, or of a neighbour: the members' own metrics tell.
#[tokio::test]
async fn an_endpoint_that_is_another_member() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &format!("{}etcd: {{ member_name: m0 }}\n", idle()));
    janitor.set_environment("ETCD_JANITOR__ETCD__ENDPOINT", &cluster.member(1).advertised_url());
    janitor.start_again().await;
    says_problem(&janitor, "wrong_member", PATIENCE).await;
    let cause = ["answers as member \"m1\"", "etcd.member_name is \"m0\""];
    has(&said(&janitor, &["status"]).await, &["BAD", cause[0], cause[1]]);
    has(&said(&janitor, &["check"]).await, &cause);
    has(&janitor.page().await, &["answers as member"]);
}

#[tokio::test]
async fn a_configuration_with_a_mistake() {
    let cluster = one().await;
    let janitor = Janitor::start(&cluster, 0, "defrag: { windw: 2h }\n").await;
    let cause = ["defrag.windw", "window"];
    has(&said(&janitor, &["status"]).await, &["BAD", cause[0], cause[1]]);
    has(&said(&janitor, &["config", "check"]).await, &cause);
    has(&janitor.page().await, &["The configuration is not valid", "defrag.windw"]);
}

/// Somebody gives leadership back each time that it is moved away for the leader's turn.
#[tokio::test]
async fn a_leadership_that_comes_back() {
    let cluster = wasteful(Spec::calm()).await;
    let leader = cluster.leader().await;
    let id = format!("{:x}", cluster.member(leader).id);
    let yaml = rounds_yaml(&due_in(6), "leader_wait: 1s, window: 1h");
    let janitor = Janitor::start(&cluster, leader, &yaml).await;
    // Brought back before or after the janitor's look, it is the same to whoever reads; and between two tries it is not
    // under way.
    let status = eventually("it says why it waits", PATIENCE, || async {
        let now = cluster.leader().await;
        if now != leader {
            cluster.etcdctl_at(now, &["move-leader", &id]).await;
        }
        let status = said(&janitor, &["status"]).await;
        let waits = waits_for(&janitor.status().await) == Some("leader_not_moved");
        (waits && status.starts_with("ATTENTION")).then_some(status)
    })
    .await;
    has(&status, &["leader_not_moved: leadership ", "Look at the other voters", "etcdctl move-leader"]);
    has(&said(&janitor, &["explain", "defrag"]).await, &["leader_not_moved", "moves leadership to"]);
    has(&janitor.page().await, &["leader_not_moved", "leadership "]);
    assert_eq!(cluster.member(leader).metrics().await.expect("an answer").defrag_count, 0, "never as the leader");
}
