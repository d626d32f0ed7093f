#!/bin/bash
# Plays the scenarios of tests/scenarios on two lab nodes with Kulprit's own programs (called by `make lab`, which sets up first).
#
#   scripts/lab.sh                    all of them, and a table; of those that fail the timeline as well
#   SCENARIO="name …" scripts/lab.sh  only these, with their timelines as they happen
#   RUNS=3 scripts/lab.sh             all of them, three times in a row
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "make lab boots nodes and needs root: sudo -E env PATH=\"\$PATH\" make lab" >&2; exit 1; }
cargo build -q -p kulprit-agent -p kulprit-agent-libvirt -p kulprit-central -p kulprit-cli -p kulprit-tests --bins
lab=${CARGO_TARGET_DIR:-target}/debug/kulprit-lab
if [ -n "${SCENARIO:-}" ]; then
    read -ra names <<<"$SCENARIO"
    exec "$lab" play "${names[@]}"
fi
exec "$lab" play --all "${RUNS:-1}"
