//! A case, read: files in, snapshot out; then the same engine as live. Where central wrote its own snapshot, that is the case (`recorded`).

mod recorded;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use kulprit_cluster::{Asked, Cluster, ClusterVm};
use kulprit_diagnosis::{
    Attribution, ClusterSight, Settings, Snapshot, Symptom, SymptomId, SymptomSubject, attribute, symptom_of, symptoms,
};
use kulprit_host::{HostRoot, cpu::read_proc_stat, log::Clock};
use kulprit_judge::said;
use kulprit_model::{Evidence, Moment};

use crate::{
    assemble::{self, Names},
    commands,
    error::CaseError,
    folder::Folder,
    gathered::{Gathered, Problem},
    layout::{self, Layout, Part},
    logs::{self, LogSource, Readers},
    manifest::{self, Manifest, SubjectName},
    objects, tree,
};

/// A command's output is read whole, up to this; what is larger is a log.
const MAX_COMMAND_BYTES: u64 = 64 << 20;
/// Lines that mention the subject and that no rule knows: so many are kept.
const MAX_MENTIONS: usize = 20;

/// What is asked of a case beside what its manifest says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The moment of asking, Unix microseconds.
    pub at_usec: Option<i64>,
    /// Only this VM.
    pub subject: Option<SubjectName>,
}

/// A case that was read.
#[derive(Debug)]
pub struct Case {
    /// Everything a diagnosis may look at.
    pub snapshot: Snapshot,
    about: About,
    /// What could not be used.
    pub problems: Vec<Problem>,
    /// Lines that no rule knows, and that name the subject.
    kept: Vec<(String, Evidence)>,
}

/// Whom a case is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    /// Every VM and node with a symptom.
    Everything,
    /// A VM by its UID, and the migration.
    Vm(String, Option<String>),
    /// A node by its name.
    Node(String),
}

