//! Against a real bus (a private dbus-daemon) on which a small service pretends to be systemd: well, hung, talking rubbish,
//! gone and back. The real systemd is met in the end-to-end tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_stream::StreamExt as _;
use zbus::connection::Builder;
use zbus::message::Type;
use zbus::{Connection, MessageStream, Variant};

use super::signals::{MANAGER, PROPERTIES, SYSTEMD, WatchedUnit, match_rules, unit_path};
use super::*;
use crate::HostRoot;

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=SOCKET</listen>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"#;

/// A private bus, and a root under which its socket lies where a host has it.
struct Bus {
    daemon: Child,
    root: HostRoot,
    address: String,
    _dir: tempfile::TempDir,
}

impl Bus {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SYSTEM_BUS_PATH);
        Self::start_in(dir, &socket).await
    }

    async fn start_in(dir: tempfile::TempDir, socket: &Path) -> Self {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let config = dir.path().join("bus.conf");
        std::fs::write(&config, CONFIG.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("dbus-daemon is installed");
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        // It prints its address once it listens.
        let address = lines.next_line().await.unwrap().expect("the bus starts");
        Self { daemon, root: HostRoot::new(dir.path()), address, _dir: dir }
    }

    async fn units(&self, names: &[&str]) -> SystemdUnits {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        SystemdUnits::connect(&self.root, &names).await.unwrap()
    }
}

type Properties = HashMap<&'static str, Variant<'static>>;

/// A service that pretends to be systemd. Dropping the connection takes it off the bus.
#[derive(Clone)]
struct Pretender {
    connection: Connection,
    units: Arc<Mutex<HashMap<String, Properties>>>,
    n_subscribed: Arc<AtomicU32>,
}

impl Pretender {
    async fn start(bus: &Bus, units: Vec<(&str, Properties)>) -> Self {
        let connection = Builder::address(bus.address.as_str()).build().await.unwrap();
        let units = units.into_iter().map(|(name, properties)| (unit_path(name), properties)).collect();
        let pretender =
            Self { connection: connection.clone(), units: Arc::new(Mutex::new(units)), n_subscribed: Arc::default() };
        let stream = MessageStream::from(&connection);
        tokio::spawn(pretender.clone().serve(stream));
        connection.request_name(SYSTEMD).await.unwrap();
        pretender
    }

    async fn serve(self, mut stream: MessageStream) {
        while let Some(Ok(message)) = stream.next().await {
            let header = message.header();
            if message.message_type() != Type::MethodCall {
                continue;
            }
            let connection = &self.connection;
            let path = header.path().unwrap().as_str().to_owned();
            let properties = self.units.lock().unwrap().get(&path).cloned();
            match header.member().unwrap().as_str() {
                "Subscribe" => {
                    self.n_subscribed.fetch_add(1, Ordering::Relaxed);
                    connection.reply(&header, &()).await.unwrap();
                }
                "GetUnit" => {
                    let name: String = message.body().deserialize().unwrap();
                    match name.as_str() {
                        "hung.service" => {}
                        "refused.service" => {
                            let error = "org.freedesktop.DBus.Error.AccessDenied";
                            connection.reply_error(&header, error, &("no",)).await.unwrap();
                        }
                        "rubbish.service" => connection.reply(&header, &(42_u32,)).await.unwrap(),
                        name if self.units.lock().unwrap().contains_key(&unit_path(name)) => connection
                            .reply(&header, &zbus::ObjectPath::try_from(unit_path(name)).unwrap())
                            .await
                            .unwrap(),
                        _ => {
                            let error = "org.freedesktop.systemd1.NoSuchUnit";
                            connection.reply_error(&header, error, &("not loaded",)).await.unwrap();
                        }
                    }
                }
                "GetUnitFileState" => {
                    let name: String = message.body().deserialize().unwrap();
                    match name.strip_suffix(".on-disk.service") {
                        Some(state) => connection.reply(&header, &(state,)).await.unwrap(),
                        None => {
                            let error = "org.freedesktop.DBus.Error.FileNotFound";
                            connection.reply_error(&header, error, &("No such file or directory",)).await.unwrap();
                        }
                    }
                }
                "GetAll" => match properties {
                    Some(properties) => connection.reply(&header, &properties).await.unwrap(),
                    None => connection
                        .reply(&header, &HashMap::from([("LoadState", Variant::from("not-found"))]))
                        .await
                        .unwrap(),
                },
                "Get" => {
                    let (_interface, name): (String, String) = message.body().deserialize().unwrap();
                    match properties.and_then(|properties| properties.get(name.as_str()).cloned()) {
                        Some(value) => connection.reply(&header, &value).await.unwrap(),
                        None => {
                            let error = "org.freedesktop.DBus.Error.UnknownProperty";
                            connection.reply_error(&header, error, &("unknown",)).await.unwrap();
                        }
                    }
                }
                other => panic!("nobody asks systemd for {other}"),
            }
        }
    }

