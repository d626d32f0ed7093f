//! The page of `can-migrate`: the answer in one line, what is in the way and what to do, then the nodes.
//!
//! A node is one row with its first reasons; asked about alone (`--to`) it has all of them, and what to do.

use std::fmt::Write as _;

use jiff::tz::TimeZone;

use super::{Page, subject_words};
use crate::{
    Terminal,
    shape::{CanMigrate, Candidate, Obstacle, Terms},
    table::one_line,
};

/// Of nodes that do not fit so many are shown; JSON has all.
const MAX_MISFITS: usize = 20;
/// So many reasons of one node are shown, unless it is the only one.
const MAX_REASONS: usize = 3;

/// The answer as a page, times in `zone`. Ends in a line feed.
pub(crate) fn page(terminal: &Terminal, answer: &CanMigrate, zone: &TimeZone) -> String {
    let mut page = Page { terminal, text: String::new(), reference_wall_usec: answer.reference_wall_usec, zone };
    let whom = terminal.bold(&subject_words(&answer.subject));
    let claim = match answer.answer {
        "yes" => format!("{whom} {}", terminal.green("can migrate")),
        "yes-with-warnings" => format!("{whom} {}", terminal.yellow("can migrate, with warnings")),
        "no" => format!("{whom} {}", terminal.red("cannot migrate")),
        _ => format!("{} whether {whom} can migrate", terminal.yellow("Unknown")),
    };
    page.wrapped("", "  ", &format!("{claim}: {}", answer.because));
    page.obstacles("What stops it", &answer.blockers, Terminal::red);
    page.obstacles("What may be in the way", &answer.warnings, Terminal::yellow);
    page.list("Not known", &answer.unknown, Terminal::yellow);
    page.nodes(&answer.nodes);
    page.terms(&answer.terms);
    page.list("Worth knowing", &answer.notes, Terminal::dim);
    page.text
}

impl Page<'_> {
    fn obstacles(&mut self, title: &str, obstacles: &[Obstacle], paint: fn(&Terminal, &str) -> String) {
        if obstacles.is_empty() {
            return;
        }
        let title = paint(self.terminal, title);
        self.title(&title);
        for obstacle in obstacles {
            self.wrapped("  ", "    ", &sentence(obstacle));
            self.wrapped("    read from: ", "               ", &obstacle.source);
            self.fixes(&obstacle.fix);
        }
    }

    fn fixes(&mut self, fix: &[String]) {
        for step in fix {
            // Commands are not broken: they are to be pasted.
            let _ = writeln!(self.text, "    do: {}", one_line(step));
        }
    }

    fn nodes(&mut self, nodes: &[Candidate]) {
        let is_only = nodes.len() == 1;
        let n_misfits = nodes.iter().filter(|node| node.fit == "does-not-fit").count();
        let mut n_shown = 0;
        let shown = nodes.iter().filter(|node| {
            n_shown += usize::from(node.fit == "does-not-fit");
            node.fit != "does-not-fit" || n_shown <= MAX_MISFITS
        });
        let mut rows: Vec<(String, String)> = shown.map(|node| (one_line(&node.node), why(node, is_only))).collect();
        if n_misfits > MAX_MISFITS {
            let more = n_misfits - MAX_MISFITS;
            rows.push(("…".to_owned(), format!("and {more} more that do not fit: `-o json` has them all")));
        }
        self.rows("Nodes", rows);
        if let [node] = nodes {
            let obstacles = node.misfits.iter().chain(&node.warnings);
            obstacles.for_each(|obstacle| self.fixes(&obstacle.fix));
        }
    }

    fn terms(&mut self, terms: &Terms) {
        let Terms { policy, bandwidth_bytes_per_sec, completion_secs_per_gib, progress_secs, .. } = terms;
        let policy = if policy.is_empty() {
            "KubeVirt's configuration".to_owned()
        } else {
            format!("the MigrationPolicy {policy}")
        };
        let bandwidth = match bandwidth_bytes_per_sec {
            0 => "no limit of bandwidth".to_owned(),
            bytes => format!("at most {} MiB/s", bytes >> 20),
        };
        let allowed = |is: bool, what: &str| if is { format!("{what} allowed") } else { format!("no {what}") };
        let limits = format!(
            "by {policy}: {bandwidth}, {completion_secs_per_gib} s per GiB, given up after {progress_secs} s without \
             progress, {}, {}",
            allowed(terms.allows_auto_converge, "auto-converge"),
            allowed(terms.allows_post_copy, "post-copy"),
        );
        let slots = format!(
            "slots: {} of {} in the cluster, {} of {} from its node",
            terms.running.len(),
            terms.per_cluster,
            terms.leaving.len(),
            terms.per_node
        );
        self.list("Limits", &[limits, slots], |_, title| title.to_owned());
    }
}

/// What an obstacle is, and the cause that it is in the catalogue.
fn sentence(obstacle: &Obstacle) -> String {
    if obstacle.cause.is_empty() { obstacle.what.clone() } else { format!("{} [{}]", obstacle.what, obstacle.cause) }
}

