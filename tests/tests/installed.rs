//! Kulprit installed by its chart on a real Kubernetes: real pods on two nodes, a real fault, an upgrade, another profile, and what an
//! uninstall leaves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kulprit_tests::check::{assert_contains, failure, report};
use kulprit_tests::fault::{Hung, KvmMissing};
use kulprit_tests::kubernetes::product::{self, TAG};
use kulprit_tests::kubevirt::VmSpec;
use kulprit_tests::lab::built_binary;
use kulprit_tests::system::agent_config;
use kulprit_tests::wait::{Stopwatch, wait_for, wait_until};
use kulprit_tests::{Cluster, KubeVirt, Lab, Launcher, Node, shell};
use serde_json::{Value, json};
use tempfile::TempDir;

const NAMESPACE: &str = "kulprit";
/// A name server would know central by its name; the lab has none.
const SERVICE: &str = "10.96.0.43";
/// Pods that start, or an agent's slowest look and a hold: debug builds on a busy machine.
const SOON: Duration = Duration::from_secs(120);
/// Where central's volume is on the first node.
const STORE: &str = "/var/lib/kulprit-store";

/// What the chart is told here.
fn values(node: &Node) -> String {
    format!(
        "\
image: {{tag: {TAG}, pullPolicy: Never}}
log: {{format: human}}
service: {{clusterIP: {SERVICE}}}
agent:
  config: {{{probes}}}
  hostAliases: [{{ip: {SERVICE}, hostnames: [kulprit-central.{NAMESPACE}.svc]}}]
central:
  store: {{type: persistentVolumeClaim, size: 64Mi}}
  config:
    publish: {{taints: {{effects: {{KvmUnavailable: NoSchedule}}, max_percent: 100, after: 1s}}}}
    incidents: {{close_after: 3s}}
",
        probes = agent_config(node).trim_end(),
    )
}

