# shellcheck shell=bash disable=SC2154,SC2034 # a part of bench.sh
# Kamailio as an MSRP relay beside ours: the same load, the same CPU.

# The rows that it can do. report.awk says what keeps it from the others.
kamailio_rows='chunks-10k-no chunks-10k-yes chunks-2k-yes messages-16 messages-8x8 alone auth'

# Without Kamailio the run goes on.
add_kamailio() {
    local missing
    mapfile -t missing < <(uninstalled "${kamailio_packages[@]}")
    if [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"; then
        if find_kamailio && start_kamailio; then return; fi
    fi
    echo "bench.sh: going on without Kamailio: the rows that are compared with it have no ratio" >&2
}

kamailio_config() { # PORT
    cat > "$scratch/tls.cfg" <<CONFIG
[server:default]
# What the client offers is TLS 1.3. Older Kamailios have no name for that alone.
method = TLSv1.2+
verify_certificate = no
require_certificate = no
certificate = $scratch/localhost.crt
private_key = $scratch/localhost.key
CONFIG
    cat <<CONFIG
#!KAMAILIO
debug=-1
log_stderror=yes
children=1
auto_aliases=no
dns=no
rev_dns=no
enable_tls=yes
# On one CPU one takes a third longer for one message at a time, and as much CPU time as four.
tcp_children=4
tcp_accept_no_cl=yes
# A frame must fit, and so must the bytes that a slow receiver has not taken: beyond that the connection is dropped.
tcp_rd_buf_size=16384
tcp_conn_wq_max=16777216
tcp_wq_max=67108864
listen=tls:127.0.0.1:$1
CONFIG
    kamailio_relay "localhost:$1" example.com "$password"
}

start_kamailio() {
    local port
    port=$(free_port 127.0.0.1)
    (umask 077; kamailio_config "$port" > "$scratch/kamailio.cfg")
    start "$scratch/kamailio.log" taskset -c "$relay_cpu" "${launch[@]}" kamailio -DD -E -f "$scratch/kamailio.cfg" \
        -Y "$scratch" -P "$scratch/kamailio.pid" -m 256 -M 16
    # It listens before it has forked. Who shakes hands is forked last.
    if ! comes_true "$await_seconds" "$pid" shakes_hands "$port"; then
        tail -n 10 "$scratch/kamailio.log" >&2
        echo "bench.sh: Kamailio does not start" >&2
        stop "$pid"
        return 1
    fi
    process_of[kamailio]=$pid
    address[kamailio]=localhost:$port
}

shakes_hands() { # PORT
    openssl s_client -connect "127.0.0.1:$1" < /dev/null > /dev/null 2>&1
}

# A process and those that it has forked.
family() { # PID
    local child
    echo "$1"
    for child in $(cat /proc/"$1"/task/*/children 2> /dev/null); do family "$child"; done
}

# The relays that can do a row.
relays_for() { # ROW
    echo "$relays"
    [ -z "${process_of[kamailio]:-}" ] || [[ " $kamailio_rows " != *" $1 "* ]] || echo kamailio
}
