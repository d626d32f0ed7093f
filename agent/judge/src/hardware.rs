//! What the machine itself shows: its boot, IOMMU, devices meant for VMs, memory errors, virtualization of its processor.
//!
//! Counters of hardware have no times: what they prove happened since the boot, and is told so.

mod counters;

use kulprit_host::hardware::{EdacCounters, PciDevice};
use kulprit_host::kvm::CpuVirtualization;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

pub use counters::{HardwareCounters, judge_clocksource, judge_counters};

use crate::say::{PROCFS, Reading, SYSFS, absent, counted, present, unknown};
use crate::verdict::{OccurrenceVerdict, Verdict};

/// How long a boot is worth telling, microseconds: the window of a case.
const BOOT_WINDOW_USEC: i64 = 24 * 3600 * 1_000_000;
/// The driver that hands devices to VMs.
const VFIO: &str = "vfio-pci";

/// `NodeBooted`, if the node booted (`btime` of `/proc/stat`) within the 24 h before the look.
#[must_use]
pub fn judge_boot(at: Moment, boot_unix_sec: Option<i64>) -> Option<Verdict> {
    let boot_usec = boot_unix_sec?.checked_mul(1_000_000)?;
    let ago_usec = at.wall_usec.checked_sub(boot_usec)?;
    if !(0..=BOOT_WINDOW_USEC).contains(&ago_usec) {
        return None;
    }
    let booted = at.offset_usec(-ago_usec);
    let text = format!("the kernel booted {} min before (btime {})", ago_usec / 60_000_000, boot_usec / 1_000_000);
    Some(Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::NodeBooted,
        subject: Subject::Node,
        at: booted,
        count: 1,
        attributes: Attributes::new(),
        evidence: vec![Evidence::new(PROCFS, booted, text)],
    }))
}

/// `IommuMissing`, from the number of groups.
#[must_use]
pub fn judge_iommu(at: Moment, n_groups: &Reading<usize>) -> Verdict {
    let code = FindingCode::IommuMissing;
    Verdict::State(match n_groups {
        Ok(0) => {
            let text = "/sys/kernel/iommu_groups is empty: no IOMMU is in use";
            present(code, &Subject::Node, at, SYSFS, Attributes::new(), text)
        }
        Ok(n_groups) => absent(code, &Subject::Node, at, SYSFS, format!("there are {n_groups} IOMMU groups")),
        Err(error) => unknown(code, &Subject::Node, error.as_str()),
    })
}

/// `DeviceNotBoundToVfio`: a device that was chosen for vfio-pci, by its own switch or by `vfio_ids`, has another driver.
///
/// `None` when no device was chosen, or the drivers of none of them were recorded.
#[must_use]
pub fn judge_vfio(at: Moment, devices: &[PciDevice], vfio_ids: &[String]) -> Option<Verdict> {
    let code = FindingCode::DeviceNotBoundToVfio;
    let is_chosen = |device: &&PciDevice| {
        device.driver_override.as_deref() == Some(VFIO) || device.id.as_ref().is_some_and(|id| vfio_ids.contains(id))
    };
    let chosen: Vec<(&PciDevice, Option<&str>)> = devices
        .iter()
        .filter(is_chosen)
        .filter_map(|device| Some((device, device.driver.as_ref()?.as_deref())))
        .collect();
    chosen.first()?;
    Some(Verdict::State(match chosen.iter().find(|(_, driver)| *driver != Some(VFIO)) {
        Some((device, driver)) => {
            let driver = driver.unwrap_or("no driver");
            let facts = Attributes::new().with(attribute::DEVICE_NAME, &device.address).with(attribute::WHAT, driver);
            let id = device.id.as_deref().unwrap_or("id not recorded");
            let text = format!("{} ({id}) is meant for {VFIO} and bound to {driver}", device.address);
            present(code, &Subject::Node, at, SYSFS, facts, text)
        }
        None => absent(
            code,
            &Subject::Node,
            at,
            SYSFS,
            format!("{} devices meant for {VFIO} are bound to it", chosen.len()),
        ),
    }))
}

/// `HardwareMemoryError` of each memory controller that has counted uncorrected errors. Corrected ones are no fault.
#[must_use]
pub fn judge_memory_errors(at: Moment, controllers: &[EdacCounters]) -> Vec<Verdict> {
    let broken = controllers.iter().filter(|row| row.uncorrected_total > 0);
    let said = broken.map(|row| {
        let facts = Attributes::new().with(attribute::DEVICE_NAME, &row.controller);
        let text = format!("{} has counted {} uncorrected memory errors", row.controller, row.uncorrected_total);
        counted(FindingCode::HardwareMemoryError, &Subject::Node, at, row.uncorrected_total, SYSFS, facts, text)
    });
    said.collect()
}

