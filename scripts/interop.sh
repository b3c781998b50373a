#!/usr/bin/env bash
# Messages and files between a client of this relay and a client of another relay: Kamailio, from Debian's packages.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: interop.sh [--size SIZE] [--bin DIR] [--no-install] [--keep]

Starts this relay and Kamailio, each on a loopback address of its own, with certificates of one throw-away CA that each
proves its name with to the other. alice is a client of the one, bob of the other; both are `msrp`. A chat message and a
file travel each way, files go from and to a client behind both relays, then two each way at the same time; all are
compared.

  --size SIZE    of the files: 1, 64K, 2M, ...; default 2M
  --bin DIR      take msrprelay and msrp from there; default: build them, and take target/release
  --no-install   Debian's kamailio, kamailio-tls-modules and dnsmasq-base must be there, and what is missing is named;
                 without this they are installed by apt-get, which takes root
  --keep         keep the directory with certificates, configs, logs and files, and say where it is
  -h, --help     this text

Nothing stays behind but the build and the packages, and no service is started by installing them. What Kamailio does
differently is told in docs/client/interop.md. It takes half a minute without building, five at most; tried with Kamailio 5.6.3.

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
relay='' kamailio='' names='' policy='' parties=()

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
    for pid in ${parties[@]+"${parties[@]}"} "$relay" "$kamailio" "$names"; do
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

install_packages() {
    [ "$install" = yes ] || fail "not installed, and --no-install says to leave it at that: ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "this takes root: apt-get install ${missing[*]}"
    echo "== Installing ${missing[*]}"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        # So that the package does not start a SIP server of its own.
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    {
        timeout 300 apt-get update -qq
        DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq -y --no-install-recommends "${missing[@]}"
    } > "$scratch/apt.log" 2>&1 || { tail -n 20 "$scratch/apt.log" >&2; fail "apt-get has failed"; }
    [ -z "$policy" ] || rm -f "$policy"
    policy=''
}

for tool in openssl timeout sha256sum numfmt head mktemp ps; do
    command -v "$tool" > /dev/null || fail "$tool is needed and not installed"
done
# The latter is what tells this relay where kam.example.net is.
missing=()
for package in kamailio kamailio-tls-modules dnsmasq-base; do
    dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} = 0 ] || install_packages
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

# A port that no process has at this moment.
free_port() { # ADDRESS
    local port tries=0
    while [ "$tries" -lt 20 ]; do
        port=$((20000 + RANDOM % 10000))
        listens "$1" "$port" || { echo "$port"; return; }
        tries=$((tries + 1))
    done
    fail "no free port on $1"
}

names_port=$(free_port "$far")
dnsmasq --keep-in-foreground --conf-file=/dev/null --user="$(id -un)" --pid-file --no-resolv --no-hosts \
    --bind-interfaces --listen-address="$far" --port="$names_port" --address="/kam.example.net/$far" > names.log 2>&1 &
names=$!
await "$names" dnsmasq names.log listens "$far" "$names_port"

echo "== Starting this relay"
cat > relay.yaml <<CONFIG
listen:
  - {address: "$near:0", tls: true}
hostname: localhost
realm: example.com
tls: {certificate: localhost.crt, key: localhost.key, client_ca: ca/ca.crt}
dns: {servers: ["$far:$names_port"]}
log: {level: debug}
outbound: {ca: ca/ca.crt, allow: ["127.0.0.0/8"], max_chunk: {kam.example.net: $chunk_max}}
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
modparam("msrp", "use_path_addr", "kam.example.net:$1")

request_route {
    exit;
}

