//! The objects of a cluster, added one by one in any order, and removed again.
//!
//! Kinds that a diagnosis does not read are counted only. A list is flattened, and remembered: only of a namespace whose objects were
//! listed can be said that one is missing. What an object says of others is indexed with it (`index.rs`), so that a change costs what
//! that object says; live, whom a change concerns is remembered (`touched.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
};

use serde_json::Value;

use crate::{
    history::{MigrationHistory, MigrationRecord},
    index::{Index, Said},
    kind::Kind,
    objects::{
        Attachment, Claim, CsiNode, DataVolume, Event, KubeVirt, Lease, Migration, MigrationPolicy, Namespace, Node,
        Object, Pod, Vm, Vmi, Volume,
    },
    spoken::Spoken,
    touched::{Reach, Touched},
    value,
};

/// Of one object so many of the newest events are kept, live; twice as many until they are thinned out. The API server's own clients say
/// 25 things of an object and one more every five minutes (client-go `tools/record/events_cache.go`).
const EVENTS_OF_OBJECT: usize = 100;
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
    pub(crate) events: BTreeMap<Key, Event>,
    pub(crate) claims: BTreeMap<Key, Claim>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    pub(crate) attachments: BTreeMap<String, Attachment>,
    pub(crate) csi_nodes: BTreeMap<String, CsiNode>,
    pub(crate) data_volumes: BTreeMap<Key, DataVolume>,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// Central's own Events.
    pub(crate) spoken: BTreeMap<Key, Spoken>,
    pub(crate) index: Index,
    pub(crate) history: MigrationHistory,
    /// Kinds that came in lists, with the namespace; the empty namespace stands for all.
    listed: BTreeSet<(Kind, String)>,
    n_others: BTreeMap<String, u64>,
    n_nameless: u64,
    newest_usec: Option<i64>,
    is_live: bool,
    touched: Touched,
}

/// What stands in an object's place.
enum Next {
    Is(Object),
    /// Nothing since that moment, Unix microseconds.
    Gone(i64),
    /// An object that nobody reads.
    Unread,
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

    /// From now on it follows a cluster that is watched: objects are as they are at the moment of asking, not at the newest that one
    /// of them tells; an event is one entry whatever its times; events that no diagnosis reads are left out; and
    /// [`Cluster::take_touched`] tells whom changes concern. To be called before the first object is added.
    pub fn set_live(&mut self) {
        self.is_live = true;
        self.touched.everything = true;
    }

    /// Adds an object or a list of objects as the API server gives them. One that was added before is replaced.
    ///
    /// # Errors
    /// [`NotAdded`] if it, or an element of the list, is no Kubernetes object with a kind and a name.
    pub fn add(&mut self, object: &Value) -> Result<Added, NotAdded> {
        self.add_one(object, None, 0)
    }

    /// Removes an object that was found to be gone at `at_usec`; of a kind without namespaces by its name alone. Whether it was there.
    pub fn remove(&mut self, kind: Kind, namespace: &str, name: &str, at_usec: i64) -> bool {
        if kind == Kind::Event && self.spoken.remove(&(namespace.to_owned(), name.to_owned())).is_some() {
            return true;
        }
        self.replace(kind, whole_key(kind, (namespace.to_owned(), name.to_owned())), Next::Gone(at_usec))
    }

    /// Takes from an object as it once was what it tells of migrations, and nothing else. `gone_usec` is when it was found to be gone.
    ///
    /// # Errors
    /// [`NotAdded`] if it is no object with a kind, or a migration or VMI without a name.
    pub fn remember(&mut self, object: &Value, gone_usec: Option<i64>) -> Result<(), NotAdded> {
        let kind = value::text(object, &["kind"]).ok_or(NotAdded::NoKind)?;
        let read = kind_of(&kind, object).map(|read| Object::read(read, object));
        match (read, gone_usec) {
            (Some(None), _) => return Err(NotAdded::NoName(kind)),
            (Some(Some(Object::Migration(migration))), Some(gone)) => self.history.see_gone(&migration, gone),
            (Some(Some(Object::Migration(migration))), None) => self.history.see(&migration, None),
            (Some(Some(Object::Vmi(vmi))), _) => self.history.see_vmi(&vmi),
            _ => {}
        }
        Ok(())
    }

    /// The migrations of the last day.
    #[must_use]
    pub const fn history(&self) -> &MigrationHistory {
        &self.history
    }

