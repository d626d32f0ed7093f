//! A live migration between two nodes, as an administrator starts it: `virsh migrate --live --p2p`.
//!
//! How it goes is set by the guest ([`Program::Eater`](crate::guest::Program::Eater) dirties memory at a chosen rate), by the bandwidth
//! here, and by faults of the path. Its disk must be where both nodes have it ([`FileDisk::create_shared`](crate::disk::FileDisk)), unless
//! the storage is copied as well. libvirt is told `--unsafe`: it does not know that the nodes share a file system.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::guest::{self, Guest};
use crate::node::{Node, Running};
use crate::wait::{Stopwatch, wait_for};

/// How a guest is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Most that libvirt lets it send, MiB/s; `None`: as fast as the path allows.
    pub mib_per_sec: Option<u32>,
    /// Copies the disk as well: it is not shared, and the target has made none.
    pub copies_storage: bool,
}

/// A migration under way. One that has not arrived when this is dropped is aborted, and nothing of it stays on the target.
#[derive(Debug)]
pub struct Migration<'guest, 'node> {
    guest: &'guest Guest<'node>,
    to: &'node Node,
    virsh: Running,
    said: std::fs::File,
    clock: Stopwatch,
    has_arrived: bool,
}

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest runs on the target, after so long.
    Arrived(Duration),
    /// What libvirt says of the failure.
    Failed(String),
}

impl<'guest, 'node> Migration<'guest, 'node> {
    /// Starts to move a guest to another node.
    ///
    /// # Errors
    /// If `virsh` cannot be started. What libvirt refuses is an [`Ended::Failed`].
    pub fn start(guest: &'guest Guest<'node>, to: &'node Node, how: How) -> Result<Self> {
        let said = tempfile::tempfile()?;
        let bandwidth = how.mib_per_sec.map(|mib| mib.to_string());
        let mut command = guest.node().command("virsh");
        command.args(["--quiet", "migrate", "--live", "--p2p", "--unsafe", "--persistent", "--undefinesource"]);
        command.args(bandwidth.iter().flat_map(|mib| ["--bandwidth", mib.as_str()]));
        command.args(how.copies_storage.then_some("--copy-storage-all"));
        command.arg(guest.name());
        command.args([format!("qemu+tcp://{}/system", to.address()), format!("tcp://{}", to.address())]);
        command.stdout(Stdio::null()).stderr(said.try_clone()?);
        let virsh = Running::start(&mut command)?;
        Ok(Self { guest, to, virsh, said, clock: Stopwatch::start(), has_arrived: false })
    }

    /// The guest that moves.
    #[must_use]
    pub fn guest(&self) -> &'guest Guest<'node> {
        self.guest
    }

    /// Where it goes.
    #[must_use]
    pub fn target(&self) -> &'node Node {
        self.to
    }

    /// Pid on this machine of the QEMU that waits for the guest on the target; `None` while there is none.
    #[must_use]
    pub fn target_qemu_pid(&self) -> Option<i32> {
        guest::qemu_pid(self.to, self.guest.name())
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<Ended>> {
        let Some(status) = self.virsh.child().try_wait()? else { return Ok(None) };
        if status.success() {
            self.has_arrived = true;
            self.guest.has_moved(self.to);
            return Ok(Some(Ended::Arrived(self.clock.elapsed())));
        }
        let mut said = String::new();
        self.said.seek(SeekFrom::Start(0))?;
        self.said.read_to_string(&mut said)?;
        Ok(Some(Ended::Failed(said.trim().to_owned())))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it goes on for longer than `limit`: what libvirt shows of the job.
    pub fn wait(&mut self, limit: Duration) -> Result<Ended> {
        let ended = wait_for("the migration to end", limit, || self.ended());
        ended.map(|(ended, _)| ended).with_context(|| self.job().unwrap_or_else(|error| format!("{error:#}")))
    }

    /// Waits until it has arrived, and returns how long that took.
    ///
    /// # Errors
    /// As [`Migration::wait`], and if it failed: what libvirt says.
    pub fn wait_until_arrived(&mut self, limit: Duration) -> Result<Duration> {
        match self.wait(limit)? {
            Ended::Arrived(took) => Ok(took),
            Ended::Failed(why) => bail!("{} did not arrive on {}: {why}", self.guest.name(), self.to.name()),
        }
    }

    /// Waits until memory is being sent: QEMU on the target is up and the job counts bytes.
    ///
    /// # Errors
    /// If that does not come within `limit`, or the migration ends before.
    pub fn wait_until_sending(&mut self, limit: Duration) -> Result<Duration> {
        let sending = wait_for("the migration to send", limit, || {
            if let Some(ended) = self.ended()? {
                bail!("it has ended: {ended:?}");
            }
            let processed = self.job()?.lines().any(|line| {
                let value = line.strip_prefix("Data processed:").map(str::trim);
                value.is_some_and(|value| !value.starts_with("0.000"))
            });
            Ok(processed.then_some(()))
        });
        sending.map(|((), took)| took)
    }

    /// `virsh domjobinfo` on the source.
    ///
    /// # Errors
    /// If libvirt does not answer within 5 s.
    pub fn job(&self) -> Result<String> {
        self.guest.node().run_within(5, &["virsh", "--quiet", "domjobinfo", self.guest.name()])
    }

    /// Aborts it, as `virsh domjobabort` does.
    ///
    /// # Errors
    /// If no migration runs.
    pub fn abort(&self) -> Result<()> {
        self.guest.virsh("domjobabort").map(drop)
    }
}

impl Drop for Migration<'_, '_> {
    fn drop(&mut self) {
        if !self.has_arrived && !matches!(self.ended(), Ok(Some(_))) {
            let _ = self.guest.node().run_within(5, &["virsh", "--quiet", "domjobabort", self.guest.name()]);
            let _ = self.wait(Duration::from_secs(10));
        }
        if !self.has_arrived {
            guest::remove(self.to, self.guest.name());
        }
    }
}
