# shellcheck shell=bash disable=SC2154,SC2034 # a part of container.sh
# The trial of the image: what an operator does with it. container.sh runs it in namespaces of its own, where the network
# is the loopback alone, and where Podman's directories and /etc/msrprelay begin empty.

host=relay.example.com
profile=/etc/msrprelay/seccomp.json
# The relays that are tried beside the unit's, under the name `tried`: as a careful operator has them.
strictly=(--read-only --cap-drop=all --security-opt no-new-privileges)

# Debian 12 has no generator of Quadlet units, and a podman-compose that takes no `network_mode: host`. Those of Debian 13
# are unpacked and not installed; the generator needs the C library alone, which is taken from there, too.
fetch_newer() {
    local place=$newer apt uri deb
    if [ -x "$place/root/usr/bin/podman-compose" ]; then
        echo "$place is there"
        return
    fi
    mkdir -p "$place/lists/partial" "$place/cache/archives/partial"
    uri=$(sed -n 's/^URIs: //p' /etc/apt/sources.list.d/debian.sources | sed -n 1p)
    [ -n "$uri" ] || fail "/etc/apt/sources.list.d/debian.sources names no URI"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s trixie main\n' "$uri" > "$place/sources.list"
    apt=(apt-get -qq -o "Dir::Etc::sourcelist=$PWD/$place/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$PWD/$place/lists" -o "Dir::Cache=$PWD/$place/cache" -o APT::Sandbox::User=root)
    logged "$work/apt.log" "the lists of Debian 13 cannot be read" "${apt[@]}" update
    (cd "$place" && logged apt.log "Podman of Debian 13 cannot be downloaded" "${apt[@]}" download podman libc6 podman-compose)
    for deb in "$place"/*.deb; do dpkg-deb -x "$deb" "$place/root"; done
    rm -rf "$place"/*.deb "$place/lists" "$place/cache"
    zcat "$place"/root/usr/share/doc/{podman,podman-compose}/changelog.Debian.*gz | grep -E '^podman(-compose)? \(' | sort -u -k1,1
}

# A directory of a Podman without systemd, a registry or anything of this machine in it.
make_place() {
    local directory
    make_scratch container
    ip link set lo up
    for directory in /run /dev/shm /var/tmp /var/lib/containers /etc/containers /etc/msrprelay; do
        [ -d "$directory" ] || { mkdir -p "$directory"; made+=("$directory"); }
        mount -t tmpfs -o mode=0755 tmpfs "$directory"
    done
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' > /etc/containers/policy.json
    cp /etc/hosts "$scratch/hosts"
    echo "127.0.0.1 $host" >> "$scratch/hosts"
    mount --bind "$scratch/hosts" /etc/hosts
    # As much as this machine may grant; other runtimes want cgroups in an order that only systemd makes.
    export CONTAINERS_CONF=$scratch/containers.conf
    cat > "$CONTAINERS_CONF" << CONF
[containers]
default_ulimits = ["nofile=$(ulimit -H -n):$(ulimit -H -n)", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
    local user
    for user in alice bob; do echo "$user's password" > "$scratch/$user.password"; done
    chmod 644 "$scratch"/*.password
    chmod 755 "$scratch"
    podman --version
}
made=()

remove_made() {
    [ "${#made[@]}" = 0 ] || { umount "${made[@]}" && rmdir "${made[@]}"; } 2> /dev/null || true
}

# Podman, without its complaints that there is no systemd for health checks.
quiet_podman() {
    podman "$@" 2> >(grep -v 'systemd connection' >&2)
}

build_twice() {
    local first
    import_base
    build_image again --no-cache
    build_image "$version" --no-cache
    podman tag "localhost/msrprelay:$version" localhost/msrprelay:latest
    first=$(podman image inspect localhost/msrprelay:again | jq -c '.[0].RootFS')
    [ "$first" = "$(podman image inspect localhost/msrprelay:latest | jq -c '.[0].RootFS')" ] || fail "two builds differ"
    echo "two builds have the same layers"
    podman rmi localhost/msrprelay:again > /dev/null
    # The content that the image needs, and nothing that an intruder could use.
    quiet_podman run --rm localhost/msrprelay --version
    local container
    container=$(podman create localhost/msrprelay 2> /dev/null)
    podman export "$container" | tar -tv > "$scratch/files"
    podman rm "$container" > /dev/null
    grep -E '^-..x' "$scratch/files" | awk '{ print "a program: /" $NF }'
    ! grep -E '^-..s|^-.....s|bin/(sh|bash|dash|busybox|apt-get|dpkg)$' "$scratch/files" || fail "that has no place in the image"
}

# -- the page --------------------------------------------------------------------------------------

commands_of_the_page() {
    awk '/^## / { here = $0 == "## In a container" } /^```/ { code = $0 == "```sh"; next } here && code' docs/operate/install.md |
        grep -vE '^(#|$)'
}

# Each as on the page, in a directory with the files of a clone. The unit's own command starts the relay's unit.
play() {
    local commands command password
    password=$(cat "$scratch/alice.password")
    copy_clone
    mapfile -t commands < <(commands_of_the_page)
    [ "${#commands[@]}" -gt 8 ] || fail "the chapter has only ${#commands[@]} commands: has its form changed?"
    for command in "${commands[@]}"; do
        echo "\$ $command"
        case $command in
            'scripts/container.sh') echo "done before" ;;
            'systemctl daemon-reload') generate_unit ;;
            'systemctl start msrprelay') start_unit ;;
            'systemctl reload msrprelay') unit_command ExecReload ;;
            systemctl*) fail "the trial does not know what that is" ;;
            # There is no terminal here.
            *) in_clone "${command/podman run --rm -it /podman run --rm -i }" <<< "$password" || fail "the page's command failed" ;;
        esac
    done
    [ -s "$scratch/unit" ] || fail "the page does not start the relay"
}

copy_clone() {
    mkdir "$scratch/clone"
    cp -r scripts deploy "$scratch/clone/"
}

in_clone() { # COMMAND
    (cd "$scratch/clone" && MSRP_PASSWORD=$(cat "$scratch/alice.password") bash -c "$1" 2> >(grep -v 'systemd connection' >&2))
}

generate_unit() {
    local loader generator
    loader=$(find "$PWD/$newer/root" -name ld-linux-x86-64.so.2 ! -type l | sed -n 1p)
    generator=("$loader" --library-path "${loader%/*}" "$newer/root/usr/libexec/podman/quadlet")
    QUADLET_UNIT_DIRS=/etc/containers/systemd "${generator[@]}" -dryrun > "$scratch/unit" 2> "$scratch/unit.log" ||
        { cat "$scratch/unit.log" >&2; fail "the Quadlet unit is refused"; }
    ! grep -i unsupported "$scratch/unit.log" || fail "the Quadlet unit is not understood"
    grep '^ExecStart=' "$scratch/unit"
}

# The unit's command with what systemd would put in its place. What this machine does not have is left out: cgroups by
# systemd, and limits beyond its own.
unit_command() { # KEY
    local command
    command=$(sed -n "s/^$1=-\{0,1\}//p" "$scratch/unit" | sed -n 1p)
    [ -n "$command" ] || fail "the unit has no $1"
    command=$(sed -e 's/%t/\/run/g; s/%N/msrprelay/g; s/ --cgroups=split//; s/ --rm / /; s/ --ulimit [^ ]*//g' <<< "$command")
    bash -c "$command" 2> >(grep -v 'systemd connection' >&2)
}

