//! Units, the container runtime, limits, modules, the clock, the kubelet's health: what commands say of the node itself.

use kulprit_host::command::Failure;
use kulprit_host::command::system::{ClockState, DeviceRow, Healthz};
use kulprit_host::cri::RuntimeInfo;
use kulprit_host::systemd::UnitObservation;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Status, Subject, attribute};

use super::{absent, present, present_since, unknown};
use crate::kubelet::{self, Expectation, HealthzSeen, RestartHistory};
use crate::runtime;
use crate::verdict::{OccurrenceVerdict, Verdict};

/// As the catalogue's rows.
const NEARLY_PCT: u64 = 90;
const MAX_SKEW_SECS: f64 = 5.0;
const DAY_USEC: i64 = 86_400 * 1_000_000;

/// Units that run a kubelet.
#[must_use]
pub fn is_kubelet_unit(name: &str) -> bool {
    let name = name.trim_end_matches(".service");
    matches!(
        name,
        "kubelet" | "k3s" | "k3s-agent" | "rke2-agent" | "rke2-server" | "k0scontroller" | "k0sworker" | "microk8s"
    ) || name.starts_with("snap.microk8s.daemon-kubelite")
        || name.starts_with("snap.kubelet")
}

/// Units that are a container runtime by themselves.
#[must_use]
pub fn is_runtime_unit(name: &str) -> bool {
    matches!(name.trim_end_matches(".service"), "containerd" | "crio" | "cri-o" | "docker" | "cri-docker")
}

/// A unit of `systemctl`; other units than kubelet and runtime say nothing here. `unit` carries the monotonic time of its last
/// change on the clock of `at`.
#[must_use]
pub fn judge_unit(at: Moment, unit: &UnitObservation) -> Vec<Verdict> {
    if !unit.is_found() {
        return Vec::new();
    }
    let changed = unit.state_change_usec.and_then(|usec| i64::try_from(usec).ok());
    let changed = changed.map(|usec| at.offset_usec((usec - at.wall_usec).min(0)));
    let is_active = kubelet::is_active(unit);
    if is_kubelet_unit(&unit.name) {
        let expectation = Expectation { was_active: false, has_state_on_disk: true };
        let mut verdicts = kubelet::judge_unit(at, unit, expectation, &mut RestartHistory::default());
        if unit.sub_state.as_deref() == Some("auto-restart") {
            verdicts = crashing(at, unit);
        }
        if let Some(started) = changed.filter(|_| is_active && unit.sub_state.as_deref() == Some("running"))
            && at.wall_usec - started.wall_usec < DAY_USEC
        {
            verdicts.push(Verdict::Occurrence(OccurrenceVerdict {
                code: FindingCode::KubeletRestarted,
                subject: Subject::unit(unit.name.as_str()),
                at: started,
                count: 1,
                attributes: Attributes::new().with_some(attribute::N_RESTARTS, unit.n_restarts),
                evidence: vec![Evidence::new("systemd", started, format!("{} has run since then", unit.name))],
            }));
        }
        return verdicts;
    }
    if !is_runtime_unit(&unit.name) {
        return Vec::new();
    }
    let (code, subject) = (FindingCode::RuntimeInactive, Subject::unit(unit.name.as_str()));
    let Some(state) = unit.active_state.as_deref() else {
        return vec![unknown(code, subject, format!("systemctl gave no ActiveState of {}", unit.name))];
    };
    if is_active {
        return vec![absent(code, subject)];
    }
    // Distributions bring runtimes that nobody uses.
    let is_off = matches!(unit.unit_file_state.as_deref(), Some("disabled" | "masked")) && changed.is_none();
    if state == "inactive" && is_off {
        return Vec::new();
    }
    let facts = Attributes::new()
        .with(attribute::ACTIVE_STATE, state)
        .with_some(attribute::SUB_STATE, unit.sub_state.as_deref())
        .with_some(attribute::RESULT, unit.result.as_deref());
    let text = format!("{} is {state} ({})", unit.name, unit.sub_state.as_deref().unwrap_or("no SubState"));
    vec![match changed {
        Some(changed) => present_since(code, subject, changed, "systemd", facts, text),
        None => present(code, subject, at, "systemd", facts, text),
    }]
}

