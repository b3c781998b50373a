#!/usr/bin/env bash
# Builds the Debian package, checks it, and tries it in a root of its own that is thrown away afterwards.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: package.sh [--try | --only-build] [--profile NAME] [--no-build] [--root DIR]

Builds target/debian/msrprelay_*.deb (a release build, man pages and completions included) and beside it the package of
its debug symbols, msrprelay-dbgsym_*.deb, and then
  lintian       no complaint but those that deploy/debian/lintian-overrides explains
  install       by apt into a fresh minimal Debian made by mmdebstrap: files, user, modes, dependencies
  the page      each command of the README's first ten minutes, as it stands there: certificate, config, user, start (the
                unit's own command as the unit's user), status, what a client sees, reload (the unit's own command, too)
  remove        and purge: nothing is left but the user

  --try           goes on as an operator would between the page and remove: sends a file from one user to another and
                  compares it, looks at the metrics, rotates the accounting file, renews the certificate and reloads,
                  upgrades to a newer version under a session, restarts; and afterwards plays the commands of the
                  chapter "From source" of docs/operate/install.md in another such root
  --only-build    ends when the packages are there: no check, no trial, and no root's rights
  --profile NAME  packages what this profile of cargo builds; `dev` is quick and large, and good for trying the script
  --no-build      packages the binaries that are there
  --root DIR      uses a copy of this Debian root instead of making one; what mmdebstrap made stays in
                  target/package/root.tar for the next time
  -h, --help      this text

Needs root (for namespaces and chroot) and a Debian machine; installs lintian, mmdebstrap, dpkg-dev and cargo-deb if they
are missing. No service manager is needed: none is started. The trial has its own network, which reaches no other machine, and its
own processes, which end with it. Takes a release build and about two minutes. Not a part of the gate.
USAGE
}

# --in-namespaces is for this script itself: it is in the namespaces of the trial.
try=no build=yes profile=release in_namespaces=no only_build=no
# The root that --root names is a Debian's, not the checkout's.
checkout=$root root=''
options "--try --no-build --only-build --in-namespaces" "--profile --root" "$@"
given_root=${root:+$(realpath "$root")} root=$checkout
cd "$root"
exec < /dev/null
# shellcheck source-path=SCRIPTDIR source=package/root.sh
. scripts/package/root.sh
# shellcheck source-path=SCRIPTDIR source=package/trial.sh
. scripts/package/trial.sh
work=target/package
# The packages: the one to install, and the newer one to upgrade to.
deb=$work/msrprelay.deb newer=$work/msrprelay-newer.deb
compress=(-Zxz)
# A debug build is only for trying this script: large, and packed in a hurry.
[ "$profile" != dev ] || compress=(-Zgzip -z1)

[ "$only_build" = yes ] || [ "$(id -u)" = 0 ] || fail "run it as root: it changes its root directory to the one that it installs into"

quietly() { # WHAT-FAILED COMMAND...
    logged "$work/step.log" "$@"
}

# -- what the machine must have --------------------------------------------------------------------

install_tools() {
    local missing tools=(dpkg-dev binutils)
    [ "$only_build" = yes ] || tools+=(lintian mmdebstrap iproute2)
    mapfile -t missing < <(uninstalled "${tools[@]}")
    [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}" || exit 1
    need_cargo
    need_cargo_tool deb 3.8.0
}

# -- building --------------------------------------------------------------------------------------

