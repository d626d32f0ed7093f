//! Where a thing sits relative to the VM in trouble: on its host, on either end of a migration, between them, or not on a host.
//!
//! Source, target and path of a migration are judged apart: a fault on the target is what kills most migrations while every
//! event is on the source's object.

use std::{fmt, str::FromStr};

/// A place relative to a VM; also the role of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The node that hosts the VM, or on which it is to start.
    Hosting,
    /// The node that a migration leaves.
    Source,
    /// The node that a migration goes to.
    Target,
    /// Between source and target.
    Path,
    /// Shared by several nodes: a storage backend, a registry, a network.
    Shared,
    /// Kubernetes, KubeVirt's control plane, the configuration, the user or the guest: not a host.
    Cluster,
}

impl Side {
    /// The word used everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hosting => "hosting",
            Self::Source => "source",
            Self::Target => "target",
            Self::Path => "path",
            Self::Shared => "shared",
            Self::Cluster => "cluster",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text is no side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a side (expected hosting, source, target, path, shared or cluster)")]
pub struct UnknownSide(String);

impl FromStr for Side {
    type Err = UnknownSide;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Hosting, Self::Source, Self::Target, Self::Path, Self::Shared, Self::Cluster]
            .into_iter()
            .find(|side| side.as_str() == text)
            .ok_or_else(|| UnknownSide(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_reads_back_as_itself() {
        for side in [Side::Hosting, Side::Source, Side::Target, Side::Path, Side::Shared, Side::Cluster] {
            assert_eq!(side.to_string().parse(), Ok(side));
        }
        assert!("left".parse::<Side>().unwrap_err().to_string().contains("`left`"));
    }
}
