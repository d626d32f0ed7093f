//! The page of `why`, as a person reads it at three in the morning: the answer first, then why, then what to do.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kulprit_proto::v1;

use crate::{
    Terminal,
    table::one_line,
    when::{date_time, span, time_of_day, with_local_times},
};

/// Candidates below this are not worth a line beside the first.
const MIN_SHOWN_PROBABILITY: f64 = 0.02;

/// One verdict as a page. Ends in a line feed.
pub(crate) fn verdict(terminal: &Terminal, verdict: &v1::Verdict) -> String {
    let mut page = Page { terminal, text: String::new(), reference_wall_usec: verdict.reference_wall_usec };
    page.heading(verdict);
    page.answer(verdict);
    page.evidence(verdict);
    page.others("Also possible", &verdict.causes, 1);
    page.others("Wrong at the same time", &verdict.contributing, 0);
    page.rows("Ruled out", verdict.ruled_out.iter().map(|out| (out.id.clone(), out.why.clone())).collect());
    page.list("Could not be seen", &verdict.unknown, Terminal::yellow);
    page.list("Looked at, and well", &verdict.looked_at, Terminal::dim);
    page.remedy(verdict);
    if !verdict.incident_id.is_empty() {
        let _ = writeln!(page.text, "\nIncident {}", verdict.incident_id);
    }
    page.text
}

struct Page<'a> {
    terminal: &'a Terminal,
    text: String,
    reference_wall_usec: i64,
}

impl Page<'_> {
    fn heading(&mut self, verdict: &v1::Verdict) {
        let subject = verdict.subject.clone().unwrap_or_default();
        let whom = subject_words(&subject);
        let symptom = if verdict.symptom == "Unspecified" {
            "no symptom of its own".to_owned()
        } else {
            self.terminal.red(&verdict.symptom)
        };
        let since = match verdict.since_wall_usec {
            0 => String::new(),
            since => {
                format!(" for {} (since {})", span(self.reference_wall_usec.saturating_sub(since)), date_time(since))
            }
        };
        let _ = writeln!(self.text, "{}: {symptom}{since}", self.terminal.bold(&whom));
        if !verdict.symptom_text.is_empty() {
            self.wrapped("  ", "  ", &verdict.symptom_text);
        }
    }

    fn answer(&mut self, verdict: &v1::Verdict) {
        let Some(first) = verdict.causes.first() else {
            let _ = writeln!(self.text, "\n  {}", self.terminal.green("Nothing speaks for a fault."));
            return;
        };
        let percent = percent(first.probability);
        let claim = match verdict.confidence() {
            v1::Confidence::Verdict => format!("{}  {percent} sure", self.terminal.bold(&first.id)),
            v1::Confidence::Suspected => {
                format!("{}  suspected, {percent} sure", self.terminal.bold(&first.id))
            }
            v1::Confidence::Unexplained | v1::Confidence::Unspecified => {
                let claim = self.terminal.yellow("Unexplained");
                format!("{claim}  nothing that was seen is enough to name a cause")
            }
        };
        let _ = writeln!(self.text, "\n  {claim}");
        if verdict.confidence() != v1::Confidence::Unexplained && !first.meaning.is_empty() {
            self.wrapped("  ", "  ", &first.meaning);
        }
        if first.chain.len() > 1 {
            let mut chain = first.chain.join(" → ");
            if verdict.symptom != "Unspecified" {
                chain = format!("{chain} → {}", verdict.symptom);
            }
            let _ = writeln!(self.text, "  Chain: {chain}");
        }
        if !first.node.is_empty() {
            let _ = writeln!(self.text, "  Where: node {} ({})", first.node, first.role);
        }
    }

    fn evidence(&mut self, verdict: &v1::Verdict) {
        let Some(first) = verdict.causes.first() else { return };
        if first.evidence.is_empty() {
            return;
        }
        self.title("Evidence");
        let mut shown = BTreeSet::new();
        for evidence in &first.evidence {
            // What speaks for two causes of the chain was seen once.
            if !shown.insert((evidence.at_wall_usec, &evidence.source, &evidence.text)) {
                continue;
            }
            let sign = if evidence.weight_db < 0.0 { "against" } else { "for" };
            let head = format!(
                "  {}  {:<8} {:<7} ",
                time_of_day(evidence.at_wall_usec, self.reference_wall_usec),
                one_line(&evidence.source),
                sign
            );
            let indent = " ".repeat(head.chars().count());
            self.wrapped(&head, &indent, &evidence.text);
        }
    }

    fn others(&mut self, title: &str, causes: &[v1::Cause], skip: usize) {
        let shown = causes.iter().skip(skip).filter(|cause| cause.probability >= MIN_SHOWN_PROBABILITY);
        let rows: Vec<(String, String)> = shown
            .map(|cause| {
                let why = cause.evidence.first().map_or(cause.meaning.as_str(), |evidence| evidence.text.as_str());
                (format!("{} {}", cause.id, percent(cause.probability)), why.to_owned())
            })
            .collect();
        self.rows(title, rows);
    }

    fn remedy(&mut self, verdict: &v1::Verdict) {
        let Some(remedy) = verdict.causes.first().and_then(|cause| cause.remedy.as_ref()) else { return };
        let groups = [("Do now", &remedy.now), ("Check", &remedy.check), ("Prevent", &remedy.prevent)];
        for (title, steps) in groups {
            if steps.is_empty() {
                continue;
            }
            self.title(title);
            for step in steps {
                let _ = writeln!(self.text, "  {}", one_line(step));
            }
        }
        let is_vm = verdict.subject.as_ref().is_some_and(|subject| !subject.uid.is_empty());
        if is_vm && verdict.symptom != "Unspecified" {
            let words = if remedy.safe_to_force_delete {
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
        let text = with_local_times(&one_line(text), self.reference_wall_usec);
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
pub(crate) fn subject_words(subject: &v1::VerdictSubject) -> String {
    if subject.uid.is_empty() {
        return format!("node {}", subject.node);
    }
    let name = if subject.name.is_empty() { &subject.uid } else { &subject.name };
    let name = if subject.namespace.is_empty() { name.clone() } else { format!("{}/{name}", subject.namespace) };
    format!("VM {} on {}", one_line(&name), subject.node)
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