/// `KvmNotSupported`: the processor shows no virtualization and no driver has made up for it.
///
/// A guest without nested virtualization is the usual one. With a driver (`kvm_pvm`) KVM works without the processor's help.
#[must_use]
pub fn judge_cpu(at: Moment, cpu: &Reading<CpuVirtualization>, is_kvm_registered: &Reading<bool>) -> Option<Verdict> {
    let (Ok(CpuVirtualization { has_vmx: false, has_svm: false, has_hypervisor }), Ok(false)) =
        (cpu, is_kvm_registered)
    else {
        return None;
    };
    let rest = if *has_hypervisor { ": this is a virtual machine without nested virtualization" } else { "" };
    let facts = Attributes::new().with(attribute::WHAT, if *has_hypervisor { "guest" } else { "cpu" });
    let text = format!("/proc/cpuinfo shows neither vmx nor svm{rest}");
    Some(counted(FindingCode::KvmNotSupported, &Subject::Node, at, 1, PROCFS, facts, text))
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    const HOUR_USEC: i64 = 3_600_000_000;

    #[test]
    fn a_boot_is_told_within_a_day_and_at_its_time() {
        let at = Moment { wall_usec: 100 * HOUR_USEC, boottime_usec: 30 * HOUR_USEC };
        for (hours, want) in [(75, false), (76, true), (100, true), (101, false)] {
            assert_eq!(judge_boot(at, Some(hours * 3600)).is_some(), want, "boot at {hours} h");
        }
        let Some(Verdict::Occurrence(boot)) = judge_boot(at, Some(99 * 3600)) else { panic!("told") };
        assert_eq!((boot.code, boot.at.wall_usec), (FindingCode::NodeBooted, 99 * HOUR_USEC));
        assert_eq!(judge_boot(at, None), None);
        assert_eq!(judge_boot(at, Some(i64::MAX)), None);
    }

    #[test]
    fn no_groups_are_no_iommu() {
        for (groups, want) in [(Ok(0), Present), (Ok(1), Absent), (Err("gone".to_owned()), Unknown)] {
            assert_eq!(statuses(&[judge_iommu(Moment::default(), &groups)]), [want], "{groups:?}");
        }
    }

    fn device(driver: Option<Option<&str>>, chosen: Option<&str>) -> PciDevice {
        PciDevice {
            address: "0000:01:00.0".to_owned(),
            id: Some("10de:1eb8".to_owned()),
            driver: driver.map(|driver| driver.map(str::to_owned)),
            driver_override: chosen.map(str::to_owned),
        }
    }

    #[track_caller]
    fn check_vfio(device: PciDevice, ids: &[&str], want: Option<Status>) {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let verdict = judge_vfio(Moment::default(), &[device], &ids);
        assert_eq!(verdict.map(|verdict| statuses(&[verdict])[0]), want);
    }

    #[test]
    fn a_device_meant_for_vms_must_be_bound_to_vfio() {
        check_vfio(device(Some(Some("nvidia")), None), &[], None);
        check_vfio(device(Some(Some("nvidia")), None), &["10de:1eb8"], Some(Present));
        check_vfio(device(Some(Some("vfio-pci")), None), &["10de:1eb8"], Some(Absent));
        check_vfio(device(Some(None), Some("vfio-pci")), &[], Some(Present));
        check_vfio(device(None, Some("vfio-pci")), &[], None);
    }

    #[test]
    fn uncorrected_errors_are_told_as_often_as_they_were_counted() {
        let row = |uncorrected_total| EdacCounters { controller: "mc0".to_owned(), uncorrected_total };
        assert!(judge_memory_errors(Moment::default(), &[row(0)]).is_empty());
        let verdicts = judge_memory_errors(Moment::default(), &[row(0), row(3)]);
        let [Verdict::Occurrence(error)] = &verdicts[..] else { panic!("{verdicts:?}") };
        assert_eq!((error.code, error.count), (FindingCode::HardwareMemoryError, 3));
    }

    #[test]
    fn a_processor_without_virtualization_counts_only_without_a_driver() {
        let cpu = |has_vmx| Ok(CpuVirtualization { has_vmx, has_svm: false, has_hypervisor: true });
        let is_told = |has_vmx, registered| judge_cpu(Moment::default(), &cpu(has_vmx), &registered).is_some();
        assert!(is_told(false, Ok(false)));
        assert!(!is_told(false, Ok(true)));
        assert!(!is_told(true, Ok(false)));
        assert!(!is_told(false, Err("gone".to_owned())));
    }
}
