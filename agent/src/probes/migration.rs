//! The `migration` probe: every migration that leaves or reaches this node, how its copy comes on, and how it ends.
//!
//! That one runs is read from libvirt's own file about the domain: when it is written (inotify, of the host's own libvirt), at
//! libvirt's events, and on the beat. It costs nobody anything.
//! While one leaves, it is looked at once a second: QEMU's sockets and copying threads from procfs, and the job's figures from libvirt.
//! Those take the domain's query job and ask QEMU, so they are only wished for while QEMU's main thread was seen to run or to sleep
//! as usual a moment before; the worker asks nothing while somebody else waits for QEMU (docs/adr/0001, 0010).

mod feed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kulprit_host::folder_watch::{FolderWatch, changed};
use kulprit_host::migration::{CopyThread, DomainJob, DomainStatus, DomainStatuses, STATUS_FOLDER};
use kulprit_host::process::{Procfs, TaskState};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Verdict;
use kulprit_judge::migration::book::{Direction, JobSeen, MigrationBook, MigrationSeen};
use kulprit_judge::migration::limit::{Around, ThreadTimes, queued_bytes};
use kulprit_model::Moment;
use tokio::time::{Instant, sleep_until};

pub(super) use feed::MigrationFeed;

use self::feed::News;
use super::blocking::{Blocking, Late};
use super::counters::count;
use super::{ProbeContext, ProbeSpec, chain};
use crate::look::Look;

const NAME: &str = "migration";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "How each running migration comes on, and which side limits it.",
    sources: "/run/libvirt/qemu/*.xml of libvirt (inotify) and of launchers; libvirt: virDomainGetJobStats, job and migration events; of a QEMU that sends: /proc/PID/{fd,net/tcp}, /proc/PID/task/*/schedstat",
    needs: "what `domain` needs; /proc/PID/net of virt-handler; CAP_SYS_ADMIN for its network namespace on suspicion",
    lost_without: "figures of a running migration without libvirt; the proof of its path without CAP_SYS_ADMIN",
    look_every: CALM_EVERY,
    spawn: |context| Box::pin(run(context)),
};
/// How often libvirt's files are looked at while nothing migrates: events tell sooner, and a copy that never begins counts after 20 s.
const CALM_EVERY: Duration = Duration::from_secs(5);
/// How often while something migrates.
const BUSY_EVERY: Duration = Duration::from_secs(1);
/// At most so often because of what libvirt writes: a migration that is refused at once lasts two seconds.
const WRITTEN_EVERY: Duration = Duration::from_millis(300);
/// Reading some files of a memory file system and of procfs takes 1 ms.
const DEADLINE: Duration = Duration::from_secs(2);

struct Probe {
    context: ProbeContext,
    procfs: Procfs,
    book: MigrationBook,
    reading: Blocking,
    files: Option<Files>,
}

/// The files of each libvirt, by the pid whose root they are in; 0 is the host's own.
type Files = BTreeMap<u32, DomainStatuses>;

/// What one pass read.
struct Pass {
    files: Files,
    jobs: Vec<JobSeen>,
    around: Vec<(String, Around, Option<String>)>,
    /// QEMUs that may be asked.
    askable: Vec<String>,
    errors: Vec<ReadError>,
}

async fn run(context: ProbeContext) {
    let procfs = Procfs::new(&context.config.procfs);
    let mut probe = Probe {
        procfs,
        book: MigrationBook::default(),
        reading: context.blocking(),
        files: Some(Files::new()),
        context,
    };
    let mut watch = None;
    loop {
        if watch.is_none() && !probe.context.once {
            // Where there is no libvirt there is no folder, and where no watch is left the beat is enough.
            watch = FolderWatch::open(&probe.context.host, STATUS_FOLDER).ok();
        }
        let looked_at = Instant::now();
        let look = probe.look().await;
        if !probe.context.send(look).await || probe.context.once {
            return;
        }
        loop {
            let context = &probe.context;
            let every = if probe.book.is_any_running() { BUSY_EVERY } else { CALM_EVERY };
            let news = tokio::select! {
                biased;
                () = context.stop.cancelled() => return,
                news = context.vms.migrations.news() => news,
                () = changed(&mut watch) => {
                    // A job is written about at each of its steps.
                    sleep_until(looked_at + WRITTEN_EVERY).await;
                    break;
                }
                () = context.beat.wait(every) => break,
            };
            let (look, has_moved) = probe.hear(news);
            if let Some(look) = look
                && !probe.context.send(look).await
            {
                return;
            }
            if has_moved {
                break;
            }
        }
    }
}

