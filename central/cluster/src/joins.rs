//! Which objects belong together, resolved when it is asked for, from what each of them says (`index.rs`).
//!
//! Nothing that is found here is kept: another object that comes or goes may change it. Orders are those of namespaces and names,
//! so that the order in which objects came changes no answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{Cluster, Key},
    index::{self, Role, Said, is_attachment, role},
    kind::Kind,
    objects::{Attachment, Event, Migration, Namespace, Pod, Volume},
};

impl Cluster {
    /// Namespace and name of every VM that an object tells of, sorted.
    pub fn vm_keys(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let mut keys: BTreeSet<Key> = self.vms.keys().chain(self.vmis.keys()).cloned().collect();
        keys.extend(self.migrations.values().filter_map(Migration::vm_key));
        keys.extend(self.pods.values().filter_map(|pod| self.vm_of_launcher(pod)));
        for event in self.events.values() {
            if matches!(event.about.kind.as_str(), "VirtualMachine" | "VirtualMachineInstance") {
                keys.insert(event.about_key());
            }
            keys.extend(index::vm_of_launcher_event(event).filter(|_| !self.pods.contains_key(&event.about_key())));
        }
        keys.into_iter()
    }

    /// Whether an object tells of a VM.
    #[must_use]
    pub fn has_vm(&self, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        let is_of_vm = |event: &Event| matches!(event.about.kind.as_str(), "VirtualMachine" | "VirtualMachineInstance");
        self.vms.contains_key(&key)
            || self.vmis.contains_key(&key)
            || self.migrations_of(&key).next().is_some()
            || !self.launchers_of(&key).is_empty()
            || self.events_about(&key).any(is_of_vm)
            || self.told_pods(&key).next().is_some()
    }

    /// Name of every node that has an object of its own, sorted.
    pub fn nodes_with_object(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Name of every node that an object or an event tells of, sorted.
    #[must_use]
    pub fn node_names(&self) -> BTreeSet<&str> {
        let mut names: BTreeSet<&str> = self.nodes.keys().chain(self.leases.keys()).map(String::as_str).collect();
        let of_events = |said: &Said| matches!(said, Said::EventNames("Node", _));
        let of_handlers = |said: &Said| matches!(said, Said::Handler(_));
        let events = self.index.while_said(Said::EventNames("Node", String::new()), of_events);
        let handlers = self.index.while_said(Said::Handler(String::new()), of_handlers);
        names.extend(events.chain(handlers).filter_map(|said| match said {
            Said::EventNames(_, name) | Said::Handler(name) => Some(name.as_str()).filter(|name| !name.is_empty()),
            _ => None,
        }));
        names
    }

    /// The VM of a launcher pod.
    pub(crate) fn vm_of_launcher(&self, pod: &Pod) -> Option<Key> {
        if role(pod) != Role::Launcher {
            return None;
        }
        let of_uid = |uid: &str| self.index.of(Said::VmiUid(uid.to_owned())).last();
        let vmi = pod.meta.label("kubevirt.io/created-by").and_then(of_uid);
        if let Some(key) = vmi.filter(|key| key.0 == pod.meta.namespace) {
            return Some(key.clone());
        }
        index::vm_named_by(pod).map(|name| (pod.meta.namespace.clone(), name.to_owned()))
    }

    /// The VM of an attachment pod: its launcher's.
    pub(crate) fn vm_of_attachment(&self, pod: &Pod) -> Option<Key> {
        let owner = pod.meta.owner("Pod").filter(|_| is_attachment(pod))?;
        let key = |name: &str| (pod.meta.namespace.clone(), name.to_owned());
        let launcher = self.pods.get(&key(&owner.name));
        let by_name = || index::vm_of_launcher_name(&owner.name).map(key);
        launcher.and_then(|launcher| self.vm_of_launcher(launcher)).or_else(by_name)
    }

    /// The VM of a launcher or attachment pod.
    pub(crate) fn vm_of_pod(&self, pod: &Pod) -> Option<Key> {
        self.vm_of_launcher(pod).or_else(|| self.vm_of_attachment(pod))
    }

    /// The claim that a pod of CDI fills.
    pub(crate) fn claim_of_importer(&self, pod: &Pod) -> Option<Key> {
        let (name, uid) = index::claim_named_by(pod)?;
        let filled = uid.and_then(|uid| self.index.of(Said::ClaimUid(uid.to_owned())).last());
        Some(filled.cloned().unwrap_or_else(|| (pod.meta.namespace.clone(), name.to_owned())))
    }

    fn pods_that(&self, said: Said) -> impl Iterator<Item = &Pod> {
        self.index.of(said).filter_map(|key| self.pods.get(key))
    }

    fn events_that(&self, said: Said) -> impl Iterator<Item = &Event> {
        self.index.of(said).filter_map(|key| self.events.get(key))
    }

    /// Launcher pods of a VM, sorted by name.
    fn launchers_of(&self, vm: &Key) -> Vec<&Pod> {
        let uid = self.vmis.get(vm).and_then(|vmi| vmi.meta.uid.clone());
        let by_uid = uid.into_iter().flat_map(|uid| self.index.of(Said::LauncherOfUid(uid)));
        let keys: BTreeSet<&Key> = self.index.of(Said::LauncherOf(vm.clone())).chain(by_uid).collect();
        let pods = keys.into_iter().filter_map(|key| self.pods.get(key));
        pods.filter(|pod| self.vm_of_launcher(pod).as_ref() == Some(vm)).collect()
    }

    /// Launcher pods of a VM, then its attachment pods, each sorted by name.
    pub(crate) fn pods_of(&self, vm: &Key) -> Vec<&Pod> {
        let mut pods = self.launchers_of(vm);
        let of_launcher = |pod: &&Pod| Said::AttachmentOf((pod.meta.namespace.clone(), pod.meta.name.clone()));
        let of_launchers: Vec<Said> = pods.iter().map(of_launcher).collect();
        let of_launchers = of_launchers.into_iter().flat_map(|said| self.index.of(said));
        let keys: BTreeSet<&Key> = of_launchers.chain(self.index.of(Said::AttachmentFor(vm.clone()))).collect();
        let attachments = keys.into_iter().filter_map(|key| self.pods.get(key));
        pods.extend(attachments.filter(|pod| self.vm_of_attachment(pod).as_ref() == Some(vm)));
        pods
    }

    /// Pods that write into a claim, sorted: importer, uploader, cloner.
    pub(crate) fn pods_of_claim(&self, claim: &Key) -> Vec<&Pod> {
        let uid = self.claims.get(claim).and_then(|claim| claim.meta.uid.clone());
        let by_uid = uid.into_iter().flat_map(|uid| self.index.of(Said::ImporterFor(uid)));
        let keys: BTreeSet<&Key> = self.index.of(Said::ImporterOf(claim.clone())).chain(by_uid).collect();
        let pods = keys.into_iter().filter_map(|key| self.pods.get(key));
        pods.filter(|pod| self.claim_of_importer(pod).as_ref() == Some(claim)).collect()
    }

    /// Names of launcher pods of a VM that only events tell of, sorted.
    pub(crate) fn told_pods(&self, vm: &Key) -> impl Iterator<Item = &str> + use<'_> {
        let prefix = format!("{}{}-", index::LAUNCHER_PREFIX, vm.1);
        let told = self.index.told_of(&vm.0, &prefix).filter(|pod| index::vm_of_launcher_name(&pod.1) == Some(&vm.1));
        let unknown = told.filter(|pod| !self.pods.contains_key(*pod) && self.events_about(pod).any(is_about_pod));
        let names: BTreeSet<&str> = unknown.map(|pod| pod.1.as_str()).collect();
        names.into_iter()
    }

