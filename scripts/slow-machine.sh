#!/usr/bin/env bash
# Calls of the client tool through a relay, all of them on a machine that is too slow for the engine's timer: each must end.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

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

calls=500 rest=1500 limit=60 bin='' tool_only=no keep=no
options "--tool-only --keep" "--calls --rest --limit --bin" "$@"
number --calls "$calls" 1 9999999
number --rest "$rest" 0 9999999
number --limit "$limit" 1 9999999
[ -z "$bin" ] || bin=$(directory_of --bin "$bin")
need build-essential cc
need openssl openssl
need coreutils timeout
cd "$root"
find_programs
make_scratch slow

cc -shared -fPIC -o "$scratch/slow.so" tests/slow/slow.c
slow=(env LD_PRELOAD="$scratch/slow.so" SLOW_MICROSECONDS="$rest")
make_certificate localhost --san 127.0.0.1
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

await_seconds=$limit
start_relay() { # COMMAND...
    rm -f "$scratch/ready"
    start "$scratch/relay.log" "$@" "$bin/msrprelay" --config "$scratch/config.yaml" --ready-file "$scratch/ready"
    relay=$pid
    await "$relay" "the relay" "$scratch/relay.log" test -s "$scratch/ready"
    port=$(port_in "$scratch/ready")
}

well=0 hung=0 failed=0
counted() { # STATUS WHAT; 137 is of a call that had to be killed
    case $1 in
        0) well=$((well + 1)) ;;
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
    start "$scratch/received" \
        timeout --signal=KILL "$limit" "${slow[@]}" "$bin/msrp" receive --user bob@example.com --relay "localhost:$port" \
        --ca "$scratch/localhost.crt" --out "$scratch/in" --path-file "$scratch/path"
    receiver=$pid
    if comes_true "$limit" "$receiver" test -s "$scratch/path"; then
        call send "$scratch/file" --user alice@example.com --relay "localhost:$port" --to "$(cat "$scratch/path")"
        cmp -s "$scratch/file" "$scratch/in/file" || echo "Not what was sent: see --keep"
    else
        counted 137 "msrp send, for want of a receiver"
    fi
    ended "$receiver" || status=$?
    cp "$scratch/received" "$scratch/said"
    counted "$status" "msrp receive"
}

mkdir "$scratch/in"
head -c 300000 /dev/urandom > "$scratch/file"
if [ "$tool_only" = no ]; then start_relay "${slow[@]}"; else start_relay env; fi
echo "The relay listens on port $port; a thread rests $rest us after each io_uring_enter"
began=$SECONDS
while [ $((well + hung + failed)) -lt "$calls" ]; do
    call probe --relay "localhost:$port" --user alice@example.com
    transfer
    done=$((well + hung + failed))
    [ $((done % 60)) -ne 0 ] || echo "$done calls: $well ended, $hung hung, $failed failed, $((SECONDS - began)) s"
done
echo "$((well + hung + failed)) calls: $well ended, $hung hung, $failed failed, $((SECONDS - began)) s"

# The relay's end: first in order, then with a core that never comes back.
kill -TERM "$relay"
status=0
ended "$relay" || status=$?
echo "The relay ended with status $status"
[ "$status" = 0 ] || failed=$((failed + 1))
start_relay env LD_PRELOAD="$scratch/slow.so" SLOW_MICROSECONDS=1000000000 SLOW_THREAD=core-0 SLOW_WHEN="$scratch/stuck"
touch "$scratch/stuck"
sleep 2
kill -TERM "$relay"
began=$SECONDS
if ! comes_true 90 '' has_ended "$relay"; then
    echo "HANGS: the relay, told to end while a core sleeps"
    hung=$((hung + 1))
else
    ended "$relay" || status=$?
    echo "The relay with a core that sleeps ended after $((SECONDS - began)) s, status $status: $(tail -n 1 "$scratch/relay.log")"
fi
[ "$hung" = 0 ] && [ "$failed" = 0 ]