impl Probe {
    async fn look(&mut self) -> Look {
        let draft = self.context.begin(NAME);
        let at = self.context.clock.now();
        let (files, procfs, host) = (self.files.take(), self.procfs.clone(), self.context.host.clone());
        let launchers: Vec<(u32, String)> =
            self.context.launchers.borrow().rows.iter().map(|row| (row.pid, row.vmi_uid.clone())).collect();
        let (leaving, arriving) = {
            let running = self.context.vms.running();
            let with_pid = |uid: &str| {
                let (pid, _) = running.iter().find(|(_, vm)| vm.uid == uid)?;
                Some((uid.to_owned(), *pid))
            };
            let leaving: Vec<(String, u32)> = self.book.leaving().filter_map(with_pid).collect();
            let arriving: Vec<(String, u32)> = self.book.arriving().filter_map(with_pid).collect();
            (leaving, arriving)
        };
        let read = self.reading.run(DEADLINE, move || {
            read(files.unwrap_or_default(), &host, &procfs, &launchers, &leaving, &arriving, at)
        });
        let pass = match read.await {
            Ok(Ok(pass)) => pass,
            Ok(Err(error)) => {
                count(&self.context.counters.errors, 1);
                return draft.blind(chain(&error)).end(&self.context.clock);
            }
            Err(Late { for_secs }) => {
                return draft
                    .blind(format!("reading libvirt's files has not returned for {for_secs} s"))
                    .end(&self.context.clock);
            }
        };
        let Pass { files, jobs, around, askable, errors } = pass;
        self.files = Some(files);
        count(&self.context.counters.errors, u64::try_from(errors.len()).unwrap_or(u64::MAX));
        for (uid, around, silent_peer) in around {
            self.book.set_around(&uid, around, silent_peer);
        }
        let verdicts = self.book.look(at, &jobs, errors.is_empty());
        let leaving: BTreeSet<String> = self.book.leaving().map(str::to_owned).collect();
        if !self.context.once {
            for uid in askable.iter().filter(|uid| leaving.contains(*uid)) {
                self.context.vms.migrations.wish(uid);
            }
        }
        self.context.vms.migrations.set_leaving(leaving);
        draft.verdicts(verdicts).end(&self.context.clock)
    }

    /// What libvirt told since; the second says whether to look at once.
    fn hear(&mut self, news: Vec<News>) -> (Option<Look>, bool) {
        let draft = self.context.begin(NAME);
        let mut verdicts: Vec<Verdict> = Vec::new();
        let mut has_moved = false;
        for news in news {
            match news {
                News::Job { at, uid, job, is_round_begin } => {
                    verdicts.extend(self.book.sample(at, &uid, *job, is_round_begin));
                }
                News::Control { at, uid, is_waiting } => self.book.set_unanswered(at, &uid, is_waiting),
                News::Moved => has_moved = true,
            }
        }
        let look = (!verdicts.is_empty()).then(|| draft.verdicts(verdicts).end(&self.context.clock));
        (look, has_moved)
    }
}

