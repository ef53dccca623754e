//! What each path answers, and to whom.

use std::sync::Arc;
use std::time::Duration;

use etcd_janitor::cli::probe::{Which, probe};
use etcd_janitor::config::Config;
use etcd_janitor::http::{Access, Command, EtcdProbe, ProbeAnswer};
use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Reason};
use etcd_janitor::plan::snapshot::{Alarm, Decision, Member, Snapshot, TaskKind};
use futures_util::FutureExt;

use crate::running::*;
use crate::sample;

#[tokio::test]
async fn livez_and_readyz_tell_what_they_looked_at() {
    let running = start(sample::unknown()).await;
    for (path, body) in [
        ("/livez", "ok\n"),
        ("/livez?verbose", "[+]ping ok\n[+]loop ok\nlivez check passed\n"),
        ("/healthz?verbose", "[+]ping ok\n[+]loop ok\nhealthz check passed\n"),
        ("/readyz?verbose=true", "[+]ping ok\n[+]config ok\nreadyz check passed\n"),
        ("/readyz?verbose&exclude=config", "[+]ping ok\n[+]config excluded: ok\nreadyz check passed\n"),
        ("/readyz?%ff=%zz&&&", "ok\n"),
    ] {
        let answer = running.get(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body), "{path}");
    }
}

/// Guarantee 8: etcd away, everything wrong there, and the pod is still well.
#[tokio::test]
async fn liveness_and_readiness_do_not_depend_on_etcd() {
    let never = Arc::new(|_| std::future::pending::<ProbeAnswer>().boxed());
    let snapshot = Snapshot { etcd_up: Some(false), draining: true, quiesced: true, ..sample::unknown() };
    let running = Setup { etcd: never, limits: hasty(), ..Setup::default() }.start(snapshot).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(running.get(path).await.status, 200, "{path}");
    }
    let answer = running.get("/etcd/livez").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, "[-]etcd failed: no answer within 100 ms\netcd/livez check failed\n")
    );
}

#[tokio::test]
async fn a_bad_configuration_fails_readiness_and_not_liveness() {
    let mut snapshot = sample::unknown();
    snapshot.config.valid = false;
    snapshot.config.problems = vec!["defrag.window: \"x\"\nis not a duration".into(), "defrag.tyop: unknown".into()];
    let running = start(snapshot).await;
    assert_eq!(running.get("/livez").await.status, 200);
    let answer = running.get("/readyz").await;
    let failed = "[-]config failed: defrag.window: \"x\" is not a duration; defrag.tyop: unknown\n";
    assert_eq!((answer.status, answer.body), (503, format!("[+]ping ok\n{failed}readyz check failed\n")));
    assert_eq!(running.get("/readyz?exclude=config").await.status, 200);
}

#[tokio::test]
async fn a_loop_that_does_not_turn_fails_liveness() {
    let running = Setup { silence: Duration::from_secs(2), ..Setup::default() }.start(sample::unknown()).await;
    assert_eq!(running.get("/livez").await.status, 200);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let answer = running.get("/livez").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("[-]loop failed: the loop has not turned for 2."), "{}", answer.body);
    assert_eq!(running.get("/readyz").await.status, 200);
    running.heartbeat.touch();
    assert_eq!(running.get("/livez").await.status, 200);
}

