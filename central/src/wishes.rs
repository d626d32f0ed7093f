//! What central wants of an agent: a closer look at some VMs, and a capture of those that just got into trouble.
//!
//! A VM is a suspect while it shows a symptom, is in a phase of Kubernetes for longer than usual, or has a fault of its own; its
//! nodes look closer then. Each VM that an open incident touches is captured once, a few for each incident: what one of five
//! hundred VMs shows, the others show too. What a suspect shows before that is asked for as well ([`early`]). Wishes wait here until a
//! stream of the node takes them; they are made anew after a restart. Whoever asks central for a capture is answered through
//! [`AskedBook`].

pub mod early;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kulprit_cluster::ClusterVm;
use kulprit_daemon::backoff::random_seed;
use kulprit_diagnosis::{Attribution, Indexed, SymptomId, SymptomSubject, is_at_rest};
use kulprit_model::{Severity, Status};
use kulprit_proto::v1;
use tokio::sync::oneshot;
use ulid::Ulid;

use crate::incident::Incidents;

/// VMs captured for one incident.
const CAPTURES_OF_INCIDENT: usize = 4;
/// Captures that may wait for one node; the rest is asked for when these are done.
const CAPTURES_WAITING: usize = 8;
/// Captures whose answers are waited for of one node, the newest: what it sends unasked is not kept.
const CAPTURES_ASKED: usize = 64;

/// The wishes to one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// UIDs of VMs to look closer at.
    pub suspects: BTreeSet<String>,
    /// Captures not yet asked for.
    pub captures: VecDeque<WantedCapture>,
    /// Captures asked for and not answered.
    asked: VecDeque<WantedCapture>,
}

/// A capture to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedCapture {
    /// The incident that it is for, or the number of an asker.
    pub incident: Ulid,
    /// UID of the VM.
    pub vm_uid: String,
}

/// The suspects of each node, by its name; a node without any is not in it. `places` are those of [`places`].
#[must_use]
pub fn suspects(
    snapshot: &Indexed<'_>,
    places: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut by_node = BTreeMap::<String, BTreeSet<String>>::new();
    for (uid, nodes) in places {
        for node in nodes {
            by_node.entry(node.clone()).or_default().insert(uid.clone());
        }
    }
    // On its way for half a minute, or on its way home: nothing is wrong yet, and what goes wrong now is the cause.
    for vm in snapshot.cluster_vms.iter().filter(|vm| !is_at_rest(&vm.life)) {
        if snapshot.symptom_of(&vm.uid, None, true).id != SymptomId::Unspecified {
            let ends = [&vm.hosting, &vm.source, &vm.target].into_iter().flatten();
            for node in ends.filter(|node| !node.is_empty()) {
                by_node.entry(node.clone()).or_default().insert(vm.uid.clone());
            }
        }
    }
    for node in &snapshot.nodes {
        let faults = node
            .states
            .iter()
            .filter(|state| state.status == Status::Present && state.code.spec().severity == Severity::Fault);
        for uid in faults.filter_map(|state| state.subject.vm_uid()) {
            by_node.entry(node.name.clone()).or_default().insert(uid.to_owned());
        }
    }
    by_node
}

/// Where there is something to see of each VM with a symptom, by its UID: on its node, and on the other end of its migration. Half of what
/// there is to see is there.
#[must_use]
pub fn places(snapshot: &Indexed<'_>, attributions: &[Attribution]) -> BTreeMap<String, BTreeSet<String>> {
    let mut by_vm = BTreeMap::<String, BTreeSet<String>>::new();
    for symptom in attributions.iter().map(|attribution| &attribution.symptom) {
        let SymptomSubject::Vm { node, uid } = &symptom.subject else { continue };
        if symptom.id == SymptomId::Unspecified {
            continue;
        }
        let nodes = by_vm.entry(uid.clone()).or_default();
        nodes.insert(node.clone());
        nodes.extend(snapshot.views(uid).filter(|(_, vm)| vm.qemu.is_some()).map(|(other, _)| other.name.clone()));
        let migrates = |vm: &&ClusterVm| {
            symptom.migration.is_some()
                || vm.life.migration.as_ref().is_some_and(|migration| migration.outcome.is_none())
        };
        let ends = snapshot.cluster_vm(uid).filter(migrates).map(|vm| [&vm.source, &vm.target]);
        nodes.extend(ends.into_iter().flatten().flatten().filter(|node| !node.is_empty()).cloned());
    }
    by_vm
}

