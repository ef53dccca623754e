//! What an etcd container is told: its command line and environment, with variables put in.

use super::node::{Problem, View};

/// Variables in variables: deeper than anybody means it.
const MAX_DEPTH: usize = 8;

/// Where a fact that only the cluster knows comes from, and what the sidecar calls it.
const FACTS: [(&str, &str); 5] = [
    ("metadata.name", "POD_NAME"),
    ("metadata.namespace", "POD_NAMESPACE"),
    ("status.podIP", "POD_IP"),
    ("spec.nodeName", "NODE_NAME"),
    ("status.hostIP", "HOST_IP"),
];

/// The field that a variable of the sidecar is filled from.
pub(super) fn field_of(variable: &str) -> Option<&'static str> {
    FACTS.iter().find(|(_, name)| *name == variable).map(|(field, _)| *field)
}

/// The variables of the sidecar that a value asks for.
pub(super) fn variables_in(value: &str) -> Vec<&'static str> {
    FACTS.iter().map(|(_, name)| *name).filter(|name| value.contains(&format!("$({name})"))).collect()
}

/// One variable of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Variable {
    /// Written in the pod.
    Value(String),
    /// A fact that the sidecar knows by this name.
    Fact(&'static str),
    /// In a Secret, under a key.
    Secret { name: String, key: String },
    /// Anything else that only the cluster knows.
    Elsewhere,
}

/// Command line and environment of one container.
#[derive(Debug)]
pub(super) struct Settings {
    /// Path of the container.
    pub(super) path: String,
    /// Command and arguments, scripts taken apart.
    pub(super) words: Vec<String>,
    /// The first word, as it is written.
    pub(super) program: Option<String>,
    pub(super) variables: Vec<(String, Variable)>,
    /// Some variables come from ConfigMaps or Secrets as a whole.
    pub(super) more_variables: bool,
    /// Whether `$NAME` is a variable, too.
    shell: bool,
    /// Whether the host's name is the pod's, which shells and nobody else have in a variable that no manifest sets.
    pod_is_host: bool,
}

impl Settings {
    pub(super) fn of(container: &View<'_>, pod_is_host: bool) -> Result<Settings, Problem> {
        let mut settings = Settings {
            path: container.path.clone(),
            words: Vec::new(),
            program: None,
            variables: Vec::new(),
            more_variables: !container.get("envFrom")?.items()?.is_empty(),
            shell: false,
            pod_is_host,
        };
        for list in ["command", "args"] {
            for item in container.get(list)?.items()? {
                let Some(text) = item.text()? else { continue };
                settings.program.get_or_insert_with(|| text.to_owned());
                if text.contains(char::is_whitespace) {
                    let trim = |word: &str| word.trim_matches(['"', '\'', '\\', ';', '&', '(', ')']).to_owned();
                    settings.words.extend(text.split_whitespace().map(trim).filter(|word| !word.is_empty()));
                } else {
                    settings.words.push(text.to_owned());
                }
            }
        }
        let program = settings.program.as_deref().map(base_name).unwrap_or_default();
        settings.shell = ["sh", "bash", "ash", "dash", "busybox"].contains(&program);
        for item in container.get("env")?.items()? {
            let Some(name) = item.get("name")?.text()? else { continue };
            let variable = match item.get("value")?.text()? {
                Some(value) => Variable::Value(value.to_owned()),
                None => from_elsewhere(&item)?,
            };
            settings.variables.push((name.to_owned(), variable));
        }
        Ok(settings)
    }

