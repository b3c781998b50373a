# shellcheck shell=bash disable=SC2154 # a part of container.sh
# The seccomp profiles: the default one of the container tools, and the three calls of io_uring.

default_profile=/usr/share/containers/seccomp.json
ours=deploy/container/seccomp.json for_kubernetes=deploy/container/seccomp.kubernetes.json

# If the default profile already allows a call, or forbids one by name, the same rule would make another profile.
with_io_uring() {
    jq '["io_uring_enter", "io_uring_register", "io_uring_setup"] as $calls
        | if [.syscalls[].names[] | select(IN($calls[]))] == [] then . else error("the default profile names io_uring") end
        | .syscalls += [{names: $calls, action: "SCMP_ACT_ALLOW", args: [], comment: "", includes: {}, excludes: {}}]' "$default_profile"
}

# The same without conditions, for a container without capabilities on x86-64. containerd reads a profile from a file as
# the OCI runtime's own form, which has none: it would pass over `includes` and let each call pass that a capability opens.
without_conditions() { # PROFILE
    jq '{
        defaultAction, defaultErrnoRet,
        architectures: [.archMap[] | select(.architecture == "SCMP_ARCH_X86_64") | .architecture, .subArchitectures[]],
        syscalls: [.syscalls[]
            | select(((.includes.caps // []) == [])
                and ((.includes.arches // ["amd64"]) | index("amd64"))
                and ((.excludes.arches // []) | index("amd64") | not))
            | {names, action, args: (.args // [])} + (if .errnoRet then {errnoRet} else {} end)
            | if .args == [] then del(.args) else . end]
    }' "$1"
}

write_profiles() {
    with_io_uring > "$work/profile"
    without_conditions "$work/profile" > "$work/profile.kubernetes"
    cp "$work/profile" "$ours"
    cp "$work/profile.kubernetes" "$for_kubernetes"
    echo "Wrote $ours and $for_kubernetes"
}

check_profiles() {
    with_io_uring > "$work/profile"
    without_conditions "$ours" > "$work/profile.kubernetes"
    cmp "$work/profile" "$ours" || fail "$ours is not the default profile and io_uring: look at what differs, then --write-profiles"
    cmp "$work/profile.kubernetes" "$for_kubernetes" || fail "$for_kubernetes is not made from $ours: --write-profiles"
    # The difference between the two, computed from the files themselves.
    jq --null-input --raw-output --slurpfile default "$default_profile" --slurpfile ours "$ours" '
        ($ours[0].syscalls - $default[0].syscalls) as $more
        | if $ours[0] == ($default[0] | .syscalls += $more) then . else error("it differs in more than calls") end
        | "the default of \($default[0].syscalls | length) rules, and: \([$more[] | "\(.action) \(.names | join(" "))"] | join("; "))"'
}
