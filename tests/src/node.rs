//! A node: a machine of its own with real systemd, D-Bus, journald and libvirt, in an overlay of this machine's root.
//!
//! systemd-nspawn boots it in its own pid, mount, network and cgroup namespaces. From outside everything of it lies under
//! `/proc/<leader>/root` ([`Node::root`]); inside, commands run by [`Node::run`].
//!
//! `/dev/kmsg`, `/proc/pressure` and `/proc/meminfo` are the whole machine's in every node, and the kernel log prints the host's pids. So an
//! agent for a node runs as [`Node::agent_command`] builds it: in the node's network, with the host's pids, and `Node::root` as its root.
//!
//! The overlay's lower layer is `/` alone: on a machine with `/usr` or `/var` on file systems of their own a node does not boot, and says so.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::lab::{Lab, NETNS, in_tools_cgroup};
use crate::{cgroup, lab, node_files, process, shell, wait};

/// How long a node may take to boot; 2 to 4 s are normal.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long a command in a node may take, unless [`Node::run_within`] says otherwise, seconds.
const RUN_LIMIT_SECS: u32 = 60;

/// What stands for kubelet on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletUnit {
    /// No such unit.
    None,
    /// `kubelet.service` running `lab-kubelet`, which answers `/healthz` on 127.0.0.1:10248: a real unit with real restarts, signals and
    /// sockets, but not kubelet. The real one comes with the Kubernetes lab.
    Serving,
}

/// A node to be started; from [`Lab::node`].
#[derive(Debug)]
#[must_use]
pub struct NodeBuilder {
    lab: Lab,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) has_kvm: bool,
    pub(crate) has_libvirt: bool,
    pub(crate) kubelet: KubeletUnit,
}

impl NodeBuilder {
    pub(crate) fn new(lab: Lab, name: &str, address: String) -> Self {
        Self { lab, name: name.to_owned(), address, has_kvm: true, has_libvirt: true, kubelet: KubeletUnit::None }
    }

    /// Leaves `/dev/kvm` out, as on a machine without virtualization.
    pub fn without_kvm(self) -> Self {
        Self { has_kvm: false, ..self }
    }

    /// Starts no libvirt of the node's own: on a node of KubeVirt each launcher brings one.
    pub fn without_libvirt(self) -> Self {
        Self { has_libvirt: false, ..self }
    }

    /// Adds `kubelet.service`; see [`KubeletUnit::Serving`].
    pub fn with_kubelet(self) -> Self {
        Self { kubelet: KubeletUnit::Serving, ..self }
    }

    /// Boots the node, and returns when systemd says that it is up and its libvirt, if it has one, answers.
    ///
    /// # Errors
    /// If it does not come up in time: the last lines of its console.
    pub fn start(self) -> Result<Node> {
        let clock = wait::Stopwatch::start();
        let base = lab::folder().join("nodes").join(&self.name);
        let overlay = base.join("root");
        for dir in ["upper", "work", "root"] {
            fs::create_dir_all(base.join(dir))?;
        }
        let layers = format!("lowerdir=/,upperdir={0}/upper,workdir={0}/work", base.display());
        shell::run(&["mount", "-t", "overlay", "kulprit-lab", "-o", &layers, &overlay.to_string_lossy()])?;
        node_files::write(&overlay, &self)?;
        let has_libvirt = self.has_libvirt;
        let cgroups = cgroup::create(&self.name)?;
        let nspawn = self.spawn(&base, &cgroups)?;
        let mut node = Node {
            name: self.name,
            address: self.address,
            base,
            cgroups,
            nspawn,
            leader: 0,
            boot_time: Duration::ZERO,
            lab: self.lab,
        };
        node.wait_until_up(has_libvirt)?;
        node.boot_time = clock.elapsed();
        Ok(node)
    }

