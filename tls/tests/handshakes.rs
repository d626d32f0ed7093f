//! Both sides against each other: who is let in, and what is said where somebody is not.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics; clippy only knows the test functions themselves"
)]

use std::{io, path::Path, sync::Arc};

use kulprit_tls::{
    Client, Clients, Identity, Pem, TlsError,
    client::Stream,
    server_config,
    testing::{Authority, Issued},
};
use rustls::{ServerConfig, time_provider::DefaultTimeProvider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const NAME: &str = "kulprit-central.kulprit.svc";

fn server(issued: &Issued, clients: Clients<'_>) -> Arc<ServerConfig> {
    server_config(issued.identity(), clients, Arc::new(DefaultTimeProvider)).unwrap()
}

/// What becomes of a handshake on both sides.
async fn greet(
    config: Arc<ServerConfig>,
    client: &Client,
) -> (io::Result<TlsStream<DuplexStream>>, Result<Stream<DuplexStream>, TlsError>) {
    let (near, far) = duplex(1 << 16);
    tokio::join!(TlsAcceptor::from(config).accept(far), client.connect(near))
}

#[track_caller]
fn check(error: Option<TlsError>, want: &str) {
    assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(want));
}

#[tokio::test]
async fn a_client_that_trusts_the_ca_and_asks_for_the_name_speaks_tls_1_3_and_http_2() {
    let ca = Authority::new("ca");
    let config = server(&ca.issue("central", &[NAME, "10.77.0.1"]), Clients::Anyone);
    for name in [NAME, "10.77.0.1"] {
        let client = Client::new(&ca.pem(), name, None).unwrap();
        let (server, client) = greet(Arc::clone(&config), &client).await;
        let (mut server, mut client) = (server.unwrap(), client.unwrap());
        let session = server.get_ref().1;
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        client.write_all(b"ping").await.unwrap();
        client.flush().await.unwrap();
        let mut heard = [0; 4];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
    }
}

