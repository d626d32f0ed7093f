//! Captures: everything the node shows of one VM at one moment, when central asks because the VM just got into trouble.
//!
//! What is gone when a person comes: threads and where they wait, the domain's state file, counters of its cgroup, the last lines
//! of the kernel and of its launcher, and the minutes before from the [`crate::recorder`]. Files only: no call that takes the domain's job, none
//! that a hung QEMU could make ours. Each part is read on a thread of its own with what is left of two seconds; a part that is
//! late, or that cannot be read, says why, and is tried anew only after it has returned.

mod redact;
mod sections;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kulprit_daemon::{BoxError, CancellationToken, Clock};
use kulprit_host::{HostRoot, process::Procfs};
use kulprit_model::{Body, Subject};
use kulprit_proto::v1;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tracing::debug;

use crate::{
    probes::{Blocking, Late, Launchers, ProbeConfig, VmIndex},
    recorder::{Recorder, Series},
    tracker::run::{Ask, View},
};
use sections::{Files, Part, Place, READERS};

pub use redact::redact;

/// How long all of a capture may take.
const WITHIN: Duration = Duration::from_secs(2);
/// The tracker answers within microseconds; its part must not cost the others their time.
const VIEW_WITHIN: Duration = Duration::from_millis(200);
/// Most bytes of the findings' part.
const FINDINGS_BYTES: usize = 16 << 10;

/// What makes captures.
#[derive(Debug)]
pub struct Capturer {
    /// The host's root.
    pub host: HostRoot,
    /// Where its processes are.
    pub config: watch::Receiver<Arc<ProbeConfig>>,
    /// The launchers of the node.
    pub launchers: Arc<watch::Sender<Arc<Launchers>>>,
    /// Which process runs which VM.
    pub vms: Arc<VmIndex>,
    /// The minutes before.
    pub recorder: Arc<Recorder>,
    /// Who knows what was found.
    pub tracker: mpsc::Sender<Ask>,
    /// The time.
    pub clock: Clock,
}

impl Capturer {
    /// Makes captures one after the other until `stop`.
    ///
    /// # Errors
    /// None: what cannot be read is said in the capture.
    pub async fn run(
        self,
        mut asked: mpsc::Receiver<v1::CaptureRequest>,
        made: mpsc::Sender<v1::CaptureResult>,
        stop: CancellationToken,
    ) -> Result<(), BoxError> {
        let mut threads = BTreeMap::new();
        loop {
            let request = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(request) = asked.recv() => request,
            };
            let capture = self.capture(request, &mut threads).await;
            // Full: central was away for several; the newest is the one to lose, what it shows is told by the findings as well.
            if let Err(error) = made.try_send(capture) {
                debug!(%error, "a capture that nobody takes is dropped");
            }
        }
    }

    fn files(&self) -> Files {
        let config = self.config.borrow();
        let (procfs, cgroup_prefix) = (Procfs::new(&config.procfs), config.cgroup_prefix.clone());
        Files { host: self.host.clone(), procfs, cgroup_prefix }
    }

    async fn capture(
        &self,
        request: v1::CaptureRequest,
        threads: &mut BTreeMap<&'static str, Blocking>,
    ) -> v1::CaptureResult {
        let v1::CaptureRequest { incident_id, vm_uid } = request;
        let at = self.clock.now();
        let until = Instant::now() + WITHIN;
        let place = Arc::new(self.place(&vm_uid));
        let mut sections = vec![self.findings(&vm_uid).await];
        let files = self.files();
        for reader in READERS {
            let (files, place) = (files.clone(), Arc::clone(&place));
            let left = until.saturating_duration_since(Instant::now());
            let thread = threads.entry(reader.name).or_default();
            let part = match thread.run(left, move || (reader.read)(&files, &place, at)).await {
                Ok(part) => part,
                Err(Late { for_secs }) => Part::lacking(format!("reading it has not returned for {for_secs} s")),
            };
            sections.push(section(reader.name, part, reader.limit_bytes));
        }
        let before = self.recorder.series(&vm_uid);
        if before.is_none() {
            let because = "too many VMs were suspects at once for the minutes before of each";
            sections.push(section("series", Part::lacking(because.to_owned()), 0));
        }
        v1::CaptureResult {
            incident_id,
            series: before.unwrap_or_default().into_iter().map(series).collect(),
            vm_uid,
            at: Some(at.into()),
            took_usec: u64::try_from(self.clock.now().usec_since(at)).unwrap_or(0),
            sections,
        }
    }

    /// Which processes and files are the VM's.
    fn place(&self, vm_uid: &str) -> Place {
        let launchers = Arc::clone(&self.launchers.borrow());
        let launcher = launchers.by_vmi(vm_uid).last().cloned();
        let mut pids: Vec<u32> =
            self.vms.running().into_iter().filter(|(_, process)| process.uid == vm_uid).map(|(pid, _)| pid).collect();
        if let Some(launcher) = &launcher {
            pids.extend(&launcher.qemu_pids);
        }
        pids.sort_unstable();
        pids.dedup();
        let domain = launcher.as_ref().map(|row| row.domain_name()).or_else(|| self.vms.name_of(vm_uid));
        Place { qemu_pids: pids, launcher, domain }
    }

    /// What this agent has to say of the VM, from its tracker.
    async fn findings(&self, vm_uid: &str) -> v1::CaptureSection {
        let (reply, view) = oneshot::channel();
        let asked = async {
            self.tracker.send(Ask::View(reply)).await.ok()?;
            view.await.ok()
        };
        let part = match tokio::time::timeout(VIEW_WITHIN, asked).await {
            Ok(Some(view)) => Part::whole(findings_of(&view, vm_uid)),
            Ok(None) | Err(_) => Part::lacking("the tracker does not answer".to_owned()),
        };
        section("findings", part, FINDINGS_BYTES)
    }
}

