//! What commands printed on a node: `systemctl`, `virsh`, `ps`, `df` and others, into findings.
//!
//! The file's name or the prompt tells which command it was, else its contents do; an output that nobody knows is read as a log.
//! An output is a look at the moment of asking, so its states are of that moment; an output that is only an error is a look too,
//! at the daemon that did not answer.

mod dispatch;
mod reach;

use std::path::Path;

use kulprit_host::command::virsh::{self, DomainXml};
use kulprit_host::command::{self, job, ps, units};
use kulprit_host::log::Clock;
use kulprit_host::qemu::parse_command_line;
use kulprit_judge::command::domain::{Call, judge_block_errors, judge_control, judge_daemon, judge_state};
use kulprit_judge::command::{node, tasks};
use kulprit_judge::said::vm_of_domain;
use kulprit_judge::{StateVerdict, Verdict};
use kulprit_model::{Disk, Domain, FindingCode, Moment, Qemu, Status, Subject};

use crate::gathered::{Gathered, LauncherSeen, Problem};
use crate::logs::{LogSource, Readers, moment, read_log};

pub use dispatch::read_command;

/// A file of a command's output, and the moment it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The file, relative to the case.
    pub file: &'a Path,
    /// The clock of its node; its `at_usec` is the moment of asking.
    pub clock: Clock,
}

impl Asked<'_> {
    /// The moment of asking on the node's clocks.
    #[must_use]
    pub fn at(&self) -> Moment {
        moment(self.clock, self.clock.at_usec)
    }

    fn problem(&self, why: impl Into<String>) -> Problem {
        Problem { file: self.file.to_owned(), line: None, why: why.into() }
    }
}

/// `systemctl status` or `show` of a unit, with the journal lines that `status` prints below.
pub fn read_systemctl(unit: &str, text: &str, asked: Asked<'_>, readers: &mut Readers, out: &mut Gathered) {
    let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    let at = asked.at();
    let mut seen = units::parse_units(&unit, text, asked.clock.at_usec);
    if seen.is_empty() {
        let why = command::parse_failure(text).map_or("holds no unit's state", |(_, line)| line);
        out.problems.push(asked.problem(why));
    }
    for unit in &mut seen {
        // Wall time is what the output tells; the judge counts on the clock of `at`.
        unit.state_change_monotonic_usec = unit.state_change_usec.and_then(|usec| {
            let usec = i64::try_from(usec).ok()?;
            u64::try_from(usec.saturating_sub(at.wall_usec).saturating_add(at.boottime_usec)).ok()
        });
        if node::is_kubelet_unit(&unit.name) {
            out.looked.insert("kubelet");
            // The tree of its processes, `└─1290 /usr/bin/kubelet --config=…`, or `ExecStart=` of `systemctl cat`.
            let lines = text.lines().filter_map(|line| line.find("/kubelet ").map(|at| &line[at + 1..]));
            out.verdicts.extend(lines.filter_map(|line| tasks::kubelet_setup(at, &unit.name, line)).take(1));
        }
        if node::is_runtime_unit(&unit.name) {
            out.looked.insert("runtime");
        }
        out.verdicts.extend(node::judge_unit(at, unit));
    }
    settle_kubelet(out);
    let journal = text.split_once("\n\n").map_or("", |(_, journal)| journal);
    let is_journal = |line: &str| kulprit_host::log::parse_stamp(line, asked.clock.at_usec).is_some();
    if journal.lines().any(is_journal) {
        read_log(journal.as_bytes(), asked.file, &LogSource::Unit(unit), asked.clock, readers, out);
    }
}

/// A kubelet that does not run fails its health endpoint too: that is no second fault.
fn settle_kubelet(out: &mut Gathered) {
    let is_present = |verdict: &Verdict, code| matches!(verdict, Verdict::State(state) if state.code == code && state.status == Status::Present);
    if !out.verdicts.iter().any(|verdict| is_present(verdict, FindingCode::KubeletInactive)) {
        return;
    }
    for verdict in &mut out.verdicts {
        if is_present(verdict, FindingCode::KubeletHealthzFailing)
            && let Verdict::State(state) = verdict
        {
            *state = StateVerdict::unknown(state.code, state.subject.clone(), "the kubelet does not run");
        }
    }
}

