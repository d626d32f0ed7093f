//! The command line of `kulprit-agent`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use kulprit_daemon::{
    UsageError,
    config::{self, HumanDuration},
    telemetry::{LogFilter, LogFormat},
};

use crate::config::AgentConfig;

/// Looks at this node and says what keeps its virtual machines down or stuck.
#[derive(Clone, Debug, Parser)]
#[command(name = "kulprit-agent", version, max_term_width = 120)]
pub struct Arguments {
    /// What to do; without one: run
    #[command(subcommand)]
    pub command: Option<Command>,
    /// YAML file with any of these settings and more; flags win over it
    #[arg(long, global = true, value_name = "FILE", env = "KULPRIT_AGENT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address of central [default: http://127.0.0.1:7443, central's own default on the same host]
    #[arg(long, global = true, value_name = "URL")]
    pub central: Option<String>,
    /// Name of this node [default: $NODE_NAME, else the hostname]
    #[arg(long, global = true, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Id of the cluster [default: none, central fills in its own]
    #[arg(long, global = true, value_name = "ID")]
    pub cluster: Option<String>,
    /// The one folder the agent writes: spool and start counter [default: /var/lib/kulprit]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder of the local socket agent.sock [default: /run/kulprit; with --state-dir, that]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where the host's / is for us [default: /]
    #[arg(long, global = true, value_name = "DIR")]
    pub host_root: Option<PathBuf>,
    /// The procfs whose processes are the node's [default: /proc]
    #[arg(long, global = true, value_name = "DIR")]
    pub procfs: Option<PathBuf>,
    /// Only processes in this cgroup or below it are the node's [default: all]
    #[arg(long, global = true, value_name = "PATH")]
    pub cgroup_prefix: Option<String>,
    /// Address of the system bus [default: the host's]
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub dbus_address: Option<String>,
    /// The kubelet's health endpoint [default: http://127.0.0.1:10248/healthz]
    #[arg(long, global = true, value_name = "URL")]
    pub healthz_url: Option<String>,
    /// The libvirt worker's binary [default: kulprit-agent-libvirt beside our own]
    #[arg(long, global = true, value_name = "FILE")]
    pub libvirt_worker: Option<PathBuf>,
    /// Where /metrics, /ready and /debug/config answer [default: 127.0.0.1:7442]
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// Form of the log: human or json [default: human]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// A level, and levels of modules, for example info,kulprit_agent::uplink=debug [default: info]
    #[arg(long, global = true, value_name = "FILTER", env = "KULPRIT_LOG")]
    pub log: Option<LogFilter>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Looks, judges and reports until told to end
    Run,
    /// Runs every probe once and prints what it saw. Exit code: 0 healthy, 1 a fault was found, 2 no fault was found but not
    /// everything could be looked at
    Check {
        /// Form of the answer
        #[arg(short, long, value_enum, default_value_t = Output::Human)]
        output: Output,
        /// Runs this probe alone and speaks node-problem-detector's custom-plugin protocol: one line, and exit code 0 (OK),
        /// 1 (NonOK) or 2 (Unknown)
        #[arg(long, value_name = "PROBE", conflicts_with = "output")]
        npd: Option<String>,
        /// With --npd: answers within this time; what is not known by then is Unknown. node-problem-detector kills a plugin
        /// after its `timeout`, 5 s by default: with more time for it, states count that must last for longer
        #[arg(long, value_name = "DURATION", requires = "npd", default_value = "4s")]
        within: HumanDuration,
    },
    /// Lists the probes: what each answers, how often, from what
    Probes {
        /// Form of the answer
        #[arg(short, long, value_enum, default_value_t = Output::Human)]
        output: Output,
    },
    /// Does one thing that may never return: for the agent itself, which starts it
    #[command(hide = true)]
    Sacrifice {
        /// What may hang
        place: String,
        /// What to do there, JSON
        task: String,
    },
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table.
    #[default]
    Human,
    /// One JSON object.
    Json,
}