/// A folder with the plugin under its name, the values, and what is asked of the cluster with them.
struct Scene<'a> {
    lab: &'a Lab,
    cluster: &'a Cluster,
    folder: TempDir,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, cluster: &'a Cluster, node: &Node) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        symlink(built_binary("kulprit").context("`kulprit` is not built")?, folder.path().join("kubectl-kulprit"))?;
        fs::write(folder.path().join("values.yaml"), values(node))?;
        Ok(Self { lab, cluster, folder })
    }

    /// `helm VERB kulprit CHART` with the values, and more words.
    fn helm(&self, verb: &str, words: &[&str]) -> Result<String> {
        let (chart, values) = (product::chart(), self.folder.path().join("values.yaml"));
        let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
        let line = [verb, "kulprit", &chart, "--namespace", NAMESPACE, "--values", &values];
        self.cluster.helm(&[&line[..], words].concat())
    }

    /// What `kubectl kulprit` prints.
    fn ask(&self, words: &[&str]) -> Result<String> {
        let mut command = self.lab.brief_command(self.folder.path().join("kubectl-kulprit"));
        command.args(words).env("KUBECONFIG", self.cluster.admin_config()).env_remove("KULPRIT_CENTRAL");
        shell::output(&mut command)
    }

    fn ask_json(&self, words: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(&[words, &["--output", "json"]].concat())?)?)
    }

    /// How many nodes report.
    fn n_reporting(&self) -> Result<usize> {
        let nodes = self.ask_json(&["nodes"])?;
        Ok(nodes["nodes"].as_array().into_iter().flatten().filter(|node| node["reporting"] == true).count())
    }

    fn node(&self, name: &str) -> Result<Value> {
        self.cluster.get(&["node", name])
    }

    /// Status and message of a condition of ours.
    fn condition(&self, node: &str, name: &str) -> Result<(String, String)> {
        let node = self.node(node)?;
        let all = node["status"]["conditions"].as_array().into_iter().flatten();
        let own = all.into_iter().find(|own| own["type"] == format!("kulprit.io/{name}"));
        let text = |key: &str| own.and_then(|own| own[key].as_str()).unwrap_or_default().to_owned();
        Ok((text("status"), text("message")))
    }

    /// The keys of our taints.
    fn taints(&self, node: &str) -> Result<BTreeSet<String>> {
        let node = self.node(node)?;
        let keys = node["spec"]["taints"].as_array().into_iter().flatten().filter_map(|taint| taint["key"].as_str());
        Ok(keys.filter(|key| key.starts_with("kulprit.io/")).map(ToOwned::to_owned).collect())
    }

    /// The sum of central's series that begin so, through the API server.
    fn metric(&self, series: &str) -> Result<f64> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/kulprit-central:metrics/proxy/metrics");
        let text = self.cluster.kubectl(&["get", "--raw", &path])?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(series))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
            .collect();
        ensure!(!values.is_empty(), "no {series} in:\n{text}");
        Ok(values.iter().sum())
    }

    /// The identifiers of all incidents, closed ones too.
    fn incidents(&self) -> Result<BTreeSet<String>> {
        let answer = self.ask_json(&["incidents", "--all"])?;
        let rows = answer["incidents"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().filter_map(|row| row["id"].as_str().map(ToOwned::to_owned)).collect())
    }

    /// What a command in the agent's container on a node prints.
    fn in_agent(&self, node: &str, words: &[&str]) -> Result<String> {
        let of_node = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        let get = ["get", "pods", "--namespace", NAMESPACE, "--selector=app.kubernetes.io/component=agent", &of_node];
        let pod = self.cluster.kubectl(&[&get[..], &["--output=name"]].concat())?;
        self.cluster.kubectl(&[&["exec", &pod, "--namespace", NAMESPACE, "--"], words].concat())
    }

    /// `kulprit-central cleanup`, as an administrator runs it.
    fn clean_up(&self) -> Result<Duration> {
        let clock = Stopwatch::start();
        let config = self.folder.path().join("cleanup.yaml");
        let kubeconfig = self.cluster.admin_config();
        let text = format!(
            "kubernetes: {{kubeconfig: {}}}\npublish: {{lease_namespace: {NAMESPACE}}}\n",
            kubeconfig.display()
        );
        fs::write(&config, text)?;
        let mut command = self.lab.brief_command(built_binary("kulprit-central").context("central is not built")?);
        let made = ["cleanup", "--secret=kulprit-central-tls", "--config-map=kulprit-central-ca"];
        shell::output(command.arg("--config").arg(config).args(made))?;
        Ok(clock.elapsed())
    }

    /// Waits until the pods that the chart wants are those that run, and are ready.
    fn wait_for_pods(&self) -> Result<Duration> {
        let clock = Stopwatch::start();
        for object in ["deployment/kulprit-central", "daemonset/kulprit-agent"] {
            let limit = format!("--timeout={}s", SOON.as_secs());
            self.cluster
                .kubectl(&["rollout", "status", object, "--namespace", NAMESPACE, &limit])
                .with_context(|| self.told())?;
        }
        Ok(clock.elapsed())
    }

    /// Where to look when something does not come.
    fn told(&self) -> String {
        let said = |words: &[&str]| self.cluster.kubectl(words).unwrap_or_else(|error| format!("{error:#}"));
        let log = |object: &str| said(&["logs", object, "--namespace", NAMESPACE, "--tail=20", "--prefix"]);
        format!(
            "{}\n{}\n{}\n{}",
            said(&["describe", "pods", "--namespace", NAMESPACE]),
            log("deployment/kulprit-central"),
            log("daemonset/kulprit-agent"),
            said(&["get", "events", "--namespace", NAMESPACE]),
        )
    }

    /// A local volume of the first node, as an administrator of a cluster without a storage driver makes one.
    fn make_volume(&self, node: &Node) -> Result<()> {
        fs::create_dir(node.root().join(STORE.trim_start_matches('/')))?;
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name()]});
        self.cluster.create(&json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "kulprit-store"},
            "spec": {
                "capacity": {"storage": "64Mi"},
                "accessModes": ["ReadWriteOnce"],
                "local": {"path": STORE},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }))
    }

    /// Whether a pod like those of a workload is let into a namespace.
    fn admit(&self, workload: &str, namespace: &str) -> Result<()> {
        let object = self.cluster.get(&[workload, "--namespace", NAMESPACE])?;
        let mut pod = object["spec"]["template"].clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = "asked".into();
        pod["spec"]["serviceAccountName"] = "default".into();
        // An account of the namespace it comes from, and nothing that Pod Security looks at.
        pod["spec"]["serviceAccount"] = "default".into();
        let file = self.folder.path().join("pod.json");
        fs::write(&file, pod.to_string())?;
        let file = file.to_string_lossy();
        self.cluster.kubectl(&["create", "--namespace", namespace, "--dry-run=server", "--filename", &file]).map(drop)
    }
}

