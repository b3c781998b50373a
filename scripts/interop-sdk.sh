#!/usr/bin/env bash
# Files and chat through this relay between clients made with SIP SIMPLE's Python SDK, and between them and msrp.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: interop-sdk.sh --sources DIR [--work DIR] [--bin DIR] [--size SIZE] [--keep]

Builds SIP SIMPLE's SDK from sources that you have checked out, starts this relay on a loopback port, and lets clients of
the SDK call each other by SIP, without a SIP server: a file with the FILE_OFFSET exchange, one that is broken off and
taken up again, chat both ways, each with the caller behind the relay and not. Then a file goes to `msrp`, and one comes
from it. All are compared.

  --sources DIR  holds a checkout of each: python3-application (3.0.11), python3-eventlib, python3-gnutls, python3-otr,
                 python3-xcaplib, python3-msrplib, python3-sipsimple, pjproject (tag 2.17), and ZRTPCPP (the commit that
                 get_dependencies.sh of python3-sipsimple names). The first seven are AGProjects' at GitHub. They are not
                 changed
  --work DIR     builds there, and finds there what an earlier run has built; default: DIR/build of --sources. Building
                 takes some minutes, and 2 GB
  --bin DIR      take msrprelay and msrp from there; default: build them, and take target/release
  --size SIZE    of the files: 2M, 100M, ...; at least 2M, so that there is time to break off; default 20M
  --keep         keep the directory with certificates, config, logs, traces and files, and say where it is
  -h, --help     this text

Other packages come from PyPI by pip, into a virtual environment in --work; Debian's packages that are missing are named.
What was seen with which versions is told in docs/client/interop.md.

Exit status: 0 if all arrived as it was sent, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

# shellcheck source-path=SCRIPTDIR source=interop/libraries.sh
. "$root/scripts/interop/libraries.sh"
sources='' work='' bin='' size=20M keep=no
options "--keep" "--sources --work --bin --size" "$@"
[ -n "$sources" ] || wrong "--sources is missing"
sources=$(directory_of --sources "$sources")
bytes=$(bytes_of --size "$size")
[ "$bytes" -ge $((2 << 20)) ] || wrong "--size $size: at least 2M"
[ -z "$bin" ] || bin=$(directory_of --bin "$bin")
work=${work:-$sources/build}
mkdir -p "$work"
work=$(cd "$work" && pwd)

need openssl openssl
need coreutils timeout sha256sum numfmt head mktemp
need make make
need patch patch
libraries=(python3-application python3-eventlib python3-gnutls python3-otr python3-xcaplib python3-msrplib)
for name in "${libraries[@]}" python3-sipsimple pjproject ZRTPCPP; do
    [ -d "$sources/$name" ] || fail "$sources/$name is not there"
done

mapfile -t missing < <(uninstalled g++ python3-dev python3-venv pkg-config uuid-dev libasound2-dev libssl-dev \
    libgnutls28-dev libsqlite3-dev libv4l-dev libvpx-dev libopus-dev libbcg729-dev libopencore-amrnb-dev \
    libopencore-amrwb-dev libavcodec-dev libavdevice-dev libavformat-dev libavutil-dev libswscale-dev)
