//! One libvirt daemon: whether there is a connection, what is asked next, and what is told of it.
//!
//! Part of the control thread's state, and like it never in a call itself: tasks go to the three lanes, what came of them comes back
//! as a `Done`. Looks and signs of life fall on multiples of their periods, so that those of all daemons fall together and the
//! machine sleeps between.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
};

use kulprit_proto::worker::{
    self, AddTarget, Connected, ConnectionLost, DomainEvent, Hung, HungEnded, LostClass, domain_event::Event,
    from_worker::Body,
};
use virt_sys as sys;

use crate::{
    clock::{boot_usec, mono_usec},
    control::{Input, Tools},
    lane::{Caller, Lane, Report},
    look::{self, Answer, LOOK_CALLS, OpenError, Question, reply},
    lost::class_of_close,
    questions::Questions,
    target::{Hold, Target},
    virt::{Connection, Seen, VirtError},
};

/// Wait before the first attempt to reconnect, and the longest. Doubled in between; no jitter, as nobody else connects to
/// this daemon at our pace.
const RETRY_FIRST_MS: u32 = 500;
const RETRY_LAST_MS: u32 = 5_000;
/// A look follows an event after this long, so that a burst of events costs one look, microseconds.
const LOOK_AFTER_EVENT_USEC: u64 = 250_000;
/// A look that is out for longer may wait for a domain or for the daemon: the second opinion tells. Looks that are well take 1 ms.
const SECOND_AFTER_USEC: u64 = 500_000;
/// An attempt to connect that lasts so long has long found the socket, microseconds.
const LET_GO_USEC: u64 = 1_000_000;
/// Looks until it is asked again which domains are persistent, should an event have been lost.
const N_LOOKS_OF_PERSISTENT: u64 = 12;
/// Shortest period of looks and signs of life, ms.
const LEAST_PERIOD_MS: u32 = 100;
/// `Poll`s kept until the next look; more are declined.
const MAX_WAITING: usize = 16;
/// Events kept while a connection is being set up; more are dropped.
const MAX_EARLY: usize = 1_024;

/// What came of a task.
pub(crate) enum Done {
    Opened {
        outcome: Result<(Arc<Connection>, Connected), OpenError>,
    },
    Beat {
        generation: u64,
        lost: Option<VirtError>,
    },
    Looked {
        generation: u64,
        outcome: Result<Vec<worker::Domain>, VirtError>,
        /// If it was asked for and answered.
        persistent: Option<BTreeSet<String>>,
        is_lost: bool,
        took_usec: u64,
    },
    /// A second connection was answered, or could not be opened.
    SecondOpinion {
        is_answered: bool,
    },
    Answered {
        generation: u64,
        uuid: String,
        question: Question,
        answer: Answer,
    },
}

enum Link {
    Down { n_failed: u32, retry_usec: u64 },
    Opening { n_failed: u32, is_reported: bool, since_usec: u64 },
    Up(Arc<Connection>),
}

/// See the module. May hold connections: dropped where a call may hang.
pub(crate) struct Daemon {
    number: u64,
    target: Arc<Target>,
    readonly: bool,
    look_every_usec: u64,
    beat_every_usec: u64,
    /// Of the present connection, or the attempt at one.
    pub(crate) generation: u64,
    link: Link,
    /// Opens, beats and looks.
    looks: Lane,
    asks: Lane,
    seconds: Lane,
    open_hold: Hold,
    second_hold: Hold,
    /// When the last second opinion was asked for, and when the last good one came.
    second_usec: u64,
    answered_usec: Option<u64>,
    dead: Vec<Arc<Connection>>,
    /// Events of a connection that is still being set up.
    early: Vec<(u64, Seen)>,
    look: u64,
    look_usec: u64,
    beat_usec: u64,
    /// `None`: to be asked for.
    persistent: Option<BTreeSet<String>>,
    /// `Poll`s that the next look answers, and that the present one does.
    polls: Vec<u64>,
    polls_under_way: Vec<u64>,
    questions: Questions,
}

