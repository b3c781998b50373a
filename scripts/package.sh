#!/usr/bin/env bash
# Builds the Debian package, checks it, and tries it in a root of its own that is thrown away afterwards.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: package.sh [--try] [--profile NAME] [--no-build] [--root DIR]

Builds target/debian/msrprelay_*.deb (a release build, man pages and completions included), and then
  lintian       no complaint but those that deploy/debian/lintian-overrides explains
  install       by apt into a fresh minimal Debian made by mmdebstrap: files, user, modes, dependencies
  the page      each command of the README's first ten minutes, as it stands there: certificate, config, user, start (the
                unit's own command as the unit's user), status, what a client sees, reload (the unit's own command, too)
  remove        and purge: nothing is left but the user

  --try           goes on as an operator would between the page and remove: sends a file from one user to another and
                  compares it, looks at the metrics, rotates the accounting file, renews the certificate and reloads,
                  upgrades to a newer version under a session, restarts
  --profile NAME  packages what this profile of cargo builds; `dev` is quick and large, and good for trying the script
  --no-build      packages the binaries that are there
  --root DIR      uses a copy of this Debian root instead of making one; what mmdebstrap made stays in
                  target/package/root.tar for the next time
  -h, --help      this text

Needs root (for namespaces and chroot) and a Debian machine; installs lintian, mmdebstrap, dpkg-dev and cargo-deb if they
are missing. No service manager is needed: none is started. The trial has its own network, which reaches no other host, and its
own processes, which end with it. Takes a release build and about two minutes. Not a part of the gate.
USAGE
}

fail() {
    echo "package.sh: $*" >&2
    exit 1
}

try=no build=yes profile=release given_root='' inside_namespaces=no
while [ $# -gt 0 ]; do
    case $1 in
        --try) try=yes ;;
        --no-build) build=no ;;
        # For this script itself: it is in the namespaces of the trial.
        --in-namespaces) inside_namespaces=yes ;;
        --profile | --root)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help"
            case $1 in
                --profile) profile=$2 ;;
                --root) given_root=$(realpath "$2") ;;
            esac
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec < /dev/null
export PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin
work=target/package
# The packages: the one to install, and the newer one to upgrade to.
deb=$work/msrprelay.deb newer=$work/msrprelay-newer.deb

[ "$(id -u)" = 0 ] || fail "run it as root: it changes its root directory to the one that it installs into"

step() { # TITLE COMMAND...
    printf '\n== %s\n' "$1"
    shift
    "$@"
}

# Runs a command that is worth reading only if it fails.
quietly() { # WHAT COMMAND...
    local what=$1
    shift
    "$@" > "$work/step.log" 2>&1 || { cat "$work/step.log" >&2; fail "$what"; }
}

# Looks again and again until a command succeeds.
until_it_works() { # WHAT COMMAND...
    local what=$1 tries
    shift
    for ((tries = 0; tries < 300; tries++)); do
        ! "$@" > /dev/null 2>&1 || return 0
        sleep 0.1
    done
    fail "in vain waited 30 s for $what"
}

# -- what the machine must have --------------------------------------------------------------------

install_packages() {
    local missing=()
    command -v lintian > /dev/null || missing+=(lintian)
    command -v mmdebstrap > /dev/null || missing+=(mmdebstrap)
    command -v dpkg-shlibdeps > /dev/null || missing+=(dpkg-dev)
    command -v ip > /dev/null || missing+=(iproute2)
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "Installing: ${missing[*]}"
        local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}")
        "${install[@]}" > /dev/null 2>&1 || { apt-get -qq update && "${install[@]}" > /dev/null; } ||
            fail "could not install: ${missing[*]}"
    fi
    if ! command -v cargo-deb > /dev/null; then
        echo "Installing: cargo-deb"
        cargo install --locked --quiet cargo-deb@3.8.0 || fail "could not install cargo-deb"
    fi
}

# -- building --------------------------------------------------------------------------------------

