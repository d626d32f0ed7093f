//! Facts of the migration in question.

use kulprit_model::attribute::{INITIATOR, WHAT};

use super::*;

fn failed(reason: &str) -> Value {
    with(
        vmim("Failed"),
        &json!({"status": {"migrationState": {"failed": true, "failureReason": reason, "sourceNode": "n1", "targetNode": "n2",
        "startTimestamp": "2026-03-01T10:10:10Z", "endTimestamp": "2026-03-01T10:11:00Z", "targetPod": "virt-launcher-db-0-fghij"}}}),
    )
}

#[test]
fn ends_of_a_migration_have_their_sides() {
    let vm = vm_of(&[vmi(), launcher(), target(), vmim("Scheduling")]);
    let sides: Vec<_> = vm.pods.iter().map(|pod| (pod.side, pod.node.as_deref())).collect();
    assert_eq!(sides, [(Side::Source, Some("n1")), (Side::Target, Some("n2"))]);
    assert_eq!(
        (vm.hosting.as_deref(), vm.source.as_deref(), vm.target.as_deref()),
        (Some("n1"), Some("n1"), Some("n2"))
    );
}

#[test]
fn after_a_migration_the_target_hosts() {
    let state = json!({"completed": true, "migrationUid": "mig-uid", "sourceNode": "n1", "targetNode": "n2", "sourcePod": "virt-launcher-db-0-abcde",
        "targetPod": "virt-launcher-db-0-fghij", "endTimestamp": "2026-03-01T10:11:00Z"});
    let moved = with(vmi(), &json!({"status": {"nodeName": "n2", "migrationState": state}}));
    let over = with(
        launcher(),
        &json!({"status": {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "False"}]}}),
    );
    let vm = vm_of(&[moved, over, target(), vmim("Succeeded"), node("n1"), node("n2")]);
    assert_eq!((vm.hosting.as_deref(), vm.source.as_deref()), (Some("n2"), Some("n1")));
    let sides: Vec<_> = vm.pods.iter().map(|pod| pod.side).collect();
    assert_eq!(sides, [Side::Source, Side::Hosting]);
    let present: Vec<_> = vm.findings.iter().filter(|of| status(&of.finding) != Some(Status::Absent)).collect();
    assert!(present.is_empty(), "{present:#?}");
    assert_eq!(vm.life.n_migrations_24h.words(), "1 succeeded, 0 failed");
}

#[test]
fn hints_win_over_objects() {
    let asked =
        Asked { source: Some("a".to_owned()), target: Some("b".to_owned()), hosting: Some("a".to_owned()), ..asked() };
    let vm = cluster(&[vmi(), vmim("Running")]).describe("prod", "db-0", &asked, &SIGNATURES);
    assert_eq!((vm.hosting.as_deref(), vm.source.as_deref(), vm.target.as_deref()), (Some("a"), Some("a"), Some("b")));
}

// Objects of migrations outlive their VM.
#[test]
fn a_vm_that_was_made_anew_has_no_part_in_the_migrations_of_its_predecessor() {
    let made = |at: &str| {
        let made = json!({"metadata": {"creationTimestamp": at}});
        let vm = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "db-0", "namespace": "prod"}});
        cluster(&[with(vm, &made), with(vmi(), &made), launcher(), failed("x")])
    };
    let life = |cluster: &Cluster| cluster.describe("prod", "db-0", &asked(), &SIGNATURES).life;
    let (own, anew) = (made("2026-03-01T10:10:00Z"), made("2026-03-01T10:10:01Z"));
    assert_eq!(life(&own).migration.map(|migration| migration.name).as_deref(), Some("mig-1"));
    assert_eq!(life(&anew).migration, None);
    let n_warned = |cluster: &Cluster| cluster.preflight("prod", "db-0", usec(AT)).warnings.len();
    assert_eq!((n_warned(&own), n_warned(&anew)), (1, 0), "its last migration failed");
    let named = Asked { migration: Some("mig-1".to_owned()), ..asked() };
    assert!(anew.describe("prod", "db-0", &named, &SIGNATURES).life.migration.is_some(), "who names it is told");
}

