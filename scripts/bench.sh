#!/usr/bin/env bash
# Measures the relay against its targets and, if asked to, against byte proxies and other relays, all in one interleaved run.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: bench.sh [--quick] [--with-proxies] [--against HOST:PORT ...] [options]

Starts the relay on one CPU with a throw-away certificate, a free port and a user of its own, puts load on it from another
CPU with `msrp bench`, and prints a table of targets and results: medians over several rounds, with minimum and maximum.
Every round measures every case once, so that what disturbs the machine disturbs all alike: the ratios are what counts.
TLS 1.3 with AES-128-GCM, X25519 and ECDSA P-256 on all sides; figures are CPU time, user and system, of the relay.

  --quick                  2 minutes instead of 15, with a fifth of the volume: a glance, no more
  --minutes N              begin no round that would end after so many minutes; default 15
  --rounds N               at most so many rounds; default 7
  --only LIST              only these cases: rows of the table by their ids, such as giant-one,auth
  --with-proxies           install haproxy and nginx with apt-get if they are not there (as root), and measure them
                           as byte proxies, TLS to TLS, on the cases that are compared with them
  --record-layer WHICH     rustls or direct: the relay's tls.record_layer; default: what the relay does by itself
  --relay FILE             another build of the relay, instead of target/release/msrprelay
  --baseline FILE          a build of the relay to compare with: measured on the same cases, in a table of its own
  --baseline-record-layer WHICH   its tls.record_layer, if not the same: with the same FILE, the two record layers compared
  --relay-cpu N            default 0
  --load-cpu N             default 1. Where there are only two CPUs, the cases with two cores share them with the load: their
                           wall-clock time means nothing then, their CPU time still does
  --realtime               everything that is measured runs at real-time priority: other work on this machine waits meanwhile
                           (needs root)
  --out DIR                results.csv, table.txt and chart.svg; default target/bench
  --no-build               take the binaries that are in target/release, and do not count allocations
  -h, --help               this text

Another relay, which must be running already:
  --against HOST:PORT
  --against-user USER@DOMAIN     with --against-password-file FILE
  --against-ca FILE              its certificate; default: any is accepted
  --against-auth-uri URI         the To-Path of AUTH, if it is not the relay's own address
  --against-pid PID[,PID]        its processes on this machine: without them there is no CPU time

Exit status: 0 if everything could be measured, whatever the figures; 1 if not; 2 for wrong usage; 130 if interrupted.
USAGE
}

fail() {
    echo "bench.sh: $*" >&2
    exit 1
}

wrong() {
    echo "bench.sh: $*; see --help" >&2
    exit 2
}

minutes='' rounds='' quick=no only='' proxies=no record_layer='' relay_binary='' baseline='' baseline_layer='' relay_cpu=0 load_cpu=1 realtime=no
out='' build=yes against='' against_user='' against_password='' against_ca='' against_uri='' against_pid=''
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --quick) quick=yes; shift ;;
        --with-proxies) proxies=yes; shift ;;
        --realtime) realtime=yes; shift ;;
        --no-build) build=no; shift ;;
        --minutes | --rounds | --only | --record-layer | --relay | --baseline | --baseline-record-layer | --relay-cpu | --load-cpu | --out | --against*)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --minutes) minutes=$2 ;;
                --rounds) rounds=$2 ;;
                --only) only=$2 ;;
                --record-layer) record_layer=$2 ;;
                --relay) relay_binary=$2 ;;
                --baseline) baseline=$2 ;;
                --baseline-record-layer) baseline_layer=$2 ;;
                --relay-cpu) relay_cpu=$2 ;;
                --load-cpu) load_cpu=$2 ;;
                --out) out=$2 ;;
                --against) against=$2 ;;
                --against-user) against_user=$2 ;;
                --against-password-file) against_password=$2 ;;
                --against-ca) against_ca=$2 ;;
                --against-auth-uri) against_uri=$2 ;;
                --against-pid) against_pid=$2 ;;
                *) wrong "unknown argument $1" ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done
