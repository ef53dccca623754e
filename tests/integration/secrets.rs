//! A run at the highest log level with every kind of secret, and a search through all that came out of it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use etcd_client::GetOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rounds::PATIENCE;
use crate::support::certs::Pair;
use crate::support::janitor::PROGRAM;
use crate::support::ports::Port;
use crate::support::scrape::Connection;
use crate::support::{Auth, Cluster, Janitor, Spec, Tls, Token, due_in, eventually};

const PASSWORD: &str = "marked-password-5b1c";
const WRONG_PASSWORD: &str = "marked-wrong-password-77aa";
const BEARER: &str = "marked-bearer-token-90fe";
/// What somebody tries may be nearly right.
const GUESSED: &str = "marked-guess-of-a-token-12cd";

/// The libraries' innermost life, too.
const ALL: &str = "trace,h2=trace,hyper=trace,hyper_util=trace,rustls=trace,tonic=trace,tower=trace";

/// Words of a key that appear nowhere else.
fn heart(pem: &str) -> String {
    let line = pem.lines().find(|line| !line.starts_with("-----") && line.len() > 40).expect("a line of base64");
    line[20..40].to_owned()
}

/// One request, and everything that came back.
async fn get(janitor: &Janitor, path: &str, token: Option<&str>) -> Vec<u8> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let mut stream = TcpStream::connect(janitor.address()).await.expect("it serves");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request is taken");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    answer
}

/// Everything that a process emits, with a name for each piece.
#[derive(Default)]
struct Emitted(Vec<(String, Vec<u8>)>);

impl Emitted {
    fn take(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), bytes.into()));
    }

    async fn run(&mut self, janitor: &Janitor, words: &[&str]) {
        let output = janitor.command(words).await;
        self.take(words.join(" "), [output.stdout, output.stderr].concat());
    }

    /// Where `secret` is, and a little of what is before it.
    fn find(&self, secret: &str) -> Vec<String> {
        let all = self.0.iter();
        let found = all.filter_map(|(name, bytes)| {
            let text = String::from_utf8_lossy(bytes);
            let before = text.split(secret).next().filter(|before| before.len() < text.len())?;
            let tail: String = before.chars().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect();
            Some(format!("{name}: …{tail}"))
        });
        found.collect()
    }
}

#[tokio::test]
async fn nothing_that_is_secret_comes_out_at_any_log_level() {
    // Every such token begins with the same words: {"alg":"
    searched(Token::Jwt { ttl: Duration::from_secs(5) }, |emitted| emitted.find("eyJhbGciOi")).await;
}

