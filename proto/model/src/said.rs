//! The words into which an error text is peeled: who failed (actor), doing what (operation), and how (class).
//!
//! They are the values of the attributes [`ACTOR`], [`OPERATION`] and [`CLASS`](crate::attribute::CLASS) of a
//! [`FindingCode::ErrorSaid`](crate::FindingCode::ErrorSaid) finding. A text that nobody has seen before still lands near its
//! cause by these three; a [`SIGNATURE`](crate::attribute::SIGNATURE), a known text with its version and file, only sharpens it.
//!
//! [`ACTOR`]: crate::attribute::ACTOR
//! [`OPERATION`]: crate::attribute::OPERATION

macro_rules! words {
    ($(#[$meta:meta])* $module:ident, $($name:ident = $word:literal, $doc:literal;)*) => {
        $(#[$meta])*
        pub mod $module {
            $(#[doc = $doc] pub const $name: &str = $word;)*
            /// All of them, in the order of this file.
            pub const ALL: &[&str] = &[$($name),*];
        }
    };
}

words! {
    /// Who failed: the innermost program that the text names, else the one that wrote it.
    actor,
    KUBELET = "kubelet", "kubelet";
    RUNTIME = "runtime", "containerd, CRI-O, Docker, runc, crun and their shims";
    CNI = "cni", "a CNI plugin or its daemon";
    CSI = "csi", "a CSI driver, its sidecars, or the storage system behind it (Longhorn, Ceph, Linstor …)";
    SCHEDULER = "scheduler", "kube-scheduler";
    ATTACHER = "attacher", "the attach-detach controller";
    CONTROLLER_MANAGER = "controller-manager", "another controller of kube-controller-manager (daemonset, pv, eviction …)";
    API_SERVER = "api-server", "kube-apiserver, admission and webhooks, etcd";
    LIBVIRT = "libvirt", "virtqemud or libvirtd";
    QEMU = "qemu", "QEMU, swtpm, passt, virtiofsd";
    LAUNCHER = "launcher", "virt-launcher and its monitor";
    HANDLER = "handler", "virt-handler, its device plugins and migration proxies";
    CONTROLLER = "controller", "virt-controller, virt-api, virt-operator";
    CDI = "cdi", "the Containerized Data Importer: import, clone, upload";
    KERNEL = "kernel", "the kernel";
    SYSTEMD = "systemd", "systemd, and daemons of the host that no other word names";
    GUEST = "guest", "the guest system or its agent";
}

words! {
    /// What was being done: the innermost step that the text names.
    operation,
    MOUNT = "mount", "mount, format, check or stage a volume on the node";
    MAP = "map", "map a block volume to the node or the pod";
    UNMOUNT = "unmount", "unmount, unmap or unstage a volume";
    ATTACH = "attach", "attach a volume to a node";
    DETACH = "detach", "detach a volume from a node";
    SET_OWNERSHIP = "set-ownership", "chown or chmod a volume or an image file";
    OPEN_IMAGE = "open-image", "open a disk image or block device for QEMU";
    LOCK_IMAGE = "lock-image", "take QEMU's lock on a disk image";
    READ_WRITE = "read-write", "I/O on a disk";
    PROVISION = "provision", "create, bind or resize a volume or its replica";
    IMPORT = "import", "import, clone or upload disk contents";
    PULL = "pull", "pull a container image, the registry's answer included";
    UNPACK = "unpack", "unpack an image, read it from the local store";
    CREATE_SANDBOX = "create-sandbox", "create a pod sandbox";
    SETUP_NETWORK = "setup-network", "set up or tear down a pod's network, or a VM's";
    CREATE_CONTAINER = "create-container", "create or start a container, run its process";
    KILL_CONTAINER = "kill-container", "stop or remove a container or a sandbox";
    LIST_PODS = "list-pods", "kubelet's look at the runtime (PLEG, status)";
    ADMIT_POD = "admit-pod", "kubelet's admission of a pod on the node";
    EVICT_POD = "evict-pod", "evict a pod, by node pressure or by request";
    SCHEDULE = "schedule", "find a node for a pod";
    CREATE_POD = "create-pod", "create a pod or another object at the API server";
    REGISTER_PLUGIN = "register-plugin", "register a device or CSI plugin with kubelet";
    ALLOCATE_DEVICE = "allocate-device", "give a device to a container (KVM, VFIO, SR-IOV, tun)";
    REPORT_STATUS = "report-status", "a node's heartbeat, lease, status";
    RECLAIM = "reclaim", "garbage collection of images and containers";
    CONNECT_LIBVIRT = "connect-libvirt", "reach the libvirt daemon";
    CONNECT_LAUNCHER = "connect-launcher", "reach virt-launcher's command socket";
    SYNC_VMI = "sync-vmi", "virt-handler makes launcher and domain as the VMI says";
    DEFINE_DOMAIN = "define-domain", "define the domain: its XML";
    START_DOMAIN = "start-domain", "start QEMU";
    ACCESS_KVM = "access-kvm", "open /dev/kvm, create a VM in KVM";
    RUN_GUEST = "run-guest", "run vCPUs";
    MONITOR = "monitor", "talk to QEMU over its monitor, wait for the domain's job";
    SHUTDOWN_DOMAIN = "shutdown-domain", "ask the guest to shut down";
    DESTROY_DOMAIN = "destroy-domain", "end QEMU";
    HOTPLUG = "hotplug", "plug a device into the running domain, or out of it";
    MIGRATE_PREPARE = "migrate-prepare", "prepare the target of a migration";
    MIGRATE = "migrate", "copy the guest from source to target";
    LOAD_STATE = "load-state", "the target's QEMU takes in the guest's state";
    MIGRATE_FINISH = "migrate-finish", "switch over, or clean up after a migration";
    CONNECT_PEER = "connect-peer", "connect to the other node of a migration";
    HANDSHAKE = "handshake", "a TLS handshake, the check of a certificate";
    RESOLVE_NAME = "resolve-name", "a DNS lookup";
    CALL_API = "call-api", "a call of the Kubernetes API";
    FORK = "fork", "start a process or a thread";
    WATCH_FILES = "watch-files", "inotify and the like";
    RUN_GUEST_AGENT = "run-guest-agent", "talk to the guest agent";
    UNTOLD = "untold", "a step that the text does not tell";
}

words! {
    /// How it failed.
    class,
    TIMEOUT = "timeout", "no answer in time: deadline exceeded, timed out";
    REFUSED = "refused", "connection refused, nobody listens";
    UNREACHABLE = "unreachable", "no route, network or host unreachable";
    RESET = "reset", "the connection broke: reset, EOF, broken pipe, transport closing";
    NAME = "name", "a name could not be resolved";
    DENIED = "denied", "EACCES, permission denied, forbidden";
    NOT_PERMITTED = "not-permitted", "EPERM, operation not permitted";
    UNAUTHORIZED = "unauthorized", "401, 403 of a registry or the API: credentials";
    RATE_LIMITED = "rate-limited", "429, too many requests";
    NOT_FOUND = "not-found", "ENOENT, 404, no such file, image, object or driver";
    EXISTS = "exists", "EEXIST, already exists, name is reserved";
    BUSY = "busy", "EBUSY, in use, still used, device or resource busy";
    HELD = "held", "another node, pod or process holds it: Multi-Attach, lock, watcher";
    NO_SPACE = "no-space", "ENOSPC, quota of a file system, no capacity";
    QUOTA = "quota", "a ResourceQuota, LimitRange or policy of Kubernetes";
    INSUFFICIENT = "insufficient", "no node has enough, or none fits";
    IO_ERROR = "io-error", "EIO, I/O error";
    STALE = "stale", "ESTALE, ENOTCONN, a dead mount or device";
    READ_ONLY = "read-only", "EROFS, read-only file system";
    OUT_OF_MEMORY = "out-of-memory", "ENOMEM, cannot allocate memory";
    LIMIT = "limit", "EMFILE, ENFILE, EAGAIN, a limit of processes, files, locked memory, watches";
    CORRUPT = "corrupt", "damaged contents: bad digest, bad superblock, exec format error";
    INCOMPATIBLE = "incompatible", "versions, features or hardware do not fit";
    INVALID = "invalid", "EINVAL, malformed, unsupported configuration: what was asked for cannot work";
    UNSUPPORTED = "unsupported", "EOPNOTSUPP, ENODEV, the kernel or hardware does not do this";
    EXPIRED = "expired", "a certificate or token is expired or not yet valid";
    UNTRUSTED = "untrusted", "a certificate is not trusted or for another name";
    UNAVAILABLE = "unavailable", "not ready, not registered, unhealthy, down";
    CRASHED = "crashed", "ended by itself: exit, panic, abort, segfault, unexpectedly closed";
    KILLED = "killed", "ended by a signal from outside, or by the OOM killer";
    CANCELLED = "cancelled", "a user or controller wanted it to end";
    STUCK = "stuck", "goes on without progress, not converging";
    OTHER = "other", "an error whose kind the text does not tell";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_word_stands_twice_in_its_list() {
        for list in [actor::ALL, operation::ALL, class::ALL] {
            assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
        }
    }
}
