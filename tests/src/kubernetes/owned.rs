//! Who wrote what of a node, by the API server's own book (`metadata.managedFields`), and whether central keeps to what is its own.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

/// Its field manager.
const CENTRAL: &str = "kulprit-central";

/// `"manager" "subresource"` of the others who own fields of a node, but those who only own the taints, which are one field to Kubernetes and whoever
/// wrote them last.
#[must_use]
pub fn others(node: &Value) -> BTreeSet<String> {
    let others = entries(node).filter(|entry| entry["manager"] != CENTRAL);
    let names = others.map(|entry| format!("{} {}", entry["manager"], entry["subresource"]));
    names.filter(|name| !name.contains("kubectl-taint")).collect()
}

/// How many conditions of a node are central's.
///
/// # Errors
/// If a field is central's that is not for it to write: all but conditions of its prefix, which it applies, and the list of taints.
pub fn n_conditions(node: &Value) -> Result<usize> {
    let ours = entries(node).filter(|entry| entry["manager"] == CENTRAL);
    let (of_status, of_node): (Vec<&Value>, Vec<&Value>) = ours.partition(|entry| entry["subresource"] == "status");
    for entry in of_node {
        ensure!(entry["subresource"].is_null(), "of another subresource: {entry}");
        let fields = &entry["fieldsV1"];
        ensure!(keys(fields) == ["f:spec"] && keys(&fields["f:spec"]) == ["f:taints"], "more than taints: {entry}");
    }
    let [status] = of_status[..] else { bail!("not one entry of the status: {of_status:?}") };
    ensure!(status["operation"] == "Apply", "not applied: {status}");
    let fields = &status["fieldsV1"];
    let is_it = keys(fields) == ["f:status"] && keys(&fields["f:status"]) == ["f:conditions"];
    ensure!(is_it, "more than conditions: {status}");
    let types = keys(&fields["f:status"]["f:conditions"]);
    let is_own = |key: &&str| key.starts_with("k:{\"type\":\"kulprit.io/");
    ensure!(types.iter().all(is_own), "conditions of others: {status}");
    Ok(types.len())
}

fn entries(node: &Value) -> impl Iterator<Item = &Value> {
    node["metadata"]["managedFields"].as_array().into_iter().flatten()
}

fn keys(fields: &Value) -> Vec<&str> {
    fields.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(operation: &str, subresource: &str, fields: &Value) -> Value {
        let mut entry = json!({"manager": CENTRAL, "operation": operation, "fieldsV1": fields});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    fn node(entries: &[Value]) -> Value {
        json!({"metadata": {"managedFields": entries}})
    }

    fn status() -> Value {
        let own = json!({"k:{\"type\":\"kulprit.io/KvmUnavailable\"}": {".": {}, "f:status": {}}});
        entry("Apply", "status", &json!({"f:status": {"f:conditions": own}}))
    }

    #[test]
    fn conditions_and_taints_are_centrals_to_write() {
        let taints = entry("Update", "", &json!({"f:spec": {"f:taints": {}}}));
        assert_eq!(n_conditions(&node(&[status()])).unwrap(), 1);
        assert_eq!(n_conditions(&node(&[taints, status()])).unwrap(), 1);
    }

    #[test]
    fn another_field_is_caught() {
        let labels = json!({"f:labels": {"f:a": {}}});
        let foreign = json!({"k:{\"type\":\"Ready\"}": {"f:status": {}}});
        for others in [
            vec![entry("Update", "", &json!({"f:metadata": labels, "f:spec": {"f:taints": {}}})), status()],
            vec![entry("Update", "", &json!({"f:metadata": labels})), status()],
            vec![entry("Update", "", &json!({"f:spec": {"f:taints": {}, "f:unschedulable": {}}})), status()],
            vec![entry("Update", "scale", &json!({"f:spec": {"f:taints": {}}})), status()],
            vec![entry("Apply", "status", &json!({"f:metadata": labels, "f:status": {"f:conditions": {}}}))],
            vec![entry("Apply", "status", &json!({"f:status": {"f:conditions": foreign}}))],
            vec![entry("Update", "status", &json!({"f:status": {"f:conditions": {}}}))],
            vec![],
        ] {
            assert!(n_conditions(&node(&others)).is_err(), "{others:?}");
        }
    }

    #[test]
    fn others_are_named_without_who_wrote_the_taints() {
        let of = |manager: &str| json!({"manager": manager, "subresource": "status"});
        let node = node(&[of("kubelet"), of("kubectl-taint"), of(CENTRAL)]);
        assert_eq!(others(&node), BTreeSet::from(["\"kubelet\" \"status\"".to_owned()]));
    }
}
