//! The agent's end of the libvirt worker: starts it, speaks with it, ends it.
//!
//! The worker is a process because libvirt can hang and crash. It gets one end of a socket pair as its standard input; a frame
//! is a length (u32, big endian) and one protobuf message. Dropping a [`Worker`] kills it: it keeps nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kulprit_proto::worker::{FromWorker, ToWorker, to_worker::Request};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// The longest frame either end takes, bytes.
const MAX_FRAME_BYTES: usize = 1 << 20;
const HEADER_BYTES: usize = 4;

/// Why the worker cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// It could not be started.
    #[error("failed to start the libvirt worker `{path}`")]
    Start {
        /// Its binary.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It has ended, as its end of the socket is closed.
    #[error("the libvirt worker has ended")]
    Ended,
    /// The socket failed.
    #[error("failed to speak with the libvirt worker")]
    Io(#[source] io::Error),
    /// It announced more than a frame may have.
    #[error("the libvirt worker sent a frame of {0} bytes")]
    TooLong(usize),
    /// What it sent is no message.
    #[error("the libvirt worker sent a frame that is no message")]
    Malformed(#[source] prost::DecodeError),
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Killed when dropped.
    _child: Child,
    socket: UnixStream,
    /// Bytes read that are not yet a whole frame.
    buffer: Vec<u8>,
    last_request_id: u64,
}

impl Worker {
    /// Starts the worker. Must be called on a thread that lives as long as the agent: the worker is killed when it ends.
    pub(crate) fn start(binary: &Path) -> Result<Self, WorkerError> {
        let at = |source| WorkerError::Start { path: binary.to_owned(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(at)?;
        ours.set_nonblocking(true).map_err(at)?;
        let child = Command::new(binary)
            .args(["--fd", "0"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(at)?;
        let socket = UnixStream::from_std(ours).map_err(at)?;
        Ok(Self { _child: child, socket, buffer: Vec::new(), last_request_id: 0 })
    }

    /// Waits for the next message. Cancel-safe: bytes read stay for the next call.
    pub(crate) async fn next(&mut self) -> Result<FromWorker, WorkerError> {
        loop {
            if let Some(message) = take_frame(&mut self.buffer)? {
                return Ok(message);
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(WorkerError::Ended),
                Ok(_) => {}
                // It ended with something of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(WorkerError::Ended),
                Err(error) => return Err(WorkerError::Io(error)),
            }
        }
    }

    /// Sends a request about the daemon `target` and returns its id, which comes back in the reply. Not cancel-safe.
    pub(crate) async fn request(&mut self, target: u64, request: Request) -> Result<u64, WorkerError> {
        self.last_request_id += 1;
        let message = ToWorker { request_id: self.last_request_id, target, request: Some(request) };
        let length = u32::try_from(message.encoded_len()).map_err(|_| WorkerError::TooLong(message.encoded_len()))?;
        let mut frame = length.to_be_bytes().to_vec();
        message.encode(&mut frame).expect("a Vec grows as needed");
        self.socket.write_all(&frame).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => WorkerError::Ended,
            _ => WorkerError::Io(error),
        })?;
        Ok(self.last_request_id)
    }
}

/// Takes the first whole frame out of `buffer`; `None` while there is none.
fn take_frame(buffer: &mut Vec<u8>) -> Result<Option<FromWorker>, WorkerError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(WorkerError::TooLong(length));
    }
    let Some(frame) = rest.get(..length) else { return Ok(None) };
    let message = FromWorker::decode(frame).map_err(WorkerError::Malformed)?;
    buffer.drain(..HEADER_BYTES + length);
    Ok(Some(message))
}

/// Where the worker's binary is: where configured, else beside our own.
pub(crate) fn find_binary(configured: Option<&Path>) -> PathBuf {
    const NAME: &str = "kulprit-agent-libvirt";
    match configured {
        Some(path) => path.to_owned(),
        None => {
            std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(NAME))).unwrap_or_else(|| NAME.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use kulprit_proto::worker::{HungEnded, from_worker::Body};
    use proptest::prelude::*;

    use super::*;

    fn frame(boot_usec: u64) -> Vec<u8> {
        let body = Body::HungEnded(HungEnded { call: "x".to_owned(), domain: None, age_ms: 1 });
        let bytes = FromWorker { boot_usec, target: 0, body: Some(body) }.encode_to_vec();
        [u32::try_from(bytes.len()).unwrap().to_be_bytes().as_slice(), &bytes].concat()
    }

    #[test]
    fn frames_come_out_whole_however_the_bytes_arrive() {
        let bytes = [frame(1), frame(2)].concat();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            seen.extend(take_frame(&mut buffer).unwrap().map(|message| message.boot_usec));
        }
        assert_eq!(seen, [1, 2]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_frame_that_is_too_long_or_no_message_is_an_error() {
        let mut long = (u32::try_from(MAX_FRAME_BYTES).unwrap() + 1).to_be_bytes().to_vec();
        assert!(matches!(take_frame(&mut long), Err(WorkerError::TooLong(_))));
        let mut junk = [2_u32.to_be_bytes().as_slice(), &[0xff, 0xff]].concat();
        assert!(matches!(take_frame(&mut junk), Err(WorkerError::Malformed(_))));
    }

    #[tokio::test]
    async fn a_program_that_ends_is_an_ended_worker_and_a_missing_one_is_named() {
        let mut worker = Worker::start(Path::new("/bin/false")).unwrap();
        assert!(matches!(worker.next().await, Err(WorkerError::Ended)));
        let error = Worker::start(Path::new("/none/kulprit-agent-libvirt")).unwrap_err();
        assert_eq!(error.to_string(), "failed to start the libvirt worker `/none/kulprit-agent-libvirt`");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let before = bytes.len();
            if let Ok(Some(_)) = take_frame(&mut bytes) {
                prop_assert!(bytes.len() < before);
            }
        }
    }
}
