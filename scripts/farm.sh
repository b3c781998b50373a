#!/usr/bin/env bash
# Runs four relays behind one SRV name with hundreds of clients, kills one of them, and looks who notices.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: farm.sh [--pairs N] [--behind-two PERCENT] [--seconds N] [--size MIB] [--cores LIST] [--seed N] [--keep]
               [--no-build] [--debug]

Builds the relay and starts four of them on 127.0.0.2 to 127.0.0.5, with certificates of one throw-away authority, a name
server whose record _msrps._tcp.example.com names all four, and a MariaDB with everybody's account. Pairs of clients find
a relay each by that record, by chance, and send each other files and chat at the same time. In the middle one relay is
killed. Verified are: every octet; that each SEND of its clients has a verdict, be it an answer, a REPORT or the end of the
connection; that these clients come up on the other relays and send again what was cut short; that nobody else notices.
Printed are: how sessions spread over relays and cores, CPU time per GB for each number of relays on the way, memory.

  --pairs N      pairs of clients, 8 to 500; default 200
  --behind-two PERCENT
                 so many of the clients log in at a second relay, too, through their first; 0 to 100, default 20
  --seconds N    how long files and chat go on, 10 to 120; default 60
  --size MIB     the largest file, 1 to 64; default 8
  --cores LIST   the CPUs of each relay: 0,1 and so on, or auto; default: the first two that this shell may use
  --seed N       of everybody's choices: who goes where, and what is sent; default: by chance
  --keep         keep the directory with certificates, configs and logs, and say where it is
  --no-build     take what is in target/release, or --debug's target/debug
  --debug        a debug build, to try the script
  -h, --help     this text

All senders together send 48 MiB a second. It takes two minutes or so, and is ended after five, building not counted.
Port 2855 is used if it is free on the four addresses, and else another one.
Exit status: 0 if everything held, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

fail() {
    echo "farm.sh: $*" >&2
    exit 1
}

wrong() {
    echo "farm.sh: $*; see --help" >&2
    exit 2
}

pairs=200 behind_two=20 seconds=60 size=8 cores='' seed='' keep=no build=yes profile=release
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --keep) keep=yes; shift ;;
        --no-build) build=no; shift ;;
        --debug) profile=debug; shift ;;
        --pairs | --behind-two | --seconds | --size | --cores | --seed)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --pairs) pairs=$2 ;;
                --behind-two) behind_two=$2 ;;
                --seconds) seconds=$2 ;;
                --size) size=$2 ;;
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

within() { # OPTION VALUE LEAST MOST
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
        wrong "$1 $2: write a number from $3 to $4"
    fi
}

within --pairs "$pairs" 8 500
within --behind-two "$behind_two" 0 100
within --seconds "$seconds" 10 120
within --size "$size" 1 64
[ -n "$cores" ] || cores=$(first_cpus)
[[ $cores =~ ^(auto|[0-9]+(,[0-9]+)*)$ ]] || wrong "--cores $cores: write 0 or 0,1 or auto"
[ -n "$seed" ] || seed=$((RANDOM << 15 | RANDOM))
[[ $seed =~ ^[0-9]{1,18}$ ]] || wrong "--seed $seed: write a number"
[ "$cores" = auto ] || cores="[$cores]"

need() { # COMMAND HOW-TO-INSTALL
    PATH=$PATH:/usr/sbin command -v "$1" > /dev/null || fail "$1 is needed and not installed ($2)"
}

[ "$build" = no ] || need cargo "see https://rustup.rs"
[ "$build" = no ] || need cc "apt-get install build-essential"
need mariadbd "apt-get install mariadb-server"
need mariadb "apt-get install mariadb-client"
need setpriv "apt-get install util-linux"
need timeout "apt-get install coreutils"
need find "apt-get install findutils"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

if [ "$build" = yes ]; then
    echo "== Building"
    options=(--locked --bins --test long)
    [ "$profile" = debug ] || options+=(--release)
    cargo build "${options[@]}"
fi
bin=$(realpath -m "${CARGO_TARGET_DIR:-target}/$profile")
# Cargo puts a hash behind its name.
driver=$(find "$bin/deps" -maxdepth 1 -name 'long-*' -type f -executable -printf '%T@ %p\n' 2> /dev/null |
    sort -n | tail -n 1 | cut -d ' ' -f 2-)
if [ ! -x "$bin/msrprelay" ] || [ -z "$driver" ]; then
    fail "$bin holds no relay, or no driver: run without --no-build"
fi
# A driver that knows no such test would pass.
test=farm::a_farm_loses_a_relay_and_only_those_on_it_notice
[ "$("$driver" --list --format terse --ignored --exact "$test")" = "$test: test" ] || fail "$driver has no test $test"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-farm.XXXXXX")
# The database runs as nobody if we are root, and writes there, too.
chmod 711 "$scratch"
mkdir -m 1777 "$scratch/tmp"
pid=''

clean_up() {
    local status=$? file relay
    trap - EXIT INT TERM
    if [ -n "$pid" ]; then
        kill "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    fi
    # A driver that was killed leaves the relays behind; the database ends with it.
    for file in "$scratch"/*/relay.pid; do
        relay=$(cat "$file" 2> /dev/null || true)
        if [ -n "$relay" ] && [ "$(readlink "/proc/$relay/exe")" = "$bin/msrprelay" ]; then
            kill -KILL "$relay" 2> /dev/null || true
        fi
    done
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

# Both ends of some thousand connections, and the relays' ends.
ulimit -Sn 16384 2> /dev/null || ulimit -Sn "$(ulimit -Hn)"

# As deploy/msrprelay.service sets them.
export MALLOC_TRIM_THRESHOLD_=262144 MALLOC_MMAP_THRESHOLD_=262144

echo "== $pairs pairs, $behind_two % of the clients behind two relays, $seconds s, files up to $size MiB, relays on cores $cores, seed $seed"
FARM_RELAY=$bin/msrprelay FARM_PLACE=$scratch FARM_CORES=$cores FARM_PAIRS=$pairs FARM_SECONDS=$seconds \
    FARM_BEHIND_TWO=$behind_two FARM_SIZE_MIB=$size FARM_SEED=$seed RUST_BACKTRACE=0 TMPDIR=$scratch/tmp \
    timeout --kill-after=5 290 \
    "$driver" --ignored --exact --nocapture "$test" &
pid=$!
status=0
wait "$pid" || status=$?
pid=''
case $status in
    0) echo "OK" ;;
    124 | 137) fail "the farm was not done within five minutes" ;;
    *) fail "the farm has failed, exit status $status (see above)" ;;
esac
