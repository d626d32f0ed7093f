//! What multipathd says of its maps: which paths device mapper uses, what its checkers found, whether I/O waits without a path.
//!
//! sysfs has the state of each disk as SCSI sees it; a path that is `running` there may have failed for device mapper. The daemon
//! is only spoken to where its process runs: systemd would start it for whoever connects. It answers from what it knows, and is
//! silent while one of its own calls hangs. Sources: multipath-tools `libmpathcmd/mpath_cmd.c` (a length of eight bytes, then a
//! text with its end), `libmultipath/print.h` (`PRINT_JSON_MAP`), `multipathd(8)` (`show maps json`).

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::command::block::Path;
use crate::network::NetworkNamespace;
use crate::process::Procfs;
use crate::socket::connect_unix;
use crate::{HostRoot, Malformed, ReadError};

/// Its socket, in the order in which its own clients try them: a file of late versions, an abstract name in the node's network
/// namespace.
const PATHNAME: &str = "run/multipathd.socket";
const ABSTRACT: &str = "/org/kernel/linux/storage/multipathd";
/// Most of an answer that is read, bytes: a map of eight paths takes 5 KiB.
const ANSWER_LIMIT_BYTES: u64 = 8 << 20;
/// What it answers when it could not get its own lock within `uxsock_timeout`.
const BUSY: &str = "timeout";

/// A multipath device as multipathd has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultipathMap {
    /// Its device: `dm-3`.
    pub device: String,
    /// Its name: `mpatha`.
    pub name: String,
    /// What I/O does without a path: `on` waits for ever, `off` and `-` fail, `5 chk` and `20 sec` are what is left to wait.
    pub queueing: String,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// Why multipathd gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum MultipathdError {
    /// It took the connection, or has its queue full, and does not answer: one of its calls hangs.
    #[error("multipathd runs and gave no answer within {deadline:?}")]
    Timeout {
        /// How long we waited.
        deadline: Duration,
    },
    /// What came is no list of maps.
    #[error("multipathd gave an answer that is no list of maps")]
    Malformed {
        /// The text that is not.
        #[source]
        source: Malformed,
    },
    /// The connection failed.
    #[error("failed to ask multipathd")]
    Io {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Whether multipathd runs, by its pid file.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn is_multipathd_running(root: &HostRoot, procfs: &Procfs) -> Result<bool, ReadError> {
    let text = root.read_text_if_any("run/multipathd.pid")?;
    let pid = text.and_then(|text| text.trim().parse::<u32>().ok());
    Ok(pid.and_then(|pid| procfs.stat(pid).ok()).is_some_and(|stat| stat.comm == "multipathd"))
}

/// Asks the multipathd that runs for its maps, and waits at most `deadline`. `None`: nobody listens.
///
/// # Errors
/// See [`MultipathdError`].
pub async fn ask_multipathd(root: &HostRoot, deadline: Duration) -> Result<Option<Vec<MultipathMap>>, MultipathdError> {
    let stream = match connect(root) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                ErrorKind::WouldBlock => Err(MultipathdError::Timeout { deadline }),
                _ => Err(MultipathdError::Io { source: error }),
            };
        }
    };
    match tokio::time::timeout(deadline, exchange(stream)).await {
        Err(_) => Err(MultipathdError::Timeout { deadline }),
        Ok(Err(source)) => Err(MultipathdError::Io { source }),
        Ok(Ok(text)) if text.trim_end() == BUSY => Err(MultipathdError::Timeout { deadline }),
        Ok(Ok(text)) => parse_multipath_maps(&text).map(Some).map_err(|source| MultipathdError::Malformed { source }),
    }
}

/// A stream that does not block.
fn connect(root: &HostRoot) -> io::Result<UnixStream> {
    match connect_unix(root, PATHNAME) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
        connected => return connected,
    }
    let namespace = NetworkNamespace::of_host(root);
    let namespace = namespace
        .map_err(|error| if error.is_not_found() { ErrorKind::NotFound.into() } else { io::Error::other(error) })?;
    namespace.connect_abstract(ABSTRACT)
}

async fn exchange(stream: UnixStream) -> io::Result<String> {
    const ASK: &[u8] = b"show maps json\0";
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    // A `size_t` of the machine it runs on.
    stream.write_all(&(ASK.len() as u64).to_ne_bytes()).await?;
    stream.write_all(ASK).await?;
    let mut length = [0; 8];
    stream.read_exact(&mut length).await?;
    let length = u64::from_ne_bytes(length);
    if length > ANSWER_LIMIT_BYTES {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("an answer of {length} bytes")));
    }
    let mut answer = Vec::new();
    (&mut stream).take(length).read_to_end(&mut answer).await?;
    if (answer.len() as u64) < length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&answer).trim_end_matches('\0').to_owned())
}

