//! The harness on trial. A judge that cannot see a fault would let every other
//! test pass, so each fault is committed here on purpose and has to be seen.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::consistency::hash_kv_equal;
use crate::support::garbage::{fill_to_quota, free_pages};
use crate::support::lease_holder::LeaseHolder;
use crate::support::spec::RELEASES;
use crate::support::strace::{Injection, Strace};
use crate::support::writer::{Pace, Writer};
use crate::support::{Auth, Cluster, Direction, History, Mode, Recorder, Spec, Tls, Token, eventually, requests};

/// So long that a judge on a machine with other work to do comes to look more than once.
const STRETCH: Duration = Duration::from_secs(3);

fn spec() -> Spec {
    Spec::default()
}

fn stretched() -> Spec {
    Spec { stretch_defrags: Some(STRETCH), ..Spec::default() }
}

async fn defrag(cluster: &Cluster, index: usize) {
    let output = cluster.etcdctl_at(index, &["--command-timeout=30s", "defrag"]).await;
    assert!(output.status.success(), "etcdctl defrag: {output:?}");
}

fn assert_only(history: &History, count: usize) {
    assert_eq!(history.defrags().len(), count, "{history}");
}

#[tokio::test]
async fn three_members_come_up_and_agree() {
    let cluster = Cluster::start(spec()).await;
    let leader = cluster.leader().await;
    assert!(leader < 3);
    let mut ids: Vec<_> = cluster.members().iter().map(|member| member.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    assert!(!ids.contains(&0));
    let mut client = cluster.client(0).await;
    assert_eq!(client.member_list().await.expect("a list").members().len(), 3);
    hash_kv_equal(&cluster).await.expect("new members are equal");
}

#[tokio::test]
async fn two_overlapping_defrags_are_reported() {
    let cluster = Cluster::start(stretched()).await;
    let recorder = Recorder::start(&cluster).await;
    tokio::join!(defrag(&cluster, 0), defrag(&cluster, 1));
    let history = recorder.finish();
    assert_only(&history, 2);
    assert_eq!(history.overlaps().len(), 1, "{history}");
    assert_eq!(history.max_open_anywhere(), 2, "{history}");
}

#[tokio::test]
async fn serial_defrags_are_no_overlap_and_a_leaders_is_marked() {
    let cluster = Cluster::start(stretched()).await;
    let leader = cluster.leader().await;
    let recorder = Recorder::start(&cluster).await;
    for index in 0..3 {
        defrag(&cluster, index).await;
    }
    let history = recorder.finish();
    assert_only(&history, 3);
    assert!(history.overlaps().is_empty(), "{history}");
    assert_eq!(history.max_open_anywhere(), 1, "{history}");
    for found in history.defrags() {
        assert_eq!(found.was_leader_at_start, found.member == leader, "{history}");
        assert!(found.seen && found.finished, "{found:?}");
        // What is certain depends on how often the judge came to look; what is possible never is too short.
        assert!(found.latest.duration_since(found.earliest) >= STRETCH, "{found:?}");
    }
}

#[tokio::test]
async fn a_queued_defrag_of_one_member_is_counted_twice() {
    let cluster = Cluster::start(Spec { members: 1, ..stretched() }).await;
    let recorder = Recorder::start(&cluster).await;
    tokio::join!(defrag(&cluster, 0), defrag(&cluster, 0));
    let history = recorder.finish();
    assert_eq!(history.max_open_anywhere(), 2, "{history}");
    assert_eq!(history.defrag_count(0), 2, "{history}");
    assert!(history.overlaps().is_empty(), "one member cannot overlap itself");
}

#[tokio::test]
async fn an_attached_strace_stretches_and_lets_go() {
    let mut cluster = Cluster::start(Spec { members: 1, ..spec() }).await;
    let recorder = Recorder::start(&cluster).await;
    // By etcd's own clock: on a busy machine the judge's readings lie too far apart to tell one length from the other.
    let took = async |count| {
        let defrags_known = || async { recorder.now(0).filter(|metrics| metrics.defrag_count == count) };
        eventually("the judge knows them", Duration::from_secs(30), defrags_known).await.defrag_seconds
    };
    let strace = Strace::attach(cluster.member(0), Injection::Delay(STRETCH)).await;
    defrag(&cluster, 0).await;
    let stretched = took(1).await;
    drop(strace);
    defrag(&cluster, 0).await;
    // What a process has counted since the last reading dies with it.
    let both = took(2).await;
    assert!(stretched >= STRETCH.as_secs_f64(), "{stretched}");
    assert!(both - stretched < STRETCH.as_secs_f64(), "{stretched}, then {both}");
    let strace = Strace::attach(cluster.member(0), Injection::Eio).await;
    let output = cluster.etcdctl_at(0, &["defrag"]).await;
    assert!(!output.status.success());
    cluster.wait_ended(0, Duration::from_secs(30)).await;
    drop(strace);
    cluster.start_again(0).await;
    let history = recorder.finish();
    let found = history.defrags_of(0);
    assert_eq!(found.iter().filter(|defrag| defrag.finished).count(), 2, "{history}");
    assert!(!history.gaps().is_empty(), "{history}");
}

#[tokio::test]
async fn stopping_killing_pausing_and_growing() {
    let mut cluster = Cluster::start(spec()).await;
    let mut recorder = Recorder::start(&cluster).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let old = cluster.leader().await;
    cluster.pause(old);
    let new = eventually("another member leads", Duration::from_secs(20), || async {
        let mut voters = cluster.voters().into_iter();
        voters.find(|index| *index != old && recorder.now(*index).is_some_and(|m| m.is_leader))
    })
    .await;
    cluster.resume(old);
    cluster.kill(new);
    cluster.start_again(new).await;
    cluster.restart(old).await;
    cluster.move_leader(old).await;
    assert_eq!(cluster.leader().await, old);
    let learner = cluster.add_learner().await;
    recorder.watch(&cluster, learner).await;
    assert!(!cluster.voters().contains(&learner));
    cluster.promote(learner).await;
    assert_eq!(cluster.voters().len(), 4);
    cluster.remove_member(learner).await;
    let written = writer.verify(&cluster).await;
    assert!(written.lost.is_empty(), "{written:?}");
    assert!(written.acknowledged > 50, "{written:?}");
    assert!(written.longest_stall > Duration::from_millis(200), "{written:?}");
    hash_kv_equal(&cluster).await.expect("equal after all that");
    let history = recorder.finish();
    assert!(history.gaps().iter().any(|gap| gap.member == new), "{history}");
    assert!(history.leadership().len() >= 3, "{history}");
}

#[tokio::test]
async fn a_lost_write_is_reported() {
    let cluster = Cluster::start(Spec { members: 1, ..spec() }).await;
    let writer = Writer::start(&cluster, "written", Pace::default()).await;
    let mut client = cluster.client(0).await;
    let key = "written/0/00000000";
    eventually("a first write", Duration::from_secs(10), || {
        let mut client = client.clone();
        async move { client.get(key, None).await.ok().filter(|answer| answer.count() == 1) }
    })
    .await;
    client.delete(key, None).await.expect("a delete");
    let written = writer.verify(&cluster).await;
    assert_eq!(written.lost, [key], "{written:?}");
}

#[tokio::test]
async fn a_lease_lives_until_it_is_taken_away() {
    let cluster = Cluster::start(spec()).await;
    let ttl = Duration::from_secs(3);
    let holder = LeaseHolder::start(&cluster, ttl).await;
    let recorder = Recorder::start(&cluster).await;
    let held = holder.finish(&cluster).await;
    assert!(!held.lost, "{held:?}");
    // A second one, whose lease somebody revokes.
    let holder = LeaseHolder::start(&cluster, ttl).await;
    let mut client = cluster.client(0).await;
    for lease in client.leases().await.expect("a list of leases").leases() {
        client.lease_revoke(lease.id()).await.expect("a lease is revoked");
    }
    let held = holder.finish(&cluster).await;
    assert!(held.lost, "{held:?}");
    assert_eq!(recorder.finish().leases_expired(), 0, "revoked is not expired");
}

#[tokio::test]
async fn garbage_can_be_reclaimed_and_a_quota_filled() {
    let quota = 24 << 20;
    let cluster = Cluster::start(Spec { quota_bytes: Some(quota), ..spec() }).await;
    let recorder = Recorder::start(&cluster).await;
    // Free on every member: a follower compacts after the leader has answered.
    free_pages(&cluster, 12).await;
    defrag(&cluster, 0).await;
    let sizes = cluster.member(0).metrics().await.expect("an answer");
    let others = cluster.member(1).metrics().await.expect("an answer");
    assert!(sizes.db_size < 4 << 20, "{sizes:?}");
    assert!(others.db_size > 12 << 20, "{others:?}");
    fill_to_quota(&cluster).await;
    let client = cluster.client(0).await;
    // Who refuses a put for it may know of the alarm before this member has applied it.
    eventually("the alarm is up here, too", Duration::from_secs(30), || {
        let mut client = client.clone();
        async move { client.status().await.ok()?.errors().concat().contains("NOSPACE").then_some(()) }
    })
    .await;
    let history = recorder.finish();
    let entries = history.raft_entries_between(history.started, Instant::now());
    // 64 KiB each: 192 puts of garbage, and as many again to the quota.
    assert!(entries > 2 * 192, "{entries}");
}

#[tokio::test]
async fn requests_are_counted_by_method() {
    let cluster = Cluster::start(Spec { members: 1, ..spec() }).await;
    let before = requests::received(cluster.member(0)).await;
    let mut client = cluster.client(0).await;
    for _ in 0..3 {
        client.status().await.expect("a status");
    }
    let after = requests::received(cluster.member(0)).await;
    let asked = requests::between(&before, &after);
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), [("Status".to_owned(), 3)]);
}

