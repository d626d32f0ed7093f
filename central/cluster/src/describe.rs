//! One VM, one node: everything that is known of it, put together.

use kulprit_model::Subject;
use kulprit_signature::Signatures;

use crate::{
    cluster::Cluster,
    described::{ClusterNode, ClusterVm},
    fact::Out,
    facts,
    history::MigrationRecord,
    life::life,
    parts::{Asked, Parts},
    question::Past,
};

impl Cluster {
    /// Everything about one VM, whether there are objects of it or only events, or nothing at all.
    #[must_use]
    pub fn describe(&self, namespace: &str, name: &str, asked: &Asked, signatures: &Signatures) -> ClusterVm {
        described(&Parts::new(self, namespace, name, asked), asked, signatures)
    }

    /// The same of the VM of a migration whose object is gone, with that in question.
    #[must_use]
    pub fn describe_past(&self, record: &MigrationRecord, asked: &Asked, signatures: &Signatures) -> ClusterVm {
        let object = record.object();
        let past = Past { record, object: &object };
        let parts = Parts::with(self, &record.namespace, &record.vm, asked, Some(&past));
        let mut vm = described(&parts, asked, signatures);
        // A VM that was started anew has another VMI since; what hosts saw then is of this one.
        let of_then = record.vmi_uid.iter().filter(|uid| !vm.uids.contains(uid)).cloned().collect::<Vec<_>>();
        vm.uids.extend(of_then);
        vm.uids.sort();
        vm
    }

    /// Everything about each node that an object or an event tells of, sorted by name.
    #[must_use]
    pub fn describe_nodes(&self, at_usec: i64, signatures: &Signatures) -> Vec<ClusterNode> {
        self.node_names().into_iter().map(|name| self.describe_node(name, at_usec, signatures)).collect()
    }

    /// Everything about one node, whether an object tells of it or nothing at all.
    #[must_use]
    pub fn describe_node(&self, name: &str, at_usec: i64, signatures: &Signatures) -> ClusterNode {
        let mut out = Out::new(Subject::Node, at_usec, signatures);
        facts::node::facts(self, name, at_usec, &mut out);
        let findings = out.into_findings().into_iter().map(|of| of.finding).collect();
        ClusterNode { name: name.to_owned(), findings }
    }
}

fn described(parts: &Parts<'_>, asked: &Asked, signatures: &Signatures) -> ClusterVm {
    let uid = parts.uid();
    let mut out = Out::new(Subject::vm(uid.clone()), asked.at_usec, signatures)
        .with_ends(parts.source.as_deref(), parts.target.as_deref());
    facts::vmi::facts(parts, &mut out);
    facts::pod::facts(parts, &mut out);
    facts::placement::facts(parts, &mut out);
    facts::volume::facts(parts, &mut out);
    facts::migration::facts(parts, &mut out);
    facts::texts::said(parts, &mut out);
    ClusterVm {
        namespace: parts.namespace().to_owned(),
        name: parts.name().to_owned(),
        uids: parts.uids(),
        pods: parts.pod_refs(),
        volumes: volumes(parts),
        images: images(parts),
        hosting: parts.hosting.clone(),
        source: parts.source.clone(),
        target: parts.target.clone(),
        wanted_nodes: wanted_nodes(parts),
        life: life(parts),
        findings: out.into_findings(),
        uid,
    }
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.retain(|text| !text.is_empty());
    texts.sort();
    texts.dedup();
    texts
}

fn volumes(parts: &Parts<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for claim in &parts.claims {
        names.extend(claim.volume.clone());
        names.push(claim.name.clone());
        names.extend(claim.volume_name().map(ToOwned::to_owned));
        names.extend(claim.persistent.and_then(|volume| volume.handle.clone()));
        let attachments = claim.volume_name().into_iter().flat_map(|volume| parts.cluster.attachments_of(volume));
        names.extend(attachments.map(|one| one.meta.name.clone()));
    }
    let of_vmi = parts.vmi.into_iter().flat_map(|vmi| &vmi.volumes);
    let of_vm = parts.vm.into_iter().flat_map(|vm| &vm.volumes);
    names.extend(of_vmi.chain(of_vm).map(|volume| volume.name.clone()));
    sorted(names)
}

fn images(parts: &Parts<'_>) -> Vec<String> {
    let of_pods = parts.pods.iter().flat_map(|of| &of.pod.containers).filter_map(|container| container.image.clone());
    let of_vmi = parts.vmi.into_iter().flat_map(|vmi| &vmi.volumes);
    let of_vm = parts.vm.into_iter().flat_map(|vm| &vm.volumes);
    let of_disks = of_vmi.chain(of_vm).filter_map(|volume| volume.image.clone());
    sorted(of_pods.chain(of_disks).collect())
}

/// Nodes that its selector or affinity names, where nothing has scheduled it.
fn wanted_nodes(parts: &Parts<'_>) -> Vec<String> {
    let has_node = parts.launcher().map_or(parts.hosting.is_some(), |of| of.pod.node.is_some());
    if has_node {
        return Vec::new();
    }
    let of_pod = parts.launcher().map(|of| of.pod.wanted_nodes.clone()).unwrap_or_default();
    let of_vmi = parts.vmi.map(|vmi| vmi.wanted_nodes.clone()).unwrap_or_default();
    let of_vm = parts.vm.map(|vm| vm.wanted_nodes.clone()).unwrap_or_default();
    sorted(of_pod.into_iter().chain(of_vmi).chain(of_vm).collect())
}
