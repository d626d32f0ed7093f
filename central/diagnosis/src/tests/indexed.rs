//! The tables tell what a walk over the snapshot would, whatever names there are.

use std::{ptr, sync::Arc};

use kulprit_cluster::{ClusterVm, PodRef};
use kulprit_model::{
    Attributes, FindingCode, Side, State, Status, Subject,
    attribute::{BACKEND, IMAGE, POD, POD_UID, SERVER, VMI, VOLUME, WHAT},
    said::{actor, class, operation},
};
use proptest::{prelude::*, sample::select};

use crate::{
    Attribution, CAUSES, Indexed, NodeView, ScoreSheet, Snapshot, VmView, attribute,
    catalogue::Look,
    evidence,
    identity::{Identity, Mention},
    indexed::Other,
    shared::count_one_by_one,
    stage::Stage,
    testing::{World, mk_domain, mk_state},
};

const NAMES: &[&str] = &["db-0", "db", "web-1", "prod_db-0", "", "virt-launcher-db-0-abcde"];
const NAMESPACES: &[&str] = &["prod", "test", ""];
const UIDS: &[&str] = &["uid-1", "uid-2", "prod/db-0", "test/web-1", "", "0B2C0B2C-AAAA"];
const PODS: &[&str] = &[
    "virt-launcher-db-0-abcde",
    "virt-launcher-web-1-fghij",
    "importer-pvc-0123456789",
    "prod/virt-launcher-db-0-zzzzz",
];
const VOLUMES: &[&str] = &[
    "rootdisk",
    "pvc-0123456789",
    "nas.example#export#pvc-0123456789",
    "vol_abcdefghij",
    "::::::::::",
    "kubernetes.io/csi/driver^pvc-0123456789",
    "a/::::::::::/b",
    "pvc-0123456789-2",
    "",
];
const IMAGES: &[&str] = &["registry.example/a:1", "b"];
const PATHS: &[&str] = &[
    "/var/lib/kubelet/pods/0b2c0b2c-aaaa/volumes",
    "/var/lib/kubelet/pods/0B2C0B2C-AAAA/volumes",
    "/mnt/cri-pod0b2c0b2c-aaaa.scope/x",
    "/mnt/pvc-0123456789",
    "/mnt/vol_abcdefghij/x",
    "/",
];

fn text(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(of).prop_map(ToOwned::to_owned)
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(of), 0..3)
}

prop_compose! {
    fn any_vm()(
        (namespace, name, uid) in (text(NAMESPACES), text(NAMES), text(UIDS)),
        uids in some(UIDS),
        pods in prop::collection::vec((text(NAMESPACES), text(PODS), prop::option::of(select(vec!["0b2c0b2c-aaaa", "uid-1", ""]))), 0..3),
        volumes in some(VOLUMES),
        images in some(IMAGES),
    ) -> Arc<ClusterVm> {
        let pods = pods.into_iter().map(|(namespace, name, uid)| PodRef {
            namespace,
            name,
            uid: uid.map(ToOwned::to_owned),
            node: Some("n1".to_owned()),
            side: Side::Hosting,
        });
        Arc::new(ClusterVm { namespace, name, uid, uids, pods: pods.collect(), volumes, images, ..ClusterVm::default() })
    }
}

prop_compose! {
    fn any_view()(
        (uid, name) in (text(UIDS), text(NAMES)),
        namespace in prop::option::of(text(NAMESPACES)),
        domain in prop::option::of(select(vec!["prod_db-0", "test_web-1", "db-0"])),
    ) -> VmView {
        let domain = domain.map(|name| kulprit_model::Domain { name: name.to_owned(), ..mk_domain(&uid, 1, 1, 0) });
        VmView { uid, namespace, name, domain, ..VmView::default() }
    }
}

