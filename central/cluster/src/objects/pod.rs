//! Pods: where, in which phase, and what each container says.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Conditions, Meta, Placement, PodRules, Requests, wanted_nodes};
use crate::{index, value};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pod {
    pub(crate) meta: Meta,
    pub(crate) node: Option<String>,
    pub(crate) phase: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    /// When the kubelet took it.
    pub(crate) started_usec: Option<i64>,
    pub(crate) conditions: Conditions,
    /// Init containers first, each in the order of the spec.
    pub(crate) containers: Vec<Container>,
    /// Name of a volume and of the claim behind it.
    pub(crate) claims: Vec<(String, String)>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) wanted_nodes: Vec<String>,
    pub(crate) has_readiness_gates: bool,
    pub(crate) requests: Requests,
    /// Of launchers.
    pub(crate) placement: Option<Box<Placement>>,
    /// What it asks of other pods; `None`: nothing.
    pub(crate) rules: Option<Box<PodRules>>,
}

/// A container, by its spec and its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) is_init: bool,
    /// An init container that runs on beside the others (`restartPolicy: Always`).
    pub(crate) is_sidecar: bool,
    pub(crate) image: Option<String>,
    /// Set once the image is there.
    pub(crate) image_id: Option<String>,
    /// Whether the spec is known, so that a limit that is not there is none.
    pub(crate) has_spec: bool,
    pub(crate) limits: BTreeMap<String, String>,
    pub(crate) ready: Option<bool>,
    pub(crate) n_restarts: i64,
    pub(crate) state: ContainerState,
    pub(crate) last_state: ContainerState,
}

/// What a container does. Times are Unix microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum ContainerState {
    /// Not told.
    #[default]
    NotTold,
    /// It waits.
    Waiting { reason: Option<String>, message: Option<String> },
    /// It runs.
    Running { since_usec: Option<i64> },
    /// It ended.
    Terminated {
        reason: Option<String>,
        message: Option<String>,
        exit_code: Option<i64>,
        signal: Option<i64>,
        at_usec: Option<i64>,
    },
}

impl ContainerState {
    fn read(state: &Value) -> Self {
        let (waiting, running, terminated) =
            (value::at(state, &["waiting"]), value::at(state, &["running"]), value::at(state, &["terminated"]));
        if terminated.is_object() {
            Self::Terminated {
                reason: value::text(terminated, &["reason"]),
                message: value::text(terminated, &["message"]),
                exit_code: value::integer(terminated, &["exitCode"]),
                signal: value::integer(terminated, &["signal"]),
                at_usec: value::time(terminated, &["finishedAt"]),
            }
        } else if running.is_object() {
            Self::Running { since_usec: value::time(running, &["startedAt"]) }
        } else if waiting.is_object() {
            Self::Waiting { reason: value::text(waiting, &["reason"]), message: value::text(waiting, &["message"]) }
        } else {
            Self::NotTold
        }
    }

    pub(crate) const fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    pub(crate) fn waiting_reason(&self) -> Option<&str> {
        match self {
            Self::Waiting { reason, .. } => reason.as_deref(),
            Self::NotTold | Self::Running { .. } | Self::Terminated { .. } => None,
        }
    }

    pub(crate) fn newest_usec(&self) -> Option<i64> {
        match self {
            Self::Running { since_usec } => *since_usec,
            Self::Terminated { at_usec, .. } => *at_usec,
            Self::NotTold | Self::Waiting { .. } => None,
        }
    }
}

