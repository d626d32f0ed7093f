//! What objects say of others, as a table that is kept up to date object by object.
//!
//! An object's words ([`Said`]) are told by it alone: which VM a launcher belongs to, say, may need the VMI whose UID it carries, and
//! is resolved when it is asked for (`joins.rs`). So a change costs what its object says, whatever else there is. Launcher pods carry
//! the VMI's UID, its name as owner and annotation; attachment pods are owned by a launcher pod, importer pods by a claim. Source:
//! KubeVirt `pkg/virt-controller/services/template.go` (`podLabels`), CDI `pkg/controller/common`.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    cluster::Key,
    facts::{image, texts},
    objects::{Claim, Event, Meta, Migration, MigrationState, Node, Object, Pod, Vm, VmVolume, Vmi, whole_image},
};

pub(crate) const LAUNCHER_PREFIX: &str = "virt-launcher-";
const HANDLER_PREFIX: &str = "virt-handler-";

/// What the control plane consists of: the value of the label `kubevirt.io` or `component`, and the beginning of the pods' names.
pub(crate) const CONTROL_PLANE: [&str; 7] = [
    "virt-controller",
    "virt-api",
    "virt-operator",
    "kube-apiserver",
    "etcd",
    "kube-controller-manager",
    "kube-scheduler",
];

/// What an object says of others. Pairs are namespace and name. Each is said by objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// A VMI: it has this UID.
    VmiUid(String),
    /// A VMI: it is on this node.
    VmiOn(String),
    /// A VMI: this node is, was or is to be its place.
    VmiNames(String),
    /// A VMI: it is to leave its node.
    VmiLeaves,
    /// A VMI: it waits for this image.
    VmiWaitsFor(String),
    /// A VMI: it has no node, or its pod finds none.
    VmiSeeksNode,
    /// A VM: its pod finds no node.
    VmSeeksNode,
    /// A VM: it uses this claim.
    VmUses(Key),
    /// A VMI: it uses this claim.
    VmiUses(Key),
    /// A launcher: the UID of its VMI.
    LauncherOfUid(String),
    /// A launcher: its VM, where the UID is not known.
    LauncherOf(Key),
    /// An attachment pod: its launcher.
    AttachmentOf(Key),
    /// An attachment pod: its VM, by the launcher's name.
    AttachmentFor(Key),
    /// An importer: its claim.
    ImporterOf(Key),
    /// An importer: the UID of the claim that it fills.
    ImporterFor(String),
    /// A virt-handler: its node; empty if it has none.
    Handler(String),
    /// A pod of the control plane: what it is.
    Control(&'static str),
    /// A pod: its node.
    PodOn(String),
    /// A launcher or attachment pod: it uses this claim.
    PodUses(Key),
    /// A launcher or attachment pod: it has no node.
    PodSeeksNode,
    /// A pod: it runs from this image.
    PodHas(String),
    /// A pod: it waits for this image.
    PodWaitsFor(String),
    /// A node: it has this image.
    NodeHas(String),
    /// A migration: its VM.
    MigrationOf(Key),
    /// A migration: this node is one of its ends.
    MigrationNames(String),
    /// A migration: it takes a slot.
    MigrationRuns,
    /// A migration: it may wait for a slot.
    MigrationWaits,
    /// A claim: its UID.
    ClaimUid(String),
    /// A claim: its volume.
    ClaimOn(String),
    /// A volume: its claim.
    VolumeFor(Key),
    /// An attachment: its volume.
    AttachmentHolds(String),
    /// An event: its object.
    EventAbout(Key),
    /// An event: its object's kind and name, where those belong to no namespace.
    EventNames(&'static str, String),
    /// An event: the VM of the migration that it is about.
    EventOfMigration(Key),
    /// An event about a launcher: its node.
    EventOn(String),
    /// An event about a launcher: it finds no node.
    EventSeeksNode,
    /// An event about a virt-handler: its node.
    EventOfHandler(String),
    /// An event about KubeVirt's own workloads.
    EventOfWorkload,
    /// An event about a pod of KubeVirt's control plane.
    EventOfControl,
    /// An event about a pod: this image is being pulled.
    EventPulls(String),
    /// An event about a launcher: a pull failed.
    EventFailsToPull,
    /// An event: its image is there.
    EventHas(String),
}

/// Who says what.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeSet<(Said, Arc<Key>)>,
    /// The least key there is.
    least: Arc<Key>,
}

