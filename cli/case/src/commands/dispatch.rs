//! Which command an output is of, and who reads it.

use kulprit_host::command::{
    self, Section, block, files, filter, network, open_files, parse_transcript, runtime, system,
};
use kulprit_judge::Verdict;
use kulprit_judge::command::{machine, network as judge_network, node, storage};
use kulprit_model::{FindingCode, Moment};

use super::{Asked, reach, read_ps, read_systemctl, read_virsh, settle_kubelet};
use crate::gathered::Gathered;
use crate::logs::{LogSource, Readers, read_log};

/// Names that say nothing of a fault, or that are read from the captured tree.
const SILENT: &[&str] =
    &["date", "uptime", "hostname", "uname", "ghost", "runlibvirt", "losetup", "tasks", "whoami", "id", "env", "nproc"];
/// Names that have a reader of their own.
const KNOWN: &[&str] = &[
    "df",
    "mount",
    "mounts",
    "findmnt",
    "lsmod",
    "modules",
    "ss",
    "ping",
    "ip",
    "nft",
    "iptables",
    "sysctl",
    "lsblk",
    "multipath",
    "drbdadm",
    "dmsetup",
    "crictl",
    "timedatectl",
    "chronyc",
    "healthz",
    "dev",
];
/// Outputs whose error lines are read too: they tell of a mount or a daemon that does not answer.
const WITH_ERRORS: &[&str] = &["df", "mount", "crictl", "virsh", "multipath", "rbd", "drbdadm", "iscsiadm", "nvme"];

/// Reads the output of any command. `name` is what the file is called, without its ending.
pub fn read_command(name: &str, text: &str, asked: Asked<'_>, readers: &mut Readers, out: &mut Gathered) {
    let sections = parse_transcript(text);
    let mounts = files::parse_mounts(text);
    let own: Vec<String> = network::parse_links(text)
        .into_iter()
        .flat_map(|link| link.addresses)
        .map(|address| address.split('/').next().unwrap_or_default().to_owned())
        .collect();
    for Section { command, body } in &sections {
        let called = command.unwrap_or(name);
        read_section(called, command.is_some(), body, (asked, &mounts), readers, out);
    }
    for Section { command, body } in &sections {
        let image = command.and_then(|command| command.split_whitespace().rfind(|word| word.contains('/')));
        let image = image.and_then(|image| image.rsplit('/').next());
        let watchers = block::parse_rbd_watchers(body).unwrap_or_default();
        out.verdicts.extend(storage::judge_rbd_watchers(asked.at(), image, &watchers, &own));
    }
    out.verdicts.extend(device_numbers(asked.at(), &sections));
}

