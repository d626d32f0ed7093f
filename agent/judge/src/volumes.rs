//! Whether the storage under VMs answers, has its paths, and is the one that QEMU opened.
//!
//! Nothing here asks the storage: verdicts come from what the kernel remembers (requests sent and answered, session states,
//! what stands on what), from look to look. Where that is not clear, [`MountVerdict::is_to_be_asked`] asks for a look that may
//! hang, which the probe makes in a child process. A backend is told with its kind, server and export also when it is well, so
//! that two nodes can be seen to share it.

mod device;
mod fibre_channel;
mod mount;
mod session;

use std::collections::BTreeMap;

use kulprit_host::volume::Layer;
use kulprit_model::{Attributes, attribute};

pub use device::{
    OpenDevice, StallHistory, VolumeDisk, judge_claims, judge_drbd_devices, judge_layer_paths, judge_recorded_paths,
    judge_stale, judge_stalls,
};
pub use fibre_channel::{FcHistory, judge_fc_luns};
pub use mount::{Asked, MountHistory, MountSeen, MountVerdict, judge_mount, remote_backend};
pub use session::{CephHistory, RbdSeen, judge_iscsi_sessions, judge_nvme_controllers, judge_rbd_images};

/// An answer is late after this, microseconds: the catalogue's threshold.
const NO_ANSWER_USEC: i64 = 5_000_000;

/// Which storage a thing comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// One of the words of [`attribute::BACKEND`].
    pub kind: Option<&'static str>,
    /// Server, portal, or the cluster's id.
    pub server: Option<String>,
    /// What the server gives out.
    pub export: Option<String>,
}

impl Backend {
    /// Its identity as facts.
    #[must_use]
    pub fn facts(&self) -> Attributes {
        Attributes::new()
            .with_some(attribute::BACKEND, self.kind)
            .with_some(attribute::SERVER, self.server.as_deref())
            .with_some(attribute::EXPORT, self.export.as_deref())
    }

    fn words(&self) -> String {
        let parts = [self.kind, self.export.as_deref(), self.server.as_deref().map(|_| "at"), self.server.as_deref()];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// The kind of backend that a disk's own name, session or transport shows; `None` for a local disk.
#[must_use]
pub fn backend_of_layer(layer: &Layer) -> Option<&'static str> {
    let has_number = |prefix: &str| {
        layer
            .name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.bytes().next().is_some_and(|byte| byte.is_ascii_digit()))
    };
    match () {
        () if has_number("rbd") => Some("ceph"),
        () if has_number("drbd") => Some("drbd"),
        () if has_number("nbd") => Some("nbd"),
        () if layer.session.is_some() => Some("iscsi"),
        () if layer.remote_port.is_some() => Some("fc"),
        () => None,
    }
}

/// The kinds of target whose name tells who made it; others are plain iSCSI.
fn backend_of_target(target: &str) -> &'static str {
    if target.contains("io.longhorn") { "longhorn" } else { "iscsi" }
}

/// The device on the top of the stack that `name` is in; `name` itself where nothing known stands on it.
fn top_of<'a>(layers: &'a BTreeMap<String, Layer>, name: &'a str) -> &'a str {
    let mut top = name;
    // A stack is no ring; the limit is for what a recorded tree may hold.
    for _ in 0..layers.len() {
        match layers.values().find(|layer| layer.below.iter().any(|below| below == top)) {
            Some(above) => top = &above.name,
            None => break,
        }
    }
    top
}

/// `name` and everything below it.
fn stack_of<'a>(layers: &'a BTreeMap<String, Layer>, name: &str) -> Vec<&'a Layer> {
    let mut stack: Vec<&Layer> = layers.get(name).into_iter().collect();
    let mut next = 0;
    while let Some(layer) = stack.get(next) {
        next += 1;
        for below in &layer.below {
            if let Some(below) = layers.get(below).filter(|below| !stack.iter().any(|known| known.name == below.name)) {
                stack.push(below);
            }
        }
    }
    stack
}

#[cfg(test)]
mod tests;
