//! How soon what central has decided stands on the API server: conditions of a node, and Events on VMs. Prints rows of a Markdown table.
//!
//! Everything is real: etcd, API server, kubelet, an agent that sees the fault, and central with its documented rights. A verdict begins
//! with its incident, a condition with its fault; when a write stood is told by the API server's audit of it, on the same clock. `make bench`
//! runs it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use kulprit_tests::bench::{percentile, row, spread};
use kulprit_tests::fault::KvmMissing;
use kulprit_tests::kubernetes::accounts::Audited;
use kulprit_tests::kubevirt::{KubeVirt, Stage, VmSpec};
use kulprit_tests::system::System;
use kulprit_tests::system::answers::Incident;
use kulprit_tests::wait::{wait_for, wait_until};
use kulprit_tests::{Cluster, Lab};

const CENTRAL: &str = "kulprit-central";
const ROLE: &str = include_str!("../../../docs/central-role.yaml");
/// Within what is said at once: two Events each.
const N_VMS: usize = 60;
const N_FAULTS: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    let kubevirt = KubeVirt::install(&cluster)?;
    kubevirt.adopt(node)?;
    let kubeconfig = cluster.account("kulprit", CENTRAL)?;
    cluster.grant(CENTRAL, ROLE)?;
    let config = format!(
        "kubernetes: {{kubeconfig: {}}}\nincidents: {{close_after: 2s, reopen_within: 1s}}\n",
        kubeconfig.display()
    );
    let mut system = System::start(&lab, &config)?;
    system.watch(node)?;

    let mut events = Vec::new();
    for n in 0..N_VMS {
        let name = format!("vm-{n}");
        let vm = kubevirt.create(VmSpec::new("prod", &name).claim("gone"), Stage::LONG_AGO)?;
        vm.waits_for_claim("gone")?;
        let is_it = |incident: &Incident| incident.members.iter().any(|member| member.subject.name == name);
        let prefix = format!("{name}.");
        let is_written =
            |one: &Audited| one.verb == "create" && one.resource == "events" && one.name.starts_with(&prefix);
        events.push(time_to_write(&cluster, &system, is_it, is_written)?);
    }
    row("verdict → Event on the API server", &spread(&mut events), "p99 ≤ 1 s", percentile(&events, 99) <= 1_000.0);

    // Another trouble of the node may be its incident already: here the fault itself is the beginning.
    let mut conditions = Vec::new();
    for _ in 0..N_FAULTS {
        let is = |status: &str| {
            let path = "jsonpath={.status.conditions[?(@.type=='kulprit.io/KvmUnavailable')].status}";
            Ok(cluster.kubectl(&["get", "node", "n1", "--output", path])? == status)
        };
        wait_until("the node to be well", LIMIT, || is("False"))?;
        let began = Timestamp::now();
        let _fault = KvmMissing::new(node)?;
        wait_until("the condition", LIMIT, || is("True"))?;
        let audited = cluster.audited(CENTRAL)?;
        let is_written = |one: &&Audited| one.at >= began && one.verb == "patch" && one.resource == "nodes/status";
        let first = audited.iter().find(is_written).context("the condition was written")?;
        conditions.push(first.at.duration_since(began).as_secs_f64() * 1e3);
    }
    row(
        "/dev/kvm gone → condition on the API server",
        &spread(&mut conditions),
        "p99 ≤ 5 s",
        percentile(&conditions, 99) <= 5_000.0,
    );
    Ok(())
}

/// Milliseconds from the incident's opening until the first such write after it was answered.
fn time_to_write(
    cluster: &Cluster,
    system: &System,
    is_it: impl Fn(&Incident) -> bool,
    is_written: impl Fn(&Audited) -> bool,
) -> Result<f64> {
    let look = || -> Result<Option<(Timestamp, Timestamp)>> {
        let incidents = system.incidents()?;
        let Some(opened) = incidents.iter().find(|incident| is_it(incident)).map(Incident::opened).transpose()? else {
            return Ok(None);
        };
        let audited = cluster.audited(CENTRAL)?;
        let is_first = |one: &&Audited| one.code < 300 && one.at >= opened && is_written(one);
        Ok(audited.iter().find(is_first).map(|one| (opened, one.at)))
    };
    let ((opened, at), _) = wait_for("a write", LIMIT, look)?;
    Ok(at.duration_since(opened).as_secs_f64() * 1e3)
}
