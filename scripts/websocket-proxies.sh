#!/usr/bin/env bash
# Runs the examples of docs/operate/websocket.md for a port that a web server has, too: haproxy and nginx in front of the relay.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: websocket-proxies.sh [--size SIZE] [--bin DIR] [--no-build]

Takes the three examples as the page has them, but for the ports, and puts each in front of a relay and a web server on
loopback. Through each a file goes from a client by WebSocket to one by TCP, and one back, and both ends are compared by
SHA-256; the web server answers for its own name; and a client that only waits is still there after some pings, while what
stands between would have given up a connection that is silent. It takes half a minute, and nothing stays behind.

Installs haproxy, nginx, its module stream, and curl with apt-get if they are missing (as root).

  --size SIZE   of each file; default 20M
  --bin DIR     take msrprelay and msrp from there; default: builds them as scripts/demo.sh does
  --no-build    take the binaries that are in target/demo
  -h, --help    this text

Exit status: 0 if all three work, 1 if one does not, 2 for wrong usage, 130 if interrupted.
USAGE
}

size=20M bin='' build=yes
options "--no-build" "--size --bin" "$@"
bytes=$(bytes_of --size "$size")
need openssl openssl
need coreutils sha256sum head mktemp realpath
need mawk awk
missing=$(uninstalled haproxy nginx libnginx-mod-stream curl)
# shellcheck disable=SC2086 # several packages
[ -z "$missing" ] || install_packages $missing || exit 1
[ -z "$bin" ] || bin=$(realpath "$bin")
cd "$root"
# shellcheck disable=SC2034 # read by find_programs
profile=demo
find_programs --no-default-features
make_scratch websocket-proxies

readonly name=relay.example.com other=www.example.com
make_certificate "$name" --san 127.0.0.1
make_certificate "$other" --san 127.0.0.1
password=$(openssl rand -hex 12)
# Short, so that a few of them pass while a client waits; the time-outs below are made shorter than that client's silence.
cat > "$scratch/config.yaml" <<CONFIG
listen:
  - {address: "127.0.0.1:0", tls: true}
  - {address: "127.0.0.1:0", tls: true, websocket: true}
hostname: $name
realm: example.com
tls: {certificate: $name.crt, key: $name.key}
websocket: {path: /msrp, ping_interval: 1s}
cores: [$(first_cpus 1)]
log: {level: info, format: text}
auth: {memory: {users: [{user: "web@example.com", password: "$password"}, {user: "tcp@example.com", password: "$password"}]}}
CONFIG
chmod 600 "$scratch/config.yaml"
start "$scratch/relay.log" "$bin/msrprelay" --config "$scratch/config.yaml" --ready-file "$scratch/ready"
await "$pid" "the relay" "$scratch/relay.log" test -s "$scratch/ready"
relay_port=$(port_in "$scratch/ready") web_port=$(sed -n '2s/.*://p' "$scratch/ready")
head -c "$bytes" /dev/urandom > "$scratch/file.bin"
sum=$(hash_of "$scratch/file.bin")

