//! On a runtime that a test holds in its hands, with units beside it, and on hosts without.

use std::sync::Mutex;

use kulprit_daemon::CancellationToken;
use kulprit_host::HostRoot;
use kulprit_model::attribute;
use kulprit_proto::cri::ContainerState::{ContainerExited, ContainerRunning};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

use super::fake::{Fake, container, sandbox};
use super::*;
use crate::look::{Look, Sighting};
use crate::probes::testing::{self, status_of};

const CONTAINERD: &str = "run/containerd/containerd.sock";

/// Units by name: their ActiveState.
#[derive(Clone, Default)]
struct FakeUnits(Arc<Inner>);

#[derive(Default)]
struct Inner {
    states: Mutex<BTreeMap<String, String>>,
    changed: Mutex<Vec<String>>,
    notify: Notify,
}

impl FakeUnits {
    fn with(unit: &str, state: &str) -> Self {
        let units = Self::default();
        units.set(unit, state);
        units
    }

    fn set(&self, unit: &str, state: &str) {
        self.0.states.lock().unwrap().insert(unit.to_owned(), state.to_owned());
        self.0.changed.lock().unwrap().push(unit.to_owned());
        self.0.notify.notify_one();
    }
}

impl Units for FakeUnits {
    async fn observe(&self, unit: &str) -> Result<UnitObservation, UnitsError> {
        let state = self.0.states.lock().unwrap().get(unit).cloned();
        Ok(UnitObservation {
            name: unit.to_owned(),
            load_state: if state.is_some() { "loaded" } else { "not-found" }.to_owned(),
            active_state: state,
            sub_state: None,
            unit_file_state: Some("enabled".to_owned()),
            invocation_id: None,
            state_change_usec: Some(1),
            state_change_monotonic_usec: Some(1),
            result: None,
            n_restarts: None,
            main_pid: Some(std::process::id()),
            main_exit: None,
        })
    }

    async fn next_change(&self) -> Result<UnitChange, UnitsError> {
        loop {
            if let Some(unit) = self.0.changed.lock().unwrap().pop() {
                return Ok(UnitChange::Unit(unit));
            }
            self.0.notify.notified().await;
        }
    }
}

/// The probe under test.
struct Under {
    dir: tempfile::TempDir,
    looks: mpsc::Receiver<Look>,
    stop: CancellationToken,
}

impl Drop for Under {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn host() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn start(dir: tempfile::TempDir, units: Option<&FakeUnits>, once: bool) -> Under {
    let mut kept = None;
    let (out, looks) = mpsc::channel(64);
    drop(testing::Probe::start_with(&IDLE, HostRoot::new(dir.path()), |context| {
        // No process of this machine is a shim of the host under test.
        let config = crate::probes::ProbeConfig { procfs: dir.path().to_owned(), ..Default::default() };
        kept = Some(ProbeContext {
            out,
            once,
            config: Arc::new(config),
            stop: CancellationToken::new(),
            ..context.clone()
        });
    }));
    let context = kept.expect("was filled in");
    let stop = context.stop.clone();
    let units = units.cloned();
    tokio::spawn(run_with(context, move |_| {
        let no_bus = || UnitsError::Connect { address: "unix:path=/none".to_owned(), source: "no bus".into() };
        std::future::ready(units.clone().ok_or_else(no_bus))
    }));
    Under { dir, looks, stop }
}

/// Only to make a context.
const IDLE: ProbeSpec = ProbeSpec {
    name: "idle",
    meaning: "",
    sources: "",
    needs: "",
    lost_without: "",
    look_every: Duration::from_secs(1),
    spawn: |_| Box::pin(std::future::ready(())),
};

impl Under {
    fn socket(&self) -> PathBuf {
        self.dir.path().join(CONTAINERD)
    }

    async fn next(&mut self, is_wanted: impl Fn(&Look) -> bool) -> Look {
        loop {
            let look = tokio::time::timeout(Duration::from_secs(300), self.looks.recv()).await;
            let look = look.expect("in time").expect("the probe runs");
            if is_wanted(&look) {
                return look;
            }
        }
    }

