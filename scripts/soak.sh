#!/usr/bin/env bash
# Lets a steady mix of clients use the relay for minutes, and looks at what that leaves behind.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: soak.sh [--minutes N] [--cores LIST] [--record-layer WHICH] [--seed N] [--keep] [--no-build]

Builds the relay, makes a throw-away certificate, and starts the release binary on free loopback ports. A second process
then drives a mix of about a hundred connections: files from one byte to 64 MiB, chats, slow and resting ends, AUTHs and
guesses, clients and endpoints that go in mid-file, endpoints without a relay. Verified are: every byte, or that its
sender was told; that memory stays flat; that no descriptor is left; the log; a stop in order. Ends with a table.

  --minutes N    how long the mix goes on; default 10. Under 3 memory has little time to warm up: the second quarter is
                 compared with the last, instead of the second minute with the last one, and 25 % are let pass
                 instead of 5
  --cores LIST   the relay's CPUs: 0,1 and so on, or auto; default: the first two that this shell may use
  --record-layer WHICH   rustls or direct: the relay's tls.record_layer; default: what the relay does by itself
  --seed N       of the mix: the same scenes in the same order, though not at the same moments; default: by chance
  --keep         keep the directory with certificate, config and log, and say where it is
  --no-build     take what is in target/release
  -h, --help     this text

The machine's cores have something to spare meanwhile: the mix sends 48 MiB a second, all together.
Exit status: 0 if everything held, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

minutes=10 cores='' record_layer='' seed='' keep=no build=yes
options "--keep --no-build" "--minutes --cores --record-layer --seed" "$@"
number --minutes "$minutes" 1 9999
[ -z "$record_layer" ] || one_of --record-layer "$record_layer" rustls direct
choose_cores 2
choose_seed
need openssl openssl
need libc-bin getconf
need coreutils mktemp
need findutils find

cd "$root"
find_programs --test long
test=soak::a_steady_mix_loses_no_byte_and_leaves_nothing_behind
find_driver long "$test"

make_scratch soak
kill_relay() {
    kill_relay_of "$scratch/relay.pid"
}
at_end+=(kill_relay)

make_certificate localhost
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
  key: localhost.key${record_layer:+
  record_layer: $record_layer}
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
raise_limit -n 8192

# As deploy/msrprelay.service sets them.
export MALLOC_TRIM_THRESHOLD_=262144 MALLOC_MMAP_THRESHOLD_=262144

echo "== $minutes min on cores $cores, seed $seed${record_layer:+, record layer $record_layer}"
SOAK_RELAY=$bin/msrprelay SOAK_PLACE=$scratch SOAK_PASSWORD=$password SOAK_MINUTES=$minutes SOAK_SEED=$seed RUST_BACKTRACE=0 \
    "$driver" --ignored --exact --nocapture "$test" &
track
status=0
ended "$pid" || status=$?
[ "$status" = 0 ] || fail "the soak has failed, exit status $status (see above)"
echo "OK"
