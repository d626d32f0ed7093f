//! Which objects belong to which VM, by what KubeVirt writes on them; made once after the last object was added.
//!
//! Launcher pods carry the VMI's UID, its name as owner and annotation; attachment pods are owned by a launcher pod, importer pods by
//! a claim. Pods that only events tell of are known by their names. Source: KubeVirt `pkg/virt-controller/services/template.go`
//! (`podLabels`), CDI `pkg/controller/common`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    cluster::{Cluster, Key},
    objects::{Event, Meta, Pod},
};

const LAUNCHER_PREFIX: &str = "virt-launcher-";

/// The joins that need all objects.
#[derive(Debug, Default)]
pub(crate) struct Index {
    vm_keys: BTreeSet<Key>,
    /// Launcher and attachment pods of a VM.
    pods_of: BTreeMap<Key, Vec<Key>>,
    /// Pods that write into a claim: importer, uploader, cloner.
    pods_of_claim: BTreeMap<Key, Vec<Key>>,
    /// Places of events by namespace and name of their object.
    events_of: BTreeMap<Key, Vec<usize>>,
    /// VM of a migration that no object tells of, by what its events say.
    vm_of_migration: BTreeMap<Key, String>,
    /// Launcher pods that only events tell of.
    told_pods: BTreeMap<Key, BTreeSet<String>>,
    /// virt-handler pods by their node.
    handlers: BTreeMap<String, Vec<Key>>,
    /// Pods of the control plane by what they are.
    control: BTreeMap<&'static str, Vec<Key>>,
}

/// What the control plane consists of: the value of the label `kubevirt.io` or `component`, and the beginning of the pods' names.
const CONTROL_PLANE: [&str; 7] = [
    "virt-controller",
    "virt-api",
    "virt-operator",
    "kube-apiserver",
    "etcd",
    "kube-controller-manager",
    "kube-scheduler",
];

