//! The catalogues under docs/, and the rules of alerts, are what the tables in the code say, byte for byte.
//!
//! `KULPRIT_BLESS=1 cargo test -p kulprit-tests --no-default-features --test docs` writes them anew; without it a page that
//! differs fails and shows its first line that does. What a page says is decided beside its table, in the crate that has it.

#[path = "docs/config.rs"]
mod config;

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

use kulprit_agent::{
    docs::{findings_markdown, probes_markdown},
    probes::PROBES,
};
use kulprit_central::conditions::conditions_markdown;
use kulprit_daemon::{CancellationToken, Clock, Readiness, Supervisor, metrics::Metrics};
use kulprit_diagnosis::causes_markdown;
use kulprit_model::catalogue::{CATALOGUE, ONLY_RECORDED, TEXT, TEXT_PROBES};

const BLESS: &str = "KULPRIT_BLESS";
const COMMAND: &str = "KULPRIT_BLESS=1 cargo test -p kulprit-tests --no-default-features --test docs";

/// Compares a page with the file of docs/, or writes the file.
#[track_caller]
fn check(file: &str, page: &str) {
    check_at(&format!("docs/{file}"), page);
}

/// The same of a file anywhere.
#[track_caller]
fn check_at(file: &str, page: &str) {
    let path = root().join(file);
    if env::var_os(BLESS).is_some_and(|value| value == "1") {
        fs::write(&path, page).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let committed = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}; {COMMAND} makes it"));
    if let Some(difference) = difference(&committed, page) {
        panic!("{file} is not what the tables say, {difference}\n{COMMAND} writes it anew");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root")
}

/// The first line in which two texts differ; `None` if they are equal.
fn difference(committed: &str, made: &str) -> Option<String> {
    let (mut old, mut new) = (committed.split('\n'), made.split('\n'));
    (1..).find_map(|number| match (old.next(), new.next()) {
        (None, None) => Some(None),
        (left, right) if left == right => None,
        (left, right) => {
            let show = |line: Option<&str>| line.map_or("no line".to_owned(), |line| format!("{line:?}"));
            Some(Some(format!("line {number}:\n  committed: {}\n  tables:    {}", show(left), show(right))))
        }
    })?
}

#[test]
fn pages_that_differ_anywhere_are_caught() {
    assert_eq!(difference("a\nb\n", "a\nb\n"), None);
    for (committed, made, line) in
        [("a\nb\n", "a\nc\n", 2), ("a\n", "a\nb\n", 2), ("a\nb\n", "a\n", 2), ("a\n", "a", 2), ("", "a", 1)]
    {
        let difference = difference(committed, made).unwrap_or_else(|| panic!("{committed:?} and {made:?} differ"));
        assert!(difference.starts_with(&format!("line {line}:")), "{difference}");
    }
}

/// docs/metrics.md: what every process shows, as a process shows it, then the tables of the two services.
fn metrics() -> String {
    format!(
        "# Metrics\n\n\
         What `/metrics` of the admin port answers, in the OpenMetrics form. Generated from the code; do not edit. Label values \
         come from closed sets: never a VM's name, never an error's text.\n\n\
         ## Every process\n\n{}\n## kulprit-agent\n\n{}\n## kulprit-central\n\n{}",
        series_of(&every_process()),
        kulprit_agent::metrics::metrics_markdown(),
        kulprit_central::metrics::metrics_markdown(),
    )
}

/// What a process with one task shows.
fn every_process() -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("no more than memory is needed");
    runtime.block_on(async {
        let mut metrics = Metrics::new("program", "version", &Clock::kernel());
        metrics.show_ready("program", Readiness::new());
        let mut tasks = Supervisor::new(CancellationToken::new(), metrics.section("task"), 0);
        tasks.core("name", std::future::pending());
        metrics.encode()
    })
}

