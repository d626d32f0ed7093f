//! `LibvirtDaemonDown`: the libvirt daemon does not run.
//!
//! Guests run on without it; nobody can start, stop, migrate or watch them. Proof is a socket that is missing or refuses.

use kulprit_model::FindingCode::{LibvirtNotInstalled, LibvirtUnreachable, LibvirtUnresponsive};

use crate::{
    catalogue::{Advice, Cause, Clue, Look, Role, Scope, Step, Strength},
    symptom::SymptomId,
};

/// The libvirt daemon does not run: guests run on, nobody can manage them.
pub const LIBVIRT_DAEMON_DOWN: Cause = Cause {
    id: "LibvirtDaemonDown",
    meaning: "The libvirt daemon does not run: guests run on, nobody can manage them.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    usual: &[SymptomId::Unresponsive, SymptomId::Unspecified],
    possible: &[SymptomId::StuckStopping],
    rare: &[SymptomId::StoppedUnexpectedly],
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
    ],
    explains: &[],
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
