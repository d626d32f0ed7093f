//! The event loop that libvirt's client works with: sockets and timers of all connections, on one thread.
//!
//! libvirt brings one of its own, made of `poll`: whatever is to be waited for is an argument of the wait, so each change wakes the
//! thread, and each call changes three things (its socket is left to the caller and taken back, the keepalive is put off). Measured
//! with 20 domains: most of the worker's wake-ups. Here the kernel keeps the set (epoll), a change of it is one cheap system call of
//! the thread that makes it, and only a timer that is due before the end of the present wait wakes the loop.
//!
//! Contract: libvirt-event.h. What is freed is freed by the loop and never inside a call of libvirt's, as libvirt's own does; timers
//! go on at their interval until they are changed.

use std::{
    collections::BTreeMap,
    ffi::{c_int, c_void},
    os::fd::{BorrowedFd, RawFd},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
    },
};
use virt_sys as sys;

use crate::clock::mono_usec;

/// What the kernel says of the loop's own wake-up.
const WAKEUP: u64 = u64::MAX;
/// Most sockets told of in one turn; the others are told in the next.
const N_READY: usize = 32;

static LOOP: OnceLock<EventLoop> = OnceLock::new();

/// An argument of libvirt's for its callback.
#[derive(Clone, Copy)]
struct Opaque(*mut c_void);

// SAFETY: never followed here; libvirt knows that its callbacks run on the loop's thread.
unsafe impl Send for Opaque {}

#[derive(Clone, Copy)]
struct Handle {
    fd: RawFd,
    /// `virEventHandleType`s that are waited for; without any the kernel does not know the descriptor.
    events: u32,
    callback: sys::virEventHandleCallback,
    opaque: Opaque,
    free: sys::virFreeCallback,
}

#[derive(Clone, Copy)]
struct Timer {
    /// `None`: it rests.
    interval_usec: Option<u64>,
    due_usec: u64,
    callback: sys::virEventTimeoutCallback,
    opaque: Opaque,
    free: sys::virFreeCallback,
}

impl Timer {
    fn set(&mut self, interval_ms: c_int, now_usec: u64) {
        self.interval_usec = u64::try_from(interval_ms).ok().map(|ms| ms * 1_000);
        self.due_usec = self.interval_usec.map_or(u64::MAX, |interval_usec| now_usec + interval_usec);
    }
}

#[derive(Default)]
struct State {
    handles: BTreeMap<c_int, Handle>,
    timers: BTreeMap<c_int, Timer>,
    /// Removed, and not yet freed.
    removed: Vec<(sys::virFreeCallback, Opaque)>,
    last: c_int,
    /// Until when the loop waits; 0 while it does not.
    waits_until_usec: u64,
}

struct EventLoop {
    epoll: Epoll,
    wakeup: EventFd,
    state: Mutex<State>,
}

/// Makes this libvirt's event loop. Once, before any connection is opened.
///
/// # Errors
/// The kernel's.
pub(super) fn register() -> Result<(), Errno> {
    let made = EventLoop::new()?;
    assert!(LOOP.set(made).is_ok(), "the worker has one event loop");
    // SAFETY: functions of the types and meanings that libvirt wants; they live forever.
    unsafe {
        sys::virEventRegisterImpl(
            Some(add_handle),
            Some(update_handle),
            Some(remove_handle),
            Some(add_timer),
            Some(update_timer),
            Some(remove_timer),
        );
    }
    Ok(())
}

/// Waits until something happens or is due, and handles it. From one thread only, after [`register`].
///
/// # Errors
/// The kernel's: the loop is broken.
pub(super) fn run_once() -> Result<(), Errno> {
    the_loop().run_once()
}

fn the_loop() -> &'static EventLoop {
    LOOP.get().expect("registered before libvirt can call")
}

