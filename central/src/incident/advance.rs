//! One pass: from what is to what has become of it.
//!
//! In this order: who may still be in trouble by what its incident names stays in it; a clearly better explanation of the same symptom
//! moves the incident (it keeps its id, and says what it was); two of one key become the older; every observation joins its incident,
//! which is opened or reopened for it; what was seen to be over ends; what is quiet for long enough closes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ulid::Ulid;

use super::{Explanation, Incident, Incidents, Key, Looks, Member, Observation, Timers, Whom};

/// An incident as it is now, and what happened to it.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentChange {
    /// The whole incident.
    pub incident: Arc<Incident>,
    /// What happened in this pass, in order; empty if only figures moved.
    pub events: Vec<Event>,
}

/// What can happen to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It is new.
    Opened,
    /// It came back.
    Reopened,
    /// Its symptoms were seen to be over for long enough.
    Closed,
    /// Another explanation of the same symptoms.
    CauseChanged,
    /// It was taken over by an older one.
    Merged,
    /// Somebody more is touched.
    MemberJoined,
    /// Somebody's symptom was seen to be over.
    MemberEnded,
}

/// The incident of a symptom that nothing explains; it gives way to any explanation.
const UNEXPLAINED: &str = "Unexplained";

/// As long as an incident is younger, a symptom that turns into another one is the same trouble, microseconds: agents look every few seconds,
/// and what has to last before it is said lasts 10 s.
const SETTLES_USEC: i64 = 30_000_000;

/// What becomes of `incidents` when diagnosis says `observations` at `now_wall_usec`. Changes come by id.
#[must_use]
pub fn advance(
    incidents: &Incidents,
    observations: &[Observation],
    looks: &Looks,
    now_wall_usec: i64,
    timers: &Timers,
) -> Vec<IncidentChange> {
    let observations = &stay(incidents, observations, now_wall_usec, timers);
    let drafts = incidents.open().map(|open| (open.id, Draft { incident: (**open).clone(), events: Vec::new() }));
    let mut pass =
        Pass { incidents, observations, looks, now_wall_usec, timers, drafts: drafts.collect(), open: BTreeMap::new() };
    pass.move_to_new_causes();
    pass.merge_equal_keys();
    pass.join_observations();
    pass.end_members();
    pass.close_quiet_ones();
    pass.into_changes()
}

/// While nobody can tell which of two causes it is, or whether what nodes share is at fault, whoever is in the incident of one of them stays
/// there, and comes back to it with another symptom or later: two that are nearly as likely would take turns from pass to pass, and of those
/// that a backend took down the last one is alone.
fn stay<'o>(
    incidents: &Incidents,
    observations: &'o [Observation],
    now_wall_usec: i64,
    timers: &Timers,
) -> Cow<'o, [Observation]> {
    if observations.iter().all(|observation| observation.may_be.is_empty()) {
        return observations.into();
    }
    let by_member = incidents.by_member();
    let mut touched_by = BTreeMap::<&Whom, Vec<&Key>>::new();
    for incident in incidents.open().map(|open| &**open).chain(recently_closed(incidents, now_wall_usec, timers)) {
        for member in &incident.members {
            touched_by.entry(&member.whom).or_default().push(&incident.key);
        }
    }
    let stays = |observation: &Observation| {
        let Observation { key, may_be, whom, symptom, .. } = observation;
        let is_in = |key: &Key| match by_member.get(&(whom, symptom.as_str())) {
            Some(incident) => incident.key == *key,
            None => touched_by.get(whom).is_some_and(|keys| keys.contains(&key)),
        };
        let other = may_be.iter().find(|other| !is_in(key) && is_in(&other.key))?;
        let Explanation { key, node, probability, chain } = other.clone();
        Some(Observation { key, node, probability, chain, ..observation.clone() })
    };
    observations.iter().map(|observation| stays(observation).unwrap_or_else(|| observation.clone())).collect()
}

struct Draft {
    incident: Incident,
    events: Vec<Event>,
}

impl Draft {
    fn is_open(&self) -> bool {
        self.incident.is_open()
    }

