#!/usr/bin/env bash
# Calls of the client tool through a relay, all of them on a machine that is too slow for the engine's timer: each must end.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: slow-machine.sh [--calls N] [--rest MICROSECONDS] [--limit SECONDS] [--bin DIR] [--tool-only] [--keep]

Starts a relay and makes calls of msrp (probe, and send with receive) through it. Relay and tool run with
tests/slow/slow.c loaded, which makes a thread rest whenever it comes back from io_uring_enter, as one does whose CPU the
kernel, or an emulator, has given to another. Each call must end by itself and with status 0. At last one of the relay's
cores goes to sleep for ever, and the relay is told to end: it must, within the time it grants itself.

  --calls N            how many; default 500
  --rest MICROSECONDS  how long a thread rests; default 1500, more than the 1 ms of the engine's timer before it was long
  --limit SECONDS      a call that takes longer hangs; default 60
  --bin DIR            take msrprelay and msrp from there; default: build them, and take target/release
  --tool-only          only the tool is slow, not the relay: to see a tool hang that a relay cannot be blamed for
  --keep               keep the directory with config, logs and files, and say where it is
  -h, --help           this text

500 calls take about ten minutes, N times --limit at most. Needs cc, openssl and coreutils. What it is about stands in
docs/dev/engine.md. Exit status: 0 if every call ended well and the relay ended, 1 if not, 2 for wrong usage, 130 if
interrupted.
USAGE
}

fail() {
    echo "slow-machine.sh: $*" >&2
    exit 1
}

wrong() {
    echo "slow-machine.sh: $*; see --help" >&2
    exit 2
}

calls=500 rest=1500 limit=60 bin='' relay_too=yes keep=no
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --tool-only) relay_too=no; shift ;;
        --keep) keep=yes; shift ;;
        --calls | --rest | --limit | --bin)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case $1 in
                --calls) calls=$2 ;;
                --rest) rest=$2 ;;
                --limit) limit=$2 ;;
                --bin) bin=$2 ;;
            esac
            shift 2
            ;;
        *) wrong "unknown argument $1" ;;
    esac
done
for number in "$calls" "$rest" "$limit"; do
    [[ $number =~ ^[0-9]{1,7}$ ]] || wrong "$number is no number"
done
[ -z "$bin" ] || bin=$(cd "$bin" && pwd) || wrong "--bin: no such directory"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
for tool in cc openssl timeout; do
    command -v "$tool" > /dev/null || fail "$tool is needed and not installed"
done
if [ -z "$bin" ]; then
    cargo build --release --locked --bins
    bin=$root/${CARGO_TARGET_DIR:-target}/release
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-slow.XXXXXX")
relay='' receiver=''

clean_up() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in $receiver $relay; do
        kill -KILL "$pid" 2> /dev/null || true
        wait "$pid" 2> /dev/null || true
    done
    if [ "$keep" = yes ]; then echo "Kept: $scratch"; else rm -rf "$scratch"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cc -shared -fPIC -o "$scratch/slow.so" tests/slow/slow.c
slow=(env LD_PRELOAD="$scratch/slow.so" SLOW_MICROSECONDS="$rest")
"$root/scripts/gen-cert.sh" localhost --san 127.0.0.1 --out "$scratch" > "$scratch/gen-cert.log" 2>&1 \
    || { cat "$scratch/gen-cert.log" >&2; fail "no certificate"; }
password=$(openssl rand -hex 12)
cat > "$scratch/config.yaml" <<CONFIG
listen:
  - {address: "127.0.0.1:0", tls: true}
hostname: localhost
realm: example.com
tls: {certificate: localhost.crt, key: localhost.key}
auth:
  memory:
    users:
      - {user: "alice@example.com", password: "$password"}
      - {user: "bob@example.com", password: "$password"}
CONFIG
export MSRP_PASSWORD=$password

# Waits for a file that a process of ours will write. Fails once the process is gone, or after the time of a call.
await() { # FILE PID
    local tries=0
    until [ -s "$1" ]; do
        kill -0 "$2" 2> /dev/null || return 1
        tries=$((tries + 1))
        [ "$tries" -lt $((limit * 20)) ] || return 1
        sleep 0.05
    done
}

