//! `truth.yaml`: what a case's verdict should be. Beside the case, never read by the diagnosis.

use std::path::Path;

use kulprit_diagnosis::catalogue;
use serde::Deserialize;

use crate::{error::CaseError, manifest::one_line};

/// What is expected of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expectation {
    /// The evidence is enough to name the cause.
    Attribute,
    /// It is not: `Unexplained` is right.
    Abstain,
    /// The cause is known, and is no host's.
    NoHostCause,
    /// Nothing is wrong: no cause is to be named.
    Healthy,
}

/// The truth of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// What is expected.
    pub expectation: Expectation,
    /// The right cause; `Unexplained` where nothing is to be named.
    pub cause: String,
    /// Other ids that are as right.
    pub accept: Vec<String>,
    /// The right role, if it is told.
    pub role: Option<String>,
    /// The right node, if it is told.
    pub node: Option<String>,
    /// Made from the texts that rules are made from too: shows that a cause can be named, says nothing of quality.
    pub is_constructed: bool,
}

#[derive(Debug, Deserialize)]
struct Raw {
    expected_cause: String,
    #[serde(default)]
    expect: Option<String>,
    #[serde(default)]
    accept: Vec<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    node: Option<String>,
    #[serde(default)]
    constructed: bool,
}

/// What `expected_cause` says where nothing is wrong.
const NOTHING: &str = "none";
const UNEXPLAINED: &str = "Unexplained";

/// Reads a truth; `path` is only for messages.
///
/// # Errors
/// [`CaseError::Manifest`] with what is wrong and what to write.
pub fn read(text: &str, path: &Path) -> Result<Truth, CaseError> {
    let wrong = |why: String| CaseError::Manifest { path: path.to_owned(), place: String::new(), why };
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: Raw = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| wrong(one_line(&error.without_snippet().to_string())))?;
    for id in std::iter::once(&raw.expected_cause).chain(&raw.accept) {
        if id != NOTHING && catalogue::find(id).is_none() {
            return Err(wrong(format!("no cause `{id}` in the catalogue: `kulprit causes` lists them")));
        }
    }
    let is_of_a_host = |id: &str| {
        let roles = catalogue::find(id).map(|cause| cause.roles).unwrap_or_default();
        roles.iter().any(|role| *role != catalogue::Role::Cluster && *role != catalogue::Role::Shared)
    };
    let expectation = match (raw.expect.as_deref(), raw.expected_cause.as_str()) {
        (_, NOTHING) => Expectation::Healthy,
        (Some("ABSTAIN"), _) | (None, UNEXPLAINED) => Expectation::Abstain,
        (Some("NO_HOST_CAUSE"), _) => Expectation::NoHostCause,
        (Some("ATTRIBUTE"), _) => Expectation::Attribute,
        (None, id) if is_of_a_host(id) => Expectation::Attribute,
        (None, _) => Expectation::NoHostCause,
        (Some(other), _) => {
            return Err(wrong(format!("expect is `{other}`; write ATTRIBUTE, ABSTAIN or NO_HOST_CAUSE")));
        }
    };
    let cause = if raw.expected_cause == NOTHING { UNEXPLAINED.to_owned() } else { raw.expected_cause };
    let told = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Truth {
        expectation,
        cause,
        accept: raw.accept,
        role: told(raw.role),
        node: told(raw.node),
        is_constructed: raw.constructed,
    })
}

impl Truth {
    /// Whether `id` is a right answer.
    #[must_use]
    pub fn accepts(&self, id: &str) -> bool {
        self.cause == id || self.accept.iter().any(|other| other == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_follows_from_the_cause_where_it_is_not_told() {
        for (text, want, cause) in [
            ("expected_cause: none", Expectation::Healthy, "Unexplained"),
            ("expected_cause: KubeletDown\nrole: hosting\nnode: ''", Expectation::Attribute, "KubeletDown"),
            ("expected_cause: GuestIgnoresShutdown", Expectation::NoHostCause, "GuestIgnoresShutdown"),
            ("expected_cause: Unexplained", Expectation::Abstain, "Unexplained"),
            ("expected_cause: KubeletDown\nexpect: ABSTAIN", Expectation::Abstain, "KubeletDown"),
        ] {
            let truth = read(text, Path::new("truth.yaml")).unwrap();
            assert_eq!((truth.expectation, truth.cause.as_str(), truth.node), (want, cause, None), "{text}");
        }
    }

    #[test]
    fn a_cause_that_is_none_is_named() {
        for (text, want) in [
            ("expected_cause: Gremlins", "no cause `Gremlins`"),
            ("expected_cause: KubeletDown\nexpect: MAYBE", "expect is `MAYBE`"),
            ("what: x", "expected_cause"),
        ] {
            let error = read(text, Path::new("truth.yaml")).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
