//! The node's stall times, processor times and memory, through files that stay open.

use std::path::{Path, PathBuf};

use kulprit_host::HostRoot;
use kulprit_host::cpu::{CpuTimes, parse_proc_stat};
use kulprit_host::kept::{KeptBuffer, KeptFile};
use kulprit_host::memory::{MemInfo, parse_meminfo};
use kulprit_host::pressure::{Pressure, parse_pressure};
use kulprit_judge::pressure::{PressureLook, StallWindow, TimesWindow, judge};
use kulprit_judge::{Reading, Verdict};
use kulprit_model::Moment;

use crate::probes::PressureConfig;
use crate::probes::chain;
use crate::recorder::{Figure, Recorder};

/// Processor times and memory are read at most so often, microseconds: they change slowly, and cost more than a total.
const SLOW_EVERY_USEC: i64 = 900_000;
/// What is recorded of CPU, memory and I/O.
const FIGURES: [Figure; 3] = [
    Figure { name: "cpu some", unit: "percent" },
    Figure { name: "memory some", unit: "percent" },
    Figure { name: "io some", unit: "percent" },
];
const STEAL: Figure = Figure { name: "steal", unit: "percent" };
const AVAILABLE: Figure = Figure { name: "memory available", unit: "MiB" };

/// What is known of the node.
#[derive(Debug)]
pub(super) struct Node {
    /// CPU, memory, I/O.
    stalls: [Stall; 3],
    buffer: KeptBuffer,
    stat: KeptFile,
    meminfo: KeptFile,
    times: TimesWindow,
    last_times: Reading<CpuTimes>,
    last_meminfo: Reading<MemInfo>,
    slow_at_usec: i64,
    /// Whether the stall times are the machine's, not those of a cgroup.
    is_machine: bool,
}

#[derive(Debug)]
struct Stall {
    file: KeptFile,
    window: StallWindow,
    last: Reading<Pressure>,
}

impl Node {
    pub(super) fn new(host: &HostRoot, config: &PressureConfig) -> Self {
        let unread = || "not yet read".to_owned();
        let stall = |resource: &str| Stall {
            file: KeptFile::new(host, path_of(config, resource)),
            window: StallWindow::default(),
            last: Err(unread()),
        };
        Self {
            stalls: ["cpu", "memory", "io"].map(stall),
            buffer: KeptBuffer::default(),
            stat: KeptFile::new(host, "proc/stat"),
            meminfo: KeptFile::new(host, "proc/meminfo"),
            times: TimesWindow::default(),
            last_times: Err(unread()),
            last_meminfo: Err(unread()),
            slow_at_usec: i64::MIN,
            is_machine: config.cgroup.is_none(),
        }
    }

    /// The pressure files, below the host's root.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.stalls.iter().map(|stall| stall.file.path())
    }

    /// Reads everything that is due; returns how much could not be.
    pub(super) fn sample(&mut self, at: Moment) -> u64 {
        let mut n_errors = 0;
        for stall in &mut self.stalls {
            stall.last = read(&mut stall.file, &mut self.buffer, parse_pressure);
            match &stall.last {
                Ok(pressure) => stall.window.push(at, pressure),
                Err(_) => n_errors += 1,
            }
        }
        if at.boottime_usec.saturating_sub(self.slow_at_usec) >= SLOW_EVERY_USEC {
            self.slow_at_usec = at.boottime_usec;
            let no_line = "`/proc/stat` has no line of all processors";
            self.last_times = read(&mut self.stat, &mut self.buffer, |text| Ok(parse_proc_stat(text).cpu))
                .and_then(|cpu| cpu.ok_or_else(|| no_line.to_owned()));
            self.last_meminfo = read(&mut self.meminfo, &mut self.buffer, parse_meminfo);
            n_errors += u64::from(self.last_times.is_err()) + u64::from(self.last_meminfo.is_err());
            if let Ok(times) = self.last_times {
                self.times.push(at, times);
            }
        }
        n_errors
    }

    /// The largest share of the time since the sample before in which tasks stalled for any of the three, percent.
    pub(super) fn newest_pct(&self) -> Option<f64> {
        self.stalls.iter().filter_map(|stall| stall.window.newest_pct()).max_by(f64::total_cmp)
    }

    /// The states of the node by what was read last.
    pub(super) fn verdicts(&self, at: Moment) -> Vec<Verdict> {
        let [cpu, memory, io] = &self.stalls;
        let averaged = |stall: &Stall| stall.last.clone().map(|pressure| stall.window.averaged(&pressure));
        let recent = || self.times.recent().ok_or_else(|| "processor times of 10 s are not yet known".to_owned());
        judge(&PressureLook {
            at,
            cpu: averaged(cpu),
            memory: averaged(memory),
            io: averaged(io),
            times: self.last_times.clone().and_then(|_| recent()),
            tells_idle: self.is_machine,
            meminfo: self.last_meminfo.clone(),
        })
    }

    /// Hands the newest values to the flight recorder.
    #[expect(clippy::cast_possible_truncation, reason = "shares and MiB of a picture")]
    pub(super) fn record(&self, recorder: &Recorder, at: Moment) {
        for (stall, figure) in self.stalls.iter().zip(FIGURES) {
            if let Some(share) = stall.window.newest_pct().filter(|_| stall.last.is_ok()) {
                recorder.sample_node(at, figure, share as f32);
            }
        }
        if at.boottime_usec != self.slow_at_usec {
            return;
        }
        if let Some(CpuTimes { total_ticks: total @ 1.., steal_ticks, .. }) = self.times.recent() {
            recorder.sample_node(at, STEAL, (steal_ticks as f64 * 100.0 / total as f64) as f32);
        }
        if let Ok(MemInfo { available_bytes: Some(bytes), .. }) = &self.last_meminfo {
            recorder.sample_node(at, AVAILABLE, (bytes >> 20) as f32);
        }
    }
}

fn path_of(config: &PressureConfig, resource: &str) -> PathBuf {
    match &config.cgroup {
        Some(cgroup) => cgroup.join(format!("{resource}.pressure")),
        None => Path::new("proc/pressure").join(resource),
    }
}

fn read<T>(
    file: &mut KeptFile,
    buffer: &mut KeptBuffer,
    parse: impl FnOnce(&str) -> Result<T, kulprit_host::Malformed>,
) -> Reading<T> {
    let text = file.read(buffer).map_err(|error| chain(&error))?;
    parse(text).map_err(|malformed| chain(&malformed.at(file.path())))
}
