//! Whom a question names: a VM of Kubernetes, a VM that libvirt alone runs, a node.

use std::{collections::BTreeSet, fmt};

use kulprit_cluster::ClusterVm;
use kulprit_diagnosis::{NodeView, Snapshot, SymptomSubject, VmView, symptom_of};
use tonic::Status;

use super::shortened;
use crate::access::rights::{Key, Sight};

/// Most candidates named where a name is ambiguous.
const CANDIDATES_MAX: usize = 10;

/// A VM that a question names.
#[derive(Clone, Copy, Debug)]
pub(super) enum NamedVm<'a> {
    /// Kubernetes has it.
    OfCluster(&'a ClusterVm),
    /// Kubernetes is not watched, or has it not.
    OfHost(&'a NodeView, &'a VmView),
}

/// The one VM of that name, namespace/name or UID that may be shown; `on` narrows if it is not empty.
///
/// # Errors
/// NOT_FOUND names what does not exist; FAILED_PRECONDITION lists the candidates of an ambiguous name.
pub(super) fn vm<'a>(snapshot: &'a Snapshot, name: &str, on: &str, sight: &Sight) -> Result<NamedVm<'a>, Status> {
    if !on.is_empty() && sight.shows_nodes() && !snapshot.cluster_nodes.iter().any(|known| known.name == on) {
        node(snapshot, on, sight)?;
    }
    let of_cluster: Vec<&ClusterVm> = snapshot
        .cluster_vms
        .iter()
        .map(|vm| &**vm)
        .filter(|vm| is_named(vm, name) && (on.is_empty() || is_on(vm, on)))
        .filter(|vm| sight.shows_vm(&vm.namespace, &vm.name))
        .collect();
    match of_cluster.as_slice() {
        [one] => return Ok(NamedVm::OfCluster(one)),
        [] => {}
        many => {
            let candidates = many.iter().map(|vm| format!("{}/{} (UID {})", vm.namespace, vm.name, vm.uid));
            return Err(ambiguous("vm", name, "VMs", candidates, "ask with a namespace or a UID"));
        }
    }
    let (view, vm) = of_host(snapshot, name, on, sight)?;
    Ok(snapshot.cluster_vm(&vm.uid).map_or(NamedVm::OfHost(view, vm), NamedVm::OfCluster))
}

/// Namespace and name of each VM that could be meant.
pub(super) fn candidates(snapshot: &Snapshot, name: &str) -> BTreeSet<Key> {
    let of_cluster = snapshot.cluster_vms.iter().filter(|vm| is_named(vm, name));
    let of_hosts = snapshot.nodes.iter().flat_map(|node| &*node.vms).filter(|vm| is_it(vm, name));
    let of_cluster = of_cluster.map(|vm| (vm.namespace.clone(), vm.name.clone()));
    of_cluster.chain(of_hosts.map(|vm| key(snapshot, vm))).collect()
}

/// Whose VM it is: by Kubernetes where it knows the UID, whatever a host says.
fn key(snapshot: &Snapshot, vm: &VmView) -> Key {
    snapshot.cluster_vm(&vm.uid).map_or_else(
        || (vm.namespace.clone().unwrap_or_default(), vm.name.clone()),
        |vm| (vm.namespace.clone(), vm.name.clone()),
    )
}

fn is_named(vm: &ClusterVm, name: &str) -> bool {
    vm.name == name
        || name.split_once('/').is_some_and(|pair| pair == (vm.namespace.as_str(), vm.name.as_str()))
        || vm.uids.iter().chain([&vm.uid]).any(|uid| uid.eq_ignore_ascii_case(name))
}

fn is_on(vm: &ClusterVm, node: &str) -> bool {
    [&vm.hosting, &vm.source, &vm.target].into_iter().flatten().any(|name| name == node)
}

fn is_it(view: &VmView, name: &str) -> bool {
    let full = view.namespace.as_ref().map(|namespace| format!("{namespace}/{}", view.name));
    view.uid.eq_ignore_ascii_case(name) || view.name == name || full.is_some_and(|full| full == name)
}

