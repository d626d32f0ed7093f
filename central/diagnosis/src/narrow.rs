//! A snapshot without what a symptom does not concern: what is written down of a cluster when one VM is asked about.
//!
//! Nodes at which the symptom is looked for stay whole. Of every other node stays what clues compare with (`Elsewhere`), of other VMs
//! who they are: names tell whose a finding is. What else they said is other people's, and may be much. Whoever relies on the
//! verdict being the same compares [`crate::attribute`] of both: clues may come to read more than is kept here.

use std::{collections::BTreeSet, sync::Arc};

use kulprit_cluster::{ClusterNode, ClusterVm, Life, MigrationLife};
use kulprit_model::FindingCode;

use crate::{
    compared::COMPARED,
    indexed::Indexed,
    snapshot::{NodeView, Shared, Snapshot},
    stage::Stage,
    symptom::{Symptom, SymptomSubject},
};

/// Migrations that ended before this are nobody's rivals. Microseconds.
const DAY_USEC: i64 = 86_400_000_000;

/// A part of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Narrowed {
    /// The part.
    pub snapshot: Snapshot,
    /// Names of the nodes that are whole in it.
    pub nodes: BTreeSet<String>,
}

/// The snapshot as far as these symptoms of it need it.
#[must_use]
pub fn narrow(snapshot: &Snapshot, symptoms: &[Symptom]) -> Narrowed {
    let Near { nodes: near, vms } = near(snapshot, symptoms);
    let nodes =
        snapshot.nodes.iter().map(|node| if near.contains(node.name.as_str()) { node.clone() } else { far(node) });
    let cluster_nodes = snapshot.cluster_nodes.iter().map(|node| {
        if near.contains(node.name.as_str()) {
            return Arc::clone(node);
        }
        let findings = node.findings.iter().filter(|finding| is_compared(finding.code())).cloned().collect();
        Arc::new(ClusterNode { name: node.name.clone(), findings })
    });
    let oldest_usec = snapshot.reference_wall_usec.saturating_sub(DAY_USEC);
    let cluster_vms = snapshot.cluster_vms.iter().filter_map(|vm| {
        let migration = vm.life.migration.as_ref();
        if vms.contains(vm.uid.as_str()) {
            Some(Arc::clone(vm))
        } else if nodes_of(vm).any(|node| near.contains(node)) || migration.is_some_and(|it| is_rival(it, oldest_usec))
        {
            Some(Arc::new(who(vm)))
        } else {
            None
        }
    });
    let narrowed = Snapshot {
        reference_wall_usec: snapshot.reference_wall_usec,
        nodes: nodes.collect(),
        cluster_vms: cluster_vms.collect(),
        cluster_nodes: cluster_nodes.collect(),
        cluster_sight: snapshot.cluster_sight.clone(),
        settings: snapshot.settings,
    };
    Narrowed { snapshot: narrowed, nodes: near.into_iter().filter(|name| !name.is_empty()).collect() }
}

/// Nodes and VMs of the cluster that stay whole, by name and UID.
#[derive(Default)]
struct Near {
    nodes: BTreeSet<String>,
    vms: BTreeSet<String>,
}

fn near(snapshot: &Snapshot, symptoms: &[Symptom]) -> Near {
    let mut near = Near::default();
    let indexed = Indexed::new(snapshot);
    for symptom in symptoms {
        let stage = Stage::new(&indexed, symptom);
        let ends = stage.scenes.iter().flat_map(|scene| [Some(scene.node_name), scene.peer_name]).flatten();
        near.nodes.extend(ends.map(ToOwned::to_owned));
        match &symptom.subject {
            SymptomSubject::Vm { .. } => {
                let showing = snapshot.nodes.iter().filter(|node| stage.who.view_on(node).is_some());
                near.nodes.extend(showing.map(|node| node.name.clone()));
                near.vms.extend(stage.cluster_vm.map(|vm| vm.uid.clone()));
            }
            SymptomSubject::Node { node } => {
                let there = snapshot.cluster_vms.iter().filter(|vm| nodes_of(vm).any(|name| name == node));
                near.vms.extend(there.map(|vm| vm.uid.clone()));
            }
        }
    }
    near
}

fn nodes_of(vm: &ClusterVm) -> impl Iterator<Item = &str> {
    let told = [&vm.hosting, &vm.source, &vm.target].into_iter().flatten().map(String::as_str);
    told.chain(vm.pods.iter().filter_map(|pod| pod.node.as_deref()))
}

/// Another node: that it is there, and what is compared with it.
fn far(node: &NodeView) -> NodeView {
    let states = node.states.iter().filter(|state| is_compared(state.code));
    let occurrences = node.occurrences.iter().filter(|occurrence| is_compared(occurrence.code));
    NodeView {
        name: node.name.clone(),
        is_reporting: node.is_reporting,
        last_heard_wall_usec: node.last_heard_wall_usec,
        vms: Shared::default(),
        states: states.cloned().collect::<Vec<_>>().into(),
        occurrences: occurrences.cloned().collect::<Vec<_>>().into(),
        cannot_show: node.cannot_show.clone(),
    }
}

/// What clues compare; and migrations of plain hosts, of which several at once are told apart.
fn is_compared(code: FindingCode) -> bool {
    COMPARED.contains(&code) || code.spec().probe == "migration"
}

/// Whether it may have run beside the one in question.
fn is_rival(migration: &MigrationLife, oldest_usec: i64) -> bool {
    migration.outcome.is_none() || migration.ended_usec.is_none_or(|ended| ended >= oldest_usec)
}

/// Another VM: its names, and when it migrated.
fn who(vm: &ClusterVm) -> ClusterVm {
    let migration = vm.life.migration.clone().map(|migration| MigrationLife { failure_reason: None, ..migration });
    ClusterVm {
        namespace: vm.namespace.clone(),
        name: vm.name.clone(),
        uid: vm.uid.clone(),
        uids: vm.uids.clone(),
        pods: vm.pods.clone(),
        volumes: vm.volumes.clone(),
        images: vm.images.clone(),
        hosting: vm.hosting.clone(),
        source: vm.source.clone(),
        target: vm.target.clone(),
        wanted_nodes: Vec::new(),
        life: Life { migration, ..Life::default() },
        findings: Vec::new(),
    }
}
