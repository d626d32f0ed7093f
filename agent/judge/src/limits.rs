//! Whether a limit is reached: of the node, of the kernel, of a launcher and its QEMU.
//!
//! A limit that is nearly reached explains errors of whoever asks next (`EAGAIN`, `EMFILE`, `ENOMEM`), so kernel-wide limits
//! count from 90 %. A lower bound (what was counted in some processes only) can prove that a limit is reached, never that it is
//! not.

use kulprit_host::cgroup::{MemoryCgroup, MemoryLimit, PidsCgroup};
use kulprit_host::hugepages::HugepagePool;
use kulprit_host::limits::{Limit, ProcessLimits, Usage};
use kulprit_host::memory::ProcessMemory;
use kulprit_model::{Attributes, Evidence, FindingCode, Moment, Subject, attribute};

use crate::say::{CGROUP, PROCFS, Reading, SYSFS, absent, counted, present, unknown};
use crate::verdict::{OccurrenceVerdict, StateVerdict, Verdict};

/// From how much of a limit it counts as used up, percent.
const NEARLY_PCT: u128 = 90;
/// Memory limits of a process are met in large steps, so that the last step fails well below the limit, percent.
const MEMORY_PCT: u128 = 99;

/// One kernel-wide limit.
#[derive(Clone, Debug)]
pub struct KernelLimit {
    /// The word of the finding: `files`, `aio`, `conntrack`, `inotify-instances`, `inotify-watches`.
    pub what: &'static str,
    /// How much is used of it.
    pub usage: Reading<Usage>,
    /// Whether more may be used than was counted.
    pub is_lower_bound: bool,
}

/// One look at the node's limits.
#[derive(Clone, Debug)]
pub struct NodeLimitsLook {
    /// When.
    pub at: Moment,
    /// All pools of hugepages.
    pub hugepages: Reading<Vec<HugepagePool>>,
    /// Tasks, and the most that process ids and `threads-max` allow.
    pub tasks: Reading<Usage>,
    /// The kubelet's own pids cgroups (not a pod's), by path.
    pub kubepods: Vec<(String, PidsCgroup)>,
    /// Kernel-wide limits.
    pub kernel: Vec<KernelLimit>,
    /// `vm.unprivileged_userfaultfd`.
    pub userfaultfd: Reading<u64>,
}

/// The states of the node.
#[must_use]
pub fn judge_node(look: &NodeLimitsLook) -> Vec<Verdict> {
    [judge_hugepages(look), judge_pids(look), judge_kernel(look), judge_userfaultfd(look)].map(Verdict::State).to_vec()
}

fn judge_hugepages(look: &NodeLimitsLook) -> StateVerdict {
    let code = FindingCode::HugepagesExhausted;
    let pools = match &look.hugepages {
        Ok(pools) => pools,
        Err(error) => return unknown(code, &Subject::Node, error.as_str()),
    };
    let whole = || pools.iter().filter(|pool| pool.numa_node.is_none());
    // A page that is promised is free only in name; with a tenth left hardly any VM of that size starts.
    let n_left = |pool: &HugepagePool| pool.n_free.saturating_sub(pool.n_reserved.unwrap_or(0));
    let Some(pool) = whole().find(|pool| n_left(pool).saturating_mul(10) < pool.n_total) else {
        let shown: Vec<String> = whole()
            .map(|pool| {
                let by_numa_node = free_by_numa_node(pools, pool);
                format!("{} kB: {} of {} left{by_numa_node}", pool.size_kib, n_left(pool), pool.n_total)
            })
            .collect();
        return absent(code, &Subject::Node, look.at, SYSFS, format!("hugepages of {}", shown.join(", ")));
    };
    let facts = Attributes::new()
        .with(attribute::WHAT, format!("{} kB", pool.size_kib))
        .with(attribute::MEASURED, pool.n_total.saturating_sub(n_left(pool)))
        .with(attribute::LIMIT, pool.n_total);
    let text = format!(
        "{} of {} hugepages of {} kB are left (free {}, of these promised {}){}",
        n_left(pool),
        pool.n_total,
        pool.size_kib,
        pool.n_free,
        pool.n_reserved.unwrap_or(0),
        free_by_numa_node(pools, pool)
    );
    present(code, &Subject::Node, look.at, SYSFS, facts, text)
}

/// The free pages of each NUMA node, in words behind those of `whole`: a guest that is bound to one finds no other's. Nothing
/// where there is but one, or no page.
fn free_by_numa_node(pools: &[HugepagePool], whole: &HugepagePool) -> String {
    let of_size = pools.iter().filter(|pool| pool.size_kib == whole.size_kib && whole.n_total > 0);
    let nodes: Vec<String> = of_size
        .filter_map(|pool| Some(format!("node {} {} of {}", pool.numa_node?, pool.n_free, pool.n_total)))
        .collect();
    if nodes.len() > 1 { format!(" (free by NUMA node: {})", nodes.join(", ")) } else { String::new() }
}

