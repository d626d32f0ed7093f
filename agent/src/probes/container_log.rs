//! The `container-log` probe: what launchers, virt-handler, CSI and CNI pods of this node write, and QEMU and libvirt to files.
//!
//! `files` knows which logs there are and reads what is new of them; here it is asked at the shared beat and what it heard is
//! handed over. **Where it begins.** With what was written after the kept position, else within the last 15 min. **What it
//! says.** `ErrorSaid` of the node through the signatures, with the pod and VM it is about, equal lines folded, and
//! `SecurityDenied` where auditd runs; what was left out is `LogLinesSkipped`, and what is there and cannot be read makes it
//! blind. Files are read on a thread of their own: the disk below may hang.

mod denials;
mod files;
mod log;
mod names;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kulprit_judge::{OccurrenceVerdict, Verdict};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject};

use super::blocking::Late;
use super::counters::count;
use super::said::Rhythm;
use super::{Launchers, ProbeContext, ProbeSpec};
use files::{Files, Read};
pub(crate) use names::{PODS, PodName, newest_logs};

const NAME: &str = "container-log";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What launchers, virt-handler, CSI and CNI pods of this node, QEMU and libvirt write to their logs, kubelet and containerd of RKE2 and k3s, and denials that auditd keeps.",
    sources: "/var/log/pods/**, QEMU's logs inside launchers, /var/log/libvirt/**, /var/lib/rancher/{rke2,k3s}/agent/**/{kubelet,containerd}.log, /var/log/audit/audit.log",
    needs: "/var/log/pods, /var/lib/kubelet/pods and /var/log/audit readable (root)",
    lost_without: "what launchers, virt-handler and drivers write; denials where auditd runs",
    look_every: Duration::from_secs(30),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes well below 1 ms when little is written.
const DEADLINE: Duration = Duration::from_secs(5);
/// Files that are named when lines of them were left out.
const MAX_NAMED: usize = 4;

async fn run(context: ProbeContext) {
    let files = Arc::new(Mutex::new(Files::new(&context)));
    let mut blocking = context.blocking();
    let mut rhythm = Rhythm::new(SPEC.look_every);
    loop {
        let draft = context.begin(NAME);
        let (shared, now, once) = (Arc::clone(&files), draft.began, context.once);
        let launchers: Arc<Launchers> = Arc::clone(&context.launchers.borrow());
        let read = blocking
            .run(DEADLINE, move || shared.lock().unwrap_or_else(PoisonError::into_inner).read(now, &launchers, once))
            .await
            .unwrap_or_else(|Late { for_secs }| Read {
                blind_because: Some(format!("the files below /var/log have not answered for {for_secs} s")),
                ..Read::default()
            });
        count(&context.counters.errors, read.n_errors + u64::from(read.blind_because.is_some()));
        let skipped = skipped(now, &read);
        let verdicts: Vec<Verdict> = read.verdicts.into_iter().chain(skipped).map(Verdict::Occurrence).collect();
        let has_news = !verdicts.is_empty();
        if rhythm.is_due(has_news, read.blind_because.as_deref()) || context.once {
            let position = read.position.filter(|_| rhythm.keeps(has_news));
            let draft = draft.verdicts(verdicts).position(position);
            let look = draft.blind_if(read.blind_because).end(&context.clock);
            if !context.send(look).await {
                return;
            }
        }
        if !context.rest(context.config.log_every.get()).await {
            return;
        }
    }
}

/// What was not read.
fn skipped(now: Moment, read: &Read) -> Option<OccurrenceVerdict> {
    if read.skipped.is_empty() && read.n_unheard == 0 {
        return None;
    }
    let mut said: Vec<String> =
        read.skipped.iter().take(MAX_NAMED).map(|(path, what)| format!("{}: {what}", path.display())).collect();
    if read.skipped.len() > MAX_NAMED {
        said.push(format!("and of {} more files", read.skipped.len() - MAX_NAMED));
    }
    if read.n_unheard > 0 {
        said.push(format!("{} lines that may say something were too many at once", read.n_unheard));
    }
    Some(OccurrenceVerdict {
        code: FindingCode::LogLinesSkipped,
        subject: Subject::Node,
        at: now,
        count: (read.skipped.len() as u64).saturating_add(read.n_unheard).max(1),
        attributes: Attributes::new(),
        evidence: vec![Evidence::new("logs", now, said.join("; "))],
    })
}

#[cfg(test)]
mod tests;
