//! The pre-flight of a migration: each reason from both sides, and real objects of a real cluster.

mod pods;

use super::*;
use crate::{Check, Kind, NodeFit, Preflight};

/// What is said when every object is known.
fn asked_of(objects: &[Value]) -> Preflight {
    let mut cluster = cluster(objects);
    Kind::ALL.into_iter().for_each(|kind| cluster.set_listed(kind, true));
    cluster.preflight("prod", "db-0", usec(AT))
}

fn conditions(live_migratable: &Value) -> Value {
    json!({"spec": {"evictionStrategy": "LiveMigrate", "domain": {"cpu": {"model": "kvm64"}}}, "status": {"conditions": [
        {"type": "Ready", "status": "True"}, live_migratable]}})
}

fn migratable() -> Value {
    with(vmi(), &conditions(&json!({"type": "LiveMigratable", "status": "True"})))
}

fn pod() -> Value {
    with(
        launcher(),
        &json!({"spec": {"nodeSelector": {"kubevirt.io/schedulable": "true"}, "containers": [{"name": "compute",
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"devices.kubevirt.io/kvm": "1"}}}]}}),
    )
}

/// A VM that can migrate from n1 to n2, with something more.
fn world(more: &[Value]) -> Vec<Value> {
    let mut objects = vec![migratable(), pod(), node("n1"), node("n2")];
    objects.extend_from_slice(more);
    objects
}

fn words(checks: &[Check]) -> Vec<&str> {
    checks.iter().map(|check| check.what.as_str()).collect()
}

/// The one thing that is said holds these words, or nothing is.
#[track_caller]
fn check_words(found: &[Check], want: Option<&str>) {
    match (words(found).as_slice(), want) {
        ([], None) => {}
        ([one], Some(want)) if one.contains(want) => {}
        (found, want) => panic!("wanted {want:?}, there is {found:#?}"),
    }
    assert!(found.iter().all(|check| !check.source.is_empty()), "what was read is said: {found:?}");
}

#[track_caller]
fn check_blocker(objects: &[Value], want: Option<&str>) {
    check_words(&asked_of(objects).blockers, want);
}

fn fit_of(objects: &[Value]) -> NodeFit {
    let fits = asked_of(objects).nodes;
    assert_eq!(fits.len(), 1, "the source is no target");
    fits.into_iter().next().unwrap()
}

/// Why n2, changed like this, does not fit.
#[track_caller]
fn check_node(change: &Value, want: Option<&str>) {
    check_words(&fit_of(&[migratable(), pod(), node("n1"), with(node("n2"), change)]).misfits, want);
}

#[test]
fn a_vm_that_is_well_can_go_where_the_launcher_fits() {
    let found = asked_of(&world(&[]));
    assert_eq!((words(&found.blockers), words(&found.warnings)), (vec![], vec![]));
    assert_eq!((found.source.as_deref(), found.unknown.as_slice()), (Some("n1"), &[] as &[String]));
    assert_eq!(found.nodes, [NodeFit { name: "n2".to_owned(), ..NodeFit::default() }]);
}

// The target's launcher counts beside the one that runs, and the API server refuses it: condition migrationRejectedByResourceQuota.
#[test]
fn quotas_are_not_looked_at_and_that_is_said() {
    let notes = asked_of(&world(&[])).notes;
    assert!(notes.iter().any(|note| note.contains("ResourceQuotas of prod")), "{notes:?}");
}

#[test]
fn only_a_vm_that_runs_can_migrate() {
    check_blocker(&[pod(), node("n1"), node("n2")], Some("there is no VirtualMachineInstance"));
    let changed = |change: Value| [with(migratable(), &change), pod(), node("n1"), node("n2")];
    check_blocker(&changed(json!({"status": {"phase": "Scheduled"}})), Some("it is Scheduled"));
    let deleted = json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}});
    check_blocker(&changed(deleted), Some("stop or deletion was asked for"));
    let paused = |reason: &str| {
        changed(json!({"status": {"conditions": [{"type": "LiveMigratable", "status": "True"},
            {"type": "Paused", "status": "True", "reason": reason}]}}))
    };
    check_blocker(&paused("PausedIOError"), Some("paused (PausedIOError)"));
    check_blocker(&paused("PausedByUser"), None);
    check_words(&asked_of(&paused("PausedByUser")).warnings, Some("paused (PausedByUser)"));
    let not_ready = |reason: &str| {
        changed(json!({"status": {"conditions": [{"type": "LiveMigratable", "status": "True"},
            {"type": "Ready", "status": "False", "reason": reason}]}}))
    };
    check_blocker(&not_ready("PodTerminating"), Some("not ready (PodTerminating)"));
    check_blocker(&not_ready("GuestNotRunning"), None);
    check_words(&asked_of(&not_ready("GuestNotRunning")).warnings, Some("not ready (GuestNotRunning)"));
}

