//! A VirtualMachineInstanceMigration from phase to phase, with `migrationState` on the VMI and, at its end, on itself.
//!
//! Source of the shape: two migrations of a real KubeVirt v1.8.4, one that succeeded and one that was aborted.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Kind, Place};
use super::node::RegisteredNode;
use super::object::{drop_finalizer, enter_phase, stamp};
use super::pod::{self, TargetOf};
use super::vm::{CONTROLLER, HANDLER, Launched, Vm, launch, refusal};
use crate::handler::PORTS;

const FINALIZER: &str = "kubevirt.io/migrationJobFinalize";

/// A migration of a VM.
#[derive(Debug)]
pub struct Migration {
    place: Place,
    uid: String,
    object: Value,
    target: Option<Launched>,
    ago: Duration,
}

impl Vm<'_> {
    /// Somebody asks for a migration: `Pending`, `ago` before now in its own words.
    ///
    /// # Errors
    /// If the API server refuses, or the VM has no pod.
    pub fn migrate(&self, name: &str, ago: Duration) -> Result<Migration> {
        self.is_to_move(name, &json!({}), ago)
    }

    /// Its eviction was asked for, by the descheduler or a drain, and virt-controller migrates it away: as [`Vm::migrate`].
    ///
    /// # Errors
    /// If the API server refuses, or the VM has no pod.
    pub fn evacuate(&self, name: &str, by_descheduler: bool, ago: Duration) -> Result<Migration> {
        let mut annotations = json!({"kubevirt.io/evacuationMigration": self.launched()?.node});
        if by_descheduler {
            annotations["kubevirt.io/eviction-source"] = "descheduler".into();
        }
        self.is_to_move(&format!("kubevirt-evacuation-{name}"), &annotations, ago)
    }

    fn is_to_move(&self, name: &str, annotations: &Value, ago: Duration) -> Result<Migration> {
        let (namespace, vm) = (&self.spec.namespace, &self.spec.name);
        let object = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstanceMigration",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"kubevirt.io/vmi-name": vm},
                "annotations": annotations,
                "finalizers": [FINALIZER],
            },
            "spec": {"vmiName": vm},
        });
        let object = self.kubevirt.api.create(Kind::VMIM, namespace, &object)?;
        let uid = object["metadata"]["uid"].as_str().context("the API server gives a UID")?.to_owned();
        let place = Place::new(Kind::VMIM, namespace, name);
        let mut migration = Migration { place, uid, object, target: None, ago };
        let source = self.launched()?.name.clone();
        migration.enter(self, "Pending", |object| {
            object["status"]["migrationState"]["sourcePod"] = source.as_str().into();
        })?;
        Ok(migration)
    }
}

impl Migration {
    /// What is written from now on is stamped as written so long ago.
    pub fn ago(&mut self, ago: Duration) {
        self.ago = ago;
    }

    /// Name and UID of its target pod.
    ///
    /// # Errors
    /// If it has none yet.
    pub fn pod(&self) -> Result<(&str, &str)> {
        let target = self.target()?;
        Ok((&target.name, &target.uid))
    }

