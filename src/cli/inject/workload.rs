//! Which objects have pods in them.

use super::node::{Node, Problem, View};
use super::pod::Done;

/// One line of the summary.
#[derive(Debug)]
pub(super) struct Report {
    /// `statefulset "etcd"`.
    pub(super) object: String,
    /// What became of it.
    pub(super) word: &'static str,
    pub(super) notes: Vec<String>,
}

/// Objects whose pods stay what their template says. A Job runs once and a CronJob's is no server.
const WITH_TEMPLATE: [&str; 4] = ["StatefulSet", "DaemonSet", "Deployment", "ReplicaSet"];

/// What is done with each pod: the pod or template, and its path.
pub(super) type Act<'a> = dyn Fn(&Node, &str) -> Result<Done, Problem> + 'a;

/// Works on every pod in an object, and in every object of a list. Whether anything changed.
pub(super) fn work(
    object: &mut Node,
    path: &str,
    act: &Act<'_>,
    reports: &mut Vec<Report>,
    problems: &mut Vec<Problem>,
) -> bool {
    one(object, path, None, act, reports).unwrap_or_else(|problem| {
        problems.push(problem);
        false
    }) | items(object, path, act, reports, problems)
}

fn kind_of<'a>(view: &View<'a>) -> Result<Option<&'a str>, Problem> {
    view.get("kind")?.text()
}

/// The kind of a list's items; an empty one where each says its own.
fn list_of(kind: &str) -> Option<&str> {
    let items = kind.strip_suffix("List")?;
    (items.is_empty() || items == "Pod" || WITH_TEMPLATE.contains(&items)).then_some(items)
}

fn items(object: &mut Node, path: &str, act: &Act<'_>, reports: &mut Vec<Report>, problems: &mut Vec<Problem>) -> bool {
    let view = View::new(object, path);
    let Ok(Some(kind)) = kind_of(&view) else { return false };
    let Some(of) = list_of(kind).map(str::to_owned) else { return false };
    if let Err(problem) = view.get("items").and_then(|items| items.items()) {
        problems.push(problem);
        return false;
    }
    let mut changed = false;
    if let Some(Node::List(list)) = object.get_mut("items") {
        for (at, item) in list.iter_mut().enumerate() {
            let path = format!("{path}.items[{at}]");
            match one(item, &path, Some(&of).filter(|of| !of.is_empty()), act, reports) {
                Ok(this) => changed |= this,
                Err(problem) => problems.push(problem),
            }
            // A list in a list.
            changed |= items(item, &path, act, reports, problems);
        }
    }
    changed
}

fn one(
    object: &mut Node,
    path: &str,
    of: Option<&String>,
    act: &Act<'_>,
    reports: &mut Vec<Report>,
) -> Result<bool, Problem> {
    let view = View::new(object, path);
    let kind = kind_of(&view)?.map(str::to_owned).or_else(|| of.cloned());
    let Some(kind) = kind else {
        reports.push(Report { object: path.to_owned(), word: "skipped", notes: vec!["no kind".to_owned()] });
        return Ok(false);
    };
    if list_of(&kind).is_some() && of.is_none() {
        return Ok(false);
    }
    let name = view.at(&["metadata", "name"])?.text()?.or(view.at(&["metadata", "generateName"])?.text()?);
    let shown = format!("{} \"{}\"", printable(&kind).to_lowercase(), printable(name.unwrap_or_default()));
    let version = view.get("apiVersion")?.text()?.map(str::to_owned);
    let right = |wanted: &str| version.as_deref().map_or(of.is_some(), |version| version == wanted);
    let skip = |why: &str| Report { object: shown.clone(), word: "skipped", notes: vec![why.to_owned()] };
    let (done, place): (Done, &[&str]) = match kind.as_str() {
        "Pod" if right("v1") => (act(object, path)?, &[]),
        kind if WITH_TEMPLATE.contains(&kind) && right("apps/v1") => {
            let template = view.at(&["spec", "template"])?;
            let Some(pod) = template.node() else {
                return Err(Problem::unreadable(&template.path, "expected a pod template, found nothing"));
            };
            let mut done = act(pod, &template.path)?;
            few(&view, kind, &mut done)?;
            (done, &["spec", "template"])
        }
        kind if kind == "Pod" || WITH_TEMPLATE.contains(&kind) => {
            let version = version.as_deref().map_or("no apiVersion".to_owned(), printable);
            reports.push(skip(&format!("{version} is not known here")));
            return Ok(false);
        }
        _ => {
            let notes: Vec<String> = beside(&kind, object).into_iter().map(str::to_owned).collect();
            let word = if notes.is_empty() { "skipped" } else { "beside" };
            reports.push(Report { object: shown, word, notes });
            return Ok(false);
        }
    };
    reports.push(Report { object: shown, word: done.word, notes: done.notes });
    let Some(pod) = done.pod else { return Ok(false) };
    let spot = place.iter().try_fold(object, |node, key| node.get_mut(key));
    if let Some(spot) = spot {
        *spot = pod;
    }
    Ok(true)
}

/// What a janitor needs of an object that stands beside its etcd, or has against it.
fn beside(kind: &str, object: &Node) -> Option<&'static str> {
    fn says(node: &Node, word: &str) -> bool {
        match node {
            Node::Scalar(scalar) => scalar.text.contains(word),
            Node::List(items) => items.iter().any(|item| says(item, word)),
            Node::Map(entries) => entries.iter().any(|(_, value)| says(value, word)),
        }
    }
    match kind {
        "NetworkPolicy" => Some(
            "attention  if it selects etcd's pods: it must let in the janitors' port (8379) for Prometheus, and 2379 from one \
             member to the other",
        ),
        "CronJob" | "Job" if says(object, "etcdctl") && says(object, "defrag") => {
            Some("attention  it defragments with etcdctl, which waits for nobody's turn: delete it, or suspend it")
        }
        _ => None,
    }
}

/// One or two members are not defragmented unless that is allowed.
fn few(view: &View<'_>, kind: &str, done: &mut Done) -> Result<(), Problem> {
    let replicas = view.at(&["spec", "replicas"])?.number()?.unwrap_or(1);
    if kind == "StatefulSet" && (1..3).contains(&replicas) && done.word != "skipped" && done.word != "uninjected" {
        done.notes.push(format!(
            "note       {replicas} of a cluster's members here: with fewer than three voters nothing is defragmented unless \
             --set defrag.small_cluster=allow"
        ));
    }
    Ok(())
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(253).collect()
}
