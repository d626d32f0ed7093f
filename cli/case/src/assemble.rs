//! From what the files say to a snapshot: names are joined, looks merged, and each node becomes a view.
//!
//! A VM has many names: its UID in Kubernetes, another in libvirt, `namespace_name` as a domain. Here every finding gets the one
//! under which the snapshot knows the VM. Two looks at one state are one state: what one of them saw is there.

use std::collections::BTreeMap;

use kulprit_cluster::{ClusterFinding, ClusterVm};
use kulprit_diagnosis::{NodeView, VmView};
use kulprit_judge::{OccurrenceVerdict, StateVerdict, Verdict};
use kulprit_model::{
    Attributes, Domain, Evidence, Finding, FindingCode, Moment, Occurrence, Qemu, State, Status, Subject,
    attribute::{POD, POD_UID, READ_FROM_USEC, READ_UNTIL_USEC, VMI, VOLUME},
};

use crate::gathered::{Gathered, LauncherSeen, Span};

/// Of one state or occurrence so many lines are kept, the first ones and the last.
const MAX_EVIDENCE: usize = 4;

/// Every name under which a VM is known, each with the one that the snapshot uses.
#[derive(Debug, Default)]
pub(crate) struct Names {
    canonical: BTreeMap<String, String>,
    /// Namespace and name of a canonical UID.
    named: BTreeMap<String, (String, String)>,
}

impl Names {
    /// The names that Kubernetes, launchers and libvirt tell.
    pub(crate) fn new<'a>(vms: &[ClusterVm], gathered: impl Iterator<Item = &'a Gathered> + Clone) -> Self {
        let mut names = Self::default();
        for vm in vms {
            names.add(&vm.uid, &vm.namespace, &vm.name);
            for uid in &vm.uids {
                names.canonical.insert(uid.clone(), vm.uid.clone());
            }
            for pod in vm.pods.iter().flat_map(|pod| pod.uid.iter().chain([&pod.name])).filter(|name| !name.is_empty())
            {
                names.canonical.insert(format!("pod/{pod}"), vm.uid.clone());
            }
        }
        for LauncherSeen { namespace, name, vmi_uid, pod_uid, .. } in gathered.clone().flat_map(|one| &one.launchers) {
            let known = names.canonical.get(&format!("{namespace}/{name}")).cloned();
            if let Some(pod_uid) = pod_uid {
                let vm = known.clone().unwrap_or_else(|| vmi_uid.clone());
                names.canonical.entry(format!("pod/{pod_uid}")).or_insert(vm);
            }
            match known {
                Some(uid) => {
                    names.canonical.entry(vmi_uid.clone()).or_insert(uid);
                }
                None => names.add(vmi_uid, namespace, name),
            }
        }
        for Domain { uid, name, .. } in gathered.clone().flat_map(|one| &one.domains) {
            names.alias(uid, name);
        }
        for qemu in gathered.flat_map(|one| &one.qemus) {
            if let Some(name) = &qemu.name {
                names.alias(&qemu.uid, name);
            }
        }
        names
    }

    fn add(&mut self, uid: &str, namespace: &str, name: &str) {
        for alias in [uid.to_owned(), format!("{namespace}/{name}"), format!("{namespace}_{name}")] {
            self.canonical.entry(alias).or_insert_with(|| uid.to_owned());
        }
        self.named.insert(uid.to_owned(), (namespace.to_owned(), name.to_owned()));
    }

    /// A domain's UUID stands for the VM that its name names.
    fn alias(&mut self, uid: &str, domain: &str) {
        if let Some(known) = self.canonical.get(domain).cloned() {
            self.canonical.entry(uid.to_owned()).or_insert(known);
        }
    }

    /// The UID that the snapshot uses.
    pub(crate) fn canonical(&self, uid: &str) -> String {
        self.canonical.get(uid).cloned().unwrap_or_else(|| uid.to_owned())
    }

    fn subject(&self, subject: Subject) -> Subject {
        match subject {
            Subject::Vm { uid } => Subject::Vm { uid: self.canonical(&uid) },
            other => other,
        }
    }
}

