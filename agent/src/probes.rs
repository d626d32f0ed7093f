//! The probes: when to look. What a look means is decided in `kulprit-judge`; what is remembered, in the tracker.
//!
//! One file and one line in [`PROBES`] make a probe. Flags, metrics, docs and the time limit for silence come from the table.
//! A probe is a task that sends a [`Look`] at least every [`ProbeSpec::look_every`], the blind ones too, until `stop`; with
//! [`ProbeContext::once`] it looks exactly once, sends that one look and returns.

mod beat;
mod blocking;
mod clock;
mod config;
mod container_log;
mod counters;
mod cpu_hardware;
mod descriptors;
mod domain;
mod filesystem;
mod journal;
mod kernel_log;
mod kubelet;
mod kubelet_setup;
mod kvm;
mod lane;
mod launcher;
mod launchers;
mod limits;
mod migration;
mod network;
mod npd;
mod pressure;
mod qemu;
mod runtime;
mod said;
mod security;
mod stuck_threads;
#[cfg(test)]
mod testing;
mod vm_index;
mod volumes;

use std::{collections::BTreeSet, fmt, future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use kulprit_daemon::{CancellationToken, Clock};
use kulprit_host::HostRoot;
use kulprit_judge::Verdict;
use kulprit_model::{Moment, Subject};
use tokio::sync::{mpsc, watch};

use crate::look::{Look, Sighting};
use crate::sacrifice::Sacrifice;

pub use beat::Beat;
pub(crate) use blocking::{Blocking, Late};
pub use config::{
    FilesystemConfig, LibvirtConfig, LimitsConfig, NetworkConfig, PressureConfig, ProbeConfig, VolumesConfig,
};
pub(crate) use container_log::{PODS, PodName, newest_logs};
pub use counters::{ProbeCounters, ProbeCounts};
pub use lane::Lane;
pub use launchers::{Launcher, LauncherCgroup, Launchers};
pub use network::PullFailures;
pub(crate) use npd::check_files as check_npd_files;
pub(crate) use runtime::runtime_version;
pub use vm_index::{DiskTarget, VmIndex, VmProcess};

/// UIDs of the VMs that central asked to look closer at.
pub type Suspects = BTreeSet<String>;

/// One probe of the table.
pub struct ProbeSpec {
    /// Its name, as in the catalogue's `probe` column, lower case with dashes.
    pub name: &'static str,
    /// What it answers, one sentence.
    pub meaning: &'static str,
    /// What it looks at, for the generated docs.
    pub sources: &'static str,
    /// What it needs to see all of that: privileges, namespaces, kernel.
    pub needs: &'static str,
    /// What is `Unknown` without.
    pub lost_without: &'static str,
    /// It sends a look at least this often; after three times as long without one, what it owns is `Unknown`.
    pub look_every: Duration,
    /// Starts it. The future ends when `stop` is cancelled, or after one look with `once`.
    pub spawn: fn(ProbeContext) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for ProbeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every probe of this agent.
pub const PROBES: &[ProbeSpec] = &[
    kubelet::SPEC,
    kubelet_setup::SPEC,
    runtime::SPEC,
    kvm::SPEC,
    cpu_hardware::SPEC,
    qemu::SPEC,
    launcher::SPEC,
    domain::SPEC,
    migration::SPEC,
    kernel_log::SPEC,
    journal::SPEC,
    container_log::SPEC,
    pressure::SPEC,
    limits::SPEC,
    filesystem::SPEC,
    volumes::SPEC,
    network::SPEC,
    clock::SPEC,
    security::SPEC,
    npd::SPEC,
];

/// What a probe is given.
#[derive(Clone, Debug)]
pub struct ProbeContext {
    /// The root of the host's file system as we see it.
    pub host: HostRoot,
    /// What to look at and how often.
    pub config: Arc<ProbeConfig>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where looks go; bounded, the probe waits while it is full.
    pub out: mpsc::Sender<Look>,
    /// Cancelled when the agent ends.
    pub stop: CancellationToken,
    /// VMs to look closer at.
    pub suspects: watch::Receiver<Arc<Suspects>>,
    /// Which process runs which VM; shared by the probes.
    pub vms: Arc<VmIndex>,
    /// The virt-launchers of the node; the `launcher` probe fills it, the others read it.
    pub launchers: Arc<watch::Sender<Arc<Launchers>>>,
    /// Images whose pull fails, heard from all looks; the `network` probe tries their registry.
    pub pulls: Arc<PullFailures>,
    /// When polls of this process wake up.
    pub beat: Beat,
    /// The thread on which the probes' short calls run in turn.
    pub lane: Lane,
    /// Where samples go that are worth a value a second.
    pub recorder: Arc<crate::recorder::Recorder>,
    /// Makes calls that may never return.
    pub sacrifice: Arc<Sacrifice>,
    /// What went wrong and how much was read; shared with the metrics.
    pub counters: Arc<ProbeCounters>,
    /// What the last [`Look::position`] of this probe was, if one was kept. Only those that follow a log have one.
    pub start_at: Option<String>,
    /// Look exactly once and return (`kulprit-agent check`).
    pub once: bool,
}

impl ProbeContext {
    /// Hands over a look; `false` when nobody takes looks any more or the agent ends.
    async fn send(&self, look: Look) -> bool {
        self.pulls.hear(&look.verdicts);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            sent = self.out.send(look) => sent.is_ok(),
        }
    }

    /// Rests until the next beat of `period`; `false` when there is no next look: one was asked for, or the agent ends.
    async fn rest(&self, period: Duration) -> bool {
        if self.once {
            return false;
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.beat.wait(period) => true,
        }
    }

    /// [`Self::send`], then [`Self::rest`].
    async fn send_and_rest(&self, look: Look, period: Duration) -> bool {
        self.send(look).await && self.rest(period).await
    }

    /// Starts a look: keeps the time it begins.
    fn begin(&self, probe: &'static str) -> LookDraft {
        let began = self.clock.now();
        LookDraft {
            began,
            look: Look {
                probe,
                at: began,
                took_usec: 0,
                blind_because: None,
                verdicts: Vec::new(),
                sightings: Vec::new(),
                position: None,
            },
        }
    }

    /// A source of blocking calls.
    fn blocking(&self) -> Blocking {
        Blocking::on(&self.lane)
    }

    /// A path below the host's root, as our own root sees it; for sockets, which cannot be opened through a [`HostRoot`].
    fn host_path(&self, path: &std::path::Path) -> PathBuf {
        self.host.display_path(path)
    }
}

/// A look under way.
#[derive(Debug)]
struct LookDraft {
    began: Moment,
    look: Look,
}

impl LookDraft {
    fn verdicts(mut self, verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        self.look.verdicts.extend(verdicts);
        self
    }

    fn sightings(mut self, sightings: impl IntoIterator<Item = Sighting>) -> Self {
        self.look.sightings.extend(sightings);
        self
    }

    fn gone(self, subjects: impl IntoIterator<Item = Subject>) -> Self {
        self.sightings(subjects.into_iter().map(Sighting::Gone))
    }

    fn position(mut self, position: Option<String>) -> Self {
        self.look.position = position;
        self
    }

    fn blind(mut self, because: impl Into<String>) -> Self {
        self.look.blind_because = Some(because.into());
        self
    }

    fn blind_if(self, because: Option<impl Into<String>>) -> Self {
        match because {
            Some(because) => self.blind(because),
            None => self,
        }
    }

    /// Ends the look.
    fn end(mut self, clock: &Clock) -> Look {
        self.look.at = clock.now();
        self.look.took_usec = u64::try_from(self.look.at.usec_since(self.began)).unwrap_or(0);
        self.look
    }
}

/// The text of an error with all its causes, `: ` between them, for `unknown_because`.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    kulprit_daemon::Chain(error).to_string()
}
