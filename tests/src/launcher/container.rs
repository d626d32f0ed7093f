//! The container of a launcher without Kubernetes: what kubelet, containerd and a CNI plugin would set up, by `runc` and `ip`.
//!
//! A transient unit of the node's systemd runs `runc` and turns the container's output into a CRI log, as a shim does. The container is
//! in `/kubepods/burstable/pod<UID>/<64 hex>` (kubelet's cgroupfs driver under containerd), sees the devices that KubeVirt's device
//! plugins give, and is linked to the node by `eth0`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::{EMPTY_DIRS, LauncherBuilder, empty_dir, log_folder, next_number, uuid};
use crate::kubernetes::{images, pod_subnet};
use crate::node::Node;

/// Where the bundles of these containers lie in the node.
const BUNDLES: &str = "/var/lib/lab-containers";
/// Those of a container by default, and those that KubeVirt adds for QEMU and its network.
const CAPABILITIES: [&str; 16] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
];
/// `/dev/kvm` and `/dev/net/tun`: path, major, minor.
const DEVICES: [(&str, u32, u32); 2] = [("/dev/kvm", 10, 232), ("/dev/net/tun", 10, 200)];

/// Sets up the pod's network: `$1` its namespace, `$2` the node's end of the link, `$3` its address, `$4` the node's address in it.
const NETWORK: &str = "\
ip netns add $1
ip -n $1 link set lo up
ip link add $2 type veth peer name eth0 netns $1
ip addr add $4/32 dev $2
ip link set $2 up
ip route add $3/32 dev $2
ip -n $1 addr add $3/32 dev eth0
ip -n $1 link set eth0 up
ip -n $1 route add $4 dev eth0
ip -n $1 route add default via $4 dev eth0
echo 1 >/proc/sys/net/ipv4/ip_forward
";

/// Runs the container `$2` of the bundle `$1`, with its output in the CRI log `$3`. A file of the bundle: systemd would expand its `$`.
const SHIM: &str = "\
runc --root /run/lab-runc run --bundle \"$1\" \"$2\" 2>&1 | while IFS= read -r line; do
    printf -v at '%(%Y-%m-%dT%H:%M:%S)T.%s000Z' -1 \"${EPOCHREALTIME#*.}\"
    printf '%s stdout F %s\\n' \"$at\" \"$line\"
done >>\"$3\"
";

