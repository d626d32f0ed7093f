//! `LauncherLimitReached`: a limit of the launcher or QEMU other than its memory cgroup is reached: locked memory
//! (VFIO, RDMA, hugepages pinned), address space, process ids of the pod, open files. The node's own limits are
//! `NodePidsExhausted` and `NodeKernelLimitReached`.

use kulprit_model::{
    FindingCode::{
        ForkRejected, HugepagesExhausted, KernelLimitReached, LauncherLimitReached, NodeMemoryStalled, PidsExhausted,
    },
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A limit of the launcher or QEMU is reached: locked memory, address space, processes or files.
pub const LAUNCHER_LIMIT_REACHED: Cause = Cause {
    id: "LauncherLimitReached",
    meaning: "A limit of the launcher or QEMU is reached: locked memory, address space, processes or \
                 files.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::StoppedUnexpectedly,
        SymptomId::StuckMigrating,
        SymptomId::Unresponsive,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::PausedUnexpectedly, SymptomId::StuckTerminating, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "limit",
            strength: Strength::Proof,
            look: Look::Present(LauncherLimitReached, &[]),
            text: "a limit of the launcher or QEMU is reached",
        },
        Clue {
            group: "fork",
            strength: Strength::Strong,
            look: Look::Happened(ForkRejected, &[Fact::Own]),
            text: "the kernel refused the pod a new process",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER]),
                Fact::Not(OPERATION, &[operation::WATCH_FILES]),
                Fact::OneOf(CLASS, &[class::LIMIT]),
                Fact::Not(SIGNATURE, &["aio-limit"]),
            ]),
            text: "QEMU or its launcher ran into a limit",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER]),
                Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE]),
                Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY, class::LIMIT]),
            ]),
            text: "QEMU could not lock the guest's memory for a device",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["locked-memory-limit", "guest-memory-unlock-failed"])]),
            text: "QEMU could not lock the guest's memory",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["container-pids-limit"])]),
            text: "the pids limit of the container refused a process",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN, operation::HOTPLUG, operation::MIGRATE]),
                Fact::OneOf(CLASS, &[class::OUT_OF_MEMORY]),
            ]),
            text: "QEMU was refused memory",
        },
        Clue {
            group: "limit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(LauncherLimitReached),
            text: "no limit of the launcher is reached",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Present(KernelLimitReached, &[]),
            text: "it is a limit of the whole node",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Present(PidsExhausted, &[]),
            text: "it is the whole node that has no process ids left",
        },
        Clue {
            group: "pages",
            strength: Strength::Against,
            look: Look::Present(HugepagesExhausted, &[]),
            text: "the node has no free hugepages",
        },
        Clue {
            group: "pressure",
            strength: Strength::Against,
            look: Look::Present(NodeMemoryStalled, &[]),
            text: "the whole node is short of memory",
        },
    ],
    explains: &["QemuCrashed", "LauncherContainerFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "grep -E 'locked memory|open files|processes|address space' /proc/{pid}/limits; grep -E \
                 'VmLck|Threads' /proc/{pid}/status",
            ),
            Step::Any("cat /sys/fs/cgroup/$(cut -d: -f3 /proc/{pid}/cgroup | tail -1)/pids.{current,max,events}"),
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o \
                 jsonpath='{.spec.domain.devices.hostDevices}{.spec.domain.devices.gpus}{.spec.domain.resources}'   \
                 # each VFIO device pins all guest memory",
            ),
        ],
        check: &[Step::KubeVirt(
            "kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} -c compute --tail=100 | grep \
                 -iE 'lock|limit|resource temporarily|too many'",
        )],
        prevent: &[Step::Any(
            "podPidsLimit high enough for threads of large VMs; request equal to limit for VMs with \
                 host devices; LimitMEMLOCK=infinity of the runtime's unit",
        )],
    },
    runbook_item: "pod resource limits",
};
