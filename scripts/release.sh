#!/usr/bin/env bash
# Makes a release: packages, archive, bill of materials, licences and their hashes, which can be made again from the tag.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: release.sh (--tag vVERSION | --version VERSION) [--twice] [--profile NAME] [--out DIR]

Makes in target/release-VERSION, for x86-64:
  msrprelay_VERSION-1_amd64.deb            the Debian package
  msrprelay-dbgsym_VERSION-1_amd64.deb     its debug symbols, found by the programs' build ids
  msrprelay-VERSION-x86_64-linux.tar.gz    the same programs with deploy/ and the documents
  msrprelay-VERSION.cdx.json               the bill of materials, as CycloneDX
  msrprelay-VERSION-third-party.txt        the licences of all code in the programs
  msrprelay-VERSION-build.txt              the commit, the tools, and the C library that the programs need
  SHA256SUMS                               of all these

It takes what git has, never what only lies in the working tree, and refuses a version that Cargo.toml, CHANGELOG.md and
deploy/debian/changelog of that commit do not all name; licences and sources that are not allowed (cargo deny); a program
that needs a newer C library than Debian 12's, names a path of this machine, or still has its debug symbols.

  --tag vVERSION     of this tag
  --version VERSION  of the newest commit, HEAD: to see what a release would be
  --twice            build in two directories and compare every file: the release is reproducible
  --profile NAME     a profile of cargo other than `release`: for trying this script. `dev` alone is quick
  --out DIR          where the files go
  -h, --help         this text

Needs a Debian 12 (the programs need no newer C library then) and Rust. Installs dpkg-dev, binutils, jq, cargo-deb,
cargo-cyclonedx and cargo-deny if they are missing; each of the last three compiles for minutes the first time. A release build
takes about five minutes of CPU time, --twice ten. Nothing is published, and no tag is made.
USAGE
}

tag='' version='' twice=no profile=release out=''
options "--twice" "--tag --version --profile --out" "$@"
cd "$root"
exec < /dev/null
# shellcheck source-path=SCRIPTDIR source=release/build.sh
. scripts/release/build.sh
# shellcheck source-path=SCRIPTDIR source=release/checks.sh
. scripts/release/checks.sh
readonly newest_glibc=2.36

choose_commit() {
    [ -n "$tag$version" ] || wrong "which release? --tag or --version"
    [ -z "$tag" ] || [ -z "$version" ] || wrong "--tag and --version: one of them"
    local named=${tag:-HEAD}
    [ -z "$tag" ] || version=${tag#v}
    [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || wrong "$version: write a version as 1.2.3, a tag as v1.2.3"
    commit=$(git rev-parse --verify --quiet "$named^{commit}") || fail "$named: no such tag"
    [ -n "$tag" ] || [ -z "$(git status --porcelain --untracked-files=no)" ] ||
        echo "The working tree differs from HEAD: what is made is HEAD"
    epoch=$(git show --no-patch --format=%ct "$commit")
}

install_tools() {
    local missing
    mapfile -t missing < <(uninstalled dpkg-dev binutils jq lintian)
    [ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}" || exit 1
    need_cargo
    need_cargo_tool deb 3.8.0
    need_cargo_tool cyclonedx 0.5.9
    need_cargo_tool deny 0.20.2
}

choose_commit
install_tools
make_scratch release
out=$(realpath -m "${out:-target/release-$version}")
step 'The words' check_words
export_tree "$scratch/first"
step 'Licences, bans, sources' check_dependencies "$scratch/first"
step 'Building' build_release "$scratch/first" "$scratch/made"
step 'What the programs need and say' check_programs "$scratch/first"
if [ "$twice" = yes ]; then
    export_tree "$scratch/a/second/and-longer-path"
    step 'Building again, elsewhere' build_release "$scratch/a/second/and-longer-path" "$scratch/made-again"
    step 'Comparing' compare "$scratch/made" "$scratch/made-again"
fi
rm -rf "$out"
mkdir -p "$(dirname "$out")"
mv "$scratch/made" "$out"
cat "$out/SHA256SUMS"
printf '\nOK: %s of %s is in %s\n' "$version" "${commit:0:12}" "$out"
