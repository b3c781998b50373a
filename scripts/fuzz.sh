#!/usr/bin/env bash
# Runs the fuzzer: each target for some minutes, one after the other, and tells what it reached and found.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: fuzz.sh [TARGET...] [--minutes N] [--sanitizer NAME] [--build-only]

Builds the fuzz targets with cargo-fuzz, which is installed with cargo if it is not there, and runs each of them on
one CPU at the lowest priority, beginning with the seeds in fuzz/seeds and with what earlier runs have left in
fuzz/corpus. For each it tells the executions, executions per second, coverage (edges, features), the size of the
corpus and the findings. A target's run ends with its first finding.

  TARGET             parser, rewrite, digest, uri, conversation, records, websocket; default: all of them
  --minutes N        how long to run each; default 15
  --sanitizer NAME   address (the default) or none, should AddressSanitizer not link here
  --build-only       build, and run nothing
  -h, --help         this text

No nightly compiler is needed: RUSTC_BOOTSTRAP=1 makes the stable one take the flags of cargo-fuzz.
Findings go to fuzz/artifacts/TARGET, logs to fuzz/target/TARGET.log. docs/dev/fuzzing.md says what to do with a finding.
Exit status: 0 if nothing was found, 1 if something was or a build failed, 2 for wrong usage, 130 if interrupted.
USAGE
}

minutes=15 sanitizer=address build_only=no operands=()
options "--build-only" "--minutes --sanitizer" "$@"
number --minutes "$minutes" 1 99999
one_of --sanitizer "$sanitizer" address none
targets=("${operands[@]}")
cd "$root"
export RUSTC_BOOTSTRAP=1

[ "${#targets[@]}" -gt 0 ] || targets=(parser rewrite digest uri conversation records websocket)
for target in "${targets[@]}"; do
    [[ $target =~ ^[a-z]+$ && -e fuzz/fuzz_targets/$target.rs ]] || wrong "$target is no target"
done

need_cargo
# It builds libFuzzer.
need g++ c++
need_cargo_tool fuzz

# All of them first: what is run later must not depend on what is edited meanwhile.
triple=$(rustc -vV | sed -n 's/^host: //p')
for target in "${targets[@]}"; do
    echo "== Building $target"
    nice -n 19 cargo fuzz build "$target" --sanitizer "$sanitizer" --target "$triple"
done
[ "$build_only" = no ] || exit 0

value() { # NAME LOG: of a statistic that libFuzzer prints at its end
    sed -n "s/^stat::$1: *//p" "$2" | tail -n 1
}

found=no
for target in "${targets[@]}"; do
    log=fuzz/target/$target.log artifacts=fuzz/artifacts/$target
    mkdir -p "fuzz/corpus/$target" "$artifacts"
    touch "fuzz/target/$target.began"
    echo "== $target: $minutes min"
    start "$log" nice -n 19 "fuzz/target/$triple/release/$target" "-max_total_time=$((minutes * 60))" -timeout=20 \
        -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=$artifacts/" "fuzz/corpus/$target" \
        "fuzz/seeds/$target"
    status=0
    ended "$pid" || status=$?
    [ "$status" != 72 ] || { echo "interrupted" >&2; exit 130; }
    last=$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -n 1 || true)
    echo "$last"
    echo "executions: $(value number_of_executed_units "$log"), per second: $(value average_exec_per_sec "$log")"
    sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\)\/\([0-9]*[A-Za-z]*\).*/coverage: \1 edges, \2 features; corpus: \3 inputs, \4/p' <<< "$last"
    mapfile -t findings < <(find "$artifacts" -type f -newer "fuzz/target/$target.began" ! -name 'slow-unit-*' | sort)
    if [ "$status" = 0 ] && [ "${#findings[@]}" = 0 ]; then
        echo "findings: none"
        continue
    fi
    found=yes
    echo "findings: ${#findings[@]} (exit status $status); the log is $log"
    grep -m 1 -A 3 "panicked at\|ERROR: " "$log" || true
    for finding in "${findings[@]}"; do
        echo "  $finding"
        printf '  replay: RUSTC_BOOTSTRAP=1 cargo fuzz run %s %q\n' "$target" "$finding"
    done
done
[ "$found" = no ]