impl Daemon {
    pub(crate) fn new(number: u64, target: Target, added: &AddTarget) -> Self {
        let period_usec = |ms: u32| u64::from(ms.max(LEAST_PERIOD_MS)) * 1_000;
        Self {
            number,
            target: Arc::new(target),
            readonly: added.readonly,
            look_every_usec: period_usec(added.look_ms),
            beat_every_usec: period_usec(added.heartbeat_ms),
            generation: 0,
            link: Link::Down { n_failed: 0, retry_usec: 0 },
            looks: Lane::default(),
            asks: Lane::default(),
            seconds: Lane::default(),
            open_hold: Hold::default(),
            second_hold: Hold::default(),
            second_usec: 0,
            answered_usec: None,
            dead: Vec::new(),
            early: Vec::new(),
            look: 0,
            look_usec: 0,
            beat_usec: 0,
            persistent: None,
            polls: Vec::new(),
            polls_under_way: Vec::new(),
            questions: Questions::default(),
        }
    }

    /// Reports what is late, gives idle lanes work, and says when to be called again at the latest.
    pub(crate) fn advance(&mut self, tools: &mut Tools<impl Write>, now_usec: u64) -> io::Result<u64> {
        let second_wake = self.start_second_opinion(tools, now_usec);
        self.report_late(tools, now_usec)?;
        let own_wake = self.start_look_task(tools, now_usec);
        self.start_question(tools);
        let look_wake = match self.second_is_awaited_until(tools, now_usec) {
            Some(until_usec) => Some(until_usec),
            None => self.looks.wake_usec(now_usec, tools.deadline_usec),
        };
        let ask_wake = self.asks.wake_usec(now_usec, tools.deadline_usec);
        let let_go_wake = self.let_go(now_usec);
        let idle_usec = now_usec + 60_000_000;
        let wakes = [look_wake, ask_wake, own_wake, second_wake, let_go_wake];
        Ok(wakes.into_iter().flatten().min().unwrap_or(idle_usec))
    }

    /// Lets go of sockets whose daemons accept and do not answer. When to call again otherwise.
    fn let_go(&self, now_usec: u64) -> Option<u64> {
        let opening_usec = match &self.link {
            Link::Opening { since_usec, .. } => Some((*since_usec, &self.open_hold)),
            Link::Down { .. } | Link::Up(_) => None,
        };
        let second_usec = self.seconds.is_busy().then_some((self.second_usec, &self.second_hold));
        let mut wake_usec: Option<u64> = None;
        for (since_usec, hold) in opening_usec.into_iter().chain(second_usec) {
            let due_usec = since_usec + LET_GO_USEC;
            if now_usec >= due_usec {
                hold.let_go();
            } else {
                wake_usec = Some(wake_usec.map_or(due_usec, |other| other.min(due_usec)));
            }
        }
        wake_usec
    }

    fn report_late(&mut self, tools: &mut Tools<impl Write>, now_usec: u64) -> io::Result<()> {
        let reports = self.asks.reports(now_usec, tools.deadline_usec);
        self.tell_reports(tools, reports)?;
        if self.second_is_awaited_until(tools, now_usec).is_some() {
            return Ok(());
        }
        let reports = self.looks.reports(now_usec, tools.deadline_usec);
        let is_hung = reports.iter().any(|report| matches!(report, Report::Hung { .. }));
        self.tell_reports(tools, reports)?;
        if let Link::Opening { n_failed, is_reported: is_reported @ false, .. } = &mut self.link
            && is_hung
        {
            *is_reported = true;
            let attempt = *n_failed + 1;
            let lost = ConnectionLost {
                class: LostClass::Unanswered.into(),
                text: "connected, but no answer within the deadline".into(),
                code: None,
                os_error: None,
                attempt,
                retry_ms: 0,
            };
            tools.tell(self.number, Body::ConnectionLost(lost))?;
        }
        Ok(())
    }