/// The view of one node; `at` is the moment of asking.
pub(crate) fn node_view(name: String, gathered: Gathered, names: &Names, at: Moment) -> NodeView {
    let Gathered { verdicts, qemus, domains, launchers, pings: _, spans, mut looked, problems: _, kept: _ } = gathered;
    let mut states: BTreeMap<(FindingCode, Subject), State> = BTreeMap::new();
    let mut occurrences = Occurrences::default();
    for verdict in verdicts {
        match verdict {
            Verdict::State(verdict) => {
                let state = state(verdict, names, at);
                // A pod that stands for no VM.
                if matches!(&state.subject, Subject::Vm { uid } if uid.starts_with("pod/")) {
                    continue;
                }
                let key = (state.code, state.subject.clone());
                match states.entry(key) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(state);
                    }
                    std::collections::btree_map::Entry::Occupied(mut entry) => merge(entry.get_mut(), state),
                }
            }
            Verdict::Occurrence(verdict) => occurrences.add(verdict, names),
        }
    }
    looked.extend(spans.iter().map(|span| span.probe));
    for probe in looked {
        let state = sighted(probe, &spans, at);
        states.insert((state.code, state.subject.clone()), state);
    }
    NodeView {
        name,
        is_reporting: true,
        last_heard_wall_usec: Some(at.wall_usec),
        vms: vms(qemus, domains, launchers, names).into(),
        states: states.into_values().collect::<Vec<_>>().into(),
        occurrences: occurrences.into_sorted().into(),
        cannot_show: Vec::new(),
    }
}

/// A killed QEMU has lost its arguments, and a few lines of `ps` have no parents: the only living QEMU of a node that is nobody's is
/// the VM's that is the only one there.
pub(crate) fn adopt_stray(view: &mut NodeView, vms: &[ClusterVm]) {
    let is_stray = |vm: &VmView| vm.qemu.is_some() && vm.name.is_empty() && vm.domain.is_none();
    let is_here = |vm: &&ClusterVm| {
        let told = [&vm.hosting, &vm.source, &vm.target].into_iter().flatten();
        told.chain(vm.pods.iter().filter_map(|pod| pod.node.as_ref())).any(|node| *node == view.name)
    };
    let mut here = vms.iter().filter(is_here);
    let (Some(owner), None) = (here.next(), here.next()) else { return };
    let is_known = view.vms.iter().any(|vm| vm.qemu.is_some() && !is_stray(vm));
    if is_known || view.vms.iter().filter(|vm| is_stray(vm)).count() != 1 {
        return;
    }
    let Some(index) = view.vms.iter().position(is_stray) else { return };
    let stray = view.vms.remove(index);
    let qemu = stray.qemu.map(|qemu| Qemu { uid: owner.uid.clone(), ..qemu });
    match view.vms.iter_mut().find(|vm| vm.uid == owner.uid) {
        Some(known) => known.qemu = qemu,
        None => view.vms.push(VmView {
            uid: owner.uid.clone(),
            namespace: Some(owner.namespace.clone()),
            name: owner.name.clone(),
            qemu,
            ..VmView::default()
        }),
    }
}

/// What pods say of whom nobody knows the node: it goes to each VM that the text names, and to the only VM there is. A state (a
/// migration's job) is its VM's wherever it was seen.
pub(crate) fn add_unplaced(vms: &mut [ClusterVm], verdicts: Vec<Verdict>, names: &Names, at: Moment) {
    let mut occurrences = Occurrences::default();
    for verdict in verdicts {
        match verdict {
            Verdict::Occurrence(verdict) => occurrences.add(verdict, names),
            Verdict::State(verdict) => {
                let state = state(verdict, names, at);
                let is_own = |vm: &&mut ClusterVm| matches!(&state.subject, Subject::Vm { uid } if *uid == vm.uid);
                if let Some(vm) = vms.iter_mut().find(is_own) {
                    let finding = Finding::State(state.clone());
                    vm.findings.push(ClusterFinding { side: None, node: None, finding });
                }
            }
        }
    }
    let is_alone = vms.len() == 1;
    for occurrence in occurrences.into_sorted() {
        for vm in vms.iter_mut().filter(|vm| is_alone || is_named(vm, &occurrence)) {
            let finding = Finding::Occurrence(occurrence.clone());
            vm.findings.push(ClusterFinding { side: None, node: None, finding });
        }
    }
}

