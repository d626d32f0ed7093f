//! Answers with what somebody may not get left out. Pure.
//!
//! What is left out counts for nothing in what is shown: an incident is asked for, listed and named as if it touched only whom he may see. A
//! timeline names everybody, so he is given another one, of what he may see.

use std::{collections::BTreeMap, sync::Arc};

use kulprit_diagnosis::Snapshot;
use kulprit_model::Subject;
use kulprit_proto::v1::{self, node_finding::Finding};

use crate::{
    access::rights::{About, Key, Sight},
    incident::{Entry, Incident, Incidents, Key as IncidentKey, Member, title},
};

/// Whose VM a UID is: namespace and name, by Kubernetes where it knows the UID, whatever a host says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners(BTreeMap<String, Key>);

impl Owners {
    /// Of every VM that is known.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let of_hosts = snapshot.nodes.iter().flat_map(|node| &*node.vms);
        let of_hosts = of_hosts.map(|vm| (vm.uid.clone(), (vm.namespace.clone().unwrap_or_default(), vm.name.clone())));
        let of_cluster = snapshot.cluster_vms.iter().flat_map(|vm| {
            let uids = vm.uids.iter().chain([&vm.uid]);
            uids.map(move |uid| (uid.clone(), (vm.namespace.clone(), vm.name.clone())))
        });
        // The later one of a UID stays.
        Self(of_hosts.chain(of_cluster).collect())
    }

    /// Namespace and name; `None` for a VM that is gone, or was never there.
    pub(super) fn key(&self, uid: &str) -> Option<&Key> {
        self.0.get(uid)
    }

    /// What has to be asked to know which of these VMs may be shown.
    pub(super) fn about<'a>(&self, uids: impl IntoIterator<Item = &'a str>) -> About {
        About::namespaces(uids.into_iter().filter_map(|uid| Some(self.key(uid)?.0.clone())))
    }

    fn is_shown(&self, uid: &str, sight: &Sight) -> bool {
        match self.key(uid) {
            Some((namespace, name)) => sight.shows_vm(namespace, name),
            None => sight.shows_all(),
        }
    }
}

/// Namespaces of whom verdicts are about.
pub(super) fn about_verdicts(verdicts: &[v1::Verdict]) -> About {
    About::namespaces(verdicts.iter().filter_map(|verdict| Some(verdict.subject.as_ref()?.namespace.clone())))
}

/// Those about whom somebody may be told.
pub(super) fn verdicts(verdicts: &mut Vec<v1::Verdict>, sight: &Sight) {
    verdicts.retain(|verdict| match &verdict.subject {
        Some(v1::VerdictSubject { uid, namespace, name, .. }) if !uid.is_empty() => sight.shows_vm(namespace, name),
        Some(_) | None => sight.shows_nodes(),
    });
}

/// VMs that somebody may be shown.
pub(super) fn vms(vms: &mut Vec<v1::Vm>, owners: &Owners, sight: &Sight) {
    vms.retain(|vm| owners.is_shown(&vm.uid, sight));
}

/// UID of the VM that a finding is about.
pub(super) fn vm_of(finding: &v1::NodeFinding) -> Option<String> {
    let subject = match finding.finding.as_ref()? {
        Finding::State(state) => &state.subject,
        Finding::Occurrence(occurrence) => &occurrence.subject,
    };
    match subject.parse() {
        Ok(Subject::Vm { uid }) => Some(uid),
        _ => None,
    }
}

/// Findings of nodes, without those of VMs that somebody may not get, and without such VMs' names.
pub(super) fn findings(findings: &mut Vec<v1::NodeFinding>, owners: &Owners, sight: &Sight) {
    findings.retain_mut(|finding| match vm_of(finding) {
        Some(uid) => owners.is_shown(&uid, sight),
        None => {
            if !sight.shows_all_vms() {
                finding.vm_name.clear();
            }
            true
        }
    });
}

/// What has to be asked to know what may be shown of these incidents; only of those that touch a namespace if it is not empty.
pub(super) fn about(incidents: &Incidents, namespace: &str) -> About {
    let wanted = incidents
        .iter()
        .filter(|incident| namespace.is_empty() || incident.members.iter().any(|member| member.namespace == namespace));
    let namespaces = wanted.flat_map(|incident| incident.members.iter().map(|member| member.namespace.clone()));
    About::namespaces(namespaces.chain([namespace.to_owned()]))
}

