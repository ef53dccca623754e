//! Which container is etcd, and how the sidecar reaches it: address, certificates, password, name.

use super::budget::{Budget, budget};
use super::node::{Node, Problem, View};
use super::options::Options;
use super::settings::{Settings, Unknown, Variable, base_name};
use super::sidecar::CONFIG_FOLDER;
use crate::config::keys;

/// Everything that was found about the etcd of one pod.
#[derive(Debug)]
pub(super) struct Found {
    /// The container's name.
    pub(super) container: String,
    /// Configuration keys and values for the sidecar's environment.
    pub(super) keys: Vec<(&'static str, String)>,
    /// The container's mounts that the sidecar needs, too, read-only.
    pub(super) mounts: Vec<Node>,
    /// A Secret whose key holds the password and is not mounted yet.
    pub(super) password: Option<(String, String)>,
    /// User and group that etcd runs as, where the pod says so.
    pub(super) user: Option<u64>,
    pub(super) group: Option<u64>,
    /// One line each, for people.
    pub(super) notes: Vec<String>,
}

/// Where the password lies that comes out of a Secret of ours.
pub(super) const PASSWORD_FOLDER: &str = "/etc/etcd-janitor-auth";

/// The etcd container of a pod; none: there is none, or none of that name.
pub(super) fn etcd_container<'a>(pod: &View<'a>, options: &Options) -> Result<Option<(View<'a>, Settings)>, Problem> {
    let spec = pod.get("spec")?;
    // Of a pod in the host's network it is the node's; otherwise the pod's, unless the manifest says another.
    let pod_is_host = !spec.get("hostNetwork")?.truth()?.unwrap_or(false)
        && !spec.get("setHostnameAsFQDN")?.truth()?.unwrap_or(false)
        && spec.get("hostname")?.is_absent();
    let containers = spec.get("containers")?;
    let mut likely = Vec::new();
    for container in containers.items()? {
        let name = container.get("name")?.text()?.unwrap_or_default();
        let settings = Settings::of(&container, pod_is_host)?;
        if options.container.as_deref() == Some(name) {
            return Ok(Some((container, settings)));
        }
        let image = container.get("image")?.text()?.unwrap_or_default();
        if let Some(sure) = resemblance(image, &settings) {
            likely.push((sure, name, container, settings));
        }
    }
    if options.container.is_some() {
        return Ok(None);
    }
    // One that is told where to listen is the server; another with its image may only save snapshots.
    if likely.iter().any(|(sure, ..)| *sure) {
        likely.retain(|(sure, ..)| *sure);
    }
    if likely.len() > 1 {
        let names: Vec<&str> = likely.iter().map(|(_, name, ..)| *name).collect();
        let text = format!("{} look like etcd; say which with --container NAME", names.join(" and "));
        return Err(Problem::refused(&containers.path, text));
    }
    Ok(likely.pop().map(|(_, _, container, settings)| (container, settings)))
}

/// Whether a container may be an etcd server, and whether it is told what only a server is told.
fn resemblance(image: &str, settings: &Settings) -> Option<bool> {
    let repository = base_name(image.split('@').next().unwrap_or_default()).split(':').next().unwrap_or_default();
    let architectures = ["amd64", "arm64", "arm", "ppc64le", "s390x"];
    let by_image = repository == "etcd"
        || repository.strip_prefix("etcd-").is_some_and(|machine| architectures.contains(&machine));
    let is_etcd = |word: &String| base_name(word) == "etcd";
    let by_command = settings.words.iter().any(is_etcd);
    let program = settings.program.as_deref().map(base_name).unwrap_or_default();
    let other = ["etcdctl", "etcdutl", "sleep", "tail"].contains(&program)
        || (!by_command && settings.words.iter().any(|word| ["etcdctl", "etcdutl"].contains(&base_name(word))));
    let told = ["listen-client-urls", "listen-peer-urls", "initial-cluster", "data-dir", "advertise-client-urls"];
    let sure = told.iter().any(|flag| settings.raw(flag).is_some());
    match (by_image && !other, by_command) {
        (true, _) => Some(sure),
        (false, true) => Some(sure).filter(|sure| *sure),
        (false, false) => None,
    }
}

