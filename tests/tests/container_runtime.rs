//! The real containerd and kubelet of a node that an agent watches: hung, stopped, restarted, a launcher's container that fails. Each is
//! found in time, named, and cleared when it is undone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::{SOON, report};
use kulprit_tests::fault::{Hung, UnitStopped};
use kulprit_tests::system::System;
use kulprit_tests::system::answers::Finding;
use kulprit_tests::wait::{pause, wait_until};
use kulprit_tests::{Cluster, Lab};
use serde_json::json;

/// A runtime that hangs is known after its poll (5 s) and the deadline of the call (5 s).
const HUNG_WITHIN: Duration = Duration::from_secs(12);
/// systemd's signal says that a unit stopped.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// Lists of containers come every 30 s, every 10 s when one has failed, and that is held for 10 s.
const CONTAINER_WITHIN: Duration = Duration::from_secs(60);
/// Two looks at everything, for what must not be said.
const LOOKS: Duration = Duration::from_secs(12);
/// The image of the sandbox itself, which every node of the lab has.
const PAUSE: &str = "localhost/pause:lab";
const VMI_UID: &str = "5f0c0b2c-0000-4000-8000-000000000005";

/// What holds now; with `--since`, also what happened, and what held.
fn present(system: &System, code: &str, words: &[&str]) -> Result<Vec<Finding>> {
    let mut rows = system.findings(words)?;
    rows.retain(|finding| finding.code == code && finding.holds());
    Ok(rows)
}

/// Waits until the finding is said, or not any more.
fn wait_for_finding(system: &System, code: &str, is_said: bool, limit: Duration) -> Result<Duration> {
    let what = format!("{code} to be {}", if is_said { "said" } else { "cleared" });
    let took = wait_until(&what, limit, || Ok(present(system, code, &[])?.is_empty() != is_said))
        .with_context(|| explain(system))?;
    report(&what, took);
    Ok(took)
}

fn explain(system: &System) -> String {
    format!("{}\n{}", system.page(&["findings", "--output", "json"]).unwrap_or_default(), system.logs())
}

fn n_kubelet_starts(system: &System) -> Result<u64> {
    Ok(present(system, "KubeletRestarted", &["--since", "10m"])?.iter().filter_map(|finding| finding.count).sum())
}

#[test]
fn the_container_runtime_and_the_kubelet_are_watched() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = &nodes[0];
    let mut system = System::start(&lab, "")?;
    system.watch(node)?;

    pause(LOOKS);
    for code in [
        "RuntimeInactive",
        "RuntimeUnresponsive",
        "RuntimeNetworkNotReady",
        "RuntimeShimStuck",
        "KubeletMisconfigured",
        "KubeletCertificateExpired",
        "DevicePluginMissing",
        "OrphanedPodVolumes",
    ] {
        ensure!(present(&system, code, &[])?.is_empty(), "{code} is said of a healthy node:\n{}", system.logs());
    }

    let hung = Hung::unit(node, "containerd.service")?;
    wait_for_finding(&system, "RuntimeUnresponsive", true, HUNG_WITHIN)?;
    ensure!(present(&system, "RuntimeInactive", &[])?.is_empty(), "its unit is active");
    ensure!(present(&system, "RuntimeUnresponsive", &[])?[0].subject == "unit/containerd.service");
    drop(hung);
    // It has the kubelet's calls of that time to answer, too.
    wait_for_finding(&system, "RuntimeUnresponsive", false, SOON)?;

    let stopped = UnitStopped::new(node, "containerd.service")?;
    wait_for_finding(&system, "RuntimeInactive", true, STOPPED_WITHIN)?;
    ensure!(present(&system, "RuntimeUnresponsive", &[])?.is_empty(), "what does not run is not asked");
    drop(stopped);
    wait_for_finding(&system, "RuntimeInactive", false, SOON)?;

    let n_starts = n_kubelet_starts(&system)?;
    node.systemctl(&["restart", "kubelet.service"])?;
    let is_told = || Ok(n_kubelet_starts(&system)? > n_starts);
    report("KubeletRestarted to be said", wait_until("the kubelet's restart to be said", SOON, is_told)?);

    // Until kubelet has its default service account no pod is admitted.
    let has_account = || Ok(cluster.get(&["serviceaccount", "--namespace", "default", "default"]).is_ok());
    wait_until("the default service account", SOON, has_account)?;
    cluster.create(&failing_launcher(node.name()))?;
    wait_for_finding(&system, "LauncherContainerFailed", true, CONTAINER_WITHIN)?;
    ensure!(present(&system, "LauncherContainerFailed", &[])?[0].subject == format!("vm/{VMI_UID}"));
    cluster.kubectl(&["delete", "pod", "virt-launcher-db-0-lab", "--grace-period", "1"])?;
    wait_for_finding(&system, "LauncherContainerFailed", false, CONTAINER_WITHIN)?;
    ensure!(system.findings(&[])?.iter().all(|finding| finding.code != "ProbeBlind" || !finding.holds()));
    Ok(())
}

/// A pod with a launcher's labels: its compute container runs, a sidecar's program does not exist.
fn failing_launcher(node: &str) -> serde_json::Value {
    let container = |name: &str| json!({"name": name, "image": PAUSE, "imagePullPolicy": "Never"});
    let mut sidecar = container("istio-proxy");
    sidecar["command"] = json!(["/none"]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "virt-launcher-db-0-lab",
            "namespace": "default",
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": VMI_UID},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [container("compute"), sidecar],
        },
    })
}
