//! On units that a test holds in its hands, and on no bus at all.

use std::sync::{Arc, Mutex};

use kulprit_host::HostRoot;
use kulprit_model::{FindingCode, Status};
use tokio::sync::Notify;

use super::*;
use crate::look::Look;
use crate::probes::testing::{self, status_of};

/// Units that are as the test says.
#[derive(Clone, Default)]
struct FakeUnits(Arc<Fake>);

#[derive(Default)]
struct Fake {
    answer: Mutex<Option<UnitObservation>>,
    is_lost: Mutex<bool>,
    changed: Notify,
}

impl FakeUnits {
    fn set(&self, active_state: &str, main_pid: Option<u32>, n_restarts: u32) {
        let text = |text: &str| Some(text.to_owned());
        let unit = UnitObservation {
            name: "kubelet.service".to_owned(),
            load_state: "loaded".to_owned(),
            active_state: text(active_state),
            sub_state: text("any"),
            unit_file_state: text("enabled"),
            invocation_id: text("00112233445566778899aabbccddeeff"),
            state_change_usec: None,
            state_change_monotonic_usec: None,
            result: text("success"),
            n_restarts: Some(n_restarts),
            main_pid,
            main_exit: None,
        };
        *self.0.answer.lock().unwrap() = Some(unit);
        self.0.changed.notify_one();
    }

    fn lose(&self) {
        *self.0.is_lost.lock().unwrap() = true;
        self.0.changed.notify_one();
    }
}

impl Units for FakeUnits {
    async fn observe(&self, unit: &str) -> Result<UnitObservation, UnitsError> {
        let answer = self.0.answer.lock().unwrap().clone();
        match answer {
            Some(known) if known.name == unit => Ok(known),
            Some(known) => Ok(UnitObservation {
                name: unit.to_owned(),
                load_state: "not-found".to_owned(),
                active_state: None,
                ..known
            }),
            None => {
                Err(UnitsError::Timeout { attempt: format!("looking at {unit}"), deadline: Duration::from_secs(2) })
            }
        }
    }

    async fn next_change(&self) -> Result<UnitChange, UnitsError> {
        self.0.changed.notified().await;
        if std::mem::take(&mut *self.0.is_lost.lock().unwrap()) {
            return Err(UnitsError::BusLost { source: None });
        }
        Ok(UnitChange::Unit("kubelet.service".to_owned()))
    }
}

/// The probe over `units`, with an endpoint nobody serves.
fn start(units: &FakeUnits, once: bool) -> (tokio::sync::mpsc::Receiver<Look>, tokio_util::sync::CancellationToken) {
    let (out, looks) = tokio::sync::mpsc::channel(64);
    let stop = tokio_util::sync::CancellationToken::new();
    let config =
        crate::probes::ProbeConfig { healthz_url: "http://127.0.0.1:9/healthz".to_owned(), ..Default::default() };
    let (_, suspects) = tokio::sync::watch::channel(Arc::default());
    let context = ProbeContext {
        host: HostRoot::new("/"),
        config: Arc::new(config),
        clock: kulprit_daemon::Clock::kernel(),
        out,
        stop: stop.clone(),
        suspects,
        vms: Arc::default(),
        launchers: Arc::default(),
        pulls: Arc::default(),
        beat: crate::probes::Beat::new(0, Instant::now()),
        lane: crate::probes::Lane::default(),
        recorder: Arc::default(),
        sacrifice: Arc::default(),
        counters: Arc::default(),
        start_at: None,
        once,
    };
    let units = units.clone();
    tokio::spawn(run_with(context, move || std::future::ready(Ok(units.clone()))));
    (looks, stop)
}

async fn next(looks: &mut tokio::sync::mpsc::Receiver<Look>, is_wanted: impl Fn(&Look) -> bool) -> Look {
    loop {
        let look = tokio::time::timeout(Duration::from_secs(120), looks.recv())
            .await
            .expect("in time")
            .expect("the probe runs");
        if is_wanted(&look) {
            return look;
        }
    }
}

#[tokio::test]
async fn a_stop_a_start_and_a_lost_bus_are_told_by_their_signals() {
    let units = FakeUnits::default();
    units.set("active", Some(std::process::id()), 0);
    let (mut looks, stop) = start(&units, false);
    let first = next(&mut looks, |_| true).await;
    assert_eq!(status_of(&first, FindingCode::KubeletInactive), Some(Status::Absent));
    assert_eq!(status_of(&first, FindingCode::KubeletNotInstalled), Some(Status::Absent));
    assert_eq!(status_of(&first, FindingCode::KubeletProcessStalled), Some(Status::Absent));
    assert_eq!(status_of(&first, FindingCode::KubeletHealthzFailing), Some(Status::Present), "nobody listens there");
    units.set("inactive", None, 0);
    next(&mut looks, |look| status_of(look, FindingCode::KubeletInactive) == Some(Status::Present)).await;
    next(&mut looks, |look| status_of(look, FindingCode::KubeletHealthzFailing) == Some(Status::Absent)).await;
    units.lose();
    let blind = next(&mut looks, |look| look.blind_because.is_some()).await;
    assert_eq!(blind.blind_because.as_deref(), Some("the connection to the bus was lost"));
    assert!(blind.verdicts.is_empty());
    units.set("active", Some(std::process::id()), 0);
    next(&mut looks, |look| status_of(look, FindingCode::KubeletInactive) == Some(Status::Absent)).await;
    stop.cancel();
}

#[tokio::test]
async fn restarts_by_systemd_become_a_loop() {
    let units = FakeUnits::default();
    units.set("active", None, 0);
    let (mut looks, stop) = start(&units, false);
    next(&mut looks, |look| status_of(look, FindingCode::KubeletRestartLoop) == Some(Status::Absent)).await;
    units.set("activating", None, 3);
    next(&mut looks, |look| status_of(look, FindingCode::KubeletRestartLoop) == Some(Status::Present)).await;
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_systemd_that_does_not_answer_is_blindness_and_is_asked_again() {
    let units = FakeUnits::default();
    let (mut looks, stop) = start(&units, false);
    let blind = next(&mut looks, |_| true).await;
    assert!(
        blind
            .blind_because
            .as_deref()
            .is_some_and(|because| because.contains("no answer to looking at kubelet.service"))
    );
    *units.0.answer.lock().unwrap() = None;
    next(&mut looks, |look| look.blind_because.is_some()).await;
    stop.cancel();
}

#[tokio::test]
async fn no_bus_is_said_with_its_place() {
    let root = tempfile::tempdir().unwrap();
    let look = testing::Probe::once(&SPEC, HostRoot::new(root.path())).await;
    let because = look.blind_because.expect("nobody can look");
    let want =
        format!("no system bus at {}/run/dbus/system_bus_socket: is systemd running here?", root.path().display());
    assert!(because.starts_with(&want), "{because}");
}

#[test]
fn an_endpoint_is_an_address_and_a_path() {
    assert_eq!(split_url("http://127.0.0.1:10248/healthz"), Some(("127.0.0.1:10248".parse().unwrap(), "/healthz")));
    assert_eq!(split_url("http://[::1]:10248/healthz").map(|(_, path)| path), Some("/healthz"));
    for bad in [
        "",
        "http://",
        "127.0.0.1:10248/healthz",
        "http://localhost:1/x",
        "https://127.0.0.1:1/x",
        "http://127.0.0.1:1",
    ] {
        assert_eq!(split_url(bad), None, "{bad}");
    }
}
