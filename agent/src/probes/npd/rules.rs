//! node-problem-detector's rule files, read as they are.
//!
//! Two forms: log rules (`plugin` is `kmsg`, `journald` or `filelog`) and custom plugins (`custom`). Keys that we do not use are
//! passed over, as there. Patterns are Go's RE2: without Unicode classes, `.` is no line break, and a match must reach the end of
//! what was logged last (`pattern` + `\z`).
//! Source: kubernetes/node-problem-detector `pkg/systemlogmonitor/{config.go,log_buffer.go}`,
//! `pkg/custompluginmonitor/types/{config.go,types.go}`.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::SignedDuration;
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// A rule file that cannot be used. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum RuleFileError {
    #[error("failed to read the rule file `{path}`")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the rule file `{path}` is no JSON of node-problem-detector")]
    Json {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the rule file `{path}`: {problem}")]
    Invalid { path: String, problem: String },
}

/// A whole file.
#[derive(Debug)]
pub(super) enum RuleFile {
    Log(LogRules),
    Custom(CustomRules),
}

/// Rules over a log.
#[derive(Debug)]
pub(super) struct LogRules {
    pub(super) source: String,
    pub(super) log: Log,
    /// How far back the first start looks.
    pub(super) lookback: Duration,
    /// Lines that one pattern may span.
    pub(super) buffer_size: usize,
    pub(super) conditions: Vec<Condition>,
    pub(super) rules: Vec<LogRule>,
}

/// Which log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Log {
    Kmsg,
    /// What was written under this syslog identifier, as node-problem-detector's `journald` watcher filters.
    Journal {
        identifier: String,
    },
    /// This file, and where in a line the message is.
    File {
        path: std::path::PathBuf,
        message: String,
    },
}

/// A condition as it is while nothing is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
}

/// One pattern.
#[derive(Debug)]
pub(super) struct LogRule {
    /// The condition it sets; `None`: an event.
    pub(super) condition: Option<String>,
    pub(super) reason: String,
    pub(super) pattern: Regex,
    pub(super) message_suffix: String,
}

