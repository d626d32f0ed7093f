//! The page against a golden text: what an administrator sees is reviewed as a text, not as code.

use super::*;

/// 2026-03-01 10:10:22 UTC.
const REFERENCE_WALL_USEC: i64 = 1_772_359_822_000_000;

fn mk_cause(id: &str, probability: f64) -> v1::Cause {
    v1::Cause {
        id: id.to_owned(),
        probability,
        role: "hosting".to_owned(),
        node: "n1".to_owned(),
        chain: vec![id.to_owned()],
        meaning: format!("{id} means something."),
        ..v1::Cause::default()
    }
}

fn mk_verdict() -> v1::Verdict {
    let mut first = mk_cause("LocalDiskStalled", 0.948);
    first.chain = vec!["LocalDiskStalled".to_owned(), "QemuBlockedInKernel".to_owned()];
    first.evidence = vec![v1::WeighedEvidence {
        source: "procfs".to_owned(),
        node: "n1".to_owned(),
        at_wall_usec: REFERENCE_WALL_USEC - 60_000_000,
        text: "thread 4711 (worker) of QEMU 4700 has been in state D for 41 s in percpu_rwsem_wait, below ext4_file_write_iter\u{1b}[2J"
            .to_owned(),
        weight_db: 30.0,
        cause: "LocalDiskStalled".to_owned(),
    }];
    first.remedy = Some(v1::Remedy {
        now: vec!["fsfreeze --unfreeze /mnt/vm".to_owned()],
        check: vec!["dmesg -T | tail".to_owned()],
        prevent: Vec::new(),
        safe_to_force_delete: false,
    });
    v1::Verdict {
        subject: Some(v1::VerdictSubject {
            uid: "0b2c".to_owned(),
            namespace: String::new(),
            name: "db-0".to_owned(),
            node: "n1".to_owned(),
        }),
        symptom: "StuckStopping".to_owned(),
        since_wall_usec: REFERENCE_WALL_USEC - 130_000_000,
        symptom_text: "QEMU was killed and cannot end".to_owned(),
        causes: vec![first, mk_cause("QemuMonitorHung", 0.03), mk_cause("Unexplained", 0.001)],
        contributing: vec![mk_cause("KubeletDown", 0.9)],
        ruled_out: vec![v1::RuledOut { id: "LibvirtDaemonDown".to_owned(), why: "libvirtd answers".to_owned() }],
        unknown: vec!["kernel log: cannot be read".to_owned()],
        looked_at: vec!["KVM: a virtual machine could be created".to_owned()],
        incident_id: "01K".to_owned(),
        reference_wall_usec: REFERENCE_WALL_USEC,
        confidence: v1::Confidence::Verdict.into(),
        migrations: Vec::new(),
    }
}

/// The page in UTC, whatever the zone of this machine.
fn page_of(verdict: &v1::Verdict) -> String {
    let terminal = Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()));
    super::verdict(&terminal, &verdict.clone().into(), &TimeZone::UTC)
}

