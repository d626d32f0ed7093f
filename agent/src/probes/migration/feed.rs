//! What the `domain` probe hears of migrations from libvirt, and what the `migration` probe wants asked there.
//!
//! One connection to libvirt serves both. News wait in a bounded queue, the oldest go first where nobody takes them: each round and
//! each second bring new ones. Wishes are a set: a domain is asked once, however often somebody wished it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kulprit_host::command::job::JobInfo;
use kulprit_model::Moment;
use kulprit_proto::worker;
use kulprit_proto::worker::domain_event::Event;
use tokio::sync::Notify;

/// News that are kept: a second of a hundred migrations.
const MAX_NEWS: usize = 256;
/// `virDomainControlState`: a command to QEMU is in flight, during a background job or otherwise.
const WAITING: [i32; 2] = [1, 2];

/// Something that libvirt told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// Figures of a domain's job.
    Job {
        /// When.
        at: Moment,
        /// Whose.
        uid: String,
        /// The figures.
        job: Box<JobInfo>,
        /// Asked when a round began.
        is_round_begin: bool,
    },
    /// Whether libvirt waits for an answer of a domain's QEMU.
    Control {
        /// When.
        at: Moment,
        /// Whose.
        uid: String,
        /// It waits.
        is_waiting: bool,
    },
    /// A migration began, ended, or goes on to its next step: look now.
    Moved,
}

/// The exchange between the two probes. Locks are held for a move only.
#[derive(Debug, Default)]
pub(in crate::probes) struct MigrationFeed {
    inner: Mutex<Inner>,
    came: Notify,
    wished: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    news: VecDeque<News>,
    wishes: BTreeSet<String>,
    leaving: BTreeSet<String>,
}

impl MigrationFeed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, news: News) {
        let mut inner = self.lock();
        if inner.news.len() >= MAX_NEWS {
            inner.news.pop_front();
        }
        inner.news.push_back(news);
        drop(inner);
        self.came.notify_one();
    }

    /// A look of libvirt at the domain of this VM.
    pub(in crate::probes) fn note_domain(&self, at: Moment, uid: &str, domain: &worker::Domain) {
        let Some(control) = &domain.control else { return };
        if self.lock().leaving.contains(uid) {
            self.put(News::Control { at, uid: uid.to_owned(), is_waiting: WAITING.contains(&control.state) });
        }
    }

    /// Figures of the job of this VM.
    pub(in crate::probes) fn note_job(&self, at: Moment, uid: &str, stats: &worker::JobStats) {
        let Some(job) = &stats.job else { return };
        self.put(News::Job {
            at,
            uid: uid.to_owned(),
            job: Box::new(job_info(job)),
            is_round_begin: stats.at_round_start,
        });
    }

    /// An event of the domain of this VM.
    pub(in crate::probes) fn note_event(&self, uid: &str, event: &worker::DomainEvent) {
        let is_of_a_migration = match &event.event {
            Some(Event::JobCompleted(_)) => true,
            // Rounds may last milliseconds; what a known migration does in them its figures tell.
            Some(Event::MigrationIteration(_)) => !self.lock().leaving.contains(uid),
            // VIR_DOMAIN_EVENT_STARTED, SUSPENDED, RESUMED or STOPPED with the detail that says migrated; failed ones end as such.
            Some(Event::Lifecycle(lifecycle)) => {
                matches!((lifecycle.event, lifecycle.detail), (2..=4, 1) | (5, 3 | 5))
            }
            Some(
                Event::IoError(_)
                | Event::ControlError(_)
                | Event::Watchdog(_)
                | Event::MemoryFailure(_)
                | Event::QemuEvent(_),
            )
            | None => false,
        };
        if is_of_a_migration {
            self.put(News::Moved);
        }
    }

    /// Waits for a wish, and takes all there are. Cancel-safe.
    pub(in crate::probes) async fn wishes(&self) -> BTreeSet<String> {
        loop {
            let wishes = std::mem::take(&mut self.lock().wishes);
            if !wishes.is_empty() {
                return wishes;
            }
            self.wished.notified().await;
        }
    }

    /// Waits for news, and takes all there are. Cancel-safe.
    pub(super) async fn news(&self) -> Vec<News> {
        loop {
            let news: Vec<News> = std::mem::take(&mut self.lock().news).into();
            if !news.is_empty() {
                return news;
            }
            self.came.notified().await;
        }
    }

    /// These VMs leave the node: looks at them are wanted.
    pub(super) fn set_leaving(&self, leaving: BTreeSet<String>) {
        self.lock().leaving = leaving;
    }

    /// Whether a VM leaves the node.
    pub(in crate::probes) fn is_any_leaving(&self) -> bool {
        !self.lock().leaving.is_empty()
    }

    /// The figures of this VM's job are wanted now.
    pub(super) fn wish(&self, uid: &str) {
        self.lock().wishes.insert(uid.to_owned());
        self.wished.notify_one();
    }
}

