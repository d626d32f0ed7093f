#!/bin/bash
# Installs what building and testing Kulprit need and this machine lacks, and says each step before it takes it.
#
#   scripts/setup.sh             install what is missing (as root); a second run changes nothing
#   scripts/setup.sh --dry-run   only say what would be done
#
# Debian and its relatives: packages by apt. libvirt and QEMU come from the release's backports where the release's own are older than
# what current KubeVirt runs (libvirt 11, QEMU 10), Go where it is older than 1.21, and only those: the rest of the system stays as it is.
# Elsewhere: prints the packages of that distribution. Then the lab's Kubernetes is built into a cache (scripts/kubernetes.sh).
# Exit 0: all needed is here, or only what the lab needs is left out (not root, no network); 1: something a build needs is missing, or an
# installation failed.
set -euo pipefail
cd "$(dirname "$0")/.."

# What a build needs: a linker, libvirt's headers for the worker, and C++ for the fuzzer (libFuzzer) of `make check`.
build_packages=(gcc g++ libc6-dev binutils make pkg-config libvirt-dev)
# What `make run` shows something for, and what the lab's nodes and guests are made of.
lab_packages=(
    libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils # a hypervisor
    systemd systemd-container dbus                                   # a node: systemd-nspawn, and what boots in it
    iproute2 util-linux mount procps e2fsprogs                       # its network, and disks that can be broken
    runc containernetworking-plugins iptables nftables openssl       # containers, pods and a cluster's certificates
    buildah                                                          # images of what is tested
)
# What comes from backports where the release's is older: source packages, and the oldest versions that will do. They are the major
# versions KubeVirt ships; older ones word errors and time events differently.
libvirt_min=11.0 qemu_min=1:10.0
# The first Go that fetches the version a module asks for; the lab's Kubernetes is built with it.
go_min=1.21
backports_list=/etc/apt/sources.list.d/kulprit-backports.sources
backports_pin=/etc/apt/preferences.d/kulprit-backports

dry_run=
case ${1:-} in
    '') ;;
    --dry-run) dry_run=1 ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# --- the Rust toolchain -------------------------------------------------------------------------------------------------------------
# Where rustup puts it, also for the person behind sudo; and the folders of an administrator's tools.
home=$([ -z "${SUDO_USER:-}" ] || getent passwd "$SUDO_USER" | cut -d: -f6)
export PATH="$PATH:${HOME:-}/.cargo/bin:$home/.cargo/bin:/usr/local/go/bin:/usr/sbin:/sbin"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! command -v cargo >/dev/null; then
    say "Rust is missing, and this script leaves it to you: install rustup (https://rustup.rs); on the first build it fetches the"
    say "version that rust-toolchain.toml names. Without rustup, any Rust from $wanted on will do."
    rust_missing=1
elif ! command -v rustup >/dev/null; then # rustup fetches what rust-toolchain.toml names
    found=$(rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -1)" != "$wanted" ]; then
        say "Rust $found is too old: $wanted is needed. Update it, or install rustup (https://rustup.rs)."
        rust_missing=1
    fi
fi

# --- the lab's Kubernetes -----------------------------------------------------------------------------------------------------------
has_go() {
    command -v go >/dev/null && printf 'go%s\n%s\n' $go_min "$(go env GOVERSION)" | sort -CV
}
build_kubernetes() {
    scripts/kubernetes.sh ${dry_run:+--dry-run} && return
    [ "${CI:-}" != true ] || fail "in CI nothing may be left out."
    say "left out until then: the tests with a real kubelet (tests/tests/kubernetes.rs)."
}

# --- promtool -----------------------------------------------------------------------------------------------------------------------
# What checks the rules of alerts; unpacked into the cache, because its package would start a service.
fetch_promtool() {
    scripts/promtool.sh --where >/dev/null 2>&1 && return
    say "fetching promtool into the cache (scripts/promtool.sh)"
    [ -n "$dry_run" ] || scripts/promtool.sh >/dev/null || say "left out until then: the tests of alerts (tests/tests/alerts.rs)."
}

