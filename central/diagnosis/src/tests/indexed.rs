//! The tables tell what a walk over the snapshot would, whatever names there are.

use std::{ptr, sync::Arc};

use kulprit_cluster::{ClusterVm, PodRef};
use kulprit_model::{
    Attributes, Side,
    attribute::{IMAGE, POD, POD_UID, VMI, VOLUME},
};
use proptest::{prelude::*, sample::select};

use crate::{
    Indexed, NodeView, Snapshot, VmView,
    identity::{Identity, Mention},
    indexed::Other,
    testing::mk_domain,
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
