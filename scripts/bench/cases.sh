# shellcheck shell=bash disable=SC2154,SC2034 # a part of bench.sh
# The rows of bench.sh's table: what load each is, and which figure of it counts.

# Runs `msrp bench`; its result is in `result`.
bench() { # SUBJECT MODE ARGUMENT...
    local subject=$1 reach status=0
    shift
    reach "$subject"
    "${launch[@]}" "$bin/msrp" bench "$@" "${reach[@]}" > "$scratch/result" 2> "$scratch/errors" &
    track
    ended "$pid" || status=$?
    result=$(cat "$scratch/result")
    [ "$status" = 0 ] || { echo "bench.sh: $subject: msrp bench $*: $(cat "$scratch/errors")" >&2; return 1; }
}

field() { # KEY [KEY-WITHIN]
    local key="\"$1\":"
    [ $# = 1 ] || key="\"$1\":{[^}]*\"$2\":"
    sed -n "s/.*$key\([0-9.eE+-]*\).*/\1/p" <<< "$result"
}

record() { # ROW SUBJECT VALUE
    [ -n "$3" ] || return 0
    echo "$round,$1,$2,$3,$(field bench_cpu_seconds),$(field relay_cpu_seconds),$(field seconds),$(field megabytes_per_second),$(field relay_page_faults),$(field relay_page_faults_per_GB_in_second_half)" >> "$csv"
}

wanted() { # ROW
    [ -z "$only" ] || [[ ,$only, == *,$1,* ]]
}

# Those of the relays that speak WebSocket, each with `-web` behind its name.
by_web() {
    local subject
    for subject in $relays; do
        [ -z "${web_of[$subject]:-}" ] || echo "$subject-web"
    done
}

# One file case for each subject.
file_case() { # ROW "SUBJECTS" ARGUMENT...
    local row=$1 subject subjects=$2
    shift 2
    wanted "$row" || return 0
    for subject in $subjects; do
        if bench "$subject" file --cpu "$load_cpu" "$@"; then
            record "$row" "${subject%-web}" "$(field relay_cpu_s_per_GB)"
            [ -n "$(field relay_cpu_s_per_GB)" ] || record "$row" "${subject%-web}" 0
        else
            broken=yes
        fi
    done
}

message_case() { # ROW VALUE ARGUMENT...
    local row=$1 value=$2 subject subjects
    shift 2
    wanted "$row" || return 0
    subjects=$(relays_for "$row")
    [[ $row != *-web ]] || subjects=$(by_web)
    for subject in $subjects; do
        bench "$subject" messages --cpu "$load_cpu" "$@" || { broken=yes; continue; }
        case $value in
            cpu) record "$row" "${subject%-web}" "$(field relay_cpu_us_per_message)" ;;
            latency)
                record "$row-p50" "$subject" "$(field delivered_us p50)"
                record "$row-p99" "$subject" "$(field delivered_us p99)"
                record "$row-cpu" "$subject" "$(field relay_cpu_us_per_message)"
                ;;
            p99) record "$row" "$subject" "$(field delivered_us p99)" ;;
        esac
    done
}

page_faults() { # PID...
    local one
    for one; do sed 's/.*) //' "/proc/$one/stat"; done | awk '{ sum += $8 } END { printf "%.0f", sum }'
}

