//! `DomainConflict`: a domain of that name or UUID exists already, or its definition is stale or damaged.
//!
//! libvirt says so when it defines or starts the domain, or prepares a migration's target. What is only a wrong
//! specification is VmMisconfigured.

use kulprit_model::{
    FindingCode::TwoQemus,
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// libvirt already has a domain of that name or UUID, or a stale or damaged definition of it.
pub const DOMAIN_CONFLICT: Cause = Cause {
    id: "DomainConflict",
    meaning: "libvirt already has a domain of that name or UUID, or a stale or damaged definition \
of it.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Vm,
    class: Class::VirtStack,
    usual: &[SymptomId::StuckStarting, SymptomId::MigrationFailed],
    possible: &[SymptomId::InError, SymptomId::StuckMigrating, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StuckStopping, SymptomId::StuckTerminating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["ghost-record-conflict"])]),
            text: "virt-handler keeps an older record of a VM of that name",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::DEFINE_DOMAIN, operation::START_DOMAIN, operation::MIGRATE_PREPARE],
                ),
                Fact::OneOf(CLASS, &[class::EXISTS]),
            ]),
            text: "libvirt has a domain of that name or UUID already",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(ACTOR, &[actor::LIBVIRT]), Fact::OneOf(CLASS, &[class::EXISTS])]),
            text: "something of the domain exists already",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::DEFINE_DOMAIN]),
                Fact::OneOf(CLASS, &[class::CORRUPT, class::BUSY]),
            ]),
            text: "the definition of the domain is damaged or in use",
        },
        Clue {
            group: "spec",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::DEFINE_DOMAIN]),
                Fact::OneOf(CLASS, &[class::INVALID, class::UNSUPPORTED]),
            ]),
            text: "what was asked for cannot work, whatever was there before",
        },
        Clue {
            group: "two",
            strength: Strength::Some,
            look: Look::Present(TwoQemus, &[]),
            text: "two QEMUs of this VM live",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl exec -n {namespace} POD -c compute -- virsh list --all --uuid --name   # in \
the launcher that reports it",
            ),
            Step::Standalone(
                "virsh list --all --uuid --name; virsh undefine {vm} --keep-nvram   # only the stale \
one, and only when it is off",
            ),
            Step::KubeVirt("kubectl delete pod -n {namespace} TARGET_POD   # a failed target: the source runs on"),
        ],
        check: &[
            Step::KubeVirt("kubectl get vmim,pod -n {namespace} -l vm.kubevirt.io/name={vm} -o wide"),
            Step::Any("pgrep -af qemu   # on every node that had it"),
        ],
        prevent: &[Step::Any(
            "wait for the end of one migration before the next is asked for; unique firmware \
UUIDs",
        )],
    },
    runbook_item: "domain definition conflicts",
};