#[test]
fn kubevirts_word_on_what_can_be_migrated_is_taken() {
    for (reason, fix) in [
        ("DisksNotLiveMigratable", "ReadWriteMany"),
        ("InterfaceNotLiveMigratable", "masquerade"),
        ("HostDeviceNotLiveMigratable", "restarted elsewhere"),
        ("SomethingOfANewerKubeVirt", "restart"),
    ] {
        let said = json!({"type": "LiveMigratable", "status": "False", "reason": reason, "message": "because of x"});
        let objects = [with(vmi(), &conditions(&said)), pod(), node("n1"), node("n2")];
        check_blocker(&objects, Some(&format!("not live-migratable ({reason}: because of x)")));
        assert!(asked_of(&objects).blockers[0].fix.contains(fix), "{reason}");
    }
}

#[test]
fn where_kubevirt_has_not_spoken_the_claims_do() {
    let on_claim = json!({"spec": {"volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "c"}}]}});
    let claim = |mode: &str| json!({"kind": "PersistentVolumeClaim", "metadata": meta("c"), "status": {"phase": "Bound", "accessModes": [mode]}});
    let objects = |vmi: Value, mode: &str| [with(vmi, &on_claim), pod(), node("n1"), node("n2"), claim(mode)];
    check_blocker(&objects(vmi(), "ReadWriteOnce"), Some("claim c is ReadWriteOnce"));
    check_blocker(&objects(vmi(), "ReadWriteMany"), None);
    check_blocker(&objects(migratable(), "ReadWriteOnce"), None);
    let unknown = asked_of(&objects(vmi(), "ReadWriteMany")).unknown;
    assert!(unknown[0].contains("LiveMigratable"), "{unknown:?}");
}

#[test]
fn one_migration_at_a_time_and_the_last_that_failed_is_told() {
    check_blocker(&world(&[vmim("Running")]), Some("it migrates already: mig-1 is Running, asked for by user"));
    check_blocker(&world(&[vmim("")]), Some("mig-1 is Pending"));
    check_blocker(&world(&[vmim("Succeeded")]), None);
    assert!(asked_of(&world(&[vmim("Succeeded")])).warnings.is_empty());
    let state = json!({"status": {"migrationState": {"failed": true, "failureReason": "no route"}}});
    let failed = asked_of(&world(&[with(vmim("Failed"), &state)]));
    check_words(&failed.warnings, Some("mig-1, failed: no route"));
    let old = json!({"metadata": {"creationTimestamp": "2026-02-20T10:00:00Z"}, "status": {"phaseTransitionTimestamps": [
        {"phase": "Failed", "phaseTransitionTimestamp": "2026-02-20T10:11:00Z"}]}});
    assert!(asked_of(&world(&[with(vmim("Failed"), &old)])).warnings.is_empty(), "of another day");
}

#[test]
fn a_node_that_takes_no_pods_does_not_fit() {
    check_node(&json!({}), None);
    check_node(&json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), Some("not ready"));
    check_node(&json!({"spec": {"unschedulable": true}}), Some("cordoned"));
    let cordon = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
    check_node(&json!({"spec": {"unschedulable": true, "taints": [cordon]}}), Some("cordoned"));
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "gpu", "value": "a", "effect": effect}]}});
    check_node(&taint("NoSchedule"), Some("taint gpu=a:NoSchedule"));
    check_node(&taint("PreferNoSchedule"), None);
    let tolerating = with(pod(), &json!({"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}));
    let tainted = with(node("n2"), &taint("NoSchedule"));
    check_words(&fit_of(&[migratable(), tolerating, node("n1"), tainted]).misfits, None);
}

#[test]
fn a_node_on_which_kubevirt_does_not_work_does_not_fit() {
    check_node(&json!({"metadata": {"labels": {"kubevirt.io/schedulable": "false"}}}), Some("takes nothing there now"));
    check_node(&json!({"metadata": {"labels": {"kubevirt.io/schedulable": null}}}), Some("does not run there"));
    // The newest moment that an object tells is 10:14:30.
    let beat = |time: &str| json!({"metadata": {"annotations": {"kubevirt.io/heartbeat": time}}});
    check_node(&beat("2026-03-01T10:09:30Z"), None);
    check_node(&beat("2026-03-01T10:09:29Z"), Some("heartbeat is 301 s old"));
    check_node(
        &json!({"status": {"allocatable": {"devices.kubevirt.io/kvm": "0"}}}),
        Some("no devices.kubevirt.io/kvm"),
    );
}

#[test]
fn what_the_launcher_wants_of_a_nodes_labels_must_be_there() {
    let changed = |change: Value| with(pod(), &json!({"spec": change}));
    let misfits = |pod: Value| fit_of(&[migratable(), pod, node("n1"), node("n2")]).misfits;
    check_words(&misfits(changed(json!({"nodeSelector": {"disk": "ssd"}}))), Some("lacks the label disk=ssd"));
    let cpu = json!({"nodeSelector": {"cpu-model.node.kubevirt.io/Skylake": "true", "cpu-feature.node.kubevirt.io/avx": "true"}});
    check_words(&misfits(changed(cpu)), Some("its CPU lacks avx, Skylake"));
    let term = |name: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}})
    };
    check_words(&misfits(changed(term("n1"))), Some("required node affinity"));
    check_words(&misfits(changed(term("n2"))), None);
}

