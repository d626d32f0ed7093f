//! Texts of forms that no row was written for: the words alone must tell who failed, doing what, how.

use kulprit_model::attribute;
use kulprit_model::said::{actor::*, class::*, operation::*};

use crate::{Peeled, Signatures, Speaker, Text};

/// Speaker, reason, text; actor, operation, class wanted.
type Line = (Speaker, Option<&'static str>, &'static str, [&'static str; 3]);

const LINES: &[Line] = &[
    // Volumes.
    (
        Speaker::Kubelet,
        Some("FailedMount"),
        "MountVolume.SetUp failed for volume \"data\" : rpc error: code = Internal desc = failed to stage: mount.weka: connection to backend timed out",
        [CSI, MOUNT, TIMEOUT],
    ),
    (
        Speaker::Kubelet,
        Some("FailedMount"),
        "MountVolume.MountDevice failed for volume \"pv1\" : rpc error: code = Internal desc = blkid /dev/sdz returned: input/output error",
        [CSI, MOUNT, IO_ERROR],
    ),
    (
        Speaker::Kubelet,
        Some("FailedMount"),
        "MountVolume.SetUp failed for volume \"cm\" : configmap \"db-0-init\" not found",
        [KUBELET, MOUNT, NOT_FOUND],
    ),
    (
        Speaker::Kubelet,
        Some("FailedMount"),
        "MountVolume.NodeStageVolume failed: unable to open /dev/mapper/x: Operation not permitted",
        [CSI, MOUNT, NOT_PERMITTED],
    ),
    (
        Speaker::Kubelet,
        Some("FailedMapVolume"),
        "MapVolume.MapPodDevice failed for volume \"pv1\" : rpc error: code = NotFound desc = volume handle 7 is gone: does not exist",
        [CSI, MAP, NOT_FOUND],
    ),
    (
        Speaker::ControllerManager,
        Some("FailedAttachVolume"),
        "AttachVolume.Attach failed for volume \"pv1\" : rpc error: code = Unavailable desc = storage controller 10.0.0.9 is not reachable: no route to host",
        [CSI, ATTACH, UNREACHABLE],
    ),
    (
        Speaker::ControllerManager,
        Some("FailedAttachVolume"),
        "AttachVolume.Attach failed for volume \"pv1\" : PersistentVolume \"pv1\" is marked for deletion",
        [ATTACHER, ATTACH, OTHER],
    ),
    (
        Speaker::Kubelet,
        Some("FailedUnMount"),
        "UnmountVolume.TearDown failed for volume \"x\" : rpc error: code = Internal desc = lazy umount: /mnt/a: device or resource busy",
        [CSI, UNMOUNT, BUSY],
    ),
    (
        Speaker::Csi,
        None,
        "NodePublishVolume: failed to bind mount /a to /b: read-only file system",
        [CSI, MOUNT, READ_ONLY],
    ),
    (
        Speaker::Csi,
        None,
        "level=error msg=\"CreateVolume: backend refused\" error=\"pool hdd has insufficient free space for 20 GiB\"",
        [CSI, PROVISION, NO_SPACE],
    ),
    (
        Speaker::Csi,
        None,
        "ControllerUnpublishVolume failed: array session expired: 401 Unauthorized",
        [CSI, DETACH, UNAUTHORIZED],
    ),
    (Speaker::Csi, None, "failed to resize volume: resize2fs: Structure needs cleaning", [KERNEL, MOUNT, CORRUPT]),
    (
        Speaker::Csi,
        None,
        "E0101 00:00:00.000000 1 nodeserver.go:77] NodeStageVolume: open \"/dev/sdq\": errno -19",
        [CSI, MOUNT, UNSUPPORTED],
    ),
    (
        Speaker::Kubelet,
        None,
        "chown /var/lib/kubelet/pods/1/volumes/a: stale NFS file handle",
        [KUBELET, SET_OWNERSHIP, STALE],
    ),
    (
        Speaker::Handler,
        None,
        "failed to relabel /var/run/kubevirt/hotplug-disks/a: setxattr: operation not supported",
        [HANDLER, HOTPLUG, UNSUPPORTED],
    ),
    // Images and containers.
    (
        Speaker::Kubelet,
        Some("Failed"),
        "Failed to pull image \"r.local/a/b:1\": rpc error: code = Unknown desc = pinging container registry r.local: Get \"https://r.local/v2/\": net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
        [RUNTIME, PULL, TIMEOUT],
    ),
    (
        Speaker::Kubelet,
        Some("Failed"),
        "Failed to pull image \"r.local/a/b:1\": copying system image from manifest list: writing blob: storing blob to file: write /var/tmp/storage1: no space left on device",
        [RUNTIME, UNPACK, NO_SPACE],
    ),
    (
        Speaker::Kubelet,
        Some("Failed"),
        "Failed to pull image \"r.local/a/calico:1\": rpc error: code = Unknown desc = Get \"https://r.local/v2/\": x509: certificate has expired or is not yet valid",
        [RUNTIME, PULL, EXPIRED],
    ),
    (
        Speaker::Kubelet,
        Some("ErrImagePull"),
        "rpc error: code = Unavailable desc = dial tcp 10.1.1.1:443: connect: no route to host",
        [RUNTIME, PULL, UNREACHABLE],
    ),
    (
        Speaker::Kubelet,
        Some("Failed"),
        "Error: failed to start container \"compute\": OCI runtime start failed: cannot start a container that has stopped: unknown",
        [RUNTIME, CREATE_CONTAINER, UNAVAILABLE],
    ),
    (
        Speaker::Kubelet,
        Some("FailedCreatePodSandBox"),
        "Failed to create pod sandbox: rpc error: code = Unknown desc = failed to create shim task: mkdir /run/containerd/io: no space left on device",
        [RUNTIME, CREATE_CONTAINER, NO_SPACE],
    ),
    (
        Speaker::Kubelet,
        Some("FailedCreatePodSandBox"),
        "Failed to create pod sandbox: rpc error: code = DeadlineExceeded desc = context deadline exceeded",
        [RUNTIME, CREATE_SANDBOX, TIMEOUT],
    ),
    (
        Speaker::Kubelet,
        Some("FailedKillPod"),
        "error killing pod: context deadline exceeded",
        [RUNTIME, KILL_CONTAINER, TIMEOUT],
    ),
    (
        Speaker::Runtime,
        None,
        "time=\"2026-01-01T00:00:00Z\" level=error msg=\"failed to delete task\" error=\"ttrpc: server not responding: deadline exceeded\"",
        [RUNTIME, KILL_CONTAINER, TIMEOUT],
    ),
    (
        Speaker::Runtime,
        None,
        "level=error msg=\"Handler for POST returned error: cannot start container: iommu group unavailable: no such device\"",
        [RUNTIME, ALLOCATE_DEVICE, UNSUPPORTED],
    ),
    (
        Speaker::Kubelet,
        None,
        "E0101 00:00:00.000000 1 kubelet.go:9] \"Container runtime sanity check failed\" err=\"get remote runtime typed version failed: rpc error: code = Unknown desc = server is not initialized yet\"",
        [RUNTIME, LIST_PODS, UNAVAILABLE],
    ),
    (Speaker::Kubelet, Some("Evicted"), "The node had condition: [DiskPressure].", [KUBELET, EVICT_POD, NO_SPACE]),
    (Speaker::Kubelet, None, "failed to run sandbox: cannot allocate memory", [KUBELET, CREATE_SANDBOX, OUT_OF_MEMORY]),
    (
        Speaker::LauncherSidecar,
        None,
        "istio-proxy: Envoy proxy is NOT ready: config not received from Pilot: cds updates: 0 rejected",
        [LAUNCHER, CREATE_CONTAINER, UNAVAILABLE],
    ),
    // Networks.
    (
        Speaker::Kubelet,
        Some("FailedCreatePodSandBox"),
        "Failed to create pod sandbox: plugin type=\"contiv\" name=\"n\" failed (add): agent says: connection refused",
        [CNI, SETUP_NETWORK, REFUSED],
    ),
    (
        Speaker::Kubelet,
        Some("FailedCreatePodSandBox"),
        "Failed to create pod sandbox: rpc error: failed to setup network for sandbox \"9\": plugin type=\"macvlan\" failed (add): Link ens9 is down: network is down",
        [CNI, SETUP_NETWORK, UNREACHABLE],
    ),
    (Speaker::Cni, None, "error in ipam: could not lease address: etcd timed out", [CNI, SETUP_NETWORK, TIMEOUT]),
    (
        Speaker::Handler,
        None,
        "failed to create tap device tap0: operation not permitted",
        [HANDLER, SETUP_NETWORK, NOT_PERMITTED],
    ),
    (
        Speaker::Handler,
        None,
        "{\"component\":\"virt-handler\",\"level\":\"error\",\"msg\":\"failed to discover pod network interface: dhcp exchange timed out\"}",
        [HANDLER, SETUP_NETWORK, TIMEOUT],
    ),
    (Speaker::Other, None, "remote error: tls: certificate required", [SYSTEMD, HANDSHAKE, UNTRUSTED]),
    // QEMU and libvirt.
    (
        Speaker::Qemu,
        None,
        "qemu-kvm: -object memory-backend-memfd: failed to create memfd: Too many open files",
        [QEMU, START_DOMAIN, LIMIT],
    ),
    (
        Speaker::Qemu,
        None,
        "qemu-kvm: -netdev tap,fds=1: could not configure tap device: Operation not permitted",
        [QEMU, SETUP_NETWORK, NOT_PERMITTED],
    ),
    (
        Speaker::Qemu,
        None,
        "qemu-system-aarch64: cannot load bios image 'x': No such file or directory",
        [QEMU, START_DOMAIN, NOT_FOUND],
    ),
    (
        Speaker::Launcher,
        None,
        "{\"component\":\"virt-launcher\",\"level\":\"error\",\"msg\":\"internal error: unable to execute QEMU command 'query-block': no reply\",\"subcomponent\":\"libvirt\"}",
        [QEMU, MONITOR, OTHER],
    ),
    (
        Speaker::Launcher,
        None,
        "{\"component\":\"virt-launcher\",\"level\":\"error\",\"msg\":\"unable to create cgroup: Device or resource busy\",\"subcomponent\":\"libvirt\"}",
        [LIBVIRT, UNTOLD, BUSY],
    ),
    (
        Speaker::Handler,
        Some("SyncFailed"),
        "server error. command SyncVMI failed: \"LibvirtError(Code=68, Domain=10, Message='Timed out during operation: waiting for udev')\"",
        [LIBVIRT, SYNC_VMI, TIMEOUT],
    ),
    (
        Speaker::Handler,
        Some("SyncFailed"),
        "server error. command SyncVMI failed: \"LibvirtError(Code=38, Domain=24, Message='unable to open /dev/vdz: Input/output error')\"",
        [LIBVIRT, SYNC_VMI, IO_ERROR],
    ),
    (
        Speaker::Handler,
        Some("SyncFailed"),
        "failed to mount container disk: fork/exec /usr/bin/mount: cannot allocate memory",
        [HANDLER, START_DOMAIN, OUT_OF_MEMORY],
    ),
    (
        Speaker::Handler,
        Some("SyncFailed"),
        "unknown error encountered sending command FrobVMI: rpc error: code = Unknown desc = agent is gone",
        [LAUNCHER, SYNC_VMI, NOT_FOUND],
    ),
    (
        Speaker::Launcher,
        None,
        "unable to attach device sound1: internal error: No free USB ports",
        [LIBVIRT, HOTPLUG, OTHER],
    ),
    (
        Speaker::Qemu,
        None,
        "qemu-kvm: virtio-blk: I/O error in flush: No space left on device",
        [QEMU, READ_WRITE, NO_SPACE],
    ),
    // Migration.
    (
        Speaker::Controller,
        Some("FailedMigration"),
        "VirtualMachineInstance migration uid 9 failed. reason: migration refused: memory of the destination is too small: cannot allocate memory",
        [CONTROLLER, MIGRATE, OUT_OF_MEMORY],
    ),
    (
        Speaker::Handler,
        Some("Migrated"),
        "VirtualMachineInstance migration uid 9 failed. reason:Live migration failed error encountered during MigrateToURI3 libvirt api call: virError(Code=1, Domain=10, Message='migration failed. Message from the source host: operation failed: job failed. Message from the destination host: internal error: unable to lock /dev/x: Resource temporarily unavailable')",
        [LIBVIRT, MIGRATE, LIMIT],
    ),
    (
        Speaker::Qemu,
        None,
        "qemu-kvm: channel error during migration: handshake with peer timed out",
        [QEMU, MIGRATE, TIMEOUT],
    ),
    (Speaker::Qemu, None, "qemu-kvm: failed to load cpu:xsave: missing feature", [QEMU, LOAD_STATE, INCOMPATIBLE]),
    (
        Speaker::Handler,
        None,
        "{\"level\":\"error\",\"msg\":\"unable to connect to target node proxy: dial tcp 10.0.0.4:4444: connect: connection refused\"}",
        [HANDLER, CONNECT_PEER, REFUSED],
    ),
    (
        Speaker::Launcher,
        None,
        "{\"level\":\"error\",\"msg\":\"Failed to prepare migration target: failed to create vhost socket: permission denied\"}",
        [LAUNCHER, MIGRATE_PREPARE, DENIED],
    ),
    // The node, the control plane, CDI.
    (
        Speaker::Scheduler,
        Some("FailedScheduling"),
        "running PreBind plugin \"VolumeBinding\": binding volumes: timed out waiting for the condition",
        [SCHEDULER, SCHEDULE, TIMEOUT],
    ),
    (
        Speaker::Kubelet,
        Some("UnexpectedAdmissionError"),
        "Allocate failed due to rpc error: code = Unknown desc = gpu 3 is in a failed state, which is unexpected",
        [KUBELET, ADMIT_POD, UNAVAILABLE],
    ),
    (
        Speaker::Kubelet,
        None,
        "E0101 00:00:00.000000 1 reflector.go:9] \"Failed to watch\" err=\"failed to list *v1.Node: Get \\\"https://api.local:8443/x\\\": dial tcp: connect: network is unreachable\"",
        [KUBELET, CALL_API, UNREACHABLE],
    ),
    (
        Speaker::Kubelet,
        Some("ImageGCFailed"),
        "wanted to free 9 bytes but freed 0 bytes space with errors in image deletion: rpc error: code = Unknown desc = conflict: unable to remove",
        [KUBELET, RECLAIM, BUSY],
    ),
    (
        Speaker::Controller,
        Some("FailedCreate"),
        "Error creating pod: Internal error occurred: admission plugin did not respond in time: context deadline exceeded",
        [CONTROLLER, CREATE_POD, TIMEOUT],
    ),
    (
        Speaker::ApiServer,
        None,
        "E0101 00:00:00.000000 1 status.go:1] \"apiserver received an error\" err=\"database is locked, timed out\"",
        [API_SERVER, CALL_API, TIMEOUT],
    ),
    (
        Speaker::Cdi,
        None,
        "{\"level\":\"error\",\"msg\":\"could not clone volume\",\"error\":\"source has wrong block size: invalid argument\"}",
        [CDI, IMPORT, INVALID],
    ),
    (Speaker::Cdi, None, "qemu-img: error while writing at byte 0: No space left on device", [QEMU, IMPORT, NO_SPACE]),
    (Speaker::Host, None, "rpcbind: cannot create socket: address already in use", [SYSTEMD, UNTOLD, EXISTS]),
    (
        Speaker::Kubelet,
        None,
        "failed to create watcher for /etc/kubernetes: inotify instances are used up",
        [KERNEL, WATCH_FILES, LIMIT],
    ),
    (Speaker::Other, None, "fatal: something nobody has ever seen", [SYSTEMD, UNTOLD, OTHER]),
];

#[test]
fn words_alone_tell_what_failed() {
    let signatures = Signatures::new();
    let mut wrong = Vec::new();
    for (speaker, reason, text, want) in LINES {
        let found = match signatures.peel(&Text { speaker: *speaker, reason: *reason, text }) {
            Peeled::Said(attributes) => {
                let get = |key| attributes.get(key).unwrap_or("-").to_owned();
                [get(attribute::ACTOR), get(attribute::OPERATION), get(attribute::CLASS), get(attribute::SIGNATURE)]
            }
            other => [format!("{other:?}"), String::new(), String::new(), String::new()],
        };
        if found[..3] != want[..] {
            wrong.push(format!("{text}\n   found {found:?}\n   want  {want:?}"));
        }
    }
    assert!(LINES.len() >= 60, "{}", LINES.len());
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), LINES.len(), wrong.join("\n"));
}
