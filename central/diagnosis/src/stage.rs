//! The places at which a cause of one symptom can sit, each as a scene of its own.
//!
//! A VM sits on its host; a migration has a source, a target and a way between them; some things are shared by nodes, and some are
//! on no host at all. A VM that is on no node yet may be meant for any: then what a node has counts less ([`POSSIBLE`]). Nodes that
//! are no place of the VM are kept aside, as they are needed only to tell "here" from "everywhere".

use kulprit_cluster::ClusterVm;
use kulprit_model::Side;

use crate::{
    catalogue::Cause,
    compared::Compared,
    indexed::Indexed,
    nearness::Who,
    scene::{Host, Scene, Setting, begin_of_migration},
    standalone,
    symptom::{Symptom, SymptomId, SymptomSubject},
};

/// How much a finding of a node counts that is one of several on which the VM could be.
pub(crate) const POSSIBLE: f64 = 0.6;

/// Of the nodes on which a VM could be, so many are looked at.
const MAX_POSSIBLE: usize = 32;

/// Every place of one symptom.
pub(crate) struct Stage<'a> {
    pub(crate) snapshot: &'a Indexed<'a>,
    pub(crate) symptom: &'a Symptom,
    pub(crate) cluster_vm: Option<&'a ClusterVm>,
    pub(crate) who: Who<'a>,
    /// In the order of [`Side`], possible hosts by name. The first is where the VM is.
    pub(crate) scenes: Vec<Scene<'a>>,
    is_migration: bool,
    /// When the migration in question began, if that is known.
    begin_usec: Option<i64>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(snapshot: &'a Indexed<'a>, symptom: &'a Symptom) -> Self {
        let who = Who::new(snapshot, &symptom.subject);
        let (subject_node, cluster_vm) = match &symptom.subject {
            SymptomSubject::Vm { node, uid } => (node.as_str(), snapshot.cluster_vm(uid)),
            SymptomSubject::Node { node } => (node.as_str(), None),
        };
        let is_migration =
            symptom.migration.is_some() || matches!(symptom.id, SymptomId::StuckMigrating | SymptomId::MigrationFailed);
        let mut stage = Self {
            snapshot,
            symptom,
            cluster_vm,
            who,
            scenes: Vec::new(),
            is_migration,
            begin_usec: begin_of_migration(snapshot, symptom, cluster_vm),
        };
        let Hosts { hosting, source, target } = match cluster_vm {
            Some(vm) => hosts_of(snapshot, vm, subject_node, is_migration),
            None => hosts_of_domain(snapshot, &symptom.subject, is_migration),
        };
        let mut scenes = Vec::new();
        let is_node = matches!(symptom.subject, SymptomSubject::Node { .. });
        let ends: Vec<Host<'a>> =
            if is_migration { source.iter().chain(&target).copied().collect() } else { hosting.clone() };
        for host in &hosting {
            scenes.push(stage.scene(Side::Hosting, *host, &[*host]));
        }
        if !is_node {
            for (side, host) in
                source.iter().map(|host| (Side::Source, host)).chain(target.iter().map(|host| (Side::Target, host)))
            {
                let mut hosts = ends.clone();
                hosts.push(*host);
                scenes.push(stage.scene(side, *host, &hosts));
            }
            let both: Vec<Host<'a>> = source.iter().chain(&target).filter(|host| host.is_certain()).copied().collect();
            let first = source.first().copied().unwrap_or_default();
            let mut path = stage.scene(Side::Path, first, &both);
            path.peer_name = target.first().filter(|host| host.is_certain()).map(|host| host.name);
            scenes.push(path);
        }
        let first = |of: &[Host<'a>]| of.first().or(source.first()).copied().unwrap_or_default();
        scenes.push(stage.scene(Side::Shared, first(if is_migration { &target } else { &hosting }), &ends));
        if !is_node {
            scenes.push(stage.scene(Side::Cluster, first(&hosting), &ends));
        }
        stage.scenes = scenes;
        stage
    }

    fn scene(&self, side: Side, here: Host<'a>, hosts: &[Host<'a>]) -> Scene<'a> {
        Scene::new(&self.setting(), side, here, hosts)
    }

    fn setting(&self) -> Setting<'_, 'a> {
        Setting {
            snapshot: self.snapshot,
            symptom: self.symptom,
            cluster_vm: self.cluster_vm,
            who: &self.who,
            begin_usec: self.begin_usec,
            only: None,
        }
    }

    /// The indices of the scenes in which a cause is looked for: those of its roles, as far as the symptom has them. A cause of a
    /// start (hosting and target, not source) is the target's when the symptom is a migration's.
    pub(crate) fn scenes_of(&self, cause: &Cause) -> Vec<usize> {
        let has = |side: Side| cause.roles.contains(&side);
        let is_allowed = |side: Side| match side {
            Side::Hosting if self.is_migration => has(Side::Hosting) && !has(Side::Source) && !has(Side::Target),
            Side::Hosting => has(Side::Hosting),
            Side::Source | Side::Target => has(side) && (self.is_migration || !has(Side::Hosting)),
            Side::Path | Side::Shared | Side::Cluster => has(side),
        };
        (0..self.scenes.len()).filter(|index| is_allowed(self.scenes[*index].side)).collect()
    }

    /// The scenes of these nodes, and of those of which the VM's own objects tell, by name; without the one of `scene`. There, another
    /// VM's findings are the node's: whether a thing is the same elsewhere is asked of everybody.
    pub(crate) fn elsewhere<'s>(
        &'s self,
        scene: &Scene<'a>,
        compared: &'s Compared,
        nodes: &[usize],
    ) -> impl Iterator<Item = Scene<'a>> + use<'s, 'a> {
        let here = self.snapshot.position(scene.node_name);
        let told = self.cluster_vm.into_iter().flat_map(|vm| &vm.findings).filter_map(|of| of.node.as_deref());
        let told = told.filter_map(|name| self.snapshot.position(name));
        let mut nodes: Vec<usize> = nodes.iter().copied().chain(told).filter(|node| Some(*node) != here).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.into_iter().map(|node| self.scene_on(node, compared))
    }

    /// The scene of a node that is looked at only to compare.
    fn scene_on(&self, node: usize, compared: &Compared) -> Scene<'a> {
        let host = Host::new(self.snapshot, self.snapshot.names()[node], 1.0);
        Scene::new(&Setting { only: Some(compared), ..self.setting() }, Side::Hosting, host, &[host])
    }

    /// The scenes of hosts, one for each node: what was looked at, and where nobody could look.
    pub(crate) fn hosts(&self) -> Vec<&Scene<'a>> {
        let mut hosts: Vec<&Scene<'a>> = Vec::new();
        for scene in &self.scenes {
            let is_host = match scene.side {
                Side::Hosting => true,
                Side::Source | Side::Target => self.is_migration,
                Side::Path | Side::Shared | Side::Cluster => false,
            };
            let is_named = !scene.node_name.is_empty() || self.cluster_vm.is_none();
            if is_host && is_named && !hosts.iter().any(|known| known.node_name == scene.node_name) {
                hosts.push(scene);
            }
        }
        hosts
    }
}