/// libvirt's numbers as the judge takes them.
fn job_info(job: &worker::Job) -> JobInfo {
    let word = |words: &[&str], number: i32| {
        usize::try_from(number).ok().and_then(|number| words.get(number)).map(|word| (*word).to_owned())
    };
    let page_bytes = job.memory_page_size_bytes.unwrap_or(4096);
    let whole = |number: Option<u64>| number.map(whole_f64);
    let (total, processed) =
        (job.data_total_bytes.or(job.memory_total_bytes), job.data_processed_bytes.or(job.memory_processed_bytes));
    // Before QEMU has begun libvirt gives zeroes, where nothing is known.
    let has_begun = total.is_some_and(|bytes| bytes > 0) || processed.is_some_and(|bytes| bytes > 0);
    JobInfo {
        // virDomainJobType, virDomainJobOperation.
        job_type: word(&["None", "Bounded", "Unbounded", "Completed", "Failed", "Cancelled"], job.r#type),
        operation: job.operation.map(|operation| {
            word(&["", "Start", "Save", "Restore", "Incoming migration", "Outgoing migration"], operation)
                .unwrap_or_default()
        }),
        migration_uid: None,
        elapsed_ms: job.time_elapsed_ms,
        processed_bytes: processed.filter(|_| has_begun),
        remaining_bytes: job.data_remaining_bytes.or(job.memory_remaining_bytes).filter(|_| has_begun),
        total_bytes: total.filter(|_| has_begun),
        disk_remaining_bytes: job.disk_remaining_bytes,
        copy_bytes_per_sec: whole(job.memory_rate_bytes),
        dirty_bytes_per_sec: job.memory_dirty_rate_pages.map(|pages| whole_f64(pages.saturating_mul(page_bytes))),
        iteration: job.memory_iteration,
        expected_downtime_ms: job.downtime_ms,
        n_postcopy_requests: job.memory_postcopy_requests,
        throttle_pct: job.auto_converge_throttle_pct.and_then(|pct| u64::try_from(pct).ok()),
        error_message: job.error.clone(),
    }
}

fn whole_f64(number: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "rates; exact up to 2^53")]
    let float = number as f64;
    float
}

#[cfg(test)]
mod tests {
    use kulprit_proto::worker::{Control, Lifecycle, MigrationIteration};

    use super::*;

    fn domain(control: i32) -> worker::Domain {
        worker::Domain { control: Some(Control { state: control, ..Control::default() }), ..worker::Domain::default() }
    }

    fn stats(job: worker::Job) -> worker::JobStats {
        worker::JobStats { job: Some(job), at_round_start: true, ..worker::JobStats::default() }
    }

    #[tokio::test]
    async fn only_looks_at_domains_that_leave_are_news() {
        let feed = MigrationFeed::default();
        feed.note_domain(Moment::default(), "a", &domain(1));
        feed.set_leaving(["a".to_owned()].into());
        feed.note_domain(Moment::default(), "a", &worker::Domain::default());
        for state in [0, 1, 2, 3] {
            feed.note_domain(Moment::default(), "a", &domain(state));
        }
        let waiting: Vec<bool> =
            feed.news().await.into_iter().map(|news| matches!(news, News::Control { is_waiting: true, .. })).collect();
        assert_eq!(waiting, [false, true, true, false]);
    }

