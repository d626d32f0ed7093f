//! Texts from libvirt made safe to hand on: valid UTF-8, of bounded length.
//!
//! Names, paths and messages come from whoever defined the domain, and in a launcher pod from a daemon that a guest's
//! owner may have broken into. Nothing here trusts them to be short or well-formed.

use std::ffi::{CStr, c_char};

/// Longest name, alias or path handed on, bytes.
pub(crate) const MAX_NAME: usize = 1024;
/// Longest error message handed on, bytes.
pub(crate) const MAX_MESSAGE: usize = 4096;

/// Valid UTF-8 of at most `max` bytes; bytes that are none become U+FFFD, NUL ends it.
pub(crate) fn clean(bytes: &[u8], max: usize) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    // Reading a little more than `max` keeps a character that straddles it whole for the cut below.
    let mut text = String::from_utf8_lossy(&bytes[..end.min(max.saturating_add(4))]).into_owned();
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
    text
}

/// The C string at `text`, cleaned; `None` for a null pointer.
///
/// # Safety
/// `text` is null, or points to a NUL-terminated string that lives through this call.
pub(crate) unsafe fn from_ptr(text: *const c_char, max: usize) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and NUL-terminated as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    Some(clean(text.to_bytes(), max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(clean(b"db\xff0", 100), "db\u{fffd}0");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(clean("aéé".as_bytes(), 4), "aé");
        assert_eq!(clean(&[0xff; 10], 4), "\u{fffd}", "a replacement is three bytes long");
        assert_eq!(clean(b"abc", 0), "");
    }

    #[test]
    fn nul_ends_the_text() {
        assert_eq!(clean(b"disk\0garbage", 100), "disk");
    }

    #[test]
    fn a_null_pointer_is_no_text() {
        // SAFETY: null is allowed, and a literal is NUL-terminated and static.
        let texts = unsafe { (from_ptr(std::ptr::null(), 10), from_ptr(c"vda".as_ptr(), 10)) };
        assert_eq!(texts, (None, Some("vda".into())));
    }
}
