//! etcd releases with defects that a defrag can trigger.

use super::reason::{Blocked, Reason};

/// When a defect stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Always, unless the operator allows it (`defrag.unsafe_versions`).
    Refuse,
    /// When free space is known to be short: that blocks on every release, and here it would cost the member.
    DiskFull,
    /// With an open Snapshot: that blocks on every release, and here it could cost data.
    OpenSnapshot,
    /// Never: the proofs that are asked for anyway cover it. Said before a defrag is sent.
    Warn,
}

/// One known defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defect {
    /// When it stands in the way.
    pub class: Class,
    /// What can happen.
    pub what: &'static str,
    /// The upstream issue or change, for people.
    pub upstream: &'static str,
    /// The first release without it, by minor release; all of a minor that is not named are older or newer.
    fixed_in: &'static [Release],
}

type Release = (u64, u64, u64);

/// All that are known.
pub const DEFECTS: [Defect; 4] = [
    Defect {
        class: Class::Refuse,
        what: "a crash during a defrag can make the member's revisions drift from the others'",
        upstream: "etcd-io/etcd#14685",
        // 3.4 writes the consistent index in another way and never had it.
        fixed_in: &[(3, 4, 0), (3, 5, 6)],
    },
    Defect {
        class: Class::DiskFull,
        what: "a disk that fills up during a defrag makes the next request panic the member",
        upstream: "etcd-io/etcd#18810",
        // 3.4.23 does it, too; no later 3.4 release is known to have been mended.
        fixed_in: &[(3, 5, 17), (3, 6, 0)],
    },
    Defect {
        class: Class::OpenSnapshot,
        what: "a snapshot that is streamed while a defrag ends can be corrupt",
        upstream: "etcd-io/etcd#20271",
        fixed_in: &[(3, 4, 38), (3, 5, 23), (3, 6, 5)],
    },
    Defect {
        class: Class::Warn,
        what: "a lease that is being revoked can be renewed as if it lived, so that only the last look tells that a turn \
               is gone",
        upstream: "etcd-io/etcd#20590",
        fixed_in: &[(3, 4, 38), (3, 5, 23), (3, 6, 5)],
    },
];

impl Defect {
    /// Whether this release has it. One that is newer than all that are named has not.
    fn affects(&self, release: Release) -> bool {
        let minor = |release: &Release| (release.0, release.1);
        let same = self.fixed_in.iter().find(|fixed| minor(fixed) == minor(&release));
        same.map_or_else(|| self.fixed_in.iter().all(|fixed| minor(fixed) > minor(&release)), |fixed| release < *fixed)
    }
}

/// Major, minor and patch of a release such as `3.5.30` or `3.6.0-rc.1`; none if it is no such thing.
pub fn parse(version: &str) -> Option<Release> {
    let core = version.split(['-', '+']).next()?;
    let mut parts = core.split('.').map(|part| part.parse().ok());
    let parsed = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(parsed)
}

/// The defects of this release; none of one whose name cannot be read.
pub fn defects(version: &str) -> impl Iterator<Item = &'static Defect> {
    let release = parse(version);
    DEFECTS.iter().filter(move |defect| release.is_some_and(|release| defect.affects(release)))
}

/// The defect of this class, for the end of a sentence; empty if the release has none.
pub fn and_on(version: &str, class: Class) -> String {
    let mut found = defects(version).filter(|defect| defect.class == class);
    found.next().map_or_else(String::new, |defect| format!("; on etcd {version} {} ({})", defect.what, defect.upstream))
}

/// Whether a member of this release may be defragmented.
pub fn judge(version: &str, allow_unsafe: bool) -> Result<(), Blocked> {
    let refused = defects(version).find(|defect| defect.class == Class::Refuse);
    match refused {
        Some(defect) if !allow_unsafe => Err(Blocked::new(
            Reason::UnsafeVersion,
            format!(
                "etcd {version}: {} ({}); upgrade, or set defrag.unsafe_versions: allow",
                defect.what, defect.upstream
            ),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_with_the_revision_drift_are_refused() {
        for version in ["3.5.0", "3.5.1", "3.5.4", "3.5.5", "3.5.0-rc.1"] {
            assert_eq!(judge(version, false).unwrap_err().reason, Reason::UnsafeVersion, "{version}");
            assert!(judge(version, true).is_ok());
        }
        for version in ["3.4.23", "3.5.6", "3.5.16", "3.5.30", "3.6.14", "3.7.1", "4.0.0", "unheard of"] {
            assert!(judge(version, false).is_ok(), "{version}");
        }
    }

    #[test]
    fn each_release_has_its_own_defects() {
        use Class::{DiskFull, OpenSnapshot, Refuse, Warn};
        for (version, expected) in [
            ("3.3.27", &[Refuse, DiskFull, OpenSnapshot, Warn][..]),
            ("3.4.23", &[DiskFull, OpenSnapshot, Warn]),
            ("3.4.38", &[DiskFull]),
            ("3.5.1", &[Refuse, DiskFull, OpenSnapshot, Warn]),
            ("3.5.16", &[DiskFull, OpenSnapshot, Warn]),
            ("3.5.17", &[OpenSnapshot, Warn]),
            ("3.5.30", &[]),
            ("3.6.4", &[OpenSnapshot, Warn]),
            ("3.6.5", &[]),
            ("3.7.0-alpha.0", &[]),
            ("unheard of", &[]),
        ] {
            let found: Vec<Class> = defects(version).map(|defect| defect.class).collect();
            assert_eq!(found, expected, "{version}");
        }
    }
}
