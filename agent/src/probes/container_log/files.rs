//! Which logs there are on this node, and what is new in them.
//!
//! The kubelet writes `/var/log/pods/<namespace>_<pod>_<uid>/<container>/<restarts>.log`. Of these only the pods that a VM
//! depends on are followed. Folders are watched (inotify), so that a quiet log costs nothing; now and then all are looked at,
//! watched or not. No file stays open between two looks.
//! Sources: Kubernetes `pkg/kubelet/kuberuntime/helpers.go` (names), KubeVirt `pkg/virt-controller/services/rendervolumes.go`
//! (the `private` emptyDir with QEMU's log), libvirt `qemu.conf` (`/var/log/libvirt/qemu`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kulprit_host::follow::{FolderChanges, FolderWatch, FollowStart};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::OccurrenceVerdict;
use kulprit_judge::said::{Hearing, LogSource, Statements};
use kulprit_model::Moment;

use super::denials::Denials;
use super::log::{Ear, Log, left_out};
use super::names::{PODS, PodName, newest_logs};
use crate::probes::{Launchers, ProbeContext, chain};

/// Where libvirt on a plain host puts its own logs when it is told to, and QEMU's.
const LIBVIRT: &str = "/var/log/libvirt";
const LIBVIRT_QEMU: &str = "/var/log/libvirt/qemu";
/// Logs that have one place: folder, name. Sources: `auditd.conf(5)`; libvirt `virtqemud.conf`; RKE2 `pkg/cli/defaults` (kubelet)
/// and k3s `pkg/agent/containerd`, of which Harvester is made.
const PLACED: [(&str, &str); 6] = [
    (LIBVIRT, "libvirtd.log"),
    (LIBVIRT, "virtqemud.log"),
    ("/var/log/audit", "audit.log"),
    ("/var/lib/rancher/rke2/agent/logs", "kubelet.log"),
    ("/var/lib/rancher/rke2/agent/containerd", "containerd.log"),
    ("/var/lib/rancher/k3s/agent/containerd", "containerd.log"),
];
/// QEMU's log, below a launcher pod's folder of the kubelet.
const PRIVATE_QEMU: &str = "volumes/kubernetes.io~empty-dir/private/libvirt/qemu/log";
/// All folders and files are looked at this often, microseconds; without watches, the second.
const SWEEP_USEC: i64 = 300_000_000;
const SWEEP_UNWATCHED_USEC: i64 = 10_000_000;
/// All files together at one look; those that were read longest ago come first.
const MAX_BYTES: u64 = 2 * 1024 * 1024;
/// Of a QEMU's log that was there before us, so much is about now, bytes.
const QEMU_TAIL_BYTES: u64 = 64 * 1024;
/// Different statements of one look.
const MAX_STATEMENTS: usize = 64;
/// Logs that are followed at most.
const MAX_LOGS: usize = 2_000;

/// What one look gave.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) verdicts: Vec<OccurrenceVerdict>,
    /// What was left out of which file.
    pub(super) skipped: Vec<(PathBuf, String)>,
    /// Lines that were not taken apart.
    pub(super) n_unheard: u64,
    pub(super) n_errors: u64,
    pub(super) position: Option<String>,
    pub(super) blind_because: Option<String>,
}

/// The logs of the node.
pub(super) struct Files {
    host: HostRoot,
    kubelet_folder: PathBuf,
    start: Start,
    watch: Option<FolderWatch>,
    watched: BTreeSet<PathBuf>,
    /// Those that VMs depend on, by their folder's name, and the folders of the others.
    pods: BTreeMap<String, Pod>,
    others: BTreeSet<String>,
    /// By path.
    logs: BTreeMap<PathBuf, Log>,
    hearing: Hearing,
    denials: Denials,
    buffer: Vec<u8>,
    swept: Option<Moment>,
    blind_because: Option<String>,
    /// Folders that are there and cannot be listed, and why; what they hold is known anew at each sweep.
    unread: BTreeMap<PathBuf, String>,
    n_looks: u64,
    n_added: u64,
}

struct Pod {
    name: PodName,
    /// `None` before its folder was looked into.
    containers: Option<BTreeSet<String>>,
    has_qemu: bool,
}

/// Where an agent that starts begins.
struct Start {
    since_usec: i64,
    /// Inode and offset of QEMU's logs.
    offsets: BTreeMap<u64, u64>,
}

impl Start {
    /// `kept` is what [`Files::position`] wrote.
    fn new(kept: Option<&str>, earliest_usec: i64) -> Self {
        let mut parts = kept.unwrap_or_default().split(';');
        let since_usec = parts.next().and_then(|text| text.parse().ok()).unwrap_or(earliest_usec).max(earliest_usec);
        let pair = |text: &str| {
            let (inode, offset) = text.split_once('=')?;
            Some((inode.parse().ok()?, offset.parse().ok()?))
        };
        Self { since_usec, offsets: parts.filter_map(pair).collect() }
    }
}

