//! The configuration's file, read again when it changes: probes and log go on with what it says now, without a restart.
//!
//! The file, and the rule files that it names, are compared by their content, because a ConfigMap changes by a link that points
//! elsewhere. A file that is wrong changes nothing: the agent goes on with the last good one, says once what is wrong, and counts
//! it. Flags win over the file, as at the start. Of everything else ([`RELOADED`]) the log says once by key that it takes a restart.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use kulprit_daemon::{BoxError, CancellationToken, Chain, http::ConfigPage, telemetry::LogFilter};
use tokio::{sync::watch, task::spawn_blocking};
use tracing::{error, info, warn};

use crate::{
    config::{AgentConfig, LogConfig},
    metrics::AgentMetrics,
    probes::{Beat, Blocking, Lane, Late, ProbeConfig},
};

/// How often the file is looked at: a change in a ConfigMap takes the kubelet a minute anyway.
const EVERY: Duration = Duration::from_secs(5);
/// Reading it takes microseconds; a disk that hangs leaves what runs as it is.
const DEADLINE: Duration = Duration::from_secs(5);

/// The keys that change while the agent runs, with all below them.
const RELOADED: [&str; 2] = ["log.filter", "probes"];

/// Whether a key, by its full name, is one of them.
#[must_use]
pub fn is_reloaded(key: &str) -> bool {
    RELOADED.iter().any(|taken| key.strip_prefix(taken).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// What is read: by path, `None` where there is no file.
type Contents = BTreeMap<PathBuf, Option<Vec<u8>>>;

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
    /// Takes the log's filter.
    pub set_log: Box<dyn Fn(&LogFilter) + Send + Sync>,
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
        let mut waiting = Vec::new();
        let mut known = self.contents(&mut reading).await.unwrap_or_default();
        // What was changed after the start had read it would never be told from what is known now.
        let result = self.read_again().await?;
        if result.as_ref().map_or(true, |config| *config != self.running) {
            self.take(result, false, &mut waiting);
        }
        loop {
            beat.wait(EVERY).await;
            let Ok(contents) = self.contents(&mut reading).await else { continue };
            let is_changed = |(path, content): &(&PathBuf, _)| known.get(*path).is_some_and(|known| known != *content);
            let changed: Vec<PathBuf> = contents.iter().filter(is_changed).map(|(path, _)| path.clone()).collect();
            known.extend(contents);
            if changed.is_empty() {
                continue;
            }
            let result = self.read_again().await?;
            self.take(result, changed.iter().any(|path| *path != self.file), &mut waiting);
        }
    }

    async fn read_again(&self) -> Result<Result<AgentConfig, BoxError>, BoxError> {
        let read = Arc::clone(&self.read);
        Ok(spawn_blocking(move || read()).await?)
    }

    async fn contents(&self, reading: &mut Blocking) -> Result<Contents, Late> {
        let files = [&self.file].into_iter().chain(&self.running.probes.npd_files).cloned().collect::<Vec<_>>();
        let read = |file: PathBuf| {
            let content = std::fs::read(&file).ok();
            (file, content)
        };
        reading.run(DEADLINE, move || files.into_iter().map(read).collect()).await
    }

    /// `waiting` are the keys of which was said that they wait for a restart.
    fn take(&mut self, result: Result<AgentConfig, BoxError>, are_rules_new: bool, waiting: &mut Vec<&'static str>) {
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
        let wait = needing_restart(&self.running, &config);
        for key in wait.iter().filter(|key| !waiting.contains(key)) {
            warn!(file = %self.file.display(), key, "the new value takes a restart of the agent; until then the old one holds");
        }
        *waiting = wait;
        let LogConfig { filter, format: _ } = config.log;
        let log = LogConfig { filter, ..self.running.log.clone() };
        let shown = AgentConfig { probes: config.probes, log, ..self.running.clone() };
        if let Err(error) = self.page.show(&shown) {
            warn!(error = %Chain(error.as_ref()), "the configuration cannot be shown");
        }
        if shown.log.filter != self.running.log.filter {
            (self.set_log)(&shown.log.filter);
            info!(file = %self.file.display(), filter = String::from(shown.log.filter.clone()), "the log has another filter");
        }
        if shown.probes != self.running.probes || are_rules_new {
            info!(file = %self.file.display(), "the probes start anew with another configuration");
            self.probes.send_replace(Arc::new(shown.probes.clone()));
        }
        self.running = shown;
    }
}