if [ "$quick" = yes ]; then
    minutes=${minutes:-2} rounds=${rounds:-3}
fi
minutes=${minutes:-15} rounds=${rounds:-7}
[[ $minutes =~ ^[1-9][0-9]{0,3}$ ]] || wrong "--minutes $minutes: write a number"
[[ $rounds =~ ^[1-9][0-9]{0,2}$ ]] || wrong "--rounds $rounds: write a number"
[[ $relay_cpu =~ ^[0-9]+$ && $load_cpu =~ ^[0-9]+$ ]] || wrong "--relay-cpu and --load-cpu are numbers of CPUs"
[[ "$record_layer $baseline_layer" =~ ^(|rustls|direct)\ (|rustls|direct)$ ]] || wrong "record layers are rustls and direct"
baseline_layer=${baseline_layer:-$record_layer}
if [ -n "$against" ] && { [ -z "$against_user" ] || [ -z "$against_password" ]; }; then
    wrong "--against needs --against-user and --against-password-file"
fi

need() { # COMMAND HOW-TO-INSTALL
    command -v "$1" > /dev/null || fail "$1 is needed and not installed ($2)"
}

[ "$build" = no ] || need cargo "see https://rustup.rs"
need openssl "apt-get install openssl"
need awk "apt-get install mawk"
need taskset "apt-get install util-linux"
need getconf "apt-get install libc-bin"
launch=()
[ "$realtime" = no ] || { need chrt "apt-get install util-linux"; launch=(chrt -r 10); }
"${launch[@]}" true 2> /dev/null || fail "--realtime is not allowed here: be root"
for cpu in "$relay_cpu" "$load_cpu"; do
    taskset -c "$cpu" true 2> /dev/null || fail "CPU $cpu may not be used here; see --relay-cpu and --load-cpu"
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -z "$relay_binary" ] || relay_binary=$(realpath "$relay_binary")
[ -z "$baseline" ] || baseline=$(realpath "$baseline")
cd "$root"
if [ "$build" = yes ]; then
    echo "== Building"
    cargo build --release --locked --bins
fi
bin=$root/${CARGO_TARGET_DIR:-target}/release
[ -z "${CARGO_TARGET_DIR:-}" ] || bin=$(realpath "$CARGO_TARGET_DIR")/release
out=${out:-${bin%/release}/bench}
relay_binary=${relay_binary:-$bin/msrprelay}
for binary in "$bin/msrp" "$relay_binary" ${baseline:+"$baseline"}; do
    [ -x "$binary" ] || fail "$binary is not there"
done
mkdir -p "$out"
# Ten thousand idle sessions need as many descriptors on both sides.
ulimit -n "$(ulimit -Hn)"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-bench.XXXXXX")
declare -A pid=() address=()
load=() policy=''

clean_up() {
    local status=$? process
    trap - EXIT INT TERM
    for process in "${load[@]}" "${pid[@]}"; do
        kill "$process" 2> /dev/null || true
    done
    for process in "${load[@]}" "${pid[@]}"; do
        wait "$process" 2> /dev/null || true
    done
    rm -rf "$scratch"
    [ -z "$policy" ] || rm -f "$policy"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

install_proxies() {
    if command -v haproxy > /dev/null && command -v nginx > /dev/null; then
        [ -z "$(stream_module)" ] && ! nginx -V 2>&1 | grep -q -- '--with-stream ' || return 0
    fi
    need apt-get "only Debian's and Ubuntu's package manager is known here: install haproxy and nginx with its stream module"
    [ "$(id -u)" = 0 ] || fail "haproxy, nginx and nginx's stream module are not all installed: be root, or install them"
    echo "== Installing haproxy and nginx"
    # Their services must not start: packages ask this file whether they may.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod 755 "$policy"
    fi
    local install=(apt-get install -y --no-install-recommends haproxy nginx libnginx-mod-stream)
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" > "$scratch/apt.log" 2>&1 || { apt-get update && "${install[@]}"; } > "$scratch/apt.log" 2>&1 \
        || { tail -n 5 "$scratch/apt.log" >&2; fail "haproxy and nginx cannot be installed"; }
    [ -z "$policy" ] || rm -f "$policy"
    policy=''
}

stream_module() {
    local file
    for file in /usr/lib/nginx/modules/ngx_stream_module.so /usr/lib64/nginx/modules/ngx_stream_module.so; do
        [ ! -e "$file" ] || { echo "$file"; return; }
    done
}

# Waits until somebody listens.
await_port() { # PORT PID LOG
    local tries=0
    until (: < "/dev/tcp/127.0.0.1/$1") 2> /dev/null; do
        if [ "$tries" -ge 200 ] || ! kill -0 "$2" 2> /dev/null; then
            cat "$3" >&2
            return 1
        fi
        tries=$((tries + 1))
        sleep 0.05
    done
}

# A port that nobody listens on, below those that the kernel gives to clients.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
    done
}