impl Files {
    pub(super) fn new(context: &ProbeContext) -> Self {
        let look_back_usec = i64::try_from(context.config.log_look_back.get().as_micros()).unwrap_or(i64::MAX);
        let earliest_usec = context.clock.now().wall_usec.saturating_sub(look_back_usec);
        Self {
            host: context.host.clone(),
            kubelet_folder: context.config.kubelet_folder.clone(),
            start: Start::new(context.start_at.as_deref(), earliest_usec),
            watch: FolderWatch::open().ok(),
            watched: BTreeSet::new(),
            pods: BTreeMap::new(),
            others: BTreeSet::new(),
            logs: BTreeMap::new(),
            hearing: Hearing::new(),
            denials: Denials::new(context),
            buffer: Vec::new(),
            swept: None,
            blind_because: None,
            unread: BTreeMap::new(),
            n_looks: 0,
            n_added: 0,
        }
    }

    /// Reads what is new; with `to_the_end` all of it.
    pub(super) fn read(&mut self, now: Moment, launchers: &Launchers, to_the_end: bool) -> Read {
        let changes = self.watch.as_mut().map(FolderWatch::take).unwrap_or_default();
        let every_usec = if self.watch.is_some() { SWEEP_USEC } else { SWEEP_UNWATCHED_USEC };
        let is_sweep = changes.is_all || self.swept.is_none_or(|swept| now.usec_since(swept) >= every_usec);
        if is_sweep || !changes.named.is_empty() {
            self.find(&changes, is_sweep);
        }
        if is_sweep {
            self.swept = Some(now);
        }
        for (path, log) in &mut self.logs {
            log.is_changed |= is_sweep || path.parent().is_some_and(|folder| changes.folders.contains(folder));
        }
        let mut read = Read::default();
        let mut statements = Statements::new(MAX_STATEMENTS);
        loop {
            self.n_looks += 1;
            let is_behind = self.read_changed(now, launchers, &mut read);
            let told = self.hearing.take();
            told.verdicts.into_iter().for_each(|verdict| statements.add(verdict));
            read.n_unheard += told.n_unheard;
            if !is_behind {
                read.position = Some(self.position(now));
            }
            if !is_behind || !to_the_end {
                break;
            }
        }
        read.verdicts = statements.into_verdicts(|attributes| attributes).chain(self.denials.take()).collect();
        read.blind_because = self.blind_because.clone().or_else(|| self.unread_because());
        // Most looks find nothing to read.
        self.buffer = Vec::new();
        read
    }

    /// Reads the logs that changed, those that were read longest ago first; whether something is left for the next look.
    fn read_changed(&mut self, now: Moment, launchers: &Launchers, read: &mut Read) -> bool {
        let mut changed: Vec<(u64, PathBuf)> = Vec::new();
        changed
            .extend(self.logs.iter().filter(|(_, log)| log.is_changed).map(|(path, log)| (log.read_at, path.clone())));
        changed.sort_unstable();
        let Self { host, logs, hearing, denials, buffer, .. } = self;
        let mut ear = Ear { host, now, launchers, hearing, denials, buffer };
        let mut left = MAX_BYTES;
        for (_, path) in changed {
            let Some(log) = logs.get_mut(&path).filter(|_| left > 0) else { break };
            log.read_at = self.n_looks;
            match log.read(&mut ear) {
                Ok(followed) => {
                    log.unread = None;
                    log.is_changed = followed.is_behind;
                    left = left.saturating_sub(followed.n_bytes);
                    read.skipped.extend(left_out(&followed).map(|what| (path, what)));
                }
                Err(error) => {
                    // Gone, or between two names: its folder tells when there is one again.
                    log.is_changed = false;
                    log.unread = unread_because(&error);
                    read.n_errors += u64::from(!error.is_not_found());
                }
            }
        }
        logs.values().any(|log| log.is_changed)
    }

    /// Why not all is seen: the first of what is there and cannot be read, and how many more there are.
    fn unread_because(&self) -> Option<String> {
        let mut unread = self.unread.values().chain(self.logs.values().filter_map(|log| log.unread.as_ref()));
        let first = unread.next()?;
        Some(match unread.count() {
            0 => first.clone(),
            n_more => format!("{first}; and {n_more} more logs or folders of logs cannot be read"),
        })
    }

