//! Tries name servers and registries, from the node's network namespace, each try with a deadline.
//!
//! A name server is asked one question over UDP; a registry is connected to and given the first words of TLS. Nothing is
//! pulled, and no connection outlives its try.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use kulprit_host::HostRoot;
use kulprit_host::network::{
    NetworkNamespace, RecordType, RegistryHost, ResolvConf, TlsReply, dns_question, parse_dns_answer, parse_hosts,
    parse_image_registry, parse_resolv_conf, parse_tls_reply, read_api_server, read_has_proxy, read_registry_hosts,
    tls_hello,
};
use kulprit_judge::network::{NameSeen, RegistryReach, RegistrySeen};
use kulprit_model::attribute::{FAILURE_MALFORMED, FAILURE_NOT_FOUND, FAILURE_REFUSED, FAILURE_RESET, FAILURE_TIMEOUT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::probes::chain;
use crate::probes::runtime::client::{self, CriClient};

/// One question to one server. The C library waits 5 s; a server that is well answers in some ms.
const DNS_DEADLINE: Duration = Duration::from_secs(2);
/// A connection, and the reply to it. A lost packet is sent again after 1 s.
const TCP_DEADLINE: Duration = Duration::from_secs(3);
/// A runtime that is well answers in 1 ms.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(2);
/// Longest datagram of DNS without extensions, bytes.
const MAX_DATAGRAM_BYTES: usize = 512;
/// Addresses of one registry that are tried.
const MAX_ADDRESSES: usize = 2;
/// Port of name servers.
const DNS_PORT: u16 = 53;

/// What the node's files say about names, read on a blocking thread.
#[derive(Clone, Debug)]
pub(super) struct NameConfig {
    namespace: NetworkNamespace,
    resolv_conf: ResolvConf,
    hosts: String,
    /// Name of the API server; `None` where it is an address, or stands in `hosts`.
    api_server: Option<String>,
}

impl NameConfig {
    /// # Errors
    /// Why nobody can be asked, in words.
    pub(super) fn read(host: &HostRoot) -> Result<Self, String> {
        let namespace = NetworkNamespace::of_host(host).map_err(|error| chain(&error))?;
        let resolv_conf = host.read_text("etc/resolv.conf").map_err(|error| chain(&error))?;
        let hosts = host.read_text("etc/hosts").unwrap_or_default();
        let api_server = read_api_server(host).ok().flatten().map(|(name, _)| name);
        let api_server =
            api_server.filter(|name| name.parse::<IpAddr>().is_err() && parse_hosts(&hosts, name).is_empty());
        Ok(Self { namespace, resolv_conf: parse_resolv_conf(&resolv_conf), hosts, api_server })
    }

    fn servers(&self) -> Vec<IpAddr> {
        match &self.resolv_conf.servers[..] {
            [] => vec![IpAddr::from([127, 0, 0, 1])],
            servers => servers.to_vec(),
        }
    }
}

/// Asks the name servers, in order, for the API server's name, or for the root.
pub(super) async fn ask_names(config: &NameConfig) -> NameSeen {
    let servers = config.servers();
    let (name, record) = match &config.api_server {
        Some(name) => (name.as_str(), RecordType::A),
        None => ("", RecordType::Ns),
    };
    for server in &servers {
        match ask(config, *server, name, record).await {
            Ok(answer) => {
                return NameSeen::Answered { server: *server, code: answer.code, name: config.api_server.clone() };
            }
            Err(AskError::Forbidden(why)) => return NameSeen::NotAsked(why),
            Err(AskError::Silent) => {}
        }
    }
    NameSeen::Silent { servers }
}

enum AskError {
    /// No answer, or no way to the server.
    Silent,
    /// We may not ask.
    Forbidden(String),
}

async fn ask(
    config: &NameConfig,
    server: IpAddr,
    name: &str,
    record: RecordType,
) -> Result<kulprit_host::network::DnsAnswer, AskError> {
    let id = u16::from_ne_bytes([rand_byte(), rand_byte()]);
    let question =
        dns_question(id, name, record).ok_or_else(|| AskError::Forbidden(format!("no name of DNS: {name}")))?;
    let socket = config.namespace.connect_udp(SocketAddr::new(server, DNS_PORT)).and_then(UdpSocket::from_std);
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(AskError::Forbidden(format!("no permission to enter the node's network namespace: {error}")));
        }
        Err(_) => return Err(AskError::Silent),
    };
    let exchange = async {
        socket.send(&question).await?;
        let mut buffer = [0; MAX_DATAGRAM_BYTES];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if let Some(answer) = parse_dns_answer(&buffer[..length], id) {
                return Ok::<_, io::Error>(answer);
            }
        }
    };
    match timeout(DNS_DEADLINE, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(AskError::Silent),
    }
}

/// A byte nobody can foresee well enough to answer in a server's place.
fn rand_byte() -> u8 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0_u8).to_ne_bytes()[0]
}

/// Whether a container runtime of the node has the image (CRI `ImageStatus`, which asks no registry); `None`: none says.
pub(super) async fn is_image_here(host: &HostRoot, sockets: &[PathBuf], image: &str) -> Option<bool> {
    for socket in sockets {
        let asked = async {
            CriClient::new(client::open(host, &socket.to_string_lossy()).ok()?).await.ok()?.has_image(image).await.ok()
        };
        if let Ok(Some(is_here)) = timeout(RUNTIME_DEADLINE, asked).await {
            return Some(is_here);
        }
    }
    None
}

