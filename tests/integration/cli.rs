//! The command line beside a running daemon, and without one.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::support::rounds::{assert_one_at_a_time, first_round, knows_all, not_due, says};
use crate::support::{Cluster, Janitor, Recorder, Spec, Tls, due_in, eventually};

fn idle() -> String {
    let due = not_due();
    format!("compaction: {{ schedule: '{due}' }}\ndefrag: {{ schedule: '{due}' }}\n")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it and expects an exit code; gives what was written.
async fn run(janitor: &Janitor, words: &[&str], code: i32) -> String {
    let output = janitor.command(words).await;
    assert_eq!(output.status.code(), Some(code), "{words:?}: {}", text(&output));
    text(&output)
}

async fn trio() -> Cluster {
    Cluster::start(Spec::default()).await
}

#[tokio::test]
async fn status_shows_the_cluster_and_tells_by_its_code_how_it_is() {
    let cluster = trio().await;
    let mut janitor = Janitor::start(&cluster, 1, &idle()).await;
    knows_all(&janitor, 3).await;
    let table = run(&janitor, &["status"], 0).await;
    let mut members: Vec<&str> = table.lines().filter(|line| line.contains("3.5.30")).collect();
    members.sort();
    assert_eq!(members.len(), 3, "{table}");
    assert!(members[1].starts_with("m1*"), "the local one is starred: {table}");
    assert_eq!(members.iter().filter(|line| line.contains("leader")).count(), 1, "{table}");
    assert_eq!(members.iter().filter(|line| line.contains("follower")).count(), 2, "{table}");
    assert!(members.iter().all(|line| line.contains("2.0 GiB")), "the quota that etcd has by default: {table}");
    for heading in ["CLUSTER", "MEMBERS 3/3", "ALARMS none", "TURN free", "NEXT RUN", "compaction", "defrag"] {
        assert!(table.contains(heading), "{heading}: {table}");
    }
    // An idle daemon looks at the others every ten minutes, and now because it is asked.
    let looked = async || janitor.status().await["looked_at"].clone();
    let before = looked().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    run(&janitor, &["status"], 0).await;
    assert_ne!(looked().await, before);

    let json = janitor.command(&["status", "-o", "json"]).await;
    assert_eq!(json.status.code(), Some(0));
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["local"], format!("{:016x}", cluster.member(1).id));
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3));

    run(&janitor, &["probe", "livez"], 0).await;
    run(&janitor, &["probe", "readyz"], 0).await;
    run(&janitor, &["quiesce"], 0).await;
    says(&janitor, "it is quiesced", Duration::from_secs(5), |status| status["quiesced"] == true).await;
    let table = run(&janitor, &["status"], 1).await;
    assert!(table.starts_with("ATTENTION  Quiesced"), "{table}");
    let yaml = run(&janitor, &["status", "-o", "yaml"], 1).await;
    assert!(yaml.contains("quiesced: true\n"), "{yaml}");

    janitor.stop().await;
    let table = run(&janitor, &["status"], 1).await;
    assert!(table.starts_with("NO JANITOR  no janitor listens on"), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("3.5.30")).count(), 3, "etcd itself is asked: {table}");
    let json = janitor.command(&["status", "-o", "json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    janitor.set_environment("ETCD_JANITOR__ETCD__ENDPOINT", "http://127.0.0.1:1");
    let said = run(&janitor, &["status"], 3).await;
    assert!(said.contains("no janitor listens on") && said.contains("etcd itself cannot be used either"), "{said}");
    run(&janitor, &["quiesce"], 3).await;
    run(&janitor, &["probe", "livez"], 3).await;
    run(&janitor, &["probe", "readyz"], 3).await;
}

#[tokio::test]
async fn status_wants_attention_when_a_member_or_all_of_etcd_is_away() {
    let mut cluster = trio().await;
    let janitor = Janitor::start(&cluster, 0, &idle()).await;
    knows_all(&janitor, 3).await;
    run(&janitor, &["status"], 0).await;
    cluster.stop(0).await;
    says(&janitor, "etcd is away", Duration::from_secs(20), |status| status["etcd_up"] == false).await;
    let table = run(&janitor, &["status"], 1).await;
    assert!(table.contains("etcd"), "{table}");
    run(&janitor, &["probe", "livez"], 0).await;
    run(&janitor, &["probe", "readyz"], 0).await;
}

#[tokio::test]
async fn quiesce_leaves_the_queue_and_starts_nothing_new() {
    let cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(1)), ..Spec::default() }).await;
    let recorder = Recorder::start(&cluster).await;
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    // Whoever is first rests for so long with the turn that the other waits.
    let yaml = |seconds| {
        let due = due_in(seconds);
        format!(
            "compaction: {{ enabled: false }}\n\
             defrag: {{ schedule: '{due}', rule: 'dbSize > 0', pause_between: 3m }}\n"
        )
    };
    let first = yaml(4);
    let janitors =
        [Janitor::start(&cluster, followers[0], &first).await, Janitor::start(&cluster, followers[1], &first).await];
    let client = cluster.client(leader).await;
    let options = etcd_client::GetOptions::new().with_prefix();
    let queue = async |length: usize| {
        // On a busy machine a look may find a member too slow, and the next comes 30 s later.
        eventually("the queue has this length", Duration::from_secs(90), || {
            let (mut client, options) = (client.clone(), options.clone());
            async move {
                let found = client.get("/etcd-janitor/v1/turn/", Some(options)).await.ok()?;
                (found.kvs().len() == length).then_some(())
            }
        })
        .await;
    };
    queue(2).await;
    // The first rests with the turn, the second waits behind it.
    let waiting = eventually("one has the turn and one waits", Duration::from_secs(20), || async {
        let (one, other) = (janitors[0].status().await, janitors[1].status().await);
        match (one["turn_held"].as_bool()?, other["turn_held"].as_bool()?) {
            (true, false) => Some(1),
            (false, true) => Some(0),
            _ => None,
        }
    })
    .await;
    let (held, idle) = (followers[1 - waiting], followers[waiting]);
    // It has the turn before it has looked, and a member that is too slow then is looked at again 30 s later.
    eventually("the first is defragmented", Duration::from_secs(90), || async {
        (cluster.member(held).metrics().await?.defrag_count == 1).then_some(())
    })
    .await;
    let status = janitors[waiting].status().await;
    assert_eq!(status["tasks"][1]["phase"], "in the queue", "{status}");
    run(&janitors[waiting], &["quiesce"], 0).await;
    queue(1).await;
    let ended = first_round(&janitors[waiting], Duration::from_secs(5)).await;
    assert_eq!(ended, ("skipped".to_owned(), Some("quiesced".to_owned())));
    assert_eq!(janitors[waiting].get("/readyz").await.map(|(code, _)| code), Some(200));

    janitors[waiting].write_config(&yaml(9));
    eventually("the next round is due and not begun", Duration::from_secs(30), || async {
        let rounds = janitors[waiting].rounds();
        (rounds.len() == 2 && rounds[1].2.as_deref() == Some("quiesced")).then_some(())
    })
    .await;
    queue(1).await;
    let history = recorder.finish();
    assert_one_at_a_time(&history, &[held]);
    assert_eq!(history.defrag_count(idle), 0, "{history}");
}

