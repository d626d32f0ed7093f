//! The score sheet of one cause for one symptom: every clue with what it adds, so that the verdict can be checked by hand.
//!
//! score = prior + Σ over groups (the strongest clue × subject factor × freshness), in decibans. A cause is scored at every place
//! that its roles allow, and competes with the best of them.

use kulprit_model::{Attributes, Side};

use crate::{
    catalogue::{CAUSES, Cause, Clue, Scope},
    causes,
    evidence::{self, Seen, Times},
    indexed::Indexed,
    nearness::Nearness,
    scene::Scene,
    shared::{Fault, whose_fault},
    snapshot::Snapshot,
    stage::{POSSIBLE, Stage},
    symptom::{Symptom, SymptomId, SymptomSubject, kubevirt::is_shown_well},
};

/// Less evidence than this is what `Unexplained` stands for: a cause without it does not compete by itself.
/// "Some" evidence of the node, not even of the VM: 7 × 0.6.
pub(crate) const COMPETES_DB: f64 = 4.0;

/// Prior of every cause for a VM that is named and shows no symptom, be it that its objects show it well, be it that nothing is known
/// of its life: somebody asks for a reason. A proof at its node makes a verdict, or strong evidence of its own; less does not.
const PRIOR_OF_A_NAMED_VM_DB: f64 = -5.0;

/// Prior of what is on no host, for a VM that is named and shown well.
const PRIOR_OF_A_PROPERTY_DB: f64 = -15.0;

/// How one cause came to its score.
#[derive(Debug)]
pub struct ScoreSheet {
    /// The cause.
    pub cause: &'static Cause,
    /// The place at which it is scored.
    pub role: Side,
    /// The node of that place; `None` if it is on none, or not known.
    pub node: Option<String>,
    /// What it is worth for this symptom before anything was looked at, decibans.
    pub prior_db: f64,
    /// Every clue that was seen, in the order of the catalogue.
    pub lines: Vec<ScoreLine>,
    /// Whether it is undecided if this is the fault of something that nodes share.
    pub(crate) may_be_shared: bool,
    /// Index of its scene.
    pub(crate) scene: usize,
}

/// One clue that was seen.
#[derive(Debug)]
pub struct ScoreLine {
    /// The clue.
    pub clue: &'static Clue,
    /// Subject factor: 1 for the VM's own, 0.6 for its node's.
    pub factor: f64,
    /// 1 for fresh evidence, less for old, 0.3 for what began after the symptom.
    pub freshness: f64,
    /// Strength × factor × freshness.
    pub decibans: f64,
    /// Whether it is the strongest of its group; only that one counts.
    pub is_counted: bool,
    /// What was seen.
    pub seen: Vec<Seen>,
    pub(crate) times: Times,
    pub(crate) attributes: Attributes,
    pub(crate) unit: Option<String>,
}

impl ScoreSheet {
    /// What its own evidence adds up to, decibans.
    #[must_use]
    pub fn own_db(&self) -> f64 {
        self.lines.iter().filter(|line| line.is_counted).map(|line| line.decibans).sum()
    }

    /// Prior and own evidence, decibans.
    #[must_use]
    pub fn score_db(&self) -> f64 {
        self.prior_db + self.own_db()
    }

    /// Whether it has enough evidence of its own to compete.
    #[must_use]
    pub fn competes(&self) -> bool {
        self.own_db() >= COMPETES_DB
    }

    /// Whether anything counts for it.
    pub(crate) fn has_positive(&self) -> bool {
        self.lines.iter().any(|line| line.decibans > 0.0)
    }

    /// When what speaks most for it began, Unix time in microseconds.
    pub(crate) fn began_usec(&self) -> i64 {
        let chief = self.lines.iter().max_by(|a, b| a.decibans.total_cmp(&b.decibans));
        chief.map_or(Times::OPEN, |line| line.times).began_usec
    }

    /// When the last of what speaks for it was over, Unix time in microseconds; `i64::MAX` if some of it lasts.
    pub(crate) fn ended_usec(&self) -> i64 {
        let ends = self.lines.iter().filter(|line| line.decibans > 0.0).map(|line| line.times.ended_usec);
        ends.max().unwrap_or(Times::OPEN.ended_usec)
    }

