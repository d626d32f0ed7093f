//! A migration in numbers: `virsh domjobinfo`, and the lines in which virt-launcher logs the same every 4 s.
//!
//! Sources: libvirt `tools/virsh-domain.c` cmdDomjobinfo; KubeVirt `pkg/virt-launcher/virtwrap/live-migration-source.go`
//! logMigrationInfo (`Mbps` there are megabits per second, `MiB` of all sizes).

use super::{parse_size, value_of, whole_f64};

/// What is known of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobInfo {
    /// `None`, `Bounded`, `Unbounded`, `Completed`, `Failed`, `Cancelled`. `None` in lines of the launcher.
    pub job_type: Option<String>,
    /// `Outgoing migration`, `Incoming migration`, `Start` …
    pub operation: Option<String>,
    /// UID of the migration, in lines of the launcher.
    pub migration_uid: Option<String>,
    /// Since the job's start, ms.
    pub elapsed_ms: Option<u64>,
    /// Copied so far, bytes; `None` before the first byte.
    pub processed_bytes: Option<u64>,
    /// Still to copy, bytes.
    pub remaining_bytes: Option<u64>,
    /// To copy in all, bytes.
    pub total_bytes: Option<u64>,
    /// Of disks that are copied too, still to copy, bytes.
    pub disk_remaining_bytes: Option<u64>,
    /// Rate of the copy, bytes per second.
    pub copy_bytes_per_sec: Option<f64>,
    /// Rate at which the guest dirties memory, bytes per second; over the last round.
    pub dirty_bytes_per_sec: Option<f64>,
    /// Round of the copy.
    pub iteration: Option<u64>,
    /// Downtime that a switch-over would take now, ms; in the first round QEMU's limit.
    pub expected_downtime_ms: Option<u64>,
    /// Requests for pages in post-copy.
    pub n_postcopy_requests: Option<u64>,
    /// Throttling of the guest by auto-converge, percent.
    pub throttle_pct: Option<u64>,
    /// What libvirt says of the job's end.
    pub error_message: Option<String>,
}

impl JobInfo {
    /// Whether disks are copied, and the memory has not begun to be: libvirt copies disks that are not shared first.
    #[must_use]
    pub fn is_copying_disks(&self) -> bool {
        self.disk_remaining_bytes.is_some_and(|bytes| bytes > 0) && self.iteration.unwrap_or(0) == 0
    }

    /// Whether a job runs that copies the guest to another node.
    #[must_use]
    pub fn is_outgoing(&self) -> bool {
        match (self.job_type.as_deref(), self.operation.as_deref()) {
            (Some("None" | "Completed" | "Failed" | "Cancelled"), _) => false,
            (_, Some(operation)) => operation == "Outgoing migration",
            (Some(_), None) => self.total_bytes.is_some(),
            (None, None) => self.migration_uid.is_some(),
        }
    }
}

/// The table of `domjobinfo`; `None` without a job type.
#[must_use]
pub fn parse_domjobinfo(text: &str) -> Option<JobInfo> {
    let job_type = value_of(text, "Job type")?;
    let word = |key| value_of(text, key).filter(|value| !value.is_empty());
    let number = |key| word(key)?.split_whitespace().next()?.parse::<u64>().ok();
    let size = |key| parse_size(word(key)?, 1);
    let page_bytes = size("Page size").unwrap_or(4096);
    Some(JobInfo {
        job_type: Some(job_type.to_owned()),
        operation: word("Operation").map(str::to_owned),
        migration_uid: None,
        elapsed_ms: number("Time elapsed"),
        processed_bytes: size("Data processed").or_else(|| size("Memory processed")),
        remaining_bytes: size("Data remaining").or_else(|| size("Memory remaining")),
        total_bytes: size("Data total").or_else(|| size("Memory total")),
        disk_remaining_bytes: size("File remaining"),
        copy_bytes_per_sec: word("Memory bandwidth").and_then(|rate| parse_size(rate, 1)).map(whole_f64),
        dirty_bytes_per_sec: number("Dirty rate").map(|pages| whole_f64(pages) * whole_f64(page_bytes)),
        iteration: number("Iteration"),
        expected_downtime_ms: number("Expected downtime"),
        n_postcopy_requests: number("Postcopy requests"),
        throttle_pct: number("Auto converge throttle"),
        error_message: word("Error message").map(str::to_owned),
    })
}

/// Several `domjobinfo` outputs, each below a line `== <stamp> …` that says when; microseconds of Unix time.
#[must_use]
pub fn parse_job_series(text: &str, at_usec: i64) -> Vec<(i64, JobInfo)> {
    let blocks = text.split("== ").skip(1);
    blocks
        .filter_map(|block| {
            let (head, body) = block.split_once('\n')?;
            Some((crate::log::parse_stamp(head, at_usec)?, parse_domjobinfo(body)?))
        })
        .collect()
}

/// `Migration info for <uid>: TimeElapsed:4024ms DataProcessed:138MiB …`; `None` for another text.
#[must_use]
pub fn parse_migration_info(text: &str) -> Option<JobInfo> {
    let (_, rest) = text.split_once("Migration info for ")?;
    let (uid, rest) = rest.split_once(": ")?;
    let get = |key: &str| {
        let (_, after) = rest.split_once(&format!("{key}:"))?;
        after.split_whitespace().next()
    };
    let digits = |word: &str| -> Option<u64> {
        let end = word.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(word.len());
        word[..end].parse().ok()
    };
    let number = |key| digits(get(key)?);
    let size = |key| parse_size(get(key)?, 1);
    let bits = |key| number(key).map(|megabits| whole_f64(megabits) * 1e6 / 8.0);
    Some(JobInfo {
        job_type: None,
        operation: None,
        migration_uid: Some(uid.trim().to_owned()),
        elapsed_ms: Some(number("TimeElapsed")?),
        processed_bytes: size("DataProcessed"),
        remaining_bytes: size("DataRemaining"),
        total_bytes: size("DataTotal"),
        disk_remaining_bytes: None,
        copy_bytes_per_sec: bits("MemoryBandwidth"),
        dirty_bytes_per_sec: bits("DirtyRate"),
        iteration: number("Iteration"),
        expected_downtime_ms: number("ExpectedDowntime"),
        n_postcopy_requests: number("PostcopyRequests"),
        throttle_pct: None,
        error_message: None,
    })
}
