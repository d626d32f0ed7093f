//! The VMs of the node: libvirt's domains and the QEMU processes, joined by UID.
//!
//! Said on change only. A process that ended is a positive look at its threads: what the `qemu` probe says of that VM is then
//! absent, and nobody is expected to look again until a new process is seen. A VM is gone when neither libvirt nor procfs
//! knows it; what was said of it is then history, and none of it is a clearing.

use std::collections::BTreeMap;

use kulprit_model::{Domain, Moment, Qemu, Subject};

/// What is known of the node's VMs.
#[derive(Clone, Debug, Default)]
pub(super) struct Vms {
    pub(super) domains: BTreeMap<String, Seen<Domain>>,
    pub(super) qemus: BTreeMap<(u32, u64), Seen<Qemu>>,
}

/// A thing and when it was last seen in this run of the agent; `None`: known from an earlier run.
#[derive(Clone, Debug)]
pub(super) struct Seen<T> {
    pub(super) what: T,
    pub(super) looked: Option<Moment>,
}

impl Vms {
    /// Takes a domain in; returns it when there is something new. The first sight of a state keeps its time.
    pub(super) fn see_domain(&mut self, mut domain: Domain, at: Moment) -> Option<Domain> {
        let known = self.domains.get_mut(&domain.uid);
        if let Some(known) = &known
            && (known.what.state, known.what.reason) == (domain.state, domain.reason)
        {
            domain.since = known.what.since;
        }
        match known {
            Some(known) => {
                known.looked = Some(at);
                (known.what != domain).then(|| known.what.clone_from(&domain)).map(|()| domain)
            }
            None => {
                self.domains.insert(domain.uid.clone(), Seen { what: domain.clone(), looked: Some(at) });
                Some(domain)
            }
        }
    }

    /// Takes a process in; returns it when there is something new.
    pub(super) fn see_qemu(&mut self, mut qemu: Qemu, at: Moment) -> Option<Qemu> {
        let key = (qemu.pid, qemu.start_ticks);
        match self.qemus.get_mut(&key) {
            Some(known) => {
                qemu.since = known.what.since;
                known.looked = Some(at);
                (known.what != qemu).then(|| known.what.clone_from(&qemu)).map(|()| qemu)
            }
            None => {
                self.qemus.insert(key, Seen { what: qemu.clone(), looked: Some(at) });
                Some(qemu)
            }
        }
    }

    /// Whether libvirt knows the VM.
    pub(super) fn has_domain(&self, uid: &str) -> bool {
        self.domains.contains_key(uid)
    }

    /// Whether a process runs it.
    pub(super) fn has_qemu(&self, uid: &str) -> bool {
        self.qemus.values().any(|seen| seen.what.uid == uid)
    }

    /// The VMs and processes of an earlier run that nobody has seen since.
    pub(super) fn unseen(&self) -> (Vec<Subject>, Vec<Subject>) {
        let domains = self.domains.iter().filter(|(_, seen)| seen.looked.is_none());
        let qemus = self.qemus.iter().filter(|(_, seen)| seen.looked.is_none());
        (
            domains.map(|(uid, _)| Subject::vm(uid)).collect(),
            qemus.map(|(&(pid, start_ticks), _)| Subject::Process { pid, start_ticks }).collect(),
        )
    }
}
