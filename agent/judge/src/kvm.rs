//! Whether virtual machines can use KVM on this node.
//!
//! Three faults, each with its own remedy: the device is not there, it cannot be opened, or it opens and makes no virtual
//! machine. Whether KVM works behind a device that is not there or does not open, nobody can say: that is `Unknown`. So is whether it opens
//! where the agent's own container has no right to any device.

use kulprit_host::kvm::{CpuVirtualization, KvmCalls, KvmModule, KvmNode, NodeKind, OsError};
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{StateVerdict, Verdict};

/// The only version of the API since 2007 (kernel `Documentation/virt/kvm/api.rst`, 4.1).
const API_VERSION: i32 = 12;
/// Read and write for owner, for group, for others.
const READ_WRITE_BITS: [u32; 3] = [0o600, 0o060, 0o006];
/// What a device cgroup answers (kernel `Documentation/admin-guide/cgroup-v1/devices.rst`); modes and security modules say `EACCES`.
const EPERM: i32 = 1;
const PATH: &str = "/dev/kvm";
const SOURCE: &str = "kvm";

/// What was read of KVM; a part that could not be read is its error text.
#[derive(Clone, Debug)]
pub struct KvmLook {
    /// When.
    pub at: Moment,
    /// The node; `None` when there is none.
    pub node: Result<Option<KvmNode>, String>,
    /// How the device answered; `None` when it was not asked, as its node is no device.
    pub calls: Option<KvmCalls>,
    /// The kernel's modules.
    pub modules: Result<Vec<KvmModule>, String>,
    /// Whether the kernel has a driver for the device (`/proc/misc`).
    pub is_registered: Result<bool, String>,
    /// The processor's flags.
    pub cpu: Result<CpuVirtualization, String>,
}

/// All states of the probe.
#[must_use]
pub fn judge(look: &KvmLook) -> Vec<Verdict> {
    let mut verdicts = judge_device(look);
    verdicts.extend([judge_module(look), judge_nested(look)]);
    verdicts.into_iter().map(Verdict::State).collect()
}

fn judge_device(look: &KvmLook) -> Vec<StateVerdict> {
    use FindingCode::{KvmDeviceInaccessible, KvmDeviceMissing, KvmUnusable};
    let unknown = |code, because: &str| StateVerdict::unknown(code, Subject::Node, because);
    let node = match &look.node {
        Ok(node) => *node,
        Err(error) => {
            return [KvmDeviceMissing, KvmDeviceInaccessible, KvmUnusable].map(|code| unknown(code, error)).to_vec();
        }
    };
    let facts = facts();
    let Some(node @ KvmNode { kind: NodeKind::CharacterDevice(_), .. }) = node else {
        let text = match node {
            None => format!("{PATH} does not exist"),
            Some(node) => format!("{PATH} is no character device but {}", kind_in_words(node.kind)),
        };
        return vec![
            present(look, KvmDeviceMissing, facts, text),
            StateVerdict::seen(KvmDeviceInaccessible, Subject::Node, false),
            unknown(KvmUnusable, "there is no device"),
        ];
    };
    let facts = facts.with(attribute::MODE, format!("{:04o}", node.mode));
    let mut verdicts = vec![StateVerdict::seen(KvmDeviceMissing, Subject::Node, false)];
    let Some(calls) = look.calls else {
        verdicts.extend([KvmDeviceInaccessible, KvmUnusable].map(|code| unknown(code, "the device was not opened")));
        return verdicts;
    };
    let nobody_may = READ_WRITE_BITS.iter().all(|bits| node.mode & bits != *bits);
    verdicts.push(match calls.open {
        Err(OsError { errno: EPERM }) if !nobody_may => {
            unknown(KvmDeviceInaccessible, "the device cgroup of the agent's own container lets it open no such device")
        }
        Err(error) => {
            let text = format!("opening {PATH} failed: {error} (mode {:04o}, owner {}:{})", node.mode, node.uid, node.gid);
            present(look, KvmDeviceInaccessible, with_errno(facts.clone(), error), text)
        }
        Ok(()) if nobody_may => {
            let text = format!(
                "{PATH} has mode {:04o}: neither owner {}, group {} nor others may read and write it; only root's capabilities open it",
                node.mode, node.uid, node.gid
            );
            present(look, KvmDeviceInaccessible, facts.clone(), text)
        }
        Ok(()) => StateVerdict::seen(KvmDeviceInaccessible, Subject::Node, false),
    });
    verdicts.push(judge_calls(look, calls, facts));
    verdicts
}