impl Index {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let mut index = Self::default();
        index.vm_keys.extend(cluster.vms.keys().chain(cluster.vmis.keys()).cloned());
        for ((namespace, _), migration) in &cluster.migrations {
            index.vm_keys.extend(migration.vmi_name.iter().map(|name| (namespace.clone(), name.clone())));
        }
        let by_uid: BTreeMap<&str, &Key> =
            cluster.vmis.iter().filter_map(|(key, vmi)| Some((vmi.meta.uid.as_deref()?, key))).collect();
        for (key, pod) in &cluster.pods {
            if is_handler(pod) {
                index.handlers.entry(pod.node.clone().unwrap_or_default()).or_default().push(key.clone());
            } else if let Some(what) = control_part(pod) {
                index.control.entry(what).or_default().push(key.clone());
            } else if let Some(vm) = vm_of_launcher(pod, &by_uid) {
                index.pods_of.entry((key.0.clone(), vm.clone())).or_default().push(key.clone());
                index.vm_keys.insert((key.0.clone(), vm));
            }
        }
        index.add_attachment_pods(cluster);
        index.add_importers(cluster);
        for (place, event) in cluster.events.iter().enumerate() {
            index.add_event(cluster, place, event);
        }
        index
    }

    fn add_attachment_pods(&mut self, cluster: &Cluster) {
        let mut found: Vec<(Key, Key)> = Vec::new();
        for (key, pod) in cluster.pods.iter().filter(|(key, _)| key.1.starts_with("hp-volume-")) {
            let Some(owner) = pod.meta.owner("Pod") else { continue };
            let launcher = (key.0.clone(), owner.name.clone());
            let vm = self.pods_of.iter().find(|(_, pods)| pods.contains(&launcher)).map(|(vm, _)| vm.clone());
            let by_name = || vm_of_launcher_name(&owner.name).map(|name| (key.0.clone(), name.to_owned()));
            if let Some(vm) = vm.or_else(by_name) {
                found.push((vm, key.clone()));
            }
        }
        for (vm, pod) in found {
            self.pods_of.entry(vm).or_default().push(pod);
        }
    }

    fn add_importers(&mut self, cluster: &Cluster) {
        let by_uid: BTreeMap<&str, &Key> =
            cluster.claims.iter().filter_map(|(key, claim)| Some((claim.meta.uid.as_deref()?, key))).collect();
        for (key, pod) in &cluster.pods {
            let is_cdis = pod.meta.labels.keys().any(|label| label.starts_with("cdi.kubevirt.io"))
                || pod.meta.label("app") == Some("containerized-data-importer")
                || key.1.starts_with("importer-");
            if !is_cdis {
                continue;
            }
            let owner = pod.meta.owner("PersistentVolumeClaim").map(|owner| owner.name.as_str());
            let by_name = ["importer-", "cdi-upload-"].into_iter().find_map(|prefix| key.1.strip_prefix(prefix));
            let Some(name) = owner.or(by_name) else { continue };
            // A populator's claim is named after the UID of the one that it fills.
            let filled = name.strip_prefix("prime-").and_then(|uid| by_uid.get(uid).copied().cloned());
            let claim = filled.unwrap_or_else(|| (key.0.clone(), name.to_owned()));
            self.pods_of_claim.entry(claim).or_default().push(key.clone());
        }
    }

    fn add_event(&mut self, cluster: &Cluster, place: usize, event: &Event) {
        let about = &event.about;
        let key = (about.namespace.clone(), about.name.clone());
        match about.kind.as_str() {
            "VirtualMachine" | "VirtualMachineInstance" => {
                self.vm_keys.insert(key.clone());
            }
            "VirtualMachineInstanceMigration" => {
                let pod = event.message.split_whitespace().find(|word| word.starts_with(LAUNCHER_PREFIX));
                if !cluster.migrations.contains_key(&key)
                    && let Some(name) = pod.and_then(vm_of_launcher_name)
                {
                    self.vm_of_migration.insert(key.clone(), name.to_owned());
                }
            }
            "Pod" | "" if !cluster.pods.contains_key(&key) => {
                if let Some(name) = vm_of_launcher_name(&about.name) {
                    let vm = (key.0.clone(), name.to_owned());
                    self.vm_keys.insert(vm.clone());
                    self.told_pods.entry(vm).or_default().insert(about.name.clone());
                }
            }
            _ => {}
        }
        self.events_of.entry(key).or_default().push(place);
    }

    pub(crate) fn vm_keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.vm_keys.iter().cloned()
    }

    pub(crate) fn pods_of(&self, vm: &Key) -> &[Key] {
        self.pods_of.get(vm).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn pods_of_claim(&self, claim: &Key) -> &[Key] {
        self.pods_of_claim.get(claim).map_or(&[], Vec::as_slice)
    }

    /// Names of launcher pods of a VM that only events tell of.
    pub(crate) fn told_pods(&self, vm: &Key) -> impl Iterator<Item = &str> {
        self.told_pods.get(vm).into_iter().flatten().map(String::as_str)
    }

    /// Names of migrations of a VM that only events tell of.
    pub(crate) fn told_migrations<'i>(&'i self, namespace: &str, vm: &str) -> impl Iterator<Item = &'i str> {
        let of_vm = self.vm_of_migration.iter().filter(move |((own, _), name)| own == namespace && *name == vm);
        of_vm.map(|((_, migration), _)| migration.as_str())
    }

    /// virt-handler pods of a node.
    pub(crate) fn handlers<'c>(&self, cluster: &'c Cluster, node: &str) -> impl Iterator<Item = &'c Pod> {
        self.handlers.get(node).into_iter().flatten().filter_map(|key| cluster.pods.get(key))
    }

    /// Whether virt-handlers and what rolls them out were listed: then a node without one has none.
    pub(crate) fn has_handlers_listed(&self) -> bool {
        !self.handlers.is_empty()
            && (self.control.contains_key("virt-controller") || self.control.contains_key("virt-api"))
    }

    /// Pods of a part of the control plane.
    pub(crate) fn control_pods<'c>(&self, cluster: &'c Cluster, what: &str) -> impl Iterator<Item = &'c Pod> {
        self.control.get(what).into_iter().flatten().filter_map(|key| cluster.pods.get(key))
    }

    /// Events about an object of a kind; those that do not tell their object's kind are about any.
    pub(crate) fn events<'c>(
        &self,
        cluster: &'c Cluster,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> impl Iterator<Item = &'c Event> + use<'c> {
        let places = self.events_of.get(&(namespace.to_owned(), name.to_owned())).map_or(&[][..], Vec::as_slice);
        let events: Vec<&Event> = places
            .iter()
            .map(|place| &cluster.events[*place])
            .filter(|event| event.about.kind == kind || event.about.kind.is_empty())
            .collect();
        events.into_iter()
    }

    /// Nodes that have a virt-handler.
    pub(crate) fn handler_nodes(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str).filter(|node| !node.is_empty())
    }

    /// Events about an object that belongs to no namespace, by its kind.
    pub(crate) fn events_named<'c>(
        &self,
        cluster: &'c Cluster,
        kind: &str,
        name: &str,
    ) -> impl Iterator<Item = &'c Event> + use<'c> {
        let events: Vec<&Event> =
            cluster.events.iter().filter(|event| event.about.kind == kind && event.about.name == name).collect();
        events.into_iter()
    }

    /// Events about a node: they stand in `default`, or wherever their writer is.
    pub(crate) fn events_of_node<'c>(&self, cluster: &'c Cluster, name: &str) -> Vec<&'c Event> {
        self.events_named(cluster, "Node", name).collect()
    }
}

