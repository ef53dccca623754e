//! The status page in a real browser, on a live cluster of three members: what the browser complains of, what axe finds
//! for people who do not see it or use no mouse, and pictures of it to look at.
//!
//! Headless Chromium through its chromedriver, which takes W3C WebDriver commands: one HTTP request each.

#![allow(clippy::disallowed_methods, reason = "tests connect, spawn and read the clock as they like")]

mod support;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use support::garbage::{ballast, free_pages};
use support::ports::Port;
use support::process::Process;
use support::rounds::{all_done, knows_all, says};
use support::{Cluster, Janitor, Spec, due_in, eventually, scrape};

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(240);

/// Width and height of the window, and whether the browser asks for dark colours.
const VIEWS: [(&str, u32, u32, bool); 4] = [
    ("desktop-light", 1280, 1000, false),
    ("desktop-dark", 1280, 1000, true),
    ("phone-light", 360, 740, false),
    ("phone-dark", 360, 740, true),
];

struct Browser {
    driver: SocketAddr,
    session: String,
    /// Where the pictures go.
    pictures: PathBuf,
    _profile: TempDir,
    _port: Port,
    _process: Process,
}

impl Browser {
    async fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let port = Port::reserve();
        let driver = port.address();
        let log = File::create(profile.path().join("chromedriver.log")).expect("a file");
        let process = Process::start("chromedriver", |command| {
            command.arg(format!("--port={}", driver.port()));
            command.stdout(log.try_clone().expect("a handle")).stderr(log);
        });
        let process = process.unwrap_or_else(|error| panic!("chromedriver (scripts/deploy-tools.sh): {error}"));
        let mut browser = Self {
            driver,
            session: String::new(),
            pictures: Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page"),
            _profile: profile,
            _port: port,
            _process: process,
        };
        fs::create_dir_all(&browser.pictures).expect("a folder for pictures");
        eventually("chromedriver serves", LIMIT, || async {
            let (_, answer) = scrape::ask(driver, ("GET", "/status"), None, LIMIT).await?;
            (answer["value"]["ready"] == true).then_some(())
        })
        .await;
        // Nothing is to go out but what a page asks for, and without root there is no sandbox in a container.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let mut arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        arguments.push(format!("--user-data-dir={}", browser._profile.path().join("profile").display()));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let answer = browser.command("/session", wanted).await;
        browser.session = answer["sessionId"].as_str().expect("a session").to_owned();
        browser
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        let answer = scrape::ask(self.driver, ("POST", path), Some(body), LIMIT).await;
        let (status, mut answer) = answer.unwrap_or_else(|| panic!("{path}: no answer from chromedriver"));
        assert_eq!(status, 200, "{path}: {answer}");
        answer["value"].take()
    }

    async fn in_session(&self, command: &str, body: Value) -> Value {
        self.command(&format!("/session/{}/{command}", self.session), body).await
    }

    async fn open(&self, url: &str) {
        self.in_session("url", json!({ "url": url })).await;
    }

    /// What a script returns, or the promise that it returns resolves to.
    async fn script(&self, script: &str) -> Value {
        self.in_session("execute/sync", json!({ "script": script, "args": [] })).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.in_session("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    async fn view(&self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await;
    }

    /// The whole page, not only what is in the window.
    async fn picture(&self, name: &str) {
        let taken = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true })).await;
        let image = BASE64.decode(taken["data"].as_str().expect("a picture")).expect("base64");
        fs::write(self.pictures.join(format!("{name}.png")), image).expect("a file");
    }

    /// What the browser said of the pages since it was last asked, refused styles and failed requests among it.
    async fn complaints(&self) -> Vec<String> {
        let log = self.in_session("se/log", json!({ "type": "browser" })).await;
        let all = log.as_array().expect("a list").iter();
        all.map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// What axe finds wrong, by rule and place; never what it cannot tell.
    async fn axe(&self) -> Vec<String> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tools/deploy/share/axe.min.js");
        let source = fs::read_to_string(&source)
            .unwrap_or_else(|error| panic!("{} (scripts/deploy-tools.sh): {error}", source.display()));
        // In a devtools evaluation, which the page's policy does not govern.
        let loaded = self.devtools("Runtime.evaluate", json!({ "expression": source, "silent": true })).await;
        assert!(loaded["exceptionDetails"].is_null(), "{loaded}");
        let found = self.script("return axe.run(document, { resultTypes: ['violations'] })").await;
        let (passes, violations) = (found["passes"].as_array(), found["violations"].as_array());
        let violations = violations.expect("a list");
        let rules = passes.map_or(0, Vec::len) + violations.len();
        assert!(rules > 10, "axe looked at nothing: {rules} rules");
        violations
            .iter()
            .flat_map(|violation| {
                let nodes = violation["nodes"].as_array().expect("a list").iter();
                nodes.map(move |node| format!("{}: {} ({})", violation["id"], node["html"], node["failureSummary"]))
            })
            .collect()
    }

    /// Looks at a page in every view: silence in the log, nothing beyond the window's width, nothing for axe.
    async fn judge(&self, url: &str, state: &str) {
        for (view, width, height, dark) in VIEWS {
            let name = format!("{state}-{view}");
            self.view(width, height, dark).await;
            self.open(url).await;
            self.picture(&name).await;
            let background = self.script("return getComputedStyle(document.body).backgroundColor").await;
            assert_eq!(background != "rgb(255, 255, 255)", dark, "{name}: {background}");
            let wide = self.script("return document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().is_some_and(|wide| wide <= u64::from(width)), "{name}: {wide} pixels wide");
            assert_eq!(self.axe().await, [""; 0], "{name}");
            assert_eq!(self.complaints().await, [""; 0], "{name}");
        }
    }
}

