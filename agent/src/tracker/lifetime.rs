//! VMs and processes as they come and go: what was said of them goes with them.
//!
//! A process that ended is a positive look at its threads: they are absent while libvirt still has the domain. When neither
//! knows the VM any more it is gone, and what was said of it is history. What vanished while no agent ran is found once, soon
//! after the start.

use kulprit_judge::StateVerdict;
use kulprit_model::{Body, Evidence, Moment, Qemu, Status, Subject};

use super::{Batch, Due, Tracker, vms::Seen};
use crate::look::Sighting;

/// What an earlier run knew of a VM is gone after this at the earliest if nobody has seen it since, microseconds.
const UNCONFIRMED_USEC: i64 = 10_000_000;

/// Probes that look at the running process of a VM, or at what is there for it: without a process they have nothing to look at.
pub(super) const OF_PROCESS: [&str; 9] =
    ["qemu", "launcher", "migration", "pressure", "limits", "filesystem", "volumes", "network", "security"];

impl Tracker {
    pub(super) fn see(&mut self, sighting: Sighting, at: Moment, batch: &mut Batch) {
        match sighting {
            Sighting::Domain(domain) => batch.bodies.extend(self.vms.see_domain(domain, at).map(Body::Domain)),
            Sighting::Qemu(qemu) => batch.bodies.extend(self.vms.see_qemu(qemu, at).map(Body::Qemu)),
            Sighting::Gone(subject) => self.gone(&subject, at, batch),
        }
    }

    fn gone(&mut self, subject: &Subject, at: Moment, batch: &mut Batch) {
        match subject {
            Subject::Vm { uid } => {
                self.vms.domains.remove(uid);
                self.states.retain(|(code, about), _| about != subject || code.spec().probe != "domain");
                if !self.vms.has_qemu(uid) {
                    self.vm_gone(subject, at, batch);
                }
            }
            Subject::Process { pid, start_ticks } => {
                let ended = self.vms.qemus.remove(&(*pid, *start_ticks));
                self.states.retain(|(_, about), _| about != subject);
                batch.bodies.push(Body::SubjectGone { subject: subject.clone(), at });
                let Some(Seen { what: Qemu { uid, .. }, .. }) = ended else { return };
                if self.vms.has_qemu(&uid) {
                    return;
                }
                let vm = Subject::vm(&uid);
                if self.vms.has_domain(&uid) {
                    self.process_ended(&vm, *pid, at);
                } else {
                    self.vm_gone(&vm, at, batch);
                }
            }
            Subject::Unit { .. }
            | Subject::Device { .. }
            | Subject::Mount { .. }
            | Subject::Libvirt { .. }
            | Subject::Problem { .. } => {
                let n_states = self.states.len();
                self.states.retain(|(_, about), _| about != subject);
                if self.states.len() < n_states {
                    batch.bodies.push(Body::SubjectGone { subject: subject.clone(), at });
                }
            }
            Subject::Node | Subject::Probe { .. } => self.counts.verdicts_refused += 1,
        }
    }

    /// No thread of an ended process is blocked, stopped or anything else.
    fn process_ended(&mut self, vm: &Subject, pid: u32, at: Moment) {
        let mut changes = Vec::new();
        for ((code, subject), track) in &mut self.states {
            if subject == vm && OF_PROCESS.contains(&code.spec().probe) && track.status() != Some(Status::Absent) {
                let evidence = vec![Evidence::new("procfs", at, format!("the QEMU process {pid} has ended"))];
                changes.push(
                    track.end(StateVerdict { evidence, ..StateVerdict::seen(*code, subject.clone(), false) }, at),
                );
            }
        }
        self.due = Due::NOW;
        changes.into_iter().for_each(|change| self.count(change));
    }

    fn vm_gone(&mut self, vm: &Subject, at: Moment, batch: &mut Batch) {
        self.states.retain(|(_, about), _| about != vm);
        batch.bodies.push(Body::SubjectGone { subject: vm.clone(), at });
    }

    /// Once, soon after a restart: VMs and processes that vanished while nobody looked.
    pub(super) fn reconcile(&mut self, now: Moment, batch: &mut Batch) {
        let has_looked = |name: &str| {
            self.probes.iter().any(|probe| {
                let wait_usec = probe.limit_usec.max(UNCONFIRMED_USEC);
                probe.view.name == name && probe.n_good_looks >= 2 && now.usec_since(self.started) >= wait_usec
            })
        };
        if self.is_reconciled || !has_looked("qemu") || !has_looked("domain") {
            return;
        }
        self.is_reconciled = true;
        let (vms, processes) = self.vms.unseen();
        for subject in processes.into_iter().chain(vms) {
            self.gone(&subject, now, batch);
        }
        // What was said of VMs that neither probe knows: they vanished together with their domain.
        let orphans: Vec<Subject> = self
            .states
            .iter()
            .filter(|((_, subject), track)| {
                let is_unknown_vm =
                    subject.vm_uid().is_some_and(|uid| !self.vms.has_domain(uid) && !self.vms.has_qemu(uid));
                is_unknown_vm && track.looked.is_none()
            })
            .map(|((_, subject), _)| subject.clone())
            .collect();
        for subject in orphans {
            if self.states.keys().any(|(_, about)| *about == subject) {
                self.vm_gone(&subject, now, batch);
            }
        }
    }
}