    async fn emit_changed(&self, unit: &str) {
        let body = ("org.freedesktop.systemd1.Unit", HashMap::<&str, Variant<'_>>::new(), Vec::<&str>::new());
        self.connection
            .emit_signal(None::<&str>, unit_path(unit), PROPERTIES, "PropertiesChanged", &body)
            .await
            .unwrap();
    }

    async fn emit_manager<B: serde::Serialize + zbus::DynamicType>(&self, member: &str, body: &B) {
        self.connection.emit_signal(None::<&str>, "/org/freedesktop/systemd1", MANAGER, member, body).await.unwrap();
    }
}

fn kubelet() -> Properties {
    HashMap::from([
        ("LoadState", "loaded".into()),
        ("ActiveState", "activating".into()),
        ("SubState", "auto-restart".into()),
        ("UnitFileState", "enabled".into()),
        ("InvocationID", Variant::from((0..16_u8).collect::<Vec<_>>())),
        ("StateChangeTimestamp", 1_700_000_000_000_000_u64.into()),
        ("StateChangeTimestampMonotonic", 123_456_u64.into()),
        ("Result", "exit-code".into()),
        ("NRestarts", 7_u32.into()),
        ("MainPID", 0_u32.into()),
        ("ExecMainCode", 1_i32.into()),
        ("ExecMainStatus", 255_i32.into()),
    ])
}

async fn next(units: &SystemdUnits) -> UnitChange {
    tokio::time::timeout(Duration::from_secs(5), units.next_change()).await.expect("a change within 5 s").unwrap()
}

#[tokio::test]
async fn a_service_in_a_restart_loop_is_seen_in_full() {
    let bus = Bus::start().await;
    let _systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    let seen = bus.units(&[]).await.observe("kubelet.service").await.unwrap();
    let want = UnitObservation {
        name: "kubelet.service".to_owned(),
        load_state: "loaded".to_owned(),
        active_state: Some("activating".to_owned()),
        sub_state: Some("auto-restart".to_owned()),
        unit_file_state: Some("enabled".to_owned()),
        invocation_id: Some("000102030405060708090a0b0c0d0e0f".to_owned()),
        state_change_usec: Some(1_700_000_000_000_000),
        state_change_monotonic_usec: Some(123_456),
        result: Some("exit-code".to_owned()),
        n_restarts: Some(7),
        main_pid: None,
        main_exit: Some(MainExit { code: 1, status: 255 }),
    };
    assert_eq!(seen, want);
    assert!(seen.is_found());
}

#[tokio::test]
async fn a_unit_that_does_not_exist_says_so() {
    let bus = Bus::start().await;
    let _systemd = Pretender::start(&bus, vec![]).await;
    let seen = bus.units(&[]).await.observe("k3s.service").await.unwrap();
    assert!(!seen.is_found());
    assert_eq!((seen.active_state, seen.n_restarts, seen.main_exit), (None, None, None));
}

#[tokio::test]
async fn a_unit_that_systemd_does_not_keep_in_memory_is_not_loaded_for_a_look() {
    let bus = Bus::start().await;
    // It panics when asked to load one: that would be told to everybody, us included, and end in a circle.
    let _systemd = Pretender::start(&bus, vec![]).await;
    let units = bus.units(&[]).await;
    for (unit, load_state) in [("disabled.on-disk.service", "loaded"), ("masked.on-disk.service", "masked")] {
        let seen = units.observe(unit).await.unwrap();
        assert!(seen.is_found());
        assert_eq!((seen.load_state.as_str(), seen.active_state.as_deref()), (load_state, Some("inactive")), "{unit}");
    }
}

#[tokio::test]
async fn properties_of_a_wrong_type_spoil_only_themselves() {
    let bus = Bus::start().await;
    let properties = HashMap::from([
        ("LoadState", "loaded".into()),
        ("ActiveState", 5_u32.into()),
        ("SubState", "running".into()),
        ("InvocationID", Variant::from(vec!["x"])),
        ("StateChangeTimestamp", "yesterday".into()),
        ("MainPID", (-1_i32).into()),
    ]);
    let no_state = HashMap::from([("LoadState", 5_u32.into())]);
    let _systemd = Pretender::start(&bus, vec![("kubelet.service", properties), ("empty.service", no_state)]).await;
    let units = bus.units(&[]).await;
    let seen = units.observe("kubelet.service").await.unwrap();
    assert_eq!((seen.active_state, seen.sub_state.as_deref()), (None, Some("running")));
    assert_eq!((seen.invocation_id, seen.state_change_usec, seen.main_pid), (None, None, None));
    assert!(matches!(units.observe("empty.service").await, Err(UnitsError::Malformed { .. })));
    assert!(matches!(units.observe("rubbish.service").await, Err(UnitsError::Malformed { .. })));
    let refused = units.observe("refused.service").await;
    assert!(
        matches!(&refused, Err(UnitsError::Refused { name, .. }) if name == "org.freedesktop.DBus.Error.AccessDenied"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_hung_systemd_is_given_up_at_the_deadline() {
    let bus = Bus::start().await;
    let _systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    let units = bus.units(&[]).await;
    let started = tokio::time::Instant::now();
    assert!(matches!(units.observe("hung.service").await, Err(UnitsError::Timeout { .. })));
    assert!(started.elapsed() < CALL_DEADLINE * 2, "{:?}", started.elapsed());
    assert!(units.observe("kubelet.service").await.is_ok(), "one late answer does not spoil the next");
}

#[tokio::test]
async fn changes_of_watched_units_are_told_once_and_of_others_not() {
    let bus = Bus::start().await;
    let systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    let units = bus.units(&["kubelet.service", "k3s-agent.service"]).await;
    for unit in ["sshd.service", "kubelet.service", "kubelet.service", "k3s-agent.service", "kubelet.service"] {
        systemd.emit_changed(unit).await;
    }
    systemd.emit_manager("Reloading", &(true,)).await;
    systemd.emit_manager("Reloading", &(false,)).await;
    // A round trip behind the signals: they have all been sent to us when it ends.
    units.observe("kubelet.service").await.unwrap();
    assert_eq!(next(&units).await, UnitChange::Unit("kubelet.service".to_owned()));
    assert_eq!(next(&units).await, UnitChange::Unit("k3s-agent.service".to_owned()));
    assert_eq!(next(&units).await, UnitChange::Reloaded);
    let path = zbus::ObjectPath::try_from(unit_path("kubelet.service")).unwrap();
    systemd.emit_manager("UnitRemoved", &("kubelet.service", path)).await;
    assert_eq!(next(&units).await, UnitChange::Unit("kubelet.service".to_owned()));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), units.next_change()).await.is_err(),
        "nothing is told twice"
    );
}

#[tokio::test]
async fn a_flood_of_signals_does_not_stand_in_the_way_of_an_answer() {
    let bus = Bus::start().await;
    let systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    let units = bus.units(&["kubelet.service"]).await;
    for _ in 0..1000 {
        systemd.emit_changed("kubelet.service").await;
    }
    assert_eq!(units.observe("kubelet.service").await.unwrap().n_restarts, Some(7));
}

#[tokio::test]
async fn systemd_that_leaves_and_comes_back_is_subscribed_to_again() {
    let bus = Bus::start().await;
    let systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    let units = bus.units(&["kubelet.service"]).await;
    assert_eq!(systemd.n_subscribed.load(Ordering::Relaxed), 1);
    systemd.connection.release_name(SYSTEMD).await.unwrap();
    assert_eq!(next(&units).await, UnitChange::ManagerGone);
    assert!(matches!(units.observe("kubelet.service").await, Err(UnitsError::NoManager)));
    let again = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    assert_eq!(next(&units).await, UnitChange::ManagerBack);
    assert_eq!(again.n_subscribed.load(Ordering::Relaxed), 1);
    assert!(units.observe("kubelet.service").await.is_ok());
}

#[tokio::test]
async fn a_bus_that_dies_ends_the_stream_and_every_call() {
    let mut bus = Bus::start().await;
    let systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    let units = bus.units(&["kubelet.service"]).await;
    systemd.emit_changed("kubelet.service").await;
    units.observe("kubelet.service").await.unwrap();
    bus.daemon.kill().await.unwrap();
    assert_eq!(
        next(&units).await,
        UnitChange::Unit("kubelet.service".to_owned()),
        "what came before the end is not lost"
    );
    for _ in 0..2 {
        let end = tokio::time::timeout(Duration::from_secs(5), units.next_change()).await.unwrap();
        assert!(matches!(end, Err(UnitsError::BusLost { .. })), "{end:?}");
    }
    let call = units.observe("kubelet.service").await;
    assert!(matches!(call, Err(UnitsError::BusLost { .. })), "{call:?}");
}

#[tokio::test]
async fn no_bus_and_no_systemd_are_told_apart() {
    let empty = tempfile::tempdir().unwrap();
    let no_bus = SystemdUnits::connect(&HostRoot::new(empty.path()), &[]).await;
    assert!(matches!(no_bus, Err(UnitsError::Connect { .. })), "{no_bus:?}");
    let bus = Bus::start().await;
    let no_systemd = SystemdUnits::connect(&bus.root, &[]).await;
    assert!(matches!(no_systemd, Err(UnitsError::NoManager)), "{no_systemd:?}");
}

#[tokio::test]
async fn a_bus_that_accepts_and_says_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(SYSTEM_BUS_PATH);
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let hung = SystemdUnits::connect(&HostRoot::new(dir.path()), &[]).await;
    assert!(matches!(hung, Err(UnitsError::Timeout { .. })), "{hung:?}");
}

