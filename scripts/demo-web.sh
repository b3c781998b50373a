#!/usr/bin/env bash
# Shows MSRP in the browser: the relay with a WebSocket listener, and the page of web/demo, on this machine. Or tests both.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: demo-web.sh [--bin DIR | --no-build] [--keep]
       demo-web.sh --test [--size SIZE] [--short] [--only CASE...] [--pictures DIR] [--sources DIR] [--bin DIR | --no-build] [--keep]

Builds the relay and msrp, starts the relay on free loopback ports with two users, serves web/demo on another one, and prints
the address to open in two windows. The page uses ws: without TLS, as no browser trusts a throw-away certificate; nothing of it
leaves this machine. Ctrl-C ends it.

With --test it drives the page in headless Chromium, over wss:. Page to page both ways with chat meanwhile, page to msrp, msrp to
page, a receiver that takes nothing for a while, tabs that are closed in mid-file, refusal and abort, the ten lines of
docs/client/browser.md, a page and clients by others. Every file is compared by its SHA-256.

  --test           try it instead of showing it
  --size SIZE      of the files: 5M, 200M, ...; default 200M
  --short          the slow receiver takes nothing for 4 s; without it 40 s, longer than a transaction may take
  --only CASE      this case alone, named as in the output, such as 'msrp to browser'; may be given several times
  --pictures DIR   leave pictures of the page in DIR, at 1280x800 and 390x844
  --sources DIR    holds checkouts of clients by others: crocodile-msrp, crocodilertc's at GitHub; or python3-application,
                   python3-eventlib, python3-gnutls and python3-msrplib, AGProjects' there, which are built into DIR/build. A case
                   whose client is not there says that it is not tried
  --bin DIR        take msrprelay and msrp from there; default: build them, and take target/demo
  --no-build       take the binaries that are in target/demo
  --keep           keep the directory with certificate, config, logs and files, and say where it is
  -h, --help       this text

Installs Debian's chromium, chromium-driver, nodejs and a font where they are missing, for --test alone. Temporary files go to
${TMPDIR:-/tmp}: room for the file ten times is needed there.
Exit status: 0 if all went well, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

test=no size=200M short=no only=() pictures='' sources='' bin='' build=yes keep=no
options "--test --short --no-build --keep" "--size --only... --pictures --sources --bin" "$@"
bytes=$(bytes_of --size "$size")
[ "$bytes" -gt 0 ] || wrong "--size $size: at least one byte"
[ -z "$bin" ] || bin=$(directory_of --bin "$bin")
[ -z "$sources" ] || sources=$(directory_of --sources "$sources")
if [ -n "$pictures" ]; then
    mkdir -p "$pictures"
    pictures=$(directory_of --pictures "$pictures")
fi
need openssl openssl
need coreutils head mktemp df
need python3 python3

if [ "$test" = yes ]; then
    packages=()
    command -v node > /dev/null || packages+=(nodejs)
    command -v chromium > /dev/null || packages+=(chromium)
    command -v chromedriver > /dev/null || packages+=(chromium-driver)
    [ -n "$(find /usr/share/fonts -name '*.[ot]tf' -print -quit 2> /dev/null)" ] || packages+=(fonts-dejavu-core)
    [ "${#packages[@]}" = 0 ] || install_packages "${packages[@]}" || exit 1
fi

cd "$root"
# shellcheck source-path=SCRIPTDIR source=interop/libraries.sh
. scripts/interop/libraries.sh
# Of demo.sh: optimised where a message passes, and sooner compiled than a release.
profile=demo first_build='The first build compiles all that the relay is made of: some minutes. Cargo shows what it is at.'
find_programs --no-default-features
make_scratch demo-web

# -- the relay and the page ------------------------------------------------------------------------

make_certificate localhost --san 127.0.0.1 --ca "$scratch/ca"
alice=$(openssl rand -hex 6) bob=$(openssl rand -hex 6)

config() {
    cat <<CONFIG
listen:
  - {address: "127.0.0.1:0", tls: true}
  - {address: "127.0.0.1:0", tls: $1, websocket: true}
hostname: localhost
realm: example.com
tls: {certificate: localhost.crt, key: localhost.key}
auth:
  algorithms: [sha-256, md5]
  insecure_plain: $2
  memory:
    users:
      - {user: "alice@example.com", password: "$alice"}
      - {user: "bob@example.com", password: "$bob"}
CONFIG
}

start_relay() {
    echo "== Starting the relay"
    if [ "$test" = yes ]; then config true false; else config false true; fi > "$scratch/config.yaml"
    chmod 600 "$scratch/config.yaml"
    start "$scratch/relay.log" "$bin/msrprelay" --config "$scratch/config.yaml" --ready-file "$scratch/ready"
    relay=$pid
    await "$relay" "the relay" "$scratch/relay.log" test -s "$scratch/ready"
    relay_port=$(port_in "$scratch/ready")
    websocket_port=$(sed -n '2s/.*://p' "$scratch/ready")
}

