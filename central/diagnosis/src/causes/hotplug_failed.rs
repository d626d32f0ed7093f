//! `HotplugFailed`: plugging something in or out left the domain and the VM's status apart.
//!
//! Told by libvirt's or QEMU's answer to the hot-plug, or by virt-handler. An EPERM that follows on a block device is
//! the device cgroup; a volume that only waits for its attachment pod is a matter of that pod.

use kulprit_model::{
    attribute::{ACTOR, OPERATION},
    said::{actor, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// Hot-plugging or unplugging a device left the domain inconsistent.
pub const HOTPLUG_FAILED: Cause = Cause {
    id: "HotplugFailed",
    meaning: "Hot-plugging or unplugging a device left the domain inconsistent.",
    roles: &[Role::Hosting, Role::Source],
    scope: Scope::Vm,
    class: Class::VirtStack,
    usual: &[SymptomId::StuckMigrating, SymptomId::StuckStopping],
    possible: &[
        SymptomId::InError,
        SymptomId::StuckStarting,
        SymptomId::MigrationFailed,
        SymptomId::PausedUnexpectedly,
        SymptomId::EvacuationBlocked,
        SymptomId::Unresponsive,
    ],
    rare: &[
        SymptomId::StuckTerminating,
        SymptomId::StoppedUnexpectedly,
        SymptomId::ExcessiveMigrations,
        SymptomId::Unspecified,
    ],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::QEMU, actor::HANDLER, actor::LAUNCHER]),
                Fact::OneOf(OPERATION, &[operation::HOTPLUG]),
            ]),
            text: "plugging a device into the domain or out of it failed",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(OPERATION, &[operation::HOTPLUG])]),
            text: "a hot-plug failed",
        },
        Clue {
            group: "qemu",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuGone),
            text: "there is no QEMU to plug anything into",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o jsonpath='{range \
.status.volumeStatus[*]}{.name} {.phase} {.message}{\"\\n\"}{end}'",
            ),
            Step::KubeVirt("kubectl get pod -n {namespace} -o wide | grep hp-volume   # attachment pods"),
            Step::KubeVirt(
                "virtctl removevolume -n {namespace} {vm} --volume-name VOLUME   # what did not \
arrive; else restart the VM in a quiet hour",
            ),
            Step::Standalone("virsh domblklist {vm}; virsh detach-disk {vm} TARGET --live"),
        ],
        check: &[
            Step::KubeVirt("kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} -c compute --tail=200"),
            Step::Any("the guest must let go of a device before it can be unplugged: unmount it inside"),
        ],
        prevent: &[Step::Any(
            "wait until a volume is Ready before it is removed again; leave free PCI slots for \
hot-plug",
        )],
    },
    runbook_item: "hot-plug operations",
};