    pub(crate) fn new(stage: &Stage<'_>, scene_idx: usize, cause: &'static Cause) -> Self {
        let scene = &stage.scenes[scene_idx];
        let mut lines: Vec<(usize, ScoreLine)> = Vec::new();
        let add = |index: usize, clue: &'static Clue, lines: &mut Vec<(usize, ScoreLine)>| {
            let Some(hit) = evidence::strongest(evidence::hits(stage, scene, &clue.look, clue.text)) else { return };
            let line = ScoreLine {
                clue,
                factor: hit.factor,
                freshness: hit.freshness,
                decibans: clue.strength.decibans() * hit.factor * hit.freshness,
                is_counted: false,
                seen: hit.seen,
                times: hit.times,
                attributes: hit.attributes,
                unit: hit.unit,
            };
            lines.push((index, line));
        };
        for (index, clue) in cause.clues.iter().enumerate().filter(|(_, clue)| !evidence::asks_elsewhere(&clue.look)) {
            add(index, clue, &mut lines);
        }
        // What other nodes have only compares: without anything here there is nothing to compare.
        if lines.iter().any(|(_, line)| line.decibans > 0.0) {
            for (index, clue) in cause.clues.iter().enumerate().filter(|(_, clue)| evidence::asks_elsewhere(&clue.look))
            {
                add(index, clue, &mut lines);
            }
        }
        lines.sort_by_key(|(index, _)| *index);
        let lines: Vec<ScoreLine> = lines.into_iter().map(|(_, line)| line).collect();
        let node = node_of(scene);
        let mut sheet = Self {
            cause,
            role: scene.side,
            node,
            prior_db: prior_db(stage, cause),
            lines,
            may_be_shared: false,
            scene: scene_idx,
        };
        sheet.count();
        sheet
    }

    /// Marks the strongest line of each group.
    fn count(&mut self) {
        for index in 0..self.lines.len() {
            let line = &self.lines[index];
            let is_beaten = self.lines.iter().enumerate().any(|(other_index, other)| {
                other.clue.group == line.clue.group
                    && (other.decibans.abs() > line.decibans.abs()
                        || other.decibans.abs() == line.decibans.abs() && other_index < index)
            });
            self.lines[index].is_counted = !is_beaten;
        }
    }

    /// Weighs what is the node's as if the VM were certainly there.
    fn make_certain(&mut self) {
        for line in self.lines.iter_mut().filter(|line| line.factor < Nearness::OfNode.factor()) {
            line.factor = (line.factor / POSSIBLE).min(Nearness::OfNode.factor());
            line.decibans = line.clue.strength.decibans() * line.factor * line.freshness;
        }
        self.count();
    }
}

/// What a place is called: its node, both ends of a path, nothing where it is on no host.
fn node_of(scene: &Scene<'_>) -> Option<String> {
    let name = scene.node_name;
    match scene.side {
        Side::Shared | Side::Cluster => None,
        Side::Path => scene
            .peer_name
            .filter(|peer| *peer != name)
            .map_or_else(|| Some(name.to_owned()), |peer| Some(format!("{name},{peer}"))),
        Side::Hosting | Side::Source | Side::Target => Some(name.to_owned()),
    }
    .filter(|name| !name.is_empty())
}

/// The prior for this symptom. A VM of the cluster that is only asked about by name has no symptom to which a catalogue could fit.
pub(crate) fn prior_db(stage: &Stage<'_>, cause: &Cause) -> f64 {
    let symptom = stage.symptom.id;
    match stage.cluster_vm {
        // What Kubernetes' objects say of a VM that they show well is a property of it, such as that it cannot be migrated.
        Some(vm) if symptom == SymptomId::Unspecified && cause.scope == Scope::Cluster && is_shown_well(vm) => {
            PRIOR_OF_A_PROPERTY_DB
        }
        Some(_) if symptom == SymptomId::Unspecified && cause.id != causes::UNEXPLAINED.id => PRIOR_OF_A_NAMED_VM_DB,
        Some(_) | None => cause.prior_db(symptom),
    }
}

/// The sheets of every cause but `Unexplained`, in the order of the catalogue, each at its best place. A node has none of what sits in
/// one VM: whatever the kernel killed there, "its QEMU" is nobody's.
#[must_use]
pub fn score_sheets(snapshot: &Snapshot, symptom: &Symptom) -> Vec<ScoreSheet> {
    sheets_of(&Stage::new(&Indexed::new(snapshot), symptom)).best
}

