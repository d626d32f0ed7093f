//! One state on its way from look to word: holds, edges, and when to say it again.
//!
//! A look that sees a state does not yet raise it: it must be seen without a break for `raise_after_ms`, and seen absent for
//! `clear_after_ms` to be cleared. Only a look moves a hold on; time alone proves nothing. While the first hold runs nothing
//! is said, because nothing is known yet. What could not be looked at is `Unknown` at once, and breaks every hold.

use kulprit_daemon::backoff::stable_seed;
use kulprit_judge::StateVerdict;
use kulprit_model::{Attributes, FindingCode, Moment, State, Status, Subject};

/// Edges of one key are sent at most this often in the long run, microseconds: a person cannot follow more.
const EDGE_EVERY_USEC: i64 = 1_000_000;
/// So many edges may go out at once before the limit holds, as a multiple of [`EDGE_EVERY_USEC`].
const EDGE_BURST: i64 = 4;
/// A change of attributes alone waits so long, microseconds: they refine what is said, they do not turn it round.
const DETAIL_EVERY_USEC: i64 = 5_000_000;
/// A state that is present is said again after this, microseconds, so that central sees it lives and how it grows.
const REFRESH_PRESENT_USEC: i64 = 60_000_000;
/// Every other state is said again after this, microseconds.
const REFRESH_USEC: i64 = 600_000_000;
/// When one is said again, so are those that would be within this part of their interval: each write wakes the disk and central.
const REFRESH_TOGETHER: i64 = 10;

/// One state that a probe owns.
#[derive(Clone, Debug)]
pub(super) struct Track {
    /// What is said of it. `None` while its first hold runs.
    pub(super) state: Option<State>,
    /// The last look that spoke of it, of this run of the agent.
    pub(super) looked: Option<Moment>,
    /// How long it has been seen present without a break.
    run: Option<Run>,
    /// First of the looks in a row that saw it absent while it is said to be present.
    absent_since: Option<Moment>,
    sent: Option<Sent>,
    /// When the next edge would be on time if edges came at the limit; earlier ones use up the burst.
    edge_due_usec: i64,
    is_edge_waiting: bool,
    is_detail_waiting: bool,
}

/// Thousandths of a tenth by which all states of a node are said again early: a hash, so that not all nodes of a fleet speak at one
/// moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early(i64);

impl Early {
    pub(super) fn of(boot_id: &str) -> Self {
        Self(i64::try_from(stable_seed(&["refresh", boot_id]) % 1_000).unwrap_or(0))
    }
}

#[derive(Clone, Debug)]
struct Run {
    since: Moment,
    key: Option<String>,
    /// Whether this same key has been held long enough.
    is_held: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Moment,
    status: Status,
    since: Moment,
}

/// What a look did to a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that anybody needs to hear of.
    None,
    /// The status changed.
    Edge,
    /// The status changed before the last change was sent: that one is never heard of.
    Coalesced,
}

impl Track {
    pub(super) const fn new() -> Self {
        Self {
            state: None,
            looked: None,
            run: None,
            absent_since: None,
            sent: None,
            edge_due_usec: i64::MIN,
            is_edge_waiting: false,
            is_detail_waiting: false,
        }
    }

    /// What an earlier run of the agent said in this boot. It stands until somebody looks or the time limit passes.
    pub(super) fn restored(state: State) -> Self {
        let sent = Sent { at: state.looked, status: state.status, since: state.since };
        Self { state: Some(state), sent: Some(sent), ..Self::new() }
    }

    pub(super) fn status(&self) -> Option<Status> {
        self.state.as_ref().map(|state| state.status)
    }

    /// Whether it is seen present and not yet raised.
    pub(super) fn is_held_back(&self) -> bool {
        self.run.is_some() && self.status() != Some(Status::Present)
    }

    /// One look saw this.
    pub(super) fn see(&mut self, verdict: StateVerdict, at: Moment) -> Change {
        self.looked = Some(at);
        match verdict.status {
            Status::Present => self.see_present(verdict, at),
            Status::Absent => self.see_absent(verdict, at),
            Status::Unknown => {
                let because = verdict.unknown_because.clone().unwrap_or_else(|| "the probe gave no reason".to_owned());
                self.lose(verdict.code, &verdict.subject, because, at)
            }
        }
    }

    /// Nobody could look, or nobody has for too long.
    pub(super) fn lose(&mut self, code: FindingCode, subject: &Subject, because: String, at: Moment) -> Change {
        self.run = None;
        self.absent_since = None;
        if let Some(state) = &mut self.state
            && state.status == Status::Unknown
        {
            state.looked = at;
            self.is_detail_waiting |= state.unknown_because.as_deref() != Some(because.as_str());
            state.unknown_because = Some(because);
            return Change::None;
        }
        let lost = StateVerdict::unknown(code, subject.clone(), because);
        self.say(lost, at, at)
    }

    /// A positive look that what it is said of has ended: absent, past every hold, for it cannot come back.
    pub(super) fn end(&mut self, verdict: StateVerdict, at: Moment) -> Change {
        self.looked = Some(at);
        self.run = None;
        self.say(verdict, at, at)
    }