prop_compose! {
    fn any_snapshot()(
        cluster_vms in prop::collection::vec(any_vm(), 0..5),
        nodes in prop::collection::vec((select(vec!["n1", "n2"]), prop::collection::vec(any_view(), 0..3)), 0..4),
    ) -> Snapshot {
        let node = |(name, vms): (&str, Vec<VmView>)| NodeView { name: name.to_owned(), vms: vms.into(), ..NodeView::default() };
        Snapshot { cluster_vms, nodes: nodes.into_iter().map(node).collect(), ..Snapshot::default() }
    }
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let given = |of: &'static [&'static str]| prop::option::weighted(0.4, select(of));
    (given(UIDS), given(UIDS), given(NAMES), given(PODS), given(VOLUMES), given(IMAGES)).prop_map(
        |(pod_uid, uid, name, pod, volume, image)| {
            let pairs = [(POD_UID, pod_uid), (VMI, uid.or(name)), (POD, pod), (VOLUME, volume), (IMAGE, image)];
            pairs.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
        },
    )
}

fn all_views(snapshot: &Snapshot) -> impl Iterator<Item = &VmView> {
    snapshot.nodes.iter().flat_map(|node| &node.vms)
}

fn others<'a>(snapshot: &'a Snapshot, own: &'a ClusterVm, me: &Identity<'_>) -> Vec<Identity<'a>> {
    let vms = snapshot.cluster_vms.iter().map(|vm| &**vm).filter(|vm| !ptr::eq(*vm, own));
    let views = all_views(snapshot).filter(|view| !me.is_view(view));
    vms.map(Identity::of_cluster_vm).chain(views.map(Identity::of_view)).collect()
}

proptest! {
    #[test]
    fn views_are_found_by_what_they_are_called(snapshot in any_snapshot()) {
        let indexed = Indexed::new(&snapshot);
        for vm in &snapshot.cluster_vms {
            let me = Identity::of_cluster_vm(vm);
            let walked: Vec<_> = all_views(&snapshot).filter(|view| me.is_view(view)).collect();
            let found = indexed.views_of_any(me.uids(), me.pair());
            prop_assert_eq!(found.iter().map(|(_, view)| *view).collect::<Vec<_>>(), walked);
        }
        for uid in UIDS {
            let walked: Vec<_> = snapshot.nodes.iter().filter_map(|node| Some((node, node.vm(uid)?))).collect();
            prop_assert_eq!(indexed.views(uid).collect::<Vec<_>>(), walked);
            prop_assert_eq!(indexed.cluster_vm(uid), snapshot.cluster_vm(uid));
        }
        prop_assert_eq!(indexed.node("n1").map(ptr::from_ref), snapshot.node("n1").map(ptr::from_ref));
    }

    #[test]
    fn another_is_named_if_one_of_all_others_is(snapshot in any_snapshot(), attributes in any_attributes()) {
        let indexed = Indexed::new(&snapshot);
        for own in &snapshot.cluster_vms {
            let me = Identity::of_cluster_vm(own);
            let is_other = |other: Other<'_>| match other {
                Other::Vm(vm) => !ptr::eq(vm, &raw const **own),
                Other::View(view) => !me.is_view(view),
            };
            let others = others(&snapshot, own, &me);
            let walked = others.iter().any(|other| other.mention(&attributes) == Mention::Named);
            prop_assert_eq!(indexed.names_another(&attributes, is_other), walked);
            for path in PATHS {
                let walked = others.iter().any(|other| other.is_path(path));
                prop_assert_eq!(indexed.has_path_of_another(path, is_other), walked, "{}", path);
            }
        }
    }
}

/// Looks that clues of the catalogue have at other nodes.
fn looks_elsewhere() -> Vec<(&'static str, &'static Look)> {
    fn of(look: &'static Look, text: &'static str, looks: &mut Vec<(&'static str, &'static Look)>) {
        match look {
            Look::Elsewhere(look) => looks.push((text, *look)),
            Look::All(parts) => parts.iter().for_each(|part| of(part, text, looks)),
            Look::Present(..)
            | Look::Absent(_)
            | Look::Happened(..)
            | Look::NotHappened(_)
            | Look::Vm(_)
            | Look::WellElsewhere(_) => {}
        }
    }
    let mut looks = Vec::new();
    let clues = CAUSES.iter().flat_map(|cause| cause.clues);
    clues.for_each(|clue| of(&clue.look, clue.text, &mut looks));
    looks
}

