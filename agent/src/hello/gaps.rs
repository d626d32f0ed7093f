//! What this host cannot show an agent that runs as we do: read once at the start, for Hello.
//!
//! Each probe also says `Unknown` with its reason when it meets the gap; here they stand together, so that somebody who installs
//! the agent sees what a flag, a mount or a capability would bring. Only what is missing is said.

use std::path::Path;

use kulprit_host::HostRoot;
use kulprit_host::network::NetworkNamespace;
use kulprit_host::process::Procfs;

use crate::probes::ProbeConfig;

/// The initial pid namespace. Source: kernel `include/linux/proc_ns.h` (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Capabilities that bring more, with what is lost without them. Source: `capabilities(7)`.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (19, "CAP_SYS_PTRACE", "open files, kernel stacks and wait channels of QEMU"),
    (24, "CAP_SYS_RESOURCE", "the kernel's early alarm of pressure: a stall shows within 1.2 s, not 0.25 s"),
    (21, "CAP_SYS_ADMIN", "exit codes of processes, the network namespaces of pods"),
    (34, "CAP_SYSLOG", "the kernel's log where kernel.dmesg_restrict is set"),
];

/// What is lost without debugfs.
const DEBUGFS: &str = "pending requests of Ceph, peers of DRBD";

/// Sentences, one for each gap.
pub(super) fn cannot_show(host: &HostRoot, config: &ProbeConfig) -> Vec<String> {
    let procfs = Procfs::new(&config.procfs);
    let mut gaps = Vec::new();
    let pressure = match &config.pressure.cgroup {
        Some(cgroup) => cgroup.join("cpu.pressure"),
        None => "proc/pressure/cpu".into(),
    };
    if let Err(error) = host.read_text(&pressure) {
        gaps.push(format!("pressure: {error}; the kernel needs psi=1"));
    }
    if let Err(error) = host.open("dev/kmsg") {
        gaps.push(format!("the kernel's log: {error}"));
    }
    match host.list("sys/kernel/debug") {
        Ok(names) if names.is_empty() => gaps.push(format!("debugfs is not mounted: {DEBUGFS}")),
        Ok(_) => {}
        Err(error) => gaps.push(format!("debugfs: {error}: {DEBUGFS}")),
    }
    if host.open("sys/fs/cgroup/cgroup.controllers").is_ok() {
        gaps.push("device cgroups of version 2: the kernel does not show which devices they refuse a VM".to_owned());
    }
    gaps.extend(network(procfs.path()));
    gaps.extend(processes(&procfs));
    let effective = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| parse_effective(&text));
    if let Some(effective) = effective {
        let missing = CAPABILITIES.iter().filter(|(bit, ..)| effective & (1 << bit) == 0);
        gaps.extend(missing.map(|(_, name, lost)| format!("without {name}: {lost}")));
    }
    gaps
}

/// Another network namespace than the node's.
fn network(procfs: &Path) -> Option<String> {
    let lost = "the node's links and routes, the kubelet's health endpoint";
    match NetworkNamespace::at(procfs.join("1/ns/net")) {
        Ok(node) if node.is_own() => None,
        Ok(_) => Some(format!("outside of our network namespace: {lost}; a pod needs hostNetwork")),
        Err(error) => Some(format!("whether our network namespace is the node's: {error}; if not, {lost}")),
    }
}

/// What hides processes from us.
fn processes(procfs: &Procfs) -> Vec<String> {
    let mut gaps = Vec::new();
    if let Err(error) = procfs.stat(1) {
        gaps.push(format!("processes of others: {error}; is {} mounted with hidepid?", procfs.path().display()));
    }
    let namespace = std::fs::read_link(procfs.path().join("self/ns/pid"));
    if namespace.is_ok_and(|name| name.as_os_str() != INITIAL_PID_NAMESPACE) {
        gaps.push("processes outside our pid namespace: a pod needs hostPID".to_owned());
    }
    let is_outside = |path: &str| path == "/.." || path.starts_with("/../");
    if procfs.cgroups(1).is_ok_and(|rows| rows.iter().any(|row| is_outside(&row.path))) {
        gaps.push(
            "cgroup paths above our own: we are in a cgroup namespace, and only names of pods are told".to_owned(),
        );
    }
    gaps
}

