//! What a verdict says beside its causes: what was ruled out, what could not be seen, what was looked at and is well.
//!
//! Silence is never read as health: only a look that saw "absent" is said to be well, and each blind spot is named once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use kulprit_model::{
    FindingCode, Severity, State, Status, Subject,
    catalogue::{Kind, ONLY_RECORDED},
};

use crate::{
    attribution::RuledOut,
    catalogue::{CAUSES, Cause},
    evidence::Seen,
    scene::{Scene, Sighting},
    score::ScoreSheet,
    stage::Stage,
    symptom::SymptomId,
    words,
};

/// From here on the looks against a cause rule it out, decibans.
const RULED_OUT_DB: f64 = -10.0;

/// So many reasons are given why states of one probe are not known.
const MAX_REASONS: usize = 3;

/// Of so many nodes on which a VM could be, the blind spots and looks are listed.
const MAX_HOSTS: usize = 4;

/// States that cannot be looked at while another one is present, each with those: they are not a blind spot, there is nothing to see.
const MOOT: &[(FindingCode, &[FindingCode])] = &[
    (FindingCode::KubeletHealthzFailing, &[FindingCode::KubeletInactive, FindingCode::KubeletNotInstalled]),
    (FindingCode::KubeletProcessStalled, &[FindingCode::KubeletInactive, FindingCode::KubeletNotInstalled]),
    (FindingCode::KvmDeviceInaccessible, &[FindingCode::KvmDeviceMissing]),
    (FindingCode::KvmUnusable, &[FindingCode::KvmDeviceMissing, FindingCode::KvmDeviceInaccessible]),
    (FindingCode::LibvirtUnresponsive, &[FindingCode::LibvirtUnreachable, FindingCode::LibvirtNotInstalled]),
];

/// The causes that usually, possibly or rarely explain the symptom, and that positive looks speak against.
pub(crate) fn ruled_out(stage: &Stage<'_>, sheets: &[ScoreSheet]) -> Vec<RuledOut> {
    sheets
        .iter()
        .filter(|sheet| is_listed(stage.symptom.id, sheet.cause) && sheet.own_db() <= RULED_OUT_DB)
        .filter_map(|sheet| {
            let worst =
                sheet.lines.iter().filter(|line| line.is_counted).min_by(|a, b| a.decibans.total_cmp(&b.decibans))?;
            let why = match worst.seen.first() {
                Some(seen) if seen.text.starts_with(worst.clue.text) => format!("{}{}", of_node(seen), seen.text),
                Some(seen) => format!("{}{} ({}: {})", of_node(seen), worst.clue.text, seen.source, seen.text),
                None => worst.clue.text.to_owned(),
            };
            Some(RuledOut { id: sheet.cause.id, why })
        })
        .collect()
}

fn of_node(seen: &Seen) -> String {
    if seen.node.is_empty() { String::new() } else { format!("{}: ", seen.node) }
}

/// Something that nobody could look at.
pub(crate) struct BlindSpot<'a> {
    /// The node; empty for what is on none.
    pub(crate) node: &'a str,
    /// The probe that would have looked; `None`: all of the node.
    pub(crate) probe: Option<&'static str>,
    /// One sentence.
    pub(crate) sentence: String,
}

/// What could not be seen of this subject, one sentence each, without repetition.
pub(crate) fn unknown(stage: &Stage<'_>) -> Vec<String> {
    let mut said = BTreeSet::new();
    let mut sentences: Vec<String> = blind_spots(stage).into_iter().map(|spot| spot.sentence).collect();
    let hosts = stage.hosts();
    for scene in &hosts {
        let cannot_show = scene.node.map(|node| node.cannot_show.as_slice()).unwrap_or_default();
        let mut cannot_show: Vec<_> = cannot_show.iter().map(|text| format!("{}: {text}", scene.node_name)).collect();
        cannot_show.sort();
        sentences.extend(cannot_show);
    }
    sentences.retain(|sentence| said.insert(sentence.clone()));
    sentences
}