    /// The next look that says this.
    async fn until(&mut self, code: FindingCode, status: Status) -> Look {
        self.next(|look| status_of(look, code) == Some(status)).await
    }
}

fn attribute_of(look: &Look, code: FindingCode, key: &str) -> Option<String> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code => state.attributes.get(key).map(str::to_owned),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

use FindingCode::{LauncherContainerFailed, RuntimeInactive, RuntimeNetworkNotReady, RuntimeUnresponsive};
use Status::{Absent, Present, Unknown};

#[tokio::test]
async fn a_runtime_that_runs_and_answers_is_well() {
    let dir = host();
    let fake = Fake::ready();
    let server = fake.serve(&dir.path().join(CONTAINERD));
    let mut under = start(dir, Some(&FakeUnits::with("containerd.service", "active")), true);
    let look = under.next(|_| true).await;
    for code in [RuntimeInactive, RuntimeUnresponsive, RuntimeNetworkNotReady] {
        assert_eq!(status_of(&look, code), Some(Absent), "{code}: {look:?}");
    }
    assert!(format!("{look:?}").contains("fake 1.2.3, images in /var/lib/fake"), "{look:?}");
    assert_eq!(look.blind_because, None);
    assert!(under.looks.recv().await.is_none(), "one look only");
    assert_eq!((fake.n_calls("ListPodSandbox"), fake.n_calls("ListContainers")), (1, 1));
    server.abort();
}

#[tokio::test]
async fn a_network_that_is_not_ready_is_the_runtimes_word() {
    let dir = host();
    let fake = Fake::ready();
    fake.says().conditions.insert("NetworkReady", false);
    let _server = fake.serve(&dir.path().join(CONTAINERD));
    let look = start(dir, None, true).next(|_| true).await;
    assert_eq!(status_of(&look, RuntimeNetworkNotReady), Some(Present));
    assert_eq!(
        attribute_of(&look, RuntimeNetworkNotReady, attribute::REASON).as_deref(),
        Some("cni plugin not initialized")
    );
    assert_eq!(status_of(&look, RuntimeInactive), Some(Absent), "without systemd the socket tells");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_asked_once_and_shows_at_once_that_it_is_back() {
    let dir = host();
    let fake = Fake::ready();
    let _server = fake.serve(&dir.path().join(CONTAINERD));
    let mut under = start(dir, Some(&FakeUnits::with("containerd.service", "active")), false);
    under.until(RuntimeUnresponsive, Absent).await;
    fake.hang(Some("Status"));
    let look = under.until(RuntimeUnresponsive, Present).await;
    assert_eq!(attribute_of(&look, RuntimeUnresponsive, attribute::WHAT).as_deref(), Some("Status"));
    assert_eq!(status_of(&look, RuntimeNetworkNotReady), Some(Unknown));
    let n_calls = fake.n_calls("Status");
    for _ in 0..5 {
        let look = under.next(|_| true).await;
        assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Present), "{look:?}");
    }
    assert_eq!(fake.n_calls("Status"), n_calls, "one call in flight only");
    fake.hang(None);
    under.until(RuntimeUnresponsive, Absent).await;
    assert_eq!(fake.n_calls("Version"), 1, "over the same connection");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_answers_is_given_up_after_a_minute_and_stays_unanswered() {
    let dir = host();
    let fake = Fake::ready();
    let _server = fake.serve(&dir.path().join(CONTAINERD));
    let mut under = start(dir, Some(&FakeUnits::with("containerd.service", "active")), false);
    under.until(RuntimeUnresponsive, Absent).await;
    fake.hang(Some("Status"));
    under.until(RuntimeUnresponsive, Present).await;
    let n_calls = fake.n_calls("Status");
    while fake.n_calls("Status") == n_calls {
        let look = under.next(|_| true).await;
        assert_ne!(status_of(&look, RuntimeUnresponsive), Some(Absent), "{look:?}");
    }
    let look = under.next(|_| true).await;
    assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Present), "{look:?}");
}

