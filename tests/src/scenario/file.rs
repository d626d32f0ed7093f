//! A scenario file: `tests/scenarios/<name>.yaml`. A new scenario is a new file and nothing else.
//!
//! ```yaml
//! about: A file system freezes under a VM's disk.      # one sentence, for the table
//! core: true                                           # played by `make test` too
//! disks: {data: {mib: 64}}                             # what the VMs lie on; `on: [n1, n2]` shares it
//! vms:
//!   db: {runs: {writer: {bursts: 4}}, disk: data}      # on n1, unless `on` says otherwise
//! steps:                                               # in order; a fault stays until `undo`
//!   - freeze: data
//!   - expect: {vm: db, finding: VmDiskStalled, symptom: Unresponsive, chain: [LocalDiskStalled, QemuBlockedInKernel], at: n1}
//!   - undo
//! ```
//!
//! After the last step everything must become quiet by itself. At no time may anybody be blamed whom no `expect` names; a scenario
//! without `expect` is a control: nothing at all may be raised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::disk::Failing;
use crate::fault::network::MIGRATION_PORTS;
use crate::image::Program;

/// A scenario as its file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name of its file, without `.yaml`.
    #[serde(skip)]
    pub name: String,
    /// What happens, one sentence.
    pub about: String,
    /// Whether `make test` plays it.
    #[serde(default)]
    pub core: bool,
    /// Disks, by name: made before the VMs.
    #[serde(default)]
    pub disks: BTreeMap<String, DiskSpec>,
    /// Nodes with a container runtime, the real containerd. It stays for the scenarios after this one.
    #[serde(default)]
    pub runtimes: Vec<String>,
    /// VMs, by name: started, and seen by Kulprit, before the first step.
    #[serde(default)]
    pub vms: BTreeMap<String, VmSpec>,
    /// VMs and nodes that may show something of their own while the fault lasts: it is theirs as well.
    #[serde(default)]
    pub may_show: Vec<String>,
    /// What happens and what must be said, in order.
    pub steps: Vec<Step>,
}

/// A small file system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Size, MiB.
    pub mib: u64,
    /// The nodes that have it mounted.
    #[serde(default = "first_node_alone")]
    pub on: Vec<String>,
    /// Whether its device can hang.
    #[serde(default)]
    pub served: bool,
}

/// A VM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// The node on which it is started.
    #[serde(default = "first_node")]
    pub on: String,
    /// What its guest does.
    pub runs: Program,
    /// The disk its image lies on; without, the node's own file system.
    pub disk: Option<String>,
    /// Size of its image, MiB.
    pub disk_mib: Option<u64>,
    /// Whether the whole image is written at once, so that reading it reaches the device.
    #[serde(default)]
    pub allocated: bool,
    /// Whether libvirt checks that it gets every feature of its CPU.
    #[serde(default)]
    pub checked_cpu: bool,
}