/// Where nobody could look, by place.
pub(crate) fn blind_spots<'a>(stage: &Stage<'a>) -> Vec<BlindSpot<'a>> {
    let mut spots = Vec::new();
    if let Some(vm) = stage.cluster_vm
        && !vm.life.has_vm
        && !vm.life.has_vmi
    {
        let is_watched = stage.snapshot.cluster_sight.is_watched;
        let sentence =
            if is_watched { "the VM's objects: Kubernetes has none" } else { "the VM's objects: nothing recorded" };
        spots.push(BlindSpot { node: "", probe: Some("cluster"), sentence: sentence.to_owned() });
    }
    if stage.cluster_vm.is_some() {
        let unseen = stage.snapshot.cluster_sight.unseen.iter();
        spots.extend(unseen.map(|sentence| BlindSpot { node: "", probe: Some("cluster"), sentence: sentence.clone() }));
    }
    let hosts = stage.hosts();
    if hosts.is_empty() && stage.cluster_vm.is_some() {
        spots.push(BlindSpot { node: "", probe: None, sentence: "the VM's node is not known".to_owned() });
    }
    for scene in hosts.iter().take(MAX_HOSTS) {
        spots.extend(unknown_to_kubernetes(stage, scene));
        of_host(scene, &mut spots);
    }
    if hosts.len() > MAX_HOSTS {
        let n = hosts.len() - MAX_HOSTS;
        let sentence = format!("{n} more nodes on which the VM could be are not listed");
        spots.push(BlindSpot { node: "", probe: None, sentence });
    }
    spots
}

/// An agent reports from a node that Kubernetes does not have: what objects say of its host stands under another name, or nowhere.
fn unknown_to_kubernetes<'a>(stage: &Stage<'a>, scene: &Scene<'a>) -> Option<BlindSpot<'a>> {
    let (snapshot, node) = (stage.snapshot, scene.node_name);
    let is_listed = snapshot.cluster_sight.is_watched && !snapshot.cluster_nodes.is_empty();
    let is_unknown = is_listed && scene.node.is_some() && snapshot.cluster_nodes_named(node).is_empty();
    is_unknown.then(|| BlindSpot {
        node: "",
        probe: Some("cluster"),
        sentence: format!(
            "{node}: Kubernetes has no node of this name, so nothing that it knows of this host is seen here"
        ),
    })
}

fn of_host<'a>(scene: &Scene<'a>, spots: &mut Vec<BlindSpot<'a>>) {
    let name = scene.node_name;
    let mut push = |probe, sentence| spots.push(BlindSpot { node: name, probe, sentence });
    let Some(node) = scene.node else {
        return push(
            None,
            if scene.is_recorded {
                format!("host {name}: nothing recorded")
            } else {
                format!("{name}: no agent of this node has ever reported")
            },
        );
    };
    if !node.is_reporting {
        return push(
            None,
            match node.last_heard_wall_usec {
                Some(heard) => format!(
                    "{name}: its agent was last heard {} ago; nothing on the node could be looked at since",
                    words::duration(scene.now_usec.saturating_sub(heard))
                ),
                None => format!("{name}: its agent has not been heard since central started"),
            },
        );
    }
    let mut minor = Vec::new();
    for (probe, codes) in relevant_codes(scene) {
        if scene.is_recorded && is_never_looked_at(scene, probe, codes) {
            if scene.is_qemu_gone() && matches!(probe, "qemu" | "launcher" | "migration") {
                continue;
            }
            match words::recorded_subject(probe) {
                Some(what) => push(Some(probe), format!("{what} on {name}: nothing recorded")),
                None => minor.push(words::probe_subject(probe)),
            }
            continue;
        }
        for sentence in sentences_of_probe(scene, probe, codes) {
            push(Some(probe), sentence);
        }
    }
    if !minor.is_empty() {
        push(None, format!("{name}: nothing recorded of {}", minor.join(", ")));
    }
}

/// Whether there is neither a state of the probe nor a word of its own whether it looks.
fn is_never_looked_at(scene: &Scene<'_>, probe: &'static str, codes: &BTreeSet<FindingCode>) -> bool {
    scene.blindness(probe).is_none()
        && !scene.states().any(|sighting| codes.contains(&sighting.of.code) && sighting.node == scene.node_name)
        && !scene.occurrences().any(|sighting| codes.contains(&sighting.of.code) && sighting.node == scene.node_name)
}

