//! The volume under the local member's data.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::sync::Semaphore;

use super::cluster::READ_DEADLINE;
use crate::plan::cluster::Disk;
use crate::plan::reason::{Blocked, Reason};

/// One at a time: on a volume that hangs each would take a thread and never give it back.
static READING: Semaphore = Semaphore::const_new(1);

/// Free space where the copy is written: `member/snap` below etcd's data directory.
///
/// # Errors
///
/// When the directory is not there, is not etcd's, or does not answer within a second (a network file system may hang).
pub async fn disk(data_dir: PathBuf) -> Result<Disk, Blocked> {
    let shown = data_dir.display().to_string();
    let fail = |why: String| {
        let text = format!("defrag.data_dir {shown}: {why}; the free space for the copy is not known");
        Err(Blocked::new(Reason::DiskSpace, text))
    };
    let reading = async {
        let turn = READING.acquire().await;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            read(&data_dir)
        })
        .await
    };
    match tokio::time::timeout(READ_DEADLINE, reading).await {
        Ok(Ok(Ok(disk))) => Ok(disk),
        Ok(Ok(Err(error))) if error.kind() == ErrorKind::NotFound => {
            fail("has no member/snap, so it is not etcd's data directory".to_owned())
        }
        Ok(Ok(Err(error))) => fail(error.to_string()),
        Ok(Err(error)) => fail(error.to_string()),
        Err(_) => fail("does not answer within a second".to_owned()),
    }
}

fn read(data_dir: &Path) -> std::io::Result<Disk> {
    let volume = match rustix::fs::statvfs(data_dir.join("member/snap")) {
        // Another user's, mode 0700, as etcd makes it. What lies below is on the same volume but for rare layouts.
        Err(rustix::io::Errno::ACCESS) => rustix::fs::statvfs(data_dir)?,
        other => other?,
    };
    // What root could still take is left out: etcd may not be root.
    Ok(Disk { free: volume.f_bavail.saturating_mul(volume.f_frsize) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_etcds_data_directory_counts() {
        let folder = tempfile::tempdir().unwrap();
        let refused = disk(folder.path().to_owned()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::DiskSpace);
        assert!(refused.detail.contains("has no member/snap"), "{refused}");
        std::fs::create_dir_all(folder.path().join("member/snap")).unwrap();
        assert!(disk(folder.path().to_owned()).await.unwrap().free > 0);
        assert!(disk(folder.path().join("gone")).await.is_err());
    }
}
