//! How the container runtime is: its systemd unit, its answers over CRI, its shims, the containers of launchers.
//!
//! A runtime whose unit does not run is not asked, and is not unresponsive. One that answers one call and not another is: the
//! kubelet's PLEG needs the lists, and whoever starts a pod all of them. What a container of a launcher says is the runtime's
//! word before Kubernetes has it: an end with an error that no later attempt has made good. Source: k8s.io/cri-api v0.36,
//! kubelet `pkg/kubelet/pleg/generic.go`.

use kulprit_host::cri::{Container, ContainerState, RuntimeInfo};
use kulprit_host::process::{ProcessId, TaskState};
use kulprit_host::systemd::UnitObservation;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::kubelet::{changed_at, is_active, is_wanted, unit_facts};
use crate::say::{PROCFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

/// What was asked by CRI.
const CRI: &str = "cri";
const SYSTEMD: &str = "systemd";
/// A container that was made is started at once: kubelet's own deadline for a call is 2 min.
const CREATED_USEC: i64 = 120_000_000;
/// A pod that ended with a container that failed is spoken of for so long: as long as an occurrence counts in full.
const RECENT_USEC: i64 = 900_000_000;
/// The reason of a container that the memory limit killed.
const OOM_KILLED: &str = "OOMKilled";
/// Exit codes of a container that was ended by SIGTERM, or by SIGKILL after its grace period.
const BY_SIGTERM: i32 = 143;
const BY_SIGKILL: i32 = 137;
/// Most of a runtime's text that is kept, characters.
const MESSAGE_CHARS: usize = 300;

/// What a runtime gave to our calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All were answered.
    Answered {
        /// Which runtime it is, `containerd 2.4.2`; may be empty.
        words: String,
    },
    /// One is not answered yet.
    Late {
        /// Which, `ListContainers`.
        call: &'static str,
        /// Since when we wait; an earlier call that was given up counts.
        since: Moment,
        /// State of the runtime's main process, where that was seen.
        process: Option<TaskState>,
    },
    /// It answered with an error, or not in its protocol, or the connection broke or was refused.
    Failed {
        /// One of the `FAILURE_*` values.
        failure: &'static str,
        /// In words.
        text: String,
        /// Since when it has been so.
        since: Moment,
    },
    /// It was not asked, and why: its unit does not run.
    NotAsked(String),
    /// Our side failed, or it only starts.
    Unknown(String),
}

/// The unit of a runtime. A unit that nobody wants to run is well when it does not, as a kubelet's.
#[must_use]
pub fn judge_unit(at: Moment, unit: &UnitObservation, was_active: bool) -> Verdict {
    let (code, subject) = (FindingCode::RuntimeInactive, Subject::unit(unit.name.as_str()));
    let Some(active_state) = unit.active_state.as_deref() else {
        return Verdict::State(unknown(code, &subject, format!("systemd gave no ActiveState of {}", unit.name)));
    };
    let text = format!("{} is {active_state} ({})", unit.name, unit.sub_state.as_deref().unwrap_or("no SubState"));
    if is_active(unit) || (active_state == "inactive" && !was_active && !is_wanted(unit)) {
        return Verdict::State(absent(code, &subject, at, SYSTEMD, text));
    }
    let since = changed_at(at, unit);
    let inactive = present(code, &subject, since, SYSTEMD, unit_facts(unit), text);
    Verdict::State(StateVerdict { since: Some(since), ..inactive })
}

/// Whether the runtime runs by its socket alone, where systemd could not be asked.
#[must_use]
pub fn judge_inactive_by_socket(at: Moment, unit: &str, answer: &Answer, why_no_unit: &str) -> Verdict {
    let (code, subject) = (FindingCode::RuntimeInactive, Subject::unit(unit));
    Verdict::State(match answer {
        Answer::Answered { .. } | Answer::Late { .. } => {
            absent(code, &subject, at, CRI, "its socket takes connections")
        }
        Answer::Failed { failure: attribute::FAILURE_REFUSED, text, .. } => {
            let facts = Attributes::new().with(attribute::FAILURE, attribute::FAILURE_REFUSED);
            present(code, &subject, at, CRI, facts, text.as_str())
        }
        Answer::Failed { .. } | Answer::NotAsked(_) | Answer::Unknown(_) => unknown(code, &subject, why_no_unit),
    })
}

