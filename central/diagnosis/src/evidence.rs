//! From a clue to what was really seen of it: the hits, each with how near and how fresh it is.
//!
//! `Unknown` gives no hit, neither for nor against. Whether an absence counts is decided here too: a state that became absent
//! after a lasting symptom began says nothing, and a log without a line says something only if it was read at the onset.

use kulprit_model::{
    Attributes, Evidence, FindingCode, Occurrence, Side, State, Status, Subject, attribute,
    said::{actor, operation},
};

use crate::{
    attribution::WeighedEvidence,
    catalogue::{Fact, Look, VmFact},
    leftover, libvirt,
    scene::{Nearness, SAME_MOMENT_USEC, Scene, Sighting},
    stage::Stage,
    symptom::{SymptomId, SymptomSubject},
    thing::are_two_things,
    words,
};

/// An occurrence loses half of its weight every 15 min beyond the fresh window before the onset.
const HALF_LIFE_USEC: f64 = 900_000_000.0;

/// The same for a VM that does not go: what holds it may have begun long before anybody asked it to go.
const HALF_LIFE_OF_LEAVING_USEC: f64 = 7_200_000_000.0;

/// What began after the symptom can worsen but not start it.
const AFTER_ONSET: f64 = 0.3;

/// What libvirt or QEMU said of a migration before this one began is of another.
const OF_ANOTHER_MIGRATION: f64 = 0.1;

/// What was said this long before a node's fault began was of something else: whoever is kept from his work says so again and again.
const SAID_AGAIN_USEC: i64 = 60_000_000;
const OF_SOMETHING_BEFORE: f64 = 0.1;

/// At most this many lines of one finding are shown.
const MAX_LINES: usize = 3;

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Where it comes from (`systemd`, `kmsg`, …).
    pub source: String,
    /// Node that saw it.
    pub node: String,
    /// When, Unix time in microseconds.
    pub at_wall_usec: i64,
    /// What was seen.
    pub text: String,
}

impl Seen {
    /// The same with what it weighs, and for which cause.
    pub(crate) fn weighed(&self, weight_db: f64, cause: &'static str) -> WeighedEvidence {
        let Self { source, node, at_wall_usec, text } = self.clone();
        WeighedEvidence { source, node, at_wall_usec, text, weight_db, cause }
    }
}

/// One way in which a clue is fulfilled.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    /// Subject factor, 0..=1.
    pub(crate) factor: f64,
    /// 0..=1.
    pub(crate) freshness: f64,
    pub(crate) times: Times,
    pub(crate) seen: Vec<Seen>,
    /// Facts for the remedy and the place.
    pub(crate) attributes: Attributes,
    /// The unit, if the finding is about one.
    pub(crate) unit: Option<String>,
}

impl Hit {
    /// Of something that has no time of its own.
    fn untimed(factor: f64, seen: Seen) -> Self {
        let seen = vec![seen];
        Self { factor, freshness: 1.0, times: Times::OPEN, seen, attributes: Attributes::new(), unit: None }
    }
}

/// From when to when something was so, Unix time in microseconds. Open at the sides that are not known: what lasts has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) began_usec: i64,
    pub(crate) ended_usec: i64,
}

impl Times {
    /// Nothing is known of them.
    pub(crate) const OPEN: Self = Self { began_usec: i64::MIN, ended_usec: i64::MAX };

    /// From the first begin to the last end.
    pub(crate) fn join(self, other: Self) -> Self {
        Self { began_usec: self.began_usec.min(other.began_usec), ended_usec: self.ended_usec.max(other.ended_usec) }
    }

    fn of_state(state: &State) -> Self {
        Self { began_usec: state.since.wall_usec, ..Self::OPEN }
    }

    fn of_occurrence(occurrence: &Occurrence) -> Self {
        if occurrence.attributes.get(attribute::UNDATED).is_some() {
            return Self::OPEN;
        }
        Self { began_usec: began_usec(occurrence), ended_usec: occurrence.last.wall_usec }
    }
}

/// When what an occurrence tells of began: the kernel speaks of a hung task minutes after it began to hang.
fn began_usec(occurrence: &Occurrence) -> i64 {
    let blocked_secs = occurrence.attributes.number(attribute::BLOCKED_SECS).unwrap_or(0).max(0);
    occurrence.first.wall_usec.saturating_sub(blocked_secs.saturating_mul(1_000_000))
}

