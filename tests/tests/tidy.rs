//! What no compiler and no lint checks: how files are cut and named, what they must not say, and that nothing of the tables
//! (findings, metrics, parsers) is without a use, a test and a line in the docs.
//!
//! Each rule is a function from texts to complaints, so that it is shown to complain; then it is run over every file of the
//! checkout. A rule's exceptions stand in a table beside it, each with its reason.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use kulprit_model::catalogue::CATALOGUE;

/// Most lines of a file before its tests. At 400 one looks for the second idea in it.
const MAX_LINES: usize = 600;
/// Most lines of a file's header. At 15 one looks for the document that it should be.
const MAX_HEADER_LINES: usize = 25;

/// Files that may be longer, and why.
const LONGER: &[(&str, &str)] = &[];

/// A file of the checkout.
struct File {
    /// From the workspace's root.
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is test code.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || self.path.ends_with("/testing.rs")
    }

    /// Its lines before the tests it ends with.
    fn code(&self) -> &str {
        if self.is_test() { "" } else { self.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default() }
    }

    /// Its tests.
    fn tests(&self) -> &str {
        &self.text[self.code().len()..]
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace's root")
}

/// Every file of the project whose text is ours: no build output, no hidden folder, no recorded or found input.
fn files() -> Vec<File> {
    let mut found = Vec::new();
    let mut left = vec![root().to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() {
                let is_ours = !name.starts_with('.')
                    && !["target", "fixtures", "corpus", "artifacts", "seeds"].contains(&name.as_str());
                left.extend(is_ours.then_some(path));
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).expect("found below it").to_string_lossy().into_owned();
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(found.len() > 100, "only {} files below {}", found.len(), root().display());
    found
}

/// Runs a rule over every file.
#[track_caller]
fn check(rule: fn(&File) -> Vec<String>) {
    let broken: Vec<String> = files().iter().flat_map(rule).collect();
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}

/// Shows that a rule complains, and of what.
#[track_caller]
fn check_rule(rule: fn(&File) -> Vec<String>, path: &str, text: &str, want: &[&str]) {
    assert_eq!(rule(&File::new(path, text)), want, "{path}: {text}");
}

fn cut(file: &File) -> Vec<String> {
    let path = &file.path;
    let mut broken = Vec::new();
    if path == "mod.rs" || path.ends_with("/mod.rs") {
        broken.push(format!("{path}: name it after its module, beside the folder"));
    }
    if file.is_rust() {
        let header = file.text.lines().take_while(|line| line.starts_with("//!")).count();
        if header == 0 {
            broken.push(format!("{path}: begins with no //! that says what it is"));
        }
        if header > MAX_HEADER_LINES {
            broken.push(format!("{path}: {header} lines of header, {MAX_HEADER_LINES} are allowed"));
        }
        let n_lines = file.code().lines().count();
        let is_listed = LONGER.iter().any(|(longer, _)| longer == path);
        if n_lines > MAX_LINES && !is_listed {
            broken
                .push(format!("{path}: {n_lines} lines without tests, {MAX_LINES} are allowed: find its second idea"));
        }
        if n_lines <= MAX_LINES && is_listed {
            broken.push(format!("{path}: not longer any more, take it out of LONGER"));
        }
    }
    broken
}

#[test]
fn files_are_cut_and_headed() {
    check(cut);
}

#[test]
fn files_that_are_not_are_caught() {
    check_rule(
        cut,
        "agent/src/probes/mod.rs",
        "//! x\n",
        &["agent/src/probes/mod.rs: name it after its module, beside the folder"],
    );
    check_rule(cut, "a/src/x.rs", "use std;\n", &["a/src/x.rs: begins with no //! that says what it is"]);
    check_rule(cut, "a/src/x.rs", &"//! x\n".repeat(26), &["a/src/x.rs: 26 lines of header, 25 are allowed"]);
    let code = format!("//! x\n{}", "x\n".repeat(MAX_LINES));
    check_rule(
        cut,
        "a/src/x.rs",
        &code,
        &["a/src/x.rs: 601 lines without tests, 600 are allowed: find its second idea"],
    );
    let with_tests = format!("//! x\n\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(MAX_LINES));
    check_rule(cut, "a/src/x.rs", &with_tests, &[]);
}

/// What is left for later, without an issue, is forgotten; written apart, because this file is read as well.
const LATER: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("todo", "!(")];
/// What is true of one machine only.
const PLACES: [&str; 6] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("../sha", "red"),
    concat!("/tm", "p/bash"),
    concat!("/root/", ".cargo"),
];
/// Hosts of registries: where packages and images come from is the business of whoever builds.
const REGISTRIES: [&str; 7] = [
    concat!("crates", ".io/"),
    concat!("static.crates", ".io"),
    concat!("docker", ".io"),
    concat!("quay", ".io"),
    concat!("ghcr", ".io"),
    concat!("registry.npmjs", ".org"),
    concat!("proxy.golang", ".org"),
];