impl Pod {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let spec = value::at(object, &["spec"]);
        let status = value::at(object, &["status"]);
        let mut containers = containers(spec, status, "initContainers", "initContainerStatuses", true);
        containers.extend(self::containers(spec, status, "containers", "containerStatuses", false));
        let claims = value::list(spec, &["volumes"]).iter().filter_map(|volume| {
            Some((value::text(volume, &["name"])?, value::text(volume, &["persistentVolumeClaim", "claimName"])?))
        });
        let meta = Meta::read(object)?;
        let is_launcher = index::is_launcher(&meta);
        let rules = PodRules::read(spec, &meta.labels).map(Box::new);
        Some(Self {
            meta,
            node: value::text(spec, &["nodeName"]),
            phase: value::text(status, &["phase"]),
            reason: value::text(status, &["reason"]),
            message: value::text(status, &["message"]),
            started_usec: value::time(status, &["startTime"]),
            conditions: Conditions::read(object),
            containers,
            claims: claims.collect(),
            node_selector: value::map(spec, &["nodeSelector"]),
            wanted_nodes: wanted_nodes(spec),
            has_readiness_gates: !value::list(spec, &["readinessGates"]).is_empty(),
            requests: Requests::read(spec),
            placement: (is_launcher && spec.is_object()).then(|| Placement::read(spec).into()),
            rules,
        })
    }

    pub(crate) fn is_phase(&self, phase: &str) -> bool {
        self.phase.as_deref() == Some(phase)
    }

    /// Whether it is over: nothing of it runs any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether it is ready; `None` if neither its condition nor its containers tell.
    pub(crate) fn is_ready(&self) -> Option<bool> {
        if let Some(condition) = self.conditions.get("Ready") {
            return Some(condition.is_true());
        }
        let mut ready =
            self.containers.iter().filter(|container| !container.is_init).filter_map(|container| container.ready);
        let first = ready.next()?;
        Some(first && ready.all(|is_ready| is_ready))
    }

    /// Whether all of its containers are ready, whatever its gates say.
    pub(crate) fn has_ready_containers(&self) -> Option<bool> {
        if let Some(condition) = self.conditions.get("ContainersReady") {
            return Some(condition.is_true());
        }
        self.is_ready().filter(|is_ready| *is_ready || !self.has_readiness_gates)
    }

    pub(crate) fn compute(&self) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == "compute" && !container.is_init)
    }

    /// When it ended, by the last of its containers.
    pub(crate) fn ended_usec(&self) -> Option<i64> {
        let ends = self.containers.iter().filter_map(|container| match &container.state {
            ContainerState::Terminated { at_usec, .. } => *at_usec,
            ContainerState::NotTold | ContainerState::Waiting { .. } | ContainerState::Running { .. } => None,
        });
        ends.max()
    }

    /// `namespace/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.meta.namespace, self.meta.name)
    }

    /// What `kubectl get pods` prints as STATUS. Source: Kubernetes `pkg/printers/internalversion/printers.go`, `printPod`.
    pub(crate) fn kubectl_status(&self) -> Option<String> {
        let mut status = self.reason.clone().or_else(|| self.phase.clone());
        if self
            .conditions
            .get("PodScheduled")
            .is_some_and(|condition| condition.reason.as_deref() == Some("SchedulingGated"))
        {
            status = Some("SchedulingGated".to_owned());
        }
        let inits: Vec<&Container> = self.containers.iter().filter(|container| container.is_init).collect();
        let mut is_initializing = false;
        for (n_done, container) in inits.iter().enumerate() {
            let word = match &container.state {
                ContainerState::Terminated { exit_code: Some(0), .. } => continue,
                ContainerState::Running { .. } if container.is_sidecar => continue,
                ContainerState::NotTold => continue,
                ContainerState::Terminated { reason, exit_code, signal, .. } => {
                    ended_word(reason.as_deref(), *exit_code, *signal)
                }
                ContainerState::Waiting { reason: Some(reason), .. } if reason != "PodInitializing" => reason.clone(),
                ContainerState::Waiting { .. } | ContainerState::Running { .. } => format!("{n_done}/{}", inits.len()),
            };
            if !self.is_over() {
                status = Some(format!("Init:{word}"));
                is_initializing = true;
            }
            break;
        }
        if !is_initializing {
            let mut has_running = false;
            for container in self.containers.iter().filter(|container| !container.is_init).rev() {
                match &container.state {
                    ContainerState::Waiting { reason: Some(reason), .. } => status = Some(reason.clone()),
                    ContainerState::Terminated { reason, exit_code, signal, .. } => {
                        status = Some(ended_word(reason.as_deref(), *exit_code, *signal));
                    }
                    ContainerState::Running { .. } if container.ready == Some(true) => has_running = true,
                    ContainerState::Running { .. } | ContainerState::Waiting { .. } | ContainerState::NotTold => {}
                }
            }
            if status.as_deref() == Some("Completed") && has_running {
                let is_ready = self.conditions.is_true("Ready");
                status = Some(if is_ready { "Running" } else { "NotReady" }.to_owned());
            }
        }
        if self.meta.deleted_usec.is_some() && !self.is_over() {
            let is_lost = self.reason.as_deref() == Some("NodeLost");
            status = Some(if is_lost { "Unknown" } else { "Terminating" }.to_owned());
        }
        status
    }

    pub(crate) fn newest_usec(&self) -> Option<i64> {
        let of_containers = self.containers.iter().filter_map(|container| container.state.newest_usec()).max();
        [self.meta.created_usec, self.started_usec, self.conditions.newest_usec(), of_containers]
            .into_iter()
            .flatten()
            .max()
    }
}

fn ended_word(reason: Option<&str>, exit_code: Option<i64>, signal: Option<i64>) -> String {
    match (reason, signal, exit_code) {
        (Some(reason), _, _) => reason.to_owned(),
        (None, Some(signal), _) if signal != 0 => format!("Signal:{signal}"),
        (None, _, Some(code)) => format!("ExitCode:{code}"),
        (None, _, None) => "Error".to_owned(),
    }
}

fn containers(spec: &Value, status: &Value, specs: &str, statuses: &str, is_init: bool) -> Vec<Container> {
    let mut containers: Vec<Container> = Vec::new();
    for one in value::list(spec, &[specs]) {
        let Some(name) = value::text(one, &["name"]) else { continue };
        containers.push(Container {
            name,
            is_init,
            is_sidecar: is_init && value::text(one, &["restartPolicy"]).as_deref() == Some("Always"),
            image: value::text(one, &["image"]),
            has_spec: true,
            limits: value::map(one, &["resources", "limits"]),
            ..Container::default()
        });
    }
    for one in value::list(status, &[statuses]) {
        let Some(name) = value::text(one, &["name"]) else { continue };
        let place = containers.iter().position(|container| container.name == name).unwrap_or_else(|| {
            containers.push(Container { name, is_init, ..Container::default() });
            containers.len() - 1
        });
        let container = &mut containers[place];
        container.image = container.image.take().or_else(|| value::text(one, &["image"]));
        container.image_id = value::text(one, &["imageID"]);
        container.ready = value::boolean(one, &["ready"]);
        container.n_restarts = value::integer(one, &["restartCount"]).unwrap_or(0);
        container.state = ContainerState::read(value::at(one, &["state"]));
        container.last_state = ContainerState::read(value::at(one, &["lastState"]));
    }
    containers
}