impl Case {
    /// Reads a folder or an archive. `progress` is called with the bytes of logs read so far and to read.
    ///
    /// # Errors
    /// [`CaseError`] if nothing of it can be used; what is partly unusable is in [`Case::problems`].
    pub fn open(path: &Path, options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Self, CaseError> {
        let folder = Folder::open(path)?;
        let listing = folder.list();
        if listing.files.is_empty() {
            return Err(CaseError::Empty { path: path.to_owned() });
        }
        let layout = layout::recognise(&listing.files).ok_or_else(|| unrecognised(path, &listing.files))?;
        let parts: Vec<(PathBuf, Part)> =
            listing.files.into_iter().map(|file| (layout.part(&file), file)).map(|(part, file)| (file, part)).collect();
        let (mut cluster, mut problems) = (Cluster::new(), listing.problems);
        for (file, part) in &parts {
            if *part == Part::Objects {
                objects::read(&folder, file, &mut cluster, &mut problems);
            }
        }
        let mut manifest = read_manifest(&folder, &layout, &parts, &cluster)?;
        if let Some(at_usec) = options.at_usec {
            manifest.at_usec = at_usec;
        }
        if manifest.at_usec == 0 {
            return Err(CaseError::Subject(format!(
                "nothing in `{}` tells when it was collected; name the moment of asking with --at",
                path.display()
            )));
        }
        if let Some(file) = recorded::file_of(&layout, &parts) {
            return recorded::open(&folder, &file, &manifest, options, &parts, problems);
        }
        for (file, _) in parts.iter().filter(|(_, part)| *part == Part::Watch) {
            objects::read_watch(&folder, file, manifest.at_usec, &mut cluster, &mut problems);
        }
        let subject = options.subject.clone().or_else(|| manifest.subject.clone());
        let mut reading = Reading {
            folder: &folder,
            readers: Readers::mentioning(subject.iter().map(|subject| subject.name.clone()).collect()),
            cluster,
            problems,
            nodes: BTreeMap::new(),
            unplaced: Gathered::default(),
            at: Moment { wall_usec: manifest.at_usec, boottime_usec: manifest.at_usec },
        };
        reading.hosts(&layout, &parts, &manifest, progress);
        reading.finish(&manifest, subject)
    }

    /// What is to be explained: the named VM, or every VM and node with a symptom.
    #[must_use]
    pub fn symptoms(&self) -> Vec<Symptom> {
        match &self.about {
            About::Vm(uid, migration) => vec![symptom_of(&self.snapshot, uid, migration.as_deref(), true)],
            About::Node(name) => vec![of_node(&self.snapshot, name)],
            About::Everything => symptoms(&self.snapshot),
        }
    }

    /// The verdicts.
    #[must_use]
    pub fn attributions(&self) -> Vec<Attribution> {
        self.symptoms().iter().map(|symptom| attribute(&self.snapshot, symptom)).collect()
    }

    /// Lines that name the subject of a symptom and that no rule knows, oldest first.
    pub fn mentions(&self, symptom: &Symptom) -> impl Iterator<Item = (&str, &Evidence)> {
        let is_of_subject = match &symptom.subject {
            SymptomSubject::Vm { uid, .. } => matches!(&self.about, About::Vm(own, _) if own == uid),
            SymptomSubject::Node { .. } => false,
        };
        self.kept.iter().filter(move |_| is_of_subject).map(|(node, line)| (node.as_str(), line))
    }

    /// How many VMs the case knows.
    #[must_use]
    pub fn n_vms(&self) -> usize {
        let of_nodes = self.snapshot.nodes.iter().flat_map(|node| &node.vms).map(|vm| vm.uid.as_str());
        let of_cluster = self.snapshot.cluster_vms.iter().map(|vm| vm.uid.as_str());
        of_cluster.chain(of_nodes).collect::<BTreeSet<_>>().len()
    }
}

/// What a node itself shows, or that it shows nothing.
fn of_node(snapshot: &Snapshot, name: &str) -> Symptom {
    let subject = SymptomSubject::Node { node: name.to_owned() };
    let shown = symptoms(snapshot).into_iter().find(|symptom| symptom.subject == subject);
    shown.unwrap_or_else(|| Symptom {
        subject,
        id: SymptomId::Unspecified,
        since_wall_usec: None,
        text: "the node shows no fault of its own".to_owned(),
        migration: None,
    })
}

fn unrecognised(path: &Path, files: &[PathBuf]) -> CaseError {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for file in files {
        names.extend(file.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned()));
    }
    let mut found: Vec<String> = names.into_iter().take(5).collect();
    if found.len() == 5 {
        found.push("…".to_owned());
    }
    CaseError::Unrecognised { path: path.to_owned(), found: found.join(", ") }
}

/// The manifest; of a must-gather or sosreport one that says only when.
fn read_manifest(
    folder: &Folder,
    layout: &Layout,
    parts: &[(PathBuf, Part)],
    cluster: &Cluster,
) -> Result<Manifest, CaseError> {
    match layout {
        Layout::Case(root) => {
            let file = root.join("case.yaml");
            let text =
                folder.read_text(&file, 1 << 20).map_err(|source| CaseError::Open { path: file.clone(), source })?;
            manifest::read(&text, &file)
        }
        Layout::Gathered { .. } => {
            let of_date = parts.iter().filter(|(file, _)| file.file_name().is_some_and(|name| name == "date"));
            let collected = of_date
                .filter_map(|(file, _)| date_usec(&folder.read_text(file, 4096).ok()?))
                .chain(cluster.newest_usec())
                .max();
            Ok(Manifest { at_usec: collected.unwrap_or(0), ..Manifest::default() })
        }
    }
}

/// A case while it is read.
struct Reading<'f> {
    folder: &'f Folder,
    readers: Readers,
    cluster: Cluster,
    problems: Vec<Problem>,
    nodes: BTreeMap<String, Gathered>,
    /// Of pods whose node nobody tells.
    unplaced: Gathered,
    at: Moment,
}

