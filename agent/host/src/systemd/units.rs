//! The real units: a connection to the system bus, and the task that listens on it.

use std::sync::Arc;

use tokio::task::JoinHandle;
use zbus::{Connection, Message, MessageStream, OwnedVariant};

use super::connect::{connect_address, connect_socket};
use super::observation::{Properties, SERVICE_PROPERTIES, UnitObservation, observation};
use super::signals::{BUS, MANAGER, PROPERTIES, Pending, SYSTEMD, WatchedUnit, match_rules, run, unit_path};
use super::{CALL_DEADLINE, SYSTEM_BUS_PATH, UnitChange, Units, UnitsError};
use crate::HostRoot;

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";

/// A host's systemd. Dropping it closes the connection.
#[derive(Debug)]
pub struct SystemdUnits {
    connection: Connection,
    pending: Arc<Pending>,
    listener: JoinHandle<()>,
}

impl Drop for SystemdUnits {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl SystemdUnits {
    /// Connects to the system bus of a host and asks to be told of changes of `units`. Look at the units *after* this.
    ///
    /// # Errors
    /// [`UnitsError::Connect`] without a bus, `NoManager` when systemd is not on it, `Timeout` when one of them hangs.
    pub async fn connect(root: &HostRoot, units: &[String]) -> Result<Self, UnitsError> {
        Self::connect_at(root, SYSTEM_BUS_PATH, units).await
    }

    /// As [`Self::connect`], with the socket elsewhere under the root.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_at(root: &HostRoot, socket: &str, units: &[String]) -> Result<Self, UnitsError> {
        Self::listen(connect_socket(root, socket).await?, units).await
    }

