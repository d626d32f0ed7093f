//! Stands for KubeVirt's launcher in the lab: `virt-launcher-monitor` and `virt-launcher` in one program, told apart by its name.
//!
//! As in KubeVirt (`cmd/virt-launcher-monitor`, `cmd/virt-launcher`; v1.8) the monitor is process 1 of the container: it starts the
//! launcher, reaps what is left to it, passes SIGTERM on, and ends QEMU when the launcher is gone. The launcher keeps a libvirt daemon and
//! virtlogd of its own running, defines and starts the domain, opens the command socket, logs KubeVirt's JSON lines, and ends with its
//! domain. The domain comes from [`DOMAIN`]; a launcher without one waits for a migration to bring it. Real are the processes, sockets,
//! files and logs; the command socket greets as gRPC does and answers nothing.

use std::fs;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kulprit_tests::launcher::{COMMAND_SOCKETS, DOMAIN, LIBVIRT_RUN, libvirt_uri};
use kulprit_tests::wait;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How long QEMU may take to end after the monitor's SIGTERM (`pkg/virt-launcher/monitor.go`).
const QEMU_GRACE: Duration = Duration::from_secs(10);
/// Pause before a daemon that ended is started again (`pkg/virt-launcher/virtwrap/util/libvirt_helper.go`).
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How often the launcher looks whether its domain runs.
const REFRESH: Duration = Duration::from_secs(1);
/// How long the guest's network may take to be set up.
const NETWORK_LIMIT: Duration = Duration::from_secs(60);
/// How long libvirt may take to offer its socket.
const LIBVIRT_LIMIT: Duration = Duration::from_secs(30);
/// An empty HTTP/2 SETTINGS frame: what a gRPC server sends first.
const GREETING: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Whose configuration libvirt reads as a user other than root; KubeVirt sets the same in the pod's environment.
const XDG: [(&str, &str); 3] = [
    ("XDG_CACHE_HOME", "/run/kubevirt-private"),
    ("XDG_CONFIG_HOME", "/run/kubevirt-private"),
    ("XDG_RUNTIME_DIR", "/var/run"),
];
/// A sandbox for QEMU inside the container would be one too many, and it stays in the container's cgroup: as KubeVirt's `qemu.conf`.
const QEMU_CONF: &str = "\
dynamic_ownership = 0
remember_owner = 0
security_driver = \"none\"
namespaces = []
cgroup_controllers = []
";
/// Whoever reaches its sockets may use them: its own launcher, and virt-handler.
const LIBVIRTD_CONF: &str = "\
auth_unix_rw = \"none\"
auth_unix_ro = \"none\"
";

