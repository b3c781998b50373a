#!/usr/bin/env bash
# Measures the relay against its targets and, if asked to, against byte proxies and other relays, all in one interleaved run.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: bench.sh [--quick] [--with-proxies] [--against HOST:PORT ...] [options]

Starts the relay on one CPU with a throw-away certificate, a free port and a user of its own, puts load on it from another
CPU with `msrp bench`, and prints a table of targets and results: medians over several rounds, with minimum and maximum.
Every round measures every case once, so that what disturbs the machine disturbs all alike: the ratios are what counts,
and the targets are ratios. How fast this machine is at AES-128-GCM is told above the table.
TLS 1.3 with AES-128-GCM, X25519 and ECDSA P-256 on all sides; figures are CPU time, user and system, of the relay.

  --quick                  2 minutes instead of 15, with a fifth of the volume: a glance, no more
  --minutes N              begin no round that would end after so many minutes; default 15
  --rounds N               at most so many rounds; default 7
  --only LIST              only these cases: rows of the table by their ids, such as giant-one,auth. A ratio to another row
                           needs that one, too: chunks-10k-no,giant-one. page-faults is told of all that move files
  --with-proxies           install haproxy, nginx, Kamailio and strace with apt-get if they are not there (as root). haproxy
                           and nginx are measured as byte proxies, TLS to TLS, Kamailio as an MSRP relay, on the cases that
                           are compared with them and that they can do. Without Kamailio the run goes on
  --record-layer WHICH     rustls or direct: the relay's tls.record_layer; default: what the relay does by itself
  --relay FILE             another build of the relay, instead of target/release/msrprelay
  --baseline FILE          a build of the relay to compare with: measured on the same cases, in a table of its own
  --baseline-record-layer WHICH   its tls.record_layer, if not the same: with the same FILE, the two record layers compared
  --relay-cpu N            default 0
  --load-cpu N             default 1. Where there are only two CPUs, the cases with two cores share them with the load: their
                           wall-clock time means nothing then, their CPU time still does
  --nice                   everything that is measured has the highest ordinary priority: other work on this machine gets a
                           hundredth of its CPUs meanwhile (needs root). For comparisons with servers of several processes
  --realtime               everything that is measured runs at real-time priority: other work waits meanwhile (needs root).
                           The best for latencies; but processes do not preempt each other then, which saves Kamailio a
                           quarter of its CPU time for one message at a time
  --out DIR                results.csv, table.txt and chart.svg; default target/bench
  --no-build               take the binaries that are in target/release, and do not count allocations
  -h, --help               this text

Another relay, which must be running already:
  --against HOST:PORT
  --against-user USER@DOMAIN     with --against-password-file FILE
  --against-ca FILE              its certificate; default: any is accepted
  --against-auth-uri URI         the To-Path of AUTH, if it is not the relay's own address
  --against-digest-uri           puts a `uri` into the credentials, as Kamailio wants it
  --against-pid PID[,PID]        its processes on this machine: without them there is no CPU time

Exit status: 0 if everything could be measured, whatever the figures; 1 if not; 2 for wrong usage; 130 if interrupted.
USAGE
}

minutes='' rounds='' quick=no only='' with_proxies=no record_layer='' relay='' baseline='' baseline_record_layer='' relay_cpu=0 load_cpu=1
nice=no realtime=no out='' build=yes
against='' against_user='' against_password_file='' against_ca='' against_auth_uri='' against_digest_uri=no against_pid=''
options "--quick --with-proxies --nice --realtime --no-build --against-digest-uri" \
    "--minutes --rounds --only --record-layer --relay --baseline --baseline-record-layer --relay-cpu --load-cpu --out
    --against --against-user --against-password-file --against-ca --against-auth-uri --against-pid" "$@"
if [ "$quick" = yes ]; then
    minutes=${minutes:-2} rounds=${rounds:-3}
fi
minutes=${minutes:-15} rounds=${rounds:-7}
number --minutes "$minutes" 1 9999
number --rounds "$rounds" 1 999
number --relay-cpu "$relay_cpu" 0 9999
number --load-cpu "$load_cpu" 0 9999
[ -z "$record_layer" ] || one_of --record-layer "$record_layer" rustls direct
[ -z "$baseline_record_layer" ] || one_of --baseline-record-layer "$baseline_record_layer" rustls direct
baseline_record_layer=${baseline_record_layer:-$record_layer}
if [ -n "$against" ] && { [ -z "$against_user" ] || [ -z "$against_password_file" ]; }; then
    wrong "--against needs --against-user and --against-password-file"
fi

