//! Kubernetes and KubeVirt objects shrunk to what a diagnosis uses, and the facts that stand in them. Pure.
//!
//! [`Cluster`] takes objects as the API server or `kubectl get -o yaml` gives them, whole or partial, and keeps a few fields of
//! each. [`Cluster::describe`] joins everything that belongs to one VM ([`ClusterVm`]): its objects, names and nodes, where it is
//! in its life, and findings, events peeled by `kulprit-signature` among them. [`Cluster::describe_nodes`] does it for nodes.
//!
//! Of migrations more is kept than their objects ([`MigrationHistory`]): those that KubeVirt has removed since, and how they ended.
//! [`Cluster::standing`] tells which marks of ours stand on nodes, [`Cluster::spoken`] which Events of ours there are: no evidence.
//!
//! Live, objects come, change and go ([`Cluster::set_live`], [`Cluster::remove`]): a change costs what its object says of others, and
//! [`Cluster::take_touched`] tells which VMs and nodes are to be described anew.

mod cluster;
mod describe;
mod described;
mod fact;
mod facts;
mod history;
mod index;
mod initiator;
mod joins;
mod kind;
mod life;
mod objects;
mod parts;
mod past;
mod preflight;
mod question;
mod shift;
mod spoken;
mod standing;
#[cfg(test)]
mod tests;
mod touched;
mod value;

pub use cluster::{Added, Cluster, NotAdded};
pub use described::{ClusterFinding, ClusterNode, ClusterVm, Life, MigrationCounts, MigrationLife, PodRef};
pub use history::{GONE, MigrationChanges, MigrationHistory, MigrationOutcome, MigrationRecord, RecordKey, Watched};
pub use initiator::Initiator;
pub use kind::Kind;
pub use parts::Asked;
pub use preflight::{Check, MigrationTerms, NodeFit, Preflight};
pub use spoken::{SPEAKER, Spoken, TOPIC, VmObjects};
pub use standing::{FIELD_MANAGER, StandingCondition, StandingNode, StandingTaint};
pub use touched::Touched;
