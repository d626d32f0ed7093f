//! Rules about other pods, each as the scheduler decides it, and what cannot be decided.

use super::*;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

fn in_zone(name: &str, zone: &str) -> Value {
    with(node(name), &json!({"metadata": {"labels": {HOST: name, ZONE: zone}}}))
}

/// n1 (the source) and n3 in zone a, n2 in b, n4 in c.
fn nodes() -> [Value; 4] {
    [in_zone("n1", "a"), in_zone("n2", "b"), in_zone("n3", "a"), in_zone("n4", "c")]
}

/// The launcher of another VM, of the application `db` or another.
fn other(name: &str, app: &str, node: &str) -> Value {
    with(
        pod(),
        &json!({"metadata": {"name": format!("virt-launcher-{name}-abcde"), "uid": name,
            "labels": {"kubevirt.io/created-by": format!("vmi-{name}"), "app": app}}, "spec": {"nodeName": node}}),
    )
}

/// The VM's own launcher, of the application `db`, with more in its spec.
fn own(spec: Value) -> Value {
    with(pod(), &json!({"metadata": {"labels": {"app": "db"}}, "spec": spec}))
}

fn app(name: &str) -> Value {
    json!({"matchLabels": {"app": name, "kubevirt.io": "virt-launcher"}})
}

fn affinity(kind: &str, terms: Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn away(term: Value) -> Value {
    affinity("podAntiAffinity", json!([term]))
}

fn found(launcher: Value, others: &[Value]) -> Preflight {
    let mut objects = vec![migratable(), launcher];
    objects.extend(nodes());
    objects.extend_from_slice(others);
    asked_of(&objects)
}

/// What is said of n2, n3 and n4: nothing, or words of the only misfit, or after a `?` of what is not known.
#[track_caller]
fn check(launcher: Value, others: &[Value], want: [&str; 3]) {
    let nodes = found(launcher, others).nodes;
    for (node, want) in nodes.iter().zip(want) {
        match want.strip_prefix('?') {
            Some(unknown) => {
                check_words(&node.misfits, None);
                assert!(node.unknown.iter().any(|text| text.contains(unknown)), "{unknown:?} of {node:#?}");
            }
            None => {
                check_words(&node.misfits, Some(want).filter(|want| !want.is_empty()));
                assert_eq!(node.unknown, [""; 0], "{}", node.name);
            }
        }
    }
}

#[test]
fn its_anti_affinity_keeps_it_away_from_whom_it_names() {
    let term = |key: &str| away(json!({"labelSelector": app("db"), "topologyKey": key}));
    let near_db = "keeps it away from the pod prod/virt-launcher-db-1-abcde, which is on n2";
    check(own(term(HOST)), &[other("db-1", "db", "n2")], [near_db, "", ""]);
    check(own(term(HOST)), &[other("web-1", "web", "n2")], ["", "", ""]);
    // The launcher that runs now is there until the migration is over.
    let itself = "away from the pod prod/virt-launcher-db-0-abcde, which is in topology.kubernetes.io/zone=a";
    check(own(term(ZONE)), &[], ["", itself, ""]);
    let over = with(other("db-1", "db", "n2"), &json!({"status": {"phase": "Succeeded"}}));
    check(own(term(HOST)), &[over], ["", "", ""]);
    let going = with(other("db-1", "db", "n2"), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}}));
    check(own(term(HOST)), &[going], [near_db, "", ""]);
    check(own(term("rack")), &[other("db-1", "db", "n2")], ["", "", ""]);
    check(own(away(json!({"topologyKey": HOST}))), &[other("db-1", "db", "n2")], ["", "", ""]);
}

#[test]
fn the_anti_affinity_of_who_is_there_keeps_it_away_too() {
    let shy = |of: &str| {
        with(other("db-1", "web", "n2"), &json!({"spec": away(json!({"labelSelector": app(of), "topologyKey": ZONE}))}))
    };
    let kept = "the pod prod/virt-launcher-db-1-abcde, which is in topology.kubernetes.io/zone=b, keeps it away";
    check(own(json!({})), &[shy("db")], [kept, "", ""]);
    check(own(json!({})), &[shy("web")], ["", "", ""]);
    let fits = found(own(json!({})), &[shy("db")]).nodes;
    assert!(fits[0].misfits[0].source.starts_with("Pod prod/virt-launcher-db-1-abcde spec"), "{fits:?}");
}

