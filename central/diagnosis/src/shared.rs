//! Some versus all: whether a thing that nodes share is at fault, or each node for itself.
//!
//! It is the thing's fault where at least two nodes show it, and nearly all that could: a node that reaches another server is no
//! witness of this one, nor is a node that was found well again after the last one fell ill. While the last one has only just fallen
//! ill the others may not have noticed yet. So everybody who asks at one moment, a VM or a node, is told the same, whenever his own
//! symptom began.
//!
//! What states show is the same for all symptoms of a snapshot, and counted once ([`Tally`]). What happened on a node is as fresh as
//! a symptom makes it: only nodes that tell of it are asked one by one.

use std::collections::{BTreeMap, BTreeSet};

use kulprit_model::{Attributes, FindingCode, Side, State, Status, attribute::FIRST_LOOK};

use crate::{
    catalogue::{self, Cause, Clue, Fact, Look},
    compared::{Compared, Said, Watched},
    evidence::{self, Hit, Times, fits},
    indexed::Indexed,
    nearness::Nearness,
    scene::Scene,
    score::{ScoreLine, ScoreSheet},
    stage::Stage,
    thing::{thing_in, thing_of},
};

/// From this share of the nodes that could show it on, all do.
const SHARED_RATIO: f64 = 0.8;

/// Clues that are weaker say too little of another node.
const COMPARED_DB: f64 = 7.0;

/// So long it may take until a node notices what another one has noticed: what has to last for 10 s, looks with a deadline of 5 s that
/// come every few seconds. Microseconds.
const NOTICED_WITHIN_USEC: i64 = 30_000_000;

/// Whose fault a cause is, as far as other nodes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// That of what nodes share.
    Shared,
    /// Nobody else could show it: a sole user of a backend, or the last one for whom it did not come back.
    Undecided,
    /// The node's own.
    Own,
}

/// Whose fault it is if the cause of a sheet is what nodes share.
pub(crate) fn whose_fault(stage: &Stage<'_>, here: &ScoreSheet) -> Fault {
    if !here.has_positive() {
        return Fault::Undecided;
    }
    let asked = Asked::new(here);
    let tally = stage.snapshot.tally(&asked);
    let Votes { n_affected, n_well, latest_usec } = votes(stage, here, &asked, &tally);
    let is_all = ratio(n_affected, n_well) >= SHARED_RATIO;
    let is_early = stage.snapshot.reference_wall_usec.saturating_sub(latest_usec) < NOTICED_WITHIN_USEC;
    if n_affected == 1 && n_well == 0 {
        Fault::Undecided
    } else if n_affected >= 2 && (is_all || is_early) {
        Fault::Shared
    } else {
        Fault::Own
    }
}

/// How many nodes show the same, the one that asks included, and how many that it is not so there.
#[derive(Debug, PartialEq, Eq)]
struct Votes {
    n_affected: usize,
    n_well: usize,
    /// When the last one fell ill, Unix time in microseconds.
    latest_usec: i64,
}

fn votes(stage: &Stage<'_>, here: &ScoreSheet, asked: &Asked, tally: &Tally) -> Votes {
    let scene = &stage.scenes[here.scene];
    let position = stage.snapshot.position(scene.node_name);
    let own_usec = position.and_then(|node| asked.began_on(&tally.compared.said_on(stage.snapshot, node)));
    let mut latest_usec = tally.latest_usec.max(own_usec.unwrap_or_else(|| here.began_usec()));
    let is_counted = position.is_some_and(|node| tally.affected.contains(&node));
    let mut n_affected = 1 + tally.affected.len() - usize::from(is_counted);
    let mut well_since_usec = Vec::new();
    // Nodes whose states alone do not speak for them.
    let mut apart: Vec<usize> = position.into_iter().collect();
    for other in stage.elsewhere(scene, &tally.compared, &tally.open) {
        let Some(node) = stage.snapshot.position(other.node_name) else { continue };
        if tally.affected.contains(&node) {
            continue;
        }
        apart.push(node);
        match asked.shown_in(stage, &other) {
            Some(Shown::Affected { began_usec }) => {
                n_affected += 1;
                latest_usec = latest_usec.max(began_usec);
            }
            Some(Shown::Well { since_usec }) => well_since_usec.push(since_usec),
            None => {}
        }
    }
    // Who was found well after that may have been ill. Where nobody knows when it was, everybody counts.
    let until_usec = if latest_usec == Times::OPEN.began_usec { i64::MAX } else { latest_usec };
    let n_well_apart = well_since_usec.iter().filter(|since| **since <= until_usec).count();
    Votes { n_affected, n_well: tally.n_well(&apart, until_usec, scene.onset_usec) + n_well_apart, latest_usec }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of nodes")]
fn ratio(n_affected: usize, n_well: usize) -> f64 {
    n_affected as f64 / (n_affected + n_well) as f64
}

/// What is asked of other nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    /// Id of the cause.
    cause: &'static str,
    /// The thing that is named here. `None`: nothing names one.
    thing: Option<String>,
    /// States that name it here: only who says them of it elsewhere shares it.
    named_by: Vec<FindingCode>,
}

