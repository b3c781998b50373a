#!/usr/bin/env bash
# The licences of all code in the two programs: makes deploy/debian/copyright from what cargo has locked.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: third-party.sh [--check | --choose EXPRESSION]

Writes deploy/debian/copyright: for each crate that is linked into msrprelay or msrp (Cargo.lock, Linux, no build or test
dependencies) its copyright notices and the licence it is used under, and the text of each licence, as they lie in the
crates' sources. Needs the crates' sources, and no network: `cargo fetch --locked` brings them.

Where a crate leaves the choice, the first of these licences that fits is taken; one that fits none is an error:
  Apache-2.0 MIT BSD-2-Clause BSD-3-Clause ISC Zlib Unicode-3.0 CDLA-Permissive-2.0 MPL-2.0

  --check      write nothing; fail if the file is not what would be written
  --choose     say which licences are taken where a crate has this SPDX expression; fail if none is allowed
  -h, --help   this text
USAGE
}

check=no choose=''
options "--check" "--choose" "$@"
cd "$root"
export LC_ALL=C
readonly copyright=deploy/debian/copyright target=x86_64-unknown-linux-gnu

# MPL-2.0 is for files of its own, which are used as they are published; the others ask for their notices, no more.
readonly allowed='Apache-2.0 MIT BSD-2-Clause BSD-3-Clause ISC Zlib Unicode-3.0 CDLA-Permissive-2.0 MPL-2.0'

make_scratch third-party

# -- what is linked --------------------------------------------------------------------------------

# Our own crates are left out: the file's first part is theirs.
linked() { # FORMAT
    cargo tree --locked --offline --edges normal,no-proc-macro --target "$target" --prefix none --format "$1" \
        | sed 's/ (\*)$//' | grep -vF " ($root" | sort -u
}

# NAME VERSION|EXPRESSION, one a line.
crates() { linked '{p}|{l}' | sed -n 's/^\([^ ]*\) v\([^ |]*\)|\(.*\)$/\1 \2|\3/p'; }

# NAME-VERSION DIRECTORY, one a line, of everything in the lock file that has its sources here.
sources() {
    cargo metadata --locked --offline --format-version 1 --filter-platform "$target" \
        | grep -o '"manifest_path":"[^"]*"' | sed 's/.*:"\(.*\)\/Cargo.toml"/\1/' | sed 's/.*\/\([^/]*\)$/\1 &/' | sort -u
}

# -- licences --------------------------------------------------------------------------------------

# Reads an SPDX expression; prints the licences that are chosen, joined by " and ", or fails for one that is not allowed.
choose() { # EXPRESSION
    awk -v text="$1" -v allowed="$allowed" '
        function rank(set,    parts, n, i, worst) {
            n = split(set, parts, "|"); worst = 0
            for (i = 1; i <= n; i++) if (order[parts[i]] > worst) worst = order[parts[i]]
            return worst
        }
        function both(a, b,    parts, n, i) {
            if (a == "" || b == "") return ""
            n = split(b, parts, "|")
            for (i = 1; i <= n; i++) if (index("|" a "|", "|" parts[i] "|") == 0) a = a "|" parts[i]
            return a
        }
        function either(a, b) {
            if (a == "") return b
            if (b == "") return a
            return rank(b) < rank(a) ? b : a
        }
        function one(    set) {
            if (word[at] == "(") { at++; set = any(); at++; return set }
            set = word[at++]
            sub(/\+$/, "", set)
            # An exception only permits more, but is not ours to judge: the plain licence must be among the choices.
            if (word[at] == "WITH") { at += 2; return "" }
            return (set in order) ? set : ""
        }
        function all(    set) { set = one(); while (word[at] == "AND") { at++; set = both(set, one()) } return set }
        function any(    set) { set = all(); while (word[at] == "OR") { at++; set = either(set, all()) } return set }
        BEGIN {
            n = split(allowed, list, " ")
            for (i = 1; i <= n; i++) order[list[i]] = i
            gsub(/\//, " OR ", text); gsub(/\(/, " ( ", text); gsub(/\)/, " ) ", text)
            split(text, word, " +")
            at = (word[1] == "") ? 2 : 1
            set = any()
            gsub(/\|/, " and ", set)
            print set
            exit set == ""
        }'
}

# What the text of a licence has in it, and no other.
signature() { # LICENCE
    case $1 in
        MIT) echo 'Permission is hereby granted, free of charge' ;;
        BSD-*) echo 'Redistribution and use in source and binary forms' ;;
        ISC) echo 'Permission to use, copy, modify, and' ;;
        Zlib) echo "provided 'as-is'" ;;
        Unicode-3.0) echo 'UNICODE LICENSE V3' ;;
        CDLA-Permissive-2.0) echo 'Community Data License Agreement' ;;
        *) fail "no signature for $1" ;;
    esac
}

