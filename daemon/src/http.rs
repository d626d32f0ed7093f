//! The admin port: what a person or Prometheus asks a running process.
//!
//! | path | answer |
//! |---|---|
//! | `/live` | 200 while the runtime turns |
//! | `/ready` | 200 `ready`, or 503 and what is missing, one thing a line; 503 while draining; remarks follow |
//! | `/metrics` | OpenMetrics text |
//! | `/debug/config`, `/debug/config.json` | the effective configuration, defaults included, as YAML or JSON |
//! | `/version` | program and version |
//!
//! It listens on loopback unless told otherwise and changes nothing. The configuration is rendered at the start and on each change: a
//! [`crate::config::Secret`] in it shows only that it is set.

use std::{
    future::IntoFuture,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError, Readiness,
    metrics::{CONTENT_TYPE, Metrics},
};

/// How long a request that is under way at the end may still take.
const LAST_REQUEST: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";

/// Nobody can reach us there.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {addr} ({what})")]
pub struct ListenError {
    /// What should have listened, for example `admin HTTP`.
    pub what: &'static str,
    /// Where.
    pub addr: SocketAddr,
    /// The flag that chooses another address, for example `--admin-listen`.
    pub flag: &'static str,
    /// What the kernel answered.
    #[source]
    pub source: io::Error,
}

impl ListenError {
    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        let flag = self.flag;
        match self.source.kind() {
            io::ErrorKind::AddrInUse => format!("find who has it with `ss -ltnp`, or choose another with {flag}"),
            io::ErrorKind::AddrNotAvailable => {
                format!("no interface of this host has that address; choose another with {flag}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("ports below 1024 need CAP_NET_BIND_SERVICE; choose another with {flag}")
            }
            _ => format!("choose another with {flag}"),
        }
    }
}

/// Listens on `addr` for `what`; `flag` is named in the error.
///
/// # Errors
/// If the address is taken, not of this host, or not allowed.
pub async fn listen(what: &'static str, addr: SocketAddr, flag: &'static str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|source| ListenError { what, addr, flag, source })
}

/// What the admin port shows.
#[derive(Debug)]
pub struct Admin {
    program: &'static str,
    version: &'static str,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    config: ConfigPage,
}

/// The effective configuration as `/debug/config` shows it; clones share it.
#[derive(Clone, Debug)]
pub struct ConfigPage(Arc<RwLock<Rendered>>);

#[derive(Debug)]
struct Rendered {
    yaml: String,
    json: String,
}

/// What the pages of a running process show; clones share it.
#[derive(Clone, Debug)]
pub struct Pages {
    readiness: Readiness,
    metrics: Arc<Metrics>,
    config: ConfigPage,
}

impl Pages {
    /// What the process waits for, one thing each; none when it is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.readiness.missing().iter().map(ToString::to_string).collect()
    }

    /// `/metrics`.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.metrics.encode()
    }

    /// `/debug/config.json`.
    #[must_use]
    pub fn config_json(&self) -> String {
        self.config.json()
    }
}

impl Rendered {
    fn of<C: Serialize>(config: &C) -> Result<Self, BoxError> {
        Ok(Self { yaml: serde_saphyr::to_string(config)?, json: serde_json::to_string_pretty(config)? + "\n" })
    }
}

impl ConfigPage {
    /// Shows another configuration from now on: what was read again and taken.
    ///
    /// # Errors
    /// As [`Admin::new`]; then the page stays as it is.
    pub fn show<C: Serialize>(&self, config: &C) -> Result<(), BoxError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Rendered::of(config)?;
        Ok(())
    }

    fn yaml(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).yaml.clone()
    }

    fn json(&self) -> String {
        self.0.read().unwrap_or_else(PoisonError::into_inner).json.clone()
    }
}

impl Admin {
    /// Renders `config`, the effective configuration.
    ///
    /// # Errors
    /// If `config` cannot be written as YAML or JSON: a map with keys that are no texts.
    pub fn new<C: Serialize>(
        program: &'static str,
        version: &'static str,
        readiness: Readiness,
        mut metrics: Metrics,
        config: &C,
    ) -> Result<Self, BoxError> {
        metrics.show_ready(program, readiness.clone());
        let config = ConfigPage(Arc::new(RwLock::new(Rendered::of(config)?)));
        Ok(Self { program, version, readiness, metrics: Arc::new(metrics), config })
    }

    /// What the pages show, for whoever is asked for it otherwise.
    #[must_use]
    pub fn pages(&self) -> Pages {
        Pages { readiness: self.readiness.clone(), metrics: Arc::clone(&self.metrics), config: self.config.clone() }
    }

    /// The page of the configuration, for a program that reads its own again while it runs.
    #[must_use]
    pub fn config_page(&self) -> ConfigPage {
        self.config.clone()
    }

    /// Serves until `stop` is cancelled; then requests under way get one second more.
    ///
    /// # Errors
    /// If the listener fails for good.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), BoxError> {
        let state = Shared { admin: Arc::new(self), stop: stop.clone() };
        let server = axum::serve(listener, router(state)).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::select! {
            served = server.into_future() => Ok(served?),
            () = async { stop.cancelled().await; sleep(LAST_REQUEST).await } => Ok(()),
        }
    }
}

#[derive(Clone)]
struct Shared {
    admin: Arc<Admin>,
    stop: CancellationToken,
}

fn router(state: Shared) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/live", get(async || text("live\n".to_owned())))
        .route("/ready", get(ready))
        .route("/metrics", get(async |State(s): State<Shared>| typed(CONTENT_TYPE, s.admin.metrics.encode())))
        .route("/debug/config", get(async |State(s): State<Shared>| text(s.admin.config.yaml())))
        .route(
            "/debug/config.json",
            get(async |State(s): State<Shared>| typed("application/json", s.admin.config.json())),
        )
        .route(
            "/version",
            get(async |State(s): State<Shared>| text(format!("{} {}\n", s.admin.program, s.admin.version))),
        )
        .with_state(state)
}

async fn index(State(shared): State<Shared>) -> Response {
    let Admin { program, version, .. } = *shared.admin;
    text(format!("{program} {version}\n/live\n/ready\n/metrics\n/debug/config\n/debug/config.json\n/version\n"))
}

async fn ready(State(shared): State<Shared>) -> Response {
    if shared.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, text("shutting down\n".to_owned())).into_response();
    }
    let missing = shared.admin.readiness.missing();
    let remarks: String =
        shared.admin.readiness.remarks().iter().map(|remark| format!("degraded: {remark}\n")).collect();
    if missing.is_empty() {
        return text(format!("ready\n{remarks}"));
    }
    let lines = missing.iter().map(|missing| format!("waiting for: {missing}\n")).collect::<String>() + &remarks;
    (StatusCode::SERVICE_UNAVAILABLE, text(lines)).into_response()
}

fn text(body: String) -> Response {
    typed(TEXT, body)
}

fn typed(content_type: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

#[cfg(test)]
mod tests;