#[tokio::test]
async fn the_etcd_probes_are_answered_by_the_daemon() {
    let etcd = Arc::new(|probe| {
        let answer = match probe {
            EtcdProbe::Livez => ProbeAnswer { ok: true, text: "a defrag is under way".into() },
            EtcdProbe::Readyz => ProbeAnswer { ok: true, text: String::new() },
        };
        async move { answer }.boxed()
    });
    let running = Setup { etcd, ..Setup::default() }.start(sample::unknown()).await;
    let answer = running.get("/etcd/livez?verbose").await;
    assert_eq!(answer.body, "[+]etcd ok: a defrag is under way\netcd/livez check passed\n");
    assert_eq!(running.get("/etcd/readyz").await.status, 200);

    running.snapshot.send_modify(|snapshot| Arc::make_mut(snapshot).draining = true);
    let answer = running.get("/etcd/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("[-]drain failed: "), "{}", answer.body);
    assert_eq!(running.get("/etcd/livez").await.status, 200, "draining is no reason to kill it");
}

#[tokio::test]
async fn the_snapshot_is_served_as_json() {
    let running = start(sample::known()).await;
    let answer = running.get("/api/v1/status").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let read: Snapshot = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(read.members, running.snapshot.borrow().members);

    let answer = running.get("/api/v1/history").await;
    let read: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((read["api_version"].as_u64(), read["history"].as_array().map(Vec::len)), (Some(1), Some(30)));
}

#[tokio::test]
async fn methods_and_paths_that_do_not_exist_are_refused() {
    let mut running = start(sample::known()).await;
    assert_eq!(running.get("/nothing").await.status, 404);
    assert_eq!(running.get("/api/v1/quiesce").await.status, 405);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in ["/", "/metrics", "/livez", "/api/v1/status"] {
            let answer = running.request(&format!("{method} {path} HTTP/1.1\r\n"), "").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
    }
    assert!(running.commands.try_recv().is_err());
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let running = start(sample::known()).await;
    for path in ["/", "/metrics", "/livez", "/readyz", "/api/v1/status"] {
        let answer = running.request(&format!("HEAD {path} HTTP/1.1\r\n"), "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
        assert!(answer.header("content-length").is_some_and(|length| length != "0"), "{}", answer.headers);
    }
}

#[tokio::test]
async fn a_token_guards_everything_but_the_probes() {
    let mut running = start(sample::known()).await;
    let guarded = ["/", "/metrics", "/api/v1/status", "/api/v1/history", "/nothing", "/livez/", "/etcd/other"];
    let open = ["/livez", "/readyz?verbose", "/healthz", "/etcd/livez", "/etcd/readyz"];
    running.access.send_replace(Access::Bearer("correct horse".into()));
    for path in guarded {
        let answer = running.get(path).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert!(!answer.body.contains("correct"));
    }
    for path in open {
        assert_eq!(running.get(path).await.status, 200, "{path}");
    }
    let with = |value: &str| format!("GET /metrics HTTP/1.1\r\nAuthorization: {value}\r\n");
    for wrong in
        ["Bearer", "Bearer ", "Bearer correct", "Bearer correct horses", "Basic correct horse", "correct horse"]
    {
        assert_eq!(running.request(&with(wrong), "").await.status, 401, "{wrong}");
    }
    assert_eq!(running.request(&with("Bearer correct horse"), "").await.status, 200);
    assert_eq!(running.request("POST /api/v1/quiesce HTTP/1.1\r\n", "").await.status, 401);
    assert!(running.commands.try_recv().is_err());

    // Rotated, emptied, unreadable.
    running.access.send_replace(Access::Bearer("new".into()));
    assert_eq!(running.request(&with("Bearer correct horse"), "").await.status, 401);
    assert_eq!(running.request(&with("bearer new"), "").await.status, 200);
    running.access.send_replace(Access::Bearer("".into()));
    assert_eq!(running.request(&with("Bearer "), "").await.status, 401);
    running.access.send_replace(Access::Closed);
    assert_eq!(running.request(&with("Bearer new"), "").await.status, 401);
    assert_eq!(running.get("/livez").await.status, 200);
}

#[tokio::test]
async fn quiesce_is_taken_from_the_pod_only() {
    let mut running = Setup { listen: "[::]:0", ..Setup::default() }.start(sample::known()).await;
    let port = running.address.port();
    let post = "POST /api/v1/quiesce HTTP/1.1\r\n";

    // ::ffff:127.0.0.1 and, where there is IPv6, ::1. Twice: a full queue is no error.
    running.address = ([127, 0, 0, 1], port).into();
    for _ in 0..2 {
        assert_eq!(running.request(post, "please").await.status, 202);
    }
    assert_eq!(running.commands.try_recv(), Ok(Command::Quiesce));
    assert!(running.commands.try_recv().is_err());
    let browser = format!("{post}Origin: http://example.com\r\n");
    assert_eq!(running.request(&browser, "").await.status, 403);
    for forwarded in ["Via: 1.1 proxy", "Forwarded: for=10.0.0.1", "X-Forwarded-For: 10.0.0.1"] {
        assert_eq!(running.request(&format!("{post}{forwarded}\r\n"), "").await.status, 403, "{forwarded}");
    }

    // All of 127/8 is this host, so the other end can call itself what it likes.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.6:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(running.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{post}Host: x\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(Answer::parse(&read_to_close(&mut stream).await).status, 403);

    // An address of this machine that is not loopback, where there is one.
    if let Some(own) = own_address() {
        running.address = (own, port).into();
        assert_eq!(running.request(post, "").await.status, 403);
        assert_eq!(running.get("/livez").await.status, 200);
    }
    assert!(running.commands.try_recv().is_err());
}

/// Asks the routing table; nothing is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[tokio::test]
async fn the_page_is_small_and_allows_nothing() {
    let running = start(sample::known()).await;
    let answer = running.get("/").await;
    assert_eq!(answer.status, 200);
    println!("the page has {} bytes", answer.body.len());
    assert!(answer.body.len() < 60_000, "{} bytes", answer.body.len());
    let policy = answer.header("content-security-policy").unwrap();
    let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert!(answer.body.contains(&format!("<style nonce=\"{nonce}\">")));
    assert!(!running.get("/").await.headers.contains(nonce), "a nonce is used once");
    for wanted in [
        "Idle: next defrag due in 16h 59m; the last one, 6h 0m ago, freed 843 MiB.",
        "etcd-0*",
        "412 MiB",
        "180 MiB (44%)",
        "8.0 GiB (5%)",
        "href=\"/?refresh=off\"",
        "href=\"/readyz?verbose\"",
        "compacted to 91204133",
        "aria-label=\"180 MiB in use in a file of 412 MiB of a quota of 8.0 GiB\"",
        "288 compactions.",
        "30 records of 3 members since",
        "The rule is false: a defrag would not pay",
        "<td>0.56 &gt; 0.60</td>",
    ] {
        assert!(answer.body.contains(wanted), "{wanted} is missing in {}", answer.body);
    }
    assert!(!answer.body.contains("<script"));
    assert_eq!(answer.header("refresh"), Some("15"));
    let still = running.get("/?refresh=off").await;
    assert_eq!((still.status, still.header("refresh")), (200, None));
    assert!(still.body.contains("href=\"/\""), "{}", still.body);
    // The policy allows no style but the sheet's, and nothing is fetched.
    for forbidden in [" style=", " src=", "url(", "@import", "http://", "https://", " on"] {
        let markup = answer.body.split('<').filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag);
        assert_eq!(
            markup.clone().find(|tag| tag.contains(forbidden) && !tag.contains("aria-label")),
            None,
            "{forbidden}"
        );
    }
    assert_eq!(unbalanced(&answer.body), None);
    assert_eq!(running.get("/metrics").await.header("x-frame-options"), Some("DENY"));
}

#[tokio::test]
async fn records_that_cannot_be_read_are_shown_as_such() {
    let mut snapshot = sample::known();
    snapshot.intent_unreadable = Some("the record has version 9; this <release>".into());
    snapshot.hold_unreadable = Some("the record has version 8".into());
    let running = start(snapshot).await;
    let page = running.get("/").await.body;
    for wanted in [
        "in the way, and cannot be read: the record has version 9; this &lt;release&gt;",
        "in force, and cannot be read: the record has version 8",
    ] {
        assert!(page.contains(wanted), "{wanted} is missing in {page}");
    }
    let status: serde_json::Value = serde_json::from_str(&running.get("/api/v1/status").await.body).unwrap();
    assert_eq!(status["intent_unreadable"], "the record has version 9; this <release>");
    assert!(status["intent"].is_null());
}

/// The first tag that does not close what was opened last.
fn unbalanced(page: &str) -> Option<&str> {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(tag, _)| tag) {
        let name = tag.split(' ').next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) if open.pop() != Some(name) => return Some(tag),
            Some(_) => {}
            None if name.starts_with('!') || name == "meta" => {}
            None => open.push(name),
        }
    }
    open.pop()
}

