//! The worker's one thread that decides: which daemons there are, what to ask them next, and what to tell the agent.
//!
//! It never calls libvirt and so never hangs; the threads of the pool do. Everything reaches it as an `Input` over one bounded
//! channel: requests of the agent, events, and what came of a task. `advance` then gives idle lanes their next task and says when
//! to look again. What is known of one daemon, and what comes next for it, is in `daemon`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use kulprit_proto::worker::{AddTarget, Dropped, Started, ToWorker, from_worker::Body, to_worker::Request};

use crate::{
    clock::{boot_usec, mono_usec},
    daemon::{Daemon, Done},
    look::reply,
    out::Out,
    pool::Pool,
    target::Target,
    virt::{Seen, VirtError},
};

/// Most daemons: a node has one for each VM and its own.
const MAX_DAEMONS: usize = 1_000;

/// What reaches the control thread.
pub(crate) enum Input {
    Request(ToWorker),
    /// From a callback; stamped there.
    Seen {
        generation: u64,
        seen: Seen,
        boot_usec: u64,
    },
    /// A task of a daemon's lane has ended.
    Done {
        target: u64,
        done: Done,
    },
}

/// What all daemons share.
pub(crate) struct Tools<W> {
    pub(crate) out: Out<W>,
    pub(crate) pool: Pool,
    /// For what comes of tasks.
    pub(crate) inputs: SyncSender<Input>,
    /// A call that takes longer counts as hung, microseconds.
    pub(crate) deadline_usec: u64,
    /// Events that found the channel full.
    pub(crate) dropped: Arc<AtomicU64>,
    /// Of the newest connection.
    pub(crate) last_generation: u64,
}

impl<W: Write> Tools<W> {
    pub(crate) fn tell(&mut self, target: u64, body: Body) -> io::Result<()> {
        self.out.send(boot_usec(), target, body)
    }

    /// The number of the next connection; no other daemon has it.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    /// Drops what may hang, such as a connection, where that hurts nobody.
    pub(crate) fn drop_aside(&self, what: impl Send + 'static) {
        self.pool.give(Box::new(move || drop(what)));
    }
}

/// The worker's state.
pub(crate) struct Control<W> {
    tools: Tools<W>,
    daemons: BTreeMap<u64, Daemon>,
    last_target: u64,
}

impl<W: Write> Control<W> {
    pub(crate) fn new(tools: Tools<W>) -> Self {
        Self { tools, daemons: BTreeMap::new(), last_target: 0 }
    }

    /// Runs until the agent asks for the end.
    ///
    /// # Errors
    /// The agent's socket is broken.
    pub(crate) fn run(mut self, started: Started, inputs: &Receiver<Input>) -> io::Result<()> {
        self.tools.tell(0, Body::Started(started))?;
        loop {
            let now_usec = mono_usec();
            let wake_usec = self.advance(now_usec)?;
            let wait = Duration::from_micros(wake_usec.saturating_sub(now_usec).max(1_000));
            let mut next = match inputs.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => unreachable!("the reader of the agent's socket holds a sender"),
            };
            // All that is there, before anything new is begun.
            while let Some(input) = next {
                if matches!(&input, Input::Request(ToWorker { request: Some(Request::Shutdown(_)), .. })) {
                    return Ok(());
                }
                self.take(input)?;
                next = inputs.try_recv().ok();
            }
        }
    }

    /// Reports what is late or dropped, gives idle lanes work, and says when to be called again at the latest.
    fn advance(&mut self, now_usec: u64) -> io::Result<u64> {
        let Self { tools, daemons, last_target: _ } = self;
        let n_dropped = tools.dropped.swap(0, Ordering::Relaxed) + tools.out.take_unsendable();
        if n_dropped > 0 {
            tools.tell(0, Body::Dropped(Dropped { events: n_dropped }))?;
            daemons.values_mut().for_each(|daemon| daemon.look_soon(now_usec));
        }
        let mut wake_usec = now_usec + 60_000_000;
        for daemon in daemons.values_mut() {
            wake_usec = wake_usec.min(daemon.advance(tools, now_usec)?);
        }
        Ok(tools.pool.relieve(mono_usec()).map_or(wake_usec, |relief_usec| wake_usec.min(relief_usec)))
    }

    fn take(&mut self, input: Input) -> io::Result<()> {
        match input {
            Input::Request(ToWorker { request_id, target, request }) => self.take_request(request_id, target, request),
            Input::Seen { generation, seen, boot_usec } => {
                match self.daemons.values_mut().find(|daemon| daemon.generation == generation) {
                    Some(daemon) => daemon.take_seen(&mut self.tools, seen, boot_usec),
                    None => Ok(()),
                }
            }
            Input::Done { target, done } => match self.daemons.get_mut(&target) {
                Some(daemon) => daemon.take(&mut self.tools, done),
                None => {
                    // The daemon was left meanwhile; a connection may be among what came.
                    self.tools.drop_aside(done);
                    Ok(())
                }
            },
        }
    }

    fn take_request(&mut self, request_id: u64, target: u64, request: Option<Request>) -> io::Result<()> {
        let why = match (request, self.daemons.get_mut(&target)) {
            (Some(Request::AddTarget(added)), _) => match self.add(target, &added) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
            (Some(Request::RemoveTarget(_)), Some(_)) => {
                let removed = self.daemons.remove(&target);
                self.tools.drop_aside(removed);
                return Ok(());
            }
            (Some(Request::Poll(_)), Some(daemon)) => return daemon.poll(&mut self.tools, request_id),
            (Some(Request::GetDiskErrors(question)), Some(daemon)) => {
                return daemon.ask_for_disk_errors(&mut self.tools, request_id, question.uuid);
            }
            // `run` ends before.
            (Some(Request::Shutdown(_)), _) => return Ok(()),
            (Some(Request::GetJobStats(question)), daemon) => {
                // No reply: a domain whose daemon has gone has no job.
                if let Some(daemon) = daemon {
                    daemon.ask_for_job(question.uuid);
                }
                return Ok(());
            }
            (Some(Request::RemoveTarget(_) | Request::Poll(_) | Request::GetDiskErrors(_)), None) => {
                "declined: no such daemon was added".to_owned()
            }
            (None, _) => "declined: unknown request".to_owned(),
        };
        self.tools.tell(target, reply(request_id, Err(VirtError::own("request", why))))
    }

    fn add(&mut self, number: u64, added: &AddTarget) -> Result<(), String> {
        let target = Target::parse(added).map_err(|error| format!("declined: {error}"))?;
        if number <= self.last_target {
            return Err("declined: the number was used before".to_owned());
        }
        if self.daemons.len() >= MAX_DAEMONS {
            return Err(format!("declined: {MAX_DAEMONS} daemons are the most"));
        }
        self.last_target = number;
        self.daemons.insert(number, Daemon::new(number, target, added));
        Ok(())
    }
}
