//! Pressure stall information: how long tasks wait for a CPU, for memory, for I/O.
//!
//! The same format for the node (`/proc/pressure/*`) and for one cgroup (`cpu.pressure` …). Source: kernel
//! `Documentation/accounting/psi.rst`, Linux ≥ 4.20; the `full` line of `cpu` is zero for the node and missing before 5.13.

mod trigger;

use std::path::Path;

pub use trigger::PressureTrigger;

use crate::kept::{KeptBuffer, KeptFile};
use crate::{HostRoot, Malformed, ReadError};

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PressureLine {
    /// Share of the last 10 s in which tasks stalled, percent, 0.0..=100.0.
    pub avg10_pct: f64,
    /// The same of the last 60 s.
    pub avg60_pct: f64,
    /// The same of the last 300 s.
    pub avg300_pct: f64,
    /// Stall time since boot, or since the cgroup was made, microseconds; only grows.
    pub total_usec: u64,
}

/// A pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// At least one task stalled.
    pub some: Option<PressureLine>,
    /// All tasks that were not idle stalled at once.
    pub full: Option<PressureLine>,
}

/// Parses a pressure file; lines of another name are left out.
///
/// # Errors
/// When neither `some` nor `full` is there, or one of them has a field missing or no number.
pub fn parse_pressure(text: &str) -> Result<Pressure, Malformed> {
    let mut pressure = Pressure::default();
    for (index, line) in text.lines().enumerate() {
        let (name, fields) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let parsed = || parse_fields(fields).ok_or_else(|| Malformed::new(index + 1, line));
        match name {
            "some" => pressure.some = Some(parsed()?),
            "full" => pressure.full = Some(parsed()?),
            _ => {}
        }
    }
    match pressure {
        Pressure { some: None, full: None } => Err(Malformed::new(1, text.lines().next().unwrap_or_default())),
        pressure => Ok(pressure),
    }
}

fn parse_fields(fields: &str) -> Option<PressureLine> {
    let value = |key: &str| fields.split_ascii_whitespace().find_map(|field| field.strip_prefix(key));
    let percent = |key: &str| value(key)?.parse::<f64>().ok().filter(|share| share.is_finite() && *share >= 0.0);
    Some(PressureLine {
        avg10_pct: percent("avg10=")?,
        avg60_pct: percent("avg60=")?,
        avg300_pct: percent("avg300=")?,
        total_usec: value("total=")?.parse().ok()?,
    })
}

/// Reads a pressure file under the host's root.
///
/// # Errors
/// `Unsupported` when it is empty, as it is saved from a kernel that has PSI switched off; otherwise see [`ReadError`].
pub fn read_pressure(root: &HostRoot, path: impl AsRef<Path>) -> Result<Pressure, ReadError> {
    read_kept_pressure(&mut KeptFile::new(root, path), &mut KeptBuffer::default())
}

/// As [`read_pressure`], of a file that stays open.
///
/// # Errors
/// As [`read_pressure`].
pub fn read_kept_pressure(file: &mut KeptFile, buffer: &mut KeptBuffer) -> Result<Pressure, ReadError> {
    let text = file.read(buffer)?;
    if text.trim().is_empty() {
        return Err(ReadError::Unsupported { path: file.display_path() });
    }
    parse_pressure(text).map_err(|malformed| malformed.at(file.display_path()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_lines_are_read_and_one_alone_is_enough() {
        let text = "some avg10=34.67 avg60=17.26 avg300=11.07 total=805472274\nfull avg10=0.00 avg60=1.50 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text).unwrap();
        assert_eq!(pressure.some.map(|line| (line.avg10_pct, line.avg60_pct)), Some((34.67, 17.26)));
        assert_eq!(pressure.full.map(|line| (line.avg60_pct, line.total_usec)), Some((1.5, 7)));
        let pressure = parse_pressure("some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n").unwrap();
        assert_eq!((pressure.some.unwrap().avg300_pct, pressure.full), (3.0, None));
    }

    #[test]
    fn what_is_no_number_is_malformed_and_names_its_line() {
        for text in ["", "rubbish", "some avg10=NaN avg60=0 avg300=0 total=1", "some avg10=1 avg60=1 avg300=1"] {
            assert!(parse_pressure(text).is_err(), "{text}");
        }
        let text = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\nfull avg10=x";
        assert_eq!(parse_pressure(text).unwrap_err().line, 2);
    }

    #[test]
    fn an_empty_file_is_a_kernel_without_pressure() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cpu"), "\n").unwrap();
        let error = read_pressure(&HostRoot::new(dir.path()), "cpu").unwrap_err();
        assert!(matches!(error, ReadError::Unsupported { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(some|full)?( avg(10|60|300)=[0-9.eN-]{0,9}){0,4}\\PC{0,40}") {
            let _ = parse_pressure(&text);
        }
    }
}
