//! docs/config.md: every key of agent and central with its type, default and reason, read from the structs that take the files.
//!
//! Names, types and reasons come from the sources, which rustfmt keeps in one form; defaults from the structs themselves. A key without a
//! reason fails.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

const HEAD: &str = include_str!("config.md");

/// A struct or enum that serde reads.
#[derive(Debug, Default, PartialEq)]
struct Shape {
    /// Public fields in their order; none of an enum.
    fields: Vec<Field>,
    /// The words of an enum, as they are written in a file.
    words: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct Field {
    name: String,
    kind: String,
    reason: String,
}

/// What a source file has of them, by name.
fn shapes(source: &str) -> BTreeMap<String, Shape> {
    let mut shapes = BTreeMap::new();
    let mut lines = source.lines();
    let (mut is_read, mut rename) = (false, String::new());
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("#[derive(") {
            (is_read, rename) = (rest.contains("Deserialize"), String::new());
        } else if let Some((_, rest)) = line.split_once("rename_all = \"") {
            rename = rest.split('"').next().unwrap_or_default().to_owned();
        } else if let Some((kind, rest)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(' ')) {
            let name = rest.split([' ', '<', '(']).next().unwrap_or_default();
            if std::mem::take(&mut is_read) && line.ends_with('{') && matches!(kind, "struct" | "enum") {
                let body = lines.by_ref().take_while(|line| *line != "}");
                shapes.insert(name.to_owned(), shape(kind, &rename, body));
            }
        }
    }
    shapes
}

fn shape<'s>(kind: &str, rename: &str, body: impl Iterator<Item = &'s str>) -> Shape {
    let (mut shape, mut reason) = (Shape::default(), String::new());
    for line in body.map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            reason.push_str(text);
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
            let kind = kind.trim_end_matches(',').to_owned();
            shape.fields.push(Field {
                name: name.to_owned(),
                kind,
                reason: std::mem::take(&mut reason).trim().to_owned(),
            });
        } else if kind == "enum" && line.ends_with(',') {
            let word = line.trim_end_matches(',');
            shape.words.push(if rename.is_empty() { word.to_owned() } else { word.to_lowercase() });
        } else if !line.starts_with("#[") {
            reason.clear();
        }
    }
    shape
}

/// All of the folders.
fn read(folders: &[&Path]) -> BTreeMap<String, Shape> {
    let mut left: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    let mut all = BTreeMap::new();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let source = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                all.extend(shapes(&source));
            }
        }
    }
    all
}

/// Writes a row for each key of a struct, and of those in it.
fn rows(page: &mut String, shapes: &BTreeMap<String, Shape>, name: &str, within: &str, defaults: &Value) {
    let shape = shapes.get(name).unwrap_or_else(|| panic!("no struct {name} in the sources"));
    for Field { name, kind, reason } in &shape.fields {
        let key = format!("{within}{name}");
        assert!(!reason.is_empty(), "{key} has no reason");
        let default = &defaults[name.as_str()];
        let inner = kind.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(kind);
        if shapes.get(inner).is_some_and(|shape| !shape.fields.is_empty()) {
            if inner != kind {
                row(page, &key, "section, optional", default, reason);
            }
            rows(page, shapes, inner, &format!("{key}."), default);
        } else {
            row(page, &key, &words(inner, shapes), default, reason);
        }
    }
}

fn row(page: &mut String, key: &str, kind: &str, default: &Value, reason: &str) {
    let default = match default {
        Value::Null => "–".to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) if items.len() > 3 => {
            format!("{} entries: `{}`, …", items.len(), items[0].as_str().unwrap_or_default())
        }
        other => format!("`{other}`"),
    };
    let cell = |text: &str| text.replace('|', "\\|");
    writeln!(page, "| `{key}` | {} | {} | {} |", cell(kind), cell(&default), cell(reason))
        .expect("a String grows as needed");
}

