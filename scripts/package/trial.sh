# shellcheck shell=bash disable=SC2154,SC2034 # a part of package.sh
# The trial of the Debian package: what an operator does with it. package.sh runs it in namespaces of its own, where the
# network is the loopback alone.

until_it_works() { # WHAT COMMAND...
    local what=$1
    shift
    comes_true 30 '' succeeds "$@" || fail "in vain waited 30 s for $what"
}

succeeds() { # COMMAND...
    "$@" > /dev/null 2>&1
}

# The relay's name on the README's page.
host=relay.example.com
# The relay's process, and the one to wait for, if it was started from here.
relay='' child=''
receiver=''

# What the trial needs besides the page: a name that leads to the relay, passwords.
prepare() {
    echo "127.0.0.1 $host" >> "$debian/etc/hosts"
    local user
    for user in alice bob; do
        echo "$user's password" > "$debian/root/$user.password"
    done
    mkdir -p "$debian/root/clone"
}

# And of the config: metrics, records.
add_to_config() {
    cat >> "$debian/etc/msrprelay/config.yaml" << 'YAML'
metrics: {address: "127.0.0.1:9285"}
accounting: {format: json, file: /var/log/msrprelay/sessions.json}
YAML
}

# The commands of a chapter, one a line, except the package's script and the installation itself.
commands_of() { # PAGE CHAPTER
    awk -v chapter="## $2" '/^## / { here = $0 == chapter } /^```/ { code = $0 == "```sh"; next } here && code' "$1" |
        grep -vE '^(#|scripts/package\.sh|apt-get |$)'
}

# Each as on the page. There is no service manager here: its commands are run as the unit has them.
play() { # PAGE CHAPTER
    local commands command password
    password=$(cat "$debian/root/alice.password")
    mapfile -t commands < <(commands_of "$1" "$2")
    [ "${#commands[@]}" -gt 8 ] || fail "$1: $2: only ${#commands[@]} commands: has its form changed?"
    for command in "${commands[@]}"; do
        echo "\$ $command"
        case $command in
            'cargo build --release --locked') echo "done before" ;;
            'systemctl daemon-reload') ;;
            'systemctl enable --now msrprelay') add_to_config && start_relay ;;
            'systemctl reload msrprelay') unit_reload ;;
            systemctl*) fail "the trial does not know what that is" ;;
            *)
                inside env MSRP_PASSWORD="$password" sh -c "cd /root/clone && $command" \
                    <<< "$password" || fail "$1: the command failed"
                ;;
        esac
    done
    [ -n "$relay" ] || fail "$1: $2: the relay is not started"
}

# The starting point of the page's source way: a clone, and what cargo has built in it.
put_clone_in() {
    mkdir -p "$debian/root/clone/target"
    cp -r deploy scripts "$debian/root/clone/"
    cp -r "$work/bin" "$debian/root/clone/target/release"
}

# An answer over HTTP, without a tool that a minimal Debian does not have.
ask() { # PATH
    local line
    exec 3<> /dev/tcp/127.0.0.1/9285 || return
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n' "$1" >&3
    read -r line <&3
    [ "${line#* 200}" != "$line" ] || { exec 3>&-; return 1; }
    while read -r line <&3 && [ "$line" != $'\r' ]; do :; done
    cat <&3
    exec 3>&-
}

is_ready_or_gone() {
    ask /readyz || ! kill -0 "$relay"
}

# The unit's own command, as the unit's user, with its environment.
start_relay() {
    local command environment
    command=$(cat "$debian"/{etc,usr/lib}/systemd/system/msrprelay.service 2> /dev/null | sed -n 's/^ExecStart=//p' || true)
    environment=$(sed -n 's/^Environment=//p' deploy/msrprelay.service)
    [ -n "$command" ] || fail "the unit has no command"
    echo "as msrprelay: $command"
    # The directories that systemd makes for the unit.
    inside install -d -m 750 -o msrprelay -g msrprelay /run/msrprelay /var/log/msrprelay
    # The shell becomes the relay, so that its number is the relay's.
    # shellcheck disable=SC2086,SC2016 # the unit's words are words; the shell inside expands its own
    start "$work/relay.log" as_relay env $environment sh -c 'echo $$ > /tmp/relay.pid; exec "$@"' sh $command
    child=$pid
    until_it_works "the relay to be a process" test -s "$debian/tmp/relay.pid"
    relay=$(cat "$debian/tmp/relay.pid")
    until_it_works "the relay to be ready" is_ready_or_gone
    ask /readyz > /dev/null || { cat "$work/relay.log" >&2; fail "the relay did not start"; }
    grep -oE '(Listening|Accounts are available|Metrics are served).*' "$work/relay.log"
    echo "process $relay of $(inside stat -c %U "/proc/$relay"), and /readyz says $(ask /readyz)"
}

