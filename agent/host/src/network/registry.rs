//! Where a container runtime pulls an image from, and the first words of TLS.
//!
//! The first record of a handshake and the first one back tell whether a TLS server is there and willing; certificates are
//! the runtime's own matter, which says in its error what is wrong with them. Sources: the image reference grammar of
//! `distribution/reference`; containerd `docs/hosts.md`; RFC 8446 (TLS 1.3), RFC 5246 (TLS 1.2), RFC 6066 (SNI).

use std::hash::{BuildHasher, RandomState};

use super::name::split_port;
use super::registries_conf;
use crate::{HostRoot, ReadError};

/// A server that images come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegistryHost {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub is_tls: bool,
}

/// Parses the registry of an image's name: what stands before the first `/` if it looks like a host, else Docker Hub.
///
/// `None` for a name that is none. Where the port is not 443 the server may speak without TLS.
pub fn parse_image_registry(image: &str) -> Option<RegistryHost> {
    let image = image.strip_prefix("docker-pullable://").unwrap_or(image);
    if image.is_empty() || image.contains(char::is_whitespace) {
        return None;
    }
    let hub = RegistryHost { host: "registry-1.docker.io".to_owned(), port: 443, is_tls: true };
    match image.split_once('/') {
        Some(("docker.io" | "index.docker.io", _)) | None => Some(hub),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
            let (host, port) = split_port(host, 443)?;
            Some(RegistryHost { is_tls: true, host, port })
        }
        Some(_) => Some(hub),
    }
}

/// Parses a `hosts.toml` of containerd: the servers it tells to ask, in order, mirrors before the origin.
pub fn parse_registry_hosts(text: &str) -> Vec<RegistryHost> {
    let mut origin = None;
    let mut hosts = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(url) = line.strip_prefix("[host.").and_then(|rest| rest.strip_suffix(']')) {
            hosts.extend(parse_registry_url(url.trim_matches(['"', '\''])));
        } else if let Some((key, value)) = line.split_once('=')
            && key.trim() == "server"
        {
            origin = parse_registry_url(value.trim().trim_matches(['"', '\'']));
        }
    }
    hosts.extend(origin);
    hosts
}

/// Parses the server of an URL, or of a location without a scheme.
pub(super) fn parse_registry_url(url: &str) -> Option<RegistryHost> {
    let (is_tls, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some(_) => return None,
        None => (true, url),
    };
    let (host, port) = split_port(rest.split('/').next()?, if is_tls { 443 } else { 80 })?;
    Some(RegistryHost { host, port, is_tls })
}

/// Folders in which containerd keeps `hosts.toml` for each registry.
const CERTS: [&str; 2] = ["etc/containerd/certs.d", "var/lib/rancher/k3s/agent/etc/containerd/certs.d"];
/// Units of runtimes, whose drop-ins and environment files may name a proxy.
const UNITS: [&str; 7] = ["containerd", "crio", "docker", "k3s", "k3s-agent", "rke2-server", "rke2-agent"];

/// CRI-O's folder of its socket: there `registries.conf` is its own, elsewhere podman's alone.
const CRIO: &str = "run/crio";

/// The servers that the runtime asks for `image`, which is one of `registry`: its mirrors first.
///
/// Docker's mirrors (`daemon.json`) are not read: there the registry itself is named.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn read_registry_hosts(
    root: &HostRoot,
    image: &str,
    registry: &RegistryHost,
) -> Result<Vec<RegistryHost>, ReadError> {
    if root.list(CRIO).is_ok() {
        return registries_conf::read_servers(root, image, registry);
    }
    let name = match registry.host.as_str() {
        "registry-1.docker.io" => "docker.io",
        host => host,
    };
    let with_port = format!("{name}:{}", registry.port);
    for folder in CERTS {
        for entry in [with_port.as_str(), name, "_default"] {
            let text = root.read_text_if_any(format!("{folder}/{entry}/hosts.toml"))?;
            let hosts = parse_registry_hosts(&text.unwrap_or_default());
            if !hosts.is_empty() {
                return Ok(hosts);
            }
        }
    }
    Ok(vec![registry.clone()])
}