    /// Starts systemd-nspawn: in the node's cgroups first, so that its cgroup namespace is rooted there, then in the lab's network.
    ///
    /// `nsenter` and not `ip netns exec`, which would hide the cgroup mounts.
    fn spawn(&self, base: &Path, cgroups: &[PathBuf]) -> Result<Child> {
        let mut script = String::new();
        for group in cgroups {
            script.push_str(&format!("echo $$ > {}/cgroup.procs; ", group.display()));
        }
        script.push_str("exec \"$0\" \"$@\"");
        let console = File::create(base.join("console.log"))?;
        Command::new("setsid")
            .args(["sh", "-ec", &script, "nsenter"])
            .arg(format!("--net=/run/netns/{NETNS}"))
            .args(["systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--network-bridge=br0"])
            .args(["--capability=all", "--system-call-filter=@keyring bpf perf_event_open", "--bind=/dev/kmsg"])
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
            .arg(format!("--machine={}", self.name))
            .arg("-D")
            .arg(base.join("root"))
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("failed to start systemd-nspawn")
    }
}

/// A running node; stopped when dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    address: String,
    base: PathBuf,
    cgroups: Vec<PathBuf>,
    nspawn: Child,
    leader: i32,
    boot_time: Duration,
    lab: Lab,
}

impl Node {
    /// The lab it is in.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Its name, and its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the lab's bridge.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Pid of its systemd on this machine.
    #[must_use]
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// Its root as seen from this machine, mounts made inside included: `/proc/<leader>/root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.leader))
    }

    /// From the start of the set-up until libvirt answered.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The folder of this node's cgroup in a hierarchy on this machine: a v1 controller, `unified`, or `` where there is only v2.
    /// What happens on the node, and its pressure in the v2 tree, is below it.
    #[must_use]
    pub fn cgroup(&self, hierarchy: &str) -> Option<&Path> {
        let wanted = Path::new("/sys/fs/cgroup").join(hierarchy);
        self.cgroups.iter().map(PathBuf::as_path).find(|path| path.ancestors().nth(2) == Some(wanted.as_path()))
    }

    /// Runs a command inside to its end and returns its output.
    ///
    /// # Errors
    /// If it fails, or does not end within a minute.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        self.run_within(RUN_LIMIT_SECS, line)
    }

    /// As [`Node::run`], with a time limit in seconds.
    ///
    /// # Errors
    /// If it fails or overstays: `timeout` then ends it, with exit status 124.
    pub fn run_within(&self, limit_secs: u32, line: &[&str]) -> Result<String> {
        shell::output(self.command("timeout").args(["-k", "2", &limit_secs.to_string()]).args(line))
    }

    /// `virsh` inside.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn virsh(&self, args: &[&str]) -> Result<String> {
        self.run(&[&["virsh", "--quiet"], args].concat())
    }

    /// `systemctl` inside.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn systemctl(&self, args: &[&str]) -> Result<String> {
        self.run(&[&["systemctl"], args].concat())
    }

    /// One property of a unit, as systemd prints it.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn unit_property(&self, unit: &str, property: &str) -> Result<String> {
        self.systemctl(&["show", "--value", "--property", property, unit])
    }

    /// Pid on this machine of a unit's main process; `None` while it has none.
    ///
    /// # Errors
    /// As [`Node::run`].
    pub fn main_pid(&self, unit: &str) -> Result<Option<i32>> {
        let inner: i32 = self.unit_property(unit, "MainPID")?.parse().context("MainPID is a number")?;
        Ok(process::on_host(self.leader, inner).filter(|_| inner != 0))
    }

    /// A command that runs inside, in all of the node's namespaces, to be started by the caller.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.leader.to_string(), "--all", "--"])
            .arg(program)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C");
        command
    }

    /// As [`Node::command`], as one of the node's own processes: in its cgroups too.
    pub(crate) fn own_command(&self, program: impl AsRef<OsStr>) -> Command {
        let join = |group: &PathBuf| format!("echo $$ > {}/cgroup.procs || true; ", group.display());
        let script: String = self.cgroups.iter().map(join).collect();
        let inside = self.command(program);
        let mut command = Command::new("sh");
        command.arg("-c").arg(script + "exec \"$0\" \"$@\"").arg(inside.get_program()).args(inside.get_args());
        command.envs(inside.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command
    }

    /// Starts a command inside that goes on; it is killed when the guard is dropped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, line: &[&str]) -> Result<Running> {
        let (program, args) = line.split_first().context("a command has a name")?;
        Running::start(self.command(program).args(args))
    }

    /// A command for a program of this machine that looks at the node as an agent on it would: in the node's network namespace (kubelet's
    /// 127.0.0.1 is there), with this machine's files and pids, and to be told [`Node::root`] as its root. It ends with the lab.
    #[must_use]
    pub fn agent_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.leader)).arg("--").args(in_tools_cgroup()).arg(program);
        command
    }

    fn wait_until_up(&mut self, has_libvirt: bool) -> Result<()> {
        let nspawn = self.nspawn.id();
        let up = wait::wait_for("the node to boot", BOOT_LIMIT, || {
            if let Some(status) = self.nspawn.try_wait()? {
                bail!("systemd-nspawn ended: {status}");
            }
            let Some(leader) = leader_of(nspawn) else { return Ok(None) };
            self.leader = leader;
            // Fails while there is no D-Bus yet, and when a unit failed (`degraded`): which matters only if it is one of ours.
            let state = self.command("systemctl").arg("is-system-running").stdin(Stdio::null()).output()?;
            let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
            Ok(["running", "degraded"].contains(&state.as_str()).then_some(()))
        });
        let units = ["lab-node.service", "libvirtd.service"];
        let up = up.and_then(|_| {
            for unit in &units[..if has_libvirt { 2 } else { 1 }] {
                self.systemctl(&["is-active", unit]).with_context(|| format!("{unit} is not active"))?;
            }
            if has_libvirt { self.virsh(&["version"]).map(drop) } else { Ok(()) }
        });
        up.with_context(|| {
            let console = fs::read_to_string(self.base.join("console.log")).unwrap_or_default();
            let tail: Vec<&str> = console.lines().rev().take(20).collect();
            format!(
                "node {} is not up; its console ends:\n{}",
                self.name,
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            )
        })
    }
}

