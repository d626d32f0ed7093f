//! KubeVirt's own kinds: VirtualMachine, VirtualMachineInstance, its migrations, the configuration.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Conditions, Meta, phase_times, wanted_nodes};
use crate::value;

/// A VirtualMachine.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Vm {
    pub(crate) meta: Meta,
    pub(crate) printable_status: Option<String>,
    pub(crate) conditions: Conditions,
    /// Whether its run strategy wants it to run; `None` if the strategy leaves that to requests, or is not told.
    pub(crate) wants_to_run: Option<bool>,
    pub(crate) volumes: Vec<VmVolume>,
    pub(crate) grace_secs: Option<i64>,
    pub(crate) wanted_nodes: Vec<String>,
    pub(crate) start_failed_usec: Option<i64>,
}

/// A volume of a VM or VMI.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VmVolume {
    pub(crate) name: String,
    /// The claim, by itself or behind a DataVolume of that name.
    pub(crate) claim: Option<String>,
    pub(crate) image: Option<String>,
}

/// A VirtualMachineInstance.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Vmi {
    pub(crate) meta: Meta,
    pub(crate) phase: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) phase_times: Vec<(String, i64)>,
    pub(crate) conditions: Conditions,
    pub(crate) node: Option<String>,
    /// Node of each pod by the pod's UID.
    pub(crate) active_pods: BTreeMap<String, String>,
    pub(crate) migration: Option<MigrationState>,
    pub(crate) evacuation_node: Option<String>,
    pub(crate) eviction_strategy: Option<String>,
    /// `LiveMigration`, or `BlockMigration` where disks are copied along.
    pub(crate) migration_method: Option<String>,
    pub(crate) volumes: Vec<VmVolume>,
    pub(crate) grace_secs: Option<i64>,
    pub(crate) wanted_nodes: Vec<String>,
    pub(crate) cpu_model: Option<String>,
    pub(crate) guest_bytes: Option<i64>,
    /// Resources of host devices and GPUs that it asks for.
    pub(crate) devices: Vec<String>,
    pub(crate) launcher_image: Option<String>,
    /// Whether a guest agent told of the guest's system.
    pub(crate) has_guest_os: bool,
}

/// `status.migrationState` of a VMI or a migration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MigrationState {
    pub(crate) uid: Option<String>,
    pub(crate) source_node: Option<String>,
    pub(crate) source_pod: Option<String>,
    pub(crate) target_node: Option<String>,
    pub(crate) target_pod: Option<String>,
    pub(crate) started_usec: Option<i64>,
    pub(crate) ended_usec: Option<i64>,
    pub(crate) is_completed: bool,
    pub(crate) is_failed: bool,
    pub(crate) is_abort_requested: bool,
    pub(crate) abort_status: Option<String>,
    pub(crate) failure_reason: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) settings: MigrationSettings,
}

/// What a MigrationConfiguration or MigrationPolicy sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MigrationSettings {
    pub(crate) per_cluster: Option<i64>,
    pub(crate) per_node: Option<i64>,
    /// Bytes per second; 0 is no limit.
    pub(crate) bandwidth_bytes: Option<i64>,
    pub(crate) completion_secs_per_gib: Option<i64>,
    pub(crate) progress_secs: Option<i64>,
    pub(crate) allows_auto_converge: Option<bool>,
    pub(crate) allows_post_copy: Option<bool>,
}

/// A VirtualMachineInstanceMigration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Migration {
    pub(crate) meta: Meta,
    pub(crate) vmi_name: Option<String>,
    /// `system-critical`, `system-maintenance`, `user-triggered`.
    pub(crate) priority: Option<String>,
    pub(crate) phase: Option<String>,
    pub(crate) phase_times: Vec<(String, i64)>,
    pub(crate) conditions: Conditions,
    pub(crate) state: Option<MigrationState>,
}

/// The KubeVirt object: its configuration and health.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KubeVirt {
    pub(crate) meta: Meta,
    pub(crate) settings: MigrationSettings,
    pub(crate) conditions: Conditions,
}

/// A MigrationPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MigrationPolicy {
    pub(crate) meta: Meta,
    pub(crate) settings: MigrationSettings,
    /// Labels that a VMI must have; `None`: no selector is there.
    pub(crate) vmi_labels: Option<BTreeMap<String, String>>,
    /// Labels that its namespace must have.
    pub(crate) namespace_labels: Option<BTreeMap<String, String>>,
}

fn volumes(spec: &Value) -> Vec<VmVolume> {
    let volumes = value::list(spec, &["volumes"]).iter().filter_map(|volume| {
        let data_volume = value::text(volume, &["dataVolume", "name"]);
        let ephemeral = ["ephemeral", "persistentVolumeClaim", "claimName"];
        Some(VmVolume {
            name: value::text(volume, &["name"])?,
            claim: data_volume
                .or_else(|| value::text(volume, &["persistentVolumeClaim", "claimName"]))
                .or_else(|| value::text(volume, &ephemeral))
                .or_else(|| value::text(volume, &["memoryDump", "claimName"])),
            image: value::text(volume, &["containerDisk", "image"]),
        })
    });
    volumes.collect()
}

