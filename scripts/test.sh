#!/usr/bin/env bash
# Every test. The clusters' wait more than they compute, so what only computes,
# model and simulation, has the rest of the processors beside them.
#
#   scripts/test.sh THREADS
set -euo pipefail
cd "$(dirname "$0")/.."

threads=${1:?how many tests at once}

cargo test --locked --no-run

log=$(mktemp)
setsid nice -n 19 cargo test --locked --test model --test simulation -- --test-threads 2 >"$log" 2>&1 &
computing=$!
# What is ended early leaves nothing running: the group is cargo and its tests.
trap 'kill -- -"$computing" 2>/dev/null || true; rm -f "$log"' EXIT

# Once with passwords and mutual TLS.
ETCD_SECURED=1 cargo test --locked --test integration -- one_round_defragments_every_member_one_at_a_time

others=()
for test in tests/*.rs tests/*/main.rs; do
    name=${test#tests/}
    name=${name%.rs}
    name=${name%/main}
    case $name in model | simulation) ;; *) others+=(--test "$name") ;; esac
done
cargo test --locked --lib --bins "${others[@]}" -- --test-threads "$threads"
cargo test --locked --doc

if ! wait "$computing"; then
    cat "$log"
    exit 1
fi
grep '^test result' "$log"
