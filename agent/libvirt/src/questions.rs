//! Which question about which domain comes next.
//!
//! The agent's own go first, then disks, then jobs. A question that is put back waits until a look says that nobody has a
//! command to the domain's QEMU in flight any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kulprit_proto::worker::{self, DomainEvent, domain_event::Event};
use virt_sys as sys;

use crate::look::{Question, is_free};

/// Requests of the agent kept while the lane is busy; more are declined.
const MAX_REQUESTS: usize = 16;

/// The questions that wait, and what is known of the domains.
#[derive(Default)]
pub(crate) struct Questions {
    /// UUIDs of the last look, and whether they may be asked.
    is_free: BTreeMap<String, bool>,
    wants_disks: BTreeSet<String>,
    /// And whether a round begins.
    wants_job: BTreeMap<String, bool>,
    disk_error_requests: VecDeque<(u64, String)>,
}

impl Questions {
    /// Takes a request of the agent; `false` if there are too many.
    pub(crate) fn request_disk_errors(&mut self, request_id: u64, uuid: String) -> bool {
        let has_room = self.disk_error_requests.len() < MAX_REQUESTS;
        if has_room {
            self.disk_error_requests.push_back((request_id, uuid));
        }
        has_room
    }

    /// Takes the agent's wish for a job's figures, of a domain that the last look knew.
    pub(crate) fn request_job(&mut self, uuid: String) {
        if self.is_free.contains_key(&uuid) {
            self.wants_job.entry(uuid).or_default();
        }
    }

    /// Learns from a look. The first one after connecting asks for the disks of all.
    pub(crate) fn note_look(&mut self, domains: &[worker::Domain]) {
        if self.is_free.is_empty() {
            self.wants_disks.extend(domains.iter().map(|domain| domain.uuid.clone()));
        }
        let may_ask = |domain: &worker::Domain| is_free(domain.control.as_ref()) && !is_arriving(domain);
        self.is_free = domains.iter().map(|domain| (domain.uuid.clone(), may_ask(domain))).collect();
        self.wants_disks.retain(|uuid| self.is_free.contains_key(uuid));
    }

    /// Learns from an event.
    pub(crate) fn note_event(&mut self, event: &DomainEvent) {
        match &event.event {
            Some(Event::Lifecycle(lifecycle)) => {
                let kind = lifecycle.event.cast_unsigned();
                if kind == sys::VIR_DOMAIN_EVENT_DEFINED || kind == sys::VIR_DOMAIN_EVENT_STARTED {
                    self.note_devices_changed(event.uuid.clone());
                }
            }
            // The start of a round, and QEMU has just shown that it answers: the right moment, and the only safe one.
            Some(Event::MigrationIteration(_)) => {
                self.wants_job.insert(event.uuid.clone(), true);
            }
            Some(
                Event::IoError(_)
                | Event::ControlError(_)
                | Event::JobCompleted(_)
                | Event::Watchdog(_)
                | Event::MemoryFailure(_)
                | Event::QemuEvent(_),
            )
            | None => {}
        }
    }

    /// The disks of the domain may be others now.
    pub(crate) fn note_devices_changed(&mut self, uuid: String) {
        self.wants_disks.insert(uuid);
    }

    /// The domain could not be asked for its disks: not before the next look.
    pub(crate) fn put_back_disks(&mut self, uuid: String) {
        if let Some(is_free) = self.is_free.get_mut(&uuid) {
            *is_free = false;
        }
        self.wants_disks.insert(uuid);
    }

    /// The next question and the UUID of its domain.
    pub(crate) fn next(&mut self) -> Option<(String, Question)> {
        if let Some((request_id, uuid)) = self.disk_error_requests.pop_front() {
            return Some((uuid, Question::DiskErrors { request_id }));
        }
        let may_ask = |uuid: &&String| self.is_free.get(*uuid).is_some_and(|is_free| *is_free);
        if let Some(uuid) = self.wants_disks.iter().find(may_ask).cloned() {
            self.wants_disks.remove(&uuid);
            return Some((uuid, Question::Disks));
        }
        self.wants_job.pop_first().map(|(uuid, at_round_start)| (uuid, Question::Job { at_round_start }))
    }

    /// Forgets all; the numbers of the agent's requests that will not be asked.
    pub(crate) fn clear(&mut self) -> Vec<u64> {
        std::mem::take(self).disk_error_requests.into_iter().map(|(request_id, _)| request_id).collect()
    }
}

/// Whether the domain waits for its memory from another host. That is a job under which libvirt lets no question in: one would wait for
/// 30 s and end as an error in the log of a daemon that is well, and control info does not show it (measured: libvirt 11.3).
fn is_arriving(domain: &worker::Domain) -> bool {
    let is = |value: Option<i32>, constant: u32| value.is_some_and(|value| value.cast_unsigned() == constant);
    is(domain.state, sys::VIR_DOMAIN_PAUSED) && is(domain.reason, sys::VIR_DOMAIN_PAUSED_MIGRATION)
}

#[cfg(test)]
mod tests {
    use kulprit_proto::worker::{Control, Domain, Lifecycle, MigrationIteration};

