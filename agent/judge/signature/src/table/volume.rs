//! Texts about volumes: kubelet's volume manager, the attacher, mount(8) and its helpers, CSI drivers and what is behind them.
//!
//! Sources: kubernetes v1.24 to v1.34 pkg/volume, pkg/controller/volume; util-linux; nfs-utils; ceph-csi, longhorn, linstor,
//! open-iscsi, multipath-tools.

use kulprit_model::said::{actor::*, class::*, operation::*};

use super::{ANY, Row, rows};

pub(super) const ROWS: &[Row] = rows! {
    // Held elsewhere.
    "multi-attach", "multi-attach error", "", ATTACHER, ATTACH, HELD, None, "kubernetes pkg/controller/volume/attachdetach/reconciler",
        "Multi-Attach error for volume \"pvc-1c2c\" Volume is already exclusively attached to one node and can't be attached to another";
    "volume-attached-elsewhere", "attached to", r"(?:already|still|currently) attached to (?:a |an |the |one )?(?:other |another |different )?(?:node|instance|vm|host)|is attached to (?:a |an )?(?:different|another)", CSI, ATTACH, HELD, None, "general: CSI drivers",
        "rpc error: code = FailedPrecondition desc = volume 7a7a is already attached to node n2";
    "rbd-still-used", "is still being used", "", CSI, MOUNT, HELD, None, "ceph-csi internal/rbd/rbd_attach.go: a watcher on another node",
        "rbd image replicapool/csi-vol-e4d2 is still being used";
    "rbd-watchers", "watcher", r"(?:has|still has|image has) watchers|watcher.* (?:still|timeout)", CSI, UNMOUNT, HELD, None, "ceph-csi; librbd",
        "rbd: error: image still has watchers";
    "rbd-not-found", "error opening image", r"rbd: error opening image", CSI, MAP, NOT_FOUND, None, "librbd",
        "rbd: error opening image csi-vol-1c: (2) No such file or directory";
    "rbd-map-failed", "rbd: map failed", "", CSI, MAP, ANY, None, "rbd(8): sysfs write failed; (108) is a blocklisted client, (110) no monitor",
        "rbd: sysfs write failed rbd: map failed: (110) Connection timed out";
    "rbd-map-failed", "rbd: sysfs write failed", "", CSI, MAP, ANY, None, "rbd(8)",
        "rbd: sysfs write failed: (108) Cannot send after transport endpoint shutdown";
    "ceph-operation-pending", "an operation with the given volume id", "", CSI, ANY, BUSY, None, "ceph-csi and others: an earlier call still hangs",
        "rpc error: code = Aborted desc = an operation with the given Volume ID 0001-0009-rook-ceph already exists";
    "csi-operation-pending", "operation with the given", r"operation with the given \w+ .*(?:already exists|in progress)", CSI, ANY, BUSY, None, "general: CSI drivers",
        "rpc error: code = Aborted desc = An operation with the given Volume already exists";
    "drbd-auto-promote-failed", "auto-promote failed", "", CSI, ATTACH, HELD, None, "DRBD 9 drbd_main.c: the peer is Primary or has no quorum",
        "Auto-promote failed: State change was refused by peer node (-10)";
    "drbd-held-open", "held open", r"held open by (?:someone|something)|device is held open", CSI, UNMOUNT, HELD, None, "drbd-utils",
        "State change failed: (-12) Device is held open by someone";
    "drbd-multiple-primaries", "multiple primaries", "", CSI, ATTACH, HELD, None, "drbd-utils",
        "State change failed: (-1) Multiple primaries not allowed by config";
    "drbd-no-uptodate", "no up-to-date", r"(?:need access to|no) up-?to-?date (?:data|disk)", CSI, ATTACH, UNAVAILABLE, None, "drbd-utils, linstor",
        "State change failed: (-2) Need access to UpToDate data, no up-to-date disk";
    "drbd-no-quorum", "quorum", r"(?:no|lost|without) quorum|quorum (?:lost|failed)|lost-quorum", CSI, READ_WRITE, UNAVAILABLE, None, "DRBD, linstor, etcd-like stores",
        "linstor: resource pvc-1c2c lost quorum on node n1";
    "iscsi-reservation", "reservation conflict", "", CSI, READ_WRITE, HELD, None, "SCSI persistent reservation",
        "sd 3:0:0:1: reservation conflict";

    // Kubelet's own waits and checks.
    "driver-not-registered", "list of registered csi drivers", "", KUBELET, REGISTER_PLUGIN, NOT_FOUND, None, "kubernetes pkg/volume/csi/csi_client.go",
        "kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name driver.longhorn.io not found in the list of registered CSI drivers";
    "driver-not-on-node", "does not contain driver", r"csinode \S+ does not contain driver", KUBELET, REGISTER_PLUGIN, NOT_FOUND, None, "kubernetes pkg/volume/csi/csi_attacher.go",
        "AttachVolume.Attach failed for volume \"pvc-1c2c\" : CSINode n1 does not contain driver rbd.csi.ceph.com";
    "csi-socket-dead", "csi.sock", r"csi\.sock.*(?:refused|no such file|deadline|timeout|connection error)|lost connection to unix:\S*csi\.sock", CSI, REGISTER_PLUGIN, UNAVAILABLE, None, "general: the driver's pod on the node does not run",
        "connection error: desc = \"transport: Error while dialing dial unix /var/lib/kubelet/plugins/x/csi.sock: connect: connection refused\"";
    "volumes-wait-timeout", "unable to attach or mount volumes", "", KUBELET, MOUNT, TIMEOUT, None, "kubernetes pkg/kubelet/volumemanager: says only that it waits",
        "Unable to attach or mount volumes: unmounted volumes=[root], unattached volumes=[root]: timed out waiting for the condition";
    "volume-not-attached-yet", "volume is not attached", r"volume (?:\S+ )?(?:is not attached|not attached)|volume not attached according to node status", ATTACHER, ATTACH, UNAVAILABLE, None, "kubernetes pkg/volume; pkg/kubelet/volumemanager",
        "Volume not attached according to node status for volume \"pvc-1c2c\": volume is not attached";
    "volume-not-attached-yet", "not attached according to node status", "", ATTACHER, ATTACH, UNAVAILABLE, None, "kubernetes pkg/volume/util/operationexecutor",
        "Volume not attached according to node status for volume \"pvc-1c2c\"";
    "attach-wait-timeout", "waitforattach", r"waitforattach failed.*(?:timed out|deadline|timeout)", ATTACHER, ATTACH, TIMEOUT, None, "kubernetes pkg/volume/csi/csi_attacher.go",
        "MountVolume.WaitForAttach failed for volume \"pvc-1c2c\" : watch error: timed out waiting for external-attacher";
    "attach-wait-timeout", "waiting for external-attacher", "", ATTACHER, ATTACH, TIMEOUT, None, "kubernetes pkg/volume/csi/csi_attacher.go",
        "timed out waiting for external-attacher of driver.longhorn.io CSI driver to attach volume pvc-1c2c";
    "volume-limit", "max volume count", "", SCHEDULER, SCHEDULE, INSUFFICIENT, None, "kubernetes nodevolumelimits",
        "0/3 nodes are available: 3 node(s) exceed max volume count.";
    "orphaned-pod-volumes", "orphaned pod", r"orphaned pod .*(?:volume|cleanup|paths)", KUBELET, UNMOUNT, BUSY, None, "kubernetes pkg/kubelet/kubelet_volumes.go",
        "orphaned pod \"1c2c\" found, but failed to rmdir() volume at path: directory not empty";
    "block-symlink-wrong", "is not a block device", "", KUBELET, MAP, STALE, None, "kubernetes pkg/volume/util/volumepathhandler: a file or link where the device was",
        "failed to get loopback for destination path: /var/lib/kubelet/plugins/dev/1c2c is not a block device";
    "mount-point-dead", "file exists", r"failed to create dir.*file exists|mkdir \S+: file exists", KUBELET, MOUNT, STALE, None, "kubernetes csi_attacher.go: stat of a dead mount point fails",
        "attacher.MountDevice failed to create dir \"/var/lib/kubelet/globalmount\": mkdir /var/lib/kubelet/globalmount: file exists";
    "staging-path-missing", "staging", r"staging (?:target )?path.*(?:not (?:mounted|found)|does not exist)", CSI, MOUNT, NOT_FOUND, None, "general: CSI drivers after a node restart",
        "staging path /var/lib/kubelet/globalmount for volume 0001 is not mounted";
    "subpath-failed", "subpath", r"failed to (?:create|prepare) subpath", KUBELET, MOUNT, ANY, None, "kubernetes pkg/volume/util/subpath",
        "failed to prepare subPath for volumeMount \"root\": stale NFS file handle";

    // mount(8) and its helpers.
    "mount-helper-missing", "bad option; for several filesystems", "", KUBELET, MOUNT, UNSUPPORTED, None, "util-linux: nfs-common or ceph-common is not installed on the node",
        "mount: /mnt: bad option; for several filesystems (e.g. nfs, cifs) you might need a /sbin/mount.<type> helper program.";
    "mount-helper-missing", "helper program", r"need a /sbin/mount\.", KUBELET, MOUNT, UNSUPPORTED, None, "util-linux",
        "you might need a /sbin/mount.nfs helper program";
    "ceph-no-mds", "no mds", r"no mds (?:server|\(metadata server\)) is up|no mds .*laggy", CSI, MOUNT, UNREACHABLE, None, "ceph src/mount/mount.ceph.c",
        "mount error: no mds (Metadata Server) is up. The cluster might be laggy, or you may not be authorized";
    "nfs-server-silent", "mount.nfs", r"mount\.nfs4?: (?:connection|mount\(2\)).*timed out|mount\.nfs4?: connection timed out", CSI, MOUNT, TIMEOUT, None, "nfs-utils utils/mount/error.c",
        "mount.nfs: Connection timed out";
    "nfs-access-denied", "access denied by server", "", CSI, MOUNT, DENIED, None, "nfs-utils utils/mount/error.c: the export does not allow the node",
        "mount.nfs: access denied by server while mounting 10.0.0.5:/export";
    "nfs-export-missing", "mount.nfs", r"mount\.nfs4?: mounting \S+ failed, reason given by server: no such file|mount\.nfs4?:.*no such file or directory", CSI, MOUNT, NOT_FOUND, None, "nfs-utils",
        "mount.nfs: mounting 10.0.0.5:/export failed, reason given by server: No such file or directory";
    "nfs-statd-missing", "rpc.statd is not running", "", CSI, MOUNT, UNAVAILABLE, None, "nfs-utils utils/mount/network.c",
        "mount.nfs: rpc.statd is not running but is required for remote locking.";
    "nfs-mount-failed", "mount.nfs", "", CSI, MOUNT, ANY, None, "nfs-utils",
        "mount.nfs: Protocol not supported";
    "filesystem-unknown", "unknown filesystem type", "", KUBELET, MOUNT, UNSUPPORTED, None, "util-linux: the kernel has no such file system",
        "mount: /mnt: unknown filesystem type 'xfs'.";
    "filesystem-corrupt", "can't read superblock", "", KERNEL, MOUNT, CORRUPT, None, "util-linux: damaged, or the device gives no I/O",
        "mount: /mnt: can't read superblock on /dev/drbd1001.";
    "filesystem-corrupt", "wrong fs type", "", KERNEL, MOUNT, CORRUPT, None, "util-linux mount(8)",
        "mount: /mnt: wrong fs type, bad option, bad superblock on /dev/sdb, missing codepage or helper program, or other error.";
    "filesystem-corrupt", "fsck found errors", "", KUBELET, MOUNT, CORRUPT, None, "k8s.io/mount-utils checkAndRepairFilesystem",
        "'fsck' found errors on device /dev/sdb but could not correct them: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.";
    "filesystem-corrupt", "'fsck' found errors", "", KUBELET, MOUNT, CORRUPT, None, "k8s.io/mount-utils",
        "'fsck' found errors on device /dev/rbd0 but could not correct them";
    "filesystem-corrupt", "structure needs cleaning", "", KERNEL, MOUNT, CORRUPT, None, "EUCLEAN",
        "mount: /mnt: mount(2) system call failed: Structure needs cleaning.";
    "device-claimed", "already mounted or mount point busy", "", KERNEL, MOUNT, BUSY, None, "util-linux: multipathd, LVM or another mount holds the device",
        "mount: /mnt: /dev/longhorn/pvc-1c2c already mounted or mount point busy.";
    "device-claimed", "apparently in use by the system", "", KERNEL, MOUNT, BUSY, None, "e2fsprogs mke2fs: multipathd, LVM or another mount holds the device",
        "/dev/sdb is apparently in use by the system; will not make a filesystem here!";
    "stale-file-handle", "stale file handle", "", KERNEL, ANY, STALE, None, "ESTALE",
        "lstat /var/lib/kubelet/pods/1c2c/volumes/kubernetes.io~nfs/data: stale NFS file handle, stale file handle";
    "mount-endpoint-dead", "transport endpoint is not connected", "", KERNEL, ANY, STALE, None, "ENOTCONN: a FUSE or user-space file system's daemon has died",
        "stat /var/lib/kubelet/pods/1c2c/volumes/data: transport endpoint is not connected";
    "umount-busy", "target is busy", "", KERNEL, UNMOUNT, BUSY, None, "util-linux umount(8)",
        "umount: /var/lib/kubelet/pods/1c2c/volumes/data: target is busy.";
    "device-map-failed", "device mapper", r"device.?mapper.*(?:busy|failed|error)", KERNEL, MAP, ANY, None, "libdevmapper",
        "device-mapper: remove ioctl on luks-1c2c failed: Device or resource busy; device mapper failed";
    "luks-failed", "cryptsetup", r"cryptsetup|luks(?:open|format|close)", CSI, MAP, ANY, None, "general: encrypted volumes",
        "cryptsetup luksOpen failed: No key available with this passphrase";

    // iSCSI, NVMe, multipath in user space.
    "iscsi-login-failed", "iscsiadm", r"iscsiadm:.*(?:could not|cannot|failed|timeout|no records|error|initiator reported)", CSI, MAP, ANY, None, "open-iscsi usr/iscsiadm.c",
        "iscsiadm: Could not login to [iface: default, target: iqn.2019-10.io.x, portal: 10.0.0.5,3260].";
    "iscsi-login-failed", "iscsi login", r"iscsi login (?:failed|timeout)|failed to (?:log ?in|login).*iscsi", CSI, MAP, ANY, None, "general",
        "iscsi login failed due to authorization failure";
    "iscsi-connection-lost", "detected conn error", "", CSI, READ_WRITE, RESET, None, "open-iscsi, kernel",
        "Kernel reported iSCSI connection 1:0 detected conn error (1022)";
    "iscsi-connection-lost", "kernel reported iscsi connection", "", CSI, READ_WRITE, RESET, None, "open-iscsi usr/initiator.c",
        "Kernel reported iSCSI connection 1:0 error (1022 - ISCSI_ERR_NOP_TIMEDOUT: A NOP has timed out) state (3)";
    "iscsi-portal-unreachable", "cannot make a connection to", "", CSI, MAP, UNREACHABLE, None, "open-iscsi iscsid; left-over sessions write it for ever: not proof alone",
        "cannot make a connection to 10.0.0.5:3260 (-1,113)";
    "iscsi-daemon-missing", "iscsid is not running", r"iscsid is not running|cannot connect to the open-iscsi daemon|can not connect to iscsi daemon|iscsid.*not.*running", SYSTEMD, MAP, UNAVAILABLE, None, "open-iscsi, longhorn's environment check",
        "iscsid is not running. Could not start it up automatically: can not connect to iSCSI daemon";
    "multipath-paths-lost", "remaining active paths", r"remaining active paths: 0", CSI, READ_WRITE, UNREACHABLE, None, "multipath-tools multipathd/main.c",
        "mpatha: remaining active paths: 0";
    "multipath-path-failed", "path", r"mark as failed|path (?:checker )?(?:is |timed |failed)|tur checker reports path is down", CSI, READ_WRITE, UNREACHABLE, None, "multipath-tools",
        "checker failed path 8:32 in map mpatha: tur checker reports path is down";
    "nvme-connect-failed", "nvme", r"(?:failed|could not|cannot|unable).{0,60}nvme|nvme.{0,60}(?:failed|refused|timeout|error)", CSI, MAP, ANY, None, "nvme-cli, NVMe-oF drivers",
        "nvme connect failed: exit status 1 Failed to write to /dev/nvme-fabrics: Connection refused";

    // Longhorn, linstor, vSphere, cloud disks.
    "volume-not-ready", "is not ready for workloads", "", CSI, MOUNT, UNAVAILABLE, None, "longhorn csi/node_server.go",
        "rpc error: code = Aborted desc = volume pvc-1c2c is not ready for workloads";
    "replica-failed", "replica", r"replica.{0,80}(?:failed|faulted|error|timeout|timed out)|auto-salvag|all replicas are failed", CSI, READ_WRITE, UNAVAILABLE, None, "longhorn-manager, longhorn-engine",
        "All replicas are failed, auto-salvaging volume pvc-1c2c: replica failed";
    "replica-no-space", "available disk for replica", "", CSI, PROVISION, NO_SPACE, None, "longhorn-manager scheduler: no node has the room",
        "There's no available disk for replica pvc-1c2c-r-37137fe0, size 10737418240";
    "replica-not-scheduled", "unable to schedule replica", "", CSI, PROVISION, INSUFFICIENT, None, "longhorn-manager",
        "unable to schedule replica";
    "volume-faulted", "volume", r"volume \S+ (?:is |in |was |robustness )*(?:faulted|detached|in error state)|state faulted", CSI, ATTACH, UNAVAILABLE, None, "longhorn, portworx, general",
        "volume pvc-1c2c is faulted";
    "engine-image-missing", "engine image", r"engine image.*(?:not ready|not deployed|not found|incompatible)", CSI, ATTACH, UNAVAILABLE, None, "longhorn-manager",
        "cannot attach volume: the engine image longhornio/longhorn-engine:v1.6.0 is not deployed on node n1";
    "vsphere-disk-locked", "failed to lock the file", "", CSI, ATTACH, HELD, None, "vSphere: another VM of the hypervisor has the disk",
        "AttachVolume.Attach failed: Failed to lock the file, cannot open the disk '/vmfs/volumes/a.vmdk'";
    "backend-pool-full", "thin pool", r"thin pool.*(?:full|exhausted|no (?:free )?space|out of)|pool .*is full|lacks? (?:free )?(?:capacity|space)", CSI, PROVISION, NO_SPACE, None, "LVM, linstor, ceph",
        "linstor: storage pool thin pool vg/thin is full, no free space";
    "provision-failed", "failed to provision volume", "", CSI, PROVISION, ANY, None, "external-provisioner",
        "failed to provision volume with StorageClass \"fast\": rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    "provision-waits", "waiting for a volume to be created", "", CSI, PROVISION, UNAVAILABLE, None, "kubernetes pv controller ExternalProvisioning",
        "waiting for a volume to be created, either by external provisioner \"x\" or manually created";
    "claim-unbound", "unbound immediate persistentvolumeclaims", "", SCHEDULER, PROVISION, UNAVAILABLE, None, "kubernetes volumebinding",
        "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.";

    // What only says which step failed: last.
    "unmount-failed", "unmountvolume.", r"unmountvolume\.\w+ failed", ANY, UNMOUNT, ANY, None, "kubernetes pkg/volume/util/operationexecutor",
        "UnmountVolume.TearDown failed for volume \"data\" : device busy";
    "unmount-failed", "unmapvolume.", "", ANY, UNMOUNT, ANY, None, "kubernetes pkg/volume/util/operationexecutor",
        "UnmapVolume.UnmapBlockVolume failed for volume \"pvc-1c2c\" : blkUtil.DetachFileDevice failed";
    "mount-failed", "mount failed: exit status", r"\bmount failed: exit status", CSI, MOUNT, ANY, None, "k8s.io/mount-utils mount_linux.go",
        "MountVolume.SetUp failed for volume \"data\" : mount failed: exit status 32";
    "mount-failed", "mountvolume.", r"\bmountvolume\.\w+ failed", ANY, MOUNT, ANY, None, "kubernetes pkg/volume/util/operationexecutor",
        "MountVolume.MountDevice failed for volume \"pvc-1c2c\" : rpc error: code = Internal desc = boom";
    "map-failed", "mapvolume.", r"\bmapvolume\.\w+ failed", ANY, MAP, ANY, None, "kubernetes pkg/volume/util/operationexecutor",
        "MapVolume.SetUpDevice failed for volume \"pvc-1c2c\" : rpc error: code = Internal desc = boom";
    "attach-failed", "attachvolume.attach failed", "", ANY, ATTACH, ANY, None, "kubernetes pkg/volume/util/operationexecutor",
        "AttachVolume.Attach failed for volume \"pvc-1c2c\" : rpc error: code = Internal desc = boom";
    "detach-failed", "detachvolume.detach failed", "", ANY, DETACH, ANY, None, "kubernetes pkg/volume/util/operationexecutor",
        "DetachVolume.Detach failed for volume \"pvc-1c2c\" : rpc error: code = Internal desc = boom";
};
