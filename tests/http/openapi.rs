//! docs/openapi.yaml says of the API what is so: its paths, and every field of its answers.

use std::collections::BTreeSet;
use std::fs;

use etcd_janitor::plan::member::MemberId;
use etcd_janitor::plan::reason::{Blocked, Failure, Outcome, Reason};
use etcd_janitor::plan::snapshot::*;
use serde_json::{Map, Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::running::start;
use crate::sample;

fn converted(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Hash(pairs) => {
            let pair = |(key, value): (&Yaml, &Yaml)| (key.as_str().expect("a text").to_owned(), converted(value));
            Value::Object(pairs.iter().map(pair).collect::<Map<_, _>>())
        }
        Yaml::Array(items) => items.iter().map(converted).collect(),
        Yaml::String(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(truth) => (*truth).into(),
        Yaml::Null => Value::Null,
        other => panic!("{other:?} is not expected in docs/openapi.yaml"),
    }
}

fn document() -> Value {
    let text = fs::read_to_string("docs/openapi.yaml").expect("docs/openapi.yaml");
    converted(&YamlLoader::load_from_str(&text).expect("YAML")[0])
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

/// What of `value` is not as `schema` says; a field that it does not tell of is such a thing.
fn wrong(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
        return wrong(document, schema, value, at, found);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let tried = any.iter().map(|schema| {
            let mut found = Vec::new();
            wrong(document, schema, value, at, &mut found);
            found
        });
        return found.extend(tried.min_by_key(Vec::len).unwrap_or_default());
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        other => panic!("{at}: the type is {other}"),
    };
    if !kinds.iter().any(|kind| is_a(value, kind)) {
        return found.push(format!("{at} is {value}, not {kinds:?}"));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at} is {value}, which is none of {allowed:?}"));
    }
    if let Value::Object(fields) = value {
        let empty = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&empty);
        for (name, value) in fields {
            match properties.get(name) {
                Some(schema) => wrong(document, schema, value, &format!("{at}.{name}"), found),
                None => found.push(format!("{at}.{name} is not told of")),
            }
        }
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        found.extend(
            required.filter(|name| !fields.contains_key(*name)).map(|name| format!("{at}.{name} is not there")),
        );
    }
    for (index, value) in value.as_array().into_iter().flatten().enumerate() {
        wrong(document, &schema["items"], value, &format!("{at}[{index}]"), found);
    }
}

fn judged(document: &Value, path: &str, answer: &Value) -> Vec<String> {
    let pointer = format!("/paths/{}/get/responses/200/content/application~1json/schema", path.replace('/', "~1"));
    let mut found = Vec::new();
    wrong(document, document.pointer(&pointer).expect("the path is told of"), answer, "", &mut found);
    found
}

/// Every field that there is has a value.
fn everything() -> Snapshot {
    let mut all = sample::hostile("ops");
    let blocked = || Some(Blocked::new(Reason::Hold, "ops"));
    all.problem = blocked();
    all.missing_right = Some("root".into());
    all.alarms = vec![Alarm { alarm: "NOSPACE".into(), member: MemberId(2) }];
    all.intent_unreadable = Some("no".into());
    all.hold_unreadable = Some("no".into());
    all.rescue = Some(Rescue {
        round: "rescue-20261122T000000Z".parse().unwrap(),
        phase: "watching".into(),
        waiting_for: blocked(),
    });
    all.others_compact = Some(OthersCompact::Somebody);
    all.tasks[0].waiting_for = blocked();
    all.tasks[0].last_outcome = Some(Outcome::Failed(Failure::Restarted));
    all.tasks[1].round = Some(all.history[0].round);
    all.history[0].outcome = Outcome::Skipped(Reason::Hold);
    all.history[0].detail = "ops".into();
    all.history[0].leader_moved_to = Some(MemberId(3));
    all
}

#[tokio::test]
async fn every_answer_is_as_the_document_says() {
    let document = document();
    for snapshot in [sample::unknown(), sample::known(), everything()] {
        let running = start(snapshot).await;
        for path in ["/api/v1/status", "/api/v1/history"] {
            let answer: Value = serde_json::from_str(&running.get(path).await.body).expect("JSON");
            let found = judged(&document, path, &answer);
            assert!(found.is_empty(), "{path}:\n{}", found.join("\n"));
        }
    }
}

#[test]
fn what_is_not_as_the_document_says_is_found() {
    let document = document();
    let mut answer = serde_json::to_value(sample::known()).unwrap();
    answer["members"][0]["role"] = json!("king");
    answer["new"] = json!(1);
    answer["etcd_up"] = json!("yes");
    answer.as_object_mut().unwrap().remove("queue");
    assert_eq!(judged(&document, "/api/v1/status", &answer).len(), 4);
}

#[tokio::test]
async fn it_has_the_paths_that_are_served_and_no_other() {
    let routes = fs::read_to_string("src/http/routes.rs").expect("the routes");
    let served: BTreeSet<&str> = routes.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let document = document();
    let told: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(told, served);
    let running = start(sample::known()).await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if methods.get("get").is_some() {
            let status = running.get(path).await.status.to_string();
            let told = methods["get"]["responses"].as_object().unwrap();
            assert!(told.contains_key(&status), "{path} answers {status}");
        }
    }
}

#[test]
fn it_lists_every_reason() {
    let document = document();
    let told = document.pointer("/components/schemas/Reason/enum").expect("the reasons").clone();
    let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(told, json!(all));
}
