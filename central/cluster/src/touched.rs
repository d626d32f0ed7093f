//! Whom a change concerns: the VMs and nodes whose descriptions read the object that changed.
//!
//! Asked before and after the change, because either state may name somebody. What many VMs read is followed only where what they
//! read of it really differs ([`Reach`]): heartbeats and leases concern their node alone. Too many is a cost, too few a lie:
//! `tests/steps.rs` holds it against fresh clusters.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{Cluster, Key},
    facts::image,
    index::{self, Role, Said, is_driver, role},
    kind::Kind,
    objects::{Event, Meta, Migration, Node, Object, Pod, whole_image},
};

/// What may be described otherwise than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Namespace and name of VMs.
    pub vms: BTreeSet<(String, String)>,
    /// Names of nodes.
    pub nodes: BTreeSet<String>,
    /// Every VM and every node: what all of them read has changed. What changed meanwhile need not be named beside it.
    pub everything: bool,
}

impl Touched {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.nodes.is_empty() && !self.everything
    }

    pub(crate) fn extend(&mut self, other: Self) {
        let Self { vms, nodes, everything } = other;
        self.vms.extend(vms);
        self.nodes.extend(nodes);
        self.everything |= everything;
    }

    fn node(&mut self, name: Option<&str>) {
        self.nodes.extend(name.filter(|name| !name.is_empty()).map(ToOwned::to_owned));
    }
}

/// What of a change is read by others than those that the object names.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Of a node: what VMs read of it.
    node: Option<String>,
    /// Images that are on other nodes than before.
    images: BTreeSet<String>,
    /// Migrations that run, or where they leave from.
    slots: bool,
    /// Migrations that run or wait, or where they leave from: whose turn is next.
    turns: bool,
    /// A VMI is on another node than before: the slot that its migration takes may be another one.
    moved: Option<Key>,
    /// What every VM reads.
    everything: bool,
}

impl Reach {
    pub(crate) fn of(old: Option<&Object>, new: Option<&Object>) -> Self {
        let mut reach = Self::default();
        for_kind(old, new, &mut reach);
        reach
    }
}

fn for_kind(old: Option<&Object>, new: Option<&Object>, reach: &mut Reach) {
    match new.or(old) {
        Some(Object::Node(any)) => {
            let (old, new) = (node(old), node(new));
            if old.map(read_by_vms) != new.map(read_by_vms) {
                reach.node = Some(any.meta.name.clone());
            }
            let images = |node: Option<&Node>| node.map(|node| node.images.clone()).unwrap_or_default();
            if old.map(|node| &node.images) != new.map(|node| &node.images) {
                reach.images = images(old).symmetric_difference(&images(new)).cloned().collect();
            }
        }
        Some(Object::Pod(_)) => {
            let (old, new) = (pod(old), pod(new));
            reach.images = places(old).symmetric_difference(&places(new)).map(|(image, _)| image.clone()).collect();
            reach.everything = old.and_then(shown_of_control) != new.and_then(shown_of_control);
        }
        Some(Object::Migration(_)) => {
            reach.slots = migration(old).and_then(slot) != migration(new).and_then(slot);
            reach.turns = migration(old).and_then(turn) != migration(new).and_then(turn);
        }
        Some(Object::Vmi(any)) => {
            if vmi_node(old) != vmi_node(new) {
                reach.moved = Some((any.meta.namespace.clone(), any.meta.name.clone()));
            }
        }
        Some(Object::Event(_)) => {
            for event in [old, new] {
                let Some(Object::Event(event)) = event else { continue };
                let image = image::quoted(&event.message).filter(|_| event.is_reason("Pulled"));
                reach.images.extend(image.map(whole_image));
            }
        }
        Some(Object::KubeVirt(_) | Object::Policy(_)) => reach.everything = true,
        Some(
            Object::Vm(_)
            | Object::DataVolume(_)
            | Object::Lease(_)
            | Object::Claim(_)
            | Object::Volume(_)
            | Object::Attachment(_)
            | Object::CsiNode(_)
            | Object::Namespace(_),
        )
        | None => {}
    }
}

fn node(object: Option<&Object>) -> Option<&Node> {
    match object {
        Some(Object::Node(node)) => Some(node),
        _ => None,
    }
}

fn pod(object: Option<&Object>) -> Option<&Pod> {
    match object {
        Some(Object::Pod(pod)) => Some(pod),
        _ => None,
    }
}