/// Which captures were asked for, so that none is asked for twice.
#[derive(Debug, Default)]
pub struct CaptureBook {
    asked: BTreeMap<Ulid, BTreeSet<String>>,
}

impl CaptureBook {
    /// The captures that are wanted now and were not before, by node; of a VM one on each of its [`places`]. Closed incidents are forgotten.
    pub fn want(
        &mut self,
        incidents: &Incidents,
        places: &BTreeMap<String, BTreeSet<String>>,
    ) -> BTreeMap<String, Vec<WantedCapture>> {
        self.asked.retain(|id, _| incidents.get(*id).is_some_and(|incident| incident.is_open()));
        let mut wanted = BTreeMap::<String, Vec<WantedCapture>>::new();
        for incident in incidents.open() {
            let asked = self.asked.entry(incident.id).or_default();
            let members = incident.members.iter().filter(|member| member.until_wall_usec.is_none());
            for whom in members.map(|member| &member.whom).filter(|whom| !whom.uid.is_empty()) {
                if asked.len() >= CAPTURES_OF_INCIDENT {
                    break;
                }
                if asked.insert(whom.uid.clone()) {
                    let capture = WantedCapture { incident: incident.id, vm_uid: whom.uid.clone() };
                    let nodes = places.get(&whom.uid).into_iter().flatten().chain([&whom.node]);
                    for node in nodes.collect::<BTreeSet<_>>() {
                        wanted.entry(node.clone()).or_default().push(capture.clone());
                    }
                }
            }
        }
        wanted
    }
}

impl Wishes {
    /// All suspects, and at most `n` of the captures: those count as asked for from now on.
    pub fn take(&mut self, n: usize) -> Self {
        let captures: VecDeque<_> = self.captures.drain(..n.min(self.captures.len())).collect();
        self.asked.extend(captures.iter().cloned());
        self.asked.drain(..self.asked.len().saturating_sub(CAPTURES_ASKED));
        Self { suspects: self.suspects.clone(), captures, asked: VecDeque::new() }
    }

    /// Whether that capture was asked for; once.
    pub fn answer(&mut self, incident: Ulid, vm_uid: &str) -> bool {
        let is_it = |asked: &WantedCapture| asked.incident == incident && asked.vm_uid == vm_uid;
        let position = self.asked.iter().position(is_it);
        position.is_some_and(|position| self.asked.remove(position).is_some())
    }

    /// Adds captures, as many as may wait; false if some did not fit.
    pub fn add(&mut self, captures: Vec<WantedCapture>) -> bool {
        let room = CAPTURES_WAITING.saturating_sub(self.captures.len());
        let fits = captures.len() <= room;
        self.captures.extend(captures.into_iter().take(room));
        fits
    }
}

/// Captures that somebody waits for. An asker's number is a ULID of the year 1970: no incident's.
#[derive(Debug)]
pub struct AskedBook {
    next: u64,
    /// By node and number.
    waiting: BTreeMap<(String, Ulid), oneshot::Sender<v1::CaptureResult>>,
}

impl Default for AskedBook {
    /// Numbers begin anywhere: what an agent answers to a central that has restarted since is nobody's.
    fn default() -> Self {
        Self { next: random_seed(), waiting: BTreeMap::new() }
    }
}

