#!/bin/bash
# Runs in the machine that vm.sh boots, as root, once after each boot. Its lines that begin with ok or FAILED are checks, those with
# note are findings, those with | the journal's tail below a failed check; what else commands print stands beside them. A failed
# check does not end the trial.
export LC_ALL=C.UTF-8 HOME=/root TERM=dumb PAGER=cat SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 COLUMNS=160 DEBIAN_FRONTEND=noninteractive
here=/root/trial
cd "$here" || exit 1
config=/etc/msrprelay/config.yaml
documents=$here/page/usr/share/doc/msrprelay
# How many times as long as on a quiet machine things may take.
patience=$(cat patience)
# What systemctl waits for an answer; 25 s by default.
export SYSTEMD_BUS_TIMEOUT=$((25 * patience))s
client=(--relay relay.example.com --ca "$here/relay.example.com.crt")

# -- saying it ---------------------------------------------------------------------------------------

title() { printf '\n== [%4d s] %s\n' "$(cut -d. -f1 /proc/uptime)" "$*"; }
note() { printf 'note %s\n' "$*"; }
# What a check runs prints first, so that its verdict stands below.
check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@"; then echo "ok $what"; else echo "FAILED $what" && tell_more; fi
}
# What is worth knowing of a relay that has not done what it should.
tell_more() {
    {
        systemctl show -p ActiveState,SubState,Result,NRestarts,MainPID,StatusText msrprelay | tr '\n' ' '
        echo
        systemctl list-jobs --no-legend
        journalctl -q -o short-precise -n 12 -u msrprelay
    } 2>&1 | sed 's/^/| /'
}
show() { # COMMAND...
    local status=0
    printf '$ %s\n' "$*"
    "$@" || status=$?
    [ "$status" = 0 ] || echo "(exit status $status)"
    return "$status"
}
says() { # WORDS COMMAND...: the command's output has these words
    local words=$1 output
    shift
    output=$("$@" 2>&1)
    echo "$output"
    grep -qE -- "$words" <<< "$output"
}
says_nothing() { # COMMAND...
    local output
    output=$("$@" 2>&1)
    echo "$output"
    [ -z "$output" ]
}
fails() { ! "$@"; }
no_unit_has_failed() { says_nothing systemctl --failed --no-legend; }

# -- waiting ------------------------------------------------------------------------------------------

wait_for() { # SECONDS COMMAND...
    local until=$((SECONDS + $1 * patience))
    shift
    until "$@" > /dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.2
    done
}
main() { systemctl show -P MainPID msrprelay; }
state() { systemctl show -P ActiveState msrprelay; }
active() { [ "$(state)" = active ]; }
inactive() { [ "$(state)" = inactive ]; }
main_is() { [ "$(main)" = "$1" ]; }
main_changed() { # FROM
    local now
    now=$(main)
    [ "$now" != 0 ] && [ "$now" != "$1" ]
}
gone() { ! kill -0 "$1" 2> /dev/null; }

# A moment, and what the journal has of the relay since. No cursors: with a filter some versions of journalctl leave out
# the first line after one.
mark() { date '+%F %T.%6N'; }
journal() { # MARK [OPTION...]
    local since=$1
    shift
    journalctl -q -u msrprelay -o short-precise --since "$since" "$@"
}
logged() { # MARK WORDS
    journal "$1" | grep -qF -- "$2"
}

# -- the commands of the documents -------------------------------------------------------------------

# Those of the package that is tried: they are needed before it is installed, and while the version before is.
unpack_documents() {
    mkdir -p page
    dpkg-deb --fsys-tarfile target/debian/msrprelay_*.deb | tar -C page -x ./usr/share/doc/msrprelay
}

# The commands of a document, one a line: those below a heading, or all.
commands_of() { # DOCUMENT [HEADING]
    { zcat -f "$documents/$1" 2> /dev/null || zcat "$documents/$1.gz"; } |
        awk -v heading="${2-}" '
            /^```/ { code = $0 == "```sh"; next }
            /^#+ / && !code { below = $0 == heading }
            code && (below || heading == "")' |
        sed -E -e 's/[[:space:]]+#.*//' -e '/^(#|$)/d'
}

