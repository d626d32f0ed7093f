//! Could this VM migrate? The pre-flight as an answer: who is meant, the decision of `kulprit-diagnosis`, its message. Pure.

use kulprit_cluster::{ClusterVm, MigrationTerms, Preflight};
use kulprit_diagnosis::{CanMigrate, CandidateNode, Fit, MigrationAnswer, Obstacle, Snapshot};
use kulprit_proto::v1;
use tonic::Status;

use super::{
    named::{self, NamedVm},
    shortened,
};
use crate::access::rights::Sight;

/// Whether the VM of that name, namespace/name or UID could migrate, to any node or only `to` if that is not empty. `preflight` is what
/// Kubernetes' objects say of a VM, by namespace and name; `None`: they are not known yet.
///
/// # Errors
/// FAILED_PRECONDITION where no Kubernetes is watched, or for an ambiguous name; UNAVAILABLE until Kubernetes was listed; NOT_FOUND and
/// INVALID_ARGUMENT name what is wrong with `vm` or `to`.
pub fn answer(
    snapshot: &Snapshot,
    vm: &str,
    to: &str,
    sight: &Sight,
    preflight: impl FnOnce(&str, &str) -> Option<Preflight>,
) -> Result<v1::CanMigrateResponse, Status> {
    if !snapshot.cluster_sight.is_watched {
        return Err(Status::failed_precondition(
            "no Kubernetes is watched: whether a VM can migrate is read from KubeVirt's objects",
        ));
    }
    let not_yet = || Status::unavailable("Kubernetes is not listed yet since central started; ask again in a moment");
    if snapshot.cluster_sight.until_usec == Some(0) && snapshot.cluster_vms.is_empty() {
        return Err(not_yet());
    }
    let vm = match named::vm(snapshot, vm, "", sight)? {
        NamedVm::OfCluster(vm) => vm,
        NamedVm::OfHost(node, view) => {
            return Err(Status::failed_precondition(format!(
                "vm: `{}` on {} is no VM of KubeVirt: Kubernetes has no object of it",
                shortened(&view.name),
                node.name
            )));
        }
    };
    let preflight = preflight(&vm.namespace, &vm.name).ok_or_else(not_yet)?;
    let to = Some(to).filter(|to| !to.is_empty());
    if let Some(to) = to {
        if preflight.source.as_deref() == Some(to) {
            return Err(Status::invalid_argument(format!("to: the VM is on `{}` already", shortened(to))));
        }
        if !preflight.nodes.iter().any(|node| node.name == to) {
            return Err(Status::not_found(format!("to: Kubernetes has no node `{}`", shortened(to))));
        }
    }
    let found = kulprit_diagnosis::can_migrate(snapshot, vm, preflight, to);
    let mut answer = message(snapshot, vm, found);
    narrow(&mut answer, &vm.namespace, sight);
    Ok(answer)
}

/// Leaves out what is others': nodes are for who may get them, and names of other VMs, which are in what a node is said to lack, for who may
/// get all of those as well.
fn narrow(answer: &mut v1::CanMigrateResponse, namespace: &str, sight: &Sight) {
    if sight.shows_all() {
        return;
    }
    if !sight.shows_nodes() {
        answer.nodes.clear();
        answer.notes.push("which nodes fit is told to who may get nodes".to_owned());
    }
    if sight.shows_all_vms() {
        return;
    }
    for node in &mut answer.nodes {
        (node.misfits, node.warnings) = (Vec::new(), Vec::new());
    }
    if let Some(terms) = &mut answer.terms {
        let is_own = |name: &String| name.split_once('/').is_some_and(|(of, _)| of == namespace);
        terms.running.retain(is_own);
        terms.leaving.retain(is_own);
    }
}

fn message(snapshot: &Snapshot, vm: &ClusterVm, found: CanMigrate) -> v1::CanMigrateResponse {
    let CanMigrate { answer, because, source, blockers, warnings, unknown, notes, terms, nodes } = found;
    v1::CanMigrateResponse {
        subject: Some(v1::VerdictSubject {
            uid: vm.uid.clone(),
            namespace: vm.namespace.clone(),
            name: vm.name.clone(),
            node: source.unwrap_or_default(),
        }),
        answer: match answer {
            MigrationAnswer::Yes => v1::MigrationAnswer::Yes,
            MigrationAnswer::YesWithWarnings => v1::MigrationAnswer::YesWithWarnings,
            MigrationAnswer::No => v1::MigrationAnswer::No,
            MigrationAnswer::Unknown => v1::MigrationAnswer::Unknown,
        }
        .into(),
        because,
        blockers: blockers.into_iter().map(obstacle).collect(),
        warnings: warnings.into_iter().map(obstacle).collect(),
        unknown,
        notes,
        terms: Some(terms_message(terms)),
        nodes: nodes.into_iter().map(candidate).collect(),
        reference_wall_usec: snapshot.reference_wall_usec,
    }
}

fn obstacle(obstacle: Obstacle) -> v1::MigrationObstacle {
    let Obstacle { what, source, fix, cause } = obstacle;
    v1::MigrationObstacle { what, source, fix, cause: cause.to_owned() }
}

fn candidate(node: CandidateNode) -> v1::MigrationCandidate {
    let CandidateNode { name, fit, misfits, warnings, unknown } = node;
    v1::MigrationCandidate {
        node: name,
        fit: match fit {
            Fit::Fits => v1::MigrationFit::Fits,
            Fit::FitsWithWarnings => v1::MigrationFit::FitsWithWarnings,
            Fit::Unseen => v1::MigrationFit::Unseen,
            Fit::DoesNotFit => v1::MigrationFit::DoesNotFit,
        }
        .into(),
        misfits: misfits.into_iter().map(obstacle).collect(),
        warnings: warnings.into_iter().map(obstacle).collect(),
        unknown,
    }
}

fn terms_message(terms: MigrationTerms) -> v1::MigrationTerms {
    let MigrationTerms {
        policy,
        bandwidth_bytes,
        completion_secs_per_gib,
        progress_secs,
        allows_auto_converge,
        allows_post_copy,
        per_cluster,
        per_node,
        running,
        leaving,
    } = terms;
    v1::MigrationTerms {
        policy: policy.unwrap_or_default(),
        bandwidth_bytes_per_sec: bandwidth_bytes,
        completion_secs_per_gib,
        progress_secs,
        allows_auto_converge,
        allows_post_copy,
        per_cluster,
        per_node,
        running,
        leaving,
    }
}
