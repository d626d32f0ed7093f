//! What central writes on a node of a real Kubernetes: a real fault becomes its condition and taint and goes with it, and the API server's own
//! book of who owns what shows that nothing else was touched.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::report;
use kulprit_tests::fault::KvmMissing;
use kulprit_tests::kubernetes::owned;
use kulprit_tests::kubevirt::KubeVirt;
use kulprit_tests::system::System;
use kulprit_tests::wait::wait_until;
use kulprit_tests::{Cluster, Lab};
use serde_json::Value;

/// An agent's slowest look, a hold, and a busy machine.
const SEEN: Duration = Duration::from_secs(90);
/// Less than a Lease lasts: it is not waited for.
const TAKEN_UP: Duration = Duration::from_secs(10);
const FOREIGN: &str = "example.com/of-another=v:PreferNoSchedule";

/// Our conditions of a node: type, status, `lastTransitionTime`.
fn conditions(node: &Value) -> Vec<[String; 3]> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = node["status"]["conditions"].as_array().into_iter().flatten();
    let ours = all.filter(|own| text(&own["type"]).starts_with("kulprit.io/"));
    ours.map(|own| [text(&own["type"]), text(&own["status"]), text(&own["lastTransitionTime"])]).collect()
}

fn status<'c>(conditions: &'c [[String; 3]], name: &str) -> &'c str {
    let own = conditions.iter().find(|own| own[0] == format!("kulprit.io/{name}"));
    own.map_or("", |own| &own[1])
}

/// `key=value:effect` of each taint, without those of Kubernetes.
fn taints(node: &Value) -> BTreeSet<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = node["spec"]["taints"].as_array().into_iter().flatten();
    let word = |taint: &Value| format!("{}={}:{}", text(&taint["key"]), text(&taint["value"]), text(&taint["effect"]));
    all.map(word).filter(|taint| !taint.starts_with("node.kubernetes.io/")).collect()
}

#[test]
fn a_fault_becomes_a_condition_and_a_taint_and_goes_and_nothing_else_is_touched() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    KubeVirt::install(&cluster)?.adopt(node)?;
    cluster.kubectl(&["taint", "node", "n1", FOREIGN])?;
    let read = || cluster.get(&["node", "n1", "--show-managed-fields"]);
    let before = read()?;
    let config = format!(
        "kubernetes: {{kubeconfig: {}}}\npublish: {{taints: {{effects: {{KvmUnavailable: NoSchedule}}, max_percent: 100, after: 1s}}}}\n",
        cluster.admin_config().display()
    );
    let mut system = System::start(&lab, &config)?;
    system.watch(node)?;
    let is = |system: &System, name: &'static str, want: &'static str| {
        let is_so = || Ok(status(&conditions(&read()?), name) == want);
        wait_until(&format!("{name} to be {want}"), SEEN, is_so).with_context(|| {
            format!("{:#?}\n{}", read().map(|node| node["status"]["conditions"].clone()), system.logs())
        })
    };
    report("the first conditions", is(&system, "KvmUnavailable", "False")?);
    let at_first = conditions(&read()?);
    ensure!(at_first.len() >= 5, "{at_first:?}");

    let fault = KvmMissing::new(node)?;
    report("KvmUnavailable is True", is(&system, "KvmUnavailable", "True")?);
    let described = cluster.kubectl(&["describe", "node", "n1"])?;
    ensure!(described.contains("KvmDeviceMissing: /dev/kvm does not exist"), "{described}");
    let tainted =
        wait_until("the taint", SEEN, || Ok(taints(&read()?).contains("kulprit.io/kvm-unavailable=:NoSchedule")));
    report("tainted", tainted.with_context(|| system.logs())?);
    owned::n_conditions(&read()?)?;
    let told = wait_until("the incident in the message", SEEN, || {
        Ok(cluster.kubectl(&["describe", "node", "n1"])?.contains("Cause: KvmDeviceMissing, incident "))
    });
    report("the incident is named", told.with_context(|| system.logs())?);

    drop(fault);
    report("KvmUnavailable is False again", is(&system, "KvmUnavailable", "False")?);
    let freed = wait_until("the taint to go", SEEN, || Ok(taints(&read()?) == BTreeSet::from([FOREIGN.to_owned()])));
    report("free again", freed.with_context(|| format!("{:?}", read().map(|node| taints(&node))))?);

    let after = read()?;
    for own in conditions(&after).iter().filter(|own| own[0] != "kulprit.io/KvmUnavailable") {
        let old = at_first.iter().find(|old| old[0] == own[0]);
        ensure!(old.is_none_or(|old| old[1] != own[1] || old[2] == own[2]), "{own:?} was {old:?}");
    }
    let (others_before, others_after) = (owned::others(&before), owned::others(&after));
    ensure!(others_before.is_subset(&others_after), "{others_before:?} and {others_after:?}");
    ensure!(owned::n_conditions(&after)? == 8, "{}", after["metadata"]["managedFields"]);

    let stood = conditions(&read()?);
    let lease = |field: &str| {
        let path = format!("jsonpath={{.spec.{field}}}");
        cluster.kubectl(&["get", "lease", "kulprit-central", "--output", &path])
    };
    let (holder, renewed) = (lease("holderIdentity")?, lease("renewTime")?);
    system.kill_central();
    system.start_central()?;
    // By its name, which its data folder keeps, it is the holder still.
    let taken = wait_until("the Lease to be renewed", TAKEN_UP, || Ok(lease("renewTime")? != renewed));
    report("central leads again", taken.with_context(|| system.logs())?);
    ensure!(lease("holderIdentity")? == holder, "{holder:?} and {:?}", lease("holderIdentity")?);
    is(&system, "KvmUnavailable", "False")?;
    ensure!(conditions(&read()?) == stood, "{stood:?} and {:?}", conditions(&read()?));
    Ok(())
}
