//! `StorageDriverDown`: the node has no working driver for the volume: its plugin is missing, not registered or
//! crashing.
//!
//! Proof is a CSINode without the driver or a node plugin that is not ready; kubelet then says that the driver is not
//! found or its socket refuses. A driver that answers with an error is not down.

use kulprit_model::{
    FindingCode::{BackendUnreachable, StorageDriverMissing},
    attribute::{ACTOR, BACKEND, CLASS, OPERATION, SERVER, SIGNATURE, VOLUME},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The CSI driver that the volume needs does not run or is not registered on the node.
pub const STORAGE_DRIVER_DOWN: Cause = Cause {
    id: "StorageDriverDown",
    meaning: "The CSI driver that the volume needs does not run or is not registered on the node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Storage,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::InError,
        SymptomId::StuckTerminating,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
        SymptomId::StuckStopping,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Proof,
            look: Look::Present(StorageDriverMissing, &[]),
            text: "the node has no registered driver for a volume of the VM, or its pod is not ready",
        },
        Clue {
            group: "state",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(StorageDriverMissing),
            text: "the driver is registered on the node and ready",
        },
        Clue {
            group: "mount",
            strength: Strength::Good,
            look: Look::Present(BackendUnreachable, &[Fact::OneOf(BACKEND, &["fuse"])]),
            text: "the program that serves a mount on the node is gone",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["driver-not-registered", "driver-not-on-node", "csi-socket-dead"])]),
            text: "kubelet does not find the driver of the volume, or its socket is dead",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(ACTOR, &[actor::CSI]), Fact::OneOf(OPERATION, &[operation::REGISTER_PLUGIN])]),
            text: "a storage driver does not get registered with kubelet",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP, operation::UNMOUNT]),
                Fact::OneOf(CLASS, &[class::UNAVAILABLE]),
            ]),
            text: "kubelet says that what mounts the volume is not there",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::CSI, actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::MAP, operation::ATTACH, operation::UNMOUNT]),
                Fact::OneOf(CLASS, &[class::REFUSED, class::RESET]),
                Fact::Missing(SERVER),
                Fact::Missing(BACKEND),
            ]),
            text: "the driver's socket refuses",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::REGISTER_PLUGIN]),
                Fact::NoneOf(VOLUME, &[]),
            ]),
            text: "kubelet does not find the driver of the volume",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(ACTOR, &[actor::CSI]), Fact::OneOf(CLASS, &[class::CRASHED, class::KILLED])]),
            text: "a storage driver ended",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Some,
            look: Look::All(&[
                Look::Present(StorageDriverMissing, &[]),
                Look::WellElsewhere(&Look::Present(StorageDriverMissing, &[])),
            ]),
            text: "other nodes have the driver",
        },
    ],
    explains: &["VolumeMountFailed", "VolumeAttachTimeout", "VolumeTeardownStuck", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get csinode {node} -o jsonpath='{range \
.spec.drivers[*]}{.name}{\"\\n\"}{end}'; kubectl get pod -A -o wide --field-selector \
spec.nodeName={node} | grep -iE 'csi|node'",
            ),
            Step::KubeVirt(
                "kubectl logs -n STORAGE_NAMESPACE CSI_NODE_POD --all-containers --tail=100   # why \
it does not start or register",
            ),
            Step::KubeVirt("kubectl delete pod -n STORAGE_NAMESPACE CSI_NODE_POD   # registers again"),
        ],
        check: &[Step::Any(
            "ls -l /var/lib/kubelet/plugins/*/ /var/lib/kubelet/plugins_registry/   # on {node}: \
is there a socket, does kubelet use this folder?",
        )],
        prevent: &[Step::Any(
            "alert on node plugins that are not ready; priority system-node-critical for them; \
tolerations for every taint of VM nodes",
        )],
    },
    runbook_item: "PVC mount failures",
};
