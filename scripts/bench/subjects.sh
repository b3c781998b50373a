# shellcheck shell=bash disable=SC2154,SC2034 # a part of bench.sh
# What bench.sh puts load on: relays of a build, byte proxies, a relay that runs already.

# By the name of a subject: the process that is measured, where it listens, and where for WebSocket, if it does.
declare -A process_of=() address=() web_of=()

has_vaes() {
    grep -qw vaes /proc/cpuinfo
}

# How fast the relay's CPU is at what TLS spends its bytes on.
machines_aes() {
    local speed
    speed=$(taskset -c "$relay_cpu" "${launch[@]}" openssl speed -evp aes-128-gcm -seconds 1 -bytes 16384 2> /dev/null |
        sed -n 's/^AES-128-GCM  *\([0-9.]*\)k$/\1/p')
    echo "AES-128-GCM of openssl on CPU $relay_cpu: $(awk -v speed="$speed" 'BEGIN { printf "%.1f", speed / 1e6 }') GB/s; \
flags: $({ grep -owE 'aes|vaes|vpclmulqdq|pmull' /proc/cpuinfo || true; } | sort -u | paste -sd ' ')"
}

install_proxies() {
    if command -v haproxy > /dev/null && command -v nginx > /dev/null; then
        [ -z "$(stream_module)" ] && ! nginx -V 2>&1 | grep -q -- '--with-stream ' || return 0
    fi
    install_packages haproxy nginx libnginx-mod-stream || exit 1
}

stream_module() {
    local file
    for file in /usr/lib/nginx/modules/ngx_stream_module.so /usr/lib64/nginx/modules/ngx_stream_module.so; do
        [ ! -e "$file" ] || { echo "$file"; return; }
    done
}

start_relay() { # NAME BINARY CORES RECORD-LAYER
    local directory=$scratch/$1
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
    # A build from before WebSocket is measured without.
    sed 's/^hostname:/  - {address: "127.0.0.1:0", tls: true, websocket: true}\n&/' "$directory/config.yaml" > "$directory/web.yaml"
    chmod 600 "$directory/web.yaml"
    unset "web_of[$1]"
    if "$2" check-config --user "$(id -un)" "$directory/web.yaml" > /dev/null 2>&1; then
        mv "$directory/web.yaml" "$directory/config.yaml"
        web_of[$1]=yes
    fi
    start "$directory/log" "${launch[@]}" "$2" --config "$directory/config.yaml" --ready-file "$directory/ready"
    process_of[$1]=$pid
    await "$pid" "the relay" "$directory/log" test -s "$directory/ready"
    address[$1]=localhost:$(port_in "$directory/ready")
    [ -z "${web_of[$1]:-}" ] || web_of[$1]=wss://localhost:$(sed -n '2s/.*://p' "$directory/ready")
}

stop_relay() { # NAME
    stop "${process_of[$1]}"
    unset "process_of[$1]"
}

start_proxies() {
    local port module
    far_port=$(free_port 127.0.0.1)
    port=$(free_port 127.0.0.1)
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
    start "$scratch/haproxy.log" taskset -c "$relay_cpu" "${launch[@]}" haproxy -db -f "$scratch/haproxy.cfg"
    process_of[haproxy]=$pid
    await "$pid" haproxy "$scratch/haproxy.log" listens 127.0.0.1 "$port"
    address[haproxy]=localhost:$port
    port=$(free_port 127.0.0.1)
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
    start "$scratch/nginx.log" taskset -c "$relay_cpu" "${launch[@]}" nginx -p "$scratch" -c "$scratch/nginx.conf"
    process_of[nginx]=$pid
    await "$pid" nginx "$scratch/nginx.log" listens 127.0.0.1 "$port"
    address[nginx]=localhost:$port
    # The checks whether they listen have left dead connections behind.
    sleep 0.2
}

# How to reach a subject: the arguments of `msrp bench` into `reach`.
reach() { # SUBJECT
    reach=(--json)
    case $1 in
        haproxy | nginx)
            reach+=(--through "${address[$1]}" --listen "127.0.0.1:$far_port" --certificate "$scratch/localhost.crt"
                --key "$scratch/localhost.key" --ca "$scratch/localhost.crt" --relay-pid "${process_of[$1]}")
            ;;
        against)
            reach+=(--relay "$against" --user "$against_user" --password-file "$against_password_file")
            if [ -n "$against_ca" ]; then reach+=(--ca "$against_ca"); else reach+=(--insecure); fi
            [ -z "$against_auth_uri" ] || reach+=(--auth-uri "$against_auth_uri")
            [ "$against_digest_uri" = no ] || reach+=(--digest-uri)
            local one
            for one in ${against_pid//,/ }; do reach+=(--relay-pid "$one"); done
            ;;
        kamailio)
            # Its digest authentication is that of SIP.
            reach+=(--relay "${address[$1]}" --user bench@example.com --password-file "$scratch/password"
                --ca "$scratch/localhost.crt" --digest-uri)
            local one
            for one in $(family "${process_of[$1]}"); do reach+=(--relay-pid "$one"); done
            ;;
        *-web)
            reach+=(--relay "${web_of[${1%-web}]}" --user bench@example.com --password-file "$scratch/password"
                --ca "$scratch/localhost.crt" --relay-pid "${process_of[${1%-web}]}")
            ;;
        *)
            reach+=(--relay "${address[$1]}" --user bench@example.com --password-file "$scratch/password"
                --ca "$scratch/localhost.crt" --relay-pid "${process_of[$1]}")
            ;;
    esac
}
