//! A segment of the agent's spool, read back after a crash or from a disk that lies: whole frames or damage, never more.
#![no_main]

// The agent is large; the form of its spool is taken as it is.
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/spool/frame.rs"]
mod frame;
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/spool/segment.rs"]
mod segment;

use frame::Frame;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use segment::{At, Segment};

fuzz_target!(|data: &[u8]| {
    assert!(read_back(data).len() <= data.len());
    // A frame with its right sum, which a fuzzer does not find, then the same damaged bytes.
    let Ok(written) = Frame::decode(data) else { return };
    let mut bytes = Vec::new();
    frame::encode(&written, &mut bytes);
    bytes.extend_from_slice(data);
    // An empty frame is never written, and a length of 0 is damage.
    if written != Frame::default() {
        assert_eq!(read_back(&bytes).first(), Some(&written));
    }
});

/// The frames up to the end or the first damage.
fn read_back(bytes: &[u8]) -> Vec<Frame> {
    let mut segment = Segment::in_memory(1);
    segment.commit(bytes).expect("memory takes all");
    let (mut frames, mut offset) = (Vec::new(), Segment::start());
    loop {
        match segment.read(offset).expect("memory can be read") {
            At::Frame(frame, next) => {
                assert!(next > offset && next <= segment.len, "reading goes on, to no further than the end");
                frames.push(frame);
                offset = next;
            }
            At::End | At::Damage => return frames,
        }
    }
}