build_package() {
    local directory=$profile binary
    [ "$profile" != dev ] || directory=debug
    [ "$build" = no ] || cargo build --profile "$profile" --locked --bins
    rm -rf "${work:?}/share" "${work:?}/bin" "${work:?}/symbols"
    mkdir -p "$work/bin" target/debian
    for binary in msrprelay msrp; do
        [ -x "target/$directory/$binary" ] || fail "target/$directory/$binary is not there: leave out --no-build"
        split_symbols "target/$directory/$binary" "$binary"
        "$work/bin/$binary" documents "$work/share"
    done
    local revision options=(--no-build --no-strip --locked --output "$work/made.deb")
    [ "$profile" != dev ] || options+=(--fast)
    for revision in 1 2; do
        quietly "cargo deb failed" cargo deb "${options[@]}" --deb-revision "$revision"
        add_checksums "$work/made.deb"
        if [ "$revision" = 1 ]; then mv "$work/made.deb" "$deb"; else mv "$work/made.deb" "$newer"; fi
    done
    local name
    # shellcheck disable=SC2016 # the names are dpkg's
    name=$(dpkg-deb --show --showformat '${Version}_${Architecture}' "$deb")
    cp "$deb" "target/debian/msrprelay_$name.deb"
    package_symbols "target/debian/msrprelay-dbgsym_$name.deb"
    for name in "target/debian/msrprelay_$name.deb" "target/debian/msrprelay-dbgsym_$name.deb"; do
        echo "$name, $(($(stat -c %s "$name") / 1024)) KiB"
    done
    dpkg-deb --field "$deb" Depends Recommends Suggests Installed-Size
    echo "What takes the room, in KiB:"
    dpkg-deb --contents "$deb" | awk '$1 !~ /^d/ {
        part = "the rest"
        if ($6 ~ /\/usr\/bin\//) part = $6
        else if ($6 ~ /\/usr\/share\/doc\//) part = "documents"
        else if ($6 ~ /\/usr\/share\/man\//) part = "man pages"
        size[part] += $3
    } END { for (part in size) printf "%9.0f  %s\n", size[part] / 1024, part }' | sort -rn
    size --format=sysv "$work/bin/msrprelay" | awk '/^\./ && $2 > 262144 { printf "%9.0f  of usr/bin/msrprelay: %s\n", $2 / 1024, $1 }'
}

# Puts a program into $work/bin, and what a debugger wants of it beside that, under the name by which debuggers and the
# backtrace of a panic look for it.
split_symbols() { # FILE NAME
    local program=$work/bin/$2 id symbols
    cp "$1" "$program"
    id=$(readelf --notes "$program" | sed -n 's/^ *Build ID: //p')
    [ ${#id} = 40 ] || fail "$1 has no build id: its debug symbols could not be found"
    symbols=$work/symbols/usr/lib/debug/.build-id/${id:0:2}/${id:2}.debug
    install -d "${symbols%/*}"
    case $profile/$2 in
        # A debug build has so much of it that packing takes minutes.
        dev/*) objcopy --only-keep-debug --strip-debug "$program" "$symbols" ;;
        *) objcopy --only-keep-debug --compress-debug-sections=zlib "$program" "$symbols" ;;
    esac
    chmod 644 "$symbols"
    case $2 in
        msrp) strip "$program" ;;
        # Names of functions stay: without them the backtrace of a panic in the log is useless.
        *) strip --strip-debug "$program" ;;
    esac
    echo "$id" >> "$work/symbols/build-ids"
}

# The package of the debug symbols, in the form of those that Debian makes by itself.
package_symbols() { # DEB
    local version field control=$work/symbols/DEBIAN/control
    mkdir -p "${control%/*}"
    version=$(dpkg-deb --field "$deb" Version)
    {
        printf '%s: %s\n' Package msrprelay-dbgsym Source msrprelay Version "$version" Auto-Built-Package debug-symbols
        for field in Architecture Maintainer; do
            echo "$field: $(dpkg-deb --field "$deb" "$field")"
        done
        printf '%s: %s\n' Section debug Priority optional Depends "msrprelay (= $version)" \
            Installed-Size "$(du -k --apparent-size -s "$work/symbols/usr" | cut -f 1)" \
            Description 'debug symbols for msrprelay' Build-Ids "$(sort "$work/symbols/build-ids" | tr '\n' ' ' | sed 's/ $//')"
    } > "$control"
    rm "$work/symbols/build-ids"
    quietly "dpkg-deb failed" dpkg-deb --root-owner-group "${compress[@]}" --build "$work/symbols" "$1"
}

# What dpkg --verify and debsums compare with; cargo-deb writes none. A config is meant to be changed.
add_checksums() { # DEB
    rm -rf "${work:?}/unpacked"
    dpkg-deb --raw-extract "$1" "$work/unpacked"
    (
        cd "$work/unpacked"
        find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z | xargs -0 md5sum > DEBIAN/md5sums
        chmod 644 DEBIAN/md5sums
    )
    quietly "dpkg-deb failed" dpkg-deb --root-owner-group "${compress[@]}" --build "$work/unpacked" "$1"
    rm -rf "${work:?}/unpacked"
}

check() {
    # As root lintian unpacks in a directory that others may not read, which it remarks on.
    quietly "lintian complains" lintian --allow-root --fail-on warning,error,info --tag-display-limit 0 "$deb"
    cat "$work/step.log"
    echo "lintian has no complaint; explained exceptions: $(grep -c '^msrprelay:' deploy/debian/lintian-overrides)"
}

# The steps that need the network come before the trial, which has none.
fetch_root() {
    if [ -n "$given_root" ] || [ -e "$work/root.tar" ]; then
        return
    fi
    make_debian "$work/root.tar" adduser,openssl,ca-certificates,logrotate
}

mkdir -p "$work"
if [ "$in_namespaces" = yes ]; then
    try_it
    exit
fi
install_tools
step 'Building' build_package
[ "$only_build" = no ] || exit 0
step 'Lintian' check
fetch_root
arguments=(--in-namespaces)
[ "$try" = no ] || arguments+=(--try)
[ -z "$given_root" ] || arguments+=(--root "$given_root")
unshare --mount --net --pid --fork --kill-child "$0" "${arguments[@]}"
# shellcheck disable=SC2016 # the names are dpkg's
printf '\nThe package is good: target/debian/msrprelay_%s.deb\n' \
    "$(dpkg-deb --show --showformat '${Version}_${Architecture}' "$deb")"