    /// The same, to be stored and put back.
    pub const fn history_mut(&mut self) -> &mut MigrationHistory {
        &mut self.history
    }

    /// All migrations were listed at `at_usec`: one that was under way and is not there has vanished.
    pub fn end_vanished_migrations(&mut self, at_usec: i64) {
        let is_there = |record: &MigrationRecord| {
            let object = self.migrations.get(&(record.namespace.clone(), record.name.clone()));
            object.is_some_and(|object| object.meta.uid.as_ref().is_none_or(|uid| *uid == record.uid))
        };
        self.touched.vms.extend(self.history.end_vanished(is_there, at_usec));
    }

    /// All objects of a kind are known from now on, in every namespace; or it is no longer known whether they are.
    pub fn set_listed(&mut self, kind: Kind, is_listed: bool) {
        let has_changed = if is_listed {
            self.listed.insert((kind, String::new()))
        } else {
            let n_before = self.listed.len();
            self.listed.retain(|(own, _)| *own != kind);
            self.listed.len() != n_before
        };
        self.touched.everything |= has_changed && kind.is_described();
    }

    /// What may be described otherwise since the last call. Live only; of a cluster that is not, everything.
    ///
    /// Descriptions change with time as well, and with what is asked ([`crate::Asked`]): of that nothing is said here.
    #[must_use]
    pub fn take_touched(&mut self) -> Touched {
        let everything = !self.is_live;
        let touched = mem::take(&mut self.touched);
        Touched { everything: touched.everything || everything, ..touched }
    }

    /// Whether [`Cluster::take_touched`] would tell of anything.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        !self.is_live || !self.touched.is_empty()
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

    pub(crate) const fn is_live(&self) -> bool {
        self.is_live
    }

    /// Whether all objects of a kind in a namespace are known, as far as can be told.
    pub(crate) fn is_listed(&self, kind: Kind, namespace: &str) -> bool {
        let has = |namespace: &str| self.listed.contains(&(kind, namespace.to_owned()));
        has(namespace) || has("")
    }

    /// The moment at which the objects were looked at: live that of asking, else the newest that they tell, if that is earlier.
    pub(crate) fn looked_usec(&self, at_usec: i64) -> i64 {
        self.newest_usec.filter(|_| !self.is_live).map_or(at_usec, |newest| newest.min(at_usec))
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
        let Some(read) = kind_of(kind, object) else { return Ok(self.leave_out(kind)) };
        if read == Kind::Event
            && let Some(spoken) = Spoken::read(object)
        {
            self.spoken.insert((spoken.namespace.clone(), spoken.name.clone()), spoken);
            return Ok(Added { n_kept: 1, n_others: 0 });
        }
        let object = Object::read(read, object).ok_or_else(|| NotAdded::NoName(kind.to_owned()))?;
        self.keep(read, object)
    }

