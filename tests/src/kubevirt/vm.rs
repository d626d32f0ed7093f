//! A VM's objects (VirtualMachine, VirtualMachineInstance, launcher pod) from phase to phase, as virt-controller and virt-handler write them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Kind, Place};
use super::node::RegisteredNode;
use super::object::{Told, drop_finalizer, enter_phase, set_condition, stamp};
use super::{KubeVirt, SERVED_LIMIT, pod};
use crate::kubernetes::Requested;
use crate::launcher::Launcher;
use crate::wait;

/// How long kubelet may take to end a pod whose processes are gone, its clean-up included.
const KUBELET_LIMIT: Duration = Duration::from_secs(90);
/// virt-controller's own finalizer, and the one that waits for virt-handler.
const FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";
const HANDLERS_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";
pub(super) const CONTROLLER: &str = "virtualmachine-controller";
pub(super) const HANDLER: &str = "virt-handler";
/// Where a VMI stands in the words of `status.conditions[Ready]`.
const NOT_RUNNING: (&str, &str) = ("GuestNotRunning", "Guest VM is not reported as running");
const TERMINATING: (&str, &str) = ("PodTerminating", "virt-launcher pod is terminating");

/// What a VM is asked to be.
#[derive(Clone, Debug)]
#[must_use]
pub struct VmSpec {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) grace_secs: u32,
    pub(super) claims: Vec<String>,
    pub(super) node_selector: Vec<(String, String)>,
}

impl VmSpec {
    /// A small VM on a container disk, with a grace period of 30 s.
    pub fn new(namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { namespace, name, grace_secs: 30, claims: Vec::new(), node_selector: Vec::new() }
    }

    /// How long its guest has to shut down.
    pub fn grace_secs(self, grace_secs: u32) -> Self {
        Self { grace_secs, ..self }
    }

    /// Puts one of its disks on a PersistentVolumeClaim, which nobody makes.
    pub fn claim(mut self, name: &str) -> Self {
        self.claims.push(name.to_owned());
        self
    }

    /// Has it run only on nodes with that label.
    pub fn node_selector(mut self, key: &str, value: &str) -> Self {
        self.node_selector.push((key.to_owned(), value.to_owned()));
        self
    }

    fn template(&self) -> Value {
        let mut volumes =
            vec![json!({"name": "root", "containerDisk": {"image": "registry.example/lab/guest-idle:1"}})];
        volumes.extend(
            self.claims.iter().map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}})),
        );
        let disks: Vec<Value> =
            volumes.iter().map(|volume| json!({"name": volume["name"], "disk": {"bus": "virtio"}})).collect();
        let mut spec = json!({
            "architecture": "amd64",
            "domain": {
                "cpu": {"cores": 1, "model": "qemu64"},
                "devices": {"disks": disks},
                "machine": {"type": "q35"},
                "memory": {"guest": "128Mi"},
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            },
            "evictionStrategy": "LiveMigrate",
            "terminationGracePeriodSeconds": self.grace_secs,
            "volumes": volumes,
        });
        for (key, value) in &self.node_selector {
            spec["nodeSelector"][key] = value.as_str().into();
        }
        spec
    }
}

/// A launcher pod of a VM.
#[derive(Clone, Debug)]
pub(super) struct Launched {
    pub(super) name: String,
    pub(super) uid: String,
    /// Name and address of its node; empty for none.
    pub(super) node: String,
    pub(super) address: String,
    /// Whether a real kubelet runs it, and writes its status.
    pub(super) is_real: bool,
}

/// A VM that was created, with all that KubeVirt knows of it.
#[derive(Debug)]
pub struct Vm<'kubevirt> {
    pub(super) kubevirt: &'kubevirt KubeVirt,
    pub(super) spec: VmSpec,
    pub(super) vmi_uid: String,
    pub(super) launched: Option<Launched>,
    ago: Duration,
}

impl KubeVirt {
    /// Creates a VM that is to run, and its VMI, as far as `Pending`: `ago` before now in all their words.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn create(&self, spec: VmSpec, ago: Duration) -> Result<Vm<'_>> {
        self.ensure_namespace(&spec.namespace)?;
        let mut vm = Vm { kubevirt: self, spec, vmi_uid: String::new(), launched: None, ago };
        let (namespace, name) = (vm.spec.namespace.clone(), vm.spec.name.clone());
        let object = self.api.create(
            Kind::VM,
            &namespace,
            &json!({
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "metadata": {"name": name, "namespace": namespace, "finalizers": [FINALIZER]},
                "spec": {"runStrategy": "Always", "template": {"spec": vm.spec.template()}},
            }),
        )?;
        vm.begin(&object)?;
        Ok(vm)
    }
}

