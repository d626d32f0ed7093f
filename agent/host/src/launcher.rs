//! virt-launcher as its processes and files on the node show it: whose VM, which pod.
//!
//! Both the monitor (pid 1 of the container) and the launcher below it carry the VMI's namespace, name and UID in their
//! arguments; virt-handler keeps a ghost record for each launcher it has talked to. Sources: KubeVirt
//! `pkg/virt-controller/services/template.go`, `pkg/virt-handler/cache/cache.go` (v1.8).

mod tap;

use serde_json::Value;

use crate::cgroup::parse_pod_cgroup;
use crate::socket::connect_unix;
use crate::{HostRoot, ReadError};

pub use tap::{Taps, parse_net_dev, parse_tun_fdinfo};

/// Where virt-handler keeps its ghost records; `var/run` is a link to `run` on most hosts, and not always saved as one.
const GHOST_RECORDS: [&str; 2] = ["var/run/kubevirt-private/ghost-records", "run/kubevirt-private/ghost-records"];
/// Most ghost records that are read: one for each VM of the node.
const MAX_RECORDS: usize = 4096;

/// What a launcher's arguments say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LauncherArgs {
    /// virt-launcher-monitor, not virt-launcher itself.
    pub is_monitor: bool,
    /// The VMI's namespace.
    pub namespace: String,
    /// The VMI's name.
    pub name: String,
    /// The VMI's UID.
    pub vmi_uid: String,
    /// libvirt runs as another user than root, and so offers its session and not the system.
    pub is_nonroot: bool,
}

/// Reads the arguments of a process. `None` when it is no launcher, or does not say whose VM it runs.
pub fn parse_launcher_args(args: &[String]) -> Option<LauncherArgs> {
    // Forks start it through a shell or an init: the program is among the first arguments then.
    let program = |arg: &String| match arg.rsplit('/').next()? {
        "virt-launcher-monitor" => Some(true),
        "virt-launcher" => Some(false),
        _ => None,
    };
    let (at, is_monitor) = args.iter().take(4).enumerate().find_map(|(at, arg)| Some((at, program(arg)?)))?;
    let flags = &args[at + 1..];
    let value = |flag: &str| {
        let named = |arg: &str| arg.trim_start_matches('-') == flag && arg.starts_with('-');
        let joint = flags.iter().find_map(|arg| arg.strip_prefix("--")?.strip_prefix(flag)?.strip_prefix('='));
        let apart = || flags.iter().skip_while(|arg| !named(arg)).nth(1).map(String::as_str);
        joint.or_else(apart).filter(|value| !value.starts_with("--")).map(str::to_owned)
    };
    let filled = |flag: &str| value(flag).filter(|value| !value.is_empty());
    let is_nonroot = flags.iter().any(|arg| arg == "--run-as-nonroot" || arg == "--run-as-nonroot=true");
    let (namespace, name, vmi_uid) = (filled("namespace")?, filled("name")?, filled("uid")?);
    Some(LauncherArgs { is_monitor, namespace, name, vmi_uid, is_nonroot })
}

/// Whether a process name is that of a libvirt daemon that has QEMU domains.
pub fn is_libvirt_daemon(name: &str) -> bool {
    name == "virtqemud" || name == "libvirtd"
}

/// What virt-handler remembers of a launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GhostRecord {
    /// The VMI's namespace.
    pub namespace: String,
    /// The VMI's name.
    pub name: String,
    /// The VMI's UID.
    pub vmi_uid: String,
    /// UID of the launcher's pod, from the path of its socket.
    pub pod_uid: Option<String>,
}

/// Parses a ghost record. `None` when it is no JSON object with a namespace, a name and a UID.
pub fn parse_ghost_record(text: &str) -> Option<GhostRecord> {
    let record: Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| Some(record.get(name)?.as_str()?.to_owned()).filter(|value| !value.is_empty());
    // `/pods/<UID>/volumes/…`: the same shape as a pod's cgroup but for the prefix.
    let socket = field("socketFile").unwrap_or_default();
    let pod_uid = socket.split('/').find_map(|part| parse_pod_cgroup(&format!("/pod{part}")));
    Some(GhostRecord {
        namespace: field("namespace")?,
        name: field("name")?,
        vmi_uid: field("uid")?,
        pod_uid: pod_uid.map(|pod| pod.pod_uid),
    })
}

