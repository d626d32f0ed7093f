//! Connections as they come: each greets in a task of its own, so that a slow one holds nobody up.
//!
//! A handshake may take [`HANDSHAKE_WITHIN`]; while all places are taken, [`HANDSHAKE_WITHIN_CROWDED`]: then honest clients wait in the
//! kernel's queue, and those that only hold a place lose it. How each ended is counted; what fails is said at most once a minute a kind.

use std::{collections::BTreeMap, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use kulprit_daemon::{BoxError, CancellationToken};
use kulprit_tls::error::inside;
use rustls::{AlertDescription, Error, PeerIncompatible, ServerConfig};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _};
use tracing::{debug, field::display, warn};

use super::connection::{Connection, Tcp};
use crate::metrics::{CentralMetrics, OutcomeLabel};

/// How long a client may take to greet. 10 s: a round trip through a bad link, some times over.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// The same while all places are taken. 1 s: [`MAX_HANDSHAKES`] honest ones that come at once take half of that on two cores.
const HANDSHAKE_WITHIN_CROWDED: Duration = Duration::from_secs(1);
/// Clients that greet at the same time; each costs some 40 KiB meanwhile.
const MAX_HANDSHAKES: usize = 1_024;
/// Connections that wait for the server to take them; then those that have greeted keep their places.
const N_WAITING: usize = 64;
/// How often the same failure is said.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// The configuration in use; `None` before the first.
pub type Configs = watch::Receiver<Option<Arc<ServerConfig>>>;

/// Takes connections in.
pub struct Acceptor<S, IO> {
    /// Whoever limits connections, or those of one address, does so here: nothing was spent on them yet.
    incoming: S,
    /// `None`: plaintext.
    configs: Option<Configs>,
    metrics: CentralMetrics,
    to_server: mpsc::Sender<Connection<IO>>,
    places: Arc<Semaphore>,
    greeting: JoinSet<(Option<SocketAddr>, Result<(), Failure>)>,
    /// When a kind of failure was said, and how often it was not said since.
    said: BTreeMap<&'static str, (Instant, u64)>,
}

/// How a handshake failed.
#[derive(Debug)]
struct Failure {
    kind: &'static str,
    error: Option<io::Error>,
}

impl<S, IO> Acceptor<S, IO>
where
    S: Stream<Item = IO> + Unpin,
    IO: Tcp,
{
    /// Of these connections, by TLS if there are `configs`; what has greeted comes out of the receiver.
    #[must_use]
    pub fn new(
        incoming: S,
        configs: Option<Configs>,
        metrics: CentralMetrics,
    ) -> (Self, mpsc::Receiver<Connection<IO>>) {
        let (to_server, connections) = mpsc::channel(N_WAITING);
        let (places, greeting) = (Arc::new(Semaphore::new(MAX_HANDSHAKES)), JoinSet::new());
        (Self { incoming, configs, metrics, to_server, places, greeting, said: BTreeMap::new() }, connections)
    }

    /// Runs until `stop`.
    ///
    /// # Errors
    /// If there will never be a configuration, or never another connection: who makes them has ended.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), BoxError> {
        if let Some(configs) = &mut self.configs {
            // Until then clients wait in the kernel's queue.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                first = configs.wait_for(Option::is_some) => drop(first?),
            }
        }
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(greeted) = self.greeting.join_next() => {
                    if let Ok((address, outcome)) = greeted {
                        self.note(address, outcome);
                    }
                }
                (place, accepted) = next(&mut self.incoming, &self.places) => match accepted {
                    Some(stream) => self.begin(stream, place),
                    None => return Err("nothing listens any more".into()),
                }
            }
        }
    }

    fn begin(&mut self, stream: IO, place: OwnedSemaphorePermit) {
        let config = self.configs.as_ref().and_then(|configs| configs.borrow().clone());
        let (to_server, places) = (self.to_server.clone(), Arc::clone(&self.places));
        self.greeting.spawn(async move {
            let _place = place;
            let address = stream.connect_info().remote_addr();
            let greeted = match config {
                Some(config) => greet(config, stream, &places).await,
                None => Ok(Connection::plain(stream)),
            };
            match greeted {
                Ok(connection) => {
                    // The server has ended: so will we.
                    let _ = to_server.send(connection).await;
                    (address, Ok(()))
                }
                Err(failure) => (address, Err(failure)),
            }
        });
    }

    fn note(&mut self, address: Option<SocketAddr>, outcome: Result<(), Failure>) {
        if self.configs.is_none() {
            return;
        }
        let kind = outcome.as_ref().map_or_else(|failure| failure.kind, |()| "ok");
        self.metrics.handshakes.get_or_create(&OutcomeLabel::new(kind)).inc();
        let Err(Failure { kind, error }) = outcome else { return };
        let address = address.map(display);
        debug!(address, kind, error = ?error, "a TLS handshake failed");
        // Looks of load balancers and probes of ports end so.
        if kind == "closed" {
            return;
        }
        let now = Instant::now();
        let n_before = match self.said.get_mut(kind) {
            Some((said, n_since)) if now.duration_since(*said) < SAY_EVERY => {
                *n_since += 1;
                return;
            }
            Some((_, n_since)) => *n_since,
            None => 0,
        };
        self.said.insert(kind, (now, 0));
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        warn!(
            address,
            kind, error, n_before, "a TLS handshake failed; more of this kind are counted, and said once a minute"
        );
    }
}

