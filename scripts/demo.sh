#!/usr/bin/env bash
# Shows the relay at work: a random file travels from alice to bob, both of them clients of one relay on this machine.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: demo.sh [--size SIZE] [--cores LIST] [--failure-report yes|no|partial] [--chunk-size SIZE]
               [--accounts memory|sqlite|mysql|postgres] [--relays 1|2|3|4] [--record-layer direct|rustls] [--full]
               [--keep] [--no-build]

Builds the relay and its client tool, makes a throw-away certificate, starts the relay on a free loopback port with two
users, sends a random file through it, compares the SHA-256 of both ends, and tells the speed and the relay's CPU time.
Nothing stays behind but the build.

  --size SIZE              of the file: 0, 1, 64K, 10M, 1G, ...; default 1G
  --cores LIST             the relay's CPUs: 0, or 0,1 and so on, or auto for all that this shell may use; default: the
                           first of those. With several, alice and bob may come in on different cores: then alice's
                           session moves to bob's. The last line says whether both are on one
  --failure-report WHICH   yes (each chunk is answered, the default), no or partial
  --chunk-size SIZE        send chunks of this size; default: the file as one
  --accounts WHICH         where the two users are: memory (in the config, the default), sqlite (a file that msrprelay
                           user makes), mysql or postgres (a MariaDB or PostgreSQL of its own with the table of OpenSIPS,
                           which must be installed)
  --relays N               how many are on the way. 1 (the default): alice and bob are behind the same one; 2: each is
                           behind one of its own; 3: alice behind two, one behind the other; 4: bob, too. Relays verify
                           each other by certificates of a throw-away CA
  --record-layer WHICH     who encrypts: direct (the relay itself, the default) or rustls
  --full                   build the relay with all of them, whatever --accounts says; without it, only what that needs
  --keep                   keep the directory with certificate, config, logs and both files, and say where it is
  --no-build               take the binaries that are in target/demo
  -h, --help               this text

Temporary files go to ${TMPDIR:-/tmp}: room for the file twice is needed there.
Exit status: 0 if the file arrived whole, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

size=1G cores='' failure_report=yes chunk_size='' accounts=memory relays=1 record_layer=direct full=no keep=no build=yes
options "--full --keep --no-build" "--size --cores --failure-report --chunk-size --accounts --relays --record-layer" "$@"
bytes=$(bytes_of --size "$size")
choose_cores 1
one_of --failure-report "$failure_report" yes no partial
one_of --accounts "$accounts" memory sqlite mysql postgres
number --relays "$relays" 1 4
one_of --record-layer "$record_layer" direct rustls
need openssl openssl
need coreutils sha256sum numfmt head df stat mktemp
if [ "$accounts" = mysql ]; then
    need mariadb-server-core mariadbd mariadb-install-db
    need mariadb-client-core mariadb
    need util-linux setpriv
fi
if [ "$accounts" = postgres ]; then
    # Debian has them beside the path, a directory for each version.
    postgres_programs=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -n 1) || true
    PATH=$PATH:$postgres_programs
    need postgresql postgres initdb
    need postgresql-client psql
    need util-linux setpriv
fi
need mawk awk
need libc-bin getconf

cd "$root"
# shellcheck source-path=SCRIPTDIR source=demo/accounts.sh
. scripts/demo/accounts.sh
# See Cargo.toml: optimised where a message passes, and sooner compiled than a release.
profile=demo first_build='The first build compiles all that the relay is made of: some minutes. Cargo shows what it is at.'
features=(--no-default-features)
[ "$accounts" = memory ] || features+=(--features "$accounts")
[ "$full" = no ] || features=()
find_programs "${features[@]}"
make_scratch demo
available=$(df --output=avail -B1 "$scratch" | tail -n 1)
[ "$available" -gt $((2 * bytes + (1 << 20))) ] || fail "$scratch: no room for two files of $size"

if [ "$relays" = 1 ]; then echo "== Starting the relay"; else echo "== Starting $relays relays"; fi
# Several relays have the same name and are told apart by their ports.
signed_by=() trusted=localhost.crt
[ "$relays" = 1 ] || { signed_by=(--ca "$scratch/ca"); trusted=ca/ca.crt; }
make_certificate localhost --san 127.0.0.1 "${signed_by[@]}"
alice=$(openssl rand -hex 12) bob=$(openssl rand -hex 12)

# The relay's config, up to where the users are.
config() {
    cat <<CONFIG
listen:
  - {address: "127.0.0.1:0", tls: true}
hostname: localhost
realm: example.com
tls:
  certificate: localhost.crt
  key: localhost.key
  record_layer: $record_layer
CONFIG
    if [ "$relays" != 1 ]; then
        echo "  client_ca: $trusted"
        echo "  unproven_relays: refuse"
        echo "outbound: {ca: $trusted, allow: [127.0.0.0/8]}"
    fi
    cat <<CONFIG
cores: $cores
log: {level: info, format: text}
auth:
  backend: $accounts
CONFIG
}