#[tokio::test(start_paused = true)]
async fn lists_that_hang_while_simple_calls_work_are_named() {
    let dir = host();
    let fake = Fake::ready();
    fake.hang(Some("ListContainers"));
    let _server = fake.serve(&dir.path().join(CONTAINERD));
    let mut under = start(dir, None, false);
    let look = under.until(RuntimeUnresponsive, Present).await;
    assert_eq!(attribute_of(&look, RuntimeUnresponsive, attribute::WHAT).as_deref(), Some("ListContainers"));
    assert_eq!(status_of(&look, RuntimeInactive), Some(Absent), "it takes connections");
}

#[tokio::test]
async fn an_error_rubbish_and_a_closed_door_are_no_answer() {
    let failing = Fake::ready();
    failing.says().failing = Some("Status");
    let dir = host();
    let _server = failing.serve(&dir.path().join(CONTAINERD));
    let units = FakeUnits::with("containerd.service", "active");
    let look = start(dir, Some(&units), true).next(|_| true).await;
    assert_eq!(
        attribute_of(&look, RuntimeUnresponsive, attribute::FAILURE).as_deref(),
        Some(attribute::FAILURE_MALFORMED)
    );

    let dir = host();
    std::fs::create_dir_all(dir.path().join("run/containerd")).unwrap();
    let listener = tokio::net::UnixListener::bind(dir.path().join(CONTAINERD)).unwrap();
    let rubbish = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\nSSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let look = start(dir, Some(&units), true).next(|_| true).await;
    assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Present));
    assert_eq!(
        attribute_of(&look, RuntimeUnresponsive, attribute::FAILURE).as_deref(),
        Some(attribute::FAILURE_RESET),
        "{look:?}"
    );
    rubbish.abort();

    let dir = host();
    std::fs::create_dir_all(dir.path().join("run/containerd")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(CONTAINERD)).unwrap());
    let look = start(dir, None, true).next(|_| true).await;
    assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Present));
    assert_eq!(status_of(&look, RuntimeInactive), Some(Present), "nobody listens, and systemd cannot be asked");
}

#[tokio::test]
async fn a_unit_that_stops_is_seen_at_its_signal_and_not_asked() {
    let dir = host();
    let fake = Fake::ready();
    let server = fake.serve(&dir.path().join(CONTAINERD));
    let units = FakeUnits::with("containerd.service", "active");
    let mut under = start(dir, Some(&units), false);
    under.until(RuntimeUnresponsive, Absent).await;
    server.abort();
    units.set("containerd.service", "inactive");
    let look = under.until(RuntimeInactive, Present).await;
    assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Absent), "it was not asked");
    assert_eq!(status_of(&look, RuntimeNetworkNotReady), Some(Unknown));
    let _server = fake.serve(&under.socket());
    units.set("containerd.service", "active");
    let look = under.until(RuntimeInactive, Absent).await;
    assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Absent), "{look:?}");
}

#[tokio::test]
async fn a_unit_that_starts_has_no_socket_yet_and_one_that_runs_should_have() {
    for state in ["activating", "active"] {
        let look = start(host(), Some(&FakeUnits::with("containerd.service", state)), true).next(|_| true).await;
        assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Unknown), "{state}: {look:?}");
        assert_eq!(status_of(&look, RuntimeInactive), Some(Absent), "{state}");
    }
}

#[tokio::test]
async fn a_host_without_a_runtime_is_no_fault_and_one_that_cannot_be_asked_is_not_known() {
    let look = start(host(), Some(&FakeUnits::default()), true).next(|_| true).await;
    assert_eq!((look.verdicts.len(), look.blind_because), (0, None));
    let look = start(host(), None, true).next(|_| true).await;
    assert!(look.blind_because.as_deref().is_some_and(|because| because.contains("no bus")), "{look:?}");
}