impl Vm {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let spec = value::at(object, &["spec"]);
        let template = value::at(spec, &["template", "spec"]);
        let strategy = value::text(spec, &["runStrategy"]);
        let requests = value::list(object, &["status", "stateChangeRequests"]);
        let is_start_asked = requests.iter().any(|one| value::text(one, &["action"]).as_deref() == Some("Start"));
        // One that was shut down stays off until somebody asks, once virt-controller has taken note of the strategy.
        let is_noted = value::text(object, &["status", "runStrategy"]) == strategy;
        let wants_to_run = match strategy.as_deref() {
            Some("Always" | "Once") => Some(true),
            Some("RerunOnFailure") if !is_noted => Some(true),
            Some("Halted") => Some(false),
            Some(_) => is_start_asked.then_some(true),
            None => value::boolean(spec, &["running"]),
        };
        let mut volumes = volumes(template);
        for name in
            value::list(spec, &["dataVolumeTemplates"]).iter().filter_map(|one| value::text(one, &["metadata", "name"]))
        {
            if !volumes.iter().any(|volume| volume.claim.as_deref() == Some(name.as_str())) {
                volumes.push(VmVolume { name: name.clone(), claim: Some(name), image: None });
            }
        }
        let failure = value::at(object, &["status", "startFailure"]);
        Some(Self {
            meta: Meta::read(object)?,
            printable_status: value::text(object, &["status", "printableStatus"]),
            conditions: Conditions::read(object),
            wants_to_run,
            volumes,
            grace_secs: value::integer(template, &["terminationGracePeriodSeconds"]),
            wanted_nodes: wanted_nodes(template),
            start_failed_usec: value::time(failure, &["lastFailedVMITimestamp"]),
        })
    }
}

impl Vmi {
    /// Whether a drain or an eviction wants it off its node.
    pub(crate) fn is_to_leave(&self) -> bool {
        self.evacuation_node.is_some() || self.conditions.is_true("EvictionRequested")
    }

    pub(crate) fn read(object: &Value) -> Option<Self> {
        let spec = value::at(object, &["spec"]);
        let status = value::at(object, &["status"]);
        let domain = value::at(spec, &["domain"]);
        let memory = value::text(domain, &["memory", "guest"])
            .or_else(|| value::text(status, &["memory", "guestCurrent"]))
            .or_else(|| value::text(domain, &["resources", "requests", "memory"]));
        let devices = ["gpus", "hostDevices"]
            .into_iter()
            .flat_map(|kind| value::list(domain, &["devices", kind]))
            .filter_map(|device| value::text(device, &["deviceName"]));
        let state = value::at(status, &["migrationState"]);
        Some(Self {
            meta: Meta::read(object)?,
            phase: value::text(status, &["phase"]),
            reason: value::text(status, &["reason"]),
            phase_times: phase_times(object),
            conditions: Conditions::read(object),
            node: value::text(status, &["nodeName"]),
            active_pods: value::map(status, &["activePods"]),
            migration: state.is_object().then(|| MigrationState::read(state)),
            evacuation_node: value::text(status, &["evacuationNodeName"]),
            eviction_strategy: value::text(spec, &["evictionStrategy"]),
            migration_method: value::text(status, &["migrationMethod"]),
            volumes: volumes(spec),
            grace_secs: value::integer(spec, &["terminationGracePeriodSeconds"]),
            wanted_nodes: wanted_nodes(spec),
            cpu_model: value::text(domain, &["cpu", "model"]),
            guest_bytes: memory.as_deref().and_then(value::quantity),
            devices: devices.collect(),
            launcher_image: value::text(status, &["launcherContainerImageVersion"]),
            has_guest_os: value::text(status, &["guestOSInfo", "id"]).is_some()
                || value::text(status, &["guestOSInfo", "name"]).is_some(),
        })
    }

    pub(crate) fn is_phase(&self, phase: &str) -> bool {
        self.phase.as_deref() == Some(phase)
    }

    /// When its present phase began.
    pub(crate) fn phase_since_usec(&self) -> Option<i64> {
        since(self.phase.as_deref(), &self.phase_times)
    }

    /// Whether it was ever Running; `None` where its phases are not told.
    pub(crate) fn has_run(&self) -> Option<bool> {
        (!self.phase_times.is_empty()).then(|| self.phase_times.iter().any(|(name, _)| name == "Running"))
    }
}

/// When a phase began, the last time that it did.
fn since(phase: Option<&str>, times: &[(String, i64)]) -> Option<i64> {
    let phase = phase?;
    times.iter().rev().find(|(name, _)| name == phase).map(|(_, usec)| *usec)
}

