//! How a fact becomes a finding: a state that an object shows, or an error that a text tells.
//!
//! Nothing is said without an object that shows it. A state whose beginning no object tells carries `first_look`.

use kulprit_model::{
    Attributes, Evidence, Finding, FindingCode, Moment, Occurrence, Side, State, Status, Subject,
    attribute::{FIRST_LOOK, OBJECT, REASON, UNDATED},
};
use kulprit_signature::{Peeled, Signatures, Speaker, Text};

use crate::{described::ClusterFinding, objects::Event};

/// Where something is: as far as that is certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) side: Option<Side>,
    pub(crate) node: Option<String>,
}

impl Spot {
    pub(crate) fn new(side: Side, node: Option<&str>) -> Self {
        Self { side: Some(side), node: node.map(ToOwned::to_owned) }
    }

    pub(crate) fn on(node: &str) -> Self {
        Self { side: None, node: Some(node.to_owned()) }
    }
}

/// A state that an object shows.
#[derive(Debug)]
pub(crate) struct Fact {
    code: FindingCode,
    status: Status,
    since_usec: Option<i64>,
    attributes: Attributes,
    source: &'static str,
    text: String,
    spot: Spot,
    is_of_node: bool,
}

impl Fact {
    /// Something is so. `source` is the kind of object, `text` what stands in it.
    pub(crate) fn present(code: FindingCode, source: &'static str, text: impl Into<String>) -> Self {
        Self {
            code,
            status: Status::Present,
            since_usec: None,
            attributes: Attributes::new(),
            source,
            text: text.into(),
            spot: Spot::default(),
            is_of_node: false,
        }
    }

    /// Something is not so: an object shows that.
    pub(crate) fn absent(code: FindingCode, source: &'static str, text: impl Into<String>) -> Self {
        Self { status: Status::Absent, ..Self::present(code, source, text) }
    }

    pub(crate) fn when(is: bool, code: FindingCode, source: &'static str, text: impl Into<String>) -> Self {
        if is { Self::present(code, source, text) } else { Self::absent(code, source, text) }
    }

    pub(crate) const fn since(mut self, usec: Option<i64>) -> Self {
        self.since_usec = usec;
        self
    }

    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.attributes = self.attributes.with(key, value);
        self
    }

    pub(crate) fn with_some(mut self, key: &str, value: Option<impl ToString>) -> Self {
        self.attributes = self.attributes.with_some(key, value);
        self
    }

    pub(crate) fn at(mut self, spot: &Spot) -> Self {
        self.spot = spot.clone();
        self
    }

    /// Its subject is the node, not the VM.
    pub(crate) const fn of_node(mut self) -> Self {
        self.is_of_node = true;
        self
    }
}

/// A text that may tell of trouble.
#[derive(Debug)]
pub(crate) struct Told<'t> {
    pub(crate) speaker: Speaker,
    pub(crate) reason: Option<&'t str>,
    pub(crate) text: &'t str,
    /// Kind of object: `event`, `pod`, `vmi` …
    pub(crate) source: &'static str,
    pub(crate) first_usec: Option<i64>,
    pub(crate) last_usec: Option<i64>,
    pub(crate) count: u64,
    pub(crate) spot: Spot,
    /// What the object adds to what the text names; the text wins.
    pub(crate) attributes: Attributes,
    /// What it says if no rule knows the text: actor, operation, class.
    pub(crate) otherwise: Option<[&'static str; 3]>,
}

impl<'t> Told<'t> {
    /// What an event says, of no place.
    pub(crate) fn of_event(event: &'t Event) -> Self {
        Self {
            speaker: event.speaker(),
            reason: event.reason.as_deref(),
            text: &event.message,
            source: "event",
            first_usec: event.first_usec,
            last_usec: event.last_usec,
            count: event.count,
            spot: Spot::default(),
            attributes: Attributes::new(),
            otherwise: None,
        }
    }
}

/// Collects findings about one VM, or one node.
pub(crate) struct Out<'s> {
    pub(crate) signatures: &'s Signatures,
    subject: Subject,
    at: Moment,
    /// Source and target of the migration in question.
    ends: [Option<String>; 2],
    findings: Vec<ClusterFinding>,
}

impl<'s> Out<'s> {
    pub(crate) const fn new(subject: Subject, at_usec: i64, signatures: &'s Signatures) -> Self {
        Self { signatures, subject, at: moment(at_usec), ends: [None, None], findings: Vec::new() }
    }

    /// The same, where texts may speak of either end of a migration.
    pub(crate) fn with_ends(mut self, source: Option<&str>, target: Option<&str>) -> Self {
        self.ends = [source.map(ToOwned::to_owned), target.map(ToOwned::to_owned)];
        self
    }

    /// The moment of asking.
    pub(crate) const fn at_usec(&self) -> i64 {
        self.at.wall_usec
    }

