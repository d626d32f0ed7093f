//! Claims, volumes, attachments, drivers, DataVolumes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Conditions, Meta, Terms};
use crate::value;

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Claim {
    pub(crate) meta: Meta,
    pub(crate) phase: Option<String>,
    pub(crate) volume: Option<String>,
    pub(crate) access_modes: Vec<String>,
    pub(crate) conditions: Conditions,
}

impl Claim {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let modes = value::texts(object, &["status", "accessModes"]);
        Some(Self {
            meta: Meta::read(object)?,
            phase: value::text(object, &["status", "phase"]),
            volume: value::text(object, &["spec", "volumeName"]),
            access_modes: if modes.is_empty() { value::texts(object, &["spec", "accessModes"]) } else { modes },
            conditions: Conditions::read(object),
        })
    }
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Volume {
    pub(crate) meta: Meta,
    /// `namespace`, `name` of its claim.
    pub(crate) claim: Option<(String, String)>,
    pub(crate) driver: Option<String>,
    pub(crate) handle: Option<String>,
    pub(crate) access_modes: Vec<String>,
    pub(crate) phase: Option<String>,
    pub(crate) message: Option<String>,
    /// Nodes that can reach it; `None`: every node.
    pub(crate) reach: Option<Terms>,
}

impl Volume {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let spec = value::at(object, &["spec"]);
        let claim = value::at(spec, &["claimRef"]);
        Some(Self {
            meta: Meta::read(object)?,
            claim: value::text(claim, &["name"])
                .map(|name| (value::text(claim, &["namespace"]).unwrap_or_default(), name)),
            driver: value::text(spec, &["csi", "driver"]),
            handle: value::text(spec, &["csi", "volumeHandle"]),
            access_modes: value::texts(spec, &["accessModes"]),
            phase: value::text(object, &["status", "phase"]),
            message: value::text(object, &["status", "message"]),
            reach: Terms::read(value::at(spec, &["nodeAffinity", "required"])),
        })
    }
}

/// A VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attachment {
    pub(crate) meta: Meta,
    pub(crate) node: Option<String>,
    pub(crate) volume: Option<String>,
    pub(crate) is_attached: Option<bool>,
    /// Message and time of the attacher's error.
    pub(crate) attach_error: Option<(String, Option<i64>)>,
    pub(crate) detach_error: Option<(String, Option<i64>)>,
}

impl Attachment {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let (spec, status) = (value::at(object, &["spec"]), value::at(object, &["status"]));
        let error = |key: &str| {
            let message = value::text(status, &[key, "message"])?;
            Some((message, value::time(status, &[key, "time"])))
        };
        Some(Self {
            meta: Meta::read(object)?,
            node: value::text(spec, &["nodeName"]),
            volume: value::text(spec, &["source", "persistentVolumeName"]),
            is_attached: value::boolean(status, &["attached"]),
            attach_error: error("attachError"),
            detach_error: error("detachError"),
        })
    }
}

/// A CSINode: the drivers that registered with a node's kubelet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CsiNode {
    pub(crate) meta: Meta,
    pub(crate) drivers: Vec<String>,
    /// How many volumes each driver can have there, of drivers that tell.
    pub(crate) limits: BTreeMap<String, i64>,
}

impl CsiNode {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let listed = || value::list(object, &["spec", "drivers"]).iter();
        let drivers = listed().filter_map(|driver| value::text(driver, &["name"]));
        let limits = listed().filter_map(|driver| {
            Some((value::text(driver, &["name"])?, value::integer(driver, &["allocatable", "count"])?))
        });
        Some(Self { meta: Meta::read(object)?, drivers: drivers.collect(), limits: limits.collect() })
    }
}

/// A DataVolume.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DataVolume {
    pub(crate) meta: Meta,
    pub(crate) phase: Option<String>,
    pub(crate) conditions: Conditions,
    pub(crate) n_restarts: i64,
    pub(crate) progress: Option<String>,
}

impl DataVolume {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        Some(Self {
            meta: Meta::read(object)?,
            phase: value::text(object, &["status", "phase"]),
            conditions: Conditions::read(object),
            n_restarts: value::integer(object, &["status", "restartCount"]).unwrap_or(0),
            progress: value::text(object, &["status", "progress"]),
        })
    }
}