# --- other distributions ------------------------------------------------------------------------------------------------------------
. /etc/os-release
case " ${ID:-} ${ID_LIKE:-} " in
    *' debian '*) ;;
    *)
        have_all=1
        for c in gcc g++ make ld pkg-config virsh libvirtd qemu-img systemd-nspawn ip fsfreeze mkfs.ext4 runc iptables nft openssl buildah go; do
            command -v "$c" >/dev/null || { have_all=; say "missing: $c"; }
        done
        pkg-config --exists libvirt 2>/dev/null || { have_all=; say "missing: the headers of libvirt"; }
        [ -z "$have_all" ] || [ -n "${rust_missing:-}" ] || { say "nothing to install."; fetch_promtool; build_kubernetes; exit 0; }
        say "this script installs on Debian only; on ${PRETTY_NAME:-this system}:"
        case " ${ID:-} ${ID_LIKE:-} " in
            *' fedora '* | *' rhel '*)
                say "  sudo dnf install gcc gcc-c++ make pkgconf-pkg-config libvirt-devel libvirt-daemon-kvm libvirt-client qemu-kvm qemu-img \\"
                say "      systemd-container dbus iproute util-linux procps-ng e2fsprogs runc containernetworking-plugins iptables-nft nftables \\"
                say "      openssl buildah golang" ;;
            *suse*)
                say "  sudo zypper install gcc gcc-c++ make pkg-config libvirt-devel libvirt-daemon-qemu libvirt-client qemu-x86 qemu-tools \\"
                say "      systemd-container dbus-1 iproute2 util-linux procps e2fsprogs runc cni-plugins iptables nftables openssl buildah go" ;;
            *' arch '*)
                say "  sudo pacman -S --needed base-devel libvirt qemu-base qemu-img dbus iproute2 util-linux procps-ng e2fsprogs runc cni-plugins \\"
                say "      iptables-nft nftables openssl buildah go" ;;
            *)
                say "  a C and C++ compiler, make, pkg-config, libvirt with its headers and QEMU driver, QEMU for x86, systemd-nspawn, dbus,"
                say "  iproute2, util-linux, procps, e2fsprogs, runc, the CNI plugins, iptables, nftables, openssl, buildah, Go" ;;
        esac
        fail "nothing was installed; run this again when they are there."
        ;;
esac

# --- Debian -------------------------------------------------------------------------------------------------------------------------
# All packages dpkg knows, one a line: version, state, name.
list_packages() { dpkg-query -W -f '${Version} ${db:Status-Status} ${Package}\n'; }
packages=$(list_packages)
# Those of the packages named that are not installed.
missing_of() {
    local p
    for p in "$@"; do
        grep -q " installed $p\$" <<<"$packages" || echo "$p"
    done
}
# Those of the installed packages named that are older than the version given.
outdated_of() {
    local min=$1 p v
    shift
    for p in "$@"; do
        v=$(sed -n "s/^\(.*\) installed $p\$/\1/p" <<<"$packages")
        [ -z "$v" ] || dpkg --compare-versions "$v" ge "$min" || echo "$p $v"
    done
}

