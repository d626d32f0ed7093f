//! Namespaces: their labels, by which migration policies and rules about pods choose them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Meta;

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Namespace {
    /// Its name and labels alone.
    pub(crate) meta: Meta,
}

impl Namespace {
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let Meta { name, labels, .. } = Meta::read(object)?;
        Some(Self { meta: Meta { name, labels, ..Meta::default() } })
    }

    pub(crate) const fn labels(&self) -> &BTreeMap<String, String> {
        &self.meta.labels
    }
}