/// `virsh <command>` about a domain. `domain` is `<namespace>_<name>`, or what the file is called.
pub fn read_virsh(
    domain: &str,
    command: &str,
    text: &str,
    asked: Asked<'_>,
    readers: &mut Readers,
    out: &mut Gathered,
) {
    let at = asked.at();
    let vm = vm_of_domain(domain);
    let subject = Subject::vm(vm.as_str());
    let uri = uri_of(&vm, out);
    let command = command.trim_end_matches(".txt");
    out.looked.insert("domain");
    let needs_monitor =
        matches!(command, "domjobinfo" | "dumpxml" | "domblkerror" | "domblkinfo" | "dommemstat" | "domstats");
    let is_list = command == "list";
    let daemon =
        |call| if is_list { judge_list(at, &uri, call) } else { judge_daemon(at, &uri, &subject, call, needs_monitor) };
    if let Some((failure, line)) = command::parse_failure(text) {
        out.verdicts.extend(daemon(Call::Failed(failure, line)));
        return;
    }
    let mut is_read = true;
    match command {
        "domstate" => match virsh::parse_domstate(text) {
            Some(state) => {
                out.verdicts.extend(judge_state(at, &subject, state));
                push_domain(out, domain, at, state.state, state.reason.unwrap_or(0), None);
            }
            None => is_read = false,
        },
        "domcontrol" => match virsh::parse_domcontrol(text) {
            Some(control) => out.verdicts.extend(judge_control(at, &subject, control)),
            None => is_read = false,
        },
        "domblkerror" => match virsh::parse_domblkerror(text) {
            Some(errors) => out.verdicts.extend(judge_block_errors(at, &subject, &errors)),
            None => is_read = false,
        },
        "dominfo" => match virsh::parse_dominfo(text) {
            Some(info) => {
                if let Some(state) = info.state {
                    push_domain(out, domain, at, state, 0, info.is_persistent);
                }
            }
            None => is_read = false,
        },
        "list" => is_read = virsh::parse_domain_list(text).is_some(),
        "dumpxml" => match virsh::parse_domain_xml(text) {
            Some(xml) => add_disks(out, domain, &xml),
            None => is_read = false,
        },
        // The last one that ended: its error is the launcher's and libvirt's to tell.
        "domjobinfo-completed" => is_read = job::parse_domjobinfo(text).is_some(),
        "domjobinfo" => match job::parse_domjobinfo(text) {
            Some(info) => {
                if info.is_outgoing() {
                    readers.add_sample(&vm, at, info, "domjobinfo");
                    readers.judge_migration(&vm, out);
                }
            }
            None => is_read = false,
        },
        _ => is_read = false,
    }
    if is_read {
        out.verdicts.extend(daemon(Call::Answered));
    } else {
        read_log(
            text.as_bytes(),
            asked.file,
            &LogSource::Libvirt { of: Some(domain.to_owned()) },
            asked.clock,
            readers,
            out,
        );
    }
}

/// The daemon is its launcher's, named by the VMI's UID where a launcher was seen that tells it; as the captured tree names it.
fn uri_of(vm: &str, out: &Gathered) -> String {
    let (namespace, name) = vm.split_once('/').map_or((None, vm), |(namespace, name)| (Some(namespace), name));
    let is_of = |launcher: &&LauncherSeen| launcher.name == name && namespace.is_none_or(|it| it == launcher.namespace);
    let uid = out.launchers.iter().find(is_of).map(|launcher| launcher.vmi_uid.as_str());
    format!("launcher/{}", uid.unwrap_or(vm))
}

/// `list` is of a daemon: no domain's state is told by its silence.
fn judge_list(at: Moment, uri: &str, call: Call<'_>) -> Vec<Verdict> {
    judge_daemon(at, uri, &Subject::Node, call, false)
}

fn push_domain(out: &mut Gathered, name: &str, at: Moment, state: i32, reason: i32, is_persistent: Option<bool>) {
    if let Some(known) = out.domains.iter_mut().find(|known| known.name == name) {
        if known.reason == 0 {
            known.reason = reason;
        }
        known.is_persistent |= is_persistent.unwrap_or(false);
        return;
    }
    out.domains.push(Domain {
        uid: vm_of_domain(name),
        name: name.to_owned(),
        state,
        reason,
        since: at,
        is_persistent: is_persistent.unwrap_or(false),
    });
}

fn add_disks(out: &mut Gathered, domain: &str, xml: &DomainXml) {
    let Some(qemu) = out.qemus.iter_mut().find(|qemu| qemu.name.as_deref() == Some(domain)) else { return };
    for path in xml.disks.iter().filter_map(|disk| disk.source.as_ref()) {
        if qemu.disks.iter().all(|disk| disk.path != *path) {
            qemu.disks.push(Disk { path: path.clone(), ..Disk::default() });
        }
    }
}

/// `ps` in any format: processes, the VMs they are of, and how they are.
pub fn read_ps(text: &str, asked: Asked<'_>, out: &mut Gathered) {
    let at = asked.at();
    let Some(table) = ps::parse_ps(text) else {
        out.problems.push(asked.problem("is no output of ps with pids and commands"));
        return;
    };
    let seen = tasks::judge(at, &table);
    // A line or two out of a listing tell of themselves, and not of what is not among them.
    if table.is_complete || !seen.qemus.is_empty() || !seen.launchers.is_empty() {
        out.looked.extend(["qemu", "launcher"]);
    }
    // What a captured /proc shows of the same process is nearer to the truth.
    for qemu in seen.qemus.into_iter().filter(|qemu| qemu.is_alive) {
        if out.qemus.iter().any(|known| known.pid == qemu.pid) {
            continue;
        }
        let disks = parse_command_line(&qemu.args).disks.into_iter().filter_map(|disk| disk.path);
        out.qemus.push(Qemu {
            uid: qemu.vm_uid.unwrap_or_else(|| format!("pid-{}", qemu.pid)),
            name: qemu.guest,
            pid: qemu.pid,
            start_ticks: 0,
            since: at,
            disks: disks.map(|path| Disk { path, ..Disk::default() }).collect(),
        });
    }
    for launcher in seen.launchers {
        if out.launchers.iter().all(|known| known.pid != launcher.pid) {
            out.launchers.push(LauncherSeen {
                pid: launcher.pid,
                namespace: launcher.namespace,
                name: launcher.name,
                vmi_uid: launcher.vmi_uid,
                pod_uid: None,
            });
        }
    }
    out.verdicts.extend(seen.verdicts);
    settle_kubelet(out);
}

#[cfg(test)]
mod tests;