struct Hosts<'a> {
    hosting: Vec<Host<'a>>,
    source: Vec<Host<'a>>,
    target: Vec<Host<'a>>,
}

/// Where a VM of the cluster is, or could be.
fn hosts_of<'a>(snapshot: &'a Indexed<'a>, vm: &'a ClusterVm, subject_node: &'a str, is_migration: bool) -> Hosts<'a> {
    let of_pods = |sides: &[Side]| -> Vec<&'a str> {
        let of_side = vm.pods.iter().filter(|pod| sides.contains(&pod.side));
        of_side.filter_map(|pod| pod.node.as_deref()).filter(|name| !name.is_empty()).collect()
    };
    let of_findings = || -> Vec<&'a str> { vm.findings.iter().filter_map(|of| of.node.as_deref()).collect() };
    let wanted = || vm.wanted_nodes.iter().map(String::as_str).collect::<Vec<_>>();
    let any = || {
        let named = snapshot.cluster_nodes.iter().map(|node| node.name.as_str());
        snapshot.nodes.iter().map(|node| node.name.as_str()).chain(named).collect::<Vec<_>>()
    };
    // An object that has a field for its node and no node has an empty text there.
    let told = |node: &'a Option<String>| node.as_deref().filter(|name| !name.is_empty());
    let hosting = match told(&vm.hosting) {
        Some(hosting) => vec![Host::new(snapshot, hosting, 1.0)],
        None if !subject_node.is_empty() => vec![Host::new(snapshot, subject_node, 1.0)],
        None => possible(
            snapshot,
            [of_pods(&[Side::Hosting, Side::Source]), of_findings(), wanted(), any()]
                .into_iter()
                .find(|names| !names.is_empty()),
        ),
    };
    let source = match told(&vm.source) {
        Some(source) => vec![Host::new(snapshot, source, 1.0)],
        None => hosting.clone(),
    };
    let is_source = |name: &str| source.iter().any(|host| host.is_certain() && host.name == name);
    let target = match told(&vm.target) {
        Some(target) => vec![Host::new(snapshot, target, 1.0)],
        None => {
            let of_target = of_pods(&[Side::Target]);
            let of_finding: Vec<&str> = vm
                .findings
                .iter()
                .filter(|of| of.side == Some(Side::Target))
                .filter_map(|of| of.node.as_deref())
                .collect();
            let others =
                || if is_migration { any().into_iter().filter(|name| !is_source(name)).collect() } else { Vec::new() };
            possible(snapshot, [of_target, of_finding, others()].into_iter().find(|names| !names.is_empty()))
        }
    };
    // A migration whose target nobody knows still has one: what is said of that side has its place there.
    let target = if target.is_empty() && is_migration { vec![Host::default()] } else { target };
    Hosts { hosting: if hosting.is_empty() { vec![Host::default()] } else { hosting }, source, target }
}