fn judge_pids(look: &NodeLimitsLook) -> StateVerdict {
    let code = FindingCode::PidsExhausted;
    let nearly = |(path, pids): &(String, PidsCgroup)| {
        let usage = Usage { used: pids.n_current, limit: pids.limit? };
        is_used(usage, NEARLY_PCT).then(|| (path.clone(), usage))
    };
    if let Some((path, usage)) = look.kubepods.iter().find_map(nearly) {
        let facts = used_facts("cgroup", usage).with(attribute::MEMCG, &path);
        let text = format!("{path} has {} tasks of {} allowed", usage.used, usage.limit);
        return present(code, &Subject::Node, look.at, CGROUP, facts, text);
    }
    match &look.tasks {
        Ok(usage) => {
            let text = format!("the node has {} tasks of {} possible", usage.used, usage.limit);
            if is_used(*usage, NEARLY_PCT) {
                present(code, &Subject::Node, look.at, PROCFS, used_facts("node", *usage), text)
            } else {
                absent(code, &Subject::Node, look.at, PROCFS, text)
            }
        }
        Err(error) => unknown(code, &Subject::Node, error.as_str()),
    }
}

fn judge_kernel(look: &NodeLimitsLook) -> StateVerdict {
    let code = FindingCode::KernelLimitReached;
    let read = || look.kernel.iter().filter_map(|row| Some((row, *row.usage.as_ref().ok()?)));
    let words = |row: &KernelLimit, usage: Usage| {
        let least = if row.is_lower_bound { "at least " } else { "" };
        format!("{}: {least}{} of {} used", row.what, usage.used, usage.limit)
    };
    if let Some((row, usage)) = read().find(|(_, usage)| is_used(*usage, NEARLY_PCT)) {
        return present(code, &Subject::Node, look.at, PROCFS, used_facts(row.what, usage), words(row, usage));
    }
    match look.kernel.iter().find_map(|row| row.usage.as_ref().err()) {
        Some(error) => unknown(code, &Subject::Node, error.as_str()),
        None if look.kernel.iter().all(|row| row.is_lower_bound) => {
            unknown(code, &Subject::Node, "no kernel-wide limit was recorded")
        }
        None => {
            let shown: Vec<String> = read().map(|(row, usage)| words(row, usage)).collect();
            absent(code, &Subject::Node, look.at, PROCFS, shown.join(", "))
        }
    }
}

fn judge_userfaultfd(look: &NodeLimitsLook) -> StateVerdict {
    let code = FindingCode::UserfaultfdForbidden;
    match &look.userfaultfd {
        Ok(0) => {
            // Linux 5.11 (the setting), 6.1 (the device); `Documentation/admin-guide/mm/userfaultfd.rst`.
            let text =
                "vm.unprivileged_userfaultfd is 0: post-copy needs another way (/dev/userfaultfd, CAP_SYS_PTRACE) here";
            present(code, &Subject::Node, look.at, PROCFS, Attributes::new(), text)
        }
        Ok(value) => absent(code, &Subject::Node, look.at, PROCFS, format!("vm.unprivileged_userfaultfd is {value}")),
        Err(error) => unknown(code, &Subject::Node, error.as_str()),
    }
}

/// One process of a launcher, as far as limits apply to it.
#[derive(Clone, Debug)]
pub struct ProcessUse {
    /// Its name: `qemu-kvm`.
    pub name: String,
    /// Its pid.
    pub pid: u32,
    /// Its limits.
    pub limits: ProcessLimits,
    /// Its descriptors; `None` where not all were recorded.
    pub n_open_files: Option<u64>,
    /// Its memory.
    pub memory: ProcessMemory,
}

/// One look at the limits of a VM's launcher and QEMU.
#[derive(Clone, Debug)]
pub struct LauncherLimitsLook<'a> {
    /// When.
    pub at: Moment,
    /// The VM.
    pub subject: &'a Subject,
    /// The pids cgroup of its container, by path.
    pub pids: Reading<(String, PidsCgroup)>,
    /// QEMU, the launcher, libvirt's daemon.
    pub processes: &'a [ProcessUse],
}

/// `LauncherLimitReached`, and forks that were refused in the container's lifetime.
#[must_use]
pub fn judge_launcher(look: &LauncherLimitsLook<'_>) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::State(judge_launcher_limits(look))];
    if let Ok((path, PidsCgroup { refused_total: Some(refused @ 1..), .. })) = &look.pids {
        let facts = Attributes::new().with(attribute::MEMCG, path);
        let text = format!("{path}: pids.events counts {refused} refused forks");
        verdicts.push(counted(FindingCode::ForkRejected, &Subject::Node, look.at, *refused, CGROUP, facts, text));
    }
    verdicts
}

