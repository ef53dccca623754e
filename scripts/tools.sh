#!/usr/bin/env bash
# Installs what building and testing need beyond Rust. Does nothing, quickly,
# when everything is there. As root it uses apt-get; otherwise it prints the
# command to run and fails, because a test never skips for want of a tool.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/.cache/tools
missing=()
updated=

say() { printf 'tools: %s\n' "$*"; }

have() { command -v "$1" >/dev/null 2>&1; }

can_install() { have apt-get && [ "$(id -u)" = 0 ]; }

# An index that was never fetched, or long ago, names files that are gone.
refresh() {
    if [ -z "$updated" ] && can_install; then
        apt-get update -qq
        updated=yes
    fi
}

# want PROGRAM PACKAGES WHAT-FOR
want() {
    if have "$1"; then
        return
    fi
    if can_install; then
        say "installing $2 ($3)"
        refresh
        # shellcheck disable=SC2086 # several packages are several words
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $2 >/dev/null 2>&1 ||
            { say "apt-get install $2 failed"; exit 1; }
    else
        missing+=($2)
        say "$1 is missing ($3)"
    fi
}

# etcd-client's build script calls protoc.
if ! have protoc && [ ! -x "$tools/bin/protox" ]; then
    if can_install; then
        # The second has the files that etcd's own import, and the first only recommends it.
        want protoc "protobuf-compiler libprotobuf-dev" "the etcd client is generated with it"
    else
        say "installing protox into .cache/tools (the etcd client is generated with it)"
        cargo install --quiet --locked --root "$tools" --features bin protox
    fi
fi
if ! have protoc; then
    say "protoc is .cache/tools/bin/protox; make sets PROTOC to it, for plain cargo: export PROTOC=$tools/bin/protox"
fi

want strace strace "tests stretch and break a defrag with it"
want faketime faketime "tests set the janitor's clock with it"
want ip iproute2 "tests cut members off with it"
want unshare util-linux "tests make namespaces with it"

# Debian's prometheus package starts a server; only its promtool is wanted.
if ! have promtool && [ ! -x "$tools/bin/promtool" ]; then
    if have apt-get && have dpkg; then
        say "fetching promtool into .cache/tools (tests check metrics and alert rules with it)"
        scratch=$(mktemp -d)
        trap 'rm -rf "$scratch"' EXIT
        refresh
        # As root apt would download as a user who may not enter the folder.
        (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root prometheus)
        dpkg -x "$scratch"/prometheus_*.deb "$scratch/tree"
        mkdir -p "$tools/bin"
        install -m 755 "$scratch/tree/usr/bin/promtool" "$tools/bin/promtool.new"
        mv "$tools/bin/promtool.new" "$tools/bin/promtool"
    else
        missing+=(promtool)
        say "promtool is missing (tests check metrics and alert rules with it)"
    fi
fi

# helm, kubectl and the schemas of Kubernetes: manifests are judged in every run.
if [ "$(uname -m)" = x86_64 ]; then
    scripts/deploy-tools.sh manifests
else
    say "tests/deploy.rs needs helm, kubectl and kubernetes-validate, which are fetched on x86-64 only"
fi

# Optional: with it the release build is static.
if ! have musl-gcc; then
    if can_install; then
        want musl-gcc musl-tools "for a static release build"
    else
        say "musl-gcc is not there: the release build will not be static (optional: apt-get install musl-tools)"
    fi
fi

if [ ${#missing[@]} -gt 0 ]; then
    say "run as root:  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    exit 1
fi
say "all there"
