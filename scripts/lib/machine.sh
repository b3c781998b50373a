# shellcheck shell=bash disable=SC2034,SC2154 # a part of lib.sh
# What a script needs of the machine: CPUs, limits, programs, packages.

# -- CPUs and limits -------------------------------------------------------------------------------

# The first CPUs, at most COUNT, that the kernel lets us use, as 0,1.
first_cpus() { # COUNT
    local list part cpu cpus=()
    list=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' /proc/self/status)
    for part in ${list//,/ }; do
        for ((cpu = ${part%-*}; cpu <= ${part#*-}; cpu++)); do
            cpus+=("$cpu")
            [ "${#cpus[@]}" -lt "$1" ] || break 2
        done
    done
    local IFS=,
    echo "${cpus[*]}"
}

# The cores for the relay's config, in `cores`: from --cores, or the first CPUs, at most COUNT.
choose_cores() { # COUNT
    cores=${cores:-$(first_cpus "$1")}
    [[ $cores =~ ^(auto|[0-9]+(,[0-9]+)*)$ ]] || wrong "--cores $cores: write 0 or 0,1 or auto"
    [ "$cores" = auto ] || cores="[$cores]"
}

# A limit that cannot be raised stays: it may be enough.
raise_limit() { # FLAG-OF-ULIMIT WANTED
    local soft
    soft=$(ulimit -S "$1")
    if [ "$soft" != unlimited ] && [ "$soft" -lt "$2" ]; then
        ulimit -S "$1" "$2" 2> /dev/null || ulimit "$1" "$2" 2> /dev/null || ulimit -S "$1" "$(ulimit -H "$1")"
    fi
}

# -- what the machine must have --------------------------------------------------------------------

need() { # PACKAGE COMMAND...
    local package=$1 command
    shift
    for command; do
        command -v "$command" > /dev/null || fail "$command is needed and not installed (apt-get install $package)"
    done
}

need_cargo() {
    command -v cargo > /dev/null || fail "cargo is needed and not installed (see https://rustup.rs)"
    need build-essential cc
}

need_cargo_tool() { # NAME [VERSION]
    ! cargo "$1" --version > /dev/null 2>&1 || return 0
    echo "== Installing cargo-$1"
    env -u RUSTC_BOOTSTRAP cargo install --locked --quiet "cargo-$1${2:+@$2}" || fail "could not install cargo-$1"
}

# Those of the packages that are not installed.
uninstalled() { # PACKAGE...
    local package
    for package; do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep -q 'ok installed' || echo "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo "$@"
    else
        echo "$script: neither root nor sudo: run this as root: $*" >&2
        return 1
    fi
}

policy=''

# A package asks this file whether it may start its service.
forbid_services() {
    [ ! -e /usr/sbin/policy-rc.d ] || return 0
    policy=/usr/sbin/policy-rc.d
    # shellcheck disable=SC2016 # the inner shell's
    as_root sh -c 'printf "#!/bin/sh\nexit 101\n" > "$1" && chmod 755 "$1"' sh "$policy"
}

allow_services() {
    [ -z "$policy" ] || as_root rm -f "$policy"
    policy=''
}

# Installs Debian's packages and starts no service. If that fails, says why and returns 1.
install_packages() { # PACKAGE...
    local log status=0 apt=(env DEBIAN_FRONTEND=noninteractive timeout 600 apt-get -qq -y --no-install-recommends install "$@")
    command -v apt-get > /dev/null || { echo "$script: needed, and no apt-get to install them with: $*" >&2; return 1; }
    echo "== Installing $*"
    log=$(mktemp) || return
    # A machine whose package lists are missing or old needs an update first; one that is up to date does not.
    {
        forbid_services &&
            { as_root "${apt[@]}" || { as_root timeout 300 apt-get -qq update && as_root "${apt[@]}"; }; }
    } > "$log" 2>&1 || status=1
    allow_services
    [ "$status" = 0 ] || { tail -n 10 "$log" >&2; echo "$script: could not install: $*" >&2; }
    rm -f "$log"
    return "$status"
}

# A minimal Debian as a tar archive, of this machine's release and from where this machine gets its packages.
make_debian() { # TAR PACKAGES,...
    local suite sources=/etc/apt/sources.list.d/debian.sources
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    logged "$1.log" "mmdebstrap could not make a root" \
        mmdebstrap --format=tar --variant=minbase --include="$2" "$suite" "$1.part" "$sources"
    mv "$1.part" "$1"
    rm -f "$1.log"
}
