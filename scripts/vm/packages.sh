# shellcheck shell=bash disable=SC2154,SC2034 # a part of vm.sh
# The three packages of a run: the one to install, a newer one, and one of the version before.

# The early commit whose package hands over under a session, has the short config, and builds by the same commands as today's.
early_revision=6f84f5f

find_packages() {
    if [ -z "$deb" ]; then
        compgen -G 'target/debian/msrprelay_*.deb' > /dev/null ||
            logged "$work/package.log" "the package cannot be built" scripts/package.sh
        # shellcheck disable=SC2012 # names without surprises; the newest of them
        deb=$(realpath "$(ls -t target/debian/msrprelay_*.deb | head -n 1)")
    fi
    newer=$work/msrprelay-newer.deb
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
    local unpacked=$work/unpacked
    rm -rf "$unpacked"
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
    local revision=$before_revision directory built
    revision=${revision:-$(revision_before)}
    if [ -z "$revision" ] || ! git show "$revision:scripts/package.sh" > /dev/null 2>&1; then
        revision=$early_revision
    fi
    revision=$(git rev-parse --verify --short=12 "$revision^{commit}") || fail "no such revision"
    before=$work/before-$revision.deb
    [ ! -e "$before" ] || return 0
    echo "Building the package of $(git log -1 --format='%h, %cs' "$revision"), which takes minutes"
    directory=$(realpath "$work")/before
    rm -rf "$directory"
    mkdir -p "$directory/target/package"
    git archive "$revision" | tar -C "$directory" -x
    [ ! -e target/package/root.tar ] || ln target/package/root.tar "$directory/target/package/root.tar"
    logged "$work/before.log" "the package of $revision cannot be built" \
        env -u CARGO_TARGET_DIR "$directory/scripts/package.sh" --profile dev
    built=$(compgen -G "$directory/target/debian/msrprelay_*.deb") || fail "$directory has made no package"
    mv "$built" "$before"
    rm -rf "$directory"
}
