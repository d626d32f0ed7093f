//! Incident ↔ message, for the query API and for the store.

use kulprit_proto::v1;
use ulid::Ulid;

use super::{Entry, Incident, Key, Member, Whom};

impl From<&Incident> for v1::Incident {
    fn from(incident: &Incident) -> Self {
        let Incident {
            id,
            key,
            node,
            opened_wall_usec,
            closed_wall_usec,
            quiet_since_wall_usec: _,
            members,
            timeline,
            probability,
            chain,
            merged_into,
        } = incident;
        Self {
            id: id.to_string(),
            cause: key.cause.clone(),
            node: node.clone(),
            is_open: incident.is_open(),
            opened_wall_usec: *opened_wall_usec,
            closed_wall_usec: closed_wall_usec.unwrap_or(0),
            members: members.iter().map(Into::into).collect(),
            timeline: timeline
                .iter()
                .map(|Entry { at_wall_usec, text }| v1::TimelineEntry {
                    at_wall_usec: *at_wall_usec,
                    text: text.clone(),
                })
                .collect(),
            probability: *probability,
            chain: chain.clone(),
            merged_into: merged_into.map(|id| id.to_string()).unwrap_or_default(),
            place: key.place.clone(),
            captures: Vec::new(),
        }
    }
}

impl From<&Member> for v1::IncidentMember {
    fn from(member: &Member) -> Self {
        let Member { whom, namespace, name, symptom, since_wall_usec, until_wall_usec, based_on: _ } = member;
        Self {
            subject: Some(v1::VerdictSubject {
                uid: whom.uid.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                node: whom.node.clone(),
            }),
            symptom: symptom.clone(),
            since_wall_usec: since_wall_usec.unwrap_or(0),
            until_wall_usec: until_wall_usec.unwrap_or(0),
        }
    }
}

/// What the store keeps of an incident beside its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aside {
    pub(crate) place: String,
    pub(crate) quiet_since_wall_usec: Option<i64>,
    /// One line per state a member is based on: the member's number, a tab, the state.
    pub(crate) based_on: String,
}

impl Incident {
    /// What its message leaves out.
    pub(crate) fn aside(&self) -> Aside {
        let lines = self
            .members
            .iter()
            .enumerate()
            .flat_map(|(n, member)| member.based_on.iter().map(move |state| format!("{n}\t{state}\n")));
        Aside {
            place: self.key.place.clone(),
            quiet_since_wall_usec: self.quiet_since_wall_usec,
            based_on: lines.collect(),
        }
    }

    /// Puts it together again; `None` if the message is none of ours.
    pub(crate) fn restore(wire: v1::Incident, aside: Aside) -> Option<Self> {
        let mut members: Vec<Member> = wire.members.into_iter().map(member).collect::<Option<_>>()?;
        for line in aside.based_on.lines() {
            let (n, state) = line.split_once('\t')?;
            members.get_mut(n.parse::<usize>().ok()?)?.based_on.push(state.to_owned());
        }
        Some(Self {
            id: Ulid::from_string(&wire.id).ok()?,
            key: Key { cause: wire.cause, place: aside.place },
            node: wire.node,
            opened_wall_usec: wire.opened_wall_usec,
            closed_wall_usec: some_unless_zero(wire.closed_wall_usec),
            quiet_since_wall_usec: aside.quiet_since_wall_usec,
            members,
            timeline: wire
                .timeline
                .into_iter()
                .map(|v1::TimelineEntry { at_wall_usec, text }| Entry { at_wall_usec, text })
                .collect(),
            probability: wire.probability,
            chain: wire.chain,
            merged_into: if wire.merged_into.is_empty() {
                None
            } else {
                Some(Ulid::from_string(&wire.merged_into).ok()?)
            },
        })
    }
}

fn member(wire: v1::IncidentMember) -> Option<Member> {
    let v1::VerdictSubject { uid, namespace, name, node } = wire.subject?;
    Some(Member {
        whom: Whom { node, uid },
        namespace,
        name,
        symptom: wire.symptom,
        since_wall_usec: some_unless_zero(wire.since_wall_usec),
        until_wall_usec: some_unless_zero(wire.until_wall_usec),
        based_on: Vec::new(),
    })
}

const fn some_unless_zero(usec: i64) -> Option<i64> {
    if usec == 0 { None } else { Some(usec) }
}
