//! The rules from findings and libvirt's states to symptoms, and how they are joined with what Kubernetes shows of a VM.
//!
//! The onset of a symptom is the moment from which things were not as they should be: for a stop, when the guest's or QEMU's time
//! to end was over, not when somebody asked. What began between the two can be the cause.

use std::collections::BTreeSet;

use kulprit_cluster::ClusterVm;
use kulprit_model::{
    Domain, FindingCode, Moment, Occurrence, Severity, State, Status, Subject,
    attribute::{EXIT_CODE, SIGNAL},
};

use super::{
    Symptom, SymptomId, SymptomSubject,
    domain_migration::{migration_failed, stuck_migrating},
    kubevirt::{Clocks, Found},
};
use crate::{
    identity::{Identity, Known},
    indexed::Indexed,
    leftover, libvirt,
    snapshot::{NodeView, Settings, Snapshot, VmView},
    standalone::{migration_of, runs_elsewhere, was_only_arriving},
    words,
};

/// A guest that is still being started is left alone for this long. A QEMU start that KubeVirt gives up on takes 240 s, and a
/// migration target is in this state for as long as the migration's first seconds.
const STARTING_UP_LIMIT_USEC: i64 = 300_000_000;

/// libvirt reports the end of a QEMU about 2 s after it; only what it has not noticed by then is strange.
const EXIT_SETTLE_USEC: i64 = 10_000_000;

/// The symptoms of every VM of the cluster, of every other VM on a node that reports, and of those nodes themselves, sorted by
/// (node, node before VMs, UID).
#[must_use]
pub fn symptoms(snapshot: &Snapshot) -> Vec<Symptom> {
    Indexed::new(snapshot).symptoms()
}

pub(crate) fn symptoms_in<'a>(snapshot: &'a Indexed<'a>) -> Vec<Symptom> {
    let mut symptoms: Vec<Symptom> = Vec::new();
    for vm in &snapshot.cluster_vms {
        symptoms.extend(of_cluster_vm(snapshot, vm, None, false));
    }
    let in_cluster = Known::new(&snapshot.cluster_vms);
    for node in snapshot.nodes.iter().filter(|node| node.is_reporting) {
        symptoms.extend(of_node(node));
        for vm in node.vms.iter().filter(|vm| !in_cluster.has(vm)) {
            symptoms.extend(of_view(snapshot, node, vm));
        }
    }
    symptoms.sort_by(|a, b| sort_key(&a.subject).cmp(&sort_key(&b.subject)));
    symptoms
}

/// The symptom of one VM, whatever it is: `Unspecified` where none can be derived or nothing is wrong. `migration` names the one
/// that is asked about, and makes it a migration's symptom. `is_named`: somebody asks about this VM, so that states which are
/// normal for moments count sooner, and without times at once.
#[must_use]
pub fn symptom_of(snapshot: &Snapshot, uid: &str, migration: Option<&str>, is_named: bool) -> Symptom {
    Indexed::new(snapshot).symptom_of(uid, migration, is_named)
}

pub(crate) fn symptom_in<'a>(snapshot: &'a Indexed<'a>, uid: &str, migration: Option<&str>, is_named: bool) -> Symptom {
    if let Some(vm) = snapshot.cluster_vm(uid) {
        return of_cluster_vm(snapshot, vm, migration, is_named).unwrap_or_else(|| Symptom {
            subject: subject_of(vm),
            id: SymptomId::Unspecified,
            since_wall_usec: None,
            text: match (&vm.life.printable_status, &vm.life.phase) {
                (Some(status), _) => format!("the VM shows no symptom; it is {status}"),
                (None, Some(phase)) => format!("the VM shows no symptom; its VMI is {phase}"),
                (None, None) => "whether the VM shows a symptom is not known: no status of it was seen".to_owned(),
            },
            migration: migration.map(ToOwned::to_owned),
        });
    }
    // While it migrates, and for a while afterwards, two nodes know it: whichever shows trouble, else where its QEMU lives.
    let mut views: Vec<(&NodeView, &VmView)> = snapshot.views(uid).collect();
    views.sort_by_key(|(node, vm)| !(node.is_reporting && vm.qemu.is_some()));
    let known = views.first();
    let reporting = views.iter().filter(|(node, _)| node.is_reporting);
    let of_view = reporting.filter_map(|(node, vm)| of_view(snapshot, node, vm)).next();
    of_view.unwrap_or_else(|| Symptom {
        subject: SymptomSubject::Vm {
            node: known.map(|(node, _)| node.name.clone()).unwrap_or_default(),
            uid: uid.to_owned(),
        },
        id: SymptomId::Unspecified,
        since_wall_usec: None,
        text: "the VM shows no symptom that could be seen".to_owned(),
        migration: migration.map(ToOwned::to_owned),
    })
}

