//! What an administrator reads after a slip in the file.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Agent {
    node: String,
    port: u16,
    is_quiet: bool,
    heartbeat: Option<HumanDuration>,
    log: Format,
    spool: Spool,
    peers: Vec<Peer>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Human,
    Json,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Spool {
    dir: String,
    max_bytes: u64,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: String,
}

fn read(text: &str) -> Result<Agent, ConfigError> {
    parse(text, Path::new("/etc/kulprit/agent.yaml"))
}

#[track_caller]
fn check(text: &str, want: &str) {
    let error = read(text).unwrap_err();
    assert_eq!(error.to_string(), format!("bad configuration: /etc/kulprit/agent.yaml{want}"));
}

#[test]
fn a_good_file_is_read() {
    let agent =
        read("node: n1\nheartbeat: 5s\nlog: json\nspool:\n  max_bytes: 67108864\npeers: [{name: a}]\n").unwrap();
    assert_eq!(agent.heartbeat, Some(HumanDuration::from_secs(5)));
    assert_eq!(agent.spool.max_bytes, 67_108_864);
    assert_eq!((agent.log, agent.peers.len()), (Format::Json, 1));
}

#[test]
fn an_empty_file_means_defaults() {
    for text in ["", "\n", "# nothing yet\n", "---\n# nothing\n", "{}"] {
        assert_eq!(read(text).unwrap(), Agent::default(), "{text:?}");
    }
}

#[test]
fn unknown_keys_are_told_with_place_and_what_is_allowed() {
    check(
        "node: n1\nspool:\n  max_byte: 3\n",
        ":3:3: unknown key `spool.max_byte`; did you mean `max_bytes`? allowed: dir, max_bytes",
    );
    check(
        "verbose: true\n",
        ":1:1: unknown key `verbose`; allowed: node, port, is_quiet, heartbeat, log, spool, peers",
    );
}

#[test]
fn bad_values_name_the_key() {
    check("heartbeat: 10\n", ":1:12: `heartbeat`: bad duration `10`: write a unit, for example 10s");
    check("log: xml\n", ":1:6: bad value `xml` of `log`; allowed: human, json");
    check("peers:\n  - name: a\n  - {}\n", ":3:5: missing key `peers[1].name`");
    check("node: a\nnode: b\n", ":2:1: `node` is given twice");
    check("spool:\n  dir: a\n  dir: b\n", ":3:3: `spool.dir` is given twice");
}

#[test]
fn wrong_types_say_what_to_write() {
    check("is_quiet: no\n", ":1:11: `is_quiet`: write true or false");
    check("port: 70000\n", ":1:7: `port`: write a whole number from 0 to 65535");
    check("port: many\n", ":1:7: `port`: write a whole number from 0 to 65535");
    check("spool:\n  max_bytes: -1\n", ":2:14: `spool.max_bytes`: write a whole number from 0 to 18446744073709551615");
    check("spool:\n  max_bytes: [1]\n", ":2:14: `spool.max_bytes`: write one value, no list and no keys");
    check("spool: 3\n", ":1:8: `spool`: write keys below it, no value");
    check("peers: 3\n", ":1:8: `peers`: write a list");
}

#[test]
fn text_that_is_no_yaml_is_told_in_one_line_with_its_place() {
    for text in ["node: [", "node: {a", "a: b: c", "node: n1\n---\nnode: n2\n", "node: \"x", "&a [*a"] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with("bad configuration: /etc/kulprit/agent.yaml:"), "{text:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn line_breaks_and_control_characters_of_the_file_are_escaped() {
    check("\"a\\nb\": 1\n", ":1:1: unknown key `a\\nb`; allowed: node, port, is_quiet, heartbeat, log, spool, peers");
    let error = read("\"\\e[31m\\u2028\\r\": 1\n").unwrap_err().to_string();
    assert!(error.contains(r"unknown key `\u{1b}[31m\u{2028}\r`"), "{error}");
    for text in
        ["node: \"a\\nb\"\nnode: c\n", "log: \"a\\nb\"\n", "heartbeat: \"1\\n2\"\n", "\"a\\nb\": 1\n\"a\\nb\": 2\n"]
    {
        let error = read(text).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
    let error = parse::<Agent>("x: 1", Path::new("a\nb.yaml")).unwrap_err().to_string();
    assert!(error.starts_with(r"bad configuration: a\nb.yaml:1:1: "), "{error}");
}

#[test]
fn a_missing_file_says_so_and_what_to_do() {
    let error = load::<Agent>(Path::new("/nonexistent/agent.yaml")).unwrap_err();
    let reason = crate::exit::ExitReason::of(&error);
    assert_eq!(
        reason.line,
        "failed to read the configuration `/nonexistent/agent.yaml`: No such file or directory (os error 2); \
         create it or name another with --config"
    );
}

#[test]
fn a_check_of_the_program_reads_like_the_others() {
    let path = PathBuf::from("/etc/kulprit/agent.yaml");
    let error = ConfigError::Invalid { path, key: "drain", problem: "must be below 30s".to_owned() };
    let reason = crate::exit::ExitReason::of(&error);
    assert_eq!(reason.line, "bad configuration: /etc/kulprit/agent.yaml: `drain`: must be below 30s");
    assert_eq!(reason.code, crate::exit::USAGE);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z_:{}\\[\\]\"' \n0-9&*!|>#-]{0,200}|\\PC{0,100}") {
        if let Err(error) = read(&text) {
            prop_assert_eq!(crate::exit::ExitReason::of(&error).line.lines().count(), 1);
        }
    }

    #[test]
    fn every_duration_that_reads_prints_the_same_value(text in "[0-9]{0,22}(ms|s|m|h|d|x)?") {
        if let Ok(duration) = text.parse::<HumanDuration>() {
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
