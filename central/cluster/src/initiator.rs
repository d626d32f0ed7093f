//! Who asks for migrations, as the objects tell.
//!
//! Source: KubeVirt `pkg/virt-controller/watch/{drain/evacuation,workload-updater,migration}`; `spec.priority` is told since v1.7.

use std::{fmt, str::FromStr};

use crate::objects::{Migration, Vmi};

/// Who asked for a migration. The later of two marks that one migration carries tells more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Initiator {
    /// A user, or a program of his.
    User,
    /// A drain or an eviction: the VM was to leave its node.
    Evacuation,
    /// The descheduler, by an eviction.
    Descheduler,
    /// KubeVirt, to bring the VM to its own version or to what its specification says now.
    WorkloadUpdate,
    /// KubeVirt, because CPUs, memory or volumes of the running VM were changed.
    HotPlug,
}

impl Initiator {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::User, Self::Evacuation, Self::Descheduler, Self::WorkloadUpdate, Self::HotPlug];

    /// The word in attributes and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Evacuation => "evacuation",
            Self::Descheduler => "descheduler",
            Self::WorkloadUpdate => "workload-update",
            Self::HotPlug => "hot-plug",
        }
    }

    /// By the marks of a migration's own object.
    pub(crate) fn of(migration: &Migration) -> Self {
        let meta = &migration.meta;
        let names = [Some(&meta.name), meta.generate_name.as_ref()];
        let by_name = names.into_iter().flatten().map(|name| Self::of_name(name)).max().unwrap_or(Self::User);
        if meta.annotation("kubevirt.io/workloadUpdateMigration").is_some() || by_name == Self::WorkloadUpdate {
            Self::WorkloadUpdate
        } else if meta.annotation("kubevirt.io/evacuationMigration").is_some() || by_name == Self::Evacuation {
            let is_deschedulers = meta.annotation("kubevirt.io/eviction-source") == Some("descheduler")
                || migration.priority.as_deref() == Some("system-maintenance");
            if is_deschedulers { Self::Descheduler } else { Self::Evacuation }
        } else {
            Self::User
        }
    }

    /// Of a migration of which only the name is known.
    pub(crate) fn of_name(name: &str) -> Self {
        if name.starts_with("kubevirt-workload-update-") {
            Self::WorkloadUpdate
        } else if name.starts_with("kubevirt-evacuation-") {
            Self::Evacuation
        } else {
            Self::User
        }
    }

    /// With what the VMI tells while the migration is under way: who evicts it, what of it was changed.
    pub(crate) fn told_by(self, vmi: Option<&Vmi>) -> Self {
        let Some(vmi) = vmi else { return self };
        let is_changed = ["HotVCPUChange", "HotMemoryChange", "VolumesChange"];
        match self {
            Self::Evacuation if vmi.meta.annotation("kubevirt.io/eviction-source") == Some("descheduler") => {
                Self::Descheduler
            }
            Self::WorkloadUpdate if is_changed.into_iter().any(|name| vmi.conditions.is_true(name)) => Self::HotPlug,
            Self::User | Self::Evacuation | Self::Descheduler | Self::WorkloadUpdate | Self::HotPlug => self,
        }
    }
}

impl fmt::Display for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no initiator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nobody who asks for migrations")]
pub struct UnknownInitiator(String);

impl FromStr for Initiator {
    type Err = UnknownInitiator;

    fn from_str(word: &str) -> Result<Self, UnknownInitiator> {
        Self::ALL.into_iter().find(|one| one.as_str() == word).ok_or_else(|| UnknownInitiator(word.to_owned()))
    }
}