fn migration(object: Option<&Object>) -> Option<&Migration> {
    match object {
        Some(Object::Migration(migration)) => Some(migration),
        _ => None,
    }
}

fn vmi_node(object: Option<&Object>) -> Option<&str> {
    match object {
        Some(Object::Vmi(vmi)) => vmi.node.as_deref(),
        _ => None,
    }
}

type Quantities<'n> = &'n BTreeMap<String, String>;

/// What VMs read of a node, beside its images.
fn read_by_vms(node: &Node) -> (Vec<&str>, Quantities<'_>, Quantities<'_>, Option<&str>, BTreeMap<&str, &str>) {
    let labels = node.meta.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    (
        node.taints.iter().map(|taint| taint.key.as_str()).collect(),
        &node.allocatable,
        &node.capacity,
        node.kernel.as_deref(),
        labels.filter(|(key, _)| key.contains(".node.kubevirt.io/")).collect(),
    )
}

/// Which image a pod shows to be on which node.
fn places(pod: Option<&Pod>) -> BTreeSet<(String, &str)> {
    let on = pod.and_then(|pod| Some((pod, pod.node.as_deref()?)));
    on.into_iter().flat_map(|(pod, node)| image::has(pod).map(move |image| (whole_image(image), node))).collect()
}

type Shown = (&'static str, Option<bool>, bool, Option<i64>, Option<i64>, Option<String>);

/// What VMs read of a pod of the control plane.
fn shown_of_control(pod: &Pod) -> Option<Shown> {
    let Role::Control(what) = role(pod) else { return None };
    let since = pod.conditions.get("Ready").and_then(|condition| condition.since_usec);
    let status = pod.kubectl_status();
    Some((what, pod.is_ready(), pod.meta.deleted_usec.is_some(), since, pod.conditions.newest_usec(), status))
}

/// The slot that a migration takes: whose, and which node it leaves.
fn slot(migration: &Migration) -> Option<(Option<Key>, Option<&str>)> {
    migration.takes_slot().then(|| (migration.vm_key(), migration.source_node()))
}

/// The same of one that may wait for its slot.
fn turn(migration: &Migration) -> Option<(Option<Key>, Option<&str>)> {
    let is_unfinished = migration.takes_slot() || migration.may_wait_for_slot();
    is_unfinished.then(|| (migration.vm_key(), migration.source_node()))
}

/// UIDs of an object, as it is and as it becomes or was.
fn uids(meta: Option<&Meta>, other: Option<&Object>) -> BTreeSet<String> {
    let other = other.and_then(Object::uid);
    meta.and_then(|meta| meta.uid.clone()).into_iter().chain(other.map(ToOwned::to_owned)).collect()
}

impl Cluster {
    /// Whom an object concerns, as things are. `other` is what it becomes, or was.
    pub(crate) fn concerned(&self, kind: Kind, key: &Key, other: Option<&Object>) -> Touched {
        let mut touched = Touched::default();
        match kind {
            Kind::VirtualMachine => _ = touched.vms.insert(key.clone()),
            Kind::VirtualMachineInstance => {
                touched.vms.insert(key.clone());
                let vmi = self.vmis.get(key);
                touched.node(vmi.and_then(|vmi| vmi.node.as_deref()));
                // Launchers that carry its UID are its own while it is there.
                let uids = uids(vmi.map(|vmi| &vmi.meta), other);
                let keys = uids.into_iter().flat_map(|uid| self.index.of(Said::LauncherOfUid(uid)));
                touched.vms.extend(keys.filter_map(|key| self.vm_of_launcher(self.pods.get(key)?)));
            }
            Kind::VirtualMachineInstanceMigration => {
                touched.vms.extend(self.migrations.get(key).and_then(Migration::vm_key));
                touched.vms.extend(self.vms_told_of(key));
            }
            Kind::Pod => self.concerned_by_pod(key, &mut touched),
            Kind::Event => {
                if let Some(event) = self.events.get(key) {
                    self.concerned_by_event(event, &mut touched);
                }
            }
            Kind::Node | Kind::Lease => touched.node(Some(&key.1)),
            Kind::PersistentVolumeClaim => {
                touched.vms.extend(self.users(key));
                // Importers that carry its UID are its own while it is there.
                let uids = uids(self.claims.get(key).map(|claim| &claim.meta), other);
                for pod in uids.into_iter().flat_map(|uid| self.index.of(Said::ImporterFor(uid))) {
                    let claim = self.pods.get(pod).and_then(|pod| self.claim_of_importer(pod));
                    touched.vms.extend(claim.into_iter().flat_map(|claim| self.users(&claim)));
                }
            }
            Kind::DataVolume => touched.vms.extend(self.users(key)),
            Kind::PersistentVolume => touched.vms.extend(self.users_of_volume(&key.1)),
            Kind::VolumeAttachment => {
                let volume = self.attachments.get(&key.1).and_then(|attachment| attachment.volume.as_deref());
                touched.vms.extend(volume.into_iter().flat_map(|volume| self.users_of_volume(volume)));
            }
            Kind::CsiNode => touched.vms.extend(self.vms_on(&key.1)),
            Kind::KubeVirt | Kind::MigrationPolicy | Kind::Namespace => {}
        }
        touched
    }

    /// Who reads what of a change is read by others.
    pub(crate) fn reached(&self, reach: &Reach) -> Touched {
        let mut touched = Touched { everything: reach.everything, ..Touched::default() };
        if let Some(node) = &reach.node {
            touched.vms.extend(self.vms_on(node));
            touched.vms.extend(self.seekers_of_node());
            // One node alone is no list of nodes.
            touched.everything |= self.nodes.len() <= 2;
        }
        touched.vms.extend(reach.images.iter().flat_map(|image| self.seekers_of_image(image)));
        let moved = reach.moved.as_ref();
        if reach.slots || moved.is_some_and(|vmi| self.migrations_of(vmi).any(Migration::takes_slot)) {
            let waiting = self.index.of(Said::MigrationWaits).filter_map(|key| self.migrations.get(key));
            touched.vms.extend(waiting.filter_map(Migration::vm_key));
        }
        if reach.turns || moved.is_some_and(|vmi| self.migrations_of(vmi).any(|migration| !migration.is_final())) {
            touched.vms.extend(self.index.of(Said::VmiLeaves).cloned());
        }
        touched
    }

    fn concerned_by_pod(&self, key: &Key, touched: &mut Touched) {
        // Events about a launcher, and attachment pods of it, are read by its name while its object is not there.
        let told = index::vm_of_launcher_name(&key.1).map(|name| (key.0.clone(), name.to_owned()));
        touched.vms.extend(told);
        let of_handler = self.events_about(key).filter(|event| index::is_of_handler(event));
        of_handler.for_each(|event| touched.node(event.host.as_deref()));
        let Some(pod) = self.pods.get(key) else { return };
        touched.vms.extend(self.vms_of(pod));
        if role(pod) == Role::Handler || is_driver(pod) {
            touched.node(pod.node.as_deref());
        }
    }

    fn concerned_by_event(&self, event: &Event, touched: &mut Touched) {
        let about = event.about_key();
        if event.is_about("VirtualMachine") || event.is_about("VirtualMachineInstance") {
            touched.vms.insert(about.clone());
        }
        if event.is_about("VirtualMachineInstanceMigration") {
            touched.vms.extend(self.migrations.get(&about).and_then(Migration::vm_key));
            touched.vms.extend(self.vms_told_of(&about));
        }
        if event.is_about("Pod") {
            touched.vms.extend(index::vm_of_launcher_event(event));
            if let Some(pod) = self.pods.get(&about) {
                touched.vms.extend(self.vms_of(pod));
                touched.node(pod.node.as_deref().filter(|_| role(pod) == Role::Handler));
            }
            touched.node(event.host.as_deref().filter(|_| index::is_of_handler(event)));
        }
        if event.is_about("PersistentVolumeClaim") || event.is_about("DataVolume") {
            touched.vms.extend(self.users(&about));
        }
        match event.about.kind.as_str() {
            "Node" => {
                touched.node(Some(&about.1));
                if event.is_removal_of_node() {
                    touched.vms.extend(self.vms_on(&about.1));
                }
            }
            "PersistentVolume" | "VolumeAttachment" => touched.vms.extend(self.users_of_volume(&about.1)),
            _ => {}
        }
        let is_of = |said: Said| self.index.of(said).any(|key| *key == event.key);
        touched.everything |= is_of(Said::EventOfWorkload) || is_of(Said::EventOfControl);
    }

    /// The VMs that a pod is described with.
    fn vms_of(&self, pod: &Pod) -> impl Iterator<Item = Key> + use<'_> {
        let of_claim = self.claim_of_importer(pod).into_iter().flat_map(|claim| self.users(&claim));
        self.vm_of_pod(pod).into_iter().chain(of_claim)
    }

    /// VMs that the events about a migration name.
    fn vms_told_of(&self, migration: &Key) -> BTreeSet<Key> {
        let names = self.events_about(migration).filter_map(index::vm_told_by);
        names.map(|name| (migration.0.clone(), name.to_owned())).collect()
    }

    /// VMs that use a claim.
    fn users(&self, claim: &Key) -> BTreeSet<Key> {
        let of_vms = self.index.of(Said::VmUses(claim.clone()));
        let of_vmis = self.index.of(Said::VmiUses(claim.clone()));
        let pods = self.index.of(Said::PodUses(claim.clone())).filter_map(|key| self.pods.get(key));
        of_vms.chain(of_vmis).cloned().chain(pods.filter_map(|pod| self.vm_of_pod(pod))).collect()
    }

    /// VMs that use a volume.
    fn users_of_volume(&self, volume: &str) -> BTreeSet<Key> {
        let own = self.volumes.get(volume).and_then(|volume| volume.claim.clone());
        let claims = self.index.of(Said::ClaimOn(volume.to_owned())).cloned().chain(own);
        claims.flat_map(|claim| self.users(&claim)).collect()
    }

    /// VMs of which something says that they are, were or are to be on a node.
    fn vms_on(&self, node: &str) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = self.index.of(Said::VmiNames(node.to_owned())).cloned().collect();
        let migrations = self.index.of(Said::MigrationNames(node.to_owned()));
        keys.extend(migrations.filter_map(|key| self.migrations.get(key)?.vm_key()));
        let pods = self.index.of(Said::PodOn(node.to_owned()));
        keys.extend(pods.filter_map(|key| self.vm_of_pod(self.pods.get(key)?)));
        let events = self.index.of(Said::EventOn(node.to_owned())).filter_map(|key| self.events.get(key));
        keys.extend(events.filter_map(index::vm_of_launcher_event));
        keys
    }

    /// VMs that have no node, or whose pods find none: they are described with what any node offers.
    fn seekers_of_node(&self) -> BTreeSet<Key> {
        let of_vms = self.index.of(Said::VmSeeksNode).chain(self.index.of(Said::VmiSeeksNode));
        let mut keys: BTreeSet<Key> = of_vms.cloned().collect();
        let pods = self.index.of(Said::PodSeeksNode);
        keys.extend(pods.filter_map(|key| self.vm_of_pod(self.pods.get(key)?)));
        let events = self.index.of(Said::EventSeeksNode).filter_map(|key| self.events.get(key));
        keys.extend(events.filter_map(index::vm_of_launcher_event));
        keys
    }

    /// VMs that wait for an image: they are described with who else has it.
    fn seekers_of_image(&self, image: &str) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = self.index.of(Said::VmiWaitsFor(image.to_owned())).cloned().collect();
        let pods = self.index.of(Said::PodWaitsFor(image.to_owned()));
        keys.extend(pods.filter_map(|key| self.vm_of_pod(self.pods.get(key)?)));
        let pulls = self.index.of(Said::EventPulls(image.to_owned())).filter_map(|key| self.events.get(key));
        let under_way = pulls
            .map(Event::about_key)
            .filter(|(namespace, name)| image::pull_under_way(self, namespace, name).is_some());
        keys.extend(under_way.filter_map(|key| self.vm_of_pod(self.pods.get(&key)?)));
        let failed = self.index.of(Said::EventFailsToPull).filter_map(|key| self.events.get(key));
        let failed: BTreeSet<Key> = failed.map(Event::about_key).filter(|key| !self.pods.contains_key(key)).collect();
        for (namespace, pod) in failed {
            let events: Vec<&Event> = self.events("Pod", &namespace, &pod).collect();
            let is_it = image::image_told(&events).is_some_and(|own| whole_image(own) == image);
            let name = index::vm_of_launcher_name(&pod).filter(|_| is_it && image::failed_pull(&events).is_some());
            keys.extend(name.map(|name| (namespace, name.to_owned())));
        }
        keys
    }
}
