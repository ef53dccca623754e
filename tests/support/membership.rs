//! What tests do to the members of a running cluster.

use std::fs;
use std::path::Path;
use std::time::Duration;

use etcd_client::MemberAddOptions;

use super::cluster::Cluster;
use super::eventually;
use super::namespace::{self, Cut, Namespace};

impl Cluster {
    /// As the kubelet does it: SIGTERM, on which a leader hands leadership over,
    /// and SIGKILL after thirty seconds. With clients and faults around it etcd
    /// has not ended by then, now and then.
    pub async fn stop(&mut self, index: usize) {
        let member = &mut self.members[index];
        let process = member.process.as_mut().expect("a running member");
        process.signal("TERM");
        if process.exited(Duration::from_secs(30)).await.is_none() {
            println!("{} does not end on SIGTERM; killed", member.name);
            process.kill();
        }
        member.process = None;
    }

    /// kill -9.
    pub fn kill(&mut self, index: usize) {
        let process = self.members[index].process.take();
        process.expect("a running member").kill();
    }

    /// Waits for a member to end by itself, as after an injected disk error.
    pub async fn wait_ended(&mut self, index: usize, limit: Duration) {
        let member = &mut self.members[index];
        let process = member.process.as_mut().expect("a running member");
        let ended = process.exited(limit).await;
        assert!(ended.is_some(), "{} still runs after {limit:?}", member.name);
        member.process = None;
    }

    /// Every member ends and begins anew with what was saved by `etcdctl snapshot save`, under the same ids.
    pub async fn restore(&mut self, backup: &Path) {
        for index in 0..self.members.len() {
            self.kill(index);
            let member = &self.members[index];
            fs::remove_dir_all(&member.data_dir).expect("a member that has ended leaves its folder alone");
            let args = [
                format!("--name={}", member.name),
                format!("--data-dir={}", member.data_dir.display()),
                format!("--initial-cluster={}", self.initial_cluster()),
                format!("--initial-cluster-token={}", self.token),
                format!("--initial-advertise-peer-urls={}", member.peer_url),
            ];
            let args = args.iter().map(String::as_str);
            let words: Vec<&str> =
                ["snapshot", "restore", backup.to_str().expect("a path in UTF-8")].into_iter().chain(args).collect();
            let output = self.etcdctl_command(&member.client_url, &words).output().await.expect("etcdctl can run");
            assert!(output.status.success(), "{output:?}");
        }
        for index in 0..self.members.len() {
            self.launch(index);
        }
        for index in 0..self.members.len() {
            self.expect_up(index).await;
        }
    }

    /// Starts a stopped member again on its data and waits until it serves.
    pub async fn start_again(&mut self, index: usize) {
        self.launch(index);
        self.expect_up(index).await;
    }

    /// Starts a stopped member and does not wait: without a quorum there is
    /// nothing to wait for.
    pub fn start_again_unwatched(&mut self, index: usize) {
        self.launch(index);
    }

    /// How long this member's defrags take at least, from its next start on: a
    /// disk that has become slow, or quick again.
    pub fn stretch(&mut self, index: usize, defrags: Duration) {
        self.members[index].stretch = Some(defrags);
    }

    pub async fn restart(&mut self, index: usize) {
        self.stop(index).await;
        self.start_again(index).await;
    }

    /// Stops a member and starts it again on its data as another release.
    pub async fn upgrade(&mut self, index: usize, release: &str) {
        self.stop(index).await;
        self.etcd = super::cluster::cached(release, "etcd");
        self.start_again(index).await;
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self, index: usize) {
        let process = self.members[index].process.as_ref();
        process.expect("a running member").signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self, index: usize) {
        let process = self.members[index].process.as_ref();
        process.expect("a running member").signal("CONT");
    }

    /// Loses a member's traffic on its way. Needs the spec's namespaces.
    pub fn cut(&self, index: usize, cut: Cut) {
        namespace::cut(&self.namespaces(), index, cut);
    }

    /// Ends every cut of this member.
    pub fn heal(&self, index: usize) {
        namespace::heal(&self.namespaces(), index);
    }

    fn namespaces(&self) -> Vec<&Namespace> {
        let all = self.members.iter();
        all.map(|member| member.namespace.as_ref().expect("the spec asked for namespaces")).collect()
    }

    /// Adds and starts a learner; returns its index.
    pub async fn add_learner(&mut self) -> usize {
        let index = self.plan_member().await;
        self.members[index].learner = true;
        let url = self.members[index].peer_url.clone();
        let through = self.leader().await;
        let client = self.client(through).await;
        // etcd refuses with `unhealthy cluster` until its members have been
        // connected to each other for five seconds.
        let limit = Duration::from_secs(30);
        eventually("a learner is accepted", limit, || {
            let (mut client, url) = (client.clone(), url.clone());
            async move {
                let options = MemberAddOptions::new().with_is_learner();
                client.member_add([url], Some(options)).await.ok()
            }
        })
        .await;
        let initial = self.initial_cluster();
        self.set_arguments(index, &initial, "existing");
        self.launch(index);
        self.expect_up(index).await;
        index
    }

    /// Makes a learner a voter; waits until it has caught up enough to be one.
    pub async fn promote(&mut self, index: usize) {
        let id = self.members[index].id;
        let through = self.leader().await;
        let client = self.client(through).await;
        eventually("the learner is promoted", Duration::from_secs(30), || {
            let mut client = client.clone();
            async move { client.member_promote(id).await.ok() }
        })
        .await;
        self.members[index].learner = false;
        self.expect_up(index).await;
    }

    /// Takes a member off the list and waits for its process to end, which it
    /// does by itself when it learns of it.
    pub async fn remove_member(&mut self, index: usize) {
        let id = self.members[index].id;
        let mut others = self.voters().into_iter();
        let through =
            others.find(|other| *other != index && self.members[*other].running()).expect("another voter runs");
        let client = self.client(through).await;
        eventually("the member is removed", Duration::from_secs(30), || {
            let mut client = client.clone();
            async move { client.member_remove(id).await.ok() }
        })
        .await;
        self.members[index].removed = true;
        if let Some(process) = self.members[index].process.as_mut() {
            // Killed if it has not noticed: a removed member that was cut off
            // never does, and the test is about the others.
            process.exited(Duration::from_secs(10)).await;
        }
        self.members[index].process = None;
    }

    /// Moves leadership to `index` and waits until all agree.
    pub async fn move_leader(&self, index: usize) {
        let limit = Duration::from_secs(20);
        eventually("the leadership moves", limit, || async {
            let leader = self.leader().await;
            if leader == index {
                return Some(());
            }
            let mut client = self.client(leader).await;
            let call = client.move_leader(self.members[index].id);
            // Without a deadline it may never come back: the server retries
            // for as long as the client listens. The look above decides.
            let _ = tokio::time::timeout(Duration::from_secs(2), call).await;
            None
        })
        .await;
    }
}
