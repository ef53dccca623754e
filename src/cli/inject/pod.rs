//! One pod, or the template of one: the sidecar goes in, and comes out again without a trace.
//!
//! An annotation remembers what was there before. So a second injection is the first one taken back and done anew, and
//! whatever it was done with, taking it back gives the pod that somebody wrote.

use super::found::{Found, etcd_container, find};
use super::node::{Node, Problem, Scalar, View};
use super::options::Options;
use super::read;
use super::sidecar::{AUTH_VOLUME, NAME, container, listen, moved_probe, pairs, volumes};
use super::write::one_line;
use crate::config::{Source, load};

/// Where an injection remembers what it changed.
pub(super) const ANNOTATION: &str = "etcd-janitor/injected";
const VERSION: u64 = 1;

const TEMPLATE: &str = "a template that is not rendered; render it first";

/// What became of a pod.
#[derive(Debug)]
pub(super) struct Done {
    /// The pod as it is to be; none: as it is.
    pub(super) pod: Option<Node>,
    /// One word, for the summary.
    pub(super) word: &'static str,
    /// What was found and done, or why nothing was.
    pub(super) notes: Vec<String>,
}

impl Done {
    pub(super) fn nothing(word: &'static str, why: &str) -> Done {
        let notes = if why.is_empty() { Vec::new() } else { vec![why.to_owned()] };
        Done { pod: None, word, notes }
    }
}

/// The pod with the sidecar that is ordered.
pub(super) fn inject(pod: &Node, path: &str, options: &Options) -> Result<Done, Problem> {
    let earlier = undo(pod, path)?;
    let base = earlier.as_ref().unwrap_or(pod);
    let view = View::new(base, path);
    let Some((etcd, told)) = etcd_container(&view, options)? else {
        let why = match &options.container {
            Some(name) => format!("no container {name}"),
            None => {
                images_rendered(&view)?;
                "no etcd container".to_owned()
            }
        };
        return Ok(Done::nothing("skipped", &why));
    };
    rendered(base, path)?;
    free(&view, options)?;
    let mut found = find(&view, &etcd, &told, options)?;
    valid(&found, options, path)?;
    let guaranteed = is_guaranteed(&view)?;
    let sidecar = container(&found, options, guaranteed)?;
    found.notes.insert(0, format!("image      {}", options.image));
    if guaranteed {
        found.notes.push("resources  limits are requests, so that the pod stays Guaranteed".to_owned());
    }

    let mut new = base.clone();
    let mut state = State::new(if options.plain { "containers" } else { "initContainers" }, &found.container);
    if options.move_liveness_probe {
        let probe = etcd.get("livenessProbe")?;
        match probe.node() {
            Some(original) => {
                let moved = moved_probe(&probe, options)?;
                state.probe = Some(original.clone());
                let place = new.get_mut("spec").and_then(|spec| spec.get_mut("containers"));
                if let Some(container) = place.and_then(|list| list.named_mut(&found.container)) {
                    container.set("livenessProbe", moved);
                }
                found.notes.push(
                    "attention  etcd's livenessProbe asks /etcd/livez of the janitor: without a janitor etcd is killed after \
                     six minutes; budget 0s (not checked)"
                        .to_owned(),
                );
            }
            None => found.notes.push("note       etcd has no livenessProbe to move".to_owned()),
        }
    }
    let spec = state.field(&mut new, "spec", Node::Map(Vec::new()))?;
    state.list(spec, state.place, path)?.push(sidecar);
    let volumes = volumes(&found, options);
    if !volumes.is_empty() {
        let list = state.list(spec, "volumes", path)?;
        for volume in volumes {
            state.volumes.extend(volume.get("name").cloned());
            list.push(volume);
        }
    }
    let metadata = state.field(&mut new, "metadata", Node::Map(Vec::new()))?;
    let annotations = state.field(metadata, "annotations", Node::Map(Vec::new()))?;
    annotations.set(ANNOTATION, Node::text(&state.text()));

    let word = match &earlier {
        None => "injected",
        Some(_) if new.same(pod) => return Ok(Done { pod: None, word: "unchanged", notes: found.notes }),
        Some(_) => "updated",
    };
    Ok(Done { pod: Some(new), word, notes: found.notes })
}

/// The pod as it was before any injection.
pub(super) fn uninject(pod: &Node, path: &str) -> Result<Done, Problem> {
    match undo(pod, path)? {
        Some(before) => Ok(Done { pod: Some(before), word: "uninjected", notes: Vec::new() }),
        None => Ok(Done::nothing("skipped", "nothing was injected")),
    }
}

