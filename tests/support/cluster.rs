//! Real etcd clusters on loopback.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, UserAddOptions};
use tempfile::TempDir;

use super::certs::Certs;
use super::namespace::Namespace;
use super::ports::Port;
use super::process::Process;
use super::proxy::Proxy;
use super::scrape::{self, Metrics};
use super::spec::{Spec, Tls, Token};
use super::{eventually, sandbox, strace};

/// How long a member may take to come up on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster. Everything of it is gone when it is dropped; when that
/// happens in a panic, the ends of the members' logs are printed first.
pub struct Cluster {
    pub(super) members: Vec<Member>,
    pub(super) spec: Spec,
    pub(super) etcd: PathBuf,
    pub(super) token: String,
    certs: Option<Certs>,
    pub(super) folder: TempDir,
}

pub struct Member {
    pub name: String,
    /// Known once the member has been up.
    pub id: u64,
    /// The member's own client port, never the proxy's.
    pub client_url: String,
    pub peer_url: String,
    pub metrics_url: String,
    pub data_dir: PathBuf,
    pub log: PathBuf,
    /// Before the client port, when the spec asked for it.
    pub proxy: Option<Proxy>,
    /// Removed from the member list by this test.
    pub removed: bool,
    pub learner: bool,
    /// Its own network, when the spec asked for it.
    pub namespace: Option<Namespace>,
    /// How long its defrags take at least, from its next start on.
    pub stretch: Option<Duration>,
    pub(super) args: Vec<String>,
    pub(super) process: Option<Process>,
    metrics_port: Port,
    client_port: Port,
    _peer_port: Port,
}

enum NotUp {
    PortTaken,
    Failed(String),
}