    fn tell_reports(&self, tools: &mut Tools<impl Write>, reports: Vec<Report>) -> io::Result<()> {
        for report in reports {
            let body = match report {
                Report::Hung { call, age_usec } => Body::Hung(Hung {
                    daemon_answers: LOOK_CALLS.contains(&call.name) && self.was_answered_lately(),
                    call: call.name.into(),
                    domain: call.domain,
                    age_ms: age_usec / 1_000,
                }),
                Report::Ended { call, age_usec } => {
                    Body::HungEnded(HungEnded { call: call.name.into(), domain: call.domain, age_ms: age_usec / 1_000 })
                }
            };
            tools.tell(self.number, body)?;
        }
        Ok(())
    }

    /// Asks on a second connection whether the daemon answers, while a look is out for longer than any that is well. When to call
    /// again otherwise.
    fn start_second_opinion(&mut self, tools: &Tools<impl Write>, now_usec: u64) -> Option<u64> {
        let since_usec = self.looks.out_since_usec(&LOOK_CALLS)?;
        if self.seconds.is_busy() {
            return None;
        }
        let due_usec = (since_usec + SECOND_AFTER_USEC).max(self.second_usec + self.beat_every_usec);
        if now_usec < due_usec {
            return Some(due_usec);
        }
        self.second_usec = now_usec;
        let (target, readonly, hold) = (Arc::clone(&self.target), self.readonly, self.second_hold.clone());
        let done = self.done(&tools.inputs);
        self.seconds.give(&tools.pool, move |caller| {
            done(Done::SecondOpinion { is_answered: look::is_answered(caller, &target, readonly, &hold) });
        });
        None
    }

    /// Until when a late look is not told, since whose fault it is may become known; `None`: it is told.
    fn second_is_awaited_until(&self, tools: &Tools<impl Write>, now_usec: u64) -> Option<u64> {
        let until_usec = self.second_usec + tools.deadline_usec;
        (self.seconds.is_busy() && now_usec < until_usec).then_some(until_usec)
    }

    fn was_answered_lately(&self) -> bool {
        let limit_usec = 3 * self.beat_every_usec;
        self.answered_usec.is_some_and(|at_usec| mono_usec() < at_usec + limit_usec)
    }

    /// How a task says that it is done.
    fn done(&self, inputs: &SyncSender<Input>) -> impl FnOnce(Done) + Send + use<> {
        let (inputs, target) = (inputs.clone(), self.number);
        move |done| inputs.send(Input::Done { target, done }).expect("the control thread ends only with the process")
    }

    /// Gives the idle look lane what is due. When to call again otherwise.
    fn start_look_task(&mut self, tools: &mut Tools<impl Write>, now_usec: u64) -> Option<u64> {
        if self.looks.is_busy() {
            return None;
        }
        match &self.link {
            Link::Down { n_failed, retry_usec } => {
                if now_usec < *retry_usec {
                    return Some(*retry_usec);
                }
                self.link = Link::Opening { n_failed: *n_failed, is_reported: false, since_usec: now_usec };
                self.generation = tools.next_generation();
                let (target, readonly, hold) = (Arc::clone(&self.target), self.readonly, self.open_hold.clone());
                let (generation, dead, done) =
                    (self.generation, std::mem::take(&mut self.dead), self.done(&tools.inputs));
                self.looks.give(&tools.pool, move |caller| {
                    drop(dead);
                    let outcome = look::open(caller, &target, readonly, &hold, generation);
                    done(Done::Opened { outcome: outcome.map(|(connection, said)| (Arc::new(connection), said)) });
                });
                Some(now_usec + LET_GO_USEC)
            }
            Link::Opening { .. } => None,
            Link::Up(connection) => {
                let (connection, done) = (Arc::clone(connection), self.done(&tools.inputs));
                if now_usec >= self.look_usec {
                    self.look_usec = next_multiple(now_usec, self.look_every_usec);
                    self.beat_usec = next_multiple(now_usec, self.beat_every_usec);
                    self.polls_under_way = std::mem::take(&mut self.polls);
                    let wants_persistent = self.persistent.is_none() || self.look.is_multiple_of(N_LOOKS_OF_PERSISTENT);
                    self.looks.give(&tools.pool, move |caller| done(do_look(caller, &connection, wants_persistent)));
                    None
                } else if now_usec >= self.beat_usec {
                    self.beat_usec = next_multiple(now_usec, self.beat_every_usec);
                    self.looks.give(&tools.pool, move |caller| done(do_beat(caller, &connection)));
                    None
                } else {
                    Some(self.look_usec.min(self.beat_usec))
                }
            }
        }
    }

