//! `VmMisconfigured`: what the VM's specification asks for cannot work on any node.
//!
//! libvirt, QEMU or the API server say so when they read it: a device, a machine type, firmware, sizes. Only the
//! specification or its data is at fault; where the hardware or a limit of one node refuses, the causes of that node
//! have words of their own.

use kulprit_model::{
    FindingCode::{KvmDeviceInaccessible, KvmDeviceMissing},
    attribute::{ACTOR, BACKEND, CLASS, OBJECT, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The VM's specification, or what its disks hold, cannot work on any node.
pub const VM_MISCONFIGURED: Cause = Cause {
    id: "VmMisconfigured",
    meaning: "The VM's specification, or what its disks hold, cannot work on any node.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::StoppedUnexpectedly,
        SymptomId::StuckMigrating,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::Unresponsive, SymptomId::StuckStopping, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::DEFINE_DOMAIN]),
                Fact::OneOf(
                    CLASS,
                    &[class::INVALID, class::UNSUPPORTED, class::INCOMPATIBLE, class::NOT_FOUND, class::OTHER],
                ),
            ]),
            text: "libvirt refuses the definition of the domain",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::API_SERVER, actor::CONTROLLER]),
                Fact::OneOf(OPERATION, &[operation::CREATE_POD, operation::CALL_API]),
                Fact::OneOf(CLASS, &[class::INVALID]),
            ]),
            text: "the API server refuses the object as invalid",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &[
                    "network-attachment-missing",
                    "device-unknown",
                    "guest-address-space-too-small",
                    "host-disk-too-small",
                    "launch-manifest-failed",
                    "migration-volume-too-small",
                ],
            )]),
            text: "the sizes or devices that are asked for do not fit together",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::QEMU, actor::LAUNCHER, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN, operation::SYNC_VMI, operation::HOTPLUG]),
                Fact::OneOf(CLASS, &[class::INVALID]),
                Fact::Not(SIGNATURE, &["cpu-incompatible", "hugepages-missing"]),
            ]),
            text: "what is asked for is not valid",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["machine-type-unknown", "qemu-firmware-missing"])]),
            text: "the machine type or firmware that is asked for does not exist",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::OPEN_IMAGE]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND, class::CORRUPT]),
            ]),
            text: "the volume is there, and holds no usable disk image",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::QEMU]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN]),
                Fact::OneOf(CLASS, &[class::UNSUPPORTED, class::NOT_FOUND]),
                Fact::Not(SIGNATURE, &["virt-type-unsupported", "cpu-mode-unsupported", "swtpm-failed"]),
            ]),
            text: "a device, machine type or firmware that is asked for does not exist",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SYNC_VMI, operation::SETUP_NETWORK, operation::ALLOCATE_DEVICE]),
                Fact::OneOf(CLASS, &[class::INVALID]),
            ]),
            text: "what is asked for is not valid",
        },
        Clue {
            group: "config",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["container-config-missing"])]),
            text: "a secret or a config map that the pod names does not exist",
        },
        Clue {
            group: "config",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::MOUNT, operation::CREATE_CONTAINER]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND]),
                Fact::Not(SIGNATURE, &["driver-not-registered"]),
                Fact::NoneOf(OBJECT, &[]),
                Fact::Missing(BACKEND),
            ]),
            text: "a secret, a config map or another object that the pod names does not exist",
        },
        Clue {
            group: "kvm",
            strength: Strength::Against,
            look: Look::Present(KvmDeviceMissing, &[]),
            text: "the node has no KVM: nothing starts there",
        },
        Clue {
            group: "kvm",
            strength: Strength::Against,
            look: Look::Present(KvmDeviceInaccessible, &[]),
            text: "the node's KVM cannot be opened: nothing starts there",
        },
    ],
    explains: &["LauncherContainerFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt("kubectl describe vmi -n {namespace} {vm}"),
            Step::KubeVirt(
                "kubectl edit vm -n {namespace} {vm}   # correct what the message names, then: \
virtctl restart",
            ),
            Step::Standalone("virsh dumpxml --inactive {vm} | virt-xml-validate -"),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get vm -n {namespace} {vm} -o yaml; kubectl logs -n {namespace} -l \
vm.kubevirt.io/name={vm} -c compute --tail=100",
            ),
            Step::Any(
                "does a VM of an ordinary template start on the same node? then it is the \
specification",
            ),
        ],
        prevent: &[Step::Any(
            "instance types and preferences instead of hand-written devices; validate with \
--dry-run=server",
        )],
    },
    runbook_item: "VM configuration",
};