/// What was looked at and is well, one sentence per probe and node.
pub(crate) fn looked_at(stage: &Stage<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    for scene in stage.hosts().into_iter().take(MAX_HOSTS).filter(|scene| scene.is_reporting()) {
        let mut well: BTreeMap<Well, Vec<&str>> = BTreeMap::new();
        let mut others = Vec::new();
        for (probe, codes) in relevant_codes(scene) {
            let what = words::probe_subject(probe);
            let has_states = codes.iter().any(|code| code.spec().kind == Kind::State);
            match probe {
                "qemu" if scene.is_qemu_gone() => {
                    others.push(format!("{}: {what} looked at, and this VM has none", scene.node_name));
                }
                "kernel-log" | "text" => others.extend(well_by_log(scene, probe, codes)),
                _ if has_states => {
                    if let Some(seen) = well_by_states(scene, codes) {
                        well.entry(seen).or_default().push(what);
                    }
                }
                _ => {}
            }
        }
        sentences.extend(well.iter().map(|(seen, what)| seen.sentence(scene.node_name, what)));
        sentences.append(&mut others);
    }
    sentences
}

/// When something was looked at, and since when it is well. What agrees in this is said in one sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Well {
    since_wall_usec: i64,
    looked_wall_usec: i64,
    is_partly_unknown: bool,
}

impl Well {
    fn sentence(&self, node: &str, what: &[&str]) -> String {
        let all = if self.is_partly_unknown { "what could be seen is" } else { "all" };
        let (what, looked) = (what.join(", "), words::time(self.looked_wall_usec));
        format!("{node}: {what} looked at {looked}, {all} well since {}", words::time(self.since_wall_usec))
    }
}

/// The findings that the causes of each symptom read, by probe.
static READ: LazyLock<BTreeMap<SymptomId, BTreeMap<&'static str, BTreeSet<FindingCode>>>> = LazyLock::new(|| {
    let by_probe = |id: SymptomId| {
        let mut by_probe: BTreeMap<&'static str, BTreeSet<FindingCode>> = BTreeMap::new();
        for cause in CAUSES.iter().filter(|cause| is_listed(id, cause)) {
            for code in cause.clues.iter().flat_map(|clue| clue.look.codes()) {
                by_probe.entry(code.spec().probe).or_default().insert(code);
            }
        }
        by_probe
    };
    SymptomId::ALL.iter().map(|id| (*id, by_probe(*id))).collect()
});

/// Those of this symptom that a host can show. A kubelet has no say in a VM that libvirt alone runs, and no agent looks yet for what only
/// recorded cases have.
fn relevant_codes(scene: &Scene<'_>) -> impl Iterator<Item = (&'static str, &'static BTreeSet<FindingCode>)> {
    let (is_standalone, is_recorded) = (scene.is_standalone_vm, scene.is_recorded);
    let of_symptom = READ.get(&scene.symptom.id).into_iter().flatten();
    of_symptom.map(|(probe, codes)| (*probe, codes)).filter(move |(probe, _)| match *probe {
        "cluster" | "agent" => false,
        "kubelet" if is_standalone => false,
        probe => is_recorded || !ONLY_RECORDED.contains(&probe),
    })
}

fn is_listed(id: SymptomId, cause: &Cause) -> bool {
    cause.usual.contains(&id) || cause.possible.contains(&id) || cause.rare.contains(&id)
}

/// What its node says of these; what Kubernetes' objects say is no look at the host.
fn near_states<'a>(scene: &Scene<'a>, codes: &BTreeSet<FindingCode>) -> Vec<Sighting<'a, State>> {
    scene.states().filter(|sighting| codes.contains(&sighting.of.code) && sighting.node == scene.node_name).collect()
}

/// Whether a state is not known only because another one makes it meaningless: of the same unit or daemon, or of the node.
fn is_moot(scene: &Scene<'_>, state: &Sighting<'_, State>) -> bool {
    let Some((_, others)) = MOOT.iter().find(|(code, _)| *code == state.of.code) else { return false };
    let is_reason = |other: &Sighting<'_, State>| {
        others.contains(&other.of.code)
            && (other.of.subject == state.of.subject || other.of.subject == Subject::Node)
            && other.status() == Status::Present
    };
    state.status() == Status::Unknown && scene.states().any(|other| is_reason(&other))
}