notified() {
    grep -aq 'READY=1' "$scratch/notified"
}

# The service manager's side of Type=notify.
start_unit() {
    [ "$(sed -n 's/^Type=//p' "$scratch/unit")" = notify ] || fail "the unit is not of Type=notify"
    : > "$scratch/notified"
    start "$scratch/socat.log" socat -u "UNIX-RECV:/run/notify,mode=777" "OPEN:$scratch/notified,append"
    comes_true 10 "$pid" test -S /run/notify || fail "no socket to be notified by"
    NOTIFY_SOCKET=/run/notify unit_command ExecStart > "$scratch/start.log" || { cat "$scratch/start.log" >&2; fail "the unit does not start"; }
    comes_true 20 '' notified || { podman logs msrprelay >&2; fail "the relay did not say that it is ready"; }
    echo "notified: $(tr '\n' ' ' < "$scratch/notified")"
    show_log msrprelay
}

show_log() { # CONTAINER
    podman logs "$1" 2>&1 | grep -oE '(Listening|Accounts are available).*' || { podman logs "$1" >&2; fail "the relay did not start"; }
}

# -- files -----------------------------------------------------------------------------------------

# msrp of the image, which needs io_uring, too.
msrp_in() { # ARGUMENT...
    quiet_podman run --rm --network host --security-opt seccomp="$profile" --volume "$scratch:/work" --user 0 \
        --entrypoint /usr/bin/msrp localhost/msrprelay "$@"
}

