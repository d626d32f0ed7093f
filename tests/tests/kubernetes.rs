//! Launchers as KubeVirt's are, first without Kubernetes, then as real pods of a real one: two nodes with kubelet and containerd.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{assert_contains, report};
use kulprit_tests::wait::Stopwatch;
use kulprit_tests::{Lab, Launcher};

/// What makes a launcher one, whatever started it.
fn assert_is_in_kubevirts_shape(launcher: &Launcher<'_>) -> Result<()> {
    let monitor = launcher.monitor_pid();
    let cmdline = fs::read_to_string(format!("/proc/{monitor}/cmdline"))?;
    assert_contains(&cmdline, "/usr/bin/virt-launcher-monitor\0--qemu-timeout\0279s\0--name\0db-0\0--uid\0");
    assert_contains(&cmdline, launcher.vmi_uid());
    let status = fs::read_to_string(format!("/proc/{monitor}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("its pids")?;
    assert_eq!(ids.split_whitespace().next_back(), Some("1"), "the monitor is process 1 of its container");

    let qemu = launcher.qemu_pid().context("QEMU is a child of the monitor")?;
    assert_contains(&fs::read_to_string(format!("/proc/{qemu}/cmdline"))?, "guest=prod_db-0,");
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    assert_contains(&cgroup(qemu)?, &format!("/pod{}/", launcher.pod_uid()));
    assert_eq!(cgroup(qemu)?, cgroup(monitor)?, "QEMU stays in the container's cgroup");
    assert!(launcher.libvirt_pid().is_some(), "libvirt is a child of virt-launcher");
    assert_contains(&launcher.virsh(&["list", "--name"])?, "prod_db-0");

    for (volume, socket) in [("libvirt-runtime", "virtqemud-sock"), ("sockets", "launcher-sock")] {
        let path = launcher.empty_dir(volume).join(socket);
        assert!(fs::symlink_metadata(&path)?.file_type().is_socket(), "{}", path.display());
    }
    let in_container = launcher.root().join("run/libvirt/virtqemud-sock");
    assert!(fs::symlink_metadata(&in_container)?.file_type().is_socket());
    let log = fs::read_to_string(launcher.log_path())?;
    assert_contains(&log, " stdout F {\"component\":\"virt-launcher\"");
    assert_contains(&log, "Successfully started VM");
    let links = fs::read_to_string(format!("/proc/{monitor}/net/dev"))?;
    for link in ["eth0:", "tap0:", "k6t-eth0:"] {
        assert_contains(&links, link);
    }
    Ok(())
}

#[test]
fn a_launcher_without_kubernetes_is_in_kubevirts_shape() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let clock = Stopwatch::start();
    let launcher = Launcher::start(&node, "prod", "db-0")?;
    report("launcher", clock.elapsed());
    assert_is_in_kubevirts_shape(&launcher)?;
    let (volumes, log) = (launcher.empty_dir("sockets"), launcher.log_path());
    drop(launcher);
    assert!(!volumes.exists() && !log.exists(), "the pod is gone with what it had on the node");
    assert_eq!(node.run(&["sh", "-c", "find /sys/fs/cgroup -path '*/pod*-*'"])?, "");
    Ok(())
}
