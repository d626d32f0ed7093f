//! `crictl` and `ctr`: what the container runtime says, if it says anything.
//!
//! Source: cri-tools `cmd/crictl`; the JSON of `crictl info` is the CRI's `StatusResponse`.

use serde_json::Value;

use crate::cri::RuntimeInfo;

/// A row of `crictl ps` or `crictl pods`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeRow {
    /// Id, perhaps shortened.
    pub id: String,
    /// `Running`, `Exited`, `Created`, `Ready`, `NotReady`.
    pub state: Option<String>,
    /// Name of the container, or of the pod.
    pub name: Option<String>,
    /// Namespace, of a pod.
    pub namespace: Option<String>,
    /// How often it was made before.
    pub n_attempts: Option<u32>,
}

/// A task of `ctr tasks ls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtrTask {
    /// Container id.
    pub id: String,
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// `RUNNING`, `STOPPED`, `UNKNOWN` …
    pub status: String,
}

/// The rows of a table whose columns are two spaces apart; `None` without a header of `crictl`.
#[must_use]
pub fn parse_crictl_table(text: &str) -> Option<Vec<RuntimeRow>> {
    let mut lines = text.lines();
    let header = lines.by_ref().find(|line| line.starts_with("CONTAINER ") || line.starts_with("POD ID "))?;
    let columns = cells(header);
    let at = |name: &str| columns.iter().position(|column| *column == name);
    let (state, name, attempt, namespace) = (at("STATE"), at("NAME"), at("ATTEMPT"), at("NAMESPACE"));
    let rows = lines.filter_map(|line| {
        let row = cells(line);
        let get = |index: Option<usize>| row.get(index?).map(|cell| (*cell).to_owned());
        Some(RuntimeRow {
            id: (*row.first().filter(|id| id.len() >= 8)?).to_owned(),
            state: get(state),
            name: get(name),
            namespace: get(namespace),
            n_attempts: get(attempt).and_then(|number| number.parse().ok()),
        })
    });
    Some(rows.collect())
}

fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

/// The conditions of `crictl info`; `None` when this is not its JSON.
#[must_use]
pub fn parse_crictl_info(text: &str) -> Option<RuntimeInfo> {
    let json: Value = serde_json::from_str(text.get(text.find('{')?..)?.trim()).ok()?;
    let conditions = json.get("status")?.get("conditions")?.as_array()?;
    let condition = |name: &str| conditions.iter().find(|row| row.get("type").and_then(Value::as_str) == Some(name));
    let is_true = |name: &str| condition(name)?.get("status")?.as_bool();
    let message = |name: &str| {
        let text = condition(name)?.get("message")?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    Some(RuntimeInfo {
        is_ready: is_true("RuntimeReady"),
        ready_message: message("RuntimeReady"),
        is_network_ready: is_true("NetworkReady"),
        network_message: message("NetworkReady"),
    })
}

/// The tasks; `None` without the header.
#[must_use]
pub fn parse_ctr_tasks(text: &str) -> Option<Vec<CtrTask>> {
    let mut lines = text.lines();
    lines.by_ref().find(|line| line.starts_with("TASK ") && line.contains("STATUS"))?;
    let rows = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some(CtrTask {
            id: words.next()?.to_owned(),
            pid: words.next()?.parse().ok()?,
            status: words.next()?.to_owned(),
        })
    });
    Some(rows.collect())
}
