//! Adding objects: lists, unknown kinds, partial and damaged ones.

use proptest::prelude::*;

use super::*;
use crate::{Added, NotAdded};

#[test]
fn lists_are_flattened_and_unknown_kinds_counted() {
    let mut cluster = Cluster::new();
    let list = json!({"kind": "List", "items": [vmi(), {"kind": "ConfigMap", "metadata": {"name": "x"}}, launcher()]});
    assert_eq!(cluster.add(&list), Ok(Added { n_kept: 2, n_others: 1 }));
    // Items of a typed list carry no kind of their own.
    let typed = json!({"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "p", "namespace": "prod"}, "spec": {"nodeName": "n9"}}]});
    assert_eq!(cluster.add(&typed), Ok(Added { n_kept: 1, n_others: 0 }));
    assert_eq!(cluster.node_of_pod("prod", "p"), Some("n9"));
    assert_eq!(cluster.node_of_pod("", "p"), Some("n9"));
    assert_eq!(cluster.node_of_domain("prod_db-0"), Some("n1"));
    assert_eq!(cluster.others().get("ConfigMap"), Some(&1));
}

#[test]
fn what_is_no_object_is_named_and_the_rest_of_a_list_is_kept() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.add(&json!("x")), Err(NotAdded::NotAnObject("a value")));
    assert_eq!(cluster.add(&json!({"metadata": {}})), Err(NotAdded::NoKind));
    assert_eq!(cluster.add(&json!({"kind": "Pod"})).unwrap_err().to_string(), "a Pod without a name");
    let list = json!({"kind": "List", "items": [3, vmi()]});
    assert_eq!(
        cluster.add(&list).unwrap_err().to_string(),
        "1 of 2 elements of a list: not a Kubernetes object but a value"
    );
    assert_eq!(cluster.vm_keys().collect::<Vec<_>>(), [("prod".to_owned(), "db-0".to_owned())]);
}

#[test]
fn kinds_of_other_groups_are_not_taken_for_kubernetes_own() {
    let mut cluster = Cluster::new();
    let node = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {"name": "n1"}});
    assert_eq!(cluster.add(&node), Ok(Added { n_kept: 0, n_others: 1 }));
    assert!(cluster.describe_nodes(usec(AT), &SIGNATURES).is_empty());
}

#[test]
fn a_field_of_a_wrong_type_costs_only_itself() {
    let odd = json!({"kind": "VirtualMachineInstance", "metadata": {"name": "db-0", "namespace": "prod", "labels": [1], "creationTimestamp": 5},
        "status": {"phase": "Running", "conditions": "none", "nodeName": "n1", "activePods": 7}});
    let vm = vm_of(&[odd]);
    assert_eq!(
        (vm.life.phase.as_deref(), vm.hosting.as_deref(), vm.life.created_usec),
        (Some("Running"), Some("n1"), None)
    );
}

#[test]
fn a_vm_known_by_a_pod_an_event_or_nothing_is_described() {
    let pod = json!({"kind": "Pod", "metadata": {"name": "virt-launcher-db-0-abcde", "namespace": "prod"}, "status": {"phase": "Pending"}});
    let by_pod = cluster(&[pod]);
    assert_eq!(by_pod.vm_keys().count(), 1);
    assert_eq!(vm_of(&[]).uid, "prod/db-0");
    let by_event = event("Pod", "virt-launcher-db-0-abcde", "FailedMount", "x");
    let vm = vm_of(&[with(by_event, &json!({"source": {"component": "kubelet", "host": "n3"}}))]);
    assert_eq!((vm.pods[0].name.as_str(), vm.hosting.as_deref()), ("virt-launcher-db-0-abcde", Some("n3")));
}

#[test]
fn an_event_collected_twice_is_one() {
    let named =
        |count: u64| with(event("Pod", "p", "Failed", "x"), &json!({"metadata": {"name": "p.1"}, "count": count}));
    let cluster = cluster(&[named(2), named(5)]);
    assert_eq!(cluster.events.values().map(|event| event.count).collect::<Vec<_>>(), [5]);
}

fn any_json() -> impl Strategy<Value = Value> {
    const WORDS: &[&str] = &[
        "Running",
        "True",
        "False",
        "n1",
        "db-0",
        "prod",
        "virt-launcher-db-0-abcde",
        "2026-03-01T10:00:00Z",
        "128Mi",
        "OOMKilled",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::sample::select(WORDS).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let keys = proptest::sample::select(
        &[
            "kind",
            "metadata",
            "spec",
            "status",
            "name",
            "namespace",
            "conditions",
            "type",
            "reason",
            "message",
            "phase",
            "items",
            "nodeName",
            "containerStatuses",
            "state",
            "waiting",
            "terminated",
            "migrationState",
            "involvedObject",
            "labels",
            "volumes",
            "allocatable",
        ][..],
    );
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(keys.clone().prop_map(ToOwned::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_makes_it_panic(
        objects in proptest::collection::vec((any_json(), proptest::sample::select(&["VirtualMachine", "VirtualMachineInstance",
            "VirtualMachineInstanceMigration", "Pod", "Node", "Event", "PersistentVolumeClaim", "PersistentVolume", "VolumeAttachment",
            "CSINode", "DataVolume", "Lease", "KubeVirt", "List"][..])), 0..6),
        at_usec in any::<i64>(),
        is_live in any::<bool>(),
    ) {
        let mut cluster = Cluster::new();
        if is_live {
            cluster.set_live();
            _ = cluster.take_touched();
        }
        cluster.add(&with(vmi(), &json!({"metadata": {"name": "db-1"}}))).expect("an object of a test");
        for (object, kind) in objects {
            _ = cluster.add(&object);
            _ = cluster.add(&with(json!({"kind": kind, "metadata": {"name": "db-0", "namespace": "prod"}}), &object));
        }
        let asked = Asked { at_usec, migration: Some("db-0".to_owned()), ..Asked::default() };
        for (namespace, name) in cluster.vm_keys() {
            _ = cluster.describe(&namespace, &name, &asked, &SIGNATURES);
            _ = cluster.describe(&namespace, &name, &Asked { at_usec, ..Asked::default() }, &SIGNATURES);
        }
        _ = cluster.describe_nodes(at_usec, &SIGNATURES);
        prop_assert!(cluster.has_vm("prod", "db-1"), "a bad object cost another one");
    }
}
