#!/usr/bin/env bash
# Credentials that expire by themselves: Kamailio and coturn take what this relay makes.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: interop-credentials.sh [--bin DIR] [--no-install] [--keep]

Makes credentials with `msrprelay credential` (SHA-1 and SHA-256) and has them judged by Kamailio's auth_ephemeral, in the
config that docs/operate/accounts.md shows, and by coturn (SHA-1), which must refuse expired and changed ones, too.

  --bin DIR      take msrprelay and msrp from there; default: build them, and take target/release
  --no-install   Debian's kamailio, kamailio-autheph-modules, coturn and curl must be there, and what is missing is named;
                 without this they are installed by apt-get, which takes root
  --keep         keep the directory with configs and logs, and say where it is
  -h, --help     this text

Nothing stays behind but the build and the packages, and no service is started by installing them. Tried with Kamailio 5.6.3
and coturn 4.6.1.

Exit status: 0 if all agree, 1 if not, 2 for wrong usage, 130 if interrupted.
USAGE
}

bin='' install=yes keep=no
options "--no-install --keep" "--bin" "$@"
[ -z "$bin" ] || bin=$(directory_of --bin "$bin")
need openssl openssl
mapfile -t missing < <(uninstalled kamailio kamailio-autheph-modules coturn curl)
if [ ${#missing[@]} != 0 ]; then
    [ "$install" = yes ] || fail "not installed, and --no-install says to leave it at that: ${missing[*]}"
    install_packages "${missing[@]}" || exit 1
fi
find_programs
make_scratch credentials
cd "$scratch"
umask 077
here=127.0.0.1
secret=$(openssl rand -hex 32)
make_certificate localhost --san "$here"

relay_config() { # ALGORITHM
    cat > "$1.yaml" <<CONFIG
listen: [{address: "$here:0", tls: true}]
hostname: localhost
realm: example.com
tls: {certificate: localhost.crt, key: localhost.key}
auth: {shared_secrets: [{secret: "$secret", algorithm: $1}]}
CONFIG
}

# Sets `name` and `password`.
make_credential() { # ALGORITHM
    local made
    made=$("$bin/msrprelay" credential alice@example.com --ttl 10m --config "$1.yaml") || fail "no credential"
    name=$(sed -n 's/^username *//p' <<< "$made") password=$(sed -n 's/^password *//p' <<< "$made")
}

expected() { # WHAT EXPECTED FOUND
    [ "$2" = "$3" ] || fail "$1: $3, expected $2"
    echo "$1: $3"
}

by_kamailio() { # NAME PASSWORD
    curl -s -o /dev/null -w '%{http_code}' -H "X-User: $1" -H "X-Password: $2" "http://$here:$kamailio_port/"
}

with_kamailio() { # ALGORITHM NUMBER
    kamailio_port=$(free_port "$here")
    # The page's own lines, with this secret and this algorithm, and a door by HTTP to the same check.
    {
        printf 'log_stderror=yes\nchildren=1\ntcp_children=1\ntcp_accept_no_cl=yes\nlisten=tcp:%s:%s\n' "$here" "$kamailio_port"
        printf 'loadmodule "sl.so"\nloadmodule "pv.so"\nloadmodule "xhttp.so"\n'
        sed -n '/^### Kamailio$/,/^### OpenSIPS$/p' "$root/docs/operate/accounts.md" | sed -n '/^```text$/,/^```$/p' | grep -v '^```' |
            sed "s/write here what openssl rand -hex 32 prints/$secret/; s/\"sha_algorithm\", 0)/\"sha_algorithm\", $2)/"
        cat <<'CONFIG'
request_route { route(AUTH); exit; }
event_route[xhttp:request] {
    if (autheph_authenticate("$hdr(X-User)", "$hdr(X-Password)")) {
        xhttp_reply("200", "OK", "text/plain", "yes");
    } else {
        xhttp_reply("403", "Forbidden", "text/plain", "no");
    }
}
CONFIG
    } > "kamailio-$1.cfg"
    grep -q "$secret" "kamailio-$1.cfg" || fail "docs/operate/accounts.md has no config for Kamailio"
    start "kamailio-$1.log" kamailio -DD -E -f "kamailio-$1.cfg" -Y "$scratch" -P "$scratch/kamailio-$1.pid" -m 32 -M 4
    local kamailio=$pid expired
    await "$kamailio" Kamailio "kamailio-$1.log" listens "$here" "$kamailio_port"
    make_credential "$1"
    expected "Kamailio, $1" 200 "$(by_kamailio "$name" "$password")"
    expected "Kamailio, $1, changed" 403 "$(by_kamailio "${name}x" "$password")"
    expired="$(($(date +%s) - 1)):alice"
    expected "Kamailio, $1, expired" 403 "$(by_kamailio "$expired" "$(by_openssl "${1/-/}" "$expired")")"
    kill "$kamailio"
    ended "$kamailio" || true
}

by_openssl() { # HASH NAME
    printf %s "$2" | openssl dgst "-$1" -hmac "$secret" -binary | openssl base64
}

# Whether coturn gives this user a place.
by_coturn() { # NAME PASSWORD
    if timeout 30 turnutils_uclient -T -y -c -n 1 -m 1 -p "$turn_port" -u "$1" -w "$2" "$here" > uclient.log 2>&1 &&
        grep -q 'Total lost packets 0' uclient.log; then
        echo yes
    else
        echo no
    fi
}

echo "== Kamailio"
kamailio -v | head -n 1
relay_config sha-1
relay_config sha-256
with_kamailio sha-1 0
with_kamailio sha-256 1

echo "== coturn"
turn_port=$(free_port "$here")
start coturn.log turnserver -n --listening-ip="$here" --relay-ip="$here" --listening-port="$turn_port" --realm=example.com \
    --use-auth-secret --static-auth-secret="$secret" --allow-loopback-peers --no-tls --no-dtls --no-cli \
    --cli-password="$secret" --log-file=stdout --pidfile="$scratch/coturn.pid" --userdb="$scratch/coturn.db"
turnserver=$pid
await "$turnserver" coturn coturn.log listens "$here" "$turn_port"
make_credential sha-1
expected "coturn" yes "$(by_coturn "$name" "$password")"
expected "coturn, changed" no "$(by_coturn "$name" "$(by_openssl sha1 "${name}x")")"
expired="$(($(date +%s) - 1)):alice"
expected "coturn, expired" no "$(by_coturn "$expired" "$(by_openssl sha1 "$expired")")"
kill "$turnserver"
ended "$turnserver" || true