stop_relay() {
    local status=0
    kill "$relay"
    if [ -n "$child" ]; then
        ended "$child" || status=$?
        [ "$status" = 0 ] || { cat "$work/relay.log" >&2; fail "the relay ended with status $status"; }
        echo "ended in order, with status 0"
    else
        # Its predecessor started it, and reported its end.
        until_it_works "the relay to end" has_ended "$relay"
        echo "ended"
    fi
    rm -f "$debian/tmp/relay.pid"
}

# As systemd runs it: as the unit's user, with the relay's number.
unit_reload() {
    local command
    # shellcheck disable=SC2016 # the unit's word, not the shell's
    command=$(sed -n 's/^ExecReload=//p' deploy/msrprelay.service | sed 's/\$MAINPID/'"$relay/")
    [ -n "$command" ] || fail "the unit has no command for a reload"
    echo "as msrprelay: $command"
    # shellcheck disable=SC2086 # the unit's words are words
    as_relay $command || fail "the relay does not reload"
}

add_bob() {
    as_relay msrprelay user add bob@example.com < "$debian/root/bob.password"
    as_relay msrprelay user list
}

bob_waits() {
    rm -rf "$debian/root/inbox" "$debian/root/bob.path"
    start "$work/receive.log" inside sh -c "mkdir /root/inbox
        exec msrp receive --user bob@example.com --relay $host --ca /root/clone/$host.crt \
        --password-file /root/bob.password --out /root/inbox --path-file /root/bob.path --timeout 60s"
    receiver=$pid
    until_it_works "bob's path" test -s "$debian/root/bob.path"
}

alice_sends() {
    head -c 20M /dev/urandom > "$debian/root/film.bin"
    inside msrp send /root/film.bin --user alice@example.com --relay "$host" --ca "/root/clone/$host.crt" \
        --password-file /root/alice.password --to "$(cat "$debian/root/bob.path")" > "$work/send.log" 2>&1 ||
        { cat "$work/send.log" >&2; fail "the file was not sent"; }
    ended "$receiver" || { cat "$work/receive.log" >&2; fail "the file was not received"; }
    cmp "$debian/root/film.bin" "$debian/root/inbox/film.bin" || fail "it is another file now"
    echo "20 MiB from alice to bob, identical: $(sha256sum < "$debian/root/inbox/film.bin" | cut -c 1-16)..."
}

send_a_file() {
    bob_waits
    alice_sends
}

has_counted_the_file() {
    [ "$(ask /metrics | sed -n 's/^msrprelay_body_bytes_total{.*direction="out"} //p' | awk '{sum += $1} END {print sum}')" = 20971520 ]
}

look_at_metrics() {
    until_it_works "the file to be counted" has_counted_the_file
    ask /metrics | grep -E '^msrprelay_(build_info|auth_total\{outcome="(ok|challenged|wrong)|sessions_opened_total|body_bytes_total|tls_handshakes_total|core_up|core_restarts_total|accounts_ready)'
    echo "/healthz says $(ask /healthz)"
}

expiry() {
    ask /metrics | sed -n 's/^msrprelay_certificate_expiry_timestamp_seconds{.*} //p'
}

expires_sooner() { # THAN
    [ "$(expiry)" -lt "$1" ]
}

