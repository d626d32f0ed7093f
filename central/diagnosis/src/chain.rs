//! Chains: which cause is the root, and what it brings about on the way to the symptom.
//!
//! A cause with at least [`OWN_EVIDENCE_DB`] of its own evidence that explains another such cause is its root. The explained one
//! stands in the chain and no longer competes. A chain is as sure as its surest link: what proves a QEMU in state D proves that
//! *something* blocks it, and the link above says what.

use kulprit_model::Side;

use crate::{catalogue::Scope, score::ScoreSheet};

/// How much evidence of its own a cause needs to be part of a chain, decibans.
pub(crate) const OWN_EVIDENCE_DB: f64 = 7.0;

/// What ended this long before a cause began is not its work, microseconds: more than a probe takes to be sure of what it sees, and more
/// than two clocks differ.
const ENDED_BEFORE_USEC: i64 = 30_000_000;

/// One competitor: a root with what it explains, or a cause alone.
#[derive(Debug)]
pub(crate) struct Chain<'s> {
    /// Root first.
    pub(crate) links: Vec<&'s ScoreSheet>,
}

impl Chain<'_> {
    pub(crate) fn root(&self) -> &ScoreSheet {
        self.links[0]
    }

    /// The score of the surest link, decibans.
    pub(crate) fn score_db(&self) -> f64 {
        self.links.iter().map(|sheet| sheet.score_db()).fold(f64::NEG_INFINITY, f64::max)
    }

    /// Whether anything was seen that speaks for it.
    pub(crate) fn has_evidence(&self) -> bool {
        has_own_evidence(self.root())
    }

    /// Whether it has enough evidence to stand beside `Unexplained`.
    pub(crate) fn competes(&self) -> bool {
        self.links.iter().any(|sheet| sheet.competes())
    }
}

fn has_own_evidence(sheet: &ScoreSheet) -> bool {
    sheet.own_db() >= OWN_EVIDENCE_DB
}

/// Joins the sheets into chains, in the order of the catalogue of their roots. A cause that two roots could explain goes to the
/// one with the higher score.
pub(crate) fn join(sheets: &[ScoreSheet]) -> Vec<Chain<'_>> {
    let parents: Vec<Option<usize>> = sheets.iter().map(|sheet| parent_of(sheet, sheets)).collect();
    let mut chains = Vec::new();
    for (index, parent) in parents.iter().enumerate() {
        if parent.is_none() {
            let mut links = Vec::new();
            add_with_children(index, sheets, &parents, &mut links);
            chains.push(Chain { links });
        }
    }
    chains
}

fn parent_of(sheet: &ScoreSheet, sheets: &[ScoreSheet]) -> Option<usize> {
    if !has_own_evidence(sheet) {
        return None;
    }
    let mut best: Option<usize> = None;
    for (index, other) in sheets.iter().enumerate() {
        if other.cause.explains.contains(&sheet.cause.id)
            && reaches(other, sheet)
            && !had_ended_before(sheet, other)
            && has_own_evidence(other)
            && best.is_none_or(|best| other.score_db() > sheets[best].score_db())
        {
            best = Some(index);
        }
    }
    best
}

/// Whether what a cause does can be felt where the other sits: what befalls the target of a migration is not done by what sits in the
/// host that the VM is still on.
fn reaches(root: &ScoreSheet, sheet: &ScoreSheet) -> bool {
    let is_hosts = root.role == Side::Hosting && matches!(root.cause.scope, Scope::Node | Scope::Device);
    !(is_hosts && sheet.role == Side::Target) || root.node.is_none() || sheet.node.is_none() || root.node == sheet.node
}

/// Whether all that speaks for a cause was over when what would explain it began: a device's name may have been another disk's then.
fn had_ended_before(sheet: &ScoreSheet, root: &ScoreSheet) -> bool {
    sheet.ended_usec().saturating_add(ENDED_BEFORE_USEC) < root.began_usec()
}

/// Depth first; the catalogue's graph has no circle (tested there).
fn add_with_children<'s>(
    index: usize,
    sheets: &'s [ScoreSheet],
    parents: &[Option<usize>],
    links: &mut Vec<&'s ScoreSheet>,
) {
    links.push(&sheets[index]);
    for (child, parent) in parents.iter().enumerate() {
        if *parent == Some(index) {
            add_with_children(child, sheets, parents, links);
        }
    }
}
