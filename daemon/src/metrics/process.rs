//! What the kernel says about this process, read when somebody asks.
//!
//! CPU time comes from `CLOCK_PROCESS_CPUTIME_ID` and the number of open descriptors from the size of `/proc/self/fd`
//! (Linux 6.2 and later; counted on older kernels), so that a process with ten thousand connections does not list them all.
//! Names follow the Prometheus client conventions:
//! <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.

use std::{fmt, fs, io};

use kulprit_model::time::Moment;
use nix::time::ClockId;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Collects the `process_*` series. What cannot be read is left out, never zero.
#[derive(Debug)]
pub struct Process {
    started: Moment,
}

/// What could not be read of this process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// `/proc` is not mounted.
    #[error("failed to read `{path}`")]
    Io {
        /// The file asked for.
        path: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The file has no such line.
    #[error("`/proc/self/status` has no `VmRSS` line in kB")]
    NoRss,
}

impl Process {
    /// A process that started at `started`.
    #[must_use]
    pub const fn new(started: Moment) -> Self {
        Self { started }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut write = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
            let encoder = encoder.encode_descriptor(name, help, unit, metric.metric_type())?;
            metric.encode(encoder)
        };
        if let Some(cpu_seconds) = cpu_seconds() {
            let help = "User and system CPU time spent.";
            write("process_cpu", help, Some(&Unit::Seconds), &ConstCounter::new(cpu_seconds))?;
        }
        if let Ok(bytes) = resident_bytes() {
            let help = "Resident memory, shared pages included.";
            write("process_resident_memory", help, Some(&Unit::Bytes), &ConstGauge::new(bytes))?;
        }
        if let Ok(n_fds) = n_open_fds() {
            write("process_open_fds", "Open file descriptors.", None, &ConstGauge::new(n_fds))?;
        }
        let started = seconds(self.started.wall_usec);
        let help = "Start of the process, Unix time.";
        write("process_start_time", help, Some(&Unit::Seconds), &ConstGauge::new(started))
    }
}

/// CPU time of all threads of this process, seconds.
fn cpu_seconds() -> Option<f64> {
    let spent = ClockId::CLOCK_PROCESS_CPUTIME_ID.now().ok()?;
    Some(seconds(spent.tv_sec() * 1_000_000 + spent.tv_nsec() / 1_000))
}

/// `VmRSS` of `/proc/self/status` (proc_pid_status(5)), bytes.
fn resident_bytes() -> Result<i64, ProcessError> {
    let path = "/proc/self/status";
    let text = fs::read_to_string(path).map_err(|source| ProcessError::Io { path, source })?;
    parse_rss_bytes(&text).ok_or(ProcessError::NoRss)
}

fn parse_rss_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1_024)
}

fn n_open_fds() -> Result<i64, ProcessError> {
    let path = "/proc/self/fd";
    let error = |source| ProcessError::Io { path, source };
    // st_size is the number of descriptors since f1f1f2569901 ("proc: report open files as size in stat()"), before: 0.
    let n_fds = match fs::metadata(path).map_err(error)?.len() {
        // The listing itself takes one descriptor.
        0 => (fs::read_dir(path).map_err(error)?.count() as u64).saturating_sub(1),
        n_fds => n_fds,
    };
    Ok(i64::try_from(n_fds).unwrap_or(i64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 fit 53 bits until the year 2255")]
fn seconds(usec: i64) -> f64 {
    usec as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn value(name: &str) -> f64 {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new(Moment { wall_usec: 1_500_000, boottime_usec: 0 })));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    #[test]
    fn every_series_is_there_under_its_usual_name() {
        assert!((value("process_start_time_seconds") - 1.5).abs() < 1e-9);
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
    }

    #[test]
    fn an_opened_file_is_counted() {
        // Other tests open files at the same time: fifty of ours stand out.
        let before = n_open_fds().unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        assert!(n_open_fds().unwrap() >= before + 25);
        drop(files);
    }

    #[test]
    fn work_costs_cpu_seconds() {
        let before = value("process_cpu_seconds_total");
        let mut n = 0_u64;
        while value("process_cpu_seconds_total") < before + 0.02 {
            n += 1;
            assert!(n < 10_000_000, "CPU seconds stand still");
        }
    }

    #[test]
    fn rss_is_read_in_bytes_or_not_at_all() {
        assert_eq!(parse_rss_bytes("Name:\tx\nVmRSS:\t    4096 kB\n"), Some(4_194_304));
        for text in ["", "VmRSS:\n", "VmRSS:\t12\n", "VmRSS:\tmany kB\n", "VmRSS:\t9223372036854775807 kB\n"] {
            assert_eq!(parse_rss_bytes(text), None, "{text:?}");
        }
    }
}
