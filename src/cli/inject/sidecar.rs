//! The container that is put beside etcd.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::found::{Found, PASSWORD_FOLDER};
use super::node::{Node, Problem, View};
use super::options::Options;
use super::settings::{field_of, variables_in};
use crate::config::keys;

/// The container, and the volume of its configuration.
pub(super) const NAME: &str = "etcd-janitor";
/// The volume of a password that etcd has in its environment only.
pub(super) const AUTH_VOLUME: &str = "etcd-janitor-auth";
/// Where the ConfigMap is mounted; the folder, since a file mounted by subPath never changes.
pub(super) const CONFIG_FOLDER: &str = "/etc/etcd-janitor";
const PROGRAM: &str = "/etcd-janitor";
/// Whom the image runs as when the pod would make it root.
const NOBODY: u64 = 65_532;

/// Where it serves unless that is ordered.
const LISTEN: &str = "[::]:8379";

/// Where the sidecar serves.
pub(super) fn listen(options: &Options) -> Result<SocketAddr, Problem> {
    let address = options.ordered("http.listen").unwrap_or(LISTEN);
    address
        .parse()
        .map_err(|_| Problem::unreadable("--listen", format!("{address} is no address and port, such as [::]:8379")))
}

/// Whether the kubelet cannot reach it there.
fn is_hidden(listen: SocketAddr) -> bool {
    match listen.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    }
}

/// etcd's probe through the sidecar. Six minutes: a janitor that crashes again and again is started every five at the
/// latest, and then answers; an etcd that is well must not be killed for it.
pub(super) fn moved_probe(original: &View<'_>, options: &Options) -> Result<Node, Problem> {
    let listen = listen(options)?;
    if is_hidden(listen) {
        let text = format!("the kubelet cannot ask on {listen}; --move-liveness-probe needs an address of the pod");
        return Err(Problem::refused("--listen", text));
    }
    let mut probe = Node::map([
        ("httpGet", http_get("/etcd/livez", listen, options)),
        ("periodSeconds", Node::plain(10)),
        ("timeoutSeconds", Node::plain(5)),
        ("failureThreshold", Node::plain(36)),
    ]);
    for key in ["initialDelaySeconds", "terminationGracePeriodSeconds"] {
        if let Some(node) = original.get(key)?.node() {
            probe.set(key, node.clone());
        }
    }
    Ok(probe)
}

fn http_get(path: &str, listen: SocketAddr, options: &Options) -> Node {
    // With a certificate the port speaks nothing else. The kubelet takes any.
    let https = options.ordered("http.tls.cert_file").is_some_and(|file| !file.is_empty());
    let scheme = if https { "HTTPS" } else { "HTTP" };
    // A number: the name of a sidecar's port does not work everywhere.
    Node::map([("path", Node::text(path)), ("port", Node::plain(listen.port())), ("scheme", Node::text(scheme))])
}

/// The whole container. `guaranteed`: every other container's limits are its requests.
pub(super) fn container(found: &Found, options: &Options, guaranteed: bool) -> Result<Node, Problem> {
    let listen = listen(options)?;
    let mut node = Node::map([("name", Node::text(NAME)), ("image", Node::text(&options.image))]);
    if !options.plain {
        // A native sidecar: it starts before etcd and ends after it.
        node.set("restartPolicy", Node::text("Always"));
    }
    node.set("args", Node::texts(["run"]));
    node.set("env", Node::List(environment(found, options)));
    // The only probe. A startup probe would hold etcd back, a readiness probe take the pod out of its Service.
    let check = if is_hidden(listen) {
        ("exec", Node::map([("command", Node::texts([PROGRAM, "probe", "livez"]))]))
    } else {
        // Not `metrics`, which etcd's own port is often called.
        let port = Node::map([
            ("name", Node::text("janitor-http")),
            ("containerPort", Node::plain(listen.port())),
            ("protocol", Node::text("TCP")),
        ]);
        node.set("ports", Node::List(vec![port]));
        ("httpGet", http_get("/livez", listen, options))
    };
    let times = [("periodSeconds", 10), ("timeoutSeconds", 5), ("failureThreshold", 6)];
    let mut probe = Node::map([check]);
    for (key, number) in times {
        probe.set(key, Node::plain(number));
    }
    node.set("livenessProbe", probe);
    // SIGTERM comes after etcd has gone.
    let quiesce = Node::map([("exec", Node::map([("command", Node::texts([PROGRAM, "quiesce"]))]))]);
    node.set("lifecycle", Node::map([("preStop", quiesce)]));
    node.set("resources", resources(guaranteed));
    node.set("securityContext", security(found));
    let mut mounts = found.mounts.clone();
    if options.config_map.is_some() {
        mounts.push(folder(NAME, CONFIG_FOLDER));
    }
    if found.password.is_some() {
        mounts.push(folder(AUTH_VOLUME, PASSWORD_FOLDER));
    }
    if !mounts.is_empty() {
        node.set("volumeMounts", Node::List(mounts));
    }
    Ok(node)
}

