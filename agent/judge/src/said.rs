//! What a line of a log says: [`FindingCode::ErrorSaid`], of whom, and what of it weighs nothing.
//!
//! The same for a line that is written now and for one of a recorded case. The signatures know what a text says
//! (`kulprit-signature`); here stands what only the log it is in tells: who speaks, whose pod or VM it is about, and which
//! texts are no more than the chatter of that program. What stands in many lines is kept together by [`Statements`].

mod hearing;
mod statements;

use kulprit_host::log::Line;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute, said as said_model};
use kulprit_signature::{Peeled, Text};

use crate::verdict::OccurrenceVerdict;

pub use hearing::{Hearing, Told};
pub use kulprit_signature::{Signatures, Speaker};
pub use statements::Statements;

/// Whose log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSource {
    /// The kernel's: lines that do not say who wrote them are the kernel's. [`crate::kernel_log`] judges them.
    Kernel,
    /// A unit's journal, or, with an empty name, several units' together: each line's identifier tells whose it is.
    Unit(String),
    /// A container's.
    Pod {
        /// Who speaks there.
        speaker: Speaker,
        /// Namespace.
        namespace: String,
        /// Pod.
        pod: String,
        /// Container.
        container: String,
    },
    /// A libvirt daemon's; the launcher pod it is of, if the file tells.
    Libvirt {
        /// Name of the pod, or of the domain.
        of: Option<String>,
    },
    /// QEMU's of a domain.
    Qemu {
        /// `<namespace>_<name>`.
        domain: String,
    },
    /// The output of a command.
    Command(String),
}

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing of a failure that is known.
    Nothing,
    /// What looks like a failure and weighs nothing.
    Harmless,
    /// That something failed: an `ErrorSaid` of the node, with what text and log tell of its pod or VM.
    Error(OccurrenceVerdict),
}

/// Judges a line of a log that is not the kernel's. `is_dated`: whether `at` is when it was written.
#[must_use]
pub fn hear(signatures: &Signatures, source: &LogSource, line: &Line<'_>, at: Moment, is_dated: bool) -> Heard {
    // libvirt writes the command that it runs above what QEMU says: a name in it is no statement.
    if matches!(source, LogSource::Qemu { .. }) && line.text.trim_end().ends_with('\\') {
        return Heard::Harmless;
    }

    let speaker = speaker_of(source, line);
    match signatures.peel(&Text { speaker, reason: None, text: &line.text }) {
        Peeled::Nothing => Heard::Nothing,
        Peeled::Healthy => Heard::Harmless,
        // KubeVirt reports each step of normal life at level info, "Domain does not exist" before a start for one: there
        // only texts that are known to mean something do.
        Peeled::Said(attributes) if is_chatter(speaker, line) && attributes.get(attribute::SIGNATURE).is_none() => {
            Heard::Harmless
        }
        // What stands on a guest's console is the guest's, however much it looks like a host's trouble.
        Peeled::Said(attributes)
            if is_console(source) && attributes.get(attribute::ACTOR) != Some(said_model::actor::GUEST) =>
        {
            Heard::Harmless
        }
        Peeled::Said(attributes) => {
            let attributes = place(attributes, source, line);
            let attributes = if is_dated { attributes } else { attributes.with(attribute::UNDATED, true) };
            let evidence = vec![Evidence::new(&source_name(source, line), at, line.text.trim())];
            let (code, subject) = (FindingCode::ErrorSaid, Subject::Node);
            Heard::Error(OccurrenceVerdict { code, subject, at, count: 1, attributes, evidence })
        }
    }
}

/// KubeVirt's container that prints the guest's serial console: `pkg/virt-controller/services/serialconsolelog.go`.
fn is_console(source: &LogSource) -> bool {
    matches!(source, LogSource::Pod { container, .. } if container == "guest-console-log")
}

/// Adds what file and line tell of whom it is about.
fn place(attributes: Attributes, source: &LogSource, line: &Line<'_>) -> Attributes {
    let has = |key| attributes.get(key).is_some();
    let (has_vmi, has_pod) = (has(attribute::VMI), has(attribute::POD));
    let vmi = vm_of_line(line).or_else(|| match source {
        LogSource::Qemu { domain } => Some(vm_of_domain(domain)),
        _ => None,
    });
    let attributes = attributes.with_some(attribute::VMI, vmi.filter(|_| !has_vmi));
    match source {
        // What virt-handler or a driver says is about others; what stands in a launcher's log is about that launcher.
        LogSource::Pod {
            speaker: Speaker::Launcher | Speaker::LauncherSidecar | Speaker::Cdi,
            namespace,
            pod,
            container,
        } if !has_pod => {
            attributes.with(attribute::POD, format!("{namespace}/{pod}")).with(attribute::CONTAINER, container)
        }
        LogSource::Libvirt { of: Some(of) } if !has_pod && !of.is_empty() => match of.split_once('_') {
            Some(_) => attributes.with(attribute::VMI, vm_of_domain(of)),
            None => attributes.with(attribute::POD, of),
        },
        _ => attributes,
    }
}

fn speaker_of(source: &LogSource, line: &Line<'_>) -> Speaker {
    match source {
        LogSource::Kernel => Speaker::Host,
        LogSource::Unit(unit) => speaker_of_unit(line.ident.as_deref().unwrap_or(unit), unit),
        LogSource::Pod { speaker: Speaker::Launcher, .. } => match line.part.as_deref() {
            Some("libvirt") => Speaker::Libvirt,
            Some("qemu") => Speaker::Qemu,
            _ if line.text.starts_with("qemu-") => Speaker::Qemu,
            _ => Speaker::Launcher,
        },
        LogSource::Pod { speaker, .. } => *speaker,
        LogSource::Libvirt { .. } => Speaker::Libvirt,
        LogSource::Qemu { .. } => Speaker::Qemu,
        LogSource::Command(_) => line.ident.as_deref().map_or(Speaker::Other, |ident| speaker_of_unit(ident, "")),
    }
}

