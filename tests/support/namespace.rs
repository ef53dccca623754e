//! A network namespace for one member and its janitor, as a pod has one, with
//! a wire that can be cut. Only inside a `sandbox`.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::process::Process;
use super::sandbox::run;

/// Nobody answers to this address, and nobody is asked for another one.
const NOWHERE: &str = "02:00:00:00:00:01";

/// What of a member's traffic is lost. Nothing is refused and no connection is
/// reset: what was sent is gone, and nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// What others send to it.
    In,
    /// What it sends.
    Out,
}

/// Two wires: the members' network, and one for the judge alone, which sees a
/// member also while it is cut off.
pub struct Namespace {
    number: usize,
    holder: Process,
}

impl Namespace {
    pub fn create(number: usize) -> Self {
        if number == 0 {
            for (bridge, address) in [("members", "10.77.0.254/24"), ("judge", "10.78.0.254/24")] {
                run("ip", &["link", "add", bridge, "type", "bridge"]);
                run("ip", &["addr", "add", address, "dev", bridge]);
                run("ip", &["link", "set", bridge, "up"]);
            }
        }
        let holder = Process::start("unshare", |command| {
            command.args(["--net", "--", "sleep", "infinity"]).stdout(Stdio::null()).stderr(Stdio::null());
        })
        .expect("unshare runs: the sandbox was made with it");
        let namespace = Self { number, holder };
        namespace.wait_apart();
        namespace.on_the_inside("ip", &["link", "set", "lo", "up"]);
        let addresses = [("eth0", "members", namespace.host()), ("eth1", "judge", namespace.judged_host())];
        for (inner, bridge, address) in addresses {
            let (outer, pid) = (format!("{bridge}{number}"), namespace.holder.pid().to_string());
            run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", inner, "netns", &pid]);
            run("ip", &["link", "set", &outer, "master", bridge, "up"]);
            namespace.on_the_inside("ip", &["addr", "add", &format!("{address}/24"), "dev", inner]);
            namespace.on_the_inside("ip", &["link", "set", inner, "up"]);
        }
        namespace
    }

    /// unshare has made it, not only begun to.
    fn wait_apart(&self) {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let started = Instant::now();
        while of(&self.holder.pid().to_string()).is_none_or(|other| Some(other) == of("self")) {
            assert!(started.elapsed() < Duration::from_secs(10), "no network namespace is made");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its address among the members.
    pub fn host(&self) -> Ipv4Addr {
        host(self.number)
    }

    /// Its address for the judge.
    pub fn judged_host(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 0, self.host().octets()[3])
    }

    /// The words before a command line that run it in here.
    pub fn prefix(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.holder.pid()), "--".to_owned()]
    }

    fn on_the_inside(&self, program: &str, args: &[&str]) {
        let net = format!("--net=/proc/{}/ns/net", self.holder.pid());
        run("nsenter", &[&[net.as_str(), "--", program], args].concat());
    }
}

/// Cuts one of these namespaces off from the others and from all clients.
pub fn cut(all: &[&Namespace], number: usize, cut: Cut) {
    let (alone, others) = (all[number], all.iter().filter(|one| one.number != number));
    match cut {
        Cut::Both => run("ip", &["link", "set", &format!("members{number}"), "down"]),
        Cut::Out => {
            let clients = Ipv4Addr::new(10, 77, 0, 254);
            for other in others.map(|one| one.host()).chain([clients]) {
                alone.on_the_inside("ip", &lost(&other.to_string(), "eth0"));
            }
        }
        Cut::In => {
            let address = alone.host().to_string();
            for other in others {
                other.on_the_inside("ip", &lost(&address, "eth0"));
            }
            run("ip", &lost(&address, "members"));
        }
    }
}

/// Undoes every cut of this one, whichever it was.
pub fn heal(all: &[&Namespace], number: usize) {
    run("ip", &["link", "set", &format!("members{number}"), "up"]);
    for one in all {
        one.on_the_inside("ip", &["neigh", "flush", "dev", "eth0", "nud", "permanent"]);
    }
    run("ip", &["neigh", "flush", "dev", "members", "nud", "permanent"]);
}

fn lost<'a>(address: &'a str, device: &'a str) -> [&'a str; 9] {
    ["neigh", "replace", address, "lladdr", NOWHERE, "dev", device, "nud", "permanent"]
}

fn host(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, u8::try_from(number + 1).expect("few members"))
}
