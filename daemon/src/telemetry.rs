//! Logs: to stderr, for people or as JSON lines.
//!
//! The human form has colour only when stderr is a terminal (and `NO_COLOR` is unset); the JSON form is flat, one object a
//! line, for a log collector. The filter is `tracing`'s `Targets` (`info,kulprit_agent=debug`), which needs no regex engine
//! and so no memory. Panics go the same way as everything else: a log collector does not read Rust's own panic message.
//! A program that is asked for its last lines keeps them ([`init_keeping`], [`recent_lines`]). The filter may change while it runs
//! ([`set_filter`]).
//!
//! Log an error with [`Chain`]: `%error` alone prints only the outermost message, and the cause is what one looks for.

mod recent;

use std::{
    any::Any,
    error::Error,
    fmt,
    io::{self, IsTerminal},
    panic,
    str::FromStr,
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};
use tracing::{Level, Subscriber, error, warn};
use tracing_subscriber::{
    filter::Targets,
    fmt::{MakeWriter, layer},
    layer::{Layer, SubscriberExt},
    registry::{LookupSpan, Registry},
    reload,
};

use recent::Recent;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person at a terminal.
    #[default]
    Human,
    /// One flat JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("bad log format `{text}`: human and json are allowed")),
        }
    }
}

/// Which log lines are written: a level, and levels of single modules, for example `info,kulprit_agent::uplink=debug`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter {
    text: String,
    targets: Targets,
}

impl Default for LogFilter {
    /// `info`: normal and rare events, and everything worse.
    fn default() -> Self {
        Self { text: "info".to_owned(), targets: Targets::new().with_default(Level::INFO) }
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let targets = Targets::from_str(text).map_err(|_| {
            format!("bad log filter `{text}`: write a level (error, warn, info, debug, trace, off) or module=level, with commas between")
        })?;
        // `Targets` takes a misspelt level for a module name and then logs nothing: say so instead.
        let bare = text.split(',').map(str::trim).find(|part| {
            !part.is_empty()
                && !part.contains(['=', ':'])
                && !part.starts_with("kulprit")
                && tracing::level_filters::LevelFilter::from_str(part).is_err()
        });
        match bare {
            Some(bare) => {
                Err(format!("bad log filter `{text}`: `{bare}` is no level: error, warn, info, debug, trace, off"))
            }
            None => Ok(Self { text: text.to_owned(), targets }),
        }
    }
}

impl TryFrom<String> for LogFilter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.text
    }
}

/// The last lines of this process, if it keeps them.
static RECENT: OnceLock<Recent> = OnceLock::new();

/// The filter of what goes to stderr.
type FilterHandle = reload::Handle<Targets, Registry>;

static FILTER: OnceLock<FilterHandle> = OnceLock::new();

/// Writes to stderr what this filter lets through from now on; lines that are kept stay those of the start. Before logging has
/// started it does nothing.
pub fn set_filter(filter: &LogFilter) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(filter.targets.clone())
    {
        warn!(error = %Chain(&error), "the log's filter stays as it was");
    }
}

/// Starts logging to stderr for the whole process, panics included. Later calls change nothing.
pub fn init(format: LogFormat, filter: &LogFilter) {
    start(format, filter, None);
}

/// [`init`], and keeps the last lines in memory.
pub fn init_keeping(format: LogFormat, filter: &LogFilter) {
    start(format, filter, Some(RECENT.get_or_init(Recent::default).clone()));
}

/// The last lines that this process wrote, oldest first; `None` if it does not keep them.
#[must_use]
pub fn recent_lines() -> Option<String> {
    RECENT.get().map(Recent::text)
}

fn start(format: LogFormat, filter: &LogFilter, recent: Option<Recent>) {
    let is_colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let kept = recent.map(|recent| layer().with_ansi(false).with_writer(recent).with_filter(filter.targets.clone()));
    let (subscriber, handle) = subscriber(format, filter, is_colour, io::stderr);
    if tracing::subscriber::set_global_default(subscriber.with(kept)).is_ok() {
        FILTER.get_or_init(|| handle);
        panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string);
            error!(location, panic = panic_text(panic.payload()), "panicked");
        }));
    }
}

fn subscriber<W>(
    format: LogFormat,
    filter: &LogFilter,
    is_colour: bool,
    writer: W,
) -> (impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync, FilterHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = match format {
        LogFormat::Human => layer().with_ansi(is_colour).with_writer(writer).boxed(),
        LogFormat::Json => layer().json().flatten_event(true).with_current_span(false).with_writer(writer).boxed(),
    };
    let (targets, handle) = reload::Layer::new(filter.targets.clone());
    (Registry::default().with(lines.with_filter(targets)), handle)
}

/// Prints an error with its causes, each once, on one line: `a: b: c`.
///
/// A cause whose text the message above already ends with is left out, and line ends become spaces: libraries do both.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = on_one_line(&self.0.to_string());
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = on_one_line(&cause.to_string());
            if !said.ends_with(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

/// What a panic said: its message, where it has one.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a value that is no text")
}

fn on_one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
