//! Random lives of a watched cluster: it says the same as one that never knew what is gone, but for migrations that were stored, and
//! whom each change touched.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{prelude::*, sample::select};

use super::{
    live::{add, live},
    *,
};
use crate::{ClusterNode, Kind};

/// A step in a cluster's life.
#[derive(Clone, Debug)]
enum Step {
    Add(Value),
    Remove(Kind, String, String),
    List(Kind, bool),
}

/// Few names, so that objects meet.
const NAMESPACES: &[&str] = &["prod", "dev"];
const VMS: &[&str] = &["a", "b"];
const NODES: &[&str] = &["n1", "n2", "n3"];
const UIDS: &[&str] = &["u1", "u2"];
const CLAIMS: &[&str] = &["c1", "c2", "prime-u1"];
const VOLUMES: &[&str] = &["v1", "v2"];
const MIGRATIONS: &[&str] = &["m1", "m2"];
const IMAGES: &[&str] = &["img", "docker.io/library/img:latest", "reg.example/launcher:v1"];
const PODS: &[&str] = &[
    "virt-launcher-a-aaaaa",
    "virt-launcher-a-bbbbb",
    "virt-launcher-b-aaaaa",
    "hp-volume-x",
    "importer-c1",
    "importer-prime-u1",
    "virt-handler-x",
    "virt-controller-x",
    "virt-api-x",
    "csi-x",
];
const TIMES: &[&str] = &["2026-03-01T10:05:00Z", "2026-03-01T10:10:00Z", "2026-03-01T10:14:50Z"];

fn one(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(of).prop_map(ToOwned::to_owned)
}

/// One of these words, or nothing.
fn maybe(of: &'static [&'static str]) -> impl Strategy<Value = Value> {
    proptest::option::of(select(of)).prop_map(Value::from)
}

fn metadata(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    (one(names), one(NAMESPACES), maybe(UIDS), maybe(TIMES), maybe(TIMES)).prop_map(|(name, namespace, uid, created, deleted)| {
        json!({"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": created, "deletionTimestamp": deleted})
    })
}

fn vm_like() -> impl Strategy<Value = Value> {
    let unscheduled = "0/2 nodes are available: 1 Insufficient devices.kubevirt.io/kvm.";
    let state = (maybe(NODES), maybe(NODES), maybe(UIDS), maybe(PODS), any::<bool>()).prop_map(
        |(from, to, uid, pod, is_over)| {
            json!({"sourceNode": from, "targetNode": to, "migrationUid": uid, "targetPod": pod, "completed": is_over,
            "startTimestamp": "2026-03-01T10:10:30Z", "failureReason": if is_over { json!("x") } else { Value::Null }})
        },
    );
    let places = (maybe(NODES), maybe(NODES), maybe(NODES), proptest::option::of(state));
    let rest = (
        maybe(CLAIMS),
        maybe(&["Running", "Scheduling", "Failed"]),
        any::<bool>(),
        maybe(&["ErrImagePull"]),
        any::<bool>(),
    );
    (metadata(VMS), any::<bool>(), places, rest).prop_map(move |(meta, is_vm, places, rest)| {
        let (node, label, active, state) = places;
        let (claim, phase, is_refused, pull, has_device) = rest;
        let spec = json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": claim}}],
            "domain": {"devices": {"gpus": if has_device { json!([{"deviceName": "x.example/gpu"}]) } else { Value::Null }}}});
        let conditions = json!([
            {"type": "PodScheduled", "status": if is_refused { "False" } else { "True" }, "message": unscheduled},
            {"type": "Synchronized", "status": "False", "reason": pull, "message": "no \"img\""}]);
        if is_vm {
            json!({"kind": "VirtualMachine", "metadata": meta, "spec": {"runStrategy": "Always", "template": {"spec": spec}},
                "status": {"printableStatus": "Starting", "conditions": conditions}})
        } else {
            let object = json!({"kind": "VirtualMachineInstance", "metadata": meta, "spec": spec,
                "status": {"phase": phase, "nodeName": node, "evacuationNodeName": pull.as_str().map(|_| "n1"), "conditions": conditions, "migrationState": state,
                    "activePods": {"u9": active}}});
            with(object, &json!({"metadata": {"labels": {"kubevirt.io/migrationTargetNodeName": label}}}))
        }
    })
}

