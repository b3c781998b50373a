#!/usr/bin/env bash
# Shows the relay at work: a random file travels from alice to bob, both of them clients of one relay on this machine.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: demo.sh [--size SIZE] [--cores LIST] [--failure-report yes|no|partial] [--chunk-size SIZE]
               [--accounts memory|sqlite|mysql] [--relays 1|2|3|4] [--record-layer direct|rustls] [--keep] [--no-build]

Builds the relay and its client tool, makes a throw-away certificate, starts the relay on a free loopback port with two
users, sends a random file through it, compares the SHA-256 of both ends, and tells the speed and the relay's CPU time.
Nothing stays behind but the build.

  --size SIZE              of the file: 0, 1, 64K, 10M, 1G, ...; default 1G
  --cores LIST             the relay's CPUs: 0, or 0,1 and so on, or auto for all that this shell may use; default: the
                           first of those. With several, alice and bob may meet on different cores: that costs more CPU
  --failure-report WHICH   yes (each chunk is answered, the default), no or partial
  --chunk-size SIZE        send chunks of this size; default: the file as one
  --accounts WHICH         where the two users are: memory (in the config, the default), sqlite (a file that msrprelay
                           user makes), mysql (a MariaDB of its own with the table of OpenSIPS, which must be installed)
  --relays N               how many are on the way. 1 (the default): alice and bob are behind the same one; 2: each is
                           behind one of its own; 3: alice behind two, one behind the other; 4: bob, too. Relays verify
                           each other by certificates of a throw-away CA
  --record-layer WHICH     who encrypts: direct (the relay itself, the default) or rustls
  --keep                   keep the directory with certificate, config, logs and both files, and say where it is
  --no-build               take the binaries that are in target/release
  -h, --help               this text

Temporary files go to ${TMPDIR:-/tmp}: room for the file twice is needed there.
Exit status: 0 if the file arrived whole, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

fail() {
    echo "demo.sh: $*" >&2
    exit 1
}

wrong() {
    echo "demo.sh: $*; see --help" >&2
    exit 2
}

size=1G cores='' failure_report=yes chunk_size='' accounts=memory relays=1 record_layer=direct keep=no build=yes
export PATH=$PATH:/usr/sbin
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --keep) keep=yes; shift ;;
        --no-build) build=no; shift ;;
        --size | --cores | --failure-report | --chunk-size | --accounts | --relays | --record-layer)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --size) size=$2 ;;
                --cores) cores=$2 ;;
                --failure-report) failure_report=$2 ;;
                --chunk-size) chunk_size=$2 ;;
                --accounts) accounts=$2 ;;
                --relays) relays=$2 ;;
                --record-layer) record_layer=$2 ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done

[[ $size =~ ^[0-9]{1,15}[KMG]?$ ]] || wrong "--size $size: write 0, 1, 64K, 10M, 1G"
# The first of the CPUs that the kernel lets us use.
[ -n "$cores" ] || cores=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*\([0-9]*\).*/\1/p' /proc/self/status)
[[ $cores =~ ^(auto|[0-9]+(,[0-9]+)*)$ ]] || wrong "--cores $cores: write 0 or 0,1 or auto"
[[ $failure_report =~ ^(yes|no|partial)$ ]] || wrong "--failure-report $failure_report: yes, no or partial"
[[ $accounts =~ ^(memory|sqlite|mysql)$ ]] || wrong "--accounts $accounts: memory, sqlite or mysql"
[[ $relays =~ ^[1-4]$ ]] || wrong "--relays $relays: 1, 2, 3 or 4"
[[ $record_layer =~ ^(direct|rustls)$ ]] || wrong "--record-layer $record_layer: direct or rustls"
[ "$cores" = auto ] || cores="[$cores]"

need() { # COMMAND HOW-TO-INSTALL
    command -v "$1" > /dev/null || fail "$1 is needed and not installed ($2)"
}

[ "$build" = no ] || need cargo "see https://rustup.rs"
[ "$build" = no ] || need cc "apt-get install build-essential"
need openssl "apt-get install openssl"
for tool in sha256sum numfmt head df stat mktemp; do
    need "$tool" "apt-get install coreutils"
done
if [ "$accounts" = mysql ]; then
    for tool in mariadbd mariadb-install-db; do
        need "$tool" "apt-get install mariadb-server-core"
    done
    need mariadb "apt-get install mariadb-client-core"
    need setpriv "apt-get install util-linux"
fi
need awk "apt-get install mawk"
need getconf "apt-get install libc-bin"

