//! Loopback ports that stay ours for the length of a test.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Below it machines keep services of their own.
const FIRST: u16 = 10_000;

/// A port reserved for this test, whether or not something listens on it now.
///
/// Asking the kernel for port 0 and giving the answer to etcd is a race: the
/// answer lies in the range of outgoing connections, so any client may take it
/// before etcd listens, or while a member is down. Ports here lie below that
/// range, and a locked file keeps other tests, of this process or another, from
/// choosing the same.
pub struct Port {
    number: u16,
    lock: PathBuf,
    _reserved: File,
}

impl Port {
    pub fn reserve() -> Self {
        let folder = std::env::temp_dir().join("etcd-janitor-test-ports");
        let end = first_outgoing_port().filter(|low| *low > 12_000).unwrap_or(32_000);
        loop {
            // The standard library's only source of chance; a hash of nothing
            // under keys that differ in every process and call.
            let chance = RandomState::new().hash_one(()) % u64::from(end - FIRST);
            let number = FIRST + u16::try_from(chance).expect("less than a port number");
            let lock = folder.join(number.to_string());
            fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
            let file = match File::create(&lock) {
                // Whoever gave the last port back has removed the folder.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                file => file.expect("a lock file for a port can be made"),
            };
            let locked = file.try_lock().is_ok() && still_named(&file, &lock);
            let port = Self { number, lock, _reserved: file };
            if !locked {
                // Somebody else's: dropping the whole would remove their file.
                port.forget();
            } else if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return port;
            }
        }
    }

    fn forget(mut self) {
        self.lock = PathBuf::new();
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Still locked here. The folder goes with its last file; a reservation
        // that comes in between makes it again.
        if fs::remove_file(&self.lock).is_ok()
            && let Some(folder) = self.lock.parent()
        {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A file can be removed between being opened and being locked; then the lock
/// is on a file that nobody else will find.
fn still_named(file: &File, path: &Path) -> bool {
    let (Ok(locked), Ok(named)) = (file.metadata(), fs::metadata(path)) else { return false };
    (locked.dev(), locked.ino()) == (named.dev(), named.ino())
}

fn first_outgoing_port() -> Option<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    range.split_whitespace().next()?.parse().ok()
}
