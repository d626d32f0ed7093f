//! Makes another incident of a case: other names, UIDs, dates and addresses; one file less; noise.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use jiff::{Span, Timestamp, civil::Date};
use kulprit_case::manifest::{self, Manifest};
use regex::{Captures, Regex};

/// All dates move by this many days.
const DAYS: i64 = 37;
/// A case with more files than this is a recording, of which kinds of files are dropped.
const MAX_SINGLY: usize = 20;

/// The files of a case, as text.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(pub(super) BTreeMap<PathBuf, String>);

impl Files {
    /// Reads a folder.
    pub(super) fn read(folder: &kulprit_case::Folder) -> Self {
        let listing = folder.list();
        let text = |path: &PathBuf| folder.read_text(path, 64 << 20).expect("a file of a case can be read");
        Self(listing.files.iter().map(|path| (path.clone(), text(path))).collect())
    }

    /// Writes them into a folder of their own, in memory where the system offers it.
    pub(super) fn write(&self) -> tempfile::TempDir {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a temporary folder");
        for (path, text) in &self.0 {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    /// What can be dropped one at a time: every file of a small case, every kind of a recording. The manifest and the truth stay.
    pub(super) fn droppable(&self) -> Vec<PathBuf> {
        let is_recording = self.0.len() > MAX_SINGLY;
        let mut paths: Vec<PathBuf> = self.0.keys().map(|path| unit(path, is_recording)).collect();
        paths.dedup();
        paths.retain(|path| !["case.yaml", "truth.yaml", "watch.jsonl"].iter().any(|name| path == Path::new(name)));
        paths
    }

    /// Another incident of the same kind.
    pub(super) fn renamed(&self) -> Self {
        let names = self.names();
        let at = self.asked_at().to_zoned(jiff::tz::TimeZone::UTC).date();
        let change = |text: &str| shift_dates(&other_numbers(&replace_words(text, &names)), at);
        let path = |path: &PathBuf| {
            let text = path.to_string_lossy();
            PathBuf::from(other_numbers(&replace_words(&text, &names)))
        };
        Self(self.0.iter().map(|(own, text)| (path(own), change(text))).collect())
    }

    fn manifest(&self) -> Manifest {
        let text = self.0.get(Path::new("case.yaml")).expect("a manifest");
        manifest::read(text, Path::new("case.yaml")).expect("a manifest that reads")
    }

    fn asked_at(&self) -> Timestamp {
        Timestamp::from_microsecond(self.manifest().at_usec).expect("a time")
    }

    /// Names of the VM, its namespace and its nodes, each with another.
    fn names(&self) -> Vec<(String, String)> {
        let manifest = self.manifest();
        let mut names = Vec::new();
        if let Some(subject) = &manifest.subject {
            names.push((subject.name.clone(), "zz-ledger-7".to_owned()));
            if !["default", "kubevirt", ""].contains(&subject.namespace.as_str()) {
                names.push((subject.namespace.clone(), "zz-team".to_owned()));
            }
        }
        let nodes = self.0.keys().filter_map(|path| {
            let mut parts = path.components();
            let first = parts.next()?.as_os_str();
            (first == "nodes").then(|| parts.next())?.map(|part| part.as_os_str().to_string_lossy().into_owned())
        });
        let mut nodes: Vec<String> = nodes.collect();
        nodes.dedup();
        for (at, node) in nodes.into_iter().enumerate() {
            names.push((node, format!("zz-host-{at}")));
        }
        // As systemd escapes them in the names of units.
        let escaped = |name: &str| name.replace('-', "\\x2d");
        let as_units: Vec<_> = names.iter().map(|(name, other)| (escaped(name), escaped(other))).collect();
        names.extend(as_units.into_iter().filter(|(name, _)| name.contains('\\')));
        // A name that is a word of the field too would change what texts say.
        names.retain(|(name, _)| name.len() > 1 && !["vm", "node", "worker", "test", "prod_"].contains(&name.as_str()));
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        names
    }

    /// With healthy noise, and the faults of another VM on the same nodes.
    pub(super) fn with_noise(&self) -> Self {
        let mut files = self.clone();
        let nodes: Vec<PathBuf> = self
            .droppable()
            .iter()
            .filter_map(|path| {
                let mut parts = path.components();
                (parts.next()?.as_os_str() == "nodes")
                    .then(|| PathBuf::from("nodes").join(parts.next().expect("a node")))
            })
            .collect();
        let at = self.asked_at() - Span::new().seconds(90);
        let iso = at.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
        let syslog = at.strftime("%b %d %H:%M:%S").to_string();
        for node in nodes {
            let kubelet = files.0.entry(node.join("journal/kubelet.log")).or_default();
            kubelet.push_str(&format!(
                "\n{syslog} host kubelet[811]: E0000 \"Failed to ensure process in container with oom score\" err=\"failed to apply oom score -999 to PID 811: write /proc/811/oom_score_adj: permission denied\"\n"
            ));
            let log = files.0.entry(node.join("journal/cron.log")).or_default();
            log.push_str(&format!("{syslog} host CRON[99]: (root) CMD (run-parts --report /etc/cron.hourly)\n"));
        }
        files.0.insert(
            "pods/other_virt-launcher-bystander-x7x7x_compute.log".into(),
            format!("{{\"component\":\"virt-launcher\",\"level\":\"error\",\"msg\":\"internal error: End of file from qemu monitor (vm='other_bystander')\",\"pos\":\"qemuMonitorIO:600\",\"subcomponent\":\"libvirt\",\"timestamp\":\"{iso}\"}}\n"),
        );
        files.0.insert(
            "cluster/zz-bystander.yaml".into(),
            format!(
                "apiVersion: v1\nkind: List\nitems:\n- apiVersion: kubevirt.io/v1\n  kind: VirtualMachineInstance\n  metadata: {{name: bystander, namespace: other, uid: 99999999-0000-4000-8000-000000000001}}\n  status: {{phase: Running, nodeName: elsewhere}}\n- apiVersion: v1\n  kind: Event\n  metadata: {{name: bystander.1, namespace: other}}\n  involvedObject: {{kind: Pod, namespace: other, name: virt-launcher-bystander-x7x7x}}\n  reason: FailedMount\n  type: Warning\n  message: 'MountVolume.SetUp failed for volume \"pvc-of-bystander\" : mount failed: exit status 32'\n  lastTimestamp: '{iso}'\n"
            ),
        );
        files
    }
}

/// What is dropped together: a captured root is one thing; of a recording so are a node's logs, its commands and so on.
fn unit(path: &Path, is_recording: bool) -> PathBuf {
    let parts: Vec<_> = path.components().collect();
    let is_of_node = parts.len() > 3 && parts[0].as_os_str() == "nodes";
    let is_one = is_of_node && (is_recording || parts[2].as_os_str() == "root");
    if is_one { parts[..3].iter().collect() } else { path.to_owned() }
}

/// Replaces whole words only: a name inside another word is another word.
fn replace_words(text: &str, names: &[(String, String)]) -> String {
    let mut text = text.to_owned();
    for (name, other) in names {
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        let mut before: Option<char> = None;
        while let Some(at) = rest.find(name.as_str()) {
            let left = rest[..at].chars().next_back().or(before);
            let right = rest[at + name.len()..].chars().next();
            let is_word = [left, right].iter().all(|edge| edge.is_none_or(|edge| !edge.is_ascii_alphanumeric()));
            out.push_str(&rest[..at]);
            out.push_str(if is_word { other } else { name });
            before = name.chars().next_back();
            rest = &rest[at + name.len()..];
        }
        out.push_str(rest);
        text = out;
    }
    text
}

/// Other UIDs and addresses: each digit of a UID becomes another, an address of a private net another of it.
fn other_numbers(text: &str) -> String {
    static UID: LazyLock<Regex> = LazyLock::new(|| {
        // After `pod` of a cgroup, after `_` of a log's folder: no word begins there.
        Regex::new(r"(^|[^0-9a-f]|pod)([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
            .expect("a pattern")
    });
    static ADDRESS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b10\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\b").expect("a pattern"));
    let rotate = |groups: &Captures<'_>| {
        let digit =
            |c: char| c.to_digit(16).map_or(c, |value| char::from_digit((value + 5) % 16, 16).expect("a digit"));
        format!("{}{}", &groups[1], groups[2].chars().map(digit).collect::<String>())
    };
    let text = UID.replace_all(text, rotate);
    ADDRESS.replace_all(&text, "10.$2.$1.$3").into_owned()
}

/// Moves every date that a log or object writes, in whatever form; one without a year is of the year before `at`, as readers take it.
fn shift_dates(text: &str, at: Date) -> String {
    static ISO: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(20\d\d)-(\d\d)-(\d\d)(T|\b)").expect("a pattern"));
    static WITH_YEAR: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) ([ \d]\d) (\d\d:\d\d:\d\d) (20\d\d)\b").expect("a pattern")
    });
    static SYSLOG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?m)(^|\]: |kernel: )(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) ([ \d]\d) (\d\d:\d\d:\d\d)")
            .expect("a pattern")
    });
    static KLOG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b([IWEF])(\d\d)(\d\d) (\d\d:\d\d:\d\d\.\d+)").expect("a pattern"));
    static EPOCH: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\b(1[5-9]\d{8})([.:]\d+|\d{6})?\b").expect("a pattern"));
    let text = ISO.replace_all(text, |groups: &Captures<'_>| {
        moved(groups[1].parse().ok(), groups[2].parse().ok(), groups[3].parse().ok())
            .map_or_else(|| groups[0].to_owned(), |date| format!("{}{}", date.strftime("%Y-%m-%d"), &groups[4]))
    });
    let text = WITH_YEAR.replace_all(&text, |groups: &Captures<'_>| {
        moved(groups[4].parse().ok(), month(&groups[1]), groups[2].trim().parse().ok()).map_or_else(
            || groups[0].to_owned(),
            |date| format!("{} {} {}", date.strftime("%a %b %e"), &groups[3], date.year()),
        )
    });
    let text = SYSLOG.replace_all(&text, |groups: &Captures<'_>| {
        moved_without_year(at, month(&groups[2]), groups[3].trim().parse().ok()).map_or_else(
            || groups[0].to_owned(),
            |date| format!("{}{} {}", &groups[1], date.strftime("%b %e"), &groups[4]),
        )
    });
    let text = KLOG.replace_all(&text, |groups: &Captures<'_>| {
        moved_without_year(at, groups[2].parse().ok(), groups[3].parse().ok()).map_or_else(
            || groups[0].to_owned(),
            |date| format!("{}{} {}", &groups[1], date.strftime("%m%d"), &groups[4]),
        )
    });
    EPOCH
        .replace_all(&text, |groups: &Captures<'_>| {
            let secs: i64 = groups[1].parse().expect("digits");
            format!("{}{}", secs + DAYS * 86_400, groups.get(2).map_or("", |rest| rest.as_str()))
        })
        .into_owned()
}