    /// Its target pod is made, and taken by a node if there is one: `Scheduling`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn is_taken_by(&mut self, vm: &Vm<'_>, node: Option<&RegisteredNode>) -> Result<()> {
        let of = TargetOf { uid: &self.uid, name: self.place.name() };
        let pod = pod::launcher(&vm.spec, &vm.vmi_uid, node.map(RegisteredNode::name), Some(&of));
        let target = launch(vm.kubevirt, &vm.spec.namespace, &pod, node)?;
        let at = self.now();
        if node.is_some() {
            vm.kubevirt.api.update_status(&pod_place(vm, &target), |pod| pod::begin(pod, &target.address, at))?;
        }
        vm.change_vmi(|vmi| vmi["status"]["activePods"][&target.uid] = target.node.as_str().into())?;
        let text = format!("Created migration target pod {}", target.name);
        self.target = Some(target);
        self.enter(vm, "Scheduling", |_| {})?;
        self.tell(vm, false, "SuccessfulCreate", &text)
    }

    /// Its target pod is made, and the scheduler, a real one, finds no node for it; returns the scheduler's words.
    ///
    /// # Errors
    /// If the API server refuses, or the scheduler finds a node.
    pub fn is_unschedulable(&mut self, vm: &Vm<'_>) -> Result<String> {
        self.is_taken_by(vm, None)?;
        let text = refusal(vm.kubevirt, &pod_place(vm, self.target()?))?;
        let (namespace, name) = (&vm.spec.namespace, &vm.spec.name);
        let told = format!("Migration target pod for VMI [{namespace}/{name}] is currently unschedulable.");
        self.tell(vm, true, "migrationTargetPodUnschedulable", &told)?;
        Ok(text)
    }

    /// Its target pod is ready: `Scheduled` and, handed over, `PreparingTarget`.
    ///
    /// # Errors
    /// If the API server refuses, or there is no target pod.
    pub fn is_handed_over(&mut self, vm: &Vm<'_>) -> Result<()> {
        let (target, source, at) = (self.target()?.clone(), vm.launched()?.clone(), self.now());
        vm.kubevirt.api.update_status(&pod_place(vm, &target), |pod| pod::run(pod, &target.address, at))?;
        self.enter(vm, "Scheduled", |_| {})?;
        vm.change_vmi(|vmi| {
            vmi["metadata"]["labels"]["kubevirt.io/migrationTargetNodeName"] = target.node.as_str().into();
            vmi["status"]["migrationState"] = json!({
                "migrationConfiguration": {
                    "allowAutoConverge": false, "allowPostCopy": false, "allowWorkloadDisruption": false,
                    "bandwidthPerMigration": "0", "completionTimeoutPerGiB": 150,
                    "nodeDrainTaintKey": "kubevirt.io/drain", "parallelMigrationsPerCluster": 5,
                    "parallelOutboundMigrationsPerNode": 2, "progressTimeout": 150,
                    "unsafeMigrationOverride": false, "utilityVolumesTimeout": 150,
                },
                "migrationUid": self.uid,
                "sourceNode": source.node,
                "sourcePod": source.name,
                "targetNode": target.node,
                "targetPod": target.name,
            });
        })?;
        let text = "Migration target pod is ready for preparation by virt-handler.";
        self.tell(vm, false, "SuccessfulHandOver", text)?;
        self.enter(vm, "PreparingTarget", |_| {})
    }

    /// The target's virt-handler listens: `TargetReady`.
    ///
    /// # Errors
    /// If the API server refuses, or there is no target pod.
    pub fn target_is_ready(&mut self, vm: &Vm<'_>) -> Result<()> {
        let target = self.target()?.clone();
        let vmi = vm.change_vmi(|vmi| {
            let state = &mut vmi["status"]["migrationState"];
            state["targetNodeAddress"] = target.address.as_str().into();
            for (port, purpose) in PORTS {
                state["targetDirectMigrationNodePorts"][port.to_string()] = purpose.into();
            }
        })?;
        let ports = PORTS.map(|(port, _)| port.to_string()).join(",");
        let text = format!("Migration Target is listening at {}, on ports: {ports}", target.address);
        vm.tell(&vmi, HANDLER, &target.node, false, "PreparingTarget", &text)?;
        self.enter(vm, "TargetReady", |_| {})
    }

    /// QEMU copies: `Running`, and the VM is shown `Migrating`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn runs(&mut self, vm: &Vm<'_>) -> Result<()> {
        let at = self.now();
        let vmi = vm.change_vmi(|vmi| {
            vmi["status"]["migrationState"]["mode"] = "PreCopy".into();
            vmi["status"]["migrationState"]["startTimestamp"] = stamp(at).into();
        })?;
        vm.tell(&vmi, HANDLER, &vm.launched()?.node, false, "Migrating", "VirtualMachineInstance is migrating.")?;
        self.enter(vm, "Running", |_| {})?;
        vm.change_vm("Migrating", |_| {}).map(drop)
    }

    /// All phases until QEMU copies.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn runs_to(&mut self, vm: &Vm<'_>, node: &RegisteredNode) -> Result<()> {
        self.is_taken_by(vm, Some(node))?;
        self.is_handed_over(vm)?;
        self.target_is_ready(vm)?;
        self.runs(vm)
    }

    /// The VM has arrived: `Succeeded`, and its source pod is over.
    ///
    /// # Errors
    /// If the API server refuses, or there is no target pod.
    pub fn succeeds(&mut self, vm: &mut Vm<'_>) -> Result<()> {
        let (target, source, at) = (self.target()?.clone(), vm.launched()?.clone(), self.now());
        let vmi = vm.change_vmi(|vmi| {
            let state = &mut vmi["status"]["migrationState"];
            state["targetNodeDomainDetected"] = true.into();
            state["targetNodeDomainReadyTimestamp"] = stamp(at).into();
            state["endTimestamp"] = stamp(at).into();
            state["completed"] = true.into();
            vmi["status"]["nodeName"] = target.node.as_str().into();
            let labels = &mut vmi["metadata"]["labels"];
            labels["kubevirt.io/nodeName"] = target.node.as_str().into();
            if let Some(labels) = labels.as_object_mut() {
                labels.remove("kubevirt.io/migrationTargetNodeName");
            }
        })?;
        let text = format!("The VirtualMachineInstance migrated to node {}.", target.node);
        vm.tell(&vmi, HANDLER, &target.node, false, "Migrated", &text)?;
        vm.kubevirt.api.update_status(&pod_place(vm, &source), |pod| pod::complete(pod, at))?;
        self.end(vm, &vmi, "Succeeded")?;
        vm.launched = Some(target);
        vm.change_vm("Running", |_| {})?;
        self.tell(vm, false, "SuccessfulMigration", "Source node reported migration succeeded")
    }

    /// It fails for that reason: `Failed`, and the target pod is deleted.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn fails(&mut self, vm: &Vm<'_>, reason: &str) -> Result<()> {
        let at = self.now();
        let vmi = vm.change_vmi(|vmi| {
            let state = &mut vmi["status"]["migrationState"];
            state["endTimestamp"] = stamp(at).into();
            state["failed"] = true.into();
            state["failureReason"] = reason.into();
        })?;
        let text = format!("VirtualMachineInstance migration uid {} failed. reason:{reason}", self.uid);
        vm.tell(&vmi, HANDLER, &vm.launched()?.node, true, "Migrated", &text)?;
        self.end(vm, &vmi, "Failed")?;
        vm.change_vm("Running", |_| {})?;
        if let Some(target) = self.target.take() {
            vm.kubevirt.api.delete(&pod_place(vm, &target), Some(0))?;
        }
        self.tell(vm, true, "FailedMigration", "source node reported migration failed")
    }

    fn now(&self) -> Timestamp {
        Timestamp::now() - self.ago
    }

    fn target(&self) -> Result<&Launched> {
        self.target.as_ref().with_context(|| format!("{} has no target pod", self.place.name()))
    }

    fn enter(&mut self, vm: &Vm<'_>, phase: &str, change: impl Fn(&mut Value)) -> Result<()> {
        let at = self.now();
        self.object = vm.kubevirt.api.update_status(&self.place, |object| {
            enter_phase(object, phase, at);
            change(object);
        })?;
        Ok(())
    }

    /// Its last phase, with a copy of what the VMI says of it.
    fn end(&mut self, vm: &Vm<'_>, vmi: &Value, phase: &str) -> Result<()> {
        self.enter(vm, phase, |object| {
            object["status"]["migrationState"] = vmi["status"]["migrationState"].clone();
        })?;
        self.object = vm.kubevirt.api.update(&self.place, |object| drop_finalizer(object, FINALIZER))?;
        Ok(())
    }

    fn tell(&self, vm: &Vm<'_>, is_warning: bool, reason: &str, message: &str) -> Result<()> {
        let told = super::object::Told { by: CONTROLLER, on: "", is_warning, reason, message };
        vm.kubevirt.tell(&self.object, told, self.now())
    }
}

fn pod_place(vm: &Vm<'_>, pod: &Launched) -> Place {
    Place::new(Kind::POD, &vm.spec.namespace, &pod.name)
}
