#!/bin/bash
# Builds programs for an image, in the builder of a Dockerfile (Debian with Rust), and lays out the image's root.
#
#   deploy/images/build.sh ARCH ROOT PROGRAM...    ARCH as Docker names it: amd64, arm64
#
# Another architecture than the builder's is compiled for by a cross compiler; nothing is emulated. Not tried for arm64, and run by no test: those
# replace the stage that calls this.
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=${1:?the architecture} root=${2:?the root to lay out} && shift 2
case $arch in
    amd64) target=x86_64-unknown-linux-gnu triplet=x86_64-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu triplet=aarch64-linux-gnu ;;
    *) echo "build.sh: no image for $arch: amd64 or arm64" >&2; exit 1 ;;
esac
own=$(dpkg --print-architecture)
packages=(pkg-config binutils)
of=
if [ "$arch" != "$own" ]; then
    dpkg --add-architecture "$arch"
    of=:$arch
    packages+=("crossbuild-essential-$arch" "libgcc-s1$of" "libc6$of")
    upper=${target^^}
    export "CARGO_TARGET_${upper//-/_}_LINKER=$triplet-gcc" "CC_${target//-/_}=$triplet-gcc" "AR_${target//-/_}=$triplet-ar"
    export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_LIBDIR=/usr/lib/$triplet/pkgconfig:/usr/share/pkgconfig
    rustup target add "$target"
fi
case " $* " in *' kulprit-agent-libvirt '*) packages+=("libvirt-dev$of") ;; esac
apt-get update -q
apt-get install -qy --no-install-recommends "${packages[@]}"

crates=() programs=()
for program in "$@"; do
    case $program in kulprit) crates+=(-p kulprit-cli) ;; *) crates+=(-p "$program") ;; esac
    programs+=("target/$target/release/$program")
done
cargo build --release --locked --bins --target "$target" "${crates[@]}"
deploy/images/root.sh "$root" "${programs[@]}"