/// The keys whose new value waits for a restart.
fn needing_restart(running: &AgentConfig, new: &AgentConfig) -> Vec<&'static str> {
    // A new key is decided on here, or in `RELOADED`.
    let AgentConfig {
        central,
        tls,
        token,
        node_name,
        cluster,
        state_dir,
        run_dir,
        host_root,
        admin_listen,
        spool_bytes,
        drain,
        log: LogConfig { format, filter: _ },
        probes: _,
    } = new;
    let differing = [
        ("central", *central != running.central),
        ("tls", *tls != running.tls),
        ("token", *token != running.token),
        ("node_name", *node_name != running.node_name),
        ("cluster", *cluster != running.cluster),
        ("state_dir", *state_dir != running.state_dir),
        ("run_dir", *run_dir != running.run_dir),
        ("host_root", *host_root != running.host_root),
        ("admin_listen", *admin_listen != running.admin_listen),
        ("spool_bytes", *spool_bytes != running.spool_bytes),
        ("drain", *drain != running.drain),
        ("log.format", *format != running.log.format),
    ];
    differing.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use kulprit_daemon::{Clock, Readiness, http::Admin, metrics::Metrics};

    use super::*;

    /// Looked at every 5 s.
    const PATIENCE: Duration = Duration::from_secs(60);

    struct Case {
        file: PathBuf,
        probes: watch::Receiver<Arc<ProbeConfig>>,
        log: watch::Receiver<String>,
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
        let (filters, log) = watch::channel(String::new());
        let metrics = AgentMetrics::default();
        let series = Metrics::new("kulprit-agent", "0", &Clock::kernel());
        let admin = Admin::new("kulprit-agent", "0", Readiness::new(), series, &running).unwrap();
        let reload = Reload {
            file: file.clone(),
            read,
            running,
            probes,
            set_log: Box::new(move |filter| drop(filters.send_replace(filter.clone().into()))),
            page: admin.config_page(),
            metrics: metrics.clone(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(reload.run(Beat::new(0, tokio::time::Instant::now()), Lane::default(), stop.clone()));
        Case { file, probes: seen, log, metrics, stop, _dir: dir }
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
        // Before its first look or after it.
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

    #[tokio::test]
    async fn the_log_has_the_filter_that_the_file_says_now() {
        let mut case = start("log:\n  filter: info\n");
        std::fs::write(&case.file, "log:\n  filter: warn,kulprit_agent::uplink=debug\n").unwrap();
        tokio::time::timeout(PATIENCE, case.log.changed()).await.expect("it is taken").unwrap();
        assert_eq!(&*case.log.borrow(), "warn,kulprit_agent::uplink=debug");
        assert!(!case.probes.has_changed().unwrap(), "the probes are left alone");
        case.stop.cancel();
    }

    /// The configuration names them; what they say is in them.
    #[tokio::test]
    async fn rule_files_that_change_start_the_probes_anew() {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("rules.json");
        std::fs::write(&rules, "{}").unwrap();
        let mut case = start(&format!("probes:\n  npd_files: [{}]\n", rules.display()));
        // Until it is seen: the first look is no change.
        let change = async {
            for n in 0.. {
                std::fs::write(&rules, format!("{{\"plugin\": \"kmsg\"}}{}", " ".repeat(n))).unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = change => unreachable!("it goes on"),
            told = tokio::time::timeout(PATIENCE, case.probes.changed()) => told.expect("they are told").unwrap(),
        }
        assert_eq!((case.probes.borrow().npd_files.len(), case.metrics.config_reads(true)), (1, 1));
        case.stop.cancel();
    }

    #[test]
    fn every_other_key_is_said_to_take_a_restart() {
        let config = |text: &str| serde_json::from_str::<AgentConfig>(text).unwrap();
        let old = AgentConfig::default();
        for (text, keys) in [
            (r#"{"probes": {"kvm_every": "9s"}, "log": {"filter": "debug"}}"#, &[][..]),
            (r#"{"central": "http://127.0.0.1:1", "tls": {"ca": "/ca"}, "token": "/t"}"#, &["central", "tls", "token"]),
            (r#"{"node_name": "n", "cluster": "c", "state_dir": "/s"}"#, &["node_name", "cluster", "state_dir"]),
            (
                r#"{"run_dir": "/r", "host_root": "/h", "admin_listen": "[::1]:1"}"#,
                &["run_dir", "host_root", "admin_listen"],
            ),
            (
                r#"{"spool_bytes": 7, "drain": "1s", "log": {"format": "json"}}"#,
                &["spool_bytes", "drain", "log.format"],
            ),
        ] {
            assert_eq!(needing_restart(&old, &config(text)), keys);
        }
    }
}
