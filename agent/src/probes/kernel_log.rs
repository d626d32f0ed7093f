//! The `kernel-log` probe: reads `/dev/kmsg` from where it stopped, and hands over what the lines mean.
//!
//! **Where it begins.** With a kept position of this boot: after it. Else (first start, new boot) with the oldest record the
//! kernel has, of which those older than `kmsg_look_back` (15 min) are passed over: they are history, except what stays true
//! for the whole boot (firmware that forbids virtualization). **Position.** Each look carries the number of the last record
//! it covers, never of one whose report is not complete; the tracker keeps both together, so nothing is lost or counted twice.
//! **Storms.** What is new goes out at once; the same again within a second is counted and goes out when the second is over.

use std::time::Duration;

use kulprit_host::kmsg::{KmsgItem, KmsgPosition, KmsgReader, KmsgStart};
use kulprit_host::process::Procfs;
use kulprit_host::qemu::is_qemu_name;
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::kernel_log::{KernelLog, TaskOwner, is_lasting, lost, machine_of_cgroup, merge};
use kulprit_judge::{OccurrenceVerdict, Verdict};
use kulprit_model::{FindingCode, Moment, Subject, attribute};
use tokio::time::Instant;

use super::counters::count;
use super::{ProbeContext, ProbeSpec, VmIndex, chain};

const NAME: &str = "kernel-log";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What the kernel logged: OOM kills, hung tasks, crashes, I/O and file system errors.",
    sources: "/dev/kmsg, by sequence number",
    needs: "/dev/kmsg; CAP_SYSLOG where dmesg_restrict is set",
    lost_without: "everything it says",
    look_every: Duration::from_secs(30),
    spawn: |context| Box::pin(run(context)),
};
/// The same again waits this long to be counted.
const COALESCE: Duration = Duration::from_secs(1);
/// The lines of one report come within microseconds; after this long without one there is no further.
const REPORT_ENDS: Duration = Duration::from_millis(100);
/// Records read without a break for other tasks, about 0.1 ms.
const BATCH: u32 = 128;
/// How long to wait before the log is opened again.
const REOPEN: Duration = Duration::from_secs(10);

/// The log and what is to be said of it.
struct Reading {
    log: KernelLog,
    reader: KmsgReader,
    /// Not yet handed over, equal ones merged.
    found: Vec<OccurrenceVerdict>,
    /// Handed over within the last second.
    recent: Vec<(FindingCode, Subject)>,
    recent_since: Instant,
    is_position_new: bool,
    last_look: Instant,
    /// Older records are passed over, boot time in microseconds.
    not_before_usec: Option<i64>,
    /// How far the kernel log's clock is behind `CLOCK_BOOTTIME`, microseconds; `None` before a record came live.
    skew_usec: Option<i64>,
    is_live: bool,
}

async fn run(context: ProbeContext) {
    let mut position = context.start_at.clone();
    loop {
        let because = match open(&context, position.as_deref()) {
            Ok(mut reading) => match follow(&context, &mut reading).await {
                Ok(()) => return,
                Err(error) => {
                    position = reading.reader.position().map(|position| write_position(&position)).or(position);
                    chain(&error)
                }
            },
            Err(error) => chain(&error),
        };
        count(&context.counters.errors, 1);
        let look = context.begin(NAME).blind(because).end(&context.clock);
        if !context.send(look).await || context.once {
            return;
        }
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(REOPEN) => {}
        }
    }
}

fn open(context: &ProbeContext, position: Option<&str>) -> Result<Reading, ReadError> {
    let kept = position.and_then(read_position);
    let is_same_boot = match &kept {
        Some(kept) => context.host.boot_id()? == kept.boot_id,
        None => false,
    };
    let start = kept.filter(|_| is_same_boot).map_or(KmsgStart::Oldest, KmsgStart::After);
    let reader = open_log(&context.host, &start)?;
    let look_back_usec = i64::try_from(context.config.kmsg_look_back.get().as_micros()).unwrap_or(i64::MAX);
    let now = Instant::now();
    Ok(Reading {
        log: KernelLog::new(),
        reader,
        found: Vec::new(),
        recent: Vec::new(),
        recent_since: now,
        is_position_new: false,
        last_look: now,
        not_before_usec: (!is_same_boot).then(|| context.clock.now().boottime_usec.saturating_sub(look_back_usec)),
        skew_usec: None,
        is_live: false,
    })
}

/// The kernel's log. There is one kernel and one log: a root without the device is looked at through our own.
pub(super) fn open_log(host: &HostRoot, start: &KmsgStart) -> Result<KmsgReader, ReadError> {
    match KmsgReader::open(host, start) {
        Err(error) if error.is_not_found() && !host.is_own() => KmsgReader::open(&HostRoot::new("/"), start),
        opened => opened,
    }
}

