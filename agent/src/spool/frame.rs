//! Frames: the form of a segment's bytes.
//!
//! A segment is the magic, then frames: length of the payload (u32, little endian), CRC-32 of the payload (IEEE, as in zip), payload
//! (protobuf). A frame that is not whole or does not fit its sum is where reading ends. The messages are private to the spool;
//! records in them are those of the wire.

use kulprit_proto::v1;
use prost::Message;

/// The first bytes of every segment; the digits are the version of the form.
pub(super) const MAGIC: &[u8; 8] = b"KLPSPL01";
/// Length and sum before a payload, bytes.
pub(super) const HEAD_BYTES: usize = 8;
/// No frame is longer, bytes; a length above it is damage.
pub(super) const MAX_PAYLOAD_BYTES: usize = 16 << 20;

/// One atomic piece.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    /// What is to be sent.
    #[prost(message, repeated, tag = "1")]
    pub(super) records: Vec<v1::Record>,
    /// Up to where the probes' sources are in this frame or before it.
    #[prost(message, repeated, tag = "2")]
    pub(super) positions: Vec<Position>,
    /// Records that were dropped.
    #[prost(message, repeated, tag = "3")]
    pub(super) losses: Vec<v1::Loss>,
    /// What central has.
    #[prost(message, repeated, tag = "4")]
    pub(super) acks: Vec<v1::Ack>,
    /// In a segment's first frame: the newest record of each key before it, for the tracker of the next start.
    #[prost(message, repeated, tag = "5")]
    pub(super) memory: Vec<v1::Record>,
}

/// The position of a probe in its source.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Position {
    #[prost(string, tag = "1")]
    pub(super) probe: String,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

/// Appends the bytes of `frame` to `out`.
pub(super) fn encode(frame: &Frame, out: &mut Vec<u8>) {
    let payload = frame.encode_to_vec();
    let length = u32::try_from(payload.len()).expect("frames are split far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32(&payload).to_le_bytes());
    out.extend_from_slice(&payload);
}

/// Length and sum in the first bytes of a frame. `None`: damage; also for a length of 0, as in blocks that a crash left zeroed.
pub(super) fn head(bytes: [u8; HEAD_BYTES]) -> Option<(usize, u32)> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    (1..=MAX_PAYLOAD_BYTES).contains(&length).then(|| (length, u32::from_le_bytes([e, f, g, h])))
}

/// The frame of a payload. `None`: damage.
pub(super) fn payload(bytes: &[u8], sum: u32) -> Option<Frame> {
    if crc32(bytes) == sum { Frame::decode(bytes).ok() } else { None }
}

const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        let [low, ..] = (crc ^ u32::from(*byte)).to_le_bytes();
        CRC_TABLE[usize::from(low)] ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_the_one_of_zip() {
        // The check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
