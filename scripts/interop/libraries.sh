# shellcheck shell=bash disable=SC2154 # a part of interop-sdk.sh and demo-web.sh
# Python libraries from sources that were checked out, in a virtual environment.

run() { # LOG COMMAND...: with its output in a log
    local log=$1
    shift
    logged "$log" "$* has failed: see $log" "$@"
}

# Makes it anew in `work`, with packages of PyPI and each of `libraries` from `sources`.
build_libraries() { # VENV PACKAGE...
    local name venv=$work/$1
    shift
    echo "== Building the libraries"
    rm -rf "$venv"
    run "$venv.log" /usr/bin/python3 -m venv "$venv"
    run "$venv-pip.log" timeout 600 "$venv/bin/pip" install setuptools wheel "$@"
    for name in "${libraries[@]}"; do
        rm -rf "${work:?}/$name"
        cp -a "$sources/$name" "$work/$name"
        rm -rf "$work/$name/build"
        run "$work/$name.log" timeout 300 "$venv/bin/pip" install --no-deps --no-build-isolation "$work/$name"
    done
}
