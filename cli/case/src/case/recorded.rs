//! A case that central recorded: `snapshot.json` is what it decided from, so it is all that is asked.
//!
//! It is narrowed to whom the case is about: other VMs have names in it and nothing that they said. Files of hosts or objects beside
//! it are not read, and said not to be: joined with what is whole already they would be counted twice. Written by
//! `kulprit-central` (`kulprit record`), read by [`kulprit_diagnosis::written`].

use std::path::{Path, PathBuf};

use kulprit_diagnosis::{
    Snapshot,
    written::{ReadError, ReadSnapshot, read_snapshot},
};

use super::{About, Case, Options};
use crate::{
    error::CaseError,
    folder::Folder,
    gathered::Problem,
    layout::{Layout, Part},
    manifest::{Manifest, SubjectName},
};

/// Name of the file beside `case.yaml`.
const FILE: &str = "snapshot.json";
/// It is read whole, up to this.
const MAX_BYTES: u64 = 256 << 20;

/// The written snapshot of a case, if it has one.
pub(super) fn file_of(layout: &Layout, parts: &[(PathBuf, Part)]) -> Option<PathBuf> {
    let Layout::Case(root) = layout else { return None };
    let file = root.join(FILE);
    parts.iter().any(|(own, _)| *own == file).then_some(file)
}

pub(super) fn open(
    folder: &Folder,
    file: &Path,
    manifest: &Manifest,
    options: &Options,
    parts: &[(PathBuf, Part)],
    mut problems: Vec<Problem>,
) -> Result<Case, CaseError> {
    let text = folder.read_text(file, MAX_BYTES).map_err(|source| CaseError::Open { path: file.to_owned(), source })?;
    let read = serde_json::from_str(&text).map_err(ReadError::from).and_then(read_snapshot);
    let ReadSnapshot { mut snapshot, n_unknown } =
        read.map_err(|source| CaseError::Snapshot { path: file.to_owned(), source })?;
    let mut problem = |why: String| problems.push(Problem { file: file.to_owned(), line: None, why });
    if n_unknown > 0 {
        problem(format!("{n_unknown} findings of another version's catalogue are left out"));
    }
    let n_beside = parts.iter().filter(|(_, part)| *part != Part::Other).count();
    if n_beside > 0 {
        problem(format!("{n_beside} files beside it are not read: it is all that was decided from"));
    }
    if let Some(at_usec) = options.at_usec {
        snapshot.reference_wall_usec = at_usec;
    }
    let about = about(&snapshot, manifest, options)?;
    Ok(Case { snapshot, about, problems, kept: Vec::new() })
}

fn about(snapshot: &Snapshot, manifest: &Manifest, options: &Options) -> Result<About, CaseError> {
    let uid = |subject: &SubjectName| {
        uid_of(snapshot, subject)
            .ok_or_else(|| CaseError::Subject(format!("no VM `{}` in the case", full_name(subject))))
    };
    let recorded = manifest.subject.as_ref().map(uid).transpose()?;
    let Some(asked) = &options.subject else {
        let of_manifest = manifest.subject.as_ref().and_then(|subject| subject.migration.clone());
        return Ok(match (recorded, &manifest.node) {
            (Some(uid), _) => About::Vm(uid, of_manifest),
            (None, Some(node)) => About::Node(node.clone()),
            (None, None) => About::Everything,
        });
    };
    let uid = uid(asked)?;
    if recorded.as_ref() != Some(&uid) && is_name_only(snapshot, &uid) {
        let whom = manifest.subject.as_ref().map(full_name).or_else(|| manifest.node.clone()).unwrap_or_default();
        let why = format!("the case was recorded for {whom}: of `{}` it has the name only", full_name(asked));
        return Err(CaseError::Subject(why));
    }
    Ok(About::Vm(uid, asked.migration.clone()))
}

/// By its UID or name; an empty namespace is any.
fn uid_of(snapshot: &Snapshot, subject: &SubjectName) -> Option<String> {
    let is_it = |namespace: &str, name: &str, uid: &str| {
        uid == subject.name || name == subject.name && (subject.namespace.is_empty() || namespace == subject.namespace)
    };
    let of_cluster = snapshot.cluster_vms.iter().find(|vm| is_it(&vm.namespace, &vm.name, &vm.uid));
    let of_hosts = || {
        let views = snapshot.nodes.iter().flat_map(|node| &node.vms);
        views.map(|vm| (vm.namespace.as_deref().unwrap_or_default(), vm)).find(|(ns, vm)| is_it(ns, &vm.name, &vm.uid))
    };
    of_cluster.map(|vm| vm.uid.clone()).or_else(|| of_hosts().map(|(_, vm)| vm.uid.clone()))
}

/// Whether nothing but the names of a VM of the cluster was written.
fn is_name_only(snapshot: &Snapshot, uid: &str) -> bool {
    snapshot.cluster_vm(uid).is_some_and(|vm| !vm.life.has_vm && !vm.life.has_vmi && vm.findings.is_empty())
}

fn full_name(subject: &SubjectName) -> String {
    if subject.namespace.is_empty() { subject.name.clone() } else { format!("{}/{}", subject.namespace, subject.name) }
}
