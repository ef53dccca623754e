//! What fuzzing found interesting, again, with the same demands (docs/fuzzing.md).

#![allow(clippy::disallowed_methods, reason = "tests spawn as they like")]

use std::fs;
use std::path::Path;

#[path = "../fuzz/harness/mod.rs"]
mod harness;

#[test]
fn everything_stored_is_taken_as_it_must_be() {
    for (name, harness) in harness::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("a file").path())
            .collect();
        assert!(files.len() > 10, "{}: {} files", folder.display(), files.len());
        for path in files {
            let data = fs::read(&path).expect("a file");
            let judged = std::panic::catch_unwind(|| harness(&data));
            assert!(judged.is_ok(), "{}", path.display());
        }
    }
}