    /// Gives the idle ask lane its next question.
    fn start_question(&mut self, tools: &Tools<impl Write>) {
        let Link::Up(connection) = &self.link else { return };
        if self.asks.is_busy() {
            return;
        }
        let Some((uuid, question)) = self.questions.next() else { return };
        let (connection, done) = (Arc::clone(connection), self.done(&tools.inputs));
        self.asks.give(&tools.pool, move |caller| {
            let answer = look::ask(caller, &connection, &uuid, &question);
            done(Done::Answered { generation: connection.generation, uuid, question, answer });
        });
    }

    /// Takes what came of a task.
    pub(crate) fn take(&mut self, tools: &mut Tools<impl Write>, done: Done) -> io::Result<()> {
        match done {
            Done::Opened { outcome } => self.take_opened(tools, outcome),
            Done::Beat { generation, lost } => {
                self.looks.done();
                match lost {
                    Some(error) => self.lose(tools, generation, LostClass::Closed, Some(&error)),
                    None => Ok(()),
                }
            }
            Done::Looked { generation, outcome, persistent, is_lost, took_usec } => {
                self.persistent = persistent.or(self.persistent.take());
                self.take_looked(tools, generation, outcome, is_lost, took_usec)
            }
            Done::SecondOpinion { is_answered } => {
                self.seconds.done();
                self.answered_usec = is_answered.then(mono_usec);
                Ok(())
            }
            Done::Answered { generation, uuid, question, answer } => {
                self.asks.done();
                match answer {
                    Answer::Tell(body) => tools.tell(self.number, *body),
                    Answer::PutBack => {
                        if generation == self.generation && question == Question::Disks {
                            self.questions.put_back_disks(uuid);
                        }
                        Ok(())
                    }
                    Answer::Nothing => Ok(()),
                }
            }
        }
    }

    /// The agent wants a look now.
    pub(crate) fn poll(&mut self, tools: &mut Tools<impl Write>, request_id: u64) -> io::Result<()> {
        if !matches!(self.link, Link::Up(_)) || self.polls.len() >= MAX_WAITING {
            return self.decline(tools, request_id, "virConnectGetAllDomainStats");
        }
        self.polls.push(request_id);
        self.look_usec = 0;
        Ok(())
    }

    /// The agent wants the disks' error state of a domain.
    pub(crate) fn ask_for_disk_errors(
        &mut self,
        tools: &mut Tools<impl Write>,
        request_id: u64,
        uuid: String,
    ) -> io::Result<()> {
        let may_ask = matches!(self.link, Link::Up(_)) && self.asks.late_call().is_none();
        if may_ask && self.questions.request_disk_errors(request_id, uuid) {
            return Ok(());
        }
        self.decline(tools, request_id, "virDomainGetDiskErrors")
    }

    /// The agent wants the figures of a domain's job; there is no reply but the figures.
    pub(crate) fn ask_for_job(&mut self, uuid: String) {
        if matches!(self.link, Link::Up(_)) && self.asks.late_call().is_none() {
            self.questions.request_job(uuid);
        }
    }

