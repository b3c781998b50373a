#!/usr/bin/env bash
# Plants bugs in the pure crates, one at a time, and sees whether the tests find them.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: planted-bugs.sh [--only TEXT] [--sim-seeds N] [--keep]

Each file of tests/planted is a patch that breaks something small in msrp-relay-core or msrp-proto, and begins with a
sentence that says what. This script copies the working tree into a temporary directory, sees that all tests of the two
crates pass there, then applies one patch after another, runs the tests until one fails, and takes the patch back. The
simulator goes first, then the tests of pairs that meet, of bindings, failures, AUTH, limits, the RFCs' requirements, the
worked examples, and last the unit tests. It ends with a table: patch, caught by, seconds. The working tree is only read;
compiled dependencies stay in target/planted and are used again.

  --only TEXT      only patches whose name contains TEXT
  --sim-seeds N    seeds of the simulator for each patch; default 640
  --keep           keep the temporary directory with the outputs of the tests, and say where it is
  -h, --help       this text

Takes about a quarter of a minute for each patch. A test that does not end within two minutes counts as failed.
Exit status: 0 if every patch applied and was caught, 1 if not, 2 for wrong usage.
USAGE
}

only='' sim_seeds=640 keep=no
options "--keep" "--only --sim-seeds" "$@"
number --sim-seeds "$sim_seeds" 1 100000000
exec < /dev/null
patches=()
for patch in "$root"/tests/planted/*.patch; do
    [[ $(basename "$patch" .patch) != *"$only"* ]] || patches+=("$patch")
done
[ "${#patches[@]}" -gt 0 ] || wrong "no patch has $only in its name"
need_cargo
need git git

# The modules of the core's tests, in the order in which they run.
modules=(sim meet binding failure auth limits rfc vectors)
pure=(-p msrp-proto -p msrp-relay-core)

make_scratch planted
tree=$scratch/tree
copy_tree "$tree"
cd "$tree"
# `git apply` passes over patches in a part of another repository that is not its own.
git init -q
# Many small builds: what is never looked at in a debugger need not be linked.
export CARGO_TARGET_DIR=$root/target/planted CARGO_PROFILE_DEV_DEBUG=0 CARGO_TERM_COLOR=never
export SIM_SEEDS=$sim_seeds RUST_BACKTRACE=0

# The crates of the copy are compiled for its path, and of no use to the next run.
forget_the_copy() {
    local crates=("${pure[@]}" -p testkit-pure)
    (cd "$tree" && cargo clean --quiet --offline "${crates[@]}")
}
at_end+=(forget_the_copy)

# Runs the tests of one module, or the unit tests.
run() { # MODULE LOG
    local which=(-p msrp-relay-core --test core -- "$1::")
    [ "$1" != unit ] || which=("${pure[@]}" --lib)
    timeout 120 cargo test --locked --quiet "${which[@]}" > "$2" 2>&1
}

# The first test that failed, or that was running when time was up.
culprit() { # LOG
    local name
    name=$(sed -n 's/^    \([a-z_0-9:]*::[a-z_0-9]*\)$/\1/p' "$1" | head -n 1)
    [ -n "$name" ] || name=$(sed -n 's/^test \([a-z_0-9:]*\) has been running.*/\1 (does not end)/p' "$1" | head -n 1)
    echo "${name:-a test}"
}

# Says what catches the copy as it is; nothing, if all tests pass. Fails if it does not compile.
caught_by() { # LOG
    local module
    cargo test --locked --quiet --no-run "${pure[@]}" --lib --test core > "$1" 2>&1 || return
    for module in "${modules[@]}" unit; do
        if ! run "$module" "$1"; then
            culprit "$1"
            return
        fi
    done
}

# A module that has no test would catch nothing.
every_module_has_tests() {
    local module names
    names=$(cargo test --locked --quiet -p msrp-relay-core --test core -- --list)
    for module in "${modules[@]}"; do
        grep -q "^$module::.*: test\$" <<< "$names" || fail "the core's tests have no module $module"
    done
    ! grep ': test$' <<< "$names" | grep -vE "^($(IFS='|'; echo "${modules[*]}"))::" ||
        fail "these tests of the core are in no module that runs here"
}

echo "== Without a planted bug"
began=$SECONDS
found=$(caught_by "$scratch/none.log") || { cat "$scratch/none.log"; fail "the tests do not compile"; }
[ -z "$found" ] || { cat "$scratch/none.log"; fail "$found fails without a planted bug"; }
every_module_has_tests
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
