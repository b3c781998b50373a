# shellcheck shell=bash disable=SC2154,SC2034 # a part of bench.sh
# How many system calls the relay makes, in runs of their own.
#
# perf counts without disturbing: its figure is the relay's. strace stops the relay twice for each call. So slowed down, the
# relay finds more to do in each turn, and needs fewer calls for a message: its figure is told beside perf's, or alone where
# perf cannot count.

# What can count, in `counters`: perf, strace, or both.
choose_counters() {
    counters=()
    wanted alone-calls || wanted idle-calls || return 0
    ! perf stat -e raw_syscalls:sys_enter true > /dev/null 2>&1 || counters+=(perf)
    if command -v strace > /dev/null || { [ "$with_proxies" = yes ] && install_packages strace; }; then
        ! strace -c -o /dev/null true 2> /dev/null || counters+=(strace)
    fi
    [ "${#counters[@]}" != 0 ] || echo "bench.sh: neither perf nor strace can count here: no alone-calls, no idle-calls" >&2
}

# Begins to count the calls of some threads; the counter's process is in `pid`.
begin_counting() { # COUNTER FILE TID...
    local counter=$1 file=$2
    shift 2
    rm -f "$file"
    case $counter in
        perf) start "$file.log" "${launch[@]}" perf stat -x , -e raw_syscalls:sys_enter -o "$file" -t "$(IFS=,; echo "$*")" ;;
        strace) start "$file.log" "${launch[@]}" strace -c -o "$file" "${@/#/-p}" ;;
    esac
    comes_true "$await_seconds" "$pid" is_counting "$counter" "$1" || { cat "$file.log" >&2; return 1; }
}

# perf does not show when it has begun: it opens its counters within milliseconds.
is_counting() { # COUNTER TID
    case $1 in
        perf) sleep 0.2 ;;
        strace) ! grep -q '^TracerPid:[[:space:]]*0$' "/proc/$2/status" ;;
    esac
}

# Ends a counter and records what it has counted.
end_counting() { # COUNTER PID FILE ROW SUBJECT HOW-MANY
    local calls
    case $1 in
        perf) kill -INT "$2" ;;
        strace) kill -TERM "$2" ;;
    esac
    ended "$2" || true
    case $1 in
        perf) calls=$(sed -n 's/^\([0-9]*\),.*raw_syscalls.*/\1/p' "$3") ;;
        # Without any call its file is empty.
        strace) calls=$(awk '$NF == "total" { print $4; exit } END { if (!NR) print 0 }' "$3") ;;
    esac
    [ -n "$calls" ] || { cat "$3" "$3.log" >&2; return 1; }
    result=''
    record "$4" "$5" "$(awk -v calls="$calls" -v each="$6" 'BEGIN { printf "%.3f", calls / each }')"
}

# Runs a command and records how many calls the core makes meanwhile for each of so many, and how many the other threads.
calls_during() { # COUNTER ROW SUBJECT HOW-MANY COMMAND...
    local counter=$1 row=$2 subject=$3 each=$4 thread cores=() others=() first second
    shift 4
    [ "$counter" = "${counters[0]}" ] || subject=$subject-$counter
    for thread in /proc/"${process_of[fresh]}"/task/*; do
        if [[ $(cat "$thread/comm") == core-* ]]; then cores+=("${thread##*/}"); else others+=("${thread##*/}"); fi
    done
    begin_counting "$counter" "$scratch/calls" "${cores[@]}" || return 1
    first=$pid
    begin_counting "$counter" "$scratch/other-calls" "${others[@]}" || return 1
    second=$pid
    "$@" || return 1
    end_counting "$counter" "$first" "$scratch/calls" "$row" "$subject" "$each" || return 1
    end_counting "$counter" "$second" "$scratch/other-calls" "$row" "$subject-others" "$each"
}

# At rest, and with one message at a time: a relay of its own.
calls_case() { # SUBJECT BINARY RECORD-LAYER
    local counter
    [ "${#counters[@]}" != 0 ] || return 0
    wanted alone-calls || wanted idle-calls || return 0
    start_relay fresh "$2" "$relay_cpu" "$3"
    if wanted idle-calls; then
        # Its start is over.
        sleep 1
        calls_during "${counters[0]}" idle-calls "$1" "$rest" sleep "$rest" || broken=yes
    fi
    if wanted alone-calls; then
        for counter in "${counters[@]}"; do
            calls_during "$counter" alone-calls "$1" "$((messages / 4))" \
                bench fresh messages --cpu "$load_cpu" --window 1 --count "$((messages / 4))" || broken=yes
        done
    fi
    stop_relay fresh
}