/// Reads until the agent ends, `Ok`, or the log cannot be read.
async fn follow(context: &ProbeContext, reading: &mut Reading) -> Result<(), ReadError> {
    let procfs = Procfs::new(&context.config.procfs);
    let find_owner = |task: u32, at: Moment| find_owner(&procfs, &context.vms, task, at);
    loop {
        let is_drained = reading.drain(context, &find_owner)?;
        if !is_drained && !context.once {
            // Others first; a storm must not keep the agent from ending.
            tokio::task::yield_now().await;
            if context.stop.is_cancelled() {
                return Ok(());
            }
        }
        let now = context.clock.now();
        if is_drained && context.once {
            reading.log.flush(&mut reading.found);
        }
        let is_first = !reading.is_live && is_drained;
        if is_first || reading.is_due() || (context.once && is_drained) {
            reading.is_live = is_drained || reading.is_live;
            if !reading.hand_over(context).await || context.once {
                return Ok(());
            }
        }
        if !is_drained {
            continue;
        }
        let wait = reading.wait(now);
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return Ok(()),
            item = reading.reader.next() => {
                let item = Taken::from(item?);
                reading.take(context, item, &find_owner);
            }
            // Nothing came: what is not complete now never will be.
            () = tokio::time::sleep(wait) => reading.log.flush(&mut reading.found),
        }
    }
}

/// An item of the log, apart from the reader's buffer.
enum Taken {
    Record { usec: u64, text: String },
    Lost(u64),
    Malformed,
}

impl From<KmsgItem<'_>> for Taken {
    fn from(item: KmsgItem<'_>) -> Self {
        match item {
            KmsgItem::Record(record) => Self::Record { usec: record.usec, text: record.text.into_owned() },
            KmsgItem::Lost { n_records } => Self::Lost(n_records),
            KmsgItem::Malformed(_) => Self::Malformed,
        }
    }
}

type FindOwner<'a> = dyn Fn(u32, Moment) -> Option<TaskOwner> + 'a;

impl Reading {
    /// Reads what the kernel has, a batch at most; whether that was all.
    fn drain(&mut self, context: &ProbeContext, find_owner: &FindOwner<'_>) -> Result<bool, ReadError> {
        let mut now = context.clock.now();
        let mut out = Vec::new();
        let mut n_records = 0;
        let is_drained = loop {
            // A look for once reads all of it: there is no next time.
            if n_records == BATCH && !context.once {
                break false;
            }
            let Some(item) = self.reader.try_next()? else { break true };
            n_records += 1;
            match item {
                KmsgItem::Record(record) => {
                    if n_records % 32 == 0 {
                        now = context.clock.now();
                    }
                    let at = moment_of(record.usec, now, self.skew_usec);
                    self.log.read_line(at, &record.text, &|task, at| find_owner(task, at), &mut out);
                }
                KmsgItem::Lost { n_records } => out.push(lost(now, n_records)),
                KmsgItem::Malformed(_) => count(&context.counters.errors, 1),
            }
        };
        if n_records > 0 {
            self.is_position_new = true;
            count(&context.counters.kernel_log_records, u64::from(n_records));
        }
        self.keep(&context.vms, out);
        Ok(is_drained)
    }

    /// Takes a record that came while we waited: it is as old as the way here, which tells how the clocks stand.
    fn take(&mut self, context: &ProbeContext, item: Taken, find_owner: &FindOwner<'_>) {
        let now = context.clock.now();
        let mut out = Vec::new();
        self.is_position_new = true;
        count(&context.counters.kernel_log_records, 1);
        match item {
            Taken::Record { usec, text } => {
                let behind = now.boottime_usec.saturating_sub(i64::try_from(usec).unwrap_or(i64::MAX));
                self.skew_usec = Some(self.skew_usec.map_or(behind, |skew| skew.min(behind)));
                let at = moment_of(usec, now, self.skew_usec);
                self.log.read_line(at, &text, &|task, at| find_owner(task, at), &mut out);
            }
            Taken::Lost(n_records) => out.push(lost(now, n_records)),
            Taken::Malformed => count(&context.counters.errors, 1),
        }
        self.keep(&context.vms, out);
    }

    fn keep(&mut self, vms: &VmIndex, out: Vec<OccurrenceVerdict>) {
        for mut verdict in out {
            name_vm_by_cgroup(vms, &mut verdict);
            let is_old = self.not_before_usec.is_some_and(|limit| verdict.at.boottime_usec < limit);
            if !is_old || is_lasting(verdict.code) {
                remember_kill(vms, &verdict);
                merge(&mut self.found, verdict);
            }
        }
    }

