//! How the answer is put together: score sheets, chains, probabilities, and everything that is said beside them.
//!
//! All sums run in the order of the catalogue, so that the same snapshot gives the same bits. Probabilities are rounded only
//! where they are printed.

use kulprit_model::{Attributes, FindingCode, Severity, Side, Status, attribute as key};

use super::{Attribution, Candidate, Confidence, WeighedEvidence};
use crate::{
    catalogue::{Cause, Look, Scope, UNEXPLAINED_DB},
    causes::UNEXPLAINED,
    chain::{self, Chain, OWN_EVIDENCE_DB},
    cleared, evidence,
    indexed::Indexed,
    place::Place,
    remedy,
    scene::{Nearness, Scene},
    score::{self, ScoreSheet, Sheets},
    snapshot::Snapshot,
    stage::Stage,
    symptom::{Symptom, SymptomSubject},
    thing::thing_of,
};

/// Spreads or sharpens probabilities: 10^(score / 10 / T). 1 takes a deciban at its word. On the training cases the Brier score is flat
/// from 0.6 (0.076) to 1 (0.084) and worse above; 1 stays, because what was not seen before is less sure than what rules were made for.
const TEMPERATURE: f64 = 1.0;

/// From here on the first cause is a verdict, and another fault would have been enough by itself.
const VERDICT: f64 = 0.6;

/// From here on the first cause is suspected.
const SUSPECTED: f64 = 0.3;

/// At most so many lines are shown that no cause claims.
const MAX_UNCLAIMED: usize = 12;

/// Explains one symptom of one subject. Every input gives an answer: a subject that the snapshot does not know is unexplained.
#[must_use]
pub fn attribute(snapshot: &Snapshot, symptom: &Symptom) -> Attribution {
    Indexed::new(snapshot).attribute(symptom)
}

pub(crate) fn attribute_in<'a>(snapshot: &'a Indexed<'a>, symptom: &'a Symptom) -> Attribution {
    let stage = Stage::new(snapshot, symptom);
    let sheets = score::sheets_of(&stage);
    Attribution {
        ruled_out: cleared::ruled_out(&stage, &sheets.best),
        unknown: cleared::unknown(&stage),
        looked_at: cleared::looked_at(&stage),
        ..weighed_in(&stage, sheets)
    }
}

/// Without what is said beside the causes.
pub(crate) fn attribute_causes_in<'a>(snapshot: &'a Indexed<'a>, symptom: &'a Symptom) -> Attribution {
    let stage = Stage::new(snapshot, symptom);
    let sheets = score::sheets_of(&stage);
    weighed_in(&stage, sheets)
}

fn weighed_in(stage: &Stage<'_>, Sheets { best: sheets, elsewhere }: Sheets) -> Attribution {
    let symptom = stage.symptom;
    let chains = chain::join(&sheets);
    // A node's own symptom is its faults: what explains none of them happened beside it, however sure it is.
    let is_of_node = matches!(symptom.subject, SymptomSubject::Node { .. });
    let is_of_faults = is_of_node
        && symptom.since_wall_usec.is_some()
        && chains.iter().any(|chain| chain.competes() && explains_a_fault(chain));
    let explains = |chain: &Chain<'_>| !is_of_faults || explains_a_fault(chain);
    let first = first_by_score(chains.iter().filter(|chain| explains(chain)));

    // `None` is `Unexplained`, which stands before causes of an equal score.
    let mut competitors: Vec<(Option<&Chain<'_>>, f64)> = vec![(None, UNEXPLAINED_DB)];
    let mut contributing = Vec::new();
    for chain in chains.iter().filter(|chain| chain.competes()) {
        let score_db = chain.score_db();
        let is_first = first.is_some_and(|first| std::ptr::eq(first, chain));
        let alone = probability_alone(score_db);
        let is_enough_alone = !is_first && chain.has_evidence() && alone >= VERDICT;
        if is_enough_alone {
            contributing.push(Candidate {
                explains: explains(chain),
                ..candidate(stage, &sheets, Some(chain), score_db, alone)
            });
        }
        // What a node's own symptom is derived from does not compete: each fault is there, and each is its own explanation.
        let is_beside = is_of_node && is_enough_alone || !explains(chain);
        if !is_beside {
            competitors.push((Some(chain), score_db));
        }
    }
    for sheet in &elsewhere {
        let alone = probability_alone(sheet.score_db());
        if sheet.own_db() >= OWN_EVIDENCE_DB && is_verdict(sheet.score_db()) {
            let chain = Chain { links: vec![sheet] };
            contributing.push(Candidate {
                explains: explains(&chain),
                ..candidate(stage, &sheets, Some(&chain), sheet.score_db(), alone)
            });
        }
    }
    competitors.sort_by(|a, b| b.1.total_cmp(&a.1));
    contributing.sort_by(|a, b| b.score_db.total_cmp(&a.score_db));

    let probabilities = normalise(&competitors.iter().map(|(_, score_db)| *score_db).collect::<Vec<_>>());
    let causes: Vec<Candidate> = competitors
        .iter()
        .zip(probabilities)
        .map(|((chain, score_db), probability)| candidate(stage, &sheets, *chain, *score_db, probability))
        .collect();
    let confidence = causes.first().map_or(Confidence::Unexplained, confidence);
    Attribution {
        symptom: symptom.clone(),
        causes,
        contributing,
        ruled_out: Vec::new(),
        unknown: Vec::new(),
        looked_at: Vec::new(),
        confidence,
    }
}

/// Whether something of the chain counts by a fault that is present.
fn explains_a_fault(chain: &Chain<'_>) -> bool {
    let is_of_fault = |look: &Look| look.asks_for_present(|code| code.spec().severity == Severity::Fault);
    let mut lines = chain.links.iter().flat_map(|sheet| &sheet.lines);
    lines.any(|line| line.is_counted && line.decibans > 0.0 && is_of_fault(&line.clue.look))
}

fn first_by_score<'c, 's: 'c>(chains: impl Iterator<Item = &'c Chain<'s>>) -> Option<&'c Chain<'s>> {
    let mut first: Option<&Chain<'_>> = None;
    for chain in chains {
        if first.is_none_or(|first| chain.score_db() > first.score_db()) {
            first = Some(chain);
        }
    }
    first
}