/// Takes an injection back; none: there is none.
fn undo(pod: &Node, path: &str) -> Result<Option<Node>, Problem> {
    let view = View::new(pod, path);
    let annotation = view.at(&["metadata", "annotations", ANNOTATION])?;
    let Some(text) = annotation.text()? else { return Ok(None) };
    let state = State::read(text, &annotation.path)?;
    let mut pod = pod.clone();
    if let Some(spec) = pod.get_mut("spec") {
        if let Some(Node::List(items)) = spec.get_mut(state.place) {
            items.retain(|item| !item.is_named(NAME));
        }
        state.restore(spec, state.place);
        if let Some(Node::List(items)) = spec.get_mut("volumes") {
            let ours =
                |item: &Node| state.volumes.iter().any(|ours| item.get("name").is_some_and(|name| name.same(ours)));
            items.retain(|item| !ours(item));
        }
        state.restore(spec, "volumes");
        let etcd = spec.get_mut("containers").and_then(|list| list.named_mut(&state.container));
        if let (Some(probe), Some(etcd)) = (&state.probe, etcd) {
            // Somebody may have written another one since; that is theirs.
            let asked = View::new(etcd, path).at(&["livenessProbe", "httpGet", "path"])?;
            if asked.text()? == Some("/etcd/livez") {
                etcd.set("livenessProbe", probe.clone());
            }
        }
    }
    if let Some(metadata) = pod.get_mut("metadata") {
        if let Some(annotations) = metadata.get_mut("annotations") {
            annotations.remove(ANNOTATION);
        }
        state.restore(metadata, "annotations");
    }
    state.restore(&mut pod, "metadata");
    Ok(Some(pod))
}

/// What an injection has to know to take itself back.
struct State {
    /// The list that the sidecar is in.
    place: &'static str,
    /// etcd's container.
    container: String,
    /// Its liveness probe, if that was moved.
    probe: Option<Node>,
    /// Names of volumes that were added.
    volumes: Vec<Node>,
    /// Fields that held nothing, and how: `absent`, `null` or `empty`.
    before: Vec<(Scalar, Node)>,
}

impl State {
    fn new(place: &'static str, container: &str) -> State {
        State { place, container: container.to_owned(), probe: None, volumes: Vec::new(), before: Vec::new() }
    }

    /// A field that is there afterwards, and how it was.
    fn field<'a>(&mut self, parent: &'a mut Node, key: &str, empty: Node) -> Result<&'a mut Node, Problem> {
        let how = match parent.get(key) {
            None => Some("absent"),
            Some(node) if node.is_null() => Some("null"),
            Some(Node::List(items)) if items.is_empty() => Some("empty"),
            Some(Node::Map(entries)) if entries.is_empty() => Some("empty"),
            Some(_) => None,
        };
        if let Some(how) = how {
            self.before.push((Scalar::quoted(key), Node::text(how)));
            parent.set(key, empty);
        }
        parent.get_mut(key).ok_or_else(|| Problem::unreadable(key, "expected a map around this field"))
    }

    fn list<'a>(&mut self, spec: &'a mut Node, key: &str, path: &str) -> Result<&'a mut Node, Problem> {
        let list = self.field(spec, key, Node::List(Vec::new()))?;
        if matches!(list, Node::List(_)) {
            return Ok(list);
        }
        Err(Problem::unreadable(&format!("{path}.spec.{key}"), "expected a list"))
    }

    /// Makes a field that is empty by now what it was.
    fn restore(&self, parent: &mut Node, key: &str) {
        let is_empty = match parent.get(key) {
            Some(Node::List(items)) => items.is_empty(),
            Some(Node::Map(entries)) => entries.is_empty(),
            _ => false,
        };
        let how = self.before.iter().find(|(name, _)| name.text == key).map(|(_, how)| how);
        match how {
            Some(Node::Scalar(how)) if is_empty && how.text == "absent" => parent.remove(key),
            Some(Node::Scalar(how)) if is_empty && how.text == "null" => parent.set(key, Node::plain("null")),
            _ => {}
        }
    }

    fn text(&self) -> String {
        let mut node = Node::map([
            ("v", Node::plain(VERSION)),
            ("in", Node::text(self.place)),
            ("container", Node::text(&self.container)),
        ]);
        if !self.volumes.is_empty() {
            node.set("volumes", Node::List(self.volumes.clone()));
        }
        if !self.before.is_empty() {
            node.set("before", Node::Map(self.before.clone()));
        }
        if let Some(probe) = &self.probe {
            node.set("livenessProbe", probe.clone());
        }
        one_line(&node)
    }

    fn read(text: &str, path: &str) -> Result<State, Problem> {
        let strange = |why: &str| {
            let text =
                format!("not what inject writes ({why}); take the sidecar out by hand, and this annotation with it");
            Problem::refused(path, text)
        };
        let parsed = read::document(text, path, 1).map_err(|problem| strange(&problem.text))?;
        let node = parsed.node.ok_or_else(|| strange("empty"))?;
        let view = View::new(&node, path);
        if view.get("v").ok().and_then(|version| version.number().ok().flatten()) != Some(VERSION) {
            return Err(strange("another version"));
        }
        let place = match view.get("in")?.text()? {
            Some("initContainers") => "initContainers",
            Some("containers") => "containers",
            _ => return Err(strange("no place")),
        };
        let container = view.get("container")?.text()?.ok_or_else(|| strange("no container"))?.to_owned();
        let volumes = view.get("volumes")?.items()?.iter().filter_map(View::node).cloned().collect();
        let before = match view.get("before")?.node() {
            Some(Node::Map(entries)) => entries.clone(),
            _ => Vec::new(),
        };
        let probe = view.get("livenessProbe")?.node().cloned();
        Ok(State { place, container, probe, volumes, before })
    }
}

