//! The flight recorder: the last five minutes of what the probes sample often, one value a second, to be shown with an incident.
//!
//! What led up to a fault is gone when somebody asks, and no history holds values of every second. So each figure has a small ring
//! here (1.2 KiB); when a VM becomes a suspect, its rings and the node's are frozen as they are, and go out with its capture.
//! Of several samples within a second the highest stays; a second without one is empty, as three of four are on a calm node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use kulprit_model::Moment;

/// Seconds that are kept.
const N_SECONDS: usize = 300;
/// A value that comes so much early is of the next second, microseconds: beats are up to 64 ms late.
const EARLY_USEC: i64 = 80_000;
/// Figures of a VM that was not sampled for so long are let go, seconds.
const FORGET_AFTER_SEC: i64 = 600;
/// VMs whose minutes before are kept at a time: the first, until they are no suspects any more.
const N_FROZEN: usize = 16;

/// What is sampled, with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Figure {
    /// For example `cpu some`.
    pub name: &'static str,
    /// `percent`, `MiB`, `threads`.
    pub unit: &'static str,
}

/// One figure over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What.
    pub figure: Figure,
    /// Whether it is the VM's own, not its node's.
    pub is_of_vm: bool,
    /// Time of the last value.
    pub end: Moment,
    /// Oldest first, one second apart; `None` is a second without a sample.
    pub values: Vec<Option<f32>>,
}

/// The recorder, shared by probes.
#[derive(Debug, Default)]
pub struct Recorder {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    node: BTreeMap<Figure, Ring>,
    vms: BTreeMap<String, BTreeMap<Figure, Ring>>,
    /// Of each suspect; `None`: there was no room when it became one.
    frozen: BTreeMap<String, Option<Vec<Series>>>,
}

#[derive(Debug, Default)]
struct Ring {
    end: Moment,
    /// Not a number: a second without a sample. An option would take twice the room.
    values: VecDeque<f32>,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value of the node.
    pub fn sample_node(&self, at: Moment, figure: Figure, value: f32) {
        self.lock().node.entry(figure).or_default().push(at, value);
    }

    /// A value of a VM.
    pub fn sample_vm(&self, at: Moment, vm_uid: &str, figure: Figure, value: f32) {
        let mut inner = self.lock();
        if !inner.vms.contains_key(vm_uid) {
            let is_fresh = |ring: &Ring| seconds(at) - seconds(ring.end) < FORGET_AFTER_SEC;
            inner.vms.retain(|_, rings| rings.values().any(is_fresh));
            inner.vms.insert(vm_uid.to_owned(), BTreeMap::new());
        }
        let rings = inner.vms.get_mut(vm_uid).expect("it was put there above");
        rings.entry(figure).or_default().push(at, value);
    }

    /// Freezes the minutes before of each VM that is new among the suspects, as long as there is room, and lets go of those that are
    /// none any more.
    pub fn follow(&self, suspects: &BTreeSet<String>) {
        let mut inner = self.lock();
        inner.frozen.retain(|uid, _| suspects.contains(uid));
        let mut n_kept = inner.frozen.values().flatten().count();
        for uid in suspects {
            if inner.frozen.contains_key(uid) {
                continue;
            }
            let series = (n_kept < N_FROZEN).then(|| inner.series(uid));
            n_kept += usize::from(series.is_some());
            inner.frozen.insert(uid.clone(), series);
        }
    }

    /// The minutes before the VM became a suspect; where it is none, the last minutes. The VM's own first. `None`: there was no room
    /// for them when it became one.
    #[must_use]
    pub fn series(&self, vm_uid: &str) -> Option<Vec<Series>> {
        let inner = self.lock();
        inner.frozen.get(vm_uid).map_or_else(|| Some(inner.series(vm_uid)), Clone::clone)
    }
}

impl Inner {
    fn series(&self, vm_uid: &str) -> Vec<Series> {
        let own = self.vms.get(vm_uid).into_iter().flatten().map(|(figure, ring)| ring.series(*figure, true));
        own.chain(self.node.iter().map(|(figure, ring)| ring.series(*figure, false))).collect()
    }
}

impl Ring {
    fn push(&mut self, at: Moment, value: f32) {
        let since_usec = at.boottime_usec - self.end.boottime_usec;
        let n_new = if self.values.is_empty() { 1 } else { (since_usec + EARLY_USEC).div_euclid(1_000_000) };
        match usize::try_from(n_new) {
            // A clock that went back, which this one does not: the value is of the newest second.
            Err(_) | Ok(0) => {
                if let Some(last) = self.values.back_mut() {
                    // The larger one, and of a number and none the number.
                    *last = last.max(value);
                }
            }
            Ok(n_new) => {
                if n_new > N_SECONDS || self.values.is_empty() {
                    self.values.clear();
                    self.values.reserve_exact(N_SECONDS);
                    self.end = at;
                } else {
                    let n_over = (self.values.len() + n_new).saturating_sub(N_SECONDS);
                    self.values.drain(..n_over.min(self.values.len()));
                    self.values.extend(std::iter::repeat_n(f32::NAN, n_new - 1));
                    // Whole seconds after the first value, however late this one is.
                    let over_usec = (since_usec + EARLY_USEC).rem_euclid(1_000_000) - EARLY_USEC;
                    self.end = at.offset_usec(-over_usec);
                }
                self.values.push_back(value);
            }
        }
    }