/// What another node shows.
enum Shown {
    /// The same.
    Affected {
        /// Since when, Unix time in microseconds.
        began_usec: i64,
    },
    /// That it is not so there.
    Well {
        /// Since when, Unix time in microseconds.
        since_usec: i64,
    },
}

impl Asked {
    fn new(here: &ScoreSheet) -> Self {
        let thing = thing_of(here);
        // What happened, or was said, is no look at the thing.
        let code = |line: &ScoreLine| {
            let Look::Present(code, _) = &line.clue.look else { return None };
            (line.decibans > 0.0 && thing_in(&line.attributes) == thing).then_some(*code)
        };
        let named_by = if thing.is_some() { here.lines.iter().filter_map(code).collect() } else { Vec::new() };
        Self { cause: here.cause.id, thing, named_by }
    }

    fn cause(&self) -> &'static Cause {
        catalogue::find(self.cause).expect("a sheet's cause is in the catalogue")
    }

    /// Whether what another node has is the same. Two that name no thing share none that is known, except where the cause is nothing but
    /// the shared thing.
    fn is_same(&self, theirs: &Attributes) -> bool {
        match (&self.thing, thing_in(theirs)) {
            (Some(thing), Some(theirs)) => *thing == theirs,
            (None, None) => self.cause().roles == [Side::Shared],
            (Some(_), None) | (None, Some(_)) => true,
        }
    }

    /// Since when a state shows another node to be well, Unix time in microseconds; `None`: it does not.
    fn well_since(&self, state: &State) -> Option<i64> {
        let is_of_it = self.named_by.is_empty() || self.named_by.contains(&state.code);
        let is_of_another =
            self.thing.is_some() && thing_in(&state.attributes).is_some_and(|of| Some(of) != self.thing);
        let is_first_look = state.attributes.get(FIRST_LOOK).is_some();
        (is_of_it && !is_of_another).then_some(if is_first_look { i64::MIN } else { state.since.wall_usec })
    }

    /// Since when a node's states show the same, Unix time in microseconds, whoever asks. `None`: they do not.
    fn began_on(&self, said: &Said<'_>) -> Option<i64> {
        let since_usec = |look: &Look| {
            let Look::Present(code, facts) = look else { return None };
            let is_fit = |state: &&State| !is_of_who_asks(facts) && fits(facts, &state.attributes, Nearness::OfNode);
            let same =
                said.states(*code, Status::Present).filter(is_fit).filter(|state| self.is_same(&state.attributes));
            same.map(|state| state.since.wall_usec).min()
        };
        looks(self.cause()).into_iter().filter_map(|(_, look)| since_usec(look)).min()
    }

    /// What a node shows in the light of a symptom.
    fn shown_in<'a>(&self, stage: &Stage<'a>, other: &Scene<'a>) -> Option<Shown> {
        // What began after the symptom is the same fault all the same: nodes notice it one after the other.
        let is_timely = |hit: &Hit| hit.freshness > 0.5 || hit.times.began_usec > other.onset_usec;
        let (mut began_usec, mut happened_usec) = (None::<i64>, None::<i64>);
        let (mut well_since_usec, mut is_silent) = (None::<i64>, false);
        for (clue, look) in looks(self.cause()) {
            let hits = evidence::hits(stage, other, look, clue.text);
            let same = hits.iter().filter(|hit| self.is_same(&hit.attributes) && is_timely(hit));
            let since_usec = same.map(|hit| hit.times.began_usec).min();
            match look {
                Look::Present(code, _) => {
                    began_usec = began_usec.into_iter().chain(since_usec).min();
                    let absent = other.states_of(*code).iter().filter(|sighting| sighting.status() == Status::Absent);
                    let since_usec = absent.filter_map(|sighting| self.well_since(sighting.of)).min();
                    well_since_usec = well_since_usec.into_iter().chain(since_usec).min();
                }
                Look::Happened(code, _) => {
                    happened_usec = happened_usec.into_iter().chain(since_usec).min();
                    is_silent |= hits.is_empty() && other.was_watched_at_onset(code.spec().probe);
                }
                Look::Absent(_)
                | Look::NotHappened(_)
                | Look::Vm(_)
                | Look::All(_)
                | Look::Elsewhere(_)
                | Look::WellElsewhere(_) => happened_usec = happened_usec.into_iter().chain(since_usec).min(),
            }
        }
        // What was looked at goes before what stands in logs, or does not.
        if let Some(began_usec) = began_usec.or(happened_usec) {
            return Some(Shown::Affected { began_usec });
        }
        let is_silent = is_silent && self.named_by.is_empty();
        let since_usec = well_since_usec.or(is_silent.then_some(Times::OPEN.began_usec));
        since_usec.map(|since_usec| Shown::Well { since_usec })
    }
}