# The command of a document that begins so, as it stands there.
command_of() { # DOCUMENT BEGINNING
    local line
    while IFS= read -r line; do
        [ "${line#"$2"}" = "$line" ] || { echo "$line"; return; }
    done < <(commands_of "$1")
    echo "FAILED the page $1 has the command $2" > /dev/ttyS1
    echo false
}

# Runs a command line as an operator types it; what it asks for is answered from standard input.
types() { # COMMAND-LINE
    printf '# %s\n' "$1"
    bash -c "$1"
}

# -- alice and bob -------------------------------------------------------------------------------------

receiver=''
bob_waits() {
    rm -rf inbox bob.path
    mkdir inbox
    msrp receive --user bob@example.com "${client[@]}" --password-file bob.password \
        --out inbox --path-file bob.path --timeout $((300 * patience))s > receive.log 2>&1 &
    receiver=$!
    wait_for 30 test -s bob.path || { echo "FAILED bob gets a path"; cat receive.log; return 1; }
}
bob_leaves() {
    kill "$receiver" 2> /dev/null
    wait "$receiver"
}
alice_sends() {
    timeout -k 1 $((60 * patience)) msrp send film.bin --user alice@example.com "${client[@]}" \
        --password-file alice.password --to "$(cat bob.path)" > send.log 2>&1 || { cat send.log; return 1; }
}
bob_has_it() {
    wait_for 30 gone "$receiver" || { kill "$receiver"; cat receive.log; return 1; }
    wait "$receiver" || { cat receive.log; return 1; }
    cmp film.bin inbox/film.bin
}
a_file_arrives() { alice_sends && bob_has_it; }
probe() {
    timeout -k 1 $((60 * patience)) msrp probe "${client[@]}" --user alice@example.com --password-file alice.password > probe.log 2>&1 ||
        { cat probe.log; return 1; }
}

# -- the parts of the trial ----------------------------------------------------------------------------

