//! What central itself said of objects, in Events: never evidence, else it would take its own word for another's.
//!
//! They are told by who reported them, at the door, live and in a recorded case alike. Central reads them back as it does its marks on
//! nodes ([`crate::StandingNode`]): after a restart, or when another central takes over, nothing is said twice.

use serde_json::Value;

use crate::{
    cluster::{Cluster, Key},
    value,
};

/// `reportingController` of central's Events.
pub const SPEAKER: &str = "kulprit.io/central";
/// Annotation of central's Events: what of an object's trouble it is about.
pub const TOPIC: &str = "kulprit.io/topic";

/// An Event of central that stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// UID of the object that it is about.
    pub about_uid: String,
    /// Of the annotation [`TOPIC`].
    pub topic: String,
    /// Whether it says that something is wrong, and not that it is over.
    pub is_warning: bool,
    /// How often it was said.
    pub count: u32,
    /// When it was said last, Unix microseconds.
    pub last_usec: i64,
}

/// UIDs of a VM's objects as they are now; `None` for one that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmObjects {
    /// Of the VirtualMachine.
    pub vm: Option<String>,
    /// Of the VirtualMachineInstance.
    pub vmi: Option<String>,
    /// Of the migration that was asked for.
    pub migration: Option<String>,
}

impl Spoken {
    /// `None` if it is not central's.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let first_text = |paths: &[&[&str]]| paths.iter().find_map(|path| value::text(object, path));
        if first_text(&[&["reportingController"], &["reportingComponent"]])? != SPEAKER {
            return None;
        }
        let count = value::integer(object, &["series", "count"]).and_then(|count| u32::try_from(count).ok());
        let times = [&["series", "lastObservedTime"][..], &["eventTime"], &["metadata", "creationTimestamp"]];
        Some(Self {
            namespace: first_text(&[&["metadata", "namespace"]]).unwrap_or_default(),
            name: first_text(&[&["metadata", "name"]]).unwrap_or_default(),
            about_uid: first_text(&[&["involvedObject", "uid"], &["regarding", "uid"]]).unwrap_or_default(),
            topic: first_text(&[&["metadata", "annotations", TOPIC]]).unwrap_or_default(),
            is_warning: first_text(&[&["type"]]).is_some_and(|word| word == "Warning"),
            count: count.unwrap_or(1).max(1),
            last_usec: times.into_iter().find_map(|path| value::time(object, path)).unwrap_or_default(),
        })
    }
}

impl Cluster {
    /// Central's own Events, as far as they are still there.
    pub fn spoken(&self) -> impl Iterator<Item = &Spoken> {
        self.spoken.values()
    }

    /// The objects of a VM, and its migration of that name.
    #[must_use]
    pub fn objects_of(&self, namespace: &str, name: &str, migration: Option<&str>) -> VmObjects {
        let key = |name: &str| -> Key { (namespace.to_owned(), name.to_owned()) };
        let migration = migration.and_then(|name| self.migrations.get(&key(name)));
        VmObjects {
            vm: self.vms.get(&key(name)).and_then(|vm| vm.meta.uid.clone()),
            vmi: self.vmis.get(&key(name)).and_then(|vmi| vmi.meta.uid.clone()),
            migration: migration.and_then(|migration| migration.meta.uid.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use kulprit_signature::Signatures;
    use serde_json::json;

    use super::*;
    use crate::{Asked, Kind};

    fn event(name: &str, by: &str, reason: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": "prod", "annotations": {TOPIC: "LocalDiskStalled@n1"}},
            "involvedObject": {"kind": "VirtualMachineInstance", "name": "db", "namespace": "prod", "uid": "u"},
            "reason": reason, "message": "server error. command SyncVMI failed: no space left on device", "type": "Warning",
            "reportingComponent": by, "reportingInstance": "i", "eventTime": "2026-03-01T10:00:00.000000Z",
            "series": {"count": 3, "lastObservedTime": "2026-03-01T10:05:00.000000Z"}})
    }

    fn vmi() -> Value {
        json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "db", "namespace": "prod", "uid": "u"}, "status": {"phase": "Running"}})
    }

    #[test]
    fn our_own_events_are_read_back_and_are_evidence_of_nothing() {
        for is_live in [false, true] {
            let described = |by: &str| {
                let mut cluster = Cluster::new();
                if is_live {
                    cluster.set_live();
                }
                cluster.add(&vmi()).unwrap();
                _ = cluster.take_touched();
                let asked = Asked { at_usec: 1_772_359_600_000_000, ..Asked::default() };
                let n_findings =
                    |cluster: &Cluster| cluster.describe("prod", "db", &asked, &Signatures::new()).findings.len();
                let n_before = n_findings(&cluster);
                cluster.add(&event("e", by, "SyncFailed")).unwrap();
                (n_findings(&cluster) - n_before, cluster.spoken().cloned().collect::<Vec<_>>(), cluster.is_touched())
            };
            let (n_of_others, spoken, _) = described("virt-handler");
            assert!(n_of_others > 0 && spoken.is_empty(), "the same words of another are evidence");
            let (n_ours, spoken, is_touched) = described(SPEAKER);
            assert_eq!((n_ours, is_touched), (0, !is_live));
            let want = Spoken {
                namespace: "prod".to_owned(),
                name: "e".to_owned(),
                about_uid: "u".to_owned(),
                topic: "LocalDiskStalled@n1".to_owned(),
                is_warning: true,
                count: 3,
                last_usec: 1_772_359_500_000_000,
            };
            assert_eq!(spoken, [want]);
        }
    }

    #[test]
    fn what_is_gone_is_not_said_any_more() {
        let mut cluster = Cluster::new();
        cluster.set_live();
        cluster.add(&event("e", SPEAKER, "LocalDiskStalled")).unwrap();
        assert!(cluster.remove(Kind::Event, "prod", "e", 0));
        assert_eq!(cluster.spoken().count(), 0);
        assert!(!cluster.remove(Kind::Event, "prod", "e", 0));
    }

    #[test]
    fn objects_are_told_by_their_real_uids() {
        let mut cluster = Cluster::new();
        cluster.add(&vmi()).unwrap();
        let migration = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"name": "m", "namespace": "prod", "uid": "v"}, "spec": {"vmiName": "db"}});
        cluster.add(&migration).unwrap();
        let want = VmObjects { vm: None, vmi: Some("u".to_owned()), migration: Some("v".to_owned()) };
        assert_eq!(cluster.objects_of("prod", "db", Some("m")), want);
        assert_eq!(cluster.objects_of("prod", "db", Some("n")).migration, None);
        assert_eq!(cluster.objects_of("other", "db", Some("m")), VmObjects::default());
    }
}
