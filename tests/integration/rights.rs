//! What etcd lets which user do, and what becomes of a janitor whose user may not do all of it.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client, Permission, PutOptions, UserAddOptions, WatchOptions};

use super::rounds::PATIENCE;
use crate::support::certs::Pair;
use crate::support::rounds::{assert_one_at_a_time, knows_all, not_due, says, says_problem};
use crate::support::scrape::{Connection, MetricSample, samples};
use crate::support::{Auth, Cluster, Janitor, Recorder, Spec, Tls, Token, due_in, eventually, usual_release};

const PREFIX: &str = "/etcd-janitor/";
const PASSWORD: &str = "battery staple";

pub fn with_auth(release: &str, members: usize) -> Spec {
    with_tokens(release, members, Duration::from_secs(300))
}

fn with_tokens(release: &str, members: usize, ttl: Duration) -> Spec {
    Spec {
        release: release.to_owned(),
        members,
        auth: Some(Auth { root_password: "correct horse".to_owned(), token: Token::Simple { ttl } }),
        ..Spec::default()
    }
}

/// A user without a role, one that may read and write under the prefix, and one with etcd's own role root.
pub async fn add_users(cluster: &Cluster) {
    let mut root = cluster.client(0).await;
    root.role_add("keys").await.expect("a role");
    let below = Permission::read_write(PREFIX).with_prefix();
    root.role_grant_permission("keys", below).await.expect("a permission");
    root.role_grant_permission("keys", Permission::read("compact_rev_key")).await.expect("a permission");
    for user in ["nobody", "keys", "maintainer"] {
        root.user_add(user, PASSWORD, None).await.expect("a user");
    }
    root.user_grant_role("keys", "keys").await.expect("a role for a user");
    root.user_grant_role("maintainer", "root").await.expect("a role for a user");
}

pub async fn client(cluster: &Cluster, user: Option<&str>) -> Client {
    client_at(cluster, 0, user).await
}

/// The same through this member.
pub async fn client_at(cluster: &Cluster, through: usize, user: Option<&str>) -> Client {
    let url = &cluster.member(through).client_url;
    let options = user.map(|user| etcd_client::ConnectOptions::new().with_user(user, PASSWORD));
    Client::connect([url], options).await.expect("the member is up, and the password right")
}

/// How many requests of this kind the members were sent since they started.
pub async fn started(cluster: &Cluster, method: &str) -> f64 {
    let mut count = 0.0;
    for member in cluster.members() {
        let page = Connection::new(member.metrics_address(), Duration::from_secs(5)).get("/metrics");
        let (_, page) = page.expect("the member serves its metrics");
        let of_method = |sample: &MetricSample<'_>| {
            sample.name == "grpc_server_started_total" && sample.label("grpc_method") == Some(method)
        };
        count += samples(&page).filter(of_method).filter_map(|sample| sample.value()).sum::<f64>();
    }
    count
}

/// Which of the janitor's requests this client may send. `root` makes what they are about.
async fn allowed(client: &mut Client, root: &mut Client) -> Vec<(&'static str, bool)> {
    // A place in the queue, as the janitors make it.
    let lease = root.lease_grant(60, None).await.expect("a lease").id();
    let with_lease = PutOptions::new().with_lease(lease);
    root.put(format!("{PREFIX}v1/turn/{lease:016x}"), "", Some(with_lease)).await.expect("a place");
    let mut tried = Vec::new();
    let mut note = |request, result: Result<(), etcd_client::Error>| {
        let words = result.err().map(|error| error.to_string()).unwrap_or_default();
        let refused = ["permission denied", "user name is empty"].iter().any(|refusal| words.contains(refusal));
        tried.push((request, !refused));
    };
    note("Status", client.status().await.map(drop));
    note("MemberList", client.member_list().await.map(drop));
    note("Alarm (list)", client.alarm(AlarmAction::Get, AlarmType::None, None).await.map(drop));
    note("keys below `etcd.prefix`", client.put(format!("{PREFIX}v1/probe"), "", None).await.map(drop));
    note("Watch below `etcd.prefix`", watched(client).await);
    note("LeaseGrant", client.lease_grant(10, None).await.map(drop));
    note("LeaseKeepAlive", client.lease_keep_alive(lease).await.map(drop));
    note("LeaseTimeToLive", client.lease_time_to_live(lease, None).await.map(drop));
    note("LeaseRevoke", client.lease_revoke(lease).await.map(drop));
    // Nothing to compact or to clear there, no member to lead: what is refused for that is not refused to the user.
    note("Compact", client.compact(1, None).await.map(drop));
    note("MoveLeader", client.move_leader(1).await.map(drop));
    note("Alarm (disarm)", client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.map(drop));
    note("HashKV", client.hash_kv(0).await.map(drop));
    note("Defragment", client.defragment().await.map(drop));
    tried
}

