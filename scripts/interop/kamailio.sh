# shellcheck shell=bash disable=SC2154 # a part of interop.sh
# Kamailio as a relay: its config and start.

kamailio_config() { # PORT
    cat > tls.cfg <<CONFIG
[server:default]
method = TLSv1.2+
# Asks for a certificate and continues without one, because clients have none.
verify_certificate = yes
require_certificate = no
certificate = $scratch/kam.example.net.crt
private_key = $scratch/kam.example.net.key
ca_list = $scratch/ca/ca.crt

[client:default]
method = TLSv1.2+
verify_certificate = yes
require_certificate = yes
certificate = $scratch/kam.example.net.crt
private_key = $scratch/kam.example.net.key
ca_list = $scratch/ca/ca.crt
CONFIG
    cat > kamailio.cfg <<CONFIG
#!KAMAILIO
debug=2
log_stderror=yes
children=1
auto_aliases=no
dns=no
rev_dns=no
# With it the hosts file is not used.
use_dns_cache=off
enable_tls=yes
tcp_children=2
tcp_accept_no_cl=yes
# A frame must fit, and so must the bytes that a slow receiver has not taken: beyond that the connection is dropped.
tcp_rd_buf_size=16384
tcp_conn_wq_max=16777216
tcp_wq_max=67108864
listen=tls:$far:$1
CONFIG
    # What comes from this relay is told to the log, with whether its certificate was verified.
    # shellcheck disable=SC2016 # Kamailio's variables
    kamailio_relay "kam.example.net:$1" example.net "$bob" '    if ($msrp(prevhop) =~ "://localhost:'"$near_port"'/") {
        xlog("L_NOTICE", "interop: certificate [$sel(tls.peer.verified)] body [$(msrp(body){s.len})]\n");
    }' >> kamailio.cfg
}

start_kamailio() {
    local attempt
    echo "== Starting Kamailio"
    for attempt in 1 2 3; do
        far_port=$(free_port "$far")
        kamailio_config "$far_port"
        start kamailio.log kamailio -DD -E -f kamailio.cfg -Y "$scratch" -P "$scratch/kamailio.pid" -m 64 -M 8
        sleep 0.5
        # Another process may have taken the port meanwhile.
        if [ "$attempt" -lt 3 ] && has_ended "$pid" && grep -q 'already in use' kamailio.log; then
            continue
        fi
        await "$pid" Kamailio kamailio.log listens "$far" "$far_port"
        break
    done
    echo "It listens on $far:$far_port"
}
