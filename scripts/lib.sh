# shellcheck shell=bash disable=SC2034 # the scripts that source it use what it sets
# What the scripts beside it share. Each of them sources it first; gen-cert.sh alone does not, for the Debian package
# installs that one without the others.
#
# Sourcing it sets `script` (the script's name), `root` (the checkout), PATH and the traps. A script defines `usage`, and
# sets its options to their defaults before it calls `options`. What runs in the background is begun with `start`, or
# handed to `track`: when the script ends, clean_up ends all of it, by process id.

script=${0##*/}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The places of rustup's cargo and of servers, which are not in the path of every non-login shell.
export PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/sbin:/sbin
# shellcheck source-path=SCRIPTDIR source=lib/machine.sh
. "$root/scripts/lib/machine.sh"
# shellcheck source-path=SCRIPTDIR source=lib/relay.sh
. "$root/scripts/lib/relay.sh"

# -- saying what is wrong --------------------------------------------------------------------------

fail() {
    echo "$script: $*" >&2
    exit 1
}

# The call is wrong.
wrong() {
    echo "$script: $*; see --help" >&2
    exit 2
}

# Runs a step of the script under a title. `set -e` holds within; clean_up names the step that failed.
step() { # TITLE COMMAND...
    current_step=$1 step_began=$SECONDS
    printf '\n== %s\n' "$1"
    shift
    "$@"
    echo "== $current_step: $((SECONDS - step_began)) s"
    current_step=''
}

# Runs a command and shows its output only if it fails.
logged() { # LOG WHAT-FAILED COMMAND...
    local log=$1 what=$2
    shift 2
    "$@" > "$log" 2>&1 || { tail -n 50 "$log" >&2; fail "$what"; }
}

# -- options ---------------------------------------------------------------------------------------

# Reads options into variables of their names: --chunk-size 2K sets chunk_size, the switch --keep sets keep=yes, the switch
# --no-build sets build=no. An OPTION written as --file... adds to an array. What is no option goes to the array
# `operands`, if the script has one.
options() { # "SWITCH..." "OPTION..." ARGUMENT...
    local switches=" $1 " with_value=" ${2//$'\n'/ } " name
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage; exit 0 ;;
            -*) [[ $1 =~ ^--[a-z-]+$ ]] || wrong "unknown option $1" ;;
            *)
                declare -p operands > /dev/null 2>&1 || wrong "unknown argument $1"
                operands+=("$1")
                shift
                continue
                ;;
        esac
        name=${1#--} name=${name//-/_}
        if [[ $switches == *" $1 "* ]]; then
            case $name in
                no_*) printf -v "${name#no_}" no ;;
                *) printf -v "$name" yes ;;
            esac
            shift
            continue
        fi
        [[ $with_value == *" $1 "* || $with_value == *" $1... "* ]] || wrong "unknown option $1"
        [ $# -ge 2 ] || wrong "$1 needs a value"
        if [[ $with_value == *" $1 "* ]]; then
            printf -v "$name" %s "$2"
        else
            local -n several=$name
            several+=("$2")
        fi
        shift 2
    done
}

number() { # OPTION VALUE LEAST MOST
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
        wrong "$1 $2: write a number from $3 to $4"
    fi
}

one_of() { # OPTION VALUE WORD...
    local option=$1 value=$2 word
    shift 2
    for word; do [ "$value" != "$word" ] || return 0; done
    wrong "$option $value: write one of $*"
}

bytes_of() { # OPTION SIZE: prints the bytes of 1, 64K, 2M, 1G
    [[ $2 =~ ^[0-9]{1,15}[KMG]?$ ]] || wrong "$1 $2: write 1, 64K, 2M, 1G"
    numfmt --from=iec "$2"
}

directory_of() { # OPTION DIRECTORY: prints its absolute path
    cd "$2" 2> /dev/null && pwd || wrong "$1 $2: no such directory"
}

# The seed of a run's choices, in `seed`: by chance, unless it is given.
choose_seed() {
    seed=${seed:-$((RANDOM << 15 | RANDOM))}
    [[ $seed =~ ^[0-9]{1,18}$ ]] || wrong "--seed $seed: write a number"
}

