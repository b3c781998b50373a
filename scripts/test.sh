#!/usr/bin/env bash
# The gate: everything that must hold before a change goes in. The same at home and in CI.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: test.sh [--quick]

Runs, in this order, and stops at the first that fails:
  scripts       their syntax; shellcheck where it can be had
  alerts        promtool: the alert rules, and their tests, where it can be had
  licences      deploy/debian/copyright is what scripts/third-party.sh makes of Cargo.lock, all of it allowed
  formatting    cargo fmt --all --check
  lints         cargo clippy, warnings denied
  docs          cargo doc, warnings denied
  tests         cargo test: unit, integration and documentation tests
  rustls        those of the tests over sockets that TLS matters to, with tls.record_layer: rustls
  web client    the tests of web/ with node
  end to end    scripts/demo.sh --size 1M (an optimised build), with accounts of each kind
  browser       scripts/demo-web.sh --test --size 5M: the page in headless Chromium

System packages that are missing are installed with apt-get, by name and with sudo if need be; nothing else is
changed outside the target directory. prometheus, promtool and fail2ban-regex are unpacked there and not installed, for their
packages would start services. Needs no input. The exit status is that of the first step that failed.

  --quick      leave out the docs, the end-to-end check and the browser
  -h, --help   this text
USAGE
}

quick=no
options "--quick" "" "$@"
cd "$root"
exec < /dev/null

# -- what the machine must have --------------------------------------------------------------------

# A compiler that cannot link is of no use: a system may have gcc and not the C library's headers.
can_compile() {
    local scratch result=0
    scratch=$(mktemp -d)
    echo '#include <stdlib.h>
int main(void) { return EXIT_SUCCESS; }' > "$scratch/probe.c"
    cc -o "$scratch/probe" "$scratch/probe.c" 2> /dev/null || result=1
    rm -rf "$scratch"
    return "$result"
}

missing_packages() {
    can_compile || echo gcc libc6-dev # the linker, and the C and assembly of aws-lc
    command -v systemd-analyze > /dev/null || echo systemd # what it says of the unit is a test
    command -v setpriv > /dev/null || echo util-linux # the same test runs the unit without rights
    command -v groff > /dev/null || echo groff-base # reads the man pages in a test
    command -v openssl > /dev/null || echo openssl # scripts/gen-cert.sh, which a test and the demo run
    command -v mariadbd > /dev/null || echo mariadb-server-core # tests/operator/accounts; without the service of mariadb-server
    command -v mariadb > /dev/null || echo mariadb-client-core
    compgen -G '/usr/lib/postgresql/*/bin/postgres' > /dev/null || echo postgresql # the same tests
    command -v python3 > /dev/null || echo python3 # runs the web back end of docs/operate/accounts.md
    command -v setpriv > /dev/null || echo util-linux # runs it without root's rights
    command -v node > /dev/null || echo nodejs # runs the tests of web/; demo-web.sh installs what it needs beyond
    command -v python3 > /dev/null || echo python3 # demo-web.sh serves the page with it
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ ! -e /etc/debian_version ] || echo ca-certificates # cargo's downloads
}

prepare_system() {
    local missing
    mapfile -t missing < <(missing_packages | tr ' ' '\n')
    if [ "${#missing[@]}" -gt 0 ]; then
        install_packages "${missing[@]}" || exit 1
        can_compile || fail "the C compiler (cc) still does not work"
    fi
    if ! command -v shellcheck > /dev/null && command -v apt-get > /dev/null; then
        install_packages shellcheck || echo "Going on without shellcheck"
    fi
}

# Programs of packages that would start a service: unpacked below target, where the tests find them by PATH.
tools=$PWD/target/gate-tools

unpack_package() { # PACKAGE
    mkdir -p "$tools" || return
    (
        cd "$tools" || exit
        apt-get -qq download "$1" > /dev/null 2>&1 ||
            { as_root apt-get -qq update && apt-get -qq download "$1" > /dev/null 2>&1; } || exit
        dpkg-deb -x "$1"_*.deb . && rm -f "$1"_*.deb
    )
}

prepare_tools() {
    export PATH=$PATH:$tools/bin:$tools/usr/bin
    mkdir -p "$tools/bin"
    { command -v promtool && command -v prometheus; } > /dev/null || unpack_package prometheus ||
        echo "Going on without promtool and prometheus"
    if ! command -v fail2ban-regex > /dev/null; then
        if [ -x /usr/bin/python3 ] && unpack_package fail2ban; then
            # Beside the tests' other tools its own modules and its config are not where it looks for them.
            cat > "$tools/bin/fail2ban-regex" <<SCRIPT
#!/bin/sh
export PYTHONPATH='$tools/usr/lib/python3/dist-packages'
exec /usr/bin/python3 -W ignore '$tools/usr/bin/fail2ban-regex' -c '$tools/etc/fail2ban' "\$@"
SCRIPT
            chmod +x "$tools/bin/fail2ban-regex"
        else
            echo "Going on without fail2ban-regex"
        fi
    fi
}