#[tokio::test]
async fn a_broken_file_is_shown_by_check_and_probe_and_by_no_secret() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let mut janitor = Janitor::start(&cluster, 0, &idle()).await;
    let checked = run(&janitor, &["config", "check"], 0).await;
    assert!(checked.contains(": valid") && checked.contains("defrag.schedule"), "{checked}");
    let shown = run(&janitor, &["config", "show"], 0).await;
    assert!(shown.contains(&cluster.member(0).client_url), "{shown}");
    assert!(shown.contains("ETCD_JANITOR__ETCD__ENDPOINT"), "where it came from: {shown}");
    serde_json::from_str::<Value>(&run(&janitor, &["config", "schema"], 0).await).expect("a schema");

    janitor.write_config("defrag: { window: soon }\n");
    let checked = run(&janitor, &["config", "check"], 2).await;
    assert!(checked.contains("defrag.window") && checked.contains("soon"), "{checked}");
    run(&janitor, &["config", "show"], 2).await;
    for words in [&["defrag"][..], &["compact"]] {
        let said = run(&janitor, words, 2).await;
        assert!(said.contains("defrag.window"), "{words:?}: {said}");
    }
    // The old one is in force there; a new start has none.
    run(&janitor, &["probe", "readyz"], 0).await;
    says(&janitor, "it has seen the file", Duration::from_secs(20), |status| {
        status["config"]["last_reload_successful"] == false
    })
    .await;
    let output = janitor.command(&["status", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    assert_eq!(json["config"]["valid"], true, "{json}");
    let beside = String::from_utf8_lossy(&output.stderr);
    assert!(beside.contains("defrag.window") && beside.contains("looks for the janitor on"), "{beside}");
    let said = run(&janitor, &["quiesce"], 0).await;
    assert!(said.contains("defrag.window") && said.contains("leaves the queue"), "{said}");
    says(&janitor, "it is quiesced", Duration::from_secs(5), |status| status["quiesced"] == true).await;
    janitor.stop().await;
    janitor.start_again().await;
    run(&janitor, &["probe", "livez"], 0).await;
    let said = run(&janitor, &["probe", "readyz"], 1).await;
    assert!(said.contains("defrag.window"), "{said}");
    let said = run(&janitor, &["status"], 1).await;
    assert!(said.contains("The configuration is not valid"), "{said}");
    run(&janitor, &["quiesce"], 0).await;
}

#[tokio::test]
async fn the_command_line_explains_itself() {
    let cluster = Cluster::start(Spec { members: 1, ..Spec::default() }).await;
    let janitor = Janitor::prepare(&cluster, 0, &idle());
    for words in [&["defragment"][..], &["config", "shw"], &["status", "-o", "xml"], &["run", "--no-such-flag"]] {
        let said = run(&janitor, words, 2).await;
        assert!(said.contains("error:"), "{words:?}: {said}");
    }
    for words in [&["--help"][..], &["status", "--help"], &["config", "--help"]] {
        let said = run(&janitor, words, 0).await;
        assert!(said.contains("Usage: etcd-janitor"), "{words:?}: {said}");
    }
    assert!(run(&janitor, &["--help"], 0).await.contains("Exit codes: 0 well"));
    assert!(run(&janitor, &["--version"], 0).await.starts_with("etcd-janitor "));
}

#[tokio::test]
async fn check_explain_history_and_defrag_tell_what_is_so() {
    let mut cluster = trio().await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let mut janitor = Janitor::start(&cluster, follower, &idle()).await;
    knows_all(&janitor, 3).await;
    let checked = run(&janitor, &["check"], 0).await;
    for wanted in ["the endpoint is one member, and the right one", "the user may defragment", "clocks agree"] {
        assert!(checked.lines().any(|line| line.contains(wanted) && line.starts_with("√ ok")), "{wanted}: {checked}");
    }
    assert_eq!(checked.lines().filter(|line| line.contains(") answers: etcd 3.5.30")).count(), 3, "{checked}");
    assert!(checked.contains("several members have the address 127.0.0.1"), "{checked}");
    // Nothing of it stays.
    let keys = cluster.client(leader).await.get("/etcd-janitor/v1/probe", None).await.expect("a range");
    assert!(keys.kvs().is_empty());

    let explained = run(&janitor, &["explain"], 0).await;
    for wanted in ["RULE ", "is false: a defrag would not pay", "dbFreeRatio > 0.4", "To have it true:", "NEXT  "] {
        assert!(explained.contains(wanted), "{wanted}: {explained}");
    }
    let planned = run(&janitor, &["defrag", "--dry-run"], 4).await;
    assert!(planned.contains("PLAN") && planned.contains("send Defragment to"), "{planned}");
    assert!(planned.contains("skipped(not_needed)"), "{planned}");
    assert!(run(&janitor, &["history"], 0).await.contains("no round is on record"));

    janitor.write_config(&format!("{}\n", idle().replace("defrag: {", "defrag: { rule: 'true',")));
    let done = run(&janitor, &["defrag"], 0).await;
    assert!(done.contains("it cannot be cancelled") && done.contains("done"), "{done}");
    // The daemon hears of the record by its watch.
    says(&janitor, "it knows the round", Duration::from_secs(10), |status| status["history"][0]["outcome"] == "done")
        .await;
    let history = run(&janitor, &["history", "-o", "json"], 0).await;
    let history: Value = serde_json::from_str(&history).expect("JSON");
    assert_eq!(history["history"][0]["outcome"], "done", "{history}");
    assert_eq!(history["history"][0]["member"], format!("{:016x}", cluster.member(follower).id));

    // Each of these is a cause that somebody has to find at night.
    let other = (0..3).find(|index| ![leader, follower].contains(index)).expect("three members");
    cluster.stop(other).await;
    let checked = run(&janitor, &["check", "-o", "short"], 1).await;
    assert!(checked.contains("member_down") && checked.contains(&format!("m{other} ")), "{checked}");
    // The daemon may have looked a moment before, and does so again after five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let shown = run(&janitor, &["status"], 1).await;
    assert!(shown.contains(&format!("m{other} is not well")), "{shown}");
    janitor.stop().await;
    janitor.set_environment("ETCD_JANITOR__ETCD__MEMBER_NAME", "etcd-of-somebody-else");
    let checked = run(&janitor, &["check", "-o", "short"], 1).await;
    assert!(checked.contains("× FAIL the endpoint is one member, and the right one"), "{checked}");
    let said = run(&janitor, &["defrag"], 4).await;
    assert!(said.contains("wrong_member"), "{said}");
}

/// Another address of a member: all are on one, and pods are not.
async fn also_at(host: Ipv4Addr, member: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).await.expect("all of 127/8 is here");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(member).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    address
}

