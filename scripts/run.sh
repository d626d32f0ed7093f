#!/bin/bash
# Builds Kulprit and runs central and agent on this host until Ctrl-C (called by `make run`, which sets up first).
# Everything is in ./.run (store, spool, socket, logs) and listens on loopback only. Looks at the whole host, so root sees more: without
# it the kernel log and other users' processes are Unknown, and said to be.
set -euo pipefail
cd "$(dirname "$0")/.."

listen=127.0.0.1:${KULPRIT_PORT:-7443}
data=$PWD/.run
bin=${CARGO_TARGET_DIR:-target}/debug
export KULPRIT_CENTRAL=http://$listen

cargo build -p kulprit-agent -p kulprit-agent-libvirt -p kulprit-central -p kulprit-cli
mkdir -p "$data"/{agent,central}

set -m # Ctrl-C is for this script, which ends the two in order; they get no signal of their own.
pids=()
stop() {
    trap - EXIT INT TERM
    [ ${#pids[@]} = 0 ] || { echo; echo "Stopping."; kill -TERM "${pids[@]}" 2>/dev/null || true; wait || true; }
}
trap stop EXIT
trap 'exit 0' INT TERM # the way it is meant to end

# Starts a program with its log in a file; its early end is shown with the last of the log.
start() {
    local name=$1
    shift
    "$bin/$name" "$@" </dev/null >"$data/$name.log" 2>&1 &
    pids+=($!)
}
ended() {
    echo "$1 has ended. Its last lines ($data/$1.log):" >&2
    tail -n 5 "$data/$1.log" >&2
    exit 1
}
check() {
    kill -0 "${pids[0]}" 2>/dev/null || ended kulprit-central
    [ ${#pids[@]} = 1 ] || kill -0 "${pids[1]}" 2>/dev/null || ended kulprit-agent
}
# Waits up to 20 s for a command to succeed.
until_true() {
    for _ in $(seq 100); do
        check
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    return 1
}
has_node() { "$bin/kulprit" nodes -o json | grep -q '"reporting": true'; }

start kulprit-central --listen "$listen" --data-dir "$data/central"
until_true "$bin/kulprit" nodes || ended kulprit-central
start kulprit-agent run --central "http://$listen" --state-dir "$data/agent"
until_true has_node || { echo "the agent does not reach central: see $data/kulprit-agent.log" >&2; exit 1; }
sleep 3 # every probe has looked once

[ "$listen" = 127.0.0.1:7443 ] && flag= || flag=" --central http://$listen"
try() { printf '  %-40s %s\n' "$bin/kulprit$1" "$2"; }
echo
echo "Kulprit runs on this host: central on $listen, logs and data in $data. Try:"
echo
try "$flag why" "why is a VM stuck or down? (why NAME for one of them)"
try "$flag node $(hostname)" "what the agent sees here"
try " status" "the same from the agent itself, without central"
cat <<TEXT

The first findings:

TEXT
"$bin/kulprit" findings
echo
"$bin/kulprit" why || true
echo
echo "Ctrl-C stops both."
while check; do sleep 1; done
