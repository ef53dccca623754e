#!/usr/bin/env bash
# Takes what a run of scripts/fuzz.sh added to the corpora over into the
# repository: the smallest inputs that reach everything that is reached.
set -euo pipefail
cd "$(dirname "$0")/.."

triple=$(rustc -vV | sed -n 's/^host: //p')
for target in ${FUZZ_TARGET:-config rule schedule records exposition http inject pem}; do
    into=target/fuzz/merged/$target
    rm -rf "$into" && mkdir -p "$into"
    # Short ones alone: a repository is no place for megabytes.
    target/fuzz/"$triple"/release/"$target" -merge=1 -max_len=1500 "$into" "fuzz/corpus/$target" "target/fuzz/corpus/$target" \
        >target/fuzz/"$target"-merge.log 2>&1
    rm -rf "fuzz/corpus/$target" && mkdir -p "fuzz/corpus/$target"
    # A hundred and fifty of them, spread over all.
    find "$into" -type f | sort | awk -v all="$(find "$into" -type f | wc -l)" \
        'BEGIN { step = all > 150 ? all / 150 : 1 } NR >= next_one { print; next_one += step }' |
        xargs -r cp -t "fuzz/corpus/$target"
    printf '%s: %s of %s inputs, %s\n' "$target" "$(find "fuzz/corpus/$target" -type f | wc -l)" \
        "$(find "$into" -type f | wc -l)" "$(du -sh --apparent-size "fuzz/corpus/$target" | cut -f1)"
done
