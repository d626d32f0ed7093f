//! The worker's one thread that decides: what to ask next, and what to tell the agent.
//!
//! It never calls libvirt and so never hangs; the lanes do. Everything reaches it as an `Input` over one bounded channel:
//! requests of the agent, events, and what came of a lane's task. `advance` then gives idle lanes their next task and says
//! when to look again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use kulprit_proto::worker::{
    self, Connected, ConnectionLost, DomainEvent, Dropped, Hung, HungEnded, LostClass, Started, ToWorker,
    domain_event::Event, from_worker::Body, to_worker::Request,
};

use crate::{
    clock::{boot_usec, mono_usec},
    flags::Times,
    lane::{Lane, Report},
    look::{Answer, LOOK_CALLS, OpenError, Question, reply},
    lost::class_of_close,
    out::Out,
    questions::Questions,
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
/// `Poll`s kept until the next look; more are declined.
const MAX_WAITING: usize = 16;
/// Events kept while a connection is being set up; more are dropped.
const MAX_EARLY: usize = 1_024;

/// What reaches the control thread.
pub(crate) enum Input {
    Request(ToWorker),
    /// From a callback; stamped there.
    Seen {
        generation: u64,
        seen: Seen,
        boot_usec: u64,
    },
    Opened {
        generation: u64,
        outcome: Result<(Arc<Connection>, Connected), OpenError>,
    },
    Beat {
        generation: u64,
        lost: Option<VirtError>,
    },
    /// A second connection was answered, or could not be opened.
    SecondOpinion {
        is_answered: bool,
    },
    Looked {
        generation: u64,
        outcome: Result<Vec<worker::Domain>, VirtError>,
        is_lost: bool,
        took_usec: u64,
    },
    Answered {
        generation: u64,
        uuid: String,
        question: Question,
        answer: Answer,
    },
}

/// Tasks of the lane that waits for the daemon alone.
pub(crate) enum LookTask {
    /// Drops dead connections, then opens a new one.
    Open {
        generation: u64,
        dead: Vec<Arc<Connection>>,
    },
    Beat(Arc<Connection>),
    Look(Arc<Connection>),
}

/// A task of the lane that may wait for a domain: a question about the one with this UUID.
pub(crate) struct AskTask {
    pub(crate) connection: Arc<Connection>,
    pub(crate) uuid: String,
    pub(crate) question: Question,
}

enum Link {
    Down { n_failed: u32, retry_usec: u64 },
    Opening { n_failed: u32, is_reported: bool },
    Up(Arc<Connection>),
}

/// The worker's state.
pub(crate) struct Control<W> {
    times: Times,
    out: Out<W>,
    looks: Lane<LookTask>,
    seconds: Lane<()>,
    /// When the last second opinion was asked for, and when the last good one came.
    second_usec: u64,
    answered_usec: Option<u64>,
    asks: Lane<AskTask>,
    /// Events that found the channel full.
    dropped: Arc<AtomicU64>,
    link: Link,
    generation: u64,
    dead: Vec<Arc<Connection>>,
    /// Events of a connection that is still being set up.
    early: Vec<(u64, Seen)>,
    look: u64,
    look_usec: u64,
    beat_usec: u64,
    /// `Poll`s that the next look answers, and that the present one does.
    polls: Vec<u64>,
    polls_under_way: Vec<u64>,
    questions: Questions,
}

impl<W: Write> Control<W> {
    pub(crate) fn new(
        times: Times,
        out: Out<W>,
        looks: Lane<LookTask>,
        seconds: Lane<()>,
        asks: Lane<AskTask>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            times,
            out,
            looks,
            seconds,
            second_usec: 0,
            answered_usec: None,
            asks,
            dropped,
            link: Link::Down { n_failed: 0, retry_usec: 0 },
            generation: 0,
            dead: Vec::new(),
            early: Vec::new(),
            look: 0,
            look_usec: 0,
            beat_usec: 0,
            polls: Vec::new(),
            polls_under_way: Vec::new(),
            questions: Questions::default(),
        }
    }

    /// Runs until the agent asks for the end.
    ///
    /// # Errors
    /// The agent's socket is broken.
    pub(crate) fn run(mut self, started: Started, inputs: &Receiver<Input>) -> io::Result<()> {
        self.tell(Body::Started(started))?;
        loop {
            let now_usec = mono_usec();
            let wake_usec = self.advance(now_usec)?;
            let wait = Duration::from_micros(wake_usec.saturating_sub(now_usec).max(1_000));
            match inputs.recv_timeout(wait) {
                Ok(Input::Request(ToWorker { request: Some(Request::Shutdown(_)), .. })) => return Ok(()),
                Ok(input) => self.take(input)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the reader of the agent's socket holds a sender"),
            }
        }
    }

    /// Reports what is late or dropped, gives idle lanes work, and says when to be called again at the latest.
    fn advance(&mut self, now_usec: u64) -> io::Result<u64> {
        let n_dropped = self.dropped.swap(0, Ordering::Relaxed) + self.out.take_unsendable();
        if n_dropped > 0 {
            self.tell(Body::Dropped(Dropped { events: n_dropped }))?;
            self.look_soon(now_usec);
        }
        let second_wake = self.start_second_opinion(now_usec);
        self.report_late(now_usec)?;
        let own_wake = self.start_look_task(now_usec);
        self.start_question();
        let deadline_usec = micros(self.times.deadline);
        let look_wake = match self.second_is_awaited_until(now_usec) {
            Some(until_usec) => Some(until_usec),
            None => self.looks.wake_usec(now_usec, deadline_usec),
        };
        let ask_wake = self.asks.wake_usec(now_usec, deadline_usec);
        let idle_usec = now_usec + 60_000_000;
        Ok([look_wake, ask_wake, own_wake, second_wake].into_iter().flatten().min().unwrap_or(idle_usec))
    }

    fn report_late(&mut self, now_usec: u64) -> io::Result<()> {
        let deadline_usec = micros(self.times.deadline);
        let reports = self.asks.reports(now_usec, deadline_usec);
        self.tell_reports(reports)?;
        if self.second_is_awaited_until(now_usec).is_some() {
            return Ok(());
        }
        let reports = self.looks.reports(now_usec, deadline_usec);
        let is_hung = reports.iter().any(|report| matches!(report, Report::Hung { .. }));
        self.tell_reports(reports)?;
        if let Link::Opening { n_failed, is_reported: is_reported @ false } = &mut self.link
            && is_hung
        {
            *is_reported = true;
            let attempt = *n_failed + 1;
            self.tell(Body::ConnectionLost(ConnectionLost {
                class: LostClass::Unanswered.into(),
                text: "connected, but no answer within the deadline".into(),
                code: None,
                os_error: None,
                attempt,
                retry_ms: 0,
            }))?;
        }
        Ok(())
    }

    fn tell_reports(&mut self, reports: Vec<Report>) -> io::Result<()> {
        for report in reports {
            self.tell(match report {
                Report::Hung { call, age_usec } => Body::Hung(Hung {
                    daemon_answers: LOOK_CALLS.contains(&call.name) && self.was_answered_lately(),
                    call: call.name.into(),
                    domain: call.domain,
                    age_ms: age_usec / 1_000,
                }),
                Report::Ended { call, age_usec } => {
                    Body::HungEnded(HungEnded { call: call.name.into(), domain: call.domain, age_ms: age_usec / 1_000 })
                }
            })?;
        }
        Ok(())
    }

    /// Asks on a second connection whether the daemon answers, while a look is out for longer than any that is well. When to call
    /// again otherwise.
    fn start_second_opinion(&mut self, now_usec: u64) -> Option<u64> {
        let since_usec = self.looks.out_since_usec(&LOOK_CALLS)?;
        if self.seconds.is_busy() {
            return None;
        }
        let due_usec = (since_usec + SECOND_AFTER_USEC).max(self.second_usec + micros(self.times.heartbeat));
        if now_usec < due_usec {
            return Some(due_usec);
        }
        self.second_usec = now_usec;
        self.seconds.give(());
        None
    }

    /// Until when a late look is not told, since whose fault it is may become known; `None`: it is told.
    fn second_is_awaited_until(&self, now_usec: u64) -> Option<u64> {
        let until_usec = self.second_usec + micros(self.times.deadline);
        (self.seconds.is_busy() && now_usec < until_usec).then_some(until_usec)
    }

    fn was_answered_lately(&self) -> bool {
        let limit_usec = 3 * micros(self.times.heartbeat);
        self.answered_usec.is_some_and(|at_usec| mono_usec() < at_usec + limit_usec)
    }

    /// Gives the idle look lane what is due. When to call again otherwise.
    fn start_look_task(&mut self, now_usec: u64) -> Option<u64> {
        if self.looks.is_busy() {
            return None;
        }
        match &self.link {
            Link::Down { n_failed, retry_usec } => {
                if now_usec < *retry_usec {
                    return Some(*retry_usec);
                }
                self.link = Link::Opening { n_failed: *n_failed, is_reported: false };
                self.generation += 1;
                let dead = std::mem::take(&mut self.dead);
                self.looks.give(LookTask::Open { generation: self.generation, dead });
            }
            Link::Opening { .. } => {}
            Link::Up(connection) => {
                let connection = Arc::clone(connection);
                if now_usec >= self.look_usec {
                    self.look_usec = now_usec + micros(self.times.look);
                    self.beat_usec = now_usec + micros(self.times.heartbeat);
                    self.polls_under_way = std::mem::take(&mut self.polls);
                    self.looks.give(LookTask::Look(connection));
                } else if now_usec >= self.beat_usec {
                    self.beat_usec = now_usec + micros(self.times.heartbeat);
                    self.looks.give(LookTask::Beat(connection));
                } else {
                    return Some(self.look_usec.min(self.beat_usec));
                }
            }
        }
        None
    }

    /// Gives the idle ask lane its next question.
    fn start_question(&mut self) {
        let Link::Up(connection) = &self.link else { return };
        if self.asks.is_busy() {
            return;
        }
        if let Some((uuid, question)) = self.questions.next() {
            self.asks.give(AskTask { connection: Arc::clone(connection), uuid, question });
        }
    }

    fn take(&mut self, input: Input) -> io::Result<()> {
        match input {
            Input::Request(ToWorker { request_id, request }) => self.take_request(request_id, request),
            Input::Seen { generation, seen, boot_usec } => self.take_seen(generation, seen, boot_usec),
            Input::Opened { generation, outcome } => self.take_opened(generation, outcome),
            Input::Beat { generation, lost } => {
                self.looks.done();
                match lost {
                    Some(error) => self.lose(generation, LostClass::Closed, Some(&error)),
                    None => Ok(()),
                }
            }
            Input::SecondOpinion { is_answered } => {
                self.seconds.done();
                self.answered_usec = is_answered.then(mono_usec);
                Ok(())
            }
            Input::Looked { generation, outcome, is_lost, took_usec } => {
                self.take_looked(generation, outcome, is_lost, took_usec)
            }
            Input::Answered { generation, uuid, question, answer } => {
                self.asks.done();
                match answer {
                    Answer::Tell(body) => self.tell(*body),
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

    fn take_request(&mut self, request_id: u64, request: Option<Request>) -> io::Result<()> {
        let is_up = matches!(self.link, Link::Up(_));
        match request {
            Some(Request::Poll(_)) if is_up && self.polls.len() < MAX_WAITING => {
                self.polls.push(request_id);
                self.look_usec = 0;
                Ok(())
            }
            Some(Request::GetDiskErrors(worker::GetDiskErrors { uuid })) => {
                let may_ask = is_up && self.asks.late_call().is_none();
                if may_ask && self.questions.request_disk_errors(request_id, uuid) {
                    return Ok(());
                }
                self.decline(request_id, "virDomainGetDiskErrors")
            }
            Some(Request::Poll(_)) => self.decline(request_id, "virConnectListAllDomains"),
            // `run` ends before.
            Some(Request::Shutdown(_)) => Ok(()),
            None => self.decline(request_id, "unknown request"),
        }
    }

    fn decline(&mut self, request_id: u64, call: &'static str) -> io::Result<()> {
        let why = match (&self.link, self.asks.late_call()) {
            (Link::Up(_), Some(late)) => format!("declined: still waiting for {}", late.name),
            (Link::Up(_), None) => "declined: too many requests".into(),
            (Link::Down { .. } | Link::Opening { .. }, _) => "declined: not connected".into(),
        };
        self.tell(reply(request_id, Err(VirtError::own(call, why))))
    }

    fn take_opened(
        &mut self,
        generation: u64,
        outcome: Result<(Arc<Connection>, Connected), OpenError>,
    ) -> io::Result<()> {
        self.looks.done();
        // The end of a late call before what it led to.
        self.report_late(mono_usec())?;
        match outcome {
            Ok((connection, connected)) => {
                self.link = Link::Up(connection);
                self.tell(Body::Connected(connected))?;
                let now_usec = mono_usec();
                (self.look_usec, self.beat_usec) = (now_usec, now_usec + micros(self.times.heartbeat));
                for (boot_usec, seen) in std::mem::take(&mut self.early) {
                    self.take_seen(generation, seen, boot_usec)?;
                }
                Ok(())
            }
            Err(OpenError { class, error }) => self.lose(generation, class, Some(&error)),
        }
    }

    fn take_looked(
        &mut self,
        generation: u64,
        outcome: Result<Vec<worker::Domain>, VirtError>,
        is_lost: bool,
        took_usec: u64,
    ) -> io::Result<()> {
        self.looks.done();
        // The end of a late call before what it led to.
        self.report_late(mono_usec())?;
        let polls = std::mem::take(&mut self.polls_under_way);
        let error = outcome.as_ref().err().cloned();
        if is_lost || generation != self.generation {
            self.lose(generation, LostClass::Closed, error.as_ref())?;
        } else if let Ok(domains) = outcome {
            self.look += 1;
            self.questions.note_look(&domains);
            self.out.send_look(boot_usec(), self.look, domains, took_usec)?;
        }
        for request_id in polls {
            let outcome = error.clone().map_or(Ok(Vec::new()), Err);
            self.tell(reply(request_id, outcome))?;
        }
        Ok(())
    }

    fn take_seen(&mut self, generation: u64, seen: Seen, boot_usec: u64) -> io::Result<()> {
        if generation != self.generation {
            return Ok(());
        }
        if matches!(self.link, Link::Opening { .. }) && !matches!(seen, Seen::Closed { .. }) {
            if self.early.len() < MAX_EARLY {
                self.early.push((boot_usec, seen));
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        match seen {
            Seen::Event(event) => {
                self.follow_up(&event);
                self.out.send(boot_usec, Body::Event(*event))
            }
            Seen::DevicesChanged { uuid } => {
                self.questions.note_devices_changed(uuid);
                Ok(())
            }
            Seen::Closed { reason } => match (class_of_close(reason), &self.link) {
                (Some(class), Link::Up(_)) => self.lose(generation, class, None),
                // While opening, the attempt itself will say so.
                _ => Ok(()),
            },
        }
    }

    /// What an event makes worth asking.
    fn follow_up(&mut self, event: &DomainEvent) {
        self.questions.note_event(event);
        match &event.event {
            Some(
                Event::Lifecycle(_)
                | Event::IoError(_)
                | Event::ControlError(_)
                | Event::JobCompleted(_)
                | Event::Watchdog(_),
            ) => self.look_soon(mono_usec()),
            Some(Event::MigrationIteration(_) | Event::MemoryFailure(_) | Event::QemuEvent(_)) | None => {}
        }
    }

    fn look_soon(&mut self, now_usec: u64) {
        self.look_usec = self.look_usec.min(now_usec + LOOK_AFTER_EVENT_USEC);
    }

    /// The connection (or the attempt at one) of this generation is over.
    fn lose(&mut self, generation: u64, class: LostClass, error: Option<&VirtError>) -> io::Result<()> {
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
        self.tell(Body::ConnectionLost(ConnectionLost {
            class: class.into(),
            text: error.map_or_else(|| "the connection ended".into(), |error| error.text.clone()),
            code: error.filter(|error| error.code != 0).map(|error| error.code.cast_signed()),
            os_error: error.and_then(|error| error.os_error),
            attempt: n_failed,
            retry_ms,
        }))?;
        let waiting: Vec<u64> = self.polls.drain(..).chain(self.questions.clear()).collect();
        for request_id in waiting {
            self.decline(request_id, "request")?;
        }
        Ok(())
    }

    fn tell(&mut self, body: Body) -> io::Result<()> {
        self.out.send(boot_usec(), body)
    }
}

/// Wait before the next attempt after so many failed in a row, ms.
fn retry_ms(n_failed: u32) -> u32 {
    RETRY_FIRST_MS.saturating_mul(1 << n_failed.min(16)).min(RETRY_LAST_MS)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_back_off_to_five_seconds() {
        let waits: Vec<u32> = [0, 1, 2, 3, 4, 40].into_iter().map(retry_ms).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
    }
}