the_machine() {
    title "The machine"
    # shellcheck source=/dev/null
    note "Debian $(cat /etc/debian_version), Linux $(uname -r), systemd $(systemctl --version | sed -n '1s/.*(\(.*\))/\1/p')"
    systemd-analyze
    check "the machine has no failed unit" no_unit_has_failed
    unpack_documents
    widen_the_units_times
    head -c 4M /dev/urandom > film.bin
    local user
    for user in alice bob; do echo "$user's password" > "$user.password"; done
    chmod 600 ./*.password
}

# On a machine with other things to do a core may get no time for longer than the watchdog waits. Gone with the next boot.
widen_the_units_times() {
    [ "$patience" -gt 1 ] || return 0
    local directory=/run/systemd/system/msrprelay.service.d
    mkdir -p "$directory"
    printf '[Service]\n%s=%ss\n' WatchdogSec $((30 * patience)) > "$directory/patience.conf"
    printf '%s=%ss\n' TimeoutStartSec $((90 * patience)) TimeoutStopSec $((20 * patience)) >> "$directory/patience.conf"
    systemctl daemon-reload
    note "the unit's times are $patience times as long"
}

# What the page leaves to the operator: a figure's address, records. The config is there once the package is.
add_to_config() {
    cat >> "$config" << 'YAML'
metrics: {address: "127.0.0.1:9285"}
accounting: {format: json, file: /var/log/msrprelay/sessions.json}
YAML
}

the_page() {
    title "README: ten minutes to a running relay"
    local command commands password started
    password=$(cat alice.password)
    mapfile -t commands < <(commands_of README.md '## Ten minutes to a running relay')
    check "the page has its commands" [ "${#commands[@]}" -gt 10 ]
    for command in "${commands[@]}"; do
        # The package is built already.
        [ "$command" != scripts/package.sh ] || continue
        started=$(mark)
        check "$command" env MSRP_PASSWORD="$password" bash -c "$command" <<< "$password"
        case $command in
            apt-get*) after_installing ;;
            *'user add'*) as_root_finds_what_the_relay_cannot_read ;;
            *'enable --now'*)
                check "nothing at warn in the journal" \
                    says_nothing journal "$started" -p warning
                check "the unit is active, and systemctl status shows the addresses" \
                    says 'Status: .*0.0.0.0:2855' systemctl --no-pager -l status msrprelay
                ;;
        esac
    done
    check "another user" show msrprelay user add bob@example.com < bob.password
    check "/readyz says ok" says '^ok' bash -c "$(command_of docs/operate/monitoring.md 'curl -s http://127.0.0.1:9285/readyz')"
    check "the figures" says 'msrprelay_core_up' bash -c "$(command_of docs/operate/monitoring.md 'curl -s http://127.0.0.1:9285/metrics')"
    grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd)' "/proc/$(main)/status"
    check "locked memory has no limit" grep -E '^Max locked memory +unlimited' "/proc/$(main)/limits"
    check "the limit on open files is the unit's" grep -E '^Max open files +131072' "/proc/$(main)/limits"
    check "the process is the relay's user's" [ "$(stat -c %U "/proc/$(main)")" = msrprelay ]
}

after_installing() {
    check "the service is neither enabled nor started" [ "$(systemctl is-enabled msrprelay)/$(state)" = disabled/inactive ]
    check "systemd has nothing to say of the unit" says_nothing systemd-analyze verify --man=no msrprelay.service
    check "the files are as in the package" says_nothing dpkg --verify msrprelay
    local m
    m=$(mark)
    # A relay that an operator starts before there is a certificate.
    check "without a certificate it does not start" fails systemctl start msrprelay
    sleep 7
    check "it is not started again" says 'Result=exit-code' systemctl show -p Result,NRestarts,ActiveState msrprelay
    check "the journal names the key to mend" logged "$m" tls.certificate
    journal "$m"
    systemctl reset-failed msrprelay
    add_to_config
}

as_root_finds_what_the_relay_cannot_read() {
    local key=/etc/msrprelay/tls/relay.key
    chgrp root "$key"
    check "check-config, run by root, finds that the relay's user cannot read the key" \
        says 'relay\.key.*([Pp]ermission|read)' msrprelay check-config
    chgrp msrprelay "$key"
}

the_accounts() {
    title "accounts.md: users in a file"
    local command commands
    mapfile -t commands < <(commands_of docs/operate/accounts.md '## sqlite: no database server')
    check "the page has its commands" [ "${#commands[@]}" -ge 4 ]
    # Alice of the page is there already: another user goes the same way.
    for command in "${commands[@]}"; do
        check "${command//alice/carol}" types "${command//alice/carol}" <<< "carol's password"
    done
    check "carol is gone, alice and bob are there" [ "$(msrprelay user list | grep -cE '(alice|bob|carol)@')" = 2 ]
    check "the accounts are the relay's" [ "$(stat -c '%U %a' /var/lib/msrprelay)" = 'msrprelay 700' ]
}

the_admin_commands() {
    title "running.md: look inside"
    local command id tracer m
    bob_waits || return
    check "msrprelay status" says 'running|0\.0\.0\.0:2855' types "$(command_of docs/operate/running.md 'msrprelay status')"
    check "msrprelay sessions" says 'bob@example.com' types "$(command_of docs/operate/running.md 'msrprelay sessions')"
    m=$(mark)
    # It ends by itself after so many seconds.
    bash -c "exec $(command_of docs/operate/running.md 'msrprelay trace') --seconds $((60 * patience))" > trace.log 2>&1 &
    tracer=$!
    check "msrprelay trace" wait_for 30 logged "$m" 'An operator traces'
    check "a file arrives while alice is traced" a_file_arrives
    kill "$tracer" 2> /dev/null
    wait "$tracer"
    check "the trace has her heads" grep -m 1 -E 'MSRP .* SEND' trace.log
    m=$(mark)
    check "msrprelay log-level debug" types "$(command_of docs/operate/running.md 'msrprelay log-level')"
    probe
    check "debug lines are in the journal, as debug" [ -n "$(journal "$m" -p debug..debug)" ]
    check "msrprelay reload" types "$(command_of docs/operate/running.md 'msrprelay reload')"
    bob_waits || return
    id=$(msrprelay sessions | awk '/bob@/ {print $1}')
    command=$(command_of docs/operate/running.md 'msrprelay close')
    check "msrprelay close $id" types "${command% *} $id"
    check "bob's connection is closed" wait_for 20 gone "$receiver"
    check "a user who is neither root nor of the group is told so" \
        says 'permission denied' runuser -u nobody -- msrprelay status
}

reloads() {
    title "running.md: reload"
    local pid m
    bob_waits || return
    pid=$(main)
    cp -p "$config" good.yaml
    echo 'nonsense: 1' >> "$config"
    m=$(mark)
    check "systemctl reload fails for a config that is wrong" fails systemctl reload msrprelay
    check "systemctl status shows why" says 'nonsense' systemctl --no-pager -l status msrprelay
    check "the page's command for the journal shows it" \
        says 'is wrong; the old one stays in force.*nonsense' bash -c "$(command_of docs/operate/monitoring.md 'journalctl')"
    check "the journal has it as an error" says 'is wrong; the old one stays in force.*nonsense' journal "$m" -p err
    check "the relay runs on" main_is "$pid"
    check "active" active
    cp -p good.yaml "$config"
    check "the page's command" types "$(command_of README.md 'systemctl reload')"
    check "the same process" main_is "$pid"
    check "bob's session has lived on: a file arrives" a_file_arrives
}

rotation() {
    title "install.md: the accounting file"
    local log=/var/log/msrprelay/sessions.json
    check "there are records" wait_for 10 test -s $log
    check "logrotate, with its reload" show logrotate --force /etc/logrotate.d/msrprelay
    check "the old file is kept" test -s $log.1
    bob_waits || return
    check "a file arrives" a_file_arrives
    check "the records go to a new file" wait_for 10 test -s $log
    ls -l /var/log/msrprelay
}

upgrade_by_signal() {
    title "running.md: upgrade by a signal, under a session"
    local old new m
    bob_waits || return
    old=$(main) m=$(mark)
    check "the page's command" types "$(command_of docs/operate/running.md 'systemctl kill')"
    check "systemd follows the new process" wait_for 60 main_changed "$old"
    new=$(main)
    check "active" active
    check "the old process is there, for bob" fails gone "$old"
    check "the new one shows bob's session" says 'bob@example.com' msrprelay sessions
    check "systemctl status tells of the old one's session" says 'Status: .*sessions of the process before: 1' systemctl --no-pager -l status msrprelay
    check "a file arrives, from the new process to the old one" a_file_arrives
    check "the old process ends" wait_for 60 gone "$old"
    sleep 1
    check "the new one is systemd's" main_is "$new"
    check "active" active
    check "nothing was restarted" says 'NRestarts=0' systemctl show -p NRestarts,Result,StatusText msrprelay
    check "probe" probe
    check "a stop of a process that took over" types "$(command_of docs/operate/running.md 'systemctl stop')"
    check "it has closed its connections in order" logged "$m" 'Core stopped'
    check "inactive, not failed" says 'ActiveState=inactive' systemctl show -p ActiveState,Result msrprelay
    journal "$m"
    check "start" systemctl start msrprelay
}

the_new_process_dies() {
    title "running.md: the new process dies while the old one drains"
    local old new m
    bob_waits || return
    old=$(main) m=$(mark)
    systemctl kill --signal=USR2 --kill-whom=main msrprelay
    wait_for 60 main_changed "$old"
    new=$(main)
    kill -9 "$new"
    check "the old process is systemd's again" wait_for 60 main_is "$old"
    check "active" wait_for 20 active
    check "it accepts, and bob's session has lived on: a file arrives" a_file_arrives
    check "probe" probe
    check "a second upgrade works from there" systemctl kill --signal=USR2 --kill-whom=main msrprelay
    check "systemd follows it" wait_for 60 main_changed "$old"
    check "the old process ends" wait_for 60 gone "$old"
    check "active" active
    journal "$m"
}

# The page's command looks for the package below the directory in which it is typed.
upgrade_by_dpkg() { # DIRECTORY
    local old sum m before
    bob_waits || return
    old=$(main) m=$(mark) sum=$(sha256sum < "$config") before=$(dpkg-query -W -f '${Version}' msrprelay)
    check "dpkg -i" types "cd '$1' && $(command_of docs/operate/install.md 'dpkg -i')"
    note "dpkg upgraded $before to $(dpkg-query -W -f '${Version}' msrprelay)"
    check "the new program takes over" wait_for 60 main_changed "$old"
    check "it is the new file" cmp -s "/proc/$(main)/exe" /usr/bin/msrprelay
    check "systemd knows the unit of the new package" says 'NeedDaemonReload=no' systemctl show -p NeedDaemonReload msrprelay
    check "active" active
    check "the config is as it was" [ "$sum" = "$(sha256sum < "$config")" ]
    check "a file arrives, from the new process to the old one" a_file_arrives
    check "the old process ends" wait_for 60 gone "$old"
    check "active" active
    check "probe" probe
    journal "$m"
}

watchdog() {
    title "The watchdog: the main process is stopped"
    local old m began=$SECONDS
    old=$(main) m=$(mark)
    kill -STOP "$old"
    check "systemd replaces it" wait_for 90 main_changed "$old"
    check "active again" wait_for 30 active
    note "$((SECONDS - began)) s after SIGSTOP the relay serves again"
    check "the journal says it was the watchdog" says '[Ww]atchdog' journal "$m"
    check "probe" probe
}

killed() {
    title "kill -9"
    local old began=$SECONDS
    old=$(main)
    kill -9 "$old"
    check "systemd starts another one" wait_for 30 main_changed "$old"
    check "active again" wait_for 30 active
    note "$((SECONDS - began)) s after SIGKILL the relay serves again"
    check "probe" probe
}

a_low_port() {
    title "install.md: a port below 1024"
    local command commands
    mapfile -t commands < <(commands_of docs/operate/install.md '## Hardening')
    check "the page has its commands" [ "${#commands[@]}" -ge 4 ]
    cp -p "$config" good.yaml
    echo 'listen: [{address: "0.0.0.0:443", tls: true}]' >> "$config"
    for command in "${commands[@]}"; do check "$command" types "$command"; done
    check "probe at port 443" timeout -k 1 $((60 * patience)) msrp probe --relay relay.example.com:443 --ca "$here/relay.example.com.crt"
    cp -p good.yaml "$config"
    rm -r /etc/systemd/system/msrprelay.service.d
    systemctl daemon-reload
    check "restart without it" systemctl restart msrprelay
}

no_io_uring() {
    title "troubleshooting.md: a kernel without io_uring"
    if [ ! -e /proc/sys/kernel/io_uring_disabled ]; then
        note "this kernel has no kernel.io_uring_disabled"
        return
    fi
    local m
    m=$(mark)
    # Five starts in a minute are the unit's limit, and the parts before this one may have used them.
    systemctl reset-failed msrprelay
    echo 2 > /proc/sys/kernel/io_uring_disabled
    check "the relay does not start" fails systemctl restart msrprelay
    check "the journal names the cause and the remedy" logged "$m" 'io_uring is switched off'
    # As sysctl -w, which is in procps.
    echo 0 > /proc/sys/kernel/io_uring_disabled
    check "it starts by itself when the remedy is taken" wait_for 60 active
    journal "$m"
}

kernel_tls() {
    title "Kernel TLS"
    note "$(grep -E '^CONFIG_TLS(_DEVICE)?=' "/boot/config-$(uname -r)" | tr '\n' ' ')"
    rmmod tls 2> /dev/null
    note "as msrprelay, the module not loaded: $(runuser -u msrprelay -- perl - ulp < /root/ktls.pl 2>&1)"
    note "as root, the module not loaded: $(perl /root/ktls.pl ulp 2>&1)"
    check "the module can be loaded" modprobe tls
    check "kernel TLS carries bytes once the module is there" says 'went through' perl /root/ktls.pl carry
    check "with the module loaded the relay's user may use it" \
        says 'works' runuser -u msrprelay -- perl - ulp < /root/ktls.pl
    note "$(perl /root/ktls.pl carry 2>&1 | tail -n 1)"
    rmmod tls 2> /dev/null
}

hardening() {
    title "install.md: hardening"
    local said
    said=$(systemd-analyze --no-pager security msrprelay | sed -n 's/.*Overall exposure level.*: \([0-9.]*\).*/\1/p')
    note "systemd-analyze security says $said"
    check "that is what install.md says" grep -qF "says $said, where" <(zcat -f $documents/docs/operate/install.md*)
}