impl Vm<'_> {
    /// What is written from now on is stamped as written so long ago.
    pub fn ago(&mut self, ago: Duration) {
        self.ago = ago;
    }

    /// UID of its VMI.
    #[must_use]
    pub fn vmi_uid(&self) -> &str {
        &self.vmi_uid
    }

    /// Name and UID of its newest launcher pod.
    ///
    /// # Errors
    /// If it has none.
    pub fn pod(&self) -> Result<(&str, &str)> {
        let pod = self.launched()?;
        Ok((&pod.name, &pod.uid))
    }

    /// It waits for a claim that does not exist: `ErrorPvcNotFound`. virt-controller makes no pod.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn waits_for_claim(&self, claim: &str) -> Result<()> {
        let text = format!("PVC {}/{claim} does not exist, waiting for it to appear", self.spec.namespace);
        let at = self.now();
        let vmi = self.change_vmi(|vmi| {
            let unscheduled = ("PodNotExists", "virt-launcher pod has not yet been scheduled");
            set_condition(vmi, "Ready", false, Some(unscheduled), at);
            set_condition(vmi, "Synchronized", false, Some(("FailedPvcNotFound", &text)), at);
            set_condition(vmi, "PodScheduled", false, Some(("Unschedulable", &text)), at);
        })?;
        self.change_vm("ErrorPvcNotFound", |_| {})?;
        self.tell(&vmi, CONTROLLER, "", true, "FailedPvcNotFound", &text)
    }

    /// Its pod is made, and the scheduler, a real one, finds no node for it: `ErrorUnschedulable` in the scheduler's words.
    ///
    /// # Errors
    /// If the API server refuses, or the scheduler finds a node.
    pub fn is_unschedulable(&mut self) -> Result<String> {
        let place = self.make_pod(None)?;
        let text = refusal(self.kubevirt, &place)?;
        let at = self.now();
        self.change_vmi(|vmi| set_condition(vmi, "PodScheduled", false, Some(("Unschedulable", &text)), at))?;
        self.change_vm("ErrorUnschedulable", |_| {})?;
        Ok(text)
    }

    /// Its pod is made and taken by a node, and its containers are yet to come: `Scheduling`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn is_taken_by(&mut self, node: &RegisteredNode) -> Result<()> {
        let place = self.make_pod(Some(node))?;
        let at = self.now();
        self.kubevirt.api.update_status(&place, |pod| pod::begin(pod, node.address(), at))?;
        Ok(())
    }

    /// Its pod is a real one, started with the UID of its VMI ([`LauncherBuilder::of_vmi`](crate::launcher::LauncherBuilder::of_vmi)):
    /// `Scheduling`. kubelet writes the pod's status.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn is_launched(&mut self, launcher: &Launcher<'_>) -> Result<()> {
        self.is_made(Launched {
            name: launcher.pod_name().to_owned(),
            uid: launcher.pod_uid().to_owned(),
            node: launcher.node().name().to_owned(),
            address: launcher.node().address().to_owned(),
            is_real: true,
        })
    }

    /// As [`Vm::is_launched`], of a pod that was only asked for.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn is_requested(&mut self, pod: &Requested<'_>) -> Result<()> {
        self.is_made(Launched {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            address: pod.address.clone(),
            is_real: true,
        })
    }

    /// virt-controller passes on that a container of its real pod waits for its image: `ErrImagePull` or `ImagePullBackOff`, as kubelet says.
    ///
    /// # Errors
    /// If the API server refuses, or kubelet does not say so in time.
    pub fn waits_for_image(&self) -> Result<()> {
        let place = self.pod_place()?;
        let ((reason, text), _) = wait::wait_for("kubelet to give up pulling", KUBELET_LIMIT, || {
            let pod = self.kubevirt.api.get(&place)?.context("the pod is there")?;
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            let words = waiting["reason"].as_str().zip(waiting["message"].as_str());
            Ok(words
                .filter(|(reason, _)| ["ErrImagePull", "ImagePullBackOff"].contains(reason))
                .map(|(reason, text)| (reason.to_owned(), text.to_owned())))
        })?;
        let at = self.now();
        self.change_vmi(|vmi| set_condition(vmi, "Synchronized", false, Some((&reason, &text)), at))?;
        self.change_vm(&reason, |_| {}).map(drop)
    }

    /// virt-handler cannot have its domain started: an event and a condition with libvirt's words.
    ///
    /// # Errors
    /// If the API server refuses, or it has no pod.
    pub fn does_not_start(&self, says: &str) -> Result<()> {
        let at = self.now();
        let text = format!("server error. command SyncVMI failed: \"{says}\"");
        let why = Some(("Synchronizing with the Domain failed.", text.as_str()));
        let vmi = self.change_vmi(|vmi| set_condition(vmi, "Synchronized", false, why, at))?;
        self.tell(&vmi, HANDLER, &self.launched()?.node, true, "SyncFailed", &text)
    }

    /// Its launcher has given up and ended without a QEMU, which virt-controller passes on: `Failed`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn launcher_gives_up(&self) -> Result<()> {
        let at = self.now();
        self.change_vmi(|vmi| {
            enter_phase(vmi, "Failed", at);
            drop_finalizer(vmi, FINALIZER);
        })
        .map(drop)
    }

    /// Its VMI is over and virt-controller waits before it makes the next: `CrashLoopBackOff`.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn is_in_crash_loop(&self) -> Result<()> {
        let (uid, at) = (self.vmi_uid.as_str(), self.now());
        let loops = |vm: &mut Value| {
            vm["status"]["ready"] = false.into();
            vm["status"]["startFailure"] =
                json!({"consecutiveFailCount": 1, "lastFailedVMIUID": uid, "retryAfterTimestamp": stamp(at)});
            set_condition(vm, "Ready", false, Some(NOT_RUNNING), at);
        };
        self.change_vm("CrashLoopBackOff", loops).map(drop)
    }

    /// Its pod is ready: `Scheduled`, virt-handler's turn.
    ///
    /// # Errors
    /// If the API server refuses, or it has no pod.
    pub fn is_handed_over(&self) -> Result<()> {
        let launched = self.launched()?.clone();
        let at = self.now();
        if !launched.is_real {
            self.kubevirt.api.update_status(&self.pod_place()?, |pod| pod::run(pod, &launched.address, at))?;
        }
        self.kubevirt.api.update(&self.pod_place()?, |pod| {
            pod["metadata"]["labels"]["kubevirt.io/nodeName"] = launched.node.as_str().into();
        })?;
        self.change_vmi(|vmi| {
            vmi["metadata"]["labels"]["kubevirt.io/nodeName"] = launched.node.as_str().into();
            vmi["status"]["nodeName"] = launched.node.as_str().into();
            vmi["status"]["migrationTransport"] = "Unix".into();
            vmi["status"]["migrationMethod"] = "BlockMigration".into();
            enter_phase(vmi, "Scheduled", at);
            for kind in ["LiveMigratable", "StorageLiveMigratable"] {
                set_condition(vmi, kind, true, None, at);
            }
        })?;
        Ok(())
    }

    /// Its guest runs: `Running`.
    ///
    /// # Errors
    /// If the API server refuses, or it has no pod.
    pub fn runs(&self) -> Result<()> {
        let at = self.now();
        let vmi = self.change_vmi(|vmi| {
            enter_phase(vmi, "Running", at);
            set_condition(vmi, "Ready", true, None, at);
        })?;
        self.change_vm("Running", |vm| {
            vm["status"]["ready"] = true.into();
            for kind in ["Ready", "LiveMigratable", "StorageLiveMigratable"] {
                set_condition(vm, kind, true, None, at);
            }
        })?;
        let node = &self.launched()?.node;
        self.tell(&vmi, HANDLER, node, false, "Created", "VirtualMachineInstance defined.")?;
        self.tell(&vmi, HANDLER, node, false, "Started", "VirtualMachineInstance started.")
    }

    /// All of its start: taken by the node, handed over, running.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn runs_on(&mut self, node: &RegisteredNode) -> Result<()> {
        self.is_taken_by(node)?;
        self.is_handed_over()?;
        self.runs()
    }

    /// Somebody asks it to stop: `Stopping`. The VMI and its pod are deleted, and stay until [`Vm::qemu_ends`] and [`Vm::pod_goes`].
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn stop(&self) -> Result<()> {
        self.kubevirt.api.update(&self.place(Kind::VM), |vm| vm["spec"]["runStrategy"] = "Halted".into())?;
        self.end_vmi("Stopping")
    }

    /// Somebody deletes it: `Terminating`, and else as [`Vm::stop`].
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn delete(&self) -> Result<()> {
        self.kubevirt.api.delete(&self.place(Kind::VM), None)?;
        self.end_vmi("Terminating")
    }

    /// virt-handler finds its QEMU gone: `Succeeded` if it shut down, `Failed` if it did not.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn qemu_ends(&self, well: bool) -> Result<()> {
        let at = self.now();
        let vmi = self.change_vmi(|vmi| {
            enter_phase(vmi, if well { "Succeeded" } else { "Failed" }, at);
            drop_finalizer(vmi, FINALIZER);
        })?;
        let text = format!("The VirtualMachineInstance {}.", if well { "was shut down" } else { "crashed" });
        self.tell(&vmi, HANDLER, &self.launched()?.node, !well, "Stopped", &text)
    }

    /// kubelet has ended its pod: the pod and the VMI go, and the VM, if it is deleted. A real kubelet is waited for.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn pod_goes(&mut self) -> Result<()> {
        let (api, at, place) = (&self.kubevirt.api, self.now(), self.pod_place()?);
        if self.launched()?.is_real {
            wait::wait_until("kubelet to end the pod", KUBELET_LIMIT, || Ok(api.get(&place)?.is_none()))?;
        } else {
            api.update_status(&place, |pod| pod::complete(pod, at))?;
            api.delete(&place, Some(0))?;
        }
        self.launched = None;
        self.change_vmi(|vmi| {
            drop_finalizer(vmi, FINALIZER);
            drop_finalizer(vmi, HANDLERS_FINALIZER);
        })?;
        let vm = self.change_vm("Stopped", |vm| {
            vm["status"]["created"] = false.into();
            vm["status"]["ready"] = false.into();
            set_condition(vm, "Ready", false, Some(("VMINotExists", "VMI does not exist")), at);
        })?;
        if vm["metadata"].get("deletionTimestamp").is_some() {
            api.update(&self.place(Kind::VM), |vm| drop_finalizer(vm, FINALIZER))?;
        }
        Ok(())
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now() - self.ago
    }

    pub(super) fn place(&self, kind: Kind) -> Place {
        Place::new(kind, &self.spec.namespace, &self.spec.name)
    }

    pub(super) fn launched(&self) -> Result<&Launched> {
        self.launched.as_ref().with_context(|| format!("{} has no launcher pod", self.spec.name))
    }

    fn pod_place(&self) -> Result<Place> {
        Ok(Place::new(Kind::POD, &self.spec.namespace, &self.launched()?.name))
    }

    pub(super) fn change_vmi(&self, change: impl Fn(&mut Value)) -> Result<Value> {
        // Its kind has no status apart.
        self.kubevirt.api.update(&self.place(Kind::VMI), change)
    }

    pub(super) fn change_vm(&self, printable: &str, change: impl Fn(&mut Value)) -> Result<Value> {
        self.kubevirt.api.update_status(&self.place(Kind::VM), |vm| {
            vm["status"]["printableStatus"] = printable.into();
            change(vm);
        })
    }

    pub(super) fn tell(
        &self,
        about: &Value,
        by: &str,
        on: &str,
        is_warning: bool,
        reason: &str,
        message: &str,
    ) -> Result<()> {
        self.kubevirt.tell(about, Told { by, on, is_warning, reason, message }, self.now())
    }

    fn begin(&mut self, vm: &Value) -> Result<()> {
        let (namespace, name, at) = (&self.spec.namespace, &self.spec.name, self.now());
        let uid = &vm["metadata"]["uid"];
        let mut vmi = json!({
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {},
                "annotations": {"kubevirt.io/vm-generation": "1"},
                "finalizers": [FINALIZER, HANDLERS_FINALIZER],
                "ownerReferences": [{
                    "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": name, "uid": uid,
                    "blockOwnerDeletion": true, "controller": true,
                }],
            },
            "spec": self.spec.template(),
            "status": {
                "guestOSInfo": {},
                "memory": {"guestAtBoot": "128Mi", "guestCurrent": "128Mi", "guestRequested": "128Mi"},
                "runtimeUser": 107,
            },
        });
        enter_phase(&mut vmi, "Pending", at);
        let vmi = self.kubevirt.api.create(Kind::VMI, namespace, &vmi)?;
        self.vmi_uid = vmi["metadata"]["uid"].as_str().context("the API server gives a UID")?.to_owned();
        let vm = self.change_vm("Starting", |vm| {
            vm["status"]["created"] = true.into();
            vm["status"]["runStrategy"] = "Always".into();
            let missing = ("VMIConditionMissing", "VMI is missing the Ready condition");
            set_condition(vm, "Ready", false, Some(missing), at);
        })?;
        let text = format!("Started the virtual machine by creating the new virtual machine instance {name}");
        self.tell(&vm, CONTROLLER, "", false, "SuccessfulCreate", &text)
    }

    fn make_pod(&mut self, node: Option<&RegisteredNode>) -> Result<Place> {
        let object = pod::launcher(&self.spec, &self.vmi_uid, node.map(RegisteredNode::name), None);
        self.is_made(launch(self.kubevirt, &self.spec.namespace, &object, node)?)?;
        self.pod_place()
    }

    /// virt-controller's words on a pod that is there now.
    fn is_made(&mut self, launched: Launched) -> Result<()> {
        let at = self.now();
        let vmi = self.change_vmi(|vmi| {
            vmi["status"]["activePods"][&launched.uid] = launched.node.as_str().into();
            vmi["status"]["launcherContainerImageVersion"] = pod::image().into();
            set_condition(vmi, "Ready", false, Some(NOT_RUNNING), at);
            enter_phase(vmi, "Scheduling", at);
        })?;
        self.change_vm("Starting", |vm| set_condition(vm, "Ready", false, Some(NOT_RUNNING), at))?;
        let text = format!("Created virtual machine pod {}", launched.name);
        self.launched = Some(launched);
        self.tell(&vmi, CONTROLLER, "", false, "SuccessfulCreate", &text)
    }

    fn end_vmi(&self, printable: &str) -> Result<()> {
        let (api, at) = (&self.kubevirt.api, self.now());
        api.delete(&self.place(Kind::VMI), None)?;
        let vmi = self.change_vmi(|vmi| set_condition(vmi, "Ready", false, Some(TERMINATING), at))?;
        if self.launched.is_some() {
            // The grace period in the pod's own spec.
            api.delete(&self.pod_place()?, None)?;
        }
        let vm = self.change_vm(printable, |vm| {
            vm["status"]["ready"] = false.into();
            set_condition(vm, "Ready", false, Some(TERMINATING), at);
        })?;
        let text = format!("Stopped the virtual machine by deleting the virtual machine instance {}", self.vmi_uid);
        self.tell(&vm, CONTROLLER, "", false, "SuccessfulDelete", &text)?;
        let Ok(launched) = self.launched() else { return Ok(()) };
        let text = format!("Deleted virtual machine pod {}", launched.name);
        self.tell(&vmi, CONTROLLER, "", false, "SuccessfulDelete", &text)?;
        self.tell(&vmi, HANDLER, &launched.node, false, "ShuttingDown", "Signaled Graceful Shutdown")
    }
}

