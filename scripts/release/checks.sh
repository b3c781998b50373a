# shellcheck shell=bash disable=SC2154 # a part of release.sh
# What must hold of a release.

# The version is the same wherever it stands, and has a date.
check_words() {
    at_commit() { git show "$commit:$1"; }
    at_commit Cargo.toml | grep -x "version = \"$version\"" > /dev/null || fail "Cargo.toml of that commit has another version than $version"
    at_commit CHANGELOG.md | grep -E "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" > /dev/null ||
        fail "CHANGELOG.md has no heading '## [$version] - DATE'"
    at_commit deploy/debian/changelog | sed -n 1p | grep -F "msrprelay ($version-1) " > /dev/null ||
        fail "deploy/debian/changelog does not begin with $version-1"
    at_commit CHANGELOG.md | grep "^## \[$version\]"
    echo "commit $commit of $(date -u -d "@$epoch" +%FT%TZ)"
}

# The licences are those that third-party.sh allows.
check_dependencies() { # TREE
    local allowed
    allowed=$(sed -n "s/^readonly allowed='\(.*\)'$/\1/p" "$1/scripts/third-party.sh")
    [ -n "$allowed" ] || fail "scripts/third-party.sh names no licences"
    cat > "$scratch/deny.toml" << TOML
[graph]
targets = ["x86_64-unknown-linux-gnu"]
[licenses]
allow = [$(printf '"%s", ' $allowed)]
# Runs only in the compiler, for a macro of rust-ini's; no part of it is in the programs.
exceptions = [{ crate = "tiny-keccak", allow = ["CC0-1.0"] }]
[bans]
# Two versions of a crate are a matter of size, not of correctness.
multiple-versions = "allow"
wildcards = "deny"
allow-wildcard-paths = true
[sources]
unknown-registry = "deny"
unknown-git = "deny"
TOML
    (
        cd "$1" || exit
        cargo fetch --locked --quiet
        scripts/third-party.sh --check
        cargo deny --log-level error --locked --config "$scratch/deny.toml" check licenses bans sources
    )
}

# The newest version of the C library's symbols that the programs ask for.
needed_glibc() { # PROGRAM...
    objdump -T "$@" | grep -o 'GLIBC_[0-9.]*' | cut -d _ -f 2 | sort -Vu | tail -n 1
}

check_programs() { # TREE
    local program needed file path
    needed=$(needed_glibc "$1"/target/package/bin/*)
    [ "$(printf '%s\n' "$needed" "$newest_glibc" | sort -V | tail -n 1)" = "$newest_glibc" ] ||
        fail "the programs need glibc $needed, and Debian 12 has $newest_glibc: build on Debian 12"
    echo "needs glibc $needed, and Debian 12 has $newest_glibc"
    for program in "$1"/target/package/bin/*; do
        ! readelf --sections --wide "$program" | grep -E '\.debug_(info|line|str)' > /dev/null || fail "${program##*/} has its debug symbols in it"
        echo "${program##*/} $(readelf --notes "$program" | sed -n 's/^ *\(Build ID: .*\)/\1/p'), linked to $(readelf --dynamic "$program" |
            sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | tr '\n' ' ')"
    done
    mkdir "$scratch/plain"
    for file in "$1"/target/package/bin/* $(find "$1/target/package/symbols" -name '*.debug'); do
        # Compressed content cannot be searched.
        objcopy --decompress-debug-sections "$file" "$scratch/plain/${file##*/}"
        strings --all "$scratch/plain/${file##*/}" > "$scratch/plain/strings"
        for path in "$1" "$scratch" "$root" "$HOME" "${CARGO_HOME:-$HOME/.cargo}" "$(rustc --print sysroot)"; do
            # A home such as / would match everything.
            [ ${#path} -gt 3 ] || continue
            ! grep -m 3 -F "$path/" "$scratch/plain/strings" || fail "${file##*/} names $path of this machine"
        done
    done
    echo "no path of this machine in programs and debug symbols"
}