#[test]
fn the_cpu_that_the_guest_uses_must_be_there() {
    let cpu = |name: &str, features: &[&str]| {
        let own = ("host-model-cpu.node.kubevirt.io/kvm64".to_owned(), json!("true"));
        let offered = features.iter().map(|feature| (format!("cpu-feature.node.kubevirt.io/{feature}"), json!("true")));
        let needed = features
            .iter()
            .map(|feature| (format!("host-model-required-features.node.kubevirt.io/{feature}"), json!("true")));
        let labels: serde_json::Map<String, Value> = offered.chain(needed).chain([own]).collect();
        with(node(name), &json!({"metadata": {"labels": labels}}))
    };
    let host_model = || with(migratable(), &json!({"spec": {"domain": {"cpu": {"model": "host-model"}}}}));
    let misfits = |target: Value| fit_of(&[host_model(), pod(), cpu("n1", &["avx", "aes"]), target]).misfits;
    check_words(&misfits(cpu("n2", &["avx", "aes", "sha"])), None);
    check_words(&misfits(cpu("n2", &["aes"])), Some("its CPU lacks avx"));
    let untold = fit_of(&[host_model(), pod(), node("n1"), node("n2")]);
    assert_eq!(untold.unknown, ["whether its CPU fits host-model: nodes do not tell by labels"]);
}

