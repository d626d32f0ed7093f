//! Links that come and go. One that flaps is well at most looks, and each time whatever was moved away because of it may come back.
//!
//! The kernel counts how often a link lost its carrier, so that nothing is missed between two looks. The threshold is about that of the alert
//! `NodeNetworkInterfaceFlapping` (prometheus-operator/kube-prometheus: more than two changes in two minutes), counted in losses.

use std::collections::{BTreeMap, VecDeque};

use kulprit_host::network::Link;
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use super::is_in_use;
use crate::say::{SYSFS, absent, present};
use crate::verdict::{StateVerdict, Verdict};

/// As the catalogue's row.
const WINDOW_USEC: i64 = 120_000_000;
const MIN_LOSSES: u64 = 3;
const MIN_LOSSES_LOGGED: usize = 3;
/// The kernel log.
const KMSG: &str = "kmsg";
/// A link that was watched for less may flap all the same: after a start of the agent nothing is said of it for so long.
const WATCHED_USEC: i64 = WINDOW_USEC / 2;

/// What is remembered of the links: how often each had lost its carrier, look by look, within the window.
#[derive(Clone, Debug, Default)]
pub struct CarrierHistory(BTreeMap<String, VecDeque<(Moment, u64)>>);

/// `LinkFlapping` of each link that is in use and was watched for long enough.
#[must_use]
pub fn judge_flaps(at: Moment, links: &[Link], history: &mut CarrierHistory) -> Vec<Verdict> {
    let mut now = BTreeMap::new();
    let mut verdicts = Vec::new();
    for link in links.iter().filter(|link| is_in_use(link) && link.is_set_up != Some(false)) {
        let Some(total) = link.carrier_down_total else { continue };
        let mut looks = history.0.remove(&link.name).unwrap_or_default();
        // A count that fell is another device's of the same name.
        if looks.back().is_some_and(|(_, before)| total < *before) {
            looks.clear();
        }
        looks.push_back((at, total));
        while looks.front().is_some_and(|(then, _)| at.usec_since(*then) > WINDOW_USEC) {
            looks.pop_front();
        }
        verdicts.extend(judge(link, &looks).map(Verdict::State));
        now.insert(link.name.clone(), looks);
    }
    history.0 = now;
    verdicts
}

/// The same by a kernel log, which tells of each loss of each device, in any order: of those that still flapped at `at`.
#[must_use]
pub fn judge_logged(at: Moment, losses: &[(String, Moment)]) -> Vec<Verdict> {
    let code = FindingCode::LinkFlapping;
    let mut by_name: BTreeMap<&str, Vec<Moment>> = BTreeMap::new();
    losses.iter().for_each(|(name, lost)| by_name.entry(name).or_default().push(*lost));
    let judged = by_name.into_iter().filter_map(|(name, mut lost)| {
        lost.sort();
        let bursts = lost.windows(MIN_LOSSES_LOGGED);
        let flaps = |burst: &&[Moment]| match burst {
            [first, .., last] => last.wall_usec.saturating_sub(first.wall_usec) <= WINDOW_USEC,
            [] | [_] => false,
        };
        let [first, .., last] = bursts.rev().find(flaps)? else { return None };
        let is_over_usec = i64::from(code.spec().clear_after_ms) * 1_000;
        if at.wall_usec.saturating_sub(last.wall_usec) > is_over_usec {
            return None;
        }
        let secs = last.wall_usec.saturating_sub(first.wall_usec) / 1_000_000;
        let n_lost = lost.len();
        let text = format!(
            "{name} lost its carrier {n_lost} times in the kernel log, the last {MIN_LOSSES} times in {secs} s"
        );
        let facts = Attributes::new().with(attribute::DEVICE_NAME, name).with(attribute::MEASURED, n_lost);
        let subject = Subject::Device { name: name.to_owned() };
        let state = present(code, &subject, *last, KMSG, facts, text);
        Some(Verdict::State(StateVerdict { since: lost.first().copied(), ..state }))
    });
    judged.collect()
}