    fn decline(&self, tools: &mut Tools<impl Write>, request_id: u64, call: &'static str) -> io::Result<()> {
        let why = match (&self.link, self.asks.late_call()) {
            (Link::Up(_), Some(late)) => format!("declined: still waiting for {}", late.name),
            (Link::Up(_), None) => "declined: too many requests".into(),
            (Link::Down { .. } | Link::Opening { .. }, _) => "declined: not connected".into(),
        };
        tools.tell(self.number, reply(request_id, Err(VirtError::own(call, why))))
    }

    fn take_opened(
        &mut self,
        tools: &mut Tools<impl Write>,
        outcome: Result<(Arc<Connection>, Connected), OpenError>,
    ) -> io::Result<()> {
        self.looks.done();
        // The end of a late call before what it led to.
        self.report_late(tools, mono_usec())?;
        match outcome {
            Ok((connection, connected)) => {
                self.link = Link::Up(connection);
                self.persistent = None;
                tools.tell(self.number, Body::Connected(connected))?;
                let now_usec = mono_usec();
                (self.look_usec, self.beat_usec) = (now_usec, next_multiple(now_usec, self.beat_every_usec));
                for (boot_usec, seen) in std::mem::take(&mut self.early) {
                    self.take_seen(tools, seen, boot_usec)?;
                }
                Ok(())
            }
            Err(OpenError { class, error }) => self.lose(tools, self.generation, class, Some(&error)),
        }
    }

    fn take_looked(
        &mut self,
        tools: &mut Tools<impl Write>,
        generation: u64,
        outcome: Result<Vec<worker::Domain>, VirtError>,
        is_lost: bool,
        took_usec: u64,
    ) -> io::Result<()> {
        self.looks.done();
        // The end of a late call before what it led to.
        self.report_late(tools, mono_usec())?;
        let polls = std::mem::take(&mut self.polls_under_way);
        let error = outcome.as_ref().err().cloned();
        if is_lost || generation != self.generation {
            self.lose(tools, generation, LostClass::Closed, error.as_ref())?;
        } else if let Ok(mut domains) = outcome {
            for domain in &mut domains {
                domain.persistent = self.persistent.as_ref().map(|uuids| uuids.contains(&domain.uuid));
            }
            self.look += 1;
            self.questions.note_look(&domains);
            tools.out.send_look(boot_usec(), self.number, self.look, domains, took_usec)?;
        }
        for request_id in polls {
            let outcome = error.clone().map_or(Ok(Vec::new()), Err);
            tools.tell(self.number, reply(request_id, outcome))?;
        }
        Ok(())
    }

