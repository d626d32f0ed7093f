//! `MigrationPathUnreachable`: source and target cannot speak to each other on the migration's ports: firewall,
//! NetworkPolicy, route, a migration network that one of them lacks. Blocked from the start nothing is copied and
//! nothing is logged: SYN-SENT and zero bytes are the evidence. Blocked midway the copy stands until libvirt gives up, and what was sent
//! last is sent again and again, by a connection that its owner may have closed. A migration that copies anything from round to round has a
//! path; one that is over copies nothing, and that it did says nothing of its end.

use kulprit_model::{
    FindingCode::{
        MigrationDirtying, MigrationNoBytes, MigrationNotCompleted, MigrationOutgoing, MigrationPeerSilent,
        MigrationProgressing, MigrationTargetFailed, MtuMismatch, NetworkUnreachable, PacketFilterDrops,
    },
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The source of the migration cannot reach the target on the migration's ports.
pub const MIGRATION_PATH_UNREACHABLE: Cause = Cause {
    id: "MigrationPathUnreachable",
    meaning: "The source of the migration cannot reach the target on the migration's ports.",
    roles: &[Role::Path],
    scope: Scope::Path,
    class: Class::Network,
    usual: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    possible: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    rare: &[SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "peer",
            strength: Strength::Proof,
            look: Look::Present(MigrationPeerSilent, &[]),
            text: "connections to the other node get no answer",
        },
        Clue {
            group: "peer",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(MigrationPeerSilent),
            text: "the other node answers on the connections of those that migrate",
        },
        Clue {
            group: "ping",
            strength: Strength::Good,
            look: Look::Present(NetworkUnreachable, &[Fact::OneOf(WHAT, &["peer"])]),
            text: "one node does not reach another",
        },
        Clue {
            group: "filter",
            strength: Strength::Strong,
            look: Look::Present(PacketFilterDrops, &[]),
            text: "a packet filter drops what the migration needs",
        },
        Clue {
            group: "bytes",
            strength: Strength::Strong,
            look: Look::Present(MigrationNoBytes, &[]),
            text: "the migration runs and has copied nothing",
        },
        Clue {
            group: "bytes",
            strength: Strength::Strong,
            look: Look::Happened(MigrationNotCompleted, &[Fact::OneOf(WHAT, &["no-bytes"])]),
            text: "the migration ended and had copied nothing",
        },
        Clue {
            group: "bytes",
            strength: Strength::Some,
            look: Look::Happened(MigrationNotCompleted, &[Fact::OneOf(WHAT, &["stopped"])]),
            text: "the copy stood still before the migration ended",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_PEER]),
                Fact::OneOf(CLASS, &[class::TIMEOUT, class::REFUSED, class::UNREACHABLE, class::NAME]),
            ]),
            text: "one end could not connect to the other",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CONNECT_PEER]),
                Fact::OneOf(CLASS, &[class::RESET, class::OTHER, class::UNAVAILABLE]),
                Fact::Not(SIGNATURE, &["migration-proxy-broken"]),
            ]),
            text: "the connection between the ends failed",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE, operation::MIGRATE_FINISH]),
                Fact::OneOf(CLASS, &[class::UNREACHABLE, class::REFUSED]),
            ]),
            text: "the migration failed on its connection",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["libvirt-keepalive-lost"])]),
            text: "the other end of the migration went silent",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LIBVIRT, actor::QEMU, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::MIGRATE, operation::MIGRATE_PREPARE, operation::MIGRATE_FINISH]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
            ]),
            text: "the migration failed on its connection",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(SIGNATURE, &["migration-no-progress", "migration-proxy-broken"])]),
            text: "the migration stood still, or its proxy lost the connection",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(OPERATION, &[operation::MIGRATE]), Fact::OneOf(CLASS, &[class::RESET])]),
            text: "the migration's connection broke",
        },
        Clue {
            group: "bytes",
            strength: Strength::Against,
            look: Look::All(&[Look::Present(MigrationOutgoing, &[]), Look::Absent(MigrationNoBytes)]),
            text: "the migration copies",
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
            text: "the migration copies, the guest dirties its memory as fast",
        },
        Clue {
            group: "mtu",
            strength: Strength::Against,
            look: Look::Present(MtuMismatch, &[]),
            text: "small packets pass, large ones do not",
        },
        Clue {
            group: "target",
            strength: Strength::Against,
            look: Look::Present(MigrationTargetFailed, &[]),
            text: "the target pod itself failed",
        },
    ],
    explains: &[],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get vmi -n {namespace} {vm} -o \
                 jsonpath='{.status.migrationState.targetNodeAddress} \
                 {.status.migrationState.targetDirectMigrationNodePorts}'",
            ),
            Step::KubeVirt(
                "kubectl exec -n kubevirt VIRT_HANDLER_OF_SOURCE -- curl -m 3 -vk \
                 https://TARGET_ADDRESS:PORT   # refused or silent?",
            ),
            Step::KubeVirt(
                "kubectl get networkpolicy -A; kubectl get kubevirt -n kubevirt kubevirt -o \
                 jsonpath='{.spec.configuration.migrations.network}'",
            ),
        ],
        check: &[
            Step::Any(
                "nft list ruleset | grep -E 'drop|reject'; iptables-save | grep -E 'DROP|REJECT'   # on \
                 both nodes",
            ),
            Step::Any("nsenter -t $(pgrep -f virt-handler | head -1) -n ss -tnpi | grep -E 'SYN-SENT|retrans'"),
        ],
        prevent: &[Step::Any(
            "allow TCP between virt-handler pods of all nodes (ports are random), and 49152–49215 on \
                 a migration network of its own; test the path before a drain",
        )],
    },
    runbook_item: "network connectivity",
};