/// `ForkRejected`, when the counter of refused forks has grown since the look before; `before` is what it was then.
///
/// The first one of a cgroup is the kernel log's to tell (`kernel/cgroup/pids.c` logs no further one).
#[must_use]
pub fn judge_refused_forks(at: Moment, path: &str, before: u64, now: u64) -> Option<Verdict> {
    let n_new = now.checked_sub(before)?.saturating_sub(u64::from(before == 0));
    let evidence = || {
        vec![Evidence::new(
            CGROUP,
            at,
            format!("{path}: pids.events counts {now} refused forks, {before} at the last look"),
        )]
    };
    (n_new > 0).then(|| {
        Verdict::Occurrence(OccurrenceVerdict {
            code: FindingCode::ForkRejected,
            subject: Subject::Node,
            at,
            count: n_new,
            attributes: Attributes::new().with(attribute::MEMCG, path),
            evidence: evidence(),
        })
    })
}

fn judge_launcher_limits(look: &LauncherLimitsLook<'_>) -> StateVerdict {
    let code = FindingCode::LauncherLimitReached;
    if let Ok((path, PidsCgroup { n_current, limit: Some(limit), .. })) = &look.pids
        && n_current >= limit
    {
        let facts = used_facts("pids", Usage { used: *n_current, limit: *limit }).with(attribute::MEMCG, path);
        let text = format!("{path} has {n_current} tasks of {limit} allowed");
        return present(code, look.subject, look.at, CGROUP, facts, text);
    }
    for process in look.processes {
        let ProcessUse { name, pid, limits, n_open_files, memory } = process;
        let rows = [
            ("files", *n_open_files, limits.open_files, 100),
            ("locked-memory", memory.locked_bytes, limits.locked_memory, MEMORY_PCT),
            ("address-space", memory.size_bytes, limits.address_space, MEMORY_PCT),
        ];
        for (what, used, limit, pct) in rows {
            let (Some(used @ 1..), Some(Limit::Of(limit))) = (used, limit) else { continue };
            let usage = Usage { used, limit };
            if is_used(usage, pct) {
                let facts = used_facts(what, usage).with(attribute::PID, pid).with(attribute::COMM, name);
                let text = format!("{name} ({pid}) uses {used} of {limit} of its limit of {what}");
                return present(code, look.subject, look.at, PROCFS, facts, text);
            }
        }
    }
    match &look.pids {
        Err(error) => unknown(code, look.subject, error.as_str()),
        Ok(_) if look.processes.is_empty() => unknown(code, look.subject, "no limits of its processes were recorded"),
        Ok((path, pids)) => {
            let limit = pids.limit.map_or_else(|| "any number".to_owned(), |limit| limit.to_string());
            let text = format!(
                "{path} has {} tasks of {limit} allowed; {} processes are below their limits",
                pids.n_current,
                look.processes.len()
            );
            absent(code, look.subject, look.at, CGROUP, text)
        }
    }
}

/// `MemcgOomKill`, as often as the memory cgroup at `path` has counted since it was made.
///
/// Who was killed the counter does not say: of a small guest it is virt-launcher, not QEMU.
#[must_use]
pub fn judge_memory_cgroup(subject: &Subject, at: Moment, path: &str, memory: &MemoryCgroup) -> Option<Verdict> {
    let kills = memory.oom_kill_total.filter(|kills| *kills > 0)?;
    let limit = match memory.limit {
        Some(MemoryLimit::Bytes(bytes)) => Some(bytes),
        Some(MemoryLimit::Unlimited) | None => None,
    };
    let facts = Attributes::new()
        .with(attribute::MEMCG, path)
        .with_some(attribute::MEASURED, memory.current_bytes)
        .with_some(attribute::LIMIT, limit);
    let text = format!("{path}: oom_kill counts {kills} processes killed at the memory limit");
    Some(counted(FindingCode::MemcgOomKill, subject, at, kills, CGROUP, facts, text))
}

/// A limit of 0 is none that could be used.
fn is_used(usage: Usage, pct: u128) -> bool {
    usage.limit > 0 && u128::from(usage.used) * 100 >= u128::from(usage.limit) * pct
}

fn used_facts(what: &str, usage: Usage) -> Attributes {
    Attributes::new()
        .with(attribute::WHAT, what)
        .with(attribute::MEASURED, usage.used)
        .with(attribute::LIMIT, usage.limit)
}

#[cfg(test)]
mod tests;