impl Index {
    /// An object says something else than before; nothing if it is gone.
    pub(crate) fn change(&mut self, key: &Key, before: BTreeSet<Said>, now: BTreeSet<Said>) {
        let key = Arc::new(key.clone());
        let (gone, new): (Vec<Said>, Vec<Said>) =
            (before.difference(&now).cloned().collect(), now.difference(&before).cloned().collect());
        for said in gone {
            self.entries.remove(&(said, Arc::clone(&key)));
        }
        self.entries.extend(new.into_iter().map(|said| (said, Arc::clone(&key))));
    }

    /// Keys of objects of a namespace that events are about and whose names begin so, each as often as there are events.
    pub(crate) fn told_of(&self, namespace: &str, prefix: &str) -> impl Iterator<Item = &Key> {
        let from = Said::EventAbout((namespace.to_owned(), prefix.to_owned()));
        let (namespace, prefix) = (namespace.to_owned(), prefix.to_owned());
        let next = self.entries.range((from, Arc::clone(&self.least))..).map_while(|(said, _)| match said {
            Said::EventAbout(about) => Some(about),
            _ => None,
        });
        next.take_while(move |about| about.0 == namespace && about.1.starts_with(&prefix))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys of the objects that say this, sorted.
    pub(crate) fn of(&self, said: Said) -> impl Iterator<Item = &Key> {
        let next = self.entries.range((said.clone(), Arc::clone(&self.least))..);
        next.take_while(move |(own, _)| *own == said).map(|(_, key)| &**key)
    }

    /// Everything said from `from` on, while `is` holds.
    pub(crate) fn while_said(&self, from: Said, is: impl Fn(&Said) -> bool) -> impl Iterator<Item = &Said> {
        let next = self.entries.range((from, Arc::clone(&self.least))..);
        next.map(|(said, _)| said).take_while(move |said| is(said))
    }
}

/// What a pod is, by its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Handler,
    Control(&'static str),
    Launcher,
    Attachment,
    Other,
}

pub(crate) fn role(pod: &Pod) -> Role {
    let label = pod.meta.label("kubevirt.io");
    let name = pod.meta.name.as_str();
    if label == Some("virt-handler") || name.starts_with(HANDLER_PREFIX) {
        Role::Handler
    } else if let Some(what) = control_part(pod) {
        Role::Control(what)
    } else if is_attachment(pod) {
        Role::Attachment
    } else if is_launcher(&pod.meta) {
        Role::Launcher
    } else {
        Role::Other
    }
}

/// By its label or its name.
pub(crate) fn is_launcher(meta: &Meta) -> bool {
    meta.label("kubevirt.io") == Some("virt-launcher") || meta.name.starts_with(LAUNCHER_PREFIX)
}

pub(crate) fn is_attachment(pod: &Pod) -> bool {
    pod.meta.name.starts_with("hp-volume-")
}

/// Whether it brings a CSI driver: it carries the sidecar that registers one.
pub(crate) fn is_driver(pod: &Pod) -> bool {
    pod.containers.iter().any(|container| container.name.ends_with("registrar"))
}

fn control_part(pod: &Pod) -> Option<&'static str> {
    let namespace = pod.meta.namespace.as_str();
    let is_systems = namespace.is_empty() || namespace.starts_with("kube-") || namespace.starts_with("openshift-");
    CONTROL_PLANE.into_iter().filter(|what| what.starts_with("virt-") || is_systems).find(|what| {
        let is_labelled = ["kubevirt.io", "component"].into_iter().any(|label| pod.meta.label(label) == Some(what));
        is_labelled || pod.meta.name.strip_prefix(what).is_some_and(|rest| rest.starts_with('-'))
    })
}

/// The VM of a launcher by its owner, its annotation or its name.
pub(crate) fn vm_named_by(launcher: &Pod) -> Option<&str> {
    let meta = &launcher.meta;
    let by_owner = meta.owner("VirtualMachineInstance").map(|owner| owner.name.as_str());
    by_owner
        .or_else(|| meta.annotation("kubevirt.io/domain"))
        .or_else(|| meta.label("vm.kubevirt.io/name"))
        .or_else(|| vm_of_launcher_name(&meta.name))
}

/// The claim that a pod of CDI fills: by its owner, or by its own name; and its UID, if that is all that is told.
pub(crate) fn claim_named_by(pod: &Pod) -> Option<(&str, Option<&str>)> {
    let name = pod.meta.name.as_str();
    let is_cdis = pod.meta.labels.keys().any(|label| label.starts_with("cdi.kubevirt.io"))
        || pod.meta.label("app") == Some("containerized-data-importer")
        || name.starts_with("importer-");
    if !is_cdis {
        return None;
    }
    let owner = pod.meta.owner("PersistentVolumeClaim").map(|owner| owner.name.as_str());
    let by_name = || ["importer-", "cdi-upload-"].into_iter().find_map(|prefix| name.strip_prefix(prefix));
    let claim = owner.or_else(by_name)?;
    // A populator's claim is named after the UID of the one that it fills.
    Some((claim, claim.strip_prefix("prime-")))
}