build_package() {
    local directory=$profile binary
    [ "$profile" != dev ] || directory=debug
    [ "$build" = no ] || cargo build --profile "$profile" --locked --bins
    rm -rf "${work:?}/share" "${work:?}/bin"
    mkdir -p "$work/bin"
    for binary in msrprelay msrp; do
        [ -x "target/$directory/$binary" ] || fail "target/$directory/$binary is not there: leave out --no-build"
        cp "target/$directory/$binary" "$work/bin/$binary"
        case $profile/$binary in
            */msrp) strip "$work/bin/$binary" ;;
            # Of a debug build only the names: there is so much else that packing it takes minutes.
            dev/*) strip --strip-debug "$work/bin/$binary" ;;
            # Names and lines of functions stay, compressed: without them the backtrace of a panic in the log says nothing.
            *) objcopy --compress-debug-sections=zlib "$work/bin/$binary" ;;
        esac
        "$work/bin/$binary" documents "$work/share"
    done
    local revision options=(--no-build --no-strip --locked --output "$work/made.deb")
    [ "$profile" != dev ] || options+=(--fast)
    for revision in 1 2; do
        quietly "cargo deb failed" cargo deb "${options[@]}" --deb-revision "$revision"
        add_checksums "$work/made.deb"
        if [ "$revision" = 1 ]; then mv "$work/made.deb" "$deb"; else mv "$work/made.deb" "$newer"; fi
    done
    mkdir -p target/debian
    local name
    # shellcheck disable=SC2016 # the names are dpkg's
    name=target/debian/$(dpkg-deb --show --showformat '${Package}_${Version}_${Architecture}' "$deb").deb
    cp "$deb" "$name"
    echo "$name, $(($(stat -c %s "$name") / 1024)) KiB"
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

# What dpkg --verify and debsums compare with; cargo-deb writes none. A config is meant to be changed.
add_checksums() { # DEB
    rm -rf "${work:?}/unpacked"
    dpkg-deb --raw-extract "$1" "$work/unpacked"
    (
        cd "$work/unpacked"
        find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' | sort -z | xargs -0 md5sum > DEBIAN/md5sums
        chmod 644 DEBIAN/md5sums
    )
    local compress=(-Zxz)
    # A debug build is for trying this script: large, and packed in a hurry.
    [ "$profile" != dev ] || compress=(-Zgzip -z1)
    quietly "dpkg-deb failed" dpkg-deb --root-owner-group "${compress[@]}" --build "$work/unpacked" "$1"
    rm -rf "${work:?}/unpacked"
}

check() {
    # As root lintian unpacks in a directory that others may not read, which it remarks on.
    quietly "lintian complains" lintian --allow-root --fail-on warning,error,info --tag-display-limit 0 "$deb"
    cat "$work/step.log"
    echo "lintian has no complaint; explained exceptions: $(grep -c '^msrprelay:' deploy/debian/lintian-overrides)"
}

# What needs the network is done before the trial, which has none.
fetch_root() {
    if [ -n "$given_root" ] || [ -e "$work/root.tar" ]; then
        return
    fi
    local suite sources=/etc/apt/sources.list.d/debian.sources
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    quietly "mmdebstrap could not make a root" \
        mmdebstrap --format=tar --variant=minbase --include=adduser,openssl,ca-certificates,logrotate "$suite" "$work/root.tar.part" "$sources"
    mv "$work/root.tar.part" "$work/root.tar"
}

# -- a root to install into ------------------------------------------------------------------------

root=''
# The relay's name on the README's page.
host=relay.example.com
# The relay's process, and the one to wait for, if it was started from here.
relay='' started=''
receiver=''

clean_up() {
    # The processes of the namespace end with this one.
    if [ -n "$root" ]; then
        umount "$root/proc" "$root/sys" 2> /dev/null || true
        rm -rf --one-file-system "$root"
    fi
}

make_root() {
    trap clean_up EXIT
    ip link set lo up
    root=$(mktemp -d "${TMPDIR:-/tmp}/msrprelay-root.XXXXXX")
    chmod 755 "$root"
    if [ -n "$given_root" ]; then
        cp -a "$given_root/." "$root/"
    else
        tar -C "$root" -xf "$work/root.tar" --exclude './dev/*'
    fi
    mkdir -p "$root/dev" "$root/proc" "$root/sys"
    local device
    for device in 'null 3' 'zero 5' 'random 8' 'urandom 9'; do
        [ -e "$root/dev/${device% *}" ] || mknod -m 666 "$root/dev/${device% *}" c 1 "${device#* }"
    done
    mount -t proc proc "$root/proc"
    # Where the engine reads which CPUs there are.
    mount -t sysfs -o ro sysfs "$root/sys"
    [ -e "$root/etc/hosts" ] || printf '127.0.0.1 localhost\n::1 localhost\n' > "$root/etc/hosts"
    # What is installed must not start anything, and here nothing could.
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    echo "a Debian $(cat "$root/etc/debian_version") with $(inside dpkg-query -f '.' -W | wc -c) packages"
}

inside() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
}

as_relay() {
    inside setpriv --reuid=msrprelay --regid=msrprelay --clear-groups --no-new-privs --bounding-set=-all "$@"
}

# -- what an operator does -------------------------------------------------------------------------

apt_install() { # FILE
    cp "$1" "$root/root/msrprelay.deb"
    quietly "it cannot be installed" inside apt-get -q -y install /root/msrprelay.deb
    grep -E '^(The following NEW|The following packages will|Unpacking|Setting up)' "$work/step.log" || true
}

put_in() {
    apt_install "$deb"
    inside id msrprelay
    inside stat -c '%U:%G %a %n' /etc/msrprelay /etc/msrprelay/config.yaml /var/lib/msrprelay /usr/bin/msrprelay
    [ "$(inside stat -c '%U:%G %a' /etc/msrprelay/config.yaml)" = 'root:msrprelay 640' ] || fail "the config can be read by others"
    inside msrprelay --version
    inside msrp --version
    # minbase leaves out what is in /usr/share/man and doc: the package's own list counts.
    local file listed
    # At once: what ends a pipe early would make dpkg fail.
    listed=$(inside dpkg --listfiles msrprelay)
    for file in /usr/share/man/man8/msrprelay.8.gz /usr/share/man/man1/msrp-send.1.gz \
        /usr/share/bash-completion/completions/msrprelay /usr/share/zsh/vendor-completions/_msrp \
        /usr/share/fish/vendor_completions.d/msrp.fish /lib/systemd/system/msrprelay.service \
        /usr/share/man/man5/msrprelay.yaml.5.gz /usr/share/doc/msrprelay/docs/operate/logging.md /etc/logrotate.d/msrprelay \
        /usr/share/msrprelay/grafana-dashboard.json /usr/share/msrprelay/alerts.yaml; do
        grep -qE "^(/usr)?$file\$" <<< "$listed" || fail "$file is not in the package"
    done
    # shellcheck disable=SC2016 # the name is dpkg's
    [ "$(inside dpkg-query --showformat '${Conffiles}\n' --show msrprelay | grep -c config.yaml)" = 1 ] || fail "the config is no conffile"
    [ "$(dpkg-deb --ctrl-tarfile "$deb" | tar -xOf - ./md5sums | wc -l)" -gt 40 ] || fail "there are no checksums"
    local changed
    changed=$(inside dpkg --verify msrprelay | grep -vE ' (c )?/usr/share/(doc|man)/' || true)
    [ -z "$changed" ] || fail "the checksums are not those of the files: $changed"
}

# What the trial needs beside the page: a name that leads to the relay, figures, records.
prepare() {
    echo "127.0.0.1 $host" >> "$root/etc/hosts"
    cat >> "$root/etc/msrprelay/config.yaml" << 'YAML'
metrics: {address: "127.0.0.1:9285"}
accounting: {format: json, file: /var/log/msrprelay/sessions.json}
YAML
    local user
    for user in alice bob; do
        echo "$user's password" > "$root/root/$user.password"
    done
}

# The commands of the README's chapter on the first ten minutes, one a line, but for this script and the installation itself.
commands_of_the_page() {
    awk '/^## / { here = $0 == "## Ten minutes to a running relay" } /^```/ { code = $0 == "```sh"; next } here && code' README.md |
        grep -vE '^(#|scripts/package\.sh|apt-get |$)'
}

# Each as it stands there. No service manager is here: what it is asked for is done as the unit says.
play() {
    local commands command password
    password=$(cat "$root/root/alice.password")
    mapfile -t commands < <(commands_of_the_page)
    [ "${#commands[@]}" -gt 8 ] || fail "the README's chapter has only ${#commands[@]} commands: has its form changed?"
    for command in "${commands[@]}"; do
        echo "\$ $command"
        case $command in
            'systemctl enable --now msrprelay') start ;;
            'systemctl reload msrprelay') unit_reload ;;
            systemctl*) fail "the trial does not know what that is" ;;
            *)
                inside env MSRP_PASSWORD="$password" sh -c "cd /root && $command" \
                    <<< "$password" || fail "the README's command failed"
                ;;
        esac
    done
    [ -n "$relay" ] || fail "the README does not start the relay"
}

# An answer over HTTP, without a tool that a minimal Debian does not have.
ask() { # PATH
    local line
    exec 3<> /dev/tcp/127.0.0.1/9285 || return
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n' "$1" >&3
    read -r line <&3
    [ "${line#* 200}" != "$line" ] || { exec 3>&-; return 1; }
    while read -r line <&3 && [ "$line" != $'\r' ]; do :; done
    cat <&3
    exec 3>&-
}

is_ready_or_gone() {
    ask /readyz || ! kill -0 "$relay"
}

# The unit's own command, as the unit's user, with its environment.
start() {
    local command environment
    command=$(sed -n 's/^ExecStart=//p' "$root/lib/systemd/system/msrprelay.service" "$root/usr/lib/systemd/system/msrprelay.service" 2> /dev/null | head -n 1)
    environment=$(sed -n 's/^Environment=//p' deploy/msrprelay.service)
    [ -n "$command" ] || fail "the unit has no command"
    echo "as msrprelay: $command"
    # What the unit has systemd make.
    inside install -d -m 750 -o msrprelay -g msrprelay /run/msrprelay /var/log/msrprelay
    # The shell becomes the relay, so that its number is the relay's.
    # shellcheck disable=SC2086,SC2016 # the unit's words are words; the shell inside expands its own
    as_relay env $environment sh -c 'echo $$ > /tmp/relay.pid; exec "$@"' sh $command 2> "$work/relay.log" &
    local shell=$!
    until_it_works "the relay to be a process" test -s "$root/tmp/relay.pid"
    relay=$(cat "$root/tmp/relay.pid")
    started=$shell
    until_it_works "the relay to be ready" is_ready_or_gone
    ask /readyz > /dev/null || { cat "$work/relay.log" >&2; fail "the relay did not start"; }
    grep -oE '(Listening|Accounts are available|Metrics are served).*' "$work/relay.log"
    echo "process $relay of $(inside stat -c %U "/proc/$relay"), and /readyz says $(ask /readyz)"
}

has_ended() {
    ! kill -0 "$relay"
}

stop() {
    local status=0
    kill "$relay"
    if [ -n "$started" ]; then
        wait "$started" || status=$?
        [ "$status" = 0 ] || { cat "$work/relay.log" >&2; fail "the relay ended with status $status"; }
        echo "ended in order, with status 0"
    else
        # It was started by the process before it, whose end told how that went.
        until_it_works "the relay to end" has_ended
        echo "ended"
    fi
    rm -f "$root/tmp/relay.pid"
}

# As systemd runs it: as the unit's user, with the relay's number.
unit_reload() {
    local command
    # shellcheck disable=SC2016 # the unit's word, not the shell's
    command=$(sed -n 's/^ExecReload=//p' deploy/msrprelay.service | sed 's/\$MAINPID/'"$relay/")
    [ -n "$command" ] || fail "the unit has no command for a reload"
    echo "as msrprelay: $command"
    # shellcheck disable=SC2086 # the unit's words are words
    as_relay $command || fail "the relay does not reload"
}

add_bob() {
    as_relay msrprelay user add bob@example.com < "$root/root/bob.password"
    as_relay msrprelay user list
}

bob_waits() {
    rm -rf "$root/root/inbox" "$root/root/bob.path"
    inside sh -c "mkdir /root/inbox
        exec msrp receive --user bob@example.com --relay $host --ca /root/$host.crt \
        --password-file /root/bob.password --out /root/inbox --path-file /root/bob.path --timeout 60s" > "$work/receive.log" 2>&1 &
    receiver=$!
    until_it_works "bob's path" test -s "$root/root/bob.path"
}

alice_sends() {
    head -c 20M /dev/urandom > "$root/root/film.bin"
    inside msrp send /root/film.bin --user alice@example.com --relay "$host" --ca "/root/$host.crt" \
        --password-file /root/alice.password --to "$(cat "$root/root/bob.path")" > "$work/send.log" 2>&1 ||
        { cat "$work/send.log" >&2; fail "the file was not sent"; }
    wait "$receiver" || { cat "$work/receive.log" >&2; fail "the file was not received"; }
    cmp "$root/root/film.bin" "$root/root/inbox/film.bin" || fail "it is another file now"
    echo "20 MiB from alice to bob, identical: $(sha256sum < "$root/root/inbox/film.bin" | cut -c 1-16)..."
}

send_a_file() {
    bob_waits
    alice_sends
}

has_counted_the_file() {
    [ "$(ask /metrics | sed -n 's/^msrprelay_body_bytes_total{.*direction="out"} //p' | awk '{sum += $1} END {print sum}')" = 20971520 ]
}

look_at_metrics() {
    until_it_works "the file to be counted" has_counted_the_file
    ask /metrics | grep -E '^msrprelay_(build_info|auth_total\{outcome="(ok|challenged|wrong)|sessions_opened_total|body_bytes_total|tls_handshakes_total|core_up|core_restarts_total|accounts_ready)'
    echo "/healthz says $(ask /healthz)"
}

expiry() {
    ask /metrics | sed -n 's/^msrprelay_certificate_expiry_timestamp_seconds{.*} //p'
}

expires_sooner() { # THAN
    [ "$(expiry)" -lt "$1" ]
}

# Another certificate, for a month instead of a year: the metrics tell which one is in force.
reload() {
    local before
    before=$(expiry)
    quietly "gen-cert.sh failed" inside /usr/share/msrprelay/gen-cert.sh "$host" --days 30 --out /root/renewed
    cp "$root/root/renewed/$host.crt" "$root/root/$host.crt"
    # As the operator's copies: what is there keeps its owner and mode.
    inside sh -c "cat /root/renewed/$host.crt > /etc/msrprelay/tls/relay.crt
        cat /root/renewed/$host.key > /etc/msrprelay/tls/relay.key"
    unit_reload
    until_it_works "the new certificate to be in force" expires_sooner "$before"
    echo "certificate valid until $(date -u -d "@$before" +%F) before, until $(date -u -d "@$(expiry)" +%F) now"
    inside msrp probe --relay "$host" --ca "/root/$host.crt" | grep -E '^(certificate|trust)'
    ask /readyz > /dev/null || fail "it is not ready after the reload"
}

has_records() {
    [ -s "$root/var/log/msrprelay/sessions.json" ]
}

# What logrotate does once a week; the reload is what its configuration asks the service manager for.
rotate() {
    until_it_works "the records of the sessions" has_records
    quietly "logrotate failed" inside logrotate --force /etc/logrotate.d/msrprelay
    [ -s "$root/var/log/msrprelay/sessions.json.1" ] || fail "logrotate has left the accounting file where it was"
    [ ! -e "$root/var/log/msrprelay/sessions.json" ] || fail "logrotate has made a file"
    unit_reload
    send_a_file
    until_it_works "the new file" has_records
    inside ls -l /var/log/msrprelay
}

has_given_way() {
    grep -q 'Another process has taken over' "$work/relay.log" && ask /readyz
}

# A newer version over one that runs: the config, which was changed, and the users must stay. Then what the package's postinst
# asks of systemd: the old process gives its place to the new one, while bob holds a session.
upgrade() {
    local before
    before=$(inside sha256sum /etc/msrprelay/config.yaml)
    bob_waits
    apt_install "$newer"
    [ "$(inside sha256sum /etc/msrprelay/config.yaml)" = "$before" ] || fail "the upgrade changed the config"
    [ "$(inside stat -c '%U:%G %a' /etc/msrprelay/config.yaml)" = 'root:msrprelay 640' ] || fail "the upgrade opened the config"
    [ "$(as_relay msrprelay user list | grep -c '@example.com')" = 2 ] || fail "the upgrade lost the users"
    ask /readyz > /dev/null || fail "the upgrade stopped what runs"
    kill -USR2 "$relay"
    until_it_works "another process to take over" has_given_way
    local successor status=0
    successor=$(sed -n 's/.*Another process has taken over.* pid=\([0-9]*\).*/\1/p' "$work/relay.log")
    [ -n "$successor" ] || fail "the log does not say which process has taken over"
    echo "config and users stay; process $successor has taken over from $relay, where bob's session is"
    alice_sends
    wait "$started" || status=$?
    [ "$status" = 0 ] || { cat "$work/relay.log" >&2; fail "the old process ended with status $status"; }
    echo "with bob gone, process $relay has ended in order"
    relay=$successor started=''
}