#[tokio::test]
async fn five_members_come_up() {
    let cluster = Cluster::start(Spec { members: 5, ..spec() }).await;
    assert_eq!(cluster.voters().len(), 5);
    cluster.leader().await;
}

#[tokio::test]
async fn a_proxy_cuts_clients_off_and_not_the_member() {
    let cluster = Cluster::start(Spec { client_proxies: true, ..spec() }).await;
    let advertised: Vec<_> = cluster.members().iter().map(|m| m.advertised_url()).collect();
    let mut client = cluster.client(0).await;
    let listed = client.member_list().await.expect("a list");
    let listed = listed.members().iter().flat_map(|member| member.client_urls());
    assert!(listed.clone().all(|url| advertised.contains(url)));
    assert_eq!(listed.count(), 3);
    let mut outside = cluster.client_to(&advertised[0]).await.expect("through the proxy");
    outside.status().await.expect("a status");
    cluster.proxy(0).set(Mode::Stall(Direction::Both)).await;
    let limit = Duration::from_millis(300);
    tokio::time::timeout(limit, outside.status()).await.expect_err("silence");
    client.status().await.expect("the member itself is well");
    assert!(cluster.proxy(0).bytes_to_client() > 0);
    let date = async |index: usize| {
        let mut stream = TcpStream::connect(cluster.proxy(index).address()).await.expect("a connection");
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await.expect("it is sent");
        let mut said = String::new();
        stream.read_to_string(&mut said).await.expect("an answer");
        let date = said.lines().find_map(|line| line.strip_prefix("Date: ")).expect("a date").trim().to_owned();
        (chrono::DateTime::parse_from_rfc2822(&date).expect("a date").to_utc() - chrono::Utc::now()).num_minutes()
    };
    cluster.proxy(1).set(Mode::ClockOff(3600)).await;
    assert_eq!((date(1).await, date(2).await), (59, 0));
    cluster.proxy(1).set(Mode::ClockOff(-3600)).await;
    assert_eq!(date(1).await, -60);
}