#[test]
fn of_two_migrations_the_one_that_the_vmi_is_in_is_in_question() {
    let newer = with(
        vmim("Pending"),
        &json!({"metadata": {"name": "mig-2", "uid": "other", "creationTimestamp": "2026-03-01T10:13:00Z"}}),
    );
    let is_in = |state: Value| with(vmi(), &json!({"status": {"migrationState": state}}));
    let asked_about = |vmi: Value| vm_of(&[vmi, vmim("Running"), newer.clone()]).life.migration.map(|of| of.name);
    let copies = json!({"migrationUid": "mig-uid", "startTimestamp": "2026-03-01T10:11:00Z"});
    assert_eq!(asked_about(is_in(copies.clone())).as_deref(), Some("mig-1"));
    let over = json!({"endTimestamp": "2026-03-01T10:12:00Z", "completed": true, "failed": true});
    assert_eq!(asked_about(is_in(with(copies, &over))).as_deref(), Some("mig-2"));
    assert_eq!(asked_about(vmi()).as_deref(), Some("mig-2"));
}

#[test]
fn a_named_migration_is_in_question_before_the_newest() {
    let newer = with(
        vmim("Running"),
        &json!({"metadata": {"name": "mig-2", "uid": "other", "creationTimestamp": "2026-03-01T10:13:00Z"}}),
    );
    let objects = cluster(&[vmi(), failed("x"), newer]);
    let newest = objects.describe("prod", "db-0", &asked(), &SIGNATURES).life.migration.unwrap();
    assert_eq!((newest.name.as_str(), newest.outcome), ("mig-2", None));
    let asked = Asked { migration: Some("mig-1".to_owned()), ..asked() };
    let named = objects.describe("prod", "db-0", &asked, &SIGNATURES).life.migration.unwrap();
    assert_eq!(
        (named.name.as_str(), named.outcome, named.failure_reason.as_deref()),
        ("mig-1", Some(false), Some("x"))
    );
}

// KubeVirt lets one run and the other wait; for a moment both may be shown as running.
#[test]
fn of_two_migrations_at_once_each_speaks_for_itself() {
    let first = with(vmim("Running"), &json!({"status": {"migrationState": {"sourceNode": "n1", "targetNode": "n2"}}}));
    let second = |phase: &str| {
        let own = json!({"metadata": {"name": "mig-2", "uid": "mig-uid-2", "creationTimestamp": "2026-03-01T10:12:00Z"},
            "status": {"phase": phase, "phaseTransitionTimestamps": [{"phase": phase, "phaseTransitionTimestamp": "2026-03-01T10:12:30Z"}],
                "migrationState": {"sourceNode": "n1", "targetNode": "n3"}}});
        with(vmim(phase), &own)
    };
    let of_vmi = with(
        vmi(),
        &json!({"status": {"migrationState": {"migrationUid": "mig-uid", "sourceNode": "n1", "targetNode": "n2",
            "startTimestamp": "2026-03-01T10:11:30Z", "targetPod": "virt-launcher-db-0-fghij"}}}),
    );
    for phase in ["Pending", "Scheduling", "Running"] {
        let objects =
            [of_vmi.clone(), launcher(), target(), first.clone(), second(phase), node("n1"), node("n2"), node("n3")];
        let cluster = cluster(&objects);
        let asked_of = |migration: Option<&str>| {
            let asked = Asked { migration: migration.map(ToOwned::to_owned), ..asked() };
            let vm = cluster.describe("prod", "db-0", &asked, &SIGNATURES);
            let life = vm.life.migration.expect("one is in question");
            (life.name, life.phase.unwrap(), vm.target.unwrap(), life.started_usec.is_some())
        };
        let name = |name: &str| name.to_owned();
        assert_eq!(asked_of(Some("mig-1")), (name("mig-1"), name("Running"), name("n2"), true), "{phase}");
        assert_eq!(asked_of(Some("mig-2")), (name("mig-2"), name(phase), name("n3"), false), "{phase}");
        let of_neither = asked_of(None);
        assert!(
            of_neither == asked_of(Some("mig-1")) || of_neither == asked_of(Some("mig-2")),
            "{phase}: {of_neither:?}"
        );
        let blockers = cluster.preflight("prod", "db-0", usec(AT)).blockers;
        let told: Vec<&str> = blockers.iter().map(|check| check.what.as_str()).collect();
        assert!(
            told[0].contains("mig-1 to n2 is Running") && told[1].contains(&format!("mig-2 to n3 is {phase}")),
            "{told:?}"
        );
    }
}

