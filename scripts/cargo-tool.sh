#!/bin/bash
# Sees to it that a cargo subcommand is there, and prints the folder to put on PATH (called by scripts/deny.sh and scripts/sbom.sh).
#
#   scripts/cargo-tool.sh NAME VERSION    the NAME of PATH, else one that is built into target/tools: minutes on two cores, once
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# = 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
name=$1 version=$2
tools=$PWD/target/tools
if ! PATH="$PATH:$tools/bin" command -v "$name" >/dev/null; then
    echo "$name is not here; building $version into target/tools, which takes minutes" >&2
    cargo install --quiet --locked "$name" --version "$version" --root "$tools" --target-dir "$tools/build" >&2 || {
        echo "$name $version could not be built; install it by hand and run this again" >&2
        exit 1
    }
    # Hundreds of MB that are of no more use.
    rm -rf "$tools/build"
fi
echo "$tools/bin"
