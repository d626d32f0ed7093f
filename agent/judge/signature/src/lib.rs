//! Peels error texts: who failed, doing what, how, to what, and on which side. Pure.
//!
//! Real errors are nested (`rpc error: code = Internal desc = MountVolume.MountDevice failed …: mount.nfs: Connection timed out`).
//! One parser peels them; known texts only sharpen what it finds. Used for logs (by what reads the host) and for events and
//! conditions (by what watches Kubernetes), so it is a crate of its own: neither side may see the other's
//! (docs/adr/0008-peeling-is-a-crate.md).
//!
//! Order of the files: [`table`] the known texts, `healthy` what weighs nothing, `words` for all other texts, `reasons` of
//! events, `layers` takes decoration off, `peel` decides, `mentions` finds names, `candidate` sorts lines out fast.

mod candidate;
mod healthy;
mod layers;
mod mentions;
mod peel;
mod reasons;
pub mod table;
mod words;

use std::sync::LazyLock;

use kulprit_model::Attributes;
pub use table::SIGNATURES;

/// Who wrote a text: the program whose log, event or condition it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The kubelet: its journal, or its events.
    Kubelet,
    /// containerd, CRI-O, Docker.
    Runtime,
    /// virt-launcher's compute container: launcher, monitor, libvirt and QEMU together.
    Launcher,
    /// Another container of a launcher pod.
    LauncherSidecar,
    /// virt-handler.
    Handler,
    /// virt-controller, virt-api, virt-operator.
    Controller,
    /// A log of libvirt itself.
    Libvirt,
    /// A log of QEMU itself.
    Qemu,
    /// A CSI driver, a storage system's daemon.
    Csi,
    /// A CNI plugin's daemon.
    Cni,
    /// CDI's controller or its importer pods.
    Cdi,
    /// kube-scheduler.
    Scheduler,
    /// kube-controller-manager with its attach-detach controller.
    ControllerManager,
    /// kube-apiserver, admission webhooks.
    ApiServer,
    /// Another unit of the host (iscsid, multipathd …).
    Host,
    /// Not known.
    Other,
}

/// One text and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Who wrote it.
    pub speaker: Speaker,
    /// Kubernetes' reason beside it (of an event or a condition), if any.
    pub reason: Option<&'a str>,
    /// The text itself, one line, without its stamp and level. JSON and klog decoration may still be around it.
    pub text: &'a str,
}

/// What a text is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peeled {
    /// Says nothing of a failure.
    Nothing,
    /// Looks like a failure, and healthy systems print it too: weighs nothing.
    Healthy,
    /// Something failed. The attributes are `actor`, `operation`, `class`, and where the text tells: `signature`, `object`,
    /// `side`, `pod`, `pod_uid`, `container`, `volume`, `vmi`, `image`, `other_node`, `device_name`, `backend`, `server`.
    Said(Attributes),
}

/// The table, compiled: once per process, whoever asks, because that takes milliseconds. What takes texts apart is compiled when
/// the first candidate comes: it is half a megabyte.
#[derive(Clone, Copy, Debug)]
pub struct Signatures {
    candidate: &'static candidate::Candidate,
    peeler: &'static LazyLock<peel::Peeler>,
}

static CANDIDATE: LazyLock<candidate::Candidate> = LazyLock::new(candidate::Candidate::new);
static PEELER: LazyLock<peel::Peeler> = LazyLock::new(peel::Peeler::new);

/// One of these literals is in every text without a reason beside it that is more than [`Peeled::Nothing`]: for who searches
/// logs for more than failures, and wants to look at each byte only once.
pub fn literals() -> impl Iterator<Item = &'static str> {
    candidate::literals()
}

impl Default for Signatures {
    fn default() -> Self {
        Self::new()
    }
}

impl Signatures {
    /// The table; the first call compiles the search for candidates.
    #[must_use]
    pub fn new() -> Self {
        Self { candidate: &CANDIDATE, peeler: &PEELER }
    }

    /// Whether a line may be more than [`Peeled::Nothing`]: one pass of a multi-literal search, for logs. Never false for a line
    /// that [`Signatures::peel`] would take.
    #[must_use]
    pub fn is_candidate(&self, line: &[u8]) -> bool {
        self.candidate.is_match(line)
    }

    /// An offset inside the first of several lines that may be more than [`Peeled::Nothing`]; each byte is looked at once.
    #[must_use]
    pub fn find_candidate(&self, lines: &[u8]) -> Option<usize> {
        self.candidate.find(lines)
    }

    /// Peels one text.
    #[must_use]
    pub fn peel(&self, text: &Text<'_>) -> Peeled {
        if text.reason.is_none() && !self.is_candidate(text.text.as_bytes()) {
            return Peeled::Nothing;
        }
        self.peeler.peel(text)
    }
}

#[cfg(test)]
mod tests;
