//! The kubelet's arguments on a node of k3s, which has the kubelet in its own process and overwrites its command line: that may hold
//! passwords.
//!
//! They stand in k3s's unit and in its configuration, as `kubelet-arg`. Sources: k3s `pkg/proctitle`, `pkg/configfilearg/parser.go`,
//! `install.sh`. What these files hold is not for logs: of their text no error says a word.

use serde_json::Value;

use super::{KubeletArgs, parse_kubelet_args, parse_yaml};
use crate::{HostRoot, Malformed, ReadError};

/// Where k3s's configuration is unless it is told another place; its drop-ins are in `config.yaml.d`.
const USUAL_CONFIG: &str = "/etc/rancher/k3s/config.yaml";
/// Where units of an administrator are, and the one that k3s's installer writes.
const UNITS: &str = "etc/systemd/system";
const QUOTES: [char; 2] = ['"', '\''];

/// The program that has overwritten its own command line, such as `k3s`; `None` where the command line shows the arguments.
pub fn hides_arguments(command_line: &[String]) -> Option<&str> {
    let title = command_line.first()?;
    let path = title.strip_suffix(" agent").or_else(|| title.strip_suffix(" server"))?;
    path.rsplit('/').next()
}

/// The arguments of the kubelet of the k3s in `unit`, and why some of them may be missing.
pub fn read_k3s_args(root: &HostRoot, unit: &str) -> (KubeletArgs, Option<ReadError>) {
    let (flags, no_unit) = apart(read_unit_flags(root, unit));
    let config = values(&flags, &["--config", "-c"]).pop();
    let (configured, no_config) = apart(read_config(root, config.as_deref()));
    // The last one counts, and the command line comes after the configuration.
    let told = configured.into_iter().chain(values(&flags, &["--kubelet-arg"]));
    let mut words: Vec<String> = told.map(|arg| format!("--{}", arg.trim_start_matches('-'))).collect();
    words.push("kubelet".to_owned());
    words.reverse();
    (parse_kubelet_args(&words), no_unit.or(no_config))
}

fn apart(read: Result<Vec<String>, ReadError>) -> (Vec<String>, Option<ReadError>) {
    match read {
        Ok(words) => (words, None),
        Err(error) => (Vec::new(), Some(error)),
    }
}

/// The values of a flag, in their order.
fn values(flags: &[String], names: &[&str]) -> Vec<String> {
    let value = |(idx, flag): (usize, &String)| match flag.split_once('=') {
        Some((name, value)) if names.contains(&name) => Some(value.to_owned()),
        None if names.contains(&flag.as_str()) => flags.get(idx + 1).cloned(),
        Some(_) | None => None,
    };
    flags.iter().enumerate().filter_map(value).collect()
}

/// The words of the command that the unit, or the last drop-in that has one, starts.
fn read_unit_flags(root: &HostRoot, unit: &str) -> Result<Vec<String>, ReadError> {
    let path = format!("{UNITS}/{unit}");
    let mut started = parse_exec_start(&root.read_text(&path)?);
    for drop_in in root.drop_ins(&format!("{path}.d"), &[".conf"])? {
        started = parse_exec_start(&root.read_text(&drop_in)?).or(started);
    }
    let is_plain = |words: &Vec<String>| !words.iter().any(|word| word.contains('$'));
    let malformed = || Malformed::new(1, "no command whose flags are plain").at(root.display_path(&path));
    started.filter(is_plain).ok_or_else(malformed)
}

/// The words of the last `ExecStart=` of a unit, without quotes.
fn parse_exec_start(text: &str) -> Option<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let mut commands = text.lines().rev().filter_map(|line| line.trim().strip_prefix("ExecStart="));
    let command = commands.find(|command| !command.is_empty())?;
    Some(command.split_whitespace().map(|word| word.trim_matches(QUOTES).to_owned()).collect())
}

/// The `kubelet-arg` of k3s's configuration: a later file replaces it, and adds to it where it says `kubelet-arg+`.
fn read_config(root: &HostRoot, path: Option<&str>) -> Result<Vec<String>, ReadError> {
    let mut args = Vec::new();
    let usual = path.unwrap_or(USUAL_CONFIG);
    let drop_ins = root.drop_ins(&format!("{usual}.d"), &[".yaml", ".yml"])?;
    for path in std::iter::once(usual.to_owned()).chain(drop_ins) {
        let Some(text) = root.read_text_if_any(&path)? else { continue };
        for (is_more, list) in parse_kubelet_arg(&text).map_err(|bad| bad.at(root.display_path(&path)))? {
            match is_more {
                true => args.extend(list),
                false => args = list,
            }
        }
    }
    Ok(args)
}