/// Tries the registry of an image: its mirrors first; the first that speaks is enough.
pub(super) async fn try_registry(host: HostRoot, image: String) -> RegistrySeen {
    let read = {
        let (host, image) = (host.clone(), image.clone());
        tokio::task::spawn_blocking(move || {
            let registry = parse_image_registry(&image).ok_or_else(|| format!("`{image}` is no image's name"))?;
            if read_has_proxy(&host).map_err(|error| chain(&error))? {
                return Err("the container runtime goes through a proxy".to_owned());
            }
            let hosts = read_registry_hosts(&host, &image, &registry).map_err(|error| chain(&error))?;
            Ok((hosts, NameConfig::read(&host)?))
        })
        .await
    };
    let seen = |server: String, reach| RegistrySeen { image: image.clone(), server, reach };
    let (hosts, config) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(why)) => return seen(image.clone(), RegistryReach::NotTried(why)),
        Err(error) => return seen(image.clone(), RegistryReach::NotTried(error.to_string())),
    };
    let mut first = None;
    for registry in hosts {
        let server = format!("{}:{}", registry.host, registry.port);
        let reach = check_registry(&config, &registry).await;
        if reach == RegistryReach::Reached {
            return seen(server, reach);
        }
        first.get_or_insert_with(|| seen(server, reach));
    }
    first.unwrap_or_else(|| seen(image.clone(), RegistryReach::NotTried("it has no server".to_owned())))
}

/// How far a registry is reached: name, connection, TLS.
pub(super) async fn check_registry(config: &NameConfig, registry: &RegistryHost) -> RegistryReach {
    let addresses = match resolve(config, &registry.host).await {
        Ok(addresses) => addresses,
        Err(reach) => return reach,
    };
    let mut reach = RegistryReach::NoAddress(FAILURE_NOT_FOUND);
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        reach = match connect(config, SocketAddr::new(address, registry.port)).await {
            Ok(stream) if registry.is_tls => say_hello(stream, registry).await,
            Ok(_) => RegistryReach::Reached,
            Err(failure) => RegistryReach::NoConnection(failure),
        };
        if reach == RegistryReach::Reached {
            break;
        }
    }
    reach
}

async fn resolve(config: &NameConfig, name: &str) -> Result<Vec<IpAddr>, RegistryReach> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let in_hosts = parse_hosts(&config.hosts, name);
    if !in_hosts.is_empty() {
        return Ok(in_hosts);
    }
    let mut names = vec![name.to_owned()];
    if !name.contains('.') {
        names.extend(config.resolv_conf.search.iter().map(|domain| format!("{name}.{domain}")));
    }
    let mut failure = FAILURE_TIMEOUT;
    for name in &names {
        for record in [RecordType::A, RecordType::Aaaa] {
            for server in config.servers() {
                match ask(config, server, name, record).await {
                    Ok(answer) if !answer.addresses.is_empty() => return Ok(answer.addresses),
                    Ok(answer) => {
                        failure = if matches!(answer.code, 0 | 3) { FAILURE_NOT_FOUND } else { FAILURE_REFUSED };
                        break;
                    }
                    Err(AskError::Forbidden(why)) => return Err(RegistryReach::NotTried(why)),
                    Err(AskError::Silent) => {}
                }
            }
        }
    }
    Err(RegistryReach::NoAddress(failure))
}

async fn connect(config: &NameConfig, peer: SocketAddr) -> Result<TcpStream, &'static str> {
    let socket = config.namespace.tcp_socket(peer).map_err(|error| failure_of(&error))?;
    let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
    match timeout(TCP_DEADLINE, socket.connect(peer)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failure_of(&error)),
        Err(_) => Err(FAILURE_TIMEOUT),
    }
}

fn failure_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => FAILURE_REFUSED,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => FAILURE_RESET,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => "no_route",
        _ => FAILURE_TIMEOUT,
    }
}

/// The first words of TLS, and whether they are answered. Registries on a port of their own may speak plain HTTP.
async fn say_hello(mut stream: TcpStream, registry: &RegistryHost) -> RegistryReach {
    let exchange = async {
        stream.write_all(&tls_hello(&registry.host)).await?;
        let mut reply = Vec::new();
        loop {
            if let Some(reply) = parse_tls_reply(&reply) {
                return Ok::<_, io::Error>(Some(reply));
            }
            if stream.read_buf(&mut reply).await? == 0 {
                return Ok(None);
            }
        }
    };
    match timeout(TCP_DEADLINE, exchange).await {
        Ok(Ok(Some(TlsReply::Hello))) => RegistryReach::Reached,
        Ok(Ok(Some(TlsReply::NotTls))) if registry.port != 443 => RegistryReach::Reached,
        Ok(Ok(Some(TlsReply::Alert(_)))) => RegistryReach::NoTls(FAILURE_REFUSED),
        Ok(Ok(Some(TlsReply::NotTls))) => RegistryReach::NoTls(FAILURE_MALFORMED),
        Ok(Ok(None)) => RegistryReach::NoTls(FAILURE_RESET),
        Ok(Err(error)) => RegistryReach::NoTls(failure_of(&error)),
        Err(_) => RegistryReach::NoTls(FAILURE_TIMEOUT),
    }
}

#[cfg(test)]
mod tests;
