//! What a pod asks of other pods before it goes to a node: to be near some, away from others, spread evenly.
//!
//! Only what must hold is read; what is preferred ranks nodes and keeps a pod off none. `matchLabelKeys` of affinity stand in the
//! selector already: the API server puts them there; those of spread constraints it does since 1.34 only. Source: Kubernetes
//! `pkg/scheduler/framework/plugins/{interpodaffinity,podtopologyspread}`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Meta,
    selector::{Requirement, Selector},
};
use crate::value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// A pod's rules about others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodRules {
    /// Required affinity: pods that must be near, all terms of one pod.
    pub(crate) near: Vec<PodTerm>,
    /// Required anti-affinity: pods that must not be near.
    pub(crate) away: Vec<PodTerm>,
    /// Spreads that must hold.
    pub(crate) spreads: Vec<Spread>,
    /// Whether there are rules that only rank nodes.
    pub(crate) has_preferences: bool,
}

/// Which pods, and what near means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodTerm {
    /// Empty, and without a selector of namespaces: the namespace of the pod that has the rule.
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
    selector: Option<Selector>,
    /// Two nodes with the same value of this label are near.
    pub(crate) topology_key: String,
}

/// A spread over the values of a label of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// By how much the fullest place may be ahead of the emptiest.
    pub(crate) max_skew: i64,
    /// Nodes with the same value of this label are one place.
    pub(crate) topology_key: String,
    /// With fewer places the emptiest counts as 0.
    pub(crate) min_places: i64,
    /// Whether only nodes count that the pod's selector and affinity want.
    pub(crate) honors_affinity: bool,
    /// Whether only nodes count whose taints the pod tolerates.
    pub(crate) honors_taints: bool,
    selector: Option<Selector>,
}

impl PodRules {
    /// Of a pod's spec; `None` if it has none. `labels` are the pod's own.
    pub(crate) fn read(spec: &Value, labels: &BTreeMap<String, String>) -> Option<Self> {
        let affinity = value::at(spec, &["affinity"]);
        let terms = |kind: &str| value::list(affinity, &[kind, REQUIRED]).iter().map(PodTerm::read).collect();
        let is_preferred = |kind: &str| !value::list(affinity, &[kind, PREFERRED]).is_empty();
        let spreads = value::list(spec, &["topologySpreadConstraints"]);
        let must_hold =
            |spread: &&Value| value::text(spread, &["whenUnsatisfiable"]).as_deref() != Some("ScheduleAnyway");
        let rules = Self {
            near: terms("podAffinity"),
            away: terms("podAntiAffinity"),
            spreads: spreads.iter().filter(must_hold).map(|spread| Spread::read(spread, labels)).collect(),
            has_preferences: is_preferred("podAffinity")
                || is_preferred("podAntiAffinity")
                || !spreads.iter().all(|spread| must_hold(&spread)),
        };
        (rules != Self::default()).then_some(rules)
    }
}

impl PodTerm {
    fn read(term: &Value) -> Self {
        Self {
            namespaces: value::texts(term, &["namespaces"]),
            namespace_selector: Selector::read(value::at(term, &["namespaceSelector"])),
            selector: Selector::read(value::at(term, &["labelSelector"])),
            topology_key: value::text(term, &["topologyKey"]).unwrap_or_default(),
        }
    }

    /// Whether a pod is meant by the rule of a pod of the namespace `own`. `None`: that takes the labels of its namespace, which
    /// `labels_of` does not know.
    pub(crate) fn means<'l>(
        &self,
        own: &str,
        pod: &Meta,
        labels_of: impl FnOnce(&str) -> Option<&'l BTreeMap<String, String>>,
    ) -> Option<bool> {
        if !self.selector.as_ref().is_some_and(|selector| selector.fits(&pod.labels)) {
            return Some(false);
        }
        let is_named = self.namespaces.contains(&pod.namespace);
        match &self.namespace_selector {
            None if self.namespaces.is_empty() => Some(pod.namespace == own),
            None => Some(is_named),
            Some(_) if is_named => Some(true),
            Some(selector) if selector.is_empty() => Some(true),
            Some(selector) => labels_of(&pod.namespace).map(|labels| selector.fits(labels)),
        }
    }

    /// Whether whatever pods it means have this label, with one of these values if there are any.
    pub(crate) fn asks_for(&self, key: &str, values: &[&str]) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.asks_for(key, values))
    }
}

impl Spread {
    fn read(spread: &Value, labels: &BTreeMap<String, String>) -> Self {
        let selector = Selector::read(value::at(spread, &["labelSelector"]));
        let own = |key: String| labels.get(&key).map(|value| Requirement::is_one_of(key, vec![value.clone()]));
        let of_keys = value::texts(spread, &["matchLabelKeys"]).into_iter().filter_map(own);
        let is_policy = |name: &str, word: &str| value::text(spread, &[name]).as_deref() == Some(word);
        Self {
            max_skew: value::integer(spread, &["maxSkew"]).unwrap_or(1),
            topology_key: value::text(spread, &["topologyKey"]).unwrap_or_default(),
            min_places: value::integer(spread, &["minDomains"]).unwrap_or(1),
            honors_affinity: !is_policy("nodeAffinityPolicy", "Ignore"),
            honors_taints: is_policy("nodeTaintsPolicy", "Honor"),
            selector: of_keys
                .fold(selector, |selector, requirement| Some(selector.unwrap_or_default().and(requirement))),
        }
    }

    /// Whether a pod of its own namespace counts. A selector that fits everything counts none of those that are there.
    pub(crate) fn counts(&self, pod: &Meta) -> bool {
        pod.deleted_usec.is_none() && self.selector.as_ref().is_some_and(|own| !own.is_empty() && own.fits(&pod.labels))
    }

    /// Whether the pod that is to be placed will count.
    pub(crate) fn counts_itself(&self, pod: &Meta) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.fits(&pod.labels))
    }

    /// As [`PodTerm::asks_for`].
    pub(crate) fn asks_for(&self, key: &str, values: &[&str]) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.is_empty() || selector.asks_for(key, values))
    }
}
