//! What `kulprit -o json` answers, as far as the tests look at it. A field that is missing there fails the test here.

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use serde::Deserialize;
use ulid::Ulid;

/// An answer is one object with its rows in one field.
pub trait Answer {
    /// What a row is.
    type Row;
    /// The rows, in the order of the answer.
    fn rows(self) -> Vec<Self::Row>;
}

macro_rules! answer {
    ($name:ident { $field:ident: $row:ty }) => {
        #[doc = concat!("The answer with `", stringify!($field), "`.")]
        #[derive(Debug, Deserialize)]
        pub struct $name {
            $field: Vec<$row>,
        }

        impl Answer for $name {
            type Row = $row;
            fn rows(self) -> Vec<$row> {
                self.$field
            }
        }
    };
}

answer!(Diagnosis { verdicts: Verdict });
answer!(Incidents { incidents: Incident });
answer!(Findings { findings: Finding });
answer!(Vms { vms: Vm });
answer!(Nodes { nodes: NodeRow });

/// Why one VM or node is in trouble.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// Who.
    pub subject: Subject,
    /// Symptom id.
    pub symptom: String,
    /// `verdict`, `suspected` or `unexplained`.
    pub confidence: String,
    /// Likeliest first.
    pub causes: Vec<Cause>,
    /// What else is wrong.
    pub contributing: Vec<Cause>,
    /// Id of its incident; empty for none.
    #[serde(default)]
    pub incident: String,
}

impl Verdict {
    /// Id of the first cause; empty for none.
    #[must_use]
    pub fn first_cause(&self) -> &str {
        self.causes.first().map_or("", |cause| &cause.id)
    }
}

/// A VM on a node, or a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Subject {
    /// Name of the VM; empty for a node.
    #[serde(default)]
    pub name: String,
    /// Name of the node; empty for none.
    #[serde(default)]
    pub node: String,
}

/// One cause.
#[derive(Clone, Debug, Deserialize)]
pub struct Cause {
    /// Its id.
    pub id: String,
    /// 0 to 1.
    pub probability: f64,
    /// Which side it is on: `hosting`, `source`, `target`, `path` …
    #[serde(default)]
    pub role: String,
    /// Where it sits; empty for nowhere.
    #[serde(default)]
    pub node: String,
    /// Root first.
    pub chain: Vec<String>,
    /// What speaks for it and against it.
    pub evidence: Vec<Evidence>,
    /// Whether nothing of the VM lives or writes.
    pub safe_to_force_delete: bool,
}

/// What speaks for or against a cause, or for a finding.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Evidence {
    /// Words for a person.
    pub text: String,
}

/// One cause at one place.
#[derive(Clone, Debug, Deserialize)]
pub struct Incident {
    /// Its id.
    pub id: String,
    /// Root cause.
    pub cause: String,
    /// Where it sits.
    pub node: String,
    /// Whether it goes on.
    pub open: bool,
    /// Whom it touches.
    pub members: Vec<Member>,
}

impl Incident {
    /// When it was opened, to the millisecond: its id is made of that. `opened` in the answer has whole seconds.
    ///
    /// # Errors
    /// If its id is no ULID.
    pub fn opened(&self) -> Result<Timestamp> {
        let id = Ulid::from_string(&self.id).map_err(|_| anyhow!("incident `{}`", self.id))?;
        Ok(Timestamp::from_millisecond(i64::try_from(id.timestamp_ms())?)?)
    }
}

/// Somebody touched by an incident.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Who.
    pub subject: Subject,
}

/// A state or an occurrence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Finding {
    /// Its code.
    pub code: String,
    /// Node that found it.
    pub node: String,
    /// `fault` or `notice`.
    pub severity: String,
    /// What it is about.
    pub subject: String,
    /// Name of the VM it is about; empty for none or unknown.
    #[serde(default)]
    pub vm: String,
    /// `Present`, `Absent` or `Unknown`; none for an occurrence.
    #[serde(default)]
    pub status: Option<String>,
    /// How often an occurrence was seen.
    #[serde(default)]
    pub count: Option<u64>,
    /// When an occurrence was seen last, RFC 3339.
    #[serde(default)]
    pub last: Option<String>,
    /// What speaks for it.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// Facts of it by name, as `device_name`.
    #[serde(default)]
    pub attributes: serde_json::Value,
}

impl Finding {
    /// Whether it says that something is so, or has happened.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.status.as_deref().is_none_or(|status| status == "Present")
    }
}

/// A VM as its node shows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "VmRow")]
pub struct Vm {
    /// `namespace/name`, or its name alone if it has no namespace.
    pub name: String,
    /// libvirt's word for its state.
    pub state: String,
    /// The node that shows it.
    pub node: String,
    /// Its QEMU as its agent knows it.
    pub qemu_pid: Option<i32>,
}

#[derive(Deserialize)]
struct VmRow {
    #[serde(default)]
    namespace: String,
    name: String,
    state: String,
    node: String,
    qemu_pid: Option<i32>,
}

impl From<VmRow> for Vm {
    fn from(row: VmRow) -> Self {
        let VmRow { namespace, name, state, node, qemu_pid } = row;
        let name = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
        Self { name, state, node, qemu_pid }
    }
}

/// A node as central knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Whether its agent is heard.
    pub reporting: bool,
}
