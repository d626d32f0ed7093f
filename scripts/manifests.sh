#!/bin/bash
# Renders the chart as plain manifests, for `kubectl apply -f`: deploy/manifests/kulprit.yaml, with the chart's defaults.
#
#   scripts/manifests.sh            write the file
#   scripts/manifests.sh --check    only say whether it is what the chart renders; 1 if it is not
#
# helm is the one that scripts/kubernetes.sh builds.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(scripts/kubernetes.sh --where)
helm=$(ls "$programs"/helm-v*)
file=deploy/manifests/kulprit.yaml

# What helm says besides (it follows the link to the alerts) is of use only when it fails.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
helm() { "$helm" "$@" 2>"$log" || { cat "$log" >&2; return 1; }; }

helm lint --quiet --strict deploy/chart
rendered=$(
    echo "# Kulprit for \`kubectl apply -f\`, in the namespace kulprit. Written by scripts/manifests.sh from deploy/chart with its defaults; do not edit."
    helm template kulprit deploy/chart --namespace kulprit --set namespace.create=true
)
case ${1:-} in
    '')
        mkdir -p "${file%/*}"
        echo "$rendered" >$file ;;
    --check)
        diff <(echo "$rendered") $file || {
            echo "manifests: $file is not what the chart renders; scripts/manifests.sh writes it anew" >&2
            exit 1
        } ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
