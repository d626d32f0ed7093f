//! The worker under test: started as the agent starts it, and what it tells.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use kulprit_proto::worker::{AddTarget, FromWorker, RemoveTarget, ToWorker, from_worker::Body, to_worker::Request};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
};
use prost::Message;

/// A running worker. Dropping it kills it.
pub(crate) struct Worker {
    child: Child,
    socket: Option<UnixStream>,
    /// All it told, for the message of a failed test.
    told: Vec<(u64, Body)>,
    next_id: u64,
    last_target: u64,
}

/// A daemon by its URI alone.
pub(crate) fn uri(uri: &str) -> AddTarget {
    AddTarget { uri: uri.into(), look_ms: 10_000, heartbeat_ms: 2_000, ..AddTarget::default() }
}

/// The system's daemon with its socket there.
pub(crate) fn socket(path: &Path) -> AddTarget {
    AddTarget { socket: Some(path.to_str().unwrap().into()), ..uri("qemu:///system") }
}

impl Worker {
    /// A worker that talks to this daemon, its first.
    pub(crate) fn start(added: AddTarget) -> Self {
        Self::start_with(added, |_| {})
    }

    pub(crate) fn start_with(added: AddTarget, change: impl FnOnce(&mut Command)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit-agent-libvirt"));
        let fd = theirs.as_raw_fd();
        // SAFETY: dup2 is async-signal-safe, and the only thing done between fork and exec.
        unsafe {
            command.pre_exec(
                move || {
                    if nix::libc::dup2(fd, 3) == 3 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
                },
            );
        }
        change(&mut command);
        let child = command.spawn().unwrap();
        let mut worker = Self { child, socket: Some(ours), told: Vec::new(), next_id: 1, last_target: 0 };
        worker.add(added);
        worker
    }

    /// Adds one more daemon; its number.
    pub(crate) fn add(&mut self, added: AddTarget) -> u64 {
        self.last_target += 1;
        self.request_of(self.last_target, Request::AddTarget(added));
        self.last_target
    }

    pub(crate) fn remove(&mut self, target: u64) {
        self.request_of(target, Request::RemoveTarget(RemoveTarget {}));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads until `find` finds something in what it tells next.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, what: &str, at_most: Duration, mut find: impl FnMut(&Body) -> Option<T>) -> T {
        self.wait_for_of(what, at_most, |_, body| find(body))
    }

    /// The same, with the daemon it tells of.
    #[track_caller]
    pub(crate) fn wait_for_of<T>(
        &mut self,
        what: &str,
        at_most: Duration,
        mut find: impl FnMut(u64, &Body) -> Option<T>,
    ) -> T {
        let until = now() + at_most;
        while let Some(message) = self.read_until(until) {
            let body = message.body.expect("every message has a body");
            let found = find(message.target, &body);
            self.told.push((message.target, body));
            if let Some(found) = found {
                return found;
            }
        }
        panic!("no {what} within {at_most:?}; it told {:?}", self.told);
    }

    /// What it tells within `during`, and of which daemon.
    pub(crate) fn listen(&mut self, during: Duration) -> Vec<(u64, Body)> {
        let until = now() + during;
        let mut bodies = Vec::new();
        while let Some(message) = self.read_until(until) {
            bodies.extend(message.body.map(|body| (message.target, body)));
        }
        bodies
    }

    fn read_until(&mut self, until: Duration) -> Option<FromWorker> {
        let socket = self.socket.as_mut().expect("not closed yet");
        let left = until.checked_sub(now())?;
        let timeout = PollTimeout::try_from(left).unwrap();
        if poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 0 {
            return None;
        }
        let mut prefix = [0; 4];
        socket.read_exact(&mut prefix).ok()?;
        let mut bytes = vec![0; u32::from_be_bytes(prefix) as usize];
        socket.read_exact(&mut bytes).unwrap();
        Some(FromWorker::decode(bytes.as_slice()).unwrap())
    }

    /// Sends a request about the newest daemon; its number.
    pub(crate) fn request(&mut self, request: Request) -> u64 {
        self.request_of(self.last_target, request)
    }

    pub(crate) fn request_of(&mut self, target: u64, request: Request) -> u64 {
        let request_id = self.next_id;
        self.next_id += 1;
        let bytes = ToWorker { request_id, target, request: Some(request) }.encode_to_vec();
        self.send_raw(&[&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat());
        request_id
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.as_mut().expect("not closed yet").write_all(bytes).unwrap();
    }

    /// Closes the agent's end.
    pub(crate) fn hang_up(&mut self) {
        self.socket = None;
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, at_most: Duration) -> ExitStatus {
        let until = now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(now() < until, "it did not end within {at_most:?}");
            pause(Duration::from_millis(5));
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs the worker without a socket; its exit status and what it printed.
pub(crate) fn run_by_hand(flags: &[&str]) -> (ExitStatus, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit-agent-libvirt"));
    let output = command.args(flags).stdin(Stdio::null()).output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
}

/// Time since some fixed moment.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

/// Lets other processes run for a moment.
pub(crate) fn pause(time: Duration) {
    poll(&mut [], PollTimeout::try_from(time).unwrap()).unwrap();
}
