//! Times and spans as people and programs write them.

use jiff::{Timestamp, tz::TimeZone};

use crate::error::AskError;

/// RFC 3339 in UTC with whole seconds, for programs. `None` for 0, which means not known.
pub(crate) fn rfc3339(wall_usec: i64) -> Option<String> {
    if wall_usec == 0 {
        return None;
    }
    let time = Timestamp::from_microsecond(wall_usec).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Date and time in this machine's zone, with the zone's name; `unknown` for 0.
pub(crate) fn local_date_time(wall_usec: i64) -> String {
    date_time(wall_usec, &TimeZone::system())
}

/// Date and time in `zone`, with the zone's name; `unknown` for 0.
pub(crate) fn date_time(wall_usec: i64, zone: &TimeZone) -> String {
    in_zone(wall_usec, "%Y-%m-%d %H:%M:%S %Z", zone)
}

/// Time of day in `zone`; with the date if that is another day than `reference`.
pub(crate) fn time_of_day(wall_usec: i64, reference_wall_usec: i64, zone: &TimeZone) -> String {
    let day = |usec| in_zone(usec, "%m-%d", zone);
    if reference_wall_usec != 0 && day(wall_usec) != day(reference_wall_usec) {
        in_zone(wall_usec, "%m-%d %H:%M:%S", zone)
    } else {
        in_zone(wall_usec, "%H:%M:%S", zone)
    }
}

/// A text for a person: the RFC 3339 times in it, in UTC for programs, as [`time_of_day`] beside the page's other times.
pub(crate) fn with_times_in(text: &str, reference_wall_usec: i64, zone: &TimeZone) -> String {
    let word = |word: &str| {
        let time = word.trim_end_matches([')', ',', ';', '.']);
        // A date alone is also read as a time, and is none.
        let parsed = time.ends_with('Z').then(|| time.parse::<Timestamp>().ok()).flatten();
        match parsed {
            Some(parsed) => time_of_day(parsed.as_microsecond(), reference_wall_usec, zone) + &word[time.len()..],
            None => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

fn in_zone(wall_usec: i64, format: &str, zone: &TimeZone) -> String {
    if wall_usec == 0 {
        return "unknown".to_owned();
    }
    match Timestamp::from_microsecond(wall_usec) {
        Ok(time) => time.to_zoned(zone.clone()).strftime(format).to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// A span in words, to two units: `2 min 10 s`. Negative spans are clock differences and read as 0 s.
pub(crate) fn span(usec: i64) -> String {
    let secs = (usec / 1_000_000).max(0);
    let (days, hours, minutes, seconds) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60, secs % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Reads `90s`, `30m`, `2h`, `1d` as microseconds.
///
/// # Errors
/// [`AskError::BadSpan`] for anything else, or a span too long to count.
pub(crate) fn parse_span(text: &str) -> Result<i64, AskError> {
    let bad = || AskError::BadSpan(text.to_owned());
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = text.split_at(split);
    let number: i64 = number.parse().map_err(|_| bad())?;
    let secs = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    number.checked_mul(secs).and_then(|secs| secs.checked_mul(1_000_000)).ok_or_else(bad)
}

/// Now, Unix time in microseconds: for "how long ago" in what a person reads, and for `--since`.
pub(crate) fn now_wall_usec() -> i64 {
    Timestamp::now().as_microsecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(secs: i64, want: &str) {
        assert_eq!(span(secs * 1_000_000), want);
    }

    #[test]
    fn spans_are_written_in_two_units() {
        check(-5, "0 s");
        check(59, "59 s");
        check(130, "2 min 10 s");
        check(3_600, "1 h 0 min");
        check(90_000, "1 d 1 h");
    }

    #[test]
    fn spans_are_read_with_their_unit_and_nothing_else() {
        assert_eq!(parse_span("30m").unwrap(), 1_800_000_000);
        assert_eq!(parse_span("2 h").unwrap(), 7_200_000_000);
        for bad in ["", "10", "h", "-1h", "1y", "99999999999999999999s", "9223372036854775807d"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_within_a_text_are_written_as_those_beside_it() {
        let reference = 1_772_359_822_000_000;
        let at =
            |text: &str| time_of_day(text.parse::<Timestamp>().unwrap().as_microsecond(), reference, &TimeZone::UTC);
        let text = "well (so since 2026-03-01T10:08:12Z), looked at 2026-02-28T10:00:00Z, dev Z 2026-03-01";
        let want = format!(
            "well (so since {}), looked at {}, dev Z 2026-03-01",
            at("2026-03-01T10:08:12Z"),
            at("2026-02-28T10:00:00Z")
        );
        assert_eq!(with_times_in(text, reference, &TimeZone::UTC), want);
        assert!(!want.contains('T'), "{want}");
    }

    #[test]
    fn zero_is_not_a_time() {
        assert_eq!(rfc3339(0), None);
        assert_eq!(local_date_time(0), "unknown");
        assert_eq!(rfc3339(1_772_359_692_000_000).unwrap(), "2026-03-01T10:08:12Z");
    }
}