/// Every sheet of one symptom.
pub(crate) struct Sheets {
    /// One per cause, at its best place.
    pub(crate) best: Vec<ScoreSheet>,
    /// The same causes at other hosts of the VM.
    pub(crate) elsewhere: Vec<ScoreSheet>,
}

pub(crate) fn sheets_of(stage: &Stage<'_>) -> Sheets {
    let is_node = matches!(stage.symptom.subject, SymptomSubject::Node { .. });
    let mut sheets = Sheets { best: Vec::new(), elsewhere: Vec::new() };
    for cause in CAUSES.iter().copied() {
        let is_a_vms = matches!(cause.scope, Scope::Vm | Scope::Cluster);
        if cause.id == causes::UNEXPLAINED.id || is_node && is_a_vms {
            continue;
        }
        let mut of_cause: Vec<ScoreSheet> =
            stage.scenes_of(cause).into_iter().map(|index| ScoreSheet::new(stage, index, cause)).collect();
        if let Some(shared) = of_cause.iter().position(|sheet| sheet.role == Side::Shared) {
            let fault = whose_fault(stage, &of_cause[shared]);
            // What has no other role stays possible while nobody shows that it is well.
            let is_kept = fault == Fault::Shared || fault == Fault::Undecided && cause.roles == [Side::Shared];
            if !is_kept {
                of_cause.remove(shared);
            }
            of_cause.iter_mut().for_each(|sheet| sheet.may_be_shared = fault == Fault::Undecided);
        }
        for side in [Side::Hosting, Side::Source, Side::Target] {
            settle_possible(stage, side, &mut of_cause);
        }
        let Some(best) = best_of(&of_cause, cause) else { continue };
        sheets.best.push(of_cause.remove(best));
        let best = sheets.best.last();
        of_cause.retain(|other| {
            let is_host = matches!(other.role, Side::Hosting | Side::Source | Side::Target);
            is_host
                && stage.scenes[other.scene].is_certain
                && other.node.is_some()
                && best.is_some_and(|best| best.node != other.node && best.node.is_some() && best.role != Side::Path)
                && has_evidence_of_its_node(other)
        });
        sheets.elsewhere.append(&mut of_cause);
    }
    sheets
}

/// A VM that is on no node yet could be on several: what each of them shows it meets wherever it goes.
fn settle_possible(stage: &Stage<'_>, side: Side, of_cause: &mut [ScoreSheet]) {
    let is_possible =
        |sheet: &ScoreSheet| sheet.role == side && sheet.node.is_some() && !stage.scenes[sheet.scene].is_certain;
    let (n_places, n_shown) =
        of_cause.iter().filter(|sheet| is_possible(sheet)).fold((0, 0), |(places, shown), sheet| {
            (places + 1, shown + usize::from(sheet.competes() && has_evidence_of_its_node(sheet)))
        });
    if n_places >= 2 && n_shown == n_places {
        of_cause.iter_mut().filter(|sheet| is_possible(sheet)).for_each(ScoreSheet::make_certain);
    }
}

/// The place with the highest score; of equals the one that stands first among the cause's roles, and a thing that is known to be
/// shared before any single node.
fn best_of(of_cause: &[ScoreSheet], cause: &Cause) -> Option<usize> {
    let rank = |sheet: &ScoreSheet| {
        let is_several = cause.roles.len() > 1;
        let is_shared = sheet.role == Side::Shared && is_several;
        (!is_shared, cause.roles.iter().position(|role| *role == sheet.role))
    };
    (0..of_cause.len()).min_by(|a, b| {
        let (a, b) = (&of_cause[*a], &of_cause[*b]);
        b.score_db().total_cmp(&a.score_db()).then_with(|| rank(a).cmp(&rank(b))).then_with(|| a.scene.cmp(&b.scene))
    })
}

/// Whether what counts most for a sheet was seen by its own node, and not only told of the VM.
fn has_evidence_of_its_node(sheet: &ScoreSheet) -> bool {
    let is_here = |line: &ScoreLine| line.seen.iter().any(|seen| Some(&seen.node) == sheet.node.as_ref());
    sheet.lines.iter().any(|line| line.is_counted && line.decibans > 0.0 && is_here(line))
}