mapfile -t build_missing < <(missing_of "${build_packages[@]}")
mapfile -t lab_missing < <(missing_of "${lab_packages[@]}")
has_go || lab_missing+=(golang-go)
missing=("${build_missing[@]}" "${lab_missing[@]}")
if [ ${#missing[@]} = 0 ]; then
    old=$(outdated_of $libvirt_min libvirt-daemon-system; outdated_of $qemu_min qemu-system-x86)
    [ -z "$old" ] || say "note: ${old//$'\n'/, } older than the tests expect (libvirt $libvirt_min, QEMU ${qemu_min#*:}); left as installed."
    [ -z "${rust_missing:-}" ] || fail "all packages are here; Rust is not."
    say "nothing to install: ${#build_packages[@]} packages for building and ${#lab_packages[@]} for the lab are here."
    fetch_promtool
    build_kubernetes
    exit 0
fi

say "missing for building: ${build_missing[*]:-nothing}"
say "missing for the lab:  ${lab_missing[*]:-nothing}"
if [ "$(id -u)" != 0 ] && [ -z "$dry_run" ]; then
    say "installing needs root. Run:  sudo $PWD/scripts/setup.sh"
    [ ${#build_missing[@]} = 0 ] || fail "without ${build_missing[*]} the workspace does not build (a plain \`cargo build\`, without the libvirt worker, needs only gcc)."
    [ "${CI:-}" != true ] || fail "in CI nothing may be left out."
    say "left out until then: the tests that boot a node with systemd and libvirt, and \`make demo\`."
    fetch_promtool
    build_kubernetes
    exit 0
fi

run() {
    say "\$ $*"
    [ -n "$dry_run" ] || "$@" >"$log" 2>&1 || { tail -20 "$log" >&2; fail "that failed (its last lines are above)."; }
}
log=$(mktemp)
guard=
cleanup() {
    rm -f "$log"
    [ -z "$guard" ] || rm -f "$guard"
}
trap cleanup EXIT
export DEBIAN_FRONTEND=noninteractive

run apt-get update -q

# The release's version of a package, without backports of ours: empty if there is none.
candidate() { apt-cache policy "$1" | sed -n 's/^  Candidate: //p' | grep -v '(none)' || true; }
older() { [ -z "$1" ] || dpkg --compare-versions "$1" lt "$2"; }
libvirt=$(candidate libvirt-daemon-system) qemu=$(candidate qemu-system-x86) go=$(candidate golang-go)
if [ "${ID:-}" = debian ] && { older "$libvirt" $libvirt_min || older "$qemu" $qemu_min || { ! has_go && older "$go" 2:$go_min; }; }; then
    suite=$VERSION_CODENAME-backports
    say "${PRETTY_NAME}: libvirt ${libvirt:-none}, QEMU ${qemu:-none} or Go ${go:-none} is older than $libvirt_min, $qemu_min, $go_min: taking them from $suite."
    sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Component: main' | sort -u)
    if ! grep -q " $suite\$" <<<"$sources"; then
        # The mirror this machine already takes its release from.
        mirror=$(awk -v release="$VERSION_CODENAME" '$2 == release { print $1; exit }' <<<"$sources")
        [ -n "$mirror" ] || fail "no apt source for $VERSION_CODENAME found to derive the mirror of $suite from; add $suite yourself."
        keyring=/usr/share/keyrings/debian-archive-keyring.gpg
        say "adding $suite from ${mirror%/} as $backports_list"
        [ -n "$dry_run" ] || {
            echo "# Written by Kulprit's scripts/setup.sh, with $backports_pin. Remove both to undo."
            printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$mirror" "$suite"
            [ ! -e $keyring ] || echo "Signed-By: $keyring"
        } >$backports_list
    fi
    say "preferring libvirt, QEMU and Go of $suite, nothing else of it, by $backports_pin"
    [ -n "$dry_run" ] || cat >$backports_pin <<PIN
# Written by Kulprit's scripts/setup.sh: libvirt, QEMU and Go from backports, all else from the release.
Package: src:libvirt src:qemu src:seabios src:golang-defaults src:golang-1.*
Pin: release n=$suite
Pin-Priority: 500
PIN
    run apt-get update -q
fi

# Where PID 1 is not systemd (a container, a CI machine), packages cannot start their services and must not fail over it.
if [ ! -d /run/systemd/system ] && [ ! -e /usr/sbin/policy-rc.d ]; then
    say "systemd does not run here: services are not started while installing"
    [ -n "$dry_run" ] || {
        guard=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >$guard
        chmod 755 $guard
    }
fi
run apt-get install -qy --no-install-recommends "${missing[@]}"
[ -z "$dry_run" ] || { fetch_promtool; build_kubernetes; say "dry run: nothing was changed."; exit 0; }
packages=$(list_packages)
mapfile -t missing < <(missing_of "${build_packages[@]}" "${lab_packages[@]}")
[ ${#missing[@]} = 0 ] || fail "still missing: ${missing[*]}"
say "done: libvirt $(candidate libvirt-daemon-system), QEMU $(candidate qemu-system-x86)."
fetch_promtool
build_kubernetes
[ -z "${rust_missing:-}" ] || fail "all packages are here; Rust is not (see above)."
