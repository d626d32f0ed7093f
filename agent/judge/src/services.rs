//! The node's own services as their processes and files show them: kubelet, container runtime, its shims.
//!
//! The unit of a process is the last `.service` of its cgroup; a runtime started in another way has its usual unit's name. What
//! KubeVirt needs of a kubelet: its root folder at one fixed place, and device plugins. Source: KubeVirt `pkg/util/util.go` (v1.8).

use kulprit_host::captured::CapturedProcess;
use kulprit_host::cgroup::CgroupMembership;
use kulprit_host::kubelet_files::{
    KUBELET_ROOT, KubeletArgs, KubeletConfig, ManagerPolicies, PluginSocket, PodFolders, Validity,
};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::recorded::Health;
use crate::say::{PROCFS, absent, present, unknown};
use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

/// A certificate that is valid for less than this is spoken of: kubelet renews its own at 70 to 90 % of its time, which is a year or a
/// day.
const NEAR_EXPIRY_USEC: i64 = 72 * HOUR_USEC;
const HOUR_USEC: i64 = 3_600_000_000;
/// Where what pods leave is.
const KUBELET_FOLDER: &str = "kubelet";
/// Volumes of one pod that are named.
const N_VOLUMES_SHOWN: usize = 5;

/// A service that the node cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The kubelet; also k3s and rke2, which are one process with it.
    Kubelet,
    /// The container runtime's daemon.
    Runtime,
    /// A shim of the runtime: the parent of a container's first process.
    Shim,
}

/// Which service a process name is of; `None` for others.
#[must_use]
pub fn service_of(name: &str) -> Option<Service> {
    match name {
        "kubelet" | "k3s-server" | "k3s-agent" | "k3s" | "rke2" => Some(Service::Kubelet),
        "containerd" | "crio" | "dockerd" => Some(Service::Runtime),
        _ if name.starts_with("containerd-shim") || name.starts_with("conmon") => Some(Service::Shim),
        _ => None,
    }
}

/// The unit that a process belongs to, by its cgroup, else `usual`.
#[must_use]
pub fn unit_of(process: &CapturedProcess, usual: &str) -> String {
    unit_of_cgroups(&process.cgroups, usual)
}

/// As [`unit_of`], by the lines of its `cgroup` file.
#[must_use]
pub fn unit_of_cgroups(cgroups: &[CgroupMembership], usual: &str) -> String {
    let segments = cgroups.iter().flat_map(|row| row.path.split('/'));
    segments.rev().find(|part| part.ends_with(".service")).unwrap_or(usual).to_owned()
}

/// `KubeletProcessStalled`, `RuntimeUnresponsive` or `RuntimeShimStuck`, by what the process is.
#[must_use]
pub fn judge_process(at: Moment, service: Service, process: &CapturedProcess, health: Option<&Health>) -> Verdict {
    let (code, subject) = match service {
        Service::Kubelet => (FindingCode::KubeletProcessStalled, Subject::unit(unit_of(process, "kubelet.service"))),
        Service::Runtime => {
            let usual = format!("{}.service", if process.comm == "dockerd" { "docker" } else { process.comm.as_str() });
            (FindingCode::RuntimeUnresponsive, Subject::unit(unit_of(process, &usual)))
        }
        Service::Shim => (
            FindingCode::RuntimeShimStuck,
            Subject::Process { pid: process.pid, start_ticks: process.start_time_ticks.unwrap_or_default() },
        ),
    };
    Verdict::State(judge_health(at, code, &subject, process, health))
}

fn judge_health(
    at: Moment,
    code: FindingCode,
    subject: &Subject,
    process: &CapturedProcess,
    health: Option<&Health>,
) -> StateVerdict {
    let CapturedProcess { pid, comm, .. } = process;
    match health {
        Some(health @ (Health::Stopped(_) | Health::Ended | Health::Blocked { .. })) => {
            let facts = Attributes::new()
                .with(attribute::PID, pid)
                .with(attribute::COMM, comm)
                .with_some(attribute::PROCESS_STATE, process.state.map(|state| state.letter()));
            present(code, subject, at, PROCFS, facts, format!("{comm} {pid} {}", health.fault().unwrap_or_default()))
        }
        // A process that runs says nothing of whether it answers.
        Some(Health::Runs) if code == FindingCode::RuntimeUnresponsive => {
            unknown(code, subject, "the runtime runs; whether it answers was not asked")
        }
        Some(Health::Runs) => absent(code, subject, at, PROCFS, format!("{comm} {pid} runs")),
        Some(Health::Unclear) | None => {
            unknown(code, subject, format!("the state of {comm} {pid} was not clear at the only look"))
        }
    }
}