/// etcd refuses a watch after it has begun, with words alone.
async fn watched(client: &mut Client) -> Result<(), etcd_client::Error> {
    let mut stream = client.watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    match tokio::time::timeout(Duration::from_millis(500), stream.message()).await {
        Ok(Ok(Some(message))) if message.canceled() => {
            Err(etcd_client::Error::WatchError(message.cancel_reason().to_owned()))
        }
        Ok(Err(error)) => Err(error),
        _ => Ok(()),
    }
}

/// The table in docs/auth.md is what was measured.
#[tokio::test]
async fn each_release_asks_for_the_rights_that_the_documentation_tells() {
    let releases = ["3.4.23", "3.5.1", "3.5.16", "3.5.30"];
    let mut least: Vec<(&str, Vec<&str>)> = Vec::new();
    for release in releases {
        let cluster = Cluster::start(with_auth(release, 1)).await;
        add_users(&cluster).await;
        let mut root = cluster.client(0).await;
        for (user, name) in
            [(None, "nobody"), (Some("nobody"), "any user"), (Some("keys"), "role"), (Some("maintainer"), "root")]
        {
            for (request, may) in allowed(&mut client(&cluster, user).await, &mut root).await {
                if !least.iter().any(|(known, _)| *known == request) {
                    least.push((request, Vec::new()));
                }
                let column = least.iter_mut().find(|(known, _)| *known == request).map(|(_, column)| column);
                let column = column.expect("just added");
                let of_release = releases.iter().position(|one| *one == release).expect("one of them");
                if may && column.len() == of_release {
                    column.push(name);
                }
            }
        }
    }
    let mut table = String::new();
    for (request, column) in least {
        let _ = writeln!(table, "| {request} | {} |", column.join(" | "));
    }
    let told = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/auth.md")).expect("the documentation");
    assert!(told.contains(&table), "docs/auth.md tells another table than the measured one:\n{table}");
}

/// As `user`; `none` of the harness' own credentials are left.
fn as_user(janitor: &mut Janitor, user: &str) {
    fs::write(janitor.folder().join("password"), PASSWORD).expect("the password file");
    janitor.set_environment("ETCD_JANITOR__ETCD__AUTH__USERNAME", user);
}