/// chromedriver ends its Chromium with the session; killed, it would leave it running.
impl Drop for Browser {
    fn drop(&mut self) {
        let mut driver = scrape::Connection::new(self.driver, Duration::from_secs(10));
        let _ = driver.request("DELETE", &format!("/session/{}", self.session), None);
    }
}

/// A finding of each kind on a page made for it: the judge can see.
async fn assert_it_sees(browser: &Browser) {
    let page = "<html><body style='width:3000px'><img src='data:,'><p style='color:#ddd'>pale</p>\
                <script>console.error('a complaint')</script></body></html>";
    browser.open(&format!("data:text/html;base64,{}", BASE64.encode(page))).await;
    let found = browser.axe().await.join("\n");
    for rule in ["image-alt", "color-contrast", "html-has-lang"] {
        assert!(found.contains(rule), "{found}");
    }
    assert!(browser.complaints().await.join("\n").contains("a complaint"));
    let wide = browser.script("return document.documentElement.scrollWidth").await;
    assert!(wide.as_u64() >= Some(3000), "{wide}");
}

/// Every link can be reached by the Tab key, in the order of the page, and shows that it has the focus.
async fn assert_keyboard(browser: &Browser) {
    let links = browser.script("return [...document.links].map(link => link.href)").await;
    let links = links.as_array().expect("a list").clone();
    assert!(links.len() >= 5, "{links:?}");
    let tab = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": [
        { "type": "keyDown", "value": "\u{e004}" }, { "type": "keyUp", "value": "\u{e004}" },
    ] }] });
    let mut reached = Vec::new();
    for _ in 0..links.len() + 20 {
        browser.in_session("actions", tab.clone()).await;
        let focus = browser
            .script("const at = document.activeElement; return [at.href || null, getComputedStyle(at).outlineStyle]")
            .await;
        if !focus[0].is_null() {
            assert_ne!(focus[1], "none", "{focus}");
            reached.push(focus[0].clone());
        }
        if reached.len() == links.len() {
            break;
        }
    }
    assert_eq!(reached, links);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium, which `make deploy-test` brings"]
async fn the_page_in_a_browser() {
    let mut cluster = Cluster::start(Spec { stretch_defrags: Some(Duration::from_secs(2)), ..Spec::calm() }).await;
    ballast(&cluster, 12).await;
    free_pages(&cluster, 60).await;
    let yaml = format!(
        "compaction: {{ schedule: '{}', retention: 1s }}\n\
         defrag: {{ schedule: '{}', rule: 'dbSizeFree > 30 * MiB', pause_between: 1s }}\n",
        due_in(40),
        due_in(60)
    );
    let mut janitors = Vec::new();
    for index in 0..3 {
        janitors.push(Janitor::start(&cluster, index, &yaml).await);
    }
    for janitor in &janitors {
        knows_all(janitor, 3).await;
    }
    let browser = Browser::start().await;
    let url = format!("http://{}/", janitors[0].address());
    // What is judged must not be loaded anew between two questions.
    let still = format!("{url}?refresh=off");
    assert_it_sees(&browser).await;

    // It refreshes itself: the document is another one after a while, without a hand. And not once it is asked to stop.
    browser.open(&url).await;
    let born = async || browser.script("return performance.timeOrigin").await;
    let first = born().await;
    eventually("the page is loaded anew by itself", LIMIT, || async { (born().await != first).then_some(()) }).await;
    browser.open(&still).await;
    let first = born().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(born().await, first);
    // Nothing runs in it and nothing is fetched for it, so a browser without scripts shows the same.
    let parts = "return [document.scripts.length, performance.getEntriesByType('resource').map(part => part.name)]";
    assert_eq!(browser.script(parts).await, json!([0, []]));

    all_done(&janitors, PATIENCE).await;
    says(&janitors[0], "every defrag is on record", LIMIT, |status| {
        status["history"].as_array().is_some_and(|history| history.len() >= 3)
    })
    .await;
    browser.judge(&still, "after-a-round").await;
    assert_keyboard(&browser).await;
    let shown = browser.script("return document.body.innerText").await.as_str().expect("text").to_owned();
    for wanted in ["m0", "m1", "m2", "Sizes, last hour", "Last decisions", "History"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }

    let held = janitors[0].command(&["hold", "--for", "1h", "--reason", "the disks are being moved"]).await;
    assert!(held.status.success(), "{held:?}");
    says(&janitors[0], "the hold is known", LIMIT, |status| !status["hold"].is_null()).await;
    browser.judge(&still, "hold").await;
    let released = janitors[0].command(&["release"]).await;
    assert!(released.status.success(), "{released:?}");

    janitors[1].kill();
    cluster.kill(2);
    // An idle daemon looks at the others every ten minutes, and when it is asked.
    eventually("a member is seen to be down", LIMIT, || async {
        let status = janitors[0].command(&["status"]).await;
        String::from_utf8_lossy(&status.stdout).contains("m2 is not well").then_some(())
    })
    .await;
    browser.judge(&still, "member-down").await;
}
