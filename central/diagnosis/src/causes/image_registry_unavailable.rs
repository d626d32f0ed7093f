//! `ImageRegistryUnavailable`: no node can reach the registry, or it turns all of them away.
//!
//! Told by the same failure on two nodes, be it of a pull or of a look at the registry, or by an answer of the registry itself
//! (server error, too many requests). One node that fails alone says nothing of the registry.

use kulprit_model::{
    FindingCode::{ImagePresentElsewhere, PodImageWaiting},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    causes::image_pull_failed_on_node::{
        OWN_REGISTRY_NOT_REACHED, PULL_WITHOUT_ANSWER, REGISTRY_NOT_REACHED, before_the_image, without_answer,
    },
    symptom::SymptomId,
};

/// A pull that failed before the registry told of the image: without an answer, or turned away.
const PULL_TURNED_AWAY: Look =
    said(&[Fact::OneOf(OPERATION, &[operation::PULL]), Fact::OneOf(CLASS, before_the_image!(class::RATE_LIMITED))]);

/// The image registry is out of reach or turns requests away, on more than one node.
pub const IMAGE_REGISTRY_UNAVAILABLE: Cause = Cause {
    id: "ImageRegistryUnavailable",
    meaning: "The image registry is out of reach or turns requests away, on more than one node.",
    roles: &[Role::Shared],
    scope: Scope::Shared,
    class: Class::Storage,
    usual: &[SymptomId::InError, SymptomId::StuckStarting, SymptomId::StuckMigrating],
    possible: &[SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "nodes",
            strength: Strength::Strong,
            look: Look::All(&[PULL_TURNED_AWAY, Look::Elsewhere(&PULL_TURNED_AWAY)]),
            text: "this node and another one fail to pull in the same way",
        },
        Clue {
            group: "nodes",
            strength: Strength::Strong,
            look: Look::All(&[REGISTRY_NOT_REACHED, OWN_REGISTRY_NOT_REACHED, Look::Elsewhere(&REGISTRY_NOT_REACHED)]),
            text: "this node and another one were tried, and neither reaches the registry",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: OWN_REGISTRY_NOT_REACHED,
            text: "this node does not reach the registry of the VM's image",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL]),
                Fact::OneOf(CLASS, &[class::RATE_LIMITED, class::UNAVAILABLE]),
            ]),
            text: "the registry itself turns the pull away",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL]),
                Fact::OneOf(CLASS, before_the_image!(class::OTHER)),
            ]),
            text: "pulling an image fails",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::StronglyAgainst,
            look: Look::Present(ImagePresentElsewhere, &[]),
            text: "another node has, or pulled, the image",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Against,
            look: Look::All(&[PULL_WITHOUT_ANSWER, Look::WellElsewhere(&PULL_WITHOUT_ANSWER)]),
            text: "another node pulled without such an error",
        },
        Clue {
            group: "wait",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(PodImageWaiting),
            text: "no container of the pod waits for its image",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any("curl -sSI https://REGISTRY/v2/   # from two nodes and from outside the cluster"),
            Step::KubeVirt(
                "kubectl get events -A --field-selector reason=Failed --sort-by=.lastTimestamp | grep \
-i pull | tail -n 20",
            ),
            Step::Any(
                "rate limit: wait, log in with an account, or use a mirror; outage: use a mirror or \
load the image by hand (ctr -n k8s.io image import)",
            ),
        ],
        check: &[Step::Any("the status page and the logs of the registry, of the proxy, and of the DNS between")],
        prevent: &[Step::Any(
            "a mirror or pull-through cache in the cluster; images of running VMs pinned on the \
nodes",
        )],
    },
    runbook_item: "image pull failures",
};
