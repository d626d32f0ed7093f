//! What stands between a VM and what it needs, as far as it can be looked at: SELinux's mode, what confines its QEMU, device
//! cgroups.
//!
//! Refusals themselves show in the kernel's log (SELinux, AppArmor, seccomp) and in error texts: `EACCES` is permissions or a
//! security module, `EPERM` on a device a device cgroup. A device cgroup of version 1 can be read, so a refusal that is to come
//! is seen before the next open.

use kulprit_host::cgroup::DeviceRule;
use kulprit_host::mount::DeviceNumber;
use kulprit_host::process::{AppArmor, Confinement, Seccomp};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::say::{CGROUP, PROCFS, Reading, SYSFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

/// A device that a QEMU has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeededDevice {
    /// `/dev/kvm`, `/dev/disk-0`.
    pub path: String,
    /// Whether it is a block device.
    pub is_block: bool,
    /// Its number.
    pub device: DeviceNumber,
}

/// `SelinuxNotEnforcing`, from `enforce` of its file system (`None`: there is none) and the names of the security modules.
#[must_use]
pub fn judge_selinux(at: Moment, is_enforcing: &Reading<Option<bool>>, modules: Option<&str>) -> Verdict {
    let (code, node) = (FindingCode::SelinuxNotEnforcing, &Subject::Node);
    let rest = modules.map(|modules| format!(" (security modules: {modules})")).unwrap_or_default();
    let (mode, text) = match is_enforcing {
        Err(error) => return Verdict::State(unknown(code, node, error.as_str())),
        Ok(Some(true)) => return Verdict::State(absent(code, node, at, SYSFS, format!("SELinux is enforcing{rest}"))),
        Ok(Some(false)) => ("Permissive", "SELinux is permissive"),
        Ok(None) => ("Disabled", "SELinux is disabled"),
    };
    let facts = Attributes::new().with(attribute::MODE, mode);
    Verdict::State(present(code, node, at, SYSFS, facts, format!("{text}{rest}")))
}

/// `QemuUnconfined`, from what confines the VM's QEMU and whether SELinux enforces (`None`: there is none).
#[must_use]
pub fn judge_confinement(
    subject: &Subject,
    at: Moment,
    confinement: &Reading<Confinement>,
    is_enforcing: &Reading<Option<bool>>,
) -> Verdict {
    let code = FindingCode::QemuUnconfined;
    let Confinement { apparmor, selinux_label, seccomp } = match confinement {
        Ok(confinement) => confinement,
        Err(error) => return Verdict::State(unknown(code, subject, error.as_str())),
    };
    let is_filtered = matches!(seccomp, Some(Seccomp::Strict | Seccomp::Filter));
    let is_enforced = apparmor.as_ref().is_some_and(AppArmor::is_enforced);
    let is_labelled = match (selinux_label, is_enforcing) {
        (None, _) | (Some(_), Ok(None | Some(false))) => false,
        (Some(_), Ok(Some(true))) => true,
        (Some(_), Err(_)) if is_filtered || is_enforced => false,
        (Some(_), Err(error)) => return Verdict::State(unknown(code, subject, error.as_str())),
    };
    let profile = apparmor.as_ref().map(|AppArmor { profile, mode }| match mode {
        Some(mode) => format!("{profile} ({mode})"),
        None => profile.clone(),
    });
    let facts = Attributes::new()
        .with_some(attribute::APPARMOR, profile.as_ref())
        .with_some(attribute::SELINUX_LABEL, selinux_label.as_ref())
        .with_some(attribute::SECCOMP, seccomp.map(Seccomp::as_str));
    let shown = |value: Option<&str>| value.unwrap_or("none").to_owned();
    let (profile, label) = (shown(profile.as_deref()), shown(selinux_label.as_deref()));
    let text = format!("QEMU: AppArmor {profile}, SELinux {label}, seccomp {}", shown(seccomp.map(Seccomp::as_str)));
    if is_filtered || is_enforced || is_labelled {
        let state = absent(code, subject, at, PROCFS, text);
        return Verdict::State(StateVerdict { attributes: facts, ..state });
    }
    Verdict::State(present(code, subject, at, PROCFS, facts, text))
}

