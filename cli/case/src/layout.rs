//! Which file of a case is what: the format of recorded cases, a must-gather, a sosreport, or several of the latter two together.
//!
//! Sources: `kubevirt/must-gather` (`collection-scripts/gather_nodes`, `gather_vms_details`), `oc adm inspect` for the folders of
//! namespaces and pods, `sos report` for `sos_commands/`.

use std::path::{Component, Path, PathBuf};

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Kubernetes objects.
    Objects,
    /// Kubernetes objects as they were over time, a change a line.
    Watch,
    /// A kernel log of a node.
    Kernel {
        /// The node.
        node: String,
    },
    /// A log of a unit of a node, or of several units together.
    Journal {
        /// The node.
        node: String,
        /// The unit without `.service`; empty for a mixed log.
        unit: String,
    },
    /// Output of `systemctl status` or `show`.
    Systemctl {
        /// The node.
        node: String,
        /// The unit.
        unit: String,
    },
    /// Output of a virsh command about a domain.
    Virsh {
        /// The node.
        node: String,
        /// `<namespace>_<name>`, or what the file is called.
        domain: String,
        /// For example `domstate`.
        command: String,
    },
    /// A log of libvirt.
    Libvirt {
        /// The node.
        node: String,
    },
    /// A QEMU log.
    Qemu {
        /// The node; empty if it is not told.
        node: String,
        /// `<namespace>_<name>`.
        domain: String,
    },
    /// Output of another command.
    Command {
        /// The node.
        node: String,
        /// What the file is called, without its ending.
        name: String,
    },
    /// A log of a container.
    Pod {
        /// Namespace.
        namespace: String,
        /// Pod.
        pod: String,
        /// Container; empty if it is not told.
        container: String,
    },
    /// Part of a captured file system: read through its root.
    Tree {
        /// The node.
        node: String,
    },
    /// Nothing that is read.
    Other,
}

/// How the files of a case lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A recorded case; the folder of its `case.yaml`.
    Case(PathBuf),
    /// A must-gather, sosreports, or both.
    Gathered {
        /// The folder of each sosreport, and its host's name as the folder is called.
        hosts: Vec<(PathBuf, String)>,
    },
}

/// The layout of these files; `None` if nothing tells what they are.
#[must_use]
pub fn recognise(files: &[PathBuf]) -> Option<Layout> {
    let manifest = files.iter().filter(|path| path.file_name().is_some_and(|name| name == "case.yaml"));
    // The one nearest to the top, if it is alone there.
    if let Some(path) = manifest.min_by_key(|path| path.components().count())
        && path.components().count() <= 2
    {
        return Some(Layout::Case(path.parent().map(Path::to_owned).unwrap_or_default()));
    }
    let mut hosts: Vec<(PathBuf, String)> = Vec::new();
    for path in files {
        if let Some(prefix) = prefix_before(path, "sos_commands")
            && hosts.iter().all(|(known, _)| *known != prefix)
        {
            let name = prefix.file_name().map(|name| host_of_sos(&name.to_string_lossy())).unwrap_or_default();
            hosts.push((prefix, name));
        }
    }
    let is_must_gather = files.iter().any(|path| {
        let names: Vec<_> = path.components().filter_map(normal).collect();
        names
            .iter()
            .position(|name| *name == "namespaces" || *name == "cluster-scoped-resources")
            .is_some_and(|at| at <= 3)
    });
    (is_must_gather || !hosts.is_empty()).then_some(Layout::Gathered { hosts })
}

/// `sosreport-worker-3-2024-05-01-abcdefg` → `worker-3`.
fn host_of_sos(folder: &str) -> String {
    let name = folder.strip_prefix("sosreport-").unwrap_or(folder);
    let words: Vec<&str> = name.split('-').collect();
    let is_year = |word: &&str| word.len() == 4 && word.starts_with("20") && word.chars().all(|c| c.is_ascii_digit());
    let until = words.iter().position(is_year).filter(|until| *until > 0).unwrap_or(words.len());
    words[..until].join("-")
}