/// The effective capabilities of `/proc/PID/status`.
fn parse_effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_host_lacks_everything_and_says_why() {
        let empty = tempfile::tempdir().unwrap();
        let config = ProbeConfig { procfs: empty.path().to_owned(), ..ProbeConfig::default() };
        let gaps = cannot_show(&HostRoot::new(empty.path()), &config);
        for part in ["psi=1", "the kernel's log", "hidepid", "debugfs", "network namespace"] {
            assert!(gaps.iter().any(|gap| gap.contains(part)), "{part}: {gaps:?}");
        }
    }

    #[test]
    fn what_this_machine_shows_is_not_lamented() {
        let gaps = cannot_show(&HostRoot::new("/"), &ProbeConfig::default());
        let has_psi = std::fs::read_to_string("/proc/pressure/cpu").is_ok();
        assert_eq!(gaps.iter().any(|gap| gap.starts_with("pressure")), !has_psi, "{gaps:?}");
        assert!(!gaps.iter().any(|gap| gap.contains("hidepid")), "{gaps:?}");
    }

    #[test]
    fn a_cgroup_namespace_and_a_hidden_process_are_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("1")).unwrap();
        std::fs::write(dir.path().join("1/cgroup"), "0::/../../init.scope\n").unwrap();
        let gaps = processes(&Procfs::new(dir.path()));
        assert_eq!(gaps.len(), 2, "{gaps:?}");
        std::fs::write(dir.path().join("1/cgroup"), "0::/init.scope\n").unwrap();
        std::fs::write(dir.path().join("1/stat"), format!("1 (init) S 0 {}\n", "0 ".repeat(44))).unwrap();
        assert_eq!(processes(&Procfs::new(dir.path())), [] as [String; 0]);
    }

    #[test]
    fn device_cgroups_of_version_2_and_a_closed_debugfs_are_told() {
        let host = tempfile::tempdir().unwrap();
        let gaps = || cannot_show(&HostRoot::new(host.path()), &ProbeConfig::default());
        let has = |gaps: &[String], part: &str| gaps.iter().any(|gap| gap.contains(part));
        std::fs::create_dir_all(host.path().join("sys/fs/cgroup/devices")).unwrap();
        std::fs::create_dir_all(host.path().join("sys/kernel/debug")).unwrap();
        let before = gaps();
        assert!(has(&before, "debugfs is not mounted") && !has(&before, "device cgroups"), "{before:?}");
        std::fs::write(host.path().join("sys/fs/cgroup/cgroup.controllers"), "cpu memory\n").unwrap();
        std::fs::create_dir(host.path().join("sys/kernel/debug/block")).unwrap();
        let after = gaps();
        assert!(!has(&after, "debugfs") && has(&after, "device cgroups"), "{after:?}");
    }

    #[test]
    fn our_own_network_namespace_is_no_gap_and_another_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("1/ns")).unwrap();
        let link = dir.path().join("1/ns/net");
        std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
        assert_eq!(network(dir.path()), None);
        std::fs::remove_file(&link).unwrap();
        std::fs::write(&link, "").unwrap();
        assert!(network(dir.path()).unwrap().contains("hostNetwork"));
    }

    #[test]
    fn capabilities_are_bits_of_a_hexadecimal_number() {
        assert_eq!(parse_effective("Name:\tx\nCapEff:\t000001fffffeffff\n"), Some(0x1ff_fffe_ffff));
        assert_eq!(parse_effective("CapEff:\tmany\n"), None);
    }
}
