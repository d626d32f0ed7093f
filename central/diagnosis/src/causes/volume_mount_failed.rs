//! `VolumeMountFailed`: mounting, formatting, checking or staging a volume fails on this node.
//!
//! It is what kubelet and the node's driver say of the act itself: wrong file system, a device that is busy or claimed
//! by multipath or LVM, a mount program that is missing. Not meant: a backend that does not answer, a driver that is
//! not there, a volume that is not attached or held elsewhere; these explain it.

use kulprit_model::{
    FindingCode::{DeviceClaimed, FilesystemError, PodUnschedulable, StorageDriverMissing, VolumeClaimUnbound},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Mounting, formatting, checking or staging a volume of the VM fails on the node.
pub const VOLUME_MOUNT_FAILED: Cause = Cause {
    id: "VolumeMountFailed",
    meaning: "Mounting, formatting, checking or staging a volume of the VM fails on the node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Vm,
    class: Class::Storage,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckMigrating],
    possible: &[SymptomId::InError, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StuckTerminating, SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::NoneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT]),
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP]),
                Fact::OneOf(CLASS, &[class::CORRUPT, class::READ_ONLY, class::IO_ERROR]),
            ]),
            text: "the file system or device of a volume cannot be used: mount or check fails",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &[
                    "device-claimed",
                    "mount-helper-missing",
                    "filesystem-unknown",
                    "filesystem-corrupt",
                    "block-symlink-wrong",
                    "luks-failed",
                    "nfs-statd-missing",
                    "nfs-export-missing",
                    "nfs-access-denied",
                    "iscsi-daemon-missing",
                ],
            )]),
            text: "mount, check or map says why the volume cannot be used on this node",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::INVALID,
                        class::UNSUPPORTED,
                        class::BUSY,
                        class::EXISTS,
                        class::NOT_FOUND,
                        class::OTHER,
                        class::CRASHED,
                        class::LIMIT,
                        class::INCOMPATIBLE,
                        class::DENIED,
                        class::NOT_PERMITTED,
                        class::UNTRUSTED,
                        class::NO_SPACE,
                        class::UNAUTHORIZED,
                    ],
                ),
            ]),
            text: "mounting or mapping a volume fails on the node",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP])]),
            text: "a volume is not mounted or mapped",
        },
        Clue {
            group: "device",
            strength: Strength::Strong,
            look: Look::Present(DeviceClaimed, &[]),
            text: "multipath, LVM or md holds a device that a volume needs for itself",
        },
        Clue {
            group: "device",
            strength: Strength::Hint,
            look: Look::Happened(FilesystemError, &[]),
            text: "the kernel reported an error of a file system",
        },
        Clue {
            group: "node",
            strength: Strength::StronglyAgainst,
            look: Look::Present(PodUnschedulable, &[]),
            text: "the pod has no node yet, so nothing was mounted for it",
        },
        Clue {
            group: "claim",
            strength: Strength::Against,
            look: Look::Present(VolumeClaimUnbound, &[]),
            text: "a claim is not bound, so there is nothing to mount",
        },
        Clue {
            group: "driver",
            strength: Strength::Against,
            look: Look::Present(StorageDriverMissing, &[]),
            text: "the driver is not on the node: that comes first",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} -l vm.kubevirt.io/name={vm} | sed -n \
'/^Events/,$p'",
            ),
            Step::Any(
                "journalctl -u kubelet --since '-30 min' --no-pager | grep -E \
'MountVolume|MapVolume|MountDevice' | tail -n 20   # on {node}",
            ),
            Step::Any(
                "lsblk -o NAME,TYPE,FSTYPE,SIZE,MOUNTPOINTS; multipath -ll   # on {node}: who has the \
device; a volume under mpath or LVM is claimed",
            ),
        ],
        check: &[
            Step::Any(
                "blkid and a file system check (without repair) of the device; are mount.nfs, \
cryptsetup, mkfs of that type there?",
            ),
            Step::KubeVirt(
                "kubectl logs -n STORAGE_NAMESPACE -l app=CSI_NODE_PLUGIN -c CSI_DRIVER \
--field-selector spec.nodeName={node} --tail=100",
            ),
        ],
        prevent: &[Step::Any(
            "blacklist the storage system's devices in multipath.conf and LVM's filter; the same \
mount programs on every node",
        )],
    },
    runbook_item: "PVC mount failures",
};