fn subject_of(vm: &ClusterVm) -> SymptomSubject {
    let mut nodes = [&vm.hosting, &vm.source, &vm.target].into_iter().flatten().filter(|node| !node.is_empty());
    SymptomSubject::Vm { node: nodes.next().cloned().unwrap_or_default(), uid: vm.uid.clone() }
}

/// A VM that libvirt alone runs, or that Kubernetes was not asked about.
fn of_view<'a>(snapshot: &'a Indexed<'a>, node: &NodeView, vm: &VmView) -> Option<Symptom> {
    let look = VmLook::new(snapshot, node, vm);
    let was_here = |(_, ended_usec, _): &OfHost| {
        !runs_elsewhere(snapshot, &vm.uid, node) && !was_only_arriving(snapshot, &vm.uid, node, *ended_usec)
    };
    let symptom = |found: Found| Symptom {
        subject: SymptomSubject::Vm { node: node.name.clone(), uid: vm.uid.clone() },
        id: found.id,
        since_wall_usec: found.since_usec,
        text: found.text,
        migration: found.migration,
    };
    let of_migration = migration_of(snapshot, &vm.uid).filter(|migration| migration.source.name == node.name);
    look.stopped_unexpectedly()
        .filter(was_here)
        .or_else(|| look.stuck_stopping())
        .or_else(|| look.paused_unexpectedly())
        .map(of_host)
        .or_else(|| stuck_migrating(snapshot, &vm.uid, &of_migration?))
        .or_else(|| look.unresponsive().map(of_host))
        .or_else(|| left_over(snapshot, &vm.uid, node))
        .or_else(|| migration_failed(snapshot, &of_migration?))
        .map(symptom)
}

/// What a migration left, as the symptom of the first node that shows the VM.
fn left_over<'a>(snapshot: &'a Indexed<'a>, uid: &str, node: &NodeView) -> Option<Found> {
    let mut shown = snapshot.views(uid).filter(|(_, vm)| vm.qemu.is_some());
    if shown.next().is_none_or(|(first, _)| first.name != node.name) {
        return None;
    }
    let left = leftover::of_domain(snapshot, uid)?;
    Some(Found { id: SymptomId::Unresponsive, since_usec: left.since_usec, text: left.text, migration: None })
}

fn of_host((id, since_usec, text): OfHost) -> Found {
    Found { id, since_usec: Some(since_usec), text, migration: None }
}

/// A VM of the cluster: what its objects show, joined with what its hosts do. A migration that is named comes first, then the VM's
/// own way to start and to end, then the migration that is under way or wanted, then a host side that is hung or gone while the VM
/// is shown running, and only then migrations that are over: one that failed is news for a day, and hides nothing that is now.
fn of_cluster_vm<'a>(
    snapshot: &'a Indexed<'a>,
    vm: &'a ClusterVm,
    migration: Option<&str>,
    is_named: bool,
) -> Option<Symptom> {
    let clocks = Clocks::new(snapshot, vm, is_named);
    let symptom = |found: Found| Symptom {
        subject: subject_of(vm),
        id: found.id,
        since_wall_usec: found.since_usec,
        text: found.text,
        migration: found.migration,
    };
    if let Some(name) = migration {
        return clocks
            .of_named_migration(name)
            .map(|found| Symptom { migration: Some(name.to_owned()), ..symptom(found) });
    }
    let me = Identity::of_cluster_vm(vm);
    let looks: Vec<VmLook<'_>> = snapshot
        .views_of_any(me.uids(), me.pair())
        .into_iter()
        .filter(|(node, _)| node.is_reporting && vm.hosting.as_ref().is_none_or(|hosting| *hosting == node.name))
        .map(|(node, view)| VmLook::new(snapshot, node, view))
        .collect();
    let is_up = vm.life.phase.as_deref().is_none_or(|phase| phase == "Running");
    let stopped_or_paused = || {
        looks.iter().find_map(|look| look.stopped_unexpectedly().or_else(|| look.paused_unexpectedly())).map(of_host)
    };
    let left_over = || {
        let left = leftover::two_qemus(snapshot, vm).or_else(|| leftover::paused(snapshot, vm))?;
        Some(Found { id: SymptomId::Unresponsive, since_usec: left.since_usec, text: left.text, migration: None })
    };
    let hung = || looks.iter().find_map(|look| look.stuck_stopping().or_else(|| look.unresponsive())).map(of_host);
    clocks
        .most_telling()
        .or_else(|| if is_up { stopped_or_paused() } else { None })
        .or_else(|| clocks.of_this_migration())
        .or_else(|| if is_up { hung().or_else(left_over) } else { None })
        .or_else(|| clocks.unresponsive())
        .or_else(|| clocks.of_past_migrations())
        .or_else(|| clocks.guest_agent_lost())
        .or_else(|| clocks.start_by_texts())
        .map(symptom)
}