/// Reads everything that the sidecar needs.
pub(super) fn find(pod: &View<'_>, etcd: &View<'_>, told: &Settings, options: &Options) -> Result<Found, Problem> {
    let mut finder = Finder {
        spec: pod.get("spec")?,
        etcd: etcd.clone(),
        told,
        options,
        found: Found {
            container: etcd.get("name")?.text()?.unwrap_or_default().to_owned(),
            keys: Vec::new(),
            mounts: Vec::new(),
            password: None,
            user: None,
            group: None,
            notes: Vec::new(),
        },
    };
    let image = etcd.get("image")?.text()?.unwrap_or("no image");
    let container = &finder.found.container;
    finder.found.notes.push(format!("etcd       container {container}, image {image}"));
    finder.settings_elsewhere()?;
    finder.user()?;
    let endpoint = finder.endpoint()?;
    finder.metrics()?;
    finder.name();
    finder.tls(&endpoint)?;
    finder.auth()?;
    finder.data()?;
    finder.budget()?;
    finder.compaction();
    finder.files()?;
    Ok(finder.found)
}

struct Finder<'a> {
    spec: View<'a>,
    etcd: View<'a>,
    told: &'a Settings,
    options: &'a Options,
    found: Found,
}

impl<'a> Finder<'a> {
    fn note(&mut self, what: &str, text: impl AsRef<str>) {
        self.found.notes.push(format!("{what:<10} {}", text.as_ref()));
    }

    fn key(&mut self, path: &'static str, value: impl Into<String>) {
        self.found.keys.push((path, value.into()));
    }

    /// What the command line of `inject` says about a key.
    fn ordered(&self, path: &str) -> Option<&str> {
        self.options.ordered(path)
    }

    fn refused<T>(&self, text: impl Into<String>) -> Result<T, Problem> {
        Err(Problem::refused(&self.told.path, text))
    }

    fn unknown(&self, unknown: &Unknown, remedy: &str) -> Problem {
        let Unknown { flag, variable } = unknown;
        let text = format!("--{flag}: what {variable} is, is not known here; {remedy}");
        Problem::refused(&self.told.path, text)
    }

    fn settings_elsewhere(&mut self) -> Result<(), Problem> {
        // With a file etcd ignores flags and environment.
        if self.told.raw("config-file").is_some() && self.ordered("etcd.endpoint").is_none() {
            return self.refused(
                "etcd reads its settings from --config-file, which is not seen here; say how it is reached with \
                 --endpoint, and where needed --cacert, --cert, --key, --user and --password-file",
            );
        }
        if self.told.more_variables {
            self.note("note", "variables from envFrom are not seen here");
        }
        Ok(())
    }

    fn user(&mut self) -> Result<(), Problem> {
        let number = |key: &str| -> Result<Option<u64>, Problem> {
            match self.etcd.at(&["securityContext", key])?.number()? {
                Some(number) => Ok(Some(number)),
                None => self.spec.at(&["securityContext", key])?.number(),
            }
        };
        let (user, group) = (number("runAsUser")?, number("runAsGroup")?);
        self.found.user = user;
        self.found.group = group;
        Ok(())
    }

    fn endpoint(&mut self) -> Result<String, Problem> {
        if let Some(endpoint) = self.ordered("etcd.endpoint") {
            let endpoint = endpoint.to_owned();
            self.note("endpoint", format!("{endpoint}, as ordered"));
            return Ok(endpoint);
        }
        let remedy = "give the local member's client URL with --endpoint";
        let urls = self.told.value("listen-client-urls").map_err(|unknown| self.unknown(&unknown, remedy))?;
        let told = urls.is_some();
        let urls = urls.unwrap_or_else(|| "http://localhost:2379".to_owned());
        let Some(endpoint) = local_url(&urls) else {
            return self.refused(format!("--listen-client-urls={urls} has no http or https URL with a port; {remedy}"));
        };
        let from = if told { format!("--listen-client-urls={urls}") } else { "etcd's default".to_owned() };
        self.note("endpoint", format!("{endpoint}, from {from}"));
        self.key("etcd.endpoint", endpoint.clone());
        Ok(endpoint)
    }

