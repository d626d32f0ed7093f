//! The rules from a VM's life in Kubernetes to its symptom.
//!
//! Each phase has its clock ([`Settings`]); what stays in a phase beyond it is stuck. The onset is the beginning of the phase: what
//! goes wrong while a VM starts is the cause of its being stuck, not a consequence. A VM that somebody names is in trouble from the
//! suspect clock on, and where its objects have no times, from the state alone: nobody asks about a VM that merely passes through.
//! Source: `printableStatus` and phases of KubeVirt's `pkg/virt-controller/watch`.

use kulprit_cluster::{ClusterVm, Life, MigrationLife};
use kulprit_model::{Finding, FindingCode, Status, attribute::REASON};

use super::SymptomId;
use crate::{
    snapshot::{Settings, Snapshot},
    words,
};

/// From here on a VM that is named counts as stuck in a phase that is normal for moments only.
const SUSPECT_USEC: i64 = 30_000_000;

/// KubeVirt's default of `terminationGracePeriodSeconds`.
const GRACE_SECS: i64 = 30;

/// So many migrations in 24 h are too many.
const MANY_MIGRATIONS: u32 = 12;

/// KubeVirt keeps the newest five finished migrations of a VM: whoever asks about a VM with that many may have had any number.
const KEPT_MIGRATIONS: u32 = 5;

/// A failed migration is news for so long.
const FAILED_IS_NEWS_USEC: i64 = 24 * 3_600 * 1_000_000;

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

/// A symptom before it has its subject.
pub(super) struct Found {
    pub(super) id: SymptomId,
    pub(super) since_usec: Option<i64>,
    pub(super) text: String,
    pub(super) migration: Option<String>,
}

/// One VM in the light of its clocks.
pub(super) struct Clocks<'a> {
    vm: &'a ClusterVm,
    life: &'a Life,
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    now_usec: i64,
    is_named: bool,
}

impl<'a> Clocks<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, vm: &'a ClusterVm, is_named: bool) -> Self {
        let now_usec = snapshot.reference_wall_usec;
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

    /// What the objects show of a migration that is under way or wanted. Asked after the host's own word on a VM that stopped or
    /// paused.
    pub(super) fn of_this_migration(&self) -> Option<Found> {
        self.stuck_migrating().or_else(|| self.evacuation_blocked())
    }

    /// What the objects show of migrations that are over. Asked after the host's word on a VM that is hung now.
    pub(super) fn of_past_migrations(&self) -> Option<Found> {
        self.too_many_migrations().or_else(|| self.failed(self.life.migration.as_ref()?))
    }