# It says on which port it serves: the kernel has chosen it.
start_pages() {
    # Links, as the tests add pages of their own.
    mkdir "$scratch/site"
    ln -s "$root"/web/* "$scratch/site"
    start "$scratch/pages.log" python3 -u -m http.server 0 --bind 127.0.0.1 --directory "$scratch/site"
    pages=$pid
    await "$pages" "the server of the page" "$scratch/pages.log" grep -qs ' port ' "$scratch/pages.log"
    site=http://localhost:$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$scratch/pages.log" | head -n 1)/
}

# -- showing it ------------------------------------------------------------------------------------

show() {
    local user there
    cat <<SHOWN

Open these in two windows of a browser on this machine, and log in. Then copy the path in one window and paste it in the other.

SHOWN
    for user in alice bob; do
        there="#relay=ws://localhost:$websocket_port/&user=$user@example.com"
        printf '  %-6s %s%s\n         password  %s\n' "$user" "${site}demo/" "$there" "${!user}"
    done
    cat <<SHOWN

Instead of one of them, msrp can be the other side:

  MSRP_PASSWORD=$bob $bin/msrp receive --user bob@example.com --relay localhost:$relay_port --ca $scratch/ca/ca.crt --out /tmp

Ctrl-C ends it.
SHOWN
    # Whichever of the two ends first: then there is nothing left to show.
    wait -n "$relay" "$pages" || true
    tail -n 5 "$scratch/relay.log" "$scratch/pages.log" >&2
    fail "the relay or the server of the page has stopped"
}

# -- testing it ------------------------------------------------------------------------------------

python=''

find_msrplib() {
    local missing
    [ -n "$sources" ] && [ -e "$sources/python3-msrplib" ] || return 0
    libraries=(python3-application python3-eventlib python3-gnutls python3-msrplib)
    work=$sources/build
    mkdir -p "$work"
    if [ ! -e "$work/msrplib.built" ]; then
        mapfile -t missing < <(uninstalled python3-venv libgnutls30)
        [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}" || exit 1
        build_libraries venv-msrplib twisted pyopenssl service_identity greenlet
        touch "$work/msrplib.built"
    fi
    python=$work/venv-msrplib/bin/python
    "$python" -c 'import msrplib' || fail "python3-msrplib cannot be loaded; to build it anew, remove $work/msrplib.built"
}

# Where the run is interrupted, chromedriver ends without its browser.
end_browser() {
    local file
    for file in /proc/[0-9]*/cmdline; do
        grep -qsF -- "--user-data-dir=$scratch/work/profile" "$file" || continue
        file=${file%/cmdline}
        kill -KILL "${file#/proc/}" 2> /dev/null || true
    done
}

# Chromium trusts this one key, whatever its signature: so the real certificate checks stay on for all others.
pin_of() { # CERTIFICATE
    openssl x509 -in "$1" -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64
}

try_it() {
    local available n driver driver_pid
    available=$(df --output=avail -B1 "$scratch" | tail -n 1)
    [ "$available" -gt $((10 * bytes + (500 << 20))) ] || fail "$scratch: no room for ten files of $size"
    find_msrplib
    start_relay
    start_pages
    at_end+=(end_browser)
    start "$scratch/driver.log" chromedriver --port=0
    driver_pid=$pid
    await "$driver_pid" chromedriver "$scratch/driver.log" grep -qs 'successfully on port' "$scratch/driver.log"
    driver=$(sed -n 's/.*successfully on port \([0-9]*\).*/\1/p' "$scratch/driver.log" | tail -n 1)
    mkdir "$scratch/work"
    for n in 1 2; do
        head -c "$bytes" /dev/urandom > "$scratch/work/file-$n.bin"
    done
    echo "== The page in Chromium, files of $size"
    env DRIVER="http://127.0.0.1:$driver" DRIVER_PID="$driver_pid" CHROMIUM="$(command -v chromium)" \
        SITE="$scratch/site" SITE_URL="$site" DOCUMENT="$root/docs/client/browser.md" SOURCES="$sources" \
        RELAY="wss://localhost:$websocket_port/" PIN="$(pin_of "$scratch/localhost.crt")" \
        RELAY_TLS="localhost:$relay_port" CA="$scratch/ca/ca.crt" MSRP="$bin/msrp" WORK="$scratch/work" \
        PICTURES="${pictures:-$scratch/pictures}" ALICE="$alice" BOB="$bob" SIZE="$bytes" SHORT="$short" \
        PYTHON="$python" PEER="$root/tests/interop/msrplib_peer.py" \
        timeout $((600 + bytes / 100000)) node web/test/browser/run.js "${only[@]}" &
    track
    ended "$pid" || {
        tail -n 20 "$scratch/relay.log" "$scratch/driver.log" >&2
        fail "the page has failed"
    }
    [ -z "$pictures" ] || echo "Pictures: $pictures"
    echo "OK"
}

if [ "$test" = yes ]; then
    try_it
else
    start_relay
    start_pages
    show
fi
