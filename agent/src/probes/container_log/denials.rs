//! What auditd keeps of the kernel's denials: while it runs these records go to its log, and to `/dev/kmsg` no more.
//!
//! The rules are those of the kernel's log; of all that is audited only denials are kept.
//! Sources: kernel `kernel/audit.c` kauditd_send_queue (printed where nobody listens), `auditd.conf(5)`.

use std::sync::Arc;

use kulprit_host::log::audit_usec;
use kulprit_host::process::Procfs;
use kulprit_judge::OccurrenceVerdict;
use kulprit_judge::kernel_log::{KernelLog, merge};
use kulprit_model::{FindingCode, Moment};

use crate::probes::kernel_log::find_owner;
use crate::probes::said::moment_at;
use crate::probes::{ProbeContext, VmIndex};

/// Hears the records of auditd.
pub(super) struct Denials {
    log: KernelLog,
    procfs: Procfs,
    vms: Arc<VmIndex>,
    /// Not yet taken, those of one process together.
    found: Vec<OccurrenceVerdict>,
}

impl Denials {
    pub(super) fn new(context: &ProbeContext) -> Self {
        let (procfs, vms) = (Procfs::new(&context.config.procfs), Arc::clone(&context.vms));
        Self { log: KernelLog::new(), procfs, vms, found: Vec::new() }
    }

    /// Takes whole lines.
    pub(super) fn hear(&mut self, lines: &[u8], now: Moment) {
        if !self.log.is_candidate(lines) {
            return;
        }
        let mut out = Vec::new();
        let find_owner = |task, at| find_owner(&self.procfs, &self.vms, task, at);
        for line in lines.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let Some(usec) = audit_usec(&line) else { continue };
            self.log.read_line(moment_at(now, usec), &line, &find_owner, &mut out);
        }
        for mut verdict in out.into_iter().filter(|verdict| verdict.code == FindingCode::SecurityDenied) {
            verdict.evidence.iter_mut().for_each(|evidence| "audit".clone_into(&mut evidence.source));
            merge(&mut self.found, verdict);
        }
    }

    /// What was heard since the last call.
    pub(super) fn take(&mut self) -> Vec<OccurrenceVerdict> {
        std::mem::take(&mut self.found)
    }
}
