//! Many migrations in a few lines: between which nodes, who asked for them, how they ended.

use std::collections::BTreeMap;

use crate::shape::PastMigration;

/// So many ways between nodes are shown; JSON has every migration.
const MAX_WAYS: usize = 8;

/// A row for each way between nodes, those that most went first: the way, and what became of them.
pub(super) fn rows(migrations: &[PastMigration]) -> Vec<(String, String)> {
    let mut ways: BTreeMap<(&str, &str), Vec<&PastMigration>> = BTreeMap::new();
    for migration in migrations {
        ways.entry((&migration.source, &migration.target)).or_default().push(migration);
    }
    let mut ways: Vec<_> = ways.into_iter().collect();
    ways.sort_by_key(|(_, of_way)| std::cmp::Reverse(of_way.len()));
    let n_more: usize = ways.iter().skip(MAX_WAYS).map(|(_, of_way)| of_way.len()).sum();
    let mut rows: Vec<(String, String)> = ways
        .into_iter()
        .take(MAX_WAYS)
        .map(|((from, to), of_way)| {
            let name = |node: &str| if node.is_empty() { "?".to_owned() } else { node.to_owned() };
            (format!("{} → {}", name(from), name(to)), line(&of_way))
        })
        .collect();
    if n_more > 0 {
        rows.push(("…".to_owned(), format!("{n_more} more: `-o json` has them all")));
    }
    rows
}

/// `7 by evacuation, 1 by user: 7 succeeded, 1 failed; the last failed: client socket is closed`.
fn line(of_way: &[&PastMigration]) -> String {
    let by = |word: fn(&PastMigration) -> &str| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        of_way.iter().for_each(|migration| *counts.entry(word(migration)).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        counts
    };
    let asked = by(|migration| &migration.initiator).into_iter().map(|(who, n)| match who {
        "" => format!("{n} by nobody known"),
        who => format!("{n} by {who}"),
    });
    let ended = by(|migration| migration.outcome).into_iter().map(|(outcome, n)| match outcome {
        "aborted" => format!("{n} cancelled"),
        "unknown" => format!("{n} not seen to end"),
        outcome => format!("{n} {outcome}"),
    });
    let words = |parts: &mut dyn Iterator<Item = String>| parts.collect::<Vec<_>>().join(", ");
    let reason = of_way.iter().map(|migration| migration.reason.as_str()).find(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!("; the last reason: {reason}")).unwrap_or_default();
    format!("{}: {}{reason}", words(&mut { asked }), words(&mut { ended }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrations(
        n: usize,
        way: (&str, &str),
        initiator: &str,
        outcome: &'static str,
        reason: &str,
    ) -> Vec<PastMigration> {
        let one = |n: usize| PastMigration {
            uid: n.to_string(),
            name: String::new(),
            vmi_uid: String::new(),
            source: way.0.to_owned(),
            target: way.1.to_owned(),
            created_wall_usec: 0,
            ended_wall_usec: 0,
            outcome,
            reason: reason.to_owned(),
            initiator: initiator.to_owned(),
        };
        (0..n).map(one).collect()
    }

    #[track_caller]
    fn check(parts: Vec<Vec<PastMigration>>, want: &[(&str, &str)]) {
        let all: Vec<PastMigration> = parts.into_iter().flatten().collect();
        let rows = rows(&all);
        let rows: Vec<_> = rows.iter().map(|(way, text)| (way.as_str(), text.as_str())).collect();
        assert_eq!(rows, want);
    }

    #[test]
    fn each_way_tells_who_asked_and_how_it_ended() {
        check(
            vec![
                migrations(2, ("n2", "n1"), "user", "succeeded", ""),
                migrations(1, ("n1", "n2"), "user", "failed", "client socket is closed"),
                migrations(5, ("n1", "n2"), "evacuation", "succeeded", ""),
                migrations(1, ("n1", ""), "", "unknown", ""),
            ],
            &[
                (
                    "n1 → n2",
                    "5 by evacuation, 1 by user: 5 succeeded, 1 failed; the last reason: client socket is closed",
                ),
                ("n2 → n1", "2 by user: 2 succeeded"),
                ("n1 → ?", "1 by nobody known: 1 not seen to end"),
            ],
        );
    }

    #[test]
    fn few_ways_are_shown_and_none_is_no_table() {
        check(Vec::new(), &[]);
        let nodes: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
        let many = nodes.iter().map(|node| migrations(1, (node, "m"), "user", "succeeded", "")).collect::<Vec<_>>();
        let all: Vec<PastMigration> = many.into_iter().flatten().collect();
        let rows = rows(&all);
        assert_eq!((rows.len(), rows[8].1.as_str()), (9, "2 more: `-o json` has them all"));
    }
}
