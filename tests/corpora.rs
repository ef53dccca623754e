//! What fuzzing found interesting, again, with the same demands (docs/fuzzing.md).

#![allow(clippy::disallowed_methods, reason = "tests spawn as they like")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

#[path = "../fuzz/harness/mod.rs"]
mod harness;

/// Whether anything panicked, in whichever task: the server's are its own, and their panics end there.
static PANICKED: AtomicBool = AtomicBool::new(false);

#[test]
fn everything_stored_is_taken_as_it_must_be() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        usual(panic);
    }));
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
            assert!(judged.is_ok() && !PANICKED.load(Ordering::Relaxed), "{}", path.display());
        }
    }
}
