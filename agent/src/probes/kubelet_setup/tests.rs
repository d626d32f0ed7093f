//! On three layouts of a node, written as their tools leave them: kubeadm, k3s, OpenShift; well, broken, unreadable.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kulprit_model::Status::{self, Absent, Present, Unknown};
use kulprit_model::attribute;

use super::*;
use crate::look::Look;
use crate::probes::testing::{Probe as Under, status_of};

const PEM: &str = include_str!("../../../host/fixtures/kubelet/client.pem");
const UID: &str = "bf9425ec-5840-4979-be30-4f8fba039b75";

/// A node with a kubelet that runs.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new(comm: &str, args: &[&str], cgroup: &str) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        node.start_kubelet(70, comm, args, cgroup);
        node
    }

    /// `kubeadm` 1.36 with containerd and cgroups v1.
    fn kubeadm() -> Self {
        let args = [
            "/usr/bin/kubelet",
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--kubeconfig=/etc/kubernetes/kubelet.conf",
            "--config=/var/lib/kubelet/config.yaml",
            "--node-ip=10.0.0.1",
        ];
        let node =
            Self::new("kubelet", &args, "11:pids:/system.slice/kubelet.service\n0::/system.slice/kubelet.service\n");
        let user = "users:\n- name: default-auth\n  user:\n    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n";
        node.write("etc/kubernetes/kubelet.conf", user);
        node.write("var/lib/kubelet/pki/kubelet-client-current.pem", PEM);
        node.write("var/lib/kubelet/config.yaml", "kind: KubeletConfiguration\ncpuManagerPolicy: static\n");
        node.write("var/lib/kubelet/cpu_manager_state", r#"{"policyName":"static"}"#);
        node.write("var/lib/kubelet/memory_manager_state", r#"{"policyName":"None"}"#);
        node.plugins(&["kubelet.sock", "kubevirt-kvm.sock", "kubevirt-tun.sock"]);
        node.pod(&format!("memory/kubepods/burstable/pod{UID}/{}", "a1".repeat(32)), &["kubernetes.io~csi/pvc-1"]);
        node
    }

    /// k3s 1.36: the kubelet is in the agent's process, its flags are not on the command line.
    fn k3s() -> Self {
        let node = Self::new("k3s-agent", &["/usr/local/bin/k3s agent"], "0::/system.slice/k3s-agent.service\n");
        node.write(
            "etc/systemd/system/k3s-agent.service",
            "[Service]\nExecStart=/usr/local/bin/k3s \\\n    agent \\\n\n",
        );
        node.write("var/lib/rancher/k3s/agent/client-kubelet.crt", PEM);
        node.plugins(&["kubelet.sock", "kubevirt-kvm.sock"]);
        node.pod(&format!("kubepods/besteffort/pod{UID}/{}", "a1".repeat(32)), &["kubernetes.io~empty-dir/private"]);
        node
    }

    /// OpenShift 4.21 with CRI-O and cgroups v2.
    fn openshift() -> Self {
        let args = ["kubelet", "--config=/etc/kubernetes/kubelet.conf", "--kubeconfig=/var/lib/kubelet/kubeconfig"];
        let node = Self::new("kubelet", &args, "0::/system.slice/kubelet.service\n");
        node.write("etc/kubernetes/kubelet.conf", "kind: KubeletConfiguration\nsystemCgroups: /system.slice\n");
        let user = "users:\n- user:\n    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem\n";
        node.write("var/lib/kubelet/kubeconfig", user);
        node.write("var/lib/kubelet/pki/kubelet-client-current.pem", PEM);
        node.write("var/lib/kubelet/cpu_manager_state", r#"{"policyName":"none"}"#);
        node.plugins(&["kubelet.sock", "kubevirt-kvm.sock"]);
        let uid = UID.replace('-', "_");
        let slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable";
        node.pod(&format!("{slice}-pod{uid}.slice/crio-{}.scope", "a1".repeat(32)), &["kubernetes.io~csi/pvc-1"]);
        node
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn start_kubelet(&self, start: u64, comm: &str, args: &[&str], cgroup: &str) {
        let zeros = "0 ".repeat(15);
        self.write("proc/7/stat", &format!("7 ({comm}) S 1 1 1 {zeros}{start} {}\n", "0 ".repeat(30)));
        self.write("proc/7/cmdline", &format!("{}\0", args.join("\0")));
        self.write("proc/7/cgroup", cgroup);
    }

    fn plugins(&self, names: &[&str]) {
        let _ = std::fs::remove_dir_all(self.dir.path().join("var/lib/kubelet/device-plugins"));
        std::fs::create_dir_all(self.dir.path().join("var/lib/kubelet/device-plugins")).unwrap();
        self.write("var/lib/kubevirt-node-labeller/supported_features.xml", "");
        for name in names {
            self.write(&format!("var/lib/kubelet/device-plugins/{name}"), "");
        }
    }

    fn pod(&self, container: &str, volumes: &[&str]) {
        std::fs::create_dir_all(self.dir.path().join("sys/fs/cgroup").join(container)).unwrap();
        let pod = self.dir.path().join("var/lib/kubelet/pods").join(UID);
        std::fs::create_dir_all(pod.join("containers/compute")).unwrap();
        for volume in volumes {
            std::fs::create_dir_all(pod.join("volumes").join(volume)).unwrap();
        }
    }

    fn remove(&self, path: impl AsRef<Path>) {
        std::fs::remove_dir_all(self.dir.path().join(path)).unwrap();
    }

    async fn look(&self) -> Look {
        self.look_with(|_| ()).await
    }

    async fn look_with(&self, change: impl FnOnce(&mut ProbeContext)) -> Look {
        Under::once_with(&SPEC, HostRoot::new(self.dir.path()), |context| {
            context.config = config(self.dir.path());
            change(context);
        })
        .await
    }
}

fn config(root: &Path) -> std::sync::Arc<crate::probes::ProbeConfig> {
    crate::probes::ProbeConfig { procfs: root.join("proc"), ..Default::default() }.into()
}

use FindingCode::{
    DevicePluginMissing, KubeletCertificateExpired, KubeletMisconfigured, KubeletRestarted, OrphanedPodVolumes,
};

fn n_restarts(look: &Look) -> usize {
    let is_restart = |verdict: &&Verdict| matches!(verdict, Verdict::Occurrence(said) if said.code == KubeletRestarted);
    look.verdicts.iter().filter(is_restart).count()
}

fn what_of(look: &Look, code: FindingCode) -> Option<String> {
    look.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code => state.attributes.get(attribute::WHAT).map(str::to_owned),
        Verdict::State(_) | Verdict::Occurrence(_) => None,
    })
}

/// Whether the certificate of the fixture, which is valid for one day, is still valid.
fn certificate_status() -> Status {
    let now = kulprit_daemon::Clock::kernel().now().wall_usec;
    if (1_795_271_750_000_000..1_795_271_750_000_000 + 86_400 * 1_000_000).contains(&now) { Absent } else { Present }
}

#[tokio::test]
async fn three_layouts_of_a_node_are_well() {
    for (node, unit) in [
        (Node::kubeadm(), "kubelet.service"),
        (Node::k3s(), "k3s-agent.service"),
        (Node::openshift(), "kubelet.service"),
    ] {
        let look = node.look().await;
        for code in [KubeletMisconfigured, DevicePluginMissing, OrphanedPodVolumes] {
            assert_eq!(status_of(&look, code), Some(Absent), "{unit} {code}: {look:?}");
        }
        assert_eq!(status_of(&look, KubeletCertificateExpired), Some(certificate_status()), "{unit}");
        let of_unit =
            |verdict: &&Verdict| matches!(verdict, Verdict::State(state) if state.subject == Subject::unit(unit));
        assert_eq!(look.verdicts.iter().filter(of_unit).count(), 2, "{look:?}");
        assert_eq!(look.position.as_deref(), Some("7@70"));
    }
}

#[tokio::test]
async fn a_host_without_a_kubelet_has_nothing_to_say() {
    let empty = tempfile::tempdir().unwrap();
    std::fs::create_dir(empty.path().join("proc")).unwrap();
    let look =
        Under::once_with(&SPEC, HostRoot::new(empty.path()), |context| context.config = config(empty.path())).await;
    assert_eq!((look.verdicts.len(), look.blind_because), (0, None));
}

#[tokio::test]
async fn kubelet_misconfigured_is_seen_also_when_it_does_not_come_up() {
    let node = Node::kubeadm();
    node.write("var/lib/kubelet/memory_manager_state", r#"{"policyName":"Static"}"#);
    node.remove("proc/7");
    let look = node.look().await;
    assert_eq!(status_of(&look, KubeletMisconfigured), Some(Present));
    assert_eq!(what_of(&look, KubeletMisconfigured).as_deref(), Some("memory-manager-state"));
    let node = Node::kubeadm();
    node.start_kubelet(70, "kubelet", &["kubelet", "--root-dir=/data/kubelet"], "0::/\n");
    assert_eq!(what_of(&node.look().await, KubeletMisconfigured).as_deref(), Some("root-dir"));
}

#[tokio::test]
async fn a_policy_in_json_or_in_a_drop_in_is_no_contradiction() {
    let node = Node::kubeadm();
    let flags = ["kubelet", "--config=/etc/k/config.json", "--config-dir=/etc/k/config.json.d"];
    node.start_kubelet(70, "kubelet", &flags, "0::/\n");
    node.write("etc/k/config.json", "{\n  \"cpuManagerPolicy\": \"static\"\n}\n");
    std::fs::create_dir(node.dir.path().join("etc/k/config.json.d")).unwrap();
    assert_eq!(status_of(&node.look().await, KubeletMisconfigured), Some(Absent));
    node.write("etc/k/config.json", "{}");
    assert_eq!(what_of(&node.look().await, KubeletMisconfigured).as_deref(), Some("cpu-manager-state"));
    node.write("etc/k/config.json.d/40-nodeadm.conf", r#"{"cpuManagerPolicy": "static"}"#);
    assert_eq!(status_of(&node.look().await, KubeletMisconfigured), Some(Absent));
    node.write("etc/k/config.json.d/50.conf", "{cpuManagerPolicy");
    let look = node.look().await;
    assert_eq!(status_of(&look, KubeletMisconfigured), Some(Unknown));
    assert!(format!("{look:?}").contains("config.json.d/50.conf"), "{look:?}");
}

#[tokio::test]
async fn flags_that_are_not_on_the_command_line_are_read_elsewhere_or_unknown() {
    let node = Node::k3s();
    node.write("etc/rancher/k3s/config.yaml", "kubelet-arg: [\"root-dir=/data\"]\n");
    assert_eq!(what_of(&node.look().await, KubeletMisconfigured).as_deref(), Some("root-dir"));
    node.remove("etc/rancher");
    node.remove("etc/systemd");
    let look = node.look().await;
    assert_eq!(status_of(&look, KubeletMisconfigured), Some(Unknown));
    assert!(format!("{look:?}").contains("etc/systemd/system/k3s-agent.service"), "{look:?}");
    node.start_kubelet(70, "rke2", &["/usr/bin/rke2 agent"], "0::/system.slice/rke2-agent.service\n");
    assert_eq!(status_of(&node.look().await, KubeletMisconfigured), Some(Unknown));
}

#[tokio::test]
async fn device_plugin_missing_is_said_where_kubevirt_is() {
    let node = Node::kubeadm();
    node.plugins(&["kubelet.sock"]);
    assert_eq!(status_of(&node.look().await, DevicePluginMissing), Some(Present));
    node.remove("var/lib/kubevirt-node-labeller");
    assert_eq!(status_of(&node.look().await, DevicePluginMissing), None, "KubeVirt was never here");
    node.write(
        "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
        r#"{"Data":{"RegisteredDevices":{"devices.kubevirt.io/kvm":["kvm0"]}}}"#,
    );
    assert_eq!(status_of(&node.look().await, DevicePluginMissing), Some(Present), "the kubelet knows it");
    node.plugins(&[]);
    assert_eq!(status_of(&node.look().await, DevicePluginMissing), Some(Unknown), "no kubelet, no plugins");
}

#[tokio::test]
async fn orphaned_pod_volumes_are_those_of_a_pod_without_a_container() {
    let node = Node::openshift();
    node.remove("sys/fs/cgroup/kubepods.slice");
    assert_eq!(status_of(&node.look().await, OrphanedPodVolumes), Some(Unknown), "no cgroup to compare with");
    std::fs::create_dir_all(node.dir.path().join("sys/fs/cgroup/kubepods.slice")).unwrap();
    assert_eq!(status_of(&node.look().await, OrphanedPodVolumes), Some(Present));
}

#[tokio::test]
async fn kubelet_restarted_is_told_once_for_each_start() {
    let node = Node::kubeadm();
    // Long ago, as a clock that is not at zero shows: the first look finds it running.
    let recent = (kulprit_daemon::Clock::kernel().now().boottime_usec / TICK_USEC).unsigned_abs().saturating_sub(6_000);
    let restart =
        |start| node.start_kubelet(start, "kubelet", &["/usr/bin/kubelet"], "0::/system.slice/kubelet.service\n");
    restart(recent);
    let look = node.look().await;
    assert_eq!(n_restarts(&look), 1, "a minute ago");
    let told = look.position.clone();
    let again = node.look_with(|context| context.start_at = told).await;
    assert_eq!(n_restarts(&again), 0, "an agent that starts anew has told it");

    let mut probe = Under::start_with(&SPEC, HostRoot::new(node.dir.path()), |context| {
        context.config = config(node.dir.path());
    });
    probe.look().await;
    restart(recent + 1);
    node.plugins(&["kubelet.sock"]);
    let look = probe.look_until(|look| n_restarts(look) > 0).await;
    assert_eq!(n_restarts(&look), 1, "seen by the folder of device plugins");
    probe.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_unknown_and_says_which_file() {
    let node = Node::kubeadm();
    node.write(
        "var/lib/kubelet/pki/kubelet-client-current.pem",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
    );
    let device_plugins = node.dir.path().join("var/lib/kubelet/device-plugins");
    std::fs::remove_dir_all(&device_plugins).unwrap();
    std::fs::write(&device_plugins, "").unwrap();
    let look = node.look().await;
    assert_eq!(status_of(&look, KubeletCertificateExpired), Some(Unknown));
    assert!(format!("{look:?}").contains("kubelet-client-current.pem"), "{look:?}");
    assert_eq!(look.blind_because, None);
    let node = Node::kubeadm();
    let state = node.dir.path().join("var/lib/kubelet/cpu_manager_state");
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(status_of(&node.look().await, KubeletMisconfigured), Some(Unknown));
}
