//! `SecurityPolicyDenied`: SELinux, AppArmor or seccomp refuses something to the launcher, libvirt or QEMU.
//!
//! Proof is an enforced denial in the kernel's or audit's log; a denial that is only logged (permissive, ALLOWED) is
//! none. "Permission denied" alone may be plain file permission (VolumePermissionDenied), and EPERM on a device is the
//! device cgroup.

use kulprit_model::{
    FindingCode::{SecurityDenied, SelinuxNotEnforcing},
    attribute::{CLASS, COMM, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// SELinux, AppArmor or seccomp denies something to the launcher, libvirt or QEMU.
pub const SECURITY_POLICY_DENIED: Cause = Cause {
    id: "SecurityPolicyDenied",
    meaning: "SELinux, AppArmor or seccomp denies something to the launcher, libvirt or QEMU.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::VirtStack,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::StuckMigrating,
        SymptomId::PausedUnexpectedly,
        SymptomId::StoppedUnexpectedly,
        SymptomId::EvacuationBlocked,
        SymptomId::Unresponsive,
    ],
    rare: &[
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::ExcessiveMigrations,
        SymptomId::Unspecified,
    ],
    clues: &[
        Clue {
            group: "denial",
            strength: Strength::Proof,
            look: Look::Happened(SecurityDenied, &[Fact::Own]),
            text: "an LSM denied something to this VM's QEMU or launcher",
        },
        Clue {
            group: "denial",
            strength: Strength::Proof,
            look: Look::Happened(
                SecurityDenied,
                &[Fact::OneOf(
                    COMM,
                    &[
                        "qemu-kvm",
                        "qemu-system-x86",
                        "CPU 0/KVM",
                        "virtqemud",
                        "libvirtd",
                        "rpc-virtqemud",
                        "rpc-libvirtd",
                        "prio-rpc-virtqe",
                        "rpc-worker",
                        "prio-rpc-worker",
                        "virt-launcher",
                        "virt-launcher-m",
                        "container-disk",
                        "virtlogd",
                        "swtpm",
                        "passt",
                        "virtiofsd",
                        "virt-handler",
                        "virt-chroot",
                        "node-labeller",
                    ],
                )],
            ),
            text: "an LSM denied something to QEMU, libvirt or a launcher of the node",
        },
        Clue {
            group: "denial",
            strength: Strength::Some,
            look: Look::Happened(SecurityDenied, &[]),
            text: "an LSM denied something on the node",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["keycreate-refused", "selinux-label-failed"])]),
            text: "the security label of the pod or the domain is refused",
        },
        Clue {
            group: "denial",
            strength: Strength::Against,
            look: Look::NotHappened(SecurityDenied),
            text: "no LSM denial was logged",
        },
        // AppArmor and seccomp may deny all the same.
        Clue {
            group: "selinux",
            strength: Strength::Against,
            look: Look::Present(SelinuxNotEnforcing, &[]),
            text: "SELinux denies nothing on the node",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::CREATE_SANDBOX,
                        operation::CREATE_CONTAINER,
                        operation::START_DOMAIN,
                        operation::FORK,
                        operation::DEFINE_DOMAIN,
                        operation::SYNC_VMI,
                        operation::CONNECT_LIBVIRT,
                        operation::CONNECT_LAUNCHER,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::DENIED, class::NOT_PERMITTED]),
                Fact::Not(SIGNATURE, &["launcher-capabilities-missing"]),
            ]),
            text: "starting something of the pod or the domain is denied",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::OPEN_IMAGE,
                        operation::READ_WRITE,
                        operation::MIGRATE_PREPARE,
                        operation::LOAD_STATE,
                        operation::HOTPLUG,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::DENIED]),
            ]),
            text: "opening something is denied",
        },
        Clue {
            group: "quota",
            strength: Strength::Against,
            look: said(&[Fact::OneOf(OPERATION, &[operation::CREATE_POD])]),
            text: "the API server refused the pod, not the node",
        },
    ],
    explains: &[
        "KvmDeviceInaccessible",
        "VirtHandlerDown",
        "LauncherContainerFailed",
        "VolumePermissionDenied",
        "MigrationTargetPodFailed",
    ],
    advice: Advice {
        now: &[
            Step::Any(
                "ausearch -m avc,seccomp -ts recent 2>/dev/null || dmesg -T | grep -iE 'avc: \
+denied|apparmor=\"DENIED\"|type=1326' | tail -n 20   # on {node}",
            ),
            Step::Any("ausearch -m avc -ts recent | audit2why   # what rule is missing"),
            Step::Any(
                "restorecon -Rv PATH, or load the missing policy module; the same policy on every \
node; do not switch enforcement off for good",
            ),
        ],
        check: &[
            Step::Any("getenforce; ps -eZ | grep -e qemu -e virt-launcher; ls -Z /dev/kvm   # on {node}"),
            Step::Any(
                "aa-status | grep -i -e cri -e libvirt; the seccomp profile that the kubelet or the \
pod sets",
            ),
        ],
        prevent: &[Step::Any(
            "the distribution's container-selinux and KubeVirt's policy on every node; try new \
policies in permissive mode first",
        )],
    },
    runbook_item: "security policy violations",
};
