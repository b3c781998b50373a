#!/usr/bin/env bash
# Makes a certificate and key for a relay: self-signed, or signed by a small CA of your own.
# The Debian package installs it without the scripts beside it: so it stands by itself and shares nothing with them.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: gen-cert.sh HOSTNAME [--ca DIR] [--out DIR] [--san NAME]... [--rsa] [--days N]

Writes HOSTNAME.crt and HOSTNAME.key (PEM) for an msrprelay: ECDSA P-256, valid for DNS name HOSTNAME.

  --ca DIR     sign with the CA in DIR (ca.crt, ca.key), which is made on first use; otherwise self-signed
  --out DIR    where to write; default: the current directory
  --san NAME   one more DNS name or IP address to cover; may be repeated
  --rsa        RSA (3072 bits) instead of ECDSA
  --days N     how long the certificate is valid; default 365 (a new CA: ten years)
  -h, --help   this text

Nothing is ever overwritten. Keys are readable by you alone.

Examples:
  gen-cert.sh relay.example.com --out /etc/msrprelay/tls
  gen-cert.sh localhost --san 127.0.0.1 --ca ./demo-ca --out ./demo
USAGE
}

fail() {
    echo "gen-cert.sh: $*" >&2
    exit 1
}

host='' ca='' out='.' algorithm=ecdsa days=365
sans=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --rsa) algorithm=rsa; shift ;;
        --ca | --out | --san | --days)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help"
            case $1 in
                --ca) ca=$2 ;;
                --out) out=$2 ;;
                --san) sans+=("$2") ;;
                --days) days=$2 ;;
            esac
            shift 2
            ;;
        -*) fail "unknown option $1; see --help" ;;
        *)
            [ -z "$host" ] || fail "one HOSTNAME only; further names go behind --san"
            host=$1
            shift
            ;;
    esac
done

[ -n "$host" ] || { usage >&2; exit 2; }
command -v openssl > /dev/null || fail "openssl is not installed"
[[ $days =~ ^[1-9][0-9]{0,4}$ ]] || fail "--days $days: give a number of days"

# A name ends up in a file name and in openssl's configuration syntax: nothing but a name may pass.
is_name() { [[ $1 =~ ^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$ ]]; }
is_address() { [[ $1 =~ ^[0-9]+(\.[0-9]+){3}$ || ($1 == *:* && $1 =~ ^[0-9A-Fa-f:.]+$) ]]; }

is_name "$host" || fail "$host is not a host name"
! is_address "$host" || fail "$host is an address: give a host name, and the address behind --san"
names="DNS:$host"
for san in ${sans[@]+"${sans[@]}"}; do
    if is_address "$san"; then
        names+=",IP:$san"
    elif is_name "$san"; then
        names+=",DNS:$san"
    else
        fail "--san $san is neither a host name nor an IP address"
    fi
done

# "*.example.com" makes an awkward file name.
file=${host/#\*/wildcard}
crt=$out/$file.crt key=$out/$file.key
for path in "$crt" "$key"; do
    [ ! -e "$path" ] && [ ! -L "$path" ] || fail "$path exists already: move it away first"
done

mkdir -p "$out"
umask 077
# Only the owner may read the directory of a CA that is made here, and its key.
[ -z "$ca" ] || mkdir -p "$ca"
scratch=$(mktemp -d)
beside=''
trap 'rm -rf -- "$scratch" ${beside:+"$beside"}' EXIT
trap 'exit 130' INT TERM

new_key() { # FILE
    local kind=(-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:named_curve)
    [ "$algorithm" = ecdsa ] || kind=(-algorithm RSA -pkeyopt rsa_keygen_bits:3072)
    openssl genpkey "${kind[@]}" -out "$1"
}

# openssl's own configuration is not consulted: it differs from system to system. The subject is left to a
# short text, for a common name holds 64 letters at most; what counts are the alternative names.
configure() { # FILE COMMON_NAME EXTENSION...
    local to=$1 name=$2
    shift 2
    {
        printf '[req]\ndistinguished_name = subject\nprompt = no\nx509_extensions = extensions\n'
        printf '[subject]\nCN = %s\n[extensions]\n' "$name"
        printf '%s\n' "$@"
    } > "$to"
}

# Only complete files get their final names. They are made, with their mode, in a directory that no other user can enter, and
# linked from there: ln refuses a name that exists, and nothing is done to a file by a name that another user could change.
install_new() { # FROM TO UMASK
    beside=$(mktemp -d "$(dirname -- "$2")/.gen-cert.XXXXXXXXXX")
    (umask "$3" && cat -- "$1" > "$beside/file")
    ln -PT -- "$beside/file" "$2" 2> /dev/null \
        || fail "$2 cannot be created, or appeared meanwhile: nothing was overwritten"
    rm -rf -- "$beside"
    beside=''
}

run() {
    "$@" 2> "$scratch/log" || { cat "$scratch/log" >&2; fail "openssl failed"; }
}

common_extensions=(
    "subjectAltName = $names"
    'keyUsage = critical, digitalSignature'
    'extendedKeyUsage = serverAuth, clientAuth'
    'subjectKeyIdentifier = hash'
)

run new_key "$scratch/key"
if [ -z "$ca" ]; then
    configure "$scratch/conf" "${host:0:64}" "${common_extensions[@]}" 'basicConstraints = critical, CA:FALSE'
    run openssl req -x509 -new -sha256 -config "$scratch/conf" -key "$scratch/key" -days "$days" -out "$scratch/crt"
else
    if [ ! -e "$ca/ca.crt" ] && [ ! -e "$ca/ca.key" ]; then
        run new_key "$scratch/ca.key"
        configure "$scratch/conf" 'msrprelay CA' 'basicConstraints = critical, CA:TRUE, pathlen:0' \
            'keyUsage = critical, keyCertSign, cRLSign' 'subjectKeyIdentifier = hash'
        run openssl req -x509 -new -sha256 -config "$scratch/conf" -key "$scratch/ca.key" -days 3650 -out "$scratch/ca.crt"
        install_new "$scratch/ca.key" "$ca/ca.key" 077
        install_new "$scratch/ca.crt" "$ca/ca.crt" 022
        echo "Made a CA: $ca/ca.crt (give it to clients), $ca/ca.key (keep it)"
    fi
    for path in "$ca/ca.crt" "$ca/ca.key"; do
        [ -r "$path" ] || fail "$path cannot be read: a CA is ca.crt and ca.key together"
    done
    configure "$scratch/conf" "${host:0:64}" "${common_extensions[@]}" \
        'basicConstraints = critical, CA:FALSE' 'authorityKeyIdentifier = keyid'
    run openssl req -new -sha256 -config "$scratch/conf" -key "$scratch/key" -out "$scratch/csr"
    run openssl x509 -req -sha256 -in "$scratch/csr" -CA "$ca/ca.crt" -CAkey "$ca/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
        -days "$days" -extfile "$scratch/conf" -extensions extensions -out "$scratch/crt"
fi

install_new "$scratch/key" "$key" 077
install_new "$scratch/crt" "$crt" 022

absolute=$(cd "$out" && pwd)
echo "Made $crt and $key, valid for $days days, for $names"
echo
echo 'For the config:'
echo
echo 'tls:'
echo "  certificate: \"$absolute/$file.crt\""
echo "  key: \"$absolute/$file.key\""
echo
echo "The key is readable by you alone: if the relay runs as another user, give it to that one (chown)."