impl Reading<'_> {
    /// Reads what hosts and pods left: trees, commands, logs.
    fn hosts(
        &mut self,
        layout: &Layout,
        parts: &[(PathBuf, Part)],
        manifest: &Manifest,
        progress: &mut dyn FnMut(u64, u64),
    ) {
        let mut booted: BTreeMap<String, Option<i64>> = BTreeMap::new();
        for (node, root) in self.roots(layout, parts) {
            let in_case = root.strip_prefix(self.folder.path()).unwrap_or(&root).to_owned();
            let root = HostRoot::new(root);
            booted.insert(node.clone(), boot_time_usec(&root));
            let out = self.nodes.entry(node).or_default();
            let n_before = out.problems.len();
            tree::read_tree(&root, self.at, out);
            // A tree knows its files from its own root on; a person looks for them in the case.
            for problem in &mut out.problems[n_before..] {
                problem.file = in_case.join(problem.file.strip_prefix("root").unwrap_or(&problem.file));
            }
        }
        let size = |file: &Path| std::fs::symlink_metadata(self.folder.path().join(file)).map_or(0, |data| data.len());
        let all_bytes: u64 = parts.iter().filter(|(_, part)| is_read_as_text(part)).map(|(file, _)| size(file)).sum();
        let mut read_bytes = 0;
        // Outputs of commands first: they tell which process is whose, and logs speak of processes.
        let (commands, logs): (Vec<_>, Vec<_>) =
            parts.iter().filter(|(_, part)| is_read_as_text(part)).partition(|(_, part)| is_command(part));
        for (file, part) in commands.into_iter().chain(logs) {
            progress(read_bytes, all_bytes);
            let n_bytes = size(file);
            self.text(file, part, manifest, &booted, &mut |n_read| {
                progress(read_bytes + n_read.min(n_bytes), all_bytes);
            });
            read_bytes += n_bytes;
        }
        progress(all_bytes, all_bytes);
    }

    /// The captured roots: of a case below each node, a sosreport is one as a whole.
    fn roots(&self, layout: &Layout, parts: &[(PathBuf, Part)]) -> BTreeMap<String, PathBuf> {
        match layout {
            Layout::Case(root) => {
                let nodes = parts.iter().filter_map(|(_, part)| match part {
                    Part::Tree { node } => Some(node),
                    _ => None,
                });
                let below = |node: &String| self.folder.path().join(root).join("nodes").join(node).join("root");
                nodes.map(|node| (node.clone(), below(node))).collect()
            }
            Layout::Gathered { hosts } => {
                hosts.iter().map(|(prefix, node)| (node.clone(), self.folder.path().join(prefix))).collect()
            }
        }
    }

    fn text(
        &mut self,
        file: &Path,
        part: &Part,
        manifest: &Manifest,
        booted: &BTreeMap<String, Option<i64>>,
        progress: &mut dyn FnMut(u64),
    ) {
        let (node, source) = match part {
            Part::Kernel { node } => (Some(node.clone()), LogSource::Kernel),
            Part::Journal { node, unit } => (Some(node.clone()), LogSource::Unit(unit.clone())),
            Part::Libvirt { node } => {
                let of = file.file_stem().map(|name| name.to_string_lossy().into_owned());
                (Some(node.clone()), LogSource::Libvirt { of })
            }
            Part::Qemu { node, domain } => {
                let known = || self.cluster.node_of_domain(domain).map(ToOwned::to_owned);
                let node = Some(node.clone()).filter(|node| !node.is_empty()).or_else(known);
                (node, LogSource::Qemu { domain: domain.clone() })
            }
            Part::Pod { namespace, pod, container } => {
                let node = self.node_of_pod(namespace, pod, manifest);
                let (namespace, pod, container) = (namespace.clone(), pod.clone(), container.clone());
                let speaker = said::speaker_of_pod(&pod, &container);
                (node, LogSource::Pod { speaker, namespace, pod, container })
            }
            Part::Systemctl { node, .. } | Part::Virsh { node, .. } | Part::Command { node, .. } => {
                return self.command(file, part, node, booted);
            }
            Part::Objects | Part::Watch | Part::Tree { .. } | Part::Other => return,
        };
        let btime_usec = node.as_ref().and_then(|node| booted.get(node).copied().flatten());
        let input = match open_log(self.folder, file, progress) {
            Ok(input) => input,
            Err(error) => {
                let why = objects::unreadable(&error);
                return self.problems.push(Problem { file: file.to_owned(), line: None, why });
            }
        };
        let out = match node {
            Some(node) => self.nodes.entry(node).or_default(),
            None => &mut self.unplaced,
        };
        let clock = Clock { at_usec: self.at.wall_usec, btime_usec };
        logs::read_log(input, file, &source, clock, &mut self.readers, out);
    }

    fn command(&mut self, file: &Path, part: &Part, node: &str, booted: &BTreeMap<String, Option<i64>>) {
        let text = match self.folder.read_text(file, MAX_COMMAND_BYTES) {
            Ok(text) => text,
            Err(error) => {
                let why = objects::unreadable(&error);
                return self.problems.push(Problem { file: file.to_owned(), line: None, why });
            }
        };
        let btime_usec = booted.get(node).copied().flatten();
        let asked = commands::Asked { file, clock: Clock { at_usec: self.at.wall_usec, btime_usec } };
        let (readers, out) = (&mut self.readers, self.nodes.entry(node.to_owned()).or_default());
        match part {
            Part::Systemctl { unit, .. } => commands::read_systemctl(unit, &text, asked, readers, out),
            Part::Virsh { domain, command, .. } => commands::read_virsh(domain, command, &text, asked, readers, out),
            Part::Command { name, .. } => commands::read_command(name, &text, asked, readers, out),
            _ => {}
        }
    }

    /// The node of a pod: by its object; for the launchers of the subject by the hints.
    fn node_of_pod(&self, namespace: &str, pod: &str, manifest: &Manifest) -> Option<String> {
        if let Some(node) = self.cluster.node_of_pod(namespace, pod) {
            return Some(node.to_owned());
        }
        let subject = manifest.subject.as_ref()?;
        let is_launcher = pod.strip_prefix("virt-launcher-").is_some_and(|rest| rest.starts_with(&subject.name));
        let hints = &manifest.nodes;
        match (is_launcher, &hints.hosting, &hints.source) {
            (true, Some(hosting), _) => Some(hosting.clone()),
            (true, None, Some(source)) if hints.target.is_none() => Some(source.clone()),
            _ => None,
        }
    }

    fn finish(self, manifest: &Manifest, subject: Option<SubjectName>) -> Result<Case, CaseError> {
        let Self { folder: _, readers, cluster, mut problems, mut nodes, unplaced, at } = self;
        let signatures = readers.signatures();
        let subject = subject.map(|subject| whole_name(subject, &cluster, &nodes)).transpose()?;
        let mut keys: BTreeSet<(String, String)> = cluster.vm_keys().collect();
        for launcher in nodes.values().flat_map(|gathered| &gathered.launchers) {
            keys.insert((launcher.namespace.clone(), launcher.name.clone()));
        }
        if let Some(subject) = &subject {
            keys.insert((subject.namespace.clone(), subject.name.clone()));
        }
        let mut cluster_vms: Vec<ClusterVm> = keys
            .iter()
            .map(|(namespace, name)| {
                let is_subject =
                    subject.as_ref().is_some_and(|subject| subject.namespace == *namespace && subject.name == *name);
                let hint = |hint: &Option<String>| hint.clone().filter(|_| is_subject);
                let asked = Asked {
                    migration: subject.as_ref().filter(|_| is_subject).and_then(|subject| subject.migration.clone()),
                    hosting: hint(&manifest.nodes.hosting),
                    source: hint(&manifest.nodes.source),
                    target: hint(&manifest.nodes.target),
                    at_usec: at.wall_usec,
                };
                cluster.describe(namespace, name, &asked, signatures)
            })
            .collect();
        let all = || nodes.values().chain(std::iter::once(&unplaced));
        let names = Names::new(&cluster_vms, all());
        let mut kept: Vec<(String, Evidence)> = Vec::new();
        for (node, gathered) in &mut nodes {
            problems.append(&mut gathered.problems);
            kept.extend(gathered.kept.drain(..).map(|line| (node.clone(), line)));
        }
        let Gathered { verdicts, problems: unplaced_problems, kept: unplaced_kept, .. } = unplaced;
        problems.extend(unplaced_problems);
        kept.extend(unplaced_kept.into_iter().map(|line| (String::new(), line)));
        kept.sort_by(|a, b| (a.1.at, &a.0, &a.1.text).cmp(&(b.1.at, &b.0, &b.1.text)));
        if kept.len() > MAX_MENTIONS {
            kept.drain(..kept.len() - MAX_MENTIONS);
        }
        assemble::add_unplaced(&mut cluster_vms, verdicts, &names, at);
        problems.sort();
        let about = match (subject, &manifest.node) {
            (Some(subject), _) => {
                About::Vm(names.canonical(&format!("{}/{}", subject.namespace, subject.name)), subject.migration)
            }
            (None, Some(node)) => About::Node(node.clone()),
            (None, None) => About::Everything,
        };
        let cluster_nodes = cluster.describe_nodes(at.wall_usec, signatures);
        let views = nodes.into_iter().map(|(name, gathered)| {
            let mut view = assemble::node_view(name, gathered, &names, at);
            assemble::adopt_stray(&mut view, &cluster_vms);
            view
        });
        let nodes: Vec<_> = views.collect();
        let snapshot = Snapshot {
            reference_wall_usec: at.wall_usec,
            nodes,
            cluster_vms: cluster_vms.into_iter().map(Arc::new).collect(),
            cluster_nodes: cluster_nodes.into_iter().map(Arc::new).collect(),
            cluster_sight: ClusterSight::default(),
            settings: Settings::default(),
        };
        Ok(Case { snapshot, about, problems, kept })
    }
}

