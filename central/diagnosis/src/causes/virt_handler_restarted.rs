//! `VirtHandlerRestarted`: virt-handler was restarted while a migration ran, and its proxies died with it.
//!
//! Proof is the new start within the migration. It breaks every migration of that node at one time with "client socket
//! is closed" or a lost connection, and everything looks well again right after. While it stays down it is
//! VirtHandlerDown.

use kulprit_model::{
    FindingCode::{MigrationAbortRequested, MigrationTimedOut, VirtHandlerNotReady, VirtHandlerRestarted},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// virt-handler restarted while the migration ran: the migration proxies of the node died with it.
pub const VIRT_HANDLER_RESTARTED: Cause = Cause {
    id: "VirtHandlerRestarted",
    meaning: "virt-handler restarted while the migration ran: the migration proxies of the node \
died with it.",
    roles: &[Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::VirtStack,
    usual: &[SymptomId::MigrationFailed, SymptomId::StuckMigrating],
    possible: &[SymptomId::InError, SymptomId::ExcessiveMigrations, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StuckStarting, SymptomId::StuckStopping, SymptomId::StuckTerminating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "start",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Happened(VirtHandlerRestarted, &[]),
                said(&[
                    Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::CONNECT_PEER]),
                    Fact::OneOf(CLASS, &[class::RESET, class::CANCELLED, class::OTHER]),
                ]),
            ]),
            text: "virt-handler of the node was started anew, and the connection of the migration broke",
        },
        Clue {
            group: "start",
            strength: Strength::Strong,
            look: Look::Happened(VirtHandlerRestarted, &[]),
            text: "virt-handler of the node was started anew around the failure",
        },
        Clue {
            group: "start",
            strength: Strength::Against,
            look: Look::NotHappened(VirtHandlerRestarted),
            text: "virt-handler was not restarted",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::CONNECT_PEER]),
                Fact::OneOf(CLASS, &[class::RESET, class::CANCELLED, class::OTHER]),
            ]),
            text: "the connection of the migration broke",
        },
        Clue {
            group: "plugin",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE, operation::ADMIT_POD]),
                Fact::OneOf(CLASS, &[class::UNAVAILABLE]),
            ]),
            text: "the device plugin was away when a pod was admitted",
        },
        Clue {
            group: "down",
            strength: Strength::Against,
            look: Look::Present(VirtHandlerNotReady, &[]),
            text: "it is down still, not only restarted",
        },
        Clue {
            group: "timeout",
            strength: Strength::Against,
            look: Look::Present(MigrationTimedOut, &[]),
            text: "KubeVirt ended the migration because of its time limit",
        },
        Clue {
            group: "abort",
            strength: Strength::Against,
            look: Look::Present(MigrationAbortRequested, &[]),
            text: "somebody asked to abort the migration",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "virtctl migrate -n {namespace} {vm}   # again, when virt-handler is ready on both \
nodes",
            ),
            Step::KubeVirt("kubectl get pod -n kubevirt -l kubevirt.io=virt-handler -o wide   # RESTARTS and AGE"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl logs -n kubevirt -l kubevirt.io=virt-handler --field-selector \
spec.nodeName={node} --previous --tail=100",
            ),
            Step::Any("was KubeVirt updated, its configuration changed, or the node drained at that time?"),
        ],
        prevent: &[Step::Any("update KubeVirt when no migrations run; do not kill virt-handler pods by hand")],
    },
    runbook_item: "migration failures",
};
