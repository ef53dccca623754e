//! What is read from files: each in memory, under this process' name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command, FromArgMatches};
use etcd_janitor::cli::inject as sidecar;
use etcd_janitor::config::{self as configuration, Source};
use etcd_janitor::etcd::pem::{self as material, Origin};
use secrecy::SecretString;

/// Two that run at the same time write other files.
fn file(name: &str, data: &[u8]) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let path = folder.join(format!("etcd-janitor-fuzz-{}-{name}", std::process::id()));
    fs::write(&path, data).expect("a file in memory");
    path
}

/// The file and, behind a zero byte, a variable for each line: an accepted configuration has no problems, a refused one
/// has some, and no word of it is a password that was written into an address.
pub fn config(data: &[u8]) {
    let (text, environment) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let environment = String::from_utf8_lossy(environment);
    let env: BTreeMap<String, String> = environment
        .trim_start_matches('\0')
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let path = file("config", text);
    let source = Source { file: Some(path.clone()), env, flags: Vec::new() };
    let loaded = configuration::load(&source);
    fs::remove_file(path).expect("it was written");
    if let Err(invalid) = loaded {
        assert!(!invalid.to_string().is_empty());
    }
}

fn order<T: Args + FromArgMatches>(words: &[&OsStr]) -> T {
    let matches = T::augment_args(Command::new("fuzz")).no_binary_name(true).get_matches_from(words);
    T::from_arg_matches(&matches).expect("that is all it wants")
}

type Run = fn(&Path, &mut Vec<u8>) -> u8;

fn inject_into(path: &Path, out: &mut Vec<u8>) -> u8 {
    let words = ["--image".as_ref(), "etcd-janitor:fuzz".as_ref(), path.as_os_str()];
    sidecar::inject(&order(&words), &[], out, &mut Vec::new())
}

fn uninject_from(path: &Path, out: &mut Vec<u8>) -> u8 {
    sidecar::uninject(&order(&[path.as_os_str()]), out, &mut Vec::new())
}

fn run(what: Run, data: &[u8]) -> Option<Vec<u8>> {
    let (path, mut out) = (file("manifest", data), Vec::new());
    let code = what(&path, &mut out);
    fs::remove_file(path).expect("it was written");
    assert!(code == 0 || out.is_empty(), "all or nothing: {code}, {} bytes", out.len());
    (code == 0).then_some(out)
}

/// What goes in a second time changes nothing any more, and what is taken out again is as it was before.
pub fn inject(data: &[u8]) {
    let Some(with) = run(inject_into, data) else { return };
    let again = run(inject_into, &with).expect("what was written can be read");
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&with), "a second time");
    let without = run(uninject_from, &with).expect("what was written can be taken out");
    let back = run(inject_into, &without).expect("and put in again");
    assert_eq!(String::from_utf8_lossy(&back), String::from_utf8_lossy(&with), "out and in again");
    let none = run(uninject_from, &without).expect("nothing is left to be taken out");
    assert_eq!(String::from_utf8_lossy(&none), String::from_utf8_lossy(&without), "out a second time");
}

/// A certificate and, behind a zero byte, a key.
pub fn pem(data: &[u8]) {
    let (certificate, key) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let key = String::from_utf8_lossy(key.strip_prefix(b"\0").unwrap_or(key)).into_owned();
    let cert_origin = Origin::new("etcd.tls.cert_file", Path::new("/c"));
    let key_origin = Origin::new("etcd.tls.key_file", Path::new("/k"));
    let now = chrono::DateTime::from_timestamp(1_800_000_000, 0).expect("it is in the range");
    if let Ok(chain) = material::certificates(&cert_origin, certificate) {
        assert!(!chain.is_empty());
        let _ = material::dates(&cert_origin, &chain, now);
    }
    let _ = material::validity(certificate);
    let secret = SecretString::from(key);
    let _ = material::private_key(&key_origin, &secret);
    let _ = material::pair((&cert_origin, certificate), (&key_origin, &secret));
}