/// The VM of `virt-launcher-<name>-<5 letters>`.
pub(crate) fn vm_of_launcher_name(pod: &str) -> Option<&str> {
    let (name, suffix) = pod.strip_prefix(LAUNCHER_PREFIX)?.rsplit_once('-')?;
    let is_suffix = suffix.len() == 5 && suffix.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (is_suffix && !name.is_empty()).then_some(name)
}

/// The VM of an event about a migration: by the first launcher that its text names.
pub(crate) fn vm_told_by(event: &Event) -> Option<&str> {
    let pod = event.message.split_whitespace().find(|word| word.starts_with(LAUNCHER_PREFIX))?;
    vm_of_launcher_name(pod).filter(|_| event.about.kind == "VirtualMachineInstanceMigration")
}

/// The VM of an event about a launcher, by the launcher's name.
pub(crate) fn vm_of_launcher_event(event: &Event) -> Option<Key> {
    let name = vm_of_launcher_name(&event.about.name).filter(|_| event.is_about("Pod"))?;
    Some((event.about.namespace.clone(), name.to_owned()))
}

/// Whether an event is about a virt-handler, by its name.
pub(crate) fn is_of_handler(event: &Event) -> bool {
    event.about.kind == "Pod" && event.about.name.starts_with(HANDLER_PREFIX)
}

impl Object {
    /// What it says of others.
    pub(crate) fn says(&self) -> BTreeSet<Said> {
        match self {
            Self::Vm(vm) => vm_says(vm),
            Self::Vmi(vmi) => vmi_says(vmi),
            Self::Migration(migration) => migration_says(migration),
            Self::Pod(pod) => pod_says(pod),
            Self::Node(node) => node_says(node),
            Self::Event(event) => event_says(event),
            Self::Claim(claim) => claim_says(claim),
            Self::Volume(volume) => volume.claim.iter().cloned().map(Said::VolumeFor).collect(),
            Self::Attachment(attachment) => attachment.volume.iter().cloned().map(Said::AttachmentHolds).collect(),
            Self::KubeVirt(_)
            | Self::Policy(_)
            | Self::DataVolume(_)
            | Self::Lease(_)
            | Self::CsiNode(_)
            | Self::Namespace(_) => BTreeSet::new(),
        }
    }
}

fn uses<'v>(namespace: &str, volumes: &'v [VmVolume], said: fn(Key) -> Said) -> impl Iterator<Item = Said> + use<'v> {
    let namespace = namespace.to_owned();
    volumes.iter().filter_map(move |volume| Some(said((namespace.clone(), volume.claim.clone()?))))
}

fn vm_says(vm: &Vm) -> BTreeSet<Said> {
    let seeks = vm.conditions.get("PodScheduled").filter(|condition| condition.is_false()).map(|_| Said::VmSeeksNode);
    uses(&vm.meta.namespace, &vm.volumes, Said::VmUses).chain(seeks).collect()
}

fn vmi_says(vmi: &Vmi) -> BTreeSet<Said> {
    let mut said: BTreeSet<Said> = uses(&vmi.meta.namespace, &vmi.volumes, Said::VmiUses).collect();
    said.extend(vmi.meta.uid.clone().map(Said::VmiUid));
    said.extend(vmi.node.clone().map(Said::VmiOn));
    let labels = ["kubevirt.io/nodeName", "kubevirt.io/migrationTargetNodeName"];
    let of_labels = labels.into_iter().filter_map(|label| vmi.meta.label(label)).map(ToOwned::to_owned);
    let nodes = vmi.node.iter().cloned().chain(of_labels).chain(vmi.active_pods.values().cloned());
    said.extend(nodes.chain(vmi.migration.iter().flat_map(ends)).map(Said::VmiNames));
    let is_refused = vmi.conditions.get("PodScheduled").is_some_and(|condition| condition.is_false());
    said.extend((vmi.node.is_none() || is_refused).then_some(Said::VmiSeeksNode));
    said.extend(vmi.is_to_leave().then_some(Said::VmiLeaves));
    let image = image::waited_for(&vmi.conditions).and_then(|condition| image::quoted(condition.message.as_deref()?));
    said.extend(image.map(|image| Said::VmiWaitsFor(whole_image(image))));
    said
}

fn ends(state: &MigrationState) -> impl Iterator<Item = String> + use<> {
    [state.source_node.clone(), state.target_node.clone()].into_iter().flatten()
}