    #[tokio::test]
    async fn steps_of_a_migration_are_news_and_other_events_are_not() {
        let feed = MigrationFeed::default();
        let lifecycle = |event, detail| Event::Lifecycle(Lifecycle { event, detail });
        let events = [
            (lifecycle(2, 1), true),
            (lifecycle(3, 1), true),
            (lifecycle(4, 1), true),
            (lifecycle(5, 3), true),
            (lifecycle(5, 5), true),
            (Event::MigrationIteration(MigrationIteration { iteration: 2 }), true),
            (lifecycle(2, 0), false),
            (lifecycle(3, 0), false),
            (lifecycle(5, 1), false),
            (lifecycle(6, 0), false),
        ];
        for (event, is_news) in events {
            feed.note_event("a", &worker::DomainEvent { event: Some(event.clone()), ..worker::DomainEvent::default() });
            feed.note_job(Moment::default(), "end", &stats(worker::Job::default()));
            let news = feed.news().await;
            assert_eq!(news.contains(&News::Moved), is_news, "{event:?}");
        }
        feed.set_leaving(["a".to_owned()].into());
        let event = Some(Event::MigrationIteration(MigrationIteration { iteration: 3 }));
        feed.note_event("a", &worker::DomainEvent { event, ..worker::DomainEvent::default() });
        feed.note_job(Moment::default(), "end", &stats(worker::Job::default()));
        assert!(!feed.news().await.contains(&News::Moved), "a round of a migration that is known");
    }

    #[tokio::test]
    async fn figures_come_in_the_judges_words() {
        let feed = MigrationFeed::default();
        let job = worker::Job {
            r#type: 2,
            operation: Some(5),
            memory_dirty_rate_pages: Some(10),
            memory_page_size_bytes: Some(4096),
            memory_iteration: Some(3),
            auto_converge_throttle_pct: Some(20),
            memory_processed_bytes: Some(7),
            ..worker::Job::default()
        };
        feed.note_job(Moment::default(), "a", &stats(job));
        let News::Job { job, is_round_begin: true, .. } = feed.news().await.remove(0) else {
            panic!("figures are news")
        };
        assert!(job.is_outgoing());
        assert_eq!((job.dirty_bytes_per_sec, job.iteration, job.throttle_pct), (Some(40_960.0), Some(3), Some(20)));
        assert_eq!((job.processed_bytes, job.remaining_bytes), (Some(7), None));
        let zeroes = worker::Job {
            data_total_bytes: Some(0),
            data_processed_bytes: Some(0),
            data_remaining_bytes: Some(0),
            time_elapsed_ms: Some(5),
            ..worker::Job::default()
        };
        let none = job_info(&zeroes);
        assert_eq!((none.processed_bytes, none.remaining_bytes, none.total_bytes), (None, None, None), "not begun");
        assert_eq!(none.elapsed_ms, Some(5));
        let arrives = worker::Job { r#type: 2, operation: Some(4), ..worker::Job::default() };
        let later = worker::Job { r#type: 2, operation: Some(77), ..worker::Job::default() };
        assert!(!job_info(&arrives).is_outgoing() && !job_info(&later).is_outgoing());
    }

    #[tokio::test]
    async fn news_that_nobody_takes_are_bounded_and_wishes_are_said_once() {
        let feed = MigrationFeed::default();
        for n in 0..1_000 {
            feed.note_job(Moment { wall_usec: n, boottime_usec: n }, "a", &stats(worker::Job::default()));
            feed.wish("a");
        }
        let news = feed.news().await;
        assert_eq!(news.len(), MAX_NEWS);
        assert!(matches!(news.last(), Some(News::Job { at, .. }) if at.wall_usec == 999));
        assert_eq!(feed.wishes().await.len(), 1);
    }
}