/// How one kubelet is set up.
#[derive(Clone, Debug, Default)]
pub struct KubeletSetup {
    /// Its arguments.
    pub args: KubeletArgs,
    /// Where `/var/lib/kubelet` leads, when it is a link.
    pub link: Option<String>,
    /// Its configuration; `None` where there is none, or it is not known.
    pub config: Option<KubeletConfig>,
    /// Why some of its setup is not known.
    pub unseen: Option<String>,
    /// Policy of its CPU manager.
    pub cpu: ManagerPolicies,
    /// Policy of its memory manager.
    pub memory: ManagerPolicies,
}

/// `KubeletMisconfigured` of the kubelet in `unit`.
#[must_use]
pub fn judge_setup(at: Moment, unit: &str, setup: &KubeletSetup) -> Verdict {
    let code = FindingCode::KubeletMisconfigured;
    let subject = Subject::unit(unit);
    let say = |what: &str, text: String| {
        Verdict::State(present(code, &subject, at, PROCFS, Attributes::new().with(attribute::WHAT, what), text))
    };
    if let Some(root_dir) = setup.args.root_dir.as_deref().filter(|path| *path != KUBELET_ROOT)
        && setup.link.as_deref().map(|link| link.trim_end_matches('/')) != Some(root_dir)
    {
        return say("root-dir", format!("the kubelet's --root-dir is {root_dir}; KubeVirt expects {KUBELET_ROOT}"));
    }
    let gates = setup.args.feature_gates.as_deref().unwrap_or_default();
    let is_off = |config: &KubeletConfig| config.device_plugins.as_deref() == Some("false");
    if gates.split(',').any(|gate| gate.eq_ignore_ascii_case("DevicePlugins=false"))
        || setup.config.as_ref().is_some_and(is_off)
    {
        return say("feature-gate", "the kubelet runs with the feature gate DevicePlugins=false".to_owned());
    }
    for (what, key, file, policies) in [
        ("cpu-manager-state", "cpuManagerPolicy", "cpu_manager_state", &setup.cpu),
        ("memory-manager-state", "memoryManagerPolicy", "memory_manager_state", &setup.memory),
    ] {
        if let ManagerPolicies { told: Some(told), written: Some(written) } = policies
            && told != written
        {
            return say(
                what,
                format!("the kubelet's {key} is {told}, its {file} says {written}: it does not start so"),
            );
        }
    }
    if let Some(because) = &setup.unseen {
        return Verdict::State(unknown(code, &subject, because));
    }
    let root_dir = setup.args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    Verdict::State(absent(code, &subject, at, PROCFS, format!("the kubelet's root folder is {root_dir}")))
}

/// The kubelet's client certificate.
#[must_use]
pub fn judge_certificate(at: Moment, unit: &str, source: &str, validity: Validity) -> Verdict {
    let (code, subject) = (FindingCode::KubeletCertificateExpired, Subject::unit(unit));
    let Validity { not_before_usec, not_after_usec } = validity;
    let left_usec = not_after_usec.saturating_sub(at.wall_usec);
    let say =
        |what, text: &str| present(code, &subject, at, source, Attributes::new().with(attribute::WHAT, what), text);
    if left_usec <= 0 {
        let expired = say("expired", "the kubelet's client certificate is expired (notAfter)");
        return Verdict::State(StateVerdict { since: Some(at.offset_usec(left_usec)), ..expired });
    }
    if not_before_usec > at.wall_usec {
        return Verdict::State(say("not-yet-valid", "the kubelet's client certificate is not valid yet (notBefore)"));
    }
    let hours = left_usec / HOUR_USEC;
    let text = match left_usec < NEAR_EXPIRY_USEC {
        true => format!("the kubelet's client certificate expires in {hours} h"),
        false => format!("the kubelet's client certificate is valid for {} days more", hours / 24),
    };
    let facts = Attributes::new().with(attribute::MEASURED, hours);
    Verdict::State(StateVerdict { attributes: facts, ..absent(code, &subject, at, source, text) })
}