fn main() -> ExitCode {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let result = match Path::new(&program).file_name().and_then(|name| name.to_str()) {
        Some("virt-launcher-monitor") => monitor(&program, &args),
        Some("virt-launcher") => launch(),
        _ => Err(anyhow::anyhow!("started under another name than virt-launcher-monitor or virt-launcher")),
    };
    result.unwrap_or_else(|error| {
        log("error", &format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// One line of log as KubeVirt's logger writes it.
fn log(level: &str, message: &str) {
    print(&json!({"component": "virt-launcher", "level": level, "msg": message, "timestamp": now()}));
}

/// A line of a daemon as KubeVirt repeats it in its own log (`client-go/log`, `LogLibvirtLogLine`): libvirt's lines are
/// `time: thread: severity : position : message`.
fn log_daemon_line(line: &str) {
    let parts: Vec<&str> = line.splitn(5, ": ").map(str::trim).collect();
    let [_, thread, severity, position, message] = parts[..] else {
        return log("info", line);
    };
    let is_position = position.split_once(':').is_some_and(|(_, line)| line.parse::<u32>().is_ok());
    if !is_position {
        return log(&severity.to_lowercase(), &format!("{position}: {message}"));
    }
    print(&json!({
        "component": "virt-launcher",
        "level": severity.to_lowercase(),
        "msg": message,
        "pos": position,
        "subcomponent": "libvirt",
        "thread": thread,
        "timestamp": now(),
    }));
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[expect(clippy::print_stdout, reason = "a container logs to its standard output")]
fn print(line: &serde_json::Value) {
    println!("{line}");
}

// --- the monitor ---------------------------------------------------------------------------------------------------------------------

fn monitor(program: &str, args: &[String]) -> Result<ExitCode> {
    let launcher = Path::new(program).with_file_name("virt-launcher");
    let launcher = std::process::Command::new(&launcher).args(args).stdin(Stdio::null()).spawn();
    let launcher = Pid::from_raw(launcher.context("failed to run virt-launcher")?.id().cast_signed());

    // Blocked from here on, in every thread; the launcher was started before and takes signals as usual. Process 1 of a container
    // gets only signals that it handles.
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.add(Signal::SIGINT);
    terminate.thread_block()?;
    thread::spawn(move || {
        while terminate.wait().is_ok() {
            log("info", "signalling virt-launcher to shut down");
            let _ = kill(launcher, Signal::SIGTERM);
        }
    });

    let code = loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == launcher => break code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == launcher => break 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("failed to wait for virt-launcher"),
        }
    };
    if code != 0 {
        log("error", &format!("dirty virt-launcher shutdown: exit-code {code}"));
    }
    for qemu in children_named("qemu-system") {
        log("info", "Killing QEMU gracefully.");
        let _ = kill(qemu, Signal::SIGTERM);
        let ended = wait::wait_until("QEMU to end", QEMU_GRACE, || {
            let _ = waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
            Ok(!children_named("qemu-system").contains(&qemu))
        });
        if ended.is_err() {
            log("error", "QEMU did not end in time");
        }
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The children of process 1 whose program begins so, without zombies.
fn children_named(prefix: &str) -> Vec<Pid> {
    let children = fs::read_to_string("/proc/self/task/1/children").unwrap_or_default();
    let is_named = |pid: &i32| {
        let is_zombie = || kulprit_tests::process::state(*pid).is_none_or(|state| state == 'Z');
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(prefix)) && !is_zombie()
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_named).map(Pid::from_raw).collect()
}

// --- the launcher --------------------------------------------------------------------------------------------------------------------

fn launch() -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        // Outlives the choice below: libvirt, which it holds, is needed to end the domain.
        let mut domain = Box::pin(run_domain());
        tokio::select! {
            ended = &mut domain => ended?,
            _ = terminate.recv() => {
                log("info", "Received signal terminated");
                // As KubeVirt asks: SIGTERM for QEMU, and no SIGKILL after it.
                virsh("destroy", &["--graceful", &domain_name()?]).await?;
            }
        }
        log("info", "Exiting...");
        Ok(ExitCode::SUCCESS)
    })
}

/// Keeps the daemons and the domain running; returns when the domain has ended.
async fn run_domain() -> Result<()> {
    write_config()?;
    wait_for_network().await?;
    let mut virtlogd = daemon(&["/usr/sbin/virtlogd", "-f", "/etc/libvirt/virtlogd.conf"])?;
    let mut libvirt = start_libvirt().await?;
    log("info", "Connected to libvirt daemon");
    serve_commands("launcher-init-sock")?;
    if Path::new(DOMAIN).exists() {
        virsh("define", &[DOMAIN]).await?;
        virsh("start", &[&domain_name()?]).await?;
        log("info", "Successfully started VM");
    } else {
        log("info", "Waiting for the domain of a migration");
    }
    // What virt-handler takes for readiness.
    let socket = |name: &str| Path::new(COMMAND_SOCKETS).join(name);
    fs::rename(socket("launcher-init-sock"), socket("launcher-sock"))?;

    let domain = domain_name()?;
    let mut has_run = false;
    loop {
        tokio::select! {
            status = virtlogd.wait() => {
                log("error", &format!("virtlogd exited, restarting: {}", status?));
                tokio::time::sleep(RESTART_PAUSE).await;
                virtlogd = daemon(&["/usr/sbin/virtlogd", "-f", "/etc/libvirt/virtlogd.conf"])?;
            }
            status = libvirt.wait() => {
                log("error", &format!("virtqemud exited, restarting: {}", status?));
                tokio::time::sleep(RESTART_PAUSE).await;
                libvirt = start_libvirt().await?;
            }
            () = tokio::time::sleep(REFRESH) => match qemu(&domain) {
                Some(_) if !has_run => {
                    has_run = true;
                    log("info", "Found PID for QEMU");
                }
                None if has_run => {
                    log("info", "Process of the domain has exited");
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

/// Pid of the domain's QEMU in this container, from libvirt's own note; `None` while there is none, or what it names is gone.
fn qemu(domain: &str) -> Option<i32> {
    let folder = if is_root() { "qemu" } else { "qemu/run" };
    let note = Path::new(LIBVIRT_RUN).join(folder).join(format!("{domain}.pid"));
    let pid = fs::read_to_string(note).ok()?.trim().parse().ok()?;
    kulprit_tests::process::is_alive(pid).then_some(pid)
}

/// The name of the domain: `namespace_name` of this program's flags.
fn domain_name() -> Result<String> {
    let args: Vec<String> = std::env::args().collect();
    let value = |flag: &str| args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1));
    let (Some(namespace), Some(name)) = (value("--namespace"), value("--name")) else {
        bail!("--namespace and --name are needed");
    };
    Ok(format!("{namespace}_{name}"))
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn write_config() -> Result<()> {
    let (qemu_conf, user) = if is_root() {
        ("/etc/libvirt/qemu.conf", "user = \"root\"\ngroup = \"root\"\n")
    } else {
        ("/run/kubevirt-private/libvirt/qemu.conf", "")
    };
    for (path, text) in [
        (qemu_conf, &*format!("{user}{QEMU_CONF}")),
        ("/etc/libvirt/virtlogd.conf", ""),
        (&format!("{LIBVIRT_RUN}/virtqemud.conf"), LIBVIRTD_CONF),
    ] {
        let path = Path::new(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
    }
    Ok(())
}

/// Waits for the guest's tap, which is made from outside, as virt-handler makes it (`pkg/network/setup`, phase 1).
async fn wait_for_network() -> Result<()> {
    let made = async {
        while !Path::new("/sys/class/net/tap0").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NETWORK_LIMIT, made).await.context("nobody made tap0")
}

/// A daemon that ends with this program, and whose standard error goes to the log.
fn daemon(line: &[&str]) -> Result<Child> {
    let (program, args) = line.split_first().context("a command has a name")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    if !is_root() {
        command.envs(XDG);
    }
    let mut child = command.spawn().with_context(|| format!("failed to start {program}"))?;
    let stderr = child.stderr.take().context("standard error is piped")?;
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if !line.trim().is_empty() {
                log_daemon_line(&line);
            }
        }
    });
    Ok(child)
}

/// Starts libvirt and gives its sockets the names that the modular daemon of KubeVirt's image has; Debian ships the monolithic one. A
/// session's has no read-only socket.
async fn start_libvirt() -> Result<Child> {
    let config = format!("{LIBVIRT_RUN}/virtqemud.conf");
    let mut libvirt = daemon(&["/usr/sbin/libvirtd", "-f", &config])?;
    let at = |name: &str| Path::new(LIBVIRT_RUN).join(name);
    let sockets = [
        ("libvirt-admin-sock", "virtqemud-admin-sock"),
        ("libvirt-sock", "virtqemud-sock"),
        ("libvirt-sock-ro", "virtqemud-sock-ro"),
    ];
    let sockets = &sockets[..if is_root() { 3 } else { 2 }];
    let offered = async {
        while !sockets.iter().all(|(made, _)| at(made).exists()) {
            if let Some(status) = libvirt.try_wait()? {
                bail!("libvirt ended: {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(LIBVIRT_LIMIT, offered).await.context("libvirt offers no socket")??;
    for (made, wanted) in sockets {
        fs::rename(at(made), at(wanted)).with_context(|| format!("failed to rename {made}"))?;
    }
    Ok(libvirt)
}

/// Accepts whoever connects to the command socket, greets, and holds the connection until the other side ends it.
fn serve_commands(name: &str) -> Result<()> {
    let path = Path::new(COMMAND_SOCKETS).join(name);
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("failed to listen on `{}`", path.display()))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // A client that goes away early is its own affair.
                let _ = io::Write::write_all(&mut stream, &GREETING);
                let _ = io::copy(&mut stream, &mut io::sink());
            });
        }
    });
    Ok(())
}

async fn virsh(verb: &str, args: &[&str]) -> Result<()> {
    run("virsh", ["--quiet", "--connect", libvirt_uri(is_root()), verb].iter().chain(args).copied()).await
}

async fn run(program: &str, args: impl Iterator<Item = &str>) -> Result<()> {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!("{:?}: {}", command.as_std(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