/// One line per finding of the VM: what, since when, why it is said.
fn findings_of(view: &View, vm_uid: &str) -> String {
    let own = Subject::vm(vm_uid);
    let line = |body: &Body| match body {
        Body::State(state) if state.subject == own => {
            let why = state.unknown_because.as_deref().or(state.evidence.first().map(|evidence| &*evidence.text));
            Some(format!("{} {} since {}: {}\n", state.code, state.status, seconds_of(state.since), why.unwrap_or("-")))
        }
        Body::Occurrence(one) if one.subject == own => {
            let why = one.evidence.first().map_or("-", |evidence| &*evidence.text);
            Some(format!("{} {} times, last {}: {why}\n", one.code, one.count, seconds_of(one.last)))
        }
        Body::State(_) | Body::Occurrence(_) | Body::Domain(_) | Body::Qemu(_) | Body::SubjectGone { .. } => None,
    };
    redact(&view.bodies.iter().filter_map(line).collect::<String>())
}

/// As the kernel's log counts.
fn seconds_of(at: kulprit_model::Moment) -> String {
    format!("{}.{:06} s after boot", at.boottime_usec / 1_000_000, at.boottime_usec.unsigned_abs() % 1_000_000)
}

fn section(name: &str, part: Part, limit_bytes: usize) -> v1::CaptureSection {
    let Part { mut text, lacks } = part;
    let mut lacks: Vec<String> = lacks.into_iter().collect();
    if text.len() > limit_bytes {
        let cut = (0..=limit_bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        lacks.push(format!("{} bytes more are left out", text.len() - cut));
        text.truncate(cut);
    }
    v1::CaptureSection { name: name.to_owned(), text, lacks: lacks.join("; ") }
}

fn series(series: Series) -> v1::CaptureSeries {
    let Series { figure, is_of_vm, end, values } = series;
    v1::CaptureSeries {
        name: format!("{} {}", if is_of_vm { "VM" } else { "node" }, figure.name),
        unit: figure.unit.to_owned(),
        end: Some(end.into()),
        values: values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect(),
    }
}

#[cfg(test)]
mod tests;