/// The sockets of device plugins on a node that KubeVirt is on; `None` when none of them is the kubelet's own: it does not run, or has
/// only begun to.
#[must_use]
pub fn judge_device_plugins(at: Moment, source: &str, sockets: &[PluginSocket]) -> Option<Verdict> {
    let code = FindingCode::DevicePluginMissing;
    sockets.iter().find(|socket| socket.name == "kubelet.sock")?;
    let own: Vec<&str> =
        sockets.iter().map(|socket| socket.name.as_str()).filter(|name| name.starts_with("kubevirt-")).collect();
    // The device that every VM asks for; the others come with it.
    let is_missing = !own.contains(&"kubevirt-kvm.sock");
    let text = match own.is_empty() {
        true => "no socket of KubeVirt's is in kubelet's device-plugins folder".to_owned(),
        false => format!("of KubeVirt's device plugins there are {}", own.join(", ")),
    };
    Some(Verdict::State(match is_missing {
        true => present(code, &Subject::Node, at, source, Attributes::new(), text),
        false => absent(code, &Subject::Node, at, source, text),
    }))
}

/// A kubelet that has started: when, and what of KubeVirt's device plugins has come back since.
#[must_use]
pub fn judge_restart(started: Moment, unit: &str, pid: u32, sockets: &[PluginSocket]) -> Verdict {
    let kvm = sockets.iter().find(|socket| socket.name == "kubevirt-kvm.sock").and_then(|socket| socket.made_usec);
    let back = match kvm.map(|made_usec| made_usec.saturating_sub(started.wall_usec)) {
        Some(usec) if usec >= 0 => format!("KubeVirt's device plugin came back {} s later", usec / 1_000_000),
        Some(_) => "the socket of KubeVirt's device plugin is older".to_owned(),
        None => "KubeVirt's device plugin has not come back yet".to_owned(),
    };
    Verdict::Occurrence(OccurrenceVerdict {
        code: FindingCode::KubeletRestarted,
        subject: Subject::unit(unit),
        at: started,
        count: 1,
        attributes: Attributes::new().with(attribute::PID, pid),
        evidence: vec![Evidence::new(PROCFS, started, format!("the kubelet of {unit} ({pid}) started; {back}"))],
    })
}

/// What pods left in the kubelet's folder.
#[must_use]
pub fn judge_leftovers(at: Moment, folders: &PodFolders) -> Verdict {
    let (code, subject) = (FindingCode::OrphanedPodVolumes, Subject::Node);
    let Some(first) = folders.leftovers.first() else {
        let text = format!("none of {} pod folders has volumes of a pod without a container", folders.n_pods);
        return Verdict::State(absent(code, &subject, at, KUBELET_FOLDER, text));
    };
    let n_leftovers = folders.leftovers.len();
    let facts = Attributes::new()
        .with(attribute::POD_UID, &first.pod_uid)
        .with_some(attribute::VOLUME, first.volumes.first())
        .with(attribute::MEASURED, n_leftovers);
    let volumes: Vec<&str> = first.volumes.iter().map(String::as_str).take(N_VOLUMES_SHOWN).collect();
    let more = match n_leftovers {
        1 => String::new(),
        n => format!(", and {} others", n - 1),
    };
    let text = format!("pod {} has no container and still has {}{more}", first.pod_uid, volumes.join(", "));
    let left = present(code, &subject, at, KUBELET_FOLDER, facts, text);
    // Pods that end one after the other leave something for a moment each.
    Verdict::State(StateVerdict { hold_key: Some(first.pod_uid.clone()), ..left })
}

#[cfg(test)]
mod tests {
    use kulprit_host::kubelet_files::{parse_kubelet_args, parse_kubelet_config};
    use kulprit_host::process::TaskState;
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;
    use crate::testing::statuses;

    fn process(comm: &str, path: &str) -> CapturedProcess {
        let cgroup = CgroupMembership { hierarchy: 0, controllers: String::new(), path: path.to_owned() };
        CapturedProcess { pid: 12, comm: comm.to_owned(), cgroups: vec![cgroup], ..CapturedProcess::default() }
    }

