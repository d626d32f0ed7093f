//! Selectors of labels, as affinity, spread constraints and namespaces are chosen with.
//!
//! Source: Kubernetes `apimachinery/pkg/apis/meta/v1` (`LabelSelectorAsSelector`), `apimachinery/pkg/labels`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::value;

/// Everything in it must hold; an empty one fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

/// What is asked of one label, or of one field of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    operator: String,
    values: Vec<String>,
}

impl Selector {
    /// `matchLabels` and `matchExpressions`. `None` if there is none: that fits nothing.
    pub(crate) fn read(selector: &Value) -> Option<Self> {
        selector.is_object().then(|| {
            let labels = value::map(selector, &["matchLabels"]).into_iter();
            let labels = labels.map(|(key, value)| Requirement::is_one_of(key, vec![value]));
            let expressions = value::list(selector, &["matchExpressions"]).iter().filter_map(Requirement::read);
            Self(labels.chain(expressions).collect())
        })
    }

    /// The same, with one more requirement.
    pub(crate) fn and(mut self, requirement: Requirement) -> Self {
        self.0.push(requirement);
        self
    }

    pub(crate) fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels.get(&requirement.key).map(String::as_str)))
    }

    /// Whether it fits everything.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether whatever it fits has this label, with one of these values if there are any.
    pub(crate) fn asks_for(&self, key: &str, values: &[&str]) -> bool {
        self.0.iter().filter(|requirement| requirement.key == key).any(|requirement| {
            let is_among = |value: &String| values.is_empty() || values.contains(&value.as_str());
            match requirement.operator.as_str() {
                "In" => requirement.values.iter().all(is_among),
                "Exists" => values.is_empty(),
                _ => false, // fits objects without the label, or with any value
            }
        })
    }
}

impl Requirement {
    /// One of `matchExpressions` or `matchFields`.
    pub(crate) fn read(one: &Value) -> Option<Self> {
        let operator = value::text(one, &["operator"])?;
        Some(Self { key: value::text(one, &["key"])?, operator, values: value::texts(one, &["values"]) })
    }

    /// The label has one of these values.
    pub(crate) fn is_one_of(key: String, values: Vec<String>) -> Self {
        Self { key, operator: "In".to_owned(), values }
    }

    /// Whether it holds of what was found under its key.
    pub(crate) fn holds(&self, found: Option<&str>) -> bool {
        let is_one = |found: &str| self.values.iter().any(|value| value == found);
        let number = |text: &str| text.parse::<i64>().ok();
        let bound = || number(self.values.first()?);
        match self.operator.as_str() {
            "In" => found.is_some_and(is_one),
            "NotIn" => !found.is_some_and(is_one),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            "Gt" => found.and_then(number).zip(bound()).is_some_and(|(found, bound)| found > bound),
            "Lt" => found.and_then(number).zip(bound()).is_some_and(|(found, bound)| found < bound),
            // A word of a newer Kubernetes: nothing says that it does not fit.
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(selector: Value, want: bool) {
        let labels = [("app", "db"), ("tier", "gold")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(Selector::read(&selector).map(|read| read.fits(&labels)), Some(want), "{selector}");
    }

    #[test]
    fn everything_in_a_selector_must_hold() {
        let expression = |key: &str, operator: &str| json!({"matchExpressions": [{"key": key, "operator": operator, "values": ["db"]}]});
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "db", "tier": "gold"}}), true);
        check(json!({"matchLabels": {"app": "db", "tier": "silver"}}), false);
        check(expression("app", "In"), true);
        check(expression("app", "NotIn"), false);
        check(expression("zone", "NotIn"), true);
        check(expression("zone", "Exists"), false);
        check(expression("zone", "DoesNotExist"), true);
        check(
            json!({"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "zone", "operator": "Exists"}]}),
            false,
        );
        assert_eq!(Selector::read(&Value::Null), None, "no selector is not an empty one");
    }

    #[test]
    fn what_a_selector_asks_for_is_on_all_that_it_fits() {
        let asks = |selector: Value, values: &[&str]| Selector::read(&selector).unwrap().asks_for("app", values);
        let one_of = |operator: &str| json!({"matchExpressions": [{"key": "app", "operator": operator, "values": ["db", "web"]}]});
        assert!(asks(json!({"matchLabels": {"app": "db"}}), &["db"]) && asks(one_of("In"), &["db", "web", "x"]));
        assert!(!asks(one_of("In"), &["db"]) && !asks(one_of("NotIn"), &["db", "web"]) && !asks(json!({}), &[]));
        assert!(asks(one_of("In"), &[]) && asks(one_of("Exists"), &[]) && !asks(one_of("Exists"), &["db"]));
    }
}