start_relay() { # COMMAND...
    rm -f "$scratch/ready"
    "$@" "$bin/msrprelay" --config "$scratch/config.yaml" --ready-file "$scratch/ready" > "$scratch/relay.log" 2>&1 &
    relay=$!
    await "$scratch/ready" "$relay" || { cat "$scratch/relay.log" >&2; fail "the relay is not ready after $limit s"; }
    port=$(head -n 1 "$scratch/ready")
    port=${port##*:}
}

ended=0 hung=0 failed=0
counted() { # STATUS WHAT; 137 is of a call that had to be killed
    case $1 in
        0) ended=$((ended + 1)) ;;
        137) hung=$((hung + 1)); echo "HANGS: $2" ;;
        *) failed=$((failed + 1)); echo "FAILED ($1): $2: $(tail -n 1 "$scratch/said")" ;;
    esac
}

call() { # ARGUMENTS of msrp...
    local status=0
    timeout --signal=KILL "$limit" "${slow[@]}" "$bin/msrp" "$@" --ca "$scratch/localhost.crt" > "$scratch/said" 2>&1 \
        || status=$?
    counted "$status" "msrp $1"
}

transfer() {
    local status=0
    rm -f "$scratch/path" "$scratch/in"/*
    timeout --signal=KILL "$limit" "${slow[@]}" "$bin/msrp" receive --user bob@example.com --relay "localhost:$port" \
        --ca "$scratch/localhost.crt" --out "$scratch/in" --path-file "$scratch/path" > "$scratch/received" 2>&1 &
    receiver=$!
    if await "$scratch/path" "$receiver"; then
        call send "$scratch/file" --user alice@example.com --relay "localhost:$port" --to "$(cat "$scratch/path")"
        cmp -s "$scratch/file" "$scratch/in/file" || echo "Not what was sent: see --keep"
    else
        counted 137 "msrp send, for want of a receiver"
    fi
    wait "$receiver" || status=$?
    receiver=''
    cp "$scratch/received" "$scratch/said"
    counted "$status" "msrp receive"
}

mkdir "$scratch/in"
head -c 300000 /dev/urandom > "$scratch/file"
if [ "$relay_too" = yes ]; then start_relay "${slow[@]}"; else start_relay env; fi
echo "The relay listens on port $port; a thread rests $rest us after each io_uring_enter"
began=$SECONDS
while [ $((ended + hung + failed)) -lt "$calls" ]; do
    call probe --relay "localhost:$port" --user alice@example.com
    transfer
    done=$((ended + hung + failed))
    [ $((done % 60)) -ne 0 ] || echo "$done calls: $ended ended, $hung hung, $failed failed, $((SECONDS - began)) s"
done
echo "$((ended + hung + failed)) calls: $ended ended, $hung hung, $failed failed, $((SECONDS - began)) s"

# The relay's end: first in order, then with a core that never comes back.
kill -TERM "$relay"
status=0
wait "$relay" || status=$?
relay=''
echo "The relay ended with status $status"
[ "$status" = 0 ] || failed=$((failed + 1))
start_relay env LD_PRELOAD="$scratch/slow.so" SLOW_MICROSECONDS=1000000000 SLOW_THREAD=core-0 SLOW_WHEN="$scratch/stuck"
touch "$scratch/stuck"
sleep 2
kill -TERM "$relay"
began=$SECONDS
while kill -0 "$relay" 2> /dev/null && [ $((SECONDS - began)) -lt 90 ]; do sleep 0.2; done
if kill -0 "$relay" 2> /dev/null; then
    echo "HANGS: the relay, told to end while a core sleeps"
    hung=$((hung + 1))
else
    wait "$relay" || status=$?
    relay=''
    echo "The relay with a core that sleeps ended after $((SECONDS - began)) s, status $status: $(tail -n 1 "$scratch/relay.log")"
fi
[ "$hung" = 0 ] && [ "$failed" = 0 ]
