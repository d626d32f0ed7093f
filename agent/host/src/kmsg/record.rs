//! One record: `level,sequence,microseconds,flags[,…];text`, then ` KEY=value` lines.

use std::borrow::Cow;

use crate::Malformed;

/// One record of the kernel's log, borrowed from the bytes it was parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kmsg<'a> {
    /// Severity, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Who logged: 0 is the kernel, others wrote to `/dev/kmsg` themselves.
    pub facility: u16,
    /// Number of the record in this boot.
    pub seq: u64,
    /// When it was logged: the kernel's monotonic clock, microseconds since boot; it stands still while the machine sleeps.
    pub usec: u64,
    /// Whether it continues the line of an earlier record.
    pub is_continuation: bool,
    /// What was logged, without the line's end. May itself contain line breaks that the kernel escaped.
    pub text: Cow<'a, str>,
    /// The ` KEY=value` lines, unparsed: see [`Self::fields`].
    dictionary: &'a [u8],
}

impl<'a> Kmsg<'a> {
    /// Whether the kernel itself logged this; anyone may write to `/dev/kmsg` who is root.
    pub fn is_from_kernel(&self) -> bool {
        self.facility == 0
    }

    /// The `KEY=value` lines of the record (`SUBSYSTEM`, `DEVICE`), escapes decoded; lines of another form are left out.
    pub fn fields(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.dictionary.split(|byte| *byte == b'\n').filter_map(|line| {
            let line = line.strip_prefix(b" ")?;
            let equals = line.iter().position(|byte| *byte == b'=')?;
            Some((decode(&line[..equals]), decode(&line[equals + 1..])))
        })
    }
}

/// Parses one record as `read` on `/dev/kmsg` gives it.
///
/// # Errors
/// When the four numbers and flags before `;` are not there. Anything is a text.
pub fn parse_kmsg_record(bytes: &[u8]) -> Result<Kmsg<'_>, Malformed> {
    record(bytes).ok_or_else(|| Malformed::new(1, first_line(bytes).0))
}

fn record(bytes: &[u8]) -> Option<Kmsg<'_>> {
    let (priority, rest) = number(bytes)?;
    let (seq, rest) = number(rest)?;
    let (usec, rest) = number(rest)?;
    // Flags, then fields that later kernels may add (`caller=T1`): all up to the first semicolon of the line.
    let (line, dictionary) = first_line(rest);
    let semicolon = memchr::memchr(b';', line)?;
    Some(Kmsg {
        level: u8::try_from(priority & 7).ok()?,
        facility: u16::try_from(priority >> 3).ok()?,
        seq,
        usec,
        is_continuation: line.first() == Some(&b'c'),
        text: decode(&line[semicolon + 1..]),
        dictionary,
    })
}

/// A decimal number that a comma ends, and what follows the comma.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            // 19 digits fit without a check.
            b'0'..=b'9' if index < 19 => value = value * 10 + u64::from(byte - b'0'),
            b'0'..=b'9' => value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?,
            b',' if index > 0 => return Some((value, &bytes[index + 1..])),
            _ => return None,
        }
    }
    None
}

/// The first line without its end, and what follows.
fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'\n', bytes) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[]),
    }
}

/// Undoes `\xNN`; what is no UTF-8 then becomes U+FFFD. Borrows where there is nothing to undo.
fn decode(bytes: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', bytes).is_none() {
        return String::from_utf8_lossy(bytes);
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        match tail {
            [b'x', high, low, after @ ..] if *first == b'\\' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest = after;
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(
        String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}
