//! The probe over trees made for each test, and over a network namespace with real links.

use std::os::unix::fs::symlink;
use std::process::{Child, Command};
use std::sync::Arc;

use kulprit_daemon::config::HumanDuration;
use kulprit_model::FindingCode::{
    BridgeMtuDiffers, LinkDown, LinkFlapping, ListenQueueFull, MigrationPeerSilent, NetworkUnreachable,
};
use kulprit_model::Status::{self, Absent, Present, Unknown};

use super::*;
use crate::probes::testing::{Probe, status_of};

const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

/// A host's root in our own network namespace, whose name server is an address that nobody listens at.
fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("sys/class/net/eth0/flags", "0x1003\n");
    write("sys/class/net/eth0/carrier", "1\n");
    write("proc/1/net/route", ROUTES);
    write("proc/1/net/netstat", "TcpExt: ListenOverflows\nTcpExt: 5\n");
    write("proc/1/net/tcp", TCP);
    write("etc/resolv.conf", "nameserver 127.0.78.1\n");
    files.iter().for_each(|(path, text)| write(path, text));
    std::fs::create_dir_all(dir.path().join("proc/1/ns")).unwrap();
    symlink("/proc/self/ns/net", dir.path().join("proc/1/ns/net")).unwrap();
    let root = HostRoot::new(dir.path());
    (dir, root)
}

fn quick(context: &mut ProbeContext) {
    let mut config = ProbeConfig::default();
    config.network.every = HumanDuration::from_secs(1);
    context.config = Arc::new(config);
}

fn what(look: &Look) -> Option<String> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == NetworkUnreachable => state.attributes.get("what").map(str::to_owned),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

fn is(code: kulprit_model::FindingCode, status: Status) -> impl Fn(&Look) -> bool {
    move |look| status_of(look, code) == Some(status)
}

#[tokio::test]
async fn a_node_without_an_answer_from_its_name_server_does_not_reach_it() {
    let (_dir, root) = tree(&[]);
    let look = Probe::once(&SPEC, root).await;
    assert_eq!((look.blind_because.clone(), status_of(&look, LinkDown)), (None, Some(Absent)));
    assert_eq!((status_of(&look, NetworkUnreachable), what(&look).as_deref()), (Some(Present), Some("dns")));
    assert_eq!(status_of(&look, MigrationPeerSilent), Some(Absent), "a plain host's own table shows its migrations");
}

#[tokio::test]
async fn what_cannot_be_read_is_unknown_and_never_fine() {
    let empty = tempfile::tempdir().unwrap();
    let look = Probe::once(&SPEC, HostRoot::new(empty.path())).await;
    assert!(look.blind_because.is_some());
    let (dir, root) = tree(&[]);
    std::fs::remove_file(dir.path().join("etc/resolv.conf")).unwrap();
    std::fs::remove_dir_all(dir.path().join("proc/1/net")).unwrap();
    let look = Probe::once(&SPEC, root).await;
    assert_eq!(look.blind_because, None);
    assert_eq!(status_of(&look, NetworkUnreachable), Some(Unknown));
    assert_eq!(status_of(&look, MigrationPeerSilent), None);
}

#[tokio::test]
async fn garbage_in_every_file_makes_no_fault_and_no_panic() {
    let (_dir, root) = tree(&[
        ("proc/1/net/route", "\u{1}\n"),
        ("proc/1/net/ipv6_route", "00 00\n"),
        ("proc/1/net/netstat", "TcpExt:\nTcpExt: x\n"),
        ("proc/1/net/tcp", "no heading\n"),
        ("sys/class/net/eth0/flags", "zz\n"),
        ("sys/class/net/eth0/carrier", "perhaps\n"),
        ("etc/resolv.conf", "nameserver nowhere\noptions\n"),
    ]);
    let look = Probe::once(&SPEC, root).await;
    assert_eq!((look.blind_because.clone(), status_of(&look, LinkDown)), (None, None), "{look:?}");
    assert_eq!(status_of(&look, ListenQueueFull), None);
}

#[tokio::test]
async fn a_lost_route_dropped_connections_flaps_and_a_silent_peer_are_told_and_cleared() {
    let (dir, root) = tree(&[("sys/class/net/eth0/carrier_down_count", "7\n")]);
    let mut probe = Probe::start_with(&SPEC, root, quick);
    let write = |path: &str, text: &str| std::fs::write(dir.path().join(path), text).unwrap();
    probe.look_until(is(ListenQueueFull, Absent)).await;
    write("proc/1/net/netstat", "TcpExt: ListenOverflows\nTcpExt: 9\n");
    probe.look_until(is(ListenQueueFull, Present)).await;
    probe.look_until(is(ListenQueueFull, Absent)).await;
    write("sys/class/net/eth0/carrier_down_count", "10\n");
    probe.look_until(is(LinkFlapping, Present)).await;
    write("proc/1/net/route", &ROUTES[..ROUTES.find('\n').unwrap() + 1]);
    probe.look_until(|look| what(look).as_deref() == Some("route")).await;
    write("proc/1/net/route", ROUTES);
    probe.look_until(|look| what(look).as_deref() == Some("dns")).await;
    // SYN-SENT to 192.0.2.9:49152, sent four times.
    let silent =
        format!("{TCP}   3: 0100000A:D472 090200C0:C000 02 00000000:00000001 01:0000176B 00000003     0        0 7\n");
    write("proc/1/net/tcp", &silent);
    probe.look_until(is(MigrationPeerSilent, Present)).await;
    write("proc/1/net/tcp", TCP);
    probe.look_until(is(MigrationPeerSilent, Absent)).await;
    std::fs::remove_dir_all(dir.path().join("sys/class/net/eth0")).unwrap();
    probe.look_until(|look| format!("{:?}", look.sightings).contains("eth0")).await;
    probe.stop().await;
}

