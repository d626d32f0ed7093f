//! `LauncherContainerFailed`: an init, sidecar or helper container of the launcher pod keeps it unready, or its main
//! process does not come up.
//!
//! The pod's own status says which container and why: a service-mesh proxy, virtiofsd, swtpm, passt, a hook sidecar, a
//! container disk. A container that waits for its image is another matter, and so is a launcher that the memory limit
//! killed.

use kulprit_model::{
    FindingCode::{LauncherContainerFailed, LauncherContainerNotReady, LauncherOomKilled, PodImageWaiting},
    attribute::{ACTOR, CLASS, CONTAINER, OPERATION, REASON, SIGNATURE},
    said::{actor, class, operation},
};

use crate::{
    catalogue::{Advice, Cause, Class, Clue, Fact, Look, Role, Scope, Step, Strength, said},
    symptom::SymptomId,
};

/// A container of the launcher pod fails or does not get ready: init, sidecar, helper, or the launcher process itself.
pub const LAUNCHER_CONTAINER_FAILED: Cause = Cause {
    id: "LauncherContainerFailed",
    meaning: "A container of the launcher pod fails or does not get ready: init, sidecar, helper, \
or the launcher process itself.",
    roles: &[Role::Hosting, Role::Target],
    scope: Scope::Vm,
    class: Class::VirtStack,
    usual: &[SymptomId::StuckStarting, SymptomId::InError, SymptomId::StuckMigrating],
    possible: &[SymptomId::MigrationFailed, SymptomId::StoppedUnexpectedly, SymptomId::EvacuationBlocked],
    rare: &[SymptomId::ExcessiveMigrations, SymptomId::Unspecified],
    clues: &[
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(
                LauncherContainerNotReady,
                &[
                    Fact::NoneOf(CONTAINER, &["compute", "guest-console-log"]),
                    Fact::NoneOf(
                        REASON,
                        &[
                            "ContainerCreating",
                            "PodInitializing",
                            "ErrImagePull",
                            "ImagePullBackOff",
                            "InvalidImageName",
                            "OOMKilled",
                            "Completed",
                        ],
                    ),
                ],
            ),
            text: "a container beside the launcher waits, restarts or failed",
        },
        Clue {
            group: "state",
            strength: Strength::Some,
            look: Look::Present(
                LauncherContainerNotReady,
                &[Fact::NoneOf(
                    REASON,
                    &[
                        "ContainerCreating",
                        "PodInitializing",
                        "ErrImagePull",
                        "ImagePullBackOff",
                        "InvalidImageName",
                        "OOMKilled",
                        "Completed",
                    ],
                )],
            ),
            text: "a container of the launcher pod waits, restarts or failed",
        },
        Clue {
            group: "state",
            strength: Strength::Strong,
            look: Look::Present(
                LauncherContainerFailed,
                &[Fact::NoneOf(CONTAINER, &["compute", "guest-console-log"]), Fact::NoneOf(REASON, &["OOMKilled"])],
            ),
            text: "the container runtime says that a container beside the launcher failed",
        },
        Clue {
            group: "state",
            strength: Strength::Some,
            look: Look::Present(LauncherContainerFailed, &[Fact::NoneOf(REASON, &["OOMKilled"])]),
            text: "the container runtime says that a container of the launcher pod failed",
        },
        Clue {
            group: "state",
            strength: Strength::Against,
            look: Look::Absent(LauncherContainerFailed),
            text: "the container runtime has no container of the launcher pod that failed",
        },
        Clue {
            group: "state",
            strength: Strength::StronglyAgainst,
            look: Look::Absent(LauncherContainerNotReady),
            text: "every container of the launcher pod is ready",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[Fact::OneOf(
                SIGNATURE,
                &[
                    "launcher-capabilities-missing",
                    "container-disk-failed",
                    "domain-xml-hook-failed",
                    "swtpm-failed",
                    "virtiofsd-failed",
                    "passt-failed",
                ],
            )]),
            text: "a helper, a container disk or the launcher process itself cannot be started",
        },
        Clue {
            group: "text",
            strength: Strength::Strong,
            look: said(&[
                Fact::OneOf(OPERATION, &[operation::CREATE_CONTAINER, operation::START_DOMAIN, operation::FORK]),
                Fact::OneOf(
                    CLASS,
                    &[
                        class::CRASHED,
                        class::NOT_FOUND,
                        class::INVALID,
                        class::OTHER,
                        class::TIMEOUT,
                        class::UNAVAILABLE,
                    ],
                ),
                Fact::NoneOf(CONTAINER, &["compute", "guest-console-log"]),
                Fact::Own,
            ]),
            text: "a container beside the launcher does not start",
        },
        Clue {
            group: "text",
            strength: Strength::Good,
            look: said(&[
                Fact::OneOf(ACTOR, &[actor::LAUNCHER, actor::RUNTIME]),
                Fact::OneOf(OPERATION, &[operation::FORK, operation::CREATE_CONTAINER]),
                Fact::OneOf(
                    CLASS,
                    &[class::OTHER, class::CRASHED, class::INVALID, class::UNSUPPORTED, class::NOT_FOUND],
                ),
                Fact::Not(SIGNATURE, &["container-crash-loop"]),
                Fact::Own,
            ]),
            text: "the launcher or another process of the pod cannot be started",
        },
        Clue {
            group: "text",
            strength: Strength::Some,
            look: said(&[Fact::OneOf(OPERATION, &[operation::CREATE_CONTAINER]), Fact::Own]),
            text: "a container of the pod does not start",
        },
        Clue {
            group: "image",
            strength: Strength::Against,
            look: Look::Present(PodImageWaiting, &[]),
            text: "a container waits for its image",
        },
        Clue {
            group: "oom",
            strength: Strength::Against,
            look: Look::Present(LauncherOomKilled, &[]),
            text: "the memory limit killed it",
        },
    ],
    explains: &["MigrationTargetPodFailed"],
    advice: Advice {
        now: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o json | jq \
'.items[].status | (.initContainerStatuses // []) + .containerStatuses | .[] | \
{name,ready,restartCount,state,lastState}'",
            ),
            Step::KubeVirt(
                "kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} --all-containers --tail=50 \
--prefix",
            ),
            Step::KubeVirt(
                "kubectl describe pod -n {namespace} -l vm.kubevirt.io/name={vm} | sed -n \
'/^Events/,$p'",
            ),
        ],
        check: &[
            Step::KubeVirt(
                "kubectl get pod -n {namespace} -l vm.kubevirt.io/name={vm} -o \
jsonpath='{.items[*].status.conditions}'   # readiness gates",
            ),
            Step::Any(
                "the version of the container runtime on {node}: compare it with a node where \
launchers start",
            ),
        ],
        prevent: &[Step::Any(
            "exclude launcher pods from sidecar injection, or make the sidecar start first; test \
hook sidecars on a VM of its own",
        )],
    },
    runbook_item: "virt-launcher stuck",
};
