//! Central as a whole, over real gRPC: with a scripted agent in the same process, and as the real binary.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on panics; clippy only knows the test functions themselves"
)]

#[path = "central/access.rs"]
mod access;
#[path = "central/agent.rs"]
mod agent;
#[path = "central/api.rs"]
mod api;
#[path = "central/app.rs"]
mod app;
#[path = "central/bad_input.rs"]
mod bad_input;
#[path = "central/binary.rs"]
mod binary;
#[path = "central/can_migrate.rs"]
mod can_migrate;
#[path = "central/captures.rs"]
mod captures;
#[path = "central/crash.rs"]
mod crash;
#[path = "central/delivery.rs"]
mod delivery;
#[path = "central/hang.rs"]
mod hang;
#[path = "central/leadership.rs"]
mod leadership;
#[path = "central/limits.rs"]
mod limits;
#[path = "central/metrics.rs"]
mod metrics;
#[path = "central/migrations.rs"]
mod migrations;
#[path = "central/past_migrations.rs"]
mod past_migrations;
#[path = "central/query.rs"]
mod query;
#[path = "central/record.rs"]
mod record;
#[path = "central/sharing.rs"]
mod sharing;
#[path = "central/support.rs"]
mod support;
#[path = "central/tls.rs"]
mod tls;
#[path = "central/watch.rs"]
mod watch;