fn month(name: &str) -> Option<i8> {
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    names.iter().position(|known| *known == name).and_then(|at| i8::try_from(at + 1).ok())
}

fn moved(year: Option<i16>, month: Option<i8>, day: Option<i8>) -> Option<Date> {
    Date::new(year?, month?, day?).ok()?.checked_add(Span::new().days(DAYS)).ok()
}

fn moved_without_year(at: Date, month: Option<i8>, day: Option<i8>) -> Option<Date> {
    let of = |year| Date::new(year, month?, day?).ok();
    let own = of(at.year()).filter(|date| *date <= at.saturating_add(Span::new().days(1)));
    let date = own.or_else(|| of(at.year() - 1)).or_else(|| of(at.year()))?;
    moved(Some(date.year()), month, day)
}

#[test]
fn dates_of_every_form_move_together() {
    for (text, want) in [
        ("at: 2026-03-01T10:15:00Z", "at: 2026-04-07T10:15:00Z"),
        ("[Thu Jan 11 08:05:30 2024] sd", "[Sat Feb 17 08:05:30 2024] sd"),
        ("Jun 23 10:10:34 hv kernel: x", "Jul 30 10:10:34 hv kernel: x"),
        ("E0116 01:43:40.722571    6715 x.go:1]", "E0222 01:43:40.722571    6715 x.go:1]"),
        ("audit(1735079251.599:81009)", "audit(1738276051.599:81009)"),
        ("btime 1772360100", "btime 1775556900"),
        ("12345 67890", "12345 67890"),
    ] {
        assert_eq!(shift_dates(text, Date::constant(2026, 8, 1)), want);
    }
}

#[test]
fn uids_are_replaced_wherever_they_stand() {
    const UID: &str = "6992a243-a0c3-4730-b40a-1f0e196f2469";
    const OTHER: &str = "bee7f798-f518-9c85-095f-64536eb479be";
    for form in ["uid: {}", "/kubepods/burstable/pod{}/x", "prod_virt-launcher-db-0_{}/compute", "{}"] {
        assert_eq!(other_numbers(&form.replace("{}", UID)), form.replace("{}", OTHER), "{form}");
    }
}

#[test]
fn names_are_replaced_as_words() {
    let names = [("n1".to_owned(), "zz".to_owned())];
    assert_eq!(replace_words("n1 in1 n1, n12 (n1) x-n1-y", &names), "zz in1 zz, n12 (zz) x-zz-y");
}
