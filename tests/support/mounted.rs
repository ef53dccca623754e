//! Files as the kubelet mounts them: links into a folder of one version, all replaced at once by the swap of one link.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::certs::{Certs, Pair};

pub const CERT: &str = "client.crt";
pub const KEY: &str = "client.key";
/// How often a [`Rotating`] pair is replaced.
const EVERY: Duration = Duration::from_secs(4);
/// How many pairs it goes through, again and again.
const PAIRS: usize = 3;

/// A new version of the files in a folder of its own, and `..data` made to lead there.
pub fn publish(folder: &Path, name: &str, files: &[(&str, &str)]) {
    fs::create_dir(folder.join(name)).expect("a folder");
    for (file, text) in files {
        fs::write(folder.join(name).join(file), text).expect("a file");
    }
    let fresh = folder.join("..data_tmp");
    symlink(name, &fresh).expect("a link");
    fs::rename(&fresh, folder.join("..data")).expect("a swap");
}

/// A folder with a certificate and its key, as a Secret of them is mounted.
pub fn secret(folder: &Path, pair: &Pair) -> PathBuf {
    let secret = folder.join("secret");
    fs::create_dir(&secret).expect("a folder");
    replace(&secret, "..first", pair);
    for file in [CERT, KEY] {
        symlink(format!("..data/{file}"), secret.join(file)).expect("a link");
    }
    secret
}

/// Another pair in its place.
pub fn replace(secret: &Path, version: &str, pair: &Pair) {
    publish(secret, version, &[(CERT, &pair.cert), (KEY, &pair.key)]);
}

/// A mounted pair that is replaced every few seconds until this is dropped.
pub struct Rotating {
    pub secret: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rotating {
    pub fn start(folder: &Path, certs: &Certs) -> Self {
        let pairs: Vec<Pair> = (0..PAIRS).map(|_| certs.issue("a janitor", 2099)).collect();
        let secret = secret(folder, &pairs[0]);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (secret, stop) = (secret.clone(), Arc::clone(&stop));
            move || {
                for turn in 1.. {
                    std::thread::park_timeout(EVERY);
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    replace(&secret, &format!("..{turn}"), &pairs[turn % PAIRS]);
                }
            }
        });
        Self { secret, stop, thread: Some(thread) }
    }
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
