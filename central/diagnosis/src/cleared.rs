//! What a verdict says beside its causes: what was ruled out, what could not be seen, what was looked at and is well.
//!
//! Silence is never read as health: only a look that saw "absent" is said to be well, and each blind spot is named once.

use std::collections::{BTreeMap, BTreeSet};

use kulprit_model::{FindingCode, Severity, State, Status, Subject, catalogue::Kind};

use crate::{
    attribution::RuledOut,
    catalogue::{CAUSES, Cause},
    scene::Scene,
    score::ScoreSheet,
    words,
};

/// From here on the looks against a cause rule it out, decibans.
const RULED_OUT_DB: f64 = -10.0;

/// States that cannot be looked at while another one is present, each with those: they are not a blind spot, there is nothing to see.
const MOOT: &[(FindingCode, &[FindingCode])] = &[
    (FindingCode::KubeletHealthzFailing, &[FindingCode::KubeletInactive, FindingCode::KubeletNotInstalled]),
    (FindingCode::KubeletProcessStalled, &[FindingCode::KubeletInactive, FindingCode::KubeletNotInstalled]),
    (FindingCode::KvmDeviceInaccessible, &[FindingCode::KvmDeviceMissing]),
    (FindingCode::KvmUnusable, &[FindingCode::KvmDeviceMissing, FindingCode::KvmDeviceInaccessible]),
    (FindingCode::LibvirtUnresponsive, &[FindingCode::LibvirtUnreachable, FindingCode::LibvirtNotInstalled]),
];

/// The causes that usually, possibly or rarely explain the symptom, and that positive looks speak against.
pub(crate) fn ruled_out(scene: &Scene<'_>, sheets: &[ScoreSheet]) -> Vec<RuledOut> {
    sheets
        .iter()
        .filter(|sheet| is_listed(scene, sheet.cause) && sheet.own_db() <= RULED_OUT_DB)
        .filter_map(|sheet| {
            let worst =
                sheet.lines.iter().filter(|line| line.is_counted).min_by(|a, b| a.decibans.total_cmp(&b.decibans))?;
            let why = match worst.seen.first() {
                Some(seen) if seen.text.starts_with(worst.clue.text) => format!("{}: {}", seen.node, seen.text),
                Some(seen) => format!("{}: {} ({}: {})", seen.node, worst.clue.text, seen.source, seen.text),
                None => worst.clue.text.to_owned(),
            };
            Some(RuledOut { id: sheet.cause.id, why })
        })
        .collect()
}

/// What could not be seen of this subject, one sentence each, without repetition.
pub(crate) fn unknown(scene: &Scene<'_>) -> Vec<String> {
    let name = scene.node_name;
    let Some(node) = scene.node else { return vec![format!("{name}: no agent of this node has ever reported")] };
    let mut sentences = Vec::new();
    if !node.is_reporting {
        sentences.push(match node.last_heard_wall_usec {
            Some(heard) => format!(
                "{name}: its agent was last heard {} ago; nothing on the node could be looked at since",
                words::duration(scene.now_usec.saturating_sub(heard))
            ),
            None => format!("{name}: its agent has not been heard since central started"),
        });
    } else {
        for (probe, codes) in relevant_codes(scene) {
            sentences.extend(blind_spots(scene, probe, &codes));
        }
    }
    let mut cannot_show: Vec<_> = node.cannot_show.iter().map(|sentence| format!("{name}: {sentence}")).collect();
    cannot_show.sort();
    sentences.extend(cannot_show);
    let mut said = BTreeSet::new();
    sentences.retain(|sentence| said.insert(sentence.clone()));
    sentences
}

/// What was looked at and is well, one sentence per probe.
pub(crate) fn looked_at(scene: &Scene<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    if !scene.is_reporting() {
        return sentences;
    }
    for (probe, codes) in relevant_codes(scene) {
        let has_states = codes.iter().any(|code| code.spec().kind == Kind::State);
        sentences.extend(match probe {
            "qemu" if scene.is_qemu_gone() => {
                Some(format!("{}: {} looked at, and this VM has none", scene.node_name, words::probe_subject(probe)))
            }
            "kernel-log" => well_by_log(scene, probe, &codes),
            _ if has_states => well_by_states(scene, probe, &codes),
            _ => None,
        });
    }
    sentences
}

/// The findings that the causes of this symptom read, by probe. A kubelet has no say in a VM that libvirt alone runs.
fn relevant_codes(scene: &Scene<'_>) -> BTreeMap<&'static str, BTreeSet<FindingCode>> {
    let mut by_probe: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for cause in CAUSES.iter().filter(|cause| is_listed(scene, cause)) {
        for code in cause.clues.iter().flat_map(|clue| clue.look.codes()) {
            by_probe.entry(code.spec().probe).or_default().insert(code);
        }
    }
    if scene.is_standalone_vm() {
        by_probe.remove("kubelet");
    }
    by_probe
}

fn is_listed(scene: &Scene<'_>, cause: &Cause) -> bool {
    let id = scene.symptom.id;
    cause.usual.contains(&id) || cause.possible.contains(&id) || cause.rare.contains(&id)
}

fn near_states<'a>(scene: &Scene<'a>, codes: &BTreeSet<FindingCode>) -> Vec<&'a State> {
    scene.states().map(|(state, _)| state).filter(|state| codes.contains(&state.code)).collect()
}