event_route[msrp:frame-in] {
    msrp_reply_flags("1");
    if (msrp_is_reply()) {
        msrp_relay();
        exit;
    }
    if (\$msrp(prevhop) =~ "://localhost:$near_port/") {
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
    far_port=$(free_port "$far")
    kamailio_config "$far_port"
    kamailio -DD -E -f kamailio.cfg -Y "$scratch" -P "$scratch/kamailio.pid" -m 64 -M 8 > kamailio.log 2>&1 &
    kamailio=$!
    sleep 0.5
    # Another process may have taken the port meanwhile.
    if [ "$attempt" -lt 3 ] && ! kill -0 "$kamailio" 2> /dev/null && grep -q 'already in use' kamailio.log; then
        continue
    fi
    await "$kamailio" Kamailio kamailio.log listens "$far" "$far_port"
    break
done
echo "It listens on $far:$far_port"

echo "$alice" > alice.password
echo "$bob" > bob.password
at_near=(--user alice@example.com --password-file alice.password --relay "localhost:$near_port")
at_far=(--user bob@example.net --password-file bob.password --relay "$far:$far_port" --digest-uri)
# Who they are, by name. carol is behind both relays, Kamailio the nearer one; dave has no relay.
# shellcheck disable=SC2034
of_alice=("${at_near[@]}") of_bob=("${at_far[@]}") of_carol=("${at_far[@]}" "${at_near[@]}") of_dave=()

hash_of() {
    local sum
    sum=$(sha256sum < "$1")
    echo "${sum%% *}"
}

# A receiver, whose path is in NAME.path as soon as it waits.
receive() { # WHO NAME
    local -n options="of_$1"
    mkdir "$2"
    timeout 90 "$bin/msrp" receive ${options[@]+"${options[@]}"} --ca ca/ca.crt --out "$2" --path-file "$2.path" \
        --timeout 60s > "$2.receive.log" 2>&1 &
    parties+=($!)
    await $! "$1" "$2.receive.log" test -s "$2.path"
}

# Sends a file to who waits as NAME.
send() { # WHO NAME FILE TYPE
    local more=()
    local -n options="of_$1"
    case $1 in
        # Kamailio cannot cut what its own clients send.
        bob | carol) more=(--chunk-size "$chunk_max" --window 32) ;;
    esac
    timeout 60 "$bin/msrp" send "$3" ${options[@]+"${options[@]}"} --ca ca/ca.crt --to "$(cat "$2.path")" \
        --content-type "$4" --timeout 30s ${more[@]+"${more[@]}"} > "$2.send.log" 2>&1 &
    parties+=($!)
}

# Waits for all senders and receivers.
settle() {
    local pid
    for pid in "${parties[@]}"; do
        wait "$pid" || {
            tail -n 5 -- *.send.log *.receive.log kamailio.log relay.log >&2
            fail "a message was not sent, or not received"
        }
    done
    parties=()
}

compare() { # FROM TO NAME FILE
    local sent received
    sent=$(hash_of "$4") received=$(hash_of "$3/$4")
    [ "$sent" = "$received" ] || fail "$4 from $1 is not what $2 has: $sent, $received"
    echo "$1 to $2: $(tail -n 1 "$3.send.log")"
    echo "    SHA-256 $received"
}

transfer() { # FROM TO FILE TYPE
    receive "$2" "$1-$2-$3"
    send "$1" "$1-$2-$3" "$3" "$4"
    settle
    compare "$1" "$2" "$1-$2-$3" "$3"
}

echo "== Chat"
printf 'Hello from alice, grüße too\n' > chat-of-alice.txt
printf 'Hello from bob, 你好\n' > chat-of-bob.txt
transfer alice bob chat-of-alice.txt text/plain
transfer bob alice chat-of-bob.txt text/plain

echo "== Files"
for name in alice bob; do
    head -c "$octets" /dev/urandom > "file-of-$name.bin"
done
transfer alice bob file-of-alice.bin application/octet-stream
transfer bob alice file-of-bob.bin application/octet-stream

echo "== Files from and to carol, who is behind both relays"
transfer dave carol file-of-alice.bin application/octet-stream
transfer carol alice file-of-bob.bin application/octet-stream

echo "== Four files at the same time"
for n in 1 2; do
    receive bob "bob-$n"
    receive alice "alice-$n"
done
for n in 1 2; do
    send alice "bob-$n" file-of-alice.bin application/octet-stream
    send bob "alice-$n" file-of-bob.bin application/octet-stream
done
settle
for n in 1 2; do
    compare alice bob "bob-$n" file-of-alice.bin
    compare bob alice "alice-$n" file-of-bob.bin
done

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
