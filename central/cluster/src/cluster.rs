//! The objects of a cluster, added one by one in any order.
//!
//! Kinds that a diagnosis does not read are counted only. A list is flattened, and remembered: only of a namespace whose objects were
//! listed can be said that one is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::OnceLock,
};

use serde_json::Value;

use crate::{
    index::Index,
    objects::{
        Attachment, Claim, CsiNode, DataVolume, Event, KubeVirt, Lease, Meta, Migration, MigrationPolicy, Node, Pod,
        Vm, Vmi, Volume,
    },
    value,
};

/// Lists within lists are followed so deep.
const MAX_LIST_DEPTH: usize = 4;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// Objects of a cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    pub(crate) vms: BTreeMap<Key, Vm>,
    pub(crate) vmis: BTreeMap<Key, Vmi>,
    pub(crate) migrations: BTreeMap<Key, Migration>,
    pub(crate) kubevirts: BTreeMap<Key, KubeVirt>,
    pub(crate) policies: BTreeMap<String, MigrationPolicy>,
    pub(crate) pods: BTreeMap<Key, Pod>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) leases: BTreeMap<String, Lease>,
    pub(crate) events: Vec<Event>,
    pub(crate) claims: BTreeMap<Key, Claim>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) attachments: BTreeMap<String, Attachment>,
    pub(crate) csi_nodes: BTreeMap<String, CsiNode>,
    pub(crate) data_volumes: BTreeMap<Key, DataVolume>,
    /// Kinds that came in lists, with the namespace; the empty namespace of a list without elements stands for all.
    listed: BTreeSet<(String, String)>,
    event_places: BTreeMap<Key, usize>,
    n_others: BTreeMap<String, u64>,
    newest_usec: Option<i64>,
    index: OnceLock<Index>,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Objects that are kept: 1, or how many of a list.
    pub n_kept: u64,
    /// Objects of kinds that a diagnosis does not read.
    pub n_others: u64,
}

/// An object could not be used. What else a list holds is added all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdded {
    /// It is no object.
    #[error("not a Kubernetes object but {0}")]
    NotAnObject(&'static str),
    /// It has no `kind`.
    #[error("an object without a kind")]
    NoKind,
    /// It has no name, or an event neither object nor text.
    #[error("a {0} without a name")]
    NoName(String),
    /// A list within lists.
    #[error("lists are nested too deep")]
    TooDeep,
    /// Some elements of a list.
    #[error("{n_failed} of {n} elements of a list: {first}")]
    OfList {
        /// How many could not be used.
        n_failed: usize,
        /// How many there are.
        n: usize,
        /// Why the first could not.
        first: Box<NotAdded>,
    },
}

impl Cluster {
    /// An empty cluster.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an object or a list of objects as the API server gives them. One that was added before is replaced.
    ///
    /// # Errors
    /// [`NotAdded`] if it, or an element of the list, is no Kubernetes object with a kind and a name.
    pub fn add(&mut self, object: &Value) -> Result<Added, NotAdded> {
        self.index = OnceLock::new();
        self.add_one(object, None, 0)
    }

    /// How many objects of each kind that a diagnosis does not read were seen.
    #[must_use]
    pub const fn others(&self) -> &BTreeMap<String, u64> {
        &self.n_others
    }

    /// The newest moment that an object tells, Unix microseconds: about when they were collected.
    #[must_use]
    pub const fn newest_usec(&self) -> Option<i64> {
        self.newest_usec
    }

    /// Node of a pod. An empty namespace stands for any.
    #[must_use]
    pub fn node_of_pod(&self, namespace: &str, pod: &str) -> Option<&str> {
        if namespace.is_empty() {
            let mut named = self.pods.iter().filter(|((_, name), _)| name == pod);
            return named.find_map(|(_, pod)| pod.node.as_deref());
        }
        self.pods.get(&(namespace.to_owned(), pod.to_owned()))?.node.as_deref()
    }

