//! Model ↔ wire.
//!
//! Model → wire is total (`From`). Wire → model (`TryFrom`) refuses what the model could not say, and names the field by its
//! path from the outermost message: `record.state.subject: …`. Two refusals are no fault of the sender but a sign of a newer
//! one, an unknown finding code and an unknown kind of record: see [`ConvertError::is_from_newer_sender`].
//! Structs are taken apart field by field, so that a new field fails to compile until it is carried.

mod finding;
mod record;
mod vm;

#[cfg(test)]
mod tests;

/// A message says something that the model cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// The code is not in this version's catalogue. Skip the record, count it, and ack it.
    #[error("{path}: `{code}` is not in the finding catalogue of this version")]
    UnknownFindingCode {
        /// Where, for example `record.state.code`.
        path: String,
        /// The code, cut at 80 characters.
        code: String,
    },
    /// No body that this version knows. Skip the record, count it, and ack it.
    #[error("{path}: missing, or of a kind that this version does not know")]
    UnknownBody {
        /// Where, for example `record.body`.
        path: String,
    },
    /// A field that must be set is not.
    #[error("{path}: missing")]
    Missing {
        /// Where, for example `record.state.since`.
        path: String,
    },
    /// A field holds a value that it must not hold.
    #[error("{path}: {problem}")]
    Invalid {
        /// Where, for example `record.occurrence.count`.
        path: String,
        /// What is wrong with the value.
        problem: String,
    },
}

impl ConvertError {
    /// Whether an honest sender of a newer version may have sent this; anything else is a broken sender.
    #[must_use]
    pub const fn is_from_newer_sender(&self) -> bool {
        match self {
            Self::UnknownFindingCode { .. } | Self::UnknownBody { .. } => true,
            Self::Missing { .. } | Self::Invalid { .. } => false,
        }
    }

    /// The path of the field.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::UnknownFindingCode { path, .. }
            | Self::UnknownBody { path }
            | Self::Missing { path }
            | Self::Invalid { path, .. } => path,
        }
    }

    /// The same error seen from one message further out.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        match &mut self {
            Self::UnknownFindingCode { path, .. }
            | Self::UnknownBody { path }
            | Self::Missing { path }
            | Self::Invalid { path, .. } => {
                path.insert(0, '.');
                path.insert_str(0, outer);
            }
        }
        self
    }

    fn invalid(path: &str, problem: impl ToString) -> Self {
        Self::Invalid { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// A field that must be set.
fn required<T>(field: Option<T>, path: &str) -> Result<T, ConvertError> {
    field.ok_or_else(|| ConvertError::Missing { path: path.to_owned() })
}

/// A text that must not be empty.
fn filled(text: String, path: &str) -> Result<String, ConvertError> {
    if text.is_empty() { Err(ConvertError::Missing { path: path.to_owned() }) } else { Ok(text) }
}

/// A number that counts from 1.
fn at_least_one(number: u64, path: &str) -> Result<u64, ConvertError> {
    if number == 0 { Err(ConvertError::invalid(path, "0, where at least 1 is due")) } else { Ok(number) }
}
