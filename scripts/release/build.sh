# shellcheck shell=bash disable=SC2154 # a part of release.sh
# Building a release in a directory of its own, so that nothing of the directory or of the day is in it.

# The commit as it is in git.
export_tree() { # DIRECTORY
    mkdir -p "$1"
    git archive --format=tar "$commit" | tar -C "$1" -x
}

# The files of a release, from a tree that export_tree has made.
build_release() { # TREE OUT
    local tree=$1 made=$2 name=msrprelay-$version
    mkdir -p "$made"
    # The surroundings of a build are the same everywhere.
    (
        unset CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTFLAGS MAKEFLAGS
        # shellcheck disable=SC2030 # for this build alone
        export SOURCE_DATE_EPOCH=$epoch CARGO_INCREMENTAL=0 LC_ALL=C TZ=UTC
        umask 022
        paths_away "$tree"
        cd "$tree" || exit
        logged "$scratch/build.log" "the packages cannot be built" scripts/package.sh --only-build --profile "$profile"
        sed -n '/^target\/debian/p' "$scratch/build.log"
        cp target/debian/*.deb "$made/"
        archive "$name-x86_64-linux" | gzip -n -9 > "$made/$name-x86_64-linux.tar.gz"
        bill_of_materials > "$made/$name.cdx.json"
        cp deploy/debian/copyright "$made/$name-third-party.txt"
        build_facts > "$made/$name-build.txt"
        cd "$made" || exit
        sha256sum -- *.deb *.tar.gz *.json *.txt > SHA256SUMS
    )
}

# Compilers write where a source lies into messages and debug symbols: there it has the same name on every machine.
paths_away() { # TREE
    local from to rust=() c=()
    while read -r from to; do
        rust+=("--remap-path-prefix=$from=$to")
        c+=("-ffile-prefix-map=$from=$to")
    done << PATHS
${CARGO_HOME:-$HOME/.cargo} /usr/src/cargo
$(rustc --print sysroot) /usr/src/rust
$1 /usr/src/msrprelay-$version
PATHS
    CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' "${rust[@]}")
    CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
    CFLAGS=${c[*]}
    export CARGO_ENCODED_RUSTFLAGS CFLAGS
}

# As docs/operate/install.md wants it: the programs where cargo would have put them, and everything else in its place.
archive() { # NAME
    local place=target/archive/$1
    mkdir -p "$place/target/release" "$place/scripts"
    cp target/package/bin/* "$place/target/release/"
    cp scripts/gen-cert.sh "$place/scripts/"
    cp -r deploy docs README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE config.yaml.sample "$place/"
    tar -C target/archive --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --format=gnu -c "$1"
}

# For what is linked for x86-64. The tool also writes where the sources lie.
bill_of_materials() {
    cargo cyclonedx --quiet --format json --spec-version 1.5 --target x86_64-unknown-linux-gnu --no-build-deps > "$scratch/cyclonedx.log" 2>&1 ||
        { cat "$scratch/cyclonedx.log" >&2; fail "no bill of materials"; }
    sed "s|file://$PWD|file:///usr/src/msrprelay-$version|g" msrprelay.cdx.json | jq --sort-keys .
}

build_facts() {
    echo "version: $version"
    echo "commit: $commit"
    echo "SOURCE_DATE_EPOCH: $epoch"
    echo "profile: $profile"
    rustc --version
    cargo --version
    cargo deb --version | sed 's/^/cargo-deb /'
    cc --version | sed -n 1p
    ld --version | sed -n 1p
    dpkg-deb --version | sed -n 1p
    echo "needs glibc: $(needed_glibc target/package/bin/msrprelay target/package/bin/msrp)"
}

compare() { # ONE OTHER
    local file differ=()
    for file in "$1"/*; do
        cmp -s "$file" "$2/${file##*/}" || differ+=("${file##*/}")
    done
    [ "${#differ[@]}" = 0 ] || {
        # To be looked at.
        # shellcheck disable=SC2034 # of clean_up
        keep=yes
        fail "two builds in two directories differ in: ${differ[*]}"
    }
    echo "two builds in two directories: every file is the same"
    sha256sum "$1/SHA256SUMS" "$2/SHA256SUMS" | sed "s|$scratch/||"
}