/// The subject with its namespace; a name alone must be one VM's.
fn whole_name(
    mut subject: SubjectName,
    cluster: &Cluster,
    nodes: &BTreeMap<String, Gathered>,
) -> Result<SubjectName, CaseError> {
    if !subject.namespace.is_empty() {
        return Ok(subject);
    }
    let launchers = nodes.values().flat_map(|gathered| &gathered.launchers);
    let known = cluster.vm_keys().chain(launchers.map(|launcher| (launcher.namespace.clone(), launcher.name.clone())));
    let namespaces: BTreeSet<String> =
        known.filter(|(_, name)| *name == subject.name).map(|(namespace, _)| namespace).collect();
    let mut namespaces = namespaces.into_iter();
    match (namespaces.next(), namespaces.next()) {
        (Some(first), Some(second)) => Err(CaseError::Subject(format!(
            "there are two VMs named `{name}`, in `{first}` and in `{second}`: name one as NAMESPACE/{name}",
            name = subject.name
        ))),
        (first, _) => {
            subject.namespace = first.unwrap_or_default();
            Ok(subject)
        }
    }
}

fn is_command(part: &Part) -> bool {
    matches!(part, Part::Systemctl { .. } | Part::Virsh { .. } | Part::Command { .. })
}

/// `btime` of a captured `/proc/stat`, Unix microseconds.
fn boot_time_usec(root: &HostRoot) -> Option<i64> {
    read_proc_stat(root).ok()?.boot_unix_sec?.checked_mul(1_000_000)
}