/// Whether an occurrence names a VM, one of its pods or one of its volumes.
fn is_named(vm: &ClusterVm, occurrence: &Occurrence) -> bool {
    let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let named = |key| occurrence.attributes.get(key).map(last);
    let is_own_uid = matches!(&occurrence.subject, Subject::Vm { uid } if *uid == vm.uid);
    is_own_uid
        || named(VMI).is_some_and(|name| name == vm.name || vm.uids.contains(&name))
        || named(POD).is_some_and(|name| vm.pods.iter().any(|pod| pod.name == name))
        || named(POD_UID).is_some_and(|uid| vm.pods.iter().any(|pod| pod.uid.as_ref() == Some(&uid)))
        || named(VOLUME).is_some_and(|name| vm.volumes.contains(&name))
}

fn state(verdict: StateVerdict, names: &Names, at: Moment) -> State {
    let StateVerdict { code, subject, status, unknown_because, hold_key: _, since, attributes, evidence } = verdict;
    let seen = evidence.first().map_or(at, |line| line.at);
    State {
        code,
        subject: names.subject(subject),
        status,
        since: since.unwrap_or(seen),
        looked: at,
        unknown_because: (status == Status::Unknown)
            .then(|| unknown_because.unwrap_or_else(|| "not recorded".to_owned())),
        attributes,
        evidence,
    }
}

/// Two looks at one state: present if one of them saw it, unknown only if none could look.
fn merge(known: &mut State, other: State) {
    let rank = |status| match status {
        Status::Present => 2,
        Status::Absent => 1,
        Status::Unknown => 0,
    };
    match rank(known.status).cmp(&rank(other.status)) {
        std::cmp::Ordering::Less => *known = other,
        std::cmp::Ordering::Greater => {}
        std::cmp::Ordering::Equal => {
            known.since = known.since.min(other.since);
            for (key, value) in other.attributes.iter() {
                if known.attributes.get(key).is_none() {
                    known.attributes = std::mem::take(&mut known.attributes).with(key, value);
                }
            }
            known.evidence.extend(other.evidence);
            known.evidence.truncate(MAX_EVIDENCE);
        }
    }
}

/// A probe whose looks were recorded, with the stretch of its logs.
fn sighted(probe: &str, spans: &[Span], at: Moment) -> State {
    let own = || spans.iter().filter(|span| span.probe == probe);
    let from = own().map(|span| span.from_usec).min();
    let until = own().map(|span| span.until_usec).max();
    let since = from.map_or(at, |from| Moment { wall_usec: from, ..at });
    // A log none of whose lines has a time may end before the onset: it proves nothing, as one read only now.
    let is_log = matches!(probe, "kernel-log" | "text");
    let read_from = from.or(is_log.then_some(at.wall_usec));
    State {
        code: FindingCode::ProbeBlind,
        subject: Subject::Probe { name: probe.to_owned() },
        status: Status::Absent,
        since,
        looked: at,
        unknown_because: None,
        attributes: Attributes::new().with_some(READ_FROM_USEC, read_from).with_some(READ_UNTIL_USEC, until),
        evidence: Vec::new(),
    }
}

/// Occurrences by what they say, so that a line repeated for hours is one.
#[derive(Debug, Default)]
struct Occurrences(BTreeMap<(FindingCode, Subject, Attributes), Occurrence>);

impl Occurrences {
    fn add(&mut self, verdict: OccurrenceVerdict, names: &Names) {
        let OccurrenceVerdict { code, subject, at, count, attributes, evidence } = verdict;
        let subject = names.subject(subject);
        let key = (code, subject.clone(), attributes.clone());
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Occurrence { code, subject, first: at, last: at, count, attributes, evidence });
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.first = known.first.min(at);
                known.last = known.last.max(at);
                known.count = known.count.saturating_add(count);
                add_lines(&mut known.evidence, evidence);
            }
        }
    }

    fn into_sorted(self) -> Vec<Occurrence> {
        let mut occurrences: Vec<Occurrence> = self.0.into_values().collect();
        occurrences.sort_by(|a, b| {
            (a.first, a.code, &a.subject, &a.attributes).cmp(&(b.first, b.code, &b.subject, &b.attributes))
        });
        occurrences
    }
}

/// The first lines stay, and the last one is replaced.
fn add_lines(known: &mut Vec<Evidence>, more: Vec<Evidence>) {
    for line in more {
        if known.len() >= MAX_EVIDENCE {
            known.pop();
        }
        known.push(line);
    }
}