    #[track_caller]
    fn check(comm: &str, path: &str, health: Option<Health>, want: (FindingCode, &str, Status)) {
        let process = process(comm, path);
        let verdict = judge_process(Moment::default(), service_of(comm).unwrap(), &process, health.as_ref());
        let status = statuses(std::slice::from_ref(&verdict))[0];
        let Verdict::State(state) = verdict else { unreachable!() };
        assert_eq!((state.code, state.subject.to_string().as_str(), status), want);
    }

    #[test]
    fn a_stopped_service_is_a_fault_of_its_unit() {
        use FindingCode::{KubeletProcessStalled, RuntimeShimStuck, RuntimeUnresponsive};
        let stopped = || Some(Health::Stopped(TaskState::Stopped));
        let kubelet = "/system.slice/kubelet.service";
        check("kubelet", kubelet, stopped(), (KubeletProcessStalled, "unit/kubelet.service", Present));
        check("kubelet", kubelet, Some(Health::Runs), (KubeletProcessStalled, "unit/kubelet.service", Absent));
        check(
            "k3s-server",
            "/system.slice/k3s.service",
            stopped(),
            (KubeletProcessStalled, "unit/k3s.service", Present),
        );
        check("containerd", "/", stopped(), (RuntimeUnresponsive, "unit/containerd.service", Present));
        check("containerd", "/", Some(Health::Runs), (RuntimeUnresponsive, "unit/containerd.service", Unknown));
        check("containerd-shim", "/", Some(Health::Ended), (RuntimeShimStuck, "process/12@0", Present));
        check("conmon", "/", Some(Health::Unclear), (RuntimeShimStuck, "process/12@0", Unknown));
    }