fn migration() -> impl Strategy<Value = Value> {
    let phases = maybe(&["Pending", "Scheduling", "Running", "Succeeded", "Failed"]);
    (metadata(MIGRATIONS), maybe(VMS), phases, maybe(NODES), maybe(NODES)).prop_map(|(meta, vm, phase, from, to)| {
        json!({"kind": "VirtualMachineInstanceMigration", "metadata": meta, "spec": {"vmiName": vm},
            "status": {"phase": phase, "migrationState": {"sourceNode": from, "targetNode": to},
                "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": "2026-03-01T10:11:00Z"}]}})
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let labels = (maybe(UIDS), maybe(UIDS), maybe(&["virt-launcher", "virt-handler", "virt-api"]), maybe(CLAIMS));
    let owner = (
        maybe(&["Pod", "VirtualMachineInstance", "PersistentVolumeClaim"]),
        prop_oneof![one(PODS), one(VMS), one(CLAIMS)],
    );
    let state = (
        maybe(NODES),
        maybe(&["Running", "Failed", "Pending"]),
        any::<bool>(),
        maybe(&["ErrImagePull", "x"]),
        maybe(IMAGES),
        maybe(CLAIMS),
    );
    (metadata(PODS), labels, owner, state).prop_map(|(meta, (by, job, what, cdi), (owner, name), state)| {
        let (node, phase, is_ready, waiting, image, claim) = state;
        let running = json!({"running": {"startedAt": "2026-03-01T10:05:00Z"}});
        let container = if waiting.is_null() { running } else { json!({"waiting": {"reason": waiting}}) };
        let object = json!({"kind": "Pod", "metadata": meta,
            "spec": {"nodeName": node, "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": claim}}],
                "nodeSelector": {"cpu-model.node.kubevirt.io/X": "true"},
                "containers": [{"name": "compute", "image": image, "resources": {"limits": {"x.example/gpu": "1"}}},
                    {"name": if by.is_null() { "driver-registrar" } else { "sidecar" }}]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if is_ready { "True" } else { "False" }},
                    {"type": "PodScheduled", "status": if node.is_null() { "False" } else { "True" },
                        "message": "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }."}],
                "containerStatuses": [{"name": "compute", "ready": is_ready, "imageID": "sha256:1", "state": container}]}});
        with(object, &json!({"metadata": {
            "labels": {"kubevirt.io/created-by": by, "kubevirt.io/migrationJobUID": job, "kubevirt.io": what, "cdi.kubevirt.io/x": cdi},
            "ownerReferences": [{"kind": owner, "name": name}]}}))
    })
}

