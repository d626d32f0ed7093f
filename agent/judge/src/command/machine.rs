//! Certificates, device plugins, memory, PCI devices, SELinux, KVM's checks: smaller looks at the machine and its kubelet.
//!
//! What an output leaves open stays `Unknown`: `virt-host-validate` asked by a user says nothing of what QEMU may open, and a card
//! is meant for VMs only if somebody picked it out, or a sibling of its kind is bound to vfio-pci.

use kulprit_host::command::system::{FreeMemory, HostCheck, PciRow};
use kulprit_host::kubelet_files::Validity;
use kulprit_model::{Attributes, FindingCode, Moment, Status, Subject, attribute};

use super::{absent, present, unknown};
use crate::services;
use crate::verdict::Verdict;

/// As the catalogue's row: so much memory available, per mille, is too little.
const MEMORY_LOW_PER_MILLE: u64 = 20;
/// From here on the node has memory, per mille; between the two, pressure would tell.
const MEMORY_WELL_PER_MILLE: u64 = 100;
/// Somebody who lists so few devices picked them out.
const N_PICKED: usize = 4;
/// Drivers of what draws the console of a server or of a virtual machine: nobody passes that through.
const CONSOLE_DRIVERS: [&str; 10] =
    ["ast", "mgag200", "bochs-drm", "bochs", "qxl", "cirrus", "vmwgfx", "virtio-pci", "hibmc-drm", "simpledrm"];

/// The kubelet's client certificate: `notBefore` and `notAfter`, Unix microseconds.
#[must_use]
pub fn judge_kubelet_certificate(at: Moment, not_before_usec: Option<i64>, not_after_usec: Option<i64>) -> Verdict {
    let unit = "kubelet.service";
    match not_after_usec {
        // What was not recorded is long past.
        Some(not_after_usec) => {
            let not_before_usec = not_before_usec.unwrap_or(i64::MIN);
            services::judge_certificate(at, unit, "openssl", Validity { not_before_usec, not_after_usec })
        }
        None => unknown(
            FindingCode::KubeletCertificateExpired,
            Subject::unit(unit),
            "the end of the certificate (notAfter) was not recorded",
        ),
    }
}

/// Sockets in kubelet's `device-plugins` folder, with kubelet's own among them.
#[must_use]
pub fn judge_device_plugins(at: Moment, sockets: &[String]) -> Option<Verdict> {
    let code = FindingCode::DevicePluginMissing;
    if sockets.iter().any(|name| name == "kubevirt-kvm.sock") {
        return Some(absent(code, Subject::Node));
    }
    let has_any = sockets.iter().any(|name| name.starts_with("kubevirt-"));
    let text = "ls: no socket of KubeVirt's is in kubelet's device-plugins folder";
    (!has_any).then(|| present(code, Subject::Node, at, "ls", Attributes::new(), text))
}

/// `free`, in any unit.
#[must_use]
pub fn judge_free(at: Moment, memory: FreeMemory) -> Option<Verdict> {
    let code = FindingCode::NodeMemoryStalled;
    let available = memory.available_bytes?;
    let share = available.saturating_mul(1000).checked_div(memory.total_bytes)?;
    let percent = format!("{}.{} %", share / 10, share % 10);
    Some(if share <= MEMORY_LOW_PER_MILLE {
        let facts = Attributes::new()
            .with(attribute::WHAT, "available")
            .with(attribute::MEASURED, percent.trim_end_matches(" %"))
            .with(attribute::LIMIT, MEMORY_LOW_PER_MILLE / 10);
        present(code, Subject::Node, at, "free", facts, format!("free: {percent} of the memory is available"))
    } else if share >= MEMORY_WELL_PER_MILLE {
        absent(code, Subject::Node)
    } else {
        unknown(code, Subject::Node, format!("free shows {percent} of the memory available, which may do or not"))
    })
}

/// `/sys/module/kvm_*/parameters/nested`.
#[must_use]
pub fn judge_nested(at: Moment, is_enabled: bool) -> Verdict {
    let code = FindingCode::KvmNestedDisabled;
    if is_enabled {
        return absent(code, Subject::Node);
    }
    let text = "the parameter nested of KVM's module is off";
    present(code, Subject::Node, at, "sysfs", Attributes::new(), text)
}

/// SELinux's mode: what it does not enforce it does not deny.
#[must_use]
pub fn judge_selinux(at: Moment, mode: &str) -> Verdict {
    let code = FindingCode::SelinuxNotEnforcing;
    if mode == "Enforcing" {
        return absent(code, Subject::Node);
    }
    let facts = Attributes::new().with(attribute::MODE, mode);
    present(code, Subject::Node, at, "getenforce", facts, format!("SELinux is {}", mode.to_ascii_lowercase()))
}