fn judge_calls(look: &KvmLook, calls: KvmCalls, facts: Attributes) -> StateVerdict {
    let code = FindingCode::KvmUnusable;
    match (calls.open, calls.api_version, calls.create_vm) {
        (Err(_), ..) => StateVerdict::unknown(code, Subject::Node, "the device could not be opened"),
        (Ok(()), Some(Err(error)), _) => {
            present(look, code, with_errno(facts, error), format!("KVM_GET_API_VERSION failed: {error}"))
        }
        (Ok(()), Some(Ok(version)), _) if version != API_VERSION => {
            let text = format!("KVM_GET_API_VERSION returned {version}, not {API_VERSION}");
            present(look, code, facts.with(attribute::API_VERSION, version), text)
        }
        (Ok(()), Some(Ok(version)), Some(Err(error))) => {
            let facts = with_errno(facts, error).with(attribute::API_VERSION, version);
            present(look, code, facts, format!("KVM_CREATE_VM failed: {error}"))
        }
        (Ok(()), Some(Ok(_)), Some(Ok(()))) => StateVerdict::seen(code, Subject::Node, false),
        (Ok(()), None, _) | (Ok(()), Some(Ok(_)), None) => {
            StateVerdict::unknown(code, Subject::Node, "the device was not asked")
        }
    }
}

/// A module by another name than Intel's and AMD's (`kvm_pvm`) and a built-in one without a trace in sysfs are found by the
/// driver they registered.
fn judge_module(look: &KvmLook) -> StateVerdict {
    let code = FindingCode::KvmModuleNotLoaded;
    match (&look.modules, &look.is_registered) {
        (_, Ok(true)) => StateVerdict::seen(code, Subject::Node, false),
        (Ok(modules), _) if modules.iter().any(|module| module.name != "kvm") => {
            StateVerdict::seen(code, Subject::Node, false)
        }
        (Ok(_), Ok(false)) => {
            present(look, code, facts(), "no KVM module for this processor is loaded or built in".to_owned())
        }
        (Err(error), _) | (_, Err(error)) => StateVerdict::unknown(code, Subject::Node, error.as_str()),
    }
}

fn judge_nested(look: &KvmLook) -> StateVerdict {
    let code = FindingCode::KvmNestedDisabled;
    let modules = match &look.modules {
        Ok(modules) => modules,
        Err(error) => return StateVerdict::unknown(code, Subject::Node, error.as_str()),
    };
    let nested = modules.iter().find_map(|module| Some((&module.name, module.is_nested_enabled?)));
    match nested {
        Some((_, true)) => StateVerdict::seen(code, Subject::Node, false),
        Some((name, false)) => {
            present(look, code, Attributes::new(), format!("parameter nested of module {name} is off"))
        }
        // No module, or one without such a switch (`kvm_pvm`): then it is not switched off.
        None => StateVerdict::seen(code, Subject::Node, false),
    }
}

fn present(look: &KvmLook, code: FindingCode, attributes: Attributes, text: String) -> StateVerdict {
    let source = if code == FindingCode::KvmModuleNotLoaded { "procfs" } else { SOURCE };
    let mut evidence = vec![Evidence::new(source, look.at, text)];
    if code == FindingCode::KvmDeviceMissing {
        evidence.extend(why_no_device(look).map(|text| Evidence::new("procfs", look.at, text)));
    }
    StateVerdict { attributes, evidence, ..StateVerdict::seen(code, Subject::Node, true) }
}