/// A kubelet that ended and waits to be started anew. The wait is of seconds: one look that meets it has met a loop.
fn crashing(at: Moment, unit: &UnitObservation) -> Vec<Verdict> {
    let subject = || Subject::unit(unit.name.as_str());
    let text = match unit.main_exit {
        Some(exit) => format!("{} ended with status {} and waits to be started anew", unit.name, exit.status),
        None => format!("{} ended and waits to be started anew", unit.name),
    };
    let facts = Attributes::new()
        .with_some(attribute::RESULT, unit.result.as_deref())
        .with_some(attribute::N_RESTARTS, unit.n_restarts);
    vec![
        unknown(FindingCode::KubeletInactive, subject(), "systemd is about to start it anew"),
        present(FindingCode::KubeletRestartLoop, subject(), at, "systemd", facts, text),
    ]
}

/// A call of `crictl`: whether the runtime answers.
#[must_use]
pub fn judge_runtime_call(at: Moment, unit: &str, failure: Option<(Failure, &str)>) -> Vec<Verdict> {
    use FindingCode::{RuntimeInactive, RuntimeUnresponsive};
    let failed = |code, failure: &str, text: &str| {
        present(
            code,
            Subject::unit(unit),
            at,
            "crictl",
            Attributes::new().with(attribute::FAILURE, failure),
            format!("crictl: {text}"),
        )
    };
    match failure {
        None => vec![absent(RuntimeUnresponsive, Subject::unit(unit)), absent(RuntimeInactive, Subject::unit(unit))],
        Some((Failure::NoAnswer, text)) => vec![failed(RuntimeUnresponsive, attribute::FAILURE_TIMEOUT, text)],
        Some((Failure::Refused, text)) => vec![failed(RuntimeInactive, attribute::FAILURE_REFUSED, text)],
        Some((Failure::NoSocket, text)) => vec![failed(RuntimeInactive, attribute::FAILURE_NOT_FOUND, text)],
        Some((Failure::NotInstalled | Failure::Denied, text)) => {
            vec![unknown(RuntimeUnresponsive, Subject::unit(unit), format!("crictl: {text}"))]
        }
    }
}

/// `crictl info`.
#[must_use]
pub fn judge_runtime_info(at: Moment, unit: &str, info: &RuntimeInfo) -> Vec<Verdict> {
    runtime::judge_network(at, unit, "crictl", info).into_iter().collect()
}

/// Settings and counters of `sysctl` or of `/proc/sys` read with `grep`.
#[must_use]
pub fn judge_sysctl(at: Moment, pairs: &[(String, String)]) -> Vec<Verdict> {
    let get = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let number = |key: &str| get(key)?.parse::<u64>().ok();
    let mut verdicts = Vec::new();
    if let Some(value) = number("vm.unprivileged_userfaultfd") {
        let code = FindingCode::UserfaultfdForbidden;
        verdicts.push(match value {
            0 => present(code, Subject::Node, at, "sysctl", Attributes::new(), "vm.unprivileged_userfaultfd = 0"),
            _ => absent(code, Subject::Node),
        });
    }
    let file_nr: Vec<u64> =
        get("fs.file-nr").into_iter().flat_map(str::split_whitespace).filter_map(|word| word.parse().ok()).collect();
    let limits = [
        ("conntrack", number("net.netfilter.nf_conntrack_count"), number("net.netfilter.nf_conntrack_max")),
        ("files", file_nr.first().copied(), file_nr.get(2).copied().or_else(|| number("fs.file-max"))),
        ("aio", number("fs.aio-nr"), number("fs.aio-max-nr")),
    ];
    verdicts.extend(limits.into_iter().filter_map(|(what, used, limit)| Some(judge_limit(at, what, used?, limit?))));
    verdicts
}

fn judge_limit(at: Moment, what: &str, used: u64, limit: u64) -> Verdict {
    let code = FindingCode::KernelLimitReached;
    if limit == 0 || used.saturating_mul(100) / limit < NEARLY_PCT {
        return absent(code, Subject::Node);
    }
    let facts = Attributes::new()
        .with(attribute::WHAT, what)
        .with(attribute::MEASURED, used)
        .with(attribute::LIMIT, limit)
        .with(attribute::PERCENT, used.saturating_mul(100) / limit);
    present(code, Subject::Node, at, "sysctl", facts, format!("{what}: {used} of {limit} used"))
}

