//! What a node has that this machine's root does not: the files written into its layer of the overlay before it boots.
//!
//! Each line was found the hard way. A node must not be this machine again: it gets identities of its own, and none of the services,
//! timers and mounts that an administrator enabled here. What a container manager withholds and a node has (its address, writable cgroups
//! and `/proc/sys`, a `/dev/kvm`) `lab-node.service` brings back once it runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::lab;
use crate::node::{KubeletUnit, NodeBuilder};

/// libvirt's QEMU driver: no security driver to load, and QEMU in the node's own `/dev`, as an ordinary package installation has it.
/// QEMU runs as Debian's user for it where that exists, so that the mode of `/dev/kvm` means what it means on a node.
const QEMU_CONF: &str = "security_driver = \"none\"\nnamespaces = []\n";

/// libvirt's daemon: open to root without polkit, and to the other nodes for migrations.
const LIBVIRTD_CONF: &str = "\
auth_unix_rw = \"none\"
auth_unix_ro = \"none\"
listen_tls = 0
listen_tcp = 1
auth_tcp = \"none\"
";

/// libvirt's driver for host devices, as a module of libvirtd; below one of [`LIBRARY_FOLDERS`].
///
/// A node has none: libvirt 11.3 may never come out of it. Seen in the stacks of a stop that took long, one in sixty under load:
/// `daemon-shutdown` waits in this driver for the end of its thread `udev-event`, which waits for a lock to see that it is to end.
/// libvirtd's own limit then ends it after 30 s with status 1, and the unit is `failed`. Guests here use no host device, and KubeVirt's
/// virtqemud has no such driver either.
const NODE_DEVICE_DRIVER: &str = "libvirt/connection-driver/libvirt_driver_nodedev.so";

/// Where distributions keep libraries: Debian, and those with `lib64`.
const LIBRARY_FOLDERS: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"];

/// One daemon for everything, without socket activation: a stopped libvirt stays stopped. `KillMode=process` as in the packaged unit:
/// guests outlive the daemon.
const LIBVIRTD_UNIT: &str = "\
[Unit]
Description=libvirt legacy monolithic daemon
Requires=virtlogd.socket
After=virtlogd.socket dbus.service lab-node.service
[Service]
Type=notify
ExecStart=/usr/sbin/libvirtd --listen
Restart=on-failure
KillMode=process
OOMScoreAdjust=-999
";

/// As kubeadm's unit, but for the pause between two starts. The real kubelet refuses to start without its configuration; so does ours.
const KUBELET_UNIT: &str = "\
[Unit]
Description=kubelet: The Kubernetes Node Agent
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/local/bin/kubelet --config=/var/lib/kubelet/config.yaml
Restart=always
RestartSec=1
";

/// Writes the files of a node into the mounted overlay at `root`.
pub(crate) fn write(root: &Path, node: &NodeBuilder) -> Result<()> {
    let units = root.join("etc/systemd/system");
    for enabled in ["multi-user.target.wants", "timers.target.wants", "sockets.target.wants", "graphical.target.wants"]
    {
        let _ = fs::remove_dir_all(units.join(enabled));
    }
    for (path, text) in [
        ("etc/machine-id", format!("{}\n", uuid()?.replace('-', ""))),
        ("etc/hostname", format!("{}\n", node.name)),
        // libvirt looks its own host name up at each start of a guest: 10 s where no name server answers.
        ("etc/hosts", format!("127.0.0.1 localhost\n{} {}\n", node.address, node.name)),
        // Mounts of this machine that no node has.
        ("etc/fstab", String::new()),
        ("etc/crypttab", String::new()),
        ("etc/libvirt/libvirtd.conf", format!("host_uuid = \"{}\"\n{LIBVIRTD_CONF}", uuid()?)),
        ("etc/libvirt/qemu.conf", QEMU_CONF.to_owned()),
        ("etc/systemd/system/libvirtd.service", LIBVIRTD_UNIT.to_owned()),
        ("etc/systemd/system/lab-node.service", lab_node_unit(&node.address, node.has_kvm)),
    ] {
        write_file(&root.join(path), text.as_bytes())?;
    }
    // This machine's name servers are not reached from the lab, which would be a fault of the node's network: it has none.
    let _ = fs::remove_file(root.join("etc/resolv.conf"));
    // libvirt's default network wants dnsmasq and iptables at boot; guests here have no network card.
    let _ = fs::remove_dir_all(root.join("etc/libvirt/qemu/networks/autostart"));
    for folder in LIBRARY_FOLDERS {
        let _ = fs::remove_file(root.join(folder).join(NODE_DEVICE_DRIVER));
    }
    enable(&units, "multi-user.target.wants", "../lab-node.service", "lab-node.service")?;
    if node.has_libvirt {
        enable(&units, "multi-user.target.wants", "../libvirtd.service", "libvirtd.service")?;
        enable(&units, "sockets.target.wants", "/lib/systemd/system/virtlogd.socket", "virtlogd.socket")?;
    }
    match &node.kubelet {
        KubeletUnit::None => Ok(()),
        KubeletUnit::Serving => write_kubelet(root, &units),
    }
}

fn write_kubelet(root: &Path, units: &Path) -> Result<()> {
    let binary = lab::built_binary("lab-kubelet").context("the binary `lab-kubelet` is not built")?;
    let path = root.join("usr/local/bin/kubelet");
    fs::copy(&binary, &path).with_context(|| format!("failed to copy `{}`", binary.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    write_file(&root.join("var/lib/kubelet/config.yaml"), b"kind: KubeletConfiguration\n")?;
    write_file(&units.join("kubelet.service"), KUBELET_UNIT.as_bytes())?;
    enable(units, "multi-user.target.wants", "../kubelet.service", "kubelet.service")
}

fn lab_node_unit(address: &str, has_kvm: bool) -> String {
    let mut script = format!(
        "ip addr add {address}/24 dev host0; ip link set host0 up; ip route add default via {}; \
         for c in /sys/fs/cgroup /sys/fs/cgroup/*; do ! mountpoint -q $$c || mount -o remount,rw,bind $$c; done; \
         mount -o remount,rw,bind /proc/sys",
        lab::GATEWAY
    );
    if has_kvm {
        // A device node of the node's own: one bound from outside shares its inode, and a fault's chmod would reach this machine's.
        script.push_str("; mknod -m 0660 /dev/kvm c 10 232; chgrp kvm /dev/kvm");
    }
    format!(
        "[Unit]\nDescription=What a container manager withholds and a node has\n\
         Before=libvirtd.service kubelet.service\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -ec '{script}'\n"
    )
}

fn enable(units: &Path, target: &str, to: &str, unit: &str) -> Result<()> {
    fs::create_dir_all(units.join(target))?;
    symlink(to, units.join(target).join(unit)).with_context(|| format!("failed to enable {unit}"))
}

fn write_file(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| format!("failed to write `{}`", path.display()))
}

fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}