#[test]
fn connections_are_read_again_once_something_has_timed_out() {
    let (dir, host) = tree(&[]);
    let count = |overflows: u32, timeouts: u32| {
        let text = format!("TcpExt: ListenOverflows TCPTimeouts\nTcpExt: {overflows} {timeouts}\n");
        std::fs::write(dir.path().join("proc/1/net/netstat"), text).unwrap();
    };
    let mut reader = Reader::new(&host, &ProbeConfig::default());
    let mut look = |is_wanted| {
        let seen = reader.read(false, is_wanted);
        seen.node.map(|connections| matches!(connections, Connections::Read(_)))
    };
    let calm = [None; N_LOOKS_WITHOUT as usize];
    count(5, 7);
    assert_eq!(look(false), Some(true), "for the first time");
    assert_eq!(calm.map(|_| look(false)), calm);
    assert_eq!(look(false), Some(false), "nothing has timed out");
    count(5, 8);
    assert_eq!(calm.map(|_| look(false)), calm, "at most once a minute");
    assert_eq!((look(false), look(true)), (Some(true), Some(true)));
    count(6, 8);
    assert_eq!(look(false), Some(true), "a queue is full");
    assert_eq!(look(false), None);
    count(6, 9);
    std::fs::write(dir.path().join("proc/1/net/tcp"), "no heading\n").unwrap();
    assert_eq!(look(true), None);
    std::fs::write(dir.path().join("proc/1/net/tcp"), TCP).unwrap();
    assert_eq!(calm.map(|_| look(false)), calm);
    assert_eq!(look(false), Some(true), "they could not be read before");
}

#[tokio::test]
async fn a_bridge_whose_ports_take_different_packets_is_told() {
    let node = Namespaces::new(
        "ip link add br1 type bridge && ip link add v0 type veth peer name v1 && ip link add d0 type veth peer name d1 && \
         ip link set v0 mtu 1400 master br1 up && ip link set d0 mtu 1500 master br1 up && ip link set br1 up",
    );
    let status = async || {
        let root = HostRoot::new(format!("/proc/{}/root", node.first));
        status_of(&Probe::once(&SPEC, root).await, BridgeMtuDiffers)
    };
    assert_eq!(status().await, Some(Present));
    node.run(&["ip", "link", "set", "v0", "mtu", "1500"]);
    assert_eq!(status().await, Some(Absent));
}

#[tokio::test]
async fn a_pull_that_fails_has_its_registry_tried_at_once() {
    let server = tokio::net::UdpSocket::bind("127.0.78.2:53").await.unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = server.recv_from(&mut buffer).await {
            buffer[2] |= 0x80;
            server.send_to(&buffer[..length], peer).await.unwrap();
        }
    });
    let (_dir, root) =
        tree(&[("etc/resolv.conf", "nameserver 127.0.78.2\n"), ("etc/hosts", "127.0.0.1 registry.example\n")]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut pulls = None;
    let mut probe = Probe::start_with(&SPEC, root, |context| pulls = Some(Arc::clone(&context.pulls)));
    probe.look_until(is(NetworkUnreachable, Absent)).await;
    pulls.unwrap().report(&format!("registry.example:{closed}/kubevirt/virt-launcher:v1"));
    let look = probe.look_until(is(NetworkUnreachable, Present)).await;
    assert_eq!(what(&look).as_deref(), Some("tcp"), "{look:?}");
    probe.stop().await;
    task.abort();
}

/// Processes 1 and 2 of pid, mount and network namespaces of their own.
struct Namespaces {
    unshare: Child,
    first: u32,
}

impl Namespaces {
    fn new(script: &str) -> Self {
        let script = format!("mount -t sysfs none /sys && {script} && exec sleep 600");
        let arguments = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script];
        let mut unshare = Command::new("unshare").args(arguments).spawn().unwrap();
        let id = unshare.id();
        let first = loop {
            assert!(unshare.try_wait().unwrap().is_none(), "namespaces need root");
            let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            let first = children.split_ascii_whitespace().next().and_then(|pid| pid.parse::<u32>().ok());
            let comm = first.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
            match first {
                Some(pid) if comm.as_deref() == Some("sleep\n") => break pid,
                _ => std::thread::yield_now(),
            }
        };
        Self { unshare, first }
    }

    fn run(&self, arguments: &[&str]) {
        let target = self.first.to_string();
        let status = Command::new("nsenter").args(["-t", &target, "-n"]).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

#[tokio::test]
async fn the_link_of_the_default_route_that_loses_its_carrier_is_down() {
    let node = Namespaces::new(
        "ip link add v0 type veth peer name v1 && ip addr add 192.0.2.1/24 dev v0 && ip link set v0 mtu 1400 up && \
         ip link set v1 up && ip route add default via 192.0.2.9",
    );
    let root = HostRoot::new(format!("/proc/{}/root", node.first));
    let mut probe = Probe::start_with(&SPEC, root, quick);
    probe.look_until(is(LinkDown, Absent)).await;
    node.run(&["ip", "link", "set", "v1", "down"]);
    let look = probe.look_until(is(LinkDown, Present)).await;
    let mtu = look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == LinkDown => state.attributes.get("mtu").map(str::to_owned),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    });
    assert_eq!(mtu.as_deref(), Some("1400"));
    node.run(&["ip", "link", "set", "v1", "up"]);
    probe.look_until(is(LinkDown, Absent)).await;
    probe.stop().await;
}
