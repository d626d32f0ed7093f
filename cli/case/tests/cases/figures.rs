//! The committed figures: `KULPRIT_BLESS=1` writes them, without it a worse one fails.

use std::{fmt::Write as _, fs, path::PathBuf};

use kulprit_case::{
    collection,
    eval::{self, BASELINES, Figures, Outcome},
};
use serde::{Deserialize, Serialize};

/// The figures of both sets, as committed.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Committed {
    training: Set,
    check: Set,
    constructed: Set,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Set {
    cases: usize,
    top1: usize,
    top3: usize,
    controls: usize,
    host_blamed: usize,
    to_abstain: usize,
    abstained: usize,
    brier: f64,
}

impl From<Figures> for Set {
    fn from(figures: Figures) -> Self {
        let Figures { n_cases, n_top1, n_top3, n_controls, n_blamed, n_abstain, n_abstained, brier } = figures;
        Self {
            cases: n_cases,
            top1: n_top1,
            top3: n_top3,
            controls: n_controls,
            host_blamed: n_blamed,
            to_abstain: n_abstain,
            abstained: n_abstained,
            brier: (brier * 1_000.0).round() / 1_000.0,
        }
    }
}

fn path() -> PathBuf {
    super::fixtures().join("figures.yaml")
}

fn of_set(outcomes: &[Outcome], set: eval::Set, baseline: Option<usize>) -> Set {
    Figures::of(outcomes.iter().filter(|outcome| outcome.set == set), baseline).into()
}

/// What got worse from `old` to `new`.
fn worse(name: &str, old: &Set, new: &Set) -> Vec<String> {
    let fewer = [
        ("cases", old.cases, new.cases),
        ("top-1", old.top1, new.top1),
        ("top-3", old.top3, new.top3),
        ("abstained", old.abstained, new.abstained),
    ];
    let mut worse: Vec<String> = fewer
        .into_iter()
        .filter(|(_, old, new)| new < old)
        .map(|(what, old, new)| format!("{name}: {what} {new}, was {old}"))
        .collect();
    if new.host_blamed > old.host_blamed {
        worse.push(format!("{name}: hosts blamed {}, was {}", new.host_blamed, old.host_blamed));
    }
    if new.brier > old.brier + 1e-9 {
        worse.push(format!("{name}: Brier {}, was {}", new.brier, old.brier));
    }
    worse
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for set in eval::Set::ALL {
        let answerers =
            std::iter::once((None, "kulprit")).chain(BASELINES.iter().enumerate().map(|(at, name)| (Some(at), *name)));
        for (baseline, who) in answerers {
            let figures = of_set(outcomes, set, baseline);
            let _ = writeln!(
                text,
                "{:<11} {who:<22} cases {:>3}  top-1 {:>3}  top-3 {:>3}  host blamed {} of {}  abstained {} of {}  Brier {:.3}",
                set.as_str(),
                figures.cases,
                figures.top1,
                figures.top3,
                figures.host_blamed,
                figures.controls,
                figures.abstained,
                figures.to_abstain,
                figures.brier
            );
        }
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_right()) {
        let set = outcome.set.as_str();
        let ranked: Vec<String> =
            outcome.engine.ranked.iter().take(4).map(|(id, p, role)| format!("{id}@{role} {p:.2}")).collect();
        let _ = writeln!(
            text,
            "  {set:<11} {:<36} expected {:<28} said {}",
            outcome.id,
            outcome.truth.cause,
            ranked.join(", ")
        );
    }
    text
}

#[test]
fn no_figure_is_worse_than_the_committed_one() {
    let (outcomes, unreadable) = collection::evaluate(&super::fixtures()).expect("the fixtures are in the checkout");
    assert!(unreadable.is_empty(), "{}", unreadable.join("\n"));
    assert!(outcomes.len() >= 160, "only {} cases", outcomes.len());
    println!("{}", table(&outcomes));
    let of = |set| of_set(&outcomes, set, None);
    let now = Committed {
        training: of(eval::Set::Training),
        check: of(eval::Set::Check),
        constructed: of(eval::Set::Constructed),
    };
    if std::env::var_os("KULPRIT_BLESS").is_some_and(|value| value == "1") {
        fs::write(path(), serde_saphyr::to_string(&now).unwrap()).unwrap();
    }
    let committed: Committed = serde_saphyr::from_str(&fs::read_to_string(path()).unwrap()).unwrap();
    let worse: Vec<String> = worse("training", &committed.training, &now.training)
        .into_iter()
        .chain(worse("check", &committed.check, &now.check))
        .chain(worse("constructed", &committed.constructed, &now.constructed))
        .collect();
    assert!(worse.is_empty(), "{}\n{}", worse.join("\n"), table(&outcomes));
}

#[test]
fn a_figure_that_got_worse_is_named() {
    let old = Set { cases: 9, top1: 8, top3: 9, controls: 2, host_blamed: 0, to_abstain: 1, abstained: 1, brier: 0.05 };
    assert!(worse("check", &old, &Set { top1: 9, brier: 0.04, ..old_like(&old) }).is_empty());
    let new = Set { top1: 7, host_blamed: 1, brier: 0.06, ..old_like(&old) };
    assert_eq!(worse("check", &old, &new).len(), 3);
}

fn old_like(old: &Set) -> Set {
    Set { ..*old }
}
