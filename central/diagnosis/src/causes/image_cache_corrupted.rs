//! `ImageCacheCorrupted`: the image is on the node, and damaged: a layer that is missing, a digest that does not match,
//! a program that is empty.
//!
//! The runtime says so while it unpacks or starts; the same image works elsewhere. If it fails the same way on every
//! node, the image itself is wrong (another architecture, say).

use kulprit_model::{
    FindingCode::{FilesystemError, ImagePresentElsewhere},
    attribute::{CLASS, OPERATION},
    said::{class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// The node's copy of an image is damaged: missing layers, wrong digests, empty files.
pub const IMAGE_CACHE_CORRUPTED: Cause = Cause {
    id: "ImageCacheCorrupted",
    meaning: "The node's copy of an image is damaged: missing layers, wrong digests, empty files.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Node,
    class: Class::Storage,
    usual: &[SymptomId::InError, SymptomId::StuckStarting],
    possible: &[SymptomId::StuckMigrating, SymptomId::MigrationFailed, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::UNPACK]),
                Fact::OneOf(CLASS, &[class::CORRUPT, class::NOT_FOUND, class::IO_ERROR, class::EXISTS, class::INVALID]),
            ]),
            text: "an image cannot be unpacked or read from the local store",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(
                    OPERATION,
                    &[operation::PULL, operation::CREATE_CONTAINER, operation::CREATE_SANDBOX, operation::RECLAIM],
                ),
                Fact::OneOf(CLASS, &[class::CORRUPT]),
            ]),
            text: "what was pulled or is started is damaged",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[Fact::OneOf(OPERATION, &[operation::UNPACK]), Fact::Not(CLASS, &["no-space"])]),
            text: "unpacking an image fails",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Good,
            look: Look::All(&[
                said(&[
                    Fact::OneOf(OPERATION, &[operation::UNPACK, operation::PULL, operation::CREATE_CONTAINER]),
                    Fact::OneOf(CLASS, &[class::CORRUPT, class::NOT_FOUND]),
                ]),
                Look::Present(ImagePresentElsewhere, &[]),
            ]),
            text: "another node runs the same image",
        },
        Clue {
            group: "elsewhere",
            strength: Strength::Against,
            look: Look::Elsewhere(&said(&[
                Fact::OneOf(OPERATION, &[operation::UNPACK, operation::CREATE_CONTAINER]),
                Fact::OneOf(CLASS, &[class::CORRUPT]),
            ])),
            text: "another node says the same of it",
        },
        Clue {
            group: "disk",
            strength: Strength::Hint,
            look: Look::Happened(FilesystemError, &[]),
            text: "the kernel reported an error of a file system",
        },
    ],
    explains: &["LauncherContainerFailed", "MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::Any(
                "crictl images --digests | grep IMAGE; crictl rmi IMAGE && crictl pull IMAGE   # on \
{node}",
            ),
            Step::Any(
                "ctr -n k8s.io content check; ctr -n k8s.io images check | grep -v complete   # \
containerd: which layers are missing",
            ),
            Step::KubeVirt(
                "kubectl delete pod -n {namespace} -l vm.kubevirt.io/name={vm}   # after the image \
was pulled anew",
            ),
        ],
        check: &[
            Step::Any(
                "dmesg -T | grep -iE 'EXT4-fs error|XFS.*corrupt|I/O error' | tail   # on {node}: a \
disk that damages files",
            ),
            Step::Any("was the node reset or powered off while it pulled?"),
        ],
        prevent: &[Step::Any(
            "shut nodes down in order; a journalling file system with barriers under the image \
store",
        )],
    },
    runbook_item: "local image cache corruption",
};
