//! What one VM waits for, and who of it was killed for its memory: from its own cgroup's pressure and memory counters.
//!
//! A guest that works hard waits by itself: for its disks, for processors it has more of than are free. So pressure of one VM
//! is a notice, and its thresholds are high. Counters of the memory controller only grow, so what counts is what is new since
//! the look before. `oom_kill` counts kills of any kind, those for want of the node's memory too (`mm/oom_kill.c`): a kill is
//! the limit's only where the limit was reached as well. Source: kernel `Documentation/admin-guide/cgroup-v2.rst`.

use kulprit_host::cgroup::MemoryCgroup;
use kulprit_host::pressure::Pressure;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::say::{CGROUP, Reading, absent, present, unknown};
use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

/// `some avg10` of the VM's memory, percent: its guest stands still for two of ten seconds.
const MEMORY_SOME_AVG10_PCT: f64 = 20.0;
/// `some avg10` of its I/O and of its CPU, percent: nearly all the time.
const BUSY_SOME_AVG10_PCT: f64 = 80.0;

/// One look at the cgroup of one VM.
#[derive(Clone, Debug)]
pub struct VmPressureLook<'a> {
    /// When.
    pub at: Moment,
    /// The VM.
    pub subject: &'a Subject,
    /// Its memory, I/O and CPU pressure, in this order.
    pub pressures: [Reading<Pressure>; 3],
    /// Its memory counters, where they could be read.
    pub memory: Option<MemoryCgroup>,
    /// Times that its memory limit or its throttling threshold was met since the look before.
    pub n_limit_hits: u64,
}

/// `VmStalled`.
#[must_use]
pub fn judge_vm_pressure(look: &VmPressureLook<'_>) -> Verdict {
    let code = FindingCode::VmStalled;
    let say = |what: &str, facts: Attributes, text: String| {
        let state = present(code, look.subject, look.at, CGROUP, facts.with(attribute::WHAT, what), text);
        Verdict::State(StateVerdict { hold_key: Some(what.to_owned()), ..state })
    };
    if look.memory.is_some_and(|memory| memory.is_under_oom == Some(true)) {
        return say(
            "oom",
            Attributes::new(),
            "memory.oom_control: tasks wait because the memory limit is reached".into(),
        );
    }
    let resources = [("memory", MEMORY_SOME_AVG10_PCT), ("io", BUSY_SOME_AVG10_PCT), ("cpu", BUSY_SOME_AVG10_PCT)];
    let mut seen = Vec::new();
    let mut blind = None;
    for ((what, limit), pressure) in resources.into_iter().zip(&look.pressures) {
        match pressure {
            Ok(Pressure { some: Some(line), .. }) => {
                let some = line.avg10_pct;
                let mut text = format!("{what} pressure some avg10={some:.2}");
                if some >= limit {
                    if what == "memory" && look.n_limit_hits > 0 {
                        text.push_str(&format!(", its limit met {} times since the last look", look.n_limit_hits));
                    }
                    let facts = Attributes::new()
                        .with(attribute::MEASURED, format!("{some:.1}"))
                        .with(attribute::LIMIT, format!("{limit:.0}"));
                    return say(what, facts, text);
                }
                seen.push(text);
            }
            Ok(Pressure { some: None, .. }) => blind = blind.or(Some(format!("no `some` line of {what} pressure"))),
            Err(error) => blind = blind.or_else(|| Some(error.clone())),
        }
    }
    Verdict::State(match blind {
        Some(because) => unknown(code, look.subject, because),
        None => absent(code, look.subject, look.at, CGROUP, seen.join(", ")),
    })
}

/// How often the limit or the throttling threshold was met between two looks; 0 where it is not counted, or was reset.
#[must_use]
pub fn new_limit_hits(before: &MemoryCgroup, now: &MemoryCgroup) -> u64 {
    grown(before.limit_hit_total, now.limit_hit_total) + grown(before.high_total, now.high_total)
}

/// Processes killed between two looks because the memory limit was reached. 0 where the killer was the node's.
#[must_use]
pub fn new_limit_kills(before: &MemoryCgroup, now: &MemoryCgroup) -> u64 {
    // Version 1 has no `oom`: there the limit that was met is all there is.
    let limit = match now.oom_total {
        Some(_) => grown(before.oom_total, now.oom_total),
        None => grown(before.limit_hit_total, now.limit_hit_total),
    };
    if limit > 0 { grown(before.oom_kill_total, now.oom_kill_total) } else { 0 }
}

fn grown(before: Option<u64>, now: Option<u64>) -> u64 {
    before.zip(now).and_then(|(before, now)| now.checked_sub(before)).unwrap_or(0)
}

/// `MemcgOomKill`, for `n_untold` kills that the cgroup at `path` has counted and the kernel's log has not told.
///
/// Who was killed the counter does not say. `None` for none.
#[must_use]
pub fn judge_limit_kills(subject: &Subject, at: Moment, path: &str, n_untold: u64) -> Option<Verdict> {
    let text =
        format!("{path}: {n_untold} processes killed at the memory limit, of which the kernel's log told nothing");
    (n_untold > 0).then(|| {
        Verdict::Occurrence(OccurrenceVerdict {
            code: FindingCode::MemcgOomKill,
            subject: subject.clone(),
            at,
            count: n_untold,
            attributes: Attributes::new().with(attribute::MEMCG, path),
            evidence: vec![Evidence::new(CGROUP, at, text)],
        })
    })
}

