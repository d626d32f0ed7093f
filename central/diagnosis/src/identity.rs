//! Who is who: every name under which a VM appears in findings, and whether a finding names it.
//!
//! Files of a node know a VM by the VMI's UID, by `namespace/name`, or by the domain's name; texts by a pod, a pod's UID, a volume,
//! an image. Kubernetes' objects hold them together; without objects the names that KubeVirt builds (`virt-launcher-<name>-<5
//! letters>`, `<namespace>_<name>`) still do. Source: KubeVirt `pkg/virt-controller/services/template.go`, `pkg/util/util.go`.

use std::{collections::HashSet, sync::Arc};

use kulprit_cluster::{ClusterVm, PodRef};
use kulprit_model::{
    Attributes,
    attribute::{IMAGE, POD, POD_UID, VMI, VOLUME},
};

use crate::snapshot::VmView;

/// A name of a volume that is at least this long is looked for inside longer ones (`kubernetes.io/csi/driver^handle`).
const DISTINCT_LEN: usize = 10;

/// One VM's names.
#[derive(Clone, Debug)]
pub(crate) struct Identity<'a> {
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    uids: Vec<&'a str>,
    pods: &'a [PodRef],
    volumes: &'a [String],
    images: &'a [String],
}

/// What a finding's mentions say of one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mention {
    /// It is named.
    Named,
    /// Another VM or launcher is named.
    NotNamed,
    /// Nothing that would tell is named.
    Nothing,
}

impl<'a> Identity<'a> {
    pub(crate) fn of_cluster_vm(vm: &'a ClusterVm) -> Self {
        let uids = std::iter::once(vm.uid.as_str()).chain(vm.uids.iter().map(String::as_str));
        Self {
            namespace: Some(vm.namespace.as_str()),
            name: Some(vm.name.as_str()),
            uids: uids.filter(|uid| !uid.is_empty()).collect(),
            pods: &vm.pods,
            volumes: &vm.volumes,
            images: &vm.images,
        }
    }

    pub(crate) fn of_view(view: &'a VmView) -> Self {
        let name = Some(view.name.as_str());
        Self { namespace: view.namespace.as_deref(), name, uids: vec![&view.uid], pods: &[], volumes: &[], images: &[] }
    }

    /// A VM of which nothing is known but its UID.
    pub(crate) fn of_uid(uid: &'a str) -> Self {
        Self { namespace: None, name: None, uids: vec![uid], pods: &[], volumes: &[], images: &[] }
    }

    /// The same with one more UID that stands for it: a domain's own.
    pub(crate) fn with_uid(mut self, uid: &'a str) -> Self {
        if !self.uids.contains(&uid) {
            self.uids.push(uid);
        }
        self
    }

