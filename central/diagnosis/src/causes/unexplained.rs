//! `Unexplained`: the evidence supports nothing above enough.
//!
//! It has a fixed score that every other cause must beat; its evidence is whatever was seen of the subject that no cause claims.

use crate::{
    catalogue::{Advice, Cause, Class, Role, Scope, Step},
    symptom::SymptomId,
};

/// The evidence supports no cause enough; what was looked at and what could not be seen is said.
pub const UNEXPLAINED: Cause = Cause {
    id: "Unexplained",
    meaning: "The evidence supports no cause enough; what was looked at and what could not be seen is said.",
    roles: &[Role::Hosting],
    scope: Scope::Vm,
    class: Class::Outside,
    usual: &[
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::InError,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::ExcessiveMigrations,
        SymptomId::PausedUnexpectedly,
        SymptomId::Unresponsive,
        SymptomId::StoppedUnexpectedly,
        SymptomId::EvacuationBlocked,
        SymptomId::Unspecified,
    ],
    possible: &[],
    rare: &[],
    clues: &[],
    explains: &[],
    advice: Advice {
        now: &[
            Step::Any("make visible what could not be seen (listed under `unknown`), then ask again"),
            Step::Any("kulprit node {node}   # everything that is known of the node"),
            Step::Standalone(
                "tail -n 100 /var/log/libvirt/qemu/{vm}.log; journalctl -u libvirtd -u virtqemud -n 100 --no-pager",
            ),
            Step::KubeVirt(
                "kubectl describe vmi -n {namespace} {vm}; kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} -c compute --tail=200",
            ),
        ],
        check: &[Step::Any("dmesg -T | tail -n 100"), Step::Any("what changed just before the onset?")],
        prevent: &[],
    },
    runbook_item: "escalation",
};