/// What nodes show of what is asked, as far as their states decide it. Nodes by position among their names.
#[derive(Debug)]
pub(crate) struct Tally {
    compared: Compared,
    affected: BTreeSet<usize>,
    /// When the last of them fell ill, Unix time in microseconds.
    latest_usec: i64,
    /// Since when others are seen to be well, Unix time in microseconds.
    well: BTreeMap<usize, i64>,
    /// The times of `well`, in order.
    well_since_usec: Vec<i64>,
    /// Nodes with no such look and no such line: they were well where their logs were read then. From when on they are, Unix time in
    /// microseconds.
    silent: BTreeMap<usize, i64>,
    /// The times of `silent`, in order.
    silent_from_usec: Vec<i64>,
    /// Those of which a symptom's own time decides, or who asks, in order.
    open: Vec<usize>,
}

impl Tally {
    pub(crate) fn new(snapshot: &Indexed<'_>, asked: &Asked) -> Self {
        let looks: Vec<&'static Look> = looks(asked.cause()).into_iter().map(|(_, look)| look).collect();
        let mut tally = Self::empty(Compared::new(snapshot, &looks));
        for node in tally.compared.nodes.clone() {
            let said = tally.compared.said_on(snapshot, node);
            if let Some(began_usec) = asked.began_on(&said) {
                tally.affected.insert(node);
                tally.latest_usec = tally.latest_usec.max(began_usec);
                continue;
            }
            if let Some(since_usec) = looks.iter().filter_map(|look| well_since_usec(asked, look, &said)).min() {
                tally.well.insert(node, since_usec);
            } else if asked.named_by.is_empty() && snapshot.node(snapshot.names()[node]).is_some() {
                match watched_from(&looks, &said) {
                    Some(Watched::From { usec }) => drop(tally.silent.insert(node, usec)),
                    Some(Watched::AtTimes) => tally.open.push(node),
                    None => {}
                }
            }
            if tally.open.last() != Some(&node) && looks.iter().any(|look| is_open(look, &said)) {
                tally.open.push(node);
            }
        }
        tally.well_since_usec = tally.well.values().copied().collect();
        tally.well_since_usec.sort_unstable();
        tally.silent_from_usec = tally.silent.values().copied().collect();
        tally.silent_from_usec.sort_unstable();
        tally
    }

    const fn empty(compared: Compared) -> Self {
        Self {
            compared,
            affected: BTreeSet::new(),
            latest_usec: Times::OPEN.began_usec,
            well: BTreeMap::new(),
            well_since_usec: Vec::new(),
            silent: BTreeMap::new(),
            silent_from_usec: Vec::new(),
            open: Vec::new(),
        }
    }

