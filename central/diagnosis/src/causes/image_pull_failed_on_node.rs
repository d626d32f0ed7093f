//! `ImagePullFailedOnNode`: this node cannot pull an image that others can.
//!
//! A name that does not resolve, a proxy, a certificate, a timeout, no space: told by the pull's error on this node,
//! and made sure by another node that has the image. If other nodes fail the same way it is the registry; "not found"
//! and "unauthorized" are the same everywhere (ImageNotFound) until another node shows otherwise.

use kulprit_model::{
    FindingCode::{ImagePresentElsewhere, NetworkUnreachable, PodImageWaiting},
    attribute::{ACTOR, CLASS, IMAGE, OPERATION, SIGNATURE, WHAT},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The classes of a pull to which the registry gave no answer, and more where they are named.
macro_rules! without_answer {
    ($($more:expr),*) => {
        &[
            class::TIMEOUT,
            class::REFUSED,
            class::UNREACHABLE,
            class::NAME,
            class::RESET,
            class::UNAVAILABLE,
            $($more),*
        ]
    };
}

/// The classes of a pull that ended before the registry told of the image: without an answer, or without trust; and more.
macro_rules! before_the_image {
    ($($more:expr),*) => {
        without_answer!(class::UNTRUSTED, class::EXPIRED, $($more),*)
    };
}

pub(super) use {before_the_image, without_answer};

/// A pull to which the registry gave no answer.
pub(super) const PULL_WITHOUT_ANSWER: Look =
    said(&[Fact::OneOf(OPERATION, &[operation::PULL]), Fact::OneOf(CLASS, without_answer!())]);

/// The node itself tried the registry of an image whose pull fails, and did not get as far as to speak with it.
pub(super) const REGISTRY_NOT_REACHED: Look =
    Look::Present(NetworkUnreachable, &[Fact::OneOf(WHAT, &["registry", "tcp", "tls"])]);

/// The same of an image of this VM.
pub(super) const OWN_REGISTRY_NOT_REACHED: Look =
    Look::Present(NetworkUnreachable, &[Fact::OneOf(WHAT, &["registry", "tcp", "tls"]), Fact::Own]);

/// This node cannot pull an image of the VM; the registry and other nodes are well as far as seen.
pub const IMAGE_PULL_FAILED_ON_NODE: Cause = Cause {
    id: "ImagePullFailedOnNode",
    meaning: "This node cannot pull an image of the VM; the registry and other nodes are well as \
far as seen.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Storage,
    usual: &[SymptomId::InError, SymptomId::StuckStarting, SymptomId::StuckMigrating],
    possible: &[SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL]),
                Fact::OneOf(
                    CLASS,
                    before_the_image!(
                        class::NO_SPACE,
                        class::IO_ERROR,
                        class::LIMIT,
                        class::OUT_OF_MEMORY,
                        class::READ_ONLY,
                        class::INSUFFICIENT
                    ),
                ),
                Fact::Not(SIGNATURE, &["image-pull-backoff", "registry-server-error"]),
            ]),
            text: "pulling an image fails on this node",
        },
        // A look and a text of one failure count once.
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: OWN_REGISTRY_NOT_REACHED,
            text: "this node was tried, and does not reach the registry of the VM's image",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: Look::All(&[Look::Present(PodImageWaiting, &[]), REGISTRY_NOT_REACHED]),
            text: "a container of the pod waits for its image, and this node does not reach a registry",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(SIGNATURE, &["sandbox-image-failed"])]),
            text: "the runtime does not get the sandbox's own image",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::UNPACK]),
                Fact::OneOf(CLASS, &[class::NO_SPACE, class::READ_ONLY]),
            ]),
            text: "an image does not fit on this node",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::RESOLVE_NAME, operation::HANDSHAKE]),
            ]),
            text: "the runtime cannot resolve or trust the registry's name",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[Fact::OneOf(OPERATION, &[operation::PULL])]),
            text: "pulling an image fails",
        },
        Clue {
            group: "wait",
            strength: Strength::Hint,
            look: Look::All(&[
                Look::Present(PodImageWaiting, &[]),
                said(&[Fact::OneOf(OPERATION, &[operation::PULL]), Fact::NoneOf(CLASS, &[class::OTHER])]),
            ]),
            text: "a container of the pod waits for its image, and a text tells why",
        },
        Clue {
            group: "wait",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(PodImageWaiting),
            text: "no container of the pod waits for its image",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Strong,
            look: Look::All(&[Look::Present(PodImageWaiting, &[]), Look::Present(ImagePresentElsewhere, &[])]),
            text: "another node has, or pulled, the image that this pod waits for",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Strong,
            look: Look::All(&[
                said(&[Fact::OneOf(OPERATION, &[operation::PULL])]),
                Look::Present(ImagePresentElsewhere, &[]),
            ]),
            text: "pulling fails here, and another node has the image",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Some,
            look: Look::All(&[PULL_WITHOUT_ANSWER, Look::WellElsewhere(&PULL_WITHOUT_ANSWER)]),
            text: "another node pulled without such an error",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[PULL_WITHOUT_ANSWER, Look::Elsewhere(&PULL_WITHOUT_ANSWER)]),
            text: "another node fails to pull as well",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::StronglyAgainst,
            look: Look::All(&[REGISTRY_NOT_REACHED, Look::Elsewhere(&REGISTRY_NOT_REACHED)]),
            text: "another node does not reach the registry either",
        },
        Clue {
            group: "everywhere",
            strength: Strength::Against,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND, class::UNAUTHORIZED, class::INVALID, class::RATE_LIMITED]),
                Fact::NoneOf(IMAGE, &[]),
            ]),
            text: "the registry answered: what it says holds for every node",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} -l vm.kubevirt.io/name={vm} | sed -n \
'/^Events/,$p'",
            ),
            Step::KubeVirt(
                "crictl pull IMAGE   # on {node}, with the image that the event names; then the same \
on another node",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n {namespace} -l vm.kubevirt.io/name={vm}   # after the repair; \
or move the VM to a node that has the image",
            ),
        ],
        check: &[
            Step::Any(
                "getent hosts REGISTRY; curl -sSI https://REGISTRY/v2/; date; df -h \
/var/lib/containerd /var/lib/containers   # on {node}: name, way, certificate, \
clock, space",
            ),
            Step::Any(
                "the registry and proxy configuration of this runtime: /etc/containerd/certs.d, \
/etc/containers/registries.conf, HTTPS_PROXY of the unit; compare with another node",
            ),
        ],
        prevent: &[Step::Any(
            "the same registry configuration on every node; a mirror near the nodes; pre-pulled \
launcher images",
        )],
    },
    runbook_item: "image pull failures specific to the node",
};
