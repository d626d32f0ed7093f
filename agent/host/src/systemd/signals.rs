//! What systemd and the bus say without being asked, turned into a short list of what to look at again.
//!
//! A task reads all that comes on the connection, always, because a connection whose messages nobody takes stands still with
//! its replies behind them. What it finds goes into a list in which every entry stands once, so that a unit in a restart loop
//! fills nothing: at most one entry a unit, and three more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_stream::StreamExt as _;
use zbus::message::Type;
use zbus::{Message, MessageStream};

use super::{UnitChange, UnitsError};

pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub(super) const BUS: &str = "org.freedesktop.DBus";
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A unit that is watched, and where systemd keeps it.
#[derive(Clone, Debug)]
pub(super) struct WatchedUnit {
    pub(super) name: String,
    pub(super) path: String,
}

/// The object path of a unit: everything but letters and digits (and digits at the beginning) is `_` and two hex digits.
/// Source: `sd_bus_path_encode(3)`.
pub(super) fn unit_path(name: &str) -> String {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => path.push(char::from(byte)),
            b'0'..=b'9' if index > 0 => path.push(char::from(byte)),
            other => path.push_str(&format!("_{other:02x}")),
        }
    }
    path
}

/// What the bus is asked to send us: as little as says all. Names of units are put in quotes, which they cannot contain.
pub(super) fn match_rules(units: &[WatchedUnit]) -> Vec<String> {
    let mut rules = vec![
        format!("type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'"),
        format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='Reloading'"),
    ];
    for unit in units {
        let path = &unit.path;
        rules.push(format!(
            "type='signal',sender='{SYSTEMD}',interface='{PROPERTIES}',member='PropertiesChanged',path='{path}'"
        ));
        for member in ["UnitNew", "UnitRemoved"] {
            rules.push(format!(
                "type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='{member}',arg0='{}'",
                unit.name
            ));
        }
    }
    rules
}

/// Changes not yet taken, and how the connection ended.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: VecDeque<UnitChange>,
    /// `Some` once the connection has ended; the inner one is what ended it, until somebody has been told.
    end: Option<Option<zbus::Error>>,
}

impl Pending {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // Nothing in here panics with the lock held; if it ever did, the list would still be one.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, change: UnitChange) {
        self.with(|state| {
            if !state.changes.contains(&change) {
                state.changes.push_back(change);
            }
        });
        self.arrived.notify_one();
    }

    fn close(&self, source: Option<zbus::Error>) {
        self.with(|state| state.end = Some(source));
        self.arrived.notify_one();
    }

    /// Waits for the first change and leaves it in the list: see [`Self::take`].
    pub(super) async fn first(&self) -> Result<UnitChange, UnitsError> {
        loop {
            let found = self.with(|state| match state.changes.front() {
                Some(change) => Some(Ok(change.clone())),
                None => state.end.as_mut().map(|source| Err(UnitsError::BusLost { source: source.take() })),
            });
            match found {
                Some(result) => return result,
                None => self.arrived.notified().await,
            }
        }
    }

    /// Takes a change that was seen out of the list.
    pub(super) fn take(&self, change: &UnitChange) {
        self.with(|state| {
            if state.changes.front() == Some(change) {
                state.changes.pop_front();
            }
        });
    }
}

/// Reads everything that comes until the connection ends.
pub(super) async fn run(mut stream: MessageStream, units: Vec<WatchedUnit>, pending: Arc<Pending>) {
    let end = loop {
        match stream.next().await {
            Some(Ok(message)) => {
                if let Some(change) = change_of(&message, &units) {
                    pending.push(change);
                }
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    pending.close(end);
}

/// What a message says should be looked at again. Replies and what nobody asked for say nothing.
fn change_of(message: &Message, units: &[WatchedUnit]) -> Option<UnitChange> {
    if message.message_type() != Type::Signal {
        return None;
    }
    let header = message.header();
    let body = message.body();
    match (header.interface()?.as_str(), header.member()?.as_str()) {
        (PROPERTIES, "PropertiesChanged") => {
            let path = header.path()?;
            units.iter().find(|unit| unit.path == path.as_str()).map(|unit| UnitChange::Unit(unit.name.clone()))
        }
        (MANAGER, "UnitNew" | "UnitRemoved") => {
            let (name, _path): (String, zbus::OwnedObjectPath) = body.deserialize().ok()?;
            units.iter().any(|unit| unit.name == name).then_some(UnitChange::Unit(name))
        }
        // Sent with `true` before, when nothing is to be seen yet, and with `false` after.
        (MANAGER, "Reloading") => (!body.deserialize::<bool>().ok()?).then_some(UnitChange::Reloaded),
        (BUS, "NameOwnerChanged") => {
            let (name, _old, new): (String, String, String) = body.deserialize().ok()?;
            let change = if new.is_empty() { UnitChange::ManagerGone } else { UnitChange::ManagerBack };
            (name == SYSTEMD).then_some(change)
        }
        _ => None,
    }
}
