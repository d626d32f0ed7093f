//! A guest: a libvirt domain on a node, running one of the lab's boot sectors under KVM.
//!
//! `Guest::define(..).start()` returns when the guest itself says, on its disk, that it runs. The domain is ended and undefined when the
//! guard is dropped.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::disk::FileDisk;
use crate::domain_xml::Domain;
pub use crate::image::Program;
use crate::image::{self, SECTOR};
use crate::node::Node;
use crate::{process, wait};

/// How long a guest may take from `virsh start` until it runs; half a second to two are normal.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A guest to be started.
#[derive(Debug)]
#[must_use]
pub struct GuestBuilder<'node> {
    node: &'node Node,
    name: String,
    program: Program,
    folder: PathBuf,
    disk_mib: u64,
    on_disk_error: &'static str,
    is_allocated: bool,
    has_checked_cpu: bool,
}

impl<'node> GuestBuilder<'node> {
    /// Puts the image on a disk that can be broken; without, it lies in `/var/lib/libvirt/images`.
    pub fn disk_on(self, disk: &FileDisk) -> Self {
        Self { folder: disk.path(), ..self }
    }

    /// Size of its (sparse) disk image; 16 MiB otherwise.
    pub fn disk_mib(self, disk_mib: u64) -> Self {
        Self { disk_mib, ..self }
    }

    /// Hands disk errors on to the guest instead of pausing it.
    pub fn report_disk_errors(self) -> Self {
        Self { on_disk_error: "report", ..self }
    }

    /// Allocates the whole image at once, so that reading it reaches the device.
    pub fn allocated(self) -> Self {
        Self { is_allocated: true, ..self }
    }

    /// Lets libvirt check its CPU, here and on the target of a migration.
    pub fn with_checked_cpu(self) -> Self {
        Self { has_checked_cpu: true, ..self }
    }

    /// Defines the domain and leaves it shut off.
    ///
    /// # Errors
    /// If libvirt refuses it.
    pub fn define(self) -> Result<Guest<'node>> {
        let image = self.folder.join(format!("{}.img", self.name));
        let boot_sector = self.program.assemble((self.disk_mib << 20) / SECTOR as u64)?;
        let guest = Guest { node: Cell::new(self.node), name: self.name, image, boot_sector };
        let path = guest.image_here();
        fs::create_dir_all(path.parent().context("an image lies in a folder")?)?;
        write_image(&path, self.disk_mib << 20, self.is_allocated).context("failed to make the image")?;
        let domain = Domain {
            name: &guest.name,
            memory_mib: self.program.memory_mib(),
            image: &guest.image.to_string_lossy(),
            on_disk_error: self.on_disk_error,
            has_checked_cpu: self.has_checked_cpu,
        };
        let xml = format!("/run/lab-{}.xml", guest.name);
        fs::write(guest.in_node(Path::new(&xml)), domain.to_xml())?;
        guest.node().virsh(&["define", &xml])?;
        Ok(guest)
    }

    /// Defines the domain, starts it, and waits until the guest runs.
    ///
    /// # Errors
    /// If libvirt refuses it, or it does not come up.
    pub fn start(self) -> Result<Guest<'node>> {
        let guest = self.define()?;
        guest.start()?;
        Ok(guest)
    }
}

/// A defined guest. Ended and undefined when dropped.
#[derive(Debug)]
pub struct Guest<'node> {
    node: Cell<&'node Node>,
    name: String,
    image: PathBuf,
    boot_sector: Vec<u8>,
}

impl<'node> Guest<'node> {
    /// A guest of that name on a node, to be given a disk and started.
    pub fn define(node: &'node Node, name: &str, program: Program) -> GuestBuilder<'node> {
        GuestBuilder {
            node,
            name: name.to_owned(),
            program,
            folder: PathBuf::from("/var/lib/libvirt/images"),
            disk_mib: 16,
            on_disk_error: "stop",
            is_allocated: false,
            has_checked_cpu: false,
        }
    }

    /// Its domain's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on: where it was defined, or where it last arrived.
    #[must_use]
    pub fn node(&self) -> &'node Node {
        self.node.get()
    }

