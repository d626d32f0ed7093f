//! `MigrationTlsFailed`: the migration's proxies connect and do not agree on TLS: a certificate of virt-handler or
//! the migration CA is expired, not trusted or for another name. `failed to load the certificate` once a minute is
//! normal.

use kulprit_model::{
    FindingCode::{ClockSkewed, MigrationDirtying, MigrationNoBytes, MigrationProgressing, MigrationTargetFailed},
    attribute::{ACTOR, CLASS, OPERATION},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The TLS handshake of the migration fails: a certificate is expired or not trusted.
pub const MIGRATION_TLS_FAILED: Cause = Cause {
    id: "MigrationTlsFailed",
    meaning: "The TLS handshake of the migration fails: a certificate is expired or not trusted.",
    roles: &[Role::Path],
    scope: Scope::Path,
    class: Class::Network,
    usual: &[SymptomId::MigrationFailed, SymptomId::StuckMigrating],
    possible: &[SymptomId::EvacuationBlocked, SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    rare: &[SymptomId::InError],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER, actor::LIBVIRT, actor::QEMU, actor::LAUNCHER, actor::CONTROLLER]),
                Fact::OneOf(OPERATION, &[operation::HANDSHAKE]),
                Fact::Not(CLASS, &[class::NOT_FOUND]),
            ]),
            text: "a TLS handshake of the migration failed",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::HANDLER, actor::LIBVIRT, actor::QEMU, actor::LAUNCHER, actor::CONTROLLER]),
                Fact::OneOf(
                    OPERATION,
                    &[operation::CONNECT_PEER, operation::MIGRATE, operation::MIGRATE_PREPARE, operation::HANDSHAKE],
                ),
                Fact::OneOf(CLASS, &[class::EXPIRED, class::UNTRUSTED]),
            ]),
            text: "a certificate of the migration is expired or not trusted",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_PEER, operation::MIGRATE, operation::MIGRATE_PREPARE]),
                Fact::OneOf(CLASS, &[class::UNAUTHORIZED]),
            ]),
            text: "one end does not accept the other",
        },
        Clue {
            group: "clock",
            strength: Strength::Hint,
            look: Look::Present(ClockSkewed, &[]),
            text: "the node's clock is off",
        },
        Clue {
            group: "bytes",
            strength: Strength::Hint,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "the migration runs and has copied nothing",
        },
        Clue {
            group: "progress",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationProgressing, &[]),
            text: "the migration gets nearer to its end",
        },
        Clue {
            group: "progress",
            strength: Strength::StronglyAgainst,
            look: Look::Present(MigrationDirtying, &[]),
            text: "the migration copies, so its handshake went well",
        },
        Clue {
            group: "target",
            strength: Strength::Against,
            look: Look::Present(MigrationTargetFailed, &[]),
            text: "the target pod itself failed",
        },
    ],
    explains: &["MigrationPathUnreachable"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get secret -n kubevirt kubevirt-virt-handler-certs -o \
                 jsonpath='{.data.tls\\.crt}' | base64 -d | openssl x509 -noout -dates -issuer   # and \
                 kubevirt-virt-handler-server-certs",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n kubevirt -l kubevirt.io=virt-handler   # each takes its \
                 certificate anew; running VMs stay, running migrations fail",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl logs -n kubevirt -l kubevirt.io=virt-handler --tail=500 | grep -iE \
                 'tls|x509|certificate' | tail",
            ),
            Step::Any("date -u   # on both nodes: a wrong clock looks the same"),
        ],
        prevent: &[Step::Any(
            "certificateRotateStrategy with a renewal well before the end; an alert on virt-operator \
                 when it cannot rotate",
        )],
    },
    runbook_item: "network connectivity",
};
