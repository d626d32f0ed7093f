//! How a kubelet is set up, from its command line and its files.
//!
//! Sources: `kubelet --help` (`--root-dir`, `--cpu-manager-policy`), `/var/lib/kubelet/{cpu,memory}_manager_state` and the kubelet's
//! configuration file (`KubeletConfiguration`, v1beta1), of which only plain `key: value` lines are read.

mod certificate;
mod plugins;
mod pods;

pub use certificate::{
    ClientCertificate, KubeconfigCertificate, Validity, parse_certificate_validity, parse_kubeconfig_certificate,
    read_client_certificate,
};
pub use plugins::{PluginSocket, device_plugin_folder, read_device_plugins};
pub use pods::{PodFolders, PodLeftover, read_pod_folders};

use serde_json::Value;

use crate::{HostRoot, ReadError};

/// Where KubeVirt expects the kubelet's files. Source: KubeVirt `pkg/util/util.go`.
pub const KUBELET_ROOT: &str = "/var/lib/kubelet";

/// What a kubelet's arguments say; also those that k3s and rke2 pass on as `--kubelet-arg=key=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeletArgs {
    /// `--root-dir`, without a slash at its end.
    pub root_dir: Option<String>,
    /// `--config`.
    pub config: Option<String>,
    /// `--cpu-manager-policy`.
    pub cpu_manager_policy: Option<String>,
    /// `--memory-manager-policy`.
    pub memory_manager_policy: Option<String>,
    /// `--feature-gates`, as written.
    pub feature_gates: Option<String>,
    /// `--kubeconfig`.
    pub kubeconfig: Option<String>,
    /// `--cert-dir`, without a slash at its end.
    pub cert_dir: Option<String>,
}

/// A resource manager of the kubelet's that keeps a state file, and does not start when that was written under another policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceManager {
    /// The CPU manager.
    Cpu,
    /// The memory manager.
    Memory,
}

/// The policy of a resource manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerPolicies {
    /// What the kubelet is told; `None` where not known.
    pub told: Option<String>,
    /// What its state file says; `None` where there is none.
    pub written: Option<String>,
}

/// Reads the arguments of a kubelet.
pub fn parse_kubelet_args(args: &[String]) -> KubeletArgs {
    let value = |name: &str| {
        let mut rest = args.iter().skip(1);
        while let Some(arg) = rest.next() {
            let arg = arg.trim_start_matches('-');
            let arg = match arg {
                "kubelet-arg" => rest.next()?.trim_start_matches('-'),
                arg => arg.strip_prefix("kubelet-arg=").unwrap_or(arg),
            };
            match arg.split_once('=') {
                Some((key, value)) if key == name => return Some(value.trim_matches('"').to_owned()),
                None if arg == name => return rest.next().cloned(),
                _ => {}
            }
        }
        None
    };
    let folder = |name| value(name).map(|path| path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
    KubeletArgs {
        root_dir: folder("root-dir"),
        cert_dir: folder("cert-dir"),
        kubeconfig: value("kubeconfig"),
        memory_manager_policy: value("memory-manager-policy"),
        config: value("config"),
        cpu_manager_policy: value("cpu-manager-policy"),
        feature_gates: value("feature-gates"),
    }
}

/// The policy that a resource manager of the kubelet's has written down. `None` when the text is not its state file.
pub fn parse_manager_state(text: &str) -> Option<String> {
    let state: Value = serde_json::from_str(text).ok()?;
    Some(state.get("policyName")?.as_str()?.to_owned())
}

/// The value of a plain `key: value` line of a kubelet's configuration, without quotes. `None` when there is none.
pub fn parse_kubelet_config_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'))?;
    let value = line.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The kubelet's configuration file; `None` where there is none.
///
/// # Errors
/// See [`ReadError`]; never `NotFound`.
pub fn read_kubelet_config(root: &HostRoot, args: &KubeletArgs) -> Result<Option<String>, ReadError> {
    let root_dir = args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    root.read_text_if_any(args.config.clone().unwrap_or_else(|| format!("{root_dir}/config.yaml")))
}

/// The policy of a resource manager: as the kubelet is told to have it, and as its state file says.
///
/// Without a word about it in its configuration the kubelet has none.
///
/// # Errors
/// See [`ReadError`]; never `NotFound`.
pub fn read_manager_policies(
    root: &HostRoot,
    args: &KubeletArgs,
    config: Option<&str>,
    manager: ResourceManager,
) -> Result<ManagerPolicies, ReadError> {
    let (flag, key, none, file) = match manager {
        ResourceManager::Cpu => (&args.cpu_manager_policy, "cpuManagerPolicy", "none", "cpu_manager_state"),
        ResourceManager::Memory => (&args.memory_manager_policy, "memoryManagerPolicy", "None", "memory_manager_state"),
    };
    let root_dir = args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    let state = root.read_text_if_any(format!("{root_dir}/{file}"))?;
    let of_config = |text| parse_kubelet_config_value(text, key).unwrap_or_else(|| none.to_owned());
    Ok(ManagerPolicies {
        told: flag.clone().or_else(|| config.map(of_config)),
        written: state.as_deref().and_then(parse_manager_state),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args(text: &str) -> KubeletArgs {
        parse_kubelet_args(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_root_folder_is_found_in_every_notation() {
        for text in [
            "/usr/bin/kubelet --root-dir=/data/kubelet/",
            "/usr/bin/kubelet --v=2 --root-dir /data/kubelet",
            "/usr/bin/k3s agent --kubelet-arg=root-dir=/data/kubelet",
            "/usr/bin/k3s server --kubelet-arg root-dir=/data/kubelet",
        ] {
            assert_eq!(args(text).root_dir.as_deref(), Some("/data/kubelet"), "{text}");
        }
        assert_eq!(args("/usr/bin/kubelet --config=/etc/kubernetes/kubelet.yaml").root_dir, None);
    }

    #[test]
    fn the_policy_that_was_told_and_the_one_that_was_written_down_are_read_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let read = |text: &str, manager| {
            let args = args(text);
            let config = read_kubelet_config(&root, &args).unwrap();
            let policies = read_manager_policies(&root, &args, config.as_deref(), manager).unwrap();
            (policies.told, policies.written)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("kubelet", ResourceManager::Cpu), (None, None));
        let files = dir.path().join("var/lib/kubelet");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("cpu_manager_state"), r#"{"policyName":"none","defaultCpuSet":"","checksum":1}"#)
            .unwrap();
        std::fs::write(files.join("memory_manager_state"), r#"{"policyName":"Static","machineState":{}}"#).unwrap();
        std::fs::write(
            files.join("config.yaml"),
            "kind: KubeletConfiguration\ncpuManagerPolicy: \"static\" # pinned\n",
        )
        .unwrap();
        assert_eq!(read("kubelet", ResourceManager::Cpu), (some("static"), some("none")));
        assert_eq!(read("kubelet", ResourceManager::Memory), (some("None"), some("Static")));
        let told = read("kubelet --cpu-manager-policy=none", ResourceManager::Cpu).0;
        assert_eq!(told, some("none"), "the command line wins");
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(words in proptest::collection::vec("(--)?(kubelet-arg=?)?(root-dir=?)?\\PC{0,8}", 0..6)) {
            let _ = parse_kubelet_args(&words);
            let _ = parse_manager_state(&words.concat());
            let _ = parse_kubelet_config_value(&words.concat(), "key");
        }
    }
}