/// `DeviceForbidden`, from the rules of the container's device cgroup and the devices that its QEMU has open.
#[must_use]
pub fn judge_devices(
    subject: &Subject,
    at: Moment,
    rules: &Reading<Vec<DeviceRule>>,
    needed: &Reading<Vec<NeededDevice>>,
) -> Verdict {
    let code = FindingCode::DeviceForbidden;
    let (rules, needed) = match (rules, needed) {
        (Ok(rules), Ok(needed)) => (rules, needed),
        (Err(error), _) | (_, Err(error)) => return Verdict::State(unknown(code, subject, error.as_str())),
    };
    let is_allowed = |row: &&NeededDevice| rules.iter().any(|rule| rule.allows(row.is_block, row.device));
    Verdict::State(match needed.iter().find(|row| !is_allowed(row)) {
        Some(NeededDevice { path, device, .. }) => {
            let facts = Attributes::new().with(attribute::OBJECT, path).with(attribute::DEVICE, device);
            let text =
                format!("QEMU has {path} ({device}) open, and its device cgroup does not allow to open it again");
            present(code, subject, at, CGROUP, facts, text)
        }
        None => {
            absent(code, subject, at, PROCFS, format!("the device cgroup allows all {} devices of QEMU", needed.len()))
        }
    })
}

#[cfg(test)]
mod tests {
    use kulprit_host::cgroup::parse_devices_list;
    use kulprit_host::process::parse_apparmor;
    use kulprit_model::Status::{Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    #[test]
    fn selinux_that_does_not_enforce_says_how() {
        for (seen, want, mode) in [
            (Ok(Some(true)), Absent, None),
            (Ok(Some(false)), Present, Some("Permissive")),
            (Ok(None), Present, Some("Disabled")),
            (Err("denied".to_owned()), Unknown, None),
        ] {
            let verdict = judge_selinux(Moment::default(), &seen, Some("lockdown,yama"));
            let Verdict::State(state) = &verdict else { panic!("a state") };
            assert_eq!(state.attributes.get(attribute::MODE), mode);
            assert_eq!(statuses(&[verdict]), [want], "{seen:?}");
        }
    }

    #[test]
    fn a_qemu_is_unconfined_where_no_module_and_no_filter_can_refuse_it_anything() {
        let check = |apparmor: &str, label: Option<&str>, seccomp, enforcing: Reading<Option<bool>>, want| {
            let seen = Confinement {
                apparmor: parse_apparmor(apparmor),
                selinux_label: label.map(str::to_owned),
                seccomp: Some(seccomp),
            };
            let verdict = judge_confinement(&Subject::vm("u"), Moment::default(), &Ok(seen), &enforcing);
            let Verdict::State(state) = &verdict else { panic!("a state") };
            if want != Unknown {
                assert_eq!(state.attributes.get(attribute::SECCOMP), Some(seccomp.as_str()));
                assert_eq!(state.attributes.get(attribute::SELINUX_LABEL), label);
                assert_eq!(state.attributes.get(attribute::APPARMOR), Some(apparmor).filter(|text| !text.is_empty()));
            }
            assert_eq!(statuses(&[verdict]), [want], "{apparmor} {label:?} {seccomp:?} {enforcing:?}");
        };
        let (label, no) = (Some("u:r:container_t:s0"), Seccomp::Disabled);
        check("", None, no, Ok(None), Present);
        check("unconfined", None, no, Ok(None), Present);
        check("libvirt-a (complain)", None, no, Ok(None), Present);
        check("libvirt-a (enforce)", None, no, Ok(None), Absent);
        check("unconfined", None, Seccomp::Filter, Ok(None), Absent);
        check("", label, no, Ok(Some(true)), Absent);
        check("", label, no, Ok(Some(false)), Present);
        check("", label, no, Err("denied".to_owned()), Unknown);
        check("", label, Seccomp::Filter, Err("denied".to_owned()), Absent);
        check("", None, no, Err("denied".to_owned()), Present);
        let denied = judge_confinement(&Subject::vm("u"), Moment::default(), &Err("denied".to_owned()), &Ok(None));
        assert_eq!(statuses(&[denied]), [Unknown]);
    }

    #[test]
    fn a_device_that_could_not_be_opened_again_is_forbidden() {
        let kvm = NeededDevice {
            path: "/dev/kvm".to_owned(),
            is_block: false,
            device: DeviceNumber { major: 10, minor: 232 },
        };
        let judge = |rules: Reading<&str>, needed: Reading<Vec<NeededDevice>>| {
            statuses(&[judge_devices(&Subject::vm("u"), Moment::default(), &rules.map(parse_devices_list), &needed)])[0]
        };
        assert_eq!(judge(Ok("c 10:232 rwm\n"), Ok(vec![kvm.clone()])), Absent);
        assert_eq!(judge(Ok("c 10:200 rwm\n"), Ok(vec![kvm.clone()])), Present);
        assert_eq!(judge(Ok(""), Ok(Vec::new())), Absent);
        assert_eq!(judge(Err("gone".to_owned()), Ok(vec![kvm])), Unknown);
        assert_eq!(judge(Ok("a *:* rwm\n"), Err("denied".to_owned())), Unknown);
    }
}
