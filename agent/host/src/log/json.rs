//! JSON lines: KubeVirt's components, zap and other structured loggers, journald's export, Docker's log files.
//!
//! Sources: KubeVirt `staging/src/kubevirt.io/client-go/log`, `go.uber.org/zap`, systemd `journalctl -o json`
//! (`systemd.journal-fields(7)`: a field that is no UTF-8 is an array of bytes), Docker's `json-file` driver.

use serde_json::{Map, Value};

use super::form::{Meta, Rest, level_of};
use super::stamp::{self, Quality, When};

/// Pairs that say nothing of a failure, or that are taken apart from the text.
const LEFT_OUT: &[&str] = &[
    "component",
    "subcomponent",
    "level",
    "severity",
    "timestamp",
    "ts",
    "time",
    "@timestamp",
    "msg",
    "message",
    "reason",
    "error",
    "err",
    "errorVerbose",
    "stacktrace",
    "stack",
    "pos",
    "caller",
    "kind",
    "name",
    "namespace",
    "uid",
    "thread",
    "logger",
    "controller",
    "reconciler",
];
/// Longest value of another pair that is kept.
const MAX_VALUE_BYTES: usize = 300;

/// Takes the layer off; `None` when this is no object with a message.
pub(super) fn peel(text: &str, at_usec: i64, meta: &mut Meta) -> Option<Rest> {
    let object: Map<String, Value> = serde_json::from_str(text.trim_end()).ok()?;
    if object.contains_key("MESSAGE") || object.contains_key("__REALTIME_TIMESTAMP") {
        return journald(&object, meta);
    }
    if let (Some(Value::String(log)), Some(_)) = (object.get("log"), object.get("stream")) {
        take_time(&object, at_usec, meta);
        // Docker splits what is longer than 16 KiB; only the last part has the line's end.
        meta.is_partial = !log.ends_with('\n');
        return Some(Rest::Own(log.trim_end().to_owned()));
    }
    structured(&object, at_usec, meta)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(bytes) => {
            let bytes: Option<Vec<u8>> = bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes?).into_owned())
        }
        _ => None,
    }
}

fn number_of(object: &Map<String, Value>, key: &str) -> Option<i64> {
    match object.get(key)? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

fn journald(object: &Map<String, Value>, meta: &mut Meta) -> Option<Rest> {
    let source = number_of(object, "_SOURCE_REALTIME_TIMESTAMP").or_else(|| number_of(object, "__REALTIME_TIMESTAMP"));
    if let Some(usec) = source {
        meta.stamp(When::Wall(usec), Quality::Full);
    }
    let ident = object.get("SYSLOG_IDENTIFIER").or_else(|| object.get("_COMM")).and_then(text_of);
    meta.is_kernel = Some(match object.get("_TRANSPORT").and_then(Value::as_str) {
        Some(transport) => transport == "kernel",
        None => ident.as_deref() == Some("kernel"),
    });
    meta.ident = ident;
    meta.pid = number_of(object, "_PID")
        .or_else(|| number_of(object, "SYSLOG_PID"))
        .and_then(|pid| u32::try_from(pid).ok())
        .or(meta.pid);
    meta.priority = number_of(object, "PRIORITY").and_then(|level| u8::try_from(level).ok()).filter(|level| *level < 8);
    Some(Rest::Own(object.get("MESSAGE").and_then(text_of).unwrap_or_default()))
}

fn take_time(object: &Map<String, Value>, at_usec: i64, meta: &mut Meta) {
    let value = ["timestamp", "ts", "time", "@timestamp"].iter().find_map(|key| object.get(*key));
    let time = match value {
        Some(Value::String(text)) => stamp::whole(text, at_usec),
        Some(Value::Number(number)) => stamp::whole(&number.to_string(), at_usec),
        _ => None,
    };
    if let Some((usec, quality)) = time {
        meta.stamp(When::Wall(usec), quality);
    }
}

fn structured(object: &Map<String, Value>, at_usec: i64, meta: &mut Meta) -> Option<Rest> {
    let word = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let message = word("msg").or_else(|| word("message"))?;
    take_time(object, at_usec, meta);
    meta.priority = word("level").or_else(|| word("severity")).and_then(level_of).or(meta.priority);
    if let Some(component) = word("component").or_else(|| word("logger")) {
        meta.ident = Some(component.to_owned());
    }
    meta.part = word("subcomponent").map(str::to_owned);
    meta.about.kind = word("kind").map(str::to_owned);
    meta.about.namespace = word("namespace").map(str::to_owned);
    meta.about.name = word("name").map(str::to_owned);
    meta.about.uid = word("uid").map(str::to_owned);
    let mut own = message.trim_end().to_owned();
    for key in ["reason", "error", "err"] {
        if let Some(text) = word(key).filter(|text| !own.contains(text)) {
            own.push_str(": ");
            own.push_str(text);
        }
    }
    for (key, value) in object.iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str())) {
        if let Value::String(text) = value
            && !text.is_empty()
            && text.len() <= MAX_VALUE_BYTES
        {
            own.push_str(&format!(" {key}={text:?}"));
        }
    }
    Some(Rest::Own(own))
}