/// 3.5.16 lets such a user do everything but what matters most: that is said before anybody queues or hands leadership
/// over for it, the rest is done, and it goes on when the role is granted.
#[tokio::test]
async fn a_user_without_the_role_root_compacts_shows_and_says_what_it_may_not() {
    let cluster = Cluster::start(with_auth("3.5.16", 3)).await;
    add_users(&cluster).await;
    let recorder = Recorder::start(&cluster).await;
    let led = cluster.leader().await;
    let yaml = format!(
        "compaction: {{ enabled: true, schedule: '{}', retention: 1m }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSize > 0', pause_between: 1s, window: 10m }}\n",
        due_in(75),
        due_in(10)
    );
    let mut janitors = Vec::new();
    for index in 0..3 {
        let mut janitor = Janitor::prepare(&cluster, index, &yaml);
        as_user(&mut janitor, "keys");
        janitor.start_again().await;
        janitors.push(janitor);
    }
    let missing = "a defrag takes the role root, which the user keys lacks";
    for janitor in &janitors {
        says(janitor, missing, PATIENCE, |status| {
            status["missing_right"].as_str().is_some_and(|text| text.contains(missing))
        })
        .await;
        says(janitor, "the round waits for it", PATIENCE, |status| {
            status["tasks"].as_array().is_some_and(|tasks| {
                tasks.iter().any(|task| task["task"] == "defrag" && task["waiting_for"]["reason"] == "auth")
            })
        })
        .await;
    }
    let (checked, shown) = (janitors[0].command(&["check"]).await, janitors[0].command(&["status"]).await);
    let (checked, shown) = (text(&checked.stdout), text(&shown.stdout));
    assert!(checked.contains("the user may defragment") && checked.contains("permission denied"), "{checked}");
    assert!(shown.contains(missing), "{shown}");

    eventually("what is old enough is compacted", PATIENCE, || async {
        let done = janitors.iter().any(|janitor| janitor.log_tail(1000).contains("\"outcome\":\"done\""));
        done.then_some(())
    })
    .await;
    assert_eq!(cluster.leader().await, led, "nobody hands leadership over for a defrag that is refused");
    for janitor in &janitors {
        let said = janitor
            .events()
            .into_iter()
            .filter(|event| event["message"] == "etcd does not let our user do all that it is for");
        assert_eq!(said.count(), 1, "{}", janitor.log_tail(30));
    }

    cluster.client(0).await.user_grant_role("keys", "root").await.expect("a role for a user");
    crate::support::rounds::all_done(&janitors, PATIENCE).await;
    assert_one_at_a_time(&recorder.finish(), &[0, 1, 2]);
    for janitor in &janitors {
        janitor.command(&["status"]).await;
        says(janitor, "nothing is missing", PATIENCE, |status| status["missing_right"].is_null()).await;
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A round of a cluster of one member, on which a defrag was allowed.
fn alone(due: &str) -> String {
    format!(
        "compaction: {{ enabled: false }}\n\
         defrag: {{ schedule: '{due}', rule: 'dbSize > 0', small_cluster: allow, window: 10m }}\n"
    )
}

/// Without a password: the certificate's common name is the user.
#[tokio::test]
async fn the_certificate_alone_may_be_the_user() {
    for release in ["3.4.23", "3.5.30"] {
        let cluster = Cluster::start(Spec { tls: Tls::Mutual, ..with_auth(release, 1) }).await;
        let mut root = cluster.client(0).await;
        let no_password = UserAddOptions::new().with_no_pwd();
        root.user_add("etcd-janitor", "", Some(no_password)).await.expect("a user");
        root.user_grant_role("etcd-janitor", "root").await.expect("a role for a user");
        let Pair { cert, key } = cluster.certs().issue("etcd-janitor", 2099);
        let mut janitor = Janitor::prepare(&cluster, 0, &alone(&due_in(8)));
        janitor.forget_environment("ETCD_JANITOR__ETCD__AUTH__");
        for (name, pem) in [("CERT_FILE", cert), ("KEY_FILE", key)] {
            let file = janitor.folder().join(name);
            fs::write(&file, pem).expect("a file");
            janitor.set_environment(&format!("ETCD_JANITOR__ETCD__TLS__{name}"), &file.display().to_string());
        }
        janitor.start_again().await;
        let ended = crate::support::rounds::first_round(&janitor, PATIENCE).await;
        assert_eq!(ended, ("done".to_owned(), None), "{release}: {}", janitor.log_tail(20));
    }
}

/// A user may be configured before authentication is enabled, and stay when it is disabled: operators do one after the
/// other, and no janitor needs a restart for it.
#[tokio::test]
async fn authentication_is_enabled_and_disabled_while_it_runs() {
    for release in ["3.5.16", "3.5.30"] {
        let cluster = Cluster::start(Spec { auth: None, ..with_auth(release, 1) }).await;
        let mut root = cluster.client(0).await;
        root.user_add("root", PASSWORD, None).await.expect("a user");
        root.user_grant_role("root", "root").await.expect("a role for a user");
        let start = async |configured: bool| {
            let mut janitor = Janitor::prepare(&cluster, 0, &alone(&not_due()));
            if configured {
                let file = janitor.folder().join("password");
                fs::write(&file, PASSWORD).expect("the password file");
                janitor.set_environment("ETCD_JANITOR__ETCD__AUTH__USERNAME", "root");
                janitor.set_environment("ETCD_JANITOR__ETCD__AUTH__PASSWORD_FILE", &file.display().to_string());
            }
            janitor.start_again().await;
            knows_all(&janitor, 1).await;
            assert!(janitor.status().await["problem"].is_null(), "{}", janitor.log_tail(10));
            janitor
        };
        let (with_user, without) = (start(true).await, start(false).await);

        root.auth_enable().await.expect("auth is switched on");
        eventually("without a user it says so", PATIENCE, || async {
            without.command(&["status"]).await;
            let status = without.status().await;
            let told = [&status["problem"]["detail"], &status["missing_right"]];
            told.iter().any(|text| text.as_str().is_some_and(|text| text.contains("user name is empty"))).then_some(())
        })
        .await;
        let defrag = with_user.command(&["defrag"]).await;
        assert!(defrag.status.success(), "{release}: {}\n{}", text(&defrag.stderr), with_user.log_tail(20));
        // A hold is seen by the watch, which asks etcd for a right of its own.
        let hold = with_user.command(&["hold", "--for", "1h", "--reason", "auth"]).await;
        assert!(hold.status.success(), "{}", text(&hold.stderr));
        says(&with_user, "the hold is seen", PATIENCE, |status| status["hold"].is_object()).await;
        assert!(with_user.status().await["problem"].is_null(), "{}", with_user.log_tail(10));

        let mut root = etcd_client::Client::connect(
            [&cluster.member(0).client_url],
            Some(etcd_client::ConnectOptions::new().with_user("root", PASSWORD)),
        )
        .await
        .expect("root may log in");
        root.auth_disable().await.expect("auth is switched off");
        eventually("without a user it is well again", PATIENCE, || async {
            without.command(&["status"]).await;
            let status = without.status().await;
            (status["problem"].is_null() && status["missing_right"].is_null()).then_some(())
        })
        .await;
        let release_hold = with_user.command(&["release"]).await;
        assert!(release_hold.status.success(), "{}", text(&release_hold.stderr));
        says(&with_user, "the hold is gone", PATIENCE, |status| status["hold"].is_null()).await;
        let again = with_user.command(&["defrag"]).await;
        assert!(again.status.success(), "{release}: {}", text(&again.stderr));
    }
}

/// A member that restarts has forgotten every token, one that was idle for longer than tokens live knows ours no more, and
/// a user that is added makes the revision of all of them old. An idle janitor on a release whose Status takes no token
/// has nothing but its watch that notices.
async fn lost_and_old_tokens_are_renewed(release: &str, token: Token) {
    let spec = with_tokens(release, 1, Duration::from_secs(5));
    let auth = Auth { root_password: PASSWORD.to_owned(), token };
    let mut cluster = Cluster::start(Spec { auth: Some(auth), ..spec }).await;
    let janitor = Janitor::start(&cluster, 0, &alone(&not_due())).await;
    knows_all(&janitor, 1).await;
    let seen = async |reason: &str| {
        let hold = janitor.command(&["hold", "--for", "1h", "--reason", reason]).await;
        assert!(hold.status.success(), "{}", text(&hold.stderr));
        says(&janitor, "the hold is seen", PATIENCE, |status| status["hold"]["reason"] == reason).await;
        let released = janitor.command(&["release"]).await;
        assert!(released.status.success(), "{}", text(&released.stderr));
        says(&janitor, "its end is seen", PATIENCE, |status| status["hold"].is_null()).await;
    };
    tokio::time::sleep(Duration::from_secs(12)).await;
    seen("tokens are old").await;
    cluster.restart(0).await;
    seen("tokens are lost").await;
    // Another user and role make the token's auth revision old. A plain client, with a token of just now, is told so.
    let options = etcd_client::ConnectOptions::new().with_user("root", PASSWORD);
    let mut plain = Client::connect([&cluster.member(0).client_url], Some(options)).await.expect("root may log in");
    add_users(&cluster).await;
    let told = plain.put("elsewhere", "", None).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("revision of auth store is old") == matches!(token, Token::Jwt { .. }), "{token:?}: {told}");
    seen("the revision is old").await;
    let defrag = janitor.command(&["defrag"]).await;
    assert!(defrag.status.success(), "{release}: {}\n{}", text(&defrag.stderr), janitor.log_tail(20));
    assert!(janitor.status().await["problem"].is_null(), "{}", janitor.log_tail(10));
}

#[tokio::test]
async fn tokens_of_an_old_auth_revision_are_renewed() {
    lost_and_old_tokens_are_renewed("3.5.30", Token::Jwt { ttl: Duration::from_secs(5) }).await;
}

#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn tokens_that_are_lost_or_old_are_renewed_by_an_idle_janitor_too() {
    let ttl = Duration::from_secs(5);
    for (release, token) in
        [("3.5.16", Token::Simple { ttl }), ("3.5.30", Token::Simple { ttl }), ("3.5.16", Token::Jwt { ttl })]
    {
        lost_and_old_tokens_are_renewed(release, token).await;
    }
}

