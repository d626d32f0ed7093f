//! What is watched: one row per watch.
//!
//! Pods are many, and few of them are of use: each row of pods asks for a part of them, and no two rows for the same pod, so that what
//! one row no longer has is gone. Sources: KubeVirt `pkg/virt-controller/services/template.go` (`kubevirt.io`), CDI
//! `pkg/common/common.go` (`cdi.kubevirt.io`), kubeadm `cmd/kubeadm/app/util/staticpod` (`tier`).

use kulprit_cluster::Kind;

/// One watch: a kind, or a part of its objects.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// What a person calls these objects; no two rows have the same.
    pub name: &'static str,
    /// What its objects are.
    pub kind: Kind,
    /// Version of the kind's group.
    pub version: &'static str,
    /// The kind in paths and in RBAC rules.
    pub plural: &'static str,
    /// The only namespace that is watched, or all.
    pub namespace: Option<&'static str>,
    /// Label selector: which of the objects, or all.
    pub labels: Option<&'static str>,
}

/// Everything that is watched. Those whose lack hurts most come first: they are listed first.
pub static ROWS: [Row; 17] = [
    Row::of(Kind::VirtualMachineInstance, "v1", "virtualmachineinstances"),
    Row::of(Kind::VirtualMachine, "v1", "virtualmachines"),
    Row::of(Kind::VirtualMachineInstanceMigration, "v1", "virtualmachineinstancemigrations"),
    Row {
        name: "KubeVirt's pods",
        labels: Some("kubevirt.io in (virt-launcher,hotplug-disk,virt-handler,virt-controller,virt-api,virt-operator)"),
        ..Row::of(Kind::Pod, "v1", "pods")
    },
    Row::of(Kind::Node, "v1", "nodes"),
    Row::of(Kind::Event, "v1", "events"),
    Row::of(Kind::KubeVirt, "v1", "kubevirts"),
    Row::of(Kind::MigrationPolicy, "v1alpha1", "migrationpolicies"),
    Row::of(Kind::PersistentVolumeClaim, "v1", "persistentvolumeclaims"),
    Row::of(Kind::PersistentVolume, "v1", "persistentvolumes"),
    Row::of(Kind::VolumeAttachment, "v1", "volumeattachments"),
    Row::of(Kind::CsiNode, "v1", "csinodes"),
    Row::of(Kind::DataVolume, "v1beta1", "datavolumes"),
    Row {
        name: "CDI's pods",
        labels: Some(
            "cdi.kubevirt.io,kubevirt.io notin (virt-launcher,hotplug-disk,virt-handler,virt-controller,virt-api,virt-operator)",
        ),
        ..Row::of(Kind::Pod, "v1", "pods")
    },
    Row {
        name: "the control plane's pods",
        labels: Some(
            "tier=control-plane,!cdi.kubevirt.io,kubevirt.io notin (virt-launcher,hotplug-disk,virt-handler,virt-controller,virt-api,virt-operator)",
        ),
        ..Row::of(Kind::Pod, "v1", "pods")
    },
    Row { namespace: Some("kube-node-lease"), ..Row::of(Kind::Lease, "v1", "leases") },
    Row::of(Kind::Namespace, "v1", "namespaces"),
];

impl Row {
    const fn of(kind: Kind, version: &'static str, plural: &'static str) -> Self {
        Self { name: kind.as_str(), kind, version, plural, namespace: None, labels: None }
    }

