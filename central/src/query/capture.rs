//! `Capture`: the nodes of one VM are asked now for what they show of it.
//!
//! The same captures that incidents get, for whoever asks and kept nowhere. Each node of the VM is asked at once, and answered
//! for: what it showed, or why nothing came.

use std::{collections::BTreeSet, time::Duration};

use kulprit_daemon::CancellationToken;
use kulprit_diagnosis::Snapshot;
use kulprit_proto::v1::{self, node_capture::Outcome};
use tokio::time::{Instant, timeout_at};
use tonic::{Status, metadata::MetadataMap};

use super::{
    named::{self, NamedVm},
    shortened,
};
use crate::{access::rights::Sight, live::Live};

/// Captures that may be asked for at the same time: each holds up to 256 KiB of each node of its VM.
pub(super) const CAPTURES_MAX: usize = 8;
/// The longest that an answer is waited for. An agent makes a capture in 2 s, one after the other.
const WITHIN: Duration = Duration::from_secs(30);
/// What is left of the client's deadline for the answer's way back.
const WAY_BACK: Duration = Duration::from_millis(250);

/// A VM to capture, and its nodes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    uid: String,
    nodes: BTreeSet<String>,
}

/// Who is to be asked about the VM of that name; `on` narrows if it is not empty. Pure.
///
/// # Errors
/// NOT_FOUND names what does not exist; FAILED_PRECONDITION lists the candidates of an ambiguous name, or says that the VM is
/// on no node.
pub(super) fn wanted(snapshot: &Snapshot, name: &str, on: &str, sight: &Sight) -> Result<Wanted, Status> {
    let (uid, mut nodes) = match named::vm(snapshot, name, on, sight)? {
        NamedVm::OfCluster(vm) => {
            let ends = [&vm.hosting, &vm.source, &vm.target].into_iter().flatten();
            (vm.uid.clone(), ends.filter(|node| !node.is_empty()).cloned().collect::<BTreeSet<_>>())
        }
        NamedVm::OfHost(view, vm) => (vm.uid.clone(), BTreeSet::from([view.name.clone()])),
    };
    // The other end of a migration: half of what there is to see is there.
    let ends = snapshot.nodes.iter().filter(|view| view.vm(&uid).is_some_and(|vm| vm.qemu.is_some()));
    nodes.extend(ends.map(|view| view.name.clone()));
    nodes.retain(|node| on.is_empty() || node == on);
    if nodes.is_empty() {
        let name = shortened(name);
        return Err(Status::failed_precondition(format!("vm: `{name}` is on no node, so nobody can show it")));
    }
    Ok(Wanted { uid, nodes })
}

/// Asks, and waits until all have answered, `within` is over since the question `began`, or `stop`.
pub(super) async fn capture(
    live: &Live,
    wanted: Wanted,
    began: Instant,
    within: Duration,
    stop: &CancellationToken,
) -> Result<v1::CaptureVmResponse, Status> {
    let Wanted { uid, nodes } = wanted;
    let until = began + within;
    let asked: Vec<_> = nodes.into_iter().map(|node| (live.ask_capture(&node, &uid), node)).collect();
    let mut answers = Vec::with_capacity(asked.len());
    for (asked, node) in asked {
        let outcome = match asked {
            Err(refused) => Outcome::WhyNot(refused.to_string()),
            Ok(mut asked) => {
                let answered = tokio::select! {
                    biased;
                    () = stop.cancelled() => return Err(Status::unavailable("central is ending")),
                    answered = timeout_at(until, &mut asked.answer) => answered,
                };
                match answered {
                    Ok(Ok(result)) => Outcome::Result(result),
                    Ok(Err(_)) => Outcome::WhyNot("its agent's connection was lost".to_owned()),
                    Err(_) => Outcome::WhyNot(format!(
                        "its agent has not answered within {} ms; captures are made one after the other",
                        within.as_millis()
                    )),
                }
            }
        };
        answers.push(v1::NodeCapture { node, outcome: Some(outcome) });
    }
    Ok(v1::CaptureVmResponse { vm_uid: uid, nodes: answers })
}

/// How long the client waits, less the way back; at most [`WITHIN`].
pub(super) fn within(metadata: &MetadataMap) -> Duration {
    let given = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    given.map_or(WITHIN, |given| given.saturating_sub(WAY_BACK).min(WITHIN))
}

/// Reads `<1 to 8 digits><unit>`: gRPC over HTTP/2, "Timeout".
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kulprit_cluster::ClusterVm;
    use kulprit_diagnosis::{NodeView, VmView};
    use kulprit_model::{Moment, Qemu};

    use super::*;

    fn node(name: &str, has_qemu: bool) -> NodeView {
        let since = Moment { wall_usec: 0, boottime_usec: 0 };
        let qemu = Qemu { uid: "a".to_owned(), name: None, pid: 7, start_ticks: 1, since, disks: Vec::new() };
        let (uid, vm_name) = ("a".to_owned(), "db-0".to_owned());
        let vm = VmView { uid, name: vm_name, qemu: has_qemu.then_some(qemu), ..VmView::default() };
        NodeView { name: name.to_owned(), vms: vec![vm].into(), ..NodeView::default() }
    }

    fn nodes(snapshot: &Snapshot, on: &str) -> Result<Vec<String>, String> {
        let wanted = wanted(snapshot, "db-0", on, &Sight::whole()).map_err(|status| status.message().to_owned())?;
        assert_eq!(wanted.uid, "a");
        Ok(wanted.nodes.into_iter().collect())
    }

    #[test]
    fn each_node_that_has_the_vm_or_its_qemu_is_asked() {
        let (name, uid, hosting) = ("db-0".to_owned(), "a".to_owned(), Some("n1".to_owned()));
        let vm = ClusterVm { name, uid, hosting, target: Some("n3".to_owned()), ..ClusterVm::default() };
        let views = vec![node("n1", true), node("n2", true), node("n4", false)];
        let snapshot = Snapshot { nodes: views, cluster_vms: vec![vm.into()], ..Snapshot::default() };
        assert_eq!(nodes(&snapshot, "").unwrap(), ["n1", "n2", "n3"]);
        assert_eq!(nodes(&snapshot, "n1").unwrap(), ["n1"]);
    }

    #[test]
    fn a_vm_that_is_nowhere_cannot_be_shown() {
        let vm = ClusterVm { name: "db-0".to_owned(), uid: "a".to_owned(), ..ClusterVm::default() };
        let snapshot = Snapshot { cluster_vms: vec![vm.into()], ..Snapshot::default() };
        assert_eq!(nodes(&snapshot, "").unwrap_err(), "vm: `db-0` is on no node, so nobody can show it");
    }

    #[track_caller]
    fn check_within(timeout: &str, want: Duration) {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", timeout.parse().expect("ASCII"));
        assert_eq!(within(&metadata), want, "{timeout}");
    }

    #[test]
    fn the_client_s_deadline_counts_up_to_half_a_minute() {
        assert_eq!(within(&MetadataMap::new()), WITHIN);
        check_within("10S", Duration::from_millis(9_750));
        check_within("9999999u", Duration::from_micros(9_749_999));
        check_within("100m", Duration::ZERO);
        check_within("1H", WITHIN);
        for bad in ["", "S", "10", "1s", "-1S", "999999999S", "1é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