/// A type in words for whoever writes the file.
fn words(kind: &str, shapes: &BTreeMap<String, Shape>) -> String {
    let of = |outer: &str| kind.strip_prefix(outer).and_then(|rest| rest.strip_suffix('>'));
    if let Some(inner) = of("Vec<") {
        return format!("list of {}", words(inner, shapes));
    }
    if let Some((key, value)) = of("BTreeMap<").and_then(|inner| inner.split_once(", ")) {
        return format!("map of {} to {}", words(key, shapes), words(value, shapes));
    }
    match kind {
        "SocketAddr" => "address:port".to_owned(),
        "PathBuf" => "path".to_owned(),
        "HumanDuration" => "duration".to_owned(),
        "bool" => "true or false".to_owned(),
        "String" | "LogFilter" => "text".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "number".to_owned(),
        other => {
            let shape = shapes.get(other).unwrap_or_else(|| panic!("no word for the type {other}"));
            assert!(!shape.words.is_empty(), "{other} is neither a section nor an enum");
            shape.words.join(" or ")
        }
    }
}

/// The page.
pub(crate) fn config_markdown(root: &Path) -> String {
    let table = |folder: &str, name: &str, defaults: Value| {
        let mut page = String::from("| key | type | default | what it is, and why that default |\n|---|---|---|---|\n");
        let shapes = read(&[&root.join(folder), &root.join("daemon/src")]);
        rows(&mut page, &shapes, name, "", &defaults);
        page
    };
    let value = |default: Result<Value, serde_json::Error>| default.expect("a configuration can be written");
    let central = value(serde_json::to_value(kulprit_central::config::Config::default()));
    let agent = value(serde_json::to_value(kulprit_agent::config::AgentConfig::default()));
    format!(
        "{HEAD}\n## kulprit-central\n\n{}\n## kulprit-agent\n\n{}",
        table("central/src", "Config", central),
        marked(&table("agent/src", "AgentConfig", agent)),
    )
}

/// The agent's rows, with the keys that it does not read again.
fn marked(table: &str) -> String {
    let mark = |row: &str| {
        let key = row.strip_prefix("| `").and_then(|rest| rest.split('`').next());
        match row.strip_suffix(" |").filter(|_| key.is_some_and(|key| !kulprit_agent::reload::is_reloaded(key))) {
            Some(row) => format!("{row} Takes a restart. |\n"),
            None => format!("{row}\n"),
        }
    };
    table.lines().map(mark).collect()
}

#[test]
fn sections_lists_and_words_of_a_source_become_rows() {
    let source = "/// A.\n#[derive(Debug, Deserialize)]\n#[serde(default)]\npub struct A {\n    /// Where, and\n    /// why.\n    pub at: SocketAddr,\n    \
                  /// In it.\n    pub b: B,\n    /// Which.\n    pub how: Vec<How>,\n}\n\n#[derive(Deserialize)]\npub struct B {\n    /// Deep | down.\n    \
                  #[serde(alias = \"x\")]\n    pub c: Option<HumanDuration>,\n}\n\n#[derive(Deserialize)]\n#[serde(rename_all = \"lowercase\")]\npub enum How \
                  {\n    /// So.\n    Softly,\n    #[default]\n    Hard,\n}\n\n#[derive(Debug)]\npub struct Not {\n    pub x: u8,\n}\n";
    let shapes = shapes(source);
    assert_eq!(shapes.keys().collect::<Vec<_>>(), ["A", "B", "How"]);
    let mut page = String::new();
    rows(&mut page, &shapes, "A", "", &serde_json::json!({"at": "127.0.0.1:1", "b": {"c": null}, "how": ["hard"]}));
    let want = "| `at` | address:port | `127.0.0.1:1` | Where, and why. |\n| `b.c` | duration | – | Deep \\| down. |\n\
                | `how` | list of softly or hard | `[\"hard\"]` | Which. |\n";
    assert_eq!(page, want);
}

#[test]
#[should_panic(expected = "c has no reason")]
fn a_key_without_a_reason_is_caught() {
    let shapes = shapes("#[derive(Deserialize)]\npub struct A {\n    pub c: bool,\n}\n");
    rows(&mut String::new(), &shapes, "A", "", &Value::Null);
}