    /// Where metrics have a URL of their own: plain http mostly, where no certificate can be in the way.
    fn metrics(&mut self) -> Result<(), Problem> {
        if self.ordered("etcd.metrics.local").is_some() {
            return Ok(());
        }
        let remedy = "give it with --set etcd.metrics.local=URL";
        let urls = self.told.value("listen-metrics-urls").map_err(|unknown| self.unknown(&unknown, remedy))?;
        if let Some(url) = urls.as_deref().and_then(local_url) {
            self.note("metrics", format!("{url}, from --listen-metrics-urls"));
            self.key("etcd.metrics.local", url);
        }
        Ok(())
    }

    fn name(&mut self) {
        if self.ordered("etcd.member_name").is_some() {
            return;
        }
        match self.told.value("name") {
            Ok(Some(name)) => {
                let shown = if name == "$(POD_NAME)" { "the pod's name".to_owned() } else { name.clone() };
                self.note("member", format!("{shown}; nothing is done unless the local member has this name"));
                self.key("etcd.member_name", name);
            }
            Ok(None) => self.note("attention", "etcd has no --name, so that a wrong address would not be noticed"),
            Err(Unknown { variable, .. }) => self.note(
                "attention",
                format!("what {variable} in etcd's --name is, is not known here; --set etcd.member_name=NAME"),
            ),
        }
    }

    fn tls(&mut self, endpoint: &str) -> Result<(), Problem> {
        let advertised = self.told.value("advertise-client-urls").ok().flatten().unwrap_or_default();
        if !endpoint.starts_with("https:") && !advertised.contains("https:") {
            self.note("tls", "none");
            return Ok(());
        }
        if self.told.is_on("auto-tls") {
            return self.refused(
                "etcd makes its own certificates (--auto-tls): nobody can verify them, and the janitor does not talk \
                 to what it cannot verify; give etcd certificates of an authority",
            );
        }
        let remedy = "give the file with --cacert, --cert and --key";
        let file = |flag: &str| self.told.value(flag).map_err(|unknown| self.unknown(&unknown, remedy));
        let (cert, key, trusted) = (file("cert-file")?, file("key-file")?, file("trusted-ca-file")?);
        let beside =
            cert.as_deref().and_then(|cert| cert.strip_suffix("tls.crt")).map(|folder| format!("{folder}ca.crt"));
        let authority = [
            (self.ordered("etcd.tls.ca_file").map(str::to_owned), "as ordered"),
            (self.told.known("ETCDCTL_CACERT"), "from ETCDCTL_CACERT"),
            (trusted, "from --trusted-ca-file"),
            (beside, "beside tls.crt, as cert-manager writes it"),
        ];
        match authority.into_iter().find_map(|(path, from)| Some((path?, from))) {
            Some((path, from)) => {
                let volume = self.mount(&path, "--cacert")?;
                self.note("tls", format!("authority {path} ({volume}), {from}"));
                self.give("etcd.tls.ca_file", path);
            }
            None => self.note(
                "attention",
                "no authority was found that etcd's certificate could be verified with; the system's are taken, and the \
                 image has none: --cacert FILE",
            ),
        }
        self.client_certificate(cert, key)?;
        if endpoint.starts_with("https://127.0.0.1") && self.ordered("etcd.tls.server_name").is_none() {
            self.note(
                "note",
                "etcd's certificate must be valid for 127.0.0.1; if it is not: --set etcd.tls.server_name=NAME",
            );
        }
        Ok(())
    }

