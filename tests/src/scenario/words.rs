//! How a scenario tells of verdicts and findings: one line each, for timelines and failures.

use super::file::{Expected, Step};
use crate::system::answers::{Finding, Verdict};

/// What is done or waited for: `Freeze("data")`, or the answer that is expected.
pub(crate) fn of_step(step: &Step) -> String {
    let Step::Expect(expected) = step else { return format!("{step:?}") };
    let Expected { vm, node, symptom, chain, at, .. } = expected;
    let whom = vm.as_ref().or(node.as_ref()).map_or("", String::as_str);
    format!("waiting for {whom}: {symptom} by {} at {}", chain.join(" → "), at.as_deref().unwrap_or("no node"))
}

/// `db on n1: Unresponsive by LocalDiskStalled → QemuBlockedInKernel (verdict 0.97, hosting n1)`.
pub(crate) fn of_verdict(verdict: &Verdict) -> String {
    let subject = &verdict.subject;
    let whom =
        if subject.name.is_empty() { subject.node.clone() } else { format!("{} on {}", subject.name, subject.node) };
    let Some(first) = verdict.causes.first() else {
        return format!("{whom}: {} by nothing known ({})", verdict.symptom, verdict.confidence);
    };
    let side = [first.role.as_str(), first.node.as_str()].join(" ");
    let (symptom, chain, confidence) = (&verdict.symptom, first.chain.join(" → "), &verdict.confidence);
    format!("{whom}: {symptom} by {chain} ({confidence} {:.2}, {})", first.probability, side.trim())
}

/// `VmDiskStalled on n1 (db)`.
pub(crate) fn of_finding(finding: &Finding) -> String {
    let about = if finding.vm.is_empty() { &finding.subject } else { &finding.vm };
    let unknown = if finding.status.as_deref() == Some("Unknown") { ", unknown" } else { "" };
    format!("{} on {} ({about}{unknown})", finding.code, finding.node)
}
