//! The limits under which a migration would run, and the slots that are taken now.
//!
//! Of policies the one applies that asks for most labels, then for most of the VMI's, then the first by name. Where namespaces may not
//! be listed, of their labels only the name is known, which every namespace has. Source: KubeVirt
//! `api/migrations/v1alpha1/types_expansion.go`, `pkg/virt-config/virt-config.go`.

use std::collections::BTreeMap;

use super::{Check, MigrationTerms, Preflight};
use crate::{
    facts::migration::{COMPLETION_SECS_PER_GIB, PER_CLUSTER, PER_NODE, PROGRESS_SECS},
    kind::Kind,
    objects::{Meta, Migration, MigrationPolicy, MigrationSettings},
    parts::Parts,
};

/// The label with a namespace's name, which the API server itself sets.
const NAME_OF_NAMESPACE: &str = "kubernetes.io/metadata.name";

pub(super) fn check(parts: &Parts<'_>, found: &mut Preflight) {
    let policy = policy(parts, found);
    let none = MigrationSettings::default();
    let configured = parts.cluster.kubevirts.values().next().map_or(&none, |kubevirt| &kubevirt.settings);
    if parts.cluster.kubevirts.is_empty() {
        let what = "no KubeVirt object is known: the limits of migrations are taken to be KubeVirt's own";
        found.notes.push(what.to_owned());
    }
    let own = policy.map_or(&none, |policy| &policy.settings);
    let running: Vec<&Migration> = parts.cluster.running_migrations().collect();
    let source = found.source.as_deref();
    let leaves = |migration: &&&Migration| {
        let of_vmi = || parts.cluster.vmis.get(&migration.vm_key()?)?.node.as_deref();
        source.is_some() && migration.source_node().or_else(of_vmi) == source
    };
    let name = |migration: &Migration| format!("{}/{}", migration.meta.namespace, migration.meta.name);
    found.terms = MigrationTerms {
        policy: policy.map(|policy| policy.meta.name.clone()),
        bandwidth_bytes: own.bandwidth_bytes.or(configured.bandwidth_bytes).unwrap_or(0),
        completion_secs_per_gib: own
            .completion_secs_per_gib
            .or(configured.completion_secs_per_gib)
            .unwrap_or(COMPLETION_SECS_PER_GIB),
        progress_secs: own.progress_secs.or(configured.progress_secs).unwrap_or(PROGRESS_SECS),
        allows_auto_converge: own.allows_auto_converge.or(configured.allows_auto_converge).unwrap_or(false),
        allows_post_copy: own.allows_post_copy.or(configured.allows_post_copy).unwrap_or(false),
        per_cluster: configured.per_cluster.unwrap_or(PER_CLUSTER).max(1),
        per_node: configured.per_node.unwrap_or(PER_NODE).max(1),
        leaving: running.iter().filter(leaves).map(|migration| name(migration)).collect(),
        running: running.iter().map(|migration| name(migration)).collect(),
    };
    slots(parts, found);
}

/// As many as are allowed run: it would wait, not fail.
fn slots(parts: &Parts<'_>, found: &mut Preflight) {
    let terms = &found.terms;
    let is_at = |taken: &[String], limit: i64| i64::try_from(taken.len()).is_ok_and(|n| n >= limit);
    let all = (&terms.running, terms.per_cluster, "in the cluster", "parallelMigrationsPerCluster");
    let of_node = (&terms.leaving, terms.per_node, "from its node", "parallelOutboundMigrationsPerNode");
    let full = [all, of_node].into_iter().find(|(taken, limit, ..)| is_at(taken, *limit));
    let Some((taken, limit, where_, field)) = full else { return };
    let named = taken.join(", ");
    let check = Check::new(
        format!("it would wait: {} of {limit} migrations run {where_} ({named})", taken.len()),
        format!("KubeVirt spec.configuration.migrations.{field}"),
        "wait for one of them to end, or raise the limit",
    );
    // One that is under way itself is told already.
    if parts.migrations().all(Migration::is_final) {
        found.warnings.push(check);
    }
}

/// The policy that applies, as far as labels tell.
fn policy<'c>(parts: &Parts<'c>, found: &mut Preflight) -> Option<&'c MigrationPolicy> {
    let meta = &parts.vmi?.meta;
    if !parts.cluster.is_listed(Kind::MigrationPolicy, "") {
        found
            .notes
            .push("the MigrationPolicies are not all known: whether another one applies cannot be told".to_owned());
    }
    let mut best: Option<((usize, usize), &MigrationPolicy)> = None;
    for policy in parts.cluster.policies.values() {
        match fits(policy, meta, parts.cluster.labels_of_namespace(&meta.namespace)) {
            // Sorted by name: of equals the first stays.
            Some(Some(score)) if best.is_none_or(|(other, _)| score > other) => best = Some((score, policy)),
            Some(_) => {}
            None => found.notes.push(format!(
                "whether the MigrationPolicy {} applies is not known: the labels of the namespace {} are not known",
                policy.meta.name, meta.namespace
            )),
        }
    }
    best.map(|(_, policy)| policy)
}

/// How many labels a policy asks for, in all and of the VMI, if all of them are there. `None`: that cannot be told.
fn fits(
    policy: &MigrationPolicy,
    vmi: &Meta,
    labels: Option<&BTreeMap<String, String>>,
) -> Option<Option<(usize, usize)>> {
    let none = BTreeMap::new();
    let (of_vmi, of_namespace) = (&policy.vmi_labels, &policy.namespace_labels);
    if of_vmi.is_none() && of_namespace.is_none() {
        return Some(None);
    }
    let (of_vmi, of_namespace) = (of_vmi.as_ref().unwrap_or(&none), of_namespace.as_ref().unwrap_or(&none));
    let is_vmi = of_vmi.iter().all(|(key, value)| vmi.label(key) == Some(value));
    // The name is known even where no other label is.
    let is_there = |key: &str, value: &str| match (key, labels) {
        (NAME_OF_NAMESPACE, _) => Some(value == vmi.namespace),
        (_, Some(labels)) => Some(labels.get(key).is_some_and(|own| own == value)),
        (_, None) => None,
    };
    let is_there: Vec<Option<bool>> = of_namespace.iter().map(|(key, value)| is_there(key, value)).collect();
    if !is_vmi || is_there.contains(&Some(false)) {
        return Some(None);
    }
    (!is_there.contains(&None)).then(|| Some((of_vmi.len() + of_namespace.len(), of_vmi.len())))
}
