//! `NodeFilesystemReadOnly`: the kernel made a file system that the node writes to
//! read-only after an error, mostly the root disk's. A volume of the VM alone is
//! `DiskIoError`.

use kulprit_model::{
    FindingCode::{FilesystemError, FilesystemReadOnly, FilesystemRemountedReadOnly},
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A file system that the node writes to became read-only after an error.
pub const NODE_FILESYSTEM_READ_ONLY: Cause = Cause {
    id: "NodeFilesystemReadOnly",
    meaning: "A file system that the node writes to became read-only after an error.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckTerminating],
    possible: &[
        SymptomId::InError,
        SymptomId::StuckStopping,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unresponsive,
        SymptomId::Unspecified,
        SymptomId::StoppedUnexpectedly,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::PausedUnexpectedly],
    clues: &[
        Clue {
            group: "mount",
            strength: Strength::Proof,
            look: Look::Present(FilesystemReadOnly, &[]),
            text: "a file system that the node writes to is mounted read-only",
        },
        Clue {
            group: "logged",
            strength: Strength::Strong,
            look: Look::Happened(FilesystemRemountedReadOnly, &[]),
            text: "the kernel made a file system read-only because of an error",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    ACTOR,
                    &[
                        actor::KUBELET,
                        actor::RUNTIME,
                        actor::LAUNCHER,
                        actor::HANDLER,
                        actor::SYSTEMD,
                        actor::LIBVIRT,
                        actor::CNI,
                    ],
                ),
                Fact::Not(OPERATION, &[operation::READ_WRITE, operation::HOTPLUG]),
                Fact::OneOf(CLASS, &[class::READ_ONLY]),
            ]),
            text: "a program of the node met a read-only file system",
        },
        Clue {
            group: "error",
            strength: Strength::Some,
            look: Look::Happened(FilesystemError, &[]),
            text: "a file system reported an error",
        },
        Clue {
            group: "mount",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(FilesystemReadOnly),
            text: "the node's file systems are writable",
        },
    ],
    explains: &[
        "KubeletDegraded",
        "ContainerRuntimeDown",
        "ImageCacheCorrupted",
        "VolumeMountFailed",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any("grep -E ' ro[ ,]' /proc/mounts   # which one"),
            Step::Any(
                "dmesg -T | grep -iE 'remount|EXT4-fs error|XFS .*(corrupt|shutdown)|I/O error' | tail \
                 -n 30",
            ),
            Step::KubeVirt(
                "kubectl cordon {node} && kubectl drain {node} --ignore-daemonsets \
                 --delete-emptydir-data   # then check the disk offline (fsck, xfs_repair)",
            ),
        ],
        check: &[Step::Any(
            "smartctl -a /dev/{device}; touch /var/lib/kubelet/.kulprit && rm \
                 /var/lib/kubelet/.kulprit",
        )],
        prevent: &[Step::Any("mirror the system disk; watch SMART and the kernel log for file system errors")],
    },
    runbook_item: "insufficient storage",
};
