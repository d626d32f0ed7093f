//! What the files of one node say, before it becomes a view of the node: the one form in which every reader here answers.

use std::{collections::BTreeSet, fmt, path::PathBuf};

use kulprit_host::command::network::Ping;
use kulprit_judge::Verdict;
use kulprit_model::{Domain, Evidence, Qemu};

/// What was read of one node.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// States and occurrences. Times are wall times of the node's clock; `boottime_usec` counts from its boot where that is
    /// known, else it is the wall time again. Undated occurrences carry the attribute `undated` and the moment of asking.
    pub verdicts: Vec<Verdict>,
    /// QEMU processes that were seen alive.
    pub qemus: Vec<Qemu>,
    /// Domains as libvirt told of them.
    pub domains: Vec<Domain>,
    /// virt-launcher processes: which VM and pod a QEMU is of.
    pub launchers: Vec<LauncherSeen>,
    /// Pings from here, of all outputs: what of large packets is lost only tells something beside what small ones do.
    pub pings: Vec<Ping>,
    /// Which stretch of which log was read: without it the absence of a line says nothing.
    pub spans: Vec<Span>,
    /// Probes of the finding catalogue whose looks are answered by what was read.
    pub looked: BTreeSet<&'static str>,
    /// What could not be read, or not understood.
    pub problems: Vec<Problem>,
    /// Lines that no rule knows, that tell of trouble and that name the subject of the case.
    pub kept: Vec<Evidence>,
}

/// A virt-launcher as its process shows it. Source: KubeVirt `pkg/virt-controller/services/template.go`, `/proc/PID/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherSeen {
    /// Process id of virt-launcher-monitor (pid 1 of the container), as the node's files number it.
    pub pid: u32,
    /// `--namespace`.
    pub namespace: String,
    /// `--name`.
    pub name: String,
    /// `--uid`: the VMI's.
    pub vmi_uid: String,
    /// From its cgroup.
    pub pod_uid: Option<String>,
}

/// A stretch of a log that was read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Probe of the finding catalogue that owns what the log says: `kernel-log`, `text`.
    pub probe: &'static str,
    /// The file, relative to the case.
    pub file: PathBuf,
    /// First dated line, Unix microseconds.
    pub from_usec: i64,
    /// Last dated line.
    pub until_usec: i64,
}

/// What could not be used, and why. The rest of the case is used all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, relative to the case.
    pub file: PathBuf,
    /// The line, from 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// Why, a sentence without a full stop.
    pub why: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match (self.file.as_os_str().is_empty(), self.line) {
            (true, _) => f.write_str(&self.why),
            (false, Some(line)) => write!(f, "{file}:{line}: {}", self.why),
            (false, None) => write!(f, "{file}: {}", self.why),
        }
    }
}

impl Gathered {
    /// Adds what another reader found.
    pub fn extend(&mut self, other: Self) {
        let Self { verdicts, qemus, domains, launchers, pings, spans, looked, problems, kept } = other;
        self.verdicts.extend(verdicts);
        self.qemus.extend(qemus);
        self.domains.extend(domains);
        self.launchers.extend(launchers);
        self.pings.extend(pings);
        self.spans.extend(spans);
        self.looked.extend(looked);
        self.problems.extend(problems);
        self.kept.extend(kept);
    }
}
