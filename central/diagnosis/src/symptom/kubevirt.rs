//! The rules from a VM's life in Kubernetes to its symptom.
//!
//! Each phase has its clock ([`Settings`]); what stays in a phase beyond it is stuck. The onset is the beginning of the phase: what
//! goes wrong while a VM starts is the cause of its being stuck, not a consequence. A VM that somebody names is in trouble from the
//! suspect clock on, and where its objects have no times, from the state alone: nobody asks about a VM that merely passes through.
//! Source: `printableStatus` and phases of KubeVirt's `pkg/virt-controller/watch`.

use kulprit_cluster::{ClusterVm, Life};
use kulprit_model::{
    Finding, FindingCode, Occurrence, Side, State, Status,
    attribute::{OPERATION, REASON, SIDE, SIGNATURE},
    said::operation,
};

use super::SymptomId;
use crate::{
    identity::{Identity, Mention},
    indexed::Indexed,
    snapshot::Settings,
    words,
};

/// From here on a VM that is named counts as stuck in a phase that is normal for moments only.
pub(super) const SUSPECT_USEC: i64 = 30_000_000;

/// KubeVirt's default of `terminationGracePeriodSeconds`.
const GRACE_SECS: i64 = 30;

/// A running VM whose node is not ready is only taken for unresponsive after this: kubelets miss a heartbeat now and then.
const NODE_LOST_USEC: i64 = 60_000_000;

/// `printableStatus` values that are errors.
const ERROR_STATUSES: &[&str] = &[
    "CrashLoopBackOff",
    "Unknown",
    "ErrorUnschedulable",
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrorPvcNotFound",
    "DataVolumeError",
];

/// What `kubectl get pods` shows of a pod that does not come up by itself, apart from prefixes such as `Init:`.
const POD_ERRORS: &[&str] = &[
    "CrashLoopBackOff",
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerError",
    "CreateContainerConfigError",
    "RunContainerError",
    "Error",
    "OOMKilled",
    "UnexpectedAdmissionError",
    "Evicted",
    "OutOfcpu",
    "OutOfmemory",
    "NodeAffinity",
    "ContainerStatusUnknown",
];

/// So many deadlines of one command are no hiccup: virt-handler repeats it every 20 s.
const MANY_UNANSWERED: u64 = 3;

/// What virt-handler says of a launcher whose command socket nobody serves. Source: KubeVirt `domain-watcher.go`, `cache.go`.
pub(crate) const DEAD_SOCKET: [&str; 2] = ["launcher-socket-unresponsive", "launcher-mark-failed"];

/// What it says of a launcher that answers no command.
pub(crate) const UNANSWERED: &str = "launcher-command-timeout";

/// What is done to a VM when it starts, and hardly later.
const STEPS_OF_A_START: [&str; 13] = [
    operation::SCHEDULE,
    operation::CREATE_POD,
    operation::CREATE_SANDBOX,
    operation::CREATE_CONTAINER,
    operation::PULL,
    operation::MOUNT,
    operation::MAP,
    operation::ATTACH,
    operation::PROVISION,
    operation::SETUP_NETWORK,
    operation::DEFINE_DOMAIN,
    operation::START_DOMAIN,
    operation::SYNC_VMI,
];

/// Whether nothing of a VM can become a symptom by time alone: it runs well, or is stopped and is to be.
#[must_use]
pub fn is_at_rest(life: &Life) -> bool {
    let is_going = life.vm_deleted_usec.is_some() || life.vmi_deleted_usec.is_some() || life.evacuation.is_some();
    let is_migrating = life.migration.as_ref().is_some_and(|migration| migration.outcome.is_none());
    let is_well = life.phase.as_deref() == Some("Running")
        && life.paused_reason.is_none()
        && life.not_ready_reason.is_none()
        && life.printable_status.as_deref().is_none_or(|status| status == "Running");
    let is_off = !life.has_vmi && life.wants_to_run != Some(true) && life.launcher_phase.is_none();
    !is_going && !is_migrating && (is_well || is_off)
}

/// A symptom before it has its subject.
pub(super) struct Found {
    pub(super) id: SymptomId,
    pub(super) since_usec: Option<i64>,
    pub(super) text: String,
    pub(super) migration: Option<String>,
}