    /// Whether there is something to hand over now.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        if now.duration_since(self.last_look) >= SPEC.look_every {
            return true;
        }
        let is_window_over = now.duration_since(self.recent_since) >= COALESCE;
        let is_known = |verdict: &OccurrenceVerdict| {
            self.recent.iter().any(|(code, subject)| *code == verdict.code && *subject == verdict.subject)
        };
        !self.found.is_empty() && (is_window_over || !self.found.iter().all(is_known))
    }

    /// How long nothing is to be done if no record comes.
    fn wait(&self, now: Moment) -> Duration {
        let until = |end: Instant| end.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let heartbeat = until(self.last_look + SPEC.look_every);
        let mut wait = heartbeat;
        if !self.found.is_empty() {
            wait = wait.min(until(self.recent_since + COALESCE));
        }
        if self.log.is_mid_report(now) {
            wait = wait.min(REPORT_ENDS);
        }
        wait
    }

    async fn hand_over(&mut self, context: &ProbeContext) -> bool {
        let now = Instant::now();
        if !self.found.is_empty() {
            // The position is about to pass the report's first line.
            self.log.flush(&mut self.found);
        }
        let found = std::mem::take(&mut self.found);
        if now.duration_since(self.recent_since) >= COALESCE {
            self.recent.clear();
            self.recent_since = now;
        }
        self.recent.extend(found.iter().map(|verdict| (verdict.code, verdict.subject.clone())));
        let is_complete = !self.log.is_mid_report(context.clock.now());
        let position = (self.is_position_new && (is_complete || !found.is_empty()))
            .then(|| self.reader.position())
            .flatten()
            .map(|position| write_position(&position));
        self.is_position_new &= position.is_none();
        self.last_look = now;
        let look = context.begin(NAME).verdicts(found.into_iter().map(Verdict::Occurrence)).position(position);
        context.send(look.end(&context.clock)).await
    }
}

/// The moment of a record. The kernel stamps with its scheduler's clock, which drifts from `CLOCK_BOOTTIME` by seconds a week
/// and stands still while the machine sleeps: `skew_usec` is by how much.
fn moment_of(usec: u64, now: Moment, skew_usec: Option<i64>) -> Moment {
    let boottime_usec = i64::try_from(usec).unwrap_or(i64::MAX).saturating_add(skew_usec.unwrap_or(0));
    now.offset_usec(boottime_usec.saturating_sub(now.boottime_usec).min(0))
}

/// Whose task that is or was: QEMUs are remembered after their end, others are looked up while they live.
pub(super) fn find_owner(procfs: &Procfs, vms: &VmIndex, task: u32, at: Moment) -> Option<TaskOwner> {
    let of_vm = |pid: u32| {
        vms.by_task(pid, at).map(|(pid, vm)| TaskOwner {
            pid,
            start_ticks: vm.start_ticks,
            vm_uid: Some(vm.uid.clone()),
        })
    };
    of_vm(task).or_else(|| {
        let pid = procfs.status(task).ok()?.tgid?;
        of_vm(pid)
            .or_else(|| Some(TaskOwner { pid, start_ticks: procfs.stat(pid).ok()?.start_time_ticks, vm_uid: None }))
    })
}

/// A QEMU may be killed before it was ever looked at; then its cgroup names the VM.
fn name_vm_by_cgroup(vms: &VmIndex, verdict: &mut OccurrenceVerdict) {
    if matches!(verdict.subject, Subject::Process { .. })
        && verdict.attributes.get(attribute::COMM).is_some_and(is_qemu_name)
        && let Some(machine) = verdict.attributes.get(attribute::MEMCG).and_then(machine_of_cgroup)
        && let Some(uid) = vms.by_machine_name(&machine)
    {
        verdict.subject = Subject::Vm { uid };
    }
}

/// The counters of a VM's cgroup show the same kill: so that it is told once.
fn remember_kill(vms: &VmIndex, verdict: &OccurrenceVerdict) {
    if matches!(verdict.code, FindingCode::MemcgOomKill | FindingCode::NodeOomKill) {
        let of_pod = verdict.attributes.get(attribute::POD_UID);
        let of_vm = if let Subject::Vm { uid } = &verdict.subject { Some(uid.as_str()) } else { None };
        if let Some(uid) = of_vm.or(of_pod) {
            vms.add_oom_kill(verdict.at, uid);
        }
    }
}

fn write_position(position: &KmsgPosition) -> String {
    format!("{}/{}", position.boot_id, position.seq)
}

fn read_position(text: &str) -> Option<KmsgPosition> {
    let (boot_id, seq) = text.split_once('/')?;
    Some(KmsgPosition { boot_id: boot_id.to_owned(), seq: seq.parse().ok()? })
}

#[cfg(test)]
mod tests;
