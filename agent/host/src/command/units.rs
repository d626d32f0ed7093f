//! `systemctl status` and `systemctl show`: units as systemd sees them.
//!
//! Source: systemd `src/systemctl/systemctl-show.c`. The journal lines that `status` prints below are the caller's to read as a
//! log; here only the restart counter is taken from them.

use crate::log::parse_stamp;
use crate::systemd::{MainExit, UnitObservation};

/// Every unit of an output, in its order. `name` is used where the output does not name the unit. The monotonic time of a
/// change is as `show` prints it, `None` with `status`. Empty when the text is neither.
#[must_use]
pub fn parse_units(name: &str, text: &str, at_usec: i64) -> Vec<UnitObservation> {
    if text.lines().any(|line| line.starts_with("ActiveState=") || line.starts_with("LoadState=")) {
        return text.split("\n\n").filter_map(|block| show(name, block, at_usec)).collect();
    }
    status(name, text, at_usec)
}

fn empty(name: &str) -> UnitObservation {
    UnitObservation {
        name: name.to_owned(),
        load_state: "loaded".to_owned(),
        active_state: None,
        sub_state: None,
        unit_file_state: None,
        invocation_id: None,
        state_change_usec: None,
        state_change_monotonic_usec: None,
        result: None,
        n_restarts: None,
        main_pid: None,
        main_exit: None,
    }
}

fn show(name: &str, block: &str, at_usec: i64) -> Option<UnitObservation> {
    let get = |key: &str| {
        block
            .lines()
            .find_map(|line| line.trim_end().strip_prefix(key)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
    };
    let number = |key: &str| get(key).and_then(|value| value.parse::<u64>().ok()).filter(|value| *value > 0);
    let owned = |key: &str| get(key).map(str::to_owned);
    get("ActiveState").or_else(|| get("LoadState"))?;
    let changed = get("StateChangeTimestamp").or_else(|| get("ActiveEnterTimestamp"));
    // `show` prints the kind as a number; newer systemd and `--value` users print the word.
    let code = get("ExecMainCode").and_then(|code| match code {
        "exited" => Some(1),
        "killed" => Some(2),
        "dumped" => Some(3),
        number => number.parse().ok().filter(|code| *code > 0),
    });
    let status = get("ExecMainStatus").and_then(|status| status.parse().ok());
    Some(UnitObservation {
        name: get("Id").unwrap_or(name).to_owned(),
        load_state: get("LoadState").unwrap_or("loaded").to_owned(),
        active_state: owned("ActiveState"),
        sub_state: owned("SubState"),
        unit_file_state: owned("UnitFileState"),
        invocation_id: owned("InvocationID"),
        state_change_usec: changed.and_then(|text| stamp(text, at_usec)),
        state_change_monotonic_usec: number("StateChangeTimestampMonotonic"),
        result: owned("Result"),
        n_restarts: get("NRestarts").and_then(|value| value.parse().ok()),
        main_pid: number("MainPID").and_then(|pid| u32::try_from(pid).ok()),
        main_exit: code.zip(status).map(|(code, status)| MainExit { code, status }),
    })
}

fn stamp(text: &str, at_usec: i64) -> Option<u64> {
    u64::try_from(parse_stamp(text, at_usec)?).ok()
}

fn status(name: &str, text: &str, at_usec: i64) -> Vec<UnitObservation> {
    let mut units: Vec<UnitObservation> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(missing) = trimmed.strip_prefix("Unit ").and_then(|rest| rest.strip_suffix(" could not be found."))
        {
            units.push(UnitObservation { load_state: "not-found".to_owned(), ..empty(missing) });
            continue;
        }
        if let Some(unit) = title(line) {
            units.push(empty(unit));
            continue;
        }
        let Some((key, value)) = trimmed.split_once(": ") else { continue };
        let is_fact = matches!(key, "Loaded" | "Active" | "Main PID" | "Invocation" | "Process");
        if units.is_empty() && is_fact {
            // The first line was cut off.
            units.push(empty(name));
        }
        let Some(unit) = units.last_mut() else { continue };
        match key {
            "Loaded" => loaded(unit, value),
            "Active" => active(unit, value, at_usec),
            "Main PID" => main_pid(unit, value),
            "Invocation" => unit.invocation_id = Some(value.to_owned()),
            _ => {
                if let Some((_, count)) = trimmed.split_once("restart counter is at ") {
                    unit.n_restarts = count.trim_end_matches('.').parse().ok().or(unit.n_restarts);
                }
            }
        }
    }
    units.retain(|unit| unit.active_state.is_some() || unit.load_state == "not-found");
    units
}

/// `● kubelet.service - kubelet` with any of the marks that systemd prints.
fn title(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix(['●', '*', '○', '×', '↻'])?;
    let unit = rest.split_whitespace().next()?;
    unit.contains('.').then_some(unit)
}

/// `loaded (/etc/systemd/system/kubelet.service; enabled; preset: disabled)`.
fn loaded(unit: &mut UnitObservation, value: &str) {
    unit.load_state = value.split_whitespace().next().unwrap_or("loaded").to_owned();
    let inside = value.split_once('(').map_or("", |(_, inside)| inside.trim_end_matches(')'));
    let mut parts = inside.split(';').map(str::trim);
    unit.unit_file_state = parts
        .next()
        .and_then(|_path| parts.next())
        .or_else(|| (unit.load_state == "masked").then_some("masked"))
        .map(str::to_owned);
}

/// `failed (Result: exit-code) since Sat 2026-11-21 05:53:40 UTC; 1min 11s ago`.
fn active(unit: &mut UnitObservation, value: &str, at_usec: i64) {
    let (words, since) = value.split_once(" since ").map_or((value, None), |(words, since)| (words, Some(since)));
    unit.active_state = words.split_whitespace().next().map(str::to_owned);
    for group in words.split('(').skip(1) {
        let group = group.trim().trim_end_matches(')');
        match group.strip_prefix("Result: ") {
            Some(result) => unit.result = Some(result.to_owned()),
            None => unit.sub_state = Some(group.to_owned()),
        }
    }
    unit.state_change_usec = since.and_then(|since| stamp(since.split(';').next().unwrap_or(since), at_usec));
}

/// `14517 (code=exited, status=0/SUCCESS)`, `14517 (kubelet)`.
fn main_pid(unit: &mut UnitObservation, value: &str) {
    let pid = value.split_whitespace().next().and_then(|pid| pid.parse().ok());
    let Some((_, code)) = value.split_once("code=") else {
        unit.main_pid = pid;
        return;
    };
    let code_word = code.split([',', ')']).next().unwrap_or_default();
    let status = code.split_once("status=").and_then(|(_, status)| status.split(['/', ')']).next()?.parse().ok());
    let code = match code_word {
        "exited" => Some(1),
        "killed" => Some(2),
        "dumped" => Some(3),
        _ => None,
    };
    // `signal=KILL` of old systemd has no number; the kind alone says enough.
    unit.main_exit = code.map(|code| MainExit { code, status: status.unwrap_or_default() });
}
