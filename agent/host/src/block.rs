//! Disks: what a device number is, whether requests are waiting in it, and how much it has done.
//!
//! All from sysfs and `/proc/diskstats`, which answer while the disk itself does not. A loop device names the file behind it,
//! so that a stall can be followed down to the disk below. Sources: kernel `Documentation/block/stat.rst`,
//! `Documentation/admin-guide/iostats.rst`; `diskstats` lines are parsed by procfs-core.

use std::path::{Path, PathBuf};

use procfs_core::DiskStat;

use crate::mount::DeviceNumber;
use crate::{HostRoot, Malformed, ReadError};

/// Requests that a disk has been given and has not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflight {
    /// Reads.
    pub n_reads: u64,
    /// Writes.
    pub n_writes: u64,
}

/// One block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its number.
    pub device: DeviceNumber,
    /// Name of its directory in sysfs: `sda`, `sda1`, `dm-0`, `loop3`.
    pub name: String,
    /// The disk a partition is part of; `None` for a whole disk.
    pub parent: Option<String>,
    /// File behind a loop device, in the root of whoever set it up, `(deleted)` and all.
    pub loop_file: Option<String>,
    /// Requests not finished. `None` where the kernel does not say.
    pub inflight: Option<Inflight>,
    /// State of the SCSI or NVMe device below: `running`, `offline`, `live`, `dead`. `None` for those that have none (virtio, loop, dm).
    pub state: Option<String>,
    /// Whether it is read-only.
    pub is_read_only: Option<bool>,
}

/// What a disk has done since it appeared. Only grows, except for `n_inflight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCounters {
    /// Its number.
    pub device: DeviceNumber,
    /// Its name.
    pub name: String,
    /// Reads finished.
    pub reads_total: u64,
    /// Writes finished.
    pub writes_total: u64,
    /// Discards finished; 0 before Linux 4.18.
    pub discards_total: u64,
    /// Flushes finished; 0 before Linux 5.5.
    pub flushes_total: u64,
    /// Requests not finished now.
    pub n_inflight: u64,
    /// Time with at least one request not finished, milliseconds.
    pub busy_msec_total: u64,
    /// The same, counted once for each request, milliseconds.
    pub weighted_busy_msec_total: u64,
}

impl DiskCounters {
    /// Requests finished, of any kind.
    pub fn finished_total(&self) -> u64 {
        [self.reads_total, self.writes_total, self.discards_total, self.flushes_total]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Parses `/proc/diskstats`, keeping the good lines and complaining about the others.
pub fn parse_diskstats(text: &str) -> (Vec<DiskCounters>, Vec<Malformed>) {
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match DiskStat::from_line(line).ok().and_then(|stat| counters(&stat)) {
            Some(row) => rows.push(row),
            None => errors.push(Malformed::new(index + 1, line)),
        }
    }
    (rows, errors)
}

fn counters(stat: &DiskStat) -> Option<DiskCounters> {
    Some(DiskCounters {
        device: DeviceNumber { major: stat.major.try_into().ok()?, minor: stat.minor.try_into().ok()? },
        name: stat.name.clone(),
        reads_total: stat.reads,
        writes_total: stat.writes,
        discards_total: stat.discards.unwrap_or_default(),
        flushes_total: stat.flushes.unwrap_or_default(),
        n_inflight: stat.in_progress,
        busy_msec_total: stat.time_in_progress,
        weighted_busy_msec_total: stat.weighted_time_in_progress,
    })
}

/// Parses an `inflight` file: reads, then writes. `None` when it is not two numbers.
pub fn parse_inflight(text: &str) -> Option<Inflight> {
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse().ok());
    Some(Inflight { n_reads: numbers.next()??, n_writes: numbers.next()?? })
}

/// All disks' counters.
///
/// # Errors
/// See [`ReadError`]; `Malformed` only when no line could be read.
pub fn read_diskstats(root: &HostRoot) -> Result<Vec<DiskCounters>, ReadError> {
    let path = "proc/diskstats";
    let (rows, errors) = parse_diskstats(&root.read_text(path)?);
    match errors.into_iter().next() {
        Some(malformed) if rows.is_empty() => Err(malformed.at(root.display_path(path))),
        _ => Ok(rows),
    }
}