nanoseconds() { # PID...
    local one
    for one; do cat /proc/"$one"/task/*/schedstat; done | awk '{ sum += $1 } END { printf "%.0f", sum }'
}

# The same load on both halves, each from a process of its own; CPU seconds per GB of all relays together.
halves() { # ROW SUBJECT NAME NAME
    local row=$1 subject=$2 name before after faults bytes reach processes=("${process_of[$3]}") load=() status=0 part
    [ "$3" = "$4" ] || processes+=("${process_of[$4]}")
    before=$(nanoseconds "${processes[@]}") faults=$(page_faults "${processes[@]}")
    for name in "$3" "$4"; do
        reach "$name"
        "${launch[@]}" "$bin/msrp" bench file --topology both --sessions 4 --size $((giant / 4)) "${reach[@]}" \
            > "$scratch/part${#load[@]}" 2>> "$scratch/errors" &
        track
        load+=("$pid")
    done
    for part in "${load[@]}"; do ended "$part" || status=$?; done
    after=$(nanoseconds "${processes[@]}") faults=$(($(page_faults "${processes[@]}") - faults))
    [ "$status" = 0 ] || { echo "bench.sh: $row: $(cat "$scratch/errors")" >&2; broken=yes; return; }
    bytes=$((giant * 2))
    result="{\"relay_page_faults\":$faults,\"relay_page_faults_per_GB_in_second_half\":$((faults * 1000000000 / bytes))}"
    record "$row" "$subject" "$(awk -v ns=$((after - before)) -v bytes=$bytes 'BEGIN { printf "%.4f", ns / bytes }')"
}

core_cases() {
    local name
    if wanted two-cores || wanted split; then
        start_relay two "$relay" "$relay_cpu, $load_cpu" "$record_layer"
        if wanted two-cores; then
            start_relay first "$relay" "$relay_cpu" "$record_layer"
            start_relay second "$relay" "$load_cpu" "$record_layer"
            halves two-cores relay two two
            halves two-cores apart first second
            stop_relay first
            stop_relay second
        fi
        if wanted split; then
            for name in split local; do
                bench two file --topology both --pairs $name --size "$giant" || { broken=yes; continue; }
                case $name in
                    split) record split relay "$(field relay_cpu_s_per_GB)" ;;
                    local) record split local "$(field relay_cpu_s_per_GB)" ;;
                esac
            done
        fi
        stop_relay two
    fi
}

one_round() {
    local all=$relays
    [ "$with_proxies" = no ] || all="$relays haproxy nginx"
    file_case giant-one "$all" --size "$giant"
    file_case giant-both "$relays" --size "$giant" --topology both
    file_case sessions-16 "$all" --sessions 16 --size $((giant / 16))
    file_case sessions-200 "$all" --sessions 200 --size $((giant / 200))
    file_case chunks-10k-no "$(relays_for chunks-10k-no)" --size $((giant / 2)) --chunk-size 10000 --failure-report no
    file_case chunks-10k-yes "$(relays_for chunks-10k-yes)" --size $((giant / 2)) --chunk-size 10000 --failure-report yes
    file_case chunks-2k-yes "$(relays_for chunks-2k-yes)" --size $((giant / 8)) --chunk-size 2000 --failure-report yes
    message_case messages-16 cpu --window 16 --count $((messages * 4))
    message_case messages-8x8 cpu --sessions 8 --window 8 --count "$messages"
    if wanted alone-p50 || wanted alone-p99 || wanted alone-cpu; then
        only='' message_case alone latency --window 1 --count "$messages"
    fi
    file_case giant-web "$(by_web)" --size "$giant" --topology both
    file_case chunks-64k "$relays" --size "$giant" --chunk-size 64K --window 16 --topology both
    file_case chunks-64k-web "$(by_web)" --size "$giant" --chunk-size 64K --window 16 --topology both
    message_case messages-both cpu --window 16 --count $((messages * 4)) --topology both
    message_case messages-web cpu --window 16 --count $((messages * 4)) --topology both
    message_case beside-file p99 --window 1 --duration "$beside" --with-files 1
    local subject
    for subject in $(relays_for auth); do
        if wanted auth; then
            if bench "$subject" auth --cpu "$load_cpu" --count "$connections"; then
                record auth "$subject" "$(field relay_cpu_us_each)"
            else
                broken=yes
            fi
        fi
    done
    core_cases
    # Sessions take the same memory each time: twice is enough.
    if wanted idle && [ "$round" -le 2 ]; then
        for subject in $relays; do
            # A relay that cannot be started afresh would show nothing the second time.
            [ "$subject$round" = against2 ] || idle_case idle "$subject"
        done
    fi
    # How many calls it makes does not change from round to round.
    if [ "$round" = 1 ]; then
        calls_case relay "$relay" "$record_layer"
        [ -z "$baseline" ] || calls_case baseline "$baseline" "$baseline_record_layer"
    fi
    if wanted idle-web && [ "$round" -le 2 ]; then
        for subject in $(by_web); do idle_case idle-web "$subject"; done
    fi
}

# A relay that has done nothing yet: memory that earlier cases left free must not count as that of idle sessions.
idle_case() { # ROW SUBJECT
    local row=$1 subject=$2
    case $subject in
        relay*) start_relay fresh "$relay" "$relay_cpu" "$record_layer"; subject=fresh${subject#relay} ;;
        baseline*) start_relay fresh "$baseline" "$relay_cpu" "$baseline_record_layer"; subject=fresh${subject#baseline} ;;
    esac
    if bench "$subject" idle --cpu "$load_cpu" --sessions "$idle" --hold 1s; then
        record "$row" "${2%-web}" "$(field relay_bytes_each)"
    else
        broken=yes
    fi
    [[ $subject != fresh* ]] || stop_relay fresh
}

count_allocations() {
    wanted allocations || return 0
    if [ "$build" = no ]; then
        echo "== Not counting allocations (--no-build)"
        return 0
    fi
    echo "== Counting allocations"
    local counted
    counted=$(cargo test --release --locked -p msrp-relay-core --test allocations -- --nocapture 2> "$scratch/errors" \
        | sed -n 's/^allocations per chunk: \([0-9.]*\)$/\1/p' | sort -n | tail -n 1)
    [ -n "$counted" ] || { cat "$scratch/errors" >&2; broken=yes; return 0; }
    round=1 result=''
    record allocations relay "$counted"
}