/// Checks that are programs.
#[derive(Debug)]
pub(super) struct CustomRules {
    pub(super) source: String,
    pub(super) max_output_bytes: usize,
    pub(super) concurrency: usize,
    pub(super) conditions: Vec<Condition>,
    pub(super) rules: Vec<CustomRule>,
}

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CustomRule {
    pub(super) condition: Option<String>,
    pub(super) reason: String,
    pub(super) path: String,
    pub(super) args: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) invoke_interval: Duration,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    plugin: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireLog {
    plugin: String,
    #[serde(default)]
    plugin_config: BTreeMap<String, String>,
    #[serde(default)]
    log_path: String,
    #[serde(default)]
    lookback: String,
    #[serde(default)]
    buffer_size: usize,
    #[serde(default)]
    source: String,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    rules: Vec<WireRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCustom {
    #[serde(default)]
    plugin_config: WireCustomConfig,
    #[serde(default)]
    source: String,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    rules: Vec<WireRule>,
}

#[derive(Default, Deserialize)]
struct WireCustomConfig {
    invoke_interval: Option<String>,
    timeout: Option<String>,
    max_output_length: Option<usize>,
    concurrency: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRule {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    condition: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    pattern: String,
    #[serde(default)]
    pattern_generated_message_suffix: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    args: Vec<String>,
    timeout: Option<String>,
    #[serde(rename = "invoke_interval")]
    invoke_interval: Option<String>,
}

/// node-problem-detector's own defaults.
const BUFFER_SIZE: usize = 10;
const INVOKE_INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_OUTPUT_BYTES: usize = 80;
const CONCURRENCY: usize = 3;
/// Ours: no file of a project has more, and every line is tried with each.
const MAX_RULES: usize = 200;
const MAX_BUFFER_SIZE: usize = 100;

/// Reads a rule file.
pub(super) fn read(path: &Path) -> Result<RuleFile, RuleFileError> {
    let shown = path.display().to_string();
    let text = std::fs::read(path).map_err(|source| RuleFileError::Io { path: shown.clone(), source })?;
    parse(&text, &shown)
}

/// Parses a rule file; `path` is for errors.
pub(super) fn parse(text: &[u8], path: &str) -> Result<RuleFile, RuleFileError> {
    let json = |source| RuleFileError::Json { path: path.to_owned(), source };
    let invalid = |problem: String| RuleFileError::Invalid { path: path.to_owned(), problem };
    let head: Head = serde_json::from_slice(text).map_err(json)?;
    match head.plugin.as_str() {
        "kmsg" | "journald" | "filelog" => {
            log_rules(serde_json::from_slice(text).map_err(json)?).map(RuleFile::Log).map_err(invalid)
        }
        "custom" => custom_rules(serde_json::from_slice(text).map_err(json)?).map(RuleFile::Custom).map_err(invalid),
        other => Err(invalid(format!("plugin is `{other}`; kmsg, journald, filelog and custom are understood"))),
    }
}

fn log_rules(wire: WireLog) -> Result<LogRules, String> {
    let WireLog { plugin, plugin_config, log_path, lookback, buffer_size, source, conditions, rules } = wire;
    let of_config = |key: &str| plugin_config.get(key).cloned().unwrap_or_default();
    let log = match plugin.as_str() {
        "kmsg" => Log::Kmsg,
        "journald" => match of_config("source").as_str() {
            "" => return Err("pluginConfig.source is missing: the program whose lines are read".to_owned()),
            // The kernel's lines stand in the journal too; its own log has them first, and all of them.
            "kernel" => Log::Kmsg,
            identifier => Log::Journal { identifier: identifier.to_owned() },
        },
        _ => Log::File {
            path: Some(log_path).filter(|path| !path.is_empty()).ok_or("logPath is missing")?.into(),
            message: of_config("message"),
        },
    };
    let names: Vec<&str> = conditions.iter().map(|condition| condition.kind.as_str()).collect();
    check_number(rules.len())?;
    let made = rules.iter().map(|rule| {
        let condition = condition_of(rule, &names)?;
        let pattern = RegexBuilder::new(&format!(r"(?:{})\z", rule.pattern))
            .unicode(false)
            .build()
            .map_err(|error| format!("the pattern of {} is none: {error}", rule.reason))?;
        let message_suffix = rule.pattern_generated_message_suffix.clone();
        Ok(LogRule { condition, reason: rule.reason.clone(), pattern, message_suffix })
    });
    Ok(LogRules {
        source,
        log,
        lookback: duration("lookback", Some(&*lookback).filter(|text| !text.is_empty()), Duration::ZERO)?,
        buffer_size: if buffer_size == 0 { BUFFER_SIZE } else { buffer_size.min(MAX_BUFFER_SIZE) },
        rules: made.collect::<Result<_, String>>()?,
        conditions,
    })
}

fn custom_rules(wire: WireCustom) -> Result<CustomRules, String> {
    let WireCustom { plugin_config, source, conditions, rules } = wire;
    let invoke_interval =
        duration("pluginConfig.invoke_interval", plugin_config.invoke_interval.as_deref(), INVOKE_INTERVAL)?;
    let timeout = duration("pluginConfig.timeout", plugin_config.timeout.as_deref(), TIMEOUT)?;
    if invoke_interval.is_zero() {
        return Err("pluginConfig.invoke_interval is 0: it must be longer".to_owned());
    }
    let names: Vec<&str> = conditions.iter().map(|condition| condition.kind.as_str()).collect();
    check_number(rules.len())?;
    let made = rules.iter().map(|rule| {
        let own_timeout = duration("timeout", rule.timeout.as_deref(), timeout)?;
        if own_timeout > timeout {
            return Err(format!("the timeout of {} is longer than pluginConfig.timeout", rule.reason));
        }
        if rule.path.is_empty() {
            return Err(format!("{} has no path", rule.reason));
        }
        let own_interval = duration("invoke_interval", rule.invoke_interval.as_deref(), invoke_interval)?;
        Ok(CustomRule {
            condition: condition_of(rule, &names)?,
            reason: rule.reason.clone(),
            path: rule.path.clone(),
            args: rule.args.clone(),
            timeout: own_timeout,
            invoke_interval: own_interval.max(Duration::from_secs(1)),
        })
    });
    Ok(CustomRules {
        source,
        max_output_bytes: plugin_config.max_output_length.unwrap_or(MAX_OUTPUT_BYTES),
        concurrency: plugin_config.concurrency.unwrap_or(CONCURRENCY).max(1),
        rules: made.collect::<Result<_, String>>()?,
        conditions,
    })
}

fn check_number(n_rules: usize) -> Result<(), String> {
    if n_rules > MAX_RULES { Err(format!("{n_rules} rules; at most {MAX_RULES} are taken")) } else { Ok(()) }
}

/// The condition of a permanent rule, which must have a default; `None` for a temporary one.
fn condition_of(rule: &WireRule, conditions: &[&str]) -> Result<Option<String>, String> {
    match rule.kind.as_str() {
        "temporary" => Ok(None),
        "permanent" if conditions.contains(&rule.condition.as_str()) => Ok(Some(rule.condition.clone())),
        "permanent" => Err(format!(
            "the permanent rule {} sets condition `{}`, which `conditions` does not have",
            rule.reason, rule.condition
        )),
        other => Err(format!("the type of rule {} is `{other}`: permanent or temporary", rule.reason)),
    }
}

/// Go's durations, for what these files hold: `5m`, `1m30s`, `100ms`.
pub(super) fn duration(key: &str, text: Option<&str>, default: Duration) -> Result<Duration, String> {
    match text {
        None => Ok(default),
        Some("0") => Ok(Duration::ZERO),
        Some(text) => {
            text.parse::<SignedDuration>().map(SignedDuration::unsigned_abs).map_err(|error| format!("{key}: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From kubernetes/node-problem-detector `config/kernel-monitor.json`, shortened.
    const KERNEL: &str = r#"{
        "plugin": "kmsg", "logPath": "/dev/kmsg", "lookback": "5m", "bufferSize": 10, "source": "kernel-monitor",
        "metricsReporting": true,
        "conditions": [{"type": "KernelDeadlock", "reason": "KernelHasNoDeadlock", "message": "kernel has no deadlock"}],
        "rules": [
            {"type": "temporary", "reason": "TaskHung", "pattern": "task [\\S ]+:\\w+ blocked for more than \\w+ seconds\\."},
            {"type": "permanent", "condition": "KernelDeadlock", "reason": "DockerHung",
             "pattern": "task docker:\\w+ blocked for more than \\w+ seconds\\."}
        ]}"#;
    /// From `config/custom-plugin-monitor.json`.
    const CUSTOM: &str = r#"{
        "plugin": "custom",
        "pluginConfig": {"invoke_interval": "30s", "timeout": "5s", "max_output_length": 80, "concurrency": 3,
            "enable_message_change_based_condition_update": false},
        "source": "ntp-custom-plugin-monitor", "metricsReporting": true,
        "conditions": [{"type": "NTPProblem", "reason": "NTPIsUp", "message": "ntp service is up"}],
        "rules": [
            {"type": "temporary", "reason": "NTPIsDown", "path": "./config/plugin/check_ntp.sh", "timeout": "3s"},
            {"type": "permanent", "condition": "NTPProblem", "reason": "NTPIsDown", "path": "./check_ntp.sh", "timeout": "3s"}
        ]}"#;

    #[test]
    fn a_log_rule_file_is_read_as_it_is() {
        let Ok(RuleFile::Log(rules)) = parse(KERNEL.as_bytes(), "f") else { panic!("it is a log rule file") };
        assert_eq!((rules.log, rules.lookback, rules.buffer_size), (Log::Kmsg, Duration::from_secs(300), 10));
        assert_eq!(
            rules.rules.iter().map(|rule| rule.condition.as_deref()).collect::<Vec<_>>(),
            [None, Some("KernelDeadlock")]
        );
        assert!(rules.rules[0].pattern.is_match(b"INFO: task qemu:77 blocked for more than 120 seconds."));
        assert!(!rules.rules[0].pattern.is_match(b"task qemu:77 blocked for more than 120 seconds. Not"), "to its end");
    }

    #[test]
    fn a_custom_plugin_file_is_read_as_it_is() {
        let Ok(RuleFile::Custom(rules)) = parse(CUSTOM.as_bytes(), "f") else { panic!("it is a custom plugin file") };
        assert_eq!((rules.max_output_bytes, rules.concurrency, rules.rules.len()), (80, 3, 2));
        assert_eq!(rules.rules[1].timeout, Duration::from_secs(3));
        assert_eq!(rules.rules[1].invoke_interval, Duration::from_secs(30));
    }

    #[track_caller]
    fn check(change: (&str, &str), text: &str, want: &str) {
        let error = parse(text.replace(change.0, change.1).as_bytes(), "f").unwrap_err();
        let said = kulprit_daemon::Chain(&error).to_string();
        assert!(said.contains(want) && said.contains("`f`"), "{said}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        check(("kmsg", "carrier-pigeon"), KERNEL, "plugin is `carrier-pigeon`");
        check(("\"condition\": \"KernelDeadlock\"", "\"condition\": \"Other\""), KERNEL, "condition `Other`");
        check(("permanent", "eternal"), KERNEL, "`eternal`: permanent or temporary");
        check(("task docker:\\\\w+", "task (docker"), KERNEL, "the pattern of DockerHung");
        check(("\"5m\"", "\"soon\""), KERNEL, "lookback");
        check(("\"timeout\": \"3s\"", "\"timeout\": \"9s\""), CUSTOM, "longer than pluginConfig.timeout");
        check(("\"30s\"", "\"0\""), CUSTOM, "invoke_interval is 0");
        check(("./check_ntp.sh", ""), CUSTOM, "NTPIsDown has no path");
        check(("}", ""), CUSTOM, "no JSON");
    }

    #[test]
    fn the_kernels_lines_of_a_journal_are_read_from_the_kernel() {
        let journal = |source: &str| {
            let config = format!("\"plugin\": \"journald\", \"pluginConfig\": {{\"source\": \"{source}\"}}");
            match parse(KERNEL.replace("\"plugin\": \"kmsg\"", &config).as_bytes(), "f") {
                Ok(RuleFile::Log(rules)) => rules.log,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(journal("kernel"), Log::Kmsg);
        assert_eq!(journal("kubelet"), Log::Journal { identifier: "kubelet".to_owned() });
    }
}
