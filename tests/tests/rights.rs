//! What central may do in Kubernetes is what it does: everything runs with exactly the documented rights, every one of them is used, and
//! each that is missing is named. Judged by the API server's own audit of central's service account.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kulprit_tests::check::report;
use kulprit_tests::fault::KvmMissing;
use kulprit_tests::kubernetes::accounts::{Audited, MISSING, Right, THERE, document, logged, rights, used, without};
use kulprit_tests::kubevirt::api::{Kind, Place};
use kulprit_tests::kubevirt::{KubeVirt, VmSpec};
use kulprit_tests::system::System;
use kulprit_tests::system::answers::Incident;
use kulprit_tests::wait::wait_until;
use kulprit_tests::{Cluster, Lab};
use serde_json::{Value, json};

const CENTRAL: &str = "kulprit-central";
const REVIEWS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];
const CLEANUP: &str = "kulprit-cleanup";
/// An agent's slowest look, a hold, and a busy machine.
const SEEN: Duration = Duration::from_secs(90);
/// From an incident to what is written of it.
const TRY: Duration = Duration::from_secs(5);
const N_TRIES: usize = 4;

/// Waits until central's log says of each of those rights that it is missing, or that it is there again.
fn wait_for_words(system: &System, words: &str, rights: &BTreeSet<&Right>) -> Result<()> {
    let missing = |log: &str| -> Vec<String> {
        let said: Vec<&str> = log.lines().filter(|line| line.contains(words)).collect();
        let lines = rights.iter().map(|right| logged(right));
        lines.filter(|line| !said.iter().any(|said| said.contains(line))).collect()
    };
    let is_said = || Ok(missing(&system.central_log()?).is_empty());
    let took = wait_until(&format!("central to say: {words}"), SEEN, is_said).with_context(|| {
        format!("not said of {:?}\n{}", missing(&system.central_log().unwrap_or_default()), system.logs())
    })?;
    report(&format!("{words}: {}", rights.len()), took);
    Ok(())
}

/// A VM of which only the object is there, shown in an error or stopped as the test says: a trouble that comes back is told by the series of its Event.
struct Shown<'a> {
    kubevirt: &'a KubeVirt,
    place: Place,
}

impl<'a> Shown<'a> {
    fn new(kubevirt: &'a KubeVirt) -> Result<Self> {
        kubevirt.create(VmSpec::new("prod", "db-0").claim("gone"), Duration::ZERO)?;
        let [place, vmi] = [Kind::VM, Kind::VMI].map(|kind| Place::new(kind, "prod", "db-0"));
        kubevirt.api().update(&vmi, |object| object["metadata"]["finalizers"] = Value::Null)?;
        kubevirt.api().delete(&vmi, None)?;
        kubevirt.api().update(&place, |object| object["spec"]["runStrategy"] = "Halted".into())?;
        Ok(Self { kubevirt, place })
    }

    fn as_status(&self, status: &str) -> Result<()> {
        let set = |object: &mut Value| object["status"]["printableStatus"] = status.into();
        self.kubevirt.api().update_status(&self.place, set).map(drop)
    }

    /// Lets its trouble come, and go, until that is so.
    fn comes_and_goes(&self, system: &System, what: &str, is_so: &dyn Fn() -> Result<bool>) -> Result<()> {
        let is_open = || {
            let is_its =
                |incident: &Incident| incident.open && incident.members.iter().any(|one| one.subject.name == "db-0");
            Ok::<_, anyhow::Error>(system.incidents()?.iter().any(is_its))
        };
        for _ in 0..N_TRIES {
            self.as_status("ErrorPvcNotFound")?;
            wait_until("the VM's trouble", SEEN, is_open).with_context(|| system.logs())?;
            let seen = wait_until(what, TRY, is_so);
            self.as_status("Stopped")?;
            wait_until("the VM's trouble to end", SEEN, || Ok(!is_open()?)).with_context(|| system.logs())?;
            if let Ok(took) = seen {
                report(what, took);
                return Ok(());
            }
        }
        bail!("{what} in vain\n{}", system.logs())
    }
}

/// The sample of an admission policy, which the API server takes.
fn policy() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/central-admission-policy.yaml");
    path.to_string_lossy().into_owned()
}

