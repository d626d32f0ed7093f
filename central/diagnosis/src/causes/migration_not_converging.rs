//! `MigrationNotConverging`: the guest dirties its memory faster than the path copies it.
//!
//! Proof is the job itself: dirty rate at or above the copy rate while what remains does not fall. Where nothing is
//! copied at all it is the path; where the copy rate is far under the link's, the bandwidth is the root; where the job
//! got nearer to its end, the limit was too short.

use kulprit_model::{
    FindingCode::{
        MigrationDirtying, MigrationNoBytes, MigrationNotCompleted, MigrationProgressing, MigrationTimedOut,
    },
    attribute::{CLASS, OPERATION, SIGNATURE, WHAT},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The guest dirties its memory faster than the migration copies it.
pub const MIGRATION_NOT_CONVERGING: Cause = Cause {
    id: "MigrationNotConverging",
    meaning: "The guest dirties its memory faster than the migration copies it.",
    roles: &[Role::Source, Role::Path],
    scope: Scope::Vm,
    class: Class::Migration,
    usual: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    possible: &[SymptomId::ExcessiveMigrations, SymptomId::Unresponsive],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "job",
            strength: Strength::Proof,
            look: Look::Present(MigrationDirtying, &[]),
            text: "the dirty rate is at or above the copy rate, and what remains does not fall",
        },
        Clue {
            group: "job",
            strength: Strength::Proof,
            look: Look::Happened(MigrationNotCompleted, &[Fact::OneOf(WHAT, &["dirtying"])]),
            text: "the migration ended while each round left as much to copy as it had sent",
        },
        Clue {
            group: "job",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationDirtying),
            text: "the guest dirties less than is copied",
        },
        Clue {
            group: "bytes",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "nothing at all was copied",
        },
        Clue {
            group: "progress",
            strength: Strength::Against,
            look: Look::Present(MigrationProgressing, &[]),
            text: "the migration got nearer to its end",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-downtime-too-long"])]),
            text: "the guest dirties memory so fast that the switch-over would take too long",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE]),
                Fact::OneOf(CLASS, &[class::STUCK]),
                Fact::Not(SIGNATURE, &["migration-no-progress"]),
            ]),
            text: "the migration makes no progress or does not complete",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
                Fact::Not(SIGNATURE, &["libvirt-keepalive-lost"]),
            ]),
            text: "the migration was not completed in time",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(OPERATION, &[operation::MIGRATE]), Fact::OneOf(CLASS, &[class::STUCK])]),
            text: "the migration makes no progress",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: Look::Present(MigrationTimedOut, &[]),
            text: "KubeVirt ended the migration because of a time limit",
        },
    ],
    // Who cancels what never ends has a reason to.
    explains: &["MigrationAborted"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl apply -f - \
<<<'{\"apiVersion\":\"migrations.kubevirt.io/v1alpha1\",\"kind\":\"MigrationPolicy\",\"metadata\":{\"name\":\"converge\"},\"spec\":{\"allowAutoConverge\":true,\"allowPostCopy\":false,\"selectors\":{\"virtualMachineInstanceSelector\":{\"kubevirt.io/vm\":\"NAME\"}}}}'   \
# slows the guest down until it converges; allowPostCopy if a broken network may \
kill the guest",
            ),
            Step::KubeVirt("virtctl migrate -n {namespace} {vm}   # in a quiet hour of the guest"),
            Step::Standalone("virsh migrate-setmaxdowntime {vm} 2000; virsh migrate-setspeed {vm} 0"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl logs -n {namespace} SOURCE_POD -c compute | grep 'Migration info' | tail -n \
20   # DirtyRate against MemoryBandwidth",
            ),
            Step::Standalone("virsh domjobinfo {vm}"),
            Step::KubeVirt("kubectl get vmi -n {namespace} {vm} -o jsonpath='{.status.migrationState}' | jq ."),
        ],
        prevent: &[Step::Any(
            "a network of its own for migrations; smaller VMs for services that write much; \
post-copy where the network is sure",
        )],
    },
    runbook_item: "migration failures",
};