prop_compose! {
    /// A VM that does not start on the first of some nodes, each with something to say of it or of itself.
    fn any_troubled()(
        said in prop::collection::vec((0_usize..4, 0_usize..6, 0_usize..4, 0_i64..4_000, 0_usize..4), 0..12),
        is_reporting in prop::array::uniform4(prop::bool::weighted(0.9)),
    ) -> Snapshot {
        let mut world = World::well().in_kubernetes().with_second_node().starting("Scheduling", 300);
        for name in ["n3", "n4"] {
            let node = NodeView { name: name.to_owned(), ..world.snapshot.nodes[1].clone() };
            world.snapshot.nodes.push(node);
        }
        for (node, what, class, secs, of) in said {
            let name = ["n1", "n2", "n3", "n4"][node];
            let server = ["nas.example", "nas-2.example", "registry.example", ""][of];
            let text = |actor, operation| {
                let class = [class::TIMEOUT, class::UNREACHABLE, class::EXPIRED, class::UNAVAILABLE][class];
                let text = crate::testing::said(actor, operation, class);
                text.with_some(SERVER, Some(server).filter(|server| !server.is_empty()))
            };
            let status = [Status::Present, Status::Absent, Status::Unknown, Status::Present][class];
            let state = |code, subject| State {
                attributes: Attributes::new().with(BACKEND, "nfs").with(WHAT, "registry").with(SERVER, server),
                ..mk_state(code, subject, status, secs)
            };
            world = match what {
                0 => world.set_on(name, state(FindingCode::BackendUnreachable, Subject::Mount { point: "/mnt".to_owned() })),
                1 => world.set_on(name, state(FindingCode::NetworkUnreachable, Subject::Node)),
                2 => world.node_said(name, secs, text(actor::RUNTIME, operation::PULL)),
                3 => world.node_said(name, secs, text(actor::KUBELET, operation::CALL_API)),
                4 => world.vm_said(None, Some(name), secs, text(actor::CSI, operation::MOUNT)),
                _ => world.set_on(name, state(FindingCode::StorageDriverMissing, Subject::Node)),
            };
        }
        for (node, is_reporting) in world.snapshot.nodes.iter_mut().zip(is_reporting) {
            node.is_reporting = is_reporting;
        }
        world.snapshot
    }
}

proptest! {
    #[test]
    fn a_node_that_is_passed_over_would_have_fulfilled_no_look(snapshot in any_troubled()) {
        let indexed = Indexed::new(&snapshot);
        let all: Vec<usize> = (0..indexed.names().len()).collect();
        for symptom in indexed.symptoms() {
            let stage = Stage::new(&indexed, &symptom);
            for (text, look) in looks_elsewhere() {
                let compared = indexed.compared(look);
                for scene in &stage.scenes {
                    let hits = |nodes: &[usize]| -> Vec<String> {
                        let others = stage.elsewhere(scene, &compared, nodes);
                        others.flat_map(|other| evidence::hits(&stage, &other, look, text)).map(|hit| format!("{hit:?}")).collect()
                    };
                    prop_assert_eq!(hits(&compared.fulfilling), hits(&all), "{}", text);
                }
            }
        }
    }

    #[test]
    fn one_index_for_all_symptoms_answers_as_one_for_each(snapshot in any_troubled()) {
        let indexed = Indexed::new(&snapshot);
        for symptom in indexed.symptoms() {
            let whole = indexed.attribute(&symptom);
            prop_assert_eq!(&whole, &attribute(&snapshot, &symptom));
            let causes =
                Attribution { ruled_out: Vec::new(), unknown: Vec::new(), looked_at: Vec::new(), ..whole };
            prop_assert_eq!(indexed.attribute_causes(&symptom), causes);
        }
    }

    #[test]
    fn nodes_are_counted_at_once_as_one_by_one(snapshot in any_troubled()) {
        let indexed = Indexed::new(&snapshot);
        for symptom in indexed.symptoms() {
            let stage = Stage::new(&indexed, &symptom);
            for cause in CAUSES.iter().copied().filter(|cause| cause.roles.contains(&Side::Shared)) {
                for scene in stage.scenes_of(cause) {
                    let sheet = ScoreSheet::new(&stage, scene, cause);
                    prop_assert_eq!(count_one_by_one(&stage, &sheet), Ok(()), "{}", cause.id);
                }
            }
        }
    }
}
