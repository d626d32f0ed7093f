//! What is to be written on a node, and when: from what is so now and what stands there.
//!
//! Pure. A change of status is written at once, one of words alone after a moment in which more may come, and all of it once an hour.
//! What stands is taken over, whoever wrote it, so that a restart moves no `lastTransitionTime`. `Unknown` has to last before it is
//! written: an agent that is being updated is no news. So has what Kubernetes alone says: agents hold what they see, and it tells of every
//! virt-handler that is replaced and of every kubelet that is started again. What another wrote over ours is put right, not fought over.

use std::collections::BTreeMap;

use kulprit_cluster::{StandingCondition, StandingNode};
use kulprit_daemon::backoff::stable_seed;
use kulprit_model::{
    FindingCode,
    catalogue::{NodeCondition, ONLY_RECORDED},
};

use super::{Judged, NodeVerdict, NpdCondition, NpdJudged, Truth, type_of};

/// How long `Unknown` has to last, microseconds: longer than the restart of an agent or of central with its agents' return.
pub const UNKNOWN_AFTER_USEC: i64 = 60_000_000;
/// How long what Kubernetes alone says has to last, microseconds: longer than a virt-handler takes to be replaced, or a kubelet to have its
/// devices again.
const TOLD_AFTER_USEC: i64 = 60_000_000;
/// How long a change of words alone waits for others, microseconds: the incident of a fault comes a moment after it.
const WORDS_AFTER_USEC: i64 = 30_000_000;
/// What another changed is put right so often at most, and the watch may be so late, microseconds.
const REPAIR_EVERY_USEC: i64 = 60_000_000;
/// An hour, and what nodes are apart from it, microseconds.
const REFRESH_EVERY_USEC: i64 = 3_600_000_000;
const REFRESH_SPREAD_USEC: i64 = 360_000_000;

/// A condition as it is to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type, with the prefix.
    pub kind: String,
    /// Its status.
    pub truth: Truth,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// `lastTransitionTime`, Unix microseconds.
    pub since_usec: i64,
}

/// What is wanted of a node.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// These conditions.
    Verdict(&'a NodeVerdict),
    /// Central knows no agent of it: what stands there is of another time.
    NoWord,
    /// No condition of ours.
    Nothing,
}

/// Why something is to be written; the first first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A problem is over.
    Recovery,
    /// A status is another.
    Change,
    /// Only words are others.
    Words,
    /// It is time to say that it is still so.
    Refresh,
}

/// All our conditions of a node, to be written as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Why.
    pub urgency: Urgency,
    /// All of them; those that are not in it go.
    pub conditions: Vec<Condition>,
}

/// What is remembered of one node.
#[derive(Clone, Debug)]
pub struct NodeMemory {
    /// Of a condition that has to last what it would be, and since when, Unix microseconds.
    waits_since: BTreeMap<String, (Truth, i64)>,
    /// Since when words are others than those that stand.
    words_since: Option<i64>,
    refresh_at_usec: i64,
    refresh_every_usec: i64,
    written: Option<Written>,
}

#[derive(Clone, Debug)]
struct Written {
    at_usec: i64,
    conditions: Vec<Condition>,
    /// What stood there before. While it still does, the watch has not told of the write yet.
    over: Vec<StandingCondition>,
}

/// What is wanted of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    /// Its type, as Kubernetes has it.
    kind: String,
    truth: Truth,
    reason: String,
    message: String,
    /// How long it has to last before it is written, microseconds.
    after_usec: i64,
}

impl From<&Judged> for Word {
    fn from(judged: &Judged) -> Self {
        let Judged { condition, truth, reason, message, blame: _ } = judged;
        // Its reason is the first of its findings, and those of agents come first.
        let is_told = reason.parse::<FindingCode>().is_ok_and(|code| ONLY_RECORDED.contains(&code.spec().probe));
        let after_usec = match truth {
            Truth::True if is_told => TOLD_AFTER_USEC,
            Truth::True | Truth::False => 0,
            Truth::Unknown => UNKNOWN_AFTER_USEC,
        };
        Self { kind: type_of(*condition), truth: *truth, reason: reason.clone(), message: message.clone(), after_usec }
    }
}

