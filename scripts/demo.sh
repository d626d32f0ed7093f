#!/bin/bash
# Boots a lab VM, breaks its storage, prints why it is stuck, and takes everything down (called by `make demo`, which sets up first).
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(id -u)" = 0 ] || { echo "make demo boots a node and needs root: sudo -E env PATH=\"\$PATH\" make demo" >&2; exit 1; }
cargo build -q -p kulprit-agent -p kulprit-agent-libvirt -p kulprit-central -p kulprit-cli -p kulprit-tests --bins
exec "${CARGO_TARGET_DIR:-target}/debug/kulprit-demo"