#[test]
fn the_answer_comes_first_and_nothing_is_missing() {
    let page = page_of(&mk_verdict());
    let order = [
        "VM db-0 on n1: StuckStopping for 2 min 10 s",
        "QEMU was killed and cannot end",
        "LocalDiskStalled  95 % sure",
        "Chain: LocalDiskStalled → QemuBlockedInKernel → StuckStopping",
        "Where: node n1 (hosting)",
        "Evidence",
        "thread 4711 (worker)",
        "Also possible",
        "QemuMonitorHung 3 %",
        "Wrong at the same time",
        "KubeletDown 90 %",
        "Ruled out",
        "LibvirtDaemonDown  libvirtd answers",
        "Could not be seen",
        "kernel log: cannot be read",
        "Looked at, and well",
        "Do now",
        "fsfreeze --unfreeze /mnt/vm",
        "Force delete is NOT safe",
        "Incident 01K",
    ];
    let mut rest = page.as_str();
    for part in order {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is missing or out of order in\n{page}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn migrations_of_the_day_are_a_short_table() {
    let mut verdict = mk_verdict();
    assert!(!page_of(&verdict).contains("Migrations of the last 24 h"));
    let migration = v1::PastMigration {
        source_node: "n1".to_owned(),
        target_node: "n2".to_owned(),
        outcome: v1::MigrationOutcome::Aborted.into(),
        initiator: "user".to_owned(),
        ..v1::PastMigration::default()
    };
    verdict.migrations = vec![migration; 13];
    let page = page_of(&verdict);
    assert!(page.contains("\nMigrations of the last 24 h\n  n1 → n2  13 by user: 13 cancelled\n"), "{page}");
}

#[test]
fn what_was_seen_once_is_shown_once() {
    let mut verdict = mk_verdict();
    let again = v1::WeighedEvidence {
        weight_db: 20.0,
        cause: "QemuBlockedInKernel".to_owned(),
        ..verdict.causes[0].evidence[0].clone()
    };
    verdict.causes[0].evidence.push(again);
    assert_eq!(page_of(&verdict).matches("thread 4711").count(), 1);
}

#[test]
fn candidates_that_nobody_needs_are_left_out() {
    assert!(!page_of(&mk_verdict()).contains("Unexplained"));
}

#[test]
fn host_text_cannot_reach_the_terminal_as_a_control_sequence() {
    assert!(!page_of(&mk_verdict()).contains('\u{1b}'));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for line in page_of(&mk_verdict()).lines() {
        assert!(line.chars().count() <= 110, "{line}");
    }
}

#[test]
fn an_unexplained_verdict_names_no_cause() {
    let mut verdict = mk_verdict();
    verdict.causes.rotate_left(2);
    verdict.confidence = v1::Confidence::Unexplained.into();
    assert!(page_of(&verdict).contains("nothing that was seen is enough to name a cause"));
}

#[test]
fn a_vm_that_is_well_is_not_called_unexplained() {
    let mut verdict = mk_verdict();
    verdict.causes.rotate_left(2);
    verdict.confidence = v1::Confidence::Unexplained.into();
    verdict.symptom = "Unspecified".to_owned();
    let page = page_of(&verdict);
    assert!(page.contains("No symptom, and nothing that was seen names a fault"), "{page}");
    assert!(!page.contains("enough to name a cause"), "{page}");
}

/// The verdict of a node, with one thing that was seen a minute ago.
fn mk_node_verdict(cause: v1::Cause, confidence: v1::Confidence, since_secs: i64) -> v1::Verdict {
    v1::Verdict {
        subject: Some(v1::VerdictSubject { node: "n1".to_owned(), ..v1::VerdictSubject::default() }),
        symptom: "Unspecified".to_owned(),
        symptom_text: "as the node shows it".to_owned(),
        since_wall_usec: if since_secs == 0 { 0 } else { REFERENCE_WALL_USEC - since_secs * 1_000_000 },
        causes: vec![v1::Cause {
            evidence: vec![v1::WeighedEvidence {
                source: "kmsg".to_owned(),
                at_wall_usec: REFERENCE_WALL_USEC - 60_000_000,
                text: "process 99 (stress) was killed".to_owned(),
                ..v1::WeighedEvidence::default()
            }],
            ..cause
        }],
        reference_wall_usec: REFERENCE_WALL_USEC,
        confidence: confidence.into(),
        ..v1::Verdict::default()
    }
}

#[track_caller]
fn check_node(verdict: &v1::Verdict, parts: &[&str]) {
    let page = page_of(verdict);
    assert!(parts.iter().all(|part| page.contains(part)), "{page}");
    let is_a_cause = !verdict.causes[0].role.is_empty();
    assert_eq!(page.contains("Evidence"), is_a_cause, "{page}");
    assert_eq!(page.contains("kmsg     for     process 99"), is_a_cause, "{page}");
}

#[test]
fn what_died_on_a_node_without_a_symptom_is_no_evidence() {
    let unexplained = || v1::Cause { id: "Unexplained".to_owned(), probability: 1.0, ..v1::Cause::default() };
    let mut well = mk_node_verdict(unexplained(), v1::Confidence::Unexplained, 0);
    let seen = "Seen lately, and no symptom by itself\n  10:09:22  kmsg     process 99 (stress) was killed\n";
    let claim = "No symptom, and nothing that was seen names a fault";
    check_node(&well, &["node n1: no symptom of its own\n", claim, seen]);
    well.unknown = vec!["kernel log: cannot be read".to_owned()];
    check_node(&well, &["node n1: no symptom of its own was seen\n", claim, seen]);
    let faulty = mk_node_verdict(unexplained(), v1::Confidence::Unexplained, 130);
    check_node(&faulty, &["node n1: a fault of its own for 2 min 10 s", "Seen, and no cause explains it"]);
}

#[test]
fn a_cause_of_what_is_over_is_not_said_of_now() {
    let cause = || mk_cause("NodeMemoryExhausted", 0.86);
    let over = mk_node_verdict(cause(), v1::Confidence::Verdict, 0);
    let claim = "No symptom now; what was seen lately would be NodeMemoryExhausted, 86 % sure";
    check_node(&over, &["node n1: no symptom of its own\n", claim]);
    let faulty = mk_node_verdict(cause(), v1::Confidence::Verdict, 130);
    check_node(&faulty, &["node n1: a fault of its own for 2 min 10 s", "\n  NodeMemoryExhausted  86 % sure\n"]);
}

#[test]
fn nobody_is_a_hundred_percent_sure() {
    assert_eq!(percent(0.9999), "over 99 %");
    assert_eq!(percent(0.0001), "under 1 %");
}

#[test]
fn a_verdict_without_anything_in_it_still_prints() {
    assert!(page_of(&v1::Verdict::default()).contains("Nothing speaks for a fault"));
}
