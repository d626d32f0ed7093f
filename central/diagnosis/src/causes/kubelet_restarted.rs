//! `KubeletRestarted`: the kubelet or the whole node was restarted a moment ago: device plugins and volumes are not
//! registered again, and pods are refused at admission for some seconds. KubeVirt's own plugin being gone for long is
//! `KvmNotAdvertised`, a missing device `KvmDeviceMissing`.

use kulprit_model::{
    FindingCode::{
        DevicesNotAllocatable, KubeletRestarted, KvmDeviceMissing, LauncherRejected, NodeBooted, VirtHandlerRestarted,
    },
    attribute::{ACTOR, CLASS, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The kubelet or the node restarted: devices and volumes were not registered again yet, pods were refused.
pub const KUBELET_RESTARTED: Cause = Cause {
    id: "KubeletRestarted",
    meaning: "The kubelet or the node restarted: devices and volumes were not registered again yet, \
                 pods were refused.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::InError, SymptomId::MigrationFailed, SymptomId::ExcessiveMigrations],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::StoppedUnexpectedly,
        SymptomId::StuckTerminating,
        SymptomId::Unspecified,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::StuckStopping, SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "restart",
            strength: Strength::Good,
            look: Look::Happened(KubeletRestarted, &[]),
            text: "the kubelet was started anew",
        },
        Clue {
            group: "restart",
            strength: Strength::Good,
            look: Look::Happened(NodeBooted, &[]),
            text: "the node booted",
        },
        Clue {
            group: "restart",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["node-rebooted"])]),
            text: "the node was rebooted",
        },
        Clue {
            group: "restart",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Happened(KubeletRestarted, &[]),
                said(&[
                    Fact::OneOf(
                        OPERATION,
                        &[
                            operation::ALLOCATE_DEVICE,
                            operation::ADMIT_POD,
                            operation::REGISTER_PLUGIN,
                            operation::MOUNT,
                        ],
                    ),
                    Fact::OneOf(CLASS, &[class::UNAVAILABLE, class::NOT_FOUND, class::INSUFFICIENT]),
                ]),
            ]),
            text: "the kubelet was started anew, and refused what was not registered yet",
        },
        Clue {
            group: "restart",
            strength: Strength::Proof,
            look: Look::All(&[Look::Happened(KubeletRestarted, &[]), Look::Present(LauncherRejected, &[])]),
            text: "the kubelet was started anew and rejected the launcher pod",
        },
        Clue {
            group: "restart",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Happened(KubeletRestarted, &[]),
                said(&[Fact::OneOf(SIGNATURE, &["unschedulable-kvm"])]),
            ]),
            text: "the kubelet was started anew, and no node offers KVM",
        },
        Clue {
            group: "restart",
            strength: Strength::Proof,
            look: Look::All(&[Look::Happened(KubeletRestarted, &[]), Look::Present(DevicesNotAllocatable, &[])]),
            text: "the kubelet was started anew, and the node offers none of KubeVirt's devices",
        },
        Clue {
            group: "rejected",
            strength: Strength::Strong,
            look: Look::Present(LauncherRejected, &[Fact::OneOf(REASON, &["NodeAffinity"])]),
            text: "after its start the kubelet did not know its node's labels yet",
        },
        Clue {
            group: "rejected",
            strength: Strength::Good,
            look: Look::Present(LauncherRejected, &[Fact::OneOf(REASON, &["UnexpectedAdmissionError"])]),
            text: "the kubelet refused a pod that had been scheduled to it",
        },
        Clue {
            group: "rejected",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["device-plugin-unhealthy", "device-plugin-unregistered"])]),
            text: "the kubelet had no healthy device of KubeVirt to give",
        },
        Clue {
            group: "rejected",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE, operation::ADMIT_POD]),
                Fact::OneOf(CLASS, &[class::UNAVAILABLE]),
            ]),
            text: "the kubelet had no healthy device of a kind that it had announced",
        },
        Clue {
            group: "devices",
            strength: Strength::Hint,
            look: Look::Present(DevicesNotAllocatable, &[]),
            text: "the node offers none of KubeVirt's devices",
        },
        Clue {
            group: "restart",
            strength: Strength::Against,
            look: Look::NotHappened(KubeletRestarted),
            text: "the kubelet did not restart",
        },
        Clue {
            group: "handler",
            strength: Strength::Against,
            look: Look::Happened(VirtHandlerRestarted, &[]),
            text: "it was virt-handler that restarted",
        },
        Clue {
            group: "device",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KvmDeviceMissing, &[]),
            text: "/dev/kvm itself is missing",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &["KvmNotAdvertised", "StorageDriverDown", "MigrationTargetPodFailed", "Unschedulable"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get node {node} -o jsonpath='{.status.allocatable}'   # kvm, tun, vhost-net \
                 back? then start or migrate the VM again",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n kubevirt -l kubevirt.io=virt-handler --field-selector \
                 spec.nodeName={node}   # if they stay 0: registers them again",
            ),
        ],
        check: &[
            Step::Any(
                "systemctl show kubelet -p ActiveEnterTimestamp,NRestarts,InvocationID; journalctl -u \
                 kubelet -b --no-pager | grep -iE 'Started|device plugin|Allocate failed' | tail",
            ),
            Step::Any("uptime -s   # or did the node boot"),
        ],
        prevent: &[Step::Any(
            "drain a node before its kubelet is restarted or upgraded; restart units one node at a \
                 time",
        )],
    },
    runbook_item: "NotReady",
};
