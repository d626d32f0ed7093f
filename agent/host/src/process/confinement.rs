//! What confines a process: its AppArmor profile, its SELinux label, its seccomp mode.
//!
//! A process without any of them can be refused nothing by a policy. The files of `attr/` answer `EINVAL` where the kernel has no
//! module of that kind. Sources: kernel `Documentation/admin-guide/LSM/index.rst`, `security/apparmor/procattr.c`
//! (`aa_getprocattr`), `security/selinux/hooks.c`; `proc_pid_status(5)` (`Seccomp`).

use super::{Procfs, Seccomp};
use crate::ReadError;
use crate::text::{into_text, read_record};

/// What confines a process. `None`: the kernel has no such module, or does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Its AppArmor profile.
    pub apparmor: Option<AppArmor>,
    /// Its SELinux label: `system_u:system_r:container_t:s0:c1,c2`.
    pub selinux_label: Option<String>,
    /// How seccomp holds it.
    pub seccomp: Option<Seccomp>,
}

/// The AppArmor profile of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppArmor {
    /// `cri-containerd.apparmor.d`, `unconfined`.
    pub profile: String,
    /// `enforce`, `complain`, `kill`, `mixed` …; `None` for `unconfined`, which has none.
    pub mode: Option<String>,
}

impl AppArmor {
    /// Whether it refuses what the profile does not allow. A mode that is not known counts as one that does.
    pub fn is_enforced(&self) -> bool {
        match self.mode.as_deref() {
            None => self.profile != "unconfined",
            Some(mode) => !matches!(mode, "complain" | "unconfined"),
        }
    }
}

/// Parses AppArmor's answer: `unconfined`, or `PROFILE (MODE)`. `None` for nothing.
pub fn parse_apparmor(text: &str) -> Option<AppArmor> {
    let text = text.trim_matches(['\n', '\0', ' ']);
    let (profile, mode) = match text.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (")) {
        Some((profile, mode)) => (profile, Some(mode.to_owned())),
        None => (text, None),
    };
    (!profile.is_empty()).then(|| AppArmor { profile: profile.to_owned(), mode })
}

impl Procfs {
    /// What confines a process.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotFound` when the process has ended.
    pub fn confinement(&self, pid: u32) -> Result<Confinement, ReadError> {
        let seccomp = self.status(pid)?.seccomp;
        // Since Linux 5.8; before, `current` is that of the one module which may use it.
        let own = self.attribute(pid, "attr/apparmor/current")?;
        let shared = self.attribute(pid, "attr/current")?;
        // A label has no blanks, a profile's name has no three colons.
        let is_label = |text: &&String| text.split(':').count() >= 3 && !text.contains(' ');
        let selinux_label = shared.as_ref().filter(is_label).cloned();
        let apparmor = own.or(shared.filter(|_| selinux_label.is_none()));
        Ok(Confinement { apparmor: apparmor.as_deref().and_then(parse_apparmor), selinux_label, seccomp })
    }

    /// The text of such a file; `None` where there is no such module.
    fn attribute(&self, pid: u32, name: &str) -> Result<Option<String>, ReadError> {
        match read_record(&self.file_of(pid, name)) {
            Ok(bytes) => {
                let text = into_text(bytes).trim_matches(['\n', '\0', ' ']).to_owned();
                Ok((!text.is_empty()).then_some(text))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(ReadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
            Err(ReadError::Unsupported { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tqemu-kvm\nState:\tS (sleeping)\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], apparmor: Option<&str>, label: Option<&str>, seccomp: Option<Seccomp>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join("7").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let apparmor = apparmor.and_then(parse_apparmor);
        let want = Confinement { apparmor, selinux_label: label.map(str::to_owned), seccomp };
        assert_eq!(Procfs::new(dir.path()).confinement(7).unwrap(), want, "{files:?}");
    }

    #[test]
    fn profile_label_and_filter_are_read_where_they_are() {
        let filter = Some(Seccomp::Filter);
        let status = ("status", STATUS);
        check(&[status], None, None, filter);
        check(&[("status", "State:\tS\n")], None, None, None);
        check(&[("status", "State:\tS\nSeccomp:\t0\n")], None, None, Some(Seccomp::Disabled));
        let containerd = "cri-containerd.apparmor.d (enforce)";
        check(&[status, ("attr/current", &format!("{containerd}\n"))], Some(containerd), None, filter);
        let label = "system_u:system_r:container_t:s0:c1,c2";
        check(&[status, ("attr/current", &format!("{label}\0"))], None, Some(label), filter);
        let own = ("attr/apparmor/current", "unconfined\n");
        check(&[status, ("attr/current", label), own], Some("unconfined"), Some(label), filter);
        check(&[status, ("attr/current", "\0")], None, None, filter);
    }

    #[test]
    fn a_profile_is_enforced_unless_it_only_complains() {
        let AppArmor { profile, mode } = parse_apparmor("cri-containerd.apparmor.d (enforce)\n").unwrap();
        assert_eq!((profile.as_str(), mode.as_deref()), ("cri-containerd.apparmor.d", Some("enforce")));
        for (text, want) in [
            ("unconfined", false),
            ("libvirt-0b2c (complain)", false),
            ("firefox (unconfined)", false),
            ("libvirt-0b2c (enforce)", true),
            ("a//&:ns:b (mixed)", true),
            ("/usr/bin/a b (c) (kill)", true),
        ] {
            assert_eq!(parse_apparmor(text).unwrap().is_enforced(), want, "{text}");
        }
        assert_eq!(parse_apparmor("\n"), None);
    }

    #[test]
    fn this_process_is_read_and_one_that_ended_is_not_found() {
        assert!(Procfs::default().confinement(std::process::id()).is_ok());
        assert!(Procfs::default().confinement(u32::MAX).unwrap_err().is_not_found());
    }
}