impl From<&NpdJudged> for Word {
    fn from(judged: &NpdJudged) -> Self {
        let NpdJudged { condition, truth, reason, message } = judged;
        let kind = condition.as_str().to_owned();
        let after_usec = if *truth == Truth::Unknown { UNKNOWN_AFTER_USEC } else { 0 };
        Self { kind, truth: *truth, reason: reason.clone(), message: message.clone(), after_usec }
    }
}

/// A condition that stands, without its type.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stands {
    truth: Option<Truth>,
    reason: String,
    message: String,
    since_usec: Option<i64>,
}

impl NodeMemory {
    /// Of a node that is met now. Its first refresh is somewhere within the hour, so that a start is not a burst.
    #[must_use]
    pub fn new(node: &str, now_usec: i64) -> Self {
        let seed = stable_seed(&["refresh", node]);
        let within = |usec: i64| i64::try_from(seed % usec.unsigned_abs()).unwrap_or(0);
        Self {
            waits_since: BTreeMap::new(),
            words_since: None,
            refresh_at_usec: now_usec.saturating_add(within(REFRESH_EVERY_USEC)),
            refresh_every_usec: REFRESH_EVERY_USEC - REFRESH_SPREAD_USEC + within(2 * REFRESH_SPREAD_USEC),
            written: None,
        }
    }

    /// What is to be written now, if anything.
    pub fn due(&mut self, now_usec: i64, wanted: Wanted<'_>, standing: &StandingNode) -> Option<Due> {
        let stands = self.stands(now_usec, standing);
        let words: Vec<Word> = match wanted {
            Wanted::Verdict(NodeVerdict { node: _, judged, npd }) => {
                judged.iter().map(Word::from).chain(npd.iter().map(Word::from)).collect()
            }
            Wanted::NoWord => no_word(&stands),
            Wanted::Nothing => Vec::new(),
        };
        let conditions: Vec<Condition> =
            words.into_iter().filter_map(|word| self.next(now_usec, word, &stands)).collect();
        let urgency = self.urgency(now_usec, &conditions, &stands)?;
        Some(Due { urgency, conditions })
    }

    /// It was written.
    pub fn wrote(&mut self, now_usec: i64, due: Due, standing: &StandingNode) {
        self.words_since = None;
        self.refresh_at_usec = now_usec.saturating_add(self.refresh_every_usec);
        self.written =
            Some(Written { at_usec: now_usec, conditions: due.conditions, over: standing.conditions.clone() });
    }

    fn stands(&self, now_usec: i64, standing: &StandingNode) -> BTreeMap<String, Stands> {
        let is_unseen = |written: &&Written| {
            written.over == standing.conditions && now_usec.saturating_sub(written.at_usec) < REPAIR_EVERY_USEC
        };
        match self.written.as_ref().filter(is_unseen) {
            Some(written) => written
                .conditions
                .iter()
                .map(|own| {
                    let Condition { kind, truth, reason, message, since_usec } = own.clone();
                    (kind, Stands { truth: Some(truth), reason, message, since_usec: Some(since_usec) })
                })
                .collect(),
            None => standing
                .conditions
                .iter()
                .map(|own| {
                    let StandingCondition { kind, status, reason, message, since_usec } = own.clone();
                    (kind, Stands { truth: truth_of(&status), reason, message, since_usec })
                })
                .collect(),
        }
    }

