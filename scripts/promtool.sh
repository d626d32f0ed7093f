#!/bin/bash
# Prints the path of promtool, Prometheus' own checker of rules (called by the test `alerts` and by scripts/setup.sh).
#
#   scripts/promtool.sh           $PROMTOOL, that of PATH, or that of a cache; else Debian's, unpacked into the cache
#   scripts/promtool.sh --where   the same, but downloads nothing
#
# Debian's package `prometheus` has it; it is unpacked and not installed, because it would start a service. The cache is
# $KULPRIT_CACHE, or $XDG_CACHE_HOME/kulprit, or ~/.cache/kulprit. Exit 1 where there is none: what to do is said.
set -euo pipefail

fail() { echo "promtool: $*" >&2; exit 1; }

cache=${KULPRIT_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/kulprit}/promtool
theirs=$([ -z "${SUDO_USER:-}" ] || getent passwd "$SUDO_USER" | cut -d: -f6)/.cache/kulprit/promtool
for found in "${PROMTOOL:-}" "$(command -v promtool || true)" "$cache/promtool" "$theirs/promtool"; do
    [ ! -x "$found" ] || { echo "$found"; exit 0; }
done
[ "${1:-}" != --where ] || fail "not here; scripts/setup.sh gets it."
command -v apt-get >/dev/null || fail "install Prometheus' promtool, or name one by PROMTOOL."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# As another user apt could not write here.
chmod 755 .
apt-get -q download prometheus >&2 || fail "apt-get could not download the package prometheus; name a promtool by PROMTOOL."
dpkg -x ./*.deb .
mkdir -p "$cache"
mv usr/bin/promtool "$cache/promtool"
echo "$cache/promtool"