/// Incidents as somebody may see them.
pub(super) fn incidents(incidents: &Arc<Incidents>, sight: &Sight) -> Arc<Incidents> {
    if sight.shows_all() {
        return Arc::clone(incidents);
    }
    Arc::new(incidents.iter().filter_map(|incident| narrowed(incident, sight)).collect())
}

/// An incident as somebody may see it: whom it touches of those that he may get; `None` if he may see nothing of it.
fn narrowed(incident: &Incident, sight: &Sight) -> Option<Incident> {
    let is_shown = |member: &&Member| match member.whom.uid.as_str() {
        "" => sight.shows_nodes(),
        _ => sight.shows_vm(&member.namespace, &member.name),
    };
    let members: Vec<Member> = incident.members.iter().filter(is_shown).cloned().collect();
    let of_vm = vm_of_place(&incident.key.place);
    if members.is_empty() && (of_vm.is_some() || !sight.shows_nodes()) {
        return None;
    }
    let is_of_another = of_vm.is_some_and(|uid| members.iter().all(|member| member.whom.uid != uid));
    let place = if is_of_another { String::new() } else { incident.key.place.clone() };
    let Incident {
        id,
        key,
        node,
        opened_wall_usec,
        closed_wall_usec,
        quiet_since_wall_usec,
        members: _,
        timeline: _,
        probability,
        chain,
        merged_into,
    } = incident;
    Some(Incident {
        id: *id,
        key: IncidentKey { cause: key.cause.clone(), place },
        node: node.clone(),
        opened_wall_usec: *opened_wall_usec,
        closed_wall_usec: *closed_wall_usec,
        quiet_since_wall_usec: *quiet_since_wall_usec,
        timeline: timeline(incident, &members),
        members,
        probability: *probability,
        chain: chain.clone(),
        merged_into: *merged_into,
    })
}

/// The VM in a place's key, as `Place` writes it.
fn vm_of_place(place: &str) -> Option<&str> {
    let parts: Vec<&str> = place.split('/').collect();
    match parts.as_slice() {
        ["node", _, "vm", uid] | ["cluster", "vm", uid] => Some(uid),
        _ => None,
    }
}

fn timeline(incident: &Incident, members: &[Member]) -> Vec<Entry> {
    let entry = |at_wall_usec, text: String| Entry { at_wall_usec, text };
    let mut entries = vec![entry(incident.opened_wall_usec, format!("opened: {}", incident.key.cause))];
    entries.extend(members.iter().filter_map(|member| {
        let title = title(&member.whom, &member.namespace, &member.name);
        Some(entry(member.until_wall_usec?, format!("{title}: {} is over", member.symptom)))
    }));
    entries.extend(incident.closed_wall_usec.map(|closed| entry(closed, "closed".to_owned())));
    entries.sort_by_key(|entry| entry.at_wall_usec);
    entries
}