impl Drop for Node {
    /// Ends the node as a power failure would. Its overlay and cgroups go with the lab, which also reports what would not end.
    fn drop(&mut self) {
        if self.leader != 0 {
            let _ = process::signal(self.leader, Signal::SIGKILL);
        }
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }
}

/// A process started by the harness; killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts the command.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).spawn().map(Self).context("failed to start a command")
    }

    /// As [`Running::start`], with pipes to its standard input and output.
    pub(crate) fn start_piped(command: &mut Command) -> Result<(Self, ChildStdin, ChildStdout)> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("failed to start a command")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.context("both are piped")?;
        Ok((Self(child), stdin, stdout))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }

    /// The process, to wait for it or to ask for its pid.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `nsenter` into a pid namespace waits for the command, its child, which would outlive it.
        if let Some(child) = only_child_of_nsenter(self.0.id()) {
            let _ = process::signal(child, Signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pid of the command that an `nsenter` waits for; `None` for any other process, and for one that has ended.
fn only_child_of_nsenter(pid: u32) -> Option<i32> {
    let is_nsenter = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "nsenter";
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next().filter(|_| is_nsenter)?.parse().ok()
}

/// Pid of the container's systemd: the child of nspawn that is process 1 in its own namespace. nspawn's short-lived helper is not.
fn leader_of(nspawn: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    children.split_whitespace().find_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let is_systemd = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim() == "systemd";
        (is_systemd && ids.split_whitespace().next_back() == Some("1")).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that async tests may hold a node across awaits and hand it to `spawn_blocking`.
    #[test]
    fn a_node_goes_to_any_thread() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Node>();
    }
}