[ ${#missing[@]} = 0 ] || fail "not installed: apt-get install ${missing[*]}"

# Its own script unpacks pjsip, and patches it; the archive is what it would download otherwise.
build_sdk() {
    local sdk=$work/python3-sipsimple
    echo "== Building the SDK"
    rm -rf "$sdk"
    cp -a "$sources/python3-sipsimple" "$sdk"
    tar czf "$sdk/deps/2.17.tar.gz" --exclude .git -C "$sources" pjproject
    cp -a "$sources/ZRTPCPP" "$sdk/deps/"
    cd "$sdk"
    run "$work/patch.log" bash get_dependencies.sh --version 2.17
    run "$work/sdk.log" timeout 3000 "$work/venv/bin/python" setup.py build_ext --inplace
    cd "$root"
    touch "$work/sdk.built"
}

[ -e "$work/libraries.built" ] || {
    build_libraries venv 'Cython<3' twisted pyopenssl service_identity gevent greenlet lxml dnspython python-dateutil gmpy2
    touch "$work/libraries.built"
}
[ -e "$work/sdk.built" ] || build_sdk
python=$work/venv/bin/python
export PYTHONPATH=$work/python3-sipsimple
"$python" - << 'PYTHON' || fail "the SDK cannot be loaded; to build it anew, remove libraries.built or sdk.built in $work"
import importlib.metadata
import sipsimple
import sipsimple.application
import sipsimple.core
names = ['python3-' + name for name in ('msrplib', 'application', 'eventlib', 'gnutls')] + ['Twisted']
print('python3-sipsimple', sipsimple.__version__, 'pjsip', sipsimple.core.PJ_VERSION.decode(),
      *(word for name in names for word in (name, importlib.metadata.version(name))))
PYTHON

find_programs
make_scratch interop-sdk
# The SDK is slow to start.
await_seconds=60
# The clients of this moment.
parties=()

cd "$scratch"
umask 077
make_certificate localhost --san 127.0.0.1 --ca ca
openssl rand -hex 12 > alice.password
openssl rand -hex 12 > bob.password

echo "== Starting the relay"
cat > relay.yaml << CONFIG
listen: [{address: "127.0.0.1:0", tls: true}]
hostname: localhost
realm: example.com
tls: {certificate: localhost.crt, key: localhost.key}
log: {level: debug}
outbound: {ca: ca/ca.crt, allow: ["127.0.0.0/8"]}
auth:
  memory:
    users:
      - {user: "alice@example.com", password: "$(cat alice.password)"}
      - {user: "bob@example.com", password: "$(cat bob.password)"}
CONFIG
start relay.log "$bin/msrprelay" --config relay.yaml --ready-file ready
await "$pid" "the relay" relay.log test -s ready
port=$(port_in ready)
echo "It listens on 127.0.0.1:$port"

# A client of the SDK in the background, with a home of its own. Settings are kept from one run to the next.
sdk() { # WHO LOG ROLE OPTION...
    local who=$1 log=$2
    shift 2
    mkdir -p "$who"
    HOME=$scratch/$who start "$log" timeout 200 "$python" "$root/tests/interop/sdk_file.py" "$@" \
        --user "$who@example.com" --password-file "$who.password" --relay "localhost:$port" --ca ca/ca.crt \
        --directory "$who" --timeout 150
    parties+=("$pid")
}

# Waits for the last two parties; the callee may be meant to fail.
settle() { # NAME [CALLEE-MAY-FAIL]
    ended "${parties[1]}" || explain "$1"
    ended "${parties[0]}" || [ $# = 2 ] || explain "$1"
    parties=()
}

explain() { # NAME
    tail -n 8 -- "$1".*.log >&2
    tail -n 20 relay.log >&2
    fail "$1: one of the two has failed"
}

call() { # NAME CALLER-ROLE CALLEE-ROLE OPTION...
    local name=$1 caller=$2 callee=$3
    shift 3
    rm -f bob.address
    sdk bob "$name.bob.log" "$callee" --address-file bob.address --text 'Hello from bob, 你好'
    await "${parties[0]}" bob "$name.bob.log" test -s bob.address
    sdk alice "$name.alice.log" "$caller" --address-file bob.address --text 'Hello from alice, grüße' "$@"
}

compare() { # NAME SENT RECEIVED
    local sent received
    sent=$(hash_of "$2") received=$(hash_of "$3")
    [ "$sent" = "$received" ] || fail "$1: $received has arrived, and $sent was sent"
    echo "$1: $(stat -c %s "$3") bytes, SHA-256 $received"
}

frames() { # WHO PATTERN: how many lines of the traces of this client have it
    grep -c -- "$2" "$1/msrp.trace" || true
}

head -c "$bytes" /dev/urandom > file.bin
for how in '' --direct; do
    name=file${how:+-direct}
    [ -z "$how" ] && echo "== Both behind the relay" || echo "== The caller has no relay, the callee has"
    rm -rf alice bob
    # shellcheck disable=SC2086 # an option or none
    call "$name" send receive --file file.bin $how
    settle "$name"
    compare "$name" file.bin bob/received/file.bin
    [ "$(frames alice '^MSRP [^ ]* FILE_OFFSET')" = 1 ] || fail "there was no FILE_OFFSET"
    [ "$(frames alice '^Offset: 0')" = 1 ] || fail "FILE_OFFSET had no answer"
    # shellcheck disable=SC2086
    call "chat$how" chat answer $how
    settle "chat$how"
    grep -h '^heard' "chat$how".*.log
done

echo "== Broken off and taken up again"
rm -rf alice bob
call broken send receive --file file.bin --stop-after $((bytes / 8))
settle broken may-fail
part=$(stat -c %s bob/received/file.bin 2> /dev/null || echo 0)
call resumed send receive --file file.bin
settle resumed
compare resumed file.bin bob/received/file.bin
offset=$(sed -n 's/^Offset: \([0-9]*\).*/\1/p' alice/msrp.trace | tail -n 1)
echo "The second FILE_OFFSET was answered with $offset; $part bytes had been there"
[ "$offset" = "$part" ] || fail "these are not the same"

echo "== To msrp"
rm -rf alice bob
MSRP_PASSWORD=$(cat bob.password) start to-msrp.bob.log timeout 200 "$bin/msrp" receive --user bob@example.com \
    --relay "localhost:$port" --ca ca/ca.crt --out . --path-file bob.path --timeout 60s
parties+=("$pid")
await "${parties[0]}" msrp to-msrp.bob.log test -s bob.path
sdk alice to-msrp.alice.log send --no-sip --address-file bob.path --file file.bin
settle to-msrp
compare to-msrp file.bin message.bin

echo "== From msrp"
if "$bin/msrp" send --help | grep -q -- --first-send; then
    rm -rf bob bob.path
    sdk bob from-msrp.bob.log receive --no-sip --address-file bob.path --file file.bin
    await "${parties[0]}" bob from-msrp.bob.log test -s bob.path
    # Short chunks: see docs/client/interop.md.
    MSRP_PASSWORD=$(cat alice.password) start from-msrp.alice.log timeout 200 "$bin/msrp" send file.bin \
        --user alice@example.com --relay "localhost:$port" --ca ca/ca.crt --to "$(cat bob.path)" --chunk-size 64K
    parties+=("$pid")
    settle from-msrp
    compare from-msrp file.bin bob/received/file.bin
else
    echo "Left out: this msrp cannot begin with a SEND without a body, which the SDK demands"
fi
echo "OK"
