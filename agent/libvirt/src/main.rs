//! The libvirt worker of the agent, a process of its own.
//!
//! The agent starts it with one end of a socket pair and reads what it tells (`worker.proto`). It is apart because libvirt
//! is C, costs 17 MB, and any call into it can hang for ever: the agent stays small, pure Rust, and kills a worker that is
//! stuck. It ends with the agent: at the end of the socket, whatever its other threads wait for.
//!
//! Threads: the control thread (this one) decides, `requests` reads the socket, `events` runs the event loop of libvirt's client
//! for all daemons, and those of the pool make the calls. All of them are needed: a panic in one ends the process.

mod app;
mod clock;
mod control;
mod daemon;
mod disks;
mod flags;
mod frame;
mod job;
mod lane;
mod look;
mod lost;
mod out;
mod pool;
mod questions;
mod target;
mod text;
mod virt;

use clap::Parser;

fn main() -> ! {
    app::run(&flags::Flags::parse())
}