    /// Takes in the observations of its key, at least one.
    fn join(&mut self, group: &[&Observation], now_wall_usec: i64) {
        let incident = &mut self.incident;
        incident.quiet_since_wall_usec = None;
        // Of equals the first.
        let strongest =
            group.iter().reduce(|best, other| if other.probability > best.probability { other } else { best });
        if let Some(strongest) = strongest {
            incident.probability = incident.probability.max(strongest.probability);
            incident.chain.clone_from(&strongest.chain);
        }
        let mut known: BTreeMap<(Whom, String), usize> = (0..)
            .zip(&incident.members)
            .map(|(index, member)| ((member.whom.clone(), member.symptom.clone()), index))
            .collect();
        for observation in group {
            let key = (observation.whom.clone(), observation.symptom.clone());
            let is_new = match known.get(&key) {
                Some(index) => {
                    let member = &mut incident.members[*index];
                    member.based_on.clone_from(&observation.based_on);
                    member.until_wall_usec.take().is_some()
                }
                None => {
                    known.insert(key, incident.members.len());
                    incident.members.push(member(observation));
                    true
                }
            };
            if is_new {
                let text = format!(
                    "{}: {}",
                    title(&observation.whom, &observation.namespace, &observation.name),
                    observation.symptom
                );
                incident.say(now_wall_usec, text);
                self.events.push(Event::MemberJoined);
            }
        }
        incident.members.sort_by(|a, b| {
            // Onsets that are not known come last.
            let onset = |member: &Member| member.since_wall_usec.unwrap_or(i64::MAX);
            onset(a).cmp(&onset(b)).then_with(|| a.whom.cmp(&b.whom)).then_with(|| a.symptom.cmp(&b.symptom))
        });
    }
}

struct Pass<'a> {
    incidents: &'a Incidents,
    observations: &'a [Observation],
    looks: &'a Looks,
    now_wall_usec: i64,
    timers: &'a Timers,
    drafts: BTreeMap<Ulid, Draft>,
    /// The open draft of each key, once keys are settled.
    open: BTreeMap<Key, Ulid>,
}

