//! `StorageBackendUnreachable`: the storage system behind the VM's disk does not answer this node, or any node.
//!
//! Proof is a look that waits without an answer: a mount whose server is silent, QEMU waiting in the kernel's network
//! storage code. The kernel's own words (NFS, Ceph, iSCSI, NVMe-oF, multipath, DRBD) come next; a driver's timeout is
//! weaker, because a driver that is down looks alike (StorageDriverDown), and a kubelet that only says that a volume is
//! not ready yet says hardly anything. A local disk that is silent is LocalDiskStalled.

use kulprit_model::{
    FindingCode::{
        BackendUnreachable, BlockDeviceGone, BlockDeviceStalled, DeviceStalled, PathsFailed, ReplicationSuspended,
        StaleDevice, StorageConnectionLost, VmDiskStalled, VmiPausedBy,
    },
    attribute::{
        ACTOR, BACKEND, CLASS, OPERATION, REASON, SERVER, SIGNATURE, WAIT, WAIT_LOCAL_STORAGE, WAIT_NETWORK_STORAGE,
        WCHAN, WHAT,
    },
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Where threads wait for any block device, be it a local disk or a LUN: the function alone does not tell.
pub(super) const ANY_BLOCK_DEVICE: &[&str] = &[
    "io_schedule",
    "io_schedule_timeout",
    "blkdev_issue_flush",
    "blkdev_read_iter",
    "blkdev_write_iter",
    "__blkdev_direct_IO",
    "__blkdev_direct_IO_simple",
    "blkdev_direct_IO",
    "submit_bio_wait",
    "rq_qos_wait",
    "wbt_wait",
    "blk_mq_get_tag",
];

/// Kinds of backend that are no disk of the node.
pub(super) const OVER_THE_NETWORK: &[&str] =
    &["nfs", "ceph", "iscsi", "nvme", "drbd", "multipath", "longhorn", "fc", "nbd"];

/// Texts that tell of a backend that is lost.
pub(super) const LOST_BACKEND: &[&str] =
    &["nfs-server-silent", "multipath-paths-lost", "iscsi-connection-lost", "drbd-no-quorum"];

/// The storage backend under the VM does not answer: server, target, paths or quorum are lost.
pub const STORAGE_BACKEND_UNREACHABLE: Cause = Cause {
    id: "StorageBackendUnreachable",
    meaning: "The storage backend under the VM does not answer: server, target, paths or quorum \
are lost.",
    roles: &[Role::Hosting, Role::Source, Role::Target, Role::Shared],
    scope: Scope::Shared,
    class: Class::Storage,
    usual: &[
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::PausedUnexpectedly,
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::Unresponsive,
    ],
    possible: &[
        SymptomId::InError,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "mount",
            strength: Strength::Proof,
            look: Look::Present(BackendUnreachable, &[Fact::Not(BACKEND, &["fuse"])]),
            text: "the server behind a mount or device of the node does not answer",
        },
        // The program that serves it on the node is gone: the driver's death, or what the server's silence ends in.
        Clue {
            group: "mount",
            strength: Strength::Some,
            look: Look::Present(BackendUnreachable, &[Fact::OneOf(BACKEND, &["fuse"])]),
            text: "what serves a mount of the node does not answer",
        },
        // One mount or server that answers is not all of them.
        Clue {
            group: "mount",
            strength: Strength::Against,
            look: Look::Absent(BackendUnreachable),
            text: "the servers that were asked answer",
        },
        Clue {
            group: "wait",
            strength: Strength::Proof,
            look: Look::Present(VmDiskStalled, &[Fact::OneOf(WAIT, &[WAIT_NETWORK_STORAGE])]),
            text: "I/O of this VM waits in the kernel for storage over the network",
        },
        Clue {
            group: "wait",
            strength: Strength::StronglyAgainst,
            look: Look::Present(
                VmDiskStalled,
                &[Fact::OneOf(WAIT, &[WAIT_LOCAL_STORAGE]), Fact::Not(WCHAN, ANY_BLOCK_DEVICE)],
            ),
            text: "what this VM waits for in the kernel is a local disk",
        },
        Clue {
            group: "wait",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(VmDiskStalled, &[Fact::OneOf(WCHAN, ANY_BLOCK_DEVICE)]),
                Look::Happened(StorageConnectionLost, &[]),
            ]),
            text: "I/O of this VM waits for a block device, and the node lost a storage backend",
        },
        Clue {
            group: "wait",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(VmDiskStalled, &[Fact::OneOf(WCHAN, ANY_BLOCK_DEVICE)]),
                said(&[Fact::OneOf(SIGNATURE, LOST_BACKEND)]),
            ]),
            text: "I/O of this VM waits for a block device, and its paths, session or quorum are told to be lost",
        },
        // Strong and no proof: what stands on the disk in the same stack may be what is stuck.
        Clue {
            group: "wait",
            strength: Strength::Strong,
            look: Look::Present(
                DeviceStalled,
                &[Fact::OneOf(WHAT, &["no-completion"]), Fact::OneOf(BACKEND, OVER_THE_NETWORK)],
            ),
            text: "a block device over the network has requests waiting and finishes none",
        },
        Clue {
            group: "stale",
            strength: Strength::StronglyAgainst,
            look: Look::Present(StaleDevice, &[]),
            text: "the device was replaced: the backend is back, and only this QEMU does not see it",
        },
        Clue {
            group: "wait",
            strength: Strength::Against,
            look: Look::Absent(VmDiskStalled),
            text: "no I/O of this VM waits in the kernel's storage code",
        },
        Clue {
            group: "paused",
            strength: Strength::Good,
            look: Look::All(&[
                Look::Present(VmiPausedBy, &[Fact::OneOf(REASON, &["PausedIOError"])]),
                Look::Happened(StorageConnectionLost, &[]),
            ]),
            text: "the guest is paused because of a disk error, and its node lost a storage backend",
        },
        Clue {
            group: "kernel",
            strength: Strength::Strong,
            look: Look::Happened(StorageConnectionLost, &[]),
            text: "the kernel lost its connection to a storage backend",
        },
        Clue {
            group: "kernel",
            strength: Strength::Strong,
            look: Look::Present(PathsFailed, &[Fact::OneOf(WHAT, &["all"])]),
            text: "every path of a device is down",
        },
        Clue {
            group: "kernel",
            strength: Strength::Strong,
            look: Look::Present(ReplicationSuspended, &[]),
            text: "a replicated device has suspended I/O",
        },
        Clue {
            group: "kernel",
            strength: Strength::Hint,
            look: Look::Present(PathsFailed, &[Fact::OneOf(WHAT, &["some"])]),
            text: "some paths of a device are down",
        },
        Clue {
            group: "kernel",
            strength: Strength::Some,
            look: Look::Happened(BlockDeviceStalled, &[Fact::OneOf(BACKEND, OVER_THE_NETWORK)]),
            text: "a block device over the network answers late or not at all",
        },
        Clue {
            group: "kernel",
            strength: Strength::Some,
            look: Look::Happened(BlockDeviceGone, &[Fact::OneOf(BACKEND, OVER_THE_NETWORK)]),
            text: "a block device over the network was taken offline",
        },
        Clue {
            group: "kernel",
            strength: Strength::Against,
            look: Look::NotHappened(StorageConnectionLost),
            text: "the kernel log tells of no lost storage connection",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, LOST_BACKEND)]),
            text: "the storage backend itself is told to be silent, without paths or without quorum",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::MOUNT,
                        operation::MAP,
                        operation::ATTACH,
                        operation::READ_WRITE,
                        operation::OPEN_IMAGE,
                        operation::UNMOUNT,
                    ],
                ),
                Fact::OneOf(
                    CLASS,
                    &[class::TIMEOUT, class::UNREACHABLE, class::REFUSED, class::RESET, class::STALE, class::NAME],
                ),
                Fact::Not(SIGNATURE, &["iscsi-portal-unreachable", "multipath-path-failed", "csi-socket-dead"]),
                Fact::NoneOf(BACKEND, &[]),
            ]),
            text: "a volume cannot be reached: its storage backend times out, refuses, or has no route",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::MOUNT, operation::MAP, operation::READ_WRITE, operation::OPEN_IMAGE],
                ),
                Fact::OneOf(CLASS, &[class::UNREACHABLE, class::NAME]),
                Fact::Not(SIGNATURE, &["iscsi-portal-unreachable", "multipath-path-failed"]),
            ]),
            text: "there is no way to the server of a volume",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI, actor::KERNEL, actor::QEMU, actor::SYSTEMD]),
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::MOUNT,
                        operation::MAP,
                        operation::READ_WRITE,
                        operation::OPEN_IMAGE,
                        operation::UNMOUNT,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "the storage driver, the kernel or QEMU waited for a volume in vain",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI, actor::SYSTEMD]),
                Fact::OneOf(CLASS, &[class::UNREACHABLE, class::TIMEOUT, class::REFUSED]),
                Fact::NoneOf(SERVER, &[]),
            ]),
            text: "a storage daemon or driver does not reach its server",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI, actor::KERNEL]),
                Fact::OneOf(OPERATION, &[operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::UNAVAILABLE, class::STUCK]),
            ]),
            text: "the replicas or paths under the volume are not there",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &[
                    "ceph-operation-pending",
                    "csi-operation-pending",
                    "volume-faulted",
                    "volume-not-ready",
                    "multipath-path-failed",
                ],
            )]),
            text: "an earlier call to the storage backend still hangs, or the volume is not healthy",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI, actor::ATTACHER]),
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP, operation::READ_WRITE, operation::UNMOUNT]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::UNREACHABLE, class::REFUSED]),
            ]),
            text: "the storage driver got no answer",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::MOUNT, operation::MAP, operation::ATTACH, operation::DETACH, operation::PROVISION],
                ),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STALE, class::UNREACHABLE]),
            ]),
            text: "a volume was not there in time",
        },
        Clue {
            group: "sync",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SYNC_VMI, operation::SHUTDOWN_DOMAIN]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "the launcher did not answer in time, as when QEMU or libvirt waits for a disk",
        },
    ],
    explains: &[
        "QemuBlockedInKernel",
        "StaleBlockDevice",
        "DiskIoError",
        "VolumeMountFailed",
        "VolumeAttachTimeout",
        "VolumeTeardownStuck",
        "KubeletDegraded",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "do not delete the pod with --force: a write may still arrive when the backend comes \
back",
            ),
            Step::Any(
                "dmesg -T | grep -iE 'not responding|timed out|session (lost|recovery)|conn \
error|Failing path|quorum' | tail -n 30   # on {node}",
            ),
            Step::Any(
                "for m in $(findmnt -rno TARGET -t nfs,nfs4,ceph,cifs,fuse.glusterfs); do timeout 5 \
stat -f $m >/dev/null || echo \"no answer: $m\"; done   # on {node}",
            ),
            Step::Any(
                "bring the way to the backend back (server, portal, switch, firewall); then what \
waits goes on by itself, and a paused VM is resumed:",
            ),
            Step::KubeVirt("virtctl unpause vm -n {namespace} {vm}"),
        ],
        check: &[
            Step::Any(
                "multipath -ll; iscsiadm -m session -P 1; nvme list-subsys; drbdadm status; ceph -s   \
# what the node uses of these",
            ),
            Step::Any(
                "do other nodes reach it? the same commands there tell a broken backend from a broken \
node",
            ),
            Step::KubeVirt("kubectl get volumeattachment -o wide | grep {node}"),
        ],
        prevent: &[Step::Any(
            "two independent ways to every portal (multipath); alert on lost sessions; timeouts \
that end instead of waiting for ever",
        )],
    },
    runbook_item: "storage backend connectivity",
};
