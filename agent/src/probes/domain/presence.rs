//! Whether a libvirt daemon should be there.
//!
//! One is expected when it was there before, when one of its units is enabled where systemd runs, or when a QEMU of its runs (a
//! pidfile). One that is merely installed is not: many a KubeVirt node has the packages. An enabled unit where no systemd runs
//! (a container, another init) says nothing: whether a daemon should run there is not known. Only names on disk are looked at.

use std::path::PathBuf;

use kulprit_host::HostRoot;
use kulprit_host::qemu::read_pidfiles;
use kulprit_judge::domain::{DaemonFailure, DaemonSeen};

use crate::probes::LibvirtConfig;

/// Where systemd keeps its units, and what it wants at boot.
const UNIT_FOLDERS: [&str; 3] = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
const WANTS_FOLDERS: [&str; 3] = [
    "etc/systemd/system/multi-user.target.wants",
    "etc/systemd/system/sockets.target.wants",
    "etc/systemd/system/libvirt-guests.service.wants",
];

/// There while systemd is the init (`sd_booted(3)`).
const SYSTEMD_RUNS: &str = "run/systemd/system";

pub(super) struct Presence {
    host: HostRoot,
    sockets: Vec<PathBuf>,
    units: Vec<String>,
    was_connected: bool,
}

impl Presence {
    pub(super) fn new(host: HostRoot, config: &LibvirtConfig) -> Self {
        Self { host, sockets: config.sockets.clone(), units: config.units.clone(), was_connected: false }
    }

    pub(super) fn set_connected(&mut self) {
        self.was_connected = true;
    }

    /// The first socket that is there.
    pub(super) fn find_socket(&self) -> Option<PathBuf> {
        let exists = |path: &&PathBuf| {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return false };
            self.host.list(folder).is_ok_and(|names| names.iter().any(|known| known == name))
        };
        self.sockets.iter().find(exists).cloned()
    }

    /// Why a daemon should run, `Ok`, or what else is true.
    pub(super) fn is_expected(&self) -> Result<&'static str, DaemonSeen> {
        if self.was_connected {
            return Ok("it ran before");
        }
        if read_pidfiles(&self.host).is_ok_and(|(files, _)| !files.is_empty()) {
            return Ok("its pidfiles say that VMs run");
        }
        if self.has_unit_in(&WANTS_FOLDERS) {
            if self.host.list(SYSTEMD_RUNS).is_ok() {
                return Ok("it is enabled");
            }
            let why = "a libvirt daemon is installed and does not run; no systemd runs here to say whether it should";
            return Err(DaemonSeen::Unknown(why.to_owned()));
        }
        Err(DaemonSeen::NotExpected(if self.has_unit_in(&UNIT_FOLDERS) {
            "a libvirt daemon is installed, but it is not enabled, does not run, and runs no VM".to_owned()
        } else {
            format!("no libvirt daemon is installed: none of the units {}", self.units.join(", "))
        }))
    }

    /// What it means that there is no socket, or nobody behind it.
    pub(super) fn without_socket(&self) -> DaemonSeen {
        let sockets = self.sockets.iter().map(|path| self.host.display_path(path).display().to_string());
        match self.is_expected() {
            Ok(why) => DaemonSeen::Lost {
                failure: DaemonFailure::NoSocket,
                text: format!("none of the sockets {} is there, though {why}", sockets.collect::<Vec<_>>().join(", ")),
            },
            Err(seen) => seen,
        }
    }

    fn has_unit_in(&self, folders: &[&str]) -> bool {
        let names = folders.iter().flat_map(|folder| self.host.list(folder).unwrap_or_default());
        names.into_iter().any(|name| self.units.iter().any(|unit| name == unit.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[&str], is_socket_found: bool, want: &str) {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "7\n").unwrap();
        }
        let presence = Presence::new(HostRoot::new(root.path()), &LibvirtConfig::default());
        assert_eq!(presence.find_socket().is_some(), is_socket_found, "{files:?}");
        let seen = format!("{:?}", presence.without_socket());
        assert!(seen.contains(want), "{files:?}: {seen}");
    }

    #[test]
    fn a_daemon_is_missed_only_where_one_is_expected() {
        check(&[], false, "no libvirt daemon is installed");
        check(&["usr/lib/systemd/system/libvirtd.service"], false, "is not enabled");
        let runs = "run/systemd/system/transient";
        check(&["etc/systemd/system/multi-user.target.wants/libvirtd.service", runs], false, "though it is enabled");
        check(&["etc/systemd/system/sockets.target.wants/virtqemud.socket", runs], false, "though it is enabled");
        check(&["run/libvirt/qemu/vm1.pid"], false, "pidfiles");
        check(&["run/libvirt/libvirt-sock"], true, "no libvirt daemon is installed");
    }

    #[test]
    fn an_enabled_unit_where_no_systemd_runs_says_nothing() {
        check(&["etc/systemd/system/multi-user.target.wants/libvirtd.service"], false, "Unknown(");
        check(
            &["etc/systemd/system/multi-user.target.wants/libvirtd.service", "run/libvirt/qemu/vm1.pid"],
            false,
            "pidfiles",
        );
    }

    #[test]
    fn the_modular_daemon_comes_first() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/libvirt")).unwrap();
        for name in ["libvirt-sock", "virtqemud-sock"] {
            std::fs::write(root.path().join("run/libvirt").join(name), "").unwrap();
        }
        let presence = Presence::new(HostRoot::new(root.path()), &LibvirtConfig::default());
        assert_eq!(presence.find_socket(), Some("/run/libvirt/virtqemud-sock".into()));
    }
}
