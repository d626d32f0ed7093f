//! The agent's configuration: one YAML file, and flags that win over it. Every default has a unit and a reason.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
};

use kulprit_daemon::{
    config::HumanDuration,
    telemetry::{LogFilter, LogFormat},
};
use serde::{Deserialize, Serialize};

use crate::{probes::ProbeConfig, uplink::Central};

/// Settings of the agent.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Address of central. Default `http://127.0.0.1:7443`: central's own default, on the same host. On any other host it is https, with `tls.ca`.
    pub central: String,
    /// How central is known, where its address is https.
    pub tls: TlsConfig,
    /// File of a bearer token that says who we are, as Kubernetes projects it. Read anew for each connection. Default: none.
    pub token: Option<PathBuf>,
    /// Name of the node. Default: `NODE_NAME` (a DaemonSet sets it), else the hostname.
    pub node_name: Option<String>,
    /// Id of the cluster. Default: empty, central fills in its own.
    pub cluster: String,
    /// The one folder the agent writes. Default `/var/lib/kulprit`.
    pub state_dir: PathBuf,
    /// Folder of the local socket `agent.sock`. Default: `/run/kulprit`; with a `state_dir` of one's own, that.
    pub run_dir: Option<PathBuf>,
    /// Where the host's `/` is for us. Default `/`: in a container it is where the host is mounted.
    pub host_root: PathBuf,
    /// Where `/metrics`, `/ready` and `/debug/config` answer. Default `127.0.0.1:7442`: loopback, beside central's ports.
    pub admin_listen: SocketAddr,
    /// Most bytes of the spool. Default 67108864 (64 MiB): days of a node in trouble, small beside any node's disk.
    pub spool_bytes: u64,
    /// How long tasks may take to end. Default 10 s: a third of the grace period that Kubernetes gives.
    pub drain: HumanDuration,
    /// The log.
    pub log: LogConfig,
    /// The probes.
    pub probes: ProbeConfig,
}

/// How central is known, and how it knows us. The files are PEM and read anew for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// File of the CA of central's certificate. No other CA is trusted, those of the system neither.
    pub ca: Option<PathBuf>,
    /// The name that central's certificate is for. Default: the host of the address.
    pub name: Option<String>,
    /// File of our own certificate, where central wants one.
    pub certificate: Option<PathBuf>,
    /// File of its key.
    pub key: Option<PathBuf>,
}

/// How the agent logs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `human` or `json`. Default `human`.
    pub format: LogFormat,
    /// A level, and levels of modules. Default `info`.
    pub filter: LogFilter,
}

/// The state folder of a packaged agent.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/kulprit";
/// The folder of its socket.
pub const DEFAULT_RUN_DIR: &str = "/run/kulprit";
/// Smaller spools could not hold one snapshot of a full node, bytes.
const LEAST_SPOOL_BYTES: u64 = 1 << 20;

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            central: "http://127.0.0.1:7443".to_owned(),
            tls: TlsConfig::default(),
            token: None,
            node_name: None,
            cluster: String::new(),
            state_dir: DEFAULT_STATE_DIR.into(),
            run_dir: None,
            host_root: "/".into(),
            admin_listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7442).into(),
            spool_bytes: 64 << 20,
            drain: HumanDuration::from_secs(10),
            log: LogConfig::default(),
            probes: ProbeConfig::default(),
        }
    }
}

impl AgentConfig {
    /// What the file's form cannot say.
    ///
    /// # Errors
    /// The key, what is wrong with it and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        self.central().check().map_err(|problem| {
            format!("bad address `{}` of central: {problem}; for example http://127.0.0.1:7443", self.central)
        })?;
        if self.spool_bytes < LEAST_SPOOL_BYTES {
            return Err(format!(
                "spool_bytes is {}: at least {LEAST_SPOOL_BYTES} (1 MiB) are needed",
                self.spool_bytes
            ));
        }
        crate::probes::check_npd_files(&self.probes)?;
        if self.node_name.as_deref() == Some("") {
            return Err("the node name is empty: leave it out to take the hostname".to_owned());
        }
        Ok(())
    }

    /// Central, as the uplink reaches it.
    #[must_use]
    pub fn central(&self) -> Central {
        Central { address: self.central.clone(), tls: self.tls.clone(), token: self.token.clone() }
    }

    /// Path of the local socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        let is_packaged = self.state_dir.as_os_str() == DEFAULT_STATE_DIR;
        let dir = match &self.run_dir {
            Some(dir) => dir.clone(),
            None if is_packaged => DEFAULT_RUN_DIR.into(),
            None => self.state_dir.clone(),
        };
        dir.join("agent.sock")
    }
}
