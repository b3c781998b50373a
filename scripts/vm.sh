#!/usr/bin/env bash
# Plays the operator's pages in virtual machines with a real systemd: Debian 12 and 13.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: vm.sh [--release bookworm|trixie|both] [--deb FILE] [--before FILE | --before-revision REVISION]
             [--patience FACTOR]

Makes a Debian image by mmdebstrap, boots it under qemu's software emulation with Debian's kernel and without a network, installs
the Debian package, and plays what an operator does with it, by the commands of the documents that are in the package:
  the page      README's first ten minutes: certificate, config, user, check-config as root, enable, status, probe, reload
  running.md    a file, the admin commands, reload of a wrong config, rotation of the accounting file, stop, drain
  upgrades      by signal and by dpkg -i, each under a session; a new process that dies while the old one drains
  systemd       the watchdog (SIGSTOP), kill -9, the journal's priorities, a port below 1024, a boot with the service enabled
  the kernel    io_uring switched off; what kernel TLS needs
  the end       remove, an upgrade from the version before under a session, purge

  --release NAME   Debian 12, Debian 13, or both (default)
  --deb FILE       the package; by default the one in target/debian, or what scripts/package.sh builds if there is none
  --before FILE    a package of the version before, to upgrade from
  --before-revision REVISION
                   builds that package from this commit, unless target/vm has it; by default the last commit with another
                   version
  --patience FACTOR
                   how many times as long everything may take, 1 to 20: for a machine that has other things to do. By default
                   what MSRP_VM_PATIENCE says, or 1
  -h, --help       this text

Each line that begins with ok or FAILED is a check; below one that failed are the last lines of the journal, with |. target/vm/RELEASE.log has all that the machine said, RELEASE.console its console.
Needs root and a Debian machine; installs qemu-system-x86, mmdebstrap and e2fsprogs if they are missing, and needs the network
for an image's first time. A release takes about ten minutes of a quiet machine, and is ended after fifteen; packages that must be
built first take their time as well. Two calls with a release each may run beside each other. Not a part of the gate.
USAGE
}

release=both deb='' before='' before_revision='' patience=${MSRP_VM_PATIENCE:-1}
options "" "--release --deb --before --before-revision --patience" "$@"
number --patience "$patience" 1 20
one_of --release "$release" bookworm trixie both
[ -z "$deb" ] || deb=$(realpath -e "$deb") || wrong "--deb: no such file"
[ -z "$before" ] || before=$(realpath -e "$before") || wrong "--before: no such file"
cd "$root"
exec < /dev/null
# shellcheck source-path=SCRIPTDIR source=vm/packages.sh
. scripts/vm/packages.sh
# shellcheck source-path=SCRIPTDIR source=vm/machine.sh
. scripts/vm/machine.sh
work=target/vm
# A release may take so long on a quiet machine: boot, play, boot again, and the end.
seconds_per_release=900

[ "$(id -u)" = 0 ] || fail "run it as root: it makes images with files of root"
[ "$(dpkg --print-architecture)" = amd64 ] || fail "it knows the emulator and the kernel of amd64 alone"

install_tools() {
    local missing
    mapfile -t missing < <(uninstalled qemu-system-x86 mmdebstrap e2fsprogs dpkg-dev)
    [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}" || exit 1
}

mkdir -p "$work"
install_tools
step 'The packages' find_packages
releases=("$release")
[ "$release" != both ] || releases=(bookworm trixie)
for one in "${releases[@]}"; do
    step "An image of $one" make_image "$one"
    step "The operator's pages on $one" play_in_machine "$one"
done
printf '\nOK: %s on %s\n' "${deb##*/}" "${releases[*]}"