# Another certificate, for a month instead of a year: the metrics tell which one is in force.
reload() {
    local before
    before=$(expiry)
    quietly "gen-cert.sh failed" inside /usr/share/msrprelay/gen-cert.sh "$host" --days 30 --out /root/renewed
    cp "$debian/root/renewed/$host.crt" "$debian/root/clone/$host.crt"
    # As the operator copies them: an existing file keeps its owner and mode.
    inside sh -c "cat /root/renewed/$host.crt > /etc/msrprelay/tls/relay.crt
        cat /root/renewed/$host.key > /etc/msrprelay/tls/relay.key"
    unit_reload
    until_it_works "the new certificate to be in force" expires_sooner "$before"
    echo "certificate valid until $(date -u -d "@$before" +%F) before, until $(date -u -d "@$(expiry)" +%F) now"
    inside msrp probe --relay "$host" --ca "/root/clone/$host.crt" | grep -E '^(certificate|trust)'
    ask /readyz > /dev/null || fail "it is not ready after the reload"
}

has_records() {
    [ -s "$debian/var/log/msrprelay/sessions.json" ]
}

# As logrotate does once a week; its configuration asks the service manager for the reload.
rotate() {
    until_it_works "the records of the sessions" has_records
    quietly "logrotate failed" inside logrotate --force /etc/logrotate.d/msrprelay
    [ -s "$debian/var/log/msrprelay/sessions.json.1" ] || fail "logrotate has left the accounting file where it was"
    [ ! -e "$debian/var/log/msrprelay/sessions.json" ] || fail "logrotate has made a file"
    unit_reload
    send_a_file
    until_it_works "the new file" has_records
    inside ls -l /var/log/msrprelay
}

has_given_way() {
    grep -q 'The successor has taken over' "$work/relay.log" && ask /readyz
}

# A newer version over a running one: the changed config and the users must stay. Then the package's postinst asks
# systemd: the old process hands over to the new one, while bob holds a session.
upgrade() {
    local before
    before=$(inside sha256sum /etc/msrprelay/config.yaml)
    bob_waits
    apt_install "$newer"
    [ "$(inside sha256sum /etc/msrprelay/config.yaml)" = "$before" ] || fail "the upgrade changed the config"
    [ "$(inside stat -c '%U:%G %a' /etc/msrprelay/config.yaml)" = 'root:msrprelay 640' ] || fail "the upgrade opened the config"
    [ "$(as_relay msrprelay user list | grep -c '@example.com')" = 2 ] || fail "the upgrade lost the users"
    ask /readyz > /dev/null || fail "the upgrade stopped what runs"
    kill -USR2 "$relay"
    until_it_works "another process to take over" has_given_way
    local successor status=0
    successor=$(sed -n 's/.*The successor has taken over.* pid=\([0-9]*\).*/\1/p' "$work/relay.log")
    [ -n "$successor" ] || fail "the log does not say which process has taken over"
    echo "config and users stay; process $successor has taken over from $relay, where bob's session is"
    alice_sends
    ended "$child" || status=$?
    [ "$status" = 0 ] || { cat "$work/relay.log" >&2; fail "the old process ended with status $status"; }
    echo "with bob gone, process $relay has ended in order"
    relay=$successor child=''
}

restart() {
    stop_relay
    start_relay
}

try_it() {
    step 'A root of its own' make_root
    step 'Installing' put_in
    prepare
    step 'Playing the page' play README.md 'Ten minutes to a running relay'
    if [ "$try" = yes ]; then
        step 'A second user' add_bob
        step 'Sending a file' send_a_file
        step 'Looking at the metrics' look_at_metrics
        step 'Rotating the accounting file' rotate
        step 'Reloading' reload
        step 'Upgrading while it runs and has sessions' upgrade
        step 'Restarting' restart
        step 'Sending another file' send_a_file
    fi
    step 'Stopping' stop_relay
    step 'Removing' remove
    [ "$try" = no ] || try_from_source
}

try_from_source() {
    remove_root
    relay='' child=''
    step 'Another root' make_root
    put_clone_in
    prepare
    step 'Playing the source way' play docs/operate/install.md 'From source'
    step 'A second user' add_bob
    step 'Sending a file' send_a_file
    step 'Stopping' stop_relay
}