    /// Says that a migration took it to another node.
    pub(crate) fn has_moved(&self, to: &'node Node) {
        self.node.set(to);
    }

    /// Starts the domain and waits until the guest runs; returns how long that took.
    ///
    /// # Errors
    /// If libvirt refuses, or the guest does not come up.
    pub fn start(&self) -> Result<Duration> {
        let clock = wait::Stopwatch::start();
        image::write_boot_sector(&self.image_here(), &self.boot_sector)?;
        self.virsh("start")?;
        self.wait_until_up()?;
        Ok(clock.elapsed())
    }

    /// Runs `virsh <verb> <domain>` on its node.
    ///
    /// # Errors
    /// If virsh fails.
    pub fn virsh(&self, verb: &str) -> Result<String> {
        self.node().virsh(&[verb, &self.name])
    }

    /// State and reason as `virsh domstate --reason` words them: `paused (I/O error)`.
    ///
    /// # Errors
    /// If libvirt does not answer.
    pub fn state(&self) -> Result<String> {
        Ok(self.node().virsh(&["domstate", "--reason", &self.name])?.trim().to_owned())
    }

    /// Waits for a state of [`Guest::state`]; returns how long that took.
    ///
    /// # Errors
    /// If it does not come within `limit`.
    pub fn wait_for_state(&self, wanted: &str, limit: Duration) -> Result<Duration> {
        let mut last = String::new();
        wait::wait_until(wanted, limit, || {
            last = self.state()?;
            Ok(last == wanted)
        })
        .with_context(|| format!("{} stayed `{last}`", self.name))
    }

    /// Pid of its QEMU on this machine; `None` while it has none.
    #[must_use]
    pub fn qemu_pid(&self) -> Option<i32> {
        qemu_pid(self.node(), &self.name)
    }

    /// Sends its QEMU a signal.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(self.qemu_pid().with_context(|| format!("{} does not run", self.name))?, signal)
    }

    /// Its disk image as seen from this machine.
    #[must_use]
    pub fn image_here(&self) -> PathBuf {
        self.in_node(&self.image)
    }

    /// Waits until the guest runs: it then has written so on its disk.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn wait_until_up(&self) -> Result<()> {
        let path = self.image_here();
        let up = wait::wait_until("the guest to run", START_LIMIT, || image::is_up(&path));
        up.map(drop).with_context(|| format!("guest {}, {}", self.name, self.state().unwrap_or_default()))
    }

    fn in_node(&self, path: &Path) -> PathBuf {
        self.node().root().join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Makes a disk image of zeros: a hole, or blocks that were written.
fn write_image(path: &Path, bytes: u64, is_allocated: bool) -> Result<()> {
    let mut file = File::create(path)?;
    if is_allocated {
        io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    } else {
        file.set_len(bytes)?;
    }
    Ok(file.sync_all()?)
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // A fault's guard is dropped before the guest it was done to.
        remove(self.node(), &self.name);
    }
}

/// Pid on this machine of a domain's QEMU on a node; `None` while it has none there.
pub(crate) fn qemu_pid(node: &Node, name: &str) -> Option<i32> {
    let inner = fs::read_to_string(node.root().join(format!("run/libvirt/qemu/{name}.pid"))).ok()?;
    process::on_host(node.leader(), inner.trim().parse().ok()?)
}

/// Ends and undefines a domain on a node, if there is one.
pub(crate) fn remove(node: &Node, name: &str) {
    // QEMU first and by signal: libvirt may be what is broken.
    if let Some(pid) = qemu_pid(node, name) {
        let _ = process::signal(pid, Signal::SIGKILL);
        let _ = wait::wait_until("QEMU to end", Duration::from_secs(10), || Ok(!process::is_alive(pid)));
    }
    if process::is_alive(node.leader()) {
        let _ = node.run_within(5, &["virsh", "--quiet", "destroy", name]);
        let _ = node.run_within(5, &["virsh", "--quiet", "undefine", "--managed-save", "--snapshots-metadata", name]);
    }
}