#[test]
fn only_the_vmis_state_tells_of_a_migration_that_has_no_object() {
    let moving = with(
        vmi(),
        &json!({"status": {"migrationState": {"migrationUid": "u", "startTimestamp": "2026-03-01T10:14:00Z", "sourceNode": "n1", "targetNode": "n2"}}}),
    );
    let migration = vm_of(&[moving]).life.migration.unwrap();
    assert_eq!((migration.name.as_str(), migration.phase.as_deref(), migration.outcome), ("", Some("Running"), None));
}

#[test]
fn limits_of_time_are_told_by_words_and_by_the_time_it_took() {
    for (reason, want) in [
        ("Live migration is not completed after 150 seconds and has been aborted", "completion"),
        ("Live migration stuck for 150 sec and has been aborted", "progress"),
    ] {
        let of = check(&[vmi(), failed(reason)], FindingCode::MigrationTimedOut, Some(Status::Present));
        assert_eq!(attribute(of.as_ref(), WHAT), want, "{reason}");
    }
    let long = |end: &str| {
        with(failed("Live migration has been aborted"), &json!({"status": {"migrationState": {"endTimestamp": end}}}))
    };
    check(&[vmi(), long("2026-03-01T10:12:40Z")], FindingCode::MigrationTimedOut, Some(Status::Present));
    check(&[vmi(), long("2026-03-01T10:12:39Z")], FindingCode::MigrationTimedOut, None);
    check(&[vmi(), failed("virError(Code=9)")], FindingCode::MigrationTimedOut, Some(Status::Absent));
}

