//! `VolumeTeardownStuck`: unmount, unmap or detach cannot finish, so the pod cannot go.
//!
//! Proof is kubelet or the driver saying that a teardown fails, or a VolumeAttachment that is being deleted for long.
//! While QEMU lives it is not the teardown that holds the pod. Storage that does not answer explains it.

use kulprit_model::{
    FindingCode::VolumeDetachPending,
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// Unmounting, unmapping or detaching a volume of the VM does not finish.
pub const VOLUME_TEARDOWN_STUCK: Cause = Cause {
    id: "VolumeTeardownStuck",
    meaning: "Unmounting, unmapping or detaching a volume of the VM does not finish.",
    roles: &[Role::Hosting, Role::Source],
    scope: Scope::Vm,
    class: Class::Storage,
    usual: &[SymptomId::StuckTerminating, SymptomId::StuckStopping],
    possible: &[SymptomId::StuckMigrating, SymptomId::EvacuationBlocked, SymptomId::StuckStarting],
    rare: &[SymptomId::MigrationFailed, SymptomId::InError, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::UNMOUNT]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::TIMEOUT,
                        class::BUSY,
                        class::STALE,
                        class::IO_ERROR,
                        class::HELD,
                        class::DENIED,
                        class::NOT_PERMITTED,
                        class::EXISTS,
                        class::CORRUPT,
                        class::STUCK,
                        class::OTHER,
                        class::INVALID,
                        class::REFUSED,
                        class::UNAVAILABLE,
                    ],
                ),
            ]),
            text: "unmounting or unmapping a volume fails",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(OPERATION, &[operation::UNMOUNT])]),
            text: "a volume is not unmounted",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(OPERATION, &[operation::DETACH])]),
            text: "detaching a volume fails",
        },
        Clue {
            group: "detach",
            strength: Strength::Strong,
            look: Look::Present(VolumeDetachPending, &[]),
            text: "the detaching of a volume does not finish",
        },
        Clue {
            group: "detach",
            strength: Strength::Against,
            look: Look::Absent(VolumeDetachPending),
            text: "no detaching is pending",
        },
        Clue {
            group: "qemu",
            strength: Strength::Against,
            look: Look::Vm(VmFact::QemuLives),
            text: "its QEMU is alive and holds the volumes itself",
        },
    ],
    explains: &["VolumeHeldElsewhere"],
    advice: Advice {
        now: &[
            Step::Any(
                "journalctl -u kubelet --since '-30 min' --no-pager | grep -E \
'UnmountVolume|UnmapVolume|TearDown|DetachVolume' | tail -n 20   # on {node}",
            ),
            Step::Any(
                "grep -H . /proc/*/mountinfo 2>/dev/null | grep PV_NAME | cut -d/ -f3 | sort -u   # \
on {node}: which processes still have the mount",
            ),
            Step::KubeVirt("kubectl get volumeattachment -o wide | grep {node}"),
        ],
        check: &[
            Step::Any(
                "fuser -vm {mount}; lsof +f -- {mount}; ps -eLo pid,stat,wchan:32,comm | awk '$2 ~ \
/D/'   # on {node}",
            ),
            Step::KubeVirt(
                "do not remove the finalizer of a VolumeAttachment before it is certain that the node \
does not write",
            ),
        ],
        prevent: &[Step::Any(
            "let the storage driver and kubelet finish before a node is shut down; mount options \
that end instead of waiting",
        )],
    },
    runbook_item: "volume attachment timeouts",
};
