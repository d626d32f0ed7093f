//! libvirt's pidfiles: the name of a domain for a process that says nothing itself.
//!
//! The host's libvirt keeps them in `/run/libvirt/qemu/NAME.pid`; one without root rights, as in a KubeVirt launcher, in
//! `/run/libvirt/qemu/run/NAME.pid`. They hold the pid of the namespace that libvirt lives in: to find the process from
//! outside, compare with the last of [`crate::process::Status::ns_pids`].

use std::path::{Path, PathBuf};

use crate::{HostRoot, Malformed, ReadError};

/// One pidfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Name of the domain.
    pub domain: String,
    /// Pid of its QEMU, in libvirt's pid namespace.
    pub pid: u32,
    /// Where it says so, under the host's root.
    pub path: PathBuf,
}

const DIRECTORIES: [&str; 2] = ["run/libvirt/qemu", "run/libvirt/qemu/run"];
/// libvirt's lock on the directory itself, not a domain's.
const DRIVER_PIDFILE: &str = "driver.pid";

/// The pidfiles under a root, with errors for those that could not be read. Both empty where no libvirt is.
///
/// # Errors
/// When a directory is there and cannot be listed.
pub fn read_pidfiles(root: &HostRoot) -> Result<(Vec<PidFile>, Vec<ReadError>), ReadError> {
    let mut files = Vec::new();
    let mut errors = Vec::new();
    for directory in DIRECTORIES.map(Path::new) {
        let names = match root.list(directory) {
            Err(error) if error.is_not_found() => continue,
            result => result?,
        };
        for name in names.iter().filter(|name| *name != DRIVER_PIDFILE) {
            let Some(domain) = name.to_str().and_then(|name| name.strip_suffix(".pid")) else { continue };
            let path = directory.join(name);
            match root
                .read_text(&path)
                .and_then(|text| parse_pid(&text).map_err(|malformed| malformed.at(root.display_path(&path))))
            {
                Ok(pid) => files.push(PidFile { domain: domain.to_owned(), pid, path }),
                // A domain that ended while we looked.
                Err(error) if error.is_not_found() => {}
                Err(error) => errors.push(error),
            }
        }
    }
    Ok((files, errors))
}

/// Parses a pidfile.
///
/// # Errors
/// When it holds no pid, which is so for a moment while it is written.
pub fn parse_pid(text: &str) -> Result<u32, Malformed> {
    text.trim().parse().ok().filter(|pid| *pid > 0).ok_or_else(|| Malformed::new(1, text))
}
