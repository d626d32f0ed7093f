//! The page of `why`, as a person reads it at three in the morning: the answer first, then why, then what to do.

pub(crate) mod can_migrate;
mod migrations;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::tz::TimeZone;
use kulprit_proto::v1;

use crate::{
    Terminal,
    shape::{self, Confidence},
    table::one_line,
    when::{date_time, span, time_of_day, with_times_in},
};

/// Candidates below this are not worth a line beside the first.
const MIN_SHOWN_PROBABILITY: f64 = 0.02;

/// Of what was ruled out so many are shown; JSON has all.
const MAX_RULED_OUT: usize = 12;

/// The symptom of who shows none, and of a node whose faults are its symptom.
const UNSPECIFIED: &str = "Unspecified";

/// Whether a node has faults of its own: they have a beginning, and no symptom is called after them.
fn is_faulty(verdict: &shape::Verdict) -> bool {
    verdict.subject.uid.is_empty() && verdict.since_wall_usec != 0
}

/// Whether it is one, not `Unexplained`, which sits nowhere.
const fn is_a_cause(cause: &shape::Cause) -> bool {
    !cause.role.is_empty()
}

/// Verdicts, one page after the other.
pub(crate) fn verdicts(terminal: &Terminal, verdicts: &[shape::Verdict], zone: &TimeZone) -> String {
    let rule = format!("\n{}\n\n", terminal.dim(&"─".repeat(60)));
    verdicts.iter().map(|one| verdict(terminal, one, zone)).collect::<Vec<_>>().join(&rule)
}

/// One verdict as a page, times in `zone`. Ends in a line feed.
pub(crate) fn verdict(terminal: &Terminal, verdict: &shape::Verdict, zone: &TimeZone) -> String {
    let mut page = Page { terminal, text: String::new(), reference_wall_usec: verdict.reference_wall_usec, zone };
    page.heading(verdict);
    page.answer(verdict);
    page.evidence(verdict);
    page.rows("Migrations of the last 24 h", migrations::rows(&verdict.migrations));
    page.others("Also possible", &verdict.causes, 1);
    page.others("Wrong at the same time", &verdict.contributing, 0);
    page.ruled_out(verdict);
    page.mentions(verdict);
    page.list("Could not be seen", &verdict.unknown, Terminal::yellow);
    page.list("Looked at, and well", &verdict.looked_at, Terminal::dim);
    page.remedy(verdict);
    if !verdict.incident.is_empty() {
        let _ = writeln!(page.text, "\nIncident {}", verdict.incident);
    }
    page.text
}

struct Page<'a> {
    terminal: &'a Terminal,
    text: String,
    reference_wall_usec: i64,
    zone: &'a TimeZone,
}

