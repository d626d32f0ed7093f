//! Whether a VM could migrate now, and to which nodes, as far as Kubernetes' objects tell: what `kulprit can-migrate` is made of.
//!
//! What KubeVirt itself has decided is taken at its word (the condition LiveMigratable); where it has not decided yet, the scheduler's
//! own questions are asked of each node for the launcher pod that runs now, because the target's is made like it. What cannot be
//! decided from what is watched is said, never guessed. Source: KubeVirt `pkg/virt-controller/watch/migration`,
//! `pkg/virt-handler/migration.go`; Kubernetes `pkg/scheduler/framework/plugins`.

mod node;
mod pods;
mod terms;
mod vm;

use crate::{
    cluster::Cluster,
    parts::{Asked, Parts},
};

/// What Kubernetes' objects say of a migration that nobody has asked for yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preflight {
    /// Node that it would leave.
    pub source: Option<String>,
    /// What is in the way of every migration of this VM.
    pub blockers: Vec<Check>,
    /// What may be in the way, or makes it wait.
    pub warnings: Vec<Check>,
    /// What would have to be known and is not, one sentence each.
    pub unknown: Vec<String>,
    /// What is worth knowing beforehand and in nobody's way, one sentence each.
    pub notes: Vec<String>,
    /// Under which limits it would run.
    pub terms: MigrationTerms,
    /// Every node but the source, sorted by name.
    pub nodes: Vec<NodeFit>,
}

/// Something in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub what: String,
    /// The object and field it was read from.
    pub source: String,
    /// What to do about it; may be a command. Empty: nothing but to wait, or to choose another node.
    pub fix: String,
}

/// Whether the launcher would find its place on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFit {
    /// Name of the node.
    pub name: String,
    /// Why not; empty if nothing speaks against it.
    pub misfits: Vec<Check>,
    /// What could not be decided for this node, one sentence each.
    pub unknown: Vec<String>,
}

/// The limits under which a migration would run: those of the policy that applies, else of KubeVirt's configuration, else KubeVirt's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationTerms {
    /// Name of the MigrationPolicy that applies.
    pub policy: Option<String>,
    /// Bytes per second; 0: no limit.
    pub bandwidth_bytes: i64,
    /// Seconds per GiB of memory (and copied disk) until it is given up.
    pub completion_secs_per_gib: i64,
    /// Seconds without progress until it is given up.
    pub progress_secs: i64,
    /// Whether a guest that writes too fast is slowed down.
    pub allows_auto_converge: bool,
    /// Whether it may be finished after the guest has moved.
    pub allows_post_copy: bool,
    /// How many migrations may run in the cluster.
    pub per_cluster: i64,
    /// How many may leave one node.
    pub per_node: i64,
    /// `namespace/name` of the migrations that run, sorted.
    pub running: Vec<String>,
    /// Those of them that leave the source.
    pub leaving: Vec<String>,
}

impl Check {
    fn new(what: impl Into<String>, source: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), source: source.into(), fix: fix.into() }
    }
}

impl Cluster {
    /// Whether a VM could migrate at `at_usec` (Unix time in microseconds), and to which nodes.
    #[must_use]
    pub fn preflight(&self, namespace: &str, name: &str, at_usec: i64) -> Preflight {
        let parts = Parts::new(self, namespace, name, &Asked { at_usec, ..Asked::default() });
        let mut found = Preflight { source: parts.hosting.clone(), ..Preflight::default() };
        vm::check(&parts, &mut found);
        terms::check(&parts, &mut found);
        node::check(&parts, &mut found);
        found
    }
}