    /// A variable; of two with one name the later counts.
    pub(super) fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.iter().rev().find(|(other, _)| other == name).map(|(_, variable)| variable)
    }

    /// A flag of etcd, with one dash or two, or the variable that stands for it; as it is written. Flags win, of several
    /// the last, as in Go.
    pub(super) fn raw(&self, flag: &str) -> Option<Result<String, String>> {
        for (at, word) in self.words.iter().enumerate().rev() {
            let Some(given) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
            if let Some(value) = given.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
                return Some(Ok(value.trim_matches(['"', '\'']).to_owned()));
            }
            if given == flag {
                let next = self.words.get(at + 1).filter(|next| !next.starts_with('-'));
                return Some(Ok(next.cloned().unwrap_or_else(|| "true".to_owned())));
            }
        }
        let name = environment_of(flag);
        match self.variable(&name)? {
            Variable::Value(value) if value.is_empty() => None,
            Variable::Value(value) => Some(Ok(value.clone())),
            Variable::Fact(fact) => Some(Ok(format!("$({fact})"))),
            Variable::Secret { .. } | Variable::Elsewhere => Some(Err(name)),
        }
    }

    /// The value of a flag, in the sidecar's own variables. The error says which variable is not known here.
    pub(super) fn value(&self, flag: &str) -> Result<Option<String>, Unknown> {
        let unknown = |variable: String| Unknown { flag: flag.to_owned(), variable };
        match self.raw(flag) {
            None => Ok(None),
            Some(Err(variable)) => Err(unknown(variable)),
            Some(Ok(text)) => {
                // What stands in the environment is no shell's.
                let shell = self.shell && self.words.iter().any(|word| word.contains(text.as_str()));
                self.expand(&text, shell, 0).map(Some).map_err(unknown)
            }
        }
    }

    /// Whether a switch of etcd is on.
    pub(super) fn is_on(&self, flag: &str) -> bool {
        matches!(self.raw(flag), Some(Ok(value)) if !["false", "0", "f", "F", "FALSE", "False"].contains(&value.as_str()))
    }

    /// A variable's value, in the sidecar's own variables; none when it is absent or not known here.
    pub(super) fn known(&self, variable: &str) -> Option<String> {
        self.resolve(variable, 0).ok().filter(|value| !value.is_empty())
    }

    fn resolve(&self, name: &str, depth: usize) -> Result<String, String> {
        match self.variable(name) {
            Some(Variable::Value(value)) if depth < MAX_DEPTH => self.expand(value, false, depth + 1),
            Some(Variable::Fact(fact)) => Ok(format!("$({fact})")),
            _ => Err(name.to_owned()),
        }
    }

    fn expand(&self, text: &str, shell: bool, depth: usize) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let closed = |open: char, close: char| after.strip_prefix(open).and_then(|after| after.split_once(close));
            // `$(NAME)` is the kubelet's, who puts in what the manifest sets and nothing else.
            let by_shell = !after.starts_with('(');
            let (name, left) = if let Some((name, left)) = closed('(', ')') {
                (name, left)
            } else if let Some(left) = after.strip_prefix('$') {
                out.push_str("$$");
                rest = left;
                continue;
            } else if let Some((name, left)) = closed('{', '}').filter(|_| shell) {
                (name, left)
            } else if shell {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(end)
            } else {
                out.push('$');
                rest = after;
                continue;
            };
            // The runtime's: a pod's host name is the pod's name.
            if by_shell && name == "HOSTNAME" && self.pod_is_host && self.variable(name).is_none() {
                out.push_str("$(POD_NAME)");
            } else {
                out.push_str(&self.resolve(name, depth)?);
            }
            rest = left;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// A setting that only the cluster knows.
#[derive(Debug)]
pub(super) struct Unknown {
    pub(super) flag: String,
    pub(super) variable: String,
}

fn from_elsewhere(item: &View<'_>) -> Result<Variable, Problem> {
    let from = item.get("valueFrom")?;
    if from.is_absent() {
        return Ok(Variable::Value(String::new()));
    }
    let field = from.at(&["fieldRef", "fieldPath"])?.text()?;
    if let Some((_, name)) = FACTS.iter().find(|(path, _)| field == Some(path)) {
        return Ok(Variable::Fact(name));
    }
    let secret = from.get("secretKeyRef")?;
    if let (Some(name), Some(key)) = (secret.get("name")?.text()?, secret.get("key")?.text()?) {
        return Ok(Variable::Secret { name: name.to_owned(), key: key.to_owned() });
    }
    Ok(Variable::Elsewhere)
}

/// etcd's variable for a flag.
pub(super) fn environment_of(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

/// What follows the last slash.
pub(super) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
