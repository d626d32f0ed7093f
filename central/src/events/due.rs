//! Which Events are to be written now: from what there is to be said, what was said, and what stands.
//!
//! Pure. Each topic of an object (a cause at a node) is said when it begins, said again every half hour while it lasts, so that the Event
//! outlives the hour that the API server keeps it, and said to be over once. An Event's name is made of the object, the topic and the
//! incident: whoever says the same finds that it is there. What cannot be said now for want of budget is tried again as long as it is true.

use std::collections::BTreeMap;

use kulprit_cluster::Spoken;
use kulprit_daemon::backoff::stable_seed;
use ulid::Ulid;

use super::{Object, budget::Budget};

/// What lasts is said again so often, microseconds: half of what the API server keeps an Event (`--event-ttl`, an hour).
const AGAIN_EVERY_USEC: i64 = 1_800_000_000;
/// An Event that was said longer ago may be gone, microseconds.
const KEPT_USEC: i64 = 3_300_000_000;
/// A topic that nobody spoke of for so long is forgotten, microseconds: its Events are gone by then.
const FORGOTTEN_USEC: i64 = 5_400_000_000;
/// One that is refused so often is given up.
const MAX_ATTEMPTS: u32 = 5;
/// After the first refusal, and twice as long after each further one, microseconds.
const ATTEMPT_AFTER_USEC: i64 = 5_000_000;
/// Names of objects have so many characters at most, those of Events as well.
const MAX_NAME_CHARS: usize = 253;

/// What becomes of something that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It lasts.
    Lasts,
    /// It lasted, and is over.
    Over,
    /// It happened: there is no end of it.
    Once,
}

/// Something that one object is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saying {
    /// The object.
    pub object: Object,
    /// What tells apart what is said of an object.
    pub topic: String,
    /// What becomes of it.
    pub mode: Mode,
    /// What tells apart the times at which a topic comes up.
    pub episode: String,
    /// So long it has to last before it is said that it does, microseconds; `None`: that is not begun to be said now.
    pub begins_after_usec: Option<i64>,
    /// `reason`.
    pub reason: String,
    /// `note` while it lasts.
    pub note: String,
    /// `note` when it is over.
    pub over_note: String,
    /// Whose incident it is.
    pub incident: Option<Ulid>,
    /// Another object that has to do with it.
    pub related: Option<Object>,
}

/// An Event that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its name.
    pub name: String,
    /// How often it was said, this time included: from 2 on it is there, and its series goes on.
    pub count: u32,
    /// Whether it says that something is wrong.
    pub is_warning: bool,
    /// `action`.
    pub action: &'static str,
    /// What is said.
    pub saying: Saying,
}

/// What became of an Event that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It stands.
    Said,
    /// It is not there any more, so that its series cannot go on.
    Vanished,
    /// The API server does not take it; later it may.
    Refused,
    /// It will never be taken: its namespace goes, or what it says is not understood.
    Hopeless,
    /// Nobody answers, the API server has no time, or it was not tried: nothing of this one, and it costs nothing.
    Unanswered,
}

/// What is due.
#[derive(Debug, Default)]
pub struct Decision {
    /// What matters most first.
    pub due: Vec<Due>,
    /// How many more there would be with more budget.
    pub n_waiting: usize,
    /// How many were never said, since they were over before there was budget.
    pub n_dropped: usize,
}

/// UID of the object, and topic.
type Key = (String, String);

/// What was said of all objects.
#[derive(Clone, Debug, Default)]
pub struct Book {
    said: BTreeMap<Key, Said>,
    /// What waits for budget, by the name of its Event.
    waiting: BTreeMap<String, Key>,
    budget: Budget,
}

/// What was said of one topic.
#[derive(Clone, Debug, Default)]
struct Said {
    /// Whether the last word is that it lasts.
    is_lasting: bool,
    warned: Option<Line>,
    ended: Option<Line>,
    /// Since when it lasts without a break, as far as this central saw.
    since_usec: Option<i64>,
    /// When it was spoken of last.
    seen_usec: i64,
    n_refused: u32,
    /// Not before it is tried again.
    again_usec: i64,
}

/// One Event.
#[derive(Clone, Debug)]
struct Line {
    name: String,
    count: u32,
    last_usec: i64,
}