/// One VM in the light of its clocks.
pub(super) struct Clocks<'a> {
    pub(super) vm: &'a ClusterVm,
    pub(super) life: &'a Life,
    pub(super) snapshot: &'a Indexed<'a>,
    pub(super) settings: &'a Settings,
    pub(super) now_usec: i64,
    pub(super) is_named: bool,
}

impl<'a> Clocks<'a> {
    pub(super) fn new(snapshot: &'a Indexed<'a>, vm: &'a ClusterVm, is_named: bool) -> Self {
        let now_usec = snapshot.cluster_seen_usec();
        Self { vm, life: &vm.life, snapshot, settings: &snapshot.settings, now_usec, is_named }
    }

    /// What the objects show before anything is asked of the host.
    pub(super) fn most_telling(&self) -> Option<Found> {
        self.going()
            .or_else(|| self.in_error())
            .or_else(|| self.stuck_starting())
            .or_else(|| self.ended())
            .or_else(|| self.paused())
    }

    /// Stopped or deleted, and not gone.
    fn going(&self) -> Option<Found> {
        let life = self.life;
        let printable = life.printable_status.as_deref();
        if life.vm_deleted_usec.is_some() || printable == Some("Terminating") {
            let asked = earliest([life.vm_deleted_usec, life.vmi_deleted_usec]).or(life.printable_since_usec);
            return self.is_beyond_grace(asked).then(|| {
                let text = format!("the VM was deleted{} and is still there", self.ago(asked));
                found(SymptomId::StuckTerminating, asked, text)
            });
        }
        if life.vmi_deleted_usec.is_some() || printable == Some("Stopping") {
            let asked = life.vmi_deleted_usec.or(life.printable_since_usec);
            let is_vmi_alone = life.has_vmi && !life.has_vm && printable.is_none();
            let (id, what) = if is_vmi_alone {
                (SymptomId::StuckTerminating, "the VMI was deleted")
            } else {
                (SymptomId::StuckStopping, "the VM was asked to stop")
            };
            return self
                .is_beyond_grace(asked)
                .then(|| found(id, asked, format!("{what}{} and is still there", self.ago(asked))));
        }
        let is_halted = life.wants_to_run == Some(false) && life.has_vmi && self.is_phase(&["Running", "Scheduled"]);
        if is_halted && self.is_named {
            let text = "the VM is not to run, and its VMI runs on".to_owned();
            return Some(found(SymptomId::StuckStopping, life.printable_since_usec, text));
        }
        let is_left_behind = life.launcher_phase.as_deref() == Some("Terminating")
            && life.migration.as_ref().is_none_or(|migration| migration.outcome != Some(true));
        let since = life.launcher_since_usec;
        (is_left_behind && self.is_beyond_grace(since)).then(|| {
            let text = format!("its launcher pod was deleted{} and is still there", self.ago(since));
            found(SymptomId::StuckTerminating, since, text)
        })
    }

    fn in_error(&self) -> Option<Found> {
        let life = self.life;
        if let Some(status) = life.printable_status.as_deref()
            && ERROR_STATUSES.contains(&status)
        {
            let since = life.printable_since_usec.or_else(|| self.begin_of_start());
            return Some(found(SymptomId::InError, since, format!("the VM is shown {status}")));
        }
        let status = life.launcher_status.as_deref()?;
        let word = status.rsplit(':').next().unwrap_or(status);
        let is_up = self.is_phase(&["Running", "Succeeded"]) || life.launcher_phase.as_deref() == Some("Succeeded");
        (POD_ERRORS.contains(&word) && !is_up).then(|| {
            let since = life.launcher_since_usec.or_else(|| self.begin_of_start());
            found(SymptomId::InError, since, format!("its launcher pod is shown {status}"))
        })
    }

