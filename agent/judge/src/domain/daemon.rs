//! Whether there is a libvirt daemon, and whether it answers.
//!
//! Three answers that exclude each other: it does not run, it runs and does not answer, there is none to ask. A daemon that is
//! installed and neither enabled nor in use is not missed: KubeVirt nodes have one often.

use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::verdict::{StateVerdict, Verdict};

const SOURCE: &str = "libvirt";
/// A look that takes longer is the daemon's fault though it answers others, ms. Below, a domain may be locked: libvirt holds its lock
/// for 40 s while it waits for a QEMU that cannot be killed (measured: `virsh destroy` of one in D state).
const LOOK_HANGS_MS: u64 = 60_000;

/// How the last attempt or connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonFailure {
    /// Nothing at the socket's path.
    NoSocket,
    /// Nobody listens.
    Refused,
    /// Accepted, and no answer within the deadline.
    Unanswered,
    /// We may not connect.
    Denied,
    /// It does not speak libvirt's protocol.
    Protocol,
    /// It closed the connection.
    Closed,
    /// Keepalives went unanswered.
    Keepalive,
    /// Something else.
    Other,
}

/// The daemon as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonSeen {
    /// It answers.
    Answers,
    /// No connection.
    Lost {
        /// How.
        failure: DaemonFailure,
        /// libvirt's words.
        text: String,
    },
    /// Connected, and a call to it has not returned.
    Hangs {
        /// Name of the call.
        call: String,
        /// For how long, ms.
        age_ms: u64,
    },
    /// It answers a new client, and a look at its domains has not returned.
    LookHangs {
        /// Name of the call.
        call: String,
        /// For how long, ms.
        age_ms: u64,
    },
    /// There is none to ask, and why that is so.
    NotExpected(String),
    /// Nobody can look, and why.
    Unknown(String),
}

/// The states of the daemon `uri`.
#[must_use]
pub fn judge_daemon(at: Moment, uri: &str, seen: &DaemonSeen) -> Vec<Verdict> {
    use FindingCode::{LibvirtNotInstalled, LibvirtUnreachable, LibvirtUnresponsive};
    let subject =
        |code| if code == LibvirtNotInstalled { Subject::Node } else { Subject::Libvirt { uri: uri.to_owned() } };
    let absent = |code| StateVerdict::seen(code, subject(code), false);
    let unknown = |code, because: &str| StateVerdict::unknown(code, subject(code), because);
    let present = |code, failure: Option<&str>, text: String| StateVerdict {
        attributes: Attributes::new().with_some(attribute::FAILURE, failure),
        evidence: vec![Evidence::new(SOURCE, at, text)],
        ..StateVerdict::seen(code, subject(code), true)
    };
    let states = match seen {
        DaemonSeen::Answers => [absent(LibvirtUnreachable), absent(LibvirtUnresponsive), absent(LibvirtNotInstalled)],
        DaemonSeen::Hangs { call, age_ms } => {
            let text = format!("{call} has not returned for {age_ms} ms");
            let hangs = present(LibvirtUnresponsive, Some(attribute::FAILURE_TIMEOUT), text);
            [absent(LibvirtUnreachable), hangs, absent(LibvirtNotInstalled)]
        }
        DaemonSeen::LookHangs { call, age_ms } => {
            let unresponsive = if *age_ms < LOOK_HANGS_MS {
                absent(LibvirtUnresponsive)
            } else {
                let text = format!("the daemon answers a new client, but {call} has not returned for {age_ms} ms");
                present(LibvirtUnresponsive, Some(attribute::FAILURE_TIMEOUT), text)
            };
            [absent(LibvirtUnreachable), unresponsive, absent(LibvirtNotInstalled)]
        }
        DaemonSeen::NotExpected(why) => {
            [absent(LibvirtUnreachable), absent(LibvirtUnresponsive), present(LibvirtNotInstalled, None, why.clone())]
        }
        DaemonSeen::Unknown(why) => {
            [LibvirtUnreachable, LibvirtUnresponsive, LibvirtNotInstalled].map(|code| unknown(code, why))
        }
        DaemonSeen::Lost { failure, text } => {
            let (unreachable, unresponsive) = match failure {
                DaemonFailure::NoSocket | DaemonFailure::Refused | DaemonFailure::Closed => {
                    let name = match failure {
                        DaemonFailure::NoSocket => attribute::FAILURE_NOT_FOUND,
                        DaemonFailure::Refused => attribute::FAILURE_REFUSED,
                        _ => attribute::FAILURE_RESET,
                    };
                    (present(LibvirtUnreachable, Some(name), text.clone()), absent(LibvirtUnresponsive))
                }
                DaemonFailure::Unanswered | DaemonFailure::Keepalive => (
                    absent(LibvirtUnreachable),
                    present(LibvirtUnresponsive, Some(attribute::FAILURE_TIMEOUT), text.clone()),
                ),
                DaemonFailure::Protocol => (
                    absent(LibvirtUnreachable),
                    present(LibvirtUnresponsive, Some(attribute::FAILURE_MALFORMED), text.clone()),
                ),
                DaemonFailure::Denied | DaemonFailure::Other => {
                    (unknown(LibvirtUnreachable, text), unknown(LibvirtUnresponsive, text))
                }
            };
            [unreachable, unresponsive, absent(LibvirtNotInstalled)]
        }
    };
    states.into_iter().map(Verdict::State).collect()
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;

    /// Unreachable, unresponsive, not installed.
    #[track_caller]
    fn check(seen: &DaemonSeen, want: [Status; 3]) {
        let verdicts = judge_daemon(Moment::default(), "qemu:///system", seen);
        let states = verdicts.iter().map(|verdict| match verdict {
            Verdict::State(state) => {
                assert!(state.code.spec().subject.allows(&state.subject));
                state.status
            }
            Verdict::Occurrence(occurrence) => panic!("{occurrence:?}"),
        });
        assert_eq!(states.collect::<Vec<_>>(), want, "{seen:?}");
    }

    #[test]
    fn one_of_three_is_true_at_most() {
        let text = || "no".to_owned();
        check(&DaemonSeen::Answers, [Absent; 3]);
        check(&DaemonSeen::Hangs { call: text(), age_ms: 5000 }, [Absent, Present, Absent]);
        check(&DaemonSeen::LookHangs { call: text(), age_ms: 59_999 }, [Absent; 3]);
        check(&DaemonSeen::LookHangs { call: text(), age_ms: 60_000 }, [Absent, Present, Absent]);
        check(&DaemonSeen::NotExpected(text()), [Absent, Absent, Present]);
        check(&DaemonSeen::Unknown(text()), [Unknown; 3]);
        for (failure, want) in [
            (DaemonFailure::NoSocket, [Present, Absent, Absent]),
            (DaemonFailure::Refused, [Present, Absent, Absent]),
            (DaemonFailure::Closed, [Present, Absent, Absent]),
            (DaemonFailure::Unanswered, [Absent, Present, Absent]),
            (DaemonFailure::Keepalive, [Absent, Present, Absent]),
            (DaemonFailure::Protocol, [Absent, Present, Absent]),
            (DaemonFailure::Denied, [Unknown, Unknown, Absent]),
            (DaemonFailure::Other, [Unknown, Unknown, Absent]),
        ] {
            check(&DaemonSeen::Lost { failure, text: text() }, want);
        }
    }
}
