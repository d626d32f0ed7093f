//! `KubeletMisconfigured`: the kubelet is set up in a way that KubeVirt cannot use: another root directory than
//! /var/lib/kubelet, a CPU or topology manager whose state does not fit, a missing feature gate. Often looks like
//! something else: with another root directory `/dev/kvm` is `Permission denied`.

use kulprit_model::{
    FindingCode::{KubeletInactive, KubeletMisconfigured, LauncherRejected},
    attribute::{ACTOR, CLASS, OPERATION, REASON, RESULT, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The kubelet is set up in a way that KubeVirt cannot use.
pub const KUBELET_MISCONFIGURED: Cause = Cause {
    id: "KubeletMisconfigured",
    meaning: "The kubelet is set up in a way that KubeVirt cannot use.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::InError],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::StuckTerminating, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "setup",
            strength: Strength::Proof,
            look: Look::Present(KubeletMisconfigured, &[]),
            text: "the kubelet's setup does not fit KubeVirt",
        },
        Clue {
            group: "rejected",
            strength: Strength::Strong,
            look: Look::Present(
                LauncherRejected,
                &[Fact::OneOf(
                    REASON,
                    &[
                        "TopologyAffinityError",
                        "SMTAlignmentError",
                        "PodOSSelectorNodeLabelDoesNotMatch",
                        "PodOSNotSupported",
                    ],
                )],
            ),
            text: "the kubelet's topology or CPU manager refused the launcher pod",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &["cpu-manager-state", "kubelet-config-invalid", "topology-not-aligned"],
            )]),
            text: "the kubelet says what does not fit",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::ADMIT_POD, operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::INVALID, class::INCOMPATIBLE]),
            ]),
            text: "the kubelet refuses what its setup does not allow",
        },
        Clue {
            group: "setup",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KubeletMisconfigured),
            text: "the kubelet's setup fits KubeVirt",
        },
        Clue {
            group: "end",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KubeletInactive, &[Fact::OneOf(RESULT, &["success"])]),
            text: "the kubelet was stopped, it did not fail",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &[
        "KvmDeviceInaccessible",
        "KubeletDown",
        "KubeletDegraded",
        "LauncherUnresponsive",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "ps -o args= -C kubelet | tr ' ' '\\n' | grep -E \
                 'root-dir|cpu-manager|topology|feature-gates|config'; cat /var/lib/kubelet/config.yaml",
            ),
            Step::Any(
                "mount --bind ROOT_DIR /var/lib/kubelet   # another --root-dir: make it appear there, \
                 then restart kubelet and virt-handler",
            ),
            Step::Any(
                "rm /var/lib/kubelet/cpu_manager_state; systemctl restart kubelet   # a state that does \
                 not fit the policy or the CPUs; drain first",
            ),
        ],
        check: &[Step::KubeVirt("kubectl get --raw /api/v1/nodes/{node}/proxy/configz   # what it really runs with")],
        prevent: &[Step::Any(
            "one kubelet configuration for all nodes, checked when nodes join; keep --root-dir at \
                 /var/lib/kubelet",
        )],
    },
    runbook_item: "NotReady",
};
