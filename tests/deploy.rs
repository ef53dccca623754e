//! What is in `deploy/`: alerts fire when they should and not otherwise, dashboards keep the rules of Grafana's linter, neither
//! asks for a metric that does not exist, and what is rendered is what Kubernetes takes. The image, and what scanners say, is in
//! `make deploy-test`.

#![allow(clippy::disallowed_methods, reason = "tests spawn and read as they like")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs promtool in the repository's root, and fails with what it says.
fn promtool(words: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path)
        .chain([root().join(".cache/tools/bin")])
        .map(|folder| folder.join("promtool"))
        .find(|file| file.is_file())
        .expect("promtool is neither in PATH nor in .cache/tools: run `make tools`");
    let output = Command::new(program).args(words).current_dir(root()).output().expect("promtool starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {words:?}: {said}");
}

/// Names in a text that look like ours or the process'.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let names = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = names.filter(|name| name.starts_with("etcd_janitor_") || name.starts_with("process_"));
    names.map(str::to_owned).collect()
}

/// Every series name that a janitor exports: docs/metrics.md, which another test compares with the program.
fn exported() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    let mut names = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`');
        match cells[2] {
            "histogram" => names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"))),
            _ => _ = names.insert(name.to_owned()),
        }
    }
    assert!(names.len() > 30, "the tables of docs/metrics.md were not found");
    names
}

/// An alert: its name, and all lines that belong to it.
fn alerts() -> Vec<(String, String)> {
    let text = read("deploy/prometheus/rules.yaml");
    let parts = text.split("      - alert: ").skip(1);
    let alerts: Vec<_> = parts.map(|part| (part.lines().next().unwrap().trim().to_owned(), part.to_owned())).collect();
    assert!(alerts.len() > 10, "the alerts were not found");
    alerts
}

/// Between `expr:` and the next key of the alert.
fn expression(alert: &str) -> String {
    let (_, rest) = alert.split_once("        expr: ").expect("an expression");
    let ends = |line: &str| ["        for:", "        labels:"].iter().any(|key| line.starts_with(key));
    rest.lines().take_while(|line| !ends(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn alerts_fire_when_they_should_and_not_otherwise() {
    promtool(&["check", "rules", "deploy/prometheus/rules.yaml"]);
    promtool(&["check", "rules", "tests/deploy/prometheus/mixin.yaml"]);
    let tests = ["alerts", "days", "weeks"].map(|name| format!("tests/deploy/prometheus/{name}.yaml"));
    promtool(&["test", "rules", &tests[0], &tests[1], &tests[2]]);
}

#[test]
fn every_alert_is_seen_to_fire_and_to_be_silent() {
    let days = read("tests/deploy/prometheus/days.yaml");
    let tests = read("tests/deploy/prometheus/alerts.yaml") + &days + &read("tests/deploy/prometheus/weeks.yaml");
    let (_, well) = days.split_once("for three days").expect("the test of janitors that are well");
    let (well, _) = well.split_once("- name:").expect("a test after it");
    let series = metrics_in(well);
    for (name, alert) in alerts() {
        let fires = format!("alertname=\"{name}\"");
        assert!(tests.contains(&fires), "{name} is in no test that makes it fire");
        for metric in metrics_in(&expression(&alert)) {
            // A rescue's reason has no series while nothing is in its way.
            let absent_when_well = metric == "etcd_janitor_rescue_blocked";
            assert!(
                series.contains(&metric) || absent_when_well,
                "{name}: {metric} is not in the test of what is well"
            );
        }
    }
}

#[test]
fn every_alert_has_a_severity_and_a_place_in_the_runbook() {
    for (name, alert) in alerts() {
        let anchor = format!("runbook_url: docs/operating.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&anchor), "{name}: no {anchor}");
        let severities = ["critical", "warning", "none"];
        assert!(severities.iter().any(|s| alert.contains(&format!("severity: {s}\n"))), "{name}: no severity");
        for key in ["summary: ", "description: "] {
            assert!(alert.contains(key), "{name}: no {key}");
        }
    }
}

#[test]
fn alerts_and_dashboard_ask_only_for_what_is_exported() {
    let exported = exported();
    for file in ["deploy/prometheus/rules.yaml", "deploy/grafana/etcd-janitor.json"] {
        let used = metrics_in(&read(file));
        assert!(used.len() > 10, "{file}: no metrics were found");
        let unknown: Vec<_> = used.difference(&exported).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} are not exported (docs/metrics.md)");
    }
}

/// Alertmanager silences by names and labels of etcd's mixin: a name that is not there silences nothing, and a label that is
/// missing on both sides counts as equal, so that by `pod` an alert without one would be silent for no defrag at all.
#[test]
fn what_is_inhibited_is_the_mixins_and_has_the_labels() {
    let mixin = read("tests/deploy/prometheus/mixin.yaml");
    let text = read("deploy/prometheus/alertmanager.yaml");
    let (_, rules) = text.split_once("inhibit_rules:").expect("rules");
    let mut names = 0;
    for rule in rules.split("  - source_matchers:").skip(1) {
        let by_pod = rule.contains("equal: [namespace, pod]");
        assert!(by_pod || rule.contains("equal: [namespace]"), "{rule}");
        let targets = rule.split("target_matchers:").nth(1).expect("targets");
        // What follows are comments, also of the next rule.
        let targets = targets.split("    equal:").next().unwrap_or_default();
        for name in targets.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.starts_with("etcd")) {
            let mut there =
                mixin.split("      - alert: ").filter(|alert| alert.lines().next() == Some(name)).peekable();
            assert!(there.peek().is_some(), "{name} is not in tests/deploy/prometheus/mixin.yaml");
            for alert in there {
                let has_pod = !expression(alert).contains("without (instance, pod)");
                // By namespace alone one member's defrag would silence what is said of another.
                assert!(
                    has_pod == by_pod || !rule.contains("EtcdJanitorDefragInProgress"),
                    "{name}: has_pod {has_pod}"
                );
            }
            names += 1;
        }
    }
    assert!(names > 5, "the names were not found");
}

/// etcd's mixin takes every job with "etcd" in its name for etcd's own members.
#[test]
fn the_scrape_job_is_not_taken_for_etcd() {
    assert!(read("deploy/prometheus/scrape.yaml").contains("  - job_name: janitor\n"));
    assert!(read("deploy/prometheus/podmonitor.yaml").contains("targetLabel: job\n          replacement: janitor\n"));
    for (name, alert) in alerts() {
        for job in expression(&alert).split("job=\"").skip(1) {
            assert!(job.starts_with("janitor\""), "{name} selects another job");
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The panels that show something, those inside of rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = dashboard["panels"].as_array().expect("panels");
    let inner = all.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    all.iter().chain(inner).filter(|panel| text(panel, "type") != "row").collect()
}

/// The rules of grafana/dashboard-linter, and a few that it has not.
#[test]
fn the_dashboard_keeps_the_rules_of_the_linter() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/etcd-janitor.json")).expect("JSON");
    assert_eq!(dashboard["editable"], false);
    assert_eq!(text(&dashboard, "uid"), "etcd-janitor");
    assert!(dashboard.get("id").is_none(), "an id belongs to one Grafana");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let variable =
        |name: &str| variables.iter().find(|v| text(v, "name") == name).unwrap_or_else(|| panic!("no ${name}"));
    assert_eq!(
        (text(variable("datasource"), "type"), text(variable("datasource"), "query")),
        ("datasource", "prometheus")
    );
    for name in ["job", "instance"] {
        let variable = variable(name);
        assert!(text(variable, "query").starts_with("label_values("), "${name}");
        assert_eq!(text(&variable["datasource"], "uid"), "$datasource", "${name}");
        assert_eq!((&variable["multi"], &variable["includeAll"]), (&Value::Bool(true), &Value::Bool(true)), "${name}");
        assert_eq!((text(variable, "allValue"), &variable["refresh"]), (".+", &Value::from(2)), "${name}");
    }

    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    let mut titles = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(!title.is_empty() && titles.insert(title), "a panel without a title of its own: {title:?}");
        assert!(!text(panel, "description").is_empty(), "{title}: no description");
        assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{title}: no unit");
        assert_eq!(text(&panel["datasource"], "uid"), "$datasource", "{title}");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title}: shows nothing");
        for target in targets {
            let expr = text(target, "expr");
            assert_eq!(text(&target["datasource"], "uid"), "$datasource", "{title}");
            assert!(!text(target, "legendFormat").is_empty(), "{title}: no legend");
            let selectors = expr.matches('{').count();
            for label in ["job=~\"$job\"", "instance=~\"$instance\""] {
                assert_eq!(expr.matches(label).count(), selectors, "{title}: not every selector has {label}: {expr}");
            }
            let ranges = expr.matches('[').count();
            assert_eq!(expr.matches("[$__rate_interval]").count(), ranges, "{title}: {expr}");
            for counter in expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                if ["_total", "_bucket", "_count", "_sum"].iter().any(|end| counter.ends_with(end)) {
                    let wrapped = ["rate", "increase"].iter().any(|f| expr.contains(&format!("{f}({counter}{{")));
                    assert!(wrapped, "{title}: {counter} without rate or increase");
                }
            }
            let expr = expr.replace("$__rate_interval", "5m").replace("$job", "janitor").replace("$instance", ".+");
            assert!(!expr.contains('$'), "{title}: a variable that is not known: {expr}");
            rules += &format!("  - record: dashboard:{}\n    expr: |\n      {expr}\n", rules.len());
        }
    }
    assert!(titles.len() > 10, "the panels were not found");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &rules).expect("it can be written");
    promtool(&["check", "rules", &file.path().display().to_string()]);
}

/// Panels that lie over each other are both unreadable.
#[test]
fn the_panels_lie_side_by_side() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/etcd-janitor.json")).expect("JSON");
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{} is wider than the page", text(panel, "title"));
        for cell in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies over another panel at {cell:?}", text(panel, "title"));
        }
    }
}

/// What the chart brings along is what lies beside it.
#[test]
fn the_chart_has_the_same_rules_and_dashboard() {
    for (ours, chart) in [("prometheus/rules.yaml", "rules.yaml"), ("grafana/etcd-janitor.json", "dashboard.json")] {
        let copy = format!("deploy/helm/etcd-janitor/files/{chart}");
        assert!(read(&format!("deploy/{ours}")) == read(&copy), "cp deploy/{ours} {copy}");
    }
}

/// The object for the Prometheus operator is rules.yaml, below a `spec`.
#[test]
fn the_rules_for_the_operator_are_the_same() {
    let groups = |text: &str| text[text.find("groups:\n").expect("groups")..].to_owned();
    let rules = groups(&read("deploy/prometheus/rules.yaml"));
    let indented: Vec<_> =
        rules.lines().map(|line| if line.is_empty() { line.to_owned() } else { format!("  {line}") }).collect();
    let object = groups(&read("deploy/prometheus/prometheusrule.yaml"));
    assert!(
        object.trim_end() == indented.join("\n").trim(),
        "prometheusrule.yaml: rules.yaml from `groups:` on, two spaces in"
    );
}

/// A release changes the version in Cargo.toml; whoever applies what lies here must get that one.
#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read("deploy/helm/etcd-janitor/Chart.yaml");
    for key in ["version", "appVersion"] {
        assert!(chart.lines().any(|line| line == format!("{key}: {version}")), "Chart.yaml: {key} is not {version}");
    }
    let (mut images, mut folders) = (0, vec![root().join("deploy"), root().join("docs")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            let tags = text.split("/etcd-janitor:").skip(1);
            let tags = tags.chain(
                text.split("newName: registry.example/etcd-janitor")
                    .skip(1)
                    .filter_map(|rest| rest.split_once("newTag: ").map(|(_, tag)| tag)),
            );
            for tag in tags {
                let tag = tag.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').next().unwrap_or_default();
                // The next release, in the page that tells how it is made.
                if tag.starts_with(|c: char| c.is_ascii_digit()) && !path.ends_with("docs/release.md") {
                    assert_eq!(tag, version, "{}", path.display());
                    images += 1;
                }
            }
        }
    }
    assert!(images > 5, "the images were not found");
}

/// What needs no image, with the tools that `make tools` brings: rendered by kustomize, helm, the admission policy and
/// `inject`, and judged by the schemas of three releases of Kubernetes.
#[test]
fn what_is_rendered_is_what_kubernetes_takes() {
    let program = env!("CARGO_BIN_EXE_etcd-janitor");
    let output = Command::new(root().join("tests/deploy/run.sh")).args(["manifests", program]).output();
    let output = output.expect("tests/deploy/run.sh starts");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("deploy-test: all well"), "{said}");
}

/// GitHub's name for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The pages of deploy/ name files and headings; each must be there.
#[test]
fn links_in_the_pages_lead_somewhere() {
    for page in ["deploy/README.md", "docs/release.md"] {
        let text = read(page);
        let folder = Path::new(page).parent().expect("a folder");
        let mut links = 0;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            links += 1;
            let to = if file.is_empty() { root().join(page) } else { root().join(folder).join(file) };
            assert!(to.exists(), "{page}: {link} leads nowhere");
            if !heading.is_empty() {
                let there = std::fs::read_to_string(&to).expect("a page");
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches('#')) == heading),
                    "{page}: no heading for {link}"
                );
            }
        }
        assert!(links > 0, "{page}: no links were found");
    }
}