/// These are sixteen letters, a dot and a number, and nothing else that it says is.
#[tokio::test]
#[ignore = "of the matrix: `make matrix` runs it"]
async fn no_simple_token_comes_out_either() {
    let is_token = |word: &&str| {
        word.split_once('.').is_some_and(|(letters, number)| {
            let letters = letters.len() == 16 && letters.bytes().all(|byte| byte.is_ascii_alphabetic());
            letters && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let find = move |emitted: &Emitted| {
        let mut found = Vec::new();
        for (name, bytes) in &emitted.0 {
            let text = String::from_utf8_lossy(bytes);
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
            found.extend(words.filter(is_token).map(|word| format!("{name}: {word}")));
        }
        found
    };
    let known = Emitted(vec![("made".to_owned(), b"token=\"aBcDeFgHiJkLmNoP.17\"".to_vec())]);
    assert_eq!(find(&known).len(), 1, "the search can find one");
    searched(Token::Simple { ttl: Duration::from_secs(5) }, find).await;
}

async fn searched(token: Token, tokens: impl Fn(&Emitted) -> Vec<String>) {
    let cluster = Cluster::start(Spec {
        members: 1,
        tls: Tls::Mutual,
        auth: Some(Auth { root_password: PASSWORD.to_owned(), token }),
        ..Spec::default()
    })
    .await;
    let yaml = |due: &str| {
        format!(
            "log: {{ level: '{ALL}' }}\ncompaction: {{ schedule: '* * * * *', retention: 1m }}\n\
             defrag: {{ schedule: '{due}', rule: 'dbSize > 0', small_cluster: allow }}\n"
        )
    };
    let mut janitor = Janitor::prepare(&cluster, 0, &yaml(&due_in(30)));
    let (password, bearer) = (janitor.folder().join("password"), janitor.folder().join("bearer"));
    fs::write(&bearer, BEARER).expect("a file");
    janitor.set_environment("ETCD_JANITOR__HTTP__BEARER_TOKEN_FILE", &bearer.display().to_string());
    let Pair { cert, key } = cluster.certs().issue("janitor", 2099);
    let other = cluster.certs().issue("janitor", 2099);
    let (cert_file, key_file) = (janitor.folder().join("client.crt"), janitor.folder().join("client.key"));
    fs::write(&cert_file, &cert).expect("a file");
    fs::write(&key_file, &other.key).expect("a file");
    janitor.set_environment("ETCD_JANITOR__ETCD__TLS__CERT_FILE", &cert_file.display().to_string());
    janitor.set_environment("ETCD_JANITOR__ETCD__TLS__KEY_FILE", &key_file.display().to_string());
    fs::write(&password, WRONG_PASSWORD).expect("a file");

    // A key that is not the certificate's, then a wrong password, then all that is right.
    let mut emitted = Emitted::default();
    janitor.start_again().await;
    let pid = janitor.process().pid();
    let log = |janitor: &Janitor| janitor.log_tail(usize::MAX);
    let says = async |janitor: &Janitor, words: &str| {
        eventually("it is said", PATIENCE, || async { log(janitor).contains(words).then_some(()) }).await;
    };
    says(&janitor, "is not the key of the certificate").await;
    emitted.run(&janitor, &["status"]).await;
    emitted.run(&janitor, &["check"]).await;
    fs::write(&key_file, &key).expect("a file");
    says(&janitor, "authentication failed").await;
    for words in [&["status"][..], &["check"], &["defrag"], &["hold", "--for", "1h", "--reason", "x"]] {
        emitted.run(&janitor, words).await;
    }
    fs::write(&password, PASSWORD).expect("a file");
    says(&janitor, "looks after this member").await;
    janitor.write_config(&yaml(&due_in(8)));
    says(&janitor, "\"outcome\":\"done\"").await;

    for words in [
        &["status"][..],
        &["status", "-o", "wide"],
        &["status", "-o", "json"],
        &["status", "-o", "yaml"],
        &["check"],
        &["check", "-o", "json"],
        &["explain", "defrag"],
        &["explain", "compaction"],
        &["history", "-o", "json"],
        &["config", "show"],
        &["config", "check"],
        &["defrag", "--dry-run"],
        &["defrag"],
        &["compact"],
        &["hold", "--for", "1h", "--reason", "x"],
        &["release"],
        &["probe", "readyz"],
        &["quiesce"],
        &["run", "--password", "x"],
        &["--help"],
    ] {
        emitted.run(&janitor, words).await;
    }
    let paths =
        ["/", "/metrics", "/api/v1/status?fresh", "/api/v1/history", "/readyz?verbose", "/etcd/readyz", "/none"];
    for path in paths {
        for token in [None, Some(GUESSED), Some(BEARER)] {
            emitted.take(format!("GET {path}"), get(&janitor, path, token).await);
        }
    }
    let answered = |emitted: &Emitted, words: &str| !emitted.find(words).is_empty();
    assert!(
        answered(&emitted, "etcd_janitor_turn_held") && answered(&emitted, "api_version"),
        "the right token opens it"
    );
    // A port of its own certificate, after one whose key is another's.
    let shown = cluster.certs().issue("janitor", 2098);
    let (http_cert, http_key) = (janitor.folder().join("http.crt"), janitor.folder().join("http.key"));
    fs::write(&http_cert, &shown.cert).expect("a file");
    fs::write(&http_key, &other.key).expect("a file");
    let tls = format!("http: {{ tls: {{ cert_file: {}, key_file: {} }} }}\n", http_cert.display(), http_key.display());
    janitor.write_config(&format!("{}{tls}", yaml(&due_in(1800))));
    says(&janitor, "the listener has no new certificate").await;
    fs::write(&http_key, &shown.key).expect("a file");
    let served = || async { janitor.command(&["probe", "livez"]).await.status.success().then_some(()) };
    eventually("it serves with its own", PATIENCE, served).await;
    for words in [&["status"][..], &["config", "show"], &["check"], &["probe", "readyz"]] {
        emitted.run(&janitor, words).await;
    }
    emitted.take("cmdline", fs::read(format!("/proc/{pid}/cmdline")).expect("it runs"));
    emitted.take("environ", fs::read(format!("/proc/{pid}/environ")).expect("it runs"));
    let mut client = cluster.client(0).await;
    let all = client.get("/etcd-janitor/", Some(GetOptions::new().with_prefix())).await.expect("a read");
    for kv in all.kvs() {
        emitted.take(String::from_utf8_lossy(kv.key()), kv.value());
    }
    assert!(all.kvs().len() > 1, "it has written records");
    janitor.stop().await;
    emitted.take("log", log(&janitor));
    // The search can find something, and the log is one at the highest level.
    assert!(answered(&emitted, "\"level\":\"TRACE\"") && answered(&emitted, &password.display().to_string()));

    let (key, other, shown) = (heart(&key), heart(&other.key), heart(&shown.key));
    let secrets = [PASSWORD, WRONG_PASSWORD, BEARER, GUESSED, &key, &other, &shown, "PRIVATE KEY-----"];
    for secret in secrets {
        let found = emitted.find(secret);
        assert!(found.is_empty(), "{secret} is in\n{}", found.join("\n"));
    }
    let found = tokens(&emitted);
    assert!(found.is_empty(), "tokens are in\n{}", found.join("\n"));
}

/// Neither a core after a crash nor another process of the same user gets at what it holds: the kernel gives such a
/// process' files in /proc to root.
#[test]
fn its_memory_is_nobody_elses() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("etcd-janitor");
    fs::copy(PROGRAM, &program).expect("a copy that another user may run");
    for path in [folder.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    let port = Port::reserve();
    let root = fs::metadata("/proc/self").expect("Linux").uid() == 0;
    let mut command = if root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command
    } else {
        Command::new(&program)
    };
    let mut child = command
        .args(["run", "--listen", &format!("127.0.0.1:{}", port.number())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let environ = format!("/proc/{}/environ", child.id());
    let address = ([127, 0, 0, 1], port.number()).into();
    // What it tells of itself it reads in /proc, too.
    let mut metrics = String::new();
    for _ in 0..200 {
        std::thread::sleep(Duration::from_millis(50));
        if let Ok((_, text)) = Connection::new(address, Duration::from_secs(5)).get("/metrics") {
            metrics = text;
            break;
        }
    }
    let owner = fs::metadata(&environ).expect("it runs").uid();
    child.kill().expect("ours");
    child.wait().expect("ours");
    assert_eq!(owner, 0, "{environ} belongs to its user");
    for series in ["process_open_fds", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
        assert!(metrics.contains(series), "{series}");
    }
}
