//! Could this VM migrate now, to which nodes, and what would stop it: what Kubernetes' objects say, joined with what the hosts show.
//!
//! What a host fault would do to a migration the catalogue of causes knows: a migration that has not begun is laid out as if it failed
//! at this moment, once for each node, and every cause is weighed at the source, at the target and between them. A cause that would be
//! a verdict by a look of now stops it; a weaker one is a warning. A node from which no agent reports is unseen, never fine.

mod hosts;

use std::collections::BTreeMap;

use kulprit_cluster::{Check, ClusterVm, MigrationTerms, NodeFit, Preflight};

use crate::snapshot::Snapshot;
use hosts::{HostRisks, Risk};

/// Whether a VM could migrate.
#[derive(Clone, Debug, PartialEq)]
pub struct CanMigrate {
    /// The answer.
    pub answer: MigrationAnswer,
    /// Why, one sentence without a full stop.
    pub because: String,
    /// Node that it would leave, if that is known.
    pub source: Option<String>,
    /// What stops every migration of it.
    pub blockers: Vec<Obstacle>,
    /// What may stop it, or makes it wait.
    pub warnings: Vec<Obstacle>,
    /// What would have to be known and is not, one sentence each.
    pub unknown: Vec<String>,
    /// What is in nobody's way and worth knowing, one sentence each.
    pub notes: Vec<String>,
    /// Under which limits it would run.
    pub terms: MigrationTerms,
    /// Every node that was asked for: those that fit first, then by name.
    pub nodes: Vec<CandidateNode>,
}

/// Whether a VM could migrate, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationAnswer {
    /// Nothing speaks against it, and a node fits.
    Yes,
    /// A node fits, and something may be in the way.
    YesWithWarnings,
    /// The VM, its source or every node speaks against it.
    No,
    /// What would have to be known is not.
    Unknown,
}

/// A node to which it could go.
#[derive(Clone, Debug, PartialEq)]
pub struct CandidateNode {
    /// Its name.
    pub name: String,
    /// Whether it could go there.
    pub fit: Fit,
    /// What stops it there.
    pub misfits: Vec<Obstacle>,
    /// What may stop it there.
    pub warnings: Vec<Obstacle>,
    /// What could not be seen there, one sentence each.
    pub unknown: Vec<String>,
}

/// Whether a node fits. In the order of how good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Nothing speaks against it, and its agent looked.
    Fits,
    /// It fits, and something there may be in the way, or could not be looked at.
    FitsWithWarnings,
    /// Nothing that was seen speaks against it, and its host, or what Kubernetes has of it, was not seen.
    Unseen,
    /// It does not fit.
    DoesNotFit,
}

/// Something in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is.
    pub what: String,
    /// Where it was read: the object and field, or the agent and its source.
    pub source: String,
    /// What to do about it; commands are ready to paste.
    pub fix: Vec<String>,
    /// Id in the catalogue of causes; empty for what Kubernetes' objects say.
    pub cause: &'static str,
}

impl From<Check> for Obstacle {
    fn from(Check { what, source, fix }: Check) -> Self {
        let fix = if fix.is_empty() { Vec::new() } else { vec![fix] };
        Self { what, source, fix, cause: "" }
    }
}

/// Whether `vm` could migrate, by what `preflight` says of it and the hosts of `snapshot` show; only to the node `to` if that is given.
#[must_use]
pub fn can_migrate(snapshot: &Snapshot, vm: &ClusterVm, preflight: Preflight, to: Option<&str>) -> CanMigrate {
    let Preflight { source, blockers, warnings, unknown, notes, terms, nodes } = preflight;
    let mut answer = CanMigrate {
        answer: MigrationAnswer::Unknown,
        because: String::new(),
        source,
        blockers: blockers.into_iter().map(Obstacle::from).collect(),
        warnings: warnings.into_iter().map(Obstacle::from).collect(),
        unknown,
        notes,
        terms,
        nodes: Vec::new(),
    };
    if !answer.unknown.is_empty() {
        answer.unknown.extend(snapshot.cluster_sight.unseen.iter().cloned());
    }
    // A VM that does not run has no host whose faults would be in its way.
    let risks = answer.source.as_deref().filter(|_| vm.life.has_vmi).map(|source| HostRisks::new(snapshot, vm, source));
    if let Some(risks) = &risks {
        let of_source = risks.of_source();
        for risk in of_source.risks {
            let list = if risk.is_stopper { &mut answer.blockers } else { &mut answer.warnings };
            list.push(risk.obstacle);
        }
        answer.unknown.extend(of_source.unseen);
        answer.warnings.extend(blind(of_source.blind));
    }
    let wanted = nodes.into_iter().filter(|node| to.is_none_or(|to| node.name == to));
    answer.nodes = wanted.map(|node| candidate(node, risks.as_ref())).collect();
    answer.nodes.sort_by(|a, b| (a.fit, &a.name).cmp(&(b.fit, &b.name)));
    (answer.answer, answer.because) = decide(&answer);
    answer
}

