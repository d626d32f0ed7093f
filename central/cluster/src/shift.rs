//! What objects tell by their own clock, told by another one.
//!
//! Objects carry the times of the API server and of whoever wrote them. Whoever compares them with times of nodes has to bring both to
//! one clock.

use kulprit_model::{Evidence, Finding, Moment, Occurrence, State};

use crate::described::{ClusterFinding, ClusterNode, ClusterVm, Life, MigrationLife};
use crate::history::MigrationRecord;

impl ClusterVm {
    /// The same, each time that it tells `usec` later.
    #[must_use]
    pub fn later_by(mut self, usec: i64) -> Self {
        if usec != 0 {
            shift_life(&mut self.life, usec);
            for ClusterFinding { side: _, node: _, finding } in &mut self.findings {
                shift_finding(finding, usec);
            }
        }
        self
    }
}

impl ClusterNode {
    /// The same, each time that it tells `usec` later.
    #[must_use]
    pub fn later_by(mut self, usec: i64) -> Self {
        if usec != 0 {
            self.findings.iter_mut().for_each(|finding| shift_finding(finding, usec));
        }
        self
    }
}

fn shift(at_usec: &mut i64, usec: i64) {
    *at_usec = at_usec.saturating_add(usec);
}

/// Objects know no boot: both of its clocks are one.
fn shift_moment(moment: &mut Moment, usec: i64) {
    *moment = moment.offset_usec(usec);
}

/// Every field is named, so that a new one is not forgotten.
fn shift_life(life: &mut Life, usec: i64) {
    let Life {
        has_vm: _,
        has_vmi: _,
        printable_status: _,
        printable_since_usec,
        wants_to_run: _,
        phase: _,
        phase_since_usec,
        has_run: _,
        created_usec,
        vm_deleted_usec,
        vmi_deleted_usec,
        grace_secs: _,
        paused_reason: _,
        paused_since_usec,
        not_ready_reason: _,
        not_synchronized: _,
        launcher_phase: _,
        launcher_status: _,
        launcher_since_usec,
        migration,
        n_migrations_24h: _,
        knows_all_migrations: _,
        past_migrations,
        evacuation,
    } = life;
    let evacuation = evacuation.as_mut().and_then(|(_, since)| since.as_mut());
    let own = [
        printable_since_usec,
        phase_since_usec,
        created_usec,
        vm_deleted_usec,
        vmi_deleted_usec,
        paused_since_usec,
        launcher_since_usec,
    ];
    own.into_iter().flatten().chain(evacuation).for_each(|at_usec| shift(at_usec, usec));
    if let Some(migration) = migration {
        shift_migration(migration, usec);
    }
    past_migrations.iter_mut().for_each(|past| shift_past(past, usec));
}

fn shift_migration(migration: &mut MigrationLife, usec: i64) {
    let MigrationLife {
        name: _,
        uid: _,
        phase: _,
        phase_since_usec,
        created_usec,
        started_usec,
        ended_usec,
        outcome: _,
        failure_reason: _,
        is_aborted: _,
        initiator: _,
    } = migration;
    let times = [phase_since_usec, created_usec, started_usec, ended_usec];
    times.into_iter().flatten().for_each(|at_usec| shift(at_usec, usec));
}

fn shift_past(past: &mut MigrationRecord, usec: i64) {
    let MigrationRecord {
        namespace: _,
        vm: _,
        uid: _,
        name: _,
        vmi_uid: _,
        source: _,
        target: _,
        created_usec,
        started_usec,
        ended_usec,
        deleted_usec,
        gone_usec,
        has_succeeded: _,
        is_abort_requested: _,
        reason: _,
        initiator: _,
    } = past;
    let times = [created_usec, started_usec, ended_usec, deleted_usec, gone_usec];
    times.into_iter().flatten().for_each(|at_usec| shift(at_usec, usec));
}

