//! `ImageLockHeld`: another QEMU holds the write lock of the disk.
//!
//! QEMU says so itself. The other one is the old launcher that still lives, the other end of a migration, or a leftover
//! of one; on storage without working locks a dead holder can seem to live.

use kulprit_model::{
    FindingCode::TwoQemus,
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Another QEMU holds the lock of the VM's disk image.
pub const IMAGE_LOCK_HELD: Cause = Cause {
    id: "ImageLockHeld",
    meaning: "Another QEMU holds the lock of the VM's disk image.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Storage,
    usual: &[SymptomId::StuckStarting, SymptomId::MigrationFailed],
    possible: &[SymptomId::InError, SymptomId::StuckMigrating, SymptomId::StoppedUnexpectedly, SymptomId::Unresponsive],
    rare: &[SymptomId::PausedUnexpectedly, SymptomId::EvacuationBlocked, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOCK_IMAGE]),
                Fact::OneOf(CLASS, &[class::HELD, class::BUSY]),
            ]),
            text: "QEMU cannot take the lock of the image: another process has it",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(OPERATION, &[operation::LOCK_IMAGE])]),
            text: "QEMU cannot lock the image",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT]),
                Fact::OneOf(OPERATION, &[operation::OPEN_IMAGE]),
                Fact::OneOf(CLASS, &[class::HELD, class::BUSY]),
            ]),
            text: "the image is in use",
        },
        Clue {
            group: "two",
            strength: Strength::Some,
            look: Look::Present(TwoQemus, &[]),
            text: "two QEMUs of this VM live",
        },
        Clue {
            group: "open",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::OPEN_IMAGE]),
                Fact::OneOf(CLASS, &[class::DENIED, class::NOT_PERMITTED, class::NOT_FOUND]),
            ]),
            text: "the image cannot even be opened",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "lslocks -o COMMAND,PID,TYPE,MODE,PATH | grep -i qemu   # on every node that had this \
VM",
            ),
            Step::KubeVirt(
                "kubectl get pod -A -l vm.kubevirt.io/name={vm} -o wide   # a second launcher, or one \
that is terminating",
            ),
            Step::Any(
                "end the older QEMU in an orderly way; never start with locking switched off while \
another one may write",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get vmim -n {namespace}; kubectl get vmi -n {namespace} {vm} -o \
jsonpath='{.status.migrationState}'",
            ),
            Step::Standalone("virsh list --all; pgrep -af qemu"),
        ],
        prevent: &[Step::Any("one owner per disk; ReadWriteMany only for volumes of VMs that migrate")],
    },
    runbook_item: "storage",
};
