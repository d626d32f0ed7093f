//! The causes by rows: what was seen, and which cause it must name; what looks alike, and must not.
//!
//! A row's world was looked at nowhere else: as a recorded case that has only these lines. A look-alike is another thing to see
//! under the same symptom. Rows of migrations are seen on both ends.

mod launcher;
mod migration;
mod node;
mod outside;
mod qemu;
mod storage;

use kulprit_model::{
    Attributes, FindingCode, Status, Subject,
    attribute::{ACTOR, CLASS, OPERATION, SIGNATURE},
    said,
    subject::SubjectType,
};

use crate::{Attribution, Symptom, SymptomId, attribute, catalogue::find, testing::*};

/// One thing that was seen.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// A text of the VM's own: actor, operation, class.
    Text(&'static str, &'static str, &'static str),
    /// The same of the node, which names nobody.
    NodeText(&'static str, &'static str, &'static str),
    /// A text of the VM's own with a signature.
    Known(&'static str, &'static str, &'static str, &'static str),
    /// A state that is present, with attributes.
    Is(FindingCode, &'static [(&'static str, &'static str)]),
    /// A state that was looked for and is absent.
    IsNot(FindingCode),
    /// Something happened to the VM itself, with attributes.
    Own(FindingCode, &'static [(&'static str, &'static str)]),
    /// Something happened to the node.
    Happened(FindingCode, &'static [(&'static str, &'static str)]),
}

/// A cause, the symptom it is asked for, what must name it, and what must not.
type Row = (&'static str, SymptomId, &'static [Seen], &'static [Seen]);

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().copied().collect()
}

fn words(actor: &str, operation: &str, class: &str) -> Attributes {
    assert!(said::actor::ALL.contains(&actor), "{actor} is no actor");
    assert!(said::operation::ALL.contains(&operation), "{operation} is no operation");
    assert!(said::class::ALL.contains(&class), "{class} is no class");
    Attributes::new().with(ACTOR, actor).with(OPERATION, operation).with(CLASS, class)
}

/// Where a state of that code sits when it is this VM's or this node's.
fn subject(code: FindingCode) -> Subject {
    match code.spec().subject {
        SubjectType::Vm => Subject::vm(UID),
        SubjectType::Unit => Subject::unit("kubelet.service"),
        SubjectType::Device => Subject::Device { name: "sdx".to_owned() },
        SubjectType::Mount => Subject::Mount { point: "/var".to_owned() },
        SubjectType::Process => Subject::Process { pid: 77, start_ticks: 0 },
        SubjectType::Libvirt => Subject::Libvirt { uri: "qemu:///system".to_owned() },
        SubjectType::Problem => Subject::Problem { name: "KernelDeadlock".to_owned() },
        SubjectType::Probe => Subject::Probe { name: "qemu".to_owned() },
        SubjectType::Node | SubjectType::NodeOrVm => Subject::Node,
    }
}

/// The VM of a cluster of which nothing is known but what was seen, 5 min into the symptom.
fn answer(symptom: SymptomId, seen: &[Seen]) -> Attribution {
    const ONSET: i64 = 300;
    let mut world = World::well().in_kubernetes();
    let is_migration = matches!(symptom, SymptomId::StuckMigrating | SymptomId::MigrationFailed);
    if is_migration {
        let phase = if symptom == SymptomId::MigrationFailed { "Failed" } else { "Running" };
        world = world.migrating(phase, ONSET);
    }
    let vm = &mut world.node().vms[0];
    vm.last_qemu = vm.qemu.take();
    vm.domain = None;
    for node in &mut world.snapshot.nodes {
        node.states.clear();
        node.vms.truncate(1);
        for seen in seen {
            let (code, status, to, facts) = match *seen {
                Seen::Text(actor, operation, class) => {
                    (FindingCode::ErrorSaid, None, Subject::vm(UID), words(actor, operation, class))
                }
                Seen::NodeText(actor, operation, class) => {
                    (FindingCode::ErrorSaid, None, Subject::Node, words(actor, operation, class))
                }
                Seen::Known(actor, operation, class, signature) => (
                    FindingCode::ErrorSaid,
                    None,
                    Subject::vm(UID),
                    words(actor, operation, class).with(SIGNATURE, signature),
                ),
                Seen::Is(code, pairs) => (code, Some(Status::Present), subject(code), attributes(pairs)),
                Seen::IsNot(code) => (code, Some(Status::Absent), subject(code), Attributes::new()),
                Seen::Own(code, pairs) => (code, None, Subject::vm(UID), attributes(pairs)),
                Seen::Happened(code, pairs) => (code, None, subject(code), attributes(pairs)),
            };
            match status {
                Some(status) => {
                    let state = mk_state(code, to, status, ONSET + 60);
                    node.states.push(kulprit_model::State { attributes: facts, ..state });
                }
                None => node.occurrences.push(mk_occurrence(code, to, ONSET + 2, facts)),
            }
        }
        node.states.sort_by(|a, b| (a.code, &a.subject).cmp(&(b.code, &b.subject)));
    }
    let symptom = Symptom {
        subject: vm_subject(),
        id: symptom,
        since_wall_usec: Some(ago(ONSET).wall_usec),
        text: String::new(),
        migration: is_migration.then(|| "db-0-mig-1".to_owned()),
    };
    attribute(&world.snapshot, &symptom)
}

/// Each row names its cause first, with at least 0.6; its look-alike does not.
#[track_caller]
fn check_rows(rows: &[Row]) {
    let mut wrong = String::new();
    for (id, symptom, seen, alike) in rows {
        assert!(find(id).is_some(), "{id}");
        let named = answer(*symptom, seen);
        let first = &named.causes[0];
        if first.id != *id || first.probability < 0.6 {
            wrong.push_str(&format!("\n{id} is not named for {symptom:?} by {seen:?}{}", table(&named)));
        }
        let other = answer(*symptom, alike);
        if other.causes[0].id == *id && other.causes[0].probability >= 0.6 {
            wrong.push_str(&format!("\n{id} is named for {symptom:?} by its look-alike {alike:?}{}", table(&other)));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
