#!/usr/bin/env bash
# Makes a small crate out of the pure layers and their tests: for scripts that build and test many variants of them.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: pure-crate.sh DIRECTORY

Makes DIRECTORY a crate by the name of msrprelay that holds src/proto, src/relay and src/srv.rs as they are in this working tree,
and all tests that need nothing else: the unit tests in them, and those in tests/ that drive them without a socket. All
are one test binary (cargo test --lib), each file of tests/ a module of it: `cargo test --lib sim::` runs the simulator.
Its dependencies are those lines of Cargo.toml that these layers use. What is in DIRECTORY beside Cargo.toml, Cargo.lock,
src and tests stays, so a target directory in it is used again.

  -h, --help   this text
USAGE
}

case ${1:-} in
    -h | --help) usage; exit 0 ;;
    '' | -*) usage >&2; exit 2 ;;
esac
[ $# = 1 ] || { usage >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
crate=$1
# Those that are there; the list is what `cargo test` runs of the pure layers.
tests=()
for name in sim pair failure auth limits vectors rfc; do
    if [ -e "$here/tests/$name.rs" ] || [ -e "$here/tests/$name/main.rs" ]; then tests+=("$name"); fi
done

mkdir -p "$crate"
rm -rf "$crate/src" "$crate/tests"
mkdir "$crate/src" "$crate/tests"
cp -r "$here/src/proto" "$here/src/relay" "$here/src/srv.rs" "$crate/src"
cp -r "$here/tests/support" "$here/tests/data" "$crate/tests"
cp "$here/Cargo.lock" "$crate/Cargo.lock"

# Every test shares one copy of the support module, and is no crate of its own any more.
adapt() { # NAME FILE...
    local name=$1
    shift
    sed -i -e '/^#\[path = .*support\/mod.rs"\]$/d' -e "s/\<crate::/crate::$name::/g" \
        -e "s/\<crate::$name::support\>/crate::support/g" -e 's/^mod support;$/use crate::support;/' "$@"
}

{
    echo '//! Made by scripts/pure-crate.sh.'
    echo '#![allow(missing_docs, reason = "a copy")]'
    echo 'pub mod proto;'
    echo 'pub mod relay;'
    echo 'pub mod srv;'
    echo '#[cfg(test)]'
    echo 'extern crate self as msrprelay;'
    echo '#[cfg(test)]'
    echo '#[path = "../tests/support/mod.rs"]'
    echo 'mod support;'
    for name in "${tests[@]}"; do
        if [ -e "$here/tests/$name/main.rs" ]; then
            cp -r "$here/tests/$name" "$crate/tests/$name"
            file=$name/main.rs
            adapt "$name" "$crate/tests/$name"/*.rs
        else
            cp "$here/tests/$name.rs" "$crate/tests/$name.rs"
            file=$name.rs
            adapt "$name" "$crate/tests/$file"
        fi
        echo '#[cfg(test)]'
        echo "#[path = \"../tests/$file\"]"
        echo "mod $name;"
    done
} > "$crate/src/lib.rs"

# `line NAME`: the dependency as the real crate has it.
line() {
    grep -m 1 "^$1 = " "$here/Cargo.toml"
}

{
    sed -n '1,/^$/p' "$here/Cargo.toml" | grep -E '^(\[package\]|(name|version|edition|rust-version) =)'
    printf 'publish = false\nautotests = false\n\n[workspace]\n\n[lib]\ndoctest = false\n\n[dependencies]\n'
    # From the protocol core's heading to the next one.
    sed -n '/^# -- the protocol core/,/^$/p' "$here/Cargo.toml" | grep -E '^[a-z0-9_-]+ ='
    printf '\n[dev-dependencies]\n'
    line serde_json
    line proptest
    # Many small builds: what is never looked at in a debugger need not be linked.
    printf '\n[profile.dev]\ndebug = 0\nincremental = true\n\n[profile.dev.package."*"]\nopt-level = 2\n'
} > "$crate/Cargo.toml"
