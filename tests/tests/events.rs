//! Why a VM is in trouble, as `kubectl describe` shows it on a real API server: told once by one of two centrals, and that it is over.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::Lab;
use kulprit_tests::check::{assert_contains, report};
use kulprit_tests::kubevirt::{
    Stage,
    api::{Kind, Place},
};
use kulprit_tests::lab::built_binary;
use kulprit_tests::node::Running;
use kulprit_tests::wait::{pause, wait_until};
use serde_json::Value;

/// A watch, a pass, an Event; longer than what is not sure waits, and than a Lease lasts whose holder was killed.
const SOON: Duration = Duration::from_secs(60);

/// Our Events, oldest first.
fn events(stage: &Stage) -> Result<Vec<Value>> {
    let all = stage.cluster.get(&["events.events.k8s.io", "--all-namespaces"])?;
    let mut ours: Vec<Value> = all["items"].as_array().context("a list")?.clone();
    ours.retain(|event| event["reportingController"] == "kulprit.io/central");
    ours.sort_by_key(|event| event["eventTime"].to_string());
    Ok(ours)
}

/// A central beside that of the stage, with a store of its own.
fn another_central(lab: &Lab, stage: &Stage, folder: &Path) -> Result<Running> {
    let (log, config) = (File::create(folder.join("log"))?, folder.join("central.yaml"));
    fs::write(&config, "incidents: {close_after: 2s, reopen_within: 1s}\n")?;
    let mut command = lab.command(built_binary("kulprit-central").context("central is built")?);
    command
        .args(["--listen=127.0.0.1:17443", "--admin-listen=127.0.0.1:17444", "--kubeconfig"])
        .arg(stage.cluster.admin_config())
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--config")
        .arg(config)
        .stdout(log.try_clone()?)
        .stderr(log);
    Running::start(&mut command)
}

#[test]
fn describe_shows_the_cause_once_and_its_end_whichever_central_says_it() -> Result<()> {
    let lab = Lab::open()?;
    let mut stage = Stage::on(&lab, kulprit_tests::Cluster::start(&lab, &[])?.0)?;
    stage.register("n1", 1)?;
    let folder = tempfile::tempdir()?;
    let _other = another_central(&lab, &stage, folder.path())?;
    stage.without_claim("db-0")?;
    stage.explained("prod/db-0", "InError", "VolumeNotFound", Stage::EXPLAINED)?;

    let describe = |kind: &str| stage.cluster.kubectl(&["describe", kind, "db-0", "--namespace", "prod"]);
    for kind in ["vmi", "vm"] {
        let is_told = || Ok(describe(kind)?.contains("kulprit.io/central"));
        let told = wait_until(&format!("`kubectl describe {kind}` to show the cause"), SOON, is_told);
        report(kind, told.with_context(|| stage.system.logs())?);
        let page = describe(kind)?;
        let line = page.lines().find(|line| line.contains("kulprit.io/central")).context("a line of ours")?;
        for part in ["Warning", "VolumeNotFound", "% sure", "Incident ", "kulprit why prod/db-0"] {
            assert_contains(line, part);
        }
    }
    let first = events(&stage)?;
    ensure!(first.len() == 2, "{first:#?}");
    for event in &first {
        let (kind, uid) = (&event["regarding"]["kind"], &event["regarding"]["uid"]);
        let kind = kind.as_str().context("a kind")?.to_lowercase();
        let object = stage.cluster.get(&[&kind, "db-0", "--namespace", "prod"])?;
        ensure!(object["metadata"]["uid"] == *uid, "{event:#}");
        ensure!(event["note"].as_str().is_some_and(|note| note.len() <= 1_024), "{event:#}");
    }

    // The other takes over, with incidents of its own.
    stage.system.kill_central();
    let holder =
        || stage.cluster.kubectl(&["get", "lease", "kulprit-central", "--output", "jsonpath={.spec.leaseTransitions}"]);
    let taken = wait_until("the other central to take over", SOON, || Ok(holder()?.parse::<u32>().unwrap_or(0) >= 1));
    report("another central writes", taken?);
    let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let knows = wait_until("it to have an incident of its own", SOON, || Ok(log().contains("event=\"opened\"")));
    report("it has an incident of its own", knows.with_context(log)?);
    pause(Duration::from_secs(5));
    let names = |events: &[Value]| events.iter().map(|event| event["metadata"]["name"].to_string()).collect::<Vec<_>>();
    ensure!(names(&events(&stage)?) == names(&first), "no doubles: {:#?}", events(&stage)?);

    // It is given up: the VM is stopped, and its VMI is not there to be told.
    let [vm, vmi] = [Kind::VM, Kind::VMI].map(|kind| Place::new(kind, "prod", "db-0"));
    let api = stage.kubevirt.api();
    api.update(&vm, |object| object["spec"]["runStrategy"] = "Halted".into())?;
    api.update(&vmi, |object| object["metadata"]["finalizers"] = Value::Null)?;
    api.delete(&vmi, None)?;
    api.update_status(&vm, |object| {
        object["status"]["printableStatus"] = "Stopped".into();
        object["status"]["conditions"] = Value::Null;
    })?;
    let is_over = || Ok(describe("vm")?.contains("Recovered"));
    let over = wait_until("`kubectl describe vm` to show that it is over", SOON, is_over);
    report("over", over.with_context(|| format!("{:#?}\n{}", events(&stage), log()))?);
    pause(Duration::from_secs(5));
    let last = events(&stage)?;
    ensure!(last.len() == 3 && last.iter().all(|event| event["regarding"]["name"] == "db-0"), "{last:#?}");
    Ok(())
}