/// What a program in central's place might write with its rights, and what the policy says of it.
const EVIL: [(&str, &str, &str); 6] = [
    ("", r#"{"metadata": {"labels": {"a": "b"}}}"#, "central changes no labels"),
    ("", r#"{"spec": {"unschedulable": true}}"#, "central cordons no node"),
    (
        "",
        r#"{"spec": {"taints": [{"key": "kubevirt.io/drain", "effect": "NoSchedule"}]}}"#,
        "no taints but those of its prefix",
    ),
    ("", r#"{"spec": {"taints": [{"key": "kulprit.io/x", "effect": "NoExecute"}]}}"#, "no taint that evicts"),
    (
        "status",
        r#"{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}"#,
        "no conditions but those of its prefix",
    ),
    ("status", r#"{"status": {"capacity": {"cpu": "1"}}}"#, "nothing of a node's status but conditions"),
];

fn evil_is_denied(cluster: &Cluster) -> Result<()> {
    // kubectl reads what it patches, which central has no need to.
    cluster.kubectl(&["create", "clusterrole", "reads-status", "--verb=get", "--resource=nodes/status"])?;
    let account = format!("--serviceaccount=kulprit:{CENTRAL}");
    cluster.kubectl(&["create", "clusterrolebinding", "reads-status", "--clusterrole=reads-status", &account])?;
    for (subresource, patch, said) in EVIL {
        let (user, part) =
            (format!("--as=system:serviceaccount:kulprit:{CENTRAL}"), format!("--subresource={subresource}"));
        let mut words = vec!["patch", "node", "n1", &user, "--patch", patch];
        words.extend((!subresource.is_empty()).then_some(&*part));
        let denied = cluster.kubectl(&words).err().with_context(|| format!("it is let in: {patch}"))?;
        ensure!(format!("{denied:#}").contains(said), "{patch}: {denied:#}");
    }
    Ok(())
}

#[test]
fn central_has_exactly_the_rights_that_it_uses_and_names_each_that_is_missing() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1"])?;
    let node = nodes.first().context("a node was started")?;
    let kubevirt = KubeVirt::install(&cluster)?;
    kubevirt.adopt(node)?;
    let role = document("central-role.yaml")?;
    let mut granted = rights(&role)?;
    // Reviews of who asks, and a certificate that central makes, are another topic's (`access.rs`), with the same roles.
    granted.retain(|right| !REVIEWS.contains(&right[1].as_str()));
    let kubeconfig = cluster.account("kulprit", CENTRAL)?;
    cluster.grant(CENTRAL, &role)?;
    // All that central does, it does under the policy.
    cluster.kubectl(&["apply", "--validate=strict", "--filename", &policy()])?;
    let config = format!(
        "kubernetes: {{kubeconfig: {}}}\nincidents: {{close_after: 2s}}\n\
         publish: {{taints: {{effects: {{KvmUnavailable: NoSchedule}}, max_percent: 100, after: 1s}}}}\n",
        kubeconfig.display()
    );
    let mut system = System::start(&lab, &config)?;
    system.watch(node)?;

    // Everything that central does there, with these rights: a fault comes, goes, and comes back.
    let get = || cluster.get(&["node", "n1"]);
    let is_tainted = |node: &Value| node["spec"]["taints"].to_string().contains("kulprit.io/kvm-unavailable");
    let has = |text: &'static str| Ok::<_, anyhow::Error>(cluster.kubectl(&["describe", "node", "n1"])?.contains(text));
    let wait = |system: &System, what: &str, is_so: &dyn Fn() -> Result<bool>| -> Result<()> {
        let took = wait_until(what, SEEN, is_so).with_context(|| system.logs())?;
        report(what, took);
        Ok(())
    };
    wait(&system, "the first conditions", &|| {
        Ok(get()?["status"]["conditions"].to_string().contains("KvmIsAvailable"))
    })?;
    let fault = KvmMissing::new(node)?;
    wait(&system, "the taint", &|| Ok(is_tainted(&get()?)))?;
    wait(&system, "the Event", &|| Ok(has("is now: True, reason: KvmDeviceMissing")? && has("kulprit incidents ")?))?;
    drop(fault);
    wait(&system, "the end of it", &|| Ok(!is_tainted(&get()?)))?;
    let vm = Shown::new(&kubevirt)?;
    let observed = ["", "events.k8s.io", "events", "patch"].map(ToOwned::to_owned);
    let is_observed = || Ok(used(&cluster.audited(CENTRAL)?, &granted).contains(&observed));
    vm.comes_and_goes(&system, "the Event's series", &is_observed)?;
    let audited = cluster.audited(CENTRAL)?;
    let refused: Vec<&Audited> = audited.iter().filter(|one| one.code == 403).collect();
    ensure!(refused.is_empty(), "with the documented rights nothing is refused: {refused:#?}");
    let used_rights = used(&audited, &granted);
    let (unused, ungranted): (Vec<_>, Vec<_>) =
        (granted.difference(&used_rights).collect(), used_rights.difference(&granted).collect());
    ensure!(
        unused.is_empty() && ungranted.is_empty(),
        "granted and not used: {unused:?}; used and not granted: {ungranted:?}"
    );
    // What is written: refused while central runs, and to one that starts, which may taint one node at once.
    let right = |group: &str, resource: &str, verb: &str| ["", group, resource, verb].map(ToOwned::to_owned);
    let (create, status) = (right("events.k8s.io", "events", "create"), right("", "nodes/status", "patch"));
    let (get_node, patch_node) = (right("", "nodes", "get"), right("", "nodes", "patch"));
    let refuse = |taken: &[&Right]| -> Result<()> { cluster.apply(&without(&role, |right| taken.contains(&right))?) };
    refuse(&[&status, &observed])?;
    let is_named =
        || Ok(system.central_log()?.lines().any(|said| said.contains(MISSING) && said.contains(&logged(&observed))));
    let fault = KvmMissing::new(node)?;
    vm.comes_and_goes(&system, "the series to be refused", &is_named)?;
    wait_for_words(&system, MISSING, &[&status, &observed].into())?;
    let without_lease = |system: &mut System| -> Result<()> {
        system.kill_central();
        // Of one that was killed the next waits for the end.
        cluster.kubectl(&["delete", "--ignore-not-found", "lease", CENTRAL, "--namespace", "kulprit"]).map(drop)
    };
    without_lease(&mut system)?;
    refuse(&[&get_node, &create])?;
    system.launch_central()?;
    wait_for_words(&system, MISSING, &[&get_node, &create].into())?;
    refuse(&[&patch_node])?;
    wait_for_words(&system, THERE, &[&create].into())?;
    // What was refused counts for the breaker of taints: the next central may try one again.
    without_lease(&mut system)?;
    system.launch_central()?;
    wait_for_words(&system, MISSING, &[&patch_node].into())?;
    let mut all_named: BTreeSet<&Right> = [&create, &observed, &status, &get_node, &patch_node].into();

    // What is watched, and the Lease: each group by a central that starts.
    for (verb, resource) in [("list", ""), ("watch", ""), ("get", "leases"), ("create", "leases"), ("update", "leases")]
    {
        let is_taken = |right: &Right| right[3] == verb && (resource.is_empty() || right[2] == resource);
        without_lease(&mut system)?;
        if verb == "update" {
            let free = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": CENTRAL, "namespace": "kulprit"}, "spec": {"holderIdentity": ""}});
            cluster.create(&free)?;
        }
        cluster.apply(&without(&role, is_taken)?)?;
        system.launch_central()?;
        let taken: BTreeSet<&Right> = granted.iter().filter(|right| is_taken(right)).collect();
        ensure!(!taken.is_empty(), "{verb}");
        wait_for_words(&system, MISSING, &taken)?;
        all_named.extend(taken);
    }
    ensure!(all_named == granted.iter().collect(), "each right was taken away once");
    cluster.apply(&role)?;

    evil_is_denied(&cluster)?;

    // Cleanup, with rights of its own.
    let role = document("cleanup-role.yaml")?;
    let cleaner = cluster.account("kulprit", CLEANUP)?;
    cluster.grant(CLEANUP, &role)?;
    for kind in [&["secret", "generic"][..], &["configmap"]] {
        let words = ["made", "--namespace", "kulprit", "--field-manager", CENTRAL, "--from-literal", "a=b"];
        cluster.kubectl(&[&["create"], kind, &words].concat())?;
    }
    let words = ["--kubeconfig", &*cleaner.to_string_lossy(), "--secret", "made", "--config-map", "made"];
    wait(&system, "the taint after all", &|| Ok(is_tainted(&get()?)))?;
    let (code, said) = system.clean_up(&words)?;
    ensure!(code == Some(2) && said.contains("holds the Lease"), "{code:?}: {said}");
    system.kill_central();
    let (code, said) = system.clean_up(&words)?;
    ensure!(code == Some(0) && said.contains("removed taints of node n1"), "{code:?}: {said}");
    let left = cluster.kubectl(&["get", "nodes,leases,secrets,configmaps", "--all-namespaces", "--output", "yaml"])?;
    for part in ["kulprit.io/", "name: kulprit-central", "name: made"] {
        ensure!(!left.contains(part), "{part} is left: {left}");
    }
    let (code, said) = system.clean_up(&words)?;
    ensure!(code == Some(0) && said.contains("nothing of central is there"), "{code:?}: {said}");
    let (granted, audited) = (rights(&role)?, cluster.audited(CLEANUP)?);
    ensure!(used(&audited, &granted) == granted, "{:?}", used(&audited, &granted));

    // An agent has none: what anybody has, and it asks for nothing.
    drop(fault);
    let mut lists = Vec::new();
    for name in ["kulprit-agent", "nobody"] {
        cluster.account("kulprit", name)?;
        let user = format!("--as=system:serviceaccount:kulprit:{name}");
        lists.push(cluster.kubectl(&["auth", "can-i", "--list", &user])?);
    }
    ensure!(lists[0] == lists[1], "{lists:#?}");
    ensure!(cluster.audited("kulprit-agent")?.is_empty());
    Ok(())
}
