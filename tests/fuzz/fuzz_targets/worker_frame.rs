//! The socket between agent and libvirt worker, read as the worker reads it. The other end may be dying in the middle of it.
#![no_main]

// The worker is a program and links libvirt; its codec is taken as it is, without both.
#[allow(dead_code, reason = "the worker uses all of it")]
#[path = "../../../agent/libvirt/src/frame.rs"]
mod frame;

use kulprit_proto::worker::{FromWorker, ToWorker};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut from = data;
    while let Ok(Some(message)) = frame::read::<ToWorker>(&mut from) {
        let bytes = frame::encode(&message).expect("what came in a frame fits one");
        assert_eq!(frame::read::<ToWorker>(&mut bytes.as_slice()).expect("just written"), Some(message));
    }
    let mut from = data;
    while let Ok(Some(_)) = frame::read::<FromWorker>(&mut from) {}
});
