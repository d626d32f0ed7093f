#!/bin/bash
# Runs all tests: those of the crates, then those of tests/ (called by `make test`, which builds first).
# The tests that boot a node or start a libvirtd need root: without it they are left out and listed here, in CI (CI=true) they run and
# fail.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --exclude kulprit-tests --no-fail-fast
if [ "$(id -u)" = 0 ] || [ "${CI:-}" = true ]; then
    exec cargo test -p kulprit-tests --no-fail-fast
fi

cargo test -p kulprit-tests --no-default-features --no-fail-fast
echo
echo "Left out, because they need root (run \`sudo -E env PATH=\"\$PATH\" make test\` for all):"
# Each [[test]] of tests/Cargo.toml that requires the feature `lab`, and the tests in its file.
awk -F '"' '/^name = /{ name = $2 } /^required-features = .*"lab"/{ print name }' tests/Cargo.toml | while read -r topic; do
    awk -v topic="$topic" '/^#\[(tokio::)?test/ { seen = 1; next }
        seen && /^(async )?fn / { sub(/^(async )?fn /, ""); sub(/\(.*/, ""); print "  " topic "::" $0; seen = 0 }' "tests/tests/$topic.rs"
done
# The worker's tests with a libvirtd leave themselves out, each by its name.
sed -n 's/.*may_run("\([a-z_]*\)").*/  libvirtd::\1/p' agent/libvirt/tests/it/libvirtd.rs
