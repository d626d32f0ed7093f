//! Each threshold from both sides, on numbers as recorded and made.

use kulprit_model::Status::{self, Absent, Present};

use super::*;

const MIB: u64 = 1_048_576;

/// Seconds, copied, rest (MiB), copy rate, dirty rate (MiB/s), round.
type Row = (i64, u64, u64, f64, f64, u64);

fn samples(rows: &[Row]) -> Vec<Sample> {
    rows.iter()
        .map(|(secs, processed, remaining, copy, dirty, round)| Sample {
            at: Moment { wall_usec: secs * 1_000_000, boottime_usec: secs * 1_000_000 },
            job: JobInfo {
                migration_uid: Some("m".to_owned()),
                elapsed_ms: u64::try_from(secs * 1000).ok(),
                processed_bytes: Some(processed * MIB),
                remaining_bytes: Some(remaining * MIB),
                total_bytes: Some(256 * MIB),
                copy_bytes_per_sec: Some(copy * 1_048_576.0),
                dirty_bytes_per_sec: Some(dirty * 1_048_576.0),
                iteration: Some(*round),
                ..JobInfo::default()
            },
            source: "launcher",
            is_round_begin: false,
        })
        .collect()
}

#[track_caller]
fn check(rows: &[Row], code: FindingCode, want: Option<Status>) {
    check_samples(&samples(rows), code, want);
}

#[track_caller]
fn check_samples(samples: &[Sample], code: FindingCode, want: Option<Status>) {
    let got = judge(&Subject::vm("v"), samples).into_iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code => Some(state.status),
        _ => None,
    });
    assert_eq!(got, want, "{code}: {samples:?}");
}

#[test]
fn a_rest_that_does_not_shrink_is_dirtying_though_the_copy_is_faster() {
    use FindingCode::MigrationDirtying;
    // As recorded, 16 s of a migration that never converged.
    let recorded = [
        (4, 138, 40, 50.0, 45.8, 3),
        (8, 333, 54, 49.6, 48.9, 7),
        (12, 534, 44, 50.0, 48.4, 11),
        (16, 718, 59, 46.7, 39.8, 15),
    ];
    check(&recorded, MigrationDirtying, Some(Present));
    check(&recorded, FindingCode::MigrationProgressing, Some(Absent));
    // The rest shrinks by more than a tenth over two rounds.
    check(&[(4, 138, 40, 50.0, 45.0, 3), (8, 333, 35, 50.0, 45.0, 7)], MigrationDirtying, Some(Absent));
    // A guest that hardly writes.
    check(&[(4, 138, 40, 50.0, 24.9, 3), (8, 333, 40, 50.0, 24.9, 7)], MigrationDirtying, Some(Absent));
    check(&[(4, 138, 40, 50.0, 25.0, 3), (8, 333, 40, 50.0, 25.0, 7)], MigrationDirtying, Some(Present));
    // The first round copies everything, whatever the guest does.
    check(&[(4, 60, 196, 50.0, 80.0, 1)], MigrationDirtying, None);
}

#[test]
fn a_single_look_needs_a_higher_dirty_rate() {
    check(&[(16, 718, 40, 50.0, 39.9, 15)], FindingCode::MigrationDirtying, Some(Absent));
    check(&[(16, 718, 40, 50.0, 40.0, 15)], FindingCode::MigrationDirtying, Some(Present));
}

#[test]
fn nothing_copied_in_twenty_seconds_is_no_bytes() {
    use FindingCode::MigrationNoBytes;
    let only_elapsed = |elapsed_ms| Sample {
        at: Moment::default(),
        job: JobInfo {
            job_type: Some("Unbounded".to_owned()),
            operation: Some("Outgoing migration".to_owned()),
            elapsed_ms: Some(elapsed_ms),
            ..JobInfo::default()
        },
        source: "domjobinfo",
        is_round_begin: false,
    };
    check_samples(&[only_elapsed(20_000)], MigrationNoBytes, Some(Present));
    check_samples(&[only_elapsed(19_999)], MigrationNoBytes, None);
    check(&[(4, 60, 196, 50.0, 0.0, 1), (24, 60, 196, 0.0, 0.0, 1)], MigrationNoBytes, Some(Present));
    check(&[(4, 60, 196, 50.0, 0.0, 1), (24, 61, 195, 0.1, 0.0, 1)], MigrationNoBytes, Some(Absent));
}

