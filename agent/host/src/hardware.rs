//! Hardware as sysfs shows it: IOMMU groups, PCI drivers, memory errors, the state of disks and their paths.
//!
//! Sources: kernel `Documentation/ABI/testing/sysfs-kernel-iommu_groups`, `sysfs-bus-pci`, `sysfs-devices-edac`,
//! `sysfs-class-iscsi_session`; `drivers/scsi/scsi_sysfs.c` (`sdev_states`), `drivers/nvme/host/sysfs.c`.

mod processor;
mod versions;

pub use processor::{
    Heat, MachineChecks, Processor, parse_machine_checks, parse_processor, read_clocksource, read_heat,
    read_machine_checks, read_processor,
};
pub use versions::{parse_qemu_capabilities, read_libvirt_version, read_qemu_version};

use crate::{HostRoot, ReadError};

/// Most entries of one folder that are read.
const MAX_ENTRIES: usize = 4096;

/// How many IOMMU groups there are. 0 means no IOMMU is in use: off in the firmware or on the kernel's command line.
///
/// # Errors
/// See [`ReadError`]; `NotFound` when the folder was not saved or the kernel knows no IOMMU.
pub fn read_iommu_group_count(root: &HostRoot) -> Result<usize, ReadError> {
    let groups = root.list("sys/kernel/iommu_groups")?;
    Ok(groups.iter().filter(|name| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok())).count())
}

/// A PCI device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// Address: `0000:3b:00.0`.
    pub address: String,
    /// Vendor and device, `10de:1eb8`. `None` where not saved.
    pub id: Option<String>,
    /// Driver it is bound to. `Some(None)`: to none. `None`: not saved.
    pub driver: Option<Option<String>>,
    /// Driver that somebody has chosen for it (`driver_override`).
    pub driver_override: Option<String>,
}

/// The PCI devices of the node, by address.
///
/// # Errors
/// When there is no list; `NotFound` when it was not saved.
pub fn read_pci_devices(root: &HostRoot) -> Result<Vec<PciDevice>, ReadError> {
    let mut devices = Vec::new();
    for address in names(root, "sys/bus/pci/devices")? {
        let directory = format!("sys/bus/pci/devices/{address}");
        let text = |file: &str| root.read_text(format!("{directory}/{file}")).ok();
        let hex = |file: &str| text(file).map(|text| text.trim().trim_start_matches("0x").to_ascii_lowercase());
        let from_link = || {
            let target = root.read_link(format!("{directory}/driver")).ok()?;
            Some(target.file_name()?.to_string_lossy().into_owned())
        };
        let driver = match (from_link(), text("uevent")) {
            (Some(driver), _) => Some(Some(driver)),
            (None, Some(uevent)) => {
                Some(uevent.lines().find_map(|line| line.strip_prefix("DRIVER=")).map(str::to_owned))
            }
            (None, None) => None,
        };
        let chosen = text("driver_override").map(|text| text.trim().to_owned());
        devices.push(PciDevice {
            id: hex("vendor").zip(hex("device")).map(|(vendor, device)| format!("{vendor}:{device}")),
            driver,
            driver_override: chosen.filter(|name| !name.is_empty() && name != "(null)"),
            address,
        });
    }
    Ok(devices)
}

/// The ids (`vendor:device`, lower case) that a text gives to vfio-pci: a kernel command line (`vfio-pci.ids=…`) or a
/// file of modprobe (`options vfio-pci ids=…`).
pub fn parse_vfio_ids(text: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut is_vfio_line = false;
        for word in line.split_ascii_whitespace() {
            is_vfio_line |= matches!(word, "vfio-pci" | "vfio_pci");
            let list = ["vfio-pci.ids=", "vfio_pci.ids="].iter().find_map(|prefix| word.strip_prefix(prefix));
            let list = list.or_else(|| word.strip_prefix("ids=").filter(|_| is_vfio_line));
            for id in list.unwrap_or_default().split(',') {
                // `vendor:device[:subvendor[:subdevice[:class[:mask]]]]`
                let mut parts = id.trim_matches('"').splitn(3, ':');
                let (Some(vendor), Some(device)) = (parts.next(), parts.next()) else { continue };
                if [vendor, device]
                    .iter()
                    .all(|part| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                {
                    ids.push(format!("{vendor}:{device}").to_ascii_lowercase());
                }
            }
        }
    }
    ids.sort();
    ids.dedup();
    ids
}

/// The ids that the node gives to vfio-pci, from the kernel's command line and modprobe's files. Empty where none were saved.
pub fn read_vfio_ids(root: &HostRoot) -> Vec<String> {
    let mut text = root.read_text("proc/cmdline").unwrap_or_default();
    for directory in ["etc/modprobe.d", "run/modprobe.d", "usr/lib/modprobe.d"] {
        for name in names(root, directory).unwrap_or_default() {
            text.push('\n');
            text.push_str(&root.read_text(format!("{directory}/{name}")).unwrap_or_default());
        }
    }
    parse_vfio_ids(&text)
}

