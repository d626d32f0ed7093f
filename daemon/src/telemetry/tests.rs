//! What a reader of the log sees.

use std::sync::{Arc, Mutex};

use tracing::{debug, info, subscriber::with_default, warn};

use super::*;

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(format: LogFormat, filter: &str, is_colour: bool, log: impl FnOnce()) -> String {
    logged_with(format, filter, is_colour, |_| log())
}

fn logged_with(format: LogFormat, filter: &str, is_colour: bool, log: impl FnOnce(&FilterHandle)) -> String {
    let written = Written::default();
    let writer = written.clone();
    let (subscriber, handle) = subscriber(format, &filter.parse().unwrap(), is_colour, move || writer.clone());
    with_default(subscriber, || log(&handle));
    String::from_utf8(Arc::into_inner(written.0).map_or_else(Vec::new, |bytes| bytes.into_inner().unwrap())).unwrap()
}

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Link {
    text: &'static str,
    source: Option<Box<Link>>,
}

fn chain(texts: &[&'static str]) -> Link {
    let (text, rest) = texts.split_first().unwrap();
    Link { text, source: (!rest.is_empty()).then(|| Box::new(chain(rest))) }
}

#[track_caller]
fn check_chain(texts: &[&'static str], want: &str) {
    assert_eq!(Chain(&chain(texts)).to_string(), want);
}

#[test]
fn a_chain_prints_every_cause_once() {
    check_chain(&["a"], "a");
    check_chain(&["a", "b", "c"], "a: b: c");
}

#[test]
fn a_cause_that_was_already_said_is_left_out() {
    check_chain(&["a: b", "b", "c"], "a: b: c");
}

#[test]
fn a_chain_is_one_line() {
    check_chain(&["a\n", "b\n  at c\n"], "a: b at c");
}

#[test]
fn json_lines_are_flat_objects_with_the_fields() {
    let error = chain(&["failed to connect", "connection refused"]);
    let text =
        logged(LogFormat::Json, "info", false, || warn!(probe = "kvm", error = %Chain(&error), "could not look"));
    assert_eq!(text.lines().count(), 1);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "could not look");
    assert_eq!(line["probe"], "kvm");
    assert_eq!(line["error"], "failed to connect: connection refused");
}

#[test]
fn human_lines_have_colour_only_when_asked() {
    assert!(!logged(LogFormat::Human, "info", false, || info!("hello")).contains('\x1b'));
    assert!(logged(LogFormat::Human, "info", true, || info!("hello")).contains('\x1b'));
}

#[test]
fn the_filter_keeps_what_it_names() {
    let text = logged(LogFormat::Human, "warn,kulprit_x=debug", false, || {
        info!("left out");
        debug!(target: "kulprit_x::uplink", "kept");
        warn!("kept too");
    });
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.contains("left out"));
}

#[test]
fn a_misspelt_level_is_refused_with_what_is_allowed() {
    let error = "inof".parse::<LogFilter>().unwrap_err();
    assert_eq!(error, "bad log filter `inof`: `inof` is no level: error, warn, info, debug, trace, off");
    assert!("kulprit_agent=loud".parse::<LogFilter>().unwrap_err().contains("bad log filter `kulprit_agent=loud`"));
    assert!("xml".parse::<LogFormat>().unwrap_err().contains("human and json"));
}

#[test]
fn a_filter_serialises_as_it_was_written() {
    let filter: LogFilter = serde_json::from_str("\"info,kulprit_x=debug\"").unwrap();
    assert_eq!(serde_json::to_string(&filter).unwrap(), "\"info,kulprit_x=debug\"");
    assert_eq!(LogFilter::default(), "info".parse().unwrap());
}

#[test]
fn a_filter_that_changes_holds_for_the_lines_after_it() {
    let targets = |text: &str| text.parse::<LogFilter>().unwrap().targets;
    let say = |n: u32| debug!(n, "said");
    let log = logged_with(LogFormat::Json, "info", false, |filter| {
        say(1);
        filter.reload(targets("info,kulprit_daemon=debug")).unwrap();
        say(2);
        filter.reload(targets("warn")).unwrap();
        say(3);
    });
    assert!(log.lines().count() == 1 && log.contains("\"n\":2"), "{log}");
}
