//! What is said about single values and broken files.

use crate::{given, matches, matches_files};

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let file = given(b"defrag: { schedul: '@daily' }\ndryrun: true\nschedule: '@daily'\netcd: { auth: { password: hunter2 } }\nnonsense: 1\n'defrag.window': 1h\n")
        .env("ETCD_JANITOR__DEFRAG_WINDOW", "1h")
        .env("ETCD_JANITOR__DEFRAG", "1h")
        .flag("defrag.rules", "true");
    assert!(!file.check().contains("hunter2"));
    matches("unknown_keys", &[("typos in file, environment and flags", file.check())]);
}

#[test]
fn a_wrong_type_is_refused() {
    let yaml = "dry_run: perhaps\nhistory: { limit: 10.5 }\netcd: { peers: http://a:1, member_name: 007, endpoint: [] }\n\
        defrag: { schedule: { minute: 5 }, rule: true, window: , timeout: [1h] }\nalarms: 5\ncompaction: [enabled]\n\
        http: { max_connections: -1, listen: localhost:8379 }\nlog: { format: xml, level: inof }\nturn: { lease_ttl: 1s }\n";
    matches_files("wrong_types", &[yaml]);
}

#[test]
fn a_bad_unit_is_refused() {
    let yaml = "defrag: { window: 90, timeout: 5M, jitter: -1s, drain: 2h, pause_between: 1y, urgent_at: 90% }\n\
        alarms: { quota: 8gb, disarm_below: NaN }\ncompaction: { retention: 1 month }\n";
    let huge = "alarms: { quota: 99999999999GiB, disarm_below: -0.5 }\ncompaction: { retention: 99999999h }\n\
        defrag: { urgent_at: 1e999 }\nhistory: { limit: 99999999999999999999 }\n";
    matches_files("bad_units", &[yaml, huge]);
}

#[test]
fn a_bad_schedule_or_zone_is_refused() {
    let files = [
        "defrag: { schedule: '0 24 * * *', time_zone: Europe/Pariss }\ncompaction: { schedule: '@every 5m' }\n",
        "defrag: { schedule: 0 0 30 2 * }\n",
        "defrag: { schedule: 0 0 0 1 1 * 2027, time_zone: CEST }\n",
        "defrag: { schedule: '@reboot' }\ncompaction: { schedule: daily }\n",
    ];
    matches_files("bad_schedules", &files);
}

#[test]
fn a_bad_rule_is_refused() {
    let rules = [
        "dbSize > 100 || quota > 1",
        "dbSizeFree > 200MiB",
        "dbSize - dbSizeInUse",
        "true || dbSize",
        "dbSize / dbSizeFree > 2",
        "dbSize > 1; exit",
        "(dbSize > 1",
        "",
    ];
    let parts: Vec<_> = rules.iter().map(|rule| (*rule, given(b"").flag("defrag.rule", rule).check())).collect();
    matches("bad_rules", &parts);
}

#[test]
fn a_bad_url_prefix_or_path_is_refused_without_secrets() {
    let yaml = "etcd:\n  endpoint: http://root:hunter2@127.0.0.1:2379\n  peers: [127.0.0.1:2379, 'http://a', 'http://a:1']\n  \
        metrics: { local: ftp://a:1, peers: ['http://a:1/metrics'] }\n  prefix: etcd-janitor\n  \
        auth: { username: root:hunter2, password_file: hunter2 }\nhttp: { tls: { cert_file: /tls.crt }, bearer_token_file: hunter2 }\n";
    let said = given(yaml.as_bytes()).check();
    assert!(!said.contains("hunter2"));
    matches("bad_addresses", &[("passwords in the wrong places", said)]);
}

#[test]
fn environment_and_flags_are_named() {
    let source = given(b"defrag: { window: 1h }")
        .env("ETCD_JANITOR__DEFRAG__WINDOW", "soon")
        .env("ETCD_JANITOR__DRY_RUN", "")
        .flag("log.format", "xml")
        .flag("turn.lease_ttl", "1h");
    matches("origins", &[("environment and flags", source.check())]);
}

#[test]
fn broken_yaml_is_refused_with_its_place_and_without_its_content() {
    let brackets = "[".repeat(100_000);
    let long = "#".repeat(300_000);
    let files: [(&str, &[u8]); 15] = [
        ("an open quote", b"defrag:\n  schedule: '@daily\n"),
        ("a tab", b"defrag:\n\tschedule: '@daily'\n"),
        ("a key twice", b"defrag:\n  window: 1h\n  window: 2h\n"),
        ("a password", b"hunter2\n"),
        ("a list", b"- hunter2\n"),
        ("two documents", b"a: 1\n---\nb: 2\n"),
        ("an open brace", b"hunter2: {hunter2: hunter2"),
        ("a map for a key", b"? {hunter2: hunter2}\n: 1\n"),
        ("an anchor", b"defrag: &x { window: 1h }\n"),
        ("a schedule without quotes", b"defrag: { schedule: */5 * * * * }\n"),
        ("a rule without quotes", b"defrag: { rule: !(dbSize > 1) }\n"),
        ("no number", b"alarms: { disarm_below: .nan }\n"),
        ("brackets", brackets.as_bytes()),
        ("no UTF-8", &[0xff, 0xfe, 0x00]),
        ("a long file", long.as_bytes()),
    ];
    let parts: Vec<_> = files.iter().map(|(name, yaml)| (*name, given(yaml).check())).collect();
    assert!(!parts.iter().any(|(_, said)| said.contains("hunter2")), "{parts:?}");
    matches("broken_yaml", &parts);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let source = given(
        b"defrag: { window: 5s, pause_between: 10s, rule: 'dbSize', colour: red }\netcd: { tls: { cert_file: /c } }",
    )
    .env("ETCD_JANITOR__LOG__FORMAT", "xml")
    .flag("etcd.endpoint", "nowhere");
    matches("everything_at_once", &[("several sources", source.check())]);
}