licence_files() { # DIRECTORY
    find "$1" -maxdepth 1 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' \) \
        ! -name '*.rs' ! -name '*.html' | sort
}

# The lines that name the holder, without those that are part of a licence, or of its template.
notices() { # FILE...
    [ $# -gt 0 ] || return 0
    sed -e 's/\r$//' -e 's/^[[:space:]#*\/-]*//' -e 's/[[:space:]]*$//' "$@" \
        | grep -iE '^(copyright|©|\(c\))' | grep -iE '(19|20)[0-9][0-9]|\(c\)|©|the .* (authors|contributors|developers)' \
        | grep -ivE '\[yyyy\]|\{yyyy\}|<year>|copyright (notice|holder|owner|license|and)|permission notice|you must retain' \
        | sed -e 's/^[Cc]opyright:* *//' -e 's/[[:space:]]\{1,\}/ /g' | grep . | sort -u || true
}

# Where no notice names the holder.
authors() { # CARGO_TOML
    awk '/^authors = \[/ { on = 1 } on { print } on && /\]/ { exit }' "$1" | grep -o '"[^"]*"' | tr -d '"' | sed 's/ *<.*>//' | sort -u || true
}

# A text as a field of the file: indented, with a dot on lines that would be empty.
field() { sed -e 's/\r$//' -e 's/\t/        /g' -e 's/[[:space:]]*$//' -e 's/^$/./' -e 's/^/ /'; }

# A licence without title and notices, so that the same text of two authors is the same.
body() { # FILE
    sed -e 's/\r$//' -e 's/[[:space:]]*$//' "$1" \
        | grep -ivE '^[[:space:]]*((the )?(mit|isc|zlib|bsd)[- a-z0-9]*licen[cs]e.*|copyright[ :].*(19|20)[0-9][0-9].*|copyright \(c\).*|\(c\) .*|©.*|all rights reserved\.?|=+|-+)$' \
        | sed -e '/./,$!d' | awk 'NF { if (gap) print ""; gap = 0; print; next } { gap = 1 }'
}

# The name of a text: that of the licence, and a number if there are several texts of it. The text is kept under it.
name_text() { # LICENCE FILE
    local text key n=1 name
    text=$(body "$2")
    # Without line breaks, spaces and the signs that differ from copy to copy.
    key=$(tr -cd '[:alnum:]' <<< "$text" | tr '[:upper:]' '[:lower:]')
    while :; do
        name=$1
        [ "$n" = 1 ] || name=$1-$n
        if [ ! -e "$scratch/texts/$name.key" ]; then
            printf '%s' "$key" > "$scratch/texts/$name.key"
            printf '%s\n' "$text" > "$scratch/texts/$name"
            break
        fi
        [ "$(cat "$scratch/texts/$name.key")" != "$key" ] || break
        n=$((n + 1))
    done
    echo "$name"
}

# -- the file --------------------------------------------------------------------------------------

heading() {
    cat <<'HEADING'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: msrprelay
Comment: Made by scripts/third-party.sh. The programs are linked with the crates below, which are named as
 NAME-VERSION; their sources are at https://crates.io. Where a crate leaves the choice, its licence here is
 the one it is used under.

Files: *
Copyright: 2026 the authors of msrprelay
License: Apache-2.0

Files: rust-standard-library/*
Copyright: The Rust Project contributors
License: Apache-2.0

Files: sqlite/*
Copyright: none: its authors have dedicated it to the public domain
License: public-domain
 The author disclaims copyright to this source code.
HEADING
}

stanza() { # NAME VERSION EXPRESSION DIRECTORY
    local id=$1-$2 chosen licence file files named='' text=''
    chosen=$(choose "$3") || fail "$id: $3: none of the licences that are allowed ($allowed): do without it, or decide"
    mapfile -t files < <(licence_files "$4")
    if [[ $chosen == *' and '* ]]; then
        # One file says what holds for which part of it.
        named=$chosen
        [ ${#files[@]} -gt 0 ] || fail "$id: $chosen, and no licence in its sources"
        text=$(cat "${files[@]}")
    elif [[ $chosen == Apache-2.0 || $chosen == MPL-2.0 ]]; then
        named=$chosen
    else
        for file in ${files[@]+"${files[@]}"}; do
            if tr -s '[:space:]' ' ' < "$file" | grep -qF "$(signature "$chosen")"; then
                named=$(name_text "$chosen" "$file")
                break
            fi
        done
        # A crate without a text gets that of another: the expression names the same licence.
        named=${named:-$chosen}
        echo "$named" >> "$scratch/needed"
    fi
    printf '\nFiles: %s/*\n' "$id"
    # What Apache-2.0 requires to pass on.
    for file in ${files[@]+"${files[@]}"}; do
        case ${file##*/} in [Nn][Oo][Tt][Ii][Cc][Ee]*) printf 'Comment: its notice says:\n' && field < "$file" ;; esac
    done
    licence=$(notices ${files[@]+"${files[@]}"})
    [ -n "$licence" ] || licence=$(authors "$4/Cargo.toml")
    printf '%s\n' "${licence:-the authors of $1}" | sed -e '1s/^/Copyright: /' -e '2,$s/^/ /'
    printf 'License: %s\n' "$named"
    [ -z "$text" ] || field <<< "$text"
}