    fn stuck_starting(&self) -> Option<Found> {
        let life = self.life;
        let starting = |since: Option<i64>, limit_usec: i64, what: String| {
            self.is_beyond(since, limit_usec)
                .then(|| found(SymptomId::StuckStarting, since, format!("{what}{}", self.for_so_long(since))))
        };
        // The clock of one that waits for its volumes: not while they fill, and from then on anew.
        let waiting = |since: Option<i64>, what: String| {
            let since = self.filled_usec().max(since);
            if self.is_filling() { None } else { starting(since, self.settings.pending_usec, what) }
        };
        if life.has_vmi {
            let limit = match life.phase.as_deref() {
                Some("" | "Pending") => Some(self.settings.pending_usec),
                // A receiver without a migration waits for whoever is to send it one.
                Some("WaitingForSync") if !self.is_migrating() && !self.is_named => None,
                Some("Scheduling" | "WaitingForSync") => Some(self.settings.scheduling_usec),
                Some("Scheduled") => Some(self.settings.scheduled_usec),
                _ => None,
            };
            if let (Some(limit), Some(phase)) = (limit, life.phase.as_deref()) {
                let shown = if phase.is_empty() { "Pending" } else { phase };
                let since = earliest([life.phase_since_usec, self.provisioning_since()]).or(life.created_usec);
                let what = format!("the VMI is {shown}");
                return if shown == "Pending" { waiting(since, what) } else { starting(since, limit, what) };
            }
        }
        // A VMI that ran and is over is what happened; that the VM is started again comes after it.
        let is_after_its_end = self.is_phase(&["Succeeded", "Failed"]) && life.has_run == Some(true);
        if let Some(status @ ("Starting" | "Provisioning" | "WaitingForVolumeBinding")) =
            life.printable_status.as_deref().filter(|_| !is_after_its_end)
        {
            let since = life.printable_since_usec.or(life.phase_since_usec).or_else(|| self.begin_of_start());
            let what = format!("the VM is {status}");
            return match status {
                "Starting" => starting(since, self.settings.scheduling_usec, what),
                _ => waiting(since, what),
            };
        }
        let is_up = self.is_phase(&["Running", "Succeeded", "Failed"]);
        if life.launcher_phase.as_deref() == Some("Pending") && !is_up {
            return starting(
                life.launcher_since_usec,
                self.settings.scheduling_usec,
                "its launcher pod is Pending".to_owned(),
            );
        }
        let has_nothing_to_run = life.has_vm
            && !life.has_vmi
            && life.wants_to_run == Some(true)
            && life.printable_status.as_deref().is_none_or(|status| status == "Stopped");
        let since = life.printable_since_usec.or(life.created_usec);
        if has_nothing_to_run {
            return starting(since, self.settings.pending_usec, "the VM is to run and has no VMI".to_owned());
        }
        None
    }

    /// Whether its volumes are being filled and none is seen to fail: an import takes as long as it takes. Who names the VM does not
    /// wait for it.
    fn is_filling(&self) -> bool {
        // One that is only scheduled may wait for ever.
        let fills = self.states(FindingCode::DataVolumeProgressing).any(|state| {
            let phase = state.attributes.get(REASON).unwrap_or_default();
            state.status == Status::Present && phase.ends_with("InProgress")
        });
        fills && !self.is_named && self.present_since(FindingCode::DataVolumeFailing).is_none()
    }

    /// When the last of its volumes was full, if that is known.
    fn filled_usec(&self) -> Option<i64> {
        let full = self
            .states(FindingCode::DataVolumeProgressing)
            .filter(|state| state.status == Status::Absent)
            .map(|state| (state.since.wall_usec, state.looked.wall_usec));
        let known = full.filter(|(since, looked)| since < looked).map(|(since, _)| since);
        known.max().filter(|_| !self.is_named)
    }

    /// Its VMI is over, and nobody asked for it.
    fn ended(&self) -> Option<Found> {
        let life = self.life;
        // A guest that does not shut down within its grace period is ended, and its VMI Failed: that was asked for.
        let asked = earliest([life.vm_deleted_usec, life.vmi_deleted_usec]);
        if asked.is_some_and(|asked| life.phase_since_usec.is_none_or(|ended| asked < ended)) {
            return None;
        }
        let is_over = match life.phase.as_deref() {
            Some("Failed") => life.wants_to_run != Some(false) || self.is_named,
            // A guest that shut itself down is only strange where the VM is to run on, and is named.
            Some("Succeeded") => life.wants_to_run == Some(true) && self.is_named,
            _ => false,
        };
        is_over.then(|| {
            let phase = life.phase.as_deref().unwrap_or_default();
            if phase == "Failed" && life.has_run == Some(false) {
                return found(SymptomId::InError, self.begin_of_start(), "the VMI failed before it ran".to_owned());
            }
            found(SymptomId::StoppedUnexpectedly, life.phase_since_usec, format!("the VMI is {phase}"))
        })
    }

