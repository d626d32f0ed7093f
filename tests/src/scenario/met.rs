//! Whether what Kulprit says is what a scenario's file says: of whom, why, where, and of nobody else.

use anyhow::{Result, bail};

use super::file::{Expected, FoundSpec, Scenario};
use super::watch::Watch;
use super::words;
use crate::system::answers::{Finding, Verdict};

/// Name of the VM, or of the node.
pub(super) fn name_of(verdict: &Verdict) -> &str {
    if verdict.subject.name.is_empty() { &verdict.subject.node } else { &verdict.subject.name }
}

pub(super) fn is_subject(expected: &Expected, verdict: &Verdict) -> bool {
    let subject = &verdict.subject;
    subject.name == expected.vm.as_deref().unwrap_or_default()
        && expected.node.as_ref().is_none_or(|node| *node == subject.node)
}

pub(super) fn is_found(expected: &Expected, finding: &Finding) -> bool {
    let is_of_another = !finding.vm.is_empty() && expected.vm.as_ref().is_some_and(|vm| *vm != finding.vm);
    let is_there = expected.vm.is_some() || expected.node.as_ref().is_none_or(|node| *node == finding.node);
    finding.code == expected.finding && !is_of_another && is_there && finding.holds()
}

pub(super) fn is_shown(wanted: &FoundSpec, finding: &Finding) -> bool {
    let FoundSpec { vm, node, finding: code, saying, within: _ } = wanted;
    let says = finding.evidence.first().is_some_and(|evidence| evidence.text.contains(saying));
    finding.code == *code
        && finding.vm == vm.as_deref().unwrap_or_default()
        && node.as_ref().is_none_or(|node| *node == finding.node)
        && finding.holds()
        && says
}

pub(super) fn is_met(expected: &Expected, verdict: &Verdict) -> bool {
    let is_cause = verdict.causes.first().is_some_and(|cause| {
        cause.chain == expected.chain
            && cause.id == expected.root()
            && cause.node == expected.at.as_deref().unwrap_or_default()
            && expected.role.as_ref().is_none_or(|role| *role == cause.role)
    });
    is_cause && verdict.symptom == expected.symptom && verdict.confidence == "verdict" && !verdict.incident.is_empty()
}

/// Fails if anybody was ever blamed whom the scenario does not name.
pub(super) fn check_nobody_else(scenario: &Scenario, watch: &Watch<'_>) -> Result<()> {
    for (at, verdict) in watch.ever()? {
        let is_named = scenario.expected().any(|expected| is_subject(expected, &verdict));
        let is_also = |expected: &Expected| {
            let is_root = verdict.first_cause() == expected.root() || verdict.confidence == "unexplained";
            is_root && expected.also.iter().any(|who| who == name_of(&verdict))
        };
        if !is_named && !may_show(scenario, &verdict) && !scenario.expected().any(is_also) {
            bail!("blamed after {:.1} s: {}", at.as_secs_f64(), words::of_verdict(&verdict));
        }
    }
    Ok(())
}

/// Whether it is of somebody whom the fault itself makes unwell.
pub(super) fn may_show(scenario: &Scenario, verdict: &Verdict) -> bool {
    scenario.may_show.iter().any(|who| who == name_of(verdict))
}
