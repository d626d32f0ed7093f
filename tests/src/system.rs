//! Kulprit itself on the lab: the real binaries, over real gRPC, asked as a person asks.
//!
//! `kulprit-central` runs in the lab's network at 10.77.0.1 (on loopback, where it lets everybody in, and to where that address leads); each node gets a `kulprit-agent` with its libvirt worker, started by
//! [`Node::agent_command`]: in the node's network (kubelet's 127.0.0.1 and central are reached from there), with this machine's pids, told
//! the node's root and cgroup. All speak TLS and show certificates. Every answer is what `kulprit -o json` prints. Data and logs lie in a temporary folder; what is running is
//! ended when the guard is dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::cage::Cage;
use crate::certificates::Certificates;
use crate::lab::{GATEWAY, Lab, built_binary};
use crate::node::{Node, Running};
use crate::{cgroup, check, process, programs, shell, wait};

pub mod answers;

use answers::{Answer, Finding, Incident, Verdict, Vm};

/// Central's port in the lab's network.
const PORT: u16 = 7443;
/// Where an agent's `/ready` answers, in its node's network.
const AGENT_ADMIN_PORT: u16 = 7442;
/// How long central may take to start, and an agent until every probe has looked once: a debug build on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long an agent may take to end: its drain is 10 s.
const END_LIMIT: Duration = Duration::from_secs(15);
/// How long its worker may outlive it: the kernel kills it then.
const CHILDREN_LIMIT: Duration = Duration::from_secs(1);
/// Lines of each log shown with a failure.
const LOG_TAIL: usize = 15;

/// Exit status of `kulprit why` when nothing explains what it shows: an answer as well.
const ONLY_UNEXPLAINED: i32 = 3;

/// Central, and an agent for each watched node. All ended when dropped.
#[derive(Debug)]
pub struct System {
    // Agents first: their last words go to a central that still listens.
    agents: Vec<Running>,
    /// `None` only while it is started again.
    central: Option<Running>,
    lab: Lab,
    command: PathBuf,
    certificates: Certificates,
    /// What `kulprit` is told of them.
    flags: Vec<String>,
    folder: TempDir,
    /// Where central keeps its store.
    data: PathBuf,
}

impl System {
    /// Starts central with a configuration of its own, YAML; an empty one is central's defaults.
    ///
    /// # Errors
    /// If a binary is not built, or central does not answer in time: its last log lines.
    pub fn start(lab: &Lab, config: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("central");
        Self::start_in(lab, config, folder, data)
    }

