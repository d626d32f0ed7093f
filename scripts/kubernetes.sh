#!/bin/bash
# Builds the lab's Kubernetes, containerd and helm from their Go modules into a cache, once for each set of versions (called by scripts/setup.sh).
#
#   scripts/kubernetes.sh              build what the cache lacks: about a quarter of an hour on two cores, and nothing the second time
#   scripts/kubernetes.sh --dry-run    only say what would be built
#   scripts/kubernetes.sh --where      print the folder of the programs; 1 if they are not built
#
# The versions are those of tests/kubernetes/go.mod, containerd's and helm's below. The cache is $KULPRIT_CACHE, or $XDG_CACHE_HOME/kulprit, or
# ~/.cache/kulprit, under sudo also that of the person behind it; a folder of older versions there may be removed. Where
# $KUBEBUILDER_ASSETS names a folder with all the programs, those are used. Modules come from where `go env GOPROXY` says.
set -euo pipefail
[ -z "${KULPRIT_CACHE:-}" ] || KULPRIT_CACHE=$(realpath -m "$KULPRIT_CACHE")
cd "$(dirname "$0")/../tests/kubernetes"

containerd=v2.4.2
# helm's is in its program's name, and no part of the key: a folder without it is completed, and nothing else is built anew.
helm=v4.3.1
programs=(etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl kubelet containerd containerd-shim-runc-v2 ctr "helm-$helm")

say() { echo "kubernetes: $*"; }
fail() { echo "kubernetes: $*" >&2; exit 1; }

version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' go.mod)
[ -n "$version" ] || fail "tests/kubernetes/go.mod names no version of k8s.io/kubernetes."
key=$version-containerd-$containerd-$(cat go.mod go.sum | sha256sum | cut -c1-8)
cache=${KULPRIT_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/kulprit}/kubernetes
built=$cache/$key

is_complete() {
    local p
    for p in "${programs[@]}"; do [ -x "$1/$p" ] || return 1; done
}
# What is there already, by whomever it was built.
theirs=$([ -z "${SUDO_USER:-}" ] || getent passwd "$SUDO_USER" | cut -d: -f6)/.cache/kulprit/kubernetes/$key
for folder in "${KUBEBUILDER_ASSETS:-}" "$built" "$theirs"; do
    ! is_complete "$folder" || { built=$folder; break; }
done

dry_run=
case ${1:-} in
    '') ;;
    --dry-run) dry_run=1 ;;
    --where) is_complete "$built" || fail "not built: run scripts/kubernetes.sh (or make setup)"; echo "$built"; exit 0 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' ../../scripts/kubernetes.sh >&2; exit 2 ;;
esac
if is_complete "$built"; then
    say "nothing to do: Kubernetes $version, containerd $containerd and helm $helm are in $built"
    exit 0
fi

export PATH="$PATH:/usr/local/go/bin"
command -v go >/dev/null || fail "Go is missing (Debian: golang-go; any from 1.21 on fetches the version it needs by itself)."
say "building Kubernetes $version, containerd $containerd and helm $helm into $built: about a quarter of an hour on two cores, once"
[ -z "$dry_run" ] || exit 0

# What is whole goes there at once, so that a build that was stopped goes on where it was, and a lab that runs keeps its programs.
mkdir -p "$built"
exec 9>"$cache/lock"
flock -n 9 || { say "waiting for another build"; flock 9; }
! is_complete "$built" || { say "the other build made it"; exit 0; }

# The programs need no C; an older Go fetches the one that go.mod asks for.
export CGO_ENABLED=0 GOTOOLCHAIN=auto GOFLAGS="-buildvcs=false"
minor=${version#v1.} # "36.3"
stamp=k8s.io/component-base/version
flags=(-trimpath -ldflags "-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}")

new=$built/.new log=$built/.log
build() { # PROGRAM COMMAND...
    local program=$1 start=$SECONDS
    shift
    [ ! -x "$built/$program" ] || return 0
    nice -n 10 "$@" >"$log" 2>&1 || {
        grep -v '^go: downloading' "$log" | tail -20 >&2
        fail "$program could not be built (what Go said last is above)."
    }
    [ "$(stat -c %s "$new/${program%-v*}")" -gt 0 ] || fail "$program is empty."
    mv "$new/${program%-v*}" "$built/$program"
    say "built $program in $((SECONDS - start)) s"
}
rm -rf "$new"
mkdir "$new"
build etcd go build "${flags[@]}" -o "$new/etcd" go.etcd.io/etcd/server/v3
for p in kubelet kube-apiserver kube-controller-manager kube-scheduler kubectl; do
    build "$p" go build "${flags[@]}" -o "$new/$p" "k8s.io/kubernetes/cmd/$p"
done
# Of the same modules, and some more, whose sums are added to a copy: go.sum is part of the key.
cp go.mod go.sum "$new"
build kube-proxy go build -mod=mod -modfile="$new/go.mod" "${flags[@]}" -o "$new/kube-proxy" k8s.io/kubernetes/cmd/kube-proxy
for p in containerd containerd-shim-runc-v2 ctr; do
    build "$p" env GOBIN="$new" GOFLAGS="$GOFLAGS -tags=no_btrfs" \
        go install -trimpath -ldflags "-s -w" "github.com/containerd/containerd/v2/cmd/$p@$containerd"
done
build "helm-$helm" env GOBIN="$new" go install -trimpath -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@$helm"
rm -r "$new" "$log"
say "done: $built ($(du -sh "$built" | cut -f1))"