octets=$(numfmt --from=iec "$size")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

if [ "$build" = yes ]; then
    echo "== Building"
    cargo build --release --locked --bins
fi
bin=${CARGO_TARGET_DIR:-target}/release
for binary in msrprelay msrp; do
    [ -x "$bin/$binary" ] || fail "$bin/$binary is not there: run without --no-build"
done

scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-demo.XXXXXX")
running=() receiver='' sender='' maker='' database='' database_server=''

clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $maker $sender $receiver "${running[@]}" $database_server; do
        kill "$pid" 2> /dev/null || true
    done
    for pid in $maker $sender $receiver "${running[@]}" $database_server; do
        wait "$pid" 2> /dev/null || true
    done
    [ -z "$database" ] || rm -rf "$database"
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

available=$(df --output=avail -B1 "$scratch" | tail -n 1)
[ "$available" -gt $((2 * octets + (1 << 20))) ] || fail "$scratch: no room for two files of $size"

# Waits for a file that a process of ours will write.
await() { # FILE PID WHAT LOG
    local tries=0
    until [ -s "$1" ]; do
        kill -0 "$2" 2> /dev/null || { cat "$4" >&2; fail "$3 has stopped"; }
        tries=$((tries + 1))
        [ "$tries" -lt 400 ] || { cat "$4" >&2; fail "$3 is not ready after 20 s"; }
        sleep 0.05
    done
}

if [ "$relays" = 1 ]; then echo "== Starting the relay"; else echo "== Starting $relays relays"; fi
# Several relays have the same name and are told apart by their ports.
signed_by=() trusted=localhost.crt
[ "$relays" = 1 ] || { signed_by=(--ca "$scratch/ca"); trusted=ca/ca.crt; }
"$root/scripts/gen-cert.sh" localhost --san 127.0.0.1 --out "$scratch" "${signed_by[@]}" \
    > "$scratch/gen-cert.log" 2>&1 || { cat "$scratch/gen-cert.log" >&2; fail "no certificate"; }
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

in_memory() {
    cat >> "$scratch/config.yaml" <<CONFIG
  memory:
    users:
      - {user: "alice@example.com", password: "$alice"}
      - {user: "bob@example.com", password: "$bob"}
CONFIG
}

in_sqlite() {
    echo '  sqlite: {path: accounts.db}' >> "$scratch/config.yaml"
    local manage=("$bin/msrprelay" user --config "$scratch/config.yaml")
    "${manage[@]}" add alice <<< "$alice" && "${manage[@]}" add bob <<< "$bob" || fail "no users"
    echo "Users in accounts.db: $("${manage[@]}" list | paste -sd ' ')"
}

# A database server will not run as root, and need not see the rest of the scratch directory.
in_mysql() {
    local as=(setpriv --pdeathsig TERM) own server_password tries=0
    database=$(mktemp -d "${TMPDIR:-/tmp}/msrp-demo-db.XXXXXX")
    if [ "$(id -u)" = 0 ]; then
        chown nobody:nogroup "$database"
        as+=(--reuid nobody --regid nogroup --clear-groups)
    fi
    own=(--no-defaults --datadir="$database/data" --innodb-log-file-size=4M)
    "${as[@]}" -- mariadb-install-db "${own[@]}" --auth-root-authentication-method=normal --skip-test-db \
        > "$scratch/database.log" 2>&1 || { cat "$scratch/database.log" >&2; fail "no database"; }
    "${as[@]}" -- mariadbd "${own[@]}" --skip-networking --socket="$database/socket" --pid-file="$database/pid" \
        >> "$scratch/database.log" 2>&1 &
    database_server=$!
    server_password=$(openssl rand -hex 12)
    local client=(mariadb --no-defaults --user=root --socket="$database/socket")
    until "${client[@]}" -e 'SELECT 1' > /dev/null 2>&1; do
        kill -0 "$database_server" 2> /dev/null || { cat "$scratch/database.log" >&2; fail "MariaDB has stopped"; }
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "MariaDB is not ready after 30 s"
        sleep 0.05
    done
    "${client[@]}" <<SQL || fail "no users"
CREATE DATABASE opensips; USE opensips;
CREATE TABLE subscriber (username CHAR(64), domain CHAR(64), ha1 CHAR(64), UNIQUE (username, domain));
INSERT INTO subscriber VALUES
    ('alice', 'example.com', MD5('alice:example.com:$alice')), ('bob', 'example.com', MD5('bob:example.com:$bob'));
CREATE USER msrprelay IDENTIFIED BY '$server_password';
GRANT SELECT (username, domain, ha1) ON opensips.subscriber TO msrprelay;
SQL
    cat >> "$scratch/config.yaml" <<CONFIG
  mysql: {url: "mysql://msrprelay:$server_password@localhost/opensips?socket=$database/socket"}
CONFIG
    echo "Users in a MariaDB at $database/socket"
}

