//! What the hosts show that would stop a migration: the catalogue of causes, asked about one that has not begun.
//!
//! Of the snapshot only both ends and their VMs are looked at, so that a question costs what its nodes cost. What was said of earlier
//! migrations counts little, because this one begins now; what Kubernetes' objects say of the VM is left to the pre-flight's own
//! questions, and so is a cordon: who drains a node means its VMs to leave.

use std::{collections::BTreeMap, sync::Arc};

use kulprit_cluster::{ClusterVm, MigrationLife};
use kulprit_model::{FindingCode, Severity, Side, State, Status};

use super::Obstacle;
use crate::{
    attribution::is_verdict,
    catalogue::{CAUSES, Cause, Scope},
    causes::UNEXPLAINED,
    chain::{Chain, OWN_EVIDENCE_DB},
    cleared,
    evidence::{Seen, seen_of_state},
    indexed::Indexed,
    remedy,
    scene::Sighting,
    score::{ScoreLine, ScoreSheet},
    snapshot::{ClusterSight, NodeView, Snapshot},
    stage::Stage,
    symptom::{Symptom, SymptomId, SymptomSubject},
};

/// The probe of a migration's job.
const MIGRATION: &str = "migration";

/// What one host shows.
#[derive(Debug, Default)]
pub(super) struct HostSight {
    pub(super) risks: Vec<Risk>,
    /// Why nothing of it is seen, if so.
    pub(super) unseen: Option<String>,
    /// What its agent could not look at, one sentence each.
    pub(super) blind: Vec<String>,
}

/// A host fault that would harm the migration.
#[derive(Debug)]
pub(super) struct Risk {
    /// Whether it is enough by itself, by a look of now.
    pub(super) is_stopper: bool,
    pub(super) obstacle: Obstacle,
}

/// The hosts of a VM that could migrate.
pub(super) struct HostRisks<'a> {
    snapshot: &'a Snapshot,
    vm: &'a ClusterVm,
    source: &'a str,
    /// VMs by every node that they are on, come from or go to.
    vms_on: BTreeMap<&'a str, Vec<&'a Arc<ClusterVm>>>,
}

