//! Everything that belongs to one VM, joined: its objects, its pods with their sides, the migration in question, its nodes, claims.

use crate::{
    cluster::{Cluster, Key},
    described::PodRef,
    index::is_attachment,
    objects::{Claim, MigrationState, Pod, Vm, Vmi, Volume},
    question::{InQuestion, Past},
};
use kulprit_model::Side;

/// The launcher stays the source of a failed migration for so long; after that it is the host again.
const FAILED_IS_PRESENT_USEC: i64 = 900 * 1_000_000;

/// What is asked about a VM.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Name of the migration in question.
    pub migration: Option<String>,
    /// Node that hosts it, if whoever asks knows.
    pub hosting: Option<String>,
    /// Source of the migration in question.
    pub source: Option<String>,
    /// Target of it.
    pub target: Option<String>,
    /// The moment of asking, Unix microseconds.
    pub at_usec: i64,
}

/// One VM's objects.
pub(crate) struct Parts<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) key: Key,
    pub(crate) at_usec: i64,
    /// When the objects were looked at, at most the moment of asking.
    pub(crate) looked_usec: i64,
    pub(crate) vm: Option<&'c Vm>,
    pub(crate) vmi: Option<&'c Vmi>,
    pub(crate) migration: Option<InQuestion<'c>>,
    /// Launchers first, oldest first.
    pub(crate) pods: Vec<VmPod<'c>>,
    pub(crate) hosting: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) claims: Vec<VmClaim<'c>>,
}

/// What a pod is to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The launcher that runs it, or is to.
    Launcher,
    /// The target of the migration in question.
    Target,
    /// A launcher of an earlier run, or an end of another migration.
    Former,
    /// Carries hot-plugged disks.
    Attachment,
    /// Fills a claim.
    Importer,
}

/// A pod of a VM.
pub(crate) struct VmPod<'c> {
    pub(crate) pod: &'c Pod,
    pub(crate) part: Part,
    pub(crate) side: Side,
}

/// A claim of a VM.
pub(crate) struct VmClaim<'c> {
    /// Name of the volume in the VM, if it is one of the VM's own.
    pub(crate) volume: Option<String>,
    pub(crate) name: String,
    pub(crate) claim: Option<&'c Claim>,
    pub(crate) persistent: Option<&'c Volume>,
}

impl<'c> Parts<'c> {
    pub(crate) fn new(cluster: &'c Cluster, namespace: &str, name: &str, asked: &Asked) -> Self {
        Self::with(cluster, namespace, name, asked, None)
    }

    /// The same; where there is a `past` migration, that is the one in question.
    pub(crate) fn with(
        cluster: &'c Cluster,
        namespace: &str,
        name: &str,
        asked: &Asked,
        past: Option<&Past<'c>>,
    ) -> Self {
        let key = (namespace.to_owned(), name.to_owned());
        let mut parts = Self {
            cluster,
            at_usec: asked.at_usec,
            looked_usec: cluster.looked_usec(asked.at_usec),
            vm: cluster.vms.get(&key),
            vmi: cluster.vmis.get(&key),
            migration: None,
            pods: Vec::new(),
            hosting: None,
            source: None,
            target: None,
            claims: Vec::new(),
            key,
        };
        parts.migration = parts.find_migration(asked, past);
        parts.pods = parts.find_pods(asked);
        parts.find_nodes(asked);
        parts.claims = parts.find_claims();
        parts.add_importers();
        parts
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.key.0
    }

    pub(crate) fn name(&self) -> &str {
        &self.key.1
    }

    /// The UID under which findings about it stand.
    pub(crate) fn uid(&self) -> String {
        let of_vmi = self.vmi.and_then(|vmi| vmi.meta.uid.clone());
        // The VMI's UID stands on its pods as well.
        let of_pods = || self.pods.iter().rev().find_map(|pod| pod.pod.meta.label("kubevirt.io/created-by"));
        let of_vm = || self.vm.and_then(|vm| vm.meta.uid.clone());
        of_vmi
            .or_else(|| of_pods().filter(|_| self.vm.is_none()).map(ToOwned::to_owned))
            .or_else(of_vm)
            .unwrap_or_else(|| format!("{}/{}", self.key.0, self.key.1))
    }

