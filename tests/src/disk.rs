//! Storage that can be broken: a small ext4 on a loop device, mounted in a node, for the images of its guests.
//!
//! | fault | what the kernel does |
//! |---|---|
//! | [`FileDisk::freeze`] | writers sleep in D state and take no signal, SIGKILL included; `statfs` still answers |
//! | [`FileDisk::hang`] | no request of the device is answered; who waits for one sleeps in D state |
//! | [`FileDisk::fail`] | reads, or reads and writes, return EIO |
//! | [`FileDisk::fill`] | writes to blocks not yet allocated return ENOSPC |
//!
//! Each returns a guard that undoes it. The file system is mounted here as well (the same superblock), so that it can be thawed when the
//! node's own mount is out of reach, held by a process that cannot die.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::statvfs::statvfs;

pub use crate::fuse_file::HungDisk;
use crate::fuse_file::{FuseFile, NAME};
use crate::node::Node;
use crate::{lab, shell, wait};

/// What of a broken disk is kept, bytes: more than the metadata of any file system made here, less than any guest image.
const KEPT_BYTES: u64 = 4 << 20;

/// Which requests of a broken disk fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failing {
    /// Reads; the kernel log says `I/O error, dev loopN, sector …`. Writes succeed, and what they wrote can be read.
    Reads,
    /// Reads and writes; the kernel log says `attempt to access beyond end of device`.
    All,
}

/// A small file system in a node, or in several. Unmounted and gone when dropped.
#[derive(Debug)]
pub struct FileDisk {
    name: String,
    size_bytes: u64,
    backing: PathBuf,
    device: String,
    here: PathBuf,
    /// systemd of each node that has it mounted, on this machine.
    leaders: Vec<i32>,
    /// What lies between the device and its backing file, if that can hang.
    server: Option<FuseFile>,
}

impl FileDisk {
    /// Makes the file system and mounts it in the node as `/var/lib/lab/<name>`.
    ///
    /// # Errors
    /// If loop devices or ext4 are missing.
    pub fn create(node: &Node, name: &str, size_mib: u64) -> Result<Self> {
        Self::create_shared(&[node], name, size_mib)
    }

    /// As [`FileDisk::create_shared`], on a device that [`FileDisk::hang`] can stop.
    ///
    /// # Errors
    /// As [`FileDisk::create`], and without FUSE.
    pub fn create_served(nodes: &[&Node], name: &str, size_mib: u64) -> Result<Self> {
        Self::create_on(nodes, name, size_mib, true)
    }

    /// As [`FileDisk::create`], mounted in several nodes: one superblock, so that they share it as they would share a network file system.
    ///
    /// # Errors
    /// As [`FileDisk::create`].
    pub fn create_shared(nodes: &[&Node], name: &str, size_mib: u64) -> Result<Self> {
        Self::create_on(nodes, name, size_mib, false)
    }

    fn create_on(nodes: &[&Node], name: &str, size_mib: u64, is_served: bool) -> Result<Self> {
        let folder = lab::folder().join("disks");
        let (backing, here) = (folder.join(format!("{name}.img")), folder.join(name));
        fs::create_dir_all(&here)?;
        let size_bytes = size_mib << 20;
        File::create(&backing)?.set_len(size_bytes)?;
        let point = folder.join(format!("{name}.served"));
        let server = is_served.then(|| FuseFile::mount(&backing, point.clone())).transpose()?;
        let under = if is_served { point.join(NAME) } else { backing.clone() };
        // No journal: its writes would make a failing disk read-only, and the fault could not be undone.
        shell::run(&["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", &backing.to_string_lossy()])?;
        let device = shell::run(&["losetup", "--find", "--show", &under.to_string_lossy()])?;
        let leaders = nodes.iter().map(|node| node.leader()).collect();
        let disk = Self { name: name.to_owned(), size_bytes, backing, device, here, leaders, server };
        shell::run(&["mount", "-t", "ext4", &disk.device, &disk.here.to_string_lossy()])?;

        let number = (fs::metadata(&disk.device)?.rdev() & 0xff).to_string();
        let inside = disk.path();
        let script = format!(
            "[ -e {0} ] || mknod {0} b 7 {number}; mkdir -p {1}; mount -t ext4 {0} {1}; chmod 755 {1}",
            disk.device,
            inside.display()
        );
        for node in nodes {
            node.run(&["sh", "-ec", &script])?;
        }
        Ok(disk)
    }