/// Captures of an incident: of VMs that it is shown to touch, for who may get nodes as well.
pub(super) fn captures(captures: &mut Vec<v1::Capture>, incident: &Incident, sight: &Sight) {
    if sight.shows_all() {
        return;
    }
    captures.retain(|capture| {
        let uid = capture.result.as_ref().map(|result| result.vm_uid.as_str()).unwrap_or_default();
        sight.shows_nodes() && incident.members.iter().any(|member| !uid.is_empty() && member.whom.uid == uid)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::rights::Resource,
        incident::{
            Whom,
            testing::{incident, member},
        },
    };

    fn touching(members: &[(&str, &str)]) -> Incident {
        let mut shown = incident(1, "LocalDiskStalled", "n1");
        shown.members = members.iter().map(|(namespace, name)| member(namespace, name, "n1")).collect();
        shown.timeline = vec![Entry { at_wall_usec: 1, text: "test/secret on n1: StuckStopping".to_owned() }];
        shown
    }

    fn of(namespace: &str) -> Sight {
        Sight::of([Resource::Vm.within(namespace)])
    }

    fn names(incident: &Incident) -> Vec<&str> {
        incident.members.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn an_incident_touches_only_whom_may_be_seen_and_tells_of_nobody_else() {
        let mut both = touching(&[("prod", "db-0"), ("test", "secret")]);
        both.members[0].until_wall_usec = Some(5);
        both.closed_wall_usec = Some(9);
        let seen = narrowed(&both, &of("prod")).unwrap();
        assert_eq!(names(&seen), ["db-0"]);
        assert!(!format!("{seen:?}").contains("secret"), "{seen:?}");
        let texts: Vec<&str> = seen.timeline.iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(texts, ["opened: LocalDiskStalled", "prod/db-0 on n1: StuckStopping is over", "closed"]);
        assert_eq!(narrowed(&both, &of("stage")), None);
        assert_eq!(narrowed(&both, &Sight::default()), None);
        let all: Arc<Incidents> = Arc::new([both.clone()].into_iter().collect());
        assert!(Arc::ptr_eq(&incidents(&all, &Sight::whole()), &all));
        assert_eq!(incidents(&all, &of("stage")).n_kept(), 0);
    }

    #[test]
    fn who_may_get_nodes_sees_what_sits_on_them_and_not_whom_it_touches() {
        let nodes = Sight::of([Resource::Node.all()]);
        let seen = narrowed(&touching(&[("test", "secret")]), &nodes).unwrap();
        assert!(seen.members.is_empty() && !format!("{seen:?}").contains("secret"), "{seen:?}");
        let mut of_vm = touching(&[("test", "secret")]);
        for place in ["node/n1/vm/secret", "cluster/vm/secret"] {
            of_vm.key.place = place.to_owned();
            assert_eq!(narrowed(&of_vm, &nodes), None, "what is one VM's is its owner's");
        }
        let mut of_node = touching(&[]);
        of_node.members =
            vec![Member { whom: Whom { node: "n1".to_owned(), uid: String::new() }, ..member("", "", "n1") }];
        assert_eq!(narrowed(&of_node, &nodes).unwrap().members.len(), 1);
        assert_eq!(narrowed(&of_node, &of("prod")), None);
    }

    #[test]
    fn the_place_of_an_incident_names_no_vm_that_may_not_be_seen() {
        let mut both = touching(&[("prod", "db-0"), ("test", "secret")]);
        both.key.place = "node/n1/vm/secret".to_owned();
        assert_eq!(narrowed(&both, &of("prod")).unwrap().key.place, "");
        assert_eq!(narrowed(&both, &of("test")).unwrap().key.place, "node/n1/vm/secret");
    }

    #[test]
    fn verdicts_of_nodes_and_of_others_vms_are_left_out() {
        let verdict = |uid: &str, namespace: &str| {
            let subject =
                v1::VerdictSubject { uid: uid.to_owned(), namespace: namespace.to_owned(), ..Default::default() };
            v1::Verdict { subject: Some(subject), ..Default::default() }
        };
        let all = vec![verdict("a", "prod"), verdict("b", "test"), verdict("", ""), verdict("plain", "")];
        let shown = |sight: &Sight| {
            let mut left = all.clone();
            verdicts(&mut left, sight);
            left.into_iter().map(|one| one.subject.unwrap().uid).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&of("prod")), "a");
        assert_eq!(shown(&Sight::of([Resource::Node.all()])), " plain");
        assert_eq!(shown(&Sight::whole()), "a b  plain");
        assert_eq!(about_verdicts(&all), About::namespaces(["prod", "test"].map(str::to_owned)));
    }

    #[test]
    fn captures_are_for_who_may_get_both() {
        let of_vm = |uid: &str| v1::Capture {
            node: "n1".to_owned(),
            result: Some(v1::CaptureResult { vm_uid: uid.to_owned(), ..Default::default() }),
        };
        let both = touching(&[("prod", "db-0"), ("test", "secret")]);
        let shown = |sight: &Sight| {
            let mut left = vec![of_vm("db-0"), of_vm("secret"), of_vm("")];
            let seen = narrowed(&both, sight).unwrap_or_else(|| touching(&[]));
            captures(&mut left, &seen, sight);
            left.len()
        };
        assert_eq!(shown(&of("prod")), 0);
        assert_eq!(shown(&Sight::of([Resource::Node.all()])), 0);
        assert_eq!(shown(&Sight::of([Resource::Node.all(), Resource::Vm.within("prod")])), 1);
        assert_eq!(shown(&Sight::whole()), 3);
    }
}
