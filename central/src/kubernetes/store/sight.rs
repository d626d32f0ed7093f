//! What can be seen of one row, and what has to wait for it.
//!
//! VMs are described once everything is listed that they need; nodes need nothing of KubeVirt's own kinds, which are served through conversion and
//! may fail alone.

use kulprit_cluster::Kind;

use crate::kubernetes::kinds::ROWS;

/// An outage is said of VMs after so long: a watch that comes back within it missed nothing that a person would ask about.
const SAID_AFTER_USEC: i64 = 5_000_000;
/// A kind that VMs can be described without is waited for so long while its list fails. Microseconds.
const WAITED_FOR_USEC: i64 = 30_000_000;

/// What is known of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RowSight {
    /// Not listed yet; since when trying has failed, Unix time in microseconds, and why.
    Coming(Option<i64>, String),
    /// All its objects are as they are here.
    Seen,
    /// They were, until that moment; Unix time in microseconds.
    Lost(i64, String),
    /// The API server does not allow to see them, and why.
    Refused(String),
    /// There is no such kind.
    NotServed,
}

impl RowSight {
    /// Whether VMs cannot be described before the row of this name is listed. Configuration and what fills volumes is only waited for: of a kind
    /// that cannot be listed, as where its conversion is broken, nothing is said, as of one that may not be seen.
    pub(super) fn is_waited_for(&self, name: &str, now_usec: i64) -> bool {
        let Self::Coming(since_usec, _) = self else { return false };
        let is_secondary = |kind: Kind| matches!(kind, Kind::KubeVirt | Kind::MigrationPolicy | Kind::DataVolume);
        let may_lack = ROWS.iter().any(|row| row.name == name && is_secondary(row.kind));
        let has_failed_for = |since: i64| now_usec.saturating_sub(since) >= WAITED_FOR_USEC;
        !(may_lack && since_usec.is_some_and(has_failed_for))
    }

    /// Its word in metrics.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Coming(..) => "coming",
            Self::Seen => "seen",
            Self::Lost(..) => "lost",
            Self::Refused(_) => "refused",
            Self::NotServed => "not_served",
        }
    }

    /// What of the row of this name cannot be seen, one sentence; `None`: nothing, or since a moment only.
    pub(super) fn unseen(&self, name: &str, now_usec: i64) -> Option<String> {
        match self {
            Self::Seen | Self::NotServed => None,
            Self::Coming(_, why) => {
                let why = if why.is_empty() { String::new() } else { format!(": {why}") };
                Some(format!("Kubernetes: {name}: not listed yet since central started{why}"))
            }
            Self::Lost(since_usec, why) => {
                let age_usec = now_usec.saturating_sub(*since_usec);
                let secs = age_usec / 1_000_000;
                (age_usec >= SAID_AFTER_USEC).then(|| format!("Kubernetes: {name}: not seen for {secs} s: {why}"))
            }
            Self::Refused(why) => Some(format!("Kubernetes: {name}: not allowed to be seen: {why}")),
        }
    }
}

/// Whether nodes are described with objects of this kind.
pub(super) fn is_of_nodes(kind: Kind) -> bool {
    kind.is_described() && !kind.group().ends_with("kubevirt.io")
}
