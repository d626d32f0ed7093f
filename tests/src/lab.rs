//! The lab: one at a time on a machine, and gone when it is dropped.
//!
//! A lab holds a lock for as long as it lives. The kernel gives the lock back however its owner dies, so whoever has it knows that
//! everything of the lab still around is a leftover and removes it: [`Lab::open`] does so first. So that a run killed by Ctrl-C or
//! SIGKILL leaves nothing until then either, a *reaper* (`kulprit-lab reap`, in a session of its own) waits for the owner's end.
//!
//! Everything of the lab is found by name: the folder [`folder`], the cgroups and the network namespace `kulprit-lab`. The namespace holds
//! a bridge, `br0`, with 10.77.0.1; nodes are 10.77.0.2 and up. What runs in it (central, say) is reached from all nodes.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::kubernetes::pod_subnet;
use crate::node::{Node, NodeBuilder};
use crate::{leftovers, shell};

/// Name of the lab's network namespace.
pub(crate) const NETNS: &str = "kulprit-lab";
/// Address of the lab's namespace on the bridge that joins the nodes.
pub const GATEWAY: &str = "10.77.0.1";

/// Where the lab keeps its nodes and disks: `/var/tmp/kulprit-lab`, or what `KULPRIT_LAB_DIR` says.
///
/// It takes the upper layer of an overlay, so it cannot lie on an overlay itself.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var_os("KULPRIT_LAB_DIR").map_or_else(|| PathBuf::from("/var/tmp/kulprit-lab"), PathBuf::from)
}

/// The lab. See the module. Clones are the same lab, and every node holds one: it is torn down with the last of them.
#[derive(Clone, Debug)]
pub struct Lab(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    n_nodes: AtomicU8,
    // Dropped in this order, after `drop` has cleaned up: the reaper learns by its closed standard input that there is nothing to do.
    reaper: Option<(Child, ChildStdin)>,
    _lock: Lock,
}

impl Lab {
    /// Waits for its turn, removes what a killed run left, and sets up the network namespace.
    ///
    /// # Errors
    /// Without root, or if leftovers cannot be removed (a process in uninterruptible sleep, say).
    pub fn open() -> Result<Self> {
        require_root()?;
        let lock = Lock::take()?;
        leftovers::remove()?;
        shell::run(&["ip", "netns", "add", NETNS])?;
        for line in ["link set lo up", "link add br0 type bridge", "addr add 10.77.0.1/24 dev br0", "link set br0 up"] {
            let mut words = vec!["ip", "-n", NETNS];
            words.extend(line.split(' '));
            shell::run(&words)?;
        }
        Ok(Self(Arc::new(Shared { n_nodes: AtomicU8::new(0), reaper: Lock::start_reaper(), _lock: lock })))
    }

    /// A node to be started, with the next free address. Its name becomes its host name.
    pub fn node(&self, name: &str) -> NodeBuilder {
        let number = self.0.n_nodes.fetch_add(1, Ordering::Relaxed);
        NodeBuilder::new(self.clone(), name, format!("10.77.0.{}", number + 2))
    }

    /// Runs lines of `ip` in the lab's network namespace, as one batch.
    ///
    /// # Errors
    /// If one of them fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = self.brief_command("sh");
        shell::output(command.args(["-c", "printf %s \"$0\" | ip -batch -", lines])).map(drop)
    }

    /// A command that runs in the lab's network namespace, from where all nodes are reached, and dies with the lab.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{NETNS}")).arg("--").args(in_tools_cgroup()).arg(program);
        command
    }

    /// As [`Lab::command`], for a command that is soon over: it starts quicker, and does not end with the lab.
    #[must_use]
    pub fn brief_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{NETNS}")).arg("--").arg(program);
        command
    }

    /// Runs something of this process in the lab's network, on a thread of its own: what it connects stays connected there.
    ///
    /// # Errors
    /// If there is no lab, or what it runs fails.
    ///
    /// # Panics
    /// If it panics.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let network = File::open(format!("/run/netns/{NETNS}"))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET)?;
                run()
            });
            inside.join().expect("what runs in the lab's network does not panic")
        })
    }

    /// Tears the lab down and returns what remains of it, as [`remains`] lists it; no other lab can be alive meanwhile.
    ///
    /// # Errors
    /// If a node still holds it, or it cannot be torn down: as when it is dropped.
    pub fn close(self) -> Result<Vec<String>> {
        let shared = Arc::into_inner(self.0).context("a node of the lab is still there")?;
        leftovers::remove()?;
        let remains = leftovers::list()?;
        drop(shared);
        Ok(remains)
    }

    /// Sends what goes to the pods of a node (10.78.*n*.0/24 for the node 10.77.0.*n*) to that node. Twice is as good as once.
    pub(crate) fn route_pods(&self, node: &Node) -> Result<()> {
        let pods = format!("{}.0/24", pod_subnet(node));
        shell::run(&["ip", "-n", NETNS, "route", "replace", &pods, "via", node.address()])?;
        shell::output(self.brief_command("sh").args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])).map(drop)
    }

    /// Removes what a killed run left behind, if no lab is alive.
    ///
    /// # Errors
    /// Without root, while a lab is alive, or if something cannot be removed.
    pub fn clean_leftovers() -> Result<()> {
        require_root()?;
        let _lock = Lock::try_take()?;
        leftovers::remove()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = leftovers::remove() {
            complain(&format!("the lab was not torn down whole: {error:#}"));
        }
        if let Some((mut reaper, stdin)) = self.reaper.take() {
            drop(stdin);
            let _ = reaper.kill();
            let _ = reaper.wait();
        }
    }
}