    fn add_list(&mut self, items: &[Value], kind: &str, depth: usize) -> Result<Added, NotAdded> {
        if depth >= MAX_LIST_DEPTH {
            return Err(NotAdded::TooDeep);
        }
        let kind = (!kind.is_empty()).then_some(kind);
        if let Some(kind) = kind.filter(|_| items.is_empty()).and_then(|kind| Kind::of(kind, "")) {
            self.set_listed(kind, true);
        }
        let mut added = Added::default();
        let mut failures = Vec::new();
        for item in items {
            match self.add_one(item, kind, depth + 1) {
                Ok(Added { n_kept, n_others }) => {
                    added.n_kept += n_kept;
                    added.n_others += n_others;
                    let own = value::text(item, &["kind"]);
                    if let Some(kind) = own.as_deref().or(kind).and_then(|kind| kind_of(kind, item)) {
                        let namespace = value::text(item, &["metadata", "namespace"]).unwrap_or_default();
                        self.touched.everything |= self.listed.insert((kind, namespace));
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

    fn leave_out(&mut self, kind: &str) -> Added {
        *self.n_others.entry(kind.chars().take(80).collect()).or_default() += 1;
        Added { n_kept: 0, n_others: 1 }
    }

    fn keep(&mut self, kind: Kind, mut object: Object) -> Result<Added, NotAdded> {
        let newest = object.newest_usec();
        let is_kept = match &mut object {
            Object::Event(event) if self.is_live && event.key.1.is_empty() => {
                return Err(NotAdded::NoName(kind.as_str().to_owned()));
            }
            Object::Event(event) if self.is_live && !event.is_read() => {
                let key = event.key.clone();
                self.replace(kind, key, Next::Unread);
                return Ok(self.leave_out(kind.as_str()));
            }
            Object::Event(event) => {
                if event.key.1.is_empty() {
                    // No name of Kubernetes has a `#`.
                    event.key.1 = format!("#{:010}", self.n_nameless);
                    self.n_nameless += 1;
                }
                // The same event collected twice is one: the one with the later end.
                let known = self.events.get(&event.key).filter(|_| !self.is_live);
                known.is_none_or(|known| event.last_usec >= known.last_usec)
            }
            Object::Lease(lease) => matches!(lease.meta.namespace.as_str(), "kube-node-lease" | ""),
            _ => true,
        };
        if is_kept {
            let about = match &object {
                Object::Event(event) if self.is_live => Some(event.about_key()),
                _ => None,
            };
            self.replace(kind, whole_key(kind, object.key()), Next::Is(object));
            if let Some(about) = about {
                self.thin_out(&about);
            }
        }
        self.newest_usec = self.newest_usec.max(newest);
        Ok(Added { n_kept: 1, n_others: 0 })
    }

    /// Lets the oldest events about an object go where there are far too many.
    fn thin_out(&mut self, about: &Key) {
        if self.index.of(Said::EventAbout(about.clone())).nth(2 * EVENTS_OF_OBJECT).is_none() {
            return;
        }
        let mut events: Vec<(Option<i64>, Key)> =
            self.events_about(about).map(|event| (event.last_usec, event.key.clone())).collect();
        events.sort_unstable();
        for (_, key) in events.drain(..events.len().saturating_sub(EVENTS_OF_OBJECT)) {
            self.replace(Kind::Event, key, Next::Unread);
        }
    }

    /// Puts an object in the place of the one with its key, or none. Whether there was one.
    fn replace(&mut self, kind: Kind, key: Key, next: Next) -> bool {
        let (new, gone_usec) = match next {
            Next::Is(object) => (Some(object), None),
            Next::Gone(at_usec) => (None, Some(at_usec)),
            Next::Unread => (None, None),
        };
        if let Some(new) = &new
            && self.is_known(&key, new)
        {
            return true;
        }
        let is_followed = self.is_live && !self.touched.everything;
        let before = is_followed.then(|| (self.concerned(kind, &key, new.as_ref()), self.has_handlers_listed()));
        let old = self.take(kind, &key);
        let was_there = old.is_some();
        if !was_there && new.is_none() {
            return false;
        }
        let reach = Reach::of(old.as_ref(), new.as_ref());
        let says = |object: Option<&Object>| object.map(Object::says).unwrap_or_default();
        self.index.change(&key, says(old.as_ref()), says(new.as_ref()));
        self.keep_history(old.as_ref(), new.as_ref(), gone_usec);
        if let Some(new) = new {
            self.put(&key, new);
        }
        if let Some((before, had_handlers)) = before {
            let mut touched = self.concerned(kind, &key, old.as_ref());
            touched.extend(self.reached(&reach));
            touched.extend(before);
            touched.everything |= self.has_handlers_listed() != had_handlers;
            self.touched.extend(touched);
        }
        was_there
    }

    /// What a change tells of migrations. One whose name another has now was gone when that was made, at the latest.
    fn keep_history(&mut self, old: Option<&Object>, new: Option<&Object>, gone_usec: Option<i64>) {
        let is_another = |old: &str| new.and_then(Object::uid).is_some_and(|new| new != old);
        if let Some(Object::Migration(migration)) = old
            && (new.is_none() || migration.meta.uid.as_deref().is_some_and(is_another))
        {
            let made_usec = new.and_then(Object::newest_usec);
            let gone_usec = gone_usec.or(made_usec).or(migration.created_usec()).unwrap_or_default();
            self.history.see_gone(migration, gone_usec);
        }
        match new {
            Some(Object::Migration(migration)) => {
                let vmi = migration.vm_key().and_then(|key| self.vmis.get(&key));
                self.history.see(migration, vmi);
            }
            Some(Object::Vmi(vmi)) => self.history.see_vmi(vmi),
            _ => {}
        }
    }

    fn is_known(&self, key: &Key, new: &Object) -> bool {
        match new {
            Object::Vm(new) => self.vms.get(key) == Some(new),
            Object::Vmi(new) => self.vmis.get(key) == Some(new),
            Object::Migration(new) => self.migrations.get(key) == Some(new),
            Object::KubeVirt(new) => self.kubevirts.get(key) == Some(new),
            Object::Policy(new) => self.policies.get(&key.1) == Some(new),
            Object::DataVolume(new) => self.data_volumes.get(key) == Some(new),
            Object::Pod(new) => self.pods.get(key) == Some(new),
            Object::Node(new) => self.nodes.get(&key.1) == Some(new),
            Object::Lease(new) => self.leases.get(&key.1) == Some(new),
            Object::Event(new) => self.events.get(key) == Some(new),
            Object::Claim(new) => self.claims.get(key) == Some(new),
            Object::Volume(new) => self.volumes.get(&key.1) == Some(new),
            Object::Attachment(new) => self.attachments.get(&key.1) == Some(new),
            Object::CsiNode(new) => self.csi_nodes.get(&key.1) == Some(new),
            Object::Namespace(new) => self.namespaces.get(&key.1) == Some(new),
        }
    }

    fn take(&mut self, kind: Kind, key: &Key) -> Option<Object> {
        match kind {
            Kind::VirtualMachine => self.vms.remove(key).map(|old| Object::Vm(old.into())),
            Kind::VirtualMachineInstance => self.vmis.remove(key).map(|old| Object::Vmi(old.into())),
            Kind::VirtualMachineInstanceMigration => {
                self.migrations.remove(key).map(|old| Object::Migration(old.into()))
            }
            Kind::KubeVirt => self.kubevirts.remove(key).map(|old| Object::KubeVirt(old.into())),
            Kind::MigrationPolicy => self.policies.remove(&key.1).map(|old| Object::Policy(old.into())),
            Kind::DataVolume => self.data_volumes.remove(key).map(|old| Object::DataVolume(old.into())),
            Kind::Pod => self.pods.remove(key).map(|old| Object::Pod(old.into())),
            Kind::Node => self.nodes.remove(&key.1).map(|old| Object::Node(old.into())),
            Kind::Lease => self.leases.remove(&key.1).map(|old| Object::Lease(old.into())),
            Kind::Event => self.events.remove(key).map(|old| Object::Event(old.into())),
            Kind::PersistentVolumeClaim => self.claims.remove(key).map(|old| Object::Claim(old.into())),
            Kind::PersistentVolume => self.volumes.remove(&key.1).map(|old| Object::Volume(old.into())),
            Kind::VolumeAttachment => self.attachments.remove(&key.1).map(|old| Object::Attachment(old.into())),
            Kind::CsiNode => self.csi_nodes.remove(&key.1).map(|old| Object::CsiNode(old.into())),
            Kind::Namespace => self.namespaces.remove(&key.1).map(|old| Object::Namespace(old.into())),
        }
    }

    fn put(&mut self, key: &Key, new: Object) {
        let (key, name) = (key.clone(), key.1.clone());
        match new {
            Object::Vm(new) => _ = self.vms.insert(key, *new),
            Object::Vmi(new) => _ = self.vmis.insert(key, *new),
            Object::Migration(new) => _ = self.migrations.insert(key, *new),
            Object::KubeVirt(new) => _ = self.kubevirts.insert(key, *new),
            Object::Policy(new) => _ = self.policies.insert(name, *new),
            Object::DataVolume(new) => _ = self.data_volumes.insert(key, *new),
            Object::Pod(new) => _ = self.pods.insert(key, *new),
            Object::Node(new) => _ = self.nodes.insert(name, *new),
            Object::Lease(new) => _ = self.leases.insert(name, *new),
            Object::Event(new) => _ = self.events.insert(key, *new),
            Object::Claim(new) => _ = self.claims.insert(key, *new),
            Object::Volume(new) => _ = self.volumes.insert(name, *new),
            Object::Attachment(new) => _ = self.attachments.insert(name, *new),
            Object::CsiNode(new) => _ = self.csi_nodes.insert(name, *new),
            Object::Namespace(new) => _ = self.namespaces.insert(name, *new),
        }
    }
}

fn kind_of(kind: &str, object: &Value) -> Option<Kind> {
    let version = value::text(object, &["apiVersion"]).unwrap_or_default();
    Kind::of(kind, version.split_once('/').map_or("", |(group, _)| group))
}

/// The key under which an object is kept: without the namespace, where names alone tell apart.
fn whole_key(kind: Kind, (namespace, name): Key) -> Key {
    let is_namespaced = kind.is_namespaced() && kind != Kind::Lease;
    (if is_namespaced { namespace } else { String::new() }, name)
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects, {} of other kinds", self.n_kept, self.n_others)
    }
}