impl Member {
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("{} is not running", self.name)).pid()
    }

    pub fn running(&self) -> bool {
        self.process.is_some()
    }

    pub fn metrics_address(&self) -> SocketAddr {
        let host = self.namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, Namespace::judged_host);
        (IpAddr::V4(host), self.metrics_port.number()).into()
    }

    pub fn client_address(&self) -> SocketAddr {
        (IpAddr::V4(self.host()), self.client_port.number()).into()
    }

    fn host(&self) -> Ipv4Addr {
        self.namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, Namespace::host)
    }

    /// The URL that clients are told: the proxy's where there is one.
    pub fn advertised_url(&self) -> String {
        let own = &self.client_url;
        match &self.proxy {
            Some(proxy) => own.replace(&self.client_address().to_string(), &proxy.address().to_string()),
            None => own.clone(),
        }
    }

    /// The file that a defrag replaces with its last step.
    pub fn db_path(&self) -> PathBuf {
        self.data_dir.join("member/snap/db")
    }

    pub async fn metrics(&self) -> Option<Metrics> {
        let (status, text) = scrape::get(self.metrics_address(), "/metrics").await?;
        (status == 200).then(|| Metrics::parse(&text))
    }

    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Cluster {
    /// Starts a cluster and waits until every member serves.
    pub async fn start(spec: Spec) -> Self {
        super::tell_failures_at_once();
        for _ in 0..5 {
            match Self::try_start(&spec).await {
                Ok(cluster) => return cluster,
                Err(NotUp::PortTaken) => {}
                Err(NotUp::Failed(why)) => panic!("{why}"),
            }
        }
        panic!("no free ports for {} members in five tries", spec.members);
    }

    async fn try_start(spec: &Spec) -> Result<Self, NotUp> {
        let etcd = spec.etcd.clone().unwrap_or_else(|| cached(&spec.release, "etcd"));
        let folder =
            tempfile::Builder::new().prefix("etcd-janitor-test-").tempdir().expect("a temporary folder can be made");
        let certs = (spec.tls != Tls::Off).then(|| Certs::create(&folder.path().join("certs")));
        let token = folder.path().file_name().map(OsStr::to_string_lossy);
        let mut cluster = Self {
            members: Vec::new(),
            spec: spec.clone(),
            etcd,
            token: token.expect("a temporary folder has a name").into_owned(),
            certs,
            folder,
        };
        for _ in 0..spec.members {
            cluster.plan_member().await;
        }
        let initial = cluster.initial_cluster();
        for index in 0..spec.members {
            cluster.set_arguments(index, &initial, "new");
            cluster.launch(index);
        }
        for index in 0..spec.members {
            cluster.wait_up(index).await?;
        }
        if let Some(auth) = &cluster.spec.auth {
            let password = auth.root_password.clone();
            cluster.enable_auth(&password).await;
        }
        Ok(cluster)
    }

    /// Reserves ports and a place for one more member; starts nothing.
    pub(super) async fn plan_member(&mut self) -> usize {
        let index = self.members.len();
        let name = format!("m{index}");
        let (client, peer, metrics) = (Port::reserve(), Port::reserve(), Port::reserve());
        let scheme = if self.spec.tls == Tls::Off { "http" } else { "https" };
        let namespace = self.spec.namespaces.then(|| Namespace::create(index));
        assert!(namespace.is_none() || !self.spec.client_proxies, "from a namespace no proxy outside can be reached");
        let host = namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, Namespace::host);
        let judged = namespace.as_ref().map_or(Ipv4Addr::LOCALHOST, Namespace::judged_host);
        let data_dir = self.folder.path().join(&name);
        if let Some(mib) = self.spec.disk_mib {
            sandbox::small_disk(&data_dir, mib);
        }
        let proxy = match self.spec.client_proxies {
            true => Some(Proxy::start(client.address()).await),
            false => None,
        };
        self.members.push(Member {
            id: 0,
            client_url: format!("{scheme}://{host}:{}", client.number()),
            peer_url: format!("http://{host}:{}", peer.number()),
            metrics_url: format!("http://{judged}:{}/metrics", metrics.number()),
            data_dir,
            log: self.folder.path().join(format!("{name}.log")),
            name,
            proxy,
            removed: false,
            learner: false,
            namespace,
            stretch: self.spec.stretch_defrags,
            args: Vec::new(),
            process: None,
            metrics_port: metrics,
            client_port: client,
            _peer_port: peer,
        });
        index
    }

    pub(super) fn initial_cluster(&self) -> String {
        let all = self.members.iter().filter(|member| !member.removed);
        let all: Vec<_> = all.map(|m| format!("{}={}", m.name, m.peer_url)).collect();
        all.join(",")
    }

    pub(super) fn set_arguments(&mut self, index: usize, initial: &str, state: &str) {
        let (spec, member) = (&self.spec, &self.members[index]);
        let mut args = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", member.data_dir.display()),
            format!("--listen-client-urls={}", member.client_url),
            format!("--advertise-client-urls={}", member.advertised_url()),
            format!("--listen-peer-urls={}", member.peer_url),
            format!("--initial-advertise-peer-urls={}", member.peer_url),
            format!("--listen-metrics-urls=http://{}", member.metrics_address()),
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
            format!("--initial-cluster-token={}", self.token),
            format!("--heartbeat-interval={}", spec.heartbeat.as_millis()),
            format!("--election-timeout={}", spec.election.as_millis()),
        ];
        if spec.unsafe_no_fsync {
            args.push("--unsafe-no-fsync".to_owned());
        }
        if let Some(quota) = spec.quota_bytes {
            args.push(format!("--quota-backend-bytes={quota}"));
        }
        if let Some(certs) = &self.certs {
            args.push(format!("--cert-file={}", certs.server_cert.display()));
            args.push(format!("--key-file={}", certs.server_key.display()));
            if spec.tls == Tls::Mutual {
                args.push("--client-cert-auth".to_owned());
                args.push(format!("--trusted-ca-file={}", certs.ca.display()));
            }
        }
        if spec.auth.is_some() {
            // The least there is: with tokens of five seconds three clusters on two processors would do little else.
            args.push("--bcrypt-cost=4".to_owned());
        }
        match spec.auth.as_ref().map(|auth| auth.token) {
            Some(Token::Simple { ttl }) => {
                args.push(format!("--auth-token-ttl={}", ttl.as_secs()));
            }
            Some(Token::Jwt { ttl }) => {
                let secret = self.folder.path().join("jwt.secret");
                fs::write(&secret, self.token.repeat(4)).expect("a secret can be written");
                args.push(format!(
                    "--auth-token=jwt,priv-key={},sign-method=HS256,ttl={}s",
                    secret.display(),
                    ttl.as_secs()
                ));
            }
            None => {}
        }
        args.extend(spec.extra_args.iter().cloned());
        self.members[index].args = args;
    }

    pub(super) fn launch(&mut self, index: usize) {
        let member = &mut self.members[index];
        assert!(member.process.is_none(), "{} runs already", member.name);
        let log = File::options().create(true).append(true).open(&member.log);
        let log = log.expect("a member's log can be written");
        let mut argv: Vec<String> = member.namespace.as_ref().map(Namespace::prefix).unwrap_or_default();
        if let Some(stretch) = member.stretch {
            argv.extend(strace::from_birth(&member.db_path(), stretch));
        }
        argv.push(self.etcd.display().to_string());
        argv.extend(member.args.iter().cloned());
        let process = Process::start(&argv[0], |command| {
            let errors = log.try_clone().expect("a file handle can be copied");
            command.args(&argv[1..]).stdout(log).stderr(errors);
        });
        member.process =
            Some(process.unwrap_or_else(|e| {
                panic!("{} cannot be started: {e}; `make tools` installs what tests need", argv[0])
            }));
    }

    /// Waits until the member serves: linearizable reads, or for a learner a
    /// leader, because a learner refuses them.
    async fn wait_up(&mut self, index: usize) -> Result<(), NotUp> {
        let started = Instant::now();
        let member = &mut self.members[index];
        loop {
            let process = member.process.as_mut().expect("it was started");
            if let Some(status) = process.try_wait() {
                member.process = None;
                let tail = member.log_tail(20);
                return Err(if tail.contains("address already in use") {
                    NotUp::PortTaken
                } else {
                    NotUp::Failed(format!("{} ended with {status}:\n{tail}", member.name))
                });
            }
            let healthy = member.learner
                || scrape::get(member.metrics_address(), "/health?exclude=NOSPACE")
                    .await
                    .is_some_and(|(status, _)| status == 200);
            if healthy
                && let Some(metrics) = member.metrics().await
                && metrics.has_leader
            {
                member.id = metrics.server_id;
                return Ok(());
            }
            if started.elapsed() > START_LIMIT {
                return Err(NotUp::Failed(format!(
                    "{} is not healthy after {START_LIMIT:?}:\n{}",
                    member.name,
                    member.log_tail(20)
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn enable_auth(&mut self, password: &str) {
        let url = self.members[0].client_url.clone();
        let options = self.options_without_user();
        let mut client = Client::connect([url], Some(options)).await.expect("a member that is up can be reached");
        client.role_add("root").await.expect("a role is added");
        client.user_add("root", password, Some(UserAddOptions::new())).await.expect("a user is added");
        client.user_grant_role("root", "root").await.expect("a role is granted");
        client.auth_enable().await.expect("auth is switched on");
    }

    // ---- looking ----

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    pub fn proxy(&self, index: usize) -> &Proxy {
        let proxy = self.members[index].proxy.as_ref();
        proxy.expect("the spec asked for client_proxies")
    }

    pub fn certs(&self) -> &Certs {
        self.certs.as_ref().expect("the spec asked for TLS")
    }

    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// A folder that lives as long as the cluster, for a test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The indices of the members that are listed and vote.
    pub fn voters(&self) -> Vec<usize> {
        let all = self.members.iter().enumerate();
        let voters = all.filter(|(_, member)| !member.removed && !member.learner);
        voters.map(|(index, _)| index).collect()
    }

    /// The index of the one member that leads, as the members themselves say.
    pub async fn leader(&self) -> usize {
        eventually("exactly one member leads", Duration::from_secs(20), || async {
            let mut leaders = Vec::new();
            for (index, member) in self.members.iter().enumerate() {
                if member.running() && member.metrics().await.is_some_and(|m| m.is_leader) {
                    leaders.push(index);
                }
            }
            (leaders.len() == 1).then(|| leaders[0])
        })
        .await
    }

    /// Some member that does not lead and votes.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let mut voters = self.voters().into_iter();
        voters.find(|index| *index != leader && self.members[*index].running()).expect("more than one voter runs")
    }

    // ---- talking ----

    fn options_without_user(&self) -> ConnectOptions {
        let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(2));
        match &self.certs {
            Some(certs) => options.with_tls(certs.client_options(self.spec.tls == Tls::Mutual)),
            None => options,
        }
    }

    /// TLS and root's password as the spec has them.
    pub fn connect_options(&self) -> ConnectOptions {
        let options = self.options_without_user();
        match &self.spec.auth {
            Some(auth) => options.with_user("root", auth.root_password.clone()).with_auto_token_refresh(true),
            None => options,
        }
    }

    /// A client of one member, past any proxy. To log in takes a leader: it waits for one.
    pub async fn client(&self, index: usize) -> Client {
        let member = &self.members[index];
        let mut last = String::new();
        for _ in 0..20 {
            match self.client_to(&member.client_url).await {
                Ok(client) => return client,
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("no client of {}: {last}", member.name)
    }

    pub async fn client_to(&self, url: &str) -> Result<Client, etcd_client::Error> {
        Client::connect([url], Some(self.connect_options())).await
    }

    /// etcdctl of the same release against all running members.
    pub async fn etcdctl(&self, args: &[&str]) -> Output {
        let running = self.members.iter().filter(|m| m.running() && !m.removed);
        let urls: Vec<_> = running.map(|member| member.client_url.as_str()).collect();
        self.etcdctl_to(&urls.join(","), args).await
    }

    /// etcdctl against one member.
    pub async fn etcdctl_at(&self, index: usize, args: &[&str]) -> Output {
        self.etcdctl_to(&self.members[index].client_url, args).await
    }

    async fn etcdctl_to(&self, endpoints: &str, args: &[&str]) -> Output {
        let output = self.etcdctl_command(endpoints, args).output().await;
        output.unwrap_or_else(|error| panic!("etcdctl cannot run: {error}"))
    }

    /// etcdctl, not started yet. It ends when it is dropped.
    pub fn etcdctl_command(&self, endpoints: &str, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.etcd.with_file_name("etcdctl"));
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoints}")).kill_on_drop(true);
        if let Some(certs) = &self.certs {
            command.arg(format!("--cacert={}", certs.ca.display()));
            if self.spec.tls == Tls::Mutual {
                command.arg(format!("--cert={}", certs.client_cert.display()));
                command.arg(format!("--key={}", certs.client_key.display()));
            }
        }
        if let Some(auth) = &self.spec.auth {
            command.env("ETCDCTL_USER", format!("root:{}", auth.root_password));
        }
        command.args(args);
        command
    }

    /// The end of every member's log, for a failing test's message.
    pub fn log_tails(&self, lines: usize) -> String {
        let tails = self.members.iter();
        let tails = tails.map(|m| format!("--- {} ---\n{}\n", m.name, m.log_tail(lines)));
        tails.collect()
    }

    pub(super) async fn expect_up(&mut self, index: usize) {
        match self.wait_up(index).await {
            Ok(()) => {}
            Err(NotUp::PortTaken) => panic!("the port of {} was taken", self.members[index].name),
            Err(NotUp::Failed(why)) => panic!("{why}"),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails(12));
        }
        // All are killed before the folder goes, or they would write into it.
        for member in &mut self.members {
            member.process = None;
        }
    }
}

/// The path of a fetched program, or a failed test that says what to do.
pub fn cached(release: &str, program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/etcd").join(release).join(program);
    assert!(
        path.is_file(),
        "{program} {release} is not in .cache/etcd: run `make tools`, \
         which fetches every release that the tests need"
    );
    path
}