stops() {
    title "running.md: stop and drain"
    local m began command
    bob_waits || return
    m=$(mark)
    command=$(command_of docs/operate/running.md 'msrprelay drain')
    check "msrprelay drain" types "$command"
    check "systemctl status tells of the drain" says 'Status: .*sessions left: 1' systemctl --no-pager -l status msrprelay
    bob_leaves
    check "with bob gone the relay ends" wait_for 30 inactive
    check "in order, and is not started again" says 'Result=success' systemctl show -p Result,NRestarts msrprelay
    check "the journal says so" logged "$m" 'Drained; stopping'
    check "start" systemctl start msrprelay
    bob_waits || return
    began=$SECONDS
    check "systemctl stop, under a session" systemctl stop msrprelay
    note "stopped after $((SECONDS - began)) s"
    check "inactive, not failed" inactive
    check "bob was told" wait_for 20 gone "$receiver"
    check "there is nothing left in /run" [ ! -e /run/msrprelay ]
    check "start" systemctl start msrprelay
    a_stop_that_drains
}

# Longer than the unit's TimeoutStopSec: the relay asks for more.
a_stop_that_drains() {
    local stopper
    cp -p "$config" good.yaml
    echo 'drain_timeout: 5m' >> "$config"
    check "reload with drain_timeout" systemctl reload msrprelay
    bob_waits || return
    systemctl stop msrprelay &
    stopper=$!
    sleep $((25 * patience))
    check "a stop still waits for bob after $((25 * patience)) s" says 'Status: .*sessions left: 1' systemctl --no-pager -l status msrprelay
    check "bob still has his connection" fails gone "$receiver"
    bob_leaves
    check "with bob gone the stop ends" wait_for 30 gone "$stopper"
    check "inactive, not failed" says 'ActiveState=inactive' systemctl show -p ActiveState,Result msrprelay
    cp -p good.yaml "$config"
    check "start" systemctl start msrprelay
}

