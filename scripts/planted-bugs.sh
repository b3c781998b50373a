#!/usr/bin/env bash
# Plants bugs in the pure layers, one at a time, and sees whether the tests find them.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: planted-bugs.sh [--only TEXT] [--sim-seeds N] [--keep]

Each file of tests/planted is a patch that breaks something small in src/relay or src/proto, and begins with a sentence
that says what. This script makes a crate of those layers and their tests in a temporary directory (see pure-crate.sh),
sees that all tests pass there, then applies one patch after another, runs the tests until one fails, and takes the patch
back. The simulator goes first, then the tests of pairs, failures, AUTH, limits, the RFCs' requirements, the worked examples,
and last the unit tests. It ends with a table: patch, caught by, seconds. The working tree is only read; compiled
dependencies stay in target/planted and are used again.

  --only TEXT      only patches whose name contains TEXT
  --sim-seeds N    seeds of the simulator for each patch; default 200
  --keep           keep the temporary directory with the outputs of the tests, and say where it is
  -h, --help       this text

Takes about a quarter of a minute for each patch. A test that does not end within two minutes counts as failed.
Exit status: 0 if every patch applied and was caught, 1 if not, 2 for wrong usage.
USAGE
}

fail() {
    echo "planted-bugs.sh: $*" >&2
    exit 1
}

wrong() {
    echo "planted-bugs.sh: $*; see --help" >&2
    exit 2
}

only='' sim_seeds=200 keep=no
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --keep) keep=yes; shift ;;
        --only | --sim-seeds)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --only) only=$2 ;;
                --sim-seeds) sim_seeds=$2 ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done
[[ $sim_seeds =~ ^[1-9][0-9]*$ ]] || wrong "--sim-seeds $sim_seeds: write a number"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec < /dev/null
export PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
patches=()
for patch in "$here"/tests/planted/*.patch; do
    [[ $(basename "$patch" .patch) == *"$only"* ]] && patches+=("$patch")
done
[ "${#patches[@]}" -gt 0 ] || wrong "no patch has $only in its name"

scratch=$(mktemp -d)
finish() {
    if [ "$keep" = yes ]; then echo "Kept: $scratch"; else rm -rf "$scratch"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

crate=$scratch/crate
"$here/scripts/pure-crate.sh" "$crate"
cd "$crate"
export CARGO_TARGET_DIR=$here/target/planted SIM_SEEDS=$sim_seeds RUST_BACKTRACE=0 CARGO_TERM_COLOR=never

# In this order; what is no module of these is a unit test.
rooms=(sim pair failure auth limits rfc vectors)

# Runs the tests of one room, or the unit tests.
run() { # ROOM LOG
    local filter=("$1::") room
    if [ "$1" = unit ]; then
        filter=()
        for room in "${rooms[@]}"; do filter+=(--skip "$room::"); done
    fi
    timeout 120 cargo test --lib --quiet -- "${filter[@]}" > "$2" 2>&1
}

# The first test that failed, or that was running when time was up.
culprit() { # LOG
    local name
    name=$(sed -n 's/^    \([a-z_0-9:]*::[a-z_0-9]*\)$/\1/p' "$1" | head -n 1)
    [ -n "$name" ] || name=$(sed -n 's/^test \([a-z_0-9:]*\) has been running.*/\1 (does not end)/p' "$1" | head -n 1)
    echo "${name:-a test}"
}

# Says what catches the crate as it is; nothing, if all tests pass. Fails if it does not compile.
caught_by() { # LOG
    local room
    cargo test --lib --quiet --no-run > "$1" 2>&1 || return
    for room in "${rooms[@]}" unit; do
        if ! run "$room" "$1"; then
            culprit "$1"
            return
        fi
    done
}

echo "== Without a planted bug"
began=$SECONDS
found=$(caught_by "$scratch/none.log") || { cat "$scratch/none.log"; fail "the tests do not compile"; }
[ -z "$found" ] || { cat "$scratch/none.log"; fail "$found fails without a planted bug"; }
echo "All tests pass: $((SECONDS - began)) s"

table=() bad=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    echo "== $name: $(head -n 1 "$patch")"
    began=$SECONDS
    if ! git apply "$patch"; then
        found='DOES NOT APPLY'
        bad=$((bad + 1))
    else
        if ! found=$(caught_by "$scratch/$name.log"); then
            found='DOES NOT COMPILE'
            bad=$((bad + 1))
        elif [ -z "$found" ]; then
            found='NOT CAUGHT'
            bad=$((bad + 1))
        fi
        git apply --reverse "$patch"
    fi
    echo "$found"
    table+=("$(printf '%-34s %-74s %3d s' "$name" "$found" $((SECONDS - began)))")
done

printf '\n%-34s %-74s %5s\n' patch 'caught by' time
printf '%s\n' "${table[@]}"
[ "$bad" = 0 ] || fail "$bad of ${#patches[@]} patches were not caught, or could not be tried"
echo "All ${#patches[@]} planted bugs were caught"
