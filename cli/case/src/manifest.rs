//! `case.yaml`: the moment of asking, whom it is about, and hints where nodes are. Source: the format of recorded cases.

use std::path::Path;

use serde::Deserialize;

use crate::error::CaseError;

/// A case's manifest, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The moment of asking, Unix microseconds.
    pub at_usec: i64,
    /// Whom the case is about; `None`: every VM with a symptom.
    pub subject: Option<SubjectName>,
    /// The node that the case is about, where it is about no VM.
    pub node: Option<String>,
    /// Hints where it runs.
    pub nodes: NodeHints,
}

/// Whom a case is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectName {
    /// Namespace; may be empty where the name says enough.
    pub namespace: String,
    /// Name of the VM.
    pub name: String,
    /// Name of a migration of it.
    pub migration: Option<String>,
}

/// Where the VM and the ends of its migration are, if the objects do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeHints {
    /// The node that hosts it.
    pub hosting: Option<String>,
    /// The node a migration leaves.
    pub source: Option<String>,
    /// The node a migration goes to.
    pub target: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    api_version: Option<String>,
    kind: Option<String>,
    at: Option<String>,
    subject: Option<RawSubject>,
    nodes: Option<NodeHints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSubject {
    namespace: String,
    name: String,
    migration: Option<String>,
    node: Option<String>,
}

/// Reads a manifest; `path` is only for messages. Keys that it does not know are left to later versions.
///
/// # Errors
/// [`CaseError::Manifest`] with the place, what is wrong and what to write.
pub fn read(text: &str, path: &Path) -> Result<Manifest, CaseError> {
    let wrong = |why: String| CaseError::Manifest { path: path.to_owned(), place: String::new(), why };
    let options = serde_saphyr::options! { with_snippet: false };
    let text = if text.trim().is_empty() { "{}" } else { text };
    let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|error| CaseError::Manifest {
        path: path.to_owned(),
        place: error.location().map_or_else(String::new, |at| format!(":{}:{}", at.line(), at.column())),
        why: one_line(&error.without_snippet().to_string()),
    })?;
    for (key, value, want) in [("apiVersion", raw.api_version, "kulprit.io/v1"), ("kind", raw.kind, "Case")] {
        match value.as_deref() {
            Some(value) if value == want => {}
            Some(value) => return Err(wrong(format!("{key} is `{value}`; this version reads `{key}: {want}`"))),
            None => return Err(wrong(format!("{key} is missing; write `{key}: {want}`"))),
        }
    }
    let at = raw.at.ok_or_else(|| {
        wrong("at is missing; write the moment of asking, for example `at: 2026-03-01T10:15:00Z`".to_owned())
    })?;
    let at_usec = time(&at).ok_or_else(|| {
        wrong(format!("at is `{at}`; write a time with its zone, for example `at: 2026-03-01T10:15:00Z`"))
    })?;
    let (subject, node) = match raw.subject {
        Some(RawSubject { namespace, name, migration, node: _ }) if !name.is_empty() => {
            (Some(SubjectName { namespace, name, migration }), None)
        }
        Some(RawSubject { node: Some(node), .. }) if !node.is_empty() => (None, Some(node)),
        Some(_) => {
            return Err(wrong("subject has no name; write `subject: {namespace: prod, name: db-0}`".to_owned()));
        }
        None => (None, None),
    };
    let mut nodes = raw.nodes.unwrap_or_default();
    for hint in [&mut nodes.hosting, &mut nodes.source, &mut nodes.target] {
        *hint = hint.take().filter(|name| !name.is_empty());
    }
    Ok(Manifest { at_usec, subject, node, nodes })
}

/// An RFC 3339 time as Unix microseconds; a time without a zone is UTC. `None` if it is none.
#[must_use]
pub fn time(text: &str) -> Option<i64> {
    let text = text.trim();
    let timestamp: jiff::Timestamp = text.parse().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })?;
    Some(timestamp.as_microsecond())
}

pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kulprit.io/v1\nkind: Case\n";

    #[track_caller]
    fn check_error(text: &str, want: &str) {
        let error = read(text, Path::new("case.yaml")).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }

    #[test]
    fn a_whole_manifest_is_read() {
        let text = format!(
            "{HEAD}at: 2026-03-01T10:15:00Z # then\nsubject: {{namespace: prod, name: db-0, migration: m}}\n\
             nodes: {{hosting: n1, source: '', target: n2}}\nlater: 1\n"
        );
        let manifest = read(&text, Path::new("case.yaml")).unwrap();
        assert_eq!(manifest.at_usec, 1_772_360_100_000_000);
        assert_eq!(manifest.subject.unwrap().migration.as_deref(), Some("m"));
        assert_eq!((manifest.nodes.source, manifest.nodes.target.as_deref()), (None, Some("n2")));
    }

    #[test]
    fn a_case_can_be_about_a_node() {
        let manifest =
            read(&format!("{HEAD}at: 2026-03-01T10:15:00Z\nsubject: {{node: n1}}"), Path::new("case.yaml")).unwrap();
        assert_eq!((manifest.node.as_deref(), manifest.subject), (Some("n1"), None));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_what_to_write() {
        check_error("", "apiVersion is missing; write `apiVersion: kulprit.io/v1`");
        check_error("apiVersion: v2\nkind: Case\nat: x", "apiVersion is `v2`");
        check_error(HEAD, "at is missing");
        check_error(&format!("{HEAD}at: yesterday"), "at is `yesterday`");
        check_error(&format!("{HEAD}at: 2026-03-01T10:15:00Z\nsubject: {{namespace: x}}"), "subject has no name");
        check_error("apiVersion: [", "case.yaml`:");
        check_error(&format!("{HEAD}at: 2026-03-01T10:15:00Z\nsubject: 3"), "case.yaml`:");
    }
}