/// The table of the series in an OpenMetrics text.
fn series_of(text: &str) -> String {
    let mut table = String::from("| series | kind | labels | meaning |\n|---|---|---|---|\n");
    let comment = |kind: &str| {
        let prefix = format!("# {kind} ");
        text.lines()
            .filter_map(move |line| {
                line.strip_prefix(&prefix)?.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()))
            })
            .collect::<Vec<_>>()
    };
    let kinds = comment("TYPE");
    for (family, help) in comment("HELP") {
        let (_, kind) =
            kinds.iter().find(|(name, _)| *name == family).unwrap_or_else(|| panic!("{family} has no type"));
        let sample = text.lines().find(|line| !line.starts_with('#') && line.starts_with(&family));
        let sample = sample.unwrap_or_else(|| panic!("{family} has no sample"));
        let name = sample.split(['{', ' ']).next().unwrap_or_default();
        let labels = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let labels: Vec<&str> =
            labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name).collect();
        writeln!(
            table,
            "| `{name}` | {kind} | {} | {} |",
            labels.join(", "),
            help.trim_end_matches('.').to_owned() + "."
        )
        .expect("a String grows as needed");
    }
    table
}

#[test]
fn a_text_of_series_becomes_a_table() {
    let text = "# HELP kulprit_x Looks.\n# TYPE kulprit_x counter\nkulprit_x_total{probe=\"a,b\",to=\"c\"} 1\n# EOF\n";
    let want = "| `kulprit_x_total` | counter | probe, to | Looks. |";
    assert_eq!(series_of(text).lines().last(), Some(want));
}

#[test]
fn findings_are_up_to_date() {
    check("findings.md", &findings_markdown());
}

#[test]
fn probes_are_up_to_date() {
    check("probes.md", &probes_markdown());
}

#[test]
fn causes_are_up_to_date() {
    check("causes.md", &causes_markdown());
}

#[test]
fn conditions_are_up_to_date() {
    check("conditions.md", &conditions_markdown());
}

#[test]
fn metrics_are_up_to_date() {
    check("metrics.md", &metrics());
}

#[test]
fn alerts_are_up_to_date() {
    check_at("deploy/alerts/kulprit.yaml", &kulprit_central::alerts::alerts_yaml());
}

#[test]
fn configuration_is_up_to_date() {
    check("config.md", &config::config_markdown(root()));
}

/// A table whose rows have another number of cells than its header is not shown as one.
#[test]
fn every_row_of_a_table_has_as_many_cells_as_its_header() {
    for page in [findings_markdown(), causes_markdown(), conditions_markdown(), metrics()] {
        let mut n_cells = None;
        for line in page.lines() {
            let here = line.starts_with('|').then(|| line.matches('|').count());
            assert!(n_cells.is_none() || here.is_none() || here == n_cells, "{line}");
            n_cells = here;
        }
    }
}

/// The catalogue and the table of probes name each other: a finding that no probe can say, or a probe with nothing to say.
#[test]
fn the_probes_of_the_catalogue_are_those_of_the_agent() {
    // `agent` is the agent itself, which says of its probes that they are blind.
    let catalogue: BTreeSet<&str> = CATALOGUE.iter().map(|spec| spec.probe).filter(|probe| *probe != "agent").collect();
    let probes: BTreeSet<&str> = PROBES.iter().map(|spec| spec.name).collect();
    let only_recorded: BTreeSet<&str> = ONLY_RECORDED.iter().copied().collect();
    assert!(probes.is_disjoint(&only_recorded), "a probe that looks is said to be recorded only");
    assert!(TEXT_PROBES.iter().all(|probe| probes.contains(probe)), "nobody reads texts");
    assert_eq!(catalogue, &(&probes | &only_recorded) | &BTreeSet::from([TEXT]));
}

#[test]
fn the_probes_of_the_catalogue_stand_together() {
    let mut probes: Vec<&str> = CATALOGUE.iter().map(|spec| spec.probe).collect();
    probes.dedup();
    let n_probes = probes.iter().collect::<BTreeSet<_>>().len();
    assert_eq!(probes.len(), n_probes, "a probe's rows are apart, so docs/findings.md would have two sections of it");
}