fn judge(link: &Link, looks: &VecDeque<(Moment, u64)>) -> Option<StateVerdict> {
    let (code, subject) = (FindingCode::LinkFlapping, Subject::Device { name: link.name.clone() });
    let ((since, before), (at, total)) = (*looks.front()?, *looks.back()?);
    let n_lost = total.saturating_sub(before);
    let watched_usec = at.usec_since(since);
    let secs = watched_usec / 1_000_000;
    let text = format!("{} lost its carrier {n_lost} times in {secs} s, {total} times since the boot", link.name);
    if n_lost >= MIN_LOSSES {
        let facts = Attributes::new().with(attribute::DEVICE_NAME, &link.name).with(attribute::MEASURED, n_lost);
        return Some(present(code, &subject, at, SYSFS, facts, text));
    }
    (watched_usec >= WATCHED_USEC).then(|| absent(code, &subject, at, SYSFS, text))
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{Absent, Present};

    use super::*;
    use crate::testing::status_of;

    fn link(name: &str, lost: u64) -> Link {
        Link {
            name: name.to_owned(),
            is_physical: true,
            is_set_up: Some(true),
            has_carrier: Some(true),
            rx_bytes: Some(1),
            carrier_down_total: Some(lost),
            has_default_route: false,
            mtu: Some(1500),
            packets_total: Some(9),
            errors_total: Some(0),
        }
    }

    fn at(secs: i64) -> Moment {
        Moment { wall_usec: 5, boottime_usec: secs * 1_000_000 }
    }

    /// What is said at the last of these looks: seconds, and losses since the boot.
    fn said(looks: &[(i64, u64)]) -> Option<kulprit_model::Status> {
        let mut history = CarrierHistory::default();
        let judged = looks.iter().map(|(secs, lost)| judge_flaps(at(*secs), &[link("eth0", *lost)], &mut history));
        status_of(&judged.last().unwrap_or_default(), FindingCode::LinkFlapping)
    }

    #[test]
    fn three_losses_in_two_minutes_are_flaps() {
        assert_eq!(said(&[(0, 40), (10, 42)]), None, "it was watched for 10 s");
        assert_eq!(said(&[(0, 40), (10, 43)]), Some(Present));
        assert_eq!(said(&[(0, 40), (59, 42)]), None);
        assert_eq!(said(&[(0, 40), (60, 42)]), Some(Absent));
        assert_eq!(said(&[(0, 40), (60, 42), (119, 43)]), Some(Present));
        assert_eq!(said(&[(0, 40), (1, 42), (60, 42), (121, 43)]), Some(Absent), "two of them are older");
        assert_eq!(said(&[(0, 40), (121, 43)]), None, "nobody looked meanwhile: it may have been in less or in more");
    }

    #[test]
    fn a_kernel_log_tells_of_flaps_until_ten_minutes_after_the_last() {
        let judge = |at: i64, losses: &[i64]| {
            let wall = |secs: i64| Moment { wall_usec: secs * 1_000_000, boottime_usec: 0 };
            let losses: Vec<_> = losses.iter().map(|secs| ("eth0".to_owned(), wall(*secs))).collect();
            status_of(&judge_logged(wall(at), &losses), FindingCode::LinkFlapping)
        };
        assert_eq!(judge(130, &[120, 0, 60]), Some(Present));
        assert_eq!(judge(130, &[0, 60, 121]), None);
        assert_eq!(judge(720, &[0, 60, 120]), Some(Present));
        assert_eq!(judge(721, &[0, 60, 120]), None);
        assert_eq!(judge(900, &[0, 1, 2, 890]), None, "one that comes long after is none of them");
        assert_eq!(judge(9, &[]), None);
    }

    #[test]
    fn a_count_that_fell_begins_anew() {
        assert_eq!(said(&[(0, 40), (10, 43), (20, 2)]), None);
        assert_eq!(said(&[(0, 40), (10, 2), (20, 5)]), Some(Present));
    }

    #[test]
    fn links_that_nobody_uses_or_that_were_set_down_say_nothing() {
        for link in [
            Link { rx_bytes: Some(0), ..link("eth1", 9) },
            Link { is_set_up: Some(false), ..link("eth1", 9) },
            Link { carrier_down_total: None, ..link("eth1", 9) },
        ] {
            let before = Link { carrier_down_total: link.carrier_down_total.map(|n| n - 9), ..link.clone() };
            let mut history = CarrierHistory::default();
            let _ = judge_flaps(at(0), &[before], &mut history);
            assert_eq!(judge_flaps(at(10), &[link], &mut history), []);
        }
    }

    #[test]
    fn a_link_is_not_judged_by_another() {
        let mut history = CarrierHistory::default();
        let _ = judge_flaps(at(0), &[link("eth0", 0), link("eth1", 0)], &mut history);
        let verdicts = judge_flaps(at(60), &[link("eth0", 4), link("eth1", 0)], &mut history);
        let shown = verdicts.iter().map(|verdict| match verdict {
            Verdict::State(state) => (state.subject.to_string(), state.status),
            Verdict::Occurrence(_) => panic!("{verdict:?}"),
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [("device/eth0".to_owned(), Present), ("device/eth1".to_owned(), Absent)]
        );
    }
}