#[test]
fn room_is_what_kubevirts_own_pods_leave() {
    let room =
        |cpu: &str, memory: &str| json!({"status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}}});
    check_node(&room("1", "1Gi"), None);
    check_node(
        &room("999m", "1Gi"),
        Some("not enough cpu: the launcher requests 1.000 cores, at most 0.999 cores of 0.999 cores are free"),
    );
    check_node(&room("1", "1023Mi"), Some("not enough memory: the launcher requests 1024 MiB"));
    check_node(&json!({"status": {"allocatable": {"pods": "0"}}}), Some("not enough pods"));
    let other = |phase: &str| {
        with(
            pod(),
            &json!({"metadata": {"name": "virt-launcher-web-0-abcde", "labels": {"kubevirt.io/created-by": "vmi-9"}},
            "spec": {"nodeName": "n2"}, "status": {"phase": phase}}),
        )
    };
    let misfits = |phase: &str| {
        fit_of(&[migratable(), pod(), node("n1"), with(node("n2"), &room("1500m", "4Gi")), other(phase)]).misfits
    };
    check_words(&misfits("Running"), Some("at most 0.500 cores of 1.500 cores are free"));
    check_words(&misfits("Succeeded"), None);
    let untold = with(node("n2"), &json!({"status": {"allocatable": null}}));
    let untold = fit_of(&[migratable(), pod(), node("n1"), untold]);
    assert!(untold.misfits.is_empty() && untold.unknown[0].contains("not told"), "{untold:?}");
}

#[test]
fn its_volumes_must_be_to_be_had_there() {
    let reach = |node: &str| {
        json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}})
    };
    let disk = |reach: Value| {
        json!({"kind": "PersistentVolume", "metadata": {"name": "pv-c"}, "spec": {"claimRef": {"name": "c", "namespace": "prod"},
            "csi": {"driver": "d.example", "volumeHandle": "h"}, "nodeAffinity": reach}})
    };
    let drivers = |drivers: Value| json!({"kind": "CSINode", "metadata": {"name": "n2"}, "spec": {"drivers": drivers}});
    let held = |name: &str| {
        [
            json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {"csi": {"driver": "d.example"}}}),
            json!({"kind": "VolumeAttachment", "metadata": {"name": format!("a-{name}")},
            "spec": {"nodeName": "n2", "source": {"persistentVolumeName": name}}, "status": {"attached": true}}),
        ]
    };
    let misfits = |disk: Value, driver: Option<Value>, held: &[Value]| {
        let vmi = with(
            migratable(),
            &json!({"spec": {"volumes": [{"name": "root", "persistentVolumeClaim": {"claimName": "c"}}]}}),
        );
        let claim = json!({"kind": "PersistentVolumeClaim", "metadata": meta("c"), "spec": {"volumeName": "pv-c"},
            "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]}});
        let labels = json!({"metadata": {"labels": {"kubernetes.io/hostname": "n2"}}});
        let mut objects = vec![vmi, pod(), node("n1"), with(node("n2"), &labels), claim, disk];
        objects.extend(driver);
        objects.extend_from_slice(held);
        fit_of(&objects).misfits
    };
    let there = || Some(drivers(json!([{"name": "d.example", "allocatable": {"count": 1}}])));
    check_words(&misfits(disk(Value::Null), there(), &[]), None);
    check_words(&misfits(disk(reach("n2")), there(), &[]), None);
    check_words(&misfits(disk(reach("n1")), there(), &[]), Some("volume of its claim c cannot be had there"));
    check_words(&misfits(disk(Value::Null), Some(drivers(json!([]))), &[]), Some("d.example is not registered"));
    check_words(&misfits(disk(Value::Null), None, &[]), Some("no CSI driver is registered there"));
    check_words(
        &misfits(disk(Value::Null), there(), &held("pv-x")),
        Some("1 volumes of d.example are attached there, and it takes 1"),
    );
    let with_room = Some(drivers(json!([{"name": "d.example", "allocatable": {"count": 2}}])));
    check_words(&misfits(disk(Value::Null), with_room, &held("pv-x")), None);
}

#[test]
fn the_policy_with_most_labels_applies_before_the_configuration() {
    let kubevirt = json!({"kind": "KubeVirt", "metadata": {"name": "kubevirt", "namespace": "kubevirt"}, "spec": {"configuration":
        {"migrations": {"bandwidthPerMigration": "64Mi", "parallelMigrationsPerCluster": 3, "allowAutoConverge": true}}}});
    let policy = |name: &str, vmi: Value, namespace: Value, bandwidth: &str| {
        json!({"kind": "MigrationPolicy", "metadata": {"name": name}, "spec": {"bandwidthPerMigration": bandwidth,
            "selectors": {"virtualMachineInstanceSelector": vmi, "namespaceSelector": namespace}}})
    };
    let labelled = with(migratable(), &json!({"metadata": {"labels": {"app": "db", "tier": "gold"}}}));
    let terms = |policies: &[Value]| {
        let mut objects = vec![labelled.clone(), pod(), node("n1"), node("n2"), kubevirt.clone()];
        objects.extend_from_slice(policies);
        asked_of(&objects)
    };
    let none = terms(&[]).terms;
    assert_eq!((none.policy, none.bandwidth_bytes, none.per_cluster, none.per_node), (None, 64 << 20, 3, 2));
    assert!(none.allows_auto_converge && !none.allows_post_copy);
    let few = policy("b-few", json!({"app": "db"}), Value::Null, "1Mi");
    let same = policy("a-few", json!({"tier": "gold"}), Value::Null, "2Mi");
    let most = policy("z-most", json!({"app": "db", "tier": "gold"}), Value::Null, "3Mi");
    let other = policy("other", json!({"app": "web"}), Value::Null, "4Mi");
    let here = policy("here", json!({"app": "db"}), json!({"kubernetes.io/metadata.name": "prod"}), "5Mi");
    let elsewhere = policy("elsewhere", json!({}), json!({"kubernetes.io/metadata.name": "test"}), "6Mi");
    let applies = |policies: &[Value]| terms(policies).terms.policy;
    assert_eq!(applies(&[other.clone(), elsewhere]), None);
    assert_eq!(applies(&[few.clone(), same, other]).as_deref(), Some("a-few"), "of equals the first by name");
    assert_eq!(applies(&[few.clone(), most]).as_deref(), Some("z-most"));
    assert_eq!(applies(&[few.clone(), here]).as_deref(), Some("here"));
    let of_team = |team: &str| {
        let namespace =
            json!({"kind": "Namespace", "metadata": {"name": "prod", "labels": {"team": team, "tier": "gold"}}});
        let wanted = json!({"team": "a", "tier": "gold"});
        applies(&[few.clone(), policy("of-team", json!({}), wanted, "7Mi"), namespace])
    };
    assert_eq!((of_team("a").as_deref(), of_team("b").as_deref()), (Some("of-team"), Some("b-few")));
    let perhaps = terms(&[few.clone(), policy("perhaps", json!({}), json!({"team": "a"}), "7Mi")]);
    assert_eq!(perhaps.terms.policy.as_deref(), Some("b-few"));
    assert!(perhaps.notes.iter().any(|note| note.contains("perhaps applies is not known")), "{:?}", perhaps.notes);
}

#[test]
fn without_a_free_slot_it_would_wait() {
    let other = |n: u32, node: &str| {
        with(
            vmim("Running"),
            &json!({"metadata": {"name": format!("other-{n}"), "uid": format!("u{n}")}, "spec": {"vmiName": format!("web-{n}")},
            "status": {"migrationState": {"sourceNode": node, "targetNode": "n9"}}}),
        )
    };
    let of = |others: Vec<Value>| asked_of(&world(&others));
    let one = of(vec![other(1, "n1")]);
    assert_eq!((one.terms.running.len(), one.terms.leaving.len()), (1, 1));
    check_words(&one.warnings, None);
    check_words(
        &of(vec![other(1, "n1"), other(2, "n1")]).warnings,
        Some("2 of 2 migrations run from its node (prod/other-1, prod/other-2)"),
    );
    check_words(&of((1..=5).map(|n| other(n, "n2")).collect()).warnings, Some("5 of 5 migrations run in the cluster"));
    check_words(&of((1..=4).map(|n| other(n, "n2")).collect()).warnings, None);
}

#[test]
fn what_is_not_known_is_said() {
    let found = cluster(&world(&[])).preflight("prod", "db-0", usec(AT));
    assert!(found.unknown.iter().any(|sentence| sentence == "not every Node of the cluster is known"), "{found:#?}");
    assert!(found.notes.iter().any(|note| note.starts_with("the MigrationPolicies are not all known")), "{found:#?}");
    let no_pod = asked_of(&[migratable(), node("n1"), node("n2")]);
    assert!(no_pod.unknown.iter().any(|sentence| sentence.contains("launcher pod is not known")), "{no_pod:#?}");
    assert!(no_pod.nodes[0].unknown[0].contains("launcher"), "a node that was not asked does not fit: {no_pod:#?}");
    let nobody = Cluster::new().preflight("prod", "db-0", usec(AT));
    check_words(&nobody.blockers, Some("there is no VirtualMachineInstance"));
}

// Recorded: fixtures/CAPTURE.md.
#[test]
fn a_real_vm_can_go_back_to_where_it_came_from() {
    let list: Value = serde_json::from_str(include_str!("../../fixtures/two-nodes.json")).unwrap();
    let found =
        |list: &Value| cluster(std::slice::from_ref(list)).preflight("prod", "db-0", usec("2026-11-21T05:39:26Z"));
    let well = found(&list);
    assert_eq!((words(&well.blockers), words(&well.warnings)), (vec![], vec![]));
    assert_eq!((well.source.as_deref(), well.unknown.as_slice()), (Some("n2"), &[] as &[String]));
    assert_eq!(well.nodes, [NodeFit { name: "n1".to_owned(), ..NodeFit::default() }]);
    assert_eq!((well.terms.per_cluster, well.terms.per_node, well.terms.completion_secs_per_gib), (5, 2, 150));
    for said in ["BlockMigration", "its former launcher prod/virt-launcher-db-0-rnt5w is still on n1"] {
        assert!(well.notes.iter().any(|note| note.contains(said)), "{said}: {:?}", well.notes);
    }
    let mut without_model = list;
    let items = without_model["items"].as_array_mut().unwrap();
    let first = items.iter_mut().find(|item| item["metadata"]["name"] == "n1").unwrap();
    first["metadata"]["labels"].as_object_mut().unwrap().remove("cpu-model.node.kubevirt.io/pentium3");
    check_words(&found(&without_model).nodes[0].misfits, Some("its CPU lacks pentium3"));
}
