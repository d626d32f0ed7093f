//! What can be asked, as flags and subcommands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::route::Place;

/// Says why a VM is stuck on its node, or down: which host-level fault it is, with the evidence.
#[derive(Debug, Parser)]
#[command(name = "kulprit", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    /// How to print: for people, or for programs.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Human, value_name = "FORMAT")]
    pub(crate) output: Format,

    /// How long to wait for an answer, seconds.
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,

    // Last: its heading would stand over what follows.
    #[command(flatten)]
    pub(crate) place: Place,

    #[command(subcommand)]
    pub(crate) question: Question,
}

/// How to print an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Pages and tables; colour only on a terminal.
    Human,
    /// One JSON object.
    Json,
    /// The same object as YAML.
    Yaml,
}

/// Which incidents, beside those of a namespace.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct WhichIncidents {
    /// Only those of this node: the cause sits there, or a VM on it is touched.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Only those of this root cause, for example LocalDiskStalled.
    #[arg(long)]
    pub(crate) cause: Option<String>,
}

/// One question.
#[derive(Debug, Subcommand)]
pub(crate) enum Question {
    /// Why is this VM or migration stuck, or this node sick? Without a name: everything that is in trouble.
    ///
    /// Exit status: 0 answered, 3 a symptom is there and only Unexplained, 2 could not be asked.
    Why {
        /// Name, namespace/name or UID of a VM; `migration/NAME`; `node/NAME` for a node's own faults.
        name: Option<String>,
        /// Only on this node; with a name: where two nodes have a VM of that name.
        #[arg(long)]
        node: Option<String>,
    },
    /// Could this VM migrate now, to which nodes, and what would stop it? Nothing is started.
    ///
    /// Exit status: 0 yes (with or without warnings), 1 no, 3 not enough is known, 2 could not be asked.
    CanMigrate {
        /// Name, namespace/name or UID of a VM or VMI.
        name: String,
        /// Only to this node.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Diagnoses a recorded case, a must-gather or a sosreport (folder or .tar.gz); needs no cluster and no central.
    ///
    /// Exit status: 0 a verdict was reached, 3 only Unexplained, 2 the case cannot be read.
    Diagnose {
        /// The case.
        case: PathBuf,
        /// Only this VM, `[NAMESPACE/]NAME`, whether it shows a symptom or not.
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
        /// Only this migration of it.
        #[arg(long, requires = "vm", value_name = "NAME")]
        migration: Option<String>,
        /// The moment of asking, where the case does not tell or another one is meant: 2026-03-01T10:15:00Z.
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
        /// The score sheet of this cause: prior, each clue with its factors, what would change the verdict.
        #[arg(long, value_name = "CAUSE")]
        explain: Option<String>,
    },
    /// Writes what a verdict is decided from now into a folder that `kulprit diagnose` reads, without secrets.
    Record {
        /// `vm/NAME`, `migration/NAME` or `node/NAME`; a name alone is a VM's.
        subject: String,
        /// The folder; it is made, or has to be empty.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// History of the nodes concerned from this time on, for example 2026-03-01T10:15:00Z; otherwise of the 24 hours before `--to`.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// History until this time, otherwise until now.
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
    },
    /// Writes what whoever supports this installation has to see into one file (.tar.gz), without secrets: versions, central's configuration,
    /// readiness, metrics and last log lines, nodes, incidents, findings of the last hour.
    ///
    /// Exit status: 0 central's part is in it, 3 only what is known without central, 2 nothing could be written.
    SupportBundle {
        /// The file; it must not be there yet.
        #[arg(long, value_name = "FILE", default_value = "kulprit-support.tar.gz")]
        out: PathBuf,
    },
    /// How good the verdicts are on a folder of cases that have a truth.yaml each.
    Eval {
        /// The folder; each folder or .tar.gz in it, at any depth, with a truth.yaml is a case.
        folder: PathBuf,
        /// Each case with what was expected and what was said, not only those that went wrong.
        #[arg(short, long)]
        all: bool,
    },
    /// The incidents: one cause at one place, with every VM it touches.
    Incidents {
        /// Closed ones too.
        #[arg(short, long)]
        all: bool,
        /// What the nodes showed of its VMs when it began: threads, counters, logs, the minutes before.
        #[arg(long, requires = "id")]
        captures: bool,
        #[command(flatten)]
        which: WhichIncidents,
        /// Goes on with a line for each change, until Ctrl-C; with `-o json` an object a line.
        #[arg(short, long)]
        watch: bool,
        /// Only this one, with its timeline: its id, or the last 8 characters of it.
        #[arg(conflicts_with_all = ["node", "cause", "watch", "all"])]
        id: Option<String>,
    },
    /// What the nodes of a VM show of it now: threads, counters, logs, the minutes before.
    ///
    /// Exit status: 0 a node has shown something, 3 none has, 2 could not be asked.
    Capture {
        /// Name, namespace/name or UID of the VM, with or without `vm/` before it.
        vm: String,
        /// Only what this node shows, and not each where the VM is.
        #[arg(long)]
        node: Option<String>,
    },
    /// The nodes, and whether their agents report.
    Nodes,
    /// One node: its findings and its VMs.
    Node {
        /// Name of the node.
        name: String,
        /// Absent states too.
        #[arg(short, long)]
        all: bool,
    },
    /// The VMs, as their nodes show them, and those of Kubernetes that no node shows.
    Vms {
        /// Only on this node.
        #[arg(long)]
        node: Option<String>,
    },
    /// What the agents found: faults and notices that hold now; with -n only of the VMs there.
    Findings {
        /// Only of this node.
        #[arg(long)]
        node: Option<String>,
        /// Only of this code, for example KubeletInactive.
        #[arg(long)]
        code: Option<String>,
        /// Absent states too.
        #[arg(short, long)]
        all: bool,
        /// History instead: all of the last SPAN, for example 2h or 30m.
        #[arg(long, value_name = "SPAN")]
        since: Option<String>,
    },
    /// What this host's agent sees, asked over its own socket: works when central is gone.
    Status {
        /// The agent's socket.
        #[arg(long, env = "KULPRIT_AGENT_SOCKET", value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// The causes that can be named.
    Causes {
        /// Only this one, with clues and remedy.
        id: Option<String>,
    },
    /// Prints a script that makes a shell complete this command, names of VMs and nodes included.
    ///
    /// bash: `source <(kulprit completions bash)`. kubectl completes `kubectl kulprit` by itself where `kubectl_complete-kulprit`, a link to
    /// this program, is in PATH.
    #[command(alias = "completion")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}
