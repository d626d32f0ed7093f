#!/bin/bash
# Lays out the root of an image: programs, the shared libraries that they need, and what the C library reads. No shell, no packages.
#
#   deploy/images/root.sh ROOT PROGRAM...    programs go to ROOT/usr/bin
#
# Reads ELF headers and starts nothing, so that it does the same for programs of another architecture, whose libraries are where Debian puts
# them beside those of the own (/usr/lib/aarch64-linux-gnu).
set -euo pipefail

root=${1:?the root to lay out} && shift
fail() { echo "root.sh: $*" >&2; exit 1; }

# With the links of a merged /usr, so that the loader is where each program asks for it.
mkdir -p "$root"/{dev,etc,host,proc,run,sys,usr/{bin,lib,lib64},var/lib}
for folder in bin lib lib64; do ln -sfn "usr/$folder" "$root/$folder"; done
install -d -m 1777 "$root/tmp"
echo 'root:x:0:0:root:/:/sbin/nologin' >"$root/etc/passwd"
echo 'kulprit:x:65532:65532:kulprit:/:/sbin/nologin' >>"$root/etc/passwd"
printf 'root:x:0:\nkulprit:x:65532:\n' >"$root/etc/group"
# Names that Kubernetes writes into /etc/hosts come first.
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"

folders_of() { # the folders in which the loader of FILE's architecture looks
    case $(readelf -h "$1" | sed -n 's/^ *Machine: *//p') in
        *X86-64*) echo /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib ;;
        *AArch64*) echo /usr/lib/aarch64-linux-gnu /usr/lib64 /usr/lib ;;
        *) fail "$1: of an architecture that is not known here" ;;
    esac
}
declare -A done_with
take() { # FILE: the libraries it names, and theirs
    local name folder found folders
    read -ra folders <<<"$(folders_of "$1")"
    for name in $(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        [ -z "${done_with[$name]:-}" ] || continue
        done_with[$name]=1
        found=
        for folder in "${folders[@]}"; do
            [ ! -e "$folder/$name" ] || { found=$folder/$name; break; }
        done
        [ -n "$found" ] || fail "$1 needs $name, which is in none of ${folders[*]}"
        install -D -m 755 "$found" "$root$found"
        take "$found"
    done
}
for program in "$@"; do
    install -m 755 "$program" "$root/usr/bin/"
    take "$program"
    loader=$(readelf -l "$program" | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
    [ -z "$loader" ] || install -D -m 755 "$(readlink -f "$loader" || echo "$loader")" "$root$loader"
done