prepare_rust() {
    local wanted found tool
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    for tool in cargo rustc; do
        command -v "$tool" > /dev/null || fail "$tool not found: install Rust $wanted or later, see https://rustup.rs"
    done
    found=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "rustc is $found, but $wanted or later is needed: rustup update"
    for tool in fmt clippy; do
        cargo "$tool" --version > /dev/null 2>&1 && continue
        local component=${tool/#fmt/rustfmt}
        command -v rustup > /dev/null || fail "cargo $tool not found: install your distribution's $component"
        echo "Installing: rustup component $component"
        rustup component add "$component"
    done
}

# -- steps -----------------------------------------------------------------------------------------

check_scripts() {
    local script scripts=(scripts/*.sh scripts/*/*.sh .ci/run)
    for script in "${scripts[@]}"; do
        bash -n "$script"
    done
    if command -v shellcheck > /dev/null; then
        shellcheck --external-sources --severity=warning "${scripts[@]}"
    else
        echo "shellcheck is not there: syntax only"
    fi
}

check_alerts() {
    if ! command -v promtool > /dev/null; then
        echo "promtool is not there: skipped"
        return
    fi
    promtool check rules deploy/alerts.yaml && promtool test rules deploy/alerts.test.yaml
}

check_licences() {
    # On a machine that has compiled nothing yet the sources are missing.
    cargo fetch --locked --quiet --target x86_64-unknown-linux-gnu && scripts/third-party.sh --check
}

# `cargo test` with these options, then the seconds that each test binary took.
run_tests() { # OPTION...
    local status=0
    mkdir -p target
    cargo test "$@" 2>&1 | tee target/gate-tests.log || status=$?
    awk '
        / Running | Doc-tests / { name = $1 == "Doc-tests" ? $0 : $2 == "unittests" ? $2 " " $3 " " $4 : $2; sub(/^ +/, "", name) }
        /^test result: / { printf "%9s %5d tests  %s\n", $NF, $4, name }
    ' target/gate-tests.log
    return "$status"
}

# The same, which must run so many tests: a filter by name that matches nothing passes, too.
run_this_many_tests() { # COUNT OPTION...
    local wanted=$1 ran
    shift
    run_tests "$@" || return
    ran=$(awk '/^test result: / { sum += $4 } END { print sum + 0 }' target/gate-tests.log)
    [ "$ran" = "$wanted" ] || fail "$ran tests were run, not $wanted: the names or the number in test.sh are out of date"
}

with_rustls=(
    delivery::
    clients::clients_of_tls_1_2_and_1_3_talk_to_each_other
    clients::garbage_instead_of_tls_closes_that_connection_alone
    clients::who_ends_without_close_notify_in_mid_chunk_leaves_an_aborted_chunk_and_no_session
    clients::a_stop_lets_everything_queued_arrive_and_then_ends_in_order
    abuse::broken::
    federation::paths::
)
with_rustls_count=24

check_web_client() {
    logged target/gate-web.log "the tests of web/ have failed" timeout 300 node --test web/test/pure.test.js web/test/session.test.js
    grep -E '(# |ℹ )(tests|pass|fail)' target/gate-web.log
}

prepare_system
prepare_tools
prepare_rust
# io_uring counts against locked memory on older kernels, and the tests open many sockets.
raise_limit -l 65536
raise_limit -n 65536
# Most tests over sockets wait for a peer or for a time limit, not for a CPU.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

step 'Scripts' check_scripts
step 'Alerts' check_alerts
step 'Licences' check_licences
step 'Formatting' cargo fmt --all --check
step 'Lints' cargo clippy --workspace --all-targets --locked -- -D warnings
[ "$quick" = yes ] ||
    step 'Docs' env RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --document-private-items
step 'Tests' run_tests --workspace --locked
# MSRPRELAY_TEST_RECORD_LAYER=rustls cargo test runs all of them so.
export MSRPRELAY_TEST_RECORD_LAYER=rustls
step 'Record layer of rustls' \
    run_this_many_tests "$with_rustls_count" --locked --test sockets -- "${with_rustls[@]}"
unset MSRPRELAY_TEST_RECORD_LAYER
step 'Web client' check_web_client
if [ "$quick" = no ] && [ -e scripts/demo.sh ]; then
    step 'End to end' scripts/demo.sh --size 1M --full
    for accounts in sqlite mysql postgres; do
        step "End to end, accounts in $accounts" scripts/demo.sh --size 1M --no-build --accounts "$accounts"
    done
    for relays in 2 4; do
        step "End to end, $relays relays" scripts/demo.sh --size 1M --no-build --relays "$relays"
    done
    step 'Browser' scripts/demo-web.sh --test --size 5M --short --no-build
fi

printf '\nAll checks passed in %s s\n' "$SECONDS"
