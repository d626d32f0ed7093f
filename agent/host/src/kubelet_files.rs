//! How a kubelet is set up, from its command line and its files.
//!
//! Sources: `kubelet --help` (`--root-dir`, `--cpu-manager-policy`), `/var/lib/kubelet/{cpu,memory}_manager_state` and the kubelet's
//! configuration file (`KubeletConfiguration`, v1beta1, YAML or JSON) with its drop-ins.

mod certificate;
mod k3s;
mod plugins;
mod pods;

pub use certificate::{
    ClientCertificate, KubeconfigCertificate, Validity, parse_certificate_validity, parse_kubeconfig_certificate,
    read_client_certificate,
};
pub use k3s::{hides_arguments, parse_kubelet_arg, read_k3s_args};
pub use plugins::{PluginSocket, device_plugin_folder, read_device_plugins};
pub use pods::{PodFolders, PodLeftover, read_pod_folders};

use serde_json::Value;

use crate::{HostRoot, Malformed, ReadError};

/// Where KubeVirt expects the kubelet's files. Source: KubeVirt `pkg/util/util.go`.
pub const KUBELET_ROOT: &str = "/var/lib/kubelet";

/// What a kubelet's arguments say; also those that k3s and rke2 pass on as `--kubelet-arg=key=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeletArgs {
    /// `--root-dir`, without a slash at its end.
    pub root_dir: Option<String>,
    /// `--config`.
    pub config: Option<String>,
    /// `--config-dir`.
    pub config_dir: Option<String>,
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

/// What a kubelet's configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeletConfig {
    /// `cpuManagerPolicy`.
    pub cpu_manager_policy: Option<String>,
    /// `memoryManagerPolicy`.
    pub memory_manager_policy: Option<String>,
    /// `DevicePlugins` of its `featureGates`.
    pub device_plugins: Option<String>,
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
        config_dir: value("config-dir"),
        cpu_manager_policy: value("cpu-manager-policy"),
        feature_gates: value("feature-gates"),
    }
}

/// The policy that a resource manager of the kubelet's has written down. `None` when the text is not its state file.
pub fn parse_manager_state(text: &str) -> Option<String> {
    let state: Value = serde_json::from_str(text).ok()?;
    Some(state.get("policyName")?.as_str()?.to_owned())
}

/// Reads a file of the kubelet's or of k3s's, YAML or JSON; `Null` for one without a word.
fn parse_yaml(text: &str) -> Result<Value, Malformed> {
    let says_something = |line: &str| !line.is_empty() && !line.starts_with('#') && line != "---";
    if !text.lines().map(str::trim).any(says_something) {
        return Ok(Value::Null);
    }
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    // What the file holds is not for logs.
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        Malformed::new(usize::try_from(line).unwrap_or(1), "neither YAML nor JSON")
    })
}