    /// Every UID that stands for it.
    pub(crate) fn uids(&self) -> impl Iterator<Item = &'a str> {
        self.uids.iter().copied()
    }

    /// Namespace and name, if both are known.
    pub(crate) fn pair(&self) -> Option<(&'a str, &'a str)> {
        self.namespace.zip(self.name)
    }

    /// Whether a UID, or `namespace/name` in its place, is this VM's.
    pub(crate) fn is_uid(&self, uid: &str) -> bool {
        self.uids.contains(&uid)
            || self.namespace.is_some() && uid.split_once('/').is_some_and(|pair| self.is_pair(pair))
    }

    /// Whether what libvirt and procfs know as a VM is this one.
    pub(crate) fn is_view(&self, view: &VmView) -> bool {
        if self.is_uid(&view.uid) {
            return true;
        }
        let Some(own) = self.name else { return false };
        let is_same_name = view.namespace.is_some() && view.namespace.as_deref() == self.namespace && view.name == own;
        is_same_name || pairs_of(view).any(|pair| self.is_pair(pair))
    }

    /// What the mentions of a finding say of this VM: its pod or itself decide, then a volume, then an image.
    pub(crate) fn mention(&self, attributes: &Attributes) -> Mention {
        let mut is_other = false;
        for found in [
            attributes.get(POD_UID).map(|uid| self.pod_uid(uid)),
            attributes.get(VMI).map(|name| self.vmi(name)),
            attributes.get(POD).map(|name| self.pod(name)),
        ] {
            match found {
                Some(Mention::Named) => return Mention::Named,
                Some(Mention::NotNamed) => is_other = true,
                Some(Mention::Nothing) | None => {}
            }
        }
        if is_other {
            return Mention::NotNamed;
        }
        let is_volume = attributes.get(VOLUME).is_some_and(|volume| self.has_volume(volume));
        let is_image = attributes.get(IMAGE).is_some_and(|image| self.images.iter().any(|own| own == image));
        if is_volume || is_image { Mention::Named } else { Mention::Nothing }
    }

    /// The pod of it that a finding names, if it names one that is known.
    pub(crate) fn pod_of(&self, attributes: &Attributes) -> Option<&'a PodRef> {
        let of_uid = attributes.get(POD_UID).and_then(|uid| {
            self.pods.iter().find(|pod| pod.uid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uid)))
        });
        let of_name = || {
            let name = attributes.get(POD)?;
            let name = name.split_once('/').map_or(name, |(_, name)| name);
            self.pods.iter().find(|pod| pod.name == name)
        };
        of_uid.or_else(of_name)
    }

    /// Whether a path of the node (a mount point) is in a folder of one of its pods or volumes.
    pub(crate) fn is_path(&self, path: &str) -> bool {
        self.pods.iter().filter_map(|pod| pod.uid.as_deref()).any(|uid| is_long(uid) && path.contains(uid))
            || self.volumes.iter().any(|volume| is_long(volume) && path.split('/').any(|part| part == volume))
    }

    fn is_pair(&self, (namespace, name): (&str, &str)) -> bool {
        self.namespace.is_none_or(|own| own == namespace) && self.name == Some(name)
    }

    fn pod_uid(&self, uid: &str) -> Mention {
        let is_own = self.pods.iter().any(|pod| pod.uid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uid)));
        if is_own { Mention::Named } else { Mention::Nothing }
    }

    fn vmi(&self, text: &str) -> Mention {
        if self.is_uid(text) {
            return Mention::Named;
        }
        let is_own = match text.split_once('/').or_else(|| text.split_once('_')) {
            Some(pair) => self.is_pair(pair),
            None => self.name == Some(text),
        };
        match (is_own, self.name) {
            (true, _) => Mention::Named,
            (false, Some(_)) => Mention::NotNamed,
            (false, None) => Mention::Nothing,
        }
    }

    fn pod(&self, text: &str) -> Mention {
        let (namespace, pod_name) =
            text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name));
        let is_namespace = namespace.is_none() || self.namespace.is_none() || namespace == self.namespace;
        let is_own = |pod: &PodRef| {
            pod.name == pod_name
                && namespace.is_none_or(|namespace| pod.namespace.is_empty() || pod.namespace == namespace)
        };
        if self.pods.iter().any(is_own) {
            return Mention::Named;
        }
        if is_namespace && filled_by(pod_name).any(|claim| self.volumes.iter().any(|own| own == claim)) {
            return Mention::Named;
        }
        let (Some(vm), Some(launched)) = (self.name, launched_by(pod_name)) else { return Mention::Nothing };
        if is_namespace && launched == vm { Mention::Named } else { Mention::NotNamed }
    }

    fn has_volume(&self, text: &str) -> bool {
        self.volumes.iter().any(|own| own == text || is_long(own) && is_part(text, own))
    }
}

/// All VMs of the cluster by their names, for asking of many views whether they are one of them.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    uids: HashSet<&'a str>,
    pairs: HashSet<(&'a str, &'a str)>,
}

impl<'a> Known<'a> {
    pub(crate) fn new(vms: &'a [Arc<ClusterVm>]) -> Self {
        let uids = vms.iter().flat_map(|vm| std::iter::once(&vm.uid).chain(&vm.uids)).map(String::as_str);
        Self {
            uids: uids.filter(|uid| !uid.is_empty()).collect(),
            pairs: vms.iter().map(|vm| (vm.namespace.as_str(), vm.name.as_str())).collect(),
        }
    }

    /// As [`Identity::is_view`] of any of them.
    pub(crate) fn has(&self, view: &VmView) -> bool {
        let of_namespace = view.namespace.as_deref().map(|namespace| (namespace, view.name.as_str()));
        self.uids.contains(view.uid.as_str())
            || view
                .uid
                .split_once('/')
                .into_iter()
                .chain(of_namespace)
                .chain(pairs_of(view))
                .any(|pair| self.pairs.contains(&pair))
    }
}