fn of_host<'a>(
    snapshot: &'a Snapshot,
    vm: &str,
    node: &str,
    sight: &Sight,
) -> Result<(&'a NodeView, &'a VmView), Status> {
    let is_meant = |view: &VmView| {
        let (namespace, name) = if is_it(view, vm) { key(snapshot, view) } else { return false };
        sight.shows_vm(&namespace, &name)
    };
    let nodes = snapshot.nodes.iter().filter(|view| node.is_empty() || view.name == node);
    let mut found: Vec<_> =
        nodes.flat_map(|view| view.vms.iter().filter(|vm| is_meant(vm)).map(move |vm| (view, vm))).collect();
    // A VM that was made anew has the name of one that is gone and still remembered.
    if found.iter().any(|(_, vm)| is_there(vm)) {
        found.retain(|(_, vm)| is_there(vm));
    }
    match found.as_slice() {
        [one] => Ok(*one),
        // How many there are is nothing for who may not get them.
        [] if !sight.shows_all() => Err(Status::not_found(format!("no VM `{}` that you may get", shortened(vm)))),
        [] => {
            let n_of_hosts: usize = snapshot.nodes.iter().map(|node| node.vms.len()).sum();
            let n_vms = n_of_hosts.max(snapshot.cluster_vms.len());
            let place = if node.is_empty() { String::new() } else { format!(" on node `{node}`") };
            let known = format!("VMs known: {n_vms}, on nodes: {}", snapshot.nodes.len());
            Err(Status::not_found(format!("no VM `{}`{place}; {known}", shortened(vm))))
        }
        [(_, first), ..] if found.iter().all(|(_, vm)| vm.uid == first.uid) => {
            // One VM that migrates, or did: it is where its trouble is, else where its QEMU lives.
            let on = match symptom_of(snapshot, &first.uid, None, false).subject {
                SymptomSubject::Vm { node, .. } | SymptomSubject::Node { node } => node,
            };
            Ok(*found.iter().find(|(node, _)| node.name == on).unwrap_or(&found[0]))
        }
        many => {
            let candidates = many.iter().map(|(node, vm)| format!("{} on {} (UID {})", vm.name, node.name, vm.uid));
            Err(ambiguous("vm", vm, "VMs", candidates, "ask with a UID or a node"))
        }
    }
}

/// FAILED_PRECONDITION with the candidates of an ambiguous name.
pub(super) fn ambiguous(
    field: &str,
    name: &str,
    what: &str,
    candidates: impl ExactSizeIterator<Item: fmt::Display>,
    fix: &str,
) -> Status {
    let n = candidates.len();
    let named: Vec<String> = candidates.take(CANDIDATES_MAX).map(|candidate| candidate.to_string()).collect();
    let more = if n > CANDIDATES_MAX { ", ..." } else { "" };
    let name = shortened(name);
    Status::failed_precondition(format!(
        "{field}: `{name}` is the name of {n} {what}: {}{more}; {fix}",
        named.join(", ")
    ))
}

/// Whether libvirt or procfs knows the VM now.
fn is_there(vm: &VmView) -> bool {
    vm.domain.is_some() || vm.qemu.is_some()
}

/// The node of that name.
///
/// # Errors
/// NOT_FOUND if no agent of it ever reported.
pub(super) fn node<'a>(snapshot: &'a Snapshot, name: &str, sight: &Sight) -> Result<&'a NodeView, Status> {
    snapshot.nodes.iter().find(|node| node.name == name).ok_or_else(|| no_node(snapshot, name, sight))
}