fn sort_key(subject: &SymptomSubject) -> (&str, Option<&str>) {
    match subject {
        SymptomSubject::Node { node } => (node, None),
        SymptomSubject::Vm { node, uid } => (node, Some(uid)),
    }
}

/// A node shows a symptom of its own while a fault that is no VM's is present on it.
fn of_node(node: &NodeView) -> Option<Symptom> {
    let mut faults: Vec<&State> = node
        .states
        .iter()
        .filter(|state| state.status == Status::Present && state.code.spec().severity == Severity::Fault)
        .filter(|state| match state.subject {
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Device { .. }
            | Subject::Mount { .. }
            | Subject::Problem { .. }
            | Subject::Libvirt { .. } => true,
            Subject::Vm { .. } | Subject::Process { .. } | Subject::Probe { .. } => false,
        })
        .collect();
    faults.sort_by(|a, b| (a.since, a.code, &a.subject).cmp(&(b.since, b.code, &b.subject)));
    let first = faults.first()?;
    let text = faults.iter().map(|state| sentence(state.code.spec().meaning)).collect::<Vec<_>>().join("; ");
    Some(Symptom {
        subject: SymptomSubject::Node { node: node.name.clone() },
        id: SymptomId::Unspecified,
        since_wall_usec: Some(first.since.wall_usec),
        text,
        migration: None,
    })
}

/// A sentence of the catalogue without its full stop, to be joined.
fn sentence(meaning: &str) -> &str {
    meaning.strip_suffix('.').unwrap_or(meaning)
}

/// A symptom's id, onset (Unix time, microseconds) and text.
type OfHost = (SymptomId, i64, String);

struct VmLook<'a> {
    snapshot: &'a Indexed<'a>,
    node: &'a NodeView,
    vm: &'a VmView,
    settings: &'a Settings,
    now_usec: i64,
}

impl<'a> VmLook<'a> {
    fn new(snapshot: &'a Indexed<'a>, node: &'a NodeView, vm: &'a VmView) -> Self {
        Self { snapshot, node, vm, settings: &snapshot.settings, now_usec: snapshot.reference_wall_usec }
    }