#[test]
fn a_cancelled_migration_is_told_by_each_trace() {
    let requested =
        with(failed("Live migration aborted"), &json!({"status": {"migrationState": {"abortRequested": true}}}));
    check(&[vmi(), requested], FindingCode::MigrationAbortRequested, Some(Status::Present));
    let deleted = with(vmim("Running"), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:12:00Z"}}));
    check(&[vmi(), deleted], FindingCode::MigrationAbortRequested, Some(Status::Present));
    check(&[vmi(), vmim("Running")], FindingCode::MigrationAbortRequested, Some(Status::Absent));
    check(&[vmi()], FindingCode::MigrationAbortRequested, None);
}

#[test]
fn a_target_pod_that_ends_with_the_migration_did_not_fail_it() {
    let ended = |at: &str| {
        with(
            target(),
            &json!({"status": {"phase": "Failed", "conditions": [],
        "containerStatuses": [{"name": "compute", "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}),
        )
    };
    check(
        &[vmi(), launcher(), ended("2026-03-01T10:10:50Z"), failed("x")],
        FindingCode::MigrationTargetFailed,
        Some(Status::Present),
    );
    check(&[vmi(), launcher(), ended("2026-03-01T10:10:59Z"), failed("x")], FindingCode::MigrationTargetFailed, None);
    check(&[vmi(), launcher(), target(), vmim("Running")], FindingCode::MigrationTargetFailed, Some(Status::Absent));
    let deleted = with(target(), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:10:30Z"}}));
    let going = with(vmi(), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:10:30Z"}}));
    let code = FindingCode::MigrationTargetFailed;
    check(&[vmi(), launcher(), deleted.clone(), failed("x")], code, Some(Status::Present));
    check(&[going, launcher(), deleted, failed("x")], code, None);
    let of = check(&[vmi(), failed("Target pod is down")], FindingCode::MigrationTargetFailed, Some(Status::Present))
        .unwrap();
    assert_eq!((of.side, of.node.as_deref()), (Some(Side::Target), Some("n2")));
}

#[test]
fn a_target_pod_is_pending_until_its_containers_are_ready() {
    let pending =
        with(target(), &json!({"status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}}));
    check(
        &[vmi(), launcher(), pending.clone(), vmim("Scheduling")],
        FindingCode::MigrationTargetPending,
        Some(Status::Present),
    );
    // Further on it was ready: its readiness gate is closed while the guest is paused.
    check(&[vmi(), launcher(), pending, vmim("Running")], FindingCode::MigrationTargetPending, Some(Status::Absent));
    check(
        &[vmi(), launcher(), target(), vmim("Scheduling")],
        FindingCode::MigrationTargetPending,
        Some(Status::Absent),
    );
}

#[test]
fn a_pending_migration_waits_for_a_slot_when_all_are_taken() {
    let other = |n: usize, phase: &str| {
        json!({"kind": "VirtualMachineInstanceMigration", "metadata": {"name": format!("o-{n}"), "namespace": "prod"},
        "spec": {"vmiName": format!("other-{n}")}, "status": {"phase": phase}})
    };
    let list = |n: usize, phase: &str| json!({"kind": "List", "items": (0..n).map(|n| other(n, phase)).chain([vmim("Pending")]).collect::<Vec<_>>()});
    let of = check(&[vmi(), list(5, "Running")], FindingCode::MigrationWaitsForSlot, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), WHAT), "cluster");
    check(&[vmi(), list(4, "Running")], FindingCode::MigrationWaitsForSlot, Some(Status::Absent));
    check(&[vmi(), list(9, "Pending")], FindingCode::MigrationWaitsForSlot, Some(Status::Absent));
    let kubevirt = json!({"kind": "KubeVirt", "metadata": {"name": "kubevirt"}, "spec": {"configuration": {"migrations": {"parallelMigrationsPerCluster": 4}}}});
    check(&[vmi(), list(4, "Running"), kubevirt], FindingCode::MigrationWaitsForSlot, Some(Status::Present));
    let from_n1 = |n: usize| with(other(n, "Running"), &json!({"status": {"migrationState": {"sourceNode": "n1"}}}));
    let of = check(
        &[vmi(), vmim("Pending"), from_n1(0), from_n1(1)],
        FindingCode::MigrationWaitsForSlot,
        Some(Status::Present),
    );
    assert_eq!(attribute(of.as_ref(), WHAT), "node");
    check(&[vmi(), vmim("Running")], FindingCode::MigrationWaitsForSlot, Some(Status::Absent));
}

// KubeVirt makes no migration of an evacuation while as many as may run are unfinished.
#[test]
fn a_vm_that_is_to_leave_and_has_no_migration_waits_for_its_turn() {
    let to_leave = with(vmi(), &json!({"status": {"evacuationNodeName": "n1"}}));
    let other = |n: usize, phase: &str| {
        json!({"kind": "VirtualMachineInstanceMigration", "metadata": {"name": format!("o-{n}"), "namespace": "prod"},
        "spec": {"vmiName": format!("other-{n}")}, "status": {"phase": phase, "migrationState": {"sourceNode": "n1"}}})
    };
    let full = [to_leave.clone(), other(0, "Running"), other(1, "Pending")];
    let of = check(&full, FindingCode::MigrationWaitsForSlot, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), WHAT), "node");
    let list = json!({"kind": "List", "items": [other(0, "Running"), other(1, "Succeeded")]});
    let free = [to_leave.clone(), list];
    check(&free, FindingCode::MigrationWaitsForSlot, Some(Status::Absent));
    check(&[vmi(), other(0, "Running"), other(1, "Pending")], FindingCode::MigrationWaitsForSlot, None);
    let cannot = with(to_leave, &json!({"status": {"conditions": [{"type": "LiveMigratable", "status": "False"}]}}));
    check(&[cannot, other(0, "Running"), other(1, "Pending")], FindingCode::MigrationWaitsForSlot, None);
}

#[test]
fn a_blocked_migration_waits_for_what_blocks_it() {
    let blocked = with(
        vmim("Pending"),
        &json!({"status": {"conditions": [{"type": "migrationBlockedByBackup", "status": "True", "reason": "BackupInProgress"}]}}),
    );
    check(&[vmi(), blocked], FindingCode::MigrationWaitsForSync, Some(Status::Present));
    check(&[vmi(), vmim("WaitingForSync")], FindingCode::MigrationWaitsForSync, Some(Status::Present));
    check(&[vmi(), vmim("Pending")], FindingCode::MigrationWaitsForSync, Some(Status::Absent));
}

#[test]
fn a_bandwidth_below_64_mib_is_a_cap_and_none_is_not() {
    let set = |bandwidth: &str| {
        with(
            vmim("Running"),
            &json!({"status": {"migrationState": {"migrationConfiguration": {"bandwidthPerMigration": bandwidth}}}}),
        )
    };
    check(&[vmi(), set("63Mi")], FindingCode::MigrationCapped, Some(Status::Present));
    check(&[vmi(), set("64Mi")], FindingCode::MigrationCapped, Some(Status::Absent));
    check(&[vmi(), set("0")], FindingCode::MigrationCapped, Some(Status::Absent));
    check(&[vmi(), vmim("Running")], FindingCode::MigrationCapped, None);
}

#[test]
fn twelve_migrations_a_day_are_many_and_their_initiator_is_told() {
    let one = |n: usize| {
        with(
            vmim("Succeeded"),
            &json!({"metadata": {"name": format!("kubevirt-evacuation-{n}"), "uid": format!("u{n}")}}),
        )
    };
    let many = |n: usize| std::iter::once(vmi()).chain((0..n).map(one)).collect::<Vec<_>>();
    let of = check(&many(12), FindingCode::MigrationsMany, Some(Status::Present));
    assert_eq!(attribute(of.as_ref(), INITIATOR), "evacuation");
    // KubeVirt keeps five: how close together they are tells whether a day has twelve. Hours before the moment of asking.
    let spread = |n: usize, hours: usize| {
        let at = |index: usize| {
            let hour = 10 + 24 - hours * index / (n - 1);
            let created = format!("2026-{}T{:02}:15:00Z", if hour < 24 { "02-28" } else { "03-01" }, hour % 24);
            with(one(index), &json!({"metadata": {"creationTimestamp": created}, "status": {"migrationState": null}}))
        };
        std::iter::once(vmi()).chain((0..n).map(at)).collect::<Vec<_>>()
    };
    check(&spread(4, 1), FindingCode::MigrationsMany, Some(Status::Absent));
    check(&spread(5, 9), FindingCode::MigrationsMany, Some(Status::Present));
    check(&spread(5, 20), FindingCode::MigrationsMany, None);
    let told = with(
        event("VirtualMachineInstance", "db-0", "Migrated", "The VirtualMachineInstance migrated to node n2."),
        &json!({"type": "Normal", "count": 16}),
    );
    assert_eq!(vm_of(&[vmi(), told]).life.n_migrations_24h.words(), "12 succeeded, 0 failed");
}

#[test]
fn kernels_cpus_and_launchers_of_the_ends_are_compared() {
    let labelled = |name: &str, features: &[&str]| {
        let mut labels = serde_json::Map::new();
        for feature in features {
            labels.insert(format!("cpu-feature.node.kubevirt.io/{feature}"), json!("true"));
            labels.insert(format!("host-model-required-features.node.kubevirt.io/{feature}"), json!("true"));
        }
        with(node(name), &json!({"metadata": {"labels": labels}}))
    };
    let ends = |target_features: &[&str], kernel: &str, image: &str| {
        let to = with(labelled("n2", target_features), &json!({"status": {"nodeInfo": {"kernelVersion": kernel}}}));
        let pod = with(target(), &json!({"spec": {"containers": [{"name": "compute", "image": image}]}}));
        vec![vmi(), launcher(), pod, vmim("Running"), labelled("n1", &["aes", "erms"]), to]
    };
    let alike = ends(&["aes", "erms", "avx"], "6.1.0", "reg.example/virt-launcher:v1");
    let other = ends(&["aes"], "6.2.0", "reg.example/virt-launcher:v2");
    for code in [FindingCode::CpuModelsDiffer, FindingCode::KernelsDiffer, FindingCode::LauncherVersionsDiffer] {
        check(&alike, code, Some(Status::Absent));
        check(&other, code, Some(Status::Present));
        check(&[vmi(), launcher(), node("n1")], code, None);
    }
}