/// Every way in which a clue is fulfilled, in the order of the scene; empty if it is not.
pub(crate) fn hits<'a>(stage: &Stage<'a>, scene: &Scene<'a>, look: &Look, text: &str) -> Vec<Hit> {
    match look {
        Look::Present(code, facts) => present(scene, *code, facts),
        Look::Absent(code) => absent(scene, *code, text).into_iter().collect(),
        Look::Happened(code, facts) => happened(scene, *code, facts),
        Look::NotHappened(code) => not_happened(scene, *code, text).into_iter().collect(),
        Look::Vm(fact) => vm(stage, scene, *fact, text).into_iter().collect(),
        Look::Elsewhere(look) => {
            let compared = stage.snapshot.compared(look);
            let others = stage.elsewhere(scene, &compared, &compared.fulfilling);
            others.filter_map(|other| strongest(hits(stage, &other, look, text))).collect()
        }
        Look::WellElsewhere(look) => {
            let compared = stage.snapshot.compared(look);
            let mut others = stage.elsewhere(scene, &compared, &compared.nodes);
            others.find_map(|other| well(&other, look, text)).into_iter().collect()
        }
        Look::All(looks) => all(stage, scene, looks, text).into_iter().collect(),
    }
}

/// Whether a look asks of other nodes.
pub(crate) fn asks_elsewhere(look: &Look) -> bool {
    match look {
        Look::Elsewhere(_) | Look::WellElsewhere(_) => true,
        Look::All(looks) => looks.iter().any(asks_elsewhere),
        Look::Present(..) | Look::Absent(_) | Look::Happened(..) | Look::NotHappened(_) | Look::Vm(_) => false,
    }
}

fn present(scene: &Scene<'_>, code: FindingCode, facts: &[Fact]) -> Vec<Hit> {
    let mut hits = Vec::new();
    for sighting in scene.states_of(code) {
        let state = sighting.of;
        if sighting.status() != Status::Present || !fits(facts, &state.attributes, sighting.nearness) {
            continue;
        }
        let is_later = scene.has_onset()
            && scene.is_moment()
            && state.attributes.get(attribute::FIRST_LOOK).is_none()
            && state.since.wall_usec > scene.onset_usec.saturating_add(SAME_MOMENT_USEC);
        hits.push(Hit {
            factor: sighting.factor,
            freshness: if is_later { AFTER_ONSET } else { 1.0 },
            times: Times::of_state(state),
            seen: seen_of_state(sighting),
            attributes: state.attributes.clone(),
            unit: unit_of(&state.subject),
        });
    }
    hits
}

/// Fulfilled if the state was looked for at every near subject it has, and is at none; as old as the latest of them.
fn absent(scene: &Scene<'_>, code: FindingCode, text: &str) -> Option<Hit> {
    let mut factor: Option<f64> = None;
    let (mut since, mut looked) = (i64::MIN, i64::MAX);
    let mut unit = None;
    let mut node = "";
    for sighting in scene.states_of(code) {
        if sighting.status() != Status::Absent {
            return None;
        }
        let state = sighting.of;
        since = since.max(state.since.wall_usec);
        looked = looked.min(state.looked.wall_usec);
        unit = unit.or_else(|| unit_of(&state.subject));
        if factor.is_none_or(|nearest| sighting.factor > nearest) {
            factor = Some(sighting.factor);
            node = sighting.node;
        }
    }
    let factor = factor?;
    let is_since_onset = since <= scene.onset_usec.saturating_add(SAME_MOMENT_USEC);
    if !is_since_onset && !scene.is_ongoing() {
        return None;
    }
    let seen = Seen {
        source: words::probe_source(code.spec().probe).to_owned(),
        node: node.to_owned(),
        at_wall_usec: looked,
        text: format!("{text} (so since {})", words::time(since)),
    };
    let times = Times { began_usec: since, ..Times::OPEN };
    Some(Hit { factor, freshness: 1.0, times, seen: vec![seen], attributes: Attributes::new(), unit })
}