    /// A state of this VM or of its QEMU process, if it is present.
    fn present(&self, code: FindingCode) -> Option<&'a State> {
        let present = self.snapshot.present_on(self.node).iter().copied();
        present
            .filter(|state| state.code == code && self.is_own(&state.subject))
            .min_by(|a, b| (a.since, &a.subject).cmp(&(b.since, &b.subject)))
    }

    /// Whether nobody can tell a state of this VM.
    fn is_unknown(&self, code: FindingCode) -> bool {
        let mut own = self.node.states.iter().filter(|state| state.code == code && self.is_own(&state.subject));
        own.any(|state| state.status == Status::Unknown)
    }

    fn is_own(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Vm { uid } => *uid == self.vm.uid,
            Subject::Process { pid, start_ticks } => self
                .vm
                .qemu
                .iter()
                .chain(&self.vm.last_qemu)
                .any(|qemu| qemu.pid == *pid && (qemu.start_ticks == *start_ticks || *start_ticks == 0)),
            Subject::Node
            | Subject::Unit { .. }
            | Subject::Device { .. }
            | Subject::Mount { .. }
            | Subject::Problem { .. }
            | Subject::Libvirt { .. }
            | Subject::Probe { .. } => false,
        }
    }

    /// The last occurrence of that code, if it is of this VM and not of a run before the last QEMU.
    fn last(&self, code: FindingCode) -> Option<&'a Occurrence> {
        let run_since =
            self.vm.qemu.as_ref().or(self.vm.last_qemu.as_ref()).map_or(i64::MIN, |run| run.since.wall_usec);
        self.node
            .occurrences
            .iter()
            .filter(|occurrence| occurrence.code == code && self.is_own(&occurrence.subject))
            .filter(|occurrence| occurrence.last.wall_usec >= run_since)
            .max_by(|a, b| (a.last, a.first, a.count).cmp(&(b.last, b.first, b.count)))
    }

    fn is_past(&self, deadline_usec: i64) -> bool {
        self.now_usec >= deadline_usec
    }

    fn domain_in(&self, states: &[i32]) -> Option<&'a Domain> {
        self.vm.domain.as_ref().filter(|domain| states.contains(&domain.state))
    }

    fn stuck_stopping(&self) -> Option<OfHost> {
        let found = |since_usec, text| Some((SymptomId::StuckStopping, since_usec, text));
        let Settings { shutdown_grace_usec, stop_margin_usec, kill_grace_usec, .. } = *self.settings;
        if let Some(state) = self.present(FindingCode::QemuTerminationPending) {
            let onset = state.since.wall_usec.saturating_add(kill_grace_usec);
            if self.is_past(onset) {
                let for_text = self.age(state.since);
                return found(onset, format!("its QEMU was killed {for_text} ago and has not ended"));
            }
        }
        if let Some(domain) = self.domain_in(&[libvirt::SHUTTING_DOWN]) {
            let onset = domain.since.wall_usec.saturating_add(kill_grace_usec);
            if self.is_past(onset.saturating_add(stop_margin_usec)) {
                let for_text = self.age(domain.since);
                return found(onset, format!("the guest shut down {for_text} ago and its QEMU has not ended"));
            }
        }
        if let Some(state) = self.present(FindingCode::GuestShutdownRequested)
            && self.domain_in(&[libvirt::RUNNING, libvirt::BLOCKED]).is_some()
        {
            let onset = state.since.wall_usec.saturating_add(shutdown_grace_usec);
            if self.is_past(onset.saturating_add(stop_margin_usec)) {
                let (for_text, grace) = (self.age(state.since), words::duration(shutdown_grace_usec));
                return found(
                    onset,
                    format!("the guest was asked to shut down {for_text} ago (grace {grace}) and still runs"),
                );
            }
        }
        None
    }

    fn paused_unexpectedly(&self) -> Option<OfHost> {
        let domain = self.domain_in(&[libvirt::PAUSED])?;
        let is_unexpected = match domain.reason {
            libvirt::PAUSED_IO_ERROR
            | libvirt::PAUSED_WATCHDOG
            | libvirt::PAUSED_CRASHED
            | libvirt::PAUSED_POSTCOPY_FAILED
            | libvirt::PAUSED_API_ERROR => true,
            libvirt::PAUSED_STARTING_UP => self.is_past(domain.since.wall_usec.saturating_add(STARTING_UP_LIMIT_USEC)),
            _ => false, // libvirt's number, not ours: user, migration, save, dump, snapshot, and whatever comes later
        };
        let text = format!("libvirt shows it {}", libvirt::describe(domain.state, domain.reason));
        is_unexpected.then_some((SymptomId::PausedUnexpectedly, domain.since.wall_usec, text))
    }

    fn stopped_unexpectedly(&self) -> Option<OfHost> {
        if self.vm.qemu.is_some() && self.domain_in(&[libvirt::CRASHED]).is_none() {
            return None;
        }
        let exit = self.last(FindingCode::QemuExited);
        match &self.vm.domain {
            Some(domain) if has_ended_badly(domain) => {
                // After a restart of the agent the state is first seen now; the process ended when it was seen to end.
                let onset = exit.map_or(domain.since, |exit| exit.last.min(domain.since));
                let shown = libvirt::describe(domain.state, domain.reason);
                Some((SymptomId::StoppedUnexpectedly, onset.wall_usec, format!("libvirt shows it {shown}")))
            }
            Some(domain) if is_active(domain) => {
                let exit = exit?;
                let is_settled = self.is_past(exit.last.wall_usec.saturating_add(EXIT_SETTLE_USEC));
                let is_later = exit.last >= domain.since;
                if !is_settled || !is_later || !has_died(exit) {
                    return None;
                }
                let shown = libvirt::describe(domain.state, domain.reason);
                let text = format!("its QEMU died {} ago; libvirt still shows it {shown}", self.age(exit.last));
                Some((SymptomId::StoppedUnexpectedly, exit.last.wall_usec, text))
            }
            Some(_) => None,
            None => self.vanished(exit),
        }
    }

    /// A VM of which libvirt knows nothing any more: a transient domain is gone once its QEMU is, wanted or not. Only libvirt's
    /// own word that it failed, or a signal that nobody ends a QEMU with, makes that a symptom, for as long as it is news.
    fn vanished(&self, exit: Option<&Occurrence>) -> Option<OfHost> {
        let failed = self.last(FindingCode::DomainFailed);
        let crashed = exit
            .filter(|exit| exit.attributes.get(SIGNAL).is_some_and(|signal| !matches!(signal, "1" | "2" | "9" | "15")));
        let (what, at) = match (failed, crashed) {
            (Some(failed), _) => ("libvirt saw it fail", failed.last),
            (None, Some(crashed)) => ("its QEMU died by a fatal signal", crashed.last),
            (None, None) => return None,
        };
        let is_news = !self.is_past(at.wall_usec.saturating_add(self.settings.occurrence_fresh_usec));
        let text = format!("{what} {} ago, and it is gone", self.age(at));
        is_news.then_some((SymptomId::StoppedUnexpectedly, at.wall_usec, text))
    }

    fn unresponsive(&self) -> Option<OfHost> {
        let found = |since: Moment, text: String| Some((SymptomId::Unresponsive, since.wall_usec, text));
        let is_shown_off = self.vm.domain.as_ref().is_some_and(|domain| !is_active(domain));
        if !is_shown_off {
            for (code, text) in [
                (FindingCode::QemuThreadBlocked, "a thread of its QEMU is blocked in the kernel"),
                (FindingCode::VmDiskStalled, "its disk I/O gets no answer"),
                (FindingCode::QemuStopped, "its QEMU is stopped by a signal or a debugger"),
                (FindingCode::QemuZombie, "its QEMU has ended and nobody reaps it"),
                (FindingCode::DomainControlOccupied, "its QEMU does not answer libvirt"),
                (FindingCode::DomainControlError, "libvirt has lost the monitor of its QEMU"),
            ] {
                if let Some(state) = self.present(code) {
                    return found(state.since, format!("{text}, for {}", self.age(state.since)));
                }
            }
        }
        if self.vm.qemu.is_some()
            && !is_shown_off
            && let Some(state) = self.daemon_fault()
        {
            let what = if state.code == FindingCode::LibvirtUnreachable { "does not run" } else { "does not answer" };
            let text = format!("its QEMU runs on, but nobody can manage it: the libvirt daemon {what}");
            return found(state.since, text);
        }
        let domain = self.domain_in(&[libvirt::RUNNING, libvirt::BLOCKED, libvirt::PAUSED])?;
        let exit = self.last(FindingCode::QemuExited)?;
        // A QEMU that ended in order is only strange if libvirt was looked at since and still shows it.
        let is_libvirt_seen = !self.is_unknown(FindingCode::DomainIoError);
        let is_gone = self.vm.qemu.is_none()
            && is_libvirt_seen
            && exit.last >= domain.since
            && self.is_past(exit.last.wall_usec.saturating_add(EXIT_SETTLE_USEC));
        let shown = libvirt::describe(domain.state, domain.reason);
        let text = format!("libvirt shows it {shown}, but its QEMU ended {} ago", self.age(exit.last));
        if is_gone { found(exit.last, text) } else { None }
    }

    /// A fault of the libvirt daemon, if it is this VM's: with KubeVirt each pod has a daemon of its own, and which one is whose
    /// is not known here.
    fn daemon_fault(&self) -> Option<&'a State> {
        let present = self.snapshot.present_on(self.node).iter().copied();
        let fault = present
            .filter(|state| matches!(state.code, FindingCode::LibvirtUnreachable | FindingCode::LibvirtUnresponsive))
            .min_by(|a, b| (a.since, a.code, &a.subject).cmp(&(b.since, b.code, &b.subject)))?;
        let daemons: BTreeSet<&Subject> = self
            .node
            .states
            .iter()
            .map(|state| &state.subject)
            .filter(|subject| matches!(subject, Subject::Libvirt { .. }))
            .collect();
        (self.vm.namespace.is_none() || daemons.len() <= 1).then_some(fault)
    }

    fn age(&self, since: Moment) -> String {
        words::duration(self.now_usec.saturating_sub(since.wall_usec))
    }
}

fn is_active(domain: &Domain) -> bool {
    matches!(
        domain.state,
        libvirt::RUNNING | libvirt::BLOCKED | libvirt::PAUSED | libvirt::SHUTTING_DOWN | libvirt::SUSPENDED
    )
}

/// Whether libvirt says that the domain ended and nobody wanted it.
fn has_ended_badly(domain: &Domain) -> bool {
    match domain.state {
        libvirt::CRASHED => true,
        libvirt::SHUTOFF => matches!(domain.reason, libvirt::SHUTOFF_CRASHED | libvirt::SHUTOFF_FAILED),
        _ => false, // libvirt's number, not ours
    }
}

/// Whether a QEMU died rather than ended: by a signal, or with an error code.
fn has_died(exit: &Occurrence) -> bool {
    exit.attributes.get(SIGNAL).is_some() || exit.attributes.get(EXIT_CODE).is_some_and(|code| code != "0")
}