    fn series(&self, figure: Figure, is_of_vm: bool) -> Series {
        let value = |value: &f32| (!value.is_nan()).then_some(*value);
        Series { figure, is_of_vm, end: self.end, values: self.values.iter().map(value).collect() }
    }
}

const fn seconds(at: Moment) -> i64 {
    at.boottime_usec.div_euclid(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Figure = Figure { name: "cpu some", unit: "percent" };
    const IO: Figure = Figure { name: "io full", unit: "percent" };

    fn at(msec: i64) -> Moment {
        Moment::default().offset_usec(msec * 1_000)
    }

    fn suspects(uids: &[&str]) -> BTreeSet<String> {
        uids.iter().map(|uid| (*uid).to_owned()).collect()
    }

    #[test]
    fn the_highest_of_a_second_stays_and_a_gap_is_a_gap() {
        let recorder = Recorder::default();
        for (msec, value) in [(1_000, 1.0), (1_050, 9.0), (1_900, 3.0), (4_000, 5.0)] {
            recorder.sample_node(at(msec), CPU, value);
        }
        let series = recorder.series("vm").unwrap().remove(0);
        assert_eq!(series.values, [Some(9.0), None, None, Some(5.0)]);
        assert_eq!((series.end, series.is_of_vm), (at(4_000), false));
    }

    #[test]
    fn samples_of_each_second_leave_no_gap_though_some_are_late() {
        let recorder = Recorder::default();
        for (n, late) in [(0, 40), (1, 0), (2, 64), (3, 1), (4, 63), (5, 0)] {
            recorder.sample_node(at(n * 1_000 + late), CPU, 1.0);
        }
        let series = recorder.series("vm").unwrap().remove(0);
        assert_eq!(series.values, [Some(1.0); 6]);
        assert_eq!(series.end, at(5_040));
    }

    #[test]
    fn five_minutes_are_kept_and_no_more() {
        let recorder = Recorder::default();
        (0_u16..400).for_each(|sec| recorder.sample_node(at(i64::from(sec) * 1_000), CPU, f32::from(sec)));
        let series = recorder.series("vm").unwrap().remove(0);
        assert_eq!((series.values.len(), series.values[0], series.values[299]), (300, Some(100.0), Some(399.0)));
        recorder.sample_node(at(10_000_000), CPU, 1.0);
        assert_eq!(recorder.series("vm").unwrap()[0].values, [Some(1.0)], "what is older than five minutes is gone");
    }

    #[test]
    fn what_led_up_to_it_is_frozen_until_the_vm_is_no_suspect() {
        let recorder = Recorder::default();
        recorder.sample_vm(at(1_000), "a", IO, 1.0);
        recorder.sample_node(at(1_000), CPU, 2.0);
        recorder.follow(&suspects(&["a"]));
        recorder.sample_vm(at(2_000), "a", IO, 90.0);
        recorder.follow(&suspects(&["a", "b"]));
        let frozen = recorder.series("a").unwrap();
        assert_eq!(frozen.iter().map(|series| series.is_of_vm).collect::<Vec<_>>(), [true, false]);
        assert_eq!(frozen[0].values, [Some(1.0)]);
        recorder.follow(&suspects(&["b"]));
        assert_eq!(recorder.series("a").unwrap()[0].values, [Some(1.0), Some(90.0)]);
    }

    #[test]
    fn what_is_frozen_stays_so_however_many_suspects_come() {
        let recorder = Recorder::default();
        recorder.sample_node(at(1_000), CPU, 1.0);
        let mut all: BTreeSet<String> = (0..N_FROZEN).map(|n| format!("vm{n:02}")).collect();
        recorder.follow(&all);
        recorder.sample_node(at(2_000), CPU, 2.0);
        all.extend(["a-late".to_owned(), "z-late".to_owned()]);
        recorder.follow(&all);
        recorder.follow(&all);
        for n in 0..N_FROZEN {
            assert_eq!(recorder.series(&format!("vm{n:02}")).unwrap()[0].values, [Some(1.0)], "vm{n:02}");
        }
        assert_eq!((recorder.series("a-late"), recorder.series("z-late")), (None, None));
        // Room that comes later brings no minutes before.
        all.remove("vm00");
        recorder.follow(&all);
        assert_eq!(recorder.series("a-late"), None);
        all.insert("new".to_owned());
        recorder.follow(&all);
        assert!(recorder.series("new").is_some());
    }

    #[test]
    fn vms_long_gone_are_not_kept() {
        let recorder = Recorder::default();
        recorder.sample_vm(at(0), "old", CPU, 1.0);
        recorder.sample_vm(at(FORGET_AFTER_SEC * 1_000), "new", CPU, 1.0);
        assert_eq!(recorder.lock().vms.len(), 1);
    }
}