/// One step.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Freezes a disk: who writes to it sleeps in D state.
    Freeze(String),
    /// Lets no request of a served disk's device be answered.
    Hang(String),
    /// Breaks a disk.
    Fail {
        /// Which.
        disk: String,
        /// Which requests fail.
        requests: Failing,
    },
    /// Fills a disk.
    Fill {
        /// Which.
        disk: String,
        /// What is left, KiB.
        left_kib: u64,
    },
    /// Stops a unit by systemd.
    StopUnit(UnitSpec),
    /// Stops the main process of a unit by SIGSTOP.
    HangUnit(UnitSpec),
    /// Kills the main process of a unit. Not to be undone.
    KillUnit(UnitSpec),
    /// Takes kubelet's configuration away: it restarts in a loop.
    LoopKubelet(String),
    /// Stops a VM's QEMU by SIGSTOP.
    HangQemu(String),
    /// Kills a VM's QEMU. Not to be undone: `boot` starts the VM again.
    KillQemu(KillSpec),
    /// Limits the memory of a VM's QEMU, or of a node.
    LimitMemory {
        /// Whose.
        of: String,
        /// What is allowed beyond what is used, MiB.
        spare_mib: u64,
    },
    /// Limits the processor time of a VM's QEMU.
    LimitCpu {
        /// Whose.
        vm: String,
        /// Of one core.
        percent: u64,
    },
    /// Takes a node's processors: it gets little, and busy loops on it want all of it.
    StarveCpu {
        /// Which.
        node: String,
        /// Of one core, for the whole node.
        percent: u64,
        /// Busy loops.
        loops: usize,
    },
    /// Starts busy loops on a node.
    Busy {
        /// Where.
        node: String,
        /// How many.
        loops: usize,
    },
    /// Lets a node start only a few more tasks.
    LimitPids {
        /// Which.
        node: String,
        /// What is allowed beyond what there is.
        spare: u64,
    },
    /// Removes `/dev/kvm`.
    RemoveKvm(String),
    /// Changes the mode of `/dev/kvm` to 0000.
    LockKvm(String),
    /// Lets a node's libvirt expect a feature of CPUs that KVM does not give.
    MissCpuFeature {
        /// Where.
        node: String,
        /// As libvirt names it.
        feature: String,
    },
    /// Drops what arrives at a node for QEMU's migration ports, or others.
    DropPorts {
        /// Which.
        node: String,
        /// nftables' words for a range.
        #[serde(default = "migration_ports")]
        ports: String,
    },
    /// Lets a node send slowly.
    SlowLink {
        /// Which.
        node: String,
        /// Mbit/s.
        mbit: u32,
    },
    /// Loses full packets between two nodes; small ones pass.
    SmallPath {
        /// Where they are sent.
        from: String,
        /// Where they do not arrive.
        to: String,
    },
    /// Takes a node's link down.
    LinkDown(String),
    /// Writes a line into the kernel log, of a fault that cannot be made here; `{name}` is the pid of that VM's QEMU.
    KernelLog(String),
    /// Runs a shell line on a node that begins a fault; another one ends it.
    Fault {
        /// Where.
        #[serde(default = "first_node")]
        on: String,
        /// The line that begins it.
        begins: String,
        /// The line that ends it.
        ends: String,
    },
    /// Ends all faults.
    Undo,

    /// Runs `virsh <words>` on a node and waits for its end.
    Virsh {
        /// The node on which it runs.
        #[serde(default = "first_node")]
        on: String,
        /// The words after `virsh`.
        words: String,
        /// Whether it must fail.
        #[serde(default)]
        fails: bool,
    },
    /// Runs a shell line on a node and waits for its end.
    Run {
        /// Where.
        #[serde(default = "first_node")]
        on: String,
        /// The line.
        line: String,
        /// Whether it must fail.
        #[serde(default)]
        fails: bool,
    },
    /// Starts a shell line on a node that goes on, until it ends or the scenario does.
    Start {
        /// Where.
        #[serde(default = "first_node")]
        on: String,
        /// The line.
        line: String,
        /// What `ended` calls it.
        named: String,
    },
    /// Waits for what `start` began.
    Ended {
        /// Its name.
        named: String,
        /// Whether it must fail.
        #[serde(default)]
        fails: bool,
    },
    /// Starts a VM again and waits until its guest runs.
    Boot(String),
    /// Begins a migration and waits until memory is sent, or not.
    Migrate {
        /// Who.
        vm: String,
        /// To which node.
        to: String,
        /// Most that libvirt sends, MiB/s.
        mib_per_sec: Option<u32>,
        /// Whether its disk is copied as well.
        #[serde(default)]
        copies_storage: bool,
        /// Whether the next step waits until memory is sent.
        #[serde(default)]
        until_sending: bool,
    },
    /// Waits until a migration has arrived.
    Arrived(MigrationEnd),
    /// Waits until a migration has failed.
    Failed(MigrationEnd),
    /// Aborts a migration, as an administrator does.
    Abort(String),
    /// Lets time pass, seconds.
    Pause(u64),

    /// Waits for a verdict.
    Expect(Expected),
    /// Waits for a finding that is nobody's trouble by itself.
    Found(FoundSpec),
    /// Waits until a node is known to be silent: what it said is unknown.
    Silent(String),
    /// Nothing may be raised for so long, seconds, and nothing may have been raised since the last `undo`.
    Nothing(u64),
}

/// A unit on a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSpec {
    /// Where.
    pub node: String,
    /// `kubelet.service`.
    pub unit: String,
}

