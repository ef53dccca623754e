//! Configurations that are not valid, and those that change while it runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::support::mounted::publish;
use crate::support::rounds::{first_round, knows_all, not_due, says};
use crate::support::{Auth, Cluster, Janitor, Proxy, Recorder, Spec, Token, due_in, eventually};

const ENDPOINT: &str = "ETCD_JANITOR__ETCD__ENDPOINT";
const RELOADED: &str = "etcd_janitor_config_last_reload_successful";

/// Files are looked at every five seconds.
const NOTICED: Duration = Duration::from_secs(12);

async fn one() -> Cluster {
    Cluster::start(Spec { members: 1, ..Spec::default() }).await
}

fn valid(more: &str) -> String {
    let due = not_due();
    format!("compaction: {{ schedule: '{due}' }}\ndefrag: {{ schedule: '{due}' }}\n{more}\n")
}

async fn ready(janitor: &Janitor) -> (u16, String) {
    janitor.get("/readyz").await.expect("it serves")
}

/// Waits until the metric has this value; gives the time that it took.
async fn reloaded(janitor: &Janitor, wanted: f64) -> Duration {
    let started = Instant::now();
    eventually(RELOADED, NOTICED, || async { (janitor.metric(RELOADED).await == Some(wanted)).then_some(()) }).await;
    started.elapsed()
}

