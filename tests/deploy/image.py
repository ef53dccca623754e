#!/usr/bin/env python3
"""Builds the image from a static binary, looks at every byte of it, and runs it as a pod would: another user, no
capabilities, read-only root. Part of `make deploy-test`; needs root and buildah."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 8_000_000
NOBODY = "65532:65532"


def check(fine, what):
    if not fine:
        sys.exit(f"image: failed: {what}")
    print(f"image: {what}")


def build(binary, out):
    return subprocess.run([ROOT / "scripts/image.sh", "--binary", binary, "--out", out], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)


def layers(archive):
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("manifest.json"))[0]["Layers"]


def unpack(archive, into):
    """The config, and the layers' files as the archive has them."""
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        config = json.load(tar.extractfile(manifest["Config"]))
        files = {}
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(tar.extractfile(layer).read())) as inner:
                for member in inner.getmembers():
                    files[member.name] = member
                inner.extractall(into, filter="data")
    return config, files


def run(root, words, env=(), **more):
    """In the image, as its user, on a root that nobody can write to."""
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && r=$1 && shift && exec setpriv --no-new-privs ' \
             f'--inh-caps=-all chroot --userspec={NOBODY} --groups= "$r" "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(root), *words], {"env": {"PATH": os.environ["PATH"], **dict(env)}, **more}


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    binary = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/etcd-janitor")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        archive = scratch / "image.tar"
        built = build(binary, archive)
        check(built.returncode == 0, f"built: {built.stdout.strip()}")
        size = archive.stat().st_size
        check(size <= LIMIT, f"{size} bytes, of {LIMIT} allowed")

        again = scratch / "again.tar"
        build(binary, again)
        # Not the whole image: buildah writes a random host name into its configuration.
        check(layers(archive) == layers(again), "the same binary gives the same layer, byte for byte")

        root = scratch / "root"
        config, files = unpack(archive, root)
        check(set(files) == {"etcd-janitor", "LICENSE"}, f"nothing else is in it: {sorted(files)}")
        check(all((m.uid, m.gid) == (0, 0) and not m.mode & 0o022 for m in files.values()),
              "root owns what is in it, and nobody else can write to it")
        wanted = {
            "User": NOBODY,
            "Entrypoint": ["/etcd-janitor"],
            "Cmd": ["run"],
            "ExposedPorts": {"8379/tcp": {}},
        }
        check("PATH=/" in (config["config"].get("Env") or []), f"its environment: {config['config'].get('Env')}")
        got = {key: config["config"].get(key) for key in wanted}
        check(got == wanted, f"its configuration: {got}")
        check(config["config"].get("Healthcheck", {}).get("Test") == ["CMD", "/etcd-janitor", "probe", "livez"],
              "the health check is the binary's own")
        labels = config["config"].get("Labels") or {}
        for name in ("title", "description", "licenses", "version", "revision", "created"):
            value = labels.get(f"org.opencontainers.image.{name}")
            check(value and value not in ("unknown", "unreleased"), f"label {name}: {value}")

        words, more = run(root, ["/etcd-janitor", "--version"])
        said = subprocess.run(words, **more, capture_output=True, text=True, check=False)
        check(said.returncode == 0 and labels["org.opencontainers.image.version"] in said.stdout,
              f"runs read-only as {NOBODY}: {said.stdout.strip()}{said.stderr.strip()}")

        # Nobody listens on that port: no etcd, and the daemon must live all the same.
        listen = f"127.0.0.1:{port()}"
        env = {"ETCD_JANITOR__HTTP__LISTEN": listen, "ETCD_JANITOR__ETCD__ENDPOINT": f"http://127.0.0.1:{port()}"}
        words, more = run(root, ["/etcd-janitor", "run"], env)
        daemon = subprocess.Popen(words, **more, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            until = time.monotonic() + 20
            while True:
                words, more = run(root, ["/etcd-janitor", "probe", "livez"], env)
                probe = subprocess.run(words, **more, capture_output=True, text=True, check=False)
                if probe.returncode == 0 or time.monotonic() > until:
                    break
                time.sleep(0.2)
            check(probe.returncode == 0, f"its health check says: {probe.stdout.strip()}")
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            check(fields["Uid"].split() == ["65532"] * 4 and int(fields["CapEff"], 16) == 0,
                  f"the daemon has uid {fields['Uid'].split()[0]} and no capability; resident {fields['VmRSS'].strip()}")
            daemon.send_signal(signal.SIGTERM)
            check(daemon.wait(timeout=5) == 0, "it ends well on SIGTERM")
            words, more = run(root, ["/etcd-janitor", "probe", "livez"], env)
            probe = subprocess.run(words, **more, capture_output=True, text=True, check=False)
            check(probe.returncode == 3, f"its health check says then: {probe.stdout.strip()}")
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.wait()

        # In buildah's own container, as the Dockerfile's user.
        store = ["buildah", "--root", str(scratch / "store"), "--runroot", str(scratch / "run"),
                 "--storage-driver", "vfs"]
        made = subprocess.run([*store, "from", "--pull-never", f"docker-archive:{archive}"], capture_output=True, text=True,
                              check=False)
        check(made.returncode == 0, f"buildah takes the archive: {made.stdout.strip()}{made.stderr.strip()}")
        said = subprocess.run([*store, "run", "--isolation", "chroot", made.stdout.strip(), "--", "/etcd-janitor",
                               "config", "check"], capture_output=True, text=True, check=False)
        check(said.returncode == 0 and "defrag" in said.stdout, f"runs in buildah: {said.stderr.strip() or 'config check'}")
        # As operators call it.
        said = subprocess.run([*store, "run", "--isolation", "chroot", made.stdout.strip(), "--", "etcd-janitor", "--version"],
                              capture_output=True, text=True, check=False)
        check(said.returncode == 0 and said.stdout.startswith("etcd-janitor "),
              f"by its name alone, too: {said.stdout.strip()}{said.stderr.strip()}")
        subprocess.run([*store, "rm", "--all"], stdout=subprocess.DEVNULL, check=False)

        linked = scratch / "linked"
        linked.write_bytes(Path(os.path.realpath("/bin/true")).read_bytes())
        refused = build(linked, scratch / "no.tar")
        check(refused.returncode == 1 and "linked to a libc" in refused.stdout and not (scratch / "no.tar").exists(),
              f"a binary that could not start in it is refused: {refused.stdout.strip()}")
        linked.write_text("#!/bin/sh\n")
        refused = build(linked, scratch / "no.tar")
        check(refused.returncode == 1 and "no 64-bit ELF" in refused.stdout, f"so is a script: {refused.stdout.strip()}")


if __name__ == "__main__":
    main()
