//! `LibvirtDaemonHung`: the libvirt daemon takes connections and answers nothing.
//!
//! Proof is a keepalive or call that stays without an answer. A QEMU that does not answer hangs one domain, not the daemon: its
//! look-outs still answer then, and that speaks strongly against this cause.

use kulprit_model::{
    FindingCode::{LibvirtNotInstalled, LibvirtUnreachable, LibvirtUnresponsive, ListenQueueFull},
    attribute::{ACTOR, CLASS, OPERATION, SERVER, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The libvirt daemon accepts connections and does not answer.
pub const LIBVIRT_DAEMON_HUNG: Cause = Cause {
    id: "LibvirtDaemonHung",
    meaning: "The libvirt daemon accepts connections and does not answer.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::VirtStack,
    usual: &[
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::StuckMigrating,
        SymptomId::Unresponsive,
        SymptomId::Unspecified,
    ],
    possible: &[SymptomId::StuckStarting, SymptomId::MigrationFailed, SymptomId::InError, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "daemon",
            strength: Strength::Proof,
            look: Look::Present(LibvirtUnresponsive, &[]),
            text: "the libvirt daemon accepts connections and does not answer",
        },
        Clue {
            group: "daemon",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(LibvirtUnresponsive),
            text: "the libvirt daemon answers",
        },
        Clue {
            group: "daemon",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LibvirtNotInstalled, &[]),
            text: "there is no libvirt daemon on this host",
        },
        // The ports of `libvirtd.conf`: `tcp_port` and `tls_port`, on which other hosts ask for a migration.
        Clue {
            group: "daemon",
            strength: Strength::Good,
            look: Look::Present(
                ListenQueueFull,
                &[Fact::OneOf(SERVER, &["0.0.0.0:16509", "[::]:16509", "0.0.0.0:16514", "[::]:16514"])],
            ),
            text: "the libvirt daemon does not take the connections that wait for it",
        },
        Clue {
            group: "down",
            strength: Strength::Against,
            look: Look::Present(LibvirtUnreachable, &[]),
            text: "nobody listens on its socket, so it is down rather than hung",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_LIBVIRT]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::STUCK]),
                Fact::Not(SIGNATURE, &["libvirt-daemon-unreachable"]),
            ]),
            text: "libvirt's daemon does not answer the launcher",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["launcher-shutdown-cancelled"])]),
            text: "the launcher serves requests, and what it asks of libvirt has no end",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LAUNCHER, actor::LIBVIRT, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::SHUTDOWN_DOMAIN, operation::SYNC_VMI, operation::DESTROY_DOMAIN]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "launcher or libvirt do not answer a command in time",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT]),
                Fact::OneOf(OPERATION, &[operation::MONITOR]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::BUSY, class::STUCK]),
            ]),
            text: "a call waits for the lock of the domain",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::Standalone(
                "grep State /proc/$(pidof -s libvirtd virtqemud)/status   # T: kill -CONT, D: it waits in the \
                 kernel",
            ),
            Step::Standalone(
                "systemctl restart libvirtd || systemctl restart virtqemud   # running guests are not touched",
            ),
            Step::KubeVirt(
                "kubectl exec -n {namespace} $(kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o \
                 name) -c compute -- sh -c 'grep State /proc/$(pidof virtqemud)/status'",
            ),
        ],
        check: &[
            Step::Any("cat /proc/$(pidof -s libvirtd virtqemud)/task/*/wchan | sort | uniq -c"),
            Step::Standalone("journalctl -u libvirtd -u virtqemud -b -n 100 --no-pager"),
        ],
        prevent: &[Step::Any("storage pools on servers that may vanish block the daemon: keep them out of it")],
    },
    runbook_item: "libvirt daemon",
};