start_relay() { # NAME BINARY CORES RECORD-LAYER
    local directory=$scratch/$1 tries=0
    mkdir -p "$directory"
    rm -f "$directory/ready"
    cat > "$directory/config.yaml" <<CONFIG
listen:
  - {address: "127.0.0.1:0", tls: true}
hostname: localhost
realm: example.com
tls: {certificate: $scratch/localhost.crt, key: $scratch/localhost.key${4:+, record_layer: $4}}
cores: [$3]
auth:
  backend: memory
  memory: {users: [{user: "bench@example.com", password: "$password"}]}
limits: {connections_per_address_max: 100000, unauthenticated_per_address_max: 10000, connections_max: 100000}
log: {level: warn, format: text}
CONFIG
    chmod 600 "$directory/config.yaml"
    "${launch[@]}" "$2" --config "$directory/config.yaml" --ready-file "$directory/ready" > "$directory/log" 2>&1 &
    pid[$1]=$!
    until [ -s "$directory/ready" ]; do
        if [ "$tries" -ge 400 ] || ! kill -0 "${pid[$1]}" 2> /dev/null; then
            cat "$directory/log" >&2
            fail "the relay does not start"
        fi
        tries=$((tries + 1))
        sleep 0.05
    done
    address[$1]=localhost:$(sed -n '1s/.*://p' "$directory/ready")
}

stop() { # NAME
    kill "${pid[$1]}" 2> /dev/null || true
    wait "${pid[$1]}" 2> /dev/null || true
    unset "pid[$1]"
}

start_proxies() {
    local port module
    far_port=$(free_port)
    port=$(free_port)
    cat "$scratch/localhost.crt" "$scratch/localhost.key" > "$scratch/both.pem"
    cat > "$scratch/haproxy.cfg" <<CONFIG
global
    nbthread 1
    maxconn 2000
    ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-options ssl-min-ver TLSv1.3
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode tcp
    timeout connect 10s
    timeout client 1m
    timeout server 1m
listen relay
    bind 127.0.0.1:$port ssl crt $scratch/both.pem curves X25519
    server far 127.0.0.1:$far_port ssl verify none no-ssl-reuse
CONFIG
    taskset -c "$relay_cpu" "${launch[@]}" haproxy -db -f "$scratch/haproxy.cfg" > "$scratch/haproxy.log" 2>&1 &
    pid[haproxy]=$!
    await_port "$port" "${pid[haproxy]}" "$scratch/haproxy.log" || fail "haproxy does not start"
    address[haproxy]=localhost:$port
    port=$(free_port)
    module=$(stream_module)
    cat > "$scratch/nginx.conf" <<CONFIG
${module:+load_module $module;}
daemon off;
master_process off;
pid $scratch/nginx.pid;
error_log stderr warn;
events { worker_connections 4000; }
stream {
    server {
        listen 127.0.0.1:$port ssl;
        ssl_certificate $scratch/localhost.crt;
        ssl_certificate_key $scratch/localhost.key;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_ecdh_curve X25519;
        ssl_session_tickets off;
        proxy_pass 127.0.0.1:$far_port;
        proxy_buffer_size 64k;
        proxy_ssl on;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        proxy_ssl_session_reuse off;
        tcp_nodelay on;
    }
}
CONFIG
    taskset -c "$relay_cpu" "${launch[@]}" nginx -p "$scratch" -c "$scratch/nginx.conf" > "$scratch/nginx.log" 2>&1 &
    pid[nginx]=$!
    await_port "$port" "${pid[nginx]}" "$scratch/nginx.log" || fail "nginx does not start"
    address[nginx]=localhost:$port
    # What looked whether they listen has left connections behind that lead nowhere.
    sleep 0.2
}