restart() {
    stop
    start
}

remove() {
    quietly "it cannot be removed" inside apt-get -q -y remove msrprelay
    [ -e "$root/etc/msrprelay/config.yaml" ] || fail "the config went with the package"
    [ ! -e "$root/usr/bin/msrprelay" ] || fail "the program is still there"
    echo "removed; config and accounts stay"
    rm -rf "$root/etc/msrprelay/tls"
    quietly "it cannot be purged" inside apt-get -q -y purge msrprelay
    local left
    left=$(find "$root/etc" "$root/usr" "$root/var/lib" "$root/var/log" "$root/lib" -iname '*msrp*' ! -path '*/dpkg/*' 2> /dev/null || true)
    [ -z "$left" ] || fail "left behind: $left"
    inside id msrprelay > /dev/null || fail "the user is gone, and with it the name of what it owned"
    echo "purged; the user stays, as Debian's users do"
}

try_it() {
    step 'A root of its own' make_root
    step 'Installing' put_in
    prepare
    step 'Playing the page' play
    if [ "$try" = yes ]; then
        step 'A second user' add_bob
        step 'Sending a file' send_a_file
        step 'Looking at the metrics' look_at_metrics
        step 'Rotating the accounting file' rotate
        step 'Reloading' reload
        step 'Upgrading while it runs and has sessions' upgrade
        step 'Restarting' restart
        step 'Sending another file' send_a_file
    fi
    step 'Stopping' stop
    step 'Removing' remove
}

mkdir -p "$work"
if [ "$inside_namespaces" = yes ]; then
    try_it
    exit
fi
install_packages
step 'Building' build_package
step 'Lintian' check
fetch_root
arguments=(--in-namespaces)
[ "$try" = no ] || arguments+=(--try)
[ -z "$given_root" ] || arguments+=(--root "$given_root")
unshare --mount --net --pid --fork --kill-child "$0" "${arguments[@]}"
printf '\nThe package is good: %s\n' target/debian/msrprelay_*.deb
