//! Act: one conversation with etcd each. The only user of the etcd client library.
//!
//! Owns connections, requests and the meaning of etcd's errors. Decides nothing about rounds: every function takes plain
//! values and returns what happened as a value of [`crate::plan`].
//!
//! Its one danger is taking an answer for another member's: every connection is pinned to one address, and an answer
//! counts only when its `header.member_id` (or `etcd_server_id`, for metrics) is the member that was meant.

mod alarm;
mod calls;
mod clock;
mod cluster;
mod compaction;
mod connection;
mod defrag;
mod disk;
mod error;
pub mod exposition;
mod gate;
mod hold;
#[cfg(feature = "load")]
mod kv;
mod look;
mod material;
pub mod pem;
mod probe;
mod records;
mod rights;
mod scrape;
mod shown;
mod turn;
mod watch;

pub use alarm::{compare_hashes, disarm, prove, refresh};
pub use calls::Calls;
pub use clock::Clock;
pub use cluster::{Cluster, Identity, Listed};
pub use compaction::{Compacted, Survey, Trace, compact, median, member_clocks, store_window, survey, trace};
pub use connection::Connection;
pub use defrag::{defragment, move_leader};
pub use disk::disk;
pub use error::{Class, Error};
pub use gate::Gate;
pub use hold::{Pause, Placed, StoredHold, place_hold, read_pause, remove_hold};
#[cfg(feature = "load")]
pub use kv::Kv;
pub use look::{LocalStatus, local_figures, local_status, look};
pub use material::Material;
pub use probe::local_health;
pub use records::{history, settle, write_intent};
pub use rights::{try_key, try_kubernetes_key, try_lease, try_maintenance};
pub use shown::{Shown, shown_at};
pub use turn::{join, leave, renew};
pub use watch::{Change, watch};