    /// `apiVersion` of each object.
    #[must_use]
    pub fn api_version(&self) -> String {
        let (group, version) = (self.kind.group(), self.version);
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// The resource as RBAC and `kubectl` name it, for example `virtualmachines.kubevirt.io`.
    #[must_use]
    pub fn resource(&self) -> String {
        let (group, plural) = (self.kind.group(), self.plural);
        if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
    }

    /// The path of its objects on the API server.
    #[must_use]
    pub fn path(&self) -> String {
        let root = if self.kind.group().is_empty() { "api" } else { "apis" };
        let namespace = self.namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
        format!("/{root}/{}/{namespace}{}", self.api_version(), self.plural)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[track_caller]
    fn row(name: &str) -> &'static Row {
        ROWS.iter().find(|row| row.name == name).unwrap()
    }

    #[test]
    fn no_two_rows_have_one_name() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn what_a_diagnosis_reads_is_watched_and_nothing_else() {
        let watched: BTreeSet<_> = ROWS.iter().map(|row| row.kind).collect();
        assert_eq!(watched, Kind::ALL.into());
    }

    #[test]
    fn paths_are_those_of_the_api() {
        for (name, path, resource) in [
            ("Node", "/api/v1/nodes", "nodes"),
            ("VirtualMachine", "/apis/kubevirt.io/v1/virtualmachines", "virtualmachines.kubevirt.io"),
            ("Lease", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "leases.coordination.k8s.io"),
        ] {
            assert_eq!((row(name).path().as_str(), row(name).resource().as_str()), (path, resource));
        }
    }

    /// The rights that the rows need, and what is written.
    fn role() -> String {
        let head = |kind: &str, meta: &str| {
            format!(
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: kulprit-central{meta}}}\nrules:\n"
            )
        };
        let rule = |group: &str, resources: &BTreeSet<&str>| {
            let resources = resources.iter().copied().collect::<Vec<_>>().join(", ");
            format!("- {{apiGroups: [{group:?}], resources: [{resources}], verbs: [list, watch]}}\n")
        };
        let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in ROWS.iter().filter(|row| row.namespace.is_none()) {
            groups.entry(row.kind.group()).or_default().insert(row.plural);
        }
        let mut text = "# What central lists, watches and writes. Bind all to the user of its kubeconfig, or its service account; the last is of its Lease and its certificate.\n".to_owned();
        text.push_str(&head("ClusterRole", ""));
        groups.iter().for_each(|(group, resources)| text.push_str(&rule(group, resources)));
        // The requests of `write`.
        text.push_str("- {apiGroups: [\"\"], resources: [nodes], verbs: [get, patch]}\n");
        text.push_str("- {apiGroups: [\"\"], resources: [nodes/status], verbs: [patch]}\n");
        for row in &ROWS {
            let Some(namespace) = row.namespace else { continue };
            text.push_str(&format!("---\n{}", head("Role", &format!(", namespace: {namespace}"))));
            text.push_str(&rule(row.kind.group(), &[row.plural].into()));
        }
        text.push_str(&format!("---\n{}", head("Role", ", namespace: kulprit")));
        text.push_str("- {apiGroups: [\"coordination.k8s.io\"], resources: [leases], verbs: [create, get, update]}\n");
        text.push_str("# For `tls.made` alone: the certificate that central makes, and its CA. What is to be made cannot be named.\n");
        text.push_str("- {apiGroups: [\"\"], resources: [configmaps, secrets], verbs: [create]}\n");
        for (resource, name) in [("configmaps", "kulprit-central-ca"), ("secrets", "kulprit-central-tls")] {
            text.push_str(&format!(
                "- {{apiGroups: [\"\"], resources: [{resource}], resourceNames: [{name}], verbs: [get, update]}}\n"
            ));
        }
        text
    }

    #[test]
    fn the_rights_that_are_documented_are_those_that_are_needed() {
        assert_eq!(include_str!("../../../docs/central-role.yaml"), role());
    }

    #[test]
    fn no_pod_is_in_two_rows() {
        let of_kubevirt = row("KubeVirt's pods").labels.unwrap();
        let (key, values) = of_kubevirt.split_once(" in ").unwrap();
        for other in ["CDI's pods", "the control plane's pods"] {
            assert!(row(other).labels.unwrap().ends_with(&format!(",{key} notin {values}")), "{other}");
        }
        assert!(row("CDI's pods").labels.unwrap().starts_with("cdi.kubevirt.io,"));
        assert!(row("the control plane's pods").labels.unwrap().contains(",!cdi.kubevirt.io,"));
    }
}
