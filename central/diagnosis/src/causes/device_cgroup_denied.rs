//! `DeviceCgroupDenied`: the device cgroup refuses a device that QEMU needs: EPERM ("Operation not permitted") on a
//! block or character device. A systemd reload, a cpuset change or a hot-plug rewrote the filter. EACCES ("Permission
//! denied") is `VolumePermissionDenied` or `SecurityPolicyDenied`, an EPERM of chown is the export's doing.

use kulprit_model::{
    FindingCode::{BlockIoError, DeviceForbidden, DomainIoError, SecurityDenied},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The device cgroup of the launcher refuses a device that QEMU needs.
pub const DEVICE_CGROUP_DENIED: Cause = Cause {
    id: "DeviceCgroupDenied",
    meaning: "The device cgroup of the launcher refuses a device that QEMU needs.",
    roles: &[Role::Hosting],
    scope: Scope::Vm,
    class: Class::Hypervisor,
    usual: &[SymptomId::PausedUnexpectedly, SymptomId::InError, SymptomId::StuckStarting],
    possible: &[
        SymptomId::StoppedUnexpectedly,
        SymptomId::MigrationFailed,
        SymptomId::StuckMigrating,
        SymptomId::Unspecified,
        SymptomId::Unresponsive,
    ],
    rare: &[SymptomId::StuckTerminating, SymptomId::StuckStopping, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "rules",
            strength: Strength::Proof,
            look: Look::Present(DeviceForbidden, &[]),
            text: "the device cgroup does not allow a device that QEMU has open",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    ACTOR,
                    &[actor::QEMU, actor::LIBVIRT, actor::LAUNCHER, actor::HANDLER, actor::KERNEL, actor::RUNTIME],
                ),
                Fact::OneOf(
                    OPERATION,
                    &[
                        operation::OPEN_IMAGE,
                        operation::ALLOCATE_DEVICE,
                        operation::HOTPLUG,
                        operation::READ_WRITE,
                        operation::START_DOMAIN,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::NOT_PERMITTED]),
            ]),
            text: "a device was refused with EPERM",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["device-cgroup-denied"])]),
            text: "a disk's device was refused with EPERM",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::ACCESS_KVM]),
                Fact::OneOf(CLASS, &[class::NOT_PERMITTED]),
            ]),
            text: "/dev/kvm was refused with EPERM",
        },
        Clue {
            group: "paused",
            strength: Strength::Hint,
            look: Look::Present(DomainIoError, &[]),
            text: "QEMU paused the guest because of a disk error",
        },
        Clue {
            group: "lsm",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(SecurityDenied, &[Fact::Own]),
            text: "a security module refused it",
        },
        Clue {
            group: "lsm",
            strength: Strength::Against,
            look: Look::Happened(SecurityDenied, &[]),
            text: "a security module refuses things on the node",
        },
        Clue {
            group: "device",
            strength: Strength::Against,
            look: Look::Happened(BlockIoError, &[]),
            text: "the device itself answered with errors",
        },
    ],
    explains: &["QemuCrashed", "HotplugFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "virtctl restart -n {namespace} {vm}   # a new pod gets a new filter; hot-plugged \
                 volumes first: virtctl removevolume",
            ),
            Step::Any(
                "cat /sys/fs/cgroup/devices/$(grep devices /proc/{pid}/cgroup | cut -d: \
                 -f3)/devices.list; bpftool cgroup show /sys/fs/cgroup/$(cut -d: -f3 /proc/{pid}/cgroup \
                 | tail -1)   # v1; v2",
            ),
        ],
        check: &[
            Step::Any(
                "journalctl --since '-1 h' --no-pager | grep -iE 'daemon-reload|Reloading|cpuset' | \
                 tail   # what rewrote it",
            ),
            Step::Any("ls -l /run/systemd/transient/*.scope.d/50-Device*.conf 2>/dev/null"),
        ],
        prevent: &[Step::Any(
            "no systemctl daemon-reload on nodes with runc before 1.1.3; keep KubeVirt current \
                 (hot-plug keeps the filter); drain a node before cpuset policies change",
        )],
    },
    runbook_item: "hot-plug operations",
};
