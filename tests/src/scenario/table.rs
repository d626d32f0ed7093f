//! What came out of scenarios, as a table for people.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::file::{Scenario, Step};
use super::watch::Entry;

/// One answer that was waited for.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Name of the VM or node that was sick.
    pub(crate) who: String,
    /// Symptom, and causes from the root on.
    pub(crate) verdict: String,
    /// Of the first cause.
    pub(crate) probability: Option<f64>,
    /// From the fault to its finding.
    pub(crate) found_after: Option<Duration>,
    /// From the fault to the verdict.
    pub(crate) explained_after: Option<Duration>,
    /// From the undoing until the symptom was gone.
    pub(crate) cleared_after: Option<Duration>,
}

impl Row {
    /// A control in which nothing was raised, whatever was found.
    pub(crate) fn control(scenario: &Scenario) -> Self {
        let found = scenario.steps.iter().filter_map(|step| match step {
            Step::Found(wanted) => Some(wanted.finding.as_str()),
            Step::Silent(_) => Some("silence"),
            _ => None,
        });
        let said: Vec<&str> = found.chain(["nothing raised"]).collect();
        Self {
            who: String::new(),
            verdict: said.join(", "),
            probability: None,
            found_after: None,
            explained_after: None,
            cleared_after: None,
        }
    }
}

/// What the seconds of a scenario went to; the rest is its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Until the VMs ran and were seen.
    pub(crate) set_up: Duration,
    /// Waiting for verdicts and findings.
    pub(crate) told: Duration,
    /// Waiting that nothing is said, and pauses.
    pub(crate) idle: Duration,
    /// Everything else that its file says.
    pub(crate) acting: Duration,
    /// From the end of the last fault until all was quiet.
    pub(crate) clearing: Duration,
}

impl Spent {
    /// What a step's time is added to.
    pub(crate) fn on(&mut self, step: &Step) -> &mut Duration {
        match step {
            Step::Expect(_) | Step::Found(_) | Step::Silent(_) => &mut self.told,
            Step::Nothing(_) | Step::Pause(_) => &mut self.idle,
            _ => &mut self.acting,
        }
    }

    fn add(self, other: Self) -> Self {
        let Self { set_up, told, idle, acting, clearing } = other;
        Self {
            set_up: self.set_up + set_up,
            told: self.told + told,
            idle: self.idle + idle,
            acting: self.acting + acting,
            clearing: self.clearing + clearing,
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set_up, told, idle, acting, clearing } = self;
        let [set_up, told, idle, acting, clearing] =
            [set_up, told, idle, acting, clearing].map(|time| format!("{:.0}", time.as_secs_f64()));
        write!(f, "set-up {set_up} s, until told {told}, nothing said {idle}, acting {acting}, clearing {clearing}")
    }
}

/// A scenario that was played.
#[derive(Clone, Debug)]
pub struct Played {
    /// Its name.
    pub name: String,
    /// Its one sentence.
    pub about: String,
    /// From the first VM's start until all was quiet.
    pub took: Duration,
    /// What that went to.
    pub spent: Spent,
    /// What happened when.
    pub timeline: Vec<Entry>,
    /// Why it failed; `None`: everything was as its file says.
    pub error: Option<String>,
    rows: Vec<Row>,
    is_written: bool,
}

impl Played {
    pub(crate) fn new(
        scenario: &Scenario,
        rows: Vec<Row>,
        spent: Spent,
        took: Duration,
        timeline: Vec<Entry>,
        error: Option<String>,
    ) -> Self {
        let Scenario { name, about, .. } = scenario;
        let is_written = scenario.is_written();
        Self { name: name.clone(), about: about.clone(), took, spent, timeline, error, rows, is_written }
    }

    /// A scenario for which there was no stage.
    pub(crate) fn not_played(scenario: &Scenario, why: String) -> Self {
        Self::new(scenario, Vec::new(), Spent::default(), Duration::ZERO, Vec::new(), Some(why))
    }

    /// Its timeline, one line an entry, seconds first.
    #[must_use]
    pub fn timeline(&self) -> String {
        let mut text = String::new();
        for Entry { at, text: line } in &self.timeline {
            let _ = writeln!(text, "{:7.2}  {line}", at.as_secs_f64());
        }
        text
    }
}

/// The table of all: one line for each answer that was waited for, and each control. Scenarios whose kernel log lines were written by the
/// scenario bear a `*`.
#[must_use]
pub fn table(played: &[Played]) -> String {
    let header = ["scenario", "who", "verdict", "prob.", "found s", "explained s", "cleared s"].map(str::to_owned);
    let mut lines = vec![header];
    for one in played {
        let name = format!("{}{}", one.name, if one.is_written { " *" } else { "" });
        lines.extend(one.rows.iter().map(|row| cells(&name, row)));
        if let Some(error) = &one.error {
            let why = error.lines().next().unwrap_or_default().chars().take(160).collect::<String>();
            lines.push([name, String::new(), format!("FAILED: {why}"), dash(), dash(), dash(), dash()]);
        }
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    let n_failed = played.iter().filter(|one| one.error.is_some()).count();
    let took: Duration = played.iter().map(|one| one.took).sum();
    let spent = played.iter().fold(Spent::default(), |sum, one| sum.add(one.spent));
    let _ = writeln!(text, "{} played in {} s ({spent}), {n_failed} failed", played.len(), took.as_secs());
    text
}

fn cells(name: &str, row: &Row) -> [String; 7] {
    let Row { who, verdict, probability, found_after, explained_after, cleared_after } = row;
    let secs = |time: &Option<Duration>| time.map_or_else(dash, |time| format!("{:.1}", time.as_secs_f64()));
    [
        name.to_owned(),
        who.clone(),
        verdict.clone(),
        probability.map_or_else(dash, |probability| format!("{probability:.2}")),
        secs(found_after),
        secs(explained_after),
        secs(cleared_after),
    ]
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_counted_and_named() {
        let scenario = Scenario::parse("cut", "{about: A cable is cut., steps: [{kernel_log: x}]}").unwrap();
        let text = table(&[Played::not_played(&scenario, "no stage\nand a log".to_owned())]);
        assert!(text.contains("cut *") && text.contains("FAILED: no stage") && !text.contains("and a log"), "{text}");
        assert!(text.ends_with(", 1 failed\n"), "{text}");
    }

    #[track_caller]
    fn check_control(steps: &str, want: &str) {
        let scenario = Scenario::parse("calm", &format!("{{about: Nothing happens., steps: [{steps}]}}")).unwrap();
        let rows = vec![Row::control(&scenario)];
        let spent = Spent { set_up: Duration::from_secs(2), ..Spent::default() };
        let text = table(&[Played::new(&scenario, rows, spent, Duration::from_secs(3), Vec::new(), None)]);
        assert!(text.contains(want) && text.contains("1 played in 3 s (set-up 2 s, "), "{text}");
        assert!(text.ends_with(", 0 failed\n"), "{text}");
    }

    #[test]
    fn a_control_says_that_nothing_was_raised() {
        check_control("{nothing: 5}", "  nothing raised");
    }

    #[test]
    fn a_control_says_what_was_found_all_the_same() {
        check_control("{silent: n2}, {found: {node: n1, finding: F}}", "  silence, F, nothing raised");
    }
}
