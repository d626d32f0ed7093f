//! Who gets in by TLS and who does not, and that a change of certificates ends no stream.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kulprit_central::config::{Config, MadeConfig, TlsConfig};
use kulprit_daemon::Clock;
use kulprit_model::Status;
use kulprit_proto::v1;
use kulprit_tls::{
    Client, Identity, Pem,
    testing::{Authority, Issued},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::{
    agent::{Agent, PATIENCE, channel_by, hello, kubelet},
    api::Api,
    app::{App, START, config},
};

const NAME: &str = "kulprit-central.kulprit.svc";
/// A file is taken when it is the same at two looks, 5 s apart.
const TAKEN_WITHIN: Duration = Duration::from_secs(25);

/// A central that speaks TLS, its files, and their CA.
struct World {
    folder: TempDir,
    ca: Authority,
    app: App,
}

impl World {
    /// With a certificate of its CA; with `clients` it wants one of them from whoever comes.
    async fn start(clients: Option<&Authority>, shown: Option<Identity>) -> Self {
        let (folder, ca) = (tempfile::tempdir().unwrap(), Authority::new("ca"));
        let tls = files(folder.path(), &ca.issue("central", &[NAME]), clients);
        let client = Client::new(&ca.pem(), NAME, shown).unwrap();
        let config = Config { tls: Some(tls), ..config(&folder.path().join("data")) };
        let app = App::start_configured(config, START, Some(client)).await;
        Self { folder, ca, app }
    }

    async fn by(&self, client: Client) -> Result<Channel, String> {
        let connected = channel_by(client, self.app.grpc()).await;
        connected.map_err(|error| kulprit_daemon::Chain(&error).to_string())
    }

    fn client(&self) -> Client {
        Client::new(&self.ca.pem(), NAME, None).unwrap()
    }

    async fn n_handshakes(&self, outcome: &str) -> u64 {
        let text = self.app.admin("/metrics").await;
        let line = format!("kulprit_central_handshakes_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|own| own.strip_prefix(&line)?.parse().ok()).unwrap_or(0)
    }

    /// Waits until so many handshakes ended so.
    async fn wait_for(&self, outcome: &str, n: u64) {
        let waited = timeout(PATIENCE, async {
            while self.n_handshakes(outcome).await < n {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let is_counted = waited.await.is_ok();
        assert!(is_counted, "{outcome}: {}", self.app.admin("/metrics").await);
        assert_eq!(self.n_handshakes(outcome).await, n, "{outcome}");
    }
}

fn files(folder: &Path, issued: &Issued, clients: Option<&Authority>) -> TlsConfig {
    let (certificate, key) = issued.write(folder, "central");
    let client_ca = clients.map(|ca| {
        let path = folder.join("clients.crt");
        std::fs::write(&path, ca.text()).unwrap();
        path
    });
    TlsConfig { certificate: Some(certificate), key: Some(key), made: None, client_ca }
}

async fn ask(channel: Channel) -> Result<(), String> {
    let mut query = v1::query_client::QueryClient::new(channel);
    let asked = query.list_nodes(v1::ListNodesRequest::default()).await;
    asked.map(drop).map_err(|status| kulprit_tls::error::find(&status).map_or(status.to_string(), ToString::to_string))
}

/// One who speaks nothing newer than TLS 1.2.
async fn greet_by_tls_1_2(ca: &Authority, address: SocketAddr) -> std::io::Error {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca.pem().certificates().unwrap());
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap_err()
}

#[tokio::test]
async fn agents_report_and_people_ask_by_tls_1_3() {
    let world = World::start(None, None).await;
    let channel = world.by(world.client()).await.unwrap();
    let mut agent = Agent::connect_on(channel, hello("n1", 1, world.app.now())).await;
    agent.snapshot(vec![kubelet(Status::Present, world.app.now())], world.app.now()).await;
    agent.acked(1).await;
    assert_eq!(world.app.findings().await, ["KubeletInactive unit/kubelet.service Present"]);
    world.wait_for("ok", 2).await;
    let text = world.app.admin("/metrics").await;
    // 4096-01-01.
    assert!(
        text.contains("kulprit_central_certificate_not_after_seconds{certificate=\"server\"} 67090118400\n"),
        "{text}"
    );
    assert!(text.contains("kulprit_central_certificate_changes_total{outcome=\"taken\"} 1\n"), "{text}");
    world.app.stop().await;
}

#[tokio::test]
async fn who_speaks_plaintext_an_older_tls_or_trusts_another_ca_is_refused_and_counted() {
    let world = World::start(None, None).await;
    let mut plain = TcpStream::connect(world.app.grpc()).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    // An alert of TLS, and the end.
    let _ = timeout(PATIENCE, plain.read_to_end(&mut heard)).await.expect("it is hung up on");
    assert!(heard.first().is_none_or(|first| *first == 0x15), "{heard:?}");
    world.wait_for("plaintext", 1).await;
    let old = greet_by_tls_1_2(&world.ca, world.app.grpc()).await;
    assert!(old.to_string().contains("ProtocolVersion"), "{old}");
    world.wait_for("old_version", 1).await;
    let other = Client::new(&Authority::new("ca").pem(), NAME, None).unwrap();
    let error = world.by(other).await.unwrap_err();
    assert!(error.contains("is of no CA in the test's CA"), "{error}");
    world.wait_for("distrusted", 1).await;
    assert!(world.by(Client::new(&Authority::new("other").pem(), NAME, None).unwrap()).await.is_err());
    world.wait_for("distrusted", 2).await;
    let wrong = Client::new(&world.ca.pem(), "central.example", None).unwrap();
    let error = world.by(wrong).await.unwrap_err();
    assert!(error.contains("is for kulprit-central.kulprit.svc and not for central.example"), "{error}");
    drop(TcpStream::connect(world.app.grpc()).await.unwrap());
    world.wait_for("closed", 1).await;
    ask(world.by(world.client()).await.unwrap()).await.unwrap();
    world.app.stop().await;
}

#[tokio::test]
async fn with_a_client_ca_only_who_shows_a_certificate_of_it_gets_in() {
    let clients = Authority::new("clients");
    let shown = || Some(clients.issue("a person", &[]).identity());
    let world = World::start(Some(&clients), shown()).await;
    let client = |identity: Option<Identity>| Client::new(&world.ca.pem(), NAME, identity).unwrap();
    let told = async |identity: Option<Identity>| match world.by(client(identity)).await {
        Ok(channel) => ask(channel).await.unwrap_err(),
        Err(error) => error,
    };
    let none = told(None).await;
    assert!(none.contains("wants a certificate of its clients"), "{none}");
    world.wait_for("no_certificate", 1).await;
    let wrong = told(Some(world.ca.issue("n1", &["n1"]).identity())).await;
    assert!(wrong.contains("does not accept our certificate"), "{wrong}");
    world.wait_for("bad_certificate", 1).await;
    let ended = told(Some(clients.issue_for_years(&["n1"], 2000, 2001).identity())).await;
    assert!(ended.contains("does not accept our certificate"), "{ended}");
    world.wait_for("bad_certificate", 2).await;
    ask(world.by(client(shown())).await.unwrap()).await.unwrap();
    let text = world.app.admin("/metrics").await;
    assert!(text.contains("certificate_not_after_seconds{certificate=\"client_ca\"}"), "{text}");
    world.app.stop().await;
}

/// As kubelet mounts a Secret: files are links into a folder that a link names, and that link is swapped.
struct Mount(PathBuf);

impl Mount {
    fn new(folder: &Path, issued: &Issued) -> Self {
        let mount = Self(folder.join("mount"));
        std::fs::create_dir(&mount.0).unwrap();
        for name in ["central.crt", "central.key"] {
            std::os::unix::fs::symlink(Path::new("..data").join(name), mount.0.join(name)).unwrap();
        }
        mount.swap("1", issued);
        mount
    }

    fn swap(&self, version: &str, issued: &Issued) {
        let folder = self.0.join(format!("..{version}"));
        std::fs::create_dir(&folder).unwrap();
        issued.write(&folder, "central");
        std::os::unix::fs::symlink(format!("..{version}"), self.0.join("..new")).unwrap();
        std::fs::rename(self.0.join("..new"), self.0.join("..data")).unwrap();
    }
}

#[tokio::test]
async fn new_files_are_taken_under_open_streams_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let mount = Mount::new(folder.path(), &first.issue("central", &[NAME]));
    let (certificate, key) = (mount.0.join("central.crt"), mount.0.join("central.key"));
    let tls = TlsConfig { certificate: Some(certificate), key: Some(key), ..TlsConfig::default() };
    let config = Config { tls: Some(tls), ..config(&folder.path().join("data")) };
    let by_first = Client::new(&first.pem(), NAME, None).unwrap();
    let app = App::start_configured(config, START, Some(by_first.clone())).await;
    let world = World { folder, ca: first, app };
    let channel = world.by(by_first.clone()).await.unwrap();
    let mut agent = Agent::connect_on(channel, hello("n1", 1, world.app.now())).await;
    agent.snapshot(vec![kubelet(Status::Present, world.app.now())], world.app.now()).await;
    agent.acked(1).await;

    let mut bad = second.issue("central", &[NAME]);
    bad.key = second.issue("central", &[NAME]).key;
    mount.swap("2", &bad);
    let changed = async |outcome: &str| {
        let line = format!("kulprit_central_certificate_changes_total{{outcome=\"{outcome}\"}} ");
        let text = world.app.admin("/metrics").await;
        text.lines().find_map(|own| own.strip_prefix(&line)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let wait_until = async |outcome: &str, n: u64| {
        let waited = timeout(TAKEN_WITHIN, async {
            while changed(outcome).await < n {
                sleep(Duration::from_millis(50)).await;
            }
        });
        waited.await.expect("the files are looked at");
        assert_eq!(changed(outcome).await, n);
    };
    wait_until("bad", 1).await;
    ask(world.by(by_first.clone()).await.unwrap()).await.unwrap();

    mount.swap("3", &second.issue("central", &[NAME]));
    wait_until("taken", 2).await;
    let by_second = Client::new(&second.pem(), NAME, None).unwrap();
    ask(world.by(by_second).await.unwrap()).await.unwrap();
    assert!(world.by(by_first).await.unwrap_err().contains("is of no CA"));
    let seq = agent.say(kubelet(Status::Absent, world.app.now()), world.app.now()).await;
    agent.acked(seq).await;
    assert_eq!(changed("bad").await, 1, "a pair is judged once");
    world.app.stop().await;
    drop(world.folder);
}

#[tokio::test]
async fn centrals_that_make_their_certificate_share_it_and_both_serve_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(Vec::new()).await;
    // The client's clock is that of this machine.
    let now = Clock::kernel().now();
    let start = async |name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let tls = Some(TlsConfig { made: Some(MadeConfig::default()), ..TlsConfig::default() });
        let config = Config { tls, kubernetes: api.kubernetes(&folder), leader_election: false, ..config(&folder) };
        App::start_configured(config, now, None).await
    };
    let (one, other) = tokio::join!(start("one"), start("other"));
    let config_map = "/api/v1/namespaces/default/configmaps/kulprit-central-ca";
    let waited = timeout(PATIENCE, async {
        while api.kept(config_map).is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.expect("the CA is published");
    let ca = api.kept(config_map).unwrap()["data"]["ca.crt"].as_str().unwrap().to_owned();
    assert_eq!(ca.matches("BEGIN").count(), 1);
    for (app, name) in [(&one, "kulprit-central.default.svc"), (&other, "kulprit-central")] {
        let client = Client::new(&Pem::new("the ConfigMap", ca.clone()), name, None).unwrap();
        let asked = async { ask(channel_by(client, app.grpc()).await.unwrap()).await };
        timeout(PATIENCE, asked).await.expect("both have it").unwrap();
        assert!(
            app.admin("/metrics").await.contains("kulprit_central_certificate_changes_total{outcome=\"taken\"} 1\n")
        );
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn slow_handshakes_hold_nobody_up_and_end_in_time() {
    let world = World::start(None, None).await;
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(world.app.grpc()).await.unwrap();
        // Some say nothing, others begin a ClientHello.
        if n % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        slow.push(stream);
    }
    for _ in 0..20 {
        let asked = async { ask(world.by(world.client()).await.unwrap()).await };
        timeout(Duration::from_secs(5), asked).await.expect("nobody waits for the slow").unwrap();
    }
    world.wait_for("timeout", 200).await;
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the slow are hung up on");
    }
    world.app.stop().await;
}