/// Registries of images: texts about a pull name them, and so do the examples and rules of what reads such texts.
const IMAGES: [&str; 3] = [concat!("docker", ".io"), concat!("quay", ".io"), concat!("ghcr", ".io")];
/// What reads such texts.
const READERS: [&str; 4] = ["agent/", "central/cluster/", "central/diagnosis/", "cli/"];

fn words(file: &File) -> Vec<String> {
    // Its sources are named by the registry's canonical address.
    if file.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let reads_texts = file.is_rust() && READERS.iter().any(|folder| file.path.starts_with(folder));
    let registries = REGISTRIES.iter().filter(move |word| !(reads_texts && IMAGES.contains(word)));
    let never = LATER.iter().chain(&PLACES).chain(registries);
    let lines = file.text.lines().enumerate();
    lines
        .flat_map(|(index, line)| {
            let found = never.clone().filter(move |word| line.contains(**word));
            found.map(move |word| format!("{}:{}: {word}", file.path, index + 1))
        })
        .collect()
}

#[test]
fn nothing_is_left_for_later_and_nothing_is_of_one_machine() {
    check(words);
}

#[test]
fn words_that_must_not_be_written_are_caught() {
    for word in LATER.iter().chain(&PLACES).chain(&REGISTRIES) {
        check_rule(words, "x.md", &format!("good\nsee {word}x\n"), &[&format!("x.md:2: {word}")]);
    }
    let image = format!("pull {}/x\n", IMAGES[0]);
    check_rule(words, "agent/judge/src/x.rs", &image, &[]);
    check_rule(words, "scripts/x.sh", &image, &[&format!("scripts/x.sh:1: {}", IMAGES[0])]);
}

/// The anchor that a heading gets on a page: lower case, spaces to dashes, without other punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The targets of `[text](target)`, outside code.
fn links(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let prose = text.lines().filter(|line| {
        is_code ^= line.trim_start().starts_with("```");
        !is_code
    });
    prose
        .flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target))
        .collect()
}

/// Paths in back-ticks, outside code blocks: those that begin with a folder of the project.
fn paths(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter(|span| span.contains('/') && !span.contains([' ', '\n', '*', '<', '{', '…'])).collect()
}

/// What a page says of files that are not there. `exists` is asked for paths from the root.
fn dead_ends(file: &File, read: &dyn Fn(&Path) -> Option<String>, exists: &dyn Fn(&Path) -> bool) -> Vec<String> {
    if !file.path.ends_with(".md") {
        return Vec::new();
    }
    let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
    let mut broken = Vec::new();
    for target in
        links(&file.text).into_iter().filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
    {
        let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
        let path = if path.is_empty() { PathBuf::from(&file.path) } else { folder.join(path) };
        let has_heading = |text: String| {
            heading.is_none_or(|wanted| {
                text.lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line.trim_start_matches('#')) == wanted)
            })
        };
        if !exists(&path) || (heading.is_some() && !read(&path).is_some_and(has_heading)) {
            broken.push(format!("{}: no {target}", file.path));
        }
    }
    for path in paths(&file.text) {
        let first = Path::new(path).iter().next().map(Path::new);
        let is_ours = first.is_some_and(|first| first.is_relative() && exists(first) && !first.starts_with("target"));
        if is_ours && !exists(Path::new(path)) {
            broken.push(format!("{}: no `{path}`", file.path));
        }
    }
    broken
}

#[test]
fn links_and_paths_of_the_pages_lead_somewhere() {
    let read = |path: &Path| fs::read_to_string(root().join(path)).ok();
    let exists = |path: &Path| root().join(path).exists();
    let broken: Vec<String> = files().iter().flat_map(|file| dead_ends(file, &read, &exists)).collect();
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}

#[test]
fn links_and_paths_that_lead_nowhere_are_caught() {
    let exists = |path: &Path| ["docs", "docs/a.md", "docs/b.md"].contains(&path.to_str().unwrap_or_default());
    let read = |_: &Path| Some("# A heading, with *marks*\n".to_owned());
    let check = |text: &str, want: &[&str]| {
        assert_eq!(dead_ends(&File::new("docs/a.md", text), &read, &exists), want, "{text}");
    };
    check("[b](b.md) [here](#a-heading-with-marks) [out](https://example.org/x) `docs/b.md` `proc/meminfo`", &[]);
    check("[b](c.md)", &["docs/a.md: no c.md"]);
    check("[b](b.md#another)", &["docs/a.md: no b.md#another"]);
    check("see `docs/c.md`", &["docs/a.md: no `docs/c.md`"]);
    check("```\n[b](c.md)\n```\n", &[]);
}

/// Whether `text` has `word` with no letter or digit of a name on either side.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

/// Where findings are made: from hosts, from Kubernetes' objects, from recorded cases.
const MAKERS: &[&str] = &["agent/", "central/cluster/", "cli/case/"];

