//! `ContainerRuntimeHung`: containerd or CRI-O takes calls and does not answer in time, or answers for one container
//! only: shims that hang, names that stay reserved. A shallow `crictl ps` may still work. A container that cannot be
//! killed because QEMU is in state D is `QemuBlockedInKernel`.

use kulprit_model::{
    FindingCode::{QemuThreadBlocked, RuntimeInactive, RuntimeShimStuck, RuntimeUnresponsive},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The container runtime of the node does not answer in time, or not for this pod.
pub const CONTAINER_RUNTIME_HUNG: Cause = Cause {
    id: "ContainerRuntimeHung",
    meaning: "The container runtime of the node does not answer in time, or not for this pod.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckTerminating, SymptomId::StuckStopping, SymptomId::InError],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::ExcessiveMigrations,
        SymptomId::Unresponsive,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "call",
            strength: Strength::Proof,
            look: Look::Present(RuntimeUnresponsive, &[]),
            text: "the runtime does not answer",
        },
        Clue {
            group: "shim",
            strength: Strength::Strong,
            look: Look::Present(RuntimeShimStuck, &[]),
            text: "a shim of the runtime is blocked or a zombie",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::CREATE_CONTAINER]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::EXISTS]),
            ]),
            text: "creating a container takes the runtime too long, and its name stays reserved",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::CREATE_SANDBOX, operation::KILL_CONTAINER]),
                Fact::OneOf(CLASS, &[class::EXISTS]),
            ]),
            text: "the runtime still holds the name of a sandbox that it did not finish",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::LIST_PODS]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
                Fact::Not(SIGNATURE, &["pleg-unhealthy"]),
            ]),
            text: "the runtime does not list its pods in time",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::CREATE_SANDBOX, operation::KILL_CONTAINER, operation::RECLAIM]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK, class::BUSY]),
            ]),
            text: "the runtime does not create or end a sandbox in time",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["pleg-unhealthy"])]),
            text: "the kubelet's PLEG is not healthy",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["container-shim-failed", "container-cgroup-failed"])]),
            text: "the runtime could not start a shim or its cgroup",
        },
        Clue {
            group: "call",
            strength: Strength::Against,
            look: Look::Absent(RuntimeUnresponsive),
            text: "the runtime answers simple calls",
        },
        Clue {
            group: "down",
            strength: Strength::Against,
            look: Look::Present(RuntimeInactive, &[]),
            text: "the runtime does not run at all",
        },
        Clue {
            group: "qemu",
            strength: Strength::Against,
            look: Look::Present(QemuThreadBlocked, &[]),
            text: "QEMU itself cannot be killed: a thread of it is blocked in the kernel",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &["KubeletDegraded", "LauncherContainerFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "timeout 10 crictl ps; timeout 10 crictl pods; timeout 10 crictl info | head -n 40   # \
                 which call hangs",
            ),
            Step::Any(
                "ps -eo pid,stat,wchan:32,args | grep -E 'containerd-shim|conmon|runc|crun' | grep -E ' \
                 (D|Z)'",
            ),
            Step::Any(
                "systemctl restart containerd || systemctl restart crio   # running containers and QEMUs \
                 stay",
            ),
        ],
        check: &[
            Step::Any(
                "cat /proc/pressure/io; iostat -x 1 3   # a slow disk under /var/lib/containerd makes \
                 every create time out",
            ),
            Step::Any(
                "journalctl -u containerd -u crio -u kubelet --since '-30 min' --no-pager | grep -iE \
                 'deadline|reserved|PLEG' | tail -n 50",
            ),
        ],
        prevent: &[Step::Any(
            "a fast disk of its own for the runtime; maxParallelImagePulls and few pods at once; \
                 keep runtime and kernel current",
        )],
    },
    runbook_item: "container runtime",
};
