//! `NodeNetworkDegraded`: the node's own network is bad: a link is down or flaps, the connection table is full, name
//! lookups fail, the API server or the storage network cannot be reached. Only the way between two nodes is
//! `MigrationPathUnreachable`; a server that is down for every node is not this node. A link that flaps is up, and reaches everybody, at
//! most looks: that it did so at one of them is answered by the count of its losses (group `reach`).

use kulprit_model::{
    FindingCode::{
        KernelLimitHit, KernelLimitReached, LinkDown, LinkErrors, LinkFlapping, NetworkLinkDown, NetworkUnreachable,
        NodeBooted, NodeNetworkReportedDown, NodeNotReady,
    },
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The node's own network does not work: link, name lookup, connection table or routes.
pub const NODE_NETWORK_DEGRADED: Cause = Cause {
    id: "NodeNetworkDegraded",
    meaning: "The node's own network does not work: link, name lookup, connection table or routes.",
    roles: &[Role::Hosting, Role::Source, Role::Target, Role::Shared],
    scope: Scope::Node,
    class: Class::Network,
    usual: &[
        SymptomId::StuckStarting,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::InError,
        SymptomId::ExcessiveMigrations,
    ],
    possible: &[
        SymptomId::StuckStopping,
        SymptomId::StuckTerminating,
        SymptomId::PausedUnexpectedly,
        SymptomId::EvacuationBlocked,
        SymptomId::Unspecified,
    ],
    // A QEMU, its monitor and its libvirt are asked over local sockets.
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::Unresponsive],
    clues: &[
        Clue {
            group: "reach",
            strength: Strength::Proof,
            look: Look::Present(NetworkUnreachable, &[Fact::Not(WHAT, &["peer", "registry", "tcp", "tls"])]),
            text: "the node does not reach a name server or the API server",
        },
        Clue {
            group: "reach",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(NetworkUnreachable, &[Fact::Not(WHAT, &["registry", "tcp", "tls"])]),
                said(&[
                    Fact::Not(
                        OPERATION,
                        &[
                            operation::MIGRATE,
                            operation::MIGRATE_PREPARE,
                            operation::MIGRATE_FINISH,
                            operation::CONNECT_PEER,
                            operation::MONITOR,
                            operation::SYNC_VMI,
                            operation::RUN_GUEST_AGENT,
                        ],
                    ),
                    Fact::OneOf(CLASS, &[class::TIMEOUT, class::UNREACHABLE, class::NAME]),
                ]),
            ]),
            text: "the node does not reach a peer, and what it does over the network gets no answer",
        },
        Clue {
            group: "reach",
            strength: Strength::Some,
            look: Look::Present(NetworkUnreachable, &[Fact::Not(WHAT, &["registry", "tcp", "tls"])]),
            text: "the node does not reach a peer",
        },
        Clue {
            group: "reach",
            strength: Strength::Proof,
            look: Look::Present(LinkFlapping, &[]),
            text: "a network link of the node comes and goes",
        },
        Clue {
            group: "boot",
            strength: Strength::StronglyAgainst,
            look: Look::Happened(NodeBooted, &[]),
            text: "the node booted, and links come up and go down then",
        },
        Clue {
            group: "link",
            strength: Strength::Strong,
            look: Look::Present(LinkDown, &[]),
            text: "a network link of the node is down",
        },
        Clue {
            group: "reach",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(NetworkUnreachable),
            text: "the node reaches its peers",
        },
        Clue {
            group: "reach",
            strength: Strength::Strong,
            look: Look::Happened(NetworkLinkDown, &[]),
            text: "a network link went down, or its card hung",
        },
        Clue {
            group: "link",
            strength: Strength::Good,
            look: Look::Present(LinkErrors, &[]),
            text: "a network link of the node carries broken packets",
        },
        Clue {
            group: "table",
            strength: Strength::Proof,
            look: Look::Happened(KernelLimitHit, &[Fact::OneOf(WHAT, &["conntrack", "neighbours"])]),
            text: "the kernel drops packets because its connection or neighbour table is full",
        },
        Clue {
            group: "table",
            strength: Strength::Strong,
            look: Look::Present(KernelLimitReached, &[Fact::OneOf(WHAT, &["conntrack"])]),
            text: "the connection table is nearly full",
        },
        Clue {
            group: "reported",
            strength: Strength::Some,
            look: Look::Present(NodeNetworkReportedDown, &[]),
            text: "the node's network is reported as not available",
        },
        Clue {
            group: "table",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(SIGNATURE, &["conntrack-full"])]),
            text: "the kernel drops packets because its connection table is full",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
                said(&[
                    Fact::OneOf(ACTOR, &[actor::KUBELET]),
                    Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                    Fact::OneOf(CLASS, &[class::UNREACHABLE, class::NAME]),
                ]),
            ]),
            text: "Kubernetes hears nothing from the kubelet, which says that it does not reach the API server",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::UNREACHABLE, class::NAME]),
            ]),
            text: "the node does not reach the API server",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS]),
                Fact::OneOf(CLASS, &[class::TIMEOUT]),
                Fact::Not(SIGNATURE, &["kubelet-silent", "node-virt-handler-silent", "kubelet-certificate-expired"]),
            ]),
            text: "the API server does not answer the node in time",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(
                    ACTOR,
                    &[
                        actor::KUBELET,
                        actor::HANDLER,
                        actor::RUNTIME,
                        actor::CNI,
                        actor::CSI,
                        actor::SYSTEMD,
                        actor::LAUNCHER,
                    ],
                ),
                Fact::Not(
                    OPERATION,
                    &[
                        operation::PULL,
                        operation::UNPACK,
                        operation::MOUNT,
                        operation::MAP,
                        operation::ATTACH,
                        operation::READ_WRITE,
                        operation::CONNECT_PEER,
                        operation::MIGRATE,
                        operation::MIGRATE_PREPARE,
                        operation::SETUP_NETWORK,
                    ],
                ),
                Fact::OneOf(CLASS, &[class::UNREACHABLE, class::NAME]),
            ]),
            text: "the network cannot be reached, or a name not be looked up",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(CLASS, &[class::UNREACHABLE, class::NAME])]),
            text: "something cannot be reached, or its name not be looked up",
        },
        Clue {
            group: "reach",
            strength: Strength::Against,
            look: Look::Absent(LinkDown),
            text: "the node's links are up",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Against,
            look: Look::Elsewhere(&said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET, actor::HANDLER, actor::RUNTIME, actor::CNI]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS, operation::RESOLVE_NAME]),
                Fact::OneOf(CLASS, &[class::UNREACHABLE, class::NAME, class::TIMEOUT]),
            ])),
            text: "other nodes fail in the same way",
        },
    ],
    explains: &[
        "NodeDown",
        "StorageBackendUnreachable",
        "ImagePullFailedOnNode",
        "MigrationPathUnreachable",
        "PodNetworkSetupFailed",
        "KubeletDegraded",
        "VirtHandlerDown",
        "MigrationBandwidthStarved",
    ],
    advice: Advice {
        now: &[
            Step::Any("ip -s -br link; ip route; ping -c 3 -W 2 $(ip route | awk '/default/{print $3; exit}')"),
            Step::Any(
                "getent hosts kubernetes.default.svc.cluster.local; cat /etc/resolv.conf; sysctl \
                 net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max",
            ),
            Step::Any(
                "dmesg -T | grep -iE 'link is down|NETDEV WATCHDOG|table full|bond|reset adapter' | tail \
                 -n 30",
            ),
        ],
        check: &[Step::Any(
            "ethtool -S IFACE | grep -iE 'err|drop|crc' | grep -v ': 0'; nstat -az | grep -iE \
                 'Retrans|Timeouts'",
        )],
        prevent: &[Step::Any(
            "bonded links to two switches; net.netfilter.nf_conntrack_max for the load; a node-local \
                 DNS cache; an alert on carrier changes",
        )],
    },
    runbook_item: "network connectivity",
};
