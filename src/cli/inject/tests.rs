use proptest::prelude::*;

use super::node::View;
use super::*;

const FIXTURES: [(&str, &str); 7] = [
    ("bitnami", include_str!("../../../tests/inject/bitnami.yaml")),
    ("bitnami-tls", include_str!("../../../tests/inject/bitnami-tls.yaml")),
    ("cert-manager", include_str!("../../../tests/inject/cert-manager.yaml")),
    ("etcd-io", include_str!("../../../tests/inject/etcd-io.yaml")),
    ("list", include_str!("../../../tests/inject/list.json")),
    ("pod", include_str!("../../../tests/inject/pod.yaml")),
    ("traps", include_str!("../../../tests/inject/traps.yaml")),
];

pub(super) fn options() -> Options {
    Options {
        image: "etcd-janitor:test".to_owned(),
        plain: false,
        container: None,
        config_map: None,
        password_secret: None,
        move_liveness_probe: false,
        keys: Vec::new(),
    }
}

fn transform(text: &str, act: &workload::Act<'_>) -> Transformed {
    let mut result = Transformed::default();
    result.add(text, "", act);
    result
}

fn inject_with(text: &str, options: &Options) -> Transformed {
    transform(text, &|pod, path| pod::inject(pod, path, options))
}

fn injected(text: &str, options: &Options) -> String {
    let result = inject_with(text, options);
    assert_eq!(result.failed(), None, "{}", result.summary());
    result.text
}

fn uninjected(text: &str) -> String {
    let result = transform(text, &pod::uninject);
    assert_eq!(result.failed(), None, "{}", result.summary());
    result.text
}

/// All documents of a stream that say something, and how each is written.
fn values(stream: &str) -> Vec<(&str, Node)> {
    let stream = stream.trim_start_matches('\u{feff}');
    let pieces = stream::cut(stream).into_iter().filter(|piece| !piece.is_prologue());
    pieces.filter_map(|piece| Some((piece.text, read::document(piece.text, "d", 1).unwrap().node?))).collect()
}

/// Whether two streams say the same; a document with a key twice says it only in the same letters.
fn equal(one: &str, two: &str) -> bool {
    let (one, two) = (values(one), values(two));
    one.len() == two.len() && one.iter().zip(&two).all(|(one, two)| one.0 == two.0 || one.1.same(&two.1))
}

