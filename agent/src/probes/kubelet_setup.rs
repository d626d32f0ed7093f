//! The `kubelet-setup` probe: how the kubelet was started, and what its folder shows.
//!
//! A kubelet that starts empties the folder of device plugins: inotify on it shows restarts and plugins that come back at once; all
//! else is looked at every minute. Files may lie on a disk that hangs, so a look is made on a blocking thread with a deadline. The
//! start that was last told of is kept as the probe's position, so that a restart of the agent is none of the kubelet.

use std::time::Duration;

use kulprit_host::folder_watch::{FolderWatch, changed};
use kulprit_host::kubelet_files::{
    ClientCertificate, KUBELET_ROOT, KubeletArgs, PluginSocket, PodFolders, ResourceManager, device_plugin_folder,
    hides_arguments, parse_kubelet_args, read_client_certificate, read_device_plugins, read_k3s_args,
    read_kubelet_config, read_manager_policies, read_pod_folders,
};
use kulprit_host::process::{CgroupFilter, ProcessId, Procfs};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::services::{
    KubeletSetup, Service, judge_certificate, judge_device_plugins, judge_leftovers, judge_restart, judge_setup,
    service_of, unit_of_cgroups,
};
use kulprit_judge::{Reading, StateVerdict, Verdict};
use kulprit_model::{FindingCode, Moment, Subject};
use tracing::debug;

use super::blocking::{Blocking, Late};
use super::counters::count;
use super::{ProbeContext, ProbeSpec, chain};

const NAME: &str = "kubelet-setup";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the kubelet was restarted, and is set up as KubeVirt needs it.",
    sources: "the kubelet's command line, on k3s its unit and /etc/rancher/k3s; below /var/lib/kubelet: certificate, device-plugin sockets (inotify), CPU and memory manager state, pods, with their cgroups",
    needs: "/var/lib/kubelet and /etc/kubernetes readable (root); procfs of the host's pid namespace",
    lost_without: "everything it says; the certificate alone where only pki/ is denied",
    look_every: Duration::from_secs(60),
    spawn: |context| Box::pin(run(context)),
};
/// Reading takes some milliseconds with a hundred pods.
const DEADLINE: Duration = Duration::from_secs(5);
/// Plugins come back one after the other; one look after them answers for all.
const SETTLE: Duration = Duration::from_secs(1);
/// A start before the agent's own first look is told of if it is not longer ago: as long as an occurrence counts in full.
const RECENT_USEC: i64 = 15 * 60 * 1_000_000;
/// Clock ticks of `/proc/PID/stat`, microseconds: USER_HZ is 100 on every architecture that is built for.
const TICK_USEC: i64 = 10_000;
/// Left by virt-handler on every node that it has been on.
/// Source: KubeVirt `pkg/virt-operator/resource/generate/components/daemonsets.go`.
const HANDLER_FOLDER: &str = "var/lib/kubevirt-node-labeller";
/// The kubelet's list of registered devices, and the one of KubeVirt.
const CHECKPOINT: &str = "kubelet_internal_checkpoint";
const KVM_DEVICE: &str = "devices.kubevirt.io/kvm";
/// The unit of a kubelet that was never seen to run.
const USUAL_UNIT: &str = "kubelet.service";

async fn run(context: ProbeContext) {
    let mut probe = Probe::new(context);
    let mut watch = None;
    loop {
        if watch.is_none() && !probe.context.once {
            let folder = device_plugin_folder(&probe.known.args);
            watch = FolderWatch::open(&probe.context.host, folder)
                .inspect_err(|error| debug!(probe = NAME, error = %chain(error), "the folder is polled only"))
                .ok();
        }
        if !probe.look().await || probe.context.once {
            return;
        }
        tokio::select! {
            biased;
            () = probe.context.stop.cancelled() => return,
            () = changed(&mut watch) => tokio::time::sleep(SETTLE).await,
            () = probe.context.beat.wait(SPEC.look_every) => {}
        }
    }
}

/// A kubelet that runs, or ran.
#[derive(Clone, Debug, Default)]
struct Known {
    process: Option<ProcessId>,
    unit: Option<String>,
    args: KubeletArgs,
    /// Why some of its arguments are not known.
    unseen: Option<String>,
}