need openssl openssl
need mawk awk
need util-linux taskset chrt
need libc-bin getconf
launch=()
priority=ordinary
[ "$nice" = no ] || { launch=(nice -n -20) priority='nice -20'; }
[ "$realtime" = no ] || { launch=(chrt -r 10) priority=realtime; }
# nice goes on at the old priority, with a complaint.
[ -z "$("${launch[@]}" true 2>&1 || echo refused)" ] || fail "the priority $priority is not allowed here: be root"
for cpu in "$relay_cpu" "$load_cpu"; do
    taskset -c "$cpu" true 2> /dev/null || fail "CPU $cpu may not be used here; see --relay-cpu and --load-cpu"
done

rows=$(sed -n 's/^    row("\([a-z0-9-]*\)".*/\1/p' "$root/scripts/bench/report.awk")
for row in ${only//,/ }; do
    grep -qxF -- "$row" <<< "$rows" || wrong "--only $row: no such row; there are ${rows//$'\n'/, }"
done
[ -z "$relay" ] || relay=$(realpath "$relay")
[ -z "$baseline" ] || baseline=$(realpath "$baseline")
cd "$root"
# shellcheck source-path=SCRIPTDIR source=bench/subjects.sh
. scripts/bench/subjects.sh
# shellcheck source-path=SCRIPTDIR source=bench/cases.sh
. scripts/bench/cases.sh
# shellcheck source-path=SCRIPTDIR source=bench/calls.sh
. scripts/bench/calls.sh
# shellcheck source-path=SCRIPTDIR source=bench/kamailio.sh
. scripts/bench/kamailio.sh
# shellcheck source-path=SCRIPTDIR source=lib/kamailio.sh
. scripts/lib/kamailio.sh
find_programs
out=${out:-${bin%/release}/bench}
relay=${relay:-$bin/msrprelay}
for binary in "$relay" ${baseline:+"$baseline"}; do
    [ -x "$binary" ] || fail "$binary is not there"
done
mkdir -p "$out"
# Ten thousand idle sessions need as many descriptors on both sides.
ulimit -n "$(ulimit -Hn)"

make_scratch bench

giant=$((2 * 1000 * 1000 * 1000)) messages=20000 connections=4000 beside=3s idle=10000 rest=10
[ "$quick" = no ] || giant=$((400 * 1000 * 1000)) messages=5000 connections=1000 beside=1s rest=4
limit=$(ulimit -n)
if [ "$limit" != unlimited ] && [ "$limit" -lt 10200 ]; then
    idle=$((limit - 200))
    echo "bench.sh: only $limit open files are allowed here: the idle case takes $idle sessions" >&2
fi

password=$(openssl rand -hex 12)
(umask 077; echo "$password" > "$scratch/password")
make_certificate localhost --san 127.0.0.1
csv=$out/results.csv
echo "round,row,subject,value,bench_cpu_seconds,relay_cpu_seconds,seconds,megabytes_per_second,relay_page_faults,page_faults_per_gb" > "$csv"
broken=no round=0 relays=relay
count_allocations
choose_counters
[ "$with_proxies" = no ] || { install_proxies; start_proxies; add_kamailio; }
start_relay relay "$relay" "$relay_cpu" "$record_layer"
[ -z "$baseline" ] || { relays="$relays baseline"; start_relay baseline "$baseline" "$relay_cpu" "$baseline_record_layer"; }
[ -z "$against" ] || relays="$relays against"

# Without the time for building and installing.
deadline=$((SECONDS + minutes * 60)) longest=0
for ((round = 1; round <= rounds; round++)); do
    round_began=$SECONDS
    if [ "$round" -gt 1 ] && [ $((round_began + longest)) -gt "$deadline" ]; then
        echo "== No time for another round"
        break
    fi
    echo "== Round $round"
    one_round
    [ $((SECONDS - round_began)) -le "$longest" ] || longest=$((SECONDS - round_began))
done

{
    echo "$(nproc) CPUs: $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1); Linux $(uname -r); $("$relay" --version)"
    machines_aes
    [ "$with_proxies" = no ] || echo "$(haproxy -v | head -n 1); $(nginx -v 2>&1)${process_of[kamailio]:+; $(kamailio -v | head -n 1)}"
    echo "Rounds: $((round - 1)); relay on CPU $relay_cpu, load on CPU $load_cpu${record_layer:+; record layer: $record_layer}${baseline:+; baseline: ${baseline##*/} $baseline_record_layer}; priority: $priority"
    echo
    awk -f scripts/bench/report.awk -v chart="$out/chart.svg" -v vaes="$(has_vaes && echo yes || echo no)" -v counter="${counters[0]:-}" "$csv"
    if [ "$(nproc)" = 2 ]; then
        echo
        echo "Two CPUs: in the cases two-cores and split the load shares them with the relay."
    fi
} | tee "$out/table.txt"
echo
echo "Results: $csv, $out/table.txt, $out/chart.svg"
[ "$broken" = no ] || fail "not everything could be measured"