/// Findings that nothing makes, or that no test speaks of.
fn unused_findings(files: &[File], codes: &[&str]) -> Vec<String> {
    let makes = |file: &&File| file.is_rust() && MAKERS.iter().any(|folder| file.path.starts_with(folder));
    let is_made = |code: &&str| files.iter().filter(makes).any(|file| has_word(file.code(), code));
    // The catalogue's own tests and the generated pages speak of every code, and prove nothing of it.
    let proves =
        |file: &&File| file.is_rust() && !file.path.starts_with("proto/") && !file.path.starts_with("tests/tests/tidy");
    let is_tested = |code: &&str| files.iter().filter(proves).any(|file| has_word(file.tests(), code));
    let unmade = codes.iter().filter(|code| !is_made(code)).map(|code| format!("{code}: nothing says it"));
    let untested = codes.iter().filter(|code| !is_tested(code)).map(|code| format!("{code}: no test speaks of it"));
    unmade.chain(untested).collect()
}

#[test]
fn every_finding_is_made_and_tested() {
    let codes: Vec<&str> = CATALOGUE.iter().map(|spec| spec.code.as_str()).collect();
    let broken = unused_findings(&files(), &codes);
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}

#[test]
fn findings_without_a_maker_or_a_test_are_caught() {
    let judge = File::new(
        "agent/judge/src/x.rs",
        "//! x\nKvmDeviceMissing\n\n#[cfg(test)]\nmod tests {\n    KvmDeviceMissing QemuStoppedX\n}\n",
    );
    let want = ["QemuStopped: nothing says it", "QemuStopped: no test speaks of it"];
    assert_eq!(unused_findings(&[judge], &["KvmDeviceMissing", "QemuStopped"]), want);
}

/// The names of our series in a text: `kulprit_<section>_<noun>`, not our crates.
fn series(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let crates = [
        "agent",
        "agent_libvirt",
        "case",
        "central",
        "cli",
        "cluster",
        "daemon",
        "diagnosis",
        "fuzz",
        "host",
        "judge",
        "lab",
        "model",
        "proto",
        "signature",
        "tests",
        "tls",
    ];
    let at = text.match_indices("kulprit_").map(|(at, _)| at).filter(|at| !text[..*at].ends_with(is_part));
    let names = at.map(|at| &text[at..at + text[at..].find(|c| !is_part(c)).unwrap_or(text.len() - at)]);
    names.filter(|name| !crates.contains(&&name["kulprit_".len()..]) && !name.ends_with('_')).collect()
}

/// Series that the sources name and docs/metrics.md does not.
fn undocumented_series(files: &[File], page: &str) -> Vec<String> {
    let mut broken = Vec::new();
    // Expressions of Prometheus add to names; tests/tests/alerts.rs knows how.
    let is_expression = |file: &File| file.path == "central/src/alerts.rs";
    for file in files.iter().filter(|file| file.is_rust() && !file.path.starts_with("tests/") && !is_expression(file)) {
        let names = series(file.code()).into_iter().filter(|name| !has_word(page, name));
        broken.extend(names.map(|name| format!("{}: {name} is not in docs/metrics.md", file.path)));
    }
    broken
}

#[test]
fn every_series_is_documented() {
    let page =
        fs::read_to_string(root().join("docs/metrics.md")).unwrap_or_else(|error| panic!("docs/metrics.md: {error}"));
    let broken = undocumented_series(&files(), &page);
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}

#[test]
fn series_without_documentation_are_caught() {
    let code = "use kulprit_model::Status;\n/// `kulprit_probe_looks_total{probe}`, `kulprit_<section>_x`\n\"kulprit_probe_errors_total\"\n";
    let broken = undocumented_series(&[File::new("agent/src/x.rs", code)], "| `kulprit_probe_looks_total` |");
    assert_eq!(broken, ["agent/src/x.rs: kulprit_probe_errors_total is not in docs/metrics.md"]);
}

/// Parsers of host text that no fuzz target calls.
fn unfuzzed_parsers(files: &[File]) -> Vec<String> {
    let targets: Vec<&File> = files.iter().filter(|file| file.path.starts_with("tests/fuzz/fuzz_targets/")).collect();
    let host = files.iter().filter(|file| file.path.starts_with("agent/host/src/"));
    let parsers = host.flat_map(|file| {
        let found = file.code().match_indices("pub fn parse_").map(|(at, _)| &file.code()[at + "pub fn ".len()..]);
        found.filter_map(|rest| rest.split(['(', '<']).next()).map(|name| (file.path.as_str(), name))
    });
    let is_fuzzed = |name: &str| targets.iter().any(|target| has_word(&target.text, name));
    parsers
        .filter(|(_, name)| !is_fuzzed(name))
        .map(|(path, name)| format!("{path}: no fuzz target calls {name}"))
        .collect()
}

#[test]
fn every_parser_of_host_text_is_fuzzed() {
    let broken = unfuzzed_parsers(&files());
    assert!(broken.is_empty(), "\n  {}", broken.join("\n  "));
}

#[test]
fn parsers_that_are_not_fuzzed_are_caught() {
    let host = File::new("agent/host/src/x.rs", "pub fn parse_a(text: &str) {}\npub fn parse_b<R: Read>(from: R) {}\n");
    let target = File::new("tests/fuzz/fuzz_targets/x.rs", "parse_a(&text);\n");
    assert_eq!(unfuzzed_parsers(&[host, target]), ["agent/host/src/x.rs: no fuzz target calls parse_b"]);
}