/// Whether a file of the runtime's unit sets a proxy: then the node's own way to a registry says nothing.
///
/// Files that the unit names (`EnvironmentFile=`, as OpenShift's `/etc/mco/proxy.env`) are its own too; patterns are not.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn read_has_proxy(root: &HostRoot) -> Result<bool, ReadError> {
    for unit in UNITS {
        let mut files = vec![
            format!("etc/systemd/system/{unit}.service"),
            format!("etc/systemd/system/{unit}.service.env"),
            format!("etc/sysconfig/{unit}"),
            format!("etc/default/{unit}"),
        ];
        let drop_ins = format!("etc/systemd/system/{unit}.service.d");
        for name in root.list(&drop_ins).unwrap_or_default() {
            files.extend(name.to_str().map(|name| format!("{drop_ins}/{name}")));
        }
        for file in files {
            let Some(text) = root.read_text_if_any(file)? else { continue };
            if sets_proxy(&text) {
                return Ok(true);
            }
            for named in environment_files(&text) {
                if root.read_text_if_any(named)?.is_some_and(|text| sets_proxy(&text)) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

fn sets_proxy(text: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.to_ascii_uppercase().contains("HTTPS_PROXY="))
}

/// The files of `EnvironmentFile=`; a `-` before one says that it may be missing. Source: `systemd.exec(5)`.
fn environment_files(unit: &str) -> impl Iterator<Item = &str> {
    let values =
        unit.lines().filter_map(|line| line.trim().strip_prefix("EnvironmentFile")?.trim_start().strip_prefix('='));
    values
        .map(|value| value.trim().trim_matches(['"', '\'']).trim_start_matches('-'))
        .filter(|path| path.starts_with('/'))
}

/// The first record of a TLS handshake: TLS 1.3 and 1.2 with the usual suites. An address is no name and is not sent.
pub fn tls_hello(server_name: &str) -> Vec<u8> {
    let is_name = server_name.parse::<std::net::IpAddr>().is_err() && server_name.len() < 256;
    let mut body = vec![3, 3];
    body.extend(random_bytes());
    // A session id makes middleboxes take it for TLS 1.2.
    body.push(32);
    body.extend(random_bytes());
    // AES-128-GCM, AES-256-GCM, ChaCha20 of TLS 1.3; ECDHE-ECDSA and -RSA with AES-GCM and ChaCha20 of TLS 1.2.
    let suites: [u16; 9] = [0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8];
    body.extend(block(&suites.map(u16::to_be_bytes).concat()));
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    let mut extension = |number: u16, content: &[u8]| {
        extensions.extend(number.to_be_bytes());
        extensions.extend(block(content));
    };
    if is_name {
        extension(0, &block(&[&[0][..], &block(server_name.as_bytes())].concat()));
    }
    // Groups: x25519, secp256r1.
    extension(10, &block(&[0, 29, 0, 23]));
    extension(11, &[1, 0]);
    // Signatures: ECDSA and RSA-PSS with SHA-256 and -384, RSA-PKCS1, Ed25519.
    extension(13, &block(&[4, 3, 8, 4, 5, 3, 8, 5, 4, 1, 5, 1, 8, 7]));
    extension(43, &[4, 3, 4, 3, 3]);
    // A share of x25519: any 32 bytes are a public key; nobody will have the secret one.
    extension(51, &block(&[&[0, 29][..], &block(&random_bytes())].concat()));
    body.extend(block(&extensions));
    let handshake = [&[1, 0][..], &block(&body)].concat();
    [&[22, 3, 1][..], &block(&handshake)].concat()
}

/// Content behind its length, two bytes.
fn block(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], content].concat()
}

/// Bytes that differ from call to call. They protect nothing: the handshake is never finished.
fn random_bytes() -> [u8; 32] {
    let mut bytes = [0; 32];
    for chunk in bytes.chunks_exact_mut(8) {
        chunk.copy_from_slice(&RandomState::new().hash_one(0_u8).to_be_bytes());
    }
    bytes
}

/// How a server answers [`tls_hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsReply {
    /// It goes on with the handshake.
    Hello,
    /// It refuses, with this alert: 40 handshake failure, 70 protocol version, 112 name not known.
    Alert(u8),
    /// It speaks something else.
    NotTls,
}

