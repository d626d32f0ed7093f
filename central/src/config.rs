//! What central can be told: one YAML file, and flags that win over it.
//!
//! Every default has its unit and reason here; the effective configuration is shown at `/debug/config`.

mod tls;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use kulprit_daemon::{
    UsageError,
    config::{self, ConfigError, HumanDuration},
    telemetry::{LogFilter, LogFormat},
};
use kulprit_diagnosis::Settings;
use kulprit_model::catalogue::NodeCondition;
use serde::{Deserialize, Serialize};

use crate::{
    access::{self, Agents, Queries},
    conditions::NpdMode,
    connections::Most,
    incident::Timers,
    ingest::share::{Allowance, Allowances},
    publish,
    state::Limits,
    taints::{Effect, Policy},
};

pub use tls::{MadeConfig, TlsConfig};

/// Where the gRPC API listens and where the `kulprit` command looks for it without flags.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7443";
/// Where metrics and readiness are served.
pub const DEFAULT_ADMIN_LISTEN: &str = "127.0.0.1:7444";
/// Where the store is.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/kulprit-central";

/// The central service of Kulprit: takes what agents see, explains every VM in trouble, answers queries.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "kulprit-central", version)]
pub struct Flags {
    /// Configuration file (YAML); flags win over it
    #[arg(long, env = "KULPRIT_CENTRAL_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Address of the gRPC API for agents and queries [default: 127.0.0.1:7443]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Address for /metrics, /ready and /debug/config [default: 127.0.0.1:7444]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// Folder of the store [default: /var/lib/kulprit-central]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Kubeconfig of the cluster to watch [default: the service account of this pod, if this is one]
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Log lines for people or as JSON: human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Which log lines are written, for example info,kulprit_central::ingest=debug [default: info]
    #[arg(long, env = "KULPRIT_LOG", value_name = "FILTER")]
    pub log: Option<LogFilter>,
    /// What to do instead of running
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What central's program does beside running.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Remove what central left in the cluster: conditions and taints of nodes, and its Lease; Events go by themselves within the hour
    Cleanup(CleanupFlags),
}

/// Flags of `kulprit-central cleanup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct CleanupFlags {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Clean up though a central holds the Lease, and would write all of it again
    #[arg(long)]
    pub force: bool,
    /// Also this Secret of the Lease's namespace, if central has made it
    #[arg(long, value_name = "NAME")]
    pub secret: Vec<String>,
    /// Also this ConfigMap of the Lease's namespace, if central has made it
    #[arg(long, value_name = "NAME")]
    pub config_map: Vec<String>,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the gRPC API. Loopback: agents of this host only; any other address wants `tls`.
    pub listen: SocketAddr,
    /// TLS of the gRPC API. Without it: plaintext, on loopback alone.
    pub tls: Option<TlsConfig>,
    /// Address of metrics and readiness.
    pub admin_listen: SocketAddr,
    /// Folder of the store.
    pub data_dir: PathBuf,
    /// What an agent without a cluster of its own belongs to. Default: this host's machine id.
    pub cluster: Option<String>,
    /// How long history and closed incidents are kept. 7 days: a weekend and the week before it.
    pub history_retention: HumanDuration,
    /// Nothing heard of a node for longer: it is Unknown. 20 s: four heartbeats.
    pub silence_after: HumanDuration,
    /// What one agent, and all, may take.
    pub limits: LimitConfig,
    /// Who may talk to central.
    pub access: AccessConfig,
    /// Which Kubernetes is watched.
    pub kubernetes: KubernetesConfig,
    /// Whether of several centrals of a cluster one leads, by a Lease, and the others stand by. Without it this central leads, whoever
    /// else does. Without Kubernetes it always does.
    pub leader_election: bool,
    /// What is written to Kubernetes.
    pub publish: PublishConfig,
    /// When VMs count as stuck.
    pub symptoms: SymptomConfig,
    /// When incidents close and reopen.
    pub incidents: IncidentConfig,
    /// How long tasks may take to end. 10 s: a third of the grace period of Kubernetes.
    pub drain: HumanDuration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log: LogFilter,
}