config > "$scratch/config.yaml"
"in_$accounts"
ports=() running=()
for ((n = 1; n <= relays; n++)); do
    start "$scratch/relay$n.log" "$bin/msrprelay" --config "$scratch/config.yaml" --ready-file "$scratch/ready$n"
    await "$pid" "the relay" "$scratch/relay$n.log" test -s "$scratch/ready$n"
    running+=("$pid")
    address=$(head -n 1 "$scratch/ready$n")
    ports+=("${address##*:}")
    echo "The relay listens on $address, cores: $cores"
done

echo "== Making $size of random bytes"
# A stream cipher's output under a random key: as random as /dev/urandom to an observer, and several times as fast.
head -c "$bytes" /dev/zero \
    | openssl enc -aes-128-ctr -K "$(openssl rand -hex 16)" -iv "$(openssl rand -hex 16)" > "$scratch/file.bin" &
track
ended "$pid"

# Who is behind which relays, the nearest first.
case $relays in
    1) behind_alice=(0) behind_bob=(0) ;;
    2) behind_alice=(0) behind_bob=(1) ;;
    3) behind_alice=(0 1) behind_bob=(2) ;;
    4) behind_alice=(0 1) behind_bob=(3 2) ;;
esac
alice_through=(--ca "$scratch/$trusted") bob_through=(--ca "$scratch/$trusted")
for n in "${behind_alice[@]}"; do alice_through+=(--relay "localhost:${ports[n]}"); done
for n in "${behind_bob[@]}"; do bob_through+=(--relay "localhost:${ports[n]}"); done

logs() {
    cat "$scratch"/relay*.log "$scratch/receive.log" >&2
}

if [ "$relays" = 1 ]; then
    echo "== Sending it from alice to bob, both through the relay"
else
    echo "== Sending it from alice to bob, through $relays relays"
fi
mkdir "$scratch/bob"
MSRP_PASSWORD=$bob start "$scratch/receive.log" "$bin/msrp" receive --user bob@example.com "${bob_through[@]}" \
    --out "$scratch/bob" --path-file "$scratch/path"
receiver=$pid
await "$receiver" "the receiver" "$scratch/receive.log" test -s "$scratch/path"

stats=()
for relay in "${running[@]}"; do stats+=("/proc/$relay/stat"); done
relay_cpu_seconds() {
    # utime and stime, behind the command's name in parentheses.
    awk -v ticks="$(getconf CLK_TCK)" '{ sub(/^.*\) /, ""); sum += $12 + $13 } END { printf "%.2f", sum / ticks }' \
        "${stats[@]}"
}

options=(--failure-report "$failure_report" ${chunk_size:+--chunk-size "$chunk_size"})
cpu_before=$(relay_cpu_seconds)
MSRP_PASSWORD=$alice "$bin/msrp" send "$scratch/file.bin" --user alice@example.com "${alice_through[@]}" \
    --to "$(cat "$scratch/path")" --progress --json "${options[@]}" > "$scratch/send.json" &
track
ended "$pid" || { logs; fail "the sender has failed"; }
ended "$receiver" || { logs; fail "the receiver has failed"; }
cpu_after=$(relay_cpu_seconds)

echo "== Comparing"
sent=$(hash_of "$scratch/file.bin") received=$(hash_of "$scratch/bob/file.bin")
received_bytes=$(stat -c %s "$scratch/bob/file.bin")
echo "sent      $sent  $bytes bytes"
echo "received  $received  $received_bytes bytes"
if [ "$bytes" != "$received_bytes" ] || [ "$sent" != "$received" ]; then
    fail "the file did not arrive as it was sent"
fi

seconds=$(sed -n 's/.*"seconds":\([0-9.e-]*\).*/\1/p' "$scratch/send.json")
who=relay
[ "$relays" = 1 ] || who="$relays relays together"
awk -v bytes="$bytes" -v seconds="$seconds" -v before="$cpu_before" -v after="$cpu_after" -v who="$who" 'BEGIN {
    cpu = after - before
    rate = seconds > 0 ? bytes / 1e6 / seconds : 0
    printf "OK: %.2f s, %.0f MB/s; the %s used %.2f s of CPU", seconds, rate, who, cpu
    # The kernel counts in hundredths of a second: of a small file nothing can be said.
    if (bytes >= 64 * 1024 * 1024) printf ", that is %.2f s per GB", cpu / (bytes / 1e9)
    printf "\n"
}'

for relay in "${running[@]}"; do
    kill "$relay"
    ended "$relay" || { cat "$scratch"/relay*.log >&2; fail "the relay did not stop in order"; }
done
if [ "$relays" != 1 ]; then
    exit 0
elif grep -q 'links_split=[1-9]' "$scratch/relay1.log"; then
    echo "alice and bob were on different cores of the relay"
else
    echo "alice and bob were on the same core of the relay"
fi
