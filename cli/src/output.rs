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