/// Parses the answer to `show maps json`.
///
/// # Errors
/// When it is not that.
pub fn parse_multipath_maps(text: &str) -> Result<Vec<MultipathMap>, Malformed> {
    #[derive(Deserialize)]
    struct Answer {
        maps: Vec<Map>,
    }
    #[derive(Deserialize)]
    struct Map {
        name: String,
        sysfs: String,
        #[serde(default)]
        queueing: String,
        #[serde(default)]
        path_groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        #[serde(default)]
        paths: Vec<PathRow>,
    }
    #[derive(Deserialize)]
    struct PathRow {
        dev: String,
        #[serde(default)]
        dm_st: String,
        #[serde(default)]
        chk_st: String,
    }
    let answer: Answer = serde_json::from_str(text).map_err(|error| {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        Malformed::new(error.line(), line)
    })?;
    let path = |row: PathRow| Path { device: row.dev, kernel_state: row.dm_st, checker_state: row.chk_st };
    let map = |map: Map| MultipathMap {
        device: map.sysfs,
        name: map.name,
        queueing: map.queueing,
        paths: map.path_groups.into_iter().flat_map(|group| group.paths).map(path).collect(),
    };
    Ok(answer.maps.into_iter().map(map).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Hand-made after `PRINT_JSON_MAP`: device mapper has given up one path whose disk says `running`.
    const ANSWER: &str = include_str!("../../fixtures/hand-made/multipathd/maps.json");
    const DEADLINE: Duration = Duration::from_secs(20);

    /// A multipathd that answers the one question with these bytes; `None`: not at all.
    async fn asked(answer: Option<Vec<u8>>, deadline: Duration) -> Result<Option<Vec<MultipathMap>>, MultipathdError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let listener = UnixListener::bind(dir.path().join(PATHNAME)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = [0; 8 + 15];
            stream.read_exact(&mut question).await.unwrap();
            assert_eq!(&question[..8], 15_u64.to_ne_bytes());
            assert_eq!(&question[8..], b"show maps json\0");
            let Some(answer) = answer else { std::future::pending().await };
            stream.write_all(&answer).await.unwrap();
        });
        let asked = ask_multipathd(&HostRoot::new(dir.path()), deadline).await;
        server.abort();
        asked
    }

    fn framed(text: &str) -> Option<Vec<u8>> {
        let length = text.len() as u64 + 1;
        Some([&length.to_ne_bytes()[..], text.as_bytes(), &[0]].concat())
    }

    #[tokio::test]
    async fn maps_and_their_paths_come_back() {
        let maps = asked(framed(ANSWER), DEADLINE).await.unwrap().unwrap();
        let [map] = &maps[..] else { panic!("{maps:?}") };
        assert_eq!((map.device.as_str(), map.name.as_str(), map.queueing.as_str()), ("dm-3", "mpatha", "on"));
        let failed: Vec<_> = map.paths.iter().map(|path| (path.device.as_str(), path.is_failed())).collect();
        assert_eq!(failed, [("sda", false), ("sdb", true)]);
    }

    #[tokio::test]
    async fn one_that_hangs_is_told_from_none_and_from_one_that_talks_nonsense() {
        let late = asked(None, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(late, MultipathdError::Timeout { .. }), "{late}");
        let busy = asked(framed("timeout\n"), DEADLINE).await.unwrap_err();
        assert!(matches!(busy, MultipathdError::Timeout { .. }), "{busy}");
        let nonsense = asked(framed("fail\n"), DEADLINE).await.unwrap_err();
        assert!(matches!(nonsense, MultipathdError::Malformed { .. }), "{nonsense}");
        for bytes in [u64::MAX.to_ne_bytes().to_vec(), [&9_u64.to_ne_bytes()[..], b"{}"].concat(), Vec::new()] {
            let broken = asked(Some(bytes), DEADLINE).await.unwrap_err();
            assert!(matches!(broken, MultipathdError::Io { .. }), "{broken}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(ask_multipathd(&HostRoot::new(dir.path()), DEADLINE).await.unwrap().is_none());
    }

    #[test]
    fn it_runs_when_its_pid_is_that_of_a_process_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (root, procfs) = (HostRoot::new(dir.path()), Procfs::new(dir.path().join("proc")));
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let is_running = || is_multipathd_running(&root, &procfs).unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let named = |comm: &str| format!("7 ({comm}){}", stat.rsplit_once(')').unwrap().1);
        assert!(!is_running());
        write("run/multipathd.pid", "7\n");
        assert!(!is_running(), "it has ended");
        write("proc/7/stat", &named("cron"));
        assert!(!is_running(), "its pid is another's");
        write("proc/7/stat", &named("multipathd"));
        assert!(is_running());
        write("run/multipathd.pid", "seven");
        assert!(!is_running());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\{\"maps\":\\[\\{?\\PC{0,60}") {
            let _ = parse_multipath_maps(&text);
        }
    }
}
