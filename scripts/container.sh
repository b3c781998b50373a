#!/usr/bin/env bash
# Builds the container image from the Debian package, and tries it under the default seccomp profile and under ours.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: container.sh [--try | --write-profiles] [--deb FILE] [--base IMAGE]

Builds localhost/msrprelay:VERSION, which is also localhost/msrprelay:latest, with Podman, by deploy/container/Containerfile.

  --try             builds in namespaces of its own instead, twice, and compares; then tries the image: the commands of the
                    chapter "In a container" of docs/operate/install.md as they stand there, the Quadlet unit's own command
                    in place of systemd; the message under the default profile; a file from one user to another; the health
                    check of a relay that works and of one that does not; another user, the profile for Kubernetes,
                    podman-compose, and the end. Nothing is left of it: no image, no volume, no file outside target
  --write-profiles  writes deploy/container/seccomp.json and seccomp.kubernetes.json from the default profile that the
                    container tools install, and ends. --try refuses profiles that are anything else
  --deb FILE        the package; default: that of this version in target/debian, built by package.sh if there is none
  --base IMAGE      the Debian that the libraries are taken from; default: a root made by mmdebstrap, which needs no registry
                    of images and stays in target/container/base.tar for the next time
  -h, --help        this text

Needs root and a Debian machine; installs podman, runc, jq and mmdebstrap if they are missing, and for --try socat and
what podman-compose needs. --try unpacks that and the generator of Quadlet units from Debian 13 into target/container, and
has a network of its own, which reaches no other machine. A minute or two, without the package. Not a part of the gate.
USAGE
}

# --in-namespaces is for this script itself.
try=no write_profiles=no in_namespaces=no deb='' base=''
options "--try --write-profiles --in-namespaces" "--deb --base" "$@"
cd "$root"
exec < /dev/null
# shellcheck source-path=SCRIPTDIR source=container/profiles.sh
. scripts/container/profiles.sh
# shellcheck source-path=SCRIPTDIR source=container/trial.sh
. scripts/container/trial.sh
work=target/container
# What is from a newer Debian.
newer=$work/newer
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | sed -n 1p)

[ "$(id -u)" = 0 ] || fail "run it as root: it makes a Debian root, and --try makes namespaces"

install_tools() {
    local missing tools=(podman runc jq mmdebstrap golang-github-containers-common)
    [ "$try" = no ] || tools+=(socat python3-yaml python3-dotenv iproute2 openssl)
    mapfile -t missing < <(uninstalled "${tools[@]}")
    [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}" || exit 1
}

# The package, as the only file of a directory: the build context.
make_context() {
    if [ -z "$deb" ]; then
        deb=target/debian/msrprelay_$version-1_amd64.deb
        [ -e "$deb" ] || scripts/package.sh --only-build
    fi
    [ "$(dpkg-deb --field "$deb" Package 2> /dev/null)" = msrprelay ] || fail "--deb $deb: not a package of msrprelay"
    rm -rf "${work:?}/context"
    mkdir -p "$work/context"
    cp "$deb" "$work/context/msrprelay.deb"
    [ -n "$base" ] || [ -e "$work/base.tar" ] || make_debian "$work/base.tar" ca-certificates
}

import_base() {
    [ -z "$base" ] || return 0
    base=localhost/msrprelay-base
    logged "$work/import.log" "the base cannot be imported" podman import "$work/base.tar" "$base"
}

# All times in the image are that of the last commit, so that the same package and base make the same layers.
build_image() { # TAG [OPTION...]
    local tag=$1 epoch
    shift
    epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
    # A health check is not in the OCI's format of images.
    logged "$work/build.log" "the image cannot be built" podman build --format docker --layers=false --timestamp "$epoch" "$@" \
        --build-arg BASE="$base" --tag "localhost/msrprelay:$tag" --file deploy/container/Containerfile "$work/context"
    podman image inspect "localhost/msrprelay:$tag" |
        jq -r '.[0] | "\(.RepoTags[0]): \(.Size / 1048576 | floor) MiB, user \(.Config.User), layers \(.RootFS.Layers | map(.[7:23]) | join(" "))"'
}

mkdir -p "$work"
if [ "$in_namespaces" = yes ]; then
    base=${base:-}
    try_it
    exit
fi
install_tools
if [ "$write_profiles" = yes ]; then
    write_profiles
    exit
fi
make_context
if [ "$try" = no ]; then
    import_base
    step 'Building the image' build_image "$version"
    podman tag "localhost/msrprelay:$version" localhost/msrprelay:latest
    [ "$base" != localhost/msrprelay-base ] || podman rmi "$base" > /dev/null
    echo "localhost/msrprelay:latest is version $version; it needs --security-opt seccomp=deploy/container/seccomp.json"
    exit
fi
[ -z "$base" ] || fail "--try takes the base that mmdebstrap makes: images from elsewhere are out of its reach"
step 'The profiles' check_profiles
step 'What Debian 12 does not have' fetch_newer
unshare --mount --net --pid --fork --kill-child --mount-proc "$0" --in-namespaces
printf '\nOK: the image of %s works under deploy/container/seccomp.json\n' "$version"