impl Page<'_> {
    fn heading(&mut self, verdict: &shape::Verdict) {
        let whom = subject_words(&verdict.subject);
        let symptom = match verdict.symptom.as_str() {
            UNSPECIFIED if is_faulty(verdict) => self.terminal.red("a fault of its own"),
            UNSPECIFIED if verdict.unknown.is_empty() => "no symptom of its own".to_owned(),
            UNSPECIFIED => "no symptom of its own was seen".to_owned(),
            symptom => self.terminal.red(symptom),
        };
        let since = match verdict.since_wall_usec {
            0 => String::new(),
            since => {
                format!(
                    " for {} (since {})",
                    span(self.reference_wall_usec.saturating_sub(since)),
                    date_time(since, self.zone)
                )
            }
        };
        let _ = writeln!(self.text, "{}: {symptom}{since}", self.terminal.bold(&whom));
        if !verdict.symptom_text.is_empty() {
            self.wrapped("  ", "  ", &verdict.symptom_text);
        }
    }

    fn answer(&mut self, verdict: &shape::Verdict) {
        let Some(first) = verdict.causes.first() else {
            let _ = writeln!(self.text, "\n  {}", self.terminal.green("Nothing speaks for a fault."));
            return;
        };
        let percent = percent(first.probability);
        let is_calm = verdict.symptom == UNSPECIFIED && !is_faulty(verdict);
        let claim = match verdict.confidence {
            Confidence::Verdict | Confidence::Suspected if is_calm => {
                let id = self.terminal.bold(&first.id);
                format!("No symptom now; what was seen lately would be {id}, {percent} sure")
            }
            Confidence::Verdict => format!("{}  {percent} sure", self.terminal.bold(&first.id)),
            Confidence::Suspected => {
                format!("{}  suspected, {percent} sure", self.terminal.bold(&first.id))
            }
            Confidence::Unexplained if is_calm => {
                let claim = "No symptom, and nothing that was seen names a fault";
                // Green is for what was seen whole.
                if verdict.unknown.is_empty() { self.terminal.green(claim) } else { claim.to_owned() }
            }
            Confidence::Unexplained => {
                let claim = self.terminal.yellow("Unexplained");
                format!("{claim}  nothing that was seen is enough to name a cause")
            }
        };
        let _ = writeln!(self.text, "\n  {claim}");
        if verdict.confidence != Confidence::Unexplained && !first.meaning.is_empty() {
            self.wrapped("  ", "  ", &first.meaning);
        }
        if first.chain.len() > 1 {
            let mut chain = first.chain.join(" → ");
            if verdict.symptom != UNSPECIFIED {
                chain = format!("{chain} → {}", verdict.symptom);
            }
            let _ = writeln!(self.text, "  Chain: {chain}");
        }
        if !first.node.is_empty() {
            let _ = writeln!(self.text, "  Where: node {} ({})", first.node, first.role);
        }
    }

    fn evidence(&mut self, verdict: &shape::Verdict) {
        let Some(first) = verdict.causes.first() else { return };
        if first.evidence.is_empty() {
            return;
        }
        // What no cause claims speaks neither for nor against one.
        let is_claimed = is_a_cause(first);
        self.title(match is_claimed {
            true => "Evidence",
            false if verdict.symptom == UNSPECIFIED && !is_faulty(verdict) => "Seen lately, and no symptom by itself",
            false => "Seen, and no cause explains it",
        });
        let mut shown = BTreeSet::new();
        for evidence in &first.evidence {
            // What speaks for two causes of the chain was seen once.
            if !shown.insert((evidence.at_wall_usec, &evidence.source, &evidence.text)) {
                continue;
            }
            let sign = match is_claimed {
                true if evidence.weight < 0.0 => "against ",
                true => "for     ",
                false => "",
            };
            let head = format!(
                "  {}  {:<8} {sign}",
                time_of_day(evidence.at_wall_usec, self.reference_wall_usec, self.zone),
                one_line(&evidence.source),
            );
            let indent = " ".repeat(head.chars().count());
            self.wrapped(&head, &indent, &evidence.text);
        }
    }

    fn others(&mut self, title: &str, causes: &[shape::Cause], skip: usize) {
        let shown = causes.iter().skip(skip).filter(|cause| cause.probability >= MIN_SHOWN_PROBABILITY);
        let rows: Vec<(String, String)> = shown
            .map(|cause| {
                let why = cause.evidence.first().map_or(cause.meaning.as_str(), |evidence| evidence.text.as_str());
                (format!("{} {}", cause.id, percent(cause.probability)), why.to_owned())
            })
            .collect();
        self.rows(title, rows);
    }

    fn ruled_out(&mut self, verdict: &shape::Verdict) {
        let shown = verdict.ruled_out.iter().take(MAX_RULED_OUT);
        let mut rows: Vec<_> = shown.map(|out| (out.id.clone(), out.why.clone())).collect();
        if verdict.ruled_out.len() > MAX_RULED_OUT {
            let more = verdict.ruled_out.len() - MAX_RULED_OUT;
            rows.push(("…".to_owned(), format!("and {more} more: `-o json` has them all")));
        }
        self.rows("Ruled out", rows);
    }

    /// Lines that no rule knows and that name the subject: perhaps a person does.
    fn mentions(&mut self, verdict: &shape::Verdict) {
        let lines = verdict.mentions.iter().map(|line| {
            let time = time_of_day(line.at_wall_usec, self.reference_wall_usec, self.zone);
            format!("{time} {} {}: {}", line.source, line.node, line.text)
        });
        let lines: Vec<String> = lines.collect();
        self.list("Other lines that name it", &lines, Terminal::dim);
    }

    fn remedy(&mut self, verdict: &shape::Verdict) {
        let Some(first) = verdict.causes.first() else { return };
        let groups = [("Do now", &first.remedy), ("Check", &first.check), ("Prevent", &first.prevent)];
        for (title, steps) in groups {
            if steps.is_empty() {
                continue;
            }
            self.title(title);
            for step in steps {
                let _ = writeln!(self.text, "  {}", one_line(step));
            }
        }
        let is_vm = !verdict.subject.uid.is_empty();
        if is_vm && verdict.symptom != UNSPECIFIED {
            let words = if first.safe_to_force_delete {
                self.terminal.green("safe: no QEMU of this VM lives and none of its volumes is written")
            } else {
                self.terminal.red("NOT safe: a QEMU of this VM lives or may live, and may still write its volumes")
            };
            let _ = writeln!(self.text, "\nForce delete is {words}");
        }
    }

    fn rows(&mut self, title: &str, rows: Vec<(String, String)>) {
        if rows.is_empty() {
            return;
        }
        self.title(title);
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, text) in rows {
            self.wrapped(&format!("  {name:<width$}  "), &" ".repeat(width + 4), &text);
        }
    }

    fn list(&mut self, title: &str, items: &[String], paint: fn(&Terminal, &str) -> String) {
        if items.is_empty() {
            return;
        }
        let title = paint(self.terminal, title);
        self.title(&title);
        for item in items {
            self.wrapped("  ", "    ", item);
        }
    }

    fn title(&mut self, title: &str) {
        let _ = writeln!(self.text, "\n{}", self.terminal.bold(title));
    }

    /// Writes `text` after `head`, broken between words; later lines start with `indent`.
    fn wrapped(&mut self, head: &str, indent: &str, text: &str) {
        let width = self.terminal.page_width();
        let mut line = head.to_owned();
        let mut is_empty = true;
        let text = with_times_in(&one_line(text), self.reference_wall_usec, self.zone);
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
                let _ = writeln!(self.text, "{}", line.trim_end());
                indent.clone_into(&mut line);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        let _ = writeln!(self.text, "{}", line.trim_end());
    }
}

/// A subject in words: `VM prod/db-0 on n1`, `node n1`.
pub(crate) fn subject_words(subject: &shape::Subject) -> String {
    let shape::Subject { namespace, name, migration, uid, node } = subject;
    if uid.is_empty() {
        return format!("node {node}");
    }
    let name = if name.is_empty() { uid } else { name };
    let name = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
    let mut words = format!("VM {}", one_line(&name));
    if !node.is_empty() {
        let _ = write!(words, " on {node}");
    }
    if let Some(migration) = migration {
        let _ = write!(words, ", migration {}", one_line(migration));
    }
    words
}

/// The same for a subject as central sends it.
pub(crate) fn wire_subject_words(subject: &v1::VerdictSubject) -> String {
    subject_words(&subject.clone().into())
}

/// A probability in words; never 0 % or 100 %, which nobody can be.
fn percent(probability: f64) -> String {
    match probability * 100.0 {
        percent if percent >= 99.5 => "over 99 %".to_owned(),
        percent if percent < 1.0 => "under 1 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests;