/// The `kubelet-arg` of a configuration of k3s's, and whether each adds to those of the files before.
///
/// # Errors
/// When it is not YAML, or one is neither a text nor a list of texts.
pub fn parse_kubelet_arg(text: &str) -> Result<Vec<(bool, Vec<String>)>, Malformed> {
    let config = parse_yaml(text)?;
    let mut found = Vec::new();
    for (key, is_more) in [("kubelet-arg", false), ("kubelet-arg+", true)] {
        let texts = match config.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(texts)) => texts.as_slice(),
            Some(text) => std::slice::from_ref(text),
        };
        let texts: Option<Vec<String>> = texts.iter().map(|text| text.as_str().map(str::to_owned)).collect();
        found.push((is_more, texts.ok_or_else(|| Malformed::new(1, format!("`{key}` is no list of texts")))?));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_title_in_the_place_of_a_command_line_is_told_apart() {
        let hides = |words: &[&str]| {
            hides_arguments(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).map(str::to_owned)
        };
        assert_eq!(hides(&["/usr/local/bin/k3s agent"]).as_deref(), Some("k3s"));
        assert_eq!(hides(&["/usr/local/bin/rke2 server", "", ""]).as_deref(), Some("rke2"));
        assert_eq!(hides(&["/usr/local/bin/k3s", "server", "--kubelet-arg=v=2"]), None);
        assert_eq!(hides(&[]), None);
    }

    #[track_caller]
    fn check(text: &str, want: Option<&[&str]>) {
        let said =
            parse_kubelet_arg(text).map(|found| found.into_iter().flat_map(|(_, list)| list).collect::<Vec<_>>());
        assert_eq!(
            said.ok().as_deref(),
            want.map(|want| want.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()).as_deref(),
            "{text}"
        );
    }

    #[test]
    fn kubelet_arg_is_read_in_every_form_and_none_is_guessed() {
        check(
            "token: x\nkubelet-arg:\n  # why\n  - \"root-dir=/data\"\n\n  - v=2 # loud\nnode-label:\n  - a=b\n",
            Some(&["root-dir=/data", "v=2"]),
        );
        check("kubelet-arg:\n- root-dir=/data\nkubelet-arg+:\n- 'v=2'\n", Some(&["root-dir=/data", "v=2"]));
        check(
            r#""kubelet-arg": ["feature-gates=A=true,B=true", "v=2"]"#,
            Some(&["feature-gates=A=true,B=true", "v=2"]),
        );
        check("kubelet-arg: root-dir=/data\n", Some(&["root-dir=/data"]));
        check("", Some(&[]));
        check("kubelet-arg: [root-dir=/data]\n", Some(&["root-dir=/data"]));
        check("{\"kubelet-arg\": [\"v=2\"]}\n", Some(&["v=2"]));
        check("kubelet-arg:\n  - >-\n    root-dir=/data\n", Some(&["root-dir=/data"]));
        check("kubelet-arg: *args\n", None);
        check("kubelet-arg: {root-dir: /data}\n", None);
    }

    #[test]
    fn the_unit_comes_after_the_configuration_and_what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = || {
            let (args, missing) = read_k3s_args(&root, "k3s.service");
            (args.root_dir, missing.map(|error| error.to_string()))
        };
        let (args, missing) = read();
        assert!(args.is_none() && missing.unwrap().contains("etc/systemd/system/k3s.service"));
        let some = |text: &str| Some(text.to_owned());
        let unit = |flags: &str| {
            let text = format!(
                "[Service]\nExecStartPre=-/sbin/modprobe overlay $X\nExecStart=/usr/local/bin/k3s \\\n    server \\\n{flags}\n\n"
            );
            write("etc/systemd/system/k3s.service", &text);
        };
        unit("");
        assert_eq!(read(), (None, None));
        write("etc/rancher/k3s/config.yaml", "kubelet-arg:\n- root-dir=/a\n- root-dir=/b\n");
        assert_eq!(read(), (some("/b"), None));
        write("etc/rancher/k3s/config.yaml.d/10.yaml", "kubelet-arg+: [\"v=2\"]\n");
        assert_eq!(read(), (some("/b"), None));
        write("etc/rancher/k3s/config.yaml.d/20.yml", "kubelet-arg: v=3\n");
        assert_eq!(read(), (None, None), "replaced");
        unit("\t'--config' \\\n\t'/etc/other.yaml' \\\n\t'--kubelet-arg=root-dir=/c' \\\n");
        write("etc/other.yaml", "kubelet-arg: root-dir=/d\n");
        assert_eq!(read(), (some("/c"), None));
        unit("\t$FLAGS");
        let (args, missing) = read();
        assert!(args.is_none() && missing.is_some());
        write("etc/rancher/k3s/config.yaml.d/20.yml", "token: secret\nkubelet-arg: [root-dir=secret\n");
        unit("");
        let (_, missing) = read();
        let missing = missing.unwrap();
        assert!(missing.contains("20.yml") && !missing.contains("secret"), "{missing}");
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(text in "(kubelet-arg[+]?:|- |\\PC{0,4}|\n| |\\[|\\\\\n|ExecStart=){0,12}") {
            let _ = (parse_kubelet_arg(&text), parse_exec_start(&text));
        }
    }
}