fn happened(scene: &Scene<'_>, code: FindingCode, facts: &[Fact]) -> Vec<Hit> {
    let mut hits = Vec::new();
    for sighting in scene.occurrences().filter(|sighting| sighting.of.code == code) {
        let occurrence = sighting.of;
        if !fits(facts, &occurrence.attributes, sighting.nearness) {
            continue;
        }
        hits.push(Hit {
            factor: sighting.factor,
            freshness: freshness(scene, occurrence),
            times: Times::of_occurrence(occurrence),
            seen: seen_of_occurrence(&sighting),
            attributes: occurrence.attributes.clone(),
            unit: unit_of(&occurrence.subject),
        });
    }
    hits
}

/// Fulfilled if nothing near of that code happened around the onset, and whoever would know was looking.
fn not_happened(scene: &Scene<'_>, code: FindingCode, text: &str) -> Option<Hit> {
    let probe = code.spec().probe;
    // Another's is none; what is the whole node's may be this VM's too.
    let is_near = |sighting: &Sighting<'_, Occurrence>| {
        sighting.nearness == Nearness::Own || sighting.of.subject == Subject::Node
    };
    let was_seen = scene
        .occurrences()
        .any(|sighting| sighting.of.code == code && is_near(&sighting) && freshness(scene, sighting.of) > 0.5);
    let is_known = scene.vm.is_some() || scene.cluster_vm.is_some();
    if was_seen || !is_known || !scene.would_show(code) {
        return None;
    }
    let seen = Seen {
        source: words::probe_source(probe).to_owned(),
        node: scene.node_name.to_owned(),
        at_wall_usec: scene.now_usec,
        text: text.to_owned(),
    };
    Some(Hit::untimed(1.0, seen))
}

/// Whether what `look` asks for is not so in a scene of another node, and was looked for there.
fn well(scene: &Scene<'_>, look: &Look, text: &str) -> Option<Hit> {
    match look {
        Look::Present(code, facts) => {
            if !present(scene, *code, facts).is_empty() {
                return None;
            }
            absent(scene, *code, text)
        }
        Look::Happened(code, facts) => {
            let is_so = happened(scene, *code, facts).iter().any(|hit| hit.freshness > 0.5);
            let probe = code.spec().probe;
            if is_so || !scene.would_show(*code) {
                return None;
            }
            let seen = Seen {
                source: words::probe_source(probe).to_owned(),
                node: scene.node_name.to_owned(),
                at_wall_usec: scene.now_usec,
                text: text.to_owned(),
            };
            Some(Hit::untimed(Nearness::OfNode.factor(), seen))
        }
        Look::Absent(code) => strongest(present(scene, *code, &[])),
        Look::All(looks) => looks.iter().find_map(|look| well(scene, look, text)),
        Look::NotHappened(_) | Look::Vm(_) | Look::Elsewhere(_) | Look::WellElsewhere(_) => None,
    }
}

fn vm(stage: &Stage<'_>, scene: &Scene<'_>, fact: VmFact, text: &str) -> Option<Hit> {
    let vm = scene.vm;
    let (is_so, source, text) = match fact {
        VmFact::QemuLives => {
            let is_blind = scene.blindness("qemu").is_some_and(|blindness| blindness.status() != Status::Absent);
            let qemu = vm.and_then(|vm| vm.qemu.as_ref());
            let pid = qemu.map_or(0, |qemu| qemu.pid);
            (scene.is_reporting() && qemu.is_some() && !is_blind, "procfs", format!("{text} (pid {pid})"))
        }
        VmFact::HostNotSeen => (scene.symptom.subject.is_vm() && scene.is_host_unseen(), "kulprit", text.to_owned()),
        VmFact::TwoQemus | VmFact::PausedByPastMigration => {
            let find = if fact == VmFact::TwoQemus { leftover::two_qemus } else { leftover::paused };
            let of_domain = || {
                let SymptomSubject::Vm { uid, .. } = &stage.symptom.subject else { return None };
                let is_two = fact == VmFact::TwoQemus;
                leftover::of_domain(stage.snapshot, uid).filter(|left| left.is_two == is_two)
            };
            let left = stage.cluster_vm.map_or_else(of_domain, |vm| find(stage.snapshot, vm));
            let source = if fact == VmFact::TwoQemus { "procfs" } else { "libvirt" };
            (left.is_some(), source, left.map(|left| left.text).unwrap_or_default())
        }
        VmFact::QemuGone => (scene.is_qemu_gone(), "procfs", text.to_owned()),
        VmFact::ArrivesHere => (scene.side == Side::Target, "kulprit", text.to_owned()),
        VmFact::LeavesHere => (scene.side != Side::Target, "kulprit", text.to_owned()),
        VmFact::Standalone => (scene.is_standalone_vm, "libvirt", text.to_owned()),
        VmFact::EndedAsAsked | VmFact::FailedToStart => {
            let shown = vm.and_then(|vm| vm.domain.as_ref()).map(|domain| (domain.state, domain.reason));
            let is_so = shown.is_some_and(|(state, reason)| match fact {
                VmFact::FailedToStart => state == libvirt::SHUTOFF && reason == libvirt::SHUTOFF_FAILED,
                _ => libvirt::is_off_as_asked(state, reason),
            });
            let text =
                shown.map(|(state, reason)| format!("{text}: libvirt shows it {}", libvirt::describe(state, reason)));
            (is_so, "libvirt", text.unwrap_or_default())
        }
    };
    let seen = Seen { source: source.to_owned(), node: scene.node_name.to_owned(), at_wall_usec: scene.now_usec, text };
    is_so.then(|| Hit::untimed(1.0, seen))
}

