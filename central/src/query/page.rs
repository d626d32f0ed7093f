//! Page tokens: where an answer left off, and of which question.
//!
//! Opaque to whoever gets one: hexadecimal of a checksum over the question and the position. A token of another question is
//! refused instead of giving a page that belongs to neither.

use kulprit_daemon::backoff::stable_seed;

/// Makes the token of a position in the answer to a question.
#[must_use]
pub fn token(question: &[&str], position: &str) -> String {
    let mut token = format!("{:016x}", stable_seed(question));
    for byte in position.bytes() {
        token.push_str(&format!("{byte:02x}"));
    }
    token
}

/// The position in a token; `None` if it is not a token of this question.
#[must_use]
pub fn position(question: &[&str], token: &str) -> Option<String> {
    let (checksum, hex) = token.split_at_checked(16)?;
    if checksum != format!("{:016x}", stable_seed(question)) || !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_of_another_question_is_refused() {
        let made = token(&["n1", "KvmUnusable"], "7");
        assert_eq!(position(&["n1", "KvmUnusable"], &made).as_deref(), Some("7"));
        assert_eq!(position(&["n2", "KvmUnusable"], &made), None);
    }

    proptest! {
        #[test]
        fn every_position_reads_back(question in ".*", at in ".*") {
            prop_assert_eq!(position(&[&question], &token(&[&question], &at)), Some(at));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            prop_assert_eq!(position(&["q"], &text), None, "the checksum of no text is guessed");
            let checksum = token(&["q"], "");
            let read = position(&["q"], &(checksum + &text));
            let is_hex = text.len().is_multiple_of(2) && text.chars().all(|c| c.is_ascii_hexdigit());
            prop_assert!(read.is_none() || is_hex);
        }
    }
}
