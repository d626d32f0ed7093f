//! What each round of a copy had to send, and whether the rounds get smaller.
//!
//! A round sends what the guest dirtied during the one before: its `remaining` at the start, and because nothing is added to a round
//! while it runs, also `processed + remaining` at any of its samples less the same of the round before. QEMU's own dirty rate
//! saturates near the copy rate and misleads (measured: 33 MiB/s where 128 was true), so it is not used here. Round 1 sends
//! everything, and zero pages for nothing: what it really sent is not known from its samples.

use kulprit_model::Moment;

use super::Sample;

/// A round that leaves this share of what it sent to be sent again, or more, gets nowhere.
const LEFT_AGAIN: f64 = 0.9;
/// Rounds that begin closer together are not compared where there are earlier ones, microseconds: near its end a copy has rounds of some
/// tenths of a second, and what the guest writes in one of them is chance.
const APART_USEC: i64 = 3_000_000;

/// One round that was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    number: u64,
    /// When it was seen first.
    seen: Moment,
    /// What stood to be sent when it began, bytes; `None` where nobody looked then.
    begin_bytes: Option<u64>,
    /// All that will have been sent when it ends, bytes since the job's start.
    end_bytes: u64,
}

/// Whether a round left as much as it sent.
pub(super) fn is_standing(sent_bytes: u64, left_bytes: u64) -> bool {
    super::as_f64(left_bytes) >= LEFT_AGAIN * super::as_f64(sent_bytes)
}

/// What an earlier round sent, and what is left to be sent now, bytes. The earlier is the one before, or where rounds are short the last
/// that began three seconds ago. `None` until a round after the first has been seen from its begin to its end, where a sample lacks
/// numbers, and of a round that had nothing to send.
pub(super) fn sent_and_left(running: &[&Sample]) -> Option<(u64, u64)> {
    let rounds = rounds(running);
    let to_send = |round: &Round, before: Option<&Round>| {
        let of_sums = before
            .filter(|before| before.number > 1 && before.number + 1 == round.number)
            .and_then(|before| round.end_bytes.checked_sub(before.end_bytes));
        round.begin_bytes.or(of_sums)
    };
    let (last, earlier) = rounds.split_last()?;
    let left = to_send(last, earlier.last())?;
    let (mut sent, mut next) = (None, last.number);
    for (index, round) in earlier.iter().enumerate().rev() {
        let before = index.checked_sub(1).and_then(|index| earlier.get(index));
        let bytes = to_send(round, before).filter(|bytes| *bytes > 0 && round.number > 1 && round.number + 1 == next);
        let Some(bytes) = bytes else { break };
        (sent, next) = (Some(bytes), round.number);
        if last.seen.usec_since(round.seen) >= APART_USEC {
            break;
        }
    }
    Some((sent?, left))
}

fn rounds(running: &[&Sample]) -> Vec<Round> {
    let mut rounds: Vec<Round> = Vec::new();
    for sample in running {
        let job = &sample.job;
        let (Some(number), Some(processed), Some(remaining)) =
            (job.iteration, job.processed_bytes, job.remaining_bytes)
        else {
            continue;
        };
        let end_bytes = processed.saturating_add(remaining);
        match rounds.last_mut() {
            Some(round) if round.number == number => round.end_bytes = end_bytes,
            _ => {
                let begin_bytes = sample.is_round_begin.then_some(remaining);
                rounds.push(Round { number, seen: sample.at, begin_bytes, end_bytes });
            }
        }
    }
    rounds
}
