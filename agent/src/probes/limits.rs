//! The `limits` probe: what is nearly used up, of the node every 30 s, of its users' inotify every five minutes.
//!
//! A limit that is reached shows as errors of whoever asks next, far from its cause; so the limits are looked at themselves.
//! There are no events for them but cgroups' own, and they fill slowly. Counting inotify means going through the descriptors of
//! every process, so that is done rarely. Reads are many and short: on a thread of their own.

mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use kulprit_judge::limits::{LauncherLimitsLook, judge_launcher, judge_node, judge_refused_forks};
use kulprit_judge::{StateVerdict, Verdict};
use kulprit_model::{FindingCode, Moment, Subject};
use tokio::time::Instant;

use self::read::{InotifyRows, Reader, Seen, VmPlace, VmSeen};
use super::blocking::Late;
use super::counters::count;
use super::{ProbeContext, ProbeSpec};

const NAME: &str = "limits";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether a limit of the node or of a VM is nearly used up.",
    sources: "pid_max, file-nr, aio-nr, conntrack, hugepages, inotify of all descriptors (every 5 min); pids cgroups; /proc/PID/{limits,status,fd}",
    needs: "procfs and cgroupfs of the host; CAP_SYS_PTRACE for open files of other users",
    lost_without: "open files and inotify instances of others without CAP_SYS_PTRACE",
    look_every: Duration::from_secs(30),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes 2 ms, with inotify 20 ms.
const DEADLINE: Duration = Duration::from_secs(10);

/// What one look leaves for the next.
#[derive(Debug, Default)]
struct Known {
    /// The last count, and when the next is due.
    inotify: InotifyRows,
    inotify_at: Option<Instant>,
    /// Refused forks by cgroup.
    refused: BTreeMap<String, u64>,
}

async fn run(context: ProbeContext) {
    let mut blocking = context.blocking();
    let mut known = Known::default();
    let mut reader = None;
    loop {
        let draft = context.begin(NAME);
        let now = Instant::now();
        let is_inotify_due = known.inotify_at.is_none_or(|due| now >= due);
        let places = read::places(&context);
        let new = || Reader::new(&context.host, &context.config);
        let read = move |reader: &mut Reader| reader.read(&places, is_inotify_due);
        let draft = match blocking.run_with(DEADLINE, &mut reader, new, read).await {
            Ok(seen) => {
                count(&context.counters.errors, seen.n_errors);
                if is_inotify_due {
                    known.inotify_at = Some(now + context.config.limits.inotify_every.get());
                }
                draft.verdicts(judge(context.clock.now(), seen, &mut known))
            }
            Err(Late { for_secs }) => draft.blind(format!("reading limits has not returned for {for_secs} s")),
        };
        if !context.send_and_rest(draft.end(&context.clock), SPEC.look_every).await {
            return;
        }
    }
}

fn judge(at: Moment, seen: Seen, known: &mut Known) -> Vec<Verdict> {
    let Seen { mut node, inotify, vms, n_errors: _ } = seen;
    if let Some(rows) = inotify {
        known.inotify = rows;
    }
    node.at = at;
    node.kernel.extend(known.inotify.iter().cloned());
    let mut verdicts = judge_node(&node);
    let mut refused = BTreeMap::new();
    for VmSeen { place: VmPlace { uid, .. }, pids, processes, error } in vms {
        let subject = Subject::vm(&uid);
        if let Some(error) = error {
            let unknown = StateVerdict::unknown(FindingCode::LauncherLimitReached, subject, error);
            verdicts.push(Verdict::State(unknown));
            continue;
        }
        let mut pids = pids;
        if let Ok((path, cgroup)) = &mut pids
            && let Some(now) = cgroup.refused_total.take()
        {
            // What was refused before we first looked is not new.
            let before = known.refused.get(path).copied().unwrap_or(now);
            verdicts.extend(judge_refused_forks(at, path, before, now));
            refused.insert(path.clone(), now);
        }
        verdicts.extend(judge_launcher(&LauncherLimitsLook { at, subject: &subject, pids, processes: &processes }));
    }
    known.refused = refused;
    verdicts
}

#[cfg(test)]
mod tests;