/// Fulfilled if each part is; the strongest way of each part, as near and as fresh as the weakest of them.
fn all<'a>(stage: &Stage<'a>, scene: &Scene<'a>, looks: &[Look], text: &str) -> Option<Hit> {
    let mut joined = Hit {
        factor: 1.0,
        freshness: 1.0,
        times: Times::OPEN,
        seen: Vec::new(),
        attributes: Attributes::new(),
        unit: None,
    };
    let mut times: Option<Times> = None;
    let mut said = Vec::new();
    for look in looks {
        let mut found = hits(stage, scene, look, text);
        if matches!(look, Look::Elsewhere(_)) {
            found.retain(|hit| !are_two_things(&joined.attributes, &hit.attributes));
        }
        let hit = strongest(found)?;
        // What another node has only compares: how near the thing is, the parts that are here say.
        if !asks_elsewhere(look) {
            joined.factor = joined.factor.min(hit.factor);
        }
        joined.freshness = joined.freshness.min(hit.freshness);
        times = Some(times.map_or(hit.times, |times| times.join(hit.times)));
        joined.unit = joined.unit.or(hit.unit);
        for (key, value) in hit.attributes.iter() {
            if joined.attributes.get(key).is_none() || !asks_elsewhere(look) {
                joined.attributes = joined.attributes.with(key, value);
            }
        }
        match look {
            Look::Present(..) | Look::Happened(..) | Look::Elsewhere(_) => joined.seen.extend(hit.seen),
            Look::Absent(_) | Look::NotHappened(_) | Look::Vm(_) | Look::All(_) | Look::WellElsewhere(_) => {
                said.extend(hit.seen);
            }
        }
    }
    // The parts that are absences are said in one sentence, the clue's own, with the time of the last of them.
    if let Some(mut last) = said.into_iter().max_by_key(|seen| seen.at_wall_usec) {
        text.clone_into(&mut last.text);
        joined.seen.push(last);
    }
    joined.times = times.unwrap_or(Times::OPEN);
    Some(joined)
}

/// The hit that weighs most; the first of equals.
pub(crate) fn strongest(hits: Vec<Hit>) -> Option<Hit> {
    let mut best: Option<Hit> = None;
    for hit in hits {
        if best.as_ref().is_none_or(|best| hit.factor * hit.freshness > best.factor * best.freshness) {
            best = Some(hit);
        }
    }
    best
}