after_the_boot() {
    title "After a boot"
    check "the relay was started" wait_for 60 active
    widen_the_units_times
    check "probe" probe
    systemd-analyze critical-chain msrprelay.service
}

the_version_before() {
    title "Removing; an upgrade from the version before, under a session"
    bob_waits || return
    check "apt-get remove" types "$(command_of docs/operate/install.md 'apt-get remove')" <<< y
    check "the relay has ended" inactive
    check "bob was told" wait_for 20 gone "$receiver"
    check "config and accounts stay" test -e "$config" -a -e /var/lib/msrprelay/accounts.db
    check "the version before installs" show apt-get -q -y -o Dpkg::Options::=--force-confold install ./before.deb
    check "enable --now" systemctl enable --now msrprelay
    check "probe" probe
    title "From the version before"
    upgrade_by_dpkg .
}

the_end() {
    title "Purging"
    local m
    m=$(mark)
    check "apt-get purge, while it runs" types "$(command_of docs/operate/install.md 'apt-get purge')" <<< y
    journal "$m"
    check "the relay has ended" [ -z "$(pgrep_relay)" ]
    rm -rf /etc/msrprelay/tls
    rmdir /etc/msrprelay 2> /dev/null
    local left
    left=$(find / -xdev -iname '*msrprelay*' ! -path '/root/*' ! -path '/var/lib/dpkg/*' ! -path '/var/log/apt/*' ! -path '/proc/*' ! -path '/sys/*' 2> /dev/null)
    check "nothing is left of it${left:+: $left}" [ -z "$left" ]
    check "the user stays" id msrprelay
    check "the machine has no failed unit" no_unit_has_failed
}

pgrep_relay() {
    local exe
    for exe in /proc/[0-9]*/exe; do readlink "$exe"; done | grep -F /usr/bin/msrprelay
}

if [ ! -e booted ]; then
    the_machine
    the_page
    the_accounts
    the_admin_commands
    reloads
    rotation
    upgrade_by_signal
    the_new_process_dies
    title "dpkg -i of a newer version, under a session"
    upgrade_by_dpkg newer
    watchdog
    killed
    a_low_port
    no_io_uring
    kernel_tls
    hardening
    stops
    title "A boot"
    touch booted
    sync
    systemctl reboot
else
    after_the_boot
    the_version_before
    the_end
    printf '\nThe end\n'
    sync
    systemctl poweroff
fi