/// Words before a command that put it into a cgroup of the lab, so that it is found and ended with it.
pub(crate) fn in_tools_cgroup() -> Vec<String> {
    let Some(group) = crate::cgroup::create("tools").ok().and_then(|groups| groups.into_iter().next_back()) else {
        return Vec::new();
    };
    let join = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", group.display());
    ["sh", "-c", &join].map(str::to_owned).into()
}

/// Fails, naming the way out, unless this process is root.
fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: run as root, or `make test`, which leaves these tests out otherwise");
    }
    Ok(())
}

/// Says something where no error can be returned.
#[expect(clippy::print_stderr, reason = "a drop has no other way to speak, and the test runner shows it")]
pub(crate) fn complain(text: &str) {
    eprintln!("lab: {text}");
}

/// The one lock of the machine's lab. The file names its owner: pid, and the second of its start.
#[derive(Debug)]
struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Lock {
    fn open() -> Result<File> {
        fs::create_dir_all(folder())?;
        let path = folder().join("lock");
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("failed to open `{}`", path.display()))
    }

    /// Waits for the lock, and says so if it must.
    fn take() -> Result<Self> {
        let file = Self::open()?;
        if file.try_lock().is_err() {
            // Silent among the tests of one process, which take turns all the time.
            if let Some(pid) =
                Self::owner().split(' ').next().filter(|pid| !pid.is_empty() && *pid != std::process::id().to_string())
            {
                complain(&format!("waiting for the lab of process {pid}"));
            }
            file.lock().context("failed to lock the lab")?;
        }
        Self::own(file)
    }

    fn try_take() -> Result<Self> {
        let file = Self::open()?;
        if file.try_lock().is_err() {
            bail!("a lab is alive, of process {}", Self::owner());
        }
        Self::own(file)
    }

    /// Writes down whose the lab is; no two labs of a boot have the same pid and start.
    fn own(mut file: File) -> Result<Self> {
        let uptime = fs::read_to_string("/proc/uptime")?;
        file.set_len(0)?;
        file.seek(io::SeekFrom::Start(0))?;
        write!(file, "{} {}", std::process::id(), uptime.split(' ').next().unwrap_or_default())?;
        Ok(Self(file))
    }

    fn owner() -> String {
        fs::read_to_string(folder().join("lock")).unwrap_or_default()
    }

    /// Starts the reaper, if its binary is where Cargo puts it; without it the next lab cleans up.
    fn start_reaper() -> Option<(Child, ChildStdin)> {
        let mut child = Command::new("setsid")
            .arg(built_binary("kulprit-lab")?)
            .arg("reap")
            .arg(Self::owner())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let stdin = child.stdin.take()?;
        Some((child, stdin))
    }
}

/// What the reaper does: waits until its owner is gone, then removes the lab if it is still that owner's.
///
/// `owner` is the content of the lock file when the lab was opened. Whoever opened a lab in between has cleaned up already.
///
/// # Errors
/// As [`Lab::clean_leftovers`].
pub fn reap(owner: &str) -> Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    let file = Lock::open()?;
    file.lock().context("failed to lock the lab")?;
    if Lock::owner() == owner { leftovers::remove() } else { Ok(()) }
}

/// What there is of any lab on this machine, one line for each piece; nothing when the last lab was torn down whole.
///
/// # Errors
/// If the machine's tables cannot be read.
pub fn remains() -> Result<Vec<String>> {
    leftovers::list()
}

/// A binary of this workspace that Cargo built next to this test, or `None` if it was not built.
#[must_use]
pub fn built_binary(name: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    this.ancestors().skip(1).take(2).map(|dir: &Path| dir.join(name)).find(|path| path.is_file())
}