/// One pass over the files of all libvirts, and over the QEMUs that send and that take in.
fn read(
    mut files: Files,
    host: &HostRoot,
    procfs: &Procfs,
    launchers: &[(u32, String)],
    leaving: &[(String, u32)],
    arriving: &[(String, u32)],
    now: Moment,
) -> Result<Pass, ReadError> {
    files.retain(|pid, _| *pid == 0 || launchers.iter().any(|(launcher, _)| launcher == pid));
    let (own, mut errors) = files.entry(0).or_default().read(host)?;
    let mut jobs: Vec<JobSeen> = own.into_iter().map(|status| seen(status.uuid.clone(), status, now)).collect();
    for (pid, vmi_uid) in launchers {
        let root = HostRoot::new(procfs.path().join(pid.to_string()).join("root"));
        match files.entry(*pid).or_default().read(&root) {
            Ok((statuses, failed)) => {
                errors.extend(failed);
                jobs.extend(statuses.into_iter().map(|status| seen(vmi_uid.clone(), status, now)));
            }
            // The launcher ended.
            Err(error) if error.is_not_found() => {}
            Err(error) => errors.push(error),
        }
    }
    // A VMI has two launchers on one node while it migrates within it; the one that migrates tells more.
    jobs.sort_by(|a, b| (&a.uid, a.migration.is_none()).cmp(&(&b.uid, b.migration.is_none())));
    jobs.dedup_by(|b, a| a.uid == b.uid);
    let sending = leaving.iter().map(|(uid, pid)| around(procfs, uid, *pid, now));
    let around = sending.chain(arriving.iter().map(|(uid, pid)| around_arrival(procfs, uid, *pid, now))).collect();
    let is_askable =
        |pid: u32| procfs.stat(pid).is_ok_and(|stat| matches!(stat.state, TaskState::Running | TaskState::Sleeping));
    let askable = leaving.iter().filter(|(_, pid)| is_askable(*pid)).map(|(uid, _)| uid.clone()).collect();
    Ok(Pass { files, jobs, around, askable, errors })
}

fn seen(uid: String, status: DomainStatus, now: Moment) -> JobSeen {
    JobSeen { uid, migration: status.job.and_then(|job| migration_seen(job, now)) }
}

/// `None` for a job that is no migration.
fn migration_seen(job: DomainJob, now: Moment) -> Option<MigrationSeen> {
    let direction = match job.kind.as_str() {
        "migration out" => Direction::Out,
        "migration in" => Direction::In,
        _ => return None,
    };
    let began = job.began_ms.and_then(|ms| i64::try_from(ms).ok()?.checked_mul(1_000)).map(|wall_usec| {
        let began = now.offset_usec(wall_usec.saturating_sub(now.wall_usec));
        Moment { wall_usec, ..began }
    });
    Some(MigrationSeen { direction, phase: job.phase, began, cap_bytes_per_sec: job.max_bandwidth_bytes })
}

/// A QEMU that sends: its queues and threads, and where a connection of it gets no answer.
fn around(procfs: &Procfs, uid: &str, pid: u32, at: Moment) -> (String, Around, Option<String>) {
    let sockets = procfs.tcp_of(pid).ok();
    let queued_bytes = sockets.as_deref().and_then(queued_bytes);
    let silent = sockets.iter().flatten().find(|socket| socket.is_syn_sent() && socket.n_retransmits > 0);
    let thread = busiest(&procfs.copy_threads(pid).unwrap_or_default());
    (uid.to_owned(), Around { at, queued_bytes, thread }, silent.map(|socket| socket.remote.to_string()))
}

/// A QEMU that takes a guest in: the times of the thread that does.
fn around_arrival(procfs: &Procfs, uid: &str, pid: u32, at: Moment) -> (String, Around, Option<String>) {
    let thread = busiest(&procfs.arrival_threads(pid).unwrap_or_default());
    (uid.to_owned(), Around { at, queued_bytes: None, thread }, None)
}

fn busiest(threads: &[CopyThread]) -> Option<ThreadTimes> {
    let busiest = threads.iter().max_by_key(|thread| thread.ran_nsec.saturating_add(thread.waited_nsec))?;
    Some(ThreadTimes { tid: busiest.tid, ran_nsec: busiest.ran_nsec, waited_nsec: busiest.waited_nsec })
}

#[cfg(test)]
mod tests;