    /// Where it is mounted in the node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/var/lib/lab").join(&self.name)
    }

    /// Where it is mounted on this machine.
    #[must_use]
    pub fn here(&self) -> &Path {
        &self.here
    }

    /// The block device under it, on the node and here: `/dev/loopN`.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Freezes the file system: who writes to it from now on sleeps in D state.
    ///
    /// # Errors
    /// If it is frozen already.
    pub fn freeze(&self) -> Result<Frozen<'_>> {
        shell::run(&["fsfreeze", "--freeze", &self.here.to_string_lossy()])?;
        Ok(Frozen(self))
    }

    /// Lets no request of its device be answered any more; the file system under it looks well.
    ///
    /// # Errors
    /// If it is none of [`FileDisk::create_served`].
    pub fn hang(&self) -> Result<HungDisk<'_>> {
        Ok(self.server.as_ref().context("only a served disk can hang")?.hang())
    }

    /// Loses all but the first 4 MiB of the disk: what is there can no longer be read, or neither read nor written.
    /// When undone the disk has its size again, and zeros where the loss was.
    ///
    /// # Errors
    /// If the backing file cannot be cut.
    pub fn fail(&self, failing: Failing) -> Result<Broken<'_>> {
        let broken = Broken(self);
        self.resize(KEPT_BYTES)?;
        match failing {
            // The loop device still offers its full size; its reads find nothing behind it.
            Failing::Reads => {}
            Failing::All => self.update_capacity()?,
        }
        Ok(broken)
    }

    /// Fills the file system until only `left_kib` are free.
    ///
    /// # Errors
    /// If less is free already.
    pub fn fill(&self, left_kib: u64) -> Result<Filled> {
        let stats = statvfs(&self.here)?;
        let free = stats.blocks_available() * stats.fragment_size();
        let length = free.checked_sub(left_kib << 10).context("less is free already")?;
        let filled = Filled(self.here.join("ballast"));
        shell::run(&["fallocate", "-l", &length.to_string(), &filled.0.to_string_lossy()])?;
        Ok(filled)
    }

    /// Unmounts it in its nodes, each at once as kubelet does, then here, and gives its loop device back.
    ///
    /// # Errors
    /// If somebody still uses it: a file or folder of it is open, or another mount namespace holds it.
    pub fn detach(mut self) -> Result<()> {
        let inside = self.path().to_string_lossy().into_owned();
        for leader in std::mem::take(&mut self.leaders) {
            shell::run(&["nsenter", "--target", &leader.to_string(), "--all", "--", "umount", &inside])?;
        }
        shell::run(&["umount", &self.here.to_string_lossy()])?;
        // Of a device in use the kernel only notes that it is to go.
        shell::run(&["losetup", "-d", &self.device])?;
        let device = self.device.clone();
        wait::wait_until("the loop device to be free", Duration::from_secs(5), || {
            Ok(!shell::run(&["losetup", "--list", "--noheadings", "--output", "NAME"])?
                .lines()
                .any(|name| name == device))
        })
        .map(drop)
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        File::options().write(true).open(&self.backing)?.set_len(bytes).context("failed to resize the backing file")
    }

    fn update_capacity(&self) -> Result<()> {
        shell::run(&["losetup", "--set-capacity", &self.device]).map(drop)
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        let here = self.here.to_string_lossy().into_owned();
        let inside = self.path().to_string_lossy().into_owned();
        for leader in &self.leaders {
            let target = leader.to_string();
            // The guest whose image is here ends just before; its memory may take a moment.
            let _ = wait::wait_until("the disk to be idle", Duration::from_secs(5), || {
                Ok(!Path::new(&format!("/proc/{target}")).exists()
                    || shell::succeeds(&["nsenter", "--target", &target, "--all", "--", "umount", &inside]))
            });
        }
        let _ = shell::succeeds(&["umount", &here]);
        let _ = shell::succeeds(&["losetup", "-d", &self.device]);
    }
}

/// A frozen file system; thawed when dropped.
#[derive(Debug)]
pub struct Frozen<'disk>(&'disk FileDisk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Err(error) = shell::run(&["fsfreeze", "--unfreeze", &self.0.here.to_string_lossy()]) {
            lab::complain(&format!("{error:#}"));
        }
    }
}

/// A disk that returns errors; whole again, with zeros where it was broken, when dropped.
#[derive(Debug)]
pub struct Broken<'disk>(&'disk FileDisk);

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.resize(self.0.size_bytes).and_then(|()| self.0.update_capacity()) {
            lab::complain(&format!("{error:#}"));
        }
    }
}

/// A full file system; the space is given back when dropped.
#[derive(Debug)]
pub struct Filled(PathBuf);

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