/// What one agent, and all, may take. `docs/adr/0019-what-one-agent-may-take.md` says what is not to be chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitConfig {
    /// Connections at the same time. 12,000: 10,000 agents, and who asks.
    pub connections: usize,
    /// The same from one address, of IPv6 from one /64. 256: an agent needs one, people behind a proxy some. More where a proxy or NAT
    /// stands between agents and central.
    pub connections_per_address: usize,
    /// Nodes that are known. 12,000: as many as may be connected.
    pub nodes: usize,
    /// Messages a second that are taken from one node; its agent's spool keeps the rest. One of more than 1 KiB counts as several. 5,000:
    /// a spool of a night is taken in within a minute, and ten times as much is what this central takes of all.
    pub messages_per_second: u32,
    /// Messages of one node that are taken at once, as fast as they come. 50,000: a snapshot of a thousand VMs.
    pub messages_at_once: u32,
    /// Records of one node that are added to the history in an hour; what comes beyond acts and is counted, and is not kept. 100,000: what
    /// 200 VMs do that all flap.
    pub history_per_hour: u32,
    /// Records of one node that are added to the history at once. 400,000: a spool that is full.
    pub history_at_once: u32,
}

/// Who may talk to central (`docs/adr/0018-who-may-ask.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// How agents show who they are: `token` (that of their pod), `certificate` (of their node's name) or `open` (not at all). Default: `open`,
    /// where `listen` is loopback; elsewhere it has to be said.
    pub agents: Option<Agents>,
    /// How those who ask do: `review` (a token of Kubernetes, which says what they may see), `certificate` (any verified one, for everything)
    /// or `open`. Default: as for agents.
    pub queries: Option<Queries>,
    /// For whom tokens of agents, and of the reader's service account, are made.
    pub audience: String,
    /// Service account of the agents, `namespace/name`. Default: kulprit-agent in central's own namespace.
    pub agent_account: Option<String>,
}

/// Which Kubernetes is watched. Default: that of this pod; none outside of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// Watches none, also in a pod: VMs are libvirt's domains, as the agents see them.
    pub standalone: bool,
    /// The kubeconfig to use instead of this pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
}

/// What is written to Kubernetes; nothing without one. `docs/conditions.md` says what it does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishConfig {
    /// Whether nodes get conditions; else those that they have are removed.
    pub conditions: bool,
    /// What is done with the condition types of node-problem-detector: `coexist` never writes one, `replace` writes those that our findings
    /// come to. `coexist`: two writers of one type would correct each other for ever.
    pub npd_mode: NpdMode,
    /// Whether VMs, migrations and nodes get Events (`docs/events.md`).
    pub events: bool,
    /// Where central's Lease is. Default: the namespace of this pod, else of the kubeconfig's context.
    pub lease_namespace: Option<String>,
    /// Which nodes are tainted.
    pub taints: TaintConfig,
}

/// Which nodes are tainted. Default: none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaintConfig {
    /// Effect by condition. None: a taint takes room from VMs, which only their administrator can weigh.
    pub effects: BTreeMap<String, Effect>,
    /// Only says what would be tainted.
    pub dry_run: bool,
    /// Nodes of a zone that may be out at the same time. 2: one fault and one repair.
    pub max_nodes: usize,
    /// The same, percent of the zone's nodes for VMs, rounded down. 34: a third of three is one.
    pub max_percent: usize,
    /// How long a condition has to be true without a break. 1 min: in that time what is shared shows at other nodes as well.
    pub after: HumanDuration,
    /// So many nodes that come to want a taint within five minutes share something: nothing is added then. 3: more than a coincidence.
    pub storm_nodes: usize,
    /// For how long. 15 min: what was shared is found or over.
    pub cool_down: HumanDuration,
}

