//! What is read of a unit, and how it is read out of D-Bus's dictionaries.
//!
//! systemd says "nothing" with empty strings, zeros and empty arrays; here that is `None`. A property of an unexpected type is
//! `None` too: it spoils only itself.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

/// How a service's main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainExit {
    /// Kind, as `si_code` of `sigaction(2)`: 1 exited, 2 killed, 3 killed with a core dump.
    pub code: i32,
    /// Exit code for kind 1, number of the signal for the others.
    pub status: i32,
}

/// One unit, as systemd sees it. Words are systemd's own, kept as text: later versions have more of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitObservation {
    /// The name that was asked for.
    pub name: String,
    /// `loaded`, `not-found`, `masked`, `error`, `bad-setting`.
    pub load_state: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`.
    pub active_state: Option<String>,
    /// The finer state: `running`, `dead`, `auto-restart`, `start-pre`.
    pub sub_state: Option<String>,
    /// `enabled`, `disabled`, `static`, `masked`. `None` for a unit without a file.
    pub unit_file_state: Option<String>,
    /// 32 hex digits that name this run of the unit. `None` when it has not run.
    pub invocation_id: Option<String>,
    /// When its state last changed, wall clock, microseconds since 1970. `None` when it never did.
    pub state_change_usec: Option<u64>,
    /// The same by the kernel's monotonic clock, microseconds since boot.
    pub state_change_monotonic_usec: Option<u64>,
    /// `success`, `exit-code`, `signal`, `core-dump`, `watchdog`, `oom-kill`, `timeout`. `None` for what is no service.
    pub result: Option<String>,
    /// Restarts by systemd itself since it was last started by hand. `None` for what is no service.
    pub n_restarts: Option<u32>,
    /// Main process, in systemd's pid namespace. `None` when none runs.
    pub main_pid: Option<u32>,
    /// How the main process last ended. `None` when it has not, or runs again.
    pub main_exit: Option<MainExit>,
}

impl UnitObservation {
    /// A unit that systemd does not have in memory: `inactive` if it has a file, `not-found` if not. Systemd keeps failed units.
    pub(super) fn not_in_memory(name: &str, unit_file_state: Option<String>) -> Self {
        let load_state = match unit_file_state.as_deref() {
            None => "not-found",
            Some("masked" | "masked-runtime") => "masked",
            Some("bad") => "bad-setting",
            Some(_) => "loaded",
        };
        let is_found = unit_file_state.is_some();
        Self {
            name: name.to_owned(),
            load_state: load_state.to_owned(),
            active_state: is_found.then(|| "inactive".to_owned()),
            sub_state: is_found.then(|| "dead".to_owned()),
            unit_file_state,
            invocation_id: None,
            state_change_usec: None,
            state_change_monotonic_usec: None,
            result: None,
            n_restarts: None,
            main_pid: None,
            main_exit: None,
        }
    }

    /// Whether such a unit exists on the host at all.
    pub fn is_found(&self) -> bool {
        self.load_state != "not-found"
    }
}

/// The properties of a service that are asked for one by one: all at once would have systemd read the service's cgroup.
pub(super) const SERVICE_PROPERTIES: [&str; 5] = ["Result", "NRestarts", "MainPID", "ExecMainCode", "ExecMainStatus"];

/// Properties by name.
pub(super) type Properties = HashMap<String, OwnedVariant>;

/// Reads an observation out of a unit's properties. `None` when there is no load state, which every unit has.
pub(super) fn observation(name: &str, properties: &Properties) -> Option<UnitObservation> {
    let main_exit = match (number_i32(properties, "ExecMainCode"), number_i32(properties, "ExecMainStatus")) {
        (Some(code @ 1..), Some(status)) => Some(MainExit { code, status }),
        _ => None,
    };
    Some(UnitObservation {
        name: name.to_owned(),
        load_state: text(properties, "LoadState")?,
        active_state: text(properties, "ActiveState"),
        sub_state: text(properties, "SubState"),
        unit_file_state: text(properties, "UnitFileState"),
        invocation_id: invocation_id(properties),
        state_change_usec: number_u64(properties, "StateChangeTimestamp"),
        state_change_monotonic_usec: number_u64(properties, "StateChangeTimestampMonotonic"),
        result: text(properties, "Result"),
        n_restarts: number_u32(properties, "NRestarts"),
        main_pid: number_u32(properties, "MainPID").filter(|pid| *pid > 0),
        main_exit,
    })
}

fn get<'p>(properties: &'p Properties, name: &str) -> Option<&'p Variant<'static>> {
    properties.get(name).map(|value| &**value)
}

/// `None` for an empty text.
fn text(properties: &Properties, name: &str) -> Option<String> {
    match get(properties, name)? {
        Variant::Str(text) if !text.is_empty() => Some(text.as_str().to_owned()),
        _ => None,
    }
}

fn number_u32(properties: &Properties, name: &str) -> Option<u32> {
    match get(properties, name)? {
        Variant::U32(number) => Some(*number),
        _ => None,
    }
}

fn number_i32(properties: &Properties, name: &str) -> Option<i32> {
    match get(properties, name)? {
        Variant::I32(number) => Some(*number),
        _ => None,
    }
}

/// A time; `None` for 0, which is "never".
fn number_u64(properties: &Properties, name: &str) -> Option<u64> {
    match get(properties, name)? {
        Variant::U64(number) if *number > 0 => Some(*number),
        _ => None,
    }
}

/// 16 bytes as hex; `None` for the empty array of a unit that has not run.
fn invocation_id(properties: &Properties) -> Option<String> {
    let Variant::Array(bytes) = get(properties, "InvocationID")? else { return None };
    let digits = bytes.iter().map(|byte| match byte {
        Variant::U8(byte) => Some(format!("{byte:02x}")),
        _ => None,
    });
    digits.collect::<Option<String>>().filter(|id| id.len() == 32)
}
