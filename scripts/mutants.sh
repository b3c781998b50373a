#!/usr/bin/env bash
# Changes the pure crates in hundreds of small ways, one at a time, and sees whether the tests notice.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: mutants.sh [--layer proto|relay] [--file GLOB]... [--shard K/N] [--jobs N] [--sim-seeds N] [--keep-caught]

Runs cargo-mutants over msrp-proto and msrp-relay-core, in a copy of the working tree under target/mutants. Only these
crates and their tests are built for a mutant, never the server: so it costs seconds. Each layer has two passes: the tests
that are quick first, all of them for the mutants that they let live. Lists the survivors, and tells for each file how many
mutants were caught, hung (which counts as caught: a test that does not end is noticed), were missed, or are not viable
(they do not compile). docs/dev/mutants.md says which of those are expected, and why.

  --layer LAYER    proto or relay; default: both
  --file GLOB      only files that match, as crates/msrp-relay-core/src/sessions/session.rs; may be given several times
  --shard K/N      only each Nth mutant, beginning with the Kth, K from 0
  --jobs N         builds and tests at a time, each in a copy of the tree; default 1, in place
  --sim-seeds N    seeds of the simulator for each mutant in the last pass; default 24
  --keep-caught    go on from the last run: mutants that it caught are taken for caught
  -h, --help       this text

Installs cargo-mutants if it is missing. Needs about 3 s of CPU for a mutant; `nice -n 19` is a good idea.
Exit status: 0 if at least 85 % of the viable mutants were caught, 1 if not, 2 for wrong usage.
USAGE
}

least_percent=85
layer='' file=() shard='' jobs=1 sim_seeds=24 keep_caught=no
options "--keep-caught" "--layer --file... --shard --jobs --sim-seeds" "$@"
layers=(proto relay)
[ -z "$layer" ] || { one_of --layer "$layer" proto relay; layers=("$layer"); }
[[ -z $shard || $shard =~ ^[0-9]+/[1-9][0-9]*$ ]] || wrong "--shard $shard: write 0/4"
number --jobs "$jobs" 1 99
number --sim-seeds "$sim_seeds" 1 100000000
exec < /dev/null
need_cargo
need git git
need_cargo_tool mutants

tree=$root/target/mutants/tree runs=$root/target/mutants/runs
# The compiled files in it stay.
mkdir -p "$tree"
find "$tree" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
copy_tree "$tree"
# A mutant may ask for memory without end, and a backtrace for each panic would cost more than the test.
ulimit -v 8388608 2> /dev/null || true
export RUST_BACKTRACE=0 CARGO_TERM_COLOR=never CARGO_PROFILE_DEV_DEBUG=0

crate_of() { # LAYER
    case $1 in
        proto) echo msrp-proto ;;
        relay) echo msrp-relay-core ;;
    esac
}

# The tests of the first pass: the unit tests of `proto`, and all tests of `relay` except those that move megabytes.
quick_tests() { # LAYER
    case $1 in
        proto) echo --lib ;;
        relay)
            echo --lib --test core -- --skip vectors:: --skip binding::flood_of --skip failure::two_floods \
                --skip binding::stalled_receiver --skip binding::two_sources \
                --skip sim::the_same_seed_runs_the_same_way_again
            ;;
    esac
}

# Runs one pass over one layer; its findings are in files. A pass with survivors has not failed.
pass() { # LAYER ITERATE SEEDS "PACKAGE,..." TESTS...
    local layer=$1 iterate=$2 seeds=$3 packages=$4 status=0 glob args
    shift 4
    args=(--dir "$tree" --output "$runs/$layer" --package "$(crate_of "$layer")" --test-package "$packages"
        --no-shuffle --minimum-test-timeout 20 --build-timeout 300)
    if [ "$jobs" = 1 ]; then args+=(--in-place); else args+=(--gitignore=false --jobs "$jobs"); fi
    [ "$iterate" = no ] || args+=(--iterate)
    [ -z "$shard" ] || args+=(--shard "$shard" --sharding round-robin)
    for glob in "${file[@]}"; do args+=(--file "$glob"); done
    mkdir -p "$runs/$layer"
    SIM_SEEDS=$seeds cargo mutants "${args[@]}" -- "$@" || status=$?
    # 2 and 3: some survived, some hung.
    case $status in
        0 | 2 | 3) ;;
        *) fail "cargo mutants failed with $status" ;;
    esac
}

# Adds the findings of a pass to the books of its layer: a mutant that was caught once is no survivor.
enter() { # LAYER
    local books=$runs/$1 out=$runs/$1/mutants.out kind
    for kind in caught unviable timeout missed; do
        touch "$books/$kind"
        sort -u -o "$books/$kind" "$books/$kind" "$out/$kind.txt"
    done
    cat "$books/caught" "$books/unviable" | strike "$books/timeout"
    cat "$books/caught" "$books/timeout" | strike "$books/missed"
}

# Takes the lines of standard input out of a file.
strike() { # FILE
    grep -vxF -f - "$1" > "$1.rest" || true
    mv "$1.rest" "$1"
}

began=$SECONDS books=()
for layer in "${layers[@]}"; do
    crate=$(crate_of "$layer")
    if [ "${#file[@]}" -gt 0 ] && ! printf '%s\n' "${file[@]}" | grep -q "crates/$crate/"; then continue; fi
    [ "$keep_caught" = yes ] || rm -rf "${runs:?}/$layer"
    books+=("$runs/$layer")
    echo "== $crate, the quick tests"
    read -ra tests < <(quick_tests "$layer")
    pass "$layer" "$keep_caught" 8 "$crate" "${tests[@]}"
    enter "$layer"
    echo "== $crate, all tests for those that are left"
    pass "$layer" yes "$sim_seeds" msrp-proto,msrp-relay-core --lib --test core
    enter "$layer"
done
[ "${#books[@]}" -gt 0 ] || wrong "no file of crates/msrp-proto or crates/msrp-relay-core"

echo "== Survivors"
for book in "${books[@]}"; do cat "$book/missed"; done
echo "== Figures, after $((SECONDS - began)) s"
for book in "${books[@]}"; do
    for kind in caught timeout missed unviable; do sed "s/^\([^:]*\):.*/\1 $kind/" "$book/$kind"; done
done | sort | awk -v least="$least_percent" '
    function row(name, caught, hung, missed, unviable,    viable) {
        viable = caught + hung + missed
        printf "%-48s %8d %8d %8d %8d %8d %7s\n", name, viable + unviable, caught, hung, missed, unviable,
            viable ? sprintf("%.1f %%", 100 * (caught + hung) / viable) : "-"
    }
    !($1 in known) { known[$1]; files[++n] = $1 }
    { count[$1, $2]++; sum[$2]++ }
    END {
        printf "%-48s %8s %8s %8s %8s %8s %7s\n", "file", "mutants", "caught", "hung", "missed", "unviable", "caught"
        for (i = 1; i <= n; i++) {
            f = files[i]
            row(f, count[f, "caught"], count[f, "timeout"], count[f, "missed"], count[f, "unviable"])
        }
        row("all", sum["caught"], sum["timeout"], sum["missed"], sum["unviable"])
        viable = sum["caught"] + sum["timeout"] + sum["missed"]
        if (!viable || 100 * (sum["caught"] + sum["timeout"]) / viable < least) {
            printf "Fewer than %d %% of the viable mutants were caught\n", least
            exit 1
        }
    }'
