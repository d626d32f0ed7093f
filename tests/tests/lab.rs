//! The lab's nodes and guests: each node is a machine of its own, and its guests behave.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{SOON, assert_contains, failure, healthz, report};
use kulprit_tests::guest::Program;
use kulprit_tests::wait::pause;
use kulprit_tests::{Guest, Lab, Node, lab, shell};

#[test]
fn a_node_is_a_machine_of_its_own() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    report("node boot", node.boot_time());
    assert_eq!(node.run(&["hostname"])?, "n1");
    assert_ne!(
        fs::read_to_string(node.root().join("etc/machine-id"))?,
        fs::read_to_string("/etc/machine-id").unwrap_or_default()
    );
    assert!(fs::metadata(node.root().join("run/dbus/system_bus_socket"))?.file_type().is_socket());
    assert!(fs::metadata(node.root().join("dev/kmsg"))?.file_type().is_char_device());
    let cgroup = node.cgroup("unified").or_else(|| node.cgroup("")).context("the node has a v2 cgroup")?;
    let line = fs::read_to_string(format!("/proc/{}/cgroup", node.leader()))?;
    assert!(cgroup.ends_with("kulprit-lab/n1") && line.contains("/kulprit-lab/n1"), "{line}");
    Ok(())
}

#[test]
fn an_agent_sees_the_node_s_network_and_the_host_s_pids() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let namespaces = "readlink /proc/self/ns/net /proc/self/ns/pid /proc/self/ns/mnt";
    let seen = shell::output(node.agent_command("sh").args(["-c", namespaces]))?;
    let link =
        |pid: &str, name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).map(|path| path.display().to_string());
    let leader = node.leader().to_string();
    let wanted = [link(&leader, "net")?, link("self", "pid")?, link("self", "mnt")?];
    assert_eq!(seen.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(healthz(&node)?, "ok");
    // Where central runs answers, if only with a refusal.
    let connect = format!("exec 3<>/dev/tcp/{}/1", lab::GATEWAY);
    assert_contains(&failure(shell::output(node.agent_command("bash").args(["-c", &connect]))), "Connection refused");
    assert_contains(&shell::output(lab.command("ip").args(["-br", "address"]))?, lab::GATEWAY);
    Ok(())
}

#[test]
fn two_nodes_are_two_hypervisors() -> Result<()> {
    let lab = Lab::open()?;
    let (one, two) = (lab.node("n1").start()?, lab.node("n2").start()?);
    let _guest = Guest::define(&one, "db-0", Program::Idle).start()?;
    assert_contains(&one.virsh(&["list", "--name"])?, "db-0");
    assert_eq!(two.virsh(&["list", "--all", "--name"])?.trim(), "");
    let uuid = |node: &Node| node.run(&["sh", "-c", "virsh capabilities | grep -m1 uuid"]);
    assert_ne!(uuid(&one)?, uuid(&two)?);
    Ok(())
}

#[test]
fn a_node_can_be_without_kvm_from_the_start() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").without_kvm().start()?;
    assert!(!node.root().join("dev/kvm").exists());
    Ok(())
}

#[test]
fn a_polite_guest_lives_a_normal_life() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Polite).start()?;
    for verb in ["suspend", "resume"] {
        guest.virsh(verb)?;
    }
    let saved = "/var/lib/libvirt/images/db-0.save";
    node.virsh(&["save", "db-0", saved])?;
    assert_eq!(guest.state()?, "shut off (saved)");
    node.virsh(&["restore", saved])?;
    assert_eq!(guest.state()?, "running (restored)");
    guest.virsh("shutdown")?;
    report("shutdown", guest.wait_for_state("shut off (shutdown)", SOON)?);
    assert_eq!(guest.qemu_pid(), None);
    Ok(())
}

#[test]
fn an_idle_guest_ignores_the_power_button() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").start()?;
    let guest = Guest::define(&node, "db-0", Program::Idle).start()?;
    guest.virsh("shutdown")?;
    pause(Duration::from_secs(3));
    assert_eq!(guest.state()?, "running (booted)");
    Ok(())
}