    fn paused(&self) -> Option<Found> {
        let life = self.life;
        let since = life.paused_since_usec.or(life.printable_since_usec);
        match life.paused_reason.as_deref() {
            Some("PausedByUser") => None,
            Some("PausedByMigrationMonitor") if self.is_migrating() => None,
            Some(reason) => {
                Some(found(SymptomId::PausedUnexpectedly, since, format!("the VMI is paused, reason {reason}")))
            }
            None if life.printable_status.as_deref() == Some("Paused") && self.is_named => {
                Some(found(SymptomId::PausedUnexpectedly, since, "the VM is shown Paused".to_owned()))
            }
            None => None,
        }
    }

    fn is_shown_running(&self) -> bool {
        self.is_phase(&["Running", "Unknown"])
            || self.life.phase.is_none() && self.life.printable_status.as_deref() == Some("Running")
    }

    /// What the objects show of a VM that is shown running and is not well.
    pub(super) fn unresponsive(&self) -> Option<Found> {
        let life = self.life;
        if !self.is_shown_running() {
            return None;
        }
        let unresponsive = |since, text: String| Some(found(SymptomId::Unresponsive, since, text));
        if self.is_phase(&["Unknown"]) {
            return unresponsive(life.phase_since_usec, "the VMI's phase is Unknown".to_owned());
        }
        for code in [FindingCode::LauncherGone, FindingCode::LauncherDefunct, FindingCode::TwoQemus] {
            if let Some(since) = self.present_since(code) {
                let text = code.spec().meaning.trim_end_matches('.').to_owned();
                return unresponsive(since, text);
            }
        }
        if let Some(since) = self.socket_dead_since().filter(|since| !self.may_be_of_failed_migration(*since)) {
            return unresponsive(Some(since), "virt-handler finds its launcher's command socket dead".to_owned());
        }
        if let Some(since) = self.unanswered_since().filter(|since| !self.may_be_of_failed_migration(*since)) {
            return unresponsive(Some(since), "its launcher answers no command of virt-handler".to_owned());
        }
        if let Some(since) = self.node_lost_since() {
            let node = self.vm.hosting.as_deref().unwrap_or_default();
            return unresponsive(Some(since), format!("it is shown Running, and its node {node} is not ready"));
        }
        // A VM that is going, by its own deletion or by its launcher's, is not ready from the first moment on; its clock is the grace period.
        let is_launcher_going = life.launcher_phase.as_deref() == Some("Terminating");
        let is_going = life.vm_deleted_usec.is_some()
            || life.vmi_deleted_usec.is_some()
            || is_launcher_going && !self.is_beyond_grace(life.launcher_since_usec);
        let reason = life.not_ready_reason.as_deref().filter(|_| !is_going)?;
        let is_meant = match reason {
            // virt-controller calls it ready a moment after virt-handler has called it Running.
            "GuestNotRunning" => self.is_beyond(life.phase_since_usec, SUSPECT_USEC),
            "PodNotExists" | "PodTerminating" | "PodConditionMissing" => true,
            _ => false, // KubeVirt's word, not ours
        };
        if is_meant { unresponsive(None, format!("the VMI is Running and not ready: {reason}")) } else { None }
    }

    /// Its guest's own word alone, where the VM is named. Asked last.
    pub(super) fn guest_agent_lost(&self) -> Option<Found> {
        let since =
            self.present_since(FindingCode::GuestAgentLost).filter(|_| self.is_named && self.is_shown_running())?;
        Some(found(SymptomId::Unresponsive, since, "its guest agent does not answer any more".to_owned()))
    }

    /// A VM of which nothing but texts is known, and they tell lately of a start that fails: excerpts are often all there is.
    pub(super) fn start_by_texts(&self) -> Option<Found> {
        let life = self.life;
        let is_unknown = !life.has_vm && !life.has_vmi && life.launcher_phase.is_none() && life.migration.is_none();
        if !self.is_named || !is_unknown {
            return None;
        }
        let is_of_start = |occurrence: &&Occurrence| {
            let attributes = &occurrence.attributes;
            occurrence.code == FindingCode::ErrorSaid
                && attributes.get(OPERATION).is_some_and(|name| STEPS_OF_A_START.contains(&name))
                && !matches!(attributes.get(SIDE), Some("source" | "target"))
                && self.now_usec.saturating_sub(occurrence.last.wall_usec) <= self.settings.occurrence_fresh_usec
        };
        let told = self.vm.findings.iter().filter(|of| !matches!(of.side, Some(Side::Source | Side::Target)));
        let of_objects = told.filter_map(|of| match &of.finding {
            Finding::Occurrence(occurrence) => Some(occurrence),
            Finding::State(_) => None,
        });
        let since = of_objects.filter(is_of_start).map(|occurrence| occurrence.first.wall_usec).min()?;
        let text = "its status is not known, and what is told of it is of a start that fails".to_owned();
        Some(found(SymptomId::StuckStarting, Some(since), text))
    }

