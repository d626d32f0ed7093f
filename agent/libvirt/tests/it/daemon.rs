//! A private libvirtd with real guests, for one test.
//!
//! It lives in namespaces of its own (`private-libvirtd.sh`), so nothing of the machine's libvirt is touched and nothing is
//! left when the test ends, however it ends: `unshare` dies with the test, its child with it, and as that is the first process
//! of the namespaces, the kernel ends all others.

use std::{
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::{prctl, signal},
    unistd::{Pid, geteuid},
};

use kulprit_proto::worker::AddTarget;

use crate::worker::{now, pause, socket};

/// Whether tests with a daemon run. Without root they are left out (`scripts/test.sh` lists them by the names given here); with
/// `CI=true` that is a failure.
pub(crate) fn may_run(test: &str) -> bool {
    let may = geteuid().is_root();
    assert!(may || std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test} needs root");
    if !may {
        println!("left out, as it needs root: {test}");
    }
    may
}

/// The daemon and its namespaces.
pub(crate) struct Daemon {
    unshare: Child,
    /// The first process in the namespaces.
    init: i32,
    /// Of the TCP socket, in their network.
    port: u16,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_in(Command::new("unshare").arg("--net"), 16_509)
    }

    /// Another one in the same network: a second node.
    pub(crate) fn start_beside(first: &Self) -> Self {
        let network = format!("--net=/proc/{}/ns/net", first.init);
        Self::start_in(Command::new("nsenter").arg(network).arg("unshare"), 16_510)
    }

    fn start_in(command: &mut Command, port: u16) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/private-libvirtd.sh");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
        command.arg("bash").arg(script).arg(port.to_string()).stdin(Stdio::piped());
        // SAFETY: prctl is async-signal-safe, and the only thing done between fork and exec.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(signal::Signal::SIGKILL).map_err(Into::into)) };
        let unshare = command.spawn().unwrap();
        let parent = i32::try_from(unshare.id()).unwrap();
        let init =
            wait("the namespaces", || processes().find(|process| process.parent == parent).map(|found| found.pid));
        let mut daemon = Self { unshare, init, port };
        daemon.restart();
        daemon
    }

    /// Starts the daemon, which must not run, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.unshare.stdin.as_mut().unwrap().write_all(b"start\n").unwrap();
        wait("a libvirtd that answers", || {
            let output = self.virsh_command(&["version"]).stderr(Stdio::null()).output().unwrap();
            output.status.success().then_some(())
        });
    }

    /// How the worker reaches it, as it does a launcher's.
    pub(crate) fn added(&self) -> AddTarget {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.init)).unwrap();
        let start = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
        AddTarget {
            root: format!("/proc/{}/root", self.init),
            start_time_ticks: start.parse().unwrap(),
            ..socket(Path::new("/var/run/libvirt/libvirt-sock"))
        }
    }

    fn socket(&self) -> PathBuf {
        format!("/proc/{}/root/run/libvirt/libvirt-sock", self.init).into()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.find("libvirtd", None).expect("it runs")
    }

    /// The QEMU of a domain.
    pub(crate) fn qemu(&self, domain: &str) -> i32 {
        self.find("qemu-system-x86", Some(&format!("guest={domain},"))).expect("it runs")
    }

    fn find(&self, comm: &str, argument: Option<&str>) -> Option<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.init);
        let has_argument = |pid: i32| {
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            argument.is_none_or(|argument| String::from_utf8_lossy(&cmdline).contains(argument))
        };
        processes().find(|it| it.comm == comm && namespace(it.pid) == ours && has_argument(it.pid)).map(|it| it.pid)
    }

    /// Where another daemon in the same network finds it.
    pub(crate) fn tcp_uri(&self) -> String {
        format!("qemu+tcp://127.0.0.1:{}/system", self.port)
    }

    /// Ends the daemon, not its guests.
    pub(crate) fn stop(&self) {
        signal(self.pid(), signal::Signal::SIGTERM);
        wait("the daemon's end", || self.find("libvirtd", None).is_none().then_some(()));
    }

    /// Defines and starts a guest without an operating system; it has one disk and sits in its firmware.
    pub(crate) fn start_guest(&self, name: &str) {
        let (kind, root) =
            (if Path::new("/dev/kvm").exists() { "kvm" } else { "qemu" }, format!("/proc/{}/root", self.init));
        let image = format!("/var/lib/libvirt/images/{name}.img");
        self.create_image(name);
        let xml = format!(
            "<domain type='{kind}'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
            <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>
            <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
            <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
            <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>
            <target dev='vda' bus='virtio'/></disk></devices></domain>"
        );
        let file = format!("{root}/run/libvirt/{name}.xml");
        fs::write(&file, xml).unwrap();
        self.virsh(&["define", &file]);
        self.virsh(&["start", name]);
    }

    /// Makes the image of a guest's disk.
    pub(crate) fn create_image(&self, name: &str) {
        let path = format!("/proc/{}/root/var/lib/libvirt/images/{name}.img", self.init);
        fs::File::create(path).unwrap().set_len(16 << 20).unwrap();
    }

    #[track_caller]
    pub(crate) fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.virsh_command(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn virsh_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("virsh");
        command.args(["-c", &format!("qemu+unix:///system?socket={}", self.socket().display())]);
        command.args(arguments).stdin(Stdio::null());
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.unshare.kill().ok();
        self.unshare.wait().ok();
        wait("the end of the namespaces", || (!Path::new(&format!("/proc/{}", self.init)).exists()).then_some(()));
    }
}

/// A process that is stopped; goes on when dropped.
pub(crate) struct Stopped(i32);

impl Stopped {
    pub(crate) fn stop(pid: i32) -> Self {
        signal(pid, signal::Signal::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal::kill(Pid::from_raw(self.0), signal::Signal::SIGCONT).ok();
    }
}

fn signal(pid: i32, signal: signal::Signal) {
    signal::kill(Pid::from_raw(pid), signal).ok();
}

struct Process {
    pid: i32,
    parent: i32,
    comm: String,
}

/// The processes of this machine, as /proc has them.
fn processes() -> impl Iterator<Item = Process> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (comm, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut rest = rest.split_whitespace();
        let is_alive = rest.next()? != "Z";
        is_alive.then_some(Process { pid, parent: rest.next()?.parse().ok()?, comm: comm.into() })
    })
}

#[track_caller]
fn wait<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let until = now() + Duration::from_secs(30);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(now() < until, "no {what} within 30 s");
        pause(Duration::from_millis(50));
    }
}