impl Pass<'_> {
    fn move_to_new_causes(&mut self) {
        let now = self.now_wall_usec;
        let mut of_whom = BTreeMap::<&Whom, Vec<&Observation>>::new();
        for observation in self.observations {
            of_whom.entry(&observation.whom).or_default().push(observation);
        }
        for draft in self.drafts.values_mut() {
            let incident = &mut draft.incident;
            let is_unexplained = incident.key.cause == UNEXPLAINED;
            let is_young = now.saturating_sub(incident.opened_wall_usec) < SETTLES_USEC;
            let mut counts = BTreeMap::<(&Key, &String), usize>::new();
            for member in incident.members.iter().filter(|member| member.until_wall_usec.is_none()) {
                let shown = of_whom.get(&member.whom).map(Vec::as_slice).unwrap_or_default();
                let has_turned = is_young && shown.iter().all(|observation| observation.symptom != member.symptom);
                for observation in shown {
                    if is_unexplained || has_turned || observation.symptom == member.symptom {
                        *counts.entry((&observation.key, &observation.node)).or_default() += 1;
                    }
                }
            }
            if counts.keys().any(|(key, _)| **key == incident.key) {
                continue;
            }
            // The key that explains most of them; of equals the first.
            let Some(((key, node), _)) = counts.into_iter().rev().max_by_key(|(_, count)| *count) else { continue };
            let (what, is, was) = if key.cause == incident.key.cause {
                ("place", &key.place, &incident.key.place)
            } else {
                ("cause", &key.cause, &incident.key.cause)
            };
            incident.say(now, format!("the {what} is now {is}, it was {was}"));
            incident.key = key.clone();
            incident.node.clone_from(node);
            incident.probability = 0.0;
            draft.events.push(Event::CauseChanged);
        }
    }

    fn merge_equal_keys(&mut self) {
        let mut by_key = BTreeMap::<Key, Vec<Ulid>>::new();
        for (id, draft) in &self.drafts {
            by_key.entry(draft.incident.key.clone()).or_default().push(*id);
        }
        for (key, ids) in by_key {
            // Ids sort by opening.
            let (older, others) = ids.split_first().expect("each key has at least one");
            for other in others {
                self.merge(*older, *other);
            }
            self.open.insert(key, *older);
        }
    }

    fn merge(&mut self, older: Ulid, younger: Ulid) {
        let now = self.now_wall_usec;
        let Some(gone) = self.drafts.get_mut(&younger) else { return };
        gone.incident.say(now, format!("merged into {older}"));
        gone.incident.merged_into = Some(older);
        gone.incident.closed_wall_usec = Some(now);
        gone.incident.quiet_since_wall_usec = None;
        gone.events.push(Event::Merged);
        let members = gone.incident.members.clone();
        let probability = gone.incident.probability;
        let Some(kept) = self.drafts.get_mut(&older) else { return };
        kept.incident.say(now, format!("took over {younger}"));
        kept.incident.probability = kept.incident.probability.max(probability);
        for member in members {
            let known = kept.incident.members.iter_mut().find(|known| is_same(known, &member.whom, &member.symptom));
            match known {
                Some(known) if member.until_wall_usec.is_none() => known.until_wall_usec = None,
                Some(_) => {}
                None => kept.incident.members.push(member),
            }
        }
    }

    fn join_observations(&mut self) {
        let mut groups = BTreeMap::<&Key, Vec<&Observation>>::new();
        for observation in self.observations {
            groups.entry(&observation.key).or_default().push(observation);
        }
        let now = self.now_wall_usec;
        let mut closed = None;
        for (key, group) in groups {
            let id = self.open.get(key).copied().unwrap_or_else(|| {
                let closed = closed.get_or_insert_with(|| last_closed(self.incidents, now, self.timers));
                let draft = reopened_or_new(closed.get(key).copied(), group[0], now);
                let id = draft.incident.id;
                self.drafts.insert(id, draft);
                id
            });
            self.drafts.get_mut(&id).expect("it was made just now if it was missing").join(&group, now);
        }
    }

    fn end_members(&mut self) {
        let mut seen = BTreeMap::<(&Whom, &str), BTreeSet<&Key>>::new();
        for observation in self.observations {
            seen.entry((&observation.whom, &observation.symptom)).or_default().insert(&observation.key);
        }
        let (looks, now) = (self.looks, self.now_wall_usec);
        for draft in self.drafts.values_mut().filter(|draft| draft.is_open()) {
            let incident = &mut draft.incident;
            let mut said = Vec::new();
            incident.members.retain_mut(|member| {
                if member.until_wall_usec.is_some() {
                    return true;
                }
                match seen.get(&(&member.whom, member.symptom.as_str())) {
                    Some(keys) if keys.contains(&incident.key) => true,
                    Some(_) => {
                        said.push((
                            format!(
                                "{}: {} has another cause",
                                title(&member.whom, &member.namespace, &member.name),
                                member.symptom
                            ),
                            None,
                        ));
                        false
                    }
                    None => {
                        if looks.can_see(member) {
                            member.until_wall_usec = Some(now);
                            let text = format!(
                                "{}: {} is over",
                                title(&member.whom, &member.namespace, &member.name),
                                member.symptom
                            );
                            said.push((text, Some(Event::MemberEnded)));
                        }
                        true
                    }
                }
            });
            for (text, event) in said {
                incident.say(now, text);
                draft.events.extend(event);
            }
        }
    }

    fn close_quiet_ones(&mut self) {
        let now = self.now_wall_usec;
        for draft in self.drafts.values_mut().filter(|draft| draft.is_open()) {
            let incident = &mut draft.incident;
            if incident.members.iter().any(|member| member.until_wall_usec.is_none()) {
                incident.quiet_since_wall_usec = None;
                continue;
            }
            let quiet_since = *incident.quiet_since_wall_usec.get_or_insert(now);
            if now.saturating_sub(quiet_since) >= self.timers.close_after_usec {
                incident.closed_wall_usec = Some(now);
                incident.quiet_since_wall_usec = None;
                incident.say(now, "closed".to_owned());
                draft.events.push(Event::Closed);
            }
        }
    }

    fn into_changes(self) -> Vec<IncidentChange> {
        let incidents = self.incidents;
        let drafts = self.drafts.into_iter();
        let changed = drafts.filter(|(id, draft)| incidents.get(*id).is_none_or(|before| **before != draft.incident));
        changed.map(|(_, draft)| IncidentChange { incident: Arc::new(draft.incident), events: draft.events }).collect()
    }
}

