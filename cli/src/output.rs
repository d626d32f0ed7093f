//! One answer, three forms: for people, JSON, YAML.

use serde::Serialize;

use crate::{Terminal, arguments::Format, error::AskError};

/// Prints `value` as JSON or YAML, or what `human` makes of it.
///
/// # Errors
/// [`AskError::Print`] if the value cannot be written in the format.
pub(crate) fn print<T: Serialize>(
    terminal: &mut Terminal,
    format: Format,
    value: &T,
    human: impl FnOnce(&Terminal) -> String,
) -> Result<(), AskError> {
    let text = match format {
        Format::Human => human(terminal),
        Format::Json => {
            let mut text = serde_json::to_string_pretty(value).map_err(|error| AskError::Print(error.to_string()))?;
            text.push('\n');
            text
        }
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| AskError::Print(error.to_string()))?,
    };
    terminal.print(&text);
    Ok(())
}

/// One of many values as a program reads them while they come: JSON in one line, or a YAML document of its own.
///
/// # Errors
/// [`AskError::Print`] if the value cannot be written in the format.
pub(crate) fn one_of_many<T: Serialize>(
    format: Format,
    value: &T,
    human: impl FnOnce() -> String,
) -> Result<String, AskError> {
    match format {
        Format::Human => Ok(human()),
        Format::Json => {
            let text = serde_json::to_string(value).map_err(|error| AskError::Print(error.to_string()))?;
            Ok(text + "\n")
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(value).map_err(|error| AskError::Print(error.to_string()))?;
            Ok(format!("---\n{text}"))
        }
    }
}
