//! What was seen, by whom and when, in words for a person.

use crate::time::Moment;

/// One piece of evidence behind a finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// Where it comes from: `systemd`, `kmsg`, `procfs`, `libvirt`, `kvm`, `healthz`.
    pub source: String,
    /// When the thing happened, or was looked at if that is not known.
    pub at: Moment,
    /// What was seen, one line, at most [`Evidence::MAX_TEXT_BYTES`]; host text is quoted as it was.
    pub text: String,
}

impl Evidence {
    /// Longer texts are cut at a character boundary.
    pub const MAX_TEXT_BYTES: usize = 1024;

    /// Makes a piece of evidence; control characters become spaces and long text is cut.
    #[must_use]
    pub fn new(source: &str, at: Moment, text: impl Into<String>) -> Self {
        let mut text: String = text.into();
        if text.chars().any(char::is_control) {
            text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        }
        if text.len() > Self::MAX_TEXT_BYTES {
            text.truncate(text.floor_char_boundary(Self::MAX_TEXT_BYTES));
            // Thousands are kept, and a line may have had 64 KiB.
            text.shrink_to_fit();
        }
        Self { source: source.to_owned(), at, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_at_a_character_boundary() {
        let evidence = Evidence::new("kmsg", Moment::default(), "é".repeat(1000));
        assert_eq!(evidence.text, "é".repeat(512));
    }

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(Evidence::new("kmsg", Moment::default(), "a\x1b[31m\nb").text, "a [31m b");
    }
}