# The example that begins with this line: all up to the end of its block, with our ports and short time-outs.
example() { # FIRST-LINE
    awk -v first="$1" '
        /^```/ { if (inside) exit; next }
        $0 == first { inside = 1 }
        inside
    ' docs/operate/websocket.md > "$scratch/example"
    [ -s "$scratch/example" ] || fail "docs/operate/websocket.md has no example that begins with: $1"
    sed -e "s/127\.0\.0\.1:8443/127.0.0.1:$web_port/" -e "s/127\.0\.0\.1:8444/127.0.0.1:$site_port/" \
        -e "s/\(bind \|listen \):\{0,1\}443/\1127.0.0.1:$port/" -e 's/timeout\( tunnel\)\{0,1\} 1h/timeout\1 3s/' "$scratch/example"
}

module=/usr/lib/nginx/modules/ngx_stream_module.so
nginx_head() {
    [ ! -e "$module" ] || echo "load_module $module;"
    cat <<CONFIG
daemon off;
pid $scratch/nginx-$1.pid;
error_log stderr warn;
events { worker_connections 200; }
CONFIG
}

http_head() {
    cat <<CONFIG
    access_log off;
    client_body_temp_path $scratch/t1; proxy_temp_path $scratch/t2; fastcgi_temp_path $scratch/t3;
    uwsgi_temp_path $scratch/t4; scgi_temp_path $scratch/t5;
CONFIG
}

# The web server that was there first.
site_port=$(free_port 127.0.0.1)
{
    nginx_head site
    echo "http {"
    http_head
    cat <<CONFIG
    server {
        listen 127.0.0.1:$site_port ssl;
        ssl_certificate $scratch/$other.crt;
        ssl_certificate_key $scratch/$other.key;
        location / { return 200 "the web server\n"; }
    }
}
CONFIG
} > "$scratch/site.conf"
start "$scratch/site.log" nginx -p "$scratch" -c "$scratch/site.conf"
await "$pid" "the web server" "$scratch/site.log" listens 127.0.0.1 "$site_port"

haproxy_sni() {
    {
        printf 'global\n    nbthread 1\ndefaults\n    timeout connect 5s\n    timeout client 3s\n    timeout server 3s\n'
        example 'frontend https'
        printf 'backend web\n    mode tcp\n    server web 127.0.0.1:%s\n' "$site_port"
    } > "$scratch/haproxy.cfg"
    start "$scratch/proxy.log" haproxy -db -f "$scratch/haproxy.cfg"
}

nginx_sni() {
    { nginx_head proxy; example 'stream {'; } > "$scratch/proxy.conf"
    start "$scratch/proxy.log" nginx -p "$scratch" -c "$scratch/proxy.conf"
}

nginx_path() {
    {
        nginx_head proxy
        echo "http {"
        http_head
        cat <<CONFIG
    server {
        listen 127.0.0.1:$port ssl;
        server_name $name;
        ssl_certificate $scratch/$name.crt;
        ssl_certificate_key $scratch/$name.key;
CONFIG
        example 'location = /msrp {'
        cat <<CONFIG
    }
    server {
        listen 127.0.0.1:$port ssl;
        server_name $other;
        ssl_certificate $scratch/$other.crt;
        ssl_certificate_key $scratch/$other.key;
        location / { return 200 "the web server\n"; }
    }
}
CONFIG
    } > "$scratch/proxy.conf"
    start "$scratch/proxy.log" nginx -p "$scratch" -c "$scratch/proxy.conf"
}

# How a user reaches the relay, in `reach`.
reach() { # web|tcp
    reach=(--user "$1@example.com" --ca "$scratch/$name.crt" --server-name "$name" --auth-uri "msrps://example.com;tcp")
    case $1 in
        web) reach+=(--relay "wss://127.0.0.1:$port/msrp") ;;
        tcp) reach+=(--relay "127.0.0.1:$relay_port") ;;
    esac
}

transfer() { # FROM TO SECONDS-TO-WAIT
    local receiver reach
    rm -rf "$scratch/in" "$scratch/path"
    mkdir "$scratch/in"
    reach "$2"
    MSRP_PASSWORD=$password start "$scratch/receive.log" "$bin/msrp" receive "${reach[@]}" --out "$scratch/in" \
        --path-file "$scratch/path"
    receiver=$pid
    await "$receiver" "the receiver" "$scratch/receive.log" test -s "$scratch/path"
    sleep "$3"
    reach "$1"
    MSRP_PASSWORD=$password start "$scratch/send.log" "$bin/msrp" send "$scratch/file.bin" "${reach[@]}" \
        --to "$(cat "$scratch/path")"
    ended "$pid" || { cat "$scratch/send.log" "$scratch/proxy.log" >&2; fail "the sender has failed"; }
    ended "$receiver" || { cat "$scratch/receive.log" "$scratch/proxy.log" >&2; fail "the receiver has failed"; }
    [ "$(hash_of "$scratch/in/file.bin")" = "$sum" ] || fail "the file did not arrive as it was sent"
    echo "$1 to $2: $size, SHA-256 ${sum:0:16}... on both sides"
}

try() { # TITLE FUNCTION
    echo "== $1"
    port=$(free_port 127.0.0.1)
    "$2"
    local proxy=$pid said
    await "$proxy" "what stands in front" "$scratch/proxy.log" listens 127.0.0.1 "$port"
    said=$(curl --silent --show-error --max-time 10 --cacert "$scratch/$other.crt" --resolve "$other:$port:127.0.0.1" "https://$other:$port/")
    [ "$said" = "the web server" ] || fail "$other is not answered by the web server, but by: $said"
    echo "$other: the web server answers"
    transfer web tcp 0
    # Longer than any time-out of what stands between: the pings keep it open.
    transfer tcp web 5
    stop "$proxy"
}

try 'haproxy, by the name that the client asks for' haproxy_sni
try 'nginx, by the name that the client asks for' nginx_sni
try 'nginx, by the path' nginx_path
echo "OK: three examples, a file each way through each"
