//! Faults of a node, explained by Kulprit: the right cause first, of the right node and what it touches, and gone by itself when undone.

use anyhow::Result;
use kulprit_tests::fault::{Hung, KubeletLoops, KvmMissing, KvmMode, UnitStopped};
use kulprit_tests::scenario::{Expected, NODE, Stage};
use kulprit_tests::wait::Stopwatch;

/// Plays a fault of the node while a guest runs there. `also` names the guest if the fault is its own as well.
fn check_node(
    fault: &str,
    finding: &str,
    cause: &str,
    also: &[&str],
    begin: impl FnOnce(&Stage) -> Result<Box<dyn Undo + '_>>,
) -> Result<()> {
    Stage::play(|stage| {
        let well = stage.bystander()?;
        let expected = Expected { fault, vm: None, finding, symptom: "Unspecified", chain: &[cause], also };
        let since = Stopwatch::start();
        let guard = begin(stage)?;
        expected.wait_for_verdict(stage, since)?;
        for vm in also {
            let of_vm = Expected { vm: Some(vm), symptom: "Unresponsive", also: &[NODE], ..expected };
            of_vm.wait_for_verdict(stage, since)?;
        }
        let undo = Stopwatch::start();
        drop(guard);
        expected.wait_until_clear(stage, undo)?;
        stage.end(well)
    })
}

/// The guard of a fault, whichever.
trait Undo {}
impl<T> Undo for T {}

#[test]
fn a_missing_kvm_device_is_named() -> Result<()> {
    check_node("KVM device absent", "KvmDeviceMissing", "KvmDeviceMissing", &[], |stage| {
        Ok(Box::new(KvmMissing::new(&stage.node)?))
    })
}

#[test]
fn a_kvm_device_that_nobody_may_open_is_named() -> Result<()> {
    check_node("KVM device mode 0000", "KvmDeviceInaccessible", "KvmDeviceInaccessible", &[], |stage| {
        Ok(Box::new(KvmMode::new(&stage.node, 0o000)?))
    })
}

#[test]
fn a_stopped_kubelet_is_named() -> Result<()> {
    check_node("kubelet stopped", "KubeletInactive", "KubeletDown", &[], |stage| {
        Ok(Box::new(UnitStopped::new(&stage.node, "kubelet.service")?))
    })
}

#[test]
fn a_looping_kubelet_is_named() -> Result<()> {
    check_node("kubelet restarts in a loop", "KubeletRestartLoop", "KubeletDegraded", &[], |stage| {
        Ok(Box::new(KubeletLoops::new(&stage.node)?))
    })
}

#[test]
fn a_hung_kubelet_is_named() -> Result<()> {
    check_node("kubelet SIGSTOP", "KubeletProcessStalled", "KubeletDegraded", &[], |stage| {
        Ok(Box::new(Hung::unit(&stage.node, "kubelet.service")?))
    })
}

#[test]
fn a_hung_libvirt_is_named_for_the_node_and_for_its_guests() -> Result<()> {
    check_node("libvirtd SIGSTOP", "LibvirtUnresponsive", "LibvirtDaemonHung", &["well"], |stage| {
        Ok(Box::new(Hung::unit(&stage.node, "libvirtd.service")?))
    })
}

#[test]
fn a_stopped_libvirt_is_named_for_the_node_and_for_its_guests() -> Result<()> {
    check_node("libvirtd stopped", "LibvirtUnreachable", "LibvirtDaemonDown", &["well"], |stage| {
        Ok(Box::new(UnitStopped::new(&stage.node, "libvirtd.service")?))
    })
}