/// Whether the runtime answers.
#[must_use]
pub fn judge_answer(at: Moment, unit: &str, answer: &Answer) -> Verdict {
    let (code, subject) = (FindingCode::RuntimeUnresponsive, Subject::unit(unit));
    Verdict::State(match answer {
        Answer::Answered { words } => absent(code, &subject, at, CRI, format!("it answers: {words}")),
        Answer::NotAsked(why) => absent(code, &subject, at, CRI, format!("it was not asked: {why}")),
        Answer::Unknown(why) => unknown(code, &subject, why.as_str()),
        Answer::Late { call, since, process } => {
            let facts = Attributes::new()
                .with(attribute::WHAT, call)
                .with(attribute::FAILURE, attribute::FAILURE_TIMEOUT)
                .with_some(attribute::PROCESS_STATE, process.map(TaskState::letter));
            let secs = at.usec_since(*since) / 1_000_000;
            let state = match process {
                Some(TaskState::Stopped | TaskState::Traced) => "; its process is stopped (state T)",
                Some(TaskState::Uninterruptible) => "; its process is blocked in the kernel (state D)",
                _ => "",
            };
            let text = format!("{call} has had no answer for {secs} s{state}");
            let late = present(code, &subject, at, CRI, facts, text);
            StateVerdict { since: Some(*since), ..late }
        }
        Answer::Failed { failure, text, since } => {
            let facts = Attributes::new().with(attribute::FAILURE, failure);
            let failed = present(code, &subject, at, CRI, facts, text.as_str());
            StateVerdict { since: Some(*since), ..failed }
        }
    })
}

/// Whether the pod network is ready; `None` when the runtime does not say.
#[must_use]
pub fn judge_network(at: Moment, unit: &str, source: &str, info: &RuntimeInfo) -> Option<Verdict> {
    let (code, subject) = (FindingCode::RuntimeNetworkNotReady, Subject::unit(unit));
    Some(Verdict::State(match info.is_network_ready? {
        true => absent(code, &subject, at, source, "NetworkReady is true"),
        false => {
            let message = shorten(info.network_message.as_deref().unwrap_or("no reason given"));
            let facts = Attributes::new().with(attribute::REASON, &message);
            present(code, &subject, at, source, facts, format!("NetworkReady is false: {message}"))
        }
    }))
}

/// The pod network by a runtime that is not the kubelet's: what it thinks of it is nothing to any pod.
#[must_use]
pub fn judge_network_elsewhere(at: Moment, unit: &str) -> Verdict {
    let text = "it runs no container, and another runtime runs the pods";
    Verdict::State(absent(FindingCode::RuntimeNetworkNotReady, &Subject::unit(unit), at, CRI, text))
}

/// What the runtime says of itself turned into an answer: cri-dockerd answers for a Docker that does not.
#[must_use]
pub fn answer_of(info: &RuntimeInfo, words: &str, since: Moment) -> Answer {
    if info.is_ready != Some(false) {
        return Answer::Answered { words: words.to_owned() };
    }
    let message = shorten(info.ready_message.as_deref().unwrap_or("no reason given"));
    Answer::Failed { failure: attribute::FAILURE_REFUSED, text: format!("RuntimeReady is false: {message}"), since }
}

/// What a runtime's unit owns when nobody can look.
#[must_use]
pub fn unknown_unit(unit: &str, because: &str) -> Verdict {
    Verdict::State(unknown(FindingCode::RuntimeInactive, &Subject::unit(unit), because))
}

/// The network of a runtime that does not answer is not known.
#[must_use]
pub fn unknown_network(unit: &str, because: &str) -> Verdict {
    Verdict::State(unknown(FindingCode::RuntimeNetworkNotReady, &Subject::unit(unit), because))
}

/// A shim: the parent of a container's first process. `state` and `wchan` are those of its thread `tid`, which is the one that
/// has been blocked for longest, or its leader.
#[must_use]
pub fn judge_shim(at: Moment, id: ProcessId, comm: &str, tid: u32, state: TaskState, wchan: Option<&str>) -> Verdict {
    let subject = Subject::Process { pid: id.pid, start_ticks: id.start_time_ticks };
    let code = FindingCode::RuntimeShimStuck;
    let words = match state {
        TaskState::Uninterruptible if tid != id.pid => "has a thread that is blocked in the kernel",
        TaskState::Uninterruptible => "is blocked in the kernel",
        TaskState::Zombie => "has ended and is not reaped",
        TaskState::Running
        | TaskState::Sleeping
        | TaskState::Stopped
        | TaskState::Traced
        | TaskState::Dead
        | TaskState::Idle
        | TaskState::Other(_) => {
            return Verdict::State(absent(code, &subject, at, PROCFS, format!("{comm} {} runs", id.pid)));
        }
    };
    let in_wchan = wchan.map(|wchan| format!(" in {wchan}")).unwrap_or_default();
    let facts = Attributes::new()
        .with(attribute::PID, id.pid)
        .with(attribute::COMM, comm)
        .with_some(attribute::TID, (tid != id.pid).then_some(tid))
        .with(attribute::PROCESS_STATE, state.letter())
        .with_some(attribute::WCHAN, wchan);
    let text = format!("{comm} {} {words}{in_wchan} (state {})", id.pid, state.letter());
    let stuck = present(code, &subject, at, PROCFS, facts, text);
    Verdict::State(StateVerdict {
        hold_key: Some(format!("{} {tid} {}", state.letter(), wchan.unwrap_or_default())),
        ..stuck
    })
}