/// Parses the first bytes of a reply. `None`: too few to tell.
pub fn parse_tls_reply(bytes: &[u8]) -> Option<TlsReply> {
    match bytes {
        [22, 3, _, _, _, 2, ..] => Some(TlsReply::Hello),
        [21, 3, _, _, 2, _, alert, ..] => Some(TlsReply::Alert(*alert)),
        [22 | 21, 3, rest @ ..] if rest.len() < 5 => None,
        [22 | 21] | [] => None,
        _ => Some(TlsReply::NotTls),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(host: &str, port: u16, is_tls: bool) -> RegistryHost {
        RegistryHost { host: host.to_owned(), port, is_tls }
    }

    #[test]
    fn an_images_registry_is_what_looks_like_a_host() {
        let hub = host("registry-1.docker.io", 443, true);
        for (image, want) in [
            ("quay.io/kubevirt/virt-launcher:v1.8.4", Some(host("quay.io", 443, true))),
            ("registry.example:5000/a@sha256:00", Some(host("registry.example", 5000, true))),
            ("[2001:db8::1]:5000/a", Some(host("2001:db8::1", 5000, true))),
            ("localhost/name:lab", Some(host("localhost", 443, true))),
            ("busybox", Some(hub.clone())),
            ("library/busybox", Some(hub.clone())),
            ("docker.io/library/busybox", Some(hub)),
            ("", None),
            ("two words", None),
            ("registry.example:port/a", None),
        ] {
            assert_eq!(parse_image_registry(image), want, "{image}");
        }
    }

    #[test]
    fn mirrors_come_before_the_origin() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let quay = host("quay.io", 443, true);
        let hosts = || read_registry_hosts(&root, "quay.io/a@sha256:00", &quay).unwrap();
        assert_eq!(hosts(), std::slice::from_ref(&quay));
        let folder = dir.path().join("etc/containerd/certs.d/quay.io");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("hosts.toml"),
            "server = \"https://quay.io\"\n\n[host.\"http://mirror.example:5000\"]\n  capabilities = [\"pull\"]\n",
        )
        .unwrap();
        assert_eq!(hosts(), [host("mirror.example", 5000, false), quay]);
    }

    #[test]
    fn registries_conf_counts_where_crio_runs() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let quay = host("quay.io", 443, true);
        let hosts = |image: &str| read_registry_hosts(&root, image, &parse_image_registry(image).unwrap()).unwrap();
        std::fs::create_dir_all(dir.path().join("etc/containers")).unwrap();
        let table = |of: &str| {
            format!("[[registry]]\nlocation = \"{of}\"\n[[registry.mirror]]\nlocation = \"mirror.example:5000/a\"\n")
        };
        std::fs::write(dir.path().join("etc/containers/registries.conf"), table("quay.io/a")).unwrap();
        assert_eq!(hosts("quay.io/a/b:1"), std::slice::from_ref(&quay), "podman's");
        std::fs::create_dir_all(dir.path().join("run/crio")).unwrap();
        assert_eq!(hosts("quay.io/a/b:1"), [host("mirror.example", 5000, true), quay]);
    }

    #[test]
    fn a_proxy_of_the_runtimes_unit_is_seen_and_a_comment_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let folder = dir.path().join("etc/systemd/system/containerd.service.d");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("10.conf"), "[Service]\n# Environment=HTTPS_PROXY=x\n").unwrap();
        assert!(!read_has_proxy(&root).unwrap());
        std::fs::write(folder.join("20.conf"), "[Service]\nEnvironment=\"https_proxy=http://proxy:3128\"\n").unwrap();
        assert!(read_has_proxy(&root).unwrap());
    }

    #[test]
    fn a_proxy_in_an_environment_file_of_the_unit_is_seen() {
        for named in ["/etc/mco/proxy.env", "-/etc/mco/proxy.env", "\"-/etc/mco/proxy.env\""] {
            let dir = tempfile::tempdir().unwrap();
            let root = HostRoot::new(dir.path());
            for folder in ["etc/systemd/system/crio.service.d", "etc/mco"] {
                std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            }
            let drop_in = dir.path().join("etc/systemd/system/crio.service.d/10-mco-default-env.conf");
            std::fs::write(drop_in, format!("[Service]\nEnvironmentFile={named}\n")).unwrap();
            assert!(!read_has_proxy(&root).unwrap(), "{named} is missing");
            let env = dir.path().join("etc/mco/proxy.env");
            std::fs::write(&env, "NO_PROXY=.svc\n").unwrap();
            assert!(!read_has_proxy(&root).unwrap(), "{named}");
            std::fs::write(&env, "HTTPS_PROXY=\"http://proxy.example:3128\"\nNO_PROXY=.svc\n").unwrap();
            assert!(read_has_proxy(&root).unwrap(), "{named}");
        }
    }

    #[test]
    fn a_reply_is_a_hello_an_alert_or_something_else() {
        for (bytes, want) in [
            (&[22, 3, 3, 0, 122, 2, 0, 0][..], Some(TlsReply::Hello)),
            (&[21, 3, 3, 0, 2, 2, 40], Some(TlsReply::Alert(40))),
            (b"HTTP/1.1 400 Bad Request", Some(TlsReply::NotTls)),
            (&[22, 3, 3], None),
            (&[], None),
        ] {
            assert_eq!(parse_tls_reply(bytes), want, "{bytes:?}");
        }
    }

    #[test]
    fn a_hello_is_as_long_as_it_says_and_names_only_names() {
        let hello = tls_hello("registry.example");
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        assert_eq!(usize::from(u16::from_be_bytes([hello[7], hello[8]])), hello.len() - 9);
        let names = |hello: &[u8]| hello.windows(16).any(|part| part == b"registry.example");
        assert!(names(&hello) && !names(&tls_hello("192.0.2.1")));
        assert_ne!(hello, tls_hello("registry.example"));
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(text in "\\PC{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse_image_registry(&text);
            let _ = parse_registry_hosts(&format!("server = \"{text}\"\n[host.\"http://{text}\"]"));
            let _ = parse_tls_reply(&bytes);
            let _ = tls_hello(&text);
        }
    }
}