fn cluster_wide() -> impl Strategy<Value = Value> {
    let node = (one(NODES), any::<bool>(), any::<bool>(), maybe(&["6.1", "6.2"]), maybe(IMAGES), maybe(TIMES)).prop_map(
        |(name, has_kvm, is_pressed, kernel, image, beat)| {
            let taint = if is_pressed { json!([{"key": "node.kubernetes.io/disk-pressure"}]) } else { json!([]) };
            let kvm = if has_kvm { "1k" } else { "0" };
            with(node(&name), &json!({"metadata": {"labels": {"cpu-model.node.kubevirt.io/X": if is_pressed { "true" } else { "false" }},
                    "annotations": {"kubevirt.io/heartbeat": beat}}, "spec": {"taints": taint},
                "status": {"allocatable": {"devices.kubevirt.io/kvm": kvm, "x.example/gpu": kvm},
                    "nodeInfo": {"kernelVersion": kernel}, "images": [{"names": [image]}]}}))
        },
    );
    let lease = (one(NODES), maybe(TIMES)).prop_map(|(name, renewed)| {
        json!({"kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"renewTime": renewed}})
    });
    let csi = (one(NODES), maybe(&["d1"])).prop_map(|(name, driver)| {
        json!({"kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": [{"name": driver}]}})
    });
    let config = (one(&["k"]), maybe(&["1Mi", "1Gi"]), any::<bool>()).prop_map(|(name, limit, is_policy)| {
        let settings = json!({"bandwidthPerMigration": limit, "parallelMigrationsPerCluster": 1});
        if is_policy {
            json!({"kind": "MigrationPolicy", "metadata": {"name": name}, "spec": settings})
        } else {
            json!({"kind": "KubeVirt", "metadata": {"name": name, "namespace": "dev"}, "spec": {"configuration": {"migrations": settings}}})
        }
    });
    prop_oneof![3 => node, 1 => lease, 1 => csi, 1 => config]
}

fn storage() -> impl Strategy<Value = Value> {
    let claim = (metadata(CLAIMS), maybe(VOLUMES), maybe(&["Bound", "Lost"]), any::<bool>()).prop_map(
        |(meta, volume, phase, is_data)| {
            let kind = if is_data { "DataVolume" } else { "PersistentVolumeClaim" };
            json!({"kind": kind, "metadata": meta, "spec": {"volumeName": volume}, "status": {"phase": phase}})
        },
    );
    let volume = (one(VOLUMES), maybe(CLAIMS), one(NAMESPACES), maybe(&["h1", "h2"])).prop_map(|(name, claim, namespace, handle)| {
        json!({"kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"claimRef": {"name": claim, "namespace": namespace}, "csi": {"driver": "d1", "volumeHandle": handle}}})
    });
    let attachment = (one(&["va1", "va2"]), maybe(NODES), maybe(VOLUMES), any::<bool>()).prop_map(|(name, node, volume, is_attached)| {
        json!({"kind": "VolumeAttachment", "metadata": {"name": name},
            "spec": {"nodeName": node, "source": {"persistentVolumeName": volume}}, "status": {"attached": is_attached}})
    });
    prop_oneof![claim, volume, attachment]
}

fn any_event() -> impl Strategy<Value = Value> {
    let about = prop_oneof![
        one(PODS).prop_map(|name| ("Pod", name)),
        one(VMS).prop_map(|name| ("VirtualMachineInstance", name)),
        one(VMS).prop_map(|name| ("VirtualMachine", name)),
        one(MIGRATIONS).prop_map(|name| ("VirtualMachineInstanceMigration", name)),
        one(NODES).prop_map(|name| ("Node", name)),
        one(CLAIMS).prop_map(|name| ("PersistentVolumeClaim", name)),
        one(CLAIMS).prop_map(|name| ("DataVolume", name)),
        one(VOLUMES).prop_map(|name| ("PersistentVolume", name)),
        one(&["virt-handler", "web"]).prop_map(|name| ("DaemonSet", name)),
    ];
    const REASONS: &[&str] = &[
        "Pulling",
        "Pulled",
        "Failed",
        "FailedScheduling",
        "RemovingNode",
        "Migrated",
        "FailedMigration",
        "Started",
        "x",
    ];
    const MESSAGES: &[&str] = &[
        "Failed to pull image \"img\": not found",
        "Pulling image \"img\"",
        "Successfully assigned prod/p to n2",
        "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
        "created pod virt-launcher-b-aaaaa",
        "persistentvolumeclaim \"c1\" not found",
    ];
    (about, one(&["e1", "e2", "e3", "e4"]), one(NAMESPACES), one(REASONS), one(MESSAGES), maybe(NODES), one(TIMES)).prop_map(
        |((kind, about), name, namespace, reason, message, host, time)| {
            json!({"kind": "Event", "metadata": {"name": name, "namespace": namespace}, "type": "Warning",
                "involvedObject": {"kind": kind, "name": about, "namespace": namespace}, "reason": reason, "message": message,
                "source": {"component": "kubelet", "host": host}, "firstTimestamp": time, "lastTimestamp": time})
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let names = prop_oneof![
        one(VMS),
        one(PODS),
        one(NODES),
        one(CLAIMS),
        one(VOLUMES),
        one(MIGRATIONS),
        one(&["e1", "e2", "va1", "k"])
    ];
    let object = prop_oneof![3 => vm_like(), 2 => migration(), 4 => pod(), 2 => cluster_wide(), 2 => storage(), 3 => any_event()];
    prop_oneof![
        10 => object.prop_map(Step::Add),
        2 => (select(&Kind::ALL[..]), one(NAMESPACES), names).prop_map(|(kind, namespace, name)| Step::Remove(kind, namespace, name)),
        1 => (select(&Kind::ALL[..]), any::<bool>()).prop_map(|(kind, is_listed)| Step::List(kind, is_listed)),
    ]
}

type Told = (BTreeMap<(String, String), ClusterVm>, BTreeMap<String, ClusterNode>);

/// Everything that a cluster says.
fn told(cluster: &Cluster) -> Told {
    let names =
        NAMESPACES.iter().flat_map(|namespace| VMS.iter().map(|name| ((*namespace).to_owned(), (*name).to_owned())));
    let keys: BTreeSet<(String, String)> = cluster.vm_keys().collect();
    for (namespace, name) in names.clone() {
        assert_eq!(cluster.has_vm(&namespace, &name), keys.contains(&(namespace, name)), "{keys:?}");
    }
    let vms = names.chain(keys).map(|key| {
        let vm = cluster.describe(&key.0, &key.1, &asked(), &SIGNATURES);
        (key, vm)
    });
    let nodes = NODES.iter().copied().chain(cluster.node_names());
    let nodes = nodes.map(|name| (name.to_owned(), cluster.describe_node(name, usec(AT), &SIGNATURES)));
    (vms.collect(), nodes.collect())
}

/// The key of an object as the API server has it.
fn key_of(object: &Value) -> (String, String, String) {
    let text = |path: &[&str]| value::text(object, path).unwrap_or_default();
    let kind = text(&["kind"]);
    let is_namespaced = Kind::of(&kind, "").is_some_and(|kind| kind.is_namespaced() && kind != Kind::Lease);
    (kind, if is_namespaced { text(&["metadata", "namespace"]) } else { String::new() }, text(&["metadata", "name"]))
}

proptest! {
    // A case is a life of a dozen steps, each compared with a new cluster.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn it_says_what_a_new_cluster_would_and_whom_each_change_touched(
        n_nodes in 0..3_usize,
        steps in proptest::collection::vec(step(), 1..24),
    ) {
        let mut cluster = live();
        let others: Vec<Value> = (0..n_nodes).map(|n| node(&format!("other-{n}"))).collect();
        add(&mut cluster, &others);
        let mut objects: BTreeMap<(String, String, String), Value> =
            others.into_iter().map(|object| (key_of(&object), object)).collect();
        let mut listed: BTreeSet<Kind> = BTreeSet::new();
        let mut before = told(&cluster);
        _ = cluster.take_touched();
        for (n, step) in steps.into_iter().enumerate() {
            match &step {
                Step::Add(object) => {
                    cluster.add(object).expect("an object of the test");
                    objects.insert(key_of(object), object.clone());
                }
                Step::Remove(kind, namespace, name) => {
                    let is_namespaced = kind.is_namespaced() && *kind != Kind::Lease;
                    let namespace = if is_namespaced { namespace.as_str() } else { "" };
                    let known = objects.remove(&(kind.as_str().to_owned(), namespace.to_owned(), name.clone()));
                    let about = known.as_ref().and_then(|object| value::text(object, &["involvedObject", "name"]));
                    let was_read = known.is_some() && !matches!(about.as_deref(), Some("web" | "csi-x"));
                    prop_assert_eq!(cluster.remove(*kind, namespace, name, usec(AT)), was_read);
                }
                Step::List(kind, is_listed) => {
                    cluster.set_listed(*kind, *is_listed);
                    if *is_listed { listed.insert(*kind); } else { listed.remove(kind); }
                }
            }
            let now = told(&cluster);
            let touched = cluster.take_touched();
            if !touched.everything {
                for key in before.0.keys().chain(now.0.keys()).filter(|key| !touched.vms.contains(*key)) {
                    prop_assert_eq!(before.0.get(key), now.0.get(key), "{:?} is not touched by {:?}", key, &step);
                }
                for name in before.1.keys().chain(now.1.keys()).filter(|name| !touched.nodes.contains(*name)) {
                    prop_assert_eq!(before.1.get(name), now.1.get(name), "{:?} is not touched by {:?}", name, &step);
                }
            }
            let mut fresh = live();
            // What was seen of migrations that are gone is what a restart finds stored.
            fresh.history_mut().restore(cluster.history().records().cloned().collect(), None);
            listed.iter().for_each(|kind| fresh.set_listed(*kind, true));
            let (early, late): (Vec<_>, Vec<_>) = objects.values().enumerate().partition(|(place, _)| (place + n) % 3 == 0);
            for (_, object) in late.into_iter().rev().chain(early) {
                fresh.add(object).expect("an object of the test");
            }
            prop_assert_eq!(&told(&fresh), &now, "after {:?}", &step);
            before = now;
        }
        for (kind, namespace, name) in objects.keys() {
            let kind = Kind::ALL.into_iter().find(|own| own.as_str() == kind).expect("a kind of the test");
            cluster.remove(kind, namespace, name, usec(AT));
        }
        prop_assert!(cluster.index.is_empty(), "what is gone left something: {:?}", &cluster.index);
    }
}