    /// The same, with central's store in a folder of its own.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start_keeping(lab: &Lab, config: &str, data: PathBuf) -> Result<Self> {
        Self::start_in(lab, config, tempfile::tempdir()?, data)
    }

    fn start_in(lab: &Lab, config: &str, folder: TempDir, data: PathBuf) -> Result<Self> {
        let certificates = Certificates::new(folder.path())?;
        fs::write(folder.path().join("central.yaml"), certificates.central() + config)?;
        let (command, flags) = (binary("kulprit")?, certificates.flags());
        let mut system =
            Self { agents: Vec::new(), central: None, lab: lab.clone(), command, certificates, flags, folder, data };
        system.start_central()?;
        Ok(system)
    }

    /// What central's admin port answers.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn admin(&self, path: &str) -> Result<String> {
        let port = PORT + 1;
        let ask = format!("exec 3<>/dev/tcp/{GATEWAY}/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        shell::output(self.lab.brief_command("timeout").args(["2", "bash", "-c", &ask]))
    }

    /// `kill -9` of central.
    pub fn kill_central(&mut self) {
        self.central = None;
    }

    /// Starts central, with all that one before it kept.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start_central(&mut self) -> Result<()> {
        self.launch_central()?;
        wait::wait_until("central to answer", START_LIMIT, || Ok(self.page(&["nodes"]).is_ok()))
            .with_context(|| self.logs())?;
        Ok(())
    }

    /// The same, of one that need not come so far as to answer.
    ///
    /// # Errors
    /// If the binary is not built.
    pub fn launch_central(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let mut command = self.lab.command(binary("kulprit-central")?);
        command
            .arg("--config")
            .arg(folder.join("central.yaml"))
            .args(["--listen", &format!("{GATEWAY}:{PORT}"), "--admin-listen", &format!("{GATEWAY}:{}", PORT + 1)])
            .arg("--data-dir")
            .arg(&self.data);
        self.central = Some(start(&mut command, folder, "central")?);
        Ok(())
    }

    /// SIGTERM to central, which gives its Lease back, and starts it with another configuration.
    ///
    /// # Errors
    /// If it does not end, or as [`System::start`].
    pub fn restart_central(&mut self, config: &str) -> Result<()> {
        let mut central = self.central.take().context("central runs")?;
        process::signal(central.pid(), Signal::SIGTERM)?;
        wait::wait_for("central to end", END_LIMIT, || Ok(central.child().try_wait()?)).with_context(|| self.logs())?;
        fs::write(self.folder.path().join("central.yaml"), self.certificates.central() + config)?;
        self.start_central()
    }

    /// Starts an agent for a node and returns when each of its probes has looked, and central has heard of it.
    ///
    /// # Errors
    /// If that does not happen in time: the last log lines.
    pub fn watch(&mut self, node: &Node) -> Result<()> {
        // The worker stands beside the agent, where it is looked for.
        binary("kulprit-agent-libvirt")?;
        let command = node.agent_command(binary("kulprit-agent")?);
        self.watch_by(node, command, &[], START_LIMIT)
    }

    /// As [`System::watch`], of an agent in a small cgroup.
    ///
    /// # Errors
    /// As [`System::watch`]; a slow start is given four times as long.
    pub fn watch_in(&mut self, node: &Node, cage: &Cage) -> Result<()> {
        let mut command = node.agent_command("sh");
        command.args(cage.agent_words());
        let worker = cage.write_worker(self.folder.path())?;
        self.watch_by(node, command, &["--libvirt-worker", &worker.to_string_lossy()], START_LIMIT * 4)
    }

    fn watch_by(&mut self, node: &Node, mut command: Command, words: &[&str], limit: Duration) -> Result<()> {
        let name = format!("agent-{}", node.name());
        let file = self.folder.path().join(format!("{name}.yaml"));
        fs::write(&file, self.certificates.agent(node.name()) + &agent_config(node))?;
        command
            .arg("--config")
            .arg(&file)
            .args(["run", "--node-name", node.name(), "--central", &format!("https://{GATEWAY}:{PORT}")])
            .args(["--cgroup-prefix", &cgroup::path_of(node.name())])
            .arg("--host-root")
            .arg(node.root())
            .arg("--state-dir")
            .arg(self.folder.path().join(&name))
            .args(words);
        self.agents.push(start(&mut command, self.folder.path(), &name)?);
        let is_ready = || check::get(node, AGENT_ADMIN_PORT, "/ready").is_ok_and(|answer| answer.contains("200 OK"));
        let is_heard = || self.page(&["node", node.name()]).is_ok();
        wait::wait_until("the agent's first looks", limit, || Ok(is_ready() && is_heard()))
            .with_context(|| self.logs())?;
        Ok(())
    }

    /// Pids of the agent that was started last, of its worker, and of any child that waits for a host in its stead.
    ///
    /// # Errors
    /// If no agent was started.
    pub fn agent_family(&self) -> Result<Vec<i32>> {
        Ok(programs::family_of(self.agents.last().context("an agent was started")?.pid()))
    }

    /// SIGTERM to the agent that was started last; returns how long it took to end, and its children with it.
    ///
    /// # Errors
    /// If it ends with a failure, as it does when its tasks do not end within the drain, or a child outlives it: the last log lines.
    pub fn stop_agent(&mut self) -> Result<Duration> {
        let family = self.agent_family()?;
        let mut agent = self.agents.pop().context("an agent was started")?;
        process::signal(agent.pid(), Signal::SIGTERM)?;
        let (status, took) = wait::wait_for("the agent to end", END_LIMIT, || Ok(agent.child().try_wait()?))
            .with_context(|| self.logs())?;
        ensure!(status.success(), "the agent ended with {status}: {}", self.logs());
        let is_over = || Ok(!family.iter().any(|pid| process::is_alive(*pid)));
        let after = wait::wait_until("the agent's children to end", CHILDREN_LIMIT, is_over)?;
        Ok(took + after)
    }

    /// `kulprit why`: everything that is in trouble now.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn why(&self) -> Result<Vec<Verdict>> {
        self.ask::<answers::Diagnosis>(&["why"]).map(Answer::rows)
    }

    /// `kulprit why NAMESPACE/NAME`: of this VM, whether or not it is in trouble.
    ///
    /// # Errors
    /// If central does not answer, or knows of no such VM.
    pub fn why_of(&self, vm: &str) -> Result<Vec<Verdict>> {
        self.ask::<answers::Diagnosis>(&["why", vm]).map(Answer::rows)
    }

    /// `kulprit record vm/NAMESPACE/NAME` to a new folder of that path, and what `kulprit diagnose` says of it.
    ///
    /// # Errors
    /// If central does not answer, the case cannot be read, or a file of it holds a private key of this system.
    pub fn recorded(&self, vm: &str, folder: &Path) -> Result<Vec<Verdict>> {
        let words = folder.to_str().context("the path is text")?;
        self.page(&["record", &format!("vm/{vm}"), "--out", words])?;
        let secrets = self.secrets()?;
        for path in files_below(folder)? {
            let text = fs::read(&path)?;
            let text = String::from_utf8_lossy(&text);
            ensure!(!secrets.iter().any(|secret| text.contains(secret)), "{} holds a private key", path.display());
        }
        self.ask::<answers::Diagnosis>(&["diagnose", words]).map(Answer::rows)
    }

    /// The first line of each private key that central, an agent or the person who asks has.
    fn secrets(&self) -> Result<Vec<String>> {
        let keys = fs::read_dir(self.folder.path())?.map(|entry| Ok(entry?.path()));
        let mut secrets = Vec::new();
        for key in keys.collect::<Result<Vec<PathBuf>>>()? {
            if key.extension().is_some_and(|extension| extension == "key") {
                let text = fs::read_to_string(&key)?;
                secrets.push(text.lines().nth(1).context("a key in PEM")?.to_owned());
            }
        }
        ensure!(secrets.len() >= 2, "central and the person who asks have keys");
        Ok(secrets)
    }

    /// `kulprit incidents --all`: closed ones too.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn incidents(&self) -> Result<Vec<Incident>> {
        self.ask::<answers::Incidents>(&["incidents", "--all"]).map(Answer::rows)
    }

    /// `kulprit findings` and more words.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn findings(&self, words: &[&str]) -> Result<Vec<Finding>> {
        self.ask::<answers::Findings>(&[&["findings"], words].concat()).map(Answer::rows)
    }

    /// `kulprit vms`.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn vms(&self) -> Result<Vec<Vm>> {
        self.ask::<answers::Vms>(&["vms"]).map(Answer::rows)
    }

    /// Whether central has not heard of a node for so long that what it said is unknown.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn is_silent(&self, node: &str) -> Result<bool> {
        let row = self.nodes()?.into_iter().find(|row| row.name == node).with_context(|| format!("no node {node}"))?;
        Ok(!row.reporting)
    }

    /// `kulprit nodes`.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn nodes(&self) -> Result<Vec<answers::NodeRow>> {
        self.ask::<answers::Nodes>(&["nodes"]).map(Answer::rows)
    }

    /// What `kulprit` prints for people.
    ///
    /// # Errors
    /// If it fails.
    pub fn page(&self, words: &[&str]) -> Result<String> {
        let mut command = self.kulprit(words);
        let output = command.output().context("failed to start `kulprit`")?;
        if !output.status.success() && output.status.code() != Some(ONLY_UNEXPLAINED) {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`kulprit {}`: {}: {}", words.join(" "), output.status, said.trim());
        }
        String::from_utf8(output.stdout).context("`kulprit` prints UTF-8")
    }

    /// All that central wrote since it was started last.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn central_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("central.log"))?)
    }

    /// Runs `kulprit-central cleanup` with central's own configuration and more words; returns its exit code, and what it printed.
    ///
    /// # Errors
    /// If the binary is not built.
    pub fn clean_up(&self, words: &[&str]) -> Result<(Option<i32>, String)> {
        let mut command = self.lab.brief_command(binary("kulprit-central")?);
        command.args(["cleanup", "--config"]).arg(self.folder.path().join("central.yaml")).args(words);
        let output = command.output().context("failed to start `kulprit-central`")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout) + &text(&output.stderr)))
    }

    /// The last lines of every log, to be shown with a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.folder.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..).unwrap_or_default().join("\n");
                text.push_str(&format!("{} ends:\n{tail}\n", entry.file_name().to_string_lossy()));
            }
        }
        text
    }

    fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let text = self.page(&[words, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("`kulprit {}` printed: {text}", words.join(" ")))
    }

    fn kulprit(&self, words: &[&str]) -> Command {
        let mut command = self.lab.brief_command(&self.command);
        command.args(["--central", &format!("https://{GATEWAY}:{PORT}")]).args(&self.flags).args(words);
        command
    }
}