    /// As [`Self::connect`], to a bus at a D-Bus address.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_to_address(address: &str, units: &[String]) -> Result<Self, UnitsError> {
        Self::listen(connect_address(address).await?, units).await
    }

    async fn listen(connection: Connection, units: &[String]) -> Result<Self, UnitsError> {
        let units: Vec<WatchedUnit> =
            units.iter().map(|name| WatchedUnit { name: name.clone(), path: unit_path(name) }).collect();
        let pending = Arc::new(Pending::default());
        let rules = match_rules(&units);
        // Listening begins before the first question, so that nothing that comes in between is missed or stands in the way.
        let listener = tokio::spawn(run(MessageStream::from(&connection), units, Arc::clone(&pending)));
        let systemd = Self { connection, pending, listener };
        for rule in rules {
            let attempt = format!("a subscription to `{rule}`");
            systemd.call(&attempt, BUS, "/org/freedesktop/DBus", BUS, "AddMatch", &(rule,)).await?;
        }
        systemd.subscribe().await?;
        Ok(systemd)
    }

    /// Without it, systemd sends no signals for its units. It forgets when it leaves the bus.
    async fn subscribe(&self) -> Result<(), UnitsError> {
        match self.call("Subscribe", SYSTEMD, MANAGER_PATH, MANAGER, "Subscribe", &()).await {
            Err(UnitsError::Refused { name, .. }) if name == "org.freedesktop.systemd1.AlreadySubscribed" => Ok(()),
            result => result.map(drop),
        }
    }

    async fn call<B>(
        &self,
        attempt: &str,
        destination: &str,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<Message, UnitsError>
    where
        B: serde::ser::Serialize + zbus::DynamicType,
    {
        let result = self.connection.call_method(Some(destination), path, Some(interface), method, body).await;
        result.map_err(|error| sort_error(attempt, error))
    }

    /// The object of a unit that systemd has in memory; `None` if it has not.
    ///
    /// Never `LoadUnit`: systemd tells of a unit loaded for a question (`UnitNew`), forgets one that nothing needs at once
    /// (`UnitRemoved`), and whoever looks again at each of these signals asks for ever (measured: 40 % of a core, systemd's and the
    /// bus's each).
    async fn loaded_path(&self, unit: &str) -> Result<Option<zbus::OwnedObjectPath>, UnitsError> {
        let attempt = format!("GetUnit({unit})");
        match self.call(&attempt, SYSTEMD, MANAGER_PATH, MANAGER, "GetUnit", &(unit,)).await {
            Ok(reply) => body_of(&attempt, &reply).map(Some),
            Err(UnitsError::Refused { name, .. }) if name == "org.freedesktop.systemd1.NoSuchUnit" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A unit that systemd does not have in memory does not run and has not failed; it may have a file.
    async fn read_unloaded(&self, unit: &str) -> Result<UnitObservation, UnitsError> {
        let attempt = format!("GetUnitFileState({unit})");
        match self.call(&attempt, SYSTEMD, MANAGER_PATH, MANAGER, "GetUnitFileState", &(unit,)).await {
            Ok(reply) => Ok(UnitObservation::not_in_memory(unit, Some(body_of(&attempt, &reply)?))),
            Err(UnitsError::Refused { name, .. }) if name == "org.freedesktop.DBus.Error.FileNotFound" => {
                Ok(UnitObservation::not_in_memory(unit, None))
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self, unit: &str) -> Result<UnitObservation, UnitsError> {
        let Some(path) = self.loaded_path(unit).await? else { return self.read_unloaded(unit).await };
        let attempt = format!("GetAll({unit})");
        let reply = self.call(&attempt, SYSTEMD, path.as_str(), PROPERTIES, "GetAll", &(UNIT,)).await?;
        let mut properties: Properties = body_of(&attempt, &reply)?;
        if unit.ends_with(".service") {
            for property in SERVICE_PROPERTIES {
                let attempt = format!("Get({unit}, {property})");
                let reply =
                    match self.call(&attempt, SYSTEMD, path.as_str(), PROPERTIES, "Get", &(SERVICE, property)).await {
                        // An older systemd without this property: it stays `None`.
                        Err(UnitsError::Refused { .. }) => continue,
                        result => result?,
                    };
                properties.insert(property.to_owned(), body_of::<OwnedVariant>(&attempt, &reply)?);
            }
        }
        let without_load_state = || UnitsError::Malformed { attempt, detail: "no LoadState".to_owned() };
        observation(unit, &properties).ok_or_else(without_load_state)
    }
}

impl Units for SystemdUnits {
    async fn observe(&self, unit: &str) -> Result<UnitObservation, UnitsError> {
        let timeout = || UnitsError::Timeout { attempt: format!("looking at {unit}"), deadline: CALL_DEADLINE };
        tokio::time::timeout(CALL_DEADLINE, self.read(unit)).await.unwrap_or_else(|_elapsed| Err(timeout()))
    }

    async fn next_change(&self) -> Result<UnitChange, UnitsError> {
        let change = self.pending.first().await?;
        if change == UnitChange::ManagerBack {
            // Left in the list until it has worked, so that a caller who stops waiting here does not lose it.
            self.subscribe().await?;
        }
        self.pending.take(&change);
        Ok(change)
    }
}

fn body_of<B>(attempt: &str, reply: &Message) -> Result<B, UnitsError>
where
    B: for<'d> zbus::wire::DynamicDeserialize<'d>,
{
    let malformed =
        |error: zbus::Error| UnitsError::Malformed { attempt: attempt.to_owned(), detail: error.to_string() };
    reply.body().deserialize().map_err(malformed)
}

/// Sorts a failed call by what its caller will want to do about it.
fn sort_error(attempt: &str, error: zbus::Error) -> UnitsError {
    let (name, text) = match error {
        zbus::Error::InputOutput(source) if source.kind() == std::io::ErrorKind::TimedOut => {
            return UnitsError::Timeout { attempt: attempt.to_owned(), deadline: CALL_DEADLINE };
        }
        zbus::Error::InputOutput(_) => return UnitsError::BusLost { source: Some(error) },
        zbus::Error::MethodError(name, text, _) => (name.as_str().to_owned(), text.unwrap_or_default()),
        zbus::Error::FDO(error) => {
            use zbus::DBusError as _;
            (error.name().as_str().to_owned(), error.description().unwrap_or_default().to_owned())
        }
        other => return UnitsError::Malformed { attempt: attempt.to_owned(), detail: other.to_string() },
    };
    match name.as_str() {
        "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
            UnitsError::NoManager
        }
        "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.Timeout" => {
            UnitsError::Timeout { attempt: attempt.to_owned(), deadline: CALL_DEADLINE }
        }
        // The bus tried to start systemd, as its service file says, where something else is process 1.
        name if name.starts_with("org.freedesktop.DBus.Error.Spawn.") => UnitsError::NoManager,
        _ => UnitsError::Refused { attempt: attempt.to_owned(), name, text },
    }
}
