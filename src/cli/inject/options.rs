//! What the operator orders, as `inject` uses it.

/// The sidecar that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The image to run.
    pub(super) image: String,
    /// An ordinary container, for Kubernetes before 1.29.
    pub(super) plain: bool,
    /// Which container is etcd.
    pub(super) container: Option<String>,
    /// A ConfigMap to mount, by name.
    pub(super) config_map: Option<String>,
    /// A Secret with the password, and its key there.
    pub(super) password_secret: Option<(String, String)>,
    /// Whether etcd's liveness probe asks the sidecar.
    pub(super) move_liveness_probe: bool,
    /// Configuration keys and values, the later winning.
    pub(super) keys: Vec<(String, String)>,
}

impl Options {
    /// What is ordered of a key.
    pub(super) fn ordered(&self, key: &str) -> Option<&str> {
        self.keys.iter().rev().find(|(path, _)| path == key).map(|(_, value)| value.as_str())
    }
}