/// What an agent of a lab node must be told. The kernel log is the whole machine's: what other tests left in it before is no fault of this
/// node. So is `/proc/pressure`: the node's own is that of its cgroup, which its own mount of the version 2 tree shows as the root.
#[must_use]
pub fn agent_config(node: &Node) -> String {
    let trees = ["sys/fs/cgroup/unified", "sys/fs/cgroup"];
    let own = trees.into_iter().find(|tree| node.root().join(tree).join("cpu.pressure").exists());
    let pressure = own.map(|tree| format!(", pressure: {{cgroup: {tree}}}")).unwrap_or_default();
    format!("probes: {{kmsg_look_back: 1s, log_look_back: 1s, limits: {{inotify_every: 15s}}{pressure}}}\n")
}

/// Starts a program with its log in a file of that name.
fn start(command: &mut Command, folder: &Path, name: &str) -> Result<Running> {
    let log = File::create(folder.join(format!("{name}.log")))?;
    Running::start(command.stdout(log.try_clone()?).stderr(log))
}

/// Every file in a folder and those in it, at least one.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    ensure!(!files.is_empty(), "{} is empty", folder.display());
    Ok(files)
}

/// A binary under test. Cargo builds those of other packages only when told to.
fn binary(name: &str) -> Result<PathBuf> {
    built_binary(name).with_context(|| format!("`{name}` is not built: run `cargo build --workspace`, or `make test`"))
}
