//! What every long-running process of Kulprit needs, and nothing that knows what Kulprit is about.
//!
//! Read in this order: [`run`] (a `main` in five lines) and [`exit`] (what it answers), [`config`] (one YAML file),
//! [`shutdown`] (signals, drain), [`readiness`], [`supervise`] (who owns a task and notices its end), [`backoff`],
//! [`clock`] (the only reader of clocks), [`telemetry`] (logs), [`metrics`], [`http`] (the admin port).
//!
//! Everything is small on purpose: the agent has 8 MB for all of it.

pub mod backoff;
pub mod clock;
pub mod config;
pub mod exit;
pub mod http;
pub mod metrics;
pub mod readiness;
pub mod run;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;

pub use clock::Clock;
pub use exit::UsageError;
pub use readiness::Readiness;
pub use supervise::Supervisor;
pub use telemetry::Chain;
pub use tokio_util::sync::CancellationToken;

/// Any error, as tasks and `app::run` return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