#[tokio::test]
async fn check_tells_of_a_janitor_that_is_missing_and_of_one_that_differs() {
    let cluster = Cluster::start(Spec { tls: Tls::Off, auth: None, ..Spec::default() }).await;
    let hosts = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];
    let peers = [
        also_at(hosts[0], cluster.member(1).client_address()).await,
        also_at(hosts[1], cluster.member(2).client_address()).await,
    ];
    let yaml = format!("{}etcd: {{ peers: ['http://{}', 'http://{}'] }}\n", idle(), peers[0], peers[1]);
    let mut janitor = Janitor::start(&cluster, 0, &yaml).await;
    let mut other = Janitor::prepare(&cluster, 1, "defrag: { schedule: '30 4 * * *', rule: 'true' }\n");
    other.listen_like(&janitor, hosts[0]);
    other.start_again().await;
    knows_all(&other, 3).await;
    let at = janitor.address().port();
    let checked = run(&janitor, &["check"], 0).await;
    let wanted = [
        "‼ warn the janitor of m1 is there, with this configuration: defrag.rule there: true, here: ",
        "defrag there: 30 4 * * * (UTC), here: ",
        &format!("‼ warn the janitor of m2 is there, with this configuration: nobody listens on 127.0.0.3:{at}"),
    ];
    for wanted in wanted {
        assert!(checked.contains(wanted), "{wanted}: {checked}");
    }

    other.reload(&yaml.replace(&peers[0].to_string(), &cluster.member(0).client_address().to_string())).await;
    let mut third = Janitor::prepare(&cluster, 2, &idle());
    // A token is asked for, which clear text would give away.
    let token = third.folder().join("token");
    std::fs::write(&token, "correct horse battery staple").expect("a file");
    for janitor in [&mut third, &mut janitor] {
        janitor.set_environment("ETCD_JANITOR__HTTP__BEARER_TOKEN_FILE", &token.display().to_string());
    }
    third.listen_like(&janitor, hosts[1]);
    third.start_again().await;
    let checked = run(&janitor, &["check"], 0).await;
    let well = "√ ok   the janitor of m1 is there, with this configuration: version ";
    assert!(checked.contains(well), "{checked}");
    assert!(checked.contains(&format!("127.0.0.3:{at} asks for a token, which is sent only to")), "{checked}");
}