#[test]
fn a_rule_is_about_its_own_namespace_unless_it_names_others() {
    let elsewhere = with(other("db-1", "db", "n2"), &json!({"metadata": {"namespace": "test"}}));
    let others = |of: Value| own(away(with(json!({"labelSelector": app("db"), "topologyKey": HOST}), &of)));
    let kept = "away from the pod test/virt-launcher-db-1-abcde";
    let labels = |team: &str| json!({"kind": "Namespace", "metadata": {"name": "test", "labels": {"team": team}}});
    let by_team = || json!({"namespaceSelector": {"matchLabels": {"team": "a"}}});
    let check_n2 = |of: Value, more: &[Value], want: &str| {
        let mut there = vec![elsewhere.clone()];
        there.extend_from_slice(more);
        check(others(of), &there, [want, "", ""]);
    };
    check_n2(json!({}), &[], "");
    check_n2(json!({"namespaces": ["test"]}), &[], kept);
    check_n2(json!({"namespaces": ["dev"]}), &[], "");
    check_n2(json!({"namespaceSelector": {}}), &[], kept);
    check_n2(by_team(), &[labels("a")], kept);
    check_n2(by_team(), &[labels("b")], "");
    check_n2(by_team(), &[], "?labels of namespaces");
    check_n2(with(by_team(), &json!({"namespaces": ["test"]})), &[], kept);
}

#[test]
fn its_affinity_wants_one_pod_that_all_terms_mean() {
    let term = |selector: Value, key: &str| json!({"labelSelector": selector, "topologyKey": key});
    let near = |terms: Value| own(affinity("podAffinity", terms));
    let web = || other("web-1", "web", "n2");
    let gone = "no pod that its affinity wants near is";
    check(near(json!([term(app("web"), ZONE)])), &[web()], ["", gone, gone]);
    check(near(json!([term(app("web"), HOST)])), &[], [gone, gone, gone]);
    let lacks = "it lacks the label rack, by which the launcher's pod affinity goes";
    check(near(json!([term(app("web"), "rack")])), &[web()], [lacks, lacks, lacks]);
    let gold = json!({"matchLabels": {"tier": "gold"}});
    check(near(json!([term(app("web"), ZONE), term(gold.clone(), ZONE)])), &[web()], [gone, gone, gone]);
    let golden = with(web(), &json!({"metadata": {"labels": {"tier": "gold"}}}));
    check(near(json!([term(app("web"), ZONE), term(gold, ZONE)])), &[golden], ["", gone, gone]);
    // It may be a pod that is not watched.
    let any = json!({"matchLabels": {"app": "web"}});
    let open = "?pods that are not KubeVirt's are not looked at";
    check(near(json!([term(any, ZONE)])), &[web()], ["", open, open]);
    // The launcher that runs now is one that is wanted near.
    check(near(json!([term(app("db"), ZONE)])), &[], [gone, "", gone]);
}

#[test]
fn whoever_means_himself_may_be_the_first() {
    let near = affinity("podAffinity", json!([{"labelSelector": app("db"), "topologyKey": ZONE}]));
    let bare = with(node("n1"), &json!({"metadata": {"labels": {HOST: "n1"}}}));
    let objects = [migratable(), own(near), bare, in_zone("n2", "b")];
    check_words(&fit_of(&objects).misfits, None);
}

fn spread(change: &Value) -> Value {
    let rule =
        json!({"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": app("db")});
    own(json!({"topologySpreadConstraints": [with(rule, change)]}))
}

#[test]
fn a_spread_that_must_hold_keeps_it_off_the_fullest_places() {
    let db = || [other("db-1", "db", "n2")];
    let full = |zone: &str| {
        format!("its spread over topology.kubernetes.io/zone would not hold: {zone} would be 2 pods ahead")
    };
    let (a, b) = (&*full("a"), &*full("b"));
    // a has the source, b another one, c none.
    check(spread(&json!({})), &db(), [b, a, ""]);
    check(spread(&json!({"maxSkew": 2})), &db(), ["", "", ""]);
    check(spread(&json!({"whenUnsatisfiable": "ScheduleAnyway"})), &db(), ["", "", ""]);
    check(spread(&json!({"whenUnsatisfiable": null})), &db(), [b, a, ""]);
    let everywhere = [other("db-1", "db", "n2"), other("db-2", "db", "n4")];
    check(spread(&json!({})), &everywhere, ["", "", ""]);
    check(spread(&json!({"minDomains": 3})), &everywhere, ["", "", ""]);
    check(spread(&json!({"minDomains": 4})), &everywhere, [b, a, &full("c")]);
    // Those of other namespaces and those that go do not count.
    let elsewhere = with(other("db-1", "db", "n2"), &json!({"metadata": {"namespace": "test"}}));
    check(spread(&json!({})), &[elsewhere], ["", a, ""]);
    let going = with(other("db-1", "db", "n2"), &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}}));
    check(spread(&json!({})), &[going], ["", a, ""]);
    let lacks = "it lacks the label rack, over whose values the launcher is spread";
    check(spread(&json!({"topologyKey": "rack"})), &[], [lacks, lacks, lacks]);
    // A selector that fits everything counts nobody who is there.
    check(spread(&json!({"labelSelector": {"matchLabels": null}})), &db(), ["", "", ""]);
}