/// The clocks of symptoms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SymptomConfig {
    /// Standalone: how long a guest may take to shut down after it was asked to. 2 min: slow services of a big guest.
    pub shutdown_grace: HumanDuration,
    /// How long after that a stop is stuck. 30 s: what QEMU and libvirt need themselves.
    pub stop_margin: HumanDuration,
    /// How long a killed QEMU may take to end. 15 s: freeing the memory of a big guest.
    pub kill_grace: HumanDuration,
    /// How long a migration between plain hosts that failed is a symptom of its VM. Default 15 min: as long as a VM that went is shown.
    pub migration_failed: HumanDuration,
    /// How long a VMI may be Pending, and a VM wait for its volumes while none of them fills. 5 min: a slow provisioner.
    pub pending: HumanDuration,
    /// How long a VMI may be Scheduling. 2 min: an image of usual size is pulled by then.
    pub scheduling: HumanDuration,
    /// How long a VMI may be Scheduled. 60 s: what starts QEMU takes seconds.
    pub scheduled: HumanDuration,
    /// How long a migration may be in each phase before Running. 60 s: its target pod starts in seconds.
    pub migration_phase: HumanDuration,
    /// How long a running migration may get no nearer to its end. 30 s: several rounds of a big guest.
    pub migration_progress: HumanDuration,
    /// How old an occurrence may be to speak for now. 5 min: as long as the slowest of them is reported.
    pub occurrence_fresh: HumanDuration,
}

/// The clocks of incidents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IncidentConfig {
    /// How long no symptom may be left before an incident closes. 60 s: longer than the slowest look.
    pub close_after: HumanDuration,
    /// The same cause at the same place reopens it within this time. 15 min: a flapping fault is one page.
    pub reopen_within: HumanDuration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN.parse().expect("the constant is an address"),
            tls: None,
            admin_listen: DEFAULT_ADMIN_LISTEN.parse().expect("the constant is an address"),
            data_dir: PathBuf::from(DEFAULT_DATA_DIR),
            cluster: None,
            history_retention: "7d".parse().expect("the constant is a duration"),
            silence_after: HumanDuration::from_secs(20),
            limits: LimitConfig::default(),
            access: AccessConfig::default(),
            kubernetes: KubernetesConfig::default(),
            leader_election: true,
            publish: PublishConfig::default(),
            symptoms: SymptomConfig::default(),
            incidents: IncidentConfig::default(),
            drain: HumanDuration::from_secs(10),
            log_format: LogFormat::Human,
            log: LogFilter::default(),
        }
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            connections: 12_000,
            connections_per_address: 256,
            nodes: 12_000,
            messages_per_second: 5_000,
            messages_at_once: 50_000,
            history_per_hour: 100_000,
            history_at_once: 400_000,
        }
    }
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self { agents: None, queries: None, audience: "kulprit-central".to_owned(), agent_account: None }
    }
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self {
            conditions: true,
            events: true,
            npd_mode: NpdMode::Coexist,
            lease_namespace: None,
            taints: TaintConfig::default(),
        }
    }
}

impl Default for TaintConfig {
    fn default() -> Self {
        Self {
            effects: BTreeMap::new(),
            dry_run: false,
            max_nodes: 2,
            max_percent: 34,
            after: HumanDuration::from_mins(1),
            storm_nodes: 3,
            cool_down: HumanDuration::from_mins(15),
        }
    }
}

impl Default for SymptomConfig {
    fn default() -> Self {
        Self {
            shutdown_grace: HumanDuration::from_mins(2),
            stop_margin: HumanDuration::from_secs(30),
            kill_grace: HumanDuration::from_secs(15),
            migration_failed: HumanDuration::from_mins(15),
            pending: HumanDuration::from_mins(5),
            scheduling: HumanDuration::from_mins(2),
            scheduled: HumanDuration::from_secs(60),
            migration_phase: HumanDuration::from_secs(60),
            migration_progress: HumanDuration::from_secs(30),
            occurrence_fresh: HumanDuration::from_mins(5),
        }
    }
}

impl Default for IncidentConfig {
    fn default() -> Self {
        Self { close_after: HumanDuration::from_secs(60), reopen_within: HumanDuration::from_mins(15) }
    }
}