fn sentences_of_probe(scene: &Scene<'_>, probe: &'static str, codes: &BTreeSet<FindingCode>) -> Vec<String> {
    let (name, what) = (scene.node_name, words::probe_subject(probe));
    let mut states = near_states(scene, codes);
    states.retain(|state| !is_moot(scene, state));
    let is_blind = states.iter().all(|state| state.status() == Status::Unknown);
    let mut sentences: Vec<String> = not_known(&states, is_blind)
        .map(|(n_states, because)| match n_states {
            _ if is_blind => format!("{name}: {what} could not be looked at: {because}"),
            1 => format!("{name}: {because}"),
            n_states => format!("{name}: {what}: {n_states} states not known: {because}"),
        })
        .into_iter()
        .collect();
    let blindness = scene.blindness(probe);
    if let Some(blindness) = blindness
        && blindness.status() != Status::Absent
        && sentences.is_empty()
    {
        let because = blindness
            .of
            .unknown_because
            .clone()
            .or_else(|| blindness.of.evidence.first().map(|line| line.text.clone()))
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

/// How many kinds of states are not known, and why: each reason once, with the states that it is of unless all are.
fn not_known(states: &[Sighting<'_, State>], is_blind: bool) -> Option<(usize, String)> {
    let mut by_reason: Vec<(&str, BTreeSet<FindingCode>)> = Vec::new();
    for state in states.iter().filter(|state| state.status() == Status::Unknown) {
        let because = state.of.unknown_because.as_deref().unwrap_or("no reason was given");
        match by_reason.iter_mut().find(|(known, _)| *known == because) {
            Some((_, codes)) => {
                codes.insert(state.of.code);
            }
            None => by_reason.push((because, BTreeSet::from([state.of.code]))),
        }
    }
    let n_states = by_reason.iter().flat_map(|(_, codes)| codes).collect::<BTreeSet<_>>().len();
    let n_cut = by_reason.len().saturating_sub(MAX_REASONS);
    let mut reasons: Vec<String> = by_reason
        .into_iter()
        .take(MAX_REASONS)
        .map(|(because, codes)| match codes.into_iter().map(FindingCode::as_str).collect::<Vec<_>>().join(", ") {
            _ if is_blind => because.to_owned(),
            codes if n_states == 1 => format!("{codes} is not known: {because}"),
            codes => format!("{because} ({codes})"),
        })
        .collect();
    if n_cut > 0 {
        reasons.push(format!("and {n_cut} more reasons"));
    }
    (n_states > 0).then(|| (n_states, reasons.join("; ")))
}

fn well_by_states(scene: &Scene<'_>, codes: &BTreeSet<FindingCode>) -> Option<Well> {
    let states = near_states(scene, codes);
    let is_fault = |state: &Sighting<'_, State>| state.of.code.spec().severity == Severity::Fault;
    let is_ill = states.iter().any(|state| state.status() == Status::Present && is_fault(state));
    let well: Vec<_> = states.iter().filter(|state| state.status() == Status::Absent && is_fault(state)).collect();
    if is_ill {
        return None;
    }
    Some(Well {
        since_wall_usec: well.iter().map(|state| state.of.since.wall_usec).max()?,
        looked_wall_usec: well.iter().map(|state| state.of.looked.wall_usec).max()?,
        is_partly_unknown: states.iter().any(|state| state.status() == Status::Unknown),
    })
}

fn well_by_log(scene: &Scene<'_>, probe: &'static str, codes: &BTreeSet<FindingCode>) -> Option<String> {
    let window = scene.settings.occurrence_fresh_usec;
    let has_line = scene.occurrences().any(|sighting| {
        codes.contains(&sighting.of.code)
            && sighting.node == scene.node_name
            && sighting.of.last.wall_usec >= scene.onset_usec.saturating_sub(window)
            && sighting.of.first.wall_usec <= scene.onset_usec.saturating_add(window)
    });
    let is_clean = scene.was_watched_at_onset(probe) && !has_line;
    let (name, what) = (scene.node_name, words::probe_subject(probe));
    is_clean.then(|| format!("{name}: {what} was read before and after the onset, and has nothing of this"))
}