impl AskedBook {
    /// Somebody waits for what `node` shows; returns the number to ask with.
    pub fn ask(&mut self, node: &str) -> (Ulid, oneshot::Receiver<v1::CaptureResult>) {
        self.next = self.next.wrapping_add(1);
        let number = Ulid::from_parts(0, u128::from(self.next));
        let (to_asker, answer) = oneshot::channel();
        self.waiting.insert((node.to_owned(), number), to_asker);
        (number, answer)
    }

    /// Whether a capture is an asker's and no incident's.
    #[must_use]
    pub fn is_asked(number: Ulid) -> bool {
        number.timestamp_ms() == 0
    }

    /// Hands over what `node` has shown; dropped if nobody waits any more.
    pub fn answer(&mut self, node: &str, number: Ulid, result: v1::CaptureResult) {
        if let Some(asker) = self.waiting.remove(&(node.to_owned(), number)) {
            // Gone in this moment.
            let _ = asker.send(result);
        }
    }

    /// The agent of `node` is gone with what it was asked: nobody waits for it any more.
    pub fn lose(&mut self, node: &str) {
        self.waiting.retain(|(asked, _), _| asked != node);
    }

    /// The asker waits no more.
    pub fn forget(&mut self, node: &str, number: Ulid) {
        self.waiting.remove(&(node.to_owned(), number));
    }
}

#[cfg(test)]
mod tests {
    use kulprit_cluster::{Life, MigrationLife};
    use kulprit_diagnosis::{Snapshot, Symptom};

    use super::*;
    use crate::incident::{Incident, Key, Member, Whom};

    fn incident(id: u128, uids: &[&str]) -> Incident {
        let member = |uid: &&str| Member {
            whom: Whom { node: "n1".to_owned(), uid: (*uid).to_owned() },
            namespace: String::new(),
            name: (*uid).to_owned(),
            symptom: "StuckStopping".to_owned(),
            since_wall_usec: None,
            until_wall_usec: None,
            based_on: Vec::new(),
        };
        Incident {
            id: Ulid::from(id),
            key: Key { cause: "LocalDiskStalled".to_owned(), place: "node/n1".to_owned() },
            node: "n1".to_owned(),
            opened_wall_usec: 0,
            closed_wall_usec: None,
            quiet_since_wall_usec: None,
            members: uids.iter().map(member).collect(),
            timeline: Vec::new(),
            probability: 0.9,
            chain: Vec::new(),
            merged_into: None,
        }
    }

    fn asked(book: &mut CaptureBook, incidents: Vec<Incident>) -> Vec<String> {
        let wanted = book.want(&incidents.into_iter().collect(), &BTreeMap::new());
        wanted.into_values().flatten().map(|capture| capture.vm_uid).collect()
    }

    #[test]
    fn each_vm_of_an_incident_is_captured_once_and_only_some_of_many() {
        let mut book = CaptureBook::default();
        assert_eq!(asked(&mut book, vec![incident(1, &["a", "b"])]), ["a", "b"]);
        assert_eq!(asked(&mut book, vec![incident(1, &["a", "b", "c"])]), ["c"]);
        assert_eq!(asked(&mut book, vec![incident(1, &["a", "b", "c", "d", "e", "f"])]), ["d"]);
        assert_eq!(asked(&mut book, vec![incident(2, &["a", ""])]), ["a"], "the node itself is no VM");
    }

    #[test]
    fn a_vm_that_is_on_its_way_for_half_a_minute_is_a_suspect_on_each_of_its_nodes() {
        const SEC: i64 = 1_000_000;
        for (phase, secs, is_suspect) in [("Scheduling", 29, false), ("Scheduling", 30, true), ("Running", 900, false)]
        {
            let life = Life {
                has_vmi: true,
                phase: Some(phase.to_owned()),
                phase_since_usec: Some((1_000 - secs) * SEC),
                ..Life::default()
            };
            let (uid, hosting) = ("a".to_owned(), Some("n1".to_owned()));
            let vm = ClusterVm { uid, hosting, target: Some("n2".to_owned()), life, ..ClusterVm::default() };
            let snapshot =
                Snapshot { reference_wall_usec: 1_000 * SEC, cluster_vms: vec![vm.into()], ..Snapshot::default() };
            let nodes: Vec<String> = suspects(&Indexed::new(&snapshot), &BTreeMap::new()).into_keys().collect();
            assert_eq!(nodes, if is_suspect { vec!["n1", "n2"] } else { vec![] }, "{phase} for {secs} s");
        }
    }