#[cfg(test)]
mod tests {
    use kulprit_host::pressure::PressureLine;
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;

    fn some(avg10_pct: f64) -> Reading<Pressure> {
        let line = PressureLine { avg10_pct, avg60_pct: 0.0, avg300_pct: 0.0, total_usec: 0 };
        Ok(Pressure { some: Some(line), full: None })
    }

    fn no() -> Reading<Pressure> {
        Err("`io.pressure` does not exist".to_owned())
    }

    #[track_caller]
    fn check(pressures: [Reading<Pressure>; 3], memory: Option<MemoryCgroup>, want: (Status, Option<&str>)) {
        let subject = Subject::vm("u");
        let look = VmPressureLook { at: Moment::default(), subject: &subject, pressures, memory, n_limit_hits: 3 };
        let Verdict::State(state) = judge_vm_pressure(&look) else { panic!("a state") };
        assert_eq!((state.code, state.status), (FindingCode::VmStalled, want.0), "{look:?}");
        assert_eq!(state.attributes.get(attribute::WHAT), want.1, "{look:?}");
        assert_eq!(state.status == Unknown, state.unknown_because.is_some());
    }

    #[test]
    fn each_threshold_is_met_from_both_sides() {
        check([some(19.99), some(79.99), some(79.99)], None, (Absent, None));
        check([some(20.0), some(99.0), some(99.0)], None, (Present, Some("memory")));
        check([some(0.0), some(80.0), some(99.0)], None, (Present, Some("io")));
        check([some(0.0), some(0.0), some(80.0)], None, (Present, Some("cpu")));
    }

    #[test]
    fn what_was_not_read_is_unknown_unless_another_proves_it() {
        check([no(), no(), no()], None, (Unknown, None));
        check([some(0.0), no(), some(0.0)], None, (Unknown, None));
        check([some(0.0), no(), some(80.0)], None, (Present, Some("cpu")));
        check([Ok(Pressure::default()), some(0.0), some(0.0)], None, (Unknown, None));
        let memory = |is_under_oom| Some(MemoryCgroup { is_under_oom, ..MemoryCgroup::default() });
        check([no(), no(), no()], memory(Some(true)), (Present, Some("oom")));
        check([no(), no(), no()], memory(Some(false)), (Unknown, None));
    }

    #[test]
    fn memory_that_stalls_says_how_often_its_limit_was_met() {
        let subject = Subject::vm("u");
        let pressures = [some(50.0), some(0.0), some(0.0)];
        let look =
            VmPressureLook { at: Moment::default(), subject: &subject, pressures, memory: None, n_limit_hits: 3 };
        assert!(format!("{:?}", judge_vm_pressure(&look)).contains("met 3 times"));
    }

    #[test]
    fn a_kill_is_the_limits_only_where_the_limit_was_reached() {
        let v2 = |oom, oom_kill| MemoryCgroup {
            oom_total: Some(oom),
            oom_kill_total: Some(oom_kill),
            limit_hit_total: Some(900),
            ..MemoryCgroup::default()
        };
        let v1 = |hits, oom_kill| MemoryCgroup {
            limit_hit_total: Some(hits),
            oom_kill_total: Some(oom_kill),
            ..MemoryCgroup::default()
        };
        for (before, now, want) in [
            (v2(0, 0), v2(0, 0), 0),
            (v2(0, 0), v2(1, 2), 2),
            (v2(1, 1), v2(2, 1), 0),
            (v2(1, 1), v2(1, 2), 0),
            (v2(5, 5), v2(0, 0), 0),
            (v1(0, 0), v1(7, 1), 1),
            (v1(7, 0), v1(7, 1), 0),
            (MemoryCgroup::default(), v2(1, 1), 0),
        ] {
            assert_eq!(new_limit_kills(&before, &now), want, "{before:?} {now:?}");
        }
        let high = MemoryCgroup { high_total: Some(4), ..v2(0, 0) };
        assert_eq!(new_limit_hits(&MemoryCgroup { high_total: Some(1), ..v2(0, 0) }, &high), 3);
        assert_eq!(new_limit_hits(&v1(9, 0), &v1(12, 0)), 3);
    }

    #[test]
    fn only_kills_that_nobody_told_are_told() {
        let subject = Subject::vm("u");
        assert_eq!(judge_limit_kills(&subject, Moment::default(), "pod", 0), None);
        let Some(Verdict::Occurrence(kill)) = judge_limit_kills(&subject, Moment::default(), "pod", 2) else {
            panic!("told")
        };
        assert_eq!((kill.code, kill.count), (FindingCode::MemcgOomKill, 2));
        assert_eq!((kill.attributes.get(attribute::MEMCG), kill.attributes.get(attribute::COMM)), (Some("pod"), None));
    }
}