/// A password that is right no more costs etcd a few logins a minute, whatever else is asked, on however many connections,
/// and also while a member comes back; the new one is tried at once.
#[tokio::test]
async fn a_password_that_is_wrong_is_not_tried_again_and_again() {
    let mut cluster = Cluster::start(with_auth(&usual_release(), 3)).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &alone(&not_due()).replace("small_cluster: allow, ", ""));
    add_users(&cluster).await;
    as_user(&mut janitor, "maintainer");
    janitor.start_again().await;
    knows_all(&janitor, 3).await;
    janitor.command(&["status"]).await;

    let mut root = cluster.client(0).await;
    root.user_change_password("maintainer", "new words").await.expect("a new password");
    cluster.restart(1).await;
    says_problem(&janitor, "auth", PATIENCE).await;
    let before = started(&cluster, "Authenticate").await;
    let asks = started(&cluster, "Status").await;
    for _ in 0..60 {
        // Each makes it look at all members.
        janitor.get("/api/v1/status?fresh").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let logins = started(&cluster, "Authenticate").await - before;
    let asked = started(&cluster, "Status").await - asks;
    println!("{logins} logins in a minute of {asked} requests for the status");
    // After 5 s, 10 s, 20 s and 40 s at the earliest.
    assert!((1.0..=5.0).contains(&logins), "{logins} logins in a minute\n{}", janitor.log_tail(20));
    fs::write(janitor.folder().join("password"), "new words").expect("the password file");
    says(&janitor, "it is well again", Duration::from_secs(20), |status| status["problem"].is_null()).await;
}