#[tokio::test]
async fn hostile_names_stay_text() {
    let name = "</td><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}\0&";
    let running = start(sample::hostile(name)).await;
    let page = running.get("/").await.body;
    for broken in ["<script", "<img", "onerror=alert(1)>", "\u{202e}", "\0"] {
        assert!(!page.contains(broken), "{broken:?} got through");
    }
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&gt;"));
    assert_eq!(unbalanced(&page), None);

    running.snapshot.send_replace(Arc::new(sample::hostile(&"&".repeat(1 << 20))));
    let page = running.get("/").await.body;
    assert!(page.len() < 256 * 1024, "{} bytes", page.len());
    assert!(page.ends_with("</html>\n"));

    running.snapshot.send_replace(Arc::new(sample::unknown()));
    let page = running.get("/").await.body;
    assert!(page.contains("Starting: the local member was not asked yet."), "{page}");
    assert!(page.contains("no sample yet") && page.contains("no round is on record"), "{page}");
    assert_eq!(unbalanced(&page), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_probe_command_reports_what_the_daemon_says() {
    let mut snapshot = sample::unknown();
    snapshot.config.valid = false;
    let running = Setup { listen: "[::]:0", ..Setup::default() }.start(snapshot).await;
    let ask = |address, which| async move {
        let probe = move || {
            let mut out = Vec::new();
            let code = probe(&at(address), which, &mut out);
            (code, String::from_utf8(out).unwrap())
        };
        tokio::task::spawn_blocking(probe).await.unwrap()
    };
    let address = running.address;
    assert_eq!(ask(address, Which::Livez).await, (0, "livez ok\n".to_owned()));
    let (code, text) = ask(address, Which::Readyz).await;
    assert_eq!((code, text.as_str()), (1, "readyz answered 503: config failed: no valid configuration\n"));

    running.stop.cancel();
    running.task.await.unwrap();
    let (code, text) = ask(address, Which::Livez).await;
    assert_eq!((code, text.starts_with("nobody answers on ")), (3, true), "{text}");
}

/// Listens and says nothing, one byte at a time, or something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_probe_command_ends_in_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let drip = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while std::io::Write::write_all(&mut stream, b"H").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let began = std::time::Instant::now();
    let mut out = Vec::new();
    let code = tokio::task::block_in_place(|| probe(&at(address), Which::Livez, &mut out));
    assert_eq!(code, 1, "{}", String::from_utf8_lossy(&out));
    assert!((1900..8000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    drip.join().unwrap();
}

/// Otherwise `status` shows what was seen up to ten minutes ago.
#[tokio::test]
async fn who_asks_for_a_fresh_look_waits_for_one_and_not_for_ever() {
    let asked_for = |running: &Running| running.look_wanted.notified().now_or_never().is_some();
    let running = Setup { limits: hasty(), ..Setup::default() }.start(sample::known()).await;
    assert_eq!(running.get("/api/v1/status?fresh").await.status, 200);
    assert!(!asked_for(&running), "the look is of a moment ago");
    running.snapshot.send_modify(|snapshot| Arc::make_mut(snapshot).looked_at = None);
    assert_eq!(running.get("/api/v1/status").await.status, 200);
    assert!(!asked_for(&running), "nobody asked for it");
    // Whoever looks at the page alone, too.
    for path in ["/api/v1/status?fresh", "/"] {
        assert_eq!(running.get(path).await.status, 200, "what is known already, when the daemon does not look");
        assert!(asked_for(&running), "{path}");
    }

    let (answer, ()) = tokio::join!(running.get("/api/v1/status?fresh"), async {
        running.look_wanted.notified().await;
        let looked = Arc::new(sample::known());
        running.snapshot.send_replace(looked);
    });
    let read: Snapshot = serde_json::from_str(&answer.body).unwrap();
    assert!(read.looked_at.is_some(), "{}", answer.body);

    // With the wrong password there is nobody to look at, and no look to wait for.
    let refused = Some(Blocked::new(Reason::Auth, "authentication failed"));
    running.snapshot.send_replace(Arc::new(Snapshot { problem: refused, ..sample::unknown() }));
    assert_eq!(running.get("/").await.status, 200);
    assert!(!asked_for(&running));
}

/// Seven members, a long history, and everything as long as it gets.
#[tokio::test]
async fn the_largest_page_is_small() {
    let mut snapshot = sample::known();
    for record in &mut snapshot.history {
        record.detail = "x".repeat(240);
    }
    snapshot.history = (0..150).map(|at| snapshot.history[at % 30].clone()).collect();
    let member = |at: u64| Member { id: MemberId(at + 1), ..snapshot.members[at as usize % 3].clone() };
    snapshot.members = (0..7).map(member).collect();
    for decision in &mut snapshot.decisions {
        decision.text = "y".repeat(240);
    }
    let compactions: Vec<_> = (snapshot.decisions.iter().cloned())
        .map(|decision| Decision { task: TaskKind::Compaction, round: None, ..decision })
        .collect();
    snapshot.decisions.extend(compactions);
    let page = start(snapshot).await.get("/").await.body;
    println!("the page has {} bytes", page.len());
    assert!(page.len() < 60_000, "{} bytes", page.len());
    assert_eq!(unbalanced(&page), None);
}

/// There are many more compactions than rounds.
#[tokio::test]
async fn the_page_shows_the_nights_decisions_in_the_evening() {
    let mut snapshot = sample::known();
    snapshot.decisions.truncate(1);
    let now = chrono::Utc::now();
    snapshot.decisions.extend((0..25).map(|at| Decision {
        at: now,
        task: TaskKind::Compaction,
        round: None,
        text: format!("done compacted to revision {at}"),
        blocked: None,
    }));
    snapshot.config.problems = vec!["defrag.window is longer than the schedule's interval".into()];
    snapshot.alarms = vec![Alarm { alarm: "NOSPACE".into(), member: MemberId(2) }];
    snapshot.intent = Some(sample::intent("pod-2", 3));
    snapshot.members[1].name = "data-etcd-production-eu-1".into();
    let page = start(snapshot).await.get("/").await.body;
    for wanted in [
        "decision 0",
        "done compacted to revision 24",
        "<dt>Warning</dt><dd>defrag.window",
        "<dd>NOSPACE on data-etcd-production-eu-1</dd>",
        "<dd>of etcd-2 by pod-2 in ",
        "<dt>Free in it</dt><dd>232 MiB (56%)</dd>",
        "<dt>State</dt><dd>idle</dd>",
        "a defrag&#39;s outcome is not resolved yet",
        ">…production-eu-1</text>",
    ] {
        assert!(page.contains(wanted), "{wanted} is missing in {page}");
    }
}

/// Samples of a clock that was set, records of another time, a member without figures.
#[tokio::test]
async fn pictures_of_odd_figures_stay_pictures() {
    let now = chrono::Utc::now();
    let mut snapshot = sample::known();
    for (at, sample) in snapshot.sizes.iter_mut().enumerate() {
        sample.at = now + chrono::TimeDelta::days(at as i64 % 3 - 1);
        (sample.db_size, sample.db_size_in_use) = if at % 2 == 0 { (0, 0) } else { (u64::MAX, u64::MAX) };
    }
    for (at, record) in snapshot.history.iter_mut().enumerate() {
        record.ended_at = now + chrono::TimeDelta::days(at as i64 - 20);
    }
    (snapshot.members[0].db_size, snapshot.members[0].quota) = (Some(0), Some(0));
    (snapshot.members[1].db_size, snapshot.members[1].quota) = (Some(u64::MAX), Some(1));
    snapshot.members[2].db_size = None;
    snapshot.compactions = vec![now + chrono::TimeDelta::days(1), now - chrono::TimeDelta::days(2)];
    let running = start(snapshot).await;
    let page = running.get("/").await.body;
    assert_eq!(unbalanced(&page), None);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    assert!(page.contains("0 compactions."), "{page}");
}

/// One that was just started has a picture too.
#[tokio::test]
async fn the_chart_is_as_long_as_what_is_known() {
    // A sample every 144 seconds, the newest now.
    for (samples, called, wanted) in [
        (1, "last hour", "h-2\"></path>\n<path class=\"used\""),
        (20, "last hour", "45 min</text>"),
        (60, "last 4 hours", "3 h</text>"),
        (600, "last 24 hours", "18 h</text>"),
    ] {
        let mut snapshot = sample::known();
        snapshot.sizes.drain(..600 - samples);
        let page = start(snapshot).await.get("/").await.body;
        assert!(page.contains(&format!("<h2>Sizes, {called}</h2>")), "{samples} samples: {page}");
        assert!(page.contains(wanted), "{samples} samples: {page}");
    }
}

fn at(listen: std::net::SocketAddr) -> Config {
    let mut config = Config::default();
    config.http.listen = listen;
    config
}