# How to reach a subject: the arguments of `msrp bench` into `reach`.
reach() { # SUBJECT
    reach=(--json)
    case $1 in
        haproxy | nginx)
            reach+=(--through "${address[$1]}" --listen "127.0.0.1:$far_port" --certificate "$scratch/localhost.crt"
                --key "$scratch/localhost.key" --ca "$scratch/localhost.crt" --relay-pid "${pid[$1]}")
            ;;
        against)
            reach+=(--relay "$against" --user "$against_user" --password-file "$against_password")
            if [ -n "$against_ca" ]; then reach+=(--ca "$against_ca"); else reach+=(--insecure); fi
            [ -z "$against_uri" ] || reach+=(--auth-uri "$against_uri")
            local process
            for process in ${against_pid//,/ }; do reach+=(--relay-pid "$process"); done
            ;;
        *)
            reach+=(--relay "${address[$1]}" --user bench@example.com --password-file "$scratch/password"
                --ca "$scratch/localhost.crt" --relay-pid "${pid[$1]}")
            ;;
    esac
}

# Runs `msrp bench`; its result is in `result`.
bench() { # SUBJECT MODE ARGUMENT...
    local subject=$1 reach status=0
    shift
    reach "$subject"
    # In the background, so that this script can be interrupted while it waits.
    "${launch[@]}" "$bin/msrp" bench "$@" "${reach[@]}" > "$scratch/result" 2> "$scratch/errors" &
    load=($!)
    wait "${load[0]}" || status=$?
    load=()
    result=$(cat "$scratch/result")
    [ "$status" = 0 ] || { echo "bench.sh: $subject: msrp bench $*: $(cat "$scratch/errors")" >&2; return 1; }
}

field() { # KEY [KEY-WITHIN]
    local key="\"$1\":"
    [ $# = 1 ] || key="\"$1\":{[^}]*\"$2\":"
    sed -n "s/.*$key\([0-9.eE+-]*\).*/\1/p" <<< "$result"
}

record() { # ROW SUBJECT VALUE
    [ -n "$3" ] || return 0
    echo "$round,$1,$2,$3,$(field bench_cpu_seconds),$(field relay_cpu_seconds),$(field seconds),$(field megabytes_per_second),$(field relay_page_faults)" >> "$csv"
}

wanted() { # ROW
    [ -z "$only" ] || [[ ,$only, == *,$1,* ]]
}

# One file case for each subject.
file_case() { # ROW "SUBJECTS" ARGUMENT...
    local row=$1 subject subjects=$2
    shift 2
    wanted "$row" || return 0
    for subject in $subjects; do
        if bench "$subject" file --cpu "$load_cpu" "$@"; then
            record "$row" "$subject" "$(field relay_cpu_s_per_GB)"
            [ -n "$(field relay_cpu_s_per_GB)" ] || record "$row" "$subject" 0
        else
            broken=yes
        fi
    done
}

message_case() { # ROW VALUE ARGUMENT...
    local row=$1 value=$2 subject
    shift 2
    wanted "$row" || return 0
    for subject in $relays; do
        bench "$subject" messages --cpu "$load_cpu" "$@" || { broken=yes; continue; }
        case $value in
            cpu) record "$row" "$subject" "$(field relay_cpu_us_per_message)" ;;
            latency)
                record "$row-p50" "$subject" "$(field delivered_us p50)"
                record "$row-p99" "$subject" "$(field delivered_us p99)"
                ;;
            p99) record "$row" "$subject" "$(field delivered_us p99)" ;;
        esac
    done
}