/// What evidence of this line is said to come from.
#[must_use]
pub fn source_name(source: &LogSource, line: &Line<'_>) -> String {
    match source {
        LogSource::Kernel => "kmsg".to_owned(),
        LogSource::Unit(unit) => line.ident.clone().unwrap_or_else(|| unit.clone()),
        LogSource::Pod { pod, container, .. } if container.is_empty() => pod.clone(),
        LogSource::Pod { pod, container, .. } => format!("{pod}/{container}"),
        LogSource::Libvirt { .. } => "libvirt".to_owned(),
        LogSource::Qemu { domain } => format!("qemu {domain}"),
        LogSource::Command(name) => name.clone(),
    }
}

fn is_chatter(speaker: Speaker, line: &Line<'_>) -> bool {
    let is_kubevirt = matches!(speaker, Speaker::Launcher | Speaker::Handler | Speaker::Controller | Speaker::Libvirt);
    is_kubevirt && line.priority.is_some_and(|priority| priority >= 5)
}

/// `namespace/name` of the VMI that a line of KubeVirt is about.
#[must_use]
pub fn vm_of_line(line: &Line<'_>) -> Option<String> {
    let about = &line.about;
    let is_vmi = about
        .kind
        .as_deref()
        .is_none_or(|kind| matches!(kind, "" | "VirtualMachineInstance" | "VirtualMachine" | "Domain"));
    let (namespace, name) = about.namespace.as_deref().zip(about.name.as_deref())?;
    is_vmi.then(|| format!("{namespace}/{name}"))
}

/// `namespace/name` of the VM whose launcher writes a log, by the pod's name: lines at level info often name nobody.
/// Source: KubeVirt `template.go`, generateName `virt-launcher-<name>-`, of which Kubernetes makes five letters more.
#[must_use]
pub fn vm_of_source(source: &LogSource) -> Option<String> {
    let LogSource::Pod { speaker: Speaker::Launcher, namespace, pod, .. } = source else { return None };
    let (name, _) = pod.strip_prefix("virt-launcher-")?.rsplit_once('-')?;
    (!name.is_empty() && !namespace.is_empty()).then(|| format!("{namespace}/{name}"))
}

/// `namespace/name` of a domain `namespace_name`; a namespace has no underscore.
#[must_use]
pub fn vm_of_domain(domain: &str) -> String {
    match domain.split_once('_') {
        Some((namespace, name)) => format!("{namespace}/{name}"),
        None => domain.to_owned(),
    }
}

/// Who speaks in the journal under an identifier, in the log of a unit.
#[must_use]
pub fn speaker_of_unit(ident: &str, unit: &str) -> Speaker {
    let of = |name: &str| {
        Some(match name.trim_end_matches(".service") {
            "kubelet" | "k3s" | "k3s-agent" | "rke2" | "rke2-agent" | "rke2-server" | "hyperkube" | "microk8s" => {
                Speaker::Kubelet
            }
            "containerd" | "crio" | "cri-o" | "dockerd" | "docker" | "conmon" | "runc" | "crun" | "cri-dockerd" => {
                Speaker::Runtime
            }
            "virtqemud" | "libvirtd" | "virtlogd" | "virtlockd" => Speaker::Libvirt,
            name if name.starts_with("qemu") => Speaker::Qemu,
            "" => return None,
            _ => Speaker::Host,
        })
    };
    of(ident).or_else(|| of(unit)).unwrap_or(Speaker::Host)
}

/// Who speaks in a pod's log, by the names that installations give.
#[must_use]
pub fn speaker_of_pod(pod: &str, container: &str) -> Speaker {
    let has = |words: &[&str]| words.iter().any(|word| pod.contains(word) || container.contains(word));
    if pod.starts_with("virt-launcher-") {
        return if container.is_empty() || container == "compute" {
            Speaker::Launcher
        } else {
            Speaker::LauncherSidecar
        };
    }
    if pod.starts_with("hp-volume-") {
        return Speaker::LauncherSidecar;
    }
    if has(&["virt-handler"]) {
        Speaker::Handler
    } else if has(&["virt-controller", "virt-api", "virt-operator"]) {
        Speaker::Controller
    } else if has(&["cdi-", "importer-", "cdi-upload"]) {
        Speaker::Cdi
    } else if has(&["kube-scheduler"]) {
        Speaker::Scheduler
    } else if has(&["kube-controller-manager"]) {
        Speaker::ControllerManager
    } else if has(&["kube-apiserver", "etcd"]) {
        Speaker::ApiServer
    } else if has(&[
        "calico",
        "cilium",
        "multus",
        "ovn",
        "flannel",
        "weave",
        "cni",
        "canal",
        "antrea",
        "kube-router",
        "whereabouts",
    ]) || container == "aws-node"
    {
        // The container's whole name: `aws-node-termination-handler` is no network.
        Speaker::Cni
    } else if has(&[
        "csi",
        "longhorn",
        "ceph",
        "rook",
        "linstor",
        "piraeus",
        "drbd",
        "nfs",
        "iscsi",
        "nvme",
        "openebs",
        "trident",
        "instance-manager",
        "provisioner",
        "storage",
        "mayastor",
        "portworx",
        "topolvm",
    ]) {
        Speaker::Csi
    } else {
        Speaker::Other
    }
}

#[cfg(test)]
mod tests;