    use super::*;

    /// A domain with this state of control info.
    fn domain(uuid: &str, control: u32) -> Domain {
        let control = Some(Control { state: control.cast_signed(), ..Default::default() });
        Domain { uuid: uuid.into(), control, ..Default::default() }
    }

    fn event(uuid: &str, event: Event) -> DomainEvent {
        DomainEvent { uuid: uuid.into(), event: Some(event), ..Default::default() }
    }

    fn started(uuid: &str) -> DomainEvent {
        let kind = sys::VIR_DOMAIN_EVENT_STARTED.cast_signed();
        event(uuid, Event::Lifecycle(Lifecycle { event: kind, detail: 0 }))
    }

    #[track_caller]
    fn check(questions: &mut Questions, want: &[(&str, Question)]) {
        let asked: Vec<_> = std::iter::from_fn(|| questions.next()).collect();
        let want: Vec<_> = want.iter().map(|(uuid, question)| ((*uuid).to_owned(), question.clone())).collect();
        assert_eq!(asked, want);
    }

    #[test]
    fn the_first_look_asks_for_all_disks_and_later_ones_for_none() {
        let mut questions = Questions::default();
        let look = [domain("a", sys::VIR_DOMAIN_CONTROL_OK), domain("b", sys::VIR_DOMAIN_CONTROL_OK)];
        questions.note_look(&look);
        check(&mut questions, &[("a", Question::Disks), ("b", Question::Disks)]);
        questions.note_look(&look);
        check(&mut questions, &[]);
    }

    #[test]
    fn a_domain_with_a_command_in_flight_is_asked_when_a_look_says_it_is_over() {
        for busy in [sys::VIR_DOMAIN_CONTROL_JOB, sys::VIR_DOMAIN_CONTROL_OCCUPIED, sys::VIR_DOMAIN_CONTROL_ERROR, 77] {
            let mut questions = Questions::default();
            questions.note_look(&[domain("a", busy)]);
            check(&mut questions, &[]);
            questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_OK)]);
            check(&mut questions, &[("a", Question::Disks)]);
        }
    }

    #[test]
    fn a_domain_that_arrives_is_asked_when_it_has_arrived() {
        let shown = |state: u32, reason: u32| Domain {
            state: Some(state.cast_signed()),
            reason: Some(reason.cast_signed()),
            ..domain("a", sys::VIR_DOMAIN_CONTROL_OK)
        };
        let mut questions = Questions::default();
        questions.note_look(&[shown(sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_MIGRATION)]);
        check(&mut questions, &[]);
        questions.note_look(&[shown(sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_MIGRATED)]);
        check(&mut questions, &[("a", Question::Disks)]);
        let mut questions = Questions::default();
        questions.note_look(&[shown(sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_USER)]);
        check(&mut questions, &[("a", Question::Disks)]);
    }

    #[test]
    fn what_was_put_back_waits_for_the_next_look() {
        let mut questions = Questions::default();
        questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_OK)]);
        let (uuid, _) = questions.next().unwrap();
        questions.put_back_disks(uuid);
        check(&mut questions, &[]);
        questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_OK)]);
        check(&mut questions, &[("a", Question::Disks)]);
    }

    #[test]
    fn a_start_asks_for_disks_once_a_look_knows_the_domain() {
        let mut questions = Questions::default();
        questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_OK)]);
        questions.next();
        questions.note_event(&started("b"));
        check(&mut questions, &[]);
        questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_OK), domain("b", sys::VIR_DOMAIN_CONTROL_OK)]);
        check(&mut questions, &[("b", Question::Disks)]);
        questions.note_event(&started("b"));
        questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_OK)]);
        check(&mut questions, &[]);
    }

    #[test]
    fn job_figures_are_asked_for_at_a_round_or_on_request_and_requests_for_disks_go_first() {
        let mut questions = Questions::default();
        questions.note_look(&[domain("a", sys::VIR_DOMAIN_CONTROL_JOB)]);
        check(&mut questions, &[]);
        questions.note_event(&event("a", Event::MigrationIteration(MigrationIteration { iteration: 2 })));
        assert!(questions.request_disk_errors(7, "b".into()));
        let at_round_start = Question::Job { at_round_start: true };
        check(&mut questions, &[("b", Question::DiskErrors { request_id: 7 }), ("a", at_round_start.clone())]);
        questions.request_job("a".into());
        questions.request_job("gone".into());
        check(&mut questions, &[("a", Question::Job { at_round_start: false })]);
        questions.note_event(&event("a", Event::MigrationIteration(MigrationIteration { iteration: 3 })));
        questions.request_job("a".into());
        check(&mut questions, &[("a", at_round_start)]);
    }

    #[test]
    fn requests_are_bounded_and_named_when_dropped() {
        let mut questions = Questions::default();
        let n_taken = (0..100).filter(|id| questions.request_disk_errors(*id, "a".into())).count();
        assert_eq!(n_taken, MAX_REQUESTS);
        assert_eq!(questions.clear().len(), MAX_REQUESTS);
        check(&mut questions, &[]);
    }
}
