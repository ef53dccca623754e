//! `etcd-janitor inject` and `uninject`: the sidecar into manifests and out of them, text to text.
//!
//! It reads everything, then writes everything or nothing: half of a cluster's manifests is worse than none. Objects that
//! do not change are written as they were read, byte for byte. docs/inject.md says what is done and why.
//!
//! Its one danger: to write something else than was meant. So what was written is read again and compared.

mod budget;
mod found;
mod node;
mod options;
mod pod;
mod read;
mod settings;
mod sidecar;
mod stream;
mod workload;
mod write;

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use super::{ATTENTION, SKIPPED, USAGE, WELL, printable};
use node::{Node, Problem};
use options::Options;
use read::Format;
use stream::Piece;
use workload::{Report, work};

/// Most bytes of manifests that are read, all files together.
pub const MAX_INPUT: usize = 16 * 1024 * 1024;

/// What `inject` is to do.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  export ETCD_JANITOR_IMAGE=registry.example/etcd-janitor:0.1.0
  kubectl get statefulset etcd -o yaml | etcd-janitor inject - | kubectl apply -f -
  helm template etcd bitnami/etcd | etcd-janitor inject --set defrag.schedule='0 3 * * *' - > etcd.yaml
  etcd-janitor inject --image registry.example/etcd-janitor:0.1.0 --config-map etcd-janitor etcd/*.yaml

Flags such as --endpoint, --cacert, --user and --listen win over what is found and go into the sidecar's environment.
What was found is said on standard error. Exit codes: 0 done, 2 cannot be read, 4 refused; then nothing is written.")]
pub struct Order {
    /// Manifests, YAML or JSON; - or none: standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Image of the sidecar, by its name in your registry; otherwise that of ETCD_JANITOR_IMAGE
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    image: Option<String>,
    /// An ordinary container instead of a native sidecar, for Kubernetes before 1.29
    #[arg(long)]
    plain: bool,
    /// Name of the etcd container, where it is not plain which one that is
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// ConfigMap with etcd-janitor.yaml, to be mounted
    #[arg(long, value_name = "NAME", value_parser = object)]
    config_map: Option<String>,
    /// Secret and key that hold the password of --user
    #[arg(long, value_name = "NAME/KEY", value_parser = secret)]
    password_secret: Option<(String, String)>,
    /// Let etcd's liveness probe ask the janitor, which knows of defrags; ties etcd's life to the sidecar's
    #[arg(long)]
    move_liveness_probe: bool,
    /// A configuration key for the sidecar's environment; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    keys: Vec<(String, String)>,
}

/// What `uninject` is to do.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  kubectl get statefulset etcd -o yaml | etcd-janitor uninject - | kubectl apply -f -")]
pub struct Undo {
    /// Manifests, YAML or JSON; - or none: standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// There is none for everybody: an image without a registry would be Docker Hub's, where nobody has it.
fn image(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("allowed: an image as your registry has it, such as registry.example/etcd-janitor:0.1.0".to_owned());
    }
    Ok(text.to_owned())
}

/// A name that Kubernetes gives to objects.
fn object(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label =
        |part: &str| part.starts_with(inner) && part.ends_with(inner) && part.chars().all(|c| inner(c) || c == '-');
    if text.len() > 253 || !text.split('.').all(label) {
        return Err("allowed: lower case letters, digits, - and . between them, 253 at most".to_owned());
    }
    Ok(text.to_owned())
}

fn secret(text: &str) -> Result<(String, String), String> {
    let (name, key) = text
        .split_once('/')
        .ok_or("allowed: the Secret's name, a slash, and the key, such as etcd/etcd-root-password")?;
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") || !key.chars().all(known) {
        return Err("the key: allowed are letters, digits, -, _ and ., 253 at most".to_owned());
    }
    Ok((object(name).map_err(|why| format!("the Secret's name: {why}"))?, key.to_owned()))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("allowed: KEY=VALUE, such as defrag.time_zone=Europe/Paris")?;
    if crate::config::keys::find(key).is_none() {
        return Err("there is no such key; docs/configuration.md lists them".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Puts the sidecar in. `flags`: configuration keys from the command line. Gives the exit code: 0 done; 1 `out` cannot be
/// written; 2 something cannot be read; 4 refused.
pub fn inject(order: &Order, flags: &[(String, String)], out: &mut impl Write, err: &mut impl Write) -> u8 {
    let mut keys = flags.to_vec();
    keys.extend(order.keys.iter().cloned());
    let image = match (&order.image, std::env::var("ETCD_JANITOR_IMAGE")) {
        (Some(image), _) => Ok(image.clone()),
        (None, Ok(name)) => image(&name).map_err(|why| format!("ETCD_JANITOR_IMAGE: {why}")),
        (None, Err(_)) => {
            Err("which image is the sidecar to run? --image IMAGE, or ETCD_JANITOR_IMAGE; docs/release.md says \
                               how one is made"
                .to_owned())
        }
    };
    let image = match image {
        Ok(image) => image,
        Err(text) => {
            let _ = writeln!(err, "{text}");
            return USAGE;
        }
    };
    let options = Options {
        image,
        plain: order.plain,
        container: order.container.clone(),
        config_map: order.config_map.clone(),
        password_secret: order.password_secret.clone(),
        move_liveness_probe: order.move_liveness_probe,
        keys,
    };
    run(&order.files, &|pod, path| pod::inject(pod, path, &options), out, err)
}

/// Takes the sidecar out. Exit codes as of [`inject`].
pub fn uninject(order: &Undo, out: &mut impl Write, err: &mut impl Write) -> u8 {
    run(&order.files, &pod::uninject, out, err)
}

fn run(files: &[PathBuf], act: &workload::Act<'_>, out: &mut impl Write, err: &mut impl Write) -> u8 {
    let inputs = match inputs(files) {
        Ok(inputs) => inputs,
        Err(text) => {
            let _ = writeln!(err, "{text}");
            return USAGE;
        }
    };
    let mut result = Transformed::default();
    for (name, text) in &inputs {
        let prefix = if inputs.len() > 1 { format!("{name}: ") } else { String::new() };
        // Two files are two streams; together they need a marker between them.
        if !result.text.is_empty() {
            if !result.text.ends_with('\n') {
                result.text.push('\n');
            }
            if stream::cut(text).first().is_some_and(|piece| piece.is_prologue() && piece.has_directives()) {
                // Directives may only stand behind the end of a document.
                result.text.push_str("...\n");
            } else if !text.starts_with("---") {
                result.text.push_str("---\n");
            }
        }
        result.add(text, &prefix, act);
    }
    let _ = err.write_all(result.summary().as_bytes());
    if let Some(code) = result.failed() {
        return code;
    }
    match out.write_all(result.text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => WELL,
        Err(error) => {
            let _ = writeln!(err, "cannot write: {error}");
            ATTENTION
        }
    }
}

fn inputs(files: &[PathBuf]) -> Result<Vec<(String, String)>, String> {
    let stdin = [PathBuf::from("-")];
    let files = if files.is_empty() { &stdin } else { files };
    let mut left = MAX_INPUT;
    let mut inputs = Vec::new();
    for file in files {
        let name =
            if file == Path::new("-") { "standard input".to_owned() } else { printable(&file.to_string_lossy()) };
        let bytes = bytes(file, left).map_err(|error| format!("{name}: cannot be read: {error}"))?;
        if bytes.len() > left {
            return Err(format!("{name}: more than {} MiB of manifests", MAX_INPUT / (1024 * 1024)));
        }
        left -= bytes.len();
        let text = String::from_utf8(bytes).map_err(|_| format!("{name}: not UTF-8"))?;
        inputs.push((name, text));
    }
    Ok(inputs)
}

/// One byte more than allowed tells that there are more.
fn bytes(file: &Path, left: usize) -> io::Result<Vec<u8>> {
    let limit = left as u64 + 1;
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err(io::Error::other("it is a terminal; name files, or pipe manifests in"));
        }
        stdin.lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What becomes of the input.
#[derive(Debug, Default)]
struct Transformed {
    text: String,
    reports: Vec<Report>,
    problems: Vec<Problem>,
}

impl Transformed {
    /// Transforms one stream of documents. `prefix`: what its documents are called.
    fn add(&mut self, stream: &str, prefix: &str, act: &workload::Act<'_>) {
        // The mark of a file's beginning belongs to no document.
        let content = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        self.text.push_str(&stream[..stream.len() - content.len()]);
        let (mut number, mut directives) = (0, false);
        for piece in stream::cut(content) {
            if piece.is_prologue() {
                directives = piece.has_directives();
                self.text.push_str(piece.text);
                continue;
            }
            let name = format!("{prefix}documents[{number}]");
            match self.document(&piece, &name, directives, act) {
                Ok(Some(text)) => self.text.push_str(&text),
                Ok(None) => self.text.push_str(piece.text),
                Err(problem) => self.problems.push(problem),
            }
            // A marker with nothing behind it is no document.
            number += usize::from(piece.text.lines().any(|line| !line.trim().is_empty() && line.trim() != "---"));
            directives = false;
        }
    }

    /// One document's new text; none: it stays.
    fn document(
        &mut self,
        piece: &Piece<'_>,
        name: &str,
        directives: bool,
        act: &workload::Act<'_>,
    ) -> Result<Option<String>, Problem> {
        let parsed = read::document(piece.text, name, piece.line)?;
        let Some(mut node) = parsed.node else { return Ok(None) };
        if !matches!(node, Node::Map(_)) {
            return Err(Problem::unreadable(name, "not a Kubernetes object"));
        }
        if !work(&mut node, name, act, &mut self.reports, &mut self.problems) {
            return Ok(None);
        }
        self.problems.extend(parsed.doubts);
        if directives {
            return Err(Problem::refused(name, "directives (%) stand above it, which a changed document cannot keep"));
        }
        let content = match parsed.format {
            Format::Yaml => write::yaml(&node),
            Format::Json => write::json(&node, piece.text.trim().contains('\n')),
        };
        let text = piece.with(&content);
        let again = read::document(&text, name, piece.line).ok().and_then(|parsed| parsed.node);
        if again.is_some_and(|again| again.same(&node)) {
            return Ok(Some(text));
        }
        Err(Problem::refused(
            name,
            "it cannot be written so that it reads as it should; please report it with the manifest",
        ))
    }

    fn failed(&self) -> Option<u8> {
        if self.problems.is_empty() {
            return None;
        }
        Some(if self.problems.iter().any(|problem| !problem.refused) { USAGE } else { SKIPPED })
    }

    fn summary(&self) -> String {
        let mut lines = Vec::new();
        let there = |report: &Report| ["injected", "updated", "unchanged"].contains(&report.word);
        let beside = self.reports.iter().any(there);
        for Report { object, word, notes } in &self.reports {
            if *word == "beside" {
                lines.push(format!("{object} skipped"));
                lines.extend(notes.iter().filter(|_| beside).map(|note| format!("  {note}")));
                continue;
            }
            if *word == "skipped" {
                let why = notes.first().map(|why| format!(": {why}")).unwrap_or_default();
                lines.push(format!("{object} skipped{why}"));
                continue;
            }
            lines.push(format!("{object} {word}"));
            lines.extend(notes.iter().map(|note| format!("  {}", printable(note))));
        }
        lines.extend(self.problems.iter().map(|problem| printable(&problem.to_string())));
        if !self.problems.is_empty() {
            lines.push("nothing was written".to_owned());
        } else if self.reports.iter().all(|report| ["skipped", "beside"].contains(&report.word)) {
            lines.push("nothing was changed".to_owned());
        }
        lines.into_iter().map(|line| line + "\n").collect()
    }
}

#[cfg(test)]
mod tests;
