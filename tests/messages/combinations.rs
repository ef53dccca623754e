//! What is said about values that do not go together.

use crate::{given, matches_files};

#[test]
fn impossible_combinations_name_all_their_keys() {
    let files = [
        "etcd: { tls: { ca_file: /ca.crt, server_name: etcd } }",
        "etcd: { endpoint: 'https://a:1', tls: { cert_file: /tls.crt } }",
        "etcd: { endpoint: 'https://a:1', tls: { key_file: /tls.key } }",
        "etcd: { auth: { username: root } }",
        "etcd: { auth: { password_file: /password } }",
        "etcd: { endpoint: 'http://a:1', peers: ['http://a:1', 'http://b:1'] }",
        "etcd: { metrics: { local: 'http://a:1', peers: ['http://a:1'] } }",
        "defrag: { window: 1m, jitter: 1m, drain: 2m, pause_between: 70s }",
        "compaction: { mode: revision }",
        "compaction: { mode: periodic, retention: 1000 }",
        "compaction: { mode: revision, retention: 0 }",
        "etcd: { request_timeout: 20s }\nturn: { lease_ttl: 30s }",
    ];
    matches_files("combinations", &files);
}

#[test]
fn doubtful_combinations_are_warned_of() {
    let yaml = "etcd: { endpoint: 'http://etcd:2379', prefix: /registry/janitor/, auth: { username: root, password_file: /p } }\n\
        defrag: { schedule: '@hourly', window: 2h, leader_wait: 3h, rule: dbSizeFree > 1000 * GiB }\n\
        alarms: { rescue_retention: 2h }\nhttp: { bearer_token_file: /token }\n";
    matches_files("doubts", &[yaml]);
}

#[test]
fn a_guard_that_is_switched_off_is_told_of() {
    let yaml = "compaction: { when_kubernetes: force, when_etcd_compacts: force }\n\
        defrag: { small_cluster: allow, unsafe_versions: allow, liveness_budget: 0s }\n\
        alarms: { compact_to_head: true }\n";
    matches_files("lifted", &[yaml]);
}

#[test]
fn usual_combinations_are_not() {
    let usual = [
        "etcd: { endpoint: 'https://127.0.0.1:2379', tls: { ca_file: /ca, cert_file: /c, key_file: /k, server_name: n } }",
        "etcd: { endpoint: 'http://127.0.0.1:2379', peers: ['https://b:2379'], tls: { ca_file: /ca } }",
        "etcd: { endpoint: 'https://127.0.0.1:2379' }",
        "etcd: { auth: { username: root, password_file: /p } }",
        "etcd: { metrics: { local: 'http://127.0.0.1:2381' } }",
        "compaction: { mode: revision, retention: 10000 }",
        "compaction: { mode: revision, retention: '10000' }",
        "defrag: { liveness_budget: 2m, urgent_at: 1, pause_between: 0s }",
    ];
    for yaml in usual {
        let said = given(yaml.as_bytes()).check();
        assert!(said.ends_with("exit code 0\n") && !said.contains("warning"), "{yaml}\n{said}");
    }
}