/// What one look found.
#[derive(Debug)]
struct Seen {
    known: Known,
    setup: Reading<Option<KubeletSetup>>,
    certificate: Reading<Option<ClientCertificate>>,
    plugins: Reading<Option<Vec<PluginSocket>>>,
    /// Whether KubeVirt's device plugin should be here.
    is_plugin_expected: bool,
    pods: Reading<Option<PodFolders>>,
}

struct Probe {
    context: ProbeContext,
    procfs: Procfs,
    filter: CgroupFilter,
    blocking: Blocking,
    known: Known,
    /// The start that was last told of, `PID@TICKS`.
    told: Option<String>,
    has_looked: bool,
}

impl Probe {
    fn new(context: ProbeContext) -> Self {
        let config = &context.config;
        Self {
            procfs: Procfs::new(&config.procfs),
            filter: config.cgroup_filter(),
            blocking: context.blocking(),
            known: Known::default(),
            told: context.start_at.clone(),
            has_looked: false,
            context,
        }
    }

    /// Looks at all; `false` when the agent ends.
    async fn look(&mut self) -> bool {
        let draft = self.context.begin(NAME);
        let (host, procfs, filter) = (self.context.host.clone(), self.procfs.clone(), self.filter.clone());
        let known = self.known.clone();
        let read = self.blocking.run(DEADLINE, move || read(&host, &procfs, &filter, known)).await;
        let draft = match read {
            Ok(seen) => {
                let at = self.context.clock.now();
                let verdicts = self.judge(at, &seen);
                self.known = seen.known;
                draft.verdicts(verdicts).position(self.told.clone())
            }
            Err(Late { for_secs }) => {
                draft.blind(format!("reading the kubelet's folder has not returned for {for_secs} s"))
            }
        };
        self.context.send(draft.end(&self.context.clock)).await
    }

    fn judge(&mut self, at: Moment, seen: &Seen) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let unit = seen.known.unit.as_deref().unwrap_or(USUAL_UNIT);
        let plugins = seen.plugins.as_ref().ok().and_then(Option::as_deref);
        verdicts.extend(self.judge_start(at, seen, unit, plugins.unwrap_or_default()));
        let unknown = |code, subject: Subject, because: &str| {
            count(&self.context.counters.errors, 1);
            Verdict::State(StateVerdict::unknown(code, subject, because))
        };
        match &seen.setup {
            Ok(Some(setup)) => verdicts.push(judge_setup(at, unit, setup)),
            Ok(None) => {}
            Err(because) => {
                verdicts.push(unknown(FindingCode::KubeletMisconfigured, Subject::unit(unit), because));
            }
        }
        match &seen.certificate {
            Ok(Some(found)) => {
                let source = found.path.display().to_string();
                verdicts.push(judge_certificate(at, unit, &source, found.validity));
            }
            Ok(None) => {}
            Err(because) => {
                verdicts.push(unknown(FindingCode::KubeletCertificateExpired, Subject::unit(unit), because));
            }
        }
        match &seen.plugins {
            Ok(Some(sockets)) if seen.is_plugin_expected => {
                verdicts.push(judge_device_plugins(at, "device-plugins", sockets).unwrap_or_else(|| {
                    let because = "the kubelet has no socket of its own for device plugins: it does not run";
                    Verdict::State(StateVerdict::unknown(FindingCode::DevicePluginMissing, Subject::Node, because))
                }));
            }
            Ok(_) => {}
            Err(because) => verdicts.push(unknown(FindingCode::DevicePluginMissing, Subject::Node, because)),
        }
        match &seen.pods {
            Ok(Some(pods)) => verdicts.push(judge_leftovers(at, pods)),
            Ok(None) => {}
            Err(because) => verdicts.push(unknown(FindingCode::OrphanedPodVolumes, Subject::Node, because)),
        }
        verdicts
    }

    /// A start that was not told of yet.
    fn judge_start(&mut self, at: Moment, seen: &Seen, unit: &str, plugins: &[PluginSocket]) -> Option<Verdict> {
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        let process = seen.known.process?;
        let name = format!("{}@{}", process.pid, process.start_time_ticks);
        let before = self.told.replace(name);
        let ticks = i64::try_from(process.start_time_ticks).unwrap_or(i64::MAX);
        let started = at.offset_usec(ticks.saturating_mul(TICK_USEC).saturating_sub(at.boottime_usec).min(0));
        // The first look finds a kubelet that may run for months.
        let is_news = before != self.told && (!is_first || at.usec_since(started) < RECENT_USEC);
        is_news.then(|| judge_restart(started, unit, process.pid, plugins))
    }
}