    /// Since when virt-handler says, and said lately, that nobody serves the launcher's socket. It dials every 11 s.
    fn socket_dead_since(&self) -> Option<i64> {
        let me = Identity::of_cluster_vm(self.vm);
        let of_objects = self.vm.findings.iter().filter_map(|of| match &of.finding {
            Finding::Occurrence(occurrence) => Some(occurrence),
            Finding::State(_) => None,
        });
        let of_nodes = self.snapshot.of_sockets(self.vm);
        let is_said = |occurrence: &&Occurrence| {
            occurrence.code == FindingCode::ErrorSaid
                && occurrence.attributes.get(SIGNATURE).is_some_and(|name| DEAD_SOCKET.contains(&name))
                && me.mention(&occurrence.attributes) == Mention::Named
                && self.now_usec.saturating_sub(occurrence.last.wall_usec) <= self.settings.occurrence_fresh_usec
        };
        of_objects.chain(of_nodes).filter(is_said).map(|occurrence| occurrence.first.wall_usec).min()
    }

    /// Since when virt-handler's commands to the launcher run into their deadline, again and again and lately.
    fn unanswered_since(&self) -> Option<i64> {
        let of_objects = self.vm.findings.iter().filter_map(|of| match &of.finding {
            Finding::Occurrence(occurrence) => Some(occurrence),
            Finding::State(_) => None,
        });
        let of_nodes = self.snapshot.of_sockets(self.vm);
        let is_said = |occurrence: &&Occurrence| {
            let age_usec = self.now_usec.saturating_sub(occurrence.last.wall_usec);
            occurrence.code == FindingCode::ErrorSaid
                && occurrence.attributes.get(SIGNATURE) == Some(UNANSWERED)
                && occurrence.count >= MANY_UNANSWERED
                && age_usec <= self.settings.occurrence_fresh_usec
        };
        of_objects.chain(of_nodes).filter(is_said).map(|occurrence| occurrence.first.wall_usec).min()
    }

    /// Whether what virt-handlers say of a launcher since then may be of the target that a migration left when it failed just now.
    fn may_be_of_failed_migration(&self, since_usec: i64) -> bool {
        self.life.migration.as_ref().is_some_and(|migration| {
            let is_new = |ended: i64| self.now_usec.saturating_sub(ended) <= 2 * self.settings.occurrence_fresh_usec;
            migration.outcome == Some(false)
                && migration.ended_usec.is_none_or(is_new)
                && migration.created_usec.is_none_or(|asked| asked <= since_usec)
        })
    }

    fn node_lost_since(&self) -> Option<i64> {
        let hosting = self.vm.hosting.as_deref()?;
        let node = self.snapshot.cluster_nodes_named(hosting).first()?;
        let since = node.findings.iter().find_map(|finding| match finding {
            Finding::State(state) if state.code == FindingCode::NodeNotReady && state.status == Status::Present => {
                Some(state.since.wall_usec)
            }
            Finding::State(_) | Finding::Occurrence(_) => None,
        })?;
        (self.is_named || self.now_usec.saturating_sub(since) >= NODE_LOST_USEC).then_some(since)
    }