/// What sysfs says of a device.
///
/// # Errors
/// `NotFound` when there is no such disk: also for major 0, which is a file system without one.
pub fn read_block_device(root: &HostRoot, device: DeviceNumber) -> Result<BlockDevice, ReadError> {
    let link = PathBuf::from(format!("sys/dev/block/{device}"));
    let target = root.read_link(&link)?;
    let malformed = || Malformed::new(1, target.as_os_str().as_encoded_bytes()).at(root.display_path(&link));
    let name = target.file_name().and_then(|name| name.to_str()).ok_or_else(malformed)?.to_owned();
    let text =
        |file: &str| root.read_text_if_any(link.join(file)).map(|text| text.map(|text| text.trim_end().to_owned()));
    let is_partition = text("partition")?.is_some();
    let parent = target.parent().and_then(Path::file_name).and_then(|name| name.to_str()).filter(|_| is_partition);
    Ok(BlockDevice {
        device,
        parent: parent.map(str::to_owned),
        loop_file: text("loop/backing_file")?,
        inflight: text("inflight")?.as_deref().and_then(parse_inflight),
        state: text("device/state")?,
        is_read_only: text("ro")?.and_then(|text| match text.as_str() {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        }),
        name,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn recorded() -> HostRoot {
        HostRoot::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/debian-12"))
    }

    #[test]
    fn recorded_disks_read_as_they_were() {
        let disk = read_block_device(&recorded(), DeviceNumber { major: 254, minor: 0 }).unwrap();
        assert_eq!((disk.name.as_str(), disk.parent.as_deref(), disk.loop_file.as_deref()), ("vda", None, None));
        assert_eq!(disk.inflight, Some(Inflight { n_reads: 0, n_writes: 0 }));
        assert_eq!((disk.state, disk.is_read_only), (None, Some(false)));
        let image = read_block_device(&recorded(), DeviceNumber { major: 7, minor: 0 }).unwrap();
        assert_eq!((image.name.as_str(), image.loop_file.as_deref()), ("loop0", Some("/srv/images/data.img")));
    }

    #[test]
    fn a_file_system_without_a_disk_is_not_found() {
        assert!(read_block_device(&recorded(), DeviceNumber { major: 0, minor: 39 }).unwrap_err().is_not_found());
    }

    #[test]
    fn a_partition_names_its_disk_and_an_offline_disk_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("sys/devices/pci0/block/sda/sda1");
        std::fs::create_dir_all(part.join("device")).unwrap();
        std::fs::create_dir_all(dir.path().join("sys/dev/block")).unwrap();
        std::os::unix::fs::symlink("../../devices/pci0/block/sda/sda1", dir.path().join("sys/dev/block/8:1")).unwrap();
        for (file, text) in
            [("partition", "1\n"), ("device/state", "offline\n"), ("inflight", "       2       17\n"), ("ro", "1\n")]
        {
            std::fs::write(part.join(file), text).unwrap();
        }
        let found = read_block_device(&HostRoot::new(dir.path()), DeviceNumber { major: 8, minor: 1 }).unwrap();
        assert_eq!((found.name.as_str(), found.parent.as_deref()), ("sda1", Some("sda")));
        assert_eq!((found.state.as_deref(), found.is_read_only), (Some("offline"), Some(true)));
        assert_eq!(found.inflight, Some(Inflight { n_reads: 2, n_writes: 17 }));
    }

    #[test]
    fn this_machines_disks_are_all_readable() {
        let root = HostRoot::new("/");
        for row in read_diskstats(&root).unwrap() {
            assert_eq!(read_block_device(&root, row.device).unwrap().name, row.name);
        }
    }

    #[test]
    fn recorded_counters_parse_and_a_bad_line_keeps_the_good_ones() {
        let text = include_str!("../fixtures/kubevirt-1.8.4/proc/diskstats");
        let (rows, errors) = parse_diskstats(text);
        assert!(errors.is_empty());
        assert_eq!(rows.len(), text.lines().count());
        let (rows, errors) = parse_diskstats(&format!("254 0 vda 1 2\n{text}"));
        assert_eq!((rows.len(), errors[0].line), (text.lines().count(), 1));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,120}", line in "( {0,2}-?[0-9]{1,22}){2} [a-z]{1,4}( [0-9]{1,22}){0,18}") {
            let _ = parse_diskstats(&format!("{text}\n{line}"));
            let _ = parse_inflight(&text);
            let _ = DeviceNumber::parse(&text);
        }
    }
}