#[test]
fn a_spread_counts_over_the_nodes_that_its_policies_name() {
    let db = || [other("db-1", "db", "n2"), other("db-2", "db", "n4")];
    let c = "topology.kubernetes.io/zone would not hold: c";
    let with_empty = |change: Value| {
        let mut objects = db().to_vec();
        objects.push(with(in_zone("n5", "d"), &change));
        objects
    };
    let misfit = |launcher: Value, objects: &[Value]| {
        let nodes = found(launcher, objects).nodes;
        nodes.into_iter().find(|node| node.name == "n4").map(|node| node.misfits).unwrap()
    };
    check_words(&misfit(spread(&json!({})), &with_empty(json!({}))), Some(c));
    let unwanted = with_empty(json!({"metadata": {"labels": {"kubevirt.io/schedulable": "false"}}}));
    check_words(&misfit(spread(&json!({})), &unwanted), None);
    check_words(&misfit(spread(&json!({"nodeAffinityPolicy": "Ignore"})), &unwanted), Some(c));
    let tainted = with_empty(json!({"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}}));
    check_words(&misfit(spread(&json!({})), &tainted), Some(c));
    check_words(&misfit(spread(&json!({"nodeTaintsPolicy": "Honor"})), &tainted), None);
}

#[test]
fn a_spread_is_over_pods_with_the_same_values_of_its_keys() {
    let of = |change: Value| with(other("db-1", "db", "n2"), &json!({"metadata": {"labels": change}}));
    let keys = || {
        let rule = spread(&json!({"matchLabelKeys": ["shard", "none"]}));
        with(rule, &json!({"metadata": {"labels": {"shard": "1"}}}))
    };
    let b = "topology.kubernetes.io/zone would not hold: b";
    let a = "topology.kubernetes.io/zone would not hold: a";
    check(keys(), &[of(json!({"shard": "1"}))], [b, a, ""]);
    check(keys(), &[of(json!({"shard": "2"}))], ["", a, ""]);
}

#[test]
fn what_pods_that_are_not_watched_would_decide_is_not_known() {
    let any = json!({"matchLabels": {"app": "db"}});
    let open = "?but pods that are not KubeVirt's may count";
    check(spread(&json!({"labelSelector": null})), &[], ["", "", ""]);
    let mut rule = spread(&json!({}));
    rule["spec"]["topologySpreadConstraints"][0]["labelSelector"] = any;
    check(rule, &[other("db-1", "db", "n2")], [open, open, ""]);
}

#[test]
fn what_is_not_tried_is_not_looked_at() {
    let any = || json!({"matchLabels": {"app": "db"}});
    let warnings = |spec: Value| found(own(spec), &[]).warnings;
    check_words(&warnings(away(json!({"labelSelector": app("db"), "topologyKey": HOST}))), None);
    let created = json!({"matchLabels": {"kubevirt.io/created-by": "vmi-1"}});
    check_words(&warnings(away(json!({"labelSelector": created, "topologyKey": HOST}))), None);
    let away_from_any = away(json!({"labelSelector": any(), "topologyKey": HOST}));
    check_words(&warnings(away_from_any), Some("not looked at: pods that are not KubeVirt's"));
    check_words(&warnings(json!({"schedulerName": "numa"})), Some("not looked at: the rules of the scheduler numa"));
    let preferred =
        json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}});
    let notes = found(own(preferred), &[]).notes;
    assert!(notes.iter().any(|note| note.contains("not looked at: what its launcher only prefers")), "{notes:?}");
}