/// `lsmod`: whether one of KVM's modules is loaded. A list without any module of the sort says so only for modules.
#[must_use]
pub fn judge_modules(at: Moment, modules: &[String]) -> Vec<Verdict> {
    let code = FindingCode::KvmModuleNotLoaded;
    if modules.iter().any(|name| matches!(name.as_str(), "kvm_intel" | "kvm_amd" | "kvm_hv" | "kvm_arm")) {
        return vec![absent(code, Subject::Node)];
    }
    let text = "lsmod: neither kvm_intel nor kvm_amd is loaded";
    vec![present(code, Subject::Node, at, "lsmod", Attributes::new(), text)]
}

/// `timedatectl` or `chronyc tracking`.
#[must_use]
pub fn judge_clock(at: Moment, clock: ClockState) -> Vec<Verdict> {
    let code = FindingCode::ClockSkewed;
    let is_far = clock.offset_secs.is_some_and(|offset| offset > MAX_SKEW_SECS);
    if !is_far && clock.is_synchronised != Some(false) {
        return vec![absent(code, Subject::Node)];
    }
    let text = match clock.offset_secs {
        Some(offset) if is_far => format!("the clock is {offset:.1} s off"),
        _ => "the clock is not synchronised".to_owned(),
    };
    let facts = Attributes::new().with_some(attribute::MEASURED, clock.offset_secs);
    vec![present(code, Subject::Node, at, "clock", facts, text)]
}

/// The kubelet's health endpoint, asked with curl.
#[must_use]
pub fn judge_healthz(at: Moment, unit: &str, seen: Healthz) -> Vec<Verdict> {
    let failed = |failure, text: &str| HealthzSeen::Failed { failure, text: text.to_owned() };
    let seen = match (seen.is_ok, seen.http_status, seen.curl_exit) {
        (true, _, _) => HealthzSeen::Answered { status: 200, body: "ok".to_owned() },
        (false, Some(status), _) => HealthzSeen::Answered { status, body: String::new() },
        (false, None, Some(7)) => failed(attribute::FAILURE_REFUSED, "connection refused"),
        (false, None, Some(28)) => failed(attribute::FAILURE_TIMEOUT, "no answer in time"),
        (false, None, Some(52 | 56)) => failed(attribute::FAILURE_RESET, "the connection broke"),
        (false, None, Some(code)) => HealthzSeen::Unknown(format!("curl ended with {code}")),
        (false, None, None) => return Vec::new(),
    };
    let mut verdict = kubelet::judge_healthz(at, unit, &seen);
    if let Verdict::State(state) = &mut verdict
        && state.status == Status::Present
    {
        state.attributes = std::mem::take(&mut state.attributes).with(attribute::FIRST_LOOK, true);
    }
    vec![verdict]
}

/// `ls -l /dev/kvm`.
#[must_use]
pub fn judge_kvm_node(at: Moment, rows: &[DeviceRow], is_reported_missing: bool) -> Vec<Verdict> {
    use FindingCode::{KvmDeviceInaccessible, KvmDeviceMissing};
    let Some(row) = rows.iter().find(|row| row.path == "/dev/kvm" || row.path == "kvm") else {
        if !is_reported_missing {
            return Vec::new();
        }
        let text = "ls: /dev/kvm does not exist";
        return vec![present(KvmDeviceMissing, Subject::Node, at, "ls", Attributes::new(), text)];
    };
    if !row.is_character {
        let text = "ls: /dev/kvm is no character device";
        return vec![present(KvmDeviceMissing, Subject::Node, at, "ls", Attributes::new(), text)];
    }
    // Somebody besides root must read and write it: the group kvm, or all.
    let is_open = row.mode & 0o060 == 0o060 || row.mode & 0o006 == 0o006;
    let mode = format!("{:04o}", row.mode);
    vec![
        absent(KvmDeviceMissing, Subject::Node),
        if is_open {
            absent(KvmDeviceInaccessible, Subject::Node)
        } else {
            let facts = Attributes::new().with(attribute::MODE, &mode);
            present(KvmDeviceInaccessible, Subject::Node, at, "ls", facts, format!("ls: /dev/kvm has mode {mode}"))
        },
    ]
}
