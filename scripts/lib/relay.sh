# shellcheck shell=bash disable=SC2034,SC2154 # a part of lib.sh
# What a script that runs the relay needs: the programs, a certificate, the port.

# The directory of msrprelay and msrp, in `bin`: that of --bin, else cargo's, where they are built first, with more OPTIONs
# of cargo build, unless there is a --no-build.
find_programs() { # [OPTION...]
    local binary
    if [ -z "${bin:-}" ]; then
        if [ "${build:-yes}" = yes ]; then
            need_cargo
            echo "== Building"
            [ -e "$root/${CARGO_TARGET_DIR:-target}/${profile:-release}" ] || [ -z "${first_build:-}" ] || echo "$first_build"
            case ${profile:-release} in
                debug) ;;
                release) set -- --release "$@" ;;
                *) set -- --profile "$profile" "$@" ;;
            esac
            (cd "$root" && cargo build --locked --bins "$@")
        fi
        bin=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}/${profile:-release}")
    fi
    for binary in msrprelay msrp; do
        [ -x "$bin/$binary" ] || fail "$bin/$binary is not there: let it be built"
    done
}

# The newest test binary of a name, in `driver`: cargo puts a hash behind the name. A driver that does not know the test
# would pass.
find_driver() { # NAME TEST
    driver=$(find "$bin/deps" -maxdepth 1 -name "$1-*" -type f -executable -printf '%T@ %p\n' 2> /dev/null |
        sort -n | tail -n 1 | cut -d ' ' -f 2-)
    [ -n "$driver" ] || fail "$bin holds no driver: let it be built"
    [ "$("$driver" --list --format terse --ignored --exact "$2")" = "$2: test" ] || fail "$driver has no test $2"
}

# Kills the relay whose process id is in a file: a killed driver leaves it behind.
kill_relay_of() { # FILE
    local relay
    relay=$(cat "$1" 2> /dev/null || true)
    [ -z "$relay" ] || [ "$(readlink "/proc/$relay/exe")" != "$bin/msrprelay" ] || kill -KILL "$relay" 2> /dev/null || true
}

# HOST.crt and HOST.key in `scratch`.
make_certificate() { # HOST [OPTION-OF-GEN-CERT...]
    logged "$scratch/gen-cert.log" "no certificate" "$root/scripts/gen-cert.sh" "$@" --out "$scratch"
}

# The port of the first address in a relay's ready file.
port_in() { # FILE
    sed -n '1s/.*://p' "$1"
}

hash_of() { # FILE
    local sum
    sum=$(sha256sum < "$1")
    echo "${sum%% *}"
}