/// Namespace and name as the names of its domain and QEMU have them.
pub(crate) fn pairs_of(view: &VmView) -> impl Iterator<Item = (&str, &str)> {
    let domain_names = view
        .domain
        .iter()
        .map(|domain| domain.name.as_str())
        .chain(view.qemu.iter().chain(&view.last_qemu).filter_map(|qemu| qemu.name.as_deref()))
        .chain([view.name.as_str()]);
    domain_names.filter_map(|name| name.split_once('_'))
}

pub(crate) fn is_long(name: &str) -> bool {
    name.len() >= DISTINCT_LEN
}

/// Whether a name stands in a text and is no piece of a longer name there.
fn is_part(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(start, _)| {
        !text[..start].ends_with(is_of_a_name) && !text[start + name.len()..].starts_with(is_of_a_name)
    })
}

/// Whether a character is one that names consist of.
pub(crate) const fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '.'
}

/// The claims that a pod of this name may fill. Source: CDI `pkg/controller/common`: `importer-<claim>`, `cdi-upload-<claim>`.
pub(crate) fn filled_by(pod: &str) -> impl Iterator<Item = &str> {
    ["importer-", "importer-prime-", "cdi-upload-", "cdi-upload-prime-"]
        .into_iter()
        .filter_map(|head| pod.strip_prefix(head))
}

/// The VM whose launcher has this name: KubeVirt generates `virt-launcher-<name>-` and the API server adds five characters.
pub(crate) fn launched_by(pod: &str) -> Option<&str> {
    let (vm, suffix) = pod.strip_prefix("virt-launcher-")?.rsplit_once('-')?;
    (suffix.len() == 5 && !vm.is_empty()).then_some(vm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_cluster_vm;

    #[track_caller]
    fn check(key: &str, value: &str, want: Mention) {
        let vm = mk_cluster_vm();
        let found = Identity::of_cluster_vm(&vm).mention(&Attributes::new().with(key, value));
        assert_eq!(found, want, "{key}={value}");
    }

    #[test]
    fn a_vm_is_named_by_everything_that_is_its_own() {
        for (key, value) in [
            (POD, "prod/virt-launcher-db-0-abcde"),
            (POD, "virt-launcher-db-0-abcde"),
            (POD, "virt-launcher-db-0-zzzzz"),
            (POD_UID, "0B2C0B2C-0000-4000-8000-0000000000bb"),
            (VMI, "prod/db-0"),
            (VMI, "db-0"),
            (VMI, "prod_db-0"),
            (VMI, "0b2c0b2c-0000-4000-8000-0000000000aa"),
            (VOLUME, "db-0-rootdisk"),
            (VOLUME, "kubernetes.io/csi/driver.example^pvc-0b2c0b2c-cc"),
            (IMAGE, "registry.example/kubevirt/virt-launcher:v1.6.0"),
        ] {
            check(key, value, Mention::Named);
        }
    }

    #[test]
    fn another_vm_or_launcher_is_told_from_a_stranger() {
        for (key, value) in [
            (POD, "prod/virt-launcher-db-1-abcde"),
            (POD, "test/virt-launcher-db-0-zzzzz"),
            (VMI, "test/db-0"),
            (VMI, "db"),
        ] {
            check(key, value, Mention::NotNamed);
        }
        for (key, value) in
            [(POD, "kube-system/coredns-5d78c"), (POD_UID, "1"), (VOLUME, "db-0-rootdisk-2"), (IMAGE, "busybox")]
        {
            check(key, value, Mention::Nothing);
        }
    }

    #[test]
    fn a_pod_that_fills_a_claim_of_the_vm_is_its_own() {
        check(POD, "prod/importer-db-0-rootdisk", Mention::Named);
        check(POD, "prod/cdi-upload-db-0-rootdisk", Mention::Named);
        check(POD, "prod/importer-db-1-rootdisk", Mention::Nothing);
        check(POD, "test/importer-db-0-rootdisk", Mention::Nothing);
    }

    #[test]
    fn a_name_with_dashes_is_no_other_vm() {
        for (pod, want) in [
            ("virt-launcher-db-0-abcde", Some("db-0")),
            ("virt-launcher-db-abcde", Some("db")),
            ("virt-launcher--abcde", None),
            ("virt-launcher-db-abcdef", None),
            ("importer-db-abcde", None),
        ] {
            assert_eq!(launched_by(pod), want, "{pod}");
        }
    }
}