pub(crate) fn is_handler(pod: &Pod) -> bool {
    pod.meta.label("kubevirt.io") == Some("virt-handler") || pod.meta.name.starts_with("virt-handler-")
}

fn control_part(pod: &Pod) -> Option<&'static str> {
    let namespace = pod.meta.namespace.as_str();
    let is_systems = namespace.is_empty() || namespace.starts_with("kube-") || namespace.starts_with("openshift-");
    CONTROL_PLANE.into_iter().filter(|what| what.starts_with("virt-") || is_systems).find(|what| {
        let is_labelled = ["kubevirt.io", "component"].into_iter().any(|label| pod.meta.label(label) == Some(what));
        is_labelled || pod.meta.name.strip_prefix(what).is_some_and(|rest| rest.starts_with('-'))
    })
}

fn vm_of_launcher(pod: &Pod, by_uid: &BTreeMap<&str, &Key>) -> Option<String> {
    let meta: &Meta = &pod.meta;
    if meta.name.starts_with("hp-volume-") {
        return None;
    }
    let is_launcher = meta.label("kubevirt.io") == Some("virt-launcher") || meta.name.starts_with(LAUNCHER_PREFIX);
    let by_uid = || {
        let key = by_uid.get(meta.label("kubevirt.io/created-by")?)?;
        (key.0 == meta.namespace).then(|| key.1.clone())
    };
    let by_owner = || meta.owner("VirtualMachineInstance").map(|owner| owner.name.clone());
    let by_word = || {
        let word = meta.annotation("kubevirt.io/domain").or_else(|| meta.label("vm.kubevirt.io/name"));
        word.map(ToOwned::to_owned)
    };
    let by_name = || vm_of_launcher_name(&meta.name).map(ToOwned::to_owned);
    is_launcher.then(|| by_uid().or_else(by_owner).or_else(by_word).or_else(by_name))?
}

/// The VM of `virt-launcher-<name>-<5 letters>`.
pub(crate) fn vm_of_launcher_name(pod: &str) -> Option<&str> {
    let (name, suffix) = pod.strip_prefix(LAUNCHER_PREFIX)?.rsplit_once('-')?;
    let is_suffix = suffix.len() == 5 && suffix.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    (is_suffix && !name.is_empty()).then_some(name)
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