/// A password that nobody may use is said, too, when it is the certificate's user that lacks every right.
#[tokio::test]
async fn a_user_without_any_role_is_named_by_its_missing_rights() {
    let cluster = Cluster::start(with_auth("3.5.30", 1)).await;
    add_users(&cluster).await;
    let mut janitor = Janitor::prepare(&cluster, 0, &alone(&not_due()));
    as_user(&mut janitor, "nobody");
    janitor.start_again().await;
    says_problem(&janitor, "auth", PATIENCE).await;
    let detail = janitor.status().await["problem"]["detail"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(detail.contains("permission denied"), "{detail}");
    let checked = text(&janitor.command(&["check", "--output", "json"]).await.stdout);
    let checked: serde_json::Value = serde_json::from_str(&checked).expect("JSON");
    let tried = checked["checks"].as_array().expect("checks").iter().filter(|check| check["section"] == "rights");
    let tried: Vec<_> = tried.map(|check| (check["what"].as_str(), check["result"].as_str())).collect();
    let expected = [
        ("keys below /etcd-janitor/ can be read, written and deleted", "failed"),
        ("compact_rev_key can be read", "failed"),
        ("a lease can be granted and revoked", "passed"),
        ("the user may defragment", "failed"),
    ];
    assert_eq!(tried, expected.map(|(what, result)| (Some(what), Some(result))), "{checked}");
}
