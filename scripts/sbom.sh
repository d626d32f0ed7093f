#!/bin/bash
# Writes what each program is made of: a bill of materials (CycloneDX, JSON) for each in target/sbom, crates with versions and licences.
#
#   scripts/sbom.sh [TARGET]    of this machine, or of another target, for example aarch64-unknown-linux-gnu
#
# The libraries of an image that are not crates are Debian's: `deploy/images/root.sh` copies them, `dpkg -S FILE` in the builder names their packages.
# Takes the cargo-cyclonedx that is there, else builds one into target/tools (2 minutes on two cores, once).
set -euo pipefail
cd "$(dirname "$0")/.."

# The newest that builds with the toolchain of rust-toolchain.toml.
version=0.5.9
crates=(agent agent/libvirt central cli)

tools=$(scripts/cargo-tool.sh cargo-cyclonedx "$version")
export PATH="$PATH:$tools"

mkdir -p target/sbom
for crate in "${crates[@]}"; do
    # It writes beside each Cargo.toml of the workspace.
    cargo cyclonedx --quiet --manifest-path "$crate/Cargo.toml" --format json --describe binaries ${1:+--target "$1"}
    for bill in "$crate"/*.cdx.json; do
        mv "$bill" target/sbom/
    done
    find . -path ./target -prune -o -name '*.cdx.json' -exec rm {} +
done
ls -l target/sbom
