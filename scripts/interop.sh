#!/usr/bin/env bash
# Messages and files between a client of this relay and a client of somebody else's: Kamailio, from Debian's packages.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: interop.sh [--size SIZE] [--bin DIR] [--no-install] [--keep]

Starts this relay and Kamailio, each on a loopback address of its own, with certificates of one throw-away CA. alice is a
client of the one, bob of the other; both are `msrp`. A chat message and a file travel each way, and are compared.

  --size SIZE    of the files: 1, 64K, 2M, ...; default 2M
  --bin DIR      take msrprelay and msrp from there; default: build them, and take target/release
  --no-install   Kamailio must be there; otherwise it is installed by apt-get, which takes root
  --keep         keep the directory with certificates, configs, logs and files, and say where it is
  -h, --help     this text

Nothing stays behind but the build and the packages, and no service is started by installing them. What Kamailio does
differently is told in docs/interop.md. It takes half a minute without building, five at most; tried with Kamailio 5.6.3.

Exit status: 0 if all arrived as it was sent, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

fail() {
    echo "interop.sh: $*" >&2
    exit 1
}

wrong() {
    echo "interop.sh: $*; see --help" >&2
    exit 2
}

size=2M bin='' install=yes keep=no
export PATH=$PATH:/usr/sbin:/sbin
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --no-install) install=no; shift ;;
        --keep) keep=yes; shift ;;
        --size | --bin)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --size) size=$2 ;;
                --bin) bin=$2 ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done
[[ $size =~ ^[0-9]{1,9}[KMG]?$ ]] || wrong "--size $size: write 1, 64K, 2M"
[ -z "$bin" ] || bin=$(cd "$bin" && pwd) || wrong "--bin: no such directory"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

# What Kamailio takes: 4096 octets of head and 10240 of body in its own buffers, but altogether 11238 for the script that
# looks at each frame. Ten KiB leave the head of two relays room enough.
chunk_max=10240
far=127.0.0.9 near=127.0.0.1 # the latter is what localhost resolves to

scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-interop.XXXXXX")
relay='' kamailio='' receiver='' sender='' policy=''

