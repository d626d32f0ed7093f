//! The client's side: whom to trust, under which name, and as whom.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Uri;
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use rustls::{ClientConfig, Error, client::Resumption, pki_types::ServerName, version::TLS13};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service;

use crate::{
    ALPN, Identity, Pem, TlsError,
    error::inside,
    provider,
    server::{roots, unusable},
};

/// A client of one server; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// How errors name the CA.
    ca: String,
}

impl Client {
    /// Of a server whose certificate is of `ca` and for `name`, a DNS name or an IP address. With `identity` the client shows who it is.
    ///
    /// # Errors
    /// If a certificate cannot be used, a key is not its certificate's, or `name` is no name.
    pub fn new(ca: &Pem, name: &str, identity: Option<Identity>) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|source| TlsError::Unusable { place: "the provider of TLS".to_owned(), source })?
            .with_root_certificates(roots(ca)?);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key, places: [certificate, of_key] }) => {
                builder.with_client_auth_cert(chain, key).map_err(|source| unusable(source, certificate, of_key))?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::BadName(name.to_owned()))?;
        Ok(Self { config: Arc::new(config), name, ca: ca.place().to_owned() })
    }

    /// Greets the server at the other end of a stream.
    ///
    /// # Errors
    /// If it is not who was asked for, or does not speak TLS 1.3.
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(&self, io: IO) -> Result<Stream<IO>, TlsError> {
        let connected = TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), io).await;
        connected.map(Stream::new).map_err(|error| TlsError::of_client(error, &self.name.to_str(), &self.ca))
    }
}

/// A stream to a server that is who was asked for.
///
/// What the server thinks of the client it says after the handshake, and hangs up: a read then fails with a [`TlsError`]. So that the
/// read comes to it, a write that finds the stream broken loses what is written without a word, as happens to whatever is on its way
/// to a peer that is gone, and the read says what broke. HTTP/2 tells its callers nothing of a failed write.
#[derive(Debug)]
pub struct Stream<IO> {
    tls: TlsStream<IO>,
    /// The first failed write, until a read ends.
    broken: Option<io::Error>,
    read_ended: bool,
}

impl<IO> Stream<IO> {
    fn new(tls: TlsStream<IO>) -> Self {
        Self { tls, broken: None, read_ended: false }
    }

    /// What became of a write; `lost` is what it did where the stream is broken.
    fn written<T>(&mut self, written: Poll<io::Result<T>>, lost: T) -> Poll<io::Result<T>> {
        match written {
            Poll::Ready(Err(error)) if !self.read_ended && is_broken(&error) => {
                self.broken.get_or_insert(error);
                Poll::Ready(Ok(lost))
            }
            written => written,
        }
    }
}

fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.tls).poll_read(cx, buf));
        if read.is_ok() && (buf.filled().len() > before || buf.remaining() == 0) {
            return Poll::Ready(Ok(()));
        }
        self.read_ended = true;
        let broken = self.broken.take();
        Poll::Ready(match read {
            Err(error) => Err(match inside(&error) {
                Some(Error::AlertReceived(alert)) => match TlsError::of_alert(*alert) {
                    Some(refused) => io::Error::new(io::ErrorKind::PermissionDenied, refused),
                    None => error,
                },
                _ => error,
            }),
            Ok(()) => broken.map_or(Ok(()), Err),
        })
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.written(written, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.written(written, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.tls).poll_flush(cx);
        self.written(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Opens TCP connections and TLS in them; what tonic's channels are given.
#[derive(Clone, Debug)]
pub struct Connector {
    tcp: HttpConnector,
    client: Client,
}

impl Connector {
    /// For this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let mut tcp = HttpConnector::new();
        // The scheme is https.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, client }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream<TcpStream>>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, client) = (self.tcp.call(uri), self.client.clone());
        Box::pin(async move {
            let tcp = connecting.await?.into_inner();
            Ok(TokioIo::new(client.connect(tcp).await?))
        })
    }
}
