//! Launcher, libvirt, virt-handler: what must name each cause, and what looks alike and must not.

use kulprit_model::FindingCode::*;

use super::{
    Seen::{Happened, Is, IsNot, Known, NodeText, Own, Text},
    SymptomId::*,
    check_rows,
};

#[test]
fn the_launcher_pod() {
    check_rows(&[
        (
            "LauncherCpuThrottled",
            StuckStarting,
            &[Is(VmCpuThrottled, &[("percent", "99")]), Text("handler", "sync-vmi", "timeout")],
            &[IsNot(VmCpuThrottled), Text("handler", "sync-vmi", "timeout")],
        ),
        (
            "LauncherContainerFailed",
            StuckStarting,
            &[Is(LauncherContainerNotReady, &[("container", "istio-proxy"), ("reason", "CrashLoopBackOff")])],
            &[Is(LauncherContainerNotReady, &[("container", "volumerootdisk"), ("reason", "ContainerCreating")])],
        ),
        (
            "LauncherContainerFailed",
            StuckStarting,
            &[Is(LauncherContainerFailed, &[("container", "istio-proxy"), ("reason", "Error")])],
            &[IsNot(LauncherContainerFailed)],
        ),
        (
            "LauncherContainerFailed",
            InError,
            &[Text("runtime", "create-container", "invalid")],
            &[NodeText("runtime", "create-container", "invalid")],
        ),
        (
            "LauncherContainerFailed",
            InError,
            &[Known("runtime", "create-container", "not-permitted", "launcher-capabilities-missing")],
            &[Text("runtime", "create-container", "timeout")],
        ),
        (
            "LauncherUnresponsive",
            Unresponsive,
            &[Is(LauncherDefunct, &[])],
            &[IsNot(LauncherDefunct), Text("handler", "connect-launcher", "timeout")],
        ),
        (
            "LauncherUnresponsive",
            StuckStopping,
            &[Text("handler", "connect-launcher", "refused")],
            &[Text("launcher", "shutdown-domain", "timeout")],
        ),
        (
            "SecurityPolicyDenied",
            InError,
            &[Own(SecurityDenied, &[("what", "selinux"), ("comm", "virt-launcher")])],
            &[Happened(SecurityDenied, &[("what", "apparmor"), ("comm", "cupsd")])],
        ),
        (
            "SecurityPolicyDenied",
            StuckStarting,
            &[Known("runtime", "create-container", "invalid", "keycreate-refused")],
            &[Text("runtime", "create-container", "invalid")],
        ),
        (
            "SecurityPolicyDenied",
            InError,
            &[Text("launcher", "create-container", "denied")],
            &[Text("libvirt", "open-image", "denied")],
        ),
    ]);
}

#[test]
fn libvirt_and_the_domain() {
    check_rows(&[
        (
            "LibvirtDaemonDown",
            StuckStarting,
            &[Text("libvirt", "connect-libvirt", "refused")],
            &[Known("libvirt", "connect-libvirt", "not-found", "libvirt-socket-missing")],
        ),
        (
            "LibvirtDaemonDown",
            MigrationFailed,
            &[Is(LibvirtUnreachable, &[])],
            &[IsNot(LibvirtUnreachable), Known("libvirt", "connect-libvirt", "reset", "libvirt-connection-lost")],
        ),
        (
            "LibvirtDaemonHung",
            StuckStopping,
            &[Is(LibvirtUnresponsive, &[]), Text("launcher", "shutdown-domain", "timeout")],
            &[Text("launcher", "shutdown-domain", "timeout")],
        ),
        (
            "LibvirtDaemonHung",
            StuckMigrating,
            &[Text("libvirt", "connect-libvirt", "timeout")],
            &[Known("libvirt", "monitor", "timeout", "state-change-lock")],
        ),
        (
            "DomainConflict",
            StuckStarting,
            &[Known("libvirt", "define-domain", "exists", "domain-exists")],
            &[Known("libvirt", "define-domain", "invalid", "domain-xml-invalid")],
        ),
        ("HotplugFailed", StuckMigrating, &[Text("qemu", "hotplug", "other")], &[Text("qemu", "migrate", "other")]),
    ]);
}

#[test]
fn virt_handler() {
    check_rows(&[
        (
            "VirtHandlerDown",
            StuckStarting,
            &[Is(VirtHandlerNotReady, &[("reason", "CrashLoopBackOff")])],
            &[IsNot(VirtHandlerNotReady), Is(VirtHandlerHeartbeatStale, &[])],
        ),
        (
            "VirtHandlerDown",
            StuckTerminating,
            &[
                Known("handler", "report-status", "timeout", "node-virt-handler-silent"),
                IsNot(NodeNotReady),
                IsNot(NodeUnreachableTaint),
            ],
            &[Known("kubelet", "report-status", "timeout", "kubelet-silent")],
        ),
        (
            "VirtHandlerRestarted",
            MigrationFailed,
            &[Happened(VirtHandlerRestarted, &[]), Text("libvirt", "migrate", "reset")],
            &[Text("libvirt", "migrate", "reset")],
        ),
    ]);
}