stop() { # PID: ends a process of ours, and what it has forked
    local children tries=0
    [ -n "$1" ] || return 0
    children=$(ps -o pid= --ppid "$1" 2> /dev/null || true)
    kill "$1" 2> /dev/null || true
    while kill -0 "$1" 2> /dev/null && [ "$tries" -lt 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    # shellcheck disable=SC2086 # several process ids
    if kill -0 "$1" 2> /dev/null; then kill -KILL "$1" $children 2> /dev/null || true; fi
    wait "$1" 2> /dev/null || true
}

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    for pid in "$sender" "$receiver" "$relay" "$kamailio"; do
        stop "$pid"
    done
    [ -z "$policy" ] || rm -f "$policy"
    if [ "$keep" = yes ]; then
        echo "Kept: $scratch"
    else
        rm -rf "$scratch"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

install_kamailio() {
    [ "$install" = yes ] || fail "Kamailio is not installed, and --no-install says to leave it at that"
    [ "$(id -u)" = 0 ] || fail "Kamailio is not installed, and that takes root: apt-get install kamailio kamailio-tls-modules"
    echo "== Installing kamailio and kamailio-tls-modules"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        # So that the package does not start a SIP server of its own.
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    {
        timeout 300 apt-get update -qq
        DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends \
            kamailio kamailio-tls-modules
    } > "$scratch/apt.log" 2>&1 || { tail -n 20 "$scratch/apt.log" >&2; fail "apt-get has failed"; }
    [ -z "$policy" ] || rm -f "$policy"
    policy=''
}

for tool in openssl timeout sha256sum numfmt head mktemp ps; do
    command -v "$tool" > /dev/null || fail "$tool is needed and not installed"
done
for package in kamailio kamailio-tls-modules; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || { install_kamailio; break; }
done
modules=$(dpkg-query -L kamailio | grep '/msrp\.so$') || fail "the package kamailio has no msrp.so"
modules=$(dirname "$modules")
kamailio -v | head -n 1

if [ -z "$bin" ]; then
    echo "== Building"
    cargo build --release --locked --bins
    bin=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
fi
for binary in msrprelay msrp; do
    [ -x "$bin/$binary" ] || fail "$bin/$binary is not there"
done

octets=$(numfmt --from=iec "$size")
cd "$scratch"
umask 077
for host in localhost kam.example.net; do
    address=$near
    [ "$host" = localhost ] || address=$far
    "$root/scripts/gen-cert.sh" "$host" --san "$address" --ca ca --out . >> gen-cert.log 2>&1 \
        || { cat gen-cert.log >&2; fail "no certificate"; }
done
alice=$(openssl rand -hex 12) bob=$(openssl rand -hex 12)

# Waits until a command succeeds, for 20 s at most, as long as a process of ours runs.
await() { # PID WHAT LOG COMMAND...
    local pid=$1 what=$2 log=$3 tries=0
    shift 3
    until "$@"; do
        kill -0 "$pid" 2> /dev/null || { tail -n 30 "$log" >&2; fail "$what has stopped"; }
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || { tail -n 30 "$log" >&2; fail "$what is not ready after 20 s"; }
        sleep 0.1
    done
}

listens() { # ADDRESS PORT
    (exec 3<> "/dev/tcp/$1/$2") 2> /dev/null
}

echo "== Starting this relay"
cat > relay.yaml <<CONFIG
listen:
  - {address: "$near:0", tls: true}
hostname: localhost
realm: example.com
tls: {certificate: localhost.crt, key: localhost.key}
log: {level: debug}
outbound: {ca: ca/ca.crt, allow: ["127.0.0.0/8"], max_chunk: {$far: $chunk_max}}
auth: {memory: {users: [{user: "alice@example.com", password: "$alice"}]}}
CONFIG
"$bin/msrprelay" --config relay.yaml --ready-file ready > relay.log 2>&1 &
relay=$!
await "$relay" "the relay" relay.log test -s ready
near_port=$(head -n 1 ready)
near_port=${near_port##*:}
echo "It listens on $near:$near_port"

kamailio_config() { # PORT
    cat > tls.cfg <<CONFIG
[server:default]
method = TLSv1.2+
# Asks for a certificate and goes on without one, as clients have none.
verify_certificate = yes
require_certificate = no
certificate = $scratch/kam.example.net.crt
private_key = $scratch/kam.example.net.key
ca_list = $scratch/ca/ca.crt

[client:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
certificate = $scratch/kam.example.net.crt
private_key = $scratch/kam.example.net.key
ca_list = $scratch/ca/ca.crt
CONFIG
    cat > kamailio.cfg <<CONFIG
#!KAMAILIO
debug=2
log_stderror=yes
children=1
auto_aliases=no
dns=no
rev_dns=no
# With it the hosts file does not count.
use_dns_cache=off
enable_tls=yes
tcp_children=2
tcp_accept_no_cl=yes
tcp_accept_aliases=yes
# A frame must fit, and what a slow receiver has not taken is kept: beyond that the connection is dropped.
tcp_rd_buf_size=16384
tcp_conn_wq_max=16777216
tcp_wq_max=67108864
listen=tls:$far:$1
mpath="$modules/"
loadmodule "pv.so"
loadmodule "tls.so"
loadmodule "sl.so"
loadmodule "kex.so"
loadmodule "auth.so"
loadmodule "xlog.so"
loadmodule "msrp.so"
modparam("tls", "config", "$scratch/tls.cfg")
modparam("auth", "nonce_count", 1)
modparam("auth", "qop", "auth")
modparam("msrp", "cmap_size", 8)
modparam("msrp", "use_path_addr", "$far:$1")

request_route {
    exit;
}

event_route[msrp:frame-in] {
    msrp_reply_flags("1");
    if (msrp_is_reply()) {
        msrp_relay();
        exit;
    }
    # What goes to the other relay takes the connection that came from it: a session belongs to one.
    if (\$msrp(prevhop) =~ "://localhost:$near_port/") {
        force_tcp_alias($near_port);
        xlog("L_NOTICE", "interop: certificate [\$sel(tls.peer.verified)] body [\$(msrp(body){s.len})]\n");
    }
    if (\$msrp(method) == "AUTH") {
        if (\$msrp(nexthops) > 0) {
            msrp_relay();
            exit;
        }
        \$var(password) = "$bob";
        if (!pv_www_authenticate("example.net", "\$var(password)", "0", "\$msrp(method)")) {
            if (auth_get_www_authenticate("example.net", "1", "\$var(challenge)")) {
                msrp_reply("401", "Unauthorized", "\$var(challenge)");
            } else {
                msrp_reply("500", "Server Error");
            }
            exit;
        }
        msrp_cmap_save();
        exit;
    }
    if (\$msrp(method) != "SEND" && \$msrp(method) != "REPORT") {
        msrp_reply("501", "Not Implemented");
        exit;
    }
    if (\$msrp(nexthops) == 1) {
        if (!msrp_cmap_lookup()) {
            msrp_reply("481", "No Such Session");
            exit;
        }
        msrp_relay_flags("1");
    }
    # REPORTs are not answered: msrp_reply sees to that.
    msrp_reply("200", "OK");
    msrp_relay();
}
CONFIG
}

echo "== Starting Kamailio"
for attempt in 1 2 3; do
    far_port=$((20000 + RANDOM % 10000))
    ! listens "$far" "$far_port" || continue
    kamailio_config "$far_port"
    kamailio -DD -E -f kamailio.cfg -Y "$scratch" -P "$scratch/kamailio.pid" -m 64 -M 8 > kamailio.log 2>&1 &
    kamailio=$!
    sleep 0.5
    # Somebody may have taken the port meanwhile.
    if ! kill -0 "$kamailio" 2> /dev/null && grep -q 'already in use' kamailio.log && [ "$attempt" -lt 3 ]; then
        kamailio=''
        continue
    fi
    await "$kamailio" Kamailio kamailio.log listens "$far" "$far_port"
    break
done
[ -n "$kamailio" ] || fail "no free port on $far"
echo "It listens on $far:$far_port"

# shellcheck disable=SC2034 # used by name
of_alice=(--user alice@example.com --relay "localhost:$near_port" --ca ca/ca.crt)
# shellcheck disable=SC2034
of_bob=(--user bob@example.net --relay "$far:$far_port" --ca ca/ca.crt --digest-uri)

hash_of() {
    local sum
    sum=$(sha256sum < "$1")
    echo "${sum%% *}"
}

# One message from one of them to the other; both ends log in for it.
transfer() { # WHAT SENDER RECEIVER FILE TYPE
    local what=$1 from=$2 to=$3 file=$4 type=$5 more=() box="inbox-$2-$1"
    local -n from_options="of_$from" to_options="of_$to" from_password=$from to_password=$to
    # Kamailio has no way to cut what its own clients send.
    [ "$from" = alice ] || more=(--chunk-size "$chunk_max" --window 32)
    mkdir "$box"
    rm -f path
    MSRP_PASSWORD=$to_password timeout 90 "$bin/msrp" receive "${to_options[@]}" --out "$box" --path-file path \
        --timeout 60s > "receive-$from-$what.log" 2>&1 &
    receiver=$!
    await "$receiver" "$to" "receive-$from-$what.log" test -s path
    MSRP_PASSWORD=$from_password timeout 60 "$bin/msrp" send "$file" "${from_options[@]}" --to "$(cat path)" \
        --content-type "$type" --timeout 30s ${more[@]+"${more[@]}"} > "send-$from-$what.log" 2>&1 &
    sender=$!
    if ! wait "$sender"; then
        tail -n 5 "send-$from-$what.log" "receive-$from-$what.log" kamailio.log relay.log >&2
        fail "the $what from $from to $to was not sent"
    fi
    sender=''
    wait "$receiver" || { cat "receive-$from-$what.log" >&2; fail "the $what from $from did not reach $to"; }
    receiver=''
    local sent received
    sent=$(hash_of "$file") received=$(hash_of "$box/$file")
    [ "$sent" = "$received" ] || fail "the $what from $from is not what $to has: $sent, $received"
    echo "$from to $to: $(tail -n 1 "send-$from-$what.log")"
    echo "    SHA-256 $received"
}

echo "== Chat"
printf 'Hello from alice, grüße too\n' > chat-of-alice.txt
printf 'Hello from bob, 你好\n' > chat-of-bob.txt
transfer chat alice bob chat-of-alice.txt text/plain
transfer chat bob alice chat-of-bob.txt text/plain

echo "== Files"
head -c "$octets" /dev/urandom > file-of-alice.bin
head -c "$octets" /dev/urandom > file-of-bob.bin
transfer file alice bob file-of-alice.bin application/octet-stream
transfer file bob alice file-of-bob.bin application/octet-stream

echo "== What Kamailio saw of this relay"
bodies=$(sed -n 's/.*interop: certificate .* body \[\([0-9]*\)\].*/\1/p' kamailio.log | sort -n | tail -n 1)
# It counts the CRLF before the end-line.
bodies=$((${bodies:-2} - 2))
echo "The longest body in one frame: $bodies octets"
if [ "$bodies" -le 0 ] || [ "$bodies" -gt "$chunk_max" ]; then
    fail "outbound.max_chunk is $chunk_max"
fi
if grep -q 'interop: certificate \[1\] body \[[0-9]' kamailio.log; then
    echo "A certificate of ours, which it has verified"
else
    echo "No certificate of ours, though it asks for one"
fi
echo "OK"
