//! Alerts and dashboard: promtool takes the rules and their unit tests, every alert leads to its section of the docs, and no expression
//! names a series that nobody exports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use kulprit_central::alerts::{alert_of, own_alerts};
use kulprit_diagnosis::CAUSES;
use serde_json::Value;

const RULES: &str = "deploy/alerts/kulprit.yaml";
const DASHBOARD: &str = "deploy/dashboards/kulprit.json";
/// Unit tests of the rules; one file for each group of alerts.
const TESTS: [&str; 2] = ["deploy/alerts/tests/itself.yaml", "deploy/alerts/tests/causes.yaml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace's root")
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// Every rule of the file.
fn rules() -> Result<Vec<Value>> {
    let file: Value = serde_saphyr::from_str(&read(RULES)?)?;
    let groups = file["groups"].as_array().context("groups")?;
    Ok(groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten()).cloned().collect())
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// Runs promtool, and returns what it says.
fn promtool(words: &[&str]) -> Result<String> {
    let found = Command::new(root().join("scripts/promtool.sh")).output()?;
    ensure!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let program = String::from_utf8(found.stdout)?;
    let done = Command::new(program.trim()).args(words).current_dir(root()).output().context("promtool")?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{said}");
    Ok(said)
}

#[test]
fn promtool_takes_the_rules_and_each_does_what_its_unit_test_says() -> Result<()> {
    let said = promtool(&["check", "rules", "--lint=all", "--lint-fatal", RULES])?;
    ensure!(said.contains(&format!("SUCCESS: {} rules found", rules()?.len())), "{said}");
    promtool(&[&["test", "rules"], TESTS.as_slice()].concat())?;
    let broken = tempfile::NamedTempFile::with_suffix(".yaml")?;
    fs::write(broken.path(), "groups: [{name: a, rules: [{alert: A, expr: 'sum by ('}]}]\n")?;
    ensure!(promtool(&["check", "rules", &broken.path().to_string_lossy()]).is_err(), "what is no expression passes");
    Ok(())
}

#[test]
fn every_alert_on_kulprit_itself_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not() -> Result<()> {
    let file: Value = serde_saphyr::from_str(&read(TESTS[0])?)?;
    let cases: Vec<&Value> = file["tests"].as_array().into_iter().flatten().collect();
    let asked = cases.iter().flat_map(|case| case["promql_expr_test"].as_array().into_iter().flatten());
    let (mut fires, mut is_calm) = (BTreeSet::new(), BTreeSet::new());
    for asked in asked {
        let name = text(asked, "expr").split("alertname=\"").nth(1).and_then(|rest| rest.split('"').next());
        let is_firing = asked["exp_samples"].as_array().is_some_and(|samples| !samples.is_empty());
        if is_firing { &mut fires } else { &mut is_calm }.extend(name);
    }
    for name in own_alerts() {
        ensure!(fires.contains(name), "no unit test in which {name} fires");
        ensure!(is_calm.contains(name), "no unit test in which {name} does not fire");
    }
    Ok(())
}

/// The anchors of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let anchor = |heading: &str| heading.chars().filter(kept).collect::<String>().to_lowercase().replace(' ', "-");
    headings.map(anchor).collect()
}

#[test]
fn every_cause_has_an_alert_and_every_alert_leads_to_its_section_of_the_docs() -> Result<()> {
    let rules = rules()?;
    let alerts: BTreeMap<&str, &Value> =
        rules.iter().filter(|rule| rule["alert"].is_string()).map(|rule| (text(rule, "alert"), rule)).collect();
    let names: BTreeSet<String> =
        CAUSES.iter().map(|cause| alert_of(cause)).chain(own_alerts().map(str::to_owned)).collect();
    ensure!(alerts.keys().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>() == names);
    let pages =
        [("causes.md", anchors(&read("docs/causes.md")?)), ("operations.md", anchors(&read("docs/operations.md")?))];
    for (name, rule) in alerts {
        let url = text(&rule["annotations"], "runbook_url");
        let (page, anchor) =
            url.rsplit_once('/').and_then(|(_, end)| end.split_once('#')).with_context(|| url.to_owned())?;
        let (_, anchors) = pages.iter().find(|(known, _)| *known == page).with_context(|| format!("{name}: {url}"))?;
        ensure!(anchors.contains(anchor), "{name}: no section {url}");
        ensure!(!text(&rule["annotations"], "summary").is_empty(), "{name} has no summary");
        // Severity of a cause comes with the series.
        let is_own = own_alerts().any(|own| own == name);
        ensure!(is_own == rule["labels"]["severity"].is_string(), "{name}: {}", rule["labels"]);
    }
    Ok(())
}

