//! The node's own services as their processes and files show them: kubelet, container runtime, its shims.
//!
//! The unit of a process is the last `.service` of its cgroup; a runtime started in another way has its usual unit's name. What
//! KubeVirt needs of a kubelet: its root folder at one fixed place, and device plugins. Source: KubeVirt `pkg/util/util.go` (v1.8).

use kulprit_host::captured::CapturedProcess;
use kulprit_host::kubelet_files::{KUBELET_ROOT, KubeletArgs};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::recorded::Health;
use crate::say::{PROCFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

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
    let segments = process.cgroups.iter().flat_map(|row| row.path.split('/'));
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
    /// CPU manager policy that it is told to have; `None` where not recorded.
    pub policy_told: Option<String>,
    /// Policy that its state file has; `None` where not recorded.
    pub policy_written: Option<String>,
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
    if gates.split(',').any(|gate| gate.eq_ignore_ascii_case("DevicePlugins=false")) {
        return say("feature-gate", "the kubelet runs with the feature gate DevicePlugins=false".to_owned());
    }
    if let (Some(told), Some(written)) = (&setup.policy_told, &setup.policy_written)
        && told != written
    {
        let text = format!("the kubelet's cpuManagerPolicy is {told}, its cpu_manager_state says {written}");
        return say("cpu-manager-state", text);
    }
    let root_dir = setup.args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    Verdict::State(absent(code, &subject, at, PROCFS, format!("the kubelet's root folder is {root_dir}")))
}

#[cfg(test)]
mod tests {
    use kulprit_host::cgroup::CgroupMembership;
    use kulprit_host::kubelet_files::parse_kubelet_args;
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
    fn a_kubelet_is_misconfigured_in_three_ways() {
        let none = KubeletSetup::default;
        check_setup("kubelet --v=2", none(), None);
        check_setup("kubelet --root-dir=/var/lib/kubelet/", none(), None);
        check_setup("kubelet --root-dir=/data/kubelet", none(), Some("root-dir"));
        let linked = KubeletSetup { link: Some("/data/kubelet".to_owned()), ..none() };
        check_setup("kubelet --root-dir=/data/kubelet", linked, None);
        check_setup("kubelet --feature-gates=A=true,DevicePlugins=false", none(), Some("feature-gate"));
        let policies = |told: &str| KubeletSetup {
            policy_told: Some(told.to_owned()),
            policy_written: Some("none".to_owned()),
            ..none()
        };
        check_setup("kubelet", policies("static"), Some("cpu-manager-state"));
        check_setup("kubelet", policies("none"), None);
    }
}