/// Memory errors that one memory controller has counted since the boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdacCounters {
    /// `mc0`.
    pub controller: String,
    /// Errors that could not be corrected.
    pub uncorrected_total: u64,
}

/// The memory controllers' counters.
///
/// # Errors
/// When there is no list; `NotFound` when it was not saved or no driver is loaded.
pub fn read_edac(root: &HostRoot) -> Result<Vec<EdacCounters>, ReadError> {
    let base = "sys/devices/system/edac/mc";
    let controllers = names(root, base)?.into_iter().filter(|name| name.starts_with("mc"));
    let read = |controller: String| {
        let count = crate::limits::read_number(root, format!("{base}/{controller}/ue_count")).ok()?;
        Some(EdacCounters { controller, uncorrected_total: count })
    };
    Ok(controllers.filter_map(read).collect())
}

/// A path to storage that has a state of its own: a SCSI disk, an NVMe controller, an iSCSI session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoragePath {
    /// `sda`, `nvme0`, `session1`.
    pub name: String,
    /// `running`, `offline`, `live`, `LOGGED_IN`, `FAILED` …
    pub state: String,
    /// What it is one of several ways to: the multipath device above it (`dm-3`), an iSCSI target, an NVMe subsystem.
    pub multipath: Option<String>,
    /// Where it leads: an iSCSI target's name, an NVMe subsystem's address. `None` where not known.
    pub target: Option<String>,
}

fn names(root: &HostRoot, directory: &str) -> Result<Vec<String>, ReadError> {
    Ok(root.list(directory)?.into_iter().filter_map(|name| name.into_string().ok()).take(MAX_ENTRIES).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    /// A host with these files.
    pub(super) fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = HostRoot::new(dir.path());
        (dir, root)
    }

    #[test]
    fn an_empty_folder_of_iommu_groups_is_none_and_a_missing_one_unknown() {
        let (dir, root) = tree(&[]);
        assert!(read_iommu_group_count(&root).unwrap_err().is_not_found());
        std::fs::create_dir_all(dir.path().join("sys/kernel/iommu_groups")).unwrap();
        assert_eq!(read_iommu_group_count(&root).unwrap(), 0);
        std::fs::create_dir_all(dir.path().join("sys/kernel/iommu_groups/12/devices")).unwrap();
        assert_eq!(read_iommu_group_count(&root).unwrap(), 1);
    }

    #[test]
    fn a_devices_driver_is_told_from_no_driver_and_from_no_recording() {
        let (dir, root) = tree(&[
            ("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:01:00.0/device", "0x1EB8\n"),
            ("sys/bus/pci/devices/0000:01:00.0/driver_override", "(null)\n"),
            ("sys/bus/pci/devices/0000:02:00.0/uevent", "DRIVER=nvidia\nPCI_CLASS=30200\n"),
            ("sys/bus/pci/devices/0000:03:00.0/uevent", "PCI_CLASS=30200\n"),
            ("sys/bus/pci/devices/0000:03:00.0/driver_override", "vfio-pci\n"),
            ("sys/bus/pci/devices/0000:04:00.0/vendor", "0x8086\n"),
        ]);
        symlink("../../../../bus/pci/drivers/vfio-pci", dir.path().join("sys/bus/pci/devices/0000:01:00.0/driver"))
            .unwrap();
        let devices = read_pci_devices(&root).unwrap();
        let drivers: Vec<_> = devices.iter().map(|device| device.driver.clone()).collect();
        assert_eq!(drivers, [Some(Some("vfio-pci".to_owned())), Some(Some("nvidia".to_owned())), Some(None), None]);
        assert_eq!((devices[0].id.as_deref(), devices[0].driver_override.as_deref()), (Some("10de:1eb8"), None));
        assert_eq!(devices[2].driver_override.as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn ids_for_vfio_come_from_the_kernels_command_line_and_from_modprobe() {
        let (_dir, root) = tree(&[
            ("proc/cmdline", "BOOT_IMAGE=/vmlinuz intel_iommu=on vfio-pci.ids=10de:1EB8,8086:1572:ffff quiet\n"),
            (
                "etc/modprobe.d/vfio.conf",
                "# options vfio-pci ids=1111:2222\noptions vfio-pci ids=10de:10f8 disable_vga=1\n",
            ),
        ]);
        assert_eq!(read_vfio_ids(&root), ["10de:10f8", "10de:1eb8", "8086:1572"]);
        assert!(parse_vfio_ids("options other ids=1111:2222").is_empty());
    }

    #[test]
    fn memory_controllers_say_their_errors() {
        let (_dir, root) = tree(&[("sys/devices/system/edac/mc/mc0/ue_count", "2\n")]);
        assert_eq!(read_edac(&root).unwrap()[0].uncorrected_total, 2);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(options vfio-pci )?(ids=)?([0-9a-f]{0,5}:?){0,5}\\PC{0,20}") {
            let _ = parse_vfio_ids(&text);
        }
    }
}
