#!/bin/bash
# Fuzzes every parser of what others write: host text, the wire, files (called by `make check`).
#
#   scripts/fuzz.sh                       every target for 5 s, from the same inputs each time
#   scripts/fuzz.sh SECONDS [TARGET...]   all or some for as long as you like; what reached new places stays in tests/fuzz/corpus
#   scripts/fuzz.sh repro TARGET FILE     runs one input
#
# Needs no nightly and no cargo-fuzz: the coverage counters are an LLVM pass that the stable compiler has, too. There is no address
# sanitizer then, which safe Rust can do without; a panic, an overflow, 512 MiB or 5 s for one input are what counts as a crash.
# Seeds are the recorded fixtures, and tests/fuzz/seeds/<target>, which holds what once crashed.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "fuzz: $*" >&2; exit 1; }

command -v c++ >/dev/null || fail "libFuzzer is C++: install a C++ compiler (Debian: apt install g++)"
here=tests/fuzz
target=$(rustc -vV | sed -n 's/^host: //p')

# What cargo-fuzz passes, less the sanitizer. With --target, so that build scripts and macros are not instrumented.
build() {
    RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
        cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target-dir "$here/target" --target "$target" ||
        fail "the targets did not build"
}

# Recorded inputs of a target. libFuzzer reads folders with all below them.
fixtures() {
    case $1 in
        process | cgroup | mount | block | machine | qemu | kernel_log | http | tree) echo agent/host/fixtures agent/judge/fixtures ;;
        report) echo proto/fixtures ;;
        domain_xml) echo agent/libvirt/tests/fixtures ;;
        config | subject | spool | worker_frame | cluster | case | command | log | signature | journal) ;;
        *) fail "no fixtures are named for the target $1 in scripts/fuzz.sh" ;;
    esac
}

# New inputs go to the first folder, so a brief run is given one that is thrown away.
run() { # TARGET
    local name=$1 log=$here/artifacts/$1.log recorded dirs=() dir scratch
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder of this run
    trap "rm -rf '$scratch'" EXIT
    recorded=$(fixtures "$name")
    mkdir -p "$corpus/$name" "$here/artifacts/$name"
    for dir in "$corpus/$name" "$here/seeds/$name" $recorded; do [ ! -d "$dir" ] || dirs+=("$dir"); done
    if TMPDIR=$scratch "$here/target/$target/release/$name" "${dirs[@]}" -max_total_time="$seconds" -timeout=5 \
        -rss_limit_mb=512 -max_len=16384 -print_final_stats=1 -artifact_prefix="$here/artifacts/$name/" >"$log" 2>&1; then
        awk -v name="$name" '
            /cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
            /number_of_executed_units/ { n = $2 }
            END {
                printf "  %-14s %9d inputs, %5d places reached\n", name, n, cov
                if (cov < 20) { print "  " name ": no counters in the code: does this compiler take the flags above?"; exit 1 }
            }' "$log"
    else
        echo "  $name CRASHED"
        grep -E "panicked at|ERROR: libFuzzer|Test unit written|^Base64" -A1 "$log" | grep -v '^--' | sed 's/^/    /'
        echo "    scripts/fuzz.sh repro $name FILE; keep the file in $here/seeds/$name/ when it is mended"
        return 1
    fi
}

names=$(sed -n '/^\[\[bin\]\]/,/^path/s/^name = "\(.*\)"/\1/p' "$here/Cargo.toml")
case ${1:-5} in
    repro)
        [ $# = 3 ] || fail "repro TARGET FILE"
        build
        exec "$here/target/$target/release/$2" "$3"
        ;;
    *[!0-9]*) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
seconds=${1:-5} corpus=$here/corpus
if [ $# = 0 ]; then
    corpus=$(mktemp -d)
    trap 'rm -rf "$corpus"' EXIT
fi
[ $# -le 1 ] || names="${*:2}"

build
echo "fuzz: $(wc -w <<<"$names") targets, $seconds s each"
export -f run fixtures fail
export here target seconds corpus
# As many at once as there are processors. xargs ends with an error when one crashed, after all have run.
xargs -n 1 -P "$(nproc)" bash -euo pipefail -c 'run "$1"' run <<<"$names" || fail "a target crashed or measured nothing: see above"
