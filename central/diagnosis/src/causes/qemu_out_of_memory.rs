//! `QemuOutOfMemory`: the kernel killed QEMU because its memory cgroup reached its limit.
//!
//! Proof is the kernel's `oom-kill:constraint=CONSTRAINT_MEMCG` line with QEMU's pid. An OOM of the whole node is another
//! matter, and speaks against.

use kulprit_model::{
    FindingCode::{
        LauncherContainerFailed, LauncherEvicted, LauncherOomKilled, LimitNearGuestMemory, MemcgOomKill, NodeOomKill,
        QemuExited,
    },
    attribute::{ACTOR, CLASS, COMM, CONTAINER, OPERATION, REASON, SIGNAL, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    causes::launcher_out_of_memory::BESIDE_QEMU,
    symptom::SymptomId,
};

/// QEMU was killed because the memory cgroup it runs in reached its limit.
pub const QEMU_OUT_OF_MEMORY: Cause = Cause {
    id: "QemuOutOfMemory",
    meaning: "QEMU was killed because the memory cgroup it runs in reached its limit.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::StoppedUnexpectedly, SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StuckMigrating,
        SymptomId::ExcessiveMigrations,
        SymptomId::StuckStarting,
    ],
    rare: &[SymptomId::Unspecified, SymptomId::StuckTerminating],
    clues: &[
        Clue {
            group: "oom",
            strength: Strength::Proof,
            look: Look::Happened(MemcgOomKill, &[Fact::Own, Fact::NoneOf(COMM, &BESIDE_QEMU)]),
            text: "the kernel killed QEMU because its memory cgroup reached its limit",
        },
        Clue {
            group: "death",
            strength: Strength::Some,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::OneOf(SIGNAL, &["9"])]),
            text: "QEMU ended by SIGKILL, as the OOM killer does it",
        },
        Clue {
            group: "oom",
            strength: Strength::StronglyAgainst,
            look: Look::NotHappened(MemcgOomKill),
            text: "the kernel log has no memory-cgroup OOM kill",
        },
        Clue {
            group: "node-oom",
            strength: Strength::Against,
            look: Look::Happened(NodeOomKill, &[Fact::Own]),
            text: "the whole node was out of memory, not the VM's cgroup",
        },
        Clue {
            group: "other-death",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(QemuExited, &[Fact::Own, Fact::NoneOf(SIGNAL, &["9"])]),
            text: "QEMU did not end by SIGKILL",
        },
        Clue {
            group: "alive",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "its QEMU is alive",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: Look::Happened(MemcgOomKill, &[Fact::Own, Fact::Missing(COMM)]),
            text: "the kernel killed a process of the VM because its memory cgroup reached its limit",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: Look::Present(
                LauncherContainerFailed,
                &[Fact::OneOf(CONTAINER, &["compute"]), Fact::OneOf(REASON, &["OOMKilled"])],
            ),
            text: "the container runtime says that the container QEMU runs in was OOMKilled",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: Look::Present(LauncherOomKilled, &[Fact::OneOf(CONTAINER, &["compute"])]),
            text: "the container that QEMU runs in says OOMKilled",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KERNEL, actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::RUN_GUEST, operation::KILL_CONTAINER]),
                Fact::OneOf(CLASS, &[class::KILLED, class::OUT_OF_MEMORY]),
                Fact::Not(SIGNATURE, &["system-oom"]),
                Fact::Own,
            ]),
            text: "an OOM kill of the pod is reported",
        },
        Clue {
            group: "room",
            strength: Strength::Some,
            look: Look::Present(LimitNearGuestMemory, &[]),
            text: "the pod's memory limit leaves no room for QEMU beside the guest",
        },
        Clue {
            group: "other-process",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(MemcgOomKill, &[Fact::Own, Fact::OneOf(COMM, &BESIDE_QEMU)]),
            text: "it was another process of the pod that was killed",
        },
        Clue {
            group: "eviction",
            strength: Strength::Against,
            look: Look::Present(LauncherEvicted, &[]),
            text: "the kubelet evicted the pod",
        },
    ],
    explains: &["QemuCrashed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Standalone(
                "virsh memtune {vm}   # hard_limit must leave room for QEMU itself, not only the guest's \
                 memory",
            ),
            Step::Standalone("virsh memtune {vm} --hard-limit $((LIMIT_KIB)) --config && virsh start {vm}"),
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o \
                 jsonpath='{.spec.domain.resources}{.spec.domain.memory}'   # raise the limit, or remove it",
            ),
            Step::KubeVirt(
                "kubectl patch kubevirt kubevirt -n kubevirt --type merge -p \
                 '{\"spec\":{\"configuration\":{\"additionalGuestMemoryOverheadRatio\":\"1.5\"}}}'",
            ),
        ],
        check: &[
            Step::Any(
                "dmesg -T | grep -B 40 'oom-kill:' | tail -n 60   # the memory table shows what grew: anon is \
                 guest memory and QEMU's heap",
            ),
            Step::Any("devices that cost host memory: vhost, VFIO, virtiofs, many disks or queues, video memory"),
        ],
        prevent: &[Step::Any(
            "leave QEMU at least 256 MiB plus 2 % of the guest's memory beyond the guest's own; better no \
             limit than one equal to it",
        )],
    },
    runbook_item: "pod resource limits",
};