/// Refuses images that are templates: one may be etcd's.
fn images_rendered(pod: &View<'_>) -> Result<(), Problem> {
    for container in pod.get("spec")?.get("containers")?.items()? {
        let image = container.get("image")?;
        if image.text()?.is_some_and(|text| text.contains("{{")) {
            return Err(Problem::refused(&image.path, TEMPLATE));
        }
    }
    Ok(())
}

/// Refuses templates. Annotations may hold some that others render.
fn rendered(pod: &Node, path: &str) -> Result<(), Problem> {
    fn search(node: &Node, path: &str) -> Option<String> {
        match node {
            Node::Scalar(scalar) => scalar.text.contains("{{").then(|| path.to_owned()),
            Node::List(items) => items.iter().enumerate().find_map(|(at, item)| search(item, &format!("{path}[{at}]"))),
            Node::Map(entries) => {
                let mut fields = entries.iter().filter(|(key, _)| key.text != "annotations");
                fields.find_map(|(key, value)| search(value, &format!("{path}.{}", super::node::step(&key.text))))
            }
        }
    }
    match search(pod, path) {
        Some(place) => Err(Problem::refused(&place, TEMPLATE)),
        None => Ok(()),
    }
}

/// Refuses names and ports that are taken.
fn free(pod: &View<'_>, options: &Options) -> Result<(), Problem> {
    let port = u64::from(listen(options)?.port());
    let spec = pod.get("spec")?;
    for list in ["initContainers", "containers"] {
        for container in spec.get(list)?.items()? {
            if container.get("name")?.text()? == Some(NAME) {
                let text = format!("a container {NAME} that inject did not put there; take it out first");
                return Err(Problem::refused(&container.path, text));
            }
            for other in container.get("ports")?.items()? {
                if other.get("containerPort")?.number()? == Some(port) {
                    let text = format!("port {port} is taken; give the janitor another one: --listen '[::]:PORT'");
                    return Err(Problem::refused(&other.path, text));
                }
            }
        }
    }
    for volume in spec.get("volumes")?.items()? {
        if let Some(name) = volume.get("name")?.text()?.filter(|name| [NAME, AUTH_VOLUME].contains(name)) {
            let text = format!("a volume {name} that inject did not put there; rename it");
            return Err(Problem::refused(&volume.path, text));
        }
    }
    Ok(())
}

/// Whether the kubelet would count the pod as Guaranteed.
fn is_guaranteed(pod: &View<'_>) -> Result<bool, Problem> {
    let spec = pod.get("spec")?;
    for list in ["initContainers", "containers"] {
        for container in spec.get(list)?.items()? {
            for resource in ["cpu", "memory"] {
                let Some(limit) = container.at(&["resources", "limits", resource])?.node() else { return Ok(false) };
                let request = container.at(&["resources", "requests", resource])?.node();
                if request.is_some_and(|request| !request.same(limit)) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Whether the janitor would take what its environment is going to say.
fn valid(found: &Found, options: &Options, path: &str) -> Result<(), Problem> {
    let example = |value: &str| {
        value.replace("$(POD_IP)", "127.0.0.1").replace("$(HOST_IP)", "127.0.0.1").replace("$(", "").replace(')', "")
    };
    let flags = pairs(found, options).into_iter().map(|(key, value)| {
        let value = if value.contains("$(") { example(&value) } else { value };
        (key, value)
    });
    let source = Source { flags: flags.collect(), ..Source::default() };
    let Err(invalid) = load(&source) else { return Ok(()) };
    // What the ConfigMap says is not known here, so that only single keys can be judged.
    let ordered = |key: &str| options.keys.iter().any(|(path, _)| path == key);
    let mut problems = invalid.problems.iter().filter(|problem| options.config_map.is_none() || ordered(&problem.key));
    match problems.next() {
        Some(problem) => {
            Err(Problem::unreadable(path, format!("the janitor would refuse its configuration: {problem}")))
        }
        None => Ok(()),
    }
}