/// What the machine shows about why the node is missing, if it shows anything.
fn why_no_device(look: &KvmLook) -> Option<String> {
    let modules = look.modules.as_ref().ok()?;
    if *look.is_registered.as_ref().ok()? {
        return Some("the kernel has a KVM driver (/proc/misc), only the device node is missing".to_owned());
    }
    match look.cpu {
        Ok(CpuVirtualization { has_vmx: false, has_svm: false, has_hypervisor }) => Some(format!(
            "the processor shows neither vmx nor svm{}",
            if has_hypervisor { ": this is a virtual machine without nested virtualization" } else { "" }
        )),
        Ok(_) | Err(_) if modules.iter().all(|module| module.name == "kvm") => {
            Some("no KVM module for this processor is loaded".to_owned())
        }
        Ok(_) | Err(_) => None,
    }
}

fn facts() -> Attributes {
    Attributes::new().with(attribute::PATH, PATH)
}

fn with_errno(attributes: Attributes, error: OsError) -> Attributes {
    attributes.with(attribute::ERRNO, errno_name(error.errno))
}

/// The symbolic name of the errors that KVM and `open` give, else the number.
fn errno_name(errno: i32) -> String {
    const NAMES: [(i32, &str); 12] = [
        (1, "EPERM"),
        (2, "ENOENT"),
        (6, "ENXIO"),
        (11, "EAGAIN"),
        (12, "ENOMEM"),
        (13, "EACCES"),
        (16, "EBUSY"),
        (19, "ENODEV"),
        (22, "EINVAL"),
        (24, "EMFILE"),
        (25, "ENOTTY"),
        (95, "EOPNOTSUPP"),
    ];
    NAMES.iter().find(|(number, _)| *number == errno).map_or_else(|| errno.to_string(), |(_, name)| (*name).to_owned())
}

fn kind_in_words(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::CharacterDevice(_) => "a character device",
        NodeKind::RegularFile => "a regular file",
        NodeKind::Other => "something else",
    }
}

#[cfg(test)]
mod tests {
    use kulprit_host::mount::DeviceNumber;
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;

    /// As the most common host: root:kvm 0660, everything works.
    fn well() -> KvmLook {
        let kind = NodeKind::CharacterDevice(DeviceNumber { major: 10, minor: 232 });
        let module =
            |name: &str, nested| KvmModule { name: name.to_owned(), is_built_in: false, is_nested_enabled: nested };
        KvmLook {
            at: Moment::default(),
            node: Ok(Some(KvmNode { kind, mode: 0o660, uid: 0, gid: 107 })),
            calls: Some(KvmCalls { open: Ok(()), api_version: Some(Ok(12)), create_vm: Some(Ok(())) }),
            modules: Ok(vec![module("kvm", None), module("kvm_intel", Some(true))]),
            is_registered: Ok(true),
            cpu: Ok(CpuVirtualization { has_vmx: true, has_svm: false, has_hypervisor: false }),
        }
    }