/// Makes a namespace that Pod Security holds to a level.
fn make_namespace(cluster: &Cluster, name: &str, level: &str) -> Result<()> {
    cluster.ensure_namespace(name)?;
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    cluster.kubectl(&["label", "namespace", name, &label]).map(drop)
}

#[test]
fn it_is_installed_upgraded_and_uninstalled_in_a_real_cluster() -> Result<()> {
    let lab = Lab::open()?;
    let (cluster, nodes) = Cluster::start(&lab, &["n1", "n2"])?;
    let [first, _] = &nodes[..] else { anyhow::bail!("two nodes were started") };
    let kubevirt = KubeVirt::install(&cluster)?;
    for node in &nodes {
        kubevirt.adopt(node)?;
        cluster.serve_services(node)?;
    }
    // One that does not answer would be a fault of both nodes.
    let clock = Stopwatch::start();
    cluster.import_images(&nodes)?;
    report("images built and imported", clock.elapsed());
    let scene = Scene::new(&lab, &cluster, first)?;
    make_namespace(&cluster, NAMESPACE, "privileged")?;
    make_namespace(&cluster, "strict", "restricted")?;
    scene.make_volume(first)?;

    // Every plain manifest is one that the API server takes.
    let manifests = product::chart().join("../manifests/kulprit.yaml");
    let manifests = manifests.to_string_lossy();
    cluster.kubectl(&["apply", "--dry-run=server", "--filename", &manifests])?;

    let clock = Stopwatch::start();
    scene.helm("install", &[])?;
    let heard = wait_until("both nodes to report", SOON, || Ok(scene.n_reporting().is_ok_and(|n_nodes| n_nodes == 2)));
    heard.with_context(|| scene.told())?;
    report("install to first answer", clock.elapsed());
    scene.wait_for_pods()?;
    report("install to all pods ready", clock.elapsed());

    // Central keeps to `restricted`; agents cannot, and Pod Security would say so.
    scene.admit("deployment/kulprit-central", "strict")?;
    assert_contains(&failure(scene.admit("daemonset/kulprit-agent", "strict")), "violates PodSecurity");

    // What the host mounts later an agent sees, and what the host unmounts it does not hold.
    let script = "\
mkdir /mnt/later
mounts=/proc/$(pidof -s kulprit-agent)/mountinfo
mount -t tmpfs later /mnt/later
grep -q ' /host/mnt/later ' $mounts
umount /mnt/later
! grep ' /host/mnt/later ' $mounts
";
    first.run(&["sh", "-ec", script])?;

    // A VM of KubeVirt, whose launcher is a pod as well.
    let mut vm = kubevirt.create(VmSpec::new("prod", "db-0").grace_secs(1), Duration::ZERO)?;
    let launcher = cluster.launch(Launcher::define(first, "prod", "db-0")?.of_vmi(vm.vmi_uid()).non_root())?;
    vm.is_launched(&launcher)?;
    vm.is_handed_over()?;
    vm.runs()?;
    let runs = || {
        let answer = scene.ask_json(&["vms"])?;
        // Kubernetes has it there before anybody looked.
        let is_seen = |vm: &Value| vm["state"] == "running" || !vm["qemu_pid"].is_null();
        let is_it = |vm: &&Value| {
            (&vm["namespace"], &vm["name"], &vm["node"]) == (&"prod".into(), &"db-0".into(), &"n1".into())
                && is_seen(vm)
        };
        Ok(answer["vms"].as_array().into_iter().flatten().any(|vm| is_it(&vm)))
    };
    report(
        "the VM is seen",
        wait_until("the VM to be seen", SOON, runs).with_context(|| format!("{:?}", scene.ask(&["vms"])))?,
    );

    // A fault of a node becomes whatever the cluster's own tools look at, and goes with it.
    let of_kvm = || scene.condition("n1", "KvmUnavailable");
    let of_vms = || scene.condition("n1", "VirtStackUnresponsive");
    let is = |want: &'static str| {
        wait_until(&format!("KvmUnavailable to be {want}"), SOON, || Ok(of_kvm()?.0 == want))
            .with_context(|| format!("{:?}\n{}", of_kvm(), scene.told()))
    };
    report("first condition", is("False")?);
    let fault = KvmMissing::new(first)?;
    report("KvmUnavailable is True", is("True")?);
    let tainted = wait_until("the taint", SOON, || Ok(scene.taints("n1")?.contains("kulprit.io/kvm-unavailable")));
    report("tainted", tainted.with_context(|| scene.told())?);
    let (why, took) = wait_for("the verdict", SOON, || {
        // Exit status 3, something is unexplained, is an answer about the rest of this machine.
        let why = scene.ask(&["why", "node/n1"]).unwrap_or_else(|error| format!("{error:#}"));
        Ok(why.contains("KvmDeviceMissing").then_some(why))
    })?;
    report("verdict", took);
    println!("$ kubectl kulprit why node/n1\n{why}");
    println!("$ kubectl describe node n1\n{}", cluster.kubectl(&["describe", "node", "n1"])?);
    assert_contains(&why, "/dev/kvm");
    let named =
        wait_until("the incident in the message", SOON, || Ok(of_kvm()?.1.contains("KvmDeviceMissing, incident ")));
    named.with_context(|| format!("{:?}", of_kvm()))?;
    ensure!(
        scene.metric("kulprit_central_incidents_open{class=\"hypervisor\",cause=\"KvmDeviceMissing\"")? == 1.0,
        "{:?}",
        scene.incidents()
    );
    ensure!(scene.metric("kulprit_central_leading ")? == 1.0, "{}", scene.told());
    ensure!(scene.taints("n2")?.is_empty(), "{:?}", scene.taints("n2"));
    drop(fault);
    report("KvmUnavailable is False again", is("False")?);
    let freed = wait_until("the taint to go", SOON, || Ok(scene.taints("n1")?.is_empty()));
    report("free again", freed?);

    // What hangs under a VM is named on the VM and on its node.
    let hung = Hung::process(launcher.libvirt_pid().context("the launcher has a libvirt")?)?;
    let (why, took) = wait_for("the verdict of the VM", SOON, || {
        let why = scene.ask(&["why", "vm/db-0", "-n", "prod"]).unwrap_or_else(|error| format!("{error:#}"));
        Ok(why.contains("\n  LibvirtDaemonHung  ").then_some(why))
    })
    .with_context(|| format!("{:?}\n{}", scene.ask(&["why"]), scene.told()))?;
    report("verdict of the VM", took);
    println!("$ kubectl kulprit why vm/db-0 -n prod\n{why}");
    assert_contains(&why, "db-0");
    let described = || cluster.kubectl(&["describe", "vmi", "db-0", "--namespace", "prod"]);
    let told = wait_until("the Event", SOON, || Ok(described()?.contains("LibvirtDaemonHung")));
    report("described", told.with_context(|| format!("{:?}", described()))?);
    println!("$ kubectl describe vmi db-0 -n prod\n{}", described()?);
    wait_until("the node's condition", SOON, || Ok(of_vms()?.0 == "True"))
        .with_context(|| format!("{:?}", of_vms()))?;
    drop(hung);
    let went =
        wait_until("it to go", SOON, || Ok(of_vms()?.0 == "False")).with_context(|| format!("{:?}", of_vms()))?;
    report("the VM is well again", went);

    // An upgrade keeps what is known, and the other profile says what it cannot see.
    let known = scene.incidents()?;
    ensure!(!known.is_empty(), "no incident");
    let clock = Stopwatch::start();
    scene.helm("upgrade", &["--set", "agent.profile=restricted", "--set", "central.podAnnotations.upgraded=yes"])?;
    scene.wait_for_pods()?;
    let heard =
        wait_until("both nodes to report again", SOON, || Ok(scene.n_reporting().is_ok_and(|n_nodes| n_nodes == 2)));
    heard.with_context(|| scene.told())?;
    report("upgrade", clock.elapsed());
    let kept = scene.incidents()?;
    ensure!(known.is_subset(&kept), "{known:?} and {kept:?}");
    let gaps = ["the kernel's log", "without CAP_SYS_ADMIN", "without CAP_SYSLOG"];
    let page = || scene.ask(&["node", "n1"]);
    let says = wait_until("the gaps to be said", SOON, || {
        Ok(page().is_ok_and(|page| gaps.iter().all(|gap| page.contains(gap))))
    });
    says.with_context(|| format!("{:?}", page()))?;
    let page = page()?;
    ensure!(!page.contains("without CAP_SYS_PTRACE"), "{page}");
    ensure!(!page.contains("virtqemud-sock"), "the launcher's libvirt is reached: {page}");
    // Without central: over the agent's own socket, by the command in its image.
    let status = scene.in_agent("n1", &["kulprit", "status"])?;
    assert_contains(&status, "without CAP_SYS_ADMIN");
    let unseen = wait_until("KVM not to be seen", SOON, || Ok(of_kvm()?.0 == "Unknown"));
    report("restricted: KvmUnavailable is Unknown", unseen.with_context(|| format!("{:?}\n{page}", of_kvm()))?);

    ensure!(of_vms()?.0 != "True", "what an agent may not see is no fault: {:?}\n{}", of_vms(), scene.told());
    // What stays is central's to clean up, and history.
    cluster.helm(&["uninstall", "kulprit", "--namespace", NAMESPACE, "--wait"])?;
    let kinds = "all,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,\
                 clusterroles,clusterrolebindings,priorityclasses,persistentvolumeclaims";
    let label = "app.kubernetes.io/name=kulprit";
    let left = || cluster.kubectl(&["get", kinds, "--all-namespaces", "--selector", label, "--output=name"]);
    // History, and what central made itself.
    let stays = ["persistentvolumeclaim/kulprit-central", "configmap/kulprit-central-ca"];
    wait_until("the objects to go", SOON, || Ok(left()?.lines().all(|object| stays.contains(&object))))
        .with_context(|| format!("{:?}", left()))?;
    ensure!(!of_kvm()?.0.is_empty(), "central's marks stay until somebody takes them");
    report("cleaned up", scene.clean_up()?);
    for node in &nodes {
        let text = scene.node(node.name())?.to_string();
        ensure!(!text.contains("kulprit.io/"), "{text}");
    }
    let left = cluster.kubectl(&["get", "leases,secrets,configmaps", "--namespace", NAMESPACE, "--output=name"])?;
    ensure!(left == "configmap/kube-root-ca.crt", "{left}");
    Ok(())
}