fn migration_says(migration: &Migration) -> BTreeSet<Said> {
    let mut said: BTreeSet<Said> = migration.state.iter().flat_map(ends).map(Said::MigrationNames).collect();
    said.extend(migration.vm_key().map(Said::MigrationOf));
    said.extend(migration.takes_slot().then_some(Said::MigrationRuns));
    said.extend(migration.may_wait_for_slot().then_some(Said::MigrationWaits));
    said
}

fn pod_says(pod: &Pod) -> BTreeSet<Said> {
    let mut said = BTreeSet::new();
    let namespace = &pod.meta.namespace;
    let key = |name: &str| (namespace.clone(), name.to_owned());
    let role = role(pod);
    match role {
        Role::Handler => _ = said.insert(Said::Handler(pod.node.clone().unwrap_or_default())),
        Role::Control(what) => _ = said.insert(Said::Control(what)),
        Role::Launcher => {
            said.extend(pod.meta.label("kubevirt.io/created-by").map(|uid| Said::LauncherOfUid(uid.to_owned())));
            said.extend(vm_named_by(pod).map(|name| Said::LauncherOf(key(name))));
        }
        Role::Attachment | Role::Other => {}
    }
    if is_attachment(pod)
        && let Some(owner) = pod.meta.owner("Pod")
    {
        said.insert(Said::AttachmentOf(key(&owner.name)));
        said.extend(vm_of_launcher_name(&owner.name).map(|name| Said::AttachmentFor(key(name))));
    }
    if role == Role::Launcher || is_attachment(pod) {
        said.extend(pod.claims.iter().map(|(_, claim)| Said::PodUses(key(claim))));
        said.extend(pod.node.is_none().then_some(Said::PodSeeksNode));
    }
    if let Some((claim, uid)) = claim_named_by(pod) {
        said.insert(Said::ImporterOf(key(claim)));
        said.extend(uid.map(|uid| Said::ImporterFor(uid.to_owned())));
    }
    said.extend(pod.node.clone().map(Said::PodOn));
    said.extend(image::has(pod).map(|image| Said::PodHas(whole_image(image))));
    said.extend(image::waits_for(pod).map(|image| Said::PodWaitsFor(whole_image(image))));
    said
}

fn node_says(node: &Node) -> BTreeSet<Said> {
    node.images.iter().cloned().map(Said::NodeHas).collect()
}

fn claim_says(claim: &Claim) -> BTreeSet<Said> {
    let uid = claim.meta.uid.clone().map(Said::ClaimUid);
    uid.into_iter().chain(claim.volume.clone().map(Said::ClaimOn)).collect()
}

fn event_says(event: &Event) -> BTreeSet<Said> {
    let mut said = BTreeSet::from([Said::EventAbout(event.about_key())]);
    let cluster_wide = ["Node", "PersistentVolume", "VolumeAttachment"];
    let kind = cluster_wide.into_iter().find(|kind| event.about.kind == *kind);
    said.extend(kind.map(|kind| Said::EventNames(kind, event.about.name.clone())));
    let of_migration = vm_told_by(event).map(|name| (event.about.namespace.clone(), name.to_owned()));
    said.extend(of_migration.map(Said::EventOfMigration));
    if vm_of_launcher_event(event).is_some() {
        said.extend(event.node().map(|node| Said::EventOn(node.to_owned())));
        said.extend(event.is_reason("FailedScheduling").then_some(Said::EventSeeksNode));
        said.extend(image::is_failed_pull(event).then_some(Said::EventFailsToPull));
    }
    said.extend(event.host.clone().filter(|_| is_of_handler(event)).map(Said::EventOfHandler));
    said.extend(texts::is_of_workload(event).then_some(Said::EventOfWorkload));
    said.extend(texts::is_of_control(event).then_some(Said::EventOfControl));
    if let Some(image) = image::quoted(&event.message) {
        let is_pull = event.is_about("Pod") && event.is_reason("Pulling");
        said.extend(is_pull.then(|| Said::EventPulls(whole_image(image))));
        said.extend(event.is_reason("Pulled").then(|| Said::EventHas(whole_image(image))));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launchers_name_holds_its_vms() {
        assert_eq!(vm_of_launcher_name("virt-launcher-db-1-kbtkz"), Some("db-1"));
        assert_eq!(vm_of_launcher_name("virt-launcher-db-kbtkz"), Some("db"));
        assert_eq!(vm_of_launcher_name("virt-launcher-kbtkz"), None);
        assert_eq!(vm_of_launcher_name("virt-handler-8v5x2"), None);
        assert_eq!(vm_of_launcher_name("virt-launcher-db-toolong"), None);
    }
}
