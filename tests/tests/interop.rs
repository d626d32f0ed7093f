//! Kulprit beside the tools of others, on a real API server: the samples are taken as they are, and node-problem-detector's condition types are
//! left alone, written in its place, and given back, as the configuration says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_central::conditions::{NpdCondition, type_of};
use kulprit_central::taints::key_of;
use kulprit_model::catalogue::NodeCondition;
use kulprit_tests::check::report;
use kulprit_tests::system::System;
use kulprit_tests::wait::wait_until;
use kulprit_tests::{Cluster, Lab};
use serde_json::Value;

/// An agent's slowest look, a hold, and a busy machine.
const SEEN: Duration = Duration::from_secs(90);

/// Status and reason of each condition of a node, by type.
type Conditions = BTreeMap<String, (String, String)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace's root")
}

fn sample(name: &str) -> Result<(PathBuf, Value)> {
    let path = root().join("deploy/samples").join(name);
    let value = serde_saphyr::from_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?;
    Ok((path, value))
}

/// The words of a list of objects.
fn words<'v>(list: &'v Value, key: &str) -> BTreeSet<&'v str> {
    list.as_array().into_iter().flatten().filter_map(|own| own[key].as_str()).collect()
}

/// Those of the one node.
fn conditions(cluster: &Cluster) -> Result<Conditions> {
    let node = cluster.get(&["node", "n1"])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(all.iter().map(|own| (text(&own["type"]), (text(&own["status"]), text(&own["reason"])))).collect())
}

fn npd_types(conditions: &Conditions) -> BTreeSet<&str> {
    let all = NpdCondition::ALL.map(NpdCondition::as_str);
    all.into_iter().filter(|name| conditions.contains_key(*name)).collect()
}

fn samples_are_taken(cluster: &Cluster) -> Result<()> {
    let crds = root().join("tests/kubernetes/interop-crds.yaml");
    cluster.kubectl(&["create", "--filename", &crds.to_string_lossy()])?;
    cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"])?;
    let ours: BTreeSet<String> = NodeCondition::ALL.into_iter().map(type_of).collect();
    let is_ours = |name: &&str| ours.contains(*name) || *name == "Ready";
    let (path, check) = sample("node-health-check.yaml")?;
    cluster.kubectl(&["apply", "--validate=strict", "--filename", &path.to_string_lossy()])?;
    let unhealthy = &check["spec"]["unhealthyConditions"];
    ensure!(words(unhealthy, "type").iter().all(is_ours), "{unhealthy}");
    let unknown = unhealthy.as_array().into_iter().flatten().filter(|own| own["status"] != "True");
    ensure!(unknown.map(|own| &own["type"]).all(|name| *name == "Ready"), "remediation of what nobody could look at");

    let (path, rule) = sample("node-readiness-rule.yaml")?;
    cluster.kubectl(&["apply", "--validate=strict", "--filename", &path.to_string_lossy()])?;
    ensure!(words(&rule["spec"]["conditions"], "type").iter().all(is_ours), "{rule}");
    ensure!(rule["spec"]["dryRun"] == true && rule["spec"]["taint"]["effect"] != "NoExecute", "{rule}");
    // The schemas are not for show.
    let other = fs::read_to_string(&path)?.replace("key: readiness.k8s.io/", "key: kulprit.io/");
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    fs::write(file.path(), other)?;
    ensure!(
        cluster.kubectl(&["apply", "--filename", &file.path().to_string_lossy()]).is_err(),
        "a key of another prefix"
    );
    Ok(())
}

/// With the real programs: the log is in it, and no password that stands in the configuration.
fn bundle_tells_what_central_is(system: &System) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("b.tar.gz").display().to_string();
    let said = system.page(&["support-bundle", "--out", &out])?;
    let files = Command::new("tar").args(["-xzOf", &out]).output()?;
    let text = String::from_utf8_lossy(&files.stdout);
    for part in [
        "central is up",
        "kulprit_central_node_conditions{",
        "\"npd_mode\": \"coexist\"",
        "\"ready\": true",
        "<left-out>@cluster.example",
    ] {
        ensure!(text.contains(part), "{part} is not in the bundle: {said}\n{text}");
    }
    ensure!(!text.contains("hunter2"), "a password is in the bundle");
    Ok(())
}

