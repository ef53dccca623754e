#!/usr/bin/env bash
# Packs a static binary into the image that the Dockerfile describes, with
# buildah: no docker, no base image, no network. The binary that is released
# and the one in the image are the same file.
#
#   scripts/image.sh [--binary FILE] [--arch amd64|arm64] [--tag NAME] [--out FILE]
#
# Writes a docker archive (it keeps the health check, which OCI has not):
# `docker load -i FILE`, `skopeo copy docker-archive:FILE docker://…`.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'image: %s\n' "$*" >&2; exit 1; }

binary=target/release/etcd-janitor
arch= tag= out=
while [ $# -gt 0 ]; do
    case $1 in
    --binary | --arch | --tag | --out)
        [ $# -ge 2 ] || fail "$1 wants a value"
        printf -v "${1#--}" '%s' "$2"
        shift 2
        ;;
    *) fail "$1 is no option; allowed: --binary FILE, --arch amd64|arm64, --tag NAME, --out FILE" ;;
    esac
done

command -v buildah >/dev/null || fail "buildah is missing: apt-get install -y --no-install-recommends buildah"
[ -f "$binary" ] || fail "$binary is not there: make build"

# What the file is, not what it was called: an image of the wrong machine's
# binary fails on the node, with "exec format error".
header=$(od -An -tx1 -N20 "$binary" | tr -d ' \n')
case $header in
7f454c4602*3e00) is=amd64 ;;
7f454c4602*b700) is=arm64 ;;
*) fail "$binary is no 64-bit ELF program for amd64 or arm64" ;;
esac
arch=${arch:-$is}
[ "$arch" = "$is" ] || fail "$binary is for $is, not for $arch"
if LC_ALL=C grep -aqE '/lib(64)?/ld-(linux|musl)[-a-z0-9_]*\.so' "$binary"; then
    fail "$binary is linked to a libc, which the image has not: make build says how it becomes static"
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p;/^\[lib\]/q' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The commit's time, so that the same commit gives the same layer.
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
tag=${tag:-localhost/etcd-janitor:$version}
out=${out:-target/image/etcd-janitor-$version-$arch.tar}

scratch=$(mktemp -d)
store() { buildah --root "$scratch/store" --runroot "$scratch/run" --storage-driver vfs "$@"; }
trap 'store rmi --all --force >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT

# Stands in for the Dockerfile's first stage.
mkdir -p "$scratch/build/out" "$(dirname "$out")"
install -m 755 "$binary" "$scratch/build/out/etcd-janitor"
install -m 644 LICENSE "$scratch/build/out/LICENSE"

store bud --isolation chroot --format docker --quiet --pull-never --arch "$arch" --timestamp "$epoch" \
    --build-context build="$scratch/build" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" \
    --build-arg CREATED="$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" \
    --tag "$tag" . >/dev/null
rm -f "$out"
store push --quiet "$tag" "docker-archive:$out:$tag"
printf 'image: %s, %s, %s bytes, in %s\n' "$tag" "$arch" "$(stat -c %s "$out")" "$out"
