//! One accepted connection, and what each request on it knows of its peer.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::certificate::Facts;

/// Whose certificate the client showed: verified against `tls.client_ca`. An extension of each of its requests.
///
/// The certificate's first DNS name, else its common name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerName(pub String);

/// Who is at the other end. An extension of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// From where; `None` if the kernel could not say.
    pub address: Option<SocketAddr>,
    /// Who, if a certificate was shown.
    pub name: Option<PeerName>,
}

/// What TLS, or plaintext HTTP/2, is spoken over.
pub trait Tcp: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static {}

impl<IO> Tcp for IO where IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static {}

/// A connection that is ready for HTTP/2.
#[derive(Debug)]
pub struct Connection<IO> {
    io: Io<IO>,
    peer: Peer,
}

#[derive(Debug)]
enum Io<IO> {
    Plain(IO),
    // Large, and this is moved about.
    Tls(Box<TlsStream<IO>>),
}

impl<IO: Tcp> Connection<IO> {
    /// In plaintext.
    pub(super) fn plain(stream: IO) -> Self {
        let address = stream.connect_info().remote_addr();
        Self { io: Io::Plain(stream), peer: Peer { address, name: None } }
    }

    /// After the handshake.
    pub(super) fn tls(stream: TlsStream<IO>) -> Self {
        let address = stream.get_ref().0.connect_info().remote_addr();
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| Facts::read(chain.first()?));
        let name = shown.and_then(|facts| facts.holder().map(|name| PeerName(name.to_owned())));
        Self { io: Io::Tls(Box::new(stream)), peer: Peer { address, name } }
    }
}

impl<IO> Connection<IO> {
    /// What it is spoken over.
    #[must_use]
    pub fn tcp(&self) -> &IO {
        match &self.io {
            Io::Plain(stream) => stream,
            Io::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl<IO: Tcp> Connected for Connection<IO> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Puts the peer's name, if it has one, beside the [`Peer`] of a request.
#[must_use]
pub fn name_peer<B>(mut request: http::Request<B>) -> http::Request<B> {
    let name = request.extensions().get::<Peer>().and_then(|peer| peer.name.clone());
    if let Some(name) = name {
        request.extensions_mut().insert(name);
    }
    request
}

impl<IO: Tcp> AsyncRead for Connection<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<IO: Tcp> AsyncWrite for Connection<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