#[tokio::test]
async fn a_socket_deep_under_a_root_is_reached_through_its_links() {
    let dir = tempfile::tempdir().unwrap();
    let near = dir.path().join("near");
    let bus = Bus::start_in(dir, &near).await;
    let _systemd = Pretender::start(&bus, vec![("kubelet.service", kubelet())]).await;
    // Far longer than the 107 bytes of a socket address, and behind an absolute link that is right only inside the root.
    let deep: PathBuf = ["a-directory-with-a-long-name"; 6].iter().collect();
    let target = bus.root.path().join(&deep);
    std::fs::create_dir_all(&target).unwrap();
    std::fs::hard_link(&near, target.join("bus")).unwrap();
    std::os::unix::fs::symlink(Path::new("/").join(&deep).join("bus"), bus.root.path().join("link")).unwrap();
    let units = SystemdUnits::connect_at(&bus.root, "link", &[]).await.unwrap();
    assert!(units.observe("kubelet.service").await.is_ok());
    let by_address = SystemdUnits::connect_to_address(&bus.address, &[]).await.unwrap();
    assert!(by_address.observe("kubelet.service").await.is_ok());
}

#[test]
fn object_paths_are_those_of_systemd() {
    for (name, path) in [
        ("kubelet.service", "kubelet_2eservice"),
        ("k3s-agent.service", "k3s_2dagent_2eservice"),
        ("9p.mount", "_39p_2emount"),
    ] {
        assert_eq!(unit_path(name), format!("/org/freedesktop/systemd1/unit/{path}"));
    }
}

#[test]
fn only_watched_units_are_asked_for() {
    let unit = WatchedUnit { name: "kubelet.service".to_owned(), path: unit_path("kubelet.service") };
    let rules = match_rules(&[unit]);
    assert_eq!(rules.len(), 5);
    assert!(
        rules.iter().all(|rule| rule.contains("arg0=") || rule.contains("path=") || rule.contains("Reloading")),
        "{rules:?}"
    );
}
