#!/usr/bin/env bash
# What `docker build` would do in the Dockerfile's first stage, without its base image: the files that .dockerignore lets
# through, and nothing else, are built by `make build`, and what comes of it is static. Part of `make deploy-test`.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() { printf 'context: failed: %s\n' "$*" >&2; exit 1; }

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

# Docker's rules, as far as that file uses them: everything is left out but what stands behind a `!`.
grep -qx '\*' .dockerignore || fail ".dockerignore no longer leaves everything out first: this script reads it otherwise"
while read -r path; do
    git ls-files -z -- "$path"
done < <(sed -n 's/^!//p' .dockerignore) | tar --null -T - -c | tar -x -C "$context"

# The commands of the stage itself, so that the Dockerfile cannot say another thing than what is tried here.
for wanted in 'COPY . .' 'RUN make build' 'cp "target/$(uname -m)-unknown-linux-musl/release/etcd-janitor" LICENSE /out/'; do
    grep -qF "$wanted" Dockerfile || fail "the Dockerfile's first stage has no \`$wanted\` any more: adapt this script"
done
[ -f "$context/LICENSE" ] || fail "LICENSE is not in the context"
PATH=$PATH:$PWD/.cache/tools/bin make -C "$context" build
out=$context/target/$(uname -m)-unknown-linux-musl/release/etcd-janitor
[ -x "$out" ] || fail "$out is not there"
! LC_ALL=C grep -aqE '/lib(64)?/ld-(linux|musl)[-a-z0-9_]*\.so' "$out" || fail "it is linked to a libc"
"$out" --version