/// The ghost records of a node, with errors for those that could not be read. Empty where none were saved.
pub fn read_ghost_records(root: &HostRoot) -> (Vec<GhostRecord>, Vec<ReadError>) {
    let mut records = Vec::new();
    let mut errors = Vec::new();
    for directory in GHOST_RECORDS {
        let names = match root.list(directory) {
            Ok(names) => names,
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        for name in names.iter().filter_map(|name| name.to_str()).take(MAX_RECORDS) {
            match root.read_text(format!("{directory}/{name}")) {
                Ok(text) => records.extend(parse_ghost_record(&text).filter(|record| !records.contains(record))),
                Err(error) => errors.push(error),
            }
        }
    }
    (records, errors)
}

/// The folder of a launcher's command socket, below the host's root.
fn command_folder(pod_uid: &str) -> String {
    format!("var/lib/kubelet/pods/{pod_uid}/volumes/kubernetes.io~empty-dir/sockets")
}

/// Whether virt-handler has marked the launcher of this pod as unresponsive. `None` when the folder was not saved.
///
/// Source: `pkg/virt-handler/cmd-client/client.go`, `MarkSocketUnresponsive`.
pub fn is_marked_unresponsive(root: &HostRoot, pod_uid: &str) -> Option<bool> {
    Some(root.list(command_folder(pod_uid)).ok()?.iter().any(|name| name == "launcher-unresponsive"))
}

/// Who is behind a launcher's command socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandSocket {
    /// Somebody listens. Whether it also answers is not asked.
    Listens,
    /// Nobody listens.
    Refuses,
    /// Somebody listens and has taken no connection for so long that the kernel takes no more.
    Full,
}

/// Connects to the command socket of a pod's launcher and hangs up, as virt-handler does every 11 s. `None` while there is no
/// such socket: it appears when the launcher is ready.
///
/// # Errors
/// It may not be connected to.
pub fn try_command_socket(root: &HostRoot, pod_uid: &str) -> Result<Option<CommandSocket>, ReadError> {
    use std::io::ErrorKind;
    let path = format!("{}/launcher-sock", command_folder(pod_uid));
    match connect_unix(root, &path) {
        Ok(_) => Ok(Some(CommandSocket::Listens)),
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Ok(None),
            ErrorKind::ConnectionRefused => Ok(Some(CommandSocket::Refuses)),
            ErrorKind::WouldBlock => Ok(Some(CommandSocket::Full)),
            _ => Err(ReadError::from_io(root.display_path(path), error)),
        },
    }
}

/// Where libvirt's socket is in a launcher: virtqemud's, and libvirtd's of old releases.
const LIBVIRT_SOCKETS: [&str; 2] = ["virtqemud-sock", "libvirt-sock"];
/// Its folder; `/var/run` is a link in some images and a folder in others.
const LIBVIRT_FOLDERS: [&str; 2] = ["/var/run/libvirt", "/run/libvirt"];