/// The refusal of a stream, as people see it.
fn refusal(text: &str, options: &Options) -> String {
    let result = inject_with(text, options);
    assert!(result.failed().is_some(), "not refused:\n{}", result.text);
    result.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn any_options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(plain, config, secret, probe, port)| {
            let mut options = options();
            options.plain = plain;
            options.config_map = config.then(|| "janitor".to_owned());
            options.password_secret = secret.then(|| ("etcd".to_owned(), "password".to_owned()));
            options.move_liveness_probe = probe;
            if port {
                options.keys.push(("http.listen".to_owned(), "[::]:9379".to_owned()));
            }
            options
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_second_injection_changes_no_byte(fixture in 0..FIXTURES.len(), options in any_options()) {
        let once = injected(FIXTURES[fixture].1, &options);
        prop_assert_ne!(&once, FIXTURES[fixture].1);
        prop_assert_eq!(injected(&once, &options), once);
    }

    #[test]
    fn taken_out_again_the_objects_are_what_they_were(fixture in 0..FIXTURES.len(), options in any_options()) {
        let original = FIXTURES[fixture].1;
        let there = injected(original, &options);
        prop_assert!(!equal(&there, original));
        let back = uninjected(&there);
        prop_assert!(equal(&back, original), "{}", back);
        prop_assert_eq!(uninjected(&back), back);
    }

    #[test]
    fn an_injection_over_another_is_the_same_as_alone(
        fixture in 0..FIXTURES.len(),
        first in any_options(),
        second in any_options(),
    ) {
        let original = FIXTURES[fixture].1;
        let over = injected(&injected(original, &first), &second);
        prop_assert!(equal(&over, &injected(original, &second)), "{}", over);
        prop_assert!(equal(&uninjected(&over), original));
    }

    #[test]
    fn what_is_no_pod_of_etcd_stays_byte_for_byte(
        node in read::tests::any_node(),
        gaps in prop::collection::vec(prop::sample::select(vec!["\n", "# c\n", "---\n", "--- # x\n", "...\n", "\r\n"]), 0..6),
    ) {
        let mut stream: String = gaps.concat();
        stream.push_str("\n---\nkind:   ConfigMap # c\ndata: !!map {a: &a 1, a: *a}\n---\nkind: StatefulSet\napiVersion:  apps/v1\n");
        stream.push_str("spec: {template: {spec: {containers: [{name:  x, image: 'nginx'}]}}}\n");
        let before = stream.len();
        let object = Node::map([("kind", Node::text("Secret")), ("data", node)]);
        stream.push_str("---\n");
        stream.push_str(&write::yaml(&object));
        prop_assert_eq!(injected(&stream, &options()), stream.clone());
        // An etcd behind it changes nothing of what stands before it.
        let with_etcd = format!("{stream}---\n{}", FIXTURES[5].1);
        prop_assert_eq!(&injected(&with_etcd, &options())[..stream.len()], &stream);
        prop_assert!(before > 0);
    }
}

#[test]
fn a_moved_probe_is_remembered_and_comes_back() {
    let mut options = options();
    options.move_liveness_probe = true;
    let there = injected(FIXTURES[3].1, &options);
    assert!(there.contains("path: /etcd/livez"), "{there}");
    assert!(there.contains("value: \"0s\""), "{there}");
    let back = uninjected(&there);
    assert!(!back.contains("/etcd/livez"), "{back}");
    assert!(equal(&back, FIXTURES[3].1));
    // Somebody's own probe since then is theirs.
    let theirs = there.replace("path: /etcd/livez", "path: /mine");
    assert!(uninjected(&theirs).contains("path: /mine"));
}

#[test]
fn line_ends_and_the_mark_of_a_files_beginning_stay() {
    let windows = format!("\u{feff}{}", FIXTURES[5].1.replace('\n', "\r\n"));
    let there = injected(&windows, &options());
    assert!(there.starts_with("\u{feff}apiVersion: v1\r\n"), "{there}");
    assert_eq!(there.matches('\n').count(), there.matches("\r\n").count());
    assert!(equal(&uninjected(&there), FIXTURES[5].1));
}

#[test]
fn comments_and_markers_around_a_changed_document_stay() {
    let there = injected(FIXTURES[6].1, &options());
    for kept in [
        "# Everything that a YAML library",
        "  x: 1\n  x: 2\nalias: *a\n---\n---  # a marker with a comment\n# above\napiVersion:",
        "# below\n...\n# between\n\n# and after\n---\n",
        "octal: \"0400\"",
        "minReadySeconds: 0x0A",
        "hostNetwork: no",
        "\"on\": \"yes\"",
        "plain-version: 3.5.30",
    ] {
        assert!(there.contains(kept), "{kept:?} is not in\n{there}");
    }
}

#[test]
fn json_stays_json() {
    let there = injected(FIXTURES[4].1, &options());
    let value: serde_json::Value = serde_json::from_str(&there).unwrap();
    let sidecar = &value["items"][1]["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert!(there.contains("\"generation\": 12345678901234567890123"), "{there}");
    let compact = serde_json::to_string(&value["items"][1]).unwrap();
    assert_eq!(injected(&uninjected(&compact), &options()).lines().count(), 1);
}