add_bob() {
    podman exec -i msrprelay /usr/bin/msrprelay user add bob@example.com < "$scratch/bob.password"
    podman exec msrprelay /usr/bin/msrprelay user list
}

send_a_file() {
    local options=(--relay "$host" --ca "/work/clone/$host.crt") receiver
    rm -rf "$scratch/inbox" "$scratch/bob.path"
    mkdir "$scratch/inbox"
    head -c 20M /dev/urandom > "$scratch/film.bin"
    start "$scratch/receive.log" msrp_in receive --user bob@example.com "${options[@]}" --password-file /work/bob.password \
        --out /work/inbox --path-file /work/bob.path --timeout 60s
    receiver=$pid
    comes_true 30 "$receiver" test -s "$scratch/bob.path" || { cat "$scratch/receive.log" >&2; podman ps --quiet | xargs -n 1 podman logs >&2; fail "bob does not get a path"; }
    msrp_in send /work/film.bin --user alice@example.com "${options[@]}" --password-file /work/alice.password \
        --to "$(cat "$scratch/bob.path")" > "$scratch/send.log" 2>&1 || { cat "$scratch/send.log" >&2; fail "the file was not sent"; }
    ended "$receiver" || { cat "$scratch/receive.log" >&2; fail "the file was not received"; }
    cmp "$scratch/film.bin" "$scratch/inbox/film.bin" || fail "it is another file now"
    echo "20 MiB from alice to bob, identical: $(sha256sum < "$scratch/inbox/film.bin" | cut -c 1-16)..."
}

# -- beside the page -------------------------------------------------------------------------------

under_the_default() {
    local said status=0
    said=$(quiet_podman run --rm --network host "${strictly[@]}" --volume /etc/msrprelay:/etc/msrprelay:ro \
        --volume msrprelay:/var/lib/msrprelay localhost/msrprelay 2>&1) || status=$?
    echo "$said"
    [ "$status" != 0 ] || fail "the relay runs under the default profile: does that allow io_uring now?"
    for words in "the container's seccomp profile forbids it" 'io_uring_setup, io_uring_enter and io_uring_register' \
        '--security-opt seccomp=PROFILE'; do
        grep -qF -- "$words" <<< "$said" || fail "the message does not say: $words"
    done
    echo "status $status, and the message names the remedy"
}

# What the image asks for; podman of the host or of the unit asks it every half minute.
is_healthy() { # CONTAINER
    quiet_podman healthcheck run "$1" > "$scratch/health.log" 2>&1
}

health() {
    local pid
    is_healthy msrprelay || { cat "$scratch/health.log" >&2; fail "a relay that works is not healthy"; }
    pid=$(podman inspect --format '{{.State.Pid}}' msrprelay)
    kill -STOP "$pid"
    ! is_healthy msrprelay || fail "a relay that stands still is healthy"
    kill -CONT "$pid"
    comes_true 20 '' is_healthy msrprelay || fail "it does not become healthy again"
    echo "healthy, not healthy while it stands still, healthy again"
}

# The README's shortest command, as it stands there, with what the page has put into /etc/msrprelay.
command_of_the_front_page() {
    local command container
    command=$(sed -n '/^podman run /,/[^\\]$/p' README.md)
    [ -n "$command" ] || fail "the README has no podman run"
    echo "\$ $command"
    container=$(in_clone "$command")
    comes_true 20 '' listening "$container" || fail "the relay does not start"
    show_log "$container"
    send_a_file
    quiet_podman stop --time 15 "$container" > /dev/null
    quiet_podman rm "$container" > /dev/null
}