/// Who is killed, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillSpec {
    /// Which VM's QEMU.
    pub vm: String,
    /// The node, if it is the QEMU on the target of a migration; else where the VM is.
    pub node: Option<String>,
    /// `SIGKILL`, `SIGSEGV`.
    #[serde(default = "kill")]
    pub signal: String,
}

/// The end of a migration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationEnd {
    /// Whose.
    pub vm: String,
    /// It may take so long, seconds.
    #[serde(default = "migration_limit")]
    pub within: u64,
    /// An arrival must take so long, seconds: a control that is over at once shows nothing.
    #[serde(default)]
    pub at_least: u64,
    /// What libvirt must say of a failure.
    #[serde(default)]
    pub saying: String,
}

/// A finding that must be shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundSpec {
    /// Whose; without, the node's.
    pub vm: Option<String>,
    /// Who shows it; any node without.
    pub node: Option<String>,
    /// Its code.
    pub finding: String,
    /// What its first evidence must say.
    #[serde(default)]
    pub saying: String,
    /// Within so many seconds: limits and file systems are looked at every 30 s.
    #[serde(default = "explain_limit")]
    pub within: u64,
}

/// What Kulprit must say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Which VM is sick; without, it is a node.
    pub vm: Option<String>,
    /// The node that is sick, or that must show the VM; any node without.
    pub node: Option<String>,
    /// The finding that shows it.
    pub finding: String,
    /// What is explained.
    pub symptom: String,
    /// From the root cause on.
    pub chain: Vec<String>,
    /// The side of the root cause: `hosting`, `source`, `target`, `path`; any without.
    pub role: Option<String>,
    /// The node of the root cause as `kulprit` shows it, of a path both (`n1,n2`); without, none may be blamed.
    pub at: Option<String>,
    /// Within so many seconds: the longest hold is 10 s, the slowest look 60 s (KVM, without an event).
    #[serde(default = "explain_limit")]
    pub within: u64,
    /// Who besides has the same root cause, or none that is known yet: VMs or nodes. Anybody else must not be shown at all.
    #[serde(default)]
    pub also: Vec<String>,
    /// What must be said of a forced deletion; anything without.
    pub safe_to_force_delete: Option<bool>,
}

fn first_node() -> String {
    "n1".to_owned()
}

fn first_node_alone() -> Vec<String> {
    vec![first_node()]
}

fn migration_ports() -> String {
    MIGRATION_PORTS.to_owned()
}

fn kill() -> String {
    "SIGKILL".to_owned()
}

const fn migration_limit() -> u64 {
    120
}

const fn explain_limit() -> u64 {
    120
}

/// The nodes of the stage.
pub(crate) const NODES: [&str; 2] = ["n1", "n2"];

impl Scenario {
    /// Where the files are.
    #[must_use]
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
    }

    /// Every scenario, by name.
    ///
    /// # Errors
    /// If one is no scenario: which, and where.
    pub fn all() -> Result<Vec<Self>> {
        let mut files: Vec<PathBuf> = fs::read_dir(Self::folder())?.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    /// The scenario of that name.
    ///
    /// # Errors
    /// If there is none, or it is none.
    pub fn named(name: &str) -> Result<Self> {
        Self::read(&Self::folder().join(format!("{name}.yaml")))
    }

    fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("`{}` is no scenario", file.display()))
    }

    /// Reads a scenario.
    ///
    /// # Errors
    /// If it is none, or names a node, disk or VM that it does not have.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = serde_saphyr::from_str(text)?;
        name.clone_into(&mut scenario.name);
        scenario.check_names()?;
        Ok(scenario)
    }

    /// Whether nothing may be raised.
    #[must_use]
    pub fn is_control(&self) -> bool {
        !self.steps.iter().any(|step| matches!(step, Step::Expect(_)))
    }

    /// Whether lines of a fault that cannot be made here are written into the kernel log.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::KernelLog(_)))
    }

    /// What must be said, in order.
    pub fn expected(&self) -> impl Iterator<Item = &Expected> {
        self.steps.iter().filter_map(|step| if let Step::Expect(expected) = step { Some(expected) } else { None })
    }
}

impl Expected {
    /// The longest it may take.
    #[must_use]
    pub const fn limit(&self) -> Duration {
        Duration::from_secs(self.within)
    }

    /// The root cause.
    #[must_use]
    pub fn root(&self) -> &str {
        self.chain.first().map_or("", String::as_str)
    }
}