impl MigrationState {
    fn read(state: &Value) -> Self {
        let node = |side: &str, key: &str| value::text(state, &[side, key]);
        Self {
            uid: value::text(state, &["migrationUid"]).or_else(|| value::text(state, &["migrationUID"])),
            source_node: value::text(state, &["sourceNode"]).or_else(|| node("sourceState", "node")),
            source_pod: value::text(state, &["sourcePod"]).or_else(|| node("sourceState", "pod")),
            target_node: value::text(state, &["targetNode"]).or_else(|| node("targetState", "node")),
            target_pod: value::text(state, &["targetPod"]).or_else(|| node("targetState", "pod")),
            started_usec: value::time(state, &["startTimestamp"]),
            ended_usec: value::time(state, &["endTimestamp"]),
            is_completed: value::boolean(state, &["completed"]).unwrap_or(false),
            is_failed: value::boolean(state, &["failed"]).unwrap_or(false),
            is_abort_requested: value::boolean(state, &["abortRequested"]).unwrap_or(false),
            abort_status: value::text(state, &["abortStatus"]),
            failure_reason: value::text(state, &["failureReason"]),
            policy: value::text(state, &["migrationPolicyName"]),
            settings: MigrationSettings::read(value::at(state, &["migrationConfiguration"])),
        }
    }

    /// How it ended: `Some(true)` well, `Some(false)` not, `None` if it runs or is not begun.
    pub(crate) fn outcome(&self) -> Option<bool> {
        if self.is_failed {
            Some(false)
        } else if self.is_completed {
            Some(true)
        } else {
            None
        }
    }
}

impl MigrationSettings {
    fn read(settings: &Value) -> Self {
        Self {
            per_cluster: value::integer(settings, &["parallelMigrationsPerCluster"]),
            per_node: value::integer(settings, &["parallelOutboundMigrationsPerNode"]),
            bandwidth_bytes: value::text(settings, &["bandwidthPerMigration"]).as_deref().and_then(value::quantity),
            completion_secs_per_gib: value::integer(settings, &["completionTimeoutPerGiB"]),
            progress_secs: value::integer(settings, &["progressTimeout"]),
            allows_auto_converge: value::boolean(settings, &["allowAutoConverge"]),
            allows_post_copy: value::boolean(settings, &["allowPostCopy"]),
        }
    }
}

impl Migration {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let meta = Meta::read(object)?;
        let state = value::at(object, &["status", "migrationState"]);
        let owner = meta.owner("VirtualMachineInstance").map(|owner| owner.name.clone());
        Some(Self {
            vmi_name: value::text(object, &["spec", "vmiName"])
                .or_else(|| meta.label("kubevirt.io/vmi-name").map(ToOwned::to_owned))
                .or(owner),
            priority: value::text(object, &["spec", "priority"]),
            phase: value::text(object, &["status", "phase"]),
            phase_times: phase_times(object),
            conditions: Conditions::read(object),
            state: state.is_object().then(|| MigrationState::read(state)),
            meta,
        })
    }

    /// Namespace and name of its VM.
    pub(crate) fn vm_key(&self) -> Option<(String, String)> {
        Some((self.meta.namespace.clone(), self.vmi_name.clone()?))
    }

    /// Whether it counts as one of those that run.
    pub(crate) fn takes_slot(&self) -> bool {
        !self.is_final() && !self.may_wait_for_slot() && self.phase.as_deref() != Some("WaitingForSync")
    }

    /// Whether it is not begun.
    pub(crate) fn may_wait_for_slot(&self) -> bool {
        matches!(self.phase.as_deref(), Some("" | "Pending") | None)
    }

    /// The node that it leaves, if it tells.
    pub(crate) fn source_node(&self) -> Option<&str> {
        self.state.as_ref()?.source_node.as_deref()
    }

    pub(crate) fn is_final(&self) -> bool {
        matches!(self.phase.as_deref(), Some("Succeeded" | "Failed"))
            || self.state.as_ref().is_some_and(|state| state.outcome().is_some())
    }

    pub(crate) fn outcome(&self) -> Option<bool> {
        match self.phase.as_deref() {
            Some("Succeeded") => Some(true),
            Some("Failed") => Some(false),
            _ => self.state.as_ref().and_then(MigrationState::outcome),
        }
    }

    pub(crate) fn phase_since_usec(&self) -> Option<i64> {
        since(self.phase.as_deref(), &self.phase_times)
    }

    /// When it ended, if it did.
    pub(crate) fn ended_usec(&self) -> Option<i64> {
        let by_state = self.state.as_ref().and_then(|state| state.ended_usec);
        let by_phase = || self.phase_since_usec().filter(|_| self.is_final());
        by_state.or_else(by_phase)
    }

    /// When it was asked for.
    pub(crate) fn created_usec(&self) -> Option<i64> {
        self.meta.created_usec.or_else(|| self.phase_times.first().map(|(_, usec)| *usec))
    }
}

impl KubeVirt {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        Some(Self {
            meta: Meta::read(object)?,
            settings: MigrationSettings::read(value::at(object, &["spec", "configuration", "migrations"])),
            conditions: Conditions::read(object),
        })
    }
}

impl MigrationPolicy {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let spec = value::at(object, &["spec"]);
        let selector = |name: &str| {
            let path = ["selectors", name];
            value::at(spec, &path).is_object().then(|| value::map(spec, &path))
        };
        Some(Self {
            meta: Meta::read(object)?,
            settings: MigrationSettings::read(spec),
            vmi_labels: selector("virtualMachineInstanceSelector"),
            namespace_labels: selector("namespaceSelector"),
        })
    }
}
