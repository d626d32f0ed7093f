//! A file of a server that can stop answering, mounted in a node as a network file system: what a node with GlusterFS' client shows.
//!
//! Each export is a mount of its own, in one node, by FUSE; two of one address are of one server, as far as anybody can see. What serves
//! them is this process: nothing is sent to the address. While an export hangs none of its requests is answered.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::disk::HungDisk;
use crate::fuse_file::{FuseFile, NAME};
use crate::launcher::DISK_BYTES;
use crate::node::Node;
use crate::{lab, shell};

/// Makes the folder `$1` for the launcher, the mount point `$2`, and what FUSE needs; a node has its own devices.
const PREPARE: &str = "\
[ -e /dev/fuse ] || mknod -m 600 /dev/fuse c 10 229
mkdir -p $1 $2
touch $1/disk.img
";

/// An export, with room for the disk of a launcher's guest. Unmounted when dropped.
#[derive(Debug)]
pub struct Export {
    file: FuseFile,
    leader: i32,
    folder: PathBuf,
}

impl Export {
    /// Mounts `server:/name` in a node.
    ///
    /// # Errors
    /// Without FUSE.
    pub fn mount(node: &Node, server: &str, name: &str) -> Result<Self> {
        let disks = lab::folder().join("disks");
        fs::create_dir_all(&disks)?;
        let backing = disks.join(format!("{name}.export"));
        File::create(&backing)?.set_len(DISK_BYTES)?;
        let folder = Path::new("/var/lib/lab").join(name);
        let point = folder.with_extension("export");
        let (inside, at) = (folder.to_string_lossy(), point.to_string_lossy());
        node.run(&["sh", "-ec", PREPARE, "prepare", &inside, &at])?;
        let file = FuseFile::mount_in(node, &backing, &point, &format!("{server}:/{name}"))?;
        let export = Self { file, leader: node.leader(), folder: folder.clone() };
        // Beside it lies what is the launcher's own.
        node.run(&["mount", "--bind", &point.join(NAME).to_string_lossy(), &export.image()])?;
        Ok(export)
    }

    /// The folder with its file, `disk.img`, in the node.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets no request be answered any more.
    #[must_use]
    pub fn hang(&self) -> HungDisk<'_> {
        self.file.hang()
    }

    fn image(&self) -> String {
        self.folder.join("disk.img").to_string_lossy().into_owned()
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        let target = self.leader.to_string();
        let _ = shell::succeeds(&["nsenter", "--target", &target, "--all", "--", "umount", &self.image()]);
    }
}
