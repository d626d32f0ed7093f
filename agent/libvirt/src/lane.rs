//! A lane: a place for one libvirt call at a time, and what shows from outside which call it is in.
//!
//! Any libvirt call can hang with its daemon, and cannot be cancelled. So nobody waits for a lane: its owner looks at its
//! slot, reports a call that overstays its deadline, and begins no second task on it. Each daemon has three: one for calls
//! that wait for the daemon and what it has locked, one for questions that may wait for a domain, and one that asks a second
//! time, on a connection of its own, whether it is the daemon that hangs. The threads are the pool's.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{clock::mono_usec, pool::Pool};

/// How often a call that stays late is reported again, microseconds.
const REPEAT_USEC: u64 = 5_000_000;

/// One libvirt call under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// UUID of the domain it is about.
    pub(crate) domain: Option<String>,
    pub(crate) since_usec: u64,
}

type Slot = Arc<Mutex<Option<Call>>>;

/// Makes calls seen from outside.
pub(crate) struct Caller {
    slot: Slot,
}

impl Caller {
    /// A caller that nobody watches: for start-up.
    pub(crate) fn unwatched() -> Self {
        Self { slot: Slot::default() }
    }

    /// Makes one call.
    pub(crate) fn call<T>(&self, name: &'static str, domain: Option<&str>, make: impl FnOnce() -> T) -> T {
        self.show(Some(Call { name, domain: domain.map(Into::into), since_usec: mono_usec() }));
        let outcome = make();
        self.show(None);
        outcome
    }

    fn show(&self, call: Option<Call>) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = call;
    }
}

/// The place, seen by its owner.
#[derive(Default)]
pub(crate) struct Lane {
    slot: Slot,
    late: LateCall,
    is_busy: bool,
}

impl Lane {
    /// Gives the idle lane its next task, which says itself that it is done.
    pub(crate) fn give(&mut self, pool: &Pool, task: impl FnOnce(&Caller) + Send + 'static) {
        assert!(!self.is_busy, "a lane does one task at a time");
        self.is_busy = true;
        let caller = Caller { slot: Arc::clone(&self.slot) };
        pool.give(Box::new(move || task(&caller)));
    }

    /// Notes that the task given is done.
    pub(crate) fn done(&mut self) {
        self.is_busy = false;
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The call that is late, if one is.
    pub(crate) fn late_call(&self) -> Option<&Call> {
        self.late.0.as_ref().map(|(call, _)| call)
    }

    /// Since when the call under way is out, if there is one and it is one of `names`, microseconds.
    pub(crate) fn out_since_usec(&self, names: &[&str]) -> Option<u64> {
        self.call().filter(|call| names.contains(&call.name)).map(|call| call.since_usec)
    }

    /// What there is to report now.
    pub(crate) fn reports(&mut self, now_usec: u64, deadline_usec: u64) -> Vec<Report> {
        let call = self.call();
        self.late.judge(call, now_usec, deadline_usec)
    }

    /// When there may be something to report; `None` when idle.
    pub(crate) fn wake_usec(&self, now_usec: u64, deadline_usec: u64) -> Option<u64> {
        self.is_busy.then(|| match (&self.late.0, self.call()) {
            (Some(_), _) | (None, None) => now_usec + deadline_usec.min(REPEAT_USEC),
            (None, Some(call)) => call.since_usec + deadline_usec,
        })
    }

    fn call(&self) -> Option<Call> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Something about a late call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It has not returned within its deadline, or is still out.
    Hung { call: Call, age_usec: u64 },
    /// It has returned.
    Ended { call: Call, age_usec: u64 },
}

/// The call that was reported as late, and when it was last.
#[derive(Default)]
struct LateCall(Option<(Call, u64)>);

impl LateCall {
    fn judge(&mut self, current: Option<Call>, now_usec: u64, deadline_usec: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        if let Some((call, _)) = self.0.take_if(|(late, _)| current.as_ref() != Some(late)) {
            let age_usec = now_usec.saturating_sub(call.since_usec);
            reports.push(Report::Ended { call, age_usec });
        }
        if let Some(call) = current {
            let age_usec = now_usec.saturating_sub(call.since_usec);
            let is_due = match &self.0 {
                None => age_usec >= deadline_usec,
                Some((_, reported_usec)) => now_usec >= reported_usec + REPEAT_USEC,
            };
            if is_due {
                self.0 = Some((call.clone(), now_usec));
                reports.push(Report::Hung { call, age_usec });
            }
        }
        reports
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const DEADLINE: u64 = 2 * SECOND;

    fn call(since_usec: u64) -> Call {
        Call { name: "virDomainGetControlInfo", domain: Some("u-1".into()), since_usec }
    }

    /// Looks at times (s) with the start of the call then under way; wants (`h`ung or `e`nded, age in s).
    #[track_caller]
    fn check(looks: &[(u64, Option<u64>)], want: &[(char, u64)]) {
        let mut late = LateCall::default();
        let mut seen = Vec::new();
        for (now, since) in looks {
            for report in late.judge(since.map(|since| call(since * SECOND)), now * SECOND, DEADLINE) {
                seen.push(match report {
                    Report::Hung { age_usec, .. } => ('h', age_usec / SECOND),
                    Report::Ended { age_usec, .. } => ('e', age_usec / SECOND),
                });
            }
        }
        assert_eq!(seen, want);
    }

    #[test]
    fn a_call_within_its_deadline_is_not_reported() {
        check(&[(10, Some(9)), (11, Some(11)), (12, None)], &[]);
    }

    #[test]
    fn a_late_call_is_reported_at_its_deadline_and_every_five_seconds() {
        check(
            &[(11, Some(10)), (12, Some(10)), (14, Some(10)), (16, Some(10)), (17, Some(10)), (22, Some(10))],
            &[('h', 2), ('h', 7), ('h', 12)],
        );
    }

    #[test]
    fn the_end_of_a_late_call_is_reported_once() {
        check(&[(12, Some(10)), (15, None), (16, None)], &[('h', 2), ('e', 5)]);
    }

    #[test]
    fn the_next_call_is_not_taken_for_the_late_one() {
        check(&[(12, Some(10)), (15, Some(14)), (16, Some(14))], &[('h', 2), ('e', 5), ('h', 2)]);
    }

    #[test]
    fn a_lane_shows_the_call_it_is_in() {
        let (entered_tx, entered) = channel();
        let (release, released) = channel::<()>();
        let (done_tx, done) = channel();
        let mut lane = Lane::default();
        assert_eq!(
            (lane.reports(mono_usec(), DEADLINE), lane.wake_usec(mono_usec(), DEADLINE)),
            (vec![], None),
            "idle"
        );
        lane.give(&Pool::default(), move |caller| {
            caller.call("virDomainGetXMLDesc", Some("u-1"), || {
                entered_tx.send(()).unwrap();
                released.recv().unwrap();
            });
            done_tx.send(()).unwrap();
        });
        entered.recv().unwrap();
        assert!(lane.wake_usec(mono_usec(), DEADLINE).is_some());
        let reports = lane.reports(mono_usec() + DEADLINE, DEADLINE);
        assert!(
            matches!(&reports[..], [Report::Hung { call, .. }] if call.domain.as_deref() == Some("u-1")),
            "{reports:?}"
        );
        assert!(lane.late_call().is_some());
        release.send(()).unwrap();
        done.recv().unwrap();
        lane.done();
        let reports = lane.reports(mono_usec(), DEADLINE);
        assert!(matches!(&reports[..], [Report::Ended { .. }]), "{reports:?}");
        assert_eq!(lane.wake_usec(mono_usec(), DEADLINE), None);
    }
}