/// NOT_FOUND for a node, with those that are known if they may be.
pub(super) fn no_node(snapshot: &Snapshot, name: &str, sight: &Sight) -> Status {
    if snapshot.cluster_nodes.iter().any(|node| node.name == name) {
        return Status::not_found(format!("no agent of node `{name}` has ever reported; start one there"));
    }
    if !sight.shows_nodes() {
        return Status::not_found(format!("no node `{}`", shortened(name)));
    }
    let known: Vec<&str> = snapshot.nodes.iter().take(CANDIDATES_MAX).map(|node| node.name.as_str()).collect();
    let known = match known.as_slice() {
        [] => "no node has reported yet".to_owned(),
        names if snapshot.nodes.len() > names.len() => format!("known are {}, ...", names.join(", ")),
        names => format!("known are {}", names.join(", ")),
    };
    Status::not_found(format!("no node `{}`; {known}", shortened(name)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kulprit_model::{Domain, Moment};

    use super::*;
    use crate::access::rights::Resource;

    const GONE: &str = "5fe4509a-0dc5-4a37-aec6-25b5fe5818d4";
    const NEW: &str = "7f1002cb-5c91-449c-bc33-51fc02ac65f4";

    fn view(uid: &str, is_there: bool) -> VmView {
        let domain = is_there.then(|| Domain {
            uid: uid.to_owned(),
            name: "db-0".to_owned(),
            state: 1,
            reason: 1,
            since: Moment { wall_usec: 0, boottime_usec: 0 },
            is_persistent: true,
        });
        VmView { uid: uid.to_owned(), name: "db-0".to_owned(), domain, ..VmView::default() }
    }

    fn found(vms: Vec<VmView>) -> Result<String, Status> {
        let node = NodeView { name: "n1".to_owned(), vms: vms.into(), ..NodeView::default() };
        let snapshot = Snapshot { nodes: vec![node], ..Snapshot::default() };
        vm(&snapshot, "db-0", "", &Sight::whole()).map(uid)
    }

    fn uid(found: NamedVm<'_>) -> String {
        match found {
            NamedVm::OfCluster(vm) => vm.uid.clone(),
            NamedVm::OfHost(_, vm) => vm.uid.clone(),
        }
    }

    #[test]
    fn a_vm_made_anew_is_meant_by_its_name_and_the_one_that_is_gone_by_its_uid() {
        assert_eq!(found(vec![view(GONE, false), view(NEW, true)]).unwrap(), NEW);
        assert_eq!(found(vec![view(GONE, false)]).unwrap(), GONE, "why it is gone may still be asked");
        assert!(found(vec![view(GONE, true), view(NEW, true)]).is_err());
    }

    #[test]
    fn a_vm_of_kubernetes_is_named_with_its_namespace_or_alone_if_it_is_the_only_one() {
        let of_cluster = |namespace: &str, uid: &str| {
            let (name, hosting) = ("db-0".to_owned(), Some(format!("node-of-{namespace}")));
            let vm = ClusterVm {
                namespace: namespace.to_owned(),
                name,
                uid: uid.to_owned(),
                hosting,
                ..ClusterVm::default()
            };
            Arc::new(vm)
        };
        let cluster_vms = vec![of_cluster("prod", GONE), of_cluster("test", NEW)];
        let snapshot = Snapshot { cluster_vms, ..Snapshot::default() };
        let seen = |name: &str, sight: Sight| vm(&snapshot, name, "", &sight).map(uid);
        let ask = |name: &str| seen(name, Sight::whole());
        assert_eq!(ask("prod/db-0").unwrap(), GONE);
        assert_eq!(ask(NEW).unwrap(), NEW);
        let both = ask("db-0").unwrap_err();
        assert!(both.message().contains("prod/db-0") && both.message().contains("namespace"), "{both}");
        // What may not be got is not there, and not in the way of what may.
        let of_prod = Sight::of([Resource::Vm.one("prod", "db-0")]);
        assert_eq!(seen("db-0", of_prod.clone()).unwrap(), GONE);
        for (name, sight) in [("test/db-0", of_prod.clone()), (NEW, of_prod), ("db-0", Sight::default())] {
            let refused = seen(name, sight).unwrap_err();
            assert_eq!(refused.message(), format!("no VM `{name}` that you may get"));
        }
        let keys = ["prod", "test"].map(|namespace| (namespace.to_owned(), "db-0".to_owned()));
        assert_eq!(candidates(&snapshot, "db-0"), keys.into());
        assert!(ask("stage/db-0").unwrap_err().message().starts_with("no VM `stage/db-0`"));
    }
}
