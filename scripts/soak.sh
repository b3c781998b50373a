#!/usr/bin/env bash
# Lets a steady mix of clients use the relay for minutes, and looks at what that leaves behind.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: soak.sh [--minutes N] [--cores LIST] [--seed N] [--keep] [--no-build]

Builds the relay, makes a throw-away certificate, and starts the release binary on free loopback ports. A second process
then drives a mix of about a hundred connections: files from one octet to 64 MiB, chats, slow and resting ends, AUTHs and
guesses, clients and endpoints that go in mid-file, endpoints without a relay. Verified are: every octet, or that its
sender was told; that memory stays flat; that no descriptor is left; the log; a stop in order. Ends with a table.

  --minutes N    how long the mix goes on; default 10. Under 3 memory has little time to warm up: the second quarter is
                 compared with the last, instead of the second minute with the last one, and 25 % are let pass
                 instead of 5
  --cores LIST   the relay's CPUs: 0,1 and so on, or auto; default: the first two that this shell may use
  --seed N       of the mix: the same scenes in the same order, though not at the same moments; default: by chance
  --keep         keep the directory with certificate, config and log, and say where it is
  --no-build     take what is in target/release
  -h, --help     this text

The machine's cores have something to spare meanwhile: the mix sends 48 MiB a second, all together.
Exit status: 0 if everything held, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

fail() {
    echo "soak.sh: $*" >&2
    exit 1
}

wrong() {
    echo "soak.sh: $*; see --help" >&2
    exit 2
}

minutes=10 cores='' seed='' keep=no build=yes
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --keep) keep=yes; shift ;;
        --no-build) build=no; shift ;;
        --minutes | --cores | --seed)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --minutes) minutes=$2 ;;
                --cores) cores=$2 ;;
                --seed) seed=$2 ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done

# The first CPUs, at most two, that the kernel lets us use, as 0,1.
first_cpus() {
    local list part cpu found=()
    list=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
    for part in ${list//,/ }; do
        for ((cpu = ${part%-*}; cpu <= ${part#*-}; cpu++)); do
            found+=("$cpu")
            [ "${#found[@]}" -lt 2 ] || break 2
        done
    done
    local IFS=,
    echo "${found[*]}"
}

[[ $minutes =~ ^[1-9][0-9]{0,3}$ ]] || wrong "--minutes $minutes: write a number from 1 to 9999"
[ -n "$cores" ] || cores=$(first_cpus)
[[ $cores =~ ^(auto|[0-9]+(,[0-9]+)*)$ ]] || wrong "--cores $cores: write 0 or 0,1 or auto"
[ -n "$seed" ] || seed=$((RANDOM << 15 | RANDOM))
[[ $seed =~ ^[0-9]{1,18}$ ]] || wrong "--seed $seed: write a number"
[ "$cores" = auto ] || cores="[$cores]"

need() { # COMMAND HOW-TO-INSTALL
    command -v "$1" > /dev/null || fail "$1 is needed and not installed ($2)"
}

[ "$build" = no ] || need cargo "see https://rustup.rs"
[ "$build" = no ] || need cc "apt-get install build-essential"
need openssl "apt-get install openssl"
need getconf "apt-get install libc-bin"
need mktemp "apt-get install coreutils"
need find "apt-get install findutils"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

if [ "$build" = yes ]; then
    echo "== Building"
    cargo build --release --locked --bins --test long
fi
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}/release")
# Cargo puts a hash behind its name.
driver=$(find "$bin/deps" -maxdepth 1 -name 'long-*' -type f -executable -printf '%T@ %p\n' 2> /dev/null |
    sort -n | tail -n 1 | cut -d ' ' -f 2-)
if [ ! -x "$bin/msrprelay" ] || [ -z "$driver" ]; then
    fail "$bin holds no relay, or no driver: run without --no-build"
fi
# A driver that knows no such test would pass.
test=soak::a_steady_mix_loses_no_octet_and_leaves_nothing_behind
[ "$("$driver" --list --format terse --ignored --exact "$test")" = "$test: test" ] || fail "$driver has no test $test"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-soak.XXXXXX")
pid=''

clean_up() {
    local status=$? relay
    trap - EXIT INT TERM
    if [ -n "$pid" ]; then
        kill "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    fi
    # A driver that was killed leaves the relay behind.
    relay=$(cat "$scratch/relay.pid" 2> /dev/null || true)
    if [ -n "$relay" ] && [ "$(readlink "/proc/$relay/exe")" = "$bin/msrprelay" ]; then
        kill "$relay" 2> /dev/null || true
    fi
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

"$root/scripts/gen-cert.sh" localhost --out "$scratch" > "$scratch/gen-cert.log" 2>&1 \
    || { cat "$scratch/gen-cert.log" >&2; fail "no certificate"; }
password=$(openssl rand -hex 12)
users() { # NAME COUNT
    local n
    for ((n = 0; n < $2; n++)); do
        echo "      - {user: \"$1$n@example.com\", password: \"$password\"}"
    done
}
umask 077
cat > "$scratch/config.yaml" <<CONFIG
listen:
  - {address: "127.0.0.1:0", tls: true}
  - {address: "127.0.0.1:0", tls: false}
hostname: localhost
realm: example.com
tls:
  certificate: localhost.crt
  key: localhost.key
cores: $cores
auth:
  memory:
    users:
$(users soak 120)
$(users unlucky 400)
sessions:
  expires_min: 1s
outbound:
  plain: allow
  ca: localhost.crt
  allow: ["127.0.0.0/8"]
limits:
  connections_max: 4096
log: {level: info, format: text}
CONFIG

# Each end of some hundred connections is a descriptor.
ulimit -Sn 8192 2> /dev/null || ulimit -Sn "$(ulimit -Hn)"

# As deploy/msrprelay.service sets them.
export MALLOC_TRIM_THRESHOLD_=262144 MALLOC_MMAP_THRESHOLD_=262144

echo "== $minutes min on cores $cores, seed $seed"
SOAK_RELAY=$bin/msrprelay SOAK_PLACE=$scratch SOAK_PASSWORD=$password SOAK_MINUTES=$minutes SOAK_SEED=$seed RUST_BACKTRACE=0 \
    "$driver" --ignored --exact --nocapture "$test" &
pid=$!
status=0
wait "$pid" || status=$?
pid=''
[ "$status" = 0 ] || fail "the soak has failed, exit status $status (see above)"
echo "OK"