impl EventLoop {
    fn new() -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // At its edge each write is told once, and nobody has to read.
        epoll.add(&wakeup, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, WAKEUP))?;
        Ok(Self { epoll, wakeup, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails when it was written to 2^64 times.
        self.wakeup.write(1).ok();
    }

    fn run_once(&self) -> Result<(), Errno> {
        self.free_removed();
        let timeout = {
            let mut state = self.lock();
            let due_usec = state.timers.values().map(|timer| timer.due_usec).min().unwrap_or(u64::MAX);
            state.waits_until_usec = due_usec;
            let wait_ms = due_usec.saturating_sub(mono_usec()).div_ceil(1_000);
            if due_usec == u64::MAX {
                EpollTimeout::NONE
            } else {
                EpollTimeout::try_from(i32::try_from(wait_ms).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
            }
        };
        let mut ready = [EpollEvent::empty(); N_READY];
        let n_ready = match self.epoll.wait(&mut ready, timeout) {
            Err(Errno::EINTR) => 0,
            outcome => outcome?,
        };
        self.lock().waits_until_usec = 0;
        self.run_timers();
        for event in ready[..n_ready].iter().filter(|event| event.data() != WAKEUP) {
            self.run_handle(event);
        }
        Ok(())
    }

    fn free_removed(&self) {
        let removed = std::mem::take(&mut self.lock().removed);
        for (free, opaque) in removed {
            if let Some(free) = free {
                // SAFETY: libvirt's function for its argument, once, after the last call that gets it.
                unsafe { free(opaque.0) };
            }
        }
    }

    fn run_timers(&self) {
        let now_usec = mono_usec();
        let due = |timer: &Timer| timer.due_usec <= now_usec;
        let numbers: Vec<c_int> =
            self.lock().timers.iter().filter(|(_, timer)| due(timer)).map(|(number, _)| *number).collect();
        for number in numbers {
            let timer = {
                let mut state = self.lock();
                // One that ran before may have changed or removed it.
                let Some(timer) = state.timers.get_mut(&number).filter(|timer| due(timer)) else { continue };
                timer.due_usec = timer.interval_usec.map_or(u64::MAX, |interval_usec| now_usec + interval_usec);
                *timer
            };
            if let Some(callback) = timer.callback {
                // SAFETY: libvirt's function with its argument, which is freed by this thread alone, and later.
                unsafe { callback(number, timer.opaque.0) };
            }
        }
    }

    fn run_handle(&self, event: &EpollEvent) {
        let Some((number, handle)) = c_int::try_from(event.data())
            .ok()
            .and_then(|number| self.lock().handles.get(&number).map(|handle| (number, *handle)))
        else {
            return;
        };
        let events = from_epoll(event.events());
        // Left to a caller meanwhile.
        if handle.events == 0 || events == 0 {
            return;
        }
        if let Some(callback) = handle.callback {
            // SAFETY: libvirt's function with its descriptor and argument, which is freed by this thread alone, and later.
            unsafe { callback(number, handle.fd, events.cast_signed(), handle.opaque.0) };
        }
    }

    /// Tells the kernel what is waited for now, if that is something else.
    fn watch(&self, number: c_int, fd: RawFd, before: u32, now: u32) -> Result<(), Errno> {
        if before == now {
            return Ok(());
        }
        // SAFETY: libvirt keeps it open for as long as it is registered.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut event = EpollEvent::new(to_epoll(now), u64::from(number.cast_unsigned()));
        match (before, now) {
            // One that nothing is waited for is taken out: a hang-up would be told of it all the same, again and again.
            (_, 0) => self.epoll.delete(fd),
            (0, _) => self.epoll.add(fd, event),
            (_, _) => self.epoll.modify(fd, &mut event),
        }
    }
}

impl State {
    fn next_number(&mut self) -> c_int {
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }
}

fn to_epoll(events: u32) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN, events & sys::VIR_EVENT_HANDLE_READABLE != 0);
    flags.set(EpollFlags::EPOLLOUT, events & sys::VIR_EVENT_HANDLE_WRITABLE != 0);
    flags
}

fn from_epoll(flags: EpollFlags) -> u32 {
    [
        (EpollFlags::EPOLLIN, sys::VIR_EVENT_HANDLE_READABLE),
        (EpollFlags::EPOLLOUT, sys::VIR_EVENT_HANDLE_WRITABLE),
        (EpollFlags::EPOLLERR, sys::VIR_EVENT_HANDLE_ERROR),
        (EpollFlags::EPOLLHUP, sys::VIR_EVENT_HANDLE_HANGUP),
    ]
    .iter()
    .filter(|(flag, _)| flags.contains(*flag))
    .fold(0, |events, (_, event)| events | event)
}

unsafe extern "C" fn add_handle(
    fd: c_int,
    events: c_int,
    callback: sys::virEventHandleCallback,
    opaque: *mut c_void,
    free: sys::virFreeCallback,
) -> c_int {
    let (the_loop, events) = (the_loop(), events.cast_unsigned());
    let mut state = the_loop.lock();
    let number = state.next_number();
    if the_loop.watch(number, fd, 0, events).is_err() {
        return -1;
    }
    state.handles.insert(number, Handle { fd, events, callback, opaque: Opaque(opaque), free });
    number
}

unsafe extern "C" fn update_handle(number: c_int, events: c_int) {
    let (the_loop, events) = (the_loop(), events.cast_unsigned());
    let mut state = the_loop.lock();
    if let Some(handle) = state.handles.get_mut(&number)
        && the_loop.watch(number, handle.fd, handle.events, events).is_ok()
    {
        handle.events = events;
    }
}

