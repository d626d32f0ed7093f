#!/bin/bash
# Checks the dependency tree against deny.toml (called by `make check`): bans, licences, sources; nothing is fetched.
#
#   scripts/deny.sh              bans, licences and sources
#   scripts/deny.sh advisories   known vulnerabilities too, for a daily job: fetches the advisory database
#
# Takes the cargo-deny that is there, else builds one into target/tools (3 to 4 minutes on two cores, once).
set -euo pipefail
cd "$(dirname "$0")/.."

# The newest that builds with the toolchain of rust-toolchain.toml.
version=0.20.2

tools=$(scripts/cargo-tool.sh cargo-deny "$version")
export PATH="$PATH:$tools"

case ${1:-} in
    '')
        # cargo-deny reads `cargo metadata`, which wants all packages on disk, those that no build needs included.
        cargo fetch --quiet --locked
        # parse-error: virt-sys writes its licence the old way.
        exec cargo deny --offline --log-level warn check --hide-inclusion-graph --allow parse-error bans licenses sources
        ;;
    advisories) exec cargo deny --log-level warn check advisories ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