# -- what a script leaves behind: nothing ----------------------------------------------------------

scratch='' started=() at_end=() current_step=''

# Runs when the script ends, however it ends. `at_end` holds functions for what only that script knows.
clean_up() {
    local status=$? function
    trap - EXIT INT TERM
    if [ "$status" != 0 ] && [ -n "$current_step" ]; then
        echo "== $current_step: FAILED (exit status $status) after $((SECONDS - step_began)) s" >&2
    fi
    stop "${started[@]}"
    for function in "${at_end[@]}"; do "$function" || true; done
    allow_services || true
    if [ -n "$scratch" ] && [ "${keep:-no}" = yes ]; then
        echo "Kept: $scratch"
    elif [ -n "$scratch" ]; then
        rm -rf "$scratch"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A directory for this run, in `scratch`; it goes with the script, unless there is a --keep.
make_scratch() { # NAME
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/msrp-$1.XXXXXX")
}

# Starts a command in the background, with all its output in a log; its process id is in `pid`.
start() { # LOG COMMAND...
    local log=$1
    shift
    "$@" > "$log" 2>&1 &
    track
}

# The last background process belongs to this script.
track() {
    pid=$!
    started+=("$pid")
}

forget() { # PID
    local one left=()
    for one in "${started[@]}"; do [ "$one" = "$1" ] || left+=("$one"); done
    started=("${left[@]}")
}

# Waits until a process of ours ends by itself, and returns its status. The script can be interrupted meanwhile, which it
# cannot while a command runs in the foreground.
ended() { # PID
    local status=0
    wait "$1" || status=$?
    forget "$1"
    return "$status"
}

has_ended() { # PID
    ! kill -0 "$1" 2> /dev/null
}

# Ends this script's processes. One that still runs after ten seconds is killed, with what it has forked.
stop() { # PID...
    local one
    for one; do kill "$one" 2> /dev/null || true; done
    for one; do
        # shellcheck disable=SC2046 # several process ids
        comes_true 10 '' has_ended "$one" ||
            kill -KILL $(cat /proc/"$one"/task/*/children 2> /dev/null) "$one" 2> /dev/null || true
        wait "$one" 2> /dev/null || true
        forget "$one"
    done
}

# -- waiting ---------------------------------------------------------------------------------------

# Tries a command again and again until it succeeds. Gives up, with status 1, after so many seconds, or when the named
# process has ended, if there is one.
comes_true() { # SECONDS PID COMMAND...
    local tries=$(($1 * 20)) process=$2
    shift 2
    until "$@"; do
        [ -z "$process" ] || ! has_ended "$process" || return 1
        [ "$tries" -gt 0 ] || return 1
        tries=$((tries - 1))
        sleep 0.05
    done
}

# Waits for an action of this script's process, for await_seconds; fails if it does not happen.
await_seconds=20
await() { # PID WHAT-PROCESS LOG COMMAND...
    local process=$1 what=$2 log=$3
    shift 3
    ! comes_true "$await_seconds" "$process" "$@" || return 0
    tail -n 50 "$log" >&2
    ! has_ended "$process" || fail "$what has stopped"
    fail "$what is not ready after $await_seconds s"
}

listens() { # ADDRESS PORT
    (: < "/dev/tcp/$1/$2") 2> /dev/null
}

# A port on which no process listens, below those that the kernel gives to clients.
free_port() { # ADDRESS
    local port tries
    for ((tries = 0; tries < 50; tries++)); do
        port=$((20000 + RANDOM % 10000))
        listens "$1" "$port" || { echo "$port"; return; }
    done
    fail "no free port on $1"
}

# -- the working tree ------------------------------------------------------------------------------

# A copy of the working tree: the present state of the files that git tracks, and the new ones.
copy_tree() { # DIRECTORY
    local file
    mkdir -p "$1"
    git -C "$root" ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            [ ! -e "$root/$file" ] || printf '%s\0' "$file"
        done | tar -C "$root" --null --files-from - -c | tar -C "$1" -m -x
}
