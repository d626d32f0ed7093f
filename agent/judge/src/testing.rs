//! What the tests of several judges share.
//!
//! Only compiled for tests: verdicts reduced to what a test compares.

use kulprit_model::{FindingCode, Status};

use crate::verdict::Verdict;

/// The statuses of states, in their order. Occurrences are a fault of the test.
#[track_caller]
pub(crate) fn statuses(verdicts: &[Verdict]) -> Vec<Status> {
    let status = |verdict: &Verdict| match verdict {
        Verdict::State(state) => {
            assert!(state.code.spec().subject.allows(&state.subject), "{} of {}", state.code, state.subject);
            assert_eq!(state.unknown_because.is_some(), state.status == Status::Unknown, "{state:?}");
            state.status
        }
        Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
    };
    verdicts.iter().map(status).collect()
}

/// Status of the state with that code; `None` when it was not said.
pub(crate) fn status_of(verdicts: &[Verdict], code: FindingCode) -> Option<Status> {
    verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code => Some(state.status),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}