    fn client_certificate(&mut self, cert: Option<String>, key: Option<String>) -> Result<(), Problem> {
        let own = |path: &str| self.ordered(path).map(str::to_owned);
        let pairs = [
            (own("etcd.tls.cert_file"), own("etcd.tls.key_file"), "as ordered"),
            (self.told.known("ETCDCTL_CERT"), self.told.known("ETCDCTL_KEY"), "from ETCDCTL_CERT"),
            (cert, key, "etcd's own: it must be good for clients, too"),
        ];
        // An authority for clients is enough: etcd then refuses those that show nothing of it.
        let asks = self.told.is_on("client-cert-auth") || self.told.raw("trusted-ca-file").is_some();
        if !asks && own("etcd.tls.cert_file").is_none() {
            self.note("tls", "no client certificate: etcd asks for none");
            return Ok(());
        }
        let Some((cert, key, from)) = pairs.into_iter().find_map(|(cert, key, from)| Some((cert?, key?, from))) else {
            return self.refused("etcd asks for client certificates, and none was found; --cert FILE --key FILE");
        };
        let volume = self.mount(&cert, "--cert")?;
        self.mount(&key, "--key")?;
        self.note("tls", format!("client certificate {cert} ({volume}), {from}"));
        self.give("etcd.tls.cert_file", cert);
        self.give("etcd.tls.key_file", key);
        Ok(())
    }

    /// A key that was found, unless it was ordered.
    fn give(&mut self, path: &'static str, value: String) {
        if self.ordered(path).is_none() {
            self.key(path, value);
        }
    }

    fn auth(&mut self) -> Result<(), Problem> {
        if let Some((name, key)) = &self.options.password_secret {
            let (secret, key) = (name.clone(), key.clone());
            let user = self.ordered("etcd.auth.username").unwrap_or("root").to_owned();
            self.note("auth", format!("user {user}, password from Secret {secret}, as ordered"));
            return self.password_from(secret, key, user);
        }
        if let Some(user) = self.ordered("etcd.auth.username") {
            let (user, file) =
                (user.to_owned(), self.ordered("etcd.auth.password_file").unwrap_or_default().to_owned());
            let volume = self.mount(&file, "--password-file")?;
            self.note("auth", format!("user {user}, password in {file} ({volume}), as ordered"));
            return Ok(());
        }
        if let Some(file) = self.told.known("ETCD_ROOT_PASSWORD_FILE") {
            let volume = self.mount(&file, "--password-file")?;
            self.note("auth", format!("user root, password in {file} ({volume}), from ETCD_ROOT_PASSWORD_FILE"));
            self.key("etcd.auth.username", "root");
            self.key("etcd.auth.password_file", file);
            return Ok(());
        }
        match self.told.variable("ETCD_ROOT_PASSWORD") {
            Some(Variable::Secret { name, key }) => {
                let (name, key) = (name.clone(), key.clone());
                self.note("auth", format!("user root, password from Secret {name}, as in ETCD_ROOT_PASSWORD"));
                self.password_from(name, key, "root".to_owned())
            }
            Some(Variable::Value(value)) if value.is_empty() => self.no_auth(),
            Some(_) => self.refused(
                "ETCD_ROOT_PASSWORD holds the password itself; put it into a Secret: --user root --password-secret NAME/KEY",
            ),
            None => self.no_auth(),
        }
    }

    fn no_auth(&mut self) -> Result<(), Problem> {
        self.note("auth", "no password was found; if etcd asks for one: --user NAME --password-secret NAME/KEY");
        Ok(())
    }

    fn password_from(&mut self, secret: String, key: String, user: String) -> Result<(), Problem> {
        self.give("etcd.auth.username", user);
        self.give("etcd.auth.password_file", format!("{PASSWORD_FOLDER}/password"));
        self.found.password = Some((secret, key));
        Ok(())
    }

    fn data(&mut self) -> Result<(), Problem> {
        // As another user the janitor may not be let in, and a directory that cannot be read holds a defrag up.
        if self.found.user.is_none_or(|user| user == 0) || self.ordered("defrag.data_dir").is_some() {
            return Ok(());
        }
        let Ok(Some(folder)) = self.told.value("data-dir") else { return Ok(()) };
        if !folder.starts_with('/') || folder.contains("$(") {
            return Ok(());
        }
        let Some(mount) = self.mount_of(&folder)? else { return Ok(()) };
        if !mount.get("subPathExpr")?.is_absent() || self.is_on_host(&mount)? {
            return Ok(());
        }
        let volume = self.add_mount(&mount)?;
        self.note("data", format!("{folder} (volume {volume}, read-only), to see whether a defrag has room"));
        self.key("defrag.data_dir", folder);
        Ok(())
    }

