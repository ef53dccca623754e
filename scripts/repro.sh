#!/usr/bin/env bash
# Builds this commit twice, in two folders of different names, and compares the
# programs byte for byte. What differs from machine to machine (paths) is kept
# out by `make build`; the compiler is pinned by rust-toolchain.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'repro: %s\n' "$*"; }

[ -z "$(git status --porcelain)" ] || say "changes that are not committed are not built"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for folder in one another-longer-one; do
    git clone --quiet --no-hardlinks . "$scratch/$folder"
    # So that a build machine without protoc does not build one of its own twice.
    mkdir -p "$scratch/$folder/.cache"
    [ ! -d .cache/tools ] || ln -s "$PWD/.cache/tools" "$scratch/$folder/.cache/tools"
    say "builds in $scratch/$folder"
    make -C "$scratch/$folder" --no-print-directory build >"$scratch/$folder.log" 2>&1 || { cat "$scratch/$folder.log"; exit 1; }
done
for program in etcd-janitor etcd-load; do
    if ! cmp "$scratch/one/target/release/$program" "$scratch/another-longer-one/target/release/$program"; then
        say "$program differs from one build of the same commit to the next"
        exit 1
    fi
    say "$program: $(sha256sum <"$scratch/one/target/release/$program" | cut -d' ' -f1), twice"
done
for folder in one another-longer-one; do
    if LC_ALL=C grep -aqF "$scratch" "$scratch/$folder/target/release/etcd-janitor"; then
        say "a path of the build machine is in the program: $scratch"
        exit 1
    fi
done