impl<'a> HostRisks<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, vm: &'a ClusterVm, source: &'a str) -> Self {
        let mut vms_on: BTreeMap<&str, Vec<&Arc<ClusterVm>>> = BTreeMap::new();
        for other in snapshot.cluster_vms.iter().filter(|other| other.uid != vm.uid) {
            let mut nodes: Vec<&str> =
                [&other.hosting, &other.source, &other.target].into_iter().flatten().map(String::as_str).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.into_iter().for_each(|node| vms_on.entry(node).or_default().push(other));
        }
        Self { snapshot, vm, source, vms_on }
    }

    /// What the source shows, wherever the VM goes.
    pub(super) fn of_source(&self) -> HostSight {
        self.sight(None)
    }

    /// What a target shows, and the way to it.
    pub(super) fn of_target(&self, target: &str) -> HostSight {
        self.sight(Some(target))
    }

    fn sight(&self, target: Option<&str>) -> HostSight {
        let snapshot = self.as_if(target);
        let snapshot = Indexed::new(&snapshot);
        let symptom = Symptom {
            subject: SymptomSubject::Vm { node: self.source.to_owned(), uid: self.vm.uid.clone() },
            // Of the two symptoms of migrations the one whose evidence is of a moment: this one.
            id: SymptomId::MigrationFailed,
            since_wall_usec: Some(snapshot.reference_wall_usec),
            text: String::new(),
            migration: Some(String::new()),
        };
        let stage = Stage::new(&snapshot, &symptom);
        let here = target.unwrap_or(self.source);
        let mut sight = HostSight::default();
        for spot in cleared::blind_spots(&stage).into_iter().filter(|spot| spot.node == here) {
            match spot.probe {
                // No job is there that could be looked at.
                Some(MIGRATION) => {}
                None => sight.unseen = Some(spot.sentence),
                Some(_) => sight.blind.push(spot.sentence),
            }
        }
        let mut sheets: Vec<ScoreSheet> = Vec::new();
        for (index, scene) in stage.scenes.iter().enumerate() {
            let causes =
                CAUSES.iter().copied().filter(|cause| cause.id != UNEXPLAINED.id && cause.scope != Scope::Cluster);
            for cause in causes.filter(|cause| is_asked(&stage, cause, index, target.is_some())) {
                let sheet = ScoreSheet::new(&stage, index, cause);
                let is_harmful = sheet.own_db() >= OWN_EVIDENCE_DB && looks_of(&sheet, here).next().is_some();
                let is_known = sheets.iter().any(|known| known.cause.id == cause.id);
                // A node of which nothing but its name is known shows nothing.
                if is_harmful && !is_known && !scene.node_name.is_empty() {
                    sheets.push(sheet);
                }
            }
        }
        // What a root explains is told by it, unless the root by itself is less sure.
        let is_explained = |sheet: &ScoreSheet| {
            let mut roots = sheets.iter().filter(|other| other.cause.explains.contains(&sheet.cause.id));
            roots.any(|root| is_stopper(&stage, root) || !is_stopper(&stage, sheet))
        };
        let shown = sheets.iter().filter(|sheet| !is_explained(sheet));
        sight.risks = shown.map(|sheet| risk(&stage, sheet, here)).collect();
        sight.risks.extend(unclaimed(&stage, &sheets, here));
        sight.risks.sort_by_key(|risk| !risk.is_stopper);
        sight
    }

    /// The snapshot as it would be if the migration began at this moment, of both ends alone.
    fn as_if(&self, target: Option<&str>) -> Snapshot {
        let Snapshot { reference_wall_usec, nodes, cluster_vms: _, cluster_nodes, cluster_sight, settings } =
            self.snapshot;
        let is_end = |name: &str| name == self.source || Some(name) == target;
        let ends = [Some(self.source), target];
        let mut vms: Vec<Arc<ClusterVm>> = ends
            .into_iter()
            .flatten()
            .filter_map(|node| self.vms_on.get(node))
            .flatten()
            .map(|vm| Arc::clone(vm))
            .collect();
        vms.push(Arc::new(self.migrating(target, *reference_wall_usec)));
        vms.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        vms.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut cluster_nodes: Vec<_> = cluster_nodes.iter().filter(|node| is_end(&node.name)).cloned().collect();
        for node in &mut cluster_nodes {
            if node.findings.iter().any(|finding| finding.code() == FindingCode::NodeCordoned) {
                Arc::make_mut(node).findings.retain(|finding| finding.code() != FindingCode::NodeCordoned);
            }
        }
        Snapshot {
            reference_wall_usec: *reference_wall_usec,
            nodes: nodes.iter().filter(|node| is_end(&node.name)).cloned().map(without_migrations).collect(),
            cluster_vms: vms,
            cluster_nodes,
            cluster_sight: ClusterSight { unseen: Vec::new(), ..cluster_sight.clone() },
            settings: *settings,
        }
    }

    /// The VM with a migration that begins now.
    fn migrating(&self, target: Option<&str>, now_usec: i64) -> ClusterVm {
        let mut vm = self.vm.clone();
        vm.findings.clear();
        vm.pods.retain(|pod| pod.node.as_deref() == Some(self.source));
        vm.pods.iter_mut().for_each(|pod| pod.side = Side::Source);
        vm.hosting = Some(self.source.to_owned());
        vm.source = Some(self.source.to_owned());
        vm.target = target.map(ToOwned::to_owned);
        vm.life.migration = Some(MigrationLife {
            phase: Some("Pending".to_owned()),
            phase_since_usec: Some(now_usec),
            created_usec: Some(now_usec),
            ..MigrationLife::default()
        });
        vm
    }
}

/// A node without what it says of migrations that are over, or are others': that their peers answered, or that they copied, says nothing
/// of one that has not begun.
fn without_migrations(mut node: NodeView) -> NodeView {
    node.states.retain(|state| {
        let is_of_a_peer = matches!(state.code, FindingCode::MigrationPeerSilent | FindingCode::MtuMismatch);
        state.code.spec().probe != MIGRATION && !(is_of_a_peer && state.status == Status::Absent)
    });
    node
}