nanoseconds() { # PID...
    local process
    for process; do cat /proc/"$process"/task/*/schedstat; done | awk '{ sum += $1 } END { printf "%.0f", sum }'
}

# The same load on both halves, each from a process of its own; CPU seconds per GB of all relays together.
halves() { # ROW SUBJECT NAME NAME
    local row=$1 subject=$2 name before after octets reach processes=("${pid[$3]}") status=0 part
    [ "$3" = "$4" ] || processes+=("${pid[$4]}")
    before=$(nanoseconds "${processes[@]}")
    for name in "$3" "$4"; do
        reach "$name"
        "${launch[@]}" "$bin/msrp" bench file --topology both --sessions 4 --size $((giant / 4)) "${reach[@]}" \
            > "$scratch/part${#load[@]}" 2>> "$scratch/errors" &
        load+=($!)
    done
    for part in "${load[@]}"; do wait "$part" || status=$?; done
    load=()
    after=$(nanoseconds "${processes[@]}")
    [ "$status" = 0 ] || { echo "bench.sh: $row: $(cat "$scratch/errors")" >&2; broken=yes; return; }
    octets=$((giant * 2))
    result=''
    record "$row" "$subject" "$(awk -v ns=$((after - before)) -v octets=$octets 'BEGIN { printf "%.4f", ns / octets }')"
}

core_cases() {
    local name
    if wanted two-cores || wanted split; then
        start_relay two "$relay_binary" "$relay_cpu, $load_cpu" "$record_layer"
        if wanted two-cores; then
            start_relay first "$relay_binary" "$relay_cpu" "$record_layer"
            start_relay second "$relay_binary" "$load_cpu" "$record_layer"
            halves two-cores relay two two
            halves two-cores apart first second
            stop first
            stop second
        fi
        if wanted split; then
            for name in split local; do
                bench two file --topology both --pairs $name --size "$giant" || { broken=yes; continue; }
                case $name in
                    split) record split relay "$(field relay_cpu_s_per_GB)" ;;
                    local) record split local "$(field relay_cpu_s_per_GB)" ;;
                esac
            done
        fi
        stop two
    fi
}

one_round() {
    local with_proxies=$relays
    [ "$proxies" = no ] || with_proxies="$relays haproxy nginx"
    file_case giant-one "$with_proxies" --size "$giant"
    file_case giant-both "$relays" --size "$giant" --topology both
    file_case sessions-16 "$with_proxies" --sessions 16 --size $((giant / 16))
    file_case sessions-200 "$with_proxies" --sessions 200 --size $((giant / 200))
    file_case chunks-10k-no "$relays" --size $((giant / 2)) --chunk-size 10000 --failure-report no
    file_case chunks-10k-yes "$relays" --size $((giant / 2)) --chunk-size 10000 --failure-report yes
    file_case chunks-2k-yes "$relays" --size $((giant / 8)) --chunk-size 2000 --failure-report yes
    message_case messages-16 cpu --window 16 --count $((messages * 4))
    message_case messages-8x8 cpu --sessions 8 --window 8 --count "$messages"
    if wanted alone-p50 || wanted alone-p99; then
        only='' message_case alone latency --window 1 --count "$messages"
    fi
    message_case beside-file p99 --window 1 --duration "$beside" --with-files 1
    local subject
    for subject in $relays; do
        if wanted auth; then
            if bench "$subject" auth --cpu "$load_cpu" --count "$connections"; then
                record auth "$subject" "$(field relay_cpu_us_each)"
            else
                broken=yes
            fi
        fi
    done
    core_cases
    # Sessions take the same memory each time: twice is enough.
    if wanted idle && [ "$round" -le 2 ]; then
        for subject in $relays; do
            # Of a relay that we cannot start afresh, the second time would tell nothing.
            [ "$subject$round" = against2 ] || idle_case "$subject"
        done
    fi
}

# A relay that has done nothing before: memory that earlier cases left free must not be counted as idle sessions' own.
idle_case() { # SUBJECT
    local subject=$1
    case $subject in
        relay) start_relay fresh "$relay_binary" "$relay_cpu" "$record_layer"; subject=fresh ;;
        baseline) start_relay fresh "$baseline" "$relay_cpu" "$baseline_layer"; subject=fresh ;;
    esac
    if bench "$subject" idle --cpu "$load_cpu" --sessions "$idle" --hold 1s; then
        record idle "$1" "$(field relay_octets_each)"
    else
        broken=yes
    fi
    [ "$subject" != fresh ] || stop fresh
}

count_allocations() {
    wanted allocations || return 0
    if [ "$build" = no ]; then
        echo "== Not counting allocations (--no-build)"
        return 0
    fi
    echo "== Counting allocations"
    local counted
    counted=$(cargo test --release --locked -p msrp-relay-core --test allocations -- --nocapture 2> "$scratch/errors" \
        | sed -n 's/^allocations per chunk: \([0-9.]*\)$/\1/p' | sort -n | tail -n 1)
    [ -n "$counted" ] || { cat "$scratch/errors" >&2; broken=yes; return 0; }
    round=1 result=''
    record allocations relay "$counted"
}

giant=$((2 * 1000 * 1000 * 1000)) messages=20000 connections=4000 beside=3s idle=10000
[ "$quick" = no ] || giant=$((400 * 1000 * 1000)) messages=5000 connections=1000 beside=1s
limit=$(ulimit -n)
if [ "$limit" != unlimited ] && [ "$limit" -lt 10200 ]; then
    idle=$((limit - 200))
    echo "bench.sh: only $limit open files are allowed here: the idle case takes $idle sessions" >&2
fi

password=$(openssl rand -hex 12)
(umask 077; echo "$password" > "$scratch/password")
"$root/scripts/gen-cert.sh" localhost --san 127.0.0.1 --out "$scratch" > "$scratch/gen-cert.log" 2>&1 \
    || { cat "$scratch/gen-cert.log" >&2; fail "no certificate"; }
csv=$out/results.csv
echo "round,row,subject,value,bench_cpu_seconds,relay_cpu_seconds,seconds,megabytes_per_second,relay_page_faults" > "$csv"
broken=no round=0 relays=relay
count_allocations
[ "$proxies" = no ] || { install_proxies; start_proxies; }
start_relay relay "$relay_binary" "$relay_cpu" "$record_layer"
[ -z "$baseline" ] || { relays="$relays baseline"; start_relay baseline "$baseline" "$relay_cpu" "$baseline_layer"; }
[ -z "$against" ] || relays="$relays against"

# The time that building and installing took is not counted.
deadline=$((SECONDS + minutes * 60)) longest=0
for ((round = 1; round <= rounds; round++)); do
    started=$SECONDS
    if [ "$round" -gt 1 ] && [ $((started + longest)) -gt "$deadline" ]; then
        echo "== No time for another round"
        break
    fi
    echo "== Round $round"
    one_round
    [ $((SECONDS - started)) -le "$longest" ] || longest=$((SECONDS - started))
done

{
    echo "$(nproc) CPUs: $(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1); Linux $(uname -r); $("$relay_binary" --version)"
    [ "$proxies" = no ] || echo "$(haproxy -v | head -n 1); $(nginx -v 2>&1)"
    echo "Rounds: $((round - 1)); relay on CPU $relay_cpu, load on CPU $load_cpu${record_layer:+; record layer: $record_layer}${baseline:+; baseline: ${baseline##*/} ${baseline_layer}}; realtime: $realtime"
    echo
    awk -f "$root/scripts/bench-report.awk" -v chart="$out/chart.svg" "$csv"
    if [ "$(nproc)" = 2 ]; then
        echo
        echo "Two CPUs: in the cases two-cores and split the load shares them with the relay."
    fi
} | tee "$out/table.txt"
echo
echo "Results: $csv, $out/table.txt, $out/chart.svg"
[ "$broken" = no ] || fail "not everything could be measured"