config > "$scratch/config.yaml"
"in_$accounts"
ports=()
for ((n = 1; n <= relays; n++)); do
    "$bin/msrprelay" --config "$scratch/config.yaml" --ready-file "$scratch/ready$n" > "$scratch/relay$n.log" 2>&1 &
    running+=($!)
    await "$scratch/ready$n" $! "the relay" "$scratch/relay$n.log"
    address=$(head -n 1 "$scratch/ready$n")
    ports+=("${address##*:}")
    echo "The relay listens on $address, cores: $cores"
done

echo "== Making $size of random bytes"
# A stream cipher's output under a random key: as random as /dev/urandom to anybody, and several times as fast.
head -c "$octets" /dev/zero \
    | openssl enc -aes-128-ctr -K "$(openssl rand -hex 16)" -iv "$(openssl rand -hex 16)" > "$scratch/file.bin" &
maker=$!
wait "$maker"
maker=''

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
MSRP_PASSWORD=$bob "$bin/msrp" receive --user bob@example.com "${bob_through[@]}" --out "$scratch/bob" \
    --path-file "$scratch/path" > "$scratch/receive.log" 2>&1 &
receiver=$!
await "$scratch/path" "$receiver" "the receiver" "$scratch/receive.log"

stats=()
for pid in "${running[@]}"; do stats+=("/proc/$pid/stat"); done
relay_cpu_seconds() {
    # utime and stime, behind the command's name in parentheses.
    awk -v ticks="$(getconf CLK_TCK)" '{ sub(/^.*\) /, ""); sum += $12 + $13 } END { printf "%.2f", sum / ticks }' \
        "${stats[@]}"
}

options=(--failure-report "$failure_report" ${chunk_size:+--chunk-size "$chunk_size"})
cpu_before=$(relay_cpu_seconds)
# In the background, so that this script can be interrupted while it waits.
MSRP_PASSWORD=$alice "$bin/msrp" send "$scratch/file.bin" --user alice@example.com "${alice_through[@]}" \
    --to "$(cat "$scratch/path")" --progress --json "${options[@]}" > "$scratch/send.json" &
sender=$!
wait "$sender" || { logs; fail "the sender has failed"; }
sender=''
wait "$receiver" || { logs; fail "the receiver has failed"; }
receiver=''
cpu_after=$(relay_cpu_seconds)

echo "== Comparing"
sent=$(sha256sum < "$scratch/file.bin") received=$(sha256sum < "$scratch/bob/file.bin")
received_octets=$(stat -c %s "$scratch/bob/file.bin")
echo "sent      ${sent%% *}  $octets bytes"
echo "received  ${received%% *}  $received_octets bytes"
if [ "$octets" != "$received_octets" ] || [ "$sent" != "$received" ]; then
    fail "the file did not arrive as it was sent"
fi

seconds=$(sed -n 's/.*"seconds":\([0-9.e-]*\).*/\1/p' "$scratch/send.json")
who=relay
[ "$relays" = 1 ] || who="$relays relays together"
awk -v octets="$octets" -v seconds="$seconds" -v before="$cpu_before" -v after="$cpu_after" -v who="$who" 'BEGIN {
    cpu = after - before
    rate = seconds > 0 ? octets / 1e6 / seconds : 0
    printf "OK: %.2f s, %.0f MB/s; the %s used %.2f s of CPU", seconds, rate, who, cpu
    # The kernel counts in hundredths of a second: of a small file nothing can be said.
    if (octets >= 64 * 1024 * 1024) printf ", that is %.2f s per GB", cpu / (octets / 1e9)
    printf "\n"
}'

stopping=("${running[@]}")
for pid in "${stopping[@]}"; do
    kill "$pid"
    wait "$pid" || { cat "$scratch"/relay*.log >&2; fail "the relay did not stop in order"; }
done
running=()
if [ "$relays" != 1 ]; then
    exit 0
elif grep -q 'links_split=[1-9]' "$scratch/relay1.log"; then
    echo "alice and bob were on different cores of the relay"
else
    echo "alice and bob were on the same core of the relay"
fi