impl Config {
    /// The file that the flags name, if any, and then the flags.
    ///
    /// # Errors
    /// If the file is missing or wrong, or a value makes no sense.
    pub fn effective(flags: Flags) -> Result<Self, LoadError> {
        let Flags { config: path, listen, admin_listen, data_dir, kubeconfig, log_format, log, command: _ } = flags;
        let mut effective = match &path {
            Some(path) => config::load::<Self>(path)?,
            None => Self::default(),
        };
        effective.listen = listen.unwrap_or(effective.listen);
        effective.admin_listen = admin_listen.unwrap_or(effective.admin_listen);
        effective.data_dir = data_dir.unwrap_or(effective.data_dir);
        effective.kubernetes.kubeconfig = kubeconfig.or(effective.kubernetes.kubeconfig);
        effective.log_format = log_format.unwrap_or(effective.log_format);
        effective.log = log.unwrap_or(effective.log);
        effective.check(path.as_deref())?;
        Ok(effective)
    }

    /// The clocks of symptoms for diagnosis.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            shutdown_grace_usec: usec(self.symptoms.shutdown_grace),
            stop_margin_usec: usec(self.symptoms.stop_margin),
            kill_grace_usec: usec(self.symptoms.kill_grace),
            migration_failed_usec: usec(self.symptoms.migration_failed),
            occurrence_fresh_usec: usec(self.symptoms.occurrence_fresh),
            pending_usec: usec(self.symptoms.pending),
            scheduling_usec: usec(self.symptoms.scheduling),
            scheduled_usec: usec(self.symptoms.scheduled),
            migration_phase_usec: usec(self.symptoms.migration_phase),
            migration_progress_usec: usec(self.symptoms.migration_progress),
        }
    }

    /// The clocks of incidents.
    #[must_use]
    pub fn timers(&self) -> Timers {
        Timers {
            close_after_usec: usec(self.incidents.close_after),
            reopen_within_usec: usec(self.incidents.reopen_within),
        }
    }

    /// What is written to Kubernetes.
    #[must_use]
    pub fn published(&self) -> publish::Settings {
        let PublishConfig { conditions, events: _, npd_mode, lease_namespace: _, taints } = &self.publish;
        let TaintConfig { effects, dry_run, max_nodes, max_percent, after, storm_nodes, cool_down } = taints;
        let known = effects.iter().filter_map(|(name, effect)| Some((condition(name)?, *effect)));
        let policy = Policy {
            effects: known.collect(),
            max_nodes: *max_nodes,
            max_percent: *max_percent,
            after_usec: usec(*after),
            storm_nodes: *storm_nodes,
            cool_down_usec: usec(*cool_down),
        };
        publish::Settings { conditions: *conditions, npd_mode: *npd_mode, taints: policy, dry_run: *dry_run }
    }

    /// Who may talk to central.
    #[must_use]
    pub fn access(&self) -> access::Settings {
        let AccessConfig { agents, queries, audience, agent_account } = &self.access;
        access::Settings {
            agents: agents.unwrap_or(Agents::Open),
            queries: queries.unwrap_or(Queries::Open),
            audience: audience.clone(),
            agent_account: agent_account.clone(),
        }
    }

    /// Whether nobody connects without a certificate of `tls.client_ca`: where neither agents nor people show tokens instead.
    #[must_use]
    pub fn must_show_certificate(&self) -> bool {
        let AccessConfig { agents, queries, .. } = &self.access;
        *agents != Some(Agents::Token) && *queries != Some(Queries::Review)
    }

    /// The bounds of the current state.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { silence_usec: usec(self.silence_after), n_nodes: self.limits.nodes, ..Limits::default() }
    }

    /// How many connections there may be.
    #[must_use]
    pub const fn connections(&self) -> Most {
        Most { whole: self.limits.connections, of_address: self.limits.connections_per_address }
    }

    /// What one agent may take.
    #[must_use]
    pub fn allowances(&self) -> Allowances {
        let LimitConfig { messages_per_second, messages_at_once, history_per_hour, history_at_once, .. } = self.limits;
        Allowances {
            messages: Allowance::new(messages_per_second, Duration::from_secs(1), messages_at_once),
            history: Allowance::new(history_per_hour, Duration::from_secs(3_600), history_at_once),
        }
    }

    fn check(&self, path: Option<&Path>) -> Result<(), UsageError> {
        let place = path.map_or_else(|| "the configuration".to_owned(), |path| format!("`{}`", path.display()));
        let wrong = |key: &str, problem: &str, fix: &str| {
            Err(UsageError::new(format!("bad value of `{key}` in {place}: {problem}")).fix(fix))
        };
        tls::check(self.tls.as_ref(), self.listen, self.kubernetes.standalone, &place)?;
        if self.history_retention < HumanDuration::from_mins(60) {
            return wrong("history_retention", "less than an hour", "write at least 1h");
        }
        if self.silence_after < HumanDuration::from_secs(6) {
            let problem = "no longer than one heartbeat of an agent (5 s): healthy nodes would be Unknown";
            return wrong("silence_after", problem, "write at least 6s");
        }
        if self.kubernetes.standalone && self.kubernetes.kubeconfig.is_some() {
            return wrong("kubernetes.standalone", "true, and a kubeconfig is given", "leave one of the two out");
        }
        let limits = &self.limits;
        let counts = [
            ("limits.connections", limits.connections),
            ("limits.connections_per_address", limits.connections_per_address),
            ("limits.nodes", limits.nodes),
        ];
        let rates = [
            ("limits.messages_per_second", limits.messages_per_second),
            ("limits.messages_at_once", limits.messages_at_once),
            ("limits.history_per_hour", limits.history_per_hour),
            ("limits.history_at_once", limits.history_at_once),
        ];
        let zero = counts.iter().find(|(_, n)| *n == 0).map(|(key, _)| *key);
        let zero = zero.or_else(|| rates.iter().find(|(_, n)| *n == 0).map(|(key, _)| *key));
        if let Some(key) = zero {
            return wrong(key, "0: nothing would be let in", "write at least 1");
        }
        let AccessConfig { agents, queries, audience, agent_account } = &self.access;
        if !self.listen.ip().is_loopback() {
            let open = format!("{}, where others reach it, and nobody would be asked who he is", self.listen);
            if matches!(agents, None | Some(Agents::Open)) {
                return wrong("listen", &open, "set `access.agents` to token (of Kubernetes) or certificate");
            }
            if matches!(queries, None | Some(Queries::Open)) {
                return wrong("listen", &open, "set `access.queries` to review (by Kubernetes) or certificate");
            }
        }
        if audience.is_empty() {
            return wrong("access.audience", "empty", "write the audience of the agents' tokens");
        }
        let is_account = |account: &str| {
            account.split_once('/').is_some_and(|(namespace, name)| {
                !namespace.is_empty() && !name.is_empty() && !name.contains('/') && !account.contains(':')
            })
        };
        if let Some(account) = agent_account.as_deref().filter(|account| !is_account(account)) {
            return wrong("access.agent_account", &format!("`{account}`"), "write NAMESPACE/NAME of a service account");
        }
        let taints = &self.publish.taints;
        if let Some(name) = taints.effects.keys().find(|name| condition(name).is_none()) {
            let names: Vec<&str> = NodeCondition::ALL.into_iter().map(NodeCondition::as_str).collect();
            let problem = format!("there is no condition `{name}`");
            return wrong("publish.taints.effects", &problem, &format!("choose of {}", names.join(", ")));
        }
        if taints.max_percent > 100 {
            return wrong("publish.taints.max_percent", "more than all", "write 0 to 100");
        }
        if taints.storm_nodes < 2 {
            return wrong(
                "publish.taints.storm_nodes",
                "every node is a storm: none is ever tainted",
                "write at least 2",
            );
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return wrong("admin_listen", "the same address as `listen`", "choose another port with --admin-listen");
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is missing or wrong.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A value makes no sense.
    #[error(transparent)]
    Value(#[from] UsageError),
}

fn condition(name: &str) -> Option<NodeCondition> {
    NodeCondition::ALL.into_iter().find(|condition| condition.as_str() == name)
}

fn usec(duration: HumanDuration) -> i64 {
    i64::try_from(duration.get().as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