    fn budget(&mut self) -> Result<(), Problem> {
        let probe = self.etcd.get("livenessProbe")?;
        let Budget { seconds, why } = budget(&probe)?;
        if self.ordered("defrag.liveness_budget").is_some() {
            return Ok(());
        }
        if self.options.move_liveness_probe && !probe.is_absent() {
            self.key("defrag.liveness_budget", "0s");
            return Ok(());
        }
        let unchecked = if seconds == 0 { " (not checked)" } else { "" };
        self.note("budget", format!("{seconds}s{unchecked}: {why}"));
        self.key("defrag.liveness_budget", format!("{seconds}s"));
        Ok(())
    }

    fn compaction(&mut self) {
        let retention = self.told.value("auto-compaction-retention").ok().flatten().unwrap_or_default();
        if !retention.trim_start_matches(['0', 'h', 'm', 's']).is_empty() {
            self.note(
                "note",
                format!("etcd compacts by itself (--auto-compaction-retention={retention}): the janitor's compaction stays off"),
            );
        }
    }

    /// Files that were ordered: the sidecar must have them, too.
    fn files(&mut self) -> Result<(), Problem> {
        let mut ordered: Vec<&str> = self.options.keys.iter().map(|(key, _)| key.as_str()).collect();
        ordered.sort_unstable();
        ordered.dedup();
        for key in ordered {
            let file = self.ordered(key).unwrap_or_default().to_owned();
            let is_file = keys::find(key).is_some_and(|key| key.spec().kind == "path");
            let lies_in = |folder: &str| file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
            let ours = (self.options.config_map.is_some() && lies_in(CONFIG_FOLDER))
                || (self.found.password.is_some() && lies_in(PASSWORD_FOLDER));
            if !is_file || file.is_empty() || ours {
                continue;
            }
            let volume = self.mount(&file, &format!("--set {key}"))?;
            // Of the others it was said where they are looked at.
            if !key.starts_with("etcd.") {
                self.note("file", format!("{file} ({volume}), for {key}, as ordered"));
            }
        }
        Ok(())
    }

    /// Mounts what the file lies in, and says which volume that is.
    fn mount(&mut self, file: &str, flag: &str) -> Result<String, Problem> {
        match self.mount_of(file)? {
            Some(mount) => self.add_mount(&mount).map(|volume| format!("volume {volume}")),
            None => self.refused(format!(
                "no volume is mounted where {file} lies, so that the sidecar cannot have it; {flag} names one that is"
            )),
        }
    }

    /// The container's mount that a file lies in: the deepest.
    fn mount_of(&self, file: &str) -> Result<Option<View<'a>>, Problem> {
        let mut best: Option<(usize, View<'a>)> = None;
        for mount in self.etcd.get("volumeMounts")?.items()? {
            let Some(folder) = mount.get("mountPath")?.text()? else { continue };
            let folder = folder.trim_end_matches('/');
            let inside = file.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if inside && best.as_ref().is_none_or(|(length, _)| folder.len() > *length) {
                best = Some((folder.len(), mount));
            }
        }
        Ok(best.map(|(_, mount)| mount))
    }