    /// States of this code that its objects show.
    pub(super) fn states(&self, code: FindingCode) -> impl Iterator<Item = &'a State> {
        let states = self.vm.findings.iter().filter_map(|of| match &of.finding {
            Finding::State(state) => Some(state),
            Finding::Occurrence(_) => None,
        });
        states.filter(move |state| state.code == code)
    }

    /// Since when a state of the VM is present, by its objects or by a look of any node: `Some(None)` where that is not known.
    #[expect(clippy::option_option, reason = "present since an unknown time is not the same as not present")]
    pub(super) fn present_since(&self, code: FindingCode) -> Option<Option<i64>> {
        let uids = std::iter::once(&self.vm.uid).chain(&self.vm.uids);
        let of_nodes = uids.flat_map(|uid| self.snapshot.present(uid)).map(|(_, state)| *state);
        let mut present: Vec<_> = self
            .states(code)
            .chain(of_nodes)
            .filter(|state| state.code == code && state.status == Status::Present)
            .map(|state| {
                let is_known = state.attributes.get(kulprit_model::attribute::FIRST_LOOK).is_none();
                is_known.then_some(state.since.wall_usec)
            })
            .collect();
        present.sort_unstable();
        present.into_iter().next()
    }

    fn is_phase(&self, phases: &[&str]) -> bool {
        self.life.phase.as_deref().is_some_and(|phase| phases.contains(&phase))
    }

    pub(super) fn is_migrating(&self) -> bool {
        self.life.migration.as_ref().is_some_and(|migration| {
            migration.outcome.is_none() && !matches!(migration.phase.as_deref(), Some("Succeeded" | "Failed"))
        })
    }

    /// When the present attempt to start began, as far as objects tell.
    fn begin_of_start(&self) -> Option<i64> {
        let life = self.life;
        if self.is_phase(&["Running"]) {
            None
        } else {
            earliest([life.phase_since_usec, life.launcher_since_usec]).or(life.created_usec)
        }
    }

    /// A VM that waits for its volumes is in that state since its status says so, however often its VMI is made anew.
    fn provisioning_since(&self) -> Option<i64> {
        let is_provisioning =
            matches!(self.life.printable_status.as_deref(), Some("Provisioning" | "WaitingForVolumeBinding"));
        self.life.printable_since_usec.filter(|_| is_provisioning)
    }

    /// Whether a phase has lasted for its clock; from its mere state where no time is known and the VM is named.
    pub(super) fn is_beyond(&self, since: Option<i64>, limit_usec: i64) -> bool {
        let limit = if self.is_named { limit_usec.min(SUSPECT_USEC) } else { limit_usec };
        since.map_or(self.is_named, |since| self.now_usec.saturating_sub(since) >= limit)
    }

    /// The same for a stop: the guest has its grace period. Who names a VM does not wait for it.
    fn is_beyond_grace(&self, asked: Option<i64>) -> bool {
        let grace_usec = self.life.grace_secs.unwrap_or(GRACE_SECS).max(0).saturating_mul(1_000_000);
        self.is_beyond(asked, grace_usec.saturating_add(self.settings.stop_margin_usec))
    }

    pub(super) fn ago(&self, at: Option<i64>) -> String {
        at.map(|at| format!(" {} ago", words::duration(self.now_usec.saturating_sub(at)))).unwrap_or_default()
    }

    pub(super) fn for_so_long(&self, since: Option<i64>) -> String {
        since.map(|since| format!(" for {}", words::duration(self.now_usec.saturating_sub(since)))).unwrap_or_default()
    }
}

/// Whether the VM's objects were seen and show a normal life: running, ready and left alone, or off because it is to be off.
pub(crate) fn is_shown_well(vm: &ClusterVm) -> bool {
    let life = &vm.life;
    let (status, phase) = (life.printable_status.as_deref(), life.phase.as_deref());
    let is_running = matches!(status, Some("Running" | "Migrating")) || phase == Some("Running");
    let is_off = life.wants_to_run != Some(true) && (status == Some("Stopped") || phase == Some("Succeeded"));
    let has_complaint = vm.findings.iter().any(|of| {
        matches!(&of.finding, Finding::State(state)
            if state.code == FindingCode::VmiPausedBy && state.status == Status::Present
                && state.attributes.get(REASON) != Some("PausedByUser"))
    });
    let is_ready = life.not_ready_reason.is_none() || life.paused_reason.as_deref() == Some("PausedByUser");
    is_off || is_running && is_ready && life.not_synchronized.is_none() && !has_complaint
}

pub(super) fn earliest<const N: usize>(times: [Option<i64>; N]) -> Option<i64> {
    times.into_iter().flatten().min()
}

pub(super) const fn found(id: SymptomId, since_usec: Option<i64>, text: String) -> Found {
    Found { id, since_usec, text, migration: None }
}
