//! `NodeClockSkewed`: the node's clock is wrong: certificates are "not yet valid" or expired on this node alone, leases
//! and heartbeats look old. Proof is the clock against a peer or its synchronisation state. A certificate that is
//! expired everywhere is not the clock.

use kulprit_model::{
    FindingCode::ClockSkewed,
    attribute::{CLASS, MEASURED, SIGNATURE},
    said::class,
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The node's clock is off.
pub const NODE_CLOCK_SKEWED: Cause = Cause {
    id: "NodeClockSkewed",
    meaning: "The node's clock is off.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::InError, SymptomId::MigrationFailed],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::StuckTerminating,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::StuckStopping, SymptomId::Unresponsive, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "clock",
            strength: Strength::Proof,
            look: Look::Present(ClockSkewed, &[Fact::NoneOf(MEASURED, &[])]),
            text: "the node's clock is off",
        },
        Clue {
            group: "clock",
            strength: Strength::Good,
            look: Look::Present(ClockSkewed, &[]),
            text: "the node's clock is not synchronised",
        },
        Clue {
            group: "clock",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(ClockSkewed, &[]),
                said(&[Fact::OneOf(SIGNATURE, &["tls-certificate-not-yet-valid"])]),
            ]),
            text: "the node's clock is not synchronised, and a certificate is not valid yet for it",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(SIGNATURE, &["tls-certificate-not-yet-valid"])]),
            text: "a certificate is not valid yet: the clock of whoever looks is behind",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(CLASS, &[class::EXPIRED])]),
            text: "something counts as expired on this node",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: Look::All(&[said(&[Fact::OneOf(CLASS, &[class::EXPIRED])]), Look::Present(ClockSkewed, &[])]),
            text: "something counts as expired on a node whose clock is off",
        },
        Clue {
            group: "clock",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(ClockSkewed),
            text: "the node's clock is right",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Against,
            look: Look::Elsewhere(&said(&[Fact::OneOf(CLASS, &[class::EXPIRED])])),
            text: "it counts as expired on other nodes too",
        },
    ],
    explains: &["NodeCertificateExpired", "MigrationTlsFailed", "ImagePullFailedOnNode", "KubeletDegraded"],
    advice: Advice {
        now: &[
            Step::Any("timedatectl; chronyc tracking; date -u   # against another node"),
            Step::Any("systemctl restart chronyd || systemctl restart systemd-timesyncd; chronyc makestep"),
        ],
        check: &[
            Step::Any("chronyc sources -v   # does it reach its time servers"),
            Step::Any("journalctl -u chronyd -u systemd-timesyncd -b --no-pager | tail -n 50"),
        ],
        prevent: &[Step::Any(
            "the same time servers on every node; an alert on node_timex_sync_status and on the \
                 offset; no suspend of nodes that are VMs",
        )],
    },
    runbook_item: "NotReady",
};
