# shellcheck shell=bash disable=SC2154,SC2034 # a part of vm.sh
# The three packages of a run: the one to install, a newer one, and one of the version before.

find_packages() {
    if [ -z "$deb" ]; then
        compgen -G 'target/debian/msrprelay_*.deb' > /dev/null ||
            logged "$work/package.log" "the package cannot be built" scripts/package.sh --only-build
        # shellcheck disable=SC2012 # names without surprises; the newest of them
        deb=$(realpath "$(ls -t target/debian/msrprelay_*.deb | head -n 1)")
    fi
    make_scratch vm
    newer=$scratch/newer.deb
    make_newer
    [ -n "$before" ] || build_before
    describe "installed" "$deb"
    describe "upgraded to" "$newer"
    describe "upgraded from" "$before"
}

describe() { # WHAT FILE
    # shellcheck disable=SC2016 # the names are dpkg's
    printf '%-14s %s, %s: %s\n' "$1" "$(dpkg-deb --show --showformat '${Package} ${Version}' "$2")" \
        "$(sha256sum "$2" | cut -c 1-12)" "${2#"$root"/}"
}

# The same package with another version: dpkg upgrades to it.
make_newer() {
    local unpacked=$scratch/unpacked
    dpkg-deb --raw-extract "$deb" "$unpacked"
    sed -i 's/^Version: .*/&+newer/' "$unpacked/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip -z1 --build "$unpacked" "$newer" > /dev/null
    rm -rf "$unpacked"
}

# The last commit in which the version was another one; nothing where it never changed.
revision_before() {
    local changed
    changed=$(git log -1 --format=%H -G'^version = "' -- Cargo.toml)
    git rev-parse --verify --quiet "$changed^" || true
}

build_before() {
    local revision directory built options=(--profile demo)
    revision=${before_revision:-$(revision_before)}
    [ -n "$revision" ] || fail "no commit here has another version: name a package with --before"
    revision=$(git rev-parse --verify --short=12 "$revision^{commit}") || fail "no such revision"
    before=$work/before-$revision.deb
    [ ! -e "$before" ] || return 0
    echo "Building the package of $(git log -1 --format='%h, %cs' "$revision"), which takes minutes"
    # Outside the checkout, where cargo would take it for a part of today's workspace.
    directory=$scratch/tree
    mkdir -p "$directory/target/package"
    git archive "$revision" | tar -C "$directory" -x
    grep -q '^\[profile\.demo\]' "$directory/Cargo.toml" || options=(--profile dev)
    if grep -q -e --only-build "$directory/scripts/package.sh"; then
        options+=(--only-build)
    elif [ -e target/package/root.tar ]; then
        cp target/package/root.tar "$directory/target/package/root.tar"
    fi
    logged "$work/before.log" "the package of $revision cannot be built" \
        timeout $((2400 * patience)) env -u CARGO_TARGET_DIR "$directory/scripts/package.sh" "${options[@]}"
    built=$(compgen -G "$directory/target/debian/msrprelay_*.deb") || fail "$directory has made no package"
    mv "$built" "$before"
    rm -rf "$directory"
}