#[test]
fn refusals_name_the_place() {
    let pod = |containers: &str| {
        format!("a: 1\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n  containers:\n{containers}")
    };
    let etcd = "  - {name: etcd, image: etcd, command: [etcd, --listen-client-urls=http://0.0.0.0:2379]}\n";
    let check = |text: &str, expected: &str| {
        let refusal = refusal(text, &options());
        assert!(refusal.contains(expected), "{refusal:?} without {expected:?}");
    };
    check(&pod("  - {name: etcd, image: 5}\n"), "documents[1].spec.containers[0].image: expected text, found a number");
    check(&pod("  - etcd\n"), "documents[1].spec.containers[0]: expected a map, found text");
    check(&pod("    etcd: {}\n"), "documents[1].spec.containers: expected a list, found a map");
    check(
        &pod(&format!("{etcd}{}", etcd.replace("name: etcd", "name: b"))),
        "documents[1].spec.containers: etcd and b look like etcd; say which with --container NAME",
    );
    for image in ["etcd:{{ .tag }}", "{{ .image }}"] {
        let container = format!("  - {{name: main, image: '{image}'}}\n");
        check(&pod(&container), "documents[1].spec.containers[0].image: a template");
    }
    check(&pod(&format!("{etcd}  - &x {{name: other}}\n")), "documents[1].spec.containers[1]: an anchor");
    check(
        &pod(&format!("{etcd}  - {{name: other, name: more}}\n")),
        "documents[1].spec.containers[1].name: this key is there twice",
    );
    check(
        &pod(&format!("{etcd}  - {{name: etcd-janitor}}\n")),
        "documents[1].spec.containers[1]: a container etcd-janitor that inject did not put there",
    );
    check(
        &pod(&format!("{etcd}  - {{name: other, ports: [{{containerPort: 8379}}]}}\n")),
        "documents[1].spec.containers[1].ports[0]: port 8379 is taken",
    );
    check(
        &pod(&etcd.replace("etcd,", "etcd, --config-file=/c,")),
        "documents[1].spec.containers[0]: etcd reads its settings from --config-file",
    );
    check(&pod(&etcd.replace("http:", "https:").replace("]}", ", --auto-tls]}")), "--auto-tls");
    check(
        &pod(&etcd.replace("http:", "https:").replace("]}", ", --trusted-ca-file=/ca]}")),
        "no volume is mounted where /ca lies",
    );
    check(
        &pod(&etcd.replace("http://0.0.0.0", "$(SCHEME)://0.0.0.0")),
        "--listen-client-urls: what SCHEME is, is not known here",
    );
    check(
        &pod(&etcd.replace("]}", "], env: [{name: ETCD_ROOT_PASSWORD, value: hunter2}]}")),
        "ETCD_ROOT_PASSWORD holds the password itself",
    );
    check("%YAML 1.2\n---\napiVersion: v1\nkind: Pod\nspec: {containers: [{name: etcd, image: etcd}]}\n", "directives");
    check(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x}\n",
        "documents[0].spec.template: expected a pod template",
    );
    check("apiVersion: v1\nkind: List\nitems: {}\n", "documents[0].items: expected a list");
    check(
        "apiVersion: v1\nkind: List\nitems: [{}, {apiVersion: v1, kind: Pod, spec: {containers: 5}}]\n",
        "documents[0].items[1].spec.containers: expected a list",
    );
    check("- a\n", "documents[0]: not a Kubernetes object");
    check("kind: Pod\n---\n\n---\nb: [\n", "documents[1], line 6: not YAML");
}

#[test]
fn nothing_secret_is_repeated() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: etcd, image: etcd, env: [{name: ETCD_ROOT_PASSWORD, value: hunter2}]}]}\n";
    let result = inject_with(pod, &options());
    assert!(!result.summary().contains("hunter2"), "{}", result.summary());
}

#[test]
fn a_strange_annotation_is_not_guessed_at() {
    let there = injected(FIXTURES[5].1, &options());
    let line = there.lines().find(|line| line.contains(pod::ANNOTATION)).unwrap();
    for strange in ["{}", "{\"v\":2}", "{\"v\":1}", "[", "{\"v\":1,\"in\":\"volumes\",\"container\":\"x\"}", "x"] {
        let broken = there.replace(line, &format!("    {}: '{strange}'", pod::ANNOTATION));
        for result in [inject_with(&broken, &options()), transform(&broken, &pod::uninject)] {
            assert_eq!(result.failed(), Some(SKIPPED), "{strange}: {}", result.text);
            assert!(
                result
                    .summary()
                    .contains("documents[0].metadata.annotations.[etcd-janitor/injected]: not what inject writes"),
                "{}",
                result.summary()
            );
        }
    }
}

#[test]
fn a_container_is_etcd_by_what_it_runs() {
    let word = |containers: &str, options: &Options| {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec: {{containers: [{containers}]}}\n");
        inject_with(&text, options).summary()
    };
    let found = |containers: &str, name: &str| {
        let said = word(containers, &options());
        assert!(said.contains(&format!("container {name},")), "{containers}: {said}");
    };
    found("{name: a, image: 'registry:5000/x/etcd:v3'}, {name: b, image: nginx}", "a");
    found("{name: a, image: 'etcd@sha256:00'}, {name: b, image: etcd, command: [etcdctl, snapshot]}", "a");
    found("{name: a, image: mine, args: [/bin/etcd, -data-dir, /x]}", "a");
    found("{name: a, image: etcd-arm64}, {name: b, image: etcd-exporter}", "a");
    found("{name: a, image: etcd, args: [--data-dir=/x]}, {name: b, image: etcd}", "a");
    let none = word("{name: a, image: etcd-druid}, {name: b, image: x, args: [etcd]}", &options());
    assert!(none.contains("skipped: no etcd container"), "{none}");
    let mut named = options();
    named.container = Some("b".to_owned());
    assert!(word("{name: a, image: etcd}, {name: b, image: etcd}", &named).contains("container b,"));
    assert!(word("{name: a, image: etcd}", &named).contains("skipped: no container b"));
}