/// The checks of `virt-host-validate` for QEMU.
#[must_use]
pub fn judge_host_checks(at: Moment, checks: &[HostCheck]) -> Vec<Verdict> {
    use FindingCode::{IommuMissing, KvmDeviceInaccessible, KvmDeviceMissing};
    let mut verdicts = Vec::new();
    for check in checks.iter().filter(|check| check.what.starts_with("QEMU")) {
        let detail = check.detail.as_deref().unwrap_or_default();
        let text = format!("virt-host-validate: {} {} {detail}", check.what, check.result);
        let text = text.trim_end().to_owned();
        let is_well = check.result == "PASS";
        let state = |code| {
            if is_well {
                absent(code, Subject::Node)
            } else {
                present(code, Subject::Node, at, "virt-host-validate", Attributes::new(), text.clone())
            }
        };
        let has = |words: &str| check.what.contains(words);
        if has("/dev/kvm exists") {
            verdicts.push(state(KvmDeviceMissing));
        } else if has("/dev/kvm is accessible") {
            verdicts.push(if is_well {
                absent(KvmDeviceInaccessible, Subject::Node)
            } else {
                let because = "virt-host-validate could not open /dev/kvm, which may be its caller's rights alone";
                unknown(KvmDeviceInaccessible, Subject::Node, because)
            });
        } else if has("IOMMU") && !detail.contains("Unknown") {
            verdicts.push(state(IommuMissing));
        }
    }
    // Two checks of one thing: what is missing in one of them is missing.
    let is_present = |verdict: &Verdict| matches!(verdict, Verdict::State(state) if state.code == IommuMissing && state.status == Status::Present);
    if verdicts.iter().any(is_present) {
        verdicts.retain(|verdict| {
            !matches!(verdict, Verdict::State(state) if state.code == IommuMissing) || is_present(verdict)
        });
    }
    verdicts
}

/// `[10de:1eb8]` of `lspci -nn`.
fn id_of(row: &PciRow) -> Option<&str> {
    let (_, rest) = row.text.rsplit_once('[')?;
    rest.split(']').next().filter(|id| id.len() == 9 && id.as_bytes()[4] == b':')
}

/// Devices of `lspci -k`. `is_picked`: the command asked for certain ones (`-s`, `-d`).
#[must_use]
pub fn judge_pci(at: Moment, rows: &[PciRow], is_picked: bool) -> Option<Verdict> {
    let code = FindingCode::DeviceNotBoundToVfio;
    let is_picked = is_picked || rows.len() <= N_PICKED;
    let is_kind = |row: &PciRow| {
        let kinds =
            ["VGA compatible", "3D controller", "Display controller", "Processing accelerators", "Virtual Function"];
        kinds.iter().any(|kind| row.text.contains(kind))
    };
    let is_vfio = |row: &PciRow| row.driver.as_deref() == Some("vfio-pci");
    let is_console = |row: &PciRow| row.driver.as_deref().is_some_and(|driver| CONSOLE_DRIVERS.contains(&driver));
    // A card that is shared as mediated devices keeps its maker's driver.
    let is_mediated =
        |row: &PciRow| row.driver.as_deref().is_some_and(|driver| driver.contains("vgpu") || driver.contains("mdev"));
    let has_sibling =
        |row: &PciRow| rows.iter().any(|other| is_vfio(other) && id_of(other).is_some() && id_of(other) == id_of(row));
    let is_meant =
        |row: &&PciRow| is_kind(row) && !is_console(row) && !is_mediated(row) && (is_picked || has_sibling(row));
    let meant: Vec<&PciRow> = rows.iter().filter(is_meant).collect();
    // Without `-k` no device shows a driver.
    if meant.is_empty() || rows.iter().all(|row| row.driver.is_none()) {
        return None;
    }
    Some(match meant.iter().find(|row| !is_vfio(row)) {
        Some(row) => {
            let driver = row.driver.as_deref().unwrap_or("no driver");
            let facts = Attributes::new().with(attribute::DEVICE_NAME, &row.address).with(attribute::WHAT, driver);
            let text = format!("lspci: {} is bound to {driver}, not to vfio-pci", row.address);
            present(code, Subject::Node, at, "lspci", facts, text)
        }
        None => absent(code, Subject::Node),
    })
}
