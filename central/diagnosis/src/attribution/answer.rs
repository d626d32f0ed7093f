//! How the answer is put together: score sheets, chains, probabilities, and everything that is said beside them.
//!
//! All sums run in the order of the catalogue, so that the same snapshot gives the same bits. Probabilities are rounded only
//! where they are printed.

use kulprit_model::{Attributes, FindingCode, Severity, Status, attribute as key};

use super::{Attribution, Candidate, Confidence, WeighedEvidence};
use crate::{
    catalogue::{Cause, Role, Scope, UNEXPLAINED_DB},
    causes::UNEXPLAINED,
    chain::{self, Chain},
    cleared, evidence,
    place::Place,
    remedy,
    scene::{Nearness, Scene},
    score::{self, ScoreSheet},
    snapshot::Snapshot,
    symptom::{Symptom, SymptomSubject},
};

/// Spreads or sharpens probabilities: 10^(score / 10 / T). 1 takes a deciban at its word; to be fitted on cases.
const TEMPERATURE: f64 = 1.0;

/// From here on the first cause is a verdict, and another fault would have been enough by itself.
const VERDICT: f64 = 0.6;

/// From here on the first cause is suspected.
const SUSPECTED: f64 = 0.3;

/// Explains one symptom of one subject. Every input gives an answer: a subject that the snapshot does not know is unexplained.
#[must_use]
pub fn attribute(snapshot: &Snapshot, symptom: &Symptom) -> Attribution {
    let scene = Scene::new(snapshot, symptom);
    let sheets = score::sheets_of(&scene);
    let chains = chain::join(&sheets);
    let first = first_by_score(&chains);

    // `None` is `Unexplained`, which stands before causes of an equal score.
    let mut competitors: Vec<(Option<&Chain<'_>>, f64)> = vec![(None, UNEXPLAINED_DB)];
    let mut contributing = Vec::new();
    for chain in &chains {
        let score_db = chain.score_db();
        let is_first = first.is_some_and(|first| std::ptr::eq(first, chain));
        let alone = probability_alone(score_db);
        let is_enough_alone = !is_first && chain.has_evidence() && alone >= VERDICT;
        if is_enough_alone {
            contributing.push(candidate(&scene, &sheets, Some(chain), score_db, alone));
        }
        // What a node's own symptom is derived from does not compete: each fault is there, and each is its own explanation.
        let is_beside = is_enough_alone && matches!(symptom.subject, SymptomSubject::Node { .. });
        if !is_beside {
            competitors.push((Some(chain), score_db));
        }
    }
    competitors.sort_by(|a, b| b.1.total_cmp(&a.1));
    contributing.sort_by(|a, b| b.score_db.total_cmp(&a.score_db));

    let probabilities = normalise(&competitors.iter().map(|(_, score_db)| *score_db).collect::<Vec<_>>());
    let causes: Vec<Candidate> = competitors
        .iter()
        .zip(probabilities)
        .map(|((chain, score_db), probability)| candidate(&scene, &sheets, *chain, *score_db, probability))
        .collect();
    let confidence = confidence(&causes);
    Attribution {
        symptom: symptom.clone(),
        causes,
        contributing,
        ruled_out: cleared::ruled_out(&scene, &sheets),
        unknown: cleared::unknown(&scene),
        looked_at: cleared::looked_at(&scene),
        confidence,
    }
}

fn first_by_score<'c, 's>(chains: &'c [Chain<'s>]) -> Option<&'c Chain<'s>> {
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

fn normalise(scores_db: &[f64]) -> Vec<f64> {
    let total: f64 = scores_db.iter().map(|score_db| weight(*score_db)).sum();
    scores_db.iter().map(|score_db| weight(*score_db) / total).collect()
}

fn confidence(causes: &[Candidate]) -> Confidence {
    match causes.first() {
        Some(first) if first.id == UNEXPLAINED.id => Confidence::Unexplained,
        Some(first) if first.probability >= VERDICT => Confidence::Verdict,
        Some(first) if first.probability >= SUSPECTED => Confidence::Suspected,
        Some(_) | None => Confidence::Unexplained,
    }
}

fn candidate(
    scene: &Scene<'_>,
    sheets: &[ScoreSheet],
    chain: Option<&Chain<'_>>,
    score_db: f64,
    probability: f64,
) -> Candidate {
    let cause: &'static Cause = chain.map_or(&UNEXPLAINED, |chain| chain.root().cause);
    let role = cause.roles.first().copied().unwrap_or(Role::Hosting);
    let blames_node = chain.is_some() && role != Role::Cluster;
    Candidate {
        id: cause.id,
        probability,
        score_db,
        role: role.as_str(),
        node: blames_node.then(|| scene.node_name.to_owned()),
        place: place(scene, cause, chain),
        chain: chain
            .map_or_else(|| vec![UNEXPLAINED.id], |chain| chain.links.iter().map(|sheet| sheet.cause.id).collect()),
        evidence: chain.map_or_else(|| unclaimed(scene, sheets), weighed),
        remedy: remedy::remedy(scene, &cause.advice, chain),
    }
}

fn place(scene: &Scene<'_>, cause: &Cause, chain: Option<&Chain<'_>>) -> Place {
    let node = scene.node_name.to_owned();
    let SymptomSubject::Vm { uid, .. } = &scene.symptom.subject else { return Place::Node { node } };
    match (cause.scope, chain.and_then(|chain| device(scene, chain.root()))) {
        (Scope::Node, _) => Place::Node { node },
        (Scope::Device, Some(device)) => Place::Device { node, device },
        (Scope::Device, None) | (Scope::Vm | Scope::Path | Scope::Shared | Scope::Cluster, _) => {
            Place::Vm { node, uid: uid.clone() }
        }
    }
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
    let mut own_lines = root.lines.iter().filter(|line| line.decibans > 0.0 && line.factor == Nearness::Own.factor());
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
fn unclaimed(scene: &Scene<'_>, sheets: &[ScoreSheet]) -> Vec<WeighedEvidence> {
    let claimed: Vec<FindingCode> = sheets
        .iter()
        .flat_map(|sheet| &sheet.lines)
        .filter(|line| line.decibans > 0.0)
        .flat_map(|line| line.clue.look.codes())
        .collect();
    let is_unclaimed = |code: FindingCode| code.spec().severity == Severity::Fault && !claimed.contains(&code);
    let states = scene
        .states()
        .filter(|(state, nearness)| is_unclaimed(state.code) && *nearness == Nearness::Own)
        .filter(|(state, _)| scene.status(state) == Status::Present)
        .flat_map(|(state, _)| evidence::seen_of_state(scene, state));
    let from_usec = scene.onset_usec.saturating_sub(scene.settings.occurrence_fresh_usec);
    let occurrences = scene
        .occurrences()
        .filter(|(occurrence, nearness)| is_unclaimed(occurrence.code) && *nearness == Nearness::Own)
        .filter(|(occurrence, _)| occurrence.last.wall_usec >= from_usec)
        .flat_map(|(occurrence, _)| evidence::seen_of_occurrence(scene, occurrence));
    states.chain(occurrences).map(|seen| seen.weighed(0.0, UNEXPLAINED.id)).collect()
}
