//! `NodeKernelLimitReached`: a kernel-wide limit is used up: inotify instances or watches, open files, aio requests,
//! neighbours. Watch errors say `no space left on device` or `too many open files` and mean neither disk nor process. A
//! full conntrack table drops packets: `NodeNetworkDegraded`. A kernel that leaks memory cgroups runs out of their 65535 ids,
//! and says that no space is left too.

use kulprit_model::{
    FindingCode::{KernelLimitHit, KernelLimitReached, LauncherLimitReached},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A kernel-wide limit of the node is used up: inotify, open files, aio or the like.
pub const NODE_KERNEL_LIMIT_REACHED: Cause = Cause {
    id: "NodeKernelLimitReached",
    meaning: "A kernel-wide limit of the node is used up: inotify, open files, aio or the like.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::StuckMigrating],
    possible: &[
        SymptomId::MigrationFailed,
        SymptomId::Unresponsive,
        SymptomId::StoppedUnexpectedly,
        SymptomId::Unspecified,
        SymptomId::StuckTerminating,
    ],
    rare: &[SymptomId::StuckStopping],
    clues: &[
        Clue {
            group: "limit",
            strength: Strength::Proof,
            look: Look::Present(KernelLimitReached, &[Fact::Not(WHAT, &["conntrack"])]),
            text: "a kernel-wide limit is nearly used up",
        },
        Clue {
            group: "limit",
            strength: Strength::Some,
            look: Look::Present(KernelLimitReached, &[Fact::OneOf(WHAT, &["conntrack"])]),
            text: "the connection table is nearly full",
        },
        Clue {
            group: "logged",
            strength: Strength::Strong,
            look: Look::Happened(KernelLimitHit, &[Fact::Not(WHAT, &["conntrack", "neighbours"])]),
            text: "the kernel logged that a limit was hit",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["aio-limit"])]),
            text: "no more aio requests are to be had (fs.aio-max-nr)",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["cgroup-limit"])]),
            text: "the kernel makes no more cgroups: their ids are used up",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER, actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::REGISTER_PLUGIN]),
                Fact::OneOf(CLASS, &[class::LIMIT]),
            ]),
            text: "a device plugin could not watch its socket: a limit was hit",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::WATCH_FILES]),
                Fact::OneOf(CLASS, &[class::LIMIT, class::NO_SPACE]),
            ]),
            text: "no file could be watched any more (inotify)",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(
                    ACTOR,
                    &[
                        actor::KUBELET,
                        actor::RUNTIME,
                        actor::HANDLER,
                        actor::SYSTEMD,
                        actor::KERNEL,
                        actor::CSI,
                        actor::CNI,
                        actor::CDI,
                    ],
                ),
                Fact::Not(
                    OPERATION,
                    &[
                        operation::FORK,
                        operation::CREATE_POD,
                        operation::CALL_API,
                        operation::PULL,
                        operation::ATTACH,
                        operation::PROVISION,
                        operation::EVICT_POD,
                        operation::START_DOMAIN,
                        operation::ALLOCATE_DEVICE,
                        operation::SCHEDULE,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::LIMIT]),
                Fact::Not(SIGNATURE, &["conntrack-full"]),
            ]),
            text: "a program of the node ran into a limit",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::QEMU, actor::LAUNCHER]),
                Fact::OneOf(OPERATION, &[operation::START_DOMAIN, operation::OPEN_IMAGE, operation::WATCH_FILES]),
                Fact::OneOf(CLASS, &[class::LIMIT]),
            ]),
            text: "the launcher ran into a limit",
        },
        Clue {
            group: "limit",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KernelLimitReached),
            text: "no kernel-wide limit is near",
        },
        Clue {
            group: "own",
            strength: Strength::Against,
            look: Look::Present(LauncherLimitReached, &[]),
            text: "it is a limit of the launcher itself",
        },
    ],
    explains: &["KvmNotAdvertised", "KubeletDegraded", "LauncherContainerFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("sysctl fs.inotify fs.file-nr fs.file-max fs.aio-nr fs.aio-max-nr"),
            Step::Any("sysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=1048576"),
        ],
        check: &[Step::Any(
            "find /proc/[0-9]*/fd -lname anon_inode:inotify 2>/dev/null | cut -d/ -f3 | sort | uniq \
                 -c | sort -rn | head   # who holds the inotify instances",
        )],
        prevent: &[Step::Any(
            "set the limits in /etc/sysctl.d on every node; each VM with aio=native costs aio \
                 requests",
        )],
    },
    runbook_item: "node resource exhaustion",
};