/// Creates a launcher pod, which gets its name by the API server.
pub(super) fn launch(
    kubevirt: &KubeVirt,
    namespace: &str,
    pod: &Value,
    node: Option<&RegisteredNode>,
) -> Result<Launched> {
    let pod = kubevirt.api.create(Kind::POD, namespace, pod)?;
    let text =
        |field: &str| Ok::<_, anyhow::Error>(pod["metadata"][field].as_str().context("a pod has it")?.to_owned());
    Ok(Launched {
        name: text("name")?,
        uid: text("uid")?,
        node: node.map(|node| node.name().to_owned()).unwrap_or_default(),
        address: node.map(|node| node.address().to_owned()).unwrap_or_default(),
        is_real: false,
    })
}

/// What the scheduler, a real one, says against every node for a pod.
pub(super) fn refusal(kubevirt: &KubeVirt, pod: &Place) -> Result<String> {
    let (text, _) = wait::wait_for("the scheduler's word", SERVED_LIMIT, || {
        let pod = kubevirt.api.get(pod)?.context("the pod is there")?;
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut refusals = conditions.filter(|one| one["type"] == "PodScheduled" && one["status"] == "False");
        Ok(refusals.find_map(|one| one["message"].as_str().map(str::to_owned)))
    })?;
    Ok(text)
}
