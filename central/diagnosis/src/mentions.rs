//! Who is named by what a finding mentions: a table from names to those who bear them.
//!
//! Texts name a VM in many ways ([`Identity::mention`]). Everybody is entered under a hash of each text by which that could happen;
//! whoever stands there is asked himself then, so that two of one hash do no harm. Long names of volumes are looked for inside
//! longer texts: they are entered under their longest piece, which stands there as a piece too.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use kulprit_model::{
    Attributes,
    attribute::{IMAGE, POD, POD_UID, VMI, VOLUME},
};

use crate::{
    identity::{Identity, Mention, filled_by, is_long, is_of_a_name, launched_by},
    snapshot::Snapshot,
};

/// Somebody, by position in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    /// A VM of the cluster.
    Vm(usize),
    /// A VM as a node knows it: the node and the VM.
    View(usize, usize),
}

impl Named {
    fn identity(self, snapshot: &Snapshot) -> Identity<'_> {
        match self {
            Self::Vm(index) => Identity::of_cluster_vm(&snapshot.cluster_vms[index]),
            Self::View(node, nth) => Identity::of_view(&snapshot.nodes[node].vms[nth]),
        }
    }
}

/// How a text names somebody.
#[derive(Clone, Copy, Hash)]
enum By {
    Uid,
    Name,
    Pod,
    /// In lower case.
    PodUid,
    PieceOfVolume,
    Volume,
    Image,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Mentions {
    named: HashMap<u64, Vec<Named>>,
    /// Lengths of the UIDs of pods, for finding them within paths.
    uid_lens: BTreeSet<usize>,
}

impl Mentions {
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let mut mentions = Self { named: HashMap::new(), uid_lens: BTreeSet::new() };
        for (index, vm) in snapshot.cluster_vms.iter().enumerate() {
            let named = Named::Vm(index);
            mentions.add(By::Name, &vm.name, named);
            for uid in std::iter::once(&vm.uid).chain(&vm.uids) {
                mentions.add(By::Uid, uid, named);
            }
            for pod in &vm.pods {
                mentions.add(By::Pod, &pod.name, named);
                if let Some(uid) = &pod.uid {
                    mentions.add(By::PodUid, &uid.to_ascii_lowercase(), named);
                    mentions.uid_lens.insert(uid.len());
                }
            }
            for volume in &vm.volumes {
                mentions.add(By::PieceOfVolume, piece(volume), named);
                mentions.add(By::Volume, volume, named);
            }
            for image in &vm.images {
                mentions.add(By::Image, image, named);
            }
        }
        for (index, node) in snapshot.nodes.iter().enumerate() {
            for (nth, view) in node.vms.iter().enumerate() {
                mentions.add(By::Name, &view.name, Named::View(index, nth));
                mentions.add(By::Uid, &view.uid, Named::View(index, nth));
            }
        }
        mentions
    }

    fn add(&mut self, by: By, text: &str, named: Named) {
        let bearers = self.named.entry(hash(by, text.as_bytes())).or_default();
        if bearers.last() != Some(&named) {
            bearers.push(named);
        }
    }

    fn of(&self, by: By, text: &str) -> &[Named] {
        self.named.get(&hash(by, text.as_bytes())).map_or(&[], Vec::as_slice)
    }

    /// Everybody whom these attributes name, each at least once.
    pub(crate) fn named_by<'s>(
        &'s self,
        snapshot: &'s Snapshot,
        attributes: &'s Attributes,
    ) -> impl Iterator<Item = Named> + 's {
        let is_it = move |named: &Named| named.identity(snapshot).mention(attributes) == Mention::Named;
        self.bearers(attributes).into_iter().flatten().copied().filter(is_it)
    }

    /// Whoever stands where somebody that the attributes name would.
    fn bearers<'s>(&'s self, attributes: &'s Attributes) -> Vec<&'s [Named]> {
        let mut bearers = Vec::new();
        // Who bears a name and is not meant by these is not meant at all: what follows them is not asked.
        let mut is_decided = false;
        if let Some(uid) = attributes.get(POD_UID) {
            bearers.push(self.of(By::PodUid, &uid.to_ascii_lowercase()));
        }
        if let Some(text) = attributes.get(VMI) {
            is_decided = true;
            let name = text.split_once('/').or_else(|| text.split_once('_')).map_or(text, |(_, name)| name);
            bearers.push(self.of(By::Uid, text));
            bearers.push(self.of(By::Name, name));
        }
        if let Some(text) = attributes.get(POD) {
            let name = text.split_once('/').map_or(text, |(_, name)| name);
            bearers.push(self.of(By::Pod, name));
            bearers.extend(filled_by(name).map(|claim| self.of(By::Volume, claim)));
            if let Some(vm) = launched_by(name) {
                is_decided = true;
                bearers.push(self.of(By::Name, vm));
            }
        }
        if is_decided {
            return bearers;
        }
        if let Some(text) = attributes.get(VOLUME) {
            bearers.push(self.of(By::PieceOfVolume, ""));
            bearers.extend(pieces(text).map(|piece| self.of(By::PieceOfVolume, piece)));
        }
        bearers.extend(attributes.get(IMAGE).map(|image| self.of(By::Image, image)));
        bearers
    }

    /// Everybody in whose folder a path lies, as [`Identity::is_path`] has it.
    pub(crate) fn owning<'s>(&'s self, snapshot: &'s Snapshot, path: &'s str) -> impl Iterator<Item = Named> + 's {
        let lower = path.to_ascii_lowercase();
        let mut bearers: Vec<&[Named]> = Vec::new();
        for len in self.uid_lens.iter().filter(|len| **len > 0) {
            let of_uid = |window: &[u8]| self.named.get(&hash(By::PodUid, window)).map(Vec::as_slice);
            bearers.extend(lower.as_bytes().windows(*len).filter_map(of_uid));
        }
        bearers.extend(path.split('/').filter(|part| is_long(part)).map(|part| self.of(By::Volume, part)));
        bearers.into_iter().flatten().copied().filter(move |named| named.identity(snapshot).is_path(path))
    }
}

fn hash(by: By, text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    by.hash(&mut hasher);
    text.hash(&mut hasher);
    hasher.finish()
}

/// The pieces of a text in which a name of a volume is looked for.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_of_a_name(c)).filter(|piece| !piece.is_empty())
}

/// The piece of a volume's name that stands for it: the longest; empty if it has none.
fn piece(volume: &str) -> &str {
    pieces(volume).max_by_key(|piece| piece.len()).unwrap_or_default()
}