impl Book {
    /// What is due at `now_usec` of all that there is to be said. `spoken` are the Events that stand.
    pub fn decide<'s>(
        &mut self,
        now_usec: i64,
        sayings: Vec<Saying>,
        spoken: impl Iterator<Item = &'s Spoken>,
    ) -> Decision {
        let spoken = by_key(spoken);
        let mut decision = Decision::default();
        let mut wanted = Vec::new();
        for saying in sayings {
            let key = (saying.object.uid.clone(), saying.topic.clone());
            let said = self.said.entry(key.clone()).or_insert_with(|| Said::adopted(&key, &spoken));
            said.seen_usec = now_usec;
            let lasts = saying.mode == Mode::Lasts && saying.begins_after_usec.is_some();
            said.since_usec = lasts.then(|| said.since_usec.unwrap_or(now_usec).min(now_usec));
            wanted.extend(said.due(now_usec, saying));
        }
        for said in self.said.values_mut().filter(|said| said.seen_usec != now_usec) {
            said.since_usec = None;
        }
        wanted.sort_by_key(|due| (due.count > 1 && due.is_warning, due.saying.object.kind));
        let mut waited = std::mem::take(&mut self.waiting);
        for due in wanted {
            waited.remove(&due.name);
            if self.budget.take(now_usec, &due.saying.object.uid) {
                decision.due.push(due);
            } else {
                self.waiting.insert(due.name, (due.saying.object.uid, due.saying.topic));
            }
        }
        decision.n_waiting = self.waiting.len();
        let is_said = |(name, key): &(&String, &Key)| self.said.get(*key).is_some_and(|said| said.has(name));
        decision.n_dropped = waited.iter().filter(|waited| !is_said(waited)).count();
        self.said.retain(|_, said| now_usec.saturating_sub(said.seen_usec) < FORGOTTEN_USEC);
        self.budget.forget(now_usec);
        decision
    }

    /// Whether something is refused, and tried again.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        self.said.values().any(|said| said.n_refused > 0)
    }

    /// What became of an Event that was due. Whether it is given up.
    pub fn wrote(&mut self, now_usec: i64, due: &Due, outcome: Outcome) -> bool {
        let key = (due.saying.object.uid.clone(), due.saying.topic.clone());
        let Some(said) = self.said.get_mut(&key) else { return false };
        let line = Line { name: due.name.clone(), count: due.count, last_usec: now_usec };
        match outcome {
            Outcome::Said => said.note(due, line),
            Outcome::Vanished if due.is_warning => said.warned = None,
            Outcome::Vanished => said.ended = None,
            Outcome::Refused if said.n_refused + 1 < MAX_ATTEMPTS => {
                said.again_usec = now_usec.saturating_add(ATTEMPT_AFTER_USEC << said.n_refused);
                said.n_refused += 1;
            }
            Outcome::Refused | Outcome::Hopeless => {
                // As if it stood: what is true later is said then.
                said.note(due, line);
                return true;
            }
            Outcome::Unanswered => self.budget.give_back(&due.saying.object.uid),
        }
        false
    }
}

impl Said {
    /// What stands of it.
    fn adopted(key: &Key, spoken: &BTreeMap<(&str, &str), Vec<&Spoken>>) -> Self {
        let own = spoken.get(&(key.0.as_str(), key.1.as_str())).map(Vec::as_slice).unwrap_or_default();
        let newest = |is_warning: bool| {
            let newest = own.iter().filter(|one| one.is_warning == is_warning).max_by_key(|one| one.last_usec)?;
            Some(Line { name: newest.name.clone(), count: newest.count, last_usec: newest.last_usec })
        };
        let (warned, ended) = (newest(true), newest(false));
        let is_lasting = match (&warned, &ended) {
            (Some(warned), Some(ended)) => warned.last_usec > ended.last_usec,
            (Some(_), None) => true,
            (None, _) => false,
        };
        Self { is_lasting, warned, ended, ..Self::default() }
    }

    fn due(&self, now_usec: i64, saying: Saying) -> Option<Due> {
        if now_usec < self.again_usec {
            return None;
        }
        let lasts_for_usec = self.since_usec.map(|since| now_usec.saturating_sub(since));
        let may_begin =
            lasts_for_usec.zip(saying.begins_after_usec).is_some_and(|(lasts_for, after)| lasts_for >= after);
        if saying.mode == Mode::Lasts && !self.is_lasting && !may_begin {
            return None;
        }
        let (is_warning, action, known) = match saying.mode {
            Mode::Lasts => (true, "Diagnose", &self.warned),
            Mode::Over => (false, "Recover", &self.ended),
            Mode::Once => (false, "Report", &self.ended),
        };
        let name = name_of(&saying, is_warning);
        let is_it = |line: &&Line| line.name == name && now_usec.saturating_sub(line.last_usec) < KEPT_USEC;
        let (name, count) = match (saying.mode, self.is_lasting, known.as_ref()) {
            (Mode::Lasts, true, Some(line)) => {
                // Another incident of the same topic, or another central's: its Event is as good.
                let is_old = now_usec.saturating_sub(line.last_usec) >= AGAIN_EVERY_USEC;
                is_old.then(|| (line.name.clone(), line.count.saturating_add(1)))?
            }
            // Nobody was told that it began, or everybody that it is over.
            (Mode::Over, false, _) => return None,
            (Mode::Once, _, Some(line)) if line.name == name => return None,
            (_, _, known) => {
                let count = known.filter(is_it).map_or(1, |line| line.count.saturating_add(1));
                (name, count)
            }
        };
        Some(Due { name, count, is_warning, action, saying })
    }

    fn has(&self, name: &str) -> bool {
        [&self.warned, &self.ended].into_iter().flatten().any(|line| line.name == name)
    }

    fn note(&mut self, due: &Due, line: Line) {
        self.is_lasting = due.saying.mode == Mode::Lasts;
        self.n_refused = 0;
        self.again_usec = 0;
        *(if due.is_warning { &mut self.warned } else { &mut self.ended }) = Some(line);
    }
}

fn by_key<'s>(spoken: impl Iterator<Item = &'s Spoken>) -> BTreeMap<(&'s str, &'s str), Vec<&'s Spoken>> {
    let mut by_key: BTreeMap<(&str, &str), Vec<&Spoken>> = BTreeMap::new();
    for one in spoken {
        by_key.entry((&one.about_uid, &one.topic)).or_default().push(one);
    }
    by_key
}

/// `db-0.9f86d081884c7d65`: as client-go names Events after their objects, with a hash where it has the time.
fn name_of(saying: &Saying, is_warning: bool) -> String {
    let Saying { object, topic, episode, .. } = saying;
    let word = if is_warning { "lasts" } else { "over" };
    let hash = stable_seed(&[&object.uid, topic, episode, word]);
    let name: String = object.name.chars().take(MAX_NAME_CHARS - 17).collect();
    format!("{}.{hash:016x}", name.trim_end_matches(['.', '-']))
}
