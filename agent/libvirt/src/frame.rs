//! The frames on the socket pair: a length (u32, big endian) and a protobuf message of that many bytes.
//!
//! The limit of 1 MiB holds in both directions: a longer one is an error and never an allocation. See `worker.proto`.

use std::io::{self, Read};

use prost::Message;

/// Longest message, bytes.
pub(crate) const MAX_FRAME: usize = 1024 * 1024;

/// Why a frame could not be read or made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("failed to read from the agent's socket")]
    Io(#[source] io::Error),
    #[error("the agent's socket ended inside a frame")]
    Truncated,
    #[error("a frame of {len} bytes is longer than the {MAX_FRAME} allowed")]
    TooLong { len: usize },
    #[error("a frame holds no valid message")]
    Decode(#[source] prost::DecodeError),
}

/// The bytes of one frame.
///
/// # Errors
/// `TooLong` if the message is.
pub(crate) fn encode(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let len = message.encoded_len();
    let Some(prefix) = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME) else {
        return Err(FrameError::TooLong { len });
    };
    let mut frame = Vec::with_capacity(4 + len);
    frame.extend_from_slice(&prefix.to_be_bytes());
    message.encode(&mut frame).expect("a Vec grows as needed");
    Ok(frame)
}

/// Reads one message; `None` at the end of the stream between two frames.
///
/// # Errors
/// Any `FrameError`; the stream cannot be read further after one.
pub(crate) fn read<M: Message + Default>(from: &mut impl Read) -> Result<Option<M>, FrameError> {
    let mut prefix = [0; 4];
    match fill(from, &mut prefix)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(FrameError::Truncated),
    }
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if len > MAX_FRAME {
        return Err(FrameError::TooLong { len });
    }
    let mut bytes = vec![0; len];
    if fill(from, &mut bytes)? < len {
        return Err(FrameError::Truncated);
    }
    M::decode(bytes.as_slice()).map(Some).map_err(FrameError::Decode)
}

/// Reads until `buffer` is full or the stream ends; how much was read.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, FrameError> {
    let mut n_read = 0;
    while n_read < buffer.len() {
        match from.read(&mut buffer[n_read..]) {
            Ok(0) => break,
            Ok(n) => n_read += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
    Ok(n_read)
}

#[cfg(test)]
mod tests {
    use kulprit_proto::worker::{GetDiskErrors, ToWorker, to_worker::Request};

    use super::*;

    fn request() -> ToWorker {
        ToWorker {
            request_id: 7,
            target: 1,
            request: Some(Request::GetDiskErrors(GetDiskErrors { uuid: "u-1".into() })),
        }
    }

    /// Hands out one byte at a time, as a socket may.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(buffer.len()).min(1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn frames_survive_a_trickling_socket() {
        let mut bytes = encode(&request()).unwrap();
        bytes.extend(encode(&ToWorker::default()).unwrap());
        let mut from = Trickle(&bytes);
        assert_eq!(read::<ToWorker>(&mut from).unwrap(), Some(request()));
        assert_eq!(read::<ToWorker>(&mut from).unwrap(), Some(ToWorker::default()), "an empty message is a frame too");
        assert_eq!(read::<ToWorker>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_frame_cut_anywhere_is_truncated() {
        let bytes = encode(&request()).unwrap();
        for cut in 1..bytes.len() {
            assert!(matches!(read::<ToWorker>(&mut &bytes[..cut]), Err(FrameError::Truncated)), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_unread() {
        let mut from: &[u8] = &[0xff; 8];
        assert!(matches!(read::<ToWorker>(&mut from), Err(FrameError::TooLong { len: 0xffff_ffff })));
        assert_eq!(from.len(), 4);
    }

    #[test]
    fn garbage_is_no_message() {
        assert!(matches!(read::<ToWorker>(&mut &[0, 0, 0, 2, 0xff, 0xff][..]), Err(FrameError::Decode(_))));
    }

    #[test]
    fn the_limit_holds_from_both_sides() {
        let fitting = |n: usize| ToWorker {
            request_id: 0,
            target: 0,
            request: Some(Request::GetDiskErrors(GetDiskErrors { uuid: "x".repeat(n) })),
        };
        let overhead = fitting(MAX_FRAME - 100).encoded_len() - (MAX_FRAME - 100);
        assert_eq!(encode(&fitting(MAX_FRAME - overhead)).unwrap().len(), 4 + MAX_FRAME);
        assert!(matches!(encode(&fitting(MAX_FRAME - overhead + 1)), Err(FrameError::TooLong { .. })));
    }
}
