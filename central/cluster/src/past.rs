//! The migrations of a VM that ended within a day: how many, how, between which nodes, and who asked for them.
//!
//! From the history, and from events: those tell of migrations that ended before anybody watched, as long as they are kept (an hour).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    described::MigrationCounts,
    history::{DAY_USEC, MigrationOutcome, MigrationRecord},
    initiator::Initiator,
    parts::Parts,
};

/// So many are told one by one.
const MAX_TOLD: usize = 100;

/// Migrations of one VM.
pub(crate) struct Past<'c> {
    /// Those that ended, newest first.
    pub(crate) over: Vec<&'c MigrationRecord>,
    /// How many ended, those included that only events tell of.
    pub(crate) counts: MigrationCounts,
    /// Whether that is all there were.
    pub(crate) is_whole: bool,
    initiators: BTreeMap<Initiator, u32>,
    first_usec: Option<i64>,
}

impl<'c> Past<'c> {
    pub(crate) fn of(parts: &Parts<'c>) -> Self {
        let (cluster, until) = (parts.cluster, parts.at_usec);
        let from = until.saturating_sub(DAY_USEC);
        // Clocks differ by minutes: what is watched happened, whatever its time.
        let is_past = |usec: i64| usec <= until || cluster.is_live();
        let is_new = |usec: Option<i64>| usec.is_none_or(|usec| usec >= from && is_past(usec));
        let born = parts.born_usec();
        let is_its = |record: &&MigrationRecord| {
            let is_own = born.zip(record.created_usec).is_none_or(|(born, asked)| asked >= born);
            is_own && record.created_usec.is_none_or(is_past) && is_new(record.at_usec())
        };
        let all = || cluster.history.of(&parts.key);
        // Of an excerpt: an object without a UID may be there once more with it, or be the one that a VMI tells of.
        let with_uid: BTreeSet<&str> =
            all().filter(|record| !record.is_nameless()).map(|record| record.name.as_str()).collect();
        let is_other = |record: &MigrationRecord| record.is_nameless() && !with_uid.contains(record.name.as_str());
        let has_nameless = all().any(is_other);
        let is_told_once = |record: &&MigrationRecord| match (record.is_nameless(), record.name.is_empty()) {
            (true, _) => is_other(record),
            (false, only_vmi_tells) => !(only_vmi_tells && has_nameless),
        };
        let known: Vec<&MigrationRecord> = all().filter(is_its).filter(is_told_once).collect();

        let mut initiators: BTreeMap<Initiator, u32> = BTreeMap::new();
        for record in &known {
            // What a VMI says now is of its migration now; of a recorded case nobody knows what it said before.
            let told = record.initiator.map(|own| own.told_by(parts.vmi.filter(|_| !cluster.is_live())));
            told.into_iter().for_each(|initiator| *initiators.entry(initiator).or_default() += 1);
        }
        let names: BTreeSet<&str> = all().map(|record| record.name.as_str()).collect();
        let told = || cluster.told_migrations(parts.namespace(), parts.name()).filter(|name| !names.contains(name));
        told().for_each(|name| *initiators.entry(Initiator::of_name(name)).or_default() += 1);

        let mut over = known.clone();
        over.retain(|record| record.outcome() != MigrationOutcome::UnderWay);
        over.sort_by(|a, b| (b.at_usec(), &b.uid).cmp(&(a.at_usec(), &a.uid)));
        let mut counts = MigrationCounts::default();
        over.iter().for_each(|record| counts.add(record.outcome()));
        for name in told() {
            let events = || cluster.events("VirtualMachineInstanceMigration", parts.namespace(), name);
            let has = |reason: &str| events().any(|event| event.is_reason(reason) && is_new(event.last_usec));
            if has("SuccessfulMigration") {
                counts.add(MigrationOutcome::Succeeded);
            } else if has("FailedMigration") {
                counts.add(MigrationOutcome::Failed);
            }
        }
        let events = || {
            let events = cluster.events("VirtualMachineInstance", parts.namespace(), parts.name());
            events.filter(|event| event.is_reason("Migrated"))
        };
        let n_told = |is_warning: bool| {
            let told = events().filter(|event| event.is_warning == is_warning && is_new(event.first_usec));
            told.fold(0_u64, |n, event| n.saturating_add(event.count))
        };
        let more = |known: u32, told: u64, of_others: u32| {
            known.max(u32::try_from(told).unwrap_or(u32::MAX).saturating_sub(of_others))
        };
        let MigrationCounts { succeeded, failed, aborted, unknown } = counts;
        // Both ends may say it: 15 such events for 12 migrations on KubeVirt v1.8.4.
        counts.succeeded = more(succeeded, n_told(false) - n_told(false) / 4, unknown);
        // A cancelled one is told as one that failed.
        counts.failed = more(failed, n_told(true), aborted.saturating_add(unknown));

        let of_objects = known.iter().filter_map(|record| record.created_usec);
        let of_events = events().filter_map(|event| event.first_usec);
        let first_usec = of_objects.chain(of_events).filter(|usec| *usec >= from).min();
        let is_whole = cluster.history.watched().is_some_and(|watched| watched.since_usec <= from);
        Self { over, counts, is_whole, initiators, first_usec }
    }

    /// The newest, one by one.
    pub(crate) fn told(&self) -> Vec<MigrationRecord> {
        self.over.iter().take(MAX_TOLD).map(|record| (*record).clone()).collect()
    }

    /// Who asked for most of them.
    pub(crate) fn initiator(&self) -> Option<Initiator> {
        self.initiators.iter().max_by_key(|(_, n)| **n).map(|(initiator, _)| *initiator)
    }

    /// When the first of those that are known was asked for.
    pub(crate) const fn first_usec(&self) -> Option<i64> {
        self.first_usec
    }

    /// How they ended, who asked for them, and between which nodes most went.
    pub(crate) fn words(&self) -> String {
        let mut ways: BTreeMap<(&str, &str), u32> = BTreeMap::new();
        for record in &self.over {
            if let (Some(from), Some(to)) = (&record.source, &record.target) {
                *ways.entry((from, to)).or_default() += 1;
            }
        }
        let most = ways.into_iter().max_by_key(|(_, n)| *n);
        let by = self.initiators.iter().map(|(initiator, n)| format!("{n} {initiator}")).collect::<Vec<_>>().join(", ");
        let by = if by.is_empty() { by } else { format!("; asked for by: {by}") };
        let way = most.map(|((from, to), n)| format!("; most from {from} to {to}: {n}")).unwrap_or_default();
        let known = if self.is_whole { "" } else { ", as far as is known" };
        format!("migrations in 24 h{known}: {}{by}{way}", self.counts.words())
    }
}

impl MigrationCounts {
    fn add(&mut self, outcome: MigrationOutcome) {
        match outcome {
            MigrationOutcome::UnderWay => {}
            MigrationOutcome::Succeeded => self.succeeded += 1,
            MigrationOutcome::Failed => self.failed += 1,
            MigrationOutcome::Aborted => self.aborted += 1,
            MigrationOutcome::Unknown => self.unknown += 1,
        }
    }
}