impl Arguments {
    /// The configuration: file, then flags.
    ///
    /// # Errors
    /// What is wrong with the file or a value.
    pub fn to_config(&self) -> Result<AgentConfig, kulprit_daemon::BoxError> {
        let mut config: AgentConfig = match &self.config {
            Some(path) => config::load(path)?,
            None => AgentConfig::default(),
        };
        let Self {
            command: _,
            config: _,
            central,
            node_name,
            cluster,
            state_dir,
            run_dir,
            host_root,
            procfs,
            cgroup_prefix,
            dbus_address,
            healthz_url,
            libvirt_worker,
            admin_listen,
            log_format,
            log,
        } = self.clone();
        set(&mut config.central, central);
        set(&mut config.node_name, node_name.map(Some));
        set(&mut config.cluster, cluster);
        set(&mut config.state_dir, state_dir);
        set(&mut config.run_dir, run_dir.map(Some));
        set(&mut config.host_root, host_root);
        set(&mut config.probes.procfs, procfs);
        set(&mut config.probes.cgroup_prefix, cgroup_prefix.map(Some));
        set(&mut config.probes.dbus_address, dbus_address.map(Some));
        set(&mut config.probes.healthz_url, healthz_url);
        set(&mut config.probes.libvirt.worker, libvirt_worker.map(Some));
        set(&mut config.admin_listen, admin_listen);
        set(&mut config.log.format, log_format);
        set(&mut config.log.filter, log);
        config.check().map_err(UsageError::new)?;
        Ok(config)
    }
}

fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(arguments: &[&str]) -> Result<AgentConfig, String> {
        let all = std::iter::once("kulprit-agent").chain(arguments.iter().copied());
        let arguments = Arguments::try_parse_from(all).map_err(|error| error.to_string())?;
        arguments.to_config().map_err(|error| kulprit_daemon::exit::ExitReason::of(error.as_ref()).line)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, "central: http://127.0.0.1:1\ncluster: c1\nprobes:\n  kvm_every: 5s\n").unwrap();
        let config =
            config_of(&["check", "--config", file.to_str().unwrap(), "--central", "http://127.0.0.1:2"]).unwrap();
        assert_eq!((config.central.as_str(), config.cluster.as_str()), ("http://127.0.0.1:2", "c1"));
        assert_eq!(config.probes.kvm_every.to_string(), "5s");
        assert_eq!(config.admin_listen, AgentConfig::default().admin_listen);
    }

    #[test]
    fn mistakes_are_told_in_one_line_with_what_to_do() {
        for (arguments, want) in [
            (
                &["--central", "10.0.0.1:7443"][..],
                "bad address `10.0.0.1:7443` of central: it must begin with http:// or https://; for example http://127.0.0.1:7443",
            ),
            (&["--node-name", ""], "the node name is empty: leave it out to take the hostname"),
            (
                &["--config", "/nonexistent/agent.yaml"],
                "failed to read the configuration `/nonexistent/agent.yaml`: No such file or directory (os error 2); create it or name another with --config",
            ),
        ] {
            assert_eq!(config_of(arguments).unwrap_err(), want);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, "probes:\n  kvm_evry: 5s\n").unwrap();
        let error = config_of(&["--config", file.to_str().unwrap()]).unwrap_err();
        assert!(error.contains("unknown key `probes.kvm_evry`; did you mean `kvm_every`?"), "{error}");
    }

    #[test]
    fn the_socket_lies_in_run_unless_the_state_folder_is_ones_own() {
        let socket = |arguments: &[&str]| config_of(arguments).unwrap().socket();
        assert_eq!(socket(&[]), PathBuf::from("/run/kulprit/agent.sock"));
        assert_eq!(socket(&["--state-dir", ".run/agent"]), PathBuf::from(".run/agent/agent.sock"));
        assert_eq!(socket(&["--state-dir", "x", "--run-dir", "y"]), PathBuf::from("y/agent.sock"));
    }
}
