//! Connections to the gRPC port, before anything that they say is believed.
//!
//! There are only so many, whole and from one address; who comes beyond is closed at once and counted, and who is there stays. A caller has to
//! begin to speak HTTP/2 soon ([`Prompt`]), and where he is asked who he is, have a call let in soon after ([`Admitted`]); after that HTTP/2's own pings
//! tell the slow from the dead. Why each bound is what it is: `docs/adr/0019-what-one-agent-may-take.md`.
//!
//! TLS goes in between: [`incoming`] gives TCP streams with their seats, [`Prompt`] wraps whatever HTTP/2 is spoken over.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep},
};
use tokio_stream::Stream;
use tonic::transport::{
    Server,
    server::{Connected, TcpConnectInfo},
};
use tracing::warn;

use crate::metrics::{CentralMetrics, ReasonLabel};

/// An agent or client that vanished without a word is noticed after 15 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// A ping unanswered for this long ends the connection; what trickles in byte by byte answers none.
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(5);
/// Questions of one connection answered at the same time, and streams: an agent needs one.
const STREAMS_PER_CONNECTION: u32 = 64;
/// What a stream may have sent that nobody has read, bytes: at 20 ms of round trip 12 MiB/s. A caller whose share is used up waits behind it.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same of all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;
/// Headers of one request, bytes: a bearer token with its claims has 2 KiB at most.
const HEADERS_BYTES: u32 = 16 << 10;
/// Streams opened and reset before anybody has looked at them; a client that does so on and on is closed (CVE-2023-44487).
const RESETS_PENDING: usize = 20;
/// Streams that we reset because of what the client sent, in a connection's life.
const RESETS_OF_OURS: usize = 64;
/// From a request's begin to its answer, or to the begin of a stream of answers: the longest waits half a minute for captures.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Until a caller has said the beginning of HTTP/2 (over TLS: after the handshake).
const GREETED_WITHIN: Duration = Duration::from_secs(10);
/// Until one call of a connection was let in, where callers are asked who they are: agents and the plugin show it with their first.
const ADMITTED_WITHIN: Duration = Duration::from_secs(30);
/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`, RFC 9113 section 3.4.
const PREFACE_BYTES: usize = 24;
/// File descriptors for all else: the store, the API server, the admin port.
const OTHER_FILES: usize = 256;
/// When the kernel gives no more file descriptors, how long nobody is let in.
const REST: Duration = Duration::from_millis(100);
/// How often refusals of one kind are said: an attack is one line in ten minutes.
const SAID_EVERY: Duration = Duration::from_secs(600);

/// A gRPC server with the bounds of a connection; see the constants.
#[must_use]
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING))
        .http2_max_local_error_reset_streams(Some(RESETS_OF_OURS))
        .timeout(ANSWER_WITHIN)
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// In all.
    pub whole: usize,
    /// From one address; of IPv6 from one /64.
    pub of_address: usize,
}

/// Who is connected; clones share it.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: Most,
    metrics: CentralMetrics,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    n: usize,
    by_address: HashMap<IpAddr, usize>,
    /// When refusals of a kind were said last.
    said: HashMap<Refusal, Instant>,
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There are as many as there may be.
    Whole,
    /// There are as many of its address as there may be.
    OfAddress,
    /// The kernel gives no file descriptor.
    NoFile,
    /// It did not begin to speak HTTP/2 in time.
    Silent,
    /// None of its calls was let in in time, or it made none.
    Unadmitted,
}

impl Refusal {
    /// The word in metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::OfAddress => "address",
            Self::NoFile => "no_file",
            Self::Silent => "silent",
            Self::Unadmitted => "unadmitted",
        }
    }
}

impl Connections {
    /// Lets in so many, and no more than the process may have files open; its soft limit of those is raised to the hard one.
    #[must_use]
    pub fn new(most: Most, metrics: CentralMetrics) -> Self {
        let n_files = files_allowed();
        let whole = most.whole.min(n_files.saturating_sub(OTHER_FILES)).max(1);
        if whole < most.whole {
            warn!(
                n_files,
                connections = whole,
                wanted = most.whole,
                "this process may open too few files for as many connections; raise its limit (LimitNOFILE, ulimit -n)"
            );
        }
        Self(Arc::new(Shared { most: Most { whole, ..most }, metrics, held: Mutex::default() }))
    }

    /// A seat for a caller from `address`, given back when it is dropped.
    ///
    /// # Errors
    /// If there are as many as there may be; counted, and said now and then.
    pub fn admit(&self, address: IpAddr) -> Result<Seat, Refusal> {
        let address = place(address);
        let refusal = {
            let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.n >= self.0.most.whole {
                Refusal::Whole
            } else if held.by_address.get(&address).is_some_and(|n| *n >= self.0.most.of_address) {
                Refusal::OfAddress
            } else {
                held.n += 1;
                *held.by_address.entry(address).or_default() += 1;
                self.0.metrics.connections.inc();
                return Ok(Seat { address, connections: self.clone() });
            }
        };
        self.refused(refusal, Some(address));
        Err(refusal)
    }

    /// Counts a refusal, and says it if none of its kind was said for a while.
    fn refused(&self, refusal: Refusal, address: Option<IpAddr>) {
        let Shared { most, metrics, held } = &*self.0;
        metrics.refused_connections.get_or_create(&ReasonLabel::new(refusal.as_str())).inc();
        let now = Instant::now();
        {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.said.get(&refusal).is_some_and(|said| now.duration_since(*said) < SAID_EVERY) {
                return;
            }
            held.said.insert(refusal, now);
        }
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        match refusal {
            Refusal::Whole => warn!(
                address,
                most = most.whole,
                "there are as many connections as there may be, and another was closed; see who is connected (ss -tn), or raise limits.connections"
            ),
            Refusal::OfAddress => warn!(
                address,
                most = most.of_address,
                "this address has as many connections as one may have, and another was closed; if a proxy or NAT stands for many there, raise limits.connections_per_address"
            ),
            Refusal::NoFile => {
                warn!("no file descriptor is left for a connection; raise the limit of this process or machine");
            }
            Refusal::Silent => {
                warn!(address, within = ?GREETED_WITHIN, "a connection was closed that did not begin to speak HTTP/2 in time");
            }
            Refusal::Unadmitted => {
                warn!(address, within = ?ADMITTED_WITHIN, "a connection was closed of which no call was let in in time");
            }
        }
    }
}

/// Who counts as one: an IPv6 host has a /64 to choose from.
pub(crate) fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// How many files this process may have open, once its soft limit is its hard one.
fn files_allowed() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let is_raised = soft >= hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        return usize::try_from(if is_raised { hard } else { soft }).unwrap_or(usize::MAX);
    }
    usize::MAX
}

/// The right to be connected.
#[derive(Debug)]
pub struct Seat {
    address: IpAddr,
    connections: Connections,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Shared { metrics, held, .. } = &*self.connections.0;
        metrics.connections.dec();
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.n -= 1;
        if let Some(n) = held.by_address.get_mut(&self.address) {
            *n -= 1;
            if *n == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}

/// The callers that are let in, one after the other.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    connections: Connections,
    rest: Option<Pin<Box<Sleep>>>,
}

/// Accepts on `listener` whom `connections` has a seat for; never ends: whom the kernel could not hand over is counted.
#[must_use]
pub const fn incoming(listener: TcpListener, connections: Connections) -> Incoming {
    Incoming { listener, connections, rest: None }
}

impl Stream for Incoming {
    type Item = Connection;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(rest) = &mut this.rest {
                ready!(rest.as_mut().poll(cx));
                this.rest = None;
            }
            match ready!(this.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    let Ok(seat) = this.connections.admit(peer.ip()) else { continue };
                    // Acks are small and wanted at once. It fails on a connection that is gone already.
                    let _ = stream.set_nodelay(true);
                    return Poll::Ready(Some(Connection { stream, seat }));
                }
                Err(error) if is_of_one_caller(&error) => {}
                Err(_) => {
                    // Who waits stays in the kernel's queue: to ask again at once would only turn in circles.
                    this.connections.refused(Refusal::NoFile, None);
                    this.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}

fn is_of_one_caller(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A TCP connection that has a seat for as long as it lives.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    seat: Seat,
}

/// Whether a call of a connection was let in; once it was, for as long as the connection lives. Clones are of the same connection.
#[derive(Clone, Debug, Default)]
pub struct Admitted(Arc<AtomicBool>);

impl Admitted {
    /// One was.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What each request knows of its connection: an extension of it until [`unpack`].
#[derive(Clone, Debug)]
pub struct Greeted<P> {
    peer: P,
    admitted: Admitted,
}

/// Makes the peer of a request, and whether its connection is [`Admitted`], extensions of their own.
#[must_use]
pub fn unpack<P, B>(mut request: http::Request<B>) -> http::Request<B>
where
    P: Clone + Send + Sync + 'static,
{
    if let Some(Greeted { peer, admitted }) = request.extensions_mut().remove::<Greeted<P>>() {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(admitted);
    }
    request
}

/// What HTTP/2 is spoken over: it has to begin soon, and where callers are asked who they are, one call has to be let in.
///
/// The first wait ends with the 24 bytes that every HTTP/2 connection begins with, the second with [`Admitted::note`]; then pings take over.
#[derive(Debug)]
pub struct Prompt<S> {
    stream: S,
    connections: Connections,
    address: IpAddr,
    greeting: Option<Greeting>,
    admitted: Admitted,
    /// Until when that has to be; `None`: it has been, or nobody is asked.
    admitted_until: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Greeting {
    n_read: usize,
    until: Pin<Box<Sleep>>,
}

impl<S> Prompt<S> {
    /// From now on; `connections` counts it if it is closed. Both are [`Connection::whose`] of what is under `stream`. Where `is_asked`, a call has
    /// to be let in.
    #[must_use]
    pub fn new(stream: S, connections: Connections, address: IpAddr, is_asked: bool) -> Self {
        let greeting = Some(Greeting { n_read: 0, until: Box::pin(sleep(GREETED_WITHIN)) });
        let admitted_until = is_asked.then(|| Box::pin(sleep(ADMITTED_WITHIN)));
        Self { stream, connections, address, greeting, admitted: Admitted::default(), admitted_until }
    }

    /// Whether it is too late for a first call that is let in.
    fn poll_too_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(until) = &mut self.admitted_until else { return false };
        if self.admitted.is_so() {
            self.admitted_until = None;
            return false;
        }
        until.as_mut().poll(cx).is_ready()
    }
}

impl Connection {
    /// Where it is counted, and whose it is.
    #[must_use]
    pub fn whose(&self) -> (Connections, IpAddr) {
        (self.seat.connections.clone(), self.seat.address)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // HTTP/2 reads whenever it is polled, also while nothing comes.
        if this.poll_too_late(cx) {
            this.connections.refused(Refusal::Unadmitted, Some(this.address));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let n_before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(greeting) = &mut this.greeting else { return read };
        if read.is_ready() {
            greeting.n_read += buffer.filled().len() - n_before;
        }
        if greeting.n_read >= PREFACE_BYTES {
            this.greeting = None;
        } else if read.is_pending() {
            ready!(greeting.until.as_mut().poll(cx));
            this.connections.refused(Refusal::Silent, Some(this.address));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<S: Connected> Connected for Prompt<S> {
    type ConnectInfo = Greeted<S::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Greeted { peer: self.stream.connect_info(), admitted: self.admitted.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

macro_rules! writes_through {
    ($type:ty $(, $generic:ident)?) => {
        impl $(<$generic: AsyncWrite + Unpin>)? AsyncWrite for $type {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write(cx, bytes)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }
        }
    };
}
writes_through!(Connection);
writes_through!(Prompt<S>, S);

#[cfg(test)]
mod tests {
    use kulprit_daemon::{Clock, metrics::Metrics};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn connections(whole: usize, of_address: usize) -> (Connections, Metrics) {
        let mut metrics = Metrics::new("x", "0", &Clock::kernel());
        let central = CentralMetrics::register(metrics.section("central"));
        (Connections::new(Most { whole, of_address }, central), metrics)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn each_address_has_so_many_seats_and_all_have_so_many() {
        let (connections, metrics) = connections(4, 2);
        let mut of_a: Vec<Seat> = (0..2).map(|_| connections.admit(address("10.0.0.1")).unwrap()).collect();
        assert_eq!(connections.admit(address("10.0.0.1")).unwrap_err(), Refusal::OfAddress);
        assert_eq!(connections.admit(address("::ffff:10.0.0.1")).unwrap_err(), Refusal::OfAddress);
        let _of_b = connections.admit(address("10.0.0.2")).unwrap();
        let _of_c = connections.admit(address("10.0.0.3")).unwrap();
        assert_eq!(connections.admit(address("10.0.0.4")).unwrap_err(), Refusal::Whole);
        of_a.pop();
        connections.admit(address("10.0.0.1")).unwrap();
        let text = metrics.encode();
        for line in [
            "kulprit_central_connections 3",
            "kulprit_central_refused_connections_total{reason=\"address\"} 2",
            "kulprit_central_refused_connections_total{reason=\"whole\"} 1",
        ] {
            assert!(text.lines().any(|own| own == line), "no {line} in\n{text}");
        }
    }

    #[tokio::test]
    async fn a_host_of_ipv6_is_one_whichever_of_its_addresses_it_takes() {
        let (connections, _) = connections(10, 1);
        let _seat = connections.admit(address("2001:db8:0:1::1")).unwrap();
        assert!(connections.admit(address("2001:db8:0:1:ffff::2")).is_err());
        assert!(connections.admit(address("2001:db8:0:2::1")).is_ok());
    }

    #[tokio::test]
    async fn what_is_given_back_is_forgotten() {
        let (connections, _) = connections(100, 2);
        for n in 0..100_u8 {
            drop(connections.admit(IpAddr::from([10, 0, 1, n])));
        }
        let held = connections.0.held.lock().unwrap();
        assert_eq!((held.n, held.by_address.len()), (0, 0));
    }

    /// What a server reads of a caller that says one byte of `bytes` each `every`, and how long that takes; a call of his is let in after
    /// `admitted`, if he is asked.
    async fn read_of(
        bytes: &'static [u8],
        every: Duration,
        admitted: Option<Duration>,
    ) -> (io::Result<Vec<u8>>, Duration, String) {
        let (connections, metrics) = connections(1, 1);
        let (theirs, ours) = duplex(64);
        let saying = tokio::spawn(async move {
            let mut theirs = theirs;
            for byte in bytes {
                sleep(every).await;
                if theirs.write_u8(*byte).await.is_err() {
                    return;
                }
            }
        });
        let mut prompt = Prompt::new(ours, connections, address("10.0.0.1"), admitted.is_some());
        let (began, flag) = (Instant::now(), prompt.admitted.clone());
        tokio::spawn(async move {
            sleep(admitted.unwrap_or_default()).await;
            flag.note();
        });
        let mut read = Vec::new();
        let end = prompt.read_to_end(&mut read).await.map(|_| read);
        saying.abort();
        (end, began.elapsed(), metrics.encode())
    }

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand so on";

    #[tokio::test(start_paused = true)]
    async fn who_trickles_the_first_bytes_is_closed_and_counted() {
        let (end, took, counted) = read_of(PREFACE, Duration::from_secs(1), None).await;
        assert_eq!((end.unwrap_err().kind(), took.as_secs()), (io::ErrorKind::TimedOut, 10));
        assert!(counted.contains("kulprit_central_refused_connections_total{reason=\"silent\"} 1\n"), "{counted}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_in_time_may_take_its_time() {
        let (end, took, counted) = read_of(PREFACE, Duration::from_millis(400), None).await;
        assert_eq!((end.unwrap(), took.as_millis()), (PREFACE.to_vec(), 400 * 33));
        assert!(counted.contains("reason=\"silent\"} 0\n"), "{counted}");
    }

    const LONG: [u8; 200] = [0x20; 200];

    #[tokio::test(start_paused = true)]
    async fn who_speaks_and_is_never_let_in_is_closed_and_counted() {
        let (end, took, counted) = read_of(&LONG, Duration::from_millis(400), Some(ADMITTED_WITHIN * 2)).await;
        assert_eq!((end.unwrap_err().kind(), took.as_secs()), (io::ErrorKind::TimedOut, ADMITTED_WITHIN.as_secs()));
        assert!(counted.contains("kulprit_central_refused_connections_total{reason=\"unadmitted\"} 1\n"), "{counted}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_let_in_once_or_is_not_asked_stays() {
        for admitted in [None, Some(ADMITTED_WITHIN - Duration::from_secs(1))] {
            let (end, took, counted) = read_of(&LONG, Duration::from_millis(400), admitted).await;
            assert_eq!((end.unwrap(), took.as_secs()), (LONG.to_vec(), 80));
            assert!(counted.contains("reason=\"unadmitted\"} 0\n"), "{counted}");
        }
    }
}