#[test]
fn the_sample_for_the_descheduler_leaves_out_every_taint_of_ours() -> Result<()> {
    let (_, policy) = sample("descheduler-policy.yaml")?;
    let args = &policy["profiles"][0]["pluginConfig"][0]["args"]["excludedTaints"];
    let excluded: BTreeSet<&str> = args.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let ours: BTreeSet<String> = NodeCondition::ALL.into_iter().map(key_of).collect();
    ensure!(ours.iter().all(|key| excluded.contains(key.as_str())), "{excluded:?}");
    let (_, rule) = sample("node-readiness-rule.yaml")?;
    ensure!(excluded.contains(rule["spec"]["taint"]["key"].as_str().context("a key")?), "{excluded:?}");
    Ok(())
}

#[test]
fn the_types_of_node_problem_detector_are_its_own_until_we_replace_it_and_again_after_that() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    samples_are_taken(&cluster)?;

    // As node-problem-detector writes them: one that we know, one that we do not.
    let patch = r#"{"status": {"conditions": [
        {"type": "KubeletUnhealthy", "status": "True", "reason": "KubeletUnhealthy", "message": "of another"},
        {"type": "NTPProblem", "status": "False", "reason": "NTPIsUp", "message": "of another"}]}}"#;
    let write =
        ["patch", "node", "n1", "--subresource=status", "--field-manager=node-problem-detector", "--patch", patch];
    cluster.kubectl(&write)?;
    let config = |npd_mode: &str| {
        let kubeconfig = cluster.admin_config();
        let secret = "https://admin:hunter2@cluster.example";
        format!(
            "cluster: {secret}\nkubernetes: {{kubeconfig: {}}}\npublish: {{npd_mode: {npd_mode}}}\n",
            kubeconfig.display()
        )
    };
    let mut system = System::start(&lab, &config("coexist"))?;
    system.watch(node)?;
    let wait = |system: &System, what: &str, is_so: &dyn Fn(&Conditions) -> bool| {
        let look = || Ok(is_so(&conditions(&cluster)?));
        wait_until(what, SEEN, look).with_context(|| format!("{:#?}\n{}", conditions(&cluster), system.logs()))
    };
    let kubelet = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
    let own_well =
        |seen: &Conditions| seen.get("kulprit.io/KubeletDegraded").is_some_and(|(status, _)| status == "False");
    report("our own conditions stand", wait(&system, "our conditions", &own_well)?);
    let seen = conditions(&cluster)?;
    ensure!(npd_types(&seen) == BTreeSet::from(["KubeletUnhealthy"]), "{seen:?}");
    ensure!(seen["KubeletUnhealthy"] == kubelet("True", "KubeletUnhealthy"), "what is not ours was written: {seen:?}");

    system.restart_central(&config("replace"))?;
    let well = |seen: &Conditions| {
        npd_types(seen).len() == NpdCondition::ALL.len()
            && seen["KubeletUnhealthy"] == kubelet("False", "KubeletIsHealthy")
    };
    report("all types are written in its place", wait(&system, "its types", &well)?);
    node.run(&["systemctl", "stop", "kubelet"])?;
    let down = |seen: &Conditions| seen["KubeletUnhealthy"] == kubelet("True", "KubeletUnhealthy");
    report("a kubelet that stopped is KubeletUnhealthy", wait(&system, "KubeletUnhealthy", &down)?);
    node.run(&["systemctl", "start", "kubelet"])?;
    report("and healthy again", wait(&system, "KubeletIsHealthy", &well)?);

    system.restart_central(&config("coexist"))?;
    let gone = |seen: &Conditions| npd_types(seen).is_empty() && own_well(seen);
    report("what we wrote is gone", wait(&system, "its types to go", &gone)?);
    bundle_tells_what_central_is(&system)?;
    ensure!(conditions(&cluster)?["NTPProblem"] == ("False".to_owned(), "NTPIsUp".to_owned()), "what never was ours");
    Ok(())
}