/// The incidents that closed recently enough to be reopened, oldest first.
fn recently_closed<'a>(
    incidents: &'a Incidents,
    now_wall_usec: i64,
    timers: &Timers,
) -> impl Iterator<Item = &'a Incident> {
    let oldest = now_wall_usec.saturating_sub(timers.reopen_within_usec);
    let closed = incidents.iter().map(|incident| &**incident).filter(|incident| incident.merged_into.is_none());
    closed.filter(move |incident| incident.closed_wall_usec.is_some_and(|at| at >= oldest))
}

/// The one of each key that closed last.
fn last_closed<'a>(incidents: &'a Incidents, now_wall_usec: i64, timers: &Timers) -> BTreeMap<&'a Key, &'a Incident> {
    let mut closed = BTreeMap::<&Key, &Incident>::new();
    for incident in recently_closed(incidents, now_wall_usec, timers) {
        if closed.get(&incident.key).is_none_or(|other| other.closed_wall_usec <= incident.closed_wall_usec) {
            closed.insert(&incident.key, incident);
        }
    }
    closed
}

fn reopened_or_new(closed: Option<&Incident>, observation: &Observation, now_wall_usec: i64) -> Draft {
    let Some(closed) = closed else {
        return Draft { incident: opened(observation, now_wall_usec), events: vec![Event::Opened] };
    };
    let mut incident = closed.clone();
    incident.closed_wall_usec = None;
    incident.say(now_wall_usec, "reopened".to_owned());
    Draft { incident, events: vec![Event::Reopened] }
}

fn member(observation: &Observation) -> Member {
    Member {
        whom: observation.whom.clone(),
        namespace: observation.namespace.clone(),
        name: observation.name.clone(),
        symptom: observation.symptom.clone(),
        since_wall_usec: observation.since_wall_usec,
        until_wall_usec: None,
        based_on: observation.based_on.clone(),
    }
}

fn opened(observation: &Observation, now_wall_usec: i64) -> Incident {
    let mut incident = Incident {
        id: new_id(&observation.key, now_wall_usec),
        key: observation.key.clone(),
        node: observation.node.clone(),
        opened_wall_usec: now_wall_usec,
        closed_wall_usec: None,
        quiet_since_wall_usec: None,
        members: Vec::new(),
        timeline: Vec::new(),
        probability: observation.probability,
        chain: observation.chain.clone(),
        merged_into: None,
    };
    incident.say(now_wall_usec, format!("opened: {}", observation.key.cause));
    incident
}

/// A ULID whose random part is a hash of what it names: a replay of the same input makes the same ids, and no key opens
/// two incidents in one microsecond.
fn new_id(key: &Key, opened_wall_usec: i64) -> Ulid {
    // FNV-1a with 128 bits (Fowler, Noll, Vo; RFC 9923).
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let parts = [key.cause.as_bytes(), b"\0", key.place.as_bytes(), b"\0", &opened_wall_usec.to_be_bytes()];
    for byte in parts.into_iter().flatten() {
        hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    Ulid::from_parts(u64::try_from(opened_wall_usec / 1_000).unwrap_or(0), hash >> 48)
}

fn is_same(member: &Member, whom: &Whom, symptom: &str) -> bool {
    member.whom == *whom && member.symptom == symptom
}

/// Whom an incident touches, in words.
pub(crate) fn title(whom: &Whom, namespace: &str, name: &str) -> String {
    let name = if name.is_empty() { &whom.uid } else { name };
    let name = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    match (whom.uid.is_empty(), whom.node.is_empty()) {
        (true, _) => format!("node {}", whom.node),
        // No node has taken it.
        (false, true) => name,
        (false, false) => format!("{name} on {}", whom.node),
    }
}