fn vms(qemus: Vec<Qemu>, domains: Vec<Domain>, launchers: Vec<LauncherSeen>, names: &Names) -> Vec<VmView> {
    let mut views: BTreeMap<String, VmView> = BTreeMap::new();
    let mut view = |uid: &str, called: Option<&str>| -> String {
        let uid = names.canonical(uid);
        let named = names.named.get(&uid);
        views.entry(uid.clone()).or_insert_with(|| VmView {
            uid: uid.clone(),
            namespace: named.map(|(namespace, _)| namespace.clone()),
            name: named.map(|(_, name)| name.clone()).or_else(|| called.map(ToOwned::to_owned)).unwrap_or_default(),
            ..VmView::default()
        });
        uid
    };
    let qemus: Vec<_> = qemus.into_iter().map(|qemu| (view(&qemu.uid, qemu.name.as_deref()), qemu)).collect();
    let domains: Vec<_> = domains.into_iter().map(|domain| (view(&domain.uid, Some(&domain.name)), domain)).collect();
    for launcher in launchers {
        view(&launcher.vmi_uid, Some(&launcher.name));
    }
    for (uid, qemu) in qemus {
        if let Some(view) = views.get_mut(&uid) {
            view.qemu.get_or_insert(Qemu { uid, ..qemu });
        }
    }
    for (uid, domain) in domains {
        if let Some(view) = views.get_mut(&uid) {
            view.domain.get_or_insert(Domain { uid, ..domain });
        }
    }
    views.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Moment {
        Moment { wall_usec: secs * 1_000_000, boottime_usec: 0 }
    }

    fn mk_vm() -> ClusterVm {
        ClusterVm {
            namespace: "prod".to_owned(),
            name: "db-0".to_owned(),
            uid: "vmi-1".to_owned(),
            uids: vec!["vmi-1".to_owned(), "vm-1".to_owned()],
            ..ClusterVm::default()
        }
    }

    fn mk_gathered(verdicts: Vec<Verdict>) -> Gathered {
        Gathered { verdicts, ..Gathered::default() }
    }

    #[test]
    fn every_name_of_a_vm_leads_to_one() {
        let domain = Domain {
            uid: "uuid-9".to_owned(),
            name: "prod_db-0".to_owned(),
            state: 1,
            reason: 1,
            since: at(0),
            is_persistent: true,
        };
        let launcher = LauncherSeen {
            pid: 7,
            namespace: "prod".to_owned(),
            name: "other".to_owned(),
            vmi_uid: "vmi-2".to_owned(),
            pod_uid: None,
        };
        let gathered = Gathered { domains: vec![domain], launchers: vec![launcher], ..Gathered::default() };
        let names = Names::new(&[mk_vm()], std::iter::once(&gathered));
        for (name, want) in [
            ("vm-1", "vmi-1"),
            ("prod/db-0", "vmi-1"),
            ("prod_db-0", "vmi-1"),
            ("uuid-9", "vmi-1"),
            ("prod_other", "vmi-2"),
            ("stranger", "stranger"),
        ] {
            assert_eq!(names.canonical(name), want);
        }
        let view = node_view("n1".to_owned(), gathered, &names, at(9));
        let uids: Vec<_> = view.vms.iter().map(|vm| (vm.uid.as_str(), vm.name.as_str())).collect();
        assert_eq!(uids, [("vmi-1", "db-0"), ("vmi-2", "other")]);
    }

    #[test]
    fn what_one_look_saw_is_there_whatever_the_others_say() {
        let look = |status| {
            Verdict::State(StateVerdict {
                status,
                ..StateVerdict::seen(FindingCode::KvmDeviceMissing, Subject::Node, false)
            })
        };
        for (looks, want) in [
            (vec![Status::Absent, Status::Present, Status::Unknown], Status::Present),
            (vec![Status::Unknown, Status::Absent], Status::Absent),
            (vec![Status::Unknown], Status::Unknown),
        ] {
            let gathered = mk_gathered(looks.iter().copied().map(look).collect());
            let view = node_view("n1".to_owned(), gathered, &Names::default(), at(9));
            assert_eq!(view.states[0].status, want, "{looks:?}");
            assert_eq!(view.states[0].unknown_because.is_some(), want == Status::Unknown);
        }
    }

    #[test]
    fn what_is_said_of_a_pod_is_its_vms_or_nobodys() {
        let pod = kulprit_cluster::PodRef {
            namespace: "prod".to_owned(),
            name: "virt-launcher-db-0-x7k2p".to_owned(),
            uid: Some("pod-uid-1".to_owned()),
            node: None,
            side: kulprit_model::Side::Hosting,
        };
        let vm = ClusterVm { pods: vec![pod], ..mk_vm() };
        for (said_of, want) in
            [("pod/pod-uid-1", Some("vmi-1")), ("pod/virt-launcher-db-0-x7k2p", Some("vmi-1")), ("pod/another", None)]
        {
            let full = StateVerdict::seen(FindingCode::VmFilesystemFull, Subject::vm(said_of), true);
            let gathered = mk_gathered(vec![Verdict::State(full)]);
            let names = Names::new(std::slice::from_ref(&vm), std::iter::once(&gathered));
            let view = node_view("n1".to_owned(), gathered, &names, at(9));
            let subjects: Vec<_> = view.states.iter().map(|state| state.subject.clone()).collect();
            assert_eq!(subjects, Vec::from_iter(want.map(Subject::vm)), "{said_of}");
        }
    }

    #[test]
    fn a_line_that_repeats_is_one_occurrence() {
        let said = |secs| {
            Verdict::Occurrence(OccurrenceVerdict {
                code: FindingCode::ErrorSaid,
                subject: Subject::Node,
                at: at(secs),
                count: 1,
                attributes: Attributes::new().with("class", "timeout"),
                evidence: vec![Evidence::new("kubelet", at(secs), secs.to_string())],
            })
        };
        let view = node_view("n1".to_owned(), mk_gathered((1..=9).map(said).collect()), &Names::default(), at(9));
        let [one] = view.occurrences.as_slice() else { panic!("{:?}", view.occurrences) };
        assert_eq!((one.first, one.last, one.count), (at(1), at(9), 9));
        let texts: Vec<_> = one.evidence.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["1", "2", "3", "9"]);
    }

    #[test]
    fn the_stretch_of_a_log_is_told_by_its_probe() {
        let span = |from_usec, until_usec| Span { probe: "kernel-log", file: "kmsg.log".into(), from_usec, until_usec };
        let gathered = Gathered { spans: vec![span(5, 8), span(2, 6)], ..Gathered::default() };
        let view = node_view("n1".to_owned(), gathered, &Names::default(), at(9));
        let attributes = &view.states[0].attributes;
        assert_eq!((attributes.number(READ_FROM_USEC), attributes.number(READ_UNTIL_USEC)), (Some(2), Some(8)));
    }

    #[test]
    fn a_log_without_a_time_was_read_only_now() {
        for (probe, from) in [("kernel-log", Some(at(9).wall_usec)), ("text", Some(at(9).wall_usec)), ("block", None)] {
            let attributes = sighted(probe, &[], at(9)).attributes;
            assert_eq!(
                (attributes.number(READ_FROM_USEC), attributes.number(READ_UNTIL_USEC)),
                (from, None),
                "{probe}"
            );
        }
    }

    #[test]
    fn a_qemu_without_a_name_is_the_only_vms_of_its_node() {
        let stray = || VmView {
            uid: "pid-7".to_owned(),
            qemu: Some(Qemu {
                uid: "pid-7".to_owned(),
                name: None,
                pid: 7,
                start_ticks: 0,
                since: at(0),
                disks: Vec::new(),
            }),
            ..VmView::default()
        };
        let here = |name: &str| ClusterVm { hosting: Some("n1".to_owned()), name: name.to_owned(), ..mk_vm() };
        let adopted = |strays: usize, vms: &[ClusterVm]| {
            let mut view = node_view("n1".to_owned(), Gathered::default(), &Names::default(), at(0));
            view.vms = (0..strays).map(|_| stray()).collect::<Vec<_>>().into();
            adopt_stray(&mut view, vms);
            view.vms.iter().filter(|vm| vm.name == "db-0").count()
        };
        assert_eq!(adopted(1, &[here("db-0")]), 1);
        assert_eq!(adopted(2, &[here("db-0")]), 0, "either may be its");
        assert_eq!(adopted(1, &[here("db-0"), here("db-1")]), 0, "it may be the other's");
        assert_eq!(adopted(1, &[mk_vm()]), 0, "it is not known to be there");
    }
}