fn normal<'a>(component: Component<'a>) -> Option<&'a str> {
    match component {
        Component::Normal(name) => name.to_str(),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
    }
}

fn prefix_before(path: &Path, folder: &str) -> Option<PathBuf> {
    let names: Vec<_> = path.components().collect();
    let at = names.iter().position(|name| name.as_os_str() == folder)?;
    Some(names[..at].iter().collect())
}

impl Layout {
    /// What a file is.
    #[must_use]
    pub fn part(&self, path: &Path) -> Part {
        match self {
            Self::Case(root) => {
                let Ok(path) = path.strip_prefix(root) else { return Part::Other };
                part_of_case(&path.components().filter_map(normal).collect::<Vec<_>>())
            }
            Self::Gathered { hosts } => {
                // The deepest: a sosreport inside a must-gather's folder is one.
                let host = hosts
                    .iter()
                    .filter(|(prefix, _)| path.starts_with(prefix))
                    .max_by_key(|(prefix, _)| prefix.as_os_str().len());
                if let Some((prefix, node)) = host {
                    let below = path.strip_prefix(prefix).unwrap_or(path);
                    return part_of_sos(&below.components().filter_map(normal).collect::<Vec<_>>(), node);
                }
                part_of_must_gather(&path.components().filter_map(normal).collect::<Vec<_>>())
            }
        }
    }
}

