//! An endpoint that is not the local member's: nothing is sent to anybody.

use std::time::Duration;

use crate::support::rounds::{assert_one_at_a_time, first_round, knows_all, not_due, says, says_problem, waits_for};
use crate::support::{Cluster, Direction, Janitor, Mode, Proxy, Recorder, Spec, due_in, eventually, requests};

const ENDPOINT: &str = "ETCD_JANITOR__ETCD__ENDPOINT";

fn round(due: &str, more: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\ndefrag: {{ schedule: '{due}', rule: 'dbSize > 0', pause_between: 1s{more} }}\n"
    )
}

/// Whatever is due, the janitor says `wrong_member` and asks without changing
/// anything.
async fn is_refused(cluster: &Cluster, janitor: &mut Janitor) {
    let recorder = Recorder::start_every(cluster, Duration::from_millis(100)).await;
    let mut before = Vec::new();
    for member in cluster.members() {
        before.push(requests::received(member).await);
    }
    janitor.start_again().await;
    says_problem(janitor, "wrong_member", Duration::from_secs(20)).await;
    assert_eq!(janitor.get("/readyz").await.map(|(code, _)| code), Some(200));
    janitor.write_config(&round(&due_in(9), ""));
    janitor
        .event("the round is due and refused", Duration::from_secs(30), |event| {
            event["task"] == "defrag" && event["reason"] == "wrong_member" && event.get("round").is_some()
        })
        .await;
    // It tries again all the time; ten more connections find out the same.
    let tries = || async { janitor.metric("etcd_janitor_etcd_requests_total{code=\"ok\",method=\"Status\"}").await };
    let so_far = tries().await.unwrap_or_default();
    eventually("it goes on asking", Duration::from_secs(60), || async {
        tries().await.filter(|now| *now > so_far + 3.0).map(|_| ())
    })
    .await;
    says_problem(janitor, "wrong_member", Duration::from_secs(1)).await;
    assert_eq!(janitor.rounds(), []);
    assert_one_at_a_time(&recorder.finish(), &[]);
    for (member, before) in cluster.members().iter().zip(&before) {
        let asked = requests::between(before, &requests::received(member).await);
        let reads = ["Status", "MemberList"];
        assert!(asked.keys().all(|method| reads.contains(&method.as_str())), "{asked:?}");
    }
    let said =
        janitor.events().into_iter().filter(|event| event["reason"] == "wrong_member" && event["task"].is_null());
    assert_eq!(said.count(), 1, "{}", janitor.log_tail(20));
}

#[tokio::test]
async fn a_member_of_another_name_is_refused() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &round(&not_due(), ""));
    janitor.set_environment("ETCD_JANITOR__ETCD__MEMBER_NAME", "m1");
    is_refused(&cluster, &mut janitor).await;
}

#[tokio::test]
async fn a_load_balancer_is_noticed_and_refused() {
    let cluster = Cluster::start(Spec::default()).await;
    let all = cluster.members().iter().map(|member| member.client_address()).collect();
    let balancer = Proxy::balanced(all).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &round(&not_due(), ""));
    janitor.set_environment(ENDPOINT, &format!("http://{}", balancer.address()));
    is_refused(&cluster, &mut janitor).await;
}

#[tokio::test]
async fn metrics_of_another_member_are_refused() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &round(&not_due(), ""));
    let other = format!("http://{}", cluster.member(1).metrics_address());
    janitor.set_environment("ETCD_JANITOR__ETCD__METRICS__LOCAL", &other);
    is_refused(&cluster, &mut janitor).await;
}

#[tokio::test]
async fn metrics_on_an_address_of_their_own_are_accepted() {
    let cluster = Cluster::start(Spec::default()).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &round(&not_due(), ""));
    let own = format!("http://{}", cluster.member(0).metrics_address());
    janitor.set_environment("ETCD_JANITOR__ETCD__METRICS__LOCAL", &own);
    janitor.set_environment("ETCD_JANITOR__ETCD__MEMBER_NAME", "m0");
    janitor.start_again().await;
    knows_all(&janitor, 3).await;
}

/// A janitor that stands before its send, its turn held, when the address
/// leads to another member.
#[tokio::test]
async fn no_defrag_goes_to_a_member_that_takes_the_local_ones_place() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(1)), ..Spec::default() }).await;
    let local = cluster.follower().await;
    let other = (0..3).find(|index| *index != local && *index != 0).unwrap_or(0);
    let proxy = Proxy::start(cluster.member(local).client_address()).await;
    let recorder = Recorder::start(&cluster).await;
    let mut janitor = Janitor::prepare(&cluster, local, &round(&due_in(4), ", drain: 6s"));
    janitor.set_environment(ENDPOINT, &format!("http://{}", proxy.address()));
    janitor.set_environment("ETCD_JANITOR__ETCD__MEMBER_NAME", &cluster.member(local).name);
    janitor.start_again().await;
    says(&janitor, "clients are drained", Duration::from_secs(40), |status| status["draining"] == true).await;
    proxy.point_to(cluster.member(other).client_address());
    says_problem(&janitor, "wrong_member", Duration::from_secs(20)).await;
    says(&janitor, "the round waits", Duration::from_secs(30), |status| waits_for(status) == Some("wrong_member"))
        .await;
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    // The right one again: the same round goes on.
    proxy.point_to(cluster.member(local).client_address());
    assert_eq!(first_round(&janitor, Duration::from_secs(120)).await, ("done".to_owned(), None));
    assert_one_at_a_time(&recorder.finish(), &[local]);
    says(&janitor, "all is well again", Duration::from_secs(10), |status| status["problem"].is_null()).await;
}