    /// What was read: all lines up to now, and of QEMU's logs so many bytes.
    fn position(&self, now: Moment) -> String {
        let mut text = now.wall_usec.to_string();
        for (inode, offset) in self.logs.values().filter_map(Log::offset) {
            text.push_str(&format!(";{inode}={offset}"));
        }
        text
    }

    /// Finds logs that are new and lets go of those that are gone.
    fn find(&mut self, changes: &FolderChanges, is_sweep: bool) {
        let is_due = |folder: &Path| is_sweep || changes.named.contains(folder);
        let mut failed = None;
        if is_sweep {
            self.unread.clear();
        }
        if is_due(Path::new(PODS)) {
            match self.list(Path::new(PODS)) {
                Ok(names) => self.find_pods(names, is_sweep),
                Err(error) => failed = Some(error),
            }
        }
        for folder_name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.find_pods_logs(&folder_name, &is_due);
        }
        for folder in PLACED.map(|(folder, _)| Path::new(folder)).into_iter().collect::<BTreeSet<_>>() {
            let names = if is_due(folder) { self.list(folder).unwrap_or_default() } else { Vec::new() };
            for (_, name) in PLACED.into_iter().filter(|(of, _)| Path::new(of) == folder) {
                if names.iter().any(|known| known == name) {
                    self.add(folder.join(name), source_of(name), None, self.start_of_dated());
                }
            }
        }
        let qemus = Path::new(LIBVIRT_QEMU);
        let names = if is_due(qemus) { self.list(qemus).unwrap_or_default() } else { Vec::new() };
        names.iter().for_each(|name| self.add_qemu(qemus, name, None));
        if is_sweep || failed.is_some() {
            // A plain host has no pods, and a node no libvirt of its own.
            let has_libvirt = || [LIBVIRT, LIBVIRT_QEMU].iter().any(|folder| self.host.list(folder).is_ok());
            self.blind_because =
                failed.filter(|error| !(error.is_not_found() && has_libvirt())).map(|error| chain(&error));
        }
    }

    /// The names in a folder, which is watched from now on.
    fn list(&mut self, folder: &Path) -> Result<Vec<String>, ReadError> {
        if !self.watched.contains(folder)
            && let Some(watch) = &mut self.watch
            && watch.add(&self.host, folder).is_ok()
        {
            self.watched.insert(folder.to_owned());
        }
        let names = self.names(folder);
        if names.is_err() {
            self.forget(folder);
        }
        names
    }

    /// The names in a folder, and whether it can be listed.
    fn names(&mut self, folder: &Path) -> Result<Vec<String>, ReadError> {
        let names = self.host.list(folder);
        match names.as_ref().err().and_then(unread_because) {
            Some(because) => self.unread.insert(folder.to_owned(), because),
            None => self.unread.remove(folder),
        };
        Ok(names?.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    /// Lets go of a folder and all below it.
    fn forget(&mut self, folder: &Path) {
        self.logs.retain(|path, _| !path.starts_with(folder));
        for gone in self.watched.extract_if(folder.to_owned().., |known| known.starts_with(folder)) {
            if let Some(watch) = &mut self.watch {
                watch.remove(&gone);
            }
        }
    }

    fn find_pods(&mut self, names: Vec<String>, is_sweep: bool) {
        let names: BTreeSet<String> = names.into_iter().collect();
        let gone: Vec<String> = self.pods.keys().filter(|known| !names.contains(*known)).cloned().collect();
        for folder_name in gone {
            if let Some(pod) = self.pods.remove(&folder_name) {
                let qemus = self.qemu_folder(&pod.name);
                self.forget(&Path::new(PODS).join(folder_name));
                self.forget(&qemus);
                self.unread.remove(&qemus);
            }
        }
        self.unread.retain(|folder, _| {
            let pod = folder.strip_prefix(PODS).ok().and_then(|below| below.iter().next()?.to_str());
            pod.is_none_or(|pod| names.contains(pod))
        });
        // What a pod is may be told by its containers only, and these come later: they are looked at again with a sweep.
        self.others.retain(|other| !is_sweep && names.contains(other));
        for folder_name in names {
            if self.pods.contains_key(&folder_name) || self.others.contains(&folder_name) {
                continue;
            }
            let Some(name) = PodName::parse(&folder_name) else { continue };
            let mut containers = || self.names(&Path::new(PODS).join(&folder_name)).unwrap_or_default();
            if name.is_of_interest("") || containers().iter().any(|container| name.is_of_interest(container)) {
                self.pods.insert(folder_name, Pod { name, containers: None, has_qemu: false });
            } else {
                self.others.insert(folder_name);
            }
        }
    }

    fn find_pods_logs(&mut self, folder_name: &str, is_due: &dyn Fn(&Path) -> bool) {
        let folder = Path::new(PODS).join(folder_name);
        let Some(Pod { name, containers, has_qemu }) = self.pods.get(folder_name) else { return };
        let (name, known, has_qemu) = (name.clone(), containers.clone(), *has_qemu);
        let is_new = known.is_none();
        let containers = if is_new || is_due(&folder) {
            let found = self.list(&folder).unwrap_or_default();
            found.into_iter().filter(|container| name.is_of_interest(container)).collect()
        } else {
            known.clone().unwrap_or_default()
        };
        let mut is_changed = is_new;
        for container in &containers {
            let folder = folder.join(container);
            if known.as_ref().is_some_and(|known| known.contains(container)) && !is_due(&folder) {
                continue;
            }
            is_changed = true;
            let newest = newest_logs(&self.list(&folder).unwrap_or_default());
            for number in &newest {
                let path = folder.join(format!("{number}.log"));
                self.add(path, name.source(container), Some(&name.uid), self.start_of_dated());
            }
            let is_kept = |path: &Path| {
                let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
                newest.is_empty() || number.is_none_or(|number| newest.contains(&number))
            };
            self.logs.retain(|path, _| path.parent() != Some(&folder) || is_kept(path));
        }
        let qemus = self.qemu_folder(&name);
        // It is made when the launcher's libvirt starts, soon after its containers.
        let mut has_qemu = has_qemu;
        if name.is_launcher() && (is_due(&qemus) || !has_qemu && (is_changed || self.watch.is_none())) {
            let names = self.list(&qemus);
            has_qemu = names.is_ok();
            names.into_iter().flatten().for_each(|file| self.add_qemu(&qemus, &file, Some(&name.uid)));
        }
        self.pods.insert(folder_name.to_owned(), Pod { name, containers: Some(containers), has_qemu });
    }

    fn qemu_folder(&self, pod: &PodName) -> PathBuf {
        self.kubelet_folder.join("pods").join(&pod.uid).join(PRIVATE_QEMU)
    }

    /// Where a log begins whose lines have times.
    fn start_of_dated(&self) -> FollowStart {
        if self.swept.is_none() { FollowStart::Since(self.start.since_usec) } else { FollowStart::Beginning }
    }

    fn add_qemu(&mut self, folder: &Path, file: &str, pod_uid: Option<&str>) {
        let Some(domain) = file.strip_suffix(".log") else { return };
        let path = folder.join(file);
        if self.logs.contains_key(&path) {
            return;
        }
        let start = if self.swept.is_none() { self.start_of_qemus(&path) } else { FollowStart::Beginning };
        self.add(path, LogSource::Qemu { domain: domain.to_owned() }, pod_uid, start);
    }

    /// Where a log begins that was there before us and whose lines have no times.
    fn start_of_qemus(&self, path: &Path) -> FollowStart {
        let metadata = self.host.open(path).ok().and_then(|file| file.metadata().ok());
        let Some(metadata) = metadata else { return FollowStart::Beginning };
        let inode = metadata.ino();
        match self.start.offsets.get(&inode) {
            Some(offset) => FollowStart::At { inode, offset: *offset },
            None if metadata.mtime().saturating_mul(1_000_000) < self.start.since_usec => FollowStart::End,
            None => FollowStart::At { inode, offset: metadata.len().saturating_sub(QEMU_TAIL_BYTES) },
        }
    }

    fn add(&mut self, path: PathBuf, source: LogSource, pod_uid: Option<&str>, start: FollowStart) {
        if self.logs.contains_key(&path) || self.logs.len() >= MAX_LOGS {
            return;
        }
        self.n_added += 1;
        let log = Log::new(path.clone(), source, pod_uid, start, self.n_added);
        self.logs.insert(path, log);
    }
}

/// Who writes a log that has one place.
fn source_of(name: &str) -> LogSource {
    match name {
        "audit.log" => LogSource::Kernel,
        "kubelet.log" => LogSource::Unit("kubelet".to_owned()),
        "containerd.log" => LogSource::Unit("containerd".to_owned()),
        _ => LogSource::Libvirt { of: None },
    }
}

/// Why a log or a folder that is there says nothing; `None` where there is none, and for a folder in the place of a log.
fn unread_because(error: &ReadError) -> Option<String> {
    let is_none = match error {
        ReadError::NotFound { .. } => true,
        ReadError::Io { source, .. } => source.kind() == ErrorKind::IsADirectory,
        ReadError::Denied { .. }
        | ReadError::Unsupported { .. }
        | ReadError::TooLarge { .. }
        | ReadError::Malformed { .. } => false,
    };
    (!is_none).then(|| chain(error))
}
