#!/usr/bin/env bash
# Plants bugs in the pure crates, one at a time, and sees whether the tests find them.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: planted-bugs.sh [--only TEXT] [--sim-seeds N] [--keep]

Each file of tests/planted is a patch that breaks something small in crates/msrp-relay-core or crates/msrp-proto, and
begins with a sentence that says what. This script copies the sources to a temporary directory, sees that all tests of
these two crates pass there, then applies one patch after another, runs the tests until one fails, and takes the patch
back. The simulator goes first, then the tests of binding, failures, AUTH, limits, the RFCs' requirements, the worked
examples, and last the unit tests. It ends with a table: patch, caught by, seconds. The working tree is only read; what
is compiled stays in target/planted and is used again.

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

tree=$scratch/tree
mkdir "$tree"
git -C "$here" ls-files -z --cached --others --exclude-standard | (
    cd "$here"
    # Files that are deleted and not yet committed are listed, too.
    while IFS= read -rd '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done | xargs -0 cp --parents -t "$tree"
)
cd "$tree"
# `git apply` takes no notice of patches in a directory that git does not know.
git init -q
export CARGO_TARGET_DIR=$here/target/planted SIM_SEEDS=$sim_seeds RUST_BACKTRACE=0 CARGO_TERM_COLOR=never
# Many small builds: what is never looked at in a debugger need not be linked.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=1
crates=(--locked --package msrp-proto --package msrp-relay-core)

# Modules of the core's tests, in this order.
rooms=(sim binding failure auth limits rfc vectors)

# Runs the tests of one room, or the unit tests.
run() { # ROOM LOG
    local tests=(--test core -- "$1::")
    [ "$1" != unit ] || tests=(--lib)
    timeout 120 cargo test --quiet "${crates[@]}" "${tests[@]}" > "$2" 2>&1 || return
    # A name that is no module's would pass.
    grep -q '^running [1-9]' "$2" || fail "no test was run: $1"
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
    cargo test --quiet "${crates[@]}" --lib --test core --no-run > "$1" 2>&1 || return
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
