//! Kubernetes objects of a case, from YAML or JSON, under limits.

use std::{io, path::Path};

use kulprit_cluster::Cluster;
use serde_json::Value;

use crate::{
    folder::Folder,
    gathered::Problem,
    manifest::{self, one_line},
};

/// A file of objects is read whole, up to this.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Nodes of one YAML document: a list of 5,000 pods has about 3 million.
const MAX_YAML_NODES: usize = 20_000_000;
/// YAML below JSON's own depth limit.
const MAX_YAML_DEPTH: usize = 120;

/// Reads a file of objects into `cluster`, and says what could not be used.
pub(crate) fn read(folder: &Folder, path: &Path, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
    let mut problem = |line, why: String| problems.push(Problem { file: path.to_owned(), line, why });
    let text = match folder.read_text(path, MAX_FILE_BYTES) {
        Ok(text) => text,
        Err(error) => return problem(None, unreadable(&error)),
    };
    if text.trim().is_empty() {
        return problem(None, "empty".to_owned());
    }
    let documents =
        if path.extension().is_some_and(|ending| ending == "json") || text.trim_start().starts_with(['{', '[']) {
            from_json(&text)
        } else {
            from_yaml(&text)
        };
    let (documents, failure) = documents;
    for document in &documents {
        add(document, cluster, &mut problem);
    }
    if let Some((line, why)) = failure {
        problem(line, why);
    }
}

/// Reads how objects changed until `at_usec`, a line each with a time `t`, a `type` and an `object`: what they told of migrations stays known
/// when they are gone. Of lines that cannot be used the first is told.
pub(crate) fn read_watch(
    folder: &Folder,
    path: &Path,
    at_usec: i64,
    cluster: &mut Cluster,
    problems: &mut Vec<Problem>,
) {
    let text = match folder.read_text(path, MAX_FILE_BYTES) {
        Ok(text) => text,
        Err(error) => return problems.push(Problem { file: path.to_owned(), line: None, why: unreadable(&error) }),
    };
    let mut n_unused = 0_usize;
    let mut first: Option<(usize, String)> = None;
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        if let Err(why) = take_change(text, at_usec, cluster) {
            n_unused += 1;
            first.get_or_insert((line, why));
        }
    }
    if let Some((line, why)) = first {
        let others = if n_unused > 1 { format!("; and {} more lines", n_unused - 1) } else { String::new() };
        problems.push(Problem { file: path.to_owned(), line: Some(line), why: format!("{why}{others}") });
    }
}

fn take_change(text: &str, at_usec: i64, cluster: &mut Cluster) -> Result<(), String> {
    let change: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let time = change["t"].as_str().and_then(manifest::time).ok_or("a change without a time `t`")?;
    if time > at_usec {
        return Ok(());
    }
    let gone_usec = (change["type"] == "DELETED").then_some(time);
    cluster.remember(&change["object"], gone_usec).map_err(|error| error.to_string())
}

type Failure = Option<(Option<usize>, String)>;

/// One object after the other, as far as they can be read.
fn from_json(text: &str) -> (Vec<Value>, Failure) {
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match document {
            Ok(document) => documents.push(document),
            Err(error) => return (documents, Some((Some(error.line()), format!("not JSON: {error}")))),
        }
    }
    (documents, None)
}

/// All documents; if they cannot be read together, each on its own, so that a damaged one costs only itself.
fn from_yaml(text: &str) -> (Vec<Value>, Failure) {
    match yaml_documents(text) {
        Ok(documents) => (documents, None),
        Err(failure) => {
            let mut documents = Vec::new();
            let mut start_line = 0;
            let mut first_failure = None;
            for part in text.split("\n---") {
                match yaml_documents(part) {
                    Ok(read) => documents.extend(read),
                    Err((line, why)) => {
                        first_failure.get_or_insert((line.map(|line| line + start_line), why));
                    }
                }
                start_line += part.matches('\n').count() + 1;
            }
            (documents, Some(first_failure.unwrap_or(failure)))
        }
    }
}

fn yaml_documents(text: &str) -> Result<Vec<Value>, (Option<usize>, String)> {
    let budget = serde_saphyr::budget! { max_nodes: MAX_YAML_NODES, max_events: 2 * MAX_YAML_NODES, max_depth: MAX_YAML_DEPTH,
    max_total_scalar_bytes: 256 << 20 };
    let options = serde_saphyr::options! { with_snippet: false, budget: budget };
    serde_saphyr::from_multiple_with_options::<Value>(text, options).map_err(|error| {
        let line = error.location().map(|at| usize::try_from(at.line()).unwrap_or(0)).filter(|line| *line > 0);
        (line, format!("not YAML: {}", one_line(&error.without_snippet().to_string())))
    })
}

fn add(document: &Value, cluster: &mut Cluster, problem: &mut impl FnMut(Option<usize>, String)) {
    match document {
        Value::Null => {}
        Value::Array(objects) => objects.iter().for_each(|object| add(object, cluster, problem)),
        Value::Object(_) => {
            if let Err(error) = cluster.add(document) {
                problem(None, error.to_string());
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => problem(None, "holds no object".to_owned()),
    }
}

pub(crate) fn unreadable(error: &io::Error) -> String {
    format!("not read: {error}")
}