#[test]
fn a_copy_that_stood_when_its_migration_ended_had_stopped() {
    use FindingCode::{MigrationNotCompleted, MigrationProgressing, MigrationSlow};
    let judge = |stood_from: i64| {
        let rows = [(4, 60, 196, 50.0, 0.0, 1), (stood_from, 90, 166, 50.0, 0.0, 1), (20, 90, 166, 0.0, 0.0, 1)];
        let verdicts = judge_ended(&Subject::vm("v"), &samples(&rows), Moment::default());
        let state = |code| {
            let found = verdicts.iter().find(|verdict| matches!(verdict, Verdict::State(state) if state.code == code));
            found.map(|verdict| matches!(verdict, Verdict::State(state) if state.status == Present))
        };
        let has_stopped = verdicts.iter().any(|verdict| match verdict {
            Verdict::Occurrence(of) => of.code == MigrationNotCompleted && of.attributes.get("what") == Some("stopped"),
            Verdict::State(_) => false,
        });
        (state(MigrationSlow), state(MigrationProgressing), has_stopped)
    };
    assert_eq!(judge(10), (None, Some(false), true));
    assert_eq!(judge(11), (Some(true), Some(true), false));
}

#[test]
fn below_sixteen_mebibytes_a_second_is_slow() {
    check(&[(8, 60, 196, 15.9, 0.0, 1)], FindingCode::MigrationSlow, Some(Present));
    check(&[(8, 60, 196, 16.0, 0.0, 1)], FindingCode::MigrationSlow, Some(Absent));
    check(&[(2, 1, 255, 1.0, 0.0, 1)], FindingCode::MigrationSlow, None);
}

#[test]
fn a_new_minimum_of_the_rest_is_progress_for_half_a_minute() {
    use FindingCode::MigrationProgressing;
    check(&[(4, 60, 196, 50.0, 0.0, 1), (8, 160, 96, 50.0, 0.0, 1)], MigrationProgressing, Some(Present));
    let rows = [(4, 60, 196, 50.0, 0.0, 1), (8, 160, 96, 50.0, 0.0, 1), (38, 161, 96, 50.0, 0.0, 1)];
    check(&rows, MigrationProgressing, Some(Absent));
    check(&[(8, 160, 96, 50.0, 0.0, 1)], MigrationProgressing, None);
}

/// The rest of a round ends near nothing, and the next round begins with what was dirtied meanwhile.
#[test]
fn within_a_smaller_round_there_is_progress_though_the_rest_was_less_before() {
    use FindingCode::MigrationProgressing;
    let two_rounds = |begin: u64, left: u64| {
        let at_end = |secs, copied, rest| (secs, copied, rest, 8.0, 5.0, 2);
        let first = [(4, 0, 256, 8.0, 5.0, 1), (34, 255, 1, 8.0, 5.0, 1)];
        [first[0], first[1], at_end(36, 256, begin), at_end(70, 256 + begin - left, left)]
    };
    check(&two_rounds(180, 60), MigrationProgressing, Some(Present));
    check(&two_rounds(180, 179), MigrationProgressing, Some(Absent));
    check(&two_rounds(250, 60), MigrationProgressing, Some(Absent));
}

/// Milliseconds, and what the round that begins then has to send, KiB; 8 MiB are copied a second.
fn short_rounds(begins: &[(i64, u64)]) -> Vec<Sample> {
    let mut samples = samples(&vec![(0, 0, 0, 8.0, 4.0, 0); begins.len()]);
    for ((sample, (at, rest_kib)), round) in samples.iter_mut().zip(begins).zip(2..) {
        sample.at = Moment::default().offset_usec(at * 1_000);
        sample.is_round_begin = true;
        sample.job.elapsed_ms = u64::try_from(at + 60_000).ok();
        sample.job.processed_bytes = u64::try_from(at * 8 * 1_049).ok().map(|bytes| bytes + 256 * MIB);
        sample.job.remaining_bytes = Some(rest_kib * 1024);
        sample.job.iteration = Some(round);
    }
    samples
}

#[test]
fn short_rounds_are_compared_with_one_three_seconds_earlier() {
    use FindingCode::MigrationDirtying;
    // Near its end: the last round left more than the one before it by chance, and far less than the third last.
    let near_its_end = [(0, 24_000), (2_900, 10_000), (4_100, 3_000), (4_500, 3_000)];
    check_samples(&short_rounds(&near_its_end), MigrationDirtying, Some(Absent));
    // The guest writes the same three megabytes for ever.
    let for_ever: Vec<(i64, u64)> = (0..12).map(|n| (n * 400, 3_000)).collect();
    check_samples(&short_rounds(&for_ever), MigrationDirtying, Some(Present));
    check_samples(&short_rounds(&near_its_end[2..]), MigrationDirtying, Some(Present));
}

#[test]
fn only_the_last_migration_is_judged() {
    let mut two = samples(&[(4, 138, 40, 50.0, 45.8, 3), (8, 333, 54, 49.6, 48.9, 7), (12, 60, 196, 50.0, 0.0, 1)]);
    two[2].job.migration_uid = Some("n".to_owned());
    check_samples(&two, FindingCode::MigrationDirtying, None);
    assert_eq!(judge(&Subject::vm("v"), &[]), []);
    let ended = JobInfo { job_type: Some("Completed".to_owned()), ..JobInfo::default() };
    assert_eq!(
        judge(
            &Subject::vm("v"),
            &[Sample { at: Moment::default(), job: ended, source: "domjobinfo", is_round_begin: false }]
        ),
        []
    );
}
