#!/usr/bin/env bash
# Runs four relays behind one SRV name with hundreds of clients, kills one of them, and looks which clients notice.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: farm.sh [--pairs N] [--behind-two PERCENT] [--seconds N] [--size MIB] [--cores LIST] [--seed N] [--keep]
               [--no-build] [--debug]

Builds the relay and starts four of them on 127.0.0.2 to 127.0.0.5, with certificates of one throw-away authority, a name
server whose record _msrps._tcp.example.com names all four, and a MariaDB with all accounts. Pairs of clients find
a relay each by that record, by chance, and send each other files and chat at the same time. In the middle one relay is
killed. Verified are: every byte; that each SEND of its clients has a verdict, be it an answer, a REPORT or the end of the
connection; that these clients come up on the other relays and send again what was cut short; that no other client notices.
Printed are: how sessions spread over relays and cores, CPU time per GB for each number of relays on the way, memory.

  --pairs N      pairs of clients, 8 to 500; default 200
  --behind-two PERCENT
                 so many of the clients log in at a second relay, too, through their first; 0 to 100, default 20
  --seconds N    how long files and chat go on, 10 to 120; default 60
  --size MIB     the largest file, 1 to 64; default 8
  --cores LIST   the CPUs of each relay: 0,1 and so on, or auto; default: the first two that this shell may use
  --seed N       of all choices: which client goes where, and what is sent; default: by chance
  --keep         keep the directory with certificates, configs and logs, and say where it is
  --no-build     take what is in target/release, or --debug's target/debug
  --debug        a debug build, to try the script
  -h, --help     this text

All senders together send 48 MiB a second. It takes two minutes or so, and is ended after five, building not counted.
Port 2855 is used if it is free on the four addresses, and else another one.
Exit status: 0 if everything held, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

pairs=200 behind_two=20 seconds=60 size=8 cores='' seed='' keep=no build=yes debug=no
options "--keep --no-build --debug" "--pairs --behind-two --seconds --size --cores --seed" "$@"
number --pairs "$pairs" 8 500
number --behind-two "$behind_two" 0 100
number --seconds "$seconds" 10 120
number --size "$size" 1 64
choose_cores 2
choose_seed
profile=release
[ "$debug" = no ] || profile=debug
need mariadb-server mariadbd
need mariadb-client mariadb
need util-linux setpriv
need coreutils timeout
need findutils find

cd "$root"
find_programs --test long
test=farm::a_farm_loses_a_relay_and_only_those_on_it_notice
find_driver long "$test"

make_scratch farm
# The database runs as the system's user `nobody` if we are root, and writes there, too.
chmod 711 "$scratch"
mkdir -m 1777 "$scratch/tmp"

# The database ends with the driver.
kill_relays() {
    local file
    for file in "$scratch"/*/relay.pid; do kill_relay_of "$file"; done
}
at_end+=(kill_relays)

# Both ends of a thousand connections, and the relays' ends.
raise_limit -n 16384

# As deploy/msrprelay.service sets them.
export MALLOC_TRIM_THRESHOLD_=262144 MALLOC_MMAP_THRESHOLD_=262144

echo "== $pairs pairs, $behind_two % of the clients behind two relays, $seconds s, files up to $size MiB, relays on cores $cores, seed $seed"
FARM_RELAY=$bin/msrprelay FARM_PLACE=$scratch FARM_CORES=$cores FARM_PAIRS=$pairs FARM_SECONDS=$seconds \
    FARM_BEHIND_TWO=$behind_two FARM_SIZE_MIB=$size FARM_SEED=$seed RUST_BACKTRACE=0 TMPDIR=$scratch/tmp \
    timeout --kill-after=5 290 \
    "$driver" --ignored --exact --nocapture "$test" &
track
status=0
ended "$pid" || status=$?
case $status in
    0) echo "OK" ;;
    124 | 137) fail "the farm was not done within five minutes" ;;
    *) fail "the farm has failed, exit status $status (see above)" ;;
esac