/// 1 within the fresh window before the onset and at it, halved every 15 min before that; what came after a moment is worth little, and so is
/// what was said before it of another migration, or a minute before a node's fault.
fn freshness(scene: &Scene<'_>, occurrence: &Occurrence) -> f64 {
    // Logged once, when the module is loaded, and true until the next boot.
    let is_of_boot = matches!(occurrence.code, FindingCode::KvmDisabledByFirmware | FindingCode::KvmNotSupported);
    if is_of_boot || !scene.ages || occurrence.attributes.get(attribute::UNDATED).is_some() {
        return 1.0;
    }
    // Stamped by the very clock that is off.
    let is_of_a_wrong_clock = occurrence.attributes.get(attribute::SIGNATURE) == Some("tls-certificate-not-yet-valid");
    if is_of_a_wrong_clock {
        return 1.0;
    }
    if scene.is_moment() && began_usec(occurrence) > scene.onset_usec.saturating_add(SAME_MOMENT_USEC) {
        return AFTER_ONSET;
    }
    let age_usec = scene.begin_usec.saturating_sub(occurrence.last.wall_usec);
    if scene.has_begin && age_usec > SAME_MOMENT_USEC && is_said_of_a_migration(occurrence) {
        return OF_ANOTHER_MIGRATION;
    }
    let is_of_node = matches!(scene.symptom.subject, SymptomSubject::Node { .. });
    if is_of_node && age_usec > SAID_AGAIN_USEC && occurrence.code == FindingCode::ErrorSaid {
        return OF_SOMETHING_BEFORE;
    }
    let beyond_usec = age_usec.saturating_sub(scene.settings.occurrence_fresh_usec).max(0);
    let is_leaving = matches!(scene.symptom.id, SymptomId::StuckStopping | SymptomId::StuckTerminating);
    let half_life_usec = if is_leaving { HALF_LIFE_OF_LEAVING_USEC } else { HALF_LIFE_USEC };
    #[expect(clippy::cast_precision_loss, reason = "a factor; microseconds beyond 2^53 are 285 years")]
    0.5_f64.powf(beyond_usec as f64 / half_life_usec)
}

fn is_said_of_a_migration(occurrence: &Occurrence) -> bool {
    let is_one_of = |key, values: &[&str]| occurrence.attributes.get(key).is_some_and(|value| values.contains(&value));
    is_one_of(attribute::ACTOR, &[actor::LIBVIRT, actor::QEMU])
        && is_one_of(
            attribute::OPERATION,
            &[operation::MIGRATE, operation::MIGRATE_PREPARE, operation::MIGRATE_FINISH, operation::LOAD_STATE],
        )
}

/// Whether all of these are so of a finding that is so near.
pub(crate) fn fits(facts: &[Fact], attributes: &Attributes, nearness: Nearness) -> bool {
    facts.iter().all(|fact| match fact {
        Fact::OneOf(key, values) => attributes.get(key).is_some_and(|value| values.contains(&value)),
        Fact::NoneOf(key, values) => attributes.get(key).is_some_and(|value| !values.contains(&value)),
        Fact::Not(key, values) => attributes.get(key).is_none_or(|value| !values.contains(&value)),
        Fact::Missing(key) => attributes.get(key).is_none(),
        Fact::AtLeast(key, least) => attributes.number(key).is_some_and(|value| value >= *least),
        Fact::Own => nearness == Nearness::Own,
    })
}

fn unit_of(subject: &Subject) -> Option<String> {
    match subject {
        Subject::Unit { name } => Some(name.clone()),
        Subject::Node
        | Subject::Vm { .. }
        | Subject::Process { .. }
        | Subject::Device { .. }
        | Subject::Mount { .. }
        | Subject::Problem { .. }
        | Subject::Libvirt { .. }
        | Subject::Probe { .. } => None,
    }
}

/// The lines of a state; one made from its catalogue row if it has none.
pub(crate) fn seen_of_state(sighting: &Sighting<'_, State>) -> Vec<Seen> {
    lines(sighting.node, &sighting.of.evidence, sighting.of.code, sighting.of.since.wall_usec)
}

/// The lines of an occurrence; one made from its catalogue row if it has none.
pub(crate) fn seen_of_occurrence(sighting: &Sighting<'_, Occurrence>) -> Vec<Seen> {
    lines(sighting.node, &sighting.of.evidence, sighting.of.code, sighting.of.last.wall_usec)
}

fn lines(node: &str, evidence: &[Evidence], code: FindingCode, at_wall_usec: i64) -> Vec<Seen> {
    if evidence.is_empty() {
        return vec![Seen {
            source: words::probe_source(code.spec().probe).to_owned(),
            node: node.to_owned(),
            at_wall_usec,
            text: code.spec().meaning.to_owned(),
        }];
    }
    evidence
        .iter()
        .take(MAX_LINES)
        .map(|line| Seen {
            source: line.source.clone(),
            node: node.to_owned(),
            at_wall_usec: line.at.wall_usec,
            text: line.text.clone(),
        })
        .collect()
}
