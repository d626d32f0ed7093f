//! `VolumePermissionDenied`: the volume is mounted or mapped, but owner, mode or export options keep QEMU out.
//!
//! It is plain file permission: chown refused by an export that squashes root, EACCES on opening the image. Not meant:
//! an LSM (its denials are in the kernel log), and EPERM on a block device, which is the device cgroup
//! (DeviceCgroupDenied).

use kulprit_model::{
    FindingCode::SecurityDenied,
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// Owner, mode or export options of the VM's volume keep QEMU out.
pub const VOLUME_PERMISSION_DENIED: Cause = Cause {
    id: "VolumePermissionDenied",
    meaning: "Owner, mode or export options of the VM's volume keep QEMU out.",
    roles: &[Role::Hosting, Role::Target, Role::Shared],
    scope: Scope::Vm,
    class: Class::Storage,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[SymptomId::PausedUnexpectedly, SymptomId::MigrationFailed, SymptomId::StuckMigrating],
    rare: &[SymptomId::EvacuationBlocked, SymptomId::StoppedUnexpectedly, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(OPERATION, &[operation::SET_OWNERSHIP])]),
            text: "owner or mode of a volume or image cannot be set: the export or file system refuses",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::OPEN_IMAGE, operation::READ_WRITE]),
                Fact::OneOf(CLASS, &[class::DENIED, class::READ_ONLY]),
            ]),
            text: "opening the disk is denied",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::LOCK_IMAGE, operation::IMPORT]),
                Fact::OneOf(CLASS, &[class::DENIED]),
            ]),
            text: "reaching the image is denied",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MOUNT]),
                Fact::OneOf(CLASS, &[class::DENIED, class::UNAUTHORIZED]),
            ]),
            text: "the server denies the mount",
        },
        Clue {
            group: "eperm",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::OPEN_IMAGE]),
                Fact::OneOf(CLASS, &[class::NOT_PERMITTED]),
            ]),
            text: "the error is EPERM, as the device cgroup gives it",
        },
        Clue {
            group: "lsm",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(SecurityDenied, &[]),
            text: "an LSM denied something at that time",
        },
        Clue {
            group: "lsm",
            strength: Strength::Hint,
            look: Look::NotHappened(SecurityDenied),
            text: "no LSM denial was logged",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl exec -n {namespace} $(kubectl get pod -n {namespace} -l \
vm.kubevirt.io/name={vm} -o name | head -n 1) -c compute -- ls -lnR \
/var/run/kubevirt-private/vmi-disks   # QEMU runs as 107:107",
            ),
            Step::Standalone(
                "ls -ln $(virsh domblklist {vm} | awk 'NR>2{print $2}'); getfacl $(virsh domblklist \
{vm} | awk 'NR>2{print $2}')",
            ),
            Step::Any(
                "on the NFS server: no_root_squash, or anonuid=107,anongid=107, or chown 107:107 the \
image there",
            ),
        ],
        check: &[
            Step::Any(
                "findmnt -t nfs,nfs4 -o TARGET,SOURCE,OPTIONS   # on {node}: sec=, vers=; owner 65534 \
is an unmapped id",
            ),
            Step::KubeVirt(
                "kubectl get pvc -n {namespace} -o wide; kubectl get sc -o yaml | grep -E '^  \
name|mountOptions|fsGroup' -A 3",
            ),
        ],
        prevent: &[Step::Any(
            "a storage class whose exports allow the owner to be set (fsGroup support) for VM \
disks",
        )],
    },
    runbook_item: "PVC mount failures",
};