/// `stat` of a descriptor, and of the device that it should be: only where the text has one name to compare with.
fn device_numbers(at: Moment, sections: &[Section<'_>]) -> Option<Verdict> {
    let stats: Vec<(&str, (u32, u32))> = sections
        .iter()
        .filter_map(|Section { command, body }| {
            let command = command.filter(|command| command.contains("stat "))?;
            Some((command.split_whitespace().next_back()?, open_files::parse_device_number(body)?))
        })
        .collect();
    let is_descriptor = |path: &str| path.starts_with("/proc/") && path.contains("/fd/");
    let (descriptors, names): (Vec<_>, Vec<_>) = stats.into_iter().partition(|(path, _)| is_descriptor(path));
    let ([(descriptor, held)], [(name, today)]) = (descriptors.as_slice(), names.as_slice()) else { return None };
    let pid = descriptor.split('/').nth(2)?.parse().ok()?;
    Some(storage::judge_device_numbers(at, pid, *held, name, *today))
}

/// A listing of open files, if it is one: by its rows, and not only by its name.
fn open_files_of(called: &str, body: &str) -> Option<(Vec<open_files::OpenFile>, bool)> {
    let mut files = open_files::parse_open_files(body);
    let is_listing =
        called.contains("/fd") || called.contains("fds") || called.contains("lsof") || body.contains("/fd/");
    if files.is_empty() || !(is_listing || files.iter().any(|file| file.is_deleted)) {
        return None;
    }
    // `ls -l /proc/318/fd` names the process once, above its rows.
    let pid = called.split_once("/proc/").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    for file in &mut files {
        file.pid = file.pid.or(pid);
    }
    Some((files, called.contains("qemu")))
}

fn read_section(
    called: &str,
    is_typed: bool,
    body: &str,
    (asked, mounts): (Asked<'_>, &[files::MountRow]),
    readers: &mut Readers,
    out: &mut Gathered,
) {
    let words = words(called, is_typed);
    let has = |name: &str| words.iter().any(|word| word == name);
    if has("virsh") {
        let sub = ["domstate", "domjobinfo", "domcontrol", "dominfo", "dumpxml", "domblkerror", "list"];
        let command = sub.into_iter().find(|sub| has(sub)).unwrap_or("virsh");
        let command = if command == "domjobinfo" && has("completed") { "domjobinfo-completed" } else { command };
        // `virsh domstate prod_db-0 --reason`.
        let domain = called.split_whitespace().rfind(|word| word.contains('_')).unwrap_or_default();
        return read_virsh(domain, command, body, asked, readers, out);
    }
    if has("systemctl") {
        let unit = words
            .iter()
            .rev()
            .find(|word| !matches!(word.as_str(), "systemctl" | "status" | "show" | "cat" | "service"));
        return read_systemctl(unit.map_or("unit", String::as_str), body, asked, readers, out);
    }
    let is_log =
        ["dmesg", "journalctl", "journal", "log", "logs", "messages", "syslog", "kmsg"].iter().any(|name| has(name));
    if !is_log {
        if let Some((files, of_qemu)) = open_files_of(called, body) {
            out.verdicts.extend(storage::judge_open_files(asked.at(), &files, of_qemu));
            return;
        }
        let of_backends = reach::read(asked.at(), called, &words, body, mounts);
        let is_answered = !of_backends.is_empty();
        if is_answered {
            out.looked.insert("volumes");
        }
        out.verdicts.extend(of_backends);
        if let Some(verdicts) = by_name(asked.at(), called, &words, body, out) {
            out.verdicts.extend(verdicts);
            settle_kubelet(out);
            if WITH_ERRORS.iter().any(|name| has(name)) {
                read_errors(called, body, asked, readers, out);
            }
            return;
        }
        if is_answered {
            return;
        }
        // Known, and nothing that its reader knows: an error of a line or two, mostly that the program is not there.
        let is_known = KNOWN.iter().any(|name| has(name));
        if is_known && (command::parse_failure(body).is_some() || body.lines().count() <= 3) {
            if WITH_ERRORS.iter().any(|name| has(name)) {
                read_errors(called, body, asked, readers, out);
            }
            return;
        }
        if SILENT.iter().any(|name| has(name)) {
            return;
        }
        if has("ps") || (!is_typed && command::ps::parse_ps(body).is_some()) {
            return read_ps(body, asked, out);
        }
        if let Some(verdicts) = by_contents(asked.at(), body, out) {
            out.verdicts.extend(verdicts);
            return;
        }
    }
    let name =
        if has("dmesg") { "dmesg".to_owned() } else { words.first().cloned().unwrap_or_else(|| called.to_owned()) };
    read_log(body.as_bytes(), asked.file, &LogSource::Command(name), asked.clock, readers, out);
}

/// The words of a file's name, or of a command line without what only carries it (`sudo`, `chroot /host`, `kubectl exec … --`).
fn words(called: &str, is_typed: bool) -> Vec<String> {
    let called = if is_typed { called.split_once(" -- ").map_or(called, |(_, inner)| inner) } else { called };
    let cut = |letter: char| !(letter.is_ascii_alphanumeric() || (is_typed && "-./".contains(letter)));
    called
        .split(|letter: char| cut(letter))
        .filter(|word| !word.is_empty())
        .map(|word| word.rsplit('/').next().unwrap_or(word).to_ascii_lowercase())
        .collect()
}

fn read_errors(called: &str, body: &str, asked: Asked<'_>, readers: &mut Readers, out: &mut Gathered) {
    let is_error = |line: &&str| {
        let words =
            ["error", "cannot", "failed", "Stale", "denied", "refused", "timed out", "not connected", "Input/output"];
        let is_text = words.iter().any(|word| line.contains(word)) && line.contains(": ");
        // What is said of a mount is a state of it, and not said twice.
        is_text && reach::failures(asked.at(), line, &[]).is_empty()
    };
    let lines: Vec<&str> = body.lines().filter(is_error).take(200).collect();
    if !lines.is_empty() {
        let source = LogSource::Command(called.split(' ').next().unwrap_or(called).to_owned());
        read_log(lines.join("\n").as_bytes(), asked.file, &source, asked.clock, readers, out);
    }
}

/// The reader that the name calls for; `None` when there is none, or the output is not what it reads.
fn by_name(at: Moment, called: &str, words: &[String], body: &str, out: &mut Gathered) -> Option<Vec<Verdict>> {
    let has = |name: &str| words.iter().any(|word| word == name);
    let look = |out: &mut Gathered, probe| {
        out.looked.insert(probe);
    };
    if has("df") {
        return Some(reach::read_df(at, called, &files::parse_df(body)?, out));
    }
    if has("mount") || has("mounts") || has("findmnt") {
        return Some(storage::judge_mounts(at, &files::parse_mounts(body)));
    }
    if has("lsmod") || has("modules") {
        return Some(node::judge_modules(at, &system::parse_lsmod(body)?));
    }
    if has("ss") {
        let is_migrators = has("handler") || has("qemu") || has("launcher") || has("libvirt");
        let sockets = network::parse_ss(body)?;
        // A namespace's links stand below its sockets; they are a pod's, not the node's.
        return Some(judge_network::judge_sockets(at, &sockets, is_migrators));
    }
    if has("ping") || has("ping6") {
        return Some(pings(at, body, out));
    }
    if has("ip") || has("ifconfig") {
        look(out, "network");
        return Some(judge_network::judge_links(at, &network::parse_links(body)));
    }
    if has("nft") || has("iptables") || has("ip6tables") {
        let source = if has("nft") { "nft" } else { "iptables" };
        return Some(judge_network::judge_filter(at, &filter::parse_filter_rules(body)?, source));
    }
    if has("sysctl") || has("sysctls") {
        return Some(node::judge_sysctl(at, &system::parse_sysctl(body)));
    }
    if has("lsblk") {
        return Some(storage::judge_block_tree(at, "lsblk", &block::parse_lsblk(body)?));
    }
    if has("multipath") || has("multipathd") {
        return Some(storage::judge_multipath(at, &block::parse_multipath(body)));
    }
    if has("drbdadm") || has("drbd") || has("drbdsetup") {
        return Some(storage::judge_drbd(at, "drbdadm", &block::parse_drbd_status(body)));
    }
    if has("dmsetup") {
        return Some(storage::judge_thin_pools(at, &block::parse_thin_pools(body)));
    }
    if has("crictl") {
        return crictl(at, body, out);
    }
    if has("timedatectl") || has("chronyc") || has("chrony") {
        return Some(node::judge_clock(at, system::parse_clock_state(body)?));
    }
    if has("healthz") || (has("curl") && body.trim_start().starts_with("ok")) {
        look(out, "kubelet");
        return Some(node::judge_healthz(at, "kubelet.service", system::parse_healthz(body)?));
    }
    if has("nested") {
        look(out, "kvm");
        return Some(vec![machine::judge_nested(at, system::parse_nested(body)?)]);
    }
    if has("plugins") || called.contains("device-plugins") {
        let sockets = system::parse_device_plugins(body)?;
        return Some(machine::judge_device_plugins(at, &sockets).into_iter().collect());
    }
    if has("dev") || has("ls") {
        let is_missing = body.lines().any(|line| line.contains("/dev/kvm") && line.contains("No such file"));
        return Some(node::judge_kvm_node(at, &system::parse_device_nodes(body), is_missing));
    }
    if has("free") {
        return Some(machine::judge_free(at, system::parse_free(body)?).into_iter().collect());
    }
    if has("getenforce") || has("sestatus") {
        look(out, "security");
        return Some(vec![machine::judge_selinux(at, system::parse_selinux_mode(body)?)]);
    }
    if has("lspci") {
        let is_picked = called.split_whitespace().any(|word| matches!(word, "-s" | "-d" | "-nnks" | "-ks"));
        return Some(machine::judge_pci(at, &system::parse_lspci(body), is_picked).into_iter().collect());
    }
    if has("virt-host-validate") || (has("host") && has("validate")) {
        return Some(machine::judge_host_checks(at, &system::parse_host_checks(body)));
    }
    if let Some(verdict) = certificate(at, called, body) {
        look(out, "kubelet-setup");
        return Some(vec![verdict]);
    }
    // Read, and of no weight by themselves.
    let is_known = ["openssl", "rbd", "route"].iter().any(|name| has(name));
    is_known.then(Vec::new)
}

/// The dates of the certificate with which the kubelet goes to the API server; not those of others, nor of its own server.
fn certificate(at: Moment, called: &str, body: &str) -> Option<Verdict> {
    let (not_before, not_after) = system::parse_certificate_dates(body)?;
    let is_kubelet = called.contains("kubelet") || body.contains("system:node:");
    let is_server =
        ["server", "serving", "kubelet.crt", "apiserver", "kubelet-ca"].iter().any(|word| called.contains(word));
    (is_kubelet && !is_server).then(|| machine::judge_kubelet_certificate(at, not_before, not_after))
}

/// All pings of the node judged anew: small and large packets are mostly sent by two calls, into two files.
fn pings(at: Moment, body: &str, out: &mut Gathered) -> Vec<Verdict> {
    let is_state_of_pings = |verdict: &Verdict| {
        matches!(verdict, Verdict::State(state)
            if matches!(state.code, FindingCode::NetworkUnreachable | FindingCode::MtuMismatch)
                && state.evidence.first().is_none_or(|line| line.source == "ping"))
    };
    if !out.pings.is_empty() {
        out.verdicts.retain(|verdict| !is_state_of_pings(verdict));
    }
    out.pings.extend(network::parse_pings(body));
    judge_network::judge_pings(at, &out.pings)
}

/// A runtime that answers, or does not.
fn crictl(at: Moment, body: &str, out: &mut Gathered) -> Option<Vec<Verdict>> {
    let unit = if body.contains("crio") || body.contains("cri-o") { "crio.service" } else { "containerd.service" };
    let failure = command::parse_failure(body);
    let info = runtime::parse_crictl_info(body);
    let is_answer = info.is_some() || runtime::parse_crictl_table(body).is_some() || body.contains("RuntimeApiVersion");
    let is_images = body.lines().next().is_some_and(|line| line.starts_with("IMAGE "));
    if failure.is_none() && !is_answer && !is_images {
        return None;
    }
    out.looked.insert("runtime");
    // A failing part of an answer is no failing runtime: warnings about other endpoints stand above good tables.
    let failure = failure.filter(|_| !is_answer && !is_images);
    let mut verdicts = node::judge_runtime_call(at, unit, failure);
    if let Some(info) = info {
        verdicts.extend(node::judge_runtime_info(at, unit, &info));
    }
    Some(verdicts)
}

/// What an output shows itself to be. `ps` is tried before.
fn by_contents(at: Moment, body: &str, out: &mut Gathered) -> Option<Vec<Verdict>> {
    let head = body.lines().find(|line| !line.trim().is_empty())?;
    let name = match () {
        () if head.trim_start().starts_with("Filesystem ") => "df",
        () if head.starts_with("Module ") => "lsmod",
        () if head.starts_with("NAME ") && head.contains("MAJ:MIN") => "lsblk",
        () if head.contains("Local Address") => "ss",
        () if head.trim_start().starts_with("QEMU: Checking") => "virt-host-validate",
        () if head.starts_with("PING ") => "ping",
        () if head.starts_with("1: lo: <") => "ip",
        () if head.starts_with("table ") && head.ends_with('{') => "nft",
        () if head.starts_with("# Generated by iptables") || head.starts_with("*filter") => "iptables",
        () if head.starts_with("CONTAINER ") || head.starts_with("POD ID ") => "crictl",
        () if head.contains(" on / type ") || head.starts_with("proc /proc proc ") => "mount",
        () if head.trim_start().starts_with("Local time:") || head.starts_with("Reference ID") => "timedatectl",
        () if system::parse_sysctl(body).len() > 3 && head.contains(" = ") => "sysctl",
        () => return None,
    };
    by_name(at, name, &[name.to_owned()], body, out)
}
