//! `LibvirtDaemonDown`: the libvirt daemon does not run.
//!
//! Guests run on without it; nobody can start, stop, migrate or watch them. Proof is a socket that is missing or refuses.

use kulprit_model::{
    FindingCode::{LibvirtNotInstalled, LibvirtUnreachable, LibvirtUnresponsive, ProcessCrashed},
    attribute::{CLASS, COMM, OPERATION, SIGNATURE},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The libvirt daemon does not run: guests run on, nobody can manage them.
pub const LIBVIRT_DAEMON_DOWN: Cause = Cause {
    id: "LibvirtDaemonDown",
    meaning: "The libvirt daemon does not run: guests run on, nobody can manage them.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::VirtStack,
    usual: &[
        SymptomId::Unresponsive,
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::MigrationFailed,
        SymptomId::InError,
        SymptomId::Unspecified,
    ],
    possible: &[SymptomId::StuckMigrating, SymptomId::StuckTerminating, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::ExcessiveMigrations],
    clues: &[
        Clue {
            group: "daemon",
            strength: Strength::Proof,
            look: Look::Present(LibvirtUnreachable, &[]),
            text: "nobody listens on libvirt's socket",
        },
        Clue {
            group: "daemon",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(LibvirtUnreachable),
            text: "libvirt's socket is served",
        },
        Clue {
            group: "daemon",
            strength: Strength::StronglyAgainst,
            look: Look::Present(LibvirtNotInstalled, &[]),
            text: "there is no libvirt daemon on this host",
        },
        Clue {
            group: "hung",
            strength: Strength::Against,
            look: Look::Present(LibvirtUnresponsive, &[]),
            text: "the daemon accepts connections, so it runs",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_LIBVIRT]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::REFUSED,
                        class::NOT_FOUND,
                        class::UNAVAILABLE,
                        class::CRASHED,
                        class::KILLED,
                        class::OTHER,
                    ],
                ),
                Fact::Not(
                    SIGNATURE,
                    &["libvirt-socket-missing", "libvirt-daemon-restarting", "libvirt-connection-lost"],
                ),
            ]),
            text: "the launcher does not reach libvirt's daemon",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[Fact::OneOf(SIGNATURE, &["libvirt-daemon-crashed"])]),
                said(&[Fact::OneOf(SIGNATURE, &["libvirt-daemon-unreachable", "libvirt-connection-lost"])]),
            ]),
            text: "libvirt's daemon ends by itself, and the launcher has lost it",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["libvirt-daemon-crashed", "libvirt-daemon-unreachable"])]),
            text: "libvirt's daemon does not stay up",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["libvirt-daemon-restarting"])]),
            text: "libvirt's daemon ended and was started again",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_LIBVIRT]),
                Fact::Not(SIGNATURE, &["libvirt-socket-missing", "libvirt-connection-lost"]),
            ]),
            text: "reaching libvirt's daemon failed",
        },
        Clue {
            group: "crash",
            strength: Strength::Good,
            look: Look::Happened(
                ProcessCrashed,
                &[Fact::OneOf(COMM, &["virtqemud", "libvirtd", "rpc-virtqemud", "rpc-libvirtd"])],
            ),
            text: "libvirt's daemon crashed",
        },
        Clue {
            group: "lost",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(SIGNATURE, &["libvirt-connection-lost"])]),
            text: "the connection to libvirt's daemon was lost",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Standalone(
                "systemctl start libvirtd || systemctl start virtqemud   # running guests are found again, \
                 not restarted",
            ),
            Step::KubeVirt(
                "the launcher restarts its daemon by itself; if it loops: kubectl logs -n {namespace} -l \
                 vm.kubevirt.io/name={vm} -c compute --tail=100 | grep -i virtqemud",
            ),
        ],
        check: &[
            Step::Standalone(
                "systemctl status libvirtd virtqemud; journalctl -u libvirtd -u virtqemud -b -n 100 \
                 --no-pager",
            ),
            Step::Any("coredumpctl list | grep -E 'libvirtd|virtqemud'"),
        ],
        prevent: &[Step::Any("Restart=on-failure in its unit; alert on the unit's state")],
    },
    runbook_item: "libvirt daemon",
};