/// The first value of a key that is no list and no map, at any depth. `None` when there is none, or it is null or empty.
fn find_scalar(json: &Value, key: &str) -> Option<String> {
    match json {
        Value::Object(fields) => match fields.get(key) {
            Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => Some(value.to_string()),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => {
                fields.values().find_map(|value| find_scalar(value, key))
            }
        },
        Value::Array(values) => values.iter().find_map(|value| find_scalar(value, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// Reads a kubelet's configuration, or a drop-in of it.
///
/// # Errors
/// When it is not YAML.
pub fn parse_kubelet_config(text: &str) -> Result<KubeletConfig, Malformed> {
    let config = parse_yaml(text)?;
    let value = |key| find_scalar(&config, key);
    Ok(KubeletConfig {
        cpu_manager_policy: value("cpuManagerPolicy"),
        memory_manager_policy: value("memoryManagerPolicy"),
        device_plugins: value("DevicePlugins"),
    })
}

/// The kubelet's configuration file with its drop-ins merged over it; `None` where it has neither.
///
/// Drop-ins are the files `*.conf` of `--config-dir`, the last of them wins. Source: kubelet `cmd/kubelet/app/server.go`
/// (`mergeKubeletConfigurations`).
///
/// # Errors
/// See [`ReadError`]; `NotFound` when its arguments name what is not there.
pub fn read_kubelet_config(root: &HostRoot, args: &KubeletArgs) -> Result<Option<KubeletConfig>, ReadError> {
    let parse = |path: &str, text: String| parse_kubelet_config(&text).map_err(|bad| bad.at(root.display_path(path)));
    let read = |path: &str| parse(path, root.read_text(path)?);
    let file = match &args.config {
        Some(path) => Some(read(path)?),
        None => {
            let usual = format!("{}/config.yaml", args.root_dir.as_deref().unwrap_or(KUBELET_ROOT));
            root.read_text_if_any(&usual)?.map(|text| parse(&usual, text)).transpose()?
        }
    };
    let Some(folder) = &args.config_dir else { return Ok(file) };
    let mut merged = file.unwrap_or_default();
    for name in root.list(folder)? {
        let name = name.to_string_lossy();
        if name.ends_with(".conf") {
            let KubeletConfig { cpu_manager_policy, memory_manager_policy, device_plugins } =
                read(&format!("{folder}/{name}"))?;
            merged = KubeletConfig {
                cpu_manager_policy: cpu_manager_policy.or(merged.cpu_manager_policy),
                memory_manager_policy: memory_manager_policy.or(merged.memory_manager_policy),
                device_plugins: device_plugins.or(merged.device_plugins),
            };
        }
    }
    Ok(Some(merged))
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
    config: Option<&KubeletConfig>,
    manager: ResourceManager,
) -> Result<ManagerPolicies, ReadError> {
    let (flag, of_config, none, file) = match manager {
        ResourceManager::Cpu => {
            (&args.cpu_manager_policy, config.map(|config| &config.cpu_manager_policy), "none", "cpu_manager_state")
        }
        ResourceManager::Memory => (
            &args.memory_manager_policy,
            config.map(|config| &config.memory_manager_policy),
            "None",
            "memory_manager_state",
        ),
    };
    let root_dir = args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    let state = root.read_text_if_any(format!("{root_dir}/{file}"))?;
    let or_none = |policy: &Option<String>| policy.clone().unwrap_or_else(|| none.to_owned());
    Ok(ManagerPolicies {
        told: flag.clone().or_else(|| of_config.map(or_none)),
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
            let policies = read_manager_policies(&root, &args, config.as_ref(), manager).unwrap();
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

    /// As EKS has it: `/etc/kubernetes/kubelet/config.json`, and nodeadm's `config.json.d`.
    #[test]
    fn a_configuration_may_be_json_and_the_last_drop_in_wins() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        std::fs::create_dir(dir.path().join("k.d")).unwrap();
        let write = |path: &str, text: &str| std::fs::write(dir.path().join(path), text).unwrap();
        let read = |text: &str| read_kubelet_config(&root, &args(text));
        let policy = |text: &str| read(text).unwrap().unwrap().cpu_manager_policy;
        write(
            "k",
            "{\n  \"kind\": \"KubeletConfiguration\",\n  \"featureGates\": {\"DevicePlugins\": false},\n  \"cpuManagerPolicy\": \"static\"\n}\n",
        );
        let gate = read("kubelet --config=/k").unwrap().unwrap().device_plugins;
        assert_eq!((policy("kubelet --config=/k").as_deref(), gate.as_deref()), (Some("static"), Some("false")));
        write("k", "cpuManagerPolicy: none\n");
        write("k.d/20-b.conf", "\"cpuManagerPolicy\": 'static'\n");
        write("k.d/10-a.conf", r#"{"cpuManagerPolicy":"none"}"#);
        write("k.d/30-c.conf", "cpuManagerPolicy: null\n");
        write("k.d/40-d.yaml", "cpuManagerPolicy: none\n");
        let with_folder = "kubelet --config=/k --config-dir /k.d";
        assert_eq!(policy(with_folder).as_deref(), Some("static"));
        let policies = |text: &str| {
            let args = args(text);
            let config = read_kubelet_config(&root, &args).unwrap();
            read_manager_policies(&root, &args, config.as_ref(), ResourceManager::Cpu).unwrap().told.unwrap()
        };
        assert_eq!(policies(&format!("{with_folder} --cpu-manager-policy=none")), "none", "the command line wins");
        write("k.d/50-e.conf", "# a secret\ncpuManagerPolicy: {secret\n");
        assert!(matches!(read(with_folder).unwrap_err(), ReadError::Malformed { .. }));
        for gone in ["kubelet --config=/k --config-dir=/gone", "kubelet --config=/gone"] {
            assert!(read(gone).unwrap_err().is_not_found(), "{gone}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(words in proptest::collection::vec("(--)?(kubelet-arg=?)?(root-dir=?)?\\PC{0,8}", 0..6)) {
            let _ = parse_kubelet_args(&words);
            let _ = parse_manager_state(&words.concat());
            let _ = parse_kubelet_config(&words.concat());
        }
    }
}
