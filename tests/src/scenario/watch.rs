//! Kulprit watched from outside while a scenario is played: everything it says, with the second at which it began to.
//!
//! A thread asks `kulprit` again and again as a person would and keeps the changes. So a verdict that came and went is seen, a finding has
//! its time whatever the player waits for, and what was said of somebody who is well fails the scenario.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use super::words;
use crate::system::System;
use crate::system::answers::{Finding, Verdict};
use crate::wait::{self, Stopwatch};

/// Between two rounds of questions: what the figures are exact to, beside the time `kulprit` takes to start.
const PERIOD: Duration = Duration::from_millis(100);

/// One line of a timeline.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Since the beginning of the scenario.
    pub at: Duration,
    /// What happened.
    pub text: String,
}

/// A finding, and when it was first shown.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Duration,
    pub(crate) finding: Finding,
}

#[derive(Debug, Default)]
struct Record {
    entries: Vec<Entry>,
    /// What was there before the first step is nobody's doing.
    before: BTreeSet<String>,
    has_begun: bool,
    shown: BTreeSet<String>,
    findings: Vec<Seen>,
    verdicts: Vec<Verdict>,
    /// Since when nobody is in trouble.
    calm_since: Option<Duration>,
    /// Each verdict about whom it was, whenever it was shown first.
    ever: Vec<(Duration, Verdict)>,
    error: Option<String>,
}

/// What Kulprit says, now and before.
#[derive(Debug)]
pub(crate) struct Watch<'stage> {
    system: &'stage System,
    clock: Stopwatch,
    record: Mutex<Record>,
    is_over: AtomicBool,
    is_told: bool,
}

impl<'stage> Watch<'stage> {
    /// To be run by a thread; `is_told`: each line is printed as it comes.
    pub(crate) fn new(system: &'stage System, is_told: bool) -> Self {
        Self { system, clock: Stopwatch::start(), record: Mutex::default(), is_over: AtomicBool::new(false), is_told }
    }

    /// Asks until [`Watch::end`], or until nobody answers.
    pub(crate) fn run(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            if let Err(error) = self.ask() {
                self.lock().error = Some(format!("{error:#}"));
                return;
            }
            wait::pause(PERIOD);
        }
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Since the beginning of the scenario.
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Adds a line of the player's own.
    pub(crate) fn tell(&self, text: String) {
        self.push(&mut self.lock(), text);
    }

    /// The verdicts that are shown now.
    ///
    /// # Errors
    /// If Kulprit no longer answers.
    pub(crate) fn verdicts(&self) -> Result<Vec<Verdict>> {
        Ok(self.record()?.verdicts.clone())
    }

    /// Since when nobody is in trouble; `None` while somebody is.
    ///
    /// # Errors
    /// If Kulprit no longer answers.
    pub(crate) fn calm_since(&self) -> Result<Option<Duration>> {
        Ok(self.record()?.calm_since)
    }

    /// Every verdict that was shown since the beginning, when it was first, each wording once.
    pub(crate) fn ever(&self) -> Result<Vec<(Duration, Verdict)>> {
        Ok(self.record()?.ever.clone())
    }

    /// When a finding that `is_it` was first shown after `since`, or before if it was not shown anew; `None` if it never was.
    pub(crate) fn found(&self, since: Duration, is_it: impl Fn(&Finding) -> bool) -> Result<Option<Duration>> {
        let record = self.record()?;
        let mut times = record.findings.iter().filter(|seen| is_it(&seen.finding)).map(|seen| seen.at);
        let first = times.next();
        Ok(first.and_then(|first| std::iter::once(first).chain(times).find(|at| *at >= since).or(Some(first))))
    }

    /// Waits until the first answers are there: what they say was so before.
    ///
    /// # Errors
    /// If Kulprit does not answer.
    pub(crate) fn wait_until_begun(&self) -> Result<()> {
        wait::wait_until("kulprit's first answers", Duration::from_secs(30), || Ok(self.record()?.has_begun)).map(drop)
    }

    /// The timeline so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    fn ask(&self) -> Result<()> {
        // In this order a verdict is never shown before its finding.
        let verdicts = self.system.why()?;
        let findings: Vec<Finding> = self.system.findings(&[])?;
        let mut record = self.lock();
        let mut shown = BTreeSet::new();
        for finding in findings.into_iter().filter(Finding::holds) {
            let key = format!("{}|{}|{:?}", words::of_finding(&finding), finding.count.unwrap_or(0), finding.last);
            if !record.has_begun && finding.status.is_none() {
                record.before.insert(key.clone());
            }
            if record.before.contains(&key) {
                continue;
            }
            let is_known = |seen: &Seen| {
                let known = &seen.finding;
                (known.count, &known.last) == (finding.count, &finding.last)
                    && words::of_finding(known) == words::of_finding(&finding)
            };
            if !record.findings.iter().any(is_known) {
                record.findings.push(Seen { at: self.clock.elapsed(), finding: finding.clone() });
                let why = finding.evidence.first().map_or("", |evidence| &evidence.text);
                self.push(&mut record, format!("  + finding {}: {why}", words::of_finding(&finding)));
            }
            shown.insert(format!("finding {}", words::of_finding(&finding)));
        }
        for verdict in &verdicts {
            let words = words::of_verdict(verdict);
            if !record.ever.iter().any(|(_, known)| words::of_verdict(known) == words) {
                record.ever.push((self.clock.elapsed(), verdict.clone()));
            }
            shown.insert(format!("why {words}"));
        }
        record.has_begun = true;
        record.calm_since = verdicts.is_empty().then(|| record.calm_since.unwrap_or_else(|| self.clock.elapsed()));
        record.verdicts = verdicts;
        let before = std::mem::replace(&mut record.shown, shown.clone());
        for text in shown.difference(&before).filter(|text| text.starts_with("why")) {
            self.push(&mut record, format!("  + {text}"));
        }
        for text in before.difference(&shown) {
            self.push(&mut record, format!("  - {text}"));
        }
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "a timeline is told as it happens")]
    fn push(&self, record: &mut Record, text: String) {
        let entry = Entry { at: self.clock.elapsed(), text };
        if self.is_told {
            println!("{:7.2}  {}", entry.at.as_secs_f64(), entry.text);
        }
        record.entries.push(entry);
    }

    fn record(&self) -> Result<MutexGuard<'_, Record>> {
        let record = self.lock();
        match &record.error {
            Some(error) => bail!("kulprit no longer answers: {error}"),
            None => Ok(record),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
