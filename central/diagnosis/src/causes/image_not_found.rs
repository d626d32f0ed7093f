//! `ImageNotFound`: the image does not exist under that name, or may not be pulled with these credentials: the same on
//! every node.
//!
//! The registry answered, so way and name server are well. A node that has the image speaks against it, but says
//! nothing if it pulled it before it was deleted.

use kulprit_model::{
    FindingCode::{ImagePresentElsewhere, PodImageWaiting},
    attribute::{CLASS, CONTAINER, OPERATION, REASON},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    causes::image_pull_failed_on_node::{OWN_REGISTRY_NOT_REACHED, before_the_image, without_answer},
    symptom::SymptomId,
};

/// The image does not exist under that name, or its registry does not give it to these credentials.
pub const IMAGE_NOT_FOUND: Cause = Cause {
    id: "ImageNotFound",
    meaning: "The image does not exist under that name, or its registry does not give it to these \
credentials.",
    roles: &[Role::Cluster],
    scope: Scope::Cluster,
    class: Class::Outside,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed],
    rare: &[SymptomId::EvacuationBlocked, SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL]),
                Fact::OneOf(CLASS, &[class::NOT_FOUND, class::UNAUTHORIZED, class::INVALID, class::INCOMPATIBLE]),
            ]),
            text: "the registry answers that there is no such image, or not for these credentials",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL]),
                Fact::OneOf(CLASS, &[class::DENIED, class::UNSUPPORTED]),
            ]),
            text: "the registry denies the image",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: Look::Present(
                PodImageWaiting,
                &[
                    Fact::OneOf(REASON, &["ErrImagePull", "ImagePullBackOff"]),
                    Fact::NoneOf(CONTAINER, &["compute", "guest-console-log"]),
                ],
            ),
            text: "it is the VM's own image that is not pulled, while KubeVirt's is there",
        },
        Clue {
            group: "reach",
            strength: Strength::StronglyAgainst,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::PULL, operation::UNPACK]),
                Fact::OneOf(
                    CLASS,
                    before_the_image!(
                        class::RATE_LIMITED,
                        class::NO_SPACE,
                        class::CORRUPT,
                        class::IO_ERROR,
                        class::LIMIT,
                        class::READ_ONLY
                    ),
                ),
            ]),
            text: "the pull fails before the registry could tell whether there is such an image",
        },
        Clue {
            group: "reach",
            strength: Strength::Against,
            look: OWN_REGISTRY_NOT_REACHED,
            text: "the node does not reach the registry of the VM's image",
        },
        Clue {
            group: "text",
            strength: Strength::Hint,
            look: Look::Present(PodImageWaiting, &[]),
            text: "a container of the pod waits for its image",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: Look::Present(PodImageWaiting, &[Fact::OneOf(REASON, &["InvalidImageName", "ErrImageNeverPull"])]),
            text: "the name of the image, or its pull policy, cannot work",
        },
        Clue {
            group: "wait",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(PodImageWaiting),
            text: "no container of the pod waits for its image",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Against,
            look: Look::Present(ImagePresentElsewhere, &[]),
            text: "another node has the image",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Some,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(OPERATION, &[operation::PULL]),
                    Fact::OneOf(CLASS, &[class::NOT_FOUND, class::UNAUTHORIZED, class::INVALID, class::INCOMPATIBLE]),
                ]),
                Look::Elsewhere(&said(&[
                    Fact::OneOf(OPERATION, &[operation::PULL]),
                    Fact::OneOf(CLASS, &[class::NOT_FOUND, class::UNAUTHORIZED, class::INVALID, class::INCOMPATIBLE]),
                ])),
            ]),
            text: "another node gets the same answer",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} -l vm.kubevirt.io/name={vm} | sed -n \
'/^Events/,$p'",
            ),
            Step::Any(
                "skopeo inspect docker://IMAGE   # name, tag, digest, architecture; with and without \
credentials",
            ),
            Step::KubeVirt("kubectl edit vm -n {namespace} {vm}   # the right image, or an imagePullSecret"),
        ],
        check: &[Step::KubeVirt(
            "kubectl get secret -n {namespace} --field-selector \
type=kubernetes.io/dockerconfigjson",
        )],
        prevent: &[Step::Any("digests that are kept as long as VMs name them; no clean-up of tags in use")],
    },
    runbook_item: "image",
};