/// Faults that are present on a node and that no cause was found for: too weak, or outweighed. They are told all the same.
fn unclaimed(stage: &Stage<'_>, sheets: &[ScoreSheet], here: &str) -> Vec<Risk> {
    let claimed: Vec<FindingCode> = sheets
        .iter()
        .flat_map(|sheet| sheet.lines.iter().filter(|line| line.decibans > 0.0))
        .flat_map(|line| line.clue.look.codes())
        .collect();
    let Some(scene) = stage.scenes.iter().find(|scene| scene.side != Side::Hosting && scene.node_name == here) else {
        return Vec::new();
    };
    let is_shown = |sighting: &Sighting<'_, State>| {
        let spec = sighting.of.code.spec();
        let is_a_hosts = spec.severity == Severity::Fault && spec.probe != "cluster" && sighting.node == here;
        is_a_hosts && sighting.status() == Status::Present && !claimed.contains(&sighting.of.code)
    };
    let seen = scene.states().filter(is_shown).filter_map(|sighting| seen_of_state(&sighting).into_iter().next());
    let risk = |seen: Seen| Risk {
        is_stopper: false,
        obstacle: Obstacle {
            what: format!("{here}: {}", seen.text),
            source: format!("{} on {here}", seen.source),
            ..Obstacle::default()
        },
    };
    seen.map(risk).collect()
}

/// Whether a cause is asked about in a scene: at the target and on the way to it, or, without a target, at the source. What can be
/// wrong with any host of a VM can be wrong with its next one.
fn is_asked(stage: &Stage<'_>, cause: &Cause, index: usize, has_target: bool) -> bool {
    let side = stage.scenes[index].side;
    let is_its = || stage.scenes_of(cause).contains(&index);
    let is_only_a_hosts = !cause.roles.contains(&Side::Source) && !cause.roles.contains(&Side::Target);
    match side {
        Side::Hosting | Side::Source => !has_target && is_its(),
        Side::Target => has_target && (is_its() || cause.roles.contains(&Side::Hosting) && is_only_a_hosts),
        // Without a target the way has one end, which is the source's own.
        Side::Path => is_its(),
        Side::Shared | Side::Cluster => false,
    }
}

/// The lines that speak for a cause by what is present now on a node.
fn looks_of<'s>(sheet: &'s ScoreSheet, node: &'s str) -> impl Iterator<Item = &'s ScoreLine> {
    let lines = sheet.lines.iter().filter(|line| line.is_counted && line.decibans > 0.0);
    lines
        .filter(move |line| line.clue.look.asks_for_present(|_| true) && line.seen.iter().any(|seen| seen.node == node))
}

/// Whether a cause is enough by itself to stop a migration, or to let it fail.
fn is_stopper(stage: &Stage<'_>, sheet: &ScoreSheet) -> bool {
    let [failed, stuck] = [SymptomId::MigrationFailed, SymptomId::StuckMigrating].map(|id| sheet.cause.prior_db(id));
    // What only a peer of an earlier migration did not answer to says nothing of the next peer.
    let is_of_a_peer = sheet.role == Side::Path && stage.scenes[sheet.scene].peer_name.is_none();
    is_verdict(sheet.own_db() + failed.max(stuck)) && !is_of_a_peer
}

fn risk(stage: &Stage<'_>, sheet: &ScoreSheet, here: &str) -> Risk {
    let cause = sheet.cause;
    let strongest = looks_of(sheet, here).max_by(|a, b| a.decibans.total_cmp(&b.decibans));
    let seen = strongest.and_then(|line| line.seen.iter().find(|seen| seen.node == here));
    let (text, source) = seen.map_or((cause.meaning, "agent"), |seen| (seen.text.as_str(), seen.source.as_str()));
    let chain = Chain { links: vec![sheet] };
    Risk {
        is_stopper: is_stopper(stage, sheet),
        obstacle: Obstacle {
            what: format!("{here}: {text}"),
            source: format!("{source} on {here}"),
            fix: remedy::remedy(stage, &stage.scenes[sheet.scene], &cause.advice, Some(&chain)).now,
            cause: cause.id,
        },
    }
}
