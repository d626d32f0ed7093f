//! The one thread that touches the spool's files.
//!
//! It takes what is queued, writes it in one go, makes it durable, and only then answers. The stack is small: it calls nothing
//! deep, and the agent has 8 MB for everything.

use std::{fs::File, io, thread};

use kulprit_daemon::Clock;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, Span, SpoolStatus, log::Log};

/// Commands taken before a commit at most: bounds how long the first of them waits.
const N_GROUP: usize = 256;
const STACK_BYTES: usize = 256 * 1024;

pub(super) fn start(
    log: Log,
    lock: Option<File>,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<SpoolStatus>,
) -> io::Result<()> {
    let worker = Worker { log, clock, status, waiting: Vec::new() };
    thread::Builder::new()
        .name("spool".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || worker.run(commands, lock))?;
    Ok(())
}

struct Worker {
    log: Log,
    clock: Clock,
    status: watch::Sender<SpoolStatus>,
    waiting: Vec<(oneshot::Sender<Span>, Span)>,
}

impl Worker {
    fn run(mut self, mut commands: mpsc::Receiver<Command>, lock: Option<File>) {
        while let Some(first) = commands.blocking_recv() {
            let mut closing = self.take(first);
            for _ in 1..N_GROUP {
                let Ok(command) = commands.try_recv() else { break };
                closing = self.take(command).or(closing);
            }
            self.commit();
            if let Some(reply) = closing {
                self.log.close();
                drop((commands, lock));
                let _ = reply.send(());
                return;
            }
        }
        self.log.close();
    }

    /// Starts what a command asks; returns where to tell that the spool is closed.
    fn take(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
        match command {
            Command::Append { batch, reply } => {
                let span = self.log.append(batch, self.clock.now());
                self.waiting.push((reply, span));
            }
            Command::Read { from, reply } => {
                let _ = reply.send(self.log.read(from));
            }
            Command::Ack(ack) => self.log.ack(&ack),
            Command::Close(reply) => return Some(reply),
        }
        None
    }

    fn commit(&mut self) {
        if !self.waiting.is_empty() {
            let began = self.clock.now();
            self.log.commit();
            self.log.count_commit(u64::try_from(self.clock.now().usec_since(began)).unwrap_or(0));
        }
        // First: who is answered finds there what the answer speaks of.
        let status = self.log.status();
        self.status.send_if_modified(|old| std::mem::replace(old, status) != status);
        for (reply, span) in self.waiting.drain(..) {
            let _ = reply.send(span);
        }
    }
}