/// Where a VM that no cluster knows is, and where a migration takes it.
fn hosts_of_domain<'a>(snapshot: &'a Indexed<'a>, subject: &'a SymptomSubject, is_migration: bool) -> Hosts<'a> {
    let (SymptomSubject::Vm { node, .. } | SymptomSubject::Node { node }) = subject;
    let only = vec![Host::new(snapshot, node, 1.0)];
    let SymptomSubject::Vm { uid, .. } = subject else {
        return Hosts { hosting: only.clone(), source: only.clone(), target: only };
    };
    if !is_migration {
        return Hosts { hosting: only.clone(), source: only.clone(), target: only };
    }
    let target = match standalone::migration_of(snapshot, uid).and_then(|migration| migration.target) {
        Some(target) => vec![Host::new(snapshot, &target.name, 1.0)],
        None => possible(
            snapshot,
            Some(snapshot.nodes.iter().map(|other| other.name.as_str()).filter(|other| *other != node).collect()),
        ),
    };
    let target = if target.is_empty() { vec![Host::default()] } else { target };
    Hosts { hosting: only.clone(), source: only, target }
}

/// One node is certain; of several each is only possible.
fn possible<'a>(snapshot: &'a Indexed<'a>, names: Option<Vec<&'a str>>) -> Vec<Host<'a>> {
    let mut names = names.unwrap_or_default();
    names.sort_unstable();
    names.dedup();
    // Those whose host was looked at come first where there are too many.
    names.sort_by_key(|name| snapshot.node(name).is_none());
    names.truncate(MAX_POSSIBLE);
    let factor = if names.len() == 1 { 1.0 } else { POSSIBLE };
    names.into_iter().map(|name| Host::new(snapshot, name, factor)).collect()
}
