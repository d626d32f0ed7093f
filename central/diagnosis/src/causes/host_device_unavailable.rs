//! `HostDeviceUnavailable`: a host device that the VM asks for (VFIO, GPU, SR-IOV, mediated) is busy, bound to another
//! driver, or the IOMMU is off. Locked memory that does not suffice for it is `LauncherLimitReached`, an EPERM of the
//! device cgroup `DeviceCgroupDenied`.

use kulprit_model::{
    FindingCode::{DeviceNotBoundToVfio, HostDeviceNotAllocatable, IommuMissing, PodUnschedulable},
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// A host device that the VM asks for is not to be had on the node.
pub const HOST_DEVICE_UNAVAILABLE: Cause = Cause {
    id: "HostDeviceUnavailable",
    meaning: "A host device that the VM asks for is not to be had on the node.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStarting, SymptomId::InError],
    possible: &[
        SymptomId::StoppedUnexpectedly,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "driver",
            strength: Strength::Strong,
            look: Look::Present(DeviceNotBoundToVfio, &[]),
            text: "a device that VMs are to get is bound to another driver",
        },
        Clue {
            group: "iommu",
            // True of most nodes for ever, and of no weight for a VM that asks for no host device: it only makes another clue surer.
            strength: Strength::Hint,
            look: Look::Present(IommuMissing, &[]),
            text: "the node has no IOMMU groups",
        },
        Clue {
            group: "node",
            strength: Strength::Strong,
            look: Look::Present(HostDeviceNotAllocatable, &[]),
            text: "the node does not offer the device",
        },
        Clue {
            group: "schedule",
            strength: Strength::Good,
            look: Look::Present(
                PodUnschedulable,
                &[
                    Fact::OneOf(REASON, &["device"]),
                    Fact::NoneOf(
                        OBJECT,
                        &["devices.kubevirt.io/kvm", "devices.kubevirt.io/tun", "devices.kubevirt.io/vhost-net"],
                    ),
                ],
            ),
            text: "no node offers the device",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER, actor::KERNEL]),
                Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE]),
                Fact::Not(CLASS, &[class::OUT_OF_MEMORY, class::LIMIT, class::NOT_PERMITTED]),
                Fact::Not(SIGNATURE, &["tun-open-failed", "vhost-open-failed", "locked-memory-limit"]),
            ]),
            text: "QEMU did not get the device",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER, actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE]),
                Fact::OneOf(
                    CLASS,
                    &[class::BUSY, class::NOT_FOUND, class::UNSUPPORTED, class::INVALID, class::IO_ERROR],
                ),
            ]),
            text: "the node could not give the device",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER]),
                    Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE, operation::START_DOMAIN]),
                ]),
                Look::Present(DeviceNotBoundToVfio, &[]),
            ]),
            text: "QEMU did not get the device: another driver has it",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                // Only of a device: most nodes have no IOMMU, and a QEMU that does not start there has other reasons.
                said(&[
                    Fact::OneOf(ACTOR, &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER]),
                    Fact::OneOf(OPERATION, &[operation::ALLOCATE_DEVICE]),
                ]),
                Look::Present(IommuMissing, &[]),
            ]),
            text: "QEMU did not get the device: the node has no IOMMU",
        },
        Clue {
            group: "driver",
            strength: Strength::Against,
            look: Look::Absent(DeviceNotBoundToVfio),
            text: "the devices for VMs are bound to vfio-pci",
        },
        Clue {
            group: "node",
            strength: Strength::Against,
            look: Look::Absent(HostDeviceNotAllocatable),
            text: "the node offers the device",
        },
        Clue {
            group: "runs",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::QemuLives),
            text: "this VM's QEMU runs, and got what it needed when it started",
        },
    ],
    explains: &["Unschedulable", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("lspci -nnk | grep -A 3 -iE 'vga|3d|ethernet|nvme'   # driver in use: must be vfio-pci"),
            Step::Any(
                "find /sys/kernel/iommu_groups/ -type l | head; grep -oE '(intel|amd)_iommu=[^ ]+' \
                 /proc/cmdline",
            ),
            Step::KubeVirt(
                "kubectl get node {node} -o jsonpath='{.status.allocatable}'; kubectl get kubevirt -n \
                 kubevirt kubevirt -o jsonpath='{.spec.configuration.permittedHostDevices}'",
            ),
        ],
        check: &[Step::Any(
            "fuser -v /dev/vfio/* 2>/dev/null; dmesg -T | grep -iE 'vfio|iommu|DMAR' | tail -n 30   \
                 # who holds it, did its reset fail",
        )],
        prevent: &[Step::Any(
            "driverctl set-override or vfio-pci.ids= on the kernel command line with iommu=on; count \
                 devices per node against VMs",
        )],
    },
    runbook_item: "hardware compatibility",
};