#[tokio::test]
async fn the_runtime_of_k3s_is_named_by_its_unit_and_cri_o_by_its_own() {
    for (socket, unit) in
        [("run/k3s/containerd/containerd.sock", "k3s-agent.service"), ("run/crio/crio.sock", "crio.service")]
    {
        let dir = host();
        let fake = Fake::ready();
        let _server = fake.serve(&dir.path().join(socket));
        let look = start(dir, Some(&FakeUnits::with(unit, "active")), true).next(|_| true).await;
        let of_unit =
            |verdict: &Verdict| matches!(verdict, Verdict::State(state) if state.subject == Subject::unit(unit));
        assert!(look.verdicts.iter().all(of_unit), "{look:?}");
        let want = (unit == "crio.service").then_some(Absent);
        assert_eq!(status_of(&look, RuntimeInactive), want, "k3s is the kubelet's unit");
        assert_eq!(status_of(&look, RuntimeUnresponsive), Some(Absent));
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_of_a_launcher_that_fails_is_the_vms_and_goes_with_its_sandbox() {
    let dir = host();
    let fake = Fake::ready();
    {
        let mut says = fake.says();
        says.sandboxes = vec![sandbox("s1", "vmi-1", true), sandbox("s2", "vmi-2", true)];
        says.containers = vec![
            container("c1", "s1", "compute", ContainerRunning),
            container("c2", "s2", "container-disk-binary", ContainerExited),
            container("c3", "s2", "istio-proxy", ContainerExited),
            container("c4", "other", "postgres", ContainerExited),
        ];
        says.exits = [("c2", (0, "Completed")), ("c3", (255, "Error")), ("c4", (1, "Error"))]
            .map(|(id, exit)| (id.to_owned(), exit))
            .into();
    }
    let _server = fake.serve(&dir.path().join(CONTAINERD));
    let mut under = start(dir, None, false);
    let of = |look: &Look| states(look, LauncherContainerFailed);
    let look = under.next(|look| !of(look).is_empty()).await;
    assert_eq!(of(&look), [("vm/vmi-1".to_owned(), Absent), ("vm/vmi-2".to_owned(), Present)]);
    assert_eq!(fake.n_calls("ContainerStatus"), 2, "nobody asks for what is no launcher's");
    under.next(|look| !of(look).is_empty()).await;
    assert_eq!(fake.n_calls("ContainerStatus"), 2, "what has ended is asked for once");
    fake.hang(Some("Status"));
    let look = under.until(RuntimeUnresponsive, Present).await;
    assert_eq!(of(&look), [("vm/vmi-1".to_owned(), Unknown), ("vm/vmi-2".to_owned(), Unknown)]);
    fake.says().sandboxes = vec![sandbox("s2", "vmi-2", false)];
    fake.hang(None);
    let look = under.next(|look| !of(look).is_empty() && status_of(look, RuntimeUnresponsive) == Some(Absent)).await;
    assert_eq!(of(&look), [("vm/vmi-2".to_owned(), Absent)], "its sandbox has ended");
    let gone = |sighting: &Sighting| matches!(sighting, Sighting::Gone(subject) if *subject == Subject::vm("vmi-1"));
    assert!(look.sightings.iter().any(gone), "{look:?}");
}

#[tokio::test]
async fn whether_an_image_is_here_is_asked_of_the_runtime_alone() {
    let dir = host();
    let fake = Fake::ready();
    let _server = fake.serve(&dir.path().join(CONTAINERD));
    let stream = client::open(&HostRoot::new(dir.path()), CONTAINERD).unwrap();
    let mut client = client::CriClient::new(stream).await.unwrap();
    assert_eq!((client.has_image("here").await, client.has_image("elsewhere").await), (Ok(true), Ok(false)));
}

const CRI_O: &str = "run/crio/crio.sock";
const K3S: &str = "run/k3s/containerd/containerd.sock";

/// What a look says of each subject under this code.
fn states(look: &Look, code: FindingCode) -> Vec<(String, Status)> {
    let of = |verdict: &Verdict| match verdict {
        Verdict::State(state) if state.code == code => Some((state.subject.to_string(), state.status)),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    };
    look.verdicts.iter().filter_map(of).collect()
}

fn vm(uid: &str, status: Status) -> (String, Status) {
    (format!("vm/{uid}"), status)
}

/// A runtime with the launcher of one VM, well.
fn with_launcher(vmi_uid: &str) -> Fake {
    let fake = Fake::ready();
    fake.says().sandboxes = vec![sandbox("s1", vmi_uid, true)];
    fake.says().containers = vec![container("c1", "s1", "compute", ContainerRunning)];
    fake
}

#[tokio::test]
async fn a_runtime_that_rests_says_nothing_of_anothers_vms() {
    let dir = host();
    let _server = with_launcher("vmi-1").serve(&dir.path().join(CRI_O));
    let units = FakeUnits::with("crio.service", "active");
    units.set("containerd.service", "inactive");
    let look = start(dir, Some(&units), true).next(|_| true).await;
    assert_eq!(states(&look, LauncherContainerFailed), [vm("vmi-1", Absent)]);
}

#[tokio::test(start_paused = true)]
async fn each_of_two_runtimes_has_vms_of_its_own() {
    let dir = host();
    let (containerd, k3s) = (with_launcher("vmi-1"), with_launcher("vmi-2"));
    let _servers = (containerd.serve(&dir.path().join(CONTAINERD)), k3s.serve(&dir.path().join(K3S)));
    let mut under = start(dir, None, false);
    let look = under.next(|_| true).await;
    let mut seen = states(&look, LauncherContainerFailed);
    seen.sort();
    assert_eq!(seen, [vm("vmi-1", Absent), vm("vmi-2", Absent)]);
    let is_gone = |sighting: &Sighting| matches!(sighting, Sighting::Gone(_));
    assert!(!look.sightings.iter().any(is_gone), "{look:?}");
    k3s.hang(Some("Status"));
    let look = under.next(|look| states(look, LauncherContainerFailed).contains(&vm("vmi-2", Unknown))).await;
    assert!(!states(&look, LauncherContainerFailed).contains(&vm("vmi-1", Unknown)), "{look:?}");
}

#[tokio::test]
async fn the_network_is_judged_of_the_runtime_that_runs_the_pods() {
    // Of each runtime: whether a container runs on it, whether its network is ready, and what is said.
    type Case = [(bool, bool, Status); 2];
    let cases: [Case; 6] = [
        [(true, true, Absent), (false, false, Absent)],
        [(true, false, Present), (false, true, Absent)],
        [(true, true, Absent), (true, false, Present)],
        // Nobody runs a pod yet: which is the kubelet's is not known.
        [(false, true, Unknown), (false, false, Unknown)],
        [(false, true, Absent), (false, true, Absent)],
        [(false, false, Present), (false, false, Present)],
    ];
    for case in cases {
        let dir = host();
        let mut servers = Vec::new();
        for ((runs, is_ready, _), socket) in case.into_iter().zip([K3S, CONTAINERD]) {
            let fake = Fake::ready();
            fake.says().conditions.insert("NetworkReady", is_ready);
            let state = if runs { ContainerRunning } else { ContainerExited };
            fake.says().containers = vec![container("c1", "s1", "kube-proxy", state)];
            servers.push(fake.serve(&dir.path().join(socket)));
        }
        let units = FakeUnits::with("k3s.service", "active");
        units.set("containerd.service", "active");
        let look = start(dir, Some(&units), true).next(|_| true).await;
        let mut seen = states(&look, RuntimeNetworkNotReady);
        seen.sort();
        let [(.., of_k3s), (.., of_containerd)] = case;
        let unit = |name: &str, status| (format!("unit/{name}"), status);
        assert_eq!(seen, [unit("containerd.service", of_containerd), unit("k3s.service", of_k3s)], "{case:?}");
    }
}

#[tokio::test]
async fn the_network_of_a_runtime_that_rests_is_none_of_the_kubelets_while_pods_run_on_another() {
    let dir = host();
    let _server = with_launcher("vmi-1").serve(&dir.path().join(CRI_O));
    let units = FakeUnits::with("crio.service", "active");
    units.set("containerd.service", "inactive");
    let look = start(dir, Some(&units), true).next(|_| true).await;
    assert!(states(&look, RuntimeNetworkNotReady).iter().all(|(_, status)| *status == Absent), "{look:?}");
}
