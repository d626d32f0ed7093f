//! `NodeDiskFull`: bytes or inodes of a file system that kubelet, runtime or KubeVirt writes to are used up. Proof is
//! statvfs of that mount or kubelet's DiskPressure. A full file system or pool *under a disk of the VM* is
//! `VolumeOutOfSpace`, storage without room for a replica is the storage system's capacity, and QEMU's "not enough
//! space" for memory devices is its address space.

use kulprit_model::{
    FindingCode::{FilesystemFull, LauncherEvicted, NodePressureReported, PodUnschedulable, VmFilesystemFull},
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A file system that kubelet, runtime or KubeVirt needs on the node is full.
pub const NODE_DISK_FULL: Cause = Cause {
    id: "NodeDiskFull",
    meaning: "A file system that kubelet, runtime or KubeVirt needs on the node is full.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::ExcessiveMigrations, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::StuckTerminating,
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
        SymptomId::StuckStopping,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "space",
            strength: Strength::Proof,
            look: Look::Present(FilesystemFull, &[]),
            text: "a file system that the node writes to is full",
        },
        Clue {
            group: "refused",
            strength: Strength::Strong,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["node-health"]), Fact::OneOf(OBJECT, &["node.kubernetes.io/disk-pressure"])],
            ),
            text: "the scheduler refuses the node for its disk pressure",
        },
        Clue {
            group: "reported",
            strength: Strength::Proof,
            look: Look::Present(NodePressureReported, &[Fact::OneOf(WHAT, &["disk"])]),
            text: "the kubelet reports disk pressure",
        },
        Clue {
            group: "eviction",
            strength: Strength::Strong,
            look: Look::Present(LauncherEvicted, &[Fact::OneOf(WHAT, &["disk"])]),
            text: "the kubelet evicted the launcher pod because the node was low on disk",
        },
        Clue {
            group: "eviction",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["evicted-disk"])]),
            text: "the kubelet evicted the pod because the node was low on disk",
        },
        Clue {
            group: "eviction",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::EVICT_POD, operation::ADMIT_POD]),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
            ]),
            text: "the kubelet evicts or refuses pods for lack of disk",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::PULL,
                        operation::UNPACK,
                        operation::CREATE_SANDBOX,
                        operation::CREATE_CONTAINER,
                        operation::ADMIT_POD,
                        operation::RECLAIM,
                        operation::LIST_PODS,
                        operation::SETUP_NETWORK,
                        operation::FORK,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
            ]),
            text: "the kubelet or the runtime had no space left",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::MOUNT]),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
            ]),
            text: "the kubelet had no space left for a pod's own files",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LAUNCHER, actor::HANDLER, actor::LIBVIRT, actor::CNI, actor::SYSTEMD]),
                Fact::Not(
                    OPERATION,
                    &[
                        operation::READ_WRITE,
                        operation::HOTPLUG,
                        operation::PROVISION,
                        operation::IMPORT,
                        operation::WATCH_FILES,
                        operation::OPEN_IMAGE,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::NO_SPACE]),
            ]),
            text: "a program of the node had no space left",
        },
        Clue {
            group: "reclaim",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::RECLAIM]),
                Fact::Not(CLASS, &[class::INVALID]),
            ]),
            text: "the kubelet could not free disk by removing images or containers",
        },
        Clue {
            group: "space",
            strength: Strength::Against,
            look: Look::Absent(FilesystemFull),
            text: "the node's file systems have space",
        },
        Clue {
            group: "space",
            strength: Strength::Against,
            look: Look::Absent(NodePressureReported),
            text: "the kubelet reports no pressure",
        },
        Clue {
            group: "vm-space",
            strength: Strength::Against,
            look: Look::Present(VmFilesystemFull, &[]),
            text: "it is the file system under the VM's disk that is full",
        },
    ],
    explains: &[
        "ImagePullFailedOnNode",
        "ImageCacheCorrupted",
        "ContainerRuntimeDown",
        "KubeletDegraded",
        "LauncherContainerFailed",
        "VolumeMountFailed",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "df -h; df -i   # every mount: /, /var, /var/lib/kubelet, /var/lib/containerd, \
                 /var/lib/containers",
            ),
            Step::Any("crictl rmi --prune   # unused images"),
            Step::Any("journalctl --vacuum-size=500M; du -xsh /var/lib/* /var/log/* | sort -h | tail"),
        ],
        check: &[
            Step::KubeVirt("kubectl describe node {node} | grep -A 8 Conditions   # DiskPressure, and since when"),
            Step::KubeVirt("kubectl get events -A --field-selector reason=Evicted --sort-by=.lastTimestamp | tail"),
        ],
        prevent: &[Step::Any(
            "file systems of their own for images and for kubelet; imageGCHighThresholdPercent below \
                 the eviction threshold; limits for ephemeral-storage and logs",
        )],
    },
    runbook_item: "insufficient storage",
};