fn shift_finding(finding: &mut Finding, usec: i64) {
    let evidence = match finding {
        Finding::State(State { since, looked, evidence, .. }) => {
            shift_moment(since, usec);
            shift_moment(looked, usec);
            evidence
        }
        Finding::Occurrence(Occurrence { first, last, evidence, .. }) => {
            shift_moment(first, usec);
            shift_moment(last, usec);
            evidence
        }
    };
    evidence.iter_mut().for_each(|Evidence { at, .. }| shift_moment(at, usec));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::tests::{AT, SIGNATURES, cluster, event, launcher, node, target, usec, vmi, vmim, with};
    use crate::{Asked, ClusterNode, ClusterVm};

    const LATER: i64 = 300_000_000;

    /// All times of objects, `LATER` later.
    fn later(value: Value) -> Value {
        match value {
            Value::String(text) => match text.parse::<jiff::Timestamp>() {
                Ok(at) => json!((at + jiff::SignedDuration::from_micros(LATER)).to_string()),
                Err(_) => json!(text),
            },
            Value::Array(list) => list.into_iter().map(later).collect(),
            Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, later(value))).collect()),
            other => other,
        }
    }

    fn told(objects: &[Value], at_usec: i64) -> (ClusterVm, ClusterNode) {
        let cluster = cluster(objects);
        let asked = Asked { at_usec, ..Asked::default() };
        let vm = cluster.describe("prod", "db-0", &asked, &SIGNATURES);
        (vm, cluster.describe_node("n1", at_usec, &SIGNATURES))
    }

    #[test]
    fn another_clock_changes_times_and_nothing_else() {
        let going = with(
            vmi(),
            &json!({"metadata": {"deletionTimestamp": "2026-03-01T10:14:00Z"}, "status": {"evacuationNodeName": "n1", "conditions": [
                {"type": "Paused", "status": "True", "reason": "PausedIOError", "lastTransitionTime": "2026-03-01T10:13:00Z"},
                {"type": "EvictionRequested", "status": "True", "lastTransitionTime": "2026-03-01T10:12:00Z"}]}}),
        );
        let vm = json!({"kind": "VirtualMachine", "metadata": {"name": "db-0", "namespace": "prod", "deletionTimestamp": "2026-03-01T10:14:00Z"},
            "status": {"printableStatus": "Terminating"}});
        let migration = with(
            vmim("Running"),
            &json!({"status": {"migrationState": {"sourceNode": "n1", "targetNode": "n2",
            "startTimestamp": "2026-03-01T10:11:00Z"}}}),
        );
        let said = event("VirtualMachineInstance", "db-0", "SyncFailed", "failed to start: Connection timed out");
        let ill = with(
            node("n1"),
            &json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-03-01T10:13:30Z"}]}}),
        );
        let past = with(
            vmim("Succeeded"),
            &json!({"metadata": {"name": "before", "uid": "uid-before"}, "status": {"migrationState": {"sourceNode": "n2",
            "targetNode": "n1", "completed": true, "endTimestamp": "2026-03-01T09:11:00Z"}}}),
        );
        let objects = [going, vm, migration, past, launcher(), target(), said, ill, node("n2")];
        let by_their_clock = told(&objects, usec(AT));
        let by_another: Vec<Value> = objects.iter().cloned().map(later).collect();
        let (vm, node) = told(&by_another, usec(AT) + LATER);
        assert!(!vm.findings.is_empty() && !node.findings.is_empty());
        assert!((&vm, &node) != (&by_their_clock.0, &by_their_clock.1));
        let told = strip_texts((by_their_clock.0.later_by(LATER), by_their_clock.1.later_by(LATER)));
        let want = strip_texts((vm, node));
        assert_eq!((&told.0.life, told.0.life.past_migrations.len()), (&want.0.life, 1));
        for (told, want) in told.0.findings.iter().zip(&want.0.findings) {
            assert_eq!(told, want);
        }
        assert!(told == want);
    }

    /// Texts quote the times of objects as they are.
    fn strip_texts((mut vm, mut node): (ClusterVm, ClusterNode)) -> (ClusterVm, ClusterNode) {
        let findings = vm.findings.iter_mut().map(|of| &mut of.finding).chain(&mut node.findings);
        for finding in findings {
            let evidence = match finding {
                kulprit_model::Finding::State(state) => &mut state.evidence,
                kulprit_model::Finding::Occurrence(occurrence) => &mut occurrence.evidence,
            };
            evidence.iter_mut().for_each(|evidence| evidence.text.clear());
        }
        (vm, node)
    }
}