/// What nobody could look at on the source, as one warning.
fn blind(sentences: Vec<String>) -> Option<Obstacle> {
    let what = format!("not all of its host could be looked at: {}", sentences.join("; "));
    (!sentences.is_empty()).then(|| Obstacle { what, source: "agent".to_owned(), ..Obstacle::default() })
}

fn candidate(node: NodeFit, risks: Option<&HostRisks<'_>>) -> CandidateNode {
    let NodeFit { name, misfits, unknown } = node;
    let mut candidate = CandidateNode {
        fit: Fit::Fits,
        misfits: misfits.into_iter().map(Obstacle::from).collect(),
        warnings: Vec::new(),
        unknown,
        name,
    };
    let mut is_unseen = !candidate.unknown.is_empty();
    let mut is_blind = false;
    if let Some(risks) = risks {
        let of_target = risks.of_target(&candidate.name);
        for Risk { is_stopper, obstacle } in of_target.risks {
            let list = if is_stopper { &mut candidate.misfits } else { &mut candidate.warnings };
            list.push(obstacle);
        }
        is_unseen |= of_target.unseen.is_some();
        is_blind = !of_target.blind.is_empty();
        candidate.unknown.extend(of_target.unseen);
        candidate.unknown.extend(of_target.blind);
    }
    candidate.fit = if !candidate.misfits.is_empty() {
        Fit::DoesNotFit
    } else if is_unseen {
        Fit::Unseen
    } else if is_blind || !candidate.warnings.is_empty() {
        Fit::FitsWithWarnings
    } else {
        Fit::Fits
    };
    candidate
}

fn decide(found: &CanMigrate) -> (MigrationAnswer, String) {
    if let Some(first) = found.blockers.first() {
        let more = found.blockers.len() - 1;
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        return (MigrationAnswer::No, format!("{}{more}", first.what));
    }
    let of = |fit: Fit| found.nodes.iter().filter(move |node| node.fit == fit).map(|node| node.name.as_str());
    let n_unseen = of(Fit::Unseen).count();
    let fitting: Vec<&str> = of(Fit::Fits).chain(of(Fit::FitsWithWarnings)).collect();
    if let Some(first) = found.unknown.first() {
        return (MigrationAnswer::Unknown, first.clone());
    }
    if fitting.is_empty() && n_unseen > 0 {
        let sentence = found.nodes.iter().find(|node| node.fit == Fit::Unseen).and_then(|node| node.unknown.first());
        let why = sentence.map(|sentence| format!(" ({sentence})")).unwrap_or_default();
        let what = match n_unseen {
            1 => format!("of the only node that is left not enough could be seen{why}"),
            _ => format!("of none of the {n_unseen} nodes that are left enough could be seen{why}"),
        };
        return (MigrationAnswer::Unknown, what);
    }
    let what = match fitting.as_slice() {
        [] => return (MigrationAnswer::No, none_fits(found)),
        [one] => format!("{one} fits"),
        [first, second] => format!("{first} and {second} fit"),
        [first, second, others @ ..] => format!("{first}, {second} and {} more nodes fit", others.len()),
    };
    let is_clear = found.warnings.is_empty() && of(Fit::Fits).next().is_some();
    if is_clear {
        return (MigrationAnswer::Yes, what);
    }
    let first = found.warnings.first().or_else(|| found.nodes.iter().find_map(|node| node.warnings.first()));
    let but = first.map(|first| format!("; but {}", first.what)).unwrap_or_default();
    (MigrationAnswer::YesWithWarnings, format!("{what}{but}"))
}

/// Why no node is left: the reason that most of them share.
fn none_fits(found: &CanMigrate) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in &found.nodes {
        if let Some(first) = node.misfits.first() {
            *counts.entry(&first.what).or_default() += 1;
        }
    }
    let most = counts.into_iter().max_by_key(|(_, n)| *n).map(|(what, _)| what);
    match (found.nodes.as_slice(), most) {
        ([], _) => "there is no other node".to_owned(),
        ([node], Some(what)) => format!("{} does not fit: {what}", node.name),
        (nodes, Some(what)) => format!("none of the {} other nodes fits: {what}, and so on", nodes.len()),
        (nodes, None) => format!("none of the {} other nodes fits", nodes.len()),
    }
}
