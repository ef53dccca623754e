#!/usr/bin/env bash
# Lists what the released program is made of, as CycloneDX 1.5, in
# target/etcd-janitor.cdx.json: the crates that are linked, without those that
# only build or test. The same commit gives the same file.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.cache/tools
version=0.5.9
if ! "$tools/bin/cargo-cyclonedx" cyclonedx --version 2>/dev/null | grep -qF "$version"; then
    echo "sbom: building cargo-cyclonedx $version into .cache/tools, once"
    cargo install --quiet --locked --root "$tools" --version "$version" cargo-cyclonedx
fi
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
name=etcd-janitor.cdx
trap 'rm -f "$name.json"' EXIT
"$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 --no-default-features --no-build-deps \
    --target "$(uname -m)-unknown-linux-musl" --override-filename "$name"
mkdir -p target
# Where it was made is nobody's business.
sed "s|file://$PWD|file:///src|g" "$name.json" >"target/$name.json"
python3 - "target/$name.json" <<'P'
import json, subprocess, sys
told = {(part["name"], part["version"]) for part in json.load(open(sys.argv[1]))["components"]}
tree = subprocess.run(
    ["cargo", "tree", "--locked", "--no-default-features", "-e", "normal,no-proc-macro", "--prefix", "none", "-f", "{p}",
     "--target", subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout.strip() + "-unknown-linux-musl"],
    capture_output=True, text=True, check=True).stdout
linked = {tuple(line.replace(" v", " ").split()[:2]) for line in tree.splitlines() if line}
linked.discard(("etcd-janitor", next(version for name, version in linked if name == "etcd-janitor")))
missing = sorted(linked - told)
if missing:
    sys.exit(f"sbom: {sys.argv[1]} lacks crates that are linked: {missing}")
print(f"sbom: {len(told)} components in {sys.argv[1]}")
P