    /// The symptom of a migration that was named. `None`: it progresses or has succeeded.
    pub(super) fn of_named_migration(&self, name: &str) -> Option<Found> {
        let Some(migration) = &self.life.migration else {
            return Some(found(SymptomId::StuckMigrating, None, format!("nothing is known of the migration {name}")));
        };
        if migration.outcome.is_none() && migration.phase.is_none() && migration.failure_reason.is_none() {
            let since = migration.created_usec;
            return Some(found(SymptomId::StuckMigrating, since, format!("no phase of the migration {name} is known")));
        }
        self.failed(migration).or_else(|| self.stuck_migrating())
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
            && !life.migration.as_ref().is_some_and(|migration| migration.outcome == Some(true));
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
        let is_up = self.is_phase(&["Running"]) || life.launcher_phase.as_deref() == Some("Succeeded");
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
        if life.has_vmi {
            let limit = match life.phase.as_deref() {
                Some("" | "Pending") => Some(self.settings.pending_usec),
                Some("Scheduling" | "WaitingForSync") => Some(self.settings.scheduling_usec),
                Some("Scheduled") => Some(self.settings.scheduled_usec),
                _ => None,
            };
            if let (Some(limit), Some(phase)) = (limit, life.phase.as_deref()) {
                let shown = if phase.is_empty() { "Pending" } else { phase };
                let since = earliest([life.phase_since_usec, self.provisioning_since()]).or(life.created_usec);
                return starting(since, limit, format!("the VMI is {shown}"));
            }
        }
        if let Some(status @ ("Starting" | "Provisioning" | "WaitingForVolumeBinding")) =
            life.printable_status.as_deref()
        {
            let since = life.printable_since_usec.or(life.phase_since_usec).or_else(|| self.begin_of_start());
            let limit = if status == "Starting" { self.settings.scheduling_usec } else { self.settings.pending_usec };
            return starting(since, limit, format!("the VM is {status}"));
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

    /// Its VMI is over, and nobody asked for it.
    fn ended(&self) -> Option<Found> {
        let life = self.life;
        let is_over = match life.phase.as_deref() {
            Some("Failed") => life.wants_to_run != Some(false) || self.is_named,
            // A guest that shut itself down is only strange where the VM is to run on, and is named.
            Some("Succeeded") => life.wants_to_run == Some(true) && self.is_named,
            _ => false,
        };
        is_over.then(|| {
            let phase = life.phase.as_deref().unwrap_or_default();
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

    fn stuck_migrating(&self) -> Option<Found> {
        let migration = self.life.migration.as_ref()?;
        if migration.outcome.is_some() {
            return None;
        }
        let phase = migration.phase.as_deref()?;
        let created = earliest([migration.created_usec, migration.phase_since_usec]);
        let since = match phase {
            "Succeeded" | "Failed" => return None,
            "Running" => {
                let since = migration.started_usec.or(migration.phase_since_usec);
                let has_stalled =
                    [FindingCode::MigrationNoBytes, FindingCode::MigrationDirtying, FindingCode::MigrationPeerSilent];
                let stalled = has_stalled.into_iter().find_map(|code| self.present_since(code));
                let progresses = self.present_since(FindingCode::MigrationProgressing).is_some();
                let age = since.map(|since| self.now_usec.saturating_sub(since));
                // Nobody who lets a migration take minutes calls it stuck; without a look at its job only long ones are.
                let is_long = age.map_or(self.is_named, |age| {
                    let limit = if self.is_named { SUSPECT_USEC } else { 10 * SUSPECT_USEC };
                    age >= limit
                });
                if stalled.is_none() && (progresses || !is_long) {
                    return None;
                }
                since
            }
            // Everything before: the clock runs from the request, and each phase starts it anew.
            _ => {
                let since = migration.phase_since_usec.or(migration.created_usec);
                let is_asked_long_ago = created
                    .is_some_and(|created| self.is_named && self.now_usec.saturating_sub(created) >= SUSPECT_USEC);
                if !is_asked_long_ago && !self.is_beyond(since, self.settings.migration_phase_usec) {
                    return None;
                }
                since
            }
        };
        let onset = earliest([created, since]);
        let text = format!("{} is {phase}{}", migration_name(migration), self.for_so_long(since));
        Some(of_migration(SymptomId::StuckMigrating, onset, text, migration))
    }

    fn failed(&self, migration: &MigrationLife) -> Option<Found> {
        let is_failed = migration.outcome == Some(false)
            || migration.outcome.is_none()
                && (migration.phase.as_deref() == Some("Failed") || migration.failure_reason.is_some());
        let ended = migration.ended_usec.or(migration.phase_since_usec);
        let is_news = ended.is_none_or(|ended| self.now_usec.saturating_sub(ended) <= FAILED_IS_NEWS_USEC);
        (is_failed && is_news).then(|| {
            let why = migration.failure_reason.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let text = format!("{} failed{}{why}", migration_name(migration), self.ago(ended));
            of_migration(SymptomId::MigrationFailed, ended, text, migration)
        })
    }

    fn too_many_migrations(&self) -> Option<Found> {
        let (n_succeeded, n_failed) = self.life.n_migrations_24h;
        let n = n_succeeded.saturating_add(n_failed);
        let is_many = n >= MANY_MIGRATIONS
            || self.present_since(FindingCode::MigrationsMany).is_some()
            || self.is_named && n >= KEPT_MIGRATIONS;
        is_many.then(|| {
            let text = format!("{n} migrations in 24 h are known: {n_succeeded} succeeded, {n_failed} failed");
            found(SymptomId::ExcessiveMigrations, None, text)
        })
    }

    fn evacuation_blocked(&self) -> Option<Found> {
        let (node, since) = match &self.life.evacuation {
            Some((node, since)) => (node.as_str(), *since),
            None => ("its node", self.present_since(FindingCode::EvictionPending)?),
        };
        let has_left = self.vm.hosting.as_deref().is_some_and(|hosting| node != "its node" && hosting != node);
        let migration = self.life.migration.as_ref();
        let is_new = self.is_migrating() && !self.is_beyond(since, self.settings.pending_usec);
        if has_left || is_new || !self.is_beyond(since, self.settings.scheduling_usec) {
            return None;
        }
        let text = format!("it is to leave {node}{}, and is still there", self.for_so_long(since));
        let name =
            migration.filter(|migration| migration.outcome != Some(true)).map(|migration| migration.name.clone());
        Some(Found { id: SymptomId::EvacuationBlocked, since_usec: since, text, migration: name })
    }

    /// What the objects show of a VM that is shown running and is not well. Asked last.
    pub(super) fn unresponsive(&self) -> Option<Found> {
        let life = self.life;
        let is_shown_running = self.is_phase(&["Running", "Unknown"])
            || life.phase.is_none() && life.printable_status.as_deref() == Some("Running");
        if !is_shown_running {
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
        if let Some(since) = self.node_lost_since() {
            let node = self.vm.hosting.as_deref().unwrap_or_default();
            return unresponsive(Some(since), format!("it is shown Running, and its node {node} is not ready"));
        }
        if let Some(reason @ ("GuestNotRunning" | "PodNotExists" | "PodTerminating" | "PodConditionMissing")) =
            life.not_ready_reason.as_deref()
        {
            return unresponsive(None, format!("the VMI is Running and not ready: {reason}"));
        }
        let agent_lost = self.present_since(FindingCode::GuestAgentLost).filter(|_| self.is_named);
        agent_lost.and_then(|since| unresponsive(since, "its guest agent does not answer any more".to_owned()))
    }

    fn node_lost_since(&self) -> Option<i64> {
        let hosting = self.vm.hosting.as_deref()?;
        let node = self.snapshot.cluster_nodes.iter().find(|node| node.name == hosting)?;
        let since = node.findings.iter().find_map(|finding| match finding {
            Finding::State(state) if state.code == FindingCode::NodeNotReady && state.status == Status::Present => {
                Some(state.since.wall_usec)
            }
            Finding::State(_) | Finding::Occurrence(_) => None,
        })?;
        (self.is_named || self.now_usec.saturating_sub(since) >= NODE_LOST_USEC).then_some(since)
    }

    /// Since when a state of the VM is present, by its objects or by a look of any node: `Some(None)` where that is not known.
    #[expect(clippy::option_option, reason = "present since an unknown time is not the same as not present")]
    fn present_since(&self, code: FindingCode) -> Option<Option<i64>> {
        let of_objects = self.vm.findings.iter().filter_map(|of| match &of.finding {
            Finding::State(state) => Some(state),
            Finding::Occurrence(_) => None,
        });
        let is_own = |uid: &str| self.vm.uid == uid || self.vm.uids.iter().any(|own| own == uid);
        let of_nodes = self
            .snapshot
            .nodes
            .iter()
            .filter(|node| node.is_reporting)
            .flat_map(|node| &node.states)
            .filter(|state| state.subject.vm_uid().is_some_and(is_own));
        let mut present: Vec<_> = of_objects
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

    fn is_migrating(&self) -> bool {
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
    fn is_beyond(&self, since: Option<i64>, limit_usec: i64) -> bool {
        let limit = if self.is_named { limit_usec.min(SUSPECT_USEC) } else { limit_usec };
        since.map_or(self.is_named, |since| self.now_usec.saturating_sub(since) >= limit)
    }

    /// The same for a stop: the guest has its grace period. Who names a VM does not wait for it.
    fn is_beyond_grace(&self, asked: Option<i64>) -> bool {
        let grace_usec = self.life.grace_secs.unwrap_or(GRACE_SECS).max(0).saturating_mul(1_000_000);
        self.is_beyond(asked, grace_usec.saturating_add(self.settings.stop_margin_usec))
    }

    fn ago(&self, at: Option<i64>) -> String {
        at.map(|at| format!(" {} ago", words::duration(self.now_usec.saturating_sub(at)))).unwrap_or_default()
    }

    fn for_so_long(&self, since: Option<i64>) -> String {
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

fn earliest<const N: usize>(times: [Option<i64>; N]) -> Option<i64> {
    times.into_iter().flatten().min()
}

fn migration_name(migration: &MigrationLife) -> String {
    if migration.name.is_empty() { "the migration".to_owned() } else { format!("the migration {}", migration.name) }
}

const fn found(id: SymptomId, since_usec: Option<i64>, text: String) -> Found {
    Found { id, since_usec, text, migration: None }
}

fn of_migration(id: SymptomId, since_usec: Option<i64>, text: String, migration: &MigrationLife) -> Found {
    Found { id, since_usec, text, migration: Some(migration.name.clone()) }
}