fn weight(score_db: f64) -> f64 {
    10.0_f64.powf(score_db / 10.0 / TEMPERATURE)
}

/// The probability of a cause if it were the only fault: against `Unexplained` alone.
fn probability_alone(score_db: f64) -> f64 {
    weight(score_db) / (weight(score_db) + weight(UNEXPLAINED_DB))
}

/// Whether a cause of that score would be a verdict if it were the only fault.
pub(crate) fn is_verdict(score_db: f64) -> bool {
    probability_alone(score_db) >= VERDICT
}

fn normalise(scores_db: &[f64]) -> Vec<f64> {
    let total: f64 = scores_db.iter().map(|score_db| weight(*score_db)).sum();
    scores_db.iter().map(|score_db| weight(*score_db) / total).collect()
}

pub(super) fn confidence(candidate: &Candidate) -> Confidence {
    match candidate.probability {
        _ if candidate.id == UNEXPLAINED.id => Confidence::Unexplained,
        probability if probability >= VERDICT => Confidence::Verdict,
        probability if probability >= SUSPECTED => Confidence::Suspected,
        _ => Confidence::Unexplained,
    }
}

fn candidate(
    stage: &Stage<'_>,
    sheets: &[ScoreSheet],
    chain: Option<&Chain<'_>>,
    score_db: f64,
    probability: f64,
) -> Candidate {
    let cause: &'static Cause = chain.map_or(&UNEXPLAINED, |chain| chain.root().cause);
    let scene = &stage.scenes[chain.map_or(0, |chain| chain.root().scene)];
    Candidate {
        id: cause.id,
        probability,
        score_db,
        role: chain.map_or("", |chain| chain.root().role.as_str()),
        node: chain.and_then(|chain| chain.root().node.clone()),
        place: place(scene, cause, chain),
        explains: true,
        may_be_at: chain.and_then(|chain| may_be_at(chain.root())),
        chain: chain
            .map_or_else(|| vec![UNEXPLAINED.id], |chain| chain.links.iter().map(|sheet| sheet.cause.id).collect()),
        evidence: chain.map_or_else(|| unclaimed(stage, sheets), weighed),
        remedy: remedy::remedy(stage, scene, &cause.advice, chain),
    }
}

fn place(scene: &Scene<'_>, cause: &Cause, chain: Option<&Chain<'_>>) -> Place {
    let node = scene.node_name.to_owned();
    let root = chain.map(Chain::root);
    // What all show who could is in one place, whoever shows it.
    if scene.side == Side::Shared && can_be_shared(cause) {
        return Place::Shared { thing: root.and_then(thing_of).unwrap_or_else(|| cause.id.to_owned()) };
    }
    let SymptomSubject::Vm { uid, .. } = &scene.symptom.subject else { return Place::Node { node } };
    let of_vm = || Place::Vm { node: node.clone(), uid: uid.clone() };
    let of_node = || if node.is_empty() { of_vm() } else { Place::Node { node: node.clone() } };
    match cause.scope {
        Scope::Node | Scope::Shared => of_node(),
        Scope::Device => match root.and_then(|root| device(scene, root)) {
            Some(device) => Place::Device { node, device },
            None => of_vm(),
        },
        Scope::Vm => of_vm(),
        Scope::Path => match scene.peer_name {
            Some(to) => Place::Path { from: node, to: to.to_owned() },
            None => of_node(),
        },
        Scope::Cluster => Place::Cluster { uid: uid.clone() },
    }
}