#[tokio::test]
async fn a_bad_configuration_at_the_start_stops_nothing_but_the_maintenance() {
    let cluster = one().await;
    let proxy = Proxy::start(cluster.member(0).client_address()).await;
    let bad = "defrag: { schedul: '0 0 * * *', window: soon }\nturn: { lease_ttl: 1s }\n";
    let mut janitor = Janitor::prepare(&cluster, 0, bad);
    janitor.set_environment(ENDPOINT, &format!("http://{}", proxy.address()));
    janitor.start_again().await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(8) {
        assert_eq!(janitor.get("/livez").await.map(|(code, _)| code), Some(200));
        let (code, text) = ready(&janitor).await;
        assert_eq!(code, 503, "{text}");
        for key in ["defrag.schedul", "defrag.window", "turn.lease_ttl"] {
            assert!(text.contains(key), "every problem is told: {text}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(janitor.metric(RELOADED).await, Some(0.0));
    assert_eq!(janitor.status().await["problem"]["reason"], "config_invalid");
    janitor.page().await;
    // A typo here is no reason for the kubelet to kill the etcd container.
    assert_eq!(janitor.get("/etcd/livez").await.map(|(code, _)| code), Some(200));
    assert_eq!(janitor.get("/etcd/readyz").await.map(|(code, _)| code), Some(503));
    assert_eq!(proxy.connections(), 0, "etcd was not even connected to");
    // Each problem once, not at every look at the file.
    assert!(janitor.events().len() < 12, "{}", janitor.log_tail(30));

    janitor.write_config(&valid("http: { max_connections: 32 }"));
    reloaded(&janitor, 1.0).await;
    assert_eq!(ready(&janitor).await.0, 200);
    warned(&janitor, "http.max_connections").await;
    knows_all(&janitor, 1).await;
    assert!(proxy.connections() > 0);
    assert!(janitor.status().await["problem"].is_null());
}

/// Something that the file says waits for the next start.
async fn warned(janitor: &Janitor, key: &str) {
    let warns = |event: &serde_json::Value| {
        let text = event["message"].as_str().unwrap_or_default();
        event["level"] == "WARN" && text.contains(key) && text.contains("at the next start")
    };
    janitor.event("what waits for the next start is said", Duration::from_secs(2), warns).await;
}

#[tokio::test]
async fn a_file_that_is_not_there_yet_is_taken_over_when_it_comes() {
    let cluster = one().await;
    let mut janitor = Janitor::prepare(&cluster, 0, "");
    fs::remove_file(janitor.config_path()).expect("the file can be removed");
    janitor.start_again().await;
    let (code, text) = ready(&janitor).await;
    assert!(code == 503 && text.contains("cannot be read"), "{text}");
    janitor.write_config(&valid(""));
    reloaded(&janitor, 1.0).await;
    knows_all(&janitor, 1).await;
}

#[tokio::test]
async fn a_bad_new_file_leaves_the_old_one_in_force_and_sighup_reads_at_once() {
    let cluster = one().await;
    let mut janitor = Janitor::start(&cluster, 0, &valid("dry_run: true")).await;
    knows_all(&janitor, 1).await;
    janitor.write_config(&valid("dry_run: true\nhistory: { limit: 0 }"));
    reloaded(&janitor, 0.0).await;
    let status = janitor.status().await;
    assert_eq!((&status["config"]["valid"], &status["config"]["dry_run"]), (&true.into(), &true.into()), "{status}");
    assert!(status["config"]["problems"].to_string().contains("history.limit"), "{status}");
    assert_eq!(ready(&janitor).await.0, 200, "the old one does its work");
    let page = janitor.page().await;
    assert!(page.contains("was refused") && page.contains("history.limit"), "somebody should look at it: {page}");
    let warned = |event: &serde_json::Value| {
        event["level"] == "WARN" && event["message"].as_str().is_some_and(|text| text.contains("stays in force"))
    };
    janitor.event("the old one stays in force", Duration::from_secs(1), warned).await;
    // Not said again at every look.
    let before = janitor.events().len();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(janitor.events().len(), before, "{}", janitor.log_tail(10));

    janitor.write_config(&valid("dry_run: false"));
    janitor.process().signal("HUP");
    let took = reloaded(&janitor, 1.0).await;
    assert!(took < Duration::from_secs(2), "SIGHUP waits for nothing: {took:?}");
    let status = janitor.status().await;
    assert_eq!(status["config"]["dry_run"], false);
    assert_eq!(status["config"]["problems"].as_array().map(Vec::len), Some(0), "{status}");
}

#[tokio::test]
async fn the_log_level_changes_with_the_file() {
    let cluster = one().await;
    let chatter = |level: &str| {
        let due = not_due();
        format!(
            "compaction: {{ enabled: false, schedule: '* * * * * *' }}\ndefrag: {{ schedule: '{due}' }}\n\
             log: {{ level: {level} }}\n"
        )
    };
    let mut janitor = Janitor::start(&cluster, 0, &chatter("info")).await;
    knows_all(&janitor, 1).await;
    let debug = |janitor: &Janitor| janitor.events().iter().filter(|event| event["level"] == "DEBUG").count();
    assert_eq!(debug(&janitor), 0);
    janitor.write_config(&chatter("debug"));
    janitor.event("a line that only debug shows", NOTICED, |event| event["level"] == "DEBUG").await;
    janitor.write_config(&chatter("error"));
    janitor.process().signal("HUP");
    let mut last = debug(&janitor);
    eventually("debug lines stop", Duration::from_secs(20), || {
        let now = debug(&janitor);
        let same = now == std::mem::replace(&mut last, now);
        async move {
            // Two looks, with two firings of the schedule between them.
            tokio::time::sleep(Duration::from_millis(2200)).await;
            same.then_some(())
        }
    })
    .await;
    let lines = janitor.events().len();
    janitor.write_config(&chatter("error").replace("false", "true"));
    janitor.process().signal("HUP");
    eventually("the file is in force", NOTICED, || async {
        (janitor.status().await["tasks"][0]["enabled"] == true).then_some(())
    })
    .await;
    assert_eq!(janitor.events().len(), lines, "nothing is wrong, so nothing is said\n{}", janitor.log_tail(10));
}

/// What the kubelet does: the file is a link into `..data`, itself a link to
/// the folder of one version, and that link is replaced by a rename.
#[tokio::test]
async fn a_configmaps_swap_of_links_is_noticed() {
    let cluster = one().await;
    let mut janitor = Janitor::prepare(&cluster, 0, "");
    let file = janitor.config_path();
    fs::remove_file(&file).expect("the file can be removed");
    publish(janitor.folder(), "..2026_01", &[("etcd-janitor.yaml", &valid("dry_run: true"))]);
    symlink("..data/etcd-janitor.yaml", &file).expect("a link");
    janitor.start_again().await;
    assert_eq!(janitor.status().await["config"]["dry_run"], true);
    publish(janitor.folder(), "..2026_02", &[("etcd-janitor.yaml", &valid("dry_run: false"))]);
    eventually("the new version is in force", NOTICED, || async {
        (janitor.status().await["config"]["dry_run"] == false).then_some(())
    })
    .await;
    assert_eq!(janitor.metric(RELOADED).await, Some(1.0));
}

#[tokio::test]
async fn another_prefix_is_for_the_next_start() {
    let cluster = one().await;
    let round = |due: &str, prefix: &str| {
        format!(
            "compaction: {{ enabled: false }}\netcd: {{ prefix: {prefix} }}\n\
             defrag: {{ schedule: '{due}', rule: 'dbSize > 0', small_cluster: allow, pause_between: 1s }}\n"
        )
    };
    let mut janitor = Janitor::start(&cluster, 0, &round(&not_due(), "/one/")).await;
    knows_all(&janitor, 1).await;
    janitor.reload(&round(&due_in(4), "/two/")).await;
    warned(&janitor, "etcd.prefix").await;
    assert_eq!(first_round(&janitor, Duration::from_secs(60)).await.0, "done");
    let mut client = cluster.client(0).await;
    let written = async |client: &mut etcd_client::Client, prefix: &str| {
        let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
        client.get(prefix, Some(options)).await.expect("a healthy cluster reads").count()
    };
    assert_eq!((written(&mut client, "/one/").await > 0, written(&mut client, "/two/").await), (true, 0));
}

#[tokio::test]
async fn a_round_is_dropped_when_it_is_switched_off_before_its_send() {
    let cluster = one().await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = |due: &str, more: &str| {
        format!(
            "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{due}', rule: 'dbSize > 0', small_cluster: allow, \
             drain: 20s{more}\n"
        )
    };
    let mut janitor = Janitor::start(&cluster, 0, &yaml(&not_due(), " }")).await;
    for (more, reason) in [(" }\ndry_run: true", "dry_run"), (", enabled: false }", "disabled")] {
        let before = janitor.rounds().len();
        let due = due_in(4);
        janitor.reload(&yaml(&due, " }")).await;
        says(&janitor, "clients are drained", Duration::from_secs(40), |status| status["draining"] == true).await;
        janitor.reload(&yaml(&due, more)).await;
        eventually("the round ends", Duration::from_secs(5), || async {
            (janitor.rounds().len() > before).then_some(())
        })
        .await;
        let (_, outcome, why) = janitor.rounds().remove(before);
        assert_eq!((outcome.as_str(), why.as_deref()), ("skipped", Some(reason)));
        says(&janitor, "nobody is drained any more", Duration::from_secs(5), |status| status["draining"] == false)
            .await;
    }
    assert!(recorder.finish().defrags().is_empty());
}

#[tokio::test]
async fn a_password_that_changed_with_the_file_is_taken_over() {
    let auth = Auth { root_password: "battery".to_owned(), token: Token::Simple { ttl: Duration::from_secs(5) } };
    let cluster = Cluster::start(Spec { members: 1, auth: Some(auth), ..Spec::default() }).await;
    let mut janitor = Janitor::start(&cluster, 0, &valid("")).await;
    knows_all(&janitor, 1).await;
    let mut client = cluster.client(0).await;
    client.user_change_password("root", "staple").await.expect("root may");
    fs::write(janitor.folder().join("password"), "staple").expect("the password file");
    janitor.process().signal("HUP");
    janitor.event("it is used", NOTICED, |event| event["message"] == "connected anew").await;
    let seen = janitor.status().await["members"][0]["seen_at"].clone();
    says(&janitor, "etcd answers", NOTICED, |status| {
        status["problem"].is_null() && status["members"][0]["seen_at"] != seen
    })
    .await;
}
