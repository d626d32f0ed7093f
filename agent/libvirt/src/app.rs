//! Wires the worker's parts: the socket to the agent, the threads, and how the process ends.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use kulprit_proto::worker::Started;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{
        prctl,
        signal::Signal,
        socket::{SockType, getsockopt, sockopt},
    },
};

use crate::{
    clock::boot_usec,
    control::{Control, Input, Tools},
    flags::Flags,
    frame,
    lane::Caller,
    out::Out,
    pool::Pool,
    virt,
};

/// Inputs that wait for the control thread; the room for them is taken at the start (0.2 MB). When full, the lanes and the reader wait; events are dropped and counted.
const MAX_INPUTS: usize = 512;

/// The worker was started wrongly, or its machine lacks something.
const EXIT_USAGE: i32 = 2;

/// Runs the worker to its end.
pub(crate) fn run(flags: &Flags) -> ! {
    let socket = agent_socket(flags.fd).unwrap_or_else(|error| {
        end(EXIT_USAGE, &format!("--fd {}: {error}; kulprit-agent starts this program with a socket there", flags.fd))
    });
    die_with_parent();
    keep_libvirt_from_starting_daemons();
    end_on_panic();
    match wire(flags, socket) {
        Ok(()) => end(0, ""),
        Err(error) => end(1, &error),
    }
}

fn wire(flags: &Flags, socket: UnixStream) -> Result<(), String> {
    let caller = Caller::unwatched();
    virt::initialize(&caller).map_err(|error| error.to_string())?;
    let (inputs, received) = sync_channel(MAX_INPUTS);
    let dropped = Arc::new(AtomicU64::new(0));
    watch_events(inputs.clone(), Arc::clone(&dropped));
    let reader = socket.try_clone().map_err(|error| format!("the agent's socket: {error}"))?;
    let thread_error = |error| format!("failed to start a thread: {error}");
    spawn("requests", {
        let inputs = inputs.clone();
        move || read_requests(reader, &inputs)
    })
    .map_err(thread_error)?;
    spawn("events", run_events).map_err(thread_error)?;
    let started = Started { pid: process::id(), lib_version: virt::lib_version() };
    let control = Control::new(Tools {
        out: Out::new(socket),
        pool: Pool::default(),
        inputs,
        deadline_usec: flags.deadline_ms * 1_000,
        dropped,
        last_generation: 0,
    });
    // The agent closing its end is the normal end.
    control.run(started, &received).or(Ok(()))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(run).map(|_| ())
}

fn send(inputs: &SyncSender<Input>, input: Input) {
    inputs.send(input).expect("the control thread ends only with the process");
}

fn read_requests(mut socket: UnixStream, inputs: &SyncSender<Input>) {
    loop {
        match frame::read(&mut socket) {
            Ok(Some(request)) => send(inputs, Input::Request(request)),
            Ok(None) => end(0, ""),
            Err(frame::FrameError::Io(_)) => end(0, ""),
            Err(error) => end(1, &error.to_string()),
        }
    }
}

fn run_events() {
    loop {
        if let Err(error) = virt::run_event_loop_once() {
            end(1, &error.to_string());
        }
    }
}

fn watch_events(inputs: SyncSender<Input>, dropped: Arc<AtomicU64>) {
    virt::watch_events(Box::new(move |generation, seen| {
        // Never waits: libvirt's event loop also carries replies and keepalives.
        if inputs.try_send(Input::Seen { generation, seen, boot_usec: boot_usec() }).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }));
}

/// The socket the agent left open for us.
fn agent_socket(fd: RawFd) -> Result<UnixStream, nix::Error> {
    // SAFETY: only looked at, and not closed by this borrow; a number that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    if getsockopt(&borrowed, sockopt::SockType)? != SockType::Stream {
        return Err(nix::Error::ENOTSOCK);
    }
    fcntl(borrowed.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: open, and meant for us by the flag; nothing else in this process knows it.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// The kernel ends the worker when the thread that started it ends, should it be stopped itself and not see its socket
/// close. That thread, not that process: the agent starts it from one that lives as long as the agent.
fn die_with_parent() {
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGKILL) {
        end(1, &format!("prctl(PR_SET_PDEATHSIG): {error}"));
    }
}

/// libvirt starts a session daemon where there is none. A watcher does not.
fn keep_libvirt_from_starting_daemons() {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("LIBVIRT_AUTOSTART", "0") };
}

fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        end(101, "a thread panicked");
    }));
}

/// Ends the process at once. Without exit handlers: libvirt's could wait for a thread that hangs.
fn end(code: i32, why: &str) -> ! {
    if !why.is_empty() {
        complain(why);
    }
    // SAFETY: ends the process; nothing is left to be done.
    unsafe { nix::libc::_exit(code) }
}

#[expect(clippy::print_stderr, reason = "the worker has no log of its own; the agent keeps what it prints")]
fn complain(why: &str) {
    eprintln!("kulprit-agent-libvirt: {why}");
}