    #[test]
    fn a_vm_that_migrates_is_captured_on_both_ends() {
        let symptom = |id: SymptomId, migration: Option<&str>| Symptom {
            subject: SymptomSubject::Vm { node: "n1".to_owned(), uid: "a".to_owned() },
            id,
            since_wall_usec: None,
            text: String::new(),
            migration: migration.map(ToOwned::to_owned),
        };
        let with = |outcome: Option<bool>| {
            let migration = Some(MigrationLife { outcome, ..MigrationLife::default() });
            let life = Life { has_vmi: true, migration, ..Life::default() };
            let [hosting, target] = ["n1", "n2"].map(|node| Some(node.to_owned()));
            let vm = ClusterVm {
                uid: "a".to_owned(),
                source: hosting.clone(),
                hosting,
                target,
                life,
                ..ClusterVm::default()
            };
            Snapshot { cluster_vms: vec![vm.into()], ..Snapshot::default() }
        };
        for (outcome, symptom, want) in [
            (None, symptom(SymptomId::StuckMigrating, Some("m")), vec!["n1", "n2"]),
            (None, symptom(SymptomId::PausedUnexpectedly, None), vec!["n1", "n2"]),
            (Some(false), symptom(SymptomId::MigrationFailed, Some("m")), vec!["n1", "n2"]),
            (Some(true), symptom(SymptomId::PausedUnexpectedly, None), vec!["n1"]),
        ] {
            let snapshot = with(outcome);
            let indexed = Indexed::new(&snapshot);
            let places = places(&indexed, &[indexed.attribute(&symptom)]);
            let wanted = CaptureBook::default().want(&[incident(1, &["a"])].into_iter().collect(), &places);
            let nodes: Vec<String> = wanted.into_keys().collect();
            assert_eq!(nodes, want, "{symptom:?}");
        }
    }

    #[test]
    fn a_member_that_is_well_again_is_not_captured() {
        let mut over = incident(1, &["a"]);
        over.members[0].until_wall_usec = Some(1);
        assert!(asked(&mut CaptureBook::default(), vec![over]).is_empty());
    }

    #[test]
    fn an_asker_is_answered_by_the_node_that_was_asked_and_by_no_other() {
        let mut book = AskedBook::default();
        let (number, mut answer) = book.ask("n1");
        let (other, mut lost) = book.ask("n2");
        assert!(AskedBook::is_asked(number) && number != other);
        assert!(!AskedBook::is_asked(Ulid::from_parts(1_800_000_000_000, 1)));
        book.answer("n2", number, v1::CaptureResult::default());
        assert!(answer.try_recv().is_err());
        book.answer("n1", number, v1::CaptureResult { took_usec: 7, ..Default::default() });
        assert_eq!(answer.try_recv().unwrap().took_usec, 7);
        book.lose("n2");
        assert_eq!(lost.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        let (number, _answer) = book.ask("n1");
        book.forget("n1", number);
        assert!(book.waiting.is_empty());
    }

    #[test]
    fn no_more_wait_than_one_node_can_make() {
        let capture = |n: usize| WantedCapture { incident: Ulid::from(1), vm_uid: n.to_string() };
        let mut wishes = Wishes::default();
        assert!(wishes.add((0..CAPTURES_WAITING).map(capture).collect()));
        assert!(!wishes.add(vec![capture(99)]));
        assert_eq!(wishes.captures.len(), CAPTURES_WAITING);
    }
}
