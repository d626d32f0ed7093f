//! Name servers and registries on the loopback link: those that answer, refuse, say nothing or nonsense.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

/// A server's first record of TLS 1.2, as far as it is looked at.
const HELLO: &[u8] = &[22, 3, 3, 0, 6, 2, 0, 0, 2, 3, 3];

fn config(server: Ipv4Addr, hosts: &str) -> NameConfig {
    NameConfig {
        namespace: NetworkNamespace::OWN,
        resolv_conf: ResolvConf { servers: vec![server.into()], search: vec!["lab.example".to_owned()] },
        hosts: hosts.to_owned(),
        api_server: None,
    }
}

/// A name server of its own address; `None` for a silent one. Answers every question with `code` and these addresses.
async fn name_server(address: Ipv4Addr, answer: Option<(u8, Vec<Ipv4Addr>)>) -> tokio::task::JoinHandle<()> {
    let socket = UdpSocket::bind((address, DNS_PORT)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let Some((code, addresses)) = &answer else { continue };
            let mut message = buffer[..length].to_vec();
            message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
            message[7] = u8::try_from(addresses.len()).unwrap();
            for address in addresses {
                message.extend(*b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
                message.extend(address.octets());
            }
            // Somebody else's answer first: it must be passed over.
            let mut foreign = message.clone();
            foreign[0] ^= 0xff;
            socket.send_to(&foreign, peer).await.unwrap();
            socket.send_to(&message, peer).await.unwrap();
        }
    })
}

/// A server that reads the hello and replies so; `None`: it never does. Ends the connection after a reply.
async fn tcp_server(reply: Option<&'static [u8]>) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0 && buffer[0] == 22, "the first words of TLS");
            match reply {
                Some(reply) => stream.write_all(reply).await.unwrap(),
                None => kept.push(stream),
            }
        }
    });
    (port, task)
}

#[tokio::test]
async fn a_name_server_that_answers_anything_is_there_and_a_silent_one_is_told() {
    let address = Ipv4Addr::new(127, 0, 77, 1);
    let server = name_server(address, Some((3, Vec::new()))).await;
    let mut config = config(address, "");
    assert_eq!(ask_names(&config).await, NameSeen::Answered { server: address.into(), code: 3, name: None });
    config.api_server = Some("api.example".to_owned());
    let want = NameSeen::Answered { server: address.into(), code: 3, name: Some("api.example".to_owned()) };
    assert_eq!(ask_names(&config).await, want);
    server.abort();
    let _ = server.await;
    assert_eq!(ask_names(&config).await, NameSeen::Silent { servers: vec![address.into()] }, "nobody listens");
    let silent = name_server(address, None).await;
    assert_eq!(ask_names(&config).await, NameSeen::Silent { servers: vec![address.into()] });
    silent.abort();
}

#[tokio::test]
async fn the_second_server_is_asked_when_the_first_is_silent() {
    let (first, second) = (Ipv4Addr::new(127, 0, 77, 2), Ipv4Addr::new(127, 0, 77, 3));
    let server = name_server(second, Some((0, Vec::new()))).await;
    let mut config = config(first, "");
    config.resolv_conf.servers.push(second.into());
    assert_eq!(ask_names(&config).await, NameSeen::Answered { server: second.into(), code: 0, name: None });
    server.abort();
}

#[tokio::test]
async fn a_registry_is_told_by_how_far_it_was_reached() {
    let config = config(Ipv4Addr::new(127, 0, 77, 4), "127.0.0.1 registry.example\n");
    for (reply, want) in [
        (Some(HELLO), RegistryReach::Reached),
        (Some(&[21, 3, 3, 0, 2, 2, 112][..]), RegistryReach::NoTls(FAILURE_REFUSED)),
        (Some(b"HTTP/1.1 400 Bad Request\r\n"), RegistryReach::Reached),
        (Some(b""), RegistryReach::NoTls(FAILURE_RESET)),
        (None, RegistryReach::NoTls(FAILURE_TIMEOUT)),
    ] {
        let (port, server) = tcp_server(reply).await;
        let registry = RegistryHost { host: "registry.example".to_owned(), port, is_tls: true };
        let reach = check_registry(&config, &registry).await;
        assert_eq!(reach, want, "{reply:?}");
        server.abort();
        let _ = server.await;
        if reply.is_some() {
            assert_eq!(
                check_registry(&config, &registry).await,
                RegistryReach::NoConnection(FAILURE_REFUSED),
                "closed"
            );
        }
    }
}

#[tokio::test]
async fn a_registrys_name_is_looked_up_and_a_short_one_in_the_search_domains() {
    let address = Ipv4Addr::new(127, 0, 77, 5);
    let server = name_server(address, Some((0, vec![Ipv4Addr::LOCALHOST]))).await;
    let (port, tls) = tcp_server(Some(HELLO)).await;
    let config = config(address, "");
    for name in ["registry.elsewhere.example", "registry"] {
        let registry = RegistryHost { host: name.to_owned(), port, is_tls: true };
        assert_eq!(check_registry(&config, &registry).await, RegistryReach::Reached, "{name}");
    }
    server.abort();
    let _ = server.await;
    let server = name_server(address, Some((3, Vec::new()))).await;
    let registry = RegistryHost { host: "registry.elsewhere.example".to_owned(), port, is_tls: true };
    assert_eq!(check_registry(&config, &registry).await, RegistryReach::NoAddress(FAILURE_NOT_FOUND));
    server.abort();
    tls.abort();
}

#[tokio::test]
async fn where_no_runtime_can_be_asked_it_is_not_known_whether_an_image_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = ["/run/containerd/containerd.sock".into()];
    assert_eq!(is_image_here(&HostRoot::new(dir.path()), &sockets, "registry.example/a:v1").await, None);
}