#[test]
fn a_configuration_that_the_janitor_would_refuse_is_not_written() {
    let mut options = options();
    options.keys.push(("defrag.window".to_owned(), "soon".to_owned()));
    let said = refusal(FIXTURES[5].1, &options);
    assert!(said.contains("the janitor would refuse its configuration") && said.contains("defrag.window"), "{said}");
    options.keys = vec![("etcd.auth.username".to_owned(), "root".to_owned())];
    assert!(refusal(FIXTURES[5].1, &options).contains("--password-file"));
}

#[test]
fn the_sidecar_may_run_where_the_pod_is_root() {
    let there = injected(FIXTURES[2].1, &options());
    let values = values(&there);
    let pod = View::new(&values[1].1, "d").at(&["spec", "template", "spec"]).unwrap();
    let sidecar = &pod.get("initContainers").unwrap().items().unwrap()[0];
    assert_eq!(sidecar.at(&["securityContext", "runAsUser"]).unwrap().number().unwrap(), Some(65_532));
    assert_eq!(sidecar.at(&["resources", "limits", "cpu"]).unwrap().text().unwrap(), Some("100m"));
}

#[test]
fn files_that_the_sidecar_could_not_read_are_told() {
    let manifest = |mode: &str, user: &str| {
        FIXTURES[2]
            .1
            .replace("etcd-server-tls}", &format!("etcd-server-tls, defaultMode: {mode}}}"))
            .replace("runAsUser: 0", user)
    };
    let told = |mode: &str, user: &str| {
        inject_with(&manifest(mode, user), &options()).summary().matches("are root's alone").count()
    };
    for mode in ["0400", "256", "0o440", "288"] {
        assert_eq!(told(mode, "runAsUser: 0"), 1, "{mode}");
    }
    assert_eq!(told("0444", "runAsUser: 0"), 0);
    assert_eq!(told("0400", "runAsUser: 1001"), 0, "etcd itself could not read them");
    assert_eq!(told("0400", "fsGroup: 1001"), 0);
}

#[test]
fn lists_may_lie_in_lists() {
    let indented = FIXTURES[5].1.replace('\n', "\n    ");
    let list =
        format!("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: List\n  items:\n  - {indented}\n");
    let there = injected(&list, &options());
    assert!(there.contains("name: etcd-janitor"), "{there}");
    assert!(equal(&uninjected(&there), &list));
    let typed = "apiVersion: apps/v1\nkind: StatefulSetList\nitems:\n- metadata: {name: x}\n  spec: {template: {spec: {containers: [{name: etcd, image: etcd}]}}}\n";
    assert!(injected(typed, &options()).contains("name: etcd-janitor"));
}

/// A Pod with one etcd container that is told these words, and what else stands in its `spec` and container.
fn pod_of(args: &str, container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\nspec:\n  containers:\n  - name: etcd\n    image: etcd\n    \
         args: [{args}]\n{container}{spec}"
    )
}