/// Without a name to hold it against, a member that answers instead is looked
/// after from then on, and the round of the other one is not carried over.
#[tokio::test]
async fn a_round_is_not_carried_over_to_another_member() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(1)), ..Spec::default() }).await;
    let local = cluster.follower().await;
    let other = (0..3).find(|index| *index != local).unwrap_or(0);
    let proxy = Proxy::start(cluster.member(local).client_address()).await;
    let recorder = Recorder::start(&cluster).await;
    let mut janitor = Janitor::prepare(&cluster, local, &round(&due_in(4), ", drain: 4s, window: 90s"));
    janitor.set_environment(ENDPOINT, &format!("http://{}", proxy.address()));
    janitor.start_again().await;
    says(&janitor, "clients are drained", Duration::from_secs(40), |status| status["draining"] == true).await;
    proxy.point_to(cluster.member(other).client_address());
    let id = format!("{:016x}", cluster.member(other).id);
    says(&janitor, "the other member is looked after", Duration::from_secs(40), |status| {
        status["local"] == id.as_str()
    })
    .await;
    says(&janitor, "nobody is drained any more", Duration::from_secs(20), |status| status["draining"] == false).await;
    let ended = first_round(&janitor, Duration::from_secs(5)).await;
    assert_eq!(ended, ("skipped".to_owned(), Some("member_changed".to_owned())));
    // What the old round left in the queue is gone with its lease at the latest.
    let mut client = cluster.client(other).await;
    let options = etcd_client::GetOptions::new().with_prefix();
    eventually("the queue is empty", Duration::from_secs(90), || {
        let (mut client, options) = (client.clone(), options.clone());
        async move {
            let found = client.get("/etcd-janitor/v1/turn/", Some(options)).await.ok()?;
            found.kvs().is_empty().then_some(())
        }
    })
    .await;
    let intent = client.get("/etcd-janitor/v1/intent", None).await.expect("a healthy cluster reads");
    assert!(intent.kvs().is_empty(), "{intent:?}");
    let history = recorder.finish();
    assert!(history.defrags().is_empty(), "{history}");
    assert_eq!(janitor.get("/livez").await.map(|(code, _)| code), Some(200));
    proxy.set(Mode::Refuse).await;
}

/// The name is another member's from a reload on: the one that answers is looked after no longer.
#[tokio::test]
async fn a_member_whose_name_is_no_longer_meant_is_let_go() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let named = |name: &str, due: &str| {
        format!(
            "etcd: {{ member_name: {name} }}\ncompaction: {{ schedule: '* * * * * *' }}\n\
             defrag: {{ schedule: '{due}', rule: 'dbSize > 0', small_cluster: allow, drain: 1s }}\n"
        )
    };
    let mut janitor = Janitor::start(&cluster, 0, &named("m0", &not_due())).await;
    knows_all(&janitor, 1).await;
    let due = due_in(20);
    janitor.reload(&named("m1", &due)).await;
    says_problem(&janitor, "wrong_member", Duration::from_secs(20)).await;
    says(&janitor, "nobody is looked after", Duration::from_secs(5), |status| status["local"].is_null()).await;
    for task in ["compaction", "defrag"] {
        let skips = format!("etcd_janitor_task_skips_total{{reason=\"wrong_member\",task=\"{task}\"}}");
        if task == "compaction" {
            eventually(task, Duration::from_secs(20), || async { janitor.metric(&skips).await }).await;
        } else {
            janitor
                .event("the round is due and refused", Duration::from_secs(60), |event| {
                    event["task"] == "defrag" && event["reason"] == "wrong_member" && event.get("round").is_some()
                })
                .await;
        }
    }
    assert!(recorder.so_far().defrags().is_empty(), "{}", recorder.so_far());
    // Right again: what was due meanwhile is caught up.
    janitor.reload(&named("m0", &due)).await;
    assert_eq!(first_round(&janitor, Duration::from_secs(60)).await.0, "done");
}

/// Who answered at the address before says nothing of the address now.
#[tokio::test]
async fn an_answer_from_the_address_before_a_reload_is_not_taken_over() {
    let cluster = Cluster::start(Spec::default()).await;
    let proxy = Proxy::start(cluster.member(0).client_address()).await;
    proxy.set(Mode::Stall(Direction::Both)).await;
    let at = |url: &str| format!("etcd: {{ endpoint: '{url}', request_timeout: 20s }}\n{}", round(&not_due(), ""));
    let mut janitor = Janitor::prepare(&cluster, 0, &at(&format!("http://{}", proxy.address())));
    janitor.forget_environment(ENDPOINT);
    janitor.start_again().await;
    eventually("it asks", Duration::from_secs(10), || async { (proxy.connections() > 0).then_some(()) }).await;
    janitor.reload(&at(&cluster.member(1).client_url)).await;
    proxy.set(Mode::Pass).await;
    let id = format!("{:016x}", cluster.member(1).id);
    says(&janitor, "the member at the new address is looked after", Duration::from_secs(40), |status| {
        status["local"] == id.as_str()
    })
    .await;
}

#[tokio::test]
async fn a_learner_that_is_well_is_up() {
    let mut cluster = Cluster::start(Spec::default()).await;
    let learner = cluster.add_learner().await;
    let janitor = Janitor::start(&cluster, learner, &round(&not_due(), "")).await;
    says_problem(&janitor, "learner", Duration::from_secs(20)).await;
    assert_eq!(janitor.metric("etcd_janitor_etcd_up").await, Some(1.0));
    assert_eq!(janitor.status().await["etcd_up"], true);
}