    pub(crate) fn uids(&self) -> Vec<String> {
        let vm = self.vm.and_then(|vm| vm.meta.uid.as_deref());
        let vmi = self.vmi.and_then(|vmi| vmi.meta.uid.as_deref());
        let of_pods = self.pods.iter().filter_map(|pod| pod.pod.meta.label("kubevirt.io/created-by"));
        let mut uids: Vec<String> = vmi.into_iter().chain(vm).chain(of_pods).map(ToOwned::to_owned).collect();
        uids.sort();
        uids.dedup();
        uids
    }

    /// Whether the VM is shown in this status.
    pub(crate) fn is_shown(&self, status: &str) -> bool {
        self.vm.and_then(|vm| vm.printable_status.as_deref()) == Some(status)
    }

    /// The launcher that runs it, or is to.
    pub(crate) fn launcher(&self) -> Option<&VmPod<'c>> {
        self.pods.iter().find(|pod| pod.part == Part::Launcher)
    }

    pub(crate) fn target_pod(&self) -> Option<&VmPod<'c>> {
        self.pods.iter().rev().find(|pod| pod.part == Part::Target)
    }

    pub(crate) fn pod_refs(&self) -> Vec<PodRef> {
        let known = self.pods.iter().map(|of| PodRef {
            namespace: of.pod.meta.namespace.clone(),
            name: of.pod.meta.name.clone(),
            uid: of.pod.meta.uid.clone(),
            node: of.pod.node.clone(),
            side: of.side,
        });
        let told = self.cluster.told_pods(&self.key).map(|name| PodRef {
            namespace: self.key.0.clone(),
            name: name.to_owned(),
            uid: None,
            node: self.node_told_of(name),
            side: self.side_of_told(name),
        });
        // The VMI knows the UIDs of its pods, whose objects may not be there.
        let active = self.vmi.into_iter().flat_map(|vmi| &vmi.active_pods);
        let is_known = |uid: &str| self.pods.iter().any(|of| of.pod.meta.uid.as_deref() == Some(uid));
        let active = active.filter(|(uid, _)| !is_known(uid)).map(|(uid, node)| PodRef {
            namespace: self.key.0.clone(),
            name: String::new(),
            uid: Some(uid.clone()),
            node: Some(node.clone()).filter(|node| !node.is_empty()),
            side: if self.target.as_ref() == Some(node) && self.source.as_ref() != Some(node) {
                Side::Target
            } else if self.target.is_some() {
                Side::Source
            } else {
                Side::Hosting
            },
        });
        known.chain(told).chain(active).collect()
    }

    fn find_pods(&self, asked: &Asked) -> Vec<VmPod<'c>> {
        let mut found: Vec<&Pod> = self.cluster.pods_of(&self.key);
        found.sort_by_key(|pod| pod.meta.created_usec);
        let launchers = found.iter().copied().filter(|pod| !is_attachment(pod));
        let outcome = self.migration.as_ref().and_then(InQuestion::outcome);
        let is_target = |pod: &Pod| self.migration.as_ref().is_some_and(|migration| migration.is_of(pod));
        let current = launchers
            .clone()
            .filter(|pod| !is_target(pod) || outcome == Some(true))
            .filter(|pod| !self.is_end_of_other(pod))
            .max_by_key(|pod| self.rank(pod))
            .map(|pod| pod.meta.name.clone());
        let has_two_ends = self.has_two_ends(asked);
        let mut pods: Vec<VmPod<'c>> = Vec::new();
        for pod in found.iter().copied().filter(|pod| !is_attachment(pod)) {
            let is_current = current.as_deref() == Some(pod.meta.name.as_str());
            let is_source = self.migration.as_ref().is_some_and(|migration| {
                migration.any(|state| state.source_pod.as_deref() == Some(pod.meta.name.as_str()))
            });
            let (part, side) = match (is_current, is_target(pod)) {
                (true, true) if has_two_ends => (Part::Launcher, Side::Target),
                (true, false) if has_two_ends => (Part::Launcher, Side::Source),
                (true, _) => (Part::Launcher, Side::Hosting),
                (false, true) => (Part::Target, Side::Target),
                (false, false) if is_source => (Part::Former, Side::Source),
                (false, false)
                    if self.migration.is_some() && pod.meta.label("kubevirt.io/migrationJobUID").is_some() =>
                {
                    (Part::Former, Side::Target)
                }

                (false, false) => (Part::Former, Side::Hosting),
            };
            pods.push(VmPod { pod, part, side });
        }
        for pod in found.into_iter().filter(|pod| is_attachment(pod)) {
            let owner = pod.meta.owner("Pod").map(|owner| owner.name.as_str());
            let side =
                pods.iter().find(|of| owner == Some(of.pod.meta.name.as_str())).map_or(Side::Hosting, |of| of.side);
            pods.push(VmPod { pod, part: Part::Attachment, side });
        }
        pods
    }

    /// Whether source and target are to be told apart: a migration runs, failed just now, or is asked about.
    fn has_two_ends(&self, asked: &Asked) -> bool {
        let Some(migration) = &self.migration else { return asked.target.is_some() };
        match migration.outcome() {
            _ if migration.is_named => true,
            None => true,
            Some(true) => false,
            Some(false) => {
                migration.ended_usec().is_none_or(|ended| self.at_usec.saturating_sub(ended) <= FAILED_IS_PRESENT_USEC)
            }
        }
    }

    /// Whether a pod was made for another migration than the one in question, and did not become the VM's launcher by it.
    fn is_end_of_other(&self, pod: &Pod) -> bool {
        let Some(uid) = pod.meta.label("kubevirt.io/migrationJobUID") else { return false };
        if self.migration.as_ref().is_some_and(|migration| migration.is_of(pod)) {
            return false;
        }
        if pod.meta.annotation("kubevirt.io/migration-target-ready-timestamp").is_some() {
            return false;
        }
        let own = self.migrations().find(|migration| migration.meta.uid.as_deref() == Some(uid));
        let is_host =
            self.vmi.and_then(|vmi| vmi.node.as_deref()).is_some_and(|node| pod.node.as_deref() == Some(node));
        own.map_or(!is_host || pod.is_over(), |migration| migration.outcome() != Some(true))
    }

    fn rank(&self, pod: &Pod) -> (bool, bool, bool, bool, Option<i64>) {
        let own_uid = self.vmi.and_then(|vmi| vmi.meta.uid.as_deref());
        let is_of_run =
            own_uid.is_none() || pod.meta.label("kubevirt.io/created-by").is_none_or(|uid| Some(uid) == own_uid);
        let node = self.vmi.and_then(|vmi| vmi.node.as_deref());
        let is_on_node = node.is_some() && pod.node.as_deref() == node;
        let is_new_host = self.migration.as_ref().is_some_and(|migration| migration.is_of(pod));
        (is_of_run, !pod.is_over(), is_on_node, is_new_host, pod.meta.created_usec)
    }

    fn find_nodes(&mut self, asked: &Asked) {
        let outcome = self.migration.as_ref().and_then(InQuestion::outcome);
        let of_state = |field: fn(&'c MigrationState) -> Option<&'c String>| {
            self.migration.as_ref().and_then(|migration| migration.pick(field)).cloned()
        };
        let source_of_state = of_state(|state| state.source_node.as_ref());
        let target_of_state = of_state(|state| state.target_node.as_ref());
        let vmi_node = self
            .vmi
            .and_then(|vmi| vmi.node.clone().or_else(|| vmi.meta.label("kubevirt.io/nodeName").map(ToOwned::to_owned)));
        let launcher_node = self.launcher().and_then(|of| of.pod.node.clone());
        let moved_to = target_of_state.clone().filter(|_| outcome == Some(true));
        let from = source_of_state.clone().filter(|_| outcome != Some(true));
        self.hosting = asked
            .hosting
            .clone()
            .or_else(|| vmi_node.clone())
            .or(moved_to)
            .or(launcher_node)
            .or(from)
            .or_else(|| asked.source.clone())
            .or_else(|| self.only_active_node())
            .or_else(|| self.told_node());
        if self.migration.is_none() && asked.target.is_none() && asked.source.is_none() {
            return;
        }
        let host_as_source = self.hosting.clone().filter(|_| outcome != Some(true));
        self.source = asked.source.clone().or(source_of_state).or(host_as_source);
        let of_label = self
            .vmi
            .and_then(|vmi| vmi.meta.label("kubevirt.io/migrationTargetNodeName"))
            .filter(|_| outcome.is_none() && self.migration.is_some());
        let target_pod = self.target_pod().and_then(|of| of.pod.node.clone());
        self.target =
            asked.target.clone().or(target_of_state).or(target_pod).or_else(|| of_label.map(ToOwned::to_owned));
    }

    /// The node of all of its active pods, if it is one. A pod that has no node yet stands there with an empty one.
    fn only_active_node(&self) -> Option<String> {
        let mut nodes = self.vmi?.active_pods.values();
        let first = nodes.next().filter(|node| !node.is_empty())?;
        nodes.all(|node| node == first).then(|| first.clone())
    }

    /// Node that events about its launcher pods tell.
    fn told_node(&self) -> Option<String> {
        let told: Vec<&str> = self.cluster.told_pods(&self.key).collect();
        told.into_iter().rev().find_map(|name| self.node_told_of(name))
    }

    /// Node of a pod by its events: the kubelet's own, or `Successfully assigned ns/pod to node`.
    pub(crate) fn node_told_of(&self, pod: &str) -> Option<String> {
        let mut events = self.cluster.events("Pod", &self.key.0, pod);
        events.find_map(|event| event.node().map(ToOwned::to_owned))
    }

    /// A launcher pod that only events tell of is the target if it is on the target node only.
    pub(crate) fn side_of_told(&self, pod: &str) -> Side {
        let is_named = self
            .migration
            .as_ref()
            .is_some_and(|migration| migration.any(|state| state.target_pod.as_deref() == Some(pod)));
        let node = self.node_told_of(pod);
        let is_on_target = self.target.is_some() && node == self.target && node != self.source;
        match (is_named || is_on_target, self.target.is_some()) {
            (true, _) => Side::Target,
            (false, true) => Side::Source,
            (false, false) => Side::Hosting,
        }
    }

    fn find_claims(&self) -> Vec<VmClaim<'c>> {
        let mut claims: Vec<VmClaim<'c>> = Vec::new();
        let of_vmi = self.vmi.map_or(&[][..], |vmi| &vmi.volumes);
        let of_vm = self.vm.map_or(&[][..], |vm| &vm.volumes);
        for volume in of_vmi.iter().chain(of_vm) {
            let Some(name) = &volume.claim else { continue };
            if !claims.iter().any(|known| known.name == *name) {
                claims.push(self.claim(Some(volume.name.clone()), name));
            }
        }
        for (volume, name) in self.pods.iter().flat_map(|of| &of.pod.claims) {
            if !claims.iter().any(|known| known.name == *name) {
                claims.push(self.claim(Some(volume.clone()), name));
            }
        }
        claims
    }

    fn claim(&self, volume: Option<String>, name: &str) -> VmClaim<'c> {
        let claim = self.cluster.claims.get(&(self.key.0.clone(), name.to_owned()));
        let by_name = claim.and_then(|claim| self.cluster.volumes.get(claim.volume.as_ref()?));
        let by_reference = || self.cluster.volume_for(&(self.key.0.clone(), name.to_owned()));
        VmClaim { volume, name: name.to_owned(), claim, persistent: by_name.or_else(by_reference) }
    }

    fn add_importers(&mut self) {
        for claim in &self.claims {
            let importers = self.cluster.pods_of_claim(&(self.key.0.clone(), claim.name.clone()));
            let importers = importers.into_iter().map(|pod| VmPod { pod, part: Part::Importer, side: Side::Hosting });
            self.pods.extend(importers);
        }
    }
}

impl VmClaim<'_> {
    /// Name of the persistent volume, even if only the claim tells of it.
    pub(crate) fn volume_name(&self) -> Option<&str> {
        let of_claim = self.claim.and_then(|claim| claim.volume.as_deref());
        self.persistent.map(|volume| volume.meta.name.as_str()).or(of_claim)
    }
}