    /// How many of all, without those that are asked one by one, were well by a look before `until_usec`, or by logs that were read at
    /// `onset_usec`.
    fn n_well(&self, apart: &[usize], until_usec: i64, onset_usec: i64) -> usize {
        let n_of = |times: &[i64], until_usec: i64| times.partition_point(|usec| *usec <= until_usec);
        let n_apart_of = |times: &BTreeMap<usize, i64>, until_usec: i64| {
            apart.iter().filter_map(|node| times.get(node)).filter(|usec| **usec <= until_usec).count()
        };
        n_of(&self.well_since_usec, until_usec) + n_of(&self.silent_from_usec, onset_usec)
            - n_apart_of(&self.well, until_usec)
            - n_apart_of(&self.silent, onset_usec)
    }
}

/// When whoever would know of any of these looks was looking. `None`: never, or nobody knows.
fn watched_from(looks: &[&Look], said: &Said<'_>) -> Option<Watched> {
    let of_look = |look: &&Look| {
        let Look::Happened(code, _) = look else { return None };
        said.watched(code.spec().probe)
    };
    // What depends on the moment comes last.
    let watched: BTreeSet<Watched> = looks.iter().filter_map(of_look).collect();
    if watched.contains(&Watched::AtTimes) { Some(Watched::AtTimes) } else { watched.first().copied() }
}

fn well_since_usec(asked: &Asked, look: &Look, said: &Said<'_>) -> Option<i64> {
    let Look::Present(code, _) = look else { return None };
    said.states(*code, Status::Absent).filter_map(|state| asked.well_since(state)).min()
}

/// Whether a symptom decides what a node shows by this look.
fn is_open(look: &Look, said: &Said<'_>) -> bool {
    match look {
        Look::Present(code, facts) => is_of_who_asks(facts) && said.states(*code, Status::Present).next().is_some(),
        Look::Happened(code, facts) => {
            let mut of_code = said.occurrences.iter().filter(|occurrence| occurrence.code == *code);
            of_code.any(|occurrence| fits(facts, &occurrence.attributes, Nearness::Own))
        }
        Look::Absent(_)
        | Look::NotHappened(_)
        | Look::Vm(_)
        | Look::All(_)
        | Look::Elsewhere(_)
        | Look::WellElsewhere(_) => true,
    }
}

fn is_of_who_asks(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| matches!(fact, Fact::Own))
}

/// What of a cause is compared, with the clue that it is of; nothing of one that nothing shared can be.
pub(crate) fn looks(cause: &'static Cause) -> Vec<(&'static Clue, &'static Look)> {
    let strong = cause.clues.iter().filter(|clue| clue.strength.decibans() >= COMPARED_DB);
    let strong = strong.filter(|_| cause.roles.contains(&Side::Shared));
    strong.filter_map(|clue| Some((clue, compared(clue)?))).collect()
}

/// What another node is asked for of a clue: of one that compares, what it compares, by itself.
fn compared(clue: &'static Clue) -> Option<&'static Look> {
    let look = match &clue.look {
        Look::All(looks) => looks.iter().find(|look| !evidence::asks_elsewhere(look)).unwrap_or(&clue.look),
        look => look,
    };
    (!evidence::asks_elsewhere(look)).then_some(look)
}

/// Counts as if no state decided anything by itself. Both counts, if that makes a difference.
#[cfg(test)]
pub(crate) fn count_one_by_one(stage: &Stage<'_>, here: &ScoreSheet) -> Result<(), String> {
    let asked = Asked::new(here);
    let looks: Vec<&'static Look> = looks(asked.cause()).into_iter().map(|(_, look)| look).collect();
    let mut nobody = Tally::empty(Compared::new(stage.snapshot, &looks));
    nobody.open = (0..stage.snapshot.names().len()).collect();
    let at_once = votes(stage, here, &asked, &stage.snapshot.tally(&asked));
    let one_by_one = votes(stage, here, &asked, &nobody);
    if at_once == one_by_one { Ok(()) } else { Err(format!("{asked:?}: {at_once:?}, one by one {one_by_one:?}")) }
}