/// Whether a state is not known only because another one makes it meaningless: of the same unit or daemon, or of the node.
fn is_moot(scene: &Scene<'_>, state: &State) -> bool {
    let Some((_, others)) = MOOT.iter().find(|(code, _)| *code == state.code) else { return false };
    let is_reason = |other: &State| {
        others.contains(&other.code)
            && (other.subject == state.subject || other.subject == Subject::Node)
            && scene.status(other) == Status::Present
    };
    scene.status(state) == Status::Unknown && scene.states().any(|(other, _)| is_reason(other))
}

fn blind_spots(scene: &Scene<'_>, probe: &'static str, codes: &BTreeSet<FindingCode>) -> Vec<String> {
    let (name, what) = (scene.node_name, words::probe_subject(probe));
    let mut states = near_states(scene, codes);
    states.retain(|state| !is_moot(scene, state));
    let is_blind = states.iter().all(|state| scene.status(state) == Status::Unknown);
    let mut sentences: Vec<String> = states
        .iter()
        .filter(|state| scene.status(state) == Status::Unknown)
        .map(|state| {
            let because = state.unknown_because.as_deref().unwrap_or("no reason was given");
            if is_blind {
                format!("{name}: {what} could not be looked at: {because}")
            } else {
                format!("{name}: {} is not known: {because}", state.code)
            }
        })
        .collect();
    let blindness = scene.blindness(probe);
    if let Some(blindness) = blindness
        && scene.status(blindness) != Status::Absent
        && sentences.is_empty()
    {
        let because = blindness
            .unknown_because
            .clone()
            .or_else(|| blindness.evidence.first().map(|line| line.text.clone()))
            .unwrap_or_else(|| "no reason was given".to_owned());
        sentences.push(format!("{name}: {what} could not be looked at: {because}"));
    }
    let has_state_codes = codes.iter().any(|code| code.spec().kind == Kind::State);
    if sentences.is_empty() && blindness.is_none() && (states.is_empty() || !has_state_codes) {
        let is_about_a_vm_that_has_none = has_state_codes && scene.is_qemu_gone();
        if !is_about_a_vm_that_has_none {
            sentences.push(format!("{name}: {what} was not looked at"));
        }
    } else if sentences.is_empty() && !has_state_codes && !scene.was_watched_at_onset(probe) {
        sentences.push(match scene.probe_looks_since(probe) {
            Some(since) if since > scene.onset_usec => {
                format!("{name}: {what} has been read only since {}, after the onset", words::time(since))
            }
            Some(_) | None => format!("{name}: lines of {what} from around the onset were lost"),
        });
    }
    sentences
}

fn well_by_states(scene: &Scene<'_>, probe: &'static str, codes: &BTreeSet<FindingCode>) -> Option<String> {
    let (name, what) = (scene.node_name, words::probe_subject(probe));

    let states = near_states(scene, codes);
    let is_ill = states
        .iter()
        .any(|state| scene.status(state) == Status::Present && state.code.spec().severity == Severity::Fault);
    let well: Vec<_> = states
        .iter()
        .filter(|state| scene.status(state) == Status::Absent && state.code.spec().severity == Severity::Fault)
        .collect();
    if is_ill {
        return None;
    }
    let since = well.iter().map(|state| state.since.wall_usec).max()?;
    let looked = well.iter().map(|state| state.looked.wall_usec).max()?;
    let is_partly_unknown = states.iter().any(|state| scene.status(state) == Status::Unknown);
    let all = if is_partly_unknown { "what could be seen is" } else { "all" };
    Some(format!("{name}: {what} looked at {}, {all} well since {}", words::time(looked), words::time(since)))
}

fn well_by_log(scene: &Scene<'_>, probe: &'static str, codes: &BTreeSet<FindingCode>) -> Option<String> {
    let window = scene.settings.occurrence_fresh_usec;
    let has_line = scene.occurrences().any(|(occurrence, _)| {
        codes.contains(&occurrence.code)
            && occurrence.last.wall_usec >= scene.onset_usec.saturating_sub(window)
            && occurrence.first.wall_usec <= scene.onset_usec.saturating_add(window)
    });
    let is_clean = scene.was_watched_at_onset(probe) && !has_line;
    let (name, what) = (scene.node_name, words::probe_subject(probe));
    is_clean.then(|| format!("{name}: {what} was read before and after the onset, and has nothing of this"))
}
