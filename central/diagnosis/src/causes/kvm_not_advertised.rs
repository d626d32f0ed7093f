//! `KvmNotAdvertised`: KVM works on the node and pods cannot have it: `devices.kubevirt.io/kvm` is 0 or absent, because
//! the device plugin of virt-handler did not register, or kubelet lost it. A missing /dev/kvm (`KvmDeviceMissing`) or a
//! kubelet that has just restarted (`KubeletRestarted`) explains the same number.

use kulprit_model::{
    FindingCode::{
        DevicePluginMissing, DevicesNotAllocatable, KvmDeviceMissing, KvmNotAllocatable, KvmUnusable,
        LauncherContainerNotReady, PodUnschedulable,
    },
    attribute::{ACTOR, CLASS, OBJECT, OPERATION, REASON, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// KVM works on the node, yet KubeVirt's device plugin does not offer it to pods.
pub const KVM_NOT_ADVERTISED: Cause = Cause {
    id: "KvmNotAdvertised",
    meaning: "KVM works on the node, yet KubeVirt's device plugin does not offer it to pods.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Hypervisor,
    usual: &[SymptomId::StuckStarting, SymptomId::InError],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unspecified,
        SymptomId::StoppedUnexpectedly,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "node",
            strength: Strength::Strong,
            look: Look::Present(KvmNotAllocatable, &[Fact::OneOf(WHAT, &["absent"])]),
            text: "the node never offered KVM",
        },
        Clue {
            group: "node",
            strength: Strength::Good,
            look: Look::Present(KvmNotAllocatable, &[]),
            text: "the node offers no KVM",
        },
        Clue {
            group: "node",
            strength: Strength::Proof,
            look: Look::All(&[Look::Present(KvmNotAllocatable, &[]), Look::Absent(KvmDeviceMissing)]),
            text: "the node offers no KVM, though /dev/kvm is there",
        },
        Clue {
            group: "node",
            strength: Strength::Strong,
            look: Look::Present(DevicesNotAllocatable, &[]),
            text: "the node offers none of KubeVirt's devices",
        },
        Clue {
            group: "node",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(DevicesNotAllocatable, &[]),
                said(&[
                    Fact::OneOf(OPERATION, &[operation::SCHEDULE, operation::ALLOCATE_DEVICE, operation::ADMIT_POD]),
                    Fact::OneOf(CLASS, &[class::INSUFFICIENT, class::UNAVAILABLE, class::NOT_FOUND]),
                ]),
            ]),
            text: "the node offers none of KubeVirt's devices, and a pod misses them",
        },
        Clue {
            group: "node",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(DevicesNotAllocatable, &[]),
                Look::Present(PodUnschedulable, &[Fact::OneOf(REASON, &["device"])]),
            ]),
            text: "the node offers none of KubeVirt's devices, and a pod misses them",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: Look::Present(
                PodUnschedulable,
                &[Fact::OneOf(REASON, &["device"]), Fact::OneOf(OBJECT, &["devices.kubevirt.io/kvm"])],
            ),
            text: "no node offers KVM",
        },
        Clue {
            group: "plugin",
            strength: Strength::Strong,
            look: Look::Present(DevicePluginMissing, &[]),
            text: "no socket of KubeVirt's device plugins is in kubelet's folder",
        },
        Clue {
            group: "plugin",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::REGISTER_PLUGIN]),
                Fact::Not(SIGNATURE, &["device-plugin-gone"]),
            ]),
            text: "the device plugin could not register",
        },
        Clue {
            group: "plugin",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["device-plugin-failed", "device-plugin-unregistered"])]),
            text: "the device plugin is not registered with the kubelet",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["unschedulable-kvm"])]),
            text: "no node offers KVM",
        },
        Clue {
            group: "others",
            strength: Strength::Against,
            look: Look::All(&[Look::Present(KvmNotAllocatable, &[]), Look::Absent(DevicesNotAllocatable)]),
            text: "the node offers KubeVirt's other devices, so its plugins are registered",
        },
        Clue {
            group: "pod",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(LauncherContainerNotReady),
            text: "the launcher pod runs, and got its device",
        },
        Clue {
            group: "device",
            strength: Strength::StronglyAgainst,
            look: Look::Present(KvmDeviceMissing, &[]),
            text: "/dev/kvm itself is missing",
        },
        Clue {
            group: "device",
            strength: Strength::Against,
            look: Look::Present(KvmUnusable, &[]),
            text: "KVM itself does not work",
        },
        Clue {
            group: "node",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KvmNotAllocatable),
            text: "the node offers KVM",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
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
            Step::KubeVirt(
                "kubectl get node {node} -o \
                 jsonpath='{.status.capacity}{\"\\n\"}{.status.allocatable}'   # kvm, tun, vhost-net: \
                 absent, 0 or 1k",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n kubevirt -l kubevirt.io=virt-handler --field-selector \
                 spec.nodeName={node}   # it registers its plugins again; VMs keep running",
            ),
        ],
        check: &[
            Step::Any(
                "ls -l /var/lib/kubelet/device-plugins/ /dev/kvm; journalctl -u kubelet --since '-1 h' \
                 --no-pager | grep -i 'device plugin' | tail",
            ),
            Step::KubeVirt(
                "kubectl logs -n kubevirt -l kubevirt.io=virt-handler --tail=500 | grep -iE 'device \
                 plugin|kvm' | tail",
            ),
        ],
        prevent: &[Step::Any(
            "an alert on allocatable devices.kubevirt.io/kvm of 0; keep kubelet's root directory \
                 where virt-handler looks for it",
        )],
    },
    runbook_item: "KVM acceleration",
};
