//! What a probe hands to the tracker after each look: the border between *when to look* and *what is remembered*.

use kulprit_judge::Verdict;
use kulprit_model::{Domain, Moment, Qemu, Subject};

/// The result of one look of one probe. Sent over a bounded channel; when it is full the probe waits.
#[derive(Clone, Debug)]
pub struct Look {
    /// Name of the probe, as in the probe table and the catalogue's `probe` column.
    pub probe: &'static str,
    /// When the look ended.
    pub at: Moment,
    /// How long it took, microseconds.
    pub took_usec: u64,
    /// Why the probe could not look at all: every state it owns becomes `Unknown` with this reason. `None`: it looked.
    pub blind_because: Option<String>,
    /// What it saw. A look by event may speak of one subject only; states not mentioned stay as they are.
    pub verdicts: Vec<Verdict>,
    /// The VMs it saw.
    pub sightings: Vec<Sighting>,
    /// Occurrences up to here are handed over: the tracker keeps it together with them (kernel-log position).
    pub position: Option<String>,
}

/// What a look says about the VMs of the node.
#[derive(Clone, Debug)]
pub enum Sighting {
    /// libvirt has this domain.
    Domain(Domain),
    /// procfs shows this QEMU.
    Qemu(Qemu),
    /// A VM (undefined in libvirt), a process (a QEMU that ended), a unit, device, mount or daemon exists no more.
    Gone(Subject),
}