    /// Node of a VM by its domain's name, `namespace_name`.
    #[must_use]
    pub fn node_of_domain(&self, domain: &str) -> Option<&str> {
        let (namespace, name) = domain.split_once('_')?;
        self.vmis.get(&(namespace.to_owned(), name.to_owned()))?.node.as_deref()
    }

    /// Namespace and name of every VM that an object tells of, sorted.
    pub fn vm_keys(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.index().vm_keys()
    }

    pub(crate) fn index(&self) -> &Index {
        self.index.get_or_init(|| Index::new(self))
    }

    /// Whether all objects of a kind in a namespace are known, as far as can be told.
    pub(crate) fn is_listed(&self, kind: &str, namespace: &str) -> bool {
        let has = |namespace: &str| self.listed.contains(&(kind.to_owned(), namespace.to_owned()));
        has(namespace) || has("")
    }

    /// The moment at which the objects were looked at: when they were asked for, or the newest that they tell.
    pub(crate) fn looked_usec(&self, at_usec: i64) -> i64 {
        self.newest_usec.map_or(at_usec, |newest| newest.min(at_usec))
    }

    fn add_one(&mut self, object: &Value, kind_of_list: Option<&str>, depth: usize) -> Result<Added, NotAdded> {
        let what = match object {
            Value::Object(_) => None,
            Value::Null => Some("null"),
            Value::Array(_) => Some("a list"),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => Some("a value"),
        };
        if let Some(what) = what {
            return Err(NotAdded::NotAnObject(what));
        }
        let own_kind = value::text(object, &["kind"]);
        let kind = own_kind.as_deref().or(kind_of_list).ok_or(NotAdded::NoKind)?;
        if let Some(items) = value::at(object, &["items"]).as_array()
            && kind.ends_with("List")
        {
            return self.add_list(items, kind.trim_end_matches("List"), depth);
        }
        let group = value::text(object, &["apiVersion"]).unwrap_or_default();
        let group = group.split_once('/').map_or("", |(group, _)| group);
        self.keep(kind, group, object)
    }