stop_unit() {
    quiet_podman kill --signal TERM msrprelay > /dev/null
    comes_true 20 '' is_gone msrprelay || fail "the relay does not end"
    unit_command ExecStopPost
    echo "ended at SIGTERM"
}

is_gone() { # CONTAINER
    ! podman container exists "$1" || [ "$(podman inspect --format '{{.State.Running}}' "$1" 2> /dev/null)" != true ]
}

listening() { # CONTAINER
    podman logs "$1" 2>&1 | grep 'Listening' > /dev/null || is_gone "$1"
}

# A user that the image does not know. Config, key and accounts must be his; the accounts are a directory of the host, for
# of a volume Podman makes the owner who has the directory in the image.
as_another_user() {
    mkdir "$scratch/of-another"
    cp -r /etc/msrprelay "$scratch/of-another/etc"
    cp -r "$(podman volume inspect --format '{{.Mountpoint}}' msrprelay)" "$scratch/of-another/accounts"
    chown -R 4242:4242 "$scratch/of-another"
    run_and_send --user 4242:4242 --security-opt seccomp="$profile" --volume "$scratch/of-another/etc:/etc/msrprelay:ro" \
        --volume "$scratch/of-another/accounts:/var/lib/msrprelay"
}

with_the_profile_for_kubernetes() {
    run_and_send --security-opt seccomp="$PWD/$for_kubernetes" --volume /etc/msrprelay:/etc/msrprelay:ro \
        --volume msrprelay:/var/lib/msrprelay
}

# A relay with these options, a file through it, and its end.
run_and_send() { # OPTION...
    quiet_podman run --detach --name tried --network host "${strictly[@]}" "$@" localhost/msrprelay > /dev/null
    comes_true 20 '' listening tried || fail "the relay does not start"
    show_log tried
    quiet_podman top tried user pid capeff seccomp args
    is_healthy tried || { cat "$scratch/health.log" >&2; fail "it is not healthy"; }
    send_a_file
    quiet_podman stop --time 15 tried > /dev/null
    [ "$(podman inspect --format '{{.State.ExitCode}}' tried)" = 0 ] || { podman logs tried >&2; fail "it did not end in order"; }
    podman rm tried > /dev/null
}

# The unchanged file, except for limits beyond this machine's own.
by_compose() {
    local volume
    mkdir "$scratch/compose"
    awk '/^    ulimits:/ { skip = 1; next } skip && /^      / { next } { skip = 0; print }' deploy/container/compose.yaml > "$scratch/compose/compose.yaml"
    [ "$(diff "$scratch/compose/compose.yaml" deploy/container/compose.yaml | grep -c '^[<>]')" = 3 ] || fail "more than the limits was left out"
    in_compose up --detach
    tried=$(podman ps --format '{{.Names}}' | grep msrprelay) || { cat "$scratch/compose.log" >&2; fail "compose has started nothing"; }
    comes_true 20 '' listening "$tried" || fail "the relay does not start"
    show_log "$tried"
    # Accounts of its own: the volume is new.
    local user
    for user in alice bob; do
        podman exec -i "$tried" /usr/bin/msrprelay user add "$user@example.com" < "$scratch/$user.password"
    done
    send_a_file
    in_compose down
    ! podman container exists "$tried" || fail "compose has left it behind"
}

in_compose() { # ARGUMENT...
    local modules=$PWD/$newer/root/usr/lib/python3/dist-packages
    (cd "$scratch/compose" && PYTHONPATH="$modules" /usr/bin/python3 -m podman_compose --file compose.yaml "$@") > "$scratch/compose.log" 2>&1 ||
        { cat "$scratch/compose.log" >&2; fail "podman-compose $1 failed"; }
}

try_it() {
    at_end+=(remove_made)
    step 'A Podman of its own' make_place
    step 'Building the image' build_twice
    step 'Playing the page' play
    step 'A second user' add_bob
    step 'Sending a file' send_a_file
    step 'Health' health
    step 'Stopping' stop_unit
    step 'The command of the front page' command_of_the_front_page
    step 'Under the default profile' under_the_default
    step 'As another user' as_another_user
    step 'Under the profile for Kubernetes' with_the_profile_for_kubernetes
    step 'By compose' by_compose
    podman rm --all --force > /dev/null 2>&1 || true
}
