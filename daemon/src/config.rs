//! One YAML file, read once, into a struct that denies unknown keys.
//!
//! A mistake is told in one line with file, line, column, key and what is allowed there; it ends the process with exit code 2.
//! Line breaks and control characters of the file (a quoted key may hold them) are escaped in it.
//! An empty file means all defaults. YAML booleans are `true` and `false` only: `no` is a country.
//! Times are [`HumanDuration`] and secrets are [`Secret`], so that the dump at `/debug/config` reads like the file and is safe.

mod duration;
mod secret;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_saphyr::{Error as YamlError, UserMessageFormatter};

pub use duration::{DurationError, HumanDuration};
pub use secret::Secret;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or must not be read.
    #[error("failed to read the configuration `{}`", OneLine(&path.to_string_lossy()))]
    Io {
        /// The file asked for.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The file says something it must not say.
    #[error("bad configuration: {}{place}: {}", OneLine(&path.to_string_lossy()), OneLine(problem))]
    Malformed {
        /// The file read.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// What is wrong there, with what is allowed.
        problem: String,
    },
    /// The file reads well, but a value makes no sense; for the program's own checks after [`load`].
    #[error("bad configuration: {}: `{key}`: {}", OneLine(&path.to_string_lossy()), OneLine(problem))]
    Invalid {
        /// The file read.
        path: PathBuf,
        /// The key, with dots from the outermost.
        key: &'static str,
        /// What is wrong with its value, with what is allowed.
        problem: String,
    },
}

/// A place in a text; prints as `:line:column`, or as nothing where the parser could not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(Option<(u64, u64)>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |(line, column)| write!(f, ":{line}:{column}"))
    }
}

/// Prints a text with line breaks and control characters escaped.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            // The two line breaks of Unicode that are no control characters.
            '\u{2028}' | '\u{2029}' => write!(f, "{}", char.escape_unicode()),
            char if char.is_control() => write!(f, "{}", char.escape_default()),
            char => write!(f, "{char}"),
        })
    }
}

impl ConfigError {
    /// What to do about it, where the message does not say so already.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("create it or name another with --config".to_owned())
            }
            Self::Io { .. } => Some("make it readable for this process or name another with --config".to_owned()),
            Self::Malformed { .. } | Self::Invalid { .. } => None,
        }
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// If it cannot be read, is not YAML, or does not fit `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// Reads `text`; `path` is only for messages.
///
/// # Errors
/// If it is not YAML or does not fit `T`.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    let is_empty = text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim_start().starts_with('#'));
    let text = if is_empty { "{}" } else { text };
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let mut key = String::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            // `?` and `.` stand for a place that has no name (yet).
            key = error.path().to_string().trim_end_matches(['?', '.']).to_owned();
            error.into_inner()
        })
    })
    .map_err(|error| {
        let location = error.location().filter(|location| location.line() > 0);
        ConfigError::Malformed {
            path: path.to_owned(),
            place: Place(location.map(|location| (location.line(), location.column()))),
            problem: describe(&error, &key),
        }
    })
}

fn describe(error: &YamlError, key: &str) -> String {
    match error.without_snippet() {
        YamlError::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key `{}`; {}", within(key, field), allowed(field, expected))
        }
        YamlError::SerdeUnknownVariant { variant, expected, .. } => {
            format!("bad value `{variant}` of `{key}`; {}", allowed(variant, expected))
        }
        YamlError::SerdeMissingField { field, .. } => format!("missing key `{}`", within(key, field)),
        YamlError::DuplicateMappingKey { key: Some(twice), .. } => format!("`{}` is given twice", within(key, twice)),
        YamlError::InvalidBooleanStrict { .. } => format!("`{key}`: write true or false"),
        YamlError::InvalidScalar { ty, .. } => format!("`{key}`: write {}", scalar(ty)),
        YamlError::Unexpected { expected: "string scalar", .. } => {
            format!("`{key}`: write one value, no list and no keys")
        }
        YamlError::Unexpected { expected: "mapping start", .. } => format!("`{key}`: write keys below it, no value"),
        YamlError::Unexpected { expected: "sequence start", .. } => format!("`{key}`: write a list"),
        other => {
            let text = other.render_with_formatter(&UserMessageFormatter);
            let text = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
            let text = without_place(&text);
            if key.is_empty() { text.to_owned() } else { format!("`{key}`: {text}") }
        }
    }
}

/// What to write for a Rust type.
fn scalar(ty: &str) -> String {
    let largest = match ty {
        "bool" => return "true or false".to_owned(),
        "f32" | "f64" => return "a number".to_owned(),
        "u8" => u64::from(u8::MAX),
        "u16" => u64::from(u16::MAX),
        "u32" => u64::from(u32::MAX),
        "u64" | "usize" => u64::MAX,
        other => return format!("a value of type {other}"),
    };
    format!("a whole number from 0 to {largest}")
}

/// The parser ends its messages with the place, which we have said already.
fn without_place(text: &str) -> &str {
    text.rfind(" at line ").map_or(text, |at| &text[..at])
}

/// The full path of `name`, which `key` may end with already.
fn within(key: &str, name: &str) -> String {
    match key {
        "" => name.to_owned(),
        _ if key == name || key.ends_with(&format!(".{name}")) => key.to_owned(),
        _ => format!("{key}.{name}"),
    }
}

fn allowed(given: &str, expected: &[&str]) -> String {
    let nearest = expected.iter().map(|name| (n_edits(given, name), name)).min();
    let hint = match nearest {
        // Two slips of the finger, but not a wholly different short word.
        Some((n, name)) if n <= 2 && n < given.len() => format!("did you mean `{name}`? "),
        _ => String::new(),
    };
    if expected.is_empty() {
        "no key is allowed here".to_owned()
    } else {
        format!("{hint}allowed: {}", expected.join(", "))
    }
}

/// Levenshtein distance in bytes.
fn n_edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_byte) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b_byte) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(a_byte != b_byte);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
