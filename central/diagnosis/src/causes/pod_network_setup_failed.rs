//! `PodNetworkSetupFailed`: the pod's network cannot be set up: no CNI configuration, a CNI plugin that fails,
//! KubeVirt's own bridge, tap or nft rules that the node's kernel refuses. Proof is the runtime's NetworkReady=false or
//! the plugin's error. A node without working links is `NodeNetworkDegraded`.

use kulprit_model::{
    FindingCode::{NodeNetworkReportedDown, NodeNotReady, PodUnschedulable, RuntimeNetworkNotReady, VmLinkLost},
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The network of the pod could not be set up on the node.
pub const POD_NETWORK_SETUP_FAILED: Cause = Cause {
    id: "PodNetworkSetupFailed",
    meaning: "The network of the pod could not be set up on the node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Network,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckMigrating, SymptomId::InError],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::StuckTerminating,
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::StuckStopping, SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "ready",
            strength: Strength::Proof,
            look: Look::Present(RuntimeNetworkNotReady, &[]),
            text: "the runtime says that the pod network is not ready",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[Fact::OneOf(ACTOR, &[actor::CNI]), Fact::OneOf(OPERATION, &[operation::SETUP_NETWORK])]),
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["False"])]),
            ]),
            text: "the pod network is not set up, and its node is not ready",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(ACTOR, &[actor::CNI]), Fact::Not(SIGNATURE, &["network-attachment-missing"])]),
            text: "a CNI plugin failed",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["network-attachment-missing"])]),
            text: "the pod asks for a network that is not defined",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::Not(ACTOR, &[actor::GUEST, actor::CNI]),
                Fact::OneOf(OPERATION, &[operation::SETUP_NETWORK]),
                Fact::Not(SIGNATURE, &["network-attachment-missing"]),
            ]),
            text: "setting up the pod's or the VM's network failed",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["tun-open-failed", "vhost-open-failed"])]),
            text: "QEMU or libvirt could not open the tap device of the VM's network",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::CREATE_SANDBOX]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK]),
            ]),
            text: "a sandbox is not made in time",
        },
        Clue {
            group: "link",
            strength: Strength::Strong,
            look: Look::Present(VmLinkLost, &[]),
            text: "a tap that the VM's QEMU has open is gone, or a link of its pod has no carrier",
        },
        Clue {
            group: "link",
            strength: Strength::Against,
            look: Look::Absent(VmLinkLost),
            text: "the VM's taps and the links of its pod are there",
        },
        Clue {
            group: "refused",
            strength: Strength::Strong,
            look: Look::Present(
                PodUnschedulable,
                &[
                    Fact::OneOf(REASON, &["node-health"]),
                    Fact::OneOf(OBJECT, &["node.kubernetes.io/network-unavailable"]),
                ],
            ),
            text: "the scheduler refuses the node because its pod network is not set up",
        },
        Clue {
            group: "reported",
            strength: Strength::Good,
            look: Look::Present(NodeNetworkReportedDown, &[]),
            text: "the node's network is reported as not available",
        },
        Clue {
            group: "node",
            strength: Strength::Hint,
            look: Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["False"])]),
            text: "the kubelet says that the node is not ready",
        },
        Clue {
            group: "ready",
            strength: Strength::Against,
            look: Look::Absent(RuntimeNetworkNotReady),
            text: "the runtime says that the pod network is ready",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Hint,
            look: Look::WellElsewhere(&said(&[Fact::OneOf(ACTOR, &[actor::CNI])])),
            text: "other nodes do not say so",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &["LauncherContainerFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("ls -l /etc/cni/net.d /opt/cni/bin; crictl info | grep -A 6 NetworkReady"),
            Step::KubeVirt(
                "kubectl get pods -A -o wide --field-selector spec.nodeName={node} | grep -iE \
                 'calico|cilium|flannel|ovn|multus|cni|whereabouts'   # restart the one that is not ready",
            ),
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} -l vm.kubevirt.io/name={vm} | sed -n \
                 '/Events/,$p'   # the plugin's own words",
            ),
        ],
        check: &[
            Step::Any("journalctl -u kubelet --since '-30 min' --no-pager | grep -iE 'cni|network' | tail -n 30"),
            Step::Any(
                "nft list ruleset >/dev/null && echo nft works; lsmod | grep -E \
                 'nf_tables|tun|bridge|vhost_net'",
            ),
        ],
        prevent: &[Step::Any(
            "the same CNI configuration and kernel modules on every node; enough addresses in its \
                 pool; remove leftover files of an old CNI from /etc/cni/net.d",
        )],
    },
    runbook_item: "networking in the pod",
};
