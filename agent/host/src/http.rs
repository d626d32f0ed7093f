//! One small GET: what a daemon's health page says.
//!
//! Written out because a health check must not be cleverer than what it checks: no pool, no redirect, no TLS, one deadline
//! over all of it. HTTP/1.0, so that the server ends the connection; the body is cut after 256 bytes. How it failed is what
//! the caller wants to know (nobody listens; nobody answers; what answers speaks no HTTP), so errors are sorted by that.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Malformed;

/// The most of a body that is kept, bytes.
pub const BODY_LIMIT_BYTES: usize = 256;
/// The most of an answer that is read, bytes: headers of a health page are a few lines.
const ANSWER_LIMIT_BYTES: usize = 8 << 10;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// Status code: 200 is well.
    pub status: u16,
    /// Beginning of the body, at most 256 bytes.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens there.
    #[error("{address} refused the connection")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
    },
    /// No answer in time; also one that began and did not end its headers.
    #[error("{address} gave no answer within {deadline:?}")]
    Timeout {
        /// Who was asked.
        address: SocketAddr,
        /// How long we waited.
        deadline: Duration,
    },
    /// Whoever listened closed the connection without an answer.
    #[error("{address} closed the connection without an answer")]
    Reset {
        /// Who was asked.
        address: SocketAddr,
    },
    /// What came is no HTTP.
    #[error("{address} gave an answer that is no HTTP")]
    Malformed {
        /// Who was asked.
        address: SocketAddr,
        /// The line that is not.
        #[source]
        source: Malformed,
    },
    /// Our side failed: no route, no descriptors.
    #[error("failed to ask {address}")]
    Io {
        /// Who was asked.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Asks `address` for `path` (`/healthz`) and waits at most `deadline` for all of the answer.
///
/// # Errors
/// See [`HttpError`]. An answer of status 500 is an answer.
pub async fn get(address: SocketAddr, path: &str, deadline: Duration) -> Result<HttpAnswer, HttpError> {
    let exchange = async {
        let bytes = exchange(address, path).await.map_err(|source| classify(address, source))?;
        if bytes.is_empty() {
            return Err(HttpError::Reset { address });
        }
        parse_http_answer(&bytes).map_err(|source| HttpError::Malformed { address, source })
    };
    tokio::time::timeout(deadline, exchange).await.unwrap_or(Err(HttpError::Timeout { address, deadline }))
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: kulprit\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::with_capacity(512);
    while bytes.len() < ANSWER_LIMIT_BYTES && !is_complete(&bytes) {
        match stream.read_buf(&mut bytes).await {
            Ok(0) => break,
            Ok(_) => {}
            // Some servers reset instead of closing; what came before it counts.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !bytes.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn classify(address: SocketAddr, source: io::Error) -> HttpError {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => HttpError::Refused { address },
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            HttpError::Reset { address }
        }
        _ => HttpError::Io { address, source },
    }
}

/// Whether headers and as much of a body as we keep have come, so that a server that does not close cannot keep us.
fn is_complete(bytes: &[u8]) -> bool {
    let Some((head, body)) = split_head(bytes) else { return false };
    let is_length =
        |line: &&str| line.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"));
    let head = String::from_utf8_lossy(head);
    let declared = head.lines().find(is_length).and_then(|line| line.split_once(':')?.1.trim().parse::<usize>().ok());
    body.len() >= declared.map_or(BODY_LIMIT_BYTES, |length| length.min(BODY_LIMIT_BYTES))
}

/// Parses an answer: a status line, headers, a blank line, a body that may be cut.
///
/// # Errors
/// When the first line is no status line, or the headers do not end.
pub fn parse_http_answer(bytes: &[u8]) -> Result<HttpAnswer, Malformed> {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let malformed = || Malformed::new(1, first);
    let line = std::str::from_utf8(first).map_err(|_| malformed())?;
    let mut words = line.split_ascii_whitespace();
    let version = words.next().filter(|word| word.starts_with("HTTP/"));
    let status = words.next().filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    let (Some(_), Some(status), Some((_, body))) = (version, status, split_head(bytes)) else {
        return Err(malformed());
    };
    let body = String::from_utf8_lossy(&body[..body.len().min(BODY_LIMIT_BYTES)]).into_owned();
    Ok(HttpAnswer { status, body })
}

/// Splits at the blank line.
fn split_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((&bytes[..end], &bytes[end + 4..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(5);

    /// A server for one connection that answers with `answer` and, unless told to hold on, closes.
    async fn server(answer: &'static [u8], holds_on: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let n_bytes = stream.read(&mut request).await.unwrap();
            assert!(request[..n_bytes].starts_with(b"GET /healthz HTTP/1.0\r\n"));
            stream.write_all(answer).await.unwrap();
            if holds_on {
                std::future::pending::<()>().await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_healthy_page_is_read_with_its_status() {
        let address = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false).await;
        let answer = get(address, "/healthz", DEADLINE).await.unwrap();
        assert_eq!(answer, HttpAnswer { status: 200, body: "ok".to_owned() });
    }

    #[tokio::test]
    async fn an_unhealthy_page_is_an_answer_too() {
        let address = server(b"HTTP/1.0 500 Internal Server Error\r\n\r\n[-]syncloop failed", false).await;
        let answer = get(address, "/healthz", DEADLINE).await.unwrap();
        assert_eq!(answer, HttpAnswer { status: 500, body: "[-]syncloop failed".to_owned() });
    }

    #[tokio::test]
    async fn a_server_that_does_not_close_is_not_waited_for() {
        let address = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true).await;
        assert_eq!(get(address, "/healthz", DEADLINE).await.unwrap().body, "ok");
    }

    #[tokio::test]
    async fn each_failure_has_its_class() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(get(nobody, "/healthz", DEADLINE).await, Err(HttpError::Refused { .. })));
        let silent = server(b"", false).await;
        assert!(matches!(get(silent, "/healthz", DEADLINE).await, Err(HttpError::Reset { .. })));
        let other = server(b"SSH-2.0-OpenSSH_9.2\r\n", false).await;
        assert!(matches!(get(other, "/healthz", DEADLINE).await, Err(HttpError::Malformed { .. })));
        let hung = server(b"HTTP/1.1 200 OK\r\n", true).await;
        let short = Duration::from_millis(50);
        assert!(matches!(get(hung, "/healthz", short).await, Err(HttpError::Timeout { .. })));
    }

    #[test]
    fn a_long_body_is_cut() {
        let answer = parse_http_answer(&[b"HTTP/1.0 200\r\n\r\n".as_slice(), &[b'x'; 1000]].concat()).unwrap();
        assert_eq!(answer.body.len(), BODY_LIMIT_BYTES);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), head in "(HTTP/1.1 )?[0-9é]{0,4} ?(\r\n){0,2}(content-length: ?[0-9]{0,22})?(\r\n){0,3}") {
            let both = [head.as_bytes(), &bytes].concat();
            let _ = (parse_http_answer(&bytes), parse_http_answer(&both), is_complete(&both));
        }
    }
}