fn folder(volume: &str, path: &str) -> Node {
    Node::map([("name", Node::text(volume)), ("mountPath", Node::text(path)), ("readOnly", Node::plain(true))])
}

/// The volumes that the pod does not have yet.
pub(super) fn volumes(found: &Found, options: &Options) -> Vec<Node> {
    let mut volumes = Vec::new();
    if let Some(name) = &options.config_map {
        let source = Node::map([("name", Node::text(name))]);
        volumes.push(Node::map([("name", Node::text(NAME)), ("configMap", source)]));
    }
    if let Some((secret, key)) = &found.password {
        let item = Node::map([("key", Node::text(key)), ("path", Node::text("password"))]);
        let source = Node::map([("secretName", Node::text(secret)), ("items", Node::List(vec![item]))]);
        volumes.push(Node::map([("name", Node::text(AUTH_VOLUME)), ("secret", source)]));
    }
    volumes
}

fn environment(found: &Found, options: &Options) -> Vec<Node> {
    let variable = |name: &str, value: &str| Node::map([("name", Node::text(name)), ("value", Node::text(value))]);
    let mut values: Vec<Node> = Vec::new();
    if options.config_map.is_some() {
        values.push(variable("ETCD_JANITOR_CONFIG", &format!("{CONFIG_FOLDER}/etcd-janitor.yaml")));
    }
    let pairs = pairs(found, options);
    // The status page and holds tell pods apart by these.
    let mut facts: BTreeSet<&str> = ["POD_NAME", "POD_NAMESPACE"].into();
    for (path, value) in &pairs {
        values.push(variable(&keys::environment_name(path), value));
        facts.extend(variables_in(value));
    }
    let facts = facts.into_iter().filter_map(|name| {
        let field = Node::map([("fieldPath", Node::text(field_of(name)?))]);
        Some(Node::map([("name", Node::text(name)), ("valueFrom", Node::map([("fieldRef", field)]))]))
    });
    // First, since a variable can only be used below the place where it is made.
    facts.chain(values).collect()
}

/// Configuration keys and values: what was found, and what was ordered.
pub(super) fn pairs(found: &Found, options: &Options) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> =
        found.keys.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect();
    for (path, value) in &options.keys {
        match pairs.iter_mut().find(|(known, _)| known == path) {
            Some((_, place)) => place.clone_from(value),
            None => pairs.push((path.clone(), value.clone())),
        }
    }
    // What the ConfigMap says is not known here, and the probes must find the port.
    if options.config_map.is_some() && options.ordered("http.listen").is_none() {
        pairs.push(("http.listen".to_owned(), LISTEN.to_owned()));
    }
    pairs
}

fn resources(guaranteed: bool) -> Node {
    let amounts = |entries: &[(&str, &str)]| {
        let mut node = Node::Map(Vec::new());
        for (key, amount) in entries {
            node.set(key, Node::text(amount));
        }
        node
    };
    let (requests, limits): (&[_], &[_]) = if guaranteed {
        (&[("cpu", "100m"), ("memory", "64Mi")], &[("cpu", "100m"), ("memory", "64Mi")])
    } else {
        (&[("cpu", "10m"), ("memory", "24Mi")], &[("memory", "64Mi")])
    };
    Node::map([("requests", amounts(requests)), ("limits", amounts(limits))])
}

/// What the Pod Security Standard `restricted` asks for, and etcd's own user where that is not root: it may read the files.
fn security(found: &Found) -> Node {
    let mut node = Node::map([
        ("allowPrivilegeEscalation", Node::plain(false)),
        ("capabilities", Node::map([("drop", Node::texts(["ALL"]))])),
        ("readOnlyRootFilesystem", Node::plain(true)),
        ("runAsNonRoot", Node::plain(true)),
    ]);
    match found.user {
        // The pod's root would be ours, too, and the kubelet would then refuse to start us, and etcd after us.
        Some(0) => {
            node.set("runAsUser", Node::plain(NOBODY));
            node.set("runAsGroup", Node::plain(NOBODY));
        }
        Some(user) => {
            node.set("runAsUser", Node::plain(user));
            if let Some(group) = found.group {
                node.set("runAsGroup", Node::plain(group));
            }
        }
        None => {}
    }
    node.set("seccompProfile", Node::map([("type", Node::text("RuntimeDefault"))]));
    node
}