/// Reads everything.
fn read(host: &HostRoot, procfs: &Procfs, filter: &CgroupFilter, known: Known) -> Seen {
    let (known, process_error) = match find(host, procfs, filter, known.clone()) {
        Ok(found) => (found, None),
        Err(error) => (known, Some(chain(&error))),
    };
    let args = &known.args;
    let in_words = |error: ReadError| chain(&error);
    let plugins = read_device_plugins(host, args).map_err(in_words);
    Seen {
        setup: match process_error {
            Some(because) => Err(because),
            None => read_setup(host, &known).map_err(in_words),
        },
        certificate: read_client_certificate(host, args).map_err(in_words),
        is_plugin_expected: is_plugin_expected(host, args, &plugins),
        plugins,
        pods: read_pod_folders(host, args).map_err(in_words),
        known,
    }
}

/// The kubelet's process and how it was started; the last one that ran where none does.
fn find(host: &HostRoot, procfs: &Procfs, filter: &CgroupFilter, known: Known) -> Result<Known, ReadError> {
    if let Some(id) = known.process
        && known.unseen.is_none()
        && procfs.stat(id.pid).is_ok_and(|stat| stat.id() == id)
    {
        return Ok(known);
    }
    let is_kubelet = |stat: &kulprit_host::process::Stat| service_of(&stat.comm) == Some(Service::Kubelet);
    let (rows, _) = procfs.scan(filter, is_kubelet)?;
    // rke2 starts the kubelet as a process of its own.
    let Some(stat) = rows.iter().min_by_key(|stat| (stat.comm != "kubelet", stat.start_time_ticks)) else {
        return Ok(Known { process: None, ..known });
    };
    let command_line = procfs.command_line(stat.pid)?;
    let unit = unit_of_cgroups(&procfs.cgroups(stat.pid)?, USUAL_UNIT);
    let (args, unseen) = match hides_arguments(&command_line) {
        None => (parse_kubelet_args(&command_line), None),
        Some("k3s") => {
            let (args, missing) = read_k3s_args(host, &unit);
            (args, missing.map(|error| format!("k3s does not show the kubelet's flags, and {}", chain(&error))))
        }
        Some(program) => {
            let because = format!("the kubelet of {program} does not run, so its flags are not known");
            (KubeletArgs::default(), Some(because))
        }
    };
    Ok(Known { process: Some(stat.id()), unit: Some(unit), args, unseen })
}

/// `None` where no kubelet was ever seen, and there is no configuration of one.
fn read_setup(host: &HostRoot, known: &Known) -> Result<Option<KubeletSetup>, ReadError> {
    let config = read_kubelet_config(host, &known.args)?;
    if known.unit.is_none() && config.is_none() {
        return Ok(None);
    }
    let policies = |manager| read_manager_policies(host, &known.args, config.as_ref(), manager);
    let (cpu, memory) = (policies(ResourceManager::Cpu)?, policies(ResourceManager::Memory)?);
    let link = host.read_link(KUBELET_ROOT).ok().map(|link| link.to_string_lossy().into_owned());
    Ok(Some(KubeletSetup { args: known.args.clone(), link, config, unseen: known.unseen.clone(), cpu, memory }))
}

/// A node that virt-handler is, or was, on; or one whose kubelet knows KubeVirt's devices.
fn is_plugin_expected(host: &HostRoot, args: &KubeletArgs, plugins: &Reading<Option<Vec<PluginSocket>>>) -> bool {
    let is_here = |sockets: &Vec<PluginSocket>| sockets.iter().any(|socket| socket.name.starts_with("kubevirt-"));
    match plugins {
        Ok(Some(sockets)) if is_here(sockets) => true,
        Ok(Some(_)) => {
            let checkpoint = || host.read_text(format!("{}/{CHECKPOINT}", device_plugin_folder(args)));
            host.list(HANDLER_FOLDER).is_ok_and(|names| !names.is_empty())
                || checkpoint().is_ok_and(|text| text.contains(KVM_DEVICE))
        }
        Ok(None) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
