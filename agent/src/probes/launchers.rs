//! The virt-launchers of this node, as the `launcher` probe last saw them: what the other probes need to name a pod's VM.
//!
//! A snapshot, replaced as a whole on each change. Nothing in it keeps a file of a pod open.
//! Source of the layout: KubeVirt `pkg/virt-controller/services/template.go` (arguments), the kubelet's cgroup names.

use std::path::PathBuf;

/// All launchers of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launchers {
    /// By VMI UID, then pid of the monitor; two rows of one VMI while it migrates within the node or its old pod ends.
    pub rows: Vec<Launcher>,
}

/// One virt-launcher pod with a live process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launcher {
    /// `--uid` of the monitor: the VMI's UID, the subject of its findings.
    pub vmi_uid: String,
    /// `--namespace`.
    pub namespace: String,
    /// `--name`.
    pub name: String,
    /// UID of the pod with dashes, from the cgroup; `None` where the path does not show it.
    pub pod_uid: Option<String>,
    /// Id of the compute container, 64 hex digits.
    pub container_id: Option<String>,
    /// The oldest process of the container: `virt-launcher-monitor`, or `virt-launcher` where there is none. Host pid.
    pub pid: u32,
    /// Start of that process, clock ticks since boot.
    pub start_ticks: u64,
    /// Host pid of its libvirt daemon.
    pub libvirt_pid: Option<u32>,
    /// Where that listens, a path in the container; `None` while there is no socket.
    pub libvirt_socket: Option<String>,
    /// It does not run as root, and so offers its session (`qemu:///session`).
    pub is_nonroot: bool,
    /// Host pids of its QEMUs.
    pub qemu_pids: Vec<u32>,
    /// Directories of its container's cgroup below the host's root, one for each hierarchy that has controllers.
    pub cgroups: Vec<LauncherCgroup>,
}

/// A cgroup directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherCgroup {
    /// The v1 controller (`memory`, `cpu`, `pids`, …), or empty for v2.
    pub controller: String,
    /// Where it is below the host's root, for example `sys/fs/cgroup/memory/kubepods/…`.
    pub directory: PathBuf,
}

impl Launchers {
    /// The launcher of this pod.
    #[must_use]
    pub fn by_pod(&self, pod_uid: &str) -> Option<&Launcher> {
        self.rows.iter().find(|row| row.pod_uid.as_deref() == Some(pod_uid))
    }

    /// The launcher that has this QEMU.
    #[must_use]
    pub fn by_qemu(&self, pid: u32) -> Option<&Launcher> {
        self.rows.iter().find(|row| row.qemu_pids.contains(&pid))
    }

    /// The launchers of this VMI.
    pub fn by_vmi<'a>(&'a self, vmi_uid: &'a str) -> impl Iterator<Item = &'a Launcher> {
        self.rows.iter().filter(move |row| row.vmi_uid == vmi_uid)
    }
}

impl Launcher {
    /// The VM's name for people: `namespace/name`.
    #[must_use]
    pub fn display_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The domain's name in its libvirt. Source: KubeVirt `pkg/virt-launcher/virtwrap/util/libvirt_helper.go`.
    #[must_use]
    pub fn domain_name(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_is_found_by_pod_qemu_and_vmi() {
        let row = |vmi: &str, pod: &str, qemu| Launcher {
            vmi_uid: vmi.to_owned(),
            namespace: "prod".to_owned(),
            name: "db-0".to_owned(),
            pod_uid: Some(pod.to_owned()),
            qemu_pids: vec![qemu],
            ..Launcher::default()
        };
        let launchers = Launchers { rows: vec![row("a", "p", 7), row("a", "q", 8), row("b", "r", 9)] };
        assert_eq!(launchers.by_pod("q").map(|row| row.qemu_pids[0]), Some(8));
        assert_eq!(launchers.by_qemu(9).map(|row| row.vmi_uid.as_str()), Some("b"));
        assert_eq!(launchers.by_vmi("a").count(), 2);
        assert_eq!(launchers.by_pod("none"), None);
        let names = (launchers.rows[0].domain_name(), launchers.rows[0].display_name());
        assert_eq!(names, ("prod_db-0".to_owned(), "prod/db-0".to_owned()));
    }
}
