//! `LauncherOutOfMemory`: the memory limit of the launcher pod hit another process than QEMU: virt-launcher, libvirt, a
//! sidecar. The kernel takes the biggest process, for small guests that is virt-launcher. When it names QEMU it is
//! `QemuOutOfMemory`.

use kulprit_model::{
    FindingCode::{LauncherContainerFailed, LauncherOomKilled, MemcgOomKill, NodeOomKill},
    attribute::{COMM, CONTAINER, REASON, SIGNATURE},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// Processes of a launcher pod beside QEMU, as the kernel cuts their names (virt-launcher-monitor is `virt-launcher-m`).
pub(super) const BESIDE_QEMU: [&str; 10] = [
    "virt-launcher",
    "virt-launcher-m",
    "virtqemud",
    "libvirtd",
    "virtlogd",
    "rpc-virtqemud",
    "rpc-libvirtd",
    "swtpm",
    "passt",
    "virtiofsd",
];

/// A process of the launcher pod beside QEMU was killed because of the pod's memory limit.
pub const LAUNCHER_OUT_OF_MEMORY: Cause = Cause {
    id: "LauncherOutOfMemory",
    meaning: "A process of the launcher pod beside QEMU was killed because of the pod's memory limit.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[
        SymptomId::StoppedUnexpectedly,
        SymptomId::MigrationFailed,
        SymptomId::StuckMigrating,
        SymptomId::Unresponsive,
        SymptomId::ExcessiveMigrations,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::StuckTerminating, SymptomId::StuckStopping],
    clues: &[
        Clue {
            group: "oom",
            strength: Strength::Proof,
            look: Look::Happened(MemcgOomKill, &[Fact::Own, Fact::OneOf(COMM, &BESIDE_QEMU)]),
            text: "the kernel killed a process of the launcher because its memory cgroup reached its limit",
        },
        Clue {
            group: "oom",
            strength: Strength::Good,
            look: Look::All(&[
                Look::Happened(MemcgOomKill, &[Fact::Own, Fact::Missing(COMM)]),
                Look::Vm(VmFact::QemuLives),
            ]),
            text: "a process of the VM was killed for memory, and QEMU lives",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: Look::Present(
                LauncherContainerFailed,
                &[Fact::NoneOf(CONTAINER, &["compute"]), Fact::OneOf(REASON, &["OOMKilled"])],
            ),
            text: "the container runtime says that a container beside the launcher's own was OOMKilled",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: Look::Present(LauncherOomKilled, &[Fact::NoneOf(CONTAINER, &["compute"])]),
            text: "a container beside QEMU's says OOMKilled",
        },
        Clue {
            group: "oom",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["container-memory-too-low"])]),
            text: "the container was killed for memory when it started",
        },
        Clue {
            group: "oom",
            strength: Strength::Some,
            look: Look::Present(LauncherOomKilled, &[]),
            text: "a container of the launcher says OOMKilled",
        },
        Clue {
            group: "oom",
            strength: Strength::StronglyAgainst,
            look: Look::NotHappened(MemcgOomKill),
            text: "the kernel log has no memory-cgroup OOM kill",
        },
        Clue {
            group: "qemu",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(MemcgOomKill, &[Fact::Own, Fact::NoneOf(COMM, &BESIDE_QEMU)]),
            text: "the kernel killed QEMU itself",
        },
        Clue {
            group: "node-oom",
            strength: Strength::Against,
            look: Look::Happened(NodeOomKill, &[Fact::Own]),
            text: "the whole node was out of memory",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &[
        "LibvirtDaemonDown",
        "LauncherUnresponsive",
        "LauncherContainerFailed",
        "QemuKilled",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o jsonpath='{range \
                 .items[*].status.containerStatuses[*]}{.name} {.lastState.terminated.reason} \
                 {.state}{\"\\n\"}{end}'   # which container",
            ),
            Step::KubeVirt(
                "kubectl patch kubevirt kubevirt -n kubevirt --type merge -p \
                 '{\"spec\":{\"configuration\":{\"additionalGuestMemoryOverheadRatio\":\"1.5\"}}}'",
            ),
        ],
        check: &[Step::Any(
            "dmesg -T | grep -B 40 'oom-kill:' | tail -n 60   # the table of processes: what was \
                 big, what was killed",
        )],
        prevent: &[Step::Any(
            "no memory limit on VMs, or one with room for launcher and sidecars \
                 (supportContainerResources in KubeVirt's configuration)",
        )],
    },
    runbook_item: "pod resource limits",
};
