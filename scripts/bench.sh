#!/bin/bash
# Measures the budget of the design on this machine (called by `make bench`, which sets up first): release binaries, real processes.
# Prints the figures and writes them to docs/figures.md. Takes about half an hour after the build.
#
#   scripts/bench.sh            everything; the node of the lab needs root
#   scripts/bench.sh --no-lab   only what needs no node
#
# A busy machine spoils the figures: close what else runs.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
    '' | --no-lab) ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
bin=${CARGO_TARGET_DIR:-target}/release
rows=$(mktemp)
trap 'rm -f "$rows"' EXIT

cargo build --release -p kulprit-agent -p kulprit-agent-libvirt -p kulprit-central -p kulprit-cli -p kulprit-tests --bins

# The middle of criterion's estimate of a throughput (`thrpt: [low middle high]`) as a plain number of elements per second.
throughput() {
    awk -v name="$1" '
        index($0, name) == 1 { seen = 1 }
        seen && /thrpt:/ {
            gsub(/[\[\]]/, ""); value = $4; unit = $5
            if (unit ~ /^Kelem/) value *= 1e3; else if (unit ~ /^Melem/) value *= 1e6
            printf "%.0f", value; exit
        }'
}

log=$(cargo bench -q -p kulprit-tests --bench kernel_log 2>&1)
kernel_log_row() {
    awk -v what="$1" -v n="$(throughput "$2" <<<"$log")" 'BEGIN { us = 1e6 / n
        printf "| kernel log, %s | %.2f million lines/s (%.2f µs a line) | ≤ 0.5 µs a line | %s |\n",
            what, n / 1e6, us, us <= 0.5 ? "met" : "**not met**" }' >>"$rows"
}
kernel_log_row "storm with planted faults, none missed" kernel_log/storm
kernel_log_row "nothing but faults" kernel_log/faults_only

log=$(cargo bench -q -p kulprit-central --bench ingest 2>&1)
findings=$(throughput ingest/findings_acked_after_fsync <<<"$log")
awk -v n="$findings" 'BEGIN {
    printf "| findings acked after fsync, 8 streams | %d/s | ≥ 50,000/s | %s |\n", n, n >= 50000 ? "met" : "**not met**" }' >>"$rows"

# Rows of its own, about five minutes.
cargo bench -q -p kulprit-central --bench cluster 2>/dev/null | grep '^| central' >>"$rows"
cargo bench -q -p kulprit-central --bench tls 2>/dev/null | grep '^| central' >>"$rows"

"$bin/kulprit-bench-cases" >>"$rows"

if [ "${1:-}" != --no-lab ]; then
    # Debian's node_exporter to compare with, unpacked and not installed: as a package it would start a service.
    if [ -z "${NODE_EXPORTER:-}" ] && command -v apt-get >/dev/null; then
        exporter=$(mktemp -d)
        trap 'rm -rf "$rows" "$exporter"' EXIT
        if (cd "$exporter" && apt-get -q download prometheus-node-exporter >/dev/null 2>&1 && dpkg -x ./*.deb .); then
            export NODE_EXPORTER=$exporter/usr/bin/prometheus-node-exporter
        fi
    fi
    [ -n "${NODE_EXPORTER:-}" ] || echo "bench: no node_exporter to compare with; name one by NODE_EXPORTER" >&2
    command -v strace >/dev/null || echo "bench: no strace; system calls are not counted" >&2
    "$bin/kulprit-bench-cost" >>"$rows"
    "$bin/kulprit-bench" >>"$rows"
    "$bin/kulprit-bench-publish" >>"$rows"
fi

# The rows that a pattern selects, as a table.
table() {
    echo "| figure | measured | budget | |"
    echo "|---|---|---|---|"
    grep -E "$@" "$rows" || true
}

{
    echo "# Figures"
    echo
    echo "Measured by \`make bench\` (\`scripts/bench.sh\`, which wrote this file), release build, whole processes; each beside its budget."
    echo
    echo "- Date: $(date -u +%Y-%m-%d)"
    echo "- Commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    echo "- Machine: $(nproc) cores, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1); load when it began: $(cut -d' ' -f1 /proc/loadavg)"
    echo "- Versions: Linux $(uname -r), $(rustc --version | cut -d' ' -f1,2), libvirt $(libvirtd --version 2>/dev/null | awk '{ print $NF }'), $(qemu-system-x86_64 --version 2>/dev/null | awk 'NR == 1 { print "QEMU", $4 }')"
    echo
    echo "## What the agent costs its node"
    echo
    echo "All probes, a booted node with kubelet, libvirt and QEMUs with tiny guests; node_exporter in the same node and minute. Each row is a minute in which"
    echo "nothing happens; system calls are counted in a minute of their own by strace, in which node_exporter is not asked. To reproduce: \`make bench\`,"
    echo "or alone \`target/release/kulprit-bench-cost\` as root with \`NODE_EXPORTER\` naming a node_exporter. What is behind the figures: adr/0012."
    echo
    table '^\| (cost|a look)'
    echo
    echo "## What a large cluster costs central"
    echo
    echo "All of central in one process, without the wire: written objects through the watches' own door, findings of all nodes through the"
    echo "state. Every state of the catalogue is looked at and absent on each node and VM, more than a real node says. RSS is of the process"
    echo "with what feeds it. To reproduce: \`cargo bench -p kulprit-central --bench cluster\`."
    echo
    table '^\| central'
    echo
    echo "## The rest"
    echo
    table -v '^\| (cost|a look|central)'
    echo
    echo "RSS is mostly the program's own text and libvirt's (file-backed, shared); what the agent allocates is the anonymous part."
} >docs/figures.md
cat docs/figures.md
