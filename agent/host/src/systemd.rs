//! systemd's units, over the system bus: what they are now, and when to look again.
//!
//! The trait [`Units`] is the border: probes are written against it, [`SystemdUnits`] is the real one. Signals only say *look
//! again*; what is true is always read anew, so that a lost or forged signal costs a look and nothing else. systemd must never
//! be waited for: every call has a deadline, and a bus that goes ends the stream with the reason, for the caller to connect
//! again. Source: `org.freedesktop.systemd1(5)`.

mod connect;
mod observation;
mod signals;
mod units;

use std::future::Future;
use std::time::Duration;

pub use observation::{MainExit, UnitObservation};
pub use units::SystemdUnits;

/// Where the system bus listens, under the host's root.
pub const SYSTEM_BUS_PATH: &str = "run/dbus/system_bus_socket";
/// How long one look may take, connecting included. A healthy systemd answers in under 5 ms.
pub const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// A host's units.
pub trait Units: Send + Sync {
    /// Looks at one unit, `kubelet.service`. A unit that does not exist is an answer: see [`UnitObservation::is_found`].
    ///
    /// # Errors
    /// See [`UnitsError`].
    fn observe(&self, unit: &str) -> impl Future<Output = Result<UnitObservation, UnitsError>> + Send;

    /// Waits until something should be looked at again. Cancel-safe; a change that repeats before it is taken counts once.
    ///
    /// # Errors
    /// [`UnitsError::BusLost`] when no change will come any more: connect again.
    fn next_change(&self) -> impl Future<Output = Result<UnitChange, UnitsError>> + Send;
}

/// What should be looked at again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UnitChange {
    /// This unit: its state changed, it was loaded or unloaded.
    Unit(String),
    /// All units: systemd has read its configuration anew.
    Reloaded,
    /// Nothing for now: systemd has left the bus, as for a moment when it executes itself anew.
    ManagerGone,
    /// All units: systemd is on the bus again.
    ManagerBack,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UnitsError {
    /// No bus to talk to: no D-Bus, no permission, nobody listening.
    #[error("failed to connect to the bus at `{address}`")]
    Connect {
        /// Where it should be.
        address: String,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Whoever we asked did not answer in time.
    #[error("no answer to {attempt} within {deadline:?}")]
    Timeout {
        /// What was asked.
        attempt: String,
        /// How long we waited.
        deadline: Duration,
    },
    /// The bus is there and systemd is not on it.
    #[error("systemd is not on the bus")]
    NoManager,
    /// The answer was an error.
    #[error("{attempt} was refused: {name}: {text}")]
    Refused {
        /// What was asked.
        attempt: String,
        /// Name of the D-Bus error.
        name: String,
        /// Its text, for people.
        text: String,
    },
    /// The answer is not of the form that systemd documents.
    #[error("the answer to {attempt} is not one of systemd's: {detail}")]
    Malformed {
        /// What was asked.
        attempt: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The connection has ended.
    #[error("the connection to the bus was lost")]
    BusLost {
        /// What ended it; `None` when the bus closed it.
        #[source]
        source: Option<zbus::Error>,
    },
}

#[cfg(test)]
mod tests;