const fn can_be_shared(cause: &Cause) -> bool {
    matches!(cause.scope, Scope::Node | Scope::Shared)
}

fn may_be_at(root: &ScoreSheet) -> Option<Place> {
    let thing = if root.may_be_shared && can_be_shared(root.cause) { thing_of(root) } else { None };
    thing.map(|thing| Place::Shared { thing })
}

/// The device that the root's own evidence is about, as `major:minor` where that is known: by number, by the path of the disk, by
/// the kernel's name, or because all disks of the VM lie on one. `None`: it cannot be told.
fn device(scene: &Scene<'_>, root: &ScoreSheet) -> Option<String> {
    let disks = scene.run().map(|run| run.disks.as_slice()).unwrap_or_default();
    let of_line = |attributes: &Attributes| {
        let by_path =
            || disks.iter().find(|disk| attributes.get(key::PATH) == Some(disk.path.as_str()))?.device.clone();
        let by_name = || {
            let name = attributes.get(key::DEVICE_NAME)?;
            let disk = disks.iter().find(|disk| disk.device_name.as_deref() == Some(name));
            Some(disk.and_then(|disk| disk.device.clone()).unwrap_or_else(|| name.to_owned()))
        };
        attributes.get(key::DEVICE).map(ToOwned::to_owned).or_else(by_path).or_else(by_name)
    };
    let mut own_lines = root.lines.iter().filter(|line| line.decibans > 0.0 && line.factor >= Nearness::Own.factor());
    own_lines.find_map(|line| of_line(&line.attributes)).or_else(|| {
        let (first, others) = disks.split_first()?;
        if others.iter().all(|disk| disk.device == first.device) { first.device.clone() } else { None }
    })
}

/// What was seen for and against each link, strongest first. A second sight of one origin is shown and weighs nothing.
fn weighed(chain: &Chain<'_>) -> Vec<WeighedEvidence> {
    let mut evidence: Vec<WeighedEvidence> = Vec::new();
    for sheet in &chain.links {
        for line in &sheet.lines {
            if !line.is_counted && line.decibans < 0.0 {
                continue;
            }
            for (index, seen) in line.seen.iter().enumerate() {
                let weight_db = if line.is_counted && index == 0 { line.decibans } else { 0.0 };
                let is_shown =
                    evidence.iter().any(|shown| shown.text == seen.text && shown.at_wall_usec == seen.at_wall_usec);
                if !is_shown || weight_db != 0.0 {
                    evidence.push(seen.weighed(weight_db, sheet.cause.id));
                }
            }
        }
    }
    evidence.sort_by(|a, b| b.weight_db.abs().total_cmp(&a.weight_db.abs()));
    evidence
}

/// Faults of the subject itself that no cause claims: worth showing where nothing explains it.
fn unclaimed(stage: &Stage<'_>, sheets: &[ScoreSheet]) -> Vec<WeighedEvidence> {
    let claimed: Vec<FindingCode> = sheets
        .iter()
        .flat_map(|sheet| &sheet.lines)
        .filter(|line| line.decibans > 0.0)
        .flat_map(|line| line.clue.look.codes())
        // Texts have one code for all there is: each stands for itself.
        .filter(|code| *code != FindingCode::ErrorSaid)
        .collect();
    let is_unclaimed = |code: FindingCode| code.spec().severity == Severity::Fault && !claimed.contains(&code);
    let mut shown: Vec<WeighedEvidence> = Vec::new();
    for scene in stage.scenes.iter().take(1).chain(stage.scenes.iter().filter(|scene| scene.side == Side::Cluster)) {
        let states = scene
            .states()
            .filter(|sighting| is_unclaimed(sighting.of.code) && sighting.nearness == Nearness::Own)
            .filter(|sighting| sighting.status() == Status::Present)
            .flat_map(|sighting| evidence::seen_of_state(&sighting));
        let from_usec = scene.begin_usec.saturating_sub(scene.settings.occurrence_fresh_usec);
        let occurrences = scene
            .occurrences()
            .filter(|sighting| is_unclaimed(sighting.of.code) && sighting.nearness == Nearness::Own)
            .filter(|sighting| !scene.ages || sighting.of.last.wall_usec >= from_usec)
            .flat_map(|sighting| evidence::seen_of_occurrence(&sighting));
        for seen in states.chain(occurrences) {
            let line = seen.weighed(0.0, UNEXPLAINED.id);
            if shown.len() < MAX_UNCLAIMED && !shown.contains(&line) {
                shown.push(line);
            }
        }
    }
    shown
}