/// The socket of the libvirt daemon in a launcher, by the launcher's own root. `None` while there is none.
pub fn find_libvirt_socket(launcher: &HostRoot) -> Option<String> {
    LIBVIRT_FOLDERS.iter().find_map(|folder| {
        let names = launcher.list(folder).ok()?;
        let socket = LIBVIRT_SOCKETS.iter().find(|socket| names.iter().any(|name| name == *socket))?;
        Some(format!("{folder}/{socket}"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn monitor_and_launcher_say_whose_vm_they_run() {
        let rest = "--qemu-timeout 279s --name app --uid 288cbda0 --namespace prod --hook-sidecars 0 --run-as-nonroot";
        for (program, is_monitor) in [("/usr/bin/virt-launcher-monitor", true), ("/usr/bin/virt-launcher", false)] {
            let found = parse_launcher_args(&args(&format!("{program} {rest}"))).unwrap();
            assert_eq!((found.is_monitor, found.is_nonroot), (is_monitor, true));
            assert_eq!((&*found.namespace, &*found.name, &*found.vmi_uid), ("prod", "app", "288cbda0"));
        }
        let found = parse_launcher_args(&args(
            "/tini -- /usr/bin/virt-launcher --allow-emulation --name=a --uid=b --namespace=c",
        ));
        assert_eq!(found.map(|args| (args.name, args.is_nonroot)), Some(("a".to_owned(), false)));
    }

    #[test]
    fn what_is_no_launcher_or_does_not_say_whose_is_none() {
        for text in
            ["", "/usr/bin/virt-handler --name a --uid b --namespace c", "/usr/bin/virt-launcher --name a --uid"]
        {
            assert_eq!(parse_launcher_args(&args(text)), None, "{text}");
        }
    }

    #[test]
    fn a_ghost_record_ties_a_pod_to_its_vmi() {
        let pod = "f8f01014-2f8e-4b00-9604-f5dc2b5d604d";
        let text =
            format!(r#"{{"name":"app","namespace":"prod","socketFile":"/pods/{pod}/volumes/x","uid":"288cbda0"}}"#);
        assert_eq!(parse_ghost_record(&text).unwrap().pod_uid.as_deref(), Some(pod));
        assert_eq!(parse_ghost_record(r#"{"name":"app"}"#), None);
        assert_eq!(parse_ghost_record("rubbish"), None);
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert!(read_ghost_records(&root).0.is_empty());
        std::fs::create_dir_all(dir.path().join(GHOST_RECORDS[0])).unwrap();
        std::fs::write(dir.path().join(GHOST_RECORDS[0]).join("288cbda0"), text).unwrap();
        assert_eq!(read_ghost_records(&root).0.len(), 1);
    }

    #[test]
    fn the_mark_of_an_unresponsive_launcher_is_a_file_beside_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(is_marked_unresponsive(&root, "u"), None);
        let sockets = dir.path().join("var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/sockets");
        std::fs::create_dir_all(&sockets).unwrap();
        assert_eq!(is_marked_unresponsive(&root, "u"), Some(false));
        std::fs::write(sockets.join("launcher-unresponsive"), "").unwrap();
        assert_eq!(is_marked_unresponsive(&root, "u"), Some(true));
    }

    #[test]
    fn a_command_socket_listens_refuses_or_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(try_command_socket(&root, "u").unwrap(), None, "no pod's folder");
        let folder = dir.path().join(command_folder("u"));
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(try_command_socket(&root, "u").unwrap(), None, "not ready yet");
        let listener = std::os::unix::net::UnixListener::bind(folder.join("launcher-sock")).unwrap();
        // The shortest queue there is; the kernel takes one more than it was told.
        rustix::net::listen(&listener, 0).unwrap();
        assert_eq!(try_command_socket(&root, "u").unwrap(), Some(CommandSocket::Listens));
        assert_eq!(try_command_socket(&root, "u").unwrap(), Some(CommandSocket::Full));
        drop(listener);
        assert_eq!(try_command_socket(&root, "u").unwrap(), Some(CommandSocket::Refuses));
    }

    #[test]
    fn libvirts_socket_is_found_by_the_launchers_own_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        assert_eq!(find_libvirt_socket(&root), None);
        std::fs::create_dir_all(dir.path().join("run/libvirt")).unwrap();
        std::fs::write(dir.path().join("run/libvirt/libvirt-sock"), "").unwrap();
        assert_eq!(find_libvirt_socket(&root).as_deref(), Some("/run/libvirt/libvirt-sock"));
        std::fs::create_dir(dir.path().join("var")).unwrap();
        std::os::unix::fs::symlink("/run", dir.path().join("var/run")).unwrap();
        std::fs::write(dir.path().join("run/libvirt/virtqemud-sock"), "").unwrap();
        assert_eq!(find_libvirt_socket(&root).as_deref(), Some("/var/run/libvirt/virtqemud-sock"));
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(words in proptest::collection::vec("(/?virt-launcher|--?(name|uid|namespace)(=.{0,3})?|\\PC{0,8})", 0..9)) {
            let _ = parse_launcher_args(&words);
            let _ = parse_ghost_record(&words.concat());
        }
    }
}
