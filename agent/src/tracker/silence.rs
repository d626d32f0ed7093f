//! What it costs when a probe is blind, silent, or looks past a state: what it owns is `Unknown`, and each has its reason.
//!
//! Silence counts from the last look, three times the probe's interval; a state counts on its own, because looks by event speak
//! of one subject only. If the tracker itself was held up, nobody was silent in that time.

use kulprit_judge::StateVerdict;
use kulprit_model::{
    Evidence, FindingCode, Moment, Status, Subject,
    catalogue::{CATALOGUE, Kind},
    subject::SubjectType,
};

use super::{Due, Tracker, hold::Track, lifetime::OF_PROCESS, vms::Vms};

/// A state that its probe looks past counts as not looked at after this at the earliest, microseconds: looks by event speak of
/// one subject only, full looks come more rarely.
const PASSED_OVER_USEC: i64 = 120_000_000;

impl Tracker {
    /// A probe could not look: all it owns is `Unknown`, and so is what it would have said of the node.
    pub(super) fn blind(&mut self, index: usize, because: &str, at: Moment) {
        let name = self.probes[index].view.name;
        self.probes[index].view.blind_because = Some(because.to_owned());
        let rows = CATALOGUE.iter().filter(|spec| spec.probe == name && spec.kind == Kind::State);
        for spec in rows.filter(|spec| spec.subject == SubjectType::Node) {
            self.states.entry((spec.code, Subject::Node)).or_insert_with(Track::new);
        }
        let mut changes = Vec::new();
        for ((code, subject), track) in &mut self.states {
            if code.spec().probe == name && !is_at_rest(&self.vms, *code, subject) {
                changes.push(track.lose(*code, subject, because.to_owned(), at));
            }
        }
        self.due = Due::NOW;
        changes.into_iter().for_each(|change| self.count(change));
        let evidence = vec![Evidence::new("agent", at, format!("probe `{name}` could not look: {because}"))];
        self.see_state(StateVerdict { evidence, ..blindness(name, true) }, at);
    }

    pub(super) fn can_see(&mut self, index: usize, at: Moment) {
        let name = self.probes[index].view.name;
        self.probes[index].view.blind_because = None;
        self.see_state(blindness(name, false), at);
    }

    /// We did not run for a while: nobody was silent in that time.
    pub(super) fn woke_up(&mut self, now: Moment) {
        for probe in &mut self.probes {
            probe.heard = now;
        }
        for track in self.states.values_mut().filter(|track| track.looked.is_some()) {
            track.looked = Some(now);
        }
    }

    pub(super) fn mark_silent(&mut self, now: Moment) {
        for index in 0..self.probes.len() {
            let probe = &self.probes[index];
            let silence_usec = now.usec_since(probe.heard);
            if probe.view.blind_because.is_none() && silence_usec >= probe.limit_usec {
                let because = format!("the probe has not looked for {} s", silence_usec / 1_000_000);
                self.blind(index, &because, now);
            }
        }
        let mut changes = Vec::new();
        for ((code, subject), track) in &mut self.states {
            let owner = self.probes.iter().find(|probe| probe.view.name == code.spec().probe);
            let Some(owner) = owner.filter(|owner| owner.view.blind_because.is_none()) else { continue };
            let looked = track.looked.unwrap_or(self.started);
            let passed_over_usec = now.usec_since(looked);
            let is_forgotten = passed_over_usec >= owner.limit_usec.max(PASSED_OVER_USEC);
            if is_forgotten && track.status() != Some(Status::Unknown) && !is_at_rest(&self.vms, *code, subject) {
                let because = format!("the probe has not looked at it for {} s", passed_over_usec / 1_000_000);
                changes.push(track.lose(*code, subject, because, now));
                self.due = Due::NOW;
            }
        }
        changes.into_iter().for_each(|change| self.count(change));
    }
}

fn blindness(probe: &str, is_blind: bool) -> StateVerdict {
    StateVerdict::seen(FindingCode::ProbeBlind, Subject::Probe { name: probe.to_owned() }, is_blind)
}

/// A VM's state that nobody is expected to look at: it has no process, or libvirt has no domain.
fn is_at_rest(vms: &Vms, code: FindingCode, subject: &Subject) -> bool {
    match (code.spec().probe, subject.vm_uid()) {
        (probe, Some(uid)) if OF_PROCESS.contains(&probe) => vms.has_domain(uid) && !vms.has_qemu(uid),
        (_, _) => false,
    }
}
