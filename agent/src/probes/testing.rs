//! Runs a probe as the agent does, for tests.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kulprit_daemon::{CancellationToken, Clock};
use kulprit_host::HostRoot;
use kulprit_judge::Verdict;
use kulprit_model::{FindingCode, Status};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{ProbeConfig, ProbeContext, ProbeCounters, ProbeSpec, VmIndex};
use crate::look::Look;

/// The most a test waits for a look.
const PATIENCE: Duration = Duration::from_secs(30);

/// A probe under test.
pub(super) struct Probe {
    looks: mpsc::Receiver<Look>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    pub(super) vms: Arc<VmIndex>,
    pub(super) counters: Arc<ProbeCounters>,
}

impl Probe {
    pub(super) fn start(spec: &ProbeSpec, host: HostRoot) -> Self {
        Self::start_with(spec, host, |_| ())
    }

    pub(super) fn start_with(spec: &ProbeSpec, host: HostRoot, change: impl FnOnce(&mut ProbeContext)) -> Self {
        let (out, looks) = mpsc::channel(64);
        // A receiver keeps the last value when its sender is gone.
        let (_, suspects) = watch::channel(Arc::default());
        let mut context = ProbeContext {
            host,
            config: Arc::new(ProbeConfig::default()),
            clock: Clock::kernel(),
            out,
            stop: CancellationToken::new(),
            suspects,
            vms: Arc::default(),
            launchers: Arc::default(),
            pulls: Arc::default(),
            beat: crate::probes::Beat::new(0, tokio::time::Instant::now()),
            lane: crate::probes::Lane::default(),
            recorder: Arc::default(),
            sacrifice: Arc::default(),
            counters: Arc::default(),
            start_at: None,
            once: false,
        };
        change(&mut context);
        let (vms, counters, stop) = (Arc::clone(&context.vms), Arc::clone(&context.counters), context.stop.clone());
        Self { looks, stop, task: tokio::spawn((spec.spawn)(context)), vms, counters }
    }

    /// The one look of a probe that is told to look once; the probe must end after it.
    pub(super) async fn once(spec: &ProbeSpec, host: HostRoot) -> Look {
        Self::once_with(spec, host, |_| ()).await
    }

    pub(super) async fn once_with(spec: &ProbeSpec, host: HostRoot, change: impl FnOnce(&mut ProbeContext)) -> Look {
        let mut probe = Self::start_with(spec, host, |context| {
            context.once = true;
            change(context);
        });
        let look = probe.look().await;
        assert!(probe.looks.recv().await.is_none(), "one look only");
        probe.task.await.unwrap();
        look
    }

    pub(super) async fn look(&mut self) -> Look {
        tokio::time::timeout(PATIENCE, self.looks.recv()).await.expect("a look in time").expect("the probe runs")
    }

    pub(super) async fn look_until(&mut self, mut is_wanted: impl FnMut(&Look) -> bool) -> Look {
        loop {
            let look = self.look().await;
            if is_wanted(&look) {
                return look;
            }
        }
    }

    /// Ends it, as the agent does.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        drop(self.looks);
        tokio::time::timeout(PATIENCE, self.task).await.expect("the probe ends").unwrap();
    }
}

/// Puts a file below `root`, with its folders.
pub(super) fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// Puts the `stat` of a thread below a procfs, of a process whose start is ten times its pid; the leader's is the process's too.
pub(super) fn put_thread(procfs: &Path, pid: u32, tid: u32, comm: &str, state: char) {
    let (zeros, start) = ("0 ".repeat(15), pid * 10);
    let stat = format!("{tid} ({comm}) {state} 1 1 1 {zeros}{start} {}\n", "0 ".repeat(30));
    write(procfs, &format!("{pid}/task/{tid}/stat"), &stat);
    if tid == pid {
        write(procfs, &format!("{pid}/stat"), &stat);
    }
}

/// The machine whose journals are recorded.
pub(super) const MACHINE: &str = "0123456789abcdef0123456789abcdef";

/// Puts a recorded journal below `root`, as the file that journald writes to.
pub(super) fn put_journal(root: &Path, fixture: &str) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("host/fixtures/journal").join(fixture);
    let packed = std::fs::read(recorded.with_extension("journal.zst")).unwrap();
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).unwrap().read_to_end(&mut bytes).unwrap();
    write(root, "etc/machine-id", &format!("{MACHINE}\n"));
    let folder = root.join("var/log/journal").join(MACHINE);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("system.journal"), bytes).unwrap();
}

/// The status of a state in a look, if it is mentioned.
pub(super) fn status_of(look: &Look, code: FindingCode) -> Option<Status> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code => Some(state.status),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}