    fn add_list(&mut self, items: &[Value], kind: &str, depth: usize) -> Result<Added, NotAdded> {
        if depth >= MAX_LIST_DEPTH {
            return Err(NotAdded::TooDeep);
        }
        let kind = (!kind.is_empty()).then_some(kind);
        if let Some(kind) = kind
            && items.is_empty()
        {
            self.listed.insert((kind.to_owned(), String::new()));
        }
        let mut added = Added::default();
        let mut failures = Vec::new();
        for item in items {
            match self.add_one(item, kind, depth + 1) {
                Ok(Added { n_kept, n_others }) => {
                    added.n_kept += n_kept;
                    added.n_others += n_others;
                    if let Some(kind) = value::text(item, &["kind"]).or_else(|| kind.map(ToOwned::to_owned)) {
                        let namespace = value::text(item, &["metadata", "namespace"]).unwrap_or_default();
                        self.listed.insert((kind, namespace));
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        let n_failed = failures.len();
        match failures.into_iter().next() {
            None => Ok(added),
            Some(first) => Err(NotAdded::OfList { n_failed, n: items.len(), first: Box::new(first) }),
        }
    }

    fn keep(&mut self, kind: &str, group: &str, object: &Value) -> Result<Added, NotAdded> {
        let is_group = |own: &str| group == own || group.is_empty();
        let is_kubevirts = group.is_empty() || group.ends_with("kubevirt.io");
        let no_name = || NotAdded::NoName(kind.to_owned());
        let key = |meta: &Meta| (meta.namespace.clone(), meta.name.clone());
        let mut newest = None;
        match kind {
            "VirtualMachine" if is_kubevirts => {
                let read = Vm::read(object).ok_or_else(no_name)?;
                newest = read.conditions.newest_usec().max(read.meta.created_usec);
                self.vms.insert(key(&read.meta), read);
            }
            "VirtualMachineInstance" if is_kubevirts => {
                let read = Vmi::read(object).ok_or_else(no_name)?;
                let of_phases = read.phase_times.iter().map(|(_, usec)| *usec).max();
                newest = read
                    .conditions
                    .newest_usec()
                    .max(of_phases)
                    .max(read.meta.created_usec)
                    .max(read.meta.deleted_usec);
                self.vmis.insert(key(&read.meta), read);
            }
            "VirtualMachineInstanceMigration" if is_kubevirts => {
                let read = Migration::read(object).ok_or_else(no_name)?;
                newest = read.phase_times.iter().map(|(_, usec)| *usec).max().max(read.meta.created_usec);
                self.migrations.insert(key(&read.meta), read);
            }
            "KubeVirt" if is_kubevirts => {
                let read = KubeVirt::read(object).ok_or_else(no_name)?;
                self.kubevirts.insert(key(&read.meta), read);
            }
            "MigrationPolicy" if is_kubevirts => {
                let read = MigrationPolicy::read(object).ok_or_else(no_name)?;
                self.policies.insert(read.meta.name.clone(), read);
            }
            "DataVolume" if is_kubevirts => {
                let read = DataVolume::read(object).ok_or_else(no_name)?;
                newest = read.conditions.newest_usec();
                self.data_volumes.insert(key(&read.meta), read);
            }
            "Pod" if is_group("") => {
                let read = Pod::read(object).ok_or_else(no_name)?;
                newest = read.newest_usec();
                self.pods.insert(key(&read.meta), read);
            }
            "Node" if is_group("") => {
                let read = Node::read(object).ok_or_else(no_name)?;
                newest = read.heartbeat_usec().max(read.conditions.newest_usec());
                self.nodes.insert(read.meta.name.clone(), read);
            }
            "Event" if is_group("events.k8s.io") => {
                let read = Event::read(object).ok_or_else(no_name)?;
                newest = read.last_usec;
                self.keep_event(read);
            }
            "PersistentVolumeClaim" if is_group("") => {
                let read = Claim::read(object).ok_or_else(no_name)?;
                self.claims.insert(key(&read.meta), read);
            }
            "PersistentVolume" if is_group("") => {
                let read = Volume::read(object).ok_or_else(no_name)?;
                self.volumes.insert(read.meta.name.clone(), read);
            }
            "VolumeAttachment" if is_group("storage.k8s.io") => {
                let read = Attachment::read(object).ok_or_else(no_name)?;
                self.attachments.insert(read.meta.name.clone(), read);
            }
            "CSINode" if is_group("storage.k8s.io") => {
                let read = CsiNode::read(object).ok_or_else(no_name)?;
                self.csi_nodes.insert(read.meta.name.clone(), read);
            }
            "Lease" if is_group("coordination.k8s.io") => {
                let read = Lease::read(object).ok_or_else(no_name)?;
                newest = read.renewed_usec;
                if matches!(read.meta.namespace.as_str(), "kube-node-lease" | "") {
                    self.leases.insert(read.meta.name.clone(), read);
                }
            }
            _ => {
                *self.n_others.entry(kind.chars().take(80).collect()).or_default() += 1;
                return Ok(Added { n_kept: 0, n_others: 1 });
            }
        }
        self.newest_usec = self.newest_usec.max(newest);
        Ok(Added { n_kept: 1, n_others: 0 })
    }

    /// The same event collected twice is one: the one with the later end.
    fn keep_event(&mut self, event: Event) {
        let is_named = !event.key.1.is_empty();
        match self.event_places.get(&event.key).filter(|_| is_named) {
            Some(place) => {
                let known = &mut self.events[*place];
                if event.last_usec >= known.last_usec {
                    *known = event;
                }
            }
            None => {
                if is_named {
                    self.event_places.insert(event.key.clone(), self.events.len());
                }
                self.events.push(event);
            }
        }
    }
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects, {} of other kinds", self.n_kept, self.n_others)
    }
}