/// Takes away what is left of the container `$1` of the pod `$2`, with its network namespace `$3` and logs `$4`.
const REMOVE: &str = "\
systemctl kill --signal=KILL lab-container-$1.service
runc --root /run/lab-runc delete --force $1
ip netns del $3
for group in $(find /sys/fs/cgroup -depth -type d -path \"*/pod$2*\"); do rmdir $group; done
rm -rf --one-file-system /var/lib/kubelet/pods/$2 $4 /var/lib/lab-containers/$1
";

/// A container that was started.
#[derive(Debug)]
pub(crate) struct Container {
    id: String,
    pod_uid: String,
    network: String,
    log_folder: String,
}

/// Starts the container of a launcher whose files are written.
pub(super) fn start(launcher: &LauncherBuilder<'_>, pod_uid: &str) -> Result<Container> {
    let node = launcher.node;
    let id = [uuid()?, uuid()?].concat().replace('-', "");
    let container = Container {
        network: format!("cni-{}", uuid()?),
        log_folder: log_folder(&launcher.identity, pod_uid),
        pod_uid: pod_uid.to_owned(),
        id,
    };
    let bundle = format!("{BUNDLES}/{}", container.id);
    let here = |path: &str| node.root().join(path.trim_start_matches('/'));
    for (name, _) in EMPTY_DIRS {
        let folder = here(&empty_dir(pod_uid, name));
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
    }
    fs::create_dir_all(here(&container.log_folder))?;
    images::make_root(&here(&bundle).join("rootfs"))?;
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {}\n", launcher.identity.name);
    fs::write(here(&hosts_file(pod_uid)), hosts)?;
    let config = serde_json::to_string_pretty(&config(launcher, &container))?;
    fs::write(here(&bundle).join("config.json"), config)?;
    fs::write(here(&bundle).join("shim"), SHIM)?;

    let address = format!("{}.{}", pod_subnet(node), next_number());
    make_network(node, &container.network, &format!("veth{}", &container.id[..8]), &address)?;

    let unit = format!("--unit=lab-container-{}", container.id);
    let (shim, log) = (format!("{bundle}/shim"), format!("{}/0.log", container.log_folder));
    let run = ["systemd-run", "--quiet", "--collect", &unit, "--setenv=TZ=UTC"];
    node.run(&[&run[..], &["bash", &shim, &bundle, &container.id, &log]].concat())?;
    Ok(container)
}

/// Makes a pod's network on a node: the namespace `name` with that address, the node's end of its link called `link`.
pub(crate) fn make_network(node: &Node, name: &str, link: &str, address: &str) -> Result<()> {
    let gateway = format!("{}.1", pod_subnet(node));
    node.run(&["sh", "-ec", NETWORK, "network", name, link, address, &gateway])?;
    node.lab().route_pods(node)
}

impl Container {
    /// Takes the container, its network, volumes, logs and cgroups away. Its processes are gone, but for those nothing can end.
    pub(super) fn remove(&self, node: &Node) {
        let _ = node
            .run_within(15, &["sh", "-c", REMOVE, "remove", &self.id, &self.pod_uid, &self.network, &self.log_folder]);
    }
}

/// A pod's `/etc/hosts` in the node, where kubelet keeps it. libvirt looks its own host name up at each start of a guest.
fn hosts_file(pod_uid: &str) -> String {
    format!("/var/lib/kubelet/pods/{pod_uid}/etc-hosts")
}

/// The container in the words of the OCI runtime specification, 1.0.2.
fn config(launcher: &LauncherBuilder<'_>, container: &Container) -> Value {
    let mount = |kind: &str, to: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": to, "options": options});
    let bind = |from: &str, to: &str, mode: &str| json!({"type": "bind", "source": from, "destination": to, "options": ["rbind", mode]});
    let mut mounts = vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=64m"]),
        mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        mount("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        mount("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        bind("/usr", "/usr", "ro"),
        bind("/etc", "/etc", "ro"),
        bind(&hosts_file(&container.pod_uid), "/etc/hosts", "rw"),
    ];
    mounts.extend(EMPTY_DIRS.map(|(name, to)| bind(&empty_dir(&container.pod_uid, name), to, "rw")));
    mounts.push(bind(&launcher.folder.to_string_lossy(), "/run/kubevirt-private/vmi-disks/rootdisk", "rw"));

    let device =
        |(path, major, minor)| json!({"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o666});
    let allow =
        |(_, major, minor)| json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"});
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(DEVICES.map(allow));
    let mut resources = json!({"devices": rules});
    if let Some(mib) = launcher.memory_limit_mib {
        resources["memory"] = json!({"limit": u64::from(mib) << 20});
    }
    let capabilities: Value =
        ["bounding", "effective", "permitted"].map(|set| (set.to_owned(), json!(CAPABILITIES))).into_iter().collect();
    let mut namespaces: Vec<Value> = ["pid", "ipc", "uts", "mount"].map(|kind| json!({"type": kind})).into();
    namespaces.push(json!({"type": "network", "path": format!("/run/netns/{}", container.network)}));
    json!({
        "ociVersion": "1.0.2",
        "hostname": launcher.identity.name,
        "root": {"path": "rootfs"},
        "process": {
            "args": launcher.identity.command_line(),
            "cwd": "/",
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"],
            "user": {"uid": launcher.identity.user(), "gid": launcher.identity.user()},
            "capabilities": capabilities,
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/kubepods/burstable/pod{}/{}", container.pod_uid, container.id),
            "namespaces": namespaces,
            "devices": DEVICES.map(device),
            "resources": resources,
        },
    })
}
