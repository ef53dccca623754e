#!/usr/bin/env bash
# Feeds the programs of fuzz/ with libFuzzer, on the pinned compiler: no nightly
# one is needed for coverage. FUZZ_RUNS executions of each target (the slow ones
# fewer), or of FUZZ_TARGET alone. A finding is kept in fuzz/findings.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'fuzz: %s\n' "$*"; }

command -v g++ >/dev/null || { say "g++ is missing, libFuzzer is C++: apt-get install -y --no-install-recommends g++"; exit 1; }

runs=${FUZZ_RUNS:-2000000}
targets=${FUZZ_TARGET:-config rule schedule records exposition http inject pem}
triple=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz passes with --sanitizer none. Not in a config file: it is for these programs and what is linked into them.
export CARGO_ENCODED_RUSTFLAGS
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares)--cfg=fuzzing
say "builds with coverage"
cargo build --locked --quiet --release --manifest-path fuzz/Cargo.toml --target "$triple" --target-dir target/fuzz
failed=
for target in $targets; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus" fuzz/findings
    # A thousand times slower than the others: files, connections, rules that are compiled.
    case $target in
    config) share=20 ;;
    http) share=10 ;;
    inject) share=4 ;;
    *) share=1 ;;
    esac
    options=(-runs=$((runs / share)) -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 -verbosity=0
        -artifact_prefix="fuzz/findings/$target-" ${FUZZ_SEED:+-seed="$FUZZ_SEED"})
    [ ! -f "fuzz/dictionaries/$target" ] || options+=(-dict="fuzz/dictionaries/$target")
    log=target/fuzz/$target.log
    if target/fuzz/"$triple"/release/"$target" "${options[@]}" "$corpus" "fuzz/corpus/$target" >"$log" 2>&1; then
        say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions," \
            "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")/s, $(find "$corpus" "fuzz/corpus/$target" -type f | wc -l) inputs, no finding"
    else
        failed=yes
        grep -aE 'panicked|assertion|SUMMARY|ERROR: libFuzzer|left:|right:' "$log" | head -8 | cut -c1-400
        say "$target: found something; again with"
        say "  target/fuzz/$triple/release/$target $(ls -t fuzz/findings/"$target"-* 2>/dev/null | head -n 1)"
    fi
done
[ -z "$failed" ]