unsafe extern "C" fn remove_handle(number: c_int) -> c_int {
    let the_loop = the_loop();
    let mut state = the_loop.lock();
    let Some(handle) = state.handles.remove(&number) else { return -1 };
    // A descriptor that was closed before has left the kernel's set by itself.
    the_loop.watch(number, handle.fd, handle.events, 0).ok();
    state.removed.push((handle.free, handle.opaque));
    the_loop.wake();
    0
}

unsafe extern "C" fn add_timer(
    interval_ms: c_int,
    callback: sys::virEventTimeoutCallback,
    opaque: *mut c_void,
    free: sys::virFreeCallback,
) -> c_int {
    let the_loop = the_loop();
    let mut state = the_loop.lock();
    let number = state.next_number();
    let mut timer = Timer { interval_usec: None, due_usec: u64::MAX, callback, opaque: Opaque(opaque), free };
    timer.set(interval_ms, mono_usec());
    state.timers.insert(number, timer);
    if timer.due_usec < state.waits_until_usec {
        the_loop.wake();
    }
    number
}

unsafe extern "C" fn update_timer(number: c_int, interval_ms: c_int) {
    let the_loop = the_loop();
    let mut state = the_loop.lock();
    let waits_until_usec = state.waits_until_usec;
    let Some(timer) = state.timers.get_mut(&number) else { return };
    timer.set(interval_ms, mono_usec());
    if timer.due_usec < waits_until_usec {
        the_loop.wake();
    }
}

unsafe extern "C" fn remove_timer(number: c_int) -> c_int {
    let the_loop = the_loop();
    let mut state = the_loop.lock();
    let Some(timer) = state.timers.remove(&number) else { return -1 };
    state.removed.push((timer.free, timer.opaque));
    the_loop.wake();
    0
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Write, pipe},
        os::fd::AsRawFd,
        ptr,
        sync::mpsc::{Receiver, Sender, channel},
        thread,
        time::Duration,
    };

    use super::*;

    /// Where the callbacks of the test tell that they ran.
    static TOLD: Mutex<Option<Sender<&'static str>>> = Mutex::new(None);

    fn tell(what: &'static str) {
        TOLD.lock().unwrap().as_ref().unwrap().send(what).unwrap();
    }

    unsafe extern "C" fn on_handle(number: c_int, _: c_int, events: c_int, _: *mut c_void) {
        assert_ne!(events.cast_unsigned() & sys::VIR_EVENT_HANDLE_READABLE, 0);
        // As libvirt's client does while a caller reads its socket itself.
        // SAFETY: a number that was registered.
        unsafe { sys::virEventUpdateHandle(number, 0) };
        tell("handle");
    }

    unsafe extern "C" fn on_timer(number: c_int, _: *mut c_void) {
        // SAFETY: as above.
        unsafe { sys::virEventUpdateTimeout(number, -1) };
        tell("timer");
    }

    unsafe extern "C" fn on_free(_: *mut c_void) {
        tell("freed");
    }

    #[track_caller]
    fn check(told: &Receiver<&'static str>, want: &[&str]) {
        let seen: Vec<_> =
            want.iter().map(|_| told.recv_timeout(Duration::from_secs(10)).unwrap_or("nothing")).collect();
        assert_eq!(seen, want);
    }

    /// One test, for libvirt has one loop: each change is made by another thread while the loop waits, or is about to.
    #[test]
    fn what_is_changed_while_the_loop_waits_counts_at_once() {
        let (tell, told) = channel();
        *TOLD.lock().unwrap() = Some(tell);
        register().unwrap();
        thread::spawn(|| while run_once().is_ok() {});
        let (reader, mut writer) = pipe().unwrap();
        let readable = sys::VIR_EVENT_HANDLE_READABLE.cast_signed();
        // SAFETY: callbacks that live forever, no argument, a descriptor that is open until it is removed; numbers that were given.
        unsafe {
            let handle =
                sys::virEventAddHandle(reader.as_raw_fd(), readable, Some(on_handle), ptr::null_mut(), Some(on_free));
            let timer = sys::virEventAddTimeout(-1, Some(on_timer), ptr::null_mut(), Some(on_free));
            assert!(handle > 0 && timer > handle);

            writer.write_all(b"x").unwrap();
            check(&told, &["handle"]);
            // It is readable still, and nobody waits for that now: the timer comes alone, though rested until it was set.
            sys::virEventUpdateTimeout(timer, 0);
            check(&told, &["timer"]);
            sys::virEventUpdateHandle(handle, readable);
            check(&told, &["handle"]);

            assert_eq!((sys::virEventRemoveHandle(handle), sys::virEventRemoveTimeout(timer)), (0, 0));
            check(&told, &["freed", "freed"]);
            assert_eq!(sys::virEventRemoveHandle(handle), -1, "only once");
        }
    }
}