/// What `date` printed, Unix microseconds: `Tue Mar  3 10:00:00 UTC 2026`. Another zone than UTC is not known by its letters.
fn date_usec(text: &str) -> Option<i64> {
    let words: Vec<&str> = text.lines().next()?.split_whitespace().collect();
    let [_, month, day, clock, zone, year] = words.as_slice() else { return None };
    if !["UTC", "GMT"].contains(zone) {
        return None;
    }
    let civil = jiff::civil::DateTime::strptime("%b %d %H:%M:%S %Y", format!("{month} {day} {clock} {year}")).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

fn is_read_as_text(part: &Part) -> bool {
    !matches!(part, Part::Objects | Part::Watch | Part::Tree { .. } | Part::Other)
}

/// A file that tells how much of it was read: one log may be all there is of gigabytes.
struct Told<'p> {
    file: File,
    n_read: u64,
    progress: &'p mut dyn FnMut(u64),
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = self.file.read(buffer)?;
        self.n_read += n_bytes as u64;
        (self.progress)(self.n_read);
        Ok(n_bytes)
    }
}

/// A log, unpacked while it is read where it is a `.gz`.
fn open_log<'p>(folder: &Folder, path: &Path, progress: &'p mut dyn FnMut(u64)) -> io::Result<Box<dyn BufRead + 'p>> {
    const BUFFER_BYTES: usize = 1 << 20;
    let file = Told { file: folder.open_file(path)?, n_read: 0, progress };
    if path.extension().is_some_and(|ending| ending == "gz") {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, flate2::read::MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}