#[tokio::test]
async fn a_server_that_is_not_who_was_asked_for_is_refused_with_the_reason() {
    let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
    let refused = async |issued: &Issued, ca: &Authority, name: &str| {
        let client = Client::new(&ca.pem(), name, None).unwrap();
        greet(server(issued, Clients::Anyone), &client).await.1.err()
    };
    let issued = ca.issue("central", &[NAME]);
    check(
        refused(&issued, &other, NAME).await,
        "the server's certificate is of no CA in the test's CA: is that the CA of this central, as it is now?",
    );
    check(
        refused(&issued, &ca, "central.example").await,
        "the server's certificate is for kulprit-central.kulprit.svc and not for central.example: ask for a name that it has",
    );
    check(
        refused(&ca.issue_for_years(&[NAME], 2000, 2001), &ca, NAME).await,
        "the server's certificate ended at 2001-01-01T00:00:00Z: it was not renewed, or the clock of this machine is wrong",
    );
    check(
        refused(&ca.issue_for_years(&[NAME], 4000, 4001), &ca, NAME).await,
        "the server's certificate begins at 4000-01-01T00:00:00Z: the clock of this machine, or of who made it, is wrong",
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_a_wrong_one_is_told_so_when_it_reads() {
    let (ca, other) = (Authority::new("ca"), Authority::new("others"));
    let trusted = ca.pem();
    let config = server(&ca.issue("central", &[NAME]), Clients::Must(&trusted));
    let greeted = async |identity: Option<Identity>| {
        let client = Client::new(&ca.pem(), NAME, identity).unwrap();
        greet(Arc::clone(&config), &client).await.1.unwrap()
    };
    let said = |error: Option<io::Error>| error.and_then(|error| error.into_inner()?.downcast().ok()).map(|said| *said);
    let wanted = "the server wants a certificate of its clients, and none was shown to it";
    check(said(greeted(None).await.read_u8().await.err()), wanted);
    // The server's end of the stream is dropped by now, so a write fails; it is the read that says why.
    let mut hung_up = greeted(None).await;
    hung_up.write_all(b"a question").await.unwrap();
    hung_up.flush().await.unwrap();
    check(said(hung_up.read_u8().await.err()), wanted);
    let mut gone = greeted(Some(ca.issue("n1", &["n1"]).identity())).await;
    gone.write_all(b"a question").await.unwrap();
    gone.read_u8().await.unwrap_err();
    assert_eq!(gone.write_all(b"another").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut refused = greeted(Some(other.issue("n1", &["n1"]).identity())).await;
    let refused = said(refused.read_u8().await.err()).map(|error: TlsError| error.to_string()).unwrap_or_default();
    assert!(refused.starts_with("the server does not accept our certificate (UnknownCA)"), "{refused}");
    let client = Client::new(&ca.pem(), NAME, Some(ca.issue("n1", &["n1"]).identity())).unwrap();
    let (server, client) = greet(Arc::clone(&config), &client).await;
    assert!(client.is_ok());
    assert_eq!(server.unwrap().get_ref().1.peer_certificates().map(<[_]>::len), Some(1));
}

#[tokio::test]
async fn a_server_that_may_be_shown_a_certificate_wants_none() {
    let ca = Authority::new("ca");
    let trusted = ca.pem();
    let config = server(&ca.issue("central", &[NAME]), Clients::May(&trusted));
    let (server, client) = greet(config, &Client::new(&ca.pem(), NAME, None).unwrap()).await;
    assert!(client.is_ok());
    assert!(server.unwrap().get_ref().1.peer_certificates().is_none());
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_hangs_up() {
    let client = Client::new(&Authority::new("ca").pem(), NAME, None).unwrap();
    let answered = async |answer: &[u8]| {
        let (near, mut far) = duplex(1 << 16);
        let answer = async move {
            // What it is asked has to be read before.
            let _ = far.read_u8().await;
            let _ = far.write_all(answer).await;
        };
        tokio::join!(client.connect(near), answer).0.err()
    };
    let not_tls = "the server does not speak TLS there: is that port plaintext (http://), or of another program?";
    check(answered(b"HTTP/1.1 400 Bad Request\r\n\r\n").await, not_tls);
    // The settings with which a server of HTTP/2 begins.
    check(answered(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 64]).await, not_tls);
    check(
        answered(b"").await,
        "the connection was ended within the TLS handshake: does the server take TLS there, and is it not overloaded?",
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let (certificate, key) = ca.issue("central", &[NAME]).write(folder.path(), "a");
    let (_, other_key) = ca.issue("central", &[NAME]).write(folder.path(), "b");
    let told = |error: TlsError| error.to_string().replace(&folder.path().display().to_string(), "DIR");
    let read = |certificate: &Path, key: &Path| {
        let identity = Identity::read(certificate, key)?;
        server_config(identity, Clients::Anyone, Arc::new(DefaultTimeProvider)).map(drop)
    };
    read(&certificate, &key).unwrap();
    let fault = |certificate: &Path, key: &Path| told(read(certificate, key).unwrap_err());
    assert_eq!(fault(&certificate, &other_key), "the key in `DIR/b.key` is not that of the certificate in `DIR/a.crt`");
    assert_eq!(fault(&key, &key), "no certificate (PEM) in `DIR/a.key`");
    assert_eq!(fault(&certificate, &certificate), "no private key (PEM) in `DIR/a.crt`");
    assert_eq!(fault(&folder.path().join("none"), &key), "failed to read `DIR/none`");
    let half = folder.path().join("half.crt");
    let text = std::fs::read_to_string(&certificate).unwrap();
    std::fs::write(&half, &text[..text.len() / 2]).unwrap();
    assert_eq!(fault(&half, &key), "broken PEM in `DIR/half.crt`: a section has no end");
    let bad_name = Client::new(&ca.pem(), "no name", None).unwrap_err();
    assert_eq!(told(bad_name), "`no name` is neither a DNS name nor an IP address");
    let shown = format!("{:?}", Pem::read(&key).unwrap());
    assert!(shown.contains("a.key") && !shown.contains("PRIVATE"), "{shown}");
}