/// What is to be said of a node, in one line.
fn why(node: &Candidate, is_only: bool) -> String {
    let word = match node.fit {
        "fits" => "fits",
        "fits-with-warnings" => "fits, but",
        "unseen" => "unseen:",
        _ => "no:",
    };
    let obstacles = node.misfits.iter().chain(&node.warnings).map(sentence);
    let reasons: Vec<String> = obstacles.chain(node.unknown.iter().cloned()).collect();
    let n_shown = if is_only { reasons.len() } else { reasons.len().min(MAX_REASONS) };
    let more = if n_shown < reasons.len() { format!("; and {} more", reasons.len() - n_shown) } else { String::new() };
    format!("{word} {}{more}", reasons[..n_shown].join("; ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use kulprit_proto::v1;

    use super::*;

    fn mk_obstacle(what: &str, cause: &str) -> v1::MigrationObstacle {
        v1::MigrationObstacle {
            what: what.to_owned(),
            source: "somewhere".to_owned(),
            fix: vec!["do this".to_owned()],
            cause: cause.to_owned(),
        }
    }

    fn mk_node(name: &str, fit: v1::MigrationFit) -> v1::MigrationCandidate {
        v1::MigrationCandidate { node: name.to_owned(), fit: fit.into(), ..v1::MigrationCandidate::default() }
    }

    fn mk_answer(answer: v1::MigrationAnswer) -> v1::CanMigrateResponse {
        let full = v1::MigrationCandidate {
            misfits: vec![mk_obstacle("n3: /var is full\u{1b}[2J", "NodeDiskFull")],
            ..mk_node("n3", v1::MigrationFit::DoesNotFit)
        };
        let unseen = v1::MigrationCandidate {
            unknown: vec!["n4: no agent of this node has ever reported".to_owned()],
            ..mk_node("n4", v1::MigrationFit::Unseen)
        };
        v1::CanMigrateResponse {
            subject: Some(v1::VerdictSubject {
                uid: "0b2c".to_owned(),
                namespace: "prod".to_owned(),
                name: "db-0".to_owned(),
                node: "n1".to_owned(),
            }),
            answer: answer.into(),
            because: "n2 fits".to_owned(),
            warnings: vec![mk_obstacle("it is not ready", "")],
            unknown: vec!["not every Node is known".to_owned()],
            notes: vec!["disks are copied along".to_owned()],
            terms: Some(v1::MigrationTerms {
                bandwidth_bytes_per_sec: 64 << 20,
                completion_secs_per_gib: 150,
                per_cluster: 5,
                per_node: 2,
                running: vec!["prod/a".to_owned()],
                ..v1::MigrationTerms::default()
            }),
            nodes: vec![mk_node("n2", v1::MigrationFit::Fits), unseen, full],
            reference_wall_usec: 1_772_359_822_000_000,
            ..v1::CanMigrateResponse::default()
        }
    }

    fn page_of(answer: v1::CanMigrateResponse) -> String {
        let terminal = Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()));
        page(&terminal, &answer.into(), &TimeZone::UTC)
    }

    #[test]
    fn the_answer_comes_first_then_what_is_in_the_way_then_the_nodes() {
        let page = page_of(mk_answer(v1::MigrationAnswer::YesWithWarnings));
        let order = [
            "VM prod/db-0 on n1 can migrate, with warnings: n2 fits\n",
            "What may be in the way",
            "it is not ready",
            "read from: somewhere",
            "do: do this",
            "Not known",
            "not every Node is known",
            "Nodes",
            "n2  fits\n",
            "n4  unseen: n4: no agent of this node has ever reported",
            "n3  no: n3: /var is full",
            "[NodeDiskFull]",
            "Limits",
            "at most 64 MiB/s, 150 s per GiB",
            "slots: 1 of 5 in the cluster, 0 of 2 from its node",
            "Worth knowing",
            "disks are copied along",
        ];
        let mut rest = page.as_str();
        for part in order {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is missing or out of order in\n{page}"));
            rest = &rest[at + part.len()..];
        }
        assert!(!page.contains('\u{1b}'), "text of a host reaches no terminal as a control sequence");
    }

    #[test]
    fn each_answer_has_its_words() {
        for (answer, want) in [
            (v1::MigrationAnswer::Yes, "VM prod/db-0 on n1 can migrate: n2 fits\n"),
            (v1::MigrationAnswer::No, "VM prod/db-0 on n1 cannot migrate: n2 fits\n"),
            (v1::MigrationAnswer::Unknown, "Unknown whether VM prod/db-0 on n1 can migrate: n2 fits\n"),
            (v1::MigrationAnswer::Unspecified, "Unknown whether VM prod/db-0 on n1 can migrate: n2 fits\n"),
        ] {
            let page = page_of(mk_answer(answer));
            assert!(page.starts_with(want), "{page}");
        }
    }

    #[test]
    fn of_many_nodes_that_do_not_fit_the_first_are_shown() {
        let mut answer = mk_answer(v1::MigrationAnswer::No);
        answer.nodes = (0..30).map(|n| mk_node(&format!("n{n}"), v1::MigrationFit::DoesNotFit)).collect();
        let page = page_of(answer);
        assert!(page.contains("n19 ") && !page.contains("n20 "), "{page}");
        assert!(page.contains("and 10 more that do not fit"), "{page}");
    }
}