    fn see_present(&mut self, verdict: StateVerdict, at: Moment) -> Change {
        let before = self.run.take();
        let same = before.as_ref().filter(|run| run.key == verdict.hold_key);
        let mut since = same.map_or(at, |run| run.since);
        if let Some(known_since) = verdict.since
            && known_since.boottime_usec < since.boottime_usec
        {
            since = known_since;
        }
        let raise_after_usec = i64::from(verdict.code.spec().raise_after_ms) * 1_000;
        let is_held = at.usec_since(since) >= raise_after_usec;
        let has_passed_on = before.as_ref().is_some_and(|run| run.key != verdict.hold_key && !run.is_held);
        self.run = Some(Run { since, key: verdict.hold_key.clone(), is_held });
        self.absent_since = None;
        match &self.state {
            // The first other key may be the same stall seen through another thread. The second before that one was held is
            // something that moves: what was raised is over, and the look that shows it is this one.
            Some(state) if state.status == Status::Present => {
                if has_passed_on && !is_held {
                    let over = StateVerdict { status: Status::Absent, ..verdict };
                    self.say(over, at, at)
                } else {
                    self.update(verdict, at)
                }
            }
            _ if is_held => self.say(verdict, since, at),
            _ => Change::None,
        }
    }

    fn see_absent(&mut self, verdict: StateVerdict, at: Moment) -> Change {
        self.run = None;
        match self.status() {
            Some(Status::Absent) => self.update(verdict, at),
            Some(Status::Present) => {
                let since = *self.absent_since.get_or_insert(at);
                if at.usec_since(since) >= i64::from(verdict.code.spec().clear_after_ms) * 1_000 {
                    self.say(verdict, since, at)
                } else {
                    Change::None
                }
            }
            Some(Status::Unknown) | None => self.say(verdict, at, at),
        }
    }

    /// The same status, seen again: newer facts, no edge.
    fn update(&mut self, verdict: StateVerdict, at: Moment) -> Change {
        if let Some(state) = &mut self.state {
            state.looked = at;
            self.is_detail_waiting |= state.attributes != verdict.attributes;
            state.attributes = verdict.attributes;
            state.evidence = verdict.evidence;
        }
        Change::None
    }

    fn say(&mut self, verdict: StateVerdict, since: Moment, at: Moment) -> Change {
        let StateVerdict { code, subject, status, unknown_because, hold_key: _, since: _, attributes, evidence } =
            verdict;
        let unknown_because = unknown_because.filter(|_| status == Status::Unknown);
        if status != Status::Present {
            self.absent_since = None;
        }
        let attributes = if status == Status::Unknown { Attributes::new() } else { attributes };
        let state = State { code, subject, status, since, looked: at, unknown_because, attributes, evidence };
        self.state = Some(state);
        let was_waiting = std::mem::replace(&mut self.is_edge_waiting, true);
        if was_waiting { Change::Coalesced } else { Change::Edge }
    }

    /// What is to be said now, if anything; with `refreshes` also what is only said again, and soon due. Marks it as said.
    pub(super) fn take_due(&mut self, now: Moment, refreshes: Option<Early>) -> Option<State> {
        let state = self.state.as_ref()?;
        let soon_usec = now.boottime_usec.saturating_add(refresh_every_usec(state) / REFRESH_TOGETHER);
        let is_refresh_due = refreshes.is_some_and(|early| self.refresh_due_usec(early) <= soon_usec);
        if self.due_usec() > now.boottime_usec && !is_refresh_due {
            return None;
        }
        let is_edge = self.is_edge_waiting;
        let is_same = self.sent.is_some_and(|sent| sent.status == state.status && sent.since == state.since);
        self.is_edge_waiting = false;
        if is_edge && is_same && !self.is_detail_waiting && !is_refresh_due {
            // There and back between two words: nothing to say.
            return None;
        }
        self.is_detail_waiting = false;
        if is_edge {
            self.edge_due_usec = self.edge_due_usec.max(now.boottime_usec).saturating_add(EDGE_EVERY_USEC);
        }
        self.sent = Some(Sent { at: now, status: state.status, since: state.since });
        Some(state.clone())
    }

    /// What waits for its turn, out of turn. Marks it as said.
    pub(super) fn take_waiting(&mut self, now: Moment) -> Option<State> {
        let is_waiting = self.is_edge_waiting || self.is_detail_waiting;
        self.mark_sent(now);
        self.state.clone().filter(|_| is_waiting)
    }

    /// It goes out by another way (a snapshot).
    pub(super) fn mark_sent(&mut self, now: Moment) {
        if let Some(state) = &self.state {
            self.sent = Some(Sent { at: now, status: state.status, since: state.since });
            self.is_edge_waiting = false;
            self.is_detail_waiting = false;
        }
    }

    /// When news is to be said next, boot time in microseconds; `i64::MAX`: there is none. What is only said again goes out with the
    /// next look and wakes nobody.
    pub(super) fn due_usec(&self) -> i64 {
        let edge = self.is_edge_waiting.then(|| self.edge_due_usec.saturating_sub(EDGE_BURST * EDGE_EVERY_USEC));
        let sent_usec = self.sent.map_or(i64::MIN, |sent| sent.at.boottime_usec);
        let detail = self.is_detail_waiting.then(|| sent_usec.saturating_add(DETAIL_EVERY_USEC));
        edge.unwrap_or(i64::MAX).min(detail.unwrap_or(i64::MAX))
    }

    /// When it is said again at the latest, boot time in microseconds; `i64::MAX`: it was never said. Up to a tenth earlier than the
    /// interval.
    pub(super) fn refresh_due_usec(&self, early: Early) -> i64 {
        let Some(state) = &self.state else { return i64::MAX };
        let Some(sent) = self.sent else { return i64::MIN };
        let every = refresh_every_usec(state);
        sent.at.boottime_usec.saturating_add(every - every / 10_000 * early.0)
    }
}

const fn refresh_every_usec(state: &State) -> i64 {
    match state.status {
        Status::Present => REFRESH_PRESENT_USEC,
        Status::Absent | Status::Unknown => REFRESH_USEC,
    }
}
