//! A time span as people write it: a whole number and a unit.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time span such as `500ms`, `10s` or `5m`; prints and serialises exactly as it was written.
///
/// Two spans are equal if they last equally long: `60s` is `1m`.
#[derive(Clone, Copy, Debug)]
pub struct HumanDuration {
    n: u64,
    unit: Unit,
}

#[derive(Clone, Copy, Debug)]
struct Unit {
    name: &'static str,
    msec: u64,
}

const UNITS: [Unit; 5] = [
    Unit { name: "ms", msec: 1 },
    Unit { name: "s", msec: 1_000 },
    Unit { name: "m", msec: 60_000 },
    Unit { name: "h", msec: 3_600_000 },
    Unit { name: "d", msec: 86_400_000 },
];

/// Why a text is no [`HumanDuration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// `10`: ten of what?
    #[error("bad duration `{0}`: write a unit, for example {0}s")]
    NoUnit(String),
    /// Anything else.
    #[error("bad duration `{0}`: write a whole number and one of ms, s, m, h, d, for example 10s")]
    Malformed(String),
    /// More than a `u64` of milliseconds.
    #[error("bad duration `{0}`: too long")]
    TooLong(String),
}

impl HumanDuration {
    /// `n` milliseconds.
    #[must_use]
    pub const fn from_millis(n: u64) -> Self {
        Self { n, unit: UNITS[0] }
    }

    /// `n` seconds. Saturates, far beyond the age of the universe.
    #[must_use]
    pub const fn from_secs(n: u64) -> Self {
        Self { n, unit: UNITS[1] }
    }

    /// `n` minutes. Saturates like [`HumanDuration::from_secs`].
    #[must_use]
    pub const fn from_mins(n: u64) -> Self {
        Self { n, unit: UNITS[2] }
    }

    /// The same span for the standard library and tokio.
    #[must_use]
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.n.saturating_mul(self.unit.msec))
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.get()
    }
}

impl PartialEq for HumanDuration {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for HumanDuration {}

impl PartialOrd for HumanDuration {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HumanDuration {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.n, self.unit.name)
    }
}

impl FromStr for HumanDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(DurationError::Malformed(text.to_owned()));
        }
        if unit.is_empty() {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        let unit = UNITS.into_iter().find(|known| known.name == unit);
        let unit = unit.ok_or_else(|| DurationError::Malformed(text.to_owned()))?;
        let n: u64 = number.parse().map_err(|_| DurationError::TooLong(text.to_owned()))?;
        n.checked_mul(unit.msec).ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
        Ok(Self { n, unit })
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // As a string: a YAML parser hands over the number `10` as its text, and we can say what is wrong with it.
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, msec: u64) {
        let duration: HumanDuration = text.parse().unwrap();
        assert_eq!(duration.get(), Duration::from_millis(msec), "{text}");
        assert_eq!(duration.to_string(), text);
        assert_eq!(serde_json::to_string(&duration).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<HumanDuration>(&format!("\"{text}\"")).unwrap(), duration);
    }

    #[track_caller]
    fn check_error(text: &str, message: &str) {
        assert_eq!(text.parse::<HumanDuration>().unwrap_err().to_string(), message);
    }

    #[test]
    fn every_unit_reads_and_prints_as_written() {
        check("500ms", 500);
        check("0s", 0);
        check("10s", 10_000);
        check("60s", 60_000);
        check("5m", 300_000);
        check("2h", 7_200_000);
        check("30d", 2_592_000_000);
    }

    #[test]
    fn equal_spans_are_equal_however_written() {
        assert_eq!("60s".parse(), Ok(HumanDuration::from_mins(1)));
        assert!(HumanDuration::from_millis(999) < HumanDuration::from_secs(1));
    }

    #[test]
    fn errors_say_what_to_write() {
        check_error("10", "bad duration `10`: write a unit, for example 10s");
        for text in ["", "s", "1.5s", "-1s", "10 s", "1m30s", "10S", "10sec", "1e3s", "١s"] {
            check_error(
                text,
                &format!("bad duration `{text}`: write a whole number and one of ms, s, m, h, d, for example 10s"),
            );
        }
        check_error("99999999999999999999s", "bad duration `99999999999999999999s`: too long");
        check_error("18446744073709551615d", "bad duration `18446744073709551615d`: too long");
    }
}