    #[track_caller]
    fn check_setup(args: &str, setup: KubeletSetup, want: Option<&str>) {
        let args = parse_kubelet_args(&args.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let Verdict::State(state) = judge_setup(Moment::default(), "kubelet.service", &KubeletSetup { args, ..setup })
        else {
            unreachable!()
        };
        assert_eq!(state.attributes.get(attribute::WHAT), want, "{state:?}");
        assert_eq!(state.status, if want.is_some() { Present } else { Absent });
    }

    #[test]
    fn kubelet_misconfigured_is_one_of_four_ways() {
        let none = KubeletSetup::default;
        check_setup("kubelet --v=2", none(), None);
        check_setup("kubelet --root-dir=/var/lib/kubelet/", none(), None);
        check_setup("kubelet --root-dir=/data/kubelet", none(), Some("root-dir"));
        let linked = KubeletSetup { link: Some("/data/kubelet".to_owned()), ..none() };
        check_setup("kubelet --root-dir=/data/kubelet", linked, None);
        check_setup("kubelet --feature-gates=A=true,DevicePlugins=false", none(), Some("feature-gate"));
        let off = |text: &str| KubeletSetup { config: Some(parse_kubelet_config(text).unwrap()), ..none() };
        check_setup("kubelet", off("featureGates:\n  DevicePlugins: false\n"), Some("feature-gate"));
        check_setup("kubelet", off("featureGates:\n  DevicePlugins: true\n"), None);
        let policies = |told: &str, written: &str| ManagerPolicies {
            told: Some(told.to_owned()),
            written: Some(written.to_owned()),
        };
        let cpu = |told| KubeletSetup { cpu: policies(told, "none"), ..none() };
        check_setup("kubelet", cpu("static"), Some("cpu-manager-state"));
        check_setup("kubelet", cpu("none"), None);
        let memory = |told| KubeletSetup { memory: policies(told, "None"), ..none() };
        check_setup("kubelet", memory("Static"), Some("memory-manager-state"));
        check_setup("kubelet", memory("None"), None);
    }

    #[test]
    fn what_is_not_known_of_a_setup_hides_no_fault_and_clears_none() {
        let status = |args: KubeletArgs| {
            let setup =
                KubeletSetup { args, unseen: Some("`kubelet.conf` was not read".to_owned()), ..Default::default() };
            let state = state_of(judge_setup(Moment::default(), "kubelet.service", &setup));
            (state.status, state.unknown_because)
        };
        assert_eq!(status(KubeletArgs::default()), (Unknown, Some("`kubelet.conf` was not read".to_owned())));
        let elsewhere = KubeletArgs { root_dir: Some("/data/kubelet".to_owned()), ..KubeletArgs::default() };
        assert_eq!(status(elsewhere), (Present, None));
    }

    fn state_of(verdict: Verdict) -> StateVerdict {
        statuses(std::slice::from_ref(&verdict));
        match verdict {
            Verdict::State(state) => state,
            Verdict::Occurrence(_) => unreachable!(),
        }
    }

    #[test]
    fn kubelet_certificate_expired_is_a_certificate_past_its_last_or_before_its_first_second() {
        let at = Moment { wall_usec: 100 * HOUR_USEC, boottime_usec: 0 };
        let valid = |from, until| {
            let validity = Validity { not_before_usec: from, not_after_usec: until };
            state_of(judge_certificate(at, "kubelet.service", "pem", validity))
        };
        let now = at.wall_usec;
        assert_eq!(valid(0, now).status, Present);
        assert_eq!(valid(0, now).attributes.get(attribute::WHAT), Some("expired"));
        assert_eq!(valid(now + 1, now + 2).attributes.get(attribute::WHAT), Some("not-yet-valid"));
        let near = valid(now, now + NEAR_EXPIRY_USEC - 1);
        assert_eq!((near.status, near.evidence[0].text.contains("expires in 71 h")), (Absent, true), "{near:?}");
        let far = valid(now, now + NEAR_EXPIRY_USEC);
        assert_eq!((far.status, far.evidence[0].text.contains("3 days more")), (Absent, true), "{far:?}");
    }

    fn sockets(names: &[&str]) -> Vec<PluginSocket> {
        names.iter().map(|name| PluginSocket { name: (*name).to_owned(), made_usec: Some(9_000_000) }).collect()
    }

    #[test]
    fn device_plugin_missing_is_said_of_a_kubelet_that_runs_only() {
        let status = |names: &[&str]| {
            judge_device_plugins(Moment::default(), "kubelet", &sockets(names)).map(|verdict| state_of(verdict).status)
        };
        assert_eq!(status(&[]), None);
        assert_eq!(status(&["kubevirt-kvm.sock"]), None);
        assert_eq!(status(&["kubelet.sock"]), Some(Present));
        assert_eq!(status(&["kubelet.sock", "nvidia.sock", "kubevirt-tun.sock"]), Some(Present));
        assert_eq!(status(&["kubelet.sock", "kubevirt-kvm.sock"]), Some(Absent));
    }

    #[test]
    fn kubelet_restarted_says_what_has_come_back_since() {
        let text = |started: i64, names: &[&str]| match judge_restart(
            Moment { wall_usec: started, boottime_usec: 1 },
            "kubelet.service",
            7,
            &sockets(names),
        ) {
            Verdict::Occurrence(said) => {
                assert_eq!((said.code, said.at.boottime_usec), (FindingCode::KubeletRestarted, 1));
                said.evidence[0].text.clone()
            }
            Verdict::State(state) => panic!("{state:?}"),
        };
        assert!(text(4_000_000, &["kubevirt-kvm.sock"]).contains("came back 5 s later"));
        assert!(text(9_000_001, &["kubevirt-kvm.sock"]).contains("is older"));
        assert!(text(4_000_000, &["kubelet.sock"]).contains("not come back yet"));
    }

    #[test]
    fn orphaned_pod_volumes_are_named_by_their_first_pod() {
        let leftover = |uid: &str| kulprit_host::kubelet_files::PodLeftover {
            pod_uid: uid.to_owned(),
            volumes: vec!["kubernetes.io~csi/pvc-1".to_owned()],
        };
        let judged = |uids: &[&str]| {
            let leftovers = uids.iter().map(|uid| leftover(uid)).collect();
            state_of(judge_leftovers(Moment::default(), &PodFolders { n_pods: 9, leftovers }))
        };
        assert_eq!((judged(&[]).code, judged(&[]).status), (FindingCode::OrphanedPodVolumes, Absent));
        let two = judged(&["a", "b"]);
        assert_eq!((two.status, two.attributes.get(attribute::POD_UID)), (Present, Some("a")));
        assert!(two.evidence[0].text.ends_with("kubernetes.io~csi/pvc-1, and 1 others"), "{two:?}");
        assert_ne!(judged(&["b"]).hold_key, two.hold_key);
    }
}
