//! The daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(etcd_janitor::cli::main())
}