/// The file's name without its ending.
fn stem(name: &str) -> &str {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    [".log", ".txt", ".out"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

fn unit_of(name: &str) -> String {
    let name = stem(name);
    name.strip_suffix(".service").unwrap_or(name).to_owned()
}

fn is_object_file(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

fn part_of_case(names: &[&str]) -> Part {
    match names {
        ["cluster", .., name] if is_object_file(name) => Part::Objects,
        ["watch.jsonl"] => Part::Watch,
        ["pods", name] => pod_of(stem(name)),
        ["nodes", node, rest @ ..] => part_of_node(rest, (*node).to_owned()),
        _ => Part::Other,
    }
}

fn part_of_node(names: &[&str], node: String) -> Part {
    match names {
        ["kmsg.log" | "kmsg.txt" | "dmesg.log" | "dmesg.txt"] => Part::Kernel { node },
        ["ps.txt"] => Part::Command { node, name: "ps".to_owned() },
        ["journal", name] => Part::Journal { node, unit: unit_of(name) },
        ["systemctl", name] => Part::Systemctl { node, unit: unit_of(name) },
        ["libvirt", _] => Part::Libvirt { node },
        ["qemu", name] => Part::Qemu { node, domain: stem(name).to_owned() },
        ["virsh", name] => match name.rsplit_once('.') {
            Some((domain, command)) => Part::Virsh { node, domain: domain.to_owned(), command: command.to_owned() },
            None => Part::Command { node, name: (*name).to_owned() },
        },
        ["cmd", .., name] => Part::Command { node, name: stem(name).to_owned() },
        ["root", rest @ ..] => part_of_root(rest, node),
        _ => Part::Other,
    }
}

/// Below a captured `/`: logs are read as logs, everything else through the root.
fn part_of_root(names: &[&str], node: String) -> Part {
    match names {
        ["var", "log", "pods", pod, container, file] if file.contains(".log") => {
            let mut words = pod.splitn(3, '_');
            let (namespace, pod) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            Part::Pod { namespace: namespace.to_owned(), pod: pod.to_owned(), container: (*container).to_owned() }
        }
        ["var", "log", "libvirt", "qemu", name] => Part::Qemu { node, domain: stem(name).to_owned() },
        ["var", "log", "libvirt", _] => Part::Libvirt { node },
        ["var", "log", "kern.log" | "dmesg" | "kern.log.1"] => Part::Kernel { node },
        ["var", "log", name] if ["messages", "syslog", "audit.log"].iter().any(|log| name.starts_with(log)) => {
            Part::Journal { node, unit: String::new() }
        }
        ["var", "log", "audit", _] => Part::Journal { node, unit: String::new() },
        _ => Part::Tree { node },
    }
}

fn part_of_sos(names: &[&str], node: &str) -> Part {
    let node = node.to_owned();
    match names {
        ["sos_commands", "kernel", name] if name.starts_with("dmesg") => Part::Kernel { node },
        ["sos_commands", _, name] if name.starts_with("journalctl") => {
            let unit = name.split_once("--unit_").map_or("", |(_, unit)| unit);
            Part::Journal { node, unit: unit.to_owned() }
        }
        ["sos_commands", "systemd" | "services", name] if name.starts_with("systemctl_status_") => {
            Part::Systemctl { node, unit: unit_of(&name["systemctl_status_".len()..]) }
        }
        ["sos_commands", .., name] => Part::Command { node, name: stem(name).to_owned() },
        _ => part_of_root(names, node),
    }
}

fn part_of_must_gather(names: &[&str]) -> Part {
    let after = |folder: &str| names.iter().position(|name| *name == folder).map(|at| &names[at + 1..]);
    if let Some(rest) = after("namespaces") {
        return match rest {
            [namespace, "pods", pod, container, .., name] if name.ends_with(".log") || name.ends_with(".log.gz") => {
                Part::Pod {
                    namespace: (*namespace).to_owned(),
                    pod: (*pod).to_owned(),
                    container: (*container).to_owned(),
                }
            }
            [_, "vms", vm, name] if name.ends_with(".log") => {
                let _ = vm;
                Part::Qemu { node: String::new(), domain: stem(name).to_owned() }
            }
            [.., name] if is_object_file(name) => Part::Objects,
            _ => Part::Other,
        };
    }
    if let Some([.., name]) = after("cluster-scoped-resources")
        && is_object_file(name)
    {
        return Part::Objects;
    }
    match after("nodes") {
        Some([node, name]) => {
            let (node, name) = ((*node).to_owned(), *name);
            let journal = name.split_once("_logs_").map(|(_, unit)| unit);
            match journal {
                Some(unit) => Part::Journal { node, unit: unit_of(unit) },
                None if name.starts_with("dmesg") => Part::Kernel { node },
                None if is_object_file(name) => Part::Objects,
                None => Part::Command { node, name: stem(name).to_owned() },
            }
        }
        _ => Part::Other,
    }
}

/// `<namespace>_<pod>[_<container>[_…]]`: Kubernetes' names have no underscore.
fn pod_of(stem: &str) -> Part {
    let mut words = stem.split('_');
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (namespace, pod, container) = (next(), next(), next());
    if pod.is_empty() {
        return Part::Pod { namespace: String::new(), pod: namespace, container };
    }
    Part::Pod { namespace, pod, container }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[track_caller]
    fn check(files: &[&str], path: &str, want: Part) {
        let layout = recognise(&paths(files)).expect("recognised");
        assert_eq!(layout.part(Path::new(path)), want, "{path}");
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn a_recorded_case_is_read_by_its_format() {
        for (path, want) in [
            ("case.yaml", Part::Other),
            ("cluster/vms.yaml", Part::Objects),
            ("watch.jsonl", Part::Watch),
            ("cluster/watch.jsonl", Part::Other),
            ("cluster/notes.txt", Part::Other),
            ("nodes/n1/kmsg.log", Part::Kernel { node: text("n1") }),
            ("nodes/n1/journal/kubelet.log", Part::Journal { node: text("n1"), unit: text("kubelet") }),
            ("nodes/n1/systemctl/crio.service.txt", Part::Systemctl { node: text("n1"), unit: text("crio") }),
            (
                "nodes/n1/virsh/prod_db-0.domstate",
                Part::Virsh { node: text("n1"), domain: text("prod_db-0"), command: text("domstate") },
            ),
            ("nodes/n1/qemu/prod_db-0.log", Part::Qemu { node: text("n1"), domain: text("prod_db-0") }),
            ("nodes/n1/libvirt/virtqemud.log", Part::Libvirt { node: text("n1") }),
            ("nodes/n1/ps.txt", Part::Command { node: text("n1"), name: text("ps") }),
            ("nodes/n1/cmd/crictl.ps.txt", Part::Command { node: text("n1"), name: text("crictl.ps") }),
            ("nodes/n1/root/proc/stat", Part::Tree { node: text("n1") }),
            (
                "pods/prod_virt-launcher-a-x_compute.log",
                Part::Pod { namespace: text("prod"), pod: text("virt-launcher-a-x"), container: text("compute") },
            ),
            (
                "pods/kubevirt_virt-handler-a_virt-handler_1.log",
                Part::Pod { namespace: text("kubevirt"), pod: text("virt-handler-a"), container: text("virt-handler") },
            ),
            ("pods/alone.log", Part::Pod { namespace: text(""), pod: text("alone"), container: text("") }),
        ] {
            check(&["case.yaml"], path, want);
        }
    }

    #[test]
    fn a_case_one_folder_down_is_found() {
        check(&["x/case.yaml", "x/cluster/a.yaml"], "x/cluster/a.yaml", Part::Objects);
        check(&["x/case.yaml"], "y/cluster/a.yaml", Part::Other);
    }

    #[test]
    fn a_must_gather_is_recognised() {
        let files = &["mg/image/namespaces/prod/core/pods.yaml"];
        for (path, want) in [
            ("mg/image/namespaces/prod/core/pods.yaml", Part::Objects),
            ("mg/image/cluster-scoped-resources/core/nodes/n1.yaml", Part::Objects),
            (
                "mg/image/namespaces/prod/pods/virt-launcher-a-x/compute/compute/logs/current.log",
                Part::Pod { namespace: text("prod"), pod: text("virt-launcher-a-x"), container: text("compute") },
            ),
            ("mg/image/namespaces/prod/vms/a/prod_a.log", Part::Qemu { node: text(""), domain: text("prod_a") }),
            ("mg/image/nodes/n1/n1_logs_kubelet.gz", Part::Journal { node: text("n1"), unit: text("kubelet") }),
            ("mg/image/nodes/n1/dmesg", Part::Kernel { node: text("n1") }),
            ("mg/image/nodes/n1/lspci", Part::Command { node: text("n1"), name: text("lspci") }),
            ("mg/image/version", Part::Other),
        ] {
            check(files, path, want);
        }
    }

    #[test]
    fn a_sosreport_is_a_node() {
        let files = &["sosreport-worker-3-2024-05-01-abc/sos_commands/kernel/dmesg"];
        let node = || text("worker-3");
        for (path, want) in [
            ("sosreport-worker-3-2024-05-01-abc/sos_commands/kernel/dmesg", Part::Kernel { node: node() }),
            (
                "sosreport-worker-3-2024-05-01-abc/sos_commands/logs/journalctl_--no-pager",
                Part::Journal { node: node(), unit: text("") },
            ),
            (
                "sosreport-worker-3-2024-05-01-abc/sos_commands/filesys/df_-al",
                Part::Command { node: node(), name: text("df_-al") },
            ),
            ("sosreport-worker-3-2024-05-01-abc/proc/meminfo", Part::Tree { node: node() }),
            (
                "sosreport-worker-3-2024-05-01-abc/var/log/messages-20240501",
                Part::Journal { node: node(), unit: text("") },
            ),
            (
                "sosreport-worker-3-2024-05-01-abc/var/log/pods/prod_virt-launcher-a-x_1-2-3/compute/0.log",
                Part::Pod { namespace: text("prod"), pod: text("virt-launcher-a-x"), container: text("compute") },
            ),
        ] {
            check(files, path, want);
        }
        assert_eq!(host_of_sos("sosreport-n1-case1-2024-05-01-x"), "n1-case1");
        assert_eq!(host_of_sos("n1"), "n1");
    }

    #[test]
    fn anything_else_is_not_guessed() {
        assert_eq!(recognise(&paths(&["a.txt", "b/c.log", "deep/er/case.yaml"])), None);
    }
}
