//! `NodeCertificateExpired`: the kubelet's client certificate, or another of the node, is expired or
//! rejected: the node cannot speak to the API server any more. A wrong clock makes the same texts, see
//! `NodeClockSkewed`.

use kulprit_model::{
    FindingCode::{ClockSkewed, KubeletCertificateExpired, NodeNotReady},
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, VmFact, said},
    symptom::SymptomId,
};

/// A certificate with which the node speaks to Kubernetes is expired or rejected.
pub const NODE_CERTIFICATE_EXPIRED: Cause = Cause {
    id: "NodeCertificateExpired",
    meaning: "A certificate with which the node speaks to Kubernetes is expired or rejected.",
    roles: &[Role::Hosting, Role::Source, Role::Target],
    scope: Scope::Node,
    class: Class::Node,
    usual: &[SymptomId::StuckTerminating, SymptomId::InError],
    possible: &[
        SymptomId::StuckStarting,
        SymptomId::StuckStopping,
        SymptomId::Unresponsive,
        SymptomId::StuckMigrating,
        SymptomId::MigrationFailed,
        SymptomId::Unspecified,
        SymptomId::ExcessiveMigrations,
    ],
    rare: &[SymptomId::StoppedUnexpectedly, SymptomId::EvacuationBlocked],
    clues: &[
        Clue {
            group: "certificate",
            strength: Strength::Proof,
            look: Look::Present(KubeletCertificateExpired, &[]),
            text: "the kubelet's client certificate is expired or not yet valid",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: said(&[Fact::OneOf(SIGNATURE, &["kubelet-certificate-expired"])]),
            text: "the kubelet says that its certificate is expired",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::Not(OPERATION, &[operation::PULL, operation::UNPACK]),
                Fact::OneOf(CLASS, &[class::EXPIRED]),
            ]),
            text: "the kubelet says that a certificate is expired",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::KUBELET]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS, operation::HANDSHAKE]),
                Fact::OneOf(CLASS, &[class::EXPIRED, class::UNTRUSTED, class::UNAUTHORIZED]),
            ]),
            text: "the API server does not accept the kubelet's certificate",
        },
        Clue {
            group: "text",
            strength: Strength::Proof,
            look: Look::All(&[
                Look::Present(NodeNotReady, &[Fact::OneOf(WHAT, &["Unknown"])]),
                said(&[
                    Fact::OneOf(ACTOR, &[actor::KUBELET]),
                    Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS, operation::HANDSHAKE]),
                    Fact::OneOf(CLASS, &[class::EXPIRED, class::UNTRUSTED, class::UNAUTHORIZED]),
                ]),
            ]),
            text: "Kubernetes hears nothing from the kubelet, which says that it is not accepted",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::API_SERVER, actor::HANDLER]),
                Fact::OneOf(OPERATION, &[operation::CALL_API, operation::REPORT_STATUS, operation::HANDSHAKE]),
                Fact::OneOf(CLASS, &[class::EXPIRED, class::UNTRUSTED, class::UNAUTHORIZED]),
            ]),
            text: "a certificate of the node is not accepted",
        },
        Clue {
            group: "node",
            strength: Strength::Some,
            look: Look::Present(NodeNotReady, &[]),
            text: "the node is not ready",
        },
        Clue {
            group: "certificate",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(KubeletCertificateExpired),
            text: "the kubelet's certificate is valid",
        },
        Clue {
            group: "clock",
            strength: Strength::Against,
            look: Look::Present(ClockSkewed, &[]),
            text: "the node's clock is off",
        },
        Clue {
            group: "kubernetes",
            strength: Strength::StronglyAgainst,
            look: Look::Vm(VmFact::Standalone),
            text: "libvirt alone runs this VM, no pod of it has to start or to go",
        },
    ],
    explains: &["KubeletDown", "KubeletDegraded"],
    advice: Advice {
        now: &[
            Step::Any("openssl x509 -noout -dates -subject -in /var/lib/kubelet/pki/kubelet-client-current.pem"),
            Step::KubeVirt("kubectl get csr | grep Pending   # kubectl certificate approve NAME"),
            Step::Any(
                "rm /var/lib/kubelet/pki/kubelet-client-*; systemctl restart kubelet   # with a valid \
                 bootstrap kubeconfig it asks for a new one (k3s, rke2: restart renews)",
            ),
        ],
        check: &[Step::Any("journalctl -u kubelet -b --no-pager | grep -iE 'x509|certificate|unauthorized' | tail")],
        prevent: &[Step::Any(
            "rotateCertificates: true, an approver for serving certificates, and an alert 30 days \
                 before the end; a node that was off for months comes back expired",
        )],
    },
    runbook_item: "NotReady",
};