    /// Whether the scheduler's words that were taken in so far name a resource that no node has.
    pub(crate) fn is_refused_for(&self, resource: &str) -> bool {
        self.findings.iter().any(|of| {
            of.finding.code() == FindingCode::PodUnschedulable && of.finding.attributes().get(OBJECT) == Some(resource)
        })
    }

    pub(crate) fn push(&mut self, fact: Fact) {
        let Fact { code, status, since_usec, attributes, source, text, spot, is_of_node } = fact;
        let since_usec = since_usec.filter(|usec| *usec <= self.at.wall_usec);
        let is_unknown_begin = since_usec.is_none() && status == Status::Present;
        let attributes = attributes.with_some(FIRST_LOOK, is_unknown_begin.then_some(true));
        let since = since_usec.map_or(self.at, moment);
        let finding = Finding::State(State {
            code,
            subject: if is_of_node { Subject::Node } else { self.subject.clone() },
            status,
            since,
            looked: self.at,
            unknown_because: None,
            attributes,
            evidence: vec![Evidence::new(source, since, text)],
        });
        self.findings.push(ClusterFinding { side: spot.side, node: spot.node, finding });
    }

    /// Adds an occurrence of a code of its own.
    pub(crate) fn happened(&mut self, code: FindingCode, subject: Option<Subject>, told: Told<'_>) {
        let Told { text, source, first_usec, last_usec, count, spot, attributes, .. } = told;
        let at_usec = self.at.wall_usec;
        let last = last_usec.or(first_usec).map(|usec| usec.min(at_usec));
        if first_usec.is_some_and(|first| first > at_usec) {
            return;
        }
        let attributes = attributes.with_some(UNDATED, last.is_none().then_some(true));
        let last = last.unwrap_or(at_usec);
        let first = first_usec.unwrap_or(last).min(last);
        let mut evidence = vec![Evidence::new(source, moment(last), text)];
        if first != last {
            evidence.insert(0, Evidence::new(source, moment(first), text));
        }
        let finding = Finding::Occurrence(Occurrence {
            code,
            subject: subject.unwrap_or_else(|| self.subject.clone()),
            first: moment(first),
            last: moment(last),
            count: count.max(1),
            attributes,
            evidence,
        });
        self.findings.push(ClusterFinding { side: spot.side, node: spot.node, finding });
    }

    /// Adds what a text says, if it tells of a failure. Whether it did.
    pub(crate) fn said(&mut self, told: Told<'_>) -> bool {
        use kulprit_model::attribute::{ACTOR, CLASS, OPERATION, POD, SIDE};
        let text = Text { speaker: told.speaker, reason: told.reason, text: told.text };
        let said = match (self.signatures.peel(&text), told.otherwise) {
            (Peeled::Said(said), _) => said,
            (Peeled::Healthy, _) | (Peeled::Nothing, None) => return false,
            (Peeled::Nothing, Some([actor, operation, class])) => {
                Attributes::new().with(ACTOR, actor).with(OPERATION, operation).with(CLASS, class)
            }
        };
        let of_object = told.attributes.with_some(REASON, told.reason);
        let attributes: Attributes = of_object.iter().chain(said.iter()).collect();
        let mut spot = told.spot.clone();
        // A pod's text is of its pod. What a controller says of a migration may be about the other end.
        if attributes.get(POD).is_none()
            && let Some(side) = attributes.get(SIDE).and_then(|side| side.parse().ok())
            && spot.side != Some(side)
        {
            let [source, target] = &self.ends;
            spot = match side {
                Side::Source => Spot { side: Some(side), node: source.clone() },
                Side::Target => Spot { side: Some(side), node: target.clone() },
                Side::Hosting | Side::Path | Side::Shared | Side::Cluster => Spot { side: Some(side), node: None },
            };
        }
        self.happened(FindingCode::ErrorSaid, None, Told { attributes, spot, ..told });
        true
    }

    /// What was collected. That something is not so is left out where another object of the same place shows that it is.
    pub(crate) fn into_findings(self) -> Vec<ClusterFinding> {
        let present: Vec<(FindingCode, Option<Side>, Option<String>)> = self
            .findings
            .iter()
            .filter(|of| matches!(&of.finding, Finding::State(state) if state.status == Status::Present))
            .map(|of| (of.finding.code(), of.side, of.node.clone()))
            .collect();
        let mut kept: Vec<ClusterFinding> = Vec::new();
        for of in self.findings {
            let is_absent = matches!(&of.finding, Finding::State(state) if state.status == Status::Absent);
            let is_so_elsewhere = is_absent
                && present
                    .iter()
                    .any(|(code, side, node)| *code == of.finding.code() && *side == of.side && *node == of.node);
            let is_known = is_absent
                && kept.iter().any(|known| {
                    known.finding.code() == of.finding.code() && known.side == of.side && known.node == of.node
                });
            if !is_so_elsewhere && !is_known && !kept.contains(&of) {
                kept.push(of);
            }
        }
        kept
    }
}

/// A moment of which only the wall time is known.
pub(crate) const fn moment(usec: i64) -> Moment {
    Moment { wall_usec: usec, boottime_usec: usec }
}
