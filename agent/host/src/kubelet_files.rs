//! How a kubelet is set up, from its command line and its files.
//!
//! Sources: `kubelet --help` (`--root-dir`, `--cpu-manager-policy`), `/var/lib/kubelet/cpu_manager_state` and the kubelet's
//! configuration file (`KubeletConfiguration`, v1beta1), of which only plain `key: value` lines are read.

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
    /// `--feature-gates`, as written.
    pub feature_gates: Option<String>,
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
    let root_dir = value("root-dir").map(|path| path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty());
    KubeletArgs {
        root_dir,
        config: value("config"),
        cpu_manager_policy: value("cpu-manager-policy"),
        feature_gates: value("feature-gates"),
    }
}

/// The CPU manager's policy that the kubelet has written down. `None` when the text is not its state file.
pub fn parse_cpu_manager_state(text: &str) -> Option<String> {
    let state: Value = serde_json::from_str(text).ok()?;
    Some(state.get("policyName")?.as_str()?.to_owned())
}

/// The value of a plain `key: value` line of a kubelet's configuration, without quotes. `None` when there is none.
pub fn parse_kubelet_config_value(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(':'))?;
    let value = line.split(" #").next().unwrap_or_default().trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The CPU manager's policy: as the kubelet is told to have it, and as its state file says.
///
/// Either is `None` where it was not saved; without a word about it the kubelet's default is `none`.
///
/// # Errors
/// See [`ReadError`]; never `NotFound`.
pub fn read_cpu_manager_policies(
    root: &HostRoot,
    args: &KubeletArgs,
) -> Result<(Option<String>, Option<String>), ReadError> {
    let root_dir = args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    let state = root.read_text_if_any(format!("{root_dir}/cpu_manager_state"))?;
    let told = match &args.cpu_manager_policy {
        Some(policy) => Some(policy.clone()),
        None => {
            let path = args.config.clone().unwrap_or_else(|| format!("{root_dir}/config.yaml"));
            let config = root.read_text_if_any(path)?;
            config
                .map(|text| parse_kubelet_config_value(&text, "cpuManagerPolicy").unwrap_or_else(|| "none".to_owned()))
        }
    };
    Ok((told, state.as_deref().and_then(parse_cpu_manager_state)))
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
        assert_eq!(read_cpu_manager_policies(&root, &args("kubelet")).unwrap(), (None, None));
        let files = dir.path().join("var/lib/kubelet");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("cpu_manager_state"), r#"{"policyName":"none","defaultCpuSet":"","checksum":1}"#)
            .unwrap();
        std::fs::write(
            files.join("config.yaml"),
            "kind: KubeletConfiguration\ncpuManagerPolicy: \"static\" # pinned\n",
        )
        .unwrap();
        let (told, written) = read_cpu_manager_policies(&root, &args("kubelet")).unwrap();
        assert_eq!((told.as_deref(), written.as_deref()), (Some("static"), Some("none")));
        let (told, _) = read_cpu_manager_policies(&root, &args("kubelet --cpu-manager-policy=none")).unwrap();
        assert_eq!(told.as_deref(), Some("none"), "the command line wins");
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(words in proptest::collection::vec("(--)?(kubelet-arg=?)?(root-dir=?)?\\PC{0,8}", 0..6)) {
            let _ = parse_kubelet_args(&words);
            let _ = parse_cpu_manager_state(&words.concat());
            let _ = parse_kubelet_config_value(&words.concat(), "key");
        }
    }
}
