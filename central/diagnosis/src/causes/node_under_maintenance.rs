//! `NodeUnderMaintenance`: somebody cordons, drains or evacuates the node on purpose: migrations and a VM that
//! is to leave are what was asked for. That a VM cannot leave has a cause of its own, this one says who wants
//! it to.

use kulprit_model::{
    FindingCode::{
        EvictionPending, MigrationTargetFailed, MigrationTargetPending, MigrationsMany, NodeCordoned, PodUnschedulable,
        VmiNotMigratable,
    },
    attribute::{ACTOR, CLASS, INITIATOR, OBJECT, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The node is cordoned, drained or evacuated on purpose.
pub const NODE_UNDER_MAINTENANCE: Cause = Cause {
    id: "NodeUnderMaintenance",
    meaning: "The node is cordoned, drained or evacuated on purpose.",
    roles: &[Role::Hosting, Role::Source],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::ExcessiveMigrations, SymptomId::EvacuationBlocked],
    possible: &[SymptomId::StuckStarting, SymptomId::Unspecified],
    // Why a VM is to move is not why its migration fails or stands still.
    rare: &[
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::StuckTerminating,
        SymptomId::StuckStopping,
        SymptomId::StoppedUnexpectedly,
        SymptomId::InError,
    ],
    clues: &[
        Clue {
            group: "refused",
            strength: Strength::Strong,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["node-health"]), Fact::OneOf(OBJECT, &["node.kubernetes.io/unschedulable"])],
            ),
            text: "the scheduler refuses the node because it is cordoned",
        },
        Clue {
            group: "cordon",
            strength: Strength::Good,
            look: Look::Present(NodeCordoned, &[]),
            text: "the node is cordoned, drained or marked for maintenance",
        },
        Clue {
            group: "cordon",
            strength: Strength::Strong,
            look: Look::All(&[Look::Present(NodeCordoned, &[]), Look::Present(EvictionPending, &[])]),
            text: "the node is cordoned, and the VM is to leave it",
        },
        Clue {
            group: "cordon",
            strength: Strength::Some,
            look: Look::Present(EvictionPending, &[]),
            text: "the VM is to leave its node",
        },
        Clue {
            group: "initiator",
            strength: Strength::Strong,
            look: Look::Present(MigrationsMany, &[Fact::OneOf(INITIATOR, &["evacuation"])]),
            text: "evacuations asked for most of its migrations",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["drain-refused"])]),
            text: "a drain of the node stopped at a pod because of how it was asked for",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::API_SERVER, actor::CONTROLLER, actor::CONTROLLER_MANAGER]),
                Fact::OneOf(OPERATION, &[operation::EVICT_POD]),
                Fact::OneOf(CLASS, &[class::CANCELLED, class::QUOTA, class::HELD]),
            ]),
            text: "somebody evicts the pod",
        },
        Clue {
            group: "cordon",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(NodeCordoned),
            text: "the node takes new pods",
        },
        Clue {
            group: "initiator",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationsMany, &[Fact::Not(INITIATOR, &["evacuation"])]),
            text: "it was not evacuations that asked for its migrations",
        },
        Clue {
            group: "migration",
            strength: Strength::Against,
            look: Look::Present(MigrationTargetPending, &[]),
            text: "a migration away was made, and its target pod does not get ready",
        },
        Clue {
            group: "migration",
            strength: Strength::Against,
            look: Look::Present(MigrationTargetFailed, &[]),
            text: "a migration away was made, and its target pod failed",
        },
        Clue {
            group: "migration",
            strength: Strength::Against,
            look: Look::Present(VmiNotMigratable, &[]),
            text: "the VM cannot be migrated: that keeps it",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get node {node} -o jsonpath='{.spec.unschedulable}{\"\\n\"}{.spec.taints}'   # \
                 who drains it, and does it still have to",
            ),
            Step::KubeVirt("kubectl uncordon {node}   # if the maintenance is over"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get vmim -A --sort-by=.metadata.creationTimestamp | tail -n 20   # \
                 kubevirt-evacuation-…: made by the drain",
            ),
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o \
                 jsonpath='{.status.evacuationNodeName}{\"\\n\"}{.spec.evictionStrategy}'",
            ),
        ],
        prevent: &[Step::Any(
            "drain node after node, and only with room for its VMs elsewhere; evictionStrategy \
                 LiveMigrateIfPossible for VMs that cannot migrate",
        )],
    },
    runbook_item: "maintenance mode",
};