#[tokio::test]
async fn mutual_tls_and_a_password_let_nobody_else_in() {
    for token in [Token::Simple { ttl: Duration::from_secs(5) }, Token::Jwt { ttl: Duration::from_secs(5) }] {
        let auth = Auth { root_password: "a secret".to_owned(), token };
        let cluster = Cluster::start(Spec { tls: Tls::Mutual, auth: Some(auth), ..spec() }).await;
        let recorder = Recorder::start(&cluster).await;
        defrag(&cluster, cluster.follower().await).await;
        assert_only(&recorder.finish(), 1);
        let mut client = cluster.client(0).await;
        client.put("key", "value", None).await.expect("root may write");
        let tls = cluster.certs().client_options(true);
        let nobody = etcd_client::ConnectOptions::new().with_tls(tls);
        let url = cluster.member(0).client_url.clone();
        let mut nobody = etcd_client::Client::connect([url], Some(nobody)).await.expect("TLS is good");
        let refused = nobody.put("key", "value", None).await.expect_err("no user, no write");
        // Without a token etcd takes the certificate's common name for a user.
        assert!(refused.to_string().contains("permission denied"), "{refused}");
        let bare = etcd_client::ConnectOptions::new().with_tls(cluster.certs().client_options(false));
        let url = cluster.member(0).client_url.clone();
        let mut bare = etcd_client::Client::connect([url], Some(bare)).await.expect("lazily connected");
        bare.status().await.expect_err("no certificate, no connection");
    }
}

#[tokio::test]
async fn every_release_starts_and_its_defrags_are_seen() {
    for release in &RELEASES[1..] {
        let cluster = Cluster::start(Spec { release: (*release).to_owned(), ..stretched() }).await;
        let recorder = Recorder::start(&cluster).await;
        let follower = cluster.follower().await;
        defrag(&cluster, follower).await;
        let history = recorder.finish();
        assert_only(&history, 1);
        let found = &history.defrags_of(follower)[0];
        assert!(found.seen && found.finished && !found.was_leader_at_start, "{release}: {history}");
        assert!(found.certain_length() > Duration::ZERO, "{release}: {history}");
    }
}
