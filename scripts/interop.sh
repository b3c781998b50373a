#!/usr/bin/env bash
# Messages and files between a client of this relay and a client of another relay: Kamailio, from Debian's packages.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

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

size=2M bin='' install=yes keep=no
options "--no-install --keep" "--size --bin" "$@"
bytes=$(bytes_of --size "$size")
[ -z "$bin" ] || bin=$(directory_of --bin "$bin")
# shellcheck source-path=SCRIPTDIR source=interop/kamailio.sh
. "$root/scripts/interop/kamailio.sh"
# shellcheck source-path=SCRIPTDIR source=lib/kamailio.sh
. "$root/scripts/lib/kamailio.sh"

# What Kamailio takes: 4096 bytes of head and 10240 of body in its own buffers, but altogether 11238 for the script that
# looks at each frame. Ten KiB leave the head of two relays room enough.
chunk_max=10240
far=127.0.0.9 near=127.0.0.1 # the latter is what localhost resolves to

need openssl openssl
need coreutils timeout sha256sum numfmt head mktemp
# dnsmasq tells this relay where kam.example.net is.
mapfile -t missing < <(uninstalled "${kamailio_packages[@]}" dnsmasq-base)
if [ ${#missing[@]} != 0 ]; then
    [ "$install" = yes ] || fail "not installed, and --no-install says to leave it at that: ${missing[*]}"
    install_packages "${missing[@]}" || exit 1
fi
find_kamailio || exit 1
kamailio -v | head -n 1

find_programs
make_scratch interop
cd "$scratch"
umask 077
for host in localhost kam.example.net; do
    address=$near
    [ "$host" = localhost ] || address=$far
    make_certificate "$host" --san "$address" --ca ca
done
alice=$(openssl rand -hex 12) bob=$(openssl rand -hex 12)

names_port=$(free_port "$far")
start names.log dnsmasq --keep-in-foreground --conf-file=/dev/null --user="$(id -un)" --pid-file --no-resolv --no-hosts \
    --bind-interfaces --listen-address="$far" --port="$names_port" --address="/kam.example.net/$far"
await "$pid" dnsmasq names.log listens "$far" "$names_port"

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
start relay.log "$bin/msrprelay" --config relay.yaml --ready-file ready
await "$pid" "the relay" relay.log test -s ready
near_port=$(port_in ready)
echo "It listens on $near:$near_port"

start_kamailio

echo "$alice" > alice.password
echo "$bob" > bob.password
at_near=(--user alice@example.com --password-file alice.password --relay "localhost:$near_port")
at_far=(--user bob@example.net --password-file bob.password --relay "$far:$far_port" --digest-uri)
# Who they are, by name. carol is behind both relays, Kamailio the nearer one; dave has no relay.
# shellcheck disable=SC2034
of_alice=("${at_near[@]}") of_bob=("${at_far[@]}") of_carol=("${at_far[@]}" "${at_near[@]}") of_dave=()

# The present senders and receivers.
parties=()

# A receiver. Its path is in NAME.path once it waits.
receive() { # WHO NAME
    local -n options="of_$1"
    mkdir "$2"
    start "$2.receive.log" timeout 90 "$bin/msrp" receive "${options[@]}" --ca ca/ca.crt --out "$2" \
        --path-file "$2.path" --timeout 60s
    parties+=("$pid")
    await "$pid" "$1" "$2.receive.log" test -s "$2.path"
}

# Sends a file to the receiver NAME.
send() { # WHO NAME FILE TYPE
    local more=()
    local -n options="of_$1"
    case $1 in
        # Kamailio cannot cut what its own clients send.
        bob | carol) more=(--chunk-size "$chunk_max" --window 32) ;;
    esac
    start "$2.send.log" timeout 60 "$bin/msrp" send "$3" "${options[@]}" --ca ca/ca.crt --to "$(cat "$2.path")" \
        --content-type "$4" --timeout 30s "${more[@]}"
    parties+=("$pid")
}

# Waits for all senders and receivers.
settle() {
    local party
    for party in "${parties[@]}"; do
        ended "$party" || {
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
    head -c "$bytes" /dev/urandom > "file-of-$name.bin"
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
echo "The longest body in one frame: $bodies bytes"
if [ "$bodies" -le 0 ] || [ "$bodies" -gt "$chunk_max" ]; then
    fail "outbound.max_chunk is $chunk_max"
fi
if grep -q 'interop: certificate \[1\] body \[[0-9]' kamailio.log; then
    echo "A certificate of ours, which it has verified"
else
    echo "No certificate of ours, though it asks for one"
fi
echo "OK"