    /// Takes what a callback of the present connection saw.
    pub(crate) fn take_seen(&mut self, tools: &mut Tools<impl Write>, seen: Seen, boot_usec: u64) -> io::Result<()> {
        if matches!(self.link, Link::Opening { .. }) && !matches!(seen, Seen::Closed { .. }) {
            if self.early.len() < MAX_EARLY {
                self.early.push((boot_usec, seen));
            } else {
                tools.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        match seen {
            Seen::Event(event) => {
                self.follow_up(&event);
                tools.out.send(boot_usec, self.number, Body::Event(*event))
            }
            Seen::DevicesChanged { uuid } => {
                self.questions.note_devices_changed(uuid);
                Ok(())
            }
            Seen::Closed { reason } => match (class_of_close(reason), &self.link) {
                (Some(class), Link::Up(_)) => self.lose(tools, self.generation, class, None),
                // While opening, the attempt itself will say so.
                _ => Ok(()),
            },
        }
    }

    /// What an event makes worth asking.
    fn follow_up(&mut self, event: &DomainEvent) {
        self.questions.note_event(event);
        match &event.event {
            Some(Event::Lifecycle(lifecycle)) => {
                let kind = lifecycle.event.cast_unsigned();
                if kind == sys::VIR_DOMAIN_EVENT_DEFINED || kind == sys::VIR_DOMAIN_EVENT_UNDEFINED {
                    self.persistent = None;
                }
                self.look_soon(mono_usec());
            }
            Some(Event::IoError(_) | Event::ControlError(_) | Event::JobCompleted(_) | Event::Watchdog(_)) => {
                self.look_soon(mono_usec());
            }
            Some(Event::MigrationIteration(_) | Event::MemoryFailure(_) | Event::QemuEvent(_)) | None => {}
        }
    }

    /// Something happened: the next look comes earlier.
    pub(crate) fn look_soon(&mut self, now_usec: u64) {
        self.look_usec = self.look_usec.min(now_usec + LOOK_AFTER_EVENT_USEC);
    }

    /// The connection (or the attempt at one) of this generation is over.
    fn lose(
        &mut self,
        tools: &mut Tools<impl Write>,
        generation: u64,
        class: LostClass,
        error: Option<&VirtError>,
    ) -> io::Result<()> {
        if generation != self.generation {
            return Ok(());
        }
        let n_failed = match std::mem::replace(&mut self.link, Link::Down { n_failed: 0, retry_usec: 0 }) {
            Link::Up(connection) => {
                self.dead.push(connection);
                0
            }
            Link::Opening { n_failed, .. } => n_failed + 1,
            // Said already.
            down @ Link::Down { .. } => {
                self.link = down;
                return Ok(());
            }
        };
        let retry_ms = retry_ms(n_failed);
        self.link = Link::Down { n_failed, retry_usec: mono_usec() + u64::from(retry_ms) * 1_000 };
        self.early.clear();
        let lost = ConnectionLost {
            class: class.into(),
            text: error.map_or_else(|| "the connection ended".into(), |error| error.text.clone()),
            code: error.filter(|error| error.code != 0).map(|error| error.code.cast_signed()),
            os_error: error.and_then(|error| error.os_error),
            attempt: n_failed,
            retry_ms,
        };
        tools.tell(self.number, Body::ConnectionLost(lost))?;
        let waiting: Vec<u64> = self.polls.drain(..).chain(self.questions.clear()).collect();
        for request_id in waiting {
            self.decline(tools, request_id, "request")?;
        }
        Ok(())
    }
}

fn do_beat(caller: &Caller, connection: &Connection) -> Done {
    // Any answer is a sign of life, an error too, as long as the connection lives.
    let error = connection.daemon_version(caller).err();
    let lost = error.filter(|_| !connection.is_alive(caller));
    Done::Beat { generation: connection.generation, lost }
}

fn do_look(caller: &Caller, connection: &Connection, wants_persistent: bool) -> Done {
    let began_usec = mono_usec();
    let outcome = look::look(caller, connection);
    let persistent = wants_persistent.then(|| look::persistent(caller, connection)).flatten();
    let is_lost = outcome.is_err() && !connection.is_alive(caller);
    let took_usec = mono_usec() - began_usec;
    Done::Looked { generation: connection.generation, outcome, persistent, is_lost, took_usec }
}

/// The first multiple of the period after now.
fn next_multiple(now_usec: u64, period_usec: u64) -> u64 {
    (now_usec / period_usec + 1) * period_usec
}

/// Wait before the next attempt after so many failed in a row, ms.
fn retry_ms(n_failed: u32) -> u32 {
    RETRY_FIRST_MS.saturating_mul(1 << n_failed.min(16)).min(RETRY_LAST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_back_off_to_five_seconds() {
        let waits: Vec<u32> = [0, 1, 2, 3, 4, 40].into_iter().map(retry_ms).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    }

    #[test]
    fn what_has_one_period_falls_on_one_moment() {
        assert_eq!([0, 1, 1_999, 2_000].map(|now| next_multiple(now, 2_000)), [2_000, 2_000, 2_000, 4_000]);
    }
}