    /// Files of a Secret are root's. Beside an etcd that is root the sidecar is not, and reads them by group or not at all.
    fn closed_to_us(&mut self, volume: &str) -> Result<(), Problem> {
        let as_etcd = self.found.user.is_some_and(|user| user != 0);
        if as_etcd || !self.spec.at(&["securityContext", "fsGroup"])?.is_absent() {
            return Ok(());
        }
        for source in self.spec.get("volumes")?.items()? {
            if source.get("name")?.text()? != Some(volume) {
                continue;
            }
            for kind in ["secret", "projected"] {
                let mode = source.at(&[kind, "defaultMode"])?;
                let Some(Node::Scalar(written)) = mode.node() else { continue };
                let octal = written.text.strip_prefix('0').map(|digits| digits.trim_start_matches('o'));
                let bits = match octal {
                    Some(digits) => u32::from_str_radix(digits, 8).ok(),
                    None => written.text.parse().ok(),
                };
                if bits.is_some_and(|bits| bits & 0o4 == 0) {
                    let text = format!(
                        "the files of volume {volume} are root's alone (defaultMode {}), and the sidecar is not root: set \
                         fsGroup, or a mode that others may read by",
                        written.text
                    );
                    if !self.found.notes.iter().any(|note| note.contains(&text)) {
                        self.note("attention", text);
                    }
                }
            }
        }
        Ok(())
    }

    fn is_on_host(&self, mount: &View<'a>) -> Result<bool, Problem> {
        let volume = mount.get("name")?.text()?;
        for source in self.spec.get("volumes")?.items()? {
            if source.get("name")?.text()? == volume && !source.get("hostPath")?.is_absent() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds a mount of etcd's to ours, once, and gives the volume's name.
    fn add_mount(&mut self, mount: &View<'a>) -> Result<String, Problem> {
        let text =
            |key: &str| -> Result<String, Problem> { Ok(mount.get(key)?.text()?.unwrap_or_default().to_owned()) };
        let (volume, folder, below) = (text("name")?, text("mountPath")?, text("subPath")?);
        if !mount.get("subPathExpr")?.is_absent() {
            return Err(Problem::refused(&mount.path, "a mount with subPathExpr, which the sidecar cannot repeat"));
        }
        if self.is_on_host(mount)? {
            let text = "a directory of the host, as in kubeadm's static pods: its files are root's, which the sidecar is \
                            not, and kubeadm writes the manifest anew with each upgrade; patch it through kubeadm (--patches)";
            return Err(Problem::refused(&mount.path, text));
        }
        self.closed_to_us(&volume)?;
        let mut ours = Node::map([("name", Node::text(&volume)), ("mountPath", Node::text(&folder))]);
        if !below.is_empty() {
            ours.set("subPath", Node::text(&below));
        }
        ours.set("readOnly", Node::plain(true));
        if !self.found.mounts.iter().any(|other| other.same(&ours)) {
            self.found.mounts.push(ours);
        }
        Ok(volume)
    }
}

/// The URL of a list at which the container itself is reached from within its pod: plain http first.
fn local_url(urls: &str) -> Option<String> {
    let parts = urls.split(',').map(str::trim).filter_map(|url| {
        let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))?;
        let address = rest.split('/').next()?;
        let (host, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        let (host, near) = match host {
            "" | "0.0.0.0" | "[::]" | "127.0.0.1" | "localhost" => ("127.0.0.1", 0),
            "[::1]" => ("[::1]", 0),
            other => (other, 1),
        };
        Some((near, scheme, format!("{scheme}://{host}:{port}")))
    });
    parts.min_by(|one, two| (one.0, one.1).cmp(&(two.0, two.1))).map(|(_, _, url)| url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_url_is_one_that_a_neighbour_in_the_pod_can_use() {
        let check = |urls: &str, expected: Option<&str>| assert_eq!(local_url(urls).as_deref(), expected, "{urls}");
        check("http://0.0.0.0:2379", Some("http://127.0.0.1:2379"));
        check("https://[::]:2379", Some("https://127.0.0.1:2379"));
        check("https://0.0.0.0:2379,http://127.0.0.1:2378", Some("http://127.0.0.1:2378"));
        check("https://$(POD_IP):2379,https://127.0.0.1:2379", Some("https://127.0.0.1:2379"));
        check("https://$(POD_IP):2379", Some("https://$(POD_IP):2379"));
        check("http://[::1]:2379/", Some("http://[::1]:2379"));
        check("unix://x:1", None);
        check("http://x", None);
        check("", None);
    }
}