/// The next connection, with a place to greet in. Cancel-safe.
async fn next<S: Stream + Unpin>(incoming: &mut S, places: &Arc<Semaphore>) -> (OwnedSemaphorePermit, Option<S::Item>) {
    let place = Arc::clone(places).acquire_owned().await.expect("the places are never closed");
    (place, incoming.next().await)
}

async fn greet<IO: Tcp>(config: Arc<ServerConfig>, stream: IO, places: &Semaphore) -> Result<Connection<IO>, Failure> {
    let began = Instant::now();
    let mut handshake = pin!(TlsAcceptor::from(config).accept(stream));
    loop {
        match timeout(HANDSHAKE_WITHIN_CROWDED, &mut handshake).await {
            Ok(Ok(stream)) => return Ok(Connection::tls(stream)),
            Ok(Err(error)) => return Err(Failure { kind: kind(&error), error: Some(error) }),
            Err(_) if began.elapsed() >= HANDSHAKE_WITHIN => return Err(Failure { kind: "timeout", error: None }),
            Err(_) if places.available_permits() == 0 => return Err(Failure { kind: "crowded", error: None }),
            Err(_) => {}
        }
    }
}

/// The word for a failed handshake, of a closed set.
fn kind(error: &io::Error) -> &'static str {
    match inside(error) {
        Some(Error::InvalidMessage(_)) => "plaintext",
        Some(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        )) => "old_version",
        Some(Error::NoCertificatesPresented) => "no_certificate",
        Some(Error::InvalidCertificate(_)) => "bad_certificate",
        Some(Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            // Of a CA that is called as the one it trusts.
            | AlertDescription::DecryptError,
        )) => "distrusted",
        Some(_) => "other",
        None if matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ) =>
        {
            "closed"
        }
        None => "other",
    }
}

#[cfg(test)]
mod tests {
    use kulprit_tls::{Clients, server_config, testing::Authority};
    use rustls::time_provider::DefaultTimeProvider;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// How one who says nothing ends, and after how many seconds, while so many places are free.
    async fn silent(n_free: usize) -> (&'static str, u64) {
        let issued = Authority::new("ca").issue("central", &["central"]);
        let config = server_config(issued.identity(), Clients::Anyone, Arc::new(DefaultTimeProvider)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let began = Instant::now();
        let failure = greet(config, stream, &Semaphore::new(n_free)).await.unwrap_err();
        (failure.kind, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_keeps_a_place_for_ten_seconds_and_for_one_while_none_is_free() {
        assert_eq!(silent(1).await, ("timeout", 10));
        assert_eq!(silent(0).await, ("crowded", 1));
    }
}