texts() {
    local name
    printf '\nLicense: Apache-2.0\n On Debian systems the full text of the Apache License, version 2.0, is in\n /usr/share/common-licenses/Apache-2.0.\n'
    printf '\nLicense: MPL-2.0\n On Debian systems the full text of the Mozilla Public License, version 2.0, is in\n /usr/share/common-licenses/MPL-2.0.\n'
    for name in $(sort -u "$scratch/needed"); do
        [ -e "$scratch/texts/$name" ] || fail "$name: its text is in the sources of no crate"
        printf '\nLicense: %s\n' "$name"
        field < "$scratch/texts/$name"
    done
}

generate() {
    local name version expression directory count=0
    mkdir "$scratch/texts"
    : > "$scratch/needed"
    crates > "$scratch/crates"
    sources > "$scratch/sources"
    heading
    while IFS='| ' read -r name version expression; do
        directory=$(sed -n "s/^$name-$version //p" "$scratch/sources" | head -n 1)
        [ -n "$directory" ] || fail "$name $version: its sources are not here: cargo fetch --locked"
        stanza "$name" "$version" "$expression" "$directory"
        count=$((count + 1))
    done < "$scratch/crates"
    [ "$count" -gt 50 ] || fail "only $count crates were found: has cargo's output changed?"
    [ "$count" = "$(linked '{p}' | wc -l)" ] || fail "not every crate was understood"
    texts
}

if [ -n "$choose" ]; then
    choose "$choose" || fail "$choose: none of the licences that are allowed ($allowed)"
    exit
fi
generate > "$scratch/copyright"
if [ "$check" = yes ]; then
    diff -u "$copyright" "$scratch/copyright" > "$scratch/diff" || {
        head -n 40 "$scratch/diff" >&2
        fail "$copyright is not what the locked crates say: run scripts/third-party.sh and look at what changes"
    }
    echo "$copyright: $(grep -c '^Files: ' "$copyright") parts, as locked"
else
    cp "$scratch/copyright" "$copyright"
    echo "Wrote $copyright: $(grep -c '^Files: ' "$copyright") parts, $(wc -c < "$copyright") bytes"
fi