#[test]
fn a_host_name_is_the_pods_only_to_a_shell_and_where_no_other_is_given() {
    let member = |text: &str| {
        let said = inject_with(text, &options()).summary();
        said.lines().find_map(|line| line.trim().strip_prefix("member     ")).map(str::to_owned)
    };
    let shell = |spec: &str| {
        let text = pod_of("'etcd --data-dir=/x --name=${HOSTNAME}'", "    command: [sh, -c]\n", spec);
        member(&text).is_some_and(|name| name.starts_with("the pod's name"))
    };
    assert!(shell(""));
    assert!(shell("  hostNetwork: false\n  setHostnameAsFQDN: false\n"));
    for spec in ["  hostNetwork: true\n", "  setHostnameAsFQDN: true\n", "  hostname: other\n"] {
        assert!(!shell(spec), "{spec}");
    }
    // The kubelet puts nothing in for a variable that nobody sets.
    assert_eq!(member(&pod_of("--name=$(HOSTNAME)", "", "")), None);
    let set = "    env: [{name: HOSTNAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n";
    assert!(member(&pod_of("--name=$(HOSTNAME)", set, "")).is_some_and(|name| name.starts_with("the pod's name")));
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_counts() {
    let text = pod_of("--listen-client-urls=http://0.0.0.0:1, --listen-client-urls, 'http://0.0.0.0:2'", "", "");
    assert!(injected(&text, &options()).contains("http://127.0.0.1:2\""));
}

#[test]
fn an_authority_for_clients_makes_etcd_ask_for_certificates() {
    let mounts = "    volumeMounts: [{name: tls, mountPath: /tls}]\n";
    let told = |more: &str| {
        let args = format!(
            "--listen-client-urls=https://0.0.0.0:2379, --cert-file=/tls/tls.crt, --key-file=/tls/tls.key{more}"
        );
        injected(&pod_of(&args, mounts, ""), &options())
    };
    assert!(told(", --trusted-ca-file=/tls/ca.crt").contains("ETCD_JANITOR__ETCD__TLS__CERT_FILE"));
    assert!(told(", --client-cert-auth").contains("ETCD_JANITOR__ETCD__TLS__CERT_FILE"));
    assert!(!told("").contains("ETCD_JANITOR__ETCD__TLS__CERT_FILE"));
}

#[test]
fn files_that_are_ordered_are_mounted_and_the_probes_speak_what_the_port_speaks() {
    let text =
        pod_of("--listen-client-urls=http://0.0.0.0:2379", "    volumeMounts: [{name: tls, mountPath: /tls}]\n", "");
    let text = format!("{text}    livenessProbe: {{httpGet: {{path: /livez, port: 2379}}}}\n");
    let mut options = options();
    options.move_liveness_probe = true;
    assert_eq!(injected(&text, &options).matches("scheme: HTTP\n").count(), 2);
    let order = |file: &str, value: &str| ((file.to_owned()), value.to_owned());
    options.keys = vec![order("http.tls.cert_file", "/tls/tls.crt"), order("http.tls.key_file", "/tls/tls.key")];
    let there = injected(&text, &options);
    assert_eq!(there.matches("scheme: HTTPS\n").count(), 2, "{there}");
    assert_eq!(there.matches("mountPath: /tls\n").count(), 2, "{there}");
    for (key, file) in [
        ("http.bearer_token_file", "/token"),
        ("etcd.tls.ca_file", "/etc/etcd-janitor/ca.crt"),
        ("defrag.data_dir", "/data"),
        ("http.tls.key_file", "/tlskey"),
    ] {
        options.keys.push(order(key, file));
        let said = refusal(&text, &options);
        assert!(said.contains(&format!("no volume is mounted where {file} lies")) && said.contains(key), "{said}");
        options.keys.pop();
    }
    // The ConfigMap may have more than the configuration.
    options.config_map = Some("janitor".to_owned());
    options.keys.push(order("etcd.tls.ca_file", "/etc/etcd-janitor/ca.crt"));
    injected(&text, &options);
}

#[test]
fn with_a_config_map_the_probes_find_the_port_all_the_same() {
    let mut options = options();
    let listens = |options: &Options| injected(FIXTURES[3].1, options).matches("ETCD_JANITOR__HTTP__LISTEN").count();
    assert_eq!(listens(&options), 0);
    options.config_map = Some("janitor".to_owned());
    assert_eq!(listens(&options), 1);
    options.keys.push(("http.listen".to_owned(), "[::]:9000".to_owned()));
    assert_eq!(listens(&options), 1);
}

#[test]
fn what_stands_beside_etcd_and_matters_to_it_is_told() {
    let policy = "kind: NetworkPolicy\nmetadata: {name: p}\n";
    let job = "kind: CronJob\nmetadata: {name: c}\nspec: {args: [etcdctl, defrag]}\n";
    let other = "kind: CronJob\nmetadata: {name: d}\nspec: {args: [etcdctl, snapshot]}\n";
    let told = |text: &str| inject_with(text, &options()).summary().matches("attention  i").count();
    assert_eq!(told(&format!("{policy}---\n{job}---\n{other}---\n{}", pod_of("--name=x", "", ""))), 2);
    assert_eq!(told(&format!("{policy}---\n{job}")), 0, "there is no etcd beside them");
}

#[test]
fn json_objects_one_after_the_other_are_documents() {
    let pod = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "etcd", "image": "etcd"}]}}"#;
    let there = injected(&format!("{{\"kind\":  \"Service\"}}\n{pod}\n{{\"kind\":   \"Secret\"}}\n"), &options());
    assert!(there.starts_with("{\"kind\":  \"Service\"}\n{\"apiVersion\""), "{there}");
    assert!(there.contains("etcd-janitor/injected") && there.ends_with("\n{\"kind\":   \"Secret\"}\n"), "{there}");
}
