//! `NodeCpuExhausted`: more runs on the node than its CPUs can do. Pressure alone proves nothing: a host with 65 % CPU
//! pressure migrated in 6 s. It takes a starved VM beside it: a sync that gets no answer, a stalled kernel, a migration
//! that crawls. A launcher that its own limit throttles is `LauncherCpuThrottled`.

use kulprit_model::{
    FindingCode::{KernelStalled, MigrationIncoming, MigrationSlow, NodeCpuStalled, VmCpuThrottled, VmStalled},
    attribute::{
        CLASS, LIMITED_BY, LIMITED_BY_CAP, LIMITED_BY_GUEST, LIMITED_BY_PATH, LIMITED_BY_SOURCE_CPU,
        LIMITED_BY_STORAGE, LIMITED_BY_TARGET, MEASURED, OPERATION, WHAT,
    },
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// The node's CPUs are exhausted: what must run waits for a CPU.
pub const NODE_CPU_EXHAUSTED: Cause = Cause {
    id: "NodeCpuExhausted",
    meaning: "The node's CPUs are exhausted: what must run waits for a CPU.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::Unresponsive,
        SymptomId::ExcessiveMigrations,
    ],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::InError,
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::Unspecified,
    ],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::EvacuationBlocked, SymptomId::PausedUnexpectedly],
    clues: &[
        Clue {
            group: "pressure",
            strength: Strength::Good,
            look: Look::Present(NodeCpuStalled, &[]),
            text: "tasks of the node wait for a CPU",
        },
        Clue {
            group: "pressure",
            strength: Strength::Strong,
            look: Look::All(&[
                Look::Present(NodeCpuStalled, &[]),
                said(&[
                    Fact::OneOf(
                        OPERATION,
                        &[
                            operation::SYNC_VMI,
                            operation::CONNECT_LAUNCHER,
                            operation::RUN_GUEST,
                            operation::START_DOMAIN,
                            operation::DEFINE_DOMAIN,
                            operation::MONITOR,
                            operation::RUN_GUEST_AGENT,
                            operation::REPORT_STATUS,
                            operation::LIST_PODS,
                        ],
                    ),
                    Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK, class::UNAVAILABLE]),
                ]),
            ]),
            text: "tasks of the node wait for a CPU, and what KubeVirt asks of the VM gets no answer in \
                 time",
        },
        Clue {
            group: "pressure",
            strength: Strength::Strong,
            look: Look::Present(NodeCpuStalled, &[Fact::AtLeast(MEASURED, 90)]),
            text: "nearly all the time some task of the node waits for a CPU",
        },
        Clue {
            group: "stall",
            strength: Strength::Hint,
            look: Look::Happened(KernelStalled, &[]),
            text: "the kernel logged a stalled CPU",
        },
        Clue {
            group: "slow",
            strength: Strength::Good,
            look: Look::All(&[
                Look::Present(MigrationSlow, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_SOURCE_CPU])]),
                Look::Vm(VmFact::LeavesHere),
            ]),
            text: "the thread that copies the guest waits for a CPU, and the migration is slow",
        },
        Clue {
            group: "slow",
            strength: Strength::Good,
            look: Look::All(&[
                Look::Present(MigrationSlow, &[]),
                Look::Present(MigrationIncoming, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_TARGET])]),
                Look::Vm(VmFact::ArrivesHere),
            ]),
            text: "the thread that takes the guest in waits for a CPU, and the migration is slow",
        },
        Clue {
            group: "slow",
            strength: Strength::Some,
            look: Look::Present(
                MigrationSlow,
                &[Fact::Not(
                    LIMITED_BY,
                    &[LIMITED_BY_CAP, LIMITED_BY_GUEST, LIMITED_BY_PATH, LIMITED_BY_SOURCE_CPU, LIMITED_BY_STORAGE],
                )],
            ),
            text: "a migration copies slowly",
        },
        Clue {
            group: "slow",
            strength: Strength::Some,
            look: Look::All(&[
                Look::Present(MigrationSlow, &[Fact::OneOf(LIMITED_BY, &[LIMITED_BY_PATH])]),
                Look::Vm(VmFact::ArrivesHere),
            ]),
            text: "what was sent waits for the path, or for this node behind it",
        },
        Clue {
            group: "slow",
            strength: Strength::Some,
            look: Look::Present(VmStalled, &[Fact::OneOf(WHAT, &["cpu"])]),
            text: "the VM's threads wait for a CPU nearly all the time",
        },
        Clue {
            group: "slow",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::SYNC_VMI, operation::CONNECT_LAUNCHER]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "the launcher does not answer virt-handler in time",
        },
        Clue {
            group: "pressure",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(NodeCpuStalled),
            text: "no task of the node waits long for a CPU",
        },
        Clue {
            group: "limit",
            strength: Strength::Against,
            look: Look::Present(VmCpuThrottled, &[]),
            text: "its own CPU limit throttles the launcher",
        },
    ],
    explains: &["KubeletDegraded", "ContainerRuntimeHung", "LauncherUnresponsive", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "top -b -n1 -o %CPU | head -n 30   # who uses the CPUs; `st` in the head line: the \
                 hypervisor above takes them",
            ),
            Step::KubeVirt(
                "virtctl migrate -n {namespace} {vm}   # take load off {node}; a starved migration may \
                 need allowAutoConverge",
            ),
        ],
        check: &[
            Step::Any("cat /proc/pressure/cpu; vmstat 1 5; uptime"),
            Step::KubeVirt(
                "kubectl describe node {node} | sed -n '/Allocated resources/,/Events/p'   # requests \
                 against what the node has",
            ),
            Step::Any(
                "for t in /proc/{pid}/task/*; do echo \"$(cat $t/comm) $(cat $t/schedstat)\"; done   # \
                 second number: waited, ns",
            ),
        ],
        prevent: &[
            Step::Any(
                "reserve CPUs for the system (systemReserved, reservedSystemCPUs) and use \
                 dedicatedCpuPlacement for VMs that must not wait",
            ),
            Step::Any("lower cpuAllocationRatio in KubeVirt's configuration, or request CPU for other pods"),
        ],
    },
    runbook_item: "node resource exhaustion",
};
