//! One object of an answer, whatever is in it.
//!
//! A page holds hundreds of objects of many people: each is parsed by itself, so that one of them that cannot be read (nested too deep, a
//! number that no machine has) costs nothing but itself. What nobody reads and takes much space is left out at once:
//! `managedFields` is up to half of an object.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use kulprit_cluster::{FIELD_MANAGER, Kind};

use super::kinds::Row;

/// What `kubectl apply` keeps of itself: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object with a name.
#[derive(Debug, PartialEq)]
pub(super) struct Object {
    /// Empty if it belongs to none.
    pub(super) namespace: String,
    pub(super) name: String,
    /// `resourceVersion`, if it tells one.
    pub(super) version: Option<String>,
    /// The object itself, or its name only.
    pub(super) value: Value,
    /// Whether nothing but its name could be read.
    pub(super) is_name_only: bool,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: PageMeta,
    /// `null` if there are none.
    #[serde(borrow, default)]
    pub(super) items: Option<Vec<&'a RawValue>>,
}

/// `metadata` of a list.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PageMeta {
    #[serde(default, rename = "resourceVersion")]
    pub(super) version: Option<String>,
    /// What to ask for the next page with; none or empty after the last.
    #[serde(default, rename = "continue")]
    pub(super) token: Option<String>,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`, `ERROR`.
    #[serde(borrow, rename = "type")]
    pub(super) what: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

impl Object {
    /// Reads an object of a row; `None` if it has no name.
    pub(super) fn read(text: &RawValue, row: &Row) -> Option<Self> {
        match serde_json::from_str(text.get()) {
            Ok(value) => Self::of_value(value, row),
            Err(_) => Self::of_name(text, row),
        }
    }

    fn of_value(value: Value, row: &Row) -> Option<Self> {
        let Value::Object(mut object) = value else { return None };
        let meta = object.get_mut("metadata")?.as_object_mut()?;
        let name = text_of(meta, "name")?;
        let namespace = text_of(meta, "namespace").unwrap_or_default();
        let version = text_of(meta, "resourceVersion");
        match meta.get_mut("managedFields") {
            // Of a node our own entry tells which conditions are ours.
            Some(Value::Array(entries)) if row.kind == Kind::Node => {
                entries.retain(|entry| entry["manager"] == FIELD_MANAGER);
            }
            Some(_) | None => drop(meta.remove("managedFields")),
        }
        if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
            annotations.remove(LAST_APPLIED);
        }
        // Elements of a list of the API server do not tell what they are.
        object.insert("kind".to_owned(), row.kind.as_str().into());
        object.insert("apiVersion".to_owned(), row.api_version().into());
        Some(Self { namespace, name, version, value: Value::Object(object), is_name_only: false })
    }

    /// What is not asked for is skipped without recursion, however deep.
    fn of_name(text: &RawValue, row: &Row) -> Option<Self> {
        #[derive(Deserialize)]
        struct Named {
            metadata: Name,
        }
        #[derive(Deserialize)]
        struct Name {
            name: String,
            #[serde(default)]
            namespace: String,
            #[serde(default, rename = "resourceVersion")]
            version: Option<String>,
        }
        let Named { metadata: Name { name, namespace, version } } = serde_json::from_str(text.get()).ok()?;
        let value = serde_json::json!({
            "apiVersion": row.api_version(), "kind": row.kind.as_str(), "metadata": {"name": name, "namespace": namespace},
        });
        Some(Self { namespace, name, version, value, is_name_only: true })
    }
}

/// A text, or a number as it is written; an empty one is none.
fn text_of(map: &Map<String, Value>, key: &str) -> Option<String> {
    match map.get(key)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `metadata.resourceVersion` of a bookmark, which has nothing else.
pub(super) fn version_of(text: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Bookmark {
        metadata: PageMeta,
    }
    serde_json::from_str::<Bookmark>(text.get()).ok()?.metadata.version.filter(|version| !version.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::kinds::ROWS;

    fn read(text: &str) -> Option<Object> {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        Object::read(raw, &ROWS[1])
    }

    #[test]
    fn of_a_node_only_our_own_entry_of_managed_fields_is_kept() {
        let text = json!({"metadata": {"name": "n1", "managedFields": [
            {"manager": "kubelet", "subresource": "status"}, {"manager": FIELD_MANAGER, "subresource": "status"}]}});
        let raw: Box<RawValue> = serde_json::from_str(&text.to_string()).unwrap();
        let row = ROWS.iter().find(|row| row.kind == Kind::Node).unwrap();
        let kept = Object::read(&raw, row).unwrap().value["metadata"]["managedFields"].clone();
        assert_eq!(kept, json!([{"manager": FIELD_MANAGER, "subresource": "status"}]));
        assert_eq!(read(&text.to_string()).unwrap().value["metadata"].get("managedFields"), None);
    }

    #[test]
    fn what_nobody_reads_is_left_out_and_the_kind_is_put_in() {
        let text = json!({"metadata": {"name": "db", "namespace": "prod", "resourceVersion": "7", "managedFields": [{}],
            "annotations": {LAST_APPLIED: "{}", "a": "b"}}, "spec": {"x": 1}, "future": [null]});
        let object = read(&text.to_string()).unwrap();
        assert_eq!(
            (object.namespace.as_str(), object.name.as_str(), object.version.as_deref()),
            ("prod", "db", Some("7"))
        );
        assert_eq!(
            object.value,
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "db", "namespace": "prod",
                "resourceVersion": "7", "annotations": {"a": "b"}}, "spec": {"x": 1}, "future": [null]})
        );
    }

    #[test]
    fn what_has_no_name_is_no_object() {
        for text in [
            "null",
            "[]",
            "3",
            "\"x\"",
            "{}",
            r#"{"metadata":null}"#,
            r#"{"metadata":"x"}"#,
            r#"{"metadata":[{"name":"x"}]}"#,
            r#"{"metadata":{"name":null}}"#,
            r#"{"metadata":{"name":""}}"#,
            r#"{"metadata":{"name":{"name":"x"}}}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn fields_of_wrong_types_cost_only_themselves() {
        let object = read(
            r#"{"kind":7,"apiVersion":[],"metadata":{"name":5,"namespace":null,"resourceVersion":{},"annotations":"x","labels":3,"managedFields":"x"},"status":7}"#,
        )
        .unwrap();
        assert_eq!((object.namespace.as_str(), object.name.as_str(), object.version), ("", "5", None));
        assert_eq!(object.value["kind"], "VirtualMachine");
        assert_eq!(object.value["status"], 7);
    }

    #[test]
    fn an_object_that_cannot_be_read_still_has_its_name() {
        let deep = format!(
            r#"{{"metadata":{{"name":"db","namespace":"prod","resourceVersion":"7","x":{}{}}}}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        let huge = r#"{"metadata":{"name":"db","namespace":"prod","resourceVersion":"7"},"spec":1e999}"#;
        for text in [deep.as_str(), huge] {
            let object = read(text).unwrap();
            assert!(object.is_name_only);
            assert_eq!((object.name.as_str(), object.version.as_deref()), ("db", Some("7")));
            assert_eq!(object.value["metadata"], json!({"name": "db", "namespace": "prod"}));
        }
    }

    #[test]
    fn a_page_is_read_without_reading_its_objects() {
        let text = format!(
            r#"{{"kind":"PodList","metadata":{{"resourceVersion":"9","continue":"t","future":1}},"items":[{}{},1e999,null]}}"#,
            "[".repeat(5_000),
            "]".repeat(5_000)
        );
        let page: Page<'_> = serde_json::from_str(&text).unwrap();
        assert_eq!(page.items.unwrap().len(), 3);
        assert_eq!((page.metadata.version.as_deref(), page.metadata.token.as_deref()), (Some("9"), Some("t")));
        let empty: Page<'_> = serde_json::from_str(r#"{"items":null}"#).unwrap();
        assert!(empty.items.is_none());
    }
}