/// Whether the pod of a container goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxSeen {
    /// Its sandbox is ready.
    Ready,
    /// Its sandbox has ended: a launcher's pod is never started again, so it ends with the first container that fails, too.
    Ended,
}

/// The containers of a VM's launcher, of every attempt, and how its sandbox is. What ended with its pod counts for a quarter of an
/// hour, and not if a signal ended it as every pod's containers are ended.
#[must_use]
pub fn judge_containers(at: Moment, vm: &Subject, sandbox: SandboxSeen, containers: &[Container]) -> Verdict {
    let code = FindingCode::LauncherContainerFailed;
    // What ended is made good by a later attempt.
    let is_newest = |row: &&Container| {
        let later = |other: &Container| other.name == row.name && other.n_attempts > row.n_attempts;
        !containers.iter().any(later)
    };
    // The launcher's own container says most, and what ended more than what only waits.
    let rank = |row: &&Container| (row.state == ContainerState::Created, row.name != "compute", row.name.clone());
    let failed = containers.iter().filter(is_newest).filter(|row| has_failed(at, sandbox, row)).min_by_key(rank);
    let Some(row) = failed else {
        if containers.is_empty() && sandbox == SandboxSeen::Ready {
            return Verdict::State(unknown(code, vm, "the runtime has a sandbox of its launcher and no container yet"));
        }
        let text = format!("none of the {} containers of its launcher has failed", containers.len());
        return Verdict::State(absent(code, vm, at, CRI, text));
    };
    let facts = Attributes::new().with(attribute::CONTAINER, &row.name).with(attribute::N_RESTARTS, row.n_attempts);
    let (facts, text) = match (&row.state, &row.exit) {
        (ContainerState::Exited, Some(exit)) => {
            let facts = facts.with(attribute::EXIT_CODE, exit.exit_code).with(attribute::REASON, &exit.reason);
            let message = match shorten(&exit.message) {
                message if message.is_empty() => String::new(),
                message => format!(": {message}"),
            };
            (facts, format!("container {} ended with {} ({}){message}", row.name, exit.exit_code, exit.reason))
        }
        (ContainerState::Created, _) => {
            let secs = at.wall_usec.saturating_sub(row.created_usec) / 1_000_000;
            (
                facts.with(attribute::REASON, "Created"),
                format!("container {} was made {secs} s ago and is not started", row.name),
            )
        }
        (ContainerState::Exited | ContainerState::Running | ContainerState::Unknown, _) => (
            facts.with(attribute::REASON, "Unknown"),
            format!("the runtime does not know what container {} does", row.name),
        ),
    };
    let key = format!("{} {}", row.name, row.n_attempts);
    Verdict::State(StateVerdict { hold_key: Some(key), ..present(code, vm, at, CRI, facts, text) })
}

/// What is known of a VM's containers while the runtime does not say.
#[must_use]
pub fn unknown_containers(vm: &Subject, because: &str) -> Verdict {
    Verdict::State(unknown(FindingCode::LauncherContainerFailed, vm, because))
}

fn has_failed(at: Moment, sandbox: SandboxSeen, row: &Container) -> bool {
    match (row.state, sandbox) {
        (ContainerState::Running, _) => false,
        (ContainerState::Exited, SandboxSeen::Ready) => row.exit.as_ref().is_some_and(|exit| exit.exit_code != 0),
        (ContainerState::Exited, SandboxSeen::Ended) => row.exit.as_ref().is_some_and(|exit| {
            let is_recent = at.wall_usec.saturating_sub(exit.finished_usec) < RECENT_USEC;
            is_recent && (exit.reason == OOM_KILLED || ![0, BY_SIGKILL, BY_SIGTERM].contains(&exit.exit_code))
        }),
        (ContainerState::Created, SandboxSeen::Ready) => at.wall_usec.saturating_sub(row.created_usec) >= CREATED_USEC,
        (ContainerState::Unknown, SandboxSeen::Ready) => true,
        (ContainerState::Created | ContainerState::Unknown, SandboxSeen::Ended) => false,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests;