    /// The VM of a migration that no object tells of, by what its events say.
    fn vm_of_told_migration(&self, migration: &Key) -> Option<&str> {
        if self.migrations.contains_key(migration) {
            return None;
        }
        self.events_about(migration).filter_map(index::vm_told_by).last()
    }

    /// Names of migrations of a VM that only events tell of, sorted.
    pub(crate) fn told_migrations(&self, namespace: &str, vm: &str) -> impl Iterator<Item = &str> + use<'_> {
        let events = self.events_that(Said::EventOfMigration((namespace.to_owned(), vm.to_owned())));
        let its = events.filter(|event| self.vm_of_told_migration(&event.about_key()) == Some(vm));
        let names: BTreeSet<&str> = its.map(|event| event.about.name.as_str()).collect();
        names.into_iter()
    }

    /// Migrations of a VM that objects tell of, sorted by name.
    pub(crate) fn migrations_of(&self, vm: &Key) -> impl Iterator<Item = &Migration> + use<'_> {
        self.index.of(Said::MigrationOf(vm.clone())).filter_map(|key| self.migrations.get(key))
    }

    /// Migrations that take a slot.
    pub(crate) fn running_migrations(&self) -> impl Iterator<Item = &Migration> {
        self.index.of(Said::MigrationRuns).filter_map(|key| self.migrations.get(key))
    }

    /// Migrations that take a slot or wait for one.
    pub(crate) fn unfinished_migrations(&self) -> impl Iterator<Item = &Migration> {
        let waiting = self.index.of(Said::MigrationWaits).filter_map(|key| self.migrations.get(key));
        self.running_migrations().chain(waiting)
    }

    /// virt-handler pods of a node.
    pub(crate) fn handlers(&self, node: &str) -> impl Iterator<Item = &Pod> + use<'_> {
        self.pods_that(Said::Handler(node.to_owned()))
    }

    /// Whether virt-handlers and what rolls them out were listed: then a node without one has none.
    pub(crate) fn has_handlers_listed(&self) -> bool {
        let is_handler = |said: &Said| matches!(said, Said::Handler(_));
        let has_handlers = self.index.while_said(Said::Handler(String::new()), is_handler).next().is_some();
        let has = |what: &str| self.control_pods(what).next().is_some();
        has_handlers && (has("virt-controller") || has("virt-api")) && self.knows_all_pods()
    }

    /// Whether the pods that are not known are not there. What somebody collected is all there is to know.
    pub(crate) fn knows_all_pods(&self) -> bool {
        !self.is_live() || self.is_listed(Kind::Pod, "")
    }

    /// Labels of a namespace, if it is known.
    pub(crate) fn labels_of_namespace(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name).map(Namespace::labels)
    }

    /// Pods of a part of the control plane.
    pub(crate) fn control_pods(&self, what: &str) -> impl Iterator<Item = &Pod> + use<'_> {
        let what = index::CONTROL_PLANE.into_iter().find(|own| *own == what);
        what.into_iter().flat_map(|what| self.pods_that(Said::Control(what)))
    }

    /// Pods of a node that bring a CSI driver.
    pub(crate) fn drivers(&self, node: &str) -> impl Iterator<Item = &Pod> + use<'_> {
        self.pods_that(Said::PodOn(node.to_owned())).filter(|pod| index::is_driver(pod))
    }

    /// Whether a VMI is on a node.
    pub(crate) fn has_vmis(&self, node: &str) -> bool {
        self.index.of(Said::VmiOn(node.to_owned())).next().is_some()
    }

    /// Attachments of a volume.
    pub(crate) fn attachments_of(&self, volume: &str) -> impl Iterator<Item = &Attachment> + use<'_> {
        self.index.of(Said::AttachmentHolds(volume.to_owned())).filter_map(|key| self.attachments.get(&key.1))
    }

    /// The volume that names a claim as its own.
    pub(crate) fn volume_for(&self, claim: &Key) -> Option<&Volume> {
        self.index.of(Said::VolumeFor(claim.clone())).find_map(|key| self.volumes.get(&key.1))
    }

    /// Nodes that list an image, in full.
    pub(crate) fn nodes_with(&self, image: String) -> impl Iterator<Item = &str> + use<'_> {
        self.index.of(Said::NodeHas(image)).map(|key| key.1.as_str())
    }

    /// Pods that run from an image, in full.
    pub(crate) fn pods_with(&self, image: String) -> impl Iterator<Item = &Pod> + use<'_> {
        self.pods_that(Said::PodHas(image))
    }

    /// Events that say that an image, in full, was there.
    pub(crate) fn events_with(&self, image: String) -> impl Iterator<Item = &Event> + use<'_> {
        self.events_that(Said::EventHas(image))
    }

    /// Events about what has this namespace and name.
    pub(crate) fn events_about(&self, key: &Key) -> impl Iterator<Item = &Event> + use<'_> {
        self.events_that(Said::EventAbout(key.clone()))
    }

    /// Events about an object of a kind, sorted by their names; those that do not tell their object's kind are about any.
    pub(crate) fn events<'c>(
        &'c self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> impl Iterator<Item = &'c Event> + use<'c> {
        let about = self.events_about(&(namespace.to_owned(), name.to_owned()));
        let events: Vec<&Event> = about.filter(|event| event.is_about(kind)).collect();
        events.into_iter()
    }

    /// Events about an object that belongs to no namespace, by its kind.
    pub(crate) fn events_named(&self, kind: &'static str, name: &str) -> impl Iterator<Item = &Event> + use<'_> {
        self.events_that(Said::EventNames(kind, name.to_owned()))
    }

    /// Events about a node: they stand in `default`, or wherever their writer is.
    pub(crate) fn events_of_node(&self, name: &str) -> impl Iterator<Item = &Event> + use<'_> {
        self.events_named("Node", name)
    }

    /// Events of a node about virt-handlers that no object tells of.
    pub(crate) fn events_of_unknown_handlers(&self, node: &str) -> impl Iterator<Item = &Event> + use<'_> {
        let events = self.events_that(Said::EventOfHandler(node.to_owned()));
        events.filter(|event| !self.pods.contains_key(&event.about_key()))
    }

    /// Warnings about KubeVirt's own workloads.
    pub(crate) fn events_of_workloads(&self) -> impl Iterator<Item = &Event> {
        self.events_that(Said::EventOfWorkload)
    }

    /// Warnings about pods of KubeVirt's control plane.
    pub(crate) fn events_of_control(&self) -> impl Iterator<Item = &Event> {
        self.events_that(Said::EventOfControl)
    }
}

fn is_about_pod(event: &Event) -> bool {
    event.is_about("Pod")
}
