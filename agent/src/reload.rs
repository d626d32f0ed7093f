//! The configuration's file, read again when it changes: the probes go on with what it says now, without a restart.
//!
//! The file is compared by its content, because a ConfigMap changes by a link that points elsewhere. A file that is wrong changes
//! nothing: the agent goes on with the last good one, says once what is wrong, and counts it. Flags win over the file, as at the
//! start. What the probes do not use (addresses, folders, the log) is told to need a restart.

use std::{path::PathBuf, sync::Arc, time::Duration};

use kulprit_daemon::{BoxError, CancellationToken, Chain, http::ConfigPage};
use tokio::{sync::watch, task::spawn_blocking};
use tracing::{error, info, warn};

use crate::{
    config::AgentConfig,
    metrics::AgentMetrics,
    probes::{Beat, Blocking, Lane, Late, ProbeConfig},
};

/// How often the file is looked at: a change in a ConfigMap takes the kubelet a minute anyway.
const EVERY: Duration = Duration::from_secs(5);
/// Reading it takes microseconds; a disk that hangs leaves what runs as it is.
const DEADLINE: Duration = Duration::from_secs(5);

/// Reads the effective configuration anew: the file, then the flags.
pub type ReadConfig = Arc<dyn Fn() -> Result<AgentConfig, BoxError> + Send + Sync>;

/// What is read again, and who is told.
pub struct Reload {
    /// The file.
    pub file: PathBuf,
    /// Reads it as at the start.
    pub read: ReadConfig,
    /// What runs now.
    pub running: AgentConfig,
    /// The probes' part of it, for the probes.
    pub probes: watch::Sender<Arc<ProbeConfig>>,
    /// Where it is shown.
    pub page: ConfigPage,
    /// What to count.
    pub metrics: AgentMetrics,
}

impl Reload {
    /// Looks at the file on the beat, in turn with the probes' calls, until `stop`.
    ///
    /// # Errors
    /// None: what is wrong with the file is said and counted.
    pub async fn run(mut self, beat: Beat, lane: Lane, stop: CancellationToken) -> Result<(), BoxError> {
        tokio::select! {
            biased;
            // A disk that hangs must not hold the end up.
            () = stop.cancelled() => Ok(()),
            ended = self.follow(beat, Blocking::on(&lane)) => ended,
        }
    }

    async fn follow(&mut self, beat: Beat, mut reading: Blocking) -> Result<(), BoxError> {
        let mut known = self.content(&mut reading).await.unwrap_or_default();
        loop {
            beat.wait(EVERY).await;
            let Ok(content) = self.content(&mut reading).await else { continue };
            if content == known {
                continue;
            }
            known = content;
            let read = Arc::clone(&self.read);
            let result = spawn_blocking(move || read()).await?;
            self.take(result);
        }
    }

    /// `None` while there is no file, which is an error when it is read and not here.
    async fn content(&self, reading: &mut Blocking) -> Result<Option<Vec<u8>>, Late> {
        let file = self.file.clone();
        reading.run(DEADLINE, move || std::fs::read(file).ok()).await
    }

    fn take(&mut self, result: Result<AgentConfig, BoxError>) {
        let config = match result {
            Ok(config) => config,
            Err(error) => {
                self.metrics.config_read(false);
                let error = Chain(error.as_ref()).to_string();
                error!(file = %self.file.display(), error, "the configuration is wrong; the agent goes on with the last good one");
                return;
            }
        };
        self.metrics.config_read(true);
        let shown = AgentConfig { probes: config.probes.clone(), ..self.running.clone() };
        if shown != config {
            warn!(file = %self.file.display(), "only `probes` changes while the agent runs; the rest of the new configuration needs a restart");
        }
        let is_new = shown.probes != self.running.probes;
        if let Err(error) = self.page.show(&shown) {
            warn!(error = %Chain(error.as_ref()), "the configuration cannot be shown");
        }
        if is_new {
            info!(file = %self.file.display(), "the probes start anew with another configuration");
            self.probes.send_replace(Arc::new(shown.probes.clone()));
        }
        self.running = shown;
    }
}

#[cfg(test)]
mod tests {
    use kulprit_daemon::{Clock, Readiness, http::Admin, metrics::Metrics};

    use super::*;

    struct Case {
        file: PathBuf,
        probes: watch::Receiver<Arc<ProbeConfig>>,
        metrics: AgentMetrics,
        stop: CancellationToken,
        _dir: tempfile::TempDir,
    }

    fn start(text: &str) -> Case {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, text).unwrap();
        let path = file.clone();
        let read: ReadConfig = Arc::new(move || Ok(kulprit_daemon::config::load::<AgentConfig>(&path)?));
        let running = read().unwrap();
        let (probes, seen) = watch::channel(Arc::new(running.probes.clone()));
        let metrics = AgentMetrics::default();
        let series = Metrics::new("kulprit-agent", "0", &Clock::kernel());
        let admin = Admin::new("kulprit-agent", "0", Readiness::new(), series, &running).unwrap();
        let reload =
            Reload { file: file.clone(), read, running, probes, page: admin.config_page(), metrics: metrics.clone() };
        let stop = CancellationToken::new();
        tokio::spawn(reload.run(Beat::new(0, tokio::time::Instant::now()), Lane::default(), stop.clone()));
        Case { file, probes: seen, metrics, stop, _dir: dir }
    }

    /// Waits in real time: the file is read on a thread, which paused time does not wait for.
    async fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn the_probes_get_what_the_file_says_now_and_a_wrong_file_changes_nothing() {
        let case = start("probes:\n  kvm_every: 7s\n");
        tokio::task::yield_now().await;
        // The first look keeps what was read at the start.
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::fs::write(&case.file, "probes:\n  kvm_evry: 8s\n").unwrap();
        until(|| case.metrics.config_reads(false) == 1).await;
        assert_eq!(case.probes.borrow().kvm_every.to_string(), "7s");
        std::fs::write(&case.file, "probes:\n  kvm_every: 9s\n").unwrap();
        let mut probes = case.probes.clone();
        probes.changed().await.unwrap();
        assert_eq!(probes.borrow().kvm_every.to_string(), "9s");
        assert_eq!(case.metrics.config_reads(true), 1);
        case.stop.cancel();
    }
}