/// The series that an expression names, without what Prometheus adds to the name of a histogram.
fn series(expr: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    // What is in quotes is a label's value.
    let code: String = expr.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    let words = code.split(|c| !is_part(c)).filter(|word| word.contains("kulprit_") || word.starts_with("process_"));
    let base = |word: &str| {
        let cut = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| word.strip_suffix(end));
        cut.unwrap_or(word).to_owned()
    };
    words.map(base).collect()
}

/// Series that are neither on the page of metrics nor recorded by a rule.
fn unknown(exprs: &[String], page: &str, recorded: &BTreeSet<String>) -> Vec<String> {
    let known: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let named = exprs.iter().flat_map(|expr| series(expr));
    named.filter(|name| !known.contains(name.as_str()) && !recorded.contains(name)).collect()
}

#[test]
fn series_that_nobody_exports_are_caught() {
    let page = "| `kulprit_a_total` | x |\n| `kulprit_h_seconds` | x |\n";
    let check = |expr: &str, want: &[&str]| {
        assert_eq!(unknown(&[expr.to_owned()], page, &BTreeSet::from(["x:kulprit_a:sum".to_owned()])), want, "{expr}");
    };
    check("rate(kulprit_a_total{cause=\"kulprit_no\"}[5m]) + x:kulprit_a:sum", &[]);
    check("histogram_quantile(0.9, rate(kulprit_h_seconds_bucket[5m]))", &[]);
    check("kulprit_b_total > process_x", &["kulprit_b_total", "process_x"]);
    check("y:kulprit_a:sum", &["y:kulprit_a:sum"]);
}

fn recorded() -> Result<BTreeSet<String>> {
    Ok(rules()?.iter().map(|rule| text(rule, "record").to_owned()).collect())
}

#[test]
fn every_series_of_the_alerts_is_exported() -> Result<()> {
    let exprs: Vec<String> = rules()?.iter().map(|rule| text(rule, "expr").to_owned()).collect();
    ensure!(exprs.iter().all(|expr| !series(expr).is_empty()), "an expression without a series of ours");
    let unknown = unknown(&exprs, &read("docs/metrics.md")?, &recorded()?);
    ensure!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}

/// Panels, those within rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().into_iter().flatten();
    top.flat_map(|panel| std::iter::once(panel).chain(panel["panels"].as_array().into_iter().flatten())).collect()
}

#[test]
fn the_dashboard_is_a_model_of_grafana_and_every_series_of_it_is_exported() -> Result<()> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?)?;
    ensure!(
        text(&dashboard, "uid") == "kulprit"
            && dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36)
    );
    ensure!(dashboard["id"].is_null() && dashboard["version"].is_u64() && dashboard["time"]["from"].is_string());
    let variables = dashboard["templating"]["list"].as_array().context("variables")?;
    ensure!(variables.iter().any(|own| text(own, "name") == "datasource" && text(own, "type") == "datasource"));
    let panels = panels(&dashboard);
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    ensure!(ids.len() == panels.len() && panels.len() > 15, "{} ids of {} panels", ids.len(), panels.len());
    let mut exprs = Vec::new();
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in &panels {
        let title = text(panel, "title");
        ensure!(!title.is_empty(), "{panel}");
        let at = |key: &str| panel["gridPos"][key].as_u64().with_context(|| format!("{title}: gridPos.{key}"));
        let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
        ensure!(x + w <= 24 && w > 0 && h > 0, "{title} is outside of the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            ensure!(taken.insert(cell), "{title} lies over another panel at {cell:?}");
        }
        let kind = text(panel, "type");
        if kind == "row" {
            continue;
        }
        ensure!(["stat", "timeseries", "table", "bargauge"].contains(&kind), "{title}: {kind}");
        ensure!(text(&panel["datasource"], "uid") == "${datasource}", "{title}");
        let targets = panel["targets"].as_array().with_context(|| title.to_owned())?;
        let refs: BTreeSet<&str> = targets.iter().map(|target| text(target, "refId")).collect();
        ensure!(!targets.is_empty() && refs.len() == targets.len(), "{title}: {refs:?}");
        exprs.extend(targets.iter().map(|target| text(target, "expr").to_owned()));
    }
    ensure!(exprs.iter().all(|expr| !series(expr).is_empty()), "a panel without a series of ours");
    let unknown = unknown(&exprs, &read("docs/metrics.md")?, &recorded()?);
    ensure!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}

/// What promtool says of an expression is what Grafana would be told.
#[test]
fn promtool_takes_every_expression_of_the_dashboard() -> Result<()> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)?)?;
    let targets = panels(&dashboard).into_iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let rules: Vec<Value> = targets
        .enumerate()
        .map(|(n, target)| {
            let expr = text(target, "expr").replace("$__rate_interval", "5m").replace("$node", ".*");
            serde_json::json!({"record": format!("panel:{n}"), "expr": expr})
        })
        .collect();
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    fs::write(file.path(), serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string())?;
    promtool(&["check", "rules", &file.path().to_string_lossy()]).map(drop)
}
