//! Texts that look like a failure and that healthy systems print too: they weigh nothing.
//!
//! A text stands here when it says nothing even beside other evidence. What is only no proof alone (a state change lock, a
//! reset monitor) is a signature instead, for causes to weigh low. Sources: recordings of healthy KubeVirt v1.8.4 nodes
//! (libvirt 11.3, containerd 2.4), libvirt src/network/bridge_driver.c, kubevirt/kubevirt tests/vmlogchecker/checker.go, kubevirt
//! issues 3453 and 17713.

/// One such text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Harmless {
    /// A fixed part of it, lower case.
    pub(crate) needle: &'static str,
    /// Its form, without regard to case; empty if the needle is enough.
    pub(crate) pattern: &'static str,
    /// Such a text.
    #[cfg_attr(not(test), expect(dead_code, reason = "it documents the row, and is its test"))]
    pub(crate) example: &'static str,
}

macro_rules! harmless {
    ($($needle:literal, $pattern:literal, $example:literal;)*) => {
        &[$(Harmless { needle: $needle, pattern: $pattern, example: $example },)*]
    };
}

pub(crate) const HEALTHY: &[Harmless] = harmless! {
    // A launcher that starts.
    "connecting to libvirt daemon failed", "no such file or directory|connection refused", "Connecting to libvirt daemon failed: virError(Code=38, Domain=7, Message='Failed to connect socket to '/var/run/libvirt/virtqemud-sock': No such file or directory')";
    "serial console term file", "", "could not create up serial console term file: open /var/run/kubevirt-private/1c/virt-serial0-log-sigTerm: no such file or directory";
    "/var/lib/dbus/machine-id", "", "ls: cannot access '/var/lib/dbus/machine-id': No such file or directory";
    "at least one cgroup controller is required", "", "At least one cgroup controller is required: No such device or address";
    "dmidecode", "", "internal error: Child process (dmidecode -q -t 0,1,2,3,4,11,17) unexpected exit status 1: Can't read memory from /dev/mem";
    "can't read memory from /dev/mem", "", "Can't read memory from /dev/mem";
    "direct io check failed", "", "Direct IO check failed for /var/run/kubevirt-private/vmi-disks/root/disk.img: permission denied";
    "no command socket found for vmi", "", "unable to create virt-launcher client connection: No command socket found for vmi 1c2c";
    "container disk socket path not found", "", "containerdisk root not yet ready: container disk socket path not found for vmi \"db-0\"";
    "failed to set time: qemu agent unresponsive", "", "failed to set time: QEMU agent unresponsive, virError(Code=86, Domain=10, Message='Guest agent is not responding: QEMU guest agent is not connected')";
    "failed to sync guest time", "", "failed to sync guest time";
    "qemu guest agent is not connected", "", "Guest agent is not responding: QEMU guest agent is not connected";
    "failed to get xattr", "", "failed to get xattr security.selinux: operation not supported";
    "disabling firewalld support in bridge_network_driver", "", "DBus not available, disabling firewalld support in bridge_network_driver: no error";
    "cannot parse process status data", "", "cannot parse process status data";
    "device plugin can't expose it", "", "device '/dev/vhost-net' is not present, the device plugin can't expose it.";

    // A containerd that starts.
    "skip loading plugin", "skip plugin", "skip loading plugin: failed to check mkfs.erofs availability: failed to run mkfs.erofs --help: exec: \"mkfs.erofs\": executable file not found in $PATH: skip plugin";
    "starting cri plugin", "", "starting cri plugin config=\"{\"ignoreBlockIONotEnabledErrors\":false,\"ignoreRdtNotEnabledErrors\":false}\"";
    "failed check for fsverity support", "", "failed check for fsverity support: enable fsverity failed: inappropriate ioctl for device path=/var/lib/containerd/io.containerd.content.v1.content";
    "could not use snapshotter", "not configured|no scratch file generator", "could not use snapshotter devmapper in metadata plugin: devmapper not configured";

    // Sockets that end.
    "end of file while reading data", "", "End of file while reading data: Input/output error";
    "use of closed network connection", "", "accept unix /var/run/kubevirt/migrationproxy/1c-source.sock: use of closed network connection";
    "grpc: the client connection is closing", "", "rpc error: code = Canceled desc = grpc: the client connection is closing";
    "failed to deregister", "transport is closing", "kvm device plugin failed to deregister: rpc error: code = Unavailable desc = transport is closing";
    "collecting metrics for", "ttrpc: closed", "collecting metrics for 1c2c: ttrpc: closed";
    "failed sending message on channel", "broken pipe", "failed sending message on channel: write unix /run/containerd/s/1c->@: write: broken pipe";

    // After a successful migration, or a normal end.
    "migration statistics are available only on the source", "", "Operation not supported: migration statistics are available only on the source host";
    "migration job already executed", "", "server error. command Migrate failed: \"migration job already executed\"";
    "failed to cancel migration - vmi is not migrating", "", "server error. command CancelMigration failed: \"failed to cancel migration - vmi is not migrating\"";
    "failed to get domain job info", "domain not found|domain is not running", "failed to get domain job info, will retry: virError(Code=42, Domain=10, Message='Domain not found: no domain with matching uuid '1c' (prod_db-0)')";
    "failed to get domain stats", "domain not found|domain is not running", "Error updating cache: failed to get domain stats: virError(Code=55, Domain=20, Message='Requested operation is not valid: domain is not running')";
    "failed to get domain spec", "domain not found", "failed to get domain spec: virError(Code=42, Domain=10, Message='Domain not found: no domain with matching uuid '1c'')";
    "backend-storage-meta/migrated", "", "Hook script execution failed: internal error: Child process (/etc/libvirt/hooks/qemu prod_db-0 release end migrated) unexpected exit status 1: touch: cannot touch '/run/kubevirt-private/backend-storage-meta/migrated': No such file or directory";
    "break reap loop", "", "Break reap loop: no child processes";
    "cannot compute checksums as containerdisk", "", "cannot compute checksums as containerdisk/kernelboot containers seem to have been terminated";
    "bytes read from oubound connection", "", "692 bytes read from oubound connection";
    "-container-disks", "(?:^|durationbeforeretry [\\d.]+m?s\\)\\. )(?:error: ?)?\"?unmountvolume\\.teardown failed", "Error: UnmountVolume.TearDown failed for volume \"kubernetes.io/empty-dir/1c-container-disks\" : device or resource busy";
    ".sock does not exist anymore", "container-disk", "error: socket /var/run/kubevirt-ephemeral-disks/container-disk-data/1c/disk_0.sock does not exist anymore";
    "unable to migrate vmi because vmi is shutdown", "", "Unable to migrate vmi because vmi is shutdown.";

    "terminating on signal 15 from pid", "\\((?:\\S*/)?(?:virtqemud|libvirtd)\\)", "qemu-kvm: terminating on signal 15 from pid 31 (/usr/sbin/virtqemud)";
    "closing notify pipe connection", "", "closing notify pipe connection: read unix /proc/7/root/run/kubevirt/domain-notify-pipe.sock->@: read: connection reset by peer";

    // Housekeeping of KubeVirt and Kubernetes.
    "pleg has yet to be successful", "", "Skipping pod synchronization: [container runtime status check may not have completed yet, PLEG is not healthy: pleg has yet to be successful]";
    "container not found in pod's containers", "", "Container not found in pod's containers";
    "re-enqueuing virtualmachine ", "not found$", "re-enqueuing VirtualMachine prod/db-0: virtualmachines.kubevirt.io \"db-0\" not found";
    "failed to load the certificate", "clientcertificates", "failed to load the certificate /etc/virt-handler/clientcertificates/tls.crt and /etc/virt-handler/clientcertificates/tls.key: open /etc/virt-handler/clientcertificates/tls.crt: no such file or directory";
    "failed to scrape domain stats", "expected \\d+ value", "failed to scrape domain stats for VMI prod/db-0: expected 1 value from DomainstatsScraper, got 0";
    "the object has been modified", "", "Operation cannot be fulfilled on virtualmachines.kubevirt.io \"db-0\": the object has been modified; please apply your changes to the latest version and try again";
    "the server rejected our request due to an error in our request", "", "patching of vmi conditions and activePods failed: the server rejected our request due to an error in our request";
    "updating the virtualmachine status failed", "not found", "Updating the VirtualMachine status failed.: virtualmachines.kubevirt.io \"db-0\" not found";
    "garbage collecting migration object", "not found", "error encountered when garbage collecting migration object prod/db-0-mig: not found";
    "failed to process watch event", "", "Failed to process watch event {EventType:0 Name:/kubepods/burstable/pod1c/1c2c WatchSource:0}: task 1c2c not found";
    "an error occurred when try to find container", "not found", "ContainerStatus from runtime service failed: rpc error: code = NotFound desc = an error occurred when try to find container \"1c\": not found";
    "deletecontainer returned error", "not ?found", "DeleteContainer returned error: failed to get container status \"1c\": rpc error: code = NotFound desc = not found";
    "oom_score_adj", "permission denied", "Failed to ensure process in container with oom score: failed to apply oom score -999 to PID 7: write /proc/7/oom_score_adj: permission denied";
    "failed to set rlimit on max file handles", "", "Failed to set rlimit on max file handles: operation not permitted";
    "container factory failed", "registration of the", "Registration of the crio container factory failed: Get \"http://%2Fvar%2Frun%2Fcrio%2Fcrio.sock/info\": dial unix /var/run/crio/crio.sock: connect: no such file or directory";
    "no imagefs label for configured runtime", "", "eviction manager: failed to check if we have separate container filesystem. Ignoring.: no imagefs label for configured runtime";
    "for cgroup /sys/fs/cgroup", "failed to read .* for cgroup .*no such file", "failed to read memory cgroup limits for the pod: failed to read CPU quota for cgroup /sys/fs/cgroup/cpu/kubepods/burstable/pod1c: openat2 /sys/fs/cgroup/cpu/kubepods/burstable/pod1c/cpu.cfs_quota_us: no such file or directory";
    "no relationship found between node", "", "pods \"virt-launcher-db-0\" is forbidden: User \"system:node:n1\" cannot get resource \"pods\" in API group \"\" in the namespace \"prod\": no relationship found between node 'n1' and this object";
    "failed to kill control group", "ignoring", "Failed to kill control group /system.slice/kubelet.service, ignoring: Input/output error";
    "error getting the current node from lister", "", "Error getting the current node from lister: node \"n1\" not found";
    "invalid pci rom header signature", "", "vfio-pci 0000:3b:00.0: Invalid PCI ROM header signature: expecting 0xaa55, got 0xffff";
    "permissive=1", "avc:\\s+denied", "avc:  denied  { read } for  pid=7 comm=\"qemu-kvm\" permissive=1";
    "apparmor=\"allowed\"", "", "audit: type=1400 apparmor=\"ALLOWED\" operation=\"open\" denied_mask=\"r\"";
    "apparmor=\"status\"", "", "audit: type=1400 apparmor=\"STATUS\" operation=\"profile_load\"";
    "nameserver limits were exceeded", "", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.0.0.2";
};
