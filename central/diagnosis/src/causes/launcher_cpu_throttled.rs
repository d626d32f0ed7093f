//! `LauncherCpuThrottled`: the compute container is throttled by its CPU limit.
//!
//! Proof is the container's own cpu.stat. Launcher, libvirt and QEMU share this limit, so starts and migrations become
//! slow and calls time out while the node is idle. A busy node is NodeCpuExhausted.

use kulprit_model::{
    FindingCode::{NodeCpuStalled, VmCpuThrottled},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The CPU limit of the launcher's compute container throttles launcher, libvirt and QEMU.
pub const LAUNCHER_CPU_THROTTLED: Cause = Cause {
    id: "LauncherCpuThrottled",
    meaning: "The CPU limit of the launcher's compute container throttles launcher, libvirt and \
QEMU.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Vm,
    class: Class::VirtStack,
    usual: &[SymptomId::StuckStarting, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::Unresponsive,
        SymptomId::StuckStopping,
        SymptomId::MigrationFailed,
        SymptomId::EvacuationBlocked,
    ],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::InError, SymptomId::StuckTerminating, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "throttle",
            strength: Strength::Proof,
            look: Look::Present(VmCpuThrottled, &[]),
            text: "the CPU limit of the compute container throttles it most of the time",
        },
        Clue {
            group: "throttle",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(VmCpuThrottled),
            text: "the compute container is not throttled",
        },
        Clue {
            group: "sync",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SYNC_VMI, operation::CONNECT_LAUNCHER]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "the launcher did not answer in time",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Present(NodeCpuStalled, &[]),
            text: "the node itself has no CPU left",
        },
    ],
    explains: &["MigrationNotConverging", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o \
jsonpath='{.items[*].spec.containers[?(@.name==\"compute\")].resources}'",
            ),
            Step::KubeVirt(
                "kubectl edit vm -n {namespace} {vm}   # raise or remove the CPU limit \
(spec.template.spec.domain.resources.limits.cpu), then restart",
            ),
        ],
        check: &[
            Step::Any(
                "cat /sys/fs/cgroup/$(grep -m1 -o \"kubepods.*\" /proc/{pid}/cgroup)/cpu.stat   # on \
{node}: nr_throttled against nr_periods",
            ),
            Step::KubeVirt(
                "kubectl get limitrange,resourcequota -n {namespace} -o yaml   # do they set a \
default limit?",
            ),
        ],
        prevent: &[Step::Any("no CPU limit on VMs, or dedicated CPUs; leave room for the emulator threads")],
    },
    runbook_item: "pod resource limits",
};