    /// The condition as it is to stand now; `None` for one that is not there yet and not known yet.
    fn next(&mut self, now_usec: i64, word: Word, stands: &BTreeMap<String, Stands>) -> Option<Condition> {
        let Word { kind, truth, reason, message, after_usec } = word;
        let stands = stands.get(&kind);
        if after_usec > 0 {
            let waits = self.waits_since.entry(kind.clone()).or_insert((truth, now_usec));
            if waits.0 != truth {
                *waits = (truth, now_usec);
            }
            let is_young = now_usec.saturating_sub(waits.1) < after_usec;
            match stands {
                Some(Stands { truth: Some(stood), reason, message, since_usec }) if is_young && *stood != truth => {
                    let (truth, reason, message) = (*stood, reason.clone(), message.clone());
                    let since_usec = since_usec.unwrap_or(now_usec);
                    return Some(Condition { kind, truth, reason, message, since_usec });
                }
                None if is_young => return None,
                Some(_) | None => {}
            }
        } else {
            self.waits_since.remove(&kind);
        }
        let stood = stands.filter(|stands| stands.truth == Some(truth)).and_then(|stands| stands.since_usec);
        Some(Condition { kind, truth, reason, message, since_usec: stood.unwrap_or(now_usec) })
    }

    fn urgency(
        &mut self,
        now_usec: i64,
        conditions: &[Condition],
        stands: &BTreeMap<String, Stands>,
    ) -> Option<Urgency> {
        let is_other = |own: &Condition| stands.get(&own.kind).is_none_or(|stands| stands.truth != Some(own.truth));
        let is_same = |own: &Condition| {
            let is_it = |stands: &Stands| stands.reason == own.reason && stands.message == own.message;
            stands.get(&own.kind).is_some_and(is_it)
        };
        let was_true = |own: &Condition| stands.get(&own.kind).is_some_and(|stands| stands.truth == Some(Truth::True));
        let is_recovery = conditions.iter().any(|own| own.truth == Truth::False && was_true(own));
        // What another keeps there is not ours to remove: it is tried once.
        let is_retired = |kind: &String| !conditions.iter().any(|own| own.kind == *kind);
        let has_retired = self.written.is_none() && stands.keys().any(is_retired);
        let is_change = has_retired || conditions.iter().any(is_other);
        let is_words = !conditions.iter().all(is_same);
        if let Some(written) = &self.written
            && (is_change || is_words)
            && is_as_written(conditions, &written.conditions)
        {
            let is_late = now_usec.saturating_sub(written.at_usec) >= REPAIR_EVERY_USEC;
            return is_late.then_some(Urgency::Change);
        }
        if is_change {
            return Some(if is_recovery { Urgency::Recovery } else { Urgency::Change });
        }
        if is_words {
            let since = *self.words_since.get_or_insert(now_usec);
            if now_usec.saturating_sub(since) >= WORDS_AFTER_USEC {
                return Some(Urgency::Words);
            }
        } else {
            self.words_since = None;
        }
        (now_usec >= self.refresh_at_usec && !conditions.is_empty()).then_some(Urgency::Refresh)
    }
}

/// Whether the same was written last, `lastTransitionTime` aside.
fn is_as_written(conditions: &[Condition], written: &[Condition]) -> bool {
    let words = |own: &Condition| (own.kind.clone(), own.truth, own.reason.clone(), own.message.clone());
    conditions.len() == written.len() && conditions.iter().zip(written).all(|(new, old)| words(new) == words(old))
}

/// Of a node that nobody speaks of, what stands there of ours is not known any more; where nothing stands nothing is said.
fn no_word(stands: &BTreeMap<String, Stands>) -> Vec<Word> {
    let own = NodeCondition::ALL.into_iter().map(type_of);
    let kinds = own.chain(NpdCondition::ALL.into_iter().map(|condition| condition.as_str().to_owned()));
    let unknown = kinds.filter(|kind| stands.contains_key(kind)).map(|kind| Word {
        kind,
        truth: Truth::Unknown,
        after_usec: UNKNOWN_AFTER_USEC,
        reason: "AgentMissing".to_owned(),
        message: "no agent of this node has reported to this central".to_owned(),
    });
    unknown.collect()
}

fn truth_of(status: &str) -> Option<Truth> {
    [Truth::True, Truth::False, Truth::Unknown].into_iter().find(|truth| truth.as_str() == status)
}

#[cfg(test)]
mod tests;