    /// Missing, inaccessible, unusable, module not loaded, nested disabled.
    #[track_caller]
    fn check(look: &KvmLook, want: [Status; 5]) -> Vec<StateVerdict> {
        let verdicts: Vec<StateVerdict> = judge(look)
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::State(state) => state,
                Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
            })
            .collect();
        assert_eq!(verdicts.iter().map(|verdict| verdict.status).collect::<Vec<_>>(), want, "{verdicts:#?}");
        let probes: Vec<_> = kulprit_model::catalogue::CATALOGUE
            .iter()
            .filter(|spec| spec.probe == "kvm")
            .map(|spec| spec.code)
            .collect();
        assert_eq!(verdicts.iter().map(|verdict| verdict.code).collect::<Vec<_>>(), probes, "every state is answered");
        verdicts
    }

    fn node(mode: u32) -> Result<Option<KvmNode>, String> {
        Ok(well().node.unwrap().map(|node| KvmNode { mode, ..node }))
    }

    fn failed_open(errno: i32) -> Option<KvmCalls> {
        Some(KvmCalls { open: Err(OsError { errno }), api_version: None, create_vm: None })
    }

    #[test]
    fn a_working_device_is_well() {
        check(&well(), [Absent; 5]);
    }

    #[test]
    fn no_node_is_missing_and_the_rest_unknown() {
        let look = KvmLook { node: Ok(None), calls: None, ..well() };
        let verdicts = check(&look, [Present, Absent, Unknown, Absent, Absent]);
        assert!(verdicts[0].evidence[1].text.contains("only the device node is missing"));
    }

    #[test]
    fn a_missing_driver_and_a_processor_without_it_are_told() {
        let cpu = Ok(CpuVirtualization { has_vmx: false, has_svm: false, has_hypervisor: true });
        let look =
            KvmLook { node: Ok(None), calls: None, modules: Ok(vec![]), is_registered: Ok(false), cpu, ..well() };
        let verdicts = check(&look, [Present, Absent, Unknown, Present, Absent]);
        assert!(verdicts[0].evidence[1].text.contains("without nested virtualization"));
    }

    #[test]
    fn a_plain_file_in_its_place_is_missing() {
        let file = KvmNode { kind: NodeKind::RegularFile, mode: 0o644, uid: 0, gid: 0 };
        check(&KvmLook { node: Ok(Some(file)), calls: None, ..well() }, [Present, Absent, Unknown, Absent, Absent]);
    }

    #[test]
    fn a_mode_that_lets_nobody_in_counts_though_root_gets_in() {
        for mode in [0o000, 0o444, 0o222, 0o420] {
            check(&KvmLook { node: node(mode), ..well() }, [Absent, Present, Absent, Absent, Absent]);
        }
        for mode in [0o600, 0o660, 0o666, 0o060, 0o006] {
            check(&KvmLook { node: node(mode), ..well() }, [Absent; 5]);
        }
    }

    #[test]
    fn a_refused_open_names_the_error() {
        for (errno, name) in [(13, "EACCES"), (6, "ENXIO"), (71, "71")] {
            let verdicts =
                check(&KvmLook { calls: failed_open(errno), ..well() }, [Absent, Present, Unknown, Absent, Absent]);
            assert_eq!(verdicts[1].attributes.get(attribute::ERRNO), Some(name));
            assert_eq!(verdicts[1].attributes.get(attribute::MODE), Some("0660"));
        }
    }

    #[test]
    fn what_only_the_agents_container_may_not_open_is_unknown_and_its_mode_is_seen_all_the_same() {
        check(&KvmLook { calls: failed_open(EPERM), ..well() }, [Absent, Unknown, Unknown, Absent, Absent]);
        let look = KvmLook { node: node(0o000), calls: failed_open(EPERM), ..well() };
        let verdicts = check(&look, [Absent, Present, Unknown, Absent, Absent]);
        assert_eq!(verdicts[1].attributes.get(attribute::ERRNO), Some("EPERM"));
    }

    #[test]
    fn a_device_that_makes_no_machine_is_unusable() {
        let calls = KvmCalls { open: Ok(()), api_version: Some(Ok(12)), create_vm: Some(Err(OsError { errno: 16 })) };
        let verdicts = check(&KvmLook { calls: Some(calls), ..well() }, [Absent, Absent, Present, Absent, Absent]);
        assert_eq!(verdicts[2].attributes.get(attribute::ERRNO), Some("EBUSY"));
        for (version, want) in [(11, Present), (12, Absent), (13, Present)] {
            let calls = KvmCalls { open: Ok(()), api_version: Some(Ok(version)), create_vm: Some(Ok(())) };
            check(&KvmLook { calls: Some(calls), ..well() }, [Absent, Absent, want, Absent, Absent]);
        }
        let calls = KvmCalls { open: Ok(()), api_version: Some(Err(OsError { errno: 25 })), create_vm: None };
        check(&KvmLook { calls: Some(calls), ..well() }, [Absent, Absent, Present, Absent, Absent]);
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let no = || "`/proc/misc` does not exist".to_owned();
        let look = KvmLook {
            node: Err(no()),
            calls: None,
            modules: Err(no()),
            is_registered: Err(no()),
            cpu: Err(no()),
            ..well()
        };
        let verdicts = check(&look, [Unknown; 5]);
        assert!(
            verdicts.iter().all(|verdict| verdict.unknown_because.as_deref() == Some("`/proc/misc` does not exist"))
        );
    }

    #[test]
    fn nested_off_is_a_notice() {
        let modules = vec![KvmModule { name: "kvm_amd".to_owned(), is_built_in: true, is_nested_enabled: Some(false) }];
        check(&KvmLook { modules: Ok(modules), ..well() }, [Absent, Absent, Absent, Absent, Present]);
    }
}
